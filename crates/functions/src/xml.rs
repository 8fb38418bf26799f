//! The XML of an event, as Go's `encoding/xml` writes EdgeX's types: no declaration, no namespaces, no white space.
//!
//! ```text
//! Event:     ApiVersion Id DeviceName ProfileName SourceName Origin  Readings*  Tags?
//! Readings:  Id Origin DeviceName ResourceName ProfileName ValueType Units  Tags?
//!            BinaryValue MediaType Value  NumericValue*  ObjectValue*
//! Tags:      one element for each tag, named by its key
//! ```
//!
//! Empty texts are elements with nothing in them; tags that are empty are left out. A binary value is its bytes read as
//! UTF-8, not base64. A list is one element for each item. Tags are sorted by their keys, where Go's order is random.
//! Numbers print as Go's floating point does; only integers beyond 2^53, which it would change, stay as they are.

use std::borrow::Cow;

use edgehold_contracts::{Event, Reading, ReadingValue, Tags, number};
use serde_json::{Number, Value};

/// Something in an event that has no XML form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoXmlForm {
    /// Go: `xml: unsupported type: map[string]interface {}`.
    #[error("the object value of a reading is a JSON object")]
    Object,
    /// Go: `xml: start tag with no name`.
    #[error("a tag has no name")]
    NamelessTag,
}

/// The XML of an event; one line.
///
/// # Errors
/// [`NoXmlForm`].
pub(crate) fn to_xml(event: &Event) -> Result<String, NoXmlForm> {
    let mut xml = Xml(String::with_capacity(512 * (1 + event.readings.len())));
    xml.open("Event");
    xml.text("ApiVersion", &event.api_version);
    xml.text("Id", &event.id);
    xml.text("DeviceName", &event.device_name);
    xml.text("ProfileName", &event.profile_name);
    xml.text("SourceName", &event.source_name);
    xml.text("Origin", &event.origin.to_string());
    for reading in &event.readings {
        xml.reading(reading)?;
    }
    xml.tags(&event.tags)?;
    xml.close("Event");
    Ok(xml.0)
}

struct Xml(String);

impl Xml {
    fn reading(&mut self, reading: &Reading) -> Result<(), NoXmlForm> {
        self.open("Readings");
        self.text("Id", &reading.id);
        self.text("Origin", &reading.origin.to_string());
        self.text("DeviceName", &reading.device_name);
        self.text("ResourceName", &reading.resource_name);
        self.text("ProfileName", &reading.profile_name);
        self.text("ValueType", &reading.value_type);
        self.text("Units", &reading.units);
        self.tags(&reading.tags)?;
        let (bytes, media_type): (&[u8], &str) = match &reading.value {
            ReadingValue::Binary { value, media_type } => (value, media_type),
            _ => (&[], ""),
        };
        self.element("BinaryValue", |xml| xml.escaped_bytes(bytes));
        self.text("MediaType", media_type);
        match &reading.value {
            ReadingValue::Simple(text) => self.text("Value", text),
            ReadingValue::Numeric(value) => {
                self.text("Value", &printed(value));
                self.values("NumericValue", value)?;
            }
            ReadingValue::Object(value) => {
                self.text("Value", "");
                self.values("ObjectValue", value)?;
            }
            ReadingValue::Binary { .. } | ReadingValue::Null => self.text("Value", ""),
        }
        self.close("Readings");
        Ok(())
    }

    fn tags(&mut self, tags: &Tags) -> Result<(), NoXmlForm> {
        if tags.is_empty() {
            return Ok(());
        }
        self.open("Tags");
        for (key, value) in tags {
            if key.is_empty() {
                return Err(NoXmlForm::NamelessTag);
            }
            // What is neither text, number nor boolean leaves an empty element.
            self.text(key, &scalar(value).unwrap_or_default());
        }
        self.close("Tags");
        Ok(())
    }

    fn values(&mut self, name: &str, value: &Value) -> Result<(), NoXmlForm> {
        match value {
            Value::Object(_) => return Err(NoXmlForm::Object),
            Value::Array(items) => {
                for item in items {
                    self.values(name, item)?;
                }
            }
            value => {
                if let Some(text) = scalar(value) {
                    self.text(name, &text);
                }
            }
        }
        Ok(())
    }

    fn text(&mut self, name: &str, text: &str) {
        self.element(name, |xml| xml.escaped(text));
    }

    fn element(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.open(name);
        content(self);
        self.close(name);
    }

    fn open(&mut self, name: &str) {
        self.0.extend(["<", name, ">"]);
    }

    fn close(&mut self, name: &str) {
        self.0.extend(["</", name, ">"]);
    }

    /// Like Go, each byte that is not part of a character becomes a replacement character of its own.
    fn escaped_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.utf8_chunks() {
            self.escaped(chunk.valid());
            self.0
                .extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
        }
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '"' => self.0.push_str("&#34;"),
                '\'' => self.0.push_str("&#39;"),
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '\t' => self.0.push_str("&#x9;"),
                '\n' => self.0.push_str("&#xA;"),
                '\r' => self.0.push_str("&#xD;"),
                // No XML document may hold these.
                '\0'..'\u{20}' | '\u{fffe}' | '\u{ffff}' => self.0.push(char::REPLACEMENT_CHARACTER),
                c => self.0.push(c),
            }
        }
    }
}

fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        Value::Number(value) => Some(Cow::Owned(number_text(value))),
        Value::String(value) => Some(Cow::Borrowed(value)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn number_text(value: &Number) -> String {
    const EXACT_IN_A_FLOAT: u64 = 1 << 53;
    let size = value.as_u64().or_else(|| value.as_i64().map(i64::unsigned_abs));
    match value.as_f64() {
        Some(float) if size.is_none_or(|size| size <= EXACT_IN_A_FLOAT) => number::general(float),
        _ => value.to_string(),
    }
}

/// As Go prints a value by `%v`: `21.5`, `[1 2]`.
fn printed(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(" ")),
        value => scalar(value).unwrap_or_default().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(value: ReadingValue) -> Event {
        let reading = Reading {
            value,
            ..Reading::default()
        };
        Event {
            readings: vec![reading],
            ..Event::default()
        }
    }

    /// What stands between `<MediaType>` and the end of the only reading.
    #[track_caller]
    fn value_part(value: ReadingValue) -> String {
        let xml = to_xml(&reading(value)).unwrap();
        let (_, rest) = xml.split_once("</MediaType>").unwrap();
        rest.strip_suffix("</Readings></Event>").unwrap().to_owned()
    }

    #[test]
    fn an_event_without_anything_has_all_its_elements() {
        assert_eq!(
            to_xml(&Event::default()).unwrap(),
            "<Event><ApiVersion></ApiVersion><Id></Id><DeviceName></DeviceName><ProfileName></ProfileName>\
             <SourceName></SourceName><Origin>0</Origin></Event>"
        );
    }

    #[test]
    fn a_null_reading_has_an_empty_value() {
        assert_eq!(value_part(ReadingValue::Null), "<Value></Value>");
    }

    #[test]
    fn numeric_values_stand_beside_their_text() {
        assert_eq!(
            value_part(ReadingValue::Numeric(json!(1_234_567))),
            "<Value>1.234567e+06</Value><NumericValue>1.234567e+06</NumericValue>"
        );
        assert_eq!(
            value_part(ReadingValue::Numeric(json!([1, 2.5]))),
            "<Value>[1 2.5]</Value><NumericValue>1</NumericValue><NumericValue>2.5</NumericValue>"
        );
    }

    #[test]
    fn object_values_are_written_unless_they_are_json_objects() {
        assert_eq!(
            value_part(ReadingValue::Object(json!(["a", [true, null]]))),
            "<Value></Value><ObjectValue>a</ObjectValue><ObjectValue>true</ObjectValue>"
        );
        let error = to_xml(&reading(ReadingValue::Object(json!([{"a": 1}])))).unwrap_err();
        assert_eq!(error, NoXmlForm::Object);
    }

    #[test]
    fn a_tag_needs_a_name() {
        let event = Event {
            tags: Tags::from([(String::new(), json!(1))]),
            ..Event::default()
        };
        assert_eq!(to_xml(&event), Err(NoXmlForm::NamelessTag));
    }

    #[test]
    fn integers_beyond_a_float_stay_exact() {
        assert_eq!(number_text(&9_007_199_254_740_993_i64.into()), "9007199254740993");
        assert_eq!(number_text(&12.into()), "12");
    }

    #[test]
    fn what_xml_cannot_hold_is_replaced() {
        let mut xml = Xml(String::new());
        xml.escaped("a\u{0}\u{fffe}b\r\n");
        xml.escaped_bytes(b"\xe4\xb8<\xff");
        assert_eq!(xml.0, "a\u{fffd}\u{fffd}b&#xD;&#xA;\u{fffd}\u{fffd}&lt;\u{fffd}");
    }
}
