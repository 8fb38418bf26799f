//! Two pipelines, two destinations: what one feels when the other's is dead.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
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
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    durable::start,
    service::{Settings, Stack},
};

const HEALTHY_TOPIC: &str = "edgex/events/device/device-bench/Machine/Machine-01/Status";
const OTHER_TOPIC: &str = "edgex/events/device/device-other/Machine/Machine-02/Status";
/// For each event of the healthy pipeline, one goes to the other.
const BETWEEN: Duration = Duration::from_millis(4);
const DEADLINE: Duration = Duration::from_secs(10);
/// So many of a round that did not come by then are enough.
const MISSED: usize = 3;
/// Each kind of the other destination has its turn in each, so that whatever else the machine does falls on all of them.
const ROUNDS: usize = 4;
/// After a turn: what the other has waiting leaves before the next.
const BETWEEN_TURNS: Duration = Duration::from_secs(3);
/// Longer than the other's `RequestTimeout`, and shorter than [`BETWEEN_TURNS`].
const UNANSWERED: Duration = Duration::from_millis(1_500);

/// The other destination: there, refusing, or silent.
const OTHERS: [(&str, u16); 3] = [("in order", 200), ("refusing", 503), ("silent", SILENT)];
const SILENT: u16 = 0;

/// The healthy pipeline's times, and the ratio of the worst to the undisturbed.
pub(crate) async fn of_a_dead_destination(stack: &Stack, samples: usize, report: &mut Report) -> Result<()> {
    // The moment is taken where the request is complete: asking again and again is as coarse as the timer.
    let (arrival, mut arrivals) = mpsc::channel(1_024);
    let healthy = Sink::start(move |_| {
        // Full means that nobody has waited for a thousand of them.
        let _ = arrival.try_send(Instant::now());
        200
    })
    .await?;
    let status = Arc::new(AtomicU16::new(200));
    let told = status.clone();
    let other = Sink::start(move |_| match told.load(Ordering::Acquire) {
        SILENT => Told {
            status: 200,
            after: UNANSWERED,
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
        Parameters: {{ Method: post, MimeType: application/json, Url: "{}", PersistOnError: "true", RequestTimeout: 1s }}"#,
        healthy.url("/"),
        other.url("/"),
    );
    let (_service, subscriber, _source) = start(stack, settings).await?;
    let mut times: [Vec<Duration>; OTHERS.len()] = Default::default();
    let mut missed = [0; OTHERS.len()];
    for _ in 0..ROUNDS {
        for (place, (_, other_status)) in OTHERS.into_iter().enumerate() {
            status.store(other_status, Ordering::Release);
            let mut missed_now = 0;
            for number in 0..samples / ROUNDS {
                // Not waited for: that one is in trouble holds back the acknowledgement of both.
                subscriber.send(OTHER_TOPIC, &events::message(number)?).await?;
                while arrivals.try_recv().is_ok() {}
                let sent = Instant::now();
                subscriber.send(HEALTHY_TOPIC, &events::message(number)?).await?;
                match timeout(DEADLINE, arrivals.recv()).await {
                    Ok(Some(arrived)) => times[place].push(arrived - sent),
                    _ => missed_now += 1,
                }
                if missed_now >= MISSED {
                    // As good as never.
                    break;
                }
                sleep(BETWEEN).await;
            }
            missed[place] += missed_now;
            status.store(200, Ordering::Release);
            sleep(BETWEEN_TURNS).await;
        }
    }
    let mut p99 = Vec::new();
    for (((name, _), times), missed) in OTHERS.into_iter().zip(times).zip(missed) {
        ensure!(!times.is_empty(), "nothing came through the healthy pipeline");
        let distribution = Distribution::new(times);
        p99.push(distribution.percentile(99).unwrap_or_default().as_secs_f64());
        report.latencies.push(Latency {
            name: format!("one pipeline, the other's destination {name}"),
            missed,
            distribution,
            goal_p99: None,
        });
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
