//! Making room, sweeping.

use std::collections::HashSet;

use edgehold_core::ErrorReason;
use futures_util::future::join_all;

use super::*;
use crate::{Evicted, Eviction, Sweep, edgex};

async fn evict(queue: &dyn RetryQueue, objects: u64, bytes: u64) -> Result<Vec<Evicted>, String> {
    queue
        .evict(Eviction { objects, bytes })
        .await
        .map_err(|error| format!("evicting failed: {error}"))
}

async fn sweep(queue: &dyn RetryQueue, sweep: Sweep, limit: usize) -> Result<u64, String> {
    queue
        .sweep(sweep, limit)
        .await
        .map_err(|error| format!("{sweep:?} failed: {error}"))
}

fn evicted_ids(evicted: &[Evicted]) -> Vec<StoredObjectId> {
    evicted.iter().map(|evicted| evicted.id).collect()
}

fn sized(number: u64, bytes: usize) -> StoredObject {
    StoredObject {
        payload: vec![1; bytes].into(),
        ..object(number)
    }
}

fn in_state(number: u64, state: ObjectState) -> StoredObject {
    StoredObject {
        state,
        reason: (state == ObjectState::Error).then_some(ErrorReason::PermanentError),
        ..object(number)
    }
}

pub(super) async fn eviction_takes_the_oldest_unclaimed_ones(queue: &dyn RetryQueue) -> Outcome {
    let named = StoredObject {
        pipeline_id: PipelineId::try_new("other").expect("not blank"),
        correlation_id: CorrelationId::new("correlation 2"),
        not_before: Some(at(1_000_000)),
        created_at: at(99),
        ..sized(2, 20)
    };
    append(queue, &[object(1), named, sized(3, 30), sized(4, 40), object(5)]).await?;
    claim(
        queue,
        Claim {
            limit: 1,
            ..claim_due()
        },
    )
    .await?;
    let evicted = evict(queue, 2, 0).await?;
    let wanted = Evicted {
        id: id(2),
        pipeline_id: PipelineId::try_new("other").expect("not blank"),
        correlation_id: CorrelationId::new("correlation 2"),
        payload_bytes: 20,
    };
    ensure_eq!(evicted.first(), Some(&wanted), "it says what it was");
    ensure_eq!(
        evicted_ids(&evicted),
        [id(2), id(3)],
        "the oldest ones that are not claimed"
    );
    ensure_eq!(
        ids(&list(queue, list_all()).await?),
        [id(1), id(4), id(5)],
        "they are gone"
    );
    let failed = stats(queue).await?.failed;
    ensure_eq!((failed.objects, failed.payload_bytes), (3, 58), "and not counted");
    ensure_eq!(
        evicted_ids(&evict(queue, 9, 0).await?),
        [id(4), id(5)],
        "as far as there are any"
    );
    ensure_eq!(evict(queue, 1, 0).await?, [], "and then none");
    settle(queue, &[verdict(id(1), Action::RetryLater(failure(2, at(1))))]).await?;
    ensure_eq!(
        find(queue, id(1)).await?.attempts,
        2,
        "the claimed one was spared"
    );
    Ok(())
}

pub(super) async fn eviction_frees_as_many_bytes_as_were_asked_for(queue: &dyn RetryQueue) -> Outcome {
    append(
        queue,
        &[
            sized(1, 10),
            sized(2, 0),
            sized(3, 30),
            sized(4, 40),
            sized(5, 50),
        ],
    )
    .await?;
    ensure_eq!(evict(queue, 0, 0).await?, [], "nothing when nothing is asked for");
    ensure_eq!(
        evicted_ids(&evict(queue, 0, 10).await?),
        [id(1)],
        "exactly enough"
    );
    ensure_eq!(
        evicted_ids(&evict(queue, 1, 31).await?),
        [id(2), id(3), id(4)],
        "rather too much than too little"
    );
    Ok(())
}

pub(super) async fn eviction_spares_what_is_no_backlog(queue: &dyn RetryQueue) -> Outcome {
    let states = [ObjectState::New, ObjectState::Success, ObjectState::Error];
    let spared: Vec<_> = (1..)
        .zip(states)
        .map(|(number, state)| in_state(number, state))
        .collect();
    append(queue, &spared).await?;
    let many = objects(10..=1_209);
    append(queue, &many).await?;
    ensure_eq!(
        evict(queue, 5_000, 0).await?.len(),
        Eviction::MAX_OBJECTS,
        "a call is bounded"
    );
    ensure_eq!(evict(queue, 5_000, 0).await?.len(), 200, "the next one goes on");
    ensure_eq!(
        ids(&list(queue, list_all()).await?),
        ids(&spared),
        "the others stay"
    );
    Ok(())
}

pub(super) async fn what_is_evicted_while_claims_go_on_is_never_handed_out(
    queue: &dyn RetryQueue,
) -> Outcome {
    append(queue, &objects(1..=200)).await?;
    let claims = join_all((0..10).map(|_| {
        queue.claim(Claim {
            limit: 10,
            ..claim_due()
        })
    }));
    let evictions = join_all((0..10).map(|_| {
        queue.evict(Eviction {
            objects: 10,
            bytes: 0,
        })
    }));
    let (claims, evictions) = futures_util::future::join(claims, evictions).await;
    let mut seen = HashSet::new();
    for page in claims {
        for object in page.map_err(|error| error.to_string())? {
            ensure!(
                seen.insert(object.id),
                "object {} was handed out twice",
                object.id
            );
        }
    }
    for page in evictions {
        for evicted in page.map_err(|error| error.to_string())? {
            ensure!(
                seen.insert(evicted.id),
                "object {} was handed out and removed",
                evicted.id
            );
        }
    }
    Ok(())
}

pub(super) async fn the_too_old_go_to_the_error_collection(queue: &dyn RetryQueue) -> Outcome {
    let created = |number, seconds, state| StoredObject {
        created_at: at(seconds),
        attempts: 4,
        last_attempt_at: Some(at(80)),
        not_before: Some(at(85)),
        last_error: Some("refused".to_owned()),
        ..in_state(number, state)
    };
    let objects = [
        created(1, 50, ObjectState::Failed),
        created(2, 10, ObjectState::Failed),
        created(3, 30, ObjectState::Failed),
        created(4, 5, ObjectState::New),
        created(5, 5, ObjectState::Error),
        created(6, 5, ObjectState::Success),
        created(7, 20, ObjectState::Failed),
    ];
    append(queue, &objects).await?;
    // given that one of the old ones is being tried
    let first_old = Claim {
        after_seq: find(queue, id(6)).await?.seq,
        ..claim_due()
    };
    ensure_eq!(ids(&claim(queue, first_old).await?), [id(7)], "it is claimed");
    let too_old = Sweep::TooOld {
        before: at(50),
        at: at(99),
    };
    ensure_eq!(sweep(queue, too_old, 1).await?, 1, "no more than the limit");
    let wanted = StoredObject {
        seq: 0,
        state: ObjectState::Error,
        reason: Some(ErrorReason::TooOld),
        ended_at: Some(at(99)),
        ..objects[1].clone()
    };
    let given_up = find(queue, id(2)).await?;
    ensure_eq!(
        StoredObject { seq: 0, ..given_up },
        wanted,
        "the oldest first, whole and with its reason"
    );
    ensure_eq!(sweep(queue, too_old, 10).await?, 1, "the other one");
    ensure_eq!(sweep(queue, too_old, 10).await?, 0, "and no more");
    ensure_eq!(
        find(queue, id(3)).await?.state,
        ObjectState::Error,
        "which was too old as well"
    );
    let stats = stats(queue).await?;
    ensure_eq!(
        (
            stats.new.objects,
            stats.failed.objects,
            stats.error.objects,
            stats.success.objects
        ),
        (1, 2, 3, 1),
        "what is claimed, journaled or just young enough stays"
    );
    settle(queue, &[verdict(id(7), Action::RELEASE)]).await?;
    ensure_eq!(sweep(queue, too_old, 10).await?, 1, "a released one may go");
    Ok(())
}

pub(super) async fn history_and_dead_letters_are_removed_when_their_time_has_come(
    queue: &dyn RetryQueue,
) -> Outcome {
    let ended = |number, state, created, ended: Option<i64>| StoredObject {
        created_at: at(created),
        ended_at: ended.map(at),
        ..in_state(number, state)
    };
    let (success, error) = (ObjectState::Success, ObjectState::Error);
    append(
        queue,
        &[
            ended(1, success, 0, Some(50)),
            ended(2, error, 0, Some(50)),
            ended(3, success, 0, Some(49)),
            ended(4, error, 0, Some(49)),
            ended(5, success, 10, None),
            ended(6, error, 10, None),
            ended(7, ObjectState::Failed, 0, None),
            ended(8, error, 0, Some(20)),
        ],
    )
    .await?;
    let history = Sweep::History { before: at(50) };
    let letters = Sweep::DeadLetters { before: at(50) };
    ensure_eq!(sweep(queue, history, 1).await?, 1, "no more than the limit");
    ensure_eq!(
        ids(&list(queue, list_all()).await?),
        [1, 2, 3, 4, 6, 7, 8].map(id),
        "first what says nothing but when it was created, which was earliest"
    );
    ensure_eq!(sweep(queue, history, 10).await?, 1, "the other one");
    ensure_eq!(
        sweep(queue, letters, 10).await?,
        3,
        "all dead letters of that time"
    );
    ensure_eq!(
        ids(&list(queue, list_all()).await?),
        [1, 2, 7].map(id),
        "what ended at that moment or waits stays"
    );
    ensure_eq!(
        sweep(queue, history, 10).await? + sweep(queue, letters, 10).await?,
        0,
        "and no more"
    );
    Ok(())
}

pub(super) async fn the_first_dead_letters_leave_when_there_are_too_many(queue: &dyn RetryQueue) -> Outcome {
    let letter = |number, seconds| StoredObject {
        ended_at: Some(at(seconds)),
        ..in_state(number, ObjectState::Error)
    };
    append(
        queue,
        &[
            letter(1, 50),
            letter(2, 10),
            letter(3, 30),
            object(4),
            letter(5, 20),
            letter(6, 40),
        ],
    )
    .await?;
    let over = |max| Sweep::DeadLettersOver { max };
    ensure_eq!(sweep(queue, over(5), 10).await?, 0, "as many as there may be");
    ensure_eq!(sweep(queue, over(2), 2).await?, 2, "no more than the limit");
    ensure_eq!(
        ids(&list(queue, list_all()).await?),
        [1, 3, 4, 6].map(id),
        "the first ones given up leave first"
    );
    ensure_eq!(
        sweep(queue, over(2), 2).await?,
        1,
        "down to as many as there may be"
    );
    ensure_eq!(sweep(queue, over(0), 10).await?, 2, "or none");
    ensure_eq!(ids(&list(queue, list_all()).await?), [id(4)], "but nothing else");
    Ok(())
}

pub(super) async fn a_receipt_is_found_until_it_is_removed(queue: &dyn RetryQueue) -> Outcome {
    // given a page of an import with its receipt, and somebody else's history
    let page = [1, 2].map(id);
    let receipt = edgex::receipt(&service_key(), &page, at(50));
    append(
        queue,
        &[
            object(1),
            object(2),
            in_state(3, ObjectState::Success),
            receipt.clone(),
        ],
    )
    .await?;
    // when all that is over is swept, whatever its age, and what waits is delivered
    let history = Sweep::History {
        before: Timestamp::from_unix_millis(i64::MAX),
    };
    ensure_eq!(sweep(queue, history, 10).await?, 1, "the history");
    let letters = Sweep::DeadLettersOver { max: 0 };
    ensure_eq!(sweep(queue, letters, 10).await?, 0, "it is no dead letter");
    let claimed = claim(queue, claim_due()).await?;
    ensure_eq!(ids(&claimed), page, "it does not wait");
    settle(queue, &page.map(|id| verdict(id, Action::Remove))).await?;
    // then it is there, and says what it did
    let found = list(queue, edgex::list_receipts(0, 10)).await?;
    ensure_eq!(ids(&found), [receipt.id], "the receipt alone");
    ensure_eq!(edgex::receipted(&found[0]), page, "what it is for");
    settle(queue, &[verdict(receipt.id, Action::Remove)]).await?;
    ensure_eq!(ids(&list(queue, list_all()).await?), [], "nothing is left");
    Ok(())
}
