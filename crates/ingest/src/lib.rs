//! Triggers: where deliveries come from, and where responses go.
//!
//! Owns the way from a received message to a [`Delivery`](edgehold_core::Delivery): which topics are subscribed, how
//! an envelope is opened, what becomes of a message that is none; and the way of a response back to the bus. Does not
//! decode what is inside an envelope (but for the names of a topic that lost them, see `names`) and knows no pipeline;
//! connections belong to `edgehold-mqtt`, `edgehold-bus-redis` and `edgehold-bus-nats`.
//!
//! Invariant: deliveries reach the runtime in the order of receipt, and waiting for the runtime never stops a
//! connection from being kept alive.

mod envelope_form;
mod external_mqtt;
mod message_bus;
mod names;
mod publisher;
mod response;
mod topics;

pub use envelope_form::EnvelopeForm;
pub use external_mqtt::{ExternalMqttResponse, ExternalMqttSettings, ExternalMqttTrigger};
pub use message_bus::{
    MessageBusSettings, MessageBusTrigger,
    nats::{NatsBusPublisher, NatsBusSettings, NatsBusTrigger, NatsFormat, NatsSource},
    redis::{RedisBusSettings, RedisBusTrigger},
};
pub use publisher::{BusPublishError, BusPublisher, MqttBusPublisher};
pub use response::MessageBusResponse;
pub use topics::{external_filters, response_topic, subscribe_filters};
