//! The HTTP trigger end to end: the original's own `functional-tests` profile, unmodified, answers as the original was
//! recorded to answer; and what becomes of data that cannot be sent on.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures::{self, Generation};
use edgehold_test_support::{Answer, Behaviour, HttpSink, http};
use serde_json::Value;

use crate::profiles::profile;
use crate::support::{Service, event, exported_id, refusing};

/// The `functional-tests` profile with another way through the functions it has.
fn exporting(sink: &HttpSink) -> Result<Service> {
    let parameters = "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_";
    Ok(profile(Generation::V4, "functional-tests")?
        .env("WRITABLE_PIPELINE_EXECUTIONORDER", "HTTPExport, SetResponseData")
        .env(&format!("{parameters}URL"), &sink.url("/export")))
}

async fn post(service: &Service, event: &Value) -> Result<http::Response> {
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Correlation-ID", "corr-1"),
    ];
    let body = event.to_string();
    http::send(
        service.port(),
        "POST",
        "/api/v3/trigger",
        &headers,
        body.as_bytes(),
    )
    .await
}

#[tokio::test]
async fn recorded_requests_are_answered_as_recorded_in_edgex_3() -> Result<()> {
    answers_are_equal(Generation::V3).await
}

#[tokio::test]
async fn recorded_requests_are_answered_as_recorded_in_edgex_4() -> Result<()> {
    answers_are_equal(Generation::V4).await
}

async fn answers_are_equal(generation: Generation) -> Result<()> {
    // Given the profile as it is.
    let mut service = profile(generation, "functional-tests")?;
    service.start().await?;

    // When each recorded request comes.
    let names = recorded(generation)?;
    let mut accepted = 0;
    for name in &names {
        let exchange = |kind: &str| Exchange::read(generation, &format!("rest/{name}.{kind}"));
        let (request, expected) = (exchange("request")?, exchange("response")?);
        let headers: Vec<(&str, &str)> = request
            .headers
            .iter()
            .filter(|(field, _)| field == "content-type")
            .map(|(field, value)| (field.as_str(), value.as_str()))
            .collect();
        let answer = http::send(service.port(), "POST", "/api/v3/trigger", &headers, &request.body).await?;

        // Then status, content type and body are as recorded.
        let status = expected.start.split(' ').nth(1).context("a status line")?;
        assert_eq!(answer.status.to_string(), status, "{name}: {}", answer.text());
        let body = String::from_utf8_lossy(&expected.body).into_owned();
        assert_eq!(answer.text(), body, "{name}");
        for field in ["content-type", "content-length"] {
            assert_eq!(answer.header(field), expected.header(field), "{name}: {field}");
        }
        accepted += u64::from(answer.status == 200);
    }

    // And all of it is in the books; what the client was told is not kept as well.
    let stats = service.stats().await?;
    let (all, undecodable) = (names.len() as u64, names.len() as u64 - accepted);
    assert_eq!(stats.books("received"), all, "{stats:?}");
    assert_eq!(stats.books("undecodable"), undecodable, "{stats:?}");
    assert_eq!(stats.books("completed"), accepted, "{stats:?}");
    service.stop().await
}

/// The names of the recorded exchanges with the trigger.
fn recorded(generation: Generation) -> Result<BTreeSet<String>> {
    let folder = std::fs::read_dir(fixtures::path(generation, "rest"))?;
    let names: BTreeSet<String> = folder
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".request").map(str::to_owned))
        .filter(|name| name.starts_with("trigger-"))
        .collect();
    ensure!(names.len() >= 8, "only {names:?} are recorded");
    Ok(names)
}

/// A recorded message: start line, header fields with their names in lower case, body.
struct Exchange {
    start: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Exchange {
    fn read(generation: Generation, inside: &str) -> Result<Self> {
        let bytes = fixtures::read(generation, inside)?;
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.with_context(|| format!("{inside} has no end of headers"))?;
        let head = std::str::from_utf8(&bytes[..end])?;
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(field, value)| (field.to_lowercase(), value.to_owned()))
            .collect();
        let body = bytes[end + 4..].to_vec();
        Ok(Self { start, headers, body })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let field = self.headers.iter().find(|(field, _)| field == name);
        field.map(|(_, value)| value.as_str())
    }
}

#[tokio::test]
async fn a_failed_export_that_nobody_keeps_is_422() -> Result<()> {
    let sink = HttpSink::start().await?;
    let mut service = exporting(&sink)?;
    service.start().await?;
    sink.script(|_| refusing());
    let answer = post(&service, &event(1)).await?;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("503"), "{}", answer.text());
    assert_eq!(service.stats().await?.books("dropped"), 1);
    service.stop().await
}

#[tokio::test]
async fn a_failed_export_that_is_stored_is_202_and_arrives_once() -> Result<()> {
    // Given a destination that is down, and Store and Forward.
    let sink = HttpSink::start().await?;
    let mut service = exporting(&sink)?
        .env("DATABASE_TYPE", "sqlite")
        .env("WRITABLE_STOREANDFORWARD_ENABLED", "true")
        .env("WRITABLE_STOREANDFORWARD_RETRYINTERVAL", "1s")
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_PERSISTONERROR",
            "true",
        );
    service.start().await?;
    sink.script(|_| refusing());

    // When an event is posted, then it is on disk by the time of the answer.
    let answer = post(&service, &event(1)).await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    // What is no event is told and not kept as well.
    assert_eq!(post(&service, &Value::Null).await?.status, 400);
    let stats = service.stats().await?;
    assert_eq!(
        (stats.store("waiting"), stats.store("error")),
        (1, 0),
        "{stats:?}"
    );
    service.kill9()?;
    assert_eq!(service.store_count()?, 1);

    // And it arrives after the next start.
    sink.script(|_| Behaviour::status(200));
    service.start().await?;
    service.wait_nothing_left().await;
    let accepted = sink.count_by(|request| {
        (request.status == Some(200))
            .then(|| exported_id(request))
            .flatten()
    });
    assert_eq!(accepted.values().copied().collect::<Vec<_>>(), [1]);
    service.stop().await
}

/// Contract, messages §8: the documentation says that `#` per-topic pipelines run with the HTTP trigger, the original runs
/// the default one alone.
#[tokio::test]
async fn a_per_topic_pipeline_for_all_topics_runs_with_the_http_trigger() -> Result<()> {
    let sink = HttpSink::start().await?;
    // Its second per-topic pipeline keeps topics that no request has.
    let mut service = profile(Generation::V4, "sample")?
        .env("TRIGGER_TYPE", "HTTP")
        .env("WRITABLE_PIPELINE_EXECUTIONORDER", "HTTPExport, SetResponseData")
        .env("WRITABLE_PIPELINE_PERTOPICPIPELINES_FLOAT_TOPICS", "#")
        .env(
            "WRITABLE_PIPELINE_PERTOPICPIPELINES_FLOAT_EXECUTIONORDER",
            "HTTPExport",
        )
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL",
            &sink.url("/export"),
        );
    service.start().await?;
    assert_eq!(post(&service, &event(1)).await?.status, 200);
    assert_eq!(sink.requests().len(), 2);
    service.stop().await
}

#[tokio::test]
async fn a_slow_pipeline_is_answered_in_time_and_goes_on() -> Result<()> {
    let sink = HttpSink::start().await?;
    let mut service = exporting(&sink)?.env("SERVICE_REQUESTTIMEOUT", "300ms");
    service.start().await?;
    sink.script(|_| Answer::new(200).after(std::time::Duration::from_secs(1)).into());
    let answer = post(&service, &event(1)).await?;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (503, "Request timed out")
    );
    service
        .wait_stats("the run to end", |stats| stats.books("completed") == 1)
        .await;
    service.stop().await
}

#[tokio::test]
async fn other_triggers_have_no_trigger_route() -> Result<()> {
    let broker = crate::support::broker().await?;
    let sink = HttpSink::start().await?;
    let mut service = crate::main_job::from_files(Generation::V4, &sink.url("/export"), broker.port())?;
    service.start().await?;
    assert_eq!(post(&service, &event(1)).await?.status, 404);
    service.stop().await
}
