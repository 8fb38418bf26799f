//! What every message bus does alike, against its real server: each case runs on each bus.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edgehold_bus_nats as nats;
use edgehold_bus_redis as redis;
use edgehold_contracts::{Generation, MessageEnvelope, Payload};
use edgehold_core::{
    BoxFuture, ByteBudget, ConnectionState, Deliveries, Delivery, Fixed, Received, ReceptionLoss, RenewError,
    Renewable, SecretText, Shutdown, ShutdownSignal, Trigger,
};
use edgehold_ingest::{
    BusPublisher, NatsBusPublisher, NatsBusSettings, NatsBusTrigger, NatsFormat, NatsSource,
    RedisBusSettings, RedisBusTrigger, subscribe_filters,
};
use edgehold_test_support::{
    Nats, Redis, unique_name,
    wait::{LONG, until},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

/// Which bus, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Redis,
    NatsCore(NatsFormat),
    JetStream(NatsFormat),
}

enum Server {
    Redis(Redis),
    Nats(Nats),
}

impl Server {
    async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Redis => Self::Redis(Redis::start().await.unwrap()),
            Kind::NatsCore(_) | Kind::JetStream(_) => Self::Nats(Nats::start().await.unwrap()),
        }
    }

    async fn stop(&mut self) {
        match self {
            Self::Redis(server) => server.stop().await.unwrap(),
            Self::Nats(server) => server.stop().await.unwrap(),
        }
    }

    async fn restart(&mut self) {
        match self {
            Self::Redis(server) => server.restart().await.unwrap(),
            Self::Nats(server) => server.restart().await.unwrap(),
        }
    }
}

/// A trigger that runs, and the server it runs on.
struct Bus {
    kind: Kind,
    server: Server,
    deliveries: Deliveries,
    state: watch::Receiver<ConnectionState>,
    /// What is lost, where the bus keeps nothing.
    loss: Option<Arc<ReceptionLoss>>,
    shutdown: Shutdown,
    running: tokio::task::JoinHandle<()>,
}

/// A secret that a test renews.
struct Renewed<T>(watch::Sender<Arc<T>>);

impl<T> Renewed<T> {
    fn new(value: T) -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(Arc::new(value))))
    }

    fn renew(&self, value: T) {
        self.0.send_replace(Arc::new(value));
    }
}

impl<T: Send + Sync> Renewable<T> for Renewed<T> {
    fn current(&self) -> BoxFuture<'_, Result<Arc<T>, RenewError>> {
        Box::pin(std::future::ready(Ok(self.0.borrow().clone())))
    }
}

/// The largest message the triggers here take whole.
const MAX_MESSAGE_BYTES: usize = 700_000;

fn connection(server: &Redis) -> redis::ConnectionSettings {
    let mut connection = redis::ConnectionSettings::new("127.0.0.1", server.port());
    connection.client_name = "a test".to_owned();
    connection.max_message_bytes = MAX_MESSAGE_BYTES;
    connection
}

fn nats_connection(server: &Nats) -> nats::ConnectionSettings {
    let mut connection = nats::ConnectionSettings::new("127.0.0.1", server.port());
    connection.client_name = "a test".to_owned();
    connection.max_message_bytes = MAX_MESSAGE_BYTES;
    connection
}

fn stream() -> nats::StreamSettings {
    nats::StreamSettings {
        durable: Some(unique_name("app.x")),
        subject: "edgex/#".to_owned(),
        auto_provision: true,
        ..nats::StreamSettings::default()
    }
}

fn nats_trigger(
    kind: Kind,
    server: &Nats,
    topics: &str,
    stream: nats::StreamSettings,
    budget: ByteBudget,
) -> NatsBusTrigger {
    let (format, source) = match kind {
        Kind::NatsCore(format) => (
            format,
            NatsSource::Core {
                queue_group: String::new(),
            },
        ),
        Kind::JetStream(format) => (format, NatsSource::JetStream(stream)),
        Kind::Redis => unreachable!("Redis is no NATS"),
    };
    let settings = NatsBusSettings {
        connection: nats_connection(server),
        base_prefix: "edgex".to_owned(),
        filters: subscribe_filters("edgex", topics).unwrap(),
        budget,
        format,
        source,
    };
    NatsBusTrigger::try_new(settings).unwrap()
}

impl Bus {
    async fn start(kind: Kind, topics: &str) -> Self {
        Self::start_with(kind, topics, ByteBudget::new(4 * 1024 * 1024)).await
    }

    async fn start_with(kind: Kind, topics: &str, budget: ByteBudget) -> Self {
        let filters = subscribe_filters("edgex", topics).unwrap();
        match Server::start(kind).await {
            Server::Redis(server) => {
                let trigger = RedisBusTrigger::new(RedisBusSettings {
                    connection: connection(&server),
                    base_prefix: "edgex".to_owned(),
                    filters,
                    budget,
                });
                let (state, loss) = (trigger.connection_state(), trigger.loss());
                let mut bus = Self::around(kind, Server::Redis(server), Box::new(trigger), state).await;
                bus.loss = Some(loss);
                bus
            }
            Server::Nats(server) => {
                let trigger = nats_trigger(kind, &server, topics, stream(), budget);
                Self::around_nats(kind, trigger, Server::Nats(server)).await
            }
        }
    }

    async fn around_nats(kind: Kind, trigger: NatsBusTrigger, server: Server) -> Self {
        let (state, loss) = (trigger.connection_state(), trigger.loss());
        let mut bus = Self::around(kind, server, Box::new(trigger), state).await;
        bus.loss = loss;
        bus
    }

    async fn around(
        kind: Kind,
        server: Server,
        trigger: Box<dyn Trigger>,
        state: watch::Receiver<ConnectionState>,
    ) -> Self {
        let (sender, deliveries) = mpsc::channel(1);
        let (shutdown, signal) = Shutdown::new();
        let running = trigger.run(sender, signal);
        #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
        let running = tokio::spawn(async { running.await.unwrap() });
        let mut bus = Self {
            kind,
            server,
            deliveries,
            state,
            loss: None,
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
        if let (Kind::NatsCore(NatsFormat::Nats) | Kind::JetStream(NatsFormat::Nats), Server::Nats(server)) =
            (self.kind, &self.server)
        {
            let headers = [
                ("X-Correlation-ID", correlation_id),
                ("Content-Type", "application/json"),
                ("ApiVersion", "v3"),
                ("ErrorCode", "0"),
            ];
            let mut client = server.client().await.unwrap();
            return client
                .publish(&topic.replace('/', "."), &headers, payload)
                .await
                .unwrap();
        }
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
            Server::Nats(server) => {
                // In either form this is no envelope.
                let mut client = server.client().await.unwrap();
                let headers = [("ErrorCode", "none")];
                let headers = match self.kind {
                    Kind::NatsCore(NatsFormat::Nats) | Kind::JetStream(NatsFormat::Nats) => &headers[..],
                    _ => &[],
                };
                client.publish(&divided_by_dots, headers, message).await.unwrap();
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
on!(nats_core, Kind::NatsCore(NatsFormat::Nats));
on!(nats_core_json, Kind::NatsCore(NatsFormat::Json));
on!(jetstream, Kind::JetStream(NatsFormat::Nats));
on!(jetstream_json, Kind::JetStream(NatsFormat::Json));

async fn once_and_in_order(kind: Kind) {
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
    // Then it is said that something may be lost, where nobody keeps it
    let gaps = bus.loss.as_ref().map(|loss| loss.gaps());
    assert_eq!(gaps, (!matches!(kind, Kind::JetStream(_))).then_some(1));
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
            (Arc::new(publisher), Box::pin(std::future::ready(())))
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

mod redis_access {
    use super::*;

    fn with_password(server: &Redis, username: &str, password: &str) -> redis::ConnectionSettings {
        let mut connection = connection(server);
        connection.access = Arc::new(Fixed::new(access(username, password)));
        connection
    }

    fn access(username: &str, password: &str) -> redis::Access {
        redis::Access {
            tls: None,
            credentials: Some(redis::Credentials {
                username: username.to_owned(),
                password: SecretText::new(password),
            }),
        }
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
    async fn when_every_publisher_is_gone_the_connection_ends_also_without_a_server() {
        let mut server = Redis::start().await.unwrap();
        for away in [false, true] {
            if away {
                server.stop().await.unwrap();
            }
            let mut connection = connection(&server);
            connection.connect_timeout = Duration::from_millis(300);
            let (publisher, publication) = redis::Publication::new(connection);
            let (_shutdown, signal) = Shutdown::new();
            #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
            let running = tokio::spawn(publication.run(signal));
            let published = publisher.publish("edgex/a", Bytes::new()).await;
            assert_eq!(published.is_err(), away, "{published:?}");
            assert!(!running.is_finished());
            drop(publisher);
            timeout(LONG, running).await.expect("it ends").unwrap();
        }
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

mod a_renewed_secret_counts_without_a_restart {
    use super::*;

    /// Runs the trigger, waits until it has been refused, renews the secret, and waits for a message.
    async fn is_let_in<T: Trigger + 'static>(
        trigger: T,
        mut state: watch::Receiver<ConnectionState>,
        renew: impl FnOnce(),
        publish: impl AsyncFn(),
    ) {
        let (sender, mut deliveries) = mpsc::channel(1);
        let (shutdown, signal) = Shutdown::new();
        #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
        let running = tokio::spawn(Box::new(trigger).run(sender, signal));
        let subscribed = state.wait_for(|state| *state == ConnectionState::Subscribed);
        assert!(
            timeout(Duration::from_millis(700), subscribed).await.is_err(),
            "refused"
        );
        assert!(!running.is_finished());
        renew();
        let subscribed = state.wait_for(|state| *state == ConnectionState::Subscribed);
        timeout(LONG, subscribed).await.expect("let in").expect("it runs");
        publish().await;
        let delivery = timeout(LONG, deliveries.recv())
            .await
            .expect("a delivery")
            .expect("it runs");
        delivery.ack.done();
        shutdown.trigger();
        timeout(LONG, running)
            .await
            .expect("it ends")
            .expect("without a panic")
            .unwrap();
    }

    #[tokio::test]
    async fn on_redis() {
        let server = Redis::builder().password("new").start().await.unwrap();
        let access = |password: &str| redis::Access {
            tls: None,
            credentials: Some(redis::Credentials {
                username: String::new(),
                password: SecretText::new(password),
            }),
        };
        let secret = Renewed::new(access("old"));
        let mut connection = connection(&server);
        connection.access = secret.clone();
        let trigger = RedisBusTrigger::new(RedisBusSettings {
            connection: connection.clone(),
            base_prefix: "edgex".to_owned(),
            filters: subscribe_filters("edgex", "events/#").unwrap(),
            budget: ByteBudget::new(100_000),
        });
        let (publisher, publication) = redis::Publication::new(connection);
        let (_shutdown, signal) = Shutdown::new();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(publication.run(signal));
        assert!(publisher.publish("edgex/events/a", Bytes::new()).await.is_err());
        let state = trigger.connection_state();
        let publish = async || {
            until("the publisher to be let in", LONG, async || {
                publisher
                    .publish("edgex/events/a", Bytes::from_static(b"{}"))
                    .await
                    .is_ok()
            })
            .await;
        };
        is_let_in(trigger, state, || secret.renew(access("new")), publish).await;
    }

    #[tokio::test]
    async fn on_nats_core() {
        on_nats(Kind::NatsCore(NatsFormat::Nats)).await;
    }

    #[tokio::test]
    async fn on_jetstream() {
        on_nats(Kind::JetStream(NatsFormat::Nats)).await;
    }

    async fn on_nats(kind: Kind) {
        let server = Nats::builder().user("app", "new").start().await.unwrap();
        let access = |password: &str| nats::Access {
            tls: None,
            login: Some(nats::Login::Password {
                username: "app".to_owned(),
                password: SecretText::new(password),
            }),
        };
        let secret = Renewed::new(access("old"));
        let mut connection = nats_connection(&server);
        connection.access = secret.clone();
        connection.connect_timeout = Duration::from_millis(500);
        let publisher = match kind {
            Kind::JetStream(_) => nats::Publisher::to_stream(connection.clone(), stream(), 2),
            _ => nats::Publisher::to_subscribers(connection.clone()),
        };
        assert!(
            publisher
                .publish("edgex/events/a", &[], Bytes::new())
                .await
                .is_err()
        );
        let source = match kind {
            Kind::JetStream(_) => NatsSource::JetStream(stream()),
            _ => NatsSource::Core {
                queue_group: String::new(),
            },
        };
        let trigger = NatsBusTrigger::try_new(NatsBusSettings {
            connection,
            base_prefix: "edgex".to_owned(),
            filters: subscribe_filters("edgex", "events/#").unwrap(),
            budget: ByteBudget::new(4 * 1024 * 1024),
            format: NatsFormat::Nats,
            source,
        })
        .unwrap();
        let state = trigger.connection_state();
        let publish = async || {
            until("the publisher to be let in", LONG, async || {
                publisher
                    .publish("edgex/events/a", &[], Bytes::from_static(b"{}"))
                    .await
                    .is_ok()
            })
            .await;
        };
        is_let_in(trigger, state, || secret.renew(access("new")), publish).await;
    }
}

mod a_stream {
    use edgehold_test_support::NatsClient;
    use serde_json::{Value, json};

    use super::*;

    const KIND: Kind = Kind::JetStream(NatsFormat::Nats);

    /// A service called `app`.
    fn named() -> nats::StreamSettings {
        nats::StreamSettings {
            durable: Some("app".to_owned()),
            ..stream()
        }
    }

    async fn service(server: Nats, topics: &str, stream: nats::StreamSettings) -> Bus {
        let trigger = nats_trigger(KIND, &server, topics, stream, ByteBudget::new(4 * 1024 * 1024));
        Bus::around_nats(KIND, trigger, Server::Nats(server)).await
    }

    impl Bus {
        /// Ends the service, as when it is killed, and leaves the server.
        fn killed(self) -> Nats {
            self.running.abort();
            match self.server {
                Server::Nats(server) => server,
                Server::Redis(_) => unreachable!("Redis has no streams"),
            }
        }

        async fn client(&self) -> NatsClient {
            match &self.server {
                Server::Nats(server) => server.client().await.unwrap(),
                Server::Redis(_) => unreachable!("Redis has no streams"),
            }
        }

        /// What the server says of a consumer.
        async fn consumer(&self, name: &str) -> Value {
            let question = format!("CONSUMER.INFO.edgex.{name}");
            self.client()
                .await
                .jetstream(&question, &Value::Null)
                .await
                .unwrap()
        }

        async fn wait_acknowledged(&self, name: &str, number: u64) {
            until("the acknowledgement", LONG, async || {
                self.consumer(name).await["ack_floor"]["stream_seq"] == number
            })
            .await;
        }
    }

    async fn make(server: &Nats, consumer: Value) {
        let mut client = server.client().await.unwrap();
        let stream = json!({ "name": "edgex", "subjects": ["edgex.>"] });
        client.jetstream("STREAM.CREATE.edgex", &stream).await.unwrap();
        let name = consumer["durable_name"].as_str().unwrap().to_owned();
        let request = json!({ "stream_name": "edgex", "config": consumer });
        let made = client
            .jetstream(&format!("CONSUMER.DURABLE.CREATE.edgex.{name}"), &request)
            .await;
        let made = made.unwrap();
        assert!(made.get("error").is_none(), "{made}");
    }

    #[tokio::test]
    async fn what_was_not_done_with_when_the_service_was_killed_comes_again_and_nothing_else() {
        // Given a server that waits two seconds for an answer, and three messages of which one is done with
        let server = Nats::start().await.unwrap();
        let consumer = json!({ "durable_name": "app", "ack_policy": "explicit", "ack_wait": 2_000_000_000,
            "filter_subject": "edgex.events.>", "deliver_policy": "new", "max_deliver": -1 });
        make(&server, consumer).await;
        let mut bus = service(server, "events/#", named()).await;
        for number in ["1", "2", "3"] {
            bus.publish("edgex/events/a", number, b"{}").await;
        }
        bus.next_message().await;
        let held = bus.next().await;
        bus.wait_acknowledged("app", 1).await;

        // When the service is killed, and something is published while it is away
        let server = bus.killed();
        drop(held);
        let mut client = server.client().await.unwrap();
        let headers = [("X-Correlation-ID", "4"), ("Content-Type", "application/json")];
        client.publish("edgex.events.a", &headers, b"{}").await.unwrap();

        // Then the next one gets the rest
        let mut bus = service(server, "events/#", named()).await;
        let mut came = Vec::new();
        for _ in 0..3 {
            came.push(bus.next_message().await.1);
        }
        came.sort_unstable();
        assert_eq!(came, ["2", "3", "4"]);
        bus.wait_acknowledged("app", 4).await;
        bus.end().await;
    }

    #[tokio::test]
    async fn what_takes_long_is_not_delivered_again_meanwhile() {
        // Given a server with little patience
        let server = Nats::start().await.unwrap();
        let consumer = json!({ "durable_name": "app", "ack_policy": "explicit", "ack_wait": 900_000_000,
            "filter_subject": "edgex.events.>", "deliver_policy": "all", "max_deliver": -1 });
        make(&server, consumer).await;
        let mut bus = service(server, "events/#", named()).await;

        // When a message takes three times as long
        bus.publish("edgex/events/a", "slow", b"{}").await;
        let slow = bus.next().await;
        assert!(
            timeout(Duration::from_secs(3), bus.deliveries.recv())
                .await
                .is_err()
        );
        let consumer = bus.consumer("app").await;
        assert_eq!(consumer["num_ack_pending"], 1, "{consumer}");
        assert_eq!(consumer["num_redelivered"], 0, "{consumer}");

        // Then it is acknowledged when it is done
        slow.ack.done();
        bus.wait_acknowledged("app", 1).await;
        bus.end().await;
    }

    #[tokio::test]
    async fn a_consumer_of_edgex_is_left_alone_and_read_beside() {
        let server = Nats::start().await.unwrap();
        let consumer = json!({ "durable_name": "app", "ack_policy": "none", "deliver_subject": "somewhere",
            "filter_subject": "edgex.events.>", "deliver_policy": "new" });
        make(&server, consumer).await;
        let mut server = server;
        for number in ["1", "2"] {
            let mut bus = service(server, "events/#", named()).await;
            bus.publish("edgex/events/a", number, b"{}").await;
            assert_eq!(bus.next_message().await.1, number);
            assert_eq!(
                bus.consumer("app").await["config"]["deliver_subject"],
                "somewhere"
            );
            let done = if number == "1" { 1 } else { 2 };
            bus.wait_acknowledged("app-edgehold", done).await;
            server = bus.killed();
        }
    }

    #[tokio::test]
    async fn other_topics_in_the_settings_change_the_consumer() {
        let mut bus = service(Nats::start().await.unwrap(), "events/#", named()).await;
        bus.publish("edgex/events/a", "1", b"{}").await;
        assert_eq!(bus.next_message().await.1, "1");
        bus.wait_acknowledged("app", 1).await;
        let mut bus = service(bus.killed(), "events/#, telemetry/#", named()).await;
        bus.publish("edgex/elsewhere", "not for us", b"{}").await;
        bus.publish("edgex/telemetry/a", "2", b"{}").await;
        assert_eq!(bus.next_message().await.1, "2");
        bus.wait_acknowledged("app", 3).await;
        let mut bus = service(bus.killed(), "telemetry/#", named()).await;
        bus.publish("edgex/telemetry/a", "3", b"{}").await;
        assert_eq!(bus.next_message().await.1, "3");
        bus.end().await;
    }

    #[tokio::test]
    async fn a_new_consumer_begins_where_the_settings_say() {
        for (word, topics, expected) in [
            ("new", "events/#", &["4"][..]),
            ("all", "events/#", &["1", "2", "3", "4"]),
            ("Last", "events/#", &["3", "4"]),
            ("lastpersubject", "events/#", &["2", "3", "4"]),
            ("lastpersubject", "events/a, events/b", &["2", "3", "4"]),
            ("", "events/#", &["4"]),
        ] {
            // Given a stream with three messages on two subjects
            let server = Nats::start().await.unwrap();
            let mut client = server.client().await.unwrap();
            let config = json!({ "name": "edgex", "subjects": ["edgex.>"] });
            client.jetstream("STREAM.CREATE.edgex", &config).await.unwrap();
            for (subject, number) in [("a", "1"), ("b", "2"), ("a", "3")] {
                let headers = [("X-Correlation-ID", number), ("Content-Type", "application/json")];
                let subject = format!("edgex.events.{subject}");
                client.publish(&subject, &headers, b"{}").await.unwrap();
            }

            // When a consumer is made, then it gets of them what the settings say, and all that comes later
            let stream = nats::StreamSettings {
                deliver: nats::Deliver::from_setting(word),
                ..stream()
            };
            let mut bus = service(server, topics, stream).await;
            bus.publish("edgex/events/a", "4", b"{}").await;
            for number in expected {
                assert_eq!(bus.next_message().await.1, *number, "{word} {topics}");
            }
            bus.end().await;
        }
    }

    #[tokio::test]
    async fn what_was_in_hand_at_a_kill_comes_again_within_seconds() {
        // Given a consumer that the service has made, and a message in hand
        let mut bus = service(Nats::start().await.unwrap(), "events/#", named()).await;
        let patience = bus.consumer("app").await["config"]["ack_wait"].as_u64().unwrap();
        assert!(patience <= 6_000_000_000, "{patience}");
        bus.publish("edgex/events/a", "1", b"{}").await;
        let held = bus.next().await;

        // When the service is killed, then the next one gets it, although nobody has answered
        let server = bus.killed();
        std::mem::forget(held);
        let mut bus = service(server, "events/#", named()).await;
        assert_eq!(bus.next_message().await.1, "1");
        bus.wait_acknowledged("app", 1).await;
        bus.end().await;
    }

    #[tokio::test]
    async fn a_stream_that_is_missing_is_waited_for() {
        // Given no stream, and no right to make one
        let server = Nats::start().await.unwrap();
        let stream = nats::StreamSettings {
            auto_provision: false,
            ..named()
        };
        let trigger = nats_trigger(KIND, &server, "events/#", stream, ByteBudget::new(100_000));
        let mut state = trigger.connection_state();
        let (sender, _deliveries) = mpsc::channel(1);
        let (_shutdown, signal) = Shutdown::new();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        let running = tokio::spawn(Box::new(trigger).run(sender, signal));
        let subscribed = state.wait_for(|state| *state == ConnectionState::Subscribed);
        assert!(timeout(Duration::from_secs(1), subscribed).await.is_err());
        assert!(!running.is_finished());

        // When somebody makes it
        let mut client = server.client().await.unwrap();
        let config = json!({ "name": "other", "subjects": ["edgex.events.>"] });
        client.jetstream("STREAM.CREATE.other", &config).await.unwrap();

        // Then it is read
        let subscribed = state.wait_for(|state| *state == ConnectionState::Subscribed);
        timeout(LONG, subscribed)
            .await
            .expect("it is found")
            .expect("it runs");
    }

    #[tokio::test]
    async fn a_message_larger_than_a_pull_takes_comes_alone() {
        let server = Nats::start().await.unwrap();
        let trigger = nats_trigger(KIND, &server, "events/#", named(), ByteBudget::new(100_000));
        let mut bus = Bus::around_nats(KIND, trigger, Server::Nats(server)).await;
        for number in ["1", "2", "3"] {
            bus.publish("edgex/events/a", number, &vec![b'x'; 200_000]).await;
        }
        for number in ["1", "2", "3"] {
            assert_eq!(bus.next_message().await.1, number);
        }
        bus.end().await;
    }
}

mod nats_access {
    use edgehold_test_support::NatsOperator;

    use super::*;

    fn core_trigger(connection: nats::ConnectionSettings, queue_group: &str) -> NatsBusTrigger {
        let settings = NatsBusSettings {
            connection,
            base_prefix: "edgex".to_owned(),
            filters: subscribe_filters("edgex", "events/#").unwrap(),
            budget: ByteBudget::new(4 * 1024 * 1024),
            format: NatsFormat::Nats,
            source: NatsSource::Core {
                queue_group: queue_group.to_owned(),
            },
        };
        NatsBusTrigger::try_new(settings).unwrap()
    }

    #[tokio::test]
    async fn members_of_a_queue_group_share_the_messages_and_others_get_all() {
        const KIND: Kind = Kind::NatsCore(NatsFormat::Nats);
        const MESSAGES: usize = 60;
        let server = Nats::start().await.unwrap();
        let mut of_group = Vec::new();
        for _ in 0..2 {
            let trigger = core_trigger(nats_connection(&server), "group");
            let state = trigger.connection_state();
            let (sender, deliveries) = mpsc::channel(MESSAGES);
            let (shutdown, signal) = Shutdown::new();
            #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
            tokio::spawn(Box::new(trigger).run(sender, signal));
            of_group.push((state, deliveries, shutdown));
        }
        for (state, _, _) in &mut of_group {
            let subscribed = state.wait_for(|state| *state == ConnectionState::Subscribed);
            timeout(LONG, subscribed).await.unwrap().unwrap();
        }
        let trigger = core_trigger(nats_connection(&server), "");
        let mut alone = Bus::around_nats(KIND, trigger, Server::Nats(server)).await;
        for number in 0..MESSAGES {
            alone.publish("edgex/events/a", &number.to_string(), b"{}").await;
        }
        for number in 0..MESSAGES {
            assert_eq!(alone.next_message().await.1, number.to_string());
        }
        let mut shares = [0, 0];
        until("every message to come to one of the group", LONG, async || {
            for (share, (_, deliveries, _)) in shares.iter_mut().zip(&mut of_group) {
                while let Ok(delivery) = deliveries.try_recv() {
                    delivery.ack.done();
                    *share += 1;
                }
            }
            shares[0] + shares[1] >= MESSAGES
        })
        .await;
        alone.end().await;
        assert_eq!(shares[0] + shares[1], MESSAGES);
        assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    }

    /// `CredentialsFile`, with a server in operator mode.
    #[tokio::test]
    async fn a_credentials_file_opens_and_that_of_another_operator_does_not() {
        let (operator, stranger) = (NatsOperator::new(), NatsOperator::new());
        let server = Nats::builder()
            .operated_by(&operator)
            .unwrap()
            .start()
            .await
            .unwrap();
        let login = |operator: &NatsOperator| {
            let text = operator.credentials().unwrap();
            Some(nats::Login::Credentials(SecretText::new(text)))
        };
        let error = publish_once(&server, login(&stranger))
            .await
            .expect_err("a stranger");
        assert!(error.to_string().contains("authorization"), "{error}");

        let mut connection = nats_connection(&server);
        connection.access = Arc::new(Fixed::new(nats::Access {
            tls: None,
            login: login(&operator),
        }));
        let trigger = core_trigger(connection.clone(), "");
        let kind = Kind::NatsCore(NatsFormat::Nats);
        let mut bus = Bus::around_nats(kind, trigger, Server::Nats(server)).await;
        let publisher = nats::Publisher::to_subscribers(connection);
        let headers = [("X-Correlation-ID", "1"), ("Content-Type", "application/json")];
        publisher
            .publish("edgex/events/a", &headers, Bytes::from_static(b"{}"))
            .await
            .unwrap();
        assert_eq!(bus.next_message().await.1, "1");
        bus.end().await;
    }

    async fn publish_once(server: &Nats, login: Option<nats::Login>) -> Result<(), nats::PublishError> {
        let mut connection = nats_connection(server);
        connection.connect_timeout = Duration::from_secs(2);
        connection.access = Arc::new(Fixed::new(nats::Access { tls: None, login }));
        let publisher = nats::Publisher::to_subscribers(connection);
        publisher.publish("edgex/a", &[], Bytes::from_static(b"{}")).await
    }

    fn password(username: &str, password: &str) -> Option<nats::Login> {
        Some(nats::Login::Password {
            username: username.to_owned(),
            password: SecretText::new(password),
        })
    }

    #[tokio::test]
    async fn the_right_password_opens_and_a_wrong_one_or_none_does_not() {
        let server = Nats::builder().user("app", "hunter2").start().await.unwrap();
        let published = publish_once(&server, password("app", "hunter2")).await;
        assert!(published.is_ok(), "{published:?}");
        for login in [password("app", "wrong"), None] {
            let error = publish_once(&server, login).await.expect_err("a wrong password");
            assert!(error.to_string().contains("authorization"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_nkey_opens() {
        // A key pair made for this test alone.
        let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
        let key = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
        let users =
            format!("authorization {{ users: [ {{ nkey: {key} }}, {{ user: app, password: hunter2 }} ] }}");
        let server = Nats::builder()
            .connect_as("app", "hunter2")
            .config(&users)
            .start()
            .await
            .unwrap();
        let published = publish_once(&server, Some(nats::Login::NKeySeed(SecretText::new(seed)))).await;
        assert!(published.is_ok(), "{published:?}");
    }
}

mod encrypted {
    use edgehold_mqtt::{TlsSettings, Trust};
    use edgehold_test_support::{Authority, TlsFront};
    use rustls::ClientConfig;

    use super::*;

    fn trusting(authority: &Authority) -> Arc<ClientConfig> {
        let settings = TlsSettings {
            trust: Trust::Authorities(authority.pem().to_owned()),
            client_certificate: None,
        };
        settings.client_config().unwrap()
    }

    #[tokio::test]
    async fn redis_is_spoken_to_over_tls_and_an_impostor_is_not() {
        let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
        let server = Redis::start().await.unwrap();
        let certificate = authority.issue("127.0.0.1").unwrap();
        let front = TlsFront::start(server.port(), &certificate, None).await.unwrap();
        let mut listener = server.client().await.unwrap();
        listener.subscribe("edgex.*").await.unwrap();
        let publish = async |trusted: &Authority| {
            let mut connection = redis::ConnectionSettings::new("127.0.0.1", front.port());
            connection.connect_timeout = Duration::from_secs(2);
            connection.access = Arc::new(Fixed::new(redis::Access {
                tls: Some(trusting(trusted)),
                credentials: None,
            }));
            let (publisher, publication) = redis::Publication::new(connection);
            let (_shutdown, signal) = Shutdown::new();
            #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
            tokio::spawn(publication.run(signal));
            publisher.publish("edgex/a", Bytes::from_static(b"{}")).await
        };
        publish(&authority).await.unwrap();
        assert_eq!(listener.next_message().await.unwrap().0, "edgex.a");
        let error = publish(&stranger).await.expect_err("nobody knows this authority");
        assert!(matches!(error, redis::PublishError::TimedOut { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn nats_is_spoken_to_over_tls_and_an_impostor_is_not() {
        let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
        let certificate = authority.issue("127.0.0.1").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, &certificate.pem).unwrap();
        std::fs::write(&key, &certificate.key).unwrap();
        let tls = format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\nallow_non_tls: true",
            cert.display(),
            key.display()
        );
        let server = Nats::builder().config(&tls).start().await.unwrap();
        let mut listener = server.client().await.unwrap();
        listener.subscribe("edgex.*").await.unwrap();
        let publish = async |trusted: &Authority| {
            let mut connection = nats_connection(&server);
            connection.connect_timeout = Duration::from_secs(2);
            connection.access = Arc::new(Fixed::new(nats::Access {
                tls: Some(trusting(trusted)),
                login: None,
            }));
            let publisher = nats::Publisher::to_subscribers(connection);
            publisher.publish("edgex/a", &[], Bytes::from_static(b"{}")).await
        };
        publish(&authority).await.unwrap();
        assert_eq!(listener.next_message().await.unwrap().subject, "edgex.a");
        let error = publish(&stranger).await.expect_err("nobody knows this authority");
        assert!(
            matches!(error, nats::PublishError::Unreachable { .. }),
            "{error:?}"
        );
    }
}
