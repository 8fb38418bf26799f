//! Events a second that are safe before they are acknowledged, and how long their acknowledgement takes.
//!
//! From a source of our own with a window, because the window is what is varied: a wide one shows what the service can
//! take in, one of 20 (mosquitto's `max_inflight_messages`) what a single careful broker gets.

use std::time::Duration;

use anyhow::{Context, Result};
use edgehold_bench::{
    disk,
    distribution::Distribution,
    events,
    report::{Latency, Rate},
    sink::Sink,
    source::{Fed, Source, Subscriber},
};
use edgehold_test_support::Port;

use crate::service::{Service, Settings, Stack};

/// Unacknowledged messages of the source.
const WINDOWS: [usize; 2] = [1_000, 20];
/// How long the disk is measured.
const SYNC_TIME: Duration = Duration::from_secs(2);
/// Sent before anything is measured.
const WARM_UP: usize = 500;
const GOAL_P99: Duration = Duration::from_millis(25);

pub(crate) const DISK_NAME: &str = "disk alone, 4 KiB and fdatasync";

/// How often the disk syncs, in the folder that the services' data lies in too.
pub(crate) fn disk_alone() -> Result<Rate> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let (count, elapsed) = disk::syncs(folder.path(), SYNC_TIME)?;
    Ok(Rate {
        name: DISK_NAME.to_owned(),
        sent: count,
        arrived: count,
        elapsed,
        cpu: None,
        compared_with: Vec::new(),
    })
}

/// The destination refuses every connection: each event goes to the disk.
pub(crate) async fn destination_down(stack: &Stack, count: usize) -> Result<Vec<(Rate, Latency)>> {
    // Held, so that nobody listens there.
    let nobody = Port::hold()?;
    let url = format!("http://127.0.0.1:{}/", nobody.number());
    load(stack, "app-bench-down", &url, "durable, destination down", count).await
}

/// The destination takes everything at once.
pub(crate) async fn destination_up(stack: &Stack, count: usize) -> Result<Vec<(Rate, Latency)>> {
    let sink = Sink::start(|_| 200).await?;
    load(
        stack,
        "app-bench-up",
        &sink.url("/"),
        "end to end from a source",
        count,
    )
    .await
}

async fn load(
    stack: &Stack,
    service_key: &str,
    url: &str,
    name: &str,
    count: usize,
) -> Result<Vec<(Rate, Latency)>> {
    let (service, subscriber, _source) = start(stack, Settings::new(service_key, url)).await?;
    let messages = events::messages(count)?;
    feed(&subscriber, messages[..WARM_UP.min(count)].to_vec(), WINDOWS[0]).await?;
    let mut findings = Vec::new();
    for window in WINDOWS {
        let cpu = service.cpu_time()?;
        let Fed {
            elapsed,
            acknowledged_after,
        } = feed(&subscriber, messages.clone(), window).await?;
        let name = format!("{name}, window {window}");
        let rate = Rate {
            name: name.clone(),
            sent: count,
            arrived: acknowledged_after.len(),
            elapsed,
            cpu: Some(service.cpu_time()?.saturating_sub(cpu)),
            compared_with: vec![DISK_NAME.to_owned()],
        };
        let latency = Latency {
            name: format!("acknowledged: {name}"),
            missed: 0,
            distribution: Distribution::new(acknowledged_after),
            goal_p99: Some(GOAL_P99),
        };
        findings.push((rate, latency));
    }
    Ok(findings)
}

/// Starts a service that takes its events from a source.
pub(crate) async fn start(stack: &Stack, mut settings: Settings) -> Result<(Service, Subscriber, Source)> {
    let mut source = Source::start().await?;
    settings.source_port = Some(source.port());
    settings.quiet = true;
    let service = Service::start(stack, &settings)?;
    service.wait_until_open().await?;
    let subscriber = source.subscriber().await?;
    Ok((service, subscriber, source))
}

/// Sends messages and says so when the service does not take them.
pub(crate) async fn feed(
    subscriber: &Subscriber,
    messages: impl IntoIterator<Item = Vec<u8>>,
    window: usize,
) -> Result<Fed> {
    subscriber
        .feed(events::TOPIC, messages, window)
        .await
        .context("the service does not take what it is sent")
}
