//! The verdicts of the retry loop on their way into the store.
//!
//! Owns those that wait and whether some are being written: all there are go in one write, and the next write waits for
//! its end. Does not own what a verdict means once it is in the store (that is [`enter`](super::enter)'s).

use std::sync::Arc;

use edgehold_core::{BoxFuture, Destination, ShutdownSignal, Timestamp, retry::Verdict};
use edgehold_store::{RetryQueue, StoreError};

use super::{BACKOFF, Done};
use crate::{
    attempt::{Ended, Entry},
    batch::Joining,
    lane::LaneKey,
};

/// Most verdicts written at once. Nothing is begun while more than that wait to be written.
const MAX_VERDICTS: usize = 1024;

/// A verdict on its way into the store, and what it means once it is there.
pub(super) struct Settling {
    verdict: Verdict,
    pub(super) entry: Entry,
    pub(super) waits: Option<(Option<Destination>, Timestamp)>,
    pub(super) joins: Option<Box<Joining>>,
    /// It was handed out by this lane.
    pub(super) lane: LaneKey,
}

/// The verdicts that are to be written.
pub(super) struct Verdicts {
    queue: Arc<dyn RetryQueue>,
    hurry: ShutdownSignal,
    waiting: Vec<Settling>,
    /// Others are being written.
    writing: bool,
}

impl Verdicts {
    pub(super) fn new(queue: Arc<dyn RetryQueue>, hurry: ShutdownSignal) -> Self {
        Self {
            queue,
            hurry,
            waiting: Vec::new(),
            writing: false,
        }
    }

    /// Takes one in of an object that `lane` had handed out.
    pub(super) fn push(&mut self, ended: Ended, lane: LaneKey) {
        self.waiting.push(Settling {
            verdict: ended.verdict,
            entry: ended.entry,
            waits: ended.waits,
            joins: ended.joins,
            lane,
        });
    }

    /// Whether so many wait that nothing is to be begun.
    pub(super) fn are_many(&self) -> bool {
        self.waiting.len() >= MAX_VERDICTS
    }

    /// Writes those there are, unless some are being written. They are tried again until the store has them, it is closed
    /// or there is no time left.
    pub(super) fn write(&mut self) -> Option<BoxFuture<'static, Done>> {
        if self.writing || self.waiting.is_empty() {
            return None;
        }
        self.writing = true;
        let rest = self.waiting.split_off(self.waiting.len().min(MAX_VERDICTS));
        let settling = std::mem::replace(&mut self.waiting, rest);
        let (queue, hurry) = (self.queue.clone(), self.hurry.clone());
        Some(Box::pin(async move {
            let verdicts: Vec<_> = settling.iter().map(|settling| settling.verdict.clone()).collect();
            let result = settle(&*queue, &verdicts, hurry).await;
            Done::Settled(settling, result)
        }))
    }

    /// That write has ended.
    pub(super) fn written(&mut self) {
        self.writing = false;
    }
}

async fn settle(
    queue: &dyn RetryQueue,
    verdicts: &[Verdict],
    mut hurry: ShutdownSignal,
) -> Result<(), StoreError> {
    let mut backoff = BACKOFF;
    let mut told = false;
    loop {
        let error = match queue.settle(verdicts).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if hurry.is_triggered() || matches!(error, StoreError::Closed) {
            return Err(error);
        }
        if !std::mem::replace(&mut told, true) {
            let verdicts = verdicts.len();
            tracing::warn!(verdicts, "cannot write the outcome of retries yet: {error}");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => backoff.grow(),
            () = hurry.recv() => {}
        }
    }
}
