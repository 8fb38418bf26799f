//! What real EdgeX services sent and received, against our reading and writing of it.

use edgehold_contracts::{
    AddEventRequest, ContentType, Event, Generation, MessageEnvelope, Metric, Payload, SystemEvent,
    decode_event, number,
};
use edgehold_test_support::fixtures::{self, Output, RecordedMessage};
use serde_json::Value;

const GENERATIONS: [(Generation, fixtures::Generation); 2] = [
    (Generation::V3, fixtures::Generation::V3),
    (Generation::V4, fixtures::Generation::V4),
];

#[track_caller]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// One test for each recorded message, by the name of its file: what is decoded and encoded again has the same bytes.
macro_rules! a_test_each {
    ($($module:ident $generation:ident: [$($case:ident)*])*) => {$(
        mod $module {
            use super::{Generation, check_message, fixtures};
            $(
                #[test]
                fn $case() {
                    let message = fixtures::message(fixtures::Generation::$generation, stringify!($case));
                    check_message(Generation::$generation, &message.unwrap());
                }
            )*
        }
    )*};
}
edgehold_test_support::recorded_messages!(a_test_each);

fn check_message(generation: Generation, message: &RecordedMessage) {
    let name = message.file.as_str();
    let envelope = MessageEnvelope::from_json(&message.payload).expect(name);
    assert_eq!(
        text(&envelope.to_json(generation)),
        text(&message.payload),
        "{name}"
    );
    let payload = envelope.payload_bytes().expect(name);
    let content_type = ContentType::parse(&envelope.content_type).expect(name);
    match message.topic.split('/').nth(1) {
        Some("events") => check_event(generation, payload, content_type, name),
        Some("telemetry") => {
            let metric = Metric::decode(payload, content_type).expect(name);
            assert_eq!(text(&metric.to_json()), text(payload), "{name}");
        }
        Some("system-events") => {
            let event = SystemEvent::decode(payload, content_type).expect(name);
            let sorted = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
            assert_eq!(sorted(&event.to_json()), sorted(payload), "{name}");
        }
        // Between other services, which is none of our shapes.
        Some("device-virtual" | "response" | "configs") => {}
        _ => panic!("{name}: {} is not known", message.topic),
    }
}

fn check_event(generation: Generation, payload: &[u8], content_type: ContentType, name: &str) {
    let request = AddEventRequest::decode(payload, content_type).expect(name);
    assert!(request.event.extensions.is_empty(), "{name}");
    assert_eq!(
        decode_event(payload, content_type.as_str()).as_ref(),
        Ok(&request.event),
        "{name}"
    );
    match content_type {
        ContentType::Json => {
            assert_eq!(text(&request.to_json(generation)), text(payload), "{name}");
        }
        ContentType::Cbor => {
            let encoded = request.to_cbor(generation);
            // Go writes the keys of tags in random order.
            if request.event.tags.is_empty()
                && request
                    .event
                    .readings
                    .iter()
                    .all(|reading| reading.tags.len() < 2)
            {
                assert_eq!(encoded, payload, "{name}");
            }
            assert_eq!(
                AddEventRequest::decode(&encoded, content_type).as_ref(),
                Ok(&request),
                "{name}"
            );
        }
    }
    // Whatever is written by either generation is read by us to the same event.
    for generation in [Generation::V3, Generation::V4] {
        let json = request.event.to_json(generation);
        let again = decode_event(&json, "application/json").expect(name);
        // Compared as written: a whole float from CBOR (2.0) is an integer in JSON.
        assert_eq!(text(&again.to_json(generation)), text(&json), "{name}");
        let cbor = request.event.to_cbor(generation);
        assert_eq!(
            decode_event(&cbor, "application/cbor").as_ref(),
            Ok(&request.event),
            "{name}"
        );
    }
}

struct Step {
    name: String,
    input: Vec<u8>,
    output: Option<Vec<u8>>,
    log: Vec<String>,
}

fn steps(generation: fixtures::Generation, case: &str) -> Vec<Step> {
    let pair = fixtures::pair(generation, case).unwrap();
    let step = |step: fixtures::Step| Step {
        name: format!("{generation} {case} step {}", step.number),
        input: step.input.to_vec(),
        output: step.outputs.into_iter().next().map(|output| match output {
            Output::Http { body, .. } => body.to_vec(),
            Output::Mqtt { payload, .. } => payload.to_vec(),
        }),
        log: step.log,
    };
    pair.steps.into_iter().map(step).collect()
}

fn event_of(envelope: &MessageEnvelope, name: &str) -> Event {
    let payload = envelope.payload_bytes().expect(name);
    decode_event(payload, &envelope.content_type).expect(name)
}

/// What the original made of our exact text when the event came as a raw JSON payload: every number went through a float64.
fn through_float64(json: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut escaped = false;
    let mut digits = String::new();
    for c in json.chars() {
        if !in_string && (c.is_ascii_digit() || (!digits.is_empty() && matches!(c, '.' | 'e' | '+' | '-'))) {
            digits.push(c);
            continue;
        }
        if !digits.is_empty() {
            out.push_str(&number::json(digits.parse().unwrap()));
            digits.clear();
        }
        if c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && c == '\\' && !escaped;
        out.push(c);
    }
    out
}

#[test]
fn exported_events_are_those_of_the_original() {
    let cases = [
        "http-export-default",
        "http-export-cbor-input",
        "http-export-base64-input",
        "transform-json",
        "addtags",
    ];
    for (generation, recorded) in GENERATIONS {
        let mut compared = 0;
        for case in cases {
            // Generation 3 has no such setting.
            if (generation, case) == (Generation::V3, "http-export-base64-input") {
                continue;
            }
            for step in steps(recorded, case) {
                let Some(output) = step.output else { continue };
                let envelope = MessageEnvelope::from_json(&step.input).expect(&step.name);
                let mut event = event_of(&envelope, &step.name);
                if case == "addtags" {
                    for (name, value) in [
                        ("GatewayId", "HoustonStore000123"),
                        ("Latitude", "29.630771"),
                        ("Longitude", "-95.377603"),
                    ] {
                        event.tags.insert(name.into(), value.into());
                    }
                }
                // Recorded from 4.0.1, which still dropped unknown keys.
                event.extensions.clear();

                let ours = event.to_json(generation);
                let lost_precision =
                    generation == Generation::V4 && matches!(envelope.payload, Payload::Json(_));
                // 12345678901234567890 in an object value was a float64 in both generations.
                let has_big_object = text(&ours).contains("12345678901234567890");
                if lost_precision || has_big_object {
                    assert_eq!(
                        through_float64(text(&ours)),
                        through_float64(text(&output)),
                        "{}",
                        step.name
                    );
                } else {
                    assert_eq!(text(&ours), text(&output), "{}", step.name);
                }
                compared += 1;
            }
        }
        assert!(compared > 50, "{generation}: {compared}");
    }
}

#[test]
fn large_integers_stay_exact_in_every_envelope_form() {
    for (_, recorded) in GENERATIONS {
        let step = steps(recorded, "http-export-default")
            .into_iter()
            .find(|step| step.name.ends_with(" 29"))
            .unwrap();
        let envelope = MessageEnvelope::from_json(&step.input).unwrap();
        let event = event_of(&envelope, &step.name);
        assert_eq!(event.origin, 1_700_000_000_000_000_003);
        for generation in [Generation::V3, Generation::V4] {
            let json = event.to_json(generation);
            assert!(text(&json).contains(r#""origin":1700000000000000003,"#));
            assert!(text(&json).contains(r#""e":12345678901234567890"#));
        }
    }
}

#[test]
fn bad_input_is_refused_in_the_originals_words() {
    for (generation, recorded) in GENERATIONS {
        let mut refused = 0;
        for step in steps(recorded, "http-export-bad-input") {
            let envelope = MessageEnvelope::from_json(&step.input).expect(&step.name);
            let payload = envelope.payload_bytes().expect(&step.name);
            match (decode_event(payload, &envelope.content_type), &step.output) {
                (Ok(event), Some(output)) => {
                    assert_eq!(text(&event.to_json(generation)), text(output), "{}", step.name);
                }
                (Err(error), None) => {
                    let ours = format!(
                        "unable to process payload {}. X-Correlation-ID={}",
                        error.edgex_text(generation),
                        envelope.correlation_id
                    );
                    assert!(
                        step.log.iter().any(|line| line.contains(&ours)),
                        "{}\n{ours}\n{:#?}",
                        step.name,
                        step.log
                    );
                    refused += 1;
                }
                (result, output) => panic!("{}: {result:?}, {output:?}", step.name),
            }
        }
        assert!(refused > 5);
    }
}

#[test]
fn the_http_trigger_answers_in_the_originals_words() {
    let names = [
        "array",
        "bad-type",
        "bad-value",
        "bare-event",
        "cbor-type-json-body",
        "charset",
        "empty-body",
        "empty-object",
        "no-content-type",
        "v2",
    ];
    for (generation, recorded) in GENERATIONS {
        for name in names {
            let exchange = |kind: &str| {
                let bytes = fixtures::read(recorded, &format!("rest/trigger-{name}.{kind}")).unwrap();
                let (head, body) = text(&bytes).split_once("\r\n\r\n").unwrap();
                (head.to_owned(), body.to_owned())
            };
            let (request, body) = exchange("request");
            let (response, answer) = exchange("response");
            let content_type = request
                .lines()
                .find_map(|line| line.strip_prefix("Content-Type: "))
                .unwrap_or_default();
            match decode_event(body.as_bytes(), content_type) {
                Ok(_) => assert!(
                    response.starts_with("HTTP/1.1 200"),
                    "{generation} {name}: {response}"
                ),
                Err(error) => assert_eq!(
                    format!("unable to process payload {}", error.edgex_text(generation)),
                    answer.trim_end_matches('\n'),
                    "{generation} {name}"
                ),
            }
        }
    }
}
