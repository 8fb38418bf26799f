//! Exports end to end: what an outage of a broker keeps and gives back, by which key an export is known, and which way it
//! takes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures::Generation;
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Behaviour, HttpSink, Mosquitto, MqttSubscriber, Qos};
use serde_json::Value;

use crate::main_job::from_files;
use crate::profiles::profile;
use crate::support::{Service, accepted, broker, each, event_id, publish, start_subscribed, wait_accepted};

/// The original's `mqtt-export` profile as it is, with Store and Forward on and confirmed messages.
fn mqtt_export(bus: &Mosquitto, destination: &Mosquitto) -> Result<Service> {
    let parameter = |name: &str| format!("WRITABLE_PIPELINE_FUNCTIONS_MQTTEXPORT_PARAMETERS_{name}");
    Ok(profile(Generation::V4, "mqtt-export")?
        .env("MESSAGEBUS_PORT", &bus.port().to_string())
        .env("DATABASE_TYPE", "sqlite")
        .env("WRITABLE_STOREANDFORWARD_ENABLED", "true")
        .env("WRITABLE_STOREANDFORWARD_RETRYINTERVAL", "1s")
        .env("WRITABLE_STOREANDFORWARD_MAXRETRYCOUNT", "0")
        .env(&parameter("BROKERADDRESS"), &destination.url())
        .env(&parameter("QOS"), "1")
        .env(&parameter("PERSISTONERROR"), "true"))
}

/// How often each event was exported, by id.
fn exported(messages: &[edgehold_test_support::Message]) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for message in messages {
        let event: Value = serde_json::from_slice(&message.payload)?;
        let id = event["id"].as_str().context("an exported event has an id")?;
        *counts.entry(id.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

#[tokio::test]
async fn an_outage_of_the_export_s_broker_is_kept_and_drained() -> Result<()> {
    // Given a service that exports to a broker, where somebody's session waits for all of it.
    let (mut bus, mut destination) = (broker().await?, Mosquitto::start().await?);
    let mut service = mqtt_export(&bus, &destination)?;
    start_subscribed(&mut service, &mut bus).await?;
    let cloud = MqttSubscriber::resume(destination.port(), "cloud", "edgex-export", Qos::AtLeastOnce).await?;
    publish(bus.port(), 1..=5).await?;
    assert_eq!(exported(&cloud.wait_for(5, LONG).await)?, each(1..=5, 1));
    drop(cloud);

    // When the broker is away, everything is stored and acknowledged.
    destination.stop().await?;
    publish(bus.port(), 6..=30).await?;
    let all_kept = |stats: &crate::support::Stats| stats.store("waiting") == 25;
    service.wait_stats("25 events to wait", all_kept).await;

    // Then it leaves once the broker is back, also when the service was killed meanwhile.
    service.kill9()?;
    destination.restart().await?;
    start_subscribed(&mut service, &mut bus).await?;
    service
        .wait_stats("nothing to wait", |stats| stats.store("waiting") == 0)
        .await;
    let cloud = MqttSubscriber::resume(destination.port(), "cloud", "edgex-export", Qos::AtLeastOnce).await?;
    wait::until("everything to be there", LONG, async || {
        // What the first subscriber had not confirmed when it went comes again.
        let late = exported(&cloud.messages())?;
        let missing: Vec<_> = (6..=30)
            .map(event_id)
            .filter(|id| !late.contains_key(id))
            .collect();
        ensure!(missing.is_empty(), "{missing:?} are missing");
        Ok(())
    })
    .await;
    service.stop().await
}

#[tokio::test]
async fn an_export_is_known_by_one_key_at_every_attempt_and_after_a_restart() -> Result<()> {
    let (mut bus, sink) = (broker().await?, HttpSink::start().await?);
    let mut service = from_files(Generation::V4, &sink.url("/export"), bus.port())?;
    start_subscribed(&mut service, &mut bus).await?;
    sink.behave(Behaviour::status(503));
    publish(bus.port(), 1..=2).await?;
    sink.wait_for(5, LONG).await;
    service.stop().await?;
    sink.behave(Behaviour::status(200));
    start_subscribed(&mut service, &mut bus).await?;
    wait_accepted(&sink, 1..=2).await;

    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in sink.requests() {
        let id = request.json()["id"].as_str().context("an id")?.to_owned();
        let key = request
            .header("idempotency-key")
            .context("every request has a key")?;
        keys.entry(id).or_default().insert(key.to_owned());
    }
    assert!(keys.values().all(|keys| keys.len() == 1), "{keys:?}");
    assert_ne!(keys[&event_id(1)], keys[&event_id(2)]);
    service.stop().await
}

#[tokio::test]
async fn an_export_goes_by_the_proxy_of_the_environment_but_never_to_its_own_machine() -> Result<()> {
    let (mut bus, proxy, sink) = (
        broker().await?,
        HttpSink::start().await?,
        HttpSink::start().await?,
    );
    for (url, by_proxy) in [
        ("http://destination.invalid/export", true),
        (&*sink.url("/export"), false),
    ] {
        let proxy_url = format!("http://127.0.0.1:{}", proxy.port());
        let service = from_files(Generation::V4, url, bus.port())?;
        let mut service = service.env("HTTP_PROXY", &proxy_url);
        start_subscribed(&mut service, &mut bus).await?;
        publish(bus.port(), 1..=1).await?;
        let taken = if by_proxy { &proxy } else { &sink };
        wait_accepted(taken, 1..=1).await;
        assert_eq!(accepted(taken), each(1..=1, 1));
        service.stop().await?;
    }
    let requests = proxy.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].target, "http://destination.invalid/export");
    Ok(())
}
