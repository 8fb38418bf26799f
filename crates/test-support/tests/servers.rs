//! Starts every server and helper of this crate, uses it as other tests will, takes it down and brings it back.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use edgehold_test_support::fixtures::{self, Generation, Output};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{
    Answer, Behaviour, Consul, HttpSink, Mosquitto, MqttPublisher, MqttSubscriber, Postgres, Process, Qos,
    http,
};

#[tokio::test]
async fn mosquitto_carries_messages_of_every_qos() -> Result<()> {
    let broker = Mosquitto::start().await?;
    let subscriber = MqttSubscriber::connect(broker.port(), "root/#", Qos::ExactlyOnce).await?;
    let mut publisher = MqttPublisher::connect(broker.port()).await?;

    publisher.publish("root/0", "zero", Qos::AtMostOnce).await?;
    publisher.publish("root/1", "one", Qos::AtLeastOnce).await?;
    publisher.publish("root/2", "two", Qos::ExactlyOnce).await?;

    let seen: Vec<_> = subscriber.wait_for(3, LONG).await;
    let seen: Vec<_> = seen
        .iter()
        .map(|message| (message.topic.as_str(), &message.payload[..], message.qos))
        .collect();
    assert_eq!(
        seen,
        [
            ("root/0", &b"zero"[..], Qos::AtMostOnce),
            ("root/1", b"one", Qos::AtLeastOnce),
            ("root/2", b"two", Qos::ExactlyOnce),
        ]
    );
    Ok(())
}

#[tokio::test]
async fn mosquitto_queues_more_than_its_default_of_a_thousand() -> Result<()> {
    // given: a session whose client is away
    let broker = Mosquitto::start().await?;
    drop(MqttSubscriber::resume(broker.port(), "away", "many", Qos::AtLeastOnce).await?);

    // when: more than a thousand messages come, and then the client
    let mut publisher = MqttPublisher::connect(broker.port()).await?;
    publisher
        .publish_all((0..3000).map(|n| ("many", format!("{n}"))), Qos::AtLeastOnce)
        .await?;
    let subscriber = MqttSubscriber::resume(broker.port(), "away", "many", Qos::AtLeastOnce).await?;

    // then: it gets all of them, in order
    let seen = subscriber.wait_for(3000, LONG).await;
    let in_order = seen
        .iter()
        .enumerate()
        .all(|(n, message)| message.payload == n.to_string());
    assert!(in_order, "one publisher's messages come in order");
    Ok(())
}

#[tokio::test]
async fn mosquitto_keeps_port_sessions_and_retained_messages_over_a_restart() -> Result<()> {
    // given: a retained message, one queued for a session, and a connected subscriber
    let mut broker = Mosquitto::start().await?;
    let port = broker.port();
    drop(MqttSubscriber::resume(port, "away", "queued", Qos::AtLeastOnce).await?);
    let mut publisher = MqttPublisher::connect(port).await?;
    publisher
        .publish_retained("kept", "still here", Qos::AtLeastOnce)
        .await?;
    publisher
        .publish("queued", "in the session", Qos::AtLeastOnce)
        .await?;
    let connected = MqttSubscriber::connect(port, "nothing", Qos::AtMostOnce).await?;

    // when: it goes down in order and comes back
    broker.restart().await?;

    // then: connections were closed, and the same port hands out what was kept
    assert_eq!(broker.port(), port);
    wait::until("the old connection to be closed", LONG, async || {
        !connected.is_connected()
    })
    .await;
    let retained = MqttSubscriber::connect(port, "kept", Qos::AtLeastOnce)
        .await?
        .wait_for(1, LONG)
        .await;
    assert!(retained[0].retained);
    assert_eq!(retained[0].payload, "still here");
    let away = MqttSubscriber::resume(port, "away", "queued", Qos::AtLeastOnce).await?;
    assert_eq!(away.wait_for(1, LONG).await[0].payload, "in the session");
    Ok(())
}

#[tokio::test]
async fn mosquitto_can_be_killed_and_dies_with_its_value() -> Result<()> {
    let mut broker = Mosquitto::start().await?;
    let port = broker.port();

    broker.kill()?;
    assert!(
        MqttPublisher::connect(port).await.is_err(),
        "a killed broker answers nobody"
    );
    broker.restart().await?;
    MqttPublisher::connect(port).await?;

    drop(broker);
    assert!(
        MqttPublisher::connect(port).await.is_err(),
        "a dropped broker answers nobody"
    );
    Ok(())
}

#[tokio::test]
async fn mosquitto_tells_what_is_wrong_with_its_configuration() -> Result<()> {
    let refused = Mosquitto::builder().config("no_such_option true").start().await;
    let error = refused.expect_err("it is refused");

    assert!(format!("{error:#}").contains("no_such_option"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn consul_keeps_keys_over_a_restart() -> Result<()> {
    let mut consul = Consul::start().await?;
    let export: Vec<_> = fixtures::consul_export()?.into_iter().collect();

    // Every way of writing and reading.
    consul.put("a key/with ümlaut", "one").await?;
    consul.put("a key/empty", "").await?;
    assert_eq!(
        consul.get("a key/with ümlaut").await?.as_deref(),
        Some(&b"one"[..])
    );
    assert_eq!(consul.get("a key/absent").await?, None);
    consul.txn(&[("b/1", "x"), ("b/2", "y")]).await?;
    assert_eq!(
        consul.list("b/").await?,
        [("b/1".into(), "x".into()), ("b/2".into(), "y".into())]
    );
    consul.delete("b/1").await?;
    assert_eq!(consul.list("b/").await?.len(), 1);
    consul.delete_recurse("b/").await?;
    assert_eq!(consul.list("b/").await?, []);
    consul.put_all(&export).await?;

    consul.restart().await?;

    assert_eq!(consul.get("a key/empty").await?.as_deref(), Some(&b""[..]));
    assert_eq!(consul.list("edgex/").await?, export);

    consul.kill()?;
    assert!(
        consul.put("down", "").await.is_err(),
        "a killed server answers nobody"
    );
    consul.restart().await?;
    assert_eq!(consul.list("edgex/").await?, export);
    Ok(())
}

#[tokio::test]
async fn consul_shows_services_and_checks() -> Result<()> {
    let consul = Consul::start().await?;
    let service = r#"{"ID": "app-x", "Name": "app-x", "Port": 1, "Check": {"CheckID": "c", "TTL": "60s"}}"#;

    consul
        .ask("PUT", "/v1/agent/service/register", service.as_bytes())
        .await?
        .succeeded()?;

    assert_eq!(consul.services().await?["app-x"]["Service"], "app-x");
    assert_eq!(consul.checks().await?["c"]["ServiceID"], "app-x");
    Ok(())
}

#[tokio::test]
async fn consul_denies_who_has_no_token() -> Result<()> {
    let consul = Consul::builder()
        .master_token("7b3a1f0e-0000-4000-8000-000000000001")
        .start()
        .await?;
    consul.put("a", "secret").await?;

    let stranger = http::send(consul.port(), "PUT", "/v1/kv/a", &[], b"changed").await?;

    assert_eq!(stranger.status, 403);
    assert_eq!(consul.get("a").await?.as_deref(), Some(&b"secret"[..]));
    Ok(())
}

#[tokio::test]
async fn the_sink_records_what_came_and_answers_as_told() -> Result<()> {
    let sink = HttpSink::start().await?;
    sink.behave(Answer::new(202).body("taken").header("X-Seen", "yes").into());

    let answer = http::send(
        sink.port(),
        "PUT",
        "/export?a=b",
        &[("X-Id", "7")],
        br#"{"id": 7}"#,
    )
    .await?;

    assert_eq!(
        (answer.status, answer.header("x-seen"), answer.text().as_str()),
        (202, Some("yes"), "taken")
    );
    let request = sink.wait_for(1, LONG).await.remove(0);
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("PUT", "/export?a=b")
    );
    assert_eq!(
        (request.header("x-id"), &request.json()["id"]),
        (Some("7"), &7.into())
    );
    assert_eq!(request.status, Some(202));
    Ok(())
}

#[tokio::test]
async fn the_sink_follows_a_script_and_counts() -> Result<()> {
    let sink = HttpSink::start().await?;
    let mut calls = 0;
    sink.script(move |_| {
        calls += 1;
        Behaviour::status(if calls == 1 { 503 } else { 200 })
    });

    for id in ["a", "a", "b"] {
        http::send(sink.port(), "POST", "/", &[("X-Id", id)], b"").await?;
    }

    let counts = sink.count_by(|request| request.header("X-Id").map(str::to_owned));
    assert_eq!(counts, [("a".to_owned(), 2), ("b".to_owned(), 1)].into());
    let statuses: Vec<_> = sink.take().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(503), Some(200), Some(200)]);
    assert_eq!(sink.count(), 0);
    Ok(())
}

#[tokio::test]
async fn the_sink_fails_in_every_way() -> Result<()> {
    let mut sink = HttpSink::start().await?;
    let port = sink.port();

    sink.behave(Behaviour::Reset);
    let reset = http::get(port, "/").await.expect_err("the connection is reset");
    let reset = reset.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    assert_eq!(reset, Some(std::io::ErrorKind::ConnectionReset));

    sink.behave(Behaviour::HalfAnswer);
    let half = http::get(port, "/").await.expect_err("the answer is cut short");
    let half = half.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    assert_eq!(half, Some(std::io::ErrorKind::UnexpectedEof));

    sink.behave(Behaviour::Hang);
    let hanging = tokio::time::timeout(Duration::from_millis(200), http::get(port, "/")).await;
    assert!(hanging.is_err(), "no answer comes");

    sink.behave(Answer::new(200).after(Duration::from_millis(100)).into());
    let before = tokio::time::Instant::now();
    http::get(port, "/").await?;
    assert!(
        before.elapsed() >= Duration::from_millis(100),
        "the answer is late"
    );
    assert_eq!(
        sink.wait_for(4, LONG).await.len(),
        4,
        "answered or not, every request is on record"
    );

    sink.refuse().await;
    let refused = http::get(port, "/").await.expect_err("nobody listens");
    let refused = refused.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));

    sink.reopen().await?;
    assert_eq!(http::get(port, "/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_process_is_read_signalled_and_killed() -> Result<()> {
    let script = "trap 'echo stopping; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut process = Process::start("script", Command::new("sh").args(["-c", script]))?;
    process.wait_for_line("ready", LONG).await;
    assert!(process.peak_memory_bytes()? > 0);

    let before = process.line_count();
    process.signal_term()?;
    process.wait_for_line_after(before, "stopping", LONG).await;
    assert_eq!(process.wait_exit(LONG).await.code(), Some(3));

    let mut process = Process::start(
        "script",
        Command::new("sh").args(["-c", "echo ready >&2; exec sleep 600"]),
    )?;
    process.wait_for_line("ready", LONG).await;
    process.kill9()?;
    assert!(!process.is_running()?);
    Ok(())
}

#[tokio::test]
#[should_panic(expected = "the other side has ended")]
async fn waiting_for_a_line_of_an_ended_process_ends_at_once() {
    let process =
        Process::start("script", Command::new("sh").args(["-c", "echo something else"])).expect("sh starts");

    process.wait_for_line("never printed", LONG).await;
}

#[test]
fn every_fixture_can_be_loaded() -> Result<()> {
    for generation in Generation::ALL {
        let messages = fixtures::messages(generation)?;
        assert!(messages.len() > 50, "{generation}: {} messages", messages.len());
        assert!(messages.iter().all(|message| message.topic.starts_with("edgex/")));

        let pairs = fixtures::pairs(generation)?;
        assert!(pairs.len() > 50, "{generation}: {} pairs", pairs.len());
        for pair in &pairs {
            assert!(
                pair.configuration.is_file(),
                "{generation}: {} has its configuration",
                pair.name
            );
            assert_eq!(
                pair.steps.is_empty(),
                !pair.startup_log.is_empty(),
                "{generation}: {}",
                pair.name
            );
        }
    }
    Ok(())
}

#[test]
fn the_list_of_recorded_messages_is_that_of_the_folders() -> Result<()> {
    macro_rules! names {
        ($($module:ident $generation:ident: [$($case:ident)*])*) => {
            [$((Generation::$generation, vec![$(stringify!($case).to_owned()),*])),*]
        };
    }
    for (generation, listed) in edgehold_test_support::recorded_messages!(names) {
        let files = std::fs::read_dir(fixtures::path(generation, "messages"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        let payloads = files.iter().filter(|file| file.ends_with(".payload"));
        let mut lying: Vec<String> = payloads.map(|file| fixtures::message_case(file)).collect();
        lying.sort();
        assert_eq!(listed, lying, "{generation}");

        let indexed = fixtures::messages(generation)?;
        let indexed: Vec<String> = indexed
            .iter()
            .map(|message| fixtures::message_case(&message.file))
            .collect();
        assert_eq!(listed, indexed, "{generation}: index.json");
    }
    Ok(())
}

#[test]
fn a_pair_holds_inputs_outputs_and_what_was_encrypted() -> Result<()> {
    let pair = fixtures::pair(Generation::V3, "encrypt-aes256")?;

    assert_eq!(pair.steps[0].topic.split('/').next(), Some("edgex"));
    let Output::Http {
        method,
        answered_status,
        decrypted: Some(decrypted),
        ..
    } = &pair.steps[0].outputs[0]
    else {
        panic!("an encrypted HTTP output, not {:?}", pair.steps[0].outputs);
    };
    assert_eq!((method.as_str(), *answered_status), ("POST", 200));
    assert!(decrypted.starts_with(b"{"));
    Ok(())
}

#[tokio::test]
async fn waiting_returns_what_was_waited_for() {
    let mut looks = 0;

    let found = wait::until("the second look", LONG, async || {
        looks += 1;
        (looks == 2).then_some("found")
    })
    .await;

    assert_eq!(found, "found");
}

#[tokio::test]
async fn postgres_keeps_its_data_over_stops_kills_and_freezes() -> Result<()> {
    let mut server = Postgres::start().await?;
    let database = server.database()?;
    server.psql(&database, "CREATE TABLE kept (number integer)")?;

    server.psql(&database, "INSERT INTO kept VALUES (1)")?;
    server.stop().await?;
    assert!(server.psql(&database, "SELECT 1").is_err(), "it is down");
    server.restart().await?;
    server.kill()?;
    server.restart().await?;
    server.freeze()?;
    server.thaw()?;

    assert_eq!(server.psql(&database, "SELECT number FROM kept")?, "1");
    assert_eq!(server.psql("edgex_db", "SELECT 1, 2")?, "1|2", "as EdgeX has it");
    Ok(())
}
