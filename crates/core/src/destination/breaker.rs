//! The breaker: who may send to a destination that does not answer.
//!
//! ```text
//!           16 different objects failed in a row
//!   closed ──────────────────────────────────────▶ open ──┐ a probe each interval,
//!      ▲                                            │ ▲   │ at most one at a time
//!      └────────────────────────────────────────────┘ └───┘
//!                      any answer
//! ```

use std::time::Duration;

use crate::StoredObjectId;

/// How often to look for the end of a probe that takes longer than the pause.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Counts failures of different objects in a row, and lets one probe at a time through when there were too many.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Who failed since the last answer, as long as it is closed.
    failed: Vec<StoredObjectId>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// When the last probe began, or when it opened.
    probed_at: Duration,
    /// A probe is under way.
    probing: bool,
}

impl Breaker {
    /// It opens when so many different objects have failed in a row: one that is alone is never held up.
    pub const OPENS_AFTER: usize = 16;

    /// The longest pause between two probes: a destination that is back is found after it.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

    /// Whether only probes may pass.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Until when nobody may pass; none when somebody may. While a probe is under way it is its answer that decides:
    /// the moment is then only one at which it is worth looking again.
    pub fn closed_to_all_until(&self, interval: Duration, now: Duration) -> Option<Duration> {
        let open = self.open.as_ref()?;
        let pause = interval.min(Self::LONGEST_PAUSE);
        let next = open.probed_at.saturating_add(pause);
        match open.probing {
            true => Some(next.max(now.saturating_add(LOOK_AGAIN))),
            false => Some(next).filter(|next| *next > now),
        }
    }

    /// Somebody passes: when it is open, as its probe. Answers whether.
    pub fn begin_probe(&mut self, now: Duration) -> bool {
        match &mut self.open {
            None => false,
            Some(open) => {
                *open = Open {
                    probed_at: now,
                    probing: true,
                };
                true
            }
        }
    }

    /// The probe has ended, however it did.
    pub fn end_probe(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = false;
        }
    }

    /// The destination answered. Answers whether that closed it.
    pub fn answered(&mut self) -> bool {
        self.failed.clear();
        self.open.take().is_some()
    }

    /// This object failed there. Answers whether that opened it.
    pub fn failed(&mut self, id: StoredObjectId, now: Duration) -> bool {
        if self.open.is_some() || self.failed.contains(&id) {
            return false;
        }
        self.failed.push(id);
        if self.failed.len() < Self::OPENS_AFTER {
            return false;
        }
        self.failed.clear();
        self.open = Some(Open {
            probed_at: now,
            probing: false,
        });
        true
    }
}
