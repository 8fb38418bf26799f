//! Settings while the service runs: what is written to Consul acts without a restart, together, and never harms what runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures;
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Behaviour, MqttPublisher, Qos};
use serde_json::Value;

use crate::support::{
    COMMON, DURABLE, PRIVATE, Stack, Stats, TOPIC, accepted, each, envelope, event, event_id, exported_id,
    refusing, sent, wait_accepted,
};

const URL: &str = "Pipeline/Functions/HTTPExport/Parameters/Url";

#[tokio::test]
async fn weakness_01_several_keys_of_one_transaction_all_take_effect() -> Result<()> {
    // Given a running service.
    let mut stack = Stack::start(&[]).await?;
    let url = stack.sink.url("/moved");

    // When a transaction touches the level, Store and Forward, the pipeline and a secret.
    stack
        .set(&[
            ("LogLevel", "DEBUG"),
            ("StoreAndForward/Enabled", "true"),
            ("StoreAndForward/RetryInterval", "7s"),
            ("StoreAndForward/MaxRetryCount", "5"),
            (
                "InsecureSecrets/http/SecretData/headervalue",
                "from-the-transaction",
            ),
            ("Pipeline/Functions/HTTPExport/Parameters/HeaderName", "X-Secret"),
            ("Pipeline/Functions/HTTPExport/Parameters/SecretName", "http"),
            (
                "Pipeline/Functions/HTTPExport/Parameters/SecretValueKey",
                "headervalue",
            ),
            ("Pipeline/Functions/HTTPExport/Parameters/PersistOnError", "true"),
            (URL, &url),
        ])
        .await?;

    // Then the first to be seen brings all the others with it.
    stack.service.wait_config("/Writable/LogLevel", "DEBUG").await;
    let saf = stack.service.config("/Writable/StoreAndForward").await?;
    assert_eq!(
        (&saf["Enabled"], &saf["RetryInterval"], &saf["MaxRetryCount"]),
        (&true.into(), &"7s".into(), &5.into())
    );
    stack.sink.behave(refusing());
    stack.publish(1..=1).await?;
    stack
        .service
        .wait_stats("the event to be stored", |stats| stats.store("failed") == 1)
        .await;
    stack.service.process().wait_for_line("level=DEBUG", LONG).await;
    let request = stack.sink.requests().remove(0);
    assert_eq!(
        (request.target.as_str(), request.header("X-Secret")),
        ("/moved", Some("from-the-transaction"))
    );
    Ok(())
}

#[tokio::test]
async fn weakness_09_a_bad_value_keeps_its_last_good_one_and_blocks_nothing_else() -> Result<()> {
    // Given an interval that was set while running.
    let mut stack = Stack::start(&[]).await?;
    stack.set(&[("StoreAndForward/RetryInterval", "30s")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/RetryInterval", "30s")
        .await;

    // When a bad one comes with a good maximum in one transaction.
    stack
        .set(&[
            ("StoreAndForward/RetryInterval", "soon"),
            ("StoreAndForward/MaxRetryCount", "4"),
        ])
        .await?;

    // Then the maximum acts, the interval stays, and the log names key and value.
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxRetryCount", 4)
        .await;
    assert_eq!(
        stack
            .service
            .config("/Writable/StoreAndForward/RetryInterval")
            .await?,
        "30s"
    );
    let line = stack.service.wait_error(0, "soon").await;
    assert!(line.contains("Writable/StoreAndForward/RetryInterval"), "{line}");
    let body: Value = stack.service.get("/api/v3/config").await?.succeeded()?.json()?;
    let rejected = &body["rejected"][0];
    assert_eq!(
        (&rejected["key"], &rejected["value"]),
        (&"Writable/StoreAndForward/RetryInterval".into(), &"soon".into()),
        "{body}"
    );

    // And a good one acts again.
    stack.set(&[("StoreAndForward/RetryInterval", "20s")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/RetryInterval", "20s")
        .await;
    Ok(())
}

#[tokio::test]
async fn weakness_08_a_broken_pipeline_edit_leaves_pipeline_and_backlog_alone() -> Result<()> {
    // Given a backlog that is retried every second.
    let mut stack = Stack::start(DURABLE).await?;
    let often = ("StoreAndForward/RetryInterval", "1s");
    stack
        .store_and_forward(&[often, ("StoreAndForward/MaxRetryCount", "0")])
        .await?;
    stack.sink.behave(refusing());
    stack.publish(1..=3).await?;
    stack
        .service
        .wait_stats("three objects to wait", |stats| stats.store("failed") == 3)
        .await;

    // When edits name a function that does not exist, and give one a parameter that it cannot take.
    let edits = [
        (
            "Pipeline/ExecutionOrder",
            "NoSuchFunction, HTTPExport",
            "NoSuchFunction",
        ),
        (
            "Pipeline/Functions/HTTPExport/Parameters/Method",
            "carry",
            "carry",
        ),
    ];
    for (path, value, named) in edits {
        let before = stack.service.process().line_count();
        let good = stack
            .consul
            .get(&format!("{PRIVATE}Writable/{path}"))
            .await?
            .context("it was seeded")?;
        stack.set(&[(path, value)]).await?;

        // Then it is named, what runs is shown in its place, and the backlog is retried as before.
        stack.service.wait_error(before, named).await;
        let pointer = format!("/Writable/{path}");
        assert_eq!(stack.service.config(&pointer).await?, std::str::from_utf8(&good)?);
        retried_twice(&stack).await;
        let stats = stack.service.stats().await?;
        assert_eq!((stats.store("failed"), stats.store("error")), (3, 0), "{stats:?}");
        stack.set(&[(path, std::str::from_utf8(&good)?)]).await?;
    }

    // And everything leaves by the pipeline that was there all the time.
    stack.sink.behave(Behaviour::status(200));
    stack.publish(4..=4).await?;
    wait_accepted(&stack.sink, 1..=4).await;
    stack
        .service
        .wait_stats("the store to be empty", |stats| stats.store("waiting") == 0)
        .await;
    assert_eq!(accepted(&stack.sink), each(1..=4, 1));
    Ok(())
}

/// Waits until each of the events 1 to 3 has been sent twice more than by now.
async fn retried_twice(stack: &Stack) {
    let before = sent(&stack.sink);
    wait::until("the backlog to be retried twice", LONG, async || {
        let now = sent(&stack.sink);
        (1..=3)
            .map(event_id)
            .all(|id| now.get(&id) >= before.get(&id).map(|times| times + 2).as_ref())
    })
    .await;
}

#[tokio::test]
async fn a_corrected_url_takes_the_backlog_along() -> Result<()> {
    // Given objects that wait because the URL leads nowhere.
    let stack = Stack::start_storing(&[
        ("StoreAndForward/RetryInterval", "1s"),
        (URL, "http://127.0.0.1:1/"),
    ])
    .await?;
    stack.publish(1..=3).await?;
    stack
        .service
        .wait_stats("three objects to wait", |stats| stats.store("failed") == 3)
        .await;

    // When it is corrected, then they arrive.
    stack.set(&[(URL, &stack.sink.url("/export"))]).await?;
    wait_accepted(&stack.sink, 1..=3).await;
    assert_eq!(accepted(&stack.sink), each(1..=3, 1));
    Ok(())
}

#[tokio::test]
async fn weakness_07_a_pipeline_is_added_and_removed_while_events_flow() -> Result<()> {
    // Given the default pipeline alone.
    let stack = Stack::start(&[]).await?;
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;

    // When a second one for one device's events comes.
    let second = "Pipeline/PerTopicPipelines/second";
    stack
        .set(&[
            (
                "Pipeline/Functions/HTTPExport2/Parameters/Url",
                &stack.sink.url("/second"),
            ),
            (&format!("{second}/Id"), "second-pipeline"),
            (&format!("{second}/Topics"), "events/device/+/+/Test-Device/#"),
            (&format!("{second}/ExecutionOrder"), "Transform, HTTPExport2"),
        ])
        .await?;
    stack
        .service
        .wait_config(
            "/Writable/Pipeline/PerTopicPipelines/second/Id",
            "second-pipeline",
        )
        .await;
    let other = "edgex/events/device/device-test/Test-Profile/Other-Device/Value";
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
    publisher
        .publish(other, envelope(&event(2)), Qos::AtLeastOnce)
        .await?;
    publisher
        .publish(TOPIC, envelope(&event(3)), Qos::AtLeastOnce)
        .await?;

    // Then both run for it, and the default one alone for the others.
    stack
        .service
        .wait_stats("four runs to be completed", |stats| stats.books("completed") == 4)
        .await;
    assert_eq!(ids_at(&stack, "/export"), [1, 2, 3].map(event_id));
    assert_eq!(ids_at(&stack, "/second"), [event_id(3)]);

    // And when it goes, it runs no more.
    stack
        .consul
        .delete_recurse(&format!("{PRIVATE}Writable/{second}/"))
        .await?;
    stack
        .service
        .wait_config("/Writable/Pipeline/PerTopicPipelines/second", Value::Null)
        .await;
    stack.publish(4..=4).await?;
    stack
        .service
        .wait_stats("five runs to be completed", |stats| stats.books("completed") == 5)
        .await;
    assert_eq!(ids_at(&stack, "/export"), [1, 2, 3, 4].map(event_id));
    assert_eq!(ids_at(&stack, "/second"), [event_id(3)]);
    Ok(())
}

fn ids_at(stack: &Stack, target: &str) -> Vec<String> {
    let requests = stack
        .sink
        .requests()
        .into_iter()
        .filter(|request| request.target == target);
    let mut ids: Vec<String> = requests.filter_map(|request| exported_id(&request)).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn the_log_level_acts_at_once_in_both_directions() -> Result<()> {
    // Given the stock level.
    let mut stack = Stack::start_storing(&[]).await?;
    stack.sink.behave(refusing());
    assert_eq!(stack.service.config("/Writable/LogLevel").await?, "INFO");
    assert!(!one_event(&mut stack, 1).await?.contains("level=DEBUG"));

    // When it becomes more and less talkative, then one failing export shows it.
    stack.set(&[("LogLevel", "DEBUG")]).await?;
    stack.service.wait_config("/Writable/LogLevel", "DEBUG").await;
    assert!(one_event(&mut stack, 2).await?.contains("level=DEBUG"));

    stack.set(&[("LogLevel", "ERROR")]).await?;
    stack.service.wait_config("/Writable/LogLevel", "ERROR").await;
    let lines = one_event(&mut stack, 3).await?;
    assert!(
        !lines.contains("level=DEBUG") && !lines.contains("level=WARN"),
        "{lines}"
    );

    // And a level that does not exist leaves it.
    stack.set(&[("LogLevel", "LOUD")]).await?;
    stack.service.process().wait_for_line("LOUD", LONG).await;
    assert_eq!(stack.service.config("/Writable/LogLevel").await?, "ERROR");
    Ok(())
}

/// Everything logged while one event is received, fails and is stored.
async fn one_event(stack: &mut Stack, number: u64) -> Result<String> {
    let before = stack.service.process().line_count();
    stack.publish(number..=number).await?;
    let stored = |stats: &Stats| stats.store("failed") == number;
    stack.service.wait_stats("the event to be stored", stored).await;
    // What cannot be decoded is an error at every level: its line is the end of those of the event.
    let marker = format!("edgex/events/marker-{number}");
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
    publisher.publish(&marker, b"", Qos::AtLeastOnce).await?;
    stack.service.wait_error(before, &marker).await;
    Ok(stack.service.process().lines()[before..].join("\n"))
}

#[tokio::test]
async fn weakness_04_a_deleted_key_falls_back_to_the_layer_below() -> Result<()> {
    // Given the same setting in all three layers.
    let stack = Stack::start(&[]).await?;
    let path = "Writable/StoreAndForward/RetryInterval";
    let pointer = "/Writable/StoreAndForward/RetryInterval";
    let layers = [
        (format!("{COMMON}all-services/{path}"), "11s"),
        (format!("{COMMON}app-services/{path}"), "12s"),
        (format!("{PRIVATE}{path}"), "13s"),
    ];
    stack.consul.txn(&layers).await?;
    stack.service.wait_config(pointer, "13s").await;

    // When one after the other is deleted, then the next one holds, and in the end the default.
    for ((key, _), below) in layers.iter().rev().zip(["12s", "11s", "5m"]) {
        stack.consul.delete(key).await?;
        stack.service.wait_config(pointer, below).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_changed_secret_is_in_the_next_header() -> Result<()> {
    // Given an export with a secret header.
    let stack = Stack::start(&[]).await?;
    let parameters = "Pipeline/Functions/HTTPExport/Parameters";
    let value = "InsecureSecrets/http/SecretData/headervalue";
    stack
        .set(&[
            (&format!("{parameters}/HeaderName"), "X-Secret"),
            (&format!("{parameters}/SecretName"), "http"),
            (&format!("{parameters}/SecretValueKey"), "headervalue"),
            (value, "first"),
        ])
        .await?;
    wait_for_header(&stack, 0, "first").await?;

    // When the secret changes, then the header does, without a restart.
    stack.set(&[(value, "second")]).await?;
    wait_for_header(&stack, 1000, "second").await
}

/// Publishes event after event until one comes with this header. Secrets are not shown by `/config`, so that only an
/// export can tell.
async fn wait_for_header(stack: &Stack, first: u64, wanted: &str) -> Result<()> {
    let mut number = first;
    wait::until("an export with the secret", LONG, async || {
        number += 1;
        stack.publish(number..=number).await?;
        let id = Some(event_id(number));
        let request = stack
            .sink
            .wait_for_request("the export", LONG, |request| exported_id(request) == id)
            .await;
        let header = request.header("X-Secret").map(str::to_owned);
        ensure!(header.as_deref() == Some(wanted), "the header is {header:?}");
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn weakness_16_changes_around_a_restart_of_consul_are_not_missed() -> Result<()> {
    // Given a running service with events flowing.
    let mut stack = Stack::start(&[]).await?;
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;

    // When Consul goes right after one change and comes back with another.
    stack.set(&[("StoreAndForward/MaxRetryCount", "21")]).await?;
    stack.consul.stop().await?;
    stack.publish(2..=2).await?;
    wait_accepted(&stack.sink, 2..=2).await;
    stack.consul.restart().await?;
    stack.set(&[("StoreAndForward/RetryInterval", "21s")]).await?;

    // Then both act, and so does the next one.
    stack
        .service
        .wait_config("/Writable/StoreAndForward/RetryInterval", "21s")
        .await;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxRetryCount", 21)
        .await;
    stack.set(&[("StoreAndForward/MaxRetryCount", "22")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxRetryCount", 22)
        .await;
    stack.publish(3..=3).await?;
    wait_accepted(&stack.sink, 3..=3).await;
    Ok(())
}

#[tokio::test]
async fn consul_may_start_after_the_service() -> Result<()> {
    // Given a service whose configuration provider is not there.
    let mut stack = Stack::new(&[]).await?;
    stack.consul.stop().await?;
    stack.service.spawn()?;
    stack
        .service
        .process()
        .wait_for_line("waiting for the configuration provider", LONG)
        .await;

    // When it comes, then the service starts.
    stack.consul.restart().await?;
    stack.service.wait_ready().await?;
    stack.broker.process().wait_for_line("/events/", LONG).await;
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;
    Ok(())
}

#[tokio::test]
async fn without_consul_the_service_gives_up_at_the_end_of_its_start_up_time() -> Result<()> {
    // Given a start-up time that is soon over.
    let mut stack = Stack::new(&[]).await?;
    stack.consul.stop().await?;
    stack.service = stack.service.env("EDGEX_STARTUP_DURATION", "2");

    // When the provider does not come, then it ends by name.
    stack.service.spawn()?;
    let status = stack.service.process().wait_exit(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(1));
    stack
        .service
        .process()
        .wait_for_line("EDGEX_STARTUP_DURATION", LONG)
        .await;
    Ok(())
}

#[tokio::test]
async fn weakness_23_seeding_writes_what_the_original_writes_and_keeps_what_an_operator_wrote() -> Result<()>
{
    // Given a first start.
    let mut stack = Stack::start(&[]).await?;
    let recorded = fixtures::consul_export()?;
    let recorded: Vec<_> = recorded
        .into_iter()
        .filter(|(key, _)| key.starts_with(PRIVATE))
        .collect();

    // Then it has written the leaves of the profile's file, as the original does, with ours overridden.
    let seeded = stack.consul.list(PRIVATE).await?;
    let keys = |entries: &[(String, _)]| entries.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&seeded), keys(&recorded));
    for ((key, value), (_, recorded)) in seeded.iter().zip(&recorded) {
        let value = std::str::from_utf8(value)?;
        match key.strip_prefix(PRIVATE).context("it was listed by its prefix")? {
            "Service/Port" => assert_eq!(value, stack.service.port().to_string()),
            path if path == format!("Writable/{URL}") => assert_eq!(value, stack.sink.url("/export")),
            _ => assert_eq!(value.as_bytes(), recorded, "{key}"),
        }
    }

    // When an operator changes a key, adds one and deletes one, and the service is started again.
    let changed = format!("{PRIVATE}Writable/LogLevel");
    let added = format!("{PRIVATE}Writable/StoreAndForward/RetryInterval");
    let deleted = format!("{PRIVATE}Writable/Pipeline/Functions/Compress/Parameters/Algorithm");
    stack.consul.txn(&[(&changed, "WARN"), (&added, "17s")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/RetryInterval", "17s")
        .await;
    stack.service.stop().await?;
    stack.consul.delete(&deleted).await?;
    stack.start_service().await?;

    // Then only what was missing has been written.
    assert_eq!(stack.consul.get(&changed).await?.as_deref(), Some(&b"WARN"[..]));
    assert_eq!(stack.consul.get(&added).await?.as_deref(), Some(&b"17s"[..]));
    assert_eq!(stack.consul.get(&deleted).await?.as_deref(), Some(&b"gzip"[..]));
    assert_eq!(stack.service.config("/Writable/LogLevel").await?, "WARN");
    Ok(())
}
