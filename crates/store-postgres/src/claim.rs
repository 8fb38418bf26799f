//! Choosing the objects of a page and taking them in hand: one statement, which reads them too.
//!
//! What is due depends on an interval that is not stored, so no index is in the order of a claim: a page is looked for
//! near the cursor first. Only when there are not enough, it is looked for among the few that are due at all, and, when
//! they are many, by walking the index of the queue or the lane once. In order, only the oldest object of each pipeline
//! and device is looked at.
//!
//! *Two claims at once* may choose the same objects, because neither sees what the other has not committed. So each
//! counts itself (`claim_count`), and is made only if no other was counted since it looked; else it is made again, while
//! it holds the count, and so are the next ones. Who holds the count keeps others from claiming: it is let go before the
//! disk has been waited for. A verdict that is written meanwhile is seen whole or not at all, and with it its lease.
//!
//! *Plans* do not depend on what the planner believes about tables that grow from nothing to a million rows and back
//! within minutes. Objects are found by their ids, which are in one index; by their places in the order of their places,
//! which one index has; and in the order of the index that is meant, with all its columns. See the test of the plans.

use edgehold_core::ServiceKey;
use edgehold_store::{Claim, Lane, Suspects};
use futures_util::TryStreamExt as _;
use sqlx::{
    Connection as _, PgConnection, Postgres,
    postgres::PgArguments,
    query::{Query, QueryScalar},
};

use crate::{
    lanes::destinations,
    row::{self, Columns, ReadRow, columns, text},
};

/// Due objects up to which they are all looked at.
const FEW: usize = 512;

/// The places of what is in somebody's hands. Each owner is above 0: a condition, so that an index is used.
macro_rules! leased {
    () => {
        "SELECT unnest(seqs) FROM lease WHERE owner > 0"
    };
}

/// Nobody has it in hand. The planner takes an array that it does not know for a short one, and so always hashes it.
macro_rules! unleased {
    () => {
        concat!("seq NOT IN (SELECT unnest(ARRAY(", leased!(), ")))")
    };
}

/// State failed, in words by which no index is found that has only such objects, or is in the order of states.
macro_rules! waits {
    () => {
        "state + 0 = 2"
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
    () => {
        due!("$4", "$5", "$6")
    };
}

/// The failed objects of a kind of lane behind a place; the parameters are the place and the name of the lane.
macro_rules! behind {
    (any, $after:literal, $name:literal) => {
        concat!("(state, seq) > (2, ", $after, ") AND state <= 2")
    };
    (unknown, $after:literal, $name:literal) => {
        concat!("state = 2 AND destination IS NULL AND seq > ", $after)
    };
    (to, $after:literal, $name:literal) => {
        concat!(
            "state = 2 AND (destination, seq) > (",
            $name,
            ", ",
            $after,
            ") AND destination <= ",
            $name
        )
    };
}

/// The order of the index that has them, which is that of their places.
macro_rules! in_order {
    (any) => {
        " ORDER BY state, seq"
    };
    ($other:ident) => {
        " ORDER BY destination, seq"
    };
}

pub(crate) use {behind, leased, unleased, waits};

/// Takes in hand what a query chooses, and reads it, if a condition on all of it holds: of the chosen ones those that fit,
/// and the first one in any case.
///
/// The instance is `$1`, the claim `$2`, the bytes that fit `$8`. It is ours unless another claim was made meanwhile, or
/// the instance was taken over.
///
/// Payloads that lie close together are read in one go, unless they are large: finding one by one costs as much as
/// reading all the rest of a small object. A full join is never made by looking for each.
macro_rules! take {
    (@$how:tt if $condition:expr; $($chosen:expr),+ $(,)?) => {
        concat!(
            "WITH me AS MATERIALIZED (SELECT id FROM instance WHERE id = $1 FOR KEY SHARE),
             chosen AS MATERIALIZED (", $($chosen,)+ "),
             page AS MATERIALIZED (
                SELECT ", $condition, " AS is_good, first, last, last - first < 2 * objects AND bytes <= 1048576 AS is_dense,
                       coalesce(CASE WHEN bytes > $8::bigint THEN (
                    SELECT min(seq)
                    FROM (SELECT seq, row_number() OVER earlier AS place, sum(payload_bytes) OVER earlier AS bytes
                          FROM chosen WINDOW earlier AS (ORDER BY seq)) AS sized
                    WHERE place > 1 AND bytes > $8::bigint) END, 9223372036854775807) AS ends_before
                FROM (SELECT count(*) AS objects, sum(payload_bytes) AS bytes, min(seq) AS first, max(seq) AS last
                      FROM chosen) AS whole),
             counted AS MATERIALIZED (
                UPDATE claim_count SET claims = claims + 1 FROM me
                WHERE one AND claims = (SELECT claims FROM claim_count WHERE one) AND EXISTS (SELECT 1 FROM chosen)
                  AND (SELECT is_good FROM page)
                RETURNING me.id AS owner),
             leased AS (
                INSERT INTO lease (owner, claim, seqs)
                SELECT owner, $2::bigint, ARRAY(SELECT seq FROM chosen WHERE seq < (SELECT ends_before FROM page))
                FROM counted)
             SELECT EXISTS (SELECT 1 FROM counted), ", columns!(), ",
                    CASE WHEN EXISTS (SELECT 1 FROM counted) THEN ", take!(@payload $how), " END
             FROM chosen AS object", take!(@beside $how), "
             WHERE (SELECT is_good FROM page)
               AND coalesce(seq, 9223372036854775807) < (SELECT ends_before FROM page)"
        )
    };
    (@payload each) => {
        "(SELECT bytes FROM payload WHERE payload.seq = object.seq)"
    };
    (@payload together) => {
        concat!("coalesce(bytes, ", take!(@payload each), ")")
    };
    (@beside each) => {
        ""
    };
    (@beside together) => {
        " FULL JOIN (
            SELECT seq AS payload_seq, bytes FROM payload
            WHERE (SELECT is_dense FROM page) AND EXISTS (SELECT 1 FROM counted)
              AND seq >= (SELECT first FROM page) AND seq <= (SELECT last FROM page)) AS beside ON payload_seq = seq"
    };
    ($($chosen:expr),+ $(,)?) => {
        take!(@together if "true"; $($chosen),+)
    };
}

/// The last of the first 2,048 objects behind the cursor, if there are so many.
macro_rules! near_end {
    ($lane:ident, $after:literal, $name:literal) => {
        concat!(
            "SELECT seq FROM object WHERE ",
            behind!($lane, $after, $name),
            in_order!($lane),
            " LIMIT 1 OFFSET 2047"
        )
    };
}

/// Of the first 2,048 objects behind the cursor those that may run, unless the page has room for some behind them.
macro_rules! near {
    ($how:tt $lane:ident) => {
        take!(
            @$how if concat!(
                "(objects >= $7 OR NOT EXISTS (",
                near_end!($lane, "$3", "$9"),
                "))"
            );
            "SELECT * FROM (SELECT * FROM object WHERE ",
            behind!($lane, "$3", "$9"),
            in_order!($lane),
            " LIMIT 2048) AS object WHERE crashes = 0 AND ",
            due!(),
            " AND ",
            unleased!(),
            in_order!($lane),
            " LIMIT $7"
        )
    };
}
pub(crate) const NEAR: [&str; 3] = [near!(together any), near!(together unknown), near!(together to)];
/// The same for so few that there is nothing to be gained from reading their payloads together.
pub(crate) const NEAR_FEW: [&str; 3] = [near!(each any), near!(each unknown), near!(each to)];
/// Objects of a page from which on that pays.
const TOGETHER: i64 = 16;

/// Whether there are so many.
pub(crate) const NEAR_END: [&str; 3] = [
    near_end!(any, "$1", "$2"),
    near_end!(unknown, "$1", "$2"),
    near_end!(to, "$1", "$2"),
];

/// All objects behind the cursor, as far as they may run.
macro_rules! walk {
    ($lane:ident) => {
        take!(
            "SELECT * FROM object WHERE ",
            behind!($lane, "$3", "$9"),
            " AND crashes = 0 AND ",
            due!(),
            " AND ",
            unleased!(),
            in_order!($lane),
            " LIMIT $7"
        )
    };
}
pub(crate) const WALK: [&str; 3] = [walk!(any), walk!(unknown), walk!(to)];

/// Objects of a lane that may run, at most `$5` of each kind: never attempted, attempted long ago, attempted in the
/// future, asked to wait until a moment that has come.
macro_rules! few {
    (@kind $lane:literal, $kind:literal, $order:literal) => {
        concat!(
            "(SELECT seq, last_attempt_at FROM object WHERE state = 2 AND crashes = 0 AND seq > $1 AND ",
            $lane, " AND ", $kind, " AND ", unleased!(), " ORDER BY destination, ", $order, " LIMIT $5)"
        )
    };
    ($lane:literal) => {
        concat!(
            few!(@kind $lane, "not_before IS NULL AND last_attempt_at IS NULL", "last_attempt_at NULLS FIRST"),
            " UNION ALL ",
            few!(@kind $lane, "not_before IS NULL AND last_attempt_at <= $2", "last_attempt_at NULLS FIRST"),
            " UNION ALL ",
            few!(@kind $lane, "not_before IS NULL AND last_attempt_at > greatest($2, $3)",
                 "last_attempt_at NULLS FIRST"),
            " UNION ALL ",
            few!(@kind $lane, "not_before IS NOT NULL AND not_before <= $4", "not_before")
        )
    };
}
pub(crate) const FEW_UNKNOWN: &str = few!("destination IS NULL");
pub(crate) const FEW_TO: &str = few!("destination = $6");

/// Those of these objects that still may run.
pub(crate) const THESE: &str = take!(
    "SELECT * FROM object WHERE seq = ANY($9) AND seq > $3 AND ",
    waits!(),
    " AND crashes = 0 AND ",
    due!(),
    " AND ",
    unleased!(),
    " ORDER BY seq LIMIT $7"
);

/// What is in flight by pipeline and device.
macro_rules! busy {
    () => {
        concat!(
            "busy AS MATERIALIZED (
                SELECT pipeline_id, device FROM object
                WHERE seq = ANY(ARRAY(",
            leased!(),
            ")) AND device IS NOT NULL ORDER BY seq)"
        )
    };
}

/// No object of the same pipeline and device is in flight.
macro_rules! not_busy {
    () => {
        "NOT EXISTS (SELECT 1 FROM busy WHERE busy.pipeline_id = object.pipeline_id AND busy.device = object.device)"
    };
}

/// The oldest waiting object of each pipeline and device, found by jumping from each to the next, as far as it may run,
/// and the objects that are in no order.
pub(crate) const IN_ORDER: &str = take!(
    "WITH RECURSIVE ",
    busy!(),
    ",
     head AS (
        (SELECT pipeline_id, device, seq FROM object WHERE state IN (0, 2) AND device IS NOT NULL
         ORDER BY pipeline_id, device, seq LIMIT 1)
        UNION ALL
        SELECT next.pipeline_id, next.device, next.seq FROM head CROSS JOIN LATERAL (
            SELECT pipeline_id, device, seq FROM object
            WHERE state IN (0, 2) AND device IS NOT NULL
              AND (pipeline_id, device) > (head.pipeline_id, head.device)
            ORDER BY pipeline_id, device, seq LIMIT 1) AS next
     )
     (SELECT * FROM object WHERE seq = ANY(ARRAY(SELECT seq FROM head)) AND ",
    waits!(),
    " AND crashes = 0 AND seq > $3 AND ",
    due!(),
    " AND ($9 OR destination IS NOT DISTINCT FROM $10) AND ",
    unleased!(),
    " AND ",
    not_busy!(),
    " ORDER BY seq)
     UNION ALL
     (SELECT * FROM object WHERE ",
    behind!(any, "$3", ""),
    " AND device IS NULL AND crashes = 0 AND ",
    due!(),
    " AND ($9 OR destination IS NOT DISTINCT FROM $10) AND ",
    unleased!(),
    in_order!(any),
    " LIMIT $7)
     ORDER BY seq LIMIT $7"
);

/// Objects that were in flight at a crash, which are few. With `$11` only the oldest of their pipeline and device.
pub(crate) const SUSPECTS: &str = take!(
    "WITH ",
    busy!(),
    ",
     suspect AS MATERIALIZED (SELECT * FROM object WHERE crashes > 0)
     SELECT * FROM suspect AS object WHERE state = 2 AND seq > $3 AND ",
    due!(),
    " AND ($9 OR destination IS NOT DISTINCT FROM $10) AND ",
    unleased!(),
    " AND (NOT $11 OR device IS NULL OR (",
    not_busy!(),
    " AND seq = (SELECT other.seq FROM object AS other
                 WHERE other.state IN (0, 2)
                   AND (other.pipeline_id, other.device) >= (object.pipeline_id, object.device)
                   AND (other.pipeline_id, other.device) <= (object.pipeline_id, object.device)
                 ORDER BY other.pipeline_id, other.device, other.seq LIMIT 1)))
     ORDER BY seq LIMIT $7"
);

/// Whoever holds the count of claims sees what all others have in hand, and nobody else takes anything.
pub(crate) const TURN: &str = "UPDATE claim_count SET claims = claims + 1 WHERE one";

/// What is committed in such a transaction is seen by others at once, and on the disk with whatever is flushed later.
const BEGIN_UNFLUSHED: &str = "BEGIN; SET LOCAL synchronous_commit = off";

/// Has nothing to say, but is on the disk when it is answered, and so is all that was committed before.
const FLUSH: &str = "SELECT pg_logical_emit_message(true, 'edgehold', '')";

/// How many claims hold the count from the beginning after one that was not alone.
const TURNS: u32 = 16;

/// Who claims, and how much.
pub(crate) struct Taking<'a> {
    pub(crate) service_key: &'a ServiceKey,
    pub(crate) owner: i64,
    /// The number of the claim.
    pub(crate) claim: i64,
    pub(crate) max_bytes: usize,
}

/// What came of a claim.
pub(crate) enum Taken {
    /// Objects that are in hand now, in order; none when there is nothing to be had.
    Page(Vec<ReadRow>),
    /// This instance was taken over.
    Nobody,
}

/// A claim in the words of the statements.
pub(crate) struct Wanted<'a> {
    after_seq: i64,
    /// The latest end of an attempt whose object has rested.
    rested_since: i64,
    now: i64,
    /// The latest moment up to which an object may have been asked to wait.
    waited_until: i64,
    lane: &'a Lane,
    suspects: Suspects,
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
            suspects: claim.suspects,
            ordered: claim.ordered,
            limit: i64::try_from(claim.limit.max(1)).unwrap_or(i64::MAX),
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

    /// A statement of [`take!`], as far as all of them are alike.
    fn query(&self, statement: &'static str, taking: &Taking<'_>) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(statement)
            .bind(taking.owner)
            .bind(taking.claim)
            .bind(self.after_seq)
            .bind(self.rested_since)
            .bind(self.now)
            .bind(self.waited_until)
            .bind(self.limit)
            .bind(i64::try_from(taking.max_bytes).unwrap_or(i64::MAX))
    }

    fn in_lane(
        &self,
        statements: &[&'static str; 3],
        taking: &Taking<'_>,
    ) -> Query<'static, Postgres, PgArguments> {
        let (kind, name) = self.lane();
        let query = self.query(statements[kind], taking);
        match name {
            Some(name) => query.bind(text(name).into_owned()),
            None => query,
        }
    }

    fn with_order(
        &self,
        statement: &'static str,
        taking: &Taking<'_>,
    ) -> Query<'static, Postgres, PgArguments> {
        let (kind, name) = self.lane();
        self.query(statement, taking)
            .bind(kind == 0)
            .bind(name.map(|name| text(name).into_owned()))
    }

    /// Whether there is anything beyond what is near.
    async fn is_far(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let (kind, name) = self.lane();
        let query: QueryScalar<'_, Postgres, i64, PgArguments> =
            sqlx::query_scalar(NEAR_END[kind]).bind(self.after_seq);
        let query = match name {
            Some(name) => query.bind(text(name)),
            None => query,
        };
        Ok(query.fetch_optional(connection).await?.is_some())
    }

    /// All that may run behind the cursor, in no order, unless it is many.
    async fn few(&self, connection: &mut PgConnection) -> Result<Option<Vec<i64>>, sqlx::Error> {
        let lanes = match self.lane {
            Lane::Any => destinations(connection).await?,
            Lane::Unknown => vec![None],
            Lane::To(destination) => vec![Some(text(destination.as_str()).into_owned())],
        };
        let limit = i64::try_from(FEW).unwrap_or(i64::MAX);
        let mut found: Vec<(i64, Option<i64>)> = Vec::new();
        for destination in lanes {
            let statement = match destination {
                Some(_) => FEW_TO,
                None => FEW_UNKNOWN,
            };
            let mut query = sqlx::query_as::<_, (i64, Option<i64>)>(statement)
                .bind(self.after_seq)
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
        found.retain(|(_, last_attempt_at)| last_attempt_at.is_none_or(rested));
        Ok(Some(found.into_iter().map(|(seq, _)| seq).collect()))
    }

    /// The page that is to be had, in order; none when it is not ours.
    async fn try_take(
        &self,
        connection: &mut PgConnection,
        taking: &Taking<'_>,
    ) -> Result<Option<Vec<ReadRow>>, sqlx::Error> {
        let service_key = taking.service_key;
        if self.suspects == Suspects::Only {
            let suspects = self.with_order(SUSPECTS, taking).bind(self.ordered);
            return page(suspects, connection, service_key).await;
        }
        if self.ordered {
            return page(self.with_order(IN_ORDER, taking), connection, service_key).await;
        }
        let near = match self.limit < TOGETHER {
            true => &NEAR_FEW,
            false => &NEAR,
        };
        let near = page(self.in_lane(near, taking), connection, service_key).await?;
        if near.as_ref().is_none_or(|near| !near.is_empty()) || !self.is_far(connection).await? {
            return Ok(near);
        }
        let far = match self.few(connection).await? {
            Some(places) if places.is_empty() => return Ok(near),
            Some(places) => self.query(THESE, taking).bind(places),
            None => self.in_lane(&WALK, taking),
        };
        page(far, connection, service_key).await
    }

    /// Takes a page in hand. `turns` is how many claims of this process are going to hold the count from the beginning.
    pub(crate) async fn take(
        &self,
        connection: &mut PgConnection,
        taking: &Taking<'_>,
        turns: &mut u32,
    ) -> Result<Taken, sqlx::Error> {
        if *turns > 0 {
            *turns -= 1;
        } else if let Some(page) = self.try_take(connection, taking).await? {
            return Ok(Taken::Page(page));
        } else {
            // Another claim was made meanwhile.
            *turns = TURNS;
        }
        let mut transaction = connection.begin_with(BEGIN_UNFLUSHED).await?;
        sqlx::query(TURN).execute(&mut *transaction).await?;
        let Some(page) = self.try_take(&mut transaction, taking).await? else {
            return Ok(Taken::Nobody);
        };
        transaction.commit().await?;
        if page.is_empty() {
            *turns = 0;
        } else {
            sqlx::query(FLUSH).execute(connection).await?;
        }
        Ok(Taken::Page(page))
    }
}

/// The page that a statement of [`take!`] answers, in order; none when it is not ours. Each row is read as it arrives,
/// while the server still has others to send and the claim to write.
async fn page(
    query: Query<'static, Postgres, PgArguments>,
    connection: &mut PgConnection,
    service_key: &ServiceKey,
) -> Result<Option<Vec<ReadRow>>, sqlx::Error> {
    let mut rows = query.fetch(connection);
    let mut page = Some(Vec::new());
    while let Some(row) = rows.try_next().await? {
        let mut columns = Columns::of(&row);
        let is_ours = columns.next()?;
        match &mut page {
            Some(page) if is_ours => page.push(row::read(columns, service_key)?),
            _ => page = None,
        }
    }
    if let Some(page) = &mut page {
        page.sort_unstable_by_key(|row| row.object.seq);
    }
    Ok(page)
}
