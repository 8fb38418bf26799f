//! Data recorded from EdgeX itself (app-service-configurable 3.1.1 and 4.0.1 with their core services), in
//! `tests/fixtures`. Owns the reading of it; what "the same" means is for the test to say.
//!
//! About a quarter of the recordings was set apart for another check, so the numbering has gaps. Random or timed parts
//! of outputs (new ids, random IVs, XML attributes from a Go map) cannot be compared byte by byte.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::{self, Headers, Response};

/// Which EdgeX a recording comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// EdgeX 3.1, with Consul.
    V3,
    /// EdgeX 4.0, with Core Keeper.
    V4,
}

impl Generation {
    /// Both, for tests that go through everything.
    pub const ALL: [Self; 2] = [Self::V3, Self::V4];
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V3 => "v3",
            Self::V4 => "v4",
        })
    }
}

/// The folder of a generation's recordings, or a file in it: `path(Generation::V3, "config/http-export")`.
pub fn path(generation: Generation, inside: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(generation.to_string())
        .join(inside)
}

/// A file of a generation's recordings.
///
/// # Errors
/// When it cannot be read; with its path, as in all functions here.
pub fn read(generation: Generation, inside: &str) -> Result<Bytes> {
    read_file(&path(generation, inside))
}

/// A message as it was on the bus.
#[derive(Debug, Clone)]
pub struct RecordedMessage {
    /// Its number in the recording.
    pub number: u32,
    /// The name of its file: number, kind, encoding and what it is about.
    pub file: String,
    /// The topic it was published to.
    pub topic: String,
    /// The QoS it was published with.
    pub qos: u8,
    /// Whether the broker kept it.
    pub retained: bool,
    /// How the publisher was set: `json`, `cbor`, `base64` or `base64cbor`.
    pub encoding: String,
    /// The content type that the envelope states.
    pub content_type: String,
    /// What the envelope's payload is: `str` (base64), `dict` (a JSON object) or `NoneType` (null).
    pub payload_is: String,
    /// The whole MQTT payload, envelope included.
    pub payload: Bytes,
}

/// Every recorded message of a generation, by number.
///
/// # Errors
/// When a file is missing or not of the recorded shape.
pub fn messages(generation: Generation) -> Result<Vec<RecordedMessage>> {
    let folder = path(generation, "messages");
    let entries = message_entries(&folder)?;
    entries.into_iter().map(|entry| entry.load(&folder)).collect()
}

/// The message of a case of [`recorded_messages!`](crate::recorded_messages).
///
/// # Errors
/// As [`messages`], and when there is no such case.
pub fn message(generation: Generation, case: &str) -> Result<RecordedMessage> {
    let folder = path(generation, "messages");
    let entries = message_entries(&folder)?;
    let entry = entries
        .into_iter()
        .find(|entry| message_case(&entry.file) == case);
    entry
        .with_context(|| format!("{generation} has no {case}"))?
        .load(&folder)
}

/// The name of a test about a recorded message: that of its file without the ending, as an identifier, which cannot
/// begin with a number.
pub fn message_case(file: &str) -> String {
    format!("message_{}", file.trim_end_matches(".payload").replace('-', "_"))
}

/// `messages/index.json` as it stands in the folder.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageEntry {
    n: u32,
    file: String,
    topic: String,
    qos: u8,
    retained: bool,
    encoding: String,
    content_type: String,
    payload_is: String,
}

impl MessageEntry {
    fn load(self, folder: &Path) -> Result<RecordedMessage> {
        Ok(RecordedMessage {
            number: self.n,
            payload: read_file(&folder.join(&self.file))?,
            file: self.file,
            topic: self.topic,
            qos: self.qos,
            retained: self.retained,
            encoding: self.encoding,
            content_type: self.content_type,
            payload_is: self.payload_is,
        })
    }
}

fn message_entries(folder: &Path) -> Result<Vec<MessageEntry>> {
    read_json(&folder.join("index.json"))
}

/// One configured service with the inputs it was given and everything it sent for them.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The name of the case, and of its folder.
    pub name: String,
    /// What it shows.
    pub description: String,
    /// The service key it ran under.
    pub service_key: String,
    /// Its private configuration, `configuration.yaml`; the common one is `config/common-as-used-for-pairs.yaml`.
    pub configuration: PathBuf,
    /// Whether every step depends on those before it. Otherwise each stands alone.
    pub stateful: bool,
    /// The status the HTTP sink answered, 200 unless the case is about another.
    pub sink_answers: u16,
    /// What it logged when it refused to start; then there are no steps.
    pub startup_log: Vec<String>,
    /// The inputs in order.
    pub steps: Vec<Step>,
}

/// One input.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its number; there are gaps.
    pub number: u32,
    /// The topic the input was published to.
    pub topic: String,
    /// The QoS it was published with.
    pub qos: u8,
    /// The whole MQTT payload.
    pub input: Bytes,
    /// Everything that was sent because of it, in order. Empty means that nothing was sent: filtered, refused, or still
    /// in a batch.
    pub outputs: Vec<Output>,
    /// What the service logged meanwhile.
    pub log: Vec<String>,
}

/// Something the service sent.
#[derive(Debug, Clone)]
pub enum Output {
    /// A request to the HTTP sink.
    Http {
        /// `POST` or `PUT`.
        method: String,
        /// The path with its query.
        target: String,
        /// The header fields in order.
        headers: Headers,
        /// The status it was answered.
        answered_status: u16,
        /// The whole body.
        body: Bytes,
        /// For encrypted bodies, what they decrypt to.
        decrypted: Option<Bytes>,
    },
    /// A message to the broker.
    Mqtt {
        /// The topic.
        topic: String,
        /// The QoS.
        qos: u8,
        /// The retain flag.
        retained: bool,
        /// The whole payload.
        payload: Bytes,
    },
}

/// Every case of a generation, by name.
///
/// # Errors
/// When a file is missing or not of the recorded shape.
pub fn pairs(generation: Generation) -> Result<Vec<Pair>> {
    let folder = path(generation, "pairs");
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    let names = read().with_context(|| format!("listing {}", folder.display()))?;
    names.iter().map(|name| pair(generation, name)).collect()
}

/// One case.
///
/// # Errors
/// As [`pairs`].
pub fn pair(generation: Generation, name: &str) -> Result<Pair> {
    let folder = path(generation, "pairs").join(name);
    let case: CaseFile = read_json(&folder.join("case.json"))?;
    let steps = case
        .steps
        .into_iter()
        .map(|step| load_step(&folder, step))
        .collect::<Result<_>>()?;
    Ok(Pair {
        name: case.case,
        description: case.description,
        service_key: case.service_key,
        configuration: folder.join("configuration.yaml"),
        stateful: case.stateful,
        sink_answers: case.sink_answers,
        startup_log: case.startup_log,
        steps,
    })
}

/// The keys of Consul right after a whole EdgeX 3.1 had come up (`consul kv export edgex/`), with their values.
///
/// # Errors
/// When the file is missing or not of that shape.
pub fn consul_export() -> Result<BTreeMap<String, Bytes>> {
    #[derive(Deserialize)]
    struct Entry {
        key: String,
        value: String,
    }
    let entries: Vec<Entry> = read_json(&path(Generation::V3, "consul/kv-export.json"))?;
    let decode = |entry: Entry| {
        let value = base64_simd::STANDARD.decode_to_vec(entry.value);
        Ok((entry.key, value.context("decoding a value of the export")?.into()))
    };
    entries.into_iter().map(decode).collect()
}

/// One request over HTTP and what was answered.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// `GET`, `PUT`, …
    pub method: String,
    /// The path with its query, as sent.
    pub target: String,
    /// The header fields of the request in order.
    pub headers: Headers,
    /// The body of the request.
    pub body: Bytes,
    /// The answer.
    pub response: Response,
}

/// What went over one recorded connection to Core Keeper (`wire/cp/<name>.c2s` and `.s2c`), in order.
///
/// # Errors
/// When a file is missing or no HTTP.
pub async fn exchanges(name: &str) -> Result<Vec<Exchange>> {
    let requests = read(Generation::V4, &format!("wire/cp/{name}.c2s"))?;
    let responses = read(Generation::V4, &format!("wire/cp/{name}.s2c"))?;
    let (mut requests, mut responses) = (&requests[..], &responses[..]);
    let mut exchanges = Vec::new();
    while let Some(head) = http::read_head(&mut requests).await? {
        let mut words = head.start_line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body = http::read_body(&mut requests, &head.headers, false).await?;
        let response = http::read_response(&mut responses).await?;
        exchanges.push(Exchange {
            method,
            target,
            headers: head.headers,
            body,
            response,
        });
    }
    Ok(exchanges)
}

/// `case.json` as it stands in the folder.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CaseFile {
    case: String,
    description: String,
    service_key: String,
    stateful: bool,
    #[serde(default = "answered_unless_told")]
    sink_answers: u16,
    #[serde(default)]
    startup_log: Vec<String>,
    steps: Vec<StepFile>,
}

fn answered_unless_told() -> u16 {
    200
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StepFile {
    step: u32,
    input_topic: String,
    input_qos: u8,
    input_file: String,
    outputs: Vec<OutputFile>,
    log: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "via", rename_all = "lowercase", rename_all_fields = "camelCase")]
enum OutputFile {
    Http {
        file: String,
        method: String,
        target: String,
        headers: Headers,
        answered_status: u16,
    },
    Mqtt {
        file: String,
        topic: String,
        qos: u8,
        retained: bool,
    },
}

fn load_step(folder: &Path, step: StepFile) -> Result<Step> {
    let outputs = step
        .outputs
        .into_iter()
        .map(|output| load_output(folder, output))
        .collect::<Result<_>>()?;
    Ok(Step {
        number: step.step,
        topic: step.input_topic,
        qos: step.input_qos,
        input: read_file(&folder.join(step.input_file))?,
        outputs,
        log: step.log,
    })
}

fn load_output(folder: &Path, output: OutputFile) -> Result<Output> {
    Ok(match output {
        OutputFile::Http {
            file,
            method,
            target,
            headers,
            answered_status,
        } => {
            let body = folder.join(file);
            let decrypted = body.with_extension("decrypted");
            let decrypted = if decrypted.exists() {
                Some(read_file(&decrypted)?)
            } else {
                None
            };
            Output::Http {
                method,
                target,
                headers,
                answered_status,
                body: read_file(&body)?,
                decrypted,
            }
        }
        OutputFile::Mqtt {
            file,
            topic,
            qos,
            retained,
        } => Output::Mqtt {
            topic,
            qos,
            retained,
            payload: read_file(&folder.join(file))?,
        },
    })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let content = read_file(path)?;
    serde_json::from_slice(&content).with_context(|| format!("parsing {}", path.display()))
}

fn read_file(path: &Path) -> Result<Bytes> {
    let content = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(content.into())
}
