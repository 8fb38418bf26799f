//! The connections of all `MQTTExport` functions: one for each broker, client id and way to prove who we are.
//!
//! Owns which functions share a connection, when one is made and when it ends. Does not own the connection itself
//! ([`Publication`]), and spawns nothing: [`ConnectionRunner::run`] lives in a task of the service, and all connections
//! live in it.
//!
//! ```text
//!              first message, or PreConnect           last function gone, or replaced, or the service ends
//!   unmade ─────────────────────────────────▶ made ─────────────────────────────────────────────────────▶ ended
//! ```
//!
//! A function that was built later and asks for the same connection with other settings (keep-alive, time limits, will)
//! replaces it with its first message; one that was built earlier then uses the new one. So a changed parameter takes
//! effect, two functions never fight over a client id, and a change that was refused changes nothing. A secret that has
//! changed replaces it too, with the next message: a right that was taken away is not used any longer than that.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use edgehold_core::{BoxFuture, Destination, Secret, SecretError, SecretProvider, Shutdown, ShutdownSignal};
use edgehold_mqtt::{
    AuthMode, BrokerAddress, ConnectionSettings, Identity, InvalidConnectionSettings, LastWill, Publication,
    PublishError, Publisher, Rules,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{select, sync::mpsc};

/// Connections that were asked for and have not begun yet.
const CHANNEL_CAPACITY: usize = 64;

/// What the parameters say about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExportConnection {
    pub(super) address: BrokerAddress,
    pub(super) client_id: String,
    pub(super) auth_mode: AuthMode,
    pub(super) secret_name: String,
    pub(super) skip_verify: bool,
    pub(super) keep_alive: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) max_reconnect_interval: Duration,
    pub(super) will: Option<LastWill>,
}

impl ExportConnection {
    /// Whether both are to be the same connection.
    fn is_one_with(&self, other: &Self) -> bool {
        let who = |one: &Self| (one.client_id.clone(), one.auth_mode, one.secret_name.clone());
        self.address == other.address && self.skip_verify == other.skip_verify && who(self) == who(other)
    }

    fn settings(&self, secrets: Arc<dyn SecretProvider>) -> ConnectionSettings {
        let BrokerAddress { host, port, .. } = &self.address;
        let mut settings = ConnectionSettings::new(host, *port, &self.client_id);
        settings.keep_alive = self.keep_alive;
        settings.connect_timeout = self.connect_timeout;
        settings.max_reconnect_interval = self.max_reconnect_interval;
        settings.will = self.will.clone();
        settings.identity = Some(Identity {
            address: self.address.clone(),
            auth_mode: self.auth_mode,
            secret_name: self.secret_name.clone(),
            skip_verify: self.skip_verify,
            rules: Rules::External,
            secrets,
        });
        settings
    }
}

/// All connections of a service. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    slots: Mutex<Vec<(ExportConnection, Weak<Slot>)>>,
    starts: mpsc::Sender<Start>,
    secrets: Arc<LateSecrets>,
    /// How many functions there have been.
    built: AtomicU64,
}

/// The place of one connection, as long as a function uses it.
#[derive(Default)]
struct Slot(Mutex<Option<Made>>);

/// A connection that was made.
struct Made {
    settings: ExportConnection,
    /// The number of the latest function it was made for.
    number: u64,
    /// As whom it was made; none when that needs no secret, or was not known yet.
    secret: Option<Secret>,
    publisher: Publisher,
    /// Dropped with it: then it ends.
    _stop: Shutdown,
}

/// A connection that is to begin.
struct Start {
    publication: Publication,
    stop: ShutdownSignal,
}

impl Connections {
    /// No connection yet, and what they will live in.
    pub fn new() -> (Self, ConnectionRunner) {
        let (sender, starts) = mpsc::channel(CHANNEL_CAPACITY);
        let secrets = Arc::<LateSecrets>::default();
        let shared = Shared {
            slots: Mutex::default(),
            starts: sender,
            secrets: secrets.clone(),
            built: AtomicU64::new(0),
        };
        (Self(Arc::new(shared)), ConnectionRunner { starts, secrets })
    }

    /// The connection with these settings, which need not be made yet.
    ///
    /// # Errors
    /// When no connection can be made from these settings.
    pub(super) fn get(&self, settings: ExportConnection) -> Result<Connection, InvalidConnectionSettings> {
        Publication::try_new(&settings.settings(self.0.secrets.clone()))?;
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|(_, slot)| slot.strong_count() > 0);
        let known = slots.iter().find(|(known, _)| known.is_one_with(&settings));
        let slot = match known.and_then(|(_, slot)| slot.upgrade()) {
            Some(slot) => slot,
            None => {
                let slot = Arc::<Slot>::default();
                slots.push((settings.clone(), Arc::downgrade(&slot)));
                slot
            }
        };
        Ok(Connection {
            shared: self.0.clone(),
            slot,
            settings,
            number: self.0.built.fetch_add(1, Ordering::Relaxed),
        })
    }
}

/// One function's hold on a connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    settings: ExportConnection,
    number: u64,
}

impl Connection {
    /// Publishes over the connection, which is made if it is not there. Waits for the secret alone, which is at hand.
    ///
    /// # Errors
    /// [`PublishError::Ended`] when no connection can begin any more, because the service is ending.
    pub(super) async fn publisher(&self) -> Result<Publisher, PublishError> {
        let secret = match self.settings.auth_mode {
            AuthMode::None => None,
            // One that cannot be had is the connection's to name.
            _ => self.shared.secrets.secret(&self.settings.secret_name).await.ok(),
        };
        self.make(secret)
    }

    /// Makes the connection if it is not there, before there is anything to publish.
    ///
    /// # Errors
    /// As [`Self::publisher`].
    pub(super) fn connect(&self) -> Result<(), PublishError> {
        self.make(None).map(drop)
    }

    fn make(&self, secret: Option<Secret>) -> Result<Publisher, PublishError> {
        let mut made = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut wanted, mut number) = (&self.settings, self.number);
        if let Some(made) = &mut *made {
            if made.settings == self.settings {
                made.number = made.number.max(self.number);
            }
            let renewed = secret.is_some() && made.secret.is_some() && made.secret != secret;
            if made.secret.is_none() {
                made.secret.clone_from(&secret);
            }
            if made.number >= self.number {
                if !renewed {
                    return Ok(made.publisher.clone());
                }
                (wanted, number) = (&made.settings, made.number);
            }
        }
        let wanted = wanted.clone();
        let settings = wanted.settings(self.shared.secrets.clone());
        let (publisher, publication) = Publication::try_new(&settings).map_err(|_| PublishError::Ended)?;
        let publisher = publisher.impatient();
        let (stop, signal) = Shutdown::new();
        let start = Start {
            publication,
            stop: signal,
        };
        self.shared
            .starts
            .try_send(start)
            .map_err(|_| PublishError::Ended)?;
        *made = Some(Made {
            settings: wanted,
            number,
            secret,
            publisher: publisher.clone(),
            _stop: stop,
        });
        Ok(publisher)
    }

    /// `scheme://client@host:port`. A broker that is away is one destination for all that share a connection, and one
    /// that refuses a client is so for this client alone.
    pub(super) fn destination(&self) -> Destination {
        let ExportConnection {
            address, client_id, ..
        } = &self.settings;
        let address = address.to_string();
        match address.split_once("://") {
            Some((scheme, place)) if !client_id.is_empty() => {
                Destination::new(&format!("{scheme}://{client_id}@{place}"))
            }
            _ => Destination::new(&address),
        }
    }

    /// What of the settings has no effect or should not be overlooked.
    pub(super) fn remarks(&self) -> Vec<&'static str> {
        let settings = self.settings.settings(self.shared.secrets.clone());
        settings
            .identity
            .map(|identity| identity.remarks())
            .unwrap_or_default()
    }
}

/// What the connections live in.
pub struct ConnectionRunner {
    starts: mpsc::Receiver<Start>,
    secrets: Arc<LateSecrets>,
}

impl ConnectionRunner {
    /// Runs all connections until told to end; then each sends what it has been given, waits until that is confirmed or no
    /// longer waited for, and disconnects. The caller bounds that time: dropping this future is safe at any moment.
    pub async fn run(mut self, secrets: Arc<dyn SecretProvider>, mut shutdown: ShutdownSignal) {
        // It runs once, so that nothing is there yet.
        let _ = self.secrets.0.set(secrets);
        let mut running = FuturesUnordered::new();
        let mut more = true;
        // Cancel-safe: `recv` and `next` by their own word, and the signal holds no state.
        loop {
            select! {
                start = self.starts.recv(), if more => match start {
                    Some(start) => running.push(start.run(shutdown.clone())),
                    // No function can be built any more.
                    None => more = false,
                },
                Some(()) = running.next() => {}
                () = shutdown.recv() => break,
            }
        }
        self.starts.close();
        while running.next().await.is_some() {}
    }
}

impl Start {
    /// Until nobody uses it any more, or the service ends.
    async fn run(self, mut end: ShutdownSignal) {
        let Self {
            publication,
            stop: mut unused,
        } = self;
        let (stop, signal) = Shutdown::new();
        let mut running = std::pin::pin!(publication.run(signal));
        select! {
            () = &mut running => return,
            () = unused.recv() => {}
            () = end.recv() => {}
        }
        stop.trigger();
        running.await;
    }
}

/// The secrets of the service, which is not there yet when functions are registered.
#[derive(Default)]
struct LateSecrets(OnceLock<Arc<dyn SecretProvider>>);

impl SecretProvider for LateSecrets {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        match self.0.get() {
            Some(secrets) => secrets.secret(name),
            None => Box::pin(std::future::ready(Err(SecretError::Unavailable {
                reason: "the service has not started".to_owned(),
            }))),
        }
    }
}
