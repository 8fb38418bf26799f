//! From the bytes of a delivery to what the first function receives, and the context values that come with it.

use std::sync::Arc;

use bytes::Bytes;
use edgehold_contracts::{ContentType, Generation, Metric, base64, decode_event};
use edgehold_core::{Context, Data, PayloadForm, TargetType};

/// Decodes a payload into what the target type asks for.
///
/// The error names what is wrong with the payload, for the log and the error collection.
pub(crate) fn decode(
    target: TargetType,
    generation: Generation,
    payload: &Bytes,
    form: PayloadForm,
    content_type: &str,
) -> Result<Data, String> {
    let takes_text = target == TargetType::Raw && generation == Generation::V4;
    if form == PayloadForm::Text && !takes_text {
        return Err("the payload is a text that is not base64".to_owned());
    }
    match target {
        TargetType::Event => decode_event(payload, content_type)
            .map(|mut event| {
                // As EdgeX 3.1 and 4.0.1: keys that no Event has are not passed on.
                event.extensions.clear();
                Data::Event(Arc::new(event))
            })
            .map_err(|e| e.edgex_text(generation)),
        TargetType::Metric => {
            let content_type = ContentType::parse(content_type).map_err(|e| e.to_string())?;
            Metric::decode(payload, content_type)
                .map(|metric| Data::Metric(Arc::new(metric)))
                .map_err(|e| e.to_string())
        }
        TargetType::Raw => raw(generation, payload, form),
    }
}

/// EdgeX 3 hands on the bytes inside the envelope, EdgeX 4 what the envelope holds (contract: messages §5.2).
fn raw(generation: Generation, payload: &Bytes, form: PayloadForm) -> Result<Data, String> {
    match (generation, form) {
        (Generation::V4, PayloadForm::Base64) => Ok(Data::Text(base64::encode(payload))),
        (Generation::V4, PayloadForm::Json) => serde_json::from_slice(payload)
            .map(Data::Json)
            .map_err(|e| e.to_string()),
        (_, PayloadForm::Text) => String::from_utf8(payload.to_vec())
            .map(Data::Text)
            .map_err(|e| e.to_string()),
        _ => Ok(Data::Bytes(payload.clone())),
    }
}

/// Notes where a delivery came from and, for an event, what it is about.
pub(crate) fn describe(ctx: &mut Context, data: &Data, topic: &str, content_type: &str) {
    ctx.set_input_content_type(content_type);
    ctx.add_value(Context::RECEIVED_TOPIC, topic);
    if let Data::Event(event) = data {
        ctx.add_value(Context::DEVICE_NAME, event.device_name.as_str());
        ctx.add_value(Context::PROFILE_NAME, event.profile_name.as_str());
        ctx.add_value(Context::SOURCE_NAME, event.source_name.as_str());
    }
}
