//! Two pipelines, two destinations: what one feels when the other's is dead.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use edgehold_bench::{
    distribution::Distribution,
    events,
    report::{Figure, Latency, Report},
    sink::{Sink, Told},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    durable::start,
    service::{Settings, Stack},
};

const HEALTHY_TOPIC: &str = "edgex/events/device/device-bench/Machine/Machine-01/Status";
const OTHER_TOPIC: &str = "edgex/events/device/device-other/Machine/Machine-02/Status";
/// For each event of the healthy pipeline, one goes to the other.
const BETWEEN: Duration = Duration::from_millis(4);
const DEADLINE: Duration = Duration::from_secs(10);
/// So many that did not come by then are enough.
const MISSED: usize = 3;
/// Longer than any request may take (`RequestTimeout`).
const NEVER: Duration = Duration::from_secs(600);

/// The other destination: there, refusing, or silent.
const OTHERS: [(&str, u16); 3] = [("in order", 200), ("refusing", 503), ("silent", SILENT)];
const SILENT: u16 = 0;

/// The healthy pipeline's times, and the ratio of the worst to the undisturbed.
pub(crate) async fn of_a_dead_destination(stack: &Stack, samples: usize, report: &mut Report) -> Result<()> {
    let arrived = Arc::new(AtomicUsize::new(0));
    let counted = arrived.clone();
    let healthy = Sink::start(move |_| {
        counted.fetch_add(1, Ordering::AcqRel);
        200
    })
    .await?;
    let status = Arc::new(AtomicU16::new(200));
    let told = status.clone();
    let other = Sink::start(move |_| match told.load(Ordering::Acquire) {
        SILENT => Told {
            status: 200,
            after: NEVER,
        },
        status => status.into(),
    })
    .await?;
    let mut settings = Settings::new("app-bench-isolation", "");
    settings.retry_interval = "1s";
    settings.pipeline = format!(
        r#"
    PerTopicPipelines:
      healthy: {{ Id: healthy, Topics: "events/device/device-bench/#", ExecutionOrder: HTTPExport1 }}
      other: {{ Id: other, Topics: "events/device/device-other/#", ExecutionOrder: HTTPExport2 }}
    Functions:
      HTTPExport1:
        Parameters: {{ Method: post, MimeType: application/json, Url: "{}", PersistOnError: "true" }}
      HTTPExport2:
        Parameters: {{ Method: post, MimeType: application/json, Url: "{}", PersistOnError: "true" }}"#,
        healthy.url("/"),
        other.url("/"),
    );
    let (_service, subscriber, _source) = start(stack, settings).await?;
    let mut p99 = Vec::new();
    for (name, other_status) in OTHERS {
        status.store(other_status, Ordering::Release);
        let mut times = Vec::new();
        for number in 0..samples {
            // Not waited for: that one is in trouble holds back the acknowledgement of both.
            subscriber.send(OTHER_TOPIC, &events::message(number)?).await?;
            let before = arrived.load(Ordering::Acquire);
            let sent = Instant::now();
            subscriber.send(HEALTHY_TOPIC, &events::message(number)?).await?;
            let here = async {
                while arrived.load(Ordering::Acquire) == before {
                    sleep(Duration::from_micros(200)).await;
                }
            };
            if timeout(DEADLINE, here).await.is_ok() {
                times.push(sent.elapsed());
            } else if number - times.len() >= MISSED {
                // As good as never.
                break;
            }
            sleep(BETWEEN).await;
        }
        ensure!(!times.is_empty(), "nothing came through the healthy pipeline");
        let distribution = Distribution::new(times);
        p99.push(distribution.percentile(99).unwrap_or_default().as_secs_f64());
        report.latencies.push(Latency {
            name: format!("one pipeline, the other's destination {name}"),
            missed: samples - distribution.count(),
            distribution,
            goal_p99: None,
        });
        // What the other has waiting leaves before the next.
        status.store(200, Ordering::Release);
        sleep(Duration::from_secs(3)).await;
    }
    let worst = p99[1..].iter().copied().fold(0.0, f64::max);
    report.figures.push(Figure {
        name: "p99 of one pipeline: the other's destination dead / in order".to_owned(),
        value: worst / p99[0],
        goal: Some("at most 1.2".to_owned()),
        comparable: true,
    });
    Ok(())
}
