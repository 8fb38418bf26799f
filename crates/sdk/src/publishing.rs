//! Publishing to the EdgeX message bus, by functions and by the service itself.
//!
//! Owns the envelope around what a developer publishes, the base prefix before its topic, and the queue of what is to be
//! published in the background. The connection is the bus's; it is opened with the first message.

use std::sync::Arc;

use edgehold_contracts::{Generation, MessageEnvelope, Payload};
use edgehold_core::{
    BoxFuture, Context, CorrelationId, Data, ErrorClass, MessagePublisher, OutgoingMessage, PublishError,
    ShutdownSignal, UnresolvedPlaceholder,
};
use edgehold_ingest::{BusPublishError, BusPublisher};
use edgehold_runtime::Books;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::trigger::Companion;

/// Messages of a developer's own, in envelopes.
pub(crate) struct BusMessages {
    pub(crate) bus: Arc<dyn BusPublisher>,
    /// Never empty.
    pub(crate) base_topic_prefix: String,
    pub(crate) generation: Generation,
    /// `EDGEX_MSG_BASE64_PAYLOAD`: JSON payloads stand in base64, as those of EdgeX 3 always do.
    pub(crate) base64_payload: bool,
    /// Whether `apiVersion` is stated. Metrics of EdgeX 3 leave it empty.
    pub(crate) states_api_version: bool,
}

impl MessagePublisher for BusMessages {
    fn publish(&self, message: OutgoingMessage) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let topic = format!("{}/{}", self.base_topic_prefix, message.topic);
            let payload = match message.payload {
                payload @ Payload::Json(_) if self.base64_payload => payload
                    .into_bytes()
                    .map(Payload::Bytes)
                    .map_err(|error| PublishError::new(&topic, ErrorClass::Permanent, error))?,
                payload => payload,
            };
            let correlation_id = match message.correlation_id {
                Some(id) => id.as_str().to_owned(),
                None => Uuid::new_v4().to_string(),
            };
            let mut envelope = MessageEnvelope::new(correlation_id, payload, message.content_type);
            if !self.states_api_version {
                envelope.api_version.clear();
            }
            let published = self.bus.publish(&topic, &envelope, self.generation).await;
            published.map_err(|error| PublishError::new(&topic, error.class(), error))
        })
    }
}

/// A connection that is opened with the first message.
pub(crate) fn lazily(bus: Arc<dyn BusPublisher>, run: Companion) -> (Arc<dyn BusPublisher>, Companion) {
    let wanted = Arc::new(Notify::new());
    let opens = wanted.clone();
    let companion: Companion = Box::new(|shutdown| {
        Box::pin(async move {
            let mut ended = shutdown.clone();
            tokio::select! {
                () = opens.notified() => run(shutdown).await,
                () = ended.recv() => {}
            }
        })
    });
    (Arc::new(Lazily { bus, wanted }), companion)
}

struct Lazily {
    bus: Arc<dyn BusPublisher>,
    wanted: Arc<Notify>,
}

impl BusPublisher for Lazily {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        envelope: &'a MessageEnvelope,
        generation: Generation,
    ) -> BoxFuture<'a, Result<(), BusPublishError>> {
        // Kept for a connection that does not listen yet.
        self.wanted.notify_one();
        self.bus.publish(topic, envelope, generation)
    }
}

/// Publishes to the message bus from outside a pipeline. Cheap to clone. (EdgeX: `Publish`, `PublishWithTopic`.)
#[derive(Clone)]
pub struct Publisher {
    messages: Arc<dyn MessagePublisher>,
    generation: Generation,
}

impl Publisher {
    pub(crate) fn new(messages: Arc<dyn MessagePublisher>, generation: Generation) -> Self {
        Self { messages, generation }
    }

    /// Publishes `data` to `topic` behind the base prefix; there are no placeholders. Returns once the bus has taken it.
    /// With the content type `application/json` everything but bytes stands in the envelope as itself in EdgeX 4
    /// (unless `EDGEX_MSG_BASE64_PAYLOAD=true`), and as base64 in EdgeX 3. Events of another content type go as CBOR,
    /// anything else as its bytes.
    ///
    /// # Errors
    /// [`PublishError`]: the message was not sent, or nobody confirmed it in time.
    pub async fn publish_with_topic(
        &self,
        topic: &str,
        data: &Data,
        content_type: &str,
    ) -> Result<(), PublishError> {
        let payload = self
            .payload(data, content_type)
            .map_err(|error| PublishError::new(topic, ErrorClass::Permanent, error))?;
        let message = OutgoingMessage {
            topic: topic.to_owned(),
            payload,
            content_type: content_type.to_owned(),
            correlation_id: None,
        };
        self.messages.publish(message).await
    }

    fn payload(&self, data: &Data, content_type: &str) -> Result<Payload, serde_json::Error> {
        Ok(match (content_type, data) {
            (_, Data::Bytes(bytes)) => Payload::Bytes(bytes.clone()),
            ("application/json", Data::Text(text)) => Payload::json(text)?,
            ("application/json", data) => {
                let json = data.to_bytes(self.generation);
                Payload::json_text(String::from_utf8_lossy(&json).into_owned())?
            }
            ("application/cbor", Data::Event(event)) => Payload::Bytes(event.to_cbor(self.generation).into()),
            ("application/cbor", Data::AddEventRequest(request)) => {
                Payload::Bytes(request.to_cbor(self.generation).into())
            }
            (_, data) => Payload::Bytes(data.to_bytes(self.generation)),
        })
    }
}

/// What waits to be published in the background, in order and bounded. Cheap to clone.
/// (EdgeX: `AddBackgroundPublisher`.)
#[derive(Clone)]
pub struct BackgroundPublisher {
    messages: mpsc::Sender<OutgoingMessage>,
}

/// Why a message is not published in the background.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackgroundError {
    /// Its topic has a placeholder without a value.
    #[error(transparent)]
    Topic(#[from] UnresolvedPlaceholder),
    /// The service has ended.
    #[error("the service has ended")]
    Ended,
}

impl BackgroundPublisher {
    /// Hands over a message: to `topic` behind the base prefix, placeholders replaced from `ctx`, whose correlation id and
    /// input content type it carries. Waits while the queue is full. A message that cannot be published is logged and lost:
    /// what must not be lost is published by a function, which can be tried again.
    ///
    /// Cancel-safe: a dropped wait has handed over nothing.
    ///
    /// # Errors
    /// [`BackgroundError`].
    pub async fn publish(&self, topic: &str, data: &Data, ctx: &Context) -> Result<(), BackgroundError> {
        let message = OutgoingMessage {
            topic: ctx.apply_values(topic)?,
            payload: Payload::Bytes(data.to_bytes(ctx.generation())),
            content_type: ctx.input_content_type().to_owned(),
            correlation_id: Some(ctx.correlation_id().clone()),
        };
        let sent = self.messages.send(message).await;
        sent.map_err(|_| BackgroundError::Ended)
    }
}

/// A publisher for the background, and what publishes for it: until every publisher is gone or the service is ending, and
/// then what has been handed over by then. What it cannot publish, also because its time is up, is counted.
pub(crate) fn background(
    messages: Arc<dyn MessagePublisher>,
    capacity: usize,
    books: Arc<Books>,
) -> (BackgroundPublisher, Companion) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let companion: Companion = Box::new(move |mut shutdown: ShutdownSignal| {
        Box::pin(async move {
            let mut queue = Queue {
                receiver,
                under_way: 0,
                books,
            };
            while let Some(message) = queue.next(&mut shutdown).await {
                let id = message.correlation_id.as_ref().map_or("", CorrelationId::as_str);
                let id = id.to_owned();
                let published = messages.publish(message).await;
                queue.under_way = 0;
                if let Err(error) = published {
                    queue.books.background_lost(1);
                    tracing::error!(
                        correlation_id = id,
                        "a message for the background is lost: {}",
                        crate::logging::with_causes(&error)
                    );
                }
            }
            shutdown.recv().await;
        })
    });
    (BackgroundPublisher { messages: sender }, companion)
}

/// What waits for the background. Dropped, it counts what is left.
struct Queue {
    receiver: mpsc::Receiver<OutgoingMessage>,
    /// Whether one is being published.
    under_way: u64,
    books: Arc<Books>,
}

impl Queue {
    /// The next message; none when none can come any more. Cancel-safe: a message stays in the channel until it is
    /// received.
    async fn next(&mut self, shutdown: &mut ShutdownSignal) -> Option<OutgoingMessage> {
        let message = tokio::select! {
            message = self.receiver.recv() => message,
            () = shutdown.recv() => {
                self.receiver.close();
                self.receiver.recv().await
            }
        };
        self.under_way = u64::from(message.is_some());
        message
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.receiver.close();
        let left = u64::try_from(self.receiver.len()).unwrap_or(u64::MAX) + self.under_way;
        if left > 0 {
            self.books.background_lost(left);
            tracing::error!(
                messages = left,
                "messages for the background are lost: the service has ended"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use edgehold_core::{ServiceKey, Shutdown};

    use super::*;

    /// Publishes so many, and hangs with the next.
    struct HangsAfter(AtomicUsize);

    impl MessagePublisher for HangsAfter {
        fn publish(&self, _: OutgoingMessage) -> BoxFuture<'_, Result<(), PublishError>> {
            Box::pin(async move {
                if self
                    .0
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_err()
                {
                    std::future::pending::<()>().await;
                }
                Ok(())
            })
        }
    }

    #[tokio::test]
    async fn what_is_not_published_when_the_time_is_up_is_counted() {
        // Given a queue of five, of which two can be published
        let ctx = crate::context_for_test("app-x", Generation::V4).unwrap();
        assert_eq!(ctx.service_key(), &ServiceKey::try_new("app-x").unwrap());
        let books = Arc::new(Books::default());
        let publisher = Arc::new(HangsAfter(AtomicUsize::new(2)));
        let (background, companion) = background(publisher.clone(), 8, books.clone());
        for number in 0..5 {
            let data = Data::Text(number.to_string());
            background.publish("out", &data, &ctx).await.unwrap();
        }
        let (shutdown, signal) = Shutdown::new();
        shutdown.trigger();

        // When its time is up, then the one that hangs and those behind it are counted
        let time_is_up = tokio::time::timeout(std::time::Duration::from_millis(50), companion(signal)).await;
        assert!(time_is_up.is_err());
        assert_eq!(publisher.0.load(Ordering::Relaxed), 0);
        assert_eq!(books.snapshot().background_lost, 3);
        let late = background.publish("out", &Data::Text(String::new()), &ctx).await;
        assert!(matches!(late, Err(BackgroundError::Ended)), "{late:?}");
    }
}
