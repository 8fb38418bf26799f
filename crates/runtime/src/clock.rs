//! The one place that reads the wall clock for what is stored, and draws what is to be random.

use std::time::{SystemTime, UNIX_EPOCH};

use edgehold_core::Timestamp;
use uuid::Uuid;

/// The time now. Before 1970 it is 0.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A random number from 0 to below 1.
pub(crate) fn random() -> f64 {
    // All bits of the first four bytes of a random UUID are random.
    let [a, b, c, d, ..] = Uuid::new_v4().into_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}
