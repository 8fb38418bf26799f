//! The seam through which functions and the service itself publish to the message bus.
//!
//! Owns what a message is made of. Envelope, base prefix and connection belong to whoever implements it.

use std::error::Error;

use edgehold_contracts::Payload;

use crate::{BoxFuture, CorrelationId, ErrorClass};

/// A message on its way out.
#[derive(Clone, Debug)]
pub struct OutgoingMessage {
    /// The topic behind the base prefix, no placeholder left in it.
    pub topic: String,
    /// A JSON payload stands in the envelope as itself in EdgeX 4, anything else as base64.
    pub payload: Payload,
    /// What the payload is, for example `application/json`.
    pub content_type: String,
    /// None for a new one.
    pub correlation_id: Option<CorrelationId>,
}

/// Why a message was not published, or may not have been.
#[derive(Debug, thiserror::Error)]
#[error("the message cannot be published to '{topic}'")]
pub struct PublishError {
    topic: String,
    class: ErrorClass,
    source: Box<dyn Error + Send + Sync>,
}

impl PublishError {
    /// A message to this topic was not published.
    pub fn new(topic: &str, class: ErrorClass, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            topic: topic.to_owned(),
            class,
            source: source.into(),
        }
    }

    /// Whether another attempt with the same message can succeed.
    pub fn class(&self) -> ErrorClass {
        self.class
    }
}

/// Publishes to the message bus.
///
/// Contract: answers within a bounded time of its own choosing, when the bus has taken the message as far as it says so;
/// sends a message at most once; may be dropped at any moment.
pub trait MessagePublisher: Send + Sync {
    /// Publishes one message.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was sent then, or nobody confirmed it.
    fn publish(&self, message: OutgoingMessage) -> BoxFuture<'_, Result<(), PublishError>>;
}
