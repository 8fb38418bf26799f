//! `Writable`: everything that may change while the service runs.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    num::{NonZeroU64, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use edgehold_core::{
    Secret, TargetType,
    retry::{MaxRetries, OnPipelineChange},
};

use crate::{Configuration, Leaf, Leaves, configuration::Shown, schema};

/// `Writable`. Equal values mean that nothing has to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Writable {
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// Keeping and retrying failed exports.
    pub store_and_forward: StoreAndForward,
    /// The configurable pipelines.
    pub pipeline: PipelineSettings,
    /// The secrets of insecure mode by entry. The name they are asked for is inside.
    pub insecure_secrets: BTreeMap<String, InsecureSecret>,
    /// Reporting of metrics.
    pub telemetry: Telemetry,
}

/// Severity of a log line, least severe first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// `TRACE`
    Trace,
    /// `DEBUG`
    Debug,
    /// `INFO`
    #[default]
    Info,
    /// `WARN`
    Warn,
    /// `ERROR`
    Error,
}

/// `Writable.StoreAndForward`.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreAndForward {
    /// Whether failed exports are kept and retried.
    pub enabled: bool,
    /// The pause between two attempts of one object. At least one second.
    pub retry_interval: Duration,
    /// How often an object may fail.
    pub max_retries: MaxRetries,
    /// When a delivery is written before it has ended.
    pub journal: Journal,
    /// With [`Journal::Auto`]: how long a delivery may take before it is written.
    pub journal_delay: Duration,
    /// How the pause between attempts grows.
    pub backoff: Backoff,
    /// The longest pause of [`Backoff::Exponential`]. Above zero.
    pub max_retry_interval: Duration,
    /// Whether a failing destination is probed with one object at a time.
    pub breaker: bool,
    /// Most attempts at the same time for each destination.
    pub retry_concurrency: NonZeroUsize,
    /// Most objects a second for each destination; none = no limit.
    pub retry_rate: Option<f64>,
    /// The share of a destination's capacity kept for fresh events while a backlog drains, 0 to 1.
    pub fresh_share: f64,
    /// Most objects read from the store at once.
    pub retry_batch_size: NonZeroUsize,
    /// Most bytes read from the store at once. Above zero.
    pub retry_batch_bytes: u64,
    /// Which objects have to wait for each other.
    pub ordering: Ordering,
    /// Older objects go to the error collection; none = no limit.
    pub max_age: Option<Duration>,
    /// Most objects waiting; none = no limit.
    pub max_items: Option<NonZeroU64>,
    /// Most bytes waiting; none = no limit.
    pub max_bytes: Option<NonZeroU64>,
    /// What happens when a limit is reached or the disk is full.
    pub when_full: WhenFull,
    /// What becomes of objects whose pipeline has changed.
    pub on_pipeline_change: OnPipelineChange,
    /// How long the error collection is kept; none = without end.
    pub dead_letter_retention: Option<Duration>,
    /// Most objects in the error collection; none = no limit.
    pub dead_letter_max_items: Option<NonZeroU64>,
    /// How long delivered objects are kept; none = not at all.
    pub history_retention: Option<Duration>,
}

/// When a delivery is written to the store before it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Journal {
    /// Never.
    Off,
    /// When it takes longer than the journal delay.
    #[default]
    Auto,
    /// Before the first attempt.
    Always,
}

/// How the pause between attempts grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backoff {
    /// It does not.
    #[default]
    Fixed,
    /// A random pause that may grow up to the maximum.
    Exponential,
    /// There is none: what has failed is tried again at once.
    None,
}

impl StoreAndForward {
    /// How long every object rests after a failed attempt.
    pub fn rest(&self) -> Duration {
        match self.backoff {
            Backoff::Fixed | Backoff::Exponential => self.retry_interval,
            Backoff::None => Duration::ZERO,
        }
    }
}

/// Which stored objects have to wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// None.
    #[default]
    None,
    /// Those of one pipeline and device.
    Device,
}

/// What happens when a limit is reached or the disk is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Deliveries wait.
    #[default]
    Block,
    /// The oldest object goes, counted and named.
    DropOldest,
    /// The new object goes, counted and named.
    DropNewest,
    /// An object goes to the error collection instead of being dropped.
    DeadLetter,
}

/// `Writable.Pipeline`. Whether the functions exist and their parameters fit is not checked here.
#[derive(Clone, PartialEq, Eq)]
pub struct PipelineSettings {
    /// What a message is decoded into.
    pub target_type: TargetType,
    /// Functions of the default pipeline, in order; may be empty.
    pub execution_order: Vec<String>,
    /// Further pipelines by entry. The id is inside.
    pub per_topic: BTreeMap<String, PerTopicPipeline>,
    /// Parameters by function and name, as written. A function without parameters has an empty map.
    pub functions: BTreeMap<String, BTreeMap<String, String>>,
    /// Deliveries that run at the same time.
    pub concurrency: NonZeroUsize,
}

impl fmt::Debug for PipelineSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions = self.functions.iter();
        let functions: BTreeMap<_, _> = functions
            .map(|(name, parameters)| (name, Shown("", parameters)))
            .collect();
        f.debug_struct("PipelineSettings")
            .field("target_type", &self.target_type)
            .field("execution_order", &self.execution_order)
            .field("per_topic", &self.per_topic)
            .field("functions", &functions)
            .field("concurrency", &self.concurrency)
            .finish()
    }
}

/// One of `Writable.Pipeline.PerTopicPipelines`, as written: id, topics and functions may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerTopicPipeline {
    /// The pipeline id.
    pub id: String,
    /// The topics it runs for, without base prefix.
    pub topics: Vec<String>,
    /// Its functions, in order.
    pub execution_order: Vec<String>,
}

/// One of `Writable.InsecureSecrets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsecureSecret {
    /// The name it is asked for. Never empty.
    pub secret_name: String,
    /// Its values.
    pub data: Secret,
}

/// `Writable.Telemetry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// The pause between two reports; none = no reports.
    pub interval: Option<Duration>,
    /// Whether the metrics whose names begin with this are reported.
    pub metrics: BTreeMap<String, bool>,
    /// Tags of every metric.
    pub tags: BTreeMap<String, String>,
}

impl Default for Writable {
    /// Every setting at its default.
    fn default() -> Self {
        Arc::unwrap_or_clone(Configuration::default().writable)
    }
}

impl Default for StoreAndForward {
    /// Every setting at its default.
    fn default() -> Self {
        Writable::default().store_and_forward
    }
}

impl Default for PipelineSettings {
    /// Every setting at its default: no functions, no pipelines.
    fn default() -> Self {
        Writable::default().pipeline
    }
}

impl Writable {
    pub(super) fn from_leaves<'a>(of: &Leaves, functions: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            log_level: match of.word("Writable/LogLevel") {
                "TRACE" => LogLevel::Trace,
                "DEBUG" => LogLevel::Debug,
                "WARN" => LogLevel::Warn,
                "ERROR" => LogLevel::Error,
                _ => LogLevel::Info,
            },
            store_and_forward: StoreAndForward::from_leaves(of),
            pipeline: PipelineSettings::from_leaves(of, functions),
            insecure_secrets: of
                .names(schema::INSECURE_SECRETS)
                .map(|entry| (entry.to_owned(), insecure_secret(of, entry)))
                .collect(),
            telemetry: Telemetry {
                interval: of.some_duration("Writable/Telemetry/Interval"),
                metrics: of
                    .below("Writable/Telemetry/Metrics/")
                    .map(|(name, _)| {
                        (
                            name.to_owned(),
                            of.bool(&format!("Writable/Telemetry/Metrics/{name}")),
                        )
                    })
                    .collect(),
                tags: of.texts("Writable/Telemetry/Tags/"),
            },
        }
    }
}

impl StoreAndForward {
    fn from_leaves(of: &Leaves) -> Self {
        let path = |name: &str| format!("Writable/StoreAndForward/{name}");
        let limit = |name: &str| NonZeroU64::new(of.int(&path(name)));
        Self {
            enabled: of.bool(&path("Enabled")),
            retry_interval: of.duration(&path("RetryInterval")),
            max_retries: MaxRetries::from_setting(of.int(&path("MaxRetryCount"))),
            journal: match of.word(&path("Journal")) {
                "off" => Journal::Off,
                "always" => Journal::Always,
                _ => Journal::Auto,
            },
            journal_delay: of.duration(&path("JournalDelay")),
            backoff: match of.word(&path("Backoff")) {
                "exponential" => Backoff::Exponential,
                "none" => Backoff::None,
                _ => Backoff::Fixed,
            },
            max_retry_interval: of.duration(&path("MaxRetryInterval")),
            breaker: of.word(&path("Breaker")) == "on",
            retry_concurrency: at_least_one(of, &path("RetryConcurrency")),
            retry_rate: Some(of.number(&path("RetryRate"))).filter(|rate| *rate > 0.0),
            fresh_share: of.number(&path("FreshShare")),
            retry_batch_size: at_least_one(of, &path("RetryBatchSize")),
            retry_batch_bytes: of.bytes(&path("RetryBatchBytes")),
            ordering: match of.word(&path("Ordering")) {
                "device" => Ordering::Device,
                _ => Ordering::None,
            },
            max_age: of.some_duration(&path("MaxAge")),
            max_items: limit("MaxItems"),
            max_bytes: NonZeroU64::new(of.bytes(&path("MaxBytes"))),
            when_full: match of.word(&path("WhenFull")) {
                "drop-oldest" => WhenFull::DropOldest,
                "drop-newest" => WhenFull::DropNewest,
                "dead-letter" => WhenFull::DeadLetter,
                _ => WhenFull::Block,
            },
            on_pipeline_change: match of.word(&path("OnPipelineChange")) {
                "discard" => OnPipelineChange::Discard,
                _ => OnPipelineChange::DeadLetter,
            },
            dead_letter_retention: of.some_duration(&path("DeadLetterRetention")),
            dead_letter_max_items: limit("DeadLetterMaxItems"),
            history_retention: of.some_duration(&path("HistoryRetention")),
        }
    }
}

impl PipelineSettings {
    fn from_leaves<'a>(of: &Leaves, functions: impl IntoIterator<Item = &'a str>) -> Self {
        const PER_TOPIC: &str = schema::PER_TOPIC_PIPELINES;
        let per_topic = |entry: &str| PerTopicPipeline {
            id: of.text(&format!("{PER_TOPIC}{entry}/Id")),
            topics: of.list(&format!("{PER_TOPIC}{entry}/Topics")),
            execution_order: of.list(&format!("{PER_TOPIC}{entry}/ExecutionOrder")),
        };
        Self {
            target_type: of
                .word("Writable/Pipeline/TargetType")
                .parse()
                .expect("the schema allows the words of a target type only"),
            execution_order: of.list("Writable/Pipeline/ExecutionOrder"),
            per_topic: of
                .names(PER_TOPIC)
                .map(|entry| (entry.to_owned(), per_topic(entry)))
                .collect(),
            functions: functions
                .into_iter()
                .map(|name| (name.to_owned(), parameters(of, name)))
                .collect(),
            concurrency: at_least_one(of, "Writable/Pipeline/Concurrency"),
        }
    }
}

/// The parameters of a function. Their names have no case: of those that differ in nothing else the one of the highest
/// layer counts, and in one layer the first by byte order.
fn parameters(of: &Leaves, function: &str) -> BTreeMap<String, String> {
    let folder = format!("{}{function}/Parameters/", schema::FUNCTIONS);
    let mut chosen = BTreeMap::<String, (&str, &Leaf)>::new();
    for (name, leaf) in of.below(&folder) {
        match chosen.entry(name.to_lowercase()) {
            Entry::Occupied(entry) if entry.get().1.origin() >= leaf.origin() => {}
            Entry::Occupied(mut entry) => _ = entry.insert((name, leaf)),
            Entry::Vacant(entry) => _ = entry.insert((name, leaf)),
        }
    }
    chosen
        .into_values()
        .map(|(name, leaf)| (name.to_owned(), leaf.text().to_owned()))
        .collect()
}

fn at_least_one(of: &Leaves, path: &str) -> NonZeroUsize {
    NonZeroUsize::new(of.int(path)).expect("the schema refuses a number below 1 here")
}

fn insecure_secret(of: &Leaves, entry: &str) -> InsecureSecret {
    let folder = format!("{}{entry}/", schema::INSECURE_SECRETS);
    InsecureSecret {
        secret_name: of.text(&format!("{folder}SecretName")),
        data: of
            .below(&format!("{folder}SecretData/"))
            .map(|(key, leaf)| (key.to_owned(), edgehold_core::SecretText::new(leaf.text())))
            .collect(),
    }
}
