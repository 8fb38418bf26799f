use edgehold_core::{
    CorrelationId, DataKind, ObjectState, PipelineId, PipelineVersion, ServiceKey, StoredInput,
    StoredObjectId,
};
use uuid::Uuid;

use super::*;

const INTERVAL: Duration = Duration::from_secs(300);

fn object(seq: i64) -> StoredObject {
    StoredObject {
        id: StoredObjectId::from_uuid(Uuid::from_u128(1)),
        seq,
        service_key: ServiceKey::try_new("app-test").unwrap(),
        pipeline_id: PipelineId::default_pipeline(),
        position: 0,
        version: PipelineVersion::from_stored(""),
        correlation_id: CorrelationId::new(""),
        context: Default::default(),
        input: StoredInput::Bytes {
            kind: DataKind::Bytes,
        },
        payload: vec![0; 10].into(),
        attempts: 1,
        state: ObjectState::Failed,
        created_at: at(0),
        last_attempt_at: None,
        not_before: None,
        last_error: None,
        errors: Default::default(),
        reason: None,
        destination: Some(there()),
        ended_at: None,
        crashes: 0,
    }
}

fn there() -> Destination {
    Destination::new("http://a:1")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000)
}

fn lane() -> LaneState {
    LaneState::new(LaneKey::To(Some(there())))
}

/// A destination with room for four more.
const GOOD: Outlook = Outlook {
    room: 4,
    most: 64,
    soon: 8,
    closed: false,
    probing: false,
    ready_in: Duration::ZERO,
};

/// A destination that does not answer, and may be probed now.
const PROBE: Outlook = Outlook {
    room: 1,
    soon: 1,
    probing: true,
    ..GOOD
};

/// Begins a pass and answers what it asks for.
fn asks(lane: &mut LaneState, outlook: &Outlook, now: Timestamp, moment: Instant) -> Option<Wanted> {
    lane.begin(outlook, now, moment);
    lane.want(outlook, INTERVAL, 256)
}

#[test]
fn a_pass_goes_through_what_is_due_once_and_then_asks_what_comes_next() {
    let (mut lane, moment) = (lane(), Instant::now());
    assert_eq!(lane.wake_at(&GOOD, at(0), moment), None, "nothing waits");
    lane.note(at(10));
    assert_eq!(lane.wake_at(&GOOD, at(0), moment), Some(at(10)));
    assert_eq!(asks(&mut lane, &GOOD, at(9), moment), None);

    let wanted = asks(&mut lane, &GOOD, at(10), moment).unwrap();
    assert_eq!(wanted.selection.due, Some(INTERVAL));
    assert_eq!(wanted.selection.lane, Lane::To(there()));
    assert_eq!((wanted.after_seq, wanted.limit), (0, 8));
    assert_eq!(lane.want(&GOOD, INTERVAL, 256), None, "one claim at a time");
    lane.got(vec![object(3), object(5)]).unwrap();
    assert_eq!(lane.bytes_in_hand(), 20);
    assert_eq!(lane.want(&GOOD, INTERVAL, 256).unwrap().after_seq, 5);
    assert_eq!(lane.next().unwrap().0.seq, 3);
    lane.got(vec![]).unwrap();
    assert!(!lane.end_if_done(moment), "one is at hand");
    assert_eq!(lane.next().unwrap().0.seq, 5);
    assert_eq!(lane.bytes_in_hand(), 0);
    assert!(!lane.end_if_done(moment), "another pass may find more");

    // The next one finds nothing more, so that the store has to say what comes next.
    assert_eq!(asks(&mut lane, &GOOD, at(10), moment).unwrap().after_seq, 0);
    lane.got(vec![]).unwrap();
    assert!(lane.end_if_done(moment));
    lane.ask();
    lane.answer(Some(at(310)));
    assert_eq!(lane.wake_at(&GOOD, at(11), moment), Some(at(310)));
}

#[test]
fn what_comes_while_the_store_is_asked_is_not_forgotten() {
    let mut lane = lane();
    lane.ask();
    lane.note(at(20));
    lane.answer(None);
    assert_eq!(lane.wake_at(&GOOD, at(0), Instant::now()), Some(at(20)));
    lane.ask();
    lane.answer(None);
    assert_eq!(lane.wake_at(&GOOD, at(0), Instant::now()), None);
}

#[test]
fn what_seems_due_and_is_not_there_is_looked_for_less_and_less_often() {
    let (mut lane, mut moment) = (lane(), Instant::now());
    let mut pauses = Vec::new();
    for _ in 0..9 {
        lane.note(at(0));
        assert!(asks(&mut lane, &GOOD, at(1), moment).is_some());
        lane.got(vec![]).unwrap();
        lane.end_if_done(moment);
        lane.note(at(0));
        let pause = lane
            .wake_at(&GOOD, at(1), moment)
            .unwrap()
            .saturating_since(at(1));
        assert_eq!(asks(&mut lane, &GOOD, at(1), moment + pause / 2), None);
        moment += pause;
        pauses.push(pause.as_millis());
        assert!(!lane.is_forgettable(moment), "it would begin anew");
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    // A success there ends the waiting.
    lane.note(at(0));
    asks(&mut lane, &GOOD, at(1), moment).unwrap();
    lane.got(vec![]).unwrap();
    lane.end_if_done(moment);
    lane.wake();
    assert!(asks(&mut lane, &GOOD, at(1), moment).is_some());
}

#[test]
fn a_success_brings_what_is_not_due_and_the_next_one_goes_on_behind_what_failed() {
    let (mut lane, moment) = (lane(), Instant::now());
    lane.note(at(1000));
    lane.wake();
    assert_eq!(lane.wake_at(&GOOD, at(0), moment), Some(at(0)));
    let wanted = asks(&mut lane, &GOOD, at(0), moment).unwrap();
    assert_eq!((wanted.selection.due, wanted.after_seq), (None, 0));
    lane.got(vec![object(3), object(5), object(7)]).unwrap();
    lane.next().unwrap();

    // When the first one fails, then the others are given back.
    let until = lane.failed_early(3, INTERVAL, moment);
    assert_eq!(until, moment + Duration::from_secs(30));
    assert_eq!(lane.break_off().len(), 2);
    assert_eq!(lane.bytes_in_hand(), 0);
    lane.wake();
    assert_eq!(asks(&mut lane, &GOOD, at(0), moment).unwrap().after_seq, 3);
    lane.got(vec![]).unwrap();
    lane.end_if_done(moment);
    lane.wake();
    assert_eq!(asks(&mut lane, &GOOD, at(0), until).unwrap().after_seq, 0);
}

#[test]
fn each_probe_is_another_object_due_or_not() {
    let (mut lane, moment) = (lane(), Instant::now());
    lane.note(at(1000));
    let mut probed = Vec::new();
    for answer in [vec![object(3)], vec![object(5)], vec![], vec![object(3)]] {
        let wanted = asks(&mut lane, &PROBE, at(0), moment + 10 * LONGEST_REST).unwrap();
        assert_eq!((wanted.selection.due, wanted.limit), (None, 1));
        probed.push(wanted.after_seq);
        lane.got(answer).unwrap();
        lane.next();
        lane.end_if_done(moment);
        lane.note(at(1000));
    }
    assert_eq!(probed, [0, 3, 5, 0]);
}

#[test]
fn a_closed_destination_is_waited_for_and_an_empty_lane_is_not_probed() {
    let (mut lane, moment) = (lane(), Instant::now());
    let closed = Outlook {
        room: 0,
        soon: 0,
        closed: true,
        ready_in: Duration::from_secs(20),
        ..PROBE
    };
    assert_eq!(lane.wake_at(&closed, at(0), moment), None);
    assert_eq!(asks(&mut lane, &PROBE, at(0), moment), None);
    lane.note(at(1000));
    assert_eq!(lane.wake_at(&closed, at(0), moment), Some(at(20)));
    assert_eq!(asks(&mut lane, &closed, at(0), moment), None);
}

#[test]
fn what_a_broken_off_pass_has_claimed_comes_back_before_another_begins() {
    let (mut lane, moment) = (lane(), Instant::now());
    lane.note(at(0));
    asks(&mut lane, &GOOD, at(0), moment).unwrap();
    assert!(lane.break_off().is_empty());
    assert_eq!(asks(&mut lane, &GOOD, at(0), moment), None);
    assert_eq!(lane.got(vec![object(3)]).unwrap_err().len(), 1);
    assert_eq!(asks(&mut lane, &GOOD, at(0), moment).unwrap().after_seq, 0);
}
