//! Measures the built `edgehold` from outside: real mosquitto, real Consul, a sink of our own, all on loopback.
//!
//! 1. what a recorded event costs to decode;
//! 2. memory of a service that has nothing to do;
//! 3. events a second from broker to sink, beside what broker and HTTP give by themselves;
//! 4. from a setting's write in Consul to its effect.
//!
//! One process after the other, so that no measurement shares the machine with another one. Prints a table and writes
//! `bench.json` into the target folder.

mod decode;
mod effect;
mod service;
mod throughput;

use std::{io::Write as _, path::PathBuf};

use anyhow::{Context, Result};
use edgehold_bench::{
    events,
    report::{Memory, Report},
};
use edgehold_test_support::Qos;

use self::{service::Stack, throughput::Load};

const EVENTS: usize = 50_000;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure())?;
    let file = target_folder()?.join("bench.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&report.to_json())?)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    say(&report)?;
    say(&format_args!("Written to {}", file.display()))
}

async fn measure() -> Result<Report> {
    let mut report = Report::default();
    say(&"starting mosquitto and Consul")?;
    let stack = Stack::start().await?;
    let messages = events::messages(EVENTS)?;
    let bytes = messages.iter().map(Vec::len).sum::<usize>() / messages.len();
    let load_before = load_average()?;

    say(&"recorded events, decoded")?;
    report.rates.extend(decode::rates()?);
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        say(&format_args!("{EVENTS} events at {}", throughput::name(qos)))?;
        report
            .rates
            .push(throughput::broker_alone(&stack, &messages, qos).await?);
    }
    let body = &messages[0];
    say(&format_args!("{EVENTS} requests over HTTP"))?;
    report.rates.push(throughput::http_alone(body, EVENTS).await?);
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        say(&format_args!(
            "{EVENTS} events end to end at {}",
            throughput::name(qos)
        ))?;
        let Load { rate, idle, after } = throughput::end_to_end(&stack, &messages, qos).await?;
        report
            .memory
            .push(memory(format!("idle, {}", throughput::name(qos)), idle));
        report.memory.push(memory(
            format!("after the load, {}", throughput::name(qos)),
            after,
        ));
        report.rates.push(rate);
    }
    say(&format_args!(
        "{} changes of HTTPExport's Url in Consul",
        effect::URL_CHANGES
    ))?;
    report.latencies.extend(effect::of_the_url(&stack).await?);
    say(&format_args!(
        "{} changes of RetryInterval in Consul",
        effect::INTERVAL_CHANGES
    ))?;
    report
        .latencies
        .push(effect::of_the_retry_interval(&stack).await?);

    report.conditions = vec![
        format!(
            "{} cores, shared by broker, Consul, service, sink and the load itself; load average {load_before} before, \
             {} after",
            std::thread::available_parallelism()?,
            load_average()?,
        ),
        format!(
            "messages of {bytes} bytes; Store and Forward on, PersistOnError true, SQLite; the sink never fails; \
             HTTP alone over {} connections",
            throughput::CONNECTIONS
        ),
        "repeats on a busy machine differ by a factor of two".to_owned(),
    ];
    Ok(report)
}

fn memory(name: String, (resident_bytes, peak_bytes): (u64, u64)) -> Memory {
    Memory {
        name,
        resident_bytes,
        peak_bytes,
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
