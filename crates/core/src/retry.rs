//! The decisions of a retry, without a clock, a store or a task: whether an object may run ([`admit`]), and what its
//! attempt means for it ([`settle`]).

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    DataKind, Destination, ErrorClass, ErrorReason, ExponentialBackoff, Pipeline, PipelineSet,
    PipelineVersion, StoredObject, StoredObjectId, Timestamp,
};

/// How often an object may fail before it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxRetries {
    /// Never given up for its count.
    Unlimited,
    /// Given up once this many attempts after the first have failed: N means N + 1 sends in all.
    AtMost(NonZeroU32),
}

impl MaxRetries {
    /// As `MaxRetryCount` says it: 0 is unlimited, below 0 is 1.
    pub fn from_setting(count: i64) -> Self {
        match count {
            0 => Self::Unlimited,
            1.. => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                NonZeroU32::new(count).map_or(Self::Unlimited, Self::AtMost)
            }
            _ => Self::AtMost(NonZeroU32::MIN),
        }
    }

    /// Whether this many failed attempts, the first included, are too many.
    pub fn exceeded_by(self, attempts: u32) -> bool {
        match self {
            Self::Unlimited => false,
            Self::AtMost(maximum) => attempts > maximum.get(),
        }
    }
}

/// What becomes of an object whose pipeline no longer fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPipelineChange {
    /// Into the error collection; it comes back when its version comes back.
    #[default]
    DeadLetter,
    /// Removed and counted, as EdgeX does.
    Discard,
}

/// The settings a decision depends on, at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The pause between two attempts of one object.
    pub interval: Duration,
    /// How often an object may fail.
    pub max_retries: MaxRetries,
    /// What becomes of an object whose pipeline no longer fits.
    pub on_pipeline_change: OnPipelineChange,
    /// Whether what was delivered is kept as history.
    pub keep_history: bool,
    /// The longest a destination may ask to be left alone, and the longest pause of a growing backoff.
    pub max_interval: Duration,
    /// With exponential backoff, a number drawn for this decision, from 0 to below 1; none while all pauses are alike.
    pub jitter: Option<f64>,
}

impl RetryPolicy {
    /// Until when an object waits after so many failed attempts, beyond the interval that holds for all: as long as its
    /// destination asked for, or, with exponential backoff, a random time between the interval and one that doubles
    /// with each attempt.
    pub fn not_before(
        &self,
        attempts: u32,
        retry_after: Option<Duration>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let asked = retry_after.map(|delay| delay.min(self.max_interval));
        let backoff = self.jitter.map(|jitter| {
            let longest = ExponentialBackoff::new(self.interval, self.max_interval)
                .after(attempts)
                .pause();
            self.interval + (longest - self.interval).mul_f64(jitter.clamp(0.0, 1.0))
        });
        asked.max(backoff).map(|delay| now.saturating_add(delay))
    }
}

/// Whether an object may run now.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Resume it in this pipeline.
    Run(Arc<Pipeline>),
    /// Its pipeline does not fit, but changed only just now: look again at this time.
    Postpone(Timestamp),
    /// Its pipeline does not fit: give it up for this reason.
    GiveUp(ErrorReason),
}

/// Decides whether an object may run: its pipeline exists, has the position, and has the version it was stored under.
///
/// An object that came from the journal (its payload is a whole delivery) starts at position 0 and needs no version.
pub fn admit(object: &StoredObject, set: &PipelineSet, policy: &RetryPolicy, now: Timestamp) -> Admission {
    let reason = match set.get(&object.pipeline_id) {
        None => ErrorReason::PipelineRemoved,
        Some(pipeline) => {
            let position = usize::try_from(object.position).unwrap_or(usize::MAX);
            let fits = object.input.is_delivery() || *pipeline.version() == object.version;
            if fits && position < pipeline.steps().len() {
                return Admission::Run(pipeline.clone());
            }
            ErrorReason::PipelineChanged
        }
    };
    let judged_at = set.changed_at.saturating_add(policy.interval);
    // A change in the future means that the clock was set back: judge now rather than never.
    if set.changed_at <= now && now < judged_at {
        Admission::Postpone(judged_at)
    } else {
        Admission::GiveUp(reason)
    }
}

/// What a later function has to start from next time, because the ones before it have succeeded.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The version of the pipeline that ran: a whole delivery is resumed by whatever pipeline there is.
    pub version: PipelineVersion,
    /// The position of the function that failed.
    pub position: u32,
    /// What the payload is turned back into.
    pub kind: DataKind,
    /// What that function received.
    pub payload: Bytes,
    /// The context values it had.
    pub context: BTreeMap<String, String>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Attempt {
    /// The rest of the pipeline exported or filtered it.
    Succeeded,
    /// A function failed.
    Failed {
        /// Whether another attempt can help.
        class: ErrorClass,
        /// What went wrong.
        error: String,
        /// How long the destination asked to be left alone.
        retry_after: Option<Duration>,
        /// Where the failing function sends to.
        destination: Option<Destination>,
        /// Set when the failing function is not the one the attempt began with.
        progress: Option<Progress>,
    },
    /// A function keeps the data for a batch.
    Batched {
        /// Where the function is and what it wants to be called with, should the batch not come about.
        progress: Progress,
    },
    /// The service is ending before the attempt did: it never happened.
    Interrupted,
}

/// What a store does with one claimed object.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The object.
    pub id: StoredObjectId,
    /// What to do with it. Any verdict ends the claim.
    pub action: Action,
}

/// What a store does with a claimed object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Delivered, or discarded by setting: remove it.
    Remove,
    /// Delivered: keep it as history.
    Succeed {
        /// When.
        at: Timestamp,
    },
    /// Give the claim back without counting an attempt; nothing else changes but what is given. An object in state new
    /// becomes a failed one: its first attempt did not end.
    Release {
        /// Not to be tried before this; none leaves it as it is.
        not_before: Option<Timestamp>,
        /// What went wrong, if something did; none leaves it as it is.
        last_error: Option<String>,
        /// Where the next function sends to; none leaves it as it is, unless there is progress.
        destination: Option<Destination>,
        /// Where to start from next time, when that has moved on.
        progress: Option<Progress>,
    },
    /// It waits in a batch from now on, with a fresh count: not to be handed out, evicted or swept before another verdict
    /// or a restart has made it failed, in nobody's way, and in flight at no crash.
    Batch(Progress),
    /// A counted failure: wait for the next attempt.
    RetryLater(Failure),
    /// Into the error collection, payload whole, in one atomic step.
    GiveUp {
        /// Why.
        reason: ErrorReason,
        /// When.
        at: Timestamp,
        /// The last failure, when an attempt was the cause.
        failure: Option<Failure>,
    },
}

impl Action {
    /// Gives the claim back and changes nothing else.
    pub const RELEASE: Self = Self::Release {
        not_before: None,
        last_error: None,
        destination: None,
        progress: None,
    };
}

/// A counted failure.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Failed attempts, this one included.
    pub attempts: u32,
    /// When it ended.
    pub at: Timestamp,
    /// What went wrong.
    pub error: String,
    /// Not to be tried before this.
    pub not_before: Option<Timestamp>,
    /// Where the failing function sends to, when it said so.
    pub destination: Option<Destination>,
    /// Where to start from next time, when that has moved on.
    pub progress: Option<Progress>,
}

/// Maps the end of an attempt to what the store has to do.
///
/// What was not attempted does not count. A failure counts only when the object was due: a pass woken early by a success at the destination may try it and
/// fail without using up one of its retries.
pub fn settle(object: &StoredObject, attempt: Attempt, policy: &RetryPolicy, now: Timestamp) -> Verdict {
    let action = match attempt {
        Attempt::Succeeded if policy.keep_history => Action::Succeed { at: now },
        Attempt::Succeeded => Action::Remove,
        Attempt::Interrupted => Action::RELEASE,
        Attempt::Batched { progress } => Action::Batch(progress),
        Attempt::Failed {
            class: ErrorClass::NotAttempted,
            error,
            retry_after: _,
            destination,
            progress,
        } => Action::Release {
            // Its destination, and with it everything that waits there, is let in again at the same moment.
            not_before: None,
            // What went wrong when something was tried says more, unless that was another function.
            last_error: (object.last_error.is_none() || progress.is_some()).then_some(error),
            destination,
            progress,
        },
        Attempt::Failed {
            error,
            destination,
            progress: None,
            class: ErrorClass::Transient,
            ..
        } if !object.is_due(policy.interval, now) => Action::Release {
            not_before: None,
            last_error: Some(error),
            destination,
            progress: None,
        },
        Attempt::Failed {
            class,
            error,
            retry_after,
            destination,
            progress,
        } => {
            // Behind an export that has just succeeded another function begins its own count.
            let before = if progress.is_some() { 0 } else { object.attempts };
            let attempts = before.saturating_add(1);
            let failure = Failure {
                attempts,
                at: now,
                error,
                not_before: policy.not_before(attempts, retry_after, now),
                destination,
                progress,
            };
            if class == ErrorClass::Permanent {
                Action::GiveUp {
                    reason: ErrorReason::PermanentError,
                    at: now,
                    failure: Some(failure),
                }
            } else if policy.max_retries.exceeded_by(attempts) {
                Action::GiveUp {
                    reason: ErrorReason::RetriesExceeded,
                    at: now,
                    failure: Some(failure),
                }
            } else {
                Action::RetryLater(failure)
            }
        }
    };
    Verdict {
        id: object.id,
        action,
    }
}

#[cfg(test)]
mod tests;
