//! The log of this process: its lines, and a level that can change while the service runs.
//!
//! How a line looks is `record`'s. What repeats itself at WARN and ERROR is limited and counted (`repeats`), unless the
//! level is DEBUG or TRACE: who looks that closely wants to see all of it. Nothing below WARN is limited.

mod record;
mod repeats;

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use edgehold_config::{LogFormat, configuration::LogLevel};
use edgehold_core::ShutdownSignal;
use time::{OffsetDateTime, UtcOffset};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Context, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

use self::{record::Record, repeats::Repeats};

/// Libraries whose inner life is no concern of an operator: nothing below WARN of them is ever shown.
const QUIET: [&str; 11] = [
    "async_nats",
    "axum",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "reqwest",
    "rumqttc",
    "rumqttd",
    "rustls",
    "sqlx",
];
/// Libraries that log every failure themselves, several times; their callers log it once.
const SILENT: [&str; 2] = ["consulrs", "rustify"];

/// How often counts are looked at: a count is told this long after its time at the latest.
const COUNTS_INTERVAL: Duration = Duration::from_secs(1);

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output: a running service.
    Stdout,
    /// Standard error: a command whose output is its answer.
    Stderr,
}

/// Changes the level and the service key of the log lines of this process.
#[derive(Clone)]
pub struct LogControl {
    level: reload::Handle<Targets, Registry>,
    lines: Arc<Lines>,
}

impl LogControl {
    /// Starts logging, once in a process; a later call answers a control without effect.
    pub fn init(app: &str, level: LogLevel, output: LogOutput, format: LogFormat) -> Self {
        let (filter, handle) = reload::Layer::new(targets(level));
        // What cannot be written has nowhere to be reported to.
        let write: WriteLine = match output {
            LogOutput::Stdout => Box::new(|line| drop(io::stdout().write_all(line.as_bytes()))),
            LogOutput::Stderr => Box::new(|line| drop(io::stderr().write_all(line.as_bytes()))),
        };
        let lines = Arc::new(Lines::new(app, level, format, write));
        // Another subscriber may already be there: in tests, or in a program that brings its own.
        let _ = tracing_subscriber::registry()
            .with(filter)
            .with(LinesLayer(lines.clone()))
            .try_init();
        Self { level: handle, lines }
    }

    /// Shows this level and the more urgent ones from now on.
    pub fn set_level(&self, level: LogLevel) {
        self.lines.set_limited(level);
        let _ = self.level.reload(targets(level));
    }

    /// Shows this service key from now on.
    pub fn set_app(&self, app: &str) {
        app.clone_into(&mut self.lines.app.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Shows local time with its offset from now on, or UTC.
    pub(crate) fn set_local_time(&self, local: bool) {
        self.lines.local_time.store(local, Ordering::Relaxed);
    }

    /// Writes the counts of repeated records when their time has come, until told to end. Cancel-safe: what is not
    /// written yet stays counted.
    pub(crate) async fn write_counts(self, shutdown: ShutdownSignal) {
        self.lines.write_counts(shutdown).await;
    }

    /// Writes all counts of repeated records, whether their time has come or not.
    pub(crate) fn write_all_counts(&self) {
        self.lines.write_all_counts();
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogControl")
    }
}

/// The log of a service, from before its start to its end. Dropping it writes what is still counted: no way to end, a
/// failed start among them, keeps a number back.
pub(crate) struct ServiceLog(pub(crate) LogControl);

impl Drop for ServiceLog {
    fn drop(&mut self) {
        self.0.write_all_counts();
    }
}

fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    Targets::new()
        .with_default(level)
        .with_targets(QUIET.map(|name| (name, level.min(LevelFilter::WARN))))
        .with_targets(SILENT.map(|name| (name, LevelFilter::OFF)))
}

type WriteLine = Box<dyn Fn(&str) + Send + Sync>;

/// Writes records as lines, or counts them.
struct Lines {
    app: RwLock<String>,
    format: LogFormat,
    local_time: AtomicBool,
    limited: AtomicBool,
    repeats: Mutex<Repeats>,
    write: WriteLine,
}

impl Lines {
    fn new(app: &str, level: LogLevel, format: LogFormat, write: WriteLine) -> Self {
        Self {
            app: RwLock::new(app.to_owned()),
            format,
            local_time: AtomicBool::new(false),
            limited: AtomicBool::new(is_limited(level)),
            repeats: Mutex::default(),
            write,
        }
    }

    fn take(&self, record: Record) {
        let may_repeat = *record.metadata.level() <= Level::WARN;
        if may_repeat && self.limited.load(Ordering::Relaxed) {
            self.write_of(|repeats| repeats.take(record, Instant::now()));
        } else {
            self.write(&record);
        }
    }

    /// What was counted until now is told first: it belongs to the level before.
    fn set_limited(&self, level: LogLevel) {
        self.limited.store(is_limited(level), Ordering::Relaxed);
        self.write_all_counts();
    }

    async fn write_counts(&self, mut shutdown: ShutdownSignal) {
        let mut ticks = interval(COUNTS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.recv() => return,
                _ = ticks.tick() => self.write_counts_over(),
            }
        }
    }

    fn write_counts_over(&self) {
        self.write_of(|repeats| repeats.over(Instant::now()));
    }

    fn write_all_counts(&self) {
        self.write_of(|repeats| repeats.all(Instant::now()));
    }

    /// Writes what the counting hands out, after the lock is given back: an output that blocks blocks only its writer.
    fn write_of(&self, hand_out: impl FnOnce(&mut Repeats) -> Vec<Record>) {
        let ready = hand_out(&mut self.repeats.lock().unwrap_or_else(PoisonError::into_inner));
        for record in ready {
            self.write(&record);
        }
    }

    fn write(&self, record: &Record) {
        let line = {
            let app = self.app.read().unwrap_or_else(PoisonError::into_inner);
            record.line(&app, self.timestamp(), self.format)
        };
        if let Ok(line) = line {
            (self.write)(&line);
        }
    }

    /// Now, in the zone that is asked for; in UTC where the system does not know its own.
    fn timestamp(&self) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc();
        let local = || {
            // Asked for each line, so that summer time comes and goes. Zones of long ago had seconds, RFC 3339 has none.
            let offset = UtcOffset::local_offset_at(now).ok()?;
            let offset = UtcOffset::from_hms(offset.whole_hours(), offset.minutes_past_hour(), 0).ok()?;
            now.checked_to_offset(offset)
        };
        match self.local_time.load(Ordering::Relaxed) {
            true => local().unwrap_or(now),
            false => now,
        }
    }
}

fn is_limited(level: LogLevel) -> bool {
    !matches!(level, LogLevel::Debug | LogLevel::Trace)
}

/// Hands events to the lines.
struct LinesLayer(Arc<Lines>);

impl<S: Subscriber> Layer<S> for LinesLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.take(Record::new(event));
    }
}

/// An error and its causes on one line, each once: some texts hold their cause's already.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let reason = cause.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use edgehold_core::Shutdown;

    use super::*;

    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<Record>>>);

    impl<S: Subscriber> Layer<S> for Collected {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(Record::new(event));
        }
    }

    /// The records of what is logged in there.
    pub(super) fn records(log: impl FnOnce()) -> Vec<Record> {
        let collected = Collected::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(collected.clone()), log);
        std::mem::take(&mut *collected.0.lock().unwrap())
    }

    /// Lines that are written into a list.
    struct Written {
        lines: Arc<Lines>,
        texts: Arc<Mutex<Vec<String>>>,
    }

    impl Written {
        fn new(level: LogLevel) -> Self {
            let texts = Arc::new(Mutex::new(Vec::new()));
            let sink = texts.clone();
            let write: WriteLine = Box::new(move |line| sink.lock().unwrap().push(line.to_owned()));
            Self {
                lines: Arc::new(Lines::new("app-x", level, LogFormat::Logfmt, write)),
                texts,
            }
        }

        fn log(&self, log: impl FnOnce()) {
            let subscriber = tracing_subscriber::registry().with(LinesLayer(self.lines.clone()));
            tracing::subscriber::with_default(subscriber, log);
        }

        /// The lines since the last call.
        fn texts(&self) -> Vec<String> {
            std::mem::take(&mut self.texts.lock().unwrap())
        }
    }

    fn refused(times: usize) {
        for _ in 0..times {
            tracing::error!("connection refused");
        }
    }

    #[test]
    fn only_what_warns_is_limited() {
        let written = Written::new(LogLevel::Info);
        written.log(|| {
            for _ in 0..100 {
                tracing::info!("accepted");
            }
        });
        assert_eq!(written.texts().len(), 100);
        written.log(|| refused(100));
        assert_eq!(written.texts().len(), 5);
        written.log(|| {
            for _ in 0..100 {
                tracing::warn!("slow");
            }
        });
        assert_eq!(written.texts().len(), 5);
    }

    #[test]
    fn nothing_is_limited_while_somebody_debugs() {
        let written = Written::new(LogLevel::Info);
        written.log(|| refused(100));
        written.texts();

        // What was counted so far is told at the change.
        written.lines.set_limited(LogLevel::Debug);
        let told = written.texts();
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("(and 94 more like this"), "{told:?}");

        written.log(|| refused(100));
        assert_eq!(written.texts().len(), 100);

        written.lines.set_limited(LogLevel::Error);
        written.log(|| refused(100));
        assert_eq!(written.texts().len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_is_told_although_nothing_else_is_logged() {
        let written = Written::new(LogLevel::Info);
        let (shutdown, signal) = Shutdown::new();
        let telling = written.lines.write_counts(signal);
        tokio::pin!(telling);
        written.log(|| refused(100));
        written.texts();

        // Paused time runs to whatever comes first.
        let told = tokio::time::timeout(Duration::from_secs(12), &mut telling).await;
        assert!(told.is_err(), "it goes on");
        let told = written.texts();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains(" msg=\"connection refused … (and 94 more like this in the last 10 s)\""),
            "{told:?}"
        );

        shutdown.trigger();
        telling.await;
    }

    #[test]
    fn the_end_tells_what_is_still_counted() {
        let written = Written::new(LogLevel::Info);
        let (_, level) = reload::Layer::new(targets(LogLevel::Info));
        let log = ServiceLog(LogControl {
            level,
            lines: written.lines.clone(),
        });
        written.log(|| refused(100));
        written.texts();
        drop(log);
        assert_eq!(written.texts().len(), 1);
    }

    #[test]
    fn an_output_that_blocks_does_not_hold_up_the_counting() {
        let written = Arc::new(Mutex::new(0));
        let count = written.clone();
        let lines = Arc::new_cyclic(|lines: &Weak<Lines>| {
            let lines = lines.clone();
            let write: WriteLine = Box::new(move |_| {
                let lines = lines.upgrade().unwrap();
                assert!(lines.repeats.try_lock().is_ok(), "others may count meanwhile");
                *count.lock().unwrap() += 1;
            });
            Lines::new("app-x", LogLevel::Info, LogFormat::Logfmt, write)
        });
        for record in records(|| refused(100)) {
            lines.take(record);
        }
        lines.write_all_counts();
        assert_eq!(*written.lock().unwrap(), 6);
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Told {
            text: &'static str,
            source: Option<Box<Told>>,
        }
        let told = |text, source: Option<Told>| Told {
            text,
            source: source.map(Box::new),
        };
        let error = told(
            "cannot start: no file",
            Some(told("no file", Some(told("line 3", None)))),
        );
        assert_eq!(with_causes(&error), "cannot start: no file: line 3");
    }
}
