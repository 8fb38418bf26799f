//! Topics and subjects: the same words, divided by slashes and by dots.
//!
//! (EdgeX, go-mod-messaging: `/` is `.`, `+` is `*`, `#` is `>`.) A dot inside a name cannot be told from one between two
//! levels: the topic that comes out has a level more than the one that went in.

use edgehold_core::TopicFilter;

/// A topic or topic filter that NATS has no subject for: it is empty, has an empty level, or white space or another of
/// NATS' own signs in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no topic on a NATS bus")]
pub struct InvalidSubject(String);

/// The subject to publish a topic to.
pub(crate) fn of_topic(topic: &str) -> Result<String, InvalidSubject> {
    let invalid = |level: &str| level.is_empty() || level.contains(['*', '>', '+', '#']);
    checked(topic, invalid)?;
    Ok(topic.replace('/', "."))
}

/// The subject to subscribe to for a filter.
pub(crate) fn of_filter(filter: &str) -> Result<String, InvalidSubject> {
    let invalid = |level: &str| level.is_empty() || level.contains(['*', '>']);
    checked(filter, invalid)?;
    let levels = filter.split('/').map(|level| match level {
        "+" => "*",
        "#" => ">",
        level => level,
    });
    Ok(levels.collect::<Vec<_>>().join(".").replace('/', "."))
}

fn checked(topic: &str, invalid: impl Fn(&str) -> bool) -> Result<(), InvalidSubject> {
    let white = |character: char| character.is_whitespace() || character.is_control();
    if topic
        .split(['/', '.'])
        .any(|level| invalid(level) || level.contains(white))
    {
        return Err(InvalidSubject(topic.to_owned()));
    }
    Ok(())
}

/// What to subscribe to for these filters: each once, and `a/#` as `a` too, as in MQTT.
pub(crate) fn of_filters(filters: &[TopicFilter]) -> Result<Vec<String>, InvalidSubject> {
    let mut subjects = Vec::new();
    for filter in filters {
        let filter = filter.as_str();
        for filter in filter.strip_suffix("/#").into_iter().chain([filter]) {
            let subject = of_filter(filter)?;
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
    }
    Ok(subjects)
}

/// The topic of a subject.
pub(crate) fn topic(subject: &str) -> String {
    subject.replace('.', "/")
}

/// Whether what is published to `subject` goes to those who subscribe to `pattern`.
pub(crate) fn takes(pattern: &str, subject: &str) -> bool {
    let mut levels = subject.split('.');
    let mut pattern = pattern.split('.');
    loop {
        match (pattern.next(), levels.next()) {
            (Some(">" | "*"), None) => return false,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// The name of a stream for a subject, as EdgeX makes it: `edgex.>` is `edgex`.
pub(crate) fn stream_name(subject: &str) -> String {
    let name = subject.replace('.', "_").replace(['*', '>'], "");
    name.strip_suffix('_').unwrap_or(&name).to_owned()
}

/// A name that a consumer can have.
pub(crate) fn consumer_name(text: &str) -> String {
    let illegal =
        |character: char| character.is_whitespace() || character.is_control() || ".*>/\\".contains(character);
    text.replace(illegal, "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_filters_become_subjects_or_are_refused() {
        assert_eq!(of_topic("edgex/events/a").unwrap(), "edgex.events.a");
        assert_eq!(of_filter("edgex/+/x/#").unwrap(), "edgex.*.x.>");
        for topic in [
            "",
            "a//b",
            "a b",
            "a/*",
            "a/>",
            "a/#",
            "a/+",
            "a..b",
            "a.",
            "a\r\nPUB x 0",
        ] {
            assert!(of_topic(topic).is_err(), "{topic:?}");
        }
        let filters = ["a/#", "a/#", "a/b", "#"].map(|text| TopicFilter::try_new(text).unwrap());
        assert_eq!(of_filters(&filters).unwrap(), ["a", "a.>", "a.b", ">"]);
    }

    #[test]
    fn a_pattern_takes_what_nats_takes_for_it() {
        assert!(takes("a.>", "a.b.c"));
        assert!(!takes("a.>", "a"));
        assert!(takes("a.*.c", "a.b.c"));
        assert!(!takes("a.*", "a.b.c"));
        assert!(!takes("a.b", "a.b.c"));
        assert!(!takes("a.b.*", "a.b"));
    }

    #[test]
    fn streams_and_consumers_have_names_nats_allows() {
        assert_eq!(stream_name("edgex.>"), "edgex");
        assert_eq!(stream_name("edgex.events.*"), "edgex_events");
        assert_eq!(consumer_name("app.http export"), "app_http_export");
    }
}
