//! The same metrics as Prometheus reads them: its text format, version 0.0.4.
//!
//! | here | there |
//! | --- | --- |
//! | `MessagesReceived`, a counter | `edgehold_messages_received_total` |
//! | `StoreForwardQueueSize`, which EdgeX counts though it also shrinks, and every gauge | `edgehold_store_forward_queue_size` |
//! | `PipelineMessageProcessingTime`, a timer | `edgehold_pipeline_message_processing_time_seconds_sum` and `_count` |
//! | `HttpExportSize`, a histogram | `edgehold_http_export_size_sum` and `_count` |
//! | the tag `address/topic` | the label `address_topic` |
//!
//! All metrics are there, whatever `Writable.Telemetry` says. How many values a label has is bounded where the metric is
//! counted.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::Arc,
};

use edgehold_core::ServiceKey;

use crate::{Reading, Selection, Series, Source, names};

/// Everything the sources have, as one text.
pub async fn exposition(service_key: &ServiceKey, sources: &[Arc<dyn Source>]) -> String {
    let mut all = Vec::new();
    for source in sources {
        all.extend(source.read(Selection::everything()).await);
    }
    text(service_key.as_str(), &all)
}

fn text(service: &str, all: &[Series]) -> String {
    let mut families: BTreeMap<String, (&'static str, Vec<&Series>)> = BTreeMap::new();
    for series in all {
        let (suffix, kind) = kind(series);
        let name = format!("edgehold_{}{suffix}", snake_case(&series.family));
        let family = families.entry(name).or_insert((kind, Vec::new()));
        // A name has one type; of two metrics of a developer's own that come to the same name the first has it.
        if family.0 == kind {
            family.1.push(series);
        }
    }
    let mut text = String::new();
    for (name, (kind, members)) in &families {
        let written = family(&mut text, service, name, kind, members);
        written.expect("writing to memory does not fail");
    }
    text
}

fn family(text: &mut String, service: &str, name: &str, kind: &str, members: &[&Series]) -> fmt::Result {
    writeln!(text, "# TYPE {name} {kind}")?;
    for series in members {
        let labels = Labels {
            service,
            tags: &series.tags,
        };
        match series.reading {
            Reading::Counter(value) | Reading::Gauge(value) => writeln!(text, "{name}{labels} {value}")?,
            Reading::FloatGauge(value) => writeln!(text, "{name}{labels} {}", number(value))?,
            Reading::Timer(summary) => {
                let seconds = summary.sum as f64 / 1e9;
                writeln!(text, "{name}_sum{labels} {seconds}")?;
                writeln!(text, "{name}_count{labels} {}", summary.count)?;
            }
            Reading::Histogram(summary) => {
                writeln!(text, "{name}_sum{labels} {}", summary.sum)?;
                writeln!(text, "{name}_count{labels} {}", summary.count)?;
            }
        }
    }
    Ok(())
}

/// What stands behind the name, and the type.
fn kind(series: &Series) -> (&'static str, &'static str) {
    match series.reading {
        Reading::Counter(_) if series.family == names::STORE_FORWARD_QUEUE_SIZE => ("", "gauge"),
        Reading::Counter(_) => ("_total", "counter"),
        Reading::Gauge(_) | Reading::FloatGauge(_) => ("", "gauge"),
        Reading::Timer(_) => ("_seconds", "summary"),
        Reading::Histogram(_) => ("", "summary"),
    }
}

/// Numbers that are none have names of their own.
fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

/// `MessagesReceived` as `messages_received`; whatever a name cannot hold is `_`.
fn snake_case(name: &str) -> String {
    let mut text = String::new();
    let mut before_is_lower = false;
    for char in name.chars() {
        if char.is_ascii_uppercase() && before_is_lower {
            text.push('_');
        }
        before_is_lower = char.is_ascii_lowercase() || char.is_ascii_digit();
        text.push(if char.is_ascii_alphanumeric() {
            char.to_ascii_lowercase()
        } else {
            '_'
        });
    }
    text
}

struct Labels<'a> {
    service: &'a str,
    tags: &'a [(String, String)],
}

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{service=\"{}\"", Escaped(self.service))?;
        let mut taken = vec!["service".to_owned()];
        for (name, value) in self.tags {
            let mut name = snake_case(name);
            if name.starts_with(|first: char| first.is_ascii_digit()) {
                name.insert(0, '_');
            }
            // No label twice: the whole text would be refused.
            if !taken.contains(&name) {
                write!(f, ",{name}=\"{}\"", Escaped(value))?;
                taken.push(name);
            }
        }
        f.write_char('}')
    }
}

/// The value of a label.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            char => f.write_char(char),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Summary;

    #[test]
    fn every_kind_has_its_form() {
        let summary = Summary {
            count: 2,
            sum: 3_500_000_000,
            ..Summary::default()
        };
        let all = [
            Series::of("HttpExportErrors", "url", "http://h/\"a\\\n", Reading::Counter(3)),
            Series::of("HttpExportErrors", "url", "http://h/b", Reading::Counter(0)),
            Series::of(
                "MqttExportSize",
                "address/topic",
                "tcp://h/t",
                Reading::Histogram(summary),
            ),
            Series::of(
                "PipelineMessageProcessingTime",
                "pipeline",
                "p",
                Reading::Timer(summary),
            ),
            Series::new("StoreForwardQueueSize", Reading::Counter(7)),
            Series {
                tags: vec![
                    ("service".to_owned(), "x".to_owned()),
                    ("7th".to_owned(), "y".to_owned()),
                ],
                ..Series::new("Level of tank-1", Reading::FloatGauge(f64::INFINITY))
            },
            // Another type by a name that is taken.
            Series::new("StoreForwardQueueSize", Reading::Histogram(summary)),
        ];
        assert_eq!(
            text("app-test", &all),
            r#"# TYPE edgehold_http_export_errors_total counter
edgehold_http_export_errors_total{service="app-test",url="http://h/\"a\\\n"} 3
edgehold_http_export_errors_total{service="app-test",url="http://h/b"} 0
# TYPE edgehold_level_of_tank_1 gauge
edgehold_level_of_tank_1{service="app-test",_7th="y"} +Inf
# TYPE edgehold_mqtt_export_size summary
edgehold_mqtt_export_size_sum{service="app-test",address_topic="tcp://h/t"} 3500000000
edgehold_mqtt_export_size_count{service="app-test",address_topic="tcp://h/t"} 2
# TYPE edgehold_pipeline_message_processing_time_seconds summary
edgehold_pipeline_message_processing_time_seconds_sum{service="app-test",pipeline="p"} 3.5
edgehold_pipeline_message_processing_time_seconds_count{service="app-test",pipeline="p"} 2
# TYPE edgehold_store_forward_queue_size gauge
edgehold_store_forward_queue_size{service="app-test"} 7
"#
        );
    }
}
