//! Every destination of the service, and each run's way to them.
//!
//! Owns the clock, the locks and the waiting around [`DestinationState`], which decides. A run has one [`Visitor`], the
//! gate its functions ask. What it has begun at a destination ends with the function's call, whichever way that ends.
//!
//! A run that has to wait until somebody leaves keeps its place in memory while there is room for it: a part of what may
//! be in hand, so that a destination that hangs leaves the rest to the others. Beyond that whoever has it in the store
//! may let it wait there.
//!
//! An object that comes from the store has been let in at the destination it waited for before it was handed out; at
//! any other its attempt is a first one, as a fresh run's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use edgehold_config::Writable;
use edgehold_core::{
    BoxFuture, ByteBudget, BytePermit, Destination, FunctionError, Gate, StoredObjectId, Unsent,
    destination::{Answer, Change, DestinationPolicy, DestinationState, Entry, Visit},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use uuid::Uuid;

use crate::{QueueHandle, StoreState};

/// Beyond so many known destinations those about which nothing is to be remembered are forgotten.
const REMEMBERED: usize = 1024;

/// The part of the bytes in hand that those may take who wait to be let in.
const WAITING_PART: u32 = 4;
/// What a run that waits takes beside its bytes.
const OVERHEAD_BYTES: usize = 16 << 10;

/// The destinations of a service. Shared by everything that sends.
pub struct Destinations {
    settings: watch::Receiver<Arc<Writable>>,
    queue: QueueHandle,
    /// Moments are counted from here.
    since: Instant,
    /// For runs that wait to be let in and could wait in the store as well.
    room: ByteBudget,
    known: Mutex<HashMap<Destination, Arc<Known>>>,
    unnamed: Arc<Known>,
}

/// One destination.
struct Known {
    /// None for objects that have not said where they go: nothing any of them meets says something of the others.
    destination: Option<Destination>,
    state: Mutex<DestinationState>,
    /// Somebody has left, or whoever waits is to be refused.
    changed: Notify,
}

impl Known {
    fn new(destination: Option<Destination>) -> Arc<Self> {
        Arc::new(Self {
            destination,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, DestinationState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Destinations {
    /// No destination has been visited yet. `max_bytes` is what all deliveries in hand may take.
    pub fn new(settings: watch::Receiver<Arc<Writable>>, queue: QueueHandle, max_bytes: u32) -> Self {
        Self {
            settings,
            queue,
            since: Instant::now(),
            room: ByteBudget::new(max_bytes / WAITING_PART),
            known: Mutex::default(),
            unnamed: Known::new(None),
        }
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    fn policy(&self) -> DestinationPolicy {
        let settings = self.settings.borrow();
        let saf = &settings.store_and_forward;
        DestinationPolicy {
            breaker: saf.breaker,
            interval: saf.retry_interval,
            max_interval: saf.max_retry_interval,
            concurrency: settings.pipeline.concurrency.get(),
            retry_concurrency: saf.retry_concurrency.get(),
            retry_rate: saf.retry_rate,
            fresh_share: saf.fresh_share,
        }
    }

    /// What a function that wants its data kept can count on now.
    fn keeps(&self) -> bool {
        self.settings.borrow().store_and_forward.enabled
            && !matches!(*self.queue.borrow(), StoreState::Failed(_))
    }

    /// What is known of a destination; of none: of those objects together that have not said where they go.
    fn of(&self, destination: Option<&Destination>) -> Arc<Known> {
        destination.map_or_else(|| self.unnamed.clone(), |destination| self.at(destination))
    }

    fn at(&self, destination: &Destination) -> Arc<Known> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(destination) {
            return known.clone();
        }
        if all.len() >= REMEMBERED {
            let now = self.now();
            // What somebody else holds is in use or about to be.
            all.retain(|_, known| Arc::strong_count(known) > 1 || !known.state().is_forgettable(now));
        }
        let known = Known::new(Some(destination.clone()));
        all.insert(destination.clone(), known.clone());
        known
    }

    /// Every destination that is remembered, and whether it does not answer: then it is probed with one object at a time.
    pub fn open_breakers(&self) -> Vec<(Destination, bool)> {
        let policy = self.policy();
        let all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let states = all
            .iter()
            .map(|(destination, known)| (destination.clone(), known.state().is_open(&policy)));
        states.collect()
    }

    /// What the retry loop may do at a destination now.
    pub(crate) fn outlook(&self, destination: Option<&Destination>) -> Outlook {
        let (policy, now) = (self.policy(), self.now());
        let known = self.of(destination);
        let state = known.state();
        let (room, probing) = (state.room(&policy, now), state.is_open(&policy));
        let ready_in = state.ready_at(&policy, now).saturating_sub(now);
        let closed = state.is_closed(&policy, now);
        Outlook {
            room,
            most: policy.retry_concurrency,
            soon: match closed {
                true => 0,
                false if probing || policy.retry_rate.is_some() => room,
                false => 2 * state.allowed(&policy, now),
            },
            closed,
            probing,
            ready_in,
        }
    }
}

/// What the retry loop may do at a destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook {
    /// So many retries may begin now.
    pub(crate) room: usize,
    /// So many may be under way at a time, wherever they have got to.
    pub(crate) most: usize,
    /// So many are worth having at hand.
    pub(crate) soon: usize,
    /// None may begin, whoever leaves.
    pub(crate) closed: bool,
    /// It does not answer: a retry is a probe, be the object due or not.
    pub(crate) probing: bool,
    /// When there may be room again, if that does not depend on others who are there.
    pub(crate) ready_in: Duration,
}

/// The gate of one run.
pub(crate) struct Visitor {
    destinations: Arc<Destinations>,
    id: OnceLock<StoredObjectId>,
    /// Where it is now: at the destination an object waited for, at the one its function sends to, or both.
    visits: Mutex<Vec<(Arc<Known>, Visit)>>,
    waits: Mutex<Option<Waiting>>,
    began_waiting: Notify,
}

/// Where a run waits, with data that is kept if it goes no further.
struct Waiting {
    destination: Destination,
    /// The room it waits in, once somebody has asked.
    room: Option<BytePermit>,
}

impl Visitor {
    /// For the first attempt of a run.
    pub(crate) fn fresh(destinations: Arc<Destinations>) -> Arc<Self> {
        Arc::new(Self::new(destinations, OnceLock::new(), Vec::new()))
    }

    /// For the first attempt of a batch, under the id it is stored with, if it is.
    pub(crate) fn of_batch(destinations: Arc<Destinations>, id: StoredObjectId) -> Arc<Self> {
        Arc::new(Self::new(destinations, OnceLock::from(id), Vec::new()))
    }

    /// For another attempt of a stored object, begun at the destination it waits for.
    ///
    /// # Errors
    /// There is no room for it now.
    pub(crate) fn retried(
        destinations: &Arc<Destinations>,
        id: StoredObjectId,
        destination: Option<&Destination>,
    ) -> Result<Arc<Self>, Refused> {
        let known = destinations.of(destination);
        let (policy, now) = (destinations.policy(), destinations.now());
        let visit = known.state().enter_retried(&policy, now).map_err(|_| Refused)?;
        Ok(Arc::new(Self::new(
            destinations.clone(),
            OnceLock::from(id),
            vec![(known, visit)],
        )))
    }

    fn new(
        destinations: Arc<Destinations>,
        id: OnceLock<StoredObjectId>,
        visits: Vec<(Arc<Known>, Visit)>,
    ) -> Self {
        Self {
            destinations,
            id,
            visits: Mutex::new(visits),
            waits: Mutex::new(None),
            began_waiting: Notify::new(),
        }
    }

    /// The id under which this run is stored, if it is.
    pub(crate) fn id(&self) -> StoredObjectId {
        *self.id.get_or_init(|| StoredObjectId::from_uuid(Uuid::now_v7()))
    }

    /// Returns when the run waits before a destination, which is answered, and there is no room in memory for a run of so
    /// many bytes to do so. Its data is kept if it goes no further: nothing was sent by the current function, and whoever
    /// drops the run there loses no attempt. Cancel-safe.
    pub(crate) async fn has_no_room(&self, bytes: usize) -> Destination {
        loop {
            let began = self.began_waiting.notified();
            if let Some(waiting) = &mut *self.waits()
                && waiting.room.is_none()
            {
                waiting.room = self
                    .destinations
                    .room
                    .try_take(bytes.saturating_add(OVERHEAD_BYTES));
                if waiting.room.is_none() {
                    return waiting.destination.clone();
                }
            }
            began.await;
        }
    }

    /// The current function succeeded, after it had named a destination or not. Answers where it was accepted.
    pub(crate) fn succeed(&self, named: Option<Destination>) -> Option<Destination> {
        let visits = std::mem::take(&mut *self.visits());
        let mut accepted_at = named;
        let named = accepted_at.is_some();
        for (known, visit) in visits {
            // A function that asked and then names no destination has sent nothing. One that never names any has sent
            // what it was called again for.
            let accepted = named || visit.is_retried();
            if accepted && accepted_at.is_none() {
                accepted_at.clone_from(&known.destination);
            }
            let answer = match accepted {
                true => Answer::Accepted,
                false => Answer::Unknown,
            };
            self.end(&known, visit, answer);
        }
        accepted_at
    }

    /// The current function's call has ended without success.
    pub(crate) fn leave(&self, answer: Answer) {
        let visits = std::mem::take(&mut *self.visits());
        for (known, visit) in visits {
            self.end(&known, visit, answer);
        }
    }

    fn end(&self, known: &Known, visit: Visit, answer: Answer) {
        let (policy, now) = (self.destinations.policy(), self.destinations.now());
        let (destination, answer) = match (&known.destination, answer) {
            (Some(destination), answer) => (destination.as_str(), answer),
            (None, Answer::Accepted) => ("", Answer::Accepted),
            (None, _) => ("", Answer::Unknown),
        };
        let change = known.state().leave(visit, || self.id(), answer, &policy, now);
        match change {
            Change::None => known.changed.notify_one(),
            Change::Opened => {
                known.changed.notify_waiters();
                tracing::warn!(%destination, "the destination does not answer: probing it with one object at a time");
            }
            Change::Closed => {
                known.changed.notify_waiters();
                tracing::info!(%destination, "the destination answers again");
            }
        }
    }

    fn waits(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn visits(&self) -> MutexGuard<'_, Vec<(Arc<Known>, Visit)>> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a first attempt, or says what is in its way.
    fn try_enter(&self, known: &Arc<Known>, unsent: Unsent) -> Result<(), Obstacle> {
        let unsent = match unsent {
            Unsent::Kept if self.destinations.keeps() => Unsent::Kept,
            _ => Unsent::Lost,
        };
        let (policy, now) = (self.destinations.policy(), self.destinations.now());
        match known.state().enter_fresh(unsent, &policy, now) {
            Entry::Begun(visit) => {
                self.visits().push((known.clone(), visit));
                Ok(())
            }
            Entry::Full => Err(Obstacle::Full(unsent)),
            Entry::Refused(until) => Err(Obstacle::Refused {
                wait: until.saturating_sub(now),
            }),
        }
    }

    async fn enter_first(&self, destination: &Destination, unsent: Unsent) -> Result<(), FunctionError> {
        let known = self.destinations.at(destination);
        let mut settings = self.destinations.settings.clone();
        let _waits = Waits(self);
        loop {
            let changed = known.changed.notified();
            tokio::pin!(changed);
            // Whoever leaves from now on is heard.
            changed.as_mut().enable();
            settings.mark_unchanged();
            match self.try_enter(&known, unsent) {
                Ok(()) => return Ok(()),
                Err(Obstacle::Refused { wait }) => {
                    return Err(
                        FunctionError::not_attempted(format!("{destination} cannot be sent to now"))
                            .with_retry_after(wait),
                    );
                }
                Err(Obstacle::Full(unsent)) => {
                    let mut waits = self.waits();
                    if unsent == Unsent::Kept && waits.is_none() {
                        *waits = Some(Waiting {
                            destination: destination.clone(),
                            room: None,
                        });
                        self.began_waiting.notify_waiters();
                    }
                }
            }
            // Both arms are cancel-safe. Without settings nothing changes any more but who is there.
            tokio::select! {
                () = &mut changed => {}
                Ok(()) = settings.changed() => {}
            }
        }
    }
}

/// There is no room for a retry now.
#[derive(Debug)]
pub(crate) struct Refused;

/// What is in the way of a first attempt.
enum Obstacle {
    Full(Unsent),
    Refused { wait: Duration },
}

/// Nobody waits any more, however the waiting ended.
struct Waits<'a>(&'a Visitor);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        *self.0.waits() = None;
    }
}

impl Gate for Visitor {
    fn enter<'a>(
        &'a self,
        destination: &'a Destination,
        unsent: Unsent,
    ) -> BoxFuture<'a, Result<(), FunctionError>> {
        Box::pin(async move {
            let inside = self
                .visits()
                .iter()
                .any(|(known, _)| known.destination.as_ref() == Some(destination));
            match inside {
                true => Ok(()),
                false => self.enter_first(destination, unsent).await,
            }
        })
    }
}

/// A visit that nobody has ended was broken off.
impl Drop for Visitor {
    fn drop(&mut self) {
        self.leave(Answer::Unknown);
    }
}

#[cfg(test)]
mod tests;
