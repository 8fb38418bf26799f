//! The pure heart of Edgehold: what an application service is made of, without any input or output.
//!
//! Owns the identifiers, topic matching, the [`Context`] and [`Data`] that travel through a pipeline, the
//! [`AppFunction`] seam, what a [`Batching`] function says, the [`Pipeline`] and its [`PipelineVersion`], the [`StoredObject`], the decisions of a retry and
//! those about a [`destination`], and Go [`duration`]s. Owns the traits that the rim implements: [`Trigger`],
//! [`ResponsePublisher`], [`Gate`], [`Observer`] and [`SecretProvider`].
//!
//! Invariants: nothing in here spawns, sleeps, reads a clock, draws a random number or opens anything. Time is a
//! [`Timestamp`] argument; identifiers that need randomness are made by the caller. Of tokio only `sync` is used.

mod attempt_error;
mod backoff;
mod batch;
mod context;
mod data;
mod delivery;
pub mod destination;
mod digest;
pub mod duration;
mod error;
mod function;
mod future;
mod gate;
mod id;
mod incoming;
mod inlet;
mod observer;
mod outage;
mod parameter;
mod pipeline;
mod publish;
pub mod redact;
mod renewable;
pub mod retry;
mod secret;
mod shutdown;
mod stored_object;
mod time;
mod topic;

pub use attempt_error::{AttemptError, AttemptErrors};
pub use backoff::ExponentialBackoff;
pub use batch::{BatchItem, Batching};
pub use context::{Context, RetryData, UnresolvedPlaceholder};
pub use data::{Data, DataKind, RestoreError};
pub use delivery::{
    Ack, ByteBudget, BytePermit, Deliveries, Delivery, DeliveryReport, DeliverySender, Disposition,
    PayloadForm, Received, ReportSender, Response, ResponseError, ResponsePublisher, RunEnd, RunReport,
    Trigger, TriggerError,
};
pub use error::{ErrorClass, Fault, FunctionError};
pub use function::{AppFunction, Flow, Transform};
pub use future::BoxFuture;
pub use gate::{Gate, Unsent};
pub use id::{CorrelationId, Destination, InvalidId, MessageId, PipelineId, ServiceKey, StoredObjectId};
pub use incoming::{Body, ConnectionState, Incoming, ReceptionLoss};
pub use inlet::{Inlet, InletClosed, InletTrigger};
pub use observer::{ExportTarget, NoObserver, Observer};
pub use outage::Outage;
pub use parameter::{
    BuiltFunction, FunctionFactory, FunctionRegistry, InvalidFunction, Parameters, parse_go_bool,
};
pub use pipeline::{Pipeline, PipelineSet, PipelineStep, PipelineVersion, TargetType};
pub use publish::{MessagePublisher, OutgoingMessage, PublishError};
pub use renewable::{Fixed, RenewError, Renewable};
pub use secret::{Secret, SecretError, SecretProvider, SecretStorer, SecretText, StoreSecretError};
pub use shutdown::{Shutdown, ShutdownSignal};
pub use stored_object::{ErrorReason, ObjectState, StoredInput, StoredObject, UnknownName};
pub use time::Timestamp;
pub use topic::{InvalidTopicFilter, TopicFilter};
