//! CBOR envelopes, events and requests: what is read, written and read again is the same.

use edgehold_contracts::{ContentType, Event, MessageEnvelope};

use crate::envelope::{survives_cbor, survives_json};
use crate::event::requests;
use crate::event_model::survives;

/// The CBOR of an envelope, an event, a request with one, or none of them.
pub fn cbor(data: &[u8]) {
    if let Ok(envelope) = MessageEnvelope::from_cbor(data) {
        survives_cbor(&envelope);
        survives_json(&envelope);
    }
    if let Ok(event) = Event::decode(data, ContentType::Cbor) {
        survives(&event);
    }
    requests(data, ContentType::Cbor);
}
