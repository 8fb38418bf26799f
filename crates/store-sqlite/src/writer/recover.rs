//! What a start makes of the objects an ended process was busy with, in one transaction.

use edgehold_core::{ServiceKey, StoredObjectId};
use edgehold_store::semantics::MAX_CRASHES;
use sqlx::{Connection, SqliteConnection};

use crate::row::id_of;

/// Not handed out at this crash: not in a row any more.
pub(crate) const FORGET: &str = "
    DELETE FROM crash_mark
    WHERE (SELECT app_service_key FROM object WHERE object.seq = crash_mark.seq) = ?1
      AND seq NOT IN (SELECT place.value FROM in_flight, json_each(places) AS place WHERE owner = ?1)";

/// What has left since then counts no more.
pub(crate) const COUNT: &str = "
    INSERT INTO crash_mark (seq, crashes)
    SELECT object.seq, 1
    FROM in_flight CROSS JOIN json_each(places) AS place CROSS JOIN object NOT INDEXED ON object.seq = place.value
    WHERE owner = ?1 AND app_service_key = ?1
    ON CONFLICT DO UPDATE SET crashes = crashes + 1";

pub(crate) const HANDED_OUT_NO_MORE: &str = "DELETE FROM in_flight WHERE owner = ?1";

/// What was journaled was in flight, too.
pub(crate) const COUNT_NEW: &str = "
    INSERT INTO crash_mark (seq, crashes)
    SELECT seq, 1 FROM object INDEXED BY object_queue WHERE app_service_key = ?1 AND state = 0
    ON CONFLICT DO NOTHING";

/// So waits what was in a batch, which was in nobody's hands.
pub(crate) const NEW: &str = "
    UPDATE object INDEXED BY object_queue SET state = 2, last_attempt_at = NULL
    WHERE app_service_key = ?1 AND state IN (0, 4)";

pub(crate) const UNKNOWN_STATE: &str = "
    UPDATE object INDEXED BY object_queue SET
        state = 3, reason = 'corrupt', last_error = 'state: ' || state || ' is not known',
        ended_at = CAST(unixepoch('subsecond') * 1000 AS INTEGER)
    WHERE app_service_key = ?1
      AND state IN (SELECT object_state FROM counter
                    WHERE owner = ?1 AND object_state NOT IN (0, 1, 2, 3, 4) AND objects > 0)";

pub(crate) const CRASHED: &str = "
    UPDATE object NOT INDEXED SET
        state = 3, reason = 'crashed', ended_at = CAST(unixepoch('subsecond') * 1000 AS INTEGER)
    WHERE seq IN (SELECT seq FROM crash_mark WHERE crashes >= ?2) AND app_service_key = ?1 AND state = 2";

pub(crate) const UNMARK_ENDED: &str = "
    DELETE FROM crash_mark
    WHERE (SELECT app_service_key = ?1 AND state <> 2 FROM object WHERE object.seq = crash_mark.seq)";

pub(crate) const SUSPECTS: &str = "
    SELECT object.seq, id FROM crash_mark CROSS JOIN object NOT INDEXED ON object.seq = crash_mark.seq
    WHERE app_service_key = ?1";

/// What a start has found.
pub(crate) struct Recovered {
    /// Objects whose first attempt had not ended, and those that waited in batches.
    pub(crate) new: u64,
    /// Objects that were in flight at too many starts in a row.
    pub(crate) crashed: u64,
    /// The other objects that were in flight.
    pub(crate) suspects: Vec<(StoredObjectId, i64)>,
}

impl Recovered {
    /// Says so in the log.
    pub(crate) fn report(&self, service_key: &ServiceKey) {
        if self.new > 0 {
            tracing::info!(
                %service_key, objects = self.new,
                "objects of an ended process wait for their next attempt"
            );
        }
        if self.crashed > 0 {
            tracing::error!(
                %service_key, objects = self.crashed,
                "in flight at {MAX_CRASHES} starts in a row, set aside in the error collection as crashed"
            );
        }
    }
}

/// Counts the crashes, makes failed what was left in state new or batched, and sets aside what is in no state at all.
pub(crate) async fn all(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
) -> Result<Recovered, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut run = async |statement| {
        let query = sqlx::query(statement).bind(service_key.as_str());
        let done = query.bind(MAX_CRASHES).execute(&mut *transaction).await?;
        Ok::<_, sqlx::Error>(done.rows_affected())
    };
    run(UNKNOWN_STATE).await?;
    run(FORGET).await?;
    run(COUNT).await?;
    run(HANDED_OUT_NO_MORE).await?;
    run(COUNT_NEW).await?;
    let new = run(NEW).await?;
    let crashed = run(CRASHED).await?;
    run(UNMARK_ENDED).await?;
    let suspects: Vec<(i64, Vec<u8>)> = sqlx::query_as(SUSPECTS)
        .bind(service_key.as_str())
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let known = |(seq, id): (i64, Vec<u8>)| (id_of(seq, &id).unwrap_or_else(|stand_in| stand_in), seq);
    Ok(Recovered {
        new,
        crashed,
        suspects: suspects.into_iter().map(known).collect(),
    })
}
