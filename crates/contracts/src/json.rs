//! JSON as Go writes it, and reading that keeps integers exact.
//!
//! Go's encoder escapes `<`, `>`, `&`, U+2028 and U+2029, sorts map keys, prints floats its own way and writes no trailing newline.
//! What leaves for a destination is compared byte by byte, so all JSON that leaves goes through here.

use std::io;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, IgnoredAny};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use serde_json::error::Category;
use serde_json::ser::{CharEscape, Formatter};

use crate::codec::DecodeError;
use crate::generation::Generation;
use crate::number;

/// Writes `value` as compact JSON in the form of generation 4's Go encoder.
///
/// # Errors
/// Only when `value`'s own `Serialize` fails, or a map key is neither text nor a plain scalar.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    to_vec_for(Generation::V4, value)
}

/// As [`to_vec`], in the form of that generation's Go encoder: generation 3 (Go 1.21) writes backspace and form feed as `\u0008`
/// and `\u000c`, generation 4 as `\b` and `\f`.
///
/// # Errors
/// As [`to_vec`].
pub fn to_vec_for<T: Serialize + ?Sized>(
    generation: Generation,
    value: &T,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, GoFormatter { generation });
    value.serialize(&mut serializer)?;
    Ok(bytes)
}

/// Reads exactly one JSON value.
///
/// Invalid UTF-8 and halves of surrogate pairs (`"\\ud83d"`) are read as U+FFFD, as Go does. Nesting deeper than 128 levels is a syntax error.
///
/// # Errors
/// [`DecodeError`]; an input that ends too early says `unexpected end of JSON input`, as Go does.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let text = String::from_utf8_lossy(bytes);
    from_text(&text).or_else(|error| match without_lone_surrogates(&text) {
        Some(repaired) => from_text(&repaired),
        None => Err(error),
    })
}

/// `text` with each half of a surrogate pair replaced by `\ufffd`; nothing when there is none.
#[cold]
fn without_lone_surrogates(text: &str) -> Option<String> {
    let mut repaired = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        repaired.push_str(before);
        let low_follows = || {
            escape
                .get(6..)
                .and_then(escaped_unit)
                .is_some_and(|unit| (0xdc00..0xe000).contains(&unit))
        };
        let width = match escaped_unit(escape) {
            Some(0xd800..0xdc00) if low_follows() => 12,
            Some(0xd800..0xe000) => {
                found = true;
                repaired.push_str("\\ufffd");
                rest = &escape[6..];
                continue;
            }
            // A backslash and what it escapes, which may be a backslash.
            _ => escape.chars().take(2).map(char::len_utf8).sum(),
        };
        repaired.push_str(&escape[..width]);
        rest = &escape[width..];
    }
    repaired.push_str(rest);
    found.then_some(repaired)
}

/// The UTF-16 unit of an escape like `\ud83d` that `text` begins with.
fn escaped_unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

/// As [`from_slice`], for values that borrow from `text`.
fn from_text<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, DecodeError> {
    serde_json::from_str(text).map_err(|error| {
        if error.classify() == Category::Data {
            // Go checks the syntax of the whole input before it looks at types.
            match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => DecodeError::Shape(error.to_string()),
                Err(syntax) => syntax_error(&syntax),
            }
        } else {
            syntax_error(&error)
        }
    })
}

fn syntax_error(error: &serde_json::Error) -> DecodeError {
    DecodeError::Syntax(if error.is_eof() {
        "unexpected end of JSON input".to_owned()
    } else {
        error.to_string()
    })
}

/// A JSON value that writes its object keys sorted, whatever map type `serde_json` was built with.
///
/// Another crate of a build may switch `serde_json` to insertion order; Go's order must not depend on that.
#[derive(Debug, Clone, Copy)]
pub struct Sorted<'a>(
    /// The value to write.
    pub &'a Value,
);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            // Not a unit, which the CBOR library writes as an empty array.
            Value::Null => serializer.serialize_none(),
            Value::Array(items) => serializer.collect_seq(items.iter().map(Sorted)),
            Value::Object(object) => {
                let mut map = serializer.serialize_map(Some(object.len()))?;
                if object.keys().is_sorted() {
                    for (key, value) in object {
                        map.serialize_entry(key, &Sorted(value))?;
                    }
                } else {
                    let mut entries: Vec<_> = object.iter().collect();
                    entries.sort_unstable_by_key(|(key, _)| *key);
                    for (key, value) in entries {
                        map.serialize_entry(key, &Sorted(value))?;
                    }
                }
                map.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

/// What Go's encoder does differently from `serde_json`'s compact form.
struct GoFormatter {
    generation: Generation,
}

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let bytes = fragment.as_bytes();
        let mut written = 0;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            let (escape, width): (&[u8], usize) = match byte {
                b'<' => (b"\\u003c", 1),
                b'>' => (b"\\u003e", 1),
                b'&' => (b"\\u0026", 1),
                // U+2028 and U+2029 are e2 80 a8 and e2 80 a9.
                0xe2 if bytes[at..].starts_with(&[0xe2, 0x80, 0xa8]) => (b"\\u2028", 3),
                0xe2 if bytes[at..].starts_with(&[0xe2, 0x80, 0xa9]) => (b"\\u2029", 3),
                _ => {
                    at += 1;
                    continue;
                }
            };
            writer.write_all(&bytes[written..at])?;
            writer.write_all(escape)?;
            at += width;
            written = at;
        }
        writer.write_all(&bytes[written..])
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        writer.write_all(match (escape, self.generation) {
            (CharEscape::Quote, _) => b"\\\"",
            (CharEscape::ReverseSolidus, _) => b"\\\\",
            (CharEscape::Solidus, _) => b"/",
            (CharEscape::LineFeed, _) => b"\\n",
            (CharEscape::CarriageReturn, _) => b"\\r",
            (CharEscape::Tab, _) => b"\\t",
            (CharEscape::Backspace, Generation::V3) => b"\\u0008",
            (CharEscape::FormFeed, Generation::V3) => b"\\u000c",
            (CharEscape::Backspace, Generation::V4) => b"\\b",
            (CharEscape::FormFeed, Generation::V4) => b"\\f",
            (CharEscape::AsciiControl(byte), _) => return write!(writer, "\\u{byte:04x}"),
        })
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(number::json(value).as_bytes())
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        writer.write_all(number::json_f32(value).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(generation: Generation, value: &impl Serialize) -> String {
        String::from_utf8(to_vec_for(generation, value).unwrap()).unwrap()
    }

    #[test]
    fn escapes_what_go_escapes() {
        let value = "<a & b> \"q\" 's' \\ é中 \u{2028}\u{2029}\u{2030} \t\n\r\u{7f}\u{1}/";
        assert_eq!(
            text(Generation::V4, &value),
            "\"\\u003ca \\u0026 b\\u003e \\\"q\\\" 's' \\\\ é中 \\u2028\\u2029\u{2030} \\t\\n\\r\u{7f}\\u0001/\""
        );
    }

    #[test]
    fn backspace_and_form_feed_differ_by_generation() {
        assert_eq!(text(Generation::V3, &"\u{8}\u{c}"), "\"\\u0008\\u000c\"");
        assert_eq!(text(Generation::V4, &"\u{8}\u{c}"), "\"\\b\\f\"");
    }

    #[test]
    fn integers_stay_exact_and_keys_sort() {
        let value: Value =
            from_slice(br#"{"z":18446744073709551615,"a":-9223372036854775808,"m":{"b":3.0,"a":"<"}}"#)
                .unwrap();
        assert_eq!(
            text(Generation::V4, &Sorted(&value)),
            r#"{"a":-9223372036854775808,"m":{"a":"\u003c","b":3},"z":18446744073709551615}"#
        );
    }

    #[test]
    fn floats_survive_reading_and_writing() {
        for number in [
            "15460864.08504399",
            "-1.413448e+308",
            "2.2250738585072014e-308",
            "0.1",
            "5e-324",
        ] {
            let value: Value = from_slice(number.as_bytes()).unwrap();
            assert_eq!(text(Generation::V4, &value), number);
        }
    }

    #[test]
    fn a_syntax_error_outranks_a_type_error() {
        assert_eq!(
            from_slice::<i64>(b"").unwrap_err(),
            DecodeError::Syntax("unexpected end of JSON input".into())
        );
        assert!(matches!(
            from_slice::<Vec<i64>>(br#"["a", oops"#),
            Err(DecodeError::Syntax(_))
        ));
        assert!(matches!(
            from_slice::<Vec<i64>>(br#"["a"]"#),
            Err(DecodeError::Shape(_))
        ));
        assert!(matches!(from_slice::<i64>(b"1 2"), Err(DecodeError::Syntax(_))));
    }

    #[test]
    fn nesting_is_bounded() {
        let bomb = "[".repeat(1_000_000);
        assert!(matches!(
            from_slice::<Value>(bomb.as_bytes()),
            Err(DecodeError::Syntax(_))
        ));
    }

    #[test]
    fn halves_of_surrogate_pairs_are_replaced() {
        for (json, value) in [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""a\ude00 é\ud83d\ud83d\ude00\n""#, "a\u{fffd} é\u{fffd}😀\n"),
            (r#""\\ud83d \udfff\\""#, "\\ud83d \u{fffd}\\"),
        ] {
            assert_eq!(from_slice::<String>(json.as_bytes()).unwrap(), value);
        }
        assert!(from_slice::<String>(br#""\ud83d"#).is_err());
        assert!(from_slice::<String>(br#""\ud83"#).is_err());
        assert!(from_slice::<String>(br#""\ud83d \x""#).is_err());
        assert!(from_slice::<String>(b"\"\\").is_err());
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        assert_eq!(from_slice::<String>(b"\"a\xffb\"").unwrap(), "a\u{fffd}b");
    }
}
