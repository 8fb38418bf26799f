//! The function-retry machine of the examples, with numbers that are drawn by the test: its four use cases.

use std::sync::{Arc, Mutex};

use edgehold::{AttemptError, ErrorReason, ListRequest, ObjectState, StoreView, StoredObject};

use super::*;

#[path = "../../examples/retry_machine.rs"]
#[expect(dead_code, reason = "its main is for a process of its own")]
mod machine;

struct Case {
    folder: TempDir,
    invocation: Invocation,
    running: Running,
    /// What is still to be drawn.
    left: Arc<Mutex<Vec<u64>>>,
}

impl Case {
    /// The machine with these numbers, its own configuration and one event. Whoever draws more of them fails the test.
    async fn drawing(numbers: &[u64], edit: impl Fn(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let configuration =
            include_str!("../../examples/retry_machine/configuration.yaml").replace("Port: 59791", "Port: 0");
        fs::write(folder.path().join("configuration.yaml"), edit(configuration)).unwrap();
        let path = folder.path().display();
        let args = [format!("-cd={path}"), format!("--data-dir={path}/data")];
        let insecure = ("EDGEX_SECURITY_SECRET_STORE".into(), "false".into());
        let invocation = Invocation::new(args.map(OsString::from), [insecure]).unwrap();
        let left = Arc::new(Mutex::new(numbers.iter().rev().copied().collect::<Vec<_>>()));
        let numbers = left.clone();
        let draw = move || numbers.lock().unwrap().pop().expect("nothing more is drawn");
        let service = machine::service(draw, Duration::from_secs(3_600));
        let running = service.build(&invocation).await.unwrap().spawn();
        Self {
            folder,
            invocation,
            running,
            left,
        }
    }

    /// Waits until the event is in this state, and shows it.
    async fn reaches(&self, state: ObjectState) -> StoredObject {
        wait::until("the event to get there", wait::LONG, async || {
            let view = StoreView::open(&self.invocation, "app-retry-machine")
                .await
                .map_err(|e| e.to_string())?;
            let request = ListRequest {
                states: vec![state],
                filter: Default::default(),
                after_seq: 0,
                limit: 10,
            };
            let mut page = view.list(request).await.map_err(|e| e.to_string())?;
            view.close().await;
            page.objects.pop().ok_or_else(|| format!("not yet {state:?}"))
        })
        .await
    }

    /// Ends the service; the event is in one state and nowhere else, and the books say so.
    async fn end(self, state: ObjectState) {
        let status = self.running.status().await;
        let (books, store) = (status.books, status.store.unwrap());
        let count = |wanted| u64::from(state == wanted);
        assert_eq!(
            (
                store.new.objects,
                store.success.objects,
                store.failed.objects,
                store.error.objects
            ),
            (
                0,
                count(ObjectState::Success),
                count(ObjectState::Failed),
                count(ObjectState::Error)
            )
        );
        assert_eq!(
            (books.started, books.journaled, books.dropped, books.in_flight),
            (1, 1, 0, 0)
        );
        assert_eq!(books.completed + store.waiting() + store.error.objects, 1);
        assert_eq!(
            *self.left.lock().unwrap(),
            Vec::<u64>::new(),
            "all has been drawn"
        );
        self.running.drain(Duration::from_secs(5)).await;
        drop(self.folder);
    }
}

fn as_it_is(configuration: String) -> String {
    configuration
}

/// So that what has failed stays so for the length of a test.
fn with_pauses(configuration: String) -> String {
    configuration.replace("Backoff: none", "Backoff: fixed")
}

fn attempts(object: &StoredObject) -> Vec<(u32, &str)> {
    let errors = object.errors.as_slice();
    errors
        .iter()
        .map(|AttemptError { attempt, error, .. }| (*attempt, error.as_str()))
        .collect()
}

/// The event as it was created.
fn assert_whole(object: &StoredObject) {
    let event: serde_json::Value = serde_json::from_slice(&object.payload).unwrap();
    assert_eq!(
        (&event["deviceName"], &event["readings"][0]["value"]),
        (&"machine".into(), &"1".into())
    );
}

#[tokio::test]
async fn a_new_event_succeeds() {
    let case = Case::drawing(&[8], as_it_is).await;
    let event = case.reaches(ObjectState::Success).await;
    assert_eq!((event.attempts, attempts(&event)), (0, vec![]));
    assert!(event.ended_at.is_some(), "{event:?}");
    assert_whole(&event);
    case.end(ObjectState::Success).await;
}

#[tokio::test]
async fn a_new_event_fails_and_is_counted() {
    let case = Case::drawing(&[7], with_pauses).await;
    let event = case.reaches(ObjectState::Failed).await;
    assert_eq!((event.attempts, event.last_error.as_deref()), (1, Some("drew 7")));
    assert_eq!(attempts(&event), [(1, "drew 7")]);
    assert_whole(&event);
    case.end(ObjectState::Failed).await;
}

/// Nothing wakes it but its own updates: the next event would come in an hour, and so would the interval.
#[tokio::test]
async fn a_failed_event_fails_again_and_over_the_maximum_is_an_error() {
    let case = Case::drawing(&[1, 3, 5, 9], as_it_is).await;
    let event = case.reaches(ObjectState::Error).await;
    assert_eq!(
        (event.attempts, event.reason),
        (4, Some(ErrorReason::RetriesExceeded))
    );
    assert_eq!(
        attempts(&event),
        [(1, "drew 1"), (2, "drew 3"), (3, "drew 5"), (4, "drew 9")]
    );
    assert_whole(&event);
    case.end(ObjectState::Error).await;
}

#[tokio::test]
async fn a_failed_event_succeeds() {
    let case = Case::drawing(&[1, 3, 5, 10], as_it_is).await;
    let event = case.reaches(ObjectState::Success).await;
    assert_eq!(event.attempts, 3);
    assert_eq!(attempts(&event), [(1, "drew 1"), (2, "drew 3"), (3, "drew 5")]);
    assert_whole(&event);
    case.end(ObjectState::Success).await;
}
