//! What makes room, what brings objects back, and what is set aside: eviction, sweeps, re-drive, purge, damage.

use edgehold_core::{CorrelationId, PipelineId, StoredObjectId};
use edgehold_store::{ErrorPage, Evicted, Eviction, Moved, Sweep};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    claim::{TURN, behind, leased, unleased, waits},
    filter::{self, filtered, meant},
    row::text,
};

pub(crate) const OLDEST: &str = concat!(
    "SELECT id, payload_bytes FROM object WHERE ",
    behind!(any, "0", ""),
    " AND ",
    unleased!(),
    " ORDER BY state, seq LIMIT $1"
);

/// What is in nobody's hands leaves.
pub(crate) const EVICT: &str = concat!(
    "DELETE FROM object WHERE id = ANY($1) AND ",
    waits!(),
    " RETURNING seq, id, pipeline_id, correlation_id, payload_bytes"
);

/// What is in nobody's hands is given up.
pub(crate) const TOO_OLD: &str = concat!(
    "UPDATE object SET state = 3, reason = 'too_old', ended_at = $3, crashes = 0
     WHERE id = ANY(ARRAY(
        SELECT id FROM object WHERE state IN (0, 2) AND state = 2 AND created_at < $1 AND ",
    unleased!(),
    " ORDER BY created_at, seq LIMIT $2)) AND ",
    waits!()
);

/// Two instances that sweep at once mean the same objects, and one of them waits for the other.
pub(crate) const ENDED: &str = "
    DELETE FROM object WHERE state + 0 = $1 AND id = ANY(ARRAY(
        SELECT id FROM object
        WHERE state IN (1, 3) AND state = $1 AND coalesce(ended_at, created_at) < $2
        ORDER BY coalesce(ended_at, created_at), seq LIMIT $3))";

pub(crate) const DEAD_LETTERS: &str = "SELECT objects FROM counter WHERE state = 3";

/// A page of the error collection, which leaves it in one way or the other; `$8` is the place behind which it begins.
/// With `$9` what cannot be read is left out.
macro_rules! error_page {
    ($by:tt, $leave:literal) => {
        concat!(
            "WITH page AS MATERIALIZED (
                SELECT id FROM ",
            meant!($by),
            " WHERE (state, seq) > (3, $8) AND state <= 3 AND ",
            filtered!(),
            " AND NOT ($9 AND reason IS NOT DISTINCT FROM 'corrupt')
                ORDER BY state, seq LIMIT $10
             ), left_it AS (",
            $leave,
            " WHERE id = ANY(ARRAY(SELECT id FROM page)) AND state + 0 = 3 RETURNING seq, payload_bytes
             ) SELECT seq, payload_bytes FROM left_it ORDER BY seq"
        )
    };
}

macro_rules! redrive {
    ($by:tt) => {
        error_page!(
            $by,
            "UPDATE object SET state = 2, attempts = 0, last_attempt_at = NULL, not_before = NULL, reason = NULL,
                               ended_at = NULL"
        )
    };
}
pub(crate) const REDRIVE: &str = redrive!(queue);
pub(crate) const REDRIVE_IDS: &str = redrive!(ids);

macro_rules! purge {
    ($by:tt) => {
        error_page!($by, "DELETE FROM object")
    };
}
pub(crate) const PURGE: &str = purge!(queue);
pub(crate) const PURGE_IDS: &str = purge!(ids);

/// With the time of the server: nobody says what time it is when a row is found to be damaged.
pub(crate) const SET_ASIDE: &str = "
    WITH let_go AS (UPDATE lease SET seqs = array_remove(seqs, $3) WHERE owner > 0 AND $3 = ANY(seqs))
    UPDATE object SET state = 3, reason = 'corrupt', last_error = $2, crashes = 0,
           ended_at = coalesce(ended_at, (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
           payload_bytes = coalesce((SELECT length(bytes) FROM payload WHERE payload.seq = object.seq), 0)
    WHERE id = $1";

/// A row that could not be read.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) seq: i64,
    pub(crate) id: StoredObjectId,
    pub(crate) problem: String,
}

/// Removes the oldest waiting objects; answers what it removed, in order.
pub(crate) async fn evict(
    connection: &mut PgConnection,
    eviction: &Eviction,
) -> Result<Vec<Evicted>, sqlx::Error> {
    sqlx::query(TURN).execute(&mut *connection).await?;
    let oldest: Vec<(Uuid, i64)> = sqlx::query_as(OLDEST)
        .bind(i64::try_from(Eviction::MAX_OBJECTS).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let (mut objects, mut bytes) = (0, 0_u64);
    let wanted: Vec<Uuid> = oldest
        .into_iter()
        .take_while(|(_, payload_bytes)| {
            let wanted = objects < eviction.objects || bytes < eviction.bytes;
            objects += 1;
            bytes = bytes.saturating_add(unsigned(*payload_bytes));
            wanted
        })
        .map(|(id, _)| id)
        .collect();
    let mut removed: Vec<(i64, Uuid, String, String, i64)> =
        sqlx::query_as(EVICT).bind(wanted).fetch_all(connection).await?;
    removed.sort_unstable();
    let evicted = |(_, id, pipeline_id, correlation_id, bytes): (_, _, String, String, _)| Evicted {
        id: StoredObjectId::from_uuid(id),
        // What a damaged row has instead of a name is no name.
        pipeline_id: PipelineId::try_new(&pipeline_id).unwrap_or_else(|_| PipelineId::default_pipeline()),
        correlation_id: CorrelationId::new(&correlation_id),
        payload_bytes: unsigned(bytes),
    };
    Ok(removed.into_iter().map(evicted).collect())
}

/// Moves or removes what has been kept long enough; answers how many.
pub(crate) async fn sweep(
    connection: &mut PgConnection,
    sweep: &Sweep,
    limit: usize,
) -> Result<u64, sqlx::Error> {
    let mut limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
    let (state, before) = match sweep {
        Sweep::TooOld { before, at } => {
            sqlx::query(TURN).execute(&mut *connection).await?;
            let given_up = sqlx::query(TOO_OLD)
                .bind(before.as_unix_millis())
                .bind(limit)
                .bind(at.as_unix_millis())
                .execute(connection)
                .await?;
            return Ok(given_up.rows_affected());
        }
        Sweep::History { before } => (1_i16, before.as_unix_millis()),
        Sweep::DeadLetters { before } => (3, before.as_unix_millis()),
        Sweep::DeadLettersOver { max } => {
            let there: i64 = sqlx::query_scalar(DEAD_LETTERS)
                .fetch_one(&mut *connection)
                .await?;
            let over = there.saturating_sub(i64::try_from(*max).unwrap_or(i64::MAX));
            limit = limit.min(over);
            (3, i64::MAX)
        }
    };
    if limit <= 0 {
        return Ok(0);
    }
    let removed = sqlx::query(ENDED).bind(state).bind(before).bind(limit);
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
pub(crate) async fn leave_error(
    connection: &mut PgConnection,
    page: &ErrorPage,
    fate: Fate,
) -> Result<Moved, sqlx::Error> {
    let statement = match (fate, page.filter.ids.is_empty()) {
        (Fate::Redrive, true) => REDRIVE,
        (Fate::Redrive, false) => REDRIVE_IDS,
        (Fate::Purge, true) => PURGE,
        (Fate::Purge, false) => PURGE_IDS,
    };
    let left: Vec<(i64, i64)> = filter::bind(sqlx::query_as(statement), &page.filter)
        .bind(page.after_seq)
        .bind(fate == Fate::Redrive && page.filter.reasons.is_empty())
        .bind(i64::try_from(page.limit.max(1)).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    let mut moved = Moved::default();
    for (seq, payload_bytes) in left {
        moved.objects += 1;
        moved.payload_bytes += u64::try_from(payload_bytes).unwrap_or(0);
        moved.last_seq = Some(seq);
    }
    Ok(moved)
}

/// Moves damaged rows to the error collection.
pub(crate) async fn set_aside(connection: &mut PgConnection, damaged: &[Damage]) -> Result<(), sqlx::Error> {
    for Damage { seq, id, problem } in damaged {
        sqlx::query(SET_ASIDE)
            .bind(id.as_uuid())
            .bind(text(problem))
            .bind(seq)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
