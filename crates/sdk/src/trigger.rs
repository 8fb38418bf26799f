//! From settings to the trigger they ask for.

use edgehold_config::Configuration;
use edgehold_core::{ByteBudget, SecretProvider, ServiceKey, Trigger, TriggerError};
use edgehold_ingest::{MessageBusSettings, MessageBusTrigger, subscribe_filters};
use edgehold_mqtt::{ConnectionSettings, Credentials, Qos};

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

/// Makes the trigger of a service.
pub(crate) async fn build(
    configuration: &Configuration,
    service_key: &ServiceKey,
    secrets: &dyn SecretProvider,
    budget: ByteBudget,
) -> Result<Box<dyn Trigger>, TriggerError> {
    match TriggerKind::from_setting(&configuration.trigger.kind)? {
        TriggerKind::MessageBus => message_bus(configuration, service_key, secrets, budget).await,
    }
}

async fn message_bus(
    configuration: &Configuration,
    service_key: &ServiceKey,
    secrets: &dyn SecretProvider,
    budget: ByteBudget,
) -> Result<Box<dyn Trigger>, TriggerError> {
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
    let mut connection = ConnectionSettings::new(&bus.host, bus.port, client_id(configuration, service_key));
    connection.credentials = credentials;
    connection.keep_alive = bus.keep_alive();
    connection.connect_timeout = bus.connect_timeout();
    // Where nobody says otherwise, what arrives while we are away is worth waiting for as soon as we promise to keep it.
    connection.clean_session = bus.clean_session().unwrap_or(!saf_enabled);
    connection.max_message_bytes = configuration.limits.max_message_bytes;
    let qos = Qos::try_from(bus.qos()).map_err(|error| TriggerError::Configuration(error.to_string()))?;
    let trigger = MessageBusTrigger::try_new(MessageBusSettings {
        connection,
        filters,
        qos,
        budget,
    })?;
    Ok(Box::new(trigger))
}

fn client_id<'a>(configuration: &'a Configuration, service_key: &'a ServiceKey) -> &'a str {
    configuration
        .message_bus
        .client_id()
        .unwrap_or(service_key.as_str())
}
