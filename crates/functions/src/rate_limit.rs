//! `RateLimit`: no more than so much in so much time; what is too much is filtered out.

use std::sync::{Mutex, PoisonError};

use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};

use crate::{Sources, input, interval, recent::Recent};

/// Of how many devices or resources it is known when they may go on, at least. About 100 bytes each.
const SERIES: usize = 50_000;

/// `RateLimit`; `Limit` is a number from 1, `Interval` a duration, and `Per` says what has a limit of its own: each
/// `device` (default), each `resource` of a device, or the whole `pipeline`.
pub(crate) fn build(parameters: &Parameters, sources: Sources) -> Result<BuiltFunction, InvalidFunction> {
    let text = parameters.required("Limit")?;
    let limit = text
        .parse()
        .ok()
        .filter(|limit: &i64| (1..=1_000_000_000).contains(limit))
        .ok_or_else(|| {
            parameters.invalid(
                "Limit",
                format!("'{text}', which is not a number from 1 to 1000000000"),
            )
        })?;
    let interval = interval::required(parameters, "Interval")?;
    let per = match parameters.text("Per") {
        text if text.is_empty() || text.eq_ignore_ascii_case("device") => Per::Device,
        text if text.eq_ignore_ascii_case("resource") => Per::Resource,
        text if text.eq_ignore_ascii_case("pipeline") => Per::Pipeline,
        text => {
            return Err(parameters.invalid(
                "Per",
                format!("'{text}', which is neither 'device' nor 'resource' nor 'pipeline'"),
            ));
        }
    };
    Ok(BuiltFunction::new(RateLimit {
        interval,
        step: (interval / limit).max(1),
        per,
        sources,
        series: Mutex::new(Recent::new(SERIES)),
    }))
}

#[derive(Clone, Copy, Debug)]
enum Per {
    Device,
    Resource,
    Pipeline,
}

/// A bucket for each series that holds `Limit` and is filled again within `Interval`: after a pause that many pass at
/// once, and from then on one each `Interval / Limit`.
struct RateLimit {
    /// In nanoseconds.
    interval: i64,
    /// Nanoseconds until one more may pass.
    step: i64,
    per: Per,
    sources: Sources,
    /// When each bucket is full again. Never locked across a wait: this function does not wait.
    series: Mutex<Recent<(String, String), i64>>,
}

impl Transform for RateLimit {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let now = (self.sources.now)();
        let flow = |passes: bool, data| if passes { Flow::Continue(data) } else { Flow::Stop };
        match self.per {
            Per::Pipeline => Ok(flow(self.takes_one(String::new(), String::new(), now), data)),
            Per::Device => {
                let event = input::event("RateLimit", ctx, data)?;
                let passes = self.takes_one(event.device_name.clone(), String::new(), now);
                Ok(flow(passes, Data::Event(event)))
            }
            Per::Resource => {
                let event = input::event("RateLimit", ctx, data)?;
                let passing: Vec<bool> = event
                    .readings
                    .iter()
                    .map(|reading| {
                        self.takes_one(reading.device_name.clone(), reading.resource_name.clone(), now)
                    })
                    .collect();
                Ok(input::with_readings(event, &passing))
            }
        }
    }
}

impl RateLimit {
    /// Whether one more of this series may pass now, which it then has.
    fn takes_one(&self, device: String, resource: String, now: i64) -> bool {
        let key = (device, resource);
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        // Full since long; or so far ahead that the clock was set back.
        let latest = now.saturating_add(self.interval);
        let full_at = series.get(&key).copied().filter(|at| (now..=latest).contains(at));
        let full_at = full_at.unwrap_or(now).saturating_add(self.step);
        let passes = full_at <= latest;
        if passes {
            series.insert(key, full_at);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use edgehold_contracts::Generation;

    use super::*;
    use crate::tests::{Given, SOURCES, apply, build, context, event};

    thread_local! {
        static NOW: Cell<i64> = const { Cell::new(0) };
    }

    const SECOND: i64 = 1_000_000_000;

    fn limit(parameters: Given) -> std::sync::Arc<dyn edgehold_core::AppFunction> {
        NOW.set(0);
        let sources = Sources {
            now: || NOW.get(),
            ..SOURCES
        };
        super::build(&Parameters::new("RateLimit", parameters.iter().copied()), sources)
            .unwrap()
            .function
    }

    fn passes(function: &dyn edgehold_core::AppFunction, data: Data) -> Option<Data> {
        match apply(function, &mut context(Generation::V4), data) {
            Ok(Flow::Continue(data)) => Some(data),
            Ok(Flow::Stop) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn so_many_pass_at_once_and_then_one_each_part_of_the_interval() {
        let function = limit(&[("Limit", "3"), ("Interval", "30s"), ("Per", "pipeline")]);
        for (at, expected) in [
            (100, true),
            (100, true),
            (100, true),
            (100, false),
            (109, false),
            (110, true),
            (111, false),
            (120, true),
            (200, true),
            (200, true),
            (200, true),
            (200, false),
            // The clock was set back.
            (50, true),
        ] {
            NOW.set(at * SECOND);
            let passed = passes(&*function, Data::Text("x".to_owned())).is_some();
            assert_eq!(passed, expected, "at {at} s");
        }
    }

    #[test]
    fn a_limit_is_never_passed_over_a_long_time() {
        let function = limit(&[("Limit", "5"), ("Interval", "1s"), ("Per", "pipeline")]);
        let mut passed = 0;
        for millisecond in 0..10_000 {
            NOW.set(millisecond * 1_000_000);
            passed += usize::from(passes(&*function, Data::Text(String::new())).is_some());
        }
        // What the bucket held at first, and what ten seconds filled in.
        assert_eq!(passed, 5 + 49);
    }

    #[test]
    fn each_device_or_each_resource_has_a_limit_of_its_own() {
        let parameters = [("Limit", "1"), ("Interval", "1s")];
        let function = limit(&parameters);
        let mut other = event();
        std::sync::Arc::make_mut(&mut other).device_name = "pump-2".to_owned();
        assert!(passes(&*function, Data::Event(event())).is_some());
        assert!(passes(&*function, Data::Event(event())).is_none());
        assert!(passes(&*function, Data::Event(other)).is_some());

        let function = limit(&[("Limit", "1"), ("Interval", "1s"), ("Per", "Resource")]);
        let mut one = event();
        std::sync::Arc::make_mut(&mut one).readings.truncate(1);
        assert!(passes(&*function, Data::Event(one)).is_some());
        let Some(Data::Event(left)) = passes(&*function, Data::Event(event())) else {
            panic!("one of its readings passes");
        };
        assert_eq!(left.readings.len(), 1);
        assert_eq!(left.readings[0].resource_name, "Pressure");
        assert!(passes(&*function, Data::Event(event())).is_none());
    }

    #[test]
    fn what_cannot_be_a_limit_is_refused_by_name() {
        for (parameters, problem) in [
            (&[][..], "'Limit' is missing"),
            (
                &[("Limit", "0"), ("Interval", "1s")],
                "'Limit' is '0', which is not a number from 1",
            ),
            (&[("Limit", "1")], "'Interval' is missing"),
            (
                &[("Limit", "1"), ("Interval", "0s")],
                "'Interval' is '0s', which is not more than nothing",
            ),
            (
                &[("Limit", "1"), ("Interval", "1s"), ("Per", "source")],
                "'Per' is 'source', which is neither",
            ),
        ] {
            let refusal = build("RateLimit", parameters).unwrap_err().to_string();
            assert!(refusal.contains(problem), "{refusal}");
        }
    }
}
