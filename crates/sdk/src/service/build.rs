//! From a builder and the configuration to a service: everything fallible, without taking a single delivery.

use std::{net::SocketAddr, sync::Arc};

use edgehold_api::{Api, ConfigShown, Https, MetricsView};
use edgehold_clients::Clients;
use edgehold_config::{
    Configuration, Rejection,
    configuration::LogLevel,
    secrets::{InsecureSecretProvider, InsecureSecretStorer},
    without_passwords,
};
use edgehold_contracts::Generation;
use edgehold_core::{
    ByteBudget, FunctionRegistry, MessagePublisher, Pipeline, PipelineId, SecretProvider, SecretStorer,
    ServiceKey, Shutdown, TargetType,
};
use edgehold_runtime::{
    Batches, Books, Destinations, Dispatch, Drain, ErrorCollection, Health, Keeper, PipelineRejection,
    Pipelines, ServiceIdentity, StoreState, Wake,
};
use edgehold_telemetry::{
    CurrentMetrics, MeteredSecrets, MetricsManager, Reporter, ServiceMetrics, Source, exposition,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    AppService, StartError,
    version::{release, sdk_version, version},
};
use crate::{
    bootstrap::{self, Access, Loaded},
    draft::PipelineDraft,
    durability::Durability,
    invocation::Invocation,
    live::{LiveHooks, LiveSettings},
    logging::{LogControl, LogOutput, ServiceLog},
    membership::{self, Membership},
    metrics::KeptNumbers,
    publishing::BusMessages,
    running::{Parts, Running},
    section,
    setup::{Added, Handles, PipelineControl, Setup, StopHandle, build_all},
    store::StoreOpener,
    trigger::{self, Companion, Origin},
};

/// A service with everything made and nothing started.
pub struct Built {
    configuration: Arc<Configuration>,
    parts: Parts,
    begun: Instant,
}

impl Built {
    /// The address the REST interface listens on.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn rest_address(&self) -> std::io::Result<SocketAddr> {
        self.parts.listener.local_addr()
    }

    /// Starts everything. Must be called inside a tokio runtime.
    pub fn spawn(self) -> Running {
        tracing::info!("Service started in: {:?}", self.begun.elapsed());
        if self.configuration.writable.store_and_forward.enabled {
            let setting = |name: &str| {
                let path = format!("Writable/StoreAndForward/{name}");
                self.configuration.leaves().shown(&path).unwrap_or_default()
            };
            tracing::info!(
                "Starting StoreAndForward Retry Loop with {} RetryInterval and {} max retries",
                setting("RetryInterval"),
                setting("MaxRetryCount")
            );
        }
        Running::start(self.parts)
    }
}

impl AppService {
    /// Makes everything that can fail, without taking a single delivery.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn build(self, invocation: &Invocation) -> Result<Built, StartError> {
        let begun = Instant::now();
        // TLS clients take the process's provider; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let service_key = ServiceKey::try_new(&invocation.flags.service_key(&self.service_key))?;
        let generation = bootstrap::generation(invocation);
        let log = start_log(invocation, &service_key, generation);
        let Loaded {
            layers,
            effective,
            provider,
            notices,
        } = bootstrap::load(invocation, &service_key, Access::Seed).await?;
        let configuration = effective.configuration.clone();
        log.0.set_level(configuration.writable.log_level);

        let (writable_out, writable) = watch::channel(configuration.writable.clone());
        let storer: Arc<dyn SecretStorer> =
            Arc::new(InsecureSecretStorer::new(provider.clone(), writable.clone()));
        let metrics = Arc::<ServiceMetrics>::default();
        let secrets: Arc<dyn SecretProvider> = Arc::new(MeteredSecrets {
            secrets: Arc::new(InsecureSecretProvider::new(writable)),
            requested: metrics.secrets_requested.clone(),
        });
        let https = Https::from_settings(&configuration.http_server, secrets.clone()).await?;
        let budget = ByteBudget::new(configuration.limits.max_in_flight_bytes);
        let origin = Origin {
            configuration: &configuration,
            service_key: &service_key,
            data_dir: &invocation.flags.data_dir,
            secrets: &secrets,
            budget: budget.clone(),
            envelope_form: trigger::envelope_form(invocation, generation),
        };
        let mut ingress = trigger::build(self.trigger, self.custom_triggers, origin.clone()).await?;
        if let Some(notices) = notices {
            ingress
                .companions
                .extend(trigger::listening(&origin, notices).await);
        }
        let messages = |states_api_version| {
            ingress.publisher.clone().map(|bus| {
                let messages: Arc<dyn MessagePublisher> = Arc::new(BusMessages {
                    bus,
                    base_topic_prefix: configuration.message_bus.base_topic_prefix.clone(),
                    generation,
                    base64_payload: invocation.flags.base64_payload,
                    states_api_version,
                });
                messages
            })
        };
        let identity = ServiceIdentity {
            service_key: service_key.clone(),
            generation,
            secrets: secrets.clone(),
            publisher: messages(true),
            observer: metrics.clone(),
        };

        let books = Arc::new(Books::default());
        if let Some(loss) = ingress.loss {
            books.tell_loss(loss);
        }
        let wake = Arc::new(Wake::default());
        let (store_state, queue) = watch::channel(StoreState::Opening);
        let (errors, error_runs) = ErrorCollection::new(queue.clone(), books.clone(), wake.clone());
        let (ending, ending_signal) = Shutdown::new();
        let (replace, replacements) = mpsc::channel(1);
        let (stop, stop_requested) = watch::channel(false);
        let membership =
            Membership::configured(invocation, &configuration, &service_key).map_err(StartError::Registry)?;
        let own_metrics = MetricsManager::default();
        let handles = Handles {
            pipelines: PipelineControl(replace),
            stop: StopHandle(stop),
            ending: ending_signal,
            metrics: own_metrics.clone(),
            writable: writable_out.subscribe(),
            errors: errors.clone(),
            books: books.clone(),
            registry: membership.as_ref().map(|membership| membership.registry.clone()),
        };
        // In dev mode everything is on this machine, whatever the registry says.
        let addresses = match &membership {
            Some(membership) if !invocation.flags.dev => {
                membership::discover(&*membership.registry, &configuration.clients).await
            }
            _ => configuration.clients.clone(),
        };
        // Each keeps connections and root certificates: only for code that can use them.
        let clients = if self.hooks.is_empty() {
            Clients::default()
        } else {
            let limit = configuration.service.request_timeout;
            Clients::new(&addresses, generation, limit).map_err(|error| StartError::Setup(error.into()))?
        };
        let mut functions = self.functions;
        let mut added = Added {
            routes: self.routes,
            functions: self.own_functions,
            ..Added::default()
        };
        for hook in self.hooks {
            let mut setup = Setup {
                identity: &identity,
                configuration: &configuration,
                layers: &layers,
                functions: &mut functions,
                added: &mut added,
                handles: &handles,
                clients: &clients,
                connections: &self.connections,
            };
            hook(&mut setup).map_err(StartError::Setup)?;
        }

        let prefix = trigger::topic_prefix(&configuration);
        let pipelines = pipelines(functions, prefix, self.pipelines, added.drafts, self.target_type)?;
        let elsewhere = added.sections_elsewhere;
        let sections_elsewhere =
            provider
                .clone()
                .filter(|_| !elsewhere.is_empty())
                .map(|provider| -> Companion {
                    let layers = layers.clone();
                    Box::new(move |shutdown| Box::pin(section::follow(provider, layers, elsewhere, shutdown)))
                });
        let hooks = LiveHooks {
            writable: writable_out,
            sections: added.sections,
            replacements,
        };
        let (live, view) = LiveSettings::new(layers, effective, pipelines, log.0.clone(), hooks)
            .map_err(|rejections| StartError::Pipelines(list(&rejections)))?;

        let mut version_check = bootstrap::version_check(invocation, &addresses);
        if let Some(check) = &mut version_check {
            check.at_start().await?;
        }
        let opener = StoreOpener {
            service_key: service_key.clone(),
            database: configuration.database.clone(),
            data_dir: invocation.flags.data_dir.clone(),
            spool_max_bytes: configuration.limits.spool_max_bytes,
            factories: self.stores,
            secrets,
            db_name: invocation.flags.db_name.clone(),
            wake: wake.clone(),
        };
        let opened = match configuration.writable.store_and_forward.enabled {
            true => Some(opener.open().await?),
            false => None,
        };
        let listener = listen(&configuration).await?;

        let (health, drain) = (Arc::new(Health::default()), Arc::new(Drain::default()));
        let destinations = Arc::new(Destinations::new(
            view.writable.clone(),
            queue.clone(),
            budget.total(),
        ));
        let keeper = Arc::new(Keeper::new(
            service_key.clone(),
            view.writable.clone(),
            queue.clone(),
            books.clone(),
            health.clone(),
        ));
        let batches = Arc::new(Batches::new(budget.total(), books.clone()));
        let sources: Vec<Arc<dyn Source>> = vec![
            Arc::new(CurrentMetrics {
                metrics: metrics.clone(),
                pipelines: view.pipelines.clone(),
            }),
            Arc::new(KeptNumbers {
                books: books.clone(),
                queue: queue.clone(),
                destinations: destinations.clone(),
                effective: view.effective.clone(),
            }),
            Arc::new(own_metrics),
        ];
        let reporter = Reporter {
            service_key: service_key.clone(),
            settings: view.writable.clone(),
            sources: sources.clone(),
            publisher: messages(generation == Generation::V4),
            metrics,
        };
        let effective = view.effective;
        let api = Api {
            service_key: service_key.clone(),
            generation,
            version: release(generation).to_owned(),
            sdk_version: sdk_version(generation),
            config: Arc::new(move || {
                let effective = effective.borrow().clone();
                ConfigShown {
                    config: effective.configuration.to_json(),
                    rejected: effective.rejected.iter().map(Rejection::to_json).collect(),
                }
            }),
            metrics: for_prometheus(service_key, sources),
            books: books.clone(),
            queue: queue.clone(),
            health,
            drain: drain.clone(),
            limits: limits(&configuration, budget),
            cors: configuration.service.cors.clone(),
            https: https.map(Arc::new),
            secrets: storer,
            trigger: ingress.inlet,
            routes: added.routes,
            errors,
            admin: invocation.flags.admin,
        };
        let dispatch = Dispatch {
            identity,
            pipelines: view.pipelines,
            settings: view.writable,
            keeper,
            books,
            wake,
            destinations,
            batches,
            response: ingress.response,
        };
        let parts = Parts {
            startup_message: configuration.service.startup_msg.clone(),
            live,
            provider,
            trigger: ingress.trigger,
            companions: ingress.companions,
            background: added.background,
            sections_elsewhere,
            ending,
            stop_requested,
            durability: Durability {
                bus: ingress.session,
                own_functions: added.functions,
            },
            export_connections: self.export_connections,
            opener,
            opened,
            membership,
            version_check,
            listener,
            log,
            store_state,
            queue,
            error_runs,
            drain,
            api,
            dispatch,
            reporter,
        };
        Ok(Built {
            configuration,
            parts,
            begun,
        })
    }
}

fn start_log(invocation: &Invocation, service_key: &ServiceKey, generation: Generation) -> ServiceLog {
    let log = LogControl::init(
        service_key.as_str(),
        LogLevel::Info,
        LogOutput::Stdout,
        invocation.flags.log_format,
    );
    log.set_app(service_key.as_str());
    log.set_local_time(generation == Generation::V4);
    tracing::info!("Starting {service_key} {}", version(generation));
    if invocation.flags.secure {
        tracing::warn!(
            "secure mode is not supported by this build: secrets come from Writable/InsecureSecrets and REST asks for no \
             token; set EDGEX_SECURITY_SECRET_STORE=false to say that this is meant"
        );
    }
    ServiceLog(log)
}

/// The pipelines made in code, and what those of the settings are built with.
fn pipelines(
    functions: FunctionRegistry,
    topic_prefix: Option<String>,
    made: Vec<Pipeline>,
    drafts: Vec<PipelineDraft>,
    target_type: Option<TargetType>,
) -> Result<Pipelines, StartError> {
    let mut pipelines = Pipelines::new(functions, topic_prefix);
    let (registry, prefix) = (pipelines.registry(), pipelines.topic_prefix());
    let known = |id: &PipelineId| made.iter().any(|pipeline| pipeline.id() == id);
    let drafted = build_all(drafts, registry, prefix, known)
        .map_err(|error| StartError::Pipelines(error.to_string()))?;
    for pipeline in made.into_iter().chain(drafted) {
        pipelines.add_fixed(pipeline);
    }
    if let Some(target_type) = target_type {
        pipelines.set_target_type(target_type);
    }
    Ok(pipelines)
}

fn list(rejections: &[PipelineRejection]) -> String {
    rejections
        .iter()
        .map(|r| format!("{}: {}", r.key, without_passwords(&r.reason)))
        .collect::<Vec<_>>()
        .join("; ")
}

/// What a request may take. What the trigger `http` takes in is a message too.
fn limits(configuration: &Configuration, budget: ByteBudget) -> edgehold_api::Limits {
    let longest_message = configuration.limits.max_message_bytes as u64;
    edgehold_api::Limits {
        max_request_bytes: match configuration.service.max_request_bytes {
            Some(configured) => configured.min(longest_message),
            None => longest_message,
        },
        request_timeout: configuration.service.request_timeout,
        budget,
    }
}

async fn listen(configuration: &Configuration) -> Result<TcpListener, StartError> {
    let service = &configuration.service;
    let address = format!("{}:{}", service.bind_host(), service.port);
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|source| StartError::Listen {
            address: address.clone(),
            source,
        })?;
    let protocol = match configuration.http_server.protocol.as_str() {
        "https" => "HTTPS",
        _ => "HTTP",
    };
    tracing::info!("Starting {protocol} Web Server on address {address}");
    Ok(listener)
}

/// The metrics as a text, made anew each time.
fn for_prometheus(service_key: ServiceKey, sources: Vec<Arc<dyn Source>>) -> MetricsView {
    Arc::new(move || {
        let (service_key, sources) = (service_key.clone(), sources.clone());
        Box::pin(async move { exposition(&service_key, &sources).await })
    })
}
