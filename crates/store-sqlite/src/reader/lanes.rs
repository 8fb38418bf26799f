//! When the lanes of a queue have something to do.

use std::time::Duration;

use edgehold_core::{Destination, ServiceKey, Timestamp};
use edgehold_store::{LaneStatus, semantics};
use futures_util::TryStreamExt;
use sqlx::SqliteConnection;

use super::{Candidate, Place, Statement, candidate};
use crate::lease::Leases;

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

/// The lanes there are, the one without a destination first whether it has objects or not; and the names of those
/// that are damaged, which are no text.
pub(super) async fn destinations(
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
) -> Result<Vec<Place>, sqlx::Error> {
    let mut places = Vec::new();
    for name in damaged {
        let of_lane: Vec<i64> = sqlx::query_scalar(UNREADABLE_LANE)
            .bind(service_key.as_str())
            .bind(name)
            .fetch_all(&mut *connection)
            .await?;
        // How large they are is not known: each is read by itself.
        places.extend(of_lane.into_iter().map(|seq| Place {
            seq,
            bytes: usize::MAX,
        }));
    }
    Ok(places)
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
            if !self.leases.contains(candidate.place.seq) {
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
                if !self.leases.contains(candidate.place.seq) {
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
