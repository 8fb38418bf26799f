//! From settings to the trigger they ask for, and to the way its responses go.
//!
//! One file for each kind of trigger, and below `message_bus` one for each kind of bus.

mod external_mqtt;
mod http;
mod message_bus;

use std::{collections::BTreeMap, error::Error, path::Path, sync::Arc};

use edgehold_config::Configuration;
use edgehold_contracts::Generation;
use edgehold_core::{
    BoxFuture, ByteBudget, Inlet, ReceptionLoss, ResponsePublisher, SecretProvider, ServiceKey,
    ShutdownSignal, Trigger, TriggerError,
};
use edgehold_ingest::{BusPublisher, EnvelopeForm};
use edgehold_keeper::NoticeSender;

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
    /// The connections `response` and `publisher` publish by.
    pub(crate) companions: Vec<Companion>,
    /// How the session was asked for; none where the trigger is the developer's own.
    pub(crate) session: Option<BusPromise>,
    /// What it has lost before it was taken in; none where the source keeps it, or the trigger is the developer's own.
    pub(crate) loss: Option<Arc<ReceptionLoss>>,
    /// Where the REST interface puts its deliveries; none unless it is the source.
    pub(crate) inlet: Option<Inlet>,
    /// What a developer publishes by; none where there is no message bus.
    pub(crate) publisher: Option<Arc<dyn BusPublisher>>,
}

impl Ingress {
    /// A trigger whose responses nobody wants.
    fn alone(trigger: Box<dyn Trigger>) -> Self {
        Self {
            trigger,
            response: None,
            companions: Vec::new(),
            session: None,
            loss: None,
            inlet: None,
            publisher: None,
        }
    }
}

/// What a trigger is made from.
#[derive(Clone)]
pub(crate) struct Origin<'a> {
    pub(crate) configuration: &'a Arc<Configuration>,
    pub(crate) service_key: &'a ServiceKey,
    /// Where it remembers what it has subscribed to.
    pub(crate) data_dir: &'a Path,
    pub(crate) secrets: &'a Arc<dyn SecretProvider>,
    /// The bytes of all deliveries in hand.
    pub(crate) budget: ByteBudget,
    pub(crate) envelope_form: EnvelopeForm,
}

/// Makes the trigger of a service: `own` if there is one, else what `Trigger.Type` names. A service publishes to the
/// message bus whatever its trigger is.
pub(crate) async fn build(
    own: Option<Box<dyn Trigger>>,
    mut custom: CustomTriggers,
    origin: Origin<'_>,
) -> Result<Ingress, TriggerError> {
    let mut ingress = match (own, custom.take(&origin.configuration.trigger.kind)) {
        (Some(trigger), _) => Ingress::alone(trigger),
        (None, Some(factory)) => Ingress::alone(factory(TriggerContext {
            configuration: origin.configuration.clone(),
            service_key: origin.service_key.clone(),
            secrets: origin.secrets.clone(),
            budget: origin.budget.clone(),
        })?),
        (None, None) => built_in(origin.clone()).await?,
    };
    if ingress.publisher.is_none()
        && let Some((publisher, run)) = message_bus_beside(&origin).await
    {
        ingress.publisher = Some(publisher);
        ingress.companions.push(run);
    }
    Ok(ingress)
}

async fn built_in(origin: Origin<'_>) -> Result<Ingress, TriggerError> {
    match TriggerKind::from_setting(&origin.configuration.trigger.kind)? {
        TriggerKind::MessageBus => message_bus::build(origin).await,
        TriggerKind::Http => Ok(http::build()),
        TriggerKind::ExternalMqtt => external_mqtt::build(origin).await,
    }
}

/// What keeps the trigger from being made, as far as settings alone tell: the key to look at, and what is wrong.
/// `whole` says that the common configuration is there too, where the bus usually stands.
pub(crate) fn problem(configuration: &Configuration, whole: bool) -> Option<(&'static str, String)> {
    match TriggerKind::from_setting(&configuration.trigger.kind) {
        Err(TriggerError::Configuration(problem)) => Some(("Trigger/Type", problem)),
        Err(error) => Some(("Trigger/Type", error.to_string())),
        Ok(TriggerKind::MessageBus) => message_bus::problem(&configuration.message_bus, whole),
        Ok(TriggerKind::ExternalMqtt | TriggerKind::Http) => None,
    }
}

/// Makes an error of settings into one of the trigger, with the place where they stand.
fn wrong<E: Error>(place: &'static str) -> impl Fn(E) -> TriggerError {
    move |error| TriggerError::Configuration(format!("{place}: {}", with_causes(&error)))
}

/// A connection to publish to the message bus by, where the trigger has none. A service that does not need the bus starts
/// without it.
async fn message_bus_beside(origin: &Origin<'_>) -> Option<(Arc<dyn BusPublisher>, Companion)> {
    match message_bus::publishing(origin).await {
        Ok(publishing) => publishing,
        Err(error) => {
            tracing::warn!("nothing can be published to the message bus: {error}");
            None
        }
    }
}

/// A connection that listens for the notices of changes of a configuration provider. Without one changes are looked for
/// more often.
pub(crate) async fn listening(origin: &Origin<'_>, notices: NoticeSender) -> Option<Companion> {
    match message_bus::listening(origin, notices).await {
        Ok(Some(listening)) => return Some(listening),
        Ok(None) => {
            tracing::info!("without a message bus changes of the configuration are looked for now and then")
        }
        Err(error) => {
            tracing::warn!(
                "changes of the configuration are looked for now and then, no notices of them come: {error}"
            );
        }
    }
    None
}

/// What stands before the topics of pipelines, as before the trigger's own: nothing where messages have no topic, or
/// topics that are none of EdgeX's (the original puts the prefix there too, so that nothing ever matches).
pub(crate) fn topic_prefix(configuration: &Configuration) -> Option<String> {
    match TriggerKind::from_setting(&configuration.trigger.kind) {
        Ok(TriggerKind::ExternalMqtt | TriggerKind::Http) => None,
        _ => Some(configuration.message_bus.base_topic_prefix.clone()),
    }
}

/// What a trigger of a developer's own is made from.
#[derive(Clone)]
pub struct TriggerContext {
    /// The effective configuration at the start.
    pub configuration: Arc<Configuration>,
    /// The service.
    pub service_key: ServiceKey,
    /// Its secrets, always the current ones.
    pub secrets: Arc<dyn SecretProvider>,
    /// The bytes of all deliveries in hand (`MaxInFlightBytes`): each delivery takes its part of it.
    pub budget: ByteBudget,
}

/// Makes a trigger of a developer's own.
pub(crate) type CustomTriggerFactory =
    Box<dyn FnOnce(TriggerContext) -> Result<Box<dyn Trigger>, TriggerError> + Send>;

/// A name that no custom trigger can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' cannot be the name of a custom trigger: {reason}")]
pub struct InvalidTriggerName {
    name: String,
    reason: &'static str,
}

/// Triggers of a developer's own, by name in lower case.
#[derive(Default)]
pub(crate) struct CustomTriggers(BTreeMap<String, CustomTriggerFactory>);

impl CustomTriggers {
    pub(crate) fn register(
        &mut self,
        name: &str,
        factory: CustomTriggerFactory,
    ) -> Result<(), InvalidTriggerName> {
        let invalid = |reason| InvalidTriggerName {
            name: name.to_owned(),
            reason,
        };
        if name.trim().is_empty() {
            return Err(invalid("it is blank"));
        }
        // Whatever the case, unlike the original, whose own check is in upper case alone.
        if TriggerKind::from_setting(name).is_ok() {
            return Err(invalid("it is a built-in one"));
        }
        self.0.insert(name.to_lowercase(), factory);
        Ok(())
    }

    pub(crate) fn knows(&self, kind: &str) -> bool {
        self.0.contains_key(&kind.to_lowercase())
    }

    fn take(&mut self, kind: &str) -> Option<CustomTriggerFactory> {
        self.0.remove(&kind.to_lowercase())
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

    /// Contract, messages §4.3: the original's check of reserved names is case-sensitive.
    #[test]
    fn a_built_in_trigger_name_is_reserved_whatever_its_case() {
        for name in ["HTTP", "http", "Edgex-MessageBus", "external-mqtt", " "] {
            let mut triggers = CustomTriggers::default();
            let factory = |_| Err(TriggerError::Configuration(String::new()));
            assert!(triggers.register(name, Box::new(factory)).is_err(), "{name}");
        }
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
