//! From bytes to events, in one pass over the bytes of an `AddEventRequest`.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;

use super::error::{ADD_EVENT_REQUEST, EVENT, EventError, EventErrorKind};
use super::validate::{check_bare_event, check_request, numeric_text};
use super::value_type::ValueType;
use super::{AddEventRequest, Event, Reading, ReadingValue, Tags};
use crate::base64;
use crate::codec::{self, Key, Keys, or_default};
use crate::content_type::ContentType;
use crate::json;
use crate::value::AnyValue;

/// The event in a payload: an `AddEventRequest`, or when it breaks that contract, a bare `Event`.
///
/// A request is held to all rules and its value types are corrected to their own case. A bare event is held to the rules of its fields
/// only; its values and value types stay as they are. When both break the contract, the request's error is reported.
///
/// # Errors
/// [`EventError`], whose [`kind`](EventError::kind) tells syntax, contract and content type apart.
pub fn decode_event(bytes: &[u8], content_type: &str) -> Result<Event, EventError> {
    let content_type = ContentType::parse(content_type)?;
    let request_error = match AddEventRequest::decode(bytes, content_type) {
        Ok(request) => return Ok(request.event),
        Err(error) if error.kind() == EventErrorKind::Contract => error,
        Err(error) => return Err(error),
    };
    let event = Event::decode(bytes, content_type)?;
    match check_bare_event(&event) {
        Ok(()) => Ok(event),
        Err(_) => Err(request_error),
    }
}

impl AddEventRequest {
    /// A request, held to all rules.
    ///
    /// # Errors
    /// [`EventError::Syntax`], [`EventError::Shape`], [`EventError::Invalid`] or [`EventError::ValueMismatch`].
    pub fn decode(bytes: &[u8], content_type: ContentType) -> Result<Self, EventError> {
        let Wire(mut request) =
            decode_wire::<Self>(bytes, content_type, ADD_EVENT_REQUEST).map_err(|error| match error {
                EventError::Shape { target, message } => EventError::Shape {
                    target,
                    message: format!("Failed to unmarshal the byte array. -> {message}"),
                },
                other => other,
            })?;
        check_request(&request)?;
        for reading in &mut request.event.readings {
            if let Ok(value_type) = ValueType::parse(&reading.value_type)
                && reading.value_type != value_type.as_str()
            {
                reading.value_type = value_type.as_str().to_owned();
            }
        }
        Ok(request)
    }
}

impl Event {
    /// A bare event, held to no rules: what the original's `json.Unmarshal` into an Event accepts.
    ///
    /// # Errors
    /// [`EventError::Syntax`] or [`EventError::Shape`].
    pub fn decode(bytes: &[u8], content_type: ContentType) -> Result<Self, EventError> {
        decode_wire::<Self>(bytes, content_type, EVENT).map(|Wire(event)| event)
    }

    /// The events of a JSON array, each as [`Event::decode`] takes it.
    ///
    /// # Errors
    /// As [`Event::decode`]; one that is none fails all.
    pub fn decode_list(json: &[u8]) -> Result<Vec<Self>, EventError> {
        let decoded = codec::decode::<Vec<Wire<Self>>>(json, ContentType::Json);
        decoded
            .map(|events| events.into_iter().map(|Wire(event)| event).collect())
            .map_err(|error| EventError::from_decode(error, EVENT))
    }
}

fn decode_wire<T>(
    bytes: &[u8],
    content_type: ContentType,
    target: &'static str,
) -> Result<Wire<T>, EventError>
where
    T: Default,
    Wire<T>: DeserializeOwned,
{
    // As in Go, null is the zero value.
    let decoded = codec::decode::<Option<Wire<T>>>(bytes, content_type);
    decoded.map(Option::unwrap_or_default).map_err(|error| {
        match (EventError::from_decode(error, target), content_type) {
            (EventError::Shape { target, message }, ContentType::Json) => EventError::Shape {
                message: json_kind(bytes)
                    .map(|kind| format!("json: cannot unmarshal {kind} into Go value of type {target}"))
                    .unwrap_or(message),
                target,
            },
            (other, _) => other,
        }
    })
}

/// What kind of JSON this is, in Go's words, when it is no object.
fn json_kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes.trim_ascii_start().first()? {
        b'{' => None,
        b'[' => Some("array"),
        b'"' => Some("string"),
        b't' | b'f' => Some("bool"),
        _ => Some("number"),
    }
}

/// Keeps the serde forms private: `Event` has two JSON forms, so it must not be `Deserialize` by accident.
struct Wire<T>(T);

impl<T: Default> Default for Wire<T> {
    fn default() -> Self {
        Self(T::default())
    }
}

/// A value that is a map of known keys.
trait Fields: Default {
    type Key: Keys;

    const NAME: &'static str;

    /// Reads the value of one known key.
    fn field<'de, A: MapAccess<'de>>(&mut self, key: Self::Key, map: &mut A) -> Result<(), A::Error>;

    /// Reads the value of any other key.
    fn other<'de, A: MapAccess<'de>>(&mut self, _key: String, map: &mut A) -> Result<(), A::Error> {
        map.next_value::<IgnoredAny>().map(drop)
    }

    /// Called after the last key.
    fn finish(&mut self) {}
}

impl<'de, T: Fields> Deserialize<'de> for Wire<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor<T>(PhantomData<T>);

        impl<'de, T: Fields> Visitor<'de> for FieldsVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::NAME)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
                let mut value = T::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Known(key) => value.field(key, &mut map)?,
                        Key::Other(name) => value.other(name, &mut map)?,
                    }
                }
                value.finish();
                Ok(value)
            }
        }

        deserializer.deserialize_map(FieldsVisitor(PhantomData)).map(Wire)
    }
}

#[derive(Clone, Copy)]
enum RequestKey {
    ApiVersion,
    RequestId,
    Event,
}

impl Keys for RequestKey {
    const KEYS: &'static [(&'static str, Self)] = &[
        ("apiVersion", Self::ApiVersion),
        ("requestId", Self::RequestId),
        ("event", Self::Event),
    ];
}

impl Fields for AddEventRequest {
    type Key = RequestKey;

    const NAME: &'static str = "an AddEventRequest";

    fn field<'de, A: MapAccess<'de>>(&mut self, key: RequestKey, map: &mut A) -> Result<(), A::Error> {
        match key {
            RequestKey::ApiVersion => self.api_version = or_default(map)?,
            RequestKey::RequestId => self.request_id = or_default(map)?,
            RequestKey::Event => self.event = or_default::<Wire<Event>, A>(map)?.0,
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum EventKey {
    ApiVersion,
    Id,
    DeviceName,
    ProfileName,
    SourceName,
    Origin,
    Readings,
    Tags,
}

impl Keys for EventKey {
    const KEYS: &'static [(&'static str, Self)] = &[
        ("apiVersion", Self::ApiVersion),
        ("id", Self::Id),
        ("deviceName", Self::DeviceName),
        ("profileName", Self::ProfileName),
        ("sourceName", Self::SourceName),
        ("origin", Self::Origin),
        ("readings", Self::Readings),
        ("tags", Self::Tags),
    ];
}

impl Fields for Event {
    type Key = EventKey;

    const NAME: &'static str = "an Event";

    fn field<'de, A: MapAccess<'de>>(&mut self, key: EventKey, map: &mut A) -> Result<(), A::Error> {
        match key {
            EventKey::ApiVersion => self.api_version = or_default(map)?,
            EventKey::Id => self.id = or_default(map)?,
            EventKey::DeviceName => self.device_name = or_default(map)?,
            EventKey::ProfileName => self.profile_name = or_default(map)?,
            EventKey::SourceName => self.source_name = or_default(map)?,
            EventKey::Origin => self.origin = or_default(map)?,
            EventKey::Readings => {
                let readings: Vec<Wire<WireReading>> = or_default(map)?;
                self.readings = readings.into_iter().map(|Wire(wire)| wire.reading).collect();
            }
            EventKey::Tags => self.tags = tags(map)?,
        }
        Ok(())
    }

    fn other<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        let AnyValue(value) = map.next_value()?;
        self.extensions.insert(key, value);
        Ok(())
    }
}

fn tags<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Tags, A::Error> {
    match map.next_value::<AnyValue>()?.0 {
        Value::Null => Ok(Tags::new()),
        Value::Object(object) => Ok(object.into_iter().collect()),
        _ => Err(A::Error::custom("tags are not an object")),
    }
}

#[derive(Clone, Copy)]
enum ReadingKey {
    Id,
    Origin,
    DeviceName,
    ResourceName,
    ProfileName,
    ValueType,
    Units,
    Tags,
    BinaryValue,
    MediaType,
    Value,
    ObjectValue,
}

impl Keys for ReadingKey {
    const KEYS: &'static [(&'static str, Self)] = &[
        ("id", Self::Id),
        ("origin", Self::Origin),
        ("deviceName", Self::DeviceName),
        ("resourceName", Self::ResourceName),
        ("profileName", Self::ProfileName),
        ("valueType", Self::ValueType),
        ("units", Self::Units),
        ("tags", Self::Tags),
        ("binaryValue", Self::BinaryValue),
        ("mediaType", Self::MediaType),
        ("value", Self::Value),
        ("objectValue", Self::ObjectValue),
    ];
}

/// A reading whose value is not chosen yet: the value type may come after the value.
#[derive(Default)]
struct WireReading {
    reading: Reading,
    value: Value,
    object_value: Value,
    binary_value: Option<Bytes>,
    media_type: String,
}

impl Fields for WireReading {
    type Key = ReadingKey;

    const NAME: &'static str = "a Reading";

    fn field<'de, A: MapAccess<'de>>(&mut self, key: ReadingKey, map: &mut A) -> Result<(), A::Error> {
        let reading = &mut self.reading;
        match key {
            ReadingKey::Id => reading.id = or_default(map)?,
            ReadingKey::Origin => reading.origin = or_default(map)?,
            ReadingKey::DeviceName => reading.device_name = or_default(map)?,
            ReadingKey::ResourceName => reading.resource_name = or_default(map)?,
            ReadingKey::ProfileName => reading.profile_name = or_default(map)?,
            ReadingKey::ValueType => reading.value_type = or_default(map)?,
            ReadingKey::Units => reading.units = or_default(map)?,
            ReadingKey::Tags => reading.tags = tags(map)?,
            ReadingKey::BinaryValue => {
                self.binary_value = map.next_value::<Option<Binary>>()?.map(|Binary(bytes)| bytes);
            }
            ReadingKey::MediaType => self.media_type = or_default(map)?,
            ReadingKey::Value => self.value = map.next_value::<AnyValue>()?.0,
            ReadingKey::ObjectValue => self.object_value = map.next_value::<AnyValue>()?.0,
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.reading.value = match ValueType::parse(&self.reading.value_type) {
            Ok(ValueType::Object | ValueType::ObjectArray) => match self.object_value.take() {
                Value::Null => ReadingValue::Null,
                value => ReadingValue::Object(value),
            },
            Ok(ValueType::Binary) => match self.binary_value.take() {
                None => ReadingValue::Null,
                Some(value) => ReadingValue::Binary {
                    value,
                    media_type: std::mem::take(&mut self.media_type),
                },
            },
            value_type => match self.value.take() {
                Value::Null => ReadingValue::Null,
                Value::String(text) => ReadingValue::Simple(text),
                value => match value_type {
                    Ok(numeric) if numeric.is_numeric() => ReadingValue::Numeric(value),
                    // Only numbers are written again as they came; the text of a StringArray is JSON, as 4.0.2 builds it.
                    Ok(ValueType::StringArray) => ReadingValue::Simple(json_text(&value)),
                    _ => ReadingValue::Simple(numeric_text(&value)),
                },
            },
        };
    }
}

fn json_text(value: &Value) -> String {
    let bytes = json::to_vec(&json::Sorted(value)).expect("a JSON value has a JSON form");
    String::from_utf8(bytes).expect("a JSON serializer writes UTF-8")
}

/// Base64 text in JSON, a byte string in CBOR, and in both, as in Go, an array of numbers.
struct Binary(Bytes);

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BinaryVisitor;

        impl<'de> Visitor<'de> for BinaryVisitor {
            type Value = Binary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64 or bytes")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Binary, E> {
                base64::decode(text.as_bytes())
                    .map(|bytes| Binary(bytes.into()))
                    .map_err(E::custom)
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Binary, E> {
                Ok(Binary(Bytes::copy_from_slice(bytes)))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Binary, E> {
                Ok(Binary(bytes.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Binary, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(Binary(bytes.into()))
            }
        }

        deserializer.deserialize_any(BinaryVisitor)
    }
}
