//! Store and forward on PostgreSQL: for several instances of a service, and for those who have a database already.
//!
//! Owns the tables (`migrations/postgres`) in the schema named after the service key, who of several instances has what
//! in hand, a look at what the original left in the same schema (`backlog`), and the only code here that names the driver. Does not own decisions: what a verdict changes is said in
//! `edgehold_store::semantics` and repeated here in SQL; the conformance suite compares the two.
//!
//! ```text
//!   append, settle, evict, sweep, redrive ─▶ bounded channel ─▶ writer ──▶ one connection, one transaction for all
//!                                                                          that has queued up
//!   claim ─────────────────────────────────▶ bounded channel ─▶ claimer ─▶ one connection: one statement
//!                                                               pulse ───▶ one connection: heartbeat each second
//!   lanes, list, stats ────────────────────▶ two connections that look, and one that listens
//! ```
//!
//! *Durability.* Each transaction is on the server's disk before it is answered (`synchronous_commit = on`). The writer
//! takes whatever has queued up while it committed and commits that together; it never waits for a full group.
//!
//! *Claims* are rows (`lease`), written before anything is handed out and removed with the last verdict, so that a claim
//! is at once what other instances see and the mark that a crash leaves behind. What was claimed and not handed out, in
//! whatever way that came to be, is given back with the next heartbeat.
//!
//! *Several instances* share the tables: see `instance`. Objects in state new and batched belong to the instance that
//! appended them, and its end makes them failed.
//!
//! *A server that does not answer* is not waited for longer than `Database.Timeout`: the call answers
//! [`Unavailable`](edgehold_store::StoreError::Unavailable), and the connection is made anew for the next one. What was
//! asked for may still happen until that is made; asking again does no harm.

mod backlog;
mod claim;
mod error;
mod filter;
mod insert;
mod instance;
mod lanes;
mod lease;
mod link;
mod look;
mod maintain;
mod options;
mod queue;
mod row;
mod schema;
mod settlement;
#[cfg(test)]
mod tests;
mod worker;
mod writer;

pub use backlog::{Backlog, LeftBehind};
pub use options::{Options, SslMode, Tls};
pub use queue::PostgresQueue;
pub use worker::Worker;
