//! The journal: what takes long is written, acknowledged and goes on.

use tokio::time::Instant;

use crate::{watched::Watched, *};

const INSTANT: (&str, &str) = ("JournalDelay", "0s");

fn service(leaves: &[(&str, &str)], export: &Arc<Export>) -> Harness {
    Harness::start(
        &with(ENABLED, leaves),
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    )
}

#[tokio::test]
async fn a_delivery_that_takes_long_is_written_acknowledged_and_goes_on() {
    // Given an export that hangs
    let export = Export::new("a", Answer::Hang);
    let service = service(&[], &export);
    // When an event comes, then it is acknowledged all the same, because the store has it as it came
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    let rows = service.objects(ObjectState::New).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].payload, EVENT.as_bytes());
    assert!(matches!(
        &rows[0].input,
        StoredInput::Delivery {
            form: PayloadForm::Json,
            ..
        }
    ));
    service.check_books().await;
    // And when the export comes through, then nothing is left, and it was called once
    export.answer(Answer::Accept);
    service
        .until("it is delivered", |service| service.books().completed == 1)
        .await;
    assert_eq!(service.states().await, (0, 0));
    assert_eq!((export.calls(), service.books().journaled), (1, 1));
    service.check_books().await;
}

#[tokio::test]
async fn a_delivery_that_is_quick_is_not_written() {
    let export = Export::new("a", Answer::Accept);
    let service = service(&[("JournalDelay", "1h")], &export);
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    assert_eq!(service.books().journaled, 0);
    service.check_books().await;
}

#[tokio::test]
async fn without_journal_what_takes_long_is_not_acknowledged_before_its_end() {
    let export = Export::new("a", Answer::Hang);
    let service = service(&[("Journal", "off"), INSTANT], &export);
    let mut answer = service.send(EVENT).await;
    service.until("it is sent", |_| export.calls() == 1).await;
    assert!(answer.try_recv().is_err());
    assert_eq!(service.states().await, (0, 0));
    export.answer(Answer::Accept);
    assert_eq!(answer.recv().await, Some(Disposition::Done));
    service.check_books().await;
}

#[tokio::test]
async fn with_journal_always_the_row_is_there_before_the_first_function_is_called() {
    /// Notes how many objects wait when it is called.
    struct Look(Arc<Mutex<Option<Arc<dyn RetryQueue>>>>, Arc<Mutex<Vec<u64>>>);

    impl AppFunction for Look {
        fn call<'a>(&'a self, _: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
            Box::pin(async move {
                let queue = self.0.lock().unwrap().clone().unwrap();
                let waiting = queue.stats().await.unwrap().new.objects;
                self.1.lock().unwrap().push(waiting);
                Ok(Flow::Continue(data))
            })
        }
    }

    let (queue, seen) = (Arc::default(), Arc::default());
    let leaves = [("Enabled", "true"), ("Journal", "always")];
    let look = step("Look", Look(Arc::clone(&queue), Arc::clone(&seen)));
    let service = Harness::start(&leaves, vec![pipeline("p", vec![look])]);
    *queue.lock().unwrap() = Some(service.queue.clone());
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    service
        .until("it has ended", |service| service.books().completed == 1)
        .await;
    assert_eq!(*seen.lock().unwrap(), [1]);
    assert_eq!(service.states().await, (0, 0));
    service.check_books().await;
}

#[tokio::test]
async fn what_was_journaled_and_fails_is_one_object_with_what_the_export_received() {
    let export = Export::new("a", Answer::Hang);
    let service = service(&[("RetryInterval", "1h")], &export);
    service.deliver(EVENT).await;
    let journaled = service.objects(ObjectState::New).await.remove(0);
    export.answer(Answer::Refuse);
    service
        .until("it has failed", |service| service.books().stored == 1)
        .await;
    let failed = service.objects(ObjectState::Failed).await;
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].id, journaled.id);
    assert_eq!(failed[0].attempts, 1);
    assert!(matches!(failed[0].input, StoredInput::Bytes { .. }));
    assert_eq!(failed[0].destination, Some(Destination::new("a")));
    service.check_books().await;
}

#[tokio::test]
async fn what_was_journaled_and_cannot_succeed_goes_to_the_error_collection() {
    let export = Export::new("a", Answer::Hang);
    let service = service(&[], &export);
    service.deliver(EVENT).await;
    export.answer(Answer::Reject);
    service
        .until("it is set aside", |service| service.books().given_up == 1)
        .await;
    assert_eq!(service.states().await, (0, 1));
    service.check_books().await;
}

#[tokio::test]
async fn what_was_journaled_and_asks_not_to_be_kept_is_dropped_by_name() {
    let export = Export::new("a", Answer::Hang);
    let service = service(&[], &export);
    service.deliver(EVENT).await;
    export.answer(Answer::RefuseWithoutKeeping);
    service
        .until("it is dropped", |service| {
            service.books().dropped_not_persistent == 1
        })
        .await;
    assert_eq!(service.states().await, (0, 0));
    service.check_books().await;
}

#[tokio::test]
async fn in_a_hurry_what_was_journaled_waits_where_it_stood_without_a_counted_attempt() {
    let (first, second) = (Export::new("a", Answer::Accept), Export::new("b", Answer::Hang));
    let steps = vec![step("A", Call(first.clone())), step("B", Call(second.clone()))];
    let service = Harness::start(ENABLED, vec![pipeline("p", steps)]);
    service.deliver(EVENT).await;
    service.shutdown.trigger();
    service.hurry.trigger();
    service
        .until("it waits", |service| service.books().stored == 1)
        .await;
    let waiting = service.objects(ObjectState::Failed).await.remove(0);
    assert_eq!((waiting.position, waiting.attempts), (1, 0));
    assert_eq!((first.calls(), second.calls()), (1, 1));
    service.check_books().await;
}

#[tokio::test]
async fn delivered_objects_are_kept_as_long_as_the_history_says() {
    let export = Export::new("a", Answer::Accept);
    let leaves = [("Journal", "always"), ("HistoryRetention", "1h")];
    let service = service(&leaves, &export);
    service.deliver(EVENT).await;
    service
        .until("it is delivered", |service| service.books().completed == 1)
        .await;
    let history = service.objects(ObjectState::Success).await;
    assert_eq!(history[0].payload, EVENT.as_bytes());
    service.check_books().await;
    service.settings.send_replace(settings(ENABLED));
    wait::until("the history is gone", wait::LONG, async || {
        service.objects(ObjectState::Success).await.is_empty()
    })
    .await;
    service.check_books().await;
}

#[tokio::test]
async fn what_hangs_and_is_journaled_leaves_its_place_to_the_next_delivery() {
    // Given room for one delivery at a time, and an export that hangs
    let hanging = Export::new("a", Answer::Hang);
    let service = service(&[("Pipeline/Concurrency", "1")], &hanging);
    // When more come, then each is taken, journaled and acknowledged
    for _ in 0..5 {
        assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    }
    // And those that find no room to wait for their turn are sent from the store
    service
        .until("all are on their way", |_| hanging.calls() == 3)
        .await;
    service.check_books().await;
}

#[tokio::test(start_paused = true)]
async fn while_others_end_one_after_the_other_a_run_gets_more_time_but_not_for_ever() {
    /// Hangs for one device.
    struct HangsForOne;

    impl AppFunction for HangsForOne {
        fn call<'a>(
            &'a self,
            ctx: &'a mut Context,
            data: Data,
        ) -> BoxFuture<'a, Result<Flow, FunctionError>> {
            Box::pin(async move {
                if ctx.value(Context::DEVICE_NAME) == Some("pump-2") {
                    std::future::pending::<()>().await;
                }
                Ok(Flow::Continue(data))
            })
        }
    }

    let leaves = [
        ("Enabled", "true"),
        ("JournalDelay", "50ms"),
        ("Pipeline/Concurrency", "4"),
    ];
    let service = Harness::start(&leaves, vec![pipeline("p", vec![step("A", HangsForOne)])]);
    let hanging = EVENT.replace("pump-1", "pump-2");

    // When nothing else happens, then one delay is all it gets.
    let began = Instant::now();
    assert_eq!(service.deliver(&hanging).await, Disposition::Done);
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );

    // When others end one after the other, then it gets more, and is written in the end all the same.
    let began = Instant::now();
    let mut answer = service.send(&hanging).await;
    while answer.try_recv().is_err() {
        service.deliver(EVENT).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(began.elapsed() < Duration::from_secs(2), "it is not written");
    }
    assert!(
        began.elapsed() > Duration::from_millis(300),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(service.books().journaled, 2);
    service.check_books().await;
}

#[tokio::test]
async fn a_run_that_ends_while_its_row_is_written_is_acknowledged_though_the_store_goes_then() {
    // Given a run whose row is being written when it ends
    let export = Export::new("a", Answer::Hang);
    let service = service(&[INSTANT], &export);
    let late = Arc::new(Watched::answering_late(service.queue.clone()));
    service.state.send_replace(StoreState::Open(late.clone()));
    let mut acknowledged = service.send(EVENT).await;
    wait::until("the row is written", wait::LONG, async || {
        service
            .queue
            .stats()
            .await
            .is_ok_and(|stats| stats.new.objects == 1)
    })
    .await;
    export.answer(Answer::Refuse);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // When the store answers and is gone
    service.state.send_replace(StoreState::Opening);
    late.answers.add_permits(1);
    // Then nobody waits for its end, which is written when the store is back
    let told = tokio::time::timeout(wait::LONG, acknowledged.recv()).await;
    assert_eq!(told, Ok(Some(Disposition::Done)));
    assert_eq!(service.books().stored, 0);
    service
        .state
        .send_replace(StoreState::Open(service.queue.clone()));
    service
        .until("it is stored", |service| service.books().stored == 1)
        .await;
    assert_eq!(service.states().await, (1, 0));
    service.check_books().await;
}
