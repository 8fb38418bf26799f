use std::{cell::Cell, sync::Arc};

use edgehold_contracts::Generation;
use serde_json::json;

use super::*;
use crate::tests::{SOURCES, apply, build, context, function};

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
}

const SECOND: i64 = 1_000_000_000;

fn event(readings: &[(&str, &str, &str)]) -> Arc<Event> {
    let readings = readings.iter().map(|(resource, value_type, value)| Reading {
        device_name: "pump-1".to_owned(),
        resource_name: (*resource).to_owned(),
        value_type: (*value_type).to_owned(),
        value: ReadingValue::Simple((*value).to_owned()),
        ..Reading::default()
    });
    Arc::new(Event {
        device_name: "pump-1".to_owned(),
        readings: readings.collect(),
        tags: [("site".to_owned(), json!("plant-1"))].into(),
        ..Event::default()
    })
}

/// The function with a clock that these tests set.
fn deadband(parameters: &[(&str, &str)]) -> Arc<dyn edgehold_core::AppFunction> {
    NOW.set(SECOND);
    let sources = Sources {
        now: || NOW.get(),
        ..SOURCES
    };
    super::build(
        &Parameters::new("FilterByDeadband", parameters.iter().copied()),
        sources,
    )
    .unwrap()
    .function
}

fn passes(function: &dyn edgehold_core::AppFunction, value_type: &str, value: &str) -> bool {
    match apply(
        function,
        &mut context(Generation::V4),
        Data::Event(event(&[("T", value_type, value)])),
    ) {
        Ok(Flow::Continue(_)) => true,
        Ok(Flow::Stop) => false,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_passing(parameters: &[(&str, &str)], value_type: &str, values: &[(&str, bool)]) {
    let function = deadband(parameters);
    for (value, expected) in values {
        assert_eq!(passes(&*function, value_type, value), *expected, "{value}");
    }
}

#[test]
fn a_value_passes_when_it_leaves_the_band_around_the_last_that_passed() {
    assert_passing(
        &[("Band", "0.5")],
        "Float64",
        &[
            ("2.15e+01", true),
            ("2.2e+01", false),
            // A drift adds up: each is compared with what was reported, not with what came before.
            ("2.201e+01", true),
            ("21.6", false),
            ("21.5", true),
            ("NaN", true),
            ("NaN", false),
            ("21.5", true),
        ],
    );
    let percent = [("Band", "10"), ("BandType", "Percent")];
    assert_passing(
        &percent,
        "Int32",
        &[
            ("100", true),
            ("110", false),
            ("111", true),
            ("100", false),
            ("99", true),
            ("0", true),
            ("1", true),
        ],
    );
}

#[test]
fn without_a_band_every_change_passes_exactly() {
    assert_passing(
        &[("Band", "0")],
        "Uint64",
        &[
            ("9007199254740992", true),
            ("9007199254740992", false),
            ("9007199254740993", true),
        ],
    );
    assert_passing(
        &[("Band", "5")],
        "String",
        &[("1", true), ("1", false), ("2", true)],
    );
    assert_passing(
        &[("Band", "5")],
        "Bool",
        &[("true", true), ("true", false), ("false", true)],
    );
    assert_passing(
        &[("Band", "5")],
        "Int8Array",
        &[("[1, 2]", true), ("[1, 2]", false), ("[1, 3]", true)],
    );
}

#[test]
fn after_so_much_silence_a_value_passes_whatever_it_is() {
    let function = deadband(&[("Band", "1"), ("MaxSilence", "1m")]);
    for (at, expected) in [
        (1, true),
        (60, false),
        (61, true),
        (120, false),
        (121, true),
        (5, true),
        (64, false),
    ] {
        NOW.set(at * SECOND);
        assert_eq!(passes(&*function, "Int8", "7"), expected, "at {at} s");
    }
}

#[test]
fn the_other_readings_and_the_rest_of_the_event_stay() {
    // given
    let function = deadband(&[("Band", "1"), ("ResourceNames", "^T$,^P$")]);
    let given = event(&[("T", "Int8", "1"), ("P", "Int8", "1"), ("Serial", "String", "x")]);
    let call = |given| match apply(&*function, &mut context(Generation::V3), Data::Event(given)) {
        Ok(Flow::Continue(Data::Event(event))) => event,
        other => panic!("{other:?}"),
    };
    let first = call(Arc::clone(&given));
    assert!(
        Arc::ptr_eq(&first, &given),
        "nothing changed, so nothing is copied"
    );

    // when
    let second = call(event(&[
        ("T", "Int8", "2"),
        ("P", "Int8", "9"),
        ("Serial", "String", "x"),
    ]));

    // then
    let left: Vec<_> = second
        .readings
        .iter()
        .map(|reading| &*reading.resource_name)
        .collect();
    assert_eq!(left, ["P", "Serial"]);
    assert_eq!(second.tags, given.tags);
}

#[test]
fn devices_do_not_know_of_each_other() {
    let function = deadband(&[("Band", "1")]);
    let mut other = event(&[("T", "Int8", "1")]);
    Arc::make_mut(&mut other).readings[0].device_name = "pump-2".to_owned();
    assert!(passes(&*function, "Int8", "1"));
    let flow = apply(&*function, &mut context(Generation::V4), Data::Event(other));
    assert!(matches!(flow, Ok(Flow::Continue(_))));
    assert!(!passes(&*function, "Int8", "1"));
}

#[test]
fn what_cannot_be_a_band_is_refused_by_name() {
    for (parameters, problem) in [
        (&[][..], "parameter 'Band' is missing"),
        (
            &[("Band", "-1")],
            "parameter 'Band' is '-1', which is not a number from 0",
        ),
        (&[("Band", "inf")], "parameter 'Band' is 'inf'"),
        (
            &[("Band", "1"), ("BandType", "range")],
            "parameter 'BandType' is 'range', which is neither",
        ),
        (
            &[("Band", "1"), ("MaxSilence", "1 day")],
            "parameter 'MaxSilence' is '1 day'",
        ),
        (
            &[("Band", "1"), ("MaxSilence", "-1s")],
            "parameter 'MaxSilence' is '-1s'",
        ),
        (
            &[("Band", "1"), ("ResourceNames", "(")],
            "parameter 'ResourceNames' is '('",
        ),
    ] {
        let refusal = build("FilterByDeadband", parameters).unwrap_err().to_string();
        assert!(refusal.contains(problem), "{refusal}");
    }
    let error = apply(
        &*function("FilterByDeadband", &[("Band", "1")]),
        &mut context(Generation::V4),
        Data::Text("1".to_owned()),
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("FilterByDeadband in pipeline")
    );
}
