//! A server that stops answering and goes on later.

use std::{process::Command, time::Duration};

use edgehold_core::{
    ObjectState, StoredObject,
    retry::{Action, Verdict},
};
use edgehold_store::{
    ListRequest, ObjectFilter, RetryQueue, Room, StoreError,
    conformance::{id, object},
};
use edgehold_test_support::wait::{self, LONG};

use super::*;

/// The processes of the server that have this in their last statement.
fn backends(database: &Database, statement: &str) -> String {
    database.sql(&format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'edgehold%'
         AND query LIKE '%{statement}%'"
    ))
}

fn signal(pid: &str, signal: &str) {
    let killed = Command::new("sh")
        .args(["-c", r#"kill -s "$0" "$1""#, signal, pid])
        .status();
    assert!(killed.unwrap().success());
}

/// A database, and how somebody works in it who is no superuser.
async fn database(role: &str) -> (Database, Options) {
    let database = Database::new().await;
    database.sql(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT CREATE ON DATABASE \"{}\" TO {role}",
        database.name
    ));
    let options = Options {
        username: role.to_owned(),
        password: SecretText::new("x"),
        timeout: Duration::from_secs(1),
        ..database.options()
    };
    (database, options)
}

async fn append(queue: &PostgresQueue, number: u64) -> Result<i64, StoreError> {
    let begun = StoredObject {
        state: ObjectState::New,
        ..object(number)
    };
    queue.append(&[begun], Room::default()).await.remove(0)
}

async fn settled(queue: &PostgresQueue, number: u64) {
    let removal = [Verdict {
        id: id(number),
        action: Action::Remove,
    }];
    wait::until("the removal to be written", LONG, async || {
        anyhow::Ok(queue.settle(&removal).await?)
    })
    .await;
}

async fn kept(queue: &PostgresQueue) -> Vec<edgehold_core::StoredObjectId> {
    let request = ListRequest {
        states: ObjectState::ALL.to_vec(),
        filter: ObjectFilter::default(),
        after_seq: 0,
        limit: 10,
    };
    let page = queue.list(request).await.unwrap();
    page.objects.iter().map(|object| object.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_was_asked_for_before_does_not_happen_after_what_is_asked_next() {
    let (database, options) = database("freezes_in_appending").await;
    let queue = open(options).await;
    append(&queue, 1).await.unwrap();
    // Given an append that the server has not got to when it is given up.
    let writer = backends(&database, "INSERT INTO object");
    signal(&writer, "STOP");
    let appended = append(&queue, 2).await;
    assert!(
        matches!(appended, Err(StoreError::Unavailable { .. })),
        "{appended:?}"
    );
    // When its object is removed, and the server goes on.
    let removal = [Verdict {
        id: id(2),
        action: Action::Remove,
    }];
    let removed = queue.settle(&removal).await;
    signal(&writer, "CONT");
    if removed.is_err() {
        settled(&queue, 2).await;
    }
    wait::until("the old connection to have ended", LONG, async || {
        let ended = database.sql(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {writer}"
        ));
        anyhow::ensure!(ended == "0", "it has not");
        Ok(())
    })
    .await;
    // Then it does not come back.
    assert_eq!(kept(&queue).await, [id(1)]);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_ended_for_what_it_was_asked_before() {
    let (database, options) = database("loses_its_connection").await;
    let queue = open(options.clone()).await;
    let other = open(options).await;
    for (queue, number) in [(&queue, 1), (&other, 2)] {
        append(queue, number).await.unwrap();
    }
    let writers = backends(&database, "INSERT INTO object");
    let (lost, living) = writers.split_once('\n').unwrap();
    // When one of two has lost its connection, and made another one.
    database.sql(&format!("SELECT pg_terminate_backend({lost})"));
    settled(&queue, 1).await;
    settled(&other, 2).await;
    // Then the other one has its own.
    let same = database.sql(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {living}"
    ));
    assert_eq!(same, "1");
    queue.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_end_nothing_goes_on_after_a_lost_connection() {
    let (database, options) = database("may_end_nothing").await;
    let revoke = "REVOKE EXECUTE ON FUNCTION pg_terminate_backend FROM PUBLIC";
    database.sql(revoke);
    let queue = open(options).await;
    append(&queue, 1).await.unwrap();
    database.sql(&format!(
        "SELECT pg_terminate_backend({})",
        backends(&database, "INSERT INTO object")
    ));
    settled(&queue, 1).await;
    append(&queue, 2).await.unwrap();
    assert_eq!(kept(&queue).await, [id(2)]);
    queue.close().await;
}
