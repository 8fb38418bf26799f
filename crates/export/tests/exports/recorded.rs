//! The requests that app-service-configurable 3.1.1 and 4.0.1 were recorded to make.

use std::collections::BTreeMap;

use edgehold_contracts::{Generation, MessageEnvelope, decode_event};
use edgehold_core::{Context, Data, ErrorClass, FunctionError};
use edgehold_test_support::{
    Answer, Behaviour, HttpSink, Received,
    fixtures::{self, Output, Pair, Step},
};

use super::{CONTINUE, Given, PERSIST, RETURN_INPUT, bytes, call, context_in, continued, export};

#[tokio::test]
async fn requests_are_those_edgex_made() {
    let secret_header: Given = &[
        ("Method", "put"),
        ("HeaderName", "Authorization"),
        ("SecretName", "http"),
        ("SecretValueKey", "headervalue"),
        ("HttpRequestHeaders", r#"{"X-Extra":"e1","x-lower":"e2"}"#),
    ];
    let placeholders = "/dev/{devicename}/{profilename}/{sourcename}?t={receivedtopic}";
    for (name, path, parameters) in [
        ("http-url-placeholder", placeholders, &[] as Given),
        ("http-put-secret-header", "/export", secret_header),
        ("http-redirect-302", "/export", &[]),
        ("http-error-500", "/export", &[]),
    ] {
        for (generation, pair) in recordings(name) {
            let sink = HttpSink::start().await.unwrap();
            let function = export(&sink.url(path), parameters);
            for step in pair.steps.iter().filter(|step| !step.outputs.is_empty()) {
                // given
                let Output::Http {
                    answered_status,
                    body,
                    ..
                } = &step.outputs[0]
                else {
                    panic!("{name} exports by HTTP")
                };
                sink.behave(Behaviour::status(*answered_status));

                // when
                let result = call(
                    &function,
                    &mut context_of(generation, step),
                    Data::Bytes(body.clone()),
                )
                .await;

                // then
                assert_eq!(result.is_ok(), *answered_status == 200, "{generation} {name}");
                assert_same_request(
                    &sink.take(),
                    &step.outputs[..1],
                    &format!("{generation} {name} {}", step.number),
                );
                if let Err(error) = result {
                    assert_logged(step, &error);
                    assert_eq!(error.class(), ErrorClass::Transient);
                }
            }
        }
    }
}

#[tokio::test]
async fn chains_of_exports_send_what_edgex_sent() {
    for (name, first) in [
        ("http-chain-response", &[] as Given),
        ("http-chain-return-input", &[RETURN_INPUT]),
        ("http-chain-continue-on-error", &[RETURN_INPUT, CONTINUE]),
    ] {
        for (generation, pair) in recordings(name) {
            let sink = HttpSink::start().await.unwrap();
            let mut down = HttpSink::start().await.unwrap();
            down.refuse().await;
            sink.behave(Answer::new(200).body("{\"ok\":true}\n").into());
            let fails = first.contains(&CONTINUE);
            let first = export(
                &if fails {
                    down.url("/none")
                } else {
                    sink.url("/first")
                },
                first,
            );
            let second = export(&sink.url("/second"), &[]);
            for step in &pair.steps {
                // given
                let Output::Http { body, .. } = &step.outputs[0] else {
                    panic!("{name} exports by HTTP")
                };
                let mut ctx = context_of(generation, step);

                // when
                let text = Data::Text(String::from_utf8(body.to_vec()).unwrap());
                let handed_on = continued(call(&first, &mut ctx, text).await);
                continued(call(&second, &mut ctx, handed_on).await);

                // then
                assert_same_request(
                    &sink.take(),
                    &step.outputs,
                    &format!("{generation} {name} {}", step.number),
                );
            }
        }
    }
}

#[tokio::test]
async fn messages_that_edgex_refused_to_send_are_not_sent() {
    for (name, path, parameters) in [
        (
            "http-persist-and-continue",
            "/export",
            &[PERSIST, CONTINUE, RETURN_INPUT] as Given,
        ),
        ("http-url-unknown-placeholder", "/dev/{nosuch}", &[PERSIST]),
    ] {
        for (generation, pair) in recordings(name) {
            let sink = HttpSink::start().await.unwrap();
            for step in &pair.steps {
                assert!(step.outputs.is_empty(), "{name}");
                let mut ctx = context_of(generation, step);
                let function = export(&sink.url(path), parameters);
                let error = call(&function, &mut ctx, bytes("data")).await.unwrap_err();
                // Unlike EdgeX the data is kept, for the error collection.
                assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
                assert_eq!(ctx.take_retry_data().expect("kept").payload, "data");
                assert_eq!(ctx.take_destination(), None);
                if name == "http-persist-and-continue" {
                    assert_logged(step, &error);
                } else {
                    assert!(error.to_string().contains("'{nosuch}'"), "{error}");
                }
            }
            assert_eq!(sink.count(), 0);
        }
    }
}

/// A case in both generations.
fn recordings(name: &str) -> [(Generation, Pair); 2] {
    [
        (
            Generation::V3,
            fixtures::pair(fixtures::Generation::V3, name).unwrap(),
        ),
        (
            Generation::V4,
            fixtures::pair(fixtures::Generation::V4, name).unwrap(),
        ),
    ]
}

/// What is recorded, but for the names of host and client.
#[track_caller]
fn assert_same_request(actual: &[Received], expected: &[Output], what: &str) {
    let compared = |headers: &[(String, String)]| -> BTreeMap<String, String> {
        let left_out = ["Host", "User-Agent", "Accept-Encoding", "Accept"];
        headers
            .iter()
            .filter(|(name, _)| !left_out.contains(&name.as_str()))
            .cloned()
            .collect()
    };
    assert_eq!(actual.len(), expected.len(), "{what}: number of requests");
    for (actual, expected) in actual.iter().zip(expected) {
        let Output::Http {
            method,
            target,
            headers,
            body,
            ..
        } = expected
        else {
            panic!("{what}: only HTTP here")
        };
        assert_eq!((&actual.method, &actual.target), (method, target), "{what}");
        assert_eq!(compared(&actual.headers), compared(headers), "{what}");
        assert_eq!(&actual.body, body, "{what}");
    }
}

#[track_caller]
fn assert_logged(step: &Step, error: &FunctionError) {
    let logged = step.log.iter().any(|line| line.contains(&error.to_string()));
    assert!(logged, "'{error}' is not in {:#?}", step.log);
}

/// The context of the event in a recorded step.
fn context_of(generation: Generation, step: &Step) -> Context {
    let envelope = MessageEnvelope::from_json(&step.input).unwrap();
    let event = decode_event(envelope.payload_bytes().unwrap(), &envelope.content_type).unwrap();
    let mut ctx = context_in(generation);
    ctx.add_value(Context::DEVICE_NAME, event.device_name);
    ctx.add_value(Context::PROFILE_NAME, event.profile_name);
    ctx.add_value(Context::SOURCE_NAME, event.source_name);
    ctx.add_value(Context::RECEIVED_TOPIC, &step.topic);
    ctx
}
