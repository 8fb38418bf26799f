//! The message envelope: what every message on the EdgeX MessageBus is wrapped in.
//!
//! Owns reading and writing the envelope in the forms of both generations. It does not own what a payload means: a payload is bytes
//! until a codec decodes it, and a raw JSON payload keeps its exact text, so integers beyond 2^53 survive (the original sends them
//! through float64).
//!
//! | `payload` on the wire | becomes |
//! | --- | --- |
//! | `null`, or no such key | [`Payload::Empty`] |
//! | string that is base64 | [`Payload::Bytes`] |
//! | any other string (error envelopes of generation 4) | [`Payload::Text`] |
//! | object, array, number, boolean | [`Payload::Json`], untouched |
//! | CBOR envelope: byte string | [`Payload::Bytes`] |
//! | CBOR envelope: map or other item | [`Payload::Cbor`], untouched |

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::base64;
use crate::codec::{DecodeError, Key, Keys, or_default};
use crate::generation::{API_VERSION, Generation};
use crate::json;

mod cbor_form;

/// A message of the EdgeX MessageBus. Keys and order as in go-mod-messaging's `MessageEnvelope`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MessageEnvelope {
    /// `apiVersion`: `"v3"` in both generations, empty on responses an app service publishes. Never checked.
    pub api_version: String,
    /// `receivedTopic`: empty on the wire; the receiver puts the concrete topic here.
    pub received_topic: String,
    /// `correlationID`: may be empty, is not checked.
    pub correlation_id: String,
    /// `requestID`: empty for events and metrics.
    pub request_id: String,
    /// `errorCode`: 0 is fine, 1 an error. Triggers ignore it.
    pub error_code: i64,
    /// `payload`.
    pub payload: Payload,
    /// `contentType` of the payload.
    pub content_type: String,
    /// `queryParams`, omitted when empty.
    pub query_params: BTreeMap<String, String>,
}

/// What an envelope carries. The forms are told in the module's table.
#[derive(Debug, Clone, Default)]
pub enum Payload {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes, base64 on the wire of JSON envelopes.
    Bytes(Bytes),
    /// Text that is not base64.
    Text(String),
    /// The exact text of a JSON value that is neither string nor null.
    Json(Box<RawValue>),
    /// The exact bytes of a CBOR item inside a CBOR envelope.
    Cbor(Bytes),
}

/// Why a message is no envelope, or its payload no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The message is not an envelope.
    #[error("message is not an envelope")]
    Decode(#[source] DecodeError),
    /// The payload is a string that is not base64, where a codec needs bytes.
    #[error("payload is a string that is not base64")]
    PayloadNotBase64,
    /// The JSON payload has no CBOR form: it is nested too deep.
    #[error("payload has no CBOR form")]
    PayloadNotCbor,
}

impl Payload {
    /// A payload holding the JSON text of `value`, which generation 4 sends as a raw value and generation 3 as base64.
    ///
    /// # Errors
    /// As [`json::to_vec`].
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        let text =
            String::from_utf8(json::to_vec(value)?).expect("a JSON serializer writes UTF-8 and only UTF-8");
        RawValue::from_string(text).map(Self::Json)
    }

    /// A payload holding JSON text as it is.
    ///
    /// # Errors
    /// When `text` is not exactly one JSON value.
    pub fn json_text(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self::Json)
    }

    /// What a codec decodes: the bytes behind base64, the text of raw JSON, or nothing.
    ///
    /// # Errors
    /// [`EnvelopeError::PayloadNotBase64`] for [`Payload::Text`].
    pub fn as_bytes(&self) -> Result<&[u8], EnvelopeError> {
        match self {
            Self::Empty => Ok(&[]),
            Self::Bytes(bytes) | Self::Cbor(bytes) => Ok(bytes),
            Self::Json(raw) => Ok(raw.get().as_bytes()),
            Self::Text(_) => Err(EnvelopeError::PayloadNotBase64),
        }
    }

    /// As [`Payload::as_bytes`], without copying.
    ///
    /// # Errors
    /// As [`Payload::as_bytes`].
    pub fn into_bytes(self) -> Result<Bytes, EnvelopeError> {
        match self {
            Self::Empty => Ok(Bytes::new()),
            Self::Bytes(bytes) | Self::Cbor(bytes) => Ok(bytes),
            Self::Json(raw) => Ok(Bytes::from(String::from(Box::<str>::from(raw)))),
            Self::Text(_) => Err(EnvelopeError::PayloadNotBase64),
        }
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Empty, Self::Empty) => true,
            (Self::Bytes(a), Self::Bytes(b)) | (Self::Cbor(a), Self::Cbor(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Json(a), Self::Json(b)) => a.get() == b.get(),
            _ => false,
        }
    }
}

impl MessageEnvelope {
    /// An envelope as a publisher builds it: `apiVersion` `"v3"`, no error, no request id.
    pub fn new(correlation_id: String, payload: Payload, content_type: String) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            correlation_id,
            payload,
            content_type,
            ..Self::default()
        }
    }

    /// Reads a JSON envelope of either generation.
    ///
    /// Keys match in any case, unknown keys are ignored, of duplicates the last wins, and `null` is the zero value.
    ///
    /// # Errors
    /// [`EnvelopeError::Decode`]: no JSON, trailing bytes, or a field of another type (such as an `errorCode` that is a string).
    pub fn from_json(message: &[u8]) -> Result<Self, EnvelopeError> {
        json::from_slice::<FromJson>(message)
            .map(|FromJson(envelope)| envelope)
            .map_err(EnvelopeError::Decode)
    }

    /// Reads a CBOR envelope (`EDGEX_MSG_CBOR_ENCODE=true`): the same keys, the payload a byte string or a nested item.
    ///
    /// # Errors
    /// [`EnvelopeError::Decode`]: no CBOR, trailing bytes, or a field of another type.
    pub fn from_cbor(message: &[u8]) -> Result<Self, EnvelopeError> {
        cbor_form::from_cbor(message).map_err(EnvelopeError::Decode)
    }

    /// What a codec decodes; see [`Payload::as_bytes`].
    ///
    /// # Errors
    /// As [`Payload::as_bytes`].
    pub fn payload_bytes(&self) -> Result<&[u8], EnvelopeError> {
        self.payload.as_bytes()
    }

    /// Writes the JSON envelope of a generation: generation 3 sends every payload as base64, generation 4 sends JSON as it is, text
    /// as text, and only bytes as base64.
    pub fn to_json(&self, generation: Generation) -> Vec<u8> {
        json::to_vec_for(generation, &JsonForm(self, generation))
            .expect("an envelope is text, an integer and a valid payload, which all have a JSON form")
    }

    /// Writes the CBOR envelope of `EDGEX_MSG_CBOR_ENCODE=true`: a JSON payload becomes a nested CBOR item, and then the content type
    /// becomes `application/cbor`, as the original forces it.
    ///
    /// # Errors
    /// [`EnvelopeError::PayloadNotCbor`] for a JSON payload nested deeper than 128 levels.
    pub fn to_cbor(&self) -> Result<Vec<u8>, EnvelopeError> {
        cbor_form::to_cbor(self)
    }
}

#[derive(Clone, Copy)]
enum EnvelopeKey {
    ApiVersion,
    ReceivedTopic,
    CorrelationId,
    RequestId,
    ErrorCode,
    Payload,
    ContentType,
    QueryParams,
}

impl Keys for EnvelopeKey {
    const KEYS: &'static [(&'static str, Self)] = &[
        ("apiVersion", Self::ApiVersion),
        ("receivedTopic", Self::ReceivedTopic),
        ("correlationID", Self::CorrelationId),
        ("requestID", Self::RequestId),
        ("errorCode", Self::ErrorCode),
        ("payload", Self::Payload),
        ("contentType", Self::ContentType),
        ("queryParams", Self::QueryParams),
    ];
}

struct FromJson(MessageEnvelope);

impl<'de> Deserialize<'de> for FromJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor).map(FromJson)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = MessageEnvelope;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message envelope")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MessageEnvelope, A::Error> {
        let mut envelope = MessageEnvelope::default();
        while let Some(key) = map.next_key::<Key<EnvelopeKey>>()? {
            let Key::Known(key) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            match key {
                EnvelopeKey::ApiVersion => envelope.api_version = or_default(&mut map)?,
                EnvelopeKey::ReceivedTopic => envelope.received_topic = or_default(&mut map)?,
                EnvelopeKey::CorrelationId => envelope.correlation_id = or_default(&mut map)?,
                EnvelopeKey::RequestId => envelope.request_id = or_default(&mut map)?,
                EnvelopeKey::ErrorCode => envelope.error_code = or_default(&mut map)?,
                EnvelopeKey::ContentType => envelope.content_type = or_default(&mut map)?,
                EnvelopeKey::QueryParams => envelope.query_params = query_params(or_default(&mut map)?),
                EnvelopeKey::Payload => {
                    let raw: &RawValue = map.next_value()?;
                    envelope.payload = json_payload(raw).map_err(A::Error::custom)?;
                }
            }
        }
        Ok(envelope)
    }
}

/// Go reads a `null` among the values as an empty text.
fn query_params(params: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    params
        .into_iter()
        .map(|(name, value)| (name, value.unwrap_or_default()))
        .collect()
}

fn json_payload(raw: &RawValue) -> Result<Payload, serde_json::Error> {
    let text = raw.get();
    Ok(if text == "null" {
        Payload::Empty
    } else if let Some(rest) = text.strip_prefix('"') {
        // Base64 needs no escapes, so nearly always the bytes between the quotes are the text.
        match rest
            .strip_suffix('"')
            .map(|inner| base64::decode(inner.as_bytes()))
        {
            Some(Ok(bytes)) => Payload::Bytes(bytes.into()),
            _ => text_payload(serde_json::from_str(text)?),
        }
    } else {
        Payload::Json(raw.to_owned())
    })
}

fn text_payload(text: String) -> Payload {
    match base64::decode(text.as_bytes()) {
        Ok(bytes) => Payload::Bytes(bytes.into()),
        Err(_) => Payload::Text(text),
    }
}

/// The keys in Go's order.
struct JsonForm<'a>(&'a MessageEnvelope, Generation);

impl Serialize for JsonForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(envelope, generation) = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("apiVersion", &envelope.api_version)?;
        map.serialize_entry("receivedTopic", &envelope.received_topic)?;
        map.serialize_entry("correlationID", &envelope.correlation_id)?;
        map.serialize_entry("requestID", &envelope.request_id)?;
        map.serialize_entry("errorCode", &envelope.error_code)?;
        map.serialize_entry("payload", &PayloadForm(&envelope.payload, generation))?;
        map.serialize_entry("contentType", &envelope.content_type)?;
        if !envelope.query_params.is_empty() {
            map.serialize_entry("queryParams", &envelope.query_params)?;
        }
        map.end()
    }
}

struct PayloadForm<'a>(&'a Payload, Generation);

impl Serialize for PayloadForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: &[u8] = match (self.0, self.1) {
            (Payload::Empty, _) => return serializer.serialize_none(),
            (Payload::Json(raw), Generation::V4) => return raw.serialize(serializer),
            (Payload::Text(text), Generation::V4) => return serializer.serialize_str(text),
            (Payload::Json(raw), Generation::V3) => raw.get().as_bytes(),
            (Payload::Text(text), Generation::V3) => text.as_bytes(),
            (Payload::Bytes(bytes) | Payload::Cbor(bytes), _) => bytes,
        };
        serializer.serialize_str(&base64::encode(bytes))
    }
}

#[cfg(test)]
mod tests;
