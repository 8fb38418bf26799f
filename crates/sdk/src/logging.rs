//! Log lines as EdgeX services write them, and a level that can change while the service runs.
//!
//! ```text
//! level=INFO ts=2026-11-22T15:18:08.020556313Z app=app-rules-engine source=service.rs:210 msg="…"
//! ```
//!
//! logfmt, one line for each record; fields of the event stand between `source` and `msg`. Values with spaces, `=` or
//! quotes are quoted. Or the same keys in the same order as a JSON object for each line ([`LogFormat::Json`]), where
//! numbers and booleans of events are such.

use std::{
    error::Error,
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
};

use edgehold_config::{LogFormat, configuration::LogLevel};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
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
    pub fn init(app: &str, level: LogLevel, output: LogOutput, format: LogFormat) -> Self {
        let app = Arc::new(RwLock::new(app.to_owned()));
        let (filter, handle) = reload::Layer::new(targets(level));
        let lines = Lines {
            app: app.clone(),
            format,
        };
        let layer = tracing_subscriber::fmt::layer().event_format(lines);
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

/// Writes each event as a line.
struct Lines {
    app: Arc<RwLock<String>>,
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Lines
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
        let source = format!("{file}:{}", metadata.line().unwrap_or(0));
        let app = self.app.read().unwrap_or_else(PoisonError::into_inner);
        let mut fields = Fields::default();
        event.record(&mut fields);
        match self.format {
            LogFormat::Logfmt => {
                write!(out, "level={level} ts={ts} app=")?;
                write_value(&mut out, &app)?;
                write!(out, " source={source}")?;
                for field in &fields.others {
                    write!(out, " {}=", field.name)?;
                    write_value(&mut out, &field.text)?;
                }
                out.write_str(" msg=")?;
                write_quoted(&mut out, &fields.message)?;
                out.write_char('\n')
            }
            LogFormat::Json => {
                write!(out, "{{\"level\":\"{level}\",\"ts\":\"{ts}\",\"app\":")?;
                write_quoted(&mut out, &app)?;
                out.write_str(",\"source\":")?;
                write_quoted(&mut out, &source)?;
                for field in &fields.others {
                    write!(out, ",\"{}\":", field.name)?;
                    match field.is_json {
                        true => out.write_str(&field.text)?,
                        false => write_quoted(&mut out, &field.text)?,
                    }
                }
                out.write_str(",\"msg\":")?;
                write_quoted(&mut out, &fields.message)?;
                out.write_str("}\n")
            }
        }
    }
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    others: Vec<LogField>,
    message: String,
}

struct LogField {
    name: &'static str,
    text: String,
    /// Whether the text is a JSON value as it stands: a number or boolean.
    is_json: bool,
}

impl Fields {
    fn add(&mut self, field: &Field, text: String, is_json: bool) {
        let name = field.name();
        if name == "message" {
            self.message = text;
        } else {
            self.others.push(LogField { name, text, is_json });
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned(), false);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.to_string(), true);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.to_string(), true);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.to_string(), true);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for infinity.
        self.add(field, format!("{value:?}"), value.is_finite());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"), false);
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

/// A text in quotes, as logfmt and JSON have it alike.
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

    fn line(format: LogFormat, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let lines = Lines {
            app: Arc::new(RwLock::new("app-x".to_owned())),
            format,
        };
        let layer = tracing_subscriber::fmt::layer()
            .event_format(lines)
            .with_writer(captured.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_has_the_order_and_quoting_of_edgex() {
        let text = line(LogFormat::Logfmt, || {
            tracing::warn!(attempt = 2, name = "a b", "it said \"no\"\nand left");
        });
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

    #[test]
    fn a_json_line_is_an_object_with_the_same_keys_in_the_same_order() {
        let text = line(LogFormat::Json, || {
            tracing::error!(
                attempt = 2,
                share = 0.5,
                rate = f64::INFINITY,
                stored = true,
                name = "a \u{7} \\b\u{7f}",
                reason = ?Some("x"),
                "it said \"no\"\nand left"
            );
        });
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.starts_with("{\"level\":\"ERROR\",\"ts\":\"20") && text.ends_with("left\"}\n"),
            "{text}"
        );
        let mut expected = serde_json::json!({
            "level": "ERROR", "app": "app-x", "attempt": 2, "share": 0.5, "rate": "inf", "stored": true,
            "name": "a \u{7} \\b\u{7f}", "reason": "Some(\"x\")", "msg": "it said \"no\"\nand left",
        });
        for key in ["ts", "source"] {
            expected[key] = object[key].clone();
            assert!(object[key].is_string(), "{text}");
        }
        assert_eq!(object, expected);
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
