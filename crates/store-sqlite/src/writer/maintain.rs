//! What makes room and what brings objects back: eviction, sweeps, re-drive.

use edgehold_core::{CorrelationId, ErrorReason, PipelineId, ServiceKey, Timestamp};
use edgehold_store::{Evicted, Redrive, Sweep};
use sqlx::SqliteConnection;

use crate::row::id_of;

pub(crate) const EVICT: &str = "
    DELETE FROM object NOT INDEXED
    WHERE seq IN (SELECT value FROM json_each(?1)) AND app_service_key = ?2 AND state = 2
    RETURNING seq, id, pipeline_id, correlation_id, payload_bytes";

pub(crate) const TOO_OLD: &str = "
    UPDATE object NOT INDEXED SET state = 3, reason = 'too_old', ended_at = ?3
    WHERE seq IN (SELECT value FROM json_each(?1)) AND app_service_key = ?2 AND state = 2";

pub(crate) const UNMARK: &str = "
    DELETE FROM crash_mark WHERE seq IN (SELECT value FROM json_each(?1))";

pub(crate) const ENDED: &str = "
    DELETE FROM object NOT INDEXED WHERE seq IN (
        SELECT seq FROM object INDEXED BY object_ended
        WHERE app_service_key = ?1 AND state IN (1, 3) AND state = ?2 AND ifnull(ended_at, created_at) < ?3
        ORDER BY ifnull(ended_at, created_at) LIMIT ?4)";

pub(crate) const DEAD_LETTERS: &str = "SELECT objects FROM counter WHERE owner = ?1 AND object_state = 3";

pub(crate) const REDRIVE: &str = "
    UPDATE object NOT INDEXED SET
        state = 2, attempts = 0, last_attempt_at = NULL, not_before = NULL, reason = NULL, ended_at = NULL
    WHERE seq IN (
        SELECT seq FROM object INDEXED BY object_queue
        WHERE app_service_key = ?1 AND state = 3 AND seq > ?2
          AND (?3 IS NULL OR pipeline_id = ?3)
          AND (?4 IS NULL OR version = ?4
               OR input_kind IN ('delivery', 'delivery-base64', 'delivery-text', 'delivery-json'))
          AND CASE WHEN ?5 = '[]' THEN reason IS NOT 'corrupt'
                   ELSE reason IN (SELECT value FROM json_each(?5)) END
        ORDER BY seq LIMIT ?6)";

fn places_json(places: &[i64]) -> String {
    serde_json::to_string(places).expect("numbers are always JSON")
}

/// Removes the failed objects at these places; answers what it removed, in order.
pub(super) async fn evict(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    places: &[i64],
) -> Result<Vec<Evicted>, sqlx::Error> {
    // Read as bytes: what is damaged need not be a text, and leaves all the same.
    type Row = (i64, Vec<u8>, Vec<u8>, Vec<u8>, i64);
    let mut removed: Vec<Row> = sqlx::query_as(EVICT)
        .bind(places_json(places))
        .bind(service_key.as_str())
        .fetch_all(connection)
        .await?;
    removed.sort_unstable_by_key(|(seq, ..)| *seq);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let evicted = |(seq, id, pipeline_id, correlation_id, bytes): Row| Evicted {
        id: id_of(seq, &id).unwrap_or_else(|stand_in| stand_in),
        // What a damaged row has instead of a name is no name.
        pipeline_id: PipelineId::try_new(&text(pipeline_id))
            .unwrap_or_else(|_| PipelineId::default_pipeline()),
        correlation_id: CorrelationId::new(&text(correlation_id)),
        payload_bytes: u64::try_from(bytes).unwrap_or(0),
    };
    Ok(removed.into_iter().map(evicted).collect())
}

/// Gives the failed objects at these places up; answers how many there were.
pub(super) async fn too_old(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    places: &[i64],
    at: Timestamp,
) -> Result<u64, sqlx::Error> {
    let places = places_json(places);
    sqlx::query(UNMARK)
        .bind(&places)
        .execute(&mut *connection)
        .await?;
    let given_up = sqlx::query(TOO_OLD)
        .bind(&places)
        .bind(service_key.as_str())
        .bind(at.as_unix_millis());
    Ok(given_up.execute(connection).await?.rows_affected())
}

/// Removes history or dead letters; answers how many.
pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    sweep: &Sweep,
    limit: usize,
) -> Result<u64, sqlx::Error> {
    let mut limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
    let (state, before) = match sweep {
        // Claimed by the queue and given up one by one.
        Sweep::TooOld { .. } => return Ok(0),
        Sweep::History { before } => (1, before.as_unix_millis()),
        Sweep::DeadLetters { before } => (3, before.as_unix_millis()),
        Sweep::DeadLettersOver { max } => {
            let there: Option<i64> = sqlx::query_scalar(DEAD_LETTERS)
                .bind(service_key.as_str())
                .fetch_optional(&mut *connection)
                .await?;
            let over = there
                .unwrap_or(0)
                .saturating_sub(i64::try_from(*max).unwrap_or(i64::MAX));
            limit = limit.min(over.max(0));
            (3, i64::MAX)
        }
    };
    if limit == 0 {
        return Ok(0);
    }
    let removed = sqlx::query(ENDED)
        .bind(service_key.as_str())
        .bind(state)
        .bind(before)
        .bind(limit);
    Ok(removed.execute(connection).await?.rows_affected())
}

/// Takes objects out of the error collection; answers how many.
pub(super) async fn redrive(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    redrive: &Redrive,
    limit: usize,
) -> Result<u64, sqlx::Error> {
    let reasons: Vec<_> = redrive.reasons.iter().copied().map(ErrorReason::as_str).collect();
    let redriven = sqlx::query(REDRIVE)
        .bind(service_key.as_str())
        .bind(redrive.after_seq)
        .bind(redrive.pipeline_id.as_ref().map(PipelineId::as_str))
        .bind(redrive.version.as_ref().map(|version| version.as_str()))
        .bind(serde_json::to_string(&reasons).expect("names are always JSON"))
        .bind(i64::try_from(limit.max(1)).unwrap_or(i64::MAX));
    Ok(redriven.execute(connection).await?.rows_affected())
}
