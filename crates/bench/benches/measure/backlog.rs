//! A destination that is away for long: memory with many objects waiting, the start with them, what a dead destination is
//! asked, and how fast they leave when it is back, while fresh events go on.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use edgehold_bench::{
    distribution::Distribution,
    events,
    report::{Figure, Latency, Memory, Rate, Report},
    sink::{Asked, Sink, Told},
    source::Subscriber,
};
use edgehold_test_support::Postgres;
use tokio::time::{Instant, sleep};

use crate::{
    durable::{feed, start},
    service::{Service, Settings, Stack},
    throughput::HTTP_NAME,
};

/// Unacknowledged messages while the backlog is filled.
const WINDOW: usize = 1_000;
const GOAL_BYTES: u64 = 64 << 20;
/// How long a dead destination is watched, and the interval then.
const WATCHED: Duration = Duration::from_secs(30);
const WATCHED_INTERVAL: &str = "10s";
/// Nothing has left for so long: what remains does not leave.
const STUCK: Duration = Duration::from_secs(20);
/// Fresh events while the backlog drains.
const BETWEEN_FRESH: Duration = Duration::from_millis(10);
const SLOW: Duration = Duration::from_millis(50);
/// A drain of a slow destination is measured over so many.
const SLOWLY_DRAINED: usize = 10_000;

const RETRY_INTERVAL: &str = "Writable/StoreAndForward/RetryInterval";

/// A destination whose answers change while it is watched.
struct Destination {
    sink: Sink,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    status: AtomicU16,
    delay_millis: AtomicU64,
    accepted: AtomicUsize,
    asked: AtomicUsize,
    first: Mutex<Option<Instant>>,
    /// When fresh events were accepted, by their number.
    fresh: Mutex<Vec<(usize, Instant)>>,
}

impl Destination {
    async fn refusing() -> Result<Self> {
        let state = Arc::new(State::default());
        state.status.store(503, Ordering::Release);
        let shared = state.clone();
        let sink = Sink::start(move |asked| shared.answer(asked)).await?;
        Ok(Self { sink, state })
    }

    fn accept(&self, after: Duration) {
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.state.delay_millis.store(millis, Ordering::Release);
        self.state.status.store(200, Ordering::Release);
    }

    fn refuse(&self) {
        self.state.delay_millis.store(0, Ordering::Release);
        self.state.status.store(503, Ordering::Release);
    }

    fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::Acquire)
    }

    fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Acquire)
    }

    /// Forgets when the first request came.
    fn forget(&self) {
        *lock(&self.state.first) = None;
    }

    /// When the first request came since.
    async fn first(&self) -> Result<Instant> {
        let begin = Instant::now();
        loop {
            if let Some(first) = *lock(&self.state.first) {
                return Ok(first);
            }
            ensure!(
                begin.elapsed() < STUCK,
                "after its start the service sends nothing"
            );
            sleep(Duration::from_millis(1)).await;
        }
    }
}

impl State {
    fn answer(&self, asked: Asked<'_>) -> Told {
        self.asked.fetch_add(1, Ordering::AcqRel);
        lock(&self.first).get_or_insert_with(Instant::now);
        let status = self.status.load(Ordering::Acquire);
        if status == 200 {
            self.accepted.fetch_add(1, Ordering::AcqRel);
            if let Some(number) = events::fresh_number(asked.body) {
                lock(&self.fresh).push((number, Instant::now()));
            }
        }
        Told {
            status,
            after: Duration::from_millis(self.delay_millis.load(Ordering::Acquire)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory and start with so many waiting; with `drains`, what is asked of the dead destination, and the drains.
pub(crate) async fn of(
    stack: &Stack,
    server: Option<&Postgres>,
    count: usize,
    drains: bool,
    report: &mut Report,
) -> Result<()> {
    let destination = Destination::refusing().await?;
    let place = server.map_or("", |_| " in PostgreSQL");
    let service_key = match server {
        None => format!("app-bench-{count}"),
        Some(_) => format!("app-bench-postgres-{count}"),
    };
    let mut settings = Settings::new(&service_key, &destination.sink.url("/"));
    if let Some(server) = server {
        settings.in_postgres(server);
    }
    let (mut service, subscriber, mut source) = start(stack, settings).await?;
    let filled = feed(&subscriber, generated(count), WINDOW).await?;
    drop(filled);
    wait_for_waiting(&service, count).await?;
    let memory = |service: &Service, name: &str| -> Result<Memory> {
        Ok(Memory {
            name: format!("{count} waiting{place}, {name}"),
            resident: service.memory()?,
            goal_bytes: Some(GOAL_BYTES),
        })
    };
    report.memory.push(memory(&service, "filled")?);

    // The start: everything is due at once, and nothing is accepted.
    destination.forget();
    let started = service.restart().await?;
    let first = destination.first().await?.duration_since(started);
    report.figures.push(Figure {
        name: format!("first send after a start with {count} waiting{place}, s"),
        value: first.as_secs_f64(),
        goal: Some("at most 2".to_owned()),
        comparable: false,
    });
    let subscriber = source.subscriber().await?;
    wait_for_waiting(&service, count).await?;
    sleep(Duration::from_secs(5)).await;
    report.memory.push(memory(&service, "after a start")?);
    if !drains {
        return Ok(());
    }

    // A dead destination with all of it waiting.
    stack
        .consul
        .put(&service.key(RETRY_INTERVAL), WATCHED_INTERVAL)
        .await?;
    sleep(Duration::from_secs(2)).await;
    let (asked, cpu) = (destination.asked(), service.cpu_time()?);
    sleep(WATCHED).await;
    let a_minute = 60.0 / WATCHED.as_secs_f64();
    let probes = f64::from(u32::try_from(destination.asked() - asked)?) * a_minute;
    let cpu = service.cpu_time()?.saturating_sub(cpu);
    report.figures.push(Figure {
        name: format!("requests a minute to a dead destination, {count} waiting{place}"),
        value: probes,
        goal: Some(format!(
            "2 probes, and one of each object in {WATCHED_INTERVAL} without a breaker"
        )),
        comparable: true,
    });
    report.figures.push(Figure {
        name: format!("CPU seconds a minute meanwhile{place}"),
        value: cpu.as_secs_f64() * a_minute,
        goal: None,
        comparable: false,
    });

    // It is back: the backlog drains, and fresh events pass.
    let at_once = Drain {
        name: format!("drain{place}, answering at once"),
        after: Duration::ZERO,
        fresh: true,
    };
    at_once
        .measure(&service, &subscriber, &destination, report)
        .await?;

    // And slow: as much of it at a time as there may be, and with what is kept for fresh events (`FreshShare`).
    let slowly = SLOWLY_DRAINED.min(count);
    for (name, fresh) in [("", false), (", with fresh events", true)] {
        destination.refuse();
        feed(&subscriber, generated(slowly), WINDOW).await?;
        wait_for_waiting(&service, slowly).await?;
        let slow = Drain {
            name: format!("drain{place}, answering after {} ms{name}", SLOW.as_millis()),
            after: SLOW,
            fresh,
        };
        slow.measure(&service, &subscriber, &destination, report).await?;
    }
    Ok(())
}

/// How what waits is let go.
struct Drain {
    name: String,
    /// How long the destination takes.
    after: Duration,
    /// Whether fresh events go there meanwhile.
    fresh: bool,
}

impl Drain {
    /// From the first that is accepted to the last.
    async fn measure(
        &self,
        service: &Service,
        subscriber: &Subscriber,
        destination: &Destination,
        report: &mut Report,
    ) -> Result<()> {
        let name = &self.name;
        let waiting = usize::try_from(service.waiting().await?)?;
        let before = destination.accepted();
        lock(&destination.state.fresh).clear();
        destination.accept(self.after);
        let back = Instant::now();
        while destination.accepted() == before {
            ensure!(
                back.elapsed() < STUCK,
                "nothing leaves though the destination is back"
            );
            sleep(Duration::from_millis(1)).await;
        }
        report.figures.push(Figure {
            name: format!("from the return to the first send, s ({name})"),
            value: back.elapsed().as_secs_f64(),
            goal: Some(format!("at most the interval, {WATCHED_INTERVAL}")),
            comparable: false,
        });

        let (started, cpu) = (Instant::now(), service.cpu_time()?);
        let mut sent = Vec::new();
        let mut last = (before, Instant::now());
        while last.0 < before + waiting + sent.len() && last.1.elapsed() < STUCK {
            if self.fresh {
                sent.push(Instant::now());
                feed(subscriber, [events::fresh(sent.len() - 1)?], 1).await?;
            }
            sleep(BETWEEN_FRESH).await;
            let accepted = destination.accepted();
            if accepted > last.0 {
                last = (accepted, Instant::now());
            }
        }
        report.rates.push(Rate {
            name: name.clone(),
            sent: waiting,
            arrived: (last.0 - before).saturating_sub(sent.len()),
            elapsed: last.1.duration_since(started),
            cpu: Some(service.cpu_time()?.saturating_sub(cpu)),
            compared_with: vec![HTTP_NAME.to_owned()],
        });
        if !self.fresh {
            return Ok(());
        }
        let here = || lock(&destination.state.fresh).len();
        let ended = Instant::now();
        while here() < sent.len() && ended.elapsed() < STUCK {
            sleep(BETWEEN_FRESH).await;
        }
        let arrived = std::mem::take(&mut *lock(&destination.state.fresh));
        let samples: Vec<Duration> = arrived
            .iter()
            .filter_map(|(number, at)| Some(at.saturating_duration_since(*sent.get(*number)?)))
            .collect();
        report.latencies.push(Latency {
            name: format!("fresh events: {name}"),
            missed: sent.len().saturating_sub(samples.len()),
            distribution: Distribution::new(samples),
            goal_p99: None,
        });
        Ok(())
    }
}

/// As many messages, each made when it is its turn: a million of them are more than a machine needs to hold.
fn generated(count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|number| events::message(number).unwrap_or_default())
}

async fn wait_for_waiting(service: &Service, count: usize) -> Result<()> {
    let mut last = (0, Instant::now());
    loop {
        let waiting = service.wait_until_open().await?;
        if usize::try_from(waiting)? >= count {
            return Ok(());
        }
        if waiting != last.0 {
            last = (waiting, Instant::now());
        }
        ensure!(last.1.elapsed() < STUCK, "only {waiting} of {count} wait");
        sleep(Duration::from_millis(50)).await;
    }
}
