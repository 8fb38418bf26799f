//! Choosing the objects of a page.
//!
//! What is due depends on an interval that is not stored, so no index is in the order of a claim: a page is looked for
//! near the cursor first, then among the few that are due at all, and only when both fail (many due objects far behind
//! the cursor) by walking the index of the queue or the lane once. In order, only the oldest object of each pipeline and
//! device is looked at.

use edgehold_core::{ServiceKey, Timestamp};
use edgehold_store::{Claim, Eviction, Lane, Suspects};
use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Candidate, Place, Statement, candidate, lanes::destinations, places_json};
use crate::lease::{LeasedPage, Leases};

/// Objects near the cursor that are looked at first.
const NEAR: i64 = 2_048;
/// No limit.
const ALL: i64 = -1;
/// Due objects up to which they are all looked at.
const FEW: usize = 512;

/// The first `?3` objects of a part of the queue, and of them, in order, the first `?8` that may run and are not left out
/// (`?7`): `?4` is the latest end of an attempt that has rested, `?6` the latest moment up to which one may have been
/// asked to wait. One row: a list of places, and a list of sizes. What is inside comes out in its order, and as far as it
/// is asked for, because SQLite runs it beside what is outside (a co-routine). A limit without the sign would be looked at
/// for the plan, and the statement be prepared anew for each value.
macro_rules! walk {
    ($index:literal, $lane:literal) => {
        concat!(
            "SELECT json_group_array(seq), json_group_array(payload_bytes) FROM (
                SELECT object.seq, payload_bytes FROM (
                    SELECT seq, last_attempt_at, not_before FROM object INDEXED BY ",
            $index,
            " WHERE app_service_key = ?1 AND state = 2 AND seq > ?2 ",
            $lane,
            " ORDER BY seq LIMIT +?3
                ) AS part CROSS JOIN object NOT INDEXED ON object.seq = part.seq
                WHERE (part.last_attempt_at IS NULL OR part.last_attempt_at <= ?4 OR part.last_attempt_at > ?5)
                  AND (part.not_before IS NULL OR part.not_before <= ?6)
                  AND part.seq NOT IN (SELECT value FROM json_each(?7))
                LIMIT +?8)"
        )
    };
}

/// The end of the first [`NEAR`] objects behind the cursor, if there are more.
pub(crate) const NEAR_END: &str = "
    SELECT seq FROM object INDEXED BY object_queue
    WHERE app_service_key = ?1 AND state = 2 AND seq > ?2
    ORDER BY seq LIMIT 1 OFFSET ?3";
pub(crate) const NEAR_END_IN_LANE: &str = "
    SELECT seq FROM object INDEXED BY object_lane
    WHERE app_service_key = ?1 AND state = 2 AND seq > ?2 AND destination IS ?4
    ORDER BY seq LIMIT 1 OFFSET ?3";

pub(crate) const WALK: &str = walk!("object_queue", "");
pub(crate) const WALK_IN_LANE: &str = walk!("object_lane", "AND destination IS ?9");

/// Objects of a lane that may run, in no order, at most `?5` of each kind: never attempted, attempted long ago,
/// attempted in the future, asked to wait until a moment that has come.
pub(crate) const DUE: &str = "
    SELECT seq, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_rested
        WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2
          AND not_before IS NULL AND last_attempt_at IS NULL LIMIT ?5)
    UNION ALL SELECT seq, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_rested
        WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2
          AND not_before IS NULL AND last_attempt_at <= ?3 LIMIT ?5)
    UNION ALL SELECT seq, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_rested
        WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2
          AND not_before IS NULL AND last_attempt_at > max(?3, ?4) LIMIT ?5)
    UNION ALL SELECT seq, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_asked_to_wait
        WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2
          AND not_before IS NOT NULL AND not_before <= ?6 LIMIT ?5)";

/// Of the objects at some places those that may run.
macro_rules! suspects {
    ($($rest:literal),*) => {
        concat!(
            "SELECT seq, payload_bytes, last_attempt_at, not_before, pipeline_id, device FROM object NOT INDEXED",
            " WHERE seq IN (SELECT value FROM json_each(?2)) AND app_service_key = ?1 AND state = 2 AND seq > ?3",
            " AND (last_attempt_at IS NULL OR last_attempt_at <= ?4 OR last_attempt_at > ?5)",
            " AND (not_before IS NULL OR not_before <= ?8) AND (?6 OR destination IS ?7)",
            $($rest,)* " ORDER BY seq"
        )
    };
}
pub(crate) const SUSPECTS: &str = suspects!();
pub(crate) const SUSPECTS_IN_ORDER: &str = suspects!(
    " AND (device IS NULL OR seq = (SELECT other.seq FROM object AS other INDEXED BY object_device",
    "  WHERE other.app_service_key = ?1 AND other.pipeline_id = object.pipeline_id AND other.device = object.device",
    "  AND other.state IN (0, 2) ORDER BY other.seq LIMIT 1))"
);

/// The pipelines of which something waits, by jumping from each to the next.
pub(crate) const PIPELINES: &str = "
    WITH RECURSIVE named (pipeline_id) AS (
        SELECT (SELECT pipeline_id FROM object INDEXED BY object_device
                WHERE app_service_key = ?1 AND state IN (0, 2)
                ORDER BY pipeline_id LIMIT 1)
        UNION ALL
        SELECT (SELECT pipeline_id FROM object INDEXED BY object_device
                WHERE app_service_key = ?1 AND state IN (0, 2) AND pipeline_id > named.pipeline_id
                ORDER BY pipeline_id LIMIT 1)
        FROM named WHERE named.pipeline_id IS NOT NULL
    )
    SELECT pipeline_id FROM named WHERE pipeline_id IS NOT NULL";

/// The oldest waiting object of each device of a pipeline, by jumping likewise, if it may run.
pub(crate) const HEADS: &str = "
    WITH RECURSIVE named (device) AS (
        SELECT (SELECT device FROM object INDEXED BY object_device
                WHERE app_service_key = ?1 AND pipeline_id = CAST(?2 AS TEXT) AND state IN (0, 2) AND device IS NOT NULL
                ORDER BY device LIMIT 1)
        UNION ALL
        SELECT (SELECT device FROM object INDEXED BY object_device
                WHERE app_service_key = ?1 AND pipeline_id = CAST(?2 AS TEXT) AND state IN (0, 2) AND device > named.device
                ORDER BY device LIMIT 1)
        FROM named WHERE named.device IS NOT NULL
    ),
    head (seq) AS (
        SELECT (SELECT seq FROM object INDEXED BY object_device
                WHERE app_service_key = ?1 AND pipeline_id = CAST(?2 AS TEXT) AND state IN (0, 2) AND device = named.device
                ORDER BY seq LIMIT 1)
        FROM named WHERE named.device IS NOT NULL
    )
    SELECT object.seq, payload_bytes, last_attempt_at, not_before, pipeline_id, device
    FROM head CROSS JOIN object NOT INDEXED ON object.seq = head.seq
    WHERE state = 2 AND object.seq > ?3
      AND (last_attempt_at IS NULL OR last_attempt_at <= ?4 OR last_attempt_at > ?5)
      AND (not_before IS NULL OR not_before <= ?8) AND (?6 OR destination IS ?7)";

/// The objects of a pipeline that are in no order, as far as they may run.
pub(crate) const WITHOUT_DEVICE: &str = candidate!(
    "INDEXED BY object_device WHERE app_service_key = ?1 AND pipeline_id = CAST(?2 AS TEXT) AND state IN (0, 2) AND state = 2",
    " AND device IS NULL AND seq > ?3",
    " AND (last_attempt_at IS NULL OR last_attempt_at <= ?4 OR last_attempt_at > ?5)",
    " AND (not_before IS NULL OR not_before <= ?8) AND (?6 OR destination IS ?7) ORDER BY seq"
);

pub(crate) const OLDEST: &str =
    candidate!("INDEXED BY object_queue WHERE app_service_key = ?1 AND state = 2 ORDER BY seq");

pub(crate) const TOO_OLD: &str = candidate!(
    "INDEXED BY object_oldest WHERE app_service_key = ?1 AND state IN (0, 2) AND state = 2 AND created_at < ?2",
    " ORDER BY created_at"
);

/// A claim in the words of the statements.
struct Wanted<'a> {
    service_key: &'a ServiceKey,
    after_seq: i64,
    /// The latest end of an attempt whose object has rested.
    rested_since: i64,
    /// The latest moment up to which an object may have been asked to wait.
    waited_until: i64,
    now: i64,
    lane: &'a Lane,
    ordered: bool,
}

impl<'a> Wanted<'a> {
    fn of(service_key: &'a ServiceKey, claim: &'a Claim) -> Self {
        let now = claim.now.as_unix_millis();
        let rested_since = claim.selection.due.map_or(i64::MAX, |interval| {
            now.saturating_sub(i64::try_from(interval.as_millis()).unwrap_or(i64::MAX))
        });
        Self {
            service_key,
            after_seq: claim.after_seq,
            rested_since,
            waited_until: claim.selection.due.map_or(i64::MAX, |_| now),
            now,
            lane: &claim.selection.lane,
            ordered: claim.ordered,
        }
    }

    /// The column `destination` of its lane; none for any lane.
    fn destination(&self) -> Option<Option<&'a str>> {
        match self.lane {
            Lane::Any => None,
            Lane::To(destination) => Some(Some(destination.as_str())),
            Lane::Unknown => Some(None),
        }
    }

    async fn near_end(&self, connection: &mut SqliteConnection) -> Result<Option<i64>, sqlx::Error> {
        let destination = self.destination();
        let statement = match destination {
            None => NEAR_END,
            Some(_) => NEAR_END_IN_LANE,
        };
        let mut query = sqlx::query_scalar(statement)
            .bind(self.service_key.as_str())
            .bind(self.after_seq)
            .bind(NEAR - 1);
        if let Some(destination) = destination {
            query = query.bind(destination);
        }
        query.fetch_optional(connection).await
    }

    /// Goes through the queue in order, from behind a place and past so many objects (all: -1); true when the page has
    /// not ended with them.
    async fn walk(
        &self,
        connection: &mut SqliteConnection,
        (mut after, objects): (i64, i64),
        page: &mut LeasedPage,
    ) -> Result<bool, sqlx::Error> {
        let destination = self.destination();
        let statement = match destination {
            None => WALK,
            Some(_) => WALK_IN_LANE,
        };
        loop {
            let room = page.room();
            let mut query = sqlx::query(statement)
                .bind(self.service_key.as_str())
                .bind(after)
                .bind(objects)
                .bind(self.rested_since)
                .bind(self.now)
                .bind(self.waited_until)
                .bind(places_json(&page.leaves_out(after)))
                .bind(i64::try_from(room).unwrap_or(i64::MAX));
            if let Some(destination) = destination {
                query = query.bind(destination);
            }
            let row = query.fetch_one(&mut *connection).await?;
            let (seqs, sizes) = (numbers(&row, 0)?, numbers(&row, 1)?);
            let mut places = seqs.iter().zip(sizes).map(|(seq, bytes)| Place::new(*seq, bytes));
            if !places.all(|place| page.offer(place)) {
                return Ok(false);
            }
            match seqs.last() {
                // Some were claimed by others meanwhile.
                Some(last) if seqs.len() == room && page.room() > 0 => after = *last,
                _ => return Ok(page.room() > 0),
            }
        }
    }

    /// All that may run, in order, unless it is many.
    async fn few(&self, connection: &mut SqliteConnection) -> Result<Option<Vec<Candidate>>, sqlx::Error> {
        let lanes = match self.destination() {
            Some(destination) => vec![destination.map(str::to_owned)],
            // What is damaged is met by the walk instead.
            None => match destinations(connection, self.service_key).await? {
                (lanes, damaged) if damaged.is_empty() => lanes,
                _ => return Ok(None),
            },
        };
        let mut found = Vec::new();
        for destination in lanes {
            let rows = sqlx::query(DUE)
                .bind(self.service_key.as_str())
                .bind(destination)
                .bind(self.rested_since)
                .bind(self.now)
                .bind(i64::try_from(FEW).unwrap_or(i64::MAX))
                .bind(self.waited_until)
                .fetch_all(&mut *connection)
                .await?;
            for row in &rows {
                found.push(Candidate::of(row)?);
            }
            // Any of the four kinds may have been cut at its limit.
            if found.len() >= FEW {
                return Ok(None);
            }
        }
        found.retain(|candidate| {
            let rested = |at: Timestamp| {
                let at = at.as_unix_millis();
                at <= self.rested_since || at > self.now
            };
            candidate.last_attempt_at.is_none_or(rested)
        });
        found.sort_by_key(|candidate| candidate.place.seq);
        Ok(Some(found))
    }

    /// Looks through the objects that were in flight at a crash.
    async fn suspects(
        &self,
        connection: &mut SqliteConnection,
        places: &[i64],
        page: &mut LeasedPage,
    ) -> Result<(), sqlx::Error> {
        let destination = self.destination();
        let statement = if self.ordered { SUSPECTS_IN_ORDER } else { SUSPECTS };
        let query = sqlx::query(statement)
            .bind(self.service_key.as_str())
            .bind(places_json(places))
            .bind(self.after_seq)
            .bind(self.rested_since)
            .bind(self.now)
            .bind(destination.is_none())
            .bind(destination.flatten())
            .bind(self.waited_until);
        let mut rows = query.fetch(connection);
        while let Some(row) = rows.try_next().await? {
            if self.ordered && is_held_back(&row, page)? {
                continue;
            }
            if !page.offer(Candidate::of(&row)?.place) {
                break;
            }
        }
        Ok(())
    }

    /// `pipeline_id` is what a row says, which need not be a text.
    fn of_pipeline<'q>(&'q self, statement: &'static str, pipeline_id: &'q [u8]) -> Statement<'q> {
        let destination = self.destination();
        sqlx::query(statement)
            .bind(self.service_key.as_str())
            .bind(pipeline_id)
            .bind(self.after_seq)
            .bind(self.rested_since)
            .bind(self.now)
            .bind(destination.is_none())
            .bind(destination.flatten())
            .bind(self.waited_until)
    }

    /// Looks at the oldest object of each pipeline and device, and at those that are in no order.
    async fn in_order(
        &self,
        connection: &mut SqliteConnection,
        limit: usize,
        page: &mut LeasedPage,
    ) -> Result<(), sqlx::Error> {
        let pipelines: Vec<Vec<u8>> = sqlx::query_scalar(PIPELINES)
            .bind(self.service_key.as_str())
            .fetch_all(&mut *connection)
            .await?;
        let mut found = Vec::new();
        for pipeline_id in &pipelines {
            let heads = self
                .of_pipeline(HEADS, pipeline_id)
                .fetch_all(&mut *connection)
                .await?;
            for row in &heads {
                if !is_held_back(row, page)? {
                    found.push(Candidate::of(row)?);
                }
            }
            let mut rows = self
                .of_pipeline(WITHOUT_DEVICE, pipeline_id)
                .fetch(&mut *connection);
            let mut free = 0;
            while free < limit
                && let Some(row) = rows.try_next().await?
            {
                let candidate = Candidate::of(&row)?;
                if page.takes(candidate.place.seq) {
                    free += 1;
                    found.push(candidate);
                }
            }
        }
        found.sort_by_key(|candidate| candidate.place.seq);
        found.iter().all(|candidate| page.offer(candidate.place));
        Ok(())
    }
}

/// A column that is a list of numbers.
fn numbers(row: &SqliteRow, column: usize) -> Result<Vec<i64>, sqlx::Error> {
    serde_json::from_slice(row.try_get(column)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Whether another object of the same pipeline and device is claimed.
fn is_held_back(row: &SqliteRow, page: &LeasedPage) -> Result<bool, sqlx::Error> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let device: Option<Vec<u8>> = row.try_get("device")?;
    Ok(match device {
        Some(device) => page.is_busy(text(row.try_get("pipeline_id")?), text(device)),
        None => false,
    })
}

/// Puts what a statement answers on a page; false when the page has ended.
async fn offer(
    connection: &mut SqliteConnection,
    statement: Statement<'_>,
    page: &mut LeasedPage,
) -> Result<bool, sqlx::Error> {
    let mut rows = statement.fetch(connection);
    while let Some(row) = rows.try_next().await? {
        if !page.offer(Candidate::of(&row)?.place) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Chooses the objects of a page and claims them.
pub(crate) async fn choose(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    claim: &Claim,
    leases: &Leases,
) -> Result<LeasedPage, sqlx::Error> {
    let mut page = leases.page(Some(claim.suspects), claim.limit, claim.max_bytes);
    let wanted = Wanted::of(service_key, claim);
    if claim.suspects == Suspects::Only {
        let places = leases.suspects();
        if !places.is_empty() {
            wanted.suspects(connection, &places, &mut page).await?;
        }
        return Ok(page);
    }
    if claim.ordered {
        wanted.in_order(connection, claim.limit.max(1), &mut page).await?;
        return Ok(page);
    }
    if !wanted
        .walk(connection, (claim.after_seq, NEAR), &mut page)
        .await?
    {
        return Ok(page);
    }
    let Some(near_end) = wanted.near_end(connection).await? else {
        return Ok(page);
    };
    match wanted.few(connection).await? {
        Some(candidates) => {
            candidates
                .iter()
                .filter(|candidate| candidate.place.seq > near_end)
                .all(|candidate| page.offer(candidate.place));
        }
        None => {
            wanted.walk(connection, (near_end, ALL), &mut page).await?;
        }
    }
    Ok(page)
}

/// Chooses what is to be removed to make room and claims it.
pub(crate) async fn choose_oldest(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    eviction: &Eviction,
    leases: &Leases,
) -> Result<LeasedPage, sqlx::Error> {
    let mut page = leases.page(None, Eviction::MAX_OBJECTS, usize::MAX);
    let mut rows = sqlx::query(OLDEST).bind(service_key.as_str()).fetch(connection);
    loop {
        let (objects, bytes) = page.weight();
        if objects >= eviction.objects && bytes >= eviction.bytes {
            break;
        }
        match rows.try_next().await? {
            Some(row) if page.offer(Candidate::of(&row)?.place) => {}
            _ => break,
        }
    }
    drop(rows);
    Ok(page)
}

/// Chooses what was created before a moment and claims it.
pub(crate) async fn choose_too_old(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    before: Timestamp,
    limit: usize,
    leases: &Leases,
) -> Result<LeasedPage, sqlx::Error> {
    let mut page = leases.page(None, limit, usize::MAX);
    let query = sqlx::query(TOO_OLD)
        .bind(service_key.as_str())
        .bind(before.as_unix_millis());
    offer(connection, query, &mut page).await?;
    Ok(page)
}
