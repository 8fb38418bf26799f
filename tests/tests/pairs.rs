//! What app-service-configurable sent for known inputs, and what we send: method, target, headers and body of requests,
//! topic, flags and envelope of responses on the bus, byte for byte, of every recorded case that uses only functions
//! this build has.
//!
//! Not compared: the bytes of compression (what they decompress to is), the order of tags in XML, and integers that the
//! original rounded, where the input's own value has to come out.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64_simd::STANDARD;
use bytes::Bytes;
use edgehold_test_support::fixtures::{self, Generation, Output, Pair, Step};
use edgehold_test_support::wait::LONG;
use edgehold_test_support::{
    Answer, Behaviour, HttpSink, Message, Mosquitto, MqttPublisher, MqttSubscriber, Qos, http,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{END, Service, broker, start_subscribed};

/// The functions of this build that only need a bus and an HTTP destination.
const KNOWN: &[&str] = &[
    "FilterByProfileName",
    "FilterByDeviceName",
    "FilterBySourceName",
    "FilterByResourceName",
    "Transform",
    "AddTags",
    "Compress",
    "SetResponseData",
    "HTTPExport",
];

/// The cases that only show what a response on the bus looks like.
const RESPONSES: &[&str] = &["response-publish", "response-publish-xml"];

/// Where every recorded `PublishTopic` lies.
const RESPONSE_TOPICS: &str = "edgex/cap-out/#";

/// Header fields that belong to the client or the connection, or are ours beyond the original's.
const NOT_COMPARED: &[&str] = &[
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "content-length",
    "idempotency-key",
];

#[tokio::test]
async fn recorded_cases_of_edgex_3_give_the_same_outputs() -> Result<()> {
    same_outputs(Generation::V3).await
}

#[tokio::test]
async fn recorded_cases_of_edgex_4_give_the_same_outputs() -> Result<()> {
    same_outputs(Generation::V4).await
}

async fn same_outputs(generation: Generation) -> Result<()> {
    let mut broker = broker().await?;
    let mut compared = Vec::new();
    let mut problems = Vec::new();
    for pair in fixtures::pairs(generation)? {
        let configuration =
            std::fs::read_to_string(&pair.configuration).context("reading a configuration")?;
        if uses_only_known_functions(&configuration) {
            problems.extend(run_case(generation, &pair, &configuration, &mut broker).await?);
            compared.push(pair.name);
        }
    }
    // So that a change of the recordings' shape cannot make this test empty.
    ensure!(
        compared.len() >= 20,
        "only {} cases were compared",
        compared.len()
    );
    for case in RESPONSES {
        ensure!(
            compared.iter().any(|name| name == case),
            "{case} was not compared"
        );
    }
    assert!(
        problems.is_empty(),
        "{} cases compared:\n{}",
        compared.len(),
        problems.join("\n")
    );
    Ok(())
}

fn uses_only_known_functions(configuration: &str) -> bool {
    let orders = configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ExecutionOrder:"));
    let mut functions = orders.flat_map(|order| order.split(',')).map(str::trim);
    let other_trigger = configuration.contains("external-mqtt");
    !other_trigger && functions.all(|function| KNOWN.iter().any(|known| function.starts_with(known)))
}

/// Runs one case from its own files and tells what differs.
async fn run_case(
    generation: Generation,
    pair: &Pair,
    configuration: &str,
    broker: &mut Mosquitto,
) -> Result<Vec<String>> {
    // Given the service with the case's configuration, whose destination is ours.
    let sink = HttpSink::start().await?;
    sink.behave(answer(pair.sink_answers));
    let folder = TempDir::with_prefix("edgehold-pair-").context("making the folder of a case")?;
    let configuration = configuration
        .replace("127.0.0.1:27780", &format!("127.0.0.1:{}", sink.port()))
        .replace("127.0.0.1:27781", &format!("127.0.0.1:{}", sink.port()));
    std::fs::write(folder.path().join("configuration.yaml"), configuration)?;
    let mut service = service(generation, pair, folder.path(), broker.port())?;
    if !pair.startup_log.is_empty() {
        service.spawn()?;
        let status = service.process().wait_exit(END).await;
        let refused = if status.success() {
            Some(format!("{}: it starts", pair.name))
        } else {
            None
        };
        return Ok(refused.into_iter().collect());
    }
    start_subscribed(&mut service, broker)
        .await
        .with_context(|| pair.name.clone())?;

    let responses = MqttSubscriber::connect(broker.port(), RESPONSE_TOPICS, Qos::AtLeastOnce).await?;

    // When its inputs come one after the other, then each gives what was recorded.
    let mut problems = Vec::new();
    let mut responses_taken = 0;
    let mut publisher = MqttPublisher::connect(broker.port()).await?;
    let mut begun = 0;
    for (step, received) in pair.steps.iter().zip(1..) {
        publisher
            .publish(&step.topic, &step.input, Qos::AtLeastOnce)
            .await?;
        // One delivery may begin several runs, so that their number alone does not tell that this one's have begun.
        let what = "every run of the input to have ended";
        let stats = service
            .wait_stats(what, |stats| stats.all_ended(received) && stats.begun() > begun)
            .await;
        begun = stats.begun();
        let requests = sink.take();
        let is_response = |output: &&Output| matches!(output, Output::Mqtt { .. });
        let wanted = responses_taken + step.outputs.iter().filter(is_response).count();
        let messages = responses.wait_for(wanted, LONG).await.split_off(responses_taken);
        responses_taken += messages.len();
        for problem in [
            compare_requests(step, requests).err(),
            compare_responses(step, &messages).err(),
        ] {
            problems.extend(
                problem
                    .map(|problem| format!("{generation} {} step {}: {problem:#}", pair.name, step.number)),
            );
        }
    }
    service.stop().await.with_context(|| pair.name.clone())?;
    // Behind it nothing of the service can be on its way any more.
    publisher
        .publish(
            RESPONSE_TOPICS.trim_end_matches("/#"),
            "the end",
            Qos::AtLeastOnce,
        )
        .await?;
    let messages = responses.wait_for(responses_taken + 1, LONG).await;
    let more = messages.len() - responses_taken - 1;
    if more > 0 {
        problems.push(format!("{generation} {}: {more} responses more", pair.name));
    }
    Ok(problems)
}

fn answer(status: u16) -> Behaviour {
    // The recorded sink's answer, which a following function receives.
    Answer::new(status)
        .body(
            r#"{"ok":true}
"#,
        )
        .into()
}

fn service(generation: Generation, pair: &Pair, folder: &Path, broker_port: u16) -> Result<Service> {
    let common = fixtures::path(generation, "config/common-as-used-for-pairs.yaml");
    let number = match generation {
        Generation::V3 => "3",
        Generation::V4 => "4",
    };
    Ok(Service::new()?
        .flag(&format!("-cc={}", common.display()))
        .flag(&format!("-cd={}", folder.display()))
        .flag(&format!("-sk={}", pair.service_key))
        .env("EDGEHOLD_GENERATION", number)
        .env("MESSAGEBUS_PORT", &broker_port.to_string()))
}

/// A request as it is compared.
#[derive(Debug, PartialEq, PartialOrd)]
struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

fn compare_requests(step: &Step, received: Vec<edgehold_test_support::Received>) -> Result<()> {
    let mut wanted = Vec::new();
    for output in &step.outputs {
        if let Output::Http {
            method,
            target,
            headers,
            body,
            ..
        } = output
        {
            wanted.push(request(method, target, headers, body));
        }
    }
    let seen = received
        .iter()
        .map(|seen| request(&seen.method, &seen.target, &seen.headers, &seen.body));
    let mut seen: Vec<Request> = seen.collect();
    ensure!(
        seen.len() == wanted.len(),
        "{} requests instead of {}",
        seen.len(),
        wanted.len()
    );
    // Pipelines run side by side: their order means nothing, that within one is told by the targets' own.
    if wanted.iter().any(|request| request.target != wanted[0].target) {
        let by_target = |a: &Request, b: &Request| a.target.cmp(&b.target);
        wanted.sort_by(by_target);
        seen.sort_by(by_target);
    }
    let input = readable_input(&step.input);
    for (seen, wanted) in seen.iter().zip(&wanted) {
        ensure!(
            (&seen.method, &seen.target, &seen.headers) == (&wanted.method, &wanted.target, &wanted.headers),
            "sent {} {} {:?}\ninstead of {} {} {:?}",
            seen.method,
            seen.target,
            seen.headers,
            wanted.method,
            wanted.target,
            wanted.headers
        );
        same_body(&seen.body, &wanted.body, &input)?;
    }
    Ok(())
}

/// Responses in the order they came: every recorded case with responses has one pipeline.
fn compare_responses(step: &Step, seen: &[Message]) -> Result<()> {
    let mut wanted = Vec::new();
    for output in &step.outputs {
        if let Output::Mqtt {
            topic,
            qos,
            retained,
            payload,
        } = output
        {
            wanted.push((topic, *qos, *retained, payload));
        }
    }
    ensure!(
        seen.len() == wanted.len(),
        "{} responses instead of {}",
        seen.len(),
        wanted.len()
    );
    let input = readable_input(&step.input);
    for (message, (topic, qos, retained, payload)) in seen.iter().zip(wanted) {
        let seen_qos = match message.qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce => 1,
            Qos::ExactlyOnce => 2,
        };
        ensure!(
            (&message.topic, seen_qos, message.retained) == (topic, qos, retained),
            "published to {} at {seen_qos}, retained {}\ninstead of {topic} at {qos}, retained {retained}",
            message.topic,
            message.retained,
        );
        let (seen_rest, seen_payload) = taken_apart(&message.payload)?;
        let (wanted_rest, wanted_payload) = taken_apart(payload)?;
        ensure!(
            seen_rest == wanted_rest,
            "the envelope is {seen_rest}\ninstead of {wanted_rest}"
        );
        same_body(&seen_payload, &wanted_payload, &input)?;
    }
    Ok(())
}

/// The text of an envelope without its payload, and the bytes that its payload is the base64 of.
fn taken_apart(envelope: &[u8]) -> Result<(String, Vec<u8>)> {
    let fields: Value = serde_json::from_slice(envelope).context("reading an envelope")?;
    let base64 = fields["payload"].as_str().context("the payload is no text")?;
    let payload = STANDARD
        .decode_to_vec(base64)
        .context("the payload is not base64")?;
    let rest = std::str::from_utf8(envelope)?.replacen(base64, "", 1);
    Ok((rest, payload))
}

fn request(method: &str, target: &str, headers: &http::Headers, body: &Bytes) -> Request {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.clone()));
    let mut headers: Vec<_> = headers
        .filter(|(name, _)| !NOT_COMPARED.contains(&name.as_str()))
        .collect();
    headers.sort();
    Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body: body.clone(),
    }
}

/// The text the numbers of an input stand in; empty where it is CBOR, whose numbers nobody rounded.
fn readable_input(input: &[u8]) -> String {
    let envelope: Value = serde_json::from_slice(input).unwrap_or_default();
    let text = match &envelope["payload"] {
        Value::String(base64) => STANDARD.decode_to_vec(base64).unwrap_or_default(),
        _ => input.to_vec(),
    };
    String::from_utf8(text).unwrap_or_default()
}

fn same_body(seen: &[u8], wanted: &[u8], input: &str) -> Result<()> {
    if seen == wanted {
        return Ok(());
    }
    if let (Some(seen), Some(wanted)) = (decompressed(seen), decompressed(wanted)) {
        return same_body(&seen, &wanted, input);
    }
    let (seen, wanted) = (String::from_utf8_lossy(seen), String::from_utf8_lossy(wanted));
    let (sorted_seen, sorted_wanted) = (sorted_tags(&seen), sorted_tags(&wanted));
    let (seen_pieces, wanted_pieces) = (pieces(&sorted_seen), pieces(&sorted_wanted));
    let same = seen_pieces.len() == wanted_pieces.len()
        && seen_pieces.iter().zip(&wanted_pieces).all(|(seen, wanted)| {
            seen == wanted || (rounds_to(seen, wanted) && pieces(input).contains(seen))
        });
    ensure!(same, "the body is\n{seen}\ninstead of\n{wanted}");
    Ok(())
}

/// What base64 over gzip or zlib holds.
fn decompressed(body: &[u8]) -> Option<Vec<u8>> {
    let compressed = STANDARD.decode_to_vec(body).ok()?;
    let mut content = Vec::new();
    match compressed.first()? {
        0x1F => flate2::read::GzDecoder::new(&*compressed)
            .read_to_end(&mut content)
            .ok()?,
        _ => flate2::read::ZlibDecoder::new(&*compressed)
            .read_to_end(&mut content)
            .ok()?,
    };
    Some(content)
}

/// A text with the entries of each XML element `Tags` sorted: their order is that of a Go map.
fn sorted_tags(text: &str) -> String {
    const OPEN: &str = "<Tags>";
    let Some((before, rest)) = text.split_once(OPEN) else {
        return text.to_owned();
    };
    let Some((tags, after)) = rest.split_once("</Tags>") else {
        return text.to_owned();
    };
    let mut entries: Vec<&str> = tags.trim_matches(['<', '>']).split("><").collect();
    entries.sort_unstable();
    format!(
        "{before}{OPEN}{}</Tags>{}",
        entries.join("><"),
        sorted_tags(after)
    )
}

/// A text cut between digits and everything else.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = first.is_ascii_digit();
        let end = rest
            .find(|c: char| c.is_ascii_digit() != digits)
            .unwrap_or(rest.len());
        let (piece, behind) = rest.split_at(end);
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// Whether an integer becomes the other one when it goes through a double.
fn rounds_to(exact: &str, rounded: &str) -> bool {
    match (exact.parse::<u64>(), exact.parse::<f64>(), rounded.parse::<f64>()) {
        (Ok(integer), Ok(exact), Ok(rounded)) => integer > 1 << 53 && exact == rounded,
        _ => false,
    }
}
