//! Measures the built `edgehold` from outside: real mosquitto, real Consul, a sink of our own, all on loopback.
//!
//! 1. what a recorded event costs to decode, and what each function costs that only computes;
//! 2. memory of a service that has nothing to do;
//! 3. events a second from broker to sink, beside what broker and HTTP give by themselves;
//! 4. the same from a source with a window, with the destination there and down, beside what the disk syncs by itself;
//! 5. from a setting's write in Consul to its effect;
//! 6. what a pipeline feels of another one's dead destination;
//! 7. how fast SQLite and PostgreSQL keep objects and let them go, beside what the engines do by themselves;
//! 8. memory, start, probes and drain with a hundred thousand objects waiting, memory and start with a million, in SQLite
//!    and in PostgreSQL;
//! 9. a hundred thousand objects of the error collection, re-driven.
//!
//! One process after the other, so that no measurement shares the machine with another one. Prints a table and writes
//! `bench.json` into the target folder.
//!
//! For trying it out: `EDGEHOLD_BENCH_EVENTS` (50,000), `EDGEHOLD_BENCH_WAITING` (`100000,1000000`: the first also drains),
//! `EDGEHOLD_BENCH_GIVEN_UP` (100000), `EDGEHOLD_BENCH_ONLY` (some parts of a run, with commas between).

mod backlog;
mod decode;
mod durable;
mod effect;
mod functions;
mod isolation;
mod redrive;
mod service;
mod stores;
mod throughput;

use std::{io::Write as _, path::PathBuf};

use anyhow::{Context, Result};
use edgehold_bench::{
    events,
    process::Resident,
    report::{Memory, Report},
};
use edgehold_test_support::{Postgres, Qos};

use self::{service::Stack, throughput::Load};

const EVENTS: usize = 50_000;
const WAITING: [usize; 2] = [100_000, 1_000_000];
const GIVEN_UP: usize = 100_000;
const GOAL_IDLE_BYTES: u64 = 18 << 20;
/// Samples of each kind of the other destination.
const ISOLATION_SAMPLES: usize = 1_000;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure())?;
    let file = target_folder()?.join("bench.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&report.to_json())?)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    say(&report)?;
    say(&format_args!("Written to {}", file.display()))
}

/// The parts of a run, in their order, by the names that `EDGEHOLD_BENCH_ONLY` takes.
const PARTS: [&str; 10] = [
    "decode",
    "functions",
    "throughput",
    "durable",
    "effect",
    "isolation",
    "stores",
    "backlog",
    "backlog-postgres",
    "redrive",
];

async fn measure() -> Result<Report> {
    let mut report = Report::default();
    let count = numbers("EDGEHOLD_BENCH_EVENTS", &[EVENTS])?
        .first()
        .copied()
        .unwrap_or(EVENTS);
    let only = std::env::var("EDGEHOLD_BENCH_ONLY").ok();
    say(&"starting mosquitto and Consul")?;
    let stack = Stack::start().await?;
    let messages = events::messages(count)?;
    let bytes = messages.iter().map(Vec::len).sum::<usize>() / messages.len();
    let load_before = load_average()?;
    for part in PARTS {
        if only
            .as_ref()
            .is_some_and(|only| !only.split(',').any(|name| name == part))
        {
            continue;
        }
        match part {
            "decode" => {
                say(&"recorded events, decoded")?;
                report.rates.extend(decode::rates()?);
            }
            "functions" => {
                say(&"every function that only computes")?;
                report.rates.extend(functions::rates()?);
            }
            "redrive" => {
                for count in numbers("EDGEHOLD_BENCH_GIVEN_UP", &[GIVEN_UP])? {
                    say(&format_args!("{count} objects given up, and re-driven"))?;
                    redrive::of(&stack, count, &mut report).await?;
                }
            }
            "throughput" => measure_throughput(&stack, &messages, &mut report).await?,
            "durable" => measure_durable(&stack, count, &mut report).await?,
            "effect" => measure_effect(&stack, &mut report).await?,
            "isolation" => {
                say(&"two pipelines, the destination of one dead")?;
                let samples = ISOLATION_SAMPLES.min(count);
                isolation::of_a_dead_destination(&stack, samples, &mut report).await?;
            }
            "stores" => {
                say(&"objects kept and let go, SQLite and PostgreSQL")?;
                stores::rates(&mut report).await?;
            }
            part => {
                let waiting = numbers("EDGEHOLD_BENCH_WAITING", &WAITING)?;
                let server = match part {
                    "backlog-postgres" => Some(Postgres::builder().setting("fsync", "on").start().await?),
                    _ => None,
                };
                for (place, count) in waiting.into_iter().enumerate() {
                    let place_of = server.as_ref().map_or("SQLite", |_| "PostgreSQL");
                    say(&format_args!("{count} objects waiting in {place_of}"))?;
                    backlog::of(&stack, server.as_ref(), count, place == 0, &mut report).await?;
                }
            }
        }
    }
    report.conditions = vec![
        format!(
            "{} cores, shared by broker, Consul, service, sink and the load itself; load average {load_before} before, \
             {} after",
            std::thread::available_parallelism()?,
            load_average()?,
        ),
        format!(
            "messages of {bytes} bytes; Store and Forward on, PersistOnError true, SQLite unless it is said; the sink never fails unless it is \
             said; HTTP alone over {} connections",
            throughput::CONNECTIONS
        ),
        "repeats on a busy machine differ by a factor of two".to_owned(),
    ];
    Ok(report)
}

async fn measure_throughput(stack: &Stack, messages: &[Vec<u8>], report: &mut Report) -> Result<()> {
    let count = messages.len();
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        say(&format_args!("{count} events at {}", throughput::name(qos)))?;
        report
            .rates
            .push(throughput::broker_alone(stack, messages, qos).await?);
    }
    say(&format_args!("{count} requests over HTTP"))?;
    report
        .rates
        .push(throughput::http_alone(&messages[0], count).await?);
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let name = throughput::name(qos);
        say(&format_args!("{count} events end to end at {name}"))?;
        let Load { rate, idle, after } = throughput::end_to_end(stack, messages, qos).await?;
        let idle = memory(format!("idle, {name}"), idle, Some(GOAL_IDLE_BYTES));
        report
            .memory
            .extend([idle, memory(format!("after the load, {name}"), after, None)]);
        report.rates.push(rate);
    }
    Ok(())
}

async fn measure_durable(stack: &Stack, count: usize, report: &mut Report) -> Result<()> {
    say(&"the disk alone")?;
    report.rates.push(durable::disk_alone()?);
    say(&format_args!(
        "{count} events from a source, the destination down"
    ))?;
    let down = durable::destination_down(stack, count).await?;
    say(&format_args!("{count} events from a source, the destination up"))?;
    let up = durable::destination_up(stack, count).await?;
    for (rate, latency) in down.into_iter().chain(up) {
        report.rates.push(rate);
        report.latencies.push(latency);
    }
    Ok(())
}

async fn measure_effect(stack: &Stack, report: &mut Report) -> Result<()> {
    let changes = effect::URL_CHANGES;
    say(&format_args!("{changes} changes of HTTPExport's Url in Consul"))?;
    report.latencies.extend(effect::of_the_url(stack).await?);
    let changes = effect::INTERVAL_CHANGES;
    say(&format_args!("{changes} changes of RetryInterval in Consul"))?;
    report.latencies.push(effect::of_the_retry_interval(stack).await?);
    Ok(())
}

fn memory(name: String, resident: Resident, goal_bytes: Option<u64>) -> Memory {
    Memory {
        name,
        resident,
        goal_bytes,
    }
}

/// Numbers from the environment, with commas between.
fn numbers(variable: &str, default: &[usize]) -> Result<Vec<usize>> {
    match std::env::var(variable) {
        Err(_) => Ok(default.to_vec()),
        Ok(text) => text
            .split(',')
            .map(|number| number.trim().parse())
            .collect::<Result<_, _>>()
            .with_context(|| format!("{variable} holds no numbers")),
    }
}

/// Of the last minute.
fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("the load cannot be read")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// The folder that this program was built into: `…/release/deps/measure-0123` → `…`.
fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    program
        .ancestors()
        .nth(3)
        .map(PathBuf::from)
        .context("this program is in no target folder")
}

fn say(text: &dyn std::fmt::Display) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("the output is closed")
}
