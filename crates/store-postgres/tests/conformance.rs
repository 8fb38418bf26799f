//! The suite every store must pass, on a real PostgreSQL server, and what only this one promises: how it is opened, and
//! several instances on the same tables.

#[path = "conformance/backlog.rs"]
mod backlog;
#[path = "conformance/frozen.rs"]
mod frozen;
#[path = "conformance/instances.rs"]
mod instances;
#[path = "conformance/opening.rs"]
mod opening;
#[path = "conformance/unheard.rs"]
mod unheard;

use std::sync::Arc;

use edgehold_core::{Destination, SecretText, ServiceKey};
use edgehold_store::{
    Lane, RetryQueue as _, Room, Suspects,
    conformance::{self, TestStore},
};
use edgehold_store_postgres::{Options, PostgresQueue, Worker};
use edgehold_test_support::Postgres;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

/// A database of its own, on a server that other tests use as well.
async fn make_store() -> TestStore {
    let database = Database::new().await;
    TestStore::new(move || {
        let options = database.options();
        async move { open(options).await }
    })
}

edgehold_store::queue_conformance!(make_store);
edgehold_store::restart_conformance!(make_store);
edgehold_store::crash_conformance!(make_store);

/// An empty database on a server that other tests use as well.
#[derive(Clone)]
struct Database {
    server: Arc<Postgres>,
    name: Arc<str>,
}

impl Database {
    async fn new() -> Self {
        let server = Postgres::shared().await.unwrap();
        let name = server.database().unwrap().into();
        Self { server, name }
    }

    fn options(&self) -> Options {
        options(&self.server, &self.name, conformance::service_key())
    }

    fn connect_options(&self) -> PgConnectOptions {
        connect_options(&self.server, &self.name)
    }

    /// A connection that works in the schema of the service.
    async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.connect_options()).await.unwrap()
    }

    /// What SQL answers, run in the schema of the service.
    fn sql(&self, sql: &str) -> String {
        let sql = format!("SET search_path = \"{}\"; {sql}", conformance::service_key());
        self.server.psql(&self.name, &sql).unwrap()
    }
}

/// For working in the schema of the service.
fn connect_options(server: &Postgres, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(server.port())
        .database(database)
        .username(Postgres::USER)
        .password(Postgres::PASSWORD)
        .options([("search_path", format!("\"{}\"", conformance::service_key()))])
}

fn options(server: &Postgres, database: &str, service_key: ServiceKey) -> Options {
    Options {
        port: server.port(),
        database: database.to_owned(),
        username: Postgres::USER.to_owned(),
        password: SecretText::new(Postgres::PASSWORD),
        ..Options::new("127.0.0.1", service_key)
    }
}

/// Opens a queue whose worker runs until it is closed.
async fn open(options: Options) -> PostgresQueue {
    let (queue, worker) = PostgresQueue::open(options).await.unwrap();
    spawn(worker);
    queue
}

fn spawn(worker: Worker) -> tokio::task::JoinHandle<()> {
    #[expect(clippy::disallowed_methods, reason = "a test has no service to spawn through")]
    tokio::spawn(worker.run())
}

#[tokio::test]
async fn the_connections_are_closed_with_the_queue() {
    let database = Database::new().await;
    let connections = || {
        let count = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name LIKE 'edgehold%'";
        database.sql(count)
    };
    for _ in 0..3 {
        let queue = open(database.options()).await;
        queue.stats().await.unwrap();
        assert!(connections().parse::<u32>().unwrap() <= 6, "{}", connections());
        queue.close().await;
    }
    edgehold_test_support::wait::until(
        "the connections to be closed",
        edgehold_test_support::wait::LONG,
        async || {
            anyhow::ensure!(connections() == "0", "there are {}", connections());
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn each_object_comes_with_its_payload_however_far_apart_they_lie() {
    let database = Database::new().await;
    let queue = open(database.options()).await;
    let [far, near] = ["http://far.apart", "http://close.together"].map(Destination::new);
    // Given objects of which some lie far apart, others have those in between, and the last ones are large.
    let objects: Vec<_> = (1..=42)
        .map(|number| {
            let mut object = conformance::object(number);
            match number {
                41.. => object.payload = vec![b'p'; 1 << 20].into(),
                _ if number % 4 == 0 => object.destination = Some(far.clone()),
                _ => object.destination = Some(near.clone()),
            }
            object
        })
        .collect();
    queue.append(&objects, Room::default()).await;
    for (lane, destination) in [
        (Lane::To(far.clone()), Some(far)),
        (Lane::To(near.clone()), Some(near)),
        (Lane::Any, None),
    ] {
        // When they are handed out.
        let mut claim = instances::claim(Suspects::Exclude, 100);
        claim.selection.lane = lane;
        let mut page = queue.claim(claim).await.unwrap();
        // Then each has its payload, and there are no others.
        page.iter_mut().for_each(|object| object.seq = 0);
        let wanted = objects
            .iter()
            .filter(|object| object.destination == destination)
            .cloned();
        assert!(page == wanted.collect::<Vec<_>>(), "{destination:?}");
    }
    queue.close().await;
}
