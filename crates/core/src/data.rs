//! What travels from function to function.

use std::sync::Arc;

use bytes::Bytes;
use edgehold_contracts::{AddEventRequest, ContentType, Event, Generation, Metric, base64};

/// The data a function receives and hands on.
///
/// Cloning is cheap for everything that is large: events are shared and bytes are counted. A function that changes an
/// event takes it with [`Arc::make_mut`], so that other pipelines never see the change.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Data {
    /// A decoded event: what the target type `event` gives the first function.
    Event(Arc<Event>),
    /// An event wrapped for the bus, as WrapIntoEvent makes it.
    AddEventRequest(Arc<AddEventRequest>),
    /// A service metric: what the target type `metric` gives the first function.
    Metric(Arc<Metric>),
    /// Bytes: what the target type `raw` gives the first function, and what exports answer.
    Bytes(Bytes),
    /// Text, as Transform makes it.
    Text(String),
    /// Any other JSON value a custom function works with.
    Json(serde_json::Value),
    /// Several byte strings: what Batch makes of its items.
    ByteStrings(Arc<[Bytes]>),
    /// Several events: what Batch makes of its items with `IsEventData`.
    Events(Arc<[Arc<Event>]>),
}

/// The form of a [`Data`] that has been turned into bytes, kept beside them so that a retry gives the function what
/// it had at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataKind {
    /// [`Data::Event`], stored as its JSON.
    Event,
    /// [`Data::AddEventRequest`], stored as its JSON.
    AddEventRequest,
    /// [`Data::Metric`], stored as its JSON.
    Metric,
    /// [`Data::Bytes`], as they are.
    Bytes,
    /// [`Data::Text`], as UTF-8.
    Text,
    /// [`Data::Json`], as JSON.
    Json,
    /// [`Data::ByteStrings`], as a JSON array of base64 texts.
    ByteStrings,
    /// [`Data::Events`], as a JSON array of events.
    Events,
}

impl DataKind {
    const NAMES: [(Self, &'static str); 8] = [
        (Self::Event, "event"),
        (Self::AddEventRequest, "add_event_request"),
        (Self::Metric, "metric"),
        (Self::Bytes, "bytes"),
        (Self::Text, "text"),
        (Self::Json, "json"),
        (Self::ByteStrings, "byte_strings"),
        (Self::Events, "events"),
    ];

    /// The name in a stored row.
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("bytes", |(_, name)| name)
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(kind, _)| *kind)
    }
}

/// Stored bytes that cannot be turned back into what they were.
#[derive(Debug, thiserror::Error)]
#[error("the stored bytes are not a valid {kind}: {reason}")]
pub struct RestoreError {
    kind: &'static str,
    reason: String,
}

impl Data {
    /// The form of this data.
    pub fn kind(&self) -> DataKind {
        match self {
            Self::Event(_) => DataKind::Event,
            Self::AddEventRequest(_) => DataKind::AddEventRequest,
            Self::Metric(_) => DataKind::Metric,
            Self::Bytes(_) => DataKind::Bytes,
            Self::Text(_) => DataKind::Text,
            Self::Json(_) => DataKind::Json,
            Self::ByteStrings(_) => DataKind::ByteStrings,
            Self::Events(_) => DataKind::Events,
        }
    }

    /// The bytes an export sends: bytes and text as they are, everything else as JSON of the given generation
    /// (contract: messages-and-functions §6, "bytes of input").
    pub fn to_bytes(&self, generation: Generation) -> Bytes {
        match self {
            Self::Event(event) => event.to_json(generation).into(),
            Self::AddEventRequest(request) => request.to_json(generation).into(),
            Self::Metric(metric) => metric.to_json().into(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Json(value) => edgehold_contracts::json::to_vec(value)
                .expect("a JSON value has string keys and finite numbers")
                .into(),
            Self::ByteStrings(items) => json_array(items.iter().map(|item| {
                let mut text = base64::encode(item).into_bytes();
                text.insert(0, b'"');
                text.push(b'"');
                text
            })),
            Self::Events(events) => json_array(events.iter().map(|event| event.to_json(generation))),
        }
    }

    /// What the bytes made by [`Data::to_bytes`] were before.
    ///
    /// # Errors
    /// [`RestoreError`] when the bytes are not of this kind: a damaged row.
    pub fn restore(kind: DataKind, bytes: Bytes) -> Result<Self, RestoreError> {
        let invalid = |reason: String| RestoreError {
            kind: kind.as_str(),
            reason,
        };
        match kind {
            DataKind::Event => Event::decode(&bytes, ContentType::Json)
                .map(|event| Self::Event(Arc::new(event)))
                .map_err(|e| invalid(e.to_string())),
            DataKind::AddEventRequest => AddEventRequest::decode(&bytes, ContentType::Json)
                .map(|request| Self::AddEventRequest(Arc::new(request)))
                .map_err(|e| invalid(e.to_string())),
            DataKind::Metric => Metric::decode(&bytes, ContentType::Json)
                .map(|metric| Self::Metric(Arc::new(metric)))
                .map_err(|e| invalid(e.to_string())),
            DataKind::Bytes => Ok(Self::Bytes(bytes)),
            DataKind::Text => String::from_utf8(bytes.into())
                .map(Self::Text)
                .map_err(|e| invalid(e.to_string())),
            DataKind::Json => serde_json::from_slice(&bytes)
                .map(Self::Json)
                .map_err(|e| invalid(e.to_string())),
            DataKind::ByteStrings => serde_json::from_slice::<Vec<String>>(&bytes)
                .map_err(|e| invalid(e.to_string()))?
                .iter()
                .map(|text| base64::decode(text.as_bytes()).map(Bytes::from))
                .collect::<Result<_, _>>()
                .map(Self::ByteStrings)
                .map_err(|e| invalid(e.to_string())),
            DataKind::Events => Event::decode_list(&bytes)
                .map(|events| Self::Events(events.into_iter().map(Arc::new).collect()))
                .map_err(|e| invalid(e.to_string())),
        }
    }
}

/// A JSON array of values that are JSON already.
fn json_array(values: impl Iterator<Item = Vec<u8>>) -> Bytes {
    let mut array = vec![b'['];
    for value in values {
        if array.len() > 1 {
            array.push(b',');
        }
        array.extend(value);
    }
    array.push(b']');
    array.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_bytes_is_sent_as_base64_texts_and_comes_back() {
        let list = Data::ByteStrings(Arc::from([Bytes::from_static(b"hi"), Bytes::new()]));
        let bytes = list.to_bytes(Generation::V4);
        assert_eq!(bytes, r#"["aGk=",""]"#);
        assert_eq!(Data::restore(list.kind(), bytes).unwrap(), list);
        let none = Data::ByteStrings(Arc::from([]));
        assert_eq!(none.to_bytes(Generation::V4), "[]");
    }

    #[test]
    fn a_list_of_events_is_sent_as_json_and_comes_back() {
        let one = r#"{"apiVersion":"v3","id":"0f0e0d0c-0000-4000-8000-000000000001","deviceName":"pump","profileName":"Pump","sourceName":"Level","origin":1700000000000000001,"readings":[],"tags":{"a":9007199254740993}}"#;
        let event = Arc::new(Event::decode(one.as_bytes(), ContentType::Json).unwrap());
        let list = Data::Events(Arc::from([event.clone(), event]));
        let bytes = list.to_bytes(Generation::V4);
        assert_eq!(bytes, format!("[{one},{one}]"));
        assert_eq!(Data::restore(list.kind(), bytes).unwrap(), list);
    }

    #[test]
    fn a_list_that_was_damaged_is_refused_with_its_kind() {
        for (kind, damaged) in [
            (DataKind::ByteStrings, r#"["a"]"#),
            (DataKind::ByteStrings, r#"[1]"#),
            (DataKind::Events, r#"{}"#),
            (DataKind::Events, r#"[1]"#),
        ] {
            let error = Data::restore(kind, Bytes::from(damaged)).unwrap_err();
            assert!(error.to_string().contains(kind.as_str()), "{error}");
        }
    }
}
