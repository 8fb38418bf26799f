use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::content_type::ContentType;

const ID: &str = "0f0e0d0c-0b0a-4908-8706-000000000008";

/// An `AddEventRequest` with one reading that has these further keys.
fn request(reading: &str) -> String {
    format!(
        r#"{{"apiVersion":"v3","requestId":"{ID}","event":{{"apiVersion":"v3","id":"{ID}","deviceName":"d","profileName":"p","sourceName":"s","origin":1700000000000000001,"readings":[{{"id":"{ID}","origin":1700000000000000001,"deviceName":"d","resourceName":"r","profileName":"p",{reading}}}]}}}}"#
    )
}

fn decode(text: &str) -> Result<Event, EventError> {
    decode_event(text.as_bytes(), "application/json")
}

#[track_caller]
fn value(reading: &str) -> ReadingValue {
    decode(&request(reading)).unwrap().readings[0].value.clone()
}

/// What follows the common keys of the first reading.
#[track_caller]
fn written(event: &Event, generation: Generation) -> String {
    let json = String::from_utf8(event.to_json(generation)).unwrap();
    let (_, rest) = json.split_once(r#""profileName":"p","valueType":"#).unwrap();
    rest.to_owned()
}

fn refusal(text: &str) -> String {
    decode(text).unwrap_err().to_string()
}

#[test]
fn each_value_form_is_read_and_written_by_generation() {
    let cases = [
        (
            r#""valueType":"Int8","value":"5""#,
            r#""Int8","value":"5"}]}"#,
            r#""Int8","value":"5"}]}"#,
        ),
        (
            r#""valueType":"Binary","mediaType":"m","binaryValue":"AAE=""#,
            r#""Binary","binaryValue":"AAE=","mediaType":"m","value":""}]}"#,
            r#""Binary","binaryValue":"AAE=","mediaType":"m"}]}"#,
        ),
        (
            r#""valueType":"Object","objectValue":{"b":1,"a":[2.0]}"#,
            r#""Object","value":"","objectValue":{"a":[2],"b":1}}]}"#,
            r#""Object","objectValue":{"a":[2],"b":1}}]}"#,
        ),
        (
            r#""valueType":"ObjectArray","objectValue":[{"a":1}]"#,
            r#""ObjectArray","value":"","objectValue":[{"a":1}]}]}"#,
            r#""ObjectArray","objectValue":[{"a":1}]}]}"#,
        ),
        (
            r#""valueType":"Int8","value":null"#,
            r#""Int8","value":""}]}"#,
            r#""Int8","value":null,"binaryValue":null,"objectValue":null}]}"#,
        ),
        (
            r#""valueType":"Binary""#,
            r#""Binary","value":""}]}"#,
            r#""Binary","value":null,"binaryValue":null,"objectValue":null}]}"#,
        ),
        (
            r#""valueType":"Float64","value":21.50"#,
            r#""Float64","value":"21.5"}]}"#,
            r#""Float64","value":21.5}]}"#,
        ),
        (
            r#""valueType":"Uint64","value":18446744073709551615"#,
            r#""Uint64","value":"18446744073709551615"}]}"#,
            r#""Uint64","value":18446744073709551615}]}"#,
        ),
        (
            r#""valueType":"Int32Array","value":[1,2000000]"#,
            r#""Int32Array","value":"[1, 2000000]"}]}"#,
            r#""Int32Array","value":[1,2000000]}]}"#,
        ),
        (
            r#""valueType":"Bool","value":true"#,
            r#""Bool","value":"true"}]}"#,
            r#""Bool","value":"true"}]}"#,
        ),
        (
            r#""valueType":"StringArray","value":["a b","c"]"#,
            r#""StringArray","value":"[\"a b\",\"c\"]"}]}"#,
            r#""StringArray","value":"[\"a b\",\"c\"]"}]}"#,
        ),
    ];
    for (reading, v3, v4) in cases {
        let event = decode(&request(reading)).unwrap_or_else(|error| panic!("{reading}: {error}"));
        assert_eq!(written(&event, Generation::V3), v3, "{reading}");
        assert_eq!(written(&event, Generation::V4), v4, "{reading}");
    }
}

#[test]
fn value_types_are_corrected_in_requests_only() {
    let text = request(r#""valueType":"int32","value":"abc""#);
    assert_eq!(decode(&text).unwrap().readings[0].value_type, "Int32");

    let bare: Value = serde_json::from_str(&text).unwrap();
    let event = decode(&bare["event"].to_string()).unwrap();
    assert_eq!(event.readings[0].value_type, "int32");
    assert_eq!(event.readings[0].value, ReadingValue::Simple("abc".into()));
}

#[test]
fn a_value_type_in_another_case_hides_no_binary_value() {
    assert_eq!(
        value(r#""valueType":"BINARY","mediaType":"m","binaryValue":"AAE=""#),
        ReadingValue::Binary {
            value: Bytes::from_static(&[0, 1]),
            media_type: "m".into()
        }
    );
}

#[test]
fn bare_events_are_not_held_to_their_values() {
    let text = request(r#""valueType":"Int8","value":"abc""#);
    assert_eq!(refusal(&text), "The value does not match the Int8 valueType");
    let bare: Value = serde_json::from_str(&text).unwrap();
    assert!(decode(&bare["event"].to_string()).is_ok());
}

#[test]
fn short_arrays_are_a_named_error() {
    for text in ["", "["] {
        assert_eq!(
            refusal(&request(&format!(
                r#""valueType":"StringArray","value":"{text}""#
            ))),
            "The value does not match the StringArray valueType"
        );
    }
}

#[test]
fn every_broken_field_is_named() {
    let text = r#"{"apiVersion":"","requestId":"7","event":{"apiVersion":"v3","id":"X","deviceName":" ","sourceName":"s","origin":1,"readings":[{},{"origin":1,"deviceName":"d","resourceName":"r","profileName":"p","valueType":"Foo"}]}}"#;
    let prefix = "AddEventRequest.Event.Readings";
    let expected = [
        "AddEventRequest.BaseRequest.Versionable.ApiVersion field is required".to_owned(),
        "AddEventRequest.BaseRequest.RequestId field validation failed on the len=0|uuid tag".to_owned(),
        "AddEventRequest.Event.Id field needs a uuid".to_owned(),
        "AddEventRequest.Event.DeviceName field should not be empty string".to_owned(),
        "AddEventRequest.Event.ProfileName field is required".to_owned(),
        format!("{prefix}[0].Origin field is required"),
        format!("{prefix}[0].DeviceName field is required"),
        format!("{prefix}[0].ResourceName field is required"),
        format!("{prefix}[0].ProfileName field is required"),
        format!("{prefix}[0].ValueType field is required"),
        format!("{prefix}[1].ValueType field validation failed on the edgex-dto-value-type tag"),
    ];
    let error = decode(text).unwrap_err();
    assert_eq!(error.kind(), EventErrorKind::Contract);
    assert_eq!(error.edgex_text(Generation::V3), expected.join("; "));
}

#[test]
fn a_binary_value_needs_a_media_type() {
    let error = decode(&request(r#""valueType":"Binary","binaryValue":"AAE=""#)).unwrap_err();
    assert_eq!(
        error.edgex_text(Generation::V3),
        "BinaryReading.MediaType field validation failed on the required_with tag"
    );
}

#[test]
fn errors_are_told_apart() {
    let good = request(r#""valueType":"Int8","value":"5""#);
    let cases = [
        ("", EventErrorKind::Syntax),
        ("hello", EventErrorKind::Syntax),
        (r#"{"event":{"origin":"x"}"#, EventErrorKind::Syntax),
        ("null", EventErrorKind::Contract),
        ("[]", EventErrorKind::Contract),
        ("7", EventErrorKind::Contract),
        (r#"{"apiVersion":3}"#, EventErrorKind::Contract),
        (r#"{"event":{"origin":"x"}}"#, EventErrorKind::Contract),
        (r#"{"event":{"origin":1.5}}"#, EventErrorKind::Contract),
        (r#"{"event":{"readings":{}}}"#, EventErrorKind::Contract),
        (r#"{"event":{"tags":[1]}}"#, EventErrorKind::Contract),
    ];
    for (text, kind) in cases {
        let error = decode(text).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error:?}");
    }
    assert_eq!(
        decode(&format!("{good} x")).unwrap_err().kind(),
        EventErrorKind::Syntax
    );
    let error = decode_event(good.as_bytes(), "text/plain").unwrap_err();
    assert_eq!(error.kind(), EventErrorKind::UnsupportedContentType);
    assert_eq!(
        decode_event(&[], "application/cbor").unwrap_err().kind(),
        EventErrorKind::Syntax
    );
}

#[test]
fn deep_nesting_is_refused() {
    for depth in [200, 100_000] {
        let bomb = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let text = request(&format!(r#""valueType":"Object","objectValue":{bomb}"#));
        assert!(decode(&text).is_err(), "{depth}");
    }
    let cbor = vec![0x81; 1_000_000];
    assert!(decode_event(&cbor, "application/cbor").is_err());
}

#[test]
fn what_one_codec_reads_the_other_reads_too_however_deep_it_is_nested() {
    for depth in 95..135 {
        // {"tags":{"a":[[…1…]]}}, in both codecs; the object around "a" is a level too.
        let cbor = [b"\xa1\x64tags\xa1\x61a".as_slice(), &vec![0x81; depth], b"\x01"].concat();
        let json = format!(
            r#"{{"tags":{{"a":{}1{}}}}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        );
        let from_cbor = Event::decode(&cbor, ContentType::Cbor);
        let from_json = Event::decode(json.as_bytes(), ContentType::Json);
        assert_eq!(from_cbor.is_ok(), depth < 100, "{depth}");
        assert_eq!(from_json.is_ok(), depth < 100, "{depth}");
        if let Ok(event) = from_cbor {
            let again = Event::decode(&event.to_json(Generation::V4), ContentType::Json);
            assert_eq!(again.as_ref(), Ok(&event), "{depth}");
        }
    }
}

#[test]
fn keys_match_in_any_case() {
    let text = request(r#""VALUETYPE":"Int8","Value":"5""#).replace("deviceName", "DeviceName");
    let event = decode(&text).unwrap();
    assert_eq!(event.device_name, "d");
    assert_eq!(event.readings[0].value, ReadingValue::Simple("5".into()));
    assert!(event.extensions.is_empty());
}

#[test]
fn extensions_are_written_sorted_by_generation_4_only() {
    let text = request(r#""valueType":"Int8","value":"5""#).replace(
        r#""sourceName""#,
        r#""extra":{"b":1,"a":9007199254740993},"sourceName""#,
    );
    let event = decode(&text).unwrap();
    assert_eq!(event.extensions["extra"]["a"], 9_007_199_254_740_993_i64);
    assert!(
        !String::from_utf8(event.to_json(Generation::V3))
            .unwrap()
            .contains("extra")
    );
    assert_eq!(
        String::from_utf8(event.to_json(Generation::V4)).unwrap(),
        format!(
            r#"{{"apiVersion":"v3","deviceName":"d","extra":{{"a":9007199254740993,"b":1}},"id":"{ID}","origin":1700000000000000001,"profileName":"p","readings":[{{"deviceName":"d","id":"{ID}","origin":1700000000000000001,"profileName":"p","resourceName":"r","value":"5","valueType":"Int8"}}],"sourceName":"s"}}"#
        )
    );
    let cbor = event.to_cbor(Generation::V4);
    assert_eq!(Event::decode(&cbor, ContentType::Cbor).as_ref(), Ok(&event));
}

#[test]
fn cbor_values_that_json_lacks_become_what_go_makes_of_them() {
    // {"a": h'0001', 1: NaN} as an object value
    let mut event = decode(&request(r#""valueType":"Object","objectValue":"here""#)).unwrap();
    let mut cbor = event.to_cbor(Generation::V4);
    let at = cbor.windows(5).position(|window| window == b"\x64here").unwrap();
    let object: &[u8] = &[
        0xa2, 0x61, b'a', 0x42, 0, 1, 1, 0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0,
    ];
    cbor.splice(at..at + 5, object.iter().copied());
    event.readings[0].value = ReadingValue::Object(json!({"a": "AAE=", "1": "NaN"}));
    assert_eq!(decode_event(&cbor, "application/cbor"), Ok(event));
}

#[test]
fn publishers_choose_cbor_for_binary_readings() {
    let mut event = Event::new(Uuid::nil(), "p", "d", "s", 1);
    let simple = ReadingValue::float64(21.5, Generation::V3);
    event.readings.push(Reading::new(
        Uuid::nil(),
        &event,
        "r",
        ValueType::Float64,
        simple,
        2,
    ));
    let request = AddEventRequest::new(Uuid::nil(), event);
    assert_eq!(request.encode(Generation::V4).1, ContentType::Json);

    let mut binary = request.clone();
    binary.event.readings[0].value_type = "Binary".into();
    binary.event.readings[0].value = ReadingValue::Binary {
        value: Bytes::from_static(b"x"),
        media_type: "image/png".into(),
    };
    let (bytes, content_type) = binary.encode(Generation::V4);
    assert_eq!(content_type, ContentType::Cbor);
    assert_eq!(AddEventRequest::decode(&bytes, content_type), Ok(binary));
}

fn name() -> impl Strategy<Value = String> {
    // Never blank; with everything that needs an escape.
    "[a-zA-Z<>&\"\\\\\u{8}\u{c}\n\u{2028}é中]{1,12}".prop_filter("blank", |name| !name.trim().is_empty())
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Whole floats are written as integers, as in Go.
        any::<f64>().prop_filter_map("whole or no number", |float| {
            (float.is_finite() && (float.fract() != 0.0 || float.abs() >= 1e21)).then(|| Value::from(float))
        }),
        name().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..4)
                .prop_map(|object| Value::Object(object.into_iter().collect())),
        ]
    })
}

fn reading_value() -> impl Strategy<Value = (&'static str, ReadingValue)> {
    prop_oneof![
        any::<i64>().prop_map(|value| ("Int64", ReadingValue::Simple(value.to_string()))),
        any::<f64>().prop_map(|value| ("Float64", ReadingValue::float64(value, Generation::V4))),
        ".*".prop_map(|value| ("String", ReadingValue::Simple(value))),
        (prop::collection::vec(any::<u8>(), 1..40), name()).prop_map(|(value, media_type)| {
            let value = value.into();
            ("Binary", ReadingValue::Binary { value, media_type })
        }),
        json_value()
            .prop_filter("null", |value| !value.is_null())
            .prop_map(|value| ("Object", ReadingValue::Object(value))),
    ]
}

fn tags() -> impl Strategy<Value = Tags> {
    prop::collection::btree_map(name(), json_value(), 0..3)
}

fn event() -> impl Strategy<Value = Event> {
    let reading = (name(), reading_value(), any::<i64>(), tags(), "[a-z%]{0,3}");
    (
        prop::collection::vec(reading, 1..4),
        any::<u128>(),
        (name(), name(), name()),
        any::<i64>(),
        tags(),
    )
        .prop_map(|(readings, id, (profile, device, source), origin, tags)| {
            let mut event = Event::new(Uuid::from_u128(id), profile, device, source, origin | 1);
            event.tags = tags;
            for (resource, (value_type, value), origin, tags, units) in readings {
                let value_type = ValueType::parse(value_type).unwrap();
                let mut reading = Reading::new(
                    Uuid::from_u128(id),
                    &event,
                    resource,
                    value_type,
                    value,
                    origin | 1,
                );
                reading.tags = tags;
                reading.units = units;
                event.readings.push(reading);
            }
            event
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_round_trip(event in event()) {
        let request = AddEventRequest::new(Uuid::nil(), event);
        for generation in [Generation::V3, Generation::V4] {
            let json = request.to_json(generation);
            let from_json = AddEventRequest::decode(&json, ContentType::Json).unwrap();
            prop_assert_eq!(&from_json, &request);
            let cbor = request.to_cbor(generation);
            let from_cbor = AddEventRequest::decode(&cbor, ContentType::Cbor).unwrap();
            prop_assert_eq!(&from_cbor, &request);
            let bare = request.event.to_json(generation);
            let bare = decode_event(&bare, "application/json").unwrap();
            prop_assert_eq!(&bare, &request.event);
        }
    }

    #[test]
    fn null_readings_round_trip_in_generation_4(mut event in event()) {
        event.readings[0].value = ReadingValue::Null;
        let json = event.to_json(Generation::V4);
        let cbor = event.to_cbor(Generation::V4);
        prop_assert_eq!(decode_event(&cbor, "application/cbor"), Ok(event.clone()));
        prop_assert_eq!(decode_event(&json, "application/json"), Ok(event));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for content_type in ["application/json", "application/cbor"] {
            let _ = decode_event(&bytes, content_type);
            let _ = crate::Metric::decode(&bytes, ContentType::parse(content_type).unwrap());
        }
        let _ = crate::MessageEnvelope::from_json(&bytes);
        let _ = crate::MessageEnvelope::from_cbor(&bytes);
    }

    #[test]
    fn damaged_events_never_panic(event in event(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let request = AddEventRequest::new(Uuid::nil(), event);
        let mut json = request.to_json(Generation::V4);
        let index = at.index(json.len());
        json[index] = byte;
        let _ = decode_event(&json, "application/json");
        let mut cbor = request.to_cbor(Generation::V4);
        let index = at.index(cbor.len());
        cbor[index] = byte;
        let _ = decode_event(&cbor, "application/cbor");
    }
}
