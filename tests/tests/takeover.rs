//! Taking over: the configuration that a stack of EdgeX 3 had in its Consul, or one of EdgeX 4 in its Core Keeper, when it
//! was recorded, found there by a service with the original's flags. It holds the same, and nothing of it is changed or
//! deleted.
//!
//! What has to hold is read off the recording itself, key by key: the highest of the three layers, and where none has a key
//! that the original shows, its empty value. Differences are those of the README: secrets are not shown.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use edgehold_test_support::fixtures::{self, Generation};
use edgehold_test_support::wait::LONG;
use edgehold_test_support::{Consul, Keeper, http};
use serde_json::Value;

use crate::keeper::recorded_keys;
use crate::support::{COMMON, PRIVATE, Service, broker};

#[tokio::test]
async fn what_lives_in_consul_is_taken_over_with_the_same_effective_values() -> Result<()> {
    // Given the recorded keys of the whole stack, with the places of this test's servers.
    let (mut broker, consul) = tokio::join!(broker(), Consul::start());
    let (broker, consul) = (
        broker.as_mut().map_err(|error| anyhow::anyhow!("{error:#}"))?,
        consul?,
    );
    let mut service = Service::new()?;
    let places = [
        (format!("{PRIVATE}Service/Port"), service.port().to_string()),
        (
            format!("{COMMON}all-services/MessageBus/Port"),
            broker.port().to_string(),
        ),
        (
            format!("{COMMON}all-services/Registry/Port"),
            consul.port().to_string(),
        ),
    ];
    let mut keys = BTreeMap::new();
    for (key, value) in fixtures::consul_export()? {
        keys.insert(key, String::from_utf8(value.to_vec())?);
    }
    for (key, place) in places {
        *keys.get_mut(&key).with_context(|| format!("{key} is recorded"))? = place;
    }
    consul.put_all(&Vec::from_iter(&keys)).await?;

    // When a service starts with what app-service-configurable is started with.
    let config = fixtures::path(Generation::V3, "config");
    service = service
        .flag(&format!("-cp=consul.http://127.0.0.1:{}", consul.port()))
        .flag("--registry")
        .flag(&format!("-cd={}", config.display()))
        .env("EDGEX_PROFILE", "http-export");
    service.start().await?;

    // Then it holds what the keys say.
    holds(
        &service,
        Generation::V3,
        &keys,
        [
            &format!("{COMMON}all-services/"),
            &format!("{COMMON}app-services/"),
            PRIVATE,
        ],
    )
    .await?;

    // And it registers, takes part in the bus, ends, and has left everything as it was.
    broker.process().wait_for_line(" edgex/events/#", LONG).await;
    service.stop().await?;
    let mut after = BTreeMap::new();
    for (key, value) in consul.list("edgex/").await? {
        after.insert(key, String::from_utf8(value.to_vec())?);
    }
    assert_eq!(after, keys);
    Ok(())
}

/// What a service shows is what the keys below these folders say, lowest first, with nothing missing and nothing added.
async fn holds(
    service: &Service,
    generation: Generation,
    keys: &BTreeMap<String, String>,
    folders: [&str; 3],
) -> Result<()> {
    let body: Value = http::get(service.port(), "/api/v3/config")
        .await?
        .succeeded()?
        .json()?;
    assert_eq!(body.get("rejected"), None);
    let mut shown = BTreeMap::new();
    flatten(&body["config"], "", &mut shown);
    let mut wanted = empty_values(generation)?;
    for folder in folders {
        for (key, value) in keys {
            if let Some(path) = key.strip_prefix(folder) {
                wanted.insert(path.to_owned(), value.clone());
            }
        }
    }
    for (path, value) in &mut wanted {
        if path.contains("/SecretData/") {
            *value = "<redacted>".to_owned();
        }
    }
    assert_eq!(shown, wanted);
    Ok(())
}

#[tokio::test]
async fn what_lives_in_keeper_is_taken_over_with_the_same_effective_values() -> Result<()> {
    // Given the recorded keys of the whole stack, with the places of this test's servers.
    let mut broker = broker().await?;
    let keeper = Keeper::with_mqtt(broker.port()).await?;
    let mut service = Service::new()?;
    let mut keys = recorded_keys()?;
    let common = "edgex/v4/core-common-config-bootstrapper";
    let private = "edgex/v4/app-http-export/";
    for (key, place) in [
        (format!("{private}Service/Port"), service.port()),
        (format!("{common}/all-services/MessageBus/Port"), broker.port()),
        (format!("{common}/all-services/Registry/Port"), keeper.port()),
    ] {
        *keys.get_mut(&key).with_context(|| format!("{key} is recorded"))? = place.to_string();
    }
    for (key, value) in &keys {
        keeper.put(key, value).await?;
    }

    // When a service starts with what app-service-configurable is started with.
    let config = fixtures::path(Generation::V4, "config");
    service = service
        .flag(&format!("-cp=keeper.http://127.0.0.1:{}", keeper.port()))
        .flag("--registry")
        .flag(&format!("-cd={}", config.display()))
        .env("EDGEX_PROFILE", "http-export");
    service.start().await?;

    // Then it holds what the keys say, registers, takes part in the bus, ends, and has left everything as it was.
    let sections = ["all-services", "app-services"].map(|section| format!("{common}/{section}/"));
    holds(
        &service,
        Generation::V4,
        &keys,
        [&sections[0], &sections[1], private],
    )
    .await?;
    broker.process().wait_for_line(" edgex/events/#", LONG).await;
    service.stop().await?;
    assert_eq!(BTreeMap::from_iter(keeper.list("edgex")), keys);
    assert_eq!(keeper.services()[0]["status"], "HALT");
    Ok(())
}

/// The settings that the original shows whether they are configured or not, with the values they then have: what it
/// answered for another service of the same stack, without what that was configured to.
fn empty_values(generation: Generation) -> Result<BTreeMap<String, String>> {
    let recorded = fixtures::read(generation, "rest/config.response")?;
    let text = String::from_utf8_lossy(&recorded);
    let (_, body) = text
        .split_once("\r\n\r\n")
        .context("a recorded answer has a body")?;
    let body = &body[body.find('{').context("which is JSON")?..=body.rfind('}').context("which is JSON")?];
    let body: Value = serde_json::from_str(body)?;
    let mut empty = BTreeMap::new();
    flatten(&body["config"], "", &mut empty);
    // Maps hold what is configured.
    let maps = [
        "Writable/InsecureSecrets/",
        "Writable/Pipeline/Functions/",
        "Writable/Pipeline/PerTopicPipelines/",
        "Writable/Telemetry/Metrics/",
        "MessageBus/Optional/",
    ];
    empty.retain(|path, _| !maps.iter().any(|map| path.starts_with(map)));
    for value in empty.values_mut() {
        *value = match value.as_str() {
            "true" | "false" => "false",
            number if number.parse::<f64>().is_ok() => "0",
            _ => "",
        }
        .to_owned();
    }
    Ok(empty)
}

/// All leaves as text, as Consul has them; maps with nothing in them are nothing.
fn flatten(value: &Value, path: &str, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                let separator = if path.is_empty() { "" } else { "/" };
                flatten(value, &format!("{path}{separator}{key}"), into);
            }
        }
        Value::String(text) => _ = into.insert(path.to_owned(), text.clone()),
        other => _ = into.insert(path.to_owned(), other.to_string()),
    }
}
