//! The queue the retry loop runs on.

use std::{fmt, num::NonZeroU64, time::Duration};

use edgehold_core::{
    BoxFuture, CorrelationId, Destination, ErrorReason, ObjectState, PipelineId, PipelineVersion,
    StoredObject, StoredObjectId, Timestamp, retry::Verdict,
};

use crate::StoreError;

/// How much may wait. The limits count objects in state new, failed and batched, and the bytes of their payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// At most this many objects; default: no limit.
    pub max_items: Option<NonZeroU64>,
    /// At most this many bytes of payload; default: no limit.
    pub max_bytes: Option<NonZeroU64>,
}

impl Room {
    /// Whether one more object fits to what waits.
    ///
    /// # Errors
    /// [`StoreError::Full`], naming the limit it would exceed.
    pub fn admit(&self, waiting: StateCount, payload_bytes: u64) -> Result<(), StoreError> {
        let full = |reason| Err(StoreError::Full { reason });
        match (self.max_items, self.max_bytes) {
            (Some(limit), _) if waiting.objects >= limit.get() => {
                full(format!("the limit of {limit} waiting objects is reached"))
            }
            (_, Some(limit)) if waiting.payload_bytes.saturating_add(payload_bytes) > limit.get() => full(
                format!("the limit of {limit} bytes of waiting objects is reached"),
            ),
            _ => Ok(()),
        }
    }
}

/// The waiting objects of one destination, or of none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lane {
    /// All objects, whatever their destination.
    Any,
    /// Those that wait for this destination.
    To(Destination),
    /// Those of which nobody knows yet where the next function sends to.
    Unknown,
}

impl Lane {
    /// The lane an object with this destination is in.
    pub fn of(destination: Option<Destination>) -> Self {
        destination.map_or(Self::Unknown, Self::To)
    }

    /// Whether an object with this destination is in it.
    pub fn has(&self, destination: Option<&Destination>) -> bool {
        match self {
            Self::Any => true,
            Self::To(wanted) => destination == Some(wanted),
            Self::Unknown => destination.is_none(),
        }
    }
}

/// Which waiting objects a claim may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Those of this lane.
    pub lane: Lane,
    /// Those that are due ([`StoredObject::is_due`]) with this pause between attempts. The interval is not stored with
    /// the objects, so a shorter one acts at once on all of them. None: due or not, and
    /// asked to wait (`not_before`) or not.
    pub due: Option<Duration>,
}

/// Objects that an earlier process was busy with when it crashed ([`StoredObject::crashes`] above 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Suspects {
    /// All objects but those.
    #[default]
    Exclude,
    /// Only those: to be attempted one at a time, so that the one which brings the process down collects its marks
    /// alone.
    Only,
}

/// Asks for a page of waiting objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which ones.
    pub selection: Selection,
    /// Whether those that were in flight at a crash are meant, or all the others.
    pub suspects: Suspects,
    /// In order for each pipeline and device (the context value `devicename`): of each such key only the oldest waiting
    /// object may be handed out, and only while none of that key is claimed. One that is not due holds back those
    /// behind it, and so does one in state new. Objects without a device are in no order.
    pub ordered: bool,
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

/// When a lane has something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    /// Where its objects are to go; none for those without a destination.
    pub destination: Option<Destination>,
    /// The earliest moment at which one of its failed, unclaimed objects is due
    /// ([`due_at`](crate::semantics::due_at)). May be in the past; the epoch when one is due since ever.
    pub next_due: Timestamp,
}

/// How much is to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// At least this many objects.
    pub objects: u64,
    /// At least this many bytes of payload.
    pub bytes: u64,
}

impl Eviction {
    /// The objects of one call at most.
    pub const MAX_OBJECTS: usize = 1_000;
}

/// An object that was removed to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// What it was.
    pub id: StoredObjectId,
    /// The pipeline it ran in.
    pub pipeline_id: PipelineId,
    /// Follows its message through the stack.
    pub correlation_id: CorrelationId,
    /// The bytes of its payload.
    pub payload_bytes: u64,
}

/// What has been kept long enough. An object without `ended_at` counts as ended when it was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Failed, unclaimed objects created before a moment go to the error collection, reason `too_old`, oldest first.
    TooOld {
        /// The moment.
        before: Timestamp,
        /// When they are given up: now.
        at: Timestamp,
    },
    /// History that ended before a moment is removed.
    History {
        /// The moment.
        before: Timestamp,
    },
    /// What was given up before a moment is removed from the error collection.
    DeadLetters {
        /// The moment.
        before: Timestamp,
    },
    /// Of the error collection the first ones given up are removed, until no more than this are left.
    DeadLettersOver {
        /// How many may stay.
        max: u64,
    },
}

/// Which objects are meant, by what they are. A field that is empty or none says nothing; all the others must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectFilter {
    /// Those with one of these ids.
    pub ids: Vec<StoredObjectId>,
    /// Those of one of these pipelines.
    pub pipeline_ids: Vec<PipelineId>,
    /// Those stored under this version, and whole deliveries, which any version can begin with.
    pub version: Option<PipelineVersion>,
    /// Those about one of these devices (the context value `devicename`).
    pub devices: Vec<String>,
    /// Those given up for one of these reasons.
    pub reasons: Vec<ErrorReason>,
    /// Those that ended at this moment or later. One without `ended_at` counts as ended when it was created.
    pub ended_from: Option<Timestamp>,
    /// Those that ended before this moment.
    pub ended_before: Option<Timestamp>,
}

/// What an [`ObjectFilter`] looks at.
#[derive(Clone, Copy, Debug)]
pub struct Filtered<'a> {
    /// Its identity.
    pub id: StoredObjectId,
    /// Its pipeline.
    pub pipeline_id: &'a PipelineId,
    /// The version its pipeline had.
    pub version: &'a PipelineVersion,
    /// Whether its payload is a whole delivery.
    pub is_delivery: bool,
    /// The device it is about.
    pub device: Option<&'a str>,
    /// Why it was given up.
    pub reason: Option<ErrorReason>,
    /// When it ended ([`ended_at`](crate::semantics::ended_at)).
    pub ended_at: Timestamp,
}

impl<'a> From<&'a StoredObject> for Filtered<'a> {
    fn from(object: &'a StoredObject) -> Self {
        Self {
            id: object.id,
            pipeline_id: &object.pipeline_id,
            version: &object.version,
            is_delivery: object.input.is_delivery(),
            device: crate::semantics::device(object),
            reason: object.reason,
            ended_at: crate::semantics::ended_at(object),
        }
    }
}

impl ObjectFilter {
    /// Those with these ids; all for none.
    pub fn ids(ids: impl IntoIterator<Item = StoredObjectId>) -> Self {
        Self {
            ids: ids.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Whether an object is meant.
    pub fn selects<'a>(&self, object: impl Into<Filtered<'a>>) -> bool {
        let object = object.into();
        (self.ids.is_empty() || self.ids.contains(&object.id))
            && (self.pipeline_ids.is_empty() || self.pipeline_ids.contains(object.pipeline_id))
            && (self.devices.is_empty() || self.devices.iter().any(|device| object.device == Some(device)))
            && (self.reasons.is_empty() || object.reason.is_some_and(|reason| self.reasons.contains(&reason)))
            && self
                .version
                .as_ref()
                .is_none_or(|version| object.is_delivery || version == object.version)
            && self.ended_from.is_none_or(|from| from <= object.ended_at)
            && self.ended_before.is_none_or(|before| object.ended_at < before)
    }
}

/// For logs: `pipeline=a,b device=pump reason=too_old ended_before=1700000000000`, and of many ids how many.
impl fmt::Display for ObjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let joined = |names: Vec<String>| match names.len() {
            0 => None,
            1..=SHOWN => Some(names.join(",")),
            many => Some(format!("({many})")),
        };
        let parts = [
            ("id", joined(self.ids.iter().map(ToString::to_string).collect())),
            (
                "pipeline",
                joined(self.pipeline_ids.iter().map(ToString::to_string).collect()),
            ),
            ("version", self.version.as_ref().map(ToString::to_string)),
            ("device", joined(self.devices.clone())),
            (
                "reason",
                joined(
                    self.reasons
                        .iter()
                        .map(|reason| reason.as_str().to_owned())
                        .collect(),
                ),
            ),
            ("ended_from", self.ended_from.map(|at| at.to_string())),
            ("ended_before", self.ended_before.map(|at| at.to_string())),
        ];
        let parts = parts
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        f.write_str(&parts.collect::<Vec<_>>().join(" "))
    }
}

/// Asks for a page of the error collection to be re-driven or purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPage {
    /// Which ones.
    pub filter: ObjectFilter,
    /// Only objects whose `seq` is greater: a run goes through the collection once, whatever comes back to it. 0 begins.
    pub after_seq: i64,
    /// At most this many, at least 1.
    pub limit: usize,
}

/// What was done to a page of the error collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many objects; fewer than were asked for mean that there are no more behind them.
    pub objects: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// The `seq` of the last one: the next page is behind it. None when there was none.
    pub last_seq: Option<i64>,
}

/// The objects of the error collection of one pipeline and one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorGroup {
    /// The pipeline.
    pub pipeline_id: PipelineId,
    /// The reason; none for objects that do not say.
    pub reason: Option<ErrorReason>,
    /// How many, and what they weigh.
    pub count: StateCount,
    /// When the first and the last of them were given up ([`ended_at`](crate::semantics::ended_at)).
    pub ended: (Timestamp, Timestamp),
}

/// Asks for a page of objects to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// Only objects in one of these states; none of them means no object.
    pub states: Vec<ObjectState>,
    /// Of these only the ones that are meant.
    pub filter: ObjectFilter,
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
    /// Waiting in batches.
    pub batched: StateCount,
    /// Kept as history.
    pub success: StateCount,
    /// In the error collection.
    pub error: StateCount,
    /// When the oldest object that waits for an attempt was first kept; those in batches wait for others.
    pub oldest_waiting: Option<Timestamp>,
}

impl StoreStats {
    /// Objects that are still to be delivered: new, failed and batched.
    pub fn waiting(&self) -> u64 {
        self.new.objects + self.failed.objects + self.batched.objects
    }

    /// Bytes of payload that are still to be delivered.
    pub fn waiting_bytes(&self) -> u64 {
        [self.new, self.failed, self.batched]
            .iter()
            .fold(0, |bytes, count| count.payload_bytes.saturating_add(bytes))
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
///   handed out before a verdict or a restart has made them failed. The same holds for objects in state batched, which
///   moreover hold nobody back where order is asked for, and were not in flight at a crash.
/// - **Crashes.** A start finds objects in flight when they are in state new, or were claimed when the process before
///   ended without a verdict for them (as far as the store can tell; it says so). Each such start adds one to
///   [`StoredObject::crashes`]; the third in a row ([`MAX_CRASHES`](crate::semantics::MAX_CRASHES)) moves the object to
///   the error collection with reason `crashed`. Any verdict, and a start that does not find it in flight, take it back
///   to 0.
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
    /// Keeps objects; one answer for each, in order: its `seq`, or why it was not kept. An object in state new, failed or
    /// batched for which there is no `room` is not kept; this is exact, also among concurrent appends. One that is there already
    /// needs no room, and neither does one in another state.
    ///
    /// # Errors
    /// For one object: [`StoreError::Exists`] when its id is there with other content, [`StoreError::Invalid`] when it
    /// belongs to another service or is too large, [`StoreError::Full`] when there is no room. For any:
    /// [`StoreError::Unavailable`], [`StoreError::Full`], [`StoreError::Closed`].
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>>;

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

    /// The lanes that have failed, unclaimed objects, and when the first of each is due with this pause between
    /// attempts; the one without a destination first, then in the order of their names. Cheap enough to be asked often,
    /// however much waits.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Closed`].
    fn lanes(&self, interval: Duration, now: Timestamp)
    -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>>;

    /// Whether an object of this pipeline and device (the context value `devicename`) waits: is in state new or failed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Closed`].
    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Removes the oldest unclaimed failed objects until so much is freed or none is left, at most
    /// [`Eviction::MAX_OBJECTS`] in one call; answers what was removed, oldest first. Works on a full disk as long as
    /// the store has a reserve.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`], [`StoreError::Closed`].
    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>>;

    /// Moves or removes what has been kept long enough, at most `limit` objects (at least 1); answers how many. Fewer
    /// than `limit` means that there are no more for now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`], [`StoreError::Closed`].
    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Takes a page of objects out of the error collection, oldest (`seq`) first. Each becomes failed with a fresh count,
    /// due at once ([`redrive`](crate::semantics::redrive)), in its old place in the queue. What is
    /// [`ErrorReason::Corrupt`] cannot be read, and so is taken only when the filter names that reason.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`], [`StoreError::Closed`].
    fn redrive(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>>;

    /// Removes a page of objects from the error collection, oldest (`seq`) first, for good.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`], [`StoreError::Closed`].
    fn purge(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>>;

    /// Counts the objects of the error collection that are meant, for each pipeline and reason, in this order. Looks at
    /// each of them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Closed`].
    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>>;

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
