//! Which of the running services this one is, and what becomes of those that have ended.
//!
//! Each instance has a row with a heartbeat, one a second by the clock of the server. A row that has missed five is
//! taken over by whoever sees it: what its owner had in hand waits again, with a mark of one more crash. An instance
//! that was taken over while it lived finds its row gone and joins anew; what it writes as the one it was changes
//! nothing, because every statement that takes something in hand holds the row of its instance.
//!
//! *A server that was away* has heard nobody's heart. So an instance takes others over only after its own heartbeat has
//! been heard without a gap for as long.

use std::{
    fs::{File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::Path,
    time::Duration,
};

use edgehold_core::ServiceKey;
use edgehold_store::semantics::MAX_CRASHES;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::claim::{leased, unleased, waits};

/// The pause between two heartbeats.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// An instance that has not been heard for so long has ended.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
const SILENCE_SECONDS: f64 = SILENCE.as_secs() as f64;
/// Longer than any instance is away.
const NEVER_SECONDS: f64 = 1e9;

const JOIN: &str = "
    INSERT INTO instance (name, heartbeat_at) VALUES ($1, clock_timestamp()) RETURNING id";

/// Gives back what is leased by claims of ours that have ended without handing anything out; `$2` are those that have
/// not, and `$3` is the last one there was when they were counted.
pub(crate) const BEATING: &str = "
    WITH before AS (SELECT id, heartbeat_at FROM instance WHERE id = $1),
    beat AS (
        UPDATE instance SET heartbeat_at = clock_timestamp() FROM before WHERE instance.id = before.id
        RETURNING extract(epoch FROM instance.heartbeat_at - before.heartbeat_at)::float8 AS gap
    ),
    given_back AS (
        DELETE FROM lease WHERE owner = $1 AND claim <> ALL($2) AND claim <= $3 RETURNING claim
    )
    SELECT (SELECT gap FROM beat), (SELECT count(*) FROM given_back),
           (SELECT count(*) FROM instance WHERE id <> $1
            AND heartbeat_at < clock_timestamp() - make_interval(secs => $4)),
           (SELECT count(*) FROM instance WHERE id <> $1)";

const ANY_ALIVE: &str = "
    SELECT EXISTS (SELECT 1 FROM instance WHERE heartbeat_at >= clock_timestamp() - make_interval(secs => $1))";

const LEAVE: &str = "UPDATE instance SET heartbeat_at = '-infinity' WHERE id = $1";

/// Those that have ended: their rows are ours until the transaction ends, so that nobody takes them over twice and
/// nothing is taken in hand in their name.
const ENDED: &str = "
    SELECT id FROM instance
    WHERE id <> $1 AND (name = $2 OR heartbeat_at < clock_timestamp() - make_interval(secs => $3))
    ORDER BY id FOR UPDATE";

const OTHERS: &str = "SELECT count(*) FROM instance WHERE id <> $1 AND id <> ALL($2)";

/// Handed out at no crash: not in a row any more.
pub(crate) const FORGET: &str = concat!(
    "UPDATE object SET crashes = 0 WHERE crashes > 0 AND ",
    unleased!()
);

pub(crate) const COUNT: &str = concat!(
    "UPDATE object SET crashes = crashes + 1
     WHERE id = ANY(ARRAY(
        SELECT id FROM object
        WHERE seq = ANY(ARRAY(SELECT unnest(seqs) FROM lease WHERE owner = ANY($1))) ORDER BY seq)) AND ",
    waits!()
);

/// What was journaled was in flight, too; what was in a batch was in nobody's hands.
pub(crate) const NEW: &str = "
    UPDATE object SET state = 2, last_attempt_at = NULL, crashes = CASE state WHEN 0 THEN 1 ELSE 0 END
    WHERE state IN (0, 4) AND owner = ANY($1)";

pub(crate) const CRASHED: &str = concat!(
    "UPDATE object SET state = 3, reason = 'crashed', crashes = 0,
                       ended_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
     WHERE crashes >= $1 AND crashes > 0 AND ",
    waits!()
);

pub(crate) const LET_GO: &str = "DELETE FROM lease WHERE owner = ANY($1)";

const FORGET_INSTANCES: &str = "DELETE FROM instance WHERE id = ANY($1)";

/// What became of instances that have ended.
#[derive(Debug, Default)]
pub(crate) struct TakenOver {
    instances: usize,
    handed_out: u64,
    waiting: u64,
    crashed: u64,
}

impl TakenOver {
    /// Whether anything may be tried now that could not before.
    pub(crate) fn is_something(&self) -> bool {
        self.instances > 0
    }

    /// Says so in the log.
    pub(crate) fn report(&self, service_key: &ServiceKey) {
        if self.handed_out + self.waiting > 0 {
            tracing::info!(
                %service_key, instances = self.instances, in_flight = self.handed_out, journaled = self.waiting,
                "objects of ended processes wait for their next attempt"
            );
        }
        if self.crashed > 0 {
            tracing::error!(
                %service_key, objects = self.crashed,
                "in flight at {MAX_CRASHES} crashes in a row, set aside in the error collection as crashed"
            );
        }
    }
}

/// What a heartbeat has found.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// How long ago the one before was; none when this instance was taken over.
    pub(crate) gap: Option<Duration>,
    /// Claims that were given back.
    pub(crate) given_back: u64,
    /// Instances that have not been heard for too long.
    pub(crate) silent: u64,
    /// All instances but this one.
    pub(crate) others: u64,
}

/// Adds an instance.
pub(crate) async fn join(connection: &mut PgConnection, name: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(JOIN).bind(name).fetch_one(connection).await
}

/// Whether any instance has been heard lately.
pub(crate) async fn any_alive(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(ANY_ALIVE)
        .bind(SILENCE_SECONDS)
        .fetch_one(connection)
        .await
}

/// Lets an instance be heard.
pub(crate) async fn beat(
    connection: &mut PgConnection,
    id: i64,
    claims: &[i64],
    last_claim: i64,
) -> Result<Pulse, sqlx::Error> {
    let (gap, given_back, silent, others): (Option<f64>, i64, i64, i64) = sqlx::query_as(BEATING)
        .bind(id)
        .bind(claims)
        .bind(last_claim)
        .bind(SILENCE_SECONDS)
        .fetch_one(connection)
        .await?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Pulse {
        gap: gap.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
        given_back: unsigned(given_back),
        silent: unsigned(silent),
        others: unsigned(others),
    })
}

/// Ends an instance in order: whatever it has in hand may be taken over at once.
pub(crate) async fn leave(connection: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(LEAVE).bind(id).execute(connection).await.map(drop)
}

/// Which instances are to be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// At the start: those that ended in order, and the earlier ones of the same name.
    KnownToBe,
    /// Those that have not been heard for too long.
    Silent,
}

/// Takes over what ended instances had in hand, in one transaction. At the start of one that is alone, what was in
/// flight at an earlier crash and not at the last one is as good as any other object.
pub(crate) async fn take_over(
    connection: &mut PgConnection,
    id: i64,
    name: &str,
    which: Ended,
) -> Result<TakenOver, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let silence = match which {
        Ended::KnownToBe => NEVER_SECONDS,
        Ended::Silent => SILENCE_SECONDS,
    };
    let ended: Vec<i64> = sqlx::query_scalar(ENDED)
        .bind(id)
        .bind(name)
        .bind(silence)
        .fetch_all(&mut *transaction)
        .await?;
    if which == Ended::KnownToBe {
        let others: i64 = sqlx::query_scalar(OTHERS)
            .bind(id)
            .bind(&ended)
            .fetch_one(&mut *transaction)
            .await?;
        if others == 0 {
            sqlx::query(FORGET).execute(&mut *transaction).await?;
        }
    }
    let mut taken_over = TakenOver {
        instances: ended.len(),
        ..TakenOver::default()
    };
    if !ended.is_empty() {
        let mut run = async |statement| {
            let done = sqlx::query(statement)
                .bind(&ended)
                .execute(&mut *transaction)
                .await?;
            Ok::<_, sqlx::Error>(done.rows_affected())
        };
        taken_over.handed_out = run(COUNT).await?;
        taken_over.waiting = run(NEW).await?;
        run(LET_GO).await?;
        run(FORGET_INSTANCES).await?;
        let crashed = sqlx::query(CRASHED)
            .bind(i16::try_from(MAX_CRASHES).expect("it is small"))
            .execute(&mut *transaction)
            .await?;
        taken_over.crashed = crashed.rows_affected();
    }
    transaction.commit().await?;
    Ok(taken_over)
}

/// The name of this instance, and the file that makes it nobody else's.
pub(crate) struct Identity {
    pub(crate) name: String,
    /// Closing the file gives the name back.
    _file: Option<File>,
}

impl Identity {
    /// Takes the name that is in a file, if nobody else has it; else a new one, which nobody will have again.
    pub(crate) fn take(file: Option<&Path>) -> Self {
        let fresh = || Uuid::new_v4().to_string();
        let Some(path) = file else {
            return Self {
                name: fresh(),
                _file: None,
            };
        };
        match Self::read(path, fresh()) {
            Ok(identity) => identity,
            Err(error) => {
                tracing::info!(
                    "after a crash the objects in flight wait for a few seconds: {} cannot be had: {error}",
                    path.display()
                );
                Self {
                    name: fresh(),
                    _file: None,
                }
            }
        }
    }

    fn read(path: &Path, fresh: String) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => std::io::Error::other("another process has it"),
            TryLockError::Error(error) => error,
        })?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let name = match Uuid::parse_str(text.trim()) {
            Ok(name) => name.to_string(),
            Err(_) => {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(fresh.as_bytes())?;
                fresh
            }
        };
        Ok(Self {
            name,
            _file: Some(file),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data/app.instance");
        let first = Identity::take(Some(&file));
        let name = first.name.clone();
        assert_ne!(Identity::take(Some(&file)).name, name, "it is taken");
        drop(first);
        assert_eq!(Identity::take(Some(&file)).name, name, "the next process has it");
    }
}
