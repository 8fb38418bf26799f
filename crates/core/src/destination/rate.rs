//! At most so many a second: a bucket of tokens.

use std::time::Duration;

/// How long it takes to fill the bucket: what was not used is saved up to that much.
const SAVED: Duration = Duration::from_millis(100);

/// Tokens, one for each that may go. Full at first.
#[derive(Debug, Default)]
pub struct Rate {
    /// How many there were at a moment; none while nobody has asked.
    level: Option<(f64, Duration)>,
}

impl Rate {
    /// Takes a token, if there is one. `rate` is in tokens a second, above 0.
    pub fn take(&mut self, rate: f64, now: Duration) -> bool {
        let level = self.level(rate, now);
        let enough = level >= 1.0;
        self.level = Some((if enough { level - 1.0 } else { level }, now));
        enough
    }

    /// How many tokens there are.
    pub fn available(&self, rate: f64, now: Duration) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole tokens; what does not fit saturates"
        )]
        let whole = self.level(rate, now) as usize;
        whole
    }

    /// When there is a token: `now`, or when half a bucket has come together, so that not each goes alone.
    pub fn ready_at(&self, rate: f64, now: Duration) -> Duration {
        let level = self.level(rate, now);
        if level >= 1.0 {
            return now;
        }
        let missing = (capacity(rate) / 2.0).max(1.0) - level;
        let wait = Duration::try_from_secs_f64(missing / rate).unwrap_or(Duration::MAX);
        // Rounded up, so that it is there at that moment.
        now.saturating_add(wait)
            .saturating_add(Duration::from_nanos(1_000))
    }

    fn level(&self, rate: f64, now: Duration) -> f64 {
        match self.level {
            None => capacity(rate),
            Some((level, at)) => (level + rate * now.saturating_sub(at).as_secs_f64()).min(capacity(rate)),
        }
    }
}

fn capacity(rate: f64) -> f64 {
    (rate * SAVED.as_secs_f64()).max(1.0)
}
