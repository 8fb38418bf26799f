//! `ToLineProtocol`: a metric as a line of InfluxDB's line protocol, which time series databases read.
//!
//! ```text
//! name,tag=value,… field=value,… timestamp\n
//! ```
//!
//! Tags stand in the order of the metric, those of the parameter behind them in the order of the parameter; one of the
//! same name replaces that of the metric, as a line with both is refused. What has no form in the protocol is left out: a
//! tag without name or value, a field without name or whose value is null. Whatever would end a name, a value or the line
//! is escaped, so that no text breaks out of its place; EdgeX writes it as it is.
//!
//! | value | text |
//! | --- | --- |
//! | number | a float, always: no `i` and no `u`, whichever codec it came in |
//! | boolean | `true`, `false` |
//! | text | `"text"`, with `"` and `\` escaped |
//! | list or object | its JSON as text |
//!
//! A database fixes the type of a field with the first value it sees and refuses every other. EdgeX marks integers that came
//! in CBOR, the negative ones `i`, all others `u`, so that a gauge around zero changes its type from line to line, and with
//! the codec. A float never does. Its text is EdgeX's wherever that is exact (`100000`, `1.234567e+06`); an integer that no
//! double holds keeps all its digits.

use std::fmt::Write;

use edgehold_contracts::{Metric, MetricValue, json, number};
use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};
use serde_json::{Number, Value};

use crate::tags;

/// `ToLineProtocol`, whose `Tags` is a list `key:value,key:value` of further tags, blank for none.
pub(crate) fn build(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    let tags = tags::pairs(parameters, "Tags")?;
    Ok(BuiltFunction::new(ToLineProtocol { tags }))
}

struct ToLineProtocol {
    tags: Vec<(String, String)>,
}

impl Transform for ToLineProtocol {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let pipeline = ctx.pipeline_id();
        let Data::Metric(metric) = data else {
            return Err(FunctionError::permanent(format!(
                "ToLineProtocol in pipeline '{pipeline}' works on a metric, not on data of kind '{}'",
                data.kind().as_str()
            )));
        };
        to_line(&metric, &self.tags)
            .map(|line| Flow::Continue(Data::Text(line)))
            .ok_or_else(|| {
                FunctionError::permanent(format!(
                    "ToLineProtocol in pipeline '{pipeline}' received a metric without name or fields, which has no line"
                ))
            })
    }
}

/// The metric with these tags added as one line, its end included; none when it has no name or no field that can be
/// written.
pub(crate) fn to_line(metric: &Metric, further_tags: &[(String, String)]) -> Option<String> {
    let mut line = String::with_capacity(256);
    push_name(&mut line, &metric.name, &[' ', ',']);
    if line.is_empty() {
        return None;
    }
    let own_tags = metric.tags.iter().map(|tag| (&tag.name, &tag.value));
    let own_tags = own_tags.filter(|(name, _)| !further_tags.iter().any(|(further, _)| further == *name));
    for (name, value) in own_tags.chain(further_tags.iter().map(|(name, value)| (name, value))) {
        let start = line.len();
        line.push(',');
        if !(push_key(&mut line, name) && push_key_after(&mut line, '=', value)) {
            line.truncate(start);
        }
    }
    let mut separator = ' ';
    for field in &metric.fields {
        let Some(value) = field_text(&field.value) else {
            continue;
        };
        let start = line.len();
        line.push(separator);
        if push_key(&mut line, &field.name) {
            line.push('=');
            line.push_str(&value);
            separator = ',';
        } else {
            line.truncate(start);
        }
    }
    if separator == ' ' {
        return None;
    }
    writeln!(line, " {}", metric.timestamp).expect("a String takes any text");
    Some(line)
}

/// Appends a name or value of a tag, or the name of a field, and says whether there was anything to append.
fn push_key(line: &mut String, text: &str) -> bool {
    push_name(line, text, &[' ', ',', '='])
}

fn push_key_after(line: &mut String, separator: char, text: &str) -> bool {
    line.push(separator);
    push_key(line, text)
}

/// Appends `text` with a backslash before each of the `special` characters, and says whether there was anything to append.
///
/// The protocol knows no escape for the backslash itself and none for the end of a line. The first counts only before what
/// is special, so it stays, but for one at the end, which would take up what follows; of the second the letter is written, as
/// Telegraf does.
fn push_name(line: &mut String, text: &str, special: &[char]) -> bool {
    let text = text.trim_end_matches('\\');
    for character in text.chars() {
        match character {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            other => {
                if special.contains(&other) {
                    line.push('\\');
                }
                line.push(other);
            }
        }
    }
    !text.is_empty()
}

fn field_text(value: &MetricValue) -> Option<String> {
    Some(match value {
        MetricValue::Number(number) => float(number),
        MetricValue::Signed(integer) => float(&(*integer).into()),
        MetricValue::Unsigned(integer) => float(&(*integer).into()),
        MetricValue::Other(Value::Null) => return None,
        MetricValue::Other(Value::Bool(value)) => value.to_string(),
        MetricValue::Other(Value::Number(number)) => float(number),
        MetricValue::Other(Value::String(text)) => quoted(text),
        MetricValue::Other(value) => {
            let text = json::to_vec(value).expect("a JSON value has string keys and finite numbers");
            quoted(&String::from_utf8_lossy(&text))
        }
    })
}

/// The number as Go prints a double, or, where a double would be another number, its digits.
fn float(number: &Number) -> String {
    let exact = number.to_string();
    match number.as_f64() {
        Some(double) if number.is_f64() || exact == format!("{double:.0}") => number::general(double),
        _ => exact,
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use edgehold_contracts::{ContentType, MetricField, MetricTag};
    use serde_json::json;

    use super::*;

    fn metric(name: &str, tags: &[(&str, &str)], fields: &[(&str, Value)]) -> Metric {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        let tags: Vec<_> = tags
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        let text = json!({"name": name, "tags": tags, "fields": fields, "timestamp": 7}).to_string();
        Metric::decode(text.as_bytes(), ContentType::Json).unwrap()
    }

    #[track_caller]
    fn assert_line(metric: &Metric, expected: &str) {
        assert_eq!(to_line(metric, &[]).as_deref(), Some(expected));
    }

    #[test]
    fn text_is_escaped_where_it_would_break_the_line() {
        assert_line(
            &metric(
                "cpu, load=x",
                &[
                    ("a b", "c,d=e"),
                    ("path", r"C:\temp\"),
                    ("two", "lines\nevil x=1 9"),
                ],
                &[("f 1,=", json!(r#"say "hi" \ bye"#))],
            ),
            concat!(
                r"cpu\,\ load=x,a\ b=c\,d\=e,path=C:\temp,two=lines\nevil\ x\=1\ 9 ",
                r#"f\ 1\,\=="say \"hi\" \\ bye" 7"#,
                "\n"
            ),
        );
    }

    #[test]
    fn numbers_are_exact_and_always_floats() {
        for (value, text) in [
            (json!(0), "0"),
            (json!(100_000), "100000"),
            (json!(1_234_567), "1.234567e+06"),
            (json!(-5), "-5"),
            (json!(21.5), "21.5"),
            (json!(1e300), "1e+300"),
            (json!(9_007_199_254_740_992_u64), "9.007199254740992e+15"),
            (json!(9_007_199_254_740_993_u64), "9007199254740993"),
            (json!(1_795_361_121_630_101_523_i64), "1795361121630101523"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!(i64::MIN), "-9.223372036854776e+18"),
            (json!(i64::MIN + 1), "-9223372036854775807"),
        ] {
            assert_line(&metric("m", &[], &[("v", value)]), &format!("m v={text} 7\n"));
        }
    }

    #[test]
    fn a_field_has_one_type_whatever_its_sign_and_codec() {
        for value in [5, -5] {
            let metric = Metric::new("m", vec![MetricField::integer("v", value)], Vec::new(), 7);
            let from_cbor = Metric::decode(&metric.to_cbor(), ContentType::Cbor).unwrap();
            assert_ne!(from_cbor.fields, metric.fields);
            let expected = format!("m v={value} 7\n");
            assert_line(&metric, &expected);
            assert_line(&from_cbor, &expected);
        }
    }

    #[test]
    fn values_that_are_no_numbers_have_a_text_or_are_left_out() {
        assert_line(
            &metric(
                "m",
                &[("empty", ""), ("", "x"), ("t", "v")],
                &[
                    ("null", json!(null)),
                    ("", json!(1)),
                    ("on", json!(true)),
                    ("list", json!([1, "a"])),
                ],
            ),
            "m,t=v on=true,list=\"[1,\\\"a\\\"]\" 7\n",
        );
    }

    #[test]
    fn further_tags_follow_in_their_order_and_replace_those_of_the_same_name() {
        let mut metric = metric("m", &[("site", "old"), ("service", "app")], &[("v", json!(1))]);
        metric.tags.push(MetricTag::new("z", "1"));
        let further = [("site", "plant 1"), ("room", "r_2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(
            to_line(&metric, &further).as_deref(),
            Some("m,service=app,z=1,site=plant\\ 1,room=r_2 v=1 7\n")
        );
    }

    #[test]
    fn a_metric_without_name_or_fields_has_no_line() {
        for metric in [
            metric("", &[], &[("v", json!(1))]),
            metric("m", &[], &[]),
            metric("m", &[], &[("v", json!(null))]),
            metric("m", &[], &[("\\", json!(1))]),
        ] {
            assert_eq!(to_line(&metric, &[]), None);
        }
    }
}
