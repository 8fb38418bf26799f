//! The trigger over any MQTT broker (`Trigger.Type` `external-mqtt`), and its responses.
//!
//! Owns what a message without an envelope is: its bytes are the payload, and its first byte says how they are encoded.
//! The connection is the one of the message bus trigger, with all its promises.

use std::time::Duration;

use edgehold_contracts::ContentType;
use edgehold_core::{
    BoxFuture, ByteBudget, Context, CorrelationId, Delivery, DeliverySender, PayloadForm, Received,
    ResponseError, ResponsePublisher, ShutdownSignal, TopicFilter, Trigger, TriggerError,
};
use edgehold_mqtt::{Body, ConnectionSettings, ConnectionState, Incoming, Publisher, Qos, Subscription};
use tokio::{
    select,
    sync::{mpsc, watch},
    time::timeout,
};

use crate::message_bus::{forward, set_aside, with_sources};

/// What the trigger needs to know.
#[derive(Clone, Debug)]
pub struct ExternalMqttSettings {
    /// How to reach the broker.
    pub connection: ConnectionSettings,
    /// What to subscribe to, as it stands in the settings: see [`external_filters`](crate::external_filters).
    pub filters: Vec<TopicFilter>,
    /// What earlier starts with this client id have subscribed to: see [`Subscription::with_former_filters`].
    pub former_filters: Vec<TopicFilter>,
    /// `Trigger.ExternalMqtt.QoS`; 2 is lowered to 1.
    pub qos: Qos,
    /// The bytes of all deliveries in hand (`MaxInFlightBytes`). Past it nothing more is read.
    pub budget: ByteBudget,
    /// How long the first connection may take to come (`RetryDuration`); none: as long as it takes.
    pub start_limit: Option<Duration>,
    /// Makes the correlation id of a message, which brings none.
    pub new_correlation_id: fn() -> CorrelationId,
}

/// Receives messages from any MQTT broker.
///
/// Every message becomes one delivery: the bytes as they are, `application/json` when the first one is `{` or `[`, else
/// `application/cbor`. An empty message, which the original dies of, has no first byte and is the latter. One larger than
/// `max_message_bytes` is [`Received::Undecodable`] without its bytes.
///
/// Acknowledges, keeps its session, subscribes again and waits for its broker as the message bus trigger does; the
/// original acknowledges at once, never keeps a session, and stays without a subscription that once failed.
pub struct ExternalMqttTrigger {
    subscription: Subscription,
    incoming: mpsc::Receiver<Incoming>,
    broker: String,
    start_limit: Option<Duration>,
    new_correlation_id: fn() -> CorrelationId,
}

impl ExternalMqttTrigger {
    /// Checks the settings. Opens nothing.
    ///
    /// # Errors
    /// [`TriggerError::Configuration`].
    pub fn try_new(settings: ExternalMqttSettings) -> Result<Self, TriggerError> {
        let ExternalMqttSettings {
            connection,
            filters,
            former_filters,
            qos,
            budget,
            start_limit,
            new_correlation_id,
        } = settings;
        let (subscription, incoming) = Subscription::try_new(&connection, filters, qos, budget)
            .map_err(|error| TriggerError::Configuration(with_sources(&error)))?;
        Ok(Self {
            subscription: subscription.with_former_filters(former_filters),
            incoming,
            broker: format!("{}:{}", connection.host, connection.port),
            start_limit,
            new_correlation_id,
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

impl Trigger for ExternalMqttTrigger {
    fn run(
        self: Box<Self>,
        deliveries: DeliverySender,
        shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        let Self {
            subscription,
            incoming,
            broker,
            start_limit,
            new_correlation_id,
        } = *self;
        let mut state = subscription.state();
        Box::pin(async move {
            let too_late = async {
                let Some(limit) = start_limit else {
                    return std::future::pending().await;
                };
                let connected = state.wait_for(|state| *state != ConnectionState::Disconnected);
                if timeout(limit, connected).await.is_ok() {
                    return std::future::pending().await;
                }
                TriggerError::Unavailable(format!(
                    "no connection to {broker} within {limit:?} (RetryDuration)"
                ))
            };
            let forwarding = forward(incoming, deliveries, move |message| {
                Some(open(message, new_correlation_id()))
            });
            let receiving = async { tokio::join!(subscription.run(shutdown), forwarding) };
            select! {
                biased;
                _ = receiving => Ok(()),
                error = too_late => Err(error),
            }
        })
    }
}

/// Makes a message into a delivery.
fn open(message: Incoming, correlation_id: CorrelationId) -> Delivery {
    let Incoming {
        topic,
        body,
        ack,
        permit,
    } = message;
    let received = match body {
        Body::SetAside { bytes, limit } => set_aside(bytes, limit),
        Body::Whole(payload) => Received::Message {
            content_type: ContentType::of_first_byte(&payload).as_str().to_owned(),
            payload,
            form: PayloadForm::Bytes,
            correlation_id,
        },
    };
    Delivery {
        topic,
        received,
        ack,
        permit,
    }
}

/// Publishes responses as they are, without an envelope. Nothing is published for a response without a byte.
/// (EdgeX: `SetResponseData`, `Trigger.PublishTopic`.)
pub struct ExternalMqttResponse {
    /// The connection: never the one that receives.
    pub publisher: Publisher,
    /// Where to, with `{placeholders}` for context values and without a base prefix.
    pub topic: String,
    /// `Trigger.ExternalMqtt.QoS`.
    pub qos: Qos,
    /// `Trigger.ExternalMqtt.Retain`.
    pub retain: bool,
}

impl ResponsePublisher for ExternalMqttResponse {
    /// Waits for the connection and the confirmation as [`Publisher::publish`] does; the original waits without a limit.
    fn respond<'a>(&'a self, ctx: &'a Context) -> BoxFuture<'a, Result<(), ResponseError>> {
        Box::pin(async move {
            let Some(data) = ctx.response_data().filter(|data| !data.is_empty()) else {
                return Ok(());
            };
            let topic = ctx.apply_values(&self.topic)?;
            self.publisher
                .publish(&topic, data.clone(), self.qos, self.retain)
                .await
                .map_err(|error| ResponseError::Publish(Box::new(error)))
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use edgehold_core::{Ack, BytePermit};

    use super::*;

    fn received(body: Body) -> Received {
        let message = Incoming {
            topic: "in".to_owned(),
            body,
            ack: Ack::none(),
            permit: BytePermit::none(),
        };
        open(message, CorrelationId::new("corr-1")).received
    }

    #[test]
    fn the_first_byte_says_how_a_message_is_encoded_and_an_empty_one_is_no_crash() {
        for (text, wanted) in [
            (&b"{}"[..], "application/json"),
            (b"[1,2]", "application/json"),
            (b" {}", "application/cbor"),
            (b"\xA0", "application/cbor"),
            (b"", "application/cbor"),
        ] {
            let Received::Message {
                payload,
                form,
                content_type,
                correlation_id,
            } = received(Body::Whole(Bytes::from_static(text)))
            else {
                panic!("{text:?} is a message");
            };
            assert_eq!((&payload[..], content_type.as_str()), (text, wanted));
            assert_eq!((form, correlation_id.as_str()), (PayloadForm::Bytes, "corr-1"));
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_undecodable() {
        let Received::Undecodable { raw, reason } = received(Body::SetAside { bytes: 7, limit: 5 }) else {
            panic!("nothing is left of it");
        };
        assert!(raw.is_empty() && reason.contains("7 bytes"), "{reason}");
    }
}
