//! JsonLogic: whatever the rule and the data, it ends with an answer, leaves the data alone and can be turned round.

use edgehold_core::{Data, Flow};
use serde::Deserialize;
use serde_json::Value;

use crate::functions::{call, function};

/// A rule, the end of a line, and the JSON it is asked about.
pub fn json_logic(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let (rule, data) = text.split_once('\n').unwrap_or((text, "{}"));
    // As parameters are.
    let rule = rule.trim();
    let data = serde_json::from_str(data).unwrap_or(Value::Null);
    let Some(answer) = answer(rule, &data) else {
        return;
    };
    // Of the text only what has been read; put into another it would be something else.
    let rule = Value::deserialize(&mut serde_json::Deserializer::from_str(rule)).expect("it is read as JSON");
    // Both may be refused as nested too deep.
    let truth = self::answer(&format!(r#"{{"!!":[{rule}]}}"#), &data).flatten();
    let negation = self::answer(&format!(r#"{{"!":[{rule}]}}"#), &data).flatten();
    if let Some(answer) = answer {
        assert!(
            truth.is_none_or(|truth| truth == answer),
            "{rule}: not its own truth"
        );
        assert!(
            negation.is_none_or(|negation| negation != answer),
            "{rule}: its own opposite"
        );
    }
}

/// None when the rule is refused, inside of it none when it says neither yes nor no.
fn answer(rule: &str, data: &Value) -> Option<Option<bool>> {
    let function = function("JSONLogic", &[("Rule", rule)])?;
    Some(match call(&*function, Data::Json(data.clone())) {
        Ok(Flow::Continue(Data::Json(passed))) => {
            assert_eq!(passed, *data, "{rule} changed the data");
            Some(true)
        }
        Ok(Flow::Stop) => Some(false),
        Ok(other) => panic!("{rule} made {other:?}"),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    })
}
