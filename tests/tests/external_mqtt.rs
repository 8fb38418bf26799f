//! The trigger `external-mqtt` and the security of both MQTT connections, with the real binary and real brokers.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{
    Authority, Behaviour, HttpSink, Mosquitto, MqttPublisher, MqttSubscriber, Qos, Received,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{END, Service, broker, start_subscribed_to};

/// A service with settings of the test's own.
struct Stack {
    service: Service,
    _folder: TempDir,
}

/// Puts `more` over `settings`, key by key.
fn overlay(settings: &mut Value, more: Value) {
    match (settings, more) {
        (Value::Object(settings), Value::Object(more)) => {
            for (key, value) in more {
                overlay(settings.entry(key).or_insert(Value::Null), value);
            }
        }
        (settings, more) => *settings = more,
    }
}

/// A service that takes raw messages from the broker at `url` and posts them to `sink`, with `more` settings.
fn external(url: &str, sink: &HttpSink, more: Value) -> Result<Stack> {
    let post = |path: &str| {
        let parameters = json!({
            "Method": "post", "MimeType": "application/octet-stream", "Url": sink.url(path), "PersistOnError": "true",
        });
        json!({ "Parameters": parameters })
    };
    let mut settings = json!({
        "Writable": {
            "Pipeline": {
                "TargetType": "raw",
                "ExecutionOrder": "HTTPExport",
                "Functions": { "HTTPExport": post("/default"), "HTTPExport2": post("/second") },
            },
        },
        "Service": { "Host": "localhost" },
        "MessageBus": { "Disabled": true },
        "Trigger": {
            "Type": "external-mqtt",
            "SubscribeTopics": "in/#",
            "ExternalMqtt": { "Url": url, "ClientId": "external", "KeepAlive": 10, "QoS": 1, "SecretName": "mqtt" },
        },
    });
    overlay(&mut settings, more);
    stack(&settings)
}

fn stack(settings: &Value) -> Result<Stack> {
    let folder = TempDir::with_prefix("edgehold-settings-")?;
    // YAML takes JSON as it is.
    let file = folder.path().join("configuration.yaml");
    std::fs::write(&file, serde_json::to_vec(settings)?)?;
    Ok(Stack {
        service: with_settings(folder.path())?,
        _folder: folder,
    })
}

fn with_settings(folder: &Path) -> Result<Service> {
    Ok(Service::new()?
        .flag(&format!("-cd={}", folder.display()))
        .flag("-sk=app-external")
        .flag("-s"))
}

fn url(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}")
}

async fn publish(broker: &Mosquitto, topic: &str, payload: &str) -> Result<()> {
    let mut publisher = MqttPublisher::connect(broker.port()).await?;
    publisher.publish(topic, payload, Qos::AtLeastOnce).await
}

/// The next request: its path and body.
async fn exported(sink: &HttpSink) -> (String, Bytes) {
    let request = sink.wait_for(1, LONG).await.remove(0);
    sink.take();
    (request.target, request.body)
}

/// Waits for a request with this body, which may come twice after a kill.
#[track_caller]
fn arrives(sink: &HttpSink, body: &'static str) -> impl Future<Output = Received> {
    sink.wait_for_request(body, LONG, move |request| request.body == body)
}

#[tokio::test]
async fn several_topics_run_the_pipelines_of_their_own_and_no_topic_has_a_prefix() -> Result<()> {
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let pipelines = json!({
        "Own": { "Id": "own", "Topics": "own/+/temperature", "ExecutionOrder": "HTTPExport2" },
    });
    let more = json!({
        "Writable": { "Pipeline": { "ExecutionOrder": "", "PerTopicPipelines": pipelines } },
        "Trigger": { "SubscribeTopics": "in/#, $share/group/own/#, own2/#" },
    });
    let mut stack = external(&url(broker.port()), &sink, more)?;
    start_subscribed_to(&mut stack.service, &mut broker, "own2/#").await?;

    publish(&broker, "in/a", "no pipeline").await?;
    publish(&broker, "own2/a/temperature", "nor here").await?;
    publish(&broker, "own/a/temperature", "21.5").await?;
    assert_eq!(exported(&sink).await, ("/second".to_owned(), Bytes::from("21.5")));
    stack.service.stop().await
}

/// The original looks at its first byte.
#[tokio::test]
async fn an_empty_payload_is_a_message_and_no_crash() -> Result<()> {
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let mut stack = external(&url(broker.port()), &sink, json!({}))?;
    start_subscribed_to(&mut stack.service, &mut broker, "in/#").await?;
    publish(&broker, "in/a", "").await?;
    assert_eq!(exported(&sink).await, ("/default".to_owned(), Bytes::new()));
    assert!(stack.service.process().is_running()?);
    stack.service.stop().await
}

#[tokio::test]
async fn what_comes_while_it_is_away_and_while_the_broker_is_away_is_not_lost() -> Result<()> {
    // Given Store and Forward, with which the session is kept.
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let more = json!({ "Writable": { "StoreAndForward": { "Enabled": true } } });
    let mut stack = external(&url(broker.port()), &sink, more)?;
    start_subscribed_to(&mut stack.service, &mut broker, "in/#").await?;
    publish(&broker, "in/a", "1").await?;
    arrives(&sink, "1").await;

    // When it is killed, then what was published meanwhile comes after the start.
    stack.service.kill9()?;
    publish(&broker, "in/a", "2").await?;
    stack.service.start().await?;
    arrives(&sink, "2").await;

    // When the broker was away, then it comes back by itself.
    broker.restart().await?;
    publish(&broker, "in/a", "3").await?;
    arrives(&sink, "3").await;
    stack.service.stop().await
}

#[tokio::test]
async fn a_message_is_acknowledged_only_when_its_export_has_ended() -> Result<()> {
    // Given an export that hangs, and nothing that writes it down meanwhile.
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    sink.behave(Behaviour::Hang);
    let more = json!({ "Writable": { "StoreAndForward": { "Enabled": true, "Journal": "off" } } });
    let mut stack = external(&url(broker.port()), &sink, more)?;
    start_subscribed_to(&mut stack.service, &mut broker, "in/#").await?;
    publish(&broker, "in/a", "hanging").await?;
    arrives(&sink, "hanging").await;

    // When the service is killed, then the broker has the message still.
    stack.service.kill9()?;
    sink.take();
    sink.behave(Behaviour::status(200));
    stack.service.start().await?;
    arrives(&sink, "hanging").await;
    stack.service.stop().await
}

#[tokio::test]
async fn what_keeps_less_than_store_and_forward_promises_is_named_by_its_keys() -> Result<()> {
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let more = json!({
        "Writable": { "StoreAndForward": { "Enabled": true } },
        "Trigger": { "ExternalMqtt": { "QoS": 0 } },
    });
    let mut stack = external(&url(broker.port()), &sink, more)?;
    start_subscribed_to(&mut stack.service, &mut broker, "in/#").await?;
    let warning = stack
        .service
        .process()
        .wait_for_line("does not keep everything", LONG)
        .await;
    for key in [
        "Trigger/ExternalMqtt/QoS 0",
        "Trigger/ExternalMqtt/CleanSession true",
    ] {
        assert!(warning.contains(key), "{warning}");
    }
    stack.service.stop().await
}

#[tokio::test]
async fn a_clean_session_that_was_asked_for_is_named_alone() -> Result<()> {
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let more = json!({
        "Writable": { "StoreAndForward": { "Enabled": true } },
        "Trigger": { "ExternalMqtt": { "QoS": 1, "CleanSession": true } },
    });
    let mut stack = external(&url(broker.port()), &sink, more)?;
    start_subscribed_to(&mut stack.service, &mut broker, "in/#").await?;
    let warning = stack
        .service
        .process()
        .wait_for_line("does not keep everything", LONG)
        .await;
    assert!(
        warning.contains("Trigger/ExternalMqtt/CleanSession true"),
        "{warning}"
    );
    assert!(!warning.contains("Trigger/ExternalMqtt/QoS"), "{warning}");
    stack.service.stop().await
}

#[tokio::test]
async fn a_clean_session_is_subscribed_again_after_the_broker_was_away() -> Result<()> {
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let mut stack = external(&url(broker.port()), &sink, json!({}))?;
    start_subscribed_to(&mut stack.service, &mut broker, "in/#").await?;
    broker.restart().await?;
    broker.process().wait_for_line(" in/#", LONG).await;
    publish(&broker, "in/a", "again").await?;
    assert_eq!(exported(&sink).await.1, "again");
    stack.service.stop().await
}

#[tokio::test]
async fn responses_go_back_as_they_are_and_an_empty_one_not_at_all() -> Result<()> {
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let more = json!({
        "Writable": { "Pipeline": {
            "ExecutionOrder": "SetResponseData",
            "Functions": { "SetResponseData": { "Parameters": { "ResponseContentType": "" } } },
        } },
        "Trigger": { "PublishTopic": "out/{receivedtopic}", "ExternalMqtt": { "Retain": true } },
    });
    let mut stack = external(&url(broker.port()), &sink, more)?;
    start_subscribed_to(&mut stack.service, &mut broker, "in/#").await?;
    let live = MqttSubscriber::connect(broker.port(), "out/#", Qos::AtLeastOnce).await?;
    for payload in ["", "\u{0}bytes"] {
        publish(&broker, "in/a", payload).await?;
    }
    let all_ended = |stats: &crate::support::Stats| stats.all_ended(2);
    stack.service.wait_stats("both to have ended", all_ended).await;
    live.wait_for(1, LONG).await;
    // What is retained comes to whoever subscribes later.
    let responses = MqttSubscriber::connect(broker.port(), "out/#", Qos::AtLeastOnce).await?;
    let response = responses.wait_for(1, LONG).await.remove(0);
    assert_eq!(
        (response.topic.as_str(), &response.payload[..], response.retained),
        ("out/in/a", &b"\0bytes"[..], true)
    );
    stack.service.stop().await?;
    assert_eq!((live.count(), responses.count()), (1, 1));
    Ok(())
}

#[tokio::test]
async fn it_connects_by_password_over_tls_and_leaves_a_will() -> Result<()> {
    let authority = Authority::new()?;
    let log = ["error", "warning", "notice", "subscribe"];
    let builder = Mosquitto::builder()
        .tls(&authority, authority.issue("127.0.0.1")?)
        .user("me", "hunter2");
    let builder = log.iter().fold(builder, |builder, kind| {
        builder.config(&format!("log_type {kind}"))
    });
    let (mut broker, sink) = (builder.start().await?, HttpSink::start().await?);
    let secret = json!({ "username": "me", "password": "hunter2", "cacert": authority.pem() });
    let will =
        json!({ "Enabled": true, "Topic": "wills/external", "Payload": "gone", "Qos": 1, "Retained": false });
    let more = json!({
        "Writable": { "InsecureSecrets": { "mqtt": { "SecretName": "mqtt", "SecretData": secret } } },
        "Trigger": { "ExternalMqtt": { "AuthMode": "usernamepassword", "Will": will } },
    });
    let url = format!("ssl://127.0.0.1:{}", broker.secured_port());
    let mut stack = external(&url, &sink, more)?;
    start_subscribed_to(&mut stack.service, &mut broker, "in/#").await?;
    publish(&broker, "in/a", "secret").await?;
    assert_eq!(exported(&sink).await.1, "secret");

    let wills = MqttSubscriber::connect(broker.port(), "wills/#", Qos::AtLeastOnce).await?;
    stack.service.kill9()?;
    assert_eq!(wills.wait_for(1, LONG).await[0].payload, "gone");
    // And no word of the password anywhere.
    let lines = stack.service.process().lines().concat();
    assert!(!lines.contains("hunter2"), "{lines}");
    Ok(())
}

#[tokio::test]
async fn a_broker_that_never_comes_ends_the_service_only_when_a_time_is_set() -> Result<()> {
    let sink = HttpSink::start().await?;
    let mut broker = broker().await?;
    broker.stop().await?;
    let url = url(broker.port());
    let limit = json!({ "Trigger": { "ExternalMqtt": { "RetryDuration": 1, "RetryInterval": 1 } } });
    let mut limited = external(&url, &sink, limit)?;
    let mut unlimited = external(&url, &sink, json!({}))?;
    unlimited.service.start().await?;
    limited.service.spawn()?;
    let status = limited.service.process().wait_exit(END).await;
    assert_eq!(status.code(), Some(255));
    let lines = limited.service.process().lines().concat();
    assert!(lines.contains("(RetryDuration)"), "{lines}");
    assert!(
        lines.contains("the service has ended\""),
        "it ends in order: {lines}"
    );
    // A time later than the other's end.
    assert!(unlimited.service.process().is_running()?);
    broker.restart().await?;
    broker.process().wait_for_line(" in/#", LONG).await;
    unlimited.service.stop().await
}

#[tokio::test]
async fn addresses_and_modes_that_mean_nothing_are_refused_by_name() -> Result<()> {
    let sink = HttpSink::start().await?;
    for (url, mode, word) in [
        ("ws://127.0.0.1:1", "none", "'ws' is not supported"),
        ("", "none", "the address of the broker is empty"),
        ("tcp://127.0.0.1:1", "basic", "AuthMode 'basic' is none of"),
        ("tcp://127.0.0.1:1", "cacert", "no secret named 'mqtt'"),
    ] {
        let more = json!({ "Trigger": { "ExternalMqtt": { "AuthMode": mode } } });
        let mut stack = external(url, &sink, more)?;
        stack.service.spawn()?;
        let status = stack.service.process().wait_exit(END).await;
        let lines = stack.service.process().lines().concat();
        assert_eq!(status.code(), Some(255), "{lines}");
        assert!(
            lines.contains("Trigger/ExternalMqtt") && lines.contains(word),
            "{lines}"
        );
    }
    Ok(())
}

/// The same service on the bus, encrypted and with a certificate of its own.
#[tokio::test]
async fn the_bus_asks_for_a_certificate_and_a_wrong_authority_is_named_and_tried_again() -> Result<()> {
    let authority = Authority::new()?;
    let builder = Mosquitto::builder()
        .tls(&authority, authority.issue("127.0.0.1")?)
        .require_certificate();
    let broker = builder.start().await?;
    let sink = HttpSink::start().await?;
    let client = authority.issue("app-external")?;
    let files = TempDir::with_prefix("edgehold-certificates-")?;
    let file = |name: &str| files.path().join(name).display().to_string();
    std::fs::write(file("ca.pem"), Authority::new()?.pem())?;
    std::fs::write(file("cert.pem"), &client.pem)?;
    let more = json!({
        "MessageBus": {
            "Disabled": false, "Type": "mqtt", "Protocol": "ssl", "Host": "127.0.0.1", "Port": broker.secured_port(),
            "AuthMode": "none",
            "Optional": {
                "ClientId": "app-external", "Qos": "1", "ConnectTimeout": "nonsense",
                "CaFile": file("ca.pem"), "CertFile": file("cert.pem"), "KeyPEMBlock": client.key,
            },
        },
        "Trigger": { "Type": "edgex-messagebus", "SubscribeTopics": "events/#" },
    });
    let mut stack = external("", &sink, more)?;

    // A wrong authority is named; an option that means nothing too; and the service runs.
    stack.service.start().await?;
    let process = stack.service.process();
    process.wait_for_line("invalid peer certificate", LONG).await;
    process
        .wait_for_line("MessageBus/Optional/ConnectTimeout", LONG)
        .await;

    // The right one counts without a start.
    std::fs::write(file("ca.pem"), authority.pem())?;
    process.wait_for_line("connected to the MQTT broker", LONG).await;
    let envelope = json!({ "payload": "aGk=", "contentType": "application/json" }).to_string();
    wait::until("the event to be exported", LONG, async || {
        publish(&broker, "edgex/events/a", &envelope).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        sink.requests().pop().context("nothing yet")
    })
    .await;
    let shown = stack.service.process().lines().concat();
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    stack.service.stop().await
}
