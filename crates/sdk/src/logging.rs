//! Log lines as EdgeX services write them, and a level that can change while the service runs.
//!
//! ```text
//! level=INFO ts=2026-11-22T15:18:08.020556313Z app=app-rules-engine source=service.rs:210 msg="…"
//! ```
//!
//! logfmt, one line for each record; fields of the event stand between `source` and `msg`. Values with spaces, `=` or
//! quotes are quoted.

use std::{
    fmt::{self, Write as _},
    io,
    sync::{Arc, PoisonError, RwLock},
};

use edgehold_config::configuration::LogLevel;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{Event, Level, Subscriber, field::Visit, level_filters::LevelFilter};
use tracing_subscriber::{
    Registry,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

/// Libraries whose inner life is no concern of an operator: nothing below WARN of them is ever shown.
const QUIET: [&str; 10] = [
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
    app: Arc<RwLock<String>>,
}

impl LogControl {
    /// Starts logging, once in a process; a later call answers a control without effect.
    pub fn init(app: &str, level: LogLevel, output: LogOutput) -> Self {
        let app = Arc::new(RwLock::new(app.to_owned()));
        let (filter, handle) = reload::Layer::new(targets(level));
        let format = Logfmt { app: app.clone() };
        let layer = tracing_subscriber::fmt::layer().event_format(format);
        let registry = tracing_subscriber::registry().with(filter);
        // Another subscriber may already be there: in tests, or in a program that brings its own.
        let _ = match output {
            LogOutput::Stdout => registry.with(layer.with_writer(io::stdout)).try_init(),
            LogOutput::Stderr => registry.with(layer.with_writer(io::stderr)).try_init(),
        };
        Self { level: handle, app }
    }

    /// Shows this level and the more urgent ones from now on.
    pub fn set_level(&self, level: LogLevel) {
        let _ = self.level.reload(targets(level));
    }

    /// Shows this service key from now on.
    pub fn set_app(&self, app: &str) {
        app.clone_into(&mut self.app.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogControl")
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

struct Logfmt {
    app: Arc<RwLock<String>>,
}

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::TRACE => "TRACE",
            Level::DEBUG => "DEBUG",
            Level::INFO => "INFO",
            Level::WARN => "WARN",
            Level::ERROR => "ERROR",
        };
        let ts = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .map_err(|_| fmt::Error)?;
        let file = metadata
            .file()
            .unwrap_or("unknown")
            .rsplit(['/', '\\'])
            .next()
            .unwrap_or("unknown");
        write!(out, "level={level} ts={ts} app=")?;
        write_value(&mut out, &self.app.read().unwrap_or_else(PoisonError::into_inner))?;
        write!(out, " source={file}:{}", metadata.line().unwrap_or(0))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        out.write_str(&fields.others)?;
        out.write_str(" msg=")?;
        write_quoted(&mut out, &fields.message)?;
        out.write_char('\n')
    }
}

#[derive(Default)]
struct Fields {
    others: String,
    message: String,
}

impl Fields {
    fn add(&mut self, name: &str, value: &str) {
        if name == "message" {
            value.clone_into(&mut self.message);
        } else {
            // Writing into a String cannot fail.
            let _ = write!(self.others, " {name}=");
            let _ = write_value(&mut self.others, value);
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.add(field.name(), value);
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.add(field.name(), &format!("{value:?}"));
    }
}

fn write_value(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    let plain = !text.is_empty()
        && !text
            .chars()
            .any(|c| c <= ' ' || matches!(c, '=' | '"') || c.is_control());
    if plain {
        out.write_str(text)
    } else {
        write_quoted(out, text)
    }
}

fn write_quoted(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c))?,
            c => out.write_char(c)?,
        }
    }
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Captured {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_has_the_order_and_quoting_of_edgex() {
        let captured = Captured::default();
        let format = Logfmt {
            app: Arc::new(RwLock::new("app-x".to_owned())),
        };
        let layer = tracing_subscriber::fmt::layer()
            .event_format(format)
            .with_writer(captured.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(attempt = 2, name = "a b", "it said \"no\"\nand left");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let (head, tail) = text.split_once(" source=").unwrap();
        assert!(
            head.starts_with("level=WARN ts=20") && head.ends_with("Z app=app-x"),
            "{text}"
        );
        assert!(tail.starts_with("logging.rs:"), "{text}");
        assert!(
            tail.ends_with(" attempt=2 name=\"a b\" msg=\"it said \\\"no\\\"\\nand left\"\n"),
            "{text}"
        );
    }
}
