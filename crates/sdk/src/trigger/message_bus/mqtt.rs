//! The EdgeX message bus over MQTT.

use std::sync::Arc;

use edgehold_core::{ByteBudget, Incoming, ResponsePublisher, TriggerError};
use edgehold_ingest::{
    BusPublisher, MessageBusResponse, MessageBusSettings, MessageBusTrigger, MqttBusPublisher,
    response_topic, subscribe_filters,
};
use edgehold_keeper::NoticeSender;
use edgehold_mqtt::{BrokerAddress, ConnectionSettings, Identity, Publication, Qos, Rules, Subscription};

use super::{listening::telling, options};
use crate::{
    durability::{BusPromise, BusSession, SessionKeys},
    publishing::lazily,
    subscriptions::{SubscriptionMemory, remembering},
    trigger::{Companion, Ingress, Origin, wrong},
};

const KEYS: SessionKeys = SessionKeys {
    qos: "MessageBus/Optional/Qos",
    clean_session: "MessageBus/Optional/CleanSession",
};

pub(super) async fn build(origin: Origin<'_>) -> Result<Ingress, TriggerError> {
    let (connection, qos) = connection(&origin).await?;
    let (publisher, run) = publisher(&origin, &connection, qos)?;
    let Origin {
        configuration,
        service_key,
        data_dir,
        budget,
        envelope_form,
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
    let (response, (publisher, run)) = match topic {
        None => (None, lazily(publisher, run)),
        Some(topic) => {
            tracing::info!("Publishing responses to topic: {topic}");
            let response: Arc<dyn ResponsePublisher> =
                Arc::new(MessageBusResponse::new(publisher.clone(), topic));
            (Some(response), (publisher, run))
        }
    };
    let clean_session = connection.clean_session;
    let memory = (!clean_session).then(|| {
        let client_id = bus.client_id().unwrap_or(service_key.as_str());
        let broker = format!("{}:{}", bus.host, bus.port);
        SubscriptionMemory::read(data_dir, service_key, broker, client_id)
    });
    let trigger = MessageBusTrigger::try_new(MessageBusSettings {
        connection,
        filters: filters.clone(),
        former_filters: memory.as_ref().map_or_else(Vec::new, SubscriptionMemory::filters),
        qos,
        budget,
        envelope_form,
    })?;
    let session = BusSession {
        keys: KEYS,
        qos: qos.min(Qos::AtLeastOnce),
        clean_session,
        granted: trigger.granted(),
        published_lower: trigger.published_lower(),
    };
    let state = trigger.connection_state();
    Ok(Ingress {
        trigger: remembering(Box::new(trigger), state, memory, filters),
        response,
        companions: vec![run],
        session: Some(BusPromise::Session(session)),
        loss: None,
        inlet: None,
        publisher: Some(publisher),
    })
}

/// A connection to publish by alone, opened with the first message.
pub(super) async fn publishing(
    origin: &Origin<'_>,
) -> Result<(Arc<dyn BusPublisher>, Companion), TriggerError> {
    let (connection, qos) = connection(origin).await?;
    let (publisher, run) = publisher(origin, &connection, qos)?;
    Ok(lazily(publisher, run))
}

/// A connection that listens for the notices of changes.
pub(super) async fn listening(
    origin: &Origin<'_>,
    notices: NoticeSender,
    budget: ByteBudget,
) -> Result<Companion, TriggerError> {
    let (connection, _) = connection(origin).await?;
    let filters = notices.filters().to_vec();
    let (subscription, arrivals) =
        Subscription::try_new(&connection.beside("configs"), filters, Qos::AtLeastOnce, budget)
            .map_err(wrong("MessageBus"))?;
    let state = subscription.state();
    let run: Companion = Box::new(|shutdown| Box::pin(subscription.run(shutdown)));
    let done = |notice: Incoming| notice.ack.done();
    Ok(telling(notices, state, arrivals, done, run))
}

/// The connection beside the receiving one.
fn publisher(
    origin: &Origin<'_>,
    connection: &ConnectionSettings,
    qos: Qos,
) -> Result<(Arc<dyn BusPublisher>, Companion), TriggerError> {
    let (publisher, publication) =
        Publication::try_new(&connection.beside("pub")).map_err(wrong("MessageBus"))?;
    let publisher = MqttBusPublisher {
        publisher,
        qos,
        retain: origin.configuration.message_bus.retained(),
        envelope_form: origin.envelope_form,
    };
    let run: Companion = Box::new(|shutdown| Box::pin(publication.run(shutdown)));
    Ok((Arc::new(publisher), run))
}

/// How to reach the broker, and with which quality of service.
async fn connection(origin: &Origin<'_>) -> Result<(ConnectionSettings, Qos), TriggerError> {
    let Origin {
        configuration,
        service_key,
        secrets,
        ..
    } = origin;
    let bus = &configuration.message_bus;
    let identity = Identity {
        address: BrokerAddress::from_parts(&bus.protocol, &bus.host, bus.port)
            .map_err(wrong("MessageBus/Protocol"))?,
        auth_mode: bus.auth_mode.parse().map_err(wrong("MessageBus"))?,
        secret_name: bus.secret_name.clone(),
        skip_verify: bus.skip_cert_verify(),
        rules: Rules::MessageBus(Box::new(options(bus))),
        secrets: Arc::clone(secrets),
    };
    for remark in identity.remarks() {
        tracing::warn!("MessageBus: {remark}");
    }
    if !bus.auto_reconnect() {
        tracing::warn!(
            "MessageBus/Optional/AutoReconnect false has no effect: without a connection nothing would come until the \
             service is started again"
        );
    }
    let saf_enabled = configuration.writable.store_and_forward.enabled;
    let client_id = bus.client_id().unwrap_or(service_key.as_str());
    let address = &identity.address;
    let mut connection = ConnectionSettings::new(address.host.clone(), address.port, client_id)
        .with_identity(identity)
        .await
        .map_err(wrong("MessageBus"))?;
    connection.keep_alive = bus.keep_alive();
    connection.connect_timeout = bus.connect_timeout();
    // Where nobody says otherwise, what arrives while we are away is worth waiting for as soon as we promise to keep it.
    connection.clean_session = bus.clean_session().unwrap_or(!saf_enabled);
    connection.max_message_bytes = configuration.limits.max_message_bytes;
    // And what is acknowledged before it is kept cannot be kept.
    let level = bus.qos().unwrap_or(u8::from(saf_enabled));
    let qos = Qos::try_from(level).map_err(wrong("MessageBus"))?;
    if qos == Qos::ExactlyOnce {
        tracing::warn!(
            "MessageBus/Optional/Qos is 2: subscribing with 1, because what comes twice is told apart by its id"
        );
    }
    Ok((connection, qos))
}
