//! Sets of HTTP statuses, as in `PermanentStatus`.

use std::str::FromStr;

use reqwest::StatusCode;

/// Statuses, listed one by one (`404`) or by class (`4xx`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StatusSet(Vec<StatusPattern>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StatusPattern {
    Code(u16),
    /// The first digit.
    Class(u16),
}

/// A list that names something else than failed statuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a status from 300 to 599 nor a class such as '4xx'")]
pub(super) struct InvalidStatus(String);

impl StatusSet {
    pub(super) fn contains(&self, status: StatusCode) -> bool {
        self.0.iter().any(|pattern| match *pattern {
            StatusPattern::Code(code) => status.as_u16() == code,
            StatusPattern::Class(class) => status.as_u16() / 100 == class,
        })
    }
}

impl FromStr for StatusSet {
    type Err = InvalidStatus;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        list.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| pattern(item).ok_or_else(|| InvalidStatus(item.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn pattern(item: &str) -> Option<StatusPattern> {
    match item.to_ascii_lowercase().strip_suffix("xx") {
        Some(class) => {
            let class = class.parse().ok().filter(|class| (3..=5).contains(class))?;
            Some(StatusPattern::Class(class))
        }
        None => {
            let code = item.parse().ok().filter(|code| (300..=599).contains(code))?;
            Some(StatusPattern::Code(code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> StatusSet {
        list.parse().unwrap()
    }

    #[test]
    fn codes_and_classes_are_listed_with_commas() {
        let set = set(" 404 ,413,5XX,");
        for (status, expected) in [
            (404, true),
            (413, true),
            (400, false),
            (500, true),
            (599, true),
            (302, false),
        ] {
            assert_eq!(
                set.contains(StatusCode::from_u16(status).unwrap()),
                expected,
                "{status}"
            );
        }
        assert!(!StatusSet::default().contains(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn what_is_no_failed_status_is_refused_by_name() {
        for item in ["200", "2xx", "6xx", "xx", "4x", "bad", "4 04", "-404"] {
            let error = format!("404,{item}").parse::<StatusSet>().unwrap_err();
            assert_eq!(error, InvalidStatus(item.to_owned()));
        }
    }
}
