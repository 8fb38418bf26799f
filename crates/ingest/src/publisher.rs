//! Publishing over a message bus, whichever it is.
//!
//! Owns the one seam that everything published goes by: responses, and what a developer publishes. How an envelope is
//! written down belongs to the bus: JSON or CBOR on MQTT, JSON on Redis, headers beside the payload on NATS.

use edgehold_contracts::{Generation, MessageEnvelope};
use edgehold_core::{BoxFuture, ErrorClass};
use edgehold_mqtt::{Publisher, Qos};

use crate::EnvelopeForm;

/// Publishes envelopes.
///
/// Contract: `publish` answers within a bounded time of its own choosing, sends a message at most once on a bus that
/// confirms (on Redis and NATS core "sent" is all there is to know), and may be dropped at any moment. It never waits for
/// anything that receives.
pub trait BusPublisher: Send + Sync {
    /// Publishes one envelope to `topic`: base prefix included, levels divided by slashes, no placeholder and no
    /// wildcard left in it. A JSON payload stands in the envelope as `generation` has it.
    ///
    /// # Errors
    /// [`BusPublishError`]; nothing was sent then, or nobody confirmed it.
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        envelope: &'a MessageEnvelope,
        generation: Generation,
    ) -> BoxFuture<'a, Result<(), BusPublishError>>;
}

/// Why an envelope was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusPublishError {
    /// It has no form in which it could be sent.
    #[error("the message cannot be encoded")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It could not be sent, or nobody confirmed it in time.
    #[error("the message cannot be published")]
    Publish {
        /// Whether another attempt can succeed.
        class: ErrorClass,
        /// What the connection says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BusPublishError {
    /// Whether another attempt with the same message can succeed.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Encode(_) => ErrorClass::Permanent,
            Self::Publish { class, .. } => *class,
        }
    }
}

/// The message bus over MQTT.
pub struct MqttBusPublisher {
    /// The connection: never the one that receives.
    pub publisher: Publisher,
    /// `MessageBus.Optional.Qos`.
    pub qos: Qos,
    /// `MessageBus.Optional.Retained`.
    pub retain: bool,
    /// How envelopes are encoded on this bus.
    pub envelope_form: EnvelopeForm,
}

impl BusPublisher for MqttBusPublisher {
    /// Waits for the connection and the confirmation as [`Publisher::publish`] does.
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        envelope: &'a MessageEnvelope,
        generation: Generation,
    ) -> BoxFuture<'a, Result<(), BusPublishError>> {
        Box::pin(async move {
            let message = self
                .envelope_form
                .write(envelope, generation)
                .map_err(|error| BusPublishError::Encode(Box::new(error)))?;
            self.publisher
                .publish(topic, message.into(), self.qos, self.retain)
                .await
                .map_err(|error| BusPublishError::Publish {
                    class: error.class(),
                    source: Box::new(error),
                })
        })
    }
}
