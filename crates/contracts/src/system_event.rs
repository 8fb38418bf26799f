//! System events: what core services and device services tell on `<base>/system-events/…` when devices, profiles and services change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::codec::{self, DecodeError};
use crate::content_type::ContentType;
use crate::json::{self, Sorted};

/// A system event. Go: `dtos.SystemEvent`. Keys in the order of the fields; none is ever checked or omitted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SystemEvent {
    /// `apiVersion`, `"v3"`.
    pub api_version: String,
    /// `type`: such as `device`, `deviceprofile`, `deviceservice`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// `action`: such as `add`, `update`, `delete`.
    pub action: String,
    /// `source`: the service that published it.
    pub source: String,
    /// `owner`: the service it concerns.
    pub owner: String,
    /// `tags`: `null` when there are none.
    pub tags: Option<BTreeMap<String, String>>,
    /// `details`: the thing that changed.
    #[serde(serialize_with = "sorted")]
    pub details: Value,
    /// `timestamp`: nanoseconds since 1970.
    pub timestamp: i64,
}

impl SystemEvent {
    /// Reads a system event.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8], content_type: ContentType) -> Result<Self, DecodeError> {
        codec::decode(bytes, content_type)
    }

    /// The system event as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_vec(self)
            .expect("a system event is text, integers and JSON values, which all have a JSON form")
    }
}

fn sorted<S: Serializer>(value: &Value, serializer: S) -> Result<S::Ok, S::Error> {
    Sorted(value).serialize(serializer)
}
