//! Whether a store is sound, and a copy of it for the cupboard: the library side of `store check` and `store backup`.
//!
//! Both look only, beside the service or without it.

use std::{collections::BTreeMap, path::Path};

use edgehold_core::{ErrorReason, ObjectState};
use edgehold_store::{
    ListRequest, ObjectFilter, RetryQueue as _, StateCount, StoreError, StoreStats, semantics,
};
use edgehold_store_sqlite::SqliteQueue;

use super::StoreView;
use crate::{copy::back_up, logging::with_causes};

/// Objects of a page.
const PAGE: usize = 256;
/// What is wrong is named up to so many times.
const NAMED: usize = 20;
/// How often everything is counted until it stands still.
const TRIES: usize = 3;

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
    /// Each state of which the counters say something else than was counted: the counter, and the count. None when the
    /// store changed all the time, so that they could not be compared.
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

fn count_of(stats: &StoreStats, state: ObjectState) -> StateCount {
    match state {
        ObjectState::New => stats.new,
        ObjectState::Success => stats.success,
        ObjectState::Failed => stats.failed,
        ObjectState::Error => stats.error,
        ObjectState::Batched => stats.batched,
    }
}

impl StoreView {
    /// Reads every object and compares what was counted with what the store says. `tell` hears how many have been read,
    /// and how many there are.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the store cannot be read at all.
    pub async fn check(&self, mut tell: impl FnMut(u64, u64)) -> Result<StoreCheck, StoreError> {
        let file = match &self.file {
            Some(path) if SqliteQueue::exists(path) => {
                let queue = SqliteQueue::open_read_only(path, self.service_key.clone()).await?;
                let found = queue.integrity().await;
                queue.close().await;
                // That it cannot be looked through is a finding, too.
                Some(found.unwrap_or_else(|error| vec![with_causes(&error)]))
            }
            _ => None,
        };
        let mut check = StoreCheck::default();
        for _ in 0..TRIES {
            let read = async {
                let before = self.stats().await?;
                self.read_all(&before, &mut tell).await
            };
            match read.await {
                Ok(read) => check = read,
                // The file says more about it.
                Err(error) if file.as_ref().is_some_and(|problems| !problems.is_empty()) => {
                    check.problems.push((self.place.clone(), with_causes(&error)));
                    break;
                }
                Err(error) => return Err(error),
            }
            if check.counters.is_some() {
                break;
            }
        }
        Ok(StoreCheck { file, ..check })
    }

    async fn read_all(
        &self,
        before: &StoreStats,
        tell: &mut impl FnMut(u64, u64),
    ) -> Result<StoreCheck, StoreError> {
        let meant = ObjectState::ALL
            .iter()
            .map(|state| count_of(before, *state).objects)
            .sum();
        let mut check = StoreCheck::default();
        let mut counted = BTreeMap::<ObjectState, u64>::new();
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
            for object in &page.objects {
                check.objects += 1;
                check.payload_bytes += u64::try_from(object.payload.len()).unwrap_or(0);
                *counted.entry(object.state).or_default() += 1;
                let problem = if object.reason == Some(ErrorReason::Corrupt) {
                    check.damaged += 1;
                    object
                        .last_error
                        .clone()
                        .unwrap_or_else(|| "it is damaged".to_owned())
                } else if object.context.contains_key(semantics::SEAL) {
                    check.unopened += 1;
                    "it is sealed, and the keys there are do not open it".to_owned()
                } else {
                    continue;
                };
                if check.problems.len() < NAMED {
                    check.problems.push((object.id.to_string(), problem));
                }
            }
            tell(check.objects, meant);
            after_seq = page.next_after_seq;
        }
        // Beside a running service the two are of one moment only if nothing happened in between.
        if self.stats().await? == *before {
            let differing = ObjectState::ALL.iter().filter_map(|state| {
                let said = count_of(before, *state).objects;
                let found = counted.get(state).copied().unwrap_or(0);
                (said != found).then_some((state.as_str(), (said, found)))
            });
            check.counters = Some(differing.collect());
        }
        Ok(check)
    }

    /// Writes a consistent copy of the store into a file that is not there yet; answers how many objects it has.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the file is there, or the store is none that is a file, with what to do instead;
    /// [`StoreError::Unavailable`], [`StoreError::Full`].
    pub async fn back_up(&self, to: &Path) -> Result<u64, StoreError> {
        match &self.file {
            Some(path) => back_up(path, &self.service_key, to).await,
            None => Err(StoreError::Configuration(format!(
                "the store is {}: back that up with PostgreSQL's own means, for example: pg_dump --format=custom \
                 --schema='\"{}\"' --file={} …",
                self.place,
                self.service_key,
                to.display()
            ))),
        }
    }
}
