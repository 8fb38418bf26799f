//! The list of regular expressions a filter compares names with.

use edgehold_core::{InvalidFunction, Parameters};
use regex::Regex;

/// Regular expressions, and what it means when one of them matches.
///
/// A pattern matches anywhere in a name: `Temp` matches `Temperature`. An empty list lets every name pass.
#[derive(Debug)]
pub(crate) struct NamePatterns {
    patterns: Vec<Regex>,
    filter_out: bool,
}

impl NamePatterns {
    /// The comma list in the parameter `names`, and `FilterOut` (false).
    ///
    /// # Errors
    /// [`InvalidFunction`] when the list is missing, `FilterOut` is no boolean, or a pattern is no regular expression.
    /// EdgeX loads the latter and then stops every message without a word; refused here, the last good pipeline stays.
    pub(crate) fn from_parameters(parameters: &Parameters, names: &str) -> Result<Self, InvalidFunction> {
        parameters.required(names)?;
        Self::optional(parameters, names)
    }

    /// As [`NamePatterns::from_parameters`]; a missing list is an empty one.
    pub(crate) fn optional(parameters: &Parameters, names: &str) -> Result<Self, InvalidFunction> {
        let compile = |pattern: &str| {
            Regex::new(pattern).map_err(|e| {
                parameters.invalid(
                    names,
                    format!("'{pattern}', which is no regular expression: {}", reason(&e)),
                )
            })
        };
        Ok(Self {
            patterns: parameters
                .text(names)
                .split(',')
                .map(str::trim)
                .filter(|pattern| !pattern.is_empty())
                .map(compile)
                .collect::<Result<_, _>>()?,
            filter_out: parameters.bool("FilterOut", false)?,
        })
    }

    /// Whether the list lets everything pass.
    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether what has this name passes.
    pub(crate) fn lets_pass(&self, name: &str) -> bool {
        self.is_empty() || self.patterns.iter().any(|pattern| pattern.is_match(name)) != self.filter_out
    }
}

/// The last line of the parser's drawing, which says what is wrong.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(names: &str, filter_out: &str) -> Result<NamePatterns, InvalidFunction> {
        let parameters = Parameters::new("Filter1", [("Names", names), ("FilterOut", filter_out)]);
        NamePatterns::from_parameters(&parameters, "Names")
    }

    #[test]
    fn a_name_passes_when_a_pattern_is_found_anywhere_in_it() {
        let patterns = patterns("Temp, ^Press.*e$ ,", "false").unwrap();
        for (name, expected) in [
            ("Temperature", true),
            ("RoomTemp", true),
            ("Pressure", true),
            ("LowPressure", false),
            ("temperature", false),
            ("", false),
        ] {
            assert_eq!(patterns.lets_pass(name), expected, "{name}");
        }
    }

    #[test]
    fn filter_out_turns_the_answer_round() {
        let patterns = patterns("Temp", "TRUE").unwrap();
        assert!(!patterns.lets_pass("Temperature"));
        assert!(patterns.lets_pass("Pressure"));
    }

    #[test]
    fn an_empty_list_lets_everything_pass_either_way() {
        for filter_out in ["false", "true"] {
            for names in ["", " , "] {
                assert!(patterns(names, filter_out).unwrap().lets_pass("Temperature"));
            }
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        assert_eq!(
            patterns("ok,a(b", "false").unwrap_err().to_string(),
            "function 'Filter1': parameter 'Names' is 'a(b', which is no regular expression: unclosed group"
        );
        assert!(
            patterns("a", "maybe")
                .unwrap_err()
                .to_string()
                .contains("'FilterOut'")
        );
        let missing =
            NamePatterns::from_parameters(&Parameters::new("Filter1", [("FilterOut", "false")]), "Names");
        assert_eq!(
            missing.unwrap_err().to_string(),
            "function 'Filter1': parameter 'Names' is missing"
        );
    }
}
