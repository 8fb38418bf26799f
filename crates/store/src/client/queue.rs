//! A retry queue made of the five operations of a custom store.
//!
//! The store keeps the objects; this keeps an [`Index`] of them, the claimed objects, and two sets of ids:
//! *in flight*, being written now, and *doubtful*, whose last write ended with an error or was cancelled, so that
//! nobody knows what the store holds. Doubtful objects are read again before the index is next used.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use edgehold_core::{
    BoxFuture, PipelineId, ServiceKey, StoredObject, StoredObjectId, Timestamp,
    retry::{Action, Verdict},
};
use uuid::Uuid;

use crate::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, LaneStatus, ListRequest, Moved, ObjectFilter, Page,
    RetryQueue, Room, StateCount, StoreClient, StoreError, StoreStats, Sweep,
    index::{Header, Index},
    semantics::{self, Applied},
};

/// Objects read at once while the store is opened.
const OPEN_PAGE: usize = 128;

/// Gives [`RetryQueue`] to any [`StoreClient`].
///
/// One instance only: claims are in memory, and nothing keeps a second process from attempting the same objects.
///
/// A claim writes nothing, so a start knows only of objects in state new that the process before was busy with them:
/// [`StoredObject::crashes`] is 1 for those and never more, and none is given up for its crashes.
pub struct StoreClientQueue {
    client: Arc<dyn StoreClient>,
    service_key: ServiceKey,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    index: Index,
    /// Claimed objects as they were handed out: what a verdict is applied to.
    claimed: HashMap<StoredObjectId, StoredObject>,
    in_flight: HashSet<StoredObjectId>,
    doubtful: HashSet<StoredObjectId>,
    /// Waiting objects that are being stored and not in the index yet.
    incoming: StateCount,
    closed: bool,
}

impl State {
    /// What waits, or is about to.
    fn waiting(&self) -> StateCount {
        let kept = self.index.waiting();
        StateCount {
            objects: kept.objects.saturating_add(self.incoming.objects),
            payload_bytes: kept.payload_bytes.saturating_add(self.incoming.payload_bytes),
        }
    }
}

/// What an object adds to what waits.
fn weight(object: &StoredObject) -> StateCount {
    match object.state.waits() {
        true => StateCount {
            objects: 1,
            payload_bytes: u64::try_from(semantics::payload_bytes(&object.context, &object.payload))
                .unwrap_or(u64::MAX),
        },
        false => StateCount::default(),
    }
}

impl StoreClientQueue {
    /// Reads the whole store once, a page at a time. Objects in state new or batched were left by a process that has
    /// ended: they become failed, due at once.
    ///
    /// # Errors
    /// Whatever the client answers.
    pub async fn open(client: Arc<dyn StoreClient>, service_key: ServiceKey) -> Result<Self, StoreError> {
        let mut index = Index::default();
        let mut after = None;
        loop {
            let mut page = client.retrieve_from_store(&service_key, after, OPEN_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let mut recovered = Vec::new();
            for object in &mut page {
                object.crashes = 0;
                if semantics::recover(object) {
                    recovered.push(object.clone());
                }
                // A store that did not keep `seq` still gives the objects oldest first.
                let seq = if object.seq > 0 {
                    object.seq
                } else {
                    index.next_seq()
                };
                index.put(seq, Header::of(object));
            }
            if !recovered.is_empty() {
                client.update(&recovered).await?;
            }
        }
        let state = State {
            index,
            ..State::default()
        };
        Ok(Self {
            client,
            service_key,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state();
        if state.closed {
            Err(StoreError::Closed)
        } else {
            Ok(state)
        }
    }

    /// Reads these objects, in the order of `ids`; those that are gone are left out.
    async fn read(&self, ids: &[StoredObjectId]) -> Result<Vec<StoredObject>, StoreError> {
        let mut missing: BTreeSet<_> = ids.iter().copied().collect();
        let mut found = HashMap::new();
        while let Some(first) = missing.first().copied() {
            // The only operation that reads is a range: it begins just before the first id that is wanted.
            let after = first.as_uuid().as_u128().checked_sub(1).map(Uuid::from_u128);
            let after = after.map(StoredObjectId::from_uuid);
            let page = self
                .client
                .retrieve_from_store(&self.service_key, after, missing.len())
                .await?;
            let Some(last) = page.last().map(|object| object.id) else {
                break;
            };
            for object in page {
                if missing.remove(&object.id) {
                    found.insert(object.id, object);
                }
            }
            // What the page has passed without showing it is gone.
            missing = missing.split_off(&last);
            missing.remove(&last);
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// As [`StoreClientQueue::read`], with what this queue alone knows: the crashes, and the `seq` for a store that did
    /// not keep it.
    async fn read_indexed(&self, ids: &[StoredObjectId]) -> Result<Vec<StoredObject>, StoreError> {
        let mut objects = self.read(ids).await?;
        let state = self.state();
        for object in &mut objects {
            object.seq = state.index.seq_of(object.id).unwrap_or(object.seq);
            object.crashes = state.index.crashes_of(object.id);
        }
        Ok(objects)
    }

    /// Makes the index true again where a write ended without a certain outcome.
    async fn reconcile(&self) -> Result<(), StoreError> {
        let doubtful: Vec<_> = {
            let state = self.open_state()?;
            state.doubtful.difference(&state.in_flight).copied().collect()
        };
        for id in doubtful {
            let object = self.read(&[id]).await?.pop();
            let mut state = self.state();
            if !state.in_flight.contains(&id) && state.doubtful.remove(&id) {
                match object {
                    Some(mut object) => {
                        object.crashes = state.index.crashes_of(id);
                        let known = state.index.seq_of(id).or((object.seq > 0).then_some(object.seq));
                        let seq = known.unwrap_or_else(|| state.index.next_seq());
                        state.index.put(seq, Header::of(&object));
                    }
                    None => {
                        state.index.remove(id);
                        state.claimed.remove(&id);
                    }
                }
            }
        }
        Ok(())
    }

    /// The `seq` of an object that is there already, if it is the same one.
    async fn seq_of_same(&self, object: &StoredObject) -> Result<i64, StoreError> {
        self.reconcile().await?;
        match self.read_indexed(&[object.id]).await?.pop() {
            Some(kept) if semantics::same_content(&kept, object) => Ok(kept.seq),
            Some(_) => Err(StoreError::Exists(object.id)),
            None => {
                let reason = format!("object {} left the store while it was appended again", object.id);
                Err(StoreError::Unavailable { reason, source: None })
            }
        }
    }

    /// Decides for each object what appending it takes, and marks those to be stored as being written.
    fn plan<'a>(
        &'a self,
        objects: &[StoredObject],
        room: Room,
    ) -> Result<(Vec<Plan>, Vec<StoredObject>, Writing<'a>), StoreError> {
        let mut state = self.open_state()?;
        let mut writing = Writing::nothing(self);
        let mut fresh = Vec::new();
        let mut plans = Vec::with_capacity(objects.len());
        for object in objects {
            let id = object.id;
            plans.push(if object.service_key != self.service_key {
                Plan::Refuse(StoreError::foreign(id, &object.service_key, &self.service_key))
            } else if state.index.seq_of(id).is_some() || writing.ids.contains(&id) {
                Plan::Compare
            } else if state.in_flight.contains(&id) {
                let reason = format!("object {id} is being written by another call");
                Plan::Refuse(StoreError::Unavailable { reason, source: None })
            } else if let weight = weight(object)
                && weight.objects > 0
                && let Err(full) = room.admit(state.waiting(), weight.payload_bytes)
            {
                Plan::Refuse(full)
            } else {
                state.in_flight.insert(id);
                writing.incoming(&mut state, object);
                fresh.push(StoredObject {
                    seq: state.index.next_seq(),
                    crashes: 0,
                    ..object.clone()
                });
                Plan::Store
            });
        }
        Ok((plans, fresh, writing))
    }

    async fn append_all(
        &self,
        objects: &[StoredObject],
        room: Room,
    ) -> Result<Vec<Result<i64, StoreError>>, StoreError> {
        self.reconcile().await?;
        let (plans, fresh, mut writing) = self.plan(objects, room)?;
        let mut outcomes = if fresh.is_empty() {
            Vec::new()
        } else {
            self.client.store(&fresh).await
        };
        outcomes.resize_with(fresh.len(), || {
            let reason = "the store answered for fewer objects than it was given".to_owned();
            Err(StoreError::Unavailable { reason, source: None })
        });
        for (object, outcome) in fresh.iter().zip(&outcomes) {
            if outcome.is_ok() {
                writing.stored(object);
            }
        }
        drop(writing);
        let mut stored = fresh.iter().zip(outcomes);
        let mut answers = Vec::with_capacity(objects.len());
        for (object, plan) in objects.iter().zip(plans) {
            answers.push(match plan {
                Plan::Refuse(error) => Err(error),
                Plan::Compare => self.seq_of_same(object).await,
                Plan::Store => match stored
                    .next()
                    .expect("there is one outcome for each object to store")
                {
                    (kept, Ok(_)) => Ok(kept.seq),
                    // An append that was cancelled may have stored this very object.
                    (_, Err(StoreError::Exists(_))) => self.seq_of_same(object).await,
                    (_, Err(error)) => Err(error),
                },
            });
        }
        Ok(answers)
    }

    /// The objects of these verdicts as the store has them; those that are gone are left out.
    async fn judged(
        &self,
        verdicts: &[Verdict],
    ) -> Result<HashMap<StoredObjectId, StoredObject>, StoreError> {
        let mut objects = HashMap::new();
        let mut unread = Vec::new();
        {
            let state = self.open_state()?;
            for verdict in verdicts {
                if let Some(object) = state.claimed.get(&verdict.id) {
                    objects.insert(verdict.id, object.clone());
                } else if verdict.action != Action::Remove && state.index.seq_of(verdict.id).is_some() {
                    unread.push(verdict.id);
                }
            }
        }
        objects.extend(
            self.read_indexed(&unread)
                .await?
                .into_iter()
                .map(|object| (object.id, object)),
        );
        Ok(objects)
    }

    async fn settle_all(&self, verdicts: &[Verdict]) -> Result<(), StoreError> {
        self.reconcile().await?;
        let mut objects = self.judged(verdicts).await?;
        let mut changed = HashSet::new();
        let mut removed = HashSet::new();
        for Verdict { id, action } in verdicts {
            if *action == Action::Remove {
                objects.remove(id);
                changed.remove(id);
                removed.insert(*id);
            } else if let Some(object) = objects.get_mut(id)
                && semantics::apply(object, action) == Applied::Changed
            {
                changed.insert(*id);
            }
        }
        let changed: Vec<_> = changed.into_iter().filter_map(|id| objects.remove(&id)).collect();
        let removed: Vec<_> = removed.into_iter().collect();

        let ids = changed.iter().map(|object| object.id);
        // Without an answer they are asked for again, and nobody may have what is changed until then.
        self.state().index.hold(ids.clone());
        let mut writing = self.writing(ids.chain(removed.iter().copied()));
        // What is removed may go on in what is changed, as what is in a batch does in the first of it.
        if !changed.is_empty() {
            self.client.update(&changed).await?;
        }
        if !removed.is_empty() {
            self.client.remove_from_store(&removed).await?;
        }
        let mut state = self.state();
        for object in &changed {
            state.index.put(object.seq, Header::of(object));
        }
        removed.iter().for_each(|id| state.index.remove(*id));
        for verdict in verdicts {
            state.index.release(verdict.id);
            state.claimed.remove(&verdict.id);
        }
        drop(state);
        writing.all_ended();
        Ok(())
    }

    /// Marks objects that are there as being written.
    fn writing(&self, ids: impl Iterator<Item = StoredObjectId>) -> Writing<'_> {
        let mut writing = Writing::nothing(self);
        writing.ids.extend(ids);
        self.state().in_flight.extend(&writing.ids);
        writing
    }

    /// Removes objects that are claimed for it.
    async fn remove_claimed(&self, ids: &[StoredObjectId]) -> Result<(), StoreError> {
        let _claimed = Claiming {
            queue: self,
            ids: ids.to_vec(),
        };
        let mut writing = self.writing(ids.iter().copied());
        if !ids.is_empty() {
            self.client.remove_from_store(ids).await?;
        }
        let mut state = self.state();
        ids.iter().for_each(|id| state.index.remove(*id));
        drop(state);
        writing.all_ended();
        Ok(())
    }

    /// Changes objects, a page at a time; answers how many there were.
    async fn change(
        &self,
        ids: Vec<StoredObjectId>,
        change: impl Fn(&mut StoredObject),
    ) -> Result<u64, StoreError> {
        let mut changed = 0;
        let pages = self.open_state()?.index.pages(ids);
        for ids in pages {
            let mut objects = self.read_indexed(&ids).await?;
            objects.iter_mut().for_each(&change);
            let mut writing = self.writing(objects.iter().map(|object| object.id));
            self.client.update(&objects).await?;
            let mut state = self.state();
            for object in &objects {
                state.index.put(object.seq, Header::of(object));
            }
            drop(state);
            writing.all_ended();
            changed += u64::try_from(objects.len()).unwrap_or(u64::MAX);
        }
        Ok(changed)
    }

    async fn evict_oldest(&self, eviction: Eviction) -> Result<Vec<Evicted>, StoreError> {
        self.reconcile().await?;
        let evicted = self.open_state()?.index.evict(&eviction);
        let ids: Vec<_> = evicted.iter().map(|evicted| evicted.id).collect();
        self.remove_claimed(&ids).await?;
        Ok(evicted)
    }

    async fn sweep_page(&self, sweep: Sweep, limit: usize) -> Result<u64, StoreError> {
        self.reconcile().await?;
        let ids = self.open_state()?.index.sweep(&sweep, limit);
        if let Sweep::TooOld { at, .. } = sweep {
            let _claimed = Claiming {
                queue: self,
                ids: ids.clone(),
            };
            return self
                .change(ids, |object| semantics::give_up_as_too_old(object, at))
                .await;
        }
        self.remove_claimed(&ids).await?;
        Ok(u64::try_from(ids.len()).unwrap_or(u64::MAX))
    }

    /// Claims a page of the error collection; answers what its objects are together, too.
    async fn error_page(
        &self,
        page: &ErrorPage,
        readable: bool,
    ) -> Result<(Vec<StoredObjectId>, Moved), StoreError> {
        self.reconcile().await?;
        let mut state = self.open_state()?;
        let ids = state.index.error_page(page, readable);
        let moved = state.index.moved(&ids);
        Ok((ids, moved))
    }

    async fn claim_page(&self, claim: Claim) -> Result<Vec<StoredObject>, StoreError> {
        self.reconcile().await?;
        let mut claiming = {
            let mut state = self.open_state()?;
            Claiming {
                queue: self,
                ids: state.index.claim(&claim),
            }
        };
        let objects = self.read_indexed(&claiming.ids).await?;
        let mut state = self.state();
        let mut gone: HashSet<_> = std::mem::take(&mut claiming.ids).into_iter().collect();
        for object in &objects {
            gone.remove(&object.id);
            state.claimed.insert(object.id, object.clone());
        }
        gone.into_iter().for_each(|id| state.index.remove(id));
        Ok(objects)
    }

    async fn list_page(&self, request: ListRequest) -> Result<Page, StoreError> {
        self.reconcile().await?;
        let (ids, next_after_seq) = self.open_state()?.index.list(&request);
        Ok(Page {
            objects: self.read_indexed(&ids).await?,
            next_after_seq,
        })
    }
}

/// What appending one object takes.
enum Plan {
    Refuse(StoreError),
    Store,
    /// One with this id is there or about to be.
    Compare,
}

/// Objects that are being written. Those whose write has not ended when this is dropped become doubtful.
struct Writing<'a> {
    queue: &'a StoreClientQueue,
    ids: HashSet<StoredObjectId>,
    /// What its part of [`State::incoming`] is.
    incoming: StateCount,
}

impl<'a> Writing<'a> {
    fn nothing(queue: &'a StoreClientQueue) -> Self {
        Self {
            queue,
            ids: HashSet::new(),
            incoming: StateCount::default(),
        }
    }

    /// Adds an object that is about to be stored.
    fn incoming(&mut self, state: &mut State, object: &StoredObject) {
        let weight = weight(object);
        self.ids.insert(object.id);
        for count in [&mut self.incoming, &mut state.incoming] {
            count.objects += weight.objects;
            count.payload_bytes += weight.payload_bytes;
        }
    }

    /// The object is there.
    fn stored(&mut self, object: &StoredObject) {
        let weight = weight(object);
        self.ids.remove(&object.id);
        let mut state = self.queue.state();
        state.in_flight.remove(&object.id);
        state.index.put(object.seq, Header::of(object));
        for count in [&mut self.incoming, &mut state.incoming] {
            count.objects -= weight.objects;
            count.payload_bytes -= weight.payload_bytes;
        }
    }

    fn all_ended(&mut self) {
        let mut state = self.queue.state();
        for id in self.ids.drain() {
            state.in_flight.remove(&id);
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            let mut state = self.queue.state();
            for id in &self.ids {
                state.in_flight.remove(id);
            }
            state.doubtful.extend(&self.ids);
            state.incoming.objects -= self.incoming.objects;
            state.incoming.payload_bytes -= self.incoming.payload_bytes;
        }
    }
}

/// Objects that are claimed but not yet handed out. Dropping this gives them back.
struct Claiming<'a> {
    queue: &'a StoreClientQueue,
    ids: Vec<StoredObjectId>,
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            let mut state = self.queue.state();
            self.ids.iter().for_each(|id| state.index.release(*id));
        }
    }
}

impl RetryQueue for StoreClientQueue {
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>> {
        Box::pin(async move {
            self.append_all(objects, room)
                .await
                .unwrap_or_else(|error| error.for_each(objects.len()))
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(self.claim_page(claim))
    }

    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.settle_all(verdicts))
    }

    fn lanes(
        &self,
        interval: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>> {
        Box::pin(async move {
            self.reconcile().await?;
            Ok(self.open_state()?.index.lanes(interval, now))
        })
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.reconcile().await?;
            Ok(self.open_state()?.index.is_waiting(pipeline_id, device))
        })
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        Box::pin(self.evict_oldest(eviction))
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.sweep_page(sweep, limit))
    }

    fn redrive(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(async move {
            let (ids, moved) = self.error_page(&page, true).await?;
            let _claimed = Claiming {
                queue: self,
                ids: ids.clone(),
            };
            let objects = self.change(ids, semantics::redrive).await?;
            Ok(Moved { objects, ..moved })
        })
    }

    fn purge(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(async move {
            let (ids, moved) = self.error_page(&page, false).await?;
            self.remove_claimed(&ids).await?;
            Ok(moved)
        })
    }

    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>> {
        Box::pin(async move {
            self.reconcile().await?;
            Ok(self.open_state()?.index.survey(&filter))
        })
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(self.list_page(request))
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        Box::pin(async move {
            self.reconcile().await?;
            Ok(self.open_state()?.index.stats())
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let was_closed = std::mem::replace(&mut self.state().closed, true);
            if !was_closed {
                self.client.disconnect().await;
            }
        })
    }
}

#[cfg(test)]
mod tests;
