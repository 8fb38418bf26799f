//! From `Trigger.SubscribeTopics` to topic filters, and from `Trigger.PublishTopic` to the topic of responses.

use edgehold_core::{TopicFilter, TriggerError};

/// `MessageBus.BaseTopicPrefix` when it is empty.
const DEFAULT_BASE_PREFIX: &str = "edgex";

/// The filters of the EdgeX message bus trigger: `subscribe_topics` is a comma list, each entry trimmed, blanks
/// dropped, with `base_prefix` and a slash in front (an empty prefix is `edgex`). What another entry covers is left out:
/// listing a topic twice subscribes once, and so does `events/#, events/device/#`. The original runs such a message twice.
/// In a shared subscription (`$share/<group>/<filter>`, MQTT) the prefix goes before the filter.
///
/// ```
/// # use edgehold_ingest::subscribe_filters;
/// let filters = subscribe_filters("edgex", "events/device/#, events/core/#,")?;
/// assert_eq!(filters[1].as_str(), "edgex/events/core/#");
/// # Ok::<(), edgehold_core::TriggerError>(())
/// ```
///
/// # Errors
/// [`TriggerError::Configuration`] when nothing remains, or an entry is not a topic filter. (EdgeX: `Trigger`,
/// `SubscribeTopics`.)
pub fn subscribe_filters(
    base_prefix: &str,
    subscribe_topics: &str,
) -> Result<Vec<TopicFilter>, TriggerError> {
    let base_prefix = prefix_or_default(base_prefix);
    filters(subscribe_topics, |topic| {
        let shared = topic
            .strip_prefix("$share/")
            .and_then(|rest| rest.split_once('/'));
        match shared {
            Some((group, topic)) => format!("$share/{group}/{base_prefix}/{topic}"),
            None => format!("{base_prefix}/{topic}"),
        }
    })
}

/// The filters of the external MQTT trigger: the same list without any prefix, so that shared subscriptions
/// (`$share/<group>/<filter>`) can stand in it.
///
/// # Errors
/// As [`subscribe_filters`].
pub fn external_filters(subscribe_topics: &str) -> Result<Vec<TopicFilter>, TriggerError> {
    filters(subscribe_topics, str::to_owned)
}

fn filters(
    subscribe_topics: &str,
    filter_of: impl Fn(&str) -> String,
) -> Result<Vec<TopicFilter>, TriggerError> {
    let mut filters = Vec::new();
    for topic in subscribe_topics
        .split(',')
        .map(str::trim)
        .filter(|topic| !topic.is_empty())
    {
        let filter = TopicFilter::try_new(&filter_of(topic))
            .map_err(|error| TriggerError::Configuration(format!("SubscribeTopics: {error}")))?;
        // A broker may send a message once for each filter that matches it (MQTT 3.1.1 §3.3.5).
        if !filters.iter().any(|wider: &TopicFilter| wider.covers(&filter)) {
            filters.retain(|narrower| !filter.covers(narrower));
            filters.push(filter);
        }
    }
    if filters.is_empty() {
        return Err(TriggerError::Configuration(
            "SubscribeTopics lists no topic".to_owned(),
        ));
    }
    Ok(filters)
}

/// Where the EdgeX message bus trigger publishes responses: `publish_topic` with `base_prefix` and a slash in front (an
/// empty prefix is `edgex`), placeholders still in it. None when `publish_topic` is blank: then nothing is published,
/// where EdgeX tries to publish to the topic `""`. (EdgeX: `Trigger`, `PublishTopic`.)
pub fn response_topic(base_prefix: &str, publish_topic: &str) -> Option<String> {
    let base_prefix = prefix_or_default(base_prefix);
    Some(publish_topic.trim())
        .filter(|topic| !topic.is_empty())
        .map(|topic| format!("{base_prefix}/{topic}"))
}

fn prefix_or_default(base_prefix: &str) -> &str {
    match base_prefix.trim() {
        "" => DEFAULT_BASE_PREFIX,
        prefix => prefix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_topics_run_a_message_once() {
        let filters = subscribe_filters("", "events/device/#, events/#, events/core/#, other/+").unwrap();
        let texts: Vec<_> = filters.iter().map(TopicFilter::as_str).collect();
        assert_eq!(texts, ["edgex/events/#", "edgex/other/+"]);
    }

    #[test]
    fn instances_share_a_topic_of_the_bus() {
        let filters = subscribe_filters("edgex", "$share/app/events/#, $share/odd").unwrap();
        let texts: Vec<_> = filters.iter().map(TopicFilter::as_str).collect();
        assert_eq!(texts, ["$share/app/edgex/events/#", "edgex/$share/odd"]);
    }

    #[test]
    fn the_topics_of_an_external_broker_get_no_prefix_and_may_be_shared() {
        let filters = external_filters(" a/# ,,$share/group/b/+, a/#").unwrap();
        let texts: Vec<_> = filters.iter().map(TopicFilter::as_str).collect();
        assert_eq!(texts, ["a/#", "$share/group/b/+"]);
        assert!(external_filters(" , ").is_err());
        assert!(external_filters("a/#/b").is_err());
    }

    #[test]
    fn a_response_topic_gets_the_prefix_and_a_blank_one_is_none() {
        assert_eq!(
            response_topic("factory", "out/{devicename}").unwrap(),
            "factory/out/{devicename}"
        );
        assert_eq!(response_topic("", "out").unwrap(), "edgex/out");
        assert_eq!(response_topic("edgex", " "), None);
    }

    #[track_caller]
    fn texts(base_prefix: &str, list: &str) -> Vec<String> {
        let filters = subscribe_filters(base_prefix, list).expect("the list is good");
        filters.iter().map(|filter| filter.as_str().to_owned()).collect()
    }

    #[test]
    fn every_topic_of_the_list_gets_the_prefix() {
        assert_eq!(
            texts("factory", " events/device/# ,, events/core/#,events/device/#"),
            ["factory/events/device/#", "factory/events/core/#"]
        );
        assert_eq!(texts("", "#"), ["edgex/#"]);
    }

    #[test]
    fn a_list_without_topics_and_a_bad_topic_are_refused_by_name() {
        for list in ["", " , ,"] {
            let error = subscribe_filters("edgex", list).unwrap_err();
            assert!(
                error.to_string().contains("SubscribeTopics lists no topic"),
                "{error}"
            );
        }
        let error = subscribe_filters("edgex", "a, b/#/c").unwrap_err();
        assert!(error.to_string().contains("edgex/b/#/c"), "{error}");
    }
}
