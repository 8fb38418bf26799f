//! Writing verdicts.

use bytes::Bytes;
use edgehold_core::{ErrorReason, PayloadForm, retry::Progress};

use super::*;

fn give_up(reason: ErrorReason, failure: Option<Failure>) -> Action {
    Action::GiveUp {
        reason,
        at: at(33),
        failure,
    }
}

fn release(not_before: Option<Timestamp>, last_error: Option<&str>) -> Action {
    Action::Release {
        not_before,
        last_error: last_error.map(str::to_owned),
        destination: None,
        progress: None,
    }
}

fn progress() -> Progress {
    Progress {
        version: PipelineVersion::from_stored("the version that ran"),
        position: 4,
        kind: DataKind::Json,
        payload: Bytes::from_static(b"{\"answer\":42,\"longer\":\"than before\"}"),
        context: BTreeMap::from([
            ("devicename".to_owned(), "pumpe ü".to_owned()),
            ("k".to_owned(), String::new()),
        ]),
    }
}

/// Appends, claims all that is due, settles and compares what is left with what `apply` says.
async fn settled(queue: &dyn RetryQueue, objects: &[StoredObject], actions: &[Action]) -> Outcome {
    let seqs = append(queue, objects).await?;
    claim(queue, claim_due()).await?;
    let mut wanted = append::with_seqs(objects, &seqs);
    for (object, action) in wanted.iter_mut().zip(actions) {
        crate::semantics::apply(object, action);
    }
    let verdicts: Vec<_> = objects
        .iter()
        .zip(actions)
        .map(|(object, action)| verdict(object.id, action.clone()))
        .collect();
    settle(queue, &verdicts).await?;
    ensure_eq!(list(queue, list_all()).await?, wanted, "after {verdicts:?}");
    Ok(())
}

/// An object with something in every field a verdict may touch.
fn attempted(number: u64) -> StoredObject {
    StoredObject {
        attempts: 3,
        last_attempt_at: Some(at(10)),
        not_before: Some(at(20)),
        last_error: Some("the error before".to_owned()),
        destination: Some(Destination::new("http://before")),
        ..object(number)
    }
}

pub(super) async fn a_removed_object_is_gone(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects(1..=3)).await?;
    claim(queue, claim_due()).await?;
    settle(
        queue,
        &[verdict(id(1), Action::Remove), verdict(id(3), Action::Remove)],
    )
    .await?;
    ensure_eq!(
        ids(&list(queue, list_all()).await?),
        [id(2)],
        "only the other one is left"
    );
    let failed = stats(queue).await?.failed;
    ensure_eq!((failed.objects, failed.payload_bytes), (1, 9), "and counted");
    // A removed object leaves nothing that would make it known.
    append(queue, &objects([1])).await?;
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(1)],
        "it may come again"
    );
    Ok(())
}

pub(super) async fn every_verdict_may_be_repeated(queue: &dyn RetryQueue) -> Outcome {
    let actions = [
        Action::Remove,
        Action::RetryLater(failure(2, at(30))),
        give_up(ErrorReason::PermanentError, Some(failure(2, at(30)))),
        release(Some(at(50)), Some("breaker open")),
        Action::RetryLater(Failure {
            progress: Some(progress()),
            ..failure(1, at(30))
        }),
    ];
    let verdicts: Vec<_> = (1..)
        .zip(actions)
        .map(|(number, action)| verdict(id(number), action))
        .collect();
    append(queue, &objects(1..=5)).await?;
    claim(queue, claim_due()).await?;
    settle(queue, &verdicts).await?;
    let once = (list(queue, list_all()).await?, stats(queue).await?);
    settle(queue, &verdicts).await?;
    let twice = (list(queue, list_all()).await?, stats(queue).await?);
    ensure_eq!(twice, once, "the second time changes nothing");
    Ok(())
}

pub(super) async fn a_verdict_for_an_unknown_object_is_no_error(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects([1])).await?;
    let unknown = [
        Action::Remove,
        Action::RELEASE,
        Action::RetryLater(Failure {
            progress: Some(progress()),
            ..failure(2, at(1))
        }),
        give_up(ErrorReason::TooOld, None),
    ];
    let mut verdicts: Vec<_> = (100..)
        .zip(unknown)
        .map(|(number, action)| verdict(id(number), action))
        .collect();
    verdicts.push(verdict(id(1), Action::RetryLater(failure(2, at(1)))));
    settle(queue, &verdicts).await?;
    settle(queue, &[]).await?;
    let left = list(queue, list_all()).await?;
    ensure_eq!(ids(&left), [id(1)], "nothing was made up");
    ensure_eq!(left[0].attempts, 2, "the known object was settled");
    Ok(())
}

pub(super) async fn retry_later_changes_the_counts_and_nothing_else(queue: &dyn RetryQueue) -> Outcome {
    let with_destination = Failure {
        not_before: Some(at(500)),
        destination: Some(Destination::new("http://after")),
        ..failure(4, at(30))
    };
    settled(
        queue,
        &[attempted(1), attempted(2), object(3)],
        &[
            Action::RetryLater(failure(4, at(30))),
            Action::RetryLater(with_destination),
            Action::RetryLater(failure(2, at(30))),
        ],
    )
    .await?;
    ensure_eq!(
        find(queue, id(1)).await?.not_before,
        None,
        "an old wait has ended"
    );
    let due = claim(
        queue,
        Claim {
            now: at(40),
            ..claim_due()
        },
    )
    .await?;
    ensure_eq!(ids(&due), [id(1), id(3)], "they may be claimed again when due");
    Ok(())
}

pub(super) async fn progress_replaces_what_the_next_attempt_needs(queue: &dyn RetryQueue) -> Outcome {
    let moved_on = Action::RetryLater(Failure {
        progress: Some(progress()),
        ..failure(1, at(30))
    });
    settled(queue, &[attempted(1), attempted(2)], &[moved_on, Action::RELEASE]).await?;
    let object = find(queue, id(1)).await?;
    ensure_eq!(
        object.payload,
        progress().payload,
        "the payload is what the later function received"
    );
    ensure_eq!(
        object.destination,
        None,
        "the destination was that of the function before"
    );
    let bytes = u64::try_from(progress().payload.len() + 9).map_err(|error| error.to_string())?;
    ensure_eq!(
        stats(queue).await?.failed.payload_bytes,
        bytes,
        "the new payload is counted"
    );
    let again = claim(
        queue,
        Claim {
            now: at(40),
            ..claim_due()
        },
    )
    .await?;
    ensure_eq!(again.first(), Some(&object), "and handed out");
    Ok(())
}

pub(super) async fn a_journaled_object_becomes_a_failed_one(queue: &dyn RetryQueue) -> Outcome {
    let journaled = |number| StoredObject {
        state: ObjectState::New,
        attempts: 0,
        position: 0,
        input: StoredInput::Delivery {
            content_type: "application/json".to_owned(),
            topic: "t".to_owned(),
            form: PayloadForm::Json,
        },
        ..object(number)
    };
    let first_failure = Failure {
        progress: Some(progress()),
        ..failure(1, at(30))
    };
    settled(
        queue,
        &[journaled(1), journaled(2), journaled(3), journaled(4)],
        &[
            Action::RetryLater(first_failure.clone()),
            give_up(ErrorReason::PermanentError, Some(first_failure)),
            Action::RELEASE,
            Action::RetryLater(failure(1, at(30))),
        ],
    )
    .await?;
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(1), id(3), id(4)],
        "what failed, or did not end, is handed out"
    );
    let stats = stats(queue).await?;
    ensure_eq!(
        (stats.new.objects, stats.failed.objects, stats.error.objects),
        (0, 3, 1),
        "and counted"
    );
    Ok(())
}

pub(super) async fn a_release_changes_only_what_it_names(queue: &dyn RetryQueue) -> Outcome {
    settled(
        queue,
        &[attempted(1), attempted(2), attempted(3), attempted(4)],
        &[
            Action::RELEASE,
            release(Some(at(70)), None),
            release(None, Some("a new error")),
            release(Some(at(71)), Some("another")),
        ],
    )
    .await?;
    ensure_eq!(
        ids(&claim(
            queue,
            Claim {
                now: at(70),
                ..claim_due()
            }
        )
        .await?),
        [id(1), id(2), id(3)],
        "claims ended"
    );
    Ok(())
}

pub(super) async fn giving_up_keeps_the_payload_whole(queue: &dyn RetryQueue) -> Outcome {
    let payload: Bytes = vec![200; 100_000].into();
    let large = StoredObject {
        payload: payload.clone(),
        ..attempted(1)
    };
    let moved_on = Failure {
        progress: Some(progress()),
        ..failure(1, at(30))
    };
    settled(
        queue,
        &[large, attempted(2), attempted(3)],
        &[
            give_up(ErrorReason::RetriesExceeded, Some(failure(4, at(30)))),
            give_up(ErrorReason::PermanentError, Some(moved_on)),
            Action::RELEASE,
        ],
    )
    .await?;
    let given_up = find(queue, id(1)).await?;
    ensure_eq!(
        (given_up.state, given_up.reason, given_up.attempts),
        (ObjectState::Error, Some(ErrorReason::RetriesExceeded), 4),
        "it is in the error collection with its reason"
    );
    ensure!(
        given_up.payload == payload,
        "with its payload of {} bytes",
        given_up.payload.len()
    );
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(3)],
        "and is never handed out again"
    );
    ensure_eq!(stats(queue).await?.error.objects, 2, "both are counted");
    Ok(())
}

pub(super) async fn giving_up_without_a_failure_keeps_the_last_one(queue: &dyn RetryQueue) -> Outcome {
    settled(
        queue,
        &[attempted(1)],
        &[give_up(ErrorReason::PipelineRemoved, None)],
    )
    .await?;
    let given_up = find(queue, id(1)).await?;
    ensure_eq!(
        given_up.last_error.as_deref(),
        Some("the error before"),
        "the last error"
    );
    ensure_eq!(
        (given_up.attempts, given_up.last_attempt_at),
        (3, Some(at(10))),
        "the last attempt"
    );
    Ok(())
}

pub(super) async fn a_late_verdict_does_not_wake_a_given_up_object(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &[attempted(1)]).await?;
    settle(queue, &[verdict(id(1), give_up(ErrorReason::TooOld, None))]).await?;
    let given_up = find(queue, id(1)).await?;
    let late = [
        Action::RetryLater(Failure {
            progress: Some(progress()),
            ..failure(9, at(30))
        }),
        release(Some(at(70)), Some("late")),
        give_up(ErrorReason::Crashed, Some(failure(9, at(30)))),
    ];
    for action in late {
        settle(queue, &[verdict(id(1), action.clone())]).await?;
        ensure_eq!(find(queue, id(1)).await?, given_up, "after {action:?}");
    }
    Ok(())
}

pub(super) async fn remove_purges_the_error_collection(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects([1, 2])).await?;
    settle(queue, &[verdict(id(1), give_up(ErrorReason::TooOld, None))]).await?;
    settle(queue, &[verdict(id(1), Action::Remove)]).await?;
    ensure_eq!(ids(&list(queue, list_all()).await?), [id(2)], "it is gone");
    ensure_eq!(
        stats(queue).await?.error,
        crate::StateCount::default(),
        "and no longer counted"
    );
    Ok(())
}

pub(super) async fn one_page_holds_every_kind_of_verdict(queue: &dyn RetryQueue) -> Outcome {
    let moved_on = Failure {
        progress: Some(progress()),
        ..failure(1, at(30))
    };
    let actions = [
        Action::RELEASE,
        Action::RetryLater(failure(4, at(30))),
        Action::RetryLater(moved_on.clone()),
        release(Some(at(90)), None),
        give_up(ErrorReason::PipelineChanged, None),
        give_up(ErrorReason::RetriesExceeded, Some(failure(11, at(30)))),
        give_up(ErrorReason::PermanentError, Some(moved_on)),
        Action::RetryLater(Failure {
            error: "'; \"quoted\" \\ \u{1f} ü 🦀".to_owned(),
            ..failure(4, at(30))
        }),
    ];
    settled(queue, &(1..=8).map(attempted).collect::<Vec<_>>(), &actions).await
}

pub(super) async fn a_large_page_of_verdicts_is_settled(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects(1..=1_000)).await?;
    claim(queue, claim_due()).await?;
    let action = |number: u64| match number % 4 {
        0 => Action::RetryLater(failure(2, at(30))),
        1 => give_up(ErrorReason::RetriesExceeded, Some(failure(11, at(30)))),
        2 => Action::RELEASE,
        _ => Action::Remove,
    };
    let verdicts: Vec<_> = (1..=1_000)
        .map(|number| verdict(id(number), action(number)))
        .collect();
    settle(queue, &verdicts).await?;
    let stats = stats(queue).await?;
    ensure_eq!(
        (stats.failed.objects, stats.error.objects),
        (500, 250),
        "every verdict counts"
    );
    let again = ids(&claim(queue, claim_due()).await?);
    let waiting: Vec<_> = (1..=1_000).filter(|number| number % 2 == 0).map(id).collect();
    ensure_eq!(again, waiting, "and what waits is claimed again");
    Ok(())
}

pub(super) async fn a_release_may_move_on(queue: &dyn RetryQueue) -> Outcome {
    let moved = |destination: Option<&str>, progress: Option<Progress>| Action::Release {
        not_before: Some(at(40)),
        last_error: None,
        destination: destination.map(Destination::new),
        progress,
    };
    let journaled = |number| StoredObject {
        state: ObjectState::New,
        attempts: 0,
        last_attempt_at: None,
        ..attempted(number)
    };
    settled(
        queue,
        &[
            attempted(1),
            attempted(2),
            attempted(3),
            journaled(4),
            journaled(5),
        ],
        &[
            moved(Some("http://after"), None),
            moved(None, Some(progress())),
            moved(Some("http://after"), Some(progress())),
            moved(Some("http://after"), Some(progress())),
            Action::RELEASE,
        ],
    )
    .await?;
    ensure_eq!(
        find(queue, id(5)).await?.state,
        ObjectState::Failed,
        "an attempt that did not end leaves a journaled object waiting"
    );
    let there = Claim {
        selection: all_of(Lane::To(Destination::new("http://after"))),
        ..claim_due()
    };
    ensure_eq!(
        ids(&claim(queue, there).await?),
        [id(1), id(3), id(4)],
        "they wait in the lane they were released to"
    );
    Ok(())
}

pub(super) async fn a_success_is_kept_as_history(queue: &dyn RetryQueue) -> Outcome {
    let journaled = StoredObject {
        state: ObjectState::New,
        ..object(2)
    };
    settled(
        queue,
        &[attempted(1), journaled, attempted(3)],
        &[
            Action::Succeed { at: at(60) },
            Action::Succeed { at: at(61) },
            Action::RELEASE,
        ],
    )
    .await?;
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(3)],
        "it is never handed out again"
    );
    let delivered = find(queue, id(1)).await?;
    settle(
        queue,
        &[
            verdict(id(1), Action::RetryLater(failure(9, at(70)))),
            verdict(id(1), Action::Succeed { at: at(71) }),
        ],
    )
    .await?;
    ensure_eq!(
        find(queue, id(1)).await?,
        delivered,
        "a late verdict changes nothing"
    );
    let stats = stats(queue).await?;
    ensure_eq!(
        (stats.success.objects, stats.waiting()),
        (2, 1),
        "it counts as history"
    );
    Ok(())
}
