//! Asking before sending.

use std::sync::{Arc, Mutex};

use edgehold_core::{BoxFuture, Context, Destination, ErrorClass, FunctionError, Gate, Unsent};
use edgehold_test_support::HttpSink;

use super::{CONTINUE, Given, PERSIST, RETURN_INPUT, bytes, call, context, continued, export};

/// Lets through what nobody keeps, and notes who asked.
#[derive(Default)]
struct Closed(Mutex<Vec<(String, Unsent)>>);

impl Gate for Closed {
    fn enter<'a>(
        &'a self,
        destination: &'a Destination,
        unsent: Unsent,
    ) -> BoxFuture<'a, Result<(), FunctionError>> {
        self.0.lock().unwrap().push((destination.to_string(), unsent));
        Box::pin(std::future::ready(match unsent {
            Unsent::Kept => Err(FunctionError::not_attempted("closed")),
            Unsent::Lost => Ok(()),
        }))
    }
}

fn before(gate: &Arc<Closed>) -> Context {
    let mut ctx = context();
    ctx.set_gate(gate.clone());
    ctx
}

#[tokio::test]
async fn what_is_refused_is_not_sent_and_kept_as_it_is() {
    let sink = HttpSink::start().await.unwrap();
    let gate = Arc::new(Closed::default());
    let mut ctx = before(&gate);
    let error = call(&export(&sink.url("/"), &[PERSIST]), &mut ctx, bytes("data"))
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotAttempted);
    assert_eq!(ctx.take_retry_data().expect("kept").payload, "data");
    let there = format!("http://127.0.0.1:{}", sink.port());
    assert_eq!(ctx.take_destination().expect("known").as_str(), there);
    assert_eq!(*gate.0.lock().unwrap(), [(there, Unsent::Kept)]);
    assert_eq!(sink.count(), 0);
}

#[tokio::test]
async fn what_nobody_keeps_says_so() {
    let sink = HttpSink::start().await.unwrap();
    for parameters in [&[] as Given, &[CONTINUE, RETURN_INPUT]] {
        let gate = Arc::new(Closed::default());
        continued(
            call(
                &export(&sink.url("/"), parameters),
                &mut before(&gate),
                bytes("data"),
            )
            .await,
        );
        assert_eq!(gate.0.lock().unwrap()[0].1, Unsent::Lost);
    }
    assert_eq!(sink.count(), 2);
}

#[tokio::test]
async fn nobody_is_asked_about_what_cannot_be_sent() {
    let gate = Arc::new(Closed::default());
    let nowhere = export("http://{nosuch}/", &[PERSIST]);
    let error = call(&nowhere, &mut before(&gate), bytes("data"))
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert_eq!(gate.0.lock().unwrap().len(), 0);
}
