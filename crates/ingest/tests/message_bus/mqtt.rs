//! MQTT: a real mosquitto, with messages recorded from EdgeX.

use std::sync::Arc;

use edgehold_contracts::{Generation, MessageEnvelope, Payload};
use edgehold_core::{
    BoxFuture, ByteBudget, Context, PipelineId, Received, ResponsePublisher, Secret, SecretError,
    SecretProvider, ServiceKey,
};
use edgehold_ingest::{
    EnvelopeForm, MessageBusResponse, MessageBusSettings, MessageBusTrigger, MqttBusPublisher,
    subscribe_filters,
};
use edgehold_mqtt::{ConnectionSettings, Publication, Qos};
use edgehold_test_support::{
    Mosquitto, MqttPublisher, MqttSubscriber, Qos as PublishQos, unique_name,
    wait::{LONG, until},
};

use crate::{RunningTrigger, in_background};

const TOPIC: &str = "edgex/events/device/device-virtual/p/d/s";
const EVENT_OF_THREE: &[u8] = include_bytes!("../../testdata/v3-event.json");
const EVENT_OF_FOUR: &[u8] = include_bytes!("../../testdata/v4-event.json");

fn settings(broker: &Mosquitto, client_id: &str) -> MessageBusSettings {
    let mut connection = ConnectionSettings::new("127.0.0.1", broker.port(), client_id);
    connection.clean_session = false;
    MessageBusSettings {
        connection,
        filters: subscribe_filters("edgex", "events/#").unwrap(),
        former_filters: Vec::new(),
        qos: Qos::AtLeastOnce,
        budget: ByteBudget::new(1024 * 1024),
        envelope_form: EnvelopeForm::Json,
    }
}

#[tokio::test]
async fn recorded_messages_become_deliveries_and_are_acknowledged_when_done() {
    // Given a trigger that runs
    let broker = Mosquitto::start().await.unwrap();
    let client_id = unique_name("trigger");
    let trigger = MessageBusTrigger::try_new(settings(&broker, &client_id)).unwrap();
    let state = trigger.connection_state();
    let mut trigger = RunningTrigger::start(trigger, state).await;

    // When events of both generations, something else, and more than the channel holds are published
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    let payloads = [EVENT_OF_THREE, b"nonsense", EVENT_OF_FOUR, b"{}", EVENT_OF_THREE];
    let messages = payloads.map(|payload| (TOPIC, payload));
    publisher
        .publish_all(messages, PublishQos::AtLeastOnce)
        .await
        .unwrap();

    // Then they come in order, opened
    let of_three = trigger.next().await;
    let nonsense = trigger.next().await;
    let of_four = trigger.next().await;
    let empty = trigger.next().await;
    let last = trigger.next().await;
    assert_eq!(of_three.topic, TOPIC);
    for delivery in [&of_three, &of_four, &last] {
        let Received::Message {
            payload,
            content_type,
            correlation_id,
            ..
        } = &delivery.received
        else {
            panic!("{:?} is a message", delivery.received);
        };
        assert_eq!(content_type, "application/json");
        assert_eq!(
            correlation_id.as_str().len(),
            "5cf0e8ce-8a31-4a30-a4bd-3c2bf5a1ee51".len()
        );
        let event = edgehold_contracts::decode_event(payload, content_type);
        assert!(event.is_ok(), "{event:?}");
    }
    assert!(matches!(&nonsense.received, Received::Undecodable { raw, .. } if raw == &b"nonsense"[..]));
    assert!(matches!(&empty.received, Received::Message { payload, .. } if payload.is_empty()));

    // And when all but the last are done and it is told to end
    for delivery in [of_three, nonsense, of_four, empty] {
        delivery.ack.done();
    }
    trigger.shutdown.trigger();
    drop(last);
    trigger.end().await;

    // Then the broker waits for exactly that one
    let next = MqttSubscriber::resume(broker.port(), &client_id, "edgex/#", PublishQos::AtLeastOnce)
        .await
        .unwrap();
    publisher
        .publish(TOPIC, "after", PublishQos::AtLeastOnce)
        .await
        .unwrap();
    let messages = next.wait_for(2, LONG).await;
    let payloads: Vec<_> = messages.iter().map(|message| message.payload.as_ref()).collect();
    assert_eq!(payloads, [EVENT_OF_THREE, b"after"]);
}

#[tokio::test]
async fn when_nobody_takes_deliveries_it_ends() {
    let broker = Mosquitto::start().await.unwrap();
    let trigger = MessageBusTrigger::try_new(settings(&broker, &unique_name("trigger"))).unwrap();
    let state = trigger.connection_state();
    let running = RunningTrigger::start(trigger, state).await;

    drop(running.deliveries);
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    publisher
        .publish(TOPIC, EVENT_OF_FOUR, PublishQos::AtLeastOnce)
        .await
        .unwrap();
    until("the end", LONG, async || running.task.is_finished()).await;
}

struct NoSecrets;

impl SecretProvider for NoSecrets {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        Box::pin(std::future::ready(Err(SecretError::UnknownName {
            name: name.to_owned(),
        })))
    }
}

#[tokio::test]
async fn on_a_cbor_bus_messages_and_responses_are_cbor() {
    // Given a trigger on a bus whose envelopes are CBOR, and the way its responses go
    let broker = Mosquitto::start().await.unwrap();
    let responses = MqttSubscriber::connect(broker.port(), "edgex/out/#", PublishQos::AtLeastOnce)
        .await
        .unwrap();
    let mut settings = settings(&broker, &unique_name("trigger"));
    settings.envelope_form = EnvelopeForm::Cbor;
    settings.connection.connect_timeout = LONG;
    let (publisher, publication) = Publication::try_new(&settings.connection).unwrap();
    let publisher = MqttBusPublisher {
        publisher,
        qos: Qos::AtLeastOnce,
        retain: false,
        envelope_form: EnvelopeForm::Cbor,
    };
    let topic = "edgex/out/{receivedtopic}".to_owned();
    let response = MessageBusResponse::new(Arc::new(publisher), topic);
    let trigger = MessageBusTrigger::try_new(settings).unwrap();
    let state = trigger.connection_state();
    let mut trigger = RunningTrigger::start(trigger, state).await;
    in_background(publication.run(trigger.shutdown.signal()));

    // When a CBOR envelope comes
    let payload = Payload::Bytes("{}".into());
    let envelope = MessageEnvelope::new("corr-1".to_owned(), payload, "application/json".to_owned());
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    publisher
        .publish(TOPIC, envelope.to_cbor().unwrap(), PublishQos::AtLeastOnce)
        .await
        .unwrap();
    let delivery = trigger.next().await;
    let Received::Message {
        payload,
        correlation_id,
        ..
    } = delivery.received
    else {
        panic!("{:?} is a message", delivery.received);
    };
    assert_eq!(payload, "{}");

    // And is answered, then the answer is a CBOR envelope too
    let mut ctx = Context::new(
        ServiceKey::try_new("app-test").unwrap(),
        PipelineId::default_pipeline(),
        correlation_id,
        Generation::V4,
        Arc::new(NoSecrets),
    );
    ctx.add_value(Context::RECEIVED_TOPIC, delivery.topic);
    ctx.set_response_data("[1]".into());
    response.respond(&ctx).await.unwrap();
    let messages = responses.wait_for(1, LONG).await;
    assert_eq!(messages[0].topic, format!("edgex/out/{TOPIC}"));
    let answer = MessageEnvelope::from_cbor(&messages[0].payload).unwrap();
    assert_eq!(answer.payload, Payload::Bytes("[1]".into()));
    assert_eq!(answer.correlation_id, "corr-1");
    assert_eq!(answer.content_type, "application/json");
}
