//! The configuration provider over Core Keeper's keys: which call of the trait is which call of its API.

use std::sync::Arc;

use edgehold_config::{ConfigurationProvider, Edit, EditError, Layer, ProviderError, Snapshot};
use edgehold_core::{BoxFuture, ServiceKey, ShutdownSignal, parse_go_bool};
use tokio::sync::watch;

use crate::{
    KeeperSettings, NoticeSender, PollIntervals,
    client::{Client, Session},
    notices::Notices,
    section::{STEM, Sections},
    watcher, write,
};

/// The configuration of one service in Core Keeper, below `edgex/v4`.
///
/// What it cannot promise, for want of anything in Core Keeper to do it with: an edit is not refused when somebody else
/// writes the same leaf within the few milliseconds after it was looked at; edits that set and remove leaves are set
/// together, and removed after that; and keys other than of letters, digits and `-_~;=./` are refused.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use edgehold_config::ConfigurationProvider;
/// use edgehold_core::ServiceKey;
/// use edgehold_keeper::{KeeperProvider, KeeperSettings};
///
/// let settings = KeeperSettings::new("http", "localhost", 59890)?;
/// let (provider, notices) = KeeperProvider::new(settings, &ServiceKey::try_new("app-http-export")?)?;
/// provider.check_alive().await?;
/// let private = provider.load().await?.private;
/// // Whoever listens to `notices.filters()` on the message bus says so, and tells of what arrives.
/// notices.set_listening(true);
/// notices.tell();
/// # Ok(())
/// # }
/// ```
pub struct KeeperProvider {
    client: Client,
    sections: Sections,
    poll: PollIntervals,
    notices: Notices,
    description: String,
}

impl KeeperProvider {
    /// The configuration of `service_key` in the Core Keeper these settings lead to, and the way to tell it of changes.
    /// Connects to nothing yet. For `https` the process must have installed a TLS provider.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] when the settings cannot be used.
    pub fn new(
        settings: KeeperSettings,
        service_key: &ServiceKey,
    ) -> Result<(Self, NoticeSender), ProviderError> {
        let poll = settings.poll;
        let client = Client::new(settings)?;
        let (sender, notices) = NoticeSender::new(service_key.as_str());
        let provider = Self {
            description: format!("{} {STEM}/{service_key}", client.name()),
            sections: Sections::of(service_key),
            client,
            poll,
            notices,
        };
        Ok((provider, sender))
    }
}

impl ConfigurationProvider for KeeperProvider {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn check_alive(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(async { self.client.anonymous().ping().await })
    }

    fn common_config_ready(&self) -> BoxFuture<'_, Result<bool, ProviderError>> {
        Box::pin(async {
            let key = &Sections::common_ready_key();
            let read = |session| async move { Session::items(&session, key).await };
            let items = self.client.with_token(read).await?;
            let item = items.into_iter().find(|item| item.key == *key);
            let text = item.and_then(|item| item.value);
            Ok(text.as_deref().and_then(parse_go_bool).unwrap_or(false))
        })
    }

    fn load(&self) -> BoxFuture<'_, Result<Snapshot, ProviderError>> {
        Box::pin(async {
            let sections = &self.sections;
            let read = |session| async move { sections.read(&session, "").await };
            let reading = self.client.with_token(read).await?;
            watcher::warn_of_unusable_values(&reading.unusable);
            Ok(reading.snapshot)
        })
    }

    fn seed<'a>(&'a self, leaves: &'a Layer, overwrite: bool) -> BoxFuture<'a, Result<usize, ProviderError>> {
        let sections = &self.sections;
        let seed = move |session| async move { write::seed(&session, sections, leaves, overwrite).await };
        Box::pin(self.client.with_token(seed))
    }

    fn edit<'a>(&'a self, groups: &'a [Vec<Edit>]) -> BoxFuture<'a, Result<usize, EditError>> {
        let sections = &self.sections;
        let edit = move |session| async move { write::edit(&session, sections, groups).await };
        Box::pin(self.client.with_token(edit))
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
            let notices = self.notices.clone();
            let following = watcher::follow(&self.client, &self.sections, self.poll, notices, &snapshots);
            // Whichever ends first drops the others, and with them the calls.
            tokio::select! {
                never = following => match never {},
                () = snapshots.closed() => {}
                () = shutdown.recv() => {}
            }
        })
    }
}
