//! Events a second: through the broker alone, over HTTP alone, and through the service, which needs both.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use edgehold_bench::{events::TOPIC, http_load, process::Resident, report::Rate, sink::Sink};
use edgehold_test_support::{MqttPublisher, MqttSubscriber, Qos};
use tokio::time::{Instant, sleep, timeout};

use crate::service::{Service, Settings, Stack};

/// As many as the service uses by default (`Writable.Pipeline.Concurrency`).
pub(crate) const CONNECTIONS: usize = 64;
/// Longer than this no load is published.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(40);
/// So long without a single arrival is the end: what is missing is lost.
const QUIET: Duration = Duration::from_secs(3);
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// What has come out at the far end.
#[derive(Default)]
pub(crate) struct Arrivals {
    pub(crate) count: AtomicUsize,
}

impl Arrivals {
    /// Waits until `count` have arrived, or none for [`QUIET`]; answers how many did, and when the last of them did.
    async fn wait_for(&self, count: usize) -> (usize, Instant) {
        self.watch(count, QUIET).await
    }

    /// Waits until none has arrived for this long.
    pub(crate) async fn wait_until_quiet(&self, quiet: Duration) {
        self.watch(usize::MAX, quiet).await;
    }

    async fn watch(&self, count: usize, quiet: Duration) -> (usize, Instant) {
        let mut seen = (self.count.load(Ordering::Acquire), Instant::now());
        while seen.0 < count && seen.1.elapsed() < quiet {
            sleep(BETWEEN_LOOKS).await;
            let now = self.count.load(Ordering::Acquire);
            if now != seen.0 {
                seen = (now, Instant::now());
            }
        }
        seen
    }
}

/// One run through the service.
pub(crate) struct Load {
    pub(crate) rate: Rate,
    /// Memory before.
    pub(crate) idle: Resident,
    pub(crate) after: Resident,
}

pub(crate) fn name(qos: Qos) -> &'static str {
    match qos {
        Qos::AtMostOnce => "QoS 0",
        Qos::AtLeastOnce => "QoS 1",
        Qos::ExactlyOnce => "QoS 2",
    }
}

fn broker_name(qos: Qos) -> String {
    format!("broker alone, {}", name(qos))
}

pub(crate) const HTTP_NAME: &str = "HTTP alone";

/// From a publisher through mosquitto to a subscriber that only counts.
pub(crate) async fn broker_alone(stack: &Stack, messages: &[Vec<u8>], qos: Qos) -> Result<Rate> {
    let subscriber = MqttSubscriber::connect(stack.broker.port(), "edgex/events/#", qos).await?;
    let started = Instant::now();
    publish(stack, messages, qos).await?;
    let mut last = (subscriber.count(), Instant::now());
    while last.0 < messages.len() && last.1.elapsed() < QUIET {
        sleep(BETWEEN_LOOKS).await;
        let now = subscriber.count();
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(Rate {
        name: broker_name(qos),
        sent: messages.len(),
        arrived: last.0,
        elapsed: last.1.duration_since(started),
        cpu: None,
        compared_with: Vec::new(),
    })
}

/// The same sink as behind the service, asked by a client that does nothing else.
pub(crate) async fn http_alone(body: &[u8], count: usize) -> Result<Rate> {
    let arrivals = Arc::new(Arrivals::default());
    let counted = arrivals.clone();
    let sink = Sink::start(move |_| {
        counted.count.fetch_add(1, Ordering::AcqRel);
        200
    })
    .await?;
    let elapsed = http_load::post_all(sink.port(), "/events", body, count, CONNECTIONS).await?;
    Ok(Rate {
        name: HTTP_NAME.to_owned(),
        sent: count,
        arrived: arrivals.count.load(Ordering::Acquire),
        elapsed,
        cpu: None,
        compared_with: Vec::new(),
    })
}

/// From a publisher through mosquitto and the service to the sink.
pub(crate) async fn end_to_end(stack: &Stack, messages: &[Vec<u8>], qos: Qos) -> Result<Load> {
    let arrivals = Arc::new(Arrivals::default());
    let counted = arrivals.clone();
    let sink = Sink::start(move |_| {
        counted.count.fetch_add(1, Ordering::AcqRel);
        200
    })
    .await?;
    let service_key = format!("app-bench-qos-{}", u8::from(qos == Qos::AtLeastOnce));
    let mut settings = Settings::new(&service_key, &sink.url("/events"));
    settings.qos = qos;
    let mut service = Service::start(stack, &settings)?;
    service.wait_until_it_exports(stack, &arrivals).await?;
    let idle = service.memory()?;

    let cpu = service.cpu_time()?;
    let started = Instant::now();
    publish(stack, messages, qos).await?;
    let (arrived, last_at) = arrivals.wait_for(messages.len()).await;
    let rate = Rate {
        name: format!("end to end, {}", name(qos)),
        sent: messages.len(),
        arrived,
        elapsed: last_at.duration_since(started),
        cpu: Some(service.cpu_time()?.saturating_sub(cpu)),
        compared_with: vec![broker_name(qos), HTTP_NAME.to_owned()],
    };
    Ok(Load {
        rate,
        idle,
        after: service.memory()?,
    })
}

async fn publish(stack: &Stack, messages: &[Vec<u8>], qos: Qos) -> Result<()> {
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
    let all = messages.iter().map(|message| (TOPIC, message));
    timeout(PUBLISH_TIMEOUT, publisher.publish_all(all, qos))
        .await
        .context("publishing took too long")?
}
