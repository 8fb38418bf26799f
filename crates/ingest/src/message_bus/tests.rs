use edgehold_contracts::{Generation, MessageEnvelope};
use edgehold_core::{Ack, BytePermit};

use super::*;

fn opened(body: Body) -> Received {
    opened_as(EnvelopeForm::Json, body)
}

fn opened_as(form: EnvelopeForm, body: Body) -> Received {
    let incoming = Incoming {
        topic: "edgex/t".to_owned(),
        body,
        ack: Ack::none(),
        permit: BytePermit::none(),
    };
    let delivery = open(incoming, form);
    assert_eq!(delivery.topic, "edgex/t");
    delivery.received
}

#[track_caller]
fn message(raw: &'static str) -> (Bytes, String, String) {
    match opened(Body::Whole(Bytes::from_static(raw.as_bytes()))) {
        Received::Message {
            payload,
            content_type,
            correlation_id,
            ..
        } => (payload, content_type, correlation_id.as_str().to_owned()),
        Received::Undecodable { reason, .. } => panic!("undecodable: {reason}"),
    }
}

#[track_caller]
fn undecodable(body: Body) -> (Bytes, String) {
    match opened(body) {
        Received::Undecodable { raw, reason } => (raw, reason),
        Received::Message { payload, .. } => panic!("a message of {} bytes", payload.len()),
    }
}

#[test]
fn a_payload_of_either_generation_comes_out_as_its_bytes() {
    let of_three = r#"{"correlationID":"c","payload":"eyJhIjoxfQ==","contentType":"application/json"}"#;
    let of_four =
        r#"{"correlationID":"","payload":{"origin":1712345678901234567},"contentType":"application/json"}"#;
    assert_eq!(
        message(of_three),
        (
            Bytes::from(r#"{"a":1}"#),
            "application/json".to_owned(),
            "c".to_owned()
        )
    );
    // Digit by digit, and the missing correlation id is not made up
    assert_eq!(
        message(of_four),
        (
            Bytes::from(r#"{"origin":1712345678901234567}"#),
            "application/json".to_owned(),
            String::new()
        )
    );
}

#[test]
fn an_error_code_makes_no_difference() {
    let raw = r#"{"errorCode":1,"payload":"eyJhIjoxfQ==","contentType":"application/json"}"#;
    assert_eq!(message(raw).0, r#"{"a":1}"#);
}

#[test]
fn what_is_no_envelope_keeps_all_its_bytes_and_says_why() {
    for raw in ["no JSON", r#"{"errorCode":"1"}"#, "{} trailing", ""] {
        let body = Body::Whole(Bytes::from(raw));
        let (kept, reason) = undecodable(body);
        assert_eq!(kept, raw);
        assert!(!reason.is_empty());
    }
    let (_, reason) = undecodable(Body::Whole(Bytes::from("no JSON")));
    assert!(
        reason.starts_with("message is not an envelope: "),
        "the cause is missing: {reason}"
    );
}

#[test]
fn a_text_that_is_not_base64_is_told_apart() {
    let received = opened(Body::Whole(Bytes::from(r#"{"payload":"not base64!"}"#)));
    let Received::Message { payload, form, .. } = received else {
        panic!("{received:?}")
    };
    assert_eq!((&payload[..], form), (&b"not base64!"[..], PayloadForm::Text));
}

#[test]
fn no_payload_is_told_apart_from_one_without_bytes() {
    for (text, expected) in [
        (r#"{"payload":null}"#, PayloadForm::Json),
        ("{}", PayloadForm::Json),
        (r#"{"payload":""}"#, PayloadForm::Base64),
    ] {
        let received = opened(Body::Whole(Bytes::from(text)));
        let Received::Message { payload, form, .. } = received else {
            panic!("{received:?}")
        };
        assert_eq!((&payload[..], form), (&b""[..], expected), "{text}");
    }
}

#[test]
fn a_bus_of_one_encoding_takes_no_envelope_of_the_other() {
    // Given one envelope in both encodings
    let payload = Payload::json_text(r#"{"a":1}"#.to_owned()).unwrap();
    let envelope = MessageEnvelope::new("c".to_owned(), payload, "application/json".to_owned());
    let cbor = Bytes::from(envelope.to_cbor().unwrap());
    let json = Bytes::from(envelope.to_json(Generation::V4));

    // Then each opens on its own bus, where the nested payload keeps its encoding
    let received = opened_as(EnvelopeForm::Cbor, Body::Whole(cbor.clone()));
    let Received::Message {
        payload,
        form,
        content_type,
        correlation_id,
    } = received
    else {
        panic!("{received:?}")
    };
    assert_eq!(payload, &b"\xa1\x61a\x01"[..]);
    assert_eq!(form, PayloadForm::Bytes);
    assert_eq!(content_type, "application/cbor");
    assert_eq!(correlation_id.as_str(), "c");
    let received = opened(Body::Whole(json.clone()));
    assert!(matches!(received, Received::Message { .. }), "{received:?}");

    // And is whole, and no envelope, on the other
    let received = opened_as(EnvelopeForm::Cbor, Body::Whole(json.clone()));
    assert!(
        matches!(&received, Received::Undecodable { raw, .. } if *raw == json),
        "{received:?}"
    );
    let received = opened(Body::Whole(cbor.clone()));
    assert!(
        matches!(&received, Received::Undecodable { raw, .. } if *raw == cbor),
        "{received:?}"
    );
}

#[test]
fn a_message_set_aside_names_its_size_and_the_limit() {
    let (raw, reason) = undecodable(Body::SetAside {
        bytes: 70_000,
        limit: 65_536,
    });
    assert!(raw.is_empty());
    assert!(reason.contains("70000") && reason.contains("65536"), "{reason}");
}

#[test]
fn settings_that_cannot_work_are_refused_with_their_cause() {
    let mut connection = ConnectionSettings::new("localhost", 1883, "");
    connection.clean_session = false;
    let settings = MessageBusSettings {
        former_filters: Vec::new(),
        connection,
        filters: vec![TopicFilter::all()],
        qos: Qos::AtLeastOnce,
        budget: ByteBudget::new(1),
        envelope_form: EnvelopeForm::Json,
    };
    let error = MessageBusTrigger::try_new(settings)
        .err()
        .expect("a session needs a name");
    assert!(error.to_string().contains("needs a client id"), "{error}");
}
