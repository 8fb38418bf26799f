//! The error collection of a service from outside: what the commands beside a service re-drive, purge and bring back.
//!
//! Owns which way to go. A running service has the lock of its store: it is asked over REST and does the work itself. The
//! file of a stopped one is opened for writing, so that no service can start on it meanwhile. Any other store is reached
//! through the service alone.
//!
//! A run that its service does not end (it was killed, or restarted) is begun again there with the same filter, which
//! leaves out what was given up since: nothing is moved twice (`follow`).

mod follow;

use std::{future::Future, num::NonZeroU32, sync::Arc, time::Duration};

use edgehold_api::wire::{Count, FilterBody, OrderBody, RunBody};
use edgehold_clients::{ApplicationClient, CallError};
use edgehold_core::{ServiceKey, Shutdown, StoredObject};
use edgehold_runtime::{
    BeginError, Books, ErrorAction, ErrorCollection, ErrorOrder, RunState, StoreState, Wake, meant_by,
};
use edgehold_store::{ObjectFilter, RetryQueue, Room, StoreError};
use edgehold_store_sqlite::{Options, SqliteQueue, Writer};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use self::follow::Followed;
use crate::{
    bootstrap::{self, Access, ConfigurationError},
    invocation::Invocation,
    rest_client::{RestClientError, rest_client},
    store::{is_file, sqlite_path},
};

/// How long nothing may come from a service beyond what it allows itself for an answer: one of many megabytes takes a small
/// machine a while.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// Why a command cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The configuration that names the store cannot be loaded.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The service key is wrong.
    #[error(transparent)]
    ServiceKey(#[from] edgehold_core::InvalidId),
    /// The file cannot be opened or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no run.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The service cannot be asked.
    #[error(transparent)]
    Client(#[from] RestClientError),
    /// The service does not do it.
    #[error("the service at {address} does not do it")]
    Service {
        /// Where it was asked.
        address: String,
        /// What came back.
        source: CallError,
    },
    /// Who answers for the service may be somebody else.
    #[error(
        "the service at {address} is not trusted (the environment can name its authority, EDGEHOLD_CACERT, and the name in \
         its certificate, EDGEHOLD_TLS_SERVER_NAME)"
    )]
    Untrusted {
        /// Where it was asked.
        address: String,
        /// What is wrong.
        source: CallError,
    },
    /// The store belongs to a running service, which does not take this.
    #[error("the store belongs to a running service: stop it first ({0})")]
    Running(StoreError),
}

/// What is asked of the error collection.
#[derive(Clone, Debug)]
pub struct AdminOrder {
    /// What is to be done.
    pub action: ErrorAction,
    /// To which objects.
    pub filter: ObjectFilter,
    /// At most so many a second.
    pub rate: Option<NonZeroU32>,
    /// How long a service that is away during a run is waited for.
    pub patience: Duration,
}

/// The error collection of the service an invocation describes.
pub struct ErrorAdmin {
    /// The options of its file; none for a store that only its service can reach.
    file: Option<Options>,
    service: ApplicationClient,
}

impl ErrorAdmin {
    /// `service_key` is the built-in one, which flags and environment may replace.
    ///
    /// # Errors
    /// [`AdminError::Configuration`], [`AdminError::ServiceKey`], [`AdminError::Client`].
    pub async fn new(invocation: &Invocation, service_key: &str) -> Result<Self, AdminError> {
        let service_key = ServiceKey::try_new(&invocation.flags.service_key(service_key))?;
        let loaded = bootstrap::load(invocation, &service_key, Access::ReadOnly).await?;
        let configuration = &loaded.effective.configuration;
        let database = &configuration.database;
        let file = is_file(&database.kind.to_lowercase()).then(|| Options {
            timeout: database.timeout,
            ..Options::new(
                sqlite_path(database, &invocation.flags.data_dir, &service_key),
                service_key,
            )
        });
        let limit = configuration.service.request_timeout + LONGEST_SILENCE;
        let service = rest_client(configuration, &invocation.environment, limit)?;
        Ok(Self { file, service })
    }

    fn refused(&self, source: CallError) -> AdminError {
        let address = self.service.to_string();
        match source {
            CallError::Certificate { .. } => AdminError::Untrusted { address, source },
            _ => AdminError::Service { address, source },
        }
    }

    /// The file of a stopped service, open for writing; none when a service has it, or it is no file.
    async fn stopped(&self) -> Result<Option<Stopped>, AdminError> {
        let Some(options) = &self.file else {
            return Ok(None);
        };
        if !SqliteQueue::exists(&options.path) {
            return Err(AdminError::Store(StoreError::Configuration(format!(
                "there is no store at {}: nothing has been stored yet",
                options.path.display()
            ))));
        }
        match SqliteQueue::open(options.clone()).await {
            Ok((queue, writer)) => Ok(Some(Stopped {
                queue: Arc::new(queue),
                writer,
            })),
            Err(StoreError::Locked { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// How many objects an order is about.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn count(&self, order: &AdminOrder) -> Result<Count, AdminError> {
        if let Some(options) = &self.file {
            if !SqliteQueue::exists(&options.path) {
                return Ok(Count::of(Default::default(), &[]));
            }
            let queue = SqliteQueue::open_read_only(&options.path, options.service_key.clone()).await?;
            let groups = queue.survey(order.filter.clone()).await?;
            queue.close().await;
            return Ok(Count::of(meant_by(order.action, &order.filter, &groups), &groups));
        }
        let body = OrderBody {
            dry_run: true,
            ..body_of(order)
        };
        let path = ["store", "errors", order.action.as_str()];
        self.service
            .post(&path, &body)
            .await
            .map_err(|error| self.refused(error))
    }

    /// Carries an order out and tells how far it is. When `cancelled` ends, it ends after the page it is at. A run that has
    /// ended before its time says so (`state`, `problem`), and its `filter` goes on with what is left.
    ///
    /// # Errors
    /// [`AdminError`]: nothing has been done.
    pub async fn carry_out(
        &self,
        order: &AdminOrder,
        cancelled: impl Future<Output = ()>,
        tell: impl FnMut(&RunBody),
    ) -> Result<RunBody, AdminError> {
        match self.stopped().await? {
            Some(stopped) => stopped.carry_out(order, cancelled, tell).await,
            None => self.have_carried_out(order, cancelled, tell).await,
        }
    }

    /// By the running service.
    async fn have_carried_out(
        &self,
        order: &AdminOrder,
        cancelled: impl Future<Output = ()>,
        tell: impl FnMut(&RunBody),
    ) -> Result<RunBody, AdminError> {
        let run = Followed::begin(&self.service, order.action, body_of(order))
            .await
            .map_err(|error| self.refused(error))?;
        Ok(run.follow(order.patience, cancelled, tell).await)
    }

    /// A page of the error collection of a service whose store is no file, as `edgehold::record` writes it, and where the
    /// next one begins.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn page(
        &self,
        filter: &ObjectFilter,
        after_seq: i64,
        limit: usize,
    ) -> Result<(Vec<Box<RawValue>>, Option<i64>), AdminError> {
        let FilterBody {
            ids,
            pipelines,
            devices,
            reasons,
            ended_from,
            ended_before,
        } = FilterBody::of(filter);
        let mut query = vec![
            ("payload", "true".to_owned()),
            ("after", after_seq.to_string()),
            ("limit", limit.to_string()),
        ];
        let mut add = |name, values: Vec<String>| query.extend(values.into_iter().map(|value| (name, value)));
        add("id", ids);
        add("pipeline", pipelines);
        add("device", devices);
        add("reason", reasons);
        add("endedFrom", ended_from.iter().map(ToString::to_string).collect());
        add(
            "endedBefore",
            ended_before.iter().map(ToString::to_string).collect(),
        );
        let query: Vec<_> = query
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let page: PageBody = self
            .service
            .get(&["store", "errors"], &query)
            .await
            .map_err(|error| self.refused(error))?;
        Ok((page.objects, page.next))
    }

    /// Whether the store is a file that can be read beside its service.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Puts objects into the error collection of a stopped service; answers how many were not there yet. An object that is
    /// there with the same content stays as it is.
    ///
    /// # Errors
    /// [`AdminError::Running`], and [`AdminError::Store`] for the first object that cannot be kept.
    pub async fn bring_back(&self, objects: &[StoredObject]) -> Result<u64, AdminError> {
        let Some(options) = &self.file else {
            return Err(AdminError::Store(StoreError::Configuration(
                "only a store that is a file can be written from outside".to_owned(),
            )));
        };
        let (queue, writer) = match SqliteQueue::open(options.clone()).await {
            Ok(opened) => opened,
            Err(error @ StoreError::Locked { .. }) => return Err(AdminError::Running(error)),
            Err(error) => return Err(error.into()),
        };
        let work = async {
            let before = queue.stats().await?.error.objects;
            for page in objects.chunks(200) {
                for answer in queue.append(page, Room::default()).await {
                    answer?;
                }
            }
            let after = queue.stats().await?.error.objects;
            queue.close().await;
            Ok::<_, StoreError>(after.saturating_sub(before))
        };
        let (done, ()) = tokio::join!(work, writer.run());
        Ok(done?)
    }
}

/// A page on the wire; what it says of an object is not looked into.
#[derive(Deserialize)]
struct PageBody {
    objects: Vec<Box<RawValue>>,
    next: Option<i64>,
}

fn body_of(order: &AdminOrder) -> OrderBody {
    OrderBody {
        filter: FilterBody::of(&order.filter),
        all: true,
        rate: order.rate,
        dry_run: false,
    }
}

/// The open file of a stopped service.
struct Stopped {
    queue: Arc<SqliteQueue>,
    writer: Writer,
}

impl Stopped {
    async fn carry_out(
        self,
        order: &AdminOrder,
        cancelled: impl Future<Output = ()>,
        mut tell: impl FnMut(&RunBody),
    ) -> Result<RunBody, AdminError> {
        let (_state, handle) = watch::channel(StoreState::Open(self.queue.clone()));
        let (errors, runs) =
            ErrorCollection::new(handle, Arc::new(Books::default()), Arc::new(Wake::default()));
        let (shutdown, signal) = Shutdown::new();
        let work = async {
            let outcome = async {
                let run = errors
                    .begin(ErrorOrder {
                        action: order.action,
                        filter: order.filter.clone(),
                        rate: order.rate,
                        by: "the command line".to_owned(),
                    })
                    .await?;
                let mut follow = errors.follow(run.id).ok_or(BeginError::Ending)?;
                let mut asked_to_end = false;
                tokio::pin!(cancelled);
                loop {
                    let run = follow.borrow_and_update().clone();
                    tell(&RunBody::of(&run));
                    if run.state != RunState::Running {
                        return Ok(RunBody::of(&run));
                    }
                    tokio::select! {
                        () = &mut cancelled, if !asked_to_end => {
                            asked_to_end = true;
                            errors.cancel(run.id, "the command line");
                        }
                        changed = follow.changed() => changed.map_err(|_| BeginError::Ending)?,
                    }
                }
            };
            let outcome: Result<RunBody, AdminError> = outcome.await;
            shutdown.trigger();
            self.queue.close().await;
            outcome
        };
        let (outcome, (), ()) = tokio::join!(work, runs.run(signal), self.writer.run());
        outcome
    }
}
