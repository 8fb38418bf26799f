//! Durations among the parameters of exports, in Go's text form.

use std::{str::FromStr, time::Duration};

use edgehold_core::duration::parse_go_duration;

/// How long something may take: more than nothing, and finite, because every wait here ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit(pub(crate) Duration);

/// How often something happens; zero is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) Duration);

/// Why a text is no such duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTime {
    /// Not numbers with units, or more of them than Go can express (292 years).
    #[error("not a duration such as '300ms', '5s' or '1m30s'")]
    NotADuration,
    /// Zero or less.
    #[error("not longer than zero")]
    OutOfRange,
}

impl FromStr for TimeLimit {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse()? {
            Period(Duration::ZERO) => Err(InvalidTime::OutOfRange),
            Period(duration) => Ok(Self(duration)),
        }
    }
}

impl FromStr for Period {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let duration = parse_go_duration(text).map_err(|_| InvalidTime::NotADuration)?;
        duration.to_std().map(Self).ok_or(InvalidTime::OutOfRange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_read_and_nothing_else() {
        assert_eq!("1m30s".parse(), Ok(TimeLimit(Duration::from_secs(90))));
        assert_eq!("1.5h".parse(), Ok(TimeLimit(Duration::from_secs(5400))));
        for text in ["", "5", "5 s", "1d", "99999999999999999999999999h"] {
            assert_eq!(
                text.parse::<TimeLimit>(),
                Err(InvalidTime::NotADuration),
                "{text}"
            );
        }
    }

    #[test]
    fn a_wait_without_an_end_or_of_no_time_is_refused() {
        for text in ["0", "0s", "-5s"] {
            assert_eq!(text.parse::<TimeLimit>(), Err(InvalidTime::OutOfRange), "{text}");
        }
        assert_eq!("0s".parse(), Ok(Period(Duration::ZERO)));
        assert_eq!("-5s".parse::<Period>(), Err(InvalidTime::OutOfRange));
    }
}
