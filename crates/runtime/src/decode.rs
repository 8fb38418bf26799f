//! From the bytes of a delivery to what the first function receives, and the context values that come with it.

use std::sync::Arc;

use bytes::Bytes;
use edgehold_contracts::{ContentType, Generation, Metric, base64, decode_event};
use edgehold_core::{Context, Data, PayloadForm, TargetType};
use serde_json::Value;

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

/// EdgeX 3 hands on the bytes inside the envelope, EdgeX 4 what the envelope holds (contract: messages §5.2): nothing at
/// all where that is null, which no run goes on with ([`is_nothing`]).
fn raw(generation: Generation, payload: &Bytes, form: PayloadForm) -> Result<Data, String> {
    match (generation, form) {
        (Generation::V4, PayloadForm::Base64) => Ok(Data::Text(base64::encode(payload))),
        (Generation::V4, PayloadForm::Json) if payload.is_empty() => Ok(Data::Json(Value::Null)),
        (Generation::V4, PayloadForm::Json) => serde_json::from_slice(payload)
            .map(Data::Json)
            .map_err(|e| e.to_string()),
        (_, PayloadForm::Text) => String::from_utf8(payload.to_vec())
            .map(Data::Text)
            .map_err(|e| e.to_string()),
        _ => Ok(Data::Bytes(payload.clone())),
    }
}

/// Whether this is what a message without a payload comes to: Go's nil.
pub(crate) fn is_nothing(data: &Data) -> bool {
    matches!(data, Data::Json(Value::Null))
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

#[cfg(test)]
mod tests {
    use edgehold_contracts::Event;
    use serde_json::json;

    use super::*;

    const EVENT: &str = r#"{"apiVersion":"v3","id":"0f0e0d0c-0000-4000-8000-000000000001","deviceName":"pump-1","profileName":"Pump","sourceName":"Level","origin":1700000000000000001,"readings":[{"id":"0f0e0d0c-0000-4000-8000-000000000002","origin":1700000000000000001,"deviceName":"pump-1","resourceName":"Level","profileName":"Pump","valueType":"Int64","value":"7"}]}"#;
    const METRIC: &str = r#"{"apiVersion":"v3","name":"EventsSent","fields":[{"name":"counter-count","value":7}],"timestamp":1700000000000000001}"#;

    fn decoded(target: TargetType, generation: Generation, payload: &str, form: PayloadForm) -> Data {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        decode(target, generation, &payload, form, "application/json").unwrap()
    }

    /// The rows of contract messages-and-functions §5.2.
    #[test]
    fn an_event_and_a_metric_come_out_of_every_form_alike() {
        for generation in [Generation::V3, Generation::V4] {
            for form in [PayloadForm::Bytes, PayloadForm::Base64, PayloadForm::Json] {
                let event = decoded(TargetType::Event, generation, EVENT, form);
                assert!(matches!(&event, Data::Event(event) if event.origin == 1_700_000_000_000_000_001));
                // Generation 4 of EdgeX does not read a metric in base64.
                let metric = decoded(TargetType::Metric, generation, METRIC, form);
                assert!(
                    matches!(&metric, Data::Metric(metric) if metric.timestamp == 1_700_000_000_000_000_001)
                );
            }
        }
    }

    #[test]
    fn an_event_and_a_metric_come_out_of_cbor() {
        let event = Event::decode(EVENT.as_bytes(), ContentType::Json).unwrap();
        let metric = Metric::decode(METRIC.as_bytes(), ContentType::Json).unwrap();
        for (target, cbor, wanted) in [
            (
                TargetType::Event,
                event.to_cbor(Generation::V4),
                Data::Event(Arc::new(event)),
            ),
            (
                TargetType::Metric,
                metric.to_cbor(),
                Data::Metric(Arc::new(metric)),
            ),
        ] {
            let data = decode(
                target,
                Generation::V4,
                &cbor.into(),
                PayloadForm::Base64,
                "application/cbor",
            );
            assert_eq!(
                data.unwrap().to_bytes(Generation::V4),
                wanted.to_bytes(Generation::V4)
            );
        }
    }

    #[test]
    fn raw_is_the_bytes_in_generation_3_and_what_the_envelope_holds_in_4() {
        let raw = |generation, form| decoded(TargetType::Raw, generation, r#"{"a":1}"#, form);
        let bytes = Data::Bytes(Bytes::from_static(br#"{"a":1}"#));
        for form in [PayloadForm::Bytes, PayloadForm::Base64, PayloadForm::Json] {
            assert_eq!(raw(Generation::V3, form), bytes);
        }
        assert_eq!(raw(Generation::V4, PayloadForm::Bytes), bytes);
        assert_eq!(
            raw(Generation::V4, PayloadForm::Base64),
            Data::Text("eyJhIjoxfQ==".to_owned())
        );
        assert_eq!(
            raw(Generation::V4, PayloadForm::Json),
            Data::Json(json!({"a": 1}))
        );
        assert_eq!(
            raw(Generation::V4, PayloadForm::Text),
            Data::Text(r#"{"a":1}"#.to_owned())
        );
    }

    #[test]
    fn no_payload_is_no_event_no_metric_and_no_bytes() {
        for generation in [Generation::V3, Generation::V4] {
            for target in [TargetType::Event, TargetType::Metric] {
                let nothing = decode(
                    target,
                    generation,
                    &Bytes::new(),
                    PayloadForm::Bytes,
                    "application/json",
                );
                assert!(nothing.is_err(), "{target:?}");
            }
            let raw = decoded(TargetType::Raw, generation, "", PayloadForm::Bytes);
            assert_eq!(raw, Data::Bytes(Bytes::new()));
        }
        let null = |generation| decoded(TargetType::Raw, generation, "", PayloadForm::Json);
        assert_eq!(null(Generation::V3), Data::Bytes(Bytes::new()));
        assert!(is_nothing(&null(Generation::V4)));
    }

    #[test]
    fn a_text_that_is_no_base64_is_raw_in_generation_4_alone() {
        for (target, generation) in [
            (TargetType::Event, Generation::V3),
            (TargetType::Event, Generation::V4),
            (TargetType::Metric, Generation::V4),
            (TargetType::Raw, Generation::V3),
        ] {
            let text = Bytes::from_static(EVENT.as_bytes());
            let refused = decode(target, generation, &text, PayloadForm::Text, "application/json");
            assert!(refused.is_err(), "{target:?} {generation:?}");
        }
    }
}
