//! The journal: the row of a run that has not ended yet.
//!
//! A run that takes longer than `JournalDelay` is written to the store as the whole delivery it began with, in state
//! new; from then on its delivery may be acknowledged. Ending the run ends the row. With `Journal: always` the row is
//! written before the first function is called.
//!
//! ```text
//!   resting ──delay──▶ writing ──▶ written
//!      ▲                  │
//!      └─pause── refused ◄┘        off: journal off, Store and Forward off, no store to be had
//! ```
//!
//! A busy service is no slow destination: while runs end one after the other, one that is still waiting for its turn on the
//! processor gets more time, up to [`PATIENCE`] times the delay. Writing rows then would slow down those that follow, of
//! which yet more would have to be written.
//!
//! A store that refuses a row (full, away) is asked again while the run goes on; nothing is dropped or evicted for the
//! sake of a row that may never be needed.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use edgehold_config::configuration::{Journal, WhenFull};
use edgehold_core::{
    BoxFuture, Context, CorrelationId, ErrorClass, ExponentialBackoff, ObjectState, PayloadForm, Pipeline,
    PipelineId, PipelineVersion, ServiceKey, StoredInput, StoredObject, StoredObjectId, Timestamp,
};
use edgehold_store::StoreError;
use tokio::time::{Sleep, sleep};

use crate::{
    clock::now,
    destinations::Visitor,
    keeper::{BACKOFF, Keeper, StoreState},
};

/// How many times `JournalDelay` a run may take at most while others end well.
const PATIENCE: u32 = 8;

/// A delivery as it came: what a journaled row keeps.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) topic: String,
    pub(crate) content_type: String,
    pub(crate) form: PayloadForm,
    pub(crate) payload: Bytes,
    pub(crate) correlation_id: CorrelationId,
    /// The device of an event: its row is in the order of that device too.
    pub(crate) device: Option<String>,
}

impl Source {
    /// A row in state new for this delivery.
    pub(crate) fn row(
        &self,
        id: StoredObjectId,
        service_key: &ServiceKey,
        pipeline_id: PipelineId,
        version: PipelineVersion,
        created_at: Timestamp,
    ) -> StoredObject {
        let device = self.device.iter();
        StoredObject {
            id,
            seq: 0,
            service_key: service_key.clone(),
            pipeline_id,
            position: 0,
            version,
            correlation_id: self.correlation_id.clone(),
            context: device
                .map(|name| (Context::DEVICE_NAME.to_owned(), name.clone()))
                .collect(),
            input: StoredInput::Delivery {
                content_type: self.content_type.clone(),
                topic: self.topic.clone(),
                form: self.form,
            },
            payload: self.payload.clone(),
            attempts: 0,
            crashes: 0,
            state: ObjectState::New,
            created_at,
            last_attempt_at: None,
            ended_at: None,
            not_before: None,
            last_error: None,
            errors: Default::default(),
            reason: None,
            destination: None,
        }
    }
}

enum Stage {
    Off,
    Resting(Pin<Box<Sleep>>),
    Writing(BoxFuture<'static, Result<(), StoreError>>),
    Written,
}

/// The row of one run, written or not.
pub(crate) struct JournalEntry<'a> {
    keeper: &'a Keeper,
    source: &'a Source,
    pipeline: Arc<Pipeline>,
    /// Knows the id under which the run is stored.
    visitor: Arc<Visitor>,
    began_at: Timestamp,
    stage: Stage,
    /// Runs that had ended well when the present delay began.
    ended_before: u64,
    /// How often it has been given more time.
    patience: u32,
    backoff: ExponentialBackoff,
    /// Made when it is first needed: most runs end before.
    row: Option<StoredObject>,
    /// A write failed in a way that leaves open whether it happened.
    in_doubt: bool,
    /// The last write failed because there was no room.
    has_no_room: bool,
}

impl<'a> JournalEntry<'a> {
    pub(crate) fn new(
        keeper: &'a Keeper,
        source: &'a Source,
        pipeline: Arc<Pipeline>,
        visitor: Arc<Visitor>,
    ) -> Self {
        let saf = &keeper.settings().store_and_forward;
        let stage = match saf.journal {
            _ if !saf.enabled => Stage::Off,
            Journal::Off => Stage::Off,
            Journal::Auto => Stage::Resting(Box::pin(sleep(saf.journal_delay))),
            Journal::Always => Stage::Resting(Box::pin(sleep(Duration::ZERO))),
        };
        Self {
            keeper,
            source,
            pipeline,
            visitor,
            began_at: now(),
            stage,
            ended_before: keeper.ended_well(),
            patience: 0,
            backoff: BACKOFF,
            row: None,
            in_doubt: false,
            has_no_room: false,
        }
    }

    /// Whether the row has to be there before the first function is called.
    pub(crate) fn comes_first(&self) -> bool {
        self.keeper.settings().store_and_forward.journal == Journal::Always
    }

    /// Whether the row is in the store.
    pub(crate) fn is_written(&self) -> bool {
        matches!(self.stage, Stage::Written)
    }

    /// Writes the row when its time has come, and tries until the store has it; false when it will not be written.
    /// Cancel-safe: a later call goes on where this one was.
    pub(crate) async fn write(&mut self) -> bool {
        loop {
            if let Some(is_written) = self.step().await {
                return is_written;
            }
        }
    }

    /// As [`Self::write`], before the first function is called. Where no room means that something is dropped or set aside,
    /// that is the end's to do with what fails: false, and the run goes on without its row.
    pub(crate) async fn write_first(&mut self) -> bool {
        loop {
            if let Some(is_written) = self.step().await {
                return is_written;
            }
            if self.has_no_room && self.keeper.settings().store_and_forward.when_full != WhenFull::Block {
                return false;
            }
        }
    }

    /// Does the next thing; says whether the row is written when nothing more is to be done.
    async fn step(&mut self) -> Option<bool> {
        match &mut self.stage {
            Stage::Off => return Some(false),
            Stage::Written => return Some(true),
            Stage::Resting(rest) => {
                rest.await;
                match self.more_time() {
                    Some(delay) => self.stage = Stage::Resting(Box::pin(sleep(delay))),
                    None => self.begin(),
                }
            }
            Stage::Writing(writing) => {
                let result = writing.await;
                self.wrote(result);
            }
        }
        None
    }

    /// The run has ended: its row, written or about to be made, and whether the store has it. A write under way is
    /// awaited and one in doubt repeated, because a row nobody knows of would bring the delivery back after the next
    /// start.
    pub(crate) async fn close(mut self) -> (StoredObject, bool) {
        if let Stage::Writing(writing) = &mut self.stage {
            let result = writing.await;
            self.wrote(result);
        }
        if self.in_doubt {
            self.write().await;
        }
        let written = self.is_written();
        let row = match self.row {
            Some(row) => row,
            None => self.make_row(),
        };
        (row, written)
    }

    fn make_row(&self) -> StoredObject {
        let (id, version) = (self.pipeline.id().clone(), self.pipeline.version().clone());
        let service_key = self.keeper.service_key();
        self.source
            .row(self.visitor.id(), service_key, id, version, self.began_at)
    }

    /// For how much longer the run may go on before it is written: when at least half as many others as run at a time
    /// have ended during the last delay, the service is busy and not held up.
    fn more_time(&mut self) -> Option<Duration> {
        let settings = self.keeper.settings();
        let saf = &settings.store_and_forward;
        let ended = self.keeper.ended_well();
        let flow = ended.saturating_sub(std::mem::replace(&mut self.ended_before, ended));
        let busy = flow >= settings.pipeline.concurrency.get().div_ceil(2) as u64;
        if saf.journal != Journal::Auto || !busy || self.patience + 1 >= PATIENCE {
            return None;
        }
        self.patience += 1;
        Some(saf.journal_delay).filter(|delay| !delay.is_zero())
    }

    fn begin(&mut self) {
        let (enabled, room) = {
            let settings = self.keeper.settings();
            let saf = &settings.store_and_forward;
            (saf.enabled, Keeper::room(saf))
        };
        self.stage = match self.keeper.store() {
            StoreState::Open(queue) if enabled => {
                let row = self.row.take().unwrap_or_else(|| self.make_row());
                self.row = Some(row.clone());
                Stage::Writing(Box::pin(async move {
                    let answer = queue.append(std::slice::from_ref(&row), room).await.pop();
                    answer.unwrap_or(Err(StoreError::Closed)).map(|_| ())
                }))
            }
            StoreState::Opening if enabled => self.rest(),
            _ => Stage::Off,
        };
    }

    fn wrote(&mut self, result: Result<(), StoreError>) {
        self.has_no_room = matches!(result, Err(StoreError::Full { .. }));
        self.stage = match result {
            Ok(()) => Stage::Written,
            Err(error) if error.class() == ErrorClass::Permanent => Stage::Off,
            Err(error) => {
                self.in_doubt |= matches!(error, StoreError::Unavailable { .. });
                self.rest()
            }
        };
    }

    fn rest(&mut self) -> Stage {
        Stage::Resting(Box::pin(sleep(self.backoff.next_pause())))
    }
}
