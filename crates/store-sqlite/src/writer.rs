//! The one task that writes.
//!
//! Requests arrive through a bounded channel. Whatever has queued up while the last transaction was committed goes into
//! the next one: appends as multi-row inserts, verdicts merged, one commit, then the answers. When such a group fails
//! as a whole, each of its requests is tried in a transaction of its own, so that one cannot fail the others.

pub(crate) mod insert;
pub(crate) mod maintain;
pub(crate) mod recover;
pub(crate) mod script;

use std::{path::Path, time::Duration};

use edgehold_core::{
    ErrorReason, ObjectState, ServiceKey, StoredObjectId, Timestamp,
    retry::{Action, Verdict},
};
use edgehold_store::{ErrorPage, Evicted, Moved, Room, StateCount, StoreError, Sweep, semantics};
use sqlx::{
    Connection, SqliteConnection,
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    error::{is_full, is_refusal, store_error},
    files::{Lock, Reserve},
    in_flight::{InFlight, Rows, Turn},
    lease::Leases,
    row::{NewRow, id_column},
    settlement::Settlement,
    writer::{maintain::Fate, script::Script},
};

/// Requests that may wait for the writer; more wait with their callers.
pub(crate) const QUEUED_REQUESTS: usize = 256;

/// Removed objects after which it is worth looking for pages to give back to the file system.
const GIVE_BACK_AFTER: u64 = 1_000;
/// Unused pages that stay in the file, to be filled again without growing it.
const UNUSED_PAGES_KEPT: i64 = 1_024;
/// So long nothing was asked for when pages are given back: it is dear, and the pages at the end of the file, which move
/// into the unused ones, are those of the objects that leave next while a backlog drains.
const QUIET: Duration = Duration::from_millis(100);

/// The outcome of a request.
pub(crate) type Answer = Result<Done, StoreError>;

/// What was done.
pub(crate) enum Done {
    /// It is written; there is nothing to tell.
    Written,
    /// One answer for each object.
    Appended(Vec<Result<i64, StoreError>>),
    /// What was removed, in order.
    Evicted(Vec<Evicted>),
    /// So many objects.
    Objects(u64),
    /// A page of the error collection.
    Moved(Moved),
}

/// What the writer is asked for.
pub(crate) enum Request {
    /// Writes something and answers when it is on the disk.
    Write(Work, oneshot::Sender<Answer>),
    /// Finishes what was asked for before, closes the file and answers.
    Close(oneshot::Sender<()>),
}

/// What is to be written.
pub(crate) enum Work {
    Append(Vec<NewRow>, Room),
    Settle(Vec<Verdict>),
    SetAside(Vec<Damage>),
    /// Notes that the objects at these places are handed out.
    Mark(Vec<i64>),
    /// Notes that those at these places are not, after all.
    Unmark(Vec<i64>),
    /// Removes the failed objects at these places, which are claimed for it.
    Evict(Vec<i64>),
    /// Gives up as too old the failed objects at these places, which are claimed for it.
    TooOld(Vec<i64>, Timestamp),
    /// Any other sweep, and how many objects at most.
    Sweep(Sweep, usize),
    /// Takes a page out of the error collection.
    LeaveError(ErrorPage, Fate),
    /// Makes the index by pipeline and device, or drops it.
    IndexDevices(bool),
}

impl Work {
    /// Whether it is written together with others; what is rare and changes many objects has a transaction of its own.
    fn joins_others(&self) -> bool {
        matches!(
            self,
            Self::Append(..) | Self::Settle(_) | Self::SetAside(_) | Self::Mark(_) | Self::Unmark(_)
        )
    }

    /// The objects that it brings verdicts for.
    fn settled(&self) -> impl Iterator<Item = &StoredObjectId> {
        let verdicts = match self {
            Self::Settle(verdicts) => verdicts.as_slice(),
            _ => &[],
        };
        verdicts.iter().map(|verdict| &verdict.id)
    }

    /// The objects that it appends, and those that it brings verdicts for.
    fn touches(&self) -> (Vec<StoredObjectId>, Vec<StoredObjectId>) {
        let appended = match self {
            Self::Append(rows, _) => rows.iter().map(|row| row.id).collect(),
            _ => Vec::new(),
        };
        (appended, self.settled().copied().collect())
    }

    /// Whether it is worth the reserve when the disk is full: it makes room, or has to come before what does.
    fn makes_room(&self) -> bool {
        !matches!(self, Self::Append(..) | Self::LeaveError(_, Fate::Redrive))
    }
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
}

/// The file as the writer has it open.
pub(crate) struct Writing {
    name: String,
    options: SqliteConnectOptions,
    service_key: ServiceKey,
    leases: Leases,
    in_flight: InFlight,
    /// What of it the transaction under way makes different.
    noted: Rows,
    /// None after a failure that may have left it in any state: the next request opens it anew.
    connection: Option<SqliteConnection>,
    next_seq: i64,
    /// Objects that have left since the last look for unused pages.
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
            let received = self.requests.recv_many(&mut group, QUEUED_REQUESTS);
            // Cancel-safe: nothing is received unless it is answered, and what was is handled before the next await that
            // waits for requests.
            let received = match self.file.has_removed() {
                true => timeout(QUIET, received).await,
                false => Ok(received.await),
            };
            match received {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => {
                    while self.requests.is_empty() && self.file.give_back().await {}
                    continue;
                }
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

    async fn commit(&mut self, requests: Vec<(Work, oneshot::Sender<Answer>)>) {
        let (group, alone): (Vec<_>, Vec<_>) =
            requests.into_iter().partition(|(work, _)| work.joins_others());
        // Whoever waits for one request to be done before the next one is asked for does not have both in here. Whoever
        // has given up waiting has: what is asked for an object is done in the order of asking.
        for part in semantics::in_parts(group, |(work, _)| work.touches()) {
            self.commit_group(part).await;
        }
        for request in alone {
            self.commit_group(vec![request]).await;
        }
    }

    async fn commit_group(&mut self, group: Vec<(Work, oneshot::Sender<Answer>)>) {
        let (works, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        // Looked up before: what a verdict makes claimable may be somebody else's as soon as it is on the disk.
        let ended: Vec<_> = works
            .iter()
            .map(|work| self.file.leases.held(work.settled()))
            .collect();
        let done = if works.len() > 1 {
            let done = self.file.together(&works).await.ok();
            done.inspect(|_| self.file.reserve.refill())
        } else {
            None
        };
        let mut done = done.map(Vec::into_iter);
        for ((work, ended), answer) in works.iter().zip(ended).zip(answers) {
            let outcome = match &mut done {
                Some(done) => match done.next().flatten() {
                    Some(done) => Ok(done),
                    None => self.file.alone(work).await,
                },
                None => self.file.alone(work).await,
            };
            if outcome.is_ok() {
                self.file.leases.cleared(work.settled());
                self.file.leases.release(ended.into_values());
            }
            // A caller that has gone is no reason not to have written.
            let _ = answer.send(outcome);
        }
    }
}

impl Writing {
    /// Opens a file, making it when it is not there.
    pub(crate) async fn open(
        path: &Path,
        options: SqliteConnectOptions,
        max_bytes: Option<u64>,
        service_key: ServiceKey,
        lock: Lock,
        leases: Leases,
    ) -> Result<Self, StoreError> {
        let mut options = options
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // A log that grew is cut back to this when it is started anew.
            .pragma("journal_size_limit", "16777216");
        // The fault that the crash suite has to find: what is answered as kept may be in memory only.
        #[cfg(feature = "fail-points")]
        if std::env::var("EDGEHOLD_FAIL_POINT").is_ok_and(|name| name == "unsynced") {
            options = options.synchronous(SqliteSynchronous::Off);
        }
        if let Some(max_bytes) = max_bytes {
            options = options.pragma("max_page_count", (max_bytes / 4_096).max(1).to_string());
        }
        let name = path.display().to_string();
        let reserve = Reserve::of(path);
        let mut file = Self {
            name,
            options,
            service_key,
            leases,
            in_flight: InFlight::default(),
            noted: Rows::new(),
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
        let recovered = recover::all(&mut connection, &file.service_key)
            .await
            .map_err(|error| store_error(&file.name, error))?;
        recovered.report(&file.service_key);
        file.leases.suspect(recovered.suspects);
        file.keep(connection)
            .await
            .map_err(|error| store_error(&file.name, error))?;
        Ok(file)
    }

    async fn connect(&self) -> Result<SqliteConnection, sqlx::Error> {
        SqliteConnection::connect_with(&self.options).await
    }

    async fn keep(&mut self, mut connection: SqliteConnection) -> Result<(), sqlx::Error> {
        // What a statement would need to be taken back: a copy of every page it changes.
        sqlx::query(TEMPORARY_IN_MEMORY).execute(&mut connection).await?;
        let last = "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'object'";
        self.next_seq = 1 + sqlx::query_scalar::<_, i64>(last)
            .fetch_one(&mut connection)
            .await?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn connection(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        if self.connection.is_none() {
            let connection = self.connect().await?;
            self.keep(connection).await?;
        }
        Ok(self.connection.take().expect("it was opened if there was none"))
    }

    /// Runs work in a transaction.
    async fn transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self, &mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut connection = self.connection().await?;
        let outcome = async {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            match work(self, &mut transaction).await {
                Ok(done) => transaction.commit().await.map(|()| Ok(done)),
                Err(error) if is_refusal(&error) => transaction.rollback().await.map(|()| Err(error)),
                Err(error) => Err(error),
            }
        };
        let outcome = outcome.await;
        self.ended(connection, outcome).await
    }

    /// Runs a script as a transaction.
    async fn commit(&mut self, script: Script) -> Result<(), sqlx::Error> {
        if script.is_empty() {
            return Ok(());
        }
        let mut connection = self.connection().await?;
        let outcome = match script.commit(&mut connection).await {
            Err(error) if is_refusal(&error) => {
                let undone = sqlx::query("ROLLBACK").execute(&mut connection).await;
                undone.map(|_| Err(error))
            }
            outcome => outcome.map(Ok),
        };
        self.ended(connection, outcome).await
    }

    /// What follows a transaction. The connection outlives a refused row, which is inside, and nothing else: after any
    /// other failure SQLite may have rolled back by itself, which the driver does not notice.
    async fn ended<T>(
        &mut self,
        connection: SqliteConnection,
        outcome: Result<Result<T, sqlx::Error>, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let noted = std::mem::take(&mut self.noted);
        match outcome {
            Ok(outcome) => {
                self.connection = Some(connection);
                if outcome.is_ok() {
                    self.in_flight.is_now(noted);
                }
                outcome
            }
            Err(error) => {
                // Closing rolls back; that it cannot be closed well is no news.
                let _ = connection.close_hard().await;
                Err(error)
            }
        }
    }

    /// Writes what becomes of places.
    fn note(&mut self, script: &mut Script, places: impl IntoIterator<Item = (i64, Turn)>) {
        self.noted = self.in_flight.write(script, &self.service_key, places);
    }

    /// Writes a group in one transaction, but for what has to be written alone and afterwards: none is answered for it.
    async fn together(&mut self, works: &[Work]) -> Result<Vec<Option<Done>>, sqlx::Error> {
        let held = self.leases.held(works.iter().flat_map(Work::settled));
        let mut done = Vec::with_capacity(works.len());
        let mut places = Vec::new();
        let mut rows = Vec::new();
        let mut waiting = Waiting::Unknown;
        let mut damaged = Vec::new();
        for work in works {
            match work {
                Work::Append(appended, room) => {
                    if *room != Room::default() {
                        self.look(&mut waiting, &rows).await?;
                    }
                    let before = waiting;
                    if appended.iter().any(|row| waiting.admit(row, *room).is_err()) {
                        // What does not fit may be there already: that is found out one by one.
                        waiting = before;
                        done.push(None);
                        continue;
                    }
                    let first = self.next_seq + i64::try_from(rows.len()).unwrap_or(i64::MAX);
                    rows.extend(appended);
                    done.push(Some(Done::Appended(
                        (first..).take(appended.len()).map(Ok).collect(),
                    )));
                    continue;
                }
                Work::SetAside(found) => damaged.extend(found),
                Work::Mark(begun) => places.extend(begun.iter().map(|seq| (*seq, Turn::Begun))),
                Work::Unmark(ended) => places.extend(ended.iter().map(|seq| (*seq, Turn::Ended))),
                Work::Settle(verdicts) => {
                    let turn = |verdict: &Verdict| match verdict.action {
                        Action::Remove => Turn::Left,
                        _ => Turn::Ended,
                    };
                    let place = |verdict: &Verdict| Some((*held.get(&verdict.id)?, turn(verdict)));
                    places.extend(verdicts.iter().filter_map(place));
                }
                // The others are not written together.
                _ => {}
            }
            done.push(Some(Done::Written));
        }
        let mut settlement = Settlement::new(held);
        for work in works {
            if let Work::Settle(verdicts) = work {
                settlement.extend(verdicts);
            }
        }
        let mut script = Script::default();
        for damage in damaged {
            set_aside(&mut script, damage);
        }
        insert::all(&mut script, self.next_seq, &rows);
        self.note(&mut script, places);
        let has_suspects = self.leases.has_suspects();
        let removed = settlement.write(&mut script, &self.service_key, has_suspects);
        self.commit(script).await?;
        self.next_seq += i64::try_from(rows.len()).unwrap_or(i64::MAX);
        self.removed += u64::try_from(removed).unwrap_or(u64::MAX);
        Ok(done)
    }

    /// Reads the counters unless they have been read; `rows` are to be inserted.
    async fn look(&mut self, waiting: &mut Waiting, rows: &[&NewRow]) -> Result<(), sqlx::Error> {
        if matches!(waiting, Waiting::Unknown) {
            let mut connection = self.connection().await?;
            // Nobody else writes: what is read now is so until this is written.
            *waiting = Waiting::Known(insert::waiting(&mut connection, &self.service_key).await?);
            self.connection = Some(connection);
            rows.iter().for_each(|row| waiting.add(row));
        }
        Ok(())
    }

    /// Writes one request in a transaction of its own. On a full disk the reserve is given up for what makes room.
    async fn alone(&mut self, work: &Work) -> Answer {
        let mut outcome = self.try_alone(work).await;
        if matches!(&outcome, Err(error) if is_full(error)) && work.makes_room() && self.reserve.give_up() {
            tracing::warn!(file = %self.name, "the disk is full: the reserve was given up so that objects can leave");
            outcome = self.try_alone(work).await;
        }
        if outcome.is_ok() && !work.makes_room() {
            self.reserve.refill();
        }
        outcome.map_err(|error| store_error(&self.name, error))
    }

    async fn try_alone(&mut self, work: &Work) -> Result<Done, sqlx::Error> {
        if work.joins_others() {
            return match (self.together(std::slice::from_ref(work)).await, work) {
                (Ok(mut done), work) => match (done.pop().flatten(), work) {
                    (None, Work::Append(rows, room)) => self.append_one_by_one(rows, *room).await,
                    (done, _) => Ok(done.unwrap_or(Done::Written)),
                },
                (Err(error), Work::Append(rows, room)) if is_refusal(&error) => {
                    self.append_one_by_one(rows, *room).await
                }
                (Err(error), _) => Err(error),
            };
        }
        self.transaction(async |file, connection| {
            if let Work::Evict(places) | Work::TooOld(places, _) = work {
                let mut script = Script::default();
                file.note(&mut script, places.iter().map(|seq| (*seq, Turn::Ended)));
                script.run(connection).await?;
            }
            let service_key = &file.service_key;
            let (done, removed) = match work {
                // Written above.
                Work::Append(..) | Work::Settle(_) | Work::SetAside(_) | Work::Mark(_) | Work::Unmark(_) => {
                    (Done::Written, 0)
                }
                Work::Evict(places) => {
                    let evicted = maintain::evict(connection, service_key, places).await?;
                    let removed = u64::try_from(evicted.len()).unwrap_or(u64::MAX);
                    (Done::Evicted(evicted), removed)
                }
                Work::TooOld(places, at) => {
                    let given_up = maintain::too_old(connection, service_key, places, *at).await?;
                    (Done::Objects(given_up), 0)
                }
                Work::Sweep(sweep, limit) => {
                    let removed = maintain::sweep(connection, service_key, sweep, *limit).await?;
                    (Done::Objects(removed), removed)
                }
                Work::IndexDevices(wanted) => {
                    let statement = if *wanted { INDEX_DEVICES } else { FORGET_DEVICES };
                    // All that waits is sorted for it, which is too much for memory.
                    for statement in [TEMPORARY_IN_FILES, statement, TEMPORARY_IN_MEMORY] {
                        sqlx::query(statement).execute(&mut *connection).await?;
                    }
                    (Done::Written, 0)
                }
                Work::LeaveError(page, fate) => {
                    let moved = maintain::leave_error(connection, service_key, page, *fate).await?;
                    let removed = if *fate == Fate::Purge { moved.objects } else { 0 };
                    (Done::Moved(moved), removed)
                }
            };
            file.removed += removed;
            Ok(done)
        })
        .await
    }

    /// Appends rows of which some are there already or do not fit.
    async fn append_one_by_one(&mut self, rows: &[NewRow], room: Room) -> Result<Done, sqlx::Error> {
        let mut waiting = Waiting::Unknown;
        self.look(&mut waiting, &[]).await?;
        self.transaction(async |file, connection| {
            let mut answers = Vec::with_capacity(rows.len());
            for row in rows {
                answers.push(match insert::find(connection, row).await? {
                    Some((seq, true)) => Ok(seq),
                    Some((_, false)) => Err(StoreError::Exists(row.id)),
                    None => match waiting.admit(row, room) {
                        Err(full) => Err(full),
                        Ok(()) => {
                            let seq = file.next_seq;
                            let mut script = Script::default();
                            insert::all(&mut script, seq, &[row]);
                            script.run(connection).await?;
                            file.next_seq += 1;
                            Ok(seq)
                        }
                    },
                });
            }
            Ok(Done::Appended(answers))
        })
        .await
    }

    /// Whether so many objects have left that there may be pages to give back.
    fn has_removed(&self) -> bool {
        self.removed >= GIVE_BACK_AFTER
    }

    /// Gives a portion of unused pages back to the file system. False when there is nothing left to give, or it failed:
    /// it is not worth an error.
    async fn give_back(&mut self) -> bool {
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

/// What waits, as far as anybody in a transaction has asked: what the counters say and what is about to be inserted.
#[derive(Clone, Copy)]
enum Waiting {
    Unknown,
    Known(StateCount),
}

impl Waiting {
    fn add(&mut self, row: &NewRow) {
        if let Self::Known(waiting) = self
            && row.waits()
        {
            waiting.objects += 1;
            waiting.payload_bytes += row.bytes();
        }
    }

    /// Takes one more row in, if there is room.
    fn admit(&mut self, row: &NewRow, room: Room) -> Result<(), StoreError> {
        if let Self::Known(waiting) = self
            && row.waits()
        {
            room.admit(*waiting, row.bytes())?;
        }
        self.add(row);
        Ok(())
    }
}

/// What waits of each pipeline and device: its order.
pub(crate) const INDEX_DEVICES: &str = "
    CREATE INDEX IF NOT EXISTS object_device ON object (app_service_key, pipeline_id, device, seq)
    WHERE state IN (0, 2)";
pub(crate) const FORGET_DEVICES: &str = "DROP INDEX IF EXISTS object_device";

const TEMPORARY_IN_MEMORY: &str = "PRAGMA temp_store = MEMORY";
const TEMPORARY_IN_FILES: &str = "PRAGMA temp_store = FILE";

/// With the time of the machine: nobody says what time it is when a row is found to be damaged.
pub(crate) const SET_ASIDE: &str = "
    UPDATE object SET state = ?, reason = ?, last_error = ?, id = ?,
           ended_at = ifnull(ended_at, CAST(unixepoch('subsecond') * 1000 AS INTEGER)),
           payload_bytes = ifnull((SELECT length(bytes) FROM payload WHERE payload.seq = object.seq), 0)
    WHERE seq = ?";

fn set_aside(script: &mut Script, Damage { seq, id, problem }: &Damage) {
    script
        .add_alone(SET_ASIDE)
        .with(ObjectState::Error.code())
        .with(ErrorReason::Corrupt.as_str())
        .with(problem.as_str())
        .with(id_column(*id))
        .with(*seq);
}
