//! Whether a store is sound, and a copy of it for the cupboard: the library side of `store check` and `store backup`.
//!
//! Both look only, beside the service or without it.

use std::{collections::BTreeMap, path::Path};

use edgehold_core::{ErrorReason, ObjectState, ServiceKey, StoredObject};
use edgehold_store::{ListRequest, ObjectFilter, StoreError, semantics};

use super::{Kept, StoreView};
use crate::{copy::back_up, logging::with_causes};

/// Objects of a page.
const PAGE: usize = 256;
/// What is wrong is named up to so many times.
const NAMED: usize = 20;

/// What a look at every object of a store has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreCheck {
    /// What the database says of its file, if it is one: nothing when it is sound.
    pub file: Option<Vec<String>>,
    /// How many objects have been read.
    pub objects: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Rows that cannot be read, or were set aside because they could not.
    pub damaged: u64,
    /// Sealed objects that the keys there are do not open.
    pub unopened: u64,
    /// The first of both: the id and what is wrong.
    pub problems: Vec<(String, String)>,
    /// Each state of which the counters say something else than was counted: the counter, and the count. None when the store
    /// cannot be read to its end.
    pub counters: Option<BTreeMap<&'static str, (u64, u64)>>,
}

impl StoreCheck {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.file.as_ref().is_none_or(Vec::is_empty)
            && self.damaged == 0
            && self.unopened == 0
            && self.counters.as_ref().is_none_or(BTreeMap::is_empty)
    }
}

impl StoreCheck {
    fn note(&mut self, what: String, problem: String) {
        if self.problems.len() < NAMED {
            self.problems.push((what, problem));
        }
    }

    fn look_at(&mut self, object: &StoredObject) {
        self.objects += 1;
        self.payload_bytes += u64::try_from(object.payload.len()).unwrap_or(0);
        if object.reason == Some(ErrorReason::Corrupt) {
            self.damaged += 1;
            let problem = object.last_error.as_deref().unwrap_or("it is damaged");
            self.note(object.id.to_string(), problem.to_owned());
        } else if object.context.contains_key(semantics::SEAL) {
            self.unopened += 1;
            let problem = "it is sealed, and the keys there are do not open it";
            self.note(object.id.to_string(), problem.to_owned());
        }
    }

    /// Compares what the counters say of each state with what there is of it.
    fn compare(&mut self, counts: BTreeMap<i64, (u64, u64)>) {
        let mut differing = BTreeMap::new();
        for (code, (said, found)) in counts {
            let name = ObjectState::from_code(code).map(ObjectState::as_str);
            if name.is_err() && found > 0 {
                self.damaged += found;
                let problem = format!("{found} objects are in this state, which is none");
                self.note(format!("state {code}"), problem);
            } else if said != found {
                differing.insert(name.unwrap_or("unknown"), (said, found));
            }
        }
        self.counters = Some(differing);
    }
}

impl StoreView {
    /// Reads every object, and compares what the counters say with what there is, both of one moment. `tell` hears how many
    /// have been read, and how many there were at the beginning.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the store cannot be read at all.
    pub async fn check(&self, tell: impl FnMut(u64, u64)) -> Result<StoreCheck, StoreError> {
        let file = match &self.kept {
            // That it cannot be looked through is a finding, too.
            Kept::File(Some(queue)) => Some(
                queue
                    .integrity()
                    .await
                    .unwrap_or_else(|error| vec![with_causes(&error)]),
            ),
            _ => None,
        };
        let is_damaged = file.as_ref().is_some_and(|problems| !problems.is_empty());
        let mut check = StoreCheck {
            file,
            ..StoreCheck::default()
        };
        match self.look_through(&mut check, tell).await {
            // The file says more about it.
            Err(error) if is_damaged => check.note(self.place.clone(), with_causes(&error)),
            looked => looked?,
        }
        Ok(check)
    }

    async fn look_through(
        &self,
        check: &mut StoreCheck,
        mut tell: impl FnMut(u64, u64),
    ) -> Result<(), StoreError> {
        let stats = self.stats().await?;
        let meant = stats.waiting() + stats.success.objects + stats.error.objects;
        let mut after_seq = Some(0);
        while let Some(after) = after_seq {
            let page = self
                .list(ListRequest {
                    states: ObjectState::ALL.to_vec(),
                    filter: ObjectFilter::default(),
                    after_seq: after,
                    limit: PAGE,
                })
                .await?;
            page.objects.iter().for_each(|object| check.look_at(object));
            tell(check.objects, meant);
            after_seq = page.next_after_seq;
        }
        check.compare(match &self.kept {
            Kept::File(Some(queue)) => queue.recount().await?,
            Kept::Postgres(Some(queue)) => queue.recount().await?,
            Kept::File(None) | Kept::Postgres(None) => BTreeMap::new(),
        });
        Ok(())
    }

    /// Writes a consistent copy of the store into a file that is not there yet; answers how many objects it has.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the file is there, or the store is none that is a file, with what to do instead;
    /// [`StoreError::Unavailable`], [`StoreError::Full`].
    pub async fn back_up(&self, to: &Path) -> Result<u64, StoreError> {
        match &self.kept {
            Kept::File(Some(queue)) => back_up(queue, &self.service_key, to).await,
            Kept::File(None) => Err(StoreError::Configuration(format!(
                "there is no store at {}: nothing has been stored yet",
                self.place
            ))),
            Kept::Postgres(_) => Err(StoreError::Configuration(format!(
                "the store is {}: back that up with PostgreSQL's own means, for example: pg_dump --format=custom \
                 --schema={} --file={} …",
                self.place,
                shell_word(&schema_pattern(&self.service_key)),
                shell_word(&to.display().to_string())
            ))),
        }
    }
}

/// The schema of a service as PostgreSQL's own tools take it: a pattern, in which nothing between quotation marks is special.
fn schema_pattern(service_key: &ServiceKey) -> String {
    format!("\"{}\"", service_key.as_str().replace('"', "\"\""))
}

/// A text as one word of a shell.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_key_is_one_word_and_no_pattern() {
        for (key, word) in [("app-x", r#"'"app-x"'"#), (r#"it's "*"#, r#"'"it'\''s ""*"'"#)] {
            let key = ServiceKey::try_new(key).unwrap();
            assert_eq!(shell_word(&schema_pattern(&key)), word);
        }
    }
}
