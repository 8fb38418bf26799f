//! Durations in the text form of Go's `time.ParseDuration`, the form of every duration in an EdgeX configuration.

use std::{str::FromStr, time::Duration};

/// How long something may take: more than nothing, and finite, because every wait here ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit(pub(crate) Duration);

/// Why a text is no time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTimeLimit {
    /// Not numbers with units.
    #[error("not a duration such as '300ms', '5s' or '1m30s'")]
    NotADuration,
    /// Zero, less, or more than Go can express (292 years).
    #[error("not longer than zero, or too long")]
    OutOfRange,
}

const UNITS_NANOSECONDS: [(&str, f64); 8] = [
    // Longer names first where one begins with the other.
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// 2^63 nanoseconds: where Go's durations end.
const END_OF_GO_DURATIONS_SECONDS: f64 = 9_223_372_036.854_775;

impl FromStr for TimeLimit {
    type Err = InvalidTimeLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        match unsigned {
            "" => return Err(InvalidTimeLimit::NotADuration),
            // The one number Go reads without a unit.
            "0" => return Err(InvalidTimeLimit::OutOfRange),
            _ => {}
        }
        let mut rest = unsigned;
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or(InvalidTimeLimit::NotADuration)?;
            let number: f64 = rest[..digits]
                .parse()
                .map_err(|_| InvalidTimeLimit::NotADuration)?;
            rest = &rest[digits..];
            let (name, nanoseconds) = UNITS_NANOSECONDS
                .iter()
                .find(|(name, _)| rest.starts_with(name))
                .ok_or(InvalidTimeLimit::NotADuration)?;
            rest = &rest[name.len()..];
            seconds += number * nanoseconds / 1e9;
        }
        if negative || seconds >= END_OF_GO_DURATIONS_SECONDS {
            return Err(InvalidTimeLimit::OutOfRange);
        }
        match Duration::try_from_secs_f64(seconds) {
            Ok(limit) if !limit.is_zero() => Ok(Self(limit)),
            _ => Err(InvalidTimeLimit::OutOfRange),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_read() {
        for (text, expected) in [
            ("5s", Duration::from_secs(5)),
            ("+300ms", Duration::from_millis(300)),
            ("1m30s", Duration::from_secs(90)),
            ("1.5h", Duration::from_secs(5400)),
            (".5s", Duration::from_millis(500)),
            ("2.s", Duration::from_secs(2)),
            ("1h2m3s4ms5us6ns", Duration::new(3723, 4_005_006)),
            ("7µs", Duration::from_micros(7)),
            ("7μs", Duration::from_micros(7)),
            ("1s1s", Duration::from_secs(2)),
        ] {
            assert_eq!(text.parse(), Ok(TimeLimit(expected)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "", "5", "s", "5 s", "1d", "5S", "-", "+", ".s", "1.2.3s", "1e3s", "5s ", "1m-3s",
        ] {
            let result = text.parse::<TimeLimit>();
            assert_eq!(result, Err(InvalidTimeLimit::NotADuration), "{text}");
        }
    }

    #[test]
    fn a_wait_without_an_end_or_of_no_time_is_refused() {
        for text in ["0", "0s", "-5s", "-0", "9999999h", "99999999999999999999999999h"] {
            let result = text.parse::<TimeLimit>();
            assert_eq!(result, Err(InvalidTimeLimit::OutOfRange), "{text}");
        }
    }
}
