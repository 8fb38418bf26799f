//! Faults of the servers around: what breaks comes back by itself, what came meanwhile is not lost, and the log stays short.

use std::time::Duration;

use anyhow::Result;
use edgehold_test_support::wait::LONG;
use edgehold_test_support::{Answer, Mosquitto};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{DURABLE, Stack, accepted, each, wait_accepted};

/// Events flow again this soon after the broker's return.
const BACK: Duration = Duration::from_secs(3);

#[tokio::test]
async fn events_flow_again_within_three_seconds_of_the_brokers_return() -> Result<()> {
    // Given a running service whose session the broker keeps.
    let mut stack = Stack::start(DURABLE).await?;
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;

    // When the broker is away for two seconds. The pause is the fault itself, not a wait for something.
    stack.broker.stop().await?;
    sleep(Duration::from_secs(2)).await;
    stack.broker.restart().await?;
    let back = Instant::now();
    stack.publish(2..=2).await?;

    // Then an event published right after its return has left three seconds later.
    timeout(BACK, wait_accepted(&stack.sink, 2..=2)).await?;
    assert!(back.elapsed() <= BACK);

    // And so do those after it, each once.
    stack.publish(3..=20).await?;
    wait_accepted(&stack.sink, 1..=20).await;
    assert_eq!(accepted(&stack.sink), each(1..=20, 1));
    Ok(())
}

#[tokio::test]
async fn a_broker_that_forgot_its_sessions_is_subscribed_to_again() -> Result<()> {
    // Given the stock settings, with a session that ends with the connection.
    let mut stack = Stack::start(&[]).await?;

    // When the broker is killed and comes back without a memory.
    stack.broker.kill()?;
    stack.broker.restart().await?;

    // Then the service subscribes again, and events flow.
    stack.broker.process().wait_for_line("/events/", LONG).await;
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;
    Ok(())
}

#[tokio::test]
async fn weakness_33_a_broker_that_comes_after_the_service_is_connected_to() -> Result<()> {
    // Given a broker that is not there.
    let mut stack = Stack::new(&[]).await?;
    stack.broker.stop().await?;

    // When the service starts, then it is up all the same.
    stack.service.start().await?;
    let port = stack.broker.port().to_string();
    stack.service.process().wait_for_line(&port, LONG).await;

    // And when the broker comes, events flow.
    stack.broker.restart().await?;
    stack.broker.process().wait_for_line("/events/", LONG).await;
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;
    Ok(())
}

#[tokio::test]
async fn deliveries_in_hand_at_the_brokers_restart_leave_at_least_once() -> Result<()> {
    // Given exports that wait for their answer, so that nothing is acknowledged yet.
    let mut stack = Stack::start(DURABLE).await?;
    let slow = Answer::new(200).after(Duration::from_millis(500));
    stack.sink.behave(slow.into());
    stack.publish(1..=40).await?;
    stack.sink.wait_for(1, LONG).await;

    // When the broker is restarted under them.
    stack.broker.restart().await?;

    // Then all have left, also those of before, whose acknowledgements went to a connection that is no more.
    stack.publish(41..=60).await?;
    wait_accepted(&stack.sink, 1..=60).await;
    Ok(())
}

#[tokio::test]
async fn a_quiet_connection_outlives_the_keep_alive() -> Result<()> {
    // Given a keep-alive of two seconds and a destination that takes longer than the broker's patience (half as much
    // again) for its answer, while the session is held to one delivery.
    let common = [
        DURABLE,
        &[
            ("all-services/MessageBus/Optional/KeepAlive", "2"),
            ("app-services/Writable/Pipeline/Concurrency", "1"),
        ],
    ]
    .concat();
    let mut stack = Stack::start(&common).await?;
    let slow = Answer::new(200).after(Duration::from_secs(5));
    stack.sink.behave(slow.into());

    // When events wait behind each other.
    let before = subscriptions(&mut stack.broker);
    stack.publish(1..=2).await?;
    wait_accepted(&stack.sink, 1..=2).await;
    stack
        .service
        .wait_stats("both to be completed", |stats| stats.books("completed") == 2)
        .await;

    // Then the connection is still the first one.
    assert_eq!(subscriptions(&mut stack.broker), before);
    assert_eq!(accepted(&stack.sink), each(1..=2, 1));
    Ok(())
}

#[tokio::test]
async fn an_outage_fills_the_store_and_not_the_log() -> Result<()> {
    // Given a destination that cannot be reached, and nothing that is tried again meanwhile.
    let settings = [
        ("StoreAndForward/RetryInterval", "1h"),
        ("StoreAndForward/Breaker", "off"),
    ];
    let mut stack = Stack::start_storing(&settings).await?;
    stack.sink.refuse().await;

    // When many events come.
    let events = 2000;
    stack.publish(0..events).await?;
    stack
        .service
        .wait_stats("all to wait", |stats| stats.store("failed") == events)
        .await;
    stack.service.stop().await?;

    // Then a few lines tell of each of them, and the log holds little else.
    let log = stack.service.process().lines();
    let failures: Vec<&String> = log
        .iter()
        .filter(|line| line.contains("level=ERROR") && line.contains("resulted in error"))
        .collect();
    let told: u64 = failures.iter().map(|line| 1 + others_like(line)).sum();
    assert_eq!(told, events, "{failures:#?}");
    assert!(log.len() < 200, "{} lines: {log:#?}", log.len());
    Ok(())
}

/// How many more a line of the log says it stands for.
fn others_like(line: &str) -> u64 {
    let number = line
        .split_once(" … (and ")
        .and_then(|(_, rest)| rest.split_once(" more like this in the last "));
    number.map_or(0, |(number, _)| number.parse().expect("it is a number"))
}

fn subscriptions(broker: &mut Mosquitto) -> usize {
    broker
        .process()
        .lines()
        .iter()
        .filter(|line| line.contains("/events/"))
        .count()
}
