//! Destinations that fail, and the backlogs behind them: one destination's trouble is nobody else's.

use crate::*;

/// Nothing becomes due by itself.
const LATER: &[(&str, &str)] = &[
    ("Enabled", "true"),
    ("RetryInterval", "1h"),
    ("MaxRetryCount", "0"),
];

/// As often as there is, without end.
const SOON: &[(&str, &str)] = &[
    ("Enabled", "true"),
    ("RetryInterval", "1s"),
    ("MaxRetryCount", "0"),
];

fn one_each(exports: &[&Arc<Export>]) -> Vec<Arc<Pipeline>> {
    let pipeline = |export: &&Arc<Export>| pipeline(export.name, vec![step("A", Call((*export).clone()))]);
    exports.iter().map(pipeline).collect()
}

#[tokio::test]
async fn a_destination_that_does_not_answer_is_probed_and_disturbs_nobody() {
    // Given one destination that is dead and one that works
    let (dead, works) = (
        Export::new("dead", Answer::Refuse),
        Export::new("works", Answer::Accept),
    );
    let service = Harness::start(LATER, one_each(&[&dead, &works]));

    // When many events come
    for _ in 0..100 {
        assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    }

    // Then one has them all, and the other was sent sixteen: the rest was kept without an attempt
    assert_eq!(works.accepted(), 100);
    assert_eq!(dead.calls(), 16);
    assert_eq!(service.books().failed_attempts, 16);
    let mut attempts: Vec<_> = service
        .objects(ObjectState::Failed)
        .await
        .iter()
        .map(|object| object.attempts)
        .collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [vec![0; 84], vec![1; 16]].concat());
    assert!(
        service
            .objects(ObjectState::Failed)
            .await
            .iter()
            .all(|object| object.destination == Some(Destination::new("dead")))
    );
    service.check_books().await;

    // And when it is back, the next probe brings them all, although none was due
    dead.answer(Answer::Accept);
    service.settings.send_replace(settings(SOON));
    service
        .until("all are delivered", |service| service.books().completed == 200)
        .await;
    assert_eq!(dead.accepted(), 100);
    service.check_books().await;
}

#[tokio::test]
async fn probes_of_a_dead_destination_are_one_at_a_time_and_few() {
    let dead = Export::new("dead", Answer::Refuse);
    let service = Harness::start(SOON, one_each(&[&dead]));
    let began = std::time::SystemTime::now();
    for _ in 0..60 {
        service.deliver(EVENT).await;
    }
    service.until("it is probed", |_| dead.calls() >= 19).await;
    let seconds = began.elapsed().unwrap().as_secs_f64();
    assert!(
        f64::from(dead.calls()) <= 17.0 + seconds,
        "{} calls in {seconds} s",
        dead.calls()
    );
    service.check_books().await;
}

#[tokio::test]
async fn without_breaker_each_is_tried_when_it_is_due() {
    let dead = Export::new("dead", Answer::Refuse);
    let service = Harness::start(&with(SOON, &[("Breaker", "off")]), one_each(&[&dead]));
    for _ in 0..40 {
        service.deliver(EVENT).await;
    }
    service.until("each is tried again", |_| dead.calls() >= 80).await;
    service.check_books().await;
}

#[tokio::test]
async fn a_success_brings_what_a_growing_backoff_has_put_off() {
    // Given objects that are to wait for hours, each for a time of its own
    let export = Export::new("there", Answer::Refuse);
    let put_off = with(LATER, &[("Backoff", "exponential"), ("MaxRetryInterval", "24h")]);
    let service = Harness::start(&put_off, one_each(&[&export]));
    for _ in 0..10 {
        service.deliver(EVENT).await;
    }
    let waiting = service.objects(ObjectState::Failed).await;
    assert_eq!(waiting.len(), 10);
    assert!(waiting.iter().all(|object| object.not_before.is_some()));

    // When the destination accepts another
    export.answer(Answer::Accept);
    service.deliver(EVENT).await;

    // Then they are not held back any longer
    service
        .until("all are delivered", |service| service.books().completed == 11)
        .await;
    service.check_books().await;
}

#[tokio::test]
async fn a_destination_that_hangs_does_not_hold_up_the_backlog_of_another() {
    // Given two backlogs, one of which begins to hang
    let (hangs, works) = (
        Export::new("hangs", Answer::Refuse),
        Export::new("works", Answer::Refuse),
    );
    let service = Harness::start(&with(LATER, &[("Breaker", "off")]), one_each(&[&hangs, &works]));
    for _ in 0..50 {
        service.deliver(EVENT).await;
    }
    hangs.answer(Answer::Hang);
    works.answer(Answer::Accept);

    // When all is due
    service
        .settings
        .send_replace(settings(&with(SOON, &[("Breaker", "off")])));

    // Then the other one leaves
    service
        .until("the other backlog to leave", |service| {
            service.books().completed == 50
        })
        .await;
    assert_eq!(works.accepted(), 50);
    assert!(hangs.calls() > 50 && hangs.calls() <= 54, "{}", hangs.calls());

    // And this one too when it answers again
    hangs.answer(Answer::Accept);
    service
        .until("all are delivered", |service| service.books().completed == 100)
        .await;
    service.check_books().await;
}

#[tokio::test]
async fn a_backlog_leaves_slowly_at_first_and_never_more_at_a_time_than_allowed() {
    /// Takes its time, and notes how many are inside at a time.
    #[derive(Default)]
    struct Gauge {
        open: Mutex<bool>,
        inside: Mutex<Vec<u32>>,
        now: AtomicU32,
    }
    struct Measured(Arc<Gauge>);
    impl AppFunction for Measured {
        fn call<'a>(
            &'a self,
            ctx: &'a mut Context,
            data: Data,
        ) -> BoxFuture<'a, Result<Flow, FunctionError>> {
            Box::pin(async move {
                ctx.set_retry_input(&data);
                ctx.approach(Destination::new("gauge"), Unsent::Kept).await?;
                if !*self.0.open.lock().unwrap() {
                    return Err(FunctionError::transient("not yet"));
                }
                let inside = self.0.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.0.inside.lock().unwrap().push(inside);
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.0.now.fetch_sub(1, Ordering::SeqCst);
                Ok(Flow::Continue(data))
            })
        }
    }

    // Given a backlog of 300
    let gauge = Arc::new(Gauge::default());
    let limits = [("RetryConcurrency", "24"), ("FreshShare", "0")];
    let leaves = with(LATER, &limits);
    let service = Harness::start(
        &leaves,
        vec![pipeline("p", vec![step("A", Measured(gauge.clone()))])],
    );
    for _ in 0..300 {
        service.deliver(EVENT).await;
    }
    // When it may leave
    *gauge.open.lock().unwrap() = true;
    service.settings.send_replace(settings(&with(SOON, &limits)));
    service
        .until("all are delivered", |service| service.books().completed == 300)
        .await;
    // Then four at first, and in the end as many as allowed
    let inside = gauge.inside.lock().unwrap().clone();
    // The twelfth begins only when so many have been accepted that eight are allowed.
    assert!(inside[..12].iter().all(|inside| *inside <= 8), "{inside:?}");
    assert_eq!(inside.iter().max(), Some(&24));
    assert_eq!(inside.len(), 300, "each was sent once");
    service.check_books().await;
}

#[tokio::test]
async fn behind_a_dead_destination_nothing_is_sent_twice_to_the_one_before_it() {
    // Given two exports in a row, of which the second is dead
    let (first, second) = (
        Export::new("first", Answer::Accept),
        Export::new("second", Answer::Refuse),
    );
    let steps = vec![step("A", Call(first.clone())), step("B", Call(second.clone()))];
    let service = Harness::start(SOON, vec![pipeline("p", steps)]);

    // When events come, some while the first does not answer either
    for _ in 0..30 {
        service.deliver(EVENT).await;
    }
    first.answer(Answer::Refuse);
    for _ in 0..30 {
        service.deliver(EVENT).await;
    }
    first.answer(Answer::Accept);
    service
        .until("the first has accepted all", |_| first.accepted() == 60)
        .await;
    second.answer(Answer::Accept);

    // Then each has each once
    service
        .until("all are delivered", |service| service.books().completed == 60)
        .await;
    assert_eq!((first.accepted(), second.accepted()), (60, 60));
    service.check_books().await;
}

#[tokio::test]
async fn a_message_that_is_declined_again_and_again_is_not_brought_by_every_success_of_others() {
    /// Declines one device, accepts all others.
    struct Picky(Arc<AtomicU32>);
    impl AppFunction for Picky {
        fn call<'a>(
            &'a self,
            ctx: &'a mut Context,
            data: Data,
        ) -> BoxFuture<'a, Result<Flow, FunctionError>> {
            Box::pin(async move {
                ctx.set_retry_input(&data);
                ctx.approach(Destination::new("picky"), Unsent::Kept).await?;
                if ctx.value("devicename") != Some("poison") {
                    return Ok(Flow::Continue(data));
                }
                self.0.fetch_add(1, Ordering::SeqCst);
                Err(FunctionError::transient("no").with_fault(Fault::Request))
            })
        }
    }
    let declined = Arc::new(AtomicU32::new(0));
    let service = Harness::start(
        LATER,
        vec![pipeline("p", vec![step("A", Picky(declined.clone()))])],
    );
    service.deliver(&EVENT.replace("pump-1", "poison")).await;
    for _ in 0..200 {
        service.deliver(EVENT).await;
    }
    assert_eq!(service.books().completed, 200);
    assert!(
        declined.load(Ordering::SeqCst) <= 3,
        "{} times",
        declined.load(Ordering::SeqCst)
    );
    assert_eq!(
        service.objects(ObjectState::Failed).await[0].attempts,
        1,
        "early tries are not counted"
    );
}

#[tokio::test]
async fn what_waits_to_be_let_in_is_kept_without_an_attempt() {
    // Given room for two at a destination that hangs, and a journal without delay
    let export = Export::new("slow", Answer::Hang);
    let leaves = with(LATER, &[("JournalDelay", "0s")]);
    let service = Harness::start(&leaves, one_each(&[&export]));
    let mut layers = Layers::default();
    for (key, value) in &leaves {
        layers
            .private
            .insert(format!("Writable/StoreAndForward/{key}"), *value);
    }
    layers.private.insert("Writable/Pipeline/Concurrency", "2");
    service
        .settings
        .send_replace(resolve(&layers, None).configuration.writable.clone());

    // When seven events come
    for _ in 0..7 {
        assert_eq!(service.deliver(EVENT).await, Disposition::Done);
    }

    // Then two are being sent, the next two wait for their turn, and what has no room to do so waits in the store for its
    // destination. Of these the first few are tried from there.
    service
        .until("all are on their way", |_| export.calls() == 5)
        .await;
    assert_eq!(service.objects(ObjectState::New).await.len(), 4);
    export.answer(Answer::Accept);
    service
        .until("all are delivered", |service| service.books().completed == 7)
        .await;
    assert_eq!((export.accepted(), export.calls()), (7, 7));
    assert_eq!(service.books().stored, 3);
    service.check_books().await;
}

#[tokio::test]
async fn what_was_set_aside_with_its_pipeline_comes_back_with_it() {
    // Given objects that were set aside because their pipeline changed, or went
    let export = Export::new("a", Answer::Refuse);
    let of = |name| step(name, Call(export.clone()));
    let first = [pipeline("p", vec![of("A")]), pipeline("q", vec![of("A")])];
    let service = Harness::start(SOON, first.to_vec());
    for _ in 0..3 {
        service.deliver(EVENT).await;
    }
    service.change(vec![pipeline("p", vec![of("B")])]);
    wait::until("all are set aside", wait::LONG, async || {
        service.states().await == (0, 6)
    })
    .await;
    export.answer(Answer::Accept);

    // When one pipeline is back as it was, then its objects are delivered, and no others
    service.change(vec![first[0].clone()]);
    service
        .until("its objects are delivered", |service| {
            service.books().completed == 3
        })
        .await;
    assert_eq!(service.states().await, (0, 3));
    service.check_books().await;

    // And when the other one is
    service.change(first.to_vec());
    service
        .until("all are delivered", |service| service.books().completed == 6)
        .await;
    assert_eq!(export.accepted(), 6);
    service.check_books().await;
}

#[tokio::test]
async fn what_was_set_aside_comes_back_when_the_loop_begins_with_its_pipeline() {
    // Given an object whose pipeline changed, and was brought back while nothing was retried
    let export = Export::new("a", Answer::Refuse);
    let of = |name| step(name, Call(export.clone()));
    let first = pipeline("p", vec![of("A")]);
    let service = Harness::start(SOON, vec![first.clone()]);
    service.deliver(EVENT).await;
    service.change(vec![pipeline("p", vec![of("B")])]);
    wait::until("it is set aside", wait::LONG, async || {
        service.states().await == (0, 1)
    })
    .await;
    export.answer(Answer::Accept);
    service.settings.send_replace(settings(&[("Enabled", "false")]));
    // Nothing shows that the loop has heard of it. Were it too late, the change would bring the object back.
    tokio::time::sleep(Duration::from_millis(50)).await;
    service.change(vec![first]);

    // When Store and Forward is on again
    service.settings.send_replace(settings(SOON));

    // Then it is delivered
    service
        .until("it is delivered", |service| service.books().completed == 1)
        .await;
    service.check_books().await;
}

#[tokio::test]
async fn a_destination_that_asks_for_it_is_left_alone_by_all() {
    /// Asks to be left alone the first time.
    struct Busy(Arc<Mutex<Vec<std::time::SystemTime>>>);
    impl AppFunction for Busy {
        fn call<'a>(
            &'a self,
            ctx: &'a mut Context,
            data: Data,
        ) -> BoxFuture<'a, Result<Flow, FunctionError>> {
            Box::pin(async move {
                ctx.set_retry_input(&data);
                ctx.approach(Destination::new("busy"), Unsent::Kept).await?;
                let mut calls = self.0.lock().unwrap();
                calls.push(std::time::SystemTime::now());
                match calls.len() {
                    1 => Err(FunctionError::transient("429")
                        .with_fault(Fault::Destination)
                        .with_retry_after(Duration::from_secs(3))),
                    _ => Ok(Flow::Continue(data)),
                }
            })
        }
    }
    let calls = Arc::new(Mutex::new(Vec::new()));
    let service = Harness::start(SOON, vec![pipeline("p", vec![step("A", Busy(calls.clone()))])]);
    for _ in 0..10 {
        service.deliver(EVENT).await;
    }
    service
        .until("all are delivered", |service| service.books().completed == 10)
        .await;
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 11);
    let pause = calls[1].duration_since(calls[0]).unwrap();
    assert!(pause >= Duration::from_millis(2900), "{pause:?}");
    service.check_books().await;
}
