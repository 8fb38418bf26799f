//! What is kept when a delivery could not be finished.
//!
//! ```text
//!             success                         success
//!   (0) new ───────────▶ (1) success ◀──────────────┐
//!        │ failure,           (removed, or kept as  │
//!        │ release,            history)             │
//!        ▼ restart                                  │
//!   (2) failed ──────────────────────────────────────
//!        │  ▲ failure, retries left │
//!        │  └────────────────────────
//!        ▼ given up, too old           re-drive, with a fresh count
//!   (3) error ───────────────────────▶ (2) failed
//!
//!                joins a batch                its batch was delivered
//!   (0), (2) ──────────────────▶ (4) batched ────────────────────────▶ (1) success
//!                                     │ its batch failed, restart
//!                                     ▼
//!                                (2) failed
//! ```
//!
//! What is batched waits for others, not for an attempt: it is in flight nowhere, holds nobody back, and belongs to the
//! process that put it there.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    AttemptErrors, CorrelationId, DataKind, Destination, PayloadForm, PipelineId, PipelineVersion,
    ServiceKey, StoredObjectId, Timestamp,
};

/// A number or name in a stored row that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a known {what}")]
pub struct UnknownName {
    what: &'static str,
    text: String,
}

/// Where a stored object is in its life. The code is what a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectState {
    /// 0: journaled; its first attempt has not ended.
    New,
    /// 1: delivered and kept as history.
    Success,
    /// 2: waiting for its next attempt.
    Failed,
    /// 3: given up, in the error collection; never tried again by itself.
    Error,
    /// 4: waiting in a batch of the running process for others to go on with.
    Batched,
}

impl ObjectState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::New, Self::Success, Self::Failed, Self::Error, Self::Batched];

    const NAMES: [(Self, &'static str); 5] = [
        (Self::New, "new"),
        (Self::Success, "success"),
        (Self::Failed, "failed"),
        (Self::Error, "error"),
        (Self::Batched, "batched"),
    ];

    /// The name in records and answers.
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(state, _)| *state == self)
            .map_or("error", |(_, name)| name)
    }

    /// The state with this name.
    ///
    /// # Errors
    /// [`UnknownName`] for any other text.
    pub fn from_name(name: &str) -> Result<Self, UnknownName> {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(state, _)| *state)
            .ok_or_else(|| UnknownName {
                what: "object state",
                text: name.to_owned(),
            })
    }

    /// The code in a stored row.
    pub fn code(self) -> i64 {
        match self {
            Self::New => 0,
            Self::Success => 1,
            Self::Failed => 2,
            Self::Error => 3,
            Self::Batched => 4,
        }
    }

    /// Whether it is still to be delivered.
    pub fn waits(self) -> bool {
        match self {
            Self::New | Self::Failed | Self::Batched => true,
            Self::Success | Self::Error => false,
        }
    }

    /// The state with this code.
    ///
    /// # Errors
    /// [`UnknownName`] for any other number: a row of a newer version, or a damaged one.
    pub fn from_code(code: i64) -> Result<Self, UnknownName> {
        match code {
            0 => Ok(Self::New),
            1 => Ok(Self::Success),
            2 => Ok(Self::Failed),
            3 => Ok(Self::Error),
            4 => Ok(Self::Batched),
            _ => Err(UnknownName {
                what: "object state",
                text: code.to_string(),
            }),
        }
    }
}

/// Why an object is in the error collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ErrorReason {
    /// More failed attempts than `MaxRetryCount` allows.
    RetriesExceeded,
    /// Its pipeline now has other functions.
    PipelineChanged,
    /// Its pipeline is gone.
    PipelineRemoved,
    /// The same attempt cannot succeed.
    PermanentError,
    /// Older than `MaxAge`.
    TooOld,
    /// There was no room.
    Capacity,
    /// It could not be decoded.
    Undecodable,
    /// In flight at three starts in a row.
    Crashed,
    /// Its row is damaged.
    Corrupt,
}

impl StoredInput {
    /// Whether the payload is a whole delivery, which any version of its pipeline can begin with.
    pub fn is_delivery(&self) -> bool {
        matches!(self, Self::Delivery { .. })
    }
}

impl ErrorReason {
    /// Every reason.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.iter().map(|(reason, _)| *reason)
    }

    const NAMES: [(Self, &'static str); 9] = [
        (Self::RetriesExceeded, "retries_exceeded"),
        (Self::PipelineChanged, "pipeline_changed"),
        (Self::PipelineRemoved, "pipeline_removed"),
        (Self::PermanentError, "permanent_error"),
        (Self::TooOld, "too_old"),
        (Self::Capacity, "capacity"),
        (Self::Undecodable, "undecodable"),
        (Self::Crashed, "crashed"),
        (Self::Corrupt, "corrupt"),
    ];

    /// The name in rows, logs and metrics.
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(reason, _)| *reason == self)
            .map_or("corrupt", |(_, name)| name)
    }

    /// The reason with this name.
    ///
    /// # Errors
    /// [`UnknownName`] for any other text.
    pub fn from_name(name: &str) -> Result<Self, UnknownName> {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(reason, _)| *reason)
            .ok_or_else(|| UnknownName {
                what: "error reason",
                text: name.to_owned(),
            })
    }
}

/// What the payload of an object is, so that a retry resumes with the right input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredInput {
    /// A whole delivery that has not been through its pipeline: decode it, start at position 0.
    Delivery {
        /// How the payload is encoded.
        content_type: String,
        /// Where it came from.
        topic: String,
        /// How the payload stood in its message.
        form: PayloadForm,
    },
    /// What the function at the saved position received.
    Bytes {
        /// What the bytes are turned back into.
        kind: DataKind,
    },
}

/// One unfinished run of one pipeline for one delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredObject {
    /// Its identity; made by the caller before it is appended.
    pub id: StoredObjectId,
    /// The order of appending, given by the store; 0 before that. Oldest first is smallest first.
    pub seq: i64,
    /// The service that owns it.
    pub service_key: ServiceKey,
    /// The pipeline it runs in.
    pub pipeline_id: PipelineId,
    /// The zero-based position of the function to call next.
    pub position: u32,
    /// The version its pipeline had.
    pub version: PipelineVersion,
    /// Follows the message through the stack.
    pub correlation_id: CorrelationId,
    /// The context values it had, keys in lower case.
    pub context: BTreeMap<String, String>,
    /// What the payload is.
    pub input: StoredInput,
    /// The bytes.
    pub payload: Bytes,
    /// Failed attempts, the first one included (EdgeX's `retryCount` is one less).
    pub attempts: u32,
    /// Where it is in its life.
    pub state: ObjectState,
    /// When it was first kept.
    pub created_at: Timestamp,
    /// When its last counted attempt ended; none while it is new.
    pub last_attempt_at: Option<Timestamp>,
    /// Not to be tried before this, whatever the interval says (`Retry-After`, backoff).
    pub not_before: Option<Timestamp>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What went wrong at each counted attempt, and when; of many the first and the last ones.
    pub errors: AttemptErrors,
    /// Why it is in the error collection; only with [`ObjectState::Error`].
    pub reason: Option<ErrorReason>,
    /// Where the function at the saved position sends to, when it said so.
    pub destination: Option<Destination>,
    /// When it was delivered or given up; only with [`ObjectState::Success`] and [`ObjectState::Error`].
    pub ended_at: Option<Timestamp>,
    /// The starts in a row that found it in flight: journaled and its first attempt not ended, or handed out for an
    /// attempt. Given by the store, as far as it can tell; whatever is appended has 0.
    pub crashes: u32,
}

impl StoredObject {
    /// When it may be tried next: one interval after its last attempt and not before it was asked to wait. An attempt
    /// in the future (the clock was set back) counts as long ago.
    pub fn is_due(&self, interval: std::time::Duration, now: Timestamp) -> bool {
        let rested = self
            .last_attempt_at
            .is_none_or(|at| at > now || at.saturating_add(interval) <= now);
        rested && self.not_before.is_none_or(|at| at <= now)
    }
}
