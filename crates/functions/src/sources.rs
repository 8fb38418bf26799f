//! Where a function takes what cannot be computed: ids, the time and randomness.

use uuid::Uuid;

/// The sources of everything that is different each time. They are handed in, so that functions stay as testable as
/// any computation; a service hands in its operating system's.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// A new random UUID, version 4: the ids of requests, events and readings.
    pub uuid: fn() -> Uuid,
    /// The time now, in nanoseconds since 1970: the origin of events and readings.
    pub now: fn() -> i64,
    /// Fills the whole slice with bytes nobody can foresee: initialization vectors. Never less than that, or what is
    /// encrypted with them can be compared.
    pub fill_random: fn(&mut [u8]),
}
