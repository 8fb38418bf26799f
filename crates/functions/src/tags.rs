//! `AddTags`: more tags on an event.

use std::sync::Arc;

use edgehold_contracts::Tags;
use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};

use crate::input;

/// `AddTags`, whose `Tags` is a list `key:value,key:value`, blank for none. Neither keys nor values can hold `:` or `,`.
pub(crate) fn build(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    let tags = pairs(parameters, "Tags")?;
    let tags = tags.into_iter().map(|(key, value)| (key, value.into()));
    Ok(BuiltFunction::new(AddTags { tags: tags.collect() }))
}

/// `AddTags` with values of any JSON type, which the list of a configuration cannot give.
pub fn add_tags(tags: Tags) -> BuiltFunction {
    BuiltFunction::new(AddTags { tags })
}

/// The pairs of the list `key:value,key:value` in the parameter `name`, in its order; of two with the same key the last.
///
/// # Errors
/// [`InvalidFunction`] when the parameter is missing, or for the first that is not of this form.
pub(crate) fn pairs(parameters: &Parameters, name: &str) -> Result<Vec<(String, String)>, InvalidFunction> {
    let list = parameters.required(name)?;
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in list.split(',').filter(|_| !list.is_empty()) {
        let parts: Vec<&str> = pair.split(':').map(str::trim).collect();
        let [key, value] = parts[..] else {
            return Err(not_a_pair(parameters, name, pair));
        };
        if key.is_empty() || value.is_empty() {
            return Err(not_a_pair(parameters, name, pair));
        }
        pairs.retain(|(known, _)| known != key);
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

fn not_a_pair(parameters: &Parameters, name: &str, pair: &str) -> InvalidFunction {
    parameters.invalid(
        name,
        format!("'{}', which is not of the form 'key:value'", pair.trim()),
    )
}

/// Adds the tags, replacing those of the same name.
struct AddTags {
    tags: Tags,
}

impl Transform for AddTags {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let mut event = input::event("AddTags", ctx, data)?;
        if !self.tags.is_empty() {
            Arc::make_mut(&mut event).tags.extend(self.tags.clone());
        }
        Ok(Flow::Continue(Data::Event(event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(tags: &str) -> Option<String> {
        build(&Parameters::new("AddTags", [("Tags", tags)]))
            .err()
            .map(|e| e.to_string())
    }

    #[test]
    fn every_pair_has_two_parts() {
        assert_eq!(refusal("a:1, b : two"), None);
        assert_eq!(refusal(" "), None);
        for tags in ["novalue", "a:", ":1", "a:b:c", "a:1,", "a:1,,b:2"] {
            let error = refusal(tags).unwrap();
            assert!(
                error.contains("'Tags'") && error.contains("not of the form"),
                "{error}"
            );
        }
    }
}
