//! From `Trigger.SubscribeTopics` to topic filters.

use edgehold_core::{TopicFilter, TriggerError};

/// `MessageBus.BaseTopicPrefix` when it is empty.
const DEFAULT_BASE_PREFIX: &str = "edgex";

/// The filters of the EdgeX message bus trigger: `subscribe_topics` is a comma list, each entry trimmed, blanks
/// dropped, with `base_prefix` and a slash in front (an empty prefix is `edgex`). Listing a topic twice subscribes once.
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
    let base_prefix = match base_prefix.trim() {
        "" => DEFAULT_BASE_PREFIX,
        prefix => prefix,
    };
    let mut filters = Vec::new();
    for topic in subscribe_topics
        .split(',')
        .map(str::trim)
        .filter(|topic| !topic.is_empty())
    {
        let filter = TopicFilter::try_new(&format!("{base_prefix}/{topic}"))
            .map_err(|error| TriggerError::Configuration(format!("SubscribeTopics: {error}")))?;
        if !filters.contains(&filter) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
