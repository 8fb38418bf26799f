//! Everything recorded on real buses, through a service that subscribes to the whole bus: a test for each message, by its
//! name. An event comes out once and as it went in, integers exact; what is no event is named in the log and set aside
//! whole.
//!
//! All messages of a generation go through one service. The first test that asks lets it run, from start to end, and the
//! others read what became of their message.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use base64_simd::STANDARD;
use edgehold_test_support::fixtures::{self, Generation, RecordedMessage};
use edgehold_test_support::wait::LONG;
use edgehold_test_support::{HttpSink, MqttPublisher, Qos, Received};
use serde_json::Value;

use crate::main_job::{count, event_inside, from_files, is_event, refuse_every_third_event_once};
use crate::support::{Service, Stats, broker, exported_id};

/// What became of the messages of a generation.
struct Outcome {
    /// What differs, by case; nothing where all is as it should be.
    problems: BTreeMap<String, Option<String>>,
    /// The books when everything had ended.
    stats: Stats,
}

macro_rules! a_test_each {
    ($($module:ident $generation:ident: [$($case:ident)*])*) => {$(
        mod $module {
            use super::{Generation, LazyLock, Outcome, Result, outcome};

            static OUTCOME: LazyLock<Result<Outcome>> = LazyLock::new(|| outcome(Generation::$generation));

            #[test]
            fn each_message_is_taken_once_and_none_is_lost() -> Result<()> {
                super::books_are_even(Generation::$generation, &OUTCOME)
            }

            $(#[test]
            fn $case() -> Result<()> {
                super::is_as_it_should_be(&OUTCOME, stringify!($case))
            })*
        }
    )*};
}
edgehold_test_support::recorded_messages!(a_test_each);

fn told(outcome: &'static Result<Outcome>) -> Result<&'static Outcome> {
    let error = |error: &anyhow::Error| anyhow::anyhow!("the service did not get to the end: {error:#}");
    outcome.as_ref().map_err(error)
}

fn is_as_it_should_be(outcome: &'static Result<Outcome>, case: &str) -> Result<()> {
    let problem = told(outcome)?.problems.get(case);
    let problem = problem.with_context(|| format!("{case} was not published"))?;
    assert_eq!(problem.as_deref(), None, "{case}");
    Ok(())
}

fn books_are_even(generation: Generation, outcome: &'static Result<Outcome>) -> Result<()> {
    let messages = fixtures::messages(generation)?;
    let (events, others): (Vec<_>, Vec<_>) = messages.iter().cloned().partition(is_event);
    let stats = &told(outcome)?.stats;
    assert_eq!(stats.books("received"), count(&messages), "{stats:?}");
    assert_eq!(stats.books("undecodable"), count(&others), "{stats:?}");
    assert_eq!(stats.books("completed"), count(&events), "{stats:?}");
    assert_eq!(stats.store("error"), count(&others), "{stats:?}");
    for nothing in ["unmatched", "dropped", "givenUp", "inFlight"] {
        assert_eq!(stats.books(nothing), 0, "{nothing}: {stats:?}");
    }
    Ok(())
}

fn outcome(generation: Generation) -> Result<Outcome> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(generation))
}

async fn run(generation: Generation) -> Result<Outcome> {
    // Given a subscription to the whole bus, and a destination that refuses now and then.
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let service = from_files(generation, &sink.url("/export"), broker.port())?;
    let mut service = service.env("TRIGGER_SUBSCRIBETOPICS", "#");
    let before = broker.process().line_count();
    service.start().await?;
    broker
        .process()
        .wait_for_line_after(before, " edgex/#", LONG)
        .await;
    refuse_every_third_event_once(&sink);

    // When everything recorded comes on its own topic.
    let messages = fixtures::messages(generation)?;
    let all = messages
        .iter()
        .map(|message| (message.topic.clone(), message.payload.clone()));
    let mut publisher = MqttPublisher::connect(broker.port()).await?;
    publisher.publish_all(all, Qos::AtLeastOnce).await?;

    // Then all of it has its end, and each message its own.
    let others = messages.iter().filter(|message| !is_event(message)).count();
    let events = u64::try_from(messages.len() - others)?;
    let ends = |stats: &Stats| {
        stats.all_ended(count(&messages)) && stats.books("completed") >= events && stats.store("waiting") == 0
    };
    let stats = service.wait_stats("everything to have its end", ends).await;
    let lines = service.process().lines();
    service.stop().await?;
    let set_aside = set_aside(&service, messages.len())?;
    let accepted = sink.requests();
    let accepted: Vec<_> = accepted
        .iter()
        .filter(|request| request.status == Some(200))
        .collect();
    let problems = messages.iter().map(|message| {
        let result = match is_event(message) {
            true => came_out(message, &accepted),
            false => was_set_aside(message, &set_aside, &lines),
        };
        let problem = result.err().map(|error| format!("{error:#}"));
        (fixtures::message_case(&message.file), problem)
    });
    Ok(Outcome {
        problems: problems.collect(),
        stats,
    })
}

/// The event was accepted once, with all its fields.
fn came_out(message: &RecordedMessage, accepted: &[&Received]) -> Result<()> {
    let event = event_inside(message)?;
    let id = event["id"].as_str().context("an event has an id")?;
    let requests: Vec<_> = accepted
        .iter()
        .filter(|request| exported_id(request).as_deref() == Some(id))
        .collect();
    let [request] = requests[..] else {
        anyhow::bail!("it was accepted {} times", requests.len())
    };
    let exported: Value = serde_json::from_slice(&request.body)?;
    ensure!(exported == event, "{exported}\ncame out of\n{event}");
    ensure!(
        request.header("Content-Type") == Some("application/json"),
        "it is {:?}",
        request.header("Content-Type")
    );
    Ok(())
}

/// The message is in the error collection with its topic, as it was in its envelope, and an error names it.
fn was_set_aside(message: &RecordedMessage, set_aside: &[Value], lines: &[String]) -> Result<()> {
    let envelope: Value = serde_json::from_slice(&message.payload)?;
    let payload = match &envelope["payload"] {
        Value::String(base64) => STANDARD.decode_to_vec(base64).context("it is base64")?,
        Value::Null => Vec::new(),
        object => object.to_string().into_bytes(),
    };
    // Equal as JSON where it is some.
    let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|_| bytes.to_vec());
    let wanted = value(&payload);
    let is_kept = set_aside.iter().any(|object| {
        let kept = object["payload"]
            .as_str()
            .and_then(|base64| STANDARD.decode_to_vec(base64).ok());
        object["input"]["topic"] == message.topic.as_str() && kept.is_some_and(|kept| value(&kept) == wanted)
    });
    ensure!(
        is_kept,
        "it is not among the {} that were set aside",
        set_aside.len()
    );
    let is_named = lines.iter().any(|line| {
        line.contains("level=ERROR") && line.contains("unable to decode") && line.contains(&message.topic)
    });
    ensure!(is_named, "no error names its topic");
    Ok(())
}

/// Everything in the error collection of a service that has ended.
fn set_aside(service: &Service, at_most: usize) -> Result<Vec<Value>> {
    let output = service.run(&["dead", "ls", "--json", &format!("--limit={at_most}")])?;
    ensure!(
        output.status.success(),
        "dead ls: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
