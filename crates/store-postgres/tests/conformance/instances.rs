//! Several instances on the same tables.

use std::{collections::HashSet, time::Duration};

use edgehold_core::{
    ErrorReason, ObjectState, StoredObject, StoredObjectId, Timestamp,
    retry::{Action, Verdict},
};
use edgehold_store::{
    Claim, ErrorPage, Lane, ListRequest, ObjectFilter, RetryQueue, Room, Selection, Suspects,
    conformance::{id, object},
};
use edgehold_test_support::wait::{self, LONG};
use futures_util::future::join_all;
use sqlx::Connection as _;

use super::*;

pub(super) fn claim(suspects: Suspects, limit: usize) -> Claim {
    Claim {
        selection: Selection {
            lane: Lane::Any,
            due: Some(Duration::ZERO),
        },
        suspects,
        ordered: false,
        after_seq: 0,
        now: Timestamp::from_unix_millis(1_800_000_000_000),
        limit,
        max_bytes: 64 << 20,
    }
}

fn ids(objects: &[StoredObject]) -> Vec<StoredObjectId> {
    objects.iter().map(|object| object.id).collect()
}

fn verdict(id: StoredObjectId, action: Action) -> Verdict {
    Verdict { id, action }
}

async fn append(queue: &PostgresQueue, numbers: impl IntoIterator<Item = u64>) {
    let objects: Vec<_> = numbers.into_iter().map(object).collect();
    for answer in queue.append(&objects, Room::default()).await {
        answer.unwrap();
    }
}

async fn find(queue: &PostgresQueue, id: StoredObjectId) -> Option<StoredObject> {
    let request = ListRequest {
        states: vec![
            ObjectState::New,
            ObjectState::Failed,
            ObjectState::Batched,
            ObjectState::Success,
            ObjectState::Error,
        ],
        filter: ObjectFilter::ids([id]),
        after_seq: 0,
        limit: 1,
    };
    queue.list(request).await.unwrap().objects.pop()
}

/// What can be claimed, once there is something.
async fn wait_claimed(queue: &PostgresQueue, suspects: Suspects) -> Vec<StoredObject> {
    wait::until("something to be handed out", LONG, async || {
        let page = queue.claim(claim(suspects, 100)).await?;
        anyhow::ensure!(!page.is_empty(), "nothing is");
        Ok(page)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_object_is_handed_out_by_one_of_them() {
    const OBJECTS: u64 = 600;
    let database = Database::new().await;
    let queues = join_all((0..3).map(|_| open(database.options()))).await;
    append(&queues[0], 1..=OBJECTS).await;
    // When all of them claim, settle and append at the same time.
    let pass = async |queue: &PostgresQueue| {
        let mut seen = Vec::new();
        loop {
            let page = queue.claim(claim(Suspects::Exclude, 7)).await.unwrap();
            if page.is_empty() {
                return seen;
            }
            let removals: Vec<_> = page
                .iter()
                .map(|object| verdict(object.id, Action::Remove))
                .collect();
            queue.settle(&removals).await.unwrap();
            seen.extend(ids(&page));
        }
    };
    let seen = join_all(queues.iter().chain(&queues).map(pass)).await;
    // Then each object was handed out once.
    let mut all = HashSet::new();
    for id in seen.iter().flatten() {
        assert!(all.insert(*id), "{id} was handed out twice");
    }
    assert_eq!(all.len(), usize::try_from(OBJECTS).unwrap());
    assert_eq!(queues[1].stats().await.unwrap().waiting(), 0);
    join_all(queues.iter().map(|queue| queue.close())).await;
}

/// A claim while another instance, which has taken the first object in hand, has not committed that yet.
async fn claim_beside_another(
    queue: &PostgresQueue,
    mut other: sqlx::PgConnection,
    sql: impl Fn(&str) -> String,
) -> Vec<StoredObject> {
    let mut claiming = other.begin().await.unwrap();
    let claimed = "UPDATE claim_count SET claims = claims + 1;
                   INSERT INTO lease SELECT 1000, 1, ARRAY[min(seq)] FROM object";
    sqlx::raw_sql(claimed).execute(&mut *claiming).await.unwrap();
    let claim = queue.claim(claim(Suspects::Exclude, 10));
    let commit = async {
        wait::until("the claim to wait for the other one", LONG, async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            anyhow::ensure!(sql(waiting) == "1", "it does not wait");
            Ok(())
        })
        .await;
        claiming.commit().await.unwrap();
    };
    let (page, ()) = tokio::join!(claim, commit);
    page.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_one_has_claimed_meanwhile_is_not_handed_out() {
    let database = Database::new().await;
    let queue = open(database.options()).await;
    append(&queue, 1..=3).await;
    // When this one claims, and finds the first object in nobody's hands.
    let page = claim_beside_another(&queue, database.connect().await, |sql| database.sql(sql)).await;
    // Then it is handed out what is left.
    assert_eq!(ids(&page), [id(2), id(3)]);
    // And from now on it waits for its turn first.
    queue.settle(&[verdict(id(3), Action::RELEASE)]).await.unwrap();
    let page = queue.claim(claim(Suspects::Exclude, 10)).await.unwrap();
    assert_eq!(ids(&page), [id(3)]);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_claimed_beside_another_one_is_on_the_disk_when_it_is_handed_out() {
    // Nothing is flushed that nobody waits for.
    let server = Postgres::builder().setting("wal_writer_delay", "10s");
    let mut server = server.start().await.unwrap();
    let service_key = conformance::service_key();
    let queue = open(options(&server, "edgex_db", service_key.clone())).await;
    append(&queue, 1..=2).await;
    let connecting = connect_options(&server, "edgex_db");
    let other = PgConnection::connect_with(&connecting).await.unwrap();
    let page = claim_beside_another(&queue, other, |sql| server.psql("edgex_db", sql).unwrap()).await;
    // When the server loses all that is not on the disk.
    server.process().signal("QUIT").unwrap();
    server.restart().await.unwrap();
    let leased = format!("SELECT unnest(seqs) FROM \"{service_key}\".lease WHERE owner <> 1000");
    let leased = server.psql("edgex_db", &leased).unwrap();
    assert_eq!(leased, page[0].seq.to_string());
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_room_for_is_exact_among_instances() {
    let database = Database::new().await;
    let queues = join_all((0..2).map(|_| open(database.options()))).await;
    let room = Room {
        max_items: std::num::NonZeroU64::new(50),
        max_bytes: None,
    };
    let appends = (1..=100_u64).map(|number| {
        let queue = &queues[usize::from(number % 2 == 0)];
        async move { queue.append(&[object(number)], room).await.remove(0).is_ok() }
    });
    let kept = join_all(appends).await.into_iter().filter(|kept| *kept).count();
    assert_eq!(kept, 50);
    assert_eq!(queues[0].stats().await.unwrap().waiting(), 50);
    join_all(queues.iter().map(|queue| queue.close())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_one_had_in_hand_is_taken_over_with_a_mark() {
    let database = Database::new().await;
    let living = open(database.options()).await;
    let (dying, worker) = PostgresQueue::open(database.options()).await.unwrap();
    let worker = spawn(worker);
    // Given an instance that has one object in hand, one journaled and one in a batch.
    append(&living, [1]).await;
    assert_eq!(
        ids(&dying.claim(claim(Suspects::Exclude, 10)).await.unwrap()),
        [id(1)]
    );
    let states = [(2, ObjectState::New), (3, ObjectState::Batched)];
    let begun = states.map(|(number, state)| StoredObject {
        state,
        ..object(number)
    });
    dying.append(&begun, Room::default()).await;
    assert_eq!(
        ids(&living.claim(claim(Suspects::Exclude, 10)).await.unwrap()),
        []
    );
    // When it dies without a word.
    let changes = living.changes();
    worker.abort();
    let died = tokio::time::Instant::now();
    // Then the other one has what was in a batch like any other, and the rest as suspects, within ten seconds.
    let page = wait_claimed(&living, Suspects::Exclude).await;
    assert!(died.elapsed() < Duration::from_secs(10), "{:?}", died.elapsed());
    assert_eq!(ids(&page), [id(3)]);
    let suspects = living.claim(claim(Suspects::Only, 10)).await.unwrap();
    assert_eq!(ids(&suspects), [id(1), id(2)]);
    assert!(suspects.iter().all(|object| object.crashes == 1), "{suspects:?}");
    assert!(
        changes.has_changed().unwrap(),
        "and was told that there is something to do"
    );
    living.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_the_same_file_need_not_wait() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let options = || Options {
        identity_file: Some(folder.path().join("app.instance")),
        ..database.options()
    };
    let (first, worker) = PostgresQueue::open(options()).await.unwrap();
    let worker = spawn(worker);
    append(&first, [1]).await;
    first.claim(claim(Suspects::Exclude, 10)).await.unwrap();
    worker.abort();
    assert!(worker.await.is_err(), "it was killed");
    drop(first);
    let second = open(options()).await;
    let suspects = second.claim(claim(Suspects::Only, 10)).await.unwrap();
    assert_eq!(ids(&suspects), [id(1)]);
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_taken_over_while_it_lived_changes_nothing_of_it_and_goes_on() {
    let database = Database::new().await;
    let frozen = open(database.options()).await;
    append(&frozen, 1..=3).await;
    let page = frozen.claim(claim(Suspects::Exclude, 2)).await.unwrap();
    assert_eq!(ids(&page), [id(1), id(2)]);
    frozen
        .append(
            &[StoredObject {
                state: ObjectState::New,
                ..object(4)
            }],
            Room::default(),
        )
        .await;
    // Given another one that took over everything the first had in hand, as if that had been frozen for long.
    database.sql("UPDATE instance SET heartbeat_at = '-infinity'");
    let other = open(database.options()).await;
    let suspects = other.claim(claim(Suspects::Only, 10)).await.unwrap();
    assert_eq!(ids(&suspects), [id(1), id(2), id(4)]);
    // When the first one comes back with its verdicts.
    let failed = edgehold_core::retry::Failure {
        attempts: 7,
        at: Timestamp::from_unix_millis(5),
        error: "late".to_owned(),
        not_before: None,
        destination: None,
        progress: None,
    };
    let late = [
        verdict(id(1), Action::Remove),
        verdict(id(2), Action::RetryLater(failed)),
        verdict(id(4), Action::RELEASE),
    ];
    frozen.settle(&late).await.unwrap();
    // Then what it delivered is gone, and nothing else has changed hands.
    assert!(find(&other, id(1)).await.is_none(), "it was delivered");
    let second = find(&other, id(2)).await.unwrap();
    assert_eq!((second.attempts, second.crashes), (1, 1));
    let crashed = other.claim(claim(Suspects::Only, 10)).await.unwrap();
    assert_eq!(ids(&crashed), [], "the other one still has them in hand");
    // And it goes on as an instance like any other.
    let kept = frozen
        .append(
            &[StoredObject {
                state: ObjectState::New,
                ..object(5)
            }],
            Room::default(),
        )
        .await;
    assert!(kept[0].is_ok(), "{kept:?}");
    assert_eq!(ids(&wait_claimed(&frozen, Suspects::Exclude).await), [id(3)]);
    frozen.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_brings_every_instance_down_is_set_aside() {
    let database = Database::new().await;
    let mut queue = open(database.options()).await;
    append(&queue, [1]).await;
    for _ in 0..3 {
        let suspects = queue.claim(claim(Suspects::Only, 10)).await.unwrap();
        let others = queue.claim(claim(Suspects::Exclude, 10)).await.unwrap();
        assert_eq!(suspects.len() + others.len(), 1);
        // A peer is there all the time, so the row of crashes is not ended by a start that finds nothing in flight.
        let next = open(database.options()).await;
        queue.close().await;
        wait::until("the crash to be counted", LONG, async || {
            let instances = database.sql("SELECT count(*) FROM instance");
            anyhow::ensure!(instances == "1", "there are {instances} instances");
            Ok(())
        })
        .await;
        queue = next;
    }
    let given_up = find(&queue, id(1)).await.unwrap();
    assert_eq!(
        (given_up.state, given_up.reason),
        (ObjectState::Error, Some(ErrorReason::Crashed))
    );
    queue.close().await;
}

/// What is told on the channel of the store, as another instance hears it.
async fn listener(database: &Database) -> sqlx::postgres::PgListener {
    let pool = sqlx::PgPool::connect_with(database.connect_options())
        .await
        .unwrap();
    let mut listener = sqlx::postgres::PgListener::connect_with(&pool).await.unwrap();
    listener.listen("edgehold").await.unwrap();
    listener
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_told_what_is_kept_and_what_is_redriven() {
    let database = Database::new().await;
    let queues = join_all((0..2).map(|_| open(database.options()))).await;
    let mut listener = listener(&database).await;
    let mut heard = async || {
        let told = tokio::time::timeout(Duration::from_millis(1_500), listener.recv()).await;
        Ok::<_, anyhow::Error>(told??.payload().to_owned())
    };
    // Given two instances, once they know of each other, what one keeps is told.
    let mut number = 0;
    let told = wait::until("an object that is kept to be told", LONG, async || {
        number += 1;
        append(&queues[0], [number]).await;
        heard().await
    })
    .await;
    assert_eq!(told, "app-conformance");
    // And what is re-driven.
    let give_up = Action::GiveUp {
        reason: ErrorReason::TooOld,
        at: Timestamp::from_unix_millis(1),
        failure: None,
    };
    while heard().await.is_ok() {}
    queues[0].settle(&[verdict(id(1), give_up)]).await.unwrap();
    let page = ErrorPage {
        filter: ObjectFilter::default(),
        after_seq: 0,
        limit: 10,
    };
    assert_eq!(queues[0].redrive(page).await.unwrap().objects, 1);
    assert_eq!(heard().await.unwrap(), "app-conformance");
    join_all(queues.iter().map(|queue| queue.close())).await;
}
