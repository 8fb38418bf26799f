//! Stores that are wrong in one way each, and the cases that must notice.
//!
//! Each fault is a wrapper around the memory store, which is right. A test for each proves that the case made for it
//! notices; the model test notices those it can on its own.

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use edgehold_core::{
    BoxFuture, DataKind, ObjectState, PipelineId, StoredObject, StoredObjectId, Timestamp,
    retry::{Action, Failure, Progress, Verdict},
};
use edgehold_store::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, Lane, LaneStatus, ListRequest, MemoryQueue, Moved,
    ObjectFilter, Page, RetryQueue, Room, StoreError, StoreStats, Sweep,
    conformance::{self, QUEUE_CASES, service_key},
    semantics,
};

/// Defines the faults and a test for each: its name, and the case that must notice it.
macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident, $test:ident => $case:literal,)*) => {
        /// What is wrong with a store.
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Fault {
            None,
            $($(#[$doc])* $fault,)*
        }

        $(
            #[tokio::test]
            async fn $test() {
                is_noticed(Fault::$fault, $case).await;
            }
        )*
    };
}

faults! {
    /// A counted failure is not written, though the claim ends.
    LostUpdate, a_lost_update_is_noticed => "retry_later_changes_the_counts_and_nothing_else",
    /// Only the first half of a page of verdicts is written.
    TornPage, a_torn_page_is_noticed => "a_large_page_of_verdicts_is_settled",
    /// A page comes newest first.
    WrongOrder, a_wrong_order_is_noticed => "claims_come_in_the_order_of_appending",
    /// An append that nobody waits for any more is made up for after the next verdicts.
    LateAppend, a_late_append_is_noticed => "a_dropped_append_does_not_come_after_what_is_asked_next",
    /// A claim does not keep the next one from handing out the same objects.
    IgnoredLease, an_ignored_lease_is_noticed => "a_claimed_object_is_handed_out_once",
    /// The claims of a page of verdicts are ended a moment after it can be seen, whoever has them by then.
    LateRelease, a_late_release_is_noticed => "a_claim_is_not_ended_by_the_verdict_before_it",
    /// Giving an object up leaves its payload behind.
    PayloadLostOnGiveUp, a_payload_lost_on_giving_up_is_noticed => "giving_up_keeps_the_payload_whole",
    /// The move to the error collection is a removal and an append.
    NonAtomicMove, a_non_atomic_move_is_noticed => "giving_up_keeps_the_payload_whole",
    /// The first object of every page but the first is skipped.
    PageGap, a_page_gap_is_noticed => "a_page_ends_at_the_limit_and_the_cursor_goes_on",
    /// A listed page is cut without saying where the next one begins.
    ForgottenRest, a_forgotten_rest_is_noticed => "listed_pages_have_no_gap_while_objects_leave",
    /// The last object of an append is answered with Ok and not kept.
    AcknowledgedTooEarly, an_early_acknowledgement_is_noticed => "concurrent_appends_are_all_kept",
    /// A repeated append makes a second answer out of the same object.
    RefusedRepeat, a_refused_repeat_is_noticed => "appending_again_after_an_attempt_is_the_same",
    /// The bytes of a page are not bounded.
    UnboundedPage, an_unbounded_page_is_noticed => "a_page_ends_at_its_bytes",
    /// An attempt in the future counts as just made.
    ForwardClockOnly, a_clock_that_only_goes_forward_is_noticed => "an_attempt_in_the_future_counts_as_long_ago",
    /// The interval of the first claim is used for ever.
    FixedInterval, a_fixed_interval_is_noticed => "the_interval_of_the_claim_decides_what_is_due",
    /// The oldest moment is a little late.
    StaleStats, stale_statistics_are_noticed => "the_oldest_waiting_object_is_known",
    /// One object more fits than the limit says.
    LimitOffByOne, a_limit_off_by_one_is_noticed => "what_has_no_room_is_refused_by_name",
    /// The limit is looked at before the append, not with it.
    LimitCheckedBefore, a_limit_that_is_checked_before_is_noticed => "concurrent_appends_never_exceed_the_room",
    /// What is kept already needs room, too.
    RepeatNeedsRoom, a_repeat_that_needs_room_is_noticed => "what_has_no_room_is_refused_by_name",
    /// A claim for one destination takes whatever waits.
    MixedLanes, mixed_lanes_are_noticed => "a_lane_holds_only_its_own_objects",
    /// What has no destination is in no lane.
    ForgottenLane, a_forgotten_lane_is_noticed => "every_destination_is_a_lane",
    /// A lane is due at its last attempt, without the interval.
    LaneWithoutInterval, a_lane_without_interval_is_noticed => "a_lane_is_due_at_its_earliest_unclaimed_moment",
    /// Order is not kept when it is asked for.
    Overtaking, overtaking_is_noticed => "only_the_oldest_of_a_device_is_handed_out",
    /// The oldest that may run is handed out, not the oldest that waits.
    OvertakesWhatRests, overtaking_what_rests_is_noticed => "what_is_not_due_holds_back_what_is_behind_it",
    /// A released object stays in state new.
    StaysNew, an_object_that_stays_new_is_noticed => "a_journaled_object_becomes_a_failed_one",
    /// A saved position moves on without the version of the pipeline that ran.
    StaleVersion, a_stale_version_is_noticed => "progress_replaces_what_the_next_attempt_needs",
    /// What is to be kept as history is removed.
    ForgottenHistory, forgotten_history_is_noticed => "a_success_is_kept_as_history",
    /// What waits for its first attempt does not count as waiting.
    ForgottenJournal, a_forgotten_journal_is_noticed => "a_device_waits_until_its_last_object_has_ended",
    /// The newest object leaves to make room.
    EvictsTheNewest, evicting_the_newest_is_noticed => "eviction_takes_the_oldest_unclaimed_ones",
    /// What is being tried leaves to make room.
    EvictsClaimed, evicting_what_is_claimed_is_noticed => "eviction_takes_the_oldest_unclaimed_ones",
    /// A sweep takes what is just young enough.
    SweepsTooMuch, sweeping_too_much_is_noticed => "the_too_old_go_to_the_error_collection",
    /// A sweep knows no limit.
    EndlessSweep, an_endless_sweep_is_noticed => "history_and_dead_letters_are_removed_when_their_time_has_come",
    /// A re-drive takes other pipelines' objects along.
    RedrivesTooMuch, redriving_too_much_is_noticed => "a_filter_selects_what_fits_all_of_it",
    /// A purge takes other devices' objects along.
    PurgesTooMuch, purging_too_much_is_noticed => "a_filter_selects_what_fits_all_of_it",
    /// A re-drive begins at the beginning with each page, whenever objects were given up.
    RunsInCircles, running_in_circles_is_noticed => "a_run_takes_each_object_once_though_it_comes_back",
    /// A survey knows no reasons.
    SurveyLumps, a_survey_without_reasons_is_noticed => "a_survey_counts_by_pipeline_and_reason",
    /// Of many attempts only the last ones are on record.
    ForgottenErrors, forgotten_errors_are_noticed => "every_attempt_is_on_record",
    /// A re-driven object keeps its wait.
    RedriveKeepsWaiting, a_redrive_that_keeps_waiting_is_noticed => "a_redriven_object_begins_anew",
}

struct Faulty {
    fault: Fault,
    inner: MemoryQueue,
    claimed: Mutex<Vec<StoredObjectId>>,
    late: Mutex<Vec<StoredObject>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            inner: MemoryQueue::new(service_key()),
            claimed: Mutex::default(),
            late: Mutex::default(),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// The objects in one of these states.
    async fn all(&self, states: &[ObjectState]) -> Result<Vec<StoredObject>, StoreError> {
        let request = ListRequest {
            states: states.to_vec(),
            filter: ObjectFilter::default(),
            after_seq: 0,
            limit: 100_000,
        };
        Ok(self.inner.list(request).await?.objects)
    }

    async fn release(&self, ids: impl IntoIterator<Item = StoredObjectId>) -> Result<(), StoreError> {
        let release = |id| Verdict {
            id,
            action: Action::RELEASE,
        };
        let verdicts: Vec<_> = ids.into_iter().map(release).collect();
        self.inner.settle(&verdicts).await
    }

    /// Removes the objects it moves to the error collection and appends them again.
    async fn move_in_two_steps(&self, verdicts: &[Verdict]) -> Result<(), StoreError> {
        let waiting = self.all(&[ObjectState::New, ObjectState::Failed]).await?;
        for verdict in verdicts {
            let object = waiting.iter().find(|object| object.id == verdict.id);
            match (&verdict.action, object) {
                (Action::GiveUp { .. }, Some(object)) => {
                    let mut moved = object.clone();
                    semantics::apply(&mut moved, &verdict.action);
                    let removal = Verdict {
                        id: object.id,
                        action: Action::Remove,
                    };
                    self.inner.settle(&[removal]).await?;
                    for answer in self.inner.append(&[moved], Room::default()).await {
                        answer?;
                    }
                }
                _ => self.inner.settle(std::slice::from_ref(verdict)).await?,
            }
        }
        Ok(())
    }

    async fn evict_newest(&self, eviction: Eviction) -> Result<Vec<Evicted>, StoreError> {
        let mut evicted = Vec::new();
        for object in self.all(&[ObjectState::Failed]).await?.into_iter().rev() {
            if evicted.len() as u64 >= eviction.objects {
                break;
            }
            let removal = Verdict {
                id: object.id,
                action: Action::Remove,
            };
            self.inner.settle(&[removal]).await?;
            evicted.push(Evicted {
                id: object.id,
                pipeline_id: object.pipeline_id,
                correlation_id: object.correlation_id,
                payload_bytes: object.payload.len() as u64,
            });
        }
        Ok(evicted)
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

/// With the version every object of the suite begins with.
fn with_stale_version(action: &Action) -> Action {
    let mut action = action.clone();
    let progress = match &mut action {
        Action::Release { progress, .. } => progress.as_mut(),
        Action::RetryLater(failure)
        | Action::GiveUp {
            failure: Some(failure),
            ..
        } => failure.progress.as_mut(),
        _ => None,
    };
    if let Some(progress) = progress {
        progress.version = conformance::object(1).version;
    }
    action
}

impl RetryQueue for Faulty {
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>> {
        Box::pin(async move {
            let waiting = || async {
                self.inner
                    .stats()
                    .await
                    .map(|stats| stats.waiting())
                    .unwrap_or_default()
            };
            let more = |limit: std::num::NonZeroU64| limit.saturating_add(1);
            match self.fault {
                Fault::AcknowledgedTooEarly if objects.len() > 1 => {
                    let mut answers = self.inner.append(&objects[..objects.len() - 1], room).await;
                    answers.push(Ok(i64::MAX));
                    answers
                }
                Fault::LateAppend => {
                    self.late.lock().unwrap().extend_from_slice(objects);
                    tokio::task::yield_now().await;
                    self.late.lock().unwrap().clear();
                    self.inner.append(objects, room).await
                }
                Fault::LimitOffByOne => {
                    let room = Room {
                        max_items: room.max_items.map(more),
                        ..room
                    };
                    self.inner.append(objects, room).await
                }
                Fault::LimitCheckedBefore => {
                    let full = match room.max_items {
                        Some(limit) => waiting().await + objects.len() as u64 > limit.get(),
                        None => false,
                    };
                    tokio::task::yield_now().await;
                    if full {
                        return self.inner.append(objects, room).await;
                    }
                    self.inner.append(objects, Room::default()).await
                }
                Fault::RepeatNeedsRoom => {
                    let waiting = waiting().await;
                    if room.max_items.is_some_and(|limit| waiting >= limit.get()) {
                        let reason = format!("{waiting} objects wait");
                        return StoreError::Full { reason }.for_each(objects.len());
                    }
                    self.inner.append(objects, room).await
                }
                Fault::RefusedRepeat => {
                    let before = waiting().await;
                    let answers = self.inner.append(objects, room).await;
                    if before == waiting().await && before > 0 {
                        return objects
                            .iter()
                            .map(|object| Err(StoreError::Exists(object.id)))
                            .collect();
                    }
                    answers
                }
                _ => self.inner.append(objects, room).await,
            }
        })
    }

    fn claim(&self, mut claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(async move {
            let ordered = claim.ordered;
            match self.fault {
                Fault::UnboundedPage => claim.max_bytes = usize::MAX,
                Fault::PageGap if claim.after_seq > 0 => claim.after_seq += 1,
                Fault::FixedInterval => claim.selection.due = Some(Duration::from_secs(10)),
                Fault::MixedLanes => claim.selection.lane = Lane::Any,
                Fault::Overtaking | Fault::OvertakesWhatRests => claim.ordered = false,
                _ => {}
            }
            let mut page = self.inner.claim(claim.clone()).await?;
            match self.fault {
                Fault::WrongOrder => page.reverse(),
                Fault::ForwardClockOnly => {
                    page.retain(|object| object.last_attempt_at.is_none_or(|at| at <= claim.now));
                }
                Fault::IgnoredLease => self.release(page.iter().map(|object| object.id)).await?,
                Fault::OvertakesWhatRests if ordered => {
                    let mut seen = std::collections::HashSet::new();
                    let key = |object: &StoredObject| {
                        let device = semantics::device(object)?.to_owned();
                        Some((object.pipeline_id.clone(), device))
                    };
                    let (kept, others): (Vec<_>, Vec<_>) = page
                        .into_iter()
                        .partition(|object| key(object).is_none_or(|key| seen.insert(key)));
                    self.release(others.iter().map(|object| object.id)).await?;
                    page = kept;
                }
                Fault::EvictsClaimed => {
                    let ids = page.iter().map(|object| object.id);
                    self.claimed.lock().unwrap().extend(ids);
                }
                _ => {}
            }
            Ok(page)
        })
    }

    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let journaled: Vec<_> = match self.fault {
                Fault::StaysNew => self.all(&[ObjectState::New]).await?,
                _ => Vec::new(),
            };
            let wrong = |verdict: &Verdict| {
                let action = match (self.fault, &verdict.action) {
                    (Fault::LostUpdate, Action::RetryLater(_)) => Action::RELEASE,
                    (Fault::PayloadLostOnGiveUp, action) => without_payload(action),
                    (Fault::StaleVersion, action) => with_stale_version(action),
                    (Fault::ForgottenHistory, Action::Succeed { .. }) => Action::Remove,
                    (_, action) => action.clone(),
                };
                let released = matches!(action, Action::Release { .. });
                let stays = released && journaled.iter().any(|object| object.id == verdict.id);
                (!stays).then_some(Verdict {
                    id: verdict.id,
                    action,
                })
            };
            let mut verdicts: Vec<_> = verdicts.iter().filter_map(wrong).collect();
            match self.fault {
                Fault::NonAtomicMove => return self.move_in_two_steps(&verdicts).await,
                Fault::TornPage if verdicts.len() > 1 => {
                    let rest = verdicts.split_off(verdicts.len() / 2);
                    self.release(rest.iter().map(|verdict| verdict.id)).await?;
                }
                _ => {}
            }
            self.inner.settle(&verdicts).await?;
            let late = std::mem::take(&mut *self.late.lock().unwrap());
            self.inner.append(&late, Room::default()).await;
            if self.is(Fault::LateRelease) {
                tokio::task::yield_now().await;
                self.release(verdicts.iter().map(|verdict| verdict.id)).await?;
            }
            Ok(())
        })
    }

    fn lanes(
        &self,
        interval: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>> {
        Box::pin(async move {
            let interval = match self.fault {
                Fault::LaneWithoutInterval => Duration::ZERO,
                _ => interval,
            };
            let mut lanes = self.inner.lanes(interval, now).await?;
            if self.is(Fault::ForgottenLane) {
                lanes.retain(|lane| lane.destination.is_some());
            }
            Ok(lanes)
        })
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            if self.is(Fault::ForgottenJournal) {
                let failed = self.all(&[ObjectState::Failed]).await?;
                return Ok(failed.iter().any(|object| {
                    object.pipeline_id == *pipeline_id && semantics::device(object) == Some(device)
                }));
            }
            self.inner.is_waiting(pipeline_id, device).await
        })
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        Box::pin(async move {
            match self.fault {
                Fault::EvictsTheNewest => return self.evict_newest(eviction).await,
                Fault::EvictsClaimed => {
                    let claimed = std::mem::take(&mut *self.claimed.lock().unwrap());
                    self.release(claimed).await?;
                }
                _ => {}
            }
            self.inner.evict(eviction).await
        })
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            match (self.fault, sweep) {
                (Fault::SweepsTooMuch, Sweep::TooOld { before, at }) => {
                    let before = before.saturating_add(Duration::from_millis(1));
                    self.inner.sweep(Sweep::TooOld { before, at }, limit).await
                }
                (Fault::EndlessSweep, sweep) => self.inner.sweep(sweep, usize::MAX).await,
                (_, sweep) => self.inner.sweep(sweep, limit).await,
            }
        })
    }

    fn redrive(&self, mut page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(async move {
            match self.fault {
                Fault::RedrivesTooMuch => page.filter.pipeline_ids.clear(),
                Fault::RunsInCircles => {
                    page.after_seq = 0;
                    page.filter.ended_before = None;
                }
                _ => {}
            }
            let redriven = self.inner.redrive(page).await?;
            if self.is(Fault::RedriveKeepsWaiting) {
                let later = Timestamp::from_unix_millis(i64::MAX);
                let wait = |object: StoredObject| Verdict {
                    id: object.id,
                    action: Action::Release {
                        not_before: Some(later),
                        last_error: None,
                        destination: None,
                        progress: None,
                    },
                };
                let redriven = self.all(&[ObjectState::Failed]).await?;
                let verdicts: Vec<_> = redriven
                    .into_iter()
                    .filter(|o| o.attempts == 0)
                    .map(wait)
                    .collect();
                self.inner.settle(&verdicts).await?;
            }
            Ok(redriven)
        })
    }

    fn purge(&self, mut page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        if self.is(Fault::PurgesTooMuch) {
            page.filter.devices.clear();
        }
        self.inner.purge(page)
    }

    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>> {
        Box::pin(async move {
            let mut groups = self.inner.survey(filter).await?;
            if self.is(Fault::SurveyLumps) {
                groups.dedup_by(|next, group| {
                    let same = next.pipeline_id == group.pipeline_id;
                    group.count.objects += if same { next.count.objects } else { 0 };
                    same
                });
            }
            Ok(groups)
        })
    }

    fn list(&self, mut request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            if self.is(Fault::PageGap) && request.after_seq > 0 {
                request.after_seq += 1;
            }
            let mut page = self.inner.list(request).await?;
            match self.fault {
                Fault::ForgottenRest => page.next_after_seq = None,
                Fault::ForgottenErrors => page.objects.iter_mut().for_each(|object| {
                    object.errors = object
                        .errors
                        .as_slice()
                        .iter()
                        .rev()
                        .take(12)
                        .rev()
                        .cloned()
                        .collect();
                }),
                _ => {}
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

/// Fails unless the case with this name notices the fault, and only because of it.
async fn is_noticed(fault: Fault, name: &str) {
    let case = QUEUE_CASES.iter().find(|case| case.name == name).unwrap();
    assert_eq!((case.run)(&Faulty::new(Fault::None)).await, Ok(()));
    let noticed = (case.run)(&Faulty::new(fault)).await;
    assert!(noticed.is_err(), "{fault:?} goes unnoticed by {name}");
}

#[tokio::test]
async fn a_right_store_is_not_accused() {
    for case in QUEUE_CASES {
        assert_eq!(
            (case.run)(&Faulty::new(Fault::None)).await,
            Ok(()),
            "{}",
            case.name
        );
    }
    for seed in 0..20 {
        assert_eq!(
            conformance::model(&Faulty::new(Fault::None), seed, 150).await,
            Ok(()),
            "{seed}"
        );
    }
}

#[tokio::test]
async fn the_model_test_notices_faults_on_its_own() {
    for fault in [
        Fault::LostUpdate,
        Fault::TornPage,
        Fault::WrongOrder,
        Fault::IgnoredLease,
        Fault::PayloadLostOnGiveUp,
        Fault::NonAtomicMove,
        Fault::PageGap,
        Fault::UnboundedPage,
        Fault::ForwardClockOnly,
        Fault::StaleStats,
        Fault::LimitOffByOne,
        Fault::MixedLanes,
        Fault::ForgottenLane,
        Fault::LaneWithoutInterval,
        Fault::Overtaking,
        Fault::OvertakesWhatRests,
        Fault::StaysNew,
        Fault::StaleVersion,
        Fault::ForgottenHistory,
        Fault::ForgottenJournal,
        Fault::EvictsTheNewest,
        Fault::EvictsClaimed,
        Fault::EndlessSweep,
        Fault::RedrivesTooMuch,
        Fault::RedriveKeepsWaiting,
        Fault::PurgesTooMuch,
        Fault::SurveyLumps,
    ] {
        let mut noticed = false;
        for seed in 0..20 {
            noticed |= conformance::model(&Faulty::new(fault), seed, 150).await.is_err();
        }
        assert!(noticed, "{fault:?}");
    }
}

/// A store that remembers no claims over a crash must not pass for one that does.
#[tokio::test]
#[should_panic(expected = "before attempt 1")]
async fn forgotten_crash_marks_are_noticed() {
    let client = std::sync::Arc::new(edgehold_store::MemoryClient::default());
    let store = conformance::TestStore::new(move || {
        let client = client.clone();
        async {
            edgehold_store::StoreClientQueue::open(client, service_key())
                .await
                .unwrap()
        }
    });
    conformance::run_crash_case("three_crashes_in_a_row_end_in_the_error_collection", store).await;
}
