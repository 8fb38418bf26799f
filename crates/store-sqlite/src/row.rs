//! Stored objects as rows, and back.
//!
//! Writing is strict, reading is lenient: a row that does not make sense still becomes an object, in state error with
//! reason `corrupt`, with its raw payload and whatever else can be read. So it can be looked at, and no page fails.

use bytes::Bytes;
use edgehold_core::{
    AttemptErrors, CorrelationId, DataKind, Destination, ErrorReason, ObjectState, PayloadForm, PipelineId,
    PipelineVersion, ServiceKey, StoredInput, StoredObject, StoredObjectId, Timestamp,
};
use edgehold_store::{StoreError, semantics};
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

/// The columns [`read`] needs, joined with the payload. By place alone: without statistics the planner would rather go
/// through all objects of the service.
pub(crate) const SELECT: &str = "
    SELECT object.seq, id, state, pipeline_id, pipeline_position, version, correlation_id, context_data,
           input_kind, input_content_type, input_topic, attempts, created_at, last_attempt_at, not_before,
           last_error, errors, reason, destination, ended_at, payload_bytes, bytes, ifnull(crashes, 0) AS crashes
    FROM object NOT INDEXED
    LEFT JOIN payload ON payload.seq = object.seq
    LEFT JOIN crash_mark ON crash_mark.seq = object.seq
    WHERE object.seq IN (SELECT value FROM json_each(?1)) AND app_service_key = ?2
    ORDER BY object.seq";

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

    /// A text that may be null in other rows and must not be in this one.
    fn present(&mut self, row: &SqliteRow, column: &str) -> String {
        let text = self.column(row, column, None::<String>).ok_or("it is missing");
        self.value(column, text, String::new())
    }

    fn time(&mut self, row: &SqliteRow, column: &str) -> Option<Timestamp> {
        self.column(row, column, None::<i64>)
            .map(Timestamp::from_unix_millis)
    }

    fn number(&mut self, row: &SqliteRow, column: &str) -> u32 {
        let number: i64 = self.column(row, column, 0);
        self.value(column, u32::try_from(number), 0)
    }
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
    let state = ObjectState::from_code(problems.column(row, "state", 3));
    let state = problems.value("state", state, ObjectState::Error);
    let reason: Option<&str> = problems.column(row, "reason", None);
    let reason = problems.value("reason", reason.map(ErrorReason::from_name).transpose(), None);
    let pipeline_id = PipelineId::try_new(problems.column(row, "pipeline_id", "unknown"));
    let pipeline_id = problems.value("pipeline_id", pipeline_id, PipelineId::default_pipeline());
    let context = serde_json::from_str(problems.column(row, "context_data", "{}"));
    let context = problems.value("context_data", context, Default::default());
    let input = match problems.column(row, "input_kind", "bytes") {
        name if let Some(form) = delivery_form(name) => StoredInput::Delivery {
            content_type: problems.present(row, "input_content_type"),
            topic: problems.present(row, "input_topic"),
            form,
        },
        name => {
            let kind = DataKind::from_name(name).ok_or_else(|| format!("{name:?} is not known"));
            StoredInput::Bytes {
                kind: problems.value("input_kind", kind, DataKind::Bytes),
            }
        }
    };
    // A missing payload is null, which is not an empty one.
    let payload = problems
        .column(row, "bytes", None::<Vec<u8>>)
        .ok_or("the payload is missing");
    let payload = problems.value("bytes", payload, Vec::new());
    let wanted: i64 = problems.column(row, "payload_bytes", 0);
    let found = semantics::payload_bytes(&context, &payload);
    if problems.0.is_empty() && usize::try_from(wanted) != Ok(found) {
        let problem = format!("bytes: there are {found} of {wanted}");
        problems.0.push(problem);
    }
    let mut object = StoredObject {
        id,
        seq,
        service_key: service_key.clone(),
        pipeline_id,
        position: problems.number(row, "pipeline_position"),
        version: PipelineVersion::from_stored(problems.column(row, "version", "")),
        correlation_id: CorrelationId::new(problems.column(row, "correlation_id", "")),
        context,
        input,
        payload: payload.into(),
        attempts: problems.number(row, "attempts"),
        state,
        created_at: Timestamp::from_unix_millis(problems.column(row, "created_at", 0)),
        last_attempt_at: problems.time(row, "last_attempt_at"),
        not_before: problems.time(row, "not_before"),
        last_error: problems.column(row, "last_error", None),
        errors: problems
            .column(row, "errors", None::<&str>)
            .map(AttemptErrors::from_json)
            .unwrap_or_default(),
        reason,
        destination: problems
            .column(row, "destination", None::<&str>)
            .map(Destination::new),
        ended_at: problems.time(row, "ended_at"),
        crashes: problems.number(row, "crashes"),
    };
    if problems.0.is_empty() {
        return Ok(ReadRow { object, damage: None });
    }
    let damage = problems.0.join("; ");
    let noted = object.state == ObjectState::Error && object.reason == Some(ErrorReason::Corrupt);
    object.state = ObjectState::Error;
    object.reason = Some(ErrorReason::Corrupt);
    object.last_error = Some(damage.clone());
    Ok(ReadRow {
        object,
        damage: (!noted).then_some(damage),
    })
}
