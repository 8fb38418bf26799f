//! Store and Forward as its user sees it: what fails is counted and kept, what changes acts, what can leave leaves once.
//!
//! How a backend keeps it is the conformance suite's; what a crash does is in `kill`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Behaviour, HttpSink, Received};

use crate::support::{
    COMMON, SERVICE_KEY, Stack, accepted, each, event, event_id, exported_id, refusing, sent, wait_accepted,
};

/// Nothing is retried by time.
const NEVER: (&str, &str) = ("StoreAndForward/RetryInterval", "1h");
/// As often as there is.
const OFTEN: (&str, &str) = ("StoreAndForward/RetryInterval", "1s");
const ENDLESS: (&str, &str) = ("StoreAndForward/MaxRetryCount", "0");

/// `Pipeline/Concurrency`, which nobody has changed.
const CONCURRENCY: usize = 64;

/// The `object` table's codes of states.
const FAILED: i64 = 2;
const ERROR: i64 = 3;

#[tokio::test]
async fn interval_and_maximum_changed_in_one_transaction_both_act() -> Result<()> {
    // Given three objects that nothing would retry for an hour.
    let stack = Stack::start_storing(&[NEVER]).await?;
    stack.sink.behave(refusing());
    stack.publish(1..=3).await?;
    stack
        .service
        .wait_stats("three objects to wait", |stats| stats.store("failed") == 3)
        .await;
    assert_eq!(stack.service.store_count()?, 3);
    assert_eq!(rows(&stack).await?, [(FAILED, 3)]);
    assert_eq!(sent(&stack.sink), each(1..=3, 1));

    // When both settings change in one transaction.
    stack
        .set(&[OFTEN, ("StoreAndForward/MaxRetryCount", "3")])
        .await?;

    // Then each is sent three more times, a second apart, and set aside.
    let stats = stack
        .service
        .wait_stats("three objects to be set aside", |stats| stats.store("error") == 3)
        .await;
    assert_eq!(stats.store("waiting"), 0, "{stats:?}");
    assert_eq!(stats.books("givenUp"), 3, "{stats:?}");
    assert_eq!(sent(&stack.sink), each(1..=3, 4));
    assert_a_second_apart(&stack.sink.requests());
    assert_eq!(rows(&stack).await?, [(ERROR, 3)]);
    assert_eq!(stack.service.store_count()?, 0, "what is set aside does not wait");

    // And is left alone when the destination is back, while new events leave.
    stack.sink.behave(Behaviour::status(200));
    stack.publish(4..=4).await?;
    wait_accepted(&stack.sink, 4..=4).await;
    assert_eq!(accepted(&stack.sink), each(4..=4, 1));
    assert_eq!(sent(&stack.sink).values().sum::<usize>(), 13);
    Ok(())
}

#[tokio::test]
async fn objects_wait_no_longer_for_a_clock_that_was_set_back() -> Result<()> {
    // Given objects that were last attempted two hours from now, as the clock has it after it was set back.
    let stack = Stack::start_storing(&[NEVER]).await?;
    stack.sink.behave(refusing());
    stack.publish(1..=3).await?;
    stack
        .service
        .wait_stats("three objects to wait", |stats| stats.store("failed") == 3)
        .await;
    assert_eq!(stack.service.move_last_attempts(2 * 60 * 60 * 1_000).await?, 3);

    // When the interval is a second, then they leave, long before those two hours are over.
    stack.sink.behave(Behaviour::status(200));
    stack.set(&[OFTEN]).await?;
    wait_accepted(&stack.sink, 1..=3).await;
    assert_eq!(accepted(&stack.sink), each(1..=3, 1));
    Ok(())
}

#[tokio::test]
async fn weakness_03_a_changed_common_setting_acts_and_a_private_one_still_wins() -> Result<()> {
    // Given an object that waits, with the maximum set privately and the interval of the common configuration.
    let stack = Stack::start_storing(&[("StoreAndForward/MaxRetryCount", "1")]).await?;
    stack.sink.behave(refusing());
    stack.publish(1..=1).await?;
    stack
        .service
        .wait_stats("the object to wait", |stats| stats.store("failed") == 1)
        .await;

    // When the common interval and the common maximum change.
    let common = |path: &str| format!("{COMMON}app-services/Writable/StoreAndForward/{path}");
    stack
        .consul
        .txn(&[(common("RetryInterval"), "1s"), (common("MaxRetryCount"), "7")])
        .await?;

    // Then the interval acts, and the private maximum stays.
    stack
        .service
        .wait_stats("the object to be set aside", |stats| stats.store("error") == 1)
        .await;
    assert_eq!(sent(&stack.sink), each(1..=1, 2));
    Ok(())
}

#[tokio::test]
async fn an_interval_below_a_second_is_one_and_a_maximum_below_zero_too() -> Result<()> {
    // Given settings beyond what makes sense.
    let settings = [
        ("StoreAndForward/RetryInterval", "1ms"),
        ("StoreAndForward/MaxRetryCount", "-5"),
    ];
    let stack = Stack::start_storing(&settings).await?;
    stack.sink.behave(refusing());

    // When exports fail, then each is retried once, a second later.
    stack.publish(1..=2).await?;
    stack
        .service
        .wait_stats("both to be set aside", |stats| stats.store("error") == 2)
        .await;
    assert_eq!(sent(&stack.sink), each(1..=2, 2));
    assert_a_second_apart(&stack.sink.requests());
    Ok(())
}

#[tokio::test]
async fn switched_off_it_keeps_what_waits_and_switched_on_it_goes_on() -> Result<()> {
    // Given a backlog, and then Store and Forward switched off.
    let stack = Stack::start_storing(&[NEVER, ENDLESS]).await?;
    stack.sink.behave(refusing());
    stack.publish(1..=3).await?;
    stack
        .service
        .wait_stats("three objects to wait", |stats| stats.store("failed") == 3)
        .await;
    stack.set(&[("StoreAndForward/Enabled", "false")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/Enabled", false)
        .await;

    // When a fresh event is accepted, then it releases nothing.
    stack.sink.behave(Behaviour::status(200));
    stack.publish(4..=4).await?;
    wait_accepted(&stack.sink, 4..=4).await;
    assert_eq!(stack.service.store_count()?, 3);

    // And switched on again and due, the backlog leaves.
    stack.set(&[("StoreAndForward/Enabled", "true"), OFTEN]).await?;
    wait_accepted(&stack.sink, 1..=4).await;
    assert_eq!(accepted(&stack.sink), each(1..=4, 1));
    Ok(())
}

#[tokio::test]
async fn everything_arrives_exactly_once_when_the_destination_is_back() -> Result<()> {
    // Given a destination that cannot be reached and events that came meanwhile.
    let mut stack = Stack::start_storing(&[OFTEN, ENDLESS]).await?;
    stack.sink.refuse().await;
    stack.publish(0..50).await?;
    stack
        .service
        .wait_stats("fifty objects to wait", |stats| stats.store("failed") == 50)
        .await;
    assert_eq!(stack.service.store_count()?, 50);

    // When it is back.
    stack.sink.reopen().await?;

    // Then each event arrives once, as it was, and the store is empty.
    wait_accepted(&stack.sink, 0..50).await;
    let stats = stack
        .service
        .wait_stats("the store to be empty", |stats| stats.store("waiting") == 0)
        .await;
    assert_eq!(accepted(&stack.sink), each(0..50, 1));
    for request in stack.sink.requests() {
        let number = request.json()["readings"][0]["value"]
            .as_str()
            .context("a value")?
            .parse()?;
        assert_eq!(request.json(), event(number));
    }
    assert_eq!(stats.books("completed"), 50, "{stats:?}");
    assert_eq!(stack.service.store_count()?, 0);
    assert_eq!(rows(&stack).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_success_releases_what_waits_for_the_same_destination() -> Result<()> {
    // Given objects that nothing would retry for an hour.
    let stack = Stack::start_storing(&[NEVER]).await?;
    stack.sink.behave(refusing());
    stack.publish(1..=5).await?;
    stack
        .service
        .wait_stats("five objects to wait", |stats| stats.store("failed") == 5)
        .await;

    // When the destination accepts one fresh event.
    stack.sink.behave(Behaviour::status(200));
    stack.publish(6..=6).await?;

    // Then the others follow at once.
    wait_accepted(&stack.sink, 1..=6).await;
    assert_eq!(accepted(&stack.sink), each(1..=6, 1));
    Ok(())
}

#[tokio::test]
async fn a_dead_destination_is_probed_and_disturbs_no_other() -> Result<()> {
    // Given two pipelines with destinations of their own, both down, and a backlog for each.
    let stack = Stack::start_storing(&[NEVER, ENDLESS]).await?;
    let other = HttpSink::start().await?;
    let second = "Pipeline/PerTopicPipelines/second";
    stack
        .set(&[
            (
                "Pipeline/Functions/HTTPExport2/Parameters/Url",
                &other.url("/export"),
            ),
            ("Pipeline/Functions/HTTPExport2/Parameters/PersistOnError", "true"),
            (&format!("{second}/Id"), "second-pipeline"),
            (&format!("{second}/Topics"), "events/#"),
            (&format!("{second}/ExecutionOrder"), "Transform, HTTPExport2"),
        ])
        .await?;
    stack
        .service
        .wait_config(
            "/Writable/Pipeline/PerTopicPipelines/second/ExecutionOrder",
            "Transform, HTTPExport2",
        )
        .await;
    stack.sink.behave(refusing());
    other.behave(refusing());
    stack.publish(0..300).await?;
    stack
        .service
        .wait_stats("all to wait", |stats| stats.store("failed") == 600)
        .await;

    // Then most of it was never sent: sixteen failed, and what was on its way at that moment.
    let tried = stack.sink.count();
    assert!((16..=16 + CONCURRENCY).contains(&tried), "{tried} were sent");
    let output = stack.service.run(&["store", "ls", "--json", "--limit", "0"])?;
    let objects = String::from_utf8(output.stdout)?;
    let attempts: Vec<_> = objects
        .lines()
        .map(serde_json::from_str::<serde_json::Value>)
        .collect::<Result<_, _>>()?;
    let there =
        |object: &&serde_json::Value| object["destination"] == stack.sink.url("").trim_end_matches('/');
    let untried = attempts
        .iter()
        .filter(there)
        .filter(|object| object["attempts"] == 0)
        .count();
    assert_eq!(untried, 300 - tried, "what was not sent has no attempt");

    // And when one is back and things are tried often, then its backlog leaves and new events reach it, while the other
    // is sent no more than a probe each second.
    other.behave(Behaviour::status(200));
    let began = std::time::SystemTime::now();
    stack.set(&[OFTEN]).await?;
    wait_accepted(&other, 0..300).await;
    stack.publish(300..310).await?;
    wait_accepted(&other, 0..310).await;
    assert_eq!(accepted(&other), each(0..310, 1));
    let probes = stack.sink.count() - tried;
    let seconds = usize::try_from(began.elapsed()?.as_secs())?;
    assert!(probes <= seconds + 2, "{probes} probes in {seconds} s");

    // And when the other is back too, then it gets everything once.
    stack.sink.behave(Behaviour::status(200));
    wait_accepted(&stack.sink, 0..310).await;
    assert_eq!(accepted(&stack.sink), each(0..310, 1));
    stack
        .service
        .wait_stats("nothing to wait", |stats| stats.store("waiting") == 0)
        .await;
    Ok(())
}

#[tokio::test]
async fn a_restart_resumes_the_backlog() -> Result<()> {
    // Given a backlog and a service that was asked to end.
    let mut stack = Stack::start_storing(&[OFTEN]).await?;
    stack.sink.behave(refusing());
    stack.publish(0..10).await?;
    stack
        .service
        .wait_stats("ten objects to wait", |stats| stats.store("failed") == 10)
        .await;
    stack.service.stop().await?;
    assert_eq!(stack.service.store_count()?, 10, "counted without the service");

    // When it starts again with the destination on.
    stack.sink.behave(Behaviour::status(200));
    stack.start_service().await?;

    // Then everything due is tried at once, and arrives once.
    wait_accepted(&stack.sink, 0..10).await;
    stack
        .service
        .wait_stats("the store to be empty", |stats| stats.store("waiting") == 0)
        .await;
    assert_eq!(accepted(&stack.sink), each(0..10, 1));
    assert_eq!(stack.service.store_count()?, 0);
    Ok(())
}

#[tokio::test]
async fn the_count_of_attempts_survives_a_restart() -> Result<()> {
    // Given an object with one send behind it and one retry allowed, which is not due before the service ends.
    let mut stack = Stack::start_storing(&[NEVER, ("StoreAndForward/MaxRetryCount", "1")]).await?;
    stack.sink.behave(refusing());
    stack.publish(1..=1).await?;
    stack
        .service
        .wait_stats("the object to wait", |stats| stats.store("failed") == 1)
        .await;

    // When it is due by the time the service starts again.
    stack.service.stop().await?;
    stack.set(&[OFTEN]).await?;
    stack.start_service().await?;

    // Then that was its last attempt.
    stack
        .service
        .wait_stats("the object to be set aside", |stats| stats.store("error") == 1)
        .await;
    assert_eq!(sent(&stack.sink), each(1..=1, 2));
    Ok(())
}

#[tokio::test]
async fn a_later_exports_failure_does_not_send_the_earlier_one_again() -> Result<()> {
    // Given two exports in a row, of which the second is down, and an event whose first export failed once.
    let stack = Stack::start_storing(&[OFTEN, ENDLESS]).await?;
    two_exports(&stack, "HTTPExport, HTTPExport2").await?;
    let second_is_down = Arc::new(AtomicBool::new(true));
    let (down, mut first_refused) = (second_is_down.clone(), false);
    stack.sink.script(move |request| match request.target.as_str() {
        "/export" if exported_id(request) == Some(event_id(1)) && !first_refused => {
            first_refused = true;
            refusing()
        }
        "/second" if down.load(Ordering::SeqCst) => refusing(),
        _ => Behaviour::status(200),
    });
    stack.publish(1..=3).await?;
    wait::until(
        "each event to be refused twice by the second export",
        LONG,
        async || {
            let refused = by_target(&stack.sink, "/second", 503);
            refused.len() == 3 && refused.values().all(|&times| times >= 2)
        },
    )
    .await;

    // When the second is back.
    second_is_down.store(false, Ordering::SeqCst);

    // Then each event was accepted once by each.
    stack
        .service
        .wait_stats("three runs to be completed", |stats| {
            stats.books("completed") == 3
        })
        .await;
    for target in ["/export", "/second"] {
        assert_eq!(by_target(&stack.sink, target, 200), each(1..=3, 1), "{target}");
    }
    Ok(())
}

#[tokio::test]
async fn functions_after_the_export_run_after_a_successful_retry() -> Result<()> {
    // Given an export in the middle, which passes on the event it received, and is down.
    let stack = Stack::start_storing(&[OFTEN, ENDLESS]).await?;
    two_exports(&stack, "HTTPExport, Transform, HTTPExport2").await?;
    let first_is_down = Arc::new(AtomicBool::new(true));
    let down = first_is_down.clone();
    stack.sink.script(move |request| match request.target.as_str() {
        "/export" if down.load(Ordering::SeqCst) => refusing(),
        _ => Behaviour::status(200),
    });
    stack.publish(1..=2).await?;
    stack
        .service
        .wait_stats("two objects to wait", |stats| stats.store("failed") == 2)
        .await;

    // When it is back.
    first_is_down.store(false, Ordering::SeqCst);

    // Then the functions behind it ran with the event, as they would have at first.
    stack
        .service
        .wait_stats("two runs to be completed", |stats| stats.books("completed") == 2)
        .await;
    let second = stack
        .sink
        .requests()
        .into_iter()
        .filter(|request| request.target == "/second");
    let bodies: BTreeMap<_, _> = second
        .map(|request| (exported_id(&request), request.json()))
        .collect();
    let wanted: BTreeMap<_, _> = (1..=2)
        .map(|number| (Some(event_id(number)), event(number)))
        .collect();
    assert_eq!(bodies, wanted);
    Ok(())
}

#[tokio::test]
async fn what_is_not_to_be_kept_is_dropped_by_name() -> Result<()> {
    // Given PersistOnError without Store and Forward, then Store and Forward without PersistOnError.
    let persist = "Pipeline/Functions/HTTPExport/Parameters/PersistOnError";
    let stack = Stack::start(&[]).await?;
    stack.sink.behave(refusing());
    stack.set(&[(persist, "true")]).await?;
    stack
        .service
        .wait_config(
            "/Writable/Pipeline/Functions/HTTPExport/Parameters/PersistOnError",
            "true",
        )
        .await;

    // When an export fails in each state, then the books name the reason.
    stack.publish(1..=1).await?;
    let reason = "droppedStoreAndForwardDisabled";
    stack
        .service
        .wait_stats("the first to be dropped", |stats| stats.books(reason) == 1)
        .await;

    stack
        .set(&[(persist, "false"), ("StoreAndForward/Enabled", "true")])
        .await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/Enabled", true)
        .await;
    stack.publish(2..=2).await?;
    stack
        .service
        .wait_stats("the second to be dropped", |stats| {
            stats.books("droppedNotPersistent") == 1
        })
        .await;

    // And nothing waits.
    assert_eq!(stack.service.store_count()?, 0);
    assert_eq!(sent(&stack.sink), each(1..=2, 1));
    Ok(())
}

/// Two exports of one pipeline, to `/export` and `/second`, the first passing on what it received, both persistent.
async fn two_exports(stack: &Stack, execution_order: &str) -> Result<()> {
    stack
        .set(&[
            ("Pipeline/ExecutionOrder", execution_order),
            ("Pipeline/Functions/HTTPExport/Parameters/ReturnInputData", "true"),
            ("Pipeline/Functions/HTTPExport2/Parameters/PersistOnError", "true"),
            (
                "Pipeline/Functions/HTTPExport2/Parameters/Url",
                &stack.sink.url("/second"),
            ),
        ])
        .await?;
    stack
        .service
        .wait_config("/Writable/Pipeline/ExecutionOrder", execution_order)
        .await;
    Ok(())
}

/// How often each event was answered this status by one of the targets.
fn by_target(sink: &HttpSink, target: &str, status: u16) -> BTreeMap<String, usize> {
    sink.count_by(|request| {
        (request.target == target && request.status == Some(status))
            .then(|| exported_id(request))
            .flatten()
    })
}

/// The rows of the `object` table of this service by state; rows of any other service key would be a surprise.
async fn rows(stack: &Stack) -> Result<Vec<(i64, i64)>> {
    let rows = stack.service.object_rows().await?;
    let ours = |((key, state), count): ((String, i64), i64)| {
        assert_eq!(key, SERVICE_KEY);
        (state, count)
    };
    Ok(rows.into_iter().map(ours).collect())
}

#[track_caller]
fn assert_a_second_apart(requests: &[Received]) {
    let mut last = BTreeMap::new();
    for request in requests {
        let id = exported_id(request);
        if let Some(before) = last.insert(id.clone(), request.at) {
            let pause = request.at.duration_since(before);
            // The clock of the interval starts before the attempt's answer is written down.
            assert!(
                pause >= Duration::from_millis(900),
                "{id:?} was sent again after {pause:?}"
            );
        }
    }
}
