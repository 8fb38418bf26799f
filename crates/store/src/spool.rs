//! A store that may be away, with a small local one in front: nothing is lost, and sources are not held back.
//!
//! Owns the order in which objects go to which of the two, and the move from the spool to the store. Does not own
//! either of them, nor how the store is opened: until it is, and whenever it does not answer, it counts as away.
//!
//! ```text
//!              ┌──────── a call is not answered in time, or Unavailable ────────┐
//!              │                                                                ▼
//!   there: appends go to the store                       away: appends go to the spool; what needs the store answers
//!          (behind what is moving, if anything is)             Unavailable at once; the mover asks from time to time
//!              ▲                                                                │
//!              └──────────── the mover had an answer, or moved a page ──────────┘
//! ```
//!
//! *Who has it.* An object is the spool's from the append until it has moved; verdicts for it go there. While the spool
//! has it, a copy in the store (of a call that was not answered, or of a move that ends in between) is not handed out,
//! and is removed before the object moves. So a kill between the two steps of a move loses and doubles nothing: the
//! next start finds the object in both, and the spool's counts.
//!
//! *Verdicts of a batch* may be for objects of both. What goes on is written before what goes with it is removed, and
//! does not move before all of it is written.
//!
//! *Moving.* Oldest first, page by page: append to the store, then remove from the spool. An object in state new stays
//! until its run has ended; after a crash opening the spool has made it failed, and it moves. What the store can never
//! take stays in the spool, named in the log, and holds up nobody. Crash marks do not move along.
//!
//! *Order.* While something is to be moved, further objects go behind it, into the spool. Objects in state new are no
//! reason for that, because their runs have not ended; only where devices are kept in order, what comes of the same device
//! goes behind them, and moves after them. There, too, what cannot move keeps those behind it in the spool.
//!
//! *While it moves* the store may hand an object out that the spool still has. Nobody gets it; the mover gives it back, and
//! until then nobody else gets it either. What the store removes in that moment to make room, goes from the spool as well.
//!
//! *What one sees.* Counts are the sum of both, with the last known ones of a store that is away (the log says when it
//! is); limits of what waits are held to that sum. Lists show the spool's objects behind the store's, with a `seq` above
//! 2^62, which they lose when they move; one that moves while pages are read may be passed over. Claims, sweeps, surveys,
//! re-drives and purges see the store alone: what is in the spool is attempted once it has moved.

mod ledger;
mod mover;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    future::Future,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use edgehold_core::{
    BoxFuture, Destination, ObjectState, PipelineId, StoredObject, StoredObjectId, Timestamp,
    retry::{Action, Verdict},
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, LaneStatus, ListRequest, Moved, ObjectFilter, Page,
    RetryQueue, Room, StateCount, StoreError, StoreStats, Sweep,
};
use ledger::Ledger;
pub use mover::Mover;
use mover::removals;

/// What is added to the `seq` of an object that is in the spool.
const SPOOL_SEQ: i64 = 1 << 62;

/// Objects that are looked at together.
const LOOK_PAGE: usize = 256;

/// When the objects of the spool are looked for again: they have to move first.
const MOVING: Duration = Duration::from_secs(1);

/// The store, once it is open.
pub type StoreHandle = watch::Receiver<Option<Arc<dyn RetryQueue>>>;

/// A [`RetryQueue`] made of a store that may be away and a local one that takes its place meanwhile. A clone is the same
/// queue.
#[derive(Clone)]
pub struct SpooledQueue {
    shared: Arc<Shared>,
}

/// What the queue and its mover share.
struct Shared {
    store: StoreHandle,
    spool: Arc<dyn RetryQueue>,
    /// How long a call of the store may take.
    timeout: Duration,
    ledger: Mutex<Ledger>,
    /// Tells the mover that there may be work.
    work: Notify,
    closed: watch::Sender<bool>,
}

impl SpooledQueue {
    /// Puts an open spool in front of a store that need not be open yet. Reads the whole spool once: what an earlier
    /// run left there moves. The [`Mover`] is for the caller to run; it ends when the queue is closed.
    ///
    /// The store counts as away when a call takes longer than `timeout`. Nobody else may use the spool. Other instances
    /// may use the store: a copy that it has of an object in the spool may then be delivered by one of them, and again
    /// when it has moved.
    ///
    /// # Errors
    /// Whatever the spool answers.
    pub async fn open(
        spool: Arc<dyn RetryQueue>,
        store: StoreHandle,
        timeout: Duration,
    ) -> Result<(Self, Mover), StoreError> {
        let away = store.borrow().is_none();
        let shared = Arc::new(Shared {
            store,
            spool,
            timeout,
            ledger: Mutex::new(Ledger::new(away)),
            work: Notify::new(),
            closed: watch::channel(false).0,
        });
        shared.look().await?;
        let mover = Mover {
            shared: shared.clone(),
        };
        Ok((Self { shared }, mover))
    }

    /// What this store, which is to be the one behind the spool, holds of which the spool has no copy. An object that was
    /// moving when an earlier run ended is in both, and counts once.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub async fn stats_beside(&self, store: &dyn RetryQueue) -> Result<StoreStats, StoreError> {
        self.shared.stats_beside(store).await
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        match *self.closed.borrow() {
            true => Err(StoreError::Closed),
            false => Ok(()),
        }
    }

    /// The store, when it is there.
    fn store(&self) -> Result<Arc<dyn RetryQueue>, StoreError> {
        self.check_open()?;
        let store = self.store.borrow().clone();
        store
            .filter(|_| !self.ledger().away)
            .ok_or_else(|| StoreError::Unavailable {
                reason: "it is away; what is new goes to the spool".to_owned(),
                source: None,
            })
    }

    /// Waits for the store, but not for ever.
    async fn ask<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let answer = match timeout(self.timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(self.no_answer()),
        };
        if let Err(error @ StoreError::Unavailable { .. }) = &answer {
            self.is_away(error);
        }
        answer
    }

    /// One answer for each object.
    async fn ask_append(
        &self,
        store: &dyn RetryQueue,
        objects: &[StoredObject],
        room: Room,
    ) -> Vec<Result<i64, StoreError>> {
        let mut answers = timeout(self.timeout, store.append(objects, room))
            .await
            .unwrap_or_default();
        answers.resize_with(objects.len(), || Err(self.no_answer()));
        let mut errors = answers.iter().filter_map(|answer| answer.as_ref().err());
        if let Some(error) = errors.find(|error| matches!(error, StoreError::Unavailable { .. })) {
            self.is_away(error);
        }
        answers
    }

    fn no_answer(&self) -> StoreError {
        StoreError::Unavailable {
            reason: format!("no answer within {:?}", self.timeout),
            source: None,
        }
    }

    fn is_away(&self, error: &StoreError) {
        if !std::mem::replace(&mut self.ledger().away, true) {
            tracing::warn!("what is new goes to the spool until the store is back: {error}");
        }
        self.work.notify_one();
    }

    fn is_back(&self) {
        let mut ledger = self.ledger();
        if std::mem::take(&mut ledger.away) {
            let objects = ledger.waiting().objects;
            tracing::info!(objects, "the store is there; what waits in the spool moves to it");
        }
    }

    /// Reads the spool and notes what nobody knew of.
    async fn look(&self) -> Result<(), StoreError> {
        let mut after_seq = 0;
        self.ledger().look = false;
        loop {
            let request = ListRequest {
                states: ObjectState::ALL.to_vec(),
                filter: ObjectFilter::default(),
                after_seq,
                limit: LOOK_PAGE,
            };
            let page = self.spool.list(request).await.inspect_err(|_| {
                self.ledger().look = true;
            })?;
            let mut ledger = self.ledger();
            page.objects.iter().for_each(|object| ledger.found(object));
            drop(ledger);
            match page.next_after_seq {
                Some(next) => after_seq = next,
                None => return Ok(()),
            }
        }
    }
}

/// Objects that have been admitted to the spool and not been written: forgotten when the append is dropped. The spool
/// may have them nevertheless, so that it has to be looked at.
struct Admitted<'a> {
    shared: &'a Shared,
    ids: Vec<StoredObjectId>,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            let mut ledger = self.shared.ledger();
            self.ids.iter().for_each(|id| ledger.forget(*id));
            ledger.look = true;
            drop(ledger);
            self.shared.work.notify_one();
        }
    }
}

impl Shared {
    async fn append(&self, objects: &[StoredObject], room: Room) -> Vec<Result<i64, StoreError>> {
        let store = match self.store() {
            Err(StoreError::Closed) => return StoreError::Closed.for_each(objects.len()),
            store => store.ok(),
        };
        let mut answers: Vec<_> = objects.iter().map(|_| Err(StoreError::Closed)).collect();
        let (mut to_spool, to_store, left) = {
            let mut ledger = self.ledger();
            let all = store.is_none() || ledger.goes_to_spool();
            let (to_spool, to_store): (Vec<_>, Vec<_>) = (0..objects.len()).partition(|place| {
                let object = &objects[*place];
                all || ledger.has(object.id) || ledger.must_follow(object)
            });
            // Until there is an answer; a dropped call has none.
            to_store.iter().for_each(|place| ledger.doubt(objects[*place].id));
            (to_spool, to_store, beside(room, ledger.waiting()))
        };
        if let Some(store) = store
            && !to_store.is_empty()
        {
            let given = self.ask_append(&*store, &pick(objects, &to_store), left).await;
            let mut ledger = self.ledger();
            for (place, answer) in to_store.into_iter().zip(given) {
                if matches!(answer, Err(StoreError::Unavailable { .. })) {
                    to_spool.push(place);
                } else {
                    ledger.is_certain(objects[place].id);
                    answers[place] = answer;
                }
            }
            to_spool.sort_unstable();
        }
        if !to_spool.is_empty() {
            self.spool(objects, to_spool, room, &mut answers).await;
        }
        answers
    }

    /// Appends the objects at these places to the spool.
    async fn spool(
        &self,
        objects: &[StoredObject],
        mut places: Vec<usize>,
        room: Room,
        answers: &mut [Result<i64, StoreError>],
    ) {
        let mut admitted = Admitted {
            shared: self,
            ids: Vec::new(),
        };
        {
            let mut ledger = self.ledger();
            places.retain(|place| {
                let object = &objects[*place];
                if ledger.has(object.id) {
                    return true;
                }
                let outcome = ledger.admit(object, room);
                let is_admitted = outcome.is_ok();
                match outcome {
                    Ok(()) => admitted.ids.push(object.id),
                    Err(full) => answers[*place] = Err(full),
                }
                is_admitted
            });
        }
        if places.is_empty() {
            return;
        }
        let mut given = self.spool.append(&pick(objects, &places), Room::default()).await;
        given.resize_with(places.len(), || Err(StoreError::Closed));
        let fresh = std::mem::take(&mut admitted.ids);
        let mut ledger = self.ledger();
        for (place, answer) in places.into_iter().zip(given) {
            let id = objects[place].id;
            answers[place] = match answer {
                Ok(seq) => {
                    ledger.written(id);
                    Ok(SPOOL_SEQ.saturating_add(seq))
                }
                Err(error) => {
                    if fresh.contains(&id) {
                        ledger.forget(id);
                    }
                    ledger.look |= matches!(error, StoreError::Unavailable { .. });
                    Err(match error {
                        StoreError::Full { reason } if ledger.away || ledger.full => StoreError::Full {
                            reason: format!("the store is away, and in the spool {reason}"),
                        },
                        // There is room in a moment: nothing has to go for it.
                        StoreError::Full { reason } => StoreError::Unavailable {
                            reason: format!("the spool is being emptied, but {reason}"),
                            source: None,
                        },
                        error => error,
                    })
                }
            };
        }
        drop(ledger);
        self.work.notify_one();
    }

    async fn settle(&self, verdicts: &[Verdict]) -> Result<(), StoreError> {
        self.check_open()?;
        let spooled: Vec<_> = {
            let ledger = self.ledger();
            let ids = verdicts.iter().map(|verdict| verdict.id);
            ids.filter(|id| ledger.has(*id)).collect()
        };
        if spooled.is_empty() || spooled.len() == verdicts.len() {
            return self.write_verdicts(verdicts.to_vec()).await;
        }
        // All of it is asked for again when a part fails: what is changed here must not be somebody else's by then.
        self.ledger().hold(&spooled, true);
        // What is removed may go on in what is changed, as what is in a batch does in the first of it.
        let (removals, changes): (Vec<_>, Vec<_>) = verdicts
            .iter()
            .cloned()
            .partition(|verdict| verdict.action == Action::Remove);
        self.write_verdicts(changes).await?;
        self.write_verdicts(removals).await?;
        self.ledger().hold(&spooled, false);
        self.work.notify_one();
        Ok(())
    }

    async fn write_verdicts(&self, verdicts: Vec<Verdict>) -> Result<(), StoreError> {
        let (spooled, others): (Vec<_>, Vec<_>) = {
            let ledger = self.ledger();
            verdicts.into_iter().partition(|verdict| ledger.has(verdict.id))
        };
        if !spooled.is_empty() {
            self.spool.settle(&spooled).await?;
            let mut ledger = self.ledger();
            spooled.iter().for_each(|verdict| ledger.settled(verdict));
            drop(ledger);
            self.work.notify_one();
        }
        if others.is_empty() {
            return Ok(());
        }
        let store = self.store()?;
        self.ask(store.settle(&others)).await
    }

    async fn claim(&self, mut claim: Claim) -> Result<Vec<StoredObject>, StoreError> {
        self.ledger().ordered = claim.ordered;
        loop {
            let store = self.store()?;
            let before = self.ledger().removals;
            let mut page = self.ask(store.claim(claim.clone())).await?;
            let last = page.last().map(|object| object.seq);
            let count = page.len();
            {
                let mut ledger = self.ledger();
                page.retain(|object| ledger.may_be_had(object.id, before));
            }
            if page.len() < count {
                self.work.notify_one();
            }
            match last {
                Some(last) if page.is_empty() => claim.after_seq = last,
                _ => return Ok(page),
            }
        }
    }

    async fn lanes(&self, interval: Duration, now: Timestamp) -> Result<Vec<LaneStatus>, StoreError> {
        let store = self.store()?;
        let lanes = self.ask(store.lanes(interval, now)).await?;
        if !self.ledger().has_movable() {
            return Ok(lanes);
        }
        let name = |lane: &LaneStatus| {
            lane.destination
                .as_ref()
                .map(Destination::as_str)
                .map(str::to_owned)
        };
        let mut merged: BTreeMap<_, _> = lanes.into_iter().map(|lane| (name(&lane), lane)).collect();
        for mut lane in self.spool.lanes(interval, now).await? {
            lane.next_due = lane.next_due.max(now.saturating_add(MOVING));
            let due = lane.next_due;
            let known = merged.entry(name(&lane)).or_insert(lane);
            known.next_due = known.next_due.min(due);
        }
        Ok(merged.into_values().collect())
    }

    async fn is_waiting(&self, pipeline_id: &PipelineId, device: &str) -> Result<bool, StoreError> {
        self.check_open()?;
        // Nobody else asks for that.
        self.ledger().ordered = true;
        if self.ledger().waiting().objects > 0 && self.spool.is_waiting(pipeline_id, device).await? {
            return Ok(true);
        }
        let store = self.store()?;
        self.ask(store.is_waiting(pipeline_id, device)).await
    }

    async fn evict(&self, eviction: Eviction) -> Result<Vec<Evicted>, StoreError> {
        match self.store() {
            Ok(store) => {
                let mut evicted = self.ask(store.evict(eviction)).await?;
                let in_spool: Vec<_> = {
                    let ledger = self.ledger();
                    evicted.retain(|evicted| ledger.has(evicted.id) || !ledger.is_hidden(evicted.id));
                    evicted
                        .iter()
                        .map(|evicted| evicted.id)
                        .filter(|id| ledger.has(*id))
                        .collect()
                };
                if in_spool.is_empty() {
                    return Ok(evicted);
                }
                // What was moving goes from both, or from neither.
                match self.spool.settle(&removals(&in_spool)).await {
                    Ok(()) => in_spool.iter().for_each(|id| self.ledger().ended(*id)),
                    Err(_) => evicted.retain(|evicted| !in_spool.contains(&evicted.id)),
                }
                Ok(evicted)
            }
            Err(StoreError::Unavailable { .. }) => {
                let evicted = self.spool.evict(eviction).await?;
                let mut ledger = self.ledger();
                evicted.iter().for_each(|evicted| ledger.ended(evicted.id));
                Ok(evicted)
            }
            Err(error) => Err(error),
        }
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let mut in_spool = request.clone();
        in_spool.after_seq = 0;
        if request.after_seq < SPOOL_SEQ {
            let store = self.store()?;
            let limit = request.limit.max(1);
            page = self.ask(store.list(request)).await?;
            {
                let ledger = self.ledger();
                page.objects.retain(|object| !ledger.is_hidden(object.id));
            }
            if page.next_after_seq.is_some() {
                return Ok(page);
            }
            in_spool.limit = limit - page.objects.len().min(limit);
            if in_spool.limit == 0 {
                page.next_after_seq = Some(SPOOL_SEQ).filter(|_| !self.ledger().is_empty());
                return Ok(page);
            }
        } else {
            self.check_open()?;
            in_spool.after_seq = request.after_seq - SPOOL_SEQ;
        }
        let mut spooled = self.spool.list(in_spool).await?;
        for object in &mut spooled.objects {
            object.seq = SPOOL_SEQ.saturating_add(object.seq);
        }
        page.objects.append(&mut spooled.objects);
        page.next_after_seq = spooled
            .next_after_seq
            .map(|after| SPOOL_SEQ.saturating_add(after));
        Ok(page)
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        self.check_open()?;
        let spooled = self.spool.stats().await?;
        if let Ok(store) = self.store() {
            match self.ask(self.stats_beside(&*store)).await {
                Ok(stats) => self.ledger().store = stats,
                Err(StoreError::Unavailable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum(&self.ledger().store, &spooled))
    }

    /// What the store holds of which the spool has no copy that counts.
    async fn stats_beside(&self, store: &dyn RetryQueue) -> Result<StoreStats, StoreError> {
        let mut stats = store.stats().await?;
        let doubtful = self.ledger().in_both();
        for ids in doubtful.chunks(LOOK_PAGE) {
            let mut after_seq = 0;
            loop {
                let request = ListRequest {
                    states: ObjectState::ALL.to_vec(),
                    filter: ObjectFilter::ids(ids.iter().copied()),
                    after_seq,
                    limit: LOOK_PAGE,
                };
                let page = store.list(request).await?;
                page.objects
                    .iter()
                    .for_each(|object| leave_out(&mut stats, object));
                match page.next_after_seq {
                    Some(next) => after_seq = next,
                    None => break,
                }
            }
        }
        Ok(stats)
    }

    async fn close(&self) {
        if self.closed.send_replace(true) {
            return;
        }
        self.spool.close().await;
        let store = self.store.borrow().clone();
        if let Some(store) = store
            && timeout(self.timeout, store.close()).await.is_err()
        {
            tracing::warn!("the store does not answer, so it is not closed well");
        }
    }
}

/// Takes one object out of the counts.
fn leave_out(stats: &mut StoreStats, object: &StoredObject) {
    let count = match object.state {
        ObjectState::New => &mut stats.new,
        ObjectState::Success => &mut stats.success,
        ObjectState::Failed => &mut stats.failed,
        ObjectState::Error => &mut stats.error,
        ObjectState::Batched => &mut stats.batched,
    };
    let bytes = u64::try_from(object.payload.len()).unwrap_or(u64::MAX);
    count.objects = count.objects.saturating_sub(1);
    count.payload_bytes = count.payload_bytes.saturating_sub(bytes);
}

/// The objects at these places.
fn pick<'a>(objects: &'a [StoredObject], places: &[usize]) -> Cow<'a, [StoredObject]> {
    if places.len() == objects.len() {
        Cow::Borrowed(objects)
    } else {
        places.iter().map(|place| objects[*place].clone()).collect()
    }
}

/// What is left of the room beside so much that waits elsewhere; one at least, as none cannot be said.
fn beside(room: Room, waiting: StateCount) -> Room {
    let less = |max: NonZeroU64, taken: u64| {
        NonZeroU64::new(max.get().saturating_sub(taken)).unwrap_or(NonZeroU64::MIN)
    };
    Room {
        max_items: room.max_items.map(|max| less(max, waiting.objects)),
        max_bytes: room.max_bytes.map(|max| less(max, waiting.payload_bytes)),
    }
}

fn sum(one: &StoreStats, other: &StoreStats) -> StoreStats {
    let add = |one: StateCount, other: StateCount| StateCount {
        objects: one.objects.saturating_add(other.objects),
        payload_bytes: one.payload_bytes.saturating_add(other.payload_bytes),
    };
    StoreStats {
        new: add(one.new, other.new),
        failed: add(one.failed, other.failed),
        batched: add(one.batched, other.batched),
        success: add(one.success, other.success),
        error: add(one.error, other.error),
        oldest_waiting: match (one.oldest_waiting, other.oldest_waiting) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        },
    }
}

impl RetryQueue for SpooledQueue {
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>> {
        Box::pin(self.shared.append(objects, room))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(self.shared.claim(claim))
    }

    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.shared.settle(verdicts))
    }

    fn lanes(
        &self,
        interval: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>> {
        Box::pin(self.shared.lanes(interval, now))
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.shared.is_waiting(pipeline_id, device))
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        Box::pin(self.shared.evict(eviction))
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let store = self.shared.store()?;
            self.shared.ask(store.sweep(sweep, limit)).await
        })
    }

    fn redrive(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(async move {
            let store = self.shared.store()?;
            self.shared.ask(store.redrive(page)).await
        })
    }

    fn purge(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(async move {
            let store = self.shared.store()?;
            self.shared.ask(store.purge(page)).await
        })
    }

    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>> {
        Box::pin(async move {
            let store = self.shared.store()?;
            self.shared.ask(store.survey(filter)).await
        })
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(self.shared.list(request))
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        Box::pin(self.shared.stats())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.close())
    }
}
