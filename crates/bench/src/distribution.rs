//! Durations and what is said of many of them.

use std::time::Duration;

use serde_json::{Value, json};

/// Measured durations, of which nothing has been left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    sorted: Vec<Duration>,
}

impl Distribution {
    /// From samples in any order.
    pub fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self { sorted: samples }
    }

    /// How many samples there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The smallest sample that at least `percent` of a hundred samples do not exceed (nearest rank); `None` without
    /// samples.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.sorted.len() * percent.min(100)).div_ceil(100);
        self.sorted.get(rank.saturating_sub(1)).copied()
    }

    /// The largest sample.
    pub fn max(&self) -> Option<Duration> {
        self.sorted.last().copied()
    }

    /// `{"samples": n, "p50_ms": …, "p90_ms": …, "p99_ms": …, "max_ms": …}`, `null` without samples.
    pub fn to_json(&self) -> Value {
        let ms = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64() * 1_000.0);
        json!({
            "samples": self.count(),
            "p50_ms": ms(self.percentile(50)),
            "p90_ms": ms(self.percentile(90)),
            "p99_ms": ms(self.percentile(99)),
            "max_ms": ms(self.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_at_the_nearest_rank() {
        let hundred = Distribution::new((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(hundred.percentile(50), Some(Duration::from_millis(50)));
        assert_eq!(hundred.percentile(99), Some(Duration::from_millis(99)));
        assert_eq!(hundred.max(), Some(Duration::from_millis(100)));

        let one = Distribution::new(vec![Duration::from_millis(7)]);
        assert_eq!(one.percentile(50), one.max());
        assert_eq!(Distribution::default().percentile(99), None);
    }
}
