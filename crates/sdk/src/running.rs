//! A running service: its tasks, and the order in which they end.
//!
//! Two groups. *Work* takes deliveries in and gets rid of them: trigger, dispatch, retry loop. *Support* is what work leans
//! on: live settings and their provider, the store, REST, the connections responses and exports go by, metrics, the counts in
//! the log. Ending runs downstream:
//!
//! 1. deregister ([`crate::membership`]); the trigger stops receiving, the retry loop stops claiming;
//! 2. deliveries in hand are exported or stored; what is still being sent when most of the time is gone is stored as it is;
//! 3. REST, which has answered until now, finishes the requests in hand; what waits for the background is published;
//! 4. the store is closed, then support ends;
//! 5. what is still running after the grace time is named and aborted.

use std::{sync::Arc, time::Duration};

use edgehold_api::Api;
use edgehold_clients::VersionCheck;
use edgehold_config::ConfigurationProvider;
use edgehold_core::{Shutdown, Trigger};
use edgehold_export::mqtt::ConnectionRunner;
use edgehold_runtime::{
    BooksSnapshot, Dispatch, Drain, ErrorCollection, ErrorRuns, Housekeeping, QueueHandle, RetryLoop,
    StoreState, Tasks,
};
use edgehold_store::StoreStats;
use edgehold_telemetry::Reporter;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    durability::Durability,
    live::LiveSettings,
    logging::ServiceLog,
    membership::Membership,
    store::{Opened, StoreOpener},
    trigger::Companion,
};

/// Deliveries between trigger and dispatch. Small: the byte budget is what bounds memory.
const DELIVERY_CHANNEL_CAPACITY: usize = 64;
/// Everything a running service is made of.
pub(crate) struct Parts {
    pub(crate) startup_message: String,
    pub(crate) live: LiveSettings,
    pub(crate) provider: Option<Arc<dyn ConfigurationProvider>>,
    pub(crate) trigger: Box<dyn Trigger>,
    /// Follows sections outside `Writable`, where there are some and a provider.
    pub(crate) sections_elsewhere: Option<Companion>,
    pub(crate) companions: Vec<Companion>,
    /// What publishes in the background, over one of these connections.
    pub(crate) background: Vec<Companion>,
    /// Told as soon as the end begins.
    pub(crate) ending: Shutdown,
    pub(crate) stop_requested: watch::Receiver<bool>,
    pub(crate) durability: Durability,
    pub(crate) export_connections: ConnectionRunner,
    pub(crate) opener: StoreOpener,
    pub(crate) opened: Option<Opened>,
    pub(crate) membership: Option<Membership>,
    pub(crate) version_check: Option<VersionCheck>,
    pub(crate) listener: TcpListener,
    pub(crate) log: ServiceLog,
    pub(crate) store_state: watch::Sender<StoreState>,
    pub(crate) queue: QueueHandle,
    pub(crate) error_runs: ErrorRuns,
    pub(crate) drain: Arc<Drain>,
    pub(crate) api: Api,
    pub(crate) dispatch: Dispatch,
    pub(crate) reporter: Reporter,
}

/// A running service. Dropping it aborts its tasks; [`Running::drain`] ends it well.
pub struct Running {
    work: Tasks,
    rest: Tasks,
    background: Tasks,
    support: Tasks,
    registration: Tasks,
    stop_work: Shutdown,
    hurry: Shutdown,
    stop_rest: Shutdown,
    stop_background: Shutdown,
    stop_support: Shutdown,
    stop_registration: Shutdown,
    ending: Shutdown,
    stop_requested: watch::Receiver<bool>,
    dispatch: Dispatch,
    queue: QueueHandle,
    errors: ErrorCollection,
    fatal: oneshot::Receiver<String>,
    log: ServiceLog,
}

/// What a running service has done and holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunningStatus {
    /// What became of every run.
    pub books: BooksSnapshot,
    /// What the store holds; none while it is not open.
    pub store: Option<StoreStats>,
}

impl Running {
    pub(crate) fn start(parts: Parts) -> Self {
        let (stop_work, work_signal) = Shutdown::new();
        let (hurry, hurry_signal) = Shutdown::new();
        let (stop_rest, rest_signal) = Shutdown::new();
        let (stop_support, support_signal) = Shutdown::new();
        let (stop_registration, registration_signal) = Shutdown::new();
        let (fatal_sender, fatal) = oneshot::channel();
        let mut support = Tasks::default();
        let mut rest = Tasks::default();
        let mut work = Tasks::default();
        let mut registration = Tasks::default();

        support.spawn("log", parts.log.0.clone().write_counts(support_signal.clone()));
        let (snapshot_sender, snapshots) = watch::channel(None);
        if let Some(provider) = parts.provider {
            support.spawn(
                "configuration provider",
                provider.watch(snapshot_sender, support_signal.clone()),
            );
        }
        if let Some(sections) = parts.sections_elsewhere {
            support.spawn("sections outside Writable", sections(support_signal.clone()));
        }
        support.spawn("live settings", parts.live.run(snapshots, support_signal.clone()));
        support.spawn(
            "store",
            parts.opener.run(
                parts.opened,
                parts.dispatch.settings.clone(),
                parts.store_state,
                parts.dispatch.books.clone(),
                support_signal.clone(),
            ),
        );
        let durability = parts.durability;
        support.spawn(
            "durability",
            durability.follow(parts.dispatch.settings.clone(), support_signal.clone()),
        );
        let housekeeping = Housekeeping {
            settings: parts.dispatch.settings.clone(),
            queue: parts.queue.clone(),
            books: parts.dispatch.books.clone(),
            drain: parts.drain,
        };
        support.spawn("housekeeping", housekeeping.run(support_signal.clone()));
        if let Some(check) = parts.version_check {
            support.spawn("version check", check.run(support_signal.clone()));
        }
        let errors = parts.api.errors.clone();
        rest.spawn("REST interface", parts.api.serve(parts.listener, rest_signal));
        let secrets = parts.dispatch.identity.secrets.clone();
        support.spawn(
            "export connections",
            parts.export_connections.run(secrets, support_signal.clone()),
        );
        for companion in parts.companions {
            support.spawn("message bus connection", companion(support_signal.clone()));
        }
        support.spawn("metrics", parts.reporter.run(support_signal.clone()));
        let (stop_background, background_signal) = Shutdown::new();
        let mut background = Tasks::default();
        for companion in parts.background {
            background.spawn("background publisher", companion(background_signal.clone()));
        }
        if let Some(membership) = parts.membership {
            registration.spawn("registration", membership.run(registration_signal));
        }

        let (sender, deliveries) = mpsc::channel(DELIVERY_CHANNEL_CAPACITY);
        // As long as this one is there dispatch goes on, so that the trigger's own reason is the one that is told.
        let keeps_dispatch = sender.clone();
        let trigger = parts.trigger.run(sender, work_signal.clone());
        let mut told_to_end = work_signal.clone();
        work.spawn("trigger", async move {
            if let Err(error) = trigger.await {
                // The receiver is gone only when the service is ending anyway.
                let _ = fatal_sender.send(error.to_string());
                told_to_end.recv().await;
            }
            drop(keeps_dispatch);
        });
        work.spawn(
            "dispatch",
            parts.dispatch.clone().run(deliveries, hurry_signal.clone()),
        );
        let retry_loop = RetryLoop {
            dispatch: parts.dispatch.clone(),
            queue: parts.queue.clone(),
        };
        work.spawn("error collection", parts.error_runs.run(work_signal.clone()));
        work.spawn("retry loop", retry_loop.run(work_signal, hurry_signal));
        if !parts.startup_message.is_empty() {
            tracing::info!("{}", parts.startup_message);
        }
        Self {
            work,
            rest,
            background,
            support,
            registration,
            stop_work,
            hurry,
            stop_rest,
            stop_background,
            stop_support,
            stop_registration,
            ending: parts.ending,
            stop_requested: parts.stop_requested,
            dispatch: parts.dispatch,
            queue: parts.queue,
            errors,
            fatal,
            log: parts.log,
        }
    }

    /// Returns when the service cannot go on, with the reason. Pends as long as all is well. Cancel-safe.
    pub async fn ended_early(&mut self) -> String {
        tokio::select! {
            early = self.work.early_end() => early.to_string(),
            early = self.rest.early_end() => early.to_string(),
            early = self.support.early_end() => early.to_string(),
            early = self.registration.early_end() => early.to_string(),
            early = self.background.early_end() => early.to_string(),
            Ok(reason) = &mut self.fatal => reason,
        }
    }

    /// Returns when code of the service has asked it to stop ([`StopHandle`](crate::StopHandle)). Holds nothing of it.
    pub fn stop_requested(&self) -> impl Future<Output = ()> + use<> {
        let mut requested = self.stop_requested.clone();
        async move {
            if requested.wait_for(|requested| *requested).await.is_err() {
                // Nobody is left who could ask.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What it has done and holds.
    pub async fn status(&self) -> RunningStatus {
        let queue = self.queue.borrow().queue().cloned();
        let store = match queue {
            Some(queue) => queue.stats().await.ok(),
            None => None,
        };
        RunningStatus {
            books: self.dispatch.books.snapshot(),
            store,
        }
    }

    /// The error collection.
    pub fn error_collection(&self) -> &ErrorCollection {
        &self.errors
    }

    /// Ends the service in order, within `grace`.
    pub async fn drain(self, grace: Duration) {
        let ends_at = Instant::now() + grace;
        self.ending.trigger();
        self.stop_registration.trigger();
        let mut late = self.registration.drain(grace / 8).await;
        self.stop_work.trigger();
        let hurry = self.hurry;
        let work = self.work.drain(grace * 3 / 4);
        tokio::pin!(work);
        let aborted = tokio::select! {
            aborted = &mut work => aborted,
            () = tokio::time::sleep(grace / 2) => {
                tracing::warn!("exports are still in flight, storing what they send");
                hurry.trigger();
                work.await
            }
        };
        self.stop_rest.trigger();
        late.extend(self.rest.drain(grace / 8).await);
        // Nothing runs any more that could hand over a message, and the connections still stand.
        self.stop_background.trigger();
        let left = ends_at.saturating_duration_since(Instant::now());
        late.extend(self.background.drain((left / 2).min(grace / 8)).await);
        let queue = self.queue.borrow().queue().cloned();
        if let Some(queue) = queue {
            queue.close().await;
        }
        self.stop_support.trigger();
        late.extend(self.support.drain(grace / 8).await);
        late.extend(aborted);
        // Before the line that everybody looks for as the last one.
        self.log.0.write_all_counts();
        if late.is_empty() {
            tracing::info!("the service has ended");
        } else {
            tracing::error!(
                tasks = late.join(", "),
                "the service has ended with tasks still running"
            );
        }
    }
}
