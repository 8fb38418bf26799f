//! The suite every store must pass, on a real PostgreSQL server.

use std::sync::Arc;

use edgehold_core::SecretText;
use edgehold_store::conformance::{self, TestStore};
use edgehold_store_postgres::{Options, PostgresQueue};
use edgehold_test_support::Postgres;

/// A database of its own, on a server that other tests use as well.
async fn make_store() -> TestStore {
    let server = Postgres::shared().await.unwrap();
    let database: Arc<str> = server.database().unwrap().into();
    TestStore::new(move || {
        let (server, database) = (server.clone(), database.clone());
        async move {
            let options = Options {
                port: server.port(),
                database: database.to_string(),
                username: Postgres::USER.to_owned(),
                password: SecretText::new(Postgres::PASSWORD),
                ..Options::new("127.0.0.1", conformance::service_key())
            };
            let (queue, worker) = PostgresQueue::open(options).await.unwrap();
            #[expect(clippy::disallowed_methods, reason = "a test has no service to spawn through")]
            tokio::spawn(worker.run());
            queue
        }
    })
}

edgehold_store::queue_conformance!(make_store);
edgehold_store::restart_conformance!(make_store);
edgehold_store::crash_conformance!(make_store);
