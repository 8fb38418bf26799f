//! The weaknesses of the original that must not exist here, by their numbers in the contract (configuration §12). What a
//! test is named after is shown where it is sharpest: beside the code that decides, or end to end.
//!
//! | # | what the original does | shown by |
//! | --- | --- | --- |
//! | 1 | acts on the first change of an event alone | `settings`, `edgehold::live` |
//! | 2 | ignores changes of all-services | here |
//! | 3 | lets a common change undo private values | `store_and_forward` |
//! | 4 | does not fall back when a private key is deleted | `settings` |
//! | 5 | reloads all pipelines at any change it does not know | `edgehold::live`, here |
//! | 6 | loses the topic prefix of a pipeline at a reload | here; without prefix: `external_mqtt` |
//! | 7 | cannot add or remove pipelines | `settings` |
//! | 8 | empties all pipelines at a broken edit, and then the store | `settings` |
//! | 9 | swallows every change after an interval that it cannot read | `settings` |
//! | 10 | swallows every change after a negative MaxRetryCount | here |
//! | 11 | crashes when Store and Forward is switched off after it could not be switched on | here |
//! | 12 | crashes at a failed export when Store and Forward could not be switched on | here |
//! | 13 | does nothing else while a store is opened | here |
//! | 14 | drops an update for one value that it cannot read | here, `edgehold-config` |
//! | 15 | changes settings while pipelines read them | here |
//! | 16 | misses changes while it is disconnected, or without a message bus | `settings`, `keeper`, here |
//! | 17 | compares keys as parts of texts | here |
//! | 18 | takes expired tokens | waits: secure mode of EdgeX 4 |
//! | 19 | shows secrets in `/config` and the log | `secrets`, `shell` |
//! | 20 | picks one of two secrets of one name at random | `shell`, `edgehold-config` |
//! | 21 | does not notice secrets that are changed in the secret store | waits: secure mode |
//! | 22 | crashes at a negative Telemetry.Interval | `edgehold-config` |
//! | 23 | takes a half-seeded configuration for a whole one | `settings` |
//! | 24 | ignores the environment after the first start without a word | here |
//! | 25 | takes `-cp URL` for something else, and exits 0 at a bad flag | `shell` |
//! | 26 | is registered before it serves, and after it has failed | here |
//! | 27 | ends in the middle of requests | `http_trigger`, `edgehold-api` |
//! | 28 | takes bodies of any size | `http_trigger`, `edgehold-api` |
//! | 29 | does not count what comes by the HTTP trigger | `telemetry` |
//! | 30 | counts objects as stored that are not | `telemetry` |
//! | 31 | forgets `-rsh` and `-d` at a reload | here |
//! | 32 | freezes the metrics of exports at a reload | `telemetry` |
//! | 33 | gives up when the bus is not there at start | `faults` |

use std::fs;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures::{self, Generation};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Behaviour, Consul};
use serde_json::Value;

use crate::support::{
    COMMON, PRIVATE, SERVICE_KEY, Service, Stack, event_id, exported_id, refusing, wait_accepted,
};

const INTERVAL: &str = "Writable/StoreAndForward/RetryInterval";

#[tokio::test]
async fn weakness_02_a_change_of_all_services_acts() -> Result<()> {
    let stack = Stack::start(&[]).await?;
    let common = |path: &str| format!("{COMMON}all-services/Writable/{path}");
    let keys = [
        (common("Telemetry/Interval"), "45s"),
        (common("Telemetry/Tags/Site"), "everywhere"),
    ];
    stack.consul.txn(&keys).await?;
    stack
        .service
        .wait_config("/Writable/Telemetry/Interval", "45s")
        .await;
    let site = stack.service.config("/Writable/Telemetry/Tags/Site").await?;
    assert_eq!(site, "everywhere");
    Ok(())
}

/// A batch in progress is what a needless reload loses.
#[tokio::test]
async fn weakness_05_a_batch_in_progress_outlives_changes_beside_it() -> Result<()> {
    let batch = "Pipeline/Functions/Batch/Parameters";
    let mut stack = Stack::start(&[]).await?;
    stack
        .set(&[
            (&format!("{batch}/Mode"), "bycount"),
            (&format!("{batch}/BatchThreshold"), "3"),
            ("Pipeline/ExecutionOrder", "Transform, Batch, HTTPExport"),
        ])
        .await?;
    let order = "/Writable/Pipeline/ExecutionOrder";
    stack
        .service
        .wait_config(order, "Transform, Batch, HTTPExport")
        .await;
    stack.publish(1..=2).await?;
    stack
        .service
        .wait_stats("two to be batched", |stats| {
            stats.books("batched") + stats.books("inBatch") >= 2
        })
        .await;

    let before = stack.service.process().line_count();
    stack
        .set(&[
            ("Telemetry/Metrics/MessagesReceived", "true"),
            ("Telemetry/Tags/Gateway", "one"),
            ("InsecureSecrets/new/SecretName", "new"),
            ("LogLevel", "DEBUG"),
        ])
        .await?;
    stack.service.wait_config("/Writable/LogLevel", "DEBUG").await;
    stack.publish(3..=3).await?;
    let request = stack.sink.wait_for(1, LONG).await.remove(0);
    let mut ids = Vec::new();
    for item in request.json().as_array().context("a batch is a list")? {
        let item = base64_simd::STANDARD.decode_to_vec(item.as_str().context("of base64")?)?;
        let event: Value = serde_json::from_slice(&item)?;
        ids.push(event["id"].as_str().context("an event has an id")?.to_owned());
    }
    ids.sort();
    assert_eq!(ids, [1, 2, 3].map(event_id));
    let lines = stack.service.process().lines();
    let reloads = lines[before..]
        .iter()
        .filter(|line| line.contains("successfully reloaded"));
    assert_eq!(reloads.count(), 0);
    Ok(())
}

#[tokio::test]
async fn weakness_06_changed_topics_have_the_prefix_too() -> Result<()> {
    // Given a pipeline for other topics than those that come.
    let stack = Stack::start(&[]).await?;
    let second = "Pipeline/PerTopicPipelines/second";
    let url = stack.sink.url("/second");
    stack
        .set(&[
            ("Pipeline/Functions/HTTPExport2/Parameters/Url", &url),
            (&format!("{second}/Id"), "second"),
            (&format!("{second}/Topics"), "events/device/+/+/Other-Device/#"),
            (&format!("{second}/ExecutionOrder"), "Transform, HTTPExport2"),
        ])
        .await?;
    let pointer = "/Writable/Pipeline/PerTopicPipelines/second/Topics";
    stack
        .service
        .wait_config(pointer, "events/device/+/+/Other-Device/#")
        .await;
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;

    // When its topics change to those, then it runs.
    let topics = "events/device/+/+/Test-Device/#";
    stack.set(&[(&format!("{second}/Topics"), topics)]).await?;
    stack.service.wait_config(pointer, topics).await;
    stack.publish(2..=2).await?;
    let by_second = stack
        .sink
        .wait_for_request("the second pipeline", LONG, |request| request.target == "/second");
    assert_eq!(exported_id(&by_second.await), Some(event_id(2)));
    Ok(())
}

#[tokio::test]
async fn weakness_10_a_negative_maximum_swallows_no_later_change() -> Result<()> {
    let stack = Stack::start_storing(&[("StoreAndForward/MaxRetryCount", "-3")]).await?;
    let maximum = "/Writable/StoreAndForward/MaxRetryCount";
    stack.service.wait_config(maximum, 1).await;
    stack.set(&[("LogLevel", "DEBUG")]).await?;
    stack.service.wait_config("/Writable/LogLevel", "DEBUG").await;
    stack.set(&[("StoreAndForward/MaxRetryCount", "8")]).await?;
    stack.service.wait_config(maximum, 8).await;
    Ok(())
}

/// A service whose store cannot be opened, although Store and Forward has been switched on. Removing the folder mends it.
async fn without_a_store() -> Result<(Stack, std::path::PathBuf)> {
    let mut stack = Stack::new(&[]).await?;
    let in_the_way = stack.service.data_dir().join(format!("{SERVICE_KEY}.db"));
    fs::create_dir(&in_the_way)?;
    stack.start_service().await?;
    stack.sink.behave(refusing());
    stack
        .set(&[
            ("StoreAndForward/Enabled", "true"),
            ("StoreAndForward/RetryInterval", "1s"),
            ("Pipeline/Functions/HTTPExport/Parameters/PersistOnError", "true"),
        ])
        .await?;
    stack.service.wait_error(0, "has no store").await;
    Ok((stack, in_the_way))
}

#[tokio::test]
async fn weakness_11_switching_off_what_could_not_be_switched_on_is_harmless() -> Result<()> {
    let (mut stack, in_the_way) = without_a_store().await?;
    stack.set(&[("StoreAndForward/Enabled", "false")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/Enabled", false)
        .await;
    assert!(stack.service.process().is_running()?);

    // And on again it works as soon as it can.
    fs::remove_dir(in_the_way)?;
    stack.set(&[("StoreAndForward/Enabled", "true")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/Enabled", true)
        .await;
    stack.publish(1..=1).await?;
    stack
        .service
        .wait_stats("the event to be stored", |stats| stats.store("failed") == 1)
        .await;
    Ok(())
}

#[tokio::test]
async fn weakness_12_an_export_that_fails_without_a_store_is_named_and_the_store_is_tried_again() -> Result<()>
{
    let (mut stack, in_the_way) = without_a_store().await?;
    stack.publish(1..=1).await?;
    stack
        .service
        .wait_stats("it to be dropped by name", |stats| stats.books("dropped") == 1)
        .await;
    assert!(stack.service.process().is_running()?);

    // Nobody has to change a setting for the next attempt.
    fs::remove_dir(in_the_way)?;
    stack
        .service
        .process()
        .wait_for_line("Store and Forward keeps its data", LONG)
        .await;
    stack.publish(2..=2).await?;
    stack
        .service
        .wait_stats("the second to be stored", |stats| stats.store("failed") == 1)
        .await;
    stack.sink.behave(Behaviour::status(200));
    wait_accepted(&stack.sink, 2..=2).await;
    Ok(())
}

#[tokio::test]
async fn weakness_13_a_store_that_cannot_be_opened_holds_up_neither_settings_nor_the_end() -> Result<()> {
    let (mut stack, _in_the_way) = without_a_store().await?;
    for level in ["DEBUG", "WARN", "INFO"] {
        stack.set(&[("LogLevel", level)]).await?;
        stack.service.wait_config("/Writable/LogLevel", level).await;
    }
    stack.sink.behave(Behaviour::status(200));
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;
    stack.service.stop().await
}

#[tokio::test]
async fn weakness_14_a_value_that_cannot_be_read_stops_neither_a_start_nor_an_update() -> Result<()> {
    // Given values in every layer that are none.
    let mut stack = Stack::new(&[
        (
            "all-services/Writable/Telemetry/Metrics/SecuritySecretsStored",
            "maybe",
        ),
        ("app-services/Writable/StoreAndForward/RetryInterval", "soon"),
    ])
    .await?;
    stack.start_service().await?;

    // Then the service runs, with the next lower values, and says which are none.
    let rejected = |body: &Value| -> Vec<(String, String)> {
        let rejected = body["rejected"].as_array().into_iter().flatten();
        let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
        rejected
            .map(|one| (text(one, "key"), text(one, "value")))
            .collect()
    };
    let body: Value = stack.service.get("/api/v3/config").await?.succeeded()?.json()?;
    let metric = "Writable/Telemetry/Metrics/SecuritySecretsStored";
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(rejected(&body), [pair(INTERVAL, "soon"), pair(metric, "maybe")]);
    assert_eq!(
        body["config"]["Writable"]["StoreAndForward"]["RetryInterval"],
        "5m"
    );

    // And an update with another such value acts in all the rest.
    stack
        .set(&[
            ("Telemetry/Interval", "often"),
            ("Telemetry/Tags/Site", "a"),
            ("LogLevel", "WARN"),
        ])
        .await?;
    stack.service.wait_config("/Writable/LogLevel", "WARN").await;
    let body: Value = stack.service.get("/api/v3/config").await?.succeeded()?.json()?;
    assert_eq!(body["config"]["Writable"]["Telemetry"]["Tags"]["Site"], "a");
    assert_eq!(body["config"]["Writable"]["Telemetry"]["Interval"], "30s");
    assert!(rejected(&body).contains(&pair("Writable/Telemetry/Interval", "often")));
    // Which is nothing that a restart would mend.
    assert_eq!(stack.service.get("/readyz").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn weakness_15_nobody_ever_sees_half_an_update() -> Result<()> {
    const UPDATES: u64 = 60;
    let stack = Stack::start(&[]).await?;
    let write = async {
        for number in 1..=UPDATES {
            let (count, interval) = (number.to_string(), format!("{number}s"));
            stack
                .set(&[
                    ("StoreAndForward/MaxRetryCount", &count),
                    ("StoreAndForward/RetryInterval", &interval),
                ])
                .await?;
        }
        anyhow::Ok(())
    };
    let read = async {
        let mut seen = 0;
        loop {
            let saf = stack.service.config("/Writable/StoreAndForward").await?;
            let number = saf["MaxRetryCount"].as_u64().unwrap_or_default();
            if saf["RetryInterval"] != "5m" {
                ensure!(saf["RetryInterval"] == format!("{number}s"), "half of it: {saf}");
                seen += 1;
            }
            if number == UPDATES {
                return Ok(seen);
            }
        }
    };
    let (written, seen) = tokio::join!(write, tokio::time::timeout(LONG, read));
    written?;
    assert!(seen?? > 0);
    Ok(())
}

#[tokio::test]
async fn weakness_16_a_service_without_a_message_bus_follows_its_settings() -> Result<()> {
    // Given the stock profile that does without.
    let stack = Stack::new(&[]).await?;
    let config = fixtures::path(Generation::V3, "config");
    let mut service = Service::new()?
        .flag(&format!("-cp=consul.http://127.0.0.1:{}", stack.consul.port()))
        .flag(&format!("-cd={}", config.display()))
        .flag("-p=functional-tests");
    service.start().await?;
    assert_eq!(service.config("/MessageBus/Disabled").await?, true);

    stack
        .consul
        .put("edgex/v3/app-functional-tests/Writable/LogLevel", "WARN")
        .await?;
    service.wait_config("/Writable/LogLevel", "WARN").await;
    service.stop().await
}

#[tokio::test]
async fn weakness_17_a_key_that_contains_another_is_another_key() -> Result<()> {
    let stack = Stack::start(&[]).await?;
    let private = [
        (format!("{PRIVATE}Nobodys/{INTERVAL}"), "1h"),
        (format!("{PRIVATE}{INTERVAL}s"), "1h"),
        (format!("{PRIVATE}Writable/Telemetry/Tags/RetryInterval"), "1h"),
    ];
    stack.consul.txn(&private).await?;
    stack
        .service
        .wait_config("/Writable/Telemetry/Tags/RetryInterval", "1h")
        .await;
    let common = format!("{COMMON}app-services/{INTERVAL}");
    stack.consul.put(&common, "9m").await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/RetryInterval", "9m")
        .await;
    Ok(())
}

#[tokio::test]
async fn weakness_24_an_environment_that_no_longer_counts_is_named() -> Result<()> {
    // Given a configuration that has been seeded.
    let mut stack = Stack::start(&[]).await?;
    stack.service.stop().await?;

    // When the environment changes afterwards, then what the provider holds counts, and that is said.
    stack.service.set_env("WRITABLE_LOGLEVEL", "DEBUG");
    stack.start_service().await?;
    let line = stack
        .service
        .process()
        .wait_for_line("an environment override has no effect", LONG)
        .await;
    assert!(
        line.contains("level=WARN") && line.contains("Writable/LogLevel"),
        "{line}"
    );
    assert!(
        line.contains("'INFO' instead of 'DEBUG'") && line.contains("--overwrite"),
        "{line}"
    );
    assert_eq!(stack.service.config("/Writable/LogLevel").await?, "INFO");

    // And with -o it counts.
    stack.service.stop().await?;
    stack.service = stack.service.flag("-o");
    stack.start_service().await?;
    assert_eq!(stack.service.config("/Writable/LogLevel").await?, "DEBUG");
    let stored = stack.consul.get(&format!("{PRIVATE}Writable/LogLevel")).await?;
    assert_eq!(stored.as_deref(), Some(&b"DEBUG"[..]));
    Ok(())
}

#[tokio::test]
async fn weakness_26_what_cannot_serve_is_not_registered() -> Result<()> {
    // Given a port that somebody else has.
    let mut stack = Stack::new(&[]).await?;
    let taken = std::net::TcpListener::bind(("localhost", 0))?;
    let port = taken.local_addr()?.port().to_string();
    stack.service.set_env("SERVICE_PORT", &port);

    // When the service ends for that, then the registry has never heard of it.
    stack.service.spawn()?;
    let status = stack.service.process().wait_exit(LONG).await;
    assert_eq!(status.code(), Some(255));
    assert!(stack.consul.services().await?.get(SERVICE_KEY).is_none());
    Ok(())
}

#[tokio::test]
async fn weakness_31_hosts_of_the_command_line_outlive_a_change() -> Result<()> {
    // Given core services elsewhere than the configuration says.
    let mut stack = Stack::new(&[("all-services/MessageBus/Host", "nowhere.invalid")]).await?;
    stack.service = stack.service.flag("-rsh=127.0.0.1,127.0.0.1,127.0.0.1");
    stack.start_service().await?;

    stack.set(&[("LogLevel", "DEBUG")]).await?;
    stack.service.wait_config("/Writable/LogLevel", "DEBUG").await;
    for pointer in [
        "/MessageBus/Host",
        "/Clients/core-metadata/Host",
        "/Service/ServerBindAddr",
    ] {
        assert_eq!(stack.service.config(pointer).await?, "127.0.0.1", "{pointer}");
    }
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;
    Ok(())
}

/// The common configuration is not complete before its last key says so.
#[tokio::test]
async fn a_common_configuration_that_is_not_ready_is_waited_for() -> Result<()> {
    let mut stack = Stack::new(&[]).await?;
    let ready = format!("{COMMON}IsCommonConfigReady");
    stack.consul.put(&ready, "false").await?;
    stack.service.spawn()?;
    stack
        .service
        .process()
        .wait_for_line("waiting for the common configuration", LONG)
        .await;
    assert!(
        seeded(&stack.consul).await?.is_empty(),
        "nothing is written before"
    );

    stack.consul.put(&ready, "true").await?;
    stack.service.wait_ready().await?;
    wait::until("the seeded configuration", LONG, async || {
        ensure!(!seeded(&stack.consul).await?.is_empty());
        Ok(())
    })
    .await;
    Ok(())
}

async fn seeded(consul: &Consul) -> Result<Vec<String>> {
    let keys = consul.list(PRIVATE).await?;
    Ok(keys.into_iter().map(|(key, _)| key).collect())
}
