//! Durations as Go writes them: `1h30m`, `0.5s`, `-5s`, `0`.
//!
//! Every duration in an EdgeX configuration is such a text. Owns reading and writing them; which values a setting
//! allows is the schema's business.

use std::{fmt, str::FromStr, time::Duration};

/// A text that Go's `time.ParseDuration` would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a duration like 30s, 5m or 1h30m: {problem}")]
pub struct InvalidDuration {
    text: String,
    problem: &'static str,
}

/// A signed duration in whole nanoseconds, at most about 292 years either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// The magnitude of the smallest `i64`.
const LIMIT: u64 = 1 << 63;

impl GoDuration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// From nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From whole seconds, for constants.
    pub const fn from_secs(secs: i32) -> Self {
        // Widening: an i32 of seconds is far below the limit.
        Self(secs as i64 * 1_000_000_000)
    }

    /// In nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// As the standard library's duration; none when negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

/// Reads a duration exactly as Go does: an optional sign, then decimal numbers with optional fraction, each with a unit
/// of `ns`, `us`, `µs`, `μs`, `ms`, `s`, `m`, `h`; or a bare `0`. No spaces.
///
/// # Errors
/// [`InvalidDuration`] for any other text and for what does not fit into 64 bits of nanoseconds.
pub fn parse_go_duration(text: &str) -> Result<GoDuration, InvalidDuration> {
    parse(text).map_err(|problem| InvalidDuration {
        text: text.to_owned(),
        problem,
    })
}

fn parse(text: &str) -> Result<GoDuration, &'static str> {
    const TOO_LONG: &str = "it is too long";
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    match rest {
        "0" => return Ok(GoDuration::ZERO),
        "" => return Err("it is empty"),
        _ => {}
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_at(rest, |c| c.is_ascii_digit());
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_at(after, |c| c.is_ascii_digit()),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err("a number is missing");
        }
        let (unit, after) = split_at(after, |c| c != '.' && !c.is_ascii_digit());
        let unit = match unit {
            "ns" => 1,
            // The micro sign and the Greek letter look alike; Go takes both.
            "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
            "ms" => MILLISECOND,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => HOUR,
            "" => return Err("a unit is missing"),
            _ => return Err("the unit is not one of ns, us, ms, s, m, h"),
        };
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| TOO_LONG)?
        };
        total = whole
            .checked_mul(unit)
            .and_then(|nanos| nanos.checked_add(part_of(fraction, unit)))
            .and_then(|nanos| nanos.checked_add(total))
            .filter(|nanos| *nanos <= LIMIT)
            .ok_or(TOO_LONG)?;
        rest = after;
    }
    let nanos = if negative {
        0_i64.checked_sub_unsigned(total)
    } else {
        i64::try_from(total).ok()
    };
    nanos.map(GoDuration).ok_or(TOO_LONG)
}

/// The leading characters that fit, and what follows them.
fn split_at(text: &str, fits: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !fits(c)).unwrap_or(text.len()))
}

/// `0.<digits>` of a unit in nanoseconds. In floating point, because Go does so: `0.3333333333333333333h` is 20 minutes.
fn part_of(digits: &str, unit: u64) -> u64 {
    let mut numerator: u64 = 0;
    let mut scale = 1.0;
    for digit in digits.bytes().map(|digit| u64::from(digit - b'0')) {
        // More digits than fit cannot matter: they are far below a nanosecond.
        match numerator
            .checked_mul(10)
            .and_then(|n| n.checked_add(digit))
            .filter(|n| *n <= LIMIT)
        {
            Some(next) => numerator = next,
            None => break,
        }
        scale *= 10.0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between zero and one hour in nanoseconds; dropping the rest is what Go does"
    )]
    let nanos = (numerator as f64 * (unit as f64 / scale)) as u64;
    nanos
}

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_go_duration(text)
    }
}

/// As Go prints it: `1m30s`, `5m0s`, `1.5ms`, `0s`.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            _ if nanos < MICROSECOND => write!(f, "{nanos}ns"),
            _ if nanos < MILLISECOND => write_decimal(f, nanos, MICROSECOND, "µs"),
            _ if nanos < SECOND => write_decimal(f, nanos, MILLISECOND, "ms"),
            _ => {
                if nanos >= HOUR {
                    write!(f, "{}h", nanos / HOUR)?;
                }
                if nanos >= MINUTE {
                    write!(f, "{}m", nanos % HOUR / MINUTE)?;
                }
                write_decimal(f, nanos % MINUTE, SECOND, "s")
            }
        }
    }
}

/// `nanos` in a unit that is a power of ten, without trailing zeros.
fn write_decimal(f: &mut fmt::Formatter<'_>, nanos: u64, unit: u64, name: &str) -> fmt::Result {
    let (whole, part) = (nanos / unit, nanos % unit);
    if part == 0 {
        return write!(f, "{whole}{name}");
    }
    let width = unit.ilog10().try_into().unwrap_or(0);
    let digits = format!("{part:0width$}");
    write!(f, "{whole}.{}{name}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, nanos: i64, printed: &str) {
        let duration = parse_go_duration(text).unwrap();
        assert_eq!(duration.as_nanos(), nanos, "{text}");
        assert_eq!(duration.to_string(), printed, "{text}");
    }

    #[test]
    fn durations_are_read_and_printed_as_go_does() {
        check("0", 0, "0s");
        check("-0", 0, "0s");
        check("0s", 0, "0s");
        check("5m", 300_000_000_000, "5m0s");
        check("+5s", 5_000_000_000, "5s");
        check("-5s", -5_000_000_000, "-5s");
        check(".5s", 500_000_000, "500ms");
        check("1.s", 1_000_000_000, "1s");
        check("1h30m", 5_400_000_000_000, "1h30m0s");
        check("1h0.5s", 3_600_500_000_000, "1h0m0.5s");
        check("90s", 90_000_000_000, "1m30s");
        check("1us", 1_000, "1µs");
        check("1\u{b5}s", 1_000, "1µs");
        check("1\u{3bc}s", 1_000, "1µs");
        check("1500ns", 1_500, "1.5µs");
        check("10.5s4m", 250_500_000_000, "4m10.5s");
        check("0.3333333333333333333h", 1_200_000_000_000, "20m0s");
        check("0.9223372036854775807h", 3_320_413_933_267, "55m20.413933267s");
        check("9223372036854775807ns", i64::MAX, "2562047h47m16.854775807s");
        check("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s");
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "",
            "-",
            "+",
            ".",
            "s",
            ".s",
            "-.s",
            "3",
            "1e3s",
            "1 s",
            " 1s",
            "1s ",
            "1d",
            "1S",
            "--5s",
            "1.5.5s",
            "m5",
            "9223372036854775808ns",
            "-9223372036854775809ns",
            "9223372036854775.808us",
            "3000000h",
            "99999999999999999999s",
            "١s",
        ] {
            assert!(parse_go_duration(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn the_message_says_what_is_wrong() {
        assert_eq!(
            parse_go_duration("30").unwrap_err().to_string(),
            "'30' is not a duration like 30s, 5m or 1h30m: a unit is missing"
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanos in any::<i64>()) {
            let duration = GoDuration::from_nanos(nanos);
            // A whole number of seconds beside a fraction is exact; only the fraction goes through floating point.
            let back: GoDuration = duration.to_string().parse().unwrap();
            prop_assert!((back.as_nanos() - nanos).abs() <= 1, "{} became {}", nanos, back.as_nanos());
        }

        #[test]
        fn whole_milliseconds_survive_exactly(millis in -9_223_372_036_854_i64..9_223_372_036_854) {
            let duration = GoDuration::from_nanos(millis * 1_000_000);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.a-zµ ]{0,24}") {
            let _ = parse_go_duration(&text);
        }
    }
}
