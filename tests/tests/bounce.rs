//! The broker goes away under load, in order, killed, or frozen, and comes back: the service is there again within three
//! seconds, and nothing that it acknowledged is missing at the destination.
//!
//! A broker may lose what it had not saved. That is no fault of the service, so the check covers what the service
//! acknowledged or sent, and the number of events the broker lost is printed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use edgehold_test_support::Behaviour;
use edgehold_test_support::wait::{self, LONG};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{DURABLE, Stack, accepted, event_id, publish, refusing, sent, wait_accepted};
use crate::tap::Tap;

/// Events flow again this soon after the broker's return.
const BACK: Duration = Duration::from_secs(3);
/// Events published at a time, every `PAUSE`.
const BATCH: u64 = 10;
const PAUSE: Duration = Duration::from_millis(50);
/// Numbers above this are not of the load.
const PROBES: u64 = 1 << 32;

#[derive(Debug, Clone, Copy)]
enum Fault {
    Stopped,
    Killed,
    Frozen,
}

#[tokio::test]
async fn nothing_acknowledged_is_missing_after_the_broker_was_stopped_for_2_seconds() -> Result<()> {
    bounce(Fault::Stopped, Duration::from_secs(2)).await
}

#[tokio::test]
async fn nothing_acknowledged_is_missing_after_the_broker_was_killed_for_2_seconds() -> Result<()> {
    bounce(Fault::Killed, Duration::from_secs(2)).await
}

#[tokio::test]
async fn nothing_acknowledged_is_missing_after_the_broker_was_frozen_for_10_seconds() -> Result<()> {
    bounce(Fault::Frozen, Duration::from_secs(10)).await
}

#[tokio::test]
#[ignore = "takes more than a minute: make soak"]
async fn soak_nothing_acknowledged_is_missing_after_the_broker_was_killed_for_60_seconds() -> Result<()> {
    bounce(Fault::Killed, Duration::from_secs(60)).await
}

async fn bounce(fault: Fault, away: Duration) -> Result<()> {
    // Given a service under load whose destination refuses now and then, so that some events go through the store.
    let mut stack = Stack::new(DURABLE).await?;
    let tap = Tap::start(stack.broker.port()).await?;
    let port = tap.port().to_string();
    let common = [
        // So short that a frozen broker is noticed while it is frozen.
        ("all-services/MessageBus/Optional/KeepAlive", "2"),
        ("all-services/MessageBus/Port", &port),
    ];
    let keys = common.map(|(path, value)| (format!("{}{path}", crate::support::COMMON), value.to_owned()));
    stack.consul.put_all(&keys).await?;
    stack.start_service().await?;
    stack
        .store_and_forward(&[("StoreAndForward/RetryInterval", "1s")])
        .await?;
    let mut count = 0;
    stack.sink.script(move |_| {
        count += 1;
        match count % 10 {
            0 => refusing(),
            _ => Behaviour::status(200),
        }
    });
    let broker_port = stack.broker.port();
    let ended = Cell::new(false);
    let scenario = async {
        wait::until("load", LONG, async || accepted(&stack.sink).len() > 200).await;

        // When the broker is away. The pause is the fault itself, not a wait for something.
        match fault {
            Fault::Stopped => stack.broker.stop().await?,
            Fault::Killed => stack.broker.kill()?,
            Fault::Frozen => stack.broker.process().signal("STOP")?,
        }
        sleep(away).await;
        match fault {
            Fault::Stopped | Fault::Killed => stack.broker.restart().await?,
            Fault::Frozen => stack.broker.process().signal("CONT")?,
        }

        // Then an event published right after its return has left within three seconds.
        let back = Instant::now();
        let probes = async {
            for number in PROBES.. {
                publish(broker_port, number..=number).await?;
                sleep(PAUSE).await;
                let accepted = accepted(&stack.sink);
                if (PROBES..=number).any(|number| accepted.contains_key(&event_id(number))) {
                    break;
                }
            }
            anyhow::Ok(back.elapsed())
        };
        let back = timeout(LONG, probes).await??;
        ensure!(back <= BACK, "the service was back after {back:?}");
        let before = accepted(&stack.sink).len();
        wait::until("more load", LONG, async || {
            accepted(&stack.sink).len() > before + 200
        })
        .await;
        ended.set(true);
        Ok(back)
    };
    let (confirmed, back) = tokio::join!(load(broker_port, &ended), scenario);
    let (confirmed, back) = (confirmed, back?);

    // And in the end everything that it acknowledged or sent has been accepted.
    publish(broker_port, 0..=0).await?;
    wait_accepted(&stack.sink, 0..=0).await;
    let seen = wait::until("what was acknowledged to be accepted", LONG, async || {
        let accepted = accepted(&stack.sink);
        let seen = tap.seen();
        let sent = sent(&stack.sink);
        let missing: BTreeSet<_> = seen
            .acknowledged
            .iter()
            .chain(sent.keys())
            .filter(|id| !accepted.contains_key(*id))
            .collect();
        ensure!(missing.is_empty(), "{} are missing: {missing:?}", missing.len());
        Ok(seen)
    })
    .await;
    stack.service.wait_nothing_left().await;
    let accepted = accepted(&stack.sink);
    let lost = confirmed.iter().filter(|id| !accepted.contains_key(*id)).count();
    report(
        fault,
        away,
        back,
        &confirmed,
        seen.acknowledged.len(),
        lost,
        accepted.values().sum(),
    );
    Ok(())
}

/// Publishes until told to end, as devices do: what was not confirmed is published again. Answers what was confirmed.
async fn load(port: u16, ended: &Cell<bool>) -> BTreeSet<String> {
    let mut confirmed = BTreeSet::new();
    let mut first = 1;
    while !ended.get() {
        let numbers = first..first + BATCH;
        if publish(port, numbers.clone()).await.is_ok() {
            confirmed.extend(numbers.map(event_id));
            first += BATCH;
        }
        sleep(PAUSE).await;
    }
    confirmed
}

#[expect(
    clippy::print_stdout,
    reason = "the numbers are the finding, whether the test passes or not"
)]
fn report(
    fault: Fault,
    away: Duration,
    back: Duration,
    confirmed: &BTreeSet<String>,
    acknowledged: usize,
    lost: usize,
    accepted: usize,
) {
    println!(
        "broker {fault:?} for {away:?}: back after {back:?}; {} events published, {acknowledged} acknowledged, none of \
         these missing; {lost} lost by the broker; {} arrived again",
        confirmed.len(),
        (accepted + lost).saturating_sub(confirmed.len())
    );
}
