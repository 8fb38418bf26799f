//! What counts and measures: handles that are cheap to clone and whose clones are one and the same.
//!
//! Counters and gauges are one atomic number. Histograms and timers are a sample behind a lock that is held for one
//! number at a time.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    Summary,
    reservoir::{DecayingReservoir, UniformReservoir},
};

/// A number that grows, and shrinks where it stands for what is there. Field `counter-count`. (go-metrics: `Counter`.)
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicI64>);

impl Counter {
    /// A counter at 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts so many more, or less.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn count(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is set. Field `gauge-value`. (go-metrics: `Gauge`.)
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// A gauge at 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number with a fraction that is set. Field `gaugeFloat64-value`. (go-metrics: `GaugeFloat64`.)
#[derive(Clone, Debug, Default)]
pub struct FloatGauge(Arc<AtomicU64>);

impl FloatGauge {
    /// A gauge at 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number. What is not finite is reported as 0: JSON has no text for it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// How numbers are distributed: a uniform sample of 1028. Fields `histogram-` with `count`, `min`, `max`, `mean`,
/// `stddev` and `variance`. (go-metrics: `Histogram` over `UniformSample`.)
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Mutex<UniformReservoir>>);

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// No number yet.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(UniformReservoir::new(seed()))))
    }

    /// Records a number.
    pub fn record(&self, value: i64) {
        lock(&self.0).record(value);
    }

    /// What there is to say now.
    pub fn summary(&self) -> Summary {
        let (total, values) = {
            let sample = lock(&self.0);
            (sample.total(), sample.values())
        };
        Summary::of(total, &values)
    }
}

/// How long something takes: a sample of 1028 in which the last minutes weigh most. Fields `timer-` with `count`, `min`,
/// `max`, `mean`, `stddev` and `variance`, in nanoseconds. (go-metrics: `Timer`.)
#[derive(Clone, Debug)]
pub struct Timer(Arc<Timed>);

#[derive(Debug)]
struct Timed {
    since: Instant,
    sample: Mutex<DecayingReservoir>,
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl Timer {
    /// No time yet.
    pub fn new() -> Self {
        Self(Arc::new(Timed {
            since: Instant::now(),
            sample: Mutex::new(DecayingReservoir::new(seed())),
        }))
    }

    /// Records how long something took.
    pub fn record(&self, took: Duration) {
        let nanoseconds = i64::try_from(took.as_nanos()).unwrap_or(i64::MAX);
        let age = self.0.since.elapsed().as_secs_f64();
        lock(&self.0.sample).record(nanoseconds, age);
    }

    /// What there is to say now, in nanoseconds.
    pub fn summary(&self) -> Summary {
        let (total, values) = {
            let sample = lock(&self.0.sample);
            (sample.total(), sample.values())
        };
        Summary::of(total, &values)
    }
}

/// A number that is as good as random.
fn seed() -> u64 {
    RandomState::new().hash_one(())
}

/// A sample is whole between two numbers, whoever panicked.
fn lock<T>(sample: &Mutex<T>) -> MutexGuard<'_, T> {
    sample.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_instrument() {
        let (counter, gauge, float) = (Counter::new(), Gauge::new(), FloatGauge::new());
        counter.clone().add(3);
        counter.clone().add(-1);
        gauge.clone().set(-7);
        float.clone().set(0.5);
        assert_eq!((counter.count(), gauge.value(), float.value()), (2, -7, 0.5));

        let (histogram, timer) = (Histogram::new(), Timer::new());
        histogram.clone().record(5);
        timer.clone().record(Duration::from_micros(2));
        assert_eq!(
            (
                histogram.summary().max,
                timer.summary().max,
                timer.summary().count
            ),
            (5, 2_000, 1)
        );
    }
}
