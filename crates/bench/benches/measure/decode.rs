//! What one event costs to decode: envelope and event, as recorded from EdgeX, on one core.

use std::hint::black_box;

use anyhow::{Context, Result};
use edgehold_bench::report::Rate;
use edgehold_contracts::{MessageEnvelope, decode_event};
use edgehold_test_support::fixtures::{self, Generation};
use tokio::time::Instant;

/// How often all recorded events of a kind are decoded.
const ROUNDS: usize = 2_000;

/// Each kind of recorded event: which generation, what its file names contain, what it is called.
const KINDS: [(Generation, &str, &str); 3] = [
    (
        Generation::V3,
        "events-device-json-",
        "decode, EdgeX 3.1 JSON in base64",
    ),
    (
        Generation::V4,
        "events-device-json-",
        "decode, EdgeX 4 JSON as itself",
    ),
    (Generation::V4, "events-device-cbor-", "decode, CBOR in base64"),
];

/// Decodes recorded events of every kind.
///
/// # Errors
/// A recorded event that cannot be decoded.
pub(crate) fn rates() -> Result<Vec<Rate>> {
    KINDS
        .into_iter()
        .map(|(generation, files, name)| rate(generation, files, name))
        .collect()
}

fn rate(generation: Generation, files: &str, name: &str) -> Result<Rate> {
    let recorded = fixtures::messages(generation)?;
    let messages: Vec<_> = recorded
        .iter()
        // Pictures of 20 kB are another matter than readings.
        .filter(|message| message.file.contains(files) && !message.file.contains("Binary"))
        .map(|message| &message.payload)
        .collect();
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        for message in &messages {
            let envelope = MessageEnvelope::from_json(message)?;
            let event = decode_event(envelope.payload_bytes()?, &envelope.content_type);
            black_box(event.with_context(|| format!("a recorded event of {files} is not one"))?);
        }
    }
    let elapsed = begin.elapsed();
    let events = ROUNDS * messages.len();
    // One core does nothing else: what it took is what it cost.
    Ok(Rate {
        name: name.to_owned(),
        sent: events,
        arrived: events,
        elapsed,
        cpu: Some(elapsed),
        compared_with: Vec::new(),
    })
}
