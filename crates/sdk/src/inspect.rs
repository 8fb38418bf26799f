//! A look at the store of a service from outside: what the commands beside a service read.
//!
//! Changes nothing, takes no lock and holds no transaction from one page to the next, so it may run beside the service
//! that writes the same store. Which store it is comes from the same flags, files and provider as for the service.

use std::sync::Arc;

use edgehold_core::{ObjectState, ServiceKey, StoredObject, StoredObjectId};
use edgehold_store::{ErrorGroup, ListRequest, ObjectFilter, Page, RetryQueue, StoreError, StoreStats};
use edgehold_store_postgres::PostgresQueue;
use edgehold_store_sealed::SealedQueue;
use edgehold_store_sqlite::SqliteQueue;

use crate::{
    bootstrap::{self, Access, ConfigurationError},
    invocation::Invocation,
    store::{StoreOpener, is_file, postgres, sealing, sqlite_path},
};

mod check;

pub use check::StoreCheck;

/// Why a store cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The configuration that names the store cannot be loaded.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The service key is wrong.
    #[error(transparent)]
    ServiceKey(#[from] edgehold_core::InvalidId),
}

/// Names one stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectName {
    /// By its id.
    Id(StoredObjectId),
    /// By its place in the order of appending.
    Seq(i64),
}

/// The store of a service, for looking only.
pub struct StoreView {
    place: String,
    service_key: ServiceKey,
    /// None when the service has never stored anything.
    queue: Option<SealedQueue>,
    kept: Kept,
}

/// A store below its seals, for what only its kind can be asked; none when the service has never stored anything.
enum Kept {
    File(Option<Arc<SqliteQueue>>),
    Postgres(Option<Arc<PostgresQueue>>),
}

impl StoreView {
    /// Opens the store of the service this invocation describes. `service_key` is the built-in one, which flags and
    /// environment may replace. A store that does not exist yet is an empty one.
    ///
    /// # Errors
    /// [`ViewError`]: among others for stores that only their own process can read (`memory`, custom ones).
    pub async fn open(invocation: &Invocation, service_key: &str) -> Result<Self, ViewError> {
        let service_key = ServiceKey::try_new(&invocation.flags.service_key(service_key))?;
        let loaded = bootstrap::load(invocation, &service_key, Access::ReadOnly).await?;
        let configuration = &loaded.effective.configuration;
        Ok(Self::of(&StoreOpener::outside(invocation, service_key, configuration)).await?)
    }

    /// The store that this would open.
    pub(crate) async fn of(opener: &StoreOpener) -> Result<Self, StoreError> {
        let StoreOpener {
            service_key,
            database,
            data_dir,
            db_name,
            secrets,
            ..
        } = opener.clone();
        let (place, kept) = match database.kind.to_lowercase().as_str() {
            kind if is_file(kind) => {
                let path = sqlite_path(&database, &data_dir, &service_key);
                let queue = match path.exists() {
                    true => Some(SqliteQueue::open_read_only(&path, service_key.clone()).await?),
                    false => None,
                };
                (path.display().to_string(), Kept::File(queue.map(Arc::new)))
            }
            "postgres" => {
                let options = postgres::options(&database, &db_name, &service_key, &*secrets).await?;
                let place = format!(
                    "{}:{}/{}, schema \"{service_key}\"",
                    options.host, options.port, options.database
                );
                let queue = PostgresQueue::open_read_only(&options).await?;
                (place, Kept::Postgres(queue.map(Arc::new)))
            }
            other => {
                return Err(StoreError::Configuration(format!(
                    "a store of type '{other}' cannot be looked at from outside: its service tells of it over REST \
                     (/api/v3/store/stats)"
                )));
            }
        };
        let queue: Option<Arc<dyn RetryQueue>> = match &kept {
            Kept::File(queue) => queue.clone().map(|queue| queue as _),
            Kept::Postgres(queue) => queue.clone().map(|queue| queue as _),
        };
        Ok(Self {
            place,
            service_key,
            queue: queue.map(|queue| SealedQueue::new(queue, secrets, sealing(&database))),
            kept,
        })
    }

    /// Whether an instance of the service works with tables on a server; a killed one seems to for some seconds.
    pub(crate) async fn in_use(&self) -> Result<bool, StoreError> {
        match &self.kept {
            Kept::Postgres(Some(queue)) => queue.in_use().await,
            Kept::Postgres(None) | Kept::File(_) => Ok(false),
        }
    }

    /// Where the store is.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether anything has ever been stored here.
    pub fn exists(&self) -> bool {
        self.queue.is_some()
    }

    /// What the store holds.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn stats(&self) -> Result<StoreStats, StoreError> {
        match &self.queue {
            Some(queue) => queue.stats().await,
            None => Ok(StoreStats::default()),
        }
    }

    /// The error collection by pipeline and reason: the objects that are meant.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn survey(&self, filter: ObjectFilter) -> Result<Vec<ErrorGroup>, StoreError> {
        match &self.queue {
            Some(queue) => queue.survey(filter).await,
            None => Ok(Vec::new()),
        }
    }

    /// A page of objects, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        match &self.queue {
            Some(queue) => queue.list(request).await,
            None => Ok(Page::default()),
        }
    }

    /// One object, whatever its state; none when it is not there (any more).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn find(&self, name: ObjectName) -> Result<Option<StoredObject>, StoreError> {
        let (after_seq, filter) = match name {
            ObjectName::Seq(seq) => (seq.saturating_sub(1), ObjectFilter::default()),
            ObjectName::Id(id) => (0, ObjectFilter::ids([id])),
        };
        let page = self
            .list(ListRequest {
                states: ObjectState::ALL.to_vec(),
                filter,
                after_seq,
                limit: 1,
            })
            .await?;
        Ok(page.objects.into_iter().find(|object| match name {
            ObjectName::Id(id) => object.id == id,
            ObjectName::Seq(seq) => object.seq == seq,
        }))
    }

    /// Lets go of the store.
    pub async fn close(self) {
        if let Some(queue) = self.queue {
            queue.close().await;
        }
    }
}

/// How many objects wait in the store of the service this invocation describes: journaled ones and those waiting for
/// their next attempt. Works beside the running service and without it, and changes nothing. A store that was never
/// opened holds none.
///
/// # Errors
/// [`ViewError`].
pub async fn waiting_objects(invocation: &Invocation, service_key: &str) -> Result<u64, ViewError> {
    let view = StoreView::open(invocation, service_key).await?;
    let stats = view.stats().await?;
    view.close().await;
    Ok(stats.waiting())
}
