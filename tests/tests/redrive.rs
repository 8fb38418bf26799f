//! The error collection of the running service: what is re-driven is tried again, once; what is purged is gone; and the
//! books say so, whatever happens in between.

use std::{collections::BTreeSet, process::Child};

use anyhow::{Context, Result, ensure};
use edgehold_test_support::{Authority, Behaviour, MqttPublisher, Qos, wait};
use serde_json::Value;

use crate::random::{self, Random};
use crate::support::{
    DURABLE, Service, Stack, Stats, TOPIC, accepted, each, envelope, event_id, event_of, https_settings,
    refusing, sent,
};

const SEED: u64 = 20_261_128;
/// Kills in the middle of one re-drive.
const KILLS: u64 = 4;
const OBJECTS: u64 = 800;
/// Objects a second, so that a re-drive takes so long that it can be killed.
const RATE: &str = "150";
/// Refused for good: into the error collection at the first attempt.
const FOR_GOOD: u16 = 400;

/// The service with its routes that change something, nothing retried by time and so many objects given up.
async fn with_given_up(count: u64) -> Result<Stack> {
    let mut stack = Stack::new(DURABLE).await?;
    stack.service.set_env("EDGEHOLD_ADMIN", "write");
    stack.start_service().await?;
    give_up_at_once(&stack).await?;
    stack.publish(0..count).await?;
    wait_given_up(&stack, count).await;
    Ok(stack)
}

/// From now on its destination refuses everything for good, and nothing is retried by time.
async fn give_up_at_once(stack: &Stack) -> Result<()> {
    let settings = [
        ("StoreAndForward/RetryInterval", "1h"),
        ("StoreAndForward/MaxRetryCount", "0"),
        // Each is attempted once and then rests, so that none is in flight at three kills in a row.
        ("StoreAndForward/Breaker", "off"),
        ("Pipeline/Functions/HTTPExport/Parameters/PermanentStatus", "400"),
    ];
    stack.store_and_forward(&settings).await?;
    stack.sink.behave(Behaviour::status(FOR_GOOD));
    Ok(())
}

async fn wait_given_up(stack: &Stack, count: u64) {
    stack
        .service
        .wait_stats("all of them to be given up", |stats| {
            stats.store("error") == count
        })
        .await;
}

/// Waits for the books to close, as they are entered just behind what the store has done:
/// started + carried over + undecodable stored = completed + filtered + batched + waiting + error collection + dropped +
/// in flight.
async fn wait_books(service: &Service) {
    let close = |stats: &Stats| {
        let books = |names: &[&str]| names.iter().map(|name| stats.books(name)).sum::<u64>();
        books(&["started", "carriedOver", "undecodableStored"])
            == books(&["completed", "filtered", "batched", "dropped", "inFlight"])
                + stats.store("waiting")
                + stats.store("error")
    };
    service.wait_stats("the books to close", close).await;
}

/// What a command printed, which has to succeed.
fn printed(stack: &Stack, words: &[&str]) -> Result<String> {
    let output = stack.service.run(words)?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{words:?} ended with {}: {told}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until the command has ended; answers whether well, and what it printed and said.
async fn ended(mut command: Child) -> Result<(bool, String, String)> {
    wait::until("the command to end", wait::LONG, async || {
        command.try_wait().is_ok_and(|ended| ended.is_some())
    })
    .await;
    let output = command.wait_with_output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.success(),
        text(&output.stdout),
        text(&output.stderr),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_in_the_middle_of_a_redrive_loses_and_doubles_none() -> Result<()> {
    // Given objects in the error collection, and a destination that is away, so that none leaves meanwhile.
    let mut random = Random(random::seed(SEED)?);
    let mut stack = with_given_up(OBJECTS).await?;
    stack.sink.take();
    stack.sink.behave(refusing());

    // When the service is killed while it re-drives them, at seeded moments, and started again each time.
    let command = stack
        .service
        .begin(&["dead", "redrive", "--all", "--rate", RATE])?;
    for kill in 1..=KILLS {
        let part = OBJECTS / KILLS;
        let moment = (kill - 1) * part + 1 + random.below(part - 1);
        stack
            .service
            .wait_stats("the re-drive to get so far", |stats| {
                stats.store("waiting") >= moment
            })
            .await;
        stack.service.kill9()?;
        stack.start_service().await?;
    }

    // Then the command has it carried out to its end, and each object is there once.
    let (done, printed, told) = ended(command).await?;
    assert!(
        done && printed.starts_with(&format!("re-driven: {OBJECTS} of {OBJECTS} objects")),
        "{printed}{told}"
    );
    let anew = told
        .matches("was started anew and goes on with what is left")
        .count();
    assert_eq!(u64::try_from(anew)?, KILLS, "{told}");
    let stats = stack
        .service
        .wait_stats("all of them to wait", |stats| stats.store("waiting") == OBJECTS)
        .await;
    assert_eq!(stats.store("error"), 0, "{stats:?}");
    wait_books(&stack.service).await;
    let rows = stack.service.object_rows().await?;
    assert_eq!(rows.values().sum::<i64>(), i64::try_from(OBJECTS)?, "{rows:?}");

    // And each arrives once when the destination is back.
    stack.sink.behave(Behaviour::status(200));
    stack.set(&[("StoreAndForward/RetryInterval", "1s")]).await?;
    stack
        .service
        .wait_stats("nothing to be left", |stats| {
            stats.store("waiting") == 0 && stats.books("inFlight") == 0
        })
        .await;
    wait_books(&stack.service).await;
    assert_eq!(accepted(&stack.sink), each(0..OBJECTS, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_waits_no_longer_says_how_to_go_on_and_that_goes_on() -> Result<()> {
    // Given a re-drive whose service is killed, and a command that does not wait for it.
    let mut stack = with_given_up(OBJECTS).await?;
    stack.sink.behave(refusing());
    let command = stack
        .service
        .begin(&["dead", "redrive", "--all", "--rate", RATE, "--wait", "0s"])?;
    stack
        .service
        .wait_stats("the re-drive to get so far", |stats| stats.store("waiting") > 0)
        .await;
    stack.service.kill9()?;
    let (done, printed, told) = ended(command).await?;
    assert!(!done, "{printed}");
    assert!(
        printed.starts_with("re-driven: at least ") && printed.contains("; interrupted, at most "),
        "{printed}"
    );
    let (_, line) = told
        .split_once("To go on with what is left:\n")
        .context(told.clone())?;

    // When something else is given up before the command it has printed is called.
    stack.start_service().await?;
    let stats = stack
        .service
        .wait_stats("the store to be open", |stats| stats.0["store"].is_object())
        .await;
    let left = stats.store("error");
    assert!((1..OBJECTS).contains(&left), "{stats:?}");
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
    publisher.publish(TOPIC, b"{".to_vec(), Qos::AtLeastOnce).await?;
    wait_given_up(&stack, left + 1).await;
    let output = stack.service.shell(line.trim())?;
    let printed = String::from_utf8_lossy(&output.stdout);

    // Then it goes on with what was left, and not with that.
    assert!(
        printed.starts_with(&format!("re-driven: {left} of {left} objects")),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let stats = stack
        .service
        .wait_stats("all of them to wait", |stats| stats.store("waiting") == OBJECTS)
        .await;
    assert_eq!(stats.store("error"), 1, "{stats:?}");
    wait_books(&stack.service).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_stay_exact_through_give_up_redrive_and_purge() -> Result<()> {
    let stack = with_given_up(30).await?;
    wait_books(&stack.service).await;
    let ids = |objects: &[Value]| -> Vec<String> {
        let id = |object: &Value| object["id"].as_str().unwrap_or_default().to_owned();
        objects.iter().map(id).collect()
    };
    let given_up = ids(&stack.service.error_collection()?);

    // What fails again is counted afresh, and the run that brought it ends.
    let told = printed(&stack, &["dead", "redrive", "--all"])?;
    assert!(told.starts_with("re-driven: 30 of 30 objects"), "{told}");
    let stats = stack
        .service
        .wait_stats("them to be given up again", |stats| stats.books("givenUp") == 60)
        .await;
    assert_eq!(
        (stats.store("error"), stats.books("redriven")),
        (30, 30),
        "{stats:?}"
    );
    wait_books(&stack.service).await;
    assert_eq!(sent(&stack.sink), each(0..30, 2));
    for object in stack.service.error_collection()? {
        let errors = object["errors"].as_array().context("errors")?;
        let attempts: Vec<_> = errors.iter().map(|error| &error["attempt"]).collect();
        assert_eq!(
            (&object["attempts"], attempts),
            (&1.into(), vec![&1.into(), &1.into()]),
            "{object}"
        );
        assert_eq!(object["reason"], "permanent_error");
    }

    // Some are purged, one is delivered, and the log says who did it.
    let purge = [
        &["dead", "purge"][..],
        &given_up[..10].iter().map(String::as_str).collect::<Vec<_>>(),
    ]
    .concat();
    assert!(printed(&stack, &purge)?.starts_with("purged: 10 of 10 objects"));
    stack.sink.behave(Behaviour::status(200));
    printed(&stack, &["dead", "redrive", &given_up[20]])?;
    let stats = stack
        .service
        .wait_stats("one to be delivered", |stats| stats.books("completed") == 1)
        .await;
    assert_eq!(
        (stats.store("error"), stats.books("droppedPurged")),
        (19, 10),
        "{stats:?}"
    );
    wait_books(&stack.service).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_may_only_be_read_changes_nothing_and_says_how_it_would() -> Result<()> {
    let mut stack = with_given_up(3).await?;
    stack.service.stop().await?;
    stack.service.set_env("EDGEHOLD_ADMIN", "read");
    stack.start_service().await?;
    stack
        .service
        .wait_stats("the store to be open", |stats| stats.store("error") == 3)
        .await;
    let output = stack.service.run(&["dead", "purge", "--all"])?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("EDGEHOLD_ADMIN=write"),
        "{told}"
    );
    // Counting is looking.
    let count: Value = serde_json::from_str(&printed(&stack, &["dead", "count", "--json"])?)?;
    assert_eq!(count["objects"], 3, "{count}");
    assert_eq!(stack.service.stats().await?.store("error"), 3);
    // With the service stopped, the store itself is opened.
    stack.service.stop().await?;
    assert!(printed(&stack, &["dead", "purge", "--all"])?.starts_with("purged: 3 of 3 objects"));
    stack.start_service().await?;
    let stats = stack
        .service
        .wait_stats("the store", |stats| stats.0["store"].is_object())
        .await;
    assert_eq!(stats.store("error"), 0, "{stats:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_a_line_in_the_log() -> Result<()> {
    let mut stack = with_given_up(2).await?;
    printed(&stack, &["dead", "purge", "--all"])?;
    let lines = stack.service.process().lines();
    let audit: Vec<_> = lines.iter().filter(|line| line.contains("audit=")).collect();
    assert_eq!(audit.len(), 1, "{audit:#?}");
    for said in ["audit=purge", "by=127.0.0.1:", "objects=2"] {
        assert!(audit[0].contains(said), "no {said}: {}", audit[0]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_by_the_service_brings_every_object_whatever_its_size() -> Result<()> {
    // Given objects in a store that only its service can reach: more than an answer of ordinary length holds in one page, and
    // some that are longer than any page.
    const SMALL: u64 = 64;
    let memory = ("all-services/Database/Type", "memory");
    let stack = Stack::start(&[DURABLE, &[memory]].concat()).await?;
    give_up_at_once(&stack).await?;
    let sizes = std::iter::repeat_n(100 << 10, usize::try_from(SMALL)?).chain([17 << 20, 32 << 20]);
    let events = (1..).zip(sizes).map(|(number, size)| {
        let event = event_of(&event_id(number), number, &"x".repeat(size));
        (TOPIC, envelope(&event))
    });
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
    publisher.publish_all(events, Qos::AtLeastOnce).await?;
    wait_given_up(&stack, SMALL + 2).await;

    // When they are exported, then each payload is what was sent.
    let file = stack.service.data_dir().join("dead.jsonl");
    let file = file.to_str().context("a path")?;
    let told = printed(&stack, &["dead", "export", "--to", file])?;
    assert!(
        told.starts_with(&format!("exported: {} objects", SMALL + 2)),
        "{told}"
    );
    let exported: BTreeSet<Vec<u8>> = std::fs::read_to_string(file)?
        .lines()
        .map(|line| {
            let object: Value = serde_json::from_str(line)?;
            let payload = object["payload"].as_str().context("a payload")?;
            Ok(base64_simd::STANDARD.decode_to_vec(payload)?)
        })
        .collect::<Result<_>>()?;
    let sent: BTreeSet<Vec<u8>> = stack
        .sink
        .requests()
        .into_iter()
        .map(|request| request.body.to_vec())
        .collect();
    assert!(
        exported == sent,
        "{} exported, {} sent",
        exported.len(),
        sent.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_no_authority_is_needed() -> Result<()> {
    let stack = with_given_up(1).await?;
    let mut command = stack.service.command_of(&["dead", "purge", "--all"])?;
    command.envs(["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| (name, "/not/there")));
    let output = command.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_speak_https_to_a_service_whose_certificate_they_trust() -> Result<()> {
    // Given a service on https, whose certificate has another name than its host.
    const NAME: &str = "app.plant";
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let certificate = authority.issue(NAME)?;
    let mut stack = with_given_up(3).await?;
    stack.service.stop().await?;
    stack.consul.put_all(&https_settings(&certificate)).await?;
    stack.service.spawn()?;
    stack
        .service
        .process()
        .wait_for_line("Service started", wait::LONG)
        .await;
    let folder = stack.service.data_dir().to_owned();
    let file = |name: &str, authority: &Authority| -> Result<String> {
        let path = folder.join(name);
        std::fs::write(&path, authority.pem())?;
        Ok(path.display().to_string())
    };
    let (ours, theirs) = (file("ours.pem", &authority)?, file("theirs.pem", &stranger)?);

    // When it is not known who it is, then it is not asked.
    let redrive = ["dead", "redrive", "--all"];
    let refused = |stack: &Stack, said: &str| -> Result<()> {
        let output = stack.service.run(&redrive)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{told}");
        ensure!(told.contains(said) && told.contains("EDGEHOLD_CACERT"), "{told}");
        Ok(())
    };
    refused(&stack, "UnknownIssuer")?;
    stack.service.set_env("EDGEHOLD_CACERT", &theirs);
    refused(&stack, "invalid peer certificate")?;
    stack.service.set_env("EDGEHOLD_CACERT", &ours);
    refused(&stack, "not valid for name")?;

    // And when it is, it re-drives.
    stack.service.set_env("EDGEHOLD_TLS_SERVER_NAME", NAME);
    let told = printed(&stack, &redrive)?;
    assert!(told.starts_with("re-driven: 3 of 3 objects"), "{told}");

    // Whoever wants to do without may.
    stack.service.set_env("EDGEHOLD_CACERT", &theirs);
    stack.service.set_env("EDGEHOLD_TLS_VERIFY", "false");
    printed(&stack, &redrive)?;
    stack.service.stop().await
}
