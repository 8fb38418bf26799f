//! A store copied, looked through and put away by the commands. Killing a copy at any moment loses and doubles nothing; a
//! look through and a backup beside the running service are right and disturb nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Behaviour, HttpSink, Mosquitto, Postgres, Process};
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::random::{self, Random};
use crate::support::{
    Service, Stats, accepted, broker, each, event_id, publish, refusing, start_subscribed_to, wait_accepted,
};

const SERVICE_KEY: &str = "app-copied";
/// The database of EdgeX.
const DATABASE: &str = "edgex_db";

/// A service that sends everything by HTTP, or has nowhere to send anything, with this `Database` and these secrets.
fn service(database: &str, secrets: &str, bus: Option<(&Mosquitto, &str)>) -> Result<Service> {
    let service = Service::new()?;
    let folder = service.data_dir().join("res");
    std::fs::create_dir(&folder)?;
    let (broker, url) = bus.map_or((1, "http://nowhere"), |(broker, url)| (broker.port(), url));
    let configuration = format!(
        "
Writable:
  InsecureSecrets: {{{secrets}}}
  StoreAndForward:
    Enabled: true
    RetryInterval: 1s
    MaxRetryCount: 0
  Pipeline:
    ExecutionOrder: HTTPExport
    Functions:
      HTTPExport:
        Parameters: {{Method: post, MimeType: application/json, Url: {url}, PersistOnError: true}}
Service:
  Host: 127.0.0.1
MessageBus:
  Type: mqtt
  Host: 127.0.0.1
  Port: {broker}
  Optional: {{ClientId: {SERVICE_KEY}, Qos: 1, CleanSession: false}}
Trigger:
  Type: edgex-messagebus
  SubscribeTopics: events/#
Database: {{{database}}}
"
    );
    std::fs::write(folder.join("configuration.yaml"), configuration)?;
    Ok(service
        .flag(&format!("-cd={}", folder.display()))
        .flag(&format!("-sk={SERVICE_KEY}"))
        .env("EDGEHOLD_GENERATION", "3"))
}

/// The `Database` that is a server.
fn on(server: &Postgres) -> String {
    format!("Type: postgres, Host: 127.0.0.1, Port: {}", server.port())
}

/// The secret to get there with.
fn login() -> String {
    let (user, password) = (Postgres::USER, Postgres::PASSWORD);
    format!("DB: {{SecretName: postgres, SecretData: {{username: {user}, password: {password:?}}}}}")
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
    let service = service(&on(&server), &login(), None)?;
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

/// Runs a command beside whatever else goes on; answers whether it succeeded, and what it said.
async fn run(service: &Service, words: &[&str]) -> Result<(bool, String)> {
    let mut command = Process::start("command", &mut service.command_of(words)?)?;
    let status = command.wait_exit(LONG).await;
    // The end of it may still be on its way.
    let said = wait::until("what it said", LONG, async || {
        let said = command.lines().join("\n");
        ensure!(!said.is_empty(), "it has said nothing");
        Ok(said)
    });
    Ok((status.success(), said.await))
}

/// Publishes event after event, no faster than the service takes them in, until it is told to stop; answers the last one's
/// number.
async fn load(service: &Service, broker: &Mosquitto, first: u64, stop: &AtomicBool) -> Result<u64> {
    let mut next = first;
    while !stop.load(Ordering::Relaxed) {
        publish(broker.port(), next..next + 20).await?;
        next += 20;
        let taken = move |stats: &Stats| stats.books("started") + 100 >= next;
        service.wait_stats("the events to be taken in", taken).await;
    }
    Ok(next - 1)
}

/// Those of the first events that a store does not show as waiting.
fn missing(service: &Service, events: u64) -> Result<Vec<String>> {
    let output = service.run(&["store", "ls", "--json", "--limit", "0"])?;
    ensure!(output.status.success(), "{}", printed(&output));
    let objects: Vec<Value> = String::from_utf8(output.stdout)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let ids: BTreeSet<_> = objects
        .iter()
        .filter(|object| {
            object["payloadText"]
                .as_str()
                .is_some_and(|text| text.contains("Test-Device"))
        })
        .filter_map(|object| object["correlationId"].as_str())
        .collect();
    let wanted = (1..=events).map(event_id);
    Ok(wanted.filter(|id| !ids.contains(id.as_str())).collect())
}

const SOUND: [&str; 3] = [
    "the counters: they agree",
    "damaged: 0, sealed and not to be opened: 0",
    "The store is sound.",
];

#[track_caller]
fn assert_sound((succeeded, said): &(bool, String)) {
    assert!(
        *succeeded && SOUND.iter().all(|line| said.contains(line)),
        "{said}"
    );
}

/// Looks through the store of a service and puts it away while the service takes in, retries and delivers.
///
/// `put_away` makes a backup, and answers a service that has it for its store.
async fn look_beside_a_running_service(
    database: &str,
    secrets: &str,
    put_away: impl AsyncFnOnce(&Service) -> Result<Service>,
) -> Result<()> {
    const KEPT: u64 = 300;
    // Given a service with so many objects that wait.
    let (mut broker, sink) = tokio::try_join!(broker(), HttpSink::start())?;
    sink.behave(refusing());
    let mut service = service(database, secrets, Some((&broker, &sink.url("/"))))?;
    start_subscribed_to(&mut service, &mut broker, "edgex/events/#").await?;
    publish(broker.port(), 1..=KEPT).await?;
    let kept = |stats: &Stats| stats.store("waiting") == KEPT && stats.books("inFlight") == 0;
    service.wait_stats("the events to wait", kept).await;

    let begun = service.process().line_count();

    // When it is looked through and put away while more come in and are tried in vain,
    let stop = AtomicBool::new(false);
    let looks = async {
        assert_sound(&run(&service, &["store", "check"]).await?);
        let copy = put_away(&service).await?;
        // and while some are delivered and others are kept,
        let mut turn = 0_u32;
        sink.script(move |_| {
            turn = turn.wrapping_add(1);
            Behaviour::status(if turn.is_multiple_of(3) { 503 } else { 200 })
        });
        for _ in 0..5 {
            assert_sound(&run(&service, &["store", "check"]).await?);
        }
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(copy)
    };
    let (last, copy) = tokio::try_join!(load(&service, &broker, KEPT + 1, &stop), looks)?;

    // Then the copy is sound and has whatever was acknowledged before it began,
    assert_sound(&run(&copy, &["store", "check"]).await?);
    assert_eq!(missing(&copy, KEPT)?, [""; 0]);
    // and the service has delivered every event once, without an error.
    sink.behave(Behaviour::status(200));
    wait_accepted(&sink, 1..=last).await;
    service.wait_nothing_left().await;
    assert_eq!(accepted(&sink), each(1..=last, 1));
    let lines = service.process().lines();
    // A warning may say that the machine is busy.
    let errors = lines[begun..].iter().filter(|line| line.contains("level=ERROR"));
    assert_eq!(errors.collect::<Vec<_>>(), [""; 0]);
    assert_sound(&run(&service, &["store", "check"]).await?);
    service.stop().await
}

/// A backup made by the command.
async fn into_file(from: &Service, copy: Service) -> Result<Service> {
    let file = copy.data_dir().join(format!("{SERVICE_KEY}.db"));
    let name = file.to_str().context("a temporary folder has a name in UTF-8")?;
    let (succeeded, said) = run(from, &["store", "backup", name]).await?;
    ensure!(succeeded && said.contains("backed up: "), "{said}");
    Ok(copy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_looked_through_and_put_away_beside_its_service() -> Result<()> {
    let put_away = async |from: &Service| into_file(from, service("Type: sqlite", "", None)?).await;
    look_beside_a_running_service("Type: sqlite", "", put_away).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_file_is_looked_through_and_put_away_beside_its_service() -> Result<()> {
    let sealed = "Type: sqlite, Encryption: aes256-gcm, Compression: zstd";
    let keys = |key: &str| {
        format!(
            "E: {{SecretName: store-encryption, SecretData: {{k1: {}}}}}",
            key.repeat(32)
        )
    };
    let put_away = async |from: &Service| {
        let copy = into_file(from, service(sealed, &keys("1a"), None)?).await?;
        // With another key nothing can be opened, and that is said.
        let other = service(sealed, &keys("2b"), None)?;
        std::fs::copy(
            copy.data_dir().join(format!("{SERVICE_KEY}.db")),
            other.data_dir().join(format!("{SERVICE_KEY}.db")),
        )?;
        let (succeeded, said) = run(&other, &["store", "check"]).await?;
        assert!(!succeeded, "{said}");
        for line in [
            "the file: sound",
            "the counters: they agree",
            "damaged: 0, sealed and not to be opened: ",
            "it is sealed, and the keys there are do not open it",
            "The store is not sound.",
        ] {
            assert!(said.contains(line), "{line:?} is missing in:\n{said}");
        }
        assert!(!said.contains("not to be opened: 0"), "{said}");
        Ok(copy)
    };
    look_beside_a_running_service(sealed, &keys("1a"), put_away).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_on_a_server_are_looked_through_and_put_away_beside_their_service() -> Result<()> {
    let server = Postgres::start().await?;
    let put_away = async |from: &Service| {
        // What is said is how it is done.
        let (succeeded, said) = run(from, &["store", "backup", "it's a dump"]).await?;
        assert!(!succeeded, "{said}");
        let hint = said.split_once("for example: ").context("there is a hint")?.1;
        let hint = hint
            .trim_end_matches('"')
            .replace("\\\"", "\"")
            .replace("\\\\", "\\");
        let where_it_is = format!(
            "-h 127.0.0.1 -p {} -U {} {DATABASE}",
            server.port(),
            Postgres::USER
        );
        let dump = hint.replace('…', &where_it_is);
        let program = Postgres::program("pg_dump")?;
        let folder = program.parent().context("a program is in a folder")?;
        let copy = server.database()?;
        let restore = format!(
            "pg_restore -h 127.0.0.1 -p {} -U {} -d {copy} \"it's a dump\"",
            server.port(),
            Postgres::USER
        );
        for line in [dump, restore] {
            let mut shell = std::process::Command::new("/bin/sh");
            shell
                .args(["-c", &line])
                .env("PATH", format!("{}:/usr/bin:/bin", folder.display()))
                .env("PGPASSWORD", Postgres::PASSWORD)
                .current_dir(from.data_dir());
            let mut shell = Process::start("sh", &mut shell)?;
            let status = shell.wait_exit(LONG).await;
            ensure!(status.success(), "{line}: {}", shell.tail());
        }
        let copy = service(&on(&server), &login(), None)?.env("EDGEX_DBNAME", &copy);
        Ok(copy)
    };
    look_beside_a_running_service(&on(&server), &login(), put_away).await
}
