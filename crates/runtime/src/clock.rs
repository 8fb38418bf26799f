//! The one place that reads the wall clock for what is stored.

use std::time::{SystemTime, UNIX_EPOCH};

use edgehold_core::Timestamp;

/// The time now. Before 1970 it is 0.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
