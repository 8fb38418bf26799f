//! Clients for core services, and for configuration files that lie behind an address.
//!
//! | module | asks | for |
//! | --- | --- | --- |
//! | [`CoreMetadata`] | `GET /api/v3/version` of core-metadata | the EdgeX release of the stack |
//! | [`VersionCheck`] | the same, at start and in the background | whether the stack is of our generation |
//! | [`EventClient`] | core-data | events: add, look up |
//! | [`ReadingClient`] | core-data | readings: find, count |
//! | [`DeviceServiceClient`] | core-metadata | device services |
//! | [`MetadataClient`] | core-metadata | devices, profiles, resources (remembered) |
//! | [`CommandClient`] | core-command | reading from and writing to devices |
//! | [`NotificationClient`] | support-notifications | telling people |
//! | [`SubscriptionClient`] | support-notifications | who is told |
//! | [`ApplicationClient`] | another application service | routes beyond EdgeX's own, for commands beside it |
//! | [`FileUri`] | the address that `-cf` or `-cc` names | the text of a configuration file |
//!
//! Does not own what the answers are for: files are parsed by `config`, a start is refused by the composition root.
//!
//! Invariants: every call ends within a time limit (an [`ApplicationClient`]'s when nothing comes for so long) and reads a
//! bounded body; no message holds credentials, be they part
//! of an address or of a secret; nothing spawns.

mod application;
mod core;
mod core_metadata;
mod device_service;
mod file_uri;
mod http;
mod reading;
mod service;
mod subscription;
mod version_check;

pub use application::{ApplicationClient, ServiceTls};
pub use core::{
    Clients, CommandClient, DeviceResource, EventClient, MetadataClient, Notification, NotificationClient,
    ResourceProperties, Severity,
};
pub use core_metadata::CoreMetadata;
pub use device_service::DeviceServiceClient;
pub use file_uri::{FetchError, FileUri, RequestHeader};
pub use http::CallError;
pub use reading::{ReadingClient, ReadingPage, ReadingQuery};
pub use subscription::{SubscribedTo, SubscriptionClient};
pub use version_check::{VersionCheck, VersionMismatch};
