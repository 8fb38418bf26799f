//! What is known of one destination, and who may send there: decisions without a clock, a lock or a task.
//!
//! Two kinds of visits come here. A *fresh* one is the first attempt of a run; it may be refused while the destination
//! does not answer, and waits while too many are there. A *retried* one comes from the store, where it can wait as well
//! as here: it is begun only when there is room for it.
//!
//! A moment is the time since any fixed one, by a clock that never goes back.

mod breaker;
mod limit;
mod peak;
mod rate;

use std::time::Duration;

pub use breaker::Breaker;
pub use limit::Limit;
use peak::Peak;
pub use rate::Rate;

use crate::{Fault, FunctionError, StoredObjectId, Unsent};

/// The settings these decisions depend on, at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DestinationPolicy {
    /// `Breaker`.
    pub breaker: bool,
    /// `RetryInterval`.
    pub interval: Duration,
    /// `MaxRetryInterval`: the longest a destination may ask to be left alone.
    pub max_interval: Duration,
    /// `Pipeline.Concurrency`: most fresh visits at a time.
    pub concurrency: usize,
    /// `RetryConcurrency`: most retried visits at a time.
    pub retry_concurrency: usize,
    /// `RetryRate`: most retried visits a second; none = no limit.
    pub retry_rate: Option<f64>,
    /// `FreshShare`: the most of `retry_concurrency` that retried visits leave to fresh ones, as a share of it. They
    /// leave as much as was needed lately.
    pub fresh_share: f64,
}

/// How a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The destination took what was sent.
    Accepted,
    /// It answered, and what was sent is to blame.
    Declined,
    /// It is to blame: no connection, no answer, or one that says so. Perhaps it asked to be left alone for a while.
    Failed {
        /// For how long.
        leave_alone: Option<Duration>,
    },
    /// Nobody knows: it was broken off, or failed for a reason that says nothing of the destination.
    Unknown,
}

impl Answer {
    /// What a failed call says of its destination.
    pub fn of(error: &FunctionError) -> Self {
        match error.fault() {
            Fault::Destination => Self::Failed {
                leave_alone: error.retry_after(),
            },
            Fault::Request => Self::Declined,
            Fault::Unknown => Self::Unknown,
        }
    }
}

/// One visit, from its entry to its answer.
#[derive(Debug)]
#[must_use = "a visit that is not ended with `leave` counts for ever"]
pub struct Visit {
    retried: bool,
    probe: bool,
}

impl Visit {
    /// Whether it is another attempt of a stored object.
    pub fn is_retried(&self) -> bool {
        self.retried
    }
}

/// Whether a visit may begin.
#[derive(Debug)]
pub enum Entry {
    /// It has begun.
    Begun(Visit),
    /// Too many are there: when one leaves.
    Full,
    /// Not now: at this moment it is worth asking again.
    Refused(Duration),
}

/// Whether the end of a visit changed what is thought of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// No.
    None,
    /// It does not answer any more: only probes go there.
    Opened,
    /// It answers again.
    Closed,
}

/// What is known of one destination. The default is a destination nobody has been at.
#[derive(Debug, Default)]
pub struct DestinationState {
    breaker: Breaker,
    limit: Limit,
    rate: Rate,
    /// Until when it asked to be left alone.
    left_alone_until: Option<Duration>,
    fresh: usize,
    retried: usize,
    fresh_peak: Peak,
}

impl DestinationState {
    /// Whether a first attempt may begin. What nobody would keep is never refused.
    pub fn enter_fresh(&mut self, unsent: Unsent, policy: &DestinationPolicy, now: Duration) -> Entry {
        if unsent == Unsent::Kept
            && let Some(moment) = self.closed_until(policy, now)
        {
            return Entry::Refused(moment);
        }
        if self.fresh >= policy.concurrency {
            return Entry::Full;
        }
        self.fresh += 1;
        self.fresh_peak.note(self.fresh, now);
        // What is never refused is never the probe either, so that it holds none up.
        let probe = unsent == Unsent::Kept && self.begin_probe(policy, now);
        Entry::Begun(Visit {
            retried: false,
            probe,
        })
    }

    /// Whether a retried attempt may begin.
    ///
    /// # Errors
    /// The moment at which it is worth asking again.
    pub fn enter_retried(&mut self, policy: &DestinationPolicy, now: Duration) -> Result<Visit, Duration> {
        if let Some(moment) = self.closed_until(policy, now) {
            return Err(moment);
        }
        if self.retried >= self.allowed(policy, now) {
            return Err(now);
        }
        let rate = policy.retry_rate;
        if let Some(rate) = rate
            && !self.rate.take(rate, now)
        {
            return Err(self.rate.ready_at(rate, now));
        }
        self.retried += 1;
        Ok(Visit {
            retried: true,
            probe: self.begin_probe(policy, now),
        })
    }

    /// How many retried attempts could begin now. One while the destination does not answer and a probe is due.
    pub fn room(&self, policy: &DestinationPolicy, now: Duration) -> usize {
        if self.closed_until(policy, now).is_some() {
            return 0;
        }
        let rate = policy.retry_rate.map(|rate| self.rate.available(rate, now));
        let room = self.allowed(policy, now).saturating_sub(self.retried);
        room.min(rate.unwrap_or(usize::MAX))
    }

    /// The earliest moment at which [`DestinationState::room`] may be more than 0 without anybody leaving before;
    /// `now` when it is.
    pub fn ready_at(&self, policy: &DestinationPolicy, now: Duration) -> Duration {
        if let Some(moment) = self.closed_until(policy, now) {
            return moment;
        }
        policy
            .retry_rate
            .map_or(now, |rate| self.rate.ready_at(rate, now))
    }

    /// Whether nothing but what is never refused may go there now.
    pub fn is_closed(&self, policy: &DestinationPolicy, now: Duration) -> bool {
        self.closed_until(policy, now).is_some()
    }

    /// Whether it does not answer, so that only probes go there.
    pub fn is_open(&self, policy: &DestinationPolicy) -> bool {
        policy.breaker && self.breaker.is_open()
    }

    /// Most retried visits at a time.
    pub fn allowed(&self, policy: &DestinationPolicy, now: Duration) -> usize {
        if self.is_open(policy) {
            return 1;
        }
        let most = policy.retry_concurrency;
        let left_at_most = most.saturating_sub(share_of(most, 1.0 - policy.fresh_share));
        let left = self.fresh_peak.lately(self.fresh, now).min(left_at_most);
        self.limit.now().min(most.saturating_sub(left).max(1))
    }

    /// A visit of the run with this id has ended; it is asked for only when it matters.
    pub fn leave(
        &mut self,
        visit: Visit,
        id: impl FnOnce() -> StoredObjectId,
        answer: Answer,
        policy: &DestinationPolicy,
        now: Duration,
    ) -> Change {
        let Visit { retried, probe } = visit;
        let counter = if retried {
            &mut self.retried
        } else {
            &mut self.fresh
        };
        *counter = counter.saturating_sub(1);
        if probe {
            self.breaker.end_probe();
        }
        match answer {
            Answer::Accepted => {
                if retried {
                    self.limit.grow(policy.retry_concurrency);
                }
            }
            Answer::Failed { leave_alone } => {
                if retried {
                    self.limit.shrink();
                }
                if let Some(delay) = leave_alone {
                    let until = now.saturating_add(delay.min(policy.max_interval));
                    self.left_alone_until = self.left_alone_until.max(Some(until));
                }
            }
            Answer::Declined | Answer::Unknown => {}
        }
        if !policy.breaker {
            self.breaker = Breaker::default();
            return Change::None;
        }
        match answer {
            Answer::Accepted | Answer::Declined if self.breaker.answered() => Change::Closed,
            Answer::Failed { .. } if self.breaker.failed(id(), now) => {
                self.limit = Limit::default();
                Change::Opened
            }
            _ => Change::None,
        }
    }

    /// Whether little would be lost by forgetting this destination.
    pub fn is_forgettable(&self, now: Duration) -> bool {
        self.fresh == 0
            && self.retried == 0
            && !self.breaker.is_open()
            && self.left_alone_until.is_none_or(|until| until <= now)
    }

    /// The moment until which nothing but what is never refused may go there, if there is one.
    fn closed_until(&self, policy: &DestinationPolicy, now: Duration) -> Option<Duration> {
        let left_alone = self.left_alone_until.filter(|until| *until > now);
        let open = policy
            .breaker
            .then(|| self.breaker.closed_to_all_until(policy.interval, now))
            .flatten();
        left_alone.max(open)
    }

    fn begin_probe(&mut self, policy: &DestinationPolicy, now: Duration) -> bool {
        policy.breaker && self.breaker.begin_probe(now)
    }
}

/// A share of `whole`, at least 1.
fn share_of(whole: usize, share: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a number of tasks is one as well; what does not fit saturates"
    )]
    let part = (whole as f64 * share) as usize;
    part.clamp(1, whole.max(1))
}

#[cfg(test)]
mod tests;
