//! The error collection: what is on record, re-driving, purging, surveying.

use std::collections::HashSet;

use edgehold_core::{AttemptError, AttemptErrors, ErrorReason, PayloadForm};
use futures_util::future::join_all;

use super::*;
use crate::{ErrorGroup, StateCount};

fn letter(number: u64) -> StoredObject {
    StoredObject {
        state: ObjectState::Error,
        reason: Some(ErrorReason::RetriesExceeded),
        ended_at: Some(at(50)),
        ..object(number)
    }
}

fn letters(numbers: impl IntoIterator<Item = u64>) -> Vec<StoredObject> {
    numbers.into_iter().map(letter).collect()
}

fn pipeline(name: &str) -> PipelineId {
    PipelineId::try_new(name).expect("not blank")
}

fn give_up(when: Timestamp) -> Action {
    Action::GiveUp {
        reason: ErrorReason::RetriesExceeded,
        at: when,
        failure: None,
    }
}

async fn in_state(queue: &dyn RetryQueue, state: ObjectState) -> Result<Vec<StoredObjectId>, String> {
    let request = ListRequest {
        states: vec![state],
        limit: 10_000,
        ..list_all()
    };
    Ok(ids(&list(queue, request).await?))
}

pub(super) async fn a_redriven_object_begins_anew(queue: &dyn RetryQueue) -> Outcome {
    let given_up = StoredObject {
        attempts: 11,
        last_attempt_at: Some(at(90)),
        not_before: Some(at(1_000_000)),
        last_error: Some("refused".to_owned()),
        errors: [AttemptError::new(11, at(90), "refused")].into_iter().collect(),
        destination: Some(Destination::new("http://there")),
        ended_at: Some(at(91)),
        ..letter(1)
    };
    let seqs = append(queue, &[given_up.clone(), object(2)]).await?;
    let moved = Moved {
        objects: 1,
        payload_bytes: 9,
        last_seq: Some(seqs[0]),
    };
    ensure_eq!(redrive(queue, error_page()).await?, moved, "one was given up");
    let wanted = StoredObject {
        seq: seqs[0],
        attempts: 0,
        last_attempt_at: None,
        not_before: None,
        state: ObjectState::Failed,
        reason: None,
        ended_at: None,
        ..given_up
    };
    let due = Claim {
        now: at(92),
        ..claim_due()
    };
    let claimed = claim(queue, due).await?;
    ensure_eq!(
        claimed.first(),
        Some(&wanted),
        "due at once, in its old place, with a fresh count and what was on record"
    );
    ensure_eq!(
        redrive(queue, error_page()).await?,
        Moved::default(),
        "no more are left"
    );
    let stats = stats(queue).await?;
    ensure_eq!((stats.failed.objects, stats.error.objects), (2, 0), "and counted");
    settle(queue, &[verdict(id(1), Action::RetryLater(failure(1, at(95))))]).await?;
    ensure_eq!(find(queue, id(1)).await?.attempts, 1, "it fails like any other");
    Ok(())
}

pub(super) async fn every_attempt_is_on_record(queue: &dyn RetryQueue) -> Outcome {
    let new = StoredObject {
        state: ObjectState::New,
        attempts: 0,
        ..object(1)
    };
    append(queue, &[new, object(2)]).await?;
    let mut wanted = AttemptErrors::default();
    let long = "'; \"quoted\" \\ ü 🦀".repeat(40);
    for attempt in 1..=20_u32 {
        let failed = Failure {
            error: if attempt == 5 {
                long.clone()
            } else {
                format!("error {attempt}")
            },
            ..failure(attempt, at(attempt.into()))
        };
        wanted.push(AttemptError::new(attempt, failed.at, &failed.error));
        let action = match attempt {
            20 => Action::GiveUp {
                reason: ErrorReason::RetriesExceeded,
                at: at(20),
                failure: Some(failed),
            },
            _ => Action::RetryLater(failed),
        };
        let released = Action::Release {
            not_before: None,
            last_error: Some("not counted".to_owned()),
            destination: None,
            progress: None,
        };
        settle(queue, &[verdict(id(1), released), verdict(id(1), action)]).await?;
        if [1, 5, 16, 17, 20].contains(&attempt) {
            ensure_eq!(
                find(queue, id(1)).await?.errors,
                wanted,
                "after attempt {attempt}"
            );
        }
    }
    ensure_eq!(
        find(queue, id(2)).await?.errors,
        AttemptErrors::default(),
        "of another one nothing"
    );
    // a re-drive forgets nothing
    redrive(queue, error_page()).await?;
    ensure_eq!(find(queue, id(1)).await?.errors, wanted, "after a re-drive");
    settle(queue, &[verdict(id(1), Action::RetryLater(failure(1, at(30))))]).await?;
    wanted.push(AttemptError::new(1, at(30), "attempt 1 failed"));
    ensure_eq!(find(queue, id(1)).await?.errors, wanted, "counted afresh");
    Ok(())
}

pub(super) async fn a_filter_selects_what_fits_all_of_it(queue: &dyn RetryQueue) -> Outcome {
    let (changed, retries) = (ErrorReason::PipelineChanged, ErrorReason::RetriesExceeded);
    let of = |number, pipeline_id: &str, version: &str, reason| StoredObject {
        pipeline_id: pipeline(pipeline_id),
        version: PipelineVersion::from_stored(version),
        reason: Some(reason),
        ..letter(number)
    };
    let whole = StoredObject {
        input: StoredInput::Delivery {
            content_type: "application/json".to_owned(),
            topic: "t".to_owned(),
            form: PayloadForm::Json,
        },
        ..of(4, "a", "v1", changed)
    };
    let nowhere = StoredObject {
        context: BTreeMap::new(),
        ended_at: None,
        ..of(5, "c", "v1", ErrorReason::TooOld)
    };
    let fan = StoredObject {
        context: BTreeMap::from([("devicename".to_owned(), "fan 'ü'".to_owned())]),
        ended_at: Some(at(70)),
        ..of(6, "a", "v2", changed)
    };
    append(
        queue,
        &[
            of(1, "a", "v1", changed),
            of(2, "a", "v2", retries),
            of(3, "b", "v2", changed),
            whole,
            nowhere,
            fan,
        ],
    )
    .await?;
    let all = ObjectFilter::default;
    let filters = [
        (all(), vec![1, 2, 3, 4, 5, 6]),
        (
            ObjectFilter {
                pipeline_ids: vec![pipeline("a")],
                ..all()
            },
            vec![1, 2, 4, 6],
        ),
        (
            ObjectFilter {
                pipeline_ids: vec![pipeline("c"), pipeline("b")],
                ..all()
            },
            vec![3, 5],
        ),
        (
            ObjectFilter {
                pipeline_ids: vec![pipeline("d")],
                ..all()
            },
            vec![],
        ),
        (
            ObjectFilter {
                version: Some(PipelineVersion::from_stored("v2")),
                ..all()
            },
            vec![2, 3, 4, 6],
        ),
        (
            ObjectFilter {
                reasons: vec![retries, ErrorReason::TooOld],
                ..all()
            },
            vec![2, 5],
        ),
        (
            ObjectFilter {
                reasons: vec![ErrorReason::Capacity],
                ..all()
            },
            vec![],
        ),
        (
            ObjectFilter {
                devices: vec!["pump-1".to_owned(), "nobody".to_owned()],
                ..all()
            },
            vec![1, 2, 3, 4],
        ),
        (
            ObjectFilter {
                ended_before: Some(at(50)),
                ..all()
            },
            vec![5],
        ),
        (
            ObjectFilter {
                ended_from: Some(at(50)),
                ..all()
            },
            vec![1, 2, 3, 4, 6],
        ),
        (
            ObjectFilter {
                ended_from: Some(at(50)),
                ended_before: Some(at(70)),
                ..all()
            },
            vec![1, 2, 3, 4],
        ),
        (ObjectFilter::ids([id(6), id(2), id(99)]), vec![2, 6]),
        (ObjectFilter::ids([id(99)]), vec![]),
        (
            ObjectFilter {
                ids: [1, 2, 4, 6].map(id).to_vec(),
                pipeline_ids: vec![pipeline("a")],
                version: Some(PipelineVersion::from_stored("v2")),
                devices: vec!["pump-1".to_owned()],
                reasons: vec![changed],
                ended_from: Some(at(1)),
                ended_before: Some(at(51)),
            },
            vec![4],
        ),
        (
            ObjectFilter {
                devices: vec!["fan 'ü'".to_owned()],
                ..all()
            },
            vec![6],
        ),
    ];
    for (filter, numbers) in &filters {
        let wanted: Vec<_> = numbers.iter().copied().map(id).collect();
        for limit in [1, 4, 100] {
            let request = ListRequest {
                filter: filter.clone(),
                limit,
                ..list_all()
            };
            ensure_eq!(ids(&list(queue, request.clone()).await?), wanted, "{request:?}");
        }
        let groups = survey(queue, filter.clone()).await?;
        ensure_eq!(
            groups.iter().map(|group| group.count.objects).sum::<u64>(),
            u64::try_from(wanted.len()).unwrap_or(0),
            "surveyed: {filter:?}"
        );
        // and there and back again
        let page = ErrorPage {
            filter: filter.clone(),
            ..error_page()
        };
        let before = list(queue, list_all()).await?;
        ensure_eq!(
            redrive(queue, page).await?.objects,
            u64::try_from(wanted.len()).unwrap_or(0),
            "re-driven: {filter:?}"
        );
        ensure_eq!(
            in_state(queue, ObjectState::Failed).await?,
            wanted,
            "re-driven: {filter:?}"
        );
        for object in before.iter().filter(|object| wanted.contains(&object.id)) {
            let action = Action::GiveUp {
                reason: object.reason.unwrap_or(ErrorReason::Crashed),
                // The one that did not say when it ended, was created then.
                at: object.ended_at.unwrap_or(object.created_at),
                failure: None,
            };
            settle(queue, &[verdict(object.id, action)]).await?;
        }
    }
    let mut left = in_state(queue, ObjectState::Error).await?;
    for (filter, numbers) in filters.into_iter().rev() {
        let page = ErrorPage {
            filter: filter.clone(),
            ..error_page()
        };
        let moved = purge(queue, page).await?;
        let before = left.len();
        left.retain(|kept| !numbers.iter().any(|number| id(*number) == *kept));
        ensure_eq!(
            moved.objects,
            u64::try_from(before - left.len()).unwrap_or(0),
            "purged: {filter:?}"
        );
        ensure_eq!(ids(&list(queue, list_all()).await?), left, "purged: {filter:?}");
    }
    ensure_eq!(stats(queue).await?.error, StateCount::default(), "none is left");
    Ok(())
}

pub(super) async fn what_cannot_be_read_is_redriven_only_by_name(queue: &dyn RetryQueue) -> Outcome {
    let corrupt = |number| StoredObject {
        reason: Some(ErrorReason::Corrupt),
        ..letter(number)
    };
    append(queue, &[corrupt(1), letter(2), corrupt(3)]).await?;
    ensure_eq!(redrive(queue, error_page()).await?.objects, 1, "one can be read");
    let by_name = |reason| ErrorPage {
        filter: ObjectFilter {
            reasons: vec![reason],
            ..ObjectFilter::ids([id(1)])
        },
        ..error_page()
    };
    ensure_eq!(
        redrive(queue, by_name(ErrorReason::Corrupt)).await?.objects,
        1,
        "another one was named"
    );
    ensure_eq!(
        purge(queue, error_page()).await?.objects,
        1,
        "all of them may be removed"
    );
    ensure_eq!(
        ids(&list(queue, list_all()).await?),
        [id(1), id(2)],
        "what was re-driven stays"
    );
    Ok(())
}

pub(super) async fn a_page_ends_at_its_limit_and_the_next_one_goes_on(queue: &dyn RetryQueue) -> Outcome {
    let seqs = append(queue, &letters(1..=10)).await?;
    let page = |after_seq, limit| ErrorPage {
        after_seq,
        limit,
        ..error_page()
    };
    let moved = redrive(queue, page(0, 3)).await?;
    ensure_eq!(
        (moved.objects, moved.last_seq),
        (3, Some(seqs[2])),
        "three at once"
    );
    let moved = purge(queue, page(seqs[4], 2)).await?;
    ensure_eq!(
        (moved.objects, moved.last_seq),
        (2, Some(seqs[6])),
        "behind the fifth"
    );
    let moved = redrive(queue, page(seqs[2], 100)).await?;
    ensure_eq!(
        (moved.objects, moved.last_seq),
        (5, Some(seqs[9])),
        "all of the others"
    );
    ensure_eq!(redrive(queue, page(0, 1)).await?, Moved::default(), "and no more");
    ensure_eq!(
        in_state(queue, ObjectState::Failed).await?,
        [1, 2, 3, 4, 5, 8, 9, 10].map(id),
        "what was not purged waits"
    );
    Ok(())
}

pub(super) async fn a_run_takes_each_object_once_though_it_comes_back(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &letters(1..=9)).await?;
    // given a run that began at 60, during which what it brings back fails again at once
    let mut page = ErrorPage {
        filter: ObjectFilter {
            ended_before: Some(at(60)),
            ..ObjectFilter::default()
        },
        after_seq: 0,
        limit: 2,
    };
    let mut taken = 0;
    for _ in 0..20 {
        let moved = redrive(queue, page.clone()).await?;
        let Some(last) = moved.last_seq else { break };
        taken += moved.objects;
        page.after_seq = last;
        for id in in_state(queue, ObjectState::Failed).await? {
            settle(queue, &[verdict(id, give_up(at(61)))]).await?;
        }
    }
    ensure_eq!(taken, 9, "each once");
    // then neither does the same run begun anew
    let again = ErrorPage { after_seq: 0, ..page };
    ensure_eq!(
        redrive(queue, again).await?,
        Moved::default(),
        "none ended before it began"
    );
    ensure_eq!(
        in_state(queue, ObjectState::Error).await?.len(),
        9,
        "all are there"
    );
    Ok(())
}

pub(super) async fn runs_side_by_side_take_no_object_twice(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &letters(1..=200)).await?;
    let page = |limit| ErrorPage {
        limit,
        ..error_page()
    };
    let redrives = join_all((0..8).map(|_| queue.redrive(page(20))));
    let purges = join_all((0..4).map(|_| queue.purge(page(20))));
    let claims = join_all((0..8).map(|_| queue.claim(claim_due())));
    let (redrives, purges, claims) = futures_util::future::join3(redrives, purges, claims).await;
    let sum = |answers: Vec<Result<Moved, StoreError>>| -> Result<u64, String> {
        let objects = answers.into_iter().map(|moved| Ok(moved?.objects));
        let objects: Result<Vec<u64>, StoreError> = objects.collect();
        Ok(objects.map_err(|error| error.to_string())?.iter().sum())
    };
    let (redriven, purged) = (sum(redrives)?, sum(purges)?);
    let mut handed_out = HashSet::new();
    for page in claims {
        for object in page.map_err(|error| error.to_string())? {
            ensure!(
                handed_out.insert(object.id),
                "object {} was handed out twice",
                object.id
            );
        }
    }
    let stats = stats(queue).await?;
    ensure_eq!(
        (stats.failed.objects, stats.error.objects),
        (redriven, 200 - redriven - purged),
        "each was taken by one"
    );
    ensure!(
        redriven <= 160 && purged <= 80,
        "{redriven} and {purged} are too many"
    );
    Ok(())
}

pub(super) async fn what_waits_or_was_delivered_is_no_part_of_the_collection(
    queue: &dyn RetryQueue,
) -> Outcome {
    let others: Vec<_> = [
        ObjectState::New,
        ObjectState::Success,
        ObjectState::Failed,
        ObjectState::Batched,
    ]
    .into_iter()
    .zip(1..)
    .map(|(state, number)| StoredObject {
        state,
        ..object(number)
    })
    .collect();
    append(queue, &others).await?;
    for filter in [ObjectFilter::default(), ObjectFilter::ids((1..=4).map(id))] {
        let page = ErrorPage {
            filter,
            ..error_page()
        };
        ensure_eq!(redrive(queue, page.clone()).await?, Moved::default(), "re-driven");
        ensure_eq!(purge(queue, page.clone()).await?, Moved::default(), "purged");
        ensure_eq!(survey(queue, page.filter).await?, [], "surveyed");
    }
    let kept = list(queue, list_all()).await?;
    let states: Vec<_> = kept.iter().map(|object| object.state).collect();
    let wanted: Vec<_> = others.iter().map(|object| object.state).collect();
    ensure_eq!(states, wanted, "all are as they were");
    Ok(())
}

pub(super) async fn a_survey_counts_by_pipeline_and_reason(queue: &dyn RetryQueue) -> Outcome {
    let of = |number, pipeline_id: &str, reason, ended: i64, bytes: usize| StoredObject {
        pipeline_id: pipeline(pipeline_id),
        reason: Some(reason),
        ended_at: Some(at(ended)),
        payload: vec![1; bytes].into(),
        ..letter(number)
    };
    let (old, retries) = (ErrorReason::TooOld, ErrorReason::RetriesExceeded);
    append(
        queue,
        &[
            of(1, "b", old, 50, 10),
            of(2, "a", old, 70, 20),
            of(3, "a", retries, 60, 30),
            object(4),
            of(5, "a", old, 60, 0),
            of(6, "a", old, 80, 50),
        ],
    )
    .await?;
    let group = |pipeline_id, reason, objects, payload_bytes, ended: (i64, i64)| ErrorGroup {
        pipeline_id: pipeline(pipeline_id),
        reason: Some(reason),
        count: StateCount {
            objects,
            payload_bytes,
        },
        ended: (at(ended.0), at(ended.1)),
    };
    ensure_eq!(
        survey(queue, ObjectFilter::default()).await?,
        [
            group("a", retries, 1, 30, (60, 60)),
            group("a", old, 3, 70, (60, 80)),
            group("b", old, 1, 10, (50, 50)),
        ],
        "all of it"
    );
    Ok(())
}

async fn survey(queue: &dyn RetryQueue, filter: ObjectFilter) -> Result<Vec<ErrorGroup>, String> {
    queue
        .survey(filter.clone())
        .await
        .map_err(|error| format!("surveying {filter:?} failed: {error}"))
}
