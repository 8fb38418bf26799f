//! Configuration provider and registry over Consul, as EdgeX 3 uses it.
//!
//! Owns Consul's HTTP API and the layout of the keys below `edgex/v3`. Does not own what a setting means (`config`),
//! nor how long to wait at start for Consul or for the common configuration (the composition root).
//!
//! | module | subject |
//! | --- | --- |
//! | `address` | protocol, host and port, checked |
//! | `settings` | tokens, TLS, basic authentication and namespace, from Consul's own environment variables |
//! | `client` | our thin HTTP client: everything that must not fail |
//! | `transaction` | the operations of `PUT /v1/txn` and its answer |
//! | `section` | where the three sections live, and reading them in one transaction |
//! | `provider`, `seed`, `edit`, `watcher` | the [`ConsulProvider`]: reading, writing what is missing, changing single leaves, following changes |
//! | `registry` | the [`ConsulRegistry`] |
//! | `agent` | what consulrs knows of the API: the only module that names it |
//!
//! Invariants: nothing here spawns a task; every call ends by itself within its timeout; denied access is never taken
//! for "no keys". Only calls that Consul 1.8 and 1.16 have in common are used.

mod address;
mod agent;
mod client;
mod edit;
mod provider;
mod registry;
mod section;
mod seed;
mod settings;
mod transaction;
mod watcher;

pub use address::ConsulAddress;
pub use provider::ConsulProvider;
pub use registry::ConsulRegistry;
pub use settings::{ConsulSettings, ConsulTls};
