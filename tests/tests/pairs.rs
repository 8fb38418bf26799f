//! What app-service-configurable sent for known inputs, and what we send: method, target, headers and body of requests,
//! topic, flags and envelope of responses on the bus, byte for byte: a test for each recorded case, by its name.
//!
//! Not compared: the bytes of compression (what they decompress to is), initialization vectors (what bodies decrypt to is),
//! ids and times of wrapped events (that they are such is), the order of tags in XML and lines, the escapes that the original
//! leaves out of lines, and integers that it rounded, where the input's own value has to come out.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64_simd::STANDARD;
use bytes::Bytes;
use edgehold_test_support::fixtures::{self, Generation, Output, Pair, Step};
use edgehold_test_support::wait::LONG;
use edgehold_test_support::{
    Answer, Behaviour, HttpSink, Message, Mosquitto, MqttPublisher, MqttSubscriber, Qos, aes256, http,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{END, Service, broker, start_subscribed_to};

/// A test for each case; `-` in its name is `_` here.
macro_rules! a_test_each {
    ($($module:ident $generation:ident: [$($case:ident)*])*) => {
        $(mod $module {
            use edgehold_test_support::fixtures::Generation;

            $(#[tokio::test]
            async fn $case() -> anyhow::Result<()> {
                super::gives_the_same_outputs(Generation::$generation, stringify!($case)).await
            })*
        })*

        const TESTED: &[(Generation, &[&str])] = &[$((Generation::$generation, &[$(stringify!($case)),*])),*];
    };
}

a_test_each! {
    v3 V3: [
        addtags
        addtags_bad_spec
        addtags_empty
        addtags_xml
        batch_bycount_both_a
        batch_bycount_event_merge_a
        batch_bycount_event_plain_a
        batch_bycount_iseventdata_a
        batch_bycount_iseventdata_after_json_a
        batch_bycount_merge_a
        batch_bycount_merge_b
        batch_bycount_raw_a
        batch_bytime_a
        batch_bytimecount_a
        batch_compress_a
        batch_xml_merge_a
        compress_gzip
        compress_gzip_event
        compress_zlib
        encrypt_aes256
        external_mqtt_trigger_raw
        external_mqtt_trigger_response
        filter_chain_xml
        filter_device
        filter_device_empty
        filter_profile
        filter_profile_out
        filter_resource
        filter_resource_out
        filter_source
        http_chain_continue_on_error
        http_chain_response
        http_chain_return_input
        http_error_500
        http_export_bad_input
        http_export_cbor_input
        http_export_default
        http_persist_and_continue
        http_put_secret_header
        http_redirect_302
        http_url_placeholder
        http_url_unknown_placeholder
        jsonlogic_device
        jsonlogic_in
        jsonlogic_not_boolean
        jsonlogic_some
        jsonlogic_syntax
        jsonlogic_value
        metrics_influxdb_batch_a
        metrics_lineprotocol
        metrics_lineprotocol_tags
        mqtt_export
        mqtt_export_placeholder
        per_topic_pipelines
        per_topic_pipelines_noprefix
        raw_target
        response_publish
        response_publish_xml
        transform_json
        transform_xml
        wrap_into_event_binary
        wrap_into_event_object
        wrap_into_event_string
        xml_compress_encrypt
    ]
    v4 V4: [
        addtags
        addtags_bad_spec
        addtags_empty
        addtags_xml
        batch_bycount_both_a
        batch_bycount_event_merge_a
        batch_bycount_event_plain_a
        batch_bycount_iseventdata_a
        batch_bycount_iseventdata_after_json_a
        batch_bycount_merge_a
        batch_bycount_merge_b
        batch_bycount_raw_a
        batch_bytime_a
        batch_bytimecount_a
        batch_compress_a
        batch_xml_merge_a
        compress_gzip
        compress_gzip_event
        compress_zlib
        encrypt_aes256
        external_mqtt_trigger_raw
        external_mqtt_trigger_response
        filter_chain_xml
        filter_device
        filter_device_empty
        filter_profile
        filter_profile_out
        filter_resource
        filter_resource_out
        filter_source
        http_chain_continue_on_error
        http_chain_response
        http_chain_return_input
        http_error_500
        http_export_bad_input
        http_export_base64_input
        http_export_cbor_input
        http_export_default
        http_persist_and_continue
        http_put_secret_header
        http_redirect_302
        http_url_placeholder
        http_url_unknown_placeholder
        jsonlogic_device
        jsonlogic_in
        jsonlogic_not_boolean
        jsonlogic_some
        jsonlogic_syntax
        jsonlogic_value
        metrics_influxdb_batch_a
        metrics_lineprotocol
        metrics_lineprotocol_tags
        mqtt_export
        mqtt_export_placeholder
        per_topic_pipelines
        per_topic_pipelines_noprefix
        raw_target
        response_publish
        response_publish_xml
        transform_json
        transform_xml
        wrap_into_event_binary
        wrap_into_event_object
        wrap_into_event_string
        xml_compress_encrypt
    ]
}

/// Cases whose configuration the original loads, to fail for each message. We refuse it when it is loaded.
const REFUSED_AT_ONCE: &[&str] = &["jsonlogic-syntax"];

/// Where every recorded `PublishTopic` lies, and where the service listens: on the bus, and at an external broker. And
/// where every recorded export to a broker goes, from the bus.
const BUS_TOPICS: (&str, &str) = ("edgex/cap-out", "edgex/");
const EXPORT_TOPICS: (&str, &str) = ("exp", "edgex/");
const EXTERNAL_TOPICS: (&str, &str) = ("cap-ext", "external-request/");

/// Header fields that belong to the client or the connection, or are ours beyond the original's.
const NOT_COMPARED: &[&str] = &[
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "content-length",
    "idempotency-key",
];

#[test]
fn every_recorded_case_is_tested() -> Result<()> {
    for (generation, tested) in TESTED {
        let listed: Vec<String> = tested.iter().map(|case| case.replace('_', "-")).collect();
        let recorded: BTreeSet<String> = fixtures::pairs(*generation)?
            .into_iter()
            .map(|pair| pair.name)
            .collect();
        assert_eq!(
            BTreeSet::from_iter(listed.iter().cloned()),
            recorded,
            "{generation}"
        );
        assert_eq!(listed.len(), recorded.len(), "{generation} lists a case twice");
    }
    Ok(())
}

async fn gives_the_same_outputs(generation: Generation, case: &str) -> Result<()> {
    let pair = fixtures::pair(generation, &case.replace('_', "-"))?;
    let configuration = std::fs::read_to_string(&pair.configuration).context("reading its configuration")?;
    let problems = run_case(generation, &pair, &configuration, &mut broker().await?).await?;
    assert!(
        problems.is_empty(),
        "{generation} {}: {}\n{}",
        pair.name,
        pair.description,
        problems.join("\n")
    );
    Ok(())
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
    let yardstick = Yardstick::of(configuration);
    let folder = TempDir::with_prefix("edgehold-pair-").context("making the folder of a case")?;
    // In two steps, because a port of ours may be one that was recorded.
    let configuration = configuration
        .replace("127.0.0.1:27780", "<sink>")
        .replace("127.0.0.1:27781", "<sink>")
        .replace("127.0.0.1:21883", "<broker>")
        .replace("127.0.0.1:21884", "<broker>")
        .replace("<sink>", &format!("127.0.0.1:{}", sink.port()))
        .replace("<broker>", &format!("127.0.0.1:{}", broker.port()))
        // Of a batch: however busy this machine is, its steps come within it.
        .replace("TimeInterval: 2s", "TimeInterval: 5s");
    std::fs::write(folder.path().join("configuration.yaml"), configuration)?;
    let mut service = service(generation, pair, folder.path(), broker.port())?;
    let at_once = REFUSED_AT_ONCE.contains(&&*pair.name);
    if !pair.startup_log.is_empty() || at_once {
        ensure!(
            !at_once || pair.steps.iter().all(|step| step.outputs.is_empty()),
            "the original sends something"
        );
        service.spawn()?;
        let status = service.process().wait_exit(END).await;
        let refused = if status.success() {
            Some(format!("{}: it starts", pair.name))
        } else {
            None
        };
        return Ok(refused.into_iter().collect());
    }
    let (response_topic, subscribed) = match yardstick.is_external {
        true => EXTERNAL_TOPICS,
        false if yardstick.publishes => EXPORT_TOPICS,
        false => BUS_TOPICS,
    };
    start_subscribed_to(&mut service, broker, subscribed)
        .await
        .with_context(|| pair.name.clone())?;

    let responses =
        MqttSubscriber::connect(broker.port(), &format!("{response_topic}/#"), Qos::AtLeastOnce).await?;

    // When its inputs come one after the other, then each gives what was recorded.
    let mut problems = Vec::new();
    let mut responses_taken = 0;
    let mut publisher = MqttPublisher::connect(broker.port()).await?;
    let mut begun = 0;
    // What the outputs of a step may be made of.
    let mut inputs = Vec::new();
    for (step, received) in pair.steps.iter().zip(1..) {
        let step = &with_what_we_read_beyond(pair, step)?;
        if !pair.stateful {
            inputs.clear();
        }
        inputs.push(readable_input(&step.input));
        let step = &without_what_others_published(step, &inputs);
        publisher
            .publish(&step.topic, &step.input, Qos::AtLeastOnce)
            .await?;
        // One delivery may begin several runs, so that their number alone does not tell that this one's have begun.
        let what = "every run of the input to have ended";
        let stats = service
            .wait_stats(what, |stats| stats.all_ended(received) && stats.begun() > begun)
            .await;
        begun = stats.begun();
        let is_request = |output: &&Output| matches!(output, Output::Http { .. });
        if pair.stateful {
            // What comes of several steps comes when it is time, and has ended when it is there.
            let wanted = step.outputs.iter().filter(is_request).count();
            sink.wait_for(wanted, LONG).await;
            let what = "every run to have ended or to wait in a batch";
            service.wait_stats(what, |stats| stats.all_ended(received)).await;
        }
        let requests = sink.take();
        let is_response = |output: &&Output| matches!(output, Output::Mqtt { .. });
        let wanted = responses_taken + step.outputs.iter().filter(is_response).count();
        let messages = responses.wait_for(wanted, LONG).await.split_off(responses_taken);
        responses_taken += messages.len();
        for problem in [
            compare_requests(&yardstick, step, requests, &inputs.concat()).err(),
            compare_responses(step, &messages, &inputs.concat()).err(),
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
        .publish(response_topic, "the end", Qos::AtLeastOnce)
        .await?;
    let messages = responses.wait_for(responses_taken + 1, LONG).await;
    let more = messages.len() - responses_taken - 1;
    if more > 0 {
        problems.push(format!("{generation} {}: {more} responses more", pair.name));
    }
    Ok(problems)
}

/// A step with what has to come out of it: what was recorded. Where EdgeX 3 could not read an envelope of EdgeX 4 with raw
/// JSON, which we read in both generations, what it made of the same payload in base64.
fn with_what_we_read_beyond(pair: &Pair, step: &Step) -> Result<Step> {
    const NOT_READ: &str = "json: cannot unmarshal object into Go struct field MessageEnvelope.payload";
    if !step.log.iter().any(|line| line.contains(NOT_READ)) {
        return Ok(step.clone());
    }
    let payload = |step: &Step| serde_json::from_str::<Value>(&readable_input(&step.input));
    let raw: Value = serde_json::from_slice(&step.input)?;
    let mut others = pair.steps.iter();
    let in_base64 = others.find(|other| payload(other).is_ok_and(|payload| payload == raw["payload"]));
    Ok(Step {
        outputs: in_base64
            .context("no step has its payload in base64")?
            .outputs
            .clone(),
        ..step.clone()
    })
}

/// A step without the lines of other metrics than those among the inputs: while the recording ran, the services around it
/// reported theirs as well.
fn without_what_others_published(step: &Step, inputs: &[String]) -> Step {
    let metric = |input: &String| {
        let input: Value = serde_json::from_str(input).unwrap_or_default();
        let metric = input.get("payload").unwrap_or(&input);
        Some((metric["name"].as_str()?.to_owned(), metric["timestamp"].as_f64()?))
    };
    let metrics: Vec<_> = inputs.iter().filter_map(metric).collect();
    let mut step = step.clone();
    if !metrics.is_empty() {
        let is_of_inputs = |line: &str| {
            let time = line.rsplit(' ').next().and_then(|end| end.parse::<f64>().ok());
            metrics
                .iter()
                .any(|(name, timestamp)| line.starts_with(name) && time == Some(*timestamp))
        };
        step.outputs.retain(|output| match output {
            Output::Http { body, .. } => String::from_utf8_lossy(body).lines().all(is_of_inputs),
            Output::Mqtt { .. } => true,
        });
    }
    step
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
struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// What the body decrypts to, where it was recorded.
    decrypted: Option<Bytes>,
}

/// What the bodies of a case can only be compared with.
struct Yardstick<'a> {
    /// The key that its configuration encrypts with.
    key: Option<&'a str>,
    /// Whether it makes new events, whose ids and times are new too.
    makes_events: bool,
    /// Whether it makes lines.
    makes_lines: bool,
    /// Whether its trigger is another broker than the bus.
    is_external: bool,
    /// Whether it exports to a broker.
    publishes: bool,
}

impl<'a> Yardstick<'a> {
    fn of(configuration: &'a str) -> Self {
        let lines = configuration.lines();
        Self {
            key: lines.map(str::trim).find_map(|line| line.strip_prefix("key: ")),
            makes_events: configuration.contains("WrapIntoEvent"),
            makes_lines: configuration.contains("ToLineProtocol"),
            is_external: configuration.contains("Type: external-mqtt"),
            publishes: configuration.contains("BrokerAddress:"),
        }
    }

    fn same_request(&self, seen: &Request, wanted: &Request, input: &str) -> Result<()> {
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
        if let Some(wanted) = &wanted.decrypted {
            let key = self.key.context("its configuration has no key")?;
            let seen = aes256::opened(key, &seen.body).context("decrypting the body")?;
            return same_body(&seen, wanted, input);
        }
        if self.makes_events {
            let (seen, wanted) = (
                without_ids_and_times(&seen.body)?,
                without_ids_and_times(&wanted.body)?,
            );
            return same_body(seen.as_bytes(), wanted.as_bytes(), input);
        }
        if self.makes_lines {
            return same_lines(&seen.body, &wanted.body, input);
        }
        same_body(&seen.body, &wanted.body, input)
    }
}

/// Lines with the same tags in whatever order, the same fields and the same time. Ours has escapes where the original has
/// none, and the digits of the input where it rounded them.
fn same_lines(seen: &[u8], wanted: &[u8], input: &str) -> Result<()> {
    let (seen, wanted) = (std::str::from_utf8(seen)?, std::str::from_utf8(wanted)?);
    let unescaped = seen.replace("\\ ", " ");
    let (seen_words, wanted_words) = (words(&unescaped), words(wanted));
    let same_number = |seen: &str, wanted: &str| match (seen.parse::<f64>(), wanted.parse::<f64>()) {
        (Ok(number), Ok(rounded)) => number == rounded && pieces(input).contains(&seen),
        _ => false,
    };
    let same_word = |(seen, wanted): (&&str, &&str)| {
        seen == wanted
            || match (seen.split_once('='), wanted.split_once('=')) {
                (Some((field, seen)), Some((other, wanted))) => field == other && same_number(seen, wanted),
                _ => same_number(seen, wanted),
            }
    };
    let same = seen_words.len() == wanted_words.len() && seen_words.iter().zip(&wanted_words).all(same_word);
    ensure!(same, "the body is\n{seen}\ninstead of\n{wanted}");
    Ok(())
}

/// What stands between the spaces and commas of lines, sorted within each.
fn words(lines: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for line in lines.split_inclusive('\n') {
        let (content, end) = line
            .strip_suffix('\n')
            .map_or((line, ""), |content| (content, "\n"));
        let mut of_line: Vec<_> = content.split([' ', ',']).chain([end]).collect();
        of_line.sort_unstable();
        words.extend(of_line);
    }
    words
}

/// A request with a new event of one reading: its text with names in place of the three ids, which are different UUIDs,
/// and the two times, which are nanoseconds since 1970.
fn without_ids_and_times(body: &[u8]) -> Result<String> {
    let mut text = std::str::from_utf8(body)?.to_owned();
    let request: Value = serde_json::from_str(&text).context("reading a request with a new event")?;
    let mut ids = BTreeSet::new();
    for pointer in ["/requestId", "/event/id", "/event/readings/0/id"] {
        let id = request.pointer(pointer).and_then(Value::as_str);
        let id = id
            .with_context(|| format!("there is no {pointer} in {text}"))?
            .to_owned();
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        let digits = id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        ensure!(digits && groups == [8, 4, 4, 4, 12], "{pointer} is {id}, no UUID");
        text = text.replace(&id, pointer);
        ensure!(ids.insert(id), "{pointer} is that of another: {request}");
    }
    for pointer in ["/event/origin", "/event/readings/0/origin"] {
        let origin = request.pointer(pointer).and_then(Value::as_i64);
        let origin = origin.with_context(|| format!("there is no {pointer} in {text}"))?;
        ensure!(
            origin.ilog10() == 18,
            "{pointer} is {origin}, no nanoseconds of today"
        );
        text = text.replacen(&origin.to_string(), pointer, 1);
    }
    Ok(text)
}

fn compare_requests(
    yardstick: &Yardstick<'_>,
    step: &Step,
    received: Vec<edgehold_test_support::Received>,
    input: &str,
) -> Result<()> {
    let mut wanted = Vec::new();
    for output in &step.outputs {
        if let Output::Http {
            method,
            target,
            headers,
            body,
            decrypted,
            ..
        } = output
        {
            wanted.push(Request {
                decrypted: decrypted.clone(),
                ..request(method, target, headers, body)
            });
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
    for (seen, wanted) in seen.iter().zip(&wanted) {
        yardstick.same_request(seen, wanted, input)?;
    }
    Ok(())
}

/// Responses in the order they came: every recorded case with responses has one pipeline.
fn compare_responses(step: &Step, seen: &[Message], input: &str) -> Result<()> {
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
        // Only on the bus there are envelopes.
        if !topic.starts_with("edgex/") {
            same_body(&message.payload, payload, input)?;
            continue;
        }
        let (seen_rest, seen_payload) = taken_apart(&message.payload)?;
        let (wanted_rest, wanted_payload) = taken_apart(payload)?;
        ensure!(
            seen_rest == wanted_rest,
            "the envelope is {seen_rest}\ninstead of {wanted_rest}"
        );
        same_body(&seen_payload, &wanted_payload, input)?;
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
        decrypted: None,
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
    if let (Some(seen), Some(wanted)) = (items(seen), items(wanted)) {
        ensure!(
            seen.len() == wanted.len(),
            "{} items instead of {}",
            seen.len(),
            wanted.len()
        );
        let mut pairs = seen.iter().zip(&wanted);
        return pairs.try_for_each(|(seen, wanted)| same_body(seen, wanted, input));
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

/// What a JSON array of base64 texts holds.
fn items(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let texts: Vec<String> = serde_json::from_slice(body).ok()?;
    let items = texts.iter().map(|text| STANDARD.decode_to_vec(text).ok());
    items.collect()
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
