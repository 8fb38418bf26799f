//! The rules for received events, and Go's ways of reading numbers that they rest on.

use serde_json::Value;

use super::error::{EventError, Rule, Violation};
use super::value_type::ValueType;
use super::{AddEventRequest, Event, Reading, ReadingValue};
use crate::json;

/// Holds a request to all rules: first those of all fields at once, then the readings' values, stopping at the first bad one.
pub(super) fn check_request(request: &AddEventRequest) -> Result<(), EventError> {
    let mut violations = Violations::default();
    violations.text(
        "AddEventRequest.BaseRequest.Versionable.ApiVersion",
        &request.api_version,
    );
    if !request.request_id.is_empty() && !is_uuid(&request.request_id) {
        violations.add("AddEventRequest.BaseRequest.RequestId", Rule::EmptyOrUuid);
    }
    check_fields(&request.event, "AddEventRequest.Event", &mut violations);
    violations.into_result()?;
    request.event.readings.iter().try_for_each(check_value)
}

/// Holds a bare event to the rules of its fields. Values are not checked, as in the original.
pub(super) fn check_bare_event(event: &Event) -> Result<(), EventError> {
    let mut violations = Violations::default();
    check_fields(event, "Event", &mut violations);
    violations.into_result()
}

#[derive(Default)]
struct Violations(Vec<Violation>);

impl Violations {
    fn add(&mut self, field: impl Into<String>, rule: Rule) {
        self.0.push(Violation {
            field: field.into(),
            rule,
        });
    }

    fn text(&mut self, field: &str, text: &str) {
        if text.is_empty() {
            self.add(field, Rule::Required);
        }
    }

    fn into_result(self) -> Result<(), EventError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(EventError::Invalid(self.0))
        }
    }
}

/// The rule a name breaks, if any.
fn name_rule(name: &str) -> Option<Rule> {
    if name.is_empty() {
        Some(Rule::Required)
    } else if name.trim().is_empty() {
        Some(Rule::NotBlank)
    } else {
        None
    }
}

fn check_fields(event: &Event, path: &str, violations: &mut Violations) {
    let mut check = |field: &str, rule: Option<Rule>| {
        if let Some(rule) = rule {
            violations.add(format!("{path}.{field}"), rule);
        }
    };
    check(
        "Versionable.ApiVersion",
        event.api_version.is_empty().then_some(Rule::Required),
    );
    check(
        "Id",
        if event.id.is_empty() {
            Some(Rule::Required)
        } else {
            (!is_uuid(&event.id)).then_some(Rule::Uuid)
        },
    );
    check("DeviceName", name_rule(&event.device_name));
    check("ProfileName", name_rule(&event.profile_name));
    check("SourceName", name_rule(&event.source_name));
    check("Origin", (event.origin == 0).then_some(Rule::Required));
    check("Readings", event.readings.is_empty().then_some(Rule::NotEmpty));
    for (index, reading) in event.readings.iter().enumerate() {
        let mut check = |field: &str, rule: Option<Rule>| {
            if let Some(rule) = rule {
                violations.add(format!("{path}.Readings[{index}].{field}"), rule);
            }
        };
        check("Origin", (reading.origin == 0).then_some(Rule::Required));
        check("DeviceName", name_rule(&reading.device_name));
        check("ResourceName", name_rule(&reading.resource_name));
        check("ProfileName", name_rule(&reading.profile_name));
        check(
            "ValueType",
            if reading.value_type.is_empty() {
                Some(Rule::Required)
            } else {
                ValueType::parse(&reading.value_type)
                    .is_err()
                    .then_some(Rule::ValueType)
            },
        );
    }
}

fn check_value(reading: &Reading) -> Result<(), EventError> {
    let matches = match &reading.value {
        ReadingValue::Null | ReadingValue::Object(_) => true,
        ReadingValue::Binary { media_type, .. } => {
            let mut violations = Violations::default();
            if media_type.is_empty() {
                violations.add("BinaryReading.MediaType", Rule::RequiredWithBinaryValue);
            }
            return violations.into_result();
        }
        ReadingValue::Simple(text) => is_value_of(&reading.value_type, text),
        ReadingValue::Numeric(value) => is_value_of(&reading.value_type, &numeric_text(value)),
    };
    if matches {
        Ok(())
    } else {
        Err(EventError::ValueMismatch {
            value_type: reading.value_type.clone(),
        })
    }
}

/// The text form of a JSON value: numbers as JSON, arrays as EdgeX writes them (`[1, 2]`).
pub(super) fn numeric_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let texts: Vec<String> = items.iter().map(numeric_text).collect();
            format!("[{}]", texts.join(", "))
        }
        other => {
            let bytes = json::to_vec(&json::Sorted(other)).expect("a JSON value has a JSON form");
            String::from_utf8(bytes).expect("a JSON serializer writes UTF-8")
        }
    }
}

/// Does `text` hold a value of that type? Only exact names are checked: the original checks before it corrects their case.
fn is_value_of(value_type: &str, text: &str) -> bool {
    let Some(value_type) = ValueType::exact(value_type) else {
        return true;
    };
    match value_type.element() {
        None => is_scalar_of(value_type, text),
        // The original cuts off the first and the last character unseen, and dies when there are none.
        Some(element) => match text.len().checked_sub(1).and_then(|end| text.get(1..end)) {
            Some(_) if element == ValueType::String => true,
            Some(items) => items.split(',').all(|item| is_scalar_of(element, item.trim())),
            None => element == ValueType::String && text.len() >= 2,
        },
    }
}

fn is_scalar_of(value_type: ValueType, text: &str) -> bool {
    match value_type {
        ValueType::Bool => matches!(
            text,
            "1" | "t" | "T" | "TRUE" | "true" | "True" | "0" | "f" | "F" | "FALSE" | "false" | "False"
        ),
        ValueType::Uint8 => is_unsigned::<u8>(text),
        ValueType::Uint16 => is_unsigned::<u16>(text),
        ValueType::Uint32 => is_unsigned::<u32>(text),
        ValueType::Uint64 => is_unsigned::<u64>(text),
        ValueType::Int8 => text.parse::<i8>().is_ok(),
        ValueType::Int16 => text.parse::<i16>().is_ok(),
        ValueType::Int32 => text.parse::<i32>().is_ok(),
        ValueType::Int64 => text.parse::<i64>().is_ok(),
        ValueType::Float32 => is_float(text, |text| text.parse::<f32>().ok().map(f64::from)),
        ValueType::Float64 => is_float(text, |text| text.parse::<f64>().ok()),
        _ => true,
    }
}

/// Go's `ParseUint` takes no sign.
fn is_unsigned<T: std::str::FromStr>(text: &str) -> bool {
    !text.starts_with('+') && text.parse::<T>().is_ok()
}

/// Go's `ParseFloat`: also infinities, NaN without a sign, and hexadecimal; too large is an error.
fn is_float(text: &str, parse: impl Fn(&str) -> Option<f64>) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(digits) = unsigned
        .strip_prefix("0x")
        .or_else(|| unsigned.strip_prefix("0X"))
    {
        // Through the decimal text, so that the width decides what is too large.
        return hexadecimal_float(digits).is_some_and(|value| {
            value.is_finite() && parse(&format!("{value:e}")).is_some_and(f64::is_finite)
        });
    }
    match parse(text) {
        Some(value) if value.is_nan() => unsigned.len() == text.len(),
        Some(value) if value.is_infinite() => !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.'),
        Some(_) => true,
        None => false,
    }
}

/// The value of what follows `0x`: hexadecimal digits with or without a point, and the exponent that Go requires (`1.8p3`).
fn hexadecimal_float(text: &str) -> Option<f64> {
    let (digits, exponent) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0.0;
    for digit in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
    }
    let places = i32::try_from(fraction.len()).ok()?.checked_mul(4)?;
    let exponent = exponent.parse::<i32>().ok()?.checked_sub(places)?;
    Some(value * 2_f64.powi(exponent))
}

/// A UUID as the original's validator knows it: lower case only.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_as_go_reads_them() {
        let good = [
            ("Bool", "t"),
            ("Bool", "FALSE"),
            ("Uint8", "255"),
            ("Uint64", "18446744073709551615"),
            ("Int8", "-128"),
            ("Int8", "+5"),
            ("Int64", "-9223372036854775808"),
            ("Float32", "3.4e38"),
            ("Float32", "2.150000e+01"),
            ("Float64", "NaN"),
            ("Float64", "-Inf"),
            ("Float64", "+infinity"),
            ("Float64", "0x1.8p3"),
            ("Float64", ".5"),
            ("Float64", "5."),
            ("Float64", "1e-400"),
            ("String", ""),
            ("int32", "abc"),
            ("Foo", "x"),
        ];
        let bad = [
            ("Bool", "yes"),
            ("Bool", "tRUE"),
            ("Bool", ""),
            ("Uint8", "256"),
            ("Uint8", "+5"),
            ("Uint8", "-1"),
            ("Int8", "128"),
            ("Int32", "abc"),
            ("Int32", ""),
            ("Int32", "1.0"),
            ("Int32", " 1"),
            ("Int32", "1_000"),
            ("Float32", "3.5e38"),
            ("Float64", "1e309"),
            ("Float64", "+NaN"),
            ("Float64", "0x1.8"),
            ("Float64", "0xp1"),
            ("Float64", "0x1p2000"),
            ("Float32", "0x1p200"),
            ("Float64", "."),
            ("Float64", ""),
        ];
        for (value_type, text) in good {
            assert!(is_value_of(value_type, text), "{value_type} {text:?}");
        }
        for (value_type, text) in bad {
            assert!(!is_value_of(value_type, text), "{value_type} {text:?}");
        }
    }

    #[test]
    fn arrays_are_checked_element_by_element() {
        assert!(is_value_of("Int8Array", "[1, -2,3 ]"));
        assert!(is_value_of("Float32Array", "[-1.867990e+37, 2.996557e+38]"));
        assert!(is_value_of("BoolArray", "[true, false]"));
        assert!(is_value_of("StringArray", "[]"));
        assert!(is_value_of("StringArray", "éé"), "strings are not looked at");
        assert!(!is_value_of("Int8Array", "[]"));
        assert!(!is_value_of("Int8Array", "[1, 200]"));
        assert!(!is_value_of("Int8Array", "é1é"));
        for short in ["", "["] {
            for array in ["StringArray", "Int8Array", "BoolArray"] {
                assert!(!is_value_of(array, short), "{array} {short:?}");
            }
        }
    }

    #[test]
    fn uuids_are_in_lower_case() {
        assert!(is_uuid("0f0e0d0c-0b0a-4908-8706-000000000008"));
        for bad in [
            "",
            "0F0E0D0C-0B0A-4908-8706-000000000008",
            "0f0e0d0c0b0a49088706000000000008",
            "0f0e0d0c-0b0a-4908-8706-00000000000g",
            "0f0e0d0c-0b0a-4908-8706-0000000000088",
        ] {
            assert!(!is_uuid(bad), "{bad}");
        }
    }
}
