//! The metrics that are numbers somebody keeps anyway: the books, the store, the destinations, the settings.
//!
//! Owns nothing but the reading of them, so that a metric can never say anything else than they do.

use std::sync::Arc;

use edgehold_config::Effective;
use edgehold_core::BoxFuture;
use edgehold_runtime::{Books, BooksSnapshot, Destinations, DropReason, QueueHandle, StoreState};
use edgehold_store::StoreStats;
use edgehold_telemetry::{Reading, Selection, Series, Source, names};
use tokio::sync::watch;

/// Where the numbers are.
pub(crate) struct KeptNumbers {
    pub(crate) books: Arc<Books>,
    pub(crate) queue: QueueHandle,
    pub(crate) destinations: Arc<Destinations>,
    pub(crate) effective: watch::Receiver<Arc<Effective>>,
}

impl KeptNumbers {
    /// What the store holds, by its own count. None when it cannot say so, though it holds something or may do so.
    async fn store(&self) -> Option<StoreStats> {
        let queue = match &*self.queue.borrow() {
            StoreState::Open(queue) => Some(queue.clone()),
            StoreState::Opening | StoreState::Failed(_) => None,
        };
        let effective = self.effective.borrow().clone();
        match queue {
            Some(queue) => queue.stats().await.ok(),
            // As in EdgeX: what an earlier time has left behind counts once Store and Forward is on.
            None if !effective.configuration.writable.store_and_forward.enabled => {
                Some(StoreStats::default())
            }
            None => None,
        }
    }
}

impl Source for KeptNumbers {
    fn read<'a>(&'a self, selection: Selection<'a>) -> BoxFuture<'a, Vec<Series>> {
        Box::pin(async move {
            let mut all = of_books(&self.books.snapshot());
            for (destination, open) in self.destinations.open_breakers() {
                let reading = Reading::Gauge(open.into());
                all.push(Series::of(
                    names::BREAKER_OPEN,
                    names::DESTINATION_TAG,
                    destination.as_str(),
                    reading,
                ));
            }
            let rejected = self.effective.borrow().rejected.len();
            all.push(Series::new(
                names::CONFIGURATION_REJECTED,
                Reading::Gauge(i64::try_from(rejected).unwrap_or(i64::MAX)),
            ));
            let of_store = [names::STORE_FORWARD_QUEUE_SIZE, names::STORE_FORWARD_DEAD_LETTERS];
            // The store is asked only for somebody.
            if of_store.iter().any(|name| selection.wants(name))
                && let Some(stats) = self.store().await
            {
                // What was journaled or waits in a batch has not failed, and is in no queue of EdgeX's.
                let waiting = Reading::Counter(number(stats.failed.objects));
                let dead = Reading::Gauge(number(stats.error.objects));
                all.push(Series::new(names::STORE_FORWARD_QUEUE_SIZE, waiting));
                all.push(Series::new(names::STORE_FORWARD_DEAD_LETTERS, dead));
            }
            all
        })
    }
}

fn of_books(books: &BooksSnapshot) -> Vec<Series> {
    let dropped = [
        (DropReason::NotPersistent, books.dropped_not_persistent),
        (
            DropReason::StoreAndForwardDisabled,
            books.dropped_store_and_forward_disabled,
        ),
        (DropReason::PipelineChanged, books.dropped_pipeline_changed),
        (DropReason::NotStorable, books.dropped_not_storable),
        (DropReason::Capacity, books.dropped_capacity),
        (
            DropReason::DeadLetterRetention,
            books.dropped_dead_letter_retention,
        ),
    ];
    let dropped = dropped.map(|(reason, runs)| {
        let reading = Reading::Counter(number(runs));
        Series::of(names::RUNS_DROPPED, names::REASON_TAG, reason.as_str(), reading)
    });
    let messages = [
        (names::MESSAGES_RECEIVED, books.received),
        (names::INVALID_MESSAGES_RECEIVED, books.undecodable),
    ];
    let messages = messages.map(|(name, count)| Series::new(name, Reading::Counter(number(count))));
    messages.into_iter().chain(dropped).collect()
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
