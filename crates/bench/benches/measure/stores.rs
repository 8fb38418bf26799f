//! How fast a store keeps objects and lets them go, beside what its engine does with the same rows by itself: as many rows
//! to a transaction, into tables with the same columns and indexes, in turns with it.
//!
//! One call after the other, so that nothing is committed together with anything else. Of the engine alone, one
//! transaction reads a page of whole rows, without making anything of them, and deletes it; a store needs two, because what
//! it hands out has to be known after a crash.
//!
//! What encryption and compression cost is measured beside the same store without them.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use edgehold_bench::report::{Rate, Report};
use edgehold_core::{
    BoxFuture, Destination, ObjectState, Secret, SecretError, SecretProvider, SecretText, ServiceKey,
    StoredObject, StoredObjectId, Timestamp,
    retry::{Action, Verdict},
};
use edgehold_store::{Claim, Lane, RetryQueue, Room, Selection, Suspects, conformance};
use edgehold_store_postgres::PostgresQueue;
use edgehold_store_sealed::{SealedQueue, Sealing};
use edgehold_store_sqlite::SqliteQueue;
use edgehold_test_support::Postgres;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Row as _, SqliteConnection, postgres::PgConnectOptions,
};
use tokio::time::Instant;
use uuid::Uuid;

/// Rows to a call, and rows in all.
const SIZES: [(usize, usize); 3] = [(1, 2_000), (32, 32_000), (256, 102_400)];
/// Turns in which they go. What else the machine does comes and goes in seconds: it is to meet all of them.
const ROUNDS: usize = 20;
const PAYLOAD_BYTES: usize = 1_024;
const DATABASE: &str = "edgex_db";
const SERVICE_KEY: &str = "app-bench-store";

/// The rates of both stores and their engines.
pub(crate) async fn rates(report: &mut Report) -> Result<()> {
    report.rates.extend(of_sqlite().await?);
    report.rates.extend(of_postgres().await?);
    Ok(())
}

async fn of_sqlite() -> Result<Vec<Rate>> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let service_key = ServiceKey::try_new(SERVICE_KEY)?;
    let mut alone = SqliteAlone::open(folder.path(), &service_key).await?;
    let options = edgehold_store_sqlite::Options::new(folder.path().join("app.db"), service_key);
    let (queue, writer) = SqliteQueue::open(options).await?;
    let queue = Arc::new(queue);
    let sealing = Sealing {
        encryption: true,
        compression: true,
        secret_name: String::new(),
    };
    let sealed = SealedQueue::new(queue.clone(), Arc::new(OneKey), sealing);
    let work = async {
        let mut plain = Store("SQLite", "SQLite alone", &*queue);
        let mut sealed = Store("SQLite, encrypted and compressed", "SQLite", &sealed);
        let rates = in_turns(&mut [&mut alone, &mut plain, &mut sealed]).await;
        queue.close().await;
        rates
    };
    let ((), rates) = tokio::join!(writer.run(), work);
    rates
}

async fn of_postgres() -> Result<Vec<Rate>> {
    // As it is installed: it syncs.
    let server = Postgres::builder().setting("fsync", "on").start().await?;
    let options = edgehold_store_postgres::Options {
        port: server.port(),
        username: Postgres::USER.to_owned(),
        password: SecretText::new(Postgres::PASSWORD),
        ..edgehold_store_postgres::Options::new("127.0.0.1", ServiceKey::try_new(SERVICE_KEY)?)
    };
    let (queue, worker) = PostgresQueue::open(options).await?;
    let work = async {
        let rates = async {
            let mut alone = PostgresAlone::open(&server).await?;
            let mut store = Store("PostgreSQL", "PostgreSQL alone", &queue);
            in_turns(&mut [&mut alone, &mut store]).await
        };
        let rates = rates.await;
        queue.close().await;
        rates
    };
    let ((), rates) = tokio::join!(worker.run(), work);
    rates
}

fn objects(count: usize) -> Result<Vec<StoredObject>> {
    let service_key = ServiceKey::try_new(SERVICE_KEY)?;
    let object = |number| StoredObject {
        id: StoredObjectId::from_uuid(Uuid::now_v7()),
        service_key: service_key.clone(),
        payload: payload(number),
        state: ObjectState::Failed,
        destination: Some(Destination::new("http://localhost:8080")),
        ..conformance::object(number)
    };
    Ok((0..u64::try_from(count)?).map(object).collect())
}

/// An event, cut at a length: what repeats in it and what does not is as in one.
fn payload(number: u64) -> Bytes {
    let mut event = String::from(
        r#"{"apiVersion":"v3","deviceName":"pump-1","profileName":"Pump","sourceName":"Pressure","readings":["#,
    );
    while event.len() < PAYLOAD_BYTES {
        let (id, origin) = (Uuid::now_v7(), 1_700_000_000_000_000_000 + number * 7_919);
        event.push_str(&format!(
            r#"{{"id":"{id}","origin":{origin},"deviceName":"pump-1","resourceName":"Pressure","profileName":"Pump","valueType":"Uint64","value":"{number}"}},"#,
        ));
    }
    event.truncate(PAYLOAD_BYTES);
    event.into()
}

/// A secret with one key.
struct OneKey;

impl SecretProvider for OneKey {
    fn secret<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        let secret = Secret::from([("k1".to_owned(), SecretText::new("1a".repeat(32)))]);
        Box::pin(std::future::ready(Ok(secret)))
    }
}

/// What keeps rows and lets them go: a store, or an engine by itself.
trait Keeps {
    fn name(&self) -> &'static str;

    /// The name of what it is compared with.
    fn compared_with(&self) -> Option<&'static str> {
        None
    }

    /// Keeps a page, durably.
    fn keep<'a>(&'a mut self, page: &'a [StoredObject]) -> BoxFuture<'a, Result<()>>;

    /// Hands out so many and lets them go, durably. Answers how many there were.
    fn let_go(&mut self, size: usize) -> BoxFuture<'_, Result<usize>>;
}

/// What each of them takes to keep as many rows and to let them go.
async fn in_turns(all: &mut [&mut dyn Keeps]) -> Result<Vec<Rate>> {
    let mut rates = Vec::new();
    for (size, rows) in SIZES {
        let mut taken = vec![(Duration::ZERO, Duration::ZERO); all.len()];
        for round in 0..ROUNDS {
            for place in 0..all.len() {
                // None is always the first one after the same other one.
                let which = (round + place) % all.len();
                let one = &mut all[which];
                let objects = objects(rows / ROUNDS)?;
                let begin = Instant::now();
                for page in objects.chunks(size) {
                    one.keep(page).await?;
                }
                taken[which].0 += begin.elapsed();
                let (begin, mut gone) = (Instant::now(), 0);
                loop {
                    match one.let_go(size).await? {
                        0 => break,
                        count => gone += count,
                    }
                }
                taken[which].1 += begin.elapsed();
                ensure!(gone == objects.len(), "{gone} of {} left", objects.len());
            }
        }
        for (one, (keeping, letting_go)) in all.iter().zip(taken) {
            for (what, elapsed) in [("append", keeping), ("claim, settle", letting_go)] {
                let name = |of: &str| format!("{what} by {size}, {of}");
                rates.push(Rate {
                    name: name(one.name()),
                    sent: rows,
                    arrived: rows,
                    elapsed,
                    cpu: None,
                    compared_with: one.compared_with().into_iter().map(name).collect(),
                });
            }
        }
    }
    Ok(rates)
}

/// A store, by its name and what it is compared with.
struct Store<'a>(&'static str, &'static str, &'a dyn RetryQueue);

impl Keeps for Store<'_> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn compared_with(&self) -> Option<&'static str> {
        Some(self.1)
    }

    fn keep<'a>(&'a mut self, page: &'a [StoredObject]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for answer in self.2.append(page, Room::default()).await {
                answer?;
            }
            Ok(())
        })
    }

    fn let_go(&mut self, size: usize) -> BoxFuture<'_, Result<usize>> {
        Box::pin(async move {
            let page = self.2.claim(claim(size)).await?;
            let removal = |object: &StoredObject| Verdict {
                id: object.id,
                action: Action::Remove,
            };
            let removals: Vec<_> = page.iter().map(removal).collect();
            if !removals.is_empty() {
                self.2.settle(&removals).await?;
            }
            Ok(page.len())
        })
    }
}

fn claim(limit: usize) -> Claim {
    Claim {
        selection: Selection {
            lane: Lane::Any,
            due: Some(Duration::from_secs(1)),
        },
        suspects: Suspects::Exclude,
        ordered: false,
        after_seq: 0,
        now: Timestamp::from_unix_millis(1_900_000_000_000),
        limit,
        max_bytes: usize::MAX,
    }
}

/// What PostgreSQL does by itself: an UNNEST into each of two tables, one commit.
struct PostgresAlone {
    connection: PgConnection,
    last_seq: i64,
}

impl PostgresAlone {
    async fn open(server: &Postgres) -> Result<Self> {
        let options = PgConnectOptions::from_str(&format!(
            "postgres://{}@127.0.0.1:{}/{DATABASE}",
            Postgres::USER,
            server.port()
        ))?
        .password(Postgres::PASSWORD)
        .options([
            ("search_path", format!("\"{SERVICE_KEY}\"")),
            ("enable_seqscan", "off".to_owned()),
        ]);
        let mut connection = PgConnection::connect_with(&options).await?;
        let tables = "CREATE TABLE alone (LIKE object INCLUDING ALL);
                      CREATE TABLE alone_payload (LIKE payload INCLUDING ALL);
                      ALTER TABLE alone ALTER COLUMN seq SET DEFAULT nextval('object_seq')";
        sqlx::raw_sql(tables).execute(&mut connection).await?;
        Ok(Self {
            connection,
            last_seq: 0,
        })
    }
}

impl Keeps for PostgresAlone {
    fn name(&self) -> &'static str {
        "PostgreSQL alone"
    }

    fn keep<'a>(&'a mut self, page: &'a [StoredObject]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let seqs: Vec<i64> = (self.last_seq..).take(page.len()).collect();
            self.last_seq += i64::try_from(page.len())?;
            let ids: Vec<_> = page.iter().map(|object| object.id.as_uuid()).collect();
            let correlations: Vec<_> = page.iter().map(|object| object.correlation_id.as_str()).collect();
            let payloads: Vec<_> = page.iter().map(|object| &object.payload[..]).collect();
            let mut transaction = self.connection.begin().await?;
            sqlx::query(
                "INSERT INTO alone (seq, owner, created_at, payload_bytes, attempts, pipeline_position, state, id,
                                    pipeline_id, version, correlation_id, context_data, input_kind, destination, device)
                 SELECT seq, 1, 1700000000000, 1024, 1, 1, 2, id, 'default-pipeline', '0123456789abcdef', correlation,
                        '{\"devicename\":\"pump-1\"}', 'bytes', 'http://localhost:8080', 'pump-1'
                 FROM unnest($1::bigint[], $2::uuid[], $3::text[]) AS row (seq, id, correlation)",
            )
            .bind(&seqs)
            .bind(ids)
            .bind(correlations)
            .execute(&mut *transaction)
            .await?;
            sqlx::query("INSERT INTO alone_payload SELECT * FROM unnest($1::bigint[], $2::bytea[])")
                .bind(&seqs)
                .bind(payloads)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(())
        })
    }

    fn let_go(&mut self, size: usize) -> BoxFuture<'_, Result<usize>> {
        Box::pin(async move {
            let mut transaction = self.connection.begin().await?;
            let page = sqlx::query(
                "SELECT alone.*, bytes FROM alone JOIN alone_payload USING (seq) WHERE state = 2
                 ORDER BY alone.seq LIMIT $1 FOR UPDATE OF alone SKIP LOCKED",
            )
            .bind(i64::try_from(size)?)
            .fetch_all(&mut *transaction)
            .await?;
            let seqs = page.iter().map(|row| row.try_get("seq"));
            let seqs = seqs.collect::<Result<Vec<i64>, _>>()?;
            for statement in [
                "DELETE FROM alone WHERE seq = ANY($1)",
                "DELETE FROM alone_payload WHERE seq = ANY($1)",
            ] {
                sqlx::query(statement)
                    .bind(&seqs)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            Ok(page.len())
        })
    }
}

const SQLITE_COLUMNS: [&str; 15] = [
    "seq",
    "id",
    "app_service_key",
    "state",
    "pipeline_id",
    "pipeline_position",
    "version",
    "correlation_id",
    "context_data",
    "input_kind",
    "attempts",
    "created_at",
    "destination",
    "device",
    "payload_bytes",
];

/// What SQLite does by itself: a multi-row insert into each of two tables, one commit.
struct SqliteAlone {
    connection: SqliteConnection,
    last_seq: i64,
}

impl SqliteAlone {
    async fn open(folder: &std::path::Path, service_key: &ServiceKey) -> Result<Self> {
        // The store's own tables, and nothing that keeps count of them.
        let file = folder.join("alone.db");
        let options = edgehold_store_sqlite::Options::new(&file, service_key.clone());
        let (queue, writer) = SqliteQueue::open(options).await?;
        tokio::join!(writer.run(), queue.close());
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(&file)
            .foreign_keys(true)
            .synchronous(sqlx::sqlite::SqliteSynchronous::Full);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let bare = "DROP TRIGGER object_inserted; DROP TRIGGER object_deleted; DROP TRIGGER object_changed";
        sqlx::raw_sql(bare).execute(&mut connection).await?;
        Ok(Self {
            connection,
            last_seq: 0,
        })
    }
}

impl Keeps for SqliteAlone {
    fn name(&self) -> &'static str {
        "SQLite alone"
    }

    fn keep<'a>(&'a mut self, page: &'a [StoredObject]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let row = format!("({})", vec!["?"; SQLITE_COLUMNS.len()].join(", "));
            let insert = format!(
                "INSERT INTO object ({}) VALUES {}",
                SQLITE_COLUMNS.join(", "),
                vec![row; page.len()].join(", ")
            );
            let insert_payloads = format!(
                "INSERT INTO payload VALUES {}",
                vec!["(?, ?)"; page.len()].join(", ")
            );
            let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            let mut object_rows = sqlx::query(AssertSqlSafe(insert.as_str()));
            let mut payload_rows = sqlx::query(AssertSqlSafe(insert_payloads.as_str()));
            for object in page {
                self.last_seq += 1;
                object_rows = object_rows
                    .bind(self.last_seq)
                    .bind(object.id.as_uuid().as_bytes().to_vec())
                    .bind(SERVICE_KEY)
                    .bind(2)
                    .bind("default-pipeline")
                    .bind(1)
                    .bind("0123456789abcdef")
                    .bind(object.correlation_id.as_str().to_owned())
                    .bind("{\"devicename\":\"pump-1\"}")
                    .bind("bytes")
                    .bind(1)
                    .bind(1_700_000_000_000_i64)
                    .bind("http://localhost:8080")
                    .bind("pump-1")
                    .bind(1_024);
                payload_rows = payload_rows.bind(self.last_seq).bind(object.payload.to_vec());
            }
            object_rows.execute(&mut *transaction).await?;
            payload_rows.execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(())
        })
    }

    fn let_go(&mut self, size: usize) -> BoxFuture<'_, Result<usize>> {
        Box::pin(async move {
            let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            let page = sqlx::query(
                "SELECT object.*, bytes FROM object INDEXED BY object_queue JOIN payload USING (seq)
                 WHERE app_service_key = ?1 AND state = 2 ORDER BY object.seq LIMIT ?2",
            )
            .bind(SERVICE_KEY)
            .bind(i64::try_from(size)?)
            .fetch_all(&mut *transaction)
            .await?;
            if let Some(last) = page.last() {
                sqlx::query("DELETE FROM object WHERE seq <= ?1")
                    .bind(last.try_get::<i64, _>("seq")?)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            Ok(page.len())
        })
    }
}
