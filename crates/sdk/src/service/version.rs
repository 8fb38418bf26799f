//! The versions a service says it has.

use edgehold_contracts::Generation;

/// The version this service reports: that of the EdgeX release it takes the place of, which others compare with theirs.
pub(super) fn release(generation: Generation) -> &'static str {
    match generation {
        Generation::V3 => "3.1.1",
        Generation::V4 => "4.0.1",
    }
}

/// The version of the SDK, as each generation writes it.
pub(super) fn sdk_version(generation: Generation) -> String {
    match generation {
        Generation::V3 => format!("v{}", release(generation)),
        Generation::V4 => release(generation).to_owned(),
    }
}

/// The version the log names: the release, and ours behind it.
pub(super) fn version(generation: Generation) -> String {
    format!("{}+edgehold.{}", release(generation), env!("CARGO_PKG_VERSION"))
}
