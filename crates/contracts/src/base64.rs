//! Base64 as Go's `base64.StdEncoding` writes and reads it: standard alphabet, padded.

/// What is wrong with a text that should be base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("illegal base64 data")]
#[non_exhaustive]
pub struct Base64Error;

/// Standard, padded base64 of `bytes`, in one line.
pub fn encode(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// The bytes behind a padded base64 `text`.
///
/// Like Go's decoder it skips line breaks and does not mind left-over bits in the last group.
///
/// # Errors
/// [`Base64Error`] when a character is outside the alphabet or padding is missing.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, Base64Error> {
    base64_simd::STANDARD
        .decode_to_vec(text)
        .or_else(|_| decode_leniently(text))
}

/// The rare forms that the fast, strict decoder refuses.
#[cold]
fn decode_leniently(text: &[u8]) -> Result<Vec<u8>, Base64Error> {
    let one_line: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b'\r' | b'\n'))
        .collect();
    let complete = one_line.len().is_multiple_of(4);
    let no_blanks = !one_line.iter().any(u8::is_ascii_whitespace);
    if complete && no_blanks {
        base64_simd::forgiving_decode_to_vec(&one_line).map_err(|_| Base64Error)
    } else {
        Err(Base64Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(encode(&bytes).as_bytes()), Ok(bytes));
        assert_eq!(encode(b"hello"), "aGVsbG8=");
    }

    #[test]
    fn forgives_what_go_forgives() {
        assert_eq!(decode(b"aGVs\r\nbG8="), Ok(b"hello".to_vec()));
        assert_eq!(
            decode(b"aGVsbG9="),
            Ok(b"hello".to_vec()),
            "left-over bits in the last group"
        );
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in ["aGVsbG8", "aGVs bG8=", "aGV-", "not base64!", "="] {
            assert_eq!(decode(text.as_bytes()), Err(Base64Error), "{text}");
        }
    }
}
