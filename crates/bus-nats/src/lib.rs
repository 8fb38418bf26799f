//! NATS as a message bus, core and JetStream. The only crate that names async-nats, which appears in no public type.
//!
//! Owns the connections, the way from topics to subjects and back, the streams and consumers of JetStream, and when a
//! message is acknowledged. Does not know what a message means: topics, headers and bytes come out and go in.
//!
//! | | core ([`Subscription`]) | JetStream ([`StreamSubscription`]) |
//! | --- | --- | --- |
//! | a message goes to | whoever is connected at that moment | a stream, and from there to whoever asks |
//! | acknowledged | never | when the delivery is done |
//! | while the service is away | lost | kept by the stream, for a consumer with a name (`Durable`) |
//! | when the byte budget is used up | dropped, and counted | left in the stream |
//!
//! Core drops because reading cannot be stopped: async-nats reads on, and a server that could not write would close the
//! connection with everything it has for it.
//!
//! Invariants:
//! - No more is held than the byte budget allows.
//! - A message that several subscriptions match is handed over once.
//! - JetStream: a message is acknowledged only after its `Ack` said so. While it is in hand the server is told so, and
//!   does not deliver it again; when it does all the same, the second one joins the first.

mod core_subscription;
mod hand;
mod link;
mod publisher;
mod settings;
mod stream;
mod stream_subscription;
mod subject;

pub use core_subscription::Subscription;
pub use publisher::{PublishError, Publisher};
pub use settings::{Access, ConnectionSettings, Deliver, Login, StreamSettings};
pub use stream_subscription::StreamSubscription;
pub use subject::InvalidSubject;

use edgehold_core::Incoming;

/// One received message.
#[derive(Debug)]
pub struct Message {
    /// Its headers, in no order. Repeated ones come as often as they are there.
    pub headers: Vec<(String, String)>,
    /// Its topic (the subject with slashes for dots), its content, and how to say that it is done.
    pub incoming: Incoming,
}

/// What the headers of a message are to us.
fn headers(map: Option<&async_nats::HeaderMap>) -> Vec<(String, String)> {
    let Some(map) = map else { return Vec::new() };
    map.iter()
        .flat_map(|(name, values)| {
            values
                .iter()
                .map(move |value| (name.to_string(), value.as_str().to_owned()))
        })
        .collect()
}
