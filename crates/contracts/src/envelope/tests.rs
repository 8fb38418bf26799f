use super::*;

fn read(message: &str) -> MessageEnvelope {
    MessageEnvelope::from_json(message.as_bytes()).unwrap()
}

#[test]
fn keys_match_in_any_case_and_the_last_duplicate_wins() {
    let envelope = read(
        r#"{"CORRELATIONID":"a","correlationid":"b","unknown":[{"payload":1}],"errorCode":null,
            "queryParams":{"ds-pushevent":"true","empty":null},"contenttype":"application/json"}"#,
    );
    assert_eq!(envelope.correlation_id, "b");
    assert_eq!(envelope.error_code, 0);
    assert_eq!(envelope.content_type, "application/json");
    assert_eq!(envelope.payload, Payload::Empty);
    assert_eq!(envelope.query_params["ds-pushevent"], "true");
    assert_eq!(envelope.query_params["empty"], "");
}

#[test]
fn every_payload_form_is_told_apart() {
    let payload = |text: &str| read(&format!(r#"{{"payload":{text}}}"#)).payload;
    assert_eq!(payload("null"), Payload::Empty);
    assert_eq!(payload(r#""aGVsbG8=""#), Payload::Bytes("hello".into()));
    assert_eq!(payload(r#""aGVsbG8\u003d""#), Payload::Bytes("hello".into()));
    assert_eq!(payload(r#""""#), Payload::Bytes(Bytes::new()));
    assert_eq!(
        payload(r#""request failed: \"x\"""#),
        Payload::Text("request failed: \"x\"".into())
    );
    for raw in [
        r#"{"origin": 1700000000000000001, "x":[1.50]}"#,
        "[1, 2]",
        "12345678901234567890",
        "true",
    ] {
        let parsed = payload(raw);
        assert!(matches!(parsed, Payload::Json(_)), "{raw}");
        assert_eq!(
            parsed.as_bytes().unwrap(),
            raw.as_bytes(),
            "the text is untouched"
        );
        assert_eq!(parsed.into_bytes().unwrap(), raw.as_bytes());
    }
}

#[test]
fn text_that_is_not_base64_is_no_bytes() {
    let envelope = read(r#"{"errorCode":1,"payload":"no such device","contentType":"text/plain"}"#);
    assert_eq!(envelope.payload_bytes(), Err(EnvelopeError::PayloadNotBase64));
}

#[test]
fn what_is_no_envelope_is_named() {
    let cases = [
        ("", true),
        ("not json", true),
        (r#"{"payload":null} {}"#, true),
        (r#"{"payload":{"a":}}"#, true),
        (r#"{"errorCode":"1"}"#, false),
        (r#"{"correlationID":7}"#, false),
        ("[]", false),
    ];
    for (message, is_syntax) in cases {
        let error = MessageEnvelope::from_json(message.as_bytes()).unwrap_err();
        assert_eq!(
            matches!(error, EnvelopeError::Decode(DecodeError::Syntax(_))),
            is_syntax,
            "{message}: {error:?}"
        );
    }
}

#[test]
fn a_deep_payload_passes_without_recursion() {
    let deep = format!(r#"{{"payload":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let envelope = read(&deep);
    assert_eq!(envelope.payload_bytes().unwrap().len(), 200_000);
    assert_eq!(envelope.to_cbor(), Err(EnvelopeError::PayloadNotCbor));
}

#[test]
fn each_generation_writes_its_own_payload_form() {
    let mut envelope = MessageEnvelope::new(
        "c-1".into(),
        Payload::json_text(r#"{"a":1}"#.into()).unwrap(),
        "application/json".into(),
    );
    envelope.query_params.insert("b".into(), "<2>".into());
    assert_eq!(
        String::from_utf8(envelope.to_json(Generation::V4)).unwrap(),
        r#"{"apiVersion":"v3","receivedTopic":"","correlationID":"c-1","requestID":"","errorCode":0,"payload":{"a":1},"contentType":"application/json","queryParams":{"b":"\u003c2\u003e"}}"#
    );
    assert_eq!(
        String::from_utf8(envelope.to_json(Generation::V3)).unwrap(),
        r#"{"apiVersion":"v3","receivedTopic":"","correlationID":"c-1","requestID":"","errorCode":0,"payload":"eyJhIjoxfQ==","contentType":"application/json","queryParams":{"b":"\u003c2\u003e"}}"#
    );
    envelope.payload = Payload::Bytes("hello".into());
    for generation in [Generation::V3, Generation::V4] {
        let text = String::from_utf8(envelope.to_json(generation)).unwrap();
        assert!(text.contains(r#""payload":"aGVsbG8=""#), "{text}");
    }
}

#[test]
fn cbor_envelopes_round_trip() {
    let payloads = [
        Payload::Empty,
        Payload::Bytes(Bytes::from_static(&[0, 0xff, 7])),
        Payload::Text("not base64".into()),
        Payload::Cbor(cbor_item()),
    ];
    for payload in payloads {
        let mut envelope = MessageEnvelope::new("c".into(), payload, "application/cbor".into());
        envelope.error_code = -1;
        envelope.query_params.insert("k".into(), "v".into());
        let message = envelope.to_cbor().unwrap();
        assert_eq!(MessageEnvelope::from_cbor(&message), Ok(envelope));
        assert!(
            MessageEnvelope::from_json(&message).is_err(),
            "the forms are not guessed"
        );
    }
}

#[test]
fn a_json_payload_is_nested_in_a_cbor_envelope() {
    let envelope = MessageEnvelope::new(
        "c".into(),
        Payload::json_text(r#"{"origin":1700000000000000001}"#.into()).unwrap(),
        "application/json".into(),
    );
    let read = MessageEnvelope::from_cbor(&envelope.to_cbor().unwrap()).unwrap();
    assert_eq!(read.content_type, "application/cbor");
    assert_eq!(read.payload, Payload::Cbor(cbor_item()));
}

/// `{"origin": 1700000000000000001}`
fn cbor_item() -> Bytes {
    let value = serde_json::json!({"origin": 1_700_000_000_000_000_001_i64});
    crate::cbor::to_vec(&value).unwrap().into()
}

#[test]
fn broken_cbor_is_an_error() {
    let message = MessageEnvelope::new("c".into(), Payload::Empty, "x".into())
        .to_cbor()
        .unwrap();
    for end in 0..message.len() {
        assert!(MessageEnvelope::from_cbor(&message[..end]).is_err(), "{end}");
    }
    // An array of 2^62 items, and a map as deep as it is long.
    assert!(MessageEnvelope::from_cbor(&[0x9b, 0x40, 0, 0, 0, 0, 0, 0, 0]).is_err());
    assert!(MessageEnvelope::from_cbor(&[0xa1; 100_000]).is_err());
}

#[test]
fn halves_of_surrogate_pairs_are_replaced_in_envelopes() {
    let envelope = read(r#"{"correlationID":"\ud83d","payload":"\ud83d x"}"#);
    assert_eq!(envelope.correlation_id, "\u{fffd}");
    assert_eq!(envelope.payload, Payload::Text("\u{fffd} x".into()));
    assert!(read(r#"{"payload":{"a":"\ud83d"}}"#).to_cbor().is_ok());
}
