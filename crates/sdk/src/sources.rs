//! What built-in functions cannot compute, from the operating system.

use edgehold_functions::Sources;
use time::OffsetDateTime;
use uuid::Uuid;

/// Random ids and bytes, and the clock.
pub(crate) fn of_this_system() -> Sources {
    Sources {
        uuid: Uuid::new_v4,
        // A clock beyond the year 2262 stays there.
        now: || i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX),
        fill_random: |bytes| {
            getrandom::fill(bytes).expect("an operating system without randomness runs no service")
        },
    }
}
