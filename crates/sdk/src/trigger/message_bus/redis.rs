//! The EdgeX message bus over Redis pub/sub.

use std::sync::Arc;

use edgehold_bus_redis::{Access, ConnectionSettings, Credentials, Publication, Subscription};
use edgehold_core::{ByteBudget, Incoming, ResponsePublisher, TriggerError};
use edgehold_ingest::{
    BusPublisher, MessageBusResponse, RedisBusSettings, RedisBusTrigger, response_topic, subscribe_filters,
};

use edgehold_keeper::NoticeSender;

use super::listening::telling;
use super::security::{BusSecurity, Security};
use crate::{
    durability::BusPromise,
    publishing::lazily,
    trigger::{Companion, Ingress, Origin},
};

/// What no setting can change.
const GAP: &str = "with MessageBus/Type redis what is published while the service is away or not connected, what Redis \
                   drops because it is taken too slowly, and what is in hand when the service is killed before it is \
                   stored (Writable/StoreAndForward/Journal always shortens that), is lost";

pub(super) async fn build(origin: Origin<'_>) -> Result<Ingress, TriggerError> {
    let connection = connection(&origin).await?;
    let Origin {
        configuration,
        budget,
        ..
    } = origin;
    let bus = &configuration.message_bus;
    let filters = subscribe_filters(
        &bus.base_topic_prefix,
        &configuration.trigger.subscribe_topics.join(","),
    )?;
    for filter in &filters {
        tracing::info!("Subscribing to topic: {filter}");
    }
    let topic = response_topic(&bus.base_topic_prefix, &configuration.trigger.publish_topic);
    let (publisher, run) = publisher(connection.clone());
    let (response, (publisher, run)) = match topic {
        None => (None, lazily(publisher, run)),
        Some(topic) => {
            tracing::info!("Publishing responses to topic: {topic}");
            let response: Arc<dyn ResponsePublisher> =
                Arc::new(MessageBusResponse::new(publisher.clone(), topic));
            (Some(response), (publisher, run))
        }
    };
    let trigger = RedisBusTrigger::new(RedisBusSettings {
        connection,
        base_prefix: bus.base_topic_prefix.clone(),
        filters,
        budget,
    });
    Ok(Ingress {
        loss: Some(trigger.loss()),
        trigger: Box::new(trigger),
        response,
        companions: vec![run],
        session: Some(BusPromise::Gaps(vec![GAP])),
        inlet: None,
        publisher: Some(publisher),
    })
}

/// A connection to publish by alone, opened with the first message.
pub(super) async fn publishing(
    origin: &Origin<'_>,
) -> Result<(Arc<dyn BusPublisher>, Companion), TriggerError> {
    let (publisher, run) = publisher(connection(origin).await?);
    Ok(lazily(publisher, run))
}

/// A connection that listens for the notices of changes.
pub(super) async fn listening(
    origin: &Origin<'_>,
    notices: NoticeSender,
    budget: ByteBudget,
) -> Result<Companion, TriggerError> {
    let connection = connection(origin).await?;
    let (subscription, arrivals) = Subscription::new(connection, notices.filters(), budget);
    let state = subscription.state();
    let run: Companion = Box::new(|shutdown| Box::pin(subscription.run(shutdown)));
    let done = |notice: Incoming| notice.ack.done();
    Ok(telling(notices, state, arrivals, done, run))
}

/// The connection beside the receiving one.
fn publisher(connection: ConnectionSettings) -> (Arc<dyn BusPublisher>, Companion) {
    let (publisher, publication) = Publication::new(connection);
    let run: Companion = Box::new(|shutdown| Box::pin(publication.run(shutdown)));
    (Arc::new(publisher), run)
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
    connection.access = BusSecurity::try_new(bus, secrets, None, access).await?;
    connection.client_name = bus.client_id().unwrap_or(service_key.as_str()).to_owned();
    connection.keep_alive = bus.keep_alive();
    connection.connect_timeout = bus.connect_timeout();
    connection.max_message_bytes = configuration.limits.max_message_bytes;
    Ok(connection)
}

fn access(Security { login, tls, .. }: Security) -> Access {
    Access {
        tls,
        credentials: login.map(|(username, password)| Credentials { username, password }),
    }
}
