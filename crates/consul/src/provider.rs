//! The configuration provider over Consul's key/value store: which call of the trait is which call of Consul's API.

use std::sync::Arc;

use edgehold_config::{ConfigurationProvider, Edit, EditError, Layer, ProviderError, Snapshot};
use edgehold_core::{BoxFuture, ServiceKey, ShutdownSignal, parse_go_bool};
use tokio::sync::watch;

use crate::{ConsulSettings, agent, client::Client, edit, section::Sections, seed, watcher};

/// The configuration of one service in Consul, below `edgex/v3`.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use edgehold_config::ConfigurationProvider;
/// use edgehold_consul::{ConsulAddress, ConsulProvider, ConsulSettings};
/// use edgehold_core::ServiceKey;
///
/// let address = ConsulAddress { protocol: "http".to_owned(), host: "localhost".to_owned(), port: 8500 };
/// let provider = ConsulProvider::new(ConsulSettings::new(address), ServiceKey::try_new("app-http-export")?)?;
/// provider.check_alive().await?;
/// let private = provider.load().await?.private;
/// # Ok(())
/// # }
/// ```
pub struct ConsulProvider {
    client: Client,
    sections: Sections,
    description: String,
}

impl ConsulProvider {
    /// The configuration of `service_key` in the Consul these settings lead to. Connects to nothing yet. For `https` the
    /// process must have installed a TLS provider.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] when the settings or the service key cannot be used in a request.
    pub fn new(settings: ConsulSettings, service_key: ServiceKey) -> Result<Self, ProviderError> {
        if matches!(service_key.as_str(), "." | "..") {
            let why = format!("the service key '{service_key}' cannot be part of a key in Consul");
            return Err(ProviderError::Configuration(why));
        }
        let client = Client::new(settings)?;
        let description = format!("{} {}/{service_key}", client.name(), crate::section::STEM);
        Ok(Self {
            client,
            sections: Sections::of(&service_key),
            description,
        })
    }
}

impl ConfigurationProvider for ConsulProvider {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn check_alive(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(async { self.client.anonymous().check_leader().await })
    }

    fn common_config_ready(&self) -> BoxFuture<'_, Result<bool, ProviderError>> {
        Box::pin(async {
            let key = &Sections::common_ready_key();
            let read = |session| async move { agent::read_key(&session, key).await };
            let value = self.client.with_token(read).await?;
            let text = value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
            Ok(text.and_then(parse_go_bool).unwrap_or(false))
        })
    }

    fn load(&self) -> BoxFuture<'_, Result<Snapshot, ProviderError>> {
        Box::pin(async {
            let reading = self.sections.read(&self.client, "").await?;
            watcher::warn_of_skipped_keys(&reading.not_text);
            Ok(reading.snapshot)
        })
    }

    fn seed<'a>(&'a self, leaves: &'a Layer, overwrite: bool) -> BoxFuture<'a, Result<usize, ProviderError>> {
        let prefix = self.sections.private();
        let seed = move |session| async move { seed::seed(&session, prefix, leaves, overwrite).await };
        Box::pin(self.client.with_token(seed))
    }

    fn edit<'a>(&'a self, groups: &'a [Vec<Edit>]) -> BoxFuture<'a, Result<usize, EditError>> {
        Box::pin(edit::edit(&self.client, &self.sections, groups))
    }

    fn watch(
        self: Arc<Self>,
        snapshots: watch::Sender<Option<Snapshot>>,
        mut shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, ()> {
        for section in ["private", "all services common", "application service common"] {
            tracing::info!("listening for {section} config changes");
        }
        Box::pin(async move {
            // Whichever ends first drops the others, and with them the connections of the queries.
            tokio::select! {
                never = watcher::follow(&self.client, &self.sections, &snapshots) => match never {},
                () = snapshots.closed() => {}
                () = shutdown.recv() => {}
            }
        })
    }
}
