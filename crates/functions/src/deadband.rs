//! `FilterByDeadband`: report by exception. A reading passes when its value left the band around what passed last.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use edgehold_contracts::{Event, Reading, ReadingValue};
use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};

use crate::{Sources, input, interval, name_patterns::NamePatterns, recent::Recent};

/// Of how many resources of devices the last value is kept, at least. About 100 bytes each.
const SERIES: usize = 50_000;

/// `FilterByDeadband`; `Band` must be there, `BandType` is `absolute` (default) or `percent`, `MaxSilence` a duration, and
/// `ResourceNames` and `FilterOut` say which readings it looks at, as in `FilterByResourceName`: all others pass.
pub(crate) fn build(parameters: &Parameters, sources: Sources) -> Result<BuiltFunction, InvalidFunction> {
    let text = parameters.required("Band")?;
    let size = text
        .parse()
        .ok()
        .filter(|band: &f64| band.is_finite() && *band >= 0.0)
        .ok_or_else(|| parameters.invalid("Band", format!("'{text}', which is not a number from 0")))?;
    let band = match parameters.text("BandType") {
        kind if kind.is_empty() || kind.eq_ignore_ascii_case("absolute") => Band::Absolute(size),
        kind if kind.eq_ignore_ascii_case("percent") => Band::Percent(size),
        kind => {
            return Err(parameters.invalid(
                "BandType",
                format!("'{kind}', which is neither 'absolute' nor 'percent'"),
            ));
        }
    };
    Ok(BuiltFunction::new(FilterByDeadband {
        band,
        max_silence: interval::optional(parameters, "MaxSilence")?,
        looked_at: NamePatterns::optional(parameters, "ResourceNames")?,
        sources,
        series: Mutex::new(Recent::new(SERIES)),
    }))
}

#[derive(Clone, Copy, Debug)]
enum Band {
    /// So much more or less.
    Absolute(f64),
    /// So many hundredths of the last value more or less.
    Percent(f64),
}

/// Leaves the readings that are to be reported, in order, and ends the pipeline of an event that has none left.
struct FilterByDeadband {
    band: Band,
    /// In nanoseconds.
    max_silence: Option<i64>,
    looked_at: NamePatterns,
    sources: Sources,
    /// By device and resource. Never locked across a wait: this function does not wait.
    series: Mutex<Recent<(String, String), Reported>>,
}

/// What passed last, and when.
#[derive(Clone, Copy, Debug)]
struct Reported {
    value: Measured,
    at: i64,
}

/// A value, as far as it must be known to see that another one differs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Measured {
    Integer(i128),
    Float(f64),
    /// Anything that is no number: a digest of it.
    Other(u64),
}

impl Transform for FilterByDeadband {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let event = input::event("FilterByDeadband", ctx, data)?;
        let passing = self.passing(&event, (self.sources.now)());
        Ok(input::with_readings(event, &passing))
    }
}

impl FilterByDeadband {
    /// Which readings pass now; they are remembered as reported.
    fn passing(&self, event: &Event, now: i64) -> Vec<bool> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let passes = |reading: &Reading| {
            if !self.looked_at.lets_pass(&reading.resource_name) {
                return true;
            }
            let key = (reading.device_name.clone(), reading.resource_name.clone());
            let value = Measured::of(reading);
            let passes = series.get(&key).is_none_or(|last| {
                self.band.is_left(last.value, value) || self.is_silent_too_long(last.at, now)
            });
            if passes {
                series.insert(key, Reported { value, at: now });
            }
            passes
        };
        event.readings.iter().map(passes).collect()
    }

    /// A clock that was set back is no reason to be silent.
    fn is_silent_too_long(&self, last: i64, now: i64) -> bool {
        self.max_silence
            .is_some_and(|max| now < last || now.saturating_sub(last) >= max)
    }
}

impl Band {
    fn is_left(self, last: Measured, value: Measured) -> bool {
        let (distance, size) = match (last, value) {
            (Measured::Other(_), _) | (_, Measured::Other(_)) => return last != value,
            // Exact also where floats are not.
            (Measured::Integer(a), Measured::Integer(b)) => (a.abs_diff(b) as f64, a.unsigned_abs() as f64),
            (a, b) => ((a.as_f64() - b.as_f64()).abs(), a.as_f64().abs()),
        };
        // What is no number is in no band but its own.
        if distance.is_nan() {
            return last.as_f64().to_bits() != value.as_f64().to_bits();
        }
        match self {
            Self::Absolute(band) => distance > band,
            Self::Percent(percent) => distance > size * percent / 100.0,
        }
    }
}

impl Measured {
    fn of(reading: &Reading) -> Self {
        let text = match &reading.value {
            ReadingValue::Simple(text) => text.trim().to_owned(),
            ReadingValue::Numeric(value) => value.to_string(),
            other => return Self::digest(&format!("{other:?}")),
        };
        let is_text = reading.value_type.eq_ignore_ascii_case("String");
        match (text.parse(), text.parse()) {
            (Ok(integer), _) if !is_text => Self::Integer(integer),
            (_, Ok(float)) if !is_text => Self::Float(float),
            _ => Self::digest(&text),
        }
    }

    fn digest(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self::Other(hasher.finish())
    }

    fn as_f64(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Float(float) => float,
            Self::Other(_) => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests;
