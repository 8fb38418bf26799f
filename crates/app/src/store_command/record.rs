//! A stored object as one JSON object: what scripts read. Keys are never renamed and always there; what an object does
//! not have is `null`.

use std::collections::BTreeMap;

use edgehold::{StoredInput, StoredObject, Timestamp};
use serde::Serialize;

use super::state_name;

/// The keys, in the order in which they are written. Times are milliseconds since 1970, sizes bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record<'a> {
    seq: i64,
    id: String,
    app_service_key: &'a str,
    pipeline_id: &'a str,
    pipeline_position: u32,
    version: String,
    correlation_id: &'a str,
    context_data: &'a BTreeMap<String, String>,
    input: Input<'a>,
    state: &'static str,
    reason: Option<&'static str>,
    attempts: u32,
    created_at: i64,
    last_attempt_at: Option<i64>,
    not_before: Option<i64>,
    ended_at: Option<i64>,
    crashes: u32,
    last_error: Option<&'a str>,
    destination: Option<&'a str>,
    payload_bytes: usize,
    payload: String,
    payload_text: Option<&'a str>,
}

/// What the payload is: `kind` is `delivery` (with content type, topic, and how the payload stood in its message:
/// `bytes`, `base64`, `text` or `json`) or the form the next function gets it in.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Input<'a> {
    kind: &'a str,
    content_type: Option<&'a str>,
    topic: Option<&'a str>,
    form: Option<&'static str>,
}

impl<'a> Record<'a> {
    pub(super) fn of(object: &'a StoredObject) -> Self {
        let input = match &object.input {
            StoredInput::Delivery {
                content_type,
                topic,
                form,
            } => Input {
                kind: "delivery",
                content_type: Some(content_type),
                topic: Some(topic),
                form: Some(form.as_str()),
            },
            StoredInput::Bytes { kind } => Input {
                kind: kind.as_str(),
                content_type: None,
                topic: None,
                form: None,
            },
        };
        Self {
            seq: object.seq,
            id: object.id.to_string(),
            app_service_key: object.service_key.as_str(),
            pipeline_id: object.pipeline_id.as_str(),
            pipeline_position: object.position,
            version: object.version.to_string(),
            correlation_id: object.correlation_id.as_str(),
            context_data: &object.context,
            input,
            state: state_name(object.state),
            reason: object.reason.map(edgehold::ErrorReason::as_str),
            attempts: object.attempts,
            created_at: object.created_at.as_unix_millis(),
            last_attempt_at: object.last_attempt_at.map(Timestamp::as_unix_millis),
            not_before: object.not_before.map(Timestamp::as_unix_millis),
            ended_at: object.ended_at.map(Timestamp::as_unix_millis),
            crashes: object.crashes,
            last_error: object.last_error.as_deref(),
            destination: object.destination.as_ref().map(edgehold::Destination::as_str),
            payload_bytes: object.payload.len(),
            payload: base64_simd::STANDARD.encode_to_string(&object.payload),
            payload_text: std::str::from_utf8(&object.payload).ok(),
        }
    }
}
