//! The way into the store: appending what could not be finished, and writing what became of a journaled row.
//!
//! A delivery that waits here is not acknowledged and stays in the byte budget. So a store that is full or away holds
//! the source back instead of losing data; what bounds the wait is the budget, not this module.

use std::{sync::Arc, time::Duration};

use edgehold_config::{
    Writable,
    configuration::{Backoff, StoreAndForward, WhenFull},
};
use edgehold_core::{
    ErrorClass, ErrorReason, ExponentialBackoff, ObjectState, PipelineId, PipelineVersion, ServiceKey,
    StoredObject, StoredObjectId,
    retry::{RetryPolicy, Verdict},
};
use edgehold_store::{Eviction, RetryQueue, Room, StoreError};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Books, DropReason, Health,
    clock::{now, random},
    journal::Source,
};

/// Where the store of this service stands.
#[derive(Clone, Default)]
pub enum StoreState {
    /// It is not open: Store and Forward is off, or opening has not succeeded yet and goes on.
    #[default]
    Opening,
    /// It is open.
    Open(Arc<dyn RetryQueue>),
    /// It cannot be opened with these settings, for this reason: Store and Forward is off in effect.
    Failed(String),
}

impl StoreState {
    /// The queue, when it is open.
    pub fn queue(&self) -> Option<&Arc<dyn RetryQueue>> {
        match self {
            Self::Open(queue) => Some(queue),
            Self::Opening | Self::Failed(_) => None,
        }
    }
}

/// Follows where the store stands.
pub type QueueHandle = watch::Receiver<StoreState>;

/// Between two calls of a store that refuses or does not answer.
pub(crate) const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Keeps what could not be finished. Shared by everything that runs pipelines.
pub struct Keeper {
    service_key: ServiceKey,
    settings: watch::Receiver<Arc<Writable>>,
    queue: QueueHandle,
    books: Arc<Books>,
    health: Arc<Health>,
}

/// Why an object is not in the store.
#[derive(Debug)]
pub(crate) enum NotKept {
    /// Store and Forward is off.
    Disabled,
    /// There is no room and `WhenFull` is `drop-newest`.
    NoRoom(StoreError),
    /// The store can never keep it.
    Refused(StoreError),
    /// The store was closed first: nobody has it.
    Closed,
}

impl NotKept {
    /// The name under which the data is dropped; none when the delivery will come again.
    pub(crate) fn drop_reason(&self) -> Option<DropReason> {
        match self {
            Self::Disabled => Some(DropReason::StoreAndForwardDisabled),
            Self::NoRoom(_) => Some(DropReason::Capacity),
            Self::Refused(_) => Some(DropReason::NotStorable),
            Self::Closed => None,
        }
    }
}

impl Keeper {
    /// A keeper for the objects of one service.
    pub fn new(
        service_key: ServiceKey,
        settings: watch::Receiver<Arc<Writable>>,
        queue: QueueHandle,
        books: Arc<Books>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            service_key,
            settings,
            queue,
            books,
            health,
        }
    }

    /// Runs that have ended well so far.
    pub(crate) fn ended_well(&self) -> u64 {
        self.books.ended_well()
    }

    pub(crate) fn service_key(&self) -> &ServiceKey {
        &self.service_key
    }

    /// The settings now.
    pub(crate) fn settings(&self) -> Arc<Writable> {
        self.settings.borrow().clone()
    }

    /// Where the store stands now.
    pub(crate) fn store(&self) -> StoreState {
        self.queue.borrow().clone()
    }

    /// The store, once it is open; none where nothing is kept. Cancel-safe.
    pub(crate) async fn opened(&self) -> Option<Arc<dyn RetryQueue>> {
        let (mut queue, mut settings) = (self.queue.clone(), self.settings.clone());
        loop {
            let enabled = settings.borrow_and_update().store_and_forward.enabled;
            match queue.borrow_and_update().clone() {
                StoreState::Opening if enabled => {}
                StoreState::Open(queue) if enabled => return Some(queue),
                _ => return None,
            }
            tokio::select! {
                Ok(()) = queue.changed() => {}
                Ok(()) = settings.changed() => {}
                // The service has ended.
                else => return None,
            }
        }
    }

    /// How much may wait.
    pub(crate) fn room(saf: &StoreAndForward) -> Room {
        Room {
            max_items: saf.max_items,
            max_bytes: saf.max_bytes,
        }
    }

    /// A delivery that cannot be decoded is evidence: into the error collection while Store and Forward is on. Answers
    /// whether its source may forget it.
    pub(crate) async fn keep_undecodable(&self, source: &Source, problem: &str) -> bool {
        let at = now();
        let mut object = StoredObject {
            state: ObjectState::Error,
            reason: Some(ErrorReason::Undecodable),
            ended_at: Some(at),
            last_error: Some(problem.to_owned()),
            ..source.row(
                StoredObjectId::from_uuid(Uuid::now_v7()),
                &self.service_key,
                PipelineId::default_pipeline(),
                PipelineVersion::from_stored(""),
                at,
            )
        };
        // Not a run: the books count it as undecodable, whether it is kept or not.
        match self.append(&mut object).await {
            Ok(()) => {
                self.books.undecodable_stored();
                true
            }
            Err(not_kept) => not_kept.drop_reason().is_some(),
        }
    }

    /// Hands an object to the store until the store has it, refuses it for good, is closed, or Store and Forward is
    /// switched off. What `WhenFull` says may change the object: into one of the error collection.
    pub(crate) async fn append(&self, object: &mut StoredObject) -> Result<(), NotKept> {
        self.append_telling(object, || {}).await
    }

    /// As [`Keeper::append`]. `no_room` is called whenever there is no room and that is waited for.
    pub(crate) async fn append_telling(
        &self,
        object: &mut StoredObject,
        no_room: impl Fn(),
    ) -> Result<(), NotKept> {
        let mut settings = self.settings.clone();
        let mut queue = self.queue.clone();
        let mut backoff = BACKOFF;
        let mut told = false;
        loop {
            let (enabled, room, when_full) = {
                let settings = settings.borrow_and_update();
                let saf = &settings.store_and_forward;
                (saf.enabled, Self::room(saf), saf.when_full)
            };
            if !enabled {
                return Err(NotKept::Disabled);
            }
            let current = queue.borrow_and_update().clone();
            let error = match current {
                StoreState::Open(queue) => {
                    let answer = queue.append(std::slice::from_ref(object), room).await.pop();
                    match answer.unwrap_or(Err(StoreError::Closed)) {
                        Ok(_) => {
                            self.health.works(Health::STORE);
                            return Ok(());
                        }
                        Err(StoreError::Closed) => return Err(NotKept::Closed),
                        Err(full @ StoreError::Full { .. }) => {
                            match self.make_room(&*queue, object, room, when_full).await {
                                Made::Room => continue,
                                Made::Nothing => {
                                    self.health.problem(Health::STORE, full.to_string());
                                    return Err(NotKept::NoRoom(full));
                                }
                                Made::Wait => {
                                    no_room();
                                    full.to_string()
                                }
                            }
                        }
                        Err(error) if error.class() == ErrorClass::Permanent => {
                            return Err(NotKept::Refused(error));
                        }
                        Err(error) => error.to_string(),
                    }
                }
                StoreState::Opening => "the store is not open yet".to_owned(),
                StoreState::Failed(_) => return Err(NotKept::Disabled),
            };
            self.health.problem(Health::STORE, &error);
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    pipeline_id = %object.pipeline_id, correlation_id = %object.correlation_id,
                    "cannot store a failed export yet, holding on to its delivery: {error}"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => backoff.grow(),
                changed = queue.changed() => if changed.is_err() { return Err(NotKept::Closed) },
                changed = settings.changed() => if changed.is_err() { return Err(NotKept::Closed) },
            }
        }
    }

    /// What is to be done about a store without room.
    async fn make_room(
        &self,
        queue: &dyn RetryQueue,
        object: &mut StoredObject,
        room: Room,
        when_full: WhenFull,
    ) -> Made {
        match when_full {
            WhenFull::Block => Made::Wait,
            WhenFull::DropNewest => Made::Nothing,
            // What is in the error collection does not wait, so no limit of waiting objects applies to it. A disk
            // without room for it leaves nothing but to wait.
            WhenFull::DeadLetter if object.state != ObjectState::Error => {
                object.state = ObjectState::Error;
                object.reason = Some(ErrorReason::Capacity);
                object.ended_at = Some(now());
                Made::Room
            }
            WhenFull::DeadLetter => Made::Wait,
            WhenFull::DropOldest => {
                let Ok(stats) = queue.stats().await else {
                    return Made::Wait;
                };
                let bytes = object.payload.len() as u64;
                let over = |held: u64, more: u64, max: Option<std::num::NonZeroU64>| {
                    max.map_or(0, |max| (held + more).saturating_sub(max.get()))
                };
                let held_bytes = stats.waiting_bytes();
                let eviction = Eviction {
                    objects: over(stats.waiting(), 1, room.max_items).max(1),
                    // On a full disk no limit says how much: what is needed here.
                    bytes: over(held_bytes, bytes, room.max_bytes).max(match stats.waiting() {
                        0 => 0,
                        _ => bytes,
                    }),
                };
                match queue.evict(eviction).await {
                    Ok(evicted) if evicted.is_empty() => Made::Wait,
                    Ok(evicted) => {
                        for gone in &evicted {
                            self.books.dropped(DropReason::Capacity);
                            tracing::error!(
                                pipeline_id = %gone.pipeline_id, correlation_id = %gone.correlation_id,
                                stored_object_id = %gone.id,
                                "dropped to make room, as WhenFull says: it was the oldest that waited"
                            );
                        }
                        Made::Room
                    }
                    Err(_) => Made::Wait,
                }
            }
        }
    }

    /// Writes what became of rows, all at once, until the store has it. False when the store was closed first: the rows
    /// then still say that their runs have not ended.
    pub(crate) async fn settle(&self, verdicts: &[Verdict]) -> bool {
        let mut queue = self.queue.clone();
        let mut backoff = BACKOFF;
        let mut told = false;
        loop {
            let current = queue.borrow_and_update().clone();
            let error = match current {
                StoreState::Open(queue) => match queue.settle(verdicts).await {
                    Ok(()) => return true,
                    Err(StoreError::Closed) => return false,
                    Err(error) => error.to_string(),
                },
                StoreState::Opening | StoreState::Failed(_) => "the store is not open".to_owned(),
            };
            if !std::mem::replace(&mut told, true) {
                let ids: Vec<_> = verdicts
                    .iter()
                    .take(1)
                    .map(|verdict| verdict.id.to_string())
                    .collect();
                tracing::warn!(stored_object_id = %ids.concat(), "cannot write the end of a run yet: {error}");
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => backoff.grow(),
                changed = queue.changed() => if changed.is_err() { return false },
            }
        }
    }
}

/// What a decision about a failed attempt depends on, with these settings.
pub(crate) fn policy(saf: &StoreAndForward) -> RetryPolicy {
    RetryPolicy {
        interval: saf.rest(),
        max_retries: saf.max_retries,
        on_pipeline_change: saf.on_pipeline_change,
        keep_history: saf.history_retention.is_some(),
        max_interval: saf.max_retry_interval,
        jitter: match saf.backoff {
            Backoff::Fixed | Backoff::None => None,
            Backoff::Exponential => Some(random()),
        },
    }
}

/// What was done about a store without room.
enum Made {
    /// There may be room now: try again.
    Room,
    /// Nothing, and nothing will be: the object goes.
    Nothing,
    /// Nothing yet.
    Wait,
}
