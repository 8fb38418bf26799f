//! Looking: which objects a page has, when the next one is due, how many there are.
//!
//! Every statement goes through an index, named so that no plan depends on statistics; a test asks SQLite for its
//! plans. What is due depends on an interval that is not stored, so no index is in the order of a claim: a page is
//! looked for near the cursor first, then among the few that are due at all, and only when both fail (many due
//! objects far behind the cursor) by walking the index of the queue once.

use std::time::Duration;

use edgehold_core::{Destination, ObjectState, ServiceKey, StoredObjectId, Timestamp};
use edgehold_store::{Claim, ListRequest, Selection, StateCount, StoreStats, semantics};
use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    lease::{LeasedPage, Leases},
    row::{self, ReadRow, id_of},
};

/// Objects near the cursor that are looked at first.
const NEAR: i64 = 2_048;
/// Due objects up to which they are all looked at.
const FEW: usize = 512;

/// The end of the first [`NEAR`] objects behind the cursor, if there are more.
pub(crate) const NEAR_END: &str = "
    SELECT seq FROM object INDEXED BY object_queue
    WHERE app_service_key = ?1 AND state = 2 AND seq > ?2
    ORDER BY seq LIMIT 1 OFFSET ?3";

/// Due objects of a part of the queue, in order.
pub(crate) const WALK: &str = "
    SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM object INDEXED BY object_queue
    WHERE app_service_key = ?1 AND state = 2 AND seq > ?2 AND seq <= ?3
      AND (last_attempt_at IS NULL OR last_attempt_at <= ?4 OR last_attempt_at > ?5)
      AND (not_before IS NULL OR not_before <= ?5)
    ORDER BY seq";

/// Objects that may be due, in no order, at most `?5` of each kind: never attempted, attempted long ago, attempted in
/// the future, asked to wait until a moment that has come.
pub(crate) const DUE: &str = "
    SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_rested
        WHERE app_service_key = ?1 AND state = 2 AND not_before IS NULL AND last_attempt_at IS NULL LIMIT ?4)
    UNION ALL SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_rested
        WHERE app_service_key = ?1 AND state = 2 AND not_before IS NULL AND last_attempt_at <= ?2 LIMIT ?4)
    UNION ALL SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_rested
        WHERE app_service_key = ?1 AND state = 2 AND not_before IS NULL AND last_attempt_at > ?3 LIMIT ?4)
    UNION ALL SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_asked_to_wait
        WHERE app_service_key = ?1 AND state = 2 AND not_before IS NOT NULL AND not_before <= ?3 LIMIT ?4)";

pub(crate) const AT_DESTINATION: &str = "
    SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM object INDEXED BY object_destination
    WHERE app_service_key = ?1 AND state = 2 AND destination = ?2 AND seq > ?3
      AND (not_before IS NULL OR not_before <= ?4)
    ORDER BY seq";

pub(crate) const FIRST_RESTED: &str = "
    SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM object INDEXED BY object_rested
    WHERE app_service_key = ?1 AND state = 2 AND not_before IS NULL
    ORDER BY last_attempt_at";

pub(crate) const FIRST_ASKED_TO_WAIT: &str = "
    SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM object INDEXED BY object_asked_to_wait
    WHERE app_service_key = ?1 AND state = 2 AND not_before IS NOT NULL
    ORDER BY not_before";

pub(crate) const FIRST_ASKED_TO_WAIT_RESTED: &str = "
    SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM object INDEXED BY object_asked_to_wait_rested
    WHERE app_service_key = ?1 AND state = 2 AND not_before IS NOT NULL
    ORDER BY last_attempt_at";

pub(crate) const LIST: &str = "
    SELECT seq, payload_bytes FROM object INDEXED BY object_queue
    WHERE app_service_key = ?1 AND state = ?2 AND seq > ?3
      AND (?4 IS NULL OR pipeline_id = ?4) AND (?5 IS NULL OR reason = ?5)
    ORDER BY seq LIMIT ?6";

pub(crate) const STATS: &str = "
    SELECT object_state AS state, objects, payload_bytes,
           (SELECT created_at FROM object INDEXED BY object_oldest
            WHERE app_service_key = ?1 AND state IN (0, 2) ORDER BY created_at LIMIT 1) AS oldest
    FROM counter WHERE owner = ?1";

/// What is known of an object before it is read.
struct Candidate {
    seq: i64,
    id: StoredObjectId,
    payload_bytes: usize,
    last_attempt_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
}

impl Candidate {
    fn of(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let seq = row.try_get("seq")?;
        let time = |column| {
            Ok::<_, sqlx::Error>(
                row.try_get::<Option<i64>, _>(column)?
                    .map(Timestamp::from_unix_millis),
            )
        };
        Ok(Self {
            seq,
            id: id_of(seq, row.try_get("id")?).unwrap_or_else(|stand_in| stand_in),
            payload_bytes: usize::try_from(row.try_get::<i64, _>("payload_bytes")?).unwrap_or(0),
            last_attempt_at: time("last_attempt_at")?,
            not_before: time("not_before")?,
        })
    }

    fn due_at(&self, interval: Duration) -> Timestamp {
        semantics::due_at(self.last_attempt_at, self.not_before, interval)
    }

    /// Puts it on the page; false when the page has ended.
    fn join(&self, page: &mut LeasedPage) -> bool {
        page.offer(self.seq, self.id, self.payload_bytes)
    }
}

/// Before this moment an attempt must have ended for its object to have rested.
fn rested_since(now: Timestamp, interval: Duration) -> i64 {
    now.as_unix_millis()
        .saturating_sub(i64::try_from(interval.as_millis()).unwrap_or(i64::MAX))
}

/// Chooses the objects of a page and claims them.
pub(crate) async fn choose(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    claim: &Claim,
    leases: &Leases,
) -> Result<LeasedPage, sqlx::Error> {
    let mut page = leases.page(claim.limit, claim.max_bytes);
    let interval = match &claim.selection {
        Selection::Due(interval) => *interval,
        Selection::At(destination) => {
            at_destination(connection, service_key, claim, destination, &mut page).await?;
            return Ok(page);
        }
    };
    let near_end: Option<i64> = sqlx::query_scalar(NEAR_END)
        .bind(service_key.as_str())
        .bind(claim.after_seq)
        .bind(NEAR - 1)
        .fetch_optional(&mut *connection)
        .await?;
    let part = (claim.after_seq, near_end.unwrap_or(i64::MAX));
    let goes_on = walk(connection, service_key, claim, interval, part, &mut page).await?;
    let Some(near_end) = near_end.filter(|_| goes_on) else {
        return Ok(page);
    };
    match few_due(connection, service_key, claim, interval).await? {
        Some(candidates) => {
            candidates
                .iter()
                .filter(|candidate| candidate.seq > near_end)
                .all(|candidate| candidate.join(&mut page));
        }
        None => {
            walk(
                connection,
                service_key,
                claim,
                interval,
                (near_end, i64::MAX),
                &mut page,
            )
            .await?;
        }
    }
    Ok(page)
}

/// Goes through a part of the queue in order; true when the page has not ended with it.
async fn walk(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    claim: &Claim,
    interval: Duration,
    (after, end): (i64, i64),
    page: &mut LeasedPage,
) -> Result<bool, sqlx::Error> {
    let mut rows = sqlx::query(WALK)
        .bind(service_key.as_str())
        .bind(after)
        .bind(end)
        .bind(rested_since(claim.now, interval))
        .bind(claim.now.as_unix_millis())
        .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        if !Candidate::of(&row)?.join(page) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All that is due, in order, unless it is many.
async fn few_due(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    claim: &Claim,
    interval: Duration,
) -> Result<Option<Vec<Candidate>>, sqlx::Error> {
    let rows = sqlx::query(DUE)
        .bind(service_key.as_str())
        .bind(rested_since(claim.now, interval))
        .bind(claim.now.as_unix_millis())
        .bind(i64::try_from(FEW).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    // Any of the four kinds may have been cut at its limit.
    if rows.len() >= FEW {
        return Ok(None);
    }
    let mut candidates = rows.iter().map(Candidate::of).collect::<Result<Vec<_>, _>>()?;
    candidates.retain(|candidate| {
        semantics::is_due(
            candidate.last_attempt_at,
            candidate.not_before,
            interval,
            claim.now,
        )
    });
    candidates.sort_by_key(|candidate| candidate.seq);
    Ok(Some(candidates))
}

async fn at_destination(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    claim: &Claim,
    destination: &Destination,
    page: &mut LeasedPage,
) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query(AT_DESTINATION)
        .bind(service_key.as_str())
        .bind(destination.as_str())
        .bind(claim.after_seq)
        .bind(claim.now.as_unix_millis())
        .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        if !Candidate::of(&row)?.join(page) {
            break;
        }
    }
    Ok(())
}

/// Reads objects by their places, in order. One that has left is left out.
pub(crate) async fn read(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    seqs: &[i64],
) -> Result<Vec<ReadRow>, sqlx::Error> {
    let seqs = serde_json::to_string(seqs).expect("numbers are always JSON");
    let mut rows = sqlx::query(row::SELECT)
        .bind(seqs)
        .bind(service_key.as_str())
        .fetch(connection);
    let mut objects = Vec::new();
    while let Some(row) = rows.try_next().await? {
        objects.push(row::read(&row, service_key)?);
    }
    Ok(objects)
}

/// The first object of a query that nobody has claimed.
async fn first_unclaimed(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    query: &'static str,
    leases: &Leases,
) -> Result<Option<Candidate>, sqlx::Error> {
    let mut rows = sqlx::query(query).bind(service_key.as_str()).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let candidate = Candidate::of(&row)?;
        if !leases.contains(candidate.id) {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// The earliest moment at which an unclaimed object is due.
pub(crate) async fn next_due(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    interval: Duration,
    leases: &Leases,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let rested = first_unclaimed(connection, service_key, FIRST_RESTED, leases).await?;
    let mut earliest = rested.map(|candidate| candidate.due_at(interval));

    // Objects that were asked to wait are due at the later of two times, which no index has in order. The first by
    // either time usually is the first by both; if not, those whose wait ends before the best one known decide.
    let by_wait = first_unclaimed(connection, service_key, FIRST_ASKED_TO_WAIT, leases).await?;
    let by_rest = first_unclaimed(connection, service_key, FIRST_ASKED_TO_WAIT_RESTED, leases).await?;
    if let (Some(by_wait), Some(by_rest)) = (by_wait, by_rest) {
        let mut best = by_wait.due_at(interval).min(by_rest.due_at(interval));
        let bound = semantics::due_at(by_rest.last_attempt_at, by_wait.not_before, interval);
        if best > bound {
            let mut rows = sqlx::query(FIRST_ASKED_TO_WAIT)
                .bind(service_key.as_str())
                .fetch(connection);
            while let Some(row) = rows.try_next().await? {
                let candidate = Candidate::of(&row)?;
                if candidate.not_before >= Some(best) {
                    break;
                }
                if !leases.contains(candidate.id) {
                    best = best.min(candidate.due_at(interval));
                }
            }
        }
        earliest = Some(earliest.map_or(best, |earliest| earliest.min(best)));
    }
    Ok(earliest)
}

/// The places of a listed page, and where the next one begins.
pub(crate) async fn list(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    request: &ListRequest,
) -> Result<(Vec<i64>, Option<i64>), sqlx::Error> {
    let limit = request.limit.max(1);
    let mut found: Vec<(i64, i64)> = Vec::new();
    let mut states = request.states.clone();
    states.sort_unstable();
    states.dedup();
    for state in states {
        let of_state: Vec<(i64, i64)> = sqlx::query_as(LIST)
            .bind(service_key.as_str())
            .bind(state.code())
            .bind(request.after_seq)
            .bind(request.pipeline_id.as_ref().map(|id| id.as_str()))
            .bind(request.reason.map(edgehold_core::ErrorReason::as_str))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1)
            .fetch_all(&mut *connection)
            .await?;
        found.extend(of_state);
    }
    found.sort_unstable();
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
pub(crate) async fn stats(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
) -> Result<StoreStats, sqlx::Error> {
    let rows: Vec<(i64, i64, i64, Option<i64>)> = sqlx::query_as(STATS)
        .bind(service_key.as_str())
        .fetch_all(connection)
        .await?;
    let mut stats = StoreStats::default();
    for (state, objects, payload_bytes, oldest) in rows {
        stats.oldest_waiting = oldest.map(Timestamp::from_unix_millis);
        let count = match ObjectState::from_code(state) {
            Ok(ObjectState::New) => &mut stats.new,
            Ok(ObjectState::Success) => &mut stats.success,
            Ok(ObjectState::Failed) => &mut stats.failed,
            Ok(ObjectState::Error) => &mut stats.error,
            // Set aside when the store is next opened for writing.
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
