//! A stored object as one JSON object, and back: what custom stores, exports and scripts hold.
//!
//! Owns the keys. They are never renamed and always written; what an object does not have is `null`. Reading is strict
//! ([`from_json`]) or, for stores, which must never fail a page, lenient ([`read`]).
//!
//! | key | value |
//! | --- | --- |
//! | `seq` | number; 0 where the store has given none |
//! | `id` | UUID |
//! | `appServiceKey`, `pipelineId`, `version`, `correlationId` | text |
//! | `pipelinePosition`, `attempts`, `crashes` | number |
//! | `contextData` | object of texts |
//! | `input` | `{"kind":"delivery","contentType","topic","form"}` with a form of `bytes`, `base64`, `text`, `json`; else `{"kind"}` alone, the form the next function gets the payload in |
//! | `state` | `new`, `success`, `failed`, `error`, `batched` |
//! | `reason`, `lastError`, `destination` | text or `null` |
//! | `errors` | array of `{"attempt","at","error"}`: what went wrong at each counted attempt; nothing when it is missing |
//! | `createdAt`, `lastAttemptAt`, `notBefore`, `endedAt` | milliseconds since 1970, or `null` |
//! | `payload` | base64 |

use std::{borrow::Cow, collections::BTreeMap};

use base64_simd::STANDARD;
use edgehold_core::{
    AttemptError, CorrelationId, DataKind, Destination, ErrorReason, ObjectState, PayloadForm, PipelineId,
    PipelineVersion, ServiceKey, StoredInput, StoredObject, StoredObjectId, Timestamp,
};
use serde::{Deserialize, Serialize};

/// Why a record is no stored object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is not JSON, a key is missing, or a value has the wrong type.
    #[error("it is not the JSON of a stored object: {0}")]
    Json(#[from] serde_json::Error),
    /// A value says nothing.
    #[error("'{key}': {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
}

/// The keys, in the order in which they are written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record<'a> {
    seq: i64,
    id: Cow<'a, str>,
    app_service_key: Cow<'a, str>,
    pipeline_id: Cow<'a, str>,
    pipeline_position: u32,
    version: Cow<'a, str>,
    correlation_id: Cow<'a, str>,
    context_data: Cow<'a, BTreeMap<String, String>>,
    input: Input<'a>,
    state: Cow<'a, str>,
    reason: Option<Cow<'a, str>>,
    attempts: u32,
    created_at: i64,
    last_attempt_at: Option<i64>,
    not_before: Option<i64>,
    ended_at: Option<i64>,
    crashes: u32,
    last_error: Option<Cow<'a, str>>,
    #[serde(default)]
    errors: Vec<Attempt<'a>>,
    destination: Option<Cow<'a, str>>,
    payload: Cow<'a, str>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Attempt<'a> {
    attempt: u32,
    at: i64,
    error: Cow<'a, str>,
}

impl<'a> From<&'a AttemptError> for Attempt<'a> {
    fn from(error: &'a AttemptError) -> Self {
        Self {
            attempt: error.attempt,
            at: error.at.as_unix_millis(),
            error: error.error.as_str().into(),
        }
    }
}

impl From<Attempt<'_>> for AttemptError {
    fn from(attempt: Attempt<'_>) -> Self {
        Self::new(
            attempt.attempt,
            Timestamp::from_unix_millis(attempt.at),
            &attempt.error,
        )
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Input<'a> {
    kind: Cow<'a, str>,
    content_type: Option<Cow<'a, str>>,
    topic: Option<Cow<'a, str>>,
    form: Option<Cow<'a, str>>,
}

/// The `kind` of an input that is a whole delivery.
const DELIVERY: &str = "delivery";

impl<'a> From<&'a StoredObject> for Record<'a> {
    fn from(object: &'a StoredObject) -> Self {
        let input = match &object.input {
            StoredInput::Delivery {
                content_type,
                topic,
                form,
            } => Input {
                kind: DELIVERY.into(),
                content_type: Some(content_type.into()),
                topic: Some(topic.into()),
                form: Some(form.as_str().into()),
            },
            StoredInput::Bytes { kind } => Input {
                kind: kind.as_str().into(),
                content_type: None,
                topic: None,
                form: None,
            },
        };
        Self {
            seq: object.seq,
            id: object.id.to_string().into(),
            app_service_key: object.service_key.as_str().into(),
            pipeline_id: object.pipeline_id.as_str().into(),
            pipeline_position: object.position,
            version: object.version.as_str().into(),
            correlation_id: object.correlation_id.as_str().into(),
            context_data: Cow::Borrowed(&object.context),
            input,
            state: object.state.as_str().into(),
            reason: object.reason.map(|reason| reason.as_str().into()),
            attempts: object.attempts,
            created_at: object.created_at.as_unix_millis(),
            last_attempt_at: object.last_attempt_at.map(Timestamp::as_unix_millis),
            not_before: object.not_before.map(Timestamp::as_unix_millis),
            ended_at: object.ended_at.map(Timestamp::as_unix_millis),
            crashes: object.crashes,
            last_error: object.last_error.as_deref().map(Cow::from),
            errors: object.errors.as_slice().iter().map(Attempt::from).collect(),
            destination: object.destination.as_ref().map(|to| to.as_str().into()),
            payload: STANDARD.encode_to_string(&object.payload).into(),
        }
    }
}

impl TryFrom<Record<'_>> for StoredObject {
    type Error = RecordError;

    fn try_from(record: Record<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            id: valid("id", record.id.parse())?,
            seq: record.seq,
            service_key: valid("appServiceKey", ServiceKey::try_new(&record.app_service_key))?,
            pipeline_id: valid("pipelineId", PipelineId::try_new(&record.pipeline_id))?,
            position: record.pipeline_position,
            version: PipelineVersion::from_stored(record.version),
            correlation_id: CorrelationId::new(&record.correlation_id),
            context: record.context_data.into_owned(),
            input: record.input.try_into()?,
            payload: valid("payload", STANDARD.decode_to_vec(record.payload.as_bytes()))?.into(),
            attempts: record.attempts,
            state: valid("state", ObjectState::from_name(&record.state))?,
            created_at: Timestamp::from_unix_millis(record.created_at),
            last_attempt_at: record.last_attempt_at.map(Timestamp::from_unix_millis),
            not_before: record.not_before.map(Timestamp::from_unix_millis),
            last_error: record.last_error.map(Cow::into_owned),
            errors: record.errors.into_iter().map(AttemptError::from).collect(),
            reason: valid(
                "reason",
                record.reason.as_deref().map(ErrorReason::from_name).transpose(),
            )?,
            destination: record.destination.as_deref().map(Destination::new),
            ended_at: record.ended_at.map(Timestamp::from_unix_millis),
            crashes: record.crashes,
        })
    }
}

impl TryFrom<Input<'_>> for StoredInput {
    type Error = RecordError;

    fn try_from(input: Input<'_>) -> Result<Self, RecordError> {
        if input.kind != DELIVERY {
            let kind = DataKind::from_name(&input.kind).ok_or_else(|| unknown("input kind", &input.kind));
            return Ok(Self::Bytes {
                kind: valid("input", kind)?,
            });
        }
        let form = input.form.unwrap_or_default();
        let form = PayloadForm::from_name(&form).ok_or_else(|| unknown("form of a payload", &form));
        Ok(Self::Delivery {
            content_type: input.content_type.unwrap_or_default().into_owned(),
            topic: input.topic.unwrap_or_default().into_owned(),
            form: valid("input", form)?,
        })
    }
}

fn unknown(what: &str, name: &str) -> String {
    format!("{name:?} is not a known {what}")
}

fn valid<T, E: std::fmt::Display>(key: &'static str, value: Result<T, E>) -> Result<T, RecordError> {
    value.map_err(|error| RecordError::Value {
        key,
        problem: error.to_string(),
    })
}

/// The object as one line of JSON, without a line break.
pub fn to_json(object: &StoredObject) -> Vec<u8> {
    serde_json::to_vec(&Record::from(object)).expect("texts and numbers are always JSON")
}

/// JSON text in which the escape of NUL has become its symbol `␀`: what a database keeps that takes no NUL in texts.
pub fn without_nul(json: &str) -> String {
    let mut clean = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at..];
        let length = if escape.starts_with("\\u") { 6 } else { 2 };
        clean.push_str(&rest[..at]);
        match escape.get(..length) {
            Some("\\u0000") => clean.push('\u{2400}'),
            Some(other) => clean.push_str(other),
            None => break,
        }
        rest = &escape[length..];
    }
    clean.push_str(rest);
    clean
}

/// The object of such a line.
///
/// # Errors
/// [`RecordError`], naming the key.
pub fn from_json(json: &[u8]) -> Result<StoredObject, RecordError> {
    serde_json::from_slice::<Record<'_>>(json)?.try_into()
}

/// As [`from_json`], for a store that keeps the line under this id. A line that says no object, or another one, is an object
/// of this service in state error, reason `corrupt`, with the line as its payload: it can be looked at, and fails no page.
pub fn read(json: &[u8], id: StoredObjectId, service_key: &ServiceKey) -> StoredObject {
    let problem = match from_json(json) {
        Ok(object) if object.id == id => return object,
        Ok(object) => format!("it says that it is object {}", object.id),
        Err(error) => error.to_string(),
    };
    StoredObject {
        id,
        seq: 0,
        service_key: service_key.clone(),
        pipeline_id: PipelineId::default_pipeline(),
        position: 0,
        version: PipelineVersion::from_stored(""),
        correlation_id: CorrelationId::new(""),
        context: BTreeMap::new(),
        input: StoredInput::Bytes {
            kind: DataKind::Bytes,
        },
        payload: json.to_vec().into(),
        attempts: 0,
        state: ObjectState::Error,
        created_at: Timestamp::from_unix_millis(0),
        last_attempt_at: None,
        not_before: None,
        last_error: Some(problem),
        errors: Default::default(),
        reason: Some(ErrorReason::Corrupt),
        destination: None,
        ended_at: None,
        crashes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{append::unusual_objects, service_key};

    #[test]
    fn every_field_comes_back() {
        for object in unusual_objects() {
            let object = StoredObject {
                seq: i64::MAX,
                crashes: 2,
                ..object
            };
            assert_eq!(from_json(&to_json(&object)).unwrap(), object);
        }
    }

    #[test]
    fn nul_becomes_its_symbol_and_nothing_else_does() {
        for kept in ["a", r#""\\u0000""#, r#""\n\u001f\"""#, "\\"] {
            assert_eq!(without_nul(kept), kept);
        }
        assert_eq!(without_nul(r#""a\u0000\\b""#), "\"a\u{2400}\\\\b\"");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let object = &unusual_objects()[0];
        let json = String::from_utf8(to_json(object)).unwrap();
        for (from, to, said) in [
            (r#""id":""#, r#""id":"x"#, "'id': "),
            (r#""state":""#, r#""state":"x"#, "'state': "),
            (r#""payload":""#, r#""payload":"%"#, "'payload': "),
            (r#""kind":""#, r#""kind":"x"#, "'input': "),
            (r#""seq":"#, r#""seq":-"#, "it is not the JSON"),
            (r#""attempts":"#, r#""other":"#, "missing field `attempts`"),
        ] {
            let broken = json.replacen(from, to, 1);
            assert_ne!(broken, json, "{from}");
            let error = from_json(broken.as_bytes()).map(|_| broken);
            let error = error.expect_err(from).to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_an_object_of_the_error_collection() {
        let object = &unusual_objects()[0];
        let other = &unusual_objects()[1];
        for line in [b"{".to_vec(), to_json(other)] {
            let read = read(&line, object.id, &service_key());
            assert_eq!(
                (read.id, read.state, read.reason),
                (object.id, ObjectState::Error, Some(ErrorReason::Corrupt))
            );
            assert_eq!(read.payload, line);
        }
        assert_eq!(read(&to_json(object), object.id, &service_key()), *object);
    }
}
