//! The queue the retry loop runs on.

use std::time::Duration;

use edgehold_core::{
    BoxFuture, Destination, ErrorReason, ObjectState, PipelineId, StoredObject, Timestamp, retry::Verdict,
};

use crate::StoreError;

/// Which waiting objects a claim may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those that are due ([`StoredObject::is_due`]) with this pause between attempts. The interval is not stored with
    /// the objects, so a shorter one acts at once on all of them.
    Due(Duration),
    /// Those that wait for this destination and have not been asked to wait (`not_before`), due or not.
    At(Destination),
}

/// Asks for a page of waiting objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which ones.
    pub selection: Selection,
    /// Only objects whose `seq` is greater: a pass goes through the queue once, oldest first, whatever becomes of the
    /// objects behind it. 0 begins a pass.
    pub after_seq: i64,
    /// The time now.
    pub now: Timestamp,
    /// At most this many objects, at least 1.
    pub limit: usize,
    /// At most this many bytes of payload, but never no object at all because the first one is larger. The page ends
    /// at the first object that does not fit, so that none is overtaken.
    pub max_bytes: usize,
}

/// Asks for a page of objects to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// Only objects in one of these states; none of them means no object.
    pub states: Vec<ObjectState>,
    /// Only objects of this pipeline.
    pub pipeline_id: Option<PipelineId>,
    /// Only objects given up for this reason.
    pub reason: Option<ErrorReason>,
    /// Only objects whose `seq` is greater; 0 begins.
    pub after_seq: i64,
    /// At most this many, at least 1. Fewer when their payloads are large: a page ends with the object that brings it
    /// to [`ListRequest::MAX_BYTES`].
    pub limit: usize,
}

impl ListRequest {
    /// The bytes of payload at which a page ends.
    pub const MAX_BYTES: usize = 8 << 20;
}

/// A page of objects, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The objects.
    pub objects: Vec<StoredObject>,
    /// Where the next page begins; none when this was the last one.
    pub next_after_seq: Option<i64>,
}

/// How many objects are in a state, and what they weigh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCount {
    /// Objects.
    pub objects: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
}

/// What a store holds for its service, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Journaled, first attempt not ended.
    pub new: StateCount,
    /// Waiting for the next attempt.
    pub failed: StateCount,
    /// Kept as history.
    pub success: StateCount,
    /// In the error collection.
    pub error: StateCount,
    /// When the oldest waiting object was first kept.
    pub oldest_waiting: Option<Timestamp>,
}

impl StoreStats {
    /// Objects that are still to be delivered: new and failed.
    pub fn waiting(&self) -> u64 {
        self.new.objects + self.failed.objects
    }
}

/// Where objects wait for their next attempt. One value belongs to one service key and is shared by all its tasks.
///
/// Contract, the same for every store:
/// - **Durability.** When a method has returned `Ok`, its effect survives a crash of the process and of the machine, as
///   far as the store is one that keeps anything (the memory store says that it does not).
/// - **Atomicity.** Each object is appended, changed, moved to the error collection and removed whole or not at all;
///   a verdict page is best written in one transaction.
/// - **Order.** `claim` and `list` answer by ascending `seq`, which is the order of appending; `seq` is never used twice
///   while the store is open, and a restart goes on behind what is there.
/// - **Claims.** A claimed object is handed out once, until a verdict for it has been settled or the store is opened
///   again; a crash ends every claim. Objects in state new belong to the process that appended them and are never
///   handed out by it again before a restart has made them failed.
/// - **Idempotence.** Appending an object again with the same id and content
///   ([`same_content`](crate::semantics::same_content)) is `Ok`; a verdict for an object that is gone or no longer
///   waits is `Ok` and does nothing (but [`Action::Remove`](edgehold_core::retry::Action::Remove) removes it from any
///   state). So a call whose outcome is unknown may simply be repeated.
/// - **Verdicts.** What each one changes is [`apply`](crate::semantics::apply).
/// - **Damage.** A row that cannot be read is moved to the error collection with reason `corrupt` and its raw payload,
///   and never fails a page.
/// - **Cancel safety.** A dropped future leaves either the whole effect or none; claims made by a dropped `claim`
///   are given back.
pub trait RetryQueue: Send + Sync {
    /// Keeps objects; one answer for each, in order: its `seq`, or why it was not kept.
    ///
    /// # Errors
    /// For one object: [`StoreError::Exists`] when its id is there with other content, [`StoreError::Invalid`] when it
    /// belongs to another service or is too large. For any: [`StoreError::Unavailable`], [`StoreError::Full`],
    /// [`StoreError::Closed`].
    fn append<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Vec<Result<i64, StoreError>>>;

    /// Hands out waiting objects for an attempt.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Closed`].
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>>;

    /// Writes verdicts and ends the claims of their objects.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`], [`StoreError::Closed`]: none of the claims has ended; try
    /// again.
    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The earliest moment at which a failed, unclaimed object is due with this pause between attempts
    /// ([`due_at`](crate::semantics::due_at)); none when nothing waits. May be in the past, and, as the store knows no
    /// clock, far in the future after the clock was set back: look again after one interval at the latest.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Closed`].
    fn next_due(&self, interval: Duration) -> BoxFuture<'_, Result<Option<Timestamp>, StoreError>>;

    /// Objects to look at, claimed or not.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Closed`].
    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>>;

    /// What the store holds for this service.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Closed`].
    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>>;

    /// Finishes what has been asked for and lets go of files and connections. Every later call answers
    /// [`StoreError::Closed`]. Calling it again does nothing.
    fn close(&self) -> BoxFuture<'_, ()>;
}
