//! What is there after a restart. Each case opens the same store twice.

use edgehold_core::ErrorReason;

use super::*;

async fn restart(store: &TestStore, queue: Arc<dyn RetryQueue>) -> Arc<dyn RetryQueue> {
    queue.close().await;
    drop(queue);
    store.open().await
}

pub(super) async fn everything_is_there_after_a_restart(store: &TestStore) -> Outcome {
    let queue = store.open().await;
    let mut objects = append::unusual_objects();
    objects.retain(|object| object.state != ObjectState::New);
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
        claim(&*queue, claim_due()).await?,
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
    let claimed = claim(
        &*queue,
        Claim {
            now: at(50),
            ..claim_due()
        },
    )
    .await?;
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
