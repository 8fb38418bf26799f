//! Settings of retries that change while objects wait.

use edgehold_store::Claim;
use tokio::time::Instant;

use crate::{watched::Watched, *};

/// Nothing becomes due by itself: a success brings it.
const LATER: &[(&str, &str)] = &[
    ("Enabled", "true"),
    ("RetryInterval", "1h"),
    ("MaxRetryCount", "0"),
    ("Breaker", "off"),
];

/// These settings of Store and Forward beside [`LATER`].
fn later(more: &[(&str, &str)]) -> Arc<Writable> {
    settings(&with(LATER, more))
}

/// A service with these settings, and so many events behind its export.
async fn with_backlog(export: &Arc<Export>, more: &[(&str, &str)], waiting: usize) -> Harness {
    let service = Harness::start(LATER, vec![pipeline("p", vec![step("A", Call(export.clone()))])]);
    service.settings.send_replace(later(more));
    fill(&service, export, waiting).await;
    service
}

async fn fill(service: &Harness, export: &Export, waiting: usize) {
    export.answer(Answer::Refuse);
    for _ in 0..waiting {
        service.deliver(EVENT).await;
    }
    assert_eq!(service.states().await, (waiting as u64, 0));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_leaves_at_the_rate_that_is_set_now() {
    // Given a backlog that may leave at two a second
    let export = Export::new("a", Answer::Refuse);
    let service = with_backlog(&export, &[("RetryRate", "2")], 40).await;
    // When it may leave
    export.answer(Answer::Accept);
    let began = Instant::now();
    service.deliver(EVENT).await;
    service
        .until("the fifth has left", |_| export.accepted() > 5)
        .await;
    // Then it does so at that rate
    let taken = began.elapsed();
    assert!(taken >= Duration::from_secs(2), "five in {taken:?}");
    // And when ten are allowed, at that one
    service.settings.send_replace(later(&[("RetryRate", "10")]));
    let began = Instant::now();
    service
        .until("20 more have left", |_| export.accepted() > 25)
        .await;
    let taken = began.elapsed();
    assert!(
        taken > Duration::from_secs(1) && taken < Duration::from_secs(4),
        "20 in {taken:?}"
    );
    // And without limit the rest is gone at once
    service.settings.send_replace(later(&[("RetryRate", "0")]));
    let began = Instant::now();
    service
        .until("all have left", |_| export.accepted() == 1 + 40)
        .await;
    let taken = began.elapsed();
    assert!(taken < Duration::from_secs(1), "the rest in {taken:?}");
    service
        .until("all is entered", |service| service.books().completed == 41)
        .await;
    service.check_books().await;
}

/// What is asked for while a backlog leaves under each of these settings, one after the other.
async fn claimed(in_turn: [(&str, &str); 2]) -> [Vec<Claim>; 2] {
    const WAITING: usize = 200;
    let export = Export::new("a", Answer::Refuse);
    let service = with_backlog(&export, &[], 0).await;
    let watched = Arc::new(Watched::new(service.queue.clone()));
    service.state.send_replace(StoreState::Open(watched.clone()));
    let mut claims = in_turn.map(|_| Vec::new());
    for (claims, leaf) in claims.iter_mut().zip(in_turn) {
        service.settings.send_replace(later(&[leaf]));
        fill(&service, &export, WAITING).await;
        watched.claims();
        let completed = service.books().completed + WAITING as u64 + 1;
        export.answer(Answer::Accept);
        service.deliver(EVENT).await;
        service
            .until("all have left", |service| service.books().completed == completed)
            .await;
        *claims = watched.claims();
    }
    service.check_books().await;
    claims
}

#[tokio::test]
async fn a_page_has_as_many_objects_as_are_set_now() {
    let [few, many] = claimed([("RetryBatchSize", "3"), ("RetryBatchSize", "20")]).await;
    let largest = |claims: &[Claim]| claims.iter().map(|claim| claim.limit).max();
    assert_eq!(largest(&few), Some(3));
    assert_eq!(largest(&many), Some(20));
}

#[tokio::test]
async fn a_page_has_as_many_bytes_as_are_set_now() {
    let [small, large] = claimed([("RetryBatchBytes", "2KiB"), ("RetryBatchBytes", "8KiB")]).await;
    let largest = |claims: &[Claim]| claims.iter().map(|claim| claim.max_bytes).max();
    assert_eq!(largest(&small), Some(2 << 10));
    assert_eq!(largest(&large), Some(8 << 10));
}

#[tokio::test]
async fn what_becomes_of_objects_whose_pipeline_changes_is_as_set_now() {
    // Given two objects of two pipelines
    let export = Export::new("a", Answer::Refuse);
    let of = |name| step(name, Call(export.clone()));
    let leaves = [
        ("Enabled", "true"),
        ("RetryInterval", "1s"),
        ("MaxRetryCount", "0"),
    ];
    let service = Harness::start(
        &leaves,
        vec![pipeline("p", vec![of("A")]), pipeline("q", vec![of("A")])],
    );
    service.deliver(EVENT).await;
    // When one of them changes
    service.change(vec![pipeline("p", vec![of("B")]), pipeline("q", vec![of("A")])]);
    // Then its object is set aside
    service
        .until("it is set aside", |service| service.books().given_up == 1)
        .await;
    assert_eq!(service.states().await, (1, 1));
    // And the other one, once it is so set, is discarded by name
    service.settings.send_replace(settings(
        &[&leaves[..], &[("OnPipelineChange", "discard")]].concat(),
    ));
    service.change(vec![pipeline("p", vec![of("B")]), pipeline("q", vec![of("B")])]);
    service
        .until("it is discarded", |service| {
            service.books().dropped_pipeline_changed == 1
        })
        .await;
    assert_eq!(service.states().await, (0, 1));
    service.check_books().await;
}
