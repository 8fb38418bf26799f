//! The error collection, re-driven: how fast it empties into the queue, and how fast what was in it arrives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edgehold_bench::{
    events,
    report::{Figure, Rate, Report},
    sink::{Sink, Told},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    durable::{feed, start},
    service::{Settings, Stack},
    throughput::HTTP_NAME,
};

/// Unacknowledged messages while the collection is filled.
const WINDOW: usize = 1_000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Nothing has happened for so long: nothing will.
const STUCK: Duration = Duration::from_secs(20);

/// Fills the error collection with so many, and re-drives all of it to a destination that takes them.
pub(crate) async fn of(stack: &Stack, count: usize, report: &mut Report) -> Result<()> {
    let (open, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_open, arrived) = (open.clone(), accepted.clone());
    let sink = Sink::start(move |_| {
        // Refused for good at first: into the error collection at the first attempt.
        let status = if is_open.load(Ordering::Acquire) { 200 } else { 400 };
        arrived.fetch_add(usize::from(status == 200), Ordering::AcqRel);
        let after = Duration::ZERO;
        Told { status, after }
    })
    .await?;
    let mut settings = Settings::new("app-bench-redrive", &sink.url("/"));
    let for_good = "PermanentStatus: \"400\", PersistOnError:";
    settings.pipeline = settings.pipeline.replace("PersistOnError:", for_good);
    let (service, subscriber, _source) = start(stack, settings).await?;
    let messages = (0..count).map(|number| events::message(number).unwrap_or_default());
    drop(feed(&subscriber, messages, WINDOW).await?);
    grows(count, async || {
        let stats = service.stats().await?;
        let error = stats["store"]["error"]
            .as_u64()
            .context("the store is not open")?;
        Ok(usize::try_from(error)?)
    })
    .await
    .context("filling the error collection")?;

    open.store(true, Ordering::Release);
    let (began, cpu) = (Instant::now(), service.cpu_time()?);
    let order = json!({ "all": true });
    let run = service.post("/api/v3/store/errors/redrive", &order).await?;
    let path = format!(
        "/api/v3/store/runs/{}",
        run["id"].as_str().context("it has no id")?
    );
    let ended: Value = loop {
        let run = service.get(&path).await?;
        if run["state"] != "running" {
            break run;
        }
        sleep(BETWEEN_LOOKS).await;
    };
    let moved = began.elapsed();
    ensure!(
        (ended["state"].as_str(), ended["done"].as_u64()) == (Some("done"), u64::try_from(count).ok()),
        "the re-drive ended as {ended}"
    );
    grows(count, async || Ok(accepted.load(Ordering::Acquire)))
        .await
        .context("what was re-driven")?;
    let arrived = began.elapsed();
    report.figures.push(Figure {
        name: format!("re-driven a second, {count} in the error collection"),
        value: f64::from(u32::try_from(count)?) / moved.as_secs_f64(),
        goal: Some("at least 1000".to_owned()),
        comparable: false,
    });
    report.rates.push(Rate {
        name: format!("{count} re-driven, until they have arrived"),
        sent: count,
        arrived: accepted.load(Ordering::Acquire),
        elapsed: arrived,
        cpu: Some(service.cpu_time()?.saturating_sub(cpu)),
        compared_with: vec![HTTP_NAME.to_owned()],
    });
    Ok(())
}

/// Waits until a number is so large, as long as it grows.
async fn grows(to: usize, look: impl AsyncFn() -> Result<usize>) -> Result<()> {
    let mut last = (0, Instant::now());
    loop {
        let now = look().await?;
        if now >= to {
            return Ok(());
        }
        if now != last.0 {
            last = (now, Instant::now());
        }
        ensure!(last.1.elapsed() < STUCK, "only {now} of {to} got there");
        sleep(BETWEEN_LOOKS).await;
    }
}
