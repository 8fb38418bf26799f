//! JSON envelopes: what is read, written and read again is the same, and a raw payload keeps its exact text.

use bytes::Bytes;
use edgehold_contracts::{ContentType, EnvelopeError, Generation, MessageEnvelope, Payload, cbor, json};
use serde_json::Value;

/// A JSON envelope of either generation.
pub fn envelope(data: &[u8]) {
    let Ok(envelope) = MessageEnvelope::from_json(data) else {
        return;
    };
    if let (Payload::Json(raw), Ok(text)) = (&envelope.payload, str::from_utf8(data)) {
        assert!(text.contains(raw.get()), "a raw payload is not as it came");
    }
    survives_json(&envelope);
    survives_cbor(&envelope);
}

/// Written as JSON in the form of each generation and read again.
pub(crate) fn survives_json(envelope: &MessageEnvelope) {
    for generation in [Generation::V3, Generation::V4] {
        let written = envelope.to_json(generation);
        let read = MessageEnvelope::from_json(&written).expect("an envelope reads what it writes");
        let payload = match &envelope.payload {
            Payload::Cbor(item) => Payload::Bytes(item.clone()),
            Payload::Json(raw) if generation == Generation::V3 => payload_of(raw.get()),
            Payload::Text(text) if generation == Generation::V3 => payload_of(text),
            other => other.clone(),
        };
        let expected = MessageEnvelope {
            payload,
            ..envelope.clone()
        };
        assert_eq!(read, expected, "{generation}");
        assert_eq!(read.to_json(generation), written, "{generation}");
    }
}

/// Generation 3 makes bytes of every payload.
fn payload_of(text: &str) -> Payload {
    Payload::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

/// Written as CBOR and read again.
pub(crate) fn survives_cbor(envelope: &MessageEnvelope) {
    let nested: Option<Value> = match &envelope.payload {
        // Not serde_json's own reading, which refuses halves of surrogate pairs.
        Payload::Json(raw) => match json::from_slice(raw.get().as_bytes()) {
            Ok(value) => Some(value),
            Err(_) => {
                assert_eq!(envelope.to_cbor(), Err(EnvelopeError::PayloadNotCbor));
                return;
            }
        },
        _ => None,
    };
    let written = envelope.to_cbor().expect("what JSON reads has a CBOR form");
    let read = MessageEnvelope::from_cbor(&written).expect("an envelope reads what it writes");
    let mut expected = envelope.clone();
    if let Some(value) = nested {
        let Payload::Cbor(item) = &read.payload else {
            panic!("a JSON payload became {:?}", read.payload);
        };
        assert_eq!(cbor::from_slice(item), Ok(value), "the payload in CBOR");
        expected.payload = read.payload.clone();
        expected.content_type = ContentType::Cbor.as_str().to_owned();
    }
    assert_eq!(read, expected);
    assert_eq!(read.to_cbor(), Ok(written));
}
