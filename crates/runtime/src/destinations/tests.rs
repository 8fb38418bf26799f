use edgehold_config::{Layers, resolve};
use edgehold_core::{ErrorClass, Fault};
use futures_util::FutureExt;

use super::*;

/// Of which a quarter is room for one that waits.
const MAX_BYTES: u32 = 4 * (20 << 10);

/// Destinations with these settings below `Writable`.
struct There {
    destinations: Arc<Destinations>,
    settings: watch::Sender<Arc<Writable>>,
    store: watch::Sender<StoreState>,
}

fn settings(leaves: &[(&str, &str)]) -> Arc<Writable> {
    let mut layers = Layers::default();
    layers.private.insert("Writable/StoreAndForward/Enabled", "true");
    for (key, value) in leaves {
        layers.private.insert(format!("Writable/{key}"), *value);
    }
    resolve(&layers, None).configuration.writable.clone()
}

fn there(leaves: &[(&str, &str)]) -> There {
    let (settings, settings_in) = watch::channel(settings(leaves));
    let (store, queue) = watch::channel(StoreState::Opening);
    There {
        destinations: Arc::new(Destinations::new(settings_in, queue, MAX_BYTES)),
        settings,
        store,
    }
}

impl There {
    fn visitor(&self) -> Arc<Visitor> {
        Visitor::fresh(self.destinations.clone())
    }

    /// Lets sixteen runs fail.
    async fn stops_answering(&self, destination: &Destination) {
        for _ in 0..16 {
            let visitor = self.visitor();
            visitor.enter(destination, Unsent::Kept).await.unwrap();
            visitor.leave(Answer::of(
                &FunctionError::transient("").with_fault(Fault::Destination),
            ));
        }
    }
}

fn somewhere() -> Destination {
    Destination::new("http://a:1")
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_refused_while_the_destination_does_not_answer_and_what_is_lost_is_not() {
    let there = there(&[]);
    there.stops_answering(&somewhere()).await;
    let refusal = there
        .visitor()
        .enter(&somewhere(), Unsent::Kept)
        .await
        .unwrap_err();
    assert_eq!(refusal.class(), ErrorClass::NotAttempted);
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(30)));
    let other = Destination::new("http://b:1");
    there.visitor().enter(&other, Unsent::Kept).await.unwrap();
    there.visitor().enter(&somewhere(), Unsent::Lost).await.unwrap();

    // Without Store and Forward, or a store, nothing is kept.
    there.store.send_replace(StoreState::Failed(String::new()));
    there.visitor().enter(&somewhere(), Unsent::Kept).await.unwrap();
    there.store.send_replace(StoreState::Opening);
    there
        .settings
        .send_replace(settings(&[("StoreAndForward/Enabled", "false")]));
    there.visitor().enter(&somewhere(), Unsent::Kept).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_visit_ends_with_its_visitor() {
    let there = there(&[("Pipeline/Concurrency", "1")]);
    let first = there.visitor();
    first.enter(&somewhere(), Unsent::Kept).await.unwrap();
    let second = there.visitor();
    let destination = somewhere();
    let mut enters = second.enter(&destination, Unsent::Kept);
    assert!((&mut enters).now_or_never().is_none());
    drop(first);
    enters.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_let_in_by_more_room_or_refused_when_it_stops_answering() {
    let there = there(&[("Pipeline/Concurrency", "16")]);
    let inside: Vec<_> = (0..16).map(|_| there.visitor()).collect();
    for visitor in &inside {
        visitor.enter(&somewhere(), Unsent::Kept).await.unwrap();
    }
    let (one, other) = (there.visitor(), there.visitor());
    let destination = somewhere();
    let mut one_enters = one.enter(&destination, Unsent::Kept);
    let mut other_enters = other.enter(&destination, Unsent::Lost);
    assert!((&mut one_enters).now_or_never().is_none());
    assert!((&mut other_enters).now_or_never().is_none());

    // The one that is lost has to wait for its place, the other one is refused.
    for visitor in inside.iter().take(16) {
        visitor.leave(Answer::Failed { leave_alone: None });
    }
    assert_eq!(one_enters.await.unwrap_err().class(), ErrorClass::NotAttempted);
    other_enters.await.unwrap();

    // And more room lets in who waits.
    there.settings.send_replace(settings(&[
        ("Pipeline/Concurrency", "1"),
        ("StoreAndForward/Breaker", "off"),
    ]));
    let third = there.visitor();
    let mut third_enters = third.enter(&destination, Unsent::Kept);
    assert!((&mut third_enters).now_or_never().is_none());
    there.settings.send_replace(settings(&[
        ("Pipeline/Concurrency", "2"),
        ("StoreAndForward/Breaker", "off"),
    ]));
    third_enters.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_room_to_wait_is_told_until_one_of_those_who_wait_is_let_in() {
    let there = there(&[("Pipeline/Concurrency", "1")]);
    let busy = there.visitor();
    busy.enter(&somewhere(), Unsent::Kept).await.unwrap();
    let destination = somewhere();
    let [lost, first, second, third] = [(); 4].map(|()| there.visitor());
    assert!(first.has_no_room(0).now_or_never().is_none(), "it does not wait");

    // Given one that waits and would be lost elsewhere, and one that has the room
    let mut lost_enters = lost.enter(&destination, Unsent::Lost);
    let mut first_enters = first.enter(&destination, Unsent::Kept);
    let mut second_enters = second.enter(&destination, Unsent::Kept);
    assert!((&mut lost_enters).now_or_never().is_none());
    assert!((&mut first_enters).now_or_never().is_none());
    assert!((&mut second_enters).now_or_never().is_none());
    assert!(lost.has_no_room(0).now_or_never().is_none());
    assert!(first.has_no_room(0).now_or_never().is_none());
    assert!(first.has_no_room(0).now_or_never().is_none(), "it keeps its room");

    // Then the next one is told, and gives up waiting here
    assert_eq!(second.has_no_room(0).await, somewhere());
    drop(second_enters);

    // And when those before have been let in there is room again
    drop(busy);
    lost_enters.await.unwrap();
    drop(lost);
    first_enters.await.unwrap();
    let mut third_enters = third.enter(&destination, Unsent::Kept);
    assert!((&mut third_enters).now_or_never().is_none());
    assert!(third.has_no_room(0).now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_has_not_said_where_it_goes_says_nothing_of_the_others() {
    let there = there(&[]);
    for number in 0..100 {
        let id = StoredObjectId::from_uuid(Uuid::from_u128(number));
        let visitor = Visitor::retried(&there.destinations, id, None).unwrap();
        visitor.enter(&somewhere(), Unsent::Lost).await.unwrap();
        visitor.leave(Answer::Failed { leave_alone: None });
    }
    assert!(there.destinations.outlook(Some(&somewhere())).probing);
    let unnamed = there.destinations.outlook(None);
    assert!(!unnamed.probing && unnamed.room > 0, "{unnamed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_let_in_once_where_it_waited() {
    let there = there(&[("Pipeline/Concurrency", "1")]);
    let busy = there.visitor();
    busy.enter(&somewhere(), Unsent::Kept).await.unwrap();
    let id = StoredObjectId::from_uuid(Uuid::from_u128(1));
    let retry = Visitor::retried(&there.destinations, id, Some(&somewhere())).unwrap();
    // Fresh ones do not take its place, and it does not take theirs.
    retry
        .enter(&somewhere(), Unsent::Kept)
        .now_or_never()
        .expect("it is inside")
        .unwrap();
    assert_eq!(there.destinations.outlook(Some(&somewhere())).room, 3);
    assert_eq!(retry.succeed(None), Some(somewhere()));
    assert_eq!(there.destinations.outlook(Some(&somewhere())).room, 5);
}

#[tokio::test(start_paused = true)]
async fn destinations_of_which_nothing_is_to_be_remembered_are_forgotten() {
    let there = there(&[]);
    there.stops_answering(&somewhere()).await;
    for number in 0..3 * REMEMBERED {
        let visitor = there.visitor();
        let destination = Destination::new(&format!("http://host-{number}:1"));
        visitor.enter(&destination, Unsent::Kept).await.unwrap();
        visitor.succeed(Some(destination));
    }
    assert!(there.destinations.known.lock().unwrap().len() <= REMEMBERED);
    assert!(there.destinations.outlook(Some(&somewhere())).probing);
}
