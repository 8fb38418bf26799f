//! The EdgeX message bus over NATS, core and JetStream.

use std::sync::Arc;

use edgehold_bus_nats::{
    Access, ConnectionSettings, Deliver, Login, Message, Publisher, StreamSettings, Subscription,
};
use edgehold_config::configuration::MessageBus;
use edgehold_core::{ByteBudget, ResponsePublisher, TriggerError};
use edgehold_ingest::{
    BusPublisher, MessageBusResponse, NatsBusPublisher, NatsBusSettings, NatsBusTrigger, NatsFormat,
    NatsSource, response_topic, subscribe_filters,
};

use edgehold_keeper::NoticeSender;

use super::listening::telling;
use super::security::{BusSecurity, Security};
use crate::{
    durability::BusPromise,
    trigger::{Companion, Ingress, Origin},
};

/// Which of NATS' two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Core,
    JetStream,
}

/// What no setting of NATS core can change.
const CORE_GAP: &str = "with MessageBus/Type nats-core what is published while the service is away or not connected, what \
                        comes while MaxInFlightBytes is used up, and what is in hand when the service is killed before it \
                        is stored (Writable/StoreAndForward/Journal always shortens that), is lost";

/// What a consumer without a name lacks. Without Store and Forward at the start nobody asked for one.
const NAMELESS_GAP: &str = "without MessageBus/Optional/Durable or QueueGroup (a name is found at the next start) what is \
                            published while the service is away, and what is in hand when it is killed, is lost";

pub(super) async fn build(origin: Origin<'_>, way: Way) -> Result<Ingress, TriggerError> {
    let connection = connection(&origin).await?;
    let publisher = publisher(&origin, connection.clone(), way);
    let Origin {
        configuration,
        budget,
        ..
    } = &origin;
    let bus = &configuration.message_bus;
    let filters = subscribe_filters(
        &bus.base_topic_prefix,
        &configuration.trigger.subscribe_topics.join(","),
    )?;
    for filter in &filters {
        tracing::info!("Subscribing to topic: {filter}");
    }
    let topic = response_topic(&bus.base_topic_prefix, &configuration.trigger.publish_topic);
    let response = topic.map(|topic| -> Arc<dyn ResponsePublisher> {
        tracing::info!("Publishing responses to topic: {topic}");
        Arc::new(MessageBusResponse::new(publisher.clone(), topic))
    });
    let (source, gap) = match way {
        Way::Core => {
            let queue_group = bus.optional_text("QueueGroup").to_owned();
            (NatsSource::Core { queue_group }, Some(CORE_GAP))
        }
        Way::JetStream => {
            let stream = stream(&origin);
            let gap = stream.durable.is_none().then_some(NAMELESS_GAP);
            (NatsSource::JetStream(stream), gap)
        }
    };
    let trigger = NatsBusTrigger::try_new(NatsBusSettings {
        connection,
        base_prefix: bus.base_topic_prefix.clone(),
        filters,
        budget: budget.clone(),
        format: format(bus),
        source,
    })?;
    Ok(Ingress {
        loss: trigger.loss(),
        trigger: Box::new(trigger),
        response,
        companions: Vec::new(),
        session: Some(BusPromise::Gaps(gap.into_iter().collect())),
        inlet: None,
        publisher: Some(publisher),
    })
}

/// A connection to publish by, opened with the first message. It needs nobody to run it.
pub(super) async fn publishing(
    origin: &Origin<'_>,
    way: Way,
) -> Result<(Arc<dyn BusPublisher>, Companion), TriggerError> {
    let publisher = publisher(origin, connection(origin).await?, way);
    let run: Companion = Box::new(|mut shutdown| Box::pin(async move { shutdown.recv().await }));
    Ok((publisher, run))
}

/// A connection that listens for the notices of changes: without a stream in either way, because a notice of a time when
/// nobody listened says nothing that is not looked for anyway.
pub(super) async fn listening(
    origin: &Origin<'_>,
    notices: NoticeSender,
    budget: ByteBudget,
) -> Result<Companion, TriggerError> {
    let connection = connection(origin).await?;
    let no_group = String::new();
    let (subscription, arrivals) = Subscription::try_new(connection, notices.filters(), no_group, budget)
        .map_err(|error| TriggerError::Configuration(error.to_string()))?;
    let state = subscription.state();
    let run: Companion = Box::new(|mut shutdown| {
        Box::pin(async move {
            if let Err(reason) = subscription.run(shutdown.clone()).await {
                tracing::warn!("nobody listens for changes of the configuration: {reason}");
                shutdown.recv().await;
            }
        })
    });
    let done = |notice: Message| notice.incoming.ack.done();
    Ok(telling(notices, state, arrivals, done, run))
}

fn publisher(origin: &Origin<'_>, connection: ConnectionSettings, way: Way) -> Arc<dyn BusPublisher> {
    let bus = &origin.configuration.message_bus;
    let client_id = connection.client_name.clone();
    let publisher = NatsBusPublisher {
        publisher: match way {
            Way::Core => Publisher::to_subscribers(connection),
            Way::JetStream => Publisher::to_stream(connection, stream(origin), bus.publish_retries()),
        },
        format: format(bus),
        exactly_once: bus.exactly_once().then_some(client_id),
    };
    Arc::new(publisher)
}

fn format(bus: &MessageBus) -> NatsFormat {
    NatsFormat::from_setting(bus.optional_text("Format"))
}

/// The stream, as EdgeX reads the options. Where nobody names the consumer, what arrives while we are away is worth
/// waiting for as soon as we promise to keep it: it is called like the service then.
fn stream(origin: &Origin<'_>) -> StreamSettings {
    let bus = &origin.configuration.message_bus;
    let durable = bus.optional_text("Durable").trim();
    let saf_enabled = origin.configuration.writable.store_and_forward.enabled;
    let ours = if saf_enabled {
        origin.service_key.as_str()
    } else {
        ""
    };
    let name = [durable, bus.optional_text("QueueGroup").trim(), ours]
        .into_iter()
        .find(|name| !name.is_empty());
    StreamSettings {
        durable: name.map(str::to_owned),
        stream_name: durable.to_owned(),
        subject: bus.optional_text("Subject").trim().to_owned(),
        auto_provision: bus.auto_provision(),
        deliver: Deliver::from_setting(bus.optional_text("Deliver")),
    }
}

/// How to reach the server.
async fn connection(origin: &Origin<'_>) -> Result<ConnectionSettings, TriggerError> {
    let Origin {
        configuration,
        service_key,
        secrets,
        ..
    } = origin;
    let bus = &configuration.message_bus;
    let mut connection = ConnectionSettings::new(&bus.host, bus.port);
    let file = |setting| match bus.optional_text(setting) {
        "" => None,
        path => Some((setting, path.to_owned())),
    };
    connection.access = match (file("CredentialsFile"), file("NKeySeedFile")) {
        (None, None) => BusSecurity::try_new(bus, secrets, None, by_password).await?,
        (None, seed) => BusSecurity::try_new(bus, secrets, seed, by_seed).await?,
        (credentials, _) => BusSecurity::try_new(bus, secrets, credentials, by_credentials).await?,
    };
    connection.client_name = bus.client_id().unwrap_or(service_key.as_str()).to_owned();
    connection.keep_alive = bus.keep_alive();
    connection.connect_timeout = bus.connect_timeout();
    connection.max_message_bytes = configuration.limits.max_message_bytes;
    Ok(connection)
}

fn by_password(Security { login, tls, .. }: Security) -> Access {
    let login = login.map(|(username, password)| Login::Password { username, password });
    Access { tls, login }
}

fn by_seed(Security { tls, file, .. }: Security) -> Access {
    let login = file.map(Login::NKeySeed);
    Access { tls, login }
}

fn by_credentials(Security { tls, file, .. }: Security) -> Access {
    let login = file.map(Login::Credentials);
    Access { tls, login }
}
