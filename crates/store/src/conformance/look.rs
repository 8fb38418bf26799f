//! Looking at what is there.

use edgehold_core::{ErrorReason, retry::Progress};

use super::*;
use crate::{Eviction, StateCount, StoreError, StoreStats, Sweep};

fn in_error(number: u64, pipeline: &str, reason: ErrorReason) -> StoredObject {
    StoredObject {
        pipeline_id: PipelineId::try_new(pipeline).expect("not blank"),
        state: ObjectState::Error,
        reason: Some(reason),
        ..object(number)
    }
}

pub(super) async fn a_list_shows_what_was_asked_for(queue: &dyn RetryQueue) -> Outcome {
    append(
        queue,
        &[
            in_error(1, "a", ErrorReason::TooOld),
            in_error(2, "b", ErrorReason::TooOld),
            object(3),
            in_error(4, "a", ErrorReason::Capacity),
            StoredObject {
                state: ObjectState::New,
                ..object(5)
            },
            StoredObject {
                state: ObjectState::Success,
                ..object(6)
            },
        ],
    )
    .await?;
    let of_states = |states: &[ObjectState]| ListRequest {
        states: states.to_vec(),
        ..list_all()
    };
    let in_error = || of_states(&[ObjectState::Error]);
    let of_pipeline = |name: &str, mut request: ListRequest| {
        request.filter.pipeline_ids.extend(PipelineId::try_new(name));
        request
    };
    let too_old = |mut request: ListRequest| {
        request.filter.reasons.push(ErrorReason::TooOld);
        request
    };
    let requests = [
        (in_error(), vec![1, 2, 4]),
        (of_pipeline("a", in_error()), vec![1, 4]),
        (too_old(in_error()), vec![1, 2]),
        (too_old(of_pipeline("a", in_error())), vec![1]),
        (of_pipeline("c", in_error()), vec![]),
        (too_old(of_states(&[ObjectState::Failed])), vec![]),
        (of_pipeline("default-pipeline", list_all()), vec![3, 5, 6]),
        (
            of_states(&[ObjectState::Success, ObjectState::Failed]),
            vec![3, 6],
        ),
        (
            of_states(&[ObjectState::Failed, ObjectState::Error, ObjectState::Failed]),
            vec![1, 2, 3, 4],
        ),
        (of_states(&[ObjectState::New]), vec![5]),
        (of_states(&[]), vec![]),
        (list_all(), vec![1, 2, 3, 4, 5, 6]),
    ];
    for (request, numbers) in requests {
        let wanted: Vec<_> = numbers.into_iter().map(id).collect();
        for limit in [1, 2, 100] {
            let request = ListRequest {
                limit,
                ..request.clone()
            };
            ensure_eq!(ids(&list(queue, request.clone()).await?), wanted, "{request:?}");
        }
    }
    Ok(())
}

pub(super) async fn listed_pages_have_no_gap_while_objects_leave(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects(1..=12)).await?;
    let mut seen = Vec::new();
    let mut request = ListRequest {
        limit: 4,
        ..list_all()
    };
    loop {
        let page = queue
            .list(request.clone())
            .await
            .map_err(|error| error.to_string())?;
        seen.extend(ids(&page.objects));
        let Some(next) = page.next_after_seq else { break };
        // given that everything seen so far leaves before the next page
        let removals: Vec<_> = page
            .objects
            .iter()
            .map(|object| verdict(object.id, Action::Remove))
            .collect();
        settle(queue, &removals).await?;
        request.after_seq = next;
    }
    ensure_eq!(seen, ids(&objects(1..=12)), "every object is seen once");
    Ok(())
}

pub(super) async fn a_list_page_is_bounded_by_bytes(queue: &dyn RetryQueue) -> Outcome {
    let large = |number| StoredObject {
        payload: vec![1; 3 << 20].into(),
        ..object(number)
    };
    append(queue, &(1..=7).map(large).collect::<Vec<_>>()).await?;
    let mut request = list_all();
    let mut pages = Vec::new();
    loop {
        let page = queue
            .list(request.clone())
            .await
            .map_err(|error| error.to_string())?;
        pages.push(page.objects.len());
        let Some(next) = page.next_after_seq else { break };
        request.after_seq = next;
    }
    ensure_eq!(pages, [3, 3, 1], "objects of 3 MiB in pages of about 8 MiB");
    Ok(())
}

pub(super) async fn claimed_objects_are_listed(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects(1..=3)).await?;
    let before = list(queue, list_all()).await?;
    claim(
        queue,
        Claim {
            limit: 2,
            ..claim_due()
        },
    )
    .await?;
    ensure_eq!(
        list(queue, list_all()).await?,
        before,
        "a claim changes nothing that is listed"
    );
    ensure_eq!(stats(queue).await?.failed.objects, 3, "nor counted");
    Ok(())
}

pub(super) async fn statistics_are_exact(queue: &dyn RetryQueue) -> Outcome {
    let count = |objects, payload_bytes| StateCount {
        objects,
        payload_bytes,
    };
    ensure_eq!(stats(queue).await?, StoreStats::default(), "an empty store");
    let sized = |number, size| StoredObject {
        payload: vec![0; size].into(),
        ..object(number)
    };
    append(
        queue,
        &[
            sized(1, 1),
            sized(2, 20),
            sized(3, 300),
            StoredObject {
                state: ObjectState::New,
                ..sized(4, 4_000)
            },
            StoredObject {
                state: ObjectState::Success,
                ..sized(5, 50_000)
            },
            StoredObject {
                reason: Some(ErrorReason::Undecodable),
                state: ObjectState::Error,
                ..sized(6, 600_000)
            },
            sized(7, 0),
        ],
    )
    .await?;
    let appended = StoreStats {
        new: count(1, 4_000),
        failed: count(4, 321),
        batched: count(0, 0),
        success: count(1, 50_000),
        error: count(1, 600_000),
        oldest_waiting: Some(at(0)),
    };
    ensure_eq!(stats(queue).await?, appended, "after appending");
    settle(
        queue,
        &[
            verdict(id(1), Action::Remove),
            verdict(
                id(2),
                Action::GiveUp {
                    reason: ErrorReason::TooOld,
                    at: at(9),
                    failure: None,
                },
            ),
            verdict(id(3), Action::RetryLater(failure(2, at(1)))),
            verdict(id(4), Action::Remove),
        ],
    )
    .await?;
    let settled = StoreStats {
        new: count(0, 0),
        failed: count(2, 300),
        error: count(2, 600_020),
        ..appended
    };
    ensure_eq!(stats(queue).await?, settled, "after settling");
    Ok(())
}

pub(super) async fn the_oldest_waiting_object_is_known(queue: &dyn RetryQueue) -> Outcome {
    let kept = |number, seconds, state| StoredObject {
        created_at: at(seconds),
        state,
        ..object(number)
    };
    append(
        queue,
        &[
            kept(1, 50, ObjectState::Failed),
            kept(2, 10, ObjectState::Success),
            kept(3, 30, ObjectState::Failed),
            kept(4, 20, ObjectState::New),
        ],
    )
    .await?;
    for (wanted, number) in [(20, 4), (30, 3), (50, 1)] {
        ensure_eq!(
            stats(queue).await?.oldest_waiting,
            Some(at(wanted)),
            "before object {number} is settled"
        );
        let action = match number {
            3 => Action::GiveUp {
                reason: ErrorReason::TooOld,
                at: at(9),
                failure: None,
            },
            _ => Action::Remove,
        };
        settle(queue, &[verdict(id(number), action)]).await?;
    }
    ensure_eq!(stats(queue).await?.oldest_waiting, None, "nothing waits");
    Ok(())
}

pub(super) async fn a_lane_is_due_at_its_earliest_unclaimed_moment(queue: &dyn RetryQueue) -> Outcome {
    let next = async |seconds| {
        let lanes = lanes(queue, Duration::from_secs(seconds), at(1_000)).await?;
        ensure!(lanes.len() < 2, "there is one lane: {lanes:?}");
        Ok::<_, String>(lanes.into_iter().next().map(|lane| lane.next_due))
    };
    ensure_eq!(next(10).await?, None, "an empty store");
    let waiting = |number, attempt: i64, wait: Option<i64>| StoredObject {
        last_attempt_at: Some(at(attempt)),
        not_before: wait.map(at),
        ..object(number)
    };
    append(
        queue,
        &[
            waiting(1, 100, None),
            waiting(2, 10, Some(130)),
            waiting(3, 90, Some(20)),
        ],
    )
    .await?;
    ensure_eq!(next(10).await?, Some(at(100)), "object 3 has rested");
    ensure_eq!(next(50).await?, Some(at(130)), "object 2 was asked to wait");
    ensure_eq!(next(0).await?, Some(at(90)), "without a pause");
    // when object 3 is claimed
    let claimed = claim(
        queue,
        Claim {
            now: at(100),
            ..claim_due()
        },
    )
    .await?;
    ensure_eq!(ids(&claimed), [id(3)], "it is claimed");
    ensure_eq!(next(10).await?, Some(at(110)), "it is object 1's turn");
    settle(
        queue,
        &[verdict(id(3), Action::RELEASE), verdict(id(1), Action::Remove)],
    )
    .await?;
    ensure_eq!(next(10).await?, Some(at(100)), "a released object counts again");
    settle(queue, &[verdict(id(3), Action::Remove)]).await?;
    ensure_eq!(next(200).await?, Some(at(210)), "object 2 with a long interval");
    // and an object that was never attempted is due since ever
    append(queue, &[object(4)]).await?;
    ensure_eq!(next(10).await?, Some(Timestamp::default()), "a fresh one");
    Ok(())
}

fn bound(number: u64, destination: Option<&str>, attempt: Option<i64>) -> StoredObject {
    StoredObject {
        destination: destination.map(Destination::new),
        last_attempt_at: attempt.map(at),
        ..object(number)
    }
}

fn status(destination: Option<&str>, next_due: Timestamp) -> LaneStatus {
    LaneStatus {
        destination: destination.map(Destination::new),
        next_due,
    }
}

pub(super) async fn every_destination_is_a_lane(queue: &dyn RetryQueue) -> Outcome {
    // given destinations whose names begin alike, one that is empty, and objects that are in no lane
    let (short, long) = (Some("http://a"), Some("http://a:80"));
    let in_state = |number, state, destination| StoredObject {
        state,
        ..bound(number, destination, None)
    };
    append(
        queue,
        &[
            bound(1, long, Some(50)),
            bound(2, short, Some(92)),
            bound(3, short, Some(91)),
            bound(4, None, Some(90)),
            bound(5, Some(""), Some(40)),
            bound(6, long, Some(20)),
            in_state(7, ObjectState::New, Some("http://new")),
            in_state(8, ObjectState::Error, Some("http://error")),
            in_state(9, ObjectState::Success, short),
        ],
    )
    .await?;
    let all = [
        status(None, at(100)),
        status(Some(""), at(50)),
        status(short, at(101)),
        status(long, at(30)),
    ];
    ensure_eq!(
        lanes(queue, REST, at(1_000)).await?,
        all,
        "each with the moment its first object is due"
    );
    // when objects are claimed, their lanes go on without them
    let claimed = claim(
        queue,
        Claim {
            now: at(95),
            ..claim_due()
        },
    )
    .await?;
    ensure_eq!(ids(&claimed), [id(1), id(5), id(6)], "the due ones");
    let left = [status(None, at(100)), status(short, at(101))];
    ensure_eq!(
        lanes(queue, REST, at(1_000)).await?,
        left,
        "a lane without an unclaimed object is none"
    );
    settle(
        queue,
        &[
            verdict(id(1), Action::Remove),
            verdict(id(5), Action::RELEASE),
            verdict(
                id(6),
                Action::RetryLater(Failure {
                    destination: Some(Destination::new("http://c")),
                    ..failure(2, at(80))
                }),
            ),
        ],
    )
    .await?;
    let after = [
        status(None, at(100)),
        status(Some(""), at(50)),
        status(short, at(101)),
        status(Some("http://c"), at(90)),
    ];
    ensure_eq!(lanes(queue, REST, at(1_000)).await?, after, "after the verdicts");
    Ok(())
}

pub(super) async fn an_attempt_in_the_future_is_due_in_its_lane(queue: &dyn RetryQueue) -> Outcome {
    // given a clock that was set back by an hour
    let asked = |number, destination, attempt, wait| StoredObject {
        not_before: Some(at(wait)),
        ..bound(number, Some(destination), Some(attempt))
    };
    append(
        queue,
        &[
            bound(1, None, Some(3_700)),
            bound(2, None, Some(95)),
            bound(3, Some("http://a"), Some(95)),
            bound(4, Some("http://b"), Some(3_700)),
            asked(5, "http://c", 95, 90),
            asked(6, "http://c", 3_700, 101),
            asked(7, "http://d", 3_700, 50),
        ],
    )
    .await?;
    let wanted = [
        status(None, Timestamp::default()),
        status(Some("http://a"), at(105)),
        status(Some("http://b"), Timestamp::default()),
        status(Some("http://c"), at(101)),
        status(Some("http://d"), at(50)),
    ];
    ensure_eq!(
        lanes(queue, REST, at(100)).await?,
        wanted,
        "what was attempted in the future need not rest"
    );
    Ok(())
}

pub(super) async fn a_device_waits_until_its_last_object_has_ended(queue: &dyn RetryQueue) -> Outcome {
    let of = |number, pipeline: &str, device: Option<&str>, state| StoredObject {
        pipeline_id: PipelineId::try_new(pipeline).expect("not blank"),
        context: device
            .map(|device| ("devicename".to_owned(), device.to_owned()))
            .into_iter()
            .collect(),
        state,
        ..object(number)
    };
    append(
        queue,
        &[
            of(1, "a", Some("pump"), ObjectState::New),
            of(2, "a", Some("pump"), ObjectState::Failed),
            of(3, "b", Some("fan"), ObjectState::Failed),
            of(4, "b", Some("lamp"), ObjectState::Error),
            of(5, "b", None, ObjectState::Failed),
            of(6, "c", Some("pump"), ObjectState::New),
        ],
    )
    .await?;
    let waits = async |pipeline: &str, device: &str| {
        let pipeline = PipelineId::try_new(pipeline).expect("not blank");
        queue
            .is_waiting(&pipeline, device)
            .await
            .map_err(|error| format!("is_waiting failed: {error}"))
    };
    let all = [
        ("a", "pump", true),
        ("b", "pump", false),
        ("c", "pump", true),
        ("b", "fan", true),
        ("b", "lamp", false),
        ("b", "", false),
        ("a", "pum", false),
    ];
    for (pipeline, device, wanted) in all {
        ensure_eq!(waits(pipeline, device).await?, wanted, "{device} in {pipeline}");
    }
    // when one of two has ended, and one is about another device from now on
    let moved_on = Progress {
        version: PipelineVersion::from_stored("v"),
        position: 2,
        kind: DataKind::Bytes,
        payload: "x".into(),
        context: BTreeMap::from([("devicename".to_owned(), "shed".to_owned())]),
    };
    settle(
        queue,
        &[
            verdict(id(1), Action::Remove),
            verdict(
                id(3),
                Action::RetryLater(Failure {
                    progress: Some(moved_on),
                    ..failure(1, at(1))
                }),
            ),
        ],
    )
    .await?;
    ensure!(waits("a", "pump").await?, "the other one still waits");
    ensure!(
        !waits("b", "fan").await? && waits("b", "shed").await?,
        "the context of today counts"
    );
    settle(queue, &[verdict(id(2), Action::Succeed { at: at(1) })]).await?;
    ensure!(!waits("a", "pump").await?, "none waits any more");
    Ok(())
}

pub(super) async fn a_closed_store_says_so(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects([1])).await?;
    queue.close().await;
    queue.close().await;
    let answers = queue.append(&objects([2, 3]), Room::default()).await;
    ensure_eq!(answers.len(), 2, "one answer for each");
    let errors = [
        answers.into_iter().find_map(Result::err),
        queue.claim(claim_due()).await.err(),
        queue.settle(&[verdict(id(1), Action::Remove)]).await.err(),
        queue.settle(&[verdict(id(1), Action::RELEASE)]).await.err(),
        queue.lanes(REST, at(0)).await.err(),
        queue
            .is_waiting(&PipelineId::default_pipeline(), "pump-1")
            .await
            .err(),
        queue.evict(Eviction { objects: 1, bytes: 0 }).await.err(),
        queue
            .sweep(
                Sweep::TooOld {
                    before: at(0),
                    at: at(0),
                },
                1,
            )
            .await
            .err(),
        queue.sweep(Sweep::History { before: at(0) }, 1).await.err(),
        queue.redrive(error_page()).await.err(),
        queue.purge(error_page()).await.err(),
        queue.survey(ObjectFilter::default()).await.err(),
        queue.list(list_all()).await.err(),
        queue.stats().await.err(),
    ];
    for (place, error) in errors.into_iter().enumerate() {
        ensure!(
            matches!(error, Some(StoreError::Closed)),
            "call {place} answered {error:?}"
        );
    }
    Ok(())
}
