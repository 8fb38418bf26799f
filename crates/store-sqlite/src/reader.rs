//! Looking: which objects a page has, when the next one is due, how many there are.
//!
//! Every statement goes through an index, named so that no plan depends on statistics; a test asks SQLite for its
//! plans. What is due depends on an interval that is not stored, so no index is in the order of a claim: a page is
//! looked for near the cursor first, then among the few that are due at all, and only when both fail (many due
//! objects far behind the cursor) by walking the index of the queue once.

use std::time::Duration;

use edgehold_core::{Destination, ObjectState, PipelineId, ServiceKey, StoredObjectId, Timestamp};
use edgehold_store::{
    Claim, Eviction, Lane, LaneStatus, ListRequest, StateCount, StoreStats, Suspects, semantics,
};
use futures_util::TryStreamExt;
use sqlx::{
    Row, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::{
    lease::{LeasedPage, Leases},
    row::{self, ReadRow, id_of},
};

/// Objects near the cursor that are looked at first.
const NEAR: i64 = 2_048;
/// Due objects up to which they are all looked at.
const FEW: usize = 512;

/// What a [`Candidate`] is made of.
macro_rules! candidate {
    ($($rest:literal),*) => {
        concat!("SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM object ", $($rest),*)
    };
}

/// A part of the queue in order, as far as it may run: `?4` is the latest end of an attempt that has rested.
macro_rules! walk {
    ($index:literal, $lane:literal) => {
        candidate!(
            "INDEXED BY ",
            $index,
            " WHERE app_service_key = ?1 AND state = 2 AND seq > ?2 AND seq <= ?3",
            " AND (last_attempt_at IS NULL OR last_attempt_at <= ?4 OR last_attempt_at > ?5)",
            " AND (not_before IS NULL OR not_before <= ?5)",
            $lane,
            " ORDER BY seq"
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
pub(crate) const WALK_IN_LANE: &str = walk!("object_lane", " AND destination IS ?6");

/// Objects of a lane that may run, in no order, at most `?5` of each kind: never attempted, attempted long ago,
/// attempted in the future, asked to wait until a moment that has come.
pub(crate) const DUE: &str = "
    SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_rested
        WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2
          AND not_before IS NULL AND last_attempt_at IS NULL LIMIT ?5)
    UNION ALL SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_rested
        WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2
          AND not_before IS NULL AND last_attempt_at <= ?3 LIMIT ?5)
    UNION ALL SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_rested
        WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2
          AND not_before IS NULL AND last_attempt_at > max(?3, ?4) LIMIT ?5)
    UNION ALL SELECT seq, id, payload_bytes, last_attempt_at, not_before FROM (
        SELECT * FROM object INDEXED BY object_asked_to_wait
        WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2
          AND not_before IS NOT NULL AND not_before <= ?4 LIMIT ?5)";

/// Of the objects at some places those that may run.
macro_rules! suspects {
    ($($rest:literal),*) => {
        concat!(
            "SELECT seq, id, payload_bytes, last_attempt_at, not_before, pipeline_id, device FROM object NOT INDEXED",
            " WHERE seq IN (SELECT value FROM json_each(?2)) AND app_service_key = ?1 AND state = 2 AND seq > ?3",
            " AND (last_attempt_at IS NULL OR last_attempt_at <= ?4 OR last_attempt_at > ?5)",
            " AND (not_before IS NULL OR not_before <= ?5) AND (?6 OR destination IS ?7)",
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
    SELECT object.seq, id, payload_bytes, last_attempt_at, not_before, pipeline_id, device
    FROM head CROSS JOIN object NOT INDEXED ON object.seq = head.seq
    WHERE state = 2 AND object.seq > ?3
      AND (last_attempt_at IS NULL OR last_attempt_at <= ?4 OR last_attempt_at > ?5)
      AND (not_before IS NULL OR not_before <= ?5) AND (?6 OR destination IS ?7)";

/// The objects of a pipeline that are in no order, as far as they may run.
pub(crate) const WITHOUT_DEVICE: &str = candidate!(
    "INDEXED BY object_device WHERE app_service_key = ?1 AND pipeline_id = CAST(?2 AS TEXT) AND state IN (0, 2) AND state = 2",
    " AND device IS NULL AND seq > ?3",
    " AND (last_attempt_at IS NULL OR last_attempt_at <= ?4 OR last_attempt_at > ?5)",
    " AND (not_before IS NULL OR not_before <= ?5) AND (?6 OR destination IS ?7) ORDER BY seq"
);

/// The destinations objects wait for, by jumping from each to the next.
pub(crate) const DESTINATIONS: &str = "
    WITH RECURSIVE lane (destination) AS (
        SELECT (SELECT destination FROM object INDEXED BY object_lane
                WHERE app_service_key = ?1 AND state = 2 AND destination IS NOT NULL
                ORDER BY destination LIMIT 1)
        UNION ALL
        SELECT (SELECT destination FROM object INDEXED BY object_lane
                WHERE app_service_key = ?1 AND state = 2 AND destination > lane.destination
                ORDER BY destination LIMIT 1)
        FROM lane WHERE lane.destination IS NOT NULL
    )
    SELECT destination FROM lane WHERE destination IS NOT NULL";

/// Some objects of a lane whose name is no text.
pub(crate) const UNREADABLE_LANE: &str = "
    SELECT seq FROM object INDEXED BY object_lane
    WHERE app_service_key = ?1 AND state = 2 AND destination = CAST(?2 AS TEXT)
    ORDER BY seq LIMIT 256";

pub(crate) const FIRST_RESTED: &str = candidate!(
    "INDEXED BY object_rested WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2 AND not_before IS NULL",
    " ORDER BY last_attempt_at"
);
pub(crate) const FIRST_RESTED_IN_FUTURE: &str = candidate!(
    "INDEXED BY object_rested WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2 AND not_before IS NULL",
    " AND last_attempt_at > ?3 ORDER BY last_attempt_at"
);
pub(crate) const FIRST_ASKED_TO_WAIT: &str = candidate!(
    "INDEXED BY object_asked_to_wait WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2",
    " AND not_before IS NOT NULL ORDER BY not_before"
);
pub(crate) const FIRST_ASKED_TO_WAIT_RESTED: &str = candidate!(
    "INDEXED BY object_asked_to_wait_rested WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2",
    " AND not_before IS NOT NULL ORDER BY last_attempt_at"
);
pub(crate) const FIRST_ASKED_TO_WAIT_IN_FUTURE: &str = candidate!(
    "INDEXED BY object_asked_to_wait_rested WHERE app_service_key = ?1 AND destination IS ?2 AND state = 2",
    " AND not_before IS NOT NULL AND last_attempt_at > ?3 ORDER BY last_attempt_at"
);

pub(crate) const OLDEST: &str =
    candidate!("INDEXED BY object_queue WHERE app_service_key = ?1 AND state = 2 ORDER BY seq");

pub(crate) const TOO_OLD: &str = candidate!(
    "INDEXED BY object_oldest WHERE app_service_key = ?1 AND state IN (0, 2) AND state = 2 AND created_at < ?2",
    " ORDER BY created_at"
);

pub(crate) const IS_WAITING: &str = "
    SELECT EXISTS (
        SELECT 1 FROM object INDEXED BY object_device
        WHERE app_service_key = ?1 AND pipeline_id = ?2 AND device = ?3 AND state IN (0, 2))";

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

    fn due_at(&self, interval: Duration, now: Timestamp) -> Timestamp {
        semantics::due_at(self.last_attempt_at, self.not_before, interval, now)
    }

    /// Puts it on the page; false when the page has ended.
    fn join(&self, page: &mut LeasedPage) -> bool {
        page.offer(self.seq, self.id, self.payload_bytes)
    }
}

/// A claim in the words of the statements.
struct Wanted<'a> {
    service_key: &'a ServiceKey,
    after_seq: i64,
    /// The latest end of an attempt whose object has rested.
    rested_since: i64,
    now: i64,
    lane: &'a Lane,
    ordered: bool,
}

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

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

    /// Goes through a part of the queue in order; true when the page has not ended with it.
    async fn walk(
        &self,
        connection: &mut SqliteConnection,
        (after, end): (i64, i64),
        page: &mut LeasedPage,
    ) -> Result<bool, sqlx::Error> {
        let destination = self.destination();
        let statement = match destination {
            None => WALK,
            Some(_) => WALK_IN_LANE,
        };
        let mut query = sqlx::query(statement)
            .bind(self.service_key.as_str())
            .bind(after)
            .bind(end)
            .bind(self.rested_since)
            .bind(self.now);
        if let Some(destination) = destination {
            query = query.bind(destination);
        }
        offer(connection, query, page).await
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
        found.sort_by_key(|candidate| candidate.seq);
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
            .bind(destination.flatten());
        let mut rows = query.fetch(connection);
        while let Some(row) = rows.try_next().await? {
            if self.ordered && is_held_back(&row, page)? {
                continue;
            }
            if !Candidate::of(&row)?.join(page) {
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
                if page.takes(candidate.id) {
                    free += 1;
                    found.push(candidate);
                }
            }
        }
        found.sort_by_key(|candidate| candidate.seq);
        found.iter().all(|candidate| candidate.join(page));
        Ok(())
    }
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
        if !Candidate::of(&row)?.join(page) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The lanes there are, the one without a destination first whether it has objects or not; and the names of those
/// that are damaged, which are no text.
async fn destinations(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
) -> Result<(Vec<Option<String>>, Vec<Vec<u8>>), sqlx::Error> {
    let named: Vec<Vec<u8>> = sqlx::query_scalar(DESTINATIONS)
        .bind(service_key.as_str())
        .fetch_all(connection)
        .await?;
    let mut lanes = vec![None];
    let mut damaged = Vec::new();
    for name in named {
        match String::from_utf8(name) {
            Ok(name) => lanes.push(Some(name)),
            Err(error) => damaged.push(error.into_bytes()),
        }
    }
    Ok((lanes, damaged))
}

/// The places of some objects whose destination is no text, so that they can be set aside.
pub(crate) async fn unreadable_lanes(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    damaged: Vec<Vec<u8>>,
) -> Result<Vec<i64>, sqlx::Error> {
    let mut places = Vec::new();
    for name in damaged {
        let of_lane: Vec<i64> = sqlx::query_scalar(UNREADABLE_LANE)
            .bind(service_key.as_str())
            .bind(name)
            .fetch_all(&mut *connection)
            .await?;
        places.extend(of_lane);
    }
    Ok(places)
}

fn places_json(places: &[i64]) -> String {
    serde_json::to_string(places).expect("numbers are always JSON")
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
    let near_end = wanted.near_end(connection).await?;
    let part = (claim.after_seq, near_end.unwrap_or(i64::MAX));
    let goes_on = wanted.walk(connection, part, &mut page).await?;
    let Some(near_end) = near_end.filter(|_| goes_on) else {
        return Ok(page);
    };
    match wanted.few(connection).await? {
        Some(candidates) => {
            candidates
                .iter()
                .filter(|candidate| candidate.seq > near_end)
                .all(|candidate| candidate.join(&mut page));
        }
        None => {
            wanted.walk(connection, (near_end, i64::MAX), &mut page).await?;
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
            Some(row) if Candidate::of(&row)?.join(&mut page) => {}
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

pub(crate) async fn is_waiting(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    pipeline_id: &PipelineId,
    device: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(IS_WAITING)
        .bind(service_key.as_str())
        .bind(pipeline_id.as_str())
        .bind(device)
        .fetch_one(connection)
        .await
}

/// Reads objects by their places, in order. One that has left is left out.
pub(crate) async fn read(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    seqs: &[i64],
) -> Result<Vec<ReadRow>, sqlx::Error> {
    let mut rows = sqlx::query(row::SELECT)
        .bind(places_json(seqs))
        .bind(service_key.as_str())
        .fetch(connection);
    let mut objects = Vec::new();
    while let Some(row) = rows.try_next().await? {
        objects.push(row::read(&row, service_key)?);
    }
    Ok(objects)
}

/// Looks for the first due object of one lane.
struct LaneLook<'a> {
    service_key: &'a ServiceKey,
    destination: Option<&'a str>,
    interval: Duration,
    now: Timestamp,
    leases: &'a Leases,
}

impl LaneLook<'_> {
    fn query(&self, statement: &'static str) -> Statement<'_> {
        let query = sqlx::query(statement)
            .bind(self.service_key.as_str())
            .bind(self.destination);
        match statement {
            FIRST_RESTED_IN_FUTURE | FIRST_ASKED_TO_WAIT_IN_FUTURE => query.bind(self.now.as_unix_millis()),
            _ => query,
        }
    }

    /// The first object of a query that nobody has claimed.
    async fn first(
        &self,
        connection: &mut SqliteConnection,
        statement: &'static str,
    ) -> Result<Option<Candidate>, sqlx::Error> {
        let mut rows = self.query(statement).fetch(connection);
        while let Some(row) = rows.try_next().await? {
            let candidate = Candidate::of(&row)?;
            if !self.leases.contains(candidate.id) {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    fn due_at(&self, candidate: &Candidate) -> Timestamp {
        candidate.due_at(self.interval, self.now)
    }

    /// When the first one is due that only has to rest.
    async fn rested(&self, connection: &mut SqliteConnection) -> Result<Option<Timestamp>, sqlx::Error> {
        let Some(first) = self.first(connection, FIRST_RESTED).await? else {
            return Ok(None);
        };
        let due = self.due_at(&first);
        // An attempt in the future counts as long ago, and comes last in the index.
        if due > Timestamp::default()
            && let Some(future) = self.first(connection, FIRST_RESTED_IN_FUTURE).await?
        {
            return Ok(Some(due.min(self.due_at(&future))));
        }
        Ok(Some(due))
    }

    /// When the first one is due that was asked to wait: at the later of two times, which no index has in order. The
    /// first by either time usually is the first by both; if not, those whose wait ends before the best one known
    /// decide.
    async fn asked_to_wait(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<Timestamp>, sqlx::Error> {
        let Some(by_wait) = self.first(connection, FIRST_ASKED_TO_WAIT).await? else {
            return Ok(None);
        };
        let mut best = self.due_at(&by_wait);
        if Some(best) == by_wait.not_before {
            return Ok(Some(best));
        }
        let by_rest = match self.first(connection, FIRST_ASKED_TO_WAIT_IN_FUTURE).await? {
            None => self.first(connection, FIRST_ASKED_TO_WAIT_RESTED).await?,
            future => future,
        };
        let Some(by_rest) = by_rest else {
            return Ok(Some(best));
        };
        best = best.min(self.due_at(&by_rest));
        let bound = semantics::due_at(
            by_rest.last_attempt_at,
            by_wait.not_before,
            self.interval,
            self.now,
        );
        if best > bound {
            let mut rows = self.query(FIRST_ASKED_TO_WAIT).fetch(connection);
            while let Some(row) = rows.try_next().await? {
                let candidate = Candidate::of(&row)?;
                if candidate.not_before >= Some(best) {
                    break;
                }
                if !self.leases.contains(candidate.id) {
                    best = best.min(self.due_at(&candidate));
                }
            }
        }
        Ok(Some(best))
    }
}

/// The lanes that have unclaimed objects, and when the first of each is due; and the names of those that are damaged.
pub(crate) async fn lanes(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    interval: Duration,
    now: Timestamp,
    leases: &Leases,
) -> Result<(Vec<LaneStatus>, Vec<Vec<u8>>), sqlx::Error> {
    let mut lanes = Vec::new();
    let (destinations, damaged) = destinations(connection, service_key).await?;
    for destination in destinations {
        let look = LaneLook {
            service_key,
            destination: destination.as_deref(),
            interval,
            now,
            leases,
        };
        let moments = [
            look.rested(connection).await?,
            look.asked_to_wait(connection).await?,
        ];
        if let Some(next_due) = moments.into_iter().flatten().min() {
            lanes.push(LaneStatus {
                destination: destination.as_deref().map(Destination::new),
                next_due,
            });
        }
    }
    Ok((lanes, damaged))
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
