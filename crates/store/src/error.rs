//! What can go wrong with a store, named for the caller's problem.

use std::error::Error;

use edgehold_core::{ErrorClass, ServiceKey, StoredObjectId};

/// A failed store operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store does not answer, or answered that it cannot work now. The operation may or may not have happened.
    #[error("the store is not available: {reason}")]
    Unavailable {
        /// What is wrong, without secrets.
        reason: String,
        /// What the driver said.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// There is no room: the disk is full or a limit is reached. Nothing was written.
    #[error("the store is full: {reason}")]
    Full {
        /// What is full, and where.
        reason: String,
    },
    /// An object with this id is already there, with other content.
    #[error("object {0} is already in the store")]
    Exists(StoredObjectId),
    /// The object cannot be kept as it is.
    #[error("object {id} cannot be stored: {problem}")]
    Invalid {
        /// The object.
        id: StoredObjectId,
        /// What is wrong with it.
        problem: String,
    },
    /// The store was written by a newer version. Nothing was touched.
    #[error("the store has schema version {found}, this build knows up to {known}; use a newer build")]
    NewerSchema {
        /// The version found.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// Another process uses this store.
    #[error(
        "{what} is in use by another process; stop that one, every instance of it, or choose another store or data folder"
    )]
    Locked {
        /// What is locked, for example the path of a file.
        what: String,
    },
    /// The settings of the store are wrong.
    #[error("{0}")]
    Configuration(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// A store that does not answer, with what the driver said.
    pub fn unavailable(reason: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
            source: Some(source.into()),
        }
    }

    /// An object of another service than the one the store was opened for.
    pub fn foreign(id: StoredObjectId, owner: &ServiceKey, store: &ServiceKey) -> Self {
        Self::Invalid {
            id,
            problem: format!("it belongs to service '{owner}', the store to '{store}'"),
        }
    }

    /// The same failure for each of `count` objects: what a batch answers when it failed as a whole. Every copy but
    /// the first has only the text of what is below it.
    pub fn for_each<T>(self, count: usize) -> Vec<Result<T, Self>> {
        let copies: Vec<_> = (1..count).map(|_| Err(self.copy())).collect();
        std::iter::once(Err(self)).chain(copies).take(count).collect()
    }

    fn copy(&self) -> Self {
        match self {
            Self::Unavailable { reason, source } => {
                let source = source.as_ref().map(|source| source.to_string().into());
                Self::Unavailable {
                    reason: reason.clone(),
                    source,
                }
            }
            Self::Full { reason } => Self::Full {
                reason: reason.clone(),
            },
            Self::Exists(id) => Self::Exists(*id),
            Self::Invalid { id, problem } => Self::Invalid {
                id: *id,
                problem: problem.clone(),
            },
            Self::NewerSchema { found, known } => Self::NewerSchema {
                found: *found,
                known: *known,
            },
            Self::Locked { what } => Self::Locked { what: what.clone() },
            Self::Configuration(problem) => Self::Configuration(problem.clone()),
            Self::Closed => Self::Closed,
        }
    }

    /// Whether the same operation may succeed later.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unavailable { .. } | Self::Full { .. } | Self::Locked { .. } => ErrorClass::Transient,
            Self::Exists(_)
            | Self::Invalid { .. }
            | Self::NewerSchema { .. }
            | Self::Configuration(_)
            | Self::Closed => ErrorClass::Permanent,
        }
    }
}
