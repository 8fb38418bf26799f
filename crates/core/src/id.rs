//! Identifiers with one checked constructor each, so that a bare string never crosses a crate boundary with a
//! meaning of its own.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use edgehold_contracts::Generation;
use uuid::Uuid;

use crate::{Data, digest};

/// A text that cannot be the identifier it was given as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {text:?}: {problem}")]
pub struct InvalidId {
    kind: &'static str,
    text: String,
    problem: &'static str,
}

impl InvalidId {
    fn new(kind: &'static str, text: &str, problem: &'static str) -> Self {
        Self {
            kind,
            text: text.to_owned(),
            problem,
        }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id! {
    /// The name of a service in its stack, for example `app-http-export`: base of its configuration keys, its
    /// registry entry, its metric topics and the owner of its stored objects. Not empty, no `/`, no control
    /// characters.
    ServiceKey
}

impl ServiceKey {
    /// Checks and keeps a service key.
    pub fn try_new(text: &str) -> Result<Self, InvalidId> {
        match text {
            "" => Err(InvalidId::new("service key", text, "it is empty")),
            _ if text.contains('/') => Err(InvalidId::new("service key", text, "it contains a slash")),
            _ if text.chars().any(char::is_control) => Err(InvalidId::new(
                "service key",
                text,
                "it contains a control character",
            )),
            _ => Ok(Self(text.into())),
        }
    }
}

text_id! {
    /// The id of a pipeline, unique in its service. `default-pipeline` is the one of
    /// `Writable.Pipeline.ExecutionOrder`. Not empty.
    PipelineId
}

impl PipelineId {
    /// The id EdgeX gives the pipeline of `Writable.Pipeline.ExecutionOrder`.
    pub const DEFAULT: &'static str = "default-pipeline";

    /// Checks and keeps a pipeline id.
    pub fn try_new(text: &str) -> Result<Self, InvalidId> {
        if text.trim().is_empty() {
            return Err(InvalidId::new("pipeline id", text, "it is blank"));
        }
        Ok(Self(text.into()))
    }

    /// The id of the default pipeline.
    pub fn default_pipeline() -> Self {
        Self(Self::DEFAULT.into())
    }
}

text_id! {
    /// Follows one message through the stack (`X-Correlation-ID`, `correlationID`). Any text, also the empty one:
    /// EdgeX does not check it on the bus.
    CorrelationId
}

impl CorrelationId {
    /// Keeps a correlation id as it came.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
}

text_id! {
    /// Where an export sends to, without path, query and credentials: `http://host:port`. Limits, probes and wake-ups
    /// are kept for each destination.
    Destination
}

impl Destination {
    /// Keeps a destination. The caller has already removed credentials.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
}

text_id! {
    /// What tells one message from every other, at its first attempt, on a retry and after a restart: a digest, 32
    /// hexadecimal digits. Part of [`Context::idempotency_key`](crate::Context::idempotency_key).
    MessageId
}

impl MessageId {
    /// The id of what a pipeline was given: for an event the topic, its id and those of its readings, because two parts of
    /// one event may come by the same topic; for anything else the topic and its bytes.
    pub(crate) fn of(topic: &str, input: &Data, generation: Generation) -> Self {
        let mut parts = vec![topic.as_bytes()];
        let bytes;
        match input {
            Data::Event(event) if !event.id.is_empty() => {
                parts.push(event.id.as_bytes());
                for reading in &event.readings {
                    parts.extend([reading.id.as_bytes(), reading.resource_name.as_bytes()]);
                }
            }
            other => {
                bytes = other.to_bytes(generation);
                parts.push(&bytes);
            }
        }
        Self(digest::hex(parts).into())
    }

    /// The id of a message made of these, in this order.
    pub fn of_members<'a>(members: impl IntoIterator<Item = &'a Self>) -> Self {
        Self(digest::hex(members.into_iter().map(|member| member.as_str().as_bytes())).into())
    }

    /// An id read back from a store.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }
}

/// The id of a stored object: a UUID, version 7 when Edgehold made it, so that ids sort by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredObjectId(Uuid);

impl StoredObjectId {
    /// From a UUID the caller made.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl FromStr for StoredObjectId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|_| InvalidId::new("stored object id", text, "it is not a UUID"))
    }
}

impl fmt::Display for StoredObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_hyphenated())
    }
}

impl fmt::Debug for StoredObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredObjectId({})", self.0.as_hyphenated())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_key_is_one_path_segment() {
        assert!(ServiceKey::try_new("app-http-export").is_ok());
        assert!(ServiceKey::try_new("").is_err());
        assert!(ServiceKey::try_new("a/b").is_err());
        assert!(ServiceKey::try_new("a\nb").is_err());
    }

    #[test]
    fn a_blank_pipeline_id_is_refused_by_name() {
        let error = PipelineId::try_new("  ").unwrap_err();
        assert_eq!(error.to_string(), "invalid pipeline id \"  \": it is blank");
    }
}
