//! Exponential backoff: how long to leave alone what has failed.
//!
//! Reads no clock and draws no random number: whoever waits does both.

use std::time::Duration;

/// A pause that doubles, from the first up to the longest.
///
/// ```
/// # use std::time::Duration;
/// # use edgehold_core::ExponentialBackoff;
/// let mut backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_millis(300));
/// let pauses = [(); 3].map(|()| backoff.next_pause().as_millis());
/// assert_eq!(pauses, [100, 200, 300]);
/// backoff.reset();
/// assert_eq!(backoff.pause().as_millis(), 100);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExponentialBackoff {
    first: Duration,
    longest: Duration,
    doublings: u32,
}

impl ExponentialBackoff {
    /// Begins with `first`. A `longest` below that does not shorten it.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            doublings: 0,
        }
    }

    /// The same after so many doublings, for those who count their failures themselves.
    #[must_use]
    pub const fn after(self, doublings: u32) -> Self {
        Self { doublings, ..self }
    }

    /// How long to wait now.
    pub fn pause(&self) -> Duration {
        2_u32
            .checked_pow(self.doublings)
            .and_then(|factor| self.first.checked_mul(factor))
            .map_or(self.longest, |pause| pause.min(self.longest))
            .max(self.first)
    }

    /// How long to wait now, of which a half at most is taken off by `random`, any number, so that many who lost the
    /// same server do not come back at the same moment.
    pub fn jittered_pause(&self, random: u64) -> Duration {
        let taken = u32::try_from(random % 512).expect("a remainder of 512 fits");
        let pause = self.pause();
        pause - pause / 1024 * taken
    }

    /// The next pause is twice as long.
    pub fn grow(&mut self) {
        self.doublings = self.doublings.saturating_add(1);
    }

    /// How long to wait now; the next pause is twice as long.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.pause();
        self.grow();
        pause
    }

    /// The next pause is the first again.
    pub fn reset(&mut self) {
        self.doublings = 0;
    }

    /// Whether it has grown since it began.
    pub fn has_grown(&self) -> bool {
        self.doublings > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(5);

    #[test]
    fn it_doubles_up_to_the_longest_and_begins_again() {
        let mut backoff = ExponentialBackoff::new(FIRST, LONGEST);
        assert!(!backoff.has_grown());
        for expected in [250, 500, 1000, 2000, 4000, 5000, 5000] {
            assert_eq!(backoff.pause(), Duration::from_millis(expected), "looked at");
            assert_eq!(backoff.next_pause(), Duration::from_millis(expected), "taken");
            assert!(backoff.has_grown());
        }
        backoff.reset();
        assert_eq!(backoff, ExponentialBackoff::new(FIRST, LONGEST));
    }

    #[test]
    fn the_number_of_failures_has_no_end() {
        let mut backoff = ExponentialBackoff::new(FIRST, LONGEST).after(u32::MAX);
        assert_eq!(backoff.next_pause(), LONGEST);
        assert_eq!(backoff.next_pause(), LONGEST);
        let endless = ExponentialBackoff::new(FIRST, Duration::MAX);
        assert_eq!(endless.after(u32::MAX).pause(), Duration::MAX);
        assert_eq!(endless.after(u32::MAX).jittered_pause(0), Duration::MAX);
    }

    #[test]
    fn a_longest_below_the_first_does_not_shorten_it() {
        let backoff = ExponentialBackoff::new(LONGEST, FIRST);
        assert_eq!(
            [0, 1, 40].map(|doublings| backoff.after(doublings).pause()),
            [LONGEST; 3]
        );
    }

    proptest! {
        #[test]
        fn jitter_takes_off_a_half_at_most(doublings: u32, random: u64) {
            let backoff = ExponentialBackoff::new(FIRST, LONGEST).after(doublings);
            let (pause, jittered) = (backoff.pause(), backoff.jittered_pause(random));
            prop_assert!((pause / 2..=pause).contains(&jittered), "{jittered:?} of {pause:?}");
        }
    }

    #[test]
    fn jitter_spreads_over_the_whole_half() {
        let backoff = ExponentialBackoff::new(Duration::from_millis(1024), LONGEST);
        assert_eq!(
            [0, 256, 511, 512].map(|random| backoff.jittered_pause(random).as_millis()),
            [1024, 768, 513, 1024]
        );
    }
}
