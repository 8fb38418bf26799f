//! Message buses other than MQTT: the original's own profile and common configuration, on real servers.

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures::{self, Generation, RecordedMessage};
use edgehold_test_support::wait::{LONG, until};
use edgehold_test_support::{
    Authority, Behaviour, Certificate, HttpSink, Nats, NatsClient, Redis, RedisAnswer, TlsFront,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::main_job::{everything_came_out, refuse_every_third_event_once};
use crate::support::{SERVICE_KEY, Service, envelope, event, refusing, wait_accepted};

/// The `http-export` profile and the common configuration of EdgeX 3 as they are, with Store and Forward on, on the bus
/// at `port`.
fn from_files(url: &str, port: u16) -> Result<Service> {
    let config = fixtures::path(Generation::V3, "config");
    let common = config.join("core-common-config-bootstrapper/configuration.yaml");
    Ok(Service::new()?
        .flag(&format!("-cc={}", common.display()))
        .flag(&format!("-cd={}", config.display()))
        .flag("-p=http-export")
        .env("EDGEHOLD_GENERATION", "3")
        .env("MESSAGEBUS_PORT", &port.to_string())
        .env("DATABASE_TYPE", "sqlite")
        .env("WRITABLE_STOREANDFORWARD_ENABLED", "true")
        .env("WRITABLE_STOREANDFORWARD_RETRYINTERVAL", "1s")
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_PERSISTONERROR",
            "true",
        )
        .env("WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL", url))
}

#[tokio::test]
async fn on_redis_as_the_common_configuration_of_edgex_3_has_it_every_event_comes_out_equal() -> Result<()> {
    // Given nothing but another port: Type redis, AuthMode usernamepassword and SecretName redisdb stand in the files.
    let (server, sink) = (Redis::start().await?, HttpSink::start().await?);
    let mut service = from_files(&sink.url("/export"), server.port())?;
    service.start().await?;
    let mut client = server.client().await?;
    until("the subscription", LONG, async || {
        matches!(
            client.ask(&[b"PUBSUB", b"NUMPAT"]).await,
            Ok(RedisAnswer::Integer(1..))
        )
    })
    .await;
    let messages = fixtures::messages(Generation::V3)?;

    // When everything recorded is published to a destination that refuses now and then.
    refuse_every_third_event_once(&sink);
    for message in &messages {
        client
            .ask(&[
                b"PUBLISH",
                message.topic.replace('/', ".").as_bytes(),
                &message.payload,
            ])
            .await?;
    }

    // Then each event has been accepted once, as it was; and it is said what Redis loses.
    everything_came_out(&service, &sink, &messages).await?;
    let lines = service.process().lines();
    ensure!(
        lines
            .iter()
            .any(|line| line.contains("does not keep everything") && line.contains("MessageBus/Type redis")),
        "nothing is said about what Redis loses: {lines:#?}"
    );
    service.stop().await
}

/// Publishes a recorded message as EdgeX does in this format.
async fn publish(client: &mut NatsClient, format: &str, message: &RecordedMessage) -> Result<()> {
    let subject = message.topic.replace('/', ".");
    if format == "json" {
        return client.publish(&subject, &[], &message.payload).await;
    }
    let envelope: Value = serde_json::from_slice(&message.payload)?;
    let text = |key: &str| envelope[key].as_str().unwrap_or_default().to_owned();
    let payload = base64_simd::STANDARD
        .decode_to_vec(text("payload"))
        .context("decoding the payload")?;
    let headers = [
        ("X-Correlation-ID", text("correlationID")),
        ("Content-Type", text("contentType")),
        ("RequestId", text("requestID")),
        ("ApiVersion", text("apiVersion")),
        ("ErrorCode", envelope["errorCode"].to_string()),
    ];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    client.publish(&subject, &headers, &payload).await
}

/// The stock settings of EdgeX 3 on NATS.
fn on_nats(url: &str, port: u16, kind: &str, format: &str) -> Result<Service> {
    Ok(from_files(url, port)?
        .env("MESSAGEBUS_TYPE", kind)
        .env("MESSAGEBUS_PROTOCOL", "nats")
        .env("MESSAGEBUS_AUTHMODE", "none")
        .env("MESSAGEBUS_OPTIONAL_FORMAT", format))
}

#[tokio::test]
async fn on_nats_of_either_kind_in_either_format_every_event_comes_out_equal() -> Result<()> {
    let messages = fixtures::messages(Generation::V3)?;
    for (kind, format, line) in [
        ("nats-core", "nats", "subscribed at NATS"),
        ("nats-core", "json", "subscribed at NATS"),
        ("nats-jetstream", "nats", "reading the stream"),
        ("nats-jetstream", "json", "reading the stream"),
    ] {
        let (server, sink) = (Nats::start().await?, HttpSink::start().await?);
        let mut service = on_nats(&sink.url("/export"), server.port(), kind, format)?;
        service.start().await?;
        service.process().wait_for_line(line, LONG).await;
        refuse_every_third_event_once(&sink);
        let mut client = server.client().await?;
        for message in &messages {
            publish(&mut client, format, message).await?;
        }
        everything_came_out(&service, &sink, &messages)
            .await
            .with_context(|| format!("{kind}, {format}"))?;
        // What a stream keeps is not lost.
        let gap = service
            .process()
            .lines()
            .iter()
            .any(|line| line.contains("does not keep everything"));
        ensure!(
            gap == (kind == "nats-core"),
            "{kind}: {:#?}",
            service.process().lines()
        );
        service.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_stream_holds_is_not_lost_when_the_service_is_killed() -> Result<()> {
    // Given a destination that is down, and a service on JetStream, whose server waits two seconds for an answer
    let (server, sink) = (Nats::start().await?, HttpSink::start().await?);
    let consumer = json!({ "durable_name": SERVICE_KEY, "ack_policy": "explicit", "ack_wait": 2_000_000_000,
        "filter_subject": "edgex.events.>", "deliver_policy": "new" });
    let mut client = server.client().await?;
    client.make_stream("edgex", &["edgex.>"]).await?;
    client.make_consumer("edgex", consumer).await?;
    sink.behave(refusing());
    let mut service = on_nats(&sink.url("/export"), server.port(), "nats-jetstream", "json")?;
    service.start().await?;
    service.process().wait_for_line("reading the stream", LONG).await;

    // When it is killed while events come in, and more come while it is away
    for number in 0..200 {
        client
            .publish("edgex.events.device.svc.p.d.s", &[], &envelope(&event(number)))
            .await?;
        if number == 120 {
            service.kill9()?;
        }
    }
    sink.behave(Behaviour::status(200));
    service.start().await?;

    // Then all of them arrive
    wait_accepted(&sink, 0..200).await;
    service.stop().await
}

/// What NATS core sends while the byte budget is used up can be kept nowhere, but it is told.
#[tokio::test]
async fn what_nats_core_drops_past_the_budget_is_in_the_stats() -> Result<()> {
    const EVENTS: u64 = 100;
    // Given a destination that hangs, and room for a few events
    let (server, sink) = (Nats::start().await?, HttpSink::start().await?);
    sink.behave(Behaviour::Hang);
    let mut service = on_nats(&sink.url("/export"), server.port(), "nats-core", "json")?
        .env("WRITABLE_STOREANDFORWARD_ENABLED", "false")
        .env("MAXINFLIGHTBYTES", "10KiB");
    service.start().await?;
    service.process().wait_for_line("subscribed at NATS", LONG).await;

    // When more come
    let mut client = server.client().await?;
    for number in 0..EVENTS {
        client
            .publish("edgex.events.device.svc.p.d.s", &[], &envelope(&event(number)))
            .await?;
    }

    // Then each of them was either received or counted as dropped, and the dropped ones never became runs
    let stats = service
        .wait_stats("each to be counted", |stats| {
            stats.books("received") + stats.books("droppedAtSource") == EVENTS
        })
        .await;
    ensure!(stats.books("droppedAtSource") > EVENTS / 2, "{stats:?}");
    ensure!(stats.books("started") == stats.books("received"), "{stats:?}");
    ensure!(stats.books("sourceGaps") == 0, "{stats:?}");

    // And a connection that was lost is a gap
    let mut server = server;
    server.restart().await?;
    service
        .wait_stats("the gap to be told", |stats| stats.books("sourceGaps") == 1)
        .await;
    sink.behave(Behaviour::status(200));
    service.stop().await
}

/// The files of `MessageBus.Optional` that say as whom to connect and whom to believe.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new(authority: &Authority, own: &Certificate) -> Result<Self> {
        let folder = TempDir::with_prefix("edgehold-certificates-")?;
        let files = Self { folder };
        std::fs::write(files.path("ca.pem"), authority.pem())?;
        files.set_own(own)?;
        Ok(files)
    }

    fn set_own(&self, own: &Certificate) -> Result<()> {
        std::fs::write(self.path("key.pem"), &own.key)?;
        Ok(std::fs::write(self.path("cert.pem"), &own.pem)?)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn named_in(&self, service: Service) -> Service {
        service
            .env("MESSAGEBUS_OPTIONAL_CAFILE", &self.path("ca.pem"))
            .env("MESSAGEBUS_OPTIONAL_CERTFILE", &self.path("cert.pem"))
            .env("MESSAGEBUS_OPTIONAL_KEYFILE", &self.path("key.pem"))
    }
}

#[tokio::test]
async fn redis_asks_for_a_client_certificate_and_a_renewed_one_counts_without_a_restart() -> Result<()> {
    // Given a server that lets in whom its authority knows, and a service with a certificate of another one
    let (server, sink) = (Redis::start().await?, HttpSink::start().await?);
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let front = TlsFront::start(server.port(), &authority.issue("127.0.0.1")?, Some(&authority)).await?;
    let files = Files::new(&authority, &stranger.issue("app")?)?;
    let service = from_files(&sink.url("/export"), front.port())?.env("MESSAGEBUS_HOST", "127.0.0.1");
    let mut service = files.named_in(service);
    service.start().await?;
    service
        .process()
        .wait_for_line("cannot connect to Redis yet", LONG)
        .await;

    // When the certificate is renewed, then it is let in, and events come through
    files.set_own(&authority.issue("app")?)?;
    service.process().wait_for_line("subscribed at Redis", LONG).await;
    server
        .publish("edgex.events.device.svc.p.d.s", &envelope(&event(1)))
        .await?;
    wait_accepted(&sink, 1..=1).await;
    service.stop().await
}

#[tokio::test]
async fn nats_asks_for_a_client_certificate_and_a_renewed_one_counts_without_a_restart() -> Result<()> {
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let of_server = authority.issue("127.0.0.1")?;
    for (kind, line) in [
        ("nats-core", "subscribed at NATS"),
        ("nats-jetstream", "reading the stream"),
    ] {
        // Given a server that lets in whom its authority knows, and a service with a certificate of another one
        let (server, sink) = (
            Nats::builder().mutual_tls(&authority, &of_server).start().await?,
            HttpSink::start().await?,
        );
        let files = Files::new(&authority, &stranger.issue("app")?)?;
        let service =
            on_nats(&sink.url("/export"), server.port(), kind, "json")?.env("MESSAGEBUS_HOST", "127.0.0.1");
        let mut service = files.named_in(service);
        service.start().await?;
        service.process().wait_for_line("to NATS", LONG).await;

        // When the certificate is renewed, then it is let in, and events come through
        files.set_own(&authority.issue("app")?)?;
        service.process().wait_for_line(line, LONG).await;
        let mut client = server.client().await?;
        client
            .publish("edgex.events.device.svc.p.d.s", &[], &envelope(&event(1)))
            .await?;
        wait_accepted(&sink, 1..=1).await;
        service.stop().await?;
    }
    Ok(())
}
