//! What real EdgeX services sent and received, against our reading and writing of it.

use std::fs;
use std::path::{Path, PathBuf};

use edgehold_contracts::{
    AddEventRequest, ContentType, Event, Generation, MessageEnvelope, Metric, Payload, SystemEvent,
    decode_event, number,
};
use serde_json::Value;

const GENERATIONS: [(Generation, &str); 2] = [(Generation::V3, "v3"), (Generation::V4, "v4")];

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

#[track_caller]
fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

struct Message {
    file: String,
    topic: String,
    bytes: Vec<u8>,
}

fn messages(folder: &str) -> Vec<Message> {
    let folder = testdata(folder).join("messages");
    let index: Vec<Value> = serde_json::from_slice(&read(&folder.join("index.json"))).unwrap();
    let messages: Vec<Message> = index
        .iter()
        .map(|entry| {
            let file = entry["file"].as_str().unwrap().to_owned();
            Message {
                topic: entry["topic"].as_str().unwrap().to_owned(),
                bytes: read(&folder.join(&file)),
                file,
            }
        })
        .collect();
    assert!(messages.len() > 50, "the index names the messages");
    messages
}

#[test]
fn envelopes_are_written_as_they_came() {
    for (generation, folder) in GENERATIONS {
        for message in messages(folder) {
            let envelope = MessageEnvelope::from_json(&message.bytes).expect(&message.file);
            assert_eq!(
                text(&envelope.to_json(generation)),
                text(&message.bytes),
                "{folder}/{}",
                message.file
            );
        }
    }
}

#[test]
fn every_payload_decodes_and_encodes_to_the_same_bytes() {
    for (generation, folder) in GENERATIONS {
        let (mut events, mut metrics, mut system_events) = (0, 0, 0);
        for message in messages(folder) {
            let name = format!("{folder}/{}", message.file);
            let envelope = MessageEnvelope::from_json(&message.bytes).expect(&name);
            let payload = envelope.payload_bytes().expect(&name);
            let content_type = ContentType::parse(&envelope.content_type).expect(&name);
            if message.topic.starts_with("edgex/events/") {
                check_event(generation, payload, content_type, &name);
                events += 1;
            } else if message.topic.starts_with("edgex/telemetry/") {
                let metric = Metric::decode(payload, content_type).expect(&name);
                assert_eq!(text(&metric.to_json()), text(payload), "{name}");
                metrics += 1;
            } else if message.topic.starts_with("edgex/system-events/") {
                let event = SystemEvent::decode(payload, content_type).expect(&name);
                let sorted = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
                assert_eq!(sorted(&event.to_json()), sorted(payload), "{name}");
                system_events += 1;
            }
        }
        assert!(
            events > 30 && metrics > 15 && system_events > 2,
            "{folder}: {events} {metrics} {system_events}"
        );
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

fn steps(folder: &str, case: &str) -> Vec<Step> {
    let folder = testdata(folder).join("pairs").join(case);
    let case: Value = serde_json::from_slice(&read(&folder.join("case.json"))).unwrap();
    let strings = |value: &Value| -> Vec<String> {
        let items = value.as_array().unwrap();
        items
            .iter()
            .map(|item| item.as_str().unwrap().to_owned())
            .collect()
    };
    case["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            let input = folder.join(step["inputFile"].as_str().unwrap());
            Step {
                name: input.display().to_string(),
                input: read(&input),
                output: step["outputs"][0]["file"]
                    .as_str()
                    .map(|file| read(&folder.join(file))),
                log: strings(&step["log"]),
            }
        })
        .collect()
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
    for (generation, folder) in GENERATIONS {
        let mut compared = 0;
        for case in cases {
            if !testdata(folder).join("pairs").join(case).exists() {
                assert_eq!((folder, case), ("v3", "http-export-base64-input"));
                continue;
            }
            for step in steps(folder, case) {
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
        assert!(compared > 50, "{folder}: {compared}");
    }
}

#[test]
fn large_integers_stay_exact_in_every_envelope_form() {
    for (_, folder) in GENERATIONS {
        let step = steps(folder, "http-export-default")
            .into_iter()
            .find(|step| step.name.ends_with("step-29.in"))
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
    for (generation, folder) in GENERATIONS {
        let mut refused = 0;
        for step in steps(folder, "http-export-bad-input") {
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
    for (generation, folder) in GENERATIONS {
        for name in names {
            let exchange = |kind: &str| {
                let bytes = read(&testdata(folder).join(format!("rest/trigger-{name}.{kind}")));
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
                    "{folder} {name}: {response}"
                ),
                Err(error) => assert_eq!(
                    format!("unable to process payload {}", error.edgex_text(generation)),
                    answer.trim_end_matches('\n'),
                    "{folder} {name}"
                ),
            }
        }
    }
}
