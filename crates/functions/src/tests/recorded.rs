//! The functions against what app-service-configurable 3.1.1 and 4.0.1 made of the same messages, byte for byte.
//!
//! Not compared: the order of tags in XML, which Go makes random, compressed bytes, where only what they decompress to
//! is a promise, and what is made up anew each time: initialization vectors, and ids and times of wrapped events. EdgeX rounds integers beyond 2^53 in tags and object values, generation 4 all those in
//! events that arrive as plain JSON; ours stay exact, so the inputs are rounded here before they go in.

use std::{collections::BTreeMap, io::Read, sync::Arc};

use edgehold_contracts::{
    Event, Generation, MessageEnvelope, Payload, ReadingValue, Tags, base64, decode_event, number,
};
use edgehold_core::{AppFunction, Data, Flow};
use edgehold_test_support::fixtures::{self, Output};
use regex::Regex;
use serde_json::Value;

use super::{apply, context, encrypt, function};

/// Cases by name, each with its functions and their parameters before the export.
type Case = (
    &'static str,
    &'static [(&'static str, &'static [(&'static str, &'static str)])],
);

const GENERATIONS: [(fixtures::Generation, Generation); 2] = [
    (fixtures::Generation::V3, Generation::V3),
    (fixtures::Generation::V4, Generation::V4),
];

const JSON: (&str, &[(&str, &str)]) = ("Transform", &[("Type", "json")]);
const XML: (&str, &[(&str, &str)]) = ("Transform", &[("Type", "xml")]);

const BYTE_EXACT: &[Case] = &[
    (
        "filter-device",
        &[(
            "FilterByDeviceName",
            &[("DeviceNames", "Random-Integer-Device"), ("FilterOut", "false")],
        )],
    ),
    (
        "filter-device-empty",
        &[(
            "FilterByDeviceName",
            &[("DeviceNames", ""), ("FilterOut", "false")],
        )],
    ),
    (
        "filter-profile",
        &[(
            "FilterByProfileName",
            &[
                ("ProfileNames", "Random-Float-Device, Multi-Reading-Profile"),
                ("FilterOut", "false"),
            ],
        )],
    ),
    (
        "filter-profile-out",
        &[(
            "FilterByProfileName",
            &[
                ("ProfileNames", "Random-Float-Device, Multi-Reading-Profile"),
                ("FilterOut", "true"),
            ],
        )],
    ),
    (
        "filter-source",
        &[(
            "FilterBySourceName",
            &[("SourceNames", "Mixed,Int8"), ("FilterOut", "false")],
        )],
    ),
    (
        "filter-resource",
        &[(
            "FilterByResourceName",
            &[
                ("ResourceNames", "Level, Pressure, Float32"),
                ("FilterOut", "false"),
            ],
        )],
    ),
    (
        "filter-resource-out",
        &[(
            "FilterByResourceName",
            &[
                ("ResourceNames", "Level, Pressure, Float32"),
                ("FilterOut", "true"),
            ],
        )],
    ),
    ("transform-json", &[JSON]),
    ("http-export-default", &[]),
    ("http-export-cbor-input", &[]),
    (
        "addtags",
        &[(
            "AddTags",
            &[(
                "Tags",
                "GatewayId:HoustonStore000123, Latitude: 29.630771 ,Longitude:-95.377603",
            )],
        )],
    ),
    ("addtags-empty", &[("AddTags", &[("Tags", "")])]),
];

const XML_OUTPUT: &[Case] = &[
    ("transform-xml", &[XML]),
    ("addtags-xml", &[("AddTags", &[("Tags", "a:1,b:two")]), XML]),
    (
        "filter-chain-xml",
        &[
            (
                "FilterByProfileName",
                &[("ProfileNames", "Multi-Reading-Profile"), ("FilterOut", "false")],
            ),
            (
                "FilterByResourceName",
                &[("ResourceNames", "Pressure"), ("FilterOut", "false")],
            ),
            ("AddTags", &[("Tags", "x:y")]),
            XML,
        ],
    ),
];

const COMPRESSED: &[Case] = &[
    ("compress-gzip", &[JSON, ("Compress", &[("Algorithm", "gzip")])]),
    ("compress-gzip-event", &[("Compress", &[("Algorithm", "gzip")])]),
    ("compress-zlib", &[JSON, ("Compress", &[("Algorithm", "zlib")])]),
];

const ENCRYPT: (&str, &[(&str, &str)]) = (
    "Encrypt",
    &[
        ("Algorithm", "aes256"),
        ("SecretName", "aes"),
        ("SecretValueKey", "key"),
    ],
);

const ENCRYPTED: &[Case] = &[("encrypt-aes256", &[JSON, ENCRYPT])];

const COMPRESSED_AND_ENCRYPTED: &[Case] = &[(
    "xml-compress-encrypt",
    &[XML, ("Compress", &[("Algorithm", "zlib")]), ENCRYPT],
)];

#[test]
fn filters_transforms_and_tags_give_what_edgex_gave() {
    assert_recorded(BYTE_EXACT, |body| String::from_utf8_lossy(body).into_owned());
}

#[test]
fn xml_is_what_edgex_gave_but_for_the_order_of_tags() {
    assert_recorded(XML_OUTPUT, |body| {
        with_sorted_tags(std::str::from_utf8(body).expect("XML is UTF-8"))
    });
}

#[test]
fn compressed_output_decompresses_to_what_edgex_compressed() {
    assert_recorded(COMPRESSED, decompressed);
}

#[test]
fn encrypted_output_decrypts_to_what_edgex_encrypted() {
    assert_recorded(ENCRYPTED, |body| {
        String::from_utf8(encrypt::decrypted(body)).unwrap()
    });
    assert_recorded(COMPRESSED_AND_ENCRYPTED, |body| {
        with_sorted_tags(&decompressed(&encrypt::decrypted(body)))
    });
}

#[test]
fn the_plaintext_beside_a_recording_is_what_we_decrypt_it_to() {
    let mut compared = 0;
    for generation in fixtures::Generation::ALL {
        for name in ["encrypt-aes256", "xml-compress-encrypt"] {
            let pair = fixtures::pair(generation, name).expect("the recording");
            for output in pair.steps.iter().flat_map(|step| &step.outputs) {
                if let Output::Http { body, decrypted, .. } = output {
                    assert_eq!(Some(encrypt::decrypted(body).into()), *decrypted);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared >= 18, "only {compared} bodies were compared");
}

#[test]
fn wrapped_events_are_what_edgex_made_but_for_ids_and_times() {
    let mut compared = 0;
    for (recorded, generation) in GENERATIONS {
        for (name, value_type) in [
            ("wrap-into-event-string", "String"),
            ("wrap-into-event-object", "object"),
        ] {
            let pair = fixtures::pair(recorded, name).expect("the recording");
            let wrap = function("WrapIntoEvent", &wrap_parameters(value_type));
            for step in pair.steps {
                // given what the recorded service's trigger handed on; in generation 3 nothing but base64
                let Some(data) = raw_input(&step.input, generation) else {
                    assert!(step.outputs.is_empty());
                    continue;
                };

                // when
                let output = run(&[Arc::clone(&wrap)], generation, data).expect("it goes on");

                // then
                let [Output::Http { body, .. }] = &step.outputs[..] else {
                    panic!("not one request: {:?}", step.outputs);
                };
                assert_eq!(
                    without_ids_and_times(&output.to_bytes(generation)),
                    without_ids_and_times(body),
                    "{generation} {name} step {}",
                    step.number
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 7);
}

#[test]
fn a_wrapped_binary_value_has_no_xml_as_recorded() {
    for (recorded, generation) in GENERATIONS {
        let pair = fixtures::pair(recorded, "wrap-into-event-binary").expect("the recording");
        let [step] = &pair.steps[..] else {
            panic!("one step")
        };
        assert!(step.outputs.is_empty() && step.log.iter().any(|line| line.contains("unexpected type")));

        let data = raw_input(&step.input, generation).expect("it is base64");
        let wrap = function("WrapIntoEvent", &wrap_parameters("Binary"));
        let wrapped = run(&[wrap], generation, data).expect("it goes on");
        let error = apply(&*function(XML.0, XML.1), &mut context(generation), wrapped).unwrap_err();
        assert!(error.to_string().starts_with("Transform"), "{error}");
    }
}

fn wrap_parameters(value_type: &str) -> [(&str, &str); 5] {
    [
        ("ProfileName", "wp"),
        ("DeviceName", "wd"),
        ("ResourceName", "wr"),
        ("ValueType", value_type),
        ("MediaType", "image/x-test"),
    ]
}

/// What the target type `raw` handed to the first function: bytes in generation 3, which knows only base64; in
/// generation 4 the payload undecoded, base64 as the text it is.
fn raw_input(message: &[u8], generation: Generation) -> Option<Data> {
    let envelope = MessageEnvelope::from_json(message).expect("an envelope");
    match (envelope.payload, generation) {
        (Payload::Bytes(bytes), Generation::V3) => Some(Data::Bytes(bytes)),
        (Payload::Bytes(bytes), Generation::V4) => Some(Data::Text(base64::encode(&bytes))),
        (Payload::Json(json), Generation::V4) => Some(Data::Json(serde_json::from_str(json.get()).unwrap())),
        _ => None,
    }
}

fn without_ids_and_times(body: &[u8]) -> String {
    let text = std::str::from_utf8(body).expect("JSON is UTF-8");
    let id = Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
    let time = Regex::new(r#""origin":1\d{18},"#).unwrap();
    assert_eq!(
        (id.find_iter(text).count(), time.find_iter(text).count()),
        (3, 2),
        "{text}"
    );
    time.replace_all(&id.replace_all(text, "id"), "time").into_owned()
}

fn decompressed(body: &[u8]) -> String {
    let compressed = base64::decode(body).expect("base64");
    let mut text = String::new();
    if compressed.starts_with(&[0x1f, 0x8b]) {
        assert_eq!(
            compressed[..10],
            [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255],
            "gzip header"
        );
        flate2::read::GzDecoder::new(&compressed[..])
            .read_to_string(&mut text)
            .unwrap();
    } else {
        flate2::read::ZlibDecoder::new(&compressed[..])
            .read_to_string(&mut text)
            .unwrap();
    }
    text
}

/// Runs every step of every case in both generations and compares `view` of what comes out with `view` of the record.
#[track_caller]
fn assert_recorded(cases: &[Case], view: impl Fn(&[u8]) -> String) {
    let mut outputs = 0;
    for (name, functions) in cases {
        for (recorded, generation) in GENERATIONS {
            // given
            let pair = fixtures::pair(recorded, name).expect("the recording");
            let pipeline = functions
                .iter()
                .map(|(name, parameters)| function(name, parameters))
                .collect::<Vec<_>>();
            for step in pair.steps {
                let Some(event) = input(&step.input) else {
                    assert!(
                        step.outputs.is_empty(),
                        "{generation} {name} step {}: not decoded",
                        step.number
                    );
                    continue;
                };

                // when
                let output = run(&pipeline, generation, Data::Event(Arc::new(event)));

                // then
                let expected = step.outputs.iter().find_map(|output| match output {
                    Output::Http { body, .. } => Some(view(body)),
                    Output::Mqtt { .. } => None,
                });
                let actual = output.map(|data| view(&data.to_bytes(generation)));
                assert_eq!(actual, expected, "{generation} {name} step {}", step.number);
                outputs += usize::from(actual.is_some());
            }
        }
    }
    assert!(outputs > 3 * cases.len(), "only {outputs} outputs were compared");
}

fn run(pipeline: &[Arc<dyn AppFunction>], generation: Generation, mut data: Data) -> Option<Data> {
    let mut ctx = context(generation);
    for function in pipeline {
        match apply(&**function, &mut ctx, data).expect("no recorded case fails") {
            Flow::Continue(next) => data = next,
            Flow::ContinueWithPipelineInput => panic!("only exports hand on nothing"),
            Flow::Stop | Flow::Batch(_) => return None,
        }
    }
    Some(data)
}

/// The event in a recorded message as the recorded service saw it; `None` when it is none.
fn input(message: &[u8]) -> Option<Event> {
    let envelope = MessageEnvelope::from_json(message).ok()?;
    let mut event = decode_event(envelope.payload_bytes().ok()?, &envelope.content_type).ok()?;
    if matches!(envelope.payload, Payload::Json(_)) {
        event.origin = rounded(event.origin);
        for reading in &mut event.readings {
            reading.origin = rounded(reading.origin);
        }
    }
    // 4.0.1 drops unknown keys; ours keeps them, as 4.0.2 does.
    event.extensions.clear();
    let any_tags = |tags: &mut Tags| tags.values_mut().for_each(round);
    any_tags(&mut event.tags);
    for reading in &mut event.readings {
        any_tags(&mut reading.tags);
        if let ReadingValue::Object(value) = &mut reading.value {
            round(value);
        }
    }
    Some(event)
}

fn rounded(integer: i64) -> i64 {
    number::json(integer as f64)
        .parse()
        .expect("below 10^21 Go prints a float without exponent")
}

fn round(value: &mut Value) {
    match value {
        Value::Number(number) if !number.is_f64() => {
            let float = number.as_f64().expect("an integer has a nearest float");
            *number = number::json(float).parse().expect("Go's text of a float is JSON");
        }
        Value::Array(items) => items.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        _ => {}
    }
}

/// The XML with what stands between `<Tags>` and `</Tags>` in the order of its elements' text.
fn with_sorted_tags(xml: &str) -> String {
    let mut sorted = String::new();
    let mut rest = xml;
    while let Some((before, tags)) = rest.split_once("<Tags>") {
        let (mut tags, after) = tags.split_once("</Tags>").expect("tags end");
        let mut elements = BTreeMap::new();
        while let Some((name, behind)) = tags.strip_prefix('<').and_then(|tags| tags.split_once('>')) {
            let (content, next) = behind.split_once(&format!("</{name}>")).expect("a tag ends");
            elements.insert(name, content);
            tags = next;
        }
        sorted.push_str(&format!("{before}<Tags>{elements:?}</Tags>"));
        rest = after;
    }
    sorted + rest
}
