//! Message buses other than MQTT: the original's own profile and common configuration, on real servers.

use anyhow::{Result, ensure};
use edgehold_test_support::fixtures::{self, Generation};
use edgehold_test_support::wait::{LONG, until};
use edgehold_test_support::{HttpSink, Redis, RedisAnswer};

use crate::main_job::{everything_came_out, refuse_every_third_event_once};
use crate::support::Service;

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
