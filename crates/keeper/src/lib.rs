//! Configuration provider and registry over Core Keeper, as EdgeX 4 uses it.
//!
//! Owns Core Keeper's REST API, the layout of the keys below `edgex/v4`, and when they are read again. Does not own what a
//! setting means (`config`), how long to wait at start (the composition root), nor the message bus: who listens there for
//! the notices of changes tells of them by a [`NoticeSender`].
//!
//! | module | subject |
//! | --- | --- |
//! | `settings` | address, tokens, trusted authorities |
//! | `client` | the HTTP client: everything that must not fail |
//! | `key` | what a key is in an address, and which keys can be |
//! | `section` | where the three sections live, and reading them as of one moment |
//! | `provider`, `write`, `watcher` | the [`KeeperProvider`]: reading, writing, following changes |
//! | `notices` | what the message bus tells |
//! | `registry` | the [`KeeperRegistry`] |
//!
//! Invariants: nothing here spawns a task; every call ends by itself within its timeout and reads a bounded body; denied
//! access, and an answer that is not Core Keeper's, are never taken for "no keys".

mod client;
mod key;
mod notices;
mod provider;
mod registry;
mod section;
mod settings;
mod watcher;
mod write;

pub use notices::NoticeSender;
pub use provider::KeeperProvider;
pub use registry::KeeperRegistry;
pub use settings::{KeeperSettings, PollIntervals};
