use super::*;
use crate::{REDACTED, Snapshot, resolve};

fn variables<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect()
}

fn layers() -> Layers {
    let leaf = |path: &str| (path.to_owned(), "x".to_owned());
    Layers {
        app_services: [leaf("Clients/core-metadata/Host")].into_iter().collect(),
        private: [
            leaf("Writable/Pipeline/Functions/HTTPExport/Parameters/Url"),
            leaf("Writable/Pipeline/Functions/HTTPExport2/Parameters/Url"),
            leaf("Writable/InsecureSecrets/mqtt/SecretName"),
            leaf("Writable/InsecureSecrets/mqtt/SecretData/password"),
            leaf("Writable/Pipeline/PerTopicPipelines/int8-16/Topics"),
            leaf("Custom/Setting-One"),
        ]
        .into_iter()
        .collect(),
        ..Layers::default()
    }
}

#[track_caller]
fn check(variable: &str, text: &str, path: &str) {
    let environment = overrides(&variables([(variable, text)]), &layers()).unwrap();
    assert_eq!(
        environment.layer,
        [(path, text)].into_iter().collect(),
        "{variable}"
    );
    assert_eq!(environment.applied.len(), 1);
    assert_eq!(environment.without_effect, [""; 0]);
}

#[test]
fn a_variable_finds_its_setting() {
    check(
        "WRITABLE_STOREANDFORWARD_ENABLED",
        "true",
        "Writable/StoreAndForward/Enabled",
    );
    check(
        "WRITABLE_STOREANDFORWARD_JOURNAL",
        "always",
        "Writable/StoreAndForward/Journal",
    );
    check("SERVICE_HOST", "edgex-app", "Service/Host");
    check(
        "SERVICE_CORSCONFIGURATION_ENABLECORS",
        "true",
        "Service/CORSConfiguration/EnableCORS",
    );
    check(
        "TRIGGER_EXTERNALMQTT_WILL_QOS",
        "1",
        "Trigger/ExternalMqtt/Will/Qos",
    );
    check("MAXINFLIGHTBYTES", "1MiB", "MaxInFlightBytes");
    check(
        "MESSAGEBUS_OPTIONAL_CLEANSESSION",
        "false",
        "MessageBus/Optional/CleanSession",
    );
    check(
        "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL",
        "http://h",
        "Writable/Pipeline/Functions/HTTPExport/Parameters/Url",
    );
    check(
        "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT2_PARAMETERS_URL",
        "http://h",
        "Writable/Pipeline/Functions/HTTPExport2/Parameters/Url",
    );
}

/// EdgeX overrides what the private file has, and nothing else.
#[test]
fn every_setting_of_the_schema_can_be_overridden_although_no_file_has_it() {
    for setting in schema::settings().filter(|setting| !setting.is_pattern()) {
        let a_word = match setting.kind {
            Kind::OneOf { words, .. } => words[0],
            _ => "",
        };
        let text = setting.default.unwrap_or(a_word);
        let named = variables([(&variable_name(setting.path), text)]);
        let environment = overrides(&named, &Layers::default()).unwrap();
        assert_eq!(
            environment.layer.get(setting.path),
            Some(text),
            "{}",
            setting.path
        );
    }
}

#[test]
fn below_a_map_what_is_there_is_found_and_what_belongs_to_it() {
    check("CLIENTS_CORE_METADATA_HOST", "h", "Clients/core-metadata/Host");
    check("CLIENTS_CORE_METADATA_PORT", "1", "Clients/core-metadata/Port");
    check(
        "WRITABLE_PIPELINE_PERTOPICPIPELINES_INT8_16_EXECUTIONORDER",
        "A",
        "Writable/Pipeline/PerTopicPipelines/int8-16/ExecutionOrder",
    );
    check(
        "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT2_PARAMETERS_PERSISTONERROR",
        "true",
        "Writable/Pipeline/Functions/HTTPExport2/Parameters/persistonerror",
    );
    check("CUSTOM_SETTING_ONE", "y", "Custom/Setting-One");
}

#[test]
fn what_finds_no_setting_is_told_when_it_looks_like_one() {
    let environment = overrides(
        &variables([
            ("CLIENTS_CORE_COMMAND_HOST", "h"),
            ("CLIENTS_CORE-METADATA_HOST", "h"),
            ("WRITABLE_STOREANDFORWARD_ENABLE", "true"),
            ("CLIENTS_SECURITY_SECRETSTORE_SETUP_HOST", "h"),
            ("PATH", "/bin"),
            ("SERVICES", "x"),
        ]),
        &layers(),
    )
    .unwrap();
    assert!(environment.layer.is_empty());
    assert_eq!(
        environment.without_effect,
        [
            "CLIENTS_CORE-METADATA_HOST",
            "CLIENTS_CORE_COMMAND_HOST",
            "WRITABLE_STOREANDFORWARD_ENABLE"
        ]
    );
}

#[test]
fn all_values_that_cannot_be_used_are_named_at_once_and_secrets_are_not() {
    let error = overrides(
        &variables([
            ("SERVICE_PORT", "tcp://10.0.0.1:80"),
            ("MESSAGEBUS_DISABLED", "maybe"),
            ("SERVICE_HOST", "ok"),
        ]),
        &layers(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment variables cannot be used: MESSAGEBUS_DISABLED='maybe' for MessageBus/Disabled: it is neither \
         true nor false; SERVICE_PORT='tcp://10.0.0.1:80' for Service/Port: it is not a whole number"
    );
    let secret = variables([("WRITABLE_INSECURESECRETS_MQTT_SECRETDATA_PASSWORD", "topsecret")]);
    let environment = overrides(&secret, &layers()).unwrap();
    assert_eq!(environment.applied[0].value, REDACTED);
    assert_eq!(
        environment
            .layer
            .get("Writable/InsecureSecrets/mqtt/SecretData/password"),
        Some("topsecret")
    );
}

#[test]
fn paths_that_share_a_name_are_all_set_and_listed() {
    let mut layers = layers();
    layers.private.insert("Writable/Telemetry/Tags/site-a", "x");
    layers.private.insert("Writable/Telemetry/Tags/Site_A", "x");
    let environment = overrides(&variables([("WRITABLE_TELEMETRY_TAGS_SITE_A", "y")]), &layers).unwrap();
    assert_eq!(
        environment.applied[0].paths,
        ["Writable/Telemetry/Tags/Site_A", "Writable/Telemetry/Tags/site-a"]
    );
    assert_eq!(environment.layer.len(), 2);
}

#[test]
fn a_seed_has_the_overrides_and_no_marks_of_empty_folders() {
    let private: Layer = [
        ("Service/Port", "1"),
        ("ApplicationSettings", ""),
        ("Writable/Pipeline/Functions/X/Parameters", ""),
        ("Trigger/PublishTopic", ""),
    ]
    .into_iter()
    .collect();
    let environment: Layer = [("Service/Port", "2"), ("Service/Host", "h")]
        .into_iter()
        .collect();
    assert_eq!(
        seed(&private, &environment),
        [
            ("Service/Host", "h"),
            ("Service/Port", "2"),
            ("Trigger/PublishTopic", "")
        ]
        .into_iter()
        .collect()
    );
}

#[test]
fn an_override_that_lost_against_the_provider_is_found_by_value() {
    let interval = "Writable/StoreAndForward/RetryInterval";
    let mut layers = Layers::default();
    layers.load(Snapshot {
        private: Some(
            [
                (interval, "60s"),
                ("Writable/LogLevel", "INFO"),
                ("Service/Port", "0x10"),
            ]
            .into_iter()
            .collect(),
        ),
        ..Snapshot::default()
    });
    let effective = resolve(&layers, None);
    let environment: Layer = [
        (interval, "1m"),
        ("Writable/LogLevel", "DEBUG"),
        ("Service/Port", "16"),
        ("Writable/InsecureSecrets/x/SecretData/k", "topsecret"),
    ]
    .into_iter()
    .collect();
    let differences = differing_overrides(&environment, &effective);
    let found: Vec<_> = differences
        .iter()
        .map(|d| (d.path.as_str(), d.environment.as_str(), d.effective.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("Writable/InsecureSecrets/x/SecretData/k", REDACTED, None),
            ("Writable/LogLevel", "DEBUG", Some("INFO")),
        ]
    );
}
