//! What every message bus does alike, against its real server: each case runs on each bus.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edgehold_bus_redis as redis;
use edgehold_contracts::{Generation, MessageEnvelope, Payload};
use edgehold_core::{
    BoxFuture, ByteBudget, ConnectionState, Deliveries, Delivery, Received, SecretText, Shutdown,
    ShutdownSignal, Trigger,
};
use edgehold_ingest::{BusPublisher, RedisBusSettings, RedisBusTrigger, subscribe_filters};
use edgehold_test_support::{Redis, wait::LONG};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

/// Which bus, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Redis,
}

enum Server {
    Redis(Redis),
}

impl Server {
    async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Redis => Self::Redis(Redis::start().await.unwrap()),
        }
    }

    async fn stop(&mut self) {
        match self {
            Self::Redis(server) => server.stop().await.unwrap(),
        }
    }

    async fn restart(&mut self) {
        match self {
            Self::Redis(server) => server.restart().await.unwrap(),
        }
    }
}

/// A trigger that runs, and the server it runs on.
struct Bus {
    server: Server,
    deliveries: Deliveries,
    state: watch::Receiver<ConnectionState>,
    shutdown: Shutdown,
    running: tokio::task::JoinHandle<()>,
}

/// The largest message the triggers here take whole.
const MAX_MESSAGE_BYTES: usize = 700_000;

fn connection(server: &Redis) -> redis::ConnectionSettings {
    let mut connection = redis::ConnectionSettings::new("127.0.0.1", server.port());
    connection.client_name = "a test".to_owned();
    connection.max_message_bytes = MAX_MESSAGE_BYTES;
    connection
}

impl Bus {
    async fn start(kind: Kind, topics: &str) -> Self {
        Self::start_with(kind, topics, ByteBudget::new(4 * 1024 * 1024)).await
    }

    async fn start_with(kind: Kind, topics: &str, budget: ByteBudget) -> Self {
        let server = Server::start(kind).await;
        let filters = subscribe_filters("edgex", topics).unwrap();
        let (trigger, state): (Box<dyn Trigger>, _) = match &server {
            Server::Redis(server) => {
                let trigger = RedisBusTrigger::new(RedisBusSettings {
                    connection: connection(server),
                    base_prefix: "edgex".to_owned(),
                    filters,
                    budget,
                });
                let state = trigger.connection_state();
                (Box::new(trigger), state)
            }
        };
        let (sender, deliveries) = mpsc::channel(1);
        let (shutdown, signal) = Shutdown::new();
        let running = trigger.run(sender, signal);
        #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
        let running = tokio::spawn(async { running.await.unwrap() });
        let mut bus = Self {
            server,
            deliveries,
            state,
            shutdown,
            running,
        };
        bus.subscribed().await;
        bus
    }

    async fn subscribed(&mut self) {
        let subscribed = self.state.wait_for(|state| *state == ConnectionState::Subscribed);
        timeout(LONG, subscribed)
            .await
            .expect("subscribed in time")
            .expect("it runs");
    }

    /// Publishes as a device service of EdgeX 3 does.
    async fn publish(&mut self, topic: &str, correlation_id: &str, payload: &[u8]) {
        let payload = Payload::Bytes(Bytes::copy_from_slice(payload));
        let envelope =
            MessageEnvelope::new(correlation_id.to_owned(), payload, "application/json".to_owned());
        self.publish_raw(topic, &envelope.to_json(Generation::V3)).await;
    }

    async fn publish_raw(&mut self, topic: &str, message: &[u8]) {
        let divided_by_dots = topic.replace('/', ".");
        match &self.server {
            Server::Redis(server) => {
                server.publish(&divided_by_dots, message).await.unwrap();
            }
        }
    }

    async fn next(&mut self) -> Delivery {
        timeout(LONG, self.deliveries.recv())
            .await
            .expect("a delivery in time")
            .expect("it runs")
    }

    /// The next message, its topic, correlation id and payload, done with.
    async fn next_message(&mut self) -> (String, String, Bytes) {
        let delivery = self.next().await;
        let Received::Message {
            payload,
            correlation_id,
            content_type,
            ..
        } = delivery.received
        else {
            panic!("{:?} is a message", delivery.received);
        };
        assert_eq!(content_type, "application/json");
        delivery.ack.done();
        (delivery.topic, correlation_id.as_str().to_owned(), payload)
    }

    async fn end(self) {
        self.shutdown.trigger();
        timeout(LONG, self.running)
            .await
            .expect("it ends")
            .expect("without a panic");
    }
}

/// Each case below on this bus.
macro_rules! on {
    ($name:ident, $kind:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn each_message_comes_once_and_in_order_however_many_topics_take_it() {
                once_and_in_order($kind).await;
            }

            #[tokio::test]
            async fn what_cannot_be_opened_comes_as_undecodable() {
                undecodable($kind).await;
            }

            #[tokio::test]
            async fn a_large_message_comes_whole_and_one_too_large_is_set_aside() {
                large($kind).await;
            }

            #[tokio::test]
            async fn a_server_that_was_away_is_found_within_three_seconds() {
                bounce($kind).await;
            }

            #[tokio::test]
            async fn names_with_dots_come_as_they_were() {
                dots($kind).await;
            }

            #[tokio::test]
            async fn what_is_published_reaches_subscribers() {
                published($kind).await;
            }

            #[tokio::test]
            async fn while_the_budget_is_used_up_nothing_more_is_taken_in_and_then_it_goes_on() {
                budget($kind).await;
            }
        }
    };
}

on!(redis_pub_sub, Kind::Redis);

async fn once_and_in_order(kind: Kind) {
    let mut bus = Bus::start(
        kind,
        "events/device/#, events/#, events/device/+/+/+/+, telemetry/+/x",
    )
    .await;
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

async fn undecodable(kind: Kind) {
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

async fn large(kind: Kind) {
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

async fn bounce(kind: Kind) {
    let mut bus = Bus::start(kind, "events/#").await;
    bus.publish("edgex/events/a", "before", b"{}").await;
    assert_eq!(bus.next_message().await.1, "before");
    bus.server.stop().await;
    let lost = bus
        .state
        .wait_for(|state| *state == ConnectionState::Disconnected);
    timeout(LONG, lost)
        .await
        .expect("it is noticed")
        .expect("it runs");
    tokio::time::sleep(Duration::from_millis(500)).await;
    bus.server.restart().await;
    let back = Instant::now();
    bus.subscribed().await;
    let took = back.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    bus.publish("edgex/events/a", "after", b"{}").await;
    assert_eq!(bus.next_message().await.1, "after");
    bus.end().await;
}

async fn dots(kind: Kind) {
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

async fn published(kind: Kind) {
    // Given somebody who listens, and a publisher
    let server = Server::start(kind).await;
    type Companion = BoxFuture<'static, ()>;
    let (_shutdown, signal) = Shutdown::new();
    let (publisher, companion): (Arc<dyn BusPublisher>, Companion) = match &server {
        Server::Redis(server) => {
            let (publisher, publication) = redis::Publication::new(connection(server));
            (Arc::new(publisher), Box::pin(publication.run(signal)))
        }
    };
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(companion);
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
    }

    // And a topic that is none is refused for good
    for topic in ["", "edgex/out/#"] {
        let error = publisher
            .publish(topic, &envelope, Generation::V4)
            .await
            .unwrap_err();
        assert_eq!(error.class(), edgehold_core::ErrorClass::Permanent, "{topic}");
    }
}

async fn budget(kind: Kind) {
    // Given a budget of a few messages, and nobody who finishes one
    const MESSAGES: usize = 200;
    let budget = ByteBudget::new(20_000);
    let mut bus = Bus::start_with(kind, "events/#", budget.clone()).await;
    let payload = vec![b' '; 1_000];
    for number in 0..MESSAGES {
        bus.publish("edgex/events/a", &number.to_string(), &payload).await;
    }
    let mut held = vec![bus.next().await];
    while let Ok(Some(delivery)) = timeout(Duration::from_millis(500), bus.deliveries.recv()).await {
        held.push(delivery);
    }
    assert!(held.len() < 20, "{} in hand", held.len());
    assert!(budget.available() < 3_000, "{} left", budget.available());

    // When they are finished, the rest comes, as far as the bus kept it
    let mut came = held.len();
    for delivery in held {
        delivery.ack.done();
    }
    while came < MESSAGES {
        bus.next_message().await;
        came += 1;
    }
    bus.end().await;
}

mod redis_access {
    use super::*;

    fn with_password(server: &Redis, username: &str, password: &str) -> redis::ConnectionSettings {
        let mut connection = connection(server);
        connection.credentials = Some(redis::Credentials {
            username: username.to_owned(),
            password: SecretText::new(password),
        });
        connection
    }

    async fn publish_once(connection: redis::ConnectionSettings) -> Result<(), redis::PublishError> {
        let (publisher, publication) = redis::Publication::new(connection);
        let (_shutdown, signal): (_, ShutdownSignal) = Shutdown::new();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(publication.run(signal));
        publisher.publish("edgex/a", Bytes::from_static(b"{}")).await
    }

    #[tokio::test]
    async fn the_right_password_opens_and_a_wrong_one_or_none_is_told_at_once() {
        let server = Redis::builder()
            .password("hunter2")
            .arguments(["--user", "app", "on", ">secret", "allchannels", "+@all"])
            .start()
            .await
            .unwrap();
        for (username, password) in [("", "hunter2"), ("default", "hunter2"), ("app", "secret")] {
            let published = publish_once(with_password(&server, username, password)).await;
            assert!(published.is_ok(), "{username}: {published:?}");
        }
        for refused in [
            publish_once(with_password(&server, "", "wrong")).await,
            publish_once(with_password(&server, "app", "hunter2")).await,
        ] {
            let error = refused.expect_err("a wrong password");
            assert!(error.to_string().contains("WRONGPASS"), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let error = publish_once(connection(&server)).await.expect_err("no password");
        assert!(error.to_string().contains("NOAUTH"), "{error}");
    }

    #[tokio::test]
    async fn a_subscriber_with_a_wrong_password_goes_on_trying() {
        let server = Redis::builder().password("hunter2").start().await.unwrap();
        let filters = subscribe_filters("edgex", "events/#").unwrap();
        let wrong = with_password(&server, "", "wrong");
        let (subscription, mut incoming) = redis::Subscription::new(wrong, &filters, ByteBudget::new(1_000));
        let state = subscription.state();
        let (shutdown, signal) = Shutdown::new();
        #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
        let running = tokio::spawn(subscription.run(signal));
        assert!(timeout(Duration::from_secs(1), incoming.recv()).await.is_err());
        assert!(!running.is_finished());
        assert_eq!(*state.borrow(), ConnectionState::Disconnected);
        shutdown.trigger();
        timeout(LONG, running)
            .await
            .expect("it ends")
            .expect("without a panic");
    }
}
