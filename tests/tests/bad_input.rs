//! Bad input: each message is an error by name, counted, set aside and acknowledged; the good event behind it leaves.

use anyhow::{Context, Result};
use edgehold_test_support::fixtures::{self, Generation};
use edgehold_test_support::wait::LONG;
use edgehold_test_support::{Behaviour, MqttPublisher, Qos};
use serde_json::{Value, json};

use crate::support::{Stack, accepted, each, envelope, event, event_id, event_of, refusing, wait_accepted};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn each_kind_is_named_and_counted_and_the_good_event_behind_it_leaves() -> Result<()> {
    // Given a persistent session, a destination that is on, and everything storable stored.
    let mut stack = Stack::start_storing(&[]).await?;
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
    let messages = bad_messages()?;

    for ((name, message), number) in messages.iter().zip(1_u64..) {
        // When a bad message comes before a good event.
        let topic = format!("edgex/events/device/{name}");
        publisher.publish(&topic, message, Qos::AtLeastOnce).await?;
        stack.publish(number..=number).await?;

        // Then it is counted, and named in the log with its topic.
        wait_accepted(&stack.sink, number..=number).await;
        stack
            .service
            .wait_stats(&format!("{name} to be set aside"), |stats| {
                stats.books("undecodable") == number && stats.store("error") == number
            })
            .await;
        let line = stack.service.process().wait_for_line(&topic, LONG).await;
        assert!(
            line.contains("level=ERROR") && line.contains("unable to decode message: "),
            "{name}: {line}"
        );
    }

    // And nothing else was disturbed: one export for each good event, nothing waits, the broker has nothing left.
    let good = u64::try_from(messages.len())?;
    let stats = stack.service.stats().await?;
    assert_eq!(accepted(&stack.sink), each(1..=good, 1));
    assert_eq!(
        (stats.books("completed"), stats.store("waiting")),
        (good, 0),
        "{stats:?}"
    );
    nothing_is_delivered_again(&mut stack, good + 1).await
}

/// Messages that no event can be made of, by name.
fn bad_messages() -> Result<Vec<(String, Vec<u8>)>> {
    let with = |changes: Value| {
        let mut envelope: Value = serde_json::from_slice(&envelope(&event(0)))?;
        let changes = changes.as_object().context("changes are an object")?.clone();
        envelope
            .as_object_mut()
            .context("an envelope is an object")?
            .extend(changes);
        Ok::<_, anyhow::Error>(envelope.to_string().into_bytes())
    };
    let mut without_device = event(0);
    without_device
        .as_object_mut()
        .context("an event is an object")?
        .remove("deviceName");
    let mut text_origin = event(0);
    text_origin["origin"] = "yesterday".into();
    let mut not_a_number = event(0);
    not_a_number["readings"][0]["valueType"] = "Int32".into();
    not_a_number["readings"][0]["value"] = "high".into();
    let mut messages = vec![
        ("empty".to_owned(), Vec::new()),
        ("not-json".to_owned(), b"this is not JSON".to_vec()),
        ("not-utf8".to_owned(), vec![0xFF, 0xFE, 0x00, 0x7B]),
        ("cut-off".to_owned(), envelope(&event(0))[..100].to_vec()),
        ("array".to_owned(), b"[1,2,3]".to_vec()),
        ("no-fields".to_owned(), b"{}".to_vec()),
        (
            "envelope-of-wrong-types".to_owned(),
            br#"{"payload":5,"contentType":7,"correlationID":[]}"#.to_vec(),
        ),
        (
            "unknown-content-type".to_owned(),
            with(json!({"contentType": "application/x-unknown"}))?,
        ),
        ("no-content-type".to_owned(), with(json!({"contentType": ""}))?),
        ("not-base64".to_owned(), with(json!({"payload": "***"}))?),
        ("null-payload".to_owned(), with(json!({"payload": null}))?),
        (
            "cbor-that-is-none".to_owned(),
            with(json!({"contentType": "application/cbor"}))?,
        ),
        ("event-without-device".to_owned(), envelope(&without_device)),
        ("event-with-text-as-origin".to_owned(), envelope(&text_origin)),
        ("reading-that-is-no-number".to_owned(), envelope(&not_a_number)),
    ];
    for generation in Generation::ALL {
        for step in fixtures::pair(generation, "http-export-bad-input")?.steps {
            if step.outputs.is_empty() {
                messages.push((
                    format!("recorded-{generation}-{}", step.number),
                    step.input.to_vec(),
                ));
            }
        }
    }
    Ok(messages)
}

#[tokio::test]
async fn large_events_leave_whole() -> Result<()> {
    // Given events of ten and twenty megabytes: more than the usual packet limits, and more than the byte budget.
    let stack = Stack::start_storing(&[]).await?;
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
    let plain = |event: &Value| {
        let request = json!({"apiVersion": "v3", "requestId": event["id"], "event": event});
        let envelope = json!({"apiVersion": "v3", "payload": request, "contentType": "application/json"});
        envelope.to_string().into_bytes()
    };
    let ten = large_event(1, 10 * MIB);
    let ten_in_base64 = large_event(2, 10 * MIB);
    let twenty = large_event(3, 20 * MIB);
    let messages = [plain(&ten), envelope(&ten_in_base64), plain(&twenty)];

    // When they come, and a small one behind them.
    for message in &messages {
        publisher
            .publish("edgex/events/device/large", message, Qos::AtLeastOnce)
            .await?;
    }
    stack.publish(4..=4).await?;

    // Then all leave as they came.
    wait_accepted(&stack.sink, 1..=4).await;
    assert_eq!(accepted(&stack.sink), each(1..=4, 1));
    for event in [ten, ten_in_base64, twenty] {
        // Not `assert_eq`, which would print them.
        assert!(
            stack
                .sink
                .requests()
                .iter()
                .any(|request| request.json() == event),
            "{} differs",
            event["id"]
        );
    }
    let stats = stack.service.stats().await?;
    assert_eq!(stats.books("undecodable"), 0, "{stats:?}");
    Ok(())
}

#[tokio::test]
async fn a_large_event_is_stored_and_leaves_later() -> Result<()> {
    // Given a destination that refuses.
    let stack = Stack::start_storing(&[("StoreAndForward/RetryInterval", "1s")]).await?;
    stack.sink.behave(refusing());
    let event = large_event(1, 10 * MIB);
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
    publisher
        .publish("edgex/events/device/large", envelope(&event), Qos::AtLeastOnce)
        .await?;
    stack
        .service
        .wait_stats("the event to be stored", |stats| stats.store("failed") == 1)
        .await;

    // When it accepts, then it gets the whole event.
    stack.sink.behave(Behaviour::status(200));
    wait_accepted(&stack.sink, 1..=1).await;
    let request = stack.sink.requests().pop().context("it was accepted")?;
    assert!(request.json() == event, "it differs");
    Ok(())
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_set_aside_and_acknowledged() -> Result<()> {
    // Given a limit of one mebibyte and a persistent session.
    let mut stack = Stack::new(crate::support::DURABLE).await?;
    stack.service = stack.service.env("MAXMESSAGEBYTES", "1MiB");
    stack.start_service().await?;
    stack.store_and_forward(&[]).await?;
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;

    // When a message of ten megabytes comes before a good event.
    let topic = "edgex/events/device/too-large";
    publisher
        .publish(topic, envelope(&large_event(1, 10 * MIB)), Qos::AtLeastOnce)
        .await?;
    stack.publish(2..=2).await?;

    // Then it is counted, set aside and named with the limit, and the good event leaves.
    wait_accepted(&stack.sink, 2..=2).await;
    stack
        .service
        .wait_stats("it to be counted and set aside", |stats| {
            (stats.books("undecodable"), stats.store("error")) == (1, 1)
        })
        .await;
    let line = stack.service.process().wait_for_line(topic, LONG).await;
    assert!(
        line.contains("level=ERROR") && line.contains("MaxMessageBytes"),
        "{line}"
    );
    assert_eq!(accepted(&stack.sink), each(2..=2, 1));
    nothing_is_delivered_again(&mut stack, 3).await
}

/// An event whose one value is of this size.
fn large_event(number: u64, bytes: usize) -> Value {
    event_of(&event_id(number), 1, &"x".repeat(bytes))
}

/// Starts the service again in the same session, in which the broker would deliver what was not acknowledged.
async fn nothing_is_delivered_again(stack: &mut Stack, number: u64) -> Result<()> {
    stack.service.stop().await?;
    stack.start_service().await?;
    stack.publish(number..=number).await?;
    wait_accepted(&stack.sink, number..=number).await;
    let stats = stack.service.stats().await?;
    assert_eq!(
        (stats.books("received"), stats.books("undecodable")),
        (1, 0),
        "{stats:?}"
    );
    Ok(())
}
