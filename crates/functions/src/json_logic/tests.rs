//! The rules against the public suite of JsonLogic, and against what EdgeX's own library said about an event.

use edgehold_contracts::Generation;
use edgehold_core::{Data, ErrorClass, Flow};
use serde_json::{Value as Json, json};

use super::{
    evaluate::{EvaluateError, evaluate},
    rule::Rule,
    value::{List, Number, Object, Value},
};
use crate::tests::{apply, build, context, function};

#[track_caller]
fn rule(rule: &Json) -> Rule {
    Rule::parse(&rule.to_string()).unwrap()
}

fn to_json(value: &Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Number(Number::Integer(integer)) => json!(i64::try_from(*integer).unwrap()),
        Value::Number(Number::Float(float)) => json!(float),
        Value::Text(text) => json!(text.as_str()),
        Value::List(List::Borrowed(items)) => json!(items),
        Value::List(list) => list.iter().map(|item| to_json(&item)).collect(),
        Value::Object(Object::Borrowed(object)) => json!(object),
        Value::Object(Object::Set(set)) => {
            let mut object = to_json(&Value::Object(set.object.clone()));
            object[&*set.name] = to_json(&set.value);
            object
        }
    }
}

fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b,
    }
}

#[test]
fn the_public_suite_holds_without_an_exception() {
    let suite: Vec<Json> =
        serde_json::from_str(include_str!("../../testdata/json_logic/tests.json")).unwrap();
    let mut count = 0;
    for case in &suite {
        // Texts between the cases are headlines.
        let [logic, data, expected] = case.as_array().map_or(&[][..], Vec::as_slice) else {
            continue;
        };
        let logic = rule(logic);
        let result = evaluate(&logic, data).unwrap();
        assert!(same(&to_json(&result), expected), "{case}: {result:?}");
        count += 1;
    }
    assert_eq!(count, 275);
}

/// Passes, stops or fails, also at load.
fn verdict(rule: &str, data: &Json) -> &'static str {
    let Ok(built) = build("JSONLogic", &[("Rule", rule)]) else {
        return "error";
    };
    match apply(
        &*built.function,
        &mut context(Generation::V4),
        Data::Json(data.clone()),
    ) {
        Ok(Flow::Continue(passed)) => {
            assert_eq!(passed, Data::Json(data.clone()), "{rule} changed the data");
            "pass"
        }
        Ok(Flow::Stop) => "stop",
        Err(error) => {
            assert_eq!(error.class(), ErrorClass::Permanent, "{rule}");
            "error"
        }
        other => panic!("{rule}: {other:?}"),
    }
}

/// Rules about which we say something else than one of EdgeX's libraries, with what we say. Each belongs to a row of the
/// table in the module's documentation.
const DIFFERENT: &[(&str, &str)] = &[
    (
        r#"{"some":[{"var":"readings"},{"==":[{"var":"id"},"b"]}]}"#,
        "pass",
    ),
    (r#"{"and":[{"var":"tags.nothing"},true]}"#, "stop"),
    (r#"{"and":[true,{"var":"tags.nothing"}]}"#, "stop"),
    (r#"{"!":{"var":"tags.nothing"}}"#, "pass"),
    (r#"{"?:":[{"var":"tags.line"},true,false]}"#, "pass"),
    (r#"{"==":[{"cat":["a ",""]},"a "]}"#, "pass"),
    (r#"{"==":[{"substr":[{"var":"deviceName"},99]},""]}"#, "pass"),
    (r#"{"==":[{"+":[{"var":"tags.nothing"},1]},1]}"#, "pass"),
    (r#"{"in_sorted":["b",["a","b","c"]]}"#, "pass"),
    (r#"{"in_sorted":["x",["a","b","c"]]}"#, "stop"),
    (r#"{"contains_all":[["a","b"],["a"]]}"#, "pass"),
    (r#"{"contains_any":[["a","b"],["c"]]}"#, "stop"),
    (r#"{"contains_none":[["a","b"],["c"]]}"#, "pass"),
    (r#"{"var":"readings.9.value"}"#, "stop"),
    (
        r#"{"==":[{"var":"readings.x.resourceName"},"Temperature"]}"#,
        "stop",
    ),
    (r#"{"==":[{"var":"origin"},1712345678901234568]}"#, "stop"),
    (
        r#"{"<":[{"var":"readings.0.origin"},{"var":"readings.1.origin"}]}"#,
        "pass",
    ),
    (r#"{"foo":[1]}"#, "error"),
    (r#"{"==":[1]}"#, "stop"),
    (r#"{"==":[]}"#, "stop"),
    (r#"{"<":[1]}"#, "stop"),
    (r#"{"and":[]}"#, "stop"),
    (r#"{"==":["a",{"a":1,"b":2}]}"#, "stop"),
    (r#"{"==":[[1],[1]]}"#, "stop"),
    (r#"{"==":[true,1]}"#, "pass"),
    (r#"{"==":["1",true]}"#, "pass"),
    (r#"{"<":["",1]}"#, "pass"),
    (r#"{"==":["",0]}"#, "pass"),
    (r#"{"in":[1,"123"]}"#, "pass"),
];

#[test]
fn an_event_passes_as_with_the_library_of_edgex_but_for_what_is_listed() {
    let recorded: Json = serde_json::from_str(include_str!("../../testdata/json_logic/edgex.json")).unwrap();
    let mut different = Vec::new();
    for case in recorded["cases"].as_array().unwrap() {
        let rule = case[0].as_str().unwrap();
        let ours = verdict(rule, &recorded["data"]);
        if case.as_array().unwrap()[1..].iter().any(|theirs| theirs != ours) {
            different.push((rule, ours));
        }
    }
    assert_eq!(different, DIFFERENT);
}

#[test]
fn what_can_never_be_a_rule_is_refused_by_name_when_it_is_loaded() {
    for (rule, problem) in [
        (r#"{ "=="#, "it is no JSON: EOF while parsing"),
        ("", "it is no JSON"),
        (
            r#"{"and":[true,{"or":[{"equals":[1,1]}]}]}"#,
            "'equals' is not an operator",
        ),
        (r#"{"if":[false,{"nope":[]},true]}"#, "'nope' is not an operator"),
        (r#""true""#, "a text is neither true nor false"),
        ("[true]", "a list is neither true nor false"),
        (
            r#"{"==":[1,1],"!=":[1,2]}"#,
            "an object without an operator as its only key is neither",
        ),
    ] {
        let refusal = build("JSONLogic2", &[("Rule", rule)]).unwrap_err().to_string();
        let start = format!("function 'JSONLogic2': parameter 'Rule' is '{rule}': {problem}");
        assert!(refusal.starts_with(&start), "{refusal}");
    }
    let too_deep = format!("{}1{}", r#"{"!":["#.repeat(200), "]}".repeat(200));
    let refusal = build("JSONLogic", &[("Rule", &too_deep)])
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("recursion limit"), "{refusal}");
}

#[test]
fn a_result_that_is_no_boolean_is_an_error_and_null_is_false() {
    for (rule, kind) in [
        (r#"{"var":"a"}"#, "a text"),
        (r#"{"+":[1,2]}"#, "a number"),
        (r#"{"merge":[1]}"#, "a list"),
        (r#"{"var":""}"#, "an object"),
    ] {
        let function = function("JSONLogic", &[("Rule", rule)]);
        let data = Data::Json(json!({"a": "x"}));
        let error = apply(&*function, &mut context(Generation::V4), data).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the rule of JSONLogic in pipeline 'default-pipeline' gave {kind}, not true or false")
        );
    }
    assert_eq!(verdict(r#"{"var":"b"}"#, &json!({"a": "x"})), "stop");
}

#[test]
fn every_kind_of_data_is_asked_by_its_json_and_handed_on_as_it_is() {
    let event = crate::tests::event();
    for (rule, data) in [
        (
            r#"{"==":[{"var":"readings.1.resourceName"},"Pressure"]}"#,
            Data::Event(event),
        ),
        (
            r#"{"==":[{"var":"a"},1]}"#,
            Data::Text(r#"{"a":1} and more"#.to_owned()),
        ),
        (r#"{"==":[{"var":"a"},1]}"#, Data::Bytes(r#"{"a":1}"#.into())),
    ] {
        let function = function("JSONLogic", &[("Rule", rule)]);
        match apply(&*function, &mut context(Generation::V4), data.clone()) {
            Ok(Flow::Continue(passed)) => assert_eq!(passed, data),
            other => panic!("{other:?}"),
        }
    }
    let function = function("JSONLogic", &[("Rule", "true")]);
    let data = Data::Bytes("no json".into());
    let error = apply(&*function, &mut context(Generation::V4), data).unwrap_err();
    assert!(error.to_string().starts_with("JSONLogic in pipeline"), "{error}");
}

#[test]
fn a_rule_ends_however_much_it_is_given_to_do() {
    let numbers: Vec<u32> = (0..3000).collect();
    let list = json!({"var": "numbers"});
    for body in [
        json!({"map": [list, {"map": [list, {"+": [{"var": ""}, 1]}]}]}),
        json!({"reduce": [list, {"cat": [{"var": "accumulator"}, {"var": "accumulator"}]}, "xxxxxxxxxxxxxxxx"]}),
        json!({"reduce": [list, {"merge": [{"var": "accumulator"}, {"var": "accumulator"}]}, [1]]}),
        json!({"all": [list, {"in": [-1, list]}]}),
        json!({"all": [list, {"==": [{"var": "long"}, {"var": "long"}]}]}),
        json!({"none": [list, {"missing": [{"var": "long"}]}]}),
        json!({"all": [list, {"!": [{"in": [-1, {"merge": [list, list]}]}]}]}),
    ] {
        let rule = rule(&body);
        let data = json!({"numbers": numbers, "long": "long.".repeat(100_000)});
        let result = evaluate(&rule, &data).map(|value| value.kind());
        assert!(
            matches!(result, Err(EvaluateError::TooManySteps) | Ok("a boolean")),
            "{body}: {result:?}"
        );
    }
}

#[test]
fn nothing_is_built_that_is_too_deep_to_be_taken_apart() {
    let data = json!({"numbers": vec![1; 100_000]});
    for body in [
        json!({"reduce": [{"var": "numbers"}, [{"var": "accumulator"}], 1]}),
        json!({"reduce": [{"var": "numbers"}, {"set": [{"var": "accumulator"}, "a", 1]}, {"a": 1, "b": 2}]}),
    ] {
        let rule = rule(&body);
        assert_eq!(
            evaluate(&rule, &data).map(|value| value.kind()),
            Err(EvaluateError::TooDeep),
            "{body}"
        );
    }
}

#[test]
fn names_in_a_list_mean_its_items_and_what_they_lack_the_data_around() {
    let data = json!({
        "limit": 5, "name": "outer", "items": [{"name": "a", "n": 3}, {"name": "b", "n": 7}], "null": null
    });
    for (logic, expected) in [
        (
            json!({"map": [{"var": "items"}, {"var": "name"}]}),
            json!(["a", "b"]),
        ),
        (
            json!({"map": [{"filter": [{"var": "items"}, {">": [{"var": "n"}, {"var": "limit"}]}]}, {"var": "n"}]}),
            json!([7]),
        ),
        (
            json!({"reduce": [{"var": "items"}, {"+": [{"var": "accumulator"}, {"var": "current.n"}, {"var": "limit"}]}, 0]}),
            json!(20),
        ),
        (
            json!({"missing": ["limit", "null", "items.1.name", "items.2.name"]}),
            json!(["null", "items.2.name"]),
        ),
        (json!({"var": ["null", "default"]}), json!("default")),
        (
            json!({"set": [{"var": "items.0"}, "n", 4]}),
            json!({"name": "a", "n": 4}),
        ),
    ] {
        let rule = rule(&logic);
        let result = evaluate(&rule, &data).unwrap();
        assert_eq!(to_json(&result), expected, "{logic}");
    }
}

#[test]
fn numbers_are_exact_and_text_counts_as_the_number_it_is() {
    let data = json!({"origin": 1_712_345_678_901_234_567_i64, "big": u64::MAX, "text": "9007199254740993"});
    for (logic, expected) in [
        (
            json!({"==": [{"var": "origin"}, 1_712_345_678_901_234_567_i64]}),
            true,
        ),
        (
            json!({"==": [{"var": "origin"}, 1_712_345_678_901_234_568_i64]}),
            false,
        ),
        (
            json!({"==": [{"-": [{"var": "origin"}, 1_712_345_678_901_234_560_i64]}, 7]}),
            true,
        ),
        (json!({">": [{"+": [{"var": "big"}, 1]}, {"var": "big"}]}), true),
        (json!({"==": [{"var": "text"}, 9_007_199_254_740_993_i64]}), true),
        (json!({"==": [{"var": "text"}, 9_007_199_254_740_992_i64]}), false),
        (json!({"==": [{"%": [{"var": "origin"}, 10]}, 7]}), true),
        (json!({"==": [{"/": [7, 2]}, 3.5]}), true),
        (json!({"<": [{"%": [1, 0]}, 5]}), false),
        (json!({"==": ["2.15e+01", 21.5]}), true),
    ] {
        assert_eq!(
            to_json(&evaluate(&rule(&logic), &data).unwrap()),
            json!(expected),
            "{logic}"
        );
    }
}
