//! A store copied, looked through and put away by the commands. Killing a copy at any moment loses and doubles nothing.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Postgres, Process};
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::random::{self, Random};
use crate::support::Service;

const SERVICE_KEY: &str = "app-copied";
/// The database of EdgeX.
const DATABASE: &str = "edgex_db";

/// A service that has its store on a server. It is never started.
fn service(server: &Postgres) -> Result<Service> {
    let service = Service::new()?;
    let folder = service.data_dir().join("res");
    std::fs::create_dir(&folder)?;
    let configuration = format!(
        "
Writable:
  InsecureSecrets:
    DB:
      SecretName: postgres
      SecretData:
        username: {user}
        password: {password:?}
  Pipeline:
    ExecutionOrder: Compress
    Functions:
      Compress:
        Parameters:
          Algorithm: gzip
Database:
  Type: postgres
  Host: 127.0.0.1
  Port: {port}
",
        user = Postgres::USER,
        password = Postgres::PASSWORD,
        port = server.port(),
    );
    std::fs::write(folder.join("configuration.yaml"), configuration)?;
    Ok(service
        .flag(&format!("-cd={}", folder.display()))
        .flag(&format!("-sk={SERVICE_KEY}")))
}

fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Has the tables of a service made, and as many objects kept in each state in turn.
fn fill(server: &Postgres, service: &Service, objects: u64) -> Result<()> {
    // An import makes them when there is something of the original's.
    let original = format!(
        "CREATE SCHEMA \"{SERVICE_KEY}\";
         CREATE TABLE \"{SERVICE_KEY}\".store (id uuid PRIMARY KEY, created timestamp DEFAULT now(), content jsonb);
         INSERT INTO \"{SERVICE_KEY}\".store (id, content) VALUES (gen_random_uuid(), '{{}}')"
    );
    server.psql(DATABASE, &original)?;
    let imported = printed(&service.run(&["store", "import"])?);
    ensure!(
        imported.contains("cannot be read, stay where they are: 1"),
        "{imported}"
    );
    let kept = format!(
        "SET search_path TO \"{SERVICE_KEY}\";
         INSERT INTO object (seq, owner, created_at, last_attempt_at, not_before, ended_at, payload_bytes, attempts,
             pipeline_position, state, id, pipeline_id, version, correlation_id, context_data, input_kind,
             input_content_type, input_topic, last_error, errors, reason, destination, device)
         SELECT nextval('object_seq'), 1, 1700000000000 + n, nullif(1700000100000 + n, 1700000100000 + n / 3 * 3),
             CASE WHEN n % 7 = 0 THEN 1700000200000 + n END, CASE WHEN n % 5 IN (1, 3) THEN 1700000300000 + n END,
             n % 100, n % 11, n % 3, n % 5, gen_random_uuid(), 'pipeline-' || n % 4, md5(n::text), 'correlation ' || n,
             '{{\"devicename\":\"Device ' || n % 9 || '\"}}',
             CASE WHEN n % 2 = 0 THEN 'delivery' ELSE 'bytes' END,
             CASE WHEN n % 2 = 0 THEN 'application/json' END, CASE WHEN n % 2 = 0 THEN 'edgex/events/' || n END,
             CASE WHEN n % 4 = 0 THEN 'status 500 ü' END,
             CASE WHEN n % 4 = 0 THEN jsonb_build_array(jsonb_build_object('attempt', 1, 'at', n, 'error', 'first')) END,
             CASE WHEN n % 5 = 3 THEN 'retries_exceeded' END, CASE WHEN n % 2 = 1 THEN 'http://cloud' END,
             'Device ' || n % 9
         FROM generate_series(1, {objects}) AS n;
         INSERT INTO payload (seq, bytes)
         SELECT seq, convert_to(rpad('', payload_bytes::int, seq::text), 'utf8') FROM object"
    );
    server.psql(DATABASE, &kept).map(drop)
}

/// The columns that make an object.
const COLUMNS: &str = "state, pipeline_id, pipeline_position, version, correlation_id, context_data, input_kind,
    input_content_type, input_topic, attempts, created_at, last_attempt_at, not_before, last_error, reason, destination,
    ended_at, device, payload_bytes";

/// A store, looked at behind the back of whoever writes it.
enum Store<'a> {
    File(&'a Path),
    Server(&'a Postgres, &'a str),
}

impl Store<'_> {
    /// What SQL answers, a text for each row; nothing while there are no tables.
    async fn ask(&self, sql: &str) -> Result<Vec<String>> {
        match self {
            Self::File(path) => {
                if !path.exists() {
                    return Ok(Vec::new());
                }
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .busy_timeout(LONG)
                    .read_only(true);
                let mut connection = SqliteConnection::connect_with(&options).await?;
                let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                    .fetch_all(&mut connection)
                    .await;
                connection.close().await?;
                match rows {
                    Err(sqlx::Error::Database(error)) if error.message().contains("no such table") => {
                        Ok(Vec::new())
                    }
                    rows => Ok(rows?),
                }
            }
            Self::Server(server, database) => {
                let sql = format!("SET search_path TO \"{SERVICE_KEY}\"; {sql}");
                match server.psql(database, &sql) {
                    Err(error) if error.to_string().contains("\"object\" does not exist") => Ok(Vec::new()),
                    rows => Ok(rows?.lines().map(str::to_owned).collect()),
                }
            }
        }
    }

    async fn count(&self) -> Result<u64> {
        let count = self
            .ask("SELECT cast(count(*) AS varchar(20)) FROM object")
            .await?;
        Ok(count.first().map_or(Ok(0), |count| count.parse())?)
    }

    /// Every object, in order, each an array of its columns.
    async fn rows(&self) -> Result<Vec<Value>> {
        let array = match self {
            Self::File(_) => {
                format!("json_array(lower(hex(id)), {COLUMNS}, json(errors), lower(hex(bytes)))")
            }
            Self::Server(..) => format!(
                "json_build_array(replace(id::text, '-', ''), {COLUMNS}, errors, encode(bytes, 'hex'))"
            ),
        };
        let sql = format!("SELECT {array} FROM object LEFT JOIN payload USING (seq) ORDER BY seq");
        let rows = self.ask(&sql).await?;
        rows.iter().map(|row| Ok(serde_json::from_str(row)?)).collect()
    }
}

/// What a start makes of objects: those that only a running process can have in hand wait for an attempt, due at once.
fn as_started(rows: &[Value]) -> Vec<Value> {
    let rows = rows.iter().cloned();
    rows.map(|mut row| {
        if [0, 4].contains(&row[1].as_i64().unwrap_or(-1)) {
            row[1] = 2.into();
            row[12] = Value::Null;
        }
        row
    })
    .collect()
}

/// How a copy that was killed again and again came out.
#[derive(Default)]
struct Kills {
    /// How many met it at work.
    at_work: usize,
    /// How many of those before everything was there.
    in_part: usize,
}

/// Kills a copy at random moments, as often as said, and lets a last one end. What is there at any moment is a beginning of
/// what is to be there.
async fn copy_killed(
    service: &Service,
    (from, to): (&str, &str),
    wanted: &[Value],
    copied: &Store<'_>,
    (kills, random): (u64, &mut Random),
) -> Result<Kills> {
    let words = ["store", "copy", "--from", from, "--to", to];
    let mut met = Kills::default();
    for kill in 0..kills {
        // A part of what is missing, so that a kill meets each part of the way.
        let before = copied.count().await?;
        let missing = u64::try_from(wanted.len())? - before;
        let enough = before + random.below(missing / (kills - kill) + 1);
        let mut copy = Process::start("copy", &mut service.command_of(&words)?)?;
        wait::until("the copy to have come so far", LONG, async || {
            let is_on = copied.count().await? >= enough || copy.exit_status()?.is_some();
            ensure!(is_on, "it has not yet");
            anyhow::Ok(())
        })
        .await;
        // A moment of its work, not a state to wait for.
        tokio::time::sleep(Duration::from_millis(random.below(20))).await;
        let is_at_work = copy.exit_status()?.is_none();
        copy.kill9()?;
        let there = copied.rows().await?;
        ensure!(
            there.len() <= wanted.len() && there == wanted[..there.len()],
            "kill {kill}: the {} objects there are no beginning of the {} that are meant; first: {:?}",
            there.len(),
            wanted.len(),
            there.iter().zip(wanted).find(|(there, wanted)| there != wanted)
        );
        met.at_work += usize::from(is_at_work);
        met.in_part += usize::from(is_at_work && there.len() < wanted.len());
    }
    let last = service.run(&words)?;
    let said = printed(&last);
    ensure!(last.status.success(), "{said}");
    let copies = format!("copied: {} objects", wanted.len());
    let sums: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("sha256 "))
        .collect();
    let sums: Vec<_> = sums.iter().filter_map(|line| line.split(' ').next()).collect();
    ensure!(
        said.contains(&copies) && said.contains("They agree") && !said.contains("other objects"),
        "{said}"
    );
    ensure!(
        sums.len() == 2 && sums[0] == sums[1] && sums[0].len() == 64,
        "{said}"
    );
    let there = copied.rows().await?;
    ensure!(there == wanted, "what is there is not what is meant:\n{said}");
    Ok(met)
}

const SEED: u64 = 20_261_129;
const OBJECTS: u64 = 8_000;

#[tokio::test]
async fn killed_at_any_moment_a_copy_loses_and_doubles_nothing() -> Result<()> {
    let seed = random::seed(SEED)?;
    let mut random = Random(seed);
    // Given some thirty pages of objects in all states on a server.
    let server = Postgres::start().await?;
    let service = service(&server)?;
    fill(&server, &service, OBJECTS)?;
    let first = Store::Server(&server, DATABASE);
    let there = first.rows().await?;
    ensure!(
        u64::try_from(there.len())? == OBJECTS,
        "there are {}",
        there.len()
    );
    let wanted = as_started(&there);
    let database = server.database()?;
    let (from, to) = (address(&server, DATABASE), address(&server, &database));
    let file = service.data_dir().join("copy.db");
    let name = file.to_str().context("a temporary folder has a name in UTF-8")?;

    // When they are copied into a file, and from there to the server, and each copy is killed again and again.
    let copied = Store::File(&file);
    let into_file = copy_killed(&service, (&from, name), &wanted, &copied, (6, &mut random)).await;
    let into_file = into_file.with_context(|| format!("seed {seed}, to SQLite"))?;
    let copied = Store::Server(&server, &database);
    let onto_server = copy_killed(&service, (name, &to), &wanted, &copied, (4, &mut random)).await;
    let onto_server = onto_server.with_context(|| format!("seed {seed}, to PostgreSQL"))?;

    // Then what was copied is as it was.
    ensure!(
        first.rows().await? == there,
        "seed {seed}: the first store has changed"
    );
    tell(seed, &into_file, &onto_server);
    Ok(())
}

fn address(server: &Postgres, database: &str) -> String {
    let password = Postgres::PASSWORD.replace(' ', "%20").replace('"', "%22");
    let (user, port) = (Postgres::USER, server.port());
    format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}")
}

#[expect(
    clippy::print_stdout,
    reason = "how often a kill met it at work says what the test is worth"
)]
fn tell(seed: u64, into_file: &Kills, onto_server: &Kills) {
    for (to, kills) in [("SQLite", into_file), ("PostgreSQL", onto_server)] {
        println!(
            "seed {seed}: of the kills of a copy to {to}, {} met it at work, {} with objects missing",
            kills.at_work, kills.in_part
        );
    }
}
