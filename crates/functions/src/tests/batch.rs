//! Batch: its parameters, its items, and what becomes of them.

use std::time::Duration;

use edgehold_core::BatchItem;

use super::*;

const BY_COUNT: (&str, &str) = ("Mode", "bycount");

#[track_caller]
fn item(parameters: Given, data: Data) -> BatchItem {
    let batch = function("Batch", parameters);
    match apply(&*batch, &mut context(Generation::V4), data).unwrap() {
        Flow::Batch(item) => item,
        other => panic!("{other:?} is no item"),
    }
}

#[track_caller]
fn combined(parameters: Given, inputs: &[Data]) -> Data {
    let items: Vec<_> = inputs.iter().map(|data| item(parameters, data.clone())).collect();
    let batching = items[0].batching.clone();
    batching.combine(items.into_iter().map(|item| item.data).collect())
}

fn text(text: &str) -> Data {
    Data::Text(text.to_owned())
}

#[test]
fn what_its_parameters_are_refused_for() {
    for (parameters, problem) in [
        (&[("BatchThreshold", "2")][..], "'Mode' is missing"),
        (
            &[("Mode", "often")],
            "'Mode' is 'often', which is not 'bycount', 'bytime' or 'bytimecount'",
        ),
        (&[BY_COUNT], "'BatchThreshold' is missing"),
        (&[BY_COUNT, ("BatchThreshold", "")], "'BatchThreshold' is ''"),
        (&[BY_COUNT, ("BatchThreshold", "2.5")], "not a whole number"),
        (&[("Mode", "bytime")], "'TimeInterval' is missing"),
        (&[("Mode", "bytime"), ("TimeInterval", "10")], "'TimeInterval' is"),
        (
            &[("Mode", "bytimecount"), ("BatchThreshold", "2")],
            "'TimeInterval' is missing",
        ),
        (
            &[("Mode", "bytimecount"), ("TimeInterval", "2s")],
            "'BatchThreshold' is missing",
        ),
        (
            &[BY_COUNT, ("BatchThreshold", "2"), ("IsEventData", "")],
            "'IsEventData' is ''",
        ),
        (
            &[BY_COUNT, ("BatchThreshold", "2"), ("MergeOnSend", "maybe")],
            "'MergeOnSend' is 'maybe'",
        ),
    ] {
        let error = build("Batch", parameters).unwrap_err().to_string();
        assert!(error.contains(problem), "{parameters:?}: {error}");
    }
}

#[test]
fn a_mode_needs_only_what_it_uses_in_any_case() {
    for (mode, parameters) in [
        ("ByCount", ("BatchThreshold", "3")),
        ("BYTIME", ("TimeInterval", "90s")),
    ] {
        // What it does not use may be anything.
        let other = match parameters.0 {
            "BatchThreshold" => ("TimeInterval", "soon"),
            _ => ("BatchThreshold", "many"),
        };
        build("Batch", &[("Mode", mode), parameters, other]).unwrap();
    }
}

#[test]
fn it_is_full_by_count_and_due_by_time() {
    let by_count = item(&[BY_COUNT, ("BatchThreshold", "3")], text("a")).batching;
    assert_eq!((by_count.is_full(2), by_count.is_full(3)), (false, true));
    assert_eq!(by_count.window(), None);
    let by_time = item(&[("Mode", "bytime"), ("TimeInterval", "1m30s")], text("a")).batching;
    assert!(!by_time.is_full(1_000_000));
    assert_eq!(by_time.window(), Some(Duration::from_secs(90)));
    let both = [
        ("Mode", "bytimecount"),
        ("TimeInterval", "2s"),
        ("BatchThreshold", "2"),
    ];
    let both = item(&both, text("a")).batching;
    assert_eq!((both.is_full(1), both.is_full(2)), (false, true));
    assert_eq!(both.window(), Some(Duration::from_secs(2)));
}

#[test]
fn a_threshold_below_two_and_an_interval_below_zero_wait_for_nobody() {
    for threshold in ["1", "0", "-7"] {
        let batching = item(&[BY_COUNT, ("BatchThreshold", threshold)], text("a")).batching;
        assert!(batching.is_full(1), "{threshold}");
    }
    let batching = item(&[("Mode", "bytime"), ("TimeInterval", "-1s")], text("a")).batching;
    assert_eq!(batching.window(), Some(Duration::ZERO));
}

#[test]
fn it_makes_a_list_of_byte_strings() {
    let list = combined(
        &[BY_COUNT, ("BatchThreshold", "2")],
        &[text("hi"), Data::Bytes(Bytes::from_static(b"\xff"))],
    );
    assert_eq!(list.to_bytes(Generation::V4), r#"["aGk=","/w=="]"#);
}

#[test]
fn it_merges_without_a_separator() {
    let merged = combined(
        &[BY_COUNT, ("BatchThreshold", "2"), ("MergeOnSend", "true")],
        &[text("a\n"), text("b\n")],
    );
    assert_eq!(merged, Data::Bytes(Bytes::from_static(b"a\nb\n")));
}

#[test]
fn it_makes_a_list_of_events_of_events_and_of_their_json() {
    let event = event();
    let json = Data::Text(String::from_utf8(event.to_json(Generation::V4)).unwrap());
    // IsEventData wins over MergeOnSend.
    let parameters = [
        BY_COUNT,
        ("BatchThreshold", "2"),
        ("IsEventData", "true"),
        ("MergeOnSend", "true"),
    ];
    let events = combined(&parameters, &[Data::Event(event.clone()), json]);
    assert_eq!(events, Data::Events(Arc::from([event.clone(), event])));
}

#[test]
fn what_is_no_event_fails_alone_and_is_kept_as_it_came() {
    let batch = function(
        "Batch",
        &[BY_COUNT, ("BatchThreshold", "2"), ("IsEventData", "true")],
    );
    let mut ctx = context(Generation::V4);
    let error = apply(&*batch, &mut ctx, text("no event")).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert_eq!(ctx.take_retry_data().unwrap().payload, "no event");
}

#[test]
fn an_item_comes_back_as_the_same_item() {
    for parameters in [
        &[BY_COUNT, ("BatchThreshold", "2")][..],
        &[BY_COUNT, ("BatchThreshold", "2"), ("IsEventData", "true")],
    ] {
        let first = item(parameters, Data::Event(event())).data;
        let kept = Data::restore(first.kind(), first.to_bytes(Generation::V4)).unwrap();
        assert_eq!(item(parameters, kept).data, first);
    }
}
