use edgehold_core::{Ack, BytePermit};

use super::*;

fn opened(body: Body) -> Received {
    let incoming = Incoming {
        topic: "edgex/t".to_owned(),
        body,
        ack: Ack::none(),
        permit: BytePermit::none(),
    };
    let delivery = open(incoming);
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
        connection,
        filters: vec![TopicFilter::all()],
        qos: Qos::AtLeastOnce,
        budget: ByteBudget::new(1),
    };
    let error = MessageBusTrigger::try_new(settings)
        .err()
        .expect("a session needs a name");
    assert!(error.to_string().contains("needs a client id"), "{error}");
}
