//! `AddTags`: more tags on an event.

use std::sync::Arc;

use edgehold_contracts::Tags;
use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};

use crate::input;

/// `AddTags`, whose `Tags` is a list `key:value,key:value`, blank for none. Neither keys nor values can hold `:` or `,`.
pub(crate) fn build(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    let list = parameters.required("Tags")?;
    let tags = if list.is_empty() {
        Ok(Tags::new())
    } else {
        list.split(',').map(|pair| tag(parameters, pair)).collect()
    };
    Ok(BuiltFunction::new(AddTags { tags: tags? }))
}

fn tag(parameters: &Parameters, pair: &str) -> Result<(String, serde_json::Value), InvalidFunction> {
    let parts: Vec<&str> = pair.split(':').map(str::trim).collect();
    match parts[..] {
        [key, value] if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.into())),
        _ => Err(parameters.invalid(
            "Tags",
            format!("'{}', which is not of the form 'key:value'", pair.trim()),
        )),
    }
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
