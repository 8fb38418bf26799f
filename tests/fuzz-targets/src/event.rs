//! Events and requests in JSON: what is read, written and read again is the same, and integers are those of the text.

use edgehold_contracts::{
    AddEventRequest, ContentType, Event, EventError, Generation, ReadingValue, Tags, decode_event,
};
use serde_json::{Map, Value};

use crate::event_model::{remains, survives};

/// The JSON of an event, of a request with one, or neither.
pub fn event(data: &[u8]) {
    if let Ok(event) = Event::decode(data, ContentType::Json) {
        if let Ok(Value::Object(model)) = serde_json::from_slice(data) {
            is_exact(&event, &model);
        }
        survives(&event);
    }
    requests(data, ContentType::Json);
}

/// Requests and bare events through the door that pipelines use.
pub(crate) fn requests(data: &[u8], codec: ContentType) {
    let decoded = decode_event(data, codec.as_str());
    if let Ok(event) = &decoded {
        survives(event);
    }
    let Ok(request) = AddEventRequest::decode(data, codec) else {
        return;
    };
    assert_eq!(decoded.as_ref(), Ok(&request.event), "a request is read as such");
    let written = request.to_json(Generation::V4);
    match AddEventRequest::decode(&written, ContentType::Json) {
        Ok(read) => assert_eq!(
            read,
            AddEventRequest {
                event: remains(&request.event, Generation::V4, ContentType::Json),
                ..request
            }
        ),
        // Values are checked only where the value type has its own case, and reading a request corrects it.
        Err(EventError::ValueMismatch { .. }) => {}
        Err(error) => panic!("a request reads what it writes: {error}"),
    }
}

/// Against a reader that knows nothing of events.
fn is_exact(event: &Event, model: &Map<String, Value>) {
    if let Some(origin) = only(model, "origin") {
        assert_eq!(event.origin, origin.as_i64().unwrap_or_default());
    }
    tags_are_exact(&event.tags, model);
    for (name, value) in &event.extensions {
        assert_eq!(model.get(name), Some(value));
    }
    let Some(Value::Array(readings)) = only(model, "readings") else {
        return;
    };
    assert_eq!(event.readings.len(), readings.len());
    for (reading, model) in event.readings.iter().zip(readings) {
        let model = model.as_object().expect("a reading is an object");
        if let Some(origin) = only(model, "origin") {
            assert_eq!(reading.origin, origin.as_i64().unwrap_or_default());
        }
        tags_are_exact(&reading.tags, model);
        let (key, value) = match &reading.value {
            ReadingValue::Numeric(value) => ("value", value),
            ReadingValue::Object(value) => ("objectValue", value),
            _ => continue,
        };
        if let Some(model) = only(model, key) {
            assert_eq!(value, model);
        }
    }
}

fn tags_are_exact(tags: &Tags, model: &Map<String, Value>) {
    if let Some(Value::Object(model)) = only(model, "tags") {
        let tags: Map<String, Value> = tags.clone().into_iter().collect();
        assert_eq!(&tags, model);
    }
}

/// The value of a key, unless it is there in several cases: then the last one counts, and the model has lost the order.
fn only<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let mut fitting = object.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key));
    let (_, value) = fitting.next()?;
    fitting.next().is_none().then_some(value)
}
