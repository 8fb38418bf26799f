//! How long until nothing waits any more, judged by how the last seconds went.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(10);
/// Less says nothing.
const SHORTEST: Duration = Duration::from_secs(1);

/// How many objects waited at moments of the last ten seconds. Shared by whoever counts and whoever asks.
#[derive(Debug, Default)]
pub struct Drain {
    samples: Mutex<VecDeque<(Instant, u64)>>,
}

impl Drain {
    /// Notes that so many wait now.
    pub(crate) fn sample(&self, now: Instant, waiting: u64) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back((now, waiting));
        while samples.len() > 2 && now.duration_since(samples[1].0) >= WINDOW {
            samples.pop_front();
        }
    }

    /// How long until none of the objects that wait now is left, if it goes on as in the last ten seconds; none when
    /// they do not become fewer.
    pub fn estimate(&self, waiting: u64) -> Option<Duration> {
        self.estimate_at(Instant::now(), waiting)
    }

    fn estimate_at(&self, now: Instant, waiting: u64) -> Option<Duration> {
        if waiting == 0 {
            return Some(Duration::ZERO);
        }
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, before) = *samples.front()?;
        let passed = now.duration_since(since);
        let fewer = before.checked_sub(waiting).filter(|fewer| *fewer > 0)?;
        (passed >= SHORTEST)
            .then(|| Duration::from_secs_f64(waiting as f64 * passed.as_secs_f64() / fewer as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_the_rest_at_the_pace_of_the_last_ten_seconds() {
        let drain = Drain::default();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(drain.estimate_at(at(0), 5), None);
        // Given five seconds of growth, then ten in which 100 a second leave
        drain.sample(at(0), 0);
        for second in 0..=10 {
            drain.sample(at(5 + second), 3_000 - 100 * second);
        }
        // When asked, then only the last ten count
        assert_eq!(drain.estimate_at(at(15), 2_000), Some(Duration::from_secs(20)));
        assert_eq!(drain.estimate_at(at(15), 3_000), None, "not fewer");
        assert_eq!(drain.estimate_at(at(15), 0), Some(Duration::ZERO));
    }
}
