//! Opening the store that the settings name, when Store and Forward first needs it.

use std::{path::Path, sync::Arc, time::Duration};

use edgehold_config::{Writable, configuration::Database};
use edgehold_core::{BoxFuture, ErrorClass, SecretError, SecretProvider, ServiceKey, ShutdownSignal};
use edgehold_runtime::{Books, StoreState};
use edgehold_store::{
    Credentials, DatabaseSettings, MemoryQueue, RetryQueue, StoreClientQueue, StoreError, StoreFactories,
};
use edgehold_store_sqlite::{Options, SqliteQueue};
use tokio::sync::watch;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An open store, and the future that works for it until it is closed.
pub(crate) struct Opened {
    queue: Arc<dyn RetryQueue>,
    driver: BoxFuture<'static, ()>,
}

/// Knows how to open the store of one service.
pub(crate) struct StoreOpener {
    pub(crate) service_key: ServiceKey,
    pub(crate) database: Database,
    pub(crate) data_dir: std::path::PathBuf,
    pub(crate) factories: StoreFactories,
    pub(crate) secrets: Arc<dyn SecretProvider>,
}

impl StoreOpener {
    /// Opens the store.
    pub(crate) async fn open(&self) -> Result<Opened, StoreError> {
        let kind = self.database.kind.to_lowercase();
        match kind.as_str() {
            "" | "sqlite" => {
                let path = sqlite_path(&self.database, &self.data_dir, &self.service_key);
                let (queue, writer) =
                    SqliteQueue::open(Options::new(path.clone(), self.service_key.clone())).await?;
                tracing::info!("Store and Forward keeps its data in {}", path.display());
                Ok(Opened {
                    queue: Arc::new(queue),
                    driver: Box::pin(writer.run()),
                })
            }
            "memory" => {
                tracing::warn!("Database/Type is 'memory': what is stored is lost when this process ends");
                let queue = MemoryQueue::new(self.service_key.clone());
                Ok(Opened {
                    queue: Arc::new(queue),
                    driver: Box::pin(std::future::ready(())),
                })
            }
            _ => {
                let Some(factory) = self.factories.get(&kind) else {
                    return Err(StoreError::Configuration(format!(
                        "Database/Type '{}' is not built in; use 'sqlite' (the default, a file in the data folder), or \
                         register a custom store of this name",
                        self.database.kind
                    )));
                };
                let client = factory(self.settings(), self.credentials().await?).await?;
                let queue = StoreClientQueue::open(client, self.service_key.clone()).await?;
                Ok(Opened {
                    queue: Arc::new(queue),
                    driver: Box::pin(std::future::ready(())),
                })
            }
        }
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
        let mut pause = FIRST_PAUSE;
        let mut opened = opened;
        let Opened { queue, driver } = loop {
            if let Some(opened) = opened.take() {
                break opened;
            }
            let enabled = settings.borrow_and_update().store_and_forward.enabled;
            if enabled {
                match self.open().await {
                    Ok(ready) => break ready,
                    Err(error) => {
                        tracing::error!("Store and Forward has no store, will try again: {error}");
                        let failed = error.class() == ErrorClass::Permanent;
                        state.send_replace(match failed {
                            true => StoreState::Failed(error.to_string()),
                            false => StoreState::Opening,
                        });
                    }
                }
            }
            tokio::select! {
                () = shutdown.recv() => return,
                changed = settings.changed() => match changed {
                    Ok(()) => pause = FIRST_PAUSE,
                    Err(_) => return,
                },
                () = tokio::time::sleep(pause), if enabled => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        };
        match queue.stats().await {
            Ok(stats) => {
                books.carried_over(stats.waiting() + stats.error.objects);
                if stats.waiting() > 0 {
                    tracing::info!(
                        waiting = stats.waiting(),
                        "resuming with what an earlier run left"
                    );
                }
            }
            Err(error) => tracing::warn!("cannot count what an earlier run left: {error}"),
        }
        state.send_replace(StoreState::Open(queue));
        driver.await;
        shutdown.recv().await;
    }
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
