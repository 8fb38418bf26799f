//! What went wrong at each attempt of one object: evidence for whoever looks at it later.

use serde_json::{Value, json};

use crate::Timestamp;

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptError {
    /// Which one it was: 1 for the first, counted afresh after a re-drive and for a later function.
    pub attempt: u32,
    /// When it ended.
    pub at: Timestamp,
    /// What went wrong, at most [`AttemptErrors::MAX_ERROR_BYTES`] of it.
    pub error: String,
}

impl AttemptError {
    /// Cuts a longer text, which then ends with "…".
    pub fn new(attempt: u32, at: Timestamp, error: &str) -> Self {
        let mut error = error.to_owned();
        if error.len() > AttemptErrors::MAX_ERROR_BYTES {
            error.truncate(error.floor_char_boundary(AttemptErrors::MAX_ERROR_BYTES - '…'.len_utf8()));
            error.push('…');
        }
        Self { attempt, at, error }
    }

    /// `{"attempt": 1, "at": <ms of the Unix epoch>, "error": "…"}`.
    pub fn to_value(&self) -> Value {
        json!({ "attempt": self.attempt, "at": self.at.as_unix_millis(), "error": self.error })
    }

    fn from_value(value: &Value) -> Option<Self> {
        Some(Self {
            attempt: u32::try_from(value.get("attempt")?.as_u64()?).ok()?,
            at: Timestamp::from_unix_millis(value.get("at")?.as_i64()?),
            error: value.get("error")?.as_str()?.to_owned(),
        })
    }
}

/// The failed attempts of an object, oldest first: all of them as long as they are few, then the first and the last
/// ones, so that an outage of weeks neither grows the row nor hides how it began. The numbers of the attempts show a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptErrors(Vec<AttemptError>);

impl AttemptErrors {
    /// So many of the first attempts are kept for good.
    pub const FIRST: usize = 4;
    /// So many are kept in all: the first and the last ones.
    pub const MAX: usize = 16;
    /// The bytes of one text.
    pub const MAX_ERROR_BYTES: usize = 500;

    /// Adds one, unless it is the one that was added last; of too many the oldest behind the first ones leaves.
    pub fn push(&mut self, error: AttemptError) {
        if self.0.last() == Some(&error) {
            return;
        }
        if self.0.len() >= Self::MAX {
            self.0.remove(Self::FIRST);
        }
        self.0.push(error);
    }

    /// Oldest first.
    pub fn as_slice(&self) -> &[AttemptError] {
        &self.0
    }

    /// As a stored row holds them: a JSON array of [`AttemptError::to_value`].
    pub fn to_json(&self) -> String {
        Value::from_iter(self.0.iter().map(AttemptError::to_value)).to_string()
    }

    /// From what a stored row holds. What cannot be read is left out: it is evidence, and no reason not to deliver.
    pub fn from_json(text: &str) -> Self {
        let values: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
        Self(values.iter().filter_map(AttemptError::from_value).collect())
    }
}

impl FromIterator<AttemptError> for AttemptErrors {
    fn from_iter<I: IntoIterator<Item = AttemptError>>(errors: I) -> Self {
        let mut all = Self::default();
        errors.into_iter().for_each(|error| all.push(error));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(attempt: u32) -> AttemptError {
        AttemptError::new(attempt, Timestamp::from_unix_millis(attempt.into()), "refused")
    }

    #[test]
    fn of_many_attempts_the_first_and_the_last_ones_stay() {
        let all: AttemptErrors = (1..=100).map(error).collect();
        let kept: Vec<_> = all.as_slice().iter().map(|error| error.attempt).collect();
        let wanted: Vec<_> = (1..=4).chain(89..=100).collect();
        assert_eq!(kept, wanted);
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        for pad in 0..4 {
            let text = format!("{}{}", "x".repeat(pad), "ä🦀".repeat(300));
            let cut = AttemptError::new(1, Timestamp::default(), &text).error;
            assert!(
                cut.len() <= AttemptErrors::MAX_ERROR_BYTES && cut.ends_with('…'),
                "{cut}"
            );
            assert!(text.starts_with(cut.trim_end_matches('…')), "{cut}");
        }
        let short = "x".repeat(AttemptErrors::MAX_ERROR_BYTES);
        assert_eq!(AttemptError::new(1, Timestamp::default(), &short).error, short);
    }

    #[test]
    fn a_row_gives_back_what_was_written_and_leaves_out_what_is_damaged() {
        let all: AttemptErrors = (1..=20).map(error).collect();
        assert_eq!(AttemptErrors::from_json(&all.to_json()), all);
        for (text, attempts) in [
            ("", 0),
            ("null", 0),
            ("[1, {}, null]", 0),
            (
                r#"[{"attempt": -1, "at": 1, "error": ""}, {"attempt": 2, "at": 1, "error": "", "x": 1}]"#,
                1,
            ),
        ] {
            assert_eq!(
                AttemptErrors::from_json(text).as_slice().len(),
                attempts,
                "{text}"
            );
        }
    }
}
