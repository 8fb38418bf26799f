//! Metrics on the message bus: as EdgeX writes them, in both generations, switched while the service runs, and numbers
//! that go on and never drift. Tests with a number are named for a weakness of the original (configuration.md §12).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures::{self, Generation, RecordedMessage};
use edgehold_test_support::wait::{LONG, until};
use edgehold_test_support::{
    Behaviour, HttpSink, Message, Mosquitto, MqttSubscriber, Qos, Redis, RedisClient, http,
};
use serde_json::Value;

use crate::profiles::{Bus, profile};
use crate::support::{
    SERVICE_KEY, Service, Stack, TOPIC, broker, envelope, event, refusing, start_subscribed_to, wait_accepted,
};

/// Often enough for a test.
const INTERVAL: &str = "200ms";

/// Hears the metrics of all services.
enum Ear {
    Redis(Box<RedisClient>),
    Mqtt(MqttSubscriber),
}

/// A metric as it came: its topic, the text of the envelope and the text of the metric in it.
#[derive(Clone, Debug)]
struct Heard {
    topic: String,
    envelope: String,
    metric: String,
}

impl Heard {
    fn new(topic: &str, message: &[u8]) -> Result<Self> {
        let envelope = String::from_utf8(message.to_vec())?;
        let payload = serde_json::from_str::<Value>(&envelope)?["payload"].take();
        let metric = match &payload {
            Value::String(base64) => String::from_utf8(base64_simd::STANDARD.decode_to_vec(base64)?)?,
            // Only its place in the envelope is of interest.
            raw => raw.to_string(),
        };
        Ok(Self {
            topic: topic.replace('.', "/"),
            envelope,
            metric,
        })
    }

    fn recorded(message: &RecordedMessage) -> Result<Self> {
        Self::new(&message.topic, &message.payload)
    }

    fn name(&self) -> &str {
        self.topic.rsplit('/').next().unwrap_or_default()
    }

    /// Everything but the numbers, the ids and where the test's destination is: in base64 of the metric alone.
    fn shape(&self) -> Result<(String, String)> {
        let envelope: Value = serde_json::from_str(&self.envelope)?;
        let id = envelope["correlationID"].as_str().context("an id")?;
        ensure!(id.len() == 36, "the id is {id:?}");
        let mut text = self.envelope.replace(id, "ID");
        if let Some(base64) = envelope["payload"].as_str() {
            text = text.replace(base64, "BASE64");
        }
        let metric: Value = serde_json::from_str(&self.metric)?;
        let url = tags(&metric).remove("url").unwrap_or_default();
        let shape = |text: &str| without_numbers(&text.replace(&url, "URL"));
        if url.is_empty() {
            return Ok((without_numbers(&text), without_numbers(&self.metric)));
        }
        Ok((shape(&text), shape(&self.metric)))
    }

    fn metric(&self) -> Value {
        serde_json::from_str(&self.metric).expect("a metric is JSON")
    }
}

/// JSON text with each number outside of strings replaced by `#`.
fn without_numbers(json: &str) -> String {
    let mut shape = String::new();
    let (mut in_string, mut in_number) = (false, false);
    for char in json.chars() {
        in_string ^= char == '"';
        let is_number = !in_string && (char.is_ascii_digit() || (in_number && "+-.e".contains(char)));
        match (is_number, in_number) {
            (true, false) => shape.push('#'),
            (true, true) => {}
            (false, _) => shape.push(char),
        }
        in_number = is_number;
    }
    shape
}

fn tags(metric: &Value) -> BTreeMap<String, String> {
    let tags = metric["tags"].as_array().into_iter().flatten();
    tags.map(|tag| {
        let text = |key: &str| tag[key].as_str().unwrap_or_default().to_owned();
        (text("name"), text("value"))
    })
    .collect()
}

/// The first number of a metric: its count or value.
fn number(metric: &Value) -> i64 {
    let value = &metric["fields"][0]["value"];
    value.as_i64().unwrap_or_else(|| panic!("no number: {metric}"))
}

impl Ear {
    async fn on_mqtt(broker: &Mosquitto) -> Result<Self> {
        let subscriber = MqttSubscriber::connect(broker.port(), "edgex/telemetry/#", Qos::AtLeastOnce);
        subscriber.await.map(Self::Mqtt)
    }

    async fn on_redis(server: &Redis) -> Result<Self> {
        let mut client = server.client().await?;
        client.subscribe("edgex.telemetry.*").await?;
        Ok(Self::Redis(Box::new(client)))
    }

    async fn on(bus: &Bus) -> Result<Self> {
        match bus {
            Bus::Redis(server) => Self::on_redis(server).await,
            Bus::Mqtt(broker) => Self::on_mqtt(broker).await,
        }
    }

    /// The latest metric by each of these names, once all have been heard of since the call.
    async fn each(&mut self, names: &BTreeSet<&str>) -> Result<BTreeMap<String, Heard>> {
        let mut latest = BTreeMap::new();
        let mut seen = match self {
            Self::Redis(_) => 0,
            Self::Mqtt(subscriber) => subscriber.count(),
        };
        while !names.iter().all(|name| latest.contains_key(*name)) {
            let heard = match self {
                Self::Redis(client) => {
                    let (topic, message) = client.next_message().await?;
                    Heard::new(&topic, &message)?
                }
                Self::Mqtt(subscriber) => {
                    seen += 1;
                    let messages = subscriber.wait_for(seen, LONG).await;
                    let message = &messages[seen - 1];
                    Heard::new(&message.topic, &message.payload)?
                }
            };
            latest.insert(heard.name().to_owned(), heard);
        }
        Ok(latest)
    }

    /// The next metric of this name.
    async fn next(&mut self, name: &str) -> Result<Value> {
        let heard = self.each(&BTreeSet::from([name])).await?;
        Ok(heard[name].metric())
    }

    /// Waits until a metric of this name has this number.
    async fn wait_number(&mut self, name: &str, wanted: i64) -> Result<Value> {
        let mut last = None;
        for _ in 0..150 {
            let metric = self.next(name).await?;
            if number(&metric) == wanted {
                return Ok(metric);
            }
            last = Some(metric);
        }
        anyhow::bail!("{name} never becomes {wanted}; the last one is {last:?}")
    }
}

/// Switches a metric on by environment, which both layers of the original's common configuration name.
fn switched_on(service: Service, names: &[&str]) -> Service {
    names.iter().fold(service, |service, name| {
        let name = name.to_uppercase();
        service.env(&format!("WRITABLE_TELEMETRY_METRICS_{name}"), "true")
    })
}

/// The metrics of app-http-export that were recorded, by name.
fn recorded(generation: Generation) -> Result<BTreeMap<String, Heard>> {
    let ours = format!("edgex/telemetry/{SERVICE_KEY}/");
    let messages = fixtures::messages(generation)?;
    let metrics = messages.iter().filter(|message| message.topic.starts_with(&ours));
    let heard = metrics
        .map(Heard::recorded)
        .map(|heard| heard.map(|heard| (heard.name().to_owned(), heard)));
    heard.collect()
}

/// Publishes to the service of a bus.
async fn publish(bus: &Bus, topic: &str, payload: &[u8]) -> Result<()> {
    match bus {
        Bus::Redis(server) => server.publish(&topic.replace('/', "."), payload).await.map(drop),
        Bus::Mqtt(broker) => {
            let mut publisher = edgehold_test_support::MqttPublisher::connect(broker.port()).await?;
            publisher.publish(topic, payload, Qos::AtLeastOnce).await
        }
    }
}

#[tokio::test]
async fn every_recorded_metric_comes_in_the_same_form_in_edgex_3_on_redis() -> Result<()> {
    every_recorded_metric_comes_in_the_same_form(Generation::V3).await
}

#[tokio::test]
async fn every_recorded_metric_comes_in_the_same_form_in_edgex_4_on_mqtt() -> Result<()> {
    every_recorded_metric_comes_in_the_same_form(Generation::V4).await
}

async fn every_recorded_metric_comes_in_the_same_form(generation: Generation) -> Result<()> {
    // Given the original's own profile with all metrics on.
    let recorded = recorded(generation)?;
    let names: BTreeSet<&str> = recorded.keys().map(String::as_str).collect();
    ensure!(names.len() >= 7, "only {names:?} are recorded");
    let (sink, mut bus) = (HttpSink::start().await?, Bus::start(generation).await?);
    let service = profile(generation, "http-export")?
        .env("WRITABLE_TELEMETRY_INTERVAL", INTERVAL)
        .env("DATABASE_TYPE", "sqlite")
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL",
            &sink.url("/ingest"),
        );
    let all: Vec<&str> = names.iter().copied().collect();
    let mut service = bus.serve(switched_on(service, &all)).await?;
    let mut ear = Ear::on(&bus).await?;

    // When two events come, and one message that is none.
    for number in 1..=2 {
        publish(&bus, TOPIC, &envelope(&event(number))).await?;
    }
    publish(&bus, TOPIC, b"no envelope").await?;
    wait_accepted(&sink, 1..=2).await;
    ear.wait_number("InvalidMessagesReceived", 1).await?;

    // Then each metric differs from the recorded one in nothing but its numbers.
    let heard = ear.each(&names).await?;
    for (name, recorded) in &recorded {
        let ours = &heard[name];
        assert_eq!(ours.topic, recorded.topic);
        assert_eq!(ours.shape()?, recorded.shape()?, "{name}");
    }
    let numbers: BTreeMap<&str, i64> = heard
        .iter()
        .map(|(name, heard)| (name.as_str(), number(&heard.metric())))
        .collect();
    let mut expected = BTreeMap::from([
        ("HttpExportErrors", 0),
        ("HttpExportSize", 2),
        ("InvalidMessagesReceived", 1),
        ("MessagesReceived", 3),
        ("PipelineMessageProcessingTime", 2),
        ("PipelineMessagesProcessed", 2),
        ("PipelineProcessingErrors", 0),
        ("SecuritySecretsStored", 0),
        ("StoreForwardQueueSize", 0),
    ]);
    // How often secrets are asked for is each service's own affair.
    expected.retain(|name, _| numbers.contains_key(name));
    let numbers: BTreeMap<&str, i64> = numbers
        .into_iter()
        .filter(|(name, _)| *name != "SecuritySecretsRequested")
        .collect();
    assert_eq!(numbers, expected);
    if let Ear::Mqtt(subscriber) = &ear {
        let as_recorded = |message: &Message| (message.qos, message.retained) == (Qos::AtMostOnce, false);
        assert!(subscriber.messages().iter().all(as_recorded));
    }
    let sizes = &heard["HttpExportSize"].metric()["fields"];
    let sent = sink.requests()[0].body.len();
    assert_eq!(
        (&sizes[1]["value"], &sizes[2]["value"]),
        (&sent.into(), &sent.into())
    );
    service.stop().await
}

/// §12.5, §12.32: the original reloads all pipelines for a tag, and after any reload the numbers of its exports stand still.
#[tokio::test]
async fn weakness_32_metrics_are_switched_without_a_reload_and_go_on_after_one() -> Result<()> {
    // Given a running service that reports nothing: the common configuration has every metric off.
    let mut stack = Stack::start(&[]).await?;
    let mut ear = Ear::on_mqtt(&stack.broker).await?;
    stack.publish(1..=3).await?;
    wait_accepted(&stack.sink, 1..=3).await;

    // When metrics, a tag and an interval are set.
    stack
        .set(&[
            ("Telemetry/Interval", INTERVAL),
            ("Telemetry/Metrics/HttpExport", "true"),
            ("Telemetry/Metrics/PipelineMessagesProcessed", "true"),
            ("Telemetry/Metrics/ConfigurationRejected", "true"),
            ("Telemetry/Tags/Gateway", "gw-1"),
        ])
        .await?;

    // Then they are reported from the next report on, with what has happened before, and no pipeline is touched.
    let processed = ear.wait_number("PipelineMessagesProcessed", 3).await?;
    let names: Vec<&str> = processed["tags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tag| tag["name"].as_str())
        .collect();
    assert_eq!(names, ["Gateway", "service", "pipeline"]);
    assert_eq!(tags(&processed)["Gateway"], "gw-1");
    // Both metrics of the export go by the one name that was switched on.
    let size = until_some(&mut ear, "HttpExport", |metric| {
        metric["fields"][0]["name"] == "histogram-count"
    })
    .await?;
    assert_eq!(number(&size), 3);
    let reloaded = "successfully reloaded";
    assert!(
        !stack
            .service
            .process()
            .lines()
            .iter()
            .any(|line| line.contains(reloaded))
    );

    // When the pipeline is built again, they go on.
    let before = stack.service.process().line_count();
    stack
        .set(&[(
            "Pipeline/Functions/HTTPExport/Parameters/MimeType",
            "application/x-json",
        )])
        .await?;
    stack
        .service
        .process()
        .wait_for_line_after(before, reloaded, LONG)
        .await;
    stack.publish(4..=5).await?;
    wait_accepted(&stack.sink, 4..=5).await;
    ear.wait_number("PipelineMessagesProcessed", 5).await?;
    let grown = |metric: &Value| metric["fields"][0]["name"] == "histogram-count" && number(metric) == 5;
    until_some(&mut ear, "HttpExport", grown).await?;

    // When an interval is negative, the last good one stays (§12.22), and a metric says that something is rejected.
    ear.wait_number("ConfigurationRejected", 0).await?;
    stack.set(&[("Telemetry/Interval", "-5s")]).await?;
    stack.service.wait_error(0, "-5s").await;
    ear.wait_number("ConfigurationRejected", 1).await?;

    // When it is 0s, nothing comes any more: not even what happens now.
    stack.set(&[("Telemetry/Interval", "0s")]).await?;
    stack
        .service
        .process()
        .wait_for_line("metrics are no longer reported", LONG)
        .await;
    let Ear::Mqtt(subscriber) = &ear else {
        unreachable!("it is on MQTT")
    };
    stack.publish(6..=6).await?;
    wait_accepted(&stack.sink, 6..=6).await;
    let heard = subscriber.messages();
    let last = heard
        .iter()
        .rfind(|message| message.topic.ends_with("/PipelineMessagesProcessed"))
        .context("it was reported before")?;
    assert_eq!(number(&Heard::new(&last.topic, &last.payload)?.metric()), 5);
    stack.service.stop().await
}

/// The next metric of this name that is as wanted.
async fn until_some(ear: &mut Ear, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    for _ in 0..150 {
        let metric = ear.next(name).await?;
        if wanted(&metric) {
            return Ok(metric);
        }
    }
    anyhow::bail!("no {name} is as wanted")
}

/// §12.30: the original counts up for what could not be stored, and down for what could not be removed.
#[tokio::test]
async fn weakness_30_the_queue_size_is_the_stores_own_through_failure_retry_kill_and_restart() -> Result<()> {
    const QUEUE: &str = "StoreForwardQueueSize";
    const DEAD: &str = "StoreForwardDeadLetters";

    // Given a destination that refuses.
    let mut stack = Stack::start_storing(&[
        ("StoreAndForward/RetryInterval", "1h"),
        ("StoreAndForward/MaxRetryCount", "1"),
        ("Telemetry/Interval", INTERVAL),
        ("Telemetry/Metrics/StoreForwardQueueSize", "true"),
        ("Telemetry/Metrics/StoreForwardDeadLetters", "true"),
        ("Telemetry/Metrics/PipelineProcessingErrors", "true"),
        ("Telemetry/Metrics/HttpExportErrors", "true"),
    ])
    .await?;
    let mut ear = Ear::on_mqtt(&stack.broker).await?;
    ear.wait_number(QUEUE, 0).await?;
    stack.sink.behave(refusing());

    // Then what fails is in the queue, also after a kill and a restart.
    stack.publish(1..=5).await?;
    ear.wait_number(QUEUE, 5).await?;
    ear.wait_number("HttpExportErrors", 5).await?;
    ear.wait_number("PipelineProcessingErrors", 5).await?;
    stack.service.kill9()?;
    stack.start_service().await?;
    ear.wait_number(QUEUE, 5).await?;

    // When all but the first one are accepted at the retry that comes now.
    stack.sink.script(|request| match request.json()["id"].as_str() {
        Some(id) if id.ends_with("01") => refusing(),
        _ => Behaviour::status(200),
    });
    let interval = async |interval| stack.set(&[("StoreAndForward/RetryInterval", interval)]).await;
    interval("1s").await?;

    // Then what was retried with success has left it, and what was given up is elsewhere.
    wait_accepted(&stack.sink, 2..=5).await;
    ear.wait_number(QUEUE, 0).await?;
    ear.wait_number(DEAD, 1).await?;
    let stats = stack.service.stats().await?;
    assert_eq!((stats.store("failed"), stats.store("error")), (0, 1), "{stats:?}");

    // And new failures count on from there.
    interval("1h").await?;
    let is_long = stack
        .service
        .wait_config("/Writable/StoreAndForward/RetryInterval", "1h");
    is_long.await;
    stack.sink.behave(refusing());
    stack.publish(6..=7).await?;
    ear.wait_number(QUEUE, 2).await?;
    stack.service.stop().await
}

/// §12.29: the original does not count what comes by HTTP.
#[tokio::test]
async fn weakness_29_what_comes_by_http_is_counted_like_everything_else() -> Result<()> {
    // Given the original's profile for HTTP with the bus that its own comment asks for.
    let broker = broker().await?;
    let service = profile(Generation::V4, "functional-tests")?
        .env("MESSAGEBUS_DISABLED", "false")
        .env("MESSAGEBUS_PORT", &broker.port().to_string())
        .env("WRITABLE_TELEMETRY_INTERVAL", INTERVAL);
    let names = [
        "InvalidMessagesReceived",
        "MessagesReceived",
        "PipelineMessageProcessingTime",
        "PipelineMessagesProcessed",
    ];
    let mut service = switched_on(service, &names);
    service.start().await?;
    let mut ear = Ear::on_mqtt(&broker).await?;

    // When one request is an event and another is not.
    for (body, status) in [(event(1).to_string(), 200), ("{".to_owned(), 400)] {
        let headers = [("Content-Type", "application/json")];
        let answer = http::send(
            service.port(),
            "POST",
            "/api/v3/trigger",
            &headers,
            body.as_bytes(),
        )
        .await?;
        ensure!(answer.status == status, "{answer:?}");
    }

    // Then both have been received.
    for (name, count) in names.into_iter().zip([1, 2, 1, 1]) {
        ear.wait_number(name, count).await?;
    }
    service.stop().await
}

#[tokio::test]
async fn without_a_bus_one_warning_says_so() -> Result<()> {
    let service = profile(Generation::V4, "functional-tests")?.env("WRITABLE_TELEMETRY_INTERVAL", "10ms");
    let mut service = switched_on(service, &["MessagesReceived"]);
    service.start().await?;
    let warning = "there is no message bus to report them to";
    service.process().wait_for_line(warning, LONG).await;
    // Many intervals later.
    for _ in 0..20 {
        service.get("/api/v3/ping").await?.succeeded()?;
    }
    service.stop().await?;
    let lines = service.process().lines();
    let warnings = lines.iter().filter(|line| line.contains(warning)).count();
    assert_eq!(warnings, 1, "{lines:#?}");
    Ok(())
}

#[tokio::test]
async fn a_bus_that_is_away_costs_the_reports_of_that_time_and_nothing_else() -> Result<()> {
    // Given a service that reports.
    let mut stack = Stack::start(&[]).await?;
    stack
        .set(&[
            ("Telemetry/Interval", INTERVAL),
            ("Telemetry/Metrics/MessagesReceived", "true"),
            ("Telemetry/Metrics/MetricsSkipped", "true"),
        ])
        .await?;
    Ear::on_mqtt(&stack.broker)
        .await?
        .wait_number("MessagesReceived", 0)
        .await?;

    // When the broker is away for some reports and comes back.
    stack.broker.kill()?;
    let skipped = "metrics are skipped until the message bus takes them again";
    stack.service.process().wait_for_line(skipped, LONG).await;
    stack.broker.restart().await?;
    stack
        .service
        .process()
        .wait_for_line("metrics are reported again", LONG)
        .await;

    // Then they go on, and say how many are missing.
    let mut ear = Ear::on_mqtt(&stack.broker).await?;
    until_some(&mut ear, "MetricsSkipped", |metric| number(metric) > 0).await?;
    stack.service.stop().await?;
    let lines = stack.service.process().lines();
    assert_eq!(lines.iter().filter(|line| line.contains(skipped)).count(), 1);
    Ok(())
}

/// The original's own consumer of metrics, the profile `metrics-influxdb`, takes ours.
#[tokio::test]
async fn the_profile_metrics_influxdb_makes_line_protocol_of_them() -> Result<()> {
    for generation in Generation::ALL {
        let mut bus = Bus::start(generation).await?;
        let influx = HttpSink::start().await?;
        let url = influx.url("/api/v2/write");
        let consumer = profile(generation, "metrics-influxdb")?
            .env("WRITABLE_PIPELINE_FUNCTIONS_BATCH_PARAMETERS_BATCHTHRESHOLD", "2")
            .env("WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL", &url);
        let mut consumer = match &mut bus {
            Bus::Mqtt(broker) => {
                let mut consumer = consumer.env("MESSAGEBUS_PORT", &broker.port().to_string());
                start_subscribed_to(&mut consumer, broker, "edgex/telemetry").await?;
                consumer
            }
            Bus::Redis(_) => bus.serve(consumer).await?,
        };
        let reporting = profile(generation, "http-export")?
            .env("WRITABLE_TELEMETRY_INTERVAL", INTERVAL)
            .env("WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL", &url);
        let mut reporting = bus.serve(switched_on(reporting, &["MessagesReceived"])).await?;
        publish(&bus, TOPIC, &envelope(&event(1))).await?;

        until("a line of the metric", LONG, async || {
            let bodies: Vec<String> = influx
                .requests()
                .iter()
                .map(|request| String::from_utf8_lossy(&request.body).into_owned())
                .collect();
            let line = format!("MessagesReceived,service={SERVICE_KEY} counter-count=1 ");
            ensure!(
                bodies.iter().any(|body| body.contains(&line)),
                "they are {bodies:?}"
            );
            Ok(())
        })
        .await;
        reporting.stop().await?;
        consumer.stop().await?;
    }
    Ok(())
}
