//! Dispatch, store and forward and the retry loop together, on the memory store with a scripted function.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use edgehold_config::{Layers, Writable, resolve};
use edgehold_contracts::Generation;
use edgehold_core::{
    Ack, AppFunction, BoxFuture, BytePermit, Context, CorrelationId, Data, Delivery, Destination,
    Disposition, Fault, Flow, FunctionError, NoObserver, ObjectState, PayloadForm, Pipeline, PipelineId,
    PipelineSet, PipelineStep, Received, ResponseError, ResponsePublisher, Secret, SecretError,
    SecretProvider, ServiceKey, Shutdown, StoredInput, StoredObject, TopicFilter, Transform, Unsent,
};
use edgehold_runtime::{
    Batches, Books, BooksSnapshot, Destinations, Dispatch, Health, Housekeeping, Keeper, RetryLoop,
    ServiceIdentity, StoreState, Tasks, Wake,
};
use edgehold_store::{ListRequest, RetryQueue, memory::MemoryQueue};
use edgehold_test_support::wait;
use tokio::sync::{mpsc, watch};

mod runtime {
    mod batch;
    mod input;
    mod journal;
    mod lanes;
    mod limits;
    mod live;
    mod once;
    mod order;
    pub(crate) mod watched;
}
use runtime::watched;

const EVENT: &str = r#"{"apiVersion":"v3","id":"0f0e0d0c-0000-4000-8000-000000000001","deviceName":"pump-1","profileName":"Pump","sourceName":"Level","origin":1700000000000000001,"readings":[{"id":"0f0e0d0c-0000-4000-8000-000000000002","origin":1700000000000000001,"deviceName":"pump-1","resourceName":"Level","profileName":"Pump","valueType":"Int64","value":"7"}]}"#;

struct NoSecrets;

impl SecretProvider for NoSecrets {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        Box::pin(std::future::ready(Err(SecretError::UnknownName {
            name: name.to_owned(),
        })))
    }
}

/// What a scripted export does when it is called.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Accept,
    Refuse,
    RefuseWithoutKeeping,
    Reject,
    Hang,
    Panic,
    /// Refuses one of so many, in a sequence that looks random.
    RefuseOneOf(u32),
}

/// An export whose destination is this value.
struct Export {
    name: &'static str,
    answer: watch::Sender<Answer>,
    calls: AtomicU32,
    accepted: Mutex<Vec<Data>>,
}

impl Export {
    fn new(name: &'static str, answer: Answer) -> Arc<Self> {
        Arc::new(Self {
            name,
            answer: watch::Sender::new(answer),
            calls: AtomicU32::new(0),
            accepted: Mutex::default(),
        })
    }

    fn answer(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }
}

struct Call(Arc<Export>);

impl AppFunction for Call {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(async move {
            let export = &self.0;
            let unsent = match *export.answer.borrow() {
                Answer::RefuseWithoutKeeping => Unsent::Lost,
                _ => Unsent::Kept,
            };
            if let Err(refusal) = ctx.approach(Destination::new(export.name), unsent).await {
                ctx.set_retry_input(&data);
                return Err(refusal);
            }
            export.calls.fetch_add(1, Ordering::SeqCst);
            let mut answers = export.answer.subscribe();
            // What hangs does so until it is told otherwise.
            let answer = *answers.wait_for(|answer| *answer != Answer::Hang).await.unwrap();
            match answer {
                Answer::Accept => {
                    export.accepted.lock().unwrap().push(data.clone());
                    Ok(Flow::Continue(data))
                }
                Answer::Refuse => {
                    ctx.set_retry_input(&data);
                    Err(FunctionError::transient("refused").with_fault(Fault::Destination))
                }
                Answer::RefuseWithoutKeeping => Err(FunctionError::transient("refused")),
                Answer::Reject => {
                    ctx.set_retry_input(&data);
                    Err(FunctionError::permanent("rejected"))
                }
                Answer::Hang => unreachable!("waited for"),
                Answer::RefuseOneOf(many) => {
                    let mut random = export.calls().wrapping_mul(0x9E37_79B9);
                    random ^= random >> 15;
                    if random.wrapping_mul(0x85EB_CA6B) >> 8 & 0xFFFF < 0x1_0000 / many {
                        ctx.set_retry_input(&data);
                        return Err(FunctionError::transient("refused"));
                    }
                    export.accepted.lock().unwrap().push(data.clone());
                    Ok(Flow::Continue(data))
                }
                Answer::Panic => panic!("a bug in a function"),
            }
        })
    }
}

/// Accepts events only: behind an export it shows that a retry hands on what the first attempt would have.
struct EventsOnly;

impl Transform for EventsOnly {
    fn apply(&self, _: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        match data {
            Data::Event(_) => Ok(Flow::Continue(data)),
            other => Err(FunctionError::permanent(format!(
                "expected an event, got {:?}",
                other.kind()
            ))),
        }
    }
}

/// Sets the response, and stops the pipeline if told so.
struct SetResponse {
    stops: bool,
}

impl Transform for SetResponse {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        ctx.set_response_data(Bytes::from(format!("from {}", ctx.pipeline_id())));
        Ok(if self.stops {
            Flow::Stop
        } else {
            Flow::Continue(data)
        })
    }
}

/// Where responses go: they are noted, then refused or never confirmed if told so.
#[derive(Default)]
struct Responses {
    sent: Mutex<Vec<String>>,
    refuses: bool,
    hangs: bool,
}

impl Responses {
    fn sent(&self) -> Vec<String> {
        let mut sent = self.sent.lock().unwrap().clone();
        sent.sort();
        sent
    }
}

impl ResponsePublisher for Responses {
    fn respond<'a>(&'a self, ctx: &'a Context) -> BoxFuture<'a, Result<(), ResponseError>> {
        Box::pin(async move {
            let data = ctx.response_data().expect("only called with a response");
            self.sent
                .lock()
                .unwrap()
                .push(String::from_utf8_lossy(data).into_owned());
            if self.hangs {
                std::future::pending::<()>().await;
            }
            if self.refuses {
                return Err(ResponseError::Publish("refused".into()));
            }
            Ok(())
        })
    }
}

fn step(name: &str, function: impl AppFunction + 'static) -> PipelineStep {
    PipelineStep {
        name: name.to_owned(),
        built_in: "Scripted".to_owned(),
        variant: String::new(),
        function: Arc::new(function),
    }
}

fn pipeline(id: &str, steps: Vec<PipelineStep>) -> Arc<Pipeline> {
    Arc::new(Pipeline::new(
        PipelineId::try_new(id).unwrap(),
        vec![TopicFilter::all()],
        steps,
    ))
}

fn settings(leaves: &[(&str, &str)]) -> Arc<Writable> {
    let mut layers = Layers::default();
    for (key, value) in leaves {
        layers.private.insert(
            match key.contains('/') {
                true => format!("Writable/{key}"),
                false => format!("Writable/StoreAndForward/{key}"),
            },
            *value,
        );
    }
    let effective = resolve(&layers, None);
    assert!(effective.rejected.is_empty(), "{:?}", effective.rejected);
    effective.configuration.writable.clone()
}

/// These settings, and more, of which the last one of a name counts.
fn with<'a>(leaves: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    leaves.iter().chain(more).copied().collect()
}

const ENABLED: &[(&str, &str)] = &[
    ("Enabled", "true"),
    ("RetryInterval", "1s"),
    ("MaxRetryCount", "3"),
];

/// What all deliveries may take; a quarter of it is room for two that wait to be let in.
const MAX_BYTES: u32 = 4 * (40 << 10);

fn service_key() -> ServiceKey {
    ServiceKey::try_new("app-test").unwrap()
}

/// A running service without a trigger.
struct Harness {
    deliveries: Option<mpsc::Sender<Delivery>>,
    settings: watch::Sender<Arc<Writable>>,
    pipelines: watch::Sender<Arc<PipelineSet>>,
    queue: Arc<dyn RetryQueue>,
    books: Arc<Books>,
    health: Arc<Health>,
    shutdown: Shutdown,
    hurry: Shutdown,
    tasks: Tasks,
    state: watch::Sender<StoreState>,
}

impl Harness {
    fn start(leaves: &[(&str, &str)], pipelines: Vec<Arc<Pipeline>>) -> Self {
        Self::start_answering(leaves, pipelines, None)
    }

    fn start_answering(
        leaves: &[(&str, &str)],
        pipelines: Vec<Arc<Pipeline>>,
        response: Option<Arc<dyn ResponsePublisher>>,
    ) -> Self {
        let queue = Arc::new(MemoryQueue::new(service_key()));
        Self::start_on(queue, leaves, pipelines, response)
    }

    fn start_on(
        queue: Arc<dyn RetryQueue>,
        leaves: &[(&str, &str)],
        pipelines: Vec<Arc<Pipeline>>,
        response: Option<Arc<dyn ResponsePublisher>>,
    ) -> Self {
        let service_key = service_key();
        let (settings, settings_in) = watch::channel(settings(leaves));
        let set = PipelineSet {
            pipelines,
            ..PipelineSet::default()
        };
        let (pipelines, pipelines_in) = watch::channel(Arc::new(set));
        let (state, handle) = watch::channel(StoreState::Open(queue.clone()));
        let (books, wake) = (Arc::new(Books::default()), Arc::new(Wake::default()));
        let health = Arc::new(Health::default());
        let keeper = Keeper::new(
            service_key.clone(),
            settings_in.clone(),
            handle.clone(),
            books.clone(),
            health.clone(),
        );
        let identity = ServiceIdentity {
            service_key,
            generation: Generation::V4,
            secrets: Arc::new(NoSecrets),
            publisher: None,
            observer: Arc::new(NoObserver),
        };
        let dispatch = Dispatch {
            identity,
            pipelines: pipelines_in,
            settings: settings_in.clone(),
            keeper: Arc::new(keeper),
            books: books.clone(),
            wake,
            destinations: Arc::new(Destinations::new(settings_in.clone(), handle.clone(), MAX_BYTES)),
            batches: Arc::new(Batches::new(1 << 20, books.clone())),
            response,
        };
        let housekeeping = Housekeeping {
            settings: dispatch.settings.clone(),
            queue: handle.clone(),
            books: books.clone(),
            drain: Arc::default(),
        };
        let (shutdown, signal) = Shutdown::new();
        let (hurry, hurry_signal) = Shutdown::new();
        let (deliveries, receiver) = mpsc::channel(8);
        let mut tasks = Tasks::default();
        tasks.spawn("dispatch", dispatch.clone().run(receiver, hurry_signal.clone()));
        tasks.spawn("housekeeping", housekeeping.run(signal.clone()));
        tasks.spawn(
            "retry loop",
            RetryLoop {
                dispatch,
                queue: handle,
            }
            .run(signal, hurry_signal),
        );
        Self {
            deliveries: Some(deliveries),
            settings,
            pipelines,
            queue,
            books,
            health,
            shutdown,
            hurry,
            tasks,
            state,
        }
    }

    /// These are the pipelines from now on.
    fn change(&self, pipelines: Vec<Arc<Pipeline>>) {
        self.pipelines.send_replace(Arc::new(PipelineSet {
            pipelines,
            changed_at: edgehold_runtime::now(),
            ..PipelineSet::default()
        }));
    }

    /// Sends a payload and answers what its trigger was told.
    async fn deliver(&self, payload: &str) -> Disposition {
        self.send(payload).await.recv().await.unwrap()
    }

    /// As [`Self::deliver`], with a correlation id to know it by.
    async fn deliver_as(&self, correlation_id: &str, payload: &str) -> Disposition {
        let mut answer = self.send_as(correlation_id, payload).await;
        answer.recv().await.unwrap()
    }

    async fn send(&self, payload: &str) -> mpsc::Receiver<Disposition> {
        self.send_as("corr-1", payload).await
    }

    async fn send_as(&self, correlation_id: &str, payload: &str) -> mpsc::Receiver<Disposition> {
        let (told, answer) = mpsc::channel(1);
        let delivery = Delivery {
            topic: "edgex/events/device/d/Pump/pump-1/Level".to_owned(),
            received: Received::Message {
                payload: Bytes::copy_from_slice(payload.as_bytes()),
                form: PayloadForm::Json,
                content_type: "application/json".to_owned(),
                correlation_id: CorrelationId::new(correlation_id),
            },
            // Nobody listens any more when a test has ended.
            ack: Ack::new(move |disposition| {
                let _ = told.try_send(disposition);
            }),
            permit: BytePermit::none(),
        };
        self.deliveries.as_ref().unwrap().send(delivery).await.unwrap();
        answer
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        wait::until(what, wait::LONG, async || condition(self)).await;
    }

    fn books(&self) -> BooksSnapshot {
        self.books.snapshot()
    }

    async fn states(&self) -> (u64, u64) {
        let stats = self.queue.stats().await.unwrap();
        (stats.waiting(), stats.error.objects)
    }

    /// The objects in this state, oldest first.
    async fn objects(&self, state: ObjectState) -> Vec<StoredObject> {
        let request = ListRequest {
            states: vec![state],
            filter: Default::default(),
            after_seq: 0,
            limit: 1000,
        };
        self.queue.list(request).await.unwrap().objects
    }

    /// The equation of the books, which must hold whenever nothing is in flight.
    async fn check_books(&self) {
        let books = self.books();
        let (waiting, error) = self.states().await;
        assert_eq!(books.in_flight, 0);
        assert_eq!(
            books.started + books.undecodable_stored,
            books.completed + books.filtered + books.batched + waiting + error + books.dropped,
            "{books:?} waiting {waiting} error {error}"
        );
    }
}

#[tokio::test]
async fn a_broken_pipeline_disturbs_no_other() {
    // Given one pipeline whose function panics, one that has no function at all, and one that is well
    let (broken, well) = (Export::new("a", Answer::Panic), Export::new("b", Answer::Accept));
    let leaves = [("Enabled", "true"), ("RetryInterval", "1h")];
    let good = pipeline("p3", vec![step("B", Call(well.clone()))]);
    let bad = pipeline("p1", vec![step("A", Call(broken.clone()))]);
    let service = Harness::start(&leaves, vec![bad, pipeline("p2", Vec::new()), good.clone()]);
    // Then what comes goes through the one that is well, and is acknowledged
    for _ in 0..3 {
        assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    }
    assert_eq!(well.accepted(), 3);
    // And goes on when the others are gone
    let set = PipelineSet {
        pipelines: vec![good],
        ..PipelineSet::default()
    };
    service.pipelines.send_replace(Arc::new(set));
    service.deliver(EVENT).await;
    assert_eq!(well.accepted(), 4);
    service.check_books().await;
}

#[tokio::test]
async fn a_delivery_is_acknowledged_once_all_its_pipelines_are_done() {
    // Given one pipeline that exports and one whose export fails
    let (good, bad) = (Export::new("a", Answer::Accept), Export::new("b", Answer::Refuse));
    let service = Harness::start(
        ENABLED,
        vec![
            pipeline("p1", vec![step("A", Call(good.clone()))]),
            pipeline("p2", vec![step("B", Call(bad.clone()))]),
        ],
    );
    // When an event comes
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    // Then one has it and the store has the other
    assert_eq!(good.accepted(), 1);
    assert_eq!(service.states().await, (1, 0));
    service.check_books().await;
}

#[tokio::test]
async fn a_maximum_of_three_makes_exactly_four_sends_and_keeps_the_payload() {
    let export = Export::new("a", Answer::Refuse);
    let service = Harness::start(
        ENABLED,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    service.deliver(EVENT).await;
    service
        .until("it is given up", |service| service.books().given_up == 1)
        .await;
    assert_eq!(export.calls(), 4);
    let given_up = service.objects(ObjectState::Error).await;
    assert_eq!(given_up[0].payload, EVENT.as_bytes());
    assert_eq!(given_up[0].reason.unwrap().as_str(), "retries_exceeded");
    assert_eq!(given_up[0].last_error.as_deref(), Some("refused"));
    service.check_books().await;
}

#[tokio::test]
async fn functions_behind_the_export_run_after_a_retry_with_what_they_would_have_had() {
    let (export, second) = (Export::new("a", Answer::Refuse), Export::new("b", Answer::Accept));
    let steps = vec![
        step("A", Call(export.clone())),
        step("Check", EventsOnly),
        step("B", Call(second.clone())),
    ];
    let service = Harness::start(ENABLED, vec![pipeline("p", steps)]);
    service.deliver(EVENT).await;
    export.answer(Answer::Accept);
    service
        .until("it is delivered", |service| service.books().completed == 1)
        .await;
    assert!(matches!(second.accepted.lock().unwrap()[0], Data::Event(_)));
    service.check_books().await;
}

#[tokio::test]
async fn an_export_that_succeeded_is_not_sent_again_when_a_later_one_fails() {
    let (first, second) = (Export::new("a", Answer::Refuse), Export::new("b", Answer::Refuse));
    let steps = vec![step("A", Call(first.clone())), step("B", Call(second.clone()))];
    let service = Harness::start(ENABLED, vec![pipeline("p", steps)]);
    service.deliver(EVENT).await;
    first.answer(Answer::Accept);
    service
        .until("the second has been tried twice", |_| second.calls() >= 2)
        .await;
    second.answer(Answer::Accept);
    service
        .until("it is delivered", |service| service.books().completed == 1)
        .await;
    assert_eq!((first.accepted(), second.accepted()), (1, 1));
    service.check_books().await;
}

#[tokio::test]
async fn a_success_at_a_destination_brings_its_backlog_at_once() {
    let export = Export::new("a", Answer::Refuse);
    let leaves = [
        ("Enabled", "true"),
        ("RetryInterval", "1h"),
        ("MaxRetryCount", "3"),
    ];
    let service = Harness::start(
        &leaves,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    for _ in 0..3 {
        service.deliver(EVENT).await;
    }
    export.answer(Answer::Accept);
    service.deliver(EVENT).await;
    service
        .until("all four are delivered", |service| service.books().completed == 4)
        .await;
    assert_eq!(export.accepted(), 4);
    service.check_books().await;
}

#[tokio::test]
async fn a_shorter_interval_acts_at_once_on_what_waits() {
    let export = Export::new("a", Answer::Refuse);
    let leaves = [
        ("Enabled", "true"),
        ("RetryInterval", "1h"),
        ("MaxRetryCount", "1"),
    ];
    let service = Harness::start(
        &leaves,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    service.deliver(EVENT).await;
    service.settings.send_replace(settings(&[
        ("Enabled", "true"),
        ("RetryInterval", "1s"),
        ("MaxRetryCount", "2"),
    ]));
    service
        .until("it is given up", |service| service.books().given_up == 1)
        .await;
    assert_eq!(
        export.calls(),
        3,
        "both settings of the change must have taken effect"
    );
}

#[tokio::test]
async fn switching_off_keeps_what_waits_and_drops_what_fails_by_name() {
    let export = Export::new("a", Answer::Refuse);
    let leaves = [("Enabled", "true"), ("RetryInterval", "1h")];
    let service = Harness::start(
        &leaves,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    service.deliver(EVENT).await;
    service.settings.send_replace(settings(&[("Enabled", "false")]));
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    assert_eq!(service.states().await, (1, 0));
    assert_eq!(service.books().dropped_store_and_forward_disabled, 1);
    service.check_books().await;
}

#[tokio::test]
async fn what_asks_not_to_be_kept_is_dropped_by_name() {
    let export = Export::new("a", Answer::RefuseWithoutKeeping);
    let service = Harness::start(
        ENABLED,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    assert_eq!(service.books().dropped_not_persistent, 1);
    service.check_books().await;
}

#[tokio::test]
async fn what_cannot_succeed_goes_to_the_error_collection_at_once() {
    let export = Export::new("a", Answer::Reject);
    let service = Harness::start(
        ENABLED,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    service.deliver(EVENT).await;
    assert_eq!(service.states().await, (0, 1));
    assert_eq!(export.calls(), 1);
    service.check_books().await;
}

#[tokio::test]
async fn a_panic_in_a_function_is_a_failed_attempt() {
    let export = Export::new("a", Answer::Panic);
    let service = Harness::start(
        ENABLED,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    export.answer(Answer::Accept);
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    assert_eq!(
        (service.books().completed, service.books().failed_attempts),
        (1, 1)
    );
}

#[tokio::test]
async fn what_cannot_be_decoded_is_counted_kept_as_evidence_and_acknowledged() {
    let export = Export::new("a", Answer::Accept);
    let service = Harness::start(
        ENABLED,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    let wrong_value = format!(
        r#"{{"apiVersion":"v3","event":{}}}"#,
        EVENT.replace("\"7\"", "\"seven\"")
    );
    for payload in ["{", "[1,2]", r#"{"apiVersion":"v3"}"#, &wrong_value] {
        assert_eq!(service.deliver(payload).await, Disposition::Done);
    }
    assert_eq!(export.calls(), 0);
    assert_eq!(service.books().undecodable, 4);
    assert_eq!(service.states().await, (0, 4));
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    service.check_books().await;
}

#[tokio::test]
async fn a_changed_pipeline_sets_its_backlog_aside_only_one_interval_later() {
    let export = Export::new("a", Answer::Refuse);
    let leaves = [
        ("Enabled", "true"),
        ("RetryInterval", "1s"),
        ("MaxRetryCount", "0"),
    ];
    let first = pipeline("p", vec![step("A", Call(export.clone()))]);
    let service = Harness::start(&leaves, vec![first.clone()]);
    service.deliver(EVENT).await;
    let changed_at = edgehold_runtime::now();
    let other = pipeline("p", vec![step("B", Call(export.clone()))]);
    service.pipelines.send_replace(Arc::new(PipelineSet {
        pipelines: vec![other],
        changed_at,
        ..PipelineSet::default()
    }));
    service
        .until("it is set aside", |service| service.books().given_up == 1)
        .await;
    let waited = edgehold_runtime::now().saturating_since(changed_at);
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    assert_eq!(
        export.calls(),
        1,
        "the other function must not have been called with it"
    );
    service.check_books().await;
}

#[tokio::test]
async fn an_export_that_hangs_at_the_end_is_stored_and_its_delivery_acknowledged() {
    let export = Export::new("a", Answer::Hang);
    let mut service = Harness::start(
        ENABLED,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    let mut answer = service.send(EVENT).await;
    service
        .until("the export has begun", |_| export.calls() == 1)
        .await;
    service.deliveries.take();
    service.shutdown.trigger();
    service.hurry.trigger();
    assert_eq!(answer.recv().await, Some(Disposition::Done));
    assert_eq!(
        service.tasks.drain(Duration::from_secs(10)).await,
        Vec::<&str>::new()
    );
    let stats = service.queue.stats().await.unwrap();
    assert_eq!(stats.waiting(), 1);
}

#[tokio::test]
async fn no_more_deliveries_run_at_a_time_than_the_setting_says() {
    let export = Export::new("a", Answer::Hang);
    let service = Harness::start(
        ENABLED,
        vec![pipeline("p", vec![step("A", Call(export.clone()))])],
    );
    let mut layers = Layers::default();
    layers.private.insert("Writable/Pipeline/Concurrency", "3");
    service
        .settings
        .send_replace(resolve(&layers, None).configuration.writable.clone());
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(service.send(EVENT).await);
    }
    service
        .until("three run", |service| service.books().in_flight == 3)
        .await;
    assert_eq!(export.calls(), 3);
}

#[tokio::test]
async fn a_first_run_that_ended_well_is_answered_and_a_retry_is_not() {
    // Given pipelines with a response that complete, stop and fail, and one without a response
    let export = Export::new("a", Answer::Refuse);
    let responds = |stops| step("SetResponse", SetResponse { stops });
    let responses = Arc::new(Responses::default());
    let service = Harness::start_answering(
        ENABLED,
        vec![
            pipeline("completes", vec![responds(false)]),
            pipeline("stops", vec![responds(true)]),
            pipeline("fails", vec![responds(false), step("A", Call(export.clone()))]),
            pipeline("silent", vec![step("Events", EventsOnly)]),
        ],
        Some(responses.clone()),
    );

    // When an event comes, then those that ended well have answered by the time it is acknowledged
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    assert_eq!(responses.sent(), ["from completes", "from stops"]);

    // And when the failed one succeeds later, then it stays at that
    export.answer(Answer::Accept);
    service
        .until("the retry is through", |service| service.books().completed == 3)
        .await;
    assert_eq!(responses.sent(), ["from completes", "from stops"]);
    service.check_books().await;
}

#[tokio::test]
async fn a_response_that_does_not_get_through_changes_nothing() {
    let responses = Arc::new(Responses {
        refuses: true,
        ..Responses::default()
    });
    let service = Harness::start_answering(
        ENABLED,
        vec![pipeline(
            "p",
            vec![step("SetResponse", SetResponse { stops: false })],
        )],
        Some(responses.clone()),
    );
    assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    assert_eq!(responses.sent(), ["from p"]);
    assert_eq!(
        (service.books().completed, service.books().responses_lost),
        (1, 1)
    );
    service.check_books().await;
}

#[tokio::test]
async fn in_a_hurry_no_response_is_waited_for() {
    // Given a response that nobody confirms
    let responses = Arc::new(Responses {
        hangs: true,
        ..Responses::default()
    });
    let service = Harness::start_answering(
        ENABLED,
        vec![pipeline(
            "p",
            vec![step("SetResponse", SetResponse { stops: false })],
        )],
        Some(responses.clone()),
    );
    let mut answer = service.send(EVENT).await;
    service
        .until("the response is being sent", |_| !responses.sent().is_empty())
        .await;
    assert!(answer.try_recv().is_err());

    // When the service has to end, then the delivery is done all the same
    service.hurry.trigger();
    assert_eq!(answer.recv().await, Some(Disposition::Done));
    service.check_books().await;
}
