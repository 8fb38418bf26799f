//! One connection to a server: made, kept, told of.
//!
//! async-nats connects again by itself and subscribes again then, always as who it was made for. Owned here are how often
//! it tries, what is said about it, following how the connection stands, and noticing that a secret was renewed: then
//! there has to be another connection ([`Link::renewed`]).

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event};
use edgehold_core::{ExponentialBackoff, Outage};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use crate::{Access, ConnectionSettings, Login};

/// How many messages the library may keep for a subscription that is not taken from at this moment. What is over it is
/// dropped; whoever subscribes takes everything at once.
const SUBSCRIPTION_CAPACITY: usize = 4096;

/// With it a server that is back is found within three seconds.
const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// How a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) connected: bool,
    /// How many connections there have been.
    pub(crate) epoch: u64,
}

/// A connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) standing: watch::Receiver<Standing>,
    /// Messages the library had no room for.
    pub(crate) overrun: Arc<AtomicU64>,
    memory: Arc<Mutex<Memory>>,
    /// Changes whenever the connection is lost or an attempt to make one has failed.
    failures: watch::Receiver<u64>,
    settings: ConnectionSettings,
    purpose: &'static str,
    /// As whom it was made.
    access: Arc<Access>,
}

/// What is remembered between two events.
#[derive(Debug, Default)]
struct Memory {
    outage: Outage,
    since: Option<Instant>,
    /// Why there is no connection.
    trouble: Option<String>,
}

/// Begins to connect as soon as it is known as whom, and goes on until every clone of the client is dropped. Waits for no
/// connection. Cancel-safe.
pub(crate) async fn connect(settings: &ConnectionSettings, purpose: &'static str) -> Result<Link, String> {
    let mut outage = Outage::default();
    loop {
        let error = match settings.access.current().await {
            Ok(access) => return connect_as(settings, purpose, access).await,
            Err(error) => error,
        };
        if outage.begins(&error.to_string(), Duration::ZERO) {
            let server = settings.address();
            warn!(%server, purpose, "as whom to connect to NATS is not known yet: {error}");
        }
        sleep(outage.delay(RandomState::new().hash_one(()))).await;
    }
}

async fn connect_as(
    settings: &ConnectionSettings,
    purpose: &'static str,
    access: Arc<Access>,
) -> Result<Link, String> {
    let server = settings.address();
    let (sender, standing) = watch::channel(Standing::default());
    let overrun = Arc::new(AtomicU64::new(0));
    let counter = overrun.clone();
    let memory = Arc::new(Mutex::new(Memory::default()));
    let (failure, failures) = watch::channel(0_u64);
    let of_events = memory.clone();
    let mut options = ConnectOptions::new()
        .retry_on_initial_connect()
        .max_reconnects(None)
        .ignore_discovered_servers()
        .connection_timeout(settings.connect_timeout)
        .request_timeout(Some(settings.connect_timeout))
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .reconnect_delay_callback(delay)
        .event_callback(move |event| {
            if matches!(event, Event::SlowConsumer(_)) {
                counter.fetch_add(1, Ordering::Relaxed);
            } else {
                let mut memory = of_events.lock().unwrap_or_else(PoisonError::into_inner);
                tell(&event, &server, purpose, &mut memory, &sender);
                if matches!(
                    event,
                    Event::Disconnected | Event::ClientError(_) | Event::ServerError(_)
                ) {
                    failure.send_modify(|failures| *failures += 1);
                }
            }
            std::future::ready(())
        });
    if !settings.keep_alive.is_zero() {
        options = options.ping_interval(settings.keep_alive);
    }
    if !settings.client_name.is_empty() {
        options = options.name(&settings.client_name);
    }
    if let Some(tls) = &access.tls {
        options = options.require_tls(true).tls_client_config(tls.as_ref().clone());
    }
    options = match &access.login {
        None => options,
        Some(Login::Password { username, password }) => {
            options.user_and_password(username.clone(), password.expose().to_owned())
        }
        Some(Login::NKeySeed(seed)) => options.nkey(seed.expose().trim().to_owned()),
        Some(Login::Credentials(text)) => options
            .credentials(text.expose())
            .map_err(|error| format!("the credentials cannot be used: {error}"))?,
    };
    let client = options.connect(settings.address()).await;
    Ok(Link {
        client: client.map_err(|error| error.to_string())?,
        standing,
        overrun,
        memory,
        failures,
        settings: settings.clone(),
        purpose,
        access,
    })
}

/// How long to wait before the next of so many attempts in a row; before the first, not at all.
fn delay(attempts: usize) -> Duration {
    match attempts.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => BACKOFF
            .after(u32::try_from(doublings).unwrap_or(u32::MAX))
            .jittered_pause(RandomState::new().hash_one(())),
    }
}

fn tell(
    event: &Event,
    server: &str,
    purpose: &'static str,
    memory: &mut Memory,
    standing: &watch::Sender<Standing>,
) {
    match event {
        Event::Connected => {
            memory.since = Some(Instant::now());
            memory.trouble = None;
            standing.send_modify(|standing| {
                standing.connected = true;
                standing.epoch += 1;
            });
            if memory.outage.ends() {
                info!(%server, purpose, "connected to NATS");
            }
        }
        Event::Disconnected => {
            standing.send_modify(|standing| standing.connected = false);
            let life = memory
                .since
                .take()
                .map_or(Duration::ZERO, |since| since.elapsed());
            if memory.outage.begins("closed", life) {
                warn!(%server, purpose, "lost the connection to NATS");
            }
        }
        Event::ClientError(error) => {
            let text = error.to_string();
            memory.trouble = Some(text.clone());
            match memory.outage.begins(&text, Duration::ZERO) {
                true => warn!(%server, purpose, error = text, "cannot connect to NATS yet"),
                false => debug!(%server, purpose, error = text, "still no connection to NATS"),
            }
        }
        Event::ServerError(error) => warn!(%server, purpose, %error, "NATS refuses"),
        event => debug!(%server, purpose, ?event, "NATS says"),
    }
}

impl Link {
    /// Why there is no connection, as far as the library tells.
    pub(crate) fn trouble(&self) -> Option<String> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.trouble.clone()
    }

    /// Returns when there is no connection and it is to be made as somebody else than it is tried as: with what. Of no use
    /// is whatever nobody can connect as. Cancel-safe.
    pub(crate) async fn renewed(&self) -> Self {
        let mut failures = self.failures.clone();
        let mut refused = None::<Arc<Access>>;
        loop {
            // Also what has failed before: marks it as seen.
            let failed = *failures.borrow_and_update() > 0;
            if failed
                && !self.standing.borrow().connected
                && let Ok(access) = self.settings.access.current().await
                && !Arc::ptr_eq(&access, &self.access)
                && !refused
                    .as_ref()
                    .is_some_and(|refused| Arc::ptr_eq(refused, &access))
            {
                match connect_as(&self.settings, self.purpose, access.clone()).await {
                    Ok(link) => {
                        info!(server = %self.settings.address(), purpose = self.purpose, "connecting to NATS with a renewed secret");
                        return link;
                    }
                    Err(error) => {
                        warn!(server = %self.settings.address(), purpose = self.purpose, "the renewed secret is of no use: {error}")
                    }
                }
                refused = Some(access);
            }
            if failures.changed().await.is_err() {
                // The library has ended, which it does only when nobody needs it any more.
                std::future::pending().await
            }
        }
    }

    /// Whether this one was made as the same.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.access, &other.access)
    }

    /// Waits for a connection; answers how it stands then. Cancel-safe.
    pub(crate) async fn connected(&mut self) -> Standing {
        loop {
            let standing = *self.standing.borrow_and_update();
            if standing.connected {
                return standing;
            }
            if self.standing.changed().await.is_err() {
                // The library has ended, which it does only when nobody needs it any more.
                std::future::pending().await
            }
        }
    }

    /// Waits until the connection that stood so does not stand any more. Cancel-safe.
    pub(crate) async fn lost(&mut self, stood: Standing) {
        if self
            .standing
            .wait_for(|standing| *standing != stood)
            .await
            .is_err()
        {
            std::future::pending().await
        }
    }
}
