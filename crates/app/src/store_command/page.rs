//! One stored object on a page: every field, the context, the payload as far as it can be read.

use std::io::{self, Write};

use edgehold::{ObjectState, StoredInput, StoredObject, Timestamp};

use super::text;

/// Bytes of a payload shown as text, and as a hex dump.
const MAX_TEXT_BYTES: usize = 64 << 10;
const MAX_HEX_BYTES: usize = 4 << 10;

/// Writes the page of an object.
pub(super) fn write(object: &StoredObject, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| moment(at, now));
    let optional = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), text::visible);
    let state = match (object.state, object.reason) {
        (ObjectState::Error, Some(reason)) => format!("error: {}", reason.as_str()),
        (state, _) => state.as_str().to_owned(),
    };
    let input = match &object.input {
        StoredInput::Delivery {
            content_type,
            topic,
            form,
        } => format!(
            "the delivery, {} ({}) from {}",
            text::visible(content_type),
            form.as_str(),
            text::visible(topic)
        ),
        StoredInput::Bytes { kind } => kind.as_str().to_owned(),
    };
    let fields = [
        ("id", object.id.to_string()),
        ("seq", object.seq.to_string()),
        ("service key", text::visible(object.service_key.as_str())),
        ("pipeline", text::visible(object.pipeline_id.as_str())),
        ("position", object.position.to_string()),
        ("version", text::visible(&object.version.to_string())),
        ("correlation id", text::visible(object.correlation_id.as_str())),
        ("state", state),
        ("attempts", object.attempts.to_string()),
        ("created", time(Some(object.created_at))),
        ("last attempt", time(object.last_attempt_at)),
        ("not before", time(object.not_before)),
        ("ended", time(object.ended_at)),
        ("crashes", object.crashes.to_string()),
        ("last error", optional(object.last_error.as_deref())),
        (
            "destination",
            optional(object.destination.as_ref().map(edgehold::Destination::as_str)),
        ),
        ("input", input),
        ("size", format!("{} bytes", object.payload.len())),
    ];
    for (name, value) in &fields {
        writeln!(out, "{name:<15} {value}")?;
    }
    if !object.errors.as_slice().is_empty() {
        writeln!(out, "\nattempts")?;
        for error in object.errors.as_slice() {
            let at = moment(error.at, now);
            writeln!(
                out,
                "  {:>4}  {at}  {}",
                error.attempt,
                text::visible(&error.error)
            )?;
        }
    }
    if !object.context.is_empty() {
        writeln!(out, "\ncontext")?;
        let names: Vec<String> = object.context.keys().map(|name| text::visible(name)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        for (name, value) in names.iter().zip(object.context.values()) {
            writeln!(out, "  {name:<width$} {}", text::visible(value))?;
        }
    }
    writeln!(out, "\npayload")?;
    write_payload(&object.payload, out)
}

/// A moment in UTC, and how far it is from now.
fn moment(at: Timestamp, now: Timestamp) -> String {
    let written = text::time(at);
    match at > now {
        true => format!("{written} (in {})", text::age(at.saturating_since(now))),
        false => format!("{written} ({} ago)", text::age(now.saturating_since(at))),
    }
}

/// JSON indented, other text as it is, anything else as a hex dump; the beginning when it is long.
fn write_payload(payload: &[u8], out: &mut impl Write) -> io::Result<()> {
    let (shown, of) = match text::readable(payload) {
        Some(readable) => {
            let json = text::indented_json(readable, MAX_TEXT_BYTES);
            let (lines, bytes) = json.unwrap_or_else(|| text::beginning(readable, MAX_TEXT_BYTES));
            for line in lines.lines() {
                writeln!(out, "{}", text::visible(line))?;
            }
            (bytes, payload.len())
        }
        None => {
            let shown = &payload[..payload.len().min(MAX_HEX_BYTES)];
            write!(out, "{}", text::hex_dump(shown))?;
            (shown.len(), payload.len())
        }
    };
    if shown < of {
        writeln!(
            out,
            "… {} of {of} bytes are shown; --raw writes all of them",
            shown
        )?;
    }
    Ok(())
}
