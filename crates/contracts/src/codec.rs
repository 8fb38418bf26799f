//! One door to both codecs, so that callers name a content type and never a library.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::content_type::ContentType;
use crate::{cbor, json};

/// Bytes that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not JSON, or not CBOR, or nested too deep.
    #[error("{0}")]
    Syntax(
        /// What the codec says, in Go's words where these are simple.
        String,
    ),
    /// The bytes are well-formed but hold another type than expected at some place.
    #[error("{0}")]
    Shape(
        /// What was found and what was expected.
        String,
    ),
}

/// Decodes exactly one value that borrows nothing from `bytes`.
///
/// # Errors
/// [`DecodeError`]; trailing bytes are a syntax error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], content_type: ContentType) -> Result<T, DecodeError> {
    match content_type {
        ContentType::Json => json::from_slice(bytes),
        ContentType::Cbor => cbor::from_slice(bytes),
    }
}

/// The keys a JSON object or CBOR map is known by.
///
/// Matched as Go's `encoding/json` does: the exact name, else the name in any case.
pub(crate) trait Keys: Copy + 'static {
    const KEYS: &'static [(&'static str, Self)];

    fn find(name: &str) -> Option<Self> {
        let found = Self::KEYS
            .iter()
            .find(|(key, _)| *key == name)
            .or_else(|| Self::KEYS.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, key)| *key)
    }
}

/// A key as it came: one of ours, or another one.
pub(crate) enum Key<K> {
    Known(K),
    Other(String),
}

impl<'de, K: Keys> Deserialize<'de> for Key<K> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor<K>(std::marker::PhantomData<K>);

        impl<K: Keys> serde::de::Visitor<'_> for KeyVisitor<K> {
            type Value = Key<K>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text key")
            }

            fn visit_str<E>(self, name: &str) -> Result<Key<K>, E> {
                Ok(K::find(name).map_or_else(|| Key::Other(name.to_owned()), Key::Known))
            }
        }

        deserializer.deserialize_identifier(KeyVisitor(std::marker::PhantomData))
    }
}

/// A value where `null` means the zero value, as for every plain Go field.
pub(crate) fn or_default<'de, T, A>(map: &mut A) -> Result<T, A::Error>
where
    T: Deserialize<'de> + Default,
    A: serde::de::MapAccess<'de>,
{
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}
