//! Topics and channels: the same words, divided by slashes and by dots.
//!
//! Owns the way from topic filters to what is subscribed, and which of several subscriptions a message counts for.
//! (EdgeX, go-mod-messaging: `/` is `.`, `#` and `+` are `*`.)
//!
//! `*` in a Redis pattern takes any text, dots included. So `+` asks for more than one level, and whoever takes the
//! messages has to look at the topic again. And a dot inside a name cannot be told from one between two levels: the topic
//! that comes out has a level more than the one that went in.

use edgehold_core::TopicFilter;

/// Something to subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// One channel (SUBSCRIBE).
    Channel(String),
    /// All channels of a pattern (PSUBSCRIBE), as Redis writes it.
    Pattern(String),
}

/// What to subscribe to for these filters. `a/#` is `a` and all below it, as in MQTT.
pub(crate) fn interests(filters: &[TopicFilter]) -> Vec<Interest> {
    let mut interests = Vec::new();
    for filter in filters {
        let filter = filter.as_str();
        if let Some(parent) = filter.strip_suffix("/#") {
            interests.push(interest(parent));
        }
        interests.push(interest(filter));
    }
    let mut seen = Vec::new();
    interests.retain(|interest| {
        let new = !seen.contains(interest);
        if new {
            seen.push(interest.clone());
        }
        new
    });
    interests
}

fn interest(filter: &str) -> Interest {
    let has_wildcard = filter.split('/').any(|level| matches!(level, "+" | "#"));
    if !has_wildcard {
        return Interest::Channel(channel(filter));
    }
    let levels = filter.split('/').map(|level| match level {
        "+" | "#" => "*".to_owned(),
        level => escaped(level),
    });
    Interest::Pattern(levels.collect::<Vec<_>>().join("."))
}

/// A text that means itself in a pattern.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// The channel of a topic.
pub(crate) fn channel(topic: &str) -> String {
    topic.replace('/', ".")
}

/// The topic of a channel.
pub(crate) fn topic(channel: &str) -> String {
    channel.replace('.', "/")
}

impl Interest {
    /// Whether Redis sends what is published to `channel` because of this.
    pub(crate) fn takes(&self, channel: &str) -> bool {
        match self {
            Self::Channel(own) => own == channel,
            Self::Pattern(pattern) => matches(pattern, channel),
        }
    }
}

/// Redis' matching, for the patterns that are made here: `*` and escaped characters.
fn matches(pattern: &str, text: &str) -> bool {
    // Where to go on after the last star took one character more.
    let mut retry: Option<(&str, &str)> = None;
    let (mut pattern, mut text) = (pattern, text);
    loop {
        let mut rest = pattern.chars();
        let wanted = match rest.next() {
            Some('*') => {
                retry = Some((rest.as_str(), text));
                pattern = rest.as_str();
                continue;
            }
            Some('\\') => rest.next(),
            other => other,
        };
        let mut left = text.chars();
        match (wanted, left.next()) {
            (None, None) => return true,
            (Some(wanted), Some(character)) if wanted == character => {
                (pattern, text) = (rest.as_str(), left.as_str());
            }
            _ => {
                let Some((after_star, from)) = retry else {
                    return false;
                };
                let mut from = from.chars();
                if from.next().is_none() {
                    return false;
                }
                retry = Some((after_star, from.as_str()));
                (pattern, text) = (after_star, from.as_str());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(filters: &[&str]) -> Vec<Interest> {
        let filters: Vec<_> = filters
            .iter()
            .map(|text| TopicFilter::try_new(text).unwrap())
            .collect();
        interests(&filters)
    }

    #[test]
    fn filters_become_patterns_with_their_parent_and_each_only_once() {
        let pattern = |text: &str| Interest::Pattern(text.to_owned());
        let channel = |text: &str| Interest::Channel(text.to_owned());
        assert_eq!(
            of(&["edgex/events/#", "edgex/+/x", "a/b", "a/b/#", "edgex/events/+"]),
            [
                channel("edgex.events"),
                pattern("edgex.events.*"),
                pattern("edgex.*.x"),
                channel("a.b"),
                pattern("a.b.*"),
            ]
        );
        assert_eq!(of(&["#"]), [pattern("*")]);
        assert_eq!(of(&["a/[x]?/+"]), [pattern(r"a.\[x\]\?.*")]);
    }

    #[test]
    fn a_pattern_takes_what_redis_takes_for_it() {
        let takes =
            |filter: &str, channel: &str| of(&[filter]).iter().any(|interest| interest.takes(channel));
        assert!(takes("a/#", "a"));
        assert!(takes("a/#", "a.b.c"));
        assert!(!takes("a/#", "ab"));
        assert!(takes("a/+/c", "a.b.c"));
        assert!(takes("a/+/c", "a.b.b.c.c"));
        assert!(!takes("a/+/c", "a.b.d"));
        assert!(takes("+/+/x", "a.b.x"));
        assert!(takes("a/[x]/+", "a.[x].c"));
        assert!(!takes("a/[x]/+", "a.x.c"));
        assert!(!takes("a/b", "a.b.c"));
    }
}
