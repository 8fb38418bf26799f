//! The registry over a Consul agent: services with an HTTP check on `/api/v3/ping`.

use edgehold_config::{Endpoint, ProviderError, Registration, Registry};
use edgehold_core::{BoxFuture, SecretText, ServiceKey};
use serde::Deserialize;

use crate::{
    ConsulAddress,
    address::host_in_url,
    agent::{Agent, HttpCheck, is_plain},
    client::Client,
};

/// The services registered with a Consul agent, as EdgeX 3 registers them: id and name are the service key, the check
/// has the same id.
///
/// Consul is never told to remove a service whose check has failed for long: nobody would register it again while it
/// runs, and one that has crashed replaces its entry when it comes back.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use edgehold_config::Registry;
/// use edgehold_consul::{ConsulAddress, ConsulRegistry};
/// use edgehold_core::ServiceKey;
///
/// let address = ConsulAddress { protocol: "http".to_owned(), host: "localhost".to_owned(), port: 8500 };
/// let registry = ConsulRegistry::new(&address, None)?;
/// let core_metadata = registry.lookup(&ServiceKey::try_new("core-metadata")?).await?;
/// # Ok(())
/// # }
/// ```
pub struct ConsulRegistry {
    client: Client,
    agent: Agent,
}

impl ConsulRegistry {
    /// The agent at `address`, with an access token in secure mode. Connects to nothing yet. For `https` the process
    /// must have installed a TLS provider.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] when the address or the token cannot be used in a request.
    pub fn new(address: &ConsulAddress, token: Option<SecretText>) -> Result<Self, ProviderError> {
        let client = Client::new(address, token.as_ref())?;
        Ok(Self {
            client,
            agent: Agent::new(address, token.as_ref())?,
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
                health_check_interval,
            } = registration;
            if host.is_empty() || *port == 0 || health_check_interval.is_zero() {
                let why = "registering needs Service.Host, Service.Port and Service.HealthCheckInterval";
                return Err(ProviderError::Configuration(why.to_owned()));
            }
            let id = service_key.as_str();
            self.agent.register_service(id, host, *port).await?;
            let url = format!("http://{}:{port}/api/v3/ping", host_in_url(host));
            self.agent
                .register_check(&HttpCheck {
                    service_id: id,
                    url,
                    interval: *health_check_interval,
                })
                .await
        })
    }

    fn deregister<'a>(&'a self, service_key: &'a ServiceKey) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let id = service_key.as_str();
            let result = if is_plain(id) {
                self.agent.deregister_service(id).await
            } else {
                self.client.deregister(id).await
            };
            match result {
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
            let mut services = self.client.agent_services().await?;
            let Some(service) = services.remove(service_key.as_str()) else {
                return Ok(None);
            };
            let AgentService { address, port } = serde_json::from_value(service).map_err(|error| {
                self.client
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
