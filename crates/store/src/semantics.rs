//! What every store does to an object, as functions of values: what a verdict changes, when an object is due, and
//! which objects are the same.
//!
//! A store that holds whole objects calls these; one that speaks SQL says the same in its own words, and the
//! [conformance suite](crate::conformance) compares the two.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use edgehold_core::{
    AttemptError, Context, Destination, ErrorReason, ObjectState, StoredInput, StoredObject, StoredObjectId,
    Timestamp,
    retry::{Action, Failure, Progress},
};

/// What a verdict made of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It leaves the store.
    Removed,
    /// It is to be written again.
    Changed,
    /// There is nothing to write.
    Unchanged,
}

/// Starts in a row that may find an object in flight before it is given up as `crashed`.
pub const MAX_CRASHES: u32 = 3;

/// Applies the action of a verdict to an object.
///
/// Only an object that still waits (new, failed or batched) is changed: a late verdict never takes one out of the error
/// collection. [`Action::Remove`] removes it whatever its state. A failure or release without a destination leaves the
/// one the object had, unless another function is now the next to call. A counted failure joins the
/// [errors](StoredObject::errors) of the object. Any verdict ends a row of crashes.
pub fn apply(object: &mut StoredObject, action: &Action) -> Applied {
    match action {
        Action::Remove => return Applied::Removed,
        _ if !object.state.waits() => return Applied::Unchanged,
        Action::Succeed { at } => {
            object.state = ObjectState::Success;
            object.ended_at = Some(*at);
        }
        Action::Release {
            not_before,
            last_error,
            destination,
            progress,
        } => {
            let unchanged = *action == Action::RELEASE && object.state == ObjectState::Failed;
            if unchanged && object.crashes == 0 {
                return Applied::Unchanged;
            }
            object.state = ObjectState::Failed;
            object.not_before = not_before.or(object.not_before);
            if last_error.is_some() {
                object.last_error.clone_from(last_error);
            }
            move_on(object, destination.as_ref(), progress.as_ref());
        }
        Action::Batch(progress) => {
            object.state = ObjectState::Batched;
            object.attempts = 0;
            object.not_before = None;
            move_on(object, None, Some(progress));
        }
        Action::RetryLater(failure) => {
            object.state = ObjectState::Failed;
            fail(object, failure);
        }
        Action::GiveUp { reason, at, failure } => {
            object.state = ObjectState::Error;
            object.reason = Some(*reason);
            object.ended_at = Some(*at);
            if let Some(failure) = failure {
                fail(object, failure);
            }
        }
    }
    object.crashes = 0;
    Applied::Changed
}

fn fail(object: &mut StoredObject, failure: &Failure) {
    object.attempts = failure.attempts;
    object.last_attempt_at = Some(failure.at);
    object.last_error = Some(failure.error.clone());
    object
        .errors
        .push(AttemptError::new(failure.attempts, failure.at, &failure.error));
    object.not_before = failure.not_before;
    move_on(object, failure.destination.as_ref(), failure.progress.as_ref());
}

fn move_on(object: &mut StoredObject, destination: Option<&Destination>, progress: Option<&Progress>) {
    if destination.is_some() || progress.is_some() {
        object.destination = destination.cloned();
    }
    if let Some(progress) = progress {
        object.version = progress.version.clone();
        object.position = progress.position;
        object.input = StoredInput::Bytes { kind: progress.kind };
        object.payload = progress.payload.clone();
        object.context.clone_from(&progress.context);
    }
}

/// What [`Sweep::TooOld`](crate::Sweep::TooOld) makes of an object.
pub fn give_up_as_too_old(object: &mut StoredObject, at: Timestamp) {
    object.state = ObjectState::Error;
    object.reason = Some(ErrorReason::TooOld);
    object.ended_at = Some(at);
    object.crashes = 0;
}

/// What [`redrive`](crate::RetryQueue::redrive) makes of an object of the error collection. What went wrong before stays
/// on record.
pub fn redrive(object: &mut StoredObject) {
    object.state = ObjectState::Failed;
    object.attempts = 0;
    object.last_attempt_at = None;
    object.not_before = None;
    object.reason = None;
    object.ended_at = None;
}

/// When an object that no longer waits has ended; one that does not say so ended when it was created.
pub fn ended_at(object: &StoredObject) -> Timestamp {
    object.ended_at.unwrap_or(object.created_at)
}

/// The device an object is about, or what stands for one, by which it may be kept in order.
pub fn device(object: &StoredObject) -> Option<&str> {
    device_in(&object.context)
}

/// As [`device`], for these stored context values.
pub fn device_in(context: &BTreeMap<String, String>) -> Option<&str> {
    let order = context.get(Context::STORED_ORDER);
    order
        .or_else(|| context.get(Context::DEVICE_NAME))
        .map(String::as_str)
}

/// The context value that says that an object is sealed: how many bytes its payload has when it is open, and what is hidden
/// beside it ([`seal_text`]).
pub const SEAL: &str = "edgehold-seal";

/// The text of [`SEAL`]: `<bytes of the open payload> <base64>`.
pub fn seal_text(payload_bytes: usize, beside: &[u8]) -> String {
    let mut text = payload_bytes.to_string();
    text.reserve(1 + base64_simd::STANDARD.encoded_length(beside.len()));
    text.push(' ');
    base64_simd::STANDARD.encode_append(beside, &mut text);
    text
}

/// What [`seal_text`] was made of; none of any other text.
pub fn read_seal(text: &str) -> Option<(usize, Vec<u8>)> {
    let (bytes, beside) = text.split_once(' ')?;
    let beside = base64_simd::STANDARD.decode_to_vec(beside.as_bytes()).ok()?;
    Some((bytes.parse().ok()?, beside))
}

/// The bytes with which a payload counts wherever bytes are counted: those it has when it is open.
pub fn payload_bytes(context: &BTreeMap<String, String>, payload: &[u8]) -> usize {
    let sealed = context.get(SEAL).and_then(|text| text.split_once(' '));
    sealed
        .and_then(|(bytes, _)| bytes.parse().ok())
        .unwrap_or(payload.len())
}

/// Whether an object with these times may be tried: [`StoredObject::is_due`] for a store that has not read the rest.
pub fn is_due(
    last_attempt_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    interval: Duration,
    now: Timestamp,
) -> bool {
    let rested = last_attempt_at.is_none_or(|at| at > now || at.saturating_add(interval) <= now);
    rested && not_before.is_none_or(|at| at <= now)
}

/// The moment an object with these times is due: one interval after its last attempt, and not before it was asked to
/// wait. One that was never attempted, or in the future (the clock was set back), need not rest: it is due since the
/// epoch.
pub fn due_at(
    last_attempt_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    interval: Duration,
    now: Timestamp,
) -> Timestamp {
    let rested = last_attempt_at
        .filter(|at| *at <= now)
        .map(|at| at.saturating_add(interval));
    rested.max(not_before).unwrap_or_default()
}

/// What the process that finds an object makes of it when it opens the store; answers whether anything. The process that
/// journaled or batched it has ended, so it waits for an attempt, due at once. What was journaled was in flight at one
/// crash; what was batched was in nobody's hands.
pub fn recover(object: &mut StoredObject) -> bool {
    let crashes = match object.state {
        ObjectState::New => 1,
        ObjectState::Batched => 0,
        _ => return false,
    };
    object.state = ObjectState::Failed;
    object.last_attempt_at = None;
    object.crashes = crashes;
    true
}

/// Whether two objects with the same id are the same object, perhaps at different moments of its life: everything is
/// compared but `seq` and what attempts change (state, attempts, times, errors, reason, destination, crashes).
pub fn same_content(one: &StoredObject, other: &StoredObject) -> bool {
    let StoredObject {
        id,
        seq: _,
        service_key,
        pipeline_id,
        position,
        version,
        correlation_id,
        context,
        input,
        payload,
        attempts: _,
        state: _,
        created_at,
        last_attempt_at: _,
        not_before: _,
        last_error: _,
        errors: _,
        reason: _,
        destination: _,
        ended_at: _,
        crashes: _,
    } = one;
    *id == other.id
        && *service_key == other.service_key
        && *pipeline_id == other.pipeline_id
        && *position == other.position
        && *version == other.version
        && *correlation_id == other.correlation_id
        && *context == other.context
        && *input == other.input
        && *created_at == other.created_at
        && *payload == other.payload
}

/// Cuts requests, which are in the order they were asked for, into parts of which none both appends an object and has a
/// verdict for it: within a part appends may be done before verdicts. `touches` names the objects that a request
/// appends, and those it has verdicts for.
pub fn in_parts<R>(
    requests: Vec<R>,
    touches: impl Fn(&R) -> (Vec<StoredObjectId>, Vec<StoredObjectId>),
) -> Vec<Vec<R>> {
    if requests.len() < 2 {
        return vec![requests];
    }
    let mut parts = Vec::new();
    let (mut appended, mut settled) = (HashSet::new(), HashSet::new());
    for request in requests {
        let (appends, verdicts) = touches(&request);
        let meets =
            appends.iter().any(|id| settled.contains(id)) || verdicts.iter().any(|id| appended.contains(id));
        if meets || parts.is_empty() {
            parts.push(Vec::new());
            appended.clear();
            settled.clear();
        }
        appended.extend(appends);
        settled.extend(verdicts);
        parts
            .last_mut()
            .expect("one was pushed if there was none")
            .push(request);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn being_due_means_the_same_as_in_the_core() {
        // given every combination of moments around now
        let moments =
            [None, Some(0), Some(90), Some(100), Some(110)].map(|at| at.map(Timestamp::from_unix_millis));
        for last_attempt_at in moments {
            for not_before in moments {
                let object = StoredObject {
                    last_attempt_at,
                    not_before,
                    ..conformance::object(1)
                };
                for interval in [0, 10, 11, 200].map(Duration::from_millis) {
                    let now = Timestamp::from_unix_millis(100);
                    assert_eq!(
                        is_due(last_attempt_at, not_before, interval, now),
                        object.is_due(interval, now),
                        "{last_attempt_at:?} {not_before:?} {interval:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn it_is_due_from_its_moment_on_and_not_before() {
        // given every combination of moments around now, the clock having been set back in some
        let at = Timestamp::from_unix_millis;
        let moments = [None, Some(0), Some(50), Some(100), Some(110)].map(|moment| moment.map(at));
        for last_attempt_at in moments {
            for not_before in moments {
                for interval in [0, 30, 200].map(Duration::from_millis) {
                    let due = due_at(last_attempt_at, not_before, interval, at(60));
                    // then a claim agrees with it at any later moment, as long as the clock goes on from there
                    for now in [60, 99, 100, 109, 110, 249, 250, 310].map(at) {
                        let future = last_attempt_at.is_some_and(|last| last > at(60) && last <= now);
                        assert!(
                            future || is_due(last_attempt_at, not_before, interval, now) == (due <= now),
                            "{last_attempt_at:?} {not_before:?} {interval:?} {now:?}: {due:?}"
                        );
                    }
                }
            }
        }
    }

    /// What requests touch: `+1` appends object 1, `-1` has a verdict for it.
    fn parts(requests: &[&[i64]]) -> Vec<usize> {
        let touches = |request: &&[i64]| {
            let of = |sign: i64| {
                let numbers = request.iter().filter(move |number| number.signum() == sign);
                numbers
                    .map(|number| conformance::id(number.unsigned_abs()))
                    .collect()
            };
            (of(1), of(-1))
        };
        let parts = in_parts(requests.to_vec(), touches);
        assert_eq!(parts.concat(), requests, "all of them, in their order");
        parts.iter().map(Vec::len).collect()
    }

    #[test]
    fn requests_that_do_not_meet_are_one_part() {
        assert_eq!(parts(&[]), [0]);
        assert_eq!(parts(&[&[1, -2]]), [1]);
        assert_eq!(parts(&[&[1], &[2], &[-3], &[1], &[-3, -4], &[5]]), [6]);
    }

    #[test]
    fn a_verdict_is_behind_the_append_of_its_object_and_before_the_next_one() {
        assert_eq!(parts(&[&[1], &[-1]]), [1, 1], "appended and settled");
        assert_eq!(parts(&[&[-1], &[1]]), [1, 1], "settled and appended");
        assert_eq!(parts(&[&[1], &[-1], &[1]]), [1, 1, 1]);
        assert_eq!(
            parts(&[&[1, 2], &[-3], &[4, -2], &[5]]),
            [2, 2],
            "with whatever came between"
        );
    }

    #[test]
    fn a_new_part_knows_nothing_of_those_before_it() {
        assert_eq!(parts(&[&[1], &[-1], &[-2], &[3], &[2]]), [1, 3, 1]);
        assert_eq!(
            parts(&[&[1], &[-1], &[2], &[-1]]),
            [1, 3],
            "what was appended long ago"
        );
    }
}
