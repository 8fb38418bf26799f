//! Where services find each other.

use std::time::Duration;

use edgehold_core::{BoxFuture, ServiceKey};

use crate::ProviderError;

/// What a service tells the registry of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its id and name.
    pub service_key: ServiceKey,
    /// The host others reach it at.
    pub host: String,
    /// Its REST port.
    pub port: u16,
    /// Whether that port speaks TLS.
    pub https: bool,
    /// How often the registry asks `/api/v3/ping`.
    pub health_check_interval: Duration,
}

/// Where another service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Where services find each other.
///
/// Contract: registering again replaces the entry; deregistering an unknown service is `Ok`.
pub trait Registry: Send + Sync {
    /// For log lines: kind and address.
    fn describe(&self) -> String;

    /// Registers the service and its health check.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// Removes the service.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn deregister<'a>(&'a self, service_key: &'a ServiceKey) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// Where a service listens; none when it is not registered.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn lookup<'a>(
        &'a self,
        service_key: &'a ServiceKey,
    ) -> BoxFuture<'a, Result<Option<Endpoint>, ProviderError>>;
}
