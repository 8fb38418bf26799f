//! From settings to the trigger they ask for, and to the way its responses go.
//!
//! One file for each kind of trigger, and below `message_bus` one for each kind of bus.

mod http;
mod message_bus;

use std::{error::Error, path::Path, sync::Arc};

use edgehold_config::Configuration;
use edgehold_contracts::Generation;
use edgehold_core::{
    BoxFuture, ByteBudget, Inlet, ResponsePublisher, SecretProvider, ServiceKey, ShutdownSignal, Trigger,
    TriggerError,
};
use edgehold_ingest::EnvelopeForm;

use crate::{durability::BusPromise, invocation::Invocation, logging::with_causes};

/// The trigger types EdgeX knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TriggerKind {
    /// `edgex-messagebus`
    MessageBus,
    /// `external-mqtt`
    ExternalMqtt,
    /// `http`
    Http,
}

impl TriggerKind {
    /// The kind `Trigger.Type` names, whatever its case.
    fn from_setting(text: &str) -> Result<Self, TriggerError> {
        match text.to_lowercase().as_str() {
            "edgex-messagebus" => Ok(Self::MessageBus),
            "external-mqtt" => Ok(Self::ExternalMqtt),
            "http" => Ok(Self::Http),
            _ => Err(TriggerError::Configuration(format!(
                "Trigger/Type '{text}' is none of 'edgex-messagebus', 'external-mqtt' and 'http'"
            ))),
        }
    }
}

/// A connection that lives beside the trigger, from the start of the service until it is told to end.
pub(crate) type Companion = Box<dyn FnOnce(ShutdownSignal) -> BoxFuture<'static, ()> + Send>;

/// A trigger, and where its responses go.
pub(crate) struct Ingress {
    pub(crate) trigger: Box<dyn Trigger>,
    /// None when responses are not published.
    pub(crate) response: Option<Arc<dyn ResponsePublisher>>,
    /// The connection `response` publishes by.
    pub(crate) publication: Option<Companion>,
    /// How the session was asked for; none where the trigger is the developer's own.
    pub(crate) session: Option<BusPromise>,
    /// Where the REST interface puts its deliveries; none unless it is the source.
    pub(crate) inlet: Option<Inlet>,
}

impl Ingress {
    /// A trigger whose responses nobody wants.
    pub(crate) fn alone(trigger: Box<dyn Trigger>) -> Self {
        Self {
            trigger,
            response: None,
            publication: None,
            session: None,
            inlet: None,
        }
    }
}

/// What a trigger is made from.
pub(crate) struct Origin<'a> {
    pub(crate) configuration: &'a Configuration,
    pub(crate) service_key: &'a ServiceKey,
    /// Where it remembers what it has subscribed to.
    pub(crate) data_dir: &'a Path,
    pub(crate) secrets: &'a Arc<dyn SecretProvider>,
    /// The bytes of all deliveries in hand.
    pub(crate) budget: ByteBudget,
    pub(crate) envelope_form: EnvelopeForm,
}

/// Makes the trigger of a service.
pub(crate) async fn build(origin: Origin<'_>) -> Result<Ingress, TriggerError> {
    let kind = &origin.configuration.trigger.kind;
    match TriggerKind::from_setting(kind)? {
        TriggerKind::MessageBus => message_bus::build(origin).await,
        TriggerKind::Http => Ok(http::build()),
        TriggerKind::ExternalMqtt => Err(TriggerError::Configuration(format!(
            "Trigger/Type '{kind}' is not supported yet"
        ))),
    }
}

/// Makes an error of settings into one of the trigger, with the place where they stand.
fn wrong<E: Error>(place: &'static str) -> impl Fn(E) -> TriggerError {
    move |error| TriggerError::Configuration(format!("{place}: {}", with_causes(&error)))
}

/// What stands before the topics of pipelines, as before the trigger's own: nothing where messages have no topic.
pub(crate) fn topic_prefix(configuration: &Configuration) -> Option<String> {
    match TriggerKind::from_setting(&configuration.trigger.kind) {
        Ok(TriggerKind::Http) => None,
        _ => Some(configuration.message_bus.base_topic_prefix.clone()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_type_is_known_whatever_its_case_and_another_is_refused_by_name() {
        for (text, kind) in [
            ("edgex-messagebus", TriggerKind::MessageBus),
            ("External-MQTT", TriggerKind::ExternalMqtt),
            ("HTTP", TriggerKind::Http),
        ] {
            assert_eq!(TriggerKind::from_setting(text).unwrap(), kind);
        }
        let error = TriggerKind::from_setting("mqtt").unwrap_err().to_string();
        assert!(error.contains("'mqtt' is none of"), "{error}");
    }

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
