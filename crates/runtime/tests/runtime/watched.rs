//! A store that tells a test what happens to it.

use edgehold_core::{Timestamp, retry::Verdict};
use edgehold_store::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, LaneStatus, Moved, ObjectFilter, Page, Room, StoreError,
    StoreStats, Sweep,
};
use tokio::sync::Semaphore;

use crate::*;

/// A store that notes what is claimed, and whose appends are done at once and answered when the test lets them.
pub(crate) struct Watched {
    queue: Arc<dyn RetryQueue>,
    pub(crate) answers: Semaphore,
    claims: Mutex<Vec<Claim>>,
}

impl Watched {
    pub(crate) fn new(queue: Arc<dyn RetryQueue>) -> Self {
        Self {
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
            ..Self::answering_late(queue)
        }
    }

    pub(crate) fn answering_late(queue: Arc<dyn RetryQueue>) -> Self {
        Self {
            queue,
            answers: Semaphore::new(0),
            claims: Mutex::default(),
        }
    }

    /// What was claimed since the last call.
    pub(crate) fn claims(&self) -> Vec<Claim> {
        std::mem::take(&mut *self.claims.lock().unwrap())
    }
}

impl RetryQueue for Watched {
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>> {
        Box::pin(async move {
            let answers = self.queue.append(objects, room).await;
            self.answers.acquire().await.unwrap().forget();
            answers
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>> {
        self.claims.lock().unwrap().push(claim.clone());
        self.queue.claim(claim)
    }

    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.queue.settle(verdicts)
    }

    fn lanes(
        &self,
        interval: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>> {
        self.queue.lanes(interval, now)
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.queue.is_waiting(pipeline_id, device)
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        self.queue.evict(eviction)
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.queue.sweep(sweep, limit)
    }

    fn redrive(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        self.queue.redrive(page)
    }

    fn purge(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        self.queue.purge(page)
    }

    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>> {
        self.queue.survey(filter)
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.queue.list(request)
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        self.queue.stats()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.queue.close()
    }
}
