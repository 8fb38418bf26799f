//! Keys: how they stand in an address, and which of them can be written together.
//!
//! Core Keeper takes letters, digits and `-_~;=./`, and refuses other keys with a 400 that says so. That is left to it: the
//! rule is its own. It checks only the key of the request, though, and joins those below a flattened one as Go joins paths,
//! which makes other keys of some.

use std::fmt::Write as _;

/// A key as one segment of a path: as EdgeX's client does, everything but letters and digits is encoded.
pub(crate) fn encoded(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("writing into a text does not fail");
        }
    }
    text
}

/// Whether Core Keeper, when it flattens, writes exactly this key.
pub(crate) fn can_be_flattened(key: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_~;=.".contains(c);
    key.split('/')
        .all(|level| !matches!(level, "" | "." | "..") && level.chars().all(is_legal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_encoded_as_it_was_recorded() {
        assert_eq!(
            encoded("edgex/v4/core-common-config-bootstrapper/IsCommonConfigReady"),
            "edgex%2Fv4%2Fcore%2Dcommon%2Dconfig%2Dbootstrapper%2FIsCommonConfigReady"
        );
        assert_eq!(encoded("a._~+%ü"), "a%2E%5F%7E%2B%25%C3%BC");
    }

    #[test]
    fn keys_that_would_become_others_are_not_flattened() {
        for key in ["edgex/v4/app-x/Writable/LogLevel", "a.b/c_d~e;f=g"] {
            assert!(can_be_flattened(key), "{key}");
        }
        for key in [
            "a//b", "a/", "/a", "a/../b", "a/./b", "sp ace", "ü", "a+b", "a%41",
        ] {
            assert!(!can_be_flattened(key), "{key}");
        }
    }
}
