//! What a function takes out of the data it is handed.

use std::sync::Arc;

use edgehold_contracts::{Event, Generation};
use edgehold_core::{Context, Data, Flow, FunctionError};
use serde::Deserialize;
use serde_json::Value;

/// The event a function works on.
///
/// # Errors
/// Permanent for any other data: an event wrapped for the bus and an event's JSON are no events, as in EdgeX.
pub(crate) fn event(function: &str, ctx: &Context, data: Data) -> Result<Arc<Event>, FunctionError> {
    match data {
        Data::Event(event) => Ok(event),
        other => Err(FunctionError::permanent(format!(
            "{function} in pipeline '{}' works on an event, not on data of kind '{}'",
            ctx.pipeline_id(),
            other.kind().as_str()
        ))),
    }
}

/// The event with those of its readings that pass, in order; the end when there are none. Nothing else about it changes,
/// and it is copied only to change it.
pub(crate) fn with_readings(mut event: Arc<Event>, passing: &[bool]) -> Flow {
    if !passing.contains(&true) {
        return Flow::Stop;
    }
    if passing.contains(&false) {
        let mut passes = passing.iter();
        let readings = &mut Arc::make_mut(&mut event).readings;
        readings.retain(|_| passes.next().copied().unwrap_or(true));
    }
    Flow::Continue(Data::Event(event))
}

/// The JSON of the data, which bytes and text have to begin with; what follows it is not looked at, as in EdgeX.
///
/// # Errors
/// What is wrong with the JSON.
pub(crate) fn json(data: &Data, generation: Generation) -> serde_json::Result<Value> {
    match data {
        Data::Json(value) => Ok(value.clone()),
        Data::Event(event) => serde_json::to_value(event.form(generation)),
        Data::AddEventRequest(request) => serde_json::to_value(request.form(generation)),
        Data::Metric(metric) => serde_json::to_value(&**metric),
        other => Value::deserialize(&mut serde_json::Deserializer::from_slice(
            &other.to_bytes(generation),
        )),
    }
}

/// Bytes as text. Like Go, each byte that is not part of a character becomes a replacement character of its own.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}
