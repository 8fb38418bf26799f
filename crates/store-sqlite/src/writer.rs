//! The one task that writes.
//!
//! Requests arrive through a bounded channel. Whatever has queued up while the last transaction was committed goes into
//! the next one: appends as multi-row inserts, verdicts merged, one commit, then the answers. When such a group fails
//! as a whole, each of its requests is tried in a transaction of its own, so that one cannot fail the others.

pub(crate) mod insert;

use std::path::Path;

use edgehold_core::{ErrorReason, ObjectState, ServiceKey, StoredObjectId, retry::Verdict};
use edgehold_store::StoreError;
use sqlx::{
    Connection, SqliteConnection,
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{is_conflict, is_full, store_error},
    files::{Lock, Reserve},
    lease::Leases,
    row::{NewRow, id_column},
    settlement::Settlement,
};

/// Requests that may wait for the writer; more wait with their callers.
pub(crate) const QUEUED_REQUESTS: usize = 256;

/// Removed objects after which it is worth looking for pages to give back to the file system.
const GIVE_BACK_AFTER: u64 = 1_000;
/// Unused pages that stay in the file, to be filled again without growing it.
const UNUSED_PAGES_KEPT: i64 = 1_024;

/// The outcome of a request: for an append one answer for each object, else nothing.
pub(crate) type Answer = Result<Vec<Result<i64, StoreError>>, StoreError>;

/// What the writer is asked for.
pub(crate) enum Request {
    /// Writes something and answers when it is on the disk.
    Write(Work, oneshot::Sender<Answer>),
    /// Finishes what was asked for before, closes the file and answers.
    Close(oneshot::Sender<()>),
}

/// What is to be written.
pub(crate) enum Work {
    Append(Vec<NewRow>),
    Settle(Vec<Verdict>),
    SetAside(Vec<Damage>),
}

/// A row that could not be read.
pub(crate) struct Damage {
    pub(crate) seq: i64,
    pub(crate) id: StoredObjectId,
    pub(crate) problem: String,
}

/// Writes for a [`SqliteQueue`](crate::SqliteQueue). Nothing that the queue is asked to write is answered unless
/// [`Writer::run`] is being driven.
pub struct Writer {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) file: Writing,
    pub(crate) leases: Leases,
}

/// The file as the writer has it open.
pub(crate) struct Writing {
    name: String,
    options: SqliteConnectOptions,
    service_key: ServiceKey,
    /// None after a failure that may have left it in any state: the next request opens it anew.
    connection: Option<SqliteConnection>,
    next_seq: i64,
    removed: u64,
    reserve: Reserve,
    _lock: Lock,
}

impl Writer {
    /// Runs until the queue is closed or dropped, then closes the file and lets go of its lock.
    ///
    /// Dropping the future closes the file at once; what was not answered may or may not be on the disk.
    pub async fn run(mut self) {
        let mut group = Vec::new();
        let mut closing = Vec::new();
        loop {
            while self.requests.is_empty() && self.file.give_back().await {}
            // Cancel-safe: what was received is handled before the next await that waits for requests.
            if self.requests.recv_many(&mut group, QUEUED_REQUESTS).await == 0 {
                break;
            }
            let mut writes = Vec::with_capacity(group.len());
            for request in group.drain(..) {
                match request {
                    Request::Write(work, answer) => writes.push((work, answer)),
                    Request::Close(answer) => {
                        self.requests.close();
                        closing.push(answer);
                    }
                }
            }
            self.commit(writes).await;
        }
        self.file.close().await;
        drop(self.file);
        for answer in closing {
            // Whoever asked may have gone.
            let _ = answer.send(());
        }
    }

    async fn commit(&mut self, group: Vec<(Work, oneshot::Sender<Answer>)>) {
        let (works, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let done = if works.len() > 1 {
            self.file.together(&works).await.ok()
        } else {
            None
        };
        let mut done = done.map(Vec::into_iter);
        for (work, answer) in works.iter().zip(answers) {
            let outcome = match &mut done {
                Some(done) => Ok(done.next().unwrap_or_default()),
                None => self.file.alone(work).await,
            };
            if outcome.is_ok()
                && let Work::Settle(verdicts) = work
            {
                self.leases.release(verdicts.iter().map(|verdict| &verdict.id));
            }
            // A caller that has gone is no reason not to have written.
            let _ = answer.send(outcome);
        }
    }
}

/// The answers of a group, one list for each request.
type Answers = Vec<Vec<Result<i64, StoreError>>>;

impl Writing {
    /// Opens a file, making it when it is not there.
    pub(crate) async fn open(
        path: &Path,
        options: SqliteConnectOptions,
        max_bytes: Option<u64>,
        service_key: ServiceKey,
        lock: Lock,
    ) -> Result<Self, StoreError> {
        let mut options = options
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // A log that grew is cut back to this when it is started anew.
            .pragma("journal_size_limit", "16777216");
        if let Some(max_bytes) = max_bytes {
            options = options.pragma("max_page_count", (max_bytes / 4_096).max(1).to_string());
        }
        let name = path.display().to_string();
        let reserve = Reserve::of(path);
        let mut file = Self {
            name,
            options,
            service_key,
            connection: None,
            next_seq: 0,
            removed: 0,
            reserve,
            _lock: lock,
        };
        let mut connection = file
            .connect()
            .await
            .map_err(|error| store_error(&file.name, error))?;
        crate::schema::migrate(&file.name, &mut connection).await?;
        let recovered = file
            .recover(&mut connection)
            .await
            .map_err(|error| store_error(&file.name, error))?;
        if recovered > 0 {
            tracing::info!(
                service_key = %file.service_key,
                objects = recovered,
                "objects of an ended process wait for their next attempt"
            );
        }
        file.keep(connection)
            .await
            .map_err(|error| store_error(&file.name, error))?;
        Ok(file)
    }

    async fn connect(&self) -> Result<SqliteConnection, sqlx::Error> {
        SqliteConnection::connect_with(&self.options).await
    }

    async fn keep(&mut self, mut connection: SqliteConnection) -> Result<(), sqlx::Error> {
        let last = "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'object'";
        self.next_seq = 1 + sqlx::query_scalar::<_, i64>(last)
            .fetch_one(&mut connection)
            .await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Makes failed what a dead process left in state new, and sets aside what is in no state at all.
    async fn recover(&self, connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
        let new = sqlx::query(
            "UPDATE object INDEXED BY object_queue SET state = 2, last_attempt_at = NULL
             WHERE app_service_key = ?1 AND state = 0",
        );
        let recovered = new
            .bind(self.service_key.as_str())
            .execute(&mut *connection)
            .await?
            .rows_affected();
        let unknown = sqlx::query(
            "UPDATE object INDEXED BY object_queue SET
                 state = 3, reason = 'corrupt', last_error = 'state: ' || state || ' is not known'
             WHERE app_service_key = ?1
               AND state IN (SELECT object_state FROM counter
                             WHERE owner = ?1 AND object_state NOT IN (0, 1, 2, 3) AND objects > 0)",
        );
        unknown
            .bind(self.service_key.as_str())
            .execute(connection)
            .await?;
        Ok(recovered)
    }

    async fn connection(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        if self.connection.is_none() {
            let connection = self.connect().await?;
            self.keep(connection).await?;
        }
        Ok(self.connection.take().expect("it was opened if there was none"))
    }

    /// Runs work in a transaction. The connection outlives a refused row and nothing else: after any other failure
    /// SQLite may have rolled back by itself, which the driver does not notice.
    async fn transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self, &mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut connection = self.connection().await?;
        let outcome = async {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            match work(self, &mut transaction).await {
                Ok(done) => transaction.commit().await.map(|()| Ok(done)),
                Err(error) if is_conflict(&error) => transaction.rollback().await.map(|()| Err(error)),
                Err(error) => Err(error),
            }
        };
        match outcome.await {
            Ok(outcome) => {
                self.connection = Some(connection);
                outcome
            }
            Err(error) => {
                // Closing rolls back; that it cannot be closed well is no news.
                let _ = connection.close_hard().await;
                Err(error)
            }
        }
    }

    /// Writes a group in one transaction.
    async fn together(&mut self, works: &[Work]) -> Result<Answers, sqlx::Error> {
        let mut settlement = Settlement::default();
        for work in works {
            if let Work::Settle(verdicts) = work {
                settlement.extend(verdicts);
            }
        }
        self.transaction(async |file, connection| {
            let mut answers = Vec::with_capacity(works.len());
            let mut rows = Vec::new();
            for work in works {
                answers.push(match work {
                    Work::Append(appended) => {
                        // In one transaction all appends come before all verdicts; where that is not the order they
                        // were asked for in, and could matter, they are not written together.
                        if appended.iter().any(|row| settlement.concerns(row.id)) {
                            return Err(sqlx::Error::RowNotFound);
                        }
                        let first = file.next_seq + i64::try_from(rows.len()).unwrap_or(i64::MAX);
                        rows.extend(appended);
                        (first..).take(appended.len()).map(Ok).collect()
                    }
                    Work::Settle(_) => Vec::new(),
                    Work::SetAside(damaged) => {
                        set_aside(connection, damaged).await?;
                        Vec::new()
                    }
                });
            }
            insert::all(connection, file.next_seq, &rows).await?;
            file.next_seq += i64::try_from(rows.len()).unwrap_or(i64::MAX);
            file.removed += settlement.write(connection, &file.service_key).await?;
            Ok(answers)
        })
        .await
        .inspect(|_| self.reserve.refill())
    }

    /// Writes one request in a transaction of its own. On a full disk the reserve is given up for what makes room.
    async fn alone(&mut self, work: &Work) -> Answer {
        let mut outcome = self.try_alone(work).await;
        let makes_room = matches!(work, Work::Settle(_) | Work::SetAside(_));
        if matches!(&outcome, Err(error) if is_full(error)) && makes_room && self.reserve.give_up() {
            tracing::warn!(file = %self.name, "the disk is full: the reserve was given up so that objects can leave");
            outcome = self.try_alone(work).await;
        }
        if outcome.is_ok() && !makes_room {
            self.reserve.refill();
        }
        outcome.map_err(|error| store_error(&self.name, error))
    }

    async fn try_alone(&mut self, work: &Work) -> Result<Vec<Result<i64, StoreError>>, sqlx::Error> {
        match work {
            Work::Append(rows) => {
                let inserted = self.transaction(async |file, connection| {
                    let first = file.next_seq;
                    insert::all(connection, first, &rows.iter().collect::<Vec<_>>()).await?;
                    file.next_seq += i64::try_from(rows.len()).unwrap_or(i64::MAX);
                    Ok((first..).take(rows.len()).map(Ok).collect())
                });
                match inserted.await {
                    Err(error) if is_conflict(&error) => self.append_one_by_one(rows).await,
                    outcome => outcome,
                }
            }
            Work::Settle(verdicts) => {
                let mut settlement = Settlement::default();
                settlement.extend(verdicts);
                self.transaction(async |file, connection| {
                    file.removed += settlement.write(connection, &file.service_key).await?;
                    Ok(Vec::new())
                })
                .await
            }
            Work::SetAside(damaged) => {
                self.transaction(async |_, connection| {
                    set_aside(connection, damaged).await.map(|()| Vec::new())
                })
                .await
            }
        }
    }

    /// Appends rows of which some are there already.
    async fn append_one_by_one(
        &mut self,
        rows: &[NewRow],
    ) -> Result<Vec<Result<i64, StoreError>>, sqlx::Error> {
        self.transaction(async |file, connection| {
            let mut answers = Vec::with_capacity(rows.len());
            for row in rows {
                answers.push(match insert::find(connection, row).await? {
                    Some((seq, true)) => Ok(seq),
                    Some((_, false)) => Err(StoreError::Exists(row.id)),
                    None => {
                        let seq = file.next_seq;
                        insert::all(connection, seq, &[row]).await?;
                        file.next_seq += 1;
                        Ok(seq)
                    }
                });
            }
            Ok(answers)
        })
        .await
    }

    /// Gives a portion of unused pages back to the file system once many objects have left. False when there is
    /// nothing left to give, or it failed: it is not worth an error.
    async fn give_back(&mut self) -> bool {
        if self.removed < GIVE_BACK_AFTER {
            return false;
        }
        let Ok(mut connection) = self.connection().await else {
            self.removed = 0;
            return false;
        };
        let shrunk = async {
            let unused: i64 = sqlx::query_scalar("PRAGMA freelist_count")
                .fetch_one(&mut connection)
                .await?;
            if unused <= UNUSED_PAGES_KEPT {
                return Ok::<_, sqlx::Error>(false);
            }
            sqlx::query("PRAGMA incremental_vacuum(256)")
                .execute(&mut connection)
                .await?;
            Ok(true)
        };
        match shrunk.await {
            Ok(more) => {
                self.connection = Some(connection);
                if !more {
                    self.removed = 0;
                }
                more
            }
            Err(error) => {
                tracing::warn!(file = %self.name, %error, "unused pages could not be given back");
                self.removed = 0;
                let _ = connection.close_hard().await;
                false
            }
        }
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(file = %self.name, %error, "the database was not closed cleanly; nothing is lost");
        }
    }
}

async fn set_aside(connection: &mut SqliteConnection, damaged: &[Damage]) -> Result<(), sqlx::Error> {
    for Damage { seq, id, problem } in damaged {
        sqlx::query("UPDATE object SET state = ?1, reason = ?2, last_error = ?3, id = ?4 WHERE seq = ?5")
            .bind(ObjectState::Error.code())
            .bind(ErrorReason::Corrupt.as_str())
            .bind(problem)
            .bind(id_column(*id))
            .bind(seq)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
