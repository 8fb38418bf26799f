//! The registry over a Consul agent: services with an HTTP check on `/api/v3/ping`, and a second one on `/readyz`.

use std::time::Duration;

use edgehold_config::{Endpoint, ProviderError, Registration, Registry};
use edgehold_core::{BoxFuture, ServiceKey};
use serde::Deserialize;

use crate::{
    ConsulSettings,
    address::host_in_url,
    agent::{self, HttpCheck},
    client::{Client, Session},
};

/// How long a service may fail its health check until Consul forgets it. Long enough for somebody to see that it fails,
/// and one that comes back, or was only out of reach, registers again.
const DEREGISTER_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The services registered with a Consul agent, as EdgeX 3 registers them: id and name are the service key, the check on
/// `/api/v3/ping` has the same id. A second check, `<service key>:ready` on `/readyz`, tells whether data gets through.
///
/// A service that has failed the first one for a week is removed by Consul; one that only the second one fails stays.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use edgehold_config::Registry;
/// use edgehold_consul::{ConsulAddress, ConsulRegistry, ConsulSettings};
/// use edgehold_core::ServiceKey;
///
/// let address = ConsulAddress { protocol: "http".to_owned(), host: "localhost".to_owned(), port: 8500 };
/// let registry = ConsulRegistry::new(ConsulSettings::new(address))?;
/// let core_metadata = registry.lookup(&ServiceKey::try_new("core-metadata")?).await?;
/// # Ok(())
/// # }
/// ```
pub struct ConsulRegistry {
    client: Client,
}

impl ConsulRegistry {
    /// The agent these settings lead to. Connects to nothing yet. For `https` the process must have installed a TLS
    /// provider.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] when the settings cannot be used in a request.
    pub fn new(settings: ConsulSettings) -> Result<Self, ProviderError> {
        Ok(Self {
            client: Client::new(settings)?,
        })
    }
}

impl Registry for ConsulRegistry {
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
            let id = service_key.as_str();
            let scheme = if *https { "https" } else { "http" };
            let url = |path: &str| format!("{scheme}://{}:{port}{path}", host_in_url(host));
            let ping = &HttpCheck {
                id,
                name: format!("Health Check: {id}"),
                notes: "Check the health of the API",
                service_id: id,
                url: url("/api/v3/ping"),
                interval: *health_check_interval,
                deregister_after: Some(DEREGISTER_AFTER),
            };
            let ready = &HttpCheck {
                id: &format!("{id}:ready"),
                name: format!("Readiness Check: {id}"),
                notes: "Check whether data is taken in and kept safely",
                service_id: id,
                url: url("/readyz"),
                interval: *health_check_interval,
                deregister_after: None,
            };
            let register = |session| async move {
                agent::register_service(&session, id, host, *port).await?;
                agent::register_check(&session, ping).await?;
                agent::register_check(&session, ready).await
            };
            self.client.with_token(register).await
        })
    }

    fn deregister<'a>(&'a self, service_key: &'a ServiceKey) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let id = service_key.as_str();
            let deregister = |session: Session<'a>| async move { session.deregister(id).await };
            match self.client.with_token(deregister).await {
                Ok(()) => Ok(()),
                Err(error @ ProviderError::Denied { .. }) => Err(error),
                // With access control on, an unknown service is a 500 in Consul 1.8; in later versions it is a 404.
                Err(error) => match self.lookup(service_key).await {
                    Ok(None) => Ok(()),
                    _ => Err(error),
                },
            }
        })
    }

    fn lookup<'a>(
        &'a self,
        service_key: &'a ServiceKey,
    ) -> BoxFuture<'a, Result<Option<Endpoint>, ProviderError>> {
        Box::pin(async move {
            let services = |session: Session<'a>| async move { session.agent_services().await };
            let mut services = self.client.with_token(services).await?;
            let Some(service) = services.remove(service_key.as_str()) else {
                return Ok(None);
            };
            let AgentService { address, port } = serde_json::from_value(service).map_err(|error| {
                self.client
                    .anonymous()
                    .unexpected(format!("the entry of {service_key}: {error}"))
            })?;
            Ok(Some(Endpoint { host: address, port }))
        })
    }
}

/// What we read of one of the agent's services.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
struct AgentService {
    address: String,
    port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_agent_tells_where_its_services_are() {
        let body = include_str!("../testdata/agent-services.body");
        let mut services: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body).unwrap();

        let service: AgentService =
            serde_json::from_value(services.remove("core-metadata").unwrap()).unwrap();

        assert_eq!(
            service,
            AgentService {
                address: "localhost".to_owned(),
                port: 59881
            }
        );
    }
}
