//! Handing objects out in the order of their pipeline and device.

use std::collections::HashMap;

use futures_util::future::join_all;

use super::*;

fn of(number: u64, pipeline: &str, device: Option<&str>) -> StoredObject {
    let value = |device: &str| ("devicename".to_owned(), device.to_owned());
    StoredObject {
        pipeline_id: PipelineId::try_new(pipeline).expect("not blank"),
        context: device.map(value).into_iter().collect(),
        ..object(number)
    }
}

fn in_order() -> Claim {
    Claim {
        ordered: true,
        ..claim_due()
    }
}

pub(super) async fn only_the_oldest_of_a_device_is_handed_out(queue: &dyn RetryQueue) -> Outcome {
    append(
        queue,
        &[
            of(1, "a", Some("pump")),
            of(2, "a", Some("pump")),
            of(3, "b", Some("pump")),
            of(4, "a", None),
            of(5, "a", Some("fan")),
            of(6, "a", None),
            of(7, "a", Some("fan")),
            of(8, "a", Some("")),
            of(9, "a", Some("")),
        ],
    )
    .await?;
    let first = claim(
        queue,
        Claim {
            limit: 4,
            ..in_order()
        },
    )
    .await?;
    ensure_eq!(
        ids(&first),
        [1, 3, 4, 5].map(id),
        "the oldest of each pipeline and device, and what has no device"
    );
    ensure_eq!(
        ids(&claim(queue, in_order()).await?),
        [6, 8].map(id),
        "nothing of a device of which one is claimed"
    );
    settle(
        queue,
        &[
            verdict(id(1), Action::Remove),
            verdict(id(5), Action::RetryLater(failure(2, at(99_999)))),
            verdict(id(8), Action::Succeed { at: at(1) }),
        ],
    )
    .await?;
    ensure_eq!(
        ids(&claim(queue, in_order()).await?),
        [2, 9].map(id),
        "the next ones, when the one before has ended"
    );
    let behind = Claim {
        after_seq: find(queue, id(5)).await?.seq,
        now: at(200_000),
        ..in_order()
    };
    ensure_eq!(
        ids(&claim(queue, behind).await?),
        [],
        "the cursor does not make a younger one the oldest"
    );
    Ok(())
}

pub(super) async fn what_is_not_due_holds_back_what_is_behind_it(queue: &dyn RetryQueue) -> Outcome {
    let tried = |object: StoredObject, seconds| StoredObject {
        last_attempt_at: Some(at(seconds)),
        ..object
    };
    let waiting = |object: StoredObject, seconds| StoredObject {
        not_before: Some(at(seconds)),
        ..object
    };
    let there = |object: StoredObject| StoredObject {
        destination: Some(Destination::new("http://there")),
        ..object
    };
    let in_state = |object: StoredObject, state| StoredObject { state, ..object };
    append(
        queue,
        &[
            tried(of(1, "a", Some("resting")), 95),
            of(2, "a", Some("resting")),
            waiting(of(3, "a", Some("asked")), 110),
            of(4, "a", Some("asked")),
            there(of(5, "a", Some("elsewhere"))),
            of(6, "a", Some("elsewhere")),
            in_state(of(7, "a", Some("journaled")), ObjectState::New),
            of(8, "a", Some("journaled")),
            in_state(of(9, "a", Some("given up")), ObjectState::Error),
            of(10, "a", Some("given up")),
        ],
    )
    .await?;
    let page = |lane, due, now| Claim {
        selection: Selection { lane, due },
        now: at(now),
        ..in_order()
    };
    ensure_eq!(
        ids(&claim(queue, page(Lane::Unknown, Some(REST), 100)).await?),
        [id(10)],
        "only what has nothing older that waits"
    );
    ensure_eq!(
        ids(&claim(queue, page(Lane::Any, None, 100)).await?),
        [1, 3, 5].map(id),
        "due or not, when that is asked for"
    );
    settle(
        queue,
        &[
            verdict(id(7), Action::Remove),
            verdict(id(5), Action::RELEASE),
            verdict(id(3), Action::RELEASE),
            verdict(id(1), Action::RELEASE),
        ],
    )
    .await?;
    ensure_eq!(
        ids(&claim(queue, page(Lane::Any, Some(REST), 110)).await?),
        [1, 3, 5, 8].map(id),
        "when their time has come"
    );
    Ok(())
}

pub(super) async fn one_at_a_time_of_a_device_also_when_the_setting_changes(
    queue: &dyn RetryQueue,
) -> Outcome {
    // given that the second one was handed out while no order was asked for
    append(
        queue,
        &[
            of(1, "a", Some("pump")),
            of(2, "a", Some("pump")),
            of(3, "a", Some("pump")),
        ],
    )
    .await?;
    let free = claim(queue, claim_due()).await?;
    ensure_eq!(free.len(), 3, "all are handed out");
    settle(
        queue,
        &[verdict(id(1), Action::RELEASE), verdict(id(3), Action::RELEASE)],
    )
    .await?;
    // then the first one waits for it
    ensure_eq!(
        ids(&claim(queue, in_order()).await?),
        [],
        "one of them is being tried"
    );
    settle(queue, &[verdict(id(2), Action::RELEASE)]).await?;
    ensure_eq!(ids(&claim(queue, in_order()).await?), [id(1)], "now it may");
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(2), id(3)],
        "without order the others may, too"
    );
    Ok(())
}

pub(super) async fn what_is_redriven_comes_before_what_came_later(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &[of(1, "a", Some("pump")), of(2, "a", Some("pump"))]).await?;
    let give_up = Action::GiveUp {
        reason: edgehold_core::ErrorReason::PermanentError,
        at: at(1),
        failure: None,
    };
    settle(queue, &[verdict(id(1), give_up)]).await?;
    ensure_eq!(
        ids(&claim(queue, in_order()).await?),
        [id(2)],
        "the next one goes on"
    );
    redrive(queue, error_page()).await?;
    ensure_eq!(ids(&claim(queue, in_order()).await?), [], "one is being tried");
    settle(queue, &[verdict(id(2), Action::RELEASE)]).await?;
    ensure_eq!(
        ids(&claim(queue, in_order()).await?),
        [id(1)],
        "then the older one"
    );
    Ok(())
}

pub(super) async fn passes_side_by_side_keep_the_order(queue: &dyn RetryQueue) -> Outcome {
    // given eight devices, and passes that fail some of what they try once
    let devices = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let objects: Vec<_> = (1..=160)
        .zip(devices.iter().cycle())
        .map(|(number, device)| of(number, "p", Some(device)))
        .collect();
    append(queue, &objects).await?;
    let pass = async || {
        let mut delivered = Vec::new();
        for _ in 0..2_000 {
            let page = claim(
                queue,
                Claim {
                    limit: 5,
                    ..in_order()
                },
            )
            .await?;
            let verdicts: Vec<_> = page
                .iter()
                .map(|object| {
                    let fails = object.attempts == 1 && object.seq % 3 == 0;
                    let again = failure(object.attempts + 1, at(0));
                    verdict(
                        object.id,
                        if fails {
                            Action::RetryLater(again)
                        } else {
                            Action::Remove
                        },
                    )
                })
                .collect();
            for (object, verdict) in page.iter().zip(&verdicts) {
                if verdict.action == Action::Remove {
                    delivered.push(object.clone());
                }
            }
            settle(queue, &verdicts).await?;
            if stats(queue).await?.failed.objects == 0 {
                break;
            }
        }
        Ok::<_, String>(delivered)
    };
    let mut last: HashMap<String, i64> = HashMap::new();
    let mut count = 0;
    // Each pass sees what it delivers in order; together they deliver everything once.
    for delivered in join_all((0..4).map(|_| pass())).await {
        last.clear();
        for object in delivered? {
            count += 1;
            let device = crate::semantics::device(&object).unwrap_or_default().to_owned();
            let before = last.insert(device, object.seq).unwrap_or(0);
            ensure!(before < object.seq, "{} was overtaken", object.id);
        }
    }
    ensure_eq!(count, 160, "everything is delivered, once");
    Ok(())
}
