//! The provider and the registry against a real Consul.

mod access;
mod cluster;
mod edit;
mod load_and_seed;
mod proxy;
mod registry;
mod suite;
mod tls;
mod watch;

use std::{sync::Arc, time::Duration};

use edgehold_config::{ConfigurationProvider, FixedToken, Layer, ProviderError, Section, Snapshot};
use edgehold_consul::{ConsulAddress, ConsulProvider, ConsulSettings};
use edgehold_core::{SecretText, ServiceKey, Shutdown};
use tokio::{
    sync::watch::{Receiver, channel},
    task::JoinSet,
    time::timeout,
};

/// Long enough to pass only when something is broken.
const LONG: Duration = Duration::from_secs(60);

const ALL_SERVICES: &str = "edgex/v3/core-common-config-bootstrapper/all-services";
const APP_SERVICES: &str = "edgex/v3/core-common-config-bootstrapper/app-services";
const PRIVATE: &str = "edgex/v3/app-x";

fn address(port: u16) -> ConsulAddress {
    ConsulAddress {
        protocol: "http".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
    }
}

fn settings(port: u16, token: Option<&str>) -> ConsulSettings {
    ConsulSettings {
        tokens: Arc::new(FixedToken(token.map(SecretText::new))),
        ..ConsulSettings::new(address(port))
    }
}

fn service_key() -> ServiceKey {
    ServiceKey::try_new("app-x").unwrap()
}

/// The provider of `app-x` on this port.
fn provider(port: u16) -> Arc<ConsulProvider> {
    provider_with(port, None)
}

fn provider_with(port: u16, token: Option<&str>) -> Arc<ConsulProvider> {
    Arc::new(ConsulProvider::new(settings(port, token), service_key()).unwrap())
}

/// A layer of these leaves.
fn layer<const N: usize>(leaves: [(&str, &str); N]) -> Layer {
    leaves.into_iter().collect()
}

fn section(snapshot: &Snapshot, section: Section) -> Option<&Layer> {
    match section {
        Section::AllServices => snapshot.all_services.as_ref(),
        Section::AppServices => snapshot.app_services.as_ref(),
        Section::Private => snapshot.private.as_ref(),
    }
}

/// A running watch.
struct Watch {
    snapshots: Receiver<Option<Snapshot>>,
    shutdown: Shutdown,
    /// Ends the watch when dropped.
    task: JoinSet<()>,
}

impl Watch {
    fn start(provider: &Arc<ConsulProvider>) -> Self {
        let (sender, snapshots) = channel(None);
        let (shutdown, signal) = Shutdown::new();
        let mut task = JoinSet::new();
        task.spawn(Arc::clone(provider).watch(sender, signal));
        Self {
            snapshots,
            shutdown,
            task,
        }
    }

    /// The next snapshot (or the current one) that satisfies `wanted`.
    async fn wait_for(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let wanted = |current: &Option<Snapshot>| current.as_ref().is_some_and(&wanted);
        match timeout(LONG, self.snapshots.wait_for(wanted))
            .await
            .map(|found| found.map(|found| found.clone()))
        {
            Ok(Ok(found)) => found.expect("it was just looked at"),
            Ok(Err(_)) => panic!("the watch ended before {what}"),
            Err(_) => panic!(
                "waited {LONG:?} for {what}; instead there is {:?}",
                *self.snapshots.borrow()
            ),
        }
    }

    /// Until a private leaf has this text.
    async fn wait_for_private(&mut self, path: &str, text: &str) -> Snapshot {
        self.wait_for(&format!("{path} = {text}"), |snapshot| {
            private(snapshot, path) == Some(text)
        })
        .await
    }
}

/// The text of a private leaf.
fn private<'a>(snapshot: &'a Snapshot, path: &str) -> Option<&'a str> {
    section(snapshot, Section::Private)?.get(path)
}

#[track_caller]
fn assert_denied<T: std::fmt::Debug>(result: Result<T, ProviderError>) {
    assert!(matches!(result, Err(ProviderError::Denied { .. })), "{result:?}");
}
