//! The error collection of a service from outside: what the commands beside a service re-drive, purge and bring back.
//!
//! Owns which way to go. A running service is asked over REST and does the work itself: of a file it has the lock, of a
//! server's tables an instance has been heard lately. The store of a stopped one is opened for writing; a file so that no
//! service can start on it meanwhile. Stores of other types are reached through their service alone. Looking needs no
//! service.
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
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use self::follow::Followed;
use crate::{
    bootstrap::{self, Access, ConfigurationError},
    inspect::StoreView,
    invocation::Invocation,
    rest_client::{RestClientError, rest_client},
    store::{Opened, StoreOpener, is_file},
};

/// Between two looks whether a service is there.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// Longer than an instance that was killed seems to live.
const LONGEST_HEARD: Duration = Duration::from_secs(8);
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
    /// The store cannot be opened or written.
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
    /// Some instance of the service has the store, and none is where the configuration says.
    #[error(
        "a running instance of the service has the store, and none answers at {address}: call this where one does, or stop \
         every instance"
    )]
    Elsewhere {
        /// Where it was asked.
        address: String,
        /// What came back.
        source: CallError,
    },
    /// The store can only be reached by its service, which is not there.
    #[error("only its running service can reach a store of type '{kind}', and none answers at {address}")]
    NotRunning {
        /// The type.
        kind: String,
        /// Where it was asked.
        address: String,
        /// What came back.
        source: CallError,
    },
    /// Another service answers.
    #[error("at {address} another service answers: '{found}'")]
    AnotherService {
        /// Where it was asked.
        address: String,
        /// What it is called.
        found: String,
    },
    /// Nothing can be put into the store of a running service.
    #[error(
        "the store belongs to a running service, which takes no import: stop it, every instance of it, and import again"
    )]
    Running,
    /// Nothing can be put into such a store.
    #[error("only its running service can reach a store of type '{0}', and that takes no import")]
    NoImport(String),
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
    opener: StoreOpener,
    service: ApplicationClient,
}

/// How a store is reached without its service.
#[derive(Clone, Copy, PartialEq)]
enum Reach {
    /// A file, which one process at a time may write.
    File,
    /// A server, which several instances may work with.
    Server,
    /// Not at all.
    Service,
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
        let limit = configuration.service.request_timeout + LONGEST_SILENCE;
        Ok(Self {
            service: rest_client(configuration, &invocation.environment, limit)?,
            opener: StoreOpener::outside(invocation, service_key, configuration),
        })
    }

    fn reach(&self) -> Reach {
        match self.opener.database.kind.to_lowercase().as_str() {
            kind if is_file(kind) => Reach::File,
            "postgres" => Reach::Server,
            _ => Reach::Service,
        }
    }

    fn refused(&self, source: CallError) -> AdminError {
        let address = self.service.to_string();
        match source {
            CallError::Certificate { .. } => AdminError::Untrusted { address, source },
            _ => AdminError::Service { address, source },
        }
    }

    /// The store for looking only; none when only its service can reach it, which is there then.
    ///
    /// # Errors
    /// [`AdminError::Store`], [`AdminError::NotRunning`].
    pub async fn view(&self) -> Result<Option<StoreView>, AdminError> {
        match self.reach() {
            Reach::Service => self.find_service().await.map(|()| None),
            Reach::File | Reach::Server => Ok(Some(StoreView::of(&self.opener).await?)),
        }
    }

    /// The store of a stopped service, open for writing; none when a service has it.
    async fn stopped(&self) -> Result<Option<Opened>, AdminError> {
        match self.reach() {
            Reach::File => match self.opener.open().await {
                Err(StoreError::Locked { .. }) => Ok(None),
                opened => Ok(Some(opened?)),
            },
            Reach::Server if self.is_heard().await? => Ok(None),
            Reach::Server => Ok(Some(self.opener.open().await?)),
            Reach::Service => Ok(None),
        }
    }

    /// Whether an instance works with the tables of a server. One that was killed seems to for some seconds.
    async fn is_heard(&self) -> Result<bool, AdminError> {
        let until = Instant::now() + LONGEST_HEARD;
        let view = StoreView::of(&self.opener).await?;
        let is_heard = loop {
            if !view.in_use().await? {
                break false;
            }
            if Instant::now() >= until || self.find_service().await.is_ok() {
                break true;
            }
            sleep(BETWEEN_LOOKS).await;
        };
        view.close().await;
        Ok(is_heard)
    }

    /// Whether who answers is the service: another one has another store.
    async fn find_service(&self) -> Result<(), AdminError> {
        let answer: Result<Pong, _> = self.service.get(&["ping"], &[]).await;
        let found = match answer {
            Ok(pong) => pong.service_name,
            Err(source @ (CallError::NoAnswer { .. } | CallError::TimedOut { .. })) => {
                let address = self.service.to_string();
                return Err(match self.reach() {
                    Reach::Service => AdminError::NotRunning {
                        kind: self.opener.database.kind.clone(),
                        address,
                        source,
                    },
                    Reach::File | Reach::Server => AdminError::Elsewhere { address, source },
                });
            }
            Err(error) => return Err(self.refused(error)),
        };
        match found == self.opener.service_key.as_str() {
            true => Ok(()),
            false => Err(AdminError::AnotherService {
                address: self.service.to_string(),
                found,
            }),
        }
    }

    /// How many objects an order is about.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn count(&self, order: &AdminOrder) -> Result<Count, AdminError> {
        if let Some(view) = self.view().await? {
            let groups = view.survey(order.filter.clone()).await?;
            view.close().await;
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
        if let Some(view) = self.view().await? {
            let (place, exists) = (view.place().to_owned(), view.exists());
            view.close().await;
            if !exists {
                let problem = format!("there is no store at {place}: nothing has been stored yet");
                return Err(StoreError::Configuration(problem).into());
            }
        }
        match self.stopped().await? {
            Some(opened) => carry_out(opened, order, cancelled, tell).await,
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
        self.find_service().await?;
        let run = Followed::begin(&self.service, order.action, body_of(order))
            .await
            .map_err(|error| self.refused(error))?;
        Ok(run.follow(order.patience, cancelled, tell).await)
    }

    /// A page of the error collection of a service whose store only that can reach, as `edgehold::record` writes it, and where the
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

    /// Puts objects into the error collection of a stopped service, page by page until one is empty; answers how many were
    /// not there yet. An object that is there with the same content stays as it is.
    ///
    /// # Errors
    /// [`AdminError::Running`], [`AdminError::Store`] for the first object that cannot be kept, and what `next_page` says.
    /// The pages before it have been kept.
    pub async fn bring_back<E: From<AdminError>>(
        &self,
        mut next_page: impl FnMut() -> Result<Vec<StoredObject>, E>,
    ) -> Result<u64, E> {
        if self.reach() == Reach::Service {
            return Err(AdminError::NoImport(self.opener.database.kind.clone()).into());
        }
        let opened = self.stopped().await?.ok_or(AdminError::Running)?;
        let failed = |error| E::from(AdminError::Store(error));
        opened
            .work(async |queue| {
                let before = queue.stats().await.map_err(failed)?.error.objects;
                loop {
                    let page = next_page()?;
                    if page.is_empty() {
                        break;
                    }
                    for answer in queue.append(&page, Room::default()).await {
                        answer.map_err(failed)?;
                    }
                }
                let after = queue.stats().await.map_err(failed)?.error.objects;
                Ok(after.saturating_sub(before))
            })
            .await
    }
}

/// Of an answer to a ping, who answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pong {
    service_name: String,
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

/// In the store of a stopped service.
async fn carry_out(
    opened: Opened,
    order: &AdminOrder,
    cancelled: impl Future<Output = ()>,
    mut tell: impl FnMut(&RunBody),
) -> Result<RunBody, AdminError> {
    let (_state, handle) = watch::channel(StoreState::Open(opened.queue()));
    let (errors, runs) = ErrorCollection::new(handle, Arc::new(Books::default()), Arc::new(Wake::default()));
    let (shutdown, signal) = Shutdown::new();
    let followed = async {
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
    let followed = async {
        let outcome: Result<RunBody, AdminError> = followed.await;
        shutdown.trigger();
        outcome
    };
    let work = async |_: &dyn RetryQueue| tokio::join!(followed, runs.run(signal)).0;
    opened.work(work).await
}
