//! The HTTP trigger end to end: what becomes of data that cannot be sent on. That it answers as the original is in
//! `rest`.

use anyhow::Result;
use edgehold_test_support::fixtures::Generation;
use edgehold_test_support::{Answer, Behaviour, HttpSink, http};
use serde_json::Value;

use crate::profiles::profile;
use crate::support::{Service, event, event_id, exported_id, refusing};

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
async fn what_is_answered_is_in_the_books_and_not_kept_as_well() -> Result<()> {
    let mut service = profile(Generation::V4, "functional-tests")?;
    service.start().await?;
    assert_eq!(post(&service, &event(1)).await?.status, 200);
    assert_eq!(post(&service, &Value::Null).await?.status, 400);
    let stats = service.stats().await?;
    // The profile keeps one device, which is another one.
    let counted = ["received", "undecodable", "filtered", "undecodableStored"].map(|name| stats.books(name));
    assert_eq!(counted, [2, 1, 1, 0], "{stats:?}");
    service.stop().await
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
    // Until the store is open nothing seems to wait.
    service
        .wait_stats("what was left to be carried over", |stats| {
            stats.books("carriedOver") == 1
        })
        .await;
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

/// EdgeX lets the request wait for the batch, in memory.
#[tokio::test]
async fn what_waits_in_a_batch_is_answered_at_once_survives_a_kill_and_leaves_as_one() -> Result<()> {
    // Given a pipeline that takes three events at a time
    let sink = HttpSink::start().await?;
    let parameters = "WRITABLE_PIPELINE_FUNCTIONS_BATCH_PARAMETERS_";
    let mut service = profile(Generation::V4, "sample")?
        .env("TRIGGER_TYPE", "HTTP")
        .env("DATABASE_TYPE", "sqlite")
        .env("WRITABLE_STOREANDFORWARD_ENABLED", "true")
        .env("WRITABLE_STOREANDFORWARD_RETRYINTERVAL", "1s")
        .env("WRITABLE_PIPELINE_EXECUTIONORDER", "Batch, HTTPExport")
        .env(&format!("{parameters}MODE"), "bycount")
        .env(&format!("{parameters}BATCHTHRESHOLD"), "3")
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_PERSISTONERROR",
            "true",
        )
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL",
            &sink.url("/export"),
        );
    service.start().await?;

    // When two are posted, then both are answered, and are there after a kill
    for number in 1..=2 {
        let answer = post(&service, &event(number)).await?;
        assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    }
    service.kill9()?;
    service.start().await?;
    service
        .wait_stats("both to wait in a batch", |stats| stats.books("inBatch") == 2)
        .await;
    assert_eq!(sink.count(), 0);

    // When the third comes and the destination refuses, then the batch is kept, and leaves as one
    sink.behave(refusing());
    assert_eq!(post(&service, &event(3)).await?.status, 200);
    service
        .wait_stats("the batch to be stored", |stats| stats.store("failed") == 1)
        .await;
    sink.behave(Behaviour::status(200));
    service.wait_nothing_left().await;
    let requests = sink.requests();
    let accepted: Vec<_> = requests
        .iter()
        .filter(|request| request.status == Some(200))
        .collect();
    assert_eq!(accepted.len(), 1);
    // Without IsEventData a batch is a list of byte strings.
    let ids: Vec<String> = serde_json::from_slice::<Vec<String>>(&accepted[0].body)?
        .iter()
        .map(|item| {
            let item = base64_simd::STANDARD.decode_to_vec(item)?;
            let event: Value = serde_json::from_slice(&item)?;
            Ok(event["id"].as_str().unwrap_or_default().to_owned())
        })
        .collect::<Result<_>>()?;
    assert_eq!(ids, [event_id(1), event_id(2), event_id(3)]);
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

/// Weakness 27: the original cuts off what is in hand at its end.
#[tokio::test]
async fn weakness_27_a_request_in_hand_at_the_end_is_answered() -> Result<()> {
    // Given a request whose export takes a while.
    let sink = HttpSink::start().await?;
    let mut service = exporting(&sink)?;
    service.start().await?;
    sink.script(|_| Answer::new(200).after(std::time::Duration::from_secs(1)).into());
    let port = service.port();
    let body = event(1).to_string();
    let headers = [("Content-Type", "application/json")];
    let asked = http::send(port, "POST", "/api/v3/trigger", &headers, body.as_bytes());

    // When the service is told to end as soon as it has it in hand.
    let ended = async {
        service
            .wait_stats("the run to begin", |stats| stats.books("started") == 1)
            .await;
        service.stop().await
    };
    let (answer, ended) = tokio::join!(asked, ended);

    // Then it is answered, and was exported.
    ended?;
    assert_eq!(answer?.status, 200);
    assert_eq!(sink.requests().len(), 1);
    Ok(())
}

/// Weakness 28: the original enforces no size, and counts in KiB.
#[tokio::test]
async fn weakness_28_a_request_over_max_request_size_is_413() -> Result<()> {
    let mut service = profile(Generation::V4, "functional-tests")?.env("SERVICE_MAXREQUESTSIZE", "1");
    service.start().await?;
    for (size, expected) in [(1024, 400), (1025, 413)] {
        let body = vec![b'x'; size];
        for target in ["/api/v3/trigger", "/api/v3/secret"] {
            let answer = http::send(service.port(), "POST", target, &[], &body).await?;
            assert_eq!(answer.status, expected, "{target}: {}", answer.text());
        }
    }
    service.stop().await
}
