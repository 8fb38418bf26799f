use std::{
    fs,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake},
    time::Duration,
};

use edgehold_core::{
    ErrorReason, ObjectState, ServiceKey, StoredObject, Timestamp,
    retry::{Action, Failure, Verdict},
};
use edgehold_store::{
    Claim, ErrorPage, Eviction, Lane, ListRequest, ObjectFilter, RetryQueue, Room, Selection, StoreError,
    Suspects, Sweep,
    conformance::{object, service_key},
};
use futures_util::FutureExt;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    Options, SqliteQueue, Writer, reader, row, settlement,
    writer::{self, insert, maintain, recover},
};

const DEADLINE: Duration = Duration::from_secs(60);

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn options(folder: &TempDir) -> Options {
    Options::new(folder.path().join("app.db"), service_key())
}

fn run(writer: Writer) -> tokio::task::JoinHandle<()> {
    #[expect(clippy::disallowed_methods, reason = "a test has no service to spawn through")]
    tokio::spawn(writer.run())
}

async fn open(folder: &TempDir) -> SqliteQueue {
    let (queue, writer) = SqliteQueue::open(options(folder)).await.unwrap();
    run(writer);
    queue
}

/// A connection of somebody else, to look or to do damage.
async fn raw(folder: &TempDir) -> SqliteConnection {
    let file = SqliteConnectOptions::new().filename(folder.path().join("app.db"));
    SqliteConnection::connect_with(&file.create_if_missing(true))
        .await
        .unwrap()
}

fn claim() -> Claim {
    Claim {
        selection: Selection {
            lane: Lane::Any,
            due: Some(Duration::from_secs(1)),
        },
        suspects: Suspects::Exclude,
        ordered: false,
        after_seq: 0,
        now: Timestamp::from_unix_millis(1_800_000_000_000),
        limit: 10_000,
        max_bytes: usize::MAX,
    }
}

fn list(state: ObjectState) -> ListRequest {
    ListRequest {
        states: vec![state],
        filter: ObjectFilter::default(),
        after_seq: 0,
        limit: 100,
    }
}

fn sized(number: u64, bytes: usize) -> StoredObject {
    StoredObject {
        payload: vec![9; bytes].into(),
        ..object(number)
    }
}

async fn append(queue: &SqliteQueue, objects: &[StoredObject]) {
    for answer in queue.append(objects, Room::default()).await {
        answer.unwrap();
    }
}

fn verdicts(objects: &[StoredObject], action: &Action) -> Vec<Verdict> {
    objects
        .iter()
        .map(|object| Verdict {
            id: object.id,
            action: action.clone(),
        })
        .collect()
}

fn failed_again() -> Action {
    Action::RetryLater(Failure {
        attempts: 2,
        at: Timestamp::from_unix_millis(1_800_000_000_000),
        error: "refused".to_owned(),
        not_before: None,
        destination: None,
        progress: None,
    })
}

fn file_bytes(folder: &TempDir, name: &str) -> u64 {
    fs::metadata(folder.path().join(name)).map_or(0, |file| file.len())
}

#[tokio::test]
async fn a_second_process_is_refused_by_name_until_the_first_has_closed() {
    let folder = folder();
    let first = open(&folder).await;
    match SqliteQueue::open(options(&folder)).await {
        Err(StoreError::Locked { what }) => assert!(what.ends_with("app.db"), "{what}"),
        other => panic!("{:?}", other.err()),
    }
    first.close().await;
    open(&folder).await.close().await;
}

#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_to_date() {
    // given a file that was written before attempts were on record
    let folder = folder();
    let queue = open(&folder).await;
    append(&queue, &[object(1)]).await;
    queue.close().await;
    let mut connection = raw(&folder).await;
    for undo in [
        WITHOUT_IN_FLIGHT,
        "ALTER TABLE object DROP COLUMN errors; DELETE FROM _sqlx_migrations WHERE version = 2",
    ] {
        sqlx::raw_sql(undo).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    // when an attempt fails
    let queue = open(&folder).await;
    queue
        .settle(&verdicts(&[object(1)], &failed_again()))
        .await
        .unwrap();
    // then it is on record
    let kept = queue.list(list(ObjectState::Failed)).await.unwrap().objects;
    assert_eq!(kept[0].payload, object(1).payload);
    assert_eq!(kept[0].errors.as_slice()[0].attempt, 2);
}

/// The schema as it was in version 2.
const WITHOUT_IN_FLIGHT: &str = "
    DROP TABLE in_flight;
    ALTER TABLE crash_mark ADD COLUMN claimed INTEGER NOT NULL DEFAULT 0;
    DELETE FROM _sqlx_migrations WHERE version = 3";

#[tokio::test]
async fn what_an_earlier_version_had_in_flight_at_a_crash_is_suspect() {
    // given a file of the second version, of a process that ended while it had two objects in hand, one of them with a
    // crash behind it, and had given back a third that was suspect
    let folder = folder();
    let queue = open(&folder).await;
    append(&queue, &[object(1), object(2), object(3), object(4)]).await;
    queue.close().await;
    let mut connection = raw(&folder).await;
    let marks = "INSERT INTO crash_mark (seq, claimed, crashes) VALUES (1, 1, 0), (2, 1, 1), (3, 0, 1)";
    for statement in [WITHOUT_IN_FLIGHT, marks] {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    // when it is opened by this one
    let queue = open(&folder).await;
    // then that start has counted
    let kept = queue.list(list(ObjectState::Failed)).await.unwrap().objects;
    let crashes: Vec<_> = kept.iter().map(|object| object.crashes).collect();
    assert_eq!(crashes, [1, 2, 0, 0]);
    let suspects = Claim {
        suspects: Suspects::Only,
        ..claim()
    };
    assert_eq!(queue.claim(suspects).await.unwrap(), kept[..2]);
    assert_eq!(queue.claim(claim()).await.unwrap(), kept[2..]);
}

#[tokio::test]
async fn what_is_in_flight_is_in_the_file_as_long_as_it_is() {
    let folder = folder();
    let queue = open(&folder).await;
    let objects: Vec<_> = (1..=600).map(object).collect();
    append(&queue, &objects).await;
    let mut connection = raw(&folder).await;
    let mut noted = async || {
        let places = "SELECT seq FROM in_flight, json_each(places) AS place JOIN object ON seq = place.value ORDER BY 1";
        let rows = "SELECT count(*) FROM in_flight";
        let places: Vec<i64> = sqlx::query_scalar(places)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let rows: i64 = sqlx::query_scalar(rows).fetch_one(&mut connection).await.unwrap();
        (places, rows)
    };
    // given pages that were handed out
    for limit in [200, 300] {
        let page = Claim { limit, ..claim() };
        assert_eq!(queue.claim(page).await.unwrap().len(), limit);
    }
    // then they are there, in a row for each 256 places
    assert_eq!(noted().await, ((1..=500).collect(), 2));
    // when there are verdicts for some, of each kind
    for (part, action) in [
        (&objects[..100], Action::Remove),
        (&objects[100..256], failed_again()),
        (&objects[400..500], Action::RELEASE),
    ] {
        queue.settle(&verdicts(part, &action)).await.unwrap();
    }
    // then the others are there
    assert_eq!(noted().await, ((257..=400).collect(), 1));
    // and what is handed out again is there again
    let again = Claim {
        limit: 1,
        after_seq: 450,
        ..claim()
    };
    assert_eq!(queue.claim(again).await.unwrap()[0].seq, 451);
    assert_eq!(noted().await, ((257..=400).chain([451]).collect(), 1));
    // and of what has left there is nothing but rows, which are not many
    queue.settle(&verdicts(&objects, &Action::Remove)).await.unwrap();
    assert_eq!(noted().await, (Vec::new(), 1));
    for number in 0..40 {
        let objects: Vec<_> = (0..256)
            .map(|other| object(1_000 + 256 * number + other))
            .collect();
        append(&queue, &objects).await;
        assert_eq!(queue.claim(claim()).await.unwrap().len(), 256);
        queue.settle(&verdicts(&objects, &Action::Remove)).await.unwrap();
    }
    let (places, rows) = noted().await;
    assert!(places.is_empty() && rows < 17, "{places:?} {rows}");
}

#[tokio::test]
async fn what_was_in_flight_beside_what_left_is_suspect_after_a_crash() {
    // given a claimed page of which some have left
    let folder = folder();
    let queue = open(&folder).await;
    let objects: Vec<_> = (1..=4).map(object).collect();
    append(&queue, &objects).await;
    queue.claim(claim()).await.unwrap();
    queue
        .settle(&verdicts(&objects[..2], &Action::Remove))
        .await
        .unwrap();
    // when it ends with the others in hand, and another one begins
    queue.close().await;
    let queue = open(&folder).await;
    // then they are suspect
    let suspects = Claim {
        suspects: Suspects::Only,
        ..claim()
    };
    let page = queue.claim(suspects).await.unwrap();
    assert_eq!(page.iter().map(|object| object.seq).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test]
async fn what_is_read_and_not_handed_out_was_not_in_flight() {
    // given a page of which one object is damaged
    let folder = folder();
    let queue = open(&folder).await;
    append(&queue, &[object(1), object(2)]).await;
    let mut connection = raw(&folder).await;
    sqlx::raw_sql("DELETE FROM payload WHERE seq = 1")
        .execute(&mut connection)
        .await
        .unwrap();
    // when it is claimed
    let page = queue.claim(claim()).await.unwrap();
    // then only what was handed out is noted
    assert_eq!(page.iter().map(|object| object.seq).collect::<Vec<_>>(), [2]);
    let noted: Vec<i64> = sqlx::query_scalar("SELECT place.value FROM in_flight, json_each(places) AS place")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(noted, [2]);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_untouched() {
    // given a file some later version has written
    let folder = folder();
    open(&folder).await.close().await;
    let mut connection = raw(&folder).await;
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99, 'later', TRUE, x'00', 1)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    let before = fs::read(folder.path().join("app.db")).unwrap();
    // when, then
    for error in [
        SqliteQueue::open(options(&folder)).await.err(),
        SqliteQueue::open_read_only(folder.path().join("app.db"), service_key())
            .await
            .err(),
    ] {
        assert!(
            matches!(error, Some(StoreError::NewerSchema { found: 99, known: 3 })),
            "{error:?}"
        );
    }
    assert_eq!(fs::read(folder.path().join("app.db")).unwrap(), before);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let folder = folder();
    fs::write(folder.path().join("app.db"), vec![b'x'; 8_192]).unwrap();
    match SqliteQueue::open(options(&folder)).await {
        Err(StoreError::Configuration(problem)) => assert!(problem.contains("app.db"), "{problem}"),
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named_with_what_to_do() {
    // given a file where the folder should be
    let folder = folder();
    fs::write(folder.path().join("data"), b"").unwrap();
    let options = Options::new(folder.path().join("data/app.db"), service_key());
    match SqliteQueue::open(options).await {
        Err(StoreError::Configuration(problem)) => {
            assert!(
                problem.contains("/data") && problem.contains("mount a volume"),
                "{problem}"
            );
        }
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test]
async fn reading_works_beside_the_process_that_writes() {
    let folder = folder();
    let path = folder.path().join("app.db");
    let missing = SqliteQueue::open_read_only(&path, service_key()).await.err();
    assert!(
        !SqliteQueue::exists(&path) && matches!(missing, Some(StoreError::Configuration(_))),
        "{missing:?}"
    );
    // given a store that is open and holds something
    let queue = open(&folder).await;
    append(&queue, &[object(1), object(2)]).await;
    // when
    let beside = SqliteQueue::open_read_only(&path, service_key()).await.unwrap();
    // then
    assert_eq!(beside.stats().await.unwrap().failed.objects, 2);
    assert_eq!(
        beside
            .list(list(ObjectState::Failed))
            .await
            .unwrap()
            .objects
            .len(),
        2
    );
    append(&queue, &[object(3)]).await;
    assert_eq!(beside.stats().await.unwrap().failed.objects, 3);
    assert!(matches!(
        beside.append(&[object(4)], Room::default()).await[..],
        [Err(StoreError::Configuration(_))]
    ));
    assert!(matches!(
        beside.claim(claim()).await,
        Err(StoreError::Configuration(_))
    ));
    beside.close().await;
    // and also when nobody writes
    queue.close().await;
    let alone = SqliteQueue::open_read_only(&path, service_key()).await.unwrap();
    assert_eq!(alone.stats().await.unwrap().failed.objects, 3);
}

/// The names of the files in a folder that begin like this.
fn files_like(folder: &TempDir, beginning: &str) -> Vec<String> {
    let names = std::fs::read_dir(folder.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(beginning)).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_backup_has_its_name_when_it_is_whole_and_replaces_nothing() {
    let folder = folder();
    let queue = open(&folder).await;
    append(&queue, &[object(1), object(2)]).await;
    let beside = SqliteQueue::open_read_only(folder.path().join("app.db"), service_key())
        .await
        .unwrap();
    let backup = folder.path().join("backup.db");
    let refusal = async |what: &str| match beside.back_up(&backup).await {
        Err(StoreError::Configuration(problem)) => assert!(problem.contains(what), "{problem}"),
        other => panic!("{other:?}"),
    };
    // one that was broken off, or is being written
    let part = folder.path().join("backup.db.part");
    std::fs::write(&part, "half").unwrap();
    refusal("backup.db.part is there").await;
    assert_eq!(std::fs::read(&part).unwrap(), b"half");
    std::fs::remove_file(&part).unwrap();
    // when
    beside.back_up(&backup).await.unwrap();
    // then
    assert_eq!(files_like(&folder, "backup.db"), ["backup.db"]);
    let copy = SqliteQueue::open_read_only(&backup, service_key()).await.unwrap();
    assert_eq!(copy.stats().await.unwrap().failed.objects, 2);
    assert_eq!(copy.integrity().await.unwrap(), [""; 0]);
    copy.close().await;
    refusal("backup.db is there already").await;
    assert_eq!(files_like(&folder, "backup.db"), ["backup.db"]);
}

#[tokio::test]
async fn what_the_counters_say_is_compared_with_what_there_is() {
    let folder = folder();
    let queue = open(&folder).await;
    let dead = StoredObject {
        state: ObjectState::Error,
        ..object(3)
    };
    append(&queue, &[object(1), object(2), dead]).await;
    assert_eq!(queue.recount().await.unwrap(), [(2, (2, 2)), (3, (1, 1))].into());
    queue.close().await;
    // given a file that somebody else has written to
    let mut connection = raw(&folder).await;
    for damage in [
        "UPDATE object SET state = 9 WHERE seq = 1",
        "UPDATE counter SET objects = 7 WHERE object_state = 3",
    ] {
        sqlx::query(damage).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    let beside = SqliteQueue::open_read_only(folder.path().join("app.db"), service_key())
        .await
        .unwrap();
    let wanted = [(2, (1, 1)), (3, (7, 1)), (9, (1, 1))].into();
    assert_eq!(beside.recount().await.unwrap(), wanted);
}

#[tokio::test]
async fn what_was_answered_survives_a_writer_that_ends_in_the_middle() {
    // given a writer that is dropped without closing
    let folder = folder();
    let (queue, writer) = SqliteQueue::open(options(&folder)).await.unwrap();
    let running = run(writer);
    append(&queue, &[object(1), object(2)]).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    // then writing says that it has ended, and nothing is lost
    assert!(matches!(
        queue.append(&[object(3)], Room::default()).await[..],
        [Err(StoreError::Closed)]
    ));
    drop(queue);
    let queue = open(&folder).await;
    assert_eq!(queue.claim(claim()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_writer_ends_with_its_queue() {
    let folder = folder();
    let (queue, writer) = SqliteQueue::open(options(&folder)).await.unwrap();
    let running = run(writer);
    drop(queue);
    timeout(DEADLINE, running).await.unwrap().unwrap();
}

#[tokio::test]
async fn services_in_one_file_do_not_see_each_other() {
    let folder = folder();
    let other_key = ServiceKey::try_new("app-other").unwrap();
    let queue = open(&folder).await;
    append(&queue, &[object(1)]).await;
    queue.close().await;
    let (other, writer) = SqliteQueue::open(Options {
        service_key: other_key.clone(),
        ..options(&folder)
    })
    .await
    .unwrap();
    run(writer);
    append(
        &other,
        &[StoredObject {
            service_key: other_key,
            ..object(2)
        }],
    )
    .await;
    assert_eq!(other.stats().await.unwrap().failed.objects, 1);
    assert_eq!(other.claim(claim()).await.unwrap().len(), 1);
    other
        .settle(&verdicts(&[object(1), object(2)], &Action::Remove))
        .await
        .unwrap();
    other.close().await;
    assert_eq!(open(&folder).await.stats().await.unwrap().failed.objects, 1);
}

#[tokio::test]
async fn what_has_queued_up_is_committed_together_and_fails_alone() {
    // given many requests that wait before the writer starts, one of them for an id that is there with other content
    let folder = folder();
    let queue = open(&folder).await;
    append(&queue, &[sized(50, 10)]).await;
    queue.close().await;
    let (queue, writer) = SqliteQueue::open(options(&folder)).await.unwrap();
    let objects: Vec<_> = (1..=100).map(object).collect();
    let mut appends: Vec<_> = objects
        .chunks(1)
        .map(|object| queue.append(object, Room::default()))
        .collect();
    for append in &mut appends {
        assert!(futures_util::poll!(append).is_pending());
    }
    // when
    run(writer);
    let answers = futures_util::future::join_all(appends).await;
    // then only that one is refused
    for (object, answers) in objects.iter().zip(answers) {
        match answers[..] {
            [Err(StoreError::Exists(id))] => assert_eq!(id, objects[49].id),
            [Ok(_)] => assert_ne!(object.id, objects[49].id),
            _ => panic!("{answers:?}"),
        }
    }
    assert_eq!(queue.stats().await.unwrap().failed.objects, 100);
}

#[tokio::test]
async fn a_group_is_one_commit() {
    let folder = folder();
    let (queue, writer) = SqliteQueue::open(options(&folder)).await.unwrap();
    let objects: Vec<_> = (1..=200).map(object).collect();
    let mut appends: Vec<_> = objects
        .chunks(1)
        .map(|object| queue.append(object, Room::default()))
        .collect();
    for append in &mut appends {
        assert!(futures_util::poll!(append).is_pending());
    }
    let before = file_bytes(&folder, "app.db-wal");
    run(writer);
    for answers in futures_util::future::join_all(appends).await {
        assert!(answers[0].is_ok());
    }
    // Each commit writes every page it touched, at least one for each index: two hundred would be megabytes.
    let written = file_bytes(&folder, "app.db-wal") - before;
    assert!(written < 1 << 20, "{written} bytes for 200 small objects");
}

#[tokio::test]
async fn what_has_no_room_does_not_break_its_group_up() {
    // given a full store, and among many verdicts one append that does not fit
    let folder = folder();
    let queue = open(&folder).await;
    let objects: Vec<_> = (1..=200).map(object).collect();
    append(&queue, &objects).await;
    queue.close().await;
    let (queue, writer) = SqliteQueue::open(options(&folder)).await.unwrap();
    let verdicts = verdicts(&objects, &failed_again());
    let mut settled: Vec<_> = verdicts.chunks(1).map(|verdict| queue.settle(verdict)).collect();
    for settle in &mut settled[..100] {
        assert!(futures_util::poll!(settle).is_pending());
    }
    let more = [object(201)];
    let room = Room {
        max_items: std::num::NonZeroU64::new(200),
        max_bytes: None,
    };
    let mut refused = queue.append(&more, room);
    assert!(futures_util::poll!(&mut refused).is_pending());
    for settle in &mut settled[100..] {
        assert!(futures_util::poll!(settle).is_pending());
    }
    // when
    let before = file_bytes(&folder, "app.db-wal");
    run(writer);
    for answer in futures_util::future::join_all(settled).await {
        answer.unwrap();
    }
    // then it alone is refused, and the verdicts are one commit
    assert!(matches!(refused.await[..], [Err(StoreError::Full { .. })]));
    let written = file_bytes(&folder, "app.db-wal") - before;
    assert!(written < 1 << 20, "{written} bytes for 200 verdicts");
}

#[tokio::test]
async fn a_failed_attempt_does_not_write_the_payload_again() {
    let folder = folder();
    let queue = open(&folder).await;
    let objects: Vec<_> = (1..=100).map(|number| sized(number, 64 << 10)).collect();
    append(&queue, &objects).await;
    let mut connection = raw(&folder).await;
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(file_bytes(&folder, "app.db-wal"), 0);
    queue.settle(&verdicts(&objects, &failed_again())).await.unwrap();
    let written = file_bytes(&folder, "app.db-wal");
    assert!(
        written < 1 << 20,
        "{written} bytes for counts of 100 objects of 64 KiB"
    );
}

#[tokio::test]
async fn what_is_not_needed_any_more_goes_back_to_the_file_system() {
    // given a backlog
    let folder = folder();
    let queue = open(&folder).await;
    let objects: Vec<_> = (1..=3_000).map(|number| sized(number, 4 << 10)).collect();
    append(&queue, &objects).await;
    let mut connection = raw(&folder).await;
    let pages = "PRAGMA page_count";
    let before: i64 = sqlx::query_scalar(pages)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    // when it has left
    queue.settle(&verdicts(&objects, &Action::Remove)).await.unwrap();
    // then so does its room, but for some
    let shrunk = async {
        loop {
            let now: i64 = sqlx::query_scalar(pages)
                .fetch_one(&mut connection)
                .await
                .unwrap();
            if now < before / 2 {
                break now;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let now = timeout(DEADLINE, shrunk).await.unwrap();
    assert!(now > 500, "{now} of {before} pages are left");
}

#[tokio::test]
async fn a_full_store_refuses_appends_and_lets_objects_leave() {
    // given a file that may hold two megabytes
    let folder = folder();
    let options = Options {
        max_bytes: Some(2 << 20),
        ..options(&folder)
    };
    let (queue, writer) = SqliteQueue::open(options).await.unwrap();
    run(writer);
    // when it is filled
    let mut kept = Vec::new();
    let full = loop {
        let object = sized(u64::try_from(kept.len()).unwrap(), 100 << 10);
        match queue
            .append(std::slice::from_ref(&object), Room::default())
            .await
            .pop()
            .unwrap()
        {
            Ok(_) => kept.push(object),
            Err(error) => break error,
        }
        assert!(kept.len() < 100, "it never became full");
    };
    // then it says so, still hands out and removes, and takes objects again
    assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
    assert!(kept.len() > 10, "{} objects fitted", kept.len());
    let claimed = queue.claim(claim()).await.unwrap();
    assert_eq!(claimed.len(), kept.len());
    queue
        .settle(&verdicts(&claimed[..5], &failed_again()))
        .await
        .unwrap();
    queue
        .settle(&verdicts(&claimed[5..], &Action::Remove))
        .await
        .unwrap();
    append(&queue, &[sized(1_000, 100 << 10)]).await;
    assert_eq!(queue.stats().await.unwrap().failed.objects, 6);
}

#[tokio::test]
async fn a_full_store_makes_room_when_asked_to() {
    // given a file of two megabytes that is filled
    let folder = folder();
    let options = Options {
        max_bytes: Some(2 << 20),
        ..options(&folder)
    };
    let (queue, writer) = SqliteQueue::open(options).await.unwrap();
    run(writer);
    let mut number = 0;
    let mut fill = async || {
        loop {
            number += 1;
            assert!(number < 1_000, "it never became full");
            if queue
                .append(&[sized(number, 50 << 10)], Room::default())
                .await
                .swap_remove(0)
                .is_err()
            {
                break;
            }
        }
    };
    fill().await;
    // then each way of making room makes it
    let objects = 5;
    let evicted = queue.evict(Eviction { objects, bytes: 0 }).await.unwrap();
    assert_eq!(evicted.len(), 5);
    fill().await;
    let now = claim().now;
    let given_up = queue.sweep(Sweep::TooOld { before: now, at: now }, 5).await;
    assert_eq!(given_up.unwrap(), 5);
    let removed = queue.sweep(Sweep::DeadLettersOver { max: 0 }, 5).await;
    assert_eq!(removed.unwrap(), 5);
    fill().await;
    let claimed = queue.claim(claim()).await.unwrap();
    queue
        .settle(&verdicts(&claimed[..5], &Action::Succeed { at: now }))
        .await
        .unwrap();
    let later = Timestamp::from_unix_millis(now.as_unix_millis() + 1);
    let removed = queue.sweep(Sweep::History { before: later }, 10).await;
    assert_eq!(removed.unwrap(), 5);
    append(&queue, &[sized(2_000, 50 << 10)]).await;
}

#[tokio::test]
async fn space_returns_to_the_file_system_when_objects_leave() {
    let folder = folder();
    let queue = open(&folder).await;
    let objects: Vec<_> = (1..=2_000).map(|number| sized(number, 16 << 10)).collect();
    append(&queue, &objects).await;
    queue.settle(&verdicts(&objects, &Action::Remove)).await.unwrap();
    let mut connection = raw(&folder).await;
    let shrunk = async {
        loop {
            let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
                .fetch_one(&mut connection)
                .await
                .unwrap();
            if pages < 1_500 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, shrunk)
        .await
        .expect("32 MiB of removed objects leave less than 6 MiB");
}

#[tokio::test]
async fn damaged_rows_are_set_aside_with_their_payload_and_stop_nobody() {
    // given one sound row and others damaged in every way
    let folder = folder();
    let queue = open(&folder).await;
    let objects: Vec<_> = (1..=7).map(object).collect();
    append(&queue, &objects).await;
    let mut connection = raw(&folder).await;
    sqlx::raw_sql(
        "UPDATE object SET context_data = '{\"unfinished' WHERE seq = 1;
         UPDATE object SET input_kind = 'hologram' WHERE seq = 2;
         UPDATE object SET id = x'0102' WHERE seq = 3;
         DELETE FROM payload WHERE seq = 4;
         UPDATE object SET attempts = -1, pipeline_id = ' ' WHERE seq = 5;
         UPDATE object SET state = 9 WHERE seq = 6;",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    // when
    let claimed = queue.claim(claim()).await.unwrap();
    // then
    let ids = |objects: &[StoredObject]| objects.iter().map(|object| object.id).collect::<Vec<_>>();
    assert_eq!(ids(&claimed), [objects[6].id]);
    assert!(queue.claim(claim()).await.unwrap().is_empty());
    let set_aside = queue.list(list(ObjectState::Error)).await.unwrap().objects;
    let seqs: Vec<_> = set_aside.iter().map(|object| object.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    for (object, problem) in
        set_aside
            .iter()
            .zip(["context_data", "input_kind", "id", "bytes", "pipeline_id"])
    {
        assert_eq!(object.reason, Some(ErrorReason::Corrupt));
        let error = object.last_error.as_deref().unwrap();
        assert!(error.contains(problem), "{error}");
        let payload = if object.seq == 4 {
            String::new()
        } else {
            format!("payload {}", object.seq)
        };
        assert_eq!(object.payload, payload);
    }
    assert_eq!(queue.stats().await.unwrap().error.objects, 5);
    // and the one in an unknown state is set aside at the next start; all may be purged
    queue.close().await;
    let queue = open(&folder).await;
    let set_aside = queue.list(list(ObjectState::Error)).await.unwrap().objects;
    assert_eq!(set_aside.len(), 6);
    queue
        .settle(&verdicts(&set_aside, &Action::Remove))
        .await
        .unwrap();
    assert_eq!(queue.stats().await.unwrap().error.objects, 0);
    // and the sound one, which the process before had in flight, goes on
    let suspects = Claim {
        suspects: Suspects::Only,
        ..claim()
    };
    assert_eq!(ids(&queue.claim(suspects).await.unwrap()), [objects[6].id]);
}

/// Ways to damage a row, and what is then said to be wrong. `?` is its place.
const DAMAGES: &[(&str, &str)] = &[
    ("UPDATE object SET id = x'0102' WHERE seq = ?", "id"),
    ("UPDATE object SET pipeline_id = ' ' WHERE seq = ?", "pipeline_id"),
    (
        "UPDATE object SET pipeline_id = CAST(x'ff70' AS TEXT) WHERE seq = ?",
        "pipeline_id",
    ),
    (
        "UPDATE object SET pipeline_position = -1 WHERE seq = ?",
        "pipeline_position",
    ),
    (
        "UPDATE object SET pipeline_position = 4294967296 WHERE seq = ?",
        "pipeline_position",
    ),
    (
        "UPDATE object SET version = CAST(x'ff' AS TEXT) WHERE seq = ?",
        "version",
    ),
    (
        "UPDATE object SET correlation_id = CAST(x'ff' AS TEXT) WHERE seq = ?",
        "correlation_id",
    ),
    (
        "UPDATE object SET context_data = '{\"unfinished' WHERE seq = ?",
        "context_data",
    ),
    (
        "UPDATE object SET context_data = '[1]' WHERE seq = ?",
        "context_data",
    ),
    (
        "UPDATE object SET input_kind = 'hologram' WHERE seq = ?",
        "input_kind",
    ),
    (
        "UPDATE object SET input_kind = 'delivery-json' WHERE seq = ?",
        "input_content_type",
    ),
    ("UPDATE object SET attempts = -1 WHERE seq = ?", "attempts"),
    (
        "UPDATE object SET attempts = 9223372036854775807 WHERE seq = ?",
        "attempts",
    ),
    (
        "UPDATE object SET last_error = CAST(x'ff' AS TEXT) WHERE seq = ?",
        "last_error",
    ),
    ("UPDATE object SET reason = 'because' WHERE seq = ?", "reason"),
    (
        "UPDATE object SET destination = CAST(x'ff41' AS TEXT) WHERE seq = ?",
        "destination",
    ),
    ("UPDATE object SET payload_bytes = -5 WHERE seq = ?", "bytes"),
    (
        "UPDATE object SET payload_bytes = 9223372036854775807 WHERE seq = ?",
        "bytes",
    ),
    ("UPDATE payload SET bytes = x'00' WHERE seq = ?", "bytes"),
    ("DELETE FROM payload WHERE seq = ?", "bytes"),
];

/// A store whose rows are damaged in each way, between sound ones, one of each for this device.
async fn damaged(folder: &TempDir) -> (SqliteQueue, Vec<StoredObject>) {
    let queue = open(folder).await;
    let mut sound = Vec::new();
    let mut connection = raw(folder).await;
    for (number, (damage, _)) in (1..).zip(DAMAGES) {
        let pair = [number * 2, number * 2 + 1].map(|number| StoredObject {
            context: [("devicename".to_owned(), format!("device {number}"))].into(),
            ..object(number)
        });
        let seq = queue.append(&pair, Room::default()).await.swap_remove(0).unwrap();
        sqlx::query(*damage)
            .bind(seq)
            .execute(&mut connection)
            .await
            .unwrap();
        sound.push(pair[1].clone());
    }
    (queue, sound)
}

#[tokio::test]
async fn no_damage_keeps_anything_from_being_handed_out() {
    for ordered in [false, true] {
        let folder = folder();
        let (queue, sound) = damaged(&folder).await;
        // when everything is tried as the lanes say, until they say nothing any more
        let mut handed_out = Vec::new();
        let now = claim().now;
        for turn in 0.. {
            let lanes = queue.lanes(Duration::from_secs(1), now).await.unwrap();
            if lanes.is_empty() {
                break;
            }
            assert!(turn < 100, "still waiting: {lanes:?}");
            for status in lanes {
                let selection = Selection {
                    lane: Lane::of(status.destination),
                    ..claim().selection
                };
                let page = Claim {
                    selection,
                    ordered,
                    limit: 3,
                    ..claim()
                };
                handed_out.extend(queue.claim(page).await.unwrap());
            }
        }
        // then all that is sound was handed out, and all that is damaged is set aside for what is wrong with it
        let ids = |objects: &[StoredObject]| objects.iter().map(|object| object.id).collect::<Vec<_>>();
        assert_eq!(ids(&handed_out), ids(&sound), "ordered: {ordered}");
        let set_aside = queue.list(list(ObjectState::Error)).await.unwrap().objects;
        assert_eq!(set_aside.len(), DAMAGES.len());
        for (object, (damage, problem)) in set_aside.iter().zip(DAMAGES) {
            assert_eq!(object.reason, Some(ErrorReason::Corrupt), "{damage}");
            assert!(object.ended_at.is_some(), "{damage}");
            let error = object.last_error.as_deref().unwrap();
            assert!(error.starts_with(problem), "{damage}: {error}");
        }
        // and a re-drive leaves what cannot be read where it is
        let page = ErrorPage {
            filter: ObjectFilter::default(),
            after_seq: 0,
            limit: 100,
        };
        assert_eq!(queue.redrive(page).await.unwrap().objects, 0);
        // while it is counted, and may be removed
        let groups = queue.survey(ObjectFilter::default()).await.unwrap();
        let counted: u64 = groups.iter().map(|group| group.count.objects).sum();
        assert_eq!(counted, u64::try_from(DAMAGES.len()).unwrap());
    }
}

#[tokio::test]
async fn no_damage_keeps_anything_from_leaving() {
    let folder = folder();
    let (queue, _) = damaged(&folder).await;
    let half = Eviction {
        objects: u64::try_from(DAMAGES.len()).unwrap(),
        bytes: 0,
    };
    assert_eq!(queue.evict(half).await.unwrap().len(), DAMAGES.len());
    let now = claim().now;
    let too_old = Sweep::TooOld { before: now, at: now };
    assert_eq!(
        queue.sweep(too_old, 100).await.unwrap(),
        u64::try_from(DAMAGES.len()).unwrap()
    );
    let all = Sweep::DeadLettersOver { max: 0 };
    assert_eq!(
        queue.sweep(all, 100).await.unwrap(),
        u64::try_from(DAMAGES.len()).unwrap()
    );
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.failed.objects, stats.error.objects), (0, 0));
}

#[tokio::test]
async fn no_statement_goes_through_the_whole_table() {
    let folder = folder();
    open(&folder).await.close().await;
    let mut connection = raw(&folder).await;
    sqlx::raw_sql(writer::INDEX_DEVICES)
        .execute(&mut connection)
        .await
        .unwrap();
    let by_place = "SEARCH object USING INTEGER PRIMARY KEY";
    let by_device = "object_device (app_service_key=? AND pipeline_id=? AND device=?)";
    let by_id = "SEARCH object USING INDEX object_id (id=?)";
    let statements = [
        (
            reader::claim::NEAR_END,
            "object_queue (app_service_key=? AND state=? AND seq>?)",
        ),
        (
            reader::claim::NEAR_END_IN_LANE,
            "object_lane (app_service_key=? AND destination=? AND seq>?)",
        ),
        (
            reader::claim::WALK,
            "object_queue (app_service_key=? AND state=? AND seq>?)",
        ),
        (
            reader::claim::WALK_IN_LANE,
            "object_lane (app_service_key=? AND destination=? AND seq>?)",
        ),
        (
            reader::claim::DUE,
            "object_rested (app_service_key=? AND destination=? AND last_attempt_at<?)",
        ),
        (
            reader::claim::DUE,
            "object_rested (app_service_key=? AND destination=? AND last_attempt_at>?)",
        ),
        (
            reader::claim::DUE,
            "object_rested (app_service_key=? AND destination=? AND last_attempt_at=?)",
        ),
        (
            reader::claim::DUE,
            "object_asked_to_wait (app_service_key=? AND destination=? AND not_before>? AND not_before<?)",
        ),
        (reader::claim::WALK, "CO-ROUTINE part"),
        (reader::claim::SUSPECTS, by_place),
        (
            reader::lanes::DESTINATIONS,
            "object_lane (app_service_key=? AND destination>?)",
        ),
        (
            reader::lanes::UNREADABLE_LANE,
            "object_lane (app_service_key=? AND destination=?)",
        ),
        (
            reader::lanes::FIRST_RESTED,
            "object_rested (app_service_key=? AND destination=?)",
        ),
        (
            reader::lanes::FIRST_RESTED_IN_FUTURE,
            "object_rested (app_service_key=? AND destination=? AND last_attempt_at>?)",
        ),
        (
            reader::lanes::FIRST_ASKED_TO_WAIT,
            "object_asked_to_wait (app_service_key=? AND destination=? AND not_before>?)",
        ),
        (
            reader::lanes::FIRST_ASKED_TO_WAIT_RESTED,
            "object_asked_to_wait_rested (app_service_key=? AND destination=?)",
        ),
        (
            reader::lanes::FIRST_ASKED_TO_WAIT_IN_FUTURE,
            "object_asked_to_wait_rested (app_service_key=? AND destination=? AND last_attempt_at>?)",
        ),
        (
            reader::claim::OLDEST,
            "object_queue (app_service_key=? AND state=?)",
        ),
        (
            reader::claim::TOO_OLD,
            "object_oldest (app_service_key=? AND created_at<?)",
        ),
        (
            reader::IS_WAITING,
            "object_device (app_service_key=? AND pipeline_id=? AND device=?)",
        ),
        (reader::claim::SUSPECTS_IN_ORDER, by_place),
        (reader::claim::SUSPECTS_IN_ORDER, by_device),
        (
            reader::claim::PIPELINES,
            "object_device (app_service_key=? AND pipeline_id>?)",
        ),
        (
            reader::claim::HEADS,
            "object_device (app_service_key=? AND pipeline_id=? AND device>?)",
        ),
        (reader::claim::HEADS, by_device),
        (reader::claim::HEADS, by_place),
        (
            reader::claim::WITHOUT_DEVICE,
            "object_device (app_service_key=? AND pipeline_id=? AND device=? AND seq>?)",
        ),
        (maintain::EVICT, by_place),
        (maintain::TOO_OLD, by_place),
        (maintain::UNMARK, "crash_mark USING INTEGER PRIMARY KEY"),
        (maintain::ENDED, by_place),
        (
            maintain::ENDED,
            "object_ended (app_service_key=? AND state=? AND <expr><?)",
        ),
        (maintain::REDRIVE, by_place),
        (maintain::PURGE, by_place),
        (
            maintain::ERROR_PAGE,
            "object_queue (app_service_key=? AND state=? AND seq>?)",
        ),
        (
            reader::SURVEY,
            "object_queue (app_service_key=? AND state=? AND seq>?)",
        ),
        (
            reader::SURVEY_IDS,
            "SEARCH object USING INDEX object_id (id=? AND rowid>?)",
        ),
        (recover::COUNT_NEW, "object_queue (app_service_key=? AND state=?)"),
        (recover::NEW, "object_queue (app_service_key=? AND state=?)"),
        (
            recover::UNKNOWN_STATE,
            "object_queue (app_service_key=? AND state=?)",
        ),
        (recover::CRASHED, by_place),
        (recover::FORGET, by_place),
        (recover::COUNT, by_place),
        (recover::UNMARK_ENDED, by_place),
        (recover::SUSPECTS, by_place),
        (writer::SET_ASIDE, by_place),
        (settlement::RELEASE, by_id),
        (settlement::UNMARK, by_id),
        (
            insert::WAITING,
            "counter USING PRIMARY KEY (owner=? AND object_state=?)",
        ),
        (
            reader::LIST,
            "object_queue (app_service_key=? AND state=? AND seq>?)",
        ),
        (reader::STATS, "object_oldest (app_service_key=?)"),
        (reader::RECOUNT, "COVERING INDEX object_queue (app_service_key=?)"),
        (reader::STATS, "counter USING PRIMARY KEY (owner=?)"),
        (row::SELECT, by_place),
        (row::SELECT_PAGE, by_place),
        (settlement::CHANGE, by_id),
        (settlement::REMOVE, by_id),
        (settlement::REMOVE_AT, by_place),
        (settlement::REPLACE_PAYLOAD, by_id),
        (insert::FIND, by_id),
    ];
    for (statement, wanted) in statements {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let rows = sqlx::raw_sql(explain).fetch_all(&mut connection).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        assert!(
            plan.iter().any(|step| step.contains(wanted)),
            "not {wanted}: {statement}\n{plan:#?}"
        );
        let scans = plan
            .iter()
            .any(|step| step.starts_with("SCAN object") || step.starts_with("SCAN payload"));
        assert!(!scans, "{statement}\n{plan:#?}");
        let sorts = plan.iter().any(|step| step.contains("TEMP B-TREE FOR ORDER BY"));
        assert!(!sorts, "{statement}\n{plan:#?}");
    }
}

#[tokio::test]
async fn the_index_of_devices_is_there_only_for_those_who_ask_for_order() {
    let folder = folder();
    let mut queue = open(&folder).await;
    append(&queue, &[object(1)]).await;
    let indexes = "SELECT count(*) FROM sqlite_schema WHERE name = 'object_device'";
    let ordered = Claim {
        ordered: true,
        ..claim()
    };
    // given claims without order, with it, and, after a start, without it
    for (restart, page, wanted) in [
        (false, claim(), 0),
        (false, ordered.clone(), 1),
        (true, ordered, 1),
        (true, claim(), 0),
    ] {
        if restart {
            queue.close().await;
            queue = open(&folder).await;
        }
        queue.claim(page).await.unwrap();
        let mut connection = raw(&folder).await;
        let found: i64 = sqlx::query_scalar(indexes)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(found, wanted);
    }
    let waits = queue.is_waiting(&object(1).pipeline_id, "pump-1").await;
    assert!(waits.unwrap(), "a look at a device brings it back");
}

#[tokio::test]
async fn the_file_is_set_up_for_durability() {
    let folder = folder();
    let queue = open(&folder).await;
    append(&queue, &[object(1)]).await;
    let mut connection = raw(&folder).await;
    for (pragma, wanted) in [("PRAGMA journal_mode", "wal"), ("PRAGMA auto_vacuum", "2")] {
        let row = sqlx::raw_sql(pragma).fetch_one(&mut connection).await.unwrap();
        let found = row
            .try_get::<String, _>(0)
            .unwrap_or_else(|_| row.get::<i64, _>(0).to_string());
        assert_eq!(found, wanted, "{pragma}");
    }
}

#[test]
fn a_reserve_can_be_given_up_once_and_filled_again() {
    let folder = folder();
    let mut reserve = crate::files::Reserve::of(&folder.path().join("app.db"));
    assert_eq!(file_bytes(&folder, "app.db.reserve"), 4 << 20);
    assert!(reserve.give_up());
    assert_eq!(file_bytes(&folder, "app.db.reserve"), 0);
    assert!(!reserve.give_up());
    reserve.refill();
    assert_eq!(file_bytes(&folder, "app.db.reserve"), 4 << 20);
}

/// Notes that a task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[tokio::test]
async fn who_claims_what_a_verdict_has_released_keeps_it_when_the_writer_hears_of_its_commit() {
    // given the row of a run that has not ended, and a writer that goes only as far as it is told
    let folder = folder();
    let (queue, writer) = SqliteQueue::open(options(&folder)).await.unwrap();
    let mut writer = pin!(writer.run());
    let row = StoredObject {
        state: ObjectState::New,
        context: Default::default(),
        ..object(1)
    };
    let begin = async {
        append(&queue, std::slice::from_ref(&row)).await;
        // The first claim of all may have something to write.
        assert_eq!(queue.claim(claim()).await.unwrap(), []);
    };
    tokio::select! {
        () = &mut writer => unreachable!("the queue is open"),
        () = begin => {}
    }
    // when its run lets go of it, and it is claimed after the commit and before the writer hears of that
    let verdicts = verdicts(&[row], &Action::RELEASE);
    let mut settling = pin!(queue.settle(&verdicts));
    assert!((&mut settling).now_or_never().is_none());
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = woken.clone().into();
    while queue.stats().await.unwrap().failed.objects == 0 {
        if woken.0.swap(false, Ordering::AcqRel) {
            let step = writer.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(step.is_pending());
        }
        while !woken.0.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
    }
    let mut claiming = pin!(queue.claim(claim()));
    while !queue.lanes(Duration::ZERO, claim().now).await.unwrap().is_empty() {
        assert!((&mut claiming).now_or_never().is_none());
    }
    let end = async {
        let (settled, claimed) = tokio::join!(settling, claiming);
        settled.unwrap();
        assert_eq!(claimed.unwrap().len(), 1);
        // then nobody else is given it
        assert_eq!(queue.claim(claim()).await.unwrap(), []);
    };
    tokio::select! {
        () = &mut writer => unreachable!("the queue is open"),
        () = end => {}
    }
}
