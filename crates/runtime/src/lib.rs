//! What runs: deliveries through pipelines, failed exports into the store and out of it again.
//!
//! Owns dispatch (which pipelines a delivery runs through, how many at a time, when it is acknowledged), execution
//! (one pipeline from one position on), batches in the making, store and forward (what is kept, the retry loop), building pipelines from
//! settings, runs over the error collection, the books that account for every run, and the helper all tasks are spawned through.
//!
//! Does not own decisions that need no clock (`core::retry`), decoding (`contracts`), any connection or any database.
//!
//! Invariants: it knows traits and never names a backend; every channel it makes is bounded; no lock is held across
//! an await; a delivery is acknowledged only by `dispatch`, and only when every pipeline is done with it.

mod attempt;
mod batch;
mod books;
mod clock;
mod decode;
mod destinations;
mod dispatch;
mod drain;
mod ending;
mod error_collection;
mod execute;
#[cfg(feature = "fail-points")]
mod fail_point;
mod first_attempt;
mod health;
mod housekeeping;
mod journal;
mod keeper;
mod lane;
mod order;
mod pipelines;
mod rehearsal;
mod retry_loop;
mod task;
mod wake;

pub use batch::Batches;
pub use books::{Books, BooksSnapshot, DropReason};
pub use clock::now;
pub use destinations::Destinations;
pub use dispatch::{Dispatch, ServiceIdentity};
pub use drain::Drain;
pub use error_collection::{
    BeginError, ErrorAction, ErrorCollection, ErrorOrder, ErrorRun, ErrorRuns, RunId, RunState, meant_by,
};
pub use health::Health;
pub use housekeeping::Housekeeping;
pub use keeper::{Keeper, QueueHandle, StoreState};
pub use pipelines::{Applied, PipelineRejection, Pipelines};
pub use rehearsal::{Rehearsal, Rehearsed, RehearsedMessage, StepEnd};
pub use retry_loop::RetryLoop;
pub use task::{EarlyEnd, Tasks};
pub use wake::Wake;
