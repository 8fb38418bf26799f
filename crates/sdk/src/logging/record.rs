//! A record, and the line that is made of it.
//!
//! ```text
//! level=INFO ts=2026-11-22T15:18:08.020556313Z app=app-rules-engine source=service.rs:210 msg="…"
//! ```
//!
//! logfmt, one line for each record; fields of the event stand between `source` and `msg`. Values with spaces, `=` or
//! quotes are quoted. `ts` is UTC in EdgeX 3, local time with its offset in EdgeX 4. Or the same keys in the same order as a JSON object for each line ([`LogFormat::Json`]), where
//! numbers and booleans of events are such.

use std::fmt::{self, Write};

use edgehold_config::LogFormat;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{
    Event, Level, Metadata,
    field::{Field, Visit},
};

/// An event with its values as texts.
pub(super) struct Record {
    pub(super) metadata: &'static Metadata<'static>,
    pub(super) fields: Vec<LogField>,
    pub(super) message: String,
}

pub(super) struct LogField {
    pub(super) name: &'static str,
    pub(super) text: String,
    /// Whether the text is a JSON value as it stands: a number or boolean.
    pub(super) is_json: bool,
}

impl Record {
    pub(super) fn new(event: &Event<'_>) -> Self {
        let mut record = Self {
            metadata: event.metadata(),
            fields: Vec::new(),
            message: String::new(),
        };
        event.record(&mut record);
        record
    }

    /// The record as a line, its end included.
    ///
    /// # Errors
    /// When `ts` cannot be written in RFC 3339: a year beyond 9999, an offset with seconds.
    pub(super) fn line(
        &self,
        app: &str,
        ts: OffsetDateTime,
        format: LogFormat,
    ) -> Result<String, fmt::Error> {
        let level = match *self.metadata.level() {
            Level::TRACE => "TRACE",
            Level::DEBUG => "DEBUG",
            Level::INFO => "INFO",
            Level::WARN => "WARN",
            Level::ERROR => "ERROR",
        };
        let ts = ts.format(&Rfc3339).map_err(|_| fmt::Error)?;
        let file = self
            .metadata
            .file()
            .unwrap_or("unknown")
            .rsplit(['/', '\\'])
            .next()
            .unwrap_or("unknown");
        let source = format!("{file}:{}", self.metadata.line().unwrap_or(0));
        let mut out = String::new();
        match format {
            LogFormat::Logfmt => {
                write!(out, "level={level} ts={ts} app=")?;
                write_value(&mut out, app)?;
                write!(out, " source={source}")?;
                for field in &self.fields {
                    write!(out, " {}=", field.name)?;
                    write_value(&mut out, &field.text)?;
                }
                out.write_str(" msg=")?;
                write_quoted(&mut out, &self.message)?;
                out.write_char('\n')?;
            }
            LogFormat::Json => {
                write!(out, "{{\"level\":\"{level}\",\"ts\":\"{ts}\",\"app\":")?;
                write_quoted(&mut out, app)?;
                out.write_str(",\"source\":")?;
                write_quoted(&mut out, &source)?;
                for field in &self.fields {
                    write!(out, ",\"{}\":", field.name)?;
                    match field.is_json {
                        true => out.write_str(&field.text)?,
                        false => write_quoted(&mut out, &field.text)?,
                    }
                }
                out.write_str(",\"msg\":")?;
                write_quoted(&mut out, &self.message)?;
                out.write_str("}\n")?;
            }
        }
        Ok(out)
    }

    fn add(&mut self, field: &Field, text: String, is_json: bool) {
        let name = field.name();
        if name == "message" {
            self.message = text;
        } else {
            self.fields.push(LogField { name, text, is_json });
        }
    }
}

impl Visit for Record {
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
    use time::macros::datetime;

    use super::{super::tests::records, *};

    fn line(format: LogFormat, log: impl FnOnce()) -> String {
        let ts = datetime!(2026-11-22 15:18:08.0205 UTC);
        records(log)[0].line("app-x", ts, format).unwrap()
    }

    #[test]
    fn a_line_has_the_order_and_quoting_of_edgex() {
        let text = line(LogFormat::Logfmt, || {
            tracing::warn!(attempt = 2, name = "a b", "it said \"no\"\nand left");
        });
        let (head, tail) = text.split_once(" source=").unwrap();
        assert_eq!(head, "level=WARN ts=2026-11-22T15:18:08.0205Z app=app-x");
        assert!(tail.starts_with("record.rs:"), "{text}");
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
}
