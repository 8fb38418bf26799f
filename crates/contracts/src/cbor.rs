//! CBOR with the JSON key names: the second codec of events, metrics and (since EdgeX 4.0.2's libraries) envelopes.

use std::convert::Infallible;

use cbor4ii::core::dec::{Decode, Error, IgnoredAny, Read, Reference};
use cbor4ii::core::utils::SliceReader;
use cbor4ii::serde::{DecodeError as SerdeError, Deserializer};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::DecodeError;

/// A value that has no CBOR form: its own `Serialize` failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("value has no CBOR form: {0}")]
pub struct CborEncodeError(
    /// What the encoder says.
    pub String,
);

/// Reads exactly one CBOR item. Nesting deeper than about 120 levels is a syntax error.
///
/// # Errors
/// [`DecodeError`]; an input that ends too early says `unexpected EOF` (`EOF` when empty), as the original's library does.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut deserializer = Deserializer::new(SliceReader::new(bytes));
    match T::deserialize(&mut deserializer) {
        Ok(value) => {
            expect_end(&mut deserializer.into_inner())?;
            Ok(value)
        }
        // A type mismatch in a cut-off item is still a cut-off item.
        Err(error) => Err(match skip_item(bytes) {
            Ok(()) => DecodeError::Shape(describe(&error)),
            Err(syntax) => syntax,
        }),
    }
}

/// Writes `value` with definite lengths and the shortest integers, as the original's library does by default.
///
/// # Errors
/// Only when `value`'s own `Serialize` fails.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CborEncodeError> {
    cbor4ii::serde::to_vec(Vec::with_capacity(512), &value)
        .map_err(|error| CborEncodeError(error.to_string()))
}

/// Is `bytes` exactly one well-formed item?
fn skip_item(bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Syntax("EOF".to_owned()));
    }
    let mut reader = SliceReader::new(bytes);
    IgnoredAny::decode(&mut reader).map_err(|error| {
        DecodeError::Syntax(match error {
            Error::Eof { .. } => "unexpected EOF".to_owned(),
            other => format!("cbor: {other:?}"),
        })
    })?;
    expect_end(&mut reader)
}

fn expect_end(reader: &mut SliceReader<'_>) -> Result<(), DecodeError> {
    let rest: Result<Reference<'_, '_>, Infallible> = reader.fill(1);
    match rest {
        Ok(Reference::Long([]) | Reference::Short([])) => Ok(()),
        Ok(_) => Err(DecodeError::Syntax(
            "cbor: extraneous data after the item".to_owned(),
        )),
    }
}

fn describe(error: &SerdeError<Infallible>) -> String {
    match error {
        SerdeError::Custom(message) => format!("cbor: {message}"),
        SerdeError::Core(core) => format!("cbor: {core:?}"),
    }
}
