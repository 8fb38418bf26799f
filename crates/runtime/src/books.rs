//! The books: every pipeline run that was started is accounted for.
//!
//! ```text
//! started + carried over = completed + filtered + waiting + error collection + dropped{reason} + in flight
//! ```
//!
//! The unit is the pipeline run: one delivery in one pipeline. `waiting` and `error collection` are the store's own
//! counts; `carried over` is what the store held when it was opened. Deliveries that never became a run are counted
//! apart: unmatched and undecodable ones.

use std::sync::atomic::{AtomicU64, Ordering};

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
}

impl DropReason {
    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotPersistent => "not_persistent",
            Self::StoreAndForwardDisabled => "store_and_forward_disabled",
            Self::PipelineChanged => "pipeline_changed",
            Self::NotStorable => "not_storable",
        }
    }
}

/// The counters. All are cumulative since the process started.
#[derive(Debug, Default)]
pub struct Books {
    received: AtomicU64,
    undecodable: AtomicU64,
    unmatched: AtomicU64,
    started: AtomicU64,
    completed: AtomicU64,
    filtered: AtomicU64,
    in_flight: AtomicU64,
    stored: AtomicU64,
    given_up: AtomicU64,
    carried_over: AtomicU64,
    failed_attempts: AtomicU64,
    dropped_not_persistent: AtomicU64,
    dropped_store_and_forward_disabled: AtomicU64,
    dropped_pipeline_changed: AtomicU64,
    dropped_not_storable: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BooksSnapshot {
    /// Deliveries taken from the trigger.
    pub received: u64,
    /// Deliveries that could not be decoded.
    pub undecodable: u64,
    /// Deliveries no pipeline runs for.
    pub unmatched: u64,
    /// Pipeline runs begun from a delivery.
    pub started: u64,
    /// Runs whose every function succeeded, at first or on a retry.
    pub completed: u64,
    /// Runs a function ended without error.
    pub filtered: u64,
    /// Runs whose first attempt has not ended.
    pub in_flight: u64,
    /// Runs kept for a later attempt (each counted once, when it was kept).
    pub stored: u64,
    /// Runs moved to the error collection.
    pub given_up: u64,
    /// Objects the store held, waiting or in the error collection, when it was opened.
    pub carried_over: u64,
    /// Attempts that failed, retries included.
    pub failed_attempts: u64,
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

    pub(crate) fn unmatched(&self) {
        add(&self.unmatched);
    }

    /// A run has begun; the guard ends it.
    pub(crate) fn start(&self) -> InFlight<'_> {
        add(&self.started);
        add(&self.in_flight);
        InFlight(&self.in_flight)
    }

    pub(crate) fn completed(&self) {
        add(&self.completed);
    }

    pub(crate) fn filtered(&self) {
        add(&self.filtered);
    }

    pub(crate) fn stored(&self) {
        add(&self.stored);
    }

    pub(crate) fn given_up(&self) {
        add(&self.given_up);
    }

    pub(crate) fn failed_attempt(&self) {
        add(&self.failed_attempts);
    }

    pub(crate) fn dropped(&self, reason: DropReason) {
        add(match reason {
            DropReason::NotPersistent => &self.dropped_not_persistent,
            DropReason::StoreAndForwardDisabled => &self.dropped_store_and_forward_disabled,
            DropReason::PipelineChanged => &self.dropped_pipeline_changed,
            DropReason::NotStorable => &self.dropped_not_storable,
        });
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
        BooksSnapshot {
            received: get(&self.received),
            undecodable: get(&self.undecodable),
            unmatched: get(&self.unmatched),
            started: get(&self.started),
            completed: get(&self.completed),
            filtered: get(&self.filtered),
            in_flight: get(&self.in_flight),
            stored: get(&self.stored),
            given_up: get(&self.given_up),
            carried_over: get(&self.carried_over),
            failed_attempts: get(&self.failed_attempts),
            dropped: dropped_not_persistent
                + dropped_store_and_forward_disabled
                + dropped_pipeline_changed
                + dropped_not_storable,
            dropped_not_persistent,
            dropped_store_and_forward_disabled,
            dropped_pipeline_changed,
            dropped_not_storable,
        }
    }
}

/// One run in flight; its end is counted however it ends.
pub(crate) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
