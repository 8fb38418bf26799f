//! What becomes of an answer, and of every way to get none.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use edgehold_contracts::Event;
use edgehold_core::{Data, DataKind, ErrorClass, Fault};
use edgehold_test_support::{Answer, Behaviour, HttpSink};

use super::{CONTINUE, Given, PERSIST, RETURN_INPUT, bytes, call, context, continued, export};

#[tokio::test]
async fn the_answer_goes_on_even_when_it_is_empty() {
    let sink = HttpSink::start().await.unwrap();
    let function = export(&sink.url("/"), &[]);
    for (status, body) in [(200, "answer"), (204, ""), (299, "")] {
        sink.behave(Answer::new(status).body(body).into());
        let data = continued(call(&function, &mut context(), bytes("data")).await);
        assert_eq!(data, bytes(body), "{status}");
    }
}

#[tokio::test]
async fn the_input_goes_on_as_it_was_when_asked_for() {
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Answer::new(200).body("answer").into());
    let given = Data::Event(Arc::new(Event::default()));
    let data = continued(
        call(
            &export(&sink.url("/"), &[RETURN_INPUT]),
            &mut context(),
            given.clone(),
        )
        .await,
    );
    assert_eq!(data, given);
}

#[tokio::test]
async fn a_failure_keeps_the_input_only_when_it_is_to_persist() {
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Behaviour::status(500));
    let event = Data::Event(Arc::new(Event::default()));
    for (parameters, kept) in [(&[PERSIST] as Given, Some(DataKind::Event)), (&[], None)] {
        let mut ctx = context();
        let error = call(&export(&sink.url("/"), parameters), &mut ctx, event.clone())
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "export failed with 500 HTTP status code in pipeline 'default-pipeline'"
        );
        let retry = ctx.take_retry_data();
        assert_eq!(retry.as_ref().map(|retry| retry.kind), kept);
        assert!(retry.is_none_or(|retry| retry.payload == sink.requests()[0].body));
    }
}

#[tokio::test]
async fn every_way_a_send_can_break_is_worth_another_attempt() {
    let mut sink = HttpSink::start().await.unwrap();
    let function = export(&sink.url("/"), &[PERSIST, ("RequestTimeout", "200ms")]);
    for behaviour in [Some(Behaviour::Reset), Some(Behaviour::Hang), None] {
        // given
        match &behaviour {
            Some(behaviour) => sink.behave(behaviour.clone()),
            None => sink.refuse().await,
        }
        let mut ctx = context();

        // when
        let error = call(&function, &mut ctx, bytes("data")).await.unwrap_err();

        // then
        assert_eq!(error.class(), ErrorClass::Transient, "{behaviour:?}");
        assert_eq!(error.fault(), Fault::Destination, "{behaviour:?}");
        assert_eq!(error.to_string(), "export failed in pipeline 'default-pipeline'");
        let hung = matches!(behaviour, Some(Behaviour::Hang));
        assert_eq!(
            error.chain().contains("timed out"),
            hung,
            "{behaviour:?}: {}",
            error.chain()
        );
        assert_eq!(ctx.take_retry_data().expect("kept").payload, "data");
        let destination = ctx.take_destination().expect("it was on its way");
        assert_eq!(destination.as_str(), format!("http://127.0.0.1:{}", sink.port()));
    }
    sink.reopen().await.unwrap();
    sink.behave(Behaviour::status(200));
    continued(call(&function, &mut context(), bytes("data")).await);
}

#[tokio::test]
async fn data_that_has_arrived_is_not_sent_again_because_the_answer_broke_off() {
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Behaviour::HalfAnswer);
    let mut ctx = context();
    let data = continued(call(&export(&sink.url("/"), &[PERSIST]), &mut ctx, bytes("data")).await);
    assert_eq!(data, bytes("{\"half\":"));
    assert_eq!(ctx.take_retry_data(), None);
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    let sink = HttpSink::start().await.unwrap();
    let limit = 16 * 1024 * 1024;
    sink.behave(Answer::new(200).body(vec![b'x'; 2 * limit]).into());
    let data = continued(call(&export(&sink.url("/"), &[]), &mut context(), bytes("data")).await);
    assert!(matches!(&data, Data::Bytes(bytes) if (1..=limit).contains(&bytes.len())));
}

#[tokio::test]
async fn statuses_listed_as_permanent_are_not_worth_another_attempt() {
    let sink = HttpSink::start().await.unwrap();
    let function = export(&sink.url("/"), &[PERSIST, ("PermanentStatus", "400, 5xx")]);
    for (status, class, fault) in [
        (400, ErrorClass::Permanent, Fault::Request),
        (404, ErrorClass::Transient, Fault::Request),
        (408, ErrorClass::Transient, Fault::Request),
        (429, ErrorClass::Transient, Fault::Destination),
        (503, ErrorClass::Permanent, Fault::Request),
    ] {
        sink.behave(Behaviour::status(status));
        let mut ctx = context();
        let error = call(&function, &mut ctx, bytes("data")).await.unwrap_err();
        assert_eq!(error.class(), class, "{status}");
        assert_eq!(error.fault(), fault, "{status}");
        assert!(ctx.take_retry_data().is_some(), "what is permanent is kept too");
    }
}

#[tokio::test]
async fn a_destination_may_ask_for_a_pause() {
    let sink = HttpSink::start().await.unwrap();
    let function = export(&sink.url("/"), &[]);
    for (status, pause) in [
        (429, Some(Duration::from_secs(7))),
        (503, Some(Duration::from_secs(7))),
        (500, None),
    ] {
        sink.behave(Answer::new(status).header("Retry-After", "7").into());
        let error = call(&function, &mut context(), bytes("data")).await.unwrap_err();
        assert_eq!(error.retry_after(), pause, "{status}");
        assert_eq!(error.fault(), Fault::Destination, "{status}");
    }
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(600));
    sink.behave(Answer::new(429).header("Retry-After", &date).into());
    let error = call(&function, &mut context(), bytes("data")).await.unwrap_err();
    let pause = error.retry_after().expect("until that date");
    assert!(
        (Duration::from_secs(500)..=Duration::from_secs(600)).contains(&pause),
        "{pause:?}"
    );
}

#[tokio::test]
async fn a_slow_answer_in_time_is_a_success() {
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Answer::new(200).after(Duration::from_millis(300)).into());
    let function = export(&sink.url("/"), &[("ConnectTimeout", "100ms")]);
    continued(call(&function, &mut context(), bytes("data")).await);
}

#[tokio::test]
async fn continuing_after_an_error_is_for_sends_not_for_mistakes() {
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Behaviour::status(500));
    let mut ctx = context();
    let continuing = export(&sink.url("/"), &[CONTINUE, RETURN_INPUT]);
    let data = continued(call(&continuing, &mut ctx, bytes("data")).await);
    assert_eq!(data, bytes("data"));
    assert_eq!(ctx.take_destination(), None, "nothing got there");

    let nowhere = export("http://{nosuch}/", &[CONTINUE, RETURN_INPUT]);
    assert!(call(&nowhere, &mut context(), bytes("data")).await.is_err());

    let without_input = export(&sink.url("/"), &[CONTINUE]);
    let error = call(&without_input, &mut context(), bytes("data"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("together with returnInputData"),
        "{error}"
    );
    assert_eq!(sink.count(), 1);
}
