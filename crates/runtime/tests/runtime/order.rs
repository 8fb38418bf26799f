//! `Ordering: device`: what one device sends arrives in the order in which it came, whatever fails.

use std::collections::BTreeMap;

use edgehold_contracts::ReadingValue;
use tokio::time::Instant;

use crate::*;

const ORDERED: &[(&str, &str)] = &[
    ("Enabled", "true"),
    ("RetryInterval", "1s"),
    ("MaxRetryCount", "0"),
    ("Ordering", "device"),
    ("Breaker", "off"),
];

/// The event number `number` of a device.
fn event(device: u32, number: u32) -> String {
    EVENT
        .replace("pump-1", &format!("pump-{device}"))
        .replace("\"7\"", &format!("\"{number}\""))
}

/// The numbers that arrived, for each device.
fn arrived(export: &Export) -> BTreeMap<String, Vec<u32>> {
    let mut arrived = BTreeMap::<_, Vec<_>>::new();
    for data in export.accepted.lock().unwrap().iter() {
        let Data::Event(event) = data else {
            panic!("not an event: {data:?}");
        };
        let ReadingValue::Simple(number) = &event.readings[0].value else {
            panic!("not a simple reading: {event:?}");
        };
        let device = event.device_name.as_str().to_owned();
        arrived.entry(device).or_default().push(number.parse().unwrap());
    }
    arrived
}

/// A service in order, with these settings too, that exports to this destination.
fn ordered(leaves: &[(&str, &str)], export: &Arc<Export>) -> Harness {
    Harness::start(
        &with(ORDERED, leaves),
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    )
}

async fn in_order(leaves: &[(&str, &str)], devices: u32, each: u32, answer: Answer) {
    let export = Export::new("a", answer);
    let service = ordered(leaves, &export);
    for number in 0..each {
        for device in 0..devices {
            service.send(&event(device, number)).await;
        }
    }
    service
        .until("all have arrived", |_| {
            export.accepted() == (devices * each) as usize
        })
        .await;
    for (device, numbers) in arrived(&export) {
        let wanted: Vec<_> = (0..each).collect();
        assert_eq!(numbers, wanted, "{device}");
    }
    service
        .until("all is entered", |service| {
            service.books().completed == u64::from(devices * each)
        })
        .await;
    service.check_books().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_objects_with_random_failures_arrive_in_the_order_of_each_device() {
    in_order(&[], 50, 200, Answer::RefuseOneOf(50)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_journal_ahead_of_everything_the_order_holds_too() {
    in_order(&[("Journal", "always")], 20, 50, Answer::RefuseOneOf(20)).await;
}

#[tokio::test]
async fn what_comes_behind_a_failed_one_waits_behind_it_without_an_attempt() {
    // Given an event of a device that failed
    let export = Export::new("a", Answer::Refuse);
    let service = ordered(&[("RetryInterval", "1h")], &export);
    service.deliver(&event(1, 0)).await;
    // When the destination is back, and an event of it and one of another device come
    export.answer(Answer::Hang);
    assert_eq!(service.deliver(&event(1, 1)).await, Disposition::Done);
    assert_eq!(export.calls(), 1, "it overtook");
    // Then the other device does not wait, and its success brings the two in order
    service.send(&event(2, 0)).await;
    export.answer(Answer::Accept);
    service
        .until("all three are there", |_| export.accepted() == 3)
        .await;
    assert_eq!(arrived(&export)["pump-1"], [0, 1]);
    service.check_books().await;
}

#[tokio::test]
async fn what_comes_behind_a_journaled_one_waits_behind_it_and_so_it_does_after_a_crash() {
    // Given an event of a device that is on its way, and in the journal
    let export = Export::new("a", Answer::Hang);
    let service = ordered(&[("Journal", "always"), ("RetryInterval", "1h")], &export);
    assert_eq!(service.deliver(&event(1, 0)).await, Disposition::Done);
    // When another one of it comes
    assert_eq!(service.deliver(&event(1, 1)).await, Disposition::Done);
    // Then that one waits
    assert_eq!(export.calls(), 1, "it overtook");
    // And the store knows whose the first one is, which is all it has to go by after a crash
    let journaled = service.objects(ObjectState::New).await;
    assert_eq!(edgehold_store::semantics::device(&journaled[0]), Some("pump-1"));
    export.answer(Answer::Accept);
    service.until("both are there", |_| export.accepted() == 2).await;
    assert_eq!(arrived(&export)["pump-1"], [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_journaled_one_goes_as_soon_as_that_has_gone() {
    // Given an event that waits behind another one for so long that it is looked for ever more seldom
    let export = Export::new("a", Answer::Hang);
    let service = ordered(&[("Journal", "always"), ("RetryInterval", "1h")], &export);
    service.deliver(&event(1, 0)).await;
    service.deliver(&event(1, 1)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    // When the one ahead of it is through
    let began = Instant::now();
    export.answer(Answer::Accept);
    service.until("both are there", |_| export.accepted() == 2).await;
    // Then it is not waited for the next look
    let waited = began.elapsed();
    assert!(waited < Duration::from_millis(100), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_not_open_yet_may_hold_what_must_go_before() {
    // Given an event that waits in the store of an earlier run
    let export = Export::new("a", Answer::Refuse);
    let service = ordered(&[("RetryInterval", "1h")], &export);
    service.deliver(&event(1, 0)).await;
    // When the next one of its device comes before the store is open
    service.state.send_replace(StoreState::Opening);
    export.answer(Answer::Accept);
    let mut answer = service.send(&event(1, 1)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(export.calls(), 1, "it overtook");
    // Then it waits behind it, and both go when something tells of the destination
    service
        .state
        .send_replace(StoreState::Open(service.queue.clone()));
    assert_eq!(answer.recv().await, Some(Disposition::Done));
    assert_eq!(export.calls(), 1, "it overtook");
    service.deliver(&event(2, 0)).await;
    service.until("all are there", |_| export.accepted() == 3).await;
    assert_eq!(arrived(&export)["pump-1"], [0, 1]);
    service.check_books().await;
}
