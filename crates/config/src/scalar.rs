//! What kind of value a setting holds, and how its text is read: weakly typed, as EdgeX decodes it.
//!
//! Numbers take the prefixes `0x`, `0o`, `0b` (and, as in Go, a leading `0` for octal); booleans are those of Go's
//! `ParseBool`; empty text is zero, `false` or the empty text.

use edgehold_core::parse_go_bool;

use crate::{byte_size::parse_byte_size, duration::GoDuration};

/// The values a setting allows.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number between two bounds, both included.
    Int {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// A number of retries: any whole number, of which those below 0 are taken as 1.
    RetryCount,
    /// A decimal number between two bounds, both included.
    Number {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// A duration.
    Duration {
        /// What is below is refused.
        min: GoDuration,
        /// What is below, but not refused, is raised to this.
        floor: GoDuration,
        /// Whether empty text is no time at all, instead of being refused.
        blank_is_zero: bool,
    },
    /// A size in bytes between two bounds, both included.
    Bytes {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// Any text.
    Text,
    /// Any text, never shown.
    Secret,
    /// One of some words.
    OneOf {
        /// The words; an empty one among them allows empty text.
        words: &'static [&'static str],
        /// Whether case and surrounding space do not matter.
        any_case: bool,
    },
}

/// A value as it was read. Texts and secrets stay where they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Int(i64),
    Number(f64),
    Duration(GoDuration),
    Bytes(u64),
    Text,
    Word(&'static str),
}

/// A text as its kind reads it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) value: Value,
    /// What was taken instead of the value that was written, and why.
    pub(crate) adjusted: Option<String>,
}

impl Kind {
    /// Reads a text; a refusal says why, without repeating the text.
    pub(crate) fn read(&self, text: &str) -> Result<Reading, String> {
        let mut adjusted = None;
        let value = match *self {
            Self::Text | Self::Secret => Value::Text,
            Self::Bool if text.is_empty() => Value::Bool(false),
            Self::Bool => Value::Bool(parse_go_bool(text).ok_or("it is neither true nor false")?),
            Self::Int { min, max } => {
                let number = parse_int(text)?;
                if !(min..=max).contains(&number) {
                    return Err(match (min, max) {
                        (_, i64::MAX) => format!("it is below {min}"),
                        _ => format!("it is not between {min} and {max}"),
                    });
                }
                Value::Int(number)
            }
            Self::RetryCount => match parse_int(text)? {
                ..0 => {
                    adjusted = Some("a count below 0 is taken as 1".to_owned());
                    Value::Int(1)
                }
                count => Value::Int(count),
            },
            Self::Number { min, max } => {
                let number = if text.is_empty() {
                    0.0
                } else {
                    text.parse().map_err(|_| "it is not a number")?
                };
                if !(min..=max).contains(&number) {
                    return Err(match max {
                        f64::MAX => format!("it is not {min} or more"),
                        _ => format!("it is not between {min} and {max}"),
                    });
                }
                Value::Number(number)
            }
            Self::Duration {
                blank_is_zero: true, ..
            } if text.is_empty() => Value::Duration(GoDuration::ZERO),
            Self::Duration { min, floor, .. } => {
                let duration: GoDuration = text.parse().map_err(|error| format!("{error}"))?;
                if duration < min {
                    return Err(format!("it is below {min}"));
                }
                if duration < floor {
                    adjusted = Some(format!("a duration below {floor} is taken as {floor}"));
                }
                Value::Duration(duration.max(floor))
            }
            Self::Bytes { min, max } => {
                let bytes = if text.is_empty() {
                    0
                } else {
                    parse_byte_size(text).map_err(|e| e.to_string())?
                };
                if !(min..=max).contains(&bytes) {
                    return Err(format!("it is not between {min} and {max} bytes"));
                }
                Value::Bytes(bytes)
            }
            Self::OneOf { words, any_case } => {
                let fits = |word: &&&str| match any_case {
                    true => text.trim().eq_ignore_ascii_case(word),
                    false => text == **word,
                };
                Value::Word(
                    words
                        .iter()
                        .find(fits)
                        .ok_or_else(|| format!("it is not one of {}", list(words)))?,
                )
            }
        };
        Ok(Reading { value, adjusted })
    }

    /// The kind in a few words, for the table in the README.
    pub fn describe(&self) -> String {
        match *self {
            Self::Bool => "bool".to_owned(),
            Self::Int {
                min: i64::MIN,
                max: i64::MAX,
            }
            | Self::RetryCount => "int".to_owned(),
            Self::Int { min, max: i64::MAX } => format!("int ≥ {min}"),
            Self::Int { min, max } => format!("int {min}–{max}"),
            Self::Number { min, max: f64::MAX } => format!("number ≥ {min}"),
            Self::Number { min, max } => format!("number {min}–{max}"),
            Self::Duration { floor, .. } if floor > GoDuration::ZERO => format!("duration ≥ {floor}"),
            Self::Duration { .. } => "duration".to_owned(),
            Self::Bytes { .. } => "size".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Secret => "secret".to_owned(),
            Self::OneOf { words, .. } => list(words),
        }
    }
}

fn list(words: &[&str]) -> String {
    let shown: Vec<_> = words
        .iter()
        .filter(|word| !word.is_empty())
        .map(|word| format!("`{word}`"))
        .collect();
    shown.join(", ")
}

/// A whole number as Go's `ParseInt` reads it with base 0; empty text is 0.
pub(crate) fn parse_int(text: &str) -> Result<i64, &'static str> {
    const PROBLEM: &str = "it is not a whole number";
    if text.is_empty() {
        return Ok(0);
    }
    let (sign, digits) = match text.as_bytes() {
        [b'-', ..] => ("-", &text[1..]),
        [b'+', ..] => ("", &text[1..]),
        _ => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    // `from_str_radix` takes a sign of its own; here it has already been taken off.
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return Err(PROBLEM);
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|_| PROBLEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Kind = Kind::Int {
        min: i64::MIN,
        max: i64::MAX,
    };

    #[track_caller]
    fn check(kind: Kind, text: &str, expected: Value) {
        assert_eq!(
            kind.read(text).map(|reading| reading.value),
            Ok(expected),
            "{kind:?} {text:?}"
        );
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, number) in [
            ("", 0),
            ("0", 0),
            ("5", 5),
            ("-5", -5),
            ("+5", 5),
            ("0x1F", 31),
            ("-0x1f", -31),
            ("0o17", 15),
            ("017", 15),
            ("0b101", 5),
            ("-9223372036854775808", i64::MIN),
            ("9223372036854775807", i64::MAX),
        ] {
            check(ANY, text, Value::Int(number));
        }
        for text in [
            "x",
            "5.0",
            "0x",
            "--5",
            "0x-5",
            "-+5",
            " 5",
            "5 ",
            "08",
            "9223372036854775808",
            "1e3",
        ] {
            assert!(ANY.read(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn bounds_are_named() {
        let port = Kind::Int { min: 0, max: 65_535 };
        assert_eq!(port.read("65536").unwrap_err(), "it is not between 0 and 65535");
        let count = Kind::Int {
            min: 1,
            max: i64::MAX,
        };
        assert_eq!(count.read("0").unwrap_err(), "it is below 1");
    }

    #[test]
    fn a_short_interval_is_raised_and_a_negative_count_is_one() {
        let interval = Kind::Duration {
            min: GoDuration::from_nanos(i64::MIN),
            floor: GoDuration::from_secs(1),
            blank_is_zero: false,
        };
        let reading = interval.read("200ms").unwrap();
        assert_eq!(reading.value, Value::Duration(GoDuration::from_secs(1)));
        assert_eq!(
            reading.adjusted.as_deref(),
            Some("a duration below 1s is taken as 1s")
        );
        assert!(interval.read("").is_err());
        assert!(interval.read("200").is_err());
        let reading = Kind::RetryCount.read("-3").unwrap();
        assert_eq!(reading.value, Value::Int(1));
        assert!(reading.adjusted.is_some());
    }

    #[test]
    fn words_keep_their_case_where_it_matters() {
        let level = Kind::OneOf {
            words: &["INFO", "DEBUG"],
            any_case: false,
        };
        check(level, "INFO", Value::Word("INFO"));
        assert_eq!(
            level.read("info").unwrap_err(),
            "it is not one of `INFO`, `DEBUG`"
        );
        assert!(level.read("").is_err());
        let target = Kind::OneOf {
            words: &["", "event", "raw"],
            any_case: true,
        };
        check(target, " RAW ", Value::Word("raw"));
        check(target, "", Value::Word(""));
    }

    #[test]
    fn other_kinds_are_read() {
        check(Kind::Bool, "", Value::Bool(false));
        check(Kind::Bool, "T", Value::Bool(true));
        assert!(Kind::Bool.read("yes").is_err());
        check(Kind::Number { min: 0.0, max: 1.0 }, "0.5", Value::Number(0.5));
        assert!(Kind::Number { min: 0.0, max: 1.0 }.read("1.5").is_err());
        assert!(
            Kind::Number {
                min: 0.0,
                max: f64::MAX
            }
            .read("NaN")
            .is_err()
        );
        assert!(
            Kind::Number {
                min: 0.0,
                max: f64::MAX
            }
            .read("inf")
            .is_err()
        );
        let size = Kind::Bytes {
            min: 1,
            max: 5_000_000,
        };
        check(size, "4MiB", Value::Bytes(4_194_304));
        assert!(size.read("").is_err());
        assert_eq!(
            size.read("5MiB").unwrap_err(),
            "it is not between 1 and 5000000 bytes"
        );
        check(Kind::Text, "", Value::Text);
    }
}
