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
//! Owns the composition: which implementation stands behind which trait is decided here and nowhere else. Also owns
//! what surrounds a service: flags, the order of start and end, log lines.

mod bootstrap;
mod draft;
mod durability;
mod files;
mod inspect;
mod invocation;
mod live;
mod logging;
mod publishing;
mod push;
mod running;
mod section;
mod service;
mod setup;
mod sources;
mod store;
mod subscriptions;
mod trigger;

pub use edgehold_api::{CustomRoute, InvalidRoute, RouteHandler, RouteMethod, RouteRequest, RouteResponse};
pub use edgehold_clients::{
    CallError, Clients, CommandClient, DeviceResource, EventClient, MetadataClient, Notification,
    NotificationClient, ResourceProperties, Severity,
};
pub use edgehold_config::{
    Configuration, Flags, LogFormat, configuration::LogLevel, schema::settings_table_markdown,
};
pub use edgehold_contracts::{
    AddEventRequest, Event, Generation, MessageEnvelope, Metric, Payload, Reading, ReadingValue,
};
pub use edgehold_core::{
    Ack, AppFunction, BoxFuture, BuiltFunction, ByteBudget, BytePermit, Context, CorrelationId, Data,
    DataKind, Delivery, DeliveryReport, DeliverySender, Destination, ErrorClass, ErrorReason, Flow,
    FunctionError, FunctionFactory, FunctionRegistry, Inlet, InletClosed, InletTrigger, InvalidFunction,
    ObjectState, Parameters, PayloadForm, Pipeline, PipelineId, PipelineVersion, PublishError, Received,
    ReportSender, Response, RunEnd, RunReport, Secret, SecretError, SecretProvider, SecretText, ServiceKey,
    Shutdown, ShutdownSignal, StoredInput, StoredObject, StoredObjectId, TargetType, Timestamp, TopicFilter,
    Transform, Trigger, TriggerError,
};
pub use edgehold_runtime::{Books, BooksSnapshot};
pub use edgehold_store::{
    Credentials, CustomStoreFactory, DatabaseSettings, InvalidStoreName, ListRequest, Page, RetryQueue, Room,
    StoreClient, StoreError, StoreStats,
};

pub use draft::{InvalidDraft, PipelineDraft};
pub use inspect::{ObjectName, StoreView, ViewError, waiting_objects};
pub use invocation::{Invocation, InvocationError};
pub use logging::{LogControl, LogOutput};
pub use publishing::{BackgroundError, BackgroundPublisher, Publisher};
pub use running::{Running, RunningStatus};
pub use section::{SectionError, SectionWatch};
pub use service::{AppService, Built, StartError, exit};
pub use setup::{
    MissingSetting, NoMessageBus, PipelineControl, ReplaceError, Setup, SetupError, StopHandle,
    context_for_test,
};
pub use trigger::{InvalidTriggerName, TriggerContext};
