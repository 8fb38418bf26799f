//! Store and forward on SQLite: the store that is chosen when none is configured, and the local spool.
//!
//! Owns the schema (`migrations/sqlite`), the file with its lock and its reserve, and the only code that names the
//! driver. Does not own decisions: what a verdict changes is said in `edgehold_store::semantics` and repeated here in
//! SQL; the conformance suite compares the two.
//!
//! ```text
//!   append, settle, marks of claims ──▶ bounded channel ──▶ Writer ──▶ one connection, one transaction for all that
//!                                                                      has queued up
//!   evict, sweep, redrive, purge ────▶ the same channel, a transaction each
//!   claim, lanes, list, survey, stats ▶ a few connections that only read
//! ```
//!
//! *Durability.* Write-ahead log with `synchronous = FULL`: a call is answered after the log is on the disk. The writer
//! takes whatever has queued up while it committed and commits that together; it never waits for a full group.
//!
//! *Claims* are in memory. A page is chosen, claimed, and only then read, so that nothing that was settled in between
//! is handed out in its old state. A crash ends every claim, and opening makes failed what a dead process left in
//! state new.
//!
//! *Crash marks* are in the file: that an object is handed out is on the disk before it is, and any verdict takes it
//! back. What a start finds marked was in flight at a crash; after three in a row the object is set aside.
//!
//! *What leaves the queue by itself* (evicted, too old) is claimed for it first, so that nobody is trying it.
//!
//! *One process.* A lock on `<file>.lock` is held while the store is open for writing. Reading beside another process
//! is fine ([`SqliteQueue::open_read_only`]).
//!
//! *A full disk* fails the writes of that moment and nothing else: the connection is opened anew, and a reserve file
//! is given up so that objects can still leave.

mod error;
mod files;
mod filter;
mod in_flight;
mod lease;
mod order;
mod queue;
mod reader;
mod row;
mod schema;
mod settlement;
mod writer;

#[cfg(test)]
mod tests;

pub use files::Lock;
pub use queue::{Options, SqliteQueue};
pub use writer::Writer;
