//! Objects that wait in a batch.

use bytes::Bytes;
use edgehold_core::retry::Progress;

use super::*;
use crate::{Eviction, Sweep};

fn batched(number: u64) -> StoredObject {
    StoredObject {
        state: ObjectState::Batched,
        attempts: 0,
        ..object(number)
    }
}

fn progress() -> Progress {
    Progress {
        version: PipelineVersion::from_stored("the version that ran"),
        position: 3,
        kind: DataKind::Event,
        payload: Bytes::from_static(b"the item"),
        context: BTreeMap::from([("devicename".to_owned(), "pump-1".to_owned())]),
    }
}

pub(super) async fn a_verdict_puts_any_waiting_object_into_a_batch(queue: &dyn RetryQueue) -> Outcome {
    // given a journaled object, one that has failed before, and one that was given up
    let journaled = StoredObject {
        state: ObjectState::New,
        attempts: 0,
        position: 0,
        ..object(1)
    };
    let failed = StoredObject {
        attempts: 3,
        last_attempt_at: Some(at(10)),
        not_before: Some(at(20)),
        destination: Some(Destination::new("http://before")),
        ..object(2)
    };
    let given_up = StoredObject {
        state: ObjectState::Error,
        ..object(3)
    };
    let objects = [journaled, failed, given_up];
    let mut wanted = objects.to_vec();
    let seqs = append(queue, &objects).await?;
    claim(queue, claim_due()).await?;
    // when each is put into a batch
    let verdicts = [1, 2, 3].map(|number| verdict(id(number), Action::Batch(progress())));
    settle(queue, &verdicts).await?;
    // then those that wait are there, with what they are to be batched as
    for ((object, seq), verdict) in wanted.iter_mut().zip(seqs).zip(&verdicts) {
        object.seq = seq;
        crate::semantics::apply(object, &verdict.action);
    }
    ensure_eq!(list(queue, list_all()).await?, wanted, "after the verdicts");
    let stats = stats(queue).await?;
    ensure_eq!(
        (
            stats.batched.objects,
            stats.batched.payload_bytes,
            stats.waiting()
        ),
        (2, 16, 2),
        "they are counted so, and wait"
    );
    Ok(())
}

pub(super) async fn what_is_batched_is_left_alone(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &[batched(1), batched(2)]).await?;
    ensure_eq!(ids(&claim(queue, claim_due()).await?), [], "not handed out");
    let any = Claim {
        selection: Selection {
            lane: Lane::Any,
            due: None,
        },
        ..claim_due()
    };
    ensure_eq!(ids(&claim(queue, any).await?), [], "due or not");
    ensure_eq!(lanes(queue, REST, at(100)).await?, [], "in no lane");
    let everything = Eviction {
        objects: 9,
        bytes: 9_999,
    };
    let evicted = queue.evict(everything).await.map_err(|error| error.to_string())?;
    ensure!(evicted.is_empty(), "not evicted: {evicted:?}");
    let sweep = Sweep::TooOld {
        before: at(100_000),
        at: at(100_000),
    };
    let swept = queue.sweep(sweep, 9).await.map_err(|error| error.to_string())?;
    ensure_eq!(swept, 0, "not too old");
    ensure_eq!(stats(queue).await?.batched.objects, 2, "they are there");
    // and it goes on with its batch
    settle(
        queue,
        &[
            verdict(id(1), Action::RetryLater(failure(1, at(5)))),
            verdict(id(2), Action::Remove),
        ],
    )
    .await?;
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(1)],
        "after its verdict"
    );
    ensure_eq!(stats(queue).await?.waiting(), 1, "the other is gone");
    Ok(())
}

pub(super) async fn what_is_batched_holds_nobody_back(queue: &dyn RetryQueue) -> Outcome {
    // given an object in a batch, and one of the same device behind it
    append(queue, &[batched(1)]).await?;
    let pipeline_id = PipelineId::default_pipeline();
    let waits = queue.is_waiting(&pipeline_id, "pump-1").await;
    ensure_eq!(
        waits.map_err(|error| error.to_string())?,
        false,
        "nobody has to wait behind it"
    );
    append(queue, &[object(2)]).await?;
    let in_order = || Claim {
        ordered: true,
        ..claim_due()
    };
    ensure_eq!(ids(&claim(queue, in_order()).await?), [id(2)], "the next one");
    // and when that joins it, the one after it
    settle(queue, &[verdict(id(2), Action::Batch(progress()))]).await?;
    append(queue, &[object(3)]).await?;
    ensure_eq!(ids(&claim(queue, in_order()).await?), [id(3)], "the one after it");
    Ok(())
}

pub(super) async fn what_is_batched_needs_room(queue: &dyn RetryQueue) -> Outcome {
    let room = Room {
        max_items: std::num::NonZeroU64::new(1),
        max_bytes: None,
    };
    append(queue, &[batched(1)]).await?;
    let answers = queue.append(&[batched(2)], room).await;
    ensure!(
        matches!(answers[..], [Err(StoreError::Full { .. })]),
        "there is one already: {answers:?}"
    );
    Ok(())
}
