//! What functions are called with behind one that hands on nothing, and the key an export is known by: the same at every
//! attempt.

use super::super::*;

/// What a function was called with, and the key it would be known by.
type Seen = (Data, Option<String>);

/// Sees each call of the function behind it, successful or not.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Seen>>>);

impl Calls {
    fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }
}

/// An export that hands on nothing, as MQTTExport.
struct Publish {
    export: Arc<Export>,
    calls: Calls,
}

impl AppFunction for Publish {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(async move {
            let call = (data.clone(), ctx.idempotency_key());
            self.calls.0.lock().unwrap().push(call);
            Call(self.export.clone()).call(ctx, data).await?;
            Ok(Flow::ContinueWithPipelineInput)
        })
    }

    fn hands_on_nothing(&self) -> bool {
        true
    }
}

/// Something else at every call, as a function that encrypts.
#[derive(Default)]
struct Wrap(AtomicU32);

impl Transform for Wrap {
    fn apply(&self, _: &mut Context, _: Data) -> Result<Flow, FunctionError> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Flow::Continue(Data::Text(format!("wrapped {number}"))))
    }
}

struct Chain {
    first: Arc<Export>,
    second: Arc<Export>,
    first_calls: Calls,
    second_calls: Calls,
    service: Harness,
}

impl Chain {
    fn start(leaves: &[(&str, &str)], first: Answer, second: Answer) -> Self {
        let (first, second) = (Export::new("a", first), Export::new("b", second));
        let (first_calls, second_calls) = (Calls::default(), Calls::default());
        let publish = |export: &Arc<Export>, calls: &Calls| Publish {
            export: export.clone(),
            calls: calls.clone(),
        };
        let steps = vec![
            step("Wrap", Wrap::default()),
            step("A", publish(&first, &first_calls)),
            step("B", publish(&second, &second_calls)),
        ];
        let service = Harness::start(leaves, vec![pipeline("p", steps)]);
        Self {
            first,
            second,
            first_calls,
            second_calls,
            service,
        }
    }

    async fn completed(&self) {
        self.service
            .until("it is delivered", |service| service.books().completed == 1)
            .await;
        self.service.check_books().await;
    }
}

fn is_the_event(data: &Data) -> bool {
    matches!(data, Data::Event(event) if event.device_name == "pump-1")
}

#[track_caller]
fn all_alike(calls: &Calls) {
    let calls = calls.all();
    assert!(calls.len() > 1, "{calls:?}");
    assert!(calls[0].1.is_some(), "{calls:?}");
    assert!(calls.iter().all(|call| *call == calls[0]), "{calls:?}");
}

#[tokio::test]
async fn behind_a_function_that_hands_on_nothing_comes_what_the_pipeline_began_with() {
    let chain = Chain::start(ENABLED, Answer::Accept, Answer::Accept);
    chain.service.deliver(EVENT).await;
    chain.completed().await;
    assert_eq!(chain.first_calls.all()[0].0, Data::Text("wrapped 0".to_owned()));
    assert!(is_the_event(&chain.second_calls.all()[0].0));
}

#[tokio::test]
async fn behind_it_comes_the_same_when_it_was_tried_again() {
    let chain = Chain::start(ENABLED, Answer::Refuse, Answer::Accept);
    chain.service.deliver(EVENT).await;
    chain.first.answer(Answer::Accept);
    chain.completed().await;
    assert!(is_the_event(&chain.second_calls.all()[0].0));
}

#[tokio::test]
async fn a_later_export_is_tried_again_with_the_same() {
    let chain = Chain::start(ENABLED, Answer::Accept, Answer::Refuse);
    chain.service.deliver(EVENT).await;
    chain
        .service
        .until("it was tried twice", |_| chain.second.calls() > 1)
        .await;
    chain.second.answer(Answer::Accept);
    chain.completed().await;
    assert!(is_the_event(&chain.second_calls.all()[0].0));
    all_alike(&chain.second_calls);
    assert_eq!(chain.first.accepted(), 1);
}

#[tokio::test]
async fn the_key_of_an_export_is_the_same_at_every_attempt_and_another_at_every_position() {
    let chain = Chain::start(ENABLED, Answer::Refuse, Answer::Refuse);
    chain.service.deliver(EVENT).await;
    chain
        .service
        .until("the first was tried twice", |_| chain.first.calls() > 1)
        .await;
    chain.first.answer(Answer::Accept);
    chain
        .service
        .until("the second was tried twice", |_| chain.second.calls() > 1)
        .await;
    chain.second.answer(Answer::Accept);
    chain.completed().await;
    all_alike(&chain.first_calls);
    all_alike(&chain.second_calls);
    assert_ne!(chain.first_calls.all()[0].1, chain.second_calls.all()[0].1);
}

#[tokio::test]
async fn a_journaled_run_that_begins_again_has_the_same_key_although_it_sends_something_else() {
    // Given a run that was stored as the delivery it came as, because its export hangs
    let leaves = [
        ("Enabled", "true"),
        ("RetryInterval", "1s"),
        ("Journal", "always"),
    ];
    let chain = Chain::start(&leaves, Answer::Hang, Answer::Accept);
    assert_eq!(chain.service.deliver(EVENT).await, Disposition::Done);
    chain
        .service
        .until("it is being sent", |_| !chain.first_calls.all().is_empty())
        .await;
    let row = chain.service.objects(ObjectState::New).await.remove(0);

    // When another process finds its row
    let again = Chain::start(ENABLED, Answer::Accept, Answer::Accept);
    let mut row = row;
    row.state = ObjectState::Failed;
    let appended = again
        .service
        .queue
        .append(&[row], edgehold_store::Room::default())
        .await;
    assert!(appended[0].is_ok(), "{appended:?}");
    again.service.deliver_as("corr-2", EVENT).await;

    // Then its export is known by the same key, and one of another correlation id is not
    again
        .service
        .until("both are delivered", |service| service.books().completed == 2)
        .await;
    let keys: Vec<_> = again.first_calls.all().into_iter().map(|(_, key)| key).collect();
    let first = chain.first_calls.all().remove(0).1;
    assert_eq!(
        keys.iter().filter(|key| **key == first).count(),
        1,
        "{keys:?} {first:?}"
    );
}
