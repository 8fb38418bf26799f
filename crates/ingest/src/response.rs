//! The response of a pipeline on its way back to the EdgeX message bus.
//!
//! Owns its topic, its envelope and its content type. The connection it goes by is never the trigger's own: see
//! [`Publication`](edgehold_mqtt::Publication).

use bytes::Bytes;
use edgehold_contracts::{ContentType, MessageEnvelope, Payload};
use edgehold_core::{BoxFuture, Context, ResponseError, ResponsePublisher};
use edgehold_mqtt::{Publisher, Qos};

use crate::EnvelopeForm;

/// How responses are published.
#[derive(Clone, Debug)]
pub struct ResponseSettings {
    /// Where to, base prefix included, with `{placeholders}` for context values: see
    /// [`response_topic`](crate::response_topic).
    pub topic: String,
    /// `MessageBus.Optional.Qos`.
    pub qos: Qos,
    /// `MessageBus.Optional.Retained`.
    pub retain: bool,
    /// How envelopes are encoded on this bus.
    pub envelope_form: EnvelopeForm,
}

/// Publishes responses as EdgeX envelopes: `apiVersion` empty, the correlation id of the delivery, the response as
/// bytes (base64 in JSON, in both generations), `contentType` as the pipeline has set it. Without one it is JSON if the
/// first byte is `{` or `[`, else CBOR. (EdgeX: `SetResponseData`, `Trigger.PublishTopic`.)
pub struct MessageBusResponse {
    publisher: Publisher,
    settings: ResponseSettings,
}

impl MessageBusResponse {
    /// Responses that go out by `publisher`.
    pub fn new(publisher: Publisher, settings: ResponseSettings) -> Self {
        Self { publisher, settings }
    }
}

impl ResponsePublisher for MessageBusResponse {
    /// Waits for the connection and the confirmation as [`Publisher::publish`] does.
    fn respond<'a>(&'a self, ctx: &'a Context) -> BoxFuture<'a, Result<(), ResponseError>> {
        Box::pin(async move {
            let Some(message) = message(&self.settings, ctx)? else {
                return Ok(());
            };
            let ResponseSettings { qos, retain, .. } = self.settings;
            self.publisher
                .publish(&message.topic, message.payload, qos, retain)
                .await
                .map_err(|error| ResponseError::Publish(Box::new(error)))
        })
    }
}

#[derive(Debug)]
struct Message {
    topic: String,
    payload: Bytes,
}

/// The message that answers for this context; none when it has no response.
fn message(settings: &ResponseSettings, ctx: &Context) -> Result<Option<Message>, ResponseError> {
    let Some(data) = ctx.response_data() else {
        return Ok(None);
    };
    let topic = ctx.apply_values(&settings.topic)?;
    let content_type = match ctx.response_content_type() {
        "" => content_type_of(data).as_str(),
        told => told,
    };
    // As the original's, which builds this envelope by hand, it names no API version.
    let envelope = MessageEnvelope {
        correlation_id: ctx.correlation_id().as_str().to_owned(),
        payload: Payload::Bytes(data.clone()),
        content_type: content_type.to_owned(),
        ..MessageEnvelope::default()
    };
    let payload = settings
        .envelope_form
        .write(&envelope, ctx.generation())
        .map_err(|error| ResponseError::Encode(Box::new(error)))?;
    Ok(Some(Message {
        topic,
        payload: payload.into(),
    }))
}

/// What the first byte says; nothing at all, for which the original panics, counts as CBOR.
fn content_type_of(data: &[u8]) -> ContentType {
    match data.first() {
        Some(b'{' | b'[') => ContentType::Json,
        _ => ContentType::Cbor,
    }
}

#[cfg(test)]
mod tests;
