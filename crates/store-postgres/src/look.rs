//! Looking: what is in the store, how much of it, and whether something waits.

use edgehold_core::{ErrorReason, ObjectState, PipelineId, ServiceKey, Timestamp};
use edgehold_store::{ListRequest, StateCount, StoreStats};
use sqlx::PgConnection;

use crate::row::{self, ReadRow, column_of_states, text};

pub(crate) const IS_WAITING: &str = "
    SELECT EXISTS (SELECT 1 FROM object WHERE state IN (0, 2) AND pipeline_id = $1 AND device = $2)";

pub(crate) const LIST: &str = "
    SELECT found.seq, found.payload_bytes
    FROM unnest($1::smallint[]) AS wanted (state) CROSS JOIN LATERAL (
        SELECT seq, payload_bytes FROM object
        WHERE object.state = wanted.state AND seq > $2
          AND ($3::text IS NULL OR pipeline_id = $3) AND ($4::text IS NULL OR reason = $4)
        ORDER BY seq LIMIT $5) AS found
    ORDER BY seq LIMIT $5";

pub(crate) const STATS: &str = "
    SELECT state, objects, payload_bytes,
           (SELECT min(created_at) FROM object WHERE state IN (0, 2)) AS oldest
    FROM counter";

pub(crate) async fn is_waiting(
    connection: &mut PgConnection,
    pipeline_id: &PipelineId,
    device: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(IS_WAITING)
        .bind(text(pipeline_id.as_str()))
        .bind(text(device))
        .fetch_one(connection)
        .await
}

/// Reads objects by their places, in order. One that has left is left out.
pub(crate) async fn read(
    connection: &mut PgConnection,
    service_key: &ServiceKey,
    places: &[i64],
) -> Result<Vec<ReadRow>, sqlx::Error> {
    let rows = sqlx::query(row::SELECT)
        .bind(places)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|found| row::read(found, service_key)).collect()
}

/// The places of a listed page, and where the next one begins.
pub(crate) async fn list(
    connection: &mut PgConnection,
    request: &ListRequest,
) -> Result<(Vec<i64>, Option<i64>), sqlx::Error> {
    let limit = request.limit.max(1);
    let found: Vec<(i64, i64)> = sqlx::query_as(LIST)
        .bind(column_of_states(&request.states))
        .bind(request.after_seq)
        .bind(request.pipeline_id.as_ref().map(|id| text(id.as_str())))
        .bind(request.reason.map(ErrorReason::as_str))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1)
        .fetch_all(connection)
        .await?;
    let mut bytes = 0_usize;
    let mut page = Vec::new();
    for (seq, payload_bytes) in found {
        if page.len() >= limit || bytes >= ListRequest::MAX_BYTES {
            let next = page.last().copied();
            return Ok((page, next));
        }
        bytes = bytes.saturating_add(usize::try_from(payload_bytes).unwrap_or(0));
        page.push(seq);
    }
    Ok((page, None))
}

/// What the counters say.
pub(crate) async fn stats(connection: &mut PgConnection) -> Result<StoreStats, sqlx::Error> {
    let rows: Vec<(i16, i64, i64, Option<i64>)> = sqlx::query_as(STATS).fetch_all(connection).await?;
    let mut stats = StoreStats::default();
    for (state, objects, payload_bytes, oldest) in rows {
        stats.oldest_waiting = oldest.map(Timestamp::from_unix_millis);
        let count = match ObjectState::from_code(state.into()) {
            Ok(ObjectState::New) => &mut stats.new,
            Ok(ObjectState::Success) => &mut stats.success,
            Ok(ObjectState::Failed) => &mut stats.failed,
            Ok(ObjectState::Error) => &mut stats.error,
            Ok(ObjectState::Batched) => &mut stats.batched,
            // The table takes no other.
            Err(_) => continue,
        };
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        *count = StateCount {
            objects: unsigned(objects),
            payload_bytes: unsigned(payload_bytes),
        };
    }
    Ok(stats)
}
