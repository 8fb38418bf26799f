//! MQTT 3.1.1 connections. The only crate that names rumqttc, which appears in no public type.
//!
//! Owns the event loops of subscribing and publishing connections, the order of acknowledgement, confirmation,
//! reconnecting, keep-alive, TLS, and the rules by which settings and secrets become credentials. Does not know what a message means: topics and bytes come out, an
//! [`Ack`](edgehold_core::Ack) goes back; topics and bytes go in, a confirmation comes back.
//!
//! Invariants:
//! - Whatever polls the event loop never waits for anybody else: not for the taker of messages, not for the byte
//!   budget, not for an acknowledgement. It stops *reading* instead, and keeps the connection alive meanwhile.
//! - A message is acknowledged only after its `Ack` said so, in the order of receipt, over the connection it came by.
//! - What was read is handed over, also when the connection breaks behind it.
//! - What is published is confirmed or fails within its time, and is never sent twice.
//! - No message can make the connection break for ever, however large it is.

mod ack_fifo;
mod address;
mod connect;
mod hand_over;
mod identity;
mod publication;
mod settings;
mod subscription;
mod tls;
mod wire;

pub use address::{BrokerAddress, InvalidBrokerAddress};
pub use edgehold_core::{Body, ConnectionState, Incoming};
pub use identity::{
    AuthMode, BusOptions, Identity, IdentityError, InvalidAuthMode, PemSetting, Rules, Security,
};
pub use publication::{Publication, PublishError, Publisher};
pub use settings::{ConnectionSettings, Credentials, InvalidConnectionSettings, LastWill, Qos};
pub use subscription::Subscription;
pub use tls::{ClientCertificate, TlsSettings, Trust};
