//! The builder of a service: what it is made of, and everything fallible before it serves.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use edgehold_api::{Api, ConfigShown, CustomRoute, Https, HttpsError, MetricsView};
use edgehold_clients::{Clients, VersionCheck, VersionMismatch};
use edgehold_config::{
    Admin, Configuration, Registration, Rejection,
    configuration::LogLevel,
    secrets::{InsecureSecretProvider, InsecureSecretStorer},
    usage, without_passwords,
};
use edgehold_consul::{ConsulAddress, ConsulRegistry, ConsulSettings};
use edgehold_contracts::Generation;
use edgehold_core::{
    ByteBudget, FunctionFactory, FunctionRegistry, InvalidId, MessagePublisher, Pipeline, PipelineId,
    SecretProvider, SecretStorer, ServiceKey, Shutdown, TargetType, Trigger, TriggerError,
};
use edgehold_export::mqtt::{ConnectionRunner, Connections};
use edgehold_runtime::{
    Batches, Books, Destinations, Dispatch, Drain, ErrorCollection, ErrorRuns, Health, Keeper,
    PipelineRejection, Pipelines, QueueHandle, ServiceIdentity, StoreState, Wake,
};
use edgehold_store::{CustomStoreFactory, InvalidStoreName, StoreError, StoreFactories};
use edgehold_telemetry::{
    CurrentMetrics, MeteredSecrets, MetricsManager, Reporter, ServiceMetrics, Source, exposition,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    bootstrap::{self, Access, ConfigurationError, Loaded},
    durability::Durability,
    invocation::{Invocation, InvocationError},
    live::{LiveHooks, LiveSettings, LiveView},
    logging::{LogControl, LogOutput, ServiceLog, with_causes},
    membership::{self, Membership},
    metrics::KeptNumbers,
    publishing::{BusMessages, base64_payload},
    running::{Parts, Running},
    section,
    setup::{Added, Handles, PipelineControl, Setup, SetupError, SetupHook, StopHandle, build_all},
    sources,
    store::{Opened, StoreOpener},
    trigger::{self, Companion, CustomTriggers, Ingress, InvalidTriggerName, Origin, TriggerContext},
};

/// How long a service may take to end: less than the ten seconds containers are given.
const GRACE: Duration = Duration::from_secs(8);

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

/// Builds an application service. Everything not added here comes from its configuration.
pub struct AppService {
    service_key: String,
    functions: FunctionRegistry,
    /// What the connections of `MQTTExport` live in.
    export_connections: ConnectionRunner,
    connections: Connections,
    stores: StoreFactories,
    pipelines: Vec<Pipeline>,
    trigger: Option<Box<dyn Trigger>>,
    custom_triggers: CustomTriggers,
    routes: Vec<CustomRoute>,
    hooks: Vec<SetupHook>,
    target_type: Option<TargetType>,
    /// Whether a function or a pipeline was added.
    own_functions: bool,
}

/// What a configuration of a service is checked against.
pub(crate) struct Requirements {
    pub(crate) service_key: String,
    pub(crate) functions: FunctionRegistry,
    /// Those made in code.
    pub(crate) pipelines: Vec<Pipeline>,
    /// Whether it needs none of the settings.
    pub(crate) has_trigger: bool,
    pub(crate) custom_triggers: CustomTriggers,
    pub(crate) stores: StoreFactories,
    /// Never run, so that no function that is built for a check connects; held, so that none says that they have ended.
    _export_connections: ConnectionRunner,
}

impl AppService {
    /// A service with all built-in functions. `service_key` may contain `<profile>`, which the profile (`-p`) fills;
    /// `-sk` replaces it.
    pub fn new(service_key: &str) -> Self {
        let mut functions = FunctionRegistry::default();
        edgehold_functions::register(&mut functions, sources::of_this_system());
        let (connections, export_connections) = Connections::new();
        edgehold_export::register(&mut functions, connections.clone());
        Self {
            service_key: service_key.to_owned(),
            export_connections,
            connections,
            functions,
            stores: StoreFactories::default(),
            pipelines: Vec::new(),
            trigger: None,
            custom_triggers: CustomTriggers::default(),
            routes: Vec::new(),
            hooks: Vec::new(),
            target_type: None,
            own_functions: false,
        }
    }

    /// Adds a function that pipelines can name, or replaces a built-in one of this name.
    #[must_use]
    pub fn with_function(mut self, name: &str, factory: impl FunctionFactory + 'static) -> Self {
        self.functions.register(name, factory);
        self.own_functions = true;
        self
    }

    /// Adds a store that `Database.Type` can name, whatever the case.
    ///
    /// # Errors
    /// [`InvalidStoreName`] when the name is blank or a built-in one.
    pub fn with_custom_store(
        mut self,
        name: &str,
        factory: CustomStoreFactory,
    ) -> Result<Self, InvalidStoreName> {
        self.stores.register(name, factory)?;
        Ok(self)
    }

    /// Adds a pipeline made in code, which settings never change.
    #[must_use]
    pub fn with_pipeline(mut self, pipeline: Pipeline) -> Self {
        self.pipelines.push(pipeline);
        self.own_functions = true;
        self
    }

    /// Takes deliveries from this trigger instead of the one `Trigger.Type` names.
    #[must_use]
    pub fn with_trigger(mut self, trigger: impl Trigger + 'static) -> Self {
        self.trigger = Some(Box::new(trigger));
        self
    }

    /// Adds a trigger that `Trigger.Type` can name, whatever the case. The factory is called when it does.
    /// (EdgeX: `RegisterCustomTriggerFactory`.)
    ///
    /// # Errors
    /// [`InvalidTriggerName`] when the name is blank or a built-in one.
    pub fn with_custom_trigger(
        mut self,
        name: &str,
        factory: impl FnOnce(TriggerContext) -> Result<Box<dyn Trigger>, TriggerError> + Send + 'static,
    ) -> Result<Self, InvalidTriggerName> {
        self.custom_triggers.register(name, Box::new(factory))?;
        Ok(self)
    }

    /// Decodes payloads into this, whatever `Writable.Pipeline.TargetType` says.
    /// (EdgeX: `NewAppServiceWithTargetType`; a type of one's own is decoded by the first function, from `raw`.)
    #[must_use]
    pub fn with_target_type(mut self, target_type: TargetType) -> Self {
        self.target_type = Some(target_type);
        self
    }

    /// Runs this once the configuration is known and before anything starts: the place to read settings, to add what
    /// depends on them, and to take the handles that functions and tasks of one's own need.
    #[must_use]
    pub fn with_setup(
        mut self,
        hook: impl FnOnce(&mut Setup<'_>) -> Result<(), SetupError> + Send + 'static,
    ) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }

    /// Adds a route to the REST interface.
    #[must_use]
    pub fn with_route(mut self, route: CustomRoute) -> Self {
        self.routes.push(route);
        self
    }

    /// The service key as given, the functions, and the pipelines made in code.
    pub(crate) fn into_pipeline_parts(self) -> (String, FunctionRegistry, Vec<Pipeline>) {
        (self.service_key, self.functions, self.pipelines)
    }

    /// What tells which configurations suit this service.
    pub(crate) fn into_requirements(self) -> Requirements {
        let Self {
            service_key,
            functions,
            pipelines,
            trigger,
            custom_triggers,
            stores,
            export_connections,
            ..
        } = self;
        Requirements {
            _export_connections: export_connections,
            service_key,
            functions,
            pipelines,
            has_trigger: trigger.is_some(),
            custom_triggers,
            stores,
        }
    }

    /// Runs the service as a whole process: flags and environment of this process, until SIGINT or SIGTERM.
    pub fn main(self) -> ExitCode {
        let result = Invocation::from_process()
            .map_err(StartError::from)
            .and_then(|invocation| {
                if let Some(word) = invocation.command.first() {
                    return Err(StartError::UnknownCommand(word.clone()));
                }
                self.block_on(&invocation)
            });
        exit(result)
    }

    /// As [`AppService::main`] for an invocation that has been read already.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn block_on(self, invocation: &Invocation) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| StartError::Ended(format!("no async runtime: {error}")))?;
        runtime.block_on(async {
            let mut running = self.build(invocation).await?.spawn();
            let stop_requested = running.stop_requested();
            let end = tokio::select! {
                name = terminating_signal() => {
                    tracing::info!("Terminating signal received: {name}");
                    Ok(())
                }
                early = running.ended_early() => Err(StartError::Ended(early)),
                () = stop_requested => {
                    tracing::info!("the service was asked to stop from within");
                    Ok(())
                }
            };
            running.drain(GRACE).await;
            end
        })
    }

    /// Makes everything that can fail, without taking a single delivery.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn build(mut self, invocation: &Invocation) -> Result<Built, StartError> {
        let begun = Instant::now();
        // TLS clients take the process's provider; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let service_key = ServiceKey::try_new(&invocation.flags.service_key(&self.service_key))?;
        let log = LogControl::init(
            service_key.as_str(),
            LogLevel::Info,
            LogOutput::Stdout,
            invocation.flags.log_format,
        );
        let service_log = ServiceLog(log.clone());
        log.set_app(service_key.as_str());
        let generation = bootstrap::generation(invocation);
        log.set_local_time(generation == Generation::V4);
        tracing::info!("Starting {service_key} {}", version(generation));
        if invocation.flags.secure {
            tracing::warn!(
                "secure mode is not supported by this build: secrets come from Writable/InsecureSecrets and REST asks for no \
                 token; set EDGEX_SECURITY_SECRET_STORE=false to say that this is meant"
            );
        }

        let Loaded {
            layers,
            effective,
            provider,
        } = bootstrap::load(invocation, &service_key, Access::Seed).await?;
        let configuration = effective.configuration.clone();
        log.set_level(configuration.writable.log_level);

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
        let longest_message = configuration.limits.max_message_bytes as u64;
        let limits = edgehold_api::Limits {
            max_request_bytes: match configuration.service.max_request_bytes {
                Some(configured) => configured.min(longest_message),
                None => longest_message,
            },
            request_timeout: configuration.service.request_timeout,
            budget: budget.clone(),
        };
        let origin = Origin {
            configuration: &configuration,
            service_key: &service_key,
            data_dir: &invocation.flags.data_dir,
            secrets: &secrets,
            budget,
            envelope_form: trigger::envelope_form(invocation, generation),
        };
        let mut ingress = match (
            self.trigger,
            self.custom_triggers.take(&configuration.trigger.kind),
        ) {
            (Some(trigger), _) => Ingress::alone(trigger),
            (None, Some(factory)) => {
                let context = TriggerContext {
                    configuration: configuration.clone(),
                    service_key: service_key.clone(),
                    secrets: secrets.clone(),
                    budget: origin.budget.clone(),
                };
                Ingress::alone(factory(context)?)
            }
            (None, None) => trigger::build(origin.clone()).await?,
        };
        let mut companions = Vec::from_iter(ingress.publication.take());
        if ingress.publisher.is_none()
            && let Some((publisher, run)) = trigger::message_bus_beside(&origin).await
        {
            ingress.publisher = Some(publisher);
            companions.push(run);
        }
        let bus = ingress.publisher.take();
        let messages = |states_api_version| {
            bus.clone().map(|bus| {
                let messages: Arc<dyn MessagePublisher> = Arc::new(BusMessages {
                    bus,
                    base_topic_prefix: configuration.message_bus.base_topic_prefix.clone(),
                    generation,
                    base64_payload: base64_payload(invocation),
                    states_api_version,
                });
                messages
            })
        };
        let telemetry = Telemetry {
            metrics: metrics.clone(),
            own: MetricsManager::default(),
            publisher: messages(generation == Generation::V4),
        };
        let identity = ServiceIdentity {
            service_key: service_key.clone(),
            generation,
            secrets: secrets.clone(),
            publisher: messages(true),
            observer: metrics,
        };

        let books = Arc::new(Books::default());
        let wake = Arc::new(Wake::default());
        let (store_state, queue) = watch::channel(StoreState::Opening);
        let (errors, error_runs) = ErrorCollection::new(queue.clone(), books.clone(), wake.clone());
        let (ending, ending_signal) = Shutdown::new();
        let (replace, replacements) = mpsc::channel(1);
        let (stop, stop_requested) = watch::channel(false);
        let membership = membership(invocation, &configuration, &service_key)?;
        let handles = Handles {
            pipelines: PipelineControl(replace),
            stop: StopHandle(stop),
            ending: ending_signal,
            metrics: telemetry.own.clone(),
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

        let mut pipelines = Pipelines::new(functions, trigger::topic_prefix(&configuration));
        let (registry, prefix) = (pipelines.registry(), pipelines.topic_prefix());
        let known = |id: &PipelineId| self.pipelines.iter().any(|pipeline| pipeline.id() == id);
        let drafted = build_all(added.drafts, registry, prefix, known)
            .map_err(|error| StartError::Pipelines(error.to_string()))?;
        for pipeline in self.pipelines.into_iter().chain(drafted) {
            pipelines.add_fixed(pipeline);
        }
        if let Some(target_type) = self.target_type {
            pipelines.set_target_type(target_type);
        }
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
        let (live, view) = LiveSettings::new(layers, effective, pipelines, log, hooks)
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
            secrets: secrets.clone(),
            db_name: invocation.flags.db_name.clone(),
            wake,
        };
        let opened = match configuration.writable.store_and_forward.enabled {
            true => Some(opener.open().await?),
            false => None,
        };
        let listener = listen(&configuration).await?;
        Ok(Built {
            configuration,
            identity,
            live,
            view,
            provider,
            ingress,
            limits,
            storer,
            https: https.map(Arc::new),
            routes: added.routes,
            companions,
            background: added.background,
            sections_elsewhere,
            books,
            ending,
            stop_requested,
            store_state,
            queue,
            errors,
            error_runs,
            admin: invocation.flags.admin,
            own_functions: added.functions,
            export_connections: self.export_connections,
            opener,
            opened,
            membership,
            version_check,
            listener,
            log: service_log,
            telemetry,
            begun,
        })
    }
}

/// A service with everything made and nothing started.
pub struct Built {
    configuration: Arc<Configuration>,
    identity: ServiceIdentity,
    live: LiveSettings,
    view: LiveView,
    provider: Option<Arc<dyn edgehold_config::ConfigurationProvider>>,
    ingress: Ingress,
    limits: edgehold_api::Limits,
    storer: Arc<dyn SecretStorer>,
    https: Option<Arc<Https>>,
    routes: Vec<CustomRoute>,
    companions: Vec<Companion>,
    background: Vec<Companion>,
    sections_elsewhere: Option<Companion>,
    books: Arc<Books>,
    ending: Shutdown,
    stop_requested: watch::Receiver<bool>,
    store_state: watch::Sender<StoreState>,
    queue: QueueHandle,
    errors: ErrorCollection,
    error_runs: ErrorRuns,
    admin: Admin,
    own_functions: bool,
    export_connections: ConnectionRunner,
    opener: StoreOpener,
    opened: Option<Opened>,
    membership: Option<Membership>,
    version_check: Option<VersionCheck>,
    listener: TcpListener,
    log: ServiceLog,
    telemetry: Telemetry,
    begun: Instant,
}

/// The metrics as a text, made anew each time.
fn for_prometheus(service_key: ServiceKey, sources: Vec<Arc<dyn Source>>) -> MetricsView {
    Arc::new(move || {
        let (service_key, sources) = (service_key.clone(), sources.clone());
        Box::pin(async move { exposition(&service_key, &sources).await })
    })
}

/// What is counted, and how it is published.
struct Telemetry {
    metrics: Arc<ServiceMetrics>,
    /// Those of a developer's own.
    own: MetricsManager,
    /// None where there is no message bus.
    publisher: Option<Arc<dyn MessagePublisher>>,
}

impl Built {
    /// The address the REST interface listens on.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn rest_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
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
        let (books, queue) = (self.books, self.queue);
        if let Some(loss) = self.ingress.loss {
            books.tell_loss(loss);
        }
        let wake = self.opener.wake.clone();
        let (health, drain) = (Arc::new(Health::default()), Arc::new(Drain::default()));
        let destinations = Arc::new(Destinations::new(self.view.writable.clone(), queue.clone()));
        let keeper = Arc::new(Keeper::new(
            self.identity.service_key.clone(),
            self.view.writable.clone(),
            queue.clone(),
            books.clone(),
            health.clone(),
        ));
        let batches = Arc::new(Batches::new(self.limits.budget.total(), books.clone()));
        let Telemetry {
            metrics,
            own,
            publisher,
        } = self.telemetry;
        let sources: Vec<Arc<dyn Source>> = vec![
            Arc::new(CurrentMetrics {
                metrics: metrics.clone(),
                pipelines: self.view.pipelines.clone(),
            }),
            Arc::new(KeptNumbers {
                books: books.clone(),
                queue: queue.clone(),
                destinations: destinations.clone(),
                effective: self.view.effective.clone(),
            }),
            Arc::new(own),
        ];
        let reporter = Reporter {
            service_key: self.identity.service_key.clone(),
            settings: self.view.writable.clone(),
            sources: sources.clone(),
            publisher,
            metrics,
        };
        let effective = self.view.effective.clone();
        let api = Api {
            service_key: self.identity.service_key.clone(),
            generation: self.identity.generation,
            version: release(self.identity.generation).to_owned(),
            sdk_version: sdk_version(self.identity.generation),
            config: Arc::new(move || {
                let effective = effective.borrow().clone();
                ConfigShown {
                    config: effective.configuration.to_json(),
                    rejected: effective.rejected.iter().map(Rejection::to_json).collect(),
                }
            }),
            metrics: for_prometheus(self.identity.service_key.clone(), sources),
            books: books.clone(),
            queue: queue.clone(),
            health,
            drain: drain.clone(),
            limits: self.limits,
            cors: self.configuration.service.cors.clone(),
            https: self.https,
            secrets: self.storer,
            trigger: self.ingress.inlet,
            routes: self.routes,
            errors: self.errors,
            admin: self.admin,
        };
        let dispatch = Dispatch {
            identity: self.identity,
            pipelines: self.view.pipelines,
            settings: self.view.writable,
            keeper,
            books,
            wake,
            destinations,
            batches,
            response: self.ingress.response,
        };
        Running::start(Parts {
            startup_message: self.configuration.service.startup_msg.clone(),
            live: self.live,
            provider: self.provider,
            trigger: self.ingress.trigger,
            companions: self.companions,
            background: self.background,
            sections_elsewhere: self.sections_elsewhere,
            ending: self.ending,
            stop_requested: self.stop_requested,
            durability: Durability {
                bus: self.ingress.session,
                own_functions: self.own_functions,
            },
            export_connections: self.export_connections,
            opener: self.opener,
            opened: self.opened,
            membership: self.membership,
            version_check: self.version_check,
            listener: self.listener,
            log: self.log,
            store_state: self.store_state,
            queue,
            error_runs: self.error_runs,
            drain,
            api,
            dispatch,
            reporter,
        })
    }
}

/// The version this service reports: that of the EdgeX release it takes the place of, which others compare with theirs.
fn release(generation: Generation) -> &'static str {
    match generation {
        Generation::V3 => "3.1.1",
        Generation::V4 => "4.0.1",
    }
}

/// The version of the SDK, as each generation writes it.
fn sdk_version(generation: Generation) -> String {
    match generation {
        Generation::V3 => format!("v{}", release(generation)),
        Generation::V4 => release(generation).to_owned(),
    }
}

/// The version the log names: the release, and ours behind it.
fn version(generation: Generation) -> String {
    format!("{}+edgehold.{}", release(generation), env!("CARGO_PKG_VERSION"))
}

fn list(rejections: &[PipelineRejection]) -> String {
    rejections
        .iter()
        .map(|r| format!("{}: {}", r.key, without_passwords(&r.reason)))
        .collect::<Vec<_>>()
        .join("; ")
}

fn membership(
    invocation: &Invocation,
    configuration: &Configuration,
    service_key: &ServiceKey,
) -> Result<Option<Membership>, StartError> {
    if !invocation.flags.registry {
        return Ok(None);
    }
    let settings = &configuration.registry;
    if settings.host.is_empty() || settings.port == 0 {
        return Err(StartError::Registry(
            "Registry/Host or Registry/Port is not set".to_owned(),
        ));
    }
    if !settings.kind.eq_ignore_ascii_case("consul") {
        return Err(StartError::Registry(format!(
            "Registry/Type '{}' is not supported; use 'consul'",
            settings.kind
        )));
    }
    // The settings of the registry say nothing of TLS: it is the same Consul.
    let provider = invocation.flags.config_provider.as_ref();
    let address = ConsulAddress {
        protocol: provider.map_or("http", |provider| &provider.protocol).to_owned(),
        host: settings.host.clone(),
        port: settings.port,
    };
    let registry = ConsulSettings::from_environment(address, &invocation.environment)
        .and_then(ConsulRegistry::new)
        .map_err(|error| StartError::Registry(error.to_string()))?;
    let service = &configuration.service;
    let registration = Registration {
        service_key: service_key.clone(),
        host: service.host.clone(),
        port: service.port,
        https: configuration.http_server.protocol == "https",
        health_check_interval: service.health_check_interval,
    };
    Ok(Some(Membership {
        registry: Arc::new(registry),
        registration,
    }))
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

async fn terminating_signal() -> &'static str {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "terminated",
        _ = interrupt.recv() => "interrupt",
    }
}

/// Says how a process ended and turns it into its exit code.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "help and a wrong call are answered before there is a log"
)]
pub fn exit(result: Result<(), StartError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match &error {
                StartError::Invocation(InvocationError::Help(text)) => println!("{text}"),
                StartError::Invocation(_) | StartError::UnknownCommand(_) => {
                    eprintln!("{error}\n\n{}", usage());
                }
                error => tracing::error!("{}", with_causes(error)),
            }
            ExitCode::from(error.exit_code())
        }
    }
}
