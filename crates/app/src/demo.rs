//! `edgehold demo`: the service with everything around it in one process, so that a first look needs nothing installed.
//!
//! ```text
//! virtual devices ──▶ broker ──▶ edgehold ──▶ destination, which fails part of the time
//!                                   │ ▲
//!                                   ▼ │ what failed
//!                               store (SQLite in the data folder)
//! ```
//!
//! Owns the surroundings and what is shown of them. The service is the ordinary one: built from a configuration file
//! (written into the data folder for the reader to look at) by the same builder as without the demo. Its log goes to a
//! file, so that the status lines stay readable.

mod broker;
mod destination;
mod devices;
mod report;
mod settings;

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use edgehold::{AppService, Invocation, Running, RunningStatus, waiting_objects};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing_subscriber::EnvFilter;

use self::{destination::Destination, devices::Devices, report::Guide};
use crate::store_command::text::with_causes;

const SERVICE_KEY: &str = "app-demo";
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// How long the end may take.
const GRACE: Duration = Duration::from_secs(8);
/// How long the last deliveries are waited for, so that the books are read when nothing moves any more.
const SETTLING: Duration = Duration::from_secs(3);

/// Runs until SIGINT or SIGTERM.
#[expect(
    clippy::print_stderr,
    reason = "the log is a file, and this is why there is no demo to look at"
)]
pub(crate) fn run(invocation: Invocation) -> ExitCode {
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("there is no async runtime")
        .and_then(|runtime| runtime.block_on(demo(&invocation.flags.data_dir)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the demo cannot go on: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

async fn demo(data_dir: &Path) -> Result<()> {
    let folder = data_dir.join("demo");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    let log_file = folder.join("service.log");
    log_to(&log_file)?;

    let (broker_port, link) = broker::start().await?;
    let destination = Arc::new(Destination::new());
    let (url, serving) = destination.clone().listen().await?;
    let settings_file = settings::write(&folder, broker_port, &url)?;

    let invocation = settings::invocation(&folder, data_dir)?;
    let left = waiting_objects(&invocation, SERVICE_KEY)
        .await
        .context("the store cannot be read")?;
    let built = AppService::new(SERVICE_KEY)
        .build(&invocation)
        .await
        .context("the service does not start")?;
    let guide = Guide {
        broker_port,
        destination_url: url,
        rest: built.rest_address()?,
        store_file: store_file(data_dir),
        settings_file,
        log_file,
        left_by_an_earlier_run: left,
    };
    say(&guide)?;
    let running = built.spawn();
    let status = tokio::select! {
        // Serves for as long as the other arm runs, the end of the service included.
        never = serving => match never {},
        status = watch(running, Devices::new(link), &destination) => status?,
    };
    let waiting = waiting_objects(&invocation, SERVICE_KEY)
        .await
        .context("the store cannot be read")?;
    say(&report::balance(&status, destination.arrived()))?;
    say(&report::farewell(waiting, &store_file(data_dir)))
}

/// Publishes and shows until it is told to end, ends the service, and answers with what the service had done by then.
async fn watch(
    mut running: Running,
    mut devices: Devices,
    destination: &Destination,
) -> Result<RunningStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let started = Instant::now();
    let mut events = interval(devices::INTERVAL);
    events.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut lines = interval(STATUS_INTERVAL);
    lines.tick().await;
    let mut table = report::Table::default();
    loop {
        // Every arm is cancel-safe.
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            reason = running.ended_early() => bail!("the service has ended: {reason}"),
            _ = events.tick() => devices.publish_next()?,
            _ = lines.tick() => say(&table.line(started.elapsed(), &running.status().await, destination))?,
        }
    }
    say(&"\nStopping: the devices are silent, what is in hand is delivered or stored ...")?;
    let status = settled(&running).await;
    running.drain(GRACE).await;
    Ok(status)
}

/// The books once the last event has had its first attempt and they add up, which they need not do while a retry is
/// being entered, or after [`SETTLING`].
async fn settled(running: &Running) -> RunningStatus {
    let end = Instant::now() + SETTLING;
    let mut received = None;
    loop {
        let status = running.status().await;
        let quiet = received == Some(status.books.received) && status.books.in_flight == 0;
        if quiet && report::add_up(&status) || Instant::now() >= end {
            return status;
        }
        received = Some(status.books.received);
        sleep(Duration::from_millis(200)).await;
    }
}

/// Where the service keeps what waits: the default of the settings.
fn store_file(data_dir: &Path) -> PathBuf {
    data_dir.join(format!("{SERVICE_KEY}.db"))
}

/// Sends the log of this process to a file that begins anew.
fn log_to(file: &Path) -> Result<()> {
    let log = File::create(file).with_context(|| format!("the log {} cannot be written", file.display()))?;
    tracing_subscriber::fmt()
        // To rumqttd the end of every connection is an error.
        .with_env_filter(EnvFilter::new("info,rumqttd=off"))
        .with_ansi(false)
        .with_target(false)
        .with_writer(Arc::new(log))
        .try_init()
        .map_err(|error| anyhow::anyhow!("there is another log already: {error}"))
}

/// Writes to standard output; fails when nobody reads it any more.
fn say(text: &dyn std::fmt::Display) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("the output is closed")
}
