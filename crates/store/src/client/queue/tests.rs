use std::sync::atomic::{AtomicBool, Ordering};

use edgehold_core::{ErrorReason, ObjectState};

use super::*;
use crate::{
    Lane, MemoryClient, Selection, Suspects,
    conformance::{object, service_key},
};

/// A client whose writes take effect and then fail, as when the answer is lost.
#[derive(Default)]
struct LostAnswers {
    inner: MemoryClient,
    lost: AtomicBool,
    /// Writes never answer at all.
    hang: AtomicBool,
}

impl LostAnswers {
    async fn answer<T>(&self, answer: T, lost: impl FnOnce(StoreError) -> T) -> T {
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.lost.load(Ordering::SeqCst) {
            return lost(StoreError::Unavailable {
                reason: "the answer was lost".to_owned(),
                source: None,
            });
        }
        answer
    }
}

impl StoreClient for LostAnswers {
    fn store<'a>(
        &'a self,
        objects: &'a [StoredObject],
    ) -> BoxFuture<'a, Vec<Result<StoredObjectId, StoreError>>> {
        Box::pin(async move {
            let answer = self.inner.store(objects).await;
            self.answer(answer, |error| error.for_each(objects.len())).await
        })
    }

    fn retrieve_from_store<'a>(
        &'a self,
        service_key: &'a ServiceKey,
        after: Option<StoredObjectId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredObject>, StoreError>> {
        self.inner.retrieve_from_store(service_key, after, limit)
    }

    fn update<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let answer = self.inner.update(objects).await;
            self.answer(answer, Err).await
        })
    }

    fn remove_from_store<'a>(&'a self, ids: &'a [StoredObjectId]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let answer = self.inner.remove_from_store(ids).await;
            self.answer(answer, Err).await
        })
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        self.inner.disconnect()
    }
}

async fn queue() -> (Arc<LostAnswers>, StoreClientQueue) {
    let client = Arc::new(LostAnswers::default());
    let queue = StoreClientQueue::open(client.clone(), service_key())
        .await
        .unwrap();
    (client, queue)
}

fn give_up(id: StoredObjectId) -> Verdict {
    Verdict {
        id,
        action: Action::GiveUp {
            reason: ErrorReason::TooOld,
            at: Timestamp::from_unix_millis(9),
            failure: None,
        },
    }
}

fn verdict(number: u64, action: Action) -> Verdict {
    Verdict {
        id: object(number).id,
        action,
    }
}

fn claim_all() -> Claim {
    let now = Timestamp::from_unix_millis(i64::MAX);
    Claim {
        selection: Selection {
            lane: Lane::Any,
            due: Some(Duration::ZERO),
        },
        suspects: Suspects::Exclude,
        ordered: false,
        after_seq: 0,
        now,
        limit: 10,
        max_bytes: 1000,
    }
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_is_found_again() {
    // given an append that the store has done and the client reported as failed
    let (client, queue) = queue().await;
    client.lost.store(true, Ordering::SeqCst);
    assert!(queue.append(&[object(1)], Room::default()).await[0].is_err());
    client.lost.store(false, Ordering::SeqCst);
    // then the object waits, and appending it again is no error
    assert_eq!(queue.stats().await.unwrap().failed.objects, 1);
    assert!(queue.append(&[object(1)], Room::default()).await[0].is_ok());
    assert_eq!(queue.claim(claim_all()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_append_that_was_cancelled_may_be_repeated() {
    // given an append that was dropped while the store worked on it
    let (client, queue) = queue().await;
    client.hang.store(true, Ordering::SeqCst);
    let objects = [object(1)];
    let mut append = queue.append(&objects, Room::default());
    assert!(futures_util::poll!(&mut append).is_pending());
    drop(append);
    client.hang.store(false, Ordering::SeqCst);
    // then
    assert!(queue.append(&objects, Room::default()).await[0].is_ok());
    assert_eq!(queue.stats().await.unwrap().failed.objects, 1);
}

#[tokio::test]
async fn a_verdict_whose_answer_was_lost_keeps_the_claim_and_may_be_repeated() {
    // given a claimed object whose verdict took effect and was reported as failed
    let (client, queue) = queue().await;
    queue
        .append(&[object(1)], Room::default())
        .await
        .pop()
        .unwrap()
        .unwrap();
    let claimed = queue.claim(claim_all()).await.unwrap();
    client.lost.store(true, Ordering::SeqCst);
    assert!(queue.settle(&[give_up(claimed[0].id)]).await.is_err());
    client.lost.store(false, Ordering::SeqCst);
    // then the counts are those of the store, the object is not handed out again, and repeating is no error
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.failed.objects, stats.error.objects), (0, 1));
    assert!(queue.claim(claim_all()).await.unwrap().is_empty());
    queue.settle(&[give_up(claimed[0].id)]).await.unwrap();
    assert_eq!(queue.stats().await.unwrap().error.objects, 1);
}

#[tokio::test]
async fn a_verdict_whose_answer_was_lost_gives_nothing_to_anybody_else_until_it_is_repeated() {
    // given an object whose run has not ended, and a verdict that took effect and was reported as failed
    let (client, queue) = queue().await;
    let begun = StoredObject {
        state: ObjectState::New,
        ..object(1)
    };
    queue.append(&[begun], Room::default()).await.remove(0).unwrap();
    let release = [verdict(1, Action::RELEASE)];
    client.lost.store(true, Ordering::SeqCst);
    assert!(queue.settle(&release).await.is_err());
    client.lost.store(false, Ordering::SeqCst);
    // when it is repeated while others claim
    let before = queue.claim(claim_all()).await.unwrap();
    queue.settle(&release).await.unwrap();
    let after = queue.claim(claim_all()).await.unwrap();
    // then one of them has it
    assert_eq!((before.len(), after.len()), (0, 1));
    assert!(queue.claim(claim_all()).await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_removed_before_what_goes_on_in_its_place_is_written() {
    // given the objects of a batch, which goes on in the first one
    let (client, queue) = queue().await;
    for answer in queue.append(&[object(1), object(2)], Room::default()).await {
        answer.unwrap();
    }
    let end = [give_up(object(1).id), verdict(2, Action::Remove)];
    // when its end is broken off between two writes
    client.hang.store(true, Ordering::SeqCst);
    let mut settle = queue.settle(&end);
    assert!(futures_util::poll!(&mut settle).is_pending());
    drop(settle);
    client.hang.store(false, Ordering::SeqCst);
    // then the first one has changed, or the second one is there
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.failed.objects, stats.error.objects), (1, 1));
    queue.settle(&end).await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.failed.objects, stats.error.objects), (0, 1));
}

#[tokio::test]
async fn an_object_somebody_else_removed_does_not_stop_a_page() {
    let (client, queue) = queue().await;
    for answer in queue
        .append(&[object(1), object(2), object(3)], Room::default())
        .await
    {
        answer.unwrap();
    }
    client.inner.remove_from_store(&[object(2).id]).await.unwrap();
    let ids: Vec<_> = queue
        .claim(claim_all())
        .await
        .unwrap()
        .iter()
        .map(|object| object.id)
        .collect();
    assert_eq!(ids, [object(1).id, object(3).id]);
    assert_eq!(queue.stats().await.unwrap().failed.objects, 2);
}
