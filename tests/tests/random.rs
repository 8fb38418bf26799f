//! Chance that repeats: the same seed makes the same run. `EDGEHOLD_TEST_SEED` names it, and who uses it prints it.

use anyhow::{Context, Result};

/// SplitMix64: enough to pick moments and edits.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of these, of which there must be one.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let count = u64::try_from(of.len()).expect("a count fits");
        let index = usize::try_from(self.below(count)).expect("it is below a count");
        of[index]
    }
}

/// The seed that the environment names, or this one.
pub(crate) fn seed(otherwise: u64) -> Result<u64> {
    Ok(number("EDGEHOLD_TEST_SEED")?.unwrap_or(otherwise))
}

/// A number in the environment.
pub(crate) fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .with_context(|| format!("{variable} is no number"))
}
