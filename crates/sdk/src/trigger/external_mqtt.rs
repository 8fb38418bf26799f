//! The trigger `external-mqtt`: any MQTT broker, messages without envelopes.

use std::sync::Arc;

use edgehold_core::{CorrelationId, ResponsePublisher, TriggerError};
use edgehold_ingest::{ExternalMqttResponse, ExternalMqttSettings, ExternalMqttTrigger, external_filters};
use edgehold_mqtt::{BrokerAddress, ConnectionSettings, Identity, LastWill, Publication, Qos, Rules};
use uuid::Uuid;

use super::{Companion, Ingress, Origin, wrong};
use crate::{
    durability::{BusPromise, BusSession, SessionKeys},
    subscriptions::{SubscriptionMemory, remembering},
};

const PLACE: &str = "Trigger/ExternalMqtt";

const KEYS: SessionKeys = SessionKeys {
    qos: "Trigger/ExternalMqtt/QoS",
    clean_session: "Trigger/ExternalMqtt/CleanSession",
};

pub(super) async fn build(origin: Origin<'_>) -> Result<Ingress, TriggerError> {
    let Origin {
        configuration,
        service_key,
        data_dir,
        secrets,
        budget,
        ..
    } = origin;
    let external = &configuration.trigger.external_mqtt;
    let identity = Identity {
        address: BrokerAddress::parse(&external.url).map_err(wrong("Trigger/ExternalMqtt/Url"))?,
        auth_mode: external.auth_mode.parse().map_err(wrong(PLACE))?,
        secret_name: external.secret_name.clone(),
        skip_verify: external.skip_cert_verify,
        rules: Rules::External,
        secrets: secrets.clone(),
    };
    for remark in identity.remarks() {
        tracing::warn!("{PLACE}: {remark}");
    }
    let filters = external_filters(&configuration.trigger.subscribe_topics.join(","))?;
    for filter in &filters {
        tracing::info!("Subscribing to topic: {filter}");
    }
    let qos = Qos::try_from(external.qos).map_err(wrong(PLACE))?;
    if qos == Qos::ExactlyOnce {
        tracing::warn!(
            "Trigger/ExternalMqtt/QoS is 2: subscribing with 1, because what comes twice is told apart by its id"
        );
    }
    let client_id = match external.client_id.as_str() {
        "" => service_key.as_str(),
        client_id => client_id,
    };
    let broker = format!("{}:{}", identity.address.host, identity.address.port);
    let mut connection =
        ConnectionSettings::new(identity.address.host.clone(), identity.address.port, client_id)
            .with_identity(identity)
            .await
            .map_err(wrong(PLACE))?;
    connection.keep_alive = external.keep_alive.unwrap_or_default();
    connection.connect_timeout = external.connect_timeout;
    connection.start_interval = external.retry_interval;
    connection.max_message_bytes = configuration.limits.max_message_bytes;
    // The original never keeps a session. What is kept there is worth it as soon as we promise to keep it here, and where
    // nothing is acknowledged a broker keeps nothing.
    let saf_enabled = configuration.writable.store_and_forward.enabled;
    let keeps = saf_enabled && qos > Qos::AtMostOnce;
    connection.clean_session = external.clean_session.unwrap_or(!keeps);
    connection.will = external.will.as_ref().map(|will| LastWill {
        topic: will.topic.clone(),
        payload: will.payload.clone().into_bytes().into(),
        qos: Qos::try_from(will.qos).unwrap_or_default(),
        retain: will.retained,
    });

    let (response, companions) = match configuration.trigger.publish_topic.trim() {
        "" => (None, Vec::new()),
        topic => {
            let (publisher, publication) =
                Publication::try_new(&connection.beside("pub")).map_err(wrong(PLACE))?;
            tracing::info!("Publishing responses to topic: {topic}");
            let response: Arc<dyn ResponsePublisher> = Arc::new(ExternalMqttResponse {
                publisher,
                topic: topic.to_owned(),
                qos,
                retain: external.retain,
            });
            let publication: Companion = Box::new(|shutdown| Box::pin(publication.run(shutdown)));
            (Some(response), vec![publication])
        }
    };
    let clean_session = connection.clean_session;
    let memory = (!clean_session).then(|| SubscriptionMemory::read(data_dir, service_key, broker, client_id));
    let trigger = ExternalMqttTrigger::try_new(ExternalMqttSettings {
        connection,
        filters: filters.clone(),
        former_filters: memory.as_ref().map_or_else(Vec::new, SubscriptionMemory::filters),
        qos,
        budget,
        start_limit: external.retry_duration,
        new_correlation_id: || CorrelationId::new(&Uuid::new_v4().to_string()),
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
        companions,
        session: Some(BusPromise::Session(session)),
        loss: None,
        inlet: None,
        publisher: None,
    })
}
