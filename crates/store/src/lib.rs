//! Where objects wait: the traits every store keeps, the memory store, and the suite that holds them to it.
//!
//! Owns the two seams: [`RetryQueue`], what the retry loop runs on, and [`StoreClient`], the five operations a custom
//! store must offer; [`StoreClientQueue`] gives the first to anything that offers the second. Owns [`StoreError`], the
//! rules every store applies to an object ([`semantics`]), the [`memory`] store (the reference for behaviour), the
//! [`factory`] map of custom stores, what [`edgex`] itself left behind, [`SpooledQueue`] (a local store in front of one that may be away) and the [`conformance`] suite.
//!
//! Does not own: decisions (they are `core::retry`), the loop that runs them (`runtime`), any driver (one
//! `store-*` crate each).

pub mod client;
pub mod conformance;
pub mod edgex;
mod error;
pub mod factory;
mod index;
pub mod memory;
mod queue;
pub mod record;
pub mod semantics;
mod spool;

pub use client::{StoreClient, StoreClientQueue, TimeLimited};
pub use error::StoreError;
pub use factory::{Credentials, CustomStoreFactory, DatabaseSettings, InvalidStoreName, StoreFactories};
pub use memory::{MemoryClient, MemoryQueue};
pub use queue::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, Filtered, Lane, LaneStatus, ListRequest, Moved,
    ObjectFilter, Page, RetryQueue, Room, Selection, StateCount, StoreStats, Suspects, Sweep,
};
pub use spool::{Mover, SpooledQueue, StoreHandle};
