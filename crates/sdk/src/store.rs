//! Opening the store that the settings name, when Store and Forward first needs it.
//!
//! A store that is not a file of this service may be away, so it gets a local spool in front (`<service key>.spool.db`
//! in the data folder). With it Store and Forward is open at once: the store is opened behind it as soon as it can be.
//!
//! Which store a type names is [`kind`]'s, what a spool does for it [`spool`]'s, and [`run`] is how a service comes to its
//! store and stays with it. What EdgeX left in one is [`backlog`]'s.

use std::{path::PathBuf, sync::Arc, time::Duration};

use edgehold_config::{Configuration, configuration::Database, secrets::InsecureSecretProvider};
use edgehold_core::{BoxFuture, ExponentialBackoff, SecretProvider, ServiceKey};
use edgehold_runtime::Wake;
use edgehold_store::{RetryQueue, StoreError, StoreFactories};
use edgehold_store_sealed::{SealedQueue, Sealing};
use tokio::sync::watch;

use self::spool::Behind;
use crate::invocation::Invocation;

pub(crate) mod address;
pub(crate) mod backlog;
mod file;
mod kind;
pub(crate) mod postgres;
mod run;
mod spool;

pub(crate) use self::file::{is_file, spool_path, sqlite_path};

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

/// Knows how to open the store of one service.
#[derive(Clone)]
pub(crate) struct StoreOpener {
    pub(crate) service_key: ServiceKey,
    pub(crate) database: Database,
    pub(crate) data_dir: PathBuf,
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
        let opened = match self.has_spool() {
            true => self.open_spooled().await?,
            false => self.open_store().await?,
        };
        // In front of a spool, so that what lies there is sealed too.
        let queue = SealedQueue::new(opened.queue, self.secrets.clone(), sealing);
        Ok(Opened {
            queue: Arc::new(queue),
            ..opened
        })
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
