//! The EdgeX message bus trigger (`Trigger.Type` `edgex-messagebus`): over MQTT, and what it shares with other buses.
//!
//! Owns the opening of envelopes. Two futures run side by side: the connection, which never waits for anybody, and the
//! forwarding, which alone waits while the runtime is busy. What lies between them is bounded by the byte budget.

use edgehold_contracts::{EnvelopeError, Payload};
use edgehold_core::{
    BoxFuture, ByteBudget, CorrelationId, Delivery, DeliverySender, PayloadForm, Received, ShutdownSignal,
    TopicFilter, Trigger, TriggerError,
};
use edgehold_mqtt::{Body, ConnectionSettings, ConnectionState, Incoming, Qos, Subscription};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use bytes::Bytes;

use crate::{EnvelopeForm, names};

pub(crate) mod nats;
pub(crate) mod redis;

/// What the trigger needs to know.
#[derive(Clone, Debug)]
pub struct MessageBusSettings {
    /// How to reach the broker.
    pub connection: ConnectionSettings,
    /// What to subscribe to, base prefix included: see [`subscribe_filters`](crate::subscribe_filters).
    pub filters: Vec<TopicFilter>,
    /// What earlier starts with this client id have subscribed to: see [`Subscription::with_former_filters`].
    pub former_filters: Vec<TopicFilter>,
    /// `MessageBus.Optional.Qos`; 2 is lowered to 1.
    pub qos: Qos,
    /// The bytes of all deliveries in hand (`MaxInFlightBytes`). Past it nothing more is read.
    pub budget: ByteBudget,
    /// How envelopes are encoded on this bus.
    pub envelope_form: EnvelopeForm,
}

/// Receives envelopes from an EdgeX message bus.
///
/// Every message becomes one delivery. One that is no envelope, or whose payload is a text that no codec can read, is
/// [`Received::Undecodable`] with all its bytes; one larger than `max_message_bytes` is that too, without its bytes.
/// An envelope with an `errorCode` is a message like any other, as in EdgeX.
///
/// Unlike EdgeX it acknowledges a QoS 1 message only when its delivery is done, and a broker that is away at the start
/// is tried again for as long as it takes.
pub struct MessageBusTrigger {
    subscription: Subscription,
    incoming: mpsc::Receiver<Incoming>,
    envelope_form: EnvelopeForm,
}

impl MessageBusTrigger {
    /// Checks the settings. Opens nothing.
    ///
    /// # Errors
    /// [`TriggerError::Configuration`].
    pub fn try_new(settings: MessageBusSettings) -> Result<Self, TriggerError> {
        let MessageBusSettings {
            connection,
            filters,
            former_filters,
            qos,
            budget,
            envelope_form,
        } = settings;
        let (subscription, incoming) = Subscription::try_new(&connection, filters, qos, budget)
            .map_err(|error| TriggerError::Configuration(with_sources(&error)))?;
        Ok(Self {
            subscription: subscription.with_former_filters(former_filters),
            incoming,
            envelope_form,
        })
    }

    /// Follows how the connection stands.
    pub fn connection_state(&self) -> watch::Receiver<ConnectionState> {
        self.subscription.state()
    }

    /// Follows the lowest quality of service the broker has granted: see [`Subscription::granted`].
    pub fn granted(&self) -> watch::Receiver<Option<Qos>> {
        self.subscription.granted()
    }

    /// Follows whether something was published with QoS 0 all the same: see [`Subscription::published_lower`].
    pub fn published_lower(&self) -> watch::Receiver<Option<String>> {
        self.subscription.published_lower()
    }
}

impl Trigger for MessageBusTrigger {
    fn run(
        self: Box<Self>,
        deliveries: DeliverySender,
        shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        let Self {
            subscription,
            incoming,
            envelope_form,
        } = *self;
        Box::pin(async move {
            let forwarding = forward(incoming, deliveries, move |message| {
                Some(open(message, envelope_form))
            });
            tokio::join!(subscription.run(shutdown), forwarding);
            Ok(())
        })
    }
}

/// Ends when the connection has ended and everything it received is forwarded, or when nobody takes deliveries; what
/// is left then is abandoned, and the connection sees that and ends too. What `open` makes no delivery of is not
/// forwarded.
pub(crate) async fn forward<T>(
    mut incoming: mpsc::Receiver<T>,
    deliveries: DeliverySender,
    mut open: impl FnMut(T) -> Option<Delivery>,
) {
    while let Some(message) = incoming.recv().await {
        let Some(delivery) = open(message) else { continue };
        if deliveries.send(delivery).await.is_err() {
            debug!("nobody takes deliveries any more");
            return;
        }
    }
}

/// What deliveries from a bus that divides levels by dots go through.
struct SlashedTopics {
    base_prefix: String,
    filters: Vec<TopicFilter>,
    warned: bool,
}

impl SlashedTopics {
    fn new(base_prefix: String, filters: Vec<TopicFilter>) -> Self {
        Self {
            base_prefix,
            filters,
            warned: false,
        }
    }

    /// Gives the delivery the topic it was published to, as far as that can be told. What no filter matches is done with:
    /// the bus has sent more than was asked for.
    fn take(&mut self, mut delivery: Delivery) -> Option<Delivery> {
        delivery.topic = names::restored(delivery.topic, &self.base_prefix, &delivery.received);
        if self.filters.iter().any(|filter| filter.matches(&delivery.topic)) {
            return Some(delivery);
        }
        if !std::mem::replace(&mut self.warned, true) {
            warn!(
                topic = delivery.topic,
                "a message that no topic of Trigger/SubscribeTopics matches is left out, and so are others like it: on this \
                 bus a wildcard takes more than one level, and a name with a dot in it may count as two"
            );
        }
        delivery.ack.done();
        None
    }
}

/// Opens the envelope of one message.
fn open(message: Incoming, form: EnvelopeForm) -> Delivery {
    let Incoming {
        topic,
        body,
        ack,
        permit,
    } = message;
    let received = match body {
        Body::SetAside { bytes, limit } => set_aside(bytes, limit),
        Body::Whole(raw) => match open_envelope(&raw, form) {
            Ok(received) => received,
            Err(error) => Received::Undecodable {
                raw,
                reason: with_sources(&error),
            },
        },
    };
    Delivery {
        topic,
        received,
        ack,
        permit,
    }
}

/// What is left of a message that is too large.
pub(crate) fn set_aside(bytes: usize, limit: usize) -> Received {
    Received::Undecodable {
        raw: Bytes::new(),
        reason: format!(
            "the message has {bytes} bytes, more than MaxMessageBytes allows ({limit}); its content was dropped"
        ),
    }
}

fn open_envelope(raw: &[u8], envelope_form: EnvelopeForm) -> Result<Received, EnvelopeError> {
    let envelope = envelope_form.open(raw)?;
    let (payload, form) = match envelope.payload {
        Payload::Text(text) => (Bytes::from(text), PayloadForm::Text),
        // No payload is JSON's null.
        payload @ (Payload::Json(_) | Payload::Empty) => (payload.into_bytes()?, PayloadForm::Json),
        payload if envelope_form == EnvelopeForm::Cbor => (payload.into_bytes()?, PayloadForm::Bytes),
        payload => (payload.into_bytes()?, PayloadForm::Base64),
    };
    Ok(Received::Message {
        payload,
        form,
        content_type: envelope.content_type,
        correlation_id: CorrelationId::new(&envelope.correlation_id),
    })
}

/// An error with its causes, for a reason that is stored without them.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
