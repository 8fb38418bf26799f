use std::{collections::BTreeMap, time::Duration};

use edgehold_core::retry::MaxRetries;
use proptest::prelude::*;

use super::*;
use crate::{Expected, REDACTED, Section, Snapshot, configuration::LogLevel};

const INTERVAL: &str = "Writable/StoreAndForward/RetryInterval";
const LEVEL: &str = "Writable/LogLevel";

fn layer<const N: usize>(leaves: [(&str, &str); N]) -> Layer {
    leaves.into_iter().collect()
}

fn private<const N: usize>(leaves: [(&str, &str); N]) -> Layers {
    Layers {
        private: layer(leaves),
        ..Layers::default()
    }
}

fn saf(effective: &Effective) -> &crate::StoreAndForward {
    &effective.configuration.writable.store_and_forward
}

#[test]
fn a_bad_value_at_start_gives_way_to_the_next_lower_layer() {
    let layers = Layers {
        all_services: layer([(INTERVAL, "7m")]),
        app_services: layer([(INTERVAL, "soon")]),
        private: layer([(INTERVAL, "30")]),
        ..Layers::default()
    };
    let effective = resolve(&layers, None);
    assert_eq!(saf(&effective).retry_interval, Duration::from_secs(420));
    let named: Vec<_> = effective.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        named,
        [
            "Writable/StoreAndForward/RetryInterval = 'soon' (app-services) cannot be used: 'soon' is not a duration \
             like 30s, 5m or 1h30m: a number is missing",
            "Writable/StoreAndForward/RetryInterval = '30' (private configuration) cannot be used: '30' is not a \
             duration like 30s, 5m or 1h30m: a unit is missing",
        ]
    );
    let leaf = effective.configuration.leaves().get(INTERVAL).unwrap();
    assert_eq!((leaf.text(), leaf.origin()), ("7m", Origin::AllServices));
}

#[test]
fn weakness_14_a_bad_value_later_keeps_the_last_good_one_and_everything_beside_it_applies() {
    let mut layers = private([(INTERVAL, "30s"), (LEVEL, "INFO")]);
    layers.app_services = layer([(INTERVAL, "5m")]);
    let first = resolve(&layers, None);
    layers.private = layer([
        (INTERVAL, "soon"),
        (LEVEL, "DEBUG"),
        ("Writable/StoreAndForward/Enabled", "true"),
    ]);
    let second = resolve(&layers, Some(&first));
    assert_eq!(saf(&second).retry_interval, Duration::from_secs(30));
    assert_eq!(
        second.configuration.leaves().get(INTERVAL).unwrap().origin(),
        Origin::LastGood
    );
    assert_eq!(second.configuration.writable.log_level, LogLevel::Debug);
    assert!(saf(&second).enabled);
    assert_eq!(second.newly_rejected(Some(&first)).count(), 1);
    // The same bad value is not news a second time, and its correction acts.
    layers.private.insert(LEVEL, "WARN");
    let third = resolve(&layers, Some(&second));
    assert_eq!(saf(&third).retry_interval, Duration::from_secs(30));
    assert_eq!(third.newly_rejected(Some(&second)).count(), 0);
    layers.private.insert(INTERVAL, "45s");
    let fourth = resolve(&layers, Some(&third));
    assert_eq!(saf(&fourth).retry_interval, Duration::from_secs(45));
    assert_eq!(fourth.rejected, []);
}

#[test]
fn a_short_interval_and_a_negative_count_are_taken_and_named() {
    let effective = resolve(
        &private([
            (INTERVAL, "10ms"),
            ("Writable/StoreAndForward/MaxRetryCount", "-2"),
        ]),
        None,
    );
    assert_eq!(effective.rejected, []);
    assert_eq!(saf(&effective).retry_interval, Duration::from_secs(1));
    assert_eq!(saf(&effective).max_retries, MaxRetries::from_setting(1));
    let named: Vec<_> = effective.adjusted.iter().map(ToString::to_string).collect();
    assert_eq!(
        named,
        [
            "Writable/StoreAndForward/MaxRetryCount = '-2' (private configuration): a count below 0 is taken as 1",
            "Writable/StoreAndForward/RetryInterval = '10ms' (private configuration): a duration below 1s is taken \
             as 1s",
        ]
    );
}

#[test]
fn weakness_22_levels_in_lower_case_and_negative_telemetry_intervals_are_refused() {
    let effective = resolve(
        &private([(LEVEL, "debug"), ("Writable/Telemetry/Interval", "-1s")]),
        None,
    );
    assert_eq!(effective.configuration.writable.log_level, LogLevel::Info);
    assert_eq!(
        effective.configuration.writable.telemetry.interval,
        Some(Duration::from_secs(30))
    );
    let keys: Vec<_> = effective
        .rejected
        .iter()
        .map(|rejection| rejection.key.as_str())
        .collect();
    assert_eq!(keys, [LEVEL, "Writable/Telemetry/Interval"]);
}

#[test]
fn a_deleted_leaf_falls_back_and_an_empty_one_does_not() {
    let topics = "Trigger/PublishTopic";
    let mut layers = private([(INTERVAL, "30s"), (topics, "")]);
    layers.app_services = layer([(INTERVAL, "7m"), (topics, "common")]);
    let first = resolve(&layers, None);
    assert_eq!(first.configuration.trigger.publish_topic, "");
    layers.private = layer([]);
    let second = resolve(&layers, Some(&first));
    assert_eq!(saf(&second).retry_interval, Duration::from_secs(420));
    assert_eq!(second.configuration.trigger.publish_topic, "common");
}

#[test]
fn one_snapshot_changes_several_sections_together() {
    let mut layers = Layers::default();
    layers.load(Snapshot {
        app_services: Some(layer([(INTERVAL, "5m"), ("Trigger/Type", "http")])),
        private: Some(layer([(LEVEL, "INFO"), ("Service/Port", "59704")])),
        ..Snapshot::default()
    });
    let first = resolve(&layers, None);
    let vanished = layers.apply_snapshot(Snapshot {
        app_services: Some(layer([
            (INTERVAL, "1m"),
            ("Writable/StoreAndForward/MaxRetryCount", "3"),
        ])),
        private: Some(layer([(LEVEL, "DEBUG"), ("Service/Port", "1")])),
        ..Snapshot::default()
    });
    assert_eq!(vanished, []);
    let second = resolve(&layers, Some(&first));
    let changed: Vec<_> = diff(&first, &second).iter().map(ToString::to_string).collect();
    assert_eq!(
        changed,
        [
            "Writable/LogLevel has changed from 'INFO' to 'DEBUG'",
            "Writable/StoreAndForward/MaxRetryCount has changed from '10' to '3'",
            "Writable/StoreAndForward/RetryInterval has changed from '5m' to '1m'",
        ]
    );
    assert_eq!(
        second.configuration.service.port, 59_704,
        "only Writable is taken from a snapshot"
    );
}

#[test]
fn a_secret_without_a_name_is_refused_and_the_others_stay() {
    let path = |rest: &str| format!("{INSECURE_SECRETS}{rest}");
    let mut layers = Layers::default();
    for (rest, text) in [
        ("a/SecretName", "a"),
        ("a/SecretData/k", "1"),
        ("b/SecretData/k", "2"),
    ] {
        layers.private.insert(path(rest), text);
    }
    let first = resolve(&layers, None);
    let secrets = &first.configuration.writable.insecure_secrets;
    assert_eq!(secrets.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(first.rejected.len(), 1);
    assert_eq!(first.rejected[0].key, "Writable/InsecureSecrets/b");
    assert_eq!(first.rejected[0].reason, "it has no SecretName");

    // The name goes, the value changes: half a secret must not hold, the last good one stays whole.
    layers.private.remove(&path("a/SecretName"));
    layers.private.insert(path("a/SecretData/k"), "changed");
    let second = resolve(&layers, Some(&first));
    assert_eq!(second.configuration.writable.insecure_secrets["a"], secrets["a"]);
    // The entry goes as a whole.
    layers.private.remove(&path("a/SecretData/k"));
    let third = resolve(&layers, Some(&second));
    assert!(third.configuration.writable.insecure_secrets.is_empty());
}

#[test]
fn secrets_are_overlaid_across_layers_and_fall_back_as_a_whole() {
    let name = "Writable/InsecureSecrets/DB/SecretName";
    let password = "Writable/InsecureSecrets/DB/SecretData/password";
    let mut layers = private([(password, "mine")]);
    layers.all_services = layer([(name, "redisdb"), (password, "")]);
    let exposed = |effective: &Effective| {
        effective.configuration.writable.insecure_secrets["DB"].data["password"]
            .expose()
            .to_owned()
    };
    assert_eq!(exposed(&resolve(&layers, None)), "mine");
    layers.private.insert(name, "");
    let effective = resolve(&layers, None);
    assert_eq!(
        exposed(&effective),
        "",
        "the private layer is left out as a whole"
    );
    assert_eq!(effective.rejected.len(), 1);
}

#[test]
fn a_key_that_is_leaf_and_folder_is_refused_alone() {
    let effective = resolve(
        &private([
            ("Writable/Pipeline", "x"),
            ("Writable/Pipeline/ExecutionOrder", "A, B"),
            (LEVEL, "WARN"),
            ("Writable/LogLevel/Sub", "y"),
            ("ApplicationSettings", ""),
        ]),
        None,
    );
    let keys: Vec<_> = effective
        .rejected
        .iter()
        .map(|rejection| rejection.key.as_str())
        .collect();
    assert_eq!(keys, ["Writable/LogLevel/Sub", "Writable/Pipeline"]);
    assert_eq!(
        effective.configuration.writable.pipeline.execution_order,
        ["A", "B"]
    );
    assert_eq!(effective.configuration.writable.log_level, LogLevel::Warn);
}

#[test]
fn unknown_keys_are_listed_with_what_they_resemble() {
    let effective = resolve(
        &private([("writable/loglevel", "INFO"), ("Custom/Thing", "1")]),
        None,
    );
    let unknown: Vec<_> = effective
        .unknown
        .iter()
        .map(|u| (u.key.as_str(), u.similar.as_deref()))
        .collect();
    assert_eq!(
        unknown,
        [("Custom/Thing", None), ("writable/loglevel", Some(LEVEL))]
    );
    assert_eq!(effective.rejected, []);
}

#[test]
fn a_difference_names_a_secret_and_hides_it() {
    let name = ("Writable/InsecureSecrets/x/SecretName", "x");
    let password = "Writable/InsecureSecrets/x/SecretData/password";
    let old = resolve(&private([name, (password, "one")]), None);
    let new = resolve(
        &private([name, (password, "two"), ("Writable/Telemetry/Tags/Site", "A")]),
        None,
    );
    let changes = diff(&old, &new);
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[0].key, password);
    assert_eq!(
        (changes[0].old.as_deref(), changes[0].new.as_deref()),
        (Some(REDACTED), Some(REDACTED))
    );
    assert_eq!(changes[0].to_string(), format!("{password} has changed"));
    assert_eq!(changes[1].to_string(), "Writable/Telemetry/Tags/Site is now 'A'");
    assert!(!format!("{changes:?}").contains("two"));
    assert_eq!(diff(&new, &new), []);
}

#[test]
fn the_command_line_wins_over_everything() {
    let mut layers = private([
        ("Clients/core-metadata/Host", "edgex-core-metadata"),
        ("MessageBus/Host", "edgex-mqtt"),
    ]);
    layers.environment = layer([("MessageBus/Host", "from-environment")]);
    layers.set_dev_mode("10.0.0.7");
    let configuration = resolve(&layers, None).configuration;
    assert_eq!(configuration.message_bus.host, "localhost");
    assert_eq!(configuration.clients["core-metadata"].host, "localhost");
    assert_eq!(
        (
            configuration.service.host.as_str(),
            configuration.service.bind_host()
        ),
        ("10.0.0.7", "0.0.0.0")
    );
}

/// What the model below edits: a path, good texts, bad texts, the default.
type Edited = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    Option<&'static str>,
);

const EDITED: [Edited; 6] = [
    (INTERVAL, &["30s", "5m", "1h"], &["", "30", "soon"], Some("5m")),
    (LEVEL, &["INFO", "DEBUG"], &["", "info"], Some("INFO")),
    (
        "Writable/StoreAndForward/MaxItems",
        &["", "0x10", "7"],
        &["-1", "x"],
        Some("0"),
    ),
    (
        "Writable/StoreAndForward/RetryBatchBytes",
        &["1MiB", "2"],
        &["0", "", "x"],
        Some("4MiB"),
    ),
    ("Writable/Telemetry/Metrics/M", &["true", "", "0"], &["yes"], None),
    ("Service/Port", &["1", "65535"], &["65536", "-1"], Some("0")),
];

#[derive(Clone, Debug)]
enum Edit {
    Set(usize, usize, String),
    Delete(usize, usize),
    /// A key that is no setting.
    Noise(usize, String, String),
}

fn edits() -> impl Strategy<Value = Vec<Vec<Edit>>> {
    let text = |path: usize| {
        let all: Vec<&str> = EDITED[path].1.iter().chain(EDITED[path].2).copied().collect();
        prop::sample::select(all).prop_map(str::to_owned)
    };
    let edit = prop_oneof![
        4 => (0..4_usize, 0..EDITED.len()).prop_flat_map(move |(layer, path)| {
            text(path).prop_map(move |text| Edit::Set(layer, path, text))
        }),
        2 => (0..4_usize, 0..EDITED.len()).prop_map(|(layer, path)| Edit::Delete(layer, path)),
        1 => (0..4_usize, "(Writable|Service|Clients|MessageBus/Optional|Writable/InsecureSecrets|Writable/Pipeline/Functions)(/[A-Za-z<>]{0,4}){0,4}", "[ -~]{0,8}")
            .prop_map(|(layer, path, text)| Edit::Noise(layer, path, text)),
    ];
    prop::collection::vec(prop::collection::vec(edit, 1..6), 1..8)
}

fn layer_of(layers: &mut Layers, index: usize) -> &mut Layer {
    match index {
        0 => &mut layers.all_services,
        1 => &mut layers.app_services,
        2 => &mut layers.private,
        _ => &mut layers.environment,
    }
}

proptest! {
    /// Against a model that knows nothing of kinds: it is told which texts are good.
    #[test]
    fn any_edits_resolve_to_what_a_simple_model_says(turns in edits()) {
        let mut layers = Layers::default();
        let mut before: Option<Effective> = None;
        let mut holds: BTreeMap<&str, String> = BTreeMap::new();
        for turn in turns {
            for edit in turn {
                match edit {
                    Edit::Set(layer, path, text) => layer_of(&mut layers, layer).insert(EDITED[path].0, text),
                    Edit::Delete(layer, path) => _ = layer_of(&mut layers, layer).remove(EDITED[path].0),
                    Edit::Noise(layer, path, text) => layer_of(&mut layers, layer).insert(path, text),
                }
            }
            let mut next = BTreeMap::new();
            let mut rejections = 0;
            for (path, good, _, default) in EDITED {
                let mut held = default.map(str::to_owned);
                for index in (0..4).rev() {
                    let Some(text) = layer_of(&mut layers, index).get(path) else { continue };
                    if good.contains(&text) {
                        held = Some(text.to_owned());
                        break;
                    }
                    rejections += 1;
                    if let Some(last) = holds.get(path) {
                        held = Some(last.clone());
                        break;
                    }
                }
                if let Some(text) = held {
                    next.insert(path, text);
                }
            }
            let now = resolve(&layers, before.as_ref());
            let leaves = now.configuration.leaves();
            for (path, ..) in EDITED {
                prop_assert_eq!(leaves.get(path).map(Leaf::text), next.get(path).map(String::as_str), "{}", path);
            }
            let ours = now.rejected.iter().filter(|r| EDITED.iter().any(|(path, ..)| *path == r.key)).count();
            prop_assert_eq!(ours, rejections);
            // Whatever it is, it can be shown, and applying the difference is what was applied.
            now.configuration.to_json();
            if let Some(before) = &before {
                let changed: BTreeSet<_> = diff(before, &now).into_iter().map(|change| change.key).collect();
                for (path, ..) in EDITED {
                    prop_assert_eq!(changed.contains(path), holds.get(path) != next.get(path), "{}", path);
                }
            }
            before = Some(now);
            holds = next;
        }
    }

    /// A snapshot applied twice changes nothing the second time.
    #[test]
    fn applying_a_snapshot_is_idempotent(leaves in prop::collection::btree_map("Writable/[A-Z]{1,3}", "[a-z]{0,3}", 0..5)) {
        let snapshot = Snapshot { private: Some(leaves.into_iter().collect()), ..Snapshot::default() };
        let mut once = private([("Service/Port", "1"), ("Writable/Old", "x")]);
        let vanished = once.apply_snapshot(snapshot.clone());
        let mut twice = once.clone();
        prop_assert_eq!(twice.apply_snapshot(snapshot), vanished.clone());
        prop_assert_eq!(&twice, &once);
        prop_assert!(vanished.iter().all(|gone| gone.0 == Section::Private));
    }
}

#[test]
fn debug_shows_no_secret() {
    let private: Layer = [
        ("Writable/InsecureSecrets/a/SecretName", "a"),
        ("Writable/InsecureSecrets/a/SecretData/k", "m4rk"),
        ("Writable/InsecureSecrets/b/Wrong", "m4rk"),
        (
            "Writable/Pipeline/Functions/HTTPExport/Parameters/Url",
            "http://u:m4rk@h/?token=m4rk",
        ),
        (
            "Writable/Pipeline/Functions/HTTPExport/Parameters/HttpRequestHeaders",
            r#"{"X":"m4rk"}"#,
        ),
        ("Writable/StoreAndForward/RetryInterval", "http://u:m4rk@h"),
        ("MessageBus/Optional/Password", "m4rk"),
        ("Trigger/ExternalMqtt/Url", "tcp://u:m4rk@h:1"),
        ("Clients/c/Host", "u:m4rk@h"),
        ("ApplicationSettings/ApiToken", "m4rk"),
    ]
    .into_iter()
    .collect();
    let layers = Layers {
        private,
        ..Layers::default()
    };
    let effective = resolve(&layers, None);
    let configuration = &effective.configuration;
    let edits = [
        crate::Edit::set("MessageBus/Optional/Password", "m4rk"),
        crate::Edit {
            expected: Expected::Text("m4rk".to_owned()),
            ..crate::Edit::remove("MessageBus/Optional/Password")
        },
    ];
    for shown in [
        format!("{layers:?}"),
        format!("{effective:?}"),
        format!("{configuration:?}"),
        format!("{:?}", configuration.writable),
        format!("{:?}", configuration.message_bus),
        format!("{:?}", configuration.trigger),
        format!("{:?}", configuration.clients),
        format!("{:?}", configuration.leaves().get("MessageBus/Optional/Password")),
        format!("{edits:?}"),
    ] {
        assert!(!shown.contains("m4rk"), "{shown}");
    }
}
