//! From events to bytes: Go's key order, and which keys are there in which generation.

use serde::ser::{Error, Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::{AddEventRequest, Event, Reading, ReadingValue, Tags};
use crate::base64;
use crate::cbor;
use crate::content_type::ContentType;
use crate::generation::Generation;
use crate::json::{self, Sorted};

use super::validate::numeric_text;

impl Event {
    /// This event in the form of a generation, for any serde serializer; nests in other values.
    pub const fn form(&self, generation: Generation) -> EventForm<'_> {
        EventForm {
            event: self,
            generation,
        }
    }

    /// The event as JSON: keys in Go's order, Go's escapes, no newline. With extensions, generation 4 writes all keys sorted.
    pub fn to_json(&self, generation: Generation) -> Vec<u8> {
        json::to_vec_for(generation, &self.form(generation)).expect(HAS_A_FORM)
    }

    /// The event as CBOR, binary values as byte strings.
    pub fn to_cbor(&self, generation: Generation) -> Vec<u8> {
        cbor::to_vec(&self.form(generation)).expect(HAS_A_FORM)
    }
}

impl AddEventRequest {
    /// This request in the form of a generation, for any serde serializer.
    pub const fn form(&self, generation: Generation) -> AddEventRequestForm<'_> {
        AddEventRequestForm {
            request: self,
            generation,
        }
    }

    /// The request as JSON.
    pub fn to_json(&self, generation: Generation) -> Vec<u8> {
        json::to_vec_for(generation, &self.form(generation)).expect(HAS_A_FORM)
    }

    /// The request as CBOR.
    pub fn to_cbor(&self, generation: Generation) -> Vec<u8> {
        cbor::to_vec(&self.form(generation)).expect(HAS_A_FORM)
    }

    /// The request as publishers encode it: CBOR when a reading is binary, else JSON.
    pub fn encode(&self, generation: Generation) -> (Vec<u8>, ContentType) {
        if self.event.has_binary_reading() {
            (self.to_cbor(generation), ContentType::Cbor)
        } else {
            (self.to_json(generation), ContentType::Json)
        }
    }
}

const HAS_A_FORM: &str =
    "events are text, integers, bytes and JSON values, which all have a JSON and a CBOR form";

/// An event in the form of a generation; made by [`Event::form`].
#[derive(Debug, Clone, Copy)]
pub struct EventForm<'a> {
    event: &'a Event,
    generation: Generation,
}

impl Serialize for EventForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let extended = self.generation == Generation::V4 && !self.event.extensions.is_empty();
        if !extended {
            return self.serialize_keys(serializer, false);
        }
        if !serializer.is_human_readable() {
            return self.serialize_keys(serializer, true);
        }
        // Go merges extensions by way of an untyped map, so all keys, those of readings too, come out sorted.
        let mut event = self
            .serialize_keys(serde_json::value::Serializer, false)
            .map_err(S::Error::custom)?;
        if let Value::Object(keys) = &mut event {
            keys.extend(self.event.extensions.clone());
        }
        Sorted(&event).serialize(serializer)
    }
}

impl EventForm<'_> {
    fn serialize_keys<S: Serializer>(&self, serializer: S, with_extensions: bool) -> Result<S::Ok, S::Error> {
        let event = self.event;
        let extensions = if with_extensions {
            event.extensions.len()
        } else {
            0
        };
        let length = 7 + usize::from(!event.tags.is_empty()) + extensions;
        let mut map = serializer.serialize_map(Some(length))?;
        map.serialize_entry("apiVersion", &event.api_version)?;
        map.serialize_entry("id", &event.id)?;
        map.serialize_entry("deviceName", &event.device_name)?;
        map.serialize_entry("profileName", &event.profile_name)?;
        map.serialize_entry("sourceName", &event.source_name)?;
        map.serialize_entry("origin", &event.origin)?;
        map.serialize_entry("readings", &ReadingForms(&event.readings, self.generation))?;
        if !event.tags.is_empty() {
            map.serialize_entry("tags", &TagsForm(&event.tags))?;
        }
        for (key, value) in event.extensions.iter().take(extensions) {
            map.serialize_entry(key, &Sorted(value))?;
        }
        map.end()
    }
}

/// A request in the form of a generation; made by [`AddEventRequest::form`].
#[derive(Debug, Clone, Copy)]
pub struct AddEventRequestForm<'a> {
    request: &'a AddEventRequest,
    generation: Generation,
}

impl Serialize for AddEventRequestForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("apiVersion", &self.request.api_version)?;
        map.serialize_entry("requestId", &self.request.request_id)?;
        map.serialize_entry("event", &self.request.event.form(self.generation))?;
        map.end()
    }
}

struct ReadingForms<'a>(&'a [Reading], Generation);

impl Serialize for ReadingForms<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|reading| ReadingForm(reading, self.1)))
    }
}

struct ReadingForm<'a>(&'a Reading, Generation);

impl Serialize for ReadingForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(reading, generation) = *self;
        let length = 5
            + usize::from(!reading.id.is_empty())
            + usize::from(!reading.units.is_empty())
            + usize::from(!reading.tags.is_empty())
            + value_keys(&reading.value, generation);
        let mut map = serializer.serialize_map(Some(length))?;
        if !reading.id.is_empty() {
            map.serialize_entry("id", &reading.id)?;
        }
        map.serialize_entry("origin", &reading.origin)?;
        map.serialize_entry("deviceName", &reading.device_name)?;
        map.serialize_entry("resourceName", &reading.resource_name)?;
        map.serialize_entry("profileName", &reading.profile_name)?;
        map.serialize_entry("valueType", &reading.value_type)?;
        if !reading.units.is_empty() {
            map.serialize_entry("units", &reading.units)?;
        }
        if !reading.tags.is_empty() {
            map.serialize_entry("tags", &TagsForm(&reading.tags))?;
        }
        serialize_value(&reading.value, generation, &mut map)?;
        map.end()
    }
}

/// How many keys [`serialize_value`] writes: CBOR maps say their length first.
fn value_keys(value: &ReadingValue, generation: Generation) -> usize {
    match (value, generation) {
        (ReadingValue::Simple(_) | ReadingValue::Numeric(_), _) => 1,
        (ReadingValue::Binary { value, media_type }, _) => {
            usize::from(!value.is_empty())
                + usize::from(!media_type.is_empty())
                + usize::from(generation == Generation::V3)
        }
        (ReadingValue::Object(_) | ReadingValue::Null, Generation::V4) => match value {
            ReadingValue::Null => 3,
            _ => 1,
        },
        (ReadingValue::Object(_), Generation::V3) => 2,
        (ReadingValue::Null, Generation::V3) => 1,
    }
}

/// Generation 3 writes `value` always, between the binary and the object keys; generation 4 only the keys of the type, or all three
/// as null.
fn serialize_value<M: SerializeMap>(
    value: &ReadingValue,
    generation: Generation,
    map: &mut M,
) -> Result<(), M::Error> {
    let is_v3 = generation == Generation::V3;
    match value {
        ReadingValue::Simple(text) => map.serialize_entry("value", text),
        ReadingValue::Numeric(number) if is_v3 => map.serialize_entry("value", &numeric_text(number)),
        ReadingValue::Numeric(number) => map.serialize_entry("value", &Sorted(number)),
        ReadingValue::Binary { value, media_type } => {
            if !value.is_empty() {
                map.serialize_entry("binaryValue", &BinaryForm(value))?;
            }
            if !media_type.is_empty() {
                map.serialize_entry("mediaType", media_type)?;
            }
            if is_v3 {
                map.serialize_entry("value", "")?;
            }
            Ok(())
        }
        ReadingValue::Object(object) => {
            if is_v3 {
                map.serialize_entry("value", "")?;
            }
            map.serialize_entry("objectValue", &Sorted(object))
        }
        ReadingValue::Null if is_v3 => map.serialize_entry("value", ""),
        ReadingValue::Null => {
            map.serialize_entry("value", &Sorted(&Value::Null))?;
            map.serialize_entry("binaryValue", &Sorted(&Value::Null))?;
            map.serialize_entry("objectValue", &Sorted(&Value::Null))
        }
    }
}

struct BinaryForm<'a>(&'a [u8]);

impl Serialize for BinaryForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&base64::encode(self.0))
        } else {
            serializer.serialize_bytes(self.0)
        }
    }
}

struct TagsForm<'a>(&'a Tags);

impl Serialize for TagsForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, Sorted(value))))
    }
}
