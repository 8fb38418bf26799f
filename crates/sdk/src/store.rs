//! Opening the store that the settings name, when Store and Forward first needs it.
//!
//! A store that is not a file of this service may be away, so it gets a local spool in front (`<service key>.spool.db`
//! in the data folder). With it Store and Forward is open at once: the store is opened behind it as soon as it can be.

use std::{path::Path, sync::Arc, time::Duration};

use edgehold_config::{Configuration, Writable, configuration::Database, secrets::InsecureSecretProvider};
use edgehold_core::{
    BoxFuture, ErrorClass, ExponentialBackoff, SecretError, SecretProvider, ServiceKey, ShutdownSignal,
};
use edgehold_runtime::{Books, StoreState, Wake};
use edgehold_store::{
    Credentials, DatabaseSettings, MemoryQueue, Mover, RetryQueue, SpooledQueue, StoreClientQueue,
    StoreError, StoreFactories, StoreHandle, StoreStats, TimeLimited,
};
use edgehold_store_postgres::PostgresQueue;
use edgehold_store_sealed::{SealedQueue, Sealing};
use edgehold_store_sqlite::{Options, SqliteQueue};
use tokio::{sync::watch, time::timeout};

use self::backlog::{Backlog, Place};
use crate::{invocation::Invocation, logging::with_causes};

pub(crate) mod address;
pub(crate) mod backlog;
pub(crate) mod postgres;

/// The pauses while the store cannot be opened.
const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// An open store, and the future that works for it until it is closed.
pub(crate) struct Opened {
    queue: Arc<dyn RetryQueue>,
    driver: BoxFuture<'static, ()>,
    /// When the queue is a spool whose store is not open yet.
    behind: Option<Behind>,
}

impl Opened {
    pub(crate) fn new(queue: impl RetryQueue + 'static, driver: BoxFuture<'static, ()>) -> Self {
        Self {
            queue: Arc::new(queue),
            driver,
            behind: None,
        }
    }

    /// The store itself.
    pub(crate) fn queue(&self) -> Arc<dyn RetryQueue> {
        self.queue.clone()
    }

    /// Does something with the store, and closes it. Whatever the work does after the store has ended is answered with
    /// [`StoreError::Closed`].
    pub(crate) async fn work<T>(self, work: impl AsyncFnOnce(&dyn RetryQueue) -> T) -> T {
        let Self { queue, driver, .. } = self;
        let work = async {
            let done = work(&*queue).await;
            queue.close().await;
            done
        };
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = driver => {}
        }
        work.await
    }
}

type Opening = BoxFuture<'static, Result<Opened, StoreError>>;

/// What a spool waits for.
struct Behind {
    spooled: SpooledQueue,
    store: watch::Sender<Option<Arc<dyn RetryQueue>>>,
    /// An attempt that has not been answered yet.
    opening: Option<Opening>,
}

/// Knows how to open the store of one service.
#[derive(Clone)]
pub(crate) struct StoreOpener {
    pub(crate) service_key: ServiceKey,
    pub(crate) database: Database,
    pub(crate) data_dir: std::path::PathBuf,
    /// The spool's file grows no further than this; 0 for no spool.
    pub(crate) spool_max_bytes: u64,
    pub(crate) factories: StoreFactories,
    pub(crate) secrets: Arc<dyn SecretProvider>,
    /// The database of a server (`EDGEX_DBNAME`).
    pub(crate) db_name: String,
    /// Told when a store has something to do that this process does not know of.
    pub(crate) wake: Arc<Wake>,
}

impl StoreOpener {
    /// Of the service that an invocation describes, for a command beside it: without a spool and without custom stores.
    pub(crate) fn outside(
        invocation: &Invocation,
        service_key: ServiceKey,
        configuration: &Configuration,
    ) -> Self {
        let (_, writable) = watch::channel(configuration.writable.clone());
        Self {
            service_key,
            database: configuration.database.clone(),
            data_dir: invocation.flags.data_dir.clone(),
            spool_max_bytes: 0,
            factories: StoreFactories::default(),
            secrets: Arc::new(InsecureSecretProvider::new(writable)),
            db_name: invocation.flags.db_name.clone(),
            wake: Arc::default(),
        }
    }

    /// Opens the store, or a spool in front of it when it may be away. With the spool, a store that cannot be opened now
    /// is opened later ([`StoreOpener::run`]).
    ///
    /// # Errors
    /// What opening the store answered, when no later attempt can end otherwise or there is no spool.
    pub(crate) async fn open(&self) -> Result<Opened, StoreError> {
        let sealing = sealing(&self.database);
        sealing.check(&*self.secrets).await?;
        let opened = self.open_unsealed().await?;
        // In front of a spool, so that what lies there is sealed too.
        let queue = SealedQueue::new(opened.queue, self.secrets.clone(), sealing);
        Ok(Opened {
            queue: Arc::new(queue),
            ..opened
        })
    }

    async fn open_unsealed(&self) -> Result<Opened, StoreError> {
        let kind = self.database.kind.to_lowercase();
        let is_local = is_file(&kind) || kind == "memory";
        if is_local || self.spool_max_bytes == 0 {
            return self.open_store().await;
        }
        let mut opening = self.opening();
        let first = match timeout(self.database.timeout, &mut opening).await {
            Ok(Err(error)) if error.class() == ErrorClass::Permanent => return Err(error),
            outcome => outcome.ok(),
        };
        let store = match &first {
            Some(Ok(opened)) => Some(opened.queue.clone()),
            _ => None,
        };
        let (sender, handle) = watch::channel(store);
        let (queue, spool_driver) = match self.open_spool(handle).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(
                    "there is no local spool, so while the store is away deliveries are held back: {}",
                    with_causes(&error)
                );
                return match first {
                    Some(outcome) => outcome,
                    None => opening.await,
                };
            }
        };
        let (driver, opening) = match first {
            Some(Ok(opened)) => {
                let driver: BoxFuture<'static, ()> = Box::pin(async {
                    tokio::join!(spool_driver, opened.driver);
                });
                return Ok(Opened::new(queue, driver));
            }
            Some(Err(error)) => {
                tracing::warn!(
                    "the store cannot be opened yet, what is new goes to the spool: {}",
                    with_causes(&error)
                );
                (spool_driver, None)
            }
            None => {
                let waited = self.database.timeout;
                tracing::warn!(
                    "the store does not answer within {waited:?}, what is new goes to the spool until it does"
                );
                (spool_driver, Some(opening))
            }
        };
        let behind = Behind {
            spooled: queue.clone(),
            store: sender,
            opening,
        };
        Ok(Opened {
            behind: Some(behind),
            ..Opened::new(queue, driver)
        })
    }

    fn opening(&self) -> Opening {
        let opener = self.clone();
        Box::pin(async move { opener.open_store().await })
    }

    async fn open_spool(
        &self,
        store: StoreHandle,
    ) -> Result<(SpooledQueue, BoxFuture<'static, ()>), StoreError> {
        let path = spool_path(&self.data_dir, &self.service_key);
        let (spool, writer) = SqliteQueue::open(Options {
            max_bytes: Some(self.spool_max_bytes),
            ..Options::new(path, self.service_key.clone())
        })
        .await?;
        let mut writer = Box::pin(writer.run());
        let opening = SpooledQueue::open(Arc::new(spool), store, self.database.timeout);
        // A damaged row is set aside while the spool is read, and that takes the writer.
        let (queue, mover): (_, Mover) = tokio::select! {
            opened = opening => opened?,
            () = &mut writer => return Err(StoreError::Closed),
        };
        let driver = async {
            tokio::join!(writer, mover.run());
        };
        Ok((queue, Box::pin(driver)))
    }

    async fn open_store(&self) -> Result<Opened, StoreError> {
        let kind = self.database.kind.to_lowercase();
        match kind.as_str() {
            file if is_file(file) => {
                let path = sqlite_path(&self.database, &self.data_dir, &self.service_key);
                let (queue, writer) =
                    SqliteQueue::open(Options::new(path.clone(), self.service_key.clone())).await?;
                tracing::info!("Store and Forward keeps its data in {}", path.display());
                Ok(Opened::new(queue, Box::pin(writer.run())))
            }
            "memory" => {
                tracing::warn!("Database/Type is 'memory': what is stored is lost when this process ends");
                let queue = MemoryQueue::new(self.service_key.clone());
                Ok(Opened::new(queue, Box::pin(std::future::ready(()))))
            }
            "postgres" => self.open_postgres().await,
            _ => {
                let Some(factory) = self.factories.get(&kind) else {
                    return Err(StoreError::Configuration(format!(
                        "Database/Type '{}' is not built in; use 'sqlite' (the default, a file in the data folder), \
                         'postgres', or register a custom store of this name",
                        self.database.kind
                    )));
                };
                let limit = self.database.timeout;
                let connecting = factory(self.settings(), self.credentials().await?);
                let client = timeout(limit, connecting)
                    .await
                    .map_err(|_| StoreError::Unavailable {
                        reason: format!("no connection within {limit:?}"),
                        source: None,
                    })??;
                let client = Arc::new(TimeLimited::new(client, limit));
                let queue = StoreClientQueue::open(client, self.service_key.clone()).await?;
                Ok(Opened::new(queue, Box::pin(std::future::ready(()))))
            }
        }
    }

    async fn open_postgres(&self) -> Result<Opened, StoreError> {
        let secrets = &*self.secrets;
        let mut options =
            postgres::options(&self.database, &self.db_name, &self.service_key, secrets).await?;
        options.identity_file = Some(postgres::identity_file(&self.data_dir, &self.service_key));
        let place = format!("{}:{}/{}", options.host, options.port, options.database);
        let (queue, worker) = PostgresQueue::open(options).await?;
        tracing::info!(
            "Store and Forward keeps its data in PostgreSQL at {place}, schema \"{}\"",
            self.service_key
        );
        let (mut changes, wake) = (queue.changes(), self.wake.clone());
        let told = async move {
            while changes.changed().await.is_ok() {
                wake.look();
            }
        };
        let driver = async {
            tokio::join!(worker.run(), told);
        };
        Ok(Opened::new(queue, Box::pin(driver)))
    }

    fn settings(&self) -> DatabaseSettings {
        DatabaseSettings {
            kind: self.database.kind.clone(),
            host: self.database.host.clone(),
            port: self.database.port,
            name: self.database.name.clone(),
            timeout: self.database.timeout,
        }
    }

    /// The secret named as the store's type; a custom store without one gets empty credentials.
    async fn credentials(&self) -> Result<Credentials, StoreError> {
        match self.secrets.secret(&self.database.kind).await {
            Ok(mut secret) => Ok(Credentials {
                username: secret.remove("username").unwrap_or_default().expose().to_owned(),
                password: secret.remove("password").unwrap_or_default(),
            }),
            Err(SecretError::Unavailable { reason }) => Err(StoreError::Unavailable {
                reason: format!("no credentials: {reason}"),
                source: None,
            }),
            Err(_) => Ok(Credentials::default()),
        }
    }

    /// Opens the store as soon as Store and Forward is on, unless it is open already, and works for it until it is
    /// closed. Blocks nobody: until it is open, failing exports wait; when it cannot be opened, they are dropped by name.
    pub(crate) async fn run(
        self,
        opened: Option<Opened>,
        mut settings: watch::Receiver<Arc<Writable>>,
        state: watch::Sender<StoreState>,
        books: Arc<Books>,
        mut shutdown: ShutdownSignal,
    ) {
        let mut backoff = BACKOFF;
        let mut opened = opened;
        let Opened {
            queue,
            driver,
            behind,
        } = loop {
            if let Some(opened) = opened.take() {
                break opened;
            }
            let enabled = settings.borrow_and_update().store_and_forward.enabled;
            if enabled {
                // Whatever the last attempt said, what fails meanwhile waits for this one.
                state.send_replace(StoreState::Opening);
                match self.open().await {
                    Ok(ready) => break ready,
                    Err(error) => {
                        tracing::error!(
                            "Store and Forward has no store, will try again: {}",
                            with_causes(&error)
                        );
                        let failed = error.class() == ErrorClass::Permanent;
                        state.send_replace(match failed {
                            true => StoreState::Failed(with_causes(&error)),
                            false => StoreState::Opening,
                        });
                    }
                }
            }
            tokio::select! {
                () = shutdown.recv() => return,
                changed = settings.changed() => match changed {
                    Ok(()) => backoff.reset(),
                    Err(_) => return,
                },
                () = tokio::time::sleep(backoff.pause()), if enabled => backoff.grow(),
            }
        };
        carry_over(queue.stats().await, &books);
        state.send_replace(StoreState::Open(queue));
        let behind = async {
            if let Some(behind) = behind {
                self.open_behind(behind, &books, shutdown.clone()).await;
            }
        };
        let told = async {
            let mut shutdown = shutdown.clone();
            // Looking only: it may be given up at any point.
            tokio::select! {
                () = self.tell_of_backlog() => {}
                () = shutdown.recv() => {}
            }
        };
        tokio::join!(driver, behind, told);
        shutdown.recv().await;
    }

    /// Says what the original left where the settings say that it keeps its objects, and how it is taken over.
    async fn tell_of_backlog(&self) {
        let kind = self.database.kind.to_lowercase();
        if !["redisdb", "postgres"].contains(&kind.as_str()) {
            return;
        }
        let place = Place {
            service_key: &self.service_key,
            database: &self.database,
            db_name: &self.db_name,
            secrets: &*self.secrets,
            environment: &Default::default(),
        };
        let look = async {
            let mut backlog = Backlog::open(place, None).await?;
            let count = backlog.count().await?;
            let place = backlog.place().to_owned();
            backlog.close().await;
            Ok::<_, StoreError>((count, place))
        };
        let looked = look.await;
        let is_some = matches!(looked, Ok((1.., _)));
        let left = match looked {
            Ok((0, place)) => format!("EdgeX left nothing in {place}"),
            Ok((count, place)) => format!(
                "EdgeX left {count} objects in {place}, which nobody delivers: 'edgehold store import' takes them over"
            ),
            Err(error) => format!(
                "whether EdgeX left something there is not known ({}); 'edgehold store import' takes it over",
                with_causes(&error)
            ),
        };
        if kind == "redisdb" {
            let path = sqlite_path(&self.database, &self.data_dir, &self.service_key);
            tracing::warn!(
                "Database/Type is 'redisdb', and nothing is kept in Redis: Store and Forward keeps its data in {}; {left}",
                path.display()
            );
        } else if is_some {
            tracing::warn!("{left}");
        }
    }

    /// Opens the store behind a spool and works for it until `shutdown`. No error is final: what is in the spool has
    /// nowhere else to go.
    async fn open_behind(&self, behind: Behind, books: &Books, mut shutdown: ShutdownSignal) {
        let Behind {
            spooled,
            store,
            mut opening,
        } = behind;
        let mut backoff = BACKOFF;
        let open = async {
            loop {
                if opening.is_none() {
                    tokio::time::sleep(backoff.next_pause()).await;
                }
                let attempt = opening.take().unwrap_or_else(|| self.opening());
                match attempt.await {
                    Ok(opened) => return opened,
                    Err(error) if error.class() == ErrorClass::Permanent => {
                        tracing::error!(
                            "the store cannot be opened, what is new stays in the spool: {}",
                            with_causes(&error)
                        );
                    }
                    Err(error) => tracing::warn!("the store cannot be opened yet: {}", with_causes(&error)),
                }
            }
        };
        let Opened { queue, driver, .. } = tokio::select! {
            opened = open => opened,
            () = shutdown.recv() => return,
        };
        carry_over(spooled.stats_beside(&*queue).await, books);
        store.send_replace(Some(queue.clone()));
        tokio::join!(driver, async {
            shutdown.recv().await;
            // The spool has closed it, unless it was opened later than that.
            if timeout(self.database.timeout, queue.close()).await.is_err() {
                tracing::warn!("the store does not answer, so it is not closed well");
            }
        });
    }
}

/// How `Database.Encryption` and `Database.Compression` seal what is kept.
pub(crate) fn sealing(database: &Database) -> Sealing {
    Sealing {
        encryption: database.encryption,
        compression: database.compression,
        secret_name: database.encryption_secret_name.clone(),
    }
}

/// Enters what a store holds into the books, before anything new comes in.
fn carry_over(stats: Result<StoreStats, StoreError>, books: &Books) {
    match stats {
        Ok(stats) => {
            books.carried_over(stats.waiting() + stats.error.objects);
            if stats.waiting() > 0 {
                tracing::info!(
                    waiting = stats.waiting(),
                    "resuming with what an earlier run left"
                );
            }
        }
        Err(error) => tracing::warn!("cannot count what an earlier run left: {}", with_causes(&error)),
    }
}

/// Whether a store of this type (in lower case) is a file in the data folder. `redisdb`, where EdgeX 3 keeps what waits, is:
/// nothing is kept in Redis (decision 0019).
pub(crate) fn is_file(kind: &str) -> bool {
    ["", "sqlite", "redisdb"].contains(&kind)
}

/// The file of the spool in front of a store that may be away.
pub(crate) fn spool_path(data_dir: &Path, service_key: &ServiceKey) -> std::path::PathBuf {
    data_dir.join(format!("{service_key}.spool.db"))
}

/// The database file of a service.
pub(crate) fn sqlite_path(
    database: &Database,
    data_dir: &Path,
    service_key: &ServiceKey,
) -> std::path::PathBuf {
    if database.name.is_empty() {
        data_dir.join(format!("{service_key}.db"))
    } else {
        // An absolute name stays as it is.
        data_dir.join(&database.name)
    }
}
