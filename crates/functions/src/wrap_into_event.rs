//! `WrapIntoEvent`: any data as the only reading of a new event, in a request to add it.

use std::sync::Arc;

use bytes::Bytes;
use edgehold_contracts::{AddEventRequest, Event, Generation, Reading, ReadingValue, ValueType, base64};
use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};
use serde_json::Value;

use crate::{Sources, input, simple_value};

/// `WrapIntoEvent`; all names must be there and may be empty, `ValueType` is any but `ObjectArray`, any case, and
/// `MediaType` belongs to `Binary`, which needs it.
pub(crate) fn build(parameters: &Parameters, sources: Sources) -> Result<BuiltFunction, InvalidFunction> {
    let profile_name = parameters.required("ProfileName")?.to_owned();
    let device_name = parameters.required("DeviceName")?.to_owned();
    let resource_name = parameters.required("ResourceName")?.to_owned();
    let text = parameters.required("ValueType")?;
    let value_type = match ValueType::parse(text) {
        Ok(ValueType::ObjectArray) => {
            return Err(parameters.invalid(
                "ValueType",
                "'ObjectArray', which cannot be wrapped; use 'Object'",
            ));
        }
        Ok(value_type) => value_type,
        Err(_) => {
            return Err(parameters.invalid("ValueType", format!("'{text}', which is not a value type")));
        }
    };
    let media_type = match value_type {
        ValueType::Binary => parameters.required("MediaType")?,
        _ => "",
    };
    if value_type == ValueType::Binary && media_type.is_empty() {
        return Err(parameters.invalid(
            "MediaType",
            "empty, which a value of type 'Binary' does not allow",
        ));
    }
    let wrap = WrapIntoEvent {
        profile_name,
        device_name,
        resource_name,
        value_type,
        media_type: media_type.to_owned(),
        sources,
    };
    Ok(BuiltFunction::with_variant(wrap, value_type.as_str()))
}

/// Wraps the input and names the new event's profile, device and source in the context. The response loses its
/// content type: what follows is JSON.
struct WrapIntoEvent {
    profile_name: String,
    device_name: String,
    resource_name: String,
    value_type: ValueType,
    media_type: String,
    sources: Sources,
}

impl Transform for WrapIntoEvent {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let value = self.value(ctx, data)?;
        let request = self.request(value);
        ctx.set_response_content_type("");
        ctx.add_value(Context::PROFILE_NAME, &*self.profile_name);
        ctx.add_value(Context::DEVICE_NAME, &*self.device_name);
        ctx.add_value(Context::SOURCE_NAME, &*self.resource_name);
        Ok(Flow::Continue(Data::AddEventRequest(Arc::new(request))))
    }
}

impl WrapIntoEvent {
    /// The value of the reading.
    ///
    /// # Errors
    /// Permanent for a JSON null, which is no data, and for data that is not of the configured type.
    fn value(&self, ctx: &Context, data: Data) -> Result<ReadingValue, FunctionError> {
        let pipeline = ctx.pipeline_id();
        if data == Data::Json(Value::Null) {
            return Err(FunctionError::permanent(format!(
                "WrapIntoEvent in pipeline '{pipeline}' received no data"
            )));
        }
        let kind = data.kind();
        let generation = ctx.generation();
        let value = match self.value_type {
            ValueType::Binary => Some(ReadingValue::Binary {
                value: plain_bytes(&data, generation),
                media_type: self.media_type.clone(),
            }),
            ValueType::String => Some(ReadingValue::Simple(input::text(&plain_bytes(&data, generation)))),
            ValueType::Object => object(data, generation).map(ReadingValue::Object),
            simple => simple_value::text(simple, &data, generation).map(ReadingValue::Simple),
        };
        value.ok_or_else(|| {
            FunctionError::permanent(format!(
                "WrapIntoEvent in pipeline '{pipeline}' received data of kind '{}' that is not a value of type '{}'",
                kind.as_str(),
                self.value_type
            ))
        })
    }

    fn request(&self, value: ReadingValue) -> AddEventRequest {
        let Sources { uuid, now, .. } = self.sources;
        let mut event = Event::new(
            uuid(),
            &*self.profile_name,
            &*self.device_name,
            &*self.resource_name,
            now(),
        );
        let reading = Reading::new(
            uuid(),
            &event,
            &*self.resource_name,
            self.value_type,
            value,
            now(),
        );
        event.readings.push(reading);
        AddEventRequest::new(uuid(), event)
    }
}

/// The bytes an export would send, except that a JSON string is its text, without quotes.
fn plain_bytes(data: &Data, generation: Generation) -> Bytes {
    match data {
        Data::Json(Value::String(text)) => Bytes::copy_from_slice(text.as_bytes()),
        other => other.to_bytes(generation),
    }
}

/// The data as a JSON value: bytes are their base64, as in Go.
fn object(data: Data, generation: Generation) -> Option<Value> {
    const HAS_A_FORM: &str = "events and metrics are text, numbers and JSON values";
    Some(match data {
        Data::Json(value) => value,
        Data::Text(text) => Value::String(text),
        Data::Bytes(bytes) => Value::String(base64::encode(&bytes)),
        Data::Event(event) => serde_json::to_value(event.form(generation)).expect(HAS_A_FORM),
        Data::AddEventRequest(request) => serde_json::to_value(request.form(generation)).expect(HAS_A_FORM),
        Data::Metric(metric) => serde_json::to_value(&*metric).expect(HAS_A_FORM),
        _ => return None,
    })
}
