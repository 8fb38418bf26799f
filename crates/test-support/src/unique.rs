//! Names that no other test, process or run uses at the same time. Owns nothing else.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// 64 random bits. The standard library seeds each `RandomState` anew from the operating system's randomness,
/// which is all a test needs; no crate for it.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// `prefix-` followed by 16 random hexadecimal digits, for service keys, topic roots, key prefixes and client ids
/// of tests that share a server: letters, digits and `-` only, so that it is legal in all of them.
pub fn unique_name(prefix: &str) -> String {
    format!("{prefix}-{:016x}", random_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_of_one_prefix_differ() {
        assert_ne!(unique_name("app"), unique_name("app"));
    }
}
