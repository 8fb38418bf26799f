use edgehold_config::{Layer, LogFormat, configuration::LogLevel};
use edgehold_core::FunctionRegistry;
use serde::Deserialize;

use super::*;
use crate::{logging::LogOutput, section::SectionWatch};

const INTERVAL: &str = "Writable/StoreAndForward/RetryInterval";
const ORDER: &str = "Writable/Pipeline/ExecutionOrder";

/// A pipeline that can be built, and these.
fn private<const N: usize>(leaves: [(&str, &str); N]) -> Layer {
    let pipeline = [
        (ORDER, "SetResponseData"),
        (
            "Writable/Pipeline/Functions/SetResponseData/Parameters/ResponseContentType",
            "",
        ),
    ];
    pipeline.into_iter().chain(leaves).collect()
}

/// Live settings of a service that began with this.
fn live(private: Layer, sections: Vec<LiveSection>) -> (LiveSettings, LiveView) {
    let layers = Layers {
        private,
        ..Layers::default()
    };
    let effective = resolve(&layers, None);
    let (writable, _) = watch::channel(effective.configuration.writable.clone());
    let hooks = LiveHooks {
        writable,
        sections,
        replacements: mpsc::channel(1).1,
    };
    let mut registry = FunctionRegistry::default();
    edgehold_functions::register(&mut registry, crate::sources::of_this_system());
    let pipelines = Pipelines::new(registry, None);
    let log = LogControl::init(
        "app-test",
        LogLevel::Info,
        LogOutput::Stderr,
        LogFormat::default(),
    );
    let live = LiveSettings::new(layers, effective, pipelines, log, hooks);
    live.expect("the pipeline can be built")
}

fn holds(live: &mut LiveSettings, private: Layer) {
    live.apply(Snapshot {
        private: Some(private),
        ..Snapshot::default()
    });
}

#[test]
fn what_is_rejected_is_shown_beside_what_holds_until_it_is_taken_back() {
    let (mut live, view) = live(private([(INTERVAL, "30s")]), Vec::new());
    let text = |path: &str| {
        let effective = view.effective.borrow();
        effective.configuration.leaves().shown(path)
    };
    let rejected = || view.effective.borrow().rejected.clone();

    holds(
        &mut live,
        private([
            (INTERVAL, "soon"),
            (ORDER, "NoSuchFunction, SetResponseData"),
            ("Writable/LogLevel", "WARN"),
        ]),
    );
    assert_eq!(text(INTERVAL).as_deref(), Some("30s"));
    assert_eq!(text(ORDER).as_deref(), Some("SetResponseData"));
    assert_eq!(
        text("Writable/LogLevel").as_deref(),
        Some("WARN"),
        "good beside bad acts"
    );
    let shown: Vec<_> = rejected().iter().map(Rejection::to_json).collect();
    assert_eq!(
        shown,
        [
            serde_json::json!({
                "key": ORDER,
                "value": "NoSuchFunction, SetResponseData",
                "reason": "function 'NoSuchFunction' is not configured under Writable/Pipeline/Functions; the pipeline \
                           'default-pipeline' goes on as it was",
                "section": "private configuration",
            }),
            serde_json::json!({
                "key": INTERVAL,
                "value": "soon",
                "reason": "'soon' is not a duration like 30s, 5m or 1h30m: a number is missing",
                "section": "private configuration",
            }),
        ]
    );

    holds(&mut live, private([(INTERVAL, "30s")]));
    assert_eq!(rejected(), []);
}

#[test]
fn a_rejected_pipeline_that_never_ran_is_not_shown_among_those_that_run() {
    let (mut live, view) = live(private([]), Vec::new());
    let entry = |rest: &str| format!("Writable/Pipeline/PerTopicPipelines/second/{rest}");
    let broken = private([
        (&entry("Id"), "second"),
        (&entry("Topics"), "a/#"),
        (&entry("ExecutionOrder"), "NoSuchFunction"),
    ]);
    holds(&mut live, broken);
    let effective = view.effective.borrow().clone();
    assert!(effective.configuration.writable.pipeline.per_topic.is_empty());
    assert_eq!(effective.rejected.len(), 1);
    assert_eq!(effective.rejected[0].value, "NoSuchFunction");
    assert!(effective.rejected[0].reason.ends_with("; no such pipeline runs"));
}

#[test]
fn a_password_in_a_rejected_parameter_is_not_told() {
    let (mut live, view) = live(private([]), Vec::new());
    holds(
        &mut live,
        private([
            (ORDER, "AddTags"),
            (
                "Writable/Pipeline/Functions/AddTags/Parameters/Tags",
                "http://user:topsecret@host",
            ),
        ]),
    );
    let rejected = view.effective.borrow().rejected.clone();
    assert_eq!(rejected.len(), 1);
    assert!(!format!("{rejected:?}").contains("topsecret"), "{rejected:?}");
}

/// EdgeX 3 reloads every pipeline at any change it has no name for: batches in progress are lost and MQTT clients made
/// twice.
#[test]
fn weakness_05_a_change_beside_the_pipelines_leaves_them_alone() {
    let (mut live, mut view) = live(private([]), Vec::new());
    let before = view.pipelines.borrow_and_update().clone();
    for leaf in [
        ("Writable/Telemetry/Metrics/MessagesReceived", "true"),
        ("Writable/Telemetry/Tags/Gateway", "a"),
        ("Writable/Telemetry/Interval", "1s"),
        ("Writable/InsecureSecrets/x/SecretName", "x"),
        ("Writable/StoreAndForward/MaxRetryCount", "1"),
        ("Writable/Unknown", "1"),
        ("Writable/LogLevel", "nonsense"),
    ] {
        holds(&mut live, private([leaf]));
        assert!(!view.pipelines.has_changed().unwrap(), "{leaf:?}");
        assert!(Arc::ptr_eq(&before, &view.pipelines.borrow()), "{leaf:?}");
    }
}

/// EdgeX acts on the first difference it finds.
#[test]
fn weakness_01_all_differences_of_one_snapshot_act_in_one_turn() {
    let (mut live, mut view) = live(private([]), Vec::new());
    view.writable.borrow_and_update();
    holds(
        &mut live,
        private([
            ("Writable/LogLevel", "ERROR"),
            ("Writable/StoreAndForward/MaxRetryCount", "3"),
            (INTERVAL, "7s"),
            ("Writable/StoreAndForward/Enabled", "true"),
            ("Writable/Telemetry/Interval", "1s"),
            (ORDER, "SetResponseData, AddTags"),
            ("Writable/Pipeline/Functions/AddTags/Parameters/Tags", "a:b"),
        ]),
    );
    assert!(view.writable.has_changed().unwrap());
    let writable = view.writable.borrow_and_update().clone();
    assert_eq!(writable.log_level, LogLevel::Error);
    let saf = &writable.store_and_forward;
    assert!(saf.enabled);
    assert_eq!(saf.retry_interval.as_secs(), 7);
    assert_eq!(saf.max_retries, edgehold_core::retry::MaxRetries::from_setting(3));
    assert_eq!(
        writable.telemetry.interval.map(|interval| interval.as_secs()),
        Some(1)
    );
    assert_eq!(view.pipelines.borrow().pipelines[0].steps().len(), 2);
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Mine {
    limit: u8,
}

/// EdgeX: `ListenForCustomConfigChanges`.
#[tokio::test]
async fn a_section_of_ones_own_below_writable_follows_the_provider() {
    // Given a section that somebody follows
    let begun_with = private([("Writable/Mine/Limit", "7")]);
    let layers = Layers {
        private: begun_with.clone(),
        ..Layers::default()
    };
    let (sender, receiver) = watch::channel(layers.section("Writable/Mine"));
    let mut mine: SectionWatch<Mine> = SectionWatch::new("Writable/Mine", receiver);
    let section = LiveSection {
        name: "Writable/Mine".to_owned(),
        sender,
    };
    let (mut live, _view) = live(begun_with, vec![section]);

    // When another setting changes, nobody is told
    let beside = private([("Writable/Mine/Limit", "7"), ("Writable/LogLevel", "ERROR")]);
    holds(&mut live, beside);
    assert!(!mine.has_changed());

    // When it changes, whoever follows is, and a bad value is named and nothing worse
    holds(&mut live, private([("Writable/Mine/Limit", "9")]));
    assert_eq!(mine.changed().await, Ok(Mine { limit: 9 }));
    holds(&mut live, private([("Writable/Mine/Limit", "many")]));
    let error = mine.changed().await.unwrap_err().to_string();
    assert!(
        error.starts_with("Writable/Mine/Limit = 'many' is not"),
        "{error}"
    );
    assert_eq!(mine.current().unwrap_err().to_string(), error);
}

/// EdgeX: `RegisterSecretUpdatedCallback`, which a rename calls for both names.
#[tokio::test]
async fn secrets_that_change_are_told_by_name_and_others_not() {
    let secret = |name: &'static str, value: &'static str| {
        private([
            ("Writable/InsecureSecrets/x/SecretName", name),
            ("Writable/InsecureSecrets/x/SecretData/k", value),
        ])
    };
    let (mut live, view) = live(secret("one", "1"), Vec::new());
    let mut secrets = crate::SecretWatch::new(view.writable.clone());
    holds(&mut live, secret("one", "2"));
    assert_eq!(secrets.changed().await, ["one".to_owned()].into());
    holds(&mut live, secret("two", "2"));
    assert_eq!(
        secrets.changed().await,
        ["one".to_owned(), "two".to_owned()].into()
    );
    let mut beside = secret("two", "2");
    beside.insert("Writable/LogLevel", "WARN");
    holds(&mut live, beside);
    assert!(futures_now(secrets.changed()).is_none());
}

/// What a future has at once.
fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}
