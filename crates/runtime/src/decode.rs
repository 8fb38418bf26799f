//! From the bytes of a delivery to what the first function receives, and the context values that come with it.

use std::sync::Arc;

use bytes::Bytes;
use edgehold_contracts::{ContentType, Metric, decode_event};
use edgehold_core::{Context, Data, TargetType};

/// Decodes a payload into what the target type asks for.
///
/// The error names what is wrong with the payload, for the log and the error collection.
pub(crate) fn decode(target: TargetType, payload: &Bytes, content_type: &str) -> Result<Data, String> {
    match target {
        TargetType::Event => decode_event(payload, content_type)
            .map(|mut event| {
                // As EdgeX 3.1 and 4.0.1: keys that no Event has are not passed on.
                event.extensions.clear();
                Data::Event(Arc::new(event))
            })
            .map_err(|e| e.to_string()),
        TargetType::Metric => {
            let content_type = ContentType::parse(content_type).map_err(|e| e.to_string())?;
            Metric::decode(payload, content_type)
                .map(|metric| Data::Metric(Arc::new(metric)))
                .map_err(|e| e.to_string())
        }
        TargetType::Raw => Ok(Data::Bytes(payload.clone())),
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
