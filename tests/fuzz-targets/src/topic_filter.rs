//! Topic filters: every text is one or is refused, and what one matches a regular expression made of it matches.

use edgehold_core::TopicFilter;
use regex::Regex;

/// A filter, the end of a line, and a topic.
pub fn topic_filter(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let (text, topic) = text.split_once('\n').unwrap_or((text, ""));
    let filter = match TopicFilter::try_new(text) {
        Ok(filter) => filter,
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            assert!(text.is_empty() || text.contains(['+', '#', '\0']) || text.len() > 65_535);
            return;
        }
    };
    assert_eq!(filter.as_str(), text);
    assert!(TopicFilter::all().matches(topic));
    if !text.contains(['+', '#']) {
        assert_eq!(filter.matches(topic), text == topic);
    }
    let Ok(model) = Regex::new(&expression(text)) else {
        // Too long for the model.
        assert!(text.len() > 1000);
        return;
    };
    assert_eq!(filter.matches(topic), model.is_match(topic), "{text} on {topic}");
}

fn expression(filter: &str) -> String {
    let (levels, below) = match filter.strip_suffix('#') {
        // Everything, or the level above and all below it.
        Some("") => return String::new(),
        Some(above) => (above.strip_suffix('/').expect("a level ends here"), "(/.*)?"),
        None => (filter, ""),
    };
    let levels: Vec<String> = levels
        .split('/')
        .map(|level| match level {
            "+" => "[^/]*".to_owned(),
            text => regex::escape(text),
        })
        .collect();
    format!("(?s)^{}{below}$", levels.join("/"))
}
