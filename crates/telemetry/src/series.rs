//! A metric at one moment, and its form on the message bus.

use edgehold_contracts::{Metric, MetricField, MetricTag};

use crate::Summary;

/// A metric at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The name it is registered by: `HttpExportSize-http://sink/in`. It is reported by the name that is configured, which
    /// this one begins with.
    pub name: String,
    /// That name without what tells it from others of its kind: `HttpExportSize`.
    pub family: String,
    /// What tells it from others of its kind.
    pub tags: Vec<(String, String)>,
    /// What it says.
    pub reading: Reading,
}

/// What a metric says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading {
    /// Of a [`Counter`](crate::Counter), or of a number that is counted elsewhere.
    Counter(i64),
    /// Of a [`Gauge`](crate::Gauge).
    Gauge(i64),
    /// Of a [`FloatGauge`](crate::FloatGauge).
    FloatGauge(f64),
    /// Of a [`Timer`](crate::Timer), in nanoseconds.
    Timer(Summary),
    /// Of a [`Histogram`](crate::Histogram).
    Histogram(Summary),
}

impl Series {
    /// A metric without a tag of its own.
    pub fn new(name: impl Into<String>, reading: Reading) -> Self {
        let name = name.into();
        Self {
            family: name.clone(),
            name,
            tags: Vec::new(),
            reading,
        }
    }

    /// The metric of this name that is of one pipeline, destination or the like: its registered name is
    /// `<name>-<value>`, its tag `<tag>=<value>`.
    pub fn of(name: &str, tag: &str, value: &str, reading: Reading) -> Self {
        Self {
            name: format!("{name}-{value}"),
            family: name.to_owned(),
            tags: vec![(tag.to_owned(), value.to_owned())],
            reading,
        }
    }

    /// As it is published under the configured name: `common` tags go before its own.
    pub(crate) fn to_metric(&self, configured_name: &str, common: &[MetricTag], timestamp: i64) -> Metric {
        let own = self.tags.iter().map(|(name, value)| MetricTag::new(name, value));
        let tags = common.iter().cloned().chain(own).collect();
        Metric::new(configured_name, self.reading.fields(), tags, timestamp)
    }
}

impl Reading {
    /// In EdgeX's words and order.
    fn fields(self) -> Vec<MetricField> {
        match self {
            Self::Counter(count) => vec![MetricField::integer("counter-count", count)],
            Self::Gauge(value) => vec![MetricField::integer("gauge-value", value)],
            Self::FloatGauge(value) => vec![MetricField::float("gaugeFloat64-value", value)],
            Self::Timer(summary) => summary_fields("timer", summary),
            Self::Histogram(summary) => summary_fields("histogram", summary),
        }
    }
}

fn summary_fields(kind: &str, summary: Summary) -> Vec<MetricField> {
    let Summary {
        count,
        min,
        max,
        mean,
        stddev,
        variance,
        ..
    } = summary;
    vec![
        MetricField::integer(format!("{kind}-count"), count),
        MetricField::integer(format!("{kind}-min"), min),
        MetricField::integer(format!("{kind}-max"), max),
        MetricField::float(format!("{kind}-mean"), mean),
        MetricField::float(format!("{kind}-stddev"), stddev),
        MetricField::float(format!("{kind}-variance"), variance),
    ]
}
