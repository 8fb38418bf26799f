//! Handing objects out.

use std::{collections::HashSet, pin::pin, task::Poll};

use edgehold_core::ErrorReason;
use futures_util::future::join_all;

use super::*;

pub(super) async fn claims_come_in_the_order_of_appending(queue: &dyn RetryQueue) -> Outcome {
    // given objects whose other numbers all run against the order of appending
    let objects: Vec<_> = (1..=50_u64)
        .zip((1..=50_i64).rev())
        .map(|(number, back)| StoredObject {
            created_at: at(back),
            last_attempt_at: Some(at(back)),
            not_before: (number % 3 == 0).then_some(at(back)),
            ..object(number)
        })
        .collect();
    append(queue, &objects[..20]).await?;
    append(queue, &objects[20..]).await?;
    // when
    let claimed = claim(queue, claim_due()).await?;
    // then
    ensure_eq!(ids(&claimed), ids(&objects), "oldest first");
    Ok(())
}

pub(super) async fn a_page_ends_at_the_limit_and_the_cursor_goes_on(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects(1..=10)).await?;
    let mut seen = Vec::new();
    let mut page = Claim {
        limit: 4,
        ..claim_due()
    };
    for wanted in [4, 4, 2, 0] {
        let claimed = claim(queue, page.clone()).await?;
        ensure_eq!(
            claimed.len(),
            wanted,
            "a page of at most 4 after seq {}",
            page.after_seq
        );
        if let Some(last) = claimed.last() {
            page.after_seq = last.seq;
        }
        // What the pass has behind it does not come back to it, whatever became of it.
        let release = |object: &StoredObject| verdict(object.id, Action::RELEASE);
        settle(queue, &claimed.iter().map(release).collect::<Vec<_>>()).await?;
        seen.extend(ids(&claimed));
    }
    ensure_eq!(seen, ids(&objects(1..=10)), "a pass sees every object once");
    Ok(())
}

pub(super) async fn a_page_ends_at_its_bytes(queue: &dyn RetryQueue) -> Outcome {
    let sized = |number, size| StoredObject {
        payload: vec![7; size].into(),
        ..object(number)
    };
    append(
        queue,
        &[
            sized(1, 500),
            sized(2, 100),
            sized(3, 100),
            sized(4, 300),
            sized(5, 1),
            sized(6, 0),
        ],
    )
    .await?;
    let mut pages = Vec::new();
    for _ in 0..4 {
        pages.push(ids(&claim(
            queue,
            Claim {
                max_bytes: 400,
                ..claim_due()
            },
        )
        .await?));
    }
    ensure_eq!(
        pages,
        [vec![id(1)], vec![id(2), id(3)], vec![id(4), id(5), id(6)], vec![]],
        "a page ends before the object that does not fit, and a too large one comes alone"
    );
    Ok(())
}

pub(super) async fn a_claimed_object_is_handed_out_once(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects(1..=3)).await?;
    let first = claim(
        queue,
        Claim {
            limit: 2,
            ..claim_due()
        },
    )
    .await?;
    ensure_eq!(ids(&first), [id(1), id(2)], "the first page");
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(3)],
        "the second page has only what is left"
    );
    ensure_eq!(ids(&claim(queue, claim_due()).await?), [], "nothing is left");
    settle(queue, &[verdict(id(2), Action::RELEASE)]).await?;
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(2)],
        "a settled object may be claimed again"
    );
    Ok(())
}

pub(super) async fn concurrent_claims_never_share_an_object(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects(1..=200)).await?;
    let pages = join_all((0..20).map(|_| {
        queue.claim(Claim {
            limit: 15,
            ..claim_due()
        })
    }))
    .await;
    let mut seen = HashSet::new();
    for page in pages {
        for object in page.map_err(|error| error.to_string())? {
            ensure!(
                seen.insert(object.id),
                "object {} was handed out twice",
                object.id
            );
        }
    }
    let rest = claim(queue, claim_due()).await?;
    ensure!(
        rest.iter().all(|object| seen.insert(object.id)),
        "a later claim got a claimed object"
    );
    ensure_eq!(seen.len(), 200, "every object was handed out");
    Ok(())
}

pub(super) async fn concurrent_passes_attempt_each_object_once(queue: &dyn RetryQueue) -> Outcome {
    // given passes side by side, each of which fails what it claims, so that nothing is due a second time
    append(queue, &objects(1..=300)).await?;
    let pass = async |when: i64| {
        let mut attempted = Vec::new();
        loop {
            let page = claim(
                queue,
                Claim {
                    now: at(when),
                    limit: 7,
                    ..claim_due()
                },
            )
            .await?;
            if page.is_empty() {
                return Ok::<_, String>(attempted);
            }
            let verdicts: Vec<_> = page
                .iter()
                .map(|object| {
                    verdict(
                        object.id,
                        Action::RetryLater(failure(object.attempts + 1, at(when))),
                    )
                })
                .collect();
            settle(queue, &verdicts).await?;
            attempted.extend(ids(&page));
            ensure!(
                attempted.len() <= 300,
                "a pass never ends: what was attempted stays due"
            );
        }
    };
    let passes = join_all((0..6).map(|_| pass(100))).await;
    // then
    let mut seen = HashSet::new();
    for attempted in passes {
        for id in attempted? {
            ensure!(
                seen.insert(id),
                "object {id} was handed out again in the state it had before its verdict"
            );
        }
    }
    ensure_eq!(seen.len(), 300, "every object was attempted");
    Ok(())
}

pub(super) async fn a_claim_is_not_ended_by_the_verdict_before_it(queue: &dyn RetryQueue) -> Outcome {
    for number in 1..=50 {
        // given the row of a run that lets go of it
        let row = StoredObject {
            state: ObjectState::New,
            ..object(number)
        };
        append(queue, &[row]).await?;
        let verdicts = [verdict(id(number), Action::RELEASE)];
        let mut letting_go = pin!(settle(queue, &verdicts));
        // when it is claimed as soon as anybody can see that
        let mut is_over = false;
        let mut claimed = Vec::new();
        for _ in 0..10_000 {
            if !is_over && let Poll::Ready(outcome) = futures_util::poll!(&mut letting_go) {
                outcome?;
                is_over = true;
            }
            claimed = claim(queue, claim_due()).await?;
            if !claimed.is_empty() {
                break;
            }
        }
        if !is_over {
            letting_go.await?;
        }
        ensure_eq!(ids(&claimed), [id(number)], "what was let go of");
        // then nobody else is given it
        let others = ids(&claim(queue, claim_due()).await?);
        ensure_eq!(others, [], "what somebody has claimed meanwhile");
    }
    Ok(())
}

pub(super) async fn a_dropped_claim_is_given_back(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects(1..=3)).await?;
    // given claims dropped after each number of steps that leaves them unfinished
    for steps in 1..=200 {
        let mut pending = queue.claim(claim_due());
        let mut finished = None;
        for _ in 0..steps {
            if let Poll::Ready(page) = futures_util::poll!(&mut pending) {
                finished = Some(page);
                break;
            }
        }
        if let Some(page) = finished {
            let release = |object: StoredObject| verdict(object.id, Action::RELEASE);
            let page = page.map_err(|error| error.to_string())?;
            settle(queue, &page.into_iter().map(release).collect::<Vec<_>>()).await?;
        }
    }
    // then they come back, at the latest when the store has noticed
    let mut seen = HashSet::new();
    for _ in 0..10_000 {
        seen.extend(ids(&claim(queue, claim_due()).await?));
        if seen.len() == 3 {
            return Ok(());
        }
    }
    Err(format!("only {} of 3 objects came back", seen.len()))
}

pub(super) async fn the_interval_of_the_claim_decides_what_is_due(queue: &dyn RetryQueue) -> Outcome {
    let attempted = |number, seconds| StoredObject {
        last_attempt_at: Some(at(seconds)),
        ..object(number)
    };
    append(queue, &[attempted(1, 100), attempted(2, 90), attempted(3, 95)]).await?;
    let due = |seconds, now| Claim {
        selection: due(Duration::from_secs(seconds)),
        now: at(now),
        ..claim_due()
    };
    ensure_eq!(
        ids(&claim(queue, due(3_600, 105)).await?),
        [],
        "nothing is due with a long interval"
    );
    ensure_eq!(
        ids(&claim(queue, due(10, 105)).await?),
        [id(2), id(3)],
        "a shorter one acts at once, to the second"
    );
    ensure_eq!(ids(&claim(queue, due(5, 104)).await?), [], "one second early");
    ensure_eq!(
        ids(&claim(queue, due(5, 105)).await?),
        [id(1)],
        "at the moment itself"
    );
    Ok(())
}

pub(super) async fn not_before_is_respected_whatever_the_interval(queue: &dyn RetryQueue) -> Outcome {
    let asked = |number, attempt: Option<i64>, wait| StoredObject {
        last_attempt_at: attempt.map(at),
        not_before: Some(at(wait)),
        ..object(number)
    };
    append(
        queue,
        &[
            asked(1, Some(0), 100),
            asked(2, Some(95), 50),
            asked(3, None, 101),
            asked(4, None, 100),
        ],
    )
    .await?;
    let due = |now| Claim {
        now: at(now),
        ..claim_due()
    };
    ensure_eq!(ids(&claim(queue, due(99)).await?), [], "none is due");
    ensure_eq!(
        ids(&claim(queue, due(100)).await?),
        [id(1), id(4)],
        "those whose wait has ended"
    );
    ensure_eq!(
        ids(&claim(queue, due(104)).await?),
        [id(3)],
        "2 has not rested yet"
    );
    ensure_eq!(ids(&claim(queue, due(105)).await?), [id(2)], "it has now");
    Ok(())
}

pub(super) async fn an_attempt_in_the_future_counts_as_long_ago(queue: &dyn RetryQueue) -> Outcome {
    // given a clock that was set back by an hour
    let attempted = |number, seconds| StoredObject {
        last_attempt_at: Some(at(seconds)),
        ..object(number)
    };
    append(queue, &[attempted(1, 3_700), attempted(2, 100), attempted(3, 99)]).await?;
    let claimed = claim(
        queue,
        Claim {
            now: at(100),
            ..claim_due()
        },
    )
    .await?;
    ensure_eq!(ids(&claimed), [id(1)], "it is due; one attempted just now is not");
    Ok(())
}

pub(super) async fn an_object_never_attempted_is_due_at_once(queue: &dyn RetryQueue) -> Outcome {
    append(
        queue,
        &[StoredObject {
            created_at: at(100),
            ..object(1)
        }],
    )
    .await?;
    let selection = due(Duration::from_secs(1_000_000));
    let claimed = claim(
        queue,
        Claim {
            selection,
            now: at(100),
            ..claim_due()
        },
    )
    .await?;
    ensure_eq!(ids(&claimed), [id(1)], "whatever the interval");
    Ok(())
}

pub(super) async fn only_failed_objects_are_handed_out(queue: &dyn RetryQueue) -> Outcome {
    let destination = Destination::new("http://there");
    let in_state = |number, state| StoredObject {
        state,
        reason: (state == ObjectState::Error).then_some(ErrorReason::TooOld),
        destination: Some(destination.clone()),
        ..object(number)
    };
    append(
        queue,
        &[
            in_state(1, ObjectState::New),
            in_state(2, ObjectState::Error),
            in_state(3, ObjectState::Success),
            in_state(4, ObjectState::Failed),
        ],
    )
    .await?;
    let at_destination = Claim {
        selection: all_of(Lane::To(destination)),
        ..claim_due()
    };
    ensure_eq!(ids(&claim(queue, claim_due()).await?), [id(4)], "of the due ones");
    ensure_eq!(
        ids(&claim(queue, at_destination).await?),
        [],
        "of those at the destination"
    );
    ensure_eq!(
        lanes(queue, REST, at(0)).await?,
        [],
        "and none of the others is ever due"
    );
    Ok(())
}

pub(super) async fn few_due_objects_behind_many_are_found_in_order(queue: &dyn RetryQueue) -> Outcome {
    // given many that wait for different reasons, and among them a few and then many that are due
    let waiting = |number: u64| StoredObject {
        last_attempt_at: number.is_multiple_of(2).then_some(at(100)),
        not_before: (!number.is_multiple_of(2)).then_some(at(200)),
        ..object(number)
    };
    let rested = |number: u64, back: i64| StoredObject {
        last_attempt_at: Some(at(50 - back)),
        ..object(number)
    };
    let mut objects: Vec<_> = (1..=1_500).map(waiting).collect();
    objects.extend([
        rested(2_001, 1),
        waiting(2_002),
        rested(2_003, 3),
        object(2_004),
        rested(2_005, 2),
    ]);
    append(queue, &objects).await?;
    // then the few are found in order
    let now = Claim {
        now: at(105),
        limit: 3,
        ..claim_due()
    };
    ensure_eq!(
        ids(&claim(queue, now.clone()).await?),
        [id(2_001), id(2_003), id(2_004)],
        "the few"
    );
    ensure_eq!(
        ids(&claim(queue, now.clone()).await?),
        [id(2_005)],
        "the last of the few"
    );
    // and the many, too
    let later = claim(
        queue,
        Claim {
            now: at(110),
            limit: 1_500,
            ..claim_due()
        },
    )
    .await?;
    let even: Vec<_> = (1..=750).map(|half| id(half * 2)).chain([id(2_002)]).collect();
    ensure_eq!(ids(&later), even, "those that have rested by then");
    Ok(())
}

pub(super) async fn a_destination_is_claimed_due_or_not(queue: &dyn RetryQueue) -> Outcome {
    let there = Destination::new("http://there:80");
    let bound = |number, destination: &str, not_before| StoredObject {
        last_attempt_at: Some(at(99)),
        destination: Some(Destination::new(destination)),
        not_before,
        ..object(number)
    };
    append(
        queue,
        &[
            bound(1, "http://there:80", None),
            bound(2, "http://elsewhere", None),
            bound(3, "http://there:80", Some(at(101))),
            bound(4, "http://there:80", Some(at(100))),
            bound(5, "http://there:8", None),
            object(6),
            bound(7, "http://there:80", None),
        ],
    )
    .await?;
    let page = Claim {
        selection: all_of(Lane::To(there)),
        now: at(100),
        limit: 2,
        ..claim_due()
    };
    let first = claim(queue, page.clone()).await?;
    ensure_eq!(ids(&first), [id(1), id(3)], "due or not, asked to wait or not");
    ensure_eq!(
        ids(&claim(queue, page).await?),
        [id(4), id(7)],
        "and nothing twice"
    );
    Ok(())
}

pub(super) async fn a_lane_holds_only_its_own_objects(queue: &dyn RetryQueue) -> Outcome {
    let bound = |number, destination: Option<&str>, attempt| StoredObject {
        last_attempt_at: Some(at(attempt)),
        destination: destination.map(Destination::new),
        ..object(number)
    };
    let (here, there) = (Some("http://here"), Some("http://there"));
    append(
        queue,
        &[
            bound(1, here, 95),
            bound(2, there, 50),
            bound(3, here, 50),
            bound(4, None, 50),
            bound(5, here, 51),
            bound(6, None, 95),
            bound(7, Some(""), 50),
        ],
    )
    .await?;
    let of = |lane, due| Claim {
        selection: Selection { lane, due },
        now: at(100),
        limit: 2,
        ..claim_due()
    };
    let to = |destination| Lane::of(Some(Destination::new(destination)));
    ensure_eq!(
        ids(&claim(queue, of(to("http://here"), Some(REST))).await?),
        [id(3), id(5)],
        "what is due in a lane"
    );
    ensure_eq!(
        ids(&claim(queue, of(to("http://here"), None)).await?),
        [id(1)],
        "what is not due, when that is asked for"
    );
    ensure_eq!(
        ids(&claim(queue, of(Lane::Unknown, Some(REST))).await?),
        [id(4)],
        "what is due without a destination"
    );
    ensure_eq!(
        ids(&claim(queue, of(Lane::Unknown, None)).await?),
        [id(6)],
        "the rest of it"
    );
    ensure_eq!(
        ids(&claim(queue, of(to(""), None)).await?),
        [id(7)],
        "an empty name is a name"
    );
    ensure_eq!(
        ids(&claim(queue, of(Lane::Any, None)).await?),
        [id(2)],
        "any lane"
    );
    Ok(())
}

pub(super) async fn few_due_objects_of_a_lane_are_found_behind_many(queue: &dyn RetryQueue) -> Outcome {
    // given a long lane where little is due, among others
    let bound = |number: u64, attempt: i64, wait: Option<i64>| StoredObject {
        last_attempt_at: Some(at(attempt)),
        not_before: wait.map(at),
        destination: Some(Destination::new(if number.is_multiple_of(5) {
            "http://b"
        } else {
            "http://a"
        })),
        ..object(number)
    };
    let mut objects: Vec<_> = (1..=3_500)
        .map(|number| bound(number, 100, number.is_multiple_of(3).then_some(200)))
        .collect();
    objects.extend([
        bound(4_001, 50, None),
        bound(4_005, 50, None),
        bound(4_002, 95, Some(90)),
        bound(4_003, 50, Some(90)),
        bound(4_004, 3_700, None),
    ]);
    append(queue, &objects).await?;
    let page = |due| Claim {
        selection: Selection {
            lane: Lane::To(Destination::new("http://a")),
            due,
        },
        now: at(104),
        limit: 10_000,
        ..claim_due()
    };
    ensure_eq!(
        ids(&claim(queue, page(Some(REST))).await?),
        [id(4_001), id(4_003), id(4_004)],
        "those that are due"
    );
    let rest = claim(queue, page(None)).await?;
    let wanted: Vec<_> = (1..=3_500)
        .filter(|number| number % 5 != 0)
        .chain([4_002])
        .map(id)
        .collect();
    ensure_eq!(ids(&rest), wanted, "all the others, when that is asked for");
    Ok(())
}

pub(super) async fn nobody_is_a_suspect_without_a_crash(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects(1..=3)).await?;
    let suspects = Claim {
        suspects: Suspects::Only,
        ..claim_due()
    };
    ensure_eq!(
        claim(queue, suspects.clone()).await?,
        [],
        "none before an attempt"
    );
    let claimed = claim(queue, claim_due()).await?;
    ensure!(
        claimed.len() == 3 && claimed.iter().all(|object| object.crashes == 0),
        "nothing has crashed: {claimed:?}"
    );
    let released: Vec<_> = claimed
        .iter()
        .map(|object| verdict(object.id, Action::RELEASE))
        .collect();
    settle(queue, &released).await?;
    ensure_eq!(claim(queue, suspects).await?, [], "none after one");
    ensure_eq!(
        claim(queue, claim_due()).await?.len(),
        3,
        "they are handed out again"
    );
    Ok(())
}
