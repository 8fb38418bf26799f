//! Writing leaves into the private section: those that are missing, or all.
//!
//! Batches go as transactions in which each key is created only if it does not exist, so that a value somebody else
//! writes meanwhile is kept. One key that exists rolls its whole batch back; what is still missing then goes again.

use std::collections::HashSet;

use edgehold_config::{Layer, ProviderError};

use crate::{
    client::Session,
    section::read_trees,
    transaction::{Operation, Outcome},
};

/// Consul takes 64 operations.
const BATCH_OPERATIONS: usize = 60;

/// Consul takes bodies of 512 KiB.
const BATCH_BYTES: usize = 500_000;

/// Writes the leaves below `prefix`, which ends in `/`, and answers how many were written.
pub(crate) async fn seed(
    session: &Session<'_>,
    prefix: &str,
    leaves: &Layer,
    overwrite: bool,
) -> Result<usize, ProviderError> {
    let mut pending: Vec<Write<'_>> = leaves
        .iter()
        .map(|(path, value)| Write::new(format!("{prefix}{path}"), value, overwrite))
        .collect();
    if !overwrite {
        retain_missing(session, prefix, &mut pending).await?;
    }

    let (small, large): (Vec<_>, Vec<_>) = pending
        .into_iter()
        .partition(|write| write.operation.len() <= BATCH_BYTES);
    let mut written = 0;
    for batch in batches(small) {
        written += write_batch(session, prefix, batch, overwrite).await?;
    }
    for write in large {
        written += usize::from(session.put(&write.key, write.value, overwrite).await?);
    }
    Ok(written)
}

/// One leaf to write.
struct Write<'a> {
    key: String,
    value: &'a str,
    operation: Operation,
}

impl<'a> Write<'a> {
    fn new(key: String, value: &'a str, overwrite: bool) -> Self {
        let operation = if overwrite {
            Operation::set(&key, value)
        } else {
            Operation::create(&key, value)
        };
        Self {
            key,
            value,
            operation,
        }
    }
}

async fn write_batch(
    session: &Session<'_>,
    prefix: &str,
    mut batch: Vec<Write<'_>>,
    overwrite: bool,
) -> Result<usize, ProviderError> {
    while !batch.is_empty() {
        let reason = match session
            .transaction(batch.iter().map(|write| &write.operation))
            .await?
        {
            Outcome::Done(_) => return Ok(batch.len()),
            Outcome::Refused(reason) => reason,
        };
        let before = batch.len();
        if !overwrite {
            retain_missing(session, prefix, &mut batch).await?;
        }
        // Nobody has written one of them, so it was not for that; and so the loop ends.
        if batch.len() == before {
            return Err(session.denied(format!("writing below {prefix}: {reason}")));
        }
    }
    Ok(0)
}

async fn retain_missing(
    session: &Session<'_>,
    prefix: &str,
    writes: &mut Vec<Write<'_>>,
) -> Result<(), ProviderError> {
    let entries = read_trees(session, &[prefix.to_owned()]).await?;
    let existing: HashSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    writes.retain(|write| !existing.contains(write.key.as_str()));
    Ok(())
}

/// Cuts into pieces that fit into one transaction each.
fn batches(writes: Vec<Write<'_>>) -> Vec<Vec<Write<'_>>> {
    let mut batches = Vec::new();
    let mut batch: Vec<Write<'_>> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        // One more for the comma.
        let size = write.operation.len() + 1;
        if batch.len() == BATCH_OPERATIONS || (bytes + size > BATCH_BYTES && !batch.is_empty()) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(write);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(values: &[&str]) -> Vec<usize> {
        let writes = values
            .iter()
            .enumerate()
            .map(|(i, value)| Write::new(format!("k{i}"), value, false))
            .collect();
        batches(writes).iter().map(Vec::len).collect()
    }

    #[test]
    fn batches_keep_consuls_limits() {
        assert_eq!(sizes(&[]), Vec::<usize>::new());
        assert_eq!(sizes(&[""; 60]), [60]);
        assert_eq!(sizes(&[""; 121]), [60, 60, 1]);
        let large = "x".repeat(150_000);
        assert_eq!(sizes(&[large.as_str(); 5]), [2, 2, 1]);
    }
}
