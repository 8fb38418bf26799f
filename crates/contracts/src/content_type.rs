//! Which codec a content type names.

use std::fmt;

/// The codecs an event or metric may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentType {
    /// `application/json`
    Json,
    /// `application/cbor`
    Cbor,
}

/// A content type that names no codec of events and metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unsupported content type: {}", media_type(.0))]
pub struct UnsupportedContentType(
    /// The content type as received, parameters included.
    pub String,
);

impl ContentType {
    /// Parses as the original does: everything from the first `;` is cut, the rest must be exactly `application/json` or
    /// `application/cbor` (no trimming, case-sensitive).
    ///
    /// # Errors
    /// [`UnsupportedContentType`] for anything else, the empty text included.
    pub fn parse(content_type: &str) -> Result<Self, UnsupportedContentType> {
        match media_type(content_type) {
            "application/json" => Ok(Self::Json),
            "application/cbor" => Ok(Self::Cbor),
            _ => Err(UnsupportedContentType(content_type.to_owned())),
        }
    }

    /// What the first byte says where nobody else does: JSON for `{` and `[`, else CBOR. Nothing at all, for which the
    /// original panics, counts as CBOR.
    pub fn of_first_byte(data: &[u8]) -> Self {
        match data.first() {
            Some(b'{' | b'[') => Self::Json,
            _ => Self::Cbor,
        }
    }

    /// `application/json` or `application/cbor`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
        }
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A content type without its parameters.
pub(crate) fn media_type(content_type: &str) -> &str {
    content_type
        .split_once(';')
        .map_or(content_type, |(media_type, _)| media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_cut_and_nothing_else_is_forgiven() {
        assert_eq!(
            ContentType::parse("application/json; charset=utf-8"),
            Ok(ContentType::Json)
        );
        assert_eq!(ContentType::parse("application/cbor"), Ok(ContentType::Cbor));
        for other in [
            "",
            "text/plain",
            " application/json",
            "application/json ;x",
            "Application/JSON",
        ] {
            let error = ContentType::parse(other).expect_err(other);
            assert_eq!(
                error.to_string(),
                format!("unsupported content type: {}", media_type(other))
            );
        }
    }
}
