//! The EdgeX message bus over NATS, core and JetStream (`MessageBus.Type` `nats-core`, `nats-jetstream`), and publishing
//! by it.
//!
//! An envelope has two forms here. `nats`, which EdgeX uses unless told otherwise: the payload is the message, and the
//! rest stands in headers. `json`: as on the other buses. Neither tells of the other, so what is not in the form that is
//! set is undecodable, or has neither content type nor correlation id.

use std::sync::Arc;

use bytes::Bytes;
use edgehold_bus_nats::{
    ConnectionSettings, InvalidSubject, Message, Publisher, StreamSettings, StreamSubscription, Subscription,
};
use edgehold_contracts::{Generation, MessageEnvelope};
use edgehold_core::{
    Body, BoxFuture, ByteBudget, ConnectionState, CorrelationId, Delivery, DeliverySender, Incoming,
    PayloadForm, Received, ReceptionLoss, ShutdownSignal, TopicFilter, Trigger, TriggerError,
};
use tokio::sync::{mpsc, watch};

use super::{SlashedTopics, forward, open, set_aside};
use crate::{BusPublishError, BusPublisher, EnvelopeForm};

const CORRELATION_ID: &str = "X-Correlation-ID";
const CONTENT_TYPE: &str = "Content-Type";
const REQUEST_ID: &str = "RequestId";
const API_VERSION: &str = "ApiVersion";
const ERROR_CODE: &str = "ErrorCode";
const QUERY_PARAMS: &str = "QueryParams";
/// By which a stream knows that it has a message already.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// How envelopes are written down (`MessageBus.Optional.Format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatsFormat {
    /// The payload, and headers.
    #[default]
    Nats,
    /// A JSON envelope.
    Json,
}

impl NatsFormat {
    /// By EdgeX's word, whatever its case; anything else is `nats`, as there.
    pub fn from_setting(text: &str) -> Self {
        match text.trim().eq_ignore_ascii_case("json") {
            true => Self::Json,
            false => Self::Nats,
        }
    }
}

/// By which of NATS' two ways messages come.
#[derive(Clone, Debug)]
pub enum NatsSource {
    /// From whoever publishes, to whoever is connected.
    Core {
        /// `QueueGroup`; empty for none.
        queue_group: String,
    },
    /// From a stream.
    JetStream(StreamSettings),
}

/// What the trigger needs to know.
#[derive(Clone, Debug)]
pub struct NatsBusSettings {
    /// How to reach the server.
    pub connection: ConnectionSettings,
    /// `MessageBus.BaseTopicPrefix`.
    pub base_prefix: String,
    /// What to subscribe to, base prefix included: see [`subscribe_filters`](crate::subscribe_filters).
    pub filters: Vec<TopicFilter>,
    /// The bytes of all deliveries in hand (`MaxInFlightBytes`).
    pub budget: ByteBudget,
    /// How envelopes are written down.
    pub format: NatsFormat,
    /// Core or JetStream.
    pub source: NatsSource,
}

enum Reader {
    Core(Subscription),
    JetStream(StreamSubscription),
}

/// Receives envelopes from NATS. Every message becomes one delivery, as with
/// [`MessageBusTrigger`](crate::MessageBusTrigger), also when several filters match it.
///
/// Unlike EdgeX a message of a stream is acknowledged only when its delivery is done.
pub struct NatsBusTrigger {
    reader: Reader,
    messages: mpsc::Receiver<Message>,
    topics: SlashedTopics,
    format: NatsFormat,
}

impl NatsBusTrigger {
    /// Checks the topics. Opens nothing.
    ///
    /// # Errors
    /// [`TriggerError::Configuration`] for a topic that NATS has no subject for.
    pub fn try_new(settings: NatsBusSettings) -> Result<Self, TriggerError> {
        let NatsBusSettings {
            connection,
            base_prefix,
            filters,
            budget,
            format,
            source,
        } = settings;
        let wrong = |error: InvalidSubject| TriggerError::Configuration(format!("SubscribeTopics: {error}"));
        let (reader, messages) = match source {
            NatsSource::Core { queue_group } => {
                let (reader, messages) =
                    Subscription::try_new(connection, &filters, queue_group, budget).map_err(wrong)?;
                (Reader::Core(reader), messages)
            }
            NatsSource::JetStream(stream) => {
                let (reader, messages) =
                    StreamSubscription::try_new(connection, stream, &filters, budget).map_err(wrong)?;
                (Reader::JetStream(reader), messages)
            }
        };
        Ok(Self {
            reader,
            messages,
            topics: SlashedTopics::new(base_prefix, filters),
            format,
        })
    }

    /// Follows how the connection stands.
    pub fn connection_state(&self) -> watch::Receiver<ConnectionState> {
        match &self.reader {
            Reader::Core(reader) => reader.state(),
            Reader::JetStream(reader) => reader.state(),
        }
    }

    /// What was lost before it was taken in; none for JetStream, where it waits in the stream.
    pub fn loss(&self) -> Option<Arc<ReceptionLoss>> {
        match &self.reader {
            Reader::Core(reader) => Some(reader.loss()),
            Reader::JetStream(_) => None,
        }
    }
}

impl Trigger for NatsBusTrigger {
    fn run(
        self: Box<Self>,
        deliveries: DeliverySender,
        shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        let Self {
            reader,
            messages,
            mut topics,
            format,
        } = *self;
        Box::pin(async move {
            let forwarding = forward(messages, deliveries, move |message: Message| {
                topics.take(match format {
                    NatsFormat::Json => open(message.incoming, EnvelopeForm::Json),
                    NatsFormat::Nats => open_headers(message),
                })
            });
            let reading = async {
                match reader {
                    Reader::Core(reader) => reader.run(shutdown).await,
                    Reader::JetStream(reader) => reader.run(shutdown).await,
                }
            };
            let (ended, ()) = tokio::join!(reading, forwarding);
            ended.map_err(|reason| TriggerError::Configuration(format!("MessageBus: {reason}")))
        })
    }
}

/// Opens a message whose envelope is in its headers.
fn open_headers(message: Message) -> Delivery {
    let Message { headers, incoming } = message;
    let Incoming {
        topic,
        body,
        ack,
        permit,
    } = incoming;
    let header = |name: &str| {
        let mut found = headers.iter().filter(|(header, _)| header == name);
        found.next().map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let error_code = header(ERROR_CODE);
    let received = match body {
        Body::SetAside { bytes, limit } => set_aside(bytes, limit),
        // What the original cannot read either.
        Body::Whole(raw) if !error_code.is_empty() && error_code.parse::<i64>().is_err() => {
            Received::Undecodable {
                raw,
                reason: format!("the header {ERROR_CODE} is '{error_code}', which is no number"),
            }
        }
        Body::Whole(payload) => Received::Message {
            payload,
            form: PayloadForm::Bytes,
            content_type: header(CONTENT_TYPE).to_owned(),
            correlation_id: CorrelationId::new(header(CORRELATION_ID)),
        },
    };
    Delivery {
        topic,
        received,
        ack,
        permit,
    }
}

/// The message bus over NATS.
pub struct NatsBusPublisher {
    /// The connection.
    pub publisher: Publisher,
    /// How envelopes are written down.
    pub format: NatsFormat,
    /// With `MessageBus.Optional.ExactlyOnce`: the client id. A stream takes a message with the same correlation id from
    /// the same client once only.
    pub exactly_once: Option<String>,
}

impl BusPublisher for NatsBusPublisher {
    /// Waits as [`Publisher::publish`] does.
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        envelope: &'a MessageEnvelope,
        generation: Generation,
    ) -> BoxFuture<'a, Result<(), BusPublishError>> {
        Box::pin(async move {
            let mut headers = Headers::new();
            let message = match self.format {
                NatsFormat::Json => envelope.to_json(generation).into(),
                NatsFormat::Nats => {
                    let (payload, described) = payload_and_headers(envelope)?;
                    headers = described;
                    payload
                }
            };
            if let Some(client_id) = &self.exactly_once {
                headers.push((MESSAGE_ID, format!("{client_id}-{}", envelope.correlation_id)));
            }
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let published = self.publisher.publish(topic, &headers, message).await;
            published.map_err(|error| BusPublishError::Publish {
                class: error.class(),
                source: Box::new(error),
            })
        })
    }
}

type Headers = Vec<(&'static str, String)>;

fn payload_and_headers(envelope: &MessageEnvelope) -> Result<(Bytes, Headers), BusPublishError> {
    let payload = envelope.payload.clone().into_bytes();
    let payload = payload.map_err(|error| BusPublishError::Encode(Box::new(error)))?;
    let mut headers = vec![
        (CORRELATION_ID, envelope.correlation_id.clone()),
        (CONTENT_TYPE, envelope.content_type.clone()),
        (REQUEST_ID, envelope.request_id.clone()),
        (API_VERSION, envelope.api_version.clone()),
        (ERROR_CODE, envelope.error_code.to_string()),
    ];
    let query = envelope.query_params.iter();
    headers.extend(query.map(|(key, value)| (QUERY_PARAMS, format!("{key}:{value}"))));
    Ok((payload, headers))
}
