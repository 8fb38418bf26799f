//! The suite every store must pass.
//!
//! A case is a function over `&dyn RetryQueue` that answers what is wrong. [`queue_conformance!`](crate::queue_conformance)
//! makes a test of each, [`restart_conformance!`](crate::restart_conformance) of those that need a store that keeps
//! its objects, [`crash_conformance!`](crate::crash_conformance) of those that need one which remembers claims over a
//! crash, and [`client_conformance!`](crate::client_conformance) of those for a [`StoreClient`]. [`model`] compares
//! a store with the memory store over random operations; the first macro includes it.
//!
//! A bug found in one store becomes a case here first. Each case must be able to fail: `tests/conformance.rs` runs all
//! of them against stores that are wrong in one way each.
//!
//! ```
//! use edgehold_store::{MemoryQueue, RetryQueue, conformance::{self, TestStore}};
//!
//! /// A fresh, empty store, and a way to open it again.
//! async fn make_store() -> TestStore {
//!     TestStore::new(|| async { MemoryQueue::new(conformance::service_key()) })
//! }
//!
//! # mod tests { use super::*;
//! edgehold_store::queue_conformance!(make_store);
//! # }
//! # fn main() {}
//! ```

pub(crate) mod append;
mod batched;
mod client;
mod error_collection;
mod look;
mod maintain;
mod model;
mod ordered;
mod restart;
mod settle;
mod take;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use edgehold_core::{
    BoxFuture, CorrelationId, DataKind, Destination, ObjectState, PipelineId, PipelineVersion, ServiceKey,
    StoredInput, StoredObject, StoredObjectId, Timestamp,
    retry::{Action, Failure, Verdict},
};
use uuid::Uuid;

use crate::{
    Claim, ErrorPage, Lane, LaneStatus, ListRequest, Moved, ObjectFilter, RetryQueue, Room, Selection,
    StoreClient, StoreError, Suspects,
};

pub use model::model;

/// What a case found: nothing, or what is wrong.
pub type Outcome = Result<(), String>;

/// A case for a queue that is fresh and empty.
#[derive(Clone, Copy)]
pub struct QueueCase {
    /// Its name, a sentence.
    pub name: &'static str,
    /// Runs it.
    pub run: for<'a> fn(&'a dyn RetryQueue) -> BoxFuture<'a, Outcome>,
}

/// A store made for one test, empty and of the service [`service_key`].
///
/// It holds how the store is opened, and whatever has to live as long as the store (a folder, a server).
pub struct TestStore {
    open: Box<dyn Fn() -> BoxFuture<'static, Arc<dyn RetryQueue>> + Send + Sync>,
}

impl TestStore {
    /// `open` opens the same store each time it is called; the one opened before is closed by then.
    pub fn new<Queue, Opening>(open: impl Fn() -> Opening + Send + Sync + 'static) -> Self
    where
        Queue: RetryQueue + 'static,
        Opening: Future<Output = Queue> + Send + 'static,
    {
        Self {
            open: Box::new(move || {
                let opening = open();
                Box::pin(async move { Arc::new(opening.await) as Arc<dyn RetryQueue> })
            }),
        }
    }

    /// Opens the store.
    pub async fn open(&self) -> Arc<dyn RetryQueue> {
        (self.open)().await
    }
}

/// Defines the list of cases and the macro that makes tests of them, so that neither can miss one. `$d` is a dollar
/// sign: the only way to write one inside a macro that is made by a macro.
macro_rules! queue_cases {
    ($d:tt $($module:ident :: $name:ident,)*) => {
        /// All cases for a queue, the model test with a few seeds not included.
        pub const QUEUE_CASES: &[QueueCase] =
            &[$(QueueCase { name: stringify!($name), run: |queue| Box::pin($module::$name(queue)) },)*];

        /// Runs the queue case with this name on a fresh store.
        ///
        /// # Panics
        /// When the store breaks the contract, saying how; for an unknown name.
        pub async fn run_queue_case(name: &str, store: TestStore) {
            let case = QUEUE_CASES.iter().find(|case| case.name == name).expect("the macro knows its cases");
            let queue = store.open().await;
            let outcome = (case.run)(&*queue).await;
            queue.close().await;
            assert_eq!(outcome, Ok(()), "{name}");
        }

        /// Makes a `#[tokio::test]` of every queue case. Takes an `async fn() -> TestStore` that makes a fresh store.
        #[macro_export]
        macro_rules! queue_conformance {
            ($d make_store:path) => {
                $(
                    #[tokio::test]
                    async fn $name() {
                        $crate::conformance::run_queue_case(stringify!($name), $d make_store().await).await;
                    }
                )*

                #[tokio::test]
                async fn random_operations_answer_as_the_memory_store_does() {
                    for seed in 0..20 {
                        $crate::conformance::run_model(seed, $d make_store().await).await;
                    }
                }
            };
        }
    };
}

queue_cases! { $
    append::every_field_survives,
    append::payloads_of_every_size_survive,
    append::answers_come_in_order_with_growing_seq,
    append::appending_again_is_the_same,
    append::appending_again_after_an_attempt_is_the_same,
    append::other_content_under_the_same_id_is_refused,
    append::an_id_twice_in_one_call_is_kept_once,
    append::a_dropped_append_does_not_come_after_what_is_asked_next,
    append::an_object_of_another_service_is_refused,
    append::a_thousand_objects_keep_their_order,
    append::concurrent_appends_are_all_kept,
    append::what_has_no_room_is_refused_by_name,
    append::concurrent_appends_never_exceed_the_room,
    take::claims_come_in_the_order_of_appending,
    take::a_page_ends_at_the_limit_and_the_cursor_goes_on,
    take::a_page_ends_at_its_bytes,
    take::a_claimed_object_is_handed_out_once,
    take::concurrent_claims_never_share_an_object,
    take::concurrent_passes_attempt_each_object_once,
    take::a_claim_is_not_ended_by_the_verdict_before_it,
    take::a_dropped_claim_is_given_back,
    take::the_interval_of_the_claim_decides_what_is_due,
    take::not_before_is_respected_whatever_the_interval,
    take::an_attempt_in_the_future_counts_as_long_ago,
    take::an_object_never_attempted_is_due_at_once,
    take::only_failed_objects_are_handed_out,
    take::few_due_objects_behind_many_are_found_in_order,
    take::a_destination_is_claimed_due_or_not,
    take::a_lane_holds_only_its_own_objects,
    take::few_due_objects_of_a_lane_are_found_behind_many,
    take::nobody_is_a_suspect_without_a_crash,
    ordered::only_the_oldest_of_a_device_is_handed_out,
    ordered::what_is_not_due_holds_back_what_is_behind_it,
    ordered::one_at_a_time_of_a_device_also_when_the_setting_changes,
    ordered::what_is_redriven_comes_before_what_came_later,
    ordered::passes_side_by_side_keep_the_order,
    batched::a_verdict_puts_any_waiting_object_into_a_batch,
    batched::what_is_batched_is_left_alone,
    batched::what_is_batched_holds_nobody_back,
    batched::what_is_batched_needs_room,
    settle::a_removed_object_is_gone,
    settle::every_verdict_may_be_repeated,
    settle::a_verdict_for_an_unknown_object_is_no_error,
    settle::retry_later_changes_the_counts_and_nothing_else,
    settle::progress_replaces_what_the_next_attempt_needs,
    settle::a_journaled_object_becomes_a_failed_one,
    settle::a_release_changes_only_what_it_names,
    settle::a_release_may_move_on,
    settle::a_success_is_kept_as_history,
    settle::giving_up_keeps_the_payload_whole,
    settle::giving_up_without_a_failure_keeps_the_last_one,
    settle::a_late_verdict_does_not_wake_a_given_up_object,
    settle::remove_purges_the_error_collection,
    settle::one_page_holds_every_kind_of_verdict,
    settle::a_large_page_of_verdicts_is_settled,
    look::a_list_shows_what_was_asked_for,
    look::listed_pages_have_no_gap_while_objects_leave,
    look::a_list_page_is_bounded_by_bytes,
    look::claimed_objects_are_listed,
    look::statistics_are_exact,
    look::the_oldest_waiting_object_is_known,
    look::a_lane_is_due_at_its_earliest_unclaimed_moment,
    look::every_destination_is_a_lane,
    look::an_attempt_in_the_future_is_due_in_its_lane,
    look::a_device_waits_until_its_last_object_has_ended,
    maintain::eviction_takes_the_oldest_unclaimed_ones,
    maintain::eviction_frees_as_many_bytes_as_were_asked_for,
    maintain::eviction_spares_what_is_no_backlog,
    maintain::what_is_evicted_while_claims_go_on_is_never_handed_out,
    maintain::the_too_old_go_to_the_error_collection,
    maintain::history_and_dead_letters_are_removed_when_their_time_has_come,
    maintain::the_first_dead_letters_leave_when_there_are_too_many,
    maintain::a_receipt_is_found_until_it_is_removed,
    error_collection::a_redriven_object_begins_anew,
    error_collection::every_attempt_is_on_record,
    error_collection::a_filter_selects_what_fits_all_of_it,
    error_collection::what_cannot_be_read_is_redriven_only_by_name,
    error_collection::a_page_ends_at_its_limit_and_the_next_one_goes_on,
    error_collection::a_run_takes_each_object_once_though_it_comes_back,
    error_collection::runs_side_by_side_take_no_object_twice,
    error_collection::what_waits_or_was_delivered_is_no_part_of_the_collection,
    error_collection::a_survey_counts_by_pipeline_and_reason,
    look::a_closed_store_says_so,
}

/// Runs the model test with this seed on a fresh store.
///
/// # Panics
/// When the store answers otherwise than the memory store.
pub async fn run_model(seed: u64, store: TestStore) {
    let queue = store.open().await;
    let outcome = model(&*queue, seed, 150).await;
    queue.close().await;
    assert_eq!(outcome, Ok(()), "seed {seed}");
}

macro_rules! restart_cases {
    ($d:tt $($name:ident,)*) => {
        /// Runs the restart case with this name on a fresh store.
        ///
        /// # Panics
        /// When the store breaks the contract, saying how; for an unknown name.
        pub async fn run_restart_case(name: &str, store: TestStore) {
            let outcome = match name {
                $(stringify!($name) => restart::$name(&store).await,)*
                _ => Err("there is no such case".to_owned()),
            };
            assert_eq!(outcome, Ok(()), "{name}");
        }

        /// Makes a `#[tokio::test]` of every case for a store that keeps its objects over a restart. Takes an
        /// `async fn() -> TestStore` that makes a fresh store.
        #[macro_export]
        macro_rules! restart_conformance {
            ($d make_store:path) => {
                $(
                    #[tokio::test]
                    async fn $name() {
                        $crate::conformance::run_restart_case(stringify!($name), $d make_store().await).await;
                    }
                )*
            };
        }
    };
}

restart_cases! { $
    everything_is_there_after_a_restart,
    a_restart_ends_claims,
    a_journaled_object_is_due_after_a_restart,
    what_was_batched_waits_after_a_restart_and_is_no_suspect,
    new_objects_come_behind_what_was_there,
    a_journaled_object_is_a_suspect_after_a_restart,
}

macro_rules! crash_cases {
    ($d:tt $($name:ident,)*) => {
        /// Runs the crash case with this name on a fresh store.
        ///
        /// # Panics
        /// When the store breaks the contract, saying how; for an unknown name.
        pub async fn run_crash_case(name: &str, store: TestStore) {
            let outcome = match name {
                $(stringify!($name) => restart::$name(&store).await,)*
                _ => Err("there is no such case".to_owned()),
            };
            assert_eq!(outcome, Ok(()), "{name}");
        }

        /// Makes a `#[tokio::test]` of every case for a store that remembers over a crash which objects were claimed.
        /// Takes an `async fn() -> TestStore` that makes a fresh store.
        #[macro_export]
        macro_rules! crash_conformance {
            ($d make_store:path) => {
                $(
                    #[tokio::test]
                    async fn $name() {
                        $crate::conformance::run_crash_case(stringify!($name), $d make_store().await).await;
                    }
                )*
            };
        }
    };
}

crash_cases! { $
    three_crashes_in_a_row_end_in_the_error_collection,
    only_crashes_in_a_row_count,
}

macro_rules! client_cases {
    ($d:tt $($name:ident,)*) => {
        /// Runs the client case with this name on a client whose store is empty.
        ///
        /// # Panics
        /// When the client breaks the contract, saying how; for an unknown name.
        pub async fn run_client_case(name: &str, store: Arc<dyn StoreClient>) {
            let outcome = match name {
                $(stringify!($name) => client::$name(&*store).await,)*
                _ => Err("there is no such case".to_owned()),
            };
            store.disconnect().await;
            assert_eq!(outcome, Ok(()), "{name}");
        }

        /// Makes a `#[tokio::test]` of every case for a `StoreClient`. Takes an `async fn() -> Arc<dyn StoreClient>`
        /// that makes a client of an empty store.
        #[macro_export]
        macro_rules! client_conformance {
            ($d make_client:path) => {
                $(
                    #[tokio::test]
                    async fn $name() {
                        $crate::conformance::run_client_case(stringify!($name), $d make_client().await).await;
                    }
                )*
            };
        }
    };
}

client_cases! { $
    a_client_gives_every_field_back,
    a_client_answers_in_order_of_id_page_by_page,
    a_client_refuses_an_id_it_has,
    a_client_updates_only_what_is_there,
    a_client_removes_and_forgets,
    a_client_keeps_services_apart,
}

/// Answers with what is wrong unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// Answers with both sides unless they are equal.
macro_rules! ensure_eq {
    ($found:expr, $wanted:expr, $($message:tt)+) => {
        match (&$found, &$wanted) {
            (found, wanted) if *found == *wanted => {}
            (found, wanted) => {
                return Err(format!("{}\n  found:  {found:?}\n  wanted: {wanted:?}", format!($($message)+)));
            }
        }
    };
}

use {ensure, ensure_eq};

/// The service every store under test is opened for.
pub fn service_key() -> ServiceKey {
    ServiceKey::try_new("app-conformance").expect("it is a valid service key")
}

/// A moment, in seconds of the suite's own time.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_700_000_000_000 + seconds * 1_000)
}

/// The id of the object with this number. Ids do not sort as numbers do, so that a store that orders by id is found out.
pub fn id(number: u64) -> StoredObjectId {
    let scrambled = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    StoredObjectId::from_uuid(Uuid::from_u64_pair(scrambled, number))
}

/// A small object that waits and was never attempted.
pub fn object(number: u64) -> StoredObject {
    StoredObject {
        id: id(number),
        seq: 0,
        service_key: service_key(),
        pipeline_id: PipelineId::default_pipeline(),
        position: 1,
        version: PipelineVersion::from_stored("0123456789abcdef"),
        correlation_id: CorrelationId::new("correlation"),
        context: BTreeMap::from([("devicename".to_owned(), "pump-1".to_owned())]),
        input: StoredInput::Bytes {
            kind: DataKind::Bytes,
        },
        payload: Bytes::from(format!("payload {number}")),
        attempts: 1,
        state: ObjectState::Failed,
        created_at: at(0),
        last_attempt_at: None,
        not_before: None,
        last_error: None,
        errors: Default::default(),
        reason: None,
        destination: None,
        ended_at: None,
        crashes: 0,
    }
}

/// Objects with these numbers.
fn objects(numbers: impl IntoIterator<Item = u64>) -> Vec<StoredObject> {
    numbers.into_iter().map(object).collect()
}

fn ids(objects: &[StoredObject]) -> Vec<StoredObjectId> {
    objects.iter().map(|object| object.id).collect()
}

fn failure(attempts: u32, when: Timestamp) -> Failure {
    Failure {
        attempts,
        at: when,
        error: format!("attempt {attempts} failed"),
        not_before: None,
        destination: None,
        progress: None,
    }
}

fn verdict(id: StoredObjectId, action: Action) -> Verdict {
    Verdict { id, action }
}

const REST: Duration = Duration::from_secs(10);

/// What is due with this pause, whatever its destination.
fn due(interval: Duration) -> Selection {
    Selection {
        lane: Lane::Any,
        due: Some(interval),
    }
}

/// What waits in a lane, due or not.
fn all_of(lane: Lane) -> Selection {
    Selection { lane, due: None }
}

/// Everything that is due long after `at(0)`.
fn claim_due() -> Claim {
    Claim {
        selection: due(REST),
        suspects: Suspects::Exclude,
        ordered: false,
        after_seq: 0,
        now: at(100_000),
        limit: 1_000,
        max_bytes: 64 << 20,
    }
}

fn list_all() -> ListRequest {
    ListRequest {
        states: ObjectState::ALL.to_vec(),
        filter: ObjectFilter::default(),
        after_seq: 0,
        limit: 100,
    }
}

/// Appends and expects every object to be kept.
async fn append(queue: &dyn RetryQueue, objects: &[StoredObject]) -> Result<Vec<i64>, String> {
    let answers = queue.append(objects, Room::default()).await;
    ensure_eq!(
        answers.len(),
        objects.len(),
        "one answer for each appended object"
    );
    let kept = |(place, answer)| match answer {
        Ok(seq) => Ok(seq),
        Err(error) => Err(format!("object {place} was not kept: {error}")),
    };
    answers.into_iter().enumerate().map(kept).collect()
}

/// The first page of all of the error collection.
fn error_page() -> ErrorPage {
    ErrorPage {
        filter: ObjectFilter::default(),
        after_seq: 0,
        limit: 100,
    }
}

async fn redrive(queue: &dyn RetryQueue, page: ErrorPage) -> Result<Moved, String> {
    queue
        .redrive(page.clone())
        .await
        .map_err(|error| format!("re-driving {page:?} failed: {error}"))
}

async fn purge(queue: &dyn RetryQueue, page: ErrorPage) -> Result<Moved, String> {
    queue
        .purge(page.clone())
        .await
        .map_err(|error| format!("purging {page:?} failed: {error}"))
}

async fn claim(queue: &dyn RetryQueue, claim: Claim) -> Result<Vec<StoredObject>, String> {
    queue
        .claim(claim.clone())
        .await
        .map_err(|error| format!("{claim:?} failed: {error}"))
}

async fn lanes(
    queue: &dyn RetryQueue,
    interval: Duration,
    now: Timestamp,
) -> Result<Vec<LaneStatus>, String> {
    queue
        .lanes(interval, now)
        .await
        .map_err(|error| format!("lanes failed: {error}"))
}

async fn settle(queue: &dyn RetryQueue, verdicts: &[Verdict]) -> Outcome {
    queue
        .settle(verdicts)
        .await
        .map_err(|error| format!("settling failed: {error}"))
}

/// All pages of a list.
async fn list(queue: &dyn RetryQueue, mut request: ListRequest) -> Result<Vec<StoredObject>, String> {
    let mut all = Vec::new();
    loop {
        let page = queue
            .list(request.clone())
            .await
            .map_err(|error| format!("{request:?} failed: {error}"))?;
        ensure!(
            page.objects.len() <= request.limit,
            "a page of {} is over the limit",
            page.objects.len()
        );
        all.extend(page.objects);
        match page.next_after_seq {
            None => return Ok(all),
            Some(next) => {
                ensure!(
                    next > request.after_seq,
                    "the next page begins at {next}, not after this one"
                );
                request.after_seq = next;
            }
        }
    }
}

/// The object with this id as the store has it now.
async fn find(queue: &dyn RetryQueue, id: StoredObjectId) -> Result<StoredObject, String> {
    let found = list(queue, list_all())
        .await?
        .into_iter()
        .find(|object| object.id == id);
    found.ok_or_else(|| format!("object {id} is not listed"))
}

async fn stats(queue: &dyn RetryQueue) -> Result<crate::StoreStats, String> {
    queue
        .stats()
        .await
        .map_err(|error| format!("stats failed: {error}"))
}
