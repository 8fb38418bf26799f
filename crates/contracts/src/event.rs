//! Events and readings: what devices say, and what most pipelines work on.
//!
//! Owns the values, their JSON and CBOR forms in both generations, and the rules by which received events are judged. It does not own
//! transport (see `envelope`), nor ids and clocks: these come in as arguments.
//!
//! Either generation's form is read; which is written is the caller's choice. Three things differ from the original on purpose:
//! integers stay exact, whatever the envelope's form; keys of events and readings match in any case, as in all versions but 4.0.2;
//! and a value type in another case does not hide a Binary or Object value. The rules for received events are those of generation 4,
//! which are wider by null readings and `ObjectArray`, and narrower only in that a resource or source name may not be blank.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use uuid::Uuid;

use crate::generation::{API_VERSION, Generation};

mod decode;
mod encode;
mod error;
mod validate;
mod value_type;

pub use decode::decode_event;
pub use encode::{AddEventRequestForm, EventForm};
pub use error::{EventError, EventErrorKind, Rule, Violation};
pub(crate) use validate::is_uuid;
pub use value_type::{UnknownValueType, ValueType};

/// Names and values attached to an event or a reading; values are any JSON.
pub type Tags = BTreeMap<String, Value>;

/// A set of readings of one device, taken at one time by one command or resource. Go: `dtos.Event`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    /// `apiVersion`: required; `"v3"`, though other texts are accepted.
    pub api_version: String,
    /// `id`: a UUID in lower case.
    pub id: String,
    /// `deviceName`: not blank.
    pub device_name: String,
    /// `profileName`: not blank.
    pub profile_name: String,
    /// `sourceName`: name of the command or resource, not blank.
    pub source_name: String,
    /// `origin`: nanoseconds since 1970, not zero.
    pub origin: i64,
    /// `readings`: at least one.
    pub readings: Vec<Reading>,
    /// `tags`: omitted when empty.
    pub tags: Tags,
    /// Any other key. Written by generation 4 (as since 4.0.2), dropped by generation 3.
    pub extensions: BTreeMap<String, Value>,
}

/// One value of one device resource. Go: `dtos.BaseReading`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    /// `id`: omitted when empty; usually a UUID, not checked.
    pub id: String,
    /// `origin`: nanoseconds since 1970, not zero.
    pub origin: i64,
    /// `deviceName`: not blank.
    pub device_name: String,
    /// `resourceName`: not blank.
    pub resource_name: String,
    /// `profileName`: not blank.
    pub profile_name: String,
    /// `valueType`: the name of a [`ValueType`]. Text, because a bare event keeps the case it came in.
    pub value_type: String,
    /// `units`: omitted when empty.
    pub units: String,
    /// `tags`: omitted when empty.
    pub tags: Tags,
    /// The value itself.
    pub value: ReadingValue,
}

/// The value of a reading, by the key that carries it.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ReadingValue {
    /// `value` as text: numbers, booleans and arrays of them in EdgeX's text form, or a string.
    Simple(String),
    /// `value` as JSON number or array of numbers (since 4.0.2), kept as it came. Generation 3 writes it as text.
    Numeric(Value),
    /// `binaryValue` (base64 in JSON, a byte string in CBOR) and `mediaType`.
    Binary {
        /// The bytes.
        value: Bytes,
        /// Their media type; required when received.
        media_type: String,
    },
    /// `objectValue`: any JSON.
    Object(Value),
    /// The resource had no value. Generation 4 writes all three value keys as `null`, generation 3 an empty text.
    #[default]
    Null,
}

/// What a publisher sends: an event in a request. Go: `requests.AddEventRequest`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AddEventRequest {
    /// `apiVersion`: required, not compared.
    pub api_version: String,
    /// `requestId`: a UUID or empty.
    pub request_id: String,
    /// `event`.
    pub event: Event,
}

impl Event {
    /// An event without readings, of the current API version.
    pub fn new(
        id: Uuid,
        profile_name: impl Into<String>,
        device_name: impl Into<String>,
        source_name: impl Into<String>,
        origin: i64,
    ) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            id: id.to_string(),
            device_name: device_name.into(),
            profile_name: profile_name.into(),
            source_name: source_name.into(),
            origin,
            ..Self::default()
        }
    }

    /// Does any reading carry binary data? Publishers then choose CBOR.
    pub fn has_binary_reading(&self) -> bool {
        self.readings
            .iter()
            .any(|reading| ValueType::parse(&reading.value_type) == Ok(ValueType::Binary))
    }
}

impl Reading {
    /// A reading of `event`'s device and profile, at `origin` (nanoseconds since 1970).
    pub fn new(
        id: Uuid,
        event: &Event,
        resource_name: impl Into<String>,
        value_type: ValueType,
        value: ReadingValue,
        origin: i64,
    ) -> Self {
        Self {
            id: id.to_string(),
            origin,
            device_name: event.device_name.clone(),
            resource_name: resource_name.into(),
            profile_name: event.profile_name.clone(),
            value_type: value_type.as_str().to_owned(),
            value,
            ..Self::default()
        }
    }
}

impl ReadingValue {
    /// A Float64 in the text form of a generation: `2.150000e+01` in 3, `2.15e+01` in 4.
    pub fn float64(value: f64, generation: Generation) -> Self {
        Self::Simple(match generation {
            Generation::V3 => crate::number::six_decimals(value),
            Generation::V4 => crate::number::shortest_exponent(value),
        })
    }

    /// A Float32 in the text form of a generation.
    pub fn float32(value: f32, generation: Generation) -> Self {
        Self::Simple(match generation {
            Generation::V3 => crate::number::six_decimals(value.into()),
            Generation::V4 => crate::number::shortest_exponent_f32(value),
        })
    }
}

impl AddEventRequest {
    /// A request of the current API version around `event`.
    pub fn new(request_id: Uuid, event: Event) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            request_id: request_id.to_string(),
            event,
        }
    }
}

#[cfg(test)]
mod tests;
