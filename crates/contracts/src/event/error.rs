//! Why a payload is no event, in the original's words.

use std::fmt;

use crate::codec::DecodeError;
use crate::content_type::{UnsupportedContentType, media_type};
use crate::generation::Generation;

/// Why a payload is no event. None of these goes away by trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The content type names no codec.
    #[error(transparent)]
    UnsupportedContentType(#[from] UnsupportedContentType),
    /// The bytes are not well-formed.
    #[error("{message}")]
    Syntax {
        /// What the codec says; `unexpected end of JSON input` and `unexpected EOF` are Go's words.
        message: String,
    },
    /// A field has another type than expected.
    #[error("{message}")]
    Shape {
        /// The type that did not fit, `requests.AddEventRequest` or `dtos.Event`.
        target: &'static str,
        /// What was found and what was expected.
        message: String,
    },
    /// Fields are missing or break a rule; each is named.
    #[error("{}", join(.0, Generation::V4))]
    Invalid(
        /// All that is wrong, in the order of the fields.
        Vec<Violation>,
    ),
    /// A reading's value is not of its value type.
    #[error("The value does not match the {value_type} valueType")]
    ValueMismatch {
        /// The value type.
        value_type: String,
    },
}

/// The three classes of [`EventError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventErrorKind {
    /// Not JSON or CBOR at all.
    Syntax,
    /// Well-formed, but no valid event.
    Contract,
    /// No codec for this content type.
    UnsupportedContentType,
}

/// One field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path by its Go name, such as `AddEventRequest.Event.Readings[0].ProfileName`.
    pub field: String,
    /// The rule it breaks.
    pub rule: Rule,
}

/// The rules fields are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Neither missing nor empty nor zero.
    Required,
    /// Not only blanks.
    NotBlank,
    /// A UUID in lower case.
    Uuid,
    /// Empty or a UUID in lower case.
    EmptyOrUuid,
    /// More than no elements.
    NotEmpty,
    /// The name of a value type.
    ValueType,
    /// Required because there is a binary value.
    RequiredWithBinaryValue,
}

impl EventError {
    /// Which class of error this is.
    pub const fn kind(&self) -> EventErrorKind {
        match self {
            Self::UnsupportedContentType(_) => EventErrorKind::UnsupportedContentType,
            Self::Syntax { .. } => EventErrorKind::Syntax,
            Self::Shape { .. } | Self::Invalid(_) | Self::ValueMismatch { .. } => EventErrorKind::Contract,
        }
    }

    /// The text the original shows after `unable to process payload ` in logs and in answers of the HTTP trigger.
    pub fn edgex_text(&self, generation: Generation) -> String {
        let target = match self {
            Self::Shape { target, .. } => target,
            _ => ADD_EVENT_REQUEST,
        };
        match (generation, self) {
            (Generation::V3, Self::UnsupportedContentType(UnsupportedContentType(name))) => {
                // The original's spelling.
                format!("unsupported content-type '{name}' recieved")
            }
            (Generation::V3, Self::Invalid(violations)) => join(violations, generation),
            (Generation::V3, other) => other.to_string(),
            (Generation::V4, Self::UnsupportedContentType(UnsupportedContentType(name))) => format!(
                "failed to unmarshal to {target}, error: unsupported content type: {}",
                media_type(name)
            ),
            (Generation::V4, other) => format!("failed to unmarshal to {target}, error: {other}"),
        }
    }

    pub(crate) fn from_decode(error: DecodeError, target: &'static str) -> Self {
        match error {
            DecodeError::Syntax(message) => Self::Syntax { message },
            DecodeError::Shape(message) => Self::Shape { target, message },
        }
    }
}

/// Go's names of the types a payload is decoded into.
pub(crate) const ADD_EVENT_REQUEST: &str = "requests.AddEventRequest";
pub(crate) const EVENT: &str = "dtos.Event";

fn join(violations: &[Violation], generation: Generation) -> String {
    let texts: Vec<String> = violations
        .iter()
        .map(|violation| violation.text(generation))
        .collect();
    texts.join("; ")
}

impl Violation {
    fn text(&self, generation: Generation) -> String {
        let field = &self.field;
        match self.rule {
            Rule::Required => format!("{field} field is required"),
            Rule::NotBlank => format!("{field} field should not be empty string"),
            Rule::Uuid => format!("{field} field needs a uuid"),
            Rule::NotEmpty => format!("{field} field should greater than 0"),
            Rule::EmptyOrUuid => unnamed_rule(field, "len=0|uuid", "", generation),
            Rule::ValueType => unnamed_rule(field, "edgex-dto-value-type", "", generation),
            Rule::RequiredWithBinaryValue => unnamed_rule(field, "required_with", "BinaryValue", generation),
        }
    }
}

/// Rules for which the original has no words of its own.
fn unnamed_rule(field: &str, tag: &str, parameter: &str, generation: Generation) -> String {
    let text = format!("{field} field validation failed on the {tag} tag");
    match generation {
        Generation::V3 => text,
        Generation::V4 => format!("{text} with value '{parameter}'"),
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(Generation::V4))
    }
}
