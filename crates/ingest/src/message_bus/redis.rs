//! The EdgeX message bus over Redis pub/sub (`MessageBus.Type` `redis`), and publishing by it.
//!
//! `*` in a Redis pattern takes more than the level that `+` asks for, so every topic is looked at again here: what no
//! filter of the settings matches is not delivered. (EdgeX delivers it: there `+` is as good as `#`.)

use std::sync::Arc;

use edgehold_bus_redis::{ConnectionSettings, Publisher, Subscription};
use edgehold_contracts::{Generation, MessageEnvelope};
use edgehold_core::{
    BoxFuture, ByteBudget, ConnectionState, DeliverySender, Incoming, ReceptionLoss, ShutdownSignal,
    TopicFilter, Trigger, TriggerError,
};
use tokio::sync::{mpsc, watch};

use super::{SlashedTopics, forward, open};
use crate::{BusPublishError, BusPublisher, EnvelopeForm};

/// What the trigger needs to know.
#[derive(Clone, Debug)]
pub struct RedisBusSettings {
    /// How to reach the server.
    pub connection: ConnectionSettings,
    /// `MessageBus.BaseTopicPrefix`.
    pub base_prefix: String,
    /// What to subscribe to, base prefix included: see [`subscribe_filters`](crate::subscribe_filters).
    pub filters: Vec<TopicFilter>,
    /// The bytes of all deliveries in hand (`MaxInFlightBytes`). Past it nothing more is read.
    pub budget: ByteBudget,
}

/// Receives envelopes from Redis channels. Every message becomes one delivery, as with
/// [`MessageBusTrigger`](crate::MessageBusTrigger), also when several filters match it; nothing is acknowledged, because
/// Redis keeps nothing. Envelopes are JSON.
pub struct RedisBusTrigger {
    subscription: Subscription,
    incoming: mpsc::Receiver<Incoming>,
    topics: SlashedTopics,
}

impl RedisBusTrigger {
    /// Opens nothing.
    pub fn new(settings: RedisBusSettings) -> Self {
        let RedisBusSettings {
            connection,
            base_prefix,
            filters,
            budget,
        } = settings;
        let (subscription, incoming) = Subscription::new(connection, &filters, budget);
        Self {
            subscription,
            incoming,
            topics: SlashedTopics::new(base_prefix, filters),
        }
    }

    /// Follows how the connection stands.
    pub fn connection_state(&self) -> watch::Receiver<ConnectionState> {
        self.subscription.state()
    }

    /// What was lost before it was taken in.
    pub fn loss(&self) -> Arc<ReceptionLoss> {
        self.subscription.loss()
    }
}

impl Trigger for RedisBusTrigger {
    fn run(
        self: Box<Self>,
        deliveries: DeliverySender,
        shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        let Self {
            subscription,
            incoming,
            mut topics,
        } = *self;
        Box::pin(async move {
            let forwarding = forward(incoming, deliveries, move |message| {
                topics.take(open(message, EnvelopeForm::Json))
            });
            tokio::join!(subscription.run(shutdown), forwarding);
            Ok(())
        })
    }
}

impl BusPublisher for Publisher {
    /// A JSON envelope. Waits as [`Publisher::publish`] does.
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        envelope: &'a MessageEnvelope,
        generation: Generation,
    ) -> BoxFuture<'a, Result<(), BusPublishError>> {
        Box::pin(async move {
            let message = envelope.to_json(generation);
            let published = Publisher::publish(self, topic, message.into()).await;
            published.map_err(|error| BusPublishError::Publish {
                class: error.class(),
                source: Box::new(error),
            })
        })
    }
}
