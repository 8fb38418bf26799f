//! Line protocol: whatever a metric holds, its line is read back as what it was, and nothing else.

use edgehold_contracts::{ContentType, Metric, MetricValue};
use edgehold_core::{Data, Flow};
use serde_json::Value;

use crate::functions::{call, function};

/// A metric as JSON, or as CBOR.
pub fn line_protocol(input: &[u8]) {
    let content_type = match input.first() {
        Some(b'{') => ContentType::Json,
        _ => ContentType::Cbor,
    };
    let Ok(metric) = Metric::decode(input, content_type) else {
        return;
    };
    let to_line = function("ToLineProtocol", &[("Tags", "")]).expect("no tags are good tags");
    let line = match call(&*to_line, Data::Metric(metric.clone().into())) {
        Ok(Flow::Continue(Data::Text(line))) => line,
        Ok(other) => panic!("a metric became {other:?}"),
        Err(_) => {
            let has_a_field = |(name, value): (String, &MetricValue)| {
                !name.is_empty() && *value != MetricValue::Other(Value::Null)
            };
            let mut fields = metric
                .fields
                .iter()
                .map(|field| (kept(&field.name), &field.value));
            assert!(kept(&metric.name).is_empty() || !fields.any(has_a_field));
            return;
        }
    };

    let mut reader = Reader { rest: &line };
    assert_eq!(
        reader.name(&[' ', ','], &[' ', ',']),
        kept(&metric.name),
        "{line}"
    );
    for tag in &metric.tags {
        let (name, value) = (kept(&tag.name), kept(&tag.value));
        if !name.is_empty() && !value.is_empty() {
            reader.take(',');
            assert_eq!(reader.name(&['='], KEY), name, "{line}");
            reader.take('=');
            assert_eq!(reader.name(&[' ', ','], KEY), value, "{line}");
        }
    }
    let mut separator = ' ';
    for field in &metric.fields {
        let name = kept(&field.name);
        if name.is_empty() || field.value == MetricValue::Other(Value::Null) {
            continue;
        }
        reader.take(separator);
        separator = ',';
        assert_eq!(reader.name(&['='], KEY), name, "{line}");
        reader.take('=');
        match &field.value {
            MetricValue::Number(number) => reader.number(number.as_f64()),
            MetricValue::Signed(integer) => reader.number(Some(*integer as f64)),
            MetricValue::Unsigned(integer) => reader.number(Some(*integer as f64)),
            MetricValue::Other(Value::String(text)) => assert_eq!(reader.text(), *text, "{line}"),
            MetricValue::Other(Value::Bool(value)) => {
                assert_eq!(reader.name(&[' ', ','], &[]), value.to_string());
            }
            MetricValue::Other(other) => {
                assert_eq!(
                    serde_json::from_str::<Value>(&reader.text()).expect("it is JSON"),
                    *other
                );
            }
        }
    }
    assert_eq!(reader.rest, format!(" {}\n", metric.timestamp), "{line}");
}

/// What of a name can be written: the ends of lines as letters, no backslash at its end.
fn kept(name: &str) -> String {
    name.trim_end_matches('\\')
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

/// What is escaped in names and values of tags, and in names of fields.
const KEY: &[char] = &[' ', ',', '='];

/// Reads as InfluxDB does.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Up to the first of `ends` without a backslash before it, which those that can be escaped lose.
    fn name(&mut self, ends: &[char], escapable: &[char]) -> String {
        let mut name = String::new();
        let mut escaped = false;
        for (at, character) in self.rest.char_indices() {
            if !escaped && ends.contains(&character) {
                self.rest = &self.rest[at..];
                return name;
            }
            if escaped && escapable.contains(&character) {
                name.pop();
            }
            name.push(character);
            escaped = character == '\\';
        }
        panic!("a name without an end: {}", self.rest);
    }

    fn take(&mut self, separator: char) {
        self.rest = self.rest.strip_prefix(separator).expect("a separator follows");
    }

    fn number(&mut self, expected: Option<f64>) {
        let text = self.name(&[' ', ','], &[]);
        assert_eq!(text.parse().ok(), expected, "{text}");
    }

    fn text(&mut self) -> String {
        self.take('"');
        let mut text = String::new();
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return text;
                }
                '\\' => text.push(characters.next().expect("something is escaped").1),
                other => text.push(other),
            }
        }
        panic!("a text without an end: {}", self.rest);
    }
}
