//! Topic filters with the meaning MQTT gives them (MQTT 3.1.1 §4.7): `+` is one level, a trailing `#` is the parent
//! and everything below it.
//!
//! EdgeX matches pipeline topics by text prefix, so that `a/+` takes `a/b/c/d` and `a/#` misses `a`. Edgehold
//! matches as the broker does; the README lists it as a deviation.

use std::fmt;

/// A checked topic filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(String);

/// A text that is not a topic filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid topic filter {text:?}: {problem}")]
pub struct InvalidTopicFilter {
    text: String,
    problem: &'static str,
}

impl TopicFilter {
    /// Checks a filter: not empty, no NUL, `+` and `#` alone in their level, `#` only as the last level.
    pub fn try_new(text: &str) -> Result<Self, InvalidTopicFilter> {
        let invalid = |problem| {
            Err(InvalidTopicFilter {
                text: text.to_owned(),
                problem,
            })
        };
        if text.is_empty() {
            return invalid("it is empty");
        }
        if text.contains('\0') {
            return invalid("it contains a NUL character");
        }
        if text.len() > usize::from(u16::MAX) {
            return invalid("it is longer than 65,535 bytes");
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            match level {
                "#" if levels.peek().is_some() => return invalid("`#` is not the last level"),
                "#" | "+" => {}
                _ if level.contains(['+', '#']) => {
                    return invalid("a wildcard shares its level with other text");
                }
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The filter that matches every topic.
    pub fn all() -> Self {
        Self("#".to_owned())
    }

    /// The text of the filter.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a concrete topic falls under this filter.
    ///
    /// Topics that begin with `$` are matched by wildcards as any other: what a service sees has already been
    /// chosen by its subscription.
    pub fn matches(&self, topic: &str) -> bool {
        let mut levels = topic.split('/');
        let mut filter = self.0.split('/');
        loop {
            match (filter.next(), levels.next()) {
                (Some("#"), _) => return true,
                (Some("+"), Some(_)) => {}
                (Some(wanted), Some(level)) if wanted == level => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }

    /// Whether a broker sends everything for this filter that it sends for the other one. A shared subscription
    /// (`$share/…`) covers itself alone, because another member of its group may be the one that gets a message; a leading
    /// wildcard covers no topics of the broker's own (`$SYS/…`).
    pub fn covers(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        let of_the_broker = |filter: &Self| filter.0.starts_with('$');
        if of_the_broker(self) != of_the_broker(other) || self.0.starts_with("$share/") {
            return false;
        }
        let mut levels = other.0.split('/');
        let mut filter = self.0.split('/');
        loop {
            match (filter.next(), levels.next()) {
                (Some("#"), _) => return true,
                (Some("+"), Some(level)) if level != "#" => {}
                (Some(wanted), Some(level)) if wanted == level => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, topic: &str, expected: bool) {
        let filter = TopicFilter::try_new(filter).unwrap();
        assert_eq!(filter.matches(topic), expected, "{filter} against {topic}");
    }

    #[test]
    fn filters_match_as_a_broker_matches() {
        check("#", "a/b", true);
        check("a/#", "a", true);
        check("a/#", "a/b/c", true);
        check("a/+", "a/b", true);
        check("a/+", "a/b/c", false);
        check("a/+", "a", false);
        check("a/+", "a/", true);
        check("a/+/c", "a/b/c", true);
        check("a/+/c", "a/b/cde", false);
        check("a/b", "a/b", true);
        check("a/b", "a/b/", false);
        check("a", "A", false);
    }

    #[test]
    fn a_filter_covers_those_that_bring_nothing_more() {
        let covers = |wide: &str, narrow: &str| {
            let [wide, narrow] = [wide, narrow].map(|text| TopicFilter::try_new(text).unwrap());
            wide.covers(&narrow)
        };
        for (wide, narrow) in [
            ("a/#", "a/#"),
            ("a/#", "a"),
            ("a/#", "a/b/+"),
            ("a/#", "a/b/#"),
            ("#", "a/#"),
            ("a/+/c", "a/b/c"),
            ("$share/g/a", "$share/g/a"),
        ] {
            assert!(covers(wide, narrow), "{wide} covers {narrow}");
            assert!(
                wide == narrow || !covers(narrow, wide),
                "{narrow} does not cover {wide}"
            );
        }
        for (one, other) in [
            ("a/+/c", "a/b/+"),
            ("a/+", "a/#"),
            ("+", "a/b"),
            ("a/b", "a/bc"),
            ("#", "$SYS/#"),
            ("$share/g/a/#", "$share/g/a/b"),
            ("a/#", "$share/g/a/b"),
        ] {
            assert!(!covers(one, other), "{one} does not cover {other}");
        }
    }

    #[test]
    fn a_misplaced_wildcard_is_refused_by_name() {
        for filter in ["", "a/#/c", "a/b+", "#a", "a\0"] {
            assert!(TopicFilter::try_new(filter).is_err(), "{filter:?}");
        }
        assert_eq!(
            TopicFilter::try_new("a/#/c").unwrap_err().to_string(),
            "invalid topic filter \"a/#/c\": `#` is not the last level"
        );
    }
}
