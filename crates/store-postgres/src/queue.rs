//! The queue: requests to the worker, looks through a few connections that only read.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use edgehold_core::{BoxFuture, PipelineId, ServiceKey, StoredObject, Timestamp, retry::Verdict};
use edgehold_store::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, LaneStatus, ListRequest, Moved, ObjectFilter, Page,
    RetryQueue, Room, StoreError, StoreStats, Sweep,
};
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::unconstrained,
    time::timeout,
};

use crate::{
    error::{no_answer, store_error},
    instance::{self, Ended, Identity},
    lanes,
    link::{Link, run},
    look,
    maintain::Fate,
    options::{Options, connect},
    row::{NewRow, ReadRow},
    schema,
    worker::{Claiming, QUEUED_CLAIMS, Shared, Worker, damaged},
    writer::{Answer, Done, QUEUED_REQUESTS, Request, Work, Writer},
};

/// Connections that look at the same time, one of which listens.
const READERS: u32 = 3;

/// A [`RetryQueue`] in a schema of a PostgreSQL database.
pub struct PostgresQueue {
    server: Arc<str>,
    service_key: ServiceKey,
    limit: Duration,
    readers: PgPool,
    /// None when it was opened for looking only.
    worker: Option<ToWorker>,
    closed: AtomicBool,
}

/// The way to the worker.
struct ToWorker {
    requests: mpsc::Sender<Request>,
    claims: mpsc::Sender<Claiming>,
    changes: watch::Receiver<u64>,
}

impl PostgresQueue {
    /// Opens the store of a service, and makes its schema and tables when they are missing. The [`Worker`] is for the
    /// caller to run: until it does, whatever writes, `claim` and `close` wait. The runtime needs its clock and its
    /// network (`enable_all`).
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`], whereupon nothing was touched, [`StoreError::Configuration`] when the tables were
    /// changed by hand, and [`StoreError::Unavailable`] for all that another day may mend: no server, no database,
    /// credentials that are refused.
    pub async fn open(options: Options) -> Result<(Self, Worker), StoreError> {
        options.check()?;
        let server: Arc<str> = options.server().into();
        let limit = options.timeout;
        let connecting = options.connect_options();
        let service_key = options.service_key.clone();

        let mut connection = connect(&server, &connecting, limit).await?;
        schema::migrate(&server, &mut connection, service_key.as_str(), limit).await?;
        // What it holds is let go with it.
        drop(connection);

        let identity = Identity::take(options.identity_file.as_deref());
        let link = || Link::new(server.clone(), connecting.clone(), limit);
        let mut writer_link = link();
        let (id, ended) = run!(writer_link, async |connection| {
            let id = instance::join(connection, &identity.name).await?;
            let ended = instance::take_over(connection, id, &identity.name, Ended::KnownToBe).await?;
            Ok((id, ended))
        })?;
        ended.report(&service_key);

        let (requests, to_write) = mpsc::channel(QUEUED_REQUESTS);
        let (claims, to_claim) = mpsc::channel(QUEUED_CLAIMS);
        let readers = readers(&options);
        let shared = Arc::new(Shared::new(service_key.clone(), limit, identity, id));
        let worker = Worker {
            shared: shared.clone(),
            writer: Writer {
                shared: shared.clone(),
                requests: to_write,
                link: writer_link,
            },
            claims: to_claim,
            to_writer: requests.downgrade(),
            claim_link: link(),
            pulse_link: link(),
            readers: readers.clone(),
        };
        let queue = Self {
            server,
            service_key,
            limit,
            readers,
            worker: Some(ToWorker {
                requests,
                claims,
                changes: shared.changes(),
            }),
            closed: AtomicBool::new(false),
        };
        Ok((queue, worker))
    }

    /// Opens the store of a service for looking only; changes nothing and makes nothing. Whatever writes answers
    /// [`StoreError::Configuration`]. None when this service has stored nothing there.
    ///
    /// # Errors
    /// As [`PostgresQueue::open`].
    pub async fn open_read_only(options: &Options) -> Result<Option<Self>, StoreError> {
        options.check()?;
        let server: Arc<str> = options.server().into();
        let mut connection = connect(&server, &options.connect_options(), options.timeout).await?;
        let found = schema::version(&mut connection, options.service_key.as_str())
            .await
            .map_err(|error| store_error(&server, error))?;
        schema::check(found)?;
        if found.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            server,
            service_key: options.service_key.clone(),
            limit: options.timeout,
            readers: readers(options),
            worker: None,
            closed: AtomicBool::new(false),
        }))
    }

    /// For how long a process that was killed still seems to work with its tables.
    pub const SILENCE: Duration = instance::SILENCE;

    /// Whether a process works with these tables: one that was killed seems to for [`PostgresQueue::SILENCE`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn in_use(&self) -> Result<bool, StoreError> {
        self.look(async |connection| instance::any_alive(connection).await)
            .await
    }

    /// By the code of each state: how many objects its counter says there are, and how many there are, both at one moment.
    /// Reads an index from end to end, and takes as long as that takes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn recount(&self) -> Result<BTreeMap<i64, (u64, u64)>, StoreError> {
        self.check_open()?;
        let connection = self.readers.acquire().await.map_err(|error| self.failed(error))?;
        // Not used again: it has no limit.
        let mut connection = connection.detach();
        let counted = async {
            sqlx::raw_sql("SET statement_timeout = 0")
                .execute(&mut connection)
                .await?;
            look::recount(&mut connection).await
        };
        counted.await.map_err(|error| self.failed(error))
    }

    /// Counts how often something has become worth looking at that this process does not know of: another instance has
    /// ended and left objects, has kept some, or somebody has re-driven some. May count more often than that.
    pub fn changes(&self) -> watch::Receiver<u64> {
        match &self.worker {
            Some(worker) => worker.changes.clone(),
            None => watch::Sender::new(0).subscribe(),
        }
    }

    fn failed(&self, error: sqlx::Error) -> StoreError {
        store_error(&self.server, error)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(StoreError::Closed),
            false => Ok(()),
        }
    }

    fn worker(&self) -> Result<&ToWorker, StoreError> {
        self.check_open()?;
        let for_looking =
            || StoreError::Configuration(format!("{} was opened for looking only", self.server));
        self.worker.as_ref().ok_or_else(for_looking)
    }

    /// Hands work to the writer and waits until it is on the disk. Dropping this does not stop the work.
    async fn write(&self, work: Work) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.worker()?
            .requests
            .send(Request::Write(work, answer))
            .await
            .map_err(|_| StoreError::Closed)?;
        // Heard as soon as it is sent, whatever budget the task has left: the writer counts on that.
        unconstrained(answered).await.unwrap_or(Err(StoreError::Closed))
    }

    /// Looks at something. A connection that has been lost meanwhile is replaced before it is used; one on which nothing
    /// is answered is not used again.
    async fn look<T>(
        &self,
        look: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.check_open()?;
        let mut connection: PoolConnection<Postgres> =
            self.readers.acquire().await.map_err(|error| self.failed(error))?;
        match timeout(self.limit, look(&mut connection)).await {
            Ok(found) => found.map_err(|error| self.failed(error)),
            Err(_) => {
                drop(connection.detach());
                Err(no_answer(&self.server, self.limit))
            }
        }
    }

    async fn append_all(
        &self,
        objects: &[StoredObject],
        room: Room,
    ) -> Result<Vec<Result<i64, StoreError>>, StoreError> {
        self.worker()?;
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

    async fn claim_page(&self, claim: Claim) -> Result<Vec<StoredObject>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.worker()?
            .claims
            .send((claim, answer))
            .await
            .map_err(|_| StoreError::Closed)?;
        let page = answered.await.unwrap_or(Err(StoreError::Closed))?;
        Ok(page.take())
    }

    async fn leave_error(&self, page: ErrorPage, fate: Fate) -> Result<Moved, StoreError> {
        match self.write(Work::LeaveError(page, fate)).await? {
            Done::Moved(moved) => Ok(moved),
            _ => Ok(Moved::default()),
        }
    }

    /// Has work done that answers how many objects it was done to.
    async fn count(&self, work: Work) -> Result<u64, StoreError> {
        match self.write(work).await? {
            Done::Objects(objects) => Ok(objects),
            _ => Ok(0),
        }
    }

    async fn list_page(&self, request: ListRequest) -> Result<Page, StoreError> {
        let (rows, next_after_seq): (Vec<ReadRow>, _) = self
            .look(async |connection| {
                let (places, next) = look::list(connection, &request).await?;
                Ok((look::read(connection, &self.service_key, &places).await?, next))
            })
            .await?;
        if self.worker.is_some()
            && let Some(work) = damaged(&rows)
            && let Err(error) = self.write(work).await
        {
            tracing::warn!(%error, "damaged rows stay where they are for now");
        }
        // Between the two looks an object may have changed so that it no longer belongs here; a damaged one has.
        let listed =
            |object: &StoredObject| request.states.contains(&object.state) && request.filter.selects(object);
        Ok(Page {
            objects: rows.into_iter().map(|row| row.object).filter(listed).collect(),
            next_after_seq,
        })
    }
}

fn readers(options: &Options) -> PgPool {
    PgPoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(options.timeout)
        .connect_lazy_with(options.connect_options())
}

impl RetryQueue for PostgresQueue {
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
            self.worker()?;
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
        Box::pin(self.look(async move |connection| lanes::lanes(connection, interval, now).await))
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.look(async move |connection| look::is_waiting(connection, pipeline_id, device).await))
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        Box::pin(async move {
            match self.write(Work::Evict(eviction)).await? {
                Done::Evicted(evicted) => Ok(evicted),
                _ => Ok(Vec::new()),
            }
        })
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.count(Work::Sweep(sweep, limit)))
    }

    fn redrive(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(self.leave_error(page, Fate::Redrive))
    }

    fn purge(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(self.leave_error(page, Fate::Purge))
    }

    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>> {
        Box::pin(self.look(async move |connection| look::survey(connection, &filter).await))
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(self.list_page(request))
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        Box::pin(self.look(async |connection| look::stats(connection).await))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.closed.swap(true, Ordering::AcqRel) {
                return;
            }
            match &self.worker {
                Some(worker) => {
                    let (answer, answered) = oneshot::channel();
                    if worker.requests.send(Request::Close(answer)).await.is_ok() {
                        // An error means that the worker has ended, which is what was asked for.
                        let _ = answered.await;
                    }
                }
                None => self.readers.close().await,
            }
        })
    }
}
