//! What is there after a restart. Each case opens the same store twice.

use edgehold_core::ErrorReason;

use super::*;

async fn restart(store: &TestStore, queue: Arc<dyn RetryQueue>) -> Arc<dyn RetryQueue> {
    queue.close().await;
    drop(queue);
    store.open().await
}

/// What is due, suspects and others.
async fn claim_all(queue: &dyn RetryQueue, now: Timestamp) -> Result<Vec<StoredObject>, String> {
    let mut claimed = Vec::new();
    for suspects in [Suspects::Only, Suspects::Exclude] {
        let page = Claim {
            suspects,
            now,
            ..claim_due()
        };
        claimed.extend(claim(queue, page).await?);
    }
    claimed.sort_by_key(|object| object.seq);
    Ok(claimed)
}

fn without_crashes(mut objects: Vec<StoredObject>) -> Vec<StoredObject> {
    objects.iter_mut().for_each(|object| object.crashes = 0);
    objects
}

/// The crashes of each object that waits, in order.
async fn crashes(queue: &dyn RetryQueue) -> Result<Vec<u32>, String> {
    let waiting = ListRequest {
        states: vec![ObjectState::Failed],
        ..list_all()
    };
    let waiting = list(queue, waiting).await?;
    Ok(waiting.iter().map(|object| object.crashes).collect())
}

pub(super) async fn everything_is_there_after_a_restart(store: &TestStore) -> Outcome {
    let queue = store.open().await;
    let mut objects = append::unusual_objects();
    objects.retain(|object| !matches!(object.state, ObjectState::New | ObjectState::Batched));
    append(&*queue, &objects).await?;
    let moved = objects
        .iter()
        .find(|object| object.state == ObjectState::Failed)
        .map(|object| object.id);
    let moved = moved.ok_or("the suite has a failed object")?;
    settle(
        &*queue,
        &[verdict(
            moved,
            Action::GiveUp {
                reason: ErrorReason::Crashed,
                at: at(9),
                failure: None,
            },
        )],
    )
    .await?;
    let before = (list(&*queue, list_all()).await?, stats(&*queue).await?);
    let queue = restart(store, queue).await;
    let after = (list(&*queue, list_all()).await?, stats(&*queue).await?);
    ensure_eq!(after, before, "everything is as it was");
    queue.close().await;
    Ok(())
}

pub(super) async fn a_restart_ends_claims(store: &TestStore) -> Outcome {
    let queue = store.open().await;
    append(&*queue, &objects(1..=3)).await?;
    let claimed = claim(&*queue, claim_due()).await?;
    let queue = restart(store, queue).await;
    ensure_eq!(
        without_crashes(claim_all(&*queue, at(100_000)).await?),
        claimed,
        "the same objects are handed out again"
    );
    queue.close().await;
    Ok(())
}

pub(super) async fn a_journaled_object_is_due_after_a_restart(store: &TestStore) -> Outcome {
    let queue = store.open().await;
    let journaled = StoredObject {
        state: ObjectState::New,
        attempts: 0,
        last_attempt_at: Some(at(50)),
        ..object(1)
    };
    let seqs = append(&*queue, &[journaled.clone(), object(2)]).await?;
    let queue = restart(store, queue).await;
    let claimed = without_crashes(claim_all(&*queue, at(50)).await?);
    let failed = StoredObject {
        seq: seqs[0],
        state: ObjectState::Failed,
        last_attempt_at: None,
        ..journaled
    };
    ensure_eq!(
        claimed.first(),
        Some(&failed),
        "it waits for an attempt, due at once"
    );
    let stats = stats(&*queue).await?;
    ensure_eq!(
        (stats.new.objects, stats.failed.objects),
        (0, 2),
        "and is counted so"
    );
    queue.close().await;
    Ok(())
}

pub(super) async fn new_objects_come_behind_what_was_there(store: &TestStore) -> Outcome {
    let queue = store.open().await;
    let before = append(&*queue, &objects(1..=3)).await?;
    settle(&*queue, &[verdict(id(3), Action::Remove)]).await?;
    let queue = restart(store, queue).await;
    let after = append(&*queue, &objects([4])).await?;
    ensure!(
        after[0] > before[1],
        "it goes on behind what is there: {before:?} {after:?}"
    );
    ensure_eq!(
        ids(&claim(&*queue, claim_due()).await?),
        [id(1), id(2), id(4)],
        "in the order of appending"
    );
    queue.close().await;
    Ok(())
}

pub(super) async fn a_journaled_object_is_a_suspect_after_a_restart(store: &TestStore) -> Outcome {
    // given a process that ends while it tries a journaled object for the first time
    let queue = store.open().await;
    let journaled = StoredObject {
        state: ObjectState::New,
        ..object(1)
    };
    append(&*queue, &[journaled, object(2)]).await?;
    let queue = restart(store, queue).await;
    // then the next one hands it out alone
    ensure_eq!(crashes(&*queue).await?, [1, 0], "one crash has seen it");
    ensure_eq!(
        ids(&claim(&*queue, claim_due()).await?),
        [id(2)],
        "the others are handed out without it"
    );
    let suspects = || Claim {
        suspects: Suspects::Only,
        ..claim_due()
    };
    let claimed = claim(&*queue, suspects()).await?;
    ensure_eq!(
        (
            ids(&claimed),
            claimed.iter().map(|object| object.crashes).collect()
        ),
        (vec![id(1)], vec![1]),
        "it is handed out as a suspect"
    );
    ensure_eq!(ids(&claim(&*queue, suspects()).await?), [], "once");
    // and a verdict clears it
    settle(
        &*queue,
        &[verdict(id(1), Action::RELEASE), verdict(id(2), Action::RELEASE)],
    )
    .await?;
    ensure_eq!(crashes(&*queue).await?, [0, 0], "it is as good as any other");
    ensure_eq!(
        ids(&claim(&*queue, claim_due()).await?),
        [id(1), id(2)],
        "and handed out like any other"
    );
    settle(
        &*queue,
        &[verdict(id(1), Action::RELEASE), verdict(id(2), Action::RELEASE)],
    )
    .await?;
    let queue = restart(store, queue).await;
    ensure_eq!(crashes(&*queue).await?, [0, 0], "also for the process after");
    queue.close().await;
    Ok(())
}

pub(super) async fn what_was_batched_waits_after_a_restart_and_is_no_suspect(store: &TestStore) -> Outcome {
    // given objects in a batch: one appended to it, one put there by a verdict
    let queue = store.open().await;
    let batched = StoredObject {
        state: ObjectState::Batched,
        ..object(1)
    };
    append(&*queue, &[batched, object(2)]).await?;
    claim(&*queue, claim_due()).await?;
    let progress = edgehold_core::retry::Progress {
        version: PipelineVersion::from_stored("v"),
        position: 2,
        kind: DataKind::Text,
        payload: Bytes::from_static(b"the item"),
        context: object(2).context,
    };
    settle(&*queue, &[verdict(id(2), Action::Batch(progress))]).await?;
    // when the process ends
    let queue = restart(store, queue).await;
    // then the next one hands them out like any other
    ensure_eq!(crashes(&*queue).await?, [0, 0], "they were in nobody's hands");
    let claimed = claim(&*queue, claim_due()).await?;
    ensure_eq!(ids(&claimed), [id(1), id(2)], "they are handed out");
    ensure_eq!(
        (claimed[1].position, &claimed[1].payload[..]),
        (2, &b"the item"[..]),
        "as what they were batched as"
    );
    queue.close().await;
    Ok(())
}

pub(super) async fn three_crashes_in_a_row_end_in_the_error_collection(store: &TestStore) -> Outcome {
    // given one object that is in flight whenever the process ends, and one that is not
    let mut queue = store.open().await;
    append(&*queue, &objects([1, 2])).await?;
    for seen in 0..3 {
        ensure_eq!(crashes(&*queue).await?, [seen, 0], "before attempt {seen}");
        let claimed = claim_all(&*queue, at(100_000)).await?;
        ensure_eq!(ids(&claimed), [id(1), id(2)], "both are tried");
        settle(&*queue, &[verdict(id(2), Action::RELEASE)]).await?;
        queue = restart(store, queue).await;
    }
    let given_up = find(&*queue, id(1)).await?;
    ensure_eq!(
        (given_up.state, given_up.reason, given_up.crashes),
        (ObjectState::Error, Some(ErrorReason::Crashed), 0),
        "it is set aside"
    );
    ensure!(given_up.ended_at.is_some(), "with the time");
    ensure_eq!(given_up.payload, object(1).payload, "and its payload");
    let stats = stats(&*queue).await?;
    ensure_eq!((stats.failed.objects, stats.error.objects), (1, 1), "and counted");
    ensure_eq!(
        ids(&claim_all(&*queue, at(100_000)).await?),
        [id(2)],
        "and not handed out again"
    );
    queue.close().await;
    Ok(())
}

pub(super) async fn only_crashes_in_a_row_count(store: &TestStore) -> Outcome {
    // given an object that was in flight at two crashes and not at the next start
    let mut queue = store.open().await;
    append(&*queue, &objects([1, 2])).await?;
    for _ in 0..2 {
        claim_all(&*queue, at(100_000)).await?;
        queue = restart(store, queue).await;
    }
    ensure_eq!(crashes(&*queue).await?, [2, 2], "two crashes");
    let queue = restart(store, queue).await;
    // then it begins anew
    ensure_eq!(
        crashes(&*queue).await?,
        [0, 0],
        "nobody touched it before this start"
    );
    ensure_eq!(
        ids(&claim(&*queue, claim_due()).await?),
        [id(1), id(2)],
        "it is no suspect"
    );
    let queue = restart(store, queue).await;
    ensure_eq!(crashes(&*queue).await?, [1, 1], "a new row has begun");
    // and every verdict ends it
    let claimed = claim_all(&*queue, at(100_000)).await?;
    let verdicts = [
        Action::RetryLater(failure(2, at(1))),
        Action::GiveUp {
            reason: ErrorReason::PermanentError,
            at: at(1),
            failure: None,
        },
    ];
    let verdicts: Vec<_> = claimed
        .iter()
        .zip(verdicts)
        .map(|(object, action)| verdict(object.id, action))
        .collect();
    settle(&*queue, &verdicts).await?;
    let queue = restart(store, queue).await;
    let all = list(&*queue, list_all()).await?;
    ensure!(
        all.len() == 2 && all.iter().all(|object| object.crashes == 0),
        "after a verdict: {all:?}"
    );
    queue.close().await;
    Ok(())
}
