//! Durations in parameters, as nanoseconds.

use edgehold_core::{InvalidFunction, Parameters, duration::parse_go_duration};

/// A duration like `1m30s` of more than nothing.
///
/// # Errors
/// [`InvalidFunction`].
pub(crate) fn required(parameters: &Parameters, name: &str) -> Result<i64, InvalidFunction> {
    let text = parameters.required(name)?;
    let nanoseconds = parse_go_duration(text)
        .map_err(|_| {
            parameters.invalid(
                name,
                format!("'{text}', which is not a duration like 30s or 1h30m"),
            )
        })?
        .as_nanos();
    if nanoseconds <= 0 {
        return Err(parameters.invalid(name, format!("'{text}', which is not more than nothing")));
    }
    Ok(nanoseconds)
}

/// As [`required`]; none when it is absent or blank.
///
/// # Errors
/// [`InvalidFunction`].
pub(crate) fn optional(parameters: &Parameters, name: &str) -> Result<Option<i64>, InvalidFunction> {
    match parameters.text(name) {
        "" => Ok(None),
        _ => required(parameters, name).map(Some),
    }
}
