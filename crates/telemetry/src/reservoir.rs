//! Samples of a stream of numbers, and what is said of them: as go-metrics takes and computes them, because consumers
//! compare services.
//!
//! Pure: the time is an argument, and what is random comes from a seed.

use std::{cmp::Ordering, collections::BinaryHeap};

/// How many numbers a sample keeps. (EdgeX: `MetricsReservoirSize`; go-metrics' own for timers.)
pub(crate) const RESERVOIR_SIZE: usize = 1028;

/// How fast old numbers give way, for each second: after five minutes only new ones are left. (go-metrics.)
const ALPHA: f64 = 0.015;

/// What is said of a stream of numbers. All but `count` and `sum` is of the sample alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many there have been.
    pub count: i64,
    /// All of them added up. Not reported to the message bus.
    pub sum: i64,
    /// The least; 0 when there is none.
    pub min: i64,
    /// The greatest; 0 when there is none.
    pub max: i64,
    /// The arithmetic mean; 0 when there is none.
    pub mean: f64,
    /// The square root of the variance.
    pub stddev: f64,
    /// The mean square of the distances from the mean.
    pub variance: f64,
}

impl Summary {
    /// Of a stream of `count` numbers, of which these were kept.
    pub(crate) fn of(Total { count, sum: total }: Total, values: &[i64]) -> Self {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let (Some(&min), Some(&max)) = (values.iter().min(), values.iter().max()) else {
            return Self {
                count,
                sum: total,
                ..Self::default()
            };
        };
        let size = values.len() as f64;
        let sum: i128 = values.iter().map(|&value| i128::from(value)).sum();
        let mean = sum as f64 / size;
        let squares: f64 = values.iter().map(|&value| (value as f64 - mean).powi(2)).sum();
        let variance = squares / size;
        Self {
            count,
            sum: total,
            min,
            max,
            mean,
            stddev: variance.sqrt(),
            variance,
        }
    }
}

/// What is exact about a stream of numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Total {
    pub(crate) count: u64,
    pub(crate) sum: i64,
}

impl Total {
    fn add(&mut self, value: i64) {
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
    }
}

/// A small generator of random numbers (SplitMix64).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Above 0 and at most 1.
    fn share(&mut self) -> f64 {
        // The 53 bits that a float holds exactly.
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        // The high half of the product: the bias is far below what a sample could show.
        let product = u128::from(self.next()) * u128::from(limit.max(1));
        u64::try_from(product >> 64).expect("the high half of 128 bits has 64")
    }
}

/// Every number there has been has the same chance to be kept (Vitter's algorithm R).
#[derive(Debug)]
pub(crate) struct UniformReservoir {
    total: Total,
    values: Vec<i64>,
    random: Random,
}

impl UniformReservoir {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            total: Total::default(),
            values: Vec::new(),
            random: Random(seed),
        }
    }

    pub(crate) fn record(&mut self, value: i64) {
        self.total.add(value);
        if self.values.len() < RESERVOIR_SIZE {
            self.values.push(value);
            return;
        }
        let place = usize::try_from(self.random.below(self.total.count)).unwrap_or(usize::MAX);
        if let Some(kept) = self.values.get_mut(place) {
            *kept = value;
        }
    }

    pub(crate) fn total(&self) -> Total {
        self.total
    }

    pub(crate) fn values(&self) -> Vec<i64> {
        self.values.clone()
    }
}

/// Recent numbers have a better chance to be kept (Cormode's forward decay).
///
/// A number recorded at `t` seconds has the weight `e^(αt) / u` with a random `u`; those with the greatest weights are
/// kept. Here the logarithm of the weight is compared, which never grows too large: there is nothing to rescale.
#[derive(Debug)]
pub(crate) struct DecayingReservoir {
    total: Total,
    /// The least weight is on top.
    values: BinaryHeap<Weighted>,
    random: Random,
}

#[derive(Clone, Copy, Debug)]
struct Weighted {
    weight: f64,
    value: i64,
}

impl DecayingReservoir {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            total: Total::default(),
            values: BinaryHeap::new(),
            random: Random(seed),
        }
    }

    /// Records a number, so many seconds after whatever moment the others are counted from.
    pub(crate) fn record(&mut self, value: i64, seconds: f64) {
        self.total.add(value);
        // As go-metrics has it, the newest is always kept, however light.
        if self.values.len() >= RESERVOIR_SIZE {
            self.values.pop();
        }
        let weight = ALPHA * seconds - self.random.share().ln();
        self.values.push(Weighted { weight, value });
    }

    pub(crate) fn total(&self) -> Total {
        self.total
    }

    pub(crate) fn values(&self) -> Vec<i64> {
        self.values.iter().map(|kept| kept.value).collect()
    }
}

impl Ord for Weighted {
    fn cmp(&self, other: &Self) -> Ordering {
        other.weight.total_cmp(&self.weight)
    }
}

impl PartialOrd for Weighted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Weighted {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Weighted {}

#[cfg(test)]
mod tests {
    use super::*;

    /// go-metrics: `SampleVariance` divides by the number of values, not by one less.
    #[test]
    fn a_summary_is_computed_as_go_metrics_does() {
        let total = |count, sum| Total { count, sum };
        let summary = Summary::of(total(9, 41), &[2, 4, 4, 4, 5, 5, 7, 9]);
        assert_eq!(
            summary,
            Summary {
                count: 9,
                sum: 41,
                min: 2,
                max: 9,
                mean: 5.0,
                stddev: 2.0,
                variance: 4.0
            }
        );
        assert_eq!(Summary::of(Total::default(), &[]), Summary::default());
        let extreme = Summary::of(total(2, i64::MAX), &[i64::MAX, i64::MAX]);
        assert_eq!((extreme.mean, extreme.variance), (i64::MAX as f64, 0.0));
    }

    #[test]
    fn a_full_uniform_sample_still_speaks_for_the_whole_stream() {
        let mut sample = UniformReservoir::new(1);
        for value in 1..=100_000 {
            sample.record(value);
        }
        let summary = Summary::of(sample.total(), &sample.values());
        assert_eq!(
            (summary.count, summary.sum, sample.values().len()),
            (100_000, 5_000_050_000, RESERVOIR_SIZE)
        );
        let mean = summary.mean;
        // The standard error of the mean of so many uniform numbers is 900: six of them.
        assert!((44_600.0..55_400.0).contains(&mean), "{mean}");
    }

    #[test]
    fn a_full_decaying_sample_speaks_for_the_last_minutes() {
        let mut sample = DecayingReservoir::new(1);
        // An hour of ones, then five minutes of twos, one of each in a tenth of a second.
        for tick in 0..39_000_u32 {
            let value = if tick < 36_000 { 1 } else { 2 };
            sample.record(value, f64::from(tick) / 10.0);
        }
        let values = sample.values();
        assert_eq!((sample.total().count, values.len()), (39_000, RESERVOIR_SIZE));
        let new = values.iter().filter(|value| **value == 2).count();
        assert!(new * 100 > values.len() * 95, "{new} of {}", values.len());
    }

    /// Contract §12, go-metrics' rescaling: after an hour it forgets everything at once.
    #[test]
    fn an_hour_is_no_moment_at_which_a_sample_is_forgotten() {
        let mut sample = DecayingReservoir::new(1);
        for tick in (0_u32..).take(RESERVOIR_SIZE) {
            sample.record(1, 3_500.0 + f64::from(tick) / 10.0);
        }
        for _ in 0..3 {
            sample.record(2, 3_604.0);
        }
        let old = sample.values().iter().filter(|value| **value == 1).count();
        assert_eq!(old, RESERVOIR_SIZE - 3);
    }
}
