//! The REST interface as it was recorded: each exchange that app-service-configurable has had is had again with a running
//! service, a test for each by its name, and the answers are equal in status line, header fields and body.
//!
//! Not compared: `Date`, how a body is framed (`Content-Length` or chunks; that it is whole is), the time in a ping. Where
//! we answer otherwise on purpose, [`expected`] says how.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use edgehold_test_support::fixtures::{self, Generation};
use edgehold_test_support::http::{self, Response};
use edgehold_test_support::wait::LONG;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::Service;

/// A test for each exchange and generation; `-` in its name is `_` here.
macro_rules! a_test_each {
    ($($exchange:ident)*) => {
        $(mod $exchange {
            use edgehold_test_support::fixtures::Generation;

            #[tokio::test]
            async fn in_edgex_3() -> anyhow::Result<()> {
                super::is_answered_the_same(Generation::V3, stringify!($exchange)).await
            }

            #[tokio::test]
            async fn in_edgex_4() -> anyhow::Result<()> {
                super::is_answered_the_same(Generation::V4, stringify!($exchange)).await
            }
        })*

        const TESTED: &[&str] = &[$(stringify!($exchange)),*];
    };
}

a_test_each! {
    config
    cors_get
    cors_other_origin
    cors_preflight
    filter_filtered
    filter_passed
    garbage
    http10_ping
    json_float
    no_host
    options_ping
    ping
    ping_correlation
    ping_head
    ping_trailing_slash
    raw_empty
    raw_notype
    raw_text
    root
    secret_bad_json
    secret_empty_body
    secret_empty_data
    secret_empty_key
    secret_get
    secret_no_apiversion
    secret_no_name
    secret_path_chars
    secret_wrong_content_type
    trigger_array
    trigger_bad_type
    trigger_bad_value
    trigger_bare_event
    trigger_cbor_type_json_body
    trigger_charset
    trigger_empty_body
    trigger_empty_object
    trigger_get
    trigger_no_content_type
    trigger_no_correlation
    trigger_v2
    v2_ping
    version
}

#[test]
fn every_recorded_exchange_is_tested() -> Result<()> {
    let tested: BTreeSet<String> = TESTED.iter().map(|name| name.replace('_', "-")).collect();
    for generation in Generation::ALL {
        let folder = std::fs::read_dir(fixtures::path(generation, "rest"))?;
        let recorded: BTreeSet<String> = folder
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.strip_suffix(".request").map(str::to_owned))
            .collect();
        assert_eq!(tested, recorded, "{generation}");
    }
    Ok(())
}

async fn is_answered_the_same(generation: Generation, exchange: &str) -> Result<()> {
    // Given the service as it was configured for the exchange.
    let name = exchange.replace('_', "-");
    let mut service = service(generation, &name)?;
    service.start().await?;

    // When the recorded bytes come.
    let request = fixtures::read(generation, &format!("rest/{name}.request"))?;
    let mut stream = TcpStream::connect(("127.0.0.1", service.port())).await?;
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    timeout(LONG, stream.read_to_end(&mut answer))
        .await
        .context("the connection is closed after the answer")??;

    // Then the answer is the recorded one.
    let recorded = fixtures::read(generation, &format!("rest/{name}.response"))?;
    let is_head = request.starts_with(b"HEAD");
    let (expected_line, recorded) = http::parse(&recorded, is_head).await?;
    let (line, answer) = http::parse(&answer, is_head).await?;
    assert_eq!(line, expected_line);
    assert_eq!(
        fields(&answer),
        expected_fields(&name, &recorded),
        "header fields"
    );
    assert_eq!(
        body(&name, &answer)?,
        expected_body(&name, body(&name, &recorded)?)
    );
    service.stop().await
}

/// The service of an exchange: it says itself how it was configured, the beginning of the name what was different.
fn service(generation: Generation, name: &str) -> Result<Service> {
    let (number, recorded) = match generation {
        Generation::V3 => ("3", include_str!("../fixtures/v3/rest/config.response")),
        Generation::V4 => ("4", include_str!("../fixtures/v4/rest/config.response")),
    };
    let line = recorded.lines().find(|line| line.starts_with('{'));
    let mut shown: Value = serde_json::from_str(line.context("a body")?)?;
    let mut configuration = without_nulls(shown["config"].take());
    let pipeline = &mut configuration["Writable"]["Pipeline"];
    let json = json!({ "Parameters": { "type": "json" } });
    let mut key = "app-rest";
    match name.split('-').next().unwrap_or_default() {
        "cors" => {
            key = "app-rest-cors";
            configuration["Service"]["CORSConfiguration"]["EnableCORS"] = true.into();
        }
        "json" => pipeline["Functions"]["Transform"] = json,
        "filter" => {
            pipeline["ExecutionOrder"] = "FilterByDeviceName, Transform, SetResponseData".into();
            pipeline["Functions"]["FilterByDeviceName"] =
                json!({ "Parameters": { "devicenames": "Other", "filterout": "false" } });
            pipeline["Functions"]["Transform"] = json;
        }
        "raw" => {
            pipeline["TargetType"] = "raw".into();
            pipeline["ExecutionOrder"] = "SetResponseData".into();
            pipeline["Functions"]["SetResponseData"] =
                json!({ "Parameters": { "responsecontenttype": "text/plain" } });
        }
        _ => {}
    }
    let service = Service::new()?;
    let folder = service.data_dir().join("res");
    std::fs::create_dir(&folder)?;
    // JSON is YAML.
    std::fs::write(folder.join("configuration.yaml"), configuration.to_string())?;
    Ok(service
        .flag(&format!("-cd={}", folder.display()))
        .flag(&format!("-sk={key}"))
        .flag("-s")
        .env("EDGEHOLD_GENERATION", number))
}

/// A null is a map without entries there; in a file it would be an empty text.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        other => other,
    }
}

fn fields(answer: &Response) -> BTreeSet<(String, String)> {
    let fields = answer.headers.iter().map(|(name, value)| {
        let value = match name.as_str() {
            "X-Correlation-Id" if uuid_like(value) => "<a new one>",
            _ => value,
        };
        (name.clone(), value.to_owned())
    });
    fields
        .filter(|(name, _)| !["Date", "Content-Length", "Transfer-Encoding"].contains(&name.as_str()))
        .collect()
}

fn uuid_like(text: &str) -> bool {
    text.len() == 36 && text.bytes().filter(|byte| *byte == b'-').count() == 4
}

/// The recorded fields, and what is better: a missing correlation id is invented and told, by the trigger too.
fn expected_fields(name: &str, recorded: &Response) -> BTreeSet<(String, String)> {
    let mut expected: BTreeSet<(String, String)> = fields(recorded);
    let correlation = |value: &str| ("X-Correlation-Id".to_owned(), value.to_owned());
    let is_of_the_router =
        matches!(recorded.status, 404 | 405) && recorded.header("X-Correlation-Id").is_none();
    let is_of_the_trigger = ["trigger-", "json-", "filter-", "raw-"]
        .iter()
        .any(|group| name.starts_with(group))
        && !is_of_the_router;
    if expected.remove(&correlation("")) || is_of_the_trigger {
        expected.insert(correlation("<a new one>"));
    }
    if name == "garbage" {
        // What is no request is answered with its status alone.
        expected.retain(|(name, _)| name != "Content-Type");
    }
    expected
}

/// A body as it is compared: JSON that says more than its shape as a value, the time of a ping by its shape.
fn body(name: &str, answer: &Response) -> Result<Value> {
    let text = answer.text();
    if name == "config" {
        let mut shown = without_nulls(serde_json::from_str(&text)?);
        // Each test has a port of its own.
        shown["config"]["Service"]["Port"] = Value::Null;
        return Ok(shown);
    }
    let is_ping = text.starts_with(r#"{"apiVersion":"v3","timestamp":""#);
    let masked = match text.get(32..60) {
        Some(time) if is_ping => {
            let masked: String = time
                .chars()
                .map(|c| {
                    if c.is_ascii_digit() {
                        '0'
                    } else if c.is_ascii_lowercase() {
                        'a'
                    } else {
                        c
                    }
                })
                .collect();
            let masked = masked.replacen(|c: char| c.is_ascii_uppercase(), "A", 2);
            text.replacen(time, &masked, 1)
        }
        _ => text,
    };
    Ok(masked.into())
}

/// The recorded body, and what is better: no secret is shown. What is no request gets no text.
fn expected_body(name: &str, mut recorded: Value) -> Value {
    match name {
        "garbage" => return "".into(),
        "config" => {
            let secrets = &mut recorded["config"]["Writable"]["InsecureSecrets"];
            let secrets = secrets
                .as_object_mut()
                .into_iter()
                .flat_map(|map| map.values_mut());
            for secret in
                secrets.flat_map(|secret| secret["SecretData"].as_object_mut().into_iter().flatten())
            {
                *secret.1 = "<redacted>".into();
            }
        }
        _ => {}
    }
    recorded
}
