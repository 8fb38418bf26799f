//! The books: every pipeline run that was started is accounted for.
//!
//! ```text
//! started + carried over + undecodable stored
//!     = completed + filtered + batched + waiting + error collection + dropped{reason} + in flight
//! ```
//!
//! The unit is the pipeline run: one delivery in one pipeline. `waiting` and `error collection` are the store's own
//! counts; `carried over` is what the store held when it was opened. A run in the journal waits; what is in flight is
//! only in memory. A re-drive moves runs from the error collection back to those that wait: the sum stays. When a batch of so many runs is exported, filtered or stored, all but one of them end as `batched`: it
//! goes on as one run. Until then each of them waits, or is in flight where the store does not have it. Deliveries that never became a run are counted apart: unmatched and undecodable ones, of which the
//! latter may be in the error collection too. So is what was lost before it became a delivery, because its source keeps
//! nothing (`loss`).

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use edgehold_core::ReceptionLoss;
use serde::Serialize;

/// Why a run ended without being delivered, filtered or kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The failing function did not ask for its data to be kept (no PersistOnError).
    NotPersistent,
    /// It did, but Store and Forward is switched off.
    StoreAndForwardDisabled,
    /// Its pipeline no longer fits and `OnPipelineChange` is `discard`.
    PipelineChanged,
    /// The store can never keep it.
    NotStorable,
    /// There was no room and `WhenFull` says to drop.
    Capacity,
    /// It was in the error collection for longer than `DeadLetterRetention`, or beyond `DeadLetterMaxItems`.
    DeadLetterRetention,
    /// Somebody removed it from the error collection.
    Purged,
}

impl DropReason {
    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotPersistent => "not_persistent",
            Self::StoreAndForwardDisabled => "store_and_forward_disabled",
            Self::PipelineChanged => "pipeline_changed",
            Self::NotStorable => "not_storable",
            Self::Capacity => "capacity",
            Self::DeadLetterRetention => "dead_letter_retention",
            Self::Purged => "purged",
        }
    }
}

/// The counters. All are cumulative since the process started.
#[derive(Debug, Default)]
pub struct Books {
    received: AtomicU64,
    undecodable: AtomicU64,
    undecodable_stored: AtomicU64,
    unmatched: AtomicU64,
    started: AtomicU64,
    completed: AtomicU64,
    filtered: AtomicU64,
    batched: AtomicU64,
    in_flight: AtomicU64,
    in_batch: AtomicU64,
    journaled: AtomicU64,
    stored: AtomicU64,
    given_up: AtomicU64,
    redriven: AtomicU64,
    carried_over: AtomicU64,
    failed_attempts: AtomicU64,
    responses_lost: AtomicU64,
    dropped_not_persistent: AtomicU64,
    dropped_store_and_forward_disabled: AtomicU64,
    dropped_pipeline_changed: AtomicU64,
    dropped_not_storable: AtomicU64,
    dropped_capacity: AtomicU64,
    dropped_dead_letter_retention: AtomicU64,
    background_lost: AtomicU64,
    dropped_purged: AtomicU64,
    loss: OnceLock<Arc<ReceptionLoss>>,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BooksSnapshot {
    /// Deliveries taken from the trigger.
    pub received: u64,
    /// Deliveries that could not be decoded.
    pub undecodable: u64,
    /// Of these: set aside in the error collection.
    pub undecodable_stored: u64,
    /// Deliveries no pipeline runs for.
    pub unmatched: u64,
    /// Messages that a source which keeps nothing dropped before they were taken in, because there was no room.
    pub dropped_at_source: u64,
    /// Times in which such a source may have lost messages without a count: its connection was lost.
    pub source_gaps: u64,
    /// Pipeline runs begun from a delivery.
    pub started: u64,
    /// Runs whose every function succeeded, at first or on a retry.
    pub completed: u64,
    /// Runs a function ended without error.
    pub filtered: u64,
    /// Runs that ended as part of a batch, which itself counts as one run more.
    pub batched: u64,
    /// Runs whose first attempt has not ended and which the store does not have.
    pub in_flight: u64,
    /// Of the runs in flight or waiting: those that wait in a batch of this process.
    pub in_batch: u64,
    /// Runs written to the journal before they ended.
    pub journaled: u64,
    /// Runs kept for a later attempt (each counted once, when it was kept).
    pub stored: u64,
    /// Runs moved to the error collection.
    pub given_up: u64,
    /// Runs taken out of it again, to wait for another attempt.
    pub redriven: u64,
    /// Objects the store held, waiting or in the error collection, when it was opened.
    pub carried_over: u64,
    /// Attempts that failed, retries included.
    pub failed_attempts: u64,
    /// Responses that were not published. Their runs count as what they are.
    pub responses_lost: u64,
    /// Messages handed over for the background that were not published. They are of no run.
    pub background_lost: u64,
    /// Runs dropped by name, in all.
    pub dropped: u64,
    /// Of these: the failing function did not ask for its data to be kept.
    pub dropped_not_persistent: u64,
    /// Of these: Store and Forward was off.
    pub dropped_store_and_forward_disabled: u64,
    /// Of these: discarded because their pipeline changed.
    pub dropped_pipeline_changed: u64,
    /// Of these: the store can never keep them.
    pub dropped_not_storable: u64,
    /// Of these: there was no room.
    pub dropped_capacity: u64,
    /// Of these: the error collection keeps no more, or no longer.
    pub dropped_dead_letter_retention: u64,
    /// Of these: somebody removed them from the error collection.
    pub dropped_purged: u64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Books {
    pub(crate) fn received(&self) {
        add(&self.received);
    }

    pub(crate) fn undecodable(&self) {
        add(&self.undecodable);
    }

    pub(crate) fn undecodable_stored(&self) {
        add(&self.undecodable_stored);
    }

    pub(crate) fn unmatched(&self) {
        add(&self.unmatched);
    }

    /// A run has begun; the guard ends it.
    pub(crate) fn start(self: &Arc<Self>) -> InFlight {
        add(&self.started);
        add(&self.in_flight);
        InFlight {
            books: self.clone(),
            runs: 1,
        }
    }

    /// A run waits in a batch; the guard ends it.
    pub(crate) fn enter_batch(self: &Arc<Self>) -> InBatch {
        add(&self.in_batch);
        InBatch(self.clone())
    }

    pub(crate) fn completed(&self) {
        add(&self.completed);
    }

    pub(crate) fn filtered(&self) {
        add(&self.filtered);
    }

    /// So many runs have ended in another one.
    pub(crate) fn batched(&self, runs: u64) {
        self.batched.fetch_add(runs, Ordering::Relaxed);
    }

    pub(crate) fn journaled(&self) {
        add(&self.journaled);
    }

    pub(crate) fn stored(&self) {
        add(&self.stored);
    }

    pub(crate) fn given_up(&self) {
        add(&self.given_up);
    }

    /// Objects the store has moved to the error collection by itself.
    pub(crate) fn set_aside(&self, objects: u64) {
        self.given_up.fetch_add(objects, Ordering::Relaxed);
    }

    /// Objects were taken out of the error collection, to wait for another attempt.
    pub(crate) fn redriven(&self, objects: u64) {
        self.redriven.fetch_add(objects, Ordering::Relaxed);
    }

    pub(crate) fn response_lost(&self) {
        add(&self.responses_lost);
    }

    pub(crate) fn failed_attempt(&self) {
        add(&self.failed_attempts);
    }

    pub(crate) fn dropped(&self, reason: DropReason) {
        self.dropped_many(reason, 1);
    }

    pub(crate) fn dropped_many(&self, reason: DropReason, runs: u64) {
        let counter = match reason {
            DropReason::NotPersistent => &self.dropped_not_persistent,
            DropReason::StoreAndForwardDisabled => &self.dropped_store_and_forward_disabled,
            DropReason::PipelineChanged => &self.dropped_pipeline_changed,
            DropReason::NotStorable => &self.dropped_not_storable,
            DropReason::Capacity => &self.dropped_capacity,
            DropReason::DeadLetterRetention => &self.dropped_dead_letter_retention,
            DropReason::Purged => &self.dropped_purged,
        };
        counter.fetch_add(runs, Ordering::Relaxed);
    }

    /// Runs that have ended well so far.
    pub(crate) fn ended_well(&self) -> u64 {
        self.completed.load(Ordering::Relaxed) + self.filtered.load(Ordering::Relaxed)
    }

    /// So many messages for the background were not published.
    pub fn background_lost(&self, messages: u64) {
        self.background_lost.fetch_add(messages, Ordering::Relaxed);
    }

    /// Tells of what this source loses, too. The first one counts.
    pub fn tell_loss(&self, loss: Arc<ReceptionLoss>) {
        let _ = self.loss.set(loss);
    }

    /// Notes what a store held when it was opened.
    pub fn carried_over(&self, objects: u64) {
        self.carried_over.fetch_add(objects, Ordering::Relaxed);
    }

    /// The counters now. Taken one after the other: exact when nothing is in flight.
    pub fn snapshot(&self) -> BooksSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let dropped_not_persistent = get(&self.dropped_not_persistent);
        let dropped_store_and_forward_disabled = get(&self.dropped_store_and_forward_disabled);
        let dropped_pipeline_changed = get(&self.dropped_pipeline_changed);
        let dropped_not_storable = get(&self.dropped_not_storable);
        let dropped_capacity = get(&self.dropped_capacity);
        let dropped_dead_letter_retention = get(&self.dropped_dead_letter_retention);
        let dropped_purged = get(&self.dropped_purged);
        BooksSnapshot {
            received: get(&self.received),
            undecodable: get(&self.undecodable),
            undecodable_stored: get(&self.undecodable_stored),
            unmatched: get(&self.unmatched),
            dropped_at_source: self.loss.get().map_or(0, |loss| loss.messages()),
            source_gaps: self.loss.get().map_or(0, |loss| loss.gaps()),
            started: get(&self.started),
            completed: get(&self.completed),
            filtered: get(&self.filtered),
            batched: get(&self.batched),
            in_flight: get(&self.in_flight),
            in_batch: get(&self.in_batch),
            journaled: get(&self.journaled),
            stored: get(&self.stored),
            given_up: get(&self.given_up),
            redriven: get(&self.redriven),
            carried_over: get(&self.carried_over),
            failed_attempts: get(&self.failed_attempts),
            responses_lost: get(&self.responses_lost),
            background_lost: get(&self.background_lost),
            dropped: dropped_not_persistent
                + dropped_store_and_forward_disabled
                + dropped_pipeline_changed
                + dropped_not_storable
                + dropped_capacity
                + dropped_dead_letter_retention
                + dropped_purged,
            dropped_not_persistent,
            dropped_store_and_forward_disabled,
            dropped_pipeline_changed,
            dropped_not_storable,
            dropped_capacity,
            dropped_dead_letter_retention,
            dropped_purged,
        }
    }
}

/// Runs in flight; their end is counted however they end.
#[derive(Debug)]
pub(crate) struct InFlight {
    books: Arc<Books>,
    runs: u64,
}

impl InFlight {
    /// These end together.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.runs += std::mem::take(&mut other.runs);
    }

    /// From now on they are one run.
    pub(crate) fn merge(&mut self) {
        let others = self.runs.saturating_sub(1);
        self.books.in_flight.fetch_sub(others, Ordering::Relaxed);
        self.runs -= others;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.books.in_flight.fetch_sub(self.runs, Ordering::Relaxed);
    }
}

/// A run that waits in a batch.
#[derive(Debug)]
pub(crate) struct InBatch(Arc<Books>);

impl Drop for InBatch {
    fn drop(&mut self) {
        self.0.in_batch.fetch_sub(1, Ordering::Relaxed);
    }
}
