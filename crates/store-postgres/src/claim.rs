//! Choosing the objects of a page and taking them in hand.
//!
//! What is due depends on an interval that is not stored, so no index is in the order of a claim: a page is looked for
//! near the cursor first, then among the few that are due at all, and only when both fail (many due objects far behind
//! the cursor) by walking the index of the queue or the lane once. In order, only the oldest object of each pipeline and
//! device is looked at.
//!
//! What was chosen is then leased, each object as far as it is still as it was chosen and nobody else has it: another
//! instance may choose at the same time. Only what is leased is read, so that nothing that was settled in between is
//! handed out in its old state.

use edgehold_store::{Claim, Lane, Suspects};
use sqlx::{Connection as _, PgConnection, Postgres, postgres::PgArguments, query::QueryAs};

use crate::{lanes::destinations, row::text};

/// Due objects up to which they are all looked at.
const FEW: usize = 512;

/// Nobody has it in hand.
macro_rules! unleased {
    () => {
        "NOT EXISTS (SELECT 1 FROM lease WHERE lease.seq = object.seq)"
    };
}

/// It may run: these parameters are the latest end of an attempt that has rested, now, and the latest moment up to which
/// an object may have been asked to wait.
macro_rules! due {
    ($rested:literal, $now:literal, $waited:literal) => {
        concat!(
            "(last_attempt_at IS NULL OR last_attempt_at <= ",
            $rested,
            " OR last_attempt_at > ",
            $now,
            ") AND (not_before IS NULL OR not_before <= ",
            $waited,
            ")"
        )
    };
}

pub(crate) use unleased;

/// A statement for each kind of lane: any, none, the one that this parameter names.
macro_rules! by_lane {
    ($before:expr, $destination:literal, $after:expr) => {
        [
            concat!($before, $after),
            concat!($before, " AND destination IS NULL", $after),
            concat!($before, " AND destination = ", $destination, $after),
        ]
    };
}

/// The first 2,048 objects behind the cursor, as far as they may run.
pub(crate) const NEAR: [&str; 3] = by_lane!(
    "SELECT seq, payload_bytes FROM (SELECT * FROM object WHERE state = 2 AND seq > $1",
    "$6",
    concat!(
        " ORDER BY seq LIMIT 2048) AS object WHERE crashes = 0 AND ",
        due!("$2", "$3", "$4"),
        " AND ",
        unleased!(),
        " ORDER BY seq LIMIT $5"
    )
);

/// The last of those, if there are so many.
pub(crate) const NEAR_END: [&str; 3] = by_lane!(
    "SELECT seq FROM object WHERE state = 2 AND seq > $1",
    "$2",
    " ORDER BY seq LIMIT 1 OFFSET 2047"
);

/// All objects behind the cursor, as far as they may run.
pub(crate) const WALK: [&str; 3] = by_lane!(
    concat!(
        "SELECT seq, payload_bytes FROM object WHERE state = 2 AND crashes = 0 AND seq > $1 AND ",
        due!("$2", "$3", "$4"),
        " AND ",
        unleased!()
    ),
    "$6",
    " ORDER BY seq LIMIT $5"
);

/// Objects of a lane that may run, in no order, at most `$5` of each kind: never attempted, attempted long ago,
/// attempted in the future, asked to wait until a moment that has come.
macro_rules! few {
    ($lane:literal) => {
        concat!(
            "(SELECT seq, payload_bytes, last_attempt_at FROM object
              WHERE state = 2 AND crashes = 0 AND seq > $1 AND not_before IS NULL AND last_attempt_at IS NULL AND ",
            unleased!(), " AND ", $lane, " LIMIT $5)
             UNION ALL (SELECT seq, payload_bytes, last_attempt_at FROM object
              WHERE state = 2 AND crashes = 0 AND seq > $1 AND not_before IS NULL AND last_attempt_at <= $2 AND ",
            unleased!(), " AND ", $lane, " LIMIT $5)
             UNION ALL (SELECT seq, payload_bytes, last_attempt_at FROM object
              WHERE state = 2 AND crashes = 0 AND seq > $1 AND not_before IS NULL
                AND last_attempt_at > greatest($2, $3) AND ",
            unleased!(), " AND ", $lane, " LIMIT $5)
             UNION ALL (SELECT seq, payload_bytes, last_attempt_at FROM object
              WHERE state = 2 AND crashes = 0 AND seq > $1 AND not_before IS NOT NULL AND not_before <= $4 AND ",
            unleased!(), " AND ", $lane, " LIMIT $5)"
        )
    };
}
pub(crate) const FEW_UNKNOWN: &str = few!("destination IS NULL");
pub(crate) const FEW_TO: &str = few!("destination = $6");

/// What is in flight by pipeline and device.
macro_rules! busy {
    () => {
        "busy AS MATERIALIZED (
            SELECT held.pipeline_id, held.device FROM lease JOIN object AS held ON held.seq = lease.seq
            WHERE held.device IS NOT NULL)"
    };
}

/// No object of the same pipeline and device is in flight.
macro_rules! not_busy {
    ($object:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM busy WHERE busy.pipeline_id = ",
            $object,
            ".pipeline_id AND busy.device = ",
            $object,
            ".device)"
        )
    };
}

/// The oldest waiting object of each pipeline and device, found by jumping from each to the next, as far as it may run,
/// and the objects that are in no order.
pub(crate) const IN_ORDER: &str = concat!(
    "WITH RECURSIVE ",
    busy!(),
    ",
     named AS (
        (SELECT pipeline_id, device FROM object WHERE state IN (0, 2) AND device IS NOT NULL
         ORDER BY pipeline_id, device LIMIT 1)
        UNION ALL
        SELECT next.pipeline_id, next.device FROM named CROSS JOIN LATERAL (
            SELECT pipeline_id, device FROM object
            WHERE state IN (0, 2) AND device IS NOT NULL
              AND (pipeline_id, device) > (named.pipeline_id, named.device)
            ORDER BY pipeline_id, device LIMIT 1) AS next
     ),
     head AS (
        SELECT first.* FROM named CROSS JOIN LATERAL (
            SELECT * FROM object
            WHERE state IN (0, 2) AND pipeline_id = named.pipeline_id AND device = named.device
            ORDER BY seq LIMIT 1) AS first
     )
     SELECT seq, payload_bytes FROM head AS object
     WHERE state = 2 AND crashes = 0 AND seq > $1 AND ",
    due!("$2", "$3", "$4"),
    " AND ($6 OR destination IS NOT DISTINCT FROM $7) AND ",
    unleased!(),
    " AND ",
    not_busy!("object"),
    " UNION ALL (
        SELECT seq, payload_bytes FROM object
        WHERE state = 2 AND device IS NULL AND crashes = 0 AND seq > $1 AND ",
    due!("$2", "$3", "$4"),
    " AND ($6 OR destination IS NOT DISTINCT FROM $7) AND ",
    unleased!(),
    "   ORDER BY seq LIMIT $5)
     ORDER BY seq LIMIT $5"
);

/// Objects that were in flight at a crash. With `$8` only the oldest of their pipeline and device.
pub(crate) const SUSPECTS: &str = concat!(
    "WITH ",
    busy!(),
    " SELECT seq, payload_bytes FROM object
     WHERE crashes > 0 AND state = 2 AND seq > $1 AND ",
    due!("$2", "$3", "$4"),
    " AND ($6 OR destination IS NOT DISTINCT FROM $7) AND ",
    unleased!(),
    " AND (NOT $8 OR device IS NULL OR (",
    not_busy!("object"),
    " AND seq = (SELECT other.seq FROM object AS other
                 WHERE other.state IN (0, 2) AND other.pipeline_id = object.pipeline_id
                   AND other.device = object.device
                 ORDER BY other.seq LIMIT 1)))
     ORDER BY seq LIMIT $5"
);

/// Takes objects in hand, as far as they are still as they were chosen; `$4` says which, null for all.
pub(crate) const LEASE: &str = concat!(
    "WITH me AS MATERIALIZED (SELECT id FROM instance WHERE id = $1 FOR KEY SHARE),
     wanted AS MATERIALIZED (
        SELECT seq FROM object
        WHERE seq = ANY($3) AND state = 2 AND ($4::boolean IS NULL OR (crashes > 0) = $4) AND ",
    due!("$5", "$6", "$7"),
    "     AND ($8 OR destination IS NOT DISTINCT FROM $9)
        FOR UPDATE SKIP LOCKED
     )
     INSERT INTO lease (seq, owner, claim) SELECT wanted.seq, me.id, $2 FROM wanted, me
     ON CONFLICT (seq) DO NOTHING RETURNING seq"
);

/// Whoever claims in order does so alone, or two could take objects of one device that neither sees the other take.
pub(crate) const IN_ORDER_ALONE: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('edgehold orders ' || current_schema(), 0))";

/// An object that may join a page.
pub(crate) type Candidate = (i64, i64);

/// A claim in the words of the statements.
pub(crate) struct Wanted<'a> {
    pub(crate) after_seq: i64,
    /// The latest end of an attempt whose object has rested.
    rested_since: i64,
    now: i64,
    /// The latest moment up to which an object may have been asked to wait.
    waited_until: i64,
    lane: &'a Lane,
    /// None for all.
    suspects: Option<Suspects>,
    ordered: bool,
    limit: i64,
}

impl<'a> Wanted<'a> {
    pub(crate) fn of(claim: &'a Claim) -> Self {
        let now = claim.now.as_unix_millis();
        let rested_since = claim.selection.due.map_or(i64::MAX, |interval| {
            now.saturating_sub(i64::try_from(interval.as_millis()).unwrap_or(i64::MAX))
        });
        Self {
            after_seq: claim.after_seq,
            rested_since,
            now,
            waited_until: claim.selection.due.map_or(i64::MAX, |_| now),
            lane: &claim.selection.lane,
            suspects: Some(claim.suspects),
            ordered: claim.ordered,
            limit: i64::try_from(claim.limit.max(1)).unwrap_or(i64::MAX),
        }
    }

    /// Anything that waits and that nobody has, to be taken out of the queue.
    pub(crate) fn anything() -> Self {
        Self {
            after_seq: 0,
            rested_since: i64::MAX,
            now: i64::MAX,
            waited_until: i64::MAX,
            lane: &Lane::Any,
            suspects: None,
            ordered: false,
            limit: 1,
        }
    }

    /// Which of the statements for each kind of lane, and the name for the last one.
    fn lane(&self) -> (usize, Option<&'a str>) {
        match self.lane {
            Lane::Any => (0, None),
            Lane::Unknown => (1, None),
            Lane::To(destination) => (2, Some(destination.as_str())),
        }
    }

    fn of_lane(
        &self,
        statements: &[&'static str; 3],
        after: i64,
    ) -> QueryAs<'static, Postgres, Candidate, PgArguments> {
        let (kind, name) = self.lane();
        let query = sqlx::query_as(statements[kind])
            .bind(after)
            .bind(self.rested_since)
            .bind(self.now)
            .bind(self.waited_until)
            .bind(self.limit);
        match name {
            Some(name) => query.bind(text(name).into_owned()),
            None => query,
        }
    }

    async fn near_end(&self, connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
        let (kind, name) = self.lane();
        let mut query = sqlx::query_scalar(NEAR_END[kind]).bind(self.after_seq);
        if let Some(name) = name {
            query = query.bind(text(name));
        }
        query.fetch_optional(connection).await
    }

    /// The objects of a page in order, without regard to their sizes.
    pub(crate) async fn choose(&self, connection: &mut PgConnection) -> Result<Vec<Candidate>, sqlx::Error> {
        if self.suspects == Some(Suspects::Only) {
            return self
                .with_order(SUSPECTS)
                .bind(self.ordered)
                .fetch_all(connection)
                .await;
        }
        if self.ordered {
            return self.with_order(IN_ORDER).fetch_all(connection).await;
        }
        let mut page: Vec<Candidate> = self
            .of_lane(&NEAR, self.after_seq)
            .fetch_all(&mut *connection)
            .await?;
        if i64::try_from(page.len()).is_ok_and(|found| found >= self.limit) {
            return Ok(page);
        }
        let Some(end) = self.near_end(connection).await? else {
            return Ok(page);
        };
        let behind = match self.few(connection, end).await? {
            Some(few) => few,
            None => self.of_lane(&WALK, end).fetch_all(connection).await?,
        };
        page.extend(behind);
        page.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        Ok(page)
    }

    fn with_order(&self, statement: &'static str) -> QueryAs<'static, Postgres, Candidate, PgArguments> {
        let (kind, name) = self.lane();
        sqlx::query_as(statement)
            .bind(self.after_seq)
            .bind(self.rested_since)
            .bind(self.now)
            .bind(self.waited_until)
            .bind(self.limit)
            .bind(kind == 0)
            .bind(name.map(|name| text(name).into_owned()))
    }

    /// All that may run behind a place, in order, unless it is many.
    async fn few(
        &self,
        connection: &mut PgConnection,
        after: i64,
    ) -> Result<Option<Vec<Candidate>>, sqlx::Error> {
        let lanes = match self.lane {
            Lane::Any => destinations(connection).await?,
            Lane::Unknown => vec![None],
            Lane::To(destination) => vec![Some(text(destination.as_str()).into_owned())],
        };
        let limit = i64::try_from(FEW).unwrap_or(i64::MAX);
        let mut found: Vec<(i64, i64, Option<i64>)> = Vec::new();
        for destination in lanes {
            let statement = match destination {
                Some(_) => FEW_TO,
                None => FEW_UNKNOWN,
            };
            let mut query = sqlx::query_as::<_, (i64, i64, Option<i64>)>(statement)
                .bind(after)
                .bind(self.rested_since)
                .bind(self.now)
                .bind(self.waited_until)
                .bind(limit);
            if let Some(destination) = destination {
                query = query.bind(destination);
            }
            found.extend(query.fetch_all(&mut *connection).await?);
            // Any of the four kinds may have been cut at its limit.
            if found.len() >= FEW {
                return Ok(None);
            }
        }
        let rested = |at: i64| at <= self.rested_since || at > self.now;
        found.retain(|(_, _, last_attempt_at)| last_attempt_at.is_none_or(rested));
        let mut found: Vec<_> = found.into_iter().map(|(seq, bytes, _)| (seq, bytes)).collect();
        found.sort_unstable();
        Ok(Some(found))
    }

    /// Takes these objects in hand; answers which it got, in order.
    pub(crate) async fn lease(
        &self,
        connection: &mut PgConnection,
        owner: i64,
        claim: i64,
        places: &[i64],
    ) -> Result<Vec<i64>, sqlx::Error> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let (kind, name) = self.lane();
        let mut leased: Vec<i64> = sqlx::query_scalar(LEASE)
            .bind(owner)
            .bind(claim)
            .bind(places)
            .bind(self.suspects.map(|suspects| suspects == Suspects::Only))
            .bind(self.rested_since)
            .bind(self.now)
            .bind(self.waited_until)
            .bind(kind == 0)
            .bind(name.map(text))
            .fetch_all(connection)
            .await?;
        leased.sort_unstable();
        Ok(leased)
    }

    /// Chooses a page that is not too large and takes it in hand. Answers what it got, and the last place it looked at;
    /// none when there is nothing to be had.
    pub(crate) async fn take(
        &self,
        connection: &mut PgConnection,
        owner: i64,
        claim: i64,
        max_bytes: usize,
    ) -> Result<Option<(Vec<i64>, i64)>, sqlx::Error> {
        if !self.ordered {
            return self.choose_and_lease(connection, owner, claim, max_bytes).await;
        }
        let mut transaction = connection.begin().await?;
        sqlx::query(IN_ORDER_ALONE).execute(&mut *transaction).await?;
        let taken = self
            .choose_and_lease(&mut transaction, owner, claim, max_bytes)
            .await?;
        transaction.commit().await?;
        Ok(taken)
    }

    async fn choose_and_lease(
        &self,
        connection: &mut PgConnection,
        owner: i64,
        claim: i64,
        max_bytes: usize,
    ) -> Result<Option<(Vec<i64>, i64)>, sqlx::Error> {
        let mut bytes = 0_usize;
        let places: Vec<i64> = self
            .choose(connection)
            .await?
            .into_iter()
            .enumerate()
            .take_while(|(place, (_, payload_bytes))| {
                bytes = bytes.saturating_add(usize::try_from(*payload_bytes).unwrap_or(0));
                *place == 0 || bytes <= max_bytes
            })
            .map(|(_, (seq, _))| seq)
            .collect();
        let Some(last) = places.last().copied() else {
            return Ok(None);
        };
        let leased = self.lease(connection, owner, claim, &places).await?;
        Ok(Some((leased, last)))
    }
}
