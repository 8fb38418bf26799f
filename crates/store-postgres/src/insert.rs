//! New rows.

use edgehold_store::{Room, StateCount, StoreError};
use sqlx::PgConnection;

use crate::{
    row::{NewRow, bytes_column},
    settlement::column,
};

/// Rows of one statement, and the bytes of their payloads: more become several statements.
const CHUNK_ROWS: usize = 1_000;
const CHUNK_BYTES: usize = 8 << 20;

/// Keeps rows in order, those that are not there. Answers which: their place among the given ones, and their `seq`.
///
/// The row of the instance is held meanwhile: one that was taken over keeps nothing.
pub(crate) const APPEND: &str = "
    WITH me AS MATERIALIZED (SELECT id FROM instance WHERE id = $1 FOR KEY SHARE),
    given AS MATERIALIZED (
        SELECT nextval('object_seq') AS seq, me.id AS owner, item.*
        FROM me, unnest($2::uuid[], $3::smallint[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[],
                        $9::text[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], $14::bigint[],
                        $15::bigint[], $16::text[], $17::text[], $18::text[], $19::bigint[], $20::text[],
                        $21::bigint[], $22::bytea[], $23::text[])
                 WITH ORDINALITY
                 AS item (id, state, pipeline_id, pipeline_position, version, correlation_id, context_data, input_kind,
                         input_content_type, input_topic, attempts, created_at, last_attempt_at, not_before,
                         last_error, reason, destination, ended_at, device, payload_bytes, bytes, errors, place)
        ORDER BY place
    ),
    kept AS (
        INSERT INTO object
               (seq, owner, id, state, pipeline_id, pipeline_position, version, correlation_id, context_data, input_kind,
                input_content_type, input_topic, attempts, created_at, last_attempt_at, not_before, last_error, reason,
                destination, ended_at, device, payload_bytes, errors)
        SELECT seq, owner, id, state, pipeline_id, pipeline_position, version, correlation_id, context_data, input_kind,
               input_content_type, input_topic, attempts, created_at, last_attempt_at, not_before, last_error, reason,
               destination, ended_at, device, payload_bytes, errors::jsonb
        FROM given ORDER BY place
        ON CONFLICT (id) DO NOTHING
        RETURNING seq
    ),
    kept_payload AS (
        INSERT INTO payload (seq, bytes) SELECT seq, bytes FROM given WHERE seq IN (SELECT seq FROM kept)
    )
    SELECT place, seq FROM given WHERE seq IN (SELECT seq FROM kept)";

/// The row with this id: its `seq`, and whether it is the same object (`semantics::same_content`).
pub(crate) const FIND: &str = "
    SELECT seq,
           pipeline_id = $2 AND pipeline_position = $3 AND version = $4 AND correlation_id = $5
               AND context_data = $6 AND input_kind = $7 AND input_content_type IS NOT DISTINCT FROM $8
               AND input_topic IS NOT DISTINCT FROM $9 AND created_at = $10
               AND $11 IS NOT DISTINCT FROM (SELECT bytes FROM payload WHERE payload.seq = object.seq)
    FROM object WHERE id = $1";

/// What waits, held until the transaction ends: nobody else appends or settles meanwhile.
pub(crate) const WAITING: &str = "
    SELECT objects, payload_bytes FROM counter WHERE state IN (0, 2, 4) ORDER BY state FOR UPDATE";

/// How many statements these rows take.
pub(crate) fn statements(rows: &[&NewRow]) -> usize {
    chunks(rows).count()
}

fn chunks<'a, 'r>(mut rows: &'a [&'r NewRow]) -> impl Iterator<Item = &'a [&'r NewRow]> {
    std::iter::from_fn(move || {
        let mut bytes = 0_usize;
        let fitting = rows.iter().take(CHUNK_ROWS).take_while(|row| {
            bytes = bytes.saturating_add(row.payload.len());
            bytes <= CHUNK_BYTES
        });
        let count = fitting.count().max(1).min(rows.len());
        let (chunk, rest) = rows.split_at(count);
        rows = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Appends rows; answers the `seq` of each that was not there.
pub(crate) async fn all(
    connection: &mut PgConnection,
    owner: i64,
    rows: &[&NewRow],
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let mut kept = Vec::with_capacity(rows.len());
    for rows in chunks(rows) {
        let before = kept.len();
        kept.resize(before + rows.len(), None);
        let found: Vec<(i64, i64)> = sqlx::query_as(APPEND)
            .bind(owner)
            .bind(column(rows, |row| row.id))
            .bind(column(rows, |row| row.state))
            .bind(column(rows, |row| row.pipeline_id.as_str()))
            .bind(column(rows, |row| row.position))
            .bind(column(rows, |row| row.version.as_str()))
            .bind(column(rows, |row| row.correlation_id.as_str()))
            .bind(column(rows, |row| row.context_data.as_str()))
            .bind(column(rows, |row| row.input_kind))
            .bind(column(rows, |row| row.input_content_type.as_deref()))
            .bind(column(rows, |row| row.input_topic.as_deref()))
            .bind(column(rows, |row| row.attempts))
            .bind(column(rows, |row| row.created_at))
            .bind(column(rows, |row| row.last_attempt_at))
            .bind(column(rows, |row| row.not_before))
            .bind(column(rows, |row| row.last_error.as_deref()))
            .bind(column(rows, |row| row.reason))
            .bind(column(rows, |row| row.destination.as_deref()))
            .bind(column(rows, |row| row.ended_at))
            .bind(column(rows, |row| row.device.as_deref()))
            .bind(column(rows, |row| bytes_column(row.payload_bytes)))
            .bind(column(rows, |row| &row.payload[..]))
            .bind(column(rows, |row| row.errors.as_deref()))
            .fetch_all(&mut *connection)
            .await?;
        for (place, seq) in found {
            let place = usize::try_from(place - 1)
                .ok()
                .and_then(|place| kept.get_mut(before + place));
            if let Some(place) = place {
                *place = Some(seq);
            }
        }
    }
    Ok(kept)
}

/// What a row that is there already is answered; none when it is not there.
pub(crate) async fn find(
    connection: &mut PgConnection,
    row: &NewRow,
) -> Result<Option<Result<i64, StoreError>>, sqlx::Error> {
    let found: Option<(i64, Option<bool>)> = sqlx::query_as(FIND)
        .bind(row.id)
        .bind(row.pipeline_id.as_str())
        .bind(row.position)
        .bind(row.version.as_str())
        .bind(row.correlation_id.as_str())
        .bind(row.context_data.as_str())
        .bind(row.input_kind)
        .bind(row.input_content_type.as_deref())
        .bind(row.input_topic.as_deref())
        .bind(row.created_at)
        .bind(&row.payload[..])
        .fetch_optional(connection)
        .await?;
    Ok(found.map(|(seq, same)| match same {
        Some(true) => Ok(seq),
        _ => Err(StoreError::Exists(edgehold_core::StoredObjectId::from_uuid(
            row.id,
        ))),
    }))
}

/// What waits, as far as anybody in a transaction has asked: what the counters say and what is about to be inserted.
#[derive(Clone, Copy)]
pub(crate) enum Waiting {
    Unknown,
    Known(StateCount),
}

impl Waiting {
    /// Reads and holds the counters unless they have been read.
    pub(crate) async fn look(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if matches!(self, Self::Unknown) {
            let counts: Vec<(i64, i64)> = sqlx::query_as(WAITING).fetch_all(connection).await?;
            let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
            *self = Self::Known(StateCount {
                objects: counts.iter().map(|(objects, _)| unsigned(*objects)).sum(),
                payload_bytes: counts.iter().map(|(_, bytes)| unsigned(*bytes)).sum(),
            });
        }
        Ok(())
    }

    fn add(&mut self, row: &NewRow) {
        if let Self::Known(waiting) = self
            && row.waits()
        {
            waiting.objects += 1;
            waiting.payload_bytes += row.bytes();
        }
    }

    /// Takes one more row in, if there is room.
    pub(crate) fn admit(&mut self, row: &NewRow, room: Room) -> Result<(), StoreError> {
        if let Self::Known(waiting) = self
            && row.waits()
        {
            room.admit(*waiting, row.bytes())?;
        }
        self.add(row);
        Ok(())
    }
}
