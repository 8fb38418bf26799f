//! What every store does to an object, as functions of values: what a verdict changes, when an object is due, and
//! which objects are the same.
//!
//! A store that holds whole objects calls these; one that speaks SQL says the same in its own words, and the
//! [conformance suite](crate::conformance) compares the two.

use std::time::Duration;

use edgehold_core::{
    ObjectState, StoredInput, StoredObject, Timestamp,
    retry::{Action, Failure},
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

/// Applies the action of a verdict to an object.
///
/// Only an object that still waits (new or failed) is changed: a late verdict never takes one out of the error
/// collection. [`Action::Remove`] removes it whatever its state. A failure without a destination leaves the one the
/// object had, unless another function is now the next to call.
pub fn apply(object: &mut StoredObject, action: &Action) -> Applied {
    let waiting = matches!(object.state, ObjectState::New | ObjectState::Failed);
    match action {
        Action::Remove => return Applied::Removed,
        _ if !waiting => return Applied::Unchanged,
        Action::Release {
            not_before: None,
            last_error: None,
        } => return Applied::Unchanged,
        Action::Release {
            not_before,
            last_error,
        } => {
            object.not_before = not_before.or(object.not_before);
            if last_error.is_some() {
                object.last_error.clone_from(last_error);
            }
        }
        Action::RetryLater(failure) => {
            object.state = ObjectState::Failed;
            fail(object, failure);
        }
        Action::GiveUp { reason, failure } => {
            object.state = ObjectState::Error;
            object.reason = Some(*reason);
            if let Some(failure) = failure {
                fail(object, failure);
            }
        }
    }
    Applied::Changed
}

fn fail(object: &mut StoredObject, failure: &Failure) {
    object.attempts = failure.attempts;
    object.last_attempt_at = Some(failure.at);
    object.last_error = Some(failure.error.clone());
    object.not_before = failure.not_before;
    if failure.destination.is_some() || failure.progress.is_some() {
        object.destination.clone_from(&failure.destination);
    }
    if let Some(progress) = &failure.progress {
        object.position = progress.position;
        object.input = StoredInput::Bytes { kind: progress.kind };
        object.payload = progress.payload.clone();
        object.context.clone_from(&progress.context);
    }
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
/// wait. One that was never attempted is due since the epoch.
pub fn due_at(
    last_attempt_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    interval: Duration,
) -> Timestamp {
    let rested = last_attempt_at.map(|at| at.saturating_add(interval));
    rested.max(not_before).unwrap_or_default()
}

/// What the process that finds an object in state new makes of it when it opens the store: the process that journaled
/// it has ended, so it waits for an attempt, due at once.
pub fn recover(object: &mut StoredObject) {
    if object.state == ObjectState::New {
        object.state = ObjectState::Failed;
        object.last_attempt_at = None;
    }
}

/// Whether two objects with the same id are the same object, perhaps at different moments of its life: everything is
/// compared but `seq` and what attempts change (state, attempts, times, last error, reason, destination).
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
        reason: _,
        destination: _,
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
        let at = |millis| Some(Timestamp::from_unix_millis(millis));
        let due = due_at(at(50), at(70), Duration::from_millis(30));
        assert_eq!(due, Timestamp::from_unix_millis(80));
        assert!(is_due(at(50), at(70), Duration::from_millis(30), due));
        assert!(!is_due(
            at(50),
            at(70),
            Duration::from_millis(30),
            Timestamp::from_unix_millis(79)
        ));
    }
}
