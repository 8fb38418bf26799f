//! From settings to the trigger they ask for, and to the way its responses go.

use std::{path::Path, sync::Arc};

use edgehold_config::Configuration;
use edgehold_contracts::Generation;
use edgehold_core::{ByteBudget, ResponsePublisher, SecretProvider, ServiceKey, Trigger, TriggerError};
use edgehold_ingest::{
    EnvelopeForm, MessageBusResponse, MessageBusSettings, MessageBusTrigger, ResponseSettings,
    response_topic, subscribe_filters,
};
use edgehold_mqtt::{ConnectionSettings, Credentials, Publication, Qos};

use crate::{
    durability::BusSession,
    invocation::Invocation,
    subscriptions::{RememberingTrigger, SubscriptionMemory},
};

/// The trigger types EdgeX knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TriggerKind {
    /// `edgex-messagebus`
    MessageBus,
}

impl TriggerKind {
    /// The kind `Trigger.Type` names, whatever its case.
    pub(crate) fn from_setting(text: &str) -> Result<Self, TriggerError> {
        match text.to_lowercase().as_str() {
            "edgex-messagebus" => Ok(Self::MessageBus),
            _ => Err(TriggerError::Configuration(format!(
                "Trigger/Type '{text}' is not supported; use 'edgex-messagebus'"
            ))),
        }
    }
}

/// A trigger, and where its responses go.
pub(crate) struct Ingress {
    pub(crate) trigger: Box<dyn Trigger>,
    /// None when responses are not published.
    pub(crate) response: Option<Arc<dyn ResponsePublisher>>,
    /// The connection `response` publishes by.
    pub(crate) publication: Option<Publication>,
    /// How the session was asked for; none where the trigger is the developer's own.
    pub(crate) session: Option<BusSession>,
}

impl Ingress {
    /// A trigger whose responses nobody wants.
    pub(crate) fn alone(trigger: Box<dyn Trigger>) -> Self {
        Self {
            trigger,
            response: None,
            publication: None,
            session: None,
        }
    }
}

/// How envelopes are encoded on the bus: CBOR when `EDGEX_MSG_CBOR_ENCODE` is exactly `true`, which EdgeX 3 does not
/// know.
pub(crate) fn envelope_form(invocation: &Invocation, generation: Generation) -> EnvelopeForm {
    const SWITCH: &str = "EDGEX_MSG_CBOR_ENCODE";
    let on = invocation
        .environment
        .get(SWITCH)
        .is_some_and(|value| value == "true");
    match (on, generation) {
        (false, _) => EnvelopeForm::Json,
        (true, Generation::V4) => EnvelopeForm::Cbor,
        (true, Generation::V3) => {
            tracing::warn!("{SWITCH} has no effect: envelopes of EdgeX 3 are JSON");
            EnvelopeForm::Json
        }
    }
}

/// Makes the trigger of a service. `data_dir` is where it remembers what it has subscribed to.
pub(crate) async fn build(
    configuration: &Configuration,
    service_key: &ServiceKey,
    data_dir: &Path,
    secrets: &dyn SecretProvider,
    budget: ByteBudget,
    envelope_form: EnvelopeForm,
) -> Result<Ingress, TriggerError> {
    match TriggerKind::from_setting(&configuration.trigger.kind)? {
        TriggerKind::MessageBus => {
            message_bus(
                configuration,
                service_key,
                data_dir,
                secrets,
                budget,
                envelope_form,
            )
            .await
        }
    }
}

async fn message_bus(
    configuration: &Configuration,
    service_key: &ServiceKey,
    data_dir: &Path,
    secrets: &dyn SecretProvider,
    budget: ByteBudget,
    envelope_form: EnvelopeForm,
) -> Result<Ingress, TriggerError> {
    let bus = &configuration.message_bus;
    let wrong = |text: String| Err(TriggerError::Configuration(text));
    if bus.disabled {
        return wrong("MessageBus/Disabled is true, but Trigger/Type is edgex-messagebus".to_owned());
    }
    if !bus.kind.eq_ignore_ascii_case("mqtt") {
        return wrong(format!(
            "MessageBus/Type '{}' is not supported; use 'mqtt'",
            bus.kind
        ));
    }
    if bus.host.is_empty() || bus.port == 0 {
        return wrong("MessageBus/Host or MessageBus/Port is not set".to_owned());
    }
    if matches!(bus.protocol.as_str(), "tcps" | "ssl" | "tls" | "mqtts") {
        return wrong(format!(
            "MessageBus/Protocol '{}' (TLS) is not supported yet",
            bus.protocol
        ));
    }
    let credentials = match bus.auth_mode.as_str() {
        mode if mode.is_empty() || mode.eq_ignore_ascii_case("none") => None,
        "usernamepassword" => {
            let mut secret = secrets.secret(&bus.secret_name).await.map_err(|error| {
                TriggerError::Configuration(format!(
                    "the credentials of the message bus are missing: {error}"
                ))
            })?;
            let username = secret.remove("username").unwrap_or_default();
            let password = secret.remove("password").unwrap_or_default();
            // Empty user names are legal in insecure mode and mean none.
            (!username.expose().is_empty()).then(|| Credentials {
                username: username.expose().to_owned(),
                password,
            })
        }
        other => return wrong(format!("MessageBus/AuthMode '{other}' is not supported yet")),
    };
    let filters = subscribe_filters(
        &bus.base_topic_prefix,
        &configuration.trigger.subscribe_topics.join(","),
    )?;
    for filter in &filters {
        tracing::info!("Subscribing to topic: {filter}");
    }
    let saf_enabled = configuration.writable.store_and_forward.enabled;
    let client_id = bus.client_id().unwrap_or(service_key.as_str());
    let mut connection = ConnectionSettings::new(&bus.host, bus.port, client_id);
    connection.credentials = credentials;
    connection.keep_alive = bus.keep_alive();
    connection.connect_timeout = bus.connect_timeout();
    // Where nobody says otherwise, what arrives while we are away is worth waiting for as soon as we promise to keep it.
    connection.clean_session = bus.clean_session().unwrap_or(!saf_enabled);
    connection.max_message_bytes = configuration.limits.max_message_bytes;
    // And what is acknowledged before it is kept cannot be kept.
    let level = bus.qos().unwrap_or(u8::from(saf_enabled));
    let qos = Qos::try_from(level).map_err(|error| TriggerError::Configuration(error.to_string()))?;
    if qos == Qos::ExactlyOnce {
        tracing::warn!(
            "MessageBus/Optional/Qos is 2: subscribing with 1, because what comes twice is told apart by its id"
        );
    }
    let (response, publication) =
        match response_topic(&bus.base_topic_prefix, &configuration.trigger.publish_topic) {
            None => (None, None),
            Some(topic) => {
                let (publisher, publication) = Publication::try_new(&connection)
                    .map_err(|error| TriggerError::Configuration(error.to_string()))?;
                tracing::info!("Publishing responses to topic: {topic}");
                let settings = ResponseSettings {
                    topic,
                    qos,
                    retain: bus.retained(),
                    envelope_form,
                };
                let response: Arc<dyn ResponsePublisher> =
                    Arc::new(MessageBusResponse::new(publisher, settings));
                (Some(response), Some(publication))
            }
        };
    let clean_session = connection.clean_session;
    // A broker forgets what a clean session has subscribed to.
    let memory = (!clean_session).then(|| {
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
        qos: qos.min(Qos::AtLeastOnce),
        clean_session,
        granted: trigger.granted(),
        published_lower: trigger.published_lower(),
    };
    let trigger: Box<dyn Trigger> = match memory {
        None => Box::new(trigger),
        Some(memory) => Box::new(RememberingTrigger {
            trigger,
            memory,
            filters,
        }),
    };
    Ok(Ingress {
        trigger,
        response,
        publication,
        session: Some(session),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_cbor_only_for_the_exact_word_and_in_edgex_4() {
        let form = |value: &str, generation| {
            let environment = [("EDGEX_MSG_CBOR_ENCODE".into(), value.into())];
            let invocation = Invocation::new([], environment).expect("an environment is no reason to refuse");
            envelope_form(&invocation, generation)
        };
        assert_eq!(form("true", Generation::V4), EnvelopeForm::Cbor);
        assert_eq!(form("true", Generation::V3), EnvelopeForm::Json);
        for other in ["TRUE", "1", "t", "", "false"] {
            assert_eq!(form(other, Generation::V4), EnvelopeForm::Json, "{other}");
        }
    }
}
