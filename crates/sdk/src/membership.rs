//! Being known to the registry: where this service tells others it is, and where others say they are.
//!
//! ```text
//! listening ─► register ─► look ─► (each health check interval) look again ──► told to end ─► deregister
//!                ▲   └ fails: again after a second    │
//!                └──────── forgotten, or moved ◄──────┘
//! ```
//!
//! An agent that comes back with an empty data folder has forgotten its services, and Consul removes one that has failed
//! its health check for long: whoever still runs registers again. The same task deregisters, so that nothing it has
//! begun can arrive after that.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use edgehold_config::{Client, Configuration, Endpoint, ProviderError, Registration, Registry};
use edgehold_consul::{ConsulAddress, ConsulRegistry, ConsulSettings};
use edgehold_core::{ServiceKey, ShutdownSignal};
use edgehold_keeper::{KeeperRegistry, KeeperSettings};

use crate::invocation::Invocation;

/// The pause between two tries to register.
const REGISTRATION_PAUSE: Duration = Duration::from_secs(1);

/// A registry and what this service tells it.
#[derive(Clone)]
pub(crate) struct Membership {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) registration: Registration,
}

impl Membership {
    /// What flags and settings say; none when the service is not to be known. The error names the setting that is wrong.
    pub(crate) fn configured(
        invocation: &Invocation,
        configuration: &Configuration,
        service_key: &ServiceKey,
    ) -> Result<Option<Self>, String> {
        if !invocation.flags.registry {
            return Ok(None);
        }
        let settings = &configuration.registry;
        if settings.host.is_empty() || settings.port == 0 {
            return Err("Registry/Host or Registry/Port is not set".to_owned());
        }
        // The settings of the registry say nothing of TLS: it is the same server as the provider.
        let provider = invocation.flags.config_provider.as_ref();
        let protocol = provider.map_or("http", |provider| &provider.protocol);
        let registry: Result<Arc<dyn Registry>, ProviderError> = match settings.kind.to_lowercase().as_str() {
            "consul" => {
                let address = ConsulAddress {
                    protocol: protocol.to_owned(),
                    host: settings.host.clone(),
                    port: settings.port,
                };
                ConsulSettings::from_environment(address, &invocation.environment)
                    .and_then(ConsulRegistry::new)
                    .map(|registry| Arc::new(registry) as _)
            }
            "keeper" => KeeperSettings::new(protocol, &settings.host, settings.port)
                .and_then(KeeperRegistry::new)
                .map(|registry| Arc::new(registry) as _),
            _ => {
                return Err(format!(
                    "Registry/Type '{}' is neither 'consul' nor 'keeper'",
                    settings.kind
                ));
            }
        };
        let registry = registry.map_err(|error| error.to_string())?;
        let service = &configuration.service;
        let registration = Registration {
            service_key: service_key.clone(),
            host: service.host.clone(),
            port: service.port,
            https: configuration.http_server.protocol == "https",
            health_check_interval: service.health_check_interval,
        };
        Ok(Some(Self {
            registry,
            registration,
        }))
    }

    /// Registers, stays registered, and deregisters when told to end.
    pub(crate) async fn run(self, mut shutdown: ShutdownSignal) {
        let Self {
            registry,
            registration,
        } = self;
        let (mut registered, mut known, mut away) = (false, false, false);
        while !shutdown.is_triggered() {
            let pause = if known {
                registration.health_check_interval
            } else {
                // Never given up in the middle: what has begun must not arrive after the deregistration.
                match registry.register(&registration).await {
                    Ok(()) => {
                        registered = true;
                        tracing::info!("registered with {}", registry.describe());
                    }
                    Err(error) => tracing::warn!("cannot register yet: {error}"),
                }
                REGISTRATION_PAUSE
            };
            let look = async {
                tokio::time::sleep(pause).await;
                registry.lookup(&registration.service_key).await
            };
            // Cancel-safe: a look leaves nothing behind.
            let found = tokio::select! {
                () = shutdown.recv() => break,
                found = look => found,
            };
            match found {
                Ok(found) => {
                    let ours = found.as_ref().is_some_and(|at| is_ours(at, &registration));
                    if known && !ours {
                        let name = registry.describe();
                        tracing::warn!("{name} has forgotten this service; registering again");
                    }
                    (known, away) = (registered && ours, false);
                }
                Err(error) if !away => {
                    away = true;
                    tracing::warn!("cannot see whether this service is still registered: {error}");
                }
                Err(_) => {}
            }
        }
        tracing::info!("Un-Registering service from the Registry");
        if let Err(error) = registry.deregister(&registration.service_key).await {
            tracing::error!("cannot deregister: {error}");
        }
    }
}

fn is_ours(endpoint: &Endpoint, registration: &Registration) -> bool {
    endpoint.host == registration.host && endpoint.port == registration.port
}

/// The clients of the configuration, with the hosts and ports that the registry has for them. One that it does not know
/// keeps what is configured, loudly.
pub(crate) async fn discover(
    registry: &dyn Registry,
    configured: &BTreeMap<String, Client>,
) -> BTreeMap<String, Client> {
    let mut clients = configured.clone();
    let name = registry.describe();
    for (service_key, client) in &mut clients {
        let Ok(key) = ServiceKey::try_new(service_key) else {
            continue;
        };
        match registry.lookup(&key).await {
            Ok(Some(Endpoint { host, port })) if !host.is_empty() && port > 0 => {
                tracing::info!("Using {service_key} at {host}:{port}, as {name} says");
                client.host = host;
                client.port = port;
            }
            Ok(_) => tracing::warn!(
                "{service_key} is not registered with {name}: using the configured address {}:{}",
                edgehold_config::shown("Host", &client.host),
                client.port
            ),
            Err(error) => {
                tracing::warn!("cannot look up other services: {error}; using their configured addresses");
                return configured.clone();
            }
        }
    }
    clients
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use edgehold_config::ProviderError;
    use edgehold_core::{BoxFuture, Shutdown};

    use super::*;

    /// A registry that does what it is told next, and tells what it was asked.
    #[derive(Default)]
    struct Scripted {
        entries: Mutex<BTreeMap<String, Endpoint>>,
        refusals: Mutex<u32>,
        calls: Mutex<Vec<&'static str>>,
    }

    impl Scripted {
        fn calls(&self, name: &str) -> usize {
            self.calls
                .lock()
                .unwrap()
                .iter()
                .filter(|call| **call == name)
                .count()
        }

        fn forget(&self) {
            self.entries.lock().unwrap().clear();
        }

        fn answer(&self, call: &'static str) -> Result<(), ProviderError> {
            self.calls.lock().unwrap().push(call);
            let mut refusals = self.refusals.lock().unwrap();
            if *refusals == 0 {
                return Ok(());
            }
            *refusals -= 1;
            Err(ProviderError::Unavailable {
                provider: "scripted".to_owned(),
                reason: "as told".to_owned(),
                source: None,
            })
        }
    }

    impl Registry for Scripted {
        fn describe(&self) -> String {
            "scripted".to_owned()
        }

        fn register<'a>(&'a self, of: &'a Registration) -> BoxFuture<'a, Result<(), ProviderError>> {
            Box::pin(async {
                // An answer takes a while.
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.answer("register")?;
                let endpoint = Endpoint {
                    host: of.host.clone(),
                    port: of.port,
                };
                self.entries
                    .lock()
                    .unwrap()
                    .insert(of.service_key.to_string(), endpoint);
                Ok(())
            })
        }

        fn deregister<'a>(&'a self, key: &'a ServiceKey) -> BoxFuture<'a, Result<(), ProviderError>> {
            Box::pin(async {
                self.answer("deregister")?;
                self.entries.lock().unwrap().remove(key.as_str());
                Ok(())
            })
        }

        fn lookup<'a>(
            &'a self,
            key: &'a ServiceKey,
        ) -> BoxFuture<'a, Result<Option<Endpoint>, ProviderError>> {
            Box::pin(async {
                self.answer("lookup")?;
                Ok(self.entries.lock().unwrap().get(key.as_str()).cloned())
            })
        }
    }

    fn membership(registry: &Arc<Scripted>) -> Membership {
        Membership {
            registry: registry.clone(),
            registration: Registration {
                service_key: ServiceKey::try_new("app-x").unwrap(),
                host: "here".to_owned(),
                port: 59704,
                https: false,
                health_check_interval: Duration::from_secs(10),
            },
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_registry_forgets_is_told_again_and_what_it_knows_is_not() {
        let registry = Arc::new(Scripted::default());
        *registry.refusals.lock().unwrap() = 3;
        let (shutdown, signal) = Shutdown::new();
        let script = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(
                !registry.entries.lock().unwrap().is_empty(),
                "refused at first, then registered"
            );
            let told = registry.calls("register");
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(registry.calls("register"), told, "it is known");

            registry.forget();
            tokio::time::sleep(Duration::from_secs(12)).await;
            assert_eq!(registry.calls("register"), told + 1);
            assert!(!registry.entries.lock().unwrap().is_empty());

            // A registry that is away has not forgotten.
            *registry.refusals.lock().unwrap() = 3;
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(registry.calls("register"), told + 1);

            let elsewhere = Endpoint {
                host: "elsewhere".to_owned(),
                port: 1,
            };
            registry
                .entries
                .lock()
                .unwrap()
                .insert("app-x".to_owned(), elsewhere);
            tokio::time::sleep(Duration::from_secs(12)).await;
            assert_eq!(registry.entries.lock().unwrap()["app-x"].host, "here");
            shutdown.trigger();
        };
        tokio::join!(membership(&registry).run(signal), script);
        assert_eq!(registry.calls("deregister"), 1);
        assert!(registry.entries.lock().unwrap().is_empty());
    }

    /// §12, 26: nothing of a service is left behind, also when it ends while it is registering.
    #[tokio::test(start_paused = true)]
    async fn an_end_in_the_middle_of_a_registration_leaves_nothing_behind() {
        let registry = Arc::new(Scripted::default());
        let (shutdown, signal) = Shutdown::new();
        let end = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            shutdown.trigger();
        };
        tokio::join!(membership(&registry).run(signal), end);
        assert_eq!(*registry.calls.lock().unwrap(), ["register", "deregister"]);
        assert!(registry.entries.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn clients_are_where_the_registry_says_and_else_where_they_are_configured() {
        let client = |host: &str, port| Client {
            protocol: "http".to_owned(),
            host: host.to_owned(),
            port,
            use_message_bus: false,
            security_options: BTreeMap::new(),
        };
        let configured = BTreeMap::from([
            ("core-data".to_owned(), client("configured", 1)),
            ("core-metadata".to_owned(), client("configured", 2)),
        ]);
        let registry = Scripted::default();
        registry.entries.lock().unwrap().insert(
            "core-metadata".to_owned(),
            Endpoint {
                host: "registered".to_owned(),
                port: 59881,
            },
        );

        let found = discover(&registry, &configured).await;

        let expected = BTreeMap::from([
            ("core-data".to_owned(), client("configured", 1)),
            ("core-metadata".to_owned(), client("registered", 59881)),
        ]);
        assert_eq!(found, expected);

        *registry.refusals.lock().unwrap() = 1;
        let before = registry.calls("lookup");
        assert_eq!(discover(&registry, &configured).await, configured);
        assert_eq!(
            registry.calls("lookup"),
            before + 1,
            "one that is away is not asked again"
        );
    }
}
