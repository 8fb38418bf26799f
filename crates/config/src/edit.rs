//! Changes of single leaves in a configuration provider: what an operator's command or `POST /secret` writes.
//!
//! Owns what a change is and why it may not take place. How it is written is the provider's.

use std::fmt;

use crate::{ProviderError, Section, redact};

/// What has to be there for an edit to take place. `Debug` does not show the text, which may be a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Expected {
    /// Whatever there is.
    #[default]
    Anything,
    /// Nothing.
    Absent,
    /// This text.
    Text(String),
}

impl Expected {
    /// What was seen before: a text, or nothing.
    pub fn seen(text: Option<&str>) -> Self {
        text.map_or(Self::Absent, |text| Self::Text(text.to_owned()))
    }

    /// Whether this is what there is.
    pub fn fits(&self, current: Option<&str>) -> bool {
        match self {
            Self::Anything => true,
            Self::Absent => current.is_none(),
            Self::Text(text) => current == Some(text),
        }
    }
}

/// The change of one leaf. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Edit {
    /// The section the leaf is in.
    pub section: Section,
    /// Its path there.
    pub path: String,
    /// Its new text; none removes it.
    pub text: Option<String>,
    /// What has to be there now.
    pub expected: Expected,
}

impl Edit {
    /// Sets a leaf of the private section, whatever it was.
    pub fn set(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            section: Section::Private,
            path: path.into(),
            text: Some(text.into()),
            expected: Expected::Anything,
        }
    }

    /// Removes a leaf of the private section, if it is there.
    pub fn remove(path: impl Into<String>) -> Self {
        Self {
            section: Section::Private,
            path: path.into(),
            text: None,
            expected: Expected::Anything,
        }
    }
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anything => "Anything",
            Self::Absent => "Absent",
            Self::Text(_) => "Text",
        })
    }
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.as_deref().map(|text| redact::shown(&self.path, text));
        f.debug_struct("Edit")
            .field("section", &self.section)
            .field("path", &self.path)
            .field("text", &text)
            .field("expected", &self.expected)
            .finish()
    }
}

/// Why edits did not take place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The provider did not take them.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// Somebody else has changed a leaf since it was looked at.
    #[error("somebody else has changed '{path}' meanwhile; look again and repeat")]
    Conflict {
        /// The leaf.
        path: String,
    },
    /// More than can be written at once.
    #[error("{what} cannot be written at once: at most {most}")]
    TooLarge {
        /// What was to be written.
        what: String,
        /// What can be.
        most: String,
    },
}
