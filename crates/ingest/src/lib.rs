//! Triggers: where deliveries come from.
//!
//! Owns the way from a received message to a [`Delivery`](edgehold_core::Delivery): which topics are subscribed, how
//! an envelope is opened, what becomes of a message that is none. Does not decode what is inside an envelope and knows
//! no pipeline; connections belong to `edgehold-mqtt`.
//!
//! Invariant: deliveries reach the runtime in the order of receipt, and waiting for the runtime never stops a
//! connection from being kept alive.

mod message_bus;
mod topics;

pub use message_bus::{MessageBusSettings, MessageBusTrigger};
pub use topics::subscribe_filters;
