//! Keeping what could not be finished: the way from a failed run into the store.
//!
//! A delivery that waits here is not acknowledged and stays in the byte budget. So a store that is full or away holds
//! the source back instead of losing data; what bounds the wait is the budget, not this module.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edgehold_config::Writable;
use edgehold_core::{
    CorrelationId, ErrorClass, ErrorReason, ObjectState, PipelineId, PipelineVersion, RetryData, ServiceKey,
    StoredInput, StoredObject, StoredObjectId,
};
use edgehold_store::{RetryQueue, Room, StoreError};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Books, DropReason, Wake,
    clock::now,
    execute::{FailedStep, Run},
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

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Keeps failed runs. Shared by everything that runs pipelines.
pub struct Keeper {
    service_key: ServiceKey,
    settings: watch::Receiver<Arc<Writable>>,
    queue: QueueHandle,
    books: Arc<Books>,
    wake: Arc<Wake>,
}

/// What became of something that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The store has it, durably.
    Stored,
    /// It is gone, by name and counted.
    Dropped,
    /// The store was closed first: nobody has it.
    Abandoned,
}

enum NotKept {
    Disabled,
    Closed,
    Refused(StoreError),
}

impl Keeper {
    /// A keeper for the objects of one service.
    pub fn new(
        service_key: ServiceKey,
        settings: watch::Receiver<Arc<Writable>>,
        queue: QueueHandle,
        books: Arc<Books>,
        wake: Arc<Wake>,
    ) -> Self {
        Self {
            service_key,
            settings,
            queue,
            books,
            wake,
        }
    }

    /// A function failed at the first attempt of its run.
    pub(crate) async fn keep_failed(&self, run: &Run, failed: FailedStep) -> Kept {
        self.books.failed_attempt();
        let pipeline_id = run.pipeline.id();
        let correlation_id = run.ctx.correlation_id();
        tracing::error!(
            %pipeline_id, %correlation_id, function = run.function_name(), position = run.position,
            "Pipeline ({pipeline_id}) function #{} resulted in error: {}", run.position, failed.error.chain()
        );
        let Some(retry_data) = failed.retry_data else {
            self.books.dropped(DropReason::NotPersistent);
            return Kept::Dropped;
        };
        let at = now();
        let mut object = self.object(run, retry_data);
        object.attempts = 1;
        object.last_attempt_at = Some(at);
        object.not_before = failed.error.retry_after().map(|delay| at.saturating_add(delay));
        object.last_error = Some(failed.error.chain());
        object.destination = failed.destination;
        if failed.error.class() == ErrorClass::Permanent {
            object.state = ObjectState::Error;
            object.reason = Some(ErrorReason::PermanentError);
            object.ended_at = Some(at);
        }
        self.keep(object).await
    }

    /// The service is ending before a function did: it is called again, with what it had, after the next start.
    pub(crate) async fn keep_interrupted(&self, run: &Run) -> Kept {
        let retry_data = RetryData {
            payload: run.input.to_bytes(run.ctx.generation()),
            kind: run.input.kind(),
        };
        let object = self.object(run, retry_data);
        match self.append(&object).await {
            Ok(()) => {
                self.books.stored();
                Kept::Stored
            }
            Err(_) => Kept::Abandoned,
        }
    }

    /// A delivery that cannot be decoded is evidence: into the error collection while Store and Forward is on.
    pub(crate) async fn keep_undecodable(
        &self,
        raw: Bytes,
        input: StoredInput,
        correlation_id: CorrelationId,
        reason: &str,
    ) -> Kept {
        let at = now();
        let object = StoredObject {
            id: new_id(),
            seq: 0,
            service_key: self.service_key.clone(),
            pipeline_id: PipelineId::default_pipeline(),
            position: 0,
            version: PipelineVersion::from_stored(""),
            correlation_id,
            context: Default::default(),
            input,
            payload: raw,
            attempts: 0,
            state: ObjectState::Error,
            created_at: at,
            last_attempt_at: None,
            not_before: None,
            last_error: Some(reason.to_owned()),
            reason: Some(ErrorReason::Undecodable),
            destination: None,
            ended_at: Some(at),
            crashes: 0,
        };
        // Not a run: the books count it as undecodable, whether it is kept or not.
        match self.append(&object).await {
            Ok(()) => Kept::Stored,
            Err(NotKept::Disabled | NotKept::Refused(_)) => Kept::Dropped,
            Err(NotKept::Closed) => Kept::Abandoned,
        }
    }

    async fn keep(&self, object: StoredObject) -> Kept {
        let (pipeline_id, correlation_id) = (&object.pipeline_id, &object.correlation_id);
        match self.append(&object).await {
            Ok(()) => {
                if let Some(reason) = object.reason {
                    self.books.given_up();
                    tracing::error!(
                        %pipeline_id, %correlation_id, stored_object_id = %object.id, reason = reason.as_str(),
                        "set aside in the error collection: {}", object.last_error.as_deref().unwrap_or("")
                    );
                } else {
                    self.books.stored();
                    self.wake.kept(object.destination.as_ref());
                    tracing::debug!(%pipeline_id, %correlation_id, stored_object_id = %object.id, "stored for a later retry");
                }
                Kept::Stored
            }
            Err(NotKept::Disabled) => {
                self.books.dropped(DropReason::StoreAndForwardDisabled);
                tracing::error!(
                    %pipeline_id, %correlation_id,
                    "StoreAndForward not enabled: the data of this failed export is dropped; set \
                     Writable/StoreAndForward/Enabled to true to keep it"
                );
                Kept::Dropped
            }
            Err(NotKept::Refused(error)) => {
                self.books.dropped(DropReason::NotStorable);
                tracing::error!(%pipeline_id, %correlation_id, "the data of this failed export is dropped: {error}");
                Kept::Dropped
            }
            Err(NotKept::Closed) => Kept::Abandoned,
        }
    }

    /// Hands an object to the store until the store has it, refuses it for good, is closed, or Store and Forward is
    /// switched off.
    async fn append(&self, object: &StoredObject) -> Result<(), NotKept> {
        let mut settings = self.settings.clone();
        let mut queue = self.queue.clone();
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            if !settings.borrow_and_update().store_and_forward.enabled {
                return Err(NotKept::Disabled);
            }
            let current = queue.borrow_and_update().clone();
            let error = match current {
                StoreState::Open(queue) => match queue
                    .append(std::slice::from_ref(object), Room::default())
                    .await
                    .pop()
                {
                    Some(Ok(_)) => return Ok(()),
                    Some(Err(StoreError::Closed)) => return Err(NotKept::Closed),
                    Some(Err(error)) if error.class() == ErrorClass::Permanent => {
                        return Err(NotKept::Refused(error));
                    }
                    Some(Err(error)) => error.to_string(),
                    None => "the store gave no answer".to_owned(),
                },
                StoreState::Opening => "the store is not open yet".to_owned(),
                StoreState::Failed(_) => return Err(NotKept::Disabled),
            };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    pipeline_id = %object.pipeline_id, correlation_id = %object.correlation_id,
                    "cannot store a failed export yet, holding on to its delivery: {error}"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                changed = queue.changed() => if changed.is_err() { return Err(NotKept::Closed) },
                changed = settings.changed() => if changed.is_err() { return Err(NotKept::Closed) },
            }
        }
    }

    fn object(&self, run: &Run, retry_data: RetryData) -> StoredObject {
        StoredObject {
            id: new_id(),
            seq: 0,
            service_key: self.service_key.clone(),
            pipeline_id: run.pipeline.id().clone(),
            position: u32::try_from(run.position).unwrap_or(u32::MAX),
            version: run.pipeline.version().clone(),
            correlation_id: run.ctx.correlation_id().clone(),
            context: run.ctx.values().clone(),
            input: StoredInput::Bytes {
                kind: retry_data.kind,
            },
            payload: retry_data.payload,
            attempts: 0,
            state: ObjectState::Failed,
            created_at: now(),
            last_attempt_at: None,
            not_before: None,
            last_error: None,
            reason: None,
            destination: None,
            ended_at: None,
            crashes: 0,
        }
    }
}

fn new_id() -> StoredObjectId {
    StoredObjectId::from_uuid(Uuid::now_v7())
}
