//! Settings under random edits on a real Consul, while events flow: valid and invalid values, deletions, transactions over
//! several layers, folders made by hand, pipelines that are added, broken and renamed, bursts that nobody can follow.
//!
//! After each edit the service has to show what a model says: what holds in its usual place, and beside it what does not.
//! Meanwhile every event leaves by the default pipeline, each once, without a pause of the flow and without a restart.
//!
//! `model` says what has to hold, `change` makes the edits. A run repeats by its seed, which it prints
//! (`EDGEHOLD_TEST_SEED`); `make soak` makes a thousand edits.

mod change;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{MqttPublisher, Qos, Received};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::change::{Change, Edit, Edits, Layer};
use self::model::{Model, Rejected};
use crate::random::{self, Random};
use crate::support::{COMMON, DURABLE, PRIVATE, Stack, TOPIC, envelope, event, event_id, exported_id};

const SEED: u64 = 20_261_128;
/// Edits of a run that CI has time for, and the longest pause there: others build on the same machine.
const EDITS: u64 = 200;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const SOAKED_EDITS: u64 = 1_000;
const LONGEST_SOAKED_PAUSE: Duration = Duration::from_secs(1);
const BETWEEN_EVENTS: Duration = Duration::from_millis(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(3);
/// A good pipeline below the private one.
const COMMON_ORDER: (&str, &str) = ("app-services/Writable/Pipeline/ExecutionOrder", "HTTPExport");
const SECRET: &str = "Writable/InsecureSecrets/http/SecretData/headervalue";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_edits_lose_no_event_and_end_as_a_model_says() -> Result<()> {
    edit(EDITS, LONGEST_PAUSE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute, and wants a quiet machine: make soak"]
async fn soak_a_thousand_random_edits_lose_no_event_and_end_as_a_model_says() -> Result<()> {
    edit(SOAKED_EDITS, LONGEST_SOAKED_PAUSE).await
}

async fn edit(edits: u64, longest_pause: Duration) -> Result<()> {
    let seed = random::seed(SEED)?;
    // Given a service whose exports carry a secret, under a steady flow of events.
    let mut stack = Stack::start(&[DURABLE, &[COMMON_ORDER]].concat()).await?;
    let header = "Pipeline/Functions/HTTPExport/Parameters";
    stack
        .set(&[
            (&format!("{header}/HeaderName"), "X-Secret"),
            (&format!("{header}/SecretName"), "http"),
            (&format!("{header}/SecretValueKey"), "headervalue"),
            (
                "Pipeline/Functions/HTTPExport2/Parameters/Url",
                &stack.sink.url("/second"),
            ),
        ])
        .await?;
    let mut model = Model::default();
    model.take(&stored(&stack).await?);
    model.settle();
    wait_until_equal(&stack, &model, "the beginning").await;
    let pid = stack.service.process().pid();
    let flow = Flow::start(stack.broker.port());

    // When settings are edited, each edit is followed as the model says.
    let mut source = Edits {
        random: Random(seed),
        sink: stack.sink.url(""),
        drawn: 0,
    };
    for number in 1..=edits {
        let edit = source.next(&model);
        write(&stack, &edit).await?;
        model.take(edit.changes());
        model.settle();
        let what = format!("edit {number} of seed {seed} ({edit:?})");
        wait_until_equal(&stack, &model, &what).await;
    }

    // Then no event is missing, none came twice, and nothing stood still.
    let published = flow.stop().await?;
    // What waits leaves.
    let retried = ["Enabled", "RetryInterval"].map(|name| format!("Writable/StoreAndForward/{name}"));
    let retried = retried.into_iter().zip(["true", "1s"]);
    let retried: Vec<Change> = retried
        .map(|(path, text)| Change::Set(Layer::Private, path, text.to_owned()))
        .collect();
    transact(&stack, &retried).await?;
    model.take(&retried);
    model.settle();
    wait_until_equal(&stack, &model, &format!("the end of seed {seed}")).await;
    let ids: BTreeMap<String, usize> = (1..=published).map(|number| (event_id(number), 1)).collect();
    let arrived = wait::until("every event to arrive", LONG, async || {
        let arrived = by_default_pipeline(&stack);
        let missing: Vec<&String> = ids.keys().filter(|id| !arrived.contains_key(*id)).collect();
        if let Some(first) = missing.first() {
            let stats = stack.service.stats().await?.0;
            let about = about(&mut stack, first);
            bail!(
                "{} of {published} are missing; the books are {stats}; the first is {about}",
                missing.len()
            );
        }
        Ok(arrived)
    })
    .await;
    let twice: Vec<&String> = arrived
        .iter()
        .filter(|(_, times)| **times > 1)
        .map(|(id, _)| id)
        .collect();
    if let Some(first) = twice.first() {
        panic!(
            "{} came twice, the first is {}",
            twice.len(),
            about(&mut stack, first)
        );
    }
    assert_eq!(arrived.len(), ids.len(), "none of somebody else's");
    let stats = stack
        .service
        .wait_stats("every run to end", |stats| stats.all_ended(published))
        .await;
    for nothing in [
        "undecodable",
        "unmatched",
        "filtered",
        "dropped",
        "givenUp",
        "inFlight",
    ] {
        assert_eq!(stats.books(nothing), 0, "{nothing}: {stats:?}");
    }
    let pause = longest_pause_of(&stack);
    tell(seed, edits, published, pause);
    assert!(
        pause < longest_pause,
        "the flow stood still for {pause:?} (seed {seed})"
    );
    assert!(stack.service.process().is_running()?);
    assert_eq!(stack.service.process().pid(), pid);

    // And the secret that is sent is the one that holds.
    stack.publish([published + 1]).await?;
    let id = Some(event_id(published + 1));
    let is_last = |request: &Received| is_of_default_pipeline(request) && exported_id(request) == id;
    let last = stack.sink.wait_for_request("the last event", LONG, is_last).await;
    assert_eq!(last.header("X-Secret"), model.text(SECRET));
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "the numbers are the finding, whether the test passes or not"
)]
fn tell(seed: u64, edits: u64, published: u64, pause: Duration) {
    println!(
        "{edits} edits of seed {seed}: {published} events, the longest pause {} ms",
        pause.as_millis()
    );
}

/// Publishes event after event, each when the broker has the one before.
struct Flow {
    stop: Arc<AtomicBool>,
    published: tokio::task::JoinHandle<Result<u64>>,
}

impl Flow {
    #[expect(clippy::disallowed_methods, reason = "its handle is kept and awaited")]
    fn start(broker: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let published = tokio::spawn(async move {
            let mut publisher = MqttPublisher::connect(broker).await?;
            let mut published = 0;
            while !told.load(Ordering::Acquire) {
                published += 1;
                let message = envelope(&event(published));
                publisher.publish(TOPIC, message, Qos::AtLeastOnce).await?;
                sleep(BETWEEN_EVENTS).await;
            }
            Ok(published)
        });
        Self { stop, published }
    }

    /// How many events the broker has.
    async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Release);
        self.published.await?
    }
}

/// When and where an event was sent, and what the log says of it.
fn about(stack: &mut Stack, id: &str) -> String {
    let requests = stack.sink.requests();
    let sent = requests
        .iter()
        .filter(|request| exported_id(request).as_deref() == Some(id));
    let sent = sent.map(|request| format!("{} {:?} at {:?}", request.target, request.status, request.at));
    let lines = stack.service.process().lines();
    let told = lines.into_iter().filter(|line| line.contains(id));
    let lines: Vec<String> = std::iter::once(id.to_owned()).chain(sent).chain(told).collect();
    lines.join("\n")
}

/// How often each event has arrived from the default pipeline.
fn by_default_pipeline(stack: &Stack) -> BTreeMap<String, usize> {
    stack.sink.count_by(|request| {
        let is_ours = is_of_default_pipeline(request);
        is_ours.then(|| exported_id(request)).flatten()
    })
}

fn is_of_default_pipeline(request: &Received) -> bool {
    request.target.starts_with("/export")
}

/// The longest time without an arrival between the first and the last.
fn longest_pause_of(stack: &Stack) -> Duration {
    let requests = stack.sink.requests();
    let mut times: Vec<_> = requests.iter().map(|request| request.at).collect();
    times.sort();
    let pauses = times.windows(2).map(|pair| pair[1].duration_since(pair[0]));
    pauses.max().unwrap_or_default()
}

/// What Consul holds below the three `Writable` folders, as if it had been set just now.
async fn stored(stack: &Stack) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for layer in Layer::HIGHEST_FIRST {
        let folder = folder(layer);
        for (key, value) in stack.consul.list(&format!("{folder}Writable/")).await? {
            let path = key.strip_prefix(&folder).context("it was listed by its prefix")?;
            changes.push(Change::Set(
                layer,
                path.to_owned(),
                String::from_utf8(value.to_vec())?,
            ));
        }
    }
    Ok(changes)
}

fn folder(layer: Layer) -> String {
    match layer {
        Layer::AllServices => format!("{COMMON}all-services/"),
        Layer::AppServices => format!("{COMMON}app-services/"),
        Layer::Private => PRIVATE.to_owned(),
    }
}

async fn write(stack: &Stack, edit: &Edit) -> Result<()> {
    match edit {
        Edit::Together(changes) => transact(stack, changes).await,
        Edit::Burst(changes) => {
            for change in changes {
                transact(stack, std::slice::from_ref(change)).await?;
            }
            Ok(())
        }
    }
}

async fn transact(stack: &Stack, changes: &[Change]) -> Result<()> {
    let key = |layer: &Layer, path: &str| format!("{}{path}", folder(*layer));
    let operation = |change: &Change| match change {
        Change::Set(layer, path, text) => {
            let value = base64_simd::STANDARD.encode_to_string(text);
            json!({"KV": {"Verb": "set", "Key": key(layer, path), "Value": value}})
        }
        Change::Delete(layer, path) => json!({"KV": {"Verb": "delete", "Key": key(layer, path)}}),
        Change::DeleteBelow(layer, path) => json!({"KV": {"Verb": "delete-tree", "Key": key(layer, path)}}),
    };
    let operations: Vec<Value> = changes.iter().map(operation).collect();
    if operations.is_empty() {
        return Ok(());
    }
    let body = Value::from(operations).to_string();
    let answer = stack.consul.ask("PUT", "/v1/txn", body.as_bytes()).await?;
    answer.succeeded().map(drop)
}

/// Waits until the service shows what the model says.
///
/// # Panics
/// When it does not come to that.
async fn wait_until_equal(stack: &Stack, model: &Model, what: &str) {
    let (shown, rejected) = (model.shown(), model.rejected());
    let deadline = Instant::now() + LONG;
    loop {
        let seen = seen(stack).await;
        match seen {
            Ok((config, listed)) if config == shown && listed == *rejected => return,
            _ if Instant::now() < deadline => sleep(BETWEEN_LOOKS).await,
            Ok((config, listed)) => {
                let paths: BTreeSet<&String> = config.keys().chain(shown.keys()).collect();
                let differ = paths
                    .into_iter()
                    .filter(|path| config.get(*path) != shown.get(*path));
                let differ: Vec<_> = differ
                    .map(|path| {
                        format!(
                            "{path}: shown {:?}, has to be {:?}",
                            config.get(path),
                            shown.get(path)
                        )
                    })
                    .collect();
                panic!(
                    "{what} is not followed.\n{}\nrejected: {listed:#?}\nhas to be: {rejected:#?}",
                    differ.join("\n")
                );
            }
            Err(error) => panic!("{what}: {error:#}"),
        }
    }
}

/// The leaves of `/config` below `Writable` by path, and key, layer and value of what is listed as rejected.
async fn seen(stack: &Stack) -> Result<(BTreeMap<String, Value>, Rejected)> {
    let body: Value = stack.service.get("/api/v3/config").await?.succeeded()?.json()?;
    let mut leaves = BTreeMap::new();
    flatten(&body["config"]["Writable"], "Writable", &mut leaves);
    let mut rejected = Rejected::new();
    for one in body["rejected"].as_array().into_iter().flatten() {
        let text = |name: &str| one[name].as_str().map(str::to_owned).context("it has texts");
        rejected.insert((text("key")?, text("section")?, text("value")?));
    }
    Ok((leaves, rejected))
}

fn flatten(value: &Value, path: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        // A map with nothing in it.
        Value::Null => {}
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| flatten(value, &format!("{path}/{key}"), into)),
        leaf => _ = into.insert(path.to_owned(), leaf.clone()),
    }
}
