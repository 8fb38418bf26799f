//! Stored objects as rows, and back.
//!
//! Writing is strict, reading is lenient: a row that does not make sense still becomes an object, in state error with
//! reason `corrupt`, with its raw payload and whatever else can be read. So it can be looked at, and no page fails.

use std::borrow::Cow;

use bytes::Bytes;
use edgehold_core::{
    AttemptErrors, CorrelationId, DataKind, Destination, ErrorReason, ObjectState, PayloadForm, PipelineId,
    PipelineVersion, ServiceKey, StoredInput, StoredObject, StoredObjectId, Timestamp,
};
use edgehold_store::{StoreError, semantics};
use serde::Deserialize;
use sqlx::{Row as _, sqlite::SqliteRow};
use uuid::Uuid;

/// The largest payload SQLite keeps in one row with its default limits.
const MAX_PAYLOAD_BYTES: usize = 999_000_000;

/// The names a row has for a whole delivery, by the form of its payload; every other is that of a [`DataKind`].
const DELIVERIES: [(PayloadForm, &str); 4] = [
    (PayloadForm::Bytes, "delivery"),
    (PayloadForm::Base64, "delivery-base64"),
    (PayloadForm::Text, "delivery-text"),
    (PayloadForm::Json, "delivery-json"),
];

fn delivery_name(form: PayloadForm) -> &'static str {
    let name = DELIVERIES.iter().find(|(known, _)| *known == form);
    name.map_or("delivery", |(_, name)| name)
}

fn delivery_form(name: &str) -> Option<PayloadForm> {
    let form = DELIVERIES.iter().find(|(_, known)| *known == name);
    form.map(|(form, _)| *form)
}

/// An object ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct NewRow {
    pub(crate) id: StoredObjectId,
    pub(crate) service_key: ServiceKey,
    pub(crate) state: i64,
    pub(crate) pipeline_id: PipelineId,
    pub(crate) position: i64,
    pub(crate) version: PipelineVersion,
    pub(crate) correlation_id: CorrelationId,
    pub(crate) context_data: String,
    pub(crate) input_kind: &'static str,
    pub(crate) input_content_type: Option<String>,
    pub(crate) input_topic: Option<String>,
    pub(crate) attempts: i64,
    pub(crate) created_at: i64,
    pub(crate) last_attempt_at: Option<i64>,
    pub(crate) not_before: Option<i64>,
    pub(crate) last_error: Option<String>,
    pub(crate) errors: Option<String>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) destination: Option<Destination>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) device: Option<String>,
    pub(crate) payload: Bytes,
    /// What the payload counts with.
    pub(crate) payload_bytes: usize,
}

impl NewRow {
    pub(crate) fn of(object: &StoredObject, service_key: &ServiceKey) -> Result<Self, StoreError> {
        if object.service_key != *service_key {
            return Err(StoreError::foreign(object.id, &object.service_key, service_key));
        }
        if object.payload.len() > MAX_PAYLOAD_BYTES {
            let problem = format!(
                "its payload has {} bytes, at most {MAX_PAYLOAD_BYTES} fit",
                object.payload.len()
            );
            return Err(StoreError::Invalid {
                id: object.id,
                problem,
            });
        }
        let (input_kind, input_content_type, input_topic) = match &object.input {
            StoredInput::Delivery {
                content_type,
                topic,
                form,
            } => (
                delivery_name(*form),
                Some(content_type.clone()),
                Some(topic.clone()),
            ),
            StoredInput::Bytes { kind } => (kind.as_str(), None, None),
        };
        Ok(Self {
            id: object.id,
            service_key: object.service_key.clone(),
            state: object.state.code(),
            pipeline_id: object.pipeline_id.clone(),
            position: object.position.into(),
            version: object.version.clone(),
            correlation_id: object.correlation_id.clone(),
            context_data: context_json(&object.context),
            input_kind,
            input_content_type,
            input_topic,
            attempts: object.attempts.into(),
            created_at: object.created_at.as_unix_millis(),
            last_attempt_at: object.last_attempt_at.map(Timestamp::as_unix_millis),
            not_before: object.not_before.map(Timestamp::as_unix_millis),
            last_error: object.last_error.clone(),
            errors: (!object.errors.as_slice().is_empty()).then(|| object.errors.to_json()),
            reason: object.reason.map(ErrorReason::as_str),
            destination: object.destination.clone(),
            ended_at: object.ended_at.map(Timestamp::as_unix_millis),
            device: semantics::device(object).map(str::to_owned),
            payload: object.payload.clone(),
            payload_bytes: semantics::payload_bytes(&object.context, &object.payload),
        })
    }

    /// Whether it counts as waiting.
    pub(crate) fn waits(&self) -> bool {
        ObjectState::from_code(self.state).is_ok_and(ObjectState::waits)
    }

    /// The bytes of its payload.
    pub(crate) fn bytes(&self) -> u64 {
        u64::try_from(self.payload_bytes).unwrap_or(u64::MAX)
    }

    /// The column `payload_bytes`.
    pub(crate) fn payload_bytes(&self) -> i64 {
        bytes_column(self.payload_bytes)
    }
}

pub(crate) fn bytes_column(payload_bytes: usize) -> i64 {
    i64::try_from(payload_bytes).unwrap_or(i64::MAX)
}

/// The column `context_data`: a JSON object whose keys are in order, so that equal contexts are equal texts.
pub(crate) fn context_json(context: &std::collections::BTreeMap<String, String>) -> String {
    serde_json::to_string(context).expect("a map of texts is always JSON")
}

/// The column `id`.
pub(crate) fn id_column(id: StoredObjectId) -> Vec<u8> {
    id.as_uuid().as_bytes().to_vec()
}

/// The id of a row: the one it has, or one made of its place when what it has is no UUID.
pub(crate) fn id_of(seq: i64, column: &[u8]) -> Result<StoredObjectId, StoredObjectId> {
    let place = || Uuid::from_u64_pair(0x00ed_6e40_1dc0_8099, seq.cast_unsigned());
    Uuid::from_slice(column)
        .map_err(|_| place())
        .map(StoredObjectId::from_uuid)
        .map_err(StoredObjectId::from_uuid)
}

/// An object as it was read, and what is wrong with its row when that has not been noted in the row itself.
#[derive(Debug)]
pub(crate) struct ReadRow {
    pub(crate) object: StoredObject,
    pub(crate) damage: Option<String>,
}

/// The part of a statement from its tables on: `?1` are places, `?2` is the service key. By place alone: without
/// statistics the planner would rather go through all objects of the service.
macro_rules! whole_objects {
    ($columns:literal, $rest:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM object NOT INDEXED
              LEFT JOIN payload ON payload.seq = object.seq
              LEFT JOIN crash_mark ON crash_mark.seq = object.seq
              WHERE object.seq IN (SELECT value FROM json_each(?1)) AND app_service_key = ?2 ",
            $rest
        )
    };
}

/// Objects as one row, for [`read_page`]: a list of [`Columns`], and their payloads one behind the other. The driver
/// hands each row from its thread to ours, which for some hundred of them takes longer than all that is in them.
pub(crate) const SELECT_PAGE: &str = whole_objects!(
    "json_group_array(json_array(object.seq, hex(id), state, pipeline_id, pipeline_position, version, correlation_id,
         context_data, input_kind, input_content_type, input_topic, attempts, created_at, last_attempt_at, not_before,
         last_error, errors, reason, destination, ended_at, payload_bytes, ifnull(crashes, 0), length(bytes))),
     CAST(group_concat(bytes, '') AS BLOB)",
    ""
);

/// Objects with a row for each, for [`read`].
pub(crate) const SELECT: &str = whole_objects!(
    "object.seq, id, state, pipeline_id, pipeline_position, version, correlation_id, context_data,
     input_kind, input_content_type, input_topic, attempts, created_at, last_attempt_at, not_before,
     last_error, errors, reason, destination, ended_at, payload_bytes, ifnull(crashes, 0) AS crashes, bytes",
    "ORDER BY object.seq"
);

/// What a row says, in the order of [`SELECT_PAGE`]. It need not make sense.
#[derive(Deserialize)]
struct Columns<'r> {
    seq: i64,
    id: Uuid,
    state: i64,
    #[serde(borrow)]
    pipeline_id: Cow<'r, str>,
    pipeline_position: i64,
    #[serde(borrow)]
    version: Cow<'r, str>,
    #[serde(borrow)]
    correlation_id: Cow<'r, str>,
    #[serde(borrow)]
    context_data: Cow<'r, str>,
    #[serde(borrow)]
    input_kind: Cow<'r, str>,
    input_content_type: Option<String>,
    input_topic: Option<String>,
    attempts: i64,
    created_at: i64,
    last_attempt_at: Option<i64>,
    not_before: Option<i64>,
    last_error: Option<String>,
    errors: Option<String>,
    reason: Option<String>,
    destination: Option<String>,
    ended_at: Option<i64>,
    payload_bytes: i64,
    crashes: i64,
    /// The bytes of its payload that there are; none without a payload.
    length: Option<usize>,
}

/// Takes problems down and goes on with a stand-in.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn value<T, E: std::fmt::Display>(&mut self, column: &str, value: Result<T, E>, stand_in: T) -> T {
        value.unwrap_or_else(|error| {
            self.0.push(format!("{column}: {error}"));
            stand_in
        })
    }

    /// A column of any type; a missing or mistyped one is a problem.
    fn column<'r, T>(&mut self, row: &'r SqliteRow, column: &str, stand_in: T) -> T
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.value(column, row.try_get(column), stand_in)
    }

    fn number(&mut self, column: &str, number: i64) -> u32 {
        self.value(column, u32::try_from(number), 0)
    }
}

/// Reads what [`SELECT_PAGE`] answers. None when that can only be told row by row: something is not of its type.
pub(crate) fn read_page(
    page: &SqliteRow,
    service_key: &ServiceKey,
) -> Result<Option<Vec<ReadRow>>, sqlx::Error> {
    let Ok(rows) = serde_json::from_slice::<Vec<Columns>>(page.try_get(0)?) else {
        return Ok(None);
    };
    let mut payloads: &[u8] = page.try_get::<Option<_>, _>(1)?.unwrap_or_default();
    let mut objects = Vec::with_capacity(rows.len());
    for columns in rows {
        let payload = match columns.length.map(|length| payloads.split_at_checked(length)) {
            None => None,
            Some(None) => return Ok(None),
            Some(Some((payload, rest))) => {
                payloads = rest;
                // Of its own: what is kept for one object must not keep those of the others.
                Some(Bytes::copy_from_slice(payload))
            }
        };
        objects.push(object(columns, payload, Problems::default(), service_key));
    }
    Ok(Some(objects))
}

/// Reads a row of [`SELECT`].
pub(crate) fn read(row: &SqliteRow, service_key: &ServiceKey) -> Result<ReadRow, sqlx::Error> {
    let seq: i64 = row.try_get("seq")?;
    let mut problems = Problems::default();
    let id = problems.column(row, "id", Vec::new());
    let id = id_of(seq, &id).unwrap_or_else(|stand_in| {
        problems.0.push("id: it is not a UUID".to_owned());
        stand_in
    });
    let payload: Option<Vec<u8>> = problems.column(row, "bytes", None);
    let columns = Columns {
        seq,
        id: id.as_uuid(),
        state: problems.column(row, "state", 3),
        pipeline_id: problems.column(row, "pipeline_id", "unknown").into(),
        pipeline_position: problems.column(row, "pipeline_position", 0),
        version: problems.column(row, "version", "").into(),
        correlation_id: problems.column(row, "correlation_id", "").into(),
        context_data: problems.column(row, "context_data", "{}").into(),
        input_kind: problems.column(row, "input_kind", "bytes").into(),
        input_content_type: problems.column(row, "input_content_type", None),
        input_topic: problems.column(row, "input_topic", None),
        attempts: problems.column(row, "attempts", 0),
        created_at: problems.column(row, "created_at", 0),
        last_attempt_at: problems.column(row, "last_attempt_at", None),
        not_before: problems.column(row, "not_before", None),
        last_error: problems.column(row, "last_error", None),
        errors: problems.column(row, "errors", None),
        reason: problems.column(row, "reason", None),
        destination: problems.column(row, "destination", None),
        ended_at: problems.column(row, "ended_at", None),
        payload_bytes: problems.column(row, "payload_bytes", 0),
        crashes: problems.column(row, "crashes", 0),
        length: None,
    };
    Ok(object(columns, payload.map(Bytes::from), problems, service_key))
}

/// Makes an object of a row, in which there may be problems already.
fn object(
    columns: Columns,
    payload: Option<Bytes>,
    mut problems: Problems,
    service_key: &ServiceKey,
) -> ReadRow {
    let time = |millis: Option<i64>| millis.map(Timestamp::from_unix_millis);
    let state = ObjectState::from_code(columns.state);
    let state = problems.value("state", state, ObjectState::Error);
    let reason = columns.reason.as_deref().map(ErrorReason::from_name).transpose();
    let reason = problems.value("reason", reason, None);
    let pipeline_id = PipelineId::try_new(&columns.pipeline_id);
    let pipeline_id = problems.value("pipeline_id", pipeline_id, PipelineId::default_pipeline());
    let context = serde_json::from_str(&columns.context_data);
    let context = problems.value("context_data", context, Default::default());
    let mut present =
        |column, text: Option<String>| problems.value(column, text.ok_or("it is missing"), String::new());
    let input = match delivery_form(&columns.input_kind) {
        Some(form) => StoredInput::Delivery {
            content_type: present("input_content_type", columns.input_content_type),
            topic: present("input_topic", columns.input_topic),
            form,
        },
        None => {
            let kind = DataKind::from_name(&columns.input_kind)
                .ok_or_else(|| format!("{:?} is not known", columns.input_kind));
            StoredInput::Bytes {
                kind: problems.value("input_kind", kind, DataKind::Bytes),
            }
        }
    };
    // A missing payload is null, which is not an empty one.
    let payload = problems.value("bytes", payload.ok_or("the payload is missing"), Bytes::new());
    let found = semantics::payload_bytes(&context, &payload);
    if problems.0.is_empty() && usize::try_from(columns.payload_bytes) != Ok(found) {
        let problem = format!("bytes: there are {found} of {}", columns.payload_bytes);
        problems.0.push(problem);
    }
    let mut object = StoredObject {
        id: StoredObjectId::from_uuid(columns.id),
        seq: columns.seq,
        service_key: service_key.clone(),
        pipeline_id,
        position: problems.number("pipeline_position", columns.pipeline_position),
        version: PipelineVersion::from_stored(columns.version),
        correlation_id: CorrelationId::new(&columns.correlation_id),
        context,
        input,
        payload,
        attempts: problems.number("attempts", columns.attempts),
        state,
        created_at: Timestamp::from_unix_millis(columns.created_at),
        last_attempt_at: time(columns.last_attempt_at),
        not_before: time(columns.not_before),
        last_error: columns.last_error,
        errors: columns
            .errors
            .as_deref()
            .map(AttemptErrors::from_json)
            .unwrap_or_default(),
        reason,
        destination: columns.destination.as_deref().map(Destination::new),
        ended_at: time(columns.ended_at),
        crashes: problems.number("crashes", columns.crashes),
    };
    if problems.0.is_empty() {
        return ReadRow { object, damage: None };
    }
    let damage = problems.0.join("; ");
    let noted = object.state == ObjectState::Error && object.reason == Some(ErrorReason::Corrupt);
    object.state = ObjectState::Error;
    object.reason = Some(ErrorReason::Corrupt);
    object.last_error = Some(damage.clone());
    ReadRow {
        object,
        damage: (!noted).then_some(damage),
    }
}
