//! What makes room and what brings objects back: eviction, sweeps, re-drive, purge.

use edgehold_core::{CorrelationId, ObjectState, PipelineId, ServiceKey, Timestamp};
use edgehold_store::{ErrorPage, Evicted, Moved, Sweep};
use sqlx::{Row, SqliteConnection};

use crate::{
    filter::{self, filtered},
    row::id_of,
};

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

/// The places of a page of the error collection. With `?11` what cannot be read is left out.
pub(crate) const ERROR_PAGE: &str = concat!(
    "SELECT seq, payload_bytes",
    filtered!(queue),
    " AND NOT (?11 AND reason IS 'corrupt') ORDER BY seq LIMIT ?12"
);
pub(crate) const ERROR_PAGE_IDS: &str = concat!(
    "SELECT seq, payload_bytes",
    filtered!(ids),
    " AND NOT (?11 AND reason IS 'corrupt') ORDER BY seq LIMIT ?12"
);

pub(crate) const REDRIVE: &str = "
    UPDATE object NOT INDEXED SET
        state = 2, attempts = 0, last_attempt_at = NULL, not_before = NULL, reason = NULL, ended_at = NULL
    WHERE seq IN (SELECT value FROM json_each(?1))";

pub(crate) const PURGE: &str = "
    DELETE FROM object NOT INDEXED WHERE seq IN (SELECT value FROM json_each(?1))";

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

/// What becomes of a page of the error collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is tried again.
    Redrive,
    /// It is removed.
    Purge,
}

/// Takes objects out of the error collection; answers which.
pub(super) async fn leave_error(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    page: &ErrorPage,
    fate: Fate,
) -> Result<Moved, sqlx::Error> {
    let statement = match page.filter.ids.is_empty() {
        true => ERROR_PAGE,
        false => ERROR_PAGE_IDS,
    };
    let query = sqlx::query(statement)
        .bind(service_key.as_str())
        .bind(ObjectState::Error.code())
        .bind(page.after_seq);
    let rows = filter::bind(query, &page.filter)
        .bind(fate == Fate::Redrive && page.filter.reasons.is_empty())
        .bind(i64::try_from(page.limit.max(1)).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
    let mut moved = Moved::default();
    let mut places = Vec::with_capacity(rows.len());
    for row in rows {
        let (seq, bytes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        places.push(seq);
        moved.objects += 1;
        moved.payload_bytes += u64::try_from(bytes).unwrap_or(0);
        moved.last_seq = Some(seq);
    }
    if !places.is_empty() {
        let statement = match fate {
            Fate::Redrive => REDRIVE,
            Fate::Purge => PURGE,
        };
        let change = sqlx::query(statement).bind(places_json(&places));
        change.execute(connection).await?;
    }
    Ok(moved)
}
