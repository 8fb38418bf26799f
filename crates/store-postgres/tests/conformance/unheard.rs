//! Verdicts that were written although nobody has heard of it, and are asked for again.

use edgehold_core::{
    ObjectState, StoredObject, Timestamp,
    retry::{Action, Failure, Verdict},
};
use edgehold_store::{
    RetryQueue, Room, Suspects,
    conformance::{id, object},
};
use edgehold_test_support::wait::{self, LONG};

use super::{instances::claim, *};

fn release() -> [Verdict; 1] {
    [Verdict {
        id: id(1),
        action: Action::RELEASE,
    }]
}

fn failed(attempts: u32) -> [Verdict; 1] {
    [Verdict {
        id: id(1),
        action: Action::RetryLater(Failure {
            attempts,
            at: Timestamp::from_unix_millis(i64::from(attempts)),
            error: format!("failure {attempts}"),
            not_before: None,
            destination: None,
            progress: None,
        }),
    }]
}

/// Has verdicts for the only object written that nobody waits for any more: they are when it waits in nobody's hands.
async fn settle_unheard(database: &Database, queue: &PostgresQueue, verdicts: &[Verdict]) {
    let mut settling = queue.settle(verdicts);
    assert!(futures_util::poll!(&mut settling).is_pending());
    drop(settling);
    wait::until("the verdict to be written", LONG, async || {
        let waits = database.sql("SELECT state, (SELECT count(*) FROM lease) FROM object");
        anyhow::ensure!(waits == "2|0", "it is {waits}");
        Ok(())
    })
    .await;
}

async fn claimed(queue: &PostgresQueue) -> usize {
    queue.claim(claim(Suspects::Exclude, 10)).await.unwrap().len()
}

/// Brings the first object into hand: claimed, or with its run just begun.
async fn take(queue: &PostgresQueue, state: ObjectState) {
    queue
        .append(&[StoredObject { state, ..object(1) }], Room::default())
        .await
        .remove(0)
        .unwrap();
    assert_eq!(claimed(queue).await, usize::from(state == ObjectState::Failed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_asked_for_again_ends_no_claim_made_meanwhile() {
    for state in [ObjectState::Failed, ObjectState::New] {
        let database = Database::new().await;
        let queue = open(database.options()).await;
        take(&queue, state).await;
        // Given a verdict that was written, and claims while it is asked for again.
        settle_unheard(&database, &queue, &release()).await;
        let before = claimed(&queue).await;
        queue.settle(&release()).await.unwrap();
        let after = claimed(&queue).await;
        // Then one has it in hand, and the others do not.
        assert_eq!(
            before + after + claimed(&queue).await,
            1,
            "{state:?}: {before}, {after}"
        );
        queue.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_asked_for_again_changes_nothing_of_what_another_instance_has_done_since() {
    for state in [ObjectState::Failed, ObjectState::New] {
        let database = Database::new().await;
        let queue = open(database.options()).await;
        let other = open(database.options()).await;
        take(&queue, state).await;
        settle_unheard(&database, &queue, &failed(2)).await;
        // Given another instance that has attempted it as well.
        assert_eq!(claimed(&other).await, 1);
        other.settle(&failed(3)).await.unwrap();
        // When the first one asks again, then nothing is taken back.
        queue.settle(&failed(2)).await.unwrap();
        assert_eq!(
            database.sql("SELECT attempts, last_error FROM object"),
            "3|failure 3",
            "{state:?}"
        );
        // And the first one may have it again.
        assert_eq!(claimed(&queue).await, 1, "{state:?}");
        queue.close().await;
        other.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_over_is_in_hand_until_its_verdict() {
    let database = Database::new().await;
    let queue = open(database.options()).await;
    take(&queue, ObjectState::Failed).await;
    // Given an instance that was taken over by one that has given the object back since.
    database.sql("UPDATE instance SET heartbeat_at = '-infinity'");
    let other = open(database.options()).await;
    assert_eq!(other.claim(claim(Suspects::Only, 10)).await.unwrap().len(), 1);
    other.settle(&failed(3)).await.unwrap();
    // When the first one claims while it still attempts it, then it is not handed out a second time.
    assert_eq!(claimed(&queue).await, 0);
    // And its own verdict is too late to change anything.
    queue.settle(&failed(2)).await.unwrap();
    assert_eq!(database.sql("SELECT attempts FROM object"), "3");
    assert_eq!(claimed(&queue).await, 1);
    queue.close().await;
    other.close().await;
}
