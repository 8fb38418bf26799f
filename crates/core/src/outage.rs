//! Losing a connection and coming back: how long to wait, and how much to say.
//!
//! Owns the memory of what has been logged. Reads no clock and draws no random number.

use std::time::Duration;

use crate::ExponentialBackoff;

const FIRST_DELAY: Duration = Duration::from_millis(100);

/// With the time of one attempt this stays below the three seconds within which a returned server must be found.
const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(2);

/// A connection that lived this long was a good one: the next loss starts the backoff from its beginning.
const GOOD_LIFE: Duration = Duration::from_secs(5);

/// What happened since the last good connection to a server.
#[derive(Debug)]
pub struct Outage {
    max_delay: Duration,
    failures: u32,
    last_reason: Option<String>,
    /// Whether the end of the outage is worth a word.
    told: bool,
}

impl Default for Outage {
    /// At most two seconds between two attempts.
    fn default() -> Self {
        Self::new(DEFAULT_MAX_DELAY)
    }
}

impl Outage {
    /// At most `max_delay` between two attempts, and at least 100 ms.
    pub fn new(max_delay: Duration) -> Self {
        Self {
            max_delay,
            failures: 0,
            last_reason: None,
            told: false,
        }
    }

    /// A connection failed after having lived for `life` (zero when it never stood). Whether to say so: true for each
    /// reason once, so that trying again every two seconds does not fill the log.
    pub fn begins(&mut self, reason: &str, life: Duration) -> bool {
        if life >= GOOD_LIFE {
            *self = Self::new(self.max_delay);
        }
        self.failures = self.failures.saturating_add(1);
        let news = self.last_reason.as_deref() != Some(reason);
        if news {
            self.last_reason = Some(reason.to_owned());
            self.told = true;
        }
        news
    }

    /// A connection stands. Whether to say so: true once after each loss that was told, and the first time.
    pub fn ends(&mut self) -> bool {
        let worth_a_word = self.told || self.failures == 0;
        self.told = false;
        worth_a_word
    }

    /// How long after the beginning of the last attempt the next one may begin: 100 ms, doubling up to the longest, of which a
    /// half at most is taken off by `random`, any number, so that many services do not come back at the same moment.
    pub fn delay(&self, random: u64) -> Duration {
        ExponentialBackoff::new(FIRST_DELAY, self.max_delay)
            .after(self.failures.saturating_sub(1))
            .jittered_pause(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_to_two_seconds_and_starts_anew_after_a_good_connection() {
        let mut outage = Outage::default();
        for expected in [100, 200, 400, 800, 1600, 2000, 2000] {
            outage.begins("refused", Duration::ZERO);
            let expected = Duration::from_millis(expected);
            for random in [0, 255, 511, 512, u64::MAX] {
                let delay = outage.delay(random);
                assert!(
                    delay > expected / 2 - Duration::from_millis(1) && delay <= expected,
                    "{delay:?}"
                );
            }
        }
        outage.begins("refused", GOOD_LIFE);
        assert!(outage.delay(0) <= FIRST_DELAY);
    }

    #[test]
    fn the_longest_delay_may_be_another() {
        for (longest, last) in [(30_000, 30_000), (500, 500), (0, 100)] {
            let mut outage = Outage::new(Duration::from_millis(longest));
            for _ in 0..40 {
                outage.begins("refused", Duration::ZERO);
            }
            assert_eq!(outage.delay(0), Duration::from_millis(last));
            // Also after a good connection.
            outage.begins("refused", GOOD_LIFE);
            assert_eq!(outage.delay(0), FIRST_DELAY);
            for _ in 0..40 {
                outage.begins("refused", Duration::ZERO);
            }
            assert_eq!(outage.delay(0), Duration::from_millis(last));
        }
    }

    #[test]
    fn each_loss_and_each_return_is_told_once() {
        let mut outage = Outage::default();
        assert!(outage.ends(), "the first connection");
        assert!(outage.begins("closed", GOOD_LIFE));
        assert!(outage.begins("refused", Duration::ZERO));
        assert!(!outage.begins("refused", Duration::ZERO));
        assert!(outage.ends());

        // A connection that keeps breaking at once for the same reason is told no more
        assert!(!outage.begins("refused", Duration::ZERO));
        assert!(!outage.ends());
        assert!(outage.begins("refused", GOOD_LIFE));
    }
}
