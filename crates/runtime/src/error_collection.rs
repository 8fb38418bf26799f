//! The error collection of a service: looking at it, and the runs that re-drive or purge it.
//!
//! Owns the runs. Does not own what leaving the collection does to an object (`store::RetryQueue`), nor what a re-driven one
//! meets next (the retry loop).
//!
//! ```text
//!   begin ──▶ running ──▶ done         nothing that is meant is left
//!                │ ────▶ cancelled     somebody asked for it
//!                └─────▶ interrupted   the service or its store ended
//! ```
//!
//! *What is meant* is fixed when a run begins: objects that were given up before that moment ([`ErrorRun::filter`] says
//! which). A run goes through them once, by ascending `seq`, page by page, each page in one transaction of the store. So an
//! object is never in two places, one that fails again is not tried for ever by the same run, and a run that was
//! interrupted (a kill -9 included) is gone on with by beginning one with the same filter: what it had moved is no part
//! of it any more. Nothing of a run is stored.

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroU32,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use edgehold_core::{
    ErrorReason, ObjectState, Shutdown, ShutdownSignal, StoredObject, StoredObjectId, Timestamp,
};
use edgehold_store::{
    ErrorGroup, ErrorPage, ListRequest, ObjectFilter, Page, RetryQueue, StateCount, StoreError,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use uuid::Uuid;

use crate::{Books, DropReason, QueueHandle, Wake, clock::now, keeper::BACKOFF};

/// Runs at the same time.
const MAX_RUNNING: usize = 4;
/// Runs that are remembered once they have ended.
const MAX_ENDED: usize = 32;
/// Objects in one transaction: small enough that appends hardly wait behind it.
const PAGE: usize = 500;
/// A run with a rate has this many pages a second, at most.
const PAGES_PER_SECOND: u32 = 10;

/// What a run does to the objects it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// They are tried again, with a fresh count.
    Redrive,
    /// They are removed for good.
    Purge,
}

impl ErrorAction {
    /// The name in logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Purge => "purge",
        }
    }
}

/// The identity of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunId(Uuid);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RunId {
    type Err = edgehold_core::InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<StoredObjectId>().map(|id| Self(id.as_uuid()))
    }
}

/// Asks for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorOrder {
    /// What is to be done.
    pub action: ErrorAction,
    /// To which objects. Without `ended_before`: to those that are there now; with the one an earlier run had, it goes on
    /// where that one ended.
    pub filter: ObjectFilter,
    /// At most so many objects a second; none = as fast as the store does it.
    pub rate: Option<NonZeroU32>,
    /// Who asks, for the log.
    pub by: String,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It goes on.
    Running,
    /// Nothing that is meant is left.
    Done,
    /// It was asked to end.
    Cancelled,
    /// The service or its store ended before it.
    Interrupted,
}

impl RunState {
    /// The name in logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A run, and how far it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorRun {
    /// Its identity.
    pub id: RunId,
    /// What it does.
    pub action: ErrorAction,
    /// To which objects; with `ended_before`, so that a run with this filter goes on with this one.
    pub filter: ObjectFilter,
    /// At most so many a second.
    pub rate: Option<NonZeroU32>,
    /// How it stands.
    pub state: RunState,
    /// What was meant when it began.
    pub meant: StateCount,
    /// What it has been done to.
    pub done: StateCount,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it does not get on.
    pub problem: Option<String>,
}

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// The store does not answer, or is not open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are as many runs as there may be at the same time.
    #[error("{MAX_RUNNING} runs are going on already; wait for one of them or cancel it")]
    Busy,
    /// The service is ending.
    #[error("the service is ending")]
    Ending,
}

struct Entry {
    status: watch::Receiver<ErrorRun>,
    cancel: Arc<Shutdown>,
}

/// A run on its way to [`ErrorRuns`].
struct Begun {
    queue: Arc<dyn RetryQueue>,
    status: watch::Sender<ErrorRun>,
    cancelled: ShutdownSignal,
}

/// The error collection. Cheap to clone.
#[derive(Clone)]
pub struct ErrorCollection {
    queue: QueueHandle,
    begun: mpsc::Sender<Begun>,
    entries: Arc<Mutex<VecDeque<Entry>>>,
}

/// Carries out what [`ErrorCollection::begin`] begins.
pub struct ErrorRuns {
    begun: mpsc::Receiver<Begun>,
    books: Arc<Books>,
    wake: Arc<Wake>,
}

impl ErrorCollection {
    /// The collection of the store behind this handle, and what is to be run for it.
    pub fn new(queue: QueueHandle, books: Arc<Books>, wake: Arc<Wake>) -> (Self, ErrorRuns) {
        let (sender, begun) = mpsc::channel(MAX_RUNNING);
        let collection = Self {
            queue,
            begun: sender,
            entries: Arc::default(),
        };
        (collection, ErrorRuns { begun, books, wake })
    }

    fn queue(&self) -> Result<Arc<dyn RetryQueue>, StoreError> {
        self.queue
            .borrow()
            .queue()
            .cloned()
            .ok_or_else(|| StoreError::Unavailable {
                reason: "the store is not open: Store and Forward is off, or it is still being opened"
                    .to_owned(),
                source: None,
            })
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page of it, by ascending `seq`, behind `after_seq` (0 begins).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also while the store is not open.
    pub async fn list(&self, filter: ObjectFilter, after_seq: i64, limit: usize) -> Result<Page, StoreError> {
        let request = ListRequest {
            states: vec![ObjectState::Error],
            filter,
            after_seq,
            limit,
        };
        self.queue()?.list(request).await
    }

    /// One object of it.
    ///
    /// # Errors
    /// As [`ErrorCollection::list`].
    pub async fn find(&self, id: StoredObjectId) -> Result<Option<StoredObject>, StoreError> {
        let page = self.list(ObjectFilter::ids([id]), 0, 1).await?;
        Ok(page.objects.into_iter().next())
    }

    /// What a run with this filter would be about, by pipeline and reason: the dry run. Counts what cannot be read too; only
    /// a re-drive leaves that out, unless the filter names it ([`meant_by`]).
    ///
    /// # Errors
    /// As [`ErrorCollection::list`].
    pub async fn survey(&self, filter: ObjectFilter) -> Result<Vec<ErrorGroup>, StoreError> {
        self.queue()?.survey(filter).await
    }

    /// Begins a run and says so in the log (`audit`).
    ///
    /// # Errors
    /// [`BeginError`]; nothing has been done then.
    pub async fn begin(&self, order: ErrorOrder) -> Result<ErrorRun, BeginError> {
        let queue = self.queue()?;
        let began_at = now();
        let groups = queue.survey(order.filter.clone()).await?;
        // The clock may have been set back since some of them were given up.
        let last = groups.iter().map(|group| group.ended.1).max().unwrap_or_default();
        let mut filter = order.filter;
        filter
            .ended_before
            .get_or_insert(began_at.max(last.saturating_add(Duration::from_millis(1))));
        let run = ErrorRun {
            id: RunId(Uuid::now_v7()),
            action: order.action,
            meant: meant_by(order.action, &filter, &groups),
            filter,
            rate: order.rate,
            state: RunState::Running,
            done: StateCount::default(),
            began_at,
            ended_at: None,
            problem: None,
        };
        let (status, follow) = watch::channel(run.clone());
        let (cancel, cancelled) = Shutdown::new();
        {
            let mut entries = self.entries();
            let is_running = |entry: &Entry| entry.status.borrow().state == RunState::Running;
            if entries.iter().filter(|entry| is_running(entry)).count() >= MAX_RUNNING {
                return Err(BeginError::Busy);
            }
            let begun = Begun {
                queue,
                status,
                cancelled,
            };
            self.begun.try_send(begun).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => BeginError::Busy,
                mpsc::error::TrySendError::Closed(_) => BeginError::Ending,
            })?;
            entries.push_back(Entry {
                status: follow,
                cancel: Arc::new(cancel),
            });
            while entries.len() > MAX_ENDED {
                let Some(ended) = entries.iter().position(|entry| !is_running(entry)) else {
                    break;
                };
                entries.remove(ended);
            }
        }
        tracing::info!(
            audit = run.action.as_str(), by = %order.by, run_id = %run.id, objects = run.meant.objects,
            filter = %run.filter, rate = run.rate.map(NonZeroU32::get),
            "{} of the error collection begins", run.action.as_str()
        );
        Ok(run)
    }

    /// The runs, oldest first: those that go on and the last ones that have ended.
    pub fn runs(&self) -> Vec<ErrorRun> {
        let entries = self.entries();
        entries
            .iter()
            .map(|entry| entry.status.borrow().clone())
            .collect()
    }

    /// How a run stands; none when nobody knows of it (any more).
    pub fn run(&self, id: RunId) -> Option<ErrorRun> {
        self.runs().into_iter().find(|run| run.id == id)
    }

    /// Follows a run; none when nobody knows of it (any more).
    pub fn follow(&self, id: RunId) -> Option<watch::Receiver<ErrorRun>> {
        let entries = self.entries();
        let entry = entries.iter().find(|entry| entry.status.borrow().id == id)?;
        Some(entry.status.clone())
    }

    /// Waits until a run has ended.
    pub async fn ended(&self, id: RunId) -> Option<ErrorRun> {
        let mut follow = self.follow(id)?;
        // An error means that it will not get on, which is the end as well.
        let _ = follow.wait_for(|run| run.state != RunState::Running).await;
        let run = follow.borrow().clone();
        Some(run)
    }

    /// Asks a run to end after the page it is at; answers how it stands. One that has ended stays as it is. `by` asks, for
    /// the log.
    pub fn cancel(&self, id: RunId, by: &str) -> Option<ErrorRun> {
        let entries = self.entries();
        let entry = entries.iter().find(|entry| entry.status.borrow().id == id)?;
        let run = entry.status.borrow().clone();
        if run.state == RunState::Running {
            entry.cancel.trigger();
            tracing::info!(
                audit = "cancel", %by, run_id = %id, objects = run.done.objects,
                "{} of the error collection is cancelled", run.action.as_str()
            );
        }
        Some(run)
    }
}

/// How many of the objects of a survey with this filter such a run is about.
pub fn meant_by(action: ErrorAction, filter: &ObjectFilter, groups: &[ErrorGroup]) -> StateCount {
    let unreadable = action == ErrorAction::Redrive && filter.reasons.is_empty();
    let groups = groups
        .iter()
        .filter(|group| !unreadable || group.reason != Some(ErrorReason::Corrupt));
    groups.fold(StateCount::default(), |sum, group| StateCount {
        objects: sum.objects + group.count.objects,
        payload_bytes: sum.payload_bytes + group.count.payload_bytes,
    })
}

impl ErrorRuns {
    /// Works until `shutdown`, then until every run has ended where it was.
    pub async fn run(mut self, mut shutdown: ShutdownSignal) {
        let mut running = FuturesUnordered::new();
        loop {
            // Cancel-safe: a run goes on where it was with the next turn.
            tokio::select! {
                () = shutdown.recv() => break,
                Some(begun) = self.begun.recv() => {
                    let (books, wake) = (self.books.clone(), self.wake.clone());
                    running.push(carry_out(begun, books, wake, shutdown.clone()));
                }
                Some(()) = running.next(), if !running.is_empty() => {}
                else => break,
            }
        }
        self.begun.close();
        while let Ok(begun) = self.begun.try_recv() {
            end(&begun.status, RunState::Interrupted);
        }
        while running.next().await.is_some() {}
    }
}

async fn carry_out(begun: Begun, books: Arc<Books>, wake: Arc<Wake>, mut shutdown: ShutdownSignal) {
    let Begun {
        queue,
        status,
        mut cancelled,
    } = begun;
    let run = status.borrow().clone();
    let limit = run.rate.map_or(PAGE, |rate| {
        usize::try_from(rate.get() / PAGES_PER_SECOND)
            .unwrap_or(PAGE)
            .clamp(1, PAGE)
    });
    let mut page = ErrorPage {
        filter: run.filter,
        after_seq: 0,
        limit,
    };
    let mut backoff = BACKOFF;
    let mut next_page = Instant::now();
    let state = loop {
        // Cancel-safe, all of it: nothing has been asked of the store.
        tokio::select! {
            biased;
            () = shutdown.recv() => break RunState::Interrupted,
            () = cancelled.recv() => break RunState::Cancelled,
            () = tokio::time::sleep_until(next_page) => {}
        }
        let moved = match run.action {
            ErrorAction::Redrive => queue.redrive(page.clone()).await,
            ErrorAction::Purge => queue.purge(page.clone()).await,
        };
        let moved = match moved {
            Ok(moved) => moved,
            Err(StoreError::Closed) => break RunState::Interrupted,
            Err(error) => {
                status.send_modify(|run| run.problem = Some(error.to_string()));
                next_page = Instant::now() + backoff.next_pause();
                continue;
            }
        };
        backoff.reset();
        match run.action {
            ErrorAction::Redrive => {
                books.redriven(moved.objects);
                wake.look();
            }
            ErrorAction::Purge => books.dropped_many(DropReason::Purged, moved.objects),
        }
        status.send_modify(|run| {
            run.problem = None;
            run.done.objects += moved.objects;
            run.done.payload_bytes += moved.payload_bytes;
        });
        let Some(last) = moved.last_seq else {
            break RunState::Done;
        };
        page.after_seq = last;
        if let Some(rate) = run.rate {
            let objects = u32::try_from(moved.objects).unwrap_or(u32::MAX);
            // What was missed while the store did not answer is not made up for.
            next_page = next_page.max(Instant::now()) + Duration::from_secs(objects.into()) / rate.get();
        }
        // A store that never waits would leave nobody else a turn.
        tokio::task::consume_budget().await;
    };
    end(&status, state);
}

fn end(status: &watch::Sender<ErrorRun>, state: RunState) {
    status.send_modify(|run| {
        run.state = state;
        run.ended_at = Some(now());
    });
    let run = status.borrow();
    tracing::info!(
        run_id = %run.id, objects = run.done.objects, meant = run.meant.objects, filter = %run.filter,
        "{} of the error collection is {}", run.action.as_str(), run.state.as_str()
    );
}
