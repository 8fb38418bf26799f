//! What is left of an event that was written by a generation and is read again.
//!
//! A model of the losses alone: which keys a generation does not write, and what a codec cannot tell apart. Whatever else
//! differs is a mistake.

use edgehold_contracts::json::{self, Sorted};
use edgehold_contracts::{ContentType, Event, Generation, Reading, ReadingValue, Tags, ValueType};
use serde_json::{Number, Value};

/// Written in every form and read again, an event is what the model says.
pub(crate) fn survives(event: &Event) {
    for generation in [Generation::V3, Generation::V4] {
        let written = event.to_json(generation);
        let read = Event::decode(&written, ContentType::Json).expect("an event reads the JSON it writes");
        assert_eq!(
            read,
            remains(event, generation, ContentType::Json),
            "{generation} JSON"
        );
        assert_eq!(read.to_json(generation), written, "{generation} JSON");

        let written = event.to_cbor(generation);
        let read = Event::decode(&written, ContentType::Cbor).expect("an event reads the CBOR it writes");
        assert_eq!(
            read,
            remains(event, generation, ContentType::Cbor),
            "{generation} CBOR"
        );
        assert_eq!(read.to_cbor(generation), written, "{generation} CBOR");
    }
}

/// An event after it was written in the form of a generation and read again.
pub(crate) fn remains(event: &Event, generation: Generation, codec: ContentType) -> Event {
    let tags = |tags: &Tags| -> Tags {
        tags.iter()
            .map(|(name, value)| (name.clone(), as_read(value, codec)))
            .collect()
    };
    let reading = |reading: &Reading| Reading {
        tags: tags(&reading.tags),
        value: remaining_value(reading, generation, codec),
        ..reading.clone()
    };
    Event {
        readings: event.readings.iter().map(reading).collect(),
        tags: tags(&event.tags),
        extensions: match generation {
            Generation::V3 => Tags::new(),
            Generation::V4 => tags(&event.extensions),
        },
        ..event.clone()
    }
}

fn remaining_value(reading: &Reading, generation: Generation, codec: ContentType) -> ReadingValue {
    let has_text = !matches!(
        ValueType::parse(&reading.value_type),
        Ok(ValueType::Binary | ValueType::Object | ValueType::ObjectArray)
    );
    match &reading.value {
        ReadingValue::Numeric(value) if generation == Generation::V3 => ReadingValue::Simple(text_of(value)),
        ReadingValue::Null if generation == Generation::V3 && has_text => ReadingValue::Simple(String::new()),
        ReadingValue::Numeric(value) => ReadingValue::Numeric(as_read(value, codec)),
        ReadingValue::Object(value) => ReadingValue::Object(as_read(value, codec)),
        // Without bytes there is no key, and without the key no value.
        ReadingValue::Binary { value, .. } if value.is_empty() => ReadingValue::Null,
        other => other.clone(),
    }
}

/// EdgeX's text of numbers and of arrays of them.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let texts: Vec<_> = items.iter().map(text_of).collect();
            format!("[{}]", texts.join(", "))
        }
        other => {
            let text = json::to_vec(&Sorted(other)).expect("a JSON value has a JSON form");
            String::from_utf8(text).expect("JSON is UTF-8")
        }
    }
}

/// In JSON a whole float is written like an integer, as Go does.
fn as_read(value: &Value, codec: ContentType) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| as_read(item, codec)).collect(),
        Value::Object(object) => object
            .iter()
            .map(|(key, value)| (key.clone(), as_read(value, codec)))
            .collect(),
        Value::Number(number) if number.is_f64() && codec == ContentType::Json => {
            whole(number).map_or_else(|| value.clone(), Value::Number)
        }
        other => other.clone(),
    }
}

fn whole(number: &Number) -> Option<Number> {
    let text = number.as_f64()?.to_string();
    // There is no negative zero among the integers.
    if text == "-0" {
        return None;
    }
    let unsigned = text.parse::<u64>().map(Number::from);
    unsigned.or_else(|_| text.parse::<i64>().map(Number::from)).ok()
}
