//! What travels from function to function.

use std::sync::Arc;

use bytes::Bytes;
use edgehold_contracts::{AddEventRequest, ContentType, Event, Generation, Metric};

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
}

impl DataKind {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Event, "event"),
        (Self::AddEventRequest, "add_event_request"),
        (Self::Metric, "metric"),
        (Self::Bytes, "bytes"),
        (Self::Text, "text"),
        (Self::Json, "json"),
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
        }
    }
}
