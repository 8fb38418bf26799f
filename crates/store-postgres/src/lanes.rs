//! When the lanes of a queue have something to do.

use std::time::Duration;

use edgehold_core::{Destination, Timestamp};
use edgehold_store::{LaneStatus, semantics};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::claim::{leased, unleased};

/// The destinations objects wait for, by jumping from each to the next.
macro_rules! named {
    () => {
        "RECURSIVE named AS (
            (SELECT destination FROM object WHERE state = 2 AND destination IS NOT NULL
             ORDER BY destination LIMIT 1)
            UNION ALL
            SELECT (SELECT destination FROM object WHERE state = 2 AND destination > named.destination
                    ORDER BY destination LIMIT 1)
            FROM named WHERE named.destination IS NOT NULL
         ),
         lane AS (SELECT destination FROM named WHERE destination IS NOT NULL)"
    };
}

pub(crate) const DESTINATIONS: &str = concat!("WITH ", named!(), " SELECT destination FROM lane");

/// The first object of a lane in some order that nobody has in hand.
macro_rules! first {
    ($lane:literal, $($rest:literal),*) => {
        concat!(
            " LEFT JOIN LATERAL (SELECT seq, last_attempt_at, not_before FROM object WHERE state = 2 AND ", $lane,
            " AND ", unleased!(), $(" ", $rest,)* " LIMIT 1)"
        )
    };
}

/// For each lane the objects that may be its first one. `$1` is now.
macro_rules! lanes {
    ($from:expr, $lane:literal) => {
        concat!(
            $from,
            first!(
                $lane,
                "AND not_before IS NULL",
                "ORDER BY destination, last_attempt_at NULLS FIRST"
            ),
            " AS rested ON true",
            first!(
                $lane,
                "AND not_before IS NULL AND last_attempt_at > $1",
                "ORDER BY destination, last_attempt_at NULLS FIRST"
            ),
            " AS rested_in_future ON true",
            first!(
                $lane,
                "AND not_before IS NOT NULL",
                "ORDER BY destination, not_before"
            ),
            " AS by_wait ON true",
            first!(
                $lane,
                "AND not_before IS NOT NULL AND last_attempt_at > $1",
                "ORDER BY destination, last_attempt_at NULLS FIRST"
            ),
            " AS by_rest_in_future ON true",
            first!(
                $lane,
                "AND not_before IS NOT NULL",
                "ORDER BY destination, last_attempt_at NULLS FIRST"
            ),
            " AS by_rest ON true"
        )
    };
}

macro_rules! columns {
    () => {
        "rested.seq AS rested_seq, rested.last_attempt_at AS rested_at,
         rested_in_future.seq AS future_seq,
         by_wait.seq AS wait_seq, by_wait.last_attempt_at AS wait_last, by_wait.not_before AS wait_until,
         coalesce(by_rest_in_future.seq, by_rest.seq) AS rest_seq,
         CASE WHEN by_rest_in_future.seq IS NULL THEN by_rest.last_attempt_at
              ELSE by_rest_in_future.last_attempt_at END AS rest_last,
         CASE WHEN by_rest_in_future.seq IS NULL THEN by_rest.not_before
              ELSE by_rest_in_future.not_before END AS rest_until"
    };
}

pub(crate) const LANES: &str = concat!(
    "WITH ",
    named!(),
    " SELECT lane.destination, ",
    columns!(),
    lanes!(" FROM lane", "object.destination = lane.destination"),
    " ORDER BY lane.destination"
);
pub(crate) const UNKNOWN_LANE: &str = concat!(
    "SELECT NULL::text AS destination, ",
    columns!(),
    lanes!(" FROM (SELECT 1) AS lane", "object.destination IS NULL")
);

/// The earliest moment at which an object of a lane is due whose wait ends before `$4`. `$2` is now, `$3` the interval.
macro_rules! earliest {
    ($lane:literal) => {
        concat!(
            "SELECT min(greatest(not_before, CASE WHEN last_attempt_at <= $2 THEN last_attempt_at + $3 ELSE 0 END))
             FROM (SELECT last_attempt_at, not_before FROM object
                   WHERE state = 2 AND not_before IS NOT NULL AND not_before < $4 AND ",
            $lane, " AND ", unleased!(), " ORDER BY destination, not_before) AS object"
        )
    };
}
pub(crate) const EARLIEST_TO: &str = earliest!("destination = $1");
pub(crate) const EARLIEST_UNKNOWN: &str = earliest!("destination IS NULL AND $1::text IS NULL");

/// The lanes there are, the one without a destination first whether it has objects or not.
pub(crate) async fn destinations(connection: &mut PgConnection) -> Result<Vec<Option<String>>, sqlx::Error> {
    let named: Vec<String> = sqlx::query_scalar(DESTINATIONS).fetch_all(connection).await?;
    Ok(std::iter::once(None).chain(named.into_iter().map(Some)).collect())
}

struct Firsts {
    destination: Option<String>,
    rested_seq: Option<i64>,
    rested_at: Option<i64>,
    future_seq: Option<i64>,
    wait_seq: Option<i64>,
    wait_last: Option<i64>,
    wait_until: Option<i64>,
    rest_seq: Option<i64>,
    rest_last: Option<i64>,
    rest_until: Option<i64>,
}

fn moment(millis: Option<i64>) -> Option<Timestamp> {
    millis.map(Timestamp::from_unix_millis)
}

impl Firsts {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            destination: row.try_get("destination")?,
            rested_seq: row.try_get("rested_seq")?,
            rested_at: row.try_get("rested_at")?,
            future_seq: row.try_get("future_seq")?,
            wait_seq: row.try_get("wait_seq")?,
            wait_last: row.try_get("wait_last")?,
            wait_until: row.try_get("wait_until")?,
            rest_seq: row.try_get("rest_seq")?,
            rest_last: row.try_get("rest_last")?,
            rest_until: row.try_get("rest_until")?,
        })
    }

    /// When the first one is due that only has to rest. An attempt in the future counts as long ago, and comes last in
    /// the index.
    fn rested(&self, interval: Duration, now: Timestamp) -> Option<Timestamp> {
        self.rested_seq?;
        match self.future_seq {
            Some(_) => Some(Timestamp::default()),
            None => Some(semantics::due_at(moment(self.rested_at), None, interval, now)),
        }
    }

    /// When the first one is due that was asked to wait: at the later of two times, which no index has in order. The
    /// first by either time usually is the first by both; if not, those whose wait ends before the best one known
    /// decide, and that they have to be asked is the second answer.
    fn asked_to_wait(&self, interval: Duration, now: Timestamp) -> Option<(Timestamp, bool)> {
        self.wait_seq?;
        let due = |last, until| semantics::due_at(moment(last), moment(until), interval, now);
        let mut best = due(self.wait_last, self.wait_until);
        if Some(best) == moment(self.wait_until) || self.rest_seq.is_none() {
            return Some((best, false));
        }
        best = best.min(due(self.rest_last, self.rest_until));
        Some((best, best > due(self.rest_last, self.wait_until)))
    }
}

/// The lanes that have unclaimed objects, and when the first of each is due.
pub(crate) async fn lanes(
    connection: &mut PgConnection,
    interval: Duration,
    now: Timestamp,
) -> Result<Vec<LaneStatus>, sqlx::Error> {
    let at = now.as_unix_millis();
    let mut found = sqlx::query(UNKNOWN_LANE)
        .bind(at)
        .fetch_all(&mut *connection)
        .await?;
    found.extend(sqlx::query(LANES).bind(at).fetch_all(&mut *connection).await?);
    let mut lanes = Vec::new();
    for row in &found {
        let firsts = Firsts::of(row)?;
        let mut moments = vec![firsts.rested(interval, now)];
        match firsts.asked_to_wait(interval, now) {
            Some((best, true)) => {
                let statement = match firsts.destination {
                    Some(_) => EARLIEST_TO,
                    None => EARLIEST_UNKNOWN,
                };
                let earliest: Option<i64> = sqlx::query_scalar(statement)
                    .bind(firsts.destination.as_deref())
                    .bind(at)
                    .bind(
                        i64::try_from(interval.as_millis())
                            .unwrap_or(i64::MAX / 2)
                            .min(i64::MAX / 2),
                    )
                    .bind(best.as_unix_millis())
                    .fetch_one(&mut *connection)
                    .await?;
                moments.extend([Some(best), moment(earliest)]);
            }
            asked => moments.push(asked.map(|(best, _)| best)),
        }
        if let Some(next_due) = moments.into_iter().flatten().min() {
            lanes.push(LaneStatus {
                destination: firsts.destination.as_deref().map(Destination::new),
                next_due,
            });
        }
    }
    Ok(lanes)
}
