//! Batches as their user sees them: an item is acknowledged because it is kept, and nothing that happens to the service
//! while it waits loses it or sends it twice.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Answer, Behaviour, HttpSink, Received};

use crate::support::{DURABLE, Stack, each, refusing};

const OFTEN: (&str, &str) = ("StoreAndForward/RetryInterval", "1s");
const NEVER: (&str, &str) = ("StoreAndForward/RetryInterval", "1h");
const THRESHOLD: &str = "Pipeline/Functions/Batch/Parameters/BatchThreshold";

/// Three events at a time, as a JSON array of events.
const THREE: [(&str, &str); 4] = [
    ("Pipeline/ExecutionOrder", "Batch, HTTPExport"),
    ("Pipeline/Functions/Batch/Parameters/Mode", "bycount"),
    ("Pipeline/Functions/Batch/Parameters/IsEventData", "true"),
    (THRESHOLD, "3"),
];

async fn until_batching(stack: &Stack) {
    let order = serde_json::json!("Batch, HTTPExport");
    let pointer = "/Writable/Pipeline/ExecutionOrder";
    stack.service.wait_config(pointer, order).await;
}

/// A running stack that batches and stores.
async fn start(settings: &[(&str, &str)]) -> Result<Stack> {
    let stack = Stack::start_storing(&[&THREE, settings].concat()).await?;
    until_batching(&stack).await;
    Ok(stack)
}

fn events(request: &Received) -> Vec<String> {
    let body = request.json();
    let events = body.as_array().expect("a batch is an array").iter();
    let id = |event: &serde_json::Value| event["id"].as_str().unwrap_or_default().to_owned();
    events.map(id).collect()
}

/// The events of each batch that was accepted, in order.
fn accepted(sink: &HttpSink) -> Vec<Vec<String>> {
    let requests = sink.requests();
    let accepted = requests.iter().filter(|request| request.status == Some(200));
    accepted.map(events).collect()
}

fn times(batches: &[Vec<String>]) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for id in batches.iter().flatten() {
        *times.entry(id.clone()).or_default() += 1;
    }
    times
}

async fn until_kept(stack: &Stack, events: u64) {
    let kept = |stats: &crate::support::Stats| {
        stats.store("batched") == events && stats.books("inBatch") == events && stats.books("inFlight") == 0
    };
    stack
        .service
        .wait_stats("the events to wait in a batch", kept)
        .await;
}

#[tokio::test]
async fn what_waits_in_a_batch_is_there_after_a_kill() -> Result<()> {
    // Given two events that wait for a third, acknowledged
    let mut stack = start(&[OFTEN]).await?;
    stack.publish(1..=2).await?;
    until_kept(&stack, 2).await;
    // When the process is killed three times, which would set aside what was in flight
    for _ in 0..3 {
        stack.service.kill9()?;
        stack.start_service().await?;
        until_kept(&stack, 2).await;
    }
    // Then the third goes with them, and nothing is left
    stack.publish(3..=3).await?;
    stack.service.wait_nothing_left().await;
    assert_eq!(accepted(&stack.sink).len(), 1);
    assert_eq!(times(&accepted(&stack.sink)), each(1..=3, 1));
    Ok(())
}

#[tokio::test]
async fn a_kill_amid_batches_loses_nothing() -> Result<()> {
    // Given a destination that takes its time, so that batches are being sent, stored and filled
    let mut stack = start(&[OFTEN]).await?;
    stack
        .sink
        .behave(Answer::new(200).after(Duration::from_millis(30)).into());
    for round in 0..4 {
        let first = 1 + 50 * round;
        let sent = stack.sink.count();
        stack.publish(first..first + 50).await?;
        wait::until("some batches to be sent", LONG, async || {
            stack.sink.count() >= sent + 4
        })
        .await;
        stack.service.kill9()?;
        stack.start_service().await?;
    }
    // When nothing has to wait for others any more, then everything has arrived.
    stack.set(&[(THRESHOLD, "1")]).await?;
    let every = each(1..=200, 1);
    wait::until("every event to arrive", LONG, async || {
        let arrived = times(&accepted(&stack.sink));
        every.keys().all(|id| arrived.contains_key(id))
    })
    .await;
    stack.service.wait_nothing_left().await;
    Ok(())
}

#[tokio::test]
async fn an_edited_pipeline_sends_what_waits() -> Result<()> {
    let stack = start(&[OFTEN]).await?;
    stack.publish(1..=2).await?;
    until_kept(&stack, 2).await;
    // When its threshold changes, then what waits under the old one goes on
    stack.set(&[(THRESHOLD, "2")]).await?;
    stack.service.wait_nothing_left().await;
    assert_eq!(accepted(&stack.sink).len(), 1);
    assert_eq!(times(&accepted(&stack.sink)), each(1..=2, 1));
    // And the new one acts
    stack.publish(3..=4).await?;
    wait::until("the next batch", LONG, async || accepted(&stack.sink).len() == 2).await;
    assert_eq!(times(&accepted(&stack.sink)), each(1..=4, 1));
    Ok(())
}

#[tokio::test]
async fn an_ended_service_keeps_what_waits_for_its_next_start() -> Result<()> {
    let mut stack = start(&[OFTEN]).await?;
    stack.publish(1..=2).await?;
    until_kept(&stack, 2).await;
    // When it is ended, then nothing is sent, and everything is there
    stack.service.stop().await?;
    assert_eq!(stack.sink.count(), 0);
    assert_eq!(stack.service.store_count()?, 2);
    stack.start_service().await?;
    until_kept(&stack, 2).await;
    stack.publish(3..=3).await?;
    stack.service.wait_nothing_left().await;
    assert_eq!(times(&accepted(&stack.sink)), each(1..=3, 1));
    Ok(())
}

#[tokio::test]
async fn without_store_and_forward_an_ended_service_sends_what_waits() -> Result<()> {
    let mut stack = Stack::start(DURABLE).await?;
    stack.set(&THREE).await?;
    until_batching(&stack).await;
    stack.publish(1..=2).await?;
    let waits = |stats: &crate::support::Stats| stats.books("inBatch") == 2;
    stack.service.wait_stats("both to wait in a batch", waits).await;
    stack.service.stop().await?;
    assert_eq!(times(&accepted(&stack.sink)), each(1..=2, 1));
    Ok(())
}

#[tokio::test]
async fn a_batch_whose_destination_is_down_is_one_object_and_leaves_as_one() -> Result<()> {
    // Given a destination that is down when the batch is full
    let stack = start(&[NEVER]).await?;
    stack.sink.behave(refusing());
    stack.publish(1..=3).await?;
    let stats = stack
        .service
        .wait_stats("the batch to be stored", |stats| stats.store("failed") == 1)
        .await;
    assert_eq!(
        (stats.store("waiting"), stats.books("batched")),
        (1, 2),
        "{stats:?}"
    );
    // When it is back
    stack.sink.behave(Behaviour::status(200));
    stack.set(&[OFTEN]).await?;
    stack.service.wait_nothing_left().await;
    assert_eq!(accepted(&stack.sink).len(), 1);
    assert_eq!(times(&accepted(&stack.sink)), each(1..=3, 1));
    Ok(())
}

#[tokio::test]
async fn a_service_that_is_ended_while_a_batch_is_sent_keeps_the_batch() -> Result<()> {
    let mut stack = start(&[OFTEN]).await?;
    stack.sink.behave(Behaviour::Hang);
    stack.publish(1..=3).await?;
    wait::until("the batch to be sent", LONG, async || stack.sink.count() == 1).await;
    stack.service.stop().await?;
    assert_eq!(stack.service.store_count()?, 1);
    stack.sink.behave(Behaviour::status(200));
    stack.start_service().await?;
    stack.service.wait_nothing_left().await;
    assert_eq!(times(&accepted(&stack.sink)), each(1..=3, 1));
    Ok(())
}
