//! The provider and the registry against the stand-in for Core Keeper, which is held against recordings of the real one.

mod access;
mod edit;
mod load_and_seed;
mod registry;
mod suite;
mod tls;
mod watch;

use std::{sync::Arc, time::Duration};

use edgehold_config::{Layer, ProviderError, Section, Snapshot};
use edgehold_core::{ServiceKey, Shutdown};
use edgehold_keeper::{KeeperProvider, KeeperSettings, NoticeSender, PollIntervals};
use tokio::{
    sync::watch::{Receiver, channel},
    task::JoinSet,
    time::timeout,
};

/// Long enough to pass only when something is broken.
const LONG: Duration = Duration::from_secs(60);

const ALL_SERVICES: &str = "edgex/v4/core-common-config-bootstrapper/all-services";
const APP_SERVICES: &str = "edgex/v4/core-common-config-bootstrapper/app-services";
const PRIVATE: &str = "edgex/v4/app-x";

/// Looks so seldom that in a test it does not.
const NEVER: PollIntervals = PollIntervals {
    listening: Duration::from_secs(3600),
    deaf: Duration::from_secs(3600),
};

fn settings(port: u16) -> KeeperSettings {
    KeeperSettings::new("http", "127.0.0.1", port).unwrap()
}

fn service_key() -> ServiceKey {
    ServiceKey::try_new("app-x").unwrap()
}

/// The provider of `app-x` on this port, which looks when it is told to.
fn provider(port: u16) -> (Arc<KeeperProvider>, NoticeSender) {
    polling(port, NEVER)
}

/// The provider of `app-x` on this port, which looks this often.
fn polling(port: u16, poll: PollIntervals) -> (Arc<KeeperProvider>, NoticeSender) {
    let mut settings = settings(port);
    settings.poll = poll;
    provider_with(settings)
}

fn provider_with(settings: KeeperSettings) -> (Arc<KeeperProvider>, NoticeSender) {
    let (provider, notices) = KeeperProvider::new(settings, &service_key()).unwrap();
    (Arc::new(provider), notices)
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
    _shutdown: Shutdown,
    /// Ends the watch when dropped.
    _task: JoinSet<()>,
}

impl Watch {
    fn start(provider: &Arc<KeeperProvider>) -> Self {
        let (sender, snapshots) = channel(None);
        let (shutdown, signal) = Shutdown::new();
        let mut task = JoinSet::new();
        task.spawn(edgehold_config::ConfigurationProvider::watch(
            Arc::clone(provider),
            sender,
            signal,
        ));
        Self {
            snapshots,
            _shutdown: shutdown,
            _task: task,
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
