//! Random operations on the store under test and on the memory store: same answers.

use bytes::Bytes;
use edgehold_core::{ErrorReason, retry::Progress};

use super::*;
use crate::{MemoryQueue, StoreError};

/// Random numbers from a seed (splitmix64): the same run for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A moment within two minutes of the suite's time, often the same one.
    fn moment(&mut self) -> Timestamp {
        at(i64::try_from(self.below(120)).unwrap_or_default())
    }

    fn size(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).unwrap_or_default()
    }

    fn destination(&mut self) -> Option<Destination> {
        let names = ["http://a", "http://b"];
        names.get(self.size(3)).map(|name| Destination::new(name))
    }

    fn object(&mut self, number: u64) -> StoredObject {
        let state = ALL_STATES[[0, 1, 2, 2, 2, 2, 2, 3][self.size(8)]];
        let pipeline = ["default-pipeline", "other"][self.size(2)];
        StoredObject {
            pipeline_id: PipelineId::try_new(pipeline).expect("not blank"),
            state,
            reason: (state == ObjectState::Error).then_some(ErrorReason::Undecodable),
            payload: vec![7; self.size(40)].into(),
            created_at: self.moment(),
            last_attempt_at: (!self.once_in(3)).then(|| self.moment()),
            not_before: self.once_in(4).then(|| self.moment()),
            destination: self.destination(),
            ..object(number)
        }
    }

    fn failure(&mut self, attempts: u32) -> Failure {
        let progress = self.once_in(3).then(|| Progress {
            position: 2,
            kind: DataKind::Text,
            payload: Bytes::from(vec![b'x'; self.size(40)]),
            context: BTreeMap::new(),
        });
        Failure {
            not_before: self.once_in(4).then(|| self.moment()),
            destination: self.destination(),
            progress,
            ..failure(attempts, self.moment())
        }
    }

    fn action(&mut self) -> Action {
        match self.below(6) {
            0 => Action::Remove,
            1 => Action::Release {
                not_before: self.once_in(2).then(|| self.moment()),
                last_error: self.once_in(2).then(|| "released".to_owned()),
            },
            2 => Action::GiveUp {
                reason: ErrorReason::RetriesExceeded,
                failure: self.once_in(2).then(|| self.failure(11)),
            },
            _ => Action::RetryLater(self.failure(2)),
        }
    }

    fn claim(&mut self, now: Timestamp) -> Claim {
        let selection = match self.destination() {
            Some(destination) if self.once_in(3) => Selection::At(destination),
            _ => Selection::Due(Duration::from_secs(self.below(60))),
        };
        Claim {
            selection,
            after_seq: 0,
            now,
            limit: 1 + self.size(6),
            max_bytes: self.size(120),
        }
    }
}

/// The store under test and the one that is right.
struct Pair<'a> {
    tested: &'a dyn RetryQueue,
    reference: MemoryQueue,
}

/// What two stores must agree on: everything but the numbers they chose for `seq`.
fn without_seq(objects: &[StoredObject]) -> Vec<StoredObject> {
    objects
        .iter()
        .map(|object| StoredObject {
            seq: 0,
            ..object.clone()
        })
        .collect()
}

impl Pair<'_> {
    async fn append(&self, objects: &[StoredObject]) -> Outcome {
        let kind = |answers: Vec<Result<i64, StoreError>>| -> Vec<_> {
            let kind =
                |answer: Result<i64, StoreError>| answer.map(|_| ()).map_err(|error| error.to_string());
            answers.into_iter().map(kind).collect()
        };
        let (tested, reference) = (
            self.tested.append(objects).await,
            self.reference.append(objects).await,
        );
        ensure_eq!(kind(tested), kind(reference), "append {objects:?}");
        Ok(())
    }

    /// Claims from both; `after` is a cursor for each.
    async fn claim(
        &self,
        page: &Claim,
        after: (i64, i64),
    ) -> Result<(Vec<StoredObject>, (i64, i64)), String> {
        let tested = claim(
            self.tested,
            Claim {
                after_seq: after.0,
                ..page.clone()
            },
        )
        .await?;
        let reference = claim(
            &self.reference,
            Claim {
                after_seq: after.1,
                ..page.clone()
            },
        )
        .await?;
        ensure_eq!(without_seq(&tested), without_seq(&reference), "{page:?}");
        let last = |objects: &[StoredObject], before| objects.last().map_or(before, |object| object.seq);
        let cursor = (last(&tested, after.0), last(&reference, after.1));
        Ok((tested, cursor))
    }

    async fn settle(&self, verdicts: &[Verdict]) -> Outcome {
        settle(self.tested, verdicts).await?;
        settle(&self.reference, verdicts).await
    }

    async fn compare(&self, request: &ListRequest, interval: Duration) -> Outcome {
        let (tested, reference) = (
            list(self.tested, request.clone()).await?,
            list(&self.reference, request.clone()).await?,
        );
        ensure_eq!(without_seq(&tested), without_seq(&reference), "{request:?}");
        ensure_eq!(stats(self.tested).await?, stats(&self.reference).await?, "stats");
        let next =
            async |queue: &dyn RetryQueue| queue.next_due(interval).await.map_err(|error| error.to_string());
        ensure_eq!(
            next(self.tested).await?,
            next(&self.reference).await?,
            "next_due {interval:?}"
        );
        Ok(())
    }
}

/// Does `steps` random operations on `queue`, which is fresh and empty, and on a memory store, and compares every
/// answer. The same `seed` means the same operations.
///
/// # Errors
/// The first operation whose answers differ, with both.
pub async fn model(queue: &dyn RetryQueue, seed: u64, steps: usize) -> Outcome {
    let mut random = Random(seed);
    let pair = Pair {
        tested: queue,
        reference: MemoryQueue::new(service_key()),
    };
    let mut known: Vec<StoredObject> = Vec::new();
    let mut cursor = (0, 0);
    for step in 0..steps {
        let done = async {
            match random.below(10) {
                0..=2 => {
                    let mut batch: Vec<_> = (0..=random.below(3))
                        .map(|place| random.object(u64::try_from(known.len()).unwrap_or_default() + place))
                        .collect();
                    known.extend(batch.iter().cloned());
                    if random.once_in(4) {
                        batch.push(known[random.size(u64::try_from(known.len()).unwrap_or(1))].clone());
                    }
                    pair.append(&batch).await
                }
                3..=5 => {
                    let now = random.moment();
                    let page = random.claim(now);
                    let after = if random.once_in(2) { cursor } else { (0, 0) };
                    let (claimed, next) = pair.claim(&page, after).await?;
                    cursor = next;
                    let mut verdicts: Vec<_> = claimed
                        .iter()
                        .map(|object| verdict(object.id, random.action()))
                        .collect();
                    // Some claims stay open.
                    verdicts.retain(|_| !random.once_in(5));
                    pair.settle(&verdicts).await
                }
                6 | 7 if !known.is_empty() => {
                    let place = random.size(u64::try_from(known.len()).unwrap_or(1));
                    pair.settle(&[verdict(known[place].id, random.action())]).await
                }
                _ => {
                    let states = ALL_STATES.into_iter().filter(|_| !random.once_in(3)).collect();
                    let request = ListRequest {
                        states,
                        limit: 1 + random.size(5),
                        ..list_all()
                    };
                    pair.compare(&request, Duration::from_secs(random.below(60)))
                        .await
                }
            }
        };
        done.await
            .map_err(|problem| format!("seed {seed}, step {step}: {problem}"))?;
    }
    pair.compare(&list_all(), REST).await
}
