//! What every bus does alike.

use edgehold_core::{ConnectionState, ErrorClass, Received};
use edgehold_ingest::{BusPublisher, NatsBusPublisher};
use edgehold_test_support::wait::{LONG, until};
use tokio::time::{Instant, sleep, timeout};

use super::*;

pub(super) async fn once_and_in_order(kind: Kind) {
    // The first two overlap, and none holds the other.
    let mut bus = Bus::start(kind, "events/device/#, events/+/svc/#, telemetry/+/x").await;
    for number in 0..20 {
        let topic = format!("edgex/events/device/svc/p/d{}/s", number % 3);
        bus.publish(&topic, &number.to_string(), b"{}").await;
        // No filter takes these, though a bus may send them all the same.
        bus.publish("edgex/telemetry/a/b/x", "not for us", b"{}").await;
        bus.publish("edgex/eventsX", "not for us", b"{}").await;
    }
    bus.publish("edgex/telemetry/svc/x", "last", b"[1]").await;
    for number in 0..20 {
        let (topic, correlation_id, payload) = bus.next_message().await;
        assert_eq!(topic, format!("edgex/events/device/svc/p/d{}/s", number % 3));
        assert_eq!(correlation_id, number.to_string());
        assert_eq!(payload, "{}");
    }
    let (topic, correlation_id, payload) = bus.next_message().await;
    assert_eq!(
        (topic.as_str(), correlation_id.as_str()),
        ("edgex/telemetry/svc/x", "last")
    );
    assert_eq!(payload, "[1]");
    bus.end().await;
}

pub(super) async fn undecodable(kind: Kind) {
    let mut bus = Bus::start(kind, "events/#").await;
    bus.publish_raw("edgex/events/a", b"no envelope").await;
    bus.publish("edgex/events/a", "next", b"{}").await;
    let delivery = bus.next().await;
    assert_eq!(delivery.topic, "edgex/events/a");
    let Received::Undecodable { raw, reason } = &delivery.received else {
        panic!("{:?} is undecodable", delivery.received);
    };
    assert_eq!(raw, "no envelope");
    assert!(!reason.is_empty());
    delivery.ack.done();
    assert_eq!(bus.next_message().await.1, "next");
    bus.end().await;
}

pub(super) async fn large(kind: Kind) {
    let mut bus = Bus::start(kind, "events/#").await;
    let payload = vec![b'x'; 500_000];
    bus.publish("edgex/events/a", "large", &payload).await;
    let too_large = vec![b'x'; 900_000];
    bus.publish_raw("edgex/events/a", &too_large).await;
    bus.publish("edgex/events/a", "next", b"{}").await;
    let (_, correlation_id, received) = bus.next_message().await;
    assert_eq!(correlation_id, "large");
    assert!(received == payload, "{} bytes came", received.len());
    let delivery = bus.next().await;
    let Received::Undecodable { raw, reason } = &delivery.received else {
        panic!("{:.100?} is undecodable", delivery.received);
    };
    assert!(raw.is_empty());
    assert!(reason.contains("900000") && reason.contains("700000"), "{reason}");
    delivery.ack.done();
    assert_eq!(bus.next_message().await.1, "next");
    bus.end().await;
}

pub(super) async fn bounce(kind: Kind) {
    let mut bus = Bus::start(kind, "events/#").await;
    bus.publish("edgex/events/a", "before", b"{}").await;
    assert_eq!(bus.next_message().await.1, "before");
    bus.server.stop().await;
    bus.trigger.becomes(ConnectionState::Disconnected).await;
    // Attempts that are refused leave no trace: time for some of them, whose pauses grow.
    sleep(Duration::from_millis(500)).await;
    bus.server.restart().await;
    let back = Instant::now();
    bus.trigger.subscribed().await;
    let took = back.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    // Then it is said that something may be lost, where nobody keeps it
    let gaps = bus.loss.as_ref().map(|loss| loss.gaps());
    assert_eq!(gaps, (!matches!(kind, Kind::JetStream(_))).then_some(1));
    bus.publish("edgex/events/a", "after", b"{}").await;
    assert_eq!(bus.next_message().await.1, "after");
    bus.end().await;
}

pub(super) async fn dots(kind: Kind) {
    let mut bus = Bus::start(kind, "events/#").await;
    let id = "5cf0e8ce-8a31-4a30-a4bd-3c2bf5a1ee51";
    let event = format!(
        r#"{{"apiVersion":"v3","id":"{id}","deviceName":"pump.1","profileName":"p","sourceName":"s","origin":1,
        "readings":[{{"id":"{id}","origin":1,"deviceName":"pump.1","profileName":"p","resourceName":"r",
        "valueType":"Int32","value":"1"}}]}}"#
    );
    let topic = "edgex/events/device/svc/p/pump.1/s";
    bus.publish(topic, "dots", event.as_bytes()).await;
    assert_eq!(bus.next_message().await.0, topic);
    bus.end().await;
}

pub(super) async fn published(kind: Kind) {
    // Given somebody who listens, and a publisher
    let server = Server::start(kind).await;
    let (publisher, _running): (Arc<dyn BusPublisher>, _) = match &server {
        Server::Redis(server) => {
            let (publisher, running) = redis_publisher(redis_connection(server.port()));
            (Arc::new(publisher), Some(running))
        }
        Server::Nats(server) => {
            let connection = nats_connection(server);
            let (publisher, format) = match kind {
                Kind::JetStream(format) => (nats::Publisher::to_stream(connection, stream(), 2), format),
                Kind::NatsCore(format) => (nats::Publisher::to_subscribers(connection), format),
                Kind::Redis => unreachable!("Redis is no NATS"),
            };
            let exactly_once = Some("client".to_owned());
            let publisher = NatsBusPublisher {
                publisher,
                format,
                exactly_once,
            };
            (Arc::new(publisher), None)
        }
    };
    let payload = Payload::Bytes(Bytes::from_static(br#"{"a":1}"#));
    let envelope = MessageEnvelope::new("corr-1".to_owned(), payload, "application/json".to_owned());

    match &server {
        Server::Redis(server) => {
            let mut listener = server.client().await.unwrap();
            listener.subscribe("edgex.out.*").await.unwrap();
            publisher
                .publish("edgex/out/pump-1", &envelope, Generation::V4)
                .await
                .unwrap();
            let (channel, message) = listener.next_message().await.unwrap();
            assert_eq!(channel, "edgex.out.pump-1");
            assert_eq!(MessageEnvelope::from_json(&message).unwrap(), envelope);
        }
        Server::Nats(server) => {
            let mut listener = server.client().await.unwrap();
            listener.subscribe("edgex.out.*").await.unwrap();
            publisher
                .publish("edgex/out/pump-1", &envelope, Generation::V4)
                .await
                .unwrap();
            let message = listener.next_message().await.unwrap();
            assert_eq!(message.subject, "edgex.out.pump-1");
            let header = |name: &str| message.headers.get(name).map(String::as_str);
            assert_eq!(header("Nats-Msg-Id"), Some("client-corr-1"));
            if let Kind::NatsCore(NatsFormat::Json) | Kind::JetStream(NatsFormat::Json) = kind {
                assert_eq!(MessageEnvelope::from_json(&message.payload).unwrap(), envelope);
            } else {
                assert_eq!(message.payload, br#"{"a":1}"#[..]);
                assert_eq!(header("X-Correlation-ID"), Some("corr-1"));
                assert_eq!(header("Content-Type"), Some("application/json"));
                assert_eq!(header("ApiVersion"), Some("v3"));
                assert_eq!(header("ErrorCode"), Some("0"));
            }
        }
    }

    // And a topic that is none is refused for good
    for topic in ["", "edgex/out/#"] {
        let error = publisher
            .publish(topic, &envelope, Generation::V4)
            .await
            .unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent, "{topic}");
    }
}

pub(super) async fn budget(kind: Kind) {
    // Given a budget of a few messages, and nobody who finishes one
    const MESSAGES: usize = 200;
    let budget = ByteBudget::new(20_000);
    let mut bus = Bus::start_with(kind, "events/#", budget.clone()).await;
    let payload = vec![b' '; 1_000];
    for number in 0..MESSAGES {
        bus.publish("edgex/events/a", &number.to_string(), &payload).await;
    }
    let mut held = vec![bus.next().await];
    // That nothing more comes can only be waited for by time.
    while let Ok(Some(delivery)) = timeout(Duration::from_millis(500), bus.trigger.deliveries.recv()).await {
        held.push(delivery);
    }
    assert!(held.len() < 20, "{} in hand", held.len());

    // When they are finished, the rest comes, where the bus keeps it: core NATS cannot, and counts what it drops
    let mut left = MESSAGES - held.len();
    for delivery in held {
        delivery.ack.done();
    }
    if let (Kind::NatsCore(_), Some(loss)) = (kind, &bus.loss) {
        until("each to be counted", LONG, async || {
            loss.messages() == left as u64
        })
        .await;
        left = 0;
    }
    for _ in 0..left {
        bus.next_message().await;
    }
    bus.publish("edgex/events/a", "last", b"{}").await;
    assert_eq!(bus.next_message().await.1, "last");
    bus.end().await;
}
