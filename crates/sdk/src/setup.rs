//! What a developer's code does between the configuration and the start: reads settings, adds functions, pipelines and
//! routes, takes the handles it will need while the service runs.
//!
//! Owns the handles. Nothing is started here; what is added is built when the whole of it has been said.

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Duration};

use edgehold_api::CustomRoute;
use edgehold_clients::Clients;
use edgehold_config::{Configuration, Layer, Layers, Registry, Writable};
use edgehold_contracts::Generation;
use edgehold_core::{
    BuiltFunction, Context, CorrelationId, FunctionFactory, FunctionRegistry, InvalidId, MessagePublisher,
    Pipeline, PipelineId, SecretProvider, ServiceKey, ShutdownSignal,
};
use edgehold_export::{
    Formatter,
    mqtt::{Connections, MqttExportFactory},
};
use edgehold_runtime::{Books, ErrorCollection, ServiceIdentity};
use edgehold_telemetry::MetricsManager;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    draft::{InvalidDraft, PipelineDraft},
    publishing::{BackgroundPublisher, Publisher, background},
    push::{PushToCoreData, Way},
    secret_watch::SecretWatch,
    section::{self, SectionError, SectionWatch},
    trigger::Companion,
};

/// Why a service cannot be set up; whatever the developer's code says.
pub type SetupError = Box<dyn Error + Send + Sync>;

/// Code that sets a service up.
pub(crate) type SetupHook = Box<dyn FnOnce(&mut Setup<'_>) -> Result<(), SetupError> + Send>;

/// An application setting that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ApplicationSettings has no '{name}'")]
pub struct MissingSetting {
    name: String,
}

/// There is no message bus to publish to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no message bus to publish to: MessageBus is disabled or not configured")]
pub struct NoMessageBus;

/// A service whose configuration is known and which has not started.
pub struct Setup<'a> {
    pub(crate) identity: &'a ServiceIdentity,
    pub(crate) configuration: &'a Configuration,
    pub(crate) layers: &'a Layers,
    pub(crate) functions: &'a mut FunctionRegistry,
    pub(crate) added: &'a mut Added,
    pub(crate) handles: &'a Handles,
    pub(crate) clients: &'a Clients,
    pub(crate) connections: &'a Connections,
}

/// What a developer's code has added.
#[derive(Default)]
pub(crate) struct Added {
    pub(crate) drafts: Vec<PipelineDraft>,
    pub(crate) routes: Vec<CustomRoute>,
    /// Below `Writable`.
    pub(crate) sections: Vec<LiveSection>,
    pub(crate) sections_elsewhere: Vec<LiveSection>,
    /// What publishes in the background.
    pub(crate) background: Vec<Companion>,
    /// Whether a function of one's own can run.
    pub(crate) functions: bool,
}

/// A section that somebody follows.
pub(crate) struct LiveSection {
    pub(crate) name: String,
    pub(crate) sender: watch::Sender<Layer>,
}

/// What is taken along into the running service.
pub(crate) struct Handles {
    pub(crate) pipelines: PipelineControl,
    pub(crate) stop: StopHandle,
    pub(crate) ending: ShutdownSignal,
    pub(crate) metrics: MetricsManager,
    pub(crate) writable: watch::Receiver<Arc<Writable>>,
    pub(crate) books: Arc<Books>,
    pub(crate) registry: Option<Arc<dyn Registry>>,
    pub(crate) errors: ErrorCollection,
}

impl Setup<'_> {
    /// The service.
    pub fn service_key(&self) -> &ServiceKey {
        &self.identity.service_key
    }

    /// The generation whose forms it writes.
    pub fn generation(&self) -> Generation {
        self.identity.generation
    }

    /// The effective configuration at the start.
    pub fn configuration(&self) -> &Configuration {
        self.configuration
    }

    /// `Service.RequestTimeout`.
    pub fn request_timeout(&self) -> Duration {
        self.configuration.service.request_timeout
    }

    /// `ApplicationSettings`.
    pub fn application_settings(&self) -> &BTreeMap<String, String> {
        &self.configuration.application_settings
    }

    /// One of `ApplicationSettings`.
    ///
    /// # Errors
    /// [`MissingSetting`].
    pub fn app_setting(&self, name: &str) -> Result<&str, MissingSetting> {
        let setting = self.application_settings().get(name);
        setting.map(String::as_str).ok_or_else(|| MissingSetting {
            name: name.to_owned(),
        })
    }

    /// One of `ApplicationSettings` that is a comma list: trimmed, blanks dropped.
    ///
    /// # Errors
    /// [`MissingSetting`].
    pub fn app_setting_list(&self, name: &str) -> Result<Vec<&str>, MissingSetting> {
        let list = self.app_setting(name)?.split(',').map(str::trim);
        Ok(list.filter(|item| !item.is_empty()).collect())
    }

    /// A section of one's own, as it is at the start: all layers of the configuration over each other, leaf by leaf.
    /// (EdgeX: `LoadCustomConfig`.)
    ///
    /// # Errors
    /// [`SectionError`] names the first leaf that is not what `T` asks for.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, SectionError> {
        section::read(name, &self.layers.section(name))
    }

    /// A section of one's own, followed while the service runs, where there is a configuration provider. Below `Writable`
    /// (`Writable/MyFunction`) a change is told at once and together with others; elsewhere (`AppCustom`) within two seconds.
    /// (EdgeX: `ListenForCustomConfigChanges`.)
    ///
    /// # Errors
    /// As [`Setup::section`].
    pub fn watch_section<T: DeserializeOwned>(
        &mut self,
        name: &str,
    ) -> Result<SectionWatch<T>, SectionError> {
        let layer = self.layers.section(name);
        section::read::<T>(name, &layer)?;
        let (sender, receiver) = watch::channel(layer);
        let sections = match name.starts_with("Writable/") {
            true => &mut self.added.sections,
            false => &mut self.added.sections_elsewhere,
        };
        sections.push(LiveSection {
            name: name.to_owned(),
            sender,
        });
        Ok(SectionWatch::new(name, receiver))
    }

    /// The secrets of the service, always the current ones.
    pub fn secrets(&self) -> Arc<dyn SecretProvider> {
        self.identity.secrets.clone()
    }

    /// Tells which secrets change while the service runs.
    pub fn watch_secrets(&self) -> SecretWatch {
        SecretWatch::new(self.handles.writable.clone())
    }

    /// Adds a function that pipelines can name, or replaces a built-in one of this name.
    pub fn add_function(&mut self, name: &str, factory: impl FunctionFactory + 'static) {
        self.functions.register(name, factory);
        self.added.functions = true;
    }

    /// Adds an `MQTTExport` under this name whose topics code makes for each message, over the connections of the service.
    /// (EdgeX: `NewMQTTSecretSenderWithTopicFormatter`.)
    pub fn add_mqtt_export(&mut self, name: &str, formatter: Formatter) {
        let factory = MqttExportFactory::new(self.connections.clone()).with_topic_formatter(formatter);
        self.functions.register(name, factory);
    }

    /// Adds a pipeline, which settings never change.
    pub fn add_pipeline(&mut self, pipeline: PipelineDraft) {
        self.added.drafts.push(pipeline);
        self.added.functions = true;
    }

    /// Adds a route to the REST interface.
    pub fn add_route(&mut self, route: CustomRoute) {
        self.added.routes.push(route);
    }

    /// Publishes to the message bus, which is connected to with the first message.
    ///
    /// # Errors
    /// [`NoMessageBus`].
    pub fn publisher(&self) -> Result<Publisher, NoMessageBus> {
        Ok(Publisher::new(self.messages()?, self.identity.generation))
    }

    /// Publishes to the message bus in the background; at most `capacity` messages wait. Each call makes a queue of its
    /// own. Works with every trigger, where EdgeX refuses it for HTTP and external MQTT. What waits when the service ends is
    /// published within its grace time, or counted (`backgroundLost` of the books).
    ///
    /// # Errors
    /// [`NoMessageBus`].
    pub fn background_publisher(&mut self, capacity: usize) -> Result<BackgroundPublisher, NoMessageBus> {
        let books = self.handles.books.clone();
        let (publisher, companion) = background(self.messages()?, capacity, books);
        self.added.background.push(companion);
        Ok(publisher)
    }

    /// Pushes events (and requests to add one) to core-data over the message bus, as a device service would, and hands them
    /// on. With `persist_on_error` what cannot be pushed is kept for a later attempt. Events that this service has pushed
    /// itself end there, so that a pipeline for all events does not feed itself.
    ///
    /// # Errors
    /// [`NoMessageBus`].
    pub fn push_to_core_data(&self, persist_on_error: bool) -> Result<BuiltFunction, NoMessageBus> {
        Ok(self.push(Way::Bus(self.publisher()?), persist_on_error))
    }

    /// As [`Setup::push_to_core_data`], by the REST interface of core-data; none when `Clients/core-data` is not
    /// configured.
    pub fn push_to_core_data_by_rest(&self, persist_on_error: bool) -> Option<BuiltFunction> {
        let events = self.clients.events()?.clone();
        Some(self.push(Way::Rest(events), persist_on_error))
    }

    fn push(&self, way: Way, persist_on_error: bool) -> BuiltFunction {
        BuiltFunction::new(PushToCoreData {
            way,
            persist_on_error,
            escape_names: self.configuration.service.enable_name_field_escape,
        })
    }

    /// Clients for the core services that `Clients` names; each call ends within `Service.RequestTimeout`.
    pub fn clients(&self) -> &Clients {
        self.clients
    }

    fn messages(&self) -> Result<Arc<dyn MessagePublisher>, NoMessageBus> {
        self.identity.publisher.clone().ok_or(NoMessageBus)
    }

    /// Where services find each other; none when the service was started without `-r`. (EdgeX: `RegistryClient`.)
    pub fn registry(&self) -> Option<Arc<dyn Registry>> {
        self.handles.registry.clone()
    }

    /// A context outside a pipeline, for what publishes in the background or calls functions by itself.
    /// (EdgeX: `BuildContext`.)
    pub fn build_context(&self, correlation_id: &str, content_type: &str) -> Context {
        let pipeline_id = PipelineId::default_pipeline();
        let mut ctx = self
            .identity
            .context(&pipeline_id, CorrelationId::new(correlation_id));
        ctx.set_input_content_type(content_type);
        ctx
    }

    /// Where metrics of one's own are registered, now or while the service runs. They are reported like those of the service:
    /// when `Writable.Telemetry.Metrics` switches them on. Functions take what they count with along.
    /// (EdgeX: `MetricsManager`.)
    ///
    /// ```no_run
    /// use edgehold::{AppService, BuiltFunction, Context, Counter, Data, Flow, FunctionError, Transform};
    ///
    /// struct CountBytes(Counter);
    ///
    /// impl Transform for CountBytes {
    ///     fn apply(&self, _: &mut Context, data: Data) -> Result<Flow, FunctionError> {
    ///         if let Data::Bytes(bytes) = &data {
    ///             self.0.add(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    ///         }
    ///         Ok(Flow::Continue(data))
    ///     }
    /// }
    ///
    /// let service = AppService::new("app-example").with_setup(|setup| {
    ///     let bytes = Counter::new();
    ///     setup.metrics().register("BytesSeen", &bytes, [("line", "7")])?;
    ///     setup.add_function("CountBytes", move |_: &_| Ok(BuiltFunction::new(CountBytes(bytes.clone()))));
    ///     Ok(())
    /// });
    /// ```
    pub fn metrics(&self) -> &MetricsManager {
        &self.handles.metrics
    }

    /// Replaces the pipelines made in code while the service runs.
    pub fn pipelines(&self) -> PipelineControl {
        self.handles.pipelines.clone()
    }

    /// Ends the service from within.
    pub fn stop_handle(&self) -> StopHandle {
        self.handles.stop.clone()
    }

    /// The error collection: what was given up can be looked at, re-driven and purged from within. It answers as soon as the
    /// store is open.
    pub fn error_collection(&self) -> ErrorCollection {
        self.handles.errors.clone()
    }

    /// Tells when the service is ending. (EdgeX: `AppContext`.)
    pub fn ending(&self) -> ShutdownSignal {
        self.handles.ending.clone()
    }
}

/// Ends the service as SIGTERM does. Cheap to clone. (EdgeX: `Stop`.)
#[derive(Clone, Debug)]
pub struct StopHandle(pub(crate) watch::Sender<bool>);

impl StopHandle {
    /// Asks the service to end. Returns at once; calling it again changes nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// Replaces the pipelines made in code. Those of the settings belong to the settings. Cheap to clone.
#[derive(Clone)]
pub struct PipelineControl(pub(crate) mpsc::Sender<Replacement>);

/// Drafts on their way to the live settings.
pub(crate) struct Replacement {
    pub(crate) drafts: Vec<PipelineDraft>,
    pub(crate) answer: oneshot::Sender<Result<(), InvalidDraft>>,
}

/// Why the pipelines stay as they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// One of them is no pipeline.
    #[error(transparent)]
    Draft(#[from] InvalidDraft),
    /// The service has ended.
    #[error("the service has ended")]
    Ended,
}

impl PipelineControl {
    /// Puts these pipelines in the place of all that were made in code; none at all removes them. Deliveries in hand run
    /// on as they began. What waits for a pipeline that is gone is kept as after a change of the settings.
    /// (EdgeX: `SetDefaultFunctionsPipeline`, `RemoveAllFunctionPipelines`.)
    ///
    /// # Errors
    /// [`ReplaceError`]; nothing has changed then.
    pub async fn replace(&self, drafts: Vec<PipelineDraft>) -> Result<(), ReplaceError> {
        let (answer, answered) = oneshot::channel();
        let replacement = Replacement { drafts, answer };
        self.0.send(replacement).await.map_err(|_| ReplaceError::Ended)?;
        Ok(answered.await.map_err(|_| ReplaceError::Ended)??)
    }
}

/// Builds drafts whose ids differ from each other and from those of the settings.
pub(crate) fn build_all(
    drafts: Vec<PipelineDraft>,
    registry: &FunctionRegistry,
    topic_prefix: Option<&str>,
    taken: impl Fn(&PipelineId) -> bool,
) -> Result<Vec<Pipeline>, InvalidDraft> {
    let mut built: Vec<Pipeline> = Vec::new();
    for draft in drafts {
        let pipeline = draft.build(registry, topic_prefix)?;
        let id = pipeline.id();
        if taken(id) || built.iter().any(|other| other.id() == id) {
            return Err(InvalidDraft::Duplicate { id: id.to_string() });
        }
        built.push(pipeline);
    }
    Ok(built)
}

/// A context for tests of functions: with this correlation id, no secrets, no message bus and the values a test adds.
/// (EdgeX: `NewAppFuncContextForTest`.)
///
/// # Errors
/// [`InvalidId`] when `service_key` cannot be one.
pub fn context_for_test(service_key: &str, generation: Generation) -> Result<Context, InvalidId> {
    let (_, writable) = watch::channel(Configuration::default().writable);
    Ok(Context::new(
        ServiceKey::try_new(service_key)?,
        PipelineId::default_pipeline(),
        CorrelationId::new("test-correlation-id"),
        generation,
        Arc::new(edgehold_config::secrets::InsecureSecretProvider::new(writable)),
    ))
}
