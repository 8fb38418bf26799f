//! Random operations on the store under test and on the memory store: same answers.

use std::num::NonZeroU64;

use bytes::Bytes;
use edgehold_core::{ErrorReason, PayloadForm, retry::Progress};

use super::*;
use crate::{Eviction, MemoryQueue, StoreError, Sweep};

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
        let state = ObjectState::ALL[[0, 1, 2, 2, 2, 2, 3, 4][self.size(8)]];
        StoredObject {
            pipeline_id: self.pipeline_id(),
            state,
            reason: (state == ObjectState::Error).then_some(ErrorReason::Undecodable),
            payload: vec![7; self.size(40)].into(),
            input: match self.once_in(4) {
                true => StoredInput::Delivery {
                    content_type: "application/json".to_owned(),
                    topic: "t".to_owned(),
                    form: PayloadForm::Json,
                },
                false => StoredInput::Bytes {
                    kind: DataKind::Bytes,
                },
            },
            context: self.context(),
            ended_at: (!self.once_in(3)).then(|| self.moment()),
            created_at: self.moment(),
            last_attempt_at: (!self.once_in(3)).then(|| self.moment()),
            not_before: self.once_in(4).then(|| self.moment()),
            destination: self.destination(),
            ..object(number)
        }
    }

    fn device(&mut self) -> Option<&'static str> {
        ["pump", "fan", "lamp"].get(self.size(4)).copied()
    }

    fn context(&mut self) -> BTreeMap<String, String> {
        let device = self.device();
        let value = |device: &str| ("devicename".to_owned(), device.to_owned());
        device.map(value).into_iter().collect()
    }

    fn pipeline_id(&mut self) -> PipelineId {
        PipelineId::try_new(["default-pipeline", "other"][self.size(2)]).expect("not blank")
    }

    fn progress(&mut self) -> Option<Progress> {
        self.once_in(3).then(|| self.some_progress())
    }

    fn some_progress(&mut self) -> Progress {
        Progress {
            version: PipelineVersion::from_stored(["v1", "v2"][self.size(2)]),
            position: 2,
            kind: DataKind::Text,
            payload: Bytes::from(vec![b'x'; self.size(40)]),
            context: self.context(),
        }
    }

    fn room(&mut self) -> Room {
        match self.below(6) {
            0 => Room {
                max_items: NonZeroU64::new(self.below(40)),
                max_bytes: None,
            },
            1 => Room {
                max_items: None,
                max_bytes: NonZeroU64::new(self.below(800)),
            },
            _ => Room::default(),
        }
    }

    fn sweep(&mut self) -> Sweep {
        let before = self.moment();
        match self.below(4) {
            0 => Sweep::TooOld {
                before,
                at: self.moment(),
            },
            1 => Sweep::History { before },
            2 => Sweep::DeadLetters { before },
            _ => Sweep::DeadLettersOver { max: self.below(8) },
        }
    }

    fn filter(&mut self) -> ObjectFilter {
        let one_in = |random: &mut Self, of| random.once_in(of).then_some(());
        ObjectFilter {
            ids: match one_in(self, 6) {
                Some(()) => (0..6).map(|_| id(self.below(40))).collect(),
                None => Vec::new(),
            },
            pipeline_ids: one_in(self, 3).map(|()| self.pipeline_id()).into_iter().collect(),
            version: one_in(self, 3).map(|()| PipelineVersion::from_stored("v1")),
            devices: one_in(self, 3)
                .and_then(|()| self.device())
                .map(str::to_owned)
                .into_iter()
                .collect(),
            reasons: match one_in(self, 2) {
                Some(()) => vec![ErrorReason::TooOld, ErrorReason::RetriesExceeded],
                None => Vec::new(),
            },
            ended_from: one_in(self, 4).map(|()| self.moment()),
            ended_before: one_in(self, 4).map(|()| self.moment()),
        }
    }

    fn error_page(&mut self) -> ErrorPage {
        ErrorPage {
            filter: self.filter(),
            after_seq: 0,
            limit: 1 + self.size(4),
        }
    }

    fn failure(&mut self, attempts: u32) -> Failure {
        let progress = self.progress();
        Failure {
            not_before: self.once_in(4).then(|| self.moment()),
            destination: self.destination(),
            progress,
            ..failure(attempts, self.moment())
        }
    }

    fn action(&mut self) -> Action {
        match self.below(9) {
            8 => Action::Batch(self.some_progress()),
            0 => Action::Remove,
            1 => Action::RELEASE,
            2 => Action::Release {
                not_before: self.once_in(2).then(|| self.moment()),
                last_error: self.once_in(2).then(|| "released".to_owned()),
                destination: self.destination(),
                progress: self.progress(),
            },
            3 => Action::Succeed { at: self.moment() },
            4 => Action::GiveUp {
                reason: ErrorReason::RetriesExceeded,
                at: self.moment(),
                failure: self.once_in(2).then(|| self.failure(11)),
            },
            _ => Action::RetryLater(self.failure(2)),
        }
    }

    fn claim(&mut self, now: Timestamp) -> Claim {
        let lane = match self.below(3) {
            0 => Lane::of(self.destination()),
            _ => Lane::Any,
        };
        let due = (!self.once_in(4)).then(|| Duration::from_secs(self.below(60)));
        Claim {
            selection: Selection { lane, due },
            suspects: Suspects::Exclude,
            ordered: self.once_in(4),
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
    async fn append(&self, objects: &[StoredObject], room: Room) -> Outcome {
        let kind = |answers: Vec<Result<i64, StoreError>>| -> Vec<_> {
            let kind =
                |answer: Result<i64, StoreError>| answer.map(|_| ()).map_err(|error| error.to_string());
            answers.into_iter().map(kind).collect()
        };
        let (tested, reference) = (
            self.tested.append(objects, room).await,
            self.reference.append(objects, room).await,
        );
        ensure_eq!(kind(tested), kind(reference), "append {objects:?}, {room:?}");
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

    async fn maintain(&self, random: &mut Random) -> Outcome {
        let text = |error: StoreError| error.to_string();
        let anywhere = |moved: Moved| (moved.objects, moved.payload_bytes, moved.last_seq.is_some());
        match random.below(5) {
            0 => {
                let eviction = Eviction {
                    objects: random.below(3),
                    bytes: random.below(50),
                };
                let tested = self.tested.evict(eviction).await.map_err(text)?;
                let reference = self.reference.evict(eviction).await.map_err(text)?;
                ensure_eq!(tested, reference, "{eviction:?}");
            }
            1 => {
                let (sweep, limit) = (random.sweep(), 1 + random.size(4));
                let tested = self.tested.sweep(sweep, limit).await.map_err(text)?;
                let reference = self.reference.sweep(sweep, limit).await.map_err(text)?;
                ensure_eq!(tested, reference, "{sweep:?}, at most {limit}");
            }
            2 => {
                let page = random.error_page();
                let tested = purge(self.tested, page.clone()).await?;
                let reference = purge(&self.reference, page.clone()).await?;
                ensure_eq!(anywhere(tested), anywhere(reference), "purge {page:?}");
            }
            _ => {
                let page = random.error_page();
                let tested = redrive(self.tested, page.clone()).await?;
                let reference = redrive(&self.reference, page.clone()).await?;
                ensure_eq!(anywhere(tested), anywhere(reference), "redrive {page:?}");
            }
        }
        Ok(())
    }

    async fn compare(&self, request: &ListRequest, random: &mut Random) -> Outcome {
        let (tested, reference) = (
            list(self.tested, request.clone()).await?,
            list(&self.reference, request.clone()).await?,
        );
        ensure_eq!(without_seq(&tested), without_seq(&reference), "{request:?}");
        ensure_eq!(stats(self.tested).await?, stats(&self.reference).await?, "stats");
        let (interval, now) = (Duration::from_secs(random.below(60)), random.moment());
        ensure_eq!(
            lanes(self.tested, interval, now).await?,
            lanes(&self.reference, interval, now).await?,
            "lanes {interval:?} {now:?}"
        );
        let filter = random.filter();
        let survey = async |queue: &dyn RetryQueue| {
            let groups = queue.survey(filter.clone()).await;
            groups.map_err(|error| error.to_string())
        };
        ensure_eq!(
            survey(self.tested).await?,
            survey(&self.reference).await?,
            "survey {filter:?}"
        );
        let (pipeline_id, device) = (random.pipeline_id(), random.device().unwrap_or("none"));
        let waits = async |queue: &dyn RetryQueue| {
            let waits = queue.is_waiting(&pipeline_id, device).await;
            waits.map_err(|error| error.to_string())
        };
        ensure_eq!(
            waits(self.tested).await?,
            waits(&self.reference).await?,
            "{device} of {pipeline_id} waits"
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
            match random.below(12) {
                0..=2 => {
                    let mut batch: Vec<_> = (0..=random.below(3))
                        .map(|place| random.object(u64::try_from(known.len()).unwrap_or_default() + place))
                        .collect();
                    known.extend(batch.iter().cloned());
                    if random.once_in(4) {
                        batch.push(known[random.size(u64::try_from(known.len()).unwrap_or(1))].clone());
                    }
                    let room = random.room();
                    pair.append(&batch, room).await
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
                8 => pair.maintain(&mut random).await,
                _ => {
                    let states = ObjectState::ALL
                        .into_iter()
                        .filter(|_| !random.once_in(3))
                        .collect();
                    let request = ListRequest {
                        states,
                        limit: 1 + random.size(5),
                        filter: if random.once_in(3) {
                            random.filter()
                        } else {
                            ObjectFilter::default()
                        },
                        ..list_all()
                    };
                    pair.compare(&request, &mut random).await
                }
            }
        };
        done.await
            .map_err(|problem| format!("seed {seed}, step {step}: {problem}"))?;
    }
    pair.compare(&list_all(), &mut random).await
}
