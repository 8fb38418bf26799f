use std::collections::BTreeMap;

use uuid::Uuid;

use super::*;
use crate::{
    CorrelationId, ObjectState, PayloadForm, PipelineId, ServiceKey, StoredInput, pipeline::tests::step,
};

const INTERVAL: Duration = Duration::from_secs(10);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1_000)
}

fn policy(max_retry_count: i64) -> RetryPolicy {
    RetryPolicy {
        interval: INTERVAL,
        max_retries: MaxRetries::from_setting(max_retry_count),
        on_pipeline_change: OnPipelineChange::DeadLetter,
        keep_history: false,
        max_interval: Duration::from_secs(3600),
        jitter: None,
    }
}

fn set(names: &[&str], changed_at: Timestamp) -> PipelineSet {
    let steps = names
        .iter()
        .map(|name| step(name, "HTTPExport", "post"))
        .collect();
    PipelineSet {
        pipelines: vec![Arc::new(Pipeline::new(
            PipelineId::default_pipeline(),
            vec![],
            steps,
        ))],
        changed_at,
        ..PipelineSet::default()
    }
}

fn object(names: &[&str], attempts: u32) -> StoredObject {
    let steps: Vec<_> = names
        .iter()
        .map(|name| step(name, "HTTPExport", "post"))
        .collect();
    StoredObject {
        id: StoredObjectId::from_uuid(Uuid::from_u128(7)),
        seq: 1,
        service_key: ServiceKey::try_new("app-test").unwrap(),
        pipeline_id: PipelineId::default_pipeline(),
        position: 0,
        version: PipelineVersion::of(&steps),
        correlation_id: CorrelationId::new("c"),
        context: BTreeMap::new(),
        input: StoredInput::Bytes {
            kind: DataKind::Bytes,
        },
        payload: Bytes::from_static(b"x"),
        attempts,
        state: ObjectState::Failed,
        created_at: at(0),
        last_attempt_at: Some(at(0)),
        not_before: None,
        last_error: None,
        errors: Default::default(),
        reason: None,
        destination: None,
        ended_at: None,
        crashes: 0,
    }
}

fn transient() -> Attempt {
    Attempt::Failed {
        class: ErrorClass::Transient,
        error: "refused".to_owned(),
        retry_after: None,
        destination: None,
        progress: None,
    }
}

/// Sends an object with this `MaxRetryCount` can have, the first one included, when every send fails.
fn sends(max_retry_count: i64, limit: u32) -> u32 {
    let policy = policy(max_retry_count);
    let mut object = object(&["HTTPExport"], 1);
    let mut now = at(0);
    for sends in 2..=limit {
        now = now.saturating_add(INTERVAL);
        match settle(&object, transient(), &policy, now).action {
            Action::RetryLater(failure) => {
                object.attempts = failure.attempts;
                object.last_attempt_at = Some(failure.at);
            }
            Action::GiveUp {
                reason: ErrorReason::RetriesExceeded,
                ..
            } => return sends,
            other => panic!("{other:?}"),
        }
    }
    limit
}

#[test]
fn a_maximum_of_n_means_n_plus_one_sends() {
    assert_eq!(sends(1, 100), 2);
    assert_eq!(sends(3, 100), 4);
    assert_eq!(sends(10, 100), 11);
}

#[test]
fn zero_is_endless_and_below_zero_is_one() {
    assert_eq!(sends(0, 100), 100);
    assert_eq!(sends(-5, 100), 2);
}

#[test]
fn a_failure_before_the_object_was_due_is_not_counted() {
    let verdict = settle(&object(&["HTTPExport"], 3), transient(), &policy(3), at(5));
    assert!(
        matches!(verdict.action, Action::Release { not_before: None, .. }),
        "{verdict:?}"
    );
}

#[test]
fn an_interrupted_attempt_changes_nothing() {
    let verdict = settle(
        &object(&["HTTPExport"], 3),
        Attempt::Interrupted,
        &policy(3),
        at(99),
    );
    assert_eq!(verdict.action, Action::RELEASE);
}

#[test]
fn a_delivered_object_leaves_unless_history_is_kept() {
    let action = |keep_history| {
        let policy = RetryPolicy {
            keep_history,
            ..policy(3)
        };
        settle(&object(&["HTTPExport"], 1), Attempt::Succeeded, &policy, at(99)).action
    };
    assert_eq!(action(false), Action::Remove);
    assert_eq!(action(true), Action::Succeed { at: at(99) });
}

#[test]
fn a_permanent_error_is_given_up_at_once() {
    let attempt = Attempt::Failed {
        class: ErrorClass::Permanent,
        error: "no".to_owned(),
        retry_after: None,
        destination: None,
        progress: None,
    };
    let verdict = settle(&object(&["HTTPExport"], 1), attempt, &policy(0), at(99));
    assert!(matches!(
        verdict.action,
        Action::GiveUp {
            reason: ErrorReason::PermanentError,
            failure: Some(Failure { attempts: 2, .. }),
            ..
        }
    ));
}

#[test]
fn a_later_function_begins_its_own_count_where_it_failed() {
    let progress = Progress {
        version: PipelineVersion::from_stored("that ran"),
        position: 1,
        kind: DataKind::Text,
        payload: Bytes::from_static(b"answer"),
        context: BTreeMap::new(),
    };
    let attempt = Attempt::Failed {
        class: ErrorClass::Transient,
        error: "second down".to_owned(),
        retry_after: Some(Duration::from_secs(30)),
        destination: None,
        progress: Some(progress.clone()),
    };
    let verdict = settle(&object(&["A", "B"], 3), attempt, &policy(3), at(20));
    let Action::RetryLater(failure) = verdict.action else {
        panic!("{verdict:?}")
    };
    assert_eq!((failure.attempts, failure.progress), (1, Some(progress)));
    assert_eq!(failure.not_before, Some(at(50)));
}

#[test]
fn an_object_runs_only_in_the_version_it_was_stored_under() {
    let admitted = |names, now| admit(&object(&["A"], 1), &set(names, at(100)), &policy(3), now);
    assert!(matches!(admitted(&["A"], at(101)), Admission::Run(_)));
    assert!(matches!(admitted(&["B"], at(101)), Admission::Postpone(when) if when == at(110)));
    assert!(matches!(
        admitted(&["B"], at(110)),
        Admission::GiveUp(ErrorReason::PipelineChanged)
    ));
}

#[test]
fn a_removed_pipeline_gives_its_objects_up_one_interval_later() {
    let mut empty = set(&["A"], at(100));
    empty.pipelines.clear();
    assert!(matches!(
        admit(&object(&["A"], 1), &empty, &policy(3), at(105)),
        Admission::Postpone(_)
    ));
    assert!(matches!(
        admit(&object(&["A"], 1), &empty, &policy(3), at(110)),
        Admission::GiveUp(ErrorReason::PipelineRemoved)
    ));
}

#[test]
fn a_journaled_delivery_needs_no_version() {
    let mut journaled = object(&["A"], 0);
    journaled.input = StoredInput::Delivery {
        content_type: "application/json".to_owned(),
        topic: "t".to_owned(),
        form: PayloadForm::Json,
    };
    assert!(matches!(
        admit(&journaled, &set(&["B"], at(0)), &policy(3), at(1)),
        Admission::Run(_)
    ));
}

#[test]
fn an_attempt_in_the_future_counts_as_long_ago() {
    let mut object = object(&["A"], 1);
    object.last_attempt_at = Some(at(1_000));
    assert!(object.is_due(INTERVAL, at(5)));
}

#[test]
fn what_was_not_attempted_is_not_counted_and_waits_for_its_destination_alone() {
    let refused = |progress| Attempt::Failed {
        class: ErrorClass::NotAttempted,
        error: "closed".to_owned(),
        retry_after: Some(Duration::from_secs(30)),
        destination: Some(Destination::new("http://b:1")),
        progress,
    };
    // Due or not, and behind an export that has just succeeded.
    let progress = Progress {
        version: PipelineVersion::from_stored("that ran"),
        position: 1,
        kind: DataKind::Text,
        payload: Bytes::from_static(b"answer"),
        context: BTreeMap::new(),
    };
    for (now, progress) in [(at(5), None), (at(50), None), (at(50), Some(progress))] {
        let object = object(&["HTTPExport", "HTTPExport2"], 3);
        let verdict = settle(&object, refused(progress.clone()), &policy(3), now);
        assert_eq!(
            verdict.action,
            Action::Release {
                not_before: None,
                last_error: Some("closed".to_owned()),
                destination: Some(Destination::new("http://b:1")),
                progress,
            }
        );
    }
}

#[test]
fn a_destination_may_not_ask_for_longer_than_the_longest_interval() {
    let not_before = |asked| policy(3).not_before(1, Some(Duration::from_secs(asked)), at(100));
    assert_eq!(not_before(20), Some(at(120)));
    assert_eq!(not_before(86_400), Some(at(3_700)));
    assert_eq!(policy(3).not_before(1, None, at(100)), None);
}

#[test]
fn exponential_backoff_stays_between_the_interval_and_what_doubles_up_to_the_longest() {
    for attempts in [1, 2, 5, 20, 31, 32, u32::MAX] {
        for jitter in [0.0, 0.25, 0.5, 0.999] {
            let policy = RetryPolicy {
                jitter: Some(jitter),
                ..policy(0)
            };
            let until = policy.not_before(attempts, None, at(0)).unwrap();
            let waits = until.saturating_since(at(0));
            let doubled = INTERVAL.as_secs_f64() * 2_f64.powi(i32::try_from(attempts).unwrap_or(i32::MAX));
            let longest = Duration::from_secs_f64(doubled.min(3_600.0));
            assert!(
                (INTERVAL..=longest).contains(&waits),
                "{attempts} {jitter}: {waits:?}"
            );
            let spread = (longest - INTERVAL).mul_f64(jitter);
            assert!(
                waits.abs_diff(INTERVAL + spread) <= Duration::from_millis(1),
                "{waits:?}"
            );
        }
    }
    // An interval beyond the longest is kept.
    let policy = RetryPolicy {
        interval: Duration::from_secs(7_200),
        jitter: Some(0.9),
        ..policy(0)
    };
    assert_eq!(policy.not_before(3, None, at(0)), Some(at(7_200)));
}
