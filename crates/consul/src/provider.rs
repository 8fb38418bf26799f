//! The configuration provider over Consul's key/value store: which call of the trait is which call of Consul's API.

use std::sync::Arc;

use edgehold_config::{ConfigurationProvider, Edit, EditError, Layer, ProviderError, Snapshot};
use edgehold_core::{BoxFuture, SecretText, ServiceKey, ShutdownSignal, parse_go_bool};
use tokio::sync::watch;

use crate::{ConsulAddress, agent::Agent, client::Client, edit, section::Sections, seed, watcher};

/// The configuration of one service in Consul, below `edgex/v3`.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use edgehold_config::ConfigurationProvider;
/// use edgehold_consul::{ConsulAddress, ConsulProvider};
/// use edgehold_core::ServiceKey;
///
/// let address = ConsulAddress { protocol: "http".to_owned(), host: "localhost".to_owned(), port: 8500 };
/// let provider = ConsulProvider::new(&address, ServiceKey::try_new("app-http-export")?, None)?;
/// provider.check_alive().await?;
/// let private = provider.load().await?.private;
/// # Ok(())
/// # }
/// ```
pub struct ConsulProvider {
    client: Client,
    agent: Agent,
    sections: Sections,
    description: String,
}

impl ConsulProvider {
    /// The configuration of `service_key` in the Consul at `address`, with an access token in secure mode. Connects to
    /// nothing yet. For `https` the process must have installed a TLS provider.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] when the address, the service key or the token cannot be used in a request.
    pub fn new(
        address: &ConsulAddress,
        service_key: ServiceKey,
        token: Option<SecretText>,
    ) -> Result<Self, ProviderError> {
        if matches!(service_key.as_str(), "." | "..") {
            let why = format!("the service key '{service_key}' cannot be part of a key in Consul");
            return Err(ProviderError::Configuration(why));
        }
        let client = Client::new(address, token.as_ref())?;
        let description = format!("{} {}/{service_key}", client.name(), crate::section::STEM);
        let agent = Agent::new(address, token.as_ref())?;
        Ok(Self {
            client,
            agent,
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
        Box::pin(self.client.check_leader())
    }

    fn common_config_ready(&self) -> BoxFuture<'_, Result<bool, ProviderError>> {
        Box::pin(async {
            let value = self.agent.read_key(&Sections::common_ready_key()).await?;
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
        Box::pin(seed::seed(
            &self.client,
            self.sections.private(),
            leaves,
            overwrite,
        ))
    }

    fn edit<'a>(&'a self, groups: &'a [Vec<Edit>]) -> BoxFuture<'a, Result<usize, EditError>> {
        Box::pin(edit::edit(&self.client, &self.sections, groups))
    }

    fn watch(
        self: Arc<Self>,
        snapshots: watch::Sender<Option<Snapshot>>,
        mut shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, ()> {
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
