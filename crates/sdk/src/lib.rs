//! The App Functions SDK for Rust: what a developer builds an EdgeX application service with.
//!
//! ```no_run
//! use edgehold::{AppService, BuiltFunction, Context, Data, Flow, FunctionError, Parameters, Transform};
//!
//! /// Says which device an event came from.
//! struct DeviceName;
//!
//! impl Transform for DeviceName {
//!     fn apply(&self, ctx: &mut Context, _: Data) -> Result<Flow, FunctionError> {
//!         Ok(Flow::Continue(Data::Text(ctx.value("devicename").unwrap_or_default().to_owned())))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     AppService::new("app-example")
//!         .with_function("DeviceName", |_: &Parameters| Ok(BuiltFunction::new(DeviceName)))
//!         .main()
//! }
//! ```
//!
//! `DeviceName` can now be named in `Writable.Pipeline.ExecutionOrder` beside the built-in functions.
//!
//! A larger one, with settings, pipelines and routes of its own, is `examples/boiler.rs`; one with a store of its own
//! `examples/jetstream_store`.
//!
//! # From the App Functions SDK for Go
//!
//! What depends on the configuration is said in [`AppService::with_setup`], which is called when that is known.
//!
//! | `ApplicationService` (Go) | here |
//! | --- | --- |
//! | `NewAppService` | [`AppService::new`]; `<profile>` in the key is filled in |
//! | `NewAppServiceWithTargetType` | [`AppService::with_target_type`]; a type of one's own is decoded by the first function, from `raw` |
//! | `AppContext` | [`Setup::ending`] |
//! | `AddRoute`, `AddCustomRoute` | [`AppService::with_route`], [`Setup::add_route`] |
//! | `RequestTimeout` | [`Setup::request_timeout`] |
//! | `ApplicationSettings`, `GetAppSetting`, `GetAppSettingStrings` | [`Setup::application_settings`], [`Setup::app_setting`], [`Setup::app_setting_list`] |
//! | `SetDefaultFunctionsPipeline`, `AddFunctionsPipelineForTopics` | [`Setup::add_pipeline`] with a [`PipelineDraft`]; later [`PipelineControl::replace`] |
//! | `SetFunctionsPipelineTopics`, `RemoveAllFunctionPipelines` | [`PipelineControl::replace`] |
//! | `LoadConfigurableFunctionPipelines` | always: pipelines of the settings run beside those of the code |
//! | `Run`, `Stop` | [`AppService::main`] or [`AppService::block_on`]; [`StopHandle::stop`], [`Running::drain`] |
//! | `RegisterCustomTriggerFactory` | [`AppService::with_custom_trigger`]; `MessageReceived` is a [`Delivery`], whose answer comes by [`Ack::with_report`]; `ContextBuilder` is not needed |
//! | `RegisterCustomStoreFactory` | [`AppService::with_custom_store`] |
//! | `AddBackgroundPublisher` | [`Setup::background_publisher`], with every trigger, any number of them |
//! | `Publish`, `PublishWithTopic` | [`Publisher::publish_with_topic`] of [`Setup::publisher`] |
//! | `BuildContext` | [`Setup::build_context`] |
//! | `SecretProvider` | [`Setup::secrets`] |
//! | `LoggingClient` | the macros of `tracing` |
//! | `EventClient`, `ReadingClient`, `DeviceClient`, `DeviceProfileClient`, `DeviceServiceClient`, `CommandClient`, `NotificationClient`, `SubscriptionClient` | [`Setup::clients`]; functions take what they need along |
//! | `RegistryClient` | [`Setup::registry`] |
//! | `LoadCustomConfig` | [`Setup::section`] |
//! | `MetricsManager` | [`Setup::metrics`]; functions take their [`Counter`], [`Timer`] and so on along |
//! | `ListenForCustomConfigChanges` | [`Setup::watch_section`]: at once below `Writable`, within two seconds elsewhere |
//!
//! | `AppFunctionContext` (Go) | [`Context`] |
//! | --- | --- |
//! | `Clone` | `Clone` |
//! | `CorrelationID`, `PipelineId`, `InputContentType` | [`Context::correlation_id`], [`Context::pipeline_id`], [`Context::input_content_type`] |
//! | `SetResponseData`, `ResponseData`, `SetResponseContentType`, `ResponseContentType` | [`Context::set_response_data`], [`Context::response_data`], [`Context::set_response_content_type`], [`Context::response_content_type`] |
//! | `SetRetryData` | [`Context::set_retry_data`], or [`Context::set_retry_input`], which keeps the type |
//! | `TriggerRetryFailedData` | [`Context::trigger_retry_failed_data`] |
//! | `AddValue`, `RemoveValue`, `GetValue`, `GetAllValues`, `ApplyValues` | [`Context::add_value`], [`Context::remove_value`], [`Context::value`], [`Context::values`], [`Context::apply_values`] |
//! | `GetDeviceResource` | [`MetadataClient::resource`] |
//! | `Publish`, `PublishWithTopic` | [`Context::publish_with_topic`] |
//! | `SecretProvider` | [`Context::secrets`] |
//! | `MetricsManager` | [`Setup::metrics`] |
//!
//! | elsewhere (Go) | here |
//! | --- | --- |
//! | `AppFunction` returning `(bool, any)` | [`AppFunction`] or [`Transform`] returning `Result<`[`Flow`]`, `[`FunctionError`]`>` |
//! | `NewAppFuncContextForTest` | [`context_for_test`] |
//! | `NewFilterFor`, `NewHTTPSender`, ... | [`PipelineDraft::function`] with the parameters of the configurable function |
//! | `NewTags` with values of any type | [`add_tags`] |
//! | `HTTPSenderOptions.URLFormatter` | [`HttpExportFactory::with_url_formatter`] |
//! | `NewMQTTSecretSenderWithTopicFormatter` | [`Setup::add_mqtt_export`] |
//! | `PushToCore` (SDK 2) | [`Setup::push_to_core_data`], [`Setup::push_to_core_data_by_rest`] |
//!
//! Owns the composition: which implementation stands behind which trait is decided here and nowhere else. Also owns
//! what surrounds a service: flags, the order of start and end, log lines.

mod bootstrap;
mod copy;
mod draft;
mod durability;
mod error_admin;
mod files;
mod import;
mod inspect;
mod invocation;
mod live;
mod logging;
mod membership;
mod metrics;
mod publishing;
mod push;
mod rehearse;
mod rest_client;
mod running;
mod secret_watch;
mod section;
mod service;
mod settings;
mod setup;
mod sources;
mod store;
mod subscriptions;
mod trigger;

pub use edgehold_api::{CustomRoute, InvalidRoute, RouteHandler, RouteMethod, RouteRequest, RouteResponse};
pub use edgehold_clients::{
    CallError, Clients, CommandClient, DeviceResource, DeviceServiceClient, EventClient, MetadataClient,
    Notification, NotificationClient, ReadingClient, ReadingPage, ReadingQuery, ResourceProperties, Severity,
    SubscribedTo, SubscriptionClient,
};
pub use edgehold_config::{
    Configuration, Endpoint, Flags, LogFormat, ProviderError, Registration, Registry, Section,
    configuration::LogLevel, schema::settings_table_markdown,
};
pub use edgehold_contracts::{
    AddEventRequest, Event, Generation, MessageEnvelope, Metric, Payload, Reading, ReadingValue, Tags,
};
pub use edgehold_core::duration::parse_go_duration;
pub use edgehold_core::{
    Ack, AppFunction, AttemptError, AttemptErrors, BoxFuture, BuiltFunction, ByteBudget, BytePermit, Context,
    CorrelationId, Data, DataKind, Delivery, DeliveryReport, DeliverySender, Destination, ErrorClass,
    ErrorReason, Flow, FunctionError, FunctionFactory, FunctionRegistry, Inlet, InletClosed, InletTrigger,
    InvalidFunction, ObjectState, Parameters, PayloadForm, Pipeline, PipelineId, PipelineVersion,
    PublishError, Received, ReportSender, Response, RunEnd, RunReport, Secret, SecretError, SecretProvider,
    SecretText, ServiceKey, Shutdown, ShutdownSignal, StoredInput, StoredObject, StoredObjectId, TargetType,
    Timestamp, TopicFilter, Transform, Trigger, TriggerError,
};
pub use edgehold_export::{Formatter, http::HttpExportFactory};
pub use edgehold_functions::add_tags;
pub use edgehold_runtime::{
    BeginError, Books, BooksSnapshot, ErrorAction, ErrorCollection, ErrorOrder, ErrorRun, Rehearsed, RunId,
    RunState, StepEnd, meant_by,
};
pub use edgehold_store::{
    Credentials, CustomStoreFactory, DatabaseSettings, ErrorGroup, ErrorPage, InvalidStoreName, ListRequest,
    Moved, ObjectFilter, Page, RetryQueue, Room, StateCount, StoreClient, StoreError, StoreStats,
    client_conformance, conformance, record,
};
pub use edgehold_telemetry::{
    Counter, FloatGauge, Gauge, Histogram, Instrument, MetricsManager, RegisterError, Summary, Timer,
};

pub use copy::{CopyError, CopyReport, CopyRequest, copy_store, spooled_objects};
pub use draft::{InvalidDraft, PipelineDraft};
pub use edgehold_api::wire;
pub use error_admin::{AdminError, AdminOrder, ErrorAdmin};
pub use import::{ImportError, ImportReport, ImportRequest};
pub use inspect::{ObjectName, StoreCheck, StoreView, ViewError, waiting_objects};
pub use invocation::{Invocation, InvocationError};
pub use logging::{LogControl, LogOutput};
pub use publishing::{BackgroundError, BackgroundPublisher, Publisher};
pub use rehearse::{RehearsalError, RehearsalReport, RehearsalRequest};
pub use rest_client::RestClientError;
pub use running::{Running, RunningStatus};
pub use secret_watch::SecretWatch;
pub use section::{SectionError, SectionWatch};
pub use service::{AppService, Built, StartError, exit};
pub use settings::{
    Assignment, ChangePlan, CheckReport, Comparison, Counterpart, Finding, FindingSeverity, PlannedChange,
    PushOptions, SettingDifference, SettingOrigin, SettingsError, SettingsView, ShownSetting,
};
pub use setup::{
    MissingSetting, NoMessageBus, PipelineControl, ReplaceError, Setup, SetupError, StopHandle,
    context_for_test,
};
pub use store::address::{InvalidAddress, ServerAddress, StoreAddress};
pub use trigger::{InvalidTriggerName, TriggerContext};
