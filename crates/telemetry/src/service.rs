//! What a service counts of itself while it runs: pipelines, exports, secrets.
//!
//! A number belongs to its name, not to the function or pipeline that is there now: it goes on when these are built
//! again. Of a pipeline that is gone nothing is reported; should one of its id come back, its numbers go on (of the last
//! thousand or so).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use edgehold_core::{BoxFuture, ExportTarget, Observer, PipelineId, PipelineSet};
use tokio::sync::watch;

use crate::{Counter, Histogram, Reading, Selection, Series, Source, Timer, names};

/// Beyond so many pipelines those that are gone are forgotten: code may make new ids without end.
const MAX_PIPELINES: usize = 1024;

/// Targets of one kind that are told from each other. A topic with a placeholder may stand for any number of them, and
/// each has a sample.
const MAX_TARGETS: usize = 256;

/// Stands for all targets beyond those.
const OTHER_TARGETS: &str = "other";

/// The numbers. Shared by everything that counts.
#[derive(Debug, Default)]
pub struct ServiceMetrics {
    pipelines: RwLock<HashMap<PipelineId, Arc<PipelineMetrics>>>,
    http: RwLock<HashMap<String, Arc<ExportMetrics>>>,
    mqtt: RwLock<HashMap<String, Arc<ExportMetrics>>>,
    /// How often a secret was asked for.
    pub secrets_requested: Counter,
    /// How often a secret was added, changed or removed.
    pub secrets_stored: Counter,
    /// Metrics that could not be reported.
    pub metrics_skipped: Counter,
}

#[derive(Debug, Default)]
struct PipelineMetrics {
    messages: Counter,
    errors: Counter,
    time: Timer,
}

#[derive(Debug, Default)]
struct ExportMetrics {
    sizes: Histogram,
    errors: Counter,
}

impl ServiceMetrics {
    fn pipeline(&self, id: &PipelineId) -> Arc<PipelineMetrics> {
        let known = self.pipelines.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = known.get(id) {
            return metrics.clone();
        }
        drop(known);
        or_new(&self.pipelines, id.clone())
    }

    fn forget_gone(&self, pipelines: &PipelineSet) {
        let mut known = self.pipelines.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() > MAX_PIPELINES {
            known.retain(|id, _| pipelines.get(id).is_some());
        }
    }

    fn export(&self, target: ExportTarget<'_>) -> Arc<ExportMetrics> {
        match target {
            ExportTarget::Http { url } => bounded(&self.http, url, "URLs"),
            ExportTarget::Mqtt { address, topic } => {
                bounded(&self.mqtt, &format!("{address}/{topic}"), "topics")
            }
        }
    }

    fn series(&self, selection: Selection<'_>, pipelines: &PipelineSet) -> Vec<Series> {
        self.forget_gone(pipelines);
        let mut all = Vec::new();
        let mut of_one = |name: &str, tag: &str, value: &str, reading: &dyn Fn() -> Reading| {
            // A summary is worth the work only when somebody wants it.
            if selection.wants(&format!("{name}-{value}")) {
                all.push(Series::of(name, tag, value, reading()));
            }
        };
        for pipeline in &pipelines.pipelines {
            let metrics = self.pipeline(pipeline.id());
            let mut of_pipeline = |name: &str, reading: &dyn Fn() -> Reading| {
                of_one(name, names::PIPELINE_TAG, pipeline.id().as_str(), reading);
            };
            of_pipeline(names::PIPELINE_MESSAGES_PROCESSED, &|| {
                Reading::Counter(metrics.messages.count())
            });
            of_pipeline(names::PIPELINE_MESSAGE_PROCESSING_TIME, &|| {
                Reading::Timer(metrics.time.summary())
            });
            of_pipeline(names::PIPELINE_PROCESSING_ERRORS, &|| {
                Reading::Counter(metrics.errors.count())
            });
        }
        let http = (
            &self.http,
            names::URL_TAG,
            names::HTTP_EXPORT_SIZE,
            names::HTTP_EXPORT_ERRORS,
        );
        let mqtt = (
            &self.mqtt,
            names::ADDRESS_TOPIC_TAG,
            names::MQTT_EXPORT_SIZE,
            names::MQTT_EXPORT_ERRORS,
        );
        for (targets, tag, size, errors) in [http, mqtt] {
            for (target, metrics) in sorted(targets) {
                of_one(size, tag, &target, &|| {
                    Reading::Histogram(metrics.sizes.summary())
                });
                of_one(errors, tag, &target, &|| Reading::Counter(metrics.errors.count()));
            }
        }
        let alone = [
            (
                names::SECURITY_SECRETS_REQUESTED,
                Reading::Counter(self.secrets_requested.count()),
            ),
            (
                names::SECURITY_SECRETS_STORED,
                Reading::Counter(self.secrets_stored.count()),
            ),
            (
                names::METRICS_SKIPPED,
                Reading::Counter(self.metrics_skipped.count()),
            ),
        ];
        all.extend(alone.map(|(name, reading)| Series::new(name, reading)));
        all
    }
}

impl Observer for ServiceMetrics {
    fn run_started(&self, pipeline_id: &PipelineId) {
        self.pipeline(pipeline_id).messages.increment();
    }

    fn run_ended(&self, pipeline_id: &PipelineId, took: Duration) {
        self.pipeline(pipeline_id).time.record(took);
    }

    fn attempt_failed(&self, pipeline_id: &PipelineId) {
        self.pipeline(pipeline_id).errors.increment();
    }

    fn exported(&self, target: ExportTarget<'_>, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.export(target).sizes.record(bytes);
    }

    fn export_failed(&self, target: ExportTarget<'_>) {
        self.export(target).errors.increment();
    }
}

/// [`ServiceMetrics`] as they are reported: those of the pipelines that are there.
pub struct CurrentMetrics {
    /// The numbers.
    pub metrics: Arc<ServiceMetrics>,
    /// The pipelines that are there.
    pub pipelines: watch::Receiver<Arc<PipelineSet>>,
}

impl Source for CurrentMetrics {
    fn read<'a>(&'a self, selection: Selection<'a>) -> BoxFuture<'a, Vec<Series>> {
        let pipelines = self.pipelines.borrow().clone();
        Box::pin(std::future::ready(self.metrics.series(selection, &pipelines)))
    }
}

type Known<K, M> = RwLock<HashMap<K, Arc<M>>>;

fn or_new<K: Eq + Hash, M: Default>(known: &Known<K, M>, key: K) -> Arc<M> {
    let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
    known.entry(key).or_default().clone()
}

fn bounded(known: &Known<String, ExportMetrics>, target: &str, what: &str) -> Arc<ExportMetrics> {
    let is_full = {
        let known = known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = known.get(target) {
            return metrics.clone();
        }
        known.len() >= MAX_TARGETS
    };
    if !is_full {
        return or_new(known, target.to_owned());
    }
    let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
    if !known.contains_key(OTHER_TARGETS) {
        tracing::warn!(
            "exports go to more than {MAX_TARGETS} {what}: the metrics of all others are reported together as '{OTHER_TARGETS}'"
        );
    }
    known.entry(OTHER_TARGETS.to_owned()).or_default().clone()
}

fn sorted(known: &Known<String, ExportMetrics>) -> Vec<(String, Arc<ExportMetrics>)> {
    let known = known.read().unwrap_or_else(PoisonError::into_inner);
    let mut all: Vec<_> = known
        .iter()
        .map(|(key, metrics)| (key.clone(), metrics.clone()))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use edgehold_core::{Pipeline, TargetType, Timestamp, TopicFilter};

    use super::*;

    fn id(text: &str) -> PipelineId {
        PipelineId::try_new(text).unwrap()
    }

    fn set(ids: &[&str]) -> PipelineSet {
        let topics = || vec![TopicFilter::try_new("#").unwrap()];
        let pipelines = ids
            .iter()
            .map(|text| Arc::new(Pipeline::new(id(text), topics(), Vec::new())));
        PipelineSet {
            pipelines: pipelines.collect(),
            target_type: TargetType::Event,
            changed_at: Timestamp::from_unix_millis(0),
        }
    }

    fn series(metrics: &ServiceMetrics, switched_on: &str, ids: &[&str]) -> Vec<(String, Reading)> {
        let configured = BTreeMap::from([(switched_on.to_owned(), true)]);
        let all = metrics.series(Selection::new(&configured), &set(ids));
        let wanted = all
            .into_iter()
            .filter(|series| series.name.starts_with(switched_on));
        wanted.map(|series| (series.name, series.reading)).collect()
    }

    #[test]
    fn a_pipeline_is_reported_while_it_is_there_and_its_numbers_go_on() {
        let metrics = ServiceMetrics::default();
        let processed = |ids: &[&str]| series(&metrics, "PipelineMessagesProcessed", ids);
        let of = |name: &str, count| {
            (
                format!("PipelineMessagesProcessed-{name}"),
                Reading::Counter(count),
            )
        };
        metrics.run_started(&id("b"));
        assert_eq!(processed(&["a", "b"]), [of("a", 0), of("b", 1)]);
        assert_eq!(processed(&["a"]), [of("a", 0)]);
        metrics.run_started(&id("b"));
        assert_eq!(processed(&["b"]), [of("b", 2)]);
    }

    #[test]
    fn pipelines_that_are_gone_are_not_remembered_without_end() {
        let metrics = ServiceMetrics::default();
        for n in 0..=MAX_PIPELINES {
            metrics.run_started(&id(&format!("p{n}")));
        }
        assert_eq!(
            series(&metrics, "PipelineMessagesProcessed", &["p7"]),
            [("PipelineMessagesProcessed-p7".to_owned(), Reading::Counter(1))]
        );
        assert_eq!(metrics.pipelines.read().unwrap().len(), 1);
    }

    #[test]
    fn an_export_is_named_by_its_target() {
        let metrics = ServiceMetrics::default();
        let mqtt = ExportTarget::Mqtt {
            address: "tcp://h:1883",
            topic: "out/x",
        };
        metrics.exported(ExportTarget::Http { url: "http://h/a" }, 7);
        metrics.export_failed(mqtt);
        let configured = BTreeMap::from([("HttpExport".to_owned(), true), ("MqttExport".to_owned(), true)]);
        let mut all = metrics.series(Selection::new(&configured), &set(&[]));
        all.truncate(4);
        let told: Vec<_> = all
            .iter()
            .map(|series| {
                (
                    series.name.as_str(),
                    series.tags[0].0.as_str(),
                    series.tags[0].1.as_str(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("HttpExportSize-http://h/a", "url", "http://h/a"),
                ("HttpExportErrors-http://h/a", "url", "http://h/a"),
                (
                    "MqttExportSize-tcp://h:1883/out/x",
                    "address/topic",
                    "tcp://h:1883/out/x"
                ),
                (
                    "MqttExportErrors-tcp://h:1883/out/x",
                    "address/topic",
                    "tcp://h:1883/out/x"
                ),
            ]
        );
        assert_eq!(all[3].reading, Reading::Counter(1));
        assert!(matches!(all[0].reading, Reading::Histogram(sizes) if sizes.count == 1 && sizes.max == 7));
    }

    #[test]
    fn targets_beyond_the_limit_are_counted_together() {
        let metrics = ServiceMetrics::default();
        for n in 0..MAX_TARGETS + 50 {
            let url = format!("http://h/{n}");
            metrics.export_failed(ExportTarget::Http { url: &url });
        }
        let errors = series(&metrics, "HttpExportErrors", &[]);
        assert_eq!(errors.len(), MAX_TARGETS + 1);
        assert!(errors.contains(&("HttpExportErrors-other".to_owned(), Reading::Counter(50))));
    }
}
