//! `JSONLogic`: lets data pass that a rule says yes to.
//!
//! Owns the function; `rule` reads a rule, `evaluate` asks it about data, `value` is what a rule computes with.
//!
//! The rule is a JsonLogic rule (jsonlogic.com), the data it looks at the JSON of the input. `true` lets the input pass as it
//! is; `false` and `null` end the pipeline; every other result is an error, as it says neither. Example:
//!
//! ```json
//! {"and": [{"==": [{"var": "deviceName"}, "pump-1"]},
//!          {"some": [{"var": "readings"}, {">": [{"var": "value"}, 90]}]}]}
//! ```
//!
//! # Operators
//!
//! Those of both generations, in both: `== === != !== > >= < <= ! !! and or if ?: var missing missing_some in in_sorted
//! contains_all contains_any contains_none cat substr merge + - * / % abs max min map filter reduce all some none set`.
//!
//! # Where this differs
//!
//! From the public suite of JsonLogic (275 cases): nowhere. From the libraries in EdgeX (diegoholiveira/jsonlogic 3.3.2 and
//! 3.7.4) only as follows, mostly where they differ from JsonLogic or from their own later version:
//!
//! | rule | EdgeX | here |
//! | --- | --- | --- |
//! | no JSON, an unknown operator, a literal that is no boolean | every message fails | refused when loaded, by name |
//! | an unknown operator with one operand | the truth of the operand | refused like every other |
//! | `and` with a null or a number in it | null counts as true, the largest number is the result | the first operand that is not true, else the last; without operands null |
//! | `!` of a missing variable | null | true |
//! | `==`, `<` and so on with one operand or none | its truth; an error | false |
//! | `==` and `<` of a boolean, a blank text or a list in generation 3 | unequal, or an error | as in generation 4: `true` is 1, blank is 0, a list equals nothing |
//! | `in` of what is no text in a text | an error | of the text of a number or boolean |
//! | `?:` | wants a boolean | as `if` |
//! | `var` of `list.name` | the first item | null |
//! | `var` beyond the end of a list in generation 3 | an error | null |
//! | a name that the item of a list and the data around it both have | that of the data around it | that of the item; what an item lacks is looked for around it, as there |
//! | arithmetic with null and booleans | an error | 0 and 1 |
//! | `map` | drops items whose result is null or empty | keeps them |
//! | `reduce` | skips null; the accumulator keeps the type it began with | all items; any type |
//! | `cat` | trims what it put together | as it is |
//! | `substr` from beyond the end | the whole text | nothing |
//! | `in_sorted` in generation 4, `contains_all` and so on before 4.0.2 | unknown | known |
//! | integers beyond 2^53 | rounded | exact |
//!
//! # Bounds
//!
//! A rule nests no deeper than JSON may (128). A rule may visit [`evaluate::MAX_STEPS`] operators, items and pieces of text for
//! one piece of data, and a list it builds nests at most [`value::MAX_DEPTH`] deep; beyond it is an error. Nothing is
//! copied out of the data.

mod evaluate;
mod rule;
#[cfg(test)]
mod tests;
mod value;

use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};

use crate::input;
use rule::Rule;
use value::Value;

/// `JSONLogic`, whose `Rule` is read once, here. Like EdgeX it reads the first JSON value of the text and no further.
pub(crate) fn build(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    let text = parameters.required("Rule")?;
    let rule =
        Rule::parse(text).map_err(|problem| parameters.invalid("Rule", format!("'{text}': {problem}")))?;
    if let Some(kind) = rule.never_a_boolean() {
        return Err(parameters.invalid("Rule", format!("'{text}': {kind} is neither true nor false")));
    }
    Ok(BuiltFunction::new(JsonLogic { rule }))
}

struct JsonLogic {
    rule: Rule,
}

impl Transform for JsonLogic {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let pipeline = ctx.pipeline_id();
        let json = input::json(&data, ctx.generation()).map_err(|e| {
            FunctionError::permanent(format!("JSONLogic in pipeline '{pipeline}' works on JSON"))
                .with_source(e)
        })?;
        match evaluate::evaluate(&self.rule, &json) {
            Ok(Value::Bool(true)) => Ok(Flow::Continue(data)),
            Ok(Value::Bool(false) | Value::Null) => Ok(Flow::Stop),
            Ok(other) => Err(FunctionError::permanent(format!(
                "the rule of JSONLogic in pipeline '{pipeline}' gave {}, not true or false",
                other.kind()
            ))),
            Err(e) => Err(FunctionError::permanent(format!(
                "the rule of JSONLogic in pipeline '{pipeline}' cannot be evaluated"
            ))
            .with_source(e)),
        }
    }
}
