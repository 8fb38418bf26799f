//! What the commands write about an object.

use std::collections::BTreeMap;

use edgehold::{
    AttemptErrors, CorrelationId, DataKind, Destination, ErrorReason, PipelineId, PipelineVersion,
    ServiceKey, StoredInput,
};

use super::*;
use crate::command::Collection;

const NOW: Timestamp = Timestamp::from_unix_millis(1_795_373_112_345);

/// An object that has been given up three minutes ago.
fn dead(seq: i64, payload: &'static [u8]) -> StoredObject {
    StoredObject {
        id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
        seq,
        service_key: ServiceKey::try_new("app-http-export").unwrap(),
        pipeline_id: PipelineId::default_pipeline(),
        position: 1,
        version: PipelineVersion::of(&[]),
        correlation_id: CorrelationId::new("corr-1"),
        context: BTreeMap::from([("devicename".to_owned(), "Boiler".to_owned())]),
        input: StoredInput::Bytes {
            kind: DataKind::Event,
        },
        payload: payload.into(),
        attempts: 4,
        state: ObjectState::Error,
        created_at: Timestamp::from_unix_millis(NOW.as_unix_millis() - 3 * 60_000),
        last_attempt_at: Some(Timestamp::from_unix_millis(NOW.as_unix_millis() - 5_000)),
        not_before: None,
        last_error: Some("status 500\nfrom the far side".to_owned()),
        errors: AttemptErrors::default(),
        reason: Some(ErrorReason::RetriesExceeded),
        destination: Some(Destination::new("http://cloud:8080")),
        ended_at: Some(Timestamp::from_unix_millis(NOW.as_unix_millis() - 4_000)),
        crashes: 0,
    }
}

fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_table_has_its_titles_once_and_its_columns_in_line() {
    let mut table = Table::new(Collection::Dead);
    let text = written(|out| {
        table.write(&[dead(9, b"{\"v\": 1}")], NOW, out)?;
        table.write(&[], NOW, out)?;
        table.write(&[dead(10, b"\x1f\x8b\x00")], NOW, out)
    });
    assert_eq!(
        text,
        "SEQ  ID                                    PIPELINE          REASON            AGE  TRIED  ATTEMPTS  SIZE  \
         LAST ERROR                    PAYLOAD\n  \
         9  01890a5d-ac96-774b-bcce-b302099a8057  default-pipeline  retries_exceeded   3m     5s         4    8B  \
         status 500 from the far side  {\"v\": 1}\n \
         10  01890a5d-ac96-774b-bcce-b302099a8057  default-pipeline  retries_exceeded   3m     5s         4    3B  \
         status 500 from the far side  (binary)\n"
    );
}

#[test]
fn a_table_without_objects_is_nothing() {
    let mut table = Table::new(Collection::Waiting);
    assert_eq!(written(|out| table.write(&[], NOW, out)), "");
}

#[test]
fn a_record_is_one_line_with_all_its_keys() {
    let text = written(|out| write_json(&dead(9, b"{\"v\": 1}"), out));
    let version = PipelineVersion::of(&[]).to_string();
    assert_eq!(
        text,
        format!(
            "{{\"seq\":9,\"id\":\"01890a5d-ac96-774b-bcce-b302099a8057\",\"appServiceKey\":\"app-http-export\",\
             \"pipelineId\":\"default-pipeline\",\"pipelinePosition\":1,\"version\":\"{version}\",\
             \"correlationId\":\"corr-1\",\"contextData\":{{\"devicename\":\"Boiler\"}},\
             \"input\":{{\"kind\":\"event\",\"contentType\":null,\"topic\":null,\"form\":null}},\"state\":\"error\",\
             \"reason\":\"retries_exceeded\",\"attempts\":4,\"createdAt\":1795372932345,\
             \"lastAttemptAt\":1795373107345,\"notBefore\":null,\"endedAt\":1795373108345,\"crashes\":0,\
             \"lastError\":\"status 500\\nfrom the far side\",\"errors\":[],\"destination\":\"http://cloud:8080\",\
             \"payload\":\"eyJ2IjogMX0=\",\"payloadBytes\":8,\"payloadText\":\"{{\\\"v\\\": 1}}\"}}\n"
        )
    );
}

#[test]
fn a_record_of_bytes_that_are_no_text_has_them_in_base64_alone() {
    let mut object = dead(9, &[0xff, 0x00]);
    object.input = StoredInput::Delivery {
        content_type: "application/cbor".to_owned(),
        topic: "edgex/events/device/a".to_owned(),
        form: edgehold::PayloadForm::Base64,
    };
    let record: serde_json::Value = serde_json::from_str(&written(|out| write_json(&object, out))).unwrap();
    assert_eq!(record["payload"], "/wA=");
    assert_eq!(record["payloadText"], serde_json::Value::Null);
    assert_eq!(record["input"]["kind"], "delivery");
    assert_eq!(record["input"]["topic"], "edgex/events/device/a");
    assert_eq!(record["input"]["form"], "base64");
}

#[test]
fn a_page_shows_every_field_the_context_and_the_payload() {
    let text = written(|out| page::write(&dead(9, b"{\"v\":[1]}"), NOW, out));
    for line in [
        "id              01890a5d-ac96-774b-bcce-b302099a8057",
        "seq             9",
        "service key     app-http-export",
        "pipeline        default-pipeline",
        "position        1",
        "correlation id  corr-1",
        "state           error: retries_exceeded",
        "attempts        4",
        "created         2026-11-22T18:42:12.345Z (3m ago)",
        "last attempt    2026-11-22T18:45:07.345Z (5s ago)",
        "not before      -",
        "ended           2026-11-22T18:45:08.345Z (4s ago)",
        "crashes         0",
        "last error      status 500\\nfrom the far side",
        "destination     http://cloud:8080",
        "input           event",
        "size            9 bytes",
        "  devicename Boiler",
    ] {
        assert!(
            text.lines().any(|written| written == line),
            "{line:?} is not in\n{text}"
        );
    }
    assert!(
        text.ends_with("\npayload\n{\n  \"v\": [\n    1\n  ]\n}\n"),
        "{text}"
    );
}

#[test]
fn a_payload_is_shown_as_what_it_is_and_its_beginning_when_it_is_long() {
    let text = written(|out| page::write(&dead(9, b"<a>\n  <b/>\n</a>"), NOW, out));
    assert!(text.ends_with("\npayload\n<a>\n  <b/>\n</a>\n"), "{text}");

    let long: &'static [u8] = &[0xff; 5_000];
    let text = written(|out| page::write(&dead(9, long), NOW, out));
    assert!(text.contains("\n00000ff0  ff ff"), "{text}");
    assert!(
        text.ends_with("\n… 4096 of 5000 bytes are shown; --raw writes all of them\n"),
        "{text}"
    );
}
