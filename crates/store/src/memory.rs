//! Stores in memory: the reference for behaviour, and what tests and demonstrations run on.
//!
//! Nothing in here survives the process; the first promise ("acknowledged means durable") does not hold with it, and
//! there is no crash to mark an object with.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use edgehold_core::{
    BoxFuture, PipelineId, ServiceKey, StoredObject, StoredObjectId, Timestamp, retry::Verdict,
};

use crate::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, LaneStatus, ListRequest, Moved, ObjectFilter, Page,
    RetryQueue, Room, StoreClient, StoreError, StoreStats, Sweep,
    index::{Header, Index},
    semantics::{self, Applied},
};

/// The `memory` store: a [`RetryQueue`] whose objects end with the process.
#[derive(Debug)]
pub struct MemoryQueue {
    service_key: ServiceKey,
    /// None once it is closed.
    contents: Mutex<Option<Contents>>,
}

#[derive(Debug, Default)]
struct Contents {
    index: Index,
    objects: HashMap<StoredObjectId, StoredObject>,
}

impl MemoryQueue {
    /// An empty store for this service.
    pub fn new(service_key: ServiceKey) -> Self {
        Self {
            service_key,
            contents: Mutex::new(Some(Contents::default())),
        }
    }

    fn contents(&self) -> MutexGuard<'_, Option<Contents>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Contents) -> T) -> Result<T, StoreError> {
        self.contents().as_mut().map(work).ok_or(StoreError::Closed)
    }
}

impl Contents {
    fn append(
        &mut self,
        service_key: &ServiceKey,
        object: &StoredObject,
        room: Room,
    ) -> Result<i64, StoreError> {
        if object.service_key != *service_key {
            return Err(StoreError::foreign(object.id, &object.service_key, service_key));
        }
        if let Some(kept) = self.objects.get(&object.id) {
            let same = semantics::same_content(kept, object);
            return if same {
                Ok(kept.seq)
            } else {
                Err(StoreError::Exists(object.id))
            };
        }
        if object.state.waits() {
            let bytes = semantics::payload_bytes(&object.context, &object.payload);
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            room.admit(self.index.waiting(), bytes)?;
        }
        let seq = self.index.next_seq();
        let object = StoredObject {
            seq,
            crashes: 0,
            ..object.clone()
        };
        self.index.put(seq, Header::of(&object));
        self.objects.insert(object.id, object);
        Ok(seq)
    }

    fn settle(&mut self, verdict: &Verdict) {
        self.index.release(verdict.id);
        let Some(object) = self.objects.get_mut(&verdict.id) else {
            return;
        };
        match semantics::apply(object, &verdict.action) {
            Applied::Removed => self.remove(verdict.id),
            Applied::Changed => self.index.put(object.seq, Header::of(object)),
            Applied::Unchanged => {}
        }
    }

    fn remove(&mut self, id: StoredObjectId) {
        self.index.remove(id);
        self.objects.remove(&id);
    }

    /// Changes these objects; answers how many there were.
    fn change(&mut self, ids: &[StoredObjectId], change: impl Fn(&mut StoredObject)) -> u64 {
        let mut changed = 0;
        for id in ids {
            self.index.release(*id);
            if let Some(object) = self.objects.get_mut(id) {
                change(object);
                self.index.put(object.seq, Header::of(object));
                changed += 1;
            }
        }
        changed
    }

    fn sweep(&mut self, sweep: Sweep, limit: usize) -> u64 {
        let ids = self.index.sweep(&sweep, limit);
        if let Sweep::TooOld { at, .. } = sweep {
            return self.change(&ids, |object| semantics::give_up_as_too_old(object, at));
        }
        ids.iter().for_each(|id| self.remove(*id));
        u64::try_from(ids.len()).unwrap_or(u64::MAX)
    }

    fn objects(&self, ids: &[StoredObjectId]) -> Vec<StoredObject> {
        ids.iter()
            .filter_map(|id| self.objects.get(id))
            .cloned()
            .collect()
    }
}

impl RetryQueue for MemoryQueue {
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>> {
        Box::pin(async move {
            let mut contents = self.contents();
            let append = |object| match contents.as_mut() {
                Some(contents) => contents.append(&self.service_key, object, room),
                None => Err(StoreError::Closed),
            };
            objects.iter().map(append).collect()
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(async move {
            self.with(|contents| {
                let ids = contents.index.claim(&claim);
                contents.objects(&ids)
            })
        })
    }

    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(
            async move { self.with(|contents| verdicts.iter().for_each(|verdict| contents.settle(verdict))) },
        )
    }

    fn lanes(
        &self,
        interval: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>> {
        Box::pin(async move { self.with(|contents| contents.index.lanes(interval, now)) })
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { self.with(|contents| contents.index.is_waiting(pipeline_id, device)) })
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        Box::pin(async move {
            self.with(|contents| {
                let evicted = contents.index.evict(&eviction);
                evicted.iter().for_each(|evicted| contents.remove(evicted.id));
                evicted
            })
        })
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { self.with(|contents| contents.sweep(sweep, limit)) })
    }

    fn redrive(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(async move {
            self.with(|contents| {
                let ids = contents.index.error_page(&page, true);
                let moved = contents.index.moved(&ids);
                contents.change(&ids, semantics::redrive);
                moved
            })
        })
    }

    fn purge(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(async move {
            self.with(|contents| {
                let ids = contents.index.error_page(&page, false);
                let moved = contents.index.moved(&ids);
                ids.iter().for_each(|id| contents.remove(*id));
                moved
            })
        })
    }

    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>> {
        Box::pin(async move { self.with(|contents| contents.index.survey(&filter)) })
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            self.with(|contents| {
                let (ids, next_after_seq) = contents.index.list(&request);
                Page {
                    objects: contents.objects(&ids),
                    next_after_seq,
                }
            })
        })
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        Box::pin(async move { self.with(|contents| contents.index.stats()) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { *self.contents() = None })
    }
}

/// A custom store in memory: the reference for [`StoreClient`].
#[derive(Debug, Default)]
pub struct MemoryClient {
    objects: Mutex<BTreeMap<StoredObjectId, StoredObject>>,
}

impl MemoryClient {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<StoredObjectId, StoredObject>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreClient for MemoryClient {
    fn store<'a>(
        &'a self,
        objects: &'a [StoredObject],
    ) -> BoxFuture<'a, Vec<Result<StoredObjectId, StoreError>>> {
        Box::pin(async move {
            let mut kept = self.objects();
            let store = |object: &StoredObject| match kept.get(&object.id) {
                Some(_) => Err(StoreError::Exists(object.id)),
                None => {
                    kept.insert(object.id, object.clone());
                    Ok(object.id)
                }
            };
            objects.iter().map(store).collect()
        })
    }

    fn retrieve_from_store<'a>(
        &'a self,
        service_key: &'a ServiceKey,
        after: Option<StoredObjectId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(async move {
            let kept = self.objects();
            let of_service = kept.values().filter(|object| object.service_key == *service_key);
            Ok(of_service
                .filter(|object| Some(object.id) > after)
                .take(limit)
                .cloned()
                .collect())
        })
    }

    fn update<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut kept = self.objects();
            for object in objects {
                if let Some(kept) = kept.get_mut(&object.id) {
                    kept.clone_from(object);
                }
            }
            Ok(())
        })
    }

    fn remove_from_store<'a>(&'a self, ids: &'a [StoredObjectId]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut kept = self.objects();
            for id in ids {
                kept.remove(id);
            }
            Ok(())
        })
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
