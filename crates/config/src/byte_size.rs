//! Sizes in bytes as people write them: `16MiB`, `64 KB`, `1048576`.

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a size in bytes like 1048576, 16MiB or 4KB: {problem}")]
pub struct InvalidByteSize {
    text: String,
    problem: &'static str,
}

/// Units by their lower-case name. `k` alone is left out: people disagree about what it means.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// Reads a whole number with an optional unit: `KiB MiB GiB TiB` are powers of 1024, `KB MB GB TB` of 1000, in any case.
///
/// # Errors
/// [`InvalidByteSize`] for any other text and for what does not fit into 64 bits.
pub fn parse_byte_size(text: &str) -> Result<u64, InvalidByteSize> {
    let invalid = |problem| InvalidByteSize {
        text: text.to_owned(),
        problem,
    };
    let trimmed = text.trim();
    let end = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(end);
    if digits.is_empty() {
        return Err(invalid("it does not begin with a whole number"));
    }
    let unit = unit.trim_start().to_lowercase();
    let (_, factor) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| invalid("the unit is not known"))?;
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| invalid("it is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1_048_576),
            ("16MiB", 16 * 1_048_576),
            ("16 mib", 16 * 1_048_576),
            ("4KB", 4_000),
            ("1GiB", 1_073_741_824),
            ("7B", 7),
        ] {
            assert_eq!(parse_byte_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "1k",
            "16 M iB",
            "99999999999TiB",
            "1e6",
        ] {
            assert!(parse_byte_size(text).is_err(), "{text:?} was taken");
        }
    }
}
