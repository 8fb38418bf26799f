//! Batches: who waits with whom, when they go on, and where everything is meanwhile.

use edgehold_core::{BatchItem, Batching};

use crate::*;

/// Batches texts by count, by time or both, into a list of byte strings.
#[derive(Clone, Copy, Debug)]
struct Collect {
    threshold: usize,
    window: Option<Duration>,
}

const NEVER: usize = usize::MAX;

fn by_count(threshold: usize) -> Collect {
    let window = None;
    Collect { threshold, window }
}

fn by_time(window: Duration) -> Collect {
    Collect {
        threshold: NEVER,
        window: Some(window),
    }
}

impl Transform for Collect {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        Ok(Flow::Batch(BatchItem {
            data: Data::Bytes(data.to_bytes(ctx.generation())),
            batching: Arc::new(*self),
        }))
    }
}

impl Batching for Collect {
    fn is_full(&self, items: usize) -> bool {
        items >= self.threshold
    }

    fn window(&self) -> Option<Duration> {
        self.window
    }

    fn combine(&self, items: Vec<Data>) -> Data {
        let bytes = |item| match item {
            Data::Bytes(bytes) => bytes,
            other => panic!("{other:?} is no item"),
        };
        Data::ByteStrings(items.into_iter().map(bytes).collect())
    }
}

/// Hands on the correlation id, by which items can be told apart.
struct Name;

impl Transform for Name {
    fn apply(&self, ctx: &mut Context, _: Data) -> Result<Flow, FunctionError> {
        Ok(Flow::Continue(Data::Text(ctx.correlation_id().to_string())))
    }
}

fn batching(collect: Collect, export: &Arc<Export>) -> Arc<Pipeline> {
    pipeline(
        "p",
        vec![
            step("Name", Name),
            step("Batch", collect),
            step("A", Call(export.clone())),
        ],
    )
}

/// What was exported: the items of each batch.
fn batches(export: &Export) -> Vec<Vec<String>> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let items = |data: &Data| match data {
        Data::ByteStrings(items) => items.iter().map(text).collect(),
        other => panic!("{other:?} is no batch"),
    };
    export.accepted.lock().unwrap().iter().map(items).collect()
}

async fn deliver_all(service: &Harness, ids: &[&str]) {
    for id in ids {
        assert_eq!(service.deliver_as(id, EVENT).await, Disposition::Done, "{id}");
    }
}

async fn until_in_batch(service: &Harness, runs: u64) {
    service
        .until("so many wait", |service| service.books().in_batch == runs)
        .await;
}

const OFF: &[(&str, &str)] = &[("Enabled", "false")];

#[tokio::test]
async fn with_store_and_forward_an_item_is_acknowledged_because_it_is_in_the_store() {
    let export = Export::new("a", Answer::Accept);
    let service = Harness::start(ENABLED, vec![batching(by_count(3), &export)]);
    deliver_all(&service, &["1", "2"]).await;
    // Then both wait as what they are batched as, in nobody's hands
    let rows = service.objects(ObjectState::Batched).await;
    assert_eq!(
        rows.iter().map(|row| &row.payload[..]).collect::<Vec<_>>(),
        [b"1", b"2"]
    );
    assert!(rows.iter().all(|row| row.position == 1));
    assert_eq!((service.books().in_flight, service.books().in_batch), (0, 2));
    service.check_books().await;
    // And the third brings all of them out in one write
    deliver_all(&service, &["3"]).await;
    service
        .until("it is exported", |service| service.books().completed == 1)
        .await;
    assert_eq!(batches(&export), [["1", "2", "3"]]);
    assert_eq!(service.states().await, (0, 0));
    assert_eq!((service.books().batched, service.books().in_batch), (2, 0));
    service.check_books().await;
}

#[tokio::test]
async fn without_store_and_forward_an_item_waits_in_memory_and_is_in_flight() {
    let export = Export::new("a", Answer::Accept);
    let service = Harness::start(OFF, vec![batching(by_count(2), &export)]);
    deliver_all(&service, &["1"]).await;
    assert_eq!((service.books().in_flight, service.books().in_batch), (1, 1));
    assert_eq!(service.states().await, (0, 0));
    deliver_all(&service, &["2"]).await;
    service
        .until("it is exported", |service| service.books().completed == 1)
        .await;
    assert_eq!(batches(&export), [["1", "2"]]);
    service.check_books().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_by_time_goes_on_when_its_time_has_come_and_not_before() {
    let export = Export::new("a", Answer::Accept);
    let window = Duration::from_secs(10);
    let service = Harness::start(ENABLED, vec![batching(by_time(window), &export)]);
    let began = tokio::time::Instant::now();
    deliver_all(&service, &["1", "2"]).await;
    service
        .until("it is exported", |service| service.books().completed == 1)
        .await;
    assert!(began.elapsed() >= window, "{:?}", began.elapsed());
    assert_eq!(batches(&export), [["1", "2"]]);
    // And the next one has a time of its own
    let began = tokio::time::Instant::now();
    deliver_all(&service, &["3"]).await;
    service
        .until("it is exported", |service| service.books().completed == 2)
        .await;
    assert!(began.elapsed() >= window, "{:?}", began.elapsed());
    service.check_books().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_by_time_and_count_goes_on_by_whichever_comes_first() {
    let export = Export::new("a", Answer::Accept);
    let collect = Collect {
        threshold: 2,
        window: Some(Duration::from_secs(20)),
    };
    let service = Harness::start(ENABLED, vec![batching(collect, &export)]);
    let began = tokio::time::Instant::now();
    deliver_all(&service, &["1", "2", "3"]).await;
    service
        .until("the full one is exported", |service| {
            service.books().completed == 1
        })
        .await;
    assert!(began.elapsed() < Duration::from_secs(15));
    service
        .until("the other one, too", |service| service.books().completed == 2)
        .await;
    assert!(began.elapsed() >= Duration::from_secs(20));
    assert_eq!(batches(&export), [vec!["1", "2"], vec!["3"]]);
    service.check_books().await;
}

#[tokio::test]
async fn a_batch_that_fails_is_stored_as_one_object_in_place_of_its_items() {
    let export = Export::new("a", Answer::Refuse);
    let leaves = [("Enabled", "true"), ("RetryInterval", "1h")];
    let service = Harness::start(&leaves, vec![batching(by_count(3), &export)]);
    deliver_all(&service, &["1", "2", "3"]).await;
    service
        .until("it is stored", |service| service.books().stored == 1)
        .await;
    let rows = service.objects(ObjectState::Failed).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].payload, r#"["MQ==","Mg==","Mw=="]"#);
    assert_eq!((rows[0].position, rows[0].attempts), (2, 1));
    // It goes by the run that made it full, as in EdgeX.
    assert_eq!(rows[0].correlation_id.as_str(), "3");
    assert_eq!(service.states().await, (1, 0));
    assert_eq!(service.books().batched, 2);
    service.check_books().await;
    // And goes on as the batch it was
    export.answer(Answer::Accept);
    let again = settings(&[("Enabled", "true"), ("RetryInterval", "1s")]);
    service.settings.send_replace(again);
    service
        .until("it is exported", |service| service.books().completed == 1)
        .await;
    assert_eq!(batches(&export), [["1", "2", "3"]]);
    assert_eq!(service.states().await, (0, 0));
    service.check_books().await;
}

#[tokio::test]
async fn a_batch_that_fails_and_is_not_to_be_kept_is_dropped_by_name_item_by_item() {
    let export = Export::new("a", Answer::RefuseWithoutKeeping);
    for leaves in [ENABLED, OFF] {
        let service = Harness::start(leaves, vec![batching(by_count(3), &export)]);
        deliver_all(&service, &["1", "2", "3"]).await;
        service
            .until("they are dropped", |service| {
                service.books().dropped_not_persistent == 3
            })
            .await;
        assert_eq!(service.states().await, (0, 0));
        service.check_books().await;
    }
}

#[tokio::test]
async fn what_a_batch_before_has_left_in_the_store_waits_again() {
    // Given rows as a start finds them: their process has ended
    let export = Export::new("a", Answer::Accept);
    let first = Harness::start(ENABLED, vec![batching(by_count(3), &export)]);
    deliver_all(&first, &["1", "2"]).await;
    let mut rows = first.objects(ObjectState::Batched).await;
    for row in &mut rows {
        assert!(edgehold_store::semantics::recover(row));
    }
    // When the next process has them, and one more comes
    let second = Harness::start(ENABLED, vec![batching(by_count(3), &export)]);
    second.queue.append(&rows, edgehold_store::Room::default()).await;
    second
        .settings
        .send_replace(settings(&[("Enabled", "true"), ("RetryInterval", "2s")]));
    until_in_batch(&second, 2).await;
    let waiting = second.objects(ObjectState::Batched).await;
    assert_eq!(waiting.len(), 2, "in nobody's hands again");
    deliver_all(&second, &["3"]).await;
    second
        .until("it is exported", |service| service.books().completed == 1)
        .await;
    let mut items = batches(&export).remove(0);
    items.sort();
    assert_eq!(items, ["1", "2", "3"]);
    assert_eq!(second.states().await, (0, 0));
}

#[tokio::test]
async fn an_edited_pipeline_lets_what_waits_go_on_through_the_old_one() {
    let (old, new) = (
        Export::new("old", Answer::Accept),
        Export::new("new", Answer::Accept),
    );
    for leaves in [ENABLED, OFF] {
        let service = Harness::start(leaves, vec![batching(by_count(3), &old)]);
        deliver_all(&service, &["1", "2"]).await;
        let set = PipelineSet {
            pipelines: vec![batching(by_count(2), &new)],
            ..PipelineSet::default()
        };
        service.pipelines.send_replace(Arc::new(set));
        service
            .until("it is exported", |service| service.books().completed == 1)
            .await;
        assert_eq!(batches(&old), [["1", "2"]]);
        deliver_all(&service, &["3", "4"]).await;
        service
            .until("the next, too", |service| service.books().completed == 2)
            .await;
        assert_eq!(batches(&new), [["3", "4"]]);
        service.check_books().await;
        old.accepted.lock().unwrap().clear();
        new.accepted.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn the_end_of_the_service_brings_out_what_only_memory_has_and_leaves_the_rest_in_the_store() {
    for (leaves, waiting, exported) in [(ENABLED, 2, 0), (OFF, 0, 1)] {
        let export = Export::new("a", Answer::Accept);
        let mut service = Harness::start(leaves, vec![batching(by_count(3), &export)]);
        deliver_all(&service, &["1", "2"]).await;
        service.deliveries.take();
        service.shutdown.trigger();
        let late = service.tasks.drain(Duration::from_secs(10)).await;
        assert_eq!(late, Vec::<&str>::new());
        assert_eq!(export.accepted(), exported, "{leaves:?}");
        let stats = service.queue.stats().await.unwrap();
        assert_eq!(stats.batched.objects, waiting, "{leaves:?}");
    }
}

#[tokio::test]
async fn the_end_of_the_service_stores_a_batch_that_is_being_sent() {
    let export = Export::new("a", Answer::Hang);
    let mut service = Harness::start(ENABLED, vec![batching(by_count(2), &export)]);
    deliver_all(&service, &["1", "2"]).await;
    service.until("it is sent", |_| export.calls() == 1).await;
    service.deliveries.take();
    service.shutdown.trigger();
    service.hurry.trigger();
    let late = service.tasks.drain(Duration::from_secs(10)).await;
    assert_eq!(late, Vec::<&str>::new());
    let request = ListRequest {
        states: vec![ObjectState::Failed],
        filter: Default::default(),
        after_seq: 0,
        limit: 9,
    };
    let rows = service.queue.list(request).await.unwrap().objects;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].position, rows[0].attempts), (2, 0));
    assert_eq!(rows[0].payload, r#"["MQ==","Mg=="]"#);
}

#[tokio::test]
async fn a_threshold_beyond_what_may_be_in_hand_or_in_the_store_holds_nobody_up() {
    let export = Export::new("a", Answer::Accept);
    for leaf in [("Pipeline/Concurrency", "2"), ("MaxItems", "3")] {
        let leaves: Vec<_> = ENABLED.iter().copied().chain([leaf]).collect();
        let service = Harness::start(&leaves, vec![batching(by_count(8), &export)]);
        let ids: Vec<_> = (0..16).map(|number| number.to_string()).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        deliver_all(&service, &ids).await;
        service
            .until("all have gone on or wait", |service| {
                let books = service.books();
                books.completed + books.batched + books.in_batch == 16
            })
            .await;
        service.check_books().await;
    }
}

#[tokio::test]
async fn items_beyond_the_room_there_is_let_the_largest_batch_go_on_early() {
    /// Hands on more than a third of the room that the harness gives.
    struct Large;

    impl Transform for Large {
        fn apply(&self, _: &mut Context, _: Data) -> Result<Flow, FunctionError> {
            Ok(Flow::Continue(Data::Bytes(Bytes::from(vec![7; 400 << 10]))))
        }
    }

    for leaves in [ENABLED, OFF] {
        let export = Export::new("a", Answer::Accept);
        let steps = vec![
            step("Large", Large),
            step("Batch", by_count(NEVER)),
            step("A", Call(export.clone())),
        ];
        let service = Harness::start(leaves, vec![pipeline("p", steps)]);
        deliver_all(&service, &["1", "2", "3", "4", "5"]).await;
        service
            .until("two have gone on", |_| export.accepted() == 2)
            .await;
        assert!(batches(&export).iter().all(|batch| batch.len() == 2));
        assert_eq!(service.books().in_batch, 1);
    }
}

#[tokio::test]
async fn a_batch_of_batches_goes_through_both_functions() {
    for leaves in [ENABLED, OFF] {
        let export = Export::new("a", Answer::Accept);
        let steps = vec![
            step("Name", Name),
            step("Batch1", by_count(2)),
            step("Batch2", by_count(2)),
            step("A", Call(export.clone())),
        ];
        let service = Harness::start(leaves, vec![pipeline("p", steps)]);
        deliver_all(&service, &["1", "2", "3"]).await;
        until_in_batch(&service, 2).await;
        assert_eq!(service.books().batched, 1);
        deliver_all(&service, &["4"]).await;
        service
            .until("it is exported", |service| service.books().completed == 1)
            .await;
        assert_eq!(batches(&export), [[r#"["MQ==","Mg=="]"#, r#"["Mw==","NA=="]"#]]);
        assert_eq!(service.states().await, (0, 0));
        service.check_books().await;
    }
}

#[tokio::test]
async fn behind_an_export_what_waits_was_exported_there_once() {
    let (first, second) = (Export::new("a", Answer::Accept), Export::new("b", Answer::Accept));
    let steps = vec![
        step("Name", Name),
        step("A", Call(first.clone())),
        step("Batch", by_count(2)),
        step("B", Call(second.clone())),
    ];
    let pipelines = vec![pipeline("p", steps)];
    // Given one whose first export is down at first
    first.answer(Answer::Refuse);
    let service = Harness::start(ENABLED, pipelines);
    deliver_all(&service, &["1"]).await;
    first.answer(Answer::Accept);
    until_in_batch(&service, 1).await;
    // When another one comes, then they go on together
    deliver_all(&service, &["2"]).await;
    service
        .until("it is exported", |service| service.books().completed == 1)
        .await;
    assert_eq!(batches(&second), [["1", "2"]]);
    assert_eq!(first.accepted(), 2);
    service.check_books().await;
}

#[tokio::test]
async fn with_journal_always_the_row_of_the_delivery_becomes_that_of_the_item() {
    let export = Export::new("a", Answer::Accept);
    let leaves: Vec<_> = ENABLED.iter().copied().chain([("Journal", "always")]).collect();
    let service = Harness::start(&leaves, vec![batching(by_count(2), &export)]);
    deliver_all(&service, &["1"]).await;
    until_in_batch(&service, 1).await;
    let rows = service.objects(ObjectState::Batched).await;
    assert_eq!((rows.len(), &rows[0].payload[..]), (1, &b"1"[..]));
    deliver_all(&service, &["2"]).await;
    service
        .until("it is exported", |service| service.books().completed == 1)
        .await;
    assert_eq!(service.states().await, (0, 0));
    service.check_books().await;
}

#[tokio::test]
async fn in_order_of_devices_those_in_a_batch_hold_nobody_back_and_keep_their_order() {
    let export = Export::new("a", Answer::Accept);
    let leaves: Vec<_> = ENABLED.iter().copied().chain([("Ordering", "device")]).collect();
    let service = Harness::start(&leaves, vec![batching(by_count(4), &export)]);
    let ids: Vec<_> = (0..40).map(|number| format!("{number:02}")).collect();
    let mut answers = Vec::new();
    for id in &ids {
        answers.push(service.send_as(id, EVENT).await);
    }
    for answer in &mut answers {
        assert_eq!(answer.recv().await, Some(Disposition::Done));
    }
    service
        .until("all are exported", |service| service.books().completed == 10)
        .await;
    assert_eq!(batches(&export).concat(), ids);
    service.check_books().await;
}

/// Events of two devices, so that no single one could keep the order.
#[tokio::test]
async fn in_order_of_devices_no_batch_overtakes_one_that_had_to_be_stored() {
    // Given an export that refuses now and then
    let export = Export::new("a", Answer::RefuseOneOf(3));
    let leaves: Vec<_> = ENABLED
        .iter()
        .copied()
        .chain([
            ("Ordering", "device"),
            ("RetryInterval", "10ms"),
            ("MaxRetryCount", "0"),
        ])
        .collect();
    let service = Harness::start(&leaves, vec![batching(by_count(2), &export)]);
    let ids: Vec<_> = (0..200).map(|number| format!("{number:03}")).collect();

    // When batches come one after the other
    for (number, id) in ids.iter().enumerate() {
        let event = EVENT.replace("pump-1", ["pump-1", "pump-2"][number % 2]);
        assert_eq!(service.deliver_as(id, &event).await, Disposition::Done);
    }
    service
        .until("all are exported", |service| service.books().completed == 100)
        .await;

    // Then some were stored, and they arrive as they came all the same
    assert!(service.books().stored > 10, "{:?}", service.books());
    assert_eq!(batches(&export).concat(), ids);
    service.check_books().await;
}

#[tokio::test]
async fn history_keeps_every_item_of_a_delivered_batch() {
    let export = Export::new("a", Answer::Accept);
    let leaves: Vec<_> = ENABLED
        .iter()
        .copied()
        .chain([("HistoryRetention", "1h")])
        .collect();
    let service = Harness::start(&leaves, vec![batching(by_count(2), &export)]);
    deliver_all(&service, &["1", "2"]).await;
    service
        .until("it is exported", |service| service.books().completed == 1)
        .await;
    assert_eq!(service.objects(ObjectState::Success).await.len(), 2);
}

#[tokio::test]
async fn each_run_responds_once_and_the_batch_with_what_is_behind_it() {
    let responses = Arc::new(Responses::default());
    let export = Export::new("a", Answer::Accept);
    for (collect, sent) in [(by_count(2), 2), (by_time(Duration::from_millis(200)), 2)] {
        responses.sent.lock().unwrap().clear();
        let steps = vec![
            step("Respond", SetResponse { stops: false }),
            step("Batch", collect),
            step("A", Call(export.clone())),
        ];
        let service = Harness::start_answering(ENABLED, vec![pipeline("p", steps)], Some(responses.clone()));
        deliver_all(&service, &["1", "2"]).await;
        service
            .until("it is exported", |service| service.books().completed == 1)
            .await;
        assert_eq!(responses.sent().len(), sent, "{collect:?}");
    }
}

#[tokio::test]
async fn a_batch_is_known_by_its_members_at_every_attempt() {
    #[derive(Clone, Default)]
    struct Keys(Arc<Mutex<Vec<Option<String>>>>);

    impl Transform for Keys {
        fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
            let mut keys = self.0.lock().unwrap();
            keys.push(ctx.idempotency_key());
            if keys.len() == 1 {
                ctx.set_retry_input(&data);
                return Err(FunctionError::transient("once"));
            }
            Ok(Flow::Continue(data))
        }
    }

    let keys = Keys::default();
    let steps = vec![
        step("Name", Name),
        step("Batch", by_count(2)),
        step("Keys", keys.clone()),
    ];
    let service = Harness::start(ENABLED, vec![pipeline("p", steps)]);
    deliver_all(&service, &["1", "2"]).await;
    service
        .until("it has ended", |service| service.books().completed == 1)
        .await;
    deliver_all(&service, &["3", "2"]).await;
    service
        .until("the other, too", |service| service.books().completed == 2)
        .await;
    let keys = keys.0.lock().unwrap().clone();
    assert!(keys[0].is_some());
    assert_eq!(keys[0], keys[1], "at the second attempt");
    assert_ne!(keys[0], keys[2], "of other members");
}
