//! Messages to load a service with: EdgeX 4 events of about one kilobyte, envelope included, each with ids of its own.

use anyhow::{Context, Result};
use edgehold_contracts::{
    AddEventRequest, Event, Generation, MessageEnvelope, Payload, Reading, ReadingValue, ValueType,
};
use uuid::Uuid;

/// The topic that all of them belong to, under the base prefix `edgex`.
pub const TOPIC: &str = "edgex/events/device/device-bench/Machine/Machine-01/Status";

/// The source name of fresh events begins with it.
const FRESH: &str = "Fresh-";

/// 2026-01-01 in nanoseconds since 1970: measured events need no clock.
const ORIGIN: i64 = 1_767_225_600_000_000_000;

/// `count` messages.
///
/// # Errors
/// Never for what is built here; the encoders say so by type.
pub fn messages(count: usize) -> Result<Vec<Vec<u8>>> {
    (0..count).map(message).collect()
}

/// One message; `number` is the value of its first reading.
///
/// # Errors
/// As [`messages`].
pub fn message(number: usize) -> Result<Vec<u8>> {
    named(number, "Status")
}

/// A message that [`fresh_number`] knows again in what is exported of it.
///
/// # Errors
/// As [`messages`].
pub fn fresh(number: usize) -> Result<Vec<u8>> {
    named(number, &format!("{FRESH}{number}"))
}

/// The number of a [`fresh`] event by its JSON; `None` for any other.
pub fn fresh_number(event: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(event).ok()?;
    let (_, behind) = text.split_once(FRESH)?;
    behind.split('"').next()?.parse().ok()
}

fn named(number: usize, source: &str) -> Result<Vec<u8>> {
    let origin = ORIGIN + i64::try_from(number).context("more events than time")?;
    let mut event = Event::new(Uuid::new_v4(), "Machine", "Machine-01", source, origin);
    let readings = [
        (
            "Speed",
            ValueType::Int32,
            ReadingValue::Simple(number.to_string()),
        ),
        (
            "Temperature",
            ValueType::Float64,
            ReadingValue::float64(21.5, Generation::V4),
        ),
        (
            "Running",
            ValueType::Bool,
            ReadingValue::Simple("true".to_owned()),
        ),
    ];
    event.readings = readings
        .into_iter()
        .map(|(name, kind, value)| Reading::new(Uuid::new_v4(), &event, name, kind, value, origin))
        .collect();
    let request = AddEventRequest::new(Uuid::new_v4(), event);
    let json = String::from_utf8(request.to_json(Generation::V4)).context("an event is not text")?;
    let payload = Payload::json_text(json).context("an event is not JSON")?;
    let envelope = MessageEnvelope::new(Uuid::new_v4().to_string(), payload, "application/json".to_owned());
    Ok(envelope.to_json(Generation::V4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_about_a_kilobyte() {
        let messages = messages(2).unwrap();
        assert!(
            messages
                .iter()
                .all(|message| (900..1_200).contains(&message.len())),
            "{}",
            messages[0].len()
        );
        assert_ne!(messages[0], messages[1]);
    }

    #[test]
    fn a_fresh_event_is_known_again() {
        let message = fresh(17).unwrap();
        let envelope = MessageEnvelope::from_json(&message).unwrap();
        assert_eq!(fresh_number(envelope.payload_bytes().unwrap()), Some(17));
        assert_eq!(fresh_number(&messages(1).unwrap()[0]), None);
    }
}
