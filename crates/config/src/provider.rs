//! Where configuration comes from when it does not come from files alone.

use std::{error::Error, sync::Arc};

use edgehold_core::{BoxFuture, ErrorClass, ShutdownSignal};
use tokio::sync::watch;

use crate::{Edit, EditError, Layer};

/// A failed call to a configuration provider or registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// It does not answer, or not yet: no leader, connection refused, timeout.
    #[error("{provider} is not available: {reason}")]
    Unavailable {
        /// The provider and its address.
        provider: String,
        /// What is wrong.
        reason: String,
        /// What the client said.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// It refuses this service's token.
    #[error("{provider} denies access: {reason}")]
    Denied {
        /// The provider and its address.
        provider: String,
        /// What it said.
        reason: String,
    },
    /// It answered something that cannot be understood.
    #[error("{provider} gave an unexpected answer: {reason}")]
    Unexpected {
        /// The provider and its address.
        provider: String,
        /// What was unexpected.
        reason: String,
    },
    /// Nothing can be written to it.
    #[error("{provider} cannot be written to; change it where it is kept")]
    ReadOnly {
        /// The provider.
        provider: String,
    },
    /// Its address or settings are wrong.
    #[error("the configuration provider's settings are wrong: {0}")]
    Configuration(String),
}

impl ProviderError {
    /// What the status of an HTTP answer that is no success means, with the message that came with it, if any.
    pub fn of_status(provider: impl Into<String>, status: u16, message: &str) -> Self {
        let provider = provider.into();
        let reason = match message {
            "" => format!("status {status}"),
            message => format!("status {status}: {message}"),
        };
        match status {
            401 | 403 => Self::Denied { provider, reason },
            429 | 500..=599 => Self::Unavailable {
                provider,
                reason,
                source: None,
            },
            _ => Self::Unexpected { provider, reason },
        }
    }

    /// Whether the same call may succeed later. Denied access may: tokens are renewed.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unavailable { .. } | Self::Denied { .. } | Self::Unexpected { .. } => ErrorClass::Transient,
            Self::ReadOnly { .. } | Self::Configuration(_) => ErrorClass::Permanent,
        }
    }
}

/// One of the three places a service's configuration lives in, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `<stem>/core-common-config-bootstrapper/all-services`
    AllServices,
    /// `<stem>/core-common-config-bootstrapper/app-services`
    AppServices,
    /// `<stem>/<service key>`
    Private,
}

/// The three sections as one read saw them. A section without any key is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Settings of all services.
    pub all_services: Option<Layer>,
    /// Settings of all application services.
    pub app_services: Option<Layer>,
    /// Settings of this service.
    pub private: Option<Layer>,
}

/// Holds the configuration of a service and tells of changes. One value serves one service key.
///
/// Contract:
/// - Leaf paths are relative to their section and begin with `Writable/`, `Service/` and so on. Folder placeholders
///   (keys that end in `/`) are left out; every other legal key is given as it is.
/// - `load` and each snapshot of `watch` come from one consistent read of all three sections.
/// - `seed` never deletes, and without `overwrite` never changes a leaf that is there.
/// - `edit` changes a leaf only while what it expects is there; also when somebody else writes at the same time, where the
///   provider has a way to do so (Core Keeper has none: what is expected is looked at right before).
/// - Calls have timeouts of their own and may be repeated. Dropping a future cancels the call.
pub trait ConfigurationProvider: Send + Sync {
    /// For log lines: kind, address and base path, for example
    /// `consul http://localhost:8500 edgex/v3/app-http-export`.
    fn describe(&self) -> String;

    /// Whether it answers and can work.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn check_alive(&self) -> BoxFuture<'_, Result<(), ProviderError>>;

    /// Whether the common configuration is complete (`IsCommonConfigReady` is true).
    ///
    /// # Errors
    /// [`ProviderError`].
    fn common_config_ready(&self) -> BoxFuture<'_, Result<bool, ProviderError>>;

    /// All leaves of the three sections.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn load(&self) -> BoxFuture<'_, Result<Snapshot, ProviderError>>;

    /// Writes leaves into the private section: the missing ones, or all with `overwrite`. Answers how many were
    /// written.
    ///
    /// # Errors
    /// [`ProviderError`]; some leaves may have been written, calling it again completes them.
    /// [`ProviderError::ReadOnly`] when it takes no writes at all.
    fn seed<'a>(&'a self, leaves: &'a Layer, overwrite: bool) -> BoxFuture<'a, Result<usize, ProviderError>>;

    /// Makes edits. The edits of one group take place together or not at all; as many groups as the provider can take go
    /// together, in their order. Answers how many leaves were written or removed.
    ///
    /// # Errors
    /// [`EditError`]; whole groups may have been written, none by halves (with Core Keeper, where a group both sets and
    /// removes: perhaps without the removals). [`EditError::TooLarge`] comes before anything is written.
    fn edit<'a>(&'a self, groups: &'a [Vec<Edit>]) -> BoxFuture<'a, Result<usize, EditError>>;

    /// Puts a whole snapshot of the `Writable` leaves of all three sections into `snapshots` at once and after every
    /// change, until told to end. Reconnects by itself, forever, and then tells of whatever changed meanwhile.
    ///
    /// A snapshot equal to the one before is not sent again.
    fn watch(
        self: Arc<Self>,
        snapshots: watch::Sender<Option<Snapshot>>,
        shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, ()>;
}
