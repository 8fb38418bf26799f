//! The steps of the start: what each makes, and from what.
//!
//! Owns nothing beyond the start. The order, and with it which error comes first, is [`super`]'s.

use std::{collections::BTreeMap, sync::Arc};

use edgehold_api::{Api, ConfigShown, CustomRoute, Https, MetricsView};
use edgehold_clients::Clients;
use edgehold_config::{
    Configuration, ConfigurationProvider, Layers, Rejection, Writable,
    configuration::Client,
    secrets::{InsecureSecretProvider, InsecureSecretStorer},
};
use edgehold_contracts::Generation;
use edgehold_core::{
    ByteBudget, FunctionRegistry, Inlet, MessagePublisher, Pipeline, PipelineId, ReceptionLoss,
    ResponsePublisher, SecretProvider, SecretStorer, ServiceKey, Shutdown, TargetType, Trigger,
};
use edgehold_ingest::BusPublisher;
use edgehold_keeper::NoticeSender;
use edgehold_runtime::{
    Batches, Books, Destinations, Dispatch, Drain, ErrorCollection, ErrorRuns, Health, Keeper, Pipelines,
    QueueHandle, ServiceIdentity, StoreState, Wake,
};
use edgehold_store::StoreFactories;
use edgehold_telemetry::{
    CurrentMetrics, MeteredSecrets, MetricsManager, Reporter, ServiceMetrics, Source, exposition,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use crate::{
    bootstrap,
    draft::PipelineDraft,
    invocation::Invocation,
    live::LiveView,
    membership::{self, Membership},
    metrics::KeptNumbers,
    publishing::BusMessages,
    section,
    service::{
        StartError,
        version::{release, sdk_version},
    },
    setup::{Handles, LiveSection, PipelineControl, Replacement, StopHandle, build_all},
    store::StoreOpener,
    trigger::{self, Companion, CustomTriggers, Ingress, Origin},
};

/// What every step knows.
pub(super) struct Start<'a> {
    invocation: &'a Invocation,
    pub(super) service_key: ServiceKey,
    generation: Generation,
    configuration: &'a Arc<Configuration>,
    pub(super) secrets: Arc<dyn SecretProvider>,
    /// Where secrets that come over REST go.
    storer: Arc<dyn SecretStorer>,
    metrics: Arc<ServiceMetrics>,
    /// The bytes of all deliveries in hand.
    budget: ByteBudget,
}

impl<'a> Start<'a> {
    pub(super) fn new(
        invocation: &'a Invocation,
        service_key: ServiceKey,
        configuration: &'a Arc<Configuration>,
        provider: Option<Arc<dyn ConfigurationProvider>>,
        writable: watch::Receiver<Arc<Writable>>,
    ) -> Self {
        let metrics = Arc::<ServiceMetrics>::default();
        Self {
            invocation,
            service_key,
            generation: bootstrap::generation(invocation),
            configuration,
            storer: Arc::new(InsecureSecretStorer::new(provider, writable.clone())),
            secrets: Arc::new(MeteredSecrets {
                secrets: Arc::new(InsecureSecretProvider::new(writable)),
                requested: metrics.secrets_requested.clone(),
            }),
            metrics,
            budget: ByteBudget::new(configuration.limits.max_in_flight_bytes),
        }
    }

    /// The trigger with what goes beside it. `notices` are those of changes of the configuration provider.
    pub(super) async fn ingress(
        &self,
        own: Option<Box<dyn Trigger>>,
        custom: CustomTriggers,
        notices: Option<NoticeSender>,
    ) -> Result<Ingress, StartError> {
        let origin = Origin {
            configuration: self.configuration,
            service_key: &self.service_key,
            data_dir: &self.invocation.flags.data_dir,
            secrets: &self.secrets,
            budget: self.budget.clone(),
            envelope_form: trigger::envelope_form(self.invocation, self.generation),
        };
        let mut ingress = trigger::build(own, custom, origin.clone()).await?;
        if let Some(notices) = notices {
            let listening = trigger::listening(&origin, notices).await;
            ingress.companions.extend(listening);
        }
        Ok(ingress)
    }

    /// Whom pipelines run for, and what they publish by.
    pub(super) fn identity(&self, bus: Option<&Arc<dyn BusPublisher>>) -> ServiceIdentity {
        ServiceIdentity {
            service_key: self.service_key.clone(),
            generation: self.generation,
            secrets: self.secrets.clone(),
            publisher: self.messages(bus, true),
            observer: self.metrics.clone(),
        }
    }

    fn messages(
        &self,
        bus: Option<&Arc<dyn BusPublisher>>,
        states_api_version: bool,
    ) -> Option<Arc<dyn MessagePublisher>> {
        Some(Arc::new(BusMessages {
            bus: bus?.clone(),
            base_topic_prefix: self.configuration.message_bus.base_topic_prefix.clone(),
            generation: self.generation,
            base64_payload: self.invocation.flags.base64_payload,
            states_api_version,
        }))
    }

    /// Where the other services are.
    pub(super) async fn addresses(&self, membership: Option<&Membership>) -> BTreeMap<String, Client> {
        let configured = &self.configuration.clients;
        match membership {
            // In dev mode everything is on this machine, whatever the registry says.
            Some(membership) if !self.invocation.flags.dev => {
                membership::discover(&*membership.registry, configured).await
            }
            _ => configured.clone(),
        }
    }

    pub(super) fn clients(&self, addresses: &BTreeMap<String, Client>) -> Result<Clients, StartError> {
        let limit = self.configuration.service.request_timeout;
        Clients::new(addresses, self.generation, limit).map_err(|error| StartError::Setup(error.into()))
    }

    pub(super) fn opener(&self, factories: StoreFactories, wake: Arc<Wake>) -> StoreOpener {
        StoreOpener {
            service_key: self.service_key.clone(),
            database: self.configuration.database.clone(),
            data_dir: self.invocation.flags.data_dir.clone(),
            spool_max_bytes: self.configuration.limits.spool_max_bytes,
            factories,
            secrets: self.secrets.clone(),
            db_name: self.invocation.flags.db_name.clone(),
            wake,
        }
    }

    /// Takes the port of the REST interface.
    pub(super) async fn listen(&self) -> Result<TcpListener, StartError> {
        let service = &self.configuration.service;
        let address = format!("{}:{}", service.bind_host(), service.port);
        let listener = TcpListener::bind(&address)
            .await
            .map_err(|source| StartError::Listen {
                address: address.clone(),
                source,
            })?;
        let protocol = match self.configuration.http_server.protocol.as_str() {
            "https" => "HTTPS",
            _ => "HTTP",
        };
        tracing::info!("Starting {protocol} Web Server on address {address}");
        Ok(listener)
    }

    /// What runs pipelines.
    pub(super) fn dispatch(
        &self,
        identity: ServiceIdentity,
        view: &LiveView,
        shared: &Shared,
        response: Option<Arc<dyn ResponsePublisher>>,
    ) -> Dispatch {
        let total = self.budget.total();
        let (settings, queue) = (view.writable.clone(), shared.queue.clone());
        Dispatch {
            identity,
            pipelines: view.pipelines.clone(),
            settings: settings.clone(),
            keeper: Arc::new(Keeper::new(
                self.service_key.clone(),
                settings.clone(),
                queue.clone(),
                shared.books.clone(),
                shared.health.clone(),
            )),
            books: shared.books.clone(),
            wake: shared.wake.clone(),
            destinations: Arc::new(Destinations::new(settings, queue, total)),
            batches: Arc::new(Batches::new(total, shared.books.clone())),
            response,
        }
    }

    /// Where the metrics come from.
    pub(super) fn sources(
        &self,
        view: &LiveView,
        shared: &Shared,
        dispatch: &Dispatch,
        own: MetricsManager,
    ) -> Vec<Arc<dyn Source>> {
        vec![
            Arc::new(CurrentMetrics {
                metrics: self.metrics.clone(),
                pipelines: view.pipelines.clone(),
            }),
            Arc::new(KeptNumbers {
                books: shared.books.clone(),
                queue: shared.queue.clone(),
                destinations: dispatch.destinations.clone(),
                effective: view.effective.clone(),
            }),
            Arc::new(own),
        ]
    }

    /// What publishes the metrics.
    pub(super) fn reporter(
        &self,
        view: &LiveView,
        sources: Vec<Arc<dyn Source>>,
        bus: Option<&Arc<dyn BusPublisher>>,
    ) -> Reporter {
        Reporter {
            service_key: self.service_key.clone(),
            settings: view.writable.clone(),
            sources,
            publisher: self.messages(bus, self.generation == Generation::V4),
            metrics: self.metrics.clone(),
        }
    }

    /// The REST interface.
    pub(super) fn api(
        &self,
        view: &LiveView,
        shared: &Shared,
        sources: Vec<Arc<dyn Source>>,
        https: Option<Https>,
        trigger: Option<Inlet>,
        routes: Vec<CustomRoute>,
    ) -> Api {
        let effective = view.effective.clone();
        Api {
            service_key: self.service_key.clone(),
            generation: self.generation,
            version: release(self.generation).to_owned(),
            sdk_version: sdk_version(self.generation),
            config: Arc::new(move || {
                let effective = effective.borrow().clone();
                ConfigShown {
                    config: effective.configuration.to_json(),
                    rejected: effective.rejected.iter().map(Rejection::to_json).collect(),
                }
            }),
            metrics: for_prometheus(self.service_key.clone(), sources),
            books: shared.books.clone(),
            queue: shared.queue.clone(),
            health: shared.health.clone(),
            drain: shared.drain.clone(),
            limits: limits(self.configuration, self.budget.clone()),
            cors: self.configuration.service.cors.clone(),
            https: https.map(Arc::new),
            secrets: self.storer.clone(),
            trigger,
            routes,
            errors: shared.errors.clone(),
            admin: self.invocation.flags.admin,
        }
    }
}

/// What the parts of a service share.
pub(super) struct Shared {
    books: Arc<Books>,
    pub(super) wake: Arc<Wake>,
    health: Arc<Health>,
    pub(super) drain: Arc<Drain>,
    pub(super) store_state: watch::Sender<StoreState>,
    pub(super) queue: QueueHandle,
    errors: ErrorCollection,
    pub(super) error_runs: ErrorRuns,
}

impl Shared {
    /// `loss` is what the trigger loses before it is taken in.
    pub(super) fn new(loss: Option<Arc<ReceptionLoss>>) -> Self {
        let books = Arc::new(Books::default());
        if let Some(loss) = loss {
            books.tell_loss(loss);
        }
        let wake = Arc::new(Wake::default());
        let (store_state, queue) = watch::channel(StoreState::Opening);
        let (errors, error_runs) = ErrorCollection::new(queue.clone(), books.clone(), wake.clone());
        Self {
            books,
            wake,
            health: Arc::default(),
            drain: Arc::default(),
            store_state,
            queue,
            errors,
            error_runs,
        }
    }
}

/// What the handles of the developer's code tell the running service.
pub(super) struct Told {
    pub(super) replacements: mpsc::Receiver<Replacement>,
    pub(super) stop_requested: watch::Receiver<bool>,
    /// The other way round: the service tells the handles that it ends.
    pub(super) ending: Shutdown,
}

/// The handles that the developer's code is given, and the other ends of them.
pub(super) fn controls(
    shared: &Shared,
    writable: watch::Receiver<Arc<Writable>>,
    membership: Option<&Membership>,
) -> (Handles, Told) {
    let (ending, ending_signal) = Shutdown::new();
    let (replace, replacements) = mpsc::channel(1);
    let (stop, stop_requested) = watch::channel(false);
    let handles = Handles {
        pipelines: PipelineControl(replace),
        stop: StopHandle(stop),
        ending: ending_signal,
        metrics: MetricsManager::default(),
        writable,
        errors: shared.errors.clone(),
        books: shared.books.clone(),
        registry: membership.map(|membership| membership.registry.clone()),
    };
    let told = Told {
        replacements,
        stop_requested,
        ending,
    };
    (handles, told)
}

/// The pipelines made in code, and what those of the settings are built with.
pub(super) fn pipelines(
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

/// Follows the sections outside `Writable` that somebody follows, where there are some and a provider.
pub(super) fn sections_elsewhere(
    provider: Option<Arc<dyn ConfigurationProvider>>,
    layers: &Layers,
    sections: Vec<LiveSection>,
) -> Option<Companion> {
    let provider = provider.filter(|_| !sections.is_empty())?;
    let layers = layers.clone();
    Some(Box::new(move |shutdown| {
        Box::pin(section::follow(provider, layers, sections, shutdown))
    }))
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

/// The metrics as a text, made anew each time.
fn for_prometheus(service_key: ServiceKey, sources: Vec<Arc<dyn Source>>) -> MetricsView {
    Arc::new(move || {
        let (service_key, sources) = (service_key.clone(), sources.clone());
        Box::pin(async move { exposition(&service_key, &sources).await })
    })
}
