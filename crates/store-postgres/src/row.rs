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
use edgehold_store::{StoreError, record, semantics};
use sqlx::{Decode, Postgres, Row as _, Type, postgres::PgRow};
use uuid::Uuid;

/// PostgreSQL takes values of up to 1 GB, and several copies of one while it does.
const MAX_PAYLOAD_BYTES: usize = 256 << 20;

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

/// A text as PostgreSQL takes it: the character NUL, which it does not, becomes its symbol `␀`.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{2400}")),
        false => Cow::Borrowed(text),
    }
}

fn owned(given: &str) -> String {
    text(given).into_owned()
}

/// An object ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct NewRow {
    pub(crate) id: Uuid,
    pub(crate) state: i16,
    pub(crate) pipeline_id: String,
    pub(crate) position: i64,
    pub(crate) version: String,
    pub(crate) correlation_id: String,
    pub(crate) context_data: String,
    pub(crate) input_kind: &'static str,
    pub(crate) input_content_type: Option<String>,
    pub(crate) input_topic: Option<String>,
    pub(crate) attempts: i64,
    pub(crate) created_at: i64,
    pub(crate) last_attempt_at: Option<i64>,
    pub(crate) not_before: Option<i64>,
    pub(crate) last_error: Option<String>,
    /// A JSON array.
    pub(crate) errors: Option<String>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) destination: Option<String>,
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
            return Err(StoreError::Invalid {
                id: object.id,
                problem: format!(
                    "its payload has {} bytes, at most {MAX_PAYLOAD_BYTES} fit",
                    object.payload.len()
                ),
            });
        }
        let (input_kind, input_content_type, input_topic) = match &object.input {
            StoredInput::Delivery {
                content_type,
                topic,
                form,
            } => (
                delivery_name(*form),
                Some(owned(content_type)),
                Some(owned(topic)),
            ),
            StoredInput::Bytes { kind } => (kind.as_str(), None, None),
        };
        Ok(Self {
            id: object.id.as_uuid(),
            state: state_column(object.state),
            pipeline_id: owned(object.pipeline_id.as_str()),
            position: object.position.into(),
            version: owned(object.version.as_str()),
            correlation_id: owned(object.correlation_id.as_str()),
            context_data: context_json(&object.context),
            input_kind,
            input_content_type,
            input_topic,
            attempts: object.attempts.into(),
            created_at: object.created_at.as_unix_millis(),
            last_attempt_at: object.last_attempt_at.map(Timestamp::as_unix_millis),
            not_before: object.not_before.map(Timestamp::as_unix_millis),
            last_error: object.last_error.as_deref().map(owned),
            errors: errors_json(&object.errors),
            reason: object.reason.map(ErrorReason::as_str),
            destination: object.destination.as_ref().map(|to| owned(to.as_str())),
            ended_at: object.ended_at.map(Timestamp::as_unix_millis),
            device: semantics::device(object).map(owned),
            payload: object.payload.clone(),
            payload_bytes: semantics::payload_bytes(&object.context, &object.payload),
        })
    }

    /// Whether it counts as waiting.
    pub(crate) fn waits(&self) -> bool {
        ObjectState::from_code(self.state.into()).is_ok_and(ObjectState::waits)
    }

    /// The bytes of its payload.
    pub(crate) fn bytes(&self) -> u64 {
        u64::try_from(self.payload_bytes).unwrap_or(u64::MAX)
    }
}

/// The column `state`.
pub(crate) fn state_column(state: ObjectState) -> i16 {
    i16::try_from(state.code()).expect("codes are small")
}

/// Each of these states once.
pub(crate) fn column_of_states(states: &[ObjectState]) -> Vec<i16> {
    let mut codes: Vec<_> = states.iter().copied().map(state_column).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// The column `payload_bytes`.
pub(crate) fn bytes_column(payload_bytes: usize) -> i64 {
    i64::try_from(payload_bytes).unwrap_or(i64::MAX)
}

/// The column `context_data`: a JSON object whose keys are in order, so that equal contexts are equal texts. JSON writes
/// control characters as escapes, so that any text fits.
pub(crate) fn context_json(context: &std::collections::BTreeMap<String, String>) -> String {
    serde_json::to_string(context).expect("a map of texts is always JSON")
}

/// The column `errors`. JSON in PostgreSQL takes NUL no more than a text does.
fn errors_json(errors: &AttemptErrors) -> Option<String> {
    (!errors.as_slice().is_empty()).then(|| record::without_nul(&errors.to_json()))
}

/// An object as it was read, and what is wrong with its row when that has not been noted in the row itself.
#[derive(Debug)]
pub(crate) struct ReadRow {
    pub(crate) object: StoredObject,
    pub(crate) damage: Option<String>,
}

/// The columns [`read`] takes, in its order, but for the last one, the payload.
macro_rules! columns {
    () => {
        "seq, id, state, reason, pipeline_id, context_data, input_kind, input_content_type, input_topic,
         pipeline_position, version, correlation_id, attempts, created_at, last_attempt_at, not_before, last_error,
         errors::text, destination, ended_at, crashes, payload_bytes"
    };
}

pub(crate) use columns;

/// Objects by their places, in order.
pub(crate) const SELECT: &str = concat!(
    "SELECT ",
    columns!(),
    ", (SELECT bytes FROM payload WHERE payload.seq = object.seq)
     FROM object WHERE seq = ANY($1) ORDER BY seq"
);

/// What is left of a row, column by column: a name would be looked up for each value.
pub(crate) struct Columns<'r> {
    row: &'r PgRow,
    place: usize,
}

impl<'r> Columns<'r> {
    pub(crate) fn of(row: &'r PgRow) -> Self {
        Self { row, place: 0 }
    }

    pub(crate) fn next<T>(&mut self) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        self.place += 1;
        self.row.try_get(self.place - 1)
    }

    fn next_time(&mut self) -> Result<Option<Timestamp>, sqlx::Error> {
        let millis: Option<i64> = self.next()?;
        Ok(millis.map(Timestamp::from_unix_millis))
    }
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

    /// A text that may be null in other rows and must not be in this one.
    fn present(&mut self, column: &str, text: Option<String>) -> String {
        self.value(column, text.ok_or("it is missing"), String::new())
    }

    fn number(&mut self, column: &str, number: i64) -> u32 {
        self.value(column, u32::try_from(number), 0)
    }
}

/// Reads a row; whatever is asked of `columns` is asked in their order.
pub(crate) fn read(mut columns: Columns<'_>, service_key: &ServiceKey) -> Result<ReadRow, sqlx::Error> {
    let mut problems = Problems::default();

    let seq = columns.next()?;
    let id = StoredObjectId::from_uuid(columns.next()?);
    let state: i16 = columns.next()?;
    let state = problems.value("state", ObjectState::from_code(state.into()), ObjectState::Error);
    let reason: Option<&str> = columns.next()?;
    let reason = problems.value("reason", reason.map(ErrorReason::from_name).transpose(), None);
    let pipeline_id = PipelineId::try_new(columns.next()?);
    let pipeline_id = problems.value("pipeline_id", pipeline_id, PipelineId::default_pipeline());
    let context = serde_json::from_str(columns.next()?);
    let context = problems.value("context_data", context, Default::default());
    let (kind, content_type, topic) = (columns.next()?, columns.next()?, columns.next()?);
    let input = match delivery_form(kind) {
        Some(form) => StoredInput::Delivery {
            content_type: problems.present("input_content_type", content_type),
            topic: problems.present("input_topic", topic),
            form,
        },
        None => {
            let known = DataKind::from_name(kind).ok_or_else(|| format!("{kind:?} is not known"));
            StoredInput::Bytes {
                kind: problems.value("input_kind", known, DataKind::Bytes),
            }
        }
    };
    let mut object = StoredObject {
        id,
        seq,
        service_key: service_key.clone(),
        pipeline_id,
        position: problems.number("pipeline_position", columns.next()?),
        version: PipelineVersion::from_stored(columns.next::<String>()?),
        correlation_id: CorrelationId::new(columns.next()?),
        context,
        input,
        payload: Bytes::new(),
        attempts: problems.number("attempts", columns.next()?),
        state,
        created_at: Timestamp::from_unix_millis(columns.next()?),
        last_attempt_at: columns.next_time()?,
        not_before: columns.next_time()?,
        last_error: columns.next()?,
        errors: columns
            .next::<Option<&str>>()?
            .map(AttemptErrors::from_json)
            .unwrap_or_default(),
        reason,
        destination: columns.next::<Option<&str>>()?.map(Destination::new),
        ended_at: columns.next_time()?,
        crashes: u32::try_from(columns.next::<i16>()?).unwrap_or(0),
    };
    let wanted: i64 = columns.next()?;
    // A missing payload is null, which is not an empty one.
    let payload: Option<Vec<u8>> = columns.next()?;
    let payload = problems.value("bytes", payload.ok_or("the payload is missing"), Vec::new());
    object.payload = payload.into();
    let found = semantics::payload_bytes(&object.context, &object.payload);
    if problems.0.is_empty() && usize::try_from(wanted) != Ok(found) {
        problems.0.push(format!("bytes: there are {found} of {wanted}"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_becomes_its_symbol() {
        assert_eq!(text("a\0b"), "a\u{2400}b");
    }
}
