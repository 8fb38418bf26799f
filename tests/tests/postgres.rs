//! Store and Forward on a PostgreSQL server: beside what the original left there, with several instances of a service,
//! and while the server is down, dead, frozen or has no connection left.
//!
//! How the store keeps what it keeps is the conformance suite's.

mod storm;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Behaviour, HttpSink, Mosquitto, Postgres};

use self::storm::Storm;
use crate::random;
use crate::support::{
    Service, accepted, broker, each, exported_id, publish, refusing, sent, start_subscribed_to, wait_accepted,
};

const SERVICE_KEY: &str = "app-on-postgres";
/// The database of EdgeX.
const DATABASE: &str = "edgex_db";

/// Who may do no more than the store needs.
const USER: &str = "edgehold";
const PASSWORD: &str = "a secret";

/// A server on which that user may make a schema in the database of EdgeX.
async fn server() -> Result<Postgres> {
    let server = Postgres::start().await?;
    let user = format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'");
    server.psql(DATABASE, &user)?;
    server.psql(
        DATABASE,
        &format!("GRANT CREATE ON DATABASE {DATABASE} TO {USER}"),
    )?;
    Ok(server)
}

/// What the original makes of its schema, and a row of its own.
const ORIGINAL: &str = r#"
CREATE SCHEMA "app-on-postgres";
CREATE TABLE "app-on-postgres".store (id UUID PRIMARY KEY, created timestamp NOT NULL DEFAULT now(), content JSONB NOT NULL);
CREATE TABLE "app-on-postgres".schema_migrations (id SERIAL PRIMARY KEY, version TEXT NOT NULL, status TEXT NOT NULL,
    created TIMESTAMPTZ NOT NULL DEFAULT NOW());
INSERT INTO "app-on-postgres".schema_migrations (version, status) VALUES ('4.0.0-dev', 'SUCCESS');
INSERT INTO "app-on-postgres".store (id, content) VALUES ('5c2b4f0e-3f0b-4a57-8d2e-1f0c9b8a7d6e', '{"appServiceKey": "app-on-postgres"}');
"#;

/// What the original has there, as text.
const ORIGINAL_ROWS: &str = r#"SELECT (SELECT json_agg(s) FROM "app-on-postgres".store AS s),
    (SELECT json_agg(m) FROM "app-on-postgres".schema_migrations AS m)"#;

/// A service that exports everything by HTTP and keeps what fails in the database, once a second.
fn service(server: &Postgres, broker: &Mosquitto, url: &str, client: &str) -> Result<Service> {
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
  StoreAndForward:
    Enabled: true
    RetryInterval: 1s
    MaxRetryCount: 0
  Pipeline:
    ExecutionOrder: HTTPExport
    Functions:
      HTTPExport:
        Parameters:
          Method: post
          MimeType: application/json
          Url: {url}
          PersistOnError: true
Service:
  Host: 127.0.0.1
MessageBus:
  Type: mqtt
  Host: 127.0.0.1
  Port: {bus}
  Optional:
    ClientId: {client}
    Qos: 1
    CleanSession: false
Trigger:
  Type: edgex-messagebus
  SubscribeTopics: $share/on-postgres/events/#
Database:
  Type: postgres
  Host: 127.0.0.1
  Port: {port}
  Timeout: 2s
",
        user = USER,
        password = PASSWORD,
        bus = broker.port(),
        port = server.port(),
    );
    std::fs::write(folder.join("configuration.yaml"), configuration)?;
    Ok(service
        .flag(&format!("-cd={}", folder.display()))
        .flag(&format!("-sk={SERVICE_KEY}"))
        .env("EDGEHOLD_GENERATION", "3"))
}

async fn start(service: &mut Service, broker: &mut Mosquitto) -> Result<()> {
    start_subscribed_to(service, broker, "$share/on-postgres/edgex/events/#").await
}

/// How many objects the tables hold, whoever they belong to.
fn objects(server: &Postgres) -> Result<u64> {
    let count = server.psql(
        DATABASE,
        &format!("SELECT count(*) FROM \"{SERVICE_KEY}\".object"),
    )?;
    count.parse().context("a count is a number")
}

#[tokio::test]
async fn what_fails_is_kept_beside_the_originals_tables_and_read_by_the_commands() -> Result<()> {
    // Given a database in which the original has kept its objects.
    let (server, mut broker, sink) = tokio::try_join!(server(), broker(), HttpSink::start())?;
    server.psql(DATABASE, ORIGINAL)?;
    server.psql(
        DATABASE,
        &format!("GRANT CREATE, USAGE ON SCHEMA \"{SERVICE_KEY}\" TO {USER}"),
    )?;
    let original = server.psql(DATABASE, ORIGINAL_ROWS)?;

    // When exports fail.
    let mut service = service(&server, &broker, &sink.url("/"), "only")?;
    sink.behave(refusing());
    start(&mut service, &mut broker).await?;
    publish(broker.port(), 1..=3).await?;
    service
        .wait_stats("three objects to wait", |stats| stats.store("failed") == 3)
        .await;

    // Then they are in tables of our own in the same schema, and nowhere else, and the commands read them.
    assert_eq!(objects(&server)?, 3);
    assert_eq!(service.store_count()?, 3);
    let elsewhere = "SELECT string_agg(schemaname || '.' || relname, ' ') FROM pg_stat_user_tables
                     WHERE schemaname <> 'app-on-postgres'";
    assert_eq!(server.psql(DATABASE, elsewhere)?, "");

    // And a restart of the service and one of the server later they leave once.
    service.stop().await?;
    assert_eq!(service.store_count()?, 3, "also without the service");
    start(&mut service, &mut broker).await?;
    sink.behave(Behaviour::status(200));
    wait_accepted(&sink, 1..=3).await;
    service.wait_nothing_left().await;
    assert_eq!(accepted(&sink), each(1..=3, 1));
    assert_eq!(objects(&server)?, 0);

    // And what the original has there is as it was.
    assert_eq!(server.psql(DATABASE, ORIGINAL_ROWS)?, original);
    Ok(())
}

/// What a command printed and said, and whether it ended well.
fn command(service: &Service, words: &[&str]) -> Result<(bool, String)> {
    let output = service.run(words)?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.success(),
        text(&output.stdout) + &text(&output.stderr),
    ))
}

#[track_caller]
fn assert_told((done, told): (bool, String), wanted: bool, begins: &str) {
    assert!(done == wanted && told.contains(begins), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_error_collection_of_a_stopped_service_is_emptied_and_filled_in_its_database() -> Result<()> {
    // Given what a service that is stopped has given up.
    let (server, mut broker, sink) = tokio::try_join!(server(), broker(), HttpSink::start())?;
    let gives_up = |service: Service| {
        service.env("EDGEHOLD_ADMIN", "write").env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_PERMANENTSTATUS",
            "400",
        )
    };
    let mut service = gives_up(service(&server, &broker, &sink.url("/"), "only")?);
    sink.behave(Behaviour::status(400));
    start(&mut service, &mut broker).await?;
    publish(broker.port(), 1..=5).await?;
    service
        .wait_stats("five to be given up", |stats| stats.store("error") == 5)
        .await;
    service.stop().await?;
    let file = service.data_dir().join("dead.jsonl").display().to_string();

    // When it is asked for with nobody there, then the commands do it themselves.
    assert_told(
        command(&service, &["dead", "export", "--to", &file])?,
        true,
        "exported: 5 objects",
    );
    assert_told(command(&service, &["dead", "count"])?, true, "5 objects");
    assert_told(
        command(&service, &["dead", "redrive", "--all"])?,
        true,
        "re-driven: 5 of 5 objects",
    );
    assert_eq!(service.store_count()?, 5);
    let import = ["dead", "import", &file];
    assert_told(command(&service, &import)?, true, "imported: 0 of 5 objects");

    // And it all leaves when the service is back; what it does itself, it is asked for.
    sink.take();
    sink.behave(Behaviour::status(200));
    start(&mut service, &mut broker).await?;
    wait_accepted(&sink, 1..=5).await;
    service.wait_nothing_left().await;
    assert_told(
        command(&service, &import)?,
        false,
        "stop it, every instance of it",
    );
    service.stop().await?;
    assert_told(command(&service, &import)?, true, "imported: 5 of 5 objects");
    start(&mut service, &mut broker).await?;
    let first = service.error_collection()?[0]["id"].clone();
    let first = first.as_str().context("an id")?;
    assert_told(
        command(&service, &["dead", "purge", first])?,
        true,
        "purged: 1 of 1 objects",
    );
    assert_eq!(service.stats().await?.books("droppedPurged"), 1);

    // Who has the same database and another address is told where to ask, and a service that was killed is in nobody's way.
    let elsewhere = gives_up(self::service(&server, &broker, &sink.url("/"), "other")?);
    let purge = ["dead", "purge", "--all"];
    assert_told(
        command(&elsewhere, &purge)?,
        false,
        "a running instance of the service has the store, and none answers at",
    );
    service.kill9()?;
    assert_told(command(&elsewhere, &purge)?, true, "purged: 4 of 4 objects");
    assert_eq!(objects(&server)?, 0);
    Ok(())
}

/// The keys under which each event was sent, by its id.
fn idempotency_keys(sink: &HttpSink) -> BTreeMap<String, BTreeSet<String>> {
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in sink.requests() {
        if let (Some(id), Some(key)) = (exported_id(&request), request.header("Idempotency-Key")) {
            keys.entry(id).or_default().insert(key.to_owned());
        }
    }
    keys
}

#[tokio::test]
async fn of_two_instances_one_is_killed_and_the_other_delivers_everything_once() -> Result<()> {
    const EVENTS: u64 = 200;
    // Given two instances of one service, which share the topic, and a destination that does not answer.
    let (server, mut broker, sink) = tokio::try_join!(server(), broker(), HttpSink::start())?;
    let mut services = [
        service(&server, &broker, &sink.url("/"), "first")?,
        service(&server, &broker, &sink.url("/"), "second")?,
    ];
    sink.behave(refusing());
    for service in &mut services {
        start(service, &mut broker).await?;
    }
    publish(broker.port(), 1..=EVENTS).await?;
    let kept = || objects(&server);
    wait::until("everything to be kept", LONG, async || {
        let objects = kept()?;
        ensure!(objects == EVENTS, "there are {objects} of {EVENTS}");
        Ok(())
    })
    .await;
    let stored: Vec<u64> = [
        services[0].stats().await?.books("stored"),
        services[1].stats().await?.books("stored"),
    ]
    .into();
    assert!(
        stored.iter().all(|stored| *stored > 0),
        "both took part: {stored:?}"
    );

    // When both are busy with objects, and the first is killed.
    sink.behave(Behaviour::Hang);
    sink.take();
    let leased = format!("SELECT count(DISTINCT owner) FROM \"{SERVICE_KEY}\".lease");
    wait::until("both to have objects in hand", LONG, async || {
        let owners = server.psql(DATABASE, &leased)?;
        ensure!(owners == "2", "{owners} have some");
        Ok(())
    })
    .await;
    services[0].kill9()?;
    let killed = tokio::time::Instant::now();
    sink.behave(Behaviour::status(200));

    // Then the other one takes over what was in its hands within ten seconds.
    let alone = format!("SELECT count(*) FROM \"{SERVICE_KEY}\".instance");
    wait::until("the killed one to be taken over", LONG, async || {
        let instances = server.psql(DATABASE, &alone)?;
        ensure!(instances == "1", "there are {instances}");
        Ok(())
    })
    .await;
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        killed.elapsed()
    );

    // And everything arrives, under one key each: a receiver that honours it has each event once.
    wait_accepted(&sink, 1..=EVENTS).await;
    wait::until("nothing to be left", LONG, async || {
        let left = kept()?;
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await;
    let keys = idempotency_keys(&sink);
    assert_eq!(keys.len(), usize::try_from(EVENTS)?);
    for (id, keys) in &keys {
        assert_eq!(keys.len(), 1, "{id} was sent under {keys:?}");
    }
    Ok(())
}

#[tokio::test]
async fn two_instances_attempt_each_object_once() -> Result<()> {
    const EVENTS: u64 = 300;
    // Given two instances and a backlog that waits for a destination.
    let (server, mut broker, sink) = tokio::try_join!(server(), broker(), HttpSink::start())?;
    let mut services = [
        service(&server, &broker, &sink.url("/"), "first")?,
        service(&server, &broker, &sink.url("/"), "second")?,
    ];
    sink.behave(refusing());
    for service in &mut services {
        start(service, &mut broker).await?;
    }
    publish(broker.port(), 1..=EVENTS).await?;
    wait::until("everything to be kept", LONG, async || {
        let objects = objects(&server)?;
        ensure!(objects == EVENTS, "there are {objects} of {EVENTS}");
        Ok(())
    })
    .await;

    // When the destination is back.
    sink.behave(Behaviour::status(200));

    // Then each is accepted once, whoever sent it.
    wait_accepted(&sink, 1..=EVENTS).await;
    for service in &services {
        service.wait_nothing_left().await;
    }
    assert_eq!(accepted(&sink), each(1..=EVENTS, 1));
    Ok(())
}

#[tokio::test]
async fn what_is_in_the_spool_survives_kills_of_the_service_whatever_the_server_does() -> Result<()> {
    const EVENTS_A_STEP: u64 = 60;
    // Given a server that is down, and events that are kept in the spool.
    let (mut server, mut broker, sink) = tokio::try_join!(server(), broker(), HttpSink::start())?;
    let mut service = service(&server, &broker, &sink.url("/"), "only")?;
    sink.behave(refusing());
    start(&mut service, &mut broker).await?;
    server.stop().await?;
    let all_kept = |events: u64| move |stats: &crate::support::Stats| stats.all_ended(events);
    publish(broker.port(), 1..=EVENTS_A_STEP).await?;
    service
        .wait_stats("the first to be kept", all_kept(EVENTS_A_STEP))
        .await;

    // When the service is killed, started without the server, given more and killed again.
    service.kill9()?;
    start(&mut service, &mut broker).await?;
    let stats = service
        .wait_stats("what the first run left to be counted", |stats| {
            stats.store("waiting") >= EVENTS_A_STEP
        })
        .await;
    let again = stats.books("received");
    publish(broker.port(), EVENTS_A_STEP + 1..=2 * EVENTS_A_STEP).await?;
    service
        .wait_stats("the second to be kept", all_kept(again + EVENTS_A_STEP))
        .await;
    service.kill9()?;

    // And killed while the spool empties into the server, which is back.
    server.restart().await?;
    start(&mut service, &mut broker).await?;
    wait::until("the spool to begin to empty", LONG, async || {
        ensure!(objects(&server)? > 0, "nothing has moved");
        Ok(())
    })
    .await;
    service.kill9()?;

    // Then everything is there, and every event leaves.
    start(&mut service, &mut broker).await?;
    sink.behave(Behaviour::status(200));
    wait_accepted(&sink, 1..=2 * EVENTS_A_STEP).await;
    wait::until("nothing to be left", LONG, async || {
        let left = objects(&server)?;
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await;
    // What came again, the broker had not been told of.
    let keys = idempotency_keys(&sink);
    assert!(keys.values().all(|keys| keys.len() == 1), "{keys:?}");
    Ok(())
}

/// `EDGEHOLD_TEST_SEED` plays another one.
fn a_storm(seed: u64) -> Result<Storm> {
    Ok(Storm {
        seed: random::seed(seed)?,
        steps: 30,
        journal: "auto",
        ordered: false,
        kills: false,
        instances: 1,
        when_full: None,
    })
}

#[tokio::test]
async fn in_a_storm_every_event_leaves_once() -> Result<()> {
    a_storm(1)?.run().await
}

#[tokio::test]
async fn in_a_storm_every_event_leaves_once_and_in_order() -> Result<()> {
    let ordered = true;
    Storm {
        ordered,
        ..a_storm(2)?
    }
    .run()
    .await
}

#[tokio::test]
async fn in_a_storm_that_ends_the_service_too_every_event_leaves_under_one_key() -> Result<()> {
    let kills = true;
    Storm { kills, ..a_storm(3)? }.run().await
}

#[tokio::test]
async fn in_a_storm_every_event_of_two_instances_leaves_once() -> Result<()> {
    let instances = 2;
    Storm {
        instances,
        ..a_storm(4)?
    }
    .run()
    .await
}

#[tokio::test]
async fn in_a_storm_what_does_not_fit_is_held_back() -> Result<()> {
    let when_full = Some("block");
    Storm {
        when_full,
        ..a_storm(5)?
    }
    .run()
    .await
}

#[tokio::test]
async fn in_a_storm_what_makes_room_is_told_by_name() -> Result<()> {
    for (seed, when_full) in [(6, "drop-oldest"), (7, "drop-newest"), (8, "dead-letter")] {
        let when_full = Some(when_full);
        let steps = 15;
        Storm {
            when_full,
            steps,
            ..a_storm(seed)?
        }
        .run()
        .await?;
    }
    Ok(())
}

/// A hundred storms of each kind, `EDGEHOLD_SOAK_STORMS` of them.
#[tokio::test]
#[ignore = "half an hour: make soak"]
async fn soak_a_hundred_storms() -> Result<()> {
    let storms = random::number("EDGEHOLD_SOAK_STORMS")?.unwrap_or(100);
    let first = random::seed(1_000)?;
    for seed in first..first + storms {
        let storm = Storm {
            seed,
            steps: 30,
            journal: if seed % 2 == 0 { "auto" } else { "always" },
            kills: seed / 2 % 2 == 0,
            // One instance in order, or two as it comes.
            ordered: seed / 4 % 2 == 0,
            instances: 1 + usize::from(seed / 4 % 2 == 1),
            when_full: (seed % 8 == 7).then_some("drop-oldest"),
        };
        tell(&format!("{storm:?}"));
        storm.run().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_full_spool_holds_deliveries_back_and_loses_nothing() -> Result<()> {
    const EVENTS: u64 = 900;
    // Given a server that is down, and a spool for a few hundred events.
    let (mut server, mut broker, sink) = tokio::try_join!(server(), broker(), HttpSink::start())?;
    let mut service = service(&server, &broker, &sink.url("/"), "only")?.env("SPOOLMAXBYTES", "1MiB");
    sink.behave(refusing());
    start(&mut service, &mut broker).await?;
    server.stop().await?;

    // When more come than it takes.
    publish(broker.port(), 1..=EVENTS).await?;
    wait::until("the full spool to be named", LONG, async || {
        let response = service.get("/readyz").await?;
        ensure!(response.status == 503, "{}", response.text());
        let named = r#""problems":{"store":"the store is full: "#;
        ensure!(response.text().contains(named), "{}", response.text());
        Ok(())
    })
    .await;

    // Then they wait at their source, none is dropped, and all are kept when the server is back.
    let stats = service.stats().await?;
    ensure!(
        stats.books("dropped") == 0 && !stats.all_ended(EVENTS),
        "{stats:?}"
    );
    server.restart().await?;
    wait::until("everything to be kept by the server", LONG, async || {
        let objects = objects(&server)?;
        ensure!(objects == EVENTS, "{objects} of {EVENTS}");
        Ok(())
    })
    .await;
    sink.behave(Behaviour::status(200));
    service.wait_nothing_left().await;
    wait_accepted(&sink, 1..=EVENTS).await;
    let keys = idempotency_keys(&sink);
    assert!(keys.values().all(|keys| keys.len() == 1), "{keys:?}");
    Ok(())
}

/// What happens to the server.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Stopped,
    Killed,
    Frozen,
    OutOfConnections,
}

const FAULTS: [Fault; 4] = [
    Fault::Stopped,
    Fault::Killed,
    Fault::Frozen,
    Fault::OutOfConnections,
];

/// A server that is down and back so often, under load, with a destination that is away until the end.
async fn down_and_back(cycles: u64) -> Result<()> {
    const EVENTS_A_STEP: u64 = 40;
    let (mut server, mut broker, sink) = tokio::try_join!(server(), broker(), HttpSink::start())?;
    let mut service = service(&server, &broker, &sink.url("/"), "only")?;
    sink.behave(refusing());
    start(&mut service, &mut broker).await?;
    let mut published = 0;
    let mut more = async |port| {
        let first = published + 1;
        published += EVENTS_A_STEP;
        publish(port, first..=published).await?;
        Ok::<_, anyhow::Error>(published)
    };
    let mut memory = 0;
    for cycle in 0..cycles {
        for fault in FAULTS {
            // Given events that are kept by the server.
            more(broker.port()).await?;
            // When it is away, events go on coming, and no source is held back.
            let ends_connections = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE application_name LIKE 'edgehold%'";
            match fault {
                Fault::Stopped => server.stop().await?,
                Fault::Killed => server.kill()?,
                Fault::Frozen => server.freeze()?,
                Fault::OutOfConnections => {
                    server.psql("postgres", "ALTER ROLE edgehold CONNECTION LIMIT 0")?;
                    server.psql("postgres", ends_connections)?;
                }
            }
            let sent = more(broker.port()).await?;
            service
                .wait_stats("everything to be taken in", |stats| {
                    stats.books("received") >= sent
                })
                .await;
            // And when it is back, everything is kept by it.
            match fault {
                Fault::Stopped | Fault::Killed => server.restart().await?,
                Fault::Frozen => server.thaw()?,
                Fault::OutOfConnections => {
                    server.psql("postgres", "ALTER ROLE edgehold CONNECTION LIMIT -1")?;
                }
            }
            wait::until("everything to be kept by the server", LONG, async || {
                let objects = objects(&server)?;
                ensure!(objects == sent, "after {fault:?} {objects} of {sent}");
                Ok(())
            })
            .await;
        }
        // Then no more connections are held than at first, and no more memory.
        let connections = server.psql(
            DATABASE,
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'edgehold%'",
        )?;
        let connections: u32 = connections.parse()?;
        assert!(connections <= 6, "cycle {cycle}: {connections} connections");
        let peak = service.process().peak_memory_bytes()?;
        if cycle == 0 {
            memory = peak;
        }
        if (cycle + 1) % 10 == 0 {
            tell(&format!(
                "{} cycles: {connections} connections, {peak} bytes at most",
                cycle + 1
            ));
        }
    }
    let peak = service.process().peak_memory_bytes()?;
    assert!(
        peak < memory + (16 << 20),
        "it had {memory} bytes after the first cycle and {peak} after all"
    );

    // And every event leaves, each once.
    sink.behave(Behaviour::status(200));
    // After a hundred cycles that takes longer than anything else here; it only must not stop.
    let mut left = u64::MAX;
    while left > 0 {
        let stats = service
            .wait_stats("more to leave", |stats| {
                let waiting = stats.store("waiting");
                waiting == 0 || waiting <= left.saturating_sub(1_000)
            })
            .await;
        left = stats.store("waiting");
    }
    service.wait_nothing_left().await;
    wait_accepted(&sink, 1..=published).await;
    let again: Vec<_> = accepted(&sink)
        .into_iter()
        .filter(|(_, times)| *times > 1)
        .collect();
    assert!(again.is_empty(), "accepted again: {again:?}");
    assert_eq!(sent(&sink).len(), usize::try_from(published)?);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_down_and_back_loses_nothing_and_leaks_nothing() -> Result<()> {
    down_and_back(3).await
}

#[tokio::test]
#[ignore = "an hour: make soak"]
async fn soak_a_server_that_is_down_and_back_a_hundred_times() -> Result<()> {
    down_and_back(100).await
}

#[expect(clippy::print_stdout, reason = "`make soak` shows what was measured")]
fn tell(found: &str) {
    println!("{found}");
}

/// A million objects of 1 KB, as the service would have kept them.
const FILL: &str = r#"
SET search_path = "app-on-postgres";
INSERT INTO object (seq, owner, created_at, payload_bytes, attempts, pipeline_position, state, id, pipeline_id, version,
                    correlation_id, context_data, input_kind, device)
SELECT nextval('object_seq'), 0, 1700000000000, 1024, 1, 0, 2, gen_random_uuid(), 'default-pipeline',
       (SELECT version FROM pattern), 'correlation ' || number, '{"devicename":"Test-Device"}', 'bytes', 'Test-Device'
FROM generate_series(1, 1000000) AS number;
INSERT INTO payload SELECT seq, decode(repeat('78', 1024), 'hex') FROM object WHERE correlation_id LIKE 'correlation %';
"#;

#[tokio::test]
#[ignore = "some minutes: make soak"]
async fn soak_a_million_waiting_objects_cost_disk_and_not_memory() -> Result<()> {
    const GOAL_BYTES: u64 = 64 << 20;
    // Given a service that has kept one object, and a million like it.
    let (server, mut broker, sink) = tokio::try_join!(server(), broker(), HttpSink::start())?;
    let mut service = service(&server, &broker, &sink.url("/"), "only")?;
    sink.behave(refusing());
    start(&mut service, &mut broker).await?;
    publish(broker.port(), 1..=1).await?;
    service
        .wait_stats("one object to wait", |stats| stats.store("failed") == 1)
        .await;
    service.stop().await?;
    let pattern = format!(
        "CREATE TABLE \"{SERVICE_KEY}\".pattern AS SELECT version FROM \"{SERVICE_KEY}\".object LIMIT 1"
    );
    server.psql(DATABASE, &pattern)?;
    server.psql(DATABASE, FILL)?;

    // When it starts, and its destination first refuses and then accepts.
    start(&mut service, &mut broker).await?;
    service
        .wait_stats("a million to wait", |stats| stats.store("waiting") >= 1_000_000)
        .await;
    let asked = async |more: usize, what: &str| {
        let before = sink.requests().len();
        wait::until(what, LONG, async || {
            let asked = sink.requests().len() - before;
            ensure!(asked >= more, "there were {asked}");
            Ok(())
        })
        .await;
    };
    asked(20, "it to be tried").await;
    let refused = service.process().peak_memory_bytes()?;
    sink.behave(Behaviour::status(200));
    asked(20_000, "a part of it to leave").await;
    let drained = service.process().peak_memory_bytes()?;

    // Then it has had no more than that, whatever waits.
    let found = format!("{refused} bytes with all of it waiting, {drained} while it leaves");
    assert!(refused.max(drained) <= GOAL_BYTES, "{found}");
    tell(&found);
    Ok(())
}
