//! The response of a pipeline on its way back to the EdgeX message bus.
//!
//! Owns its topic, its envelope and its content type. The connection it goes by is never the trigger's own: see
//! [`BusPublisher`].

use std::sync::Arc;

use edgehold_contracts::{ContentType, MessageEnvelope, Payload};
use edgehold_core::{BoxFuture, Context, ResponseError, ResponsePublisher};

use crate::{BusPublishError, BusPublisher};

/// Publishes responses as EdgeX envelopes: `apiVersion` empty, the correlation id of the delivery, the response as
/// bytes (base64 in JSON, in both generations), `contentType` as the pipeline has set it. Without one it is JSON if the
/// first byte is `{` or `[`, else CBOR. (EdgeX: `SetResponseData`, `Trigger.PublishTopic`.)
pub struct MessageBusResponse {
    publisher: Arc<dyn BusPublisher>,
    topic: String,
}

impl MessageBusResponse {
    /// Responses that go out by `publisher` to `topic`: base prefix included, with `{placeholders}` for context values
    /// (see [`response_topic`](crate::response_topic)).
    pub fn new(publisher: Arc<dyn BusPublisher>, topic: String) -> Self {
        Self { publisher, topic }
    }
}

impl ResponsePublisher for MessageBusResponse {
    /// Waits as [`BusPublisher::publish`] does.
    fn respond<'a>(&'a self, ctx: &'a Context) -> BoxFuture<'a, Result<(), ResponseError>> {
        Box::pin(async move {
            let Some((topic, envelope)) = message(&self.topic, ctx)? else {
                return Ok(());
            };
            let published = self.publisher.publish(&topic, &envelope, ctx.generation()).await;
            published.map_err(|error| match error {
                BusPublishError::Encode(source) => ResponseError::Encode(source),
                BusPublishError::Publish { source, .. } => ResponseError::Publish(source),
            })
        })
    }
}

/// What answers for this context, and to which topic; none when it has no response.
fn message(topic: &str, ctx: &Context) -> Result<Option<(String, MessageEnvelope)>, ResponseError> {
    let Some(data) = ctx.response_data() else {
        return Ok(None);
    };
    let topic = ctx.apply_values(topic)?;
    let content_type = match ctx.response_content_type() {
        "" => ContentType::of_first_byte(data).as_str(),
        told => told,
    };
    // As the original's, which builds this envelope by hand, it names no API version.
    let envelope = MessageEnvelope {
        correlation_id: ctx.correlation_id().as_str().to_owned(),
        payload: Payload::Bytes(data.clone()),
        content_type: content_type.to_owned(),
        ..MessageEnvelope::default()
    };
    Ok(Some((topic, envelope)))
}

#[cfg(test)]
mod tests;
