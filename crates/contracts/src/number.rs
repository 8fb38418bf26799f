//! Numbers as Go prints them, because text that leaves for a destination is compared byte by byte.
//!
//! All forms start from the shortest digits that read back as the same number; Go and Rust agree on these.

use std::fmt::{Display, LowerExp};

/// As Go's `encoding/json`: shortest digits, exponent form below 1e-6 and from 1e21 (`1e+21`, `1e-7`).
///
/// `value` must be finite: JSON has no text for the others.
pub fn json(value: f64) -> String {
    json_text(value, value.abs(), 1e-6, 1e21)
}

/// As [`json`], with the digits of a 32-bit float.
pub fn json_f32(value: f32) -> String {
    json_text(value, value.abs(), 1e-6, 1e21)
}

fn json_text<F: Display + LowerExp + PartialOrd + Default>(value: F, size: F, small: F, large: F) -> String {
    if size != F::default() && (size < small || size >= large) {
        let text = format!("{value:e}");
        if text.contains("e-") {
            text
        } else {
            text.replace('e', "e+")
        }
    } else {
        value.to_string()
    }
}

/// As Go's `%v`: exponent form (two exponent digits at least) below 1e-4 and from 1e6: `100000`, `1.234567e+06`.
pub fn general(value: f64) -> String {
    if !value.is_finite() {
        return non_finite(value);
    }
    let exponent_form = format!("{value:e}");
    let (_, exponent) = split_exponent(&exponent_form);
    if (-4..6).contains(&exponent) {
        value.to_string()
    } else {
        two_digit_exponent(&exponent_form)
    }
}

/// Reading values of generation 4: shortest digits, always in exponent form (`2.15e+01`, `1e+00`).
pub fn shortest_exponent(value: f64) -> String {
    if value.is_finite() {
        two_digit_exponent(&format!("{value:e}"))
    } else {
        non_finite(value)
    }
}

/// As [`shortest_exponent`], with the digits of a 32-bit float.
pub fn shortest_exponent_f32(value: f32) -> String {
    if value.is_finite() {
        two_digit_exponent(&format!("{value:e}"))
    } else {
        non_finite(value.into())
    }
}

/// Reading values of generation 3, Go's `%e`: six decimals (`2.150000e+01`).
pub fn six_decimals(value: f64) -> String {
    if value.is_finite() {
        two_digit_exponent(&format!("{value:.6e}"))
    } else {
        non_finite(value)
    }
}

fn non_finite(value: f64) -> String {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "+Inf"
    } else {
        "-Inf"
    }
    .to_owned()
}

fn split_exponent(text: &str) -> (&str, i32) {
    let (digits, exponent) = text
        .split_once('e')
        .expect("the exponent form of a finite number contains an e");
    (
        digits,
        exponent.parse().expect("a float's exponent is a small integer"),
    )
}

fn two_digit_exponent(text: &str) -> String {
    let (digits, exponent) = split_exponent(text);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_switches_to_exponents_where_go_does() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (0.1, "0.1"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.5e300, "-1.5e+300"),
            (0.000001, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (1e-10, "1e-10"),
            (15460864.08504399, "15460864.08504399"),
        ] {
            assert_eq!(json(value), text);
        }
        assert_eq!(json_f32(0.1), "0.1");
    }

    #[test]
    fn general_form_is_that_of_percent_v() {
        for (value, text) in [
            (100_000.0, "100000"),
            (1_234_567.0, "1.234567e+06"),
            (1e6, "1e+06"),
            (21.5, "21.5"),
            (0.0, "0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(general(value), text);
        }
    }

    #[test]
    fn reading_values_differ_by_generation() {
        assert_eq!(six_decimals(21.5), "2.150000e+01");
        assert_eq!(six_decimals(-4.4046069e307), "-4.404607e+307");
        assert_eq!(shortest_exponent(21.5), "2.15e+01");
        assert_eq!(shortest_exponent(1.0), "1e+00");
        assert_eq!(shortest_exponent_f32(0.1), "1e-01");
        assert_eq!(shortest_exponent(-0.0), "-0e+00");
    }
}
