//! The builder of a service: what it is made of.
//!
//! Everything fallible before it serves is [`build`], what it then is [`Built`], and a service as a whole process
//! [`process`].

mod build;
mod process;
mod start_error;
mod version;

use edgehold_api::CustomRoute;
use edgehold_core::{FunctionFactory, FunctionRegistry, Pipeline, TargetType, Trigger, TriggerError};
use edgehold_export::mqtt::{ConnectionRunner, Connections};
use edgehold_store::{CustomStoreFactory, InvalidStoreName, StoreFactories};

use crate::{
    setup::{Setup, SetupError, SetupHook},
    sources,
    trigger::{CustomTriggers, InvalidTriggerName, TriggerContext},
};

pub use self::{build::Built, process::exit, start_error::StartError};

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
}
