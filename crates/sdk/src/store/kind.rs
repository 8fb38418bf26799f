//! The store that `Database.Type` names: a file, memory, a PostgreSQL server, or a custom one.

use std::sync::Arc;

use edgehold_core::SecretError;
use edgehold_store::{Credentials, DatabaseSettings, MemoryQueue, StoreClientQueue, StoreError, TimeLimited};
use edgehold_store_postgres::PostgresQueue;
use edgehold_store_sqlite::{Options, SqliteQueue};
use tokio::time::timeout;

use super::{Opened, StoreOpener, is_file, postgres, sqlite_path};

impl StoreOpener {
    /// The type, in lower case.
    pub(super) fn kind(&self) -> String {
        self.database.kind.to_lowercase()
    }

    /// Opens the store itself.
    pub(super) async fn open_store(&self) -> Result<Opened, StoreError> {
        let kind = self.kind();
        match kind.as_str() {
            file if is_file(file) => self.open_sqlite().await,
            "memory" => {
                tracing::warn!("Database/Type is 'memory': what is stored is lost when this process ends");
                let queue = MemoryQueue::new(self.service_key.clone());
                Ok(Opened::new(queue, Box::pin(std::future::ready(()))))
            }
            "postgres" => self.open_postgres().await,
            _ => self.open_custom(&kind).await,
        }
    }

    async fn open_sqlite(&self) -> Result<Opened, StoreError> {
        let path = sqlite_path(&self.database, &self.data_dir, &self.service_key);
        let (queue, writer) = SqliteQueue::open(Options::new(path.clone(), self.service_key.clone())).await?;
        tracing::info!("Store and Forward keeps its data in {}", path.display());
        Ok(Opened::new(queue, Box::pin(writer.run())))
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

    async fn open_custom(&self, kind: &str) -> Result<Opened, StoreError> {
        let Some(factory) = self.factories.get(kind) else {
            return Err(StoreError::Configuration(format!(
                "Database/Type '{}' is not built in; use 'sqlite' (the default, a file in the data folder), 'postgres', \
                 or register a custom store of this name",
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
}
