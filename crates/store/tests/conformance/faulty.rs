//! Stores that are wrong in one way each, and the cases that must notice.

use std::time::Duration;

use bytes::Bytes;
use edgehold_core::{
    BoxFuture, DataKind, PipelineId, StoredObject, Timestamp,
    retry::{Action, Failure, Progress, Verdict},
};
use edgehold_store::{
    Claim, Evicted, Eviction, LaneStatus, ListRequest, MemoryQueue, Page, Redrive, RetryQueue, Room,
    StoreError, StoreStats, Sweep,
    conformance::{self, QUEUE_CASES, service_key},
};

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// A counted failure is not written, though the claim ends.
    LostUpdate,
    /// A page comes newest first.
    WrongOrder,
    /// A claim does not keep the next one from handing out the same objects.
    DoubleClaim,
    /// Giving an object up leaves its payload behind.
    PayloadLostOnGiveUp,
    /// The first object of every page but the first is skipped.
    PageGap,
    /// The last object of an append is answered with Ok and not kept.
    AcknowledgedTooEarly,
    /// The bytes of a page are not bounded.
    UnboundedPage,
    /// Object in the future counts as just attempted.
    ForwardClockOnly,
    /// A repeated append makes a second answer out of the same object.
    RefusesRepeat,
    /// The oldest moment is that of the newest object.
    StaleStats,
    /// A listed page is cut without saying where the next one begins.
    ForgetsTheRest,
    /// The interval of the first claim is used for ever.
    FixedInterval,
}

struct Faulty {
    fault: Fault,
    inner: MemoryQueue,
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

fn without_payload(action: &Action) -> Action {
    let Action::GiveUp { reason, at, failure } = action else {
        return action.clone();
    };
    let failure = failure.clone().unwrap_or(Failure {
        attempts: 1,
        at: Timestamp::default(),
        error: String::new(),
        not_before: None,
        destination: None,
        progress: None,
    });
    let progress = Progress {
        version: conformance::object(1).version,
        position: 1,
        kind: DataKind::Bytes,
        payload: Bytes::new(),
        context: conformance::object(1).context,
    };
    Action::GiveUp {
        reason: *reason,
        at: *at,
        failure: Some(Failure {
            progress: Some(progress),
            ..failure
        }),
    }
}

impl RetryQueue for Faulty {
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>> {
        Box::pin(async move {
            if self.is(Fault::AcknowledgedTooEarly) && objects.len() > 1 {
                let mut answers = self.inner.append(&objects[..objects.len() - 1], room).await;
                answers.push(Ok(i64::MAX));
                return answers;
            }
            let before = self
                .inner
                .stats()
                .await
                .map(|stats| stats.waiting())
                .unwrap_or_default();
            let answers = self.inner.append(objects, room).await;
            let after = self
                .inner
                .stats()
                .await
                .map(|stats| stats.waiting())
                .unwrap_or_default();
            if self.is(Fault::RefusesRepeat) && before == after && before > 0 {
                return objects
                    .iter()
                    .map(|object| Err(StoreError::Exists(object.id)))
                    .collect();
            }
            answers
        })
    }

    fn claim(&self, mut claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(async move {
            match self.fault {
                Fault::UnboundedPage => claim.max_bytes = usize::MAX,
                Fault::PageGap if claim.after_seq > 0 => claim.after_seq += 1,
                Fault::FixedInterval => {
                    claim.selection.due = Some(Duration::from_secs(10));
                }
                _ => {}
            }
            let mut page = self.inner.claim(claim.clone()).await?;
            match self.fault {
                Fault::WrongOrder => page.reverse(),
                Fault::ForwardClockOnly => {
                    page.retain(|object| object.last_attempt_at.is_none_or(|at| at <= claim.now));
                }
                Fault::DoubleClaim => {
                    let verdicts: Vec<_> = page
                        .iter()
                        .map(|object| Verdict {
                            id: object.id,
                            action: Action::RELEASE,
                        })
                        .collect();
                    self.inner.settle(&verdicts).await?;
                }
                _ => {}
            }
            Ok(page)
        })
    }

    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let wrong = |verdict: &Verdict| match (self.fault, &verdict.action) {
                (Fault::LostUpdate, Action::RetryLater(_)) => Verdict {
                    action: Action::RELEASE,
                    ..verdict.clone()
                },
                (Fault::PayloadLostOnGiveUp, action) => Verdict {
                    action: without_payload(action),
                    ..verdict.clone()
                },
                _ => verdict.clone(),
            };
            self.inner
                .settle(&verdicts.iter().map(wrong).collect::<Vec<_>>())
                .await
        })
    }

    fn lanes(
        &self,
        interval: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>> {
        self.inner.lanes(interval, now)
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.inner.is_waiting(pipeline_id, device)
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        self.inner.evict(eviction)
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.sweep(sweep, limit)
    }

    fn redrive(&self, redrive: Redrive, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.redrive(redrive, limit)
    }

    fn list(&self, mut request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            if self.is(Fault::PageGap) && request.after_seq > 0 {
                request.after_seq += 1;
            }
            let mut page = self.inner.list(request).await?;
            if self.is(Fault::ForgetsTheRest) {
                page.next_after_seq = None;
            }
            Ok(page)
        })
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        Box::pin(async move {
            let mut stats = self.inner.stats().await?;
            if self.is(Fault::StaleStats) {
                stats.oldest_waiting = stats
                    .oldest_waiting
                    .map(|at| at.saturating_add(Duration::from_millis(1)));
            }
            Ok(stats)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

/// The cases, and the model test, that notice this fault.
async fn noticed_by(fault: Fault) -> Vec<&'static str> {
    let faulty = || Faulty {
        fault,
        inner: MemoryQueue::new(service_key()),
    };
    let mut noticed = Vec::new();
    for case in QUEUE_CASES {
        if (case.run)(&faulty()).await.is_err() {
            noticed.push(case.name);
        }
    }
    for seed in 0..20 {
        if conformance::model(&faulty(), seed, 150).await.is_err() {
            noticed.push("model");
            break;
        }
    }
    noticed
}

#[tokio::test]
async fn a_right_store_is_not_accused() {
    assert_eq!(noticed_by(Fault::None).await, Vec::<&str>::new());
}

#[tokio::test]
async fn every_fault_is_noticed_by_the_case_made_for_it() {
    let faults = [
        (
            Fault::LostUpdate,
            "retry_later_changes_the_counts_and_nothing_else",
        ),
        (Fault::WrongOrder, "claims_come_in_the_order_of_appending"),
        (Fault::DoubleClaim, "a_claimed_object_is_handed_out_once"),
        (Fault::PayloadLostOnGiveUp, "giving_up_keeps_the_payload_whole"),
        (Fault::PageGap, "a_page_ends_at_the_limit_and_the_cursor_goes_on"),
        (Fault::AcknowledgedTooEarly, "concurrent_appends_are_all_kept"),
        (Fault::UnboundedPage, "a_page_ends_at_its_bytes"),
        (
            Fault::ForwardClockOnly,
            "an_attempt_in_the_future_counts_as_long_ago",
        ),
        (
            Fault::RefusesRepeat,
            "appending_again_after_an_attempt_is_the_same",
        ),
        (Fault::StaleStats, "the_oldest_waiting_object_is_known"),
        (
            Fault::ForgetsTheRest,
            "listed_pages_have_no_gap_while_objects_leave",
        ),
        (
            Fault::FixedInterval,
            "the_interval_of_the_claim_decides_what_is_due",
        ),
    ];
    for (fault, case) in faults {
        let noticed = noticed_by(fault).await;
        assert!(
            noticed.contains(&case),
            "{fault:?} was noticed only by {noticed:?}"
        );
    }
}

#[tokio::test]
async fn the_model_test_notices_faults_on_its_own() {
    for fault in [
        Fault::LostUpdate,
        Fault::WrongOrder,
        Fault::DoubleClaim,
        Fault::PayloadLostOnGiveUp,
        Fault::PageGap,
        Fault::UnboundedPage,
        Fault::ForwardClockOnly,
        Fault::StaleStats,
    ] {
        assert!(noticed_by(fault).await.contains(&"model"), "{fault:?}");
    }
}
