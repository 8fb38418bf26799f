//! Why a service did not start, and the exit code for it.

use edgehold_api::HttpsError;
use edgehold_clients::VersionMismatch;
use edgehold_config::without_passwords;
use edgehold_core::{InvalidId, TriggerError};
use edgehold_runtime::PipelineRejection;
use edgehold_store::StoreError;

use crate::{bootstrap::ConfigurationError, invocation::InvocationError, setup::SetupError};

/// Why a service did not start or did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// What it was started with is wrong, or help was asked for.
    #[error(transparent)]
    Invocation(#[from] InvocationError),
    /// The service key cannot be one.
    #[error(transparent)]
    ServiceKey(#[from] InvalidId),
    /// There is no configuration to start with.
    #[error("there is no configuration to start with: {0}")]
    Configuration(#[from] ConfigurationError),
    /// The registry cannot be used.
    #[error("the registry cannot be used: {0}")]
    Registry(String),
    /// A pipeline cannot be built.
    #[error("the pipelines cannot be built: {0}")]
    Pipelines(String),
    /// The stack around the service is of another EdgeX generation.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// The developer's own setup refuses.
    #[error("the service cannot be set up: {0}")]
    Setup(#[source] SetupError),
    /// The store cannot be opened.
    #[error("Store and Forward is enabled, but its store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// The trigger cannot be made.
    #[error(transparent)]
    Trigger(#[from] TriggerError),
    /// The REST port is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The REST interface cannot be served over TLS.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// A task that should run as long as the service ended before it.
    #[error("the service cannot go on: {0}")]
    Ended(String),
    /// The command words after the flags mean nothing to this service.
    #[error("unknown command '{0}'")]
    UnknownCommand(String),
}

impl StartError {
    /// Of pipelines in the settings that cannot be built.
    pub(super) fn of_pipelines(rejections: &[PipelineRejection]) -> Self {
        let list: Vec<_> = rejections
            .iter()
            .map(|r| format!("{}: {}", r.key, without_passwords(&r.reason)))
            .collect();
        Self::Pipelines(list.join("; "))
    }

    /// The exit code EdgeX services end with: 1 for configuration and registry, 255 for what comes after, 2 for a wrong
    /// call, 0 for help.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invocation(InvocationError::Help(_)) => 0,
            Self::Invocation(_) | Self::UnknownCommand(_) => 2,
            Self::ServiceKey(_) | Self::Configuration(_) | Self::Registry(_) => 1,
            _ => 255,
        }
    }
}
