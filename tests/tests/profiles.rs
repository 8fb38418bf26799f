//! Every profile of the original, in both generations: its own files as they are, on the bus that the generation's own
//! common configuration names (Redis in EdgeX 3, MQTT in EdgeX 4). Nothing is overridden but where the servers are.
//!
//! An event comes in by the bus, and what the profile is for comes out. The profiles `functional-tests` and `http-export`
//! have suites of their own too: `http_trigger` and `main_job`.

use anyhow::{Context, Result, bail, ensure};
use edgehold_test_support::fixtures::{self, Generation, RecordedMessage};
use edgehold_test_support::wait::{LONG, until};
use edgehold_test_support::{
    HttpSink, Mosquitto, MqttPublisher, MqttSubscriber, Qos, Redis, RedisAnswer, RedisClient, http,
};
use serde_json::Value;

use crate::main_job::{event_inside, is_event};
use crate::support::{self, Service};

/// A profile with its common configuration, as a process of the generation.
pub(crate) fn profile(generation: Generation, name: &str) -> Result<Service> {
    let config = fixtures::path(generation, "config");
    let number = match generation {
        Generation::V3 => "3",
        Generation::V4 => "4",
    };
    let common = config.join("core-common-config-bootstrapper/configuration.yaml");
    Ok(Service::new()?
        .flag(&format!("-cc={}", common.display()))
        .flag(&format!("-cd={}", config.display()))
        .flag(&format!("-p={name}"))
        .env("EDGEHOLD_GENERATION", number))
}

/// The message bus of a generation.
pub(crate) enum Bus {
    Redis(Redis),
    Mqtt(Mosquitto),
}

impl Bus {
    pub(crate) async fn start(generation: Generation) -> Result<Self> {
        Ok(match generation {
            Generation::V3 => Self::Redis(Redis::start().await?),
            Generation::V4 => Self::Mqtt(support::broker().await?),
        })
    }

    fn port(&self) -> u16 {
        match self {
            Self::Redis(server) => server.port(),
            Self::Mqtt(broker) => broker.port(),
        }
    }

    /// Starts the service on this bus and waits for its subscription.
    pub(crate) async fn serve(&mut self, service: Service) -> Result<Service> {
        let mut service = service.env("MESSAGEBUS_PORT", &self.port().to_string());
        match self {
            Self::Redis(server) => {
                let mut client = server.client().await?;
                let before = patterns(&mut client).await?;
                service.start().await?;
                until(
                    "the subscription",
                    LONG,
                    async || matches!(patterns(&mut client).await, Ok(now) if now > before),
                )
                .await;
            }
            Self::Mqtt(broker) => {
                let before = broker.process().line_count();
                service.start().await?;
                broker
                    .process()
                    .wait_for_line_after(before, " edgex/", LONG)
                    .await;
            }
        }
        Ok(service)
    }

    async fn publish(&self, message: &RecordedMessage) -> Result<()> {
        match self {
            Self::Redis(server) => {
                let channel = message.topic.replace('/', ".");
                server.publish(&channel, &message.payload).await.map(drop)
            }
            Self::Mqtt(broker) => {
                let mut publisher = MqttPublisher::connect(broker.port()).await?;
                publisher
                    .publish(&message.topic, &message.payload, Qos::AtLeastOnce)
                    .await
            }
        }
    }

    async fn listen(&self, topic: &str) -> Result<Listener> {
        Ok(match self {
            Self::Redis(server) => {
                let mut client = server.client().await?;
                client.subscribe(&topic.replace('/', ".")).await?;
                Listener::Redis(Box::new(client))
            }
            Self::Mqtt(broker) => {
                let subscriber = MqttSubscriber::connect(broker.port(), topic, Qos::AtLeastOnce).await?;
                Listener::Mqtt { subscriber, taken: 0 }
            }
        })
    }
}

/// Hears what is published to a topic.
enum Listener {
    Redis(Box<RedisClient>),
    Mqtt {
        subscriber: MqttSubscriber,
        taken: usize,
    },
}

impl Listener {
    /// The next so many messages, as JSON.
    async fn take(&mut self, count: usize) -> Result<Vec<Value>> {
        let mut messages = Vec::new();
        match self {
            Self::Redis(client) => {
                for _ in 0..count {
                    messages.push(client.next_message().await?.1);
                }
            }
            Self::Mqtt { subscriber, taken } => {
                let received = subscriber.wait_for(*taken + count, LONG).await;
                let new = received.into_iter().skip(*taken).take(count);
                messages.extend(new.map(|message| message.payload));
                *taken += count;
            }
        }
        messages
            .iter()
            .map(|message| serde_json::from_slice(message).context("reading an envelope"))
            .collect()
    }
}

/// The bytes in the payload of a response, which is base64 in both generations.
fn payload(envelope: &Value) -> Result<Vec<u8>> {
    let text = envelope["payload"].as_str().context("the payload is base64")?;
    Ok(base64_simd::STANDARD.decode_to_vec(text)?)
}

/// The first recorded event of this device and source, as JSON.
fn recorded(generation: Generation, device: &str, source: &str) -> Result<RecordedMessage> {
    let end = format!("/{device}/{source}");
    let messages = fixtures::messages(generation)?;
    let found = messages.into_iter().find(|message| {
        is_event(message) && message.topic.ends_with(&end) && message.content_type == "application/json"
    });
    found.with_context(|| format!("no event of {device}/{source} is recorded"))
}

macro_rules! in_both_generations {
    ($($test:ident)*) => {$(
        mod $test {
            use super::*;

            #[tokio::test]
            async fn in_edgex_3() -> Result<()> {
                super::$test(Generation::V3).await
            }

            #[tokio::test]
            async fn in_edgex_4() -> Result<()> {
                super::$test(Generation::V4).await
            }
        }
    )*};
}
in_both_generations!(
    sample
    rules_engine
    http_export
    functional_tests
    metrics_influxdb
    mqtt_export
    external_mqtt_trigger
);

/// Two pipelines match an integer, one more a float: XML, XML and JSON, all published as the profile says.
async fn sample(generation: Generation) -> Result<()> {
    let mut bus = Bus::start(generation).await?;
    let mut service = bus.serve(profile(generation, "sample")?).await?;
    let mut listener = bus.listen("edgex/sample").await?;

    let integer = recorded(generation, "Random-Integer-Device", "Int8")?;
    bus.publish(&integer).await?;
    for envelope in listener.take(2).await? {
        let xml = String::from_utf8(payload(&envelope)?)?;
        let id = event_inside(&integer)?["id"]
            .as_str()
            .context("an id")?
            .to_owned();
        assert!(xml.starts_with("<Event><ApiVersion>v3</ApiVersion>"), "{xml}");
        assert!(xml.contains(&format!("<Id>{id}</Id>")), "{xml}");
        assert_eq!(envelope["contentType"], "application/xml");
    }

    let float = recorded(generation, "Random-Float-Device", "Float32")?;
    bus.publish(&float).await?;
    // The default pipeline lets no float pass.
    let envelope = listener.take(1).await?.remove(0);
    let json: Value = serde_json::from_slice(&payload(&envelope)?)?;
    assert_eq!(json, event_inside(&float)?);
    let stats = service
        .wait_stats("three runs and one filtered", |stats| stats.all_ended(2))
        .await;
    assert_eq!(
        (stats.books("completed"), stats.books("filtered")),
        (3, 1),
        "{stats:?}"
    );
    service.stop().await
}

async fn rules_engine(generation: Generation) -> Result<()> {
    let mut bus = Bus::start(generation).await?;
    let mut service = bus.serve(profile(generation, "rules-engine")?).await?;
    let mut listener = bus.listen("edgex/rules-events").await?;

    let event = recorded(generation, "Random-Integer-Device", "Int16")?;
    bus.publish(&event).await?;
    let envelope = listener.take(1).await?.remove(0);
    let json: Value = serde_json::from_slice(&payload(&envelope)?)?;
    assert_eq!(json, event_inside(&event)?);
    assert_eq!(envelope["contentType"], "application/json");
    service.stop().await
}

async fn http_export(generation: Generation) -> Result<()> {
    let (mut bus, sink) = (Bus::start(generation).await?, HttpSink::start().await?);
    let url = "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL";
    let service = profile(generation, "http-export")?.env(url, &sink.url("/export"));
    let mut service = bus.serve(service).await?;

    let event = recorded(generation, "Random-Integer-Device", "Int32")?;
    bus.publish(&event).await?;
    let request = sink.wait_for(1, LONG).await.remove(0);
    assert_eq!(request.json(), event_inside(&event)?);
    service.stop().await
}

/// The broker of the export is another one than that of the bus.
async fn mqtt_export(generation: Generation) -> Result<()> {
    let (mut bus, broker) = (Bus::start(generation).await?, support::broker().await?);
    let exported = MqttSubscriber::connect(broker.port(), "edgex-export", Qos::AtLeastOnce).await?;
    let address = "WRITABLE_PIPELINE_FUNCTIONS_MQTTEXPORT_PARAMETERS_BROKERADDRESS";
    let service = profile(generation, "mqtt-export")?.env(address, &broker.url());
    let mut service = bus.serve(service).await?;

    let event = recorded(generation, "Random-Integer-Device", "Int64")?;
    bus.publish(&event).await?;
    let message = exported.wait_for(1, LONG).await.remove(0);
    let json: Value = serde_json::from_slice(&message.payload)?;
    assert_eq!(json, event_inside(&event)?);
    assert_eq!((message.qos, message.retained), (Qos::AtMostOnce, false));
    service.stop().await
}

async fn functional_tests(generation: Generation) -> Result<()> {
    let mut service = profile(generation, "functional-tests")?;
    service.start().await?;
    let event = event_inside(&recorded(generation, "Random-Float-Device", "Float64")?)?;
    let headers = [("Content-Type", "application/json")];
    let body = event.to_string();
    let answer = http::send(
        service.port(),
        "POST",
        "/api/v3/trigger",
        &headers,
        body.as_bytes(),
    )
    .await?;
    let id = event["id"].as_str().context("an id")?;
    ensure!(
        answer.status == 200 && answer.text().contains(&format!("<Id>{id}</Id>")),
        "{answer:?}"
    );
    assert_eq!(answer.header("content-type"), Some("application/xml"));
    service.stop().await
}

/// Raw bytes come in from one broker and leave for another.
async fn external_mqtt_trigger(generation: Generation) -> Result<()> {
    let (mut source, destination) = (support::broker().await?, Mosquitto::start().await?);
    let address = "WRITABLE_PIPELINE_FUNCTIONS_MQTTEXPORT_PARAMETERS_BROKERADDRESS";
    let mut service = profile(generation, "external-mqtt-trigger")?
        .env("TRIGGER_EXTERNALMQTT_URL", &source.url())
        .env(address, &destination.url());
    let before = source.process().line_count();
    service.start().await?;
    let subscribed = source
        .process()
        .wait_for_line_after(before, " external-request/", LONG);
    subscribed.await;
    let subscriber = MqttSubscriber::connect(destination.port(), "edgex-export", Qos::AtLeastOnce).await?;

    let sent: [&[u8]; 3] = [b"\x00\xff raw", b"{\"a\":1}", b"plain"];
    let mut publisher = MqttPublisher::connect(source.port()).await?;
    for payload in sent {
        publisher
            .publish("external-request/line/1", payload, Qos::AtLeastOnce)
            .await?;
    }
    let exported = subscriber.wait_for(3, LONG).await;
    let mut exported: Vec<&[u8]> = exported.iter().map(|message| &*message.payload).collect();
    let mut sent = sent.to_vec();
    // Nothing keeps deliveries in order here.
    exported.sort_unstable();
    sent.sort_unstable();
    assert_eq!(exported, sent);
    service.stop().await
}

/// The batch of the profile is full at a hundred metrics, which leave as one request.
async fn metrics_influxdb(generation: Generation) -> Result<()> {
    let (mut bus, sink) = (Bus::start(generation).await?, HttpSink::start().await?);
    let url = "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL";
    let service = profile(generation, "metrics-influxdb")?.env(url, &sink.url("/api/v2/write"));
    let mut service = bus.serve(service).await?;

    let messages = fixtures::messages(generation)?;
    let metric = messages
        .iter()
        .find(|message| message.topic.starts_with("edgex/telemetry/"));
    let metric = metric.context("a metric is recorded")?;
    for _ in 0..100 {
        bus.publish(metric).await?;
    }
    let request = sink.wait_for(1, LONG).await.remove(0);
    assert_eq!(
        request.header("authorization"),
        Some("Token <place InfluxDB token here>")
    );
    let lines = String::from_utf8(request.body.to_vec())?;
    assert_eq!(lines.lines().count(), 100, "{lines}");
    let name = metric.topic.rsplit('/').next().unwrap_or_default();
    assert!(
        lines.lines().all(|line| line.starts_with(&format!("{name},"))),
        "{lines}"
    );
    service.stop().await
}

/// How many patterns are subscribed to on a Redis server.
async fn patterns(client: &mut RedisClient) -> Result<i64> {
    match client.ask(&[b"PUBSUB", b"NUMPAT"]).await? {
        RedisAnswer::Integer(patterns) => Ok(patterns),
        answer => bail!("{answer:?} is no answer to PUBSUB NUMPAT"),
    }
}
