use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use edgehold_contracts::{ContentType, MessageEnvelope, Metric, MetricValue};
use edgehold_core::Shutdown;
use edgehold_test_support::fixtures::{self, Generation};
use serde_json::Value;
use tokio::time::{advance, pause};

use super::*;
use crate::{Reading, Summary};

/// What the bus does with a message.
#[derive(Clone, Copy, PartialEq)]
enum Bus {
    Takes,
    IsAway,
    NeverAnswers,
    RefusesTheTopic,
}

struct ScriptedBus {
    does: Mutex<Bus>,
    asked: AtomicUsize,
    taken: Mutex<Vec<(String, Value)>>,
}

impl MessagePublisher for ScriptedBus {
    fn publish(&self, message: OutgoingMessage) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let does = *self.does.lock().unwrap();
            let error = |class| Err(PublishError::new(&message.topic, class, "no"));
            match does {
                Bus::Takes => {
                    assert_eq!(message.content_type, "application/json");
                    let text = message.payload.as_bytes().unwrap();
                    let metric = serde_json::from_slice(text).unwrap();
                    self.taken.lock().unwrap().push((message.topic, metric));
                    Ok(())
                }
                Bus::IsAway => error(ErrorClass::Transient),
                Bus::RefusesTheTopic => error(ErrorClass::Permanent),
                Bus::NeverAnswers => std::future::pending().await,
            }
        })
    }
}

/// Numbers that are always there.
struct Numbers(Vec<Series>);

impl Source for Numbers {
    fn read<'a>(&'a self, _: Selection<'a>) -> BoxFuture<'a, Vec<Series>> {
        Box::pin(std::future::ready(self.0.clone()))
    }
}

struct Running {
    bus: Arc<ScriptedBus>,
    settings: watch::Sender<Arc<Writable>>,
    metrics: Arc<ServiceMetrics>,
    _shutdown: Shutdown,
}

impl Running {
    /// Two metrics, of which the settings choose; time stands still.
    fn start(interval: Option<Duration>, switched_on: &[&str]) -> Self {
        pause();
        let (settings, receiver) = watch::channel(Arc::new(Writable::default()));
        let bus = Arc::new(ScriptedBus {
            does: Mutex::new(Bus::Takes),
            asked: AtomicUsize::new(0),
            taken: Mutex::default(),
        });
        let metrics = Arc::<ServiceMetrics>::default();
        let numbers = vec![
            Series::new("Alpha", Reading::Counter(1)),
            Series::of("Beta", "of", "x", Reading::Gauge(2)),
        ];
        let reporter = Reporter {
            service_key: ServiceKey::try_new("app-test").unwrap(),
            settings: receiver,
            sources: vec![Arc::new(Numbers(numbers))],
            publisher: Some(bus.clone()),
            metrics: metrics.clone(),
        };
        let (shutdown, signal) = Shutdown::new();
        let running = Self {
            bus,
            settings,
            metrics,
            _shutdown: shutdown,
        };
        running.telemetry(|telemetry| {
            telemetry.interval = interval;
            telemetry.metrics = switched_on
                .iter()
                .map(|name| ((*name).to_owned(), true))
                .collect();
        });
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of the test")]
        tokio::spawn(reporter.run(signal));
        running
    }

    fn telemetry(&self, change: impl FnOnce(&mut Telemetry)) {
        let mut writable = Writable::default();
        writable.telemetry.clone_from(&self.settings.borrow().telemetry);
        change(&mut writable.telemetry);
        self.settings.send_replace(Arc::new(writable));
    }

    fn interval(&self, seconds: u64) {
        let interval = (seconds > 0).then(|| Duration::from_secs(seconds));
        self.telemetry(|telemetry| telemetry.interval = interval);
    }

    fn bus_does(&self, what: Bus) {
        *self.bus.does.lock().unwrap() = what;
    }

    /// The topics published to in these seconds.
    async fn topics_in(&self, seconds: u64) -> Vec<String> {
        let taken = self.taken_in(seconds).await;
        taken.into_iter().map(|(topic, _)| topic).collect()
    }

    async fn taken_in(&self, seconds: u64) -> Vec<(String, Value)> {
        settle().await;
        for _ in 0..seconds * 10 {
            advance(Duration::from_millis(100)).await;
            settle().await;
        }
        std::mem::take(&mut *self.bus.taken.lock().unwrap())
    }
}

/// Lets the reporter do what it can do without time going by.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

const ALPHA: &str = "telemetry/app-test/Alpha";

#[tokio::test]
async fn a_metric_is_reported_one_interval_after_the_start_and_then_each_interval() {
    let running = Running::start(Some(Duration::from_secs(10)), &["Alpha"]);
    assert_eq!(running.topics_in(9).await, [""; 0]);
    assert_eq!(running.topics_in(2).await, [ALPHA]);
    assert_eq!(running.topics_in(20).await, [ALPHA, ALPHA]);
}

/// Contract §12.22: a negative interval is refused by the configuration; what is left is none.
#[tokio::test]
async fn a_changed_interval_counts_from_the_last_report_and_none_reports_nothing() {
    let running = Running::start(Some(Duration::from_secs(60)), &["Alpha"]);
    assert_eq!(running.topics_in(70).await.len(), 1);
    // Ten seconds have gone by since the last one: it is due at once.
    running.interval(5);
    assert_eq!(running.topics_in(1).await.len(), 1);
    assert_eq!(running.topics_in(10).await.len(), 2);
    running.interval(0);
    assert_eq!(running.topics_in(600).await, [""; 0]);
    // Switched on again it begins as at the start.
    running.interval(10);
    assert_eq!(running.topics_in(9).await, [""; 0]);
    assert_eq!(running.topics_in(2).await, [ALPHA]);
}

#[tokio::test]
async fn names_and_tags_are_those_of_the_moment() {
    let running = Running::start(Some(Duration::from_secs(1)), &[]);
    assert_eq!(running.topics_in(5).await, [""; 0]);
    running.telemetry(|telemetry| {
        telemetry.metrics = BTreeMap::from([("Bet".to_owned(), true), ("Alpha".to_owned(), false)]);
        telemetry.tags = [("site", "A"), ("line", "7"), (" ", "blank")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    });
    let (topic, metric) = running.taken_in(1).await.remove(0);
    // The configured name, and the tags in their order.
    assert_eq!(topic, "telemetry/app-test/Bet");
    assert_eq!(metric["name"], "Bet");
    let tags = metric["tags"].as_array().unwrap().iter();
    let tags: Vec<_> = tags
        .map(|tag| (tag["name"].as_str().unwrap(), tag["value"].as_str().unwrap()))
        .collect();
    assert_eq!(
        tags,
        [("line", "7"), ("site", "A"), ("service", "app-test"), ("of", "x")]
    );
}

#[tokio::test]
async fn a_bus_that_is_away_is_asked_once_in_each_interval_and_nothing_is_kept() {
    let running = Running::start(Some(Duration::from_secs(10)), &["Alpha", "Beta"]);
    running.bus_does(Bus::IsAway);
    assert_eq!(running.topics_in(31).await, [""; 0]);
    assert_eq!(running.bus.asked.load(Ordering::Relaxed), 3);
    assert_eq!(running.metrics.metrics_skipped.count(), 6);
    running.bus_does(Bus::Takes);
    assert_eq!(running.topics_in(10).await.len(), 2);
}

#[tokio::test]
async fn a_bus_that_never_answers_delays_nothing_but_what_is_due_now() {
    let running = Running::start(Some(Duration::from_secs(10)), &["Alpha", "Beta"]);
    running.bus_does(Bus::NeverAnswers);
    assert_eq!(running.topics_in(15).await, [""; 0]);
    running.bus_does(Bus::Takes);
    assert_eq!(running.topics_in(10).await.len(), 2);
    assert_eq!(running.metrics.metrics_skipped.count(), 2);
}

#[tokio::test]
async fn a_name_that_cannot_be_published_by_holds_no_other_up() {
    let running = Running::start(Some(Duration::from_secs(10)), &["Alpha", "Beta"]);
    running.bus_does(Bus::RefusesTheTopic);
    assert_eq!(running.topics_in(11).await, [""; 0]);
    assert_eq!(running.bus.asked.load(Ordering::Relaxed), 2);
}

/// What EdgeX services have published is what the same numbers would be published as.
#[test]
fn every_recorded_metric_is_written_as_it_was_recorded() {
    let mut kinds = BTreeMap::new();
    for generation in Generation::ALL {
        let recorded = fixtures::messages(generation).unwrap();
        for message in recorded
            .iter()
            .filter(|message| message.topic.contains("/telemetry/"))
        {
            let envelope = MessageEnvelope::from_json(&message.payload).unwrap();
            let text = envelope.payload.as_bytes().unwrap();
            let metric = Metric::decode(text, ContentType::Json).unwrap();
            let service = metric
                .tags
                .iter()
                .find(|tag| tag.name == "service")
                .unwrap()
                .clone();
            let own = metric.tags.iter().filter(|tag| tag.name != "service");
            let series = Series {
                name: format!("{}-x", metric.name),
                family: metric.name.clone(),
                tags: own.map(|tag| (tag.name.clone(), tag.value.clone())).collect(),
                reading: reading(&metric),
            };
            let written = series
                .to_metric(&metric.name, &[service], metric.timestamp)
                .to_json();
            assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(text));
            let kind = metric.fields[0].name.clone();
            *kinds.entry(kind).or_insert(0) += 1;
        }
    }
    let kinds: Vec<_> = kinds.keys().map(String::as_str).collect();
    assert_eq!(
        kinds,
        ["counter-count", "gauge-value", "histogram-count", "timer-count"]
    );
}

fn reading(metric: &Metric) -> Reading {
    let number = |at: usize| match &metric.fields[at].value {
        MetricValue::Number(number) => number.clone(),
        other => panic!("no number: {other:?}"),
    };
    let integer = |at: usize| number(at).as_i64().unwrap();
    let float = |at: usize| number(at).as_f64().unwrap();
    let summary = || Summary {
        count: integer(0),
        sum: 0,
        min: integer(1),
        max: integer(2),
        mean: float(3),
        stddev: float(4),
        variance: float(5),
    };
    match metric.fields[0].name.as_str() {
        "counter-count" => Reading::Counter(integer(0)),
        "gauge-value" => Reading::Gauge(integer(0)),
        "timer-count" => Reading::Timer(summary()),
        "histogram-count" => Reading::Histogram(summary()),
        other => panic!("{other}"),
    }
}
