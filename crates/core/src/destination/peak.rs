//! How many were there at a time, lately.

use std::time::Duration;

/// How long a number is remembered at least; twice as long at most.
const REMEMBERED: Duration = Duration::from_secs(1);

/// The highest number of the current stretch of time, and of the one before.
#[derive(Debug, Default)]
pub(super) struct Peak {
    began: Duration,
    highest: usize,
    before: usize,
}

impl Peak {
    /// So many are there now.
    pub(super) fn note(&mut self, count: usize, now: Duration) {
        let passed = now.saturating_sub(self.began);
        if passed >= REMEMBERED {
            self.before = if passed < 2 * REMEMBERED { self.highest } else { 0 };
            self.highest = 0;
            self.began = now;
        }
        self.highest = self.highest.max(count);
    }

    /// The most that were there at a time lately; `count` are there now.
    pub(super) fn lately(&self, count: usize, now: Duration) -> usize {
        let passed = now.saturating_sub(self.began);
        let remembered = if passed < REMEMBERED {
            self.highest.max(self.before)
        } else if passed < 2 * REMEMBERED {
            self.highest
        } else {
            0
        };
        remembered.max(count)
    }
}
