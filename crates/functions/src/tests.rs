//! Every function through the registry, as a pipeline gets it.

mod batch;
mod encrypt;
mod recorded;
mod wrap_into_event;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use edgehold_contracts::{Event, Generation, Reading, ReadingValue};
use edgehold_core::{
    AppFunction, BoxFuture, BuiltFunction, Context, CorrelationId, Data, ErrorClass, Flow, FunctionError,
    FunctionRegistry, InvalidFunction, Parameters, PipelineId, Secret, SecretError, SecretProvider,
    SecretText, ServiceKey,
};
use futures_util::FutureExt;
use serde_json::json;
use uuid::Uuid;

use crate::Sources;

pub(crate) type Given<'a> = &'a [(&'a str, &'a str)];

/// The key of the recorded services, kept in the secret `aes` under `key`: hex of 64 bytes.
const KEY: &str = "217A24432646294A404E635266556A586E3272357538782F413F442A472D4B6150645367566B5970\
    3373367639792442264529482B4D6251655468576D5A7134";

const NOW: i64 = 1_712_345_678_901_234_567;

/// Ids that count up, one time and one initialization vector.
pub(crate) const SOURCES: Sources = Sources {
    uuid: || {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Uuid::from_u64_pair(1, LAST.fetch_add(1, Ordering::Relaxed))
    },
    now: || NOW,
    fill_random: |bytes| bytes.fill(0xAA),
};

/// Has the secret `aes` and no other.
struct OneSecret(&'static str);

impl SecretProvider for OneSecret {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        let secret = match name {
            "aes" => Ok(Secret::from([("key".to_owned(), SecretText::new(self.0))])),
            _ => Err(SecretError::UnknownName {
                name: name.to_owned(),
            }),
        };
        Box::pin(std::future::ready(secret))
    }
}

pub(crate) fn context(generation: Generation) -> Context {
    context_with(generation, OneSecret(KEY))
}

fn context_with(generation: Generation, secrets: impl SecretProvider + 'static) -> Context {
    Context::new(
        ServiceKey::try_new("app-test").unwrap(),
        PipelineId::default_pipeline(),
        CorrelationId::new("corr-1"),
        generation,
        Arc::new(secrets),
    )
}

pub(crate) fn build(name: &str, parameters: Given) -> Result<BuiltFunction, InvalidFunction> {
    let mut registry = FunctionRegistry::default();
    crate::register(&mut registry, SOURCES);
    registry
        .resolve(name)?
        .1
        .build(&Parameters::new(name, parameters.iter().copied()))
}

#[track_caller]
pub(crate) fn function(name: &str, parameters: Given) -> Arc<dyn AppFunction> {
    build(name, parameters).unwrap().function
}

pub(crate) fn apply(
    function: &dyn AppFunction,
    ctx: &mut Context,
    data: Data,
) -> Result<Flow, FunctionError> {
    function
        .call(ctx, data)
        .now_or_never()
        .expect("functions that only compute never wait")
}

#[track_caller]
fn continued(flow: Result<Flow, FunctionError>) -> Data {
    match flow {
        Ok(Flow::Continue(data)) => data,
        other => panic!("the pipeline did not go on: {other:?}"),
    }
}

#[track_caller]
fn continued_event(flow: Result<Flow, FunctionError>) -> Arc<Event> {
    match continued(flow) {
        Data::Event(event) => event,
        other => panic!("not an event: {other:?}"),
    }
}

/// An event with readings of `Temperature` and `Pressure`, a tag and an unknown key.
pub(crate) fn event() -> Arc<Event> {
    let reading = |resource: &str| Reading {
        resource_name: resource.to_owned(),
        value_type: "Int32".to_owned(),
        value: ReadingValue::Simple("7".to_owned()),
        ..Reading::default()
    };
    Arc::new(Event {
        api_version: "v3".to_owned(),
        device_name: "pump-1".to_owned(),
        profile_name: "pump".to_owned(),
        source_name: "All".to_owned(),
        readings: vec![reading("Temperature"), reading("Pressure")],
        tags: [("site".to_owned(), json!("plant-1"))].into(),
        extensions: [("unknown".to_owned(), json!(1))].into(),
        ..Event::default()
    })
}

const EVERY_EVENT_FUNCTION: [(&str, Given); 7] = [
    ("FilterByProfileName", &[("ProfileNames", "")]),
    ("FilterByDeviceName", &[("DeviceNames", "")]),
    ("FilterBySourceName", &[("SourceNames", "")]),
    ("FilterByResourceName", &[("ResourceNames", "")]),
    ("Transform", &[("Type", "json")]),
    ("Transform", &[("Type", "xml")]),
    ("AddTags", &[("Tags", "")]),
];

#[test]
fn what_works_on_events_refuses_everything_else_for_good() {
    for (name, parameters) in EVERY_EVENT_FUNCTION {
        // given an event's JSON, and an event that was wrapped
        let text = Data::Text(r#"{"apiVersion":"v3"}"#.to_owned());
        let request = wrap_into_event::wrapped(Generation::V4, "String", text.clone());
        for (data, kind) in [(text, "'text'"), (request, "'add_event_request'")] {
            // when
            let mut ctx = context(Generation::V4);
            let error = apply(&*function(name, parameters), &mut ctx, data).unwrap_err();

            // then
            assert_eq!(error.class(), ErrorClass::Permanent, "{name}");
            let text = error.to_string();
            assert!(text.starts_with(name) && text.contains(kind), "{text}");
        }
    }
}

#[test]
fn functions_with_a_required_parameter_name_it_when_it_is_missing() {
    for (name, parameters) in EVERY_EVENT_FUNCTION
        .into_iter()
        .chain([("Compress", &[("Algorithm", "")] as Given)])
    {
        let (function, parameter) = (name.to_owned(), parameters[0].0.to_owned());
        let error = build(name, &[]).map(|_| ()).unwrap_err();
        assert_eq!(error, InvalidFunction::MissingParameter { function, parameter });
    }
}

#[test]
fn variants_are_told_apart_and_others_refused() {
    for (name, parameter, value, variant) in [
        ("Transform2", "Type", "JSON", "json"),
        ("TransformXml", "type", " Xml ", "xml"),
        ("Compress", "Algorithm", "GZIP", "gzip"),
        ("Compress", "Algorithm", "zlib", "zlib"),
        ("AddTags", "Tags", "a:b", ""),
    ] {
        assert_eq!(
            build(name, &[(parameter, value)]).unwrap().variant,
            variant,
            "{name}"
        );
    }
    for (name, parameter) in [("Transform", "Type"), ("Compress", "Algorithm")] {
        let error = build(name, &[(parameter, "lzma")]).unwrap_err().to_string();
        assert!(error.contains("'lzma'") && error.contains(parameter), "{error}");
    }
}

#[test]
fn each_event_filter_looks_at_its_own_name() {
    for (name, parameter, pattern) in [
        ("FilterByProfileName", "ProfileNames", "^pump$"),
        ("FilterByDeviceName", "DeviceNames", "ump-1"),
        ("FilterBySourceName", "SourceNames", "All"),
    ] {
        let given = event();
        let filter = function(name, &[(parameter, pattern)]);
        let passed = continued_event(apply(
            &*filter,
            &mut context(Generation::V3),
            Data::Event(Arc::clone(&given)),
        ));
        assert!(Arc::ptr_eq(&passed, &given), "{name} copied the event");

        let filter = function(name, &[(parameter, pattern), ("FilterOut", "true")]);
        let flow = apply(&*filter, &mut context(Generation::V3), Data::Event(given));
        assert!(matches!(flow, Ok(Flow::Stop)), "{name}");
    }
}

#[test]
fn the_resource_filter_makes_a_new_event_with_tags_in_generation_4_alone() {
    for (generation, tags) in [(Generation::V3, 0), (Generation::V4, 1)] {
        // given
        let filter = function("FilterByResourceName", &[("ResourceNames", "Press")]);

        // when
        let passed = continued_event(apply(&*filter, &mut context(generation), Data::Event(event())));

        // then
        let resources: Vec<_> = passed
            .readings
            .iter()
            .map(|reading| reading.resource_name.as_str())
            .collect();
        assert_eq!(resources, ["Pressure"], "{generation}");
        assert_eq!(passed.tags.len(), tags, "{generation}");
        assert!(passed.extensions.is_empty());
        assert_eq!(passed.device_name, "pump-1");
    }
}

#[test]
fn the_resource_filter_drops_tags_and_unknown_keys_even_when_all_readings_pass() {
    let filter = function("FilterByResourceName", &[("ResourceNames", "e")]);
    let passed = continued_event(apply(
        &*filter,
        &mut context(Generation::V3),
        Data::Event(event()),
    ));
    assert_eq!(passed.readings.len(), 2);
    assert!(passed.tags.is_empty() && passed.extensions.is_empty());
}

#[test]
fn the_resource_filter_shares_an_event_it_need_not_change() {
    let mut plain = event();
    Arc::make_mut(&mut plain).extensions.clear();
    for (generation, names, given) in [(Generation::V4, "e", plain), (Generation::V3, "", event())] {
        let filter = function("FilterByResourceName", &[("ResourceNames", names)]);
        let passed = continued_event(apply(
            &*filter,
            &mut context(generation),
            Data::Event(Arc::clone(&given)),
        ));
        assert!(Arc::ptr_eq(&passed, &given), "{generation}");
    }
}

#[test]
fn the_resource_filter_ends_the_pipeline_of_an_event_without_readings_left() {
    for (names, filter_out) in [("Humidity", "false"), ("Temp,Press", "true")] {
        let filter = function(
            "FilterByResourceName",
            &[("ResourceNames", names), ("FilterOut", filter_out)],
        );
        let flow = apply(&*filter, &mut context(Generation::V4), Data::Event(event()));
        assert!(matches!(flow, Ok(Flow::Stop)));
    }
}

#[test]
fn transform_sets_the_content_type_of_the_response() {
    for (name, content_type, start) in [
        ("json", "application/json", r#"{"apiVersion":"v3","#),
        ("xml", "application/xml", "<Event><ApiVersion>v3</ApiVersion>"),
    ] {
        let mut ctx = context(Generation::V3);
        let data = continued(apply(
            &*function("Transform", &[("Type", name)]),
            &mut ctx,
            Data::Event(event()),
        ));
        assert_eq!(ctx.response_content_type(), content_type);
        assert!(
            matches!(&data, Data::Text(text) if text.starts_with(start)),
            "{data:?}"
        );
    }
}

#[test]
fn an_event_without_an_xml_form_fails_for_good_and_leaves_the_response_alone() {
    let mut given = event();
    Arc::make_mut(&mut given).readings[0].value = ReadingValue::Object(json!({"a": 1}));
    let mut ctx = context(Generation::V4);
    let error = apply(
        &*function("Transform", &[("Type", "xml")]),
        &mut ctx,
        Data::Event(given),
    )
    .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert!(error.chain().contains("is a JSON object"), "{}", error.chain());
    assert_eq!(ctx.response_content_type(), "");
}

#[test]
fn added_tags_replace_those_of_the_same_name_and_no_other_pipeline_sees_them() {
    // given
    let given = event();

    // when
    let add = function("AddTags", &[("Tags", "site: plant-2 ,line:7")]);
    let tagged = continued_event(apply(
        &*add,
        &mut context(Generation::V4),
        Data::Event(Arc::clone(&given)),
    ));

    // then
    assert_eq!(json!(tagged.tags), json!({"line": "7", "site": "plant-2"}));
    assert_eq!(json!(given.tags), json!({"site": "plant-1"}));
}

#[test]
fn compress_answers_in_plain_text() {
    let mut ctx = context(Generation::V4);
    let compress = function("Compress", &[("Algorithm", "zlib")]);
    let data = continued(apply(
        &*compress,
        &mut ctx,
        Data::Bytes(Bytes::from_static(b"hello")),
    ));
    assert!(matches!(data, Data::Bytes(_)));
    assert_eq!(ctx.response_content_type(), "text/plain");
}

#[test]
fn the_response_is_the_input_and_keeps_its_content_type_unless_one_is_given() {
    for (parameters, content_type) in [
        (&[] as Given, "application/xml"),
        (&[("ResponseContentType", "")], "application/xml"),
        (&[("ResponseContentType", "text/csv")], "text/csv"),
    ] {
        let mut ctx = context(Generation::V4);
        ctx.set_response_content_type("application/xml");
        let set = function("SetResponseData", parameters);
        let data = continued(apply(&*set, &mut ctx, Data::Text("a;b".to_owned())));
        assert_eq!(data, Data::Text("a;b".to_owned()));
        assert_eq!(ctx.response_data().map(|data| &data[..]), Some(b"a;b".as_slice()));
        assert_eq!(ctx.response_content_type(), content_type);
    }
}
