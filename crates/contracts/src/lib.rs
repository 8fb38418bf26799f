//! EdgeX wire shapes of both generations: bytes in, values out.
//!
//! Owns the envelope, events and readings, requests, metrics, system events and REST bodies, in JSON and CBOR, with Go's exact text.
//! It knows no transport, no pipeline and no configuration, reads no clock and makes no ids: these come in as arguments.
//!
//! Invariants: nothing panics on outside input; integers stay exact; input of either generation is read whatever the configured one;
//! nesting is bounded; what was decoded and is encoded again for its own generation equals the original's output byte for byte.

pub mod base64;
pub mod cbor;
mod codec;
mod content_type;
pub mod envelope;
pub mod event;
pub mod generation;
pub mod json;
pub mod metric;
pub mod number;
pub mod request;
pub mod response;
pub mod system_event;
mod value;

pub use codec::{DecodeError, decode};
pub use content_type::{ContentType, UnsupportedContentType};
pub use envelope::{EnvelopeError, MessageEnvelope, Payload};
pub use event::{
    AddEventRequest, Event, EventError, EventErrorKind, Reading, ReadingValue, Tags, ValueType, decode_event,
};
pub use generation::{API_VERSION, Generation};
pub use metric::{Metric, MetricField, MetricTag, MetricValue};
pub use request::{InvalidRequest, SecretRequest};
pub use response::{BaseResponse, ErrorResponse, PingResponse, VersionResponse};
pub use system_event::SystemEvent;
