//! Moving in with a backlog of the original: what lies in its PostgreSQL table or in its Redis is taken over by the command,
//! delivered once, and what does not fit stays safe. Killing the command at any moment loses and doubles nothing.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{HttpSink, Mosquitto, Postgres, Process, Redis, RedisAnswer, RedisClient};

use crate::random::{self, Random};
use crate::support::{Service, accepted, broker, each, event, event_id, sent, wait_accepted};

const SERVICE_KEY: &str = "app-moving-in";
/// The database of EdgeX.
const DATABASE: &str = "edgex_db";
/// The version of `Transform` (json) and `HTTPExport` (post), and with a function of somebody's own between them.
const OURS: &str = "Pipeline-functions:  github.com/edgexfoundry/app-functions-sdk-go/v4/pkg/transforms.(*Conversion).TransformToJSON-fm github.com/edgexfoundry/app-functions-sdk-go/v4/pkg/transforms.(*HTTPSender).HTTPPost-fm";
const FOREIGN: &str = "Pipeline-functions:  github.com/edgexfoundry/app-functions-sdk-go/v4/pkg/transforms.(*Conversion).TransformToJSON-fm main.(*Mine).Scale-fm github.com/edgexfoundry/app-functions-sdk-go/v4/pkg/transforms.(*HTTPSender).HTTPPost-fm";

/// What the original makes of its schema.
const TABLES: &str = r#"
CREATE SCHEMA "app-moving-in";
CREATE TABLE "app-moving-in".store (id UUID PRIMARY KEY, created timestamp NOT NULL DEFAULT now(), content JSONB NOT NULL);
CREATE TABLE "app-moving-in".schema_migrations (id SERIAL PRIMARY KEY, version TEXT NOT NULL, status TEXT NOT NULL,
    created TIMESTAMPTZ NOT NULL DEFAULT NOW());
INSERT INTO "app-moving-in".schema_migrations (version, status) VALUES ('4.0.0-dev', 'SUCCESS');
"#;

/// What the original stores for the event with this number.
fn stored(number: u64, version: &str, retries: u32) -> String {
    let payload = base64_simd::STANDARD.encode_to_string(event(number).to_string());
    let mut row = serde_json::json!({
        "id": event_id(number),
        "appServiceKey": SERVICE_KEY,
        "payload": payload,
        "pipelineId": "default-pipeline",
        "pipelinePosition": 1,
        "version": version,
        "correlationID": event_id(number),
        "contextData": {"devicename": "Test-Device", "pipelineid": "default-pipeline"},
    });
    if retries > 0 {
        row["retryCount"] = retries.into();
    }
    row.to_string()
}

/// A service whose pipeline is `Transform` and `HTTPExport`, once a second, with this `Database` and password.
fn service(broker: &Mosquitto, url: &str, kind: &str, port: u16, password: &str) -> Result<Service> {
    let service = Service::new()?;
    let folder = service.data_dir().join("res");
    std::fs::create_dir(&folder)?;
    configure(
        &folder,
        broker,
        url,
        kind,
        port,
        password,
        "Transform, HTTPExport",
    )?;
    Ok(service
        .flag(&format!("-cd={}", folder.display()))
        .flag(&format!("-sk={SERVICE_KEY}"))
        .env("EDGEHOLD_GENERATION", "3"))
}

fn configure(
    folder: &Path,
    broker: &Mosquitto,
    url: &str,
    kind: &str,
    port: u16,
    password: &str,
    order: &str,
) -> Result<()> {
    let configuration = format!(
        "
Writable:
  InsecureSecrets:
    DB:
      SecretName: {kind}
      SecretData:
        username: postgres
        password: {password:?}
  StoreAndForward:
    Enabled: true
    RetryInterval: 1s
    MaxRetryCount: 0
  Pipeline:
    ExecutionOrder: {order}
    Functions:
      Transform:
        Parameters:
          Type: json
      Compress:
        Parameters:
          Algorithm: gzip
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
Trigger:
  Type: edgex-messagebus
  SubscribeTopics: events/#
Database:
  Type: {kind}
  Host: 127.0.0.1
  Port: {port}
  Timeout: 5s
",
        bus = broker.port(),
    );
    std::fs::write(folder.join("configuration.yaml"), configuration)?;
    Ok(())
}

fn insert(server: &Postgres, number: u64, content: &str) -> Result<()> {
    let sql = format!(
        "INSERT INTO \"{SERVICE_KEY}\".store (id, created, content) VALUES ('{}', \
         timestamp '2026-11-01 00:00:00' + interval '1 second' * {number}, '{content}')",
        event_id(number)
    );
    server.psql(DATABASE, &sql).map(drop)
}

/// The ids that the original's table still has.
fn left(server: &Postgres) -> Result<String> {
    let sql = format!("SELECT id FROM \"{SERVICE_KEY}\".store ORDER BY id");
    server.psql(DATABASE, &sql)
}

fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[track_caller]
fn has(printed: &str, lines: &[&str]) {
    for line in lines {
        assert!(printed.contains(line), "{line:?} is missing in:\n{printed}");
    }
}

#[tokio::test]
async fn what_edgex_left_in_postgres_is_taken_over_and_delivered_once() -> Result<()> {
    // Given ten objects of the original, one of a function we do not have, and one that cannot be read.
    let (server, broker, sink) = tokio::try_join!(Postgres::start(), broker(), HttpSink::start())?;
    server.psql(DATABASE, TABLES)?;
    for number in 1..=10 {
        insert(&server, number, &stored(number, OURS, u32::from(number == 1) * 2))?;
    }
    insert(&server, 11, &stored(11, FOREIGN, 0))?;
    insert(
        &server,
        12,
        &stored(12, OURS, 0).replace("\"payload\":\"", "\"payload\":\"%"),
    )?;
    let mut service = service(
        &broker,
        &sink.url("/"),
        "postgres",
        server.port(),
        Postgres::PASSWORD,
    )?;

    // When the command counts.
    let counted = printed(&service.run(&["store", "import", "--dry-run"])?);
    // Then nothing has changed.
    has(
        &counted,
        &[
            "EdgeX left 12 objects in PostgreSQL at 127.0.0.1:",
            "can be taken over: 10\n",
            "would be set aside: 1\n",
            "main.(*Mine).Scale-fm",
            "cannot be read, stay where they are: 1\n",
        ],
    );
    assert_eq!(left(&server)?.lines().count(), 12);
    assert_eq!(service.store_count()?, 0);

    // When it takes over.
    let output = service.run(&["store", "import"])?;
    let imported = printed(&output);
    assert!(!output.status.success(), "one could not be read");
    has(
        &imported,
        &[
            "taken over: 10\n",
            "set aside: 1\n",
            "removed from EdgeX's store: 10\n",
            &event_id(12),
        ],
    );

    // Then ours wait, as old as they are, the foreign one is in both, and the unreadable one where it was.
    assert_eq!(service.store_count()?, 10);
    assert_eq!(left(&server)?, format!("{}\n{}", event_id(11), event_id(12)));
    let dead = service.error_collection()?;
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0]["id"], event_id(11));
    assert_eq!(dead[0]["reason"], "pipeline_changed");
    let first = printed(&service.run(&["store", "show", &event_id(1), "--json"])?);
    has(&first, &["\"attempts\":3", "\"createdAt\":1793491201000"]);

    // And once more changes nothing.
    let again = printed(&service.run(&["store", "import"])?);
    has(
        &again,
        &[
            "taken over: 0\n",
            "set aside: 1\n",
            "removed from EdgeX's store: 0\n",
        ],
    );
    assert_eq!(service.error_collection()?.len(), 1);

    // And the service delivers each of them once.
    service.start().await?;
    let said = service
        .process()
        .wait_for_line("EdgeX left 2 objects in PostgreSQL", LONG)
        .await;
    has(&said, &["store import"]);
    wait_accepted(&sink, 1..=10).await;
    service
        .wait_stats("none to wait", |stats| stats.store("waiting") == 0)
        .await;
    assert_eq!(sent(&sink), each(1..=10, 1));
    service.stop().await?;

    // And when a pipeline fits what was set aside, the next import takes that over, too.
    let update = format!(
        "UPDATE \"{SERVICE_KEY}\".store SET content = jsonb_set(content, '{{version}}', to_jsonb(replace(content->>'version', \
         'main.(*Mine).Scale-fm ', ''))) WHERE id = '{}'",
        event_id(11)
    );
    server.psql(DATABASE, &update)?;
    let fits = printed(&service.run(&["store", "import"])?);
    has(
        &fits,
        &[
            "taken over: 1\n",
            "set aside: 0\n",
            "removed from EdgeX's store: 1\n",
        ],
    );
    assert_eq!(service.error_collection()?.len(), 0);
    assert_eq!(service.store_count()?, 1);
    Ok(())
}

/// Puts an object where EdgeX 3 does.
async fn store_in_redis(redis: &mut RedisClient, number: u64, json: Option<&str>) -> Result<()> {
    let id = event_id(number);
    let (set, owner) = (format!("store:idl:{SERVICE_KEY}"), format!("store:ask:{id}"));
    if let Some(json) = json {
        redis.ask(&[b"SET", id.as_bytes(), json.as_bytes()]).await?;
    }
    redis.ask(&[b"SADD", set.as_bytes(), id.as_bytes()]).await?;
    redis
        .ask(&[b"HSET", owner.as_bytes(), b"ASK", SERVICE_KEY.as_bytes()])
        .await?;
    Ok(())
}

#[tokio::test]
async fn with_the_database_of_edgex_3_a_service_starts_and_what_lies_in_redis_is_taken_over() -> Result<()> {
    // Given the stock Database of EdgeX 3 with 700 objects, one of them an id without a value, and a foreign one.
    let starting = Redis::builder().password("s3cret").start();
    let (server, broker, sink) = tokio::try_join!(starting, broker(), HttpSink::start())?;
    let mut redis = server.client().await?;
    for number in 1..=700 {
        let json = stored(number, &OURS.replace("/v4/", "/v3/"), 0);
        store_in_redis(&mut redis, number, Some(&json)).await?;
    }
    store_in_redis(&mut redis, 701, None).await?;
    store_in_redis(&mut redis, 702, Some(&stored(702, FOREIGN, 0))).await?;
    let mut service = service(&broker, &sink.url("/"), "redisdb", server.port(), "s3cret")?;

    // Then a service starts, keeps its own data in a file, and says what lies there.
    service.start().await?;
    let said = service
        .process()
        .wait_for_line("Database/Type is 'redisdb', and nothing is kept in Redis", LONG)
        .await;
    has(
        &said,
        &[
            "EdgeX left 702 objects in Redis at 127.0.0.1:",
            "store import",
            ".db",
        ],
    );
    // And while it runs, nothing is taken over.
    let refused = printed(&service.run(&["store", "import"])?);
    has(
        &refused,
        &["our store belongs to a running service: stop it first"],
    );
    service.stop().await?;

    // And a password that its address leaves out is asked for in the environment.
    let at = format!("redis://127.0.0.1:{}", server.port());
    let mut counting = service.command_of(&["store", "import", "--dry-run", "--from", &at])?;
    has(&printed(&counting.output()?), &["cannot import", "NOAUTH"]);
    let counted = printed(&counting.env("REDISCLI_AUTH", "s3cret").output()?);
    has(&counted, &["EdgeX left 702 objects in Redis at 127.0.0.1:"]);

    // When the command takes over.
    let imported = printed(&service.run(&["store", "import"])?);
    has(
        &imported,
        &[
            "taken over: 700\n",
            "set aside: 1\n",
            "cannot be read, stay where they are: 1\n",
            "there is no value of this key",
            "removed from EdgeX's store: 700\n",
        ],
    );

    // Then only what is not ours is left there.
    let keys = redis.ask(&[b"DBSIZE"]).await?;
    let expected = RedisAnswer::Integer(1 + 1 + 2);
    assert_eq!(keys, expected, "the set, the foreign one, and two owners");
    assert_eq!(service.store_count()?, 700);

    // And the service delivers each of them once.
    service.start().await?;
    wait_accepted(&sink, 1..=700).await;
    service
        .wait_stats("none to wait", |stats| stats.store("waiting") == 0)
        .await;
    assert_eq!(sent(&sink), each(1..=700, 1));
    Ok(())
}

#[tokio::test]
async fn killed_at_any_moment_with_the_service_in_between_an_import_doubles_nothing() -> Result<()> {
    let seed = random::seed(SEED)?;
    let mut random = Random(seed);
    let (objects, kills) = (2_500_u64, 4);
    for kind in ["postgres", "redisdb"] {
        let (server, broker, sink) = tokio::try_join!(Postgres::start(), broker(), HttpSink::start())?;
        server.psql(DATABASE, TABLES)?;
        fill(&server, objects)?;
        // A removal takes so long that a kill meets it, and ends with whoever asked for it.
        let slow = format!(
            "CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';
             CREATE TRIGGER slow BEFORE DELETE ON \"{SERVICE_KEY}\".store FOR EACH STATEMENT EXECUTE FUNCTION take_time()"
        );
        server.psql(DATABASE, &slow)?;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DELETE FROM%.store %' AND pid <> pg_backend_pid()";
        let mut service = service(&broker, &sink.url("/"), kind, server.port(), Postgres::PASSWORD)?;
        let from = address(&server);
        let import = ["store", "import", "--from", &from];
        let original = || server.psql(DATABASE, &format!("SELECT count(*) FROM \"{SERVICE_KEY}\".store"));
        // When the command is killed again and again, and the service delivers what there is each time.
        let (mut in_its_work, mut torn) = (0, 0);
        for _ in 0..kills {
            let before = original()?;
            let mut importing = Process::start("import", &mut service.command_of(&import)?)?;
            wait::until("the import to have done something", LONG, async || {
                let is_on = original()? != before || importing.exit_status()?.is_some();
                ensure!(is_on, "it has done nothing yet");
                anyhow::Ok(())
            })
            .await;
            // A moment of its work, not a state to wait for.
            tokio::time::sleep(Duration::from_millis(random.below(400))).await;
            in_its_work += usize::from(importing.exit_status()?.is_none());
            importing.kill9()?;
            server.psql(DATABASE, end)?;
            let left: u64 = original()?.parse()?;
            service.start().await?;
            service
                .process()
                .wait_for_line("resuming with what an earlier run left", LONG)
                .await;
            let stats = service
                .wait_stats("none to wait", |stats| stats.store("waiting") == 0)
                .await;
            let delivered = u64::try_from(accepted(&sink).len())?;
            torn += usize::from(delivered + left > objects);
            ensure!(
                stats.store("success") <= 1,
                "{kind}, seed {seed}: one receipt at most"
            );
            service.stop().await?;
        }
        tell(seed, kills, in_its_work, torn);
        let quick = format!("DROP TRIGGER slow ON \"{SERVICE_KEY}\".store");
        server.psql(DATABASE, &quick)?;
        // Then a last one takes over the rest, and each has been delivered once.
        let imported = printed(&service.run(&import)?);
        has(&imported, &["set aside: 0\n"]);
        service.start().await?;
        wait_accepted(&sink, 1..=objects).await;
        assert_eq!(
            sent(&sink),
            each(1..=objects, 1),
            "{kind}, seed {seed}: {imported}"
        );
        service.stop().await?;
    }
    Ok(())
}

/// The address of the original's database.
fn address(server: &Postgres) -> String {
    let password = Postgres::PASSWORD.replace(' ', "%20").replace('"', "%22");
    format!(
        "postgres://postgres:{password}@127.0.0.1:{}/{DATABASE}",
        server.port()
    )
}

/// Has so many objects in the original's table, the first one the oldest.
fn fill(server: &Postgres, objects: u64) -> Result<()> {
    let fill = format!(
        "INSERT INTO \"{SERVICE_KEY}\".store (id, created, content)
         SELECT id::uuid, now() + interval '1 second' * number, jsonb_build_object('id', id, 'appServiceKey', '{SERVICE_KEY}',
             'payload', replace(encode(convert_to('{{\"id\":\"' || id || '\"}}', 'utf8'), 'base64'), chr(10), ''),
             'pipelineId', 'default-pipeline', 'pipelinePosition', 1, 'version', '{OURS}', 'correlationID', id)
         FROM (SELECT number, '00000000-0000-4000-8000-' || lpad(to_hex(number), 12, '0') AS id
               FROM generate_series(1, {objects}) AS number) AS made"
    );
    server.psql(DATABASE, &fill).map(drop)
}

/// How often the command is killed.
const KILLS: usize = 8;
const SEED: u64 = 20_261_128;

#[tokio::test]
async fn killed_at_any_moment_an_import_loses_and_doubles_nothing() -> Result<()> {
    let seed = random::seed(SEED)?;
    let mut random = Random(seed);
    // Given some thirty pages.
    let objects = 8_000_u64;
    let (server, broker, sink) = tokio::try_join!(Postgres::start(), broker(), HttpSink::start())?;
    server.psql(DATABASE, TABLES)?;
    fill(&server, objects)?;
    let mut service = service(
        &broker,
        &sink.url("/"),
        "postgres",
        server.port(),
        Postgres::PASSWORD,
    )?;
    let original = || -> Result<u64> {
        let count = server.psql(DATABASE, &format!("SELECT count(*) FROM \"{SERVICE_KEY}\".store"))?;
        Ok(count.parse()?)
    };
    let total = || -> Result<(u64, u64)> { Ok((original()?, service.store_count()?)) };

    // When the command is killed again and again.
    let (mut in_its_work, mut torn) = (0, 0);
    for kill in 0..KILLS {
        let before = original()?;
        let mut import = Process::start("import", &mut service.command_of(&["store", "import"])?)?;
        wait::until("the import to have done something", LONG, async || {
            let is_on = original()? < before || import.exit_status()?.is_some();
            ensure!(is_on, "it has done nothing yet");
            anyhow::Ok(())
        })
        .await;
        // A moment of its work, not a state to wait for.
        tokio::time::sleep(Duration::from_millis(random.below(30))).await;
        in_its_work += usize::from(import.exit_status()?.is_none());
        import.kill9()?;
        let (theirs, ours) = total()?;
        // Then each object is in one of them at least.
        ensure!(
            theirs + ours >= objects,
            "seed {seed}, kill {kill}: {theirs} there and {ours} here are fewer than {objects}"
        );
        torn += usize::from(theirs + ours > objects);
    }
    tell(seed, KILLS, in_its_work, torn);

    // And a last one takes over the rest, and each is delivered once.
    let imported = printed(&service.run(&["store", "import"])?);
    has(
        &imported,
        &["cannot be read, stay where they are: 0\n", "set aside: 0\n"],
    );
    assert_eq!(total()?, (0, objects), "seed {seed}: {imported}");
    service.start().await?;
    wait_accepted(&sink, 1..=objects).await;
    assert_eq!(accepted(&sink), each(1..=objects, 1), "seed {seed}");
    Ok(())
}

#[tokio::test]
async fn what_is_delivered_between_a_killed_import_and_the_next_one_is_not_taken_over_again() -> Result<()> {
    // Given 600 objects in the original's table; ours are in the same database, or in a file.
    for kind in ["postgres", "redisdb"] {
        let (server, broker, sink) = tokio::try_join!(Postgres::start(), broker(), HttpSink::start())?;
        server.psql(DATABASE, TABLES)?;
        fill(&server, 600)?;
        let mut service = service(&broker, &sink.url("/"), kind, server.port(), Postgres::PASSWORD)?;
        let from = address(&server);
        let import = ["store", "import", "--from", &from];

        for page in 1..=2 {
            // When the import is killed between the two steps of this page: one row cannot be removed.
            let first = event_id(page * 256 - 255);
            let hold = format!(
                "SELECT FROM \"{SERVICE_KEY}\".store WHERE id = '{first}' FOR UPDATE; SELECT pg_sleep(600)"
            );
            let ask = |what: &str| {
                let of = format!("FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {what}");
                server.psql(DATABASE, &format!("SELECT count(*) {of}"))
            };
            let end = |what: &str| {
                let of = format!("FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {what}");
                server.psql(DATABASE, &format!("SELECT pg_terminate_backend(pid) {of}"))
            };
            let mut holder = Process::start("holder", &mut server.psql_command(DATABASE, &hold)?)?;
            let holding = "wait_event = 'PgSleep'";
            wait::until("the row to be held", LONG, async || {
                ensure!(ask(holding)? == "1", "it is not");
                anyhow::Ok(())
            })
            .await;
            let mut importing = Process::start("import", &mut service.command_of(&import)?)?;
            let removing = "wait_event_type = 'Lock' AND query LIKE 'DELETE FROM%.store %'";
            wait::until("the import to be about to remove the page", LONG, async || {
                ensure!(ask(removing)? == "1", "it is not");
                anyhow::Ok(())
            })
            .await;
            importing.kill9()?;
            end(removing)?;
            holder.kill9()?;
            end(holding)?;
            // And the service delivers what it has by then.
            service.start().await?;
            wait_accepted(&sink, 1..=page * 256).await;
            service
                .wait_stats("none to wait", |stats| stats.store("waiting") == 0)
                .await;
            service.stop().await?;
            // Then nothing of that is a dead letter, nor waits.
            assert_eq!(
                (service.store_count()?, service.error_collection()?.len()),
                (0, 0)
            );
        }

        // And the next import knows what was delivered, and takes over the rest.
        let imported = printed(&service.run(&import)?);
        has(
            &imported,
            &[
                "taken over: 88\n",
                "taken over by an earlier import: 256\n",
                "removed from EdgeX's store: 344\n",
            ],
        );
        assert_eq!(left(&server)?, "");
        service.start().await?;
        wait_accepted(&sink, 1..=600).await;
        let stats = service
            .wait_stats("none to wait", |stats| stats.store("waiting") == 0)
            .await;
        assert_eq!(stats.store("success"), 0, "nothing is left of it");
        assert_eq!(sent(&sink), each(1..=600, 1), "{kind}");
        service.stop().await?;
    }
    Ok(())
}

/// Every object of the store of a configuration, as `store ls` and `dead ls` show it, without what a copy leaves out.
fn listed(service: &Service, collection: &str) -> Result<Vec<serde_json::Value>> {
    let output = service.run(&[collection, "ls", "--json", "--limit", "0"])?;
    ensure!(output.status.success(), "{}", printed(&output));
    let lines = output.stdout.split(|byte| *byte == b'\n');
    let objects = lines.filter(|line| !line.is_empty()).map(|line| {
        let mut object: serde_json::Value = serde_json::from_slice(line)?;
        object["seq"] = 0.into();
        Ok(object)
    });
    objects.collect()
}

#[tokio::test]
async fn a_store_is_copied_to_postgres_and_back_checked_and_backed_up() -> Result<()> {
    // Given a store with 600 objects that wait and one in the error collection, out of Redis.
    let (server, database, broker, sink) =
        tokio::try_join!(Redis::start(), Postgres::start(), broker(), HttpSink::start())?;
    let mut redis = server.client().await?;
    for number in 1..=600 {
        store_in_redis(&mut redis, number, Some(&stored(number, OURS, 1))).await?;
    }
    store_in_redis(&mut redis, 601, Some(&stored(601, FOREIGN, 0))).await?;
    let service = service(&broker, &sink.url("/"), "redisdb", server.port(), "")?;
    let kept = printed(&service.run(&["store", "import", "--keep"])?);
    has(
        &kept,
        &[
            "taken over: 600\n",
            "set aside: 1\n",
            "removed from EdgeX's store: 0\n",
        ],
    );
    // What is there already is known by its id, and only removed.
    let again = printed(&service.run(&["store", "import"])?);
    let lines = [
        "taken over: 0\n",
        "taken over by an earlier import: 600\n",
        "removed from EdgeX's store: 600\n",
    ];
    has(&again, &lines);
    let (waiting, dead) = (listed(&service, "store")?, listed(&service, "dead")?);
    assert_eq!((waiting.len(), dead.len()), (600, 1));

    // When it is copied to PostgreSQL, once more, and from there into another file.
    let here = service.data_dir().join(format!("{SERVICE_KEY}.db"));
    let here = here.to_str().expect("a temporary folder has a name in UTF-8");
    let there = address(&database);
    let copied = printed(&service.run(&["store", "copy", "--from", here, "--to", &there])?);
    has(
        &copied,
        &[
            "copied: 601 objects",
            "; 0 of them were there already",
            "They agree",
        ],
    );
    assert!(!copied.contains("s3cret"), "{copied}");
    let again = printed(&service.run(&["store", "copy", "--from", here, "--to", &there])?);
    has(&again, &["; 601 of them were there already", "They agree"]);
    let back = service.data_dir().join("back.db");
    let back = back.to_str().expect("a temporary folder has a name in UTF-8");
    let returned = printed(&service.run(&["store", "copy", "--from", &there, "--to", back])?);
    has(&returned, &["copied: 601 objects", "They agree"]);

    // Then the file that came back is the store: same objects, same order.
    std::fs::rename(back, here)?;
    for suffix in ["-wal", "-shm"] {
        // Left by the copied store, if at all.
        let _ = std::fs::remove_file(format!("{here}{suffix}"));
    }
    assert_eq!(listed(&service, "store")?, waiting);
    assert_eq!(listed(&service, "dead")?, dead);

    // And it is sound, and its backup has everything and replaces nothing.
    let checked = service.run(&["store", "check"])?;
    assert!(checked.status.success(), "{}", printed(&checked));
    has(
        &printed(&checked),
        &[
            "read: 601 objects",
            "the file: sound",
            "the counters: they agree",
            "The store is sound.",
        ],
    );
    let backup = service.data_dir().join("backup.db");
    let backup = backup.to_str().expect("a temporary folder has a name in UTF-8");
    let backed_up = printed(&service.run(&["store", "backup", backup])?);
    has(&backed_up, &["backed up: 601 objects"]);
    let refused = service.run(&["store", "backup", backup])?;
    assert!(!refused.status.success());

    // And what differs is noticed by the comparison, and what is damaged by the check.
    let damage = "SET search_path TO \"app-moving-in\"; UPDATE object SET attempts = 9 WHERE seq IN (SELECT min(seq) FROM object)";
    database.psql(DATABASE, damage)?;
    let differs = service.run(&["store", "copy", "--from", here, "--to", &there])?;
    assert!(!differs.status.success());
    has(
        &printed(&differs),
        &[
            "They do not agree: 1 objects are missing or different",
            &event_id(1)[..30],
        ],
    );
    let length = std::fs::metadata(here)?.len();
    let file = std::fs::OpenOptions::new().write(true).open(here)?;
    // The heads of some pages: a byte within a payload is seen by nobody but its reader.
    let middle = length / 2 / 4096;
    for page in middle..middle + 4 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], page * 4096)?;
    }
    let damaged = service.run(&["store", "check"])?;
    assert!(!damaged.status.success(), "{}", printed(&damaged));
    has(
        &printed(&damaged),
        &["the file: damaged", "The store is not sound."],
    );
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "how often a kill met it at work says what the test is worth"
)]
fn tell(seed: u64, kills: usize, in_its_work: usize, torn: usize) {
    println!("seed {seed}: of {kills} kills {in_its_work} met it at work, {torn} left a page in both stores");
}
