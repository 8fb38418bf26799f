//! The configuration tree: layers of leaves, one effective configuration, and what changed.
//!
//! Owns parsing, defaults, overlay, validation and differences, command line flags, and the traits
//! [`ConfigurationProvider`] and [`Registry`]. Does not own the provider's wire (`consul`, `keeper`), nor the waiting
//! and retrying around it at start (`edgehold::bootstrap`), nor what a change does (`runtime`).
//!
//! ```text
//! file ──▶ yaml ─┐                            ┌─▶ Configuration (typed, whole, valid)
//! provider ──────┼─▶ Layers ──▶ resolve() ────┼─▶ rejected, adjusted, unknown
//! environment ───┤                ▲           └─▶ diff(), differing_overrides()
//! flags ─────────┘             schema
//! ```
//!
//! Invariants: everything is text in, values out; but for [`mod@file`] nothing opens anything or waits, nothing spawns or
//! reads a clock, and no text from outside makes it panic. A [`Configuration`] exists only where every setting has been checked.

pub mod byte_size;
pub mod configuration;
pub mod conformance;
mod edit;
mod effective;
pub mod environment;
pub mod file;
pub mod flags;
mod layer;
mod layers;
mod leaves;
pub mod memory;
mod provider;
mod redact;
mod registry;
mod scalar;
pub mod schema;
pub mod secrets;
mod token;
pub mod yaml;

pub use edgehold_core::duration;

pub use configuration::{
    Client, Configuration, Database, LogLevel, MessageBus, PerTopicPipeline, PipelineSettings,
    StoreAndForward, Writable,
};
pub use edit::{Edit, EditError, Expected};
pub use effective::{Adjustment, Change, Effective, KeptPipelines, Rejection, UnknownKey, diff, resolve};
pub use environment::{EnvironmentError, differing_overrides};
pub use file::FileError;
pub use flags::{
    Admin, FlagError, Flags, LogFormat, Parsed, ProviderKind, ProviderUrl, RemoteServiceHosts, usage,
};
pub use layer::Layer;
pub use layers::{Layers, VanishedSection};
pub use leaves::{Leaf, Leaves, Origin};
pub use provider::{ConfigurationProvider, ProviderError, Section, Snapshot};
pub use redact::{REDACTED, shown, without_passwords};
pub use registry::{Endpoint, Registration, Registry};
pub use token::{FixedToken, MayBeDenied, TokenSource, with_token};
