//! Virtual devices: a few things that a building might have, publishing EdgeX events.
//!
//! They take turns, so that each status line shows steady numbers. Most events leave in the form of EdgeX 4 (JSON as it
//! is), those of one device in the form of EdgeX 3 (base64): the service takes both.

use std::{
    f64::consts::TAU,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use edgehold::{AddEventRequest, Event, Generation, MessageEnvelope, Payload, Reading, ReadingValue};
use uuid::Uuid;

use super::broker::Link;

/// Between two events, whichever device they are from.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// The device that the pipeline filters out.
pub(super) const HEARTBEAT: &str = "Heartbeat-01";
const DEVICE_SERVICE: &str = "device-demo";
const DEVICES: u64 = 5;

/// The devices and their connection.
pub(super) struct Devices {
    link: Link,
    turn: u64,
}

/// What a device says: its name, profile and source, and its readings.
struct Said {
    device: &'static str,
    profile: &'static str,
    source: &'static str,
    generation: Generation,
    readings: Vec<Reading>,
}

impl Devices {
    pub(super) fn new(link: Link) -> Self {
        Self { link, turn: 0 }
    }

    /// Lets the next device publish one event.
    pub(super) fn publish_next(&mut self) -> Result<()> {
        let (topic, message) = message(self.turn, now()?)?;
        self.turn += 1;
        self.link.publish(topic, message)
    }
}

/// The event of a turn on the bus: topic and payload. `origin` in nanoseconds since 1970.
fn message(turn: u64, origin: i64) -> Result<(String, Vec<u8>)> {
    let Said {
        device,
        profile,
        source,
        generation,
        readings,
    } = said(turn);
    let mut event = Event::new(Uuid::new_v4(), profile, device, source, origin);
    event.readings = readings
        .into_iter()
        .map(|reading| Reading {
            id: Uuid::new_v4().to_string(),
            origin,
            device_name: device.to_owned(),
            profile_name: profile.to_owned(),
            ..reading
        })
        .collect();
    let request = AddEventRequest::new(Uuid::new_v4(), event);
    let json = String::from_utf8(request.to_json(generation)).context("an event is not text")?;
    let payload = Payload::json_text(json).context("an event is not JSON")?;
    let envelope = MessageEnvelope::new(Uuid::new_v4().to_string(), payload, "application/json".to_owned());
    let topic = format!("edgex/events/device/{DEVICE_SERVICE}/{profile}/{device}/{source}");
    Ok((topic, envelope.to_json(generation)))
}

fn said(turn: u64) -> Said {
    let round = turn / DEVICES;
    // Once around in a minute, at two rounds a second.
    let angle = f64::from(u8::try_from(round % 120).unwrap_or_default()) / 120.0 * TAU;
    let v4 = Generation::V4;
    match turn % DEVICES {
        0 => Said {
            device: "Door-01",
            profile: "Door",
            source: "Open",
            generation: Generation::V3,
            readings: vec![simple("Open", "Bool", (round % 7 < 2).to_string())],
        },
        1 => Said {
            device: "Meter-01",
            profile: "EnergyMeter",
            source: "Energy",
            generation: v4,
            // Beyond what a 64-bit float can hold exactly.
            readings: vec![with_units(
                simple("Energy", "Uint64", (9_007_199_254_740_993 + round).to_string()),
                "Wh",
            )],
        },
        2 => Said {
            device: "Thermometer-01",
            profile: "Thermometer",
            source: "Temperature",
            generation: v4,
            readings: vec![with_units(float("Temperature", 21.5 + 2.0 * angle.sin()), "°C")],
        },
        3 => Said {
            device: "Pump-01",
            profile: "Pump",
            source: "Status",
            generation: v4,
            readings: pump(round, angle),
        },
        _ => Said {
            device: HEARTBEAT,
            profile: "Heartbeat",
            source: "Beat",
            generation: v4,
            readings: vec![simple("Beat", "Uint32", (round % 1_000_000).to_string())],
        },
    }
}

/// Several readings of one moment, with units and tags.
fn pump(round: u64, angle: f64) -> Vec<Reading> {
    let mut readings = vec![
        simple("Running", "Bool", "true".to_owned()),
        with_units(simple("Speed", "Int32", (1_450 + round % 50).to_string()), "rpm"),
        with_units(float("Flow", 12.0 + angle.cos()), "l/min"),
        with_units(float("Pressure", 2.4 + 0.2 * angle.sin()), "bar"),
    ];
    for reading in &mut readings {
        reading.tags.insert("site".to_owned(), "basement".into());
    }
    readings
}

fn simple(resource: &str, value_type: &str, value: String) -> Reading {
    Reading {
        resource_name: resource.to_owned(),
        value_type: value_type.to_owned(),
        value: ReadingValue::Simple(value),
        ..Reading::default()
    }
}

fn float(resource: &str, value: f64) -> Reading {
    Reading {
        value: ReadingValue::float64(value, Generation::V4),
        ..simple(resource, "Float64", String::new())
    }
}

fn with_units(reading: Reading, units: &str) -> Reading {
    Reading {
        units: units.to_owned(),
        ..reading
    }
}

fn now() -> Result<i64> {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock stands before 1970")?;
    i64::try_from(since.as_nanos()).context("the clock stands beyond 2262")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_its_turn_and_one_speaks_as_edgex_3() {
        let said: Vec<(String, MessageEnvelope)> = (0..DEVICES)
            .map(|turn| message(turn, 1).unwrap())
            .map(|(topic, payload)| (topic, MessageEnvelope::from_json(&payload).unwrap()))
            .collect();

        let mut devices: Vec<&str> = said
            .iter()
            .filter_map(|(topic, _)| topic.split('/').nth(5))
            .collect();
        devices.sort_unstable();
        assert_eq!(
            devices,
            ["Door-01", HEARTBEAT, "Meter-01", "Pump-01", "Thermometer-01"]
        );
        let base64 = said
            .iter()
            .filter(|(_, envelope)| matches!(envelope.payload, Payload::Bytes(_)))
            .count();
        assert_eq!(base64, 1);
    }
}
