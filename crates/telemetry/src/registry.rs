//! The metrics of a developer's own, by name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use edgehold_core::BoxFuture;

use crate::{Counter, FloatGauge, Gauge, Histogram, Reading, Selection, Series, Source, Timer, names};

/// Something that counts or measures.
#[derive(Clone, Debug)]
pub enum Instrument {
    /// A counter.
    Counter(Counter),
    /// A gauge.
    Gauge(Gauge),
    /// A gauge with a fraction.
    FloatGauge(FloatGauge),
    /// A timer.
    Timer(Timer),
    /// A histogram.
    Histogram(Histogram),
}

impl Instrument {
    pub(crate) fn read(&self) -> Reading {
        match self {
            Self::Counter(counter) => Reading::Counter(counter.count()),
            Self::Gauge(gauge) => Reading::Gauge(gauge.value()),
            Self::FloatGauge(gauge) => Reading::FloatGauge(gauge.value()),
            Self::Timer(timer) => Reading::Timer(timer.summary()),
            Self::Histogram(histogram) => Reading::Histogram(histogram.summary()),
        }
    }
}

macro_rules! from {
    ($($kind:ident),+) => {
        $(impl From<&$kind> for Instrument {
            /// The very same: what is recorded later is reported too.
            fn from(instrument: &$kind) -> Self {
                Self::$kind(instrument.clone())
            }
        })+
    };
}

from!(Counter, Gauge, FloatGauge, Timer, Histogram);

/// Why a metric is not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Its name is blank.
    #[error("the name of a metric cannot be blank")]
    BlankName,
    /// The name of one of its tags is blank.
    #[error("metric '{name}' has a tag with a blank name")]
    BlankTag {
        /// The metric.
        name: String,
    },
    /// There is one of this name.
    #[error("there is a metric '{name}' already")]
    Duplicate {
        /// The metric.
        name: String,
    },
    /// The service itself has metrics of this name.
    #[error("'{name}' is the name of a metric that every service has")]
    BuiltIn {
        /// The metric.
        name: String,
    },
}

/// The metrics of a developer's own. Cheap to clone; clones are one. (EdgeX: `MetricsManager`.)
///
/// A registered metric is reported when `Writable.Telemetry.Metrics` switches on a name that its name begins with; its
/// tags come after those of the service.
///
/// ```
/// use edgehold_telemetry::{Counter, MetricsManager};
///
/// let metrics = MetricsManager::default();
/// let frames = Counter::new();
/// metrics.register("FramesDropped-north", &frames, [("camera", "north")])?;
/// frames.increment();
/// metrics.unregister("FramesDropped-north");
/// # Ok::<(), edgehold_telemetry::RegisterError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MetricsManager(Arc<Mutex<BTreeMap<String, Registered>>>);

#[derive(Debug)]
struct Registered {
    instrument: Instrument,
    tags: Vec<(String, String)>,
}

impl MetricsManager {
    /// Has a metric reported. The instrument stays the caller's to count with: it is as good as any other before and after.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing has changed then.
    pub fn register<N: Into<String>, V: Into<String>>(
        &self,
        name: &str,
        instrument: impl Into<Instrument>,
        tags: impl IntoIterator<Item = (N, V)>,
    ) -> Result<(), RegisterError> {
        if name.trim().is_empty() {
            return Err(RegisterError::BlankName);
        }
        let name = name.to_owned();
        if names::is_built_in(&name) {
            return Err(RegisterError::BuiltIn { name });
        }
        let tags: Vec<(String, String)> = tags
            .into_iter()
            .map(|(tag, value)| (tag.into(), value.into()))
            .collect();
        if tags.iter().any(|(tag, _)| tag.trim().is_empty()) {
            return Err(RegisterError::BlankTag { name });
        }
        let mut all = self.all();
        if all.contains_key(&name) {
            return Err(RegisterError::Duplicate { name });
        }
        let instrument = instrument.into();
        all.insert(name, Registered { instrument, tags });
        Ok(())
    }

    /// No longer has the metric of this name reported. Whether there was one.
    pub fn unregister(&self, name: &str) -> bool {
        self.all().remove(name).is_some()
    }

    /// The metric of this name. (EdgeX: `GetCounter`, `GetGauge`, `GetGaugeFloat64`, `GetTimer`.)
    pub fn get(&self, name: &str) -> Option<Instrument> {
        self.all()
            .get(name)
            .map(|registered| registered.instrument.clone())
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Registered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for MetricsManager {
    fn read<'a>(&'a self, selection: Selection<'a>) -> BoxFuture<'a, Vec<Series>> {
        let all = self.all();
        let wanted = all.iter().filter(|(name, _)| selection.wants(name));
        let series = wanted.map(|(name, registered)| Series {
            name: name.clone(),
            family: name.clone(),
            tags: registered.tags.clone(),
            reading: registered.instrument.read(),
        });
        Box::pin(std::future::ready(series.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TAGS: [(&str, &str); 0] = [];

    #[test]
    fn a_name_is_taken_once_and_never_one_of_the_service() {
        let metrics = MetricsManager::default();
        let gauge = Gauge::new();
        assert_eq!(metrics.register("Depth", &gauge, NO_TAGS), Ok(()));
        let refused = [
            metrics.register("Depth", &Counter::new(), NO_TAGS),
            metrics.register("HttpExportSize-x", &Counter::new(), NO_TAGS),
            metrics.register(" ", &Counter::new(), NO_TAGS),
            metrics.register("Other", &Counter::new(), [("", "x")]),
        ];
        let texts = refused.map(|result| result.unwrap_err().to_string());
        assert_eq!(
            texts,
            [
                "there is a metric 'Depth' already",
                "'HttpExportSize-x' is the name of a metric that every service has",
                "the name of a metric cannot be blank",
                "metric 'Other' has a tag with a blank name"
            ]
        );
        gauge.set(3);
        assert!(matches!(metrics.get("Depth"), Some(Instrument::Gauge(depth)) if depth.value() == 3));
        assert!(metrics.unregister("Depth") && !metrics.unregister("Depth"));
        assert_eq!(metrics.register("Depth", &Counter::new(), NO_TAGS), Ok(()));
    }
}
