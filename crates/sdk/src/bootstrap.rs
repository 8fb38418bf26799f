//! From flags to an effective configuration: files, provider, seeding, layers.
//!
//! The order is EdgeX's (contract: configuration §2.2), with one start-up budget for all waiting. Deviations: the private
//! file is read on every start and adds leaves the provider lacks (as EdgeX ≥ 4.0.5 does); an override may name any
//! setting we know, also one that no file mentions.

use std::{collections::BTreeMap, future::Future, net::UdpSocket, sync::Arc};

use edgehold_clients::{CoreMetadata, FetchError, VersionCheck};
use edgehold_config::{
    Client, ConfigurationProvider, Effective, EnvironmentError, FileError, Layer, Layers, ProviderError,
    ProviderKind, ProviderUrl, differing_overrides, environment, resolve,
};
use edgehold_consul::{ConsulAddress, ConsulProvider, ConsulSettings};
use edgehold_contracts::Generation;
use edgehold_core::{SecretError, ServiceKey};
use edgehold_keeper::{KeeperProvider, KeeperSettings, NoticeSender};
use tokio::time::Instant;

use crate::{
    files,
    invocation::{Invocation, Startup},
    logging::with_causes,
};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// A file cannot be read or understood.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file behind an address cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The address of a file names a secret that is not there.
    #[error(
        "the address of configuration file {uri} names a secret (edgexSecretName) that cannot be had: it has to be under \
         Writable/InsecureSecrets of the other configuration file, or of the configuration provider"
    )]
    FileSecret {
        /// The address, without credentials.
        uri: String,
        /// What the lookup said.
        source: SecretError,
    },
    /// An environment override has a value that its setting cannot take.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The provider cannot be used.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The provider did not come up within the start-up time.
    #[error("gave up after {seconds} s (EDGEX_STARTUP_DURATION): {last}")]
    TimedOut {
        /// The start-up time in seconds.
        seconds: u64,
        /// What the last try said.
        last: String,
    },
    /// The common configuration is not there.
    #[error("{section} has no keys; has core-common-config-bootstrapper run?")]
    NoCommonConfiguration {
        /// The section, with the provider it is missing from.
        section: String,
    },
}

/// A loaded configuration and where changes will come from.
pub(crate) struct Loaded {
    pub(crate) layers: Layers,
    pub(crate) effective: Effective,
    pub(crate) provider: Option<Arc<dyn ConfigurationProvider>>,
    /// By which a provider is told of changes, where others have to tell it.
    pub(crate) notices: Option<NoticeSender>,
}

/// Whether loading may write to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A service: seeds what is missing, and follows changes.
    Seed,
    /// A command beside a service: looks and leaves no trace.
    ReadOnly,
}

/// The generation this invocation asks for.
pub(crate) fn generation(invocation: &Invocation) -> Generation {
    match invocation.flags.generation() {
        3 => Generation::V3,
        _ => Generation::V4,
    }
}

/// Loads the configuration of a service.
pub(crate) async fn load(
    invocation: &Invocation,
    service_key: &ServiceKey,
    access: Access,
) -> Result<Loaded, ConfigurationError> {
    for warning in &invocation.flags.warnings {
        tracing::warn!("{warning}");
    }
    for name in &invocation.flags.not_in_effect {
        tracing::warn!("{name} is accepted, but has no effect yet");
    }
    let mut loaded = match &invocation.flags.config_provider {
        Some(address) => from_provider(invocation, service_key, address, access).await?,
        None => from_files(invocation, access).await?,
    };
    if let Some(hosts) = &invocation.flags.remote_service_hosts {
        loaded.layers.set_remote_hosts(hosts);
    } else if invocation.flags.dev {
        loaded.layers.set_dev_mode(&outbound_address());
    }
    let effective = resolve(&loaded.layers, None);
    for rejection in &effective.rejected {
        tracing::error!(key = %rejection.key, "a setting is rejected: {rejection}");
    }
    for adjustment in &effective.adjusted {
        tracing::warn!(key = %adjustment.key, "{adjustment}");
    }
    Ok(Loaded {
        layers: loaded.layers,
        effective,
        provider: loaded.provider,
        notices: loaded.notices,
    })
}

/// The comparison of versions with core-metadata; none when it is not wanted or cannot be made.
pub(crate) fn version_check(
    invocation: &Invocation,
    clients: &BTreeMap<String, Client>,
) -> Option<VersionCheck> {
    if invocation.flags.skip_version_check {
        tracing::info!("Skipping version compatibility check");
        return None;
    }
    let client = clients.get("core-metadata");
    let Some(client) = client.filter(|client| !client.host.is_empty() && client.port > 0) else {
        tracing::info!("Skipping version compatibility check: Clients/core-metadata is not configured");
        return None;
    };
    match CoreMetadata::new(client) {
        Ok(core_metadata) => Some(VersionCheck::new(core_metadata, generation(invocation))),
        Err(error) => {
            tracing::warn!("Skipping version compatibility check: {error}");
            None
        }
    }
}

/// The layers, before the command line has its say.
struct Layered {
    layers: Layers,
    provider: Option<Arc<dyn ConfigurationProvider>>,
    notices: Option<NoticeSender>,
}

async fn from_files(invocation: &Invocation, access: Access) -> Result<Layered, ConfigurationError> {
    let mut layers = Layers::default();
    let private_comes_first = files::private_comes_first(invocation)?;
    if private_comes_first {
        layers.private = files::read_private(invocation, &layers).await?.layer;
    }
    if let Some(common) = files::read_common(invocation, &layers).await? {
        layers.all_services = common.all_services.layer;
        layers.app_services = common.app_services.layer;
    }
    if !private_comes_first {
        layers.private = files::read_private(invocation, &layers).await?.layer;
    }
    let provider = match access {
        Access::Seed => files::followed(invocation, &layers)?,
        Access::ReadOnly => None,
    };
    let environment = overrides(invocation, &layers)?;
    tracing::info!(
        "Private configuration loaded from file with {} overrides applied",
        environment.len()
    );
    layers.environment = environment;
    Ok(Layered {
        layers,
        provider,
        notices: None,
    })
}

/// What the environment overrides, with a log line for each.
fn overrides(invocation: &Invocation, layers: &Layers) -> Result<Layer, ConfigurationError> {
    let environment = environment::overrides(&invocation.environment, layers)?;
    for applied in &environment.applied {
        let paths = applied.paths.join(", ");
        tracing::info!(
            "Variables override of '{paths}' by environment variable: {}={}",
            applied.variable,
            applied.value
        );
    }
    for variable in &environment.without_effect {
        tracing::warn!("environment variable {variable} looks like an override, but names no setting");
    }
    Ok(environment.layer)
}

/// The address others on the network see this machine under. No packet is sent.
pub(crate) fn outbound_address() -> String {
    let address = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    address.map_or_else(|_| "localhost".to_owned(), |address| address.ip().to_string())
}

/// The configuration provider at an address, and by what it is told of changes, where others have to tell it. Connects to
/// nothing yet.
pub(crate) fn provider(
    invocation: &Invocation,
    service_key: &ServiceKey,
    address: &ProviderUrl,
) -> Result<(Arc<dyn ConfigurationProvider>, Option<NoticeSender>), ConfigurationError> {
    let ProviderUrl {
        kind,
        protocol,
        host,
        port,
    } = address.clone();
    match kind {
        ProviderKind::Consul => {
            let address = ConsulAddress { protocol, host, port };
            let settings = ConsulSettings::from_environment(address, &invocation.environment)?;
            let provider = ConsulProvider::new(settings, service_key.clone())?;
            Ok((Arc::new(provider), None))
        }
        ProviderKind::Keeper => {
            let settings = KeeperSettings::new(&protocol, &host, port)?;
            let (provider, notices) = KeeperProvider::new(settings, service_key)?;
            Ok((Arc::new(provider), Some(notices)))
        }
    }
}

async fn from_provider(
    invocation: &Invocation,
    service_key: &ServiceKey,
    address: &ProviderUrl,
    access: Access,
) -> Result<Layered, ConfigurationError> {
    let (provider, notices) = provider(invocation, service_key, address)?;
    let name = provider.describe();
    tracing::info!("Using Configuration provider: {name}");
    let budget = Budget::new(invocation.startup());
    budget
        .wait("the configuration provider", || provider.check_alive())
        .await?;
    budget
        .wait("the common configuration", || async {
            if provider.common_config_ready().await? {
                return Ok(());
            }
            Err(ProviderError::Unexpected {
                provider: provider.describe(),
                reason: "IsCommonConfigReady is not true; has core-common-config-bootstrapper run?"
                    .to_owned(),
            })
        })
        .await?;
    let snapshot = budget.wait("the configuration", || provider.load()).await?;
    for (section, layer) in [
        ("all-services", &snapshot.all_services),
        ("app-services", &snapshot.app_services),
    ] {
        if layer.is_none() {
            let section = format!("{name}: the common configuration '{section}'");
            return Err(ConfigurationError::NoCommonConfiguration { section });
        }
    }
    tracing::info!("Common configuration loaded from the Configuration Provider");
    let mut found = Layers::default();
    found.load(snapshot);
    let layers = match access {
        Access::ReadOnly => found,
        Access::Seed => seed(invocation, &*provider, &budget, found).await?,
    };
    Ok(Layered {
        layers,
        provider: Some(provider),
        notices,
    })
}

/// Adds what the private file and the environment say to the provider, as far as it is missing there, and reads again.
async fn seed(
    invocation: &Invocation,
    provider: &dyn ConfigurationProvider,
    budget: &Budget,
    found: Layers,
) -> Result<Layers, ConfigurationError> {
    let overwrite = invocation.flags.overwrite;
    let private = match files::read_private(invocation, &found).await {
        Ok(document) => document.layer,
        Err(error) if !found.private.is_empty() && !overwrite => {
            let error = with_causes(&error);
            tracing::warn!("going on with the private configuration of the provider alone: {error}");
            Layer::default()
        }
        Err(error) => return Err(error),
    };
    let environment = overrides(
        invocation,
        &Layers {
            private: private.clone(),
            ..found
        },
    )?;
    let leaves = environment::seed(&private, &environment);
    let written = budget
        .wait("the configuration provider", || provider.seed(&leaves, overwrite))
        .await?;
    if written == 0 {
        tracing::info!("Private configuration loaded from the Configuration Provider. No overrides applied");
    } else {
        tracing::info!(
            "Private configuration has been pushed to into Configuration Provider with overrides applied: {written} of {} \
             settings were not there",
            leaves.len()
        );
    }
    let mut layers = Layers::default();
    layers.load(budget.wait("the configuration", || provider.load()).await?);
    for difference in differing_overrides(&environment, &resolve(&layers, None)) {
        tracing::warn!(
            key = %difference.path,
            "an environment override has no effect, because the configuration provider holds another value: \
             '{}' instead of '{}'; change the key there, or start once with --overwrite",
            difference.effective.as_deref().unwrap_or(""), difference.environment
        );
    }
    Ok(layers)
}

/// One clock for all waiting at start.
struct Budget {
    startup: Startup,
    until: Instant,
}

impl Budget {
    fn new(startup: Startup) -> Self {
        Self {
            startup,
            until: Instant::now() + startup.duration,
        }
    }

    /// Tries until it works or the time is up.
    async fn wait<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<T, ConfigurationError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error @ ProviderError::Configuration(_)) => return Err(error.into()),
                Err(error) => error,
            };
            if Instant::now() + self.startup.interval >= self.until {
                return Err(ConfigurationError::TimedOut {
                    seconds: self.startup.duration.as_secs(),
                    last: with_causes(&error),
                });
            }
            tracing::warn!("waiting for {what}: {}", with_causes(&error));
            tokio::time::sleep(self.startup.interval).await;
        }
    }
}
