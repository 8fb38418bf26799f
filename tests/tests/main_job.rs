//! The main job: the original's own `http-export` profile, unmodified, on everything that was recorded on real buses.
//! Every event comes out as it went in, integers exact.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures::{self, Generation, RecordedMessage};
use edgehold_test_support::{Behaviour, HttpSink, MqttPublisher, Qos};
use serde_json::{Map, Value};

use crate::support::{Service, Stack, accepted, broker, exported_id, start_subscribed};

const STORING: &[(&str, &str)] = &[
    ("StoreAndForward/RetryInterval", "1s"),
    ("StoreAndForward/MaxRetryCount", "0"),
];

#[tokio::test]
async fn every_recorded_event_of_edgex_3_comes_out_equal() -> Result<()> {
    // Given the stock settings, with storing switched on while the service runs.
    let stack = Stack::start(&[]).await?;
    stack.store_and_forward(STORING).await?;
    let messages = fixtures::messages(Generation::V3)?;

    // When everything recorded is published on its own topic to a destination that refuses now and then.
    refuse_every_third_event_once(&stack.sink);
    publish(stack.broker.port(), &messages, |message| message.topic.clone()).await?;

    // Then each event has been accepted once, as it was, and nothing else was taken in.
    everything_came_out(&stack.service, &stack.sink, &messages).await
}

#[tokio::test]
async fn events_of_core_data_and_of_devices_come_in_by_a_list_of_topics() -> Result<()> {
    // Given a subscription to the two parts by name.
    let topics = (
        "app-services/Trigger/SubscribeTopics",
        "events/device/#,events/core/#",
    );
    let stack = Stack::start(&[topics]).await?;
    stack.store_and_forward(STORING).await?;
    let messages = fixtures::messages(Generation::V3)?;

    // When every other event comes by Core Data's topic.
    publish(stack.broker.port(), &messages, |message| {
        match message.number % 2 {
            0 => message.topic.replacen("/events/device/", "/events/core/", 1),
            _ => message.topic.clone(),
        }
    })
    .await?;

    // Then all have come out.
    everything_came_out(&stack.service, &stack.sink, &messages).await
}

#[tokio::test]
async fn every_recorded_event_of_edgex_4_comes_out_equal() -> Result<()> {
    // Given the stock files of EdgeX 4, without a configuration provider, so that the environment says what differs.
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let mut service = from_files(Generation::V4, &sink.url("/export"), broker.port())?;
    start_subscribed(&mut service, &mut broker).await?;
    let messages = fixtures::messages(Generation::V4)?;

    refuse_every_third_event_once(&sink);
    publish(broker.port(), &messages, |message| message.topic.clone()).await?;

    everything_came_out(&service, &sink, &messages).await
}

/// The `http-export` profile and the common configuration of a generation as they are, with Store and Forward on.
pub(crate) fn from_files(generation: Generation, url: &str, broker_port: u16) -> Result<Service> {
    let config = fixtures::path(generation, "config");
    let number = match generation {
        Generation::V3 => "3",
        Generation::V4 => "4",
    };
    let common = config.join("core-common-config-bootstrapper/configuration.yaml");
    Ok(Service::new()?
        .flag(&format!("-cc={}", common.display()))
        .flag(&format!("-cd={}", config.display()))
        .flag("-p=http-export")
        .env("EDGEHOLD_GENERATION", number)
        .env("MESSAGEBUS_TYPE", "mqtt")
        .env("MESSAGEBUS_PROTOCOL", "tcp")
        .env("MESSAGEBUS_PORT", &broker_port.to_string())
        .env("DATABASE_TYPE", "sqlite")
        .env("WRITABLE_STOREANDFORWARD_ENABLED", "true")
        .env("WRITABLE_STOREANDFORWARD_RETRYINTERVAL", "1s")
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_PERSISTONERROR",
            "true",
        )
        .env("WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL", url))
}

/// So that some events leave by way of the store.
pub(crate) fn refuse_every_third_event_once(sink: &HttpSink) {
    let mut events = BTreeMap::new();
    sink.script(move |request| {
        let number = events.len();
        let sends = events.entry(exported_id(request)).or_insert((number, 0));
        sends.1 += 1;
        match *sends {
            (number, 1) if number % 3 == 0 => Behaviour::status(503),
            _ => Behaviour::status(200),
        }
    });
}

async fn publish(
    port: u16,
    messages: &[RecordedMessage],
    topic: impl Fn(&RecordedMessage) -> String,
) -> Result<()> {
    let mut publisher = MqttPublisher::connect(port).await?;
    let messages = messages
        .iter()
        .map(|message| (topic(message), message.payload.clone()));
    publisher.publish_all(messages, Qos::AtLeastOnce).await
}

/// Waits until every event has been accepted, and compares.
pub(crate) async fn everything_came_out(
    service: &Service,
    sink: &HttpSink,
    messages: &[RecordedMessage],
) -> Result<()> {
    let events: Vec<RecordedMessage> = messages
        .iter()
        .filter(|message| is_event(message))
        .cloned()
        .collect();
    let wanted = events.len();
    ensure!(wanted > 50, "the recordings hold {wanted} events only");
    let stats = service
        .wait_stats("every event to be completed", |stats| {
            stats.books("completed") == count(&events) && stats.store("waiting") == 0
        })
        .await;
    for nothing in ["undecodable", "unmatched", "dropped", "givenUp", "inFlight"] {
        assert_eq!(stats.books(nothing), 0, "{nothing}: {stats:?}");
    }
    assert_eq!(stats.books("received"), count(&events), "{stats:?}");
    equal_events(sink, &events)
}

/// Each event was accepted exactly once, and every accepted body is its event: all fields, integers exact.
fn equal_events(sink: &HttpSink, events: &[RecordedMessage]) -> Result<()> {
    let mut wanted = BTreeMap::new();
    for message in events {
        let event = event_inside(message).with_context(|| message.file.clone())?;
        let id = event["id"].as_str().context("an event has an id")?.to_owned();
        ensure!(
            wanted.insert(id, (message.file.clone(), event)).is_none(),
            "{} comes twice",
            message.file
        );
    }
    let once: BTreeMap<String, usize> = wanted.keys().map(|id| (id.clone(), 1)).collect();
    assert_eq!(accepted(sink), once, "each event once");
    for request in sink
        .requests()
        .iter()
        .filter(|request| request.status == Some(200))
    {
        let (file, event) = &wanted[&exported_id(request).context("it was counted by its id")?];
        let exported: Value = serde_json::from_slice(&request.body)?;
        assert_eq!(exported, *event, "{file}");
        assert_eq!(request.header("Content-Type"), Some("application/json"), "{file}");
    }
    Ok(())
}

pub(crate) fn is_event(message: &RecordedMessage) -> bool {
    message.topic.starts_with("edgex/events/")
}

pub(crate) fn count(messages: &[RecordedMessage]) -> u64 {
    u64::try_from(messages.len()).expect("there are a few hundred")
}

/// The event in a recorded message. JSON numbers without fraction are exact in a [`Value`] up to 64 bits.
pub(crate) fn event_inside(message: &RecordedMessage) -> Result<Value> {
    let mut envelope: Value = serde_json::from_slice(&message.payload)?;
    let mut request = match envelope["payload"].take() {
        Value::String(base64) => {
            let bytes = base64_simd::STANDARD
                .decode_to_vec(base64)
                .context("decoding the payload")?;
            match message.content_type.as_str() {
                "application/cbor" => json_of(cbor4ii::serde::from_slice(&bytes)?)?,
                _ => serde_json::from_slice(&bytes)?,
            }
        }
        object => object,
    };
    let event = request["event"].take();
    ensure!(event.is_object(), "there is no event in {request}");
    Ok(event)
}

/// CBOR as JSON: what EdgeX carries in both, with bytes as base64.
fn json_of(cbor: cbor4ii::core::Value) -> Result<Value> {
    use cbor4ii::core::Value as Cbor;

    Ok(match cbor {
        Cbor::Null => Value::Null,
        Cbor::Bool(value) => value.into(),
        Cbor::Integer(value) => match i64::try_from(value) {
            Ok(value) => value.into(),
            Err(_) => u64::try_from(value)?.into(),
        },
        // As Go writes it: without a fraction when there is none.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "guarded: it is whole and a double holds it exactly"
        )]
        Cbor::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => (value as i64).into(),
        Cbor::Float(value) => value.into(),
        Cbor::Bytes(value) => base64_simd::STANDARD.encode_to_string(value).into(),
        Cbor::Text(value) => value.into(),
        Cbor::Array(values) => values
            .into_iter()
            .map(json_of)
            .collect::<Result<Vec<_>>>()?
            .into(),
        Cbor::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let Cbor::Text(key) = key else {
                    anyhow::bail!("{key:?} is no key of an event")
                };
                map.insert(key, json_of(value)?);
            }
            map.into()
        }
        other => anyhow::bail!("no event holds {other:?}"),
    })
}
