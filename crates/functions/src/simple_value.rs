//! The text of a simple reading: booleans, numbers and lists of them as EdgeX writes them in each generation.
//!
//! | type | generation 3 | generation 4 |
//! | --- | --- | --- |
//! | floats | `2.150000e+01` | `2.15e+01` |
//! | lists | `[1, 2]` | `[1, 2]` |
//! | lists of strings | `[a, b]`, each space of an item like the one between items | `["a","b"]`, as since 4.0.2 |

use edgehold_contracts::{Generation, ValueType, json, number};
use edgehold_core::Data;
use serde_json::Value;

/// The text of `data` as a value of a simple type; none when it is not one.
///
/// JSON values fit: `true` and `false`, numbers in the range of the type, any number a float type can hold (the nearest
/// one is taken), strings, and lists of one of these. An integer type takes no number with a fraction or exponent.
/// Bytes fit `Uint8Array`.
pub(crate) fn text(value_type: ValueType, data: &Data, generation: Generation) -> Option<String> {
    match (value_type.element(), data) {
        (None, Data::Json(value)) => scalar(value_type, value, generation),
        (Some(ValueType::Uint8), Data::Bytes(bytes)) => Some(list(bytes.iter().map(u8::to_string).collect())),
        (Some(element), Data::Json(Value::Array(items))) => {
            let items: Option<Vec<String>> = items
                .iter()
                .map(|item| scalar(element, item, generation))
                .collect();
            Some(match (element, generation) {
                (ValueType::String, Generation::V4) => json_list(&items?),
                _ => list(items?),
            })
        }
        _ => None,
    }
}

/// As Go prints a list, with a comma put before every space.
fn list(items: Vec<String>) -> String {
    format!("[{}]", items.join(" ").replace(' ', ", "))
}

fn json_list(items: &[String]) -> String {
    let bytes = json::to_vec(items).expect("strings have a JSON form");
    String::from_utf8(bytes).expect("JSON is written as UTF-8")
}

fn scalar(value_type: ValueType, value: &Value, generation: Generation) -> Option<String> {
    match value_type {
        ValueType::Bool => value.as_bool().map(|value| value.to_string()),
        ValueType::String => value.as_str().map(str::to_owned),
        ValueType::Uint8 => unsigned::<u8>(value),
        ValueType::Uint16 => unsigned::<u16>(value),
        ValueType::Uint32 => unsigned::<u32>(value),
        ValueType::Uint64 => unsigned::<u64>(value),
        ValueType::Int8 => signed::<i8>(value),
        ValueType::Int16 => signed::<i16>(value),
        ValueType::Int32 => signed::<i32>(value),
        ValueType::Int64 => signed::<i64>(value),
        ValueType::Float32 => float32(value, generation),
        ValueType::Float64 => float64(value, generation),
        _ => None,
    }
}

fn unsigned<T: TryFrom<u64> + ToString>(value: &Value) -> Option<String> {
    T::try_from(value.as_u64()?)
        .ok()
        .map(|integer| integer.to_string())
}

fn signed<T: TryFrom<i64> + ToString>(value: &Value) -> Option<String> {
    T::try_from(value.as_i64()?)
        .ok()
        .map(|integer| integer.to_string())
}

fn float64(value: &Value, generation: Generation) -> Option<String> {
    let float = value.as_f64()?;
    Some(match generation {
        Generation::V3 => number::six_decimals(float),
        Generation::V4 => number::shortest_exponent(float),
    })
}

fn float32(value: &Value, generation: Generation) -> Option<String> {
    // By way of its text: the nearest 32-bit float, or an infinity beyond all of them.
    let float: f32 = value.as_number()?.to_string().parse().ok()?;
    float.is_finite().then(|| match generation {
        Generation::V3 => number::six_decimals(float.into()),
        Generation::V4 => number::shortest_exponent_f32(float),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn assert_texts(value_type: ValueType, value: Value, v3: &str, v4: &str) {
        let data = Data::Json(value);
        for (generation, expected) in [(Generation::V3, v3), (Generation::V4, v4)] {
            assert_eq!(
                text(value_type, &data, generation).as_deref(),
                Some(expected),
                "{value_type} in {generation}"
            );
        }
    }

    #[test]
    fn numbers_have_the_text_of_their_generation() {
        use ValueType::*;
        assert_texts(Bool, json!(true), "true", "true");
        assert_texts(
            Uint64,
            json!(u64::MAX),
            "18446744073709551615",
            "18446744073709551615",
        );
        assert_texts(Int8, json!(-128), "-128", "-128");
        assert_texts(Float64, json!(21.5), "2.150000e+01", "2.15e+01");
        assert_texts(Float64, json!(1), "1.000000e+00", "1e+00");
        assert_texts(Float32, json!(0.1), "1.000000e-01", "1e-01");
        assert_texts(Float32, json!(1.0e-60), "0.000000e+00", "0e+00");
    }

    #[test]
    fn lists_have_the_text_of_their_generation() {
        use ValueType::*;
        assert_texts(BoolArray, json!([true, false]), "[true, false]", "[true, false]");
        assert_texts(Int32Array, json!([-1, 2, 3]), "[-1, 2, 3]", "[-1, 2, 3]");
        assert_texts(Int32Array, json!([]), "[]", "[]");
        assert_texts(
            Float64Array,
            json!([1.0, 2.5]),
            "[1.000000e+00, 2.500000e+00]",
            "[1e+00, 2.5e+00]",
        );
        assert_texts(
            Float32Array,
            json!([0.1, 2]),
            "[1.000000e-01, 2.000000e+00]",
            "[1e-01, 2e+00]",
        );
        assert_texts(
            StringArray,
            json!(["a b", "<"]),
            "[a, b, <]",
            r#"["a b","\u003c"]"#,
        );
        assert_eq!(
            text(
                Uint8Array,
                &Data::Bytes(Bytes::from_static(b"\x00\xff")),
                Generation::V3
            )
            .as_deref(),
            Some("[0, 255]")
        );
    }

    #[test]
    fn a_value_of_another_type_has_no_text() {
        use ValueType::*;
        for (value_type, value) in [
            (Bool, json!(1)),
            (Bool, json!("true")),
            (Uint8, json!(256)),
            (Uint8, json!(-1)),
            (Uint64, json!(1.0)),
            (Int8, json!(-129)),
            (Int64, json!(u64::MAX)),
            (Int64, json!("1")),
            (Float64, json!("1.5")),
            (Float64, json!(true)),
            (Float32, json!(1e39)),
            (Int32, json!([1])),
            (Int32Array, json!(1)),
            (Int32Array, json!([1, null])),
            (Int32Array, json!([1, 2.5])),
            (StringArray, json!("a")),
            (StringArray, json!(["a", 1])),
        ] {
            let data = Data::Json(value);
            assert_eq!(
                text(value_type, &data, Generation::V4),
                None,
                "{value_type} {data:?}"
            );
        }
        let bytes = Data::Bytes(Bytes::from_static(b"1"));
        assert_eq!(text(Uint8, &bytes, Generation::V4), None);
        assert_eq!(text(Uint16Array, &bytes, Generation::V4), None);
        assert_eq!(text(Int32, &Data::Text("1".to_owned()), Generation::V4), None);
    }
}
