//! `WrapIntoEvent`: which data becomes which value, and what surrounds it.

use std::collections::BTreeSet;

use bytes::Bytes;
use edgehold_contracts::{Generation, Metric, ReadingValue, ValueType};
use edgehold_core::{Context, Data, DataKind, ErrorClass, InvalidFunction};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Given, NOW, apply, build, context, continued, event, function};

const BOTH: [Generation; 2] = [Generation::V3, Generation::V4];

fn parameters(value_type: &str) -> [(&str, &str); 5] {
    [
        ("ProfileName", " pump "),
        ("DeviceName", "pump-1"),
        ("ResourceName", "Level"),
        ("ValueType", value_type),
        ("MediaType", "image/png"),
    ]
}

/// `data` wrapped as a value of this type.
#[track_caller]
pub(super) fn wrapped(generation: Generation, value_type: &str, data: Data) -> Data {
    let wrap = function("WrapIntoEvent", &parameters(value_type));
    continued(apply(&*wrap, &mut context(generation), data))
}

/// The value of the only reading.
#[track_caller]
fn value(generation: Generation, value_type: &str, data: Data) -> ReadingValue {
    match wrapped(generation, value_type, data) {
        Data::AddEventRequest(request) => {
            assert_eq!(request.event.readings.len(), 1);
            request.event.readings[0].value.clone()
        }
        other => panic!("not a request: {other:?}"),
    }
}

fn simple(text: &str) -> ReadingValue {
    ReadingValue::Simple(text.to_owned())
}

#[test]
fn names_ids_and_times_surround_the_value_and_the_context_knows_them() {
    // given
    let mut ctx = context(Generation::V4);
    ctx.add_value(Context::DEVICE_NAME, "another");
    ctx.set_response_content_type("text/plain");

    // when
    let wrap = function("WrapIntoEvent", &parameters("iNT32"));
    let data = continued(apply(&*wrap, &mut ctx, Data::Json(json!(-7))));

    // then
    let Data::AddEventRequest(request) = data else {
        panic!("not a request: {data:?}");
    };
    let event = &request.event;
    let reading = &event.readings[0];
    let ids = BTreeSet::from([&request.request_id, &event.id, &reading.id]);
    assert_eq!(ids.len(), 3, "{request:?}");
    assert_eq!((&*request.api_version, &*event.api_version), ("v3", "v3"));
    assert_eq!((event.origin, reading.origin), (NOW, NOW));
    assert_eq!(
        (&*event.profile_name, &*event.device_name, &*event.source_name),
        ("pump", "pump-1", "Level")
    );
    assert_eq!(
        (
            &*reading.profile_name,
            &*reading.device_name,
            &*reading.resource_name
        ),
        ("pump", "pump-1", "Level")
    );
    assert_eq!((&*reading.value_type, &reading.value), ("Int32", &simple("-7")));
    let value = |key| ctx.value(key);
    assert_eq!(value(Context::PROFILE_NAME), Some("pump"));
    assert_eq!(value(Context::DEVICE_NAME), Some("pump-1"));
    assert_eq!(value(Context::SOURCE_NAME), Some("Level"));
    assert_eq!(ctx.response_content_type(), "");
}

#[test]
fn string_and_binary_take_the_bytes_of_anything() {
    for generation in BOTH {
        let event_json = Data::Event(event()).to_bytes(generation);
        for (data, bytes) in [
            (Data::Text("<text>".to_owned()), Bytes::from_static(b"<text>")),
            (
                Data::Bytes(Bytes::from_static(b"bytes")),
                Bytes::from_static(b"bytes"),
            ),
            (Data::Json(json!("text")), Bytes::from_static(b"text")),
            (
                Data::Json(json!({"b": [1], "a": 2.0})),
                Bytes::from_static(br#"{"a":2,"b":[1]}"#),
            ),
            (Data::Event(event()), event_json),
        ] {
            let text = std::str::from_utf8(&bytes).unwrap();
            assert_eq!(value(generation, "string", data.clone()), simple(text));
            assert_eq!(
                value(generation, "binary", data),
                ReadingValue::Binary {
                    value: bytes,
                    media_type: "image/png".to_owned()
                }
            );
        }
    }
}

#[test]
fn what_is_no_character_becomes_a_replacement_character_for_each_byte() {
    let data = Data::Bytes(Bytes::from_static(b"a\xe4\xb8b"));
    assert_eq!(
        value(Generation::V3, "String", data),
        simple("a\u{fffd}\u{fffd}b")
    );
}

#[test]
fn an_object_is_the_data_as_it_is() {
    let metric = Metric {
        name: "m".to_owned(),
        ..Metric::default()
    };
    let event_json: Value = serde_json::from_slice(&event().to_json(Generation::V4)).unwrap();
    for (data, expected) in [
        (Data::Bytes(Bytes::from_static(b"hello")), json!("aGVsbG8=")),
        (Data::Text("hello".to_owned()), json!("hello")),
        (
            Data::Json(json!([1, {"a": u64::MAX}])),
            json!([1, {"a": u64::MAX}]),
        ),
        (Data::Event(event()), event_json),
        (
            Data::Metric(metric.clone().into()),
            serde_json::from_slice(&metric.to_json()).unwrap(),
        ),
    ] {
        assert_eq!(
            value(Generation::V4, "Object", data),
            ReadingValue::Object(expected)
        );
    }
}

#[test]
fn an_event_can_be_wrapped_twice() {
    let once = wrapped(Generation::V4, "Object", Data::Event(event()));
    let expected: Value = serde_json::from_slice(&once.to_bytes(Generation::V4)).unwrap();
    assert_eq!(
        value(Generation::V4, "Object", once),
        ReadingValue::Object(expected)
    );
}

#[test]
fn data_that_is_not_of_the_type_fails_for_good_and_changes_nothing() {
    for (value_type, data, words) in [
        ("Int32", Data::Bytes(Bytes::from_static(b"1")), "kind 'bytes'"),
        ("Bool", Data::Text("true".to_owned()), "type 'Bool'"),
        ("Uint8", Data::Json(json!(256)), "kind 'json'"),
        ("Float64Array", Data::Event(event()), "kind 'event'"),
        ("String", Data::Json(Value::Null), "no data"),
        ("Object", Data::Json(Value::Null), "no data"),
    ] {
        let mut ctx = context(Generation::V4);
        ctx.set_response_content_type("text/plain");
        let wrap = function("WrapIntoEvent", &parameters(value_type));
        let error = apply(&*wrap, &mut ctx, data).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent, "{value_type}");
        let text = error.to_string();
        assert!(
            text.contains(words) && text.contains("'default-pipeline'"),
            "{text}"
        );
        assert_eq!(ctx.value(Context::DEVICE_NAME), None);
        assert_eq!(ctx.response_content_type(), "text/plain");
    }
}

#[test]
fn functions_behind_it_receive_the_request_as_json() {
    let request = wrapped(Generation::V3, "String", Data::Text("t".to_owned()));
    let json = request.to_bytes(Generation::V3);
    assert!(json.starts_with(br#"{"apiVersion":"v3","requestId":""#));
    let mut ctx = context(Generation::V3);
    continued(apply(&*function("SetResponseData", &[]), &mut ctx, request));
    assert_eq!(ctx.response_data(), Some(&json));
}

#[test]
fn parameters_are_checked_by_name() {
    let given = parameters("Binary");
    for (index, (name, _)) in given.iter().enumerate() {
        let others: Vec<_> = given.iter().copied().filter(|(other, _)| other != name).collect();
        let (function, parameter) = ("WrapIntoEvent".to_owned(), (*name).to_owned());
        assert_eq!(
            build("WrapIntoEvent", &others).unwrap_err(),
            InvalidFunction::MissingParameter { function, parameter },
            "{index}"
        );
    }
    let refusals: [(Given, &str); 3] = [
        (&[("ValueType", "Int128")], "'Int128'"),
        (&[("ValueType", "objectarray")], "'ObjectArray'"),
        (
            &[("ValueType", "Binary"), ("MediaType", " ")],
            "'MediaType' is empty",
        ),
    ];
    for (changed, words) in refusals {
        let error = build("WrapIntoEvent", &[&given, changed].concat()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn every_other_value_type_is_built_in_any_case_and_needs_no_media_type() {
    for value_type in ValueType::ALL {
        let lower = value_type.as_str().to_lowercase();
        let needed = match value_type {
            ValueType::ObjectArray => continue,
            ValueType::Binary => 5,
            _ => 4,
        };
        let built = build("WrapIntoEvent2", &parameters(&lower)[..needed]).unwrap();
        assert_eq!(built.variant, value_type.as_str());
    }
}

/// The integer types, each with the range it holds.
const INTEGERS: [(&str, i128, i128); 8] = [
    ("Uint8", 0, u8::MAX as i128),
    ("Uint16", 0, u16::MAX as i128),
    ("Uint32", 0, u32::MAX as i128),
    ("Uint64", 0, u64::MAX as i128),
    ("Int8", i8::MIN as i128, i8::MAX as i128),
    ("Int16", i16::MIN as i128, i16::MAX as i128),
    ("Int32", i32::MIN as i128, i32::MAX as i128),
    ("Int64", i64::MIN as i128, i64::MAX as i128),
];

fn any_data() -> impl Strategy<Value = Data> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    let list = proptest::collection::vec(scalar.clone(), 0..4).prop_map(Value::from);
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Data::Bytes(bytes.into())),
        ".*".prop_map(Data::Text),
        scalar.prop_map(Data::Json),
        list.prop_map(Data::Json),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_integer_fits_exactly_the_types_that_hold_it(
        integer in prop_oneof![any::<i8>().prop_map(i128::from), any::<i64>().prop_map(i128::from),
            any::<u32>().prop_map(i128::from), any::<u64>().prop_map(i128::from)]
    ) {
        let number: Value = serde_json::from_str(&integer.to_string()).unwrap();
        for (value_type, least, greatest) in INTEGERS {
            let wrap = function("WrapIntoEvent", &parameters(value_type));
            let flow = apply(&*wrap, &mut context(Generation::V4), Data::Json(number.clone()));
            prop_assert_eq!(flow.is_ok(), (least..=greatest).contains(&integer), "{}", value_type);
            if flow.is_ok() {
                let text = value(Generation::V4, value_type, Data::Json(number.clone()));
                prop_assert_eq!(text, simple(&integer.to_string()));
            }
        }
    }

    #[test]
    fn a_float_keeps_its_value_in_generation_4_and_six_decimals_in_3(float in proptest::num::f64::NORMAL) {
        let texts = BOTH.map(|generation| match value(generation, "Float64", Data::Json(json!(float))) {
            ReadingValue::Simple(text) => text,
            other => panic!("not simple: {other:?}"),
        });
        let read = |text: &str| text.parse::<f64>().unwrap();
        prop_assert_eq!(read(&texts[1]), float);
        prop_assert!((read(&texts[0]) / float - 1.0).abs() < 1e-6, "{}", texts[0]);
    }

    #[test]
    fn whatever_can_be_wrapped_is_a_request_that_decodes(
        data in any_data(),
        value_type in proptest::sample::select(ValueType::ALL),
    ) {
        prop_assume!(value_type != ValueType::ObjectArray);
        for generation in BOTH {
            let wrap = function("WrapIntoEvent", &parameters(value_type.as_str()));
            let Ok(flow) = apply(&*wrap, &mut context(generation), data.clone()) else {
                continue;
            };
            let wrapped = continued(Ok(flow));
            // Receivers refuse an empty list and take an empty binary value for none, in EdgeX too.
            let bytes = wrapped.to_bytes(generation);
            let text = std::str::from_utf8(&bytes).unwrap();
            let empty_list = value_type.element().is_some() && text.contains(r#""value":"[]""#);
            let empty_binary = value_type == ValueType::Binary && !text.contains(r#""binaryValue""#);
            if empty_list || empty_binary {
                continue;
            }
            let restored = Data::restore(DataKind::AddEventRequest, bytes.clone()).unwrap();
            prop_assert_eq!(restored.to_bytes(generation), bytes);
        }
    }
}
