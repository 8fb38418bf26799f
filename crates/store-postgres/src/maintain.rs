//! What makes room, what brings objects back, and what is set aside: eviction, sweeps, re-drive, purge, damage.

use edgehold_core::{CorrelationId, PipelineId, StoredObjectId, Timestamp};
use edgehold_store::{ErrorPage, Evicted, Eviction, Moved, Sweep};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    claim::{Wanted, unleased},
    filter::{self, filtered},
    row::text,
};

pub(crate) const OLDEST: &str = concat!(
    "SELECT seq, payload_bytes FROM object WHERE state = 2 AND ",
    unleased!(),
    " ORDER BY seq LIMIT $1"
);

/// What a claim has in hand leaves.
pub(crate) const EVICT: &str = "
    DELETE FROM object USING lease
    WHERE lease.owner = $1 AND lease.claim = $2 AND object.seq = lease.seq AND object.state = 2
    RETURNING object.seq, id, pipeline_id, correlation_id, payload_bytes";

pub(crate) const CREATED_BEFORE: &str = concat!(
    "SELECT seq FROM object WHERE state IN (0, 2) AND state = 2 AND created_at < $1 AND ",
    unleased!(),
    " ORDER BY created_at, seq LIMIT $2"
);

/// What a claim has in hand is given up.
pub(crate) const TOO_OLD: &str = "
    UPDATE object SET state = 3, reason = 'too_old', ended_at = $3, crashes = 0
    FROM lease WHERE lease.owner = $1 AND lease.claim = $2 AND object.seq = lease.seq AND object.state = 2";

pub(crate) const LET_GO: &str = "DELETE FROM lease WHERE owner = $1 AND claim = $2";

/// Two instances that sweep at once mean the same objects, and one of them waits for the other.
pub(crate) const ENDED: &str = "
    DELETE FROM object WHERE seq IN (
        SELECT seq FROM object
        WHERE state IN (1, 3) AND state = $1 AND coalesce(ended_at, created_at) < $2
        ORDER BY coalesce(ended_at, created_at), seq LIMIT $3)";

pub(crate) const DEAD_LETTERS: &str = "SELECT objects FROM counter WHERE state = 3";

/// A page of the error collection, which leaves it in one way or the other; `$8` is the place behind which it begins.
/// With `$9` what cannot be read is left out.
macro_rules! error_page {
    ($by:tt, $leave:literal) => {
        concat!(
            "WITH page AS MATERIALIZED (
                SELECT seq, payload_bytes FROM object WHERE state = 3 AND seq > $8 AND ",
            filtered!($by),
            " AND NOT ($9 AND reason IS NOT DISTINCT FROM 'corrupt')
                ORDER BY seq LIMIT $10
             ), left_it AS (",
            $leave,
            ") SELECT left_it.seq, page.payload_bytes FROM left_it JOIN page ON page.seq = left_it.seq ORDER BY left_it.seq"
        )
    };
}

macro_rules! redrive {
    ($by:tt) => {
        error_page!(
            $by,
            "UPDATE object SET state = 2, attempts = 0, last_attempt_at = NULL, not_before = NULL, reason = NULL,
                               ended_at = NULL
             FROM page WHERE object.seq = page.seq AND object.state = 3 RETURNING object.seq"
        )
    };
}
pub(crate) const REDRIVE: &str = redrive!(queue);
pub(crate) const REDRIVE_IDS: &str = redrive!(ids);

macro_rules! purge {
    ($by:tt) => {
        error_page!(
            $by,
            "DELETE FROM object USING page WHERE object.seq = page.seq AND object.state = 3 RETURNING object.seq"
        )
    };
}
pub(crate) const PURGE: &str = purge!(queue);
pub(crate) const PURGE_IDS: &str = purge!(ids);

/// With the time of the server: nobody says what time it is when a row is found to be damaged.
pub(crate) const SET_ASIDE: &str = "
    WITH let_go AS (DELETE FROM lease WHERE seq = $1)
    UPDATE object SET state = 3, reason = 'corrupt', last_error = $2, crashes = 0,
           ended_at = coalesce(ended_at, (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
           payload_bytes = coalesce((SELECT length(bytes) FROM payload WHERE payload.seq = object.seq), 0)
    WHERE seq = $1";

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
    owner: i64,
    claim: i64,
    eviction: &Eviction,
) -> Result<Vec<Evicted>, sqlx::Error> {
    let oldest: Vec<(i64, i64)> = sqlx::query_as(OLDEST)
        .bind(i64::try_from(Eviction::MAX_OBJECTS).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let (mut objects, mut bytes) = (0, 0_u64);
    let wanted: Vec<i64> = oldest
        .into_iter()
        .take_while(|(_, payload_bytes)| {
            let wanted = objects < eviction.objects || bytes < eviction.bytes;
            objects += 1;
            bytes = bytes.saturating_add(unsigned(*payload_bytes));
            wanted
        })
        .map(|(seq, _)| seq)
        .collect();
    Wanted::anything()
        .lease(connection, owner, claim, &wanted)
        .await?;
    let mut removed: Vec<(i64, Uuid, String, String, i64)> = sqlx::query_as(EVICT)
        .bind(owner)
        .bind(claim)
        .fetch_all(connection)
        .await?;
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
    owner: i64,
    claim: i64,
    sweep: &Sweep,
    limit: usize,
) -> Result<u64, sqlx::Error> {
    let mut limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
    let (state, before) = match sweep {
        Sweep::TooOld { before, at } => {
            return too_old(connection, owner, claim, (*before, *at), limit).await;
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

async fn too_old(
    connection: &mut PgConnection,
    owner: i64,
    claim: i64,
    (before, at): (Timestamp, Timestamp),
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let places: Vec<i64> = sqlx::query_scalar(CREATED_BEFORE)
        .bind(before.as_unix_millis())
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
    if places.is_empty() {
        return Ok(0);
    }
    Wanted::anything()
        .lease(connection, owner, claim, &places)
        .await?;
    let given_up = sqlx::query(TOO_OLD)
        .bind(owner)
        .bind(claim)
        .bind(at.as_unix_millis())
        .execute(&mut *connection)
        .await?;
    sqlx::query(LET_GO)
        .bind(owner)
        .bind(claim)
        .execute(connection)
        .await?;
    Ok(given_up.rows_affected())
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
    for Damage { seq, problem, .. } in damaged {
        sqlx::query(SET_ASIDE)
            .bind(seq)
            .bind(text(problem))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
