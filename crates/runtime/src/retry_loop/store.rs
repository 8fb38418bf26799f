//! The store as the retry loop asks it.
//!
//! Owns what is to be asked and what is being asked, and what a failure means for the next question: it is told once, and
//! the store is left alone for a while. Does not own what an answer means for the lanes (that is
//! [`enter`](super::enter)'s), nor the verdicts, which go to the store whether it is left alone or not
//! ([`verdict`](super::verdict)).

use std::{sync::Arc, time::Duration};

use edgehold_core::{BoxFuture, ErrorReason, ExponentialBackoff, PipelineSet};
use edgehold_store::{Claim, ErrorPage, LaneStatus, ObjectFilter, RetryQueue, StoreError};
use tokio::time::Instant;

use super::{BACKOFF, Done};
use crate::{clock::now, lane::LaneKey};

/// Most objects brought back from the error collection at once.
const REDRIVE_PAGE: usize = 256;

/// What is known of the store.
pub(super) struct Store {
    queue: Arc<dyn RetryQueue>,
    /// What is due.
    look: Question,
    /// To bring back what left with its pipeline.
    redrive: Question,
    /// It fails: it is left alone until then.
    rests_until: Option<Instant>,
    backoff: ExponentialBackoff,
    closed: bool,
}

/// Something that is asked once at a time; wanted meanwhile, it is asked again after the answer.
struct Question {
    wanted: bool,
    under_way: bool,
}

impl Question {
    const WANTED: Self = Self {
        wanted: true,
        under_way: false,
    };

    /// Whether it is to be asked now; from then on it is under way.
    fn begin(&mut self) -> bool {
        let begins = self.wanted && !self.under_way;
        if begins {
            (self.wanted, self.under_way) = (false, true);
        }
        begins
    }
}

impl Store {
    pub(super) fn new(queue: Arc<dyn RetryQueue>) -> Self {
        Self {
            queue,
            look: Question::WANTED,
            redrive: Question::WANTED,
            rests_until: None,
            backoff: BACKOFF,
            closed: false,
        }
    }

    /// It is to be asked what is due.
    pub(super) fn want_look(&mut self) {
        self.look.wanted = true;
    }

    /// What left with its pipeline may be brought back.
    pub(super) fn want_redrive(&mut self) {
        self.redrive.wanted = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Until when it is left alone, if it is.
    pub(super) fn rests_until(&mut self, moment: Instant) -> Option<Instant> {
        self.rests_until.take_if(|until| *until <= moment);
        self.rests_until
    }

    /// Asks what is due, if that is to be asked now.
    pub(super) fn look(&mut self, interval: Duration) -> Option<BoxFuture<'static, Done>> {
        if !self.look.begin() {
            return None;
        }
        let queue = self.queue.clone();
        Some(Box::pin(async move {
            Done::Looked(queue.lanes(interval, now()).await)
        }))
    }

    /// Brings back what left with one of these pipelines, if that is to be done now.
    pub(super) fn redrive(&mut self, set: &Arc<PipelineSet>) -> Option<BoxFuture<'static, Done>> {
        if !self.redrive.begin() {
            return None;
        }
        let (queue, set) = (self.queue.clone(), set.clone());
        Some(Box::pin(
            async move { Done::Redriven(redrive(&*queue, &set).await) },
        ))
    }

    /// Claims for a lane.
    pub(super) fn claim(&self, lane: LaneKey, claim: Claim) -> BoxFuture<'static, Done> {
        let queue = self.queue.clone();
        Box::pin(async move { Done::Claimed(lane, queue.claim(claim).await) })
    }

    /// What is due, when the store has said it.
    pub(super) fn looked(&mut self, result: Result<Vec<LaneStatus>, StoreError>) -> Option<Vec<LaneStatus>> {
        self.look.under_way = false;
        let answer = self.heard(result);
        self.look.wanted |= answer.is_none();
        answer
    }

    /// What could be brought back has been, or the store has failed. What has come back is due.
    pub(super) fn redriven(&mut self, result: Result<(), StoreError>) {
        self.redrive.under_way = false;
        self.redrive.wanted |= self.heard(result).is_none();
        self.look.wanted = true;
    }

    /// The answer of the store; none when it has failed, which is told once, and not asked about again at once.
    pub(super) fn heard<T>(&mut self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(answer) => {
                self.backoff.reset();
                Some(answer)
            }
            Err(StoreError::Closed) => {
                self.closed = true;
                None
            }
            Err(error) => {
                if self.rests_until.is_none() && !self.backoff.has_grown() {
                    tracing::warn!("the retry loop cannot reach the store, will try again: {error}");
                }
                self.rests_until = Some(Instant::now() + self.backoff.next_pause());
                None
            }
        }
    }
}

async fn redrive(queue: &dyn RetryQueue, set: &PipelineSet) -> Result<(), StoreError> {
    for pipeline in &set.pipelines {
        let mut page = ErrorPage {
            filter: ObjectFilter {
                pipeline_ids: vec![pipeline.id().clone()],
                version: Some(pipeline.version().clone()),
                reasons: vec![ErrorReason::PipelineChanged, ErrorReason::PipelineRemoved],
                ..ObjectFilter::default()
            },
            after_seq: 0,
            limit: REDRIVE_PAGE,
        };
        while let Some(last) = queue.redrive(page.clone()).await?.last_seq {
            page.after_seq = last;
        }
    }
    Ok(())
}
