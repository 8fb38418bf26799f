//! How a store is opened: by several at once, with tables of another version, over TLS, and without a server.

use edgehold_core::{
    ErrorClass,
    retry::{Action, Verdict},
};
use edgehold_store::{RetryQueue as _, StoreError, StoreStats, Suspects};
use edgehold_store_postgres::{SslMode, Tls};
use edgehold_test_support::Authority;
use futures_util::future::join_all;

use super::{instances::claim, *};

async fn refusal(options: Options) -> StoreError {
    match PostgresQueue::open(options).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn instances_that_start_at_once_make_the_tables_once() {
    let database = Database::new().await;
    let queues = join_all((0..8).map(|_| open(database.options()))).await;
    assert_eq!(database.sql("SELECT count(*) FROM _sqlx_migrations"), "2");
    assert_eq!(database.sql("SELECT count(*) FROM instance"), "8");
    for queue in &queues {
        assert_eq!(queue.stats().await.unwrap().waiting(), 0);
    }
    join_all(queues.iter().map(|queue| queue.close())).await;
}

#[tokio::test]
async fn tables_of_a_newer_version_are_refused_by_name_and_left_alone() {
    let database = Database::new().await;
    open(database.options()).await.close().await;
    database.sql("UPDATE _sqlx_migrations SET version = 999 WHERE version = 2");
    let error = refusal(database.options()).await;
    assert!(
        matches!(error, StoreError::NewerSchema { found: 999, .. }),
        "{error}"
    );
    assert_eq!(database.sql("SELECT max(version) FROM _sqlx_migrations"), "999");
    let looking = PostgresQueue::open_read_only(&database.options()).await;
    assert!(matches!(looking, Err(StoreError::NewerSchema { .. })));
}

#[tokio::test]
async fn tables_made_by_another_text_are_refused_with_a_word_why() {
    let database = Database::new().await;
    open(database.options()).await.close().await;
    database.sql("UPDATE _sqlx_migrations SET checksum = 'other' WHERE version = 1");
    let error = refusal(database.options()).await;
    assert!(
        error.to_string().contains("another text of migration 1"),
        "{error}"
    );
    assert_eq!(error.class(), ErrorClass::Permanent);
}

#[tokio::test]
async fn what_is_looked_at_is_not_made() {
    let database = Database::new().await;
    let looking = PostgresQueue::open_read_only(&database.options()).await.unwrap();
    assert!(looking.is_none(), "nothing has been stored");
    assert_eq!(
        database.sql("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()"),
        "0"
    );
    // Given an object, it is looked at, and a queue for looking writes nothing.
    let queue = open(database.options()).await;
    queue.append(&[conformance::object(1)], Default::default()).await;
    let looking = PostgresQueue::open_read_only(&database.options())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(looking.stats().await.unwrap().waiting(), 1);
    let appended = looking
        .append(&[conformance::object(2)], Default::default())
        .await;
    assert!(
        matches!(appended[..], [Err(StoreError::Configuration(_))]),
        "{appended:?}"
    );
    queue.close().await;
}

#[tokio::test]
async fn what_another_day_may_mend_is_no_final_answer() {
    let database = Database::new().await;
    let good = database.options();
    let cases = [
        (
            Options {
                password: SecretText::new("wrong"),
                ..good.clone()
            },
            "refuses these credentials: user and password are in the secret named as Database/Type, or in the address given",
        ),
        (
            Options {
                database: "nowhere".to_owned(),
                ..good.clone()
            },
            "EDGEX_DBNAME",
        ),
        (
            Options {
                port: 1,
                ..good.clone()
            },
            "no connection",
        ),
    ];
    for (options, reason) in cases {
        let error = refusal(options).await;
        assert_eq!(error.class(), ErrorClass::Transient, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_user_without_rights_is_told_which_are_needed() {
    let database = Database::new().await;
    database.sql("CREATE ROLE nobody_special LOGIN PASSWORD 'x'");
    let mut options = database.options();
    options.username = "nobody_special".to_owned();
    options.password = SecretText::new("x");
    let error = refusal(options.clone()).await;
    assert!(error.to_string().contains("grant this user CREATE"), "{error}");
    // With a schema of its own it needs no right on the database.
    database.sql("CREATE SCHEMA \"app-conformance\" AUTHORIZATION nobody_special");
    let queue = open(options).await;
    queue.close().await;
    database.sql("DROP SCHEMA \"app-conformance\" CASCADE");
}

#[tokio::test]
async fn a_server_is_believed_as_far_as_its_certificate_goes() {
    let (ours, others) = (Authority::new().unwrap(), Authority::new().unwrap());
    let certificate = ours.issue("127.0.0.1").unwrap();
    let server = Postgres::builder()
        .certificate(&certificate)
        .start()
        .await
        .unwrap();
    let of = |mode, authority: Option<&Authority>| Options {
        tls: Tls {
            mode,
            authority: authority.map(|authority| SecretText::new(authority.pem())),
            identity: None,
        },
        ..options(&server, "edgex_db", conformance::service_key())
    };
    let encrypted = || {
        let count = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE application_name LIKE 'edgehold%'";
        server.psql("edgex_db", count).unwrap()
    };
    for (mode, authority, is_encrypted) in [
        (None, Some(&ours), "t"),
        (Some(SslMode::VerifyFull), Some(&ours), "t"),
        (Some(SslMode::VerifyCa), Some(&ours), "t"),
        (Some(SslMode::Require), None, "t"),
        (None, None, "t"),
        (Some(SslMode::Disable), None, "f"),
    ] {
        let queue = open(of(mode, authority)).await;
        queue.stats().await.unwrap();
        assert_eq!(encrypted(), is_encrypted, "{mode:?}");
        queue.close().await;
    }
    // The certificate is another's, or of nobody who is trusted, or for another host.
    for (mode, authority) in [
        (None, Some(&others)),
        (Some(SslMode::VerifyCa), Some(&others)),
        (Some(SslMode::VerifyFull), None),
    ] {
        let error = refusal(of(mode, authority)).await;
        assert!(error.to_string().contains("TLS"), "{mode:?}: {error}");
    }
    let elsewhere = Options {
        host: "localhost".to_owned(),
        ..of(None, Some(&ours))
    };
    let error = refusal(elsewhere).await;
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn two_services_share_a_database_and_nothing_in_it() {
    let database = Database::new().await;
    let mine = open(database.options()).await;
    let key = ServiceKey::try_new("app \"odd\" \\ 'key'; DROP").unwrap();
    let other = open(options(&database.server, &database.name, key.clone())).await;
    mine.append(&[conformance::object(1)], Default::default()).await;
    let theirs = edgehold_core::StoredObject {
        service_key: key,
        ..conformance::object(1)
    };
    assert!(
        other
            .append(&[theirs.clone(), conformance::object(2)], Default::default())
            .await[1]
            .is_err()
    );
    assert_eq!(mine.stats().await.unwrap().waiting(), 1);
    assert_eq!(other.stats().await.unwrap().waiting(), 1);
    mine.close().await;
    other.close().await;
}

/// Makes the tables as version 1 did.
async fn made_by_version_1(database: &Database) {
    use sqlx::{
        Connection as _, SqlSafeStr as _,
        migrate::{Migration, MigrationType, Migrator},
    };
    let schema = conformance::service_key();
    database
        .server
        .psql(&database.name, &format!("CREATE SCHEMA \"{schema}\""))
        .unwrap();
    let mut connection = database.connect().await;
    let sql = include_str!("../../../../migrations/postgres/0001_stored_objects.sql").into_sql_str();
    let first = Migration::new(1, "stored objects".into(), MigrationType::Simple, sql, false);
    let migrator = Migrator::with_migrations(vec![first]);
    migrator.run_direct(None, &mut connection, false).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_version_1_has_stored_and_handed_out_is_taken_along() {
    // Given three objects, of which an instance that was killed had two in hand.
    let database = Database::new().await;
    made_by_version_1(&database).await;
    let [first, second, third] = [1, 2, 3].map(conformance::id);
    database.sql(&format!(
        "INSERT INTO instance (name, heartbeat_at) VALUES ('killed', '-infinity');
         INSERT INTO object (seq, owner, created_at, payload_bytes, attempts, pipeline_position, state, id, pipeline_id,
                             version, correlation_id, context_data, input_kind)
         SELECT nextval('object_seq'), 1, 5, 7, 1, 0, 2, id, 'default-pipeline', 'v', 'c', '{{}}', 'bytes'
         FROM unnest(ARRAY['{first}', '{second}', '{third}']::uuid[]) AS id;
         INSERT INTO payload SELECT seq, 'payload' FROM object;
         INSERT INTO lease SELECT seq, 1, 4 FROM object WHERE seq <= 2"
    ));
    // When this version opens them.
    let queue = open(database.options()).await;
    // Then those two were in flight at a crash, and the third was not.
    let ids =
        |objects: &[edgehold_core::StoredObject]| objects.iter().map(|object| object.id).collect::<Vec<_>>();
    let page = queue.claim(claim(Suspects::Exclude, 10)).await.unwrap();
    assert_eq!(ids(&page), [third]);
    assert_eq!(page[0].payload, "payload");
    let suspects = queue.claim(claim(Suspects::Only, 10)).await.unwrap();
    assert_eq!(ids(&suspects), [first, second]);
    assert!(suspects.iter().all(|object| object.crashes == 1), "{suspects:?}");
    // And they leave whole.
    let removals = [first, second, third].map(|id| Verdict {
        id,
        action: Action::Remove,
    });
    queue.settle(&removals).await.unwrap();
    assert_eq!(queue.stats().await.unwrap(), StoreStats::default());
    for table in ["object", "payload", "lease"] {
        assert_eq!(
            database.sql(&format!("SELECT count(*) FROM {table}")),
            "0",
            "{table}"
        );
    }
    queue.close().await;
}
