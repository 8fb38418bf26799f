//! Redis pub/sub as a message bus: what EdgeX 3 has when nobody chooses otherwise.
//!
//! Owns the connections (one subscribes, one publishes), what is said over them, reconnecting, and the way from topics to
//! channels and back. Does not know what a message means: topics and bytes come out, topics and bytes go in. The same
//! connection reads what the original's Store and Forward left on such a server (`backlog`).
//!
//! What Redis gives: a message goes to whoever is connected at that moment, once, and nobody hears of it when it does not
//! arrive. There is no acknowledgement and nothing is kept. So what is published while the service is away, or while its
//! connection is broken, is lost; and when it reads too slowly for too long, Redis closes its connection and drops what
//! it had for it (`client-output-buffer-limit pubsub`, by default 32 MiB at once or 8 MiB for a minute).
//!
//! It speaks the protocol (RESP2: arrays, strings, numbers) by itself. The `redis` crate reads whatever comes into a
//! queue without bound, where a slow destination would cost memory; here nothing is read while there is no room for it.
//!
//! Invariants:
//! - Nothing is read while the byte budget is used up, and a message larger than allowed is never held.
//! - A message that several subscriptions match is handed over once.
//! - A renewed secret counts from the next attempt to connect on.
//! - What is published is confirmed by the server or fails within its time, and is never sent twice.

mod backlog;
mod channel;
mod connection;
mod publication;
mod resp;
mod settings;
mod subscription;

pub use backlog::{Backlog, LeftBehind};
pub use connection::ConnectionError;
pub use publication::{Publication, PublishError, Publisher};
pub use settings::{Access, ConnectionSettings, Credentials};
pub use subscription::Subscription;
