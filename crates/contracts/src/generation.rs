//! The two EdgeX generations, and nothing about how either is chosen.
//!
//! One enum decides everything that differs on the wire: payload form, text of numbers, presence of keys, wording of errors.

use std::fmt;

/// `apiVersion` in every body and envelope of both generations: EdgeX 4 kept "v3".
pub const API_VERSION: &str = "v3";

/// Which EdgeX a service speaks on output. Input of either generation is always accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Generation {
    /// EdgeX 3.x ("Napa" and before): envelope payloads are base64 strings, every reading has a `value` key.
    V3,
    /// EdgeX 4.x: envelope payloads are JSON objects, readings carry only the value keys of their type and may be null.
    V4,
}

impl Generation {
    /// The major version number, 3 or 4.
    pub const fn major(self) -> u8 {
        match self {
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.major())
    }
}
