//! Redis and NATS: what every bus does alike, each case on each bus, and what is one's own. Owns what these share: a
//! trigger that runs, on a server of its own.

mod alike;
mod encrypted;
mod nats_access;
mod redis_access;
mod renewed_secret;
mod stream;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edgehold_bus_nats as nats;
use edgehold_bus_redis as redis;
use edgehold_contracts::{Generation, MessageEnvelope, Payload};
use edgehold_core::{ByteBudget, Delivery, Fixed, ReceptionLoss, SecretText, Shutdown};
use edgehold_ingest::{
    NatsBusSettings, NatsBusTrigger, NatsFormat, NatsSource, RedisBusSettings, RedisBusTrigger,
    subscribe_filters,
};
use edgehold_test_support::{Nats, Redis, unique_name};

use crate::{RunningTrigger, in_background};

/// Which bus, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Redis,
    NatsCore(NatsFormat),
    JetStream(NatsFormat),
}

/// Each case on this bus.
macro_rules! on {
    ($name:ident, $kind:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn each_message_comes_once_and_in_order_however_many_topics_take_it() {
                alike::once_and_in_order($kind).await;
            }

            #[tokio::test]
            async fn what_cannot_be_opened_comes_as_undecodable() {
                alike::undecodable($kind).await;
            }

            #[tokio::test]
            async fn a_large_message_comes_whole_and_one_too_large_is_set_aside() {
                alike::large($kind).await;
            }

            #[tokio::test]
            async fn a_server_that_was_away_is_found_within_three_seconds() {
                alike::bounce($kind).await;
            }

            #[tokio::test]
            async fn names_with_dots_come_as_they_were() {
                alike::dots($kind).await;
            }

            #[tokio::test]
            async fn what_is_published_reaches_subscribers() {
                alike::published($kind).await;
            }

            #[tokio::test]
            async fn while_the_budget_is_used_up_nothing_more_is_taken_in_and_then_it_goes_on() {
                alike::budget($kind).await;
            }
        }
    };
}

on!(redis_pub_sub, Kind::Redis);
on!(nats_core, Kind::NatsCore(NatsFormat::Nats));
on!(nats_core_json, Kind::NatsCore(NatsFormat::Json));
on!(jetstream, Kind::JetStream(NatsFormat::Nats));
on!(jetstream_json, Kind::JetStream(NatsFormat::Json));

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

/// The largest message the triggers here take whole.
const MAX_MESSAGE_BYTES: usize = 700_000;

const BUDGET_BYTES: u32 = 4 * 1024 * 1024;

fn redis_connection(port: u16) -> redis::ConnectionSettings {
    let mut connection = redis::ConnectionSettings::new("127.0.0.1", port);
    connection.client_name = "a test".to_owned();
    connection.max_message_bytes = MAX_MESSAGE_BYTES;
    connection
}

fn redis_settings(connection: redis::ConnectionSettings) -> RedisBusSettings {
    RedisBusSettings {
        connection,
        base_prefix: "edgex".to_owned(),
        filters: subscribe_filters("edgex", "events/#").unwrap(),
        budget: ByteBudget::new(BUDGET_BYTES),
    }
}

/// A publisher, and what ends it when dropped.
fn redis_publisher(connection: redis::ConnectionSettings) -> (redis::Publisher, Shutdown) {
    let (publisher, publication) = redis::Publication::new(connection);
    let (shutdown, signal) = Shutdown::new();
    in_background(publication.run(signal));
    (publisher, shutdown)
}

async fn redis_publish_once(connection: redis::ConnectionSettings) -> Result<(), redis::PublishError> {
    let (publisher, _running) = redis_publisher(connection);
    publisher.publish("edgex/a", Bytes::from_static(b"{}")).await
}

fn redis_password(username: &str, password: &str) -> redis::Access {
    redis::Access {
        tls: None,
        credentials: Some(redis::Credentials {
            username: username.to_owned(),
            password: SecretText::new(password),
        }),
    }
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

fn nats_settings(kind: Kind, connection: nats::ConnectionSettings) -> NatsBusSettings {
    let (format, source) = match kind {
        Kind::NatsCore(format) => (
            format,
            NatsSource::Core {
                queue_group: String::new(),
            },
        ),
        Kind::JetStream(format) => (format, NatsSource::JetStream(stream())),
        Kind::Redis => unreachable!("Redis is no NATS"),
    };
    NatsBusSettings {
        connection,
        base_prefix: "edgex".to_owned(),
        filters: subscribe_filters("edgex", "events/#").unwrap(),
        budget: ByteBudget::new(BUDGET_BYTES),
        format,
        source,
    }
}

fn nats_password(username: &str, password: &str) -> nats::Access {
    by_login(nats::Login::Password {
        username: username.to_owned(),
        password: SecretText::new(password),
    })
}

fn by_login(login: nats::Login) -> nats::Access {
    nats::Access {
        tls: None,
        login: Some(login),
    }
}

async fn nats_publish_once(server: &Nats, access: nats::Access) -> Result<(), nats::PublishError> {
    let mut connection = nats_connection(server);
    connection.connect_timeout = Duration::from_secs(2);
    connection.access = Arc::new(Fixed::new(access));
    let publisher = nats::Publisher::to_subscribers(connection);
    publisher.publish("edgex/a", &[], Bytes::from_static(b"{}")).await
}

/// A trigger that runs, and the server it runs on.
struct Bus {
    kind: Kind,
    server: Server,
    trigger: RunningTrigger,
    /// What is lost, where the bus keeps nothing.
    loss: Option<Arc<ReceptionLoss>>,
}

impl Bus {
    async fn start(kind: Kind, topics: &str) -> Self {
        Self::start_with(kind, topics, ByteBudget::new(BUDGET_BYTES)).await
    }

    async fn start_with(kind: Kind, topics: &str, budget: ByteBudget) -> Self {
        let filters = subscribe_filters("edgex", topics).unwrap();
        match Server::start(kind).await {
            Server::Redis(server) => {
                let trigger = RedisBusTrigger::new(RedisBusSettings {
                    filters,
                    budget,
                    ..redis_settings(redis_connection(server.port()))
                });
                let (state, loss) = (trigger.connection_state(), trigger.loss());
                Self {
                    kind,
                    server: Server::Redis(server),
                    trigger: RunningTrigger::start(trigger, state).await,
                    loss: Some(loss),
                }
            }
            Server::Nats(server) => {
                let settings = NatsBusSettings {
                    filters,
                    budget,
                    ..nats_settings(kind, nats_connection(&server))
                };
                Self::on_nats(kind, settings, server).await
            }
        }
    }

    async fn on_nats(kind: Kind, settings: NatsBusSettings, server: Nats) -> Self {
        let trigger = NatsBusTrigger::try_new(settings).unwrap();
        let (state, loss) = (trigger.connection_state(), trigger.loss());
        Self {
            kind,
            server: Server::Nats(server),
            trigger: RunningTrigger::start(trigger, state).await,
            loss,
        }
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
        self.trigger.next().await
    }

    /// The next message, its topic, correlation id and payload, done with.
    async fn next_message(&mut self) -> (String, String, Bytes) {
        self.trigger.next_message().await
    }

    async fn end(self) {
        self.trigger.end().await;
    }
}
