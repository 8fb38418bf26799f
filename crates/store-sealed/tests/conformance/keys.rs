//! What happens to objects when keys change, go and come back, when sealing is switched on and off, and when a record is
//! damaged.

use std::time::Duration;

use edgehold_core::{ErrorReason, ObjectState, StoredObject, Timestamp};
use edgehold_store::{
    Claim, ErrorPage, Lane, ListRequest, ObjectFilter, Room, Selection, StoreError, Suspects,
};

use super::*;

/// A store below, which outlives what seals it.
struct Bench {
    below: Arc<MemoryQueue>,
    keys: Keys,
}

impl Bench {
    fn new() -> Self {
        Self {
            below: Arc::new(MemoryQueue::new(conformance::service_key())),
            keys: Keys::new(&[("k1", K1)]),
        }
    }

    fn sealed(&self, encryption: bool) -> SealedQueue {
        SealedQueue::new(
            self.below.clone(),
            Arc::new(self.keys.clone()),
            sealing(encryption, true),
        )
    }
}

async fn append(queue: &dyn RetryQueue, number: u64) -> StoredObject {
    let object = conformance::object(number);
    let answer = queue
        .append(std::slice::from_ref(&object), Room::default())
        .await
        .remove(0);
    StoredObject {
        seq: answer.unwrap(),
        ..object
    }
}

async fn claim(queue: &dyn RetryQueue) -> Vec<StoredObject> {
    let claim = Claim {
        selection: Selection {
            lane: Lane::Any,
            due: Some(Duration::ZERO),
        },
        suspects: Suspects::Exclude,
        ordered: false,
        after_seq: 0,
        now: Timestamp::from_unix_millis(1_800_000_000_000),
        limit: 100,
        max_bytes: 1 << 20,
    };
    queue.claim(claim).await.unwrap()
}

async fn list(queue: &dyn RetryQueue) -> Vec<StoredObject> {
    let request = ListRequest {
        states: vec![ObjectState::Failed, ObjectState::Error],
        filter: ObjectFilter::default(),
        after_seq: 0,
        limit: 100,
    };
    queue.list(request).await.unwrap().objects
}

#[tokio::test]
async fn nothing_of_an_object_can_be_read_below() {
    let bench = Bench::new();
    let object = append(&bench.sealed(true), 1).await;
    let below = list(&*bench.below).await.remove(0);
    assert_ne!(below.payload, object.payload);
    let shown = format!("{below:?}");
    for (name, value) in &object.context {
        assert!(
            !shown.contains(value.as_str()),
            "{name}: {value} stands in {shown}"
        );
    }
    assert_eq!(list(&bench.sealed(true)).await, [object]);
}

#[tokio::test]
async fn after_a_rotation_old_and_new_objects_leave() {
    let bench = Bench::new();
    let queue = bench.sealed(true);
    let old = append(&queue, 1).await;
    bench.keys.set(&[("k1", K1), ("k2", K2), ("active", "k2")]);
    let new = append(&queue, 2).await;
    assert_eq!(claim(&queue).await, [old, new]);
    // Without the old key the new one is as good as before.
    bench.keys.set(&[("k2", K2)]);
    assert_eq!(
        list(&queue).await[1],
        StoredObject {
            seq: 2,
            ..conformance::object(2)
        }
    );
}

#[tokio::test]
async fn what_was_kept_before_and_after_encryption_leaves_too() {
    let bench = Bench::new();
    let plain = append(&*bench.below, 1).await;
    let encrypted = append(&bench.sealed(true), 2).await;
    let compressed = append(&bench.sealed(false), 3).await;
    assert_eq!(claim(&bench.sealed(true)).await, [plain, encrypted, compressed]);
}

#[tokio::test]
async fn what_was_encrypted_leaves_after_encryption_was_switched_off_if_its_key_is_there() {
    let bench = Bench::new();
    let encrypted = append(&bench.sealed(true), 1).await;
    let off = SealedQueue::new(
        bench.below.clone(),
        Arc::new(bench.keys.clone()),
        sealing(false, false),
    );
    // What is new is kept as it is, and nothing sealed is ever handed out.
    let plain = append(&off, 2).await;
    assert_eq!(list(&*bench.below).await[1], plain);
    assert_eq!(claim(&off).await, std::slice::from_ref(&plain));
    // By now the keys have been asked for.
    assert_eq!(claim(&off).await, [encrypted]);
}

#[tokio::test]
async fn an_object_whose_key_is_gone_is_set_aside_whole_and_comes_back_with_its_key() {
    // Given an object under a key that is gone, and one under the key that is there
    let bench = Bench::new();
    let queue = bench.sealed(true);
    let lost = append(&queue, 1).await;
    bench.keys.set(&[("k2", K2)]);
    let good = append(&queue, 2).await;
    // When they are claimed, then only the good one comes, and the other is in the error collection
    assert_eq!(claim(&queue).await, [good]);
    assert_eq!(claim(&queue).await, []);
    let aside = list(&queue).await.remove(0);
    assert_eq!(
        (aside.state, aside.reason),
        (ObjectState::Error, Some(ErrorReason::Corrupt))
    );
    let said = aside.last_error.unwrap();
    assert!(
        said.contains("the key 'k1', which is not among those of the secret"),
        "{said}"
    );
    // When the key is back, a re-drive brings it back as it was
    bench.keys.set(&[("k1", K1), ("k2", K2), ("active", "k2")]);
    let page = ErrorPage {
        filter: ObjectFilter {
            reasons: vec![ErrorReason::Corrupt],
            ..ObjectFilter::default()
        },
        after_seq: 0,
        limit: 10,
    };
    queue.redrive(page).await.unwrap();
    let back = claim(&queue).await.remove(0);
    assert_eq!(
        (back.id, back.payload, back.context),
        (lost.id, lost.payload, lost.context)
    );
}

#[tokio::test]
async fn a_damaged_record_is_set_aside_and_fails_no_page() {
    let bench = Bench::new();
    let queue = bench.sealed(true);
    let good = append(&queue, 1).await;
    // Given a record that has another one's payload
    let mut swapped = list(&*bench.below).await.remove(0);
    swapped.id = conformance::object(2).id;
    append_as_it_is(&*bench.below, swapped).await;
    assert_eq!(claim(&queue).await, [good]);
    assert_eq!(claim(&queue).await, []);
    let aside = list(&queue).await.remove(1);
    assert_eq!(aside.reason, Some(ErrorReason::Corrupt));
    assert_eq!(aside.last_error.as_deref(), Some("it fails its integrity check"));
}

async fn append_as_it_is(queue: &dyn RetryQueue, object: StoredObject) {
    queue.append(&[object], Room::default()).await.remove(0).unwrap();
}

#[tokio::test]
async fn without_a_usable_key_nothing_is_kept_in_clear_and_nothing_is_refused_for_good() {
    let bench = Bench::new();
    bench.keys.set(&[("k1", "no key")]);
    let queue = bench.sealed(true);
    let error = sealing(true, true).check(&bench.keys).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(
        error.to_string().contains("'k1' is not 64 hexadecimal digits"),
        "{error}"
    );
    let answer = queue
        .append(&[conformance::object(1)], Room::default())
        .await
        .remove(0);
    assert!(
        matches!(answer, Err(StoreError::Unavailable { .. })),
        "{answer:?}"
    );
    assert!(list(&*bench.below).await.is_empty());
    bench.keys.set(&[("k1", K1)]);
    append(&queue, 1).await;
}
