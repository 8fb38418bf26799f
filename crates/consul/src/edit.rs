//! Changing single leaves: groups of edits, each in one transaction.
//!
//! An edit that expects something goes as check-and-set against the index its key was read with, so that what somebody
//! else writes meanwhile is neither overwritten nor missed. Several groups share a transaction as far as Consul's limits
//! allow; one of them that cannot take place rolls back the others in its transaction.

use std::collections::BTreeMap;

use edgehold_config::{Edit, EditError, Expected};

use crate::{
    client::{Client, Session},
    section::{Sections, read_trees},
    transaction::{KeyValue, Operation, Outcome},
};

/// Consul takes 64 operations.
const MOST_OPERATIONS: usize = 64;

/// Consul takes bodies of 512 KiB.
const MOST_BYTES: usize = 500_000;

/// How often a transaction is put together afresh because a key was written meanwhile without being changed.
const TRIES: usize = 5;

/// Makes the edits and answers how many leaves were written or removed.
pub(crate) async fn edit(
    client: &Client,
    sections: &Sections,
    groups: &[Vec<Edit>],
) -> Result<usize, EditError> {
    let mut written = 0;
    for batch in &pack(sections, groups)? {
        let write = |session| async move { write(&session, sections, batch).await };
        written += client.with_token(write).await?;
    }
    Ok(written)
}

/// Cuts into pieces that fit into one transaction each, every group whole and as few pieces as their order allows.
fn pack<'a>(sections: &Sections, groups: &'a [Vec<Edit>]) -> Result<Vec<Vec<&'a Edit>>, EditError> {
    let mut batches: Vec<Vec<&Edit>> = Vec::new();
    let mut bytes = 0;
    for group in groups.iter().filter(|group| !group.is_empty()) {
        let size: usize = group.iter().map(|edit| largest(sections, edit)).sum();
        if group.len() > MOST_OPERATIONS || size > MOST_BYTES {
            return Err(EditError::TooLarge {
                what: format!("{} settings of {size} bytes", group.len()),
                most: format!("{MOST_OPERATIONS} of {MOST_BYTES} bytes in one transaction"),
            });
        }
        match batches.last_mut() {
            Some(last) if last.len() + group.len() <= MOST_OPERATIONS && bytes + size <= MOST_BYTES => {
                last.extend(group);
                bytes += size;
            }
            _ => {
                batches.push(group.iter().collect());
                bytes = size;
            }
        }
    }
    Ok(batches)
}

/// How many bytes an edit takes at most in a request, with its comma.
fn largest(sections: &Sections, edit: &Edit) -> usize {
    let key = key(sections, edit);
    let operation = match &edit.text {
        Some(text) => Operation::replace(&key, text, u64::MAX),
        None => Operation::delete_unchanged(&key, u64::MAX),
    };
    operation.len() + 1
}

fn key(sections: &Sections, edit: &Edit) -> String {
    format!("{}{}", sections.prefix(edit.section), edit.path)
}

async fn write(session: &Session<'_>, sections: &Sections, batch: &[&Edit]) -> Result<usize, EditError> {
    let mut before = read(session, sections, batch).await?;
    for _ in 0..TRIES {
        let operations = operations(sections, batch, &before)?;
        if operations.is_empty() {
            return Ok(0);
        }
        let reason = match session.transaction(&operations).await? {
            Outcome::Done(_) => return Ok(operations.len()),
            Outcome::Refused(reason) => reason,
        };
        let now = read(session, sections, batch).await?;
        // Nobody has written one of them, so it was not for that.
        if now == before {
            return Err(session.denied(format!("writing configuration: {reason}")).into());
        }
        before = now;
    }
    Err(session
        .unexpected("others write the same settings all the time")
        .into())
}

/// What there is of the sections that a batch touches, by key.
async fn read(
    session: &Session<'_>,
    sections: &Sections,
    batch: &[&Edit],
) -> Result<BTreeMap<String, KeyValue>, EditError> {
    let mut prefixes: Vec<String> = batch
        .iter()
        .map(|edit| sections.prefix(edit.section).to_owned())
        .collect();
    prefixes.sort();
    prefixes.dedup();
    let keys: Vec<String> = batch.iter().map(|edit| key(sections, edit)).collect();
    let entries = read_trees(session, &prefixes).await?;
    let touched = entries.into_iter().filter(|entry| keys.contains(&entry.key));
    Ok(touched.map(|entry| (entry.key.clone(), entry)).collect())
}

/// One operation for each edit that changes something.
fn operations(
    sections: &Sections,
    batch: &[&Edit],
    entries: &BTreeMap<String, KeyValue>,
) -> Result<Vec<Operation>, EditError> {
    let mut operations = Vec::new();
    for edit in batch {
        let key = key(sections, edit);
        let entry = entries.get(&key);
        let text = entry.map(|entry| String::from_utf8_lossy(&entry.value));
        if !edit.expected.fits(text.as_deref()) {
            return Err(EditError::Conflict {
                path: edit.path.clone(),
            });
        }
        let is_free = edit.expected == Expected::Anything;
        operations.push(match (&edit.text, entry) {
            (None, None) => continue,
            (Some(text), _) if is_free => Operation::set(&key, text),
            (Some(text), None) => Operation::create(&key, text),
            (Some(text), Some(entry)) => Operation::replace(&key, text, entry.modify_index),
            (None, Some(_)) if is_free => Operation::delete(&key),
            (None, Some(entry)) => Operation::delete_unchanged(&key, entry.modify_index),
        });
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use edgehold_core::ServiceKey;

    use super::*;

    fn sizes(groups: &[usize]) -> Result<Vec<usize>, EditError> {
        let sections = Sections::of(&ServiceKey::try_new("app-x").unwrap());
        let groups: Vec<Vec<Edit>> = groups
            .iter()
            .map(|size| (0..*size).map(|n| Edit::set(format!("k{n}"), "")).collect())
            .collect();
        let batches = pack(&sections, &groups)?;
        Ok(batches.iter().map(Vec::len).collect())
    }

    #[test]
    fn groups_stay_whole_within_consuls_limits() {
        assert_eq!(sizes(&[]).unwrap(), Vec::<usize>::new());
        assert_eq!(sizes(&[0, 64]).unwrap(), [64]);
        assert_eq!(sizes(&[40, 24, 1]).unwrap(), [64, 1]);
        assert_eq!(sizes(&[40, 25, 39]).unwrap(), [40, 64]);
        let error = sizes(&[1, 65]).unwrap_err();
        assert!(error.to_string().starts_with("65 settings of"), "{error}");
    }
}
