//! The registry over Core Keeper: services with a check on `/api/v3/ping`.

use std::time::Duration;

use edgehold_config::{Endpoint, ProviderError, Registration, Registry};
use edgehold_core::{BoxFuture, ServiceKey};

use crate::{
    KeeperSettings,
    client::{Client, Entry, HealthCheck, Session},
};

/// The status of an entry that was deregistered: Core Keeper keeps it and asks no more.
const HALT: &str = "HALT";

/// The services registered with Core Keeper, as EdgeX 4 registers them.
///
/// An entry is replaced if there is one, and added otherwise. Deregistering keeps it with the status `HALT`, and such a one
/// counts as absent here: nobody is where it says.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use edgehold_config::Registry;
/// use edgehold_core::ServiceKey;
/// use edgehold_keeper::{KeeperRegistry, KeeperSettings};
///
/// let registry = KeeperRegistry::new(KeeperSettings::new("http", "localhost", 59890)?)?;
/// let core_metadata = registry.lookup(&ServiceKey::try_new("core-metadata")?).await?;
/// # Ok(())
/// # }
/// ```
pub struct KeeperRegistry {
    client: Client,
}

impl KeeperRegistry {
    /// The Core Keeper these settings lead to. Connects to nothing yet. For `https` the process must have installed a TLS
    /// provider.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] when the settings cannot be used.
    pub fn new(settings: KeeperSettings) -> Result<Self, ProviderError> {
        Ok(Self {
            client: Client::new(settings)?,
        })
    }

    /// The entry of a service, whatever its status.
    async fn entry(&self, service_key: &ServiceKey) -> Result<Option<Entry>, ProviderError> {
        let id = service_key.as_str();
        let find = |session| async move { Session::entry(&session, id).await };
        self.client.with_token(find).await
    }
}

impl Registry for KeeperRegistry {
    fn describe(&self) -> String {
        self.client.name().to_owned()
    }

    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let Registration {
                service_key,
                host,
                port,
                https,
                health_check_interval,
            } = registration;
            if host.is_empty() || *port == 0 || health_check_interval.is_zero() {
                let why = "registering needs Service.Host, Service.Port and Service.HealthCheckInterval";
                return Err(ProviderError::Configuration(why.to_owned()));
            }
            let entry = &Entry {
                service_id: service_key.to_string(),
                status: String::new(),
                host: host.clone(),
                port: *port,
                health_check: HealthCheck {
                    interval: go_duration(*health_check_interval),
                    path: "/api/v3/ping".to_owned(),
                    kind: if *https { "https" } else { "http" }.to_owned(),
                },
            };
            let put = |session| async move { put(&session, entry).await };
            self.client.with_token(put).await
        })
    }

    fn deregister<'a>(&'a self, service_key: &'a ServiceKey) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let entry = match self.entry(service_key).await? {
                Some(entry) if entry.status != HALT => entry,
                _ => return Ok(()),
            };
            let halted = &Entry {
                status: HALT.to_owned(),
                ..entry
            };
            let replace = |session| async move { Session::replace_entry(&session, halted).await };
            self.client.with_token(replace).await.map(drop)
        })
    }

    fn lookup<'a>(
        &'a self,
        service_key: &'a ServiceKey,
    ) -> BoxFuture<'a, Result<Option<Endpoint>, ProviderError>> {
        Box::pin(async move {
            let entry = self.entry(service_key).await?;
            let running = entry.filter(|entry| entry.status != HALT);
            Ok(running.map(|Entry { host, port, .. }| Endpoint { host, port }))
        })
    }
}

/// Replaces the entry, or adds it, as EdgeX does. One that somebody else has added in the same moment is replaced.
async fn put(session: &Session<'_>, entry: &Entry) -> Result<(), ProviderError> {
    let is_there = session.entry(&entry.service_id).await?.is_some();
    let done = is_there && session.replace_entry(entry).await?
        || session.add_entry(entry).await?
        || session.replace_entry(entry).await?;
    match done {
        true => Ok(()),
        false => Err(session.unexpected(format!("the entry of {} comes and goes", entry.service_id))),
    }
}

/// As EdgeX writes it: `10s`; with a fraction of a second `1500ms`.
fn go_duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_go_does() {
        assert_eq!(go_duration(Duration::from_secs(10)), "10s");
        assert_eq!(go_duration(Duration::from_millis(1500)), "1500ms");
    }
}
