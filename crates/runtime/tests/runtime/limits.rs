//! How much may wait and how long: `MaxItems`, `MaxBytes`, `WhenFull`, `MaxAge`, and what the error collection keeps.

use crate::*;

const NEVER: (&str, &str) = ("RetryInterval", "1h");
const TWO: (&str, &str) = ("MaxItems", "2");

fn service(leaves: &[(&str, &str)], export: &Arc<Export>) -> Harness {
    let enabled = [("Enabled", "true"), NEVER, ("Journal", "off")];
    Harness::start(
        &with(&enabled, leaves),
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    )
}

async fn correlation_ids(service: &Harness, state: ObjectState) -> Vec<String> {
    let objects = service.objects(state).await;
    objects
        .iter()
        .map(|object| object.correlation_id.as_str().to_owned())
        .collect()
}

#[tokio::test]
async fn by_default_a_delivery_beyond_the_limit_waits_unacknowledged_until_there_is_room() {
    let export = Export::new("a", Answer::Refuse);
    let service = service(&[TWO], &export);
    for _ in 0..2 {
        service.deliver(EVENT).await;
    }
    let mut third = service.send(EVENT).await;
    service.until("it has failed", |_| export.calls() == 3).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(third.try_recv().is_err());
    assert_eq!(service.states().await, (2, 0));
    service
        .settings
        .send_replace(settings(&[("Enabled", "true"), NEVER]));
    assert_eq!(third.recv().await, Some(Disposition::Done));
    assert_eq!(service.states().await, (3, 0));
    service.check_books().await;
}

#[tokio::test]
async fn drop_newest_drops_what_does_not_fit_by_name() {
    let export = Export::new("a", Answer::Refuse);
    let service = service(&[TWO, ("WhenFull", "drop-newest")], &export);
    for id in ["1", "2", "3"] {
        assert_eq!(service.deliver_as(id, EVENT).await, Disposition::Done);
    }
    assert_eq!(correlation_ids(&service, ObjectState::Failed).await, ["1", "2"]);
    assert_eq!(service.books().dropped_capacity, 1);
    service.check_books().await;
}

#[tokio::test]
async fn drop_oldest_makes_room_by_name() {
    let export = Export::new("a", Answer::Refuse);
    let service = service(&[TWO, ("WhenFull", "drop-oldest")], &export);
    for id in ["1", "2", "3", "4"] {
        assert_eq!(service.deliver_as(id, EVENT).await, Disposition::Done);
    }
    assert_eq!(correlation_ids(&service, ObjectState::Failed).await, ["3", "4"]);
    assert_eq!(service.books().dropped_capacity, 2);
    service.check_books().await;
}

#[tokio::test]
async fn also_with_the_journal_ahead_what_is_new_gets_room_as_the_settings_say() {
    for (when_full, waiting, given_up) in [
        ("drop-oldest", vec!["2", "3"], vec![]),
        ("drop-newest", vec!["1", "2"], vec![]),
        ("dead-letter", vec!["1", "2"], vec!["3"]),
    ] {
        let export = Export::new("a", Answer::Refuse);
        let leaves = [TWO, ("Journal", "always"), ("WhenFull", when_full)];
        let service = service(&leaves, &export);
        for id in ["1", "2", "3"] {
            let told = tokio::time::timeout(wait::LONG, service.deliver_as(id, EVENT)).await;
            assert_eq!(told, Ok(Disposition::Done), "{when_full}");
        }
        assert_eq!(
            correlation_ids(&service, ObjectState::Failed).await,
            waiting,
            "{when_full}"
        );
        assert_eq!(
            correlation_ids(&service, ObjectState::Error).await,
            given_up,
            "{when_full}"
        );
        service.check_books().await;
    }
}

#[tokio::test]
async fn drop_oldest_makes_room_for_bytes_too() {
    let export = Export::new("a", Answer::Refuse);
    let room = (EVENT.len() * 5 / 2).to_string();
    let service = service(
        &[("MaxBytes", room.as_str()), ("WhenFull", "drop-oldest")],
        &export,
    );
    for id in ["1", "2", "3"] {
        assert_eq!(service.deliver_as(id, EVENT).await, Disposition::Done);
    }
    assert_eq!(correlation_ids(&service, ObjectState::Failed).await, ["2", "3"]);
    service.check_books().await;
}

#[tokio::test]
async fn dead_letter_sets_aside_what_does_not_fit() {
    let export = Export::new("a", Answer::Refuse);
    let service = service(&[TWO, ("WhenFull", "dead-letter")], &export);
    for id in ["1", "2", "3"] {
        assert_eq!(service.deliver_as(id, EVENT).await, Disposition::Done);
    }
    assert_eq!(correlation_ids(&service, ObjectState::Failed).await, ["1", "2"]);
    assert_eq!(correlation_ids(&service, ObjectState::Error).await, ["3"]);
    service.check_books().await;
}

#[tokio::test]
async fn a_full_store_is_a_problem_of_health_while_it_lasts() {
    let export = Export::new("a", Answer::Refuse);
    let service = service(&[("MaxItems", "1")], &export);
    service.deliver(EVENT).await;
    assert!(service.health.all().is_empty());
    let mut second = service.send(EVENT).await;
    service
        .until("it is named", |service| {
            service.health.all().contains_key(Health::STORE)
        })
        .await;
    service
        .settings
        .send_replace(settings(&[("Enabled", "true"), NEVER]));
    assert_eq!(second.recv().await, Some(Disposition::Done));
    assert!(service.health.all().is_empty());
}

#[tokio::test]
async fn what_waits_longer_than_its_age_is_set_aside() {
    let export = Export::new("a", Answer::Refuse);
    let service = service(&[("MaxAge", "1s")], &export);
    service.deliver(EVENT).await;
    service
        .until("it is set aside", |service| service.books().given_up == 1)
        .await;
    assert_eq!(service.states().await, (0, 1));
    service.check_books().await;
}

#[tokio::test]
async fn the_error_collection_keeps_what_its_settings_say_and_drops_the_rest_by_name() {
    let export = Export::new("a", Answer::Reject);
    let service = service(&[], &export);
    for id in ["1", "2", "3"] {
        service.deliver_as(id, EVENT).await;
    }
    assert_eq!(service.states().await, (0, 3));
    // By number: the oldest go.
    let two = [("Enabled", "true"), ("DeadLetterMaxItems", "2")];
    service.settings.send_replace(settings(&two));
    service
        .until("one is dropped", |service| {
            service.books().dropped_dead_letter_retention == 1
        })
        .await;
    assert_eq!(correlation_ids(&service, ObjectState::Error).await, ["2", "3"]);
    // By age.
    let short = [("Enabled", "true"), ("DeadLetterRetention", "1ms")];
    service.settings.send_replace(settings(&short));
    service
        .until("all are dropped", |service| {
            service.books().dropped_dead_letter_retention == 3
        })
        .await;
    service.check_books().await;
}
