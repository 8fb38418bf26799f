//! From a setting's write in Consul to its effect, seen where it is visible outside: at the sink.
//!
//! Counted from the moment Consul has answered the write. The rest of the way is measured whole: Consul's notice, the
//! read of all prefixes, the diff, the next event or the retry loop, and the request.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use edgehold_bench::{distribution::Distribution, events, report::Latency, sink::Sink};
use edgehold_test_support::{MqttPublisher, Qos};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    service::{Service, Settings, Stack},
    throughput::Arrivals,
};

pub(crate) const URL_CHANGES: usize = 200;
pub(crate) const INTERVAL_CHANGES: usize = 20;

const URL: &str = "Writable/Pipeline/Functions/HTTPExport/Parameters/Url";
const RETRY_INTERVAL: &str = "Writable/StoreAndForward/RetryInterval";

const GOAL_P99: Duration = Duration::from_millis(50);
/// An effect that has not come by then is missed.
const DEADLINE: Duration = Duration::from_secs(2);
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// 10 events each 5 ms are 2,000 a second: the resolution is half a millisecond.
const BURST: usize = 10;
const BURST_INTERVAL: Duration = Duration::from_millis(5);
/// The retry loop's shortest interval, and a little: after so long an object is due when the interval is 1 s.
const DUE: Duration = Duration::from_millis(1_150);

/// When the first request came for each number at the end of the path.
#[derive(Default)]
struct FirstSeen(Mutex<Vec<(usize, Instant)>>);

impl FirstSeen {
    fn note(&self, path: &str) {
        let Some(number) = path.rsplit('/').next().and_then(|number| number.parse().ok()) else {
            return;
        };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.last().is_none_or(|(last, _)| *last < number) {
            seen.push((number, Instant::now()));
        }
    }

    async fn wait_for(&self, number: usize, until: Instant) -> Option<Instant> {
        loop {
            let last = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .last()
                .copied();
            match last {
                Some((seen, at)) if seen == number => return Some(at),
                _ if Instant::now() >= until => return None,
                _ => sleep(BETWEEN_LOOKS).await,
            }
        }
    }
}

/// The pipeline: the first request to a new `Url`, under a steady flow of events.
pub(crate) async fn of_the_url(stack: &Stack) -> Result<[Latency; 2]> {
    let arrivals = Arc::new(Arrivals::default());
    let seen = Arc::new(FirstSeen::default());
    let (counted, noted) = (arrivals.clone(), seen.clone());
    let sink = Sink::start(move |asked| {
        counted.count.fetch_add(1, Ordering::AcqRel);
        noted.note(asked.path);
        200
    })
    .await?;
    let mut service = Service::start(stack, &Settings::new("app-bench-url", &sink.url("/0")))?;
    service.wait_until_it_exports(stack, &arrivals).await?;

    let mut flow = JoinSet::new();
    flow.spawn(steady_flow(stack.broker.port()));
    let (mut from_answer, mut from_write) = (Vec::new(), Vec::new());
    for number in 1..=URL_CHANGES {
        let begun = Instant::now();
        stack
            .consul
            .put(&service.key(URL), sink.url(&format!("/{number}")))
            .await?;
        let written = Instant::now();
        if let Some(at) = seen.wait_for(number, written + DEADLINE).await {
            // The effect may be there before Consul's answer is.
            from_answer.push(at.saturating_duration_since(written));
            from_write.push(at.saturating_duration_since(begun));
        }
        // Uneven, so that the writes keep no step with anything else.
        sleep(Duration::from_millis(u64::try_from(number * 17 % 41)?)).await;
        if let Some(ended) = flow.try_join_next() {
            ended??;
        }
    }
    ensure!(
        !from_answer.is_empty(),
        "no change of the Url had an effect:\n{}",
        service.output()
    );
    let latency = |name: &str, samples: Vec<Duration>, goal_p99| Latency {
        name: name.to_owned(),
        missed: URL_CHANGES - samples.len(),
        distribution: Distribution::new(samples),
        goal_p99,
    };
    Ok([
        latency(
            "Url: answered write to first request",
            from_answer,
            Some(GOAL_P99),
        ),
        latency("Url: the write itself included", from_write, None),
    ])
}

async fn steady_flow(broker_port: u16) -> Result<()> {
    let mut publisher = MqttPublisher::connect(broker_port).await?;
    let message = &events::messages(1)?[0];
    let mut ticks = interval(BURST_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        publisher
            .publish_all([(events::TOPIC, message); BURST], Qos::AtMostOnce)
            .await?;
    }
}

/// The retry loop: one object waits with an interval of an hour; set to a second, it is due at once.
pub(crate) async fn of_the_retry_interval(stack: &Stack) -> Result<Latency> {
    let arrivals = Arc::new(Arrivals::default());
    let attempts = Arc::new(FirstSeen::default());
    let status = Arc::new(AtomicU16::new(200));
    let (counted, noted, answered) = (arrivals.clone(), attempts.clone(), status.clone());
    let sink = Sink::start(move |_| {
        let number = counted.count.fetch_add(1, Ordering::AcqRel) + 1;
        noted.note(&number.to_string());
        answered.load(Ordering::Acquire)
    })
    .await?;
    let mut service = Service::start(stack, &Settings::new("app-bench-retry", &sink.url("/events")))?;
    service.wait_until_it_exports(stack, &arrivals).await?;
    attempts.0.lock().unwrap_or_else(PoisonError::into_inner).clear();

    status.store(503, Ordering::Release);
    let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
    publisher
        .publish(events::TOPIC, &events::messages(1)?[0], Qos::AtLeastOnce)
        .await?;
    let mut made = 1;
    let first = attempts.wait_for(made, Instant::now() + DEADLINE).await;
    ensure!(
        first.is_some(),
        "the first attempt was not made:\n{}",
        service.output()
    );

    let key = service.key(RETRY_INTERVAL);
    let mut samples = Vec::new();
    for _ in 0..INTERVAL_CHANGES {
        arrivals.wait_until_quiet(DUE).await;
        made = arrivals.count.load(Ordering::Acquire);
        stack.consul.put(&key, "1s").await?;
        let written = Instant::now();
        if let Some(at) = attempts.wait_for(made + 1, written + DEADLINE).await {
            samples.push(at.saturating_duration_since(written));
        }
        stack.consul.put(&key, "1h").await?;
    }
    ensure!(
        !samples.is_empty(),
        "no change of RetryInterval had an effect:\n{}",
        service.output()
    );
    Ok(Latency {
        name: "RetryInterval: answered write to the next attempt".to_owned(),
        missed: INTERVAL_CHANGES - samples.len(),
        distribution: Distribution::new(samples),
        goal_p99: Some(GOAL_P99),
    })
}
