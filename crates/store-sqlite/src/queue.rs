//! The queue: requests to the writer, looks through the readers, claims in memory.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use edgehold_core::{
    BoxFuture, ObjectState, PipelineId, ServiceKey, StoredObject, Timestamp, retry::Verdict,
};
use edgehold_store::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, LaneStatus, ListRequest, Moved, ObjectFilter, Page,
    RetryQueue, Room, StoreError, StoreStats, Sweep, semantics,
};
use futures_util::future;
use sqlx::{
    Sqlite, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::store_error,
    files::{self, Lock},
    lease::{LeasedPage, Leases},
    order::Order,
    reader::{self, Place},
    row::{NewRow, ReadRow},
    schema,
    writer::{Answer, Damage, Done, QUEUED_REQUESTS, Request, Work, Writer, Writing, maintain::Fate},
};

/// Connections that read at the same time: a claim, a list and the statistics.
const READERS: u32 = 3;

/// How a file is opened for writing.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file. Its folder and itself are made when they are missing; `<file>-wal`, `-shm`, `.lock` and
    /// `.reserve` appear beside it.
    pub path: PathBuf,
    /// The service whose objects these are.
    pub service_key: ServiceKey,
    /// How long a statement waits for another connection (`Database.Timeout`); default 5 s.
    pub timeout: Duration,
    /// The file grows no further than this, at least one page of 4 KiB; appends are then [`StoreError::Full`].
    /// Default: as far as the disk goes.
    pub max_bytes: Option<u64>,
}

impl Options {
    /// This file for this service, with the defaults.
    pub fn new(path: impl Into<PathBuf>, service_key: ServiceKey) -> Self {
        Self {
            path: path.into(),
            service_key,
            timeout: Duration::from_secs(5),
            max_bytes: None,
        }
    }
}

/// A [`RetryQueue`] in an SQLite file.
pub struct SqliteQueue {
    file: String,
    service_key: ServiceKey,
    readers: SqlitePool,
    leases: Leases,
    order: Order,
    /// None when the file was opened for reading only.
    requests: Option<mpsc::Sender<Request>>,
    closed: AtomicBool,
}

impl SqliteQueue {
    /// Opens a file for writing and makes it when it is missing. The [`Writer`] is for the caller to run: until it
    /// does, `append`, `settle` and `close` wait. The runtime needs its clock (`enable_time`).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("app.db");
    /// # runtime.block_on(async {
    /// use edgehold_core::ServiceKey;
    /// use edgehold_store::RetryQueue;
    /// use edgehold_store_sqlite::{Options, SqliteQueue};
    ///
    /// let service_key = ServiceKey::try_new("app-example")?;
    /// let (queue, writer) = SqliteQueue::open(Options::new(path, service_key)).await?;
    /// let work = async {
    ///     let stats = queue.stats().await;
    ///     queue.close().await;
    ///     stats
    /// };
    /// let (_, stats) = tokio::join!(writer.run(), work);
    /// assert_eq!(stats?.waiting(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::NewerSchema`] (the file is untouched),
    /// [`StoreError::Configuration`] when the folder cannot be written or the file is no database, and
    /// [`StoreError::Unavailable`] or [`StoreError::Full`] for the rest.
    pub async fn open(options: Options) -> Result<(Self, Writer), StoreError> {
        let Options {
            path,
            service_key,
            timeout,
            max_bytes,
        } = options;
        files::prepare(&path)?;
        let lock = Lock::take(&path)?;
        let name = path.display().to_string();
        schema::check(&name, connect_options(&path, timeout).read_only(true)).await?;
        let (sender, requests) = mpsc::channel(QUEUED_REQUESTS);
        let queue = Self::reading(&path, service_key, timeout, Some(sender));
        let writing = Writing::open(
            &path,
            connect_options(&path, timeout),
            max_bytes,
            queue.service_key.clone(),
            lock,
            queue.leases.clone(),
        )
        .await?;
        let writer = Writer {
            requests,
            file: writing,
        };
        Ok((queue, writer))
    }

    /// Opens a file for looking only, also while another process has it open for writing. `append`, `claim` and
    /// `settle` answer [`StoreError::Configuration`].
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the file is missing (see [`SqliteQueue::exists`]) or no database,
    /// [`StoreError::NewerSchema`], [`StoreError::Unavailable`].
    pub async fn open_read_only(path: impl AsRef<Path>, service_key: ServiceKey) -> Result<Self, StoreError> {
        let path = path.as_ref();
        if !Self::exists(path) {
            return Err(StoreError::Configuration(format!(
                "there is no store at {}",
                path.display()
            )));
        }
        let timeout = Duration::from_secs(5);
        schema::check(
            &path.display().to_string(),
            connect_options(path, timeout).read_only(true),
        )
        .await?;
        Ok(Self::reading(path, service_key, timeout, None))
    }

    /// Whether there is a file to open; without one a service has stored nothing.
    pub fn exists(path: impl AsRef<Path>) -> bool {
        path.as_ref().is_file()
    }

    /// Keeps everybody from opening a file for writing until the lock is dropped; none where no lock can be made beside it,
    /// so that nobody else can write there either.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when a process has it open for writing.
    pub fn lock(path: impl AsRef<Path>) -> Result<Option<Lock>, StoreError> {
        match Lock::take(path.as_ref()) {
            Ok(lock) => Ok(Some(lock)),
            Err(locked @ StoreError::Locked { .. }) => Err(locked),
            Err(_) => Ok(None),
        }
    }

    /// What SQLite finds wrong with the file (`PRAGMA integrity_check`); nothing when it is sound. Reads all of it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        let mut connection = self.reader().await?;
        let found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(&mut *connection)
            .await
            .map_err(|error| self.failed(error))?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// By the code of each state: how many objects its counter says there are, and how many there are, both at one moment.
    /// Reads an index from end to end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn recount(&self) -> Result<BTreeMap<i64, (u64, u64)>, StoreError> {
        let mut connection = self.reader().await?;
        reader::recount(&mut connection, &self.service_key)
            .await
            .map_err(|error| self.failed(error))
    }

    /// Writes all that is committed at this moment into another file (`VACUUM INTO`), also while another process writes
    /// this one. The file is whole and on the disk when it has its name; until then it is `<file>.part`.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when there is a file of that name or it cannot be made, else
    /// [`StoreError::Unavailable`] and [`StoreError::Full`]; what was written of it is removed.
    pub async fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        let refused =
            |error: io::Error| StoreError::Configuration(format!("{} cannot be made: {error}", to.display()));
        // What is there is never written over.
        if to.symlink_metadata().is_ok() {
            return Err(StoreError::Configuration(format!(
                "{} is there already, and what is there is not overwritten",
                to.display()
            )));
        }
        let part = files::beside(to, ".part");
        files::create(&part).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Configuration(format!(
                "{} is there: another backup is at work, or was broken off and has left it to be removed",
                part.display()
            )),
            _ => refused(error),
        })?;
        let copied = async {
            let name = part.to_str().ok_or_else(|| {
                StoreError::Configuration(format!("{} is no name in UTF-8", part.display()))
            })?;
            let mut connection = self.reader().await?;
            sqlx::query("VACUUM INTO ?1")
                .bind(name)
                .execute(&mut *connection)
                .await
                .map_err(|error| self.failed(error))?;
            files::finish(&part, to).map_err(refused)
        };
        let copied = copied.await;
        if copied.is_err() {
            // Half a copy is none.
            let _ = std::fs::remove_file(part);
        }
        copied
    }

    fn reading(
        path: &Path,
        service_key: ServiceKey,
        timeout: Duration,
        requests: Option<mpsc::Sender<Request>>,
    ) -> Self {
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(timeout)
            // A file does not go away as a server does.
            .test_before_acquire(false)
            .connect_lazy_with(connect_options(path, timeout).read_only(true));
        Self {
            file: path.display().to_string(),
            service_key,
            readers,
            leases: Leases::default(),
            order: Order::default(),
            requests,
            closed: AtomicBool::new(false),
        }
    }

    fn failed(&self, error: sqlx::Error) -> StoreError {
        store_error(&self.file, error)
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.check_open()?;
        self.readers.acquire().await.map_err(|error| self.failed(error))
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            Err(StoreError::Closed)
        } else {
            Ok(())
        }
    }

    fn writer(&self) -> Result<&mpsc::Sender<Request>, StoreError> {
        self.check_open()?;
        let opened_for_reading =
            || StoreError::Configuration(format!("{} was opened for reading only", self.file));
        self.requests.as_ref().ok_or_else(opened_for_reading)
    }

    /// Hands work to the writer and waits until it is on the disk. Dropping this does not stop the work.
    async fn write(&self, work: Work) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.writer()?
            .send(Request::Write(work, answer))
            .await
            .map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn append_all(
        &self,
        objects: &[StoredObject],
        room: Room,
    ) -> Result<Vec<Result<i64, StoreError>>, StoreError> {
        self.writer()?;
        let mut refused = Vec::new();
        let mut rows = Vec::with_capacity(objects.len());
        for (place, object) in objects.iter().enumerate() {
            match NewRow::of(object, &self.service_key) {
                Ok(row) => rows.push(row),
                Err(error) => refused.push((place, error)),
            }
        }
        let mut answers = Vec::new();
        if !rows.is_empty()
            && let Done::Appended(appended) = self.write(Work::Append(rows, room)).await?
        {
            answers = appended;
        }
        // Ascending, so that each answer finds its place when those before it are there.
        for (place, error) in refused {
            answers.insert(place.min(answers.len()), Err(error));
        }
        Ok(answers)
    }

    /// Makes the index by pipeline and device unless it is there.
    async fn index_devices(&self) -> Result<(), StoreError> {
        self.writer()?;
        if self.order.is_missing() {
            self.write(Work::IndexDevices(true)).await?;
            self.order.is_now(true);
        }
        Ok(())
    }

    async fn claim_page(&self, mut claim: Claim) -> Result<Vec<StoredObject>, StoreError> {
        self.writer()?;
        if claim.ordered {
            self.index_devices().await?;
        } else if self.order.is_forgotten(claim.now) {
            // Before and after it is gone: whoever needs it meanwhile makes it again.
            self.order.is_now(false);
            self.write(Work::IndexDevices(false)).await?;
            self.order.is_now(false);
        }
        loop {
            let mut connection = self.reader().await?;
            let page = reader::claim::choose(&mut connection, &self.service_key, &claim, &self.leases)
                .await
                .map_err(|error| self.failed(error))?;
            let Some(last) = page.places().last().copied() else {
                return Ok(Vec::new());
            };
            // One on a core, the other on the disk. What is noted without being handed out is taken back.
            let read = async {
                let rows = reader::read(&mut connection, &self.service_key, page.places()).await;
                drop(connection);
                rows.map_err(|error| self.failed(error))
            };
            let (rows, marked) = future::join(read, self.mark(page.places())).await;
            let objects = self
                .hand_out(page, rows.and_then(|rows| marked.map(|()| rows)), &claim)
                .await?;
            if !objects.is_empty() {
                return Ok(objects);
            }
            // All of them changed while they were chosen, or were damaged. Behind them there may be others.
            claim.after_seq = last.seq;
        }
    }

    /// Notes in the file that the objects at these places are handed out, so that a start knows what was in flight.
    async fn mark(&self, places: &[Place]) -> Result<(), StoreError> {
        let places = places.iter().map(|place| place.seq).collect();
        match self.write(Work::Mark(places)).await {
            // What is handed out now makes room; that a crash would not be counted is the lesser evil.
            Err(StoreError::Full { reason }) => {
                tracing::warn!(%reason, "objects are handed out without a note that they are in flight");
                Ok(())
            }
            marked => marked.map(drop),
        }
    }

    /// Keeps of a page, which is claimed and noted, what is still to be claimed: an object may have been settled after it
    /// was chosen and before it was claimed. The others are given back.
    async fn hand_out(
        &self,
        page: LeasedPage,
        rows: Result<Vec<ReadRow>, StoreError>,
        claim: &Claim,
    ) -> Result<Vec<StoredObject>, StoreError> {
        let may_run = |object: &StoredObject| {
            claim.selection.due.is_none_or(|interval| {
                semantics::is_due(object.last_attempt_at, object.not_before, interval, claim.now)
            })
        };
        let selected = |object: &StoredObject| {
            object.state == ObjectState::Failed
                && claim.selection.lane.has(object.destination.as_ref())
                && may_run(object)
        };
        let (rows, failed) = match rows {
            Ok(rows) => (rows, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        // While they are claimed nobody else meets the damaged ones.
        self.set_aside(&rows).await;
        let mut objects: Vec<_> = rows.into_iter().map(|row| row.object).filter(selected).collect();
        page.hold(&mut objects, claim.ordered);
        let others = page.without(&objects);
        if !others.is_empty()
            && let Err(error) = self.write(Work::Unmark(others)).await
        {
            tracing::warn!(%error, "objects that are not handed out stay noted as in flight until they are");
        }
        page.hand_out(&objects);
        failed.map_or(Ok(objects), Err)
    }

    async fn look_at_lanes(&self, interval: Duration, now: Timestamp) -> Result<Vec<LaneStatus>, StoreError> {
        let mut connection = self.reader().await?;
        let look = async |connection: &mut _| {
            let (lanes, damaged) =
                reader::lanes::lanes(connection, &self.service_key, interval, now, &self.leases).await?;
            // No claim can name a lane that has no name: its objects would wait for ever.
            let places = reader::lanes::unreadable_lanes(connection, &self.service_key, damaged).await?;
            Ok((lanes, reader::read(connection, &self.service_key, &places).await?))
        };
        let (lanes, damaged) = look(&mut connection).await.map_err(|error| self.failed(error))?;
        drop(connection);
        self.set_aside(&damaged).await;
        Ok(lanes)
    }

    async fn evict_oldest(&self, eviction: Eviction) -> Result<Vec<Evicted>, StoreError> {
        self.writer()?;
        let mut connection = self.reader().await?;
        let page = reader::claim::choose_oldest(&mut connection, &self.service_key, &eviction, &self.leases)
            .await
            .map_err(|error| self.failed(error))?;
        drop(connection);
        let places: Vec<_> = page.places().iter().map(|place| place.seq).collect();
        if places.is_empty() {
            return Ok(Vec::new());
        }
        match self.write(Work::Evict(places)).await? {
            Done::Evicted(evicted) => {
                self.leases.cleared(evicted.iter().map(|evicted| &evicted.id));
                Ok(evicted)
            }
            _ => Ok(Vec::new()),
        }
    }

    async fn sweep_page(&self, sweep: Sweep, limit: usize) -> Result<u64, StoreError> {
        self.writer()?;
        let Sweep::TooOld { before, at } = sweep else {
            return self.count(Work::Sweep(sweep, limit)).await;
        };
        let mut connection = self.reader().await?;
        let page =
            reader::claim::choose_too_old(&mut connection, &self.service_key, before, limit, &self.leases)
                .await
                .map_err(|error| self.failed(error))?;
        drop(connection);
        let places: Vec<_> = page.places().iter().map(|place| place.seq).collect();
        if places.is_empty() {
            return Ok(0);
        }
        self.count(Work::TooOld(places, at)).await
    }

    /// Has work done that answers how many objects it was done to.
    async fn count(&self, work: Work) -> Result<u64, StoreError> {
        match self.write(work).await? {
            Done::Objects(objects) => Ok(objects),
            _ => Ok(0),
        }
    }

    async fn leave_error(&self, page: ErrorPage, fate: Fate) -> Result<Moved, StoreError> {
        self.writer()?;
        match self.write(Work::LeaveError(page, fate)).await? {
            Done::Moved(moved) => Ok(moved),
            _ => Ok(Moved::default()),
        }
    }

    /// Moves the damaged ones of these rows to the error collection. What fails is met again with the next page.
    async fn set_aside(&self, rows: &[ReadRow]) {
        let noted: Vec<_> = rows
            .iter()
            .filter_map(|row| {
                Some(Damage {
                    seq: row.object.seq,
                    id: row.object.id,
                    problem: row.damage.clone()?,
                })
            })
            .collect();
        if noted.is_empty() || self.requests.is_none() {
            return;
        }
        for Damage { id, problem, .. } in &noted {
            tracing::error!(stored_object_id = %id, %problem, "a damaged row goes to the error collection");
        }
        if let Err(error) = self.write(Work::SetAside(noted)).await {
            tracing::warn!(%error, "damaged rows stay where they are for now");
        }
    }

    async fn list_page(&self, request: ListRequest) -> Result<Page, StoreError> {
        let mut connection = self.reader().await?;
        let (places, next_after_seq) = reader::list(&mut connection, &self.service_key, &request)
            .await
            .map_err(|error| self.failed(error))?;
        let rows = reader::read(&mut connection, &self.service_key, &places)
            .await
            .map_err(|error| self.failed(error))?;
        drop(connection);
        self.set_aside(&rows).await;
        // Between the two looks an object may have changed so that it no longer belongs here; a damaged one has.
        let listed =
            |object: &StoredObject| request.states.contains(&object.state) && request.filter.selects(object);
        Ok(Page {
            objects: rows.into_iter().map(|row| row.object).filter(listed).collect(),
            next_after_seq,
        })
    }
}

fn connect_options(path: &Path, timeout: Duration) -> SqliteConnectOptions {
    use sqlx::ConnectOptions;
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(timeout)
        .disable_statement_logging()
}

impl RetryQueue for SqliteQueue {
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>> {
        Box::pin(async move {
            self.append_all(objects, room)
                .await
                .unwrap_or_else(|error| error.for_each(objects.len()))
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(self.claim_page(claim))
    }

    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.writer()?;
            if verdicts.is_empty() {
                return Ok(());
            }
            self.write(Work::Settle(verdicts.to_vec())).await.map(drop)
        })
    }

    fn lanes(
        &self,
        interval: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>> {
        Box::pin(self.look_at_lanes(interval, now))
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.index_devices().await?;
            let mut connection = self.reader().await?;
            reader::is_waiting(&mut connection, &self.service_key, pipeline_id, device)
                .await
                .map_err(|error| self.failed(error))
        })
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        Box::pin(self.evict_oldest(eviction))
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.sweep_page(sweep, limit))
    }

    fn redrive(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(self.leave_error(page, Fate::Redrive))
    }

    fn purge(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(self.leave_error(page, Fate::Purge))
    }

    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>> {
        Box::pin(async move {
            let mut connection = self.reader().await?;
            reader::survey(&mut connection, &self.service_key, &filter)
                .await
                .map_err(|error| self.failed(error))
        })
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(self.list_page(request))
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        Box::pin(async move {
            let mut connection = self.reader().await?;
            reader::stats(&mut connection, &self.service_key)
                .await
                .map_err(|error| self.failed(error))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.closed.swap(true, Ordering::AcqRel) {
                return;
            }
            // Readers first: the last connection to leave a file tidies its log away.
            self.readers.close().await;
            if let Some(requests) = &self.requests {
                let (answer, answered) = oneshot::channel();
                if requests.send(Request::Close(answer)).await.is_ok() {
                    // An error means that the writer has ended, which is what was asked for.
                    let _ = answered.await;
                }
            }
        })
    }
}
