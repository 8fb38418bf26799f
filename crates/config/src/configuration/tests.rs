use std::{collections::BTreeSet, fs, num::NonZeroUsize, path::PathBuf};

use edgehold_core::{
    SecretText, TargetType,
    retry::{MaxRetries, OnPipelineChange},
};
use serde_json::Value as Json;

use super::*;
use crate::{Effective, Layer, REDACTED, diff, file, resolve, schema, yaml};

const PROFILES: [&str; 7] = [
    "external-mqtt-trigger",
    "functional-tests",
    "http-export",
    "metrics-influxdb",
    "mqtt-export",
    "rules-engine",
    "sample",
];

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(name)
}

fn json(name: &str) -> Json {
    serde_json::from_str(&fs::read_to_string(testdata(name)).unwrap()).unwrap()
}

fn from_files(generation: &str, common: &str, profile: &str) -> Layers {
    let common = file::read_common(testdata(&format!("{generation}/{common}.yaml"))).unwrap();
    let private = file::read_private(testdata(&format!("{generation}/{profile}.yaml"))).unwrap();
    Layers {
        all_services: common.all_services.layer,
        app_services: common.app_services.layer,
        private: private.layer,
        ..Layers::default()
    }
}

/// What a provider held right after the stack came up, by key below its stem.
fn from_recorded_provider(generation: &str) -> Layers {
    let dump = json(&format!("{generation}/kv-export.json"));
    let section = |prefix: &str| -> Layer {
        let prefix = format!("edgex/{generation}/{prefix}/");
        let leaves = dump.as_object().unwrap().iter();
        leaves
            .filter_map(|(key, text)| Some((key.strip_prefix(&prefix)?, text.as_str().unwrap())))
            .collect()
    };
    Layers {
        all_services: section("core-common-config-bootstrapper/all-services"),
        app_services: section("core-common-config-bootstrapper/app-services"),
        private: section("app-http-export"),
        ..Layers::default()
    }
}

fn private<const N: usize>(leaves: [(&str, &str); N]) -> Effective {
    resolve(
        &Layers {
            private: leaves.into_iter().collect(),
            ..Layers::default()
        },
        None,
    )
}

/// Contract, messages §8: EdgeX's documentation has false and 30 s.
#[test]
fn options_of_the_bus_have_the_defaults_of_the_source() {
    let bus = Configuration::default().message_bus;
    // Whoever makes the connection decides: true, as the source has it, unless Store and Forward is on.
    assert_eq!(bus.clean_session(), None);
    assert_eq!(bus.connect_timeout(), Duration::from_secs(5));
}

#[test]
fn every_shipped_file_is_understood_to_the_last_key() {
    for generation in ["v3", "v4"] {
        for common in ["core-common-config-bootstrapper", "common-as-recorded"] {
            for profile in PROFILES {
                let effective = resolve(&from_files(generation, common, profile), None);
                let what = format!("{generation} {common} {profile}");
                assert_eq!(effective.rejected, [], "{what}");
                assert_eq!(effective.adjusted, [], "{what}");
                assert_eq!(effective.unknown, [], "{what}");
            }
        }
    }
}

#[test]
fn what_a_provider_was_seeded_with_is_what_the_files_say() {
    for generation in ["v3", "v4"] {
        let files = resolve(&from_files(generation, "common-as-recorded", "http-export"), None);
        let provider = resolve(&from_recorded_provider(generation), None);
        assert_eq!(provider.rejected, []);
        // The stacks were started with these variables set, and with nothing else changed.
        let expected: &[_] = match generation {
            "v3" => &["Writable/Pipeline/Functions/HTTPExport/Parameters/Url"],
            _ => &[
                "Service/Port",
                "Writable/Pipeline/Functions/HTTPExport/Parameters/Url",
            ],
        };
        let changes = diff(&files, &provider);
        let keys: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, expected, "{generation}: {changes:?}");
    }
}

/// Whether a profile is read from its files or has been seeded into a provider: the same holds, for the same reason.
#[test]
fn every_profile_holds_the_same_from_files_and_from_a_provider_that_was_seeded_with_them() {
    for generation in ["v3", "v4"] {
        for common in ["core-common-config-bootstrapper", "common-as-recorded"] {
            for profile in PROFILES {
                let files = from_files(generation, common, profile);
                let seeded = Layers {
                    private: crate::environment::seed(&files.private, &Layer::default()),
                    ..files.clone()
                };
                let (files, seeded) = (resolve(&files, None), resolve(&seeded, None));
                assert_eq!(seeded.rejected, [], "{generation} {common} {profile}");
                assert_eq!(
                    seeded.configuration, files.configuration,
                    "{generation} {common} {profile}"
                );
            }
        }
    }
}

/// Without the code that resolves: the highest of three layers has a setting's text, and nothing else changes it.
#[test]
fn every_leaf_of_every_profile_has_the_text_of_the_highest_file_that_has_it() {
    for generation in ["v3", "v4"] {
        for profile in PROFILES {
            let layers = from_files(generation, "core-common-config-bootstrapper", profile);
            let configuration = resolve(&layers, None).configuration;
            let mut highest = BTreeMap::new();
            for layer in [&layers.all_services, &layers.app_services, &layers.private] {
                highest.extend(layer.iter());
            }
            for (path, text) in highest {
                // A folder that is there and empty.
                if let Some(leaf) = configuration.leaves().get(path) {
                    assert_eq!(leaf.text(), text, "{generation} {profile} {path}");
                } else {
                    assert_eq!(text, "", "{generation} {profile} {path}");
                }
            }
        }
    }
}

#[test]
fn a_profile_becomes_types() {
    let effective = resolve(
        &from_files("v3", "core-common-config-bootstrapper", "sample"),
        None,
    );
    let configuration = &effective.configuration;
    let pipeline = &configuration.writable.pipeline;
    assert_eq!(pipeline.target_type, TargetType::Event);
    assert_eq!(pipeline.execution_order.len(), 5);
    assert_eq!(pipeline.execution_order[1], "FilterByDeviceName");
    assert_eq!(
        pipeline.per_topic["int8-16"],
        PerTopicPipeline {
            id: "int8-16-pipeline".to_owned(),
            topics: vec![
                "events/device/device-virtual/+/+/Int8".to_owned(),
                "events/device/device-virtual/+/+/Int16".to_owned(),
            ],
            execution_order: vec!["TransformXml".to_owned(), "SetResponseData".to_owned()],
        }
    );
    assert_eq!(
        pipeline.functions["Compress"],
        BTreeMap::from([("Algorithm".to_owned(), "gzip".to_owned())])
    );
    assert_eq!(
        configuration.writable.insecure_secrets["DB"].secret_name,
        "redisdb"
    );
    assert_eq!(
        configuration.writable.insecure_secrets["mqtt"].data["username"],
        SecretText::new("")
    );
    assert_eq!(
        configuration.writable.telemetry.interval,
        Some(Duration::from_secs(30))
    );
    assert_eq!(
        configuration.writable.telemetry.metrics.get("HttpExportSize"),
        Some(&false)
    );
    assert_eq!(configuration.service.port, 59_700);
    assert_eq!(configuration.service.bind_host(), "localhost");
    assert_eq!(configuration.message_bus.kind, "redis");
    assert_eq!(configuration.message_bus.client_id(), Some("app-sample"));
    assert_eq!(configuration.message_bus.qos(), Some(0));
    assert_eq!(configuration.message_bus.keep_alive(), Duration::from_secs(10));
    assert_eq!(configuration.message_bus.clean_session(), None);
    assert_eq!(configuration.message_bus.optional["Subject"], "edgex/#");
    assert_eq!(configuration.trigger.subscribe_topics, ["events/#"]);
    assert_eq!(configuration.trigger.publish_topic, "sample");
    assert_eq!(configuration.database.kind, "redisdb");
    assert_eq!(configuration.clients["core-metadata"].port, 59_881);
    assert_eq!(configuration.clients["core-metadata"].host, "localhost");

    let effective = resolve(
        &from_files("v4", "core-common-config-bootstrapper", "external-mqtt-trigger"),
        None,
    );
    let external = &effective.configuration.trigger.external_mqtt;
    assert_eq!(effective.configuration.trigger.kind, "external-mqtt");
    assert_eq!(external.url, "tcp://localhost:1883");
    assert_eq!(external.connect_timeout, Duration::from_secs(5));
    assert_eq!((external.retry_duration, external.clean_session), (None, None));
    assert_eq!(external.keep_alive, Some(Duration::from_secs(10)));
    assert_eq!(external.will, None);
    assert!(external.auto_reconnect && external.retain);
    assert_eq!(effective.configuration.writable.telemetry.interval, None);
}

#[test]
fn defaults_are_those_of_the_design_and_of_the_common_configuration() {
    let configuration = Configuration::default();
    assert_eq!(
        configuration.writable.store_and_forward,
        StoreAndForward {
            enabled: false,
            retry_interval: Duration::from_secs(300),
            max_retries: MaxRetries::from_setting(10),
            journal: Journal::Auto,
            journal_delay: Duration::from_millis(5),
            backoff: Backoff::Fixed,
            max_retry_interval: Duration::from_secs(3_600),
            breaker: true,
            retry_concurrency: NonZeroUsize::new(64).unwrap(),
            retry_rate: None,
            fresh_share: 0.5,
            retry_batch_size: NonZeroUsize::new(256).unwrap(),
            retry_batch_bytes: 4 << 20,
            ordering: Ordering::None,
            max_age: None,
            max_items: None,
            max_bytes: None,
            when_full: WhenFull::Block,
            on_pipeline_change: OnPipelineChange::DeadLetter,
            dead_letter_retention: Some(Duration::from_secs(168 * 3_600)),
            dead_letter_max_items: None,
            history_retention: None,
        }
    );
    assert_eq!(
        configuration.limits,
        Limits {
            max_in_flight_bytes: 16 << 20,
            spool_max_bytes: 256 << 20,
            max_message_bytes: 64 << 20
        }
    );
    assert_eq!(configuration.writable.pipeline.concurrency.get(), 64);
    assert_eq!(configuration.writable.log_level, LogLevel::Info);
    assert_eq!(configuration.database.kind, "sqlite");
    assert_eq!(configuration.message_bus.base_topic_prefix, "edgex");
    assert_eq!(configuration.service.request_timeout, Duration::from_secs(5));
    // What the common configurations of both generations agree on is the default here.
    let of = |generation| {
        resolve(
            &from_files(generation, "core-common-config-bootstrapper", "rules-engine"),
            None,
        )
    };
    let (three, four) = (of("v3").configuration, of("v4").configuration);
    for setting in schema::settings().filter(|setting| setting.default.is_some()) {
        let text = |configuration: &Configuration| {
            let leaf = configuration.leaves().get(setting.path)?;
            (leaf.origin() != crate::Origin::Private).then(|| leaf.text().to_owned())
        };
        if let (Some(three), Some(four)) = (text(&three), text(&four))
            && three == four
            // Where these are is a matter of the stack, not a default.
            && !["Registry/Host", "Database/Host", "MessageBus/Host"].contains(&setting.path)
        {
            assert_eq!(setting.default, Some(three.as_str()), "{}", setting.path);
        }
    }
}

#[test]
fn every_setting_takes_its_extreme_values() {
    for setting in schema::settings() {
        let path: Vec<_> = setting
            .path
            .split('/')
            .map(|s| if s.starts_with('<') { "x" } else { s })
            .collect();
        let texts = match setting.kind {
            schema::Kind::Int { min, max } => vec![min.to_string(), max.to_string()],
            schema::Kind::RetryCount => vec![i64::MIN.to_string(), i64::MAX.to_string()],
            schema::Kind::Bytes { min, max } => vec![min.to_string(), max.to_string()],
            schema::Kind::Number { min, max } => vec![min.to_string(), max.to_string()],
            schema::Kind::Duration { floor, .. } => vec![
                floor.max(crate::duration::GoDuration::from_nanos(1)).to_string(),
                "2562047h".to_owned(),
            ],
            schema::Kind::OneOf { words, .. } => words.iter().map(|word| (*word).to_owned()).collect(),
            schema::Kind::Bool => vec!["true".to_owned(), String::new()],
            schema::Kind::Text | schema::Kind::Secret => vec![String::new(), "\u{0}\u{1F600}".to_owned()],
        };
        for text in texts {
            let path = path.join("/");
            let mut private = Layer::default();
            private.insert(&path, &text);
            let effective = resolve(
                &Layers {
                    private,
                    ..Layers::default()
                },
                None,
            );
            // Half a secret is refused; that is another test's subject.
            if !path.starts_with("Writable/InsecureSecrets/") {
                assert_eq!(effective.rejected, [], "{path} = {text}");
                assert_eq!(effective.configuration.leaves().get(&path).unwrap().text(), text);
            }
        }
    }
}

#[test]
fn words_and_numbers_become_types() {
    let effective = private([
        ("Writable/StoreAndForward/Journal", "Always"),
        ("Writable/StoreAndForward/Backoff", "exponential"),
        ("Writable/StoreAndForward/Breaker", "off"),
        ("Writable/StoreAndForward/Ordering", "device"),
        ("Writable/StoreAndForward/WhenFull", "drop-oldest"),
        ("Writable/StoreAndForward/OnPipelineChange", "discard"),
        ("Writable/StoreAndForward/MaxRetryCount", "0"),
        ("Writable/StoreAndForward/RetryRate", "2.5"),
        ("Writable/StoreAndForward/MaxItems", "0x10"),
        ("Writable/StoreAndForward/MaxAge", "24h"),
        ("Writable/LogLevel", "WARN"),
        ("Writable/Pipeline/TargetType", " RAW "),
        ("Service/MaxRequestSize", "2"),
        ("MessageBus/Optional/CleanSession", "false"),
        ("MessageBus/Optional/KeepAlive", "0"),
        ("MessageBus/BaseTopicPrefix", ""),
        ("Trigger/SubscribeTopics", " a/# ,, b/+ "),
        ("Trigger/ExternalMqtt/Will/Enabled", "true"),
        ("Trigger/ExternalMqtt/Will/Topic", "gone"),
    ]);
    assert_eq!(effective.rejected, []);
    let configuration = &effective.configuration;
    let saf = &configuration.writable.store_and_forward;
    assert_eq!(
        (saf.journal, saf.backoff, saf.breaker),
        (Journal::Always, Backoff::Exponential, false)
    );
    assert_eq!(
        (saf.ordering, saf.when_full),
        (Ordering::Device, WhenFull::DropOldest)
    );
    assert_eq!(saf.on_pipeline_change, OnPipelineChange::Discard);
    assert_eq!(saf.max_retries, MaxRetries::Unlimited);
    assert_eq!(saf.retry_rate, Some(2.5));
    assert_eq!(saf.max_items.map(std::num::NonZero::get), Some(16));
    assert_eq!(saf.max_age, Some(Duration::from_secs(86_400)));
    assert_eq!(configuration.writable.log_level, LogLevel::Warn);
    assert_eq!(configuration.writable.pipeline.target_type, TargetType::Raw);
    assert_eq!(configuration.service.max_request_bytes, Some(2_048));
    assert_eq!(configuration.message_bus.clean_session(), Some(false));
    assert_eq!(configuration.message_bus.keep_alive(), Duration::ZERO);
    assert_eq!(configuration.message_bus.base_topic_prefix, "edgex");
    assert_eq!(configuration.trigger.subscribe_topics, ["a/#", "b/+"]);
    assert_eq!(
        configuration.trigger.external_mqtt.will.as_ref().unwrap().topic,
        "gone"
    );
}

#[test]
fn parameter_names_have_no_case_and_the_highest_layer_wins() {
    let url = |name: &str| format!("Writable/Pipeline/Functions/HTTPExport/Parameters/{name}");
    let layers = Layers {
        app_services: [(url("url"), "low"), (url("Method"), "post")]
            .into_iter()
            .collect(),
        private: [(url("Url"), "high")].into_iter().collect(),
        ..Layers::default()
    };
    let functions = &resolve(&layers, None).configuration.writable.pipeline.functions;
    let expected = [
        ("Method".to_owned(), "post".to_owned()),
        ("Url".to_owned(), "high".to_owned()),
    ];
    assert_eq!(functions["HTTPExport"], BTreeMap::from(expected));
}

#[test]
fn a_function_without_parameters_exists() {
    for marker in [
        "Writable/Pipeline/Functions/ToLineProtocol",
        "Writable/Pipeline/Functions/ToLineProtocol/Parameters",
    ] {
        let effective = private([(marker, "")]);
        assert_eq!(effective.rejected, []);
        assert!(effective.configuration.writable.pipeline.functions["ToLineProtocol"].is_empty());
    }
}

/// The paths of all values, with the case of parameter names taken away: EdgeX lowers it, we keep it.
fn paths(json: &Json) -> BTreeSet<String> {
    fn walk(json: &Json, path: &str, into: &mut BTreeSet<String>) {
        match json.as_object() {
            Some(map) => map
                .iter()
                .for_each(|(key, value)| walk(value, &format!("{path}/{key}"), into)),
            None => _ = into.insert(path.to_owned()),
        }
    }
    let mut all = BTreeSet::new();
    walk(json, "", &mut all);
    all
}

#[test]
fn the_json_of_a_recorded_configuration_is_the_recorded_json() {
    for generation in ["v3", "v4"] {
        let mut recorded = json(&format!("{generation}/config-response.json"))["config"].take();
        // JSON is YAML: the recorded configuration serves as the private file.
        let private = yaml::parse(&recorded.to_string()).unwrap();
        let effective = resolve(
            &Layers {
                private,
                ..Layers::default()
            },
            None,
        );
        assert_eq!(effective.rejected, []);
        assert_eq!(effective.unknown, []);
        let shown = effective.configuration.to_json();
        for secret in recorded["Writable"]["InsecureSecrets"]
            .as_object_mut()
            .unwrap()
            .values_mut()
        {
            for value in secret["SecretData"].as_object_mut().unwrap().values_mut() {
                *value = REDACTED.into();
            }
        }
        for client in recorded["Clients"].as_object_mut().unwrap().values_mut() {
            // EdgeX 4 shows null where there are none; we show nothing.
            if client["SecurityOptions"].is_null() {
                client.as_object_mut().unwrap().remove("SecurityOptions");
            }
        }
        assert_eq!(paths(&shown), paths(&recorded));
        assert_eq!(shown, recorded);
    }
}

#[test]
fn the_json_hides_secrets_and_shows_our_settings_where_they_are_set() {
    let json = Configuration::default().to_json();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "ApplicationSettings",
            "Clients",
            "Database",
            "HttpServer",
            "MessageBus",
            "Registry",
            "Service",
            "Trigger",
            "Writable"
        ]
    );
    assert!(json["Writable"]["StoreAndForward"].get("Journal").is_none());

    let effective = private([
        ("Writable/StoreAndForward/Journal", "always"),
        ("Writable/InsecureSecrets/x/SecretName", "x"),
        ("Writable/InsecureSecrets/x/SecretData/password", "topsecret"),
        (
            "Writable/Pipeline/Functions/HTTPExport/Parameters/Url",
            "http://user:topsecret@host/path",
        ),
        ("MessageBus/Optional/Password", "topsecret"),
        ("Writable/Pipeline/Functions/Plain/Parameters", ""),
    ]);
    let json = effective.configuration.to_json();
    assert_eq!(json["Writable"]["StoreAndForward"]["Journal"], "always");
    assert_eq!(json["Writable"]["InsecureSecrets"]["x"]["SecretName"], "x");
    assert_eq!(
        json["Writable"]["Pipeline"]["Functions"]["Plain"]["Parameters"],
        serde_json::json!({})
    );
    assert!(!json.to_string().contains("topsecret"), "{json}");
    assert!(!format!("{:?}", effective.configuration.writable.insecure_secrets).contains("topsecret"));
}
