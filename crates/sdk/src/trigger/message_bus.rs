//! The trigger `edgex-messagebus`: which bus stands behind it.

mod listening;
mod mqtt;
mod nats;
mod redis;
mod security;

use std::sync::Arc;

use edgehold_config::configuration::MessageBus;
use edgehold_core::{ByteBudget, SecretText, TriggerError};
use edgehold_ingest::BusPublisher;
use edgehold_keeper::NoticeSender;
use edgehold_mqtt::{BusOptions, PemSetting};

use self::nats::Way;
use super::{Companion, Ingress, Origin};

/// The bytes of all notices in hand, which they are for a moment.
const NOTICE_BYTES: u32 = 1024 * 1024;

/// The buses EdgeX knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BusKind {
    /// `mqtt`
    Mqtt,
    /// `redis`
    Redis,
    /// `nats-core`
    NatsCore,
    /// `nats-jetstream`
    NatsJetStream,
}

impl BusKind {
    /// The kind `MessageBus.Type` names, whatever its case.
    fn from_setting(text: &str) -> Result<Self, TriggerError> {
        match text.to_lowercase().as_str() {
            "mqtt" => Ok(Self::Mqtt),
            "redis" => Ok(Self::Redis),
            "nats-core" => Ok(Self::NatsCore),
            "nats-jetstream" => Ok(Self::NatsJetStream),
            _ => Err(TriggerError::Configuration(format!(
                "MessageBus/Type '{text}' is none of 'mqtt', 'redis', 'nats-core' and 'nats-jetstream'"
            ))),
        }
    }
}

/// What keeps the trigger from being made. A bus that does not stand there at all is a problem only in a `whole`
/// configuration.
pub(super) fn problem(bus: &MessageBus, whole: bool) -> Option<(&'static str, String)> {
    if bus.disabled {
        let problem = "MessageBus/Disabled is true, but Trigger/Type is edgex-messagebus".to_owned();
        return Some(("MessageBus/Disabled", problem));
    }
    if (whole || !bus.kind.is_empty())
        && let Err(error) = BusKind::from_setting(&bus.kind)
    {
        let problem = match error {
            TriggerError::Configuration(problem) => problem,
            other => other.to_string(),
        };
        return Some(("MessageBus/Type", problem));
    }
    if whole && (bus.host.is_empty() || bus.port == 0) {
        let problem = "MessageBus/Host or MessageBus/Port is not set".to_owned();
        return Some(("MessageBus/Host", problem));
    }
    None
}

pub(super) async fn build(origin: Origin<'_>) -> Result<Ingress, TriggerError> {
    let bus = &origin.configuration.message_bus;
    if let Some((_, problem)) = problem(bus, true) {
        return Err(TriggerError::Configuration(problem));
    }
    match BusKind::from_setting(&bus.kind)? {
        BusKind::Mqtt => mqtt::build(origin).await,
        BusKind::Redis => redis::build(origin).await,
        BusKind::NatsCore => nats::build(origin, Way::Core).await,
        BusKind::NatsJetStream => nats::build(origin, Way::JetStream).await,
    }
}

/// What the bus's own options say of credentials and certificates.
fn options(bus: &MessageBus) -> BusOptions {
    let text = |name| bus.optional_text(name).to_owned();
    let pem = |block, file| PemSetting {
        block: SecretText::new(text(block)),
        file: text(file),
    };
    BusOptions {
        username: text("Username"),
        password: SecretText::new(text("Password")),
        certificate: pem("CertPEMBlock", "CertFile"),
        key: pem("KeyPEMBlock", "KeyFile"),
        authorities: pem("CaPEMBlock", "CaFile"),
    }
}

/// A connection to the bus to publish by, for triggers that are none of the bus's: none where there is no bus.
pub(super) async fn publishing(
    origin: &Origin<'_>,
) -> Result<Option<(Arc<dyn BusPublisher>, Companion)>, TriggerError> {
    let bus = &origin.configuration.message_bus;
    if bus.disabled || bus.host.is_empty() || bus.port == 0 {
        return Ok(None);
    }
    match BusKind::from_setting(&bus.kind)? {
        BusKind::Mqtt => mqtt::publishing(origin).await.map(Some),
        BusKind::Redis => redis::publishing(origin).await.map(Some),
        BusKind::NatsCore => nats::publishing(origin, Way::Core).await.map(Some),
        BusKind::NatsJetStream => nats::publishing(origin, Way::JetStream).await.map(Some),
    }
}

/// A connection that listens for the notices of changes: none where there is no bus.
pub(super) async fn listening(
    origin: &Origin<'_>,
    notices: NoticeSender,
) -> Result<Option<Companion>, TriggerError> {
    let bus = &origin.configuration.message_bus;
    if bus.disabled || bus.host.is_empty() || bus.port == 0 {
        return Ok(None);
    }
    let budget = ByteBudget::new(NOTICE_BYTES);
    let listening = match BusKind::from_setting(&bus.kind)? {
        BusKind::Mqtt => mqtt::listening(origin, notices, budget).await?,
        BusKind::Redis => redis::listening(origin, notices, budget).await?,
        BusKind::NatsCore | BusKind::NatsJetStream => nats::listening(origin, notices, budget).await?,
    };
    Ok(Some(listening))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_known_whatever_its_case_and_another_is_refused_by_name() {
        for (text, kind) in [
            ("MQTT", BusKind::Mqtt),
            ("redis", BusKind::Redis),
            ("nats-core", BusKind::NatsCore),
            ("NATS-JetStream", BusKind::NatsJetStream),
        ] {
            assert_eq!(BusKind::from_setting(text).unwrap(), kind);
        }
        for text in ["", "zero", "nats"] {
            let error = BusKind::from_setting(text).unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}' is none of")), "{error}");
        }
    }
}
