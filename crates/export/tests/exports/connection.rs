//! Redirects, and how many connections there are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use edgehold_core::{Fault, FunctionRegistry};
use edgehold_export::mqtt::Connections;
use edgehold_test_support::{Answer, Behaviour, HttpSink, wait};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{Given, RETURN_INPUT, built, bytes, call, context, continued, export};

#[tokio::test]
async fn a_redirect_takes_the_data_along() {
    for status in [301, 302, 307, 308] {
        let (first, second) = (HttpSink::start().await.unwrap(), HttpSink::start().await.unwrap());
        first.behave(
            Answer::new(status)
                .header("Location", &second.url("/there"))
                .into(),
        );
        second.behave(Answer::new(200).body("answer").into());
        let function = export(&first.url("/here"), &[("Method", "put")]);

        let data = continued(call(&function, &mut context(), bytes("data")).await);

        assert_eq!(data, bytes("answer"), "{status}");
        let request = &second.requests()[0];
        assert_eq!(
            (request.method.as_str(), request.target.as_str()),
            ("PUT", "/there"),
            "{status}"
        );
        assert_eq!(request.body, "data", "{status}");
    }
}

#[tokio::test]
async fn see_other_fetches_the_result() {
    let sink = HttpSink::start().await.unwrap();
    sink.script(|request| match request.target.as_str() {
        "/" => Answer::new(303).header("Location", "result").into(),
        _ => Answer::new(200).body("answer").into(),
    });
    let data = continued(call(&export(&sink.url("/"), &[]), &mut context(), bytes("data")).await);
    assert_eq!(data, bytes("answer"));
    let request = &sink.requests()[1];
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("GET", "/result")
    );
    assert_eq!(request.body, "");
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Answer::new(307).header("Location", "/").into());
    let error = call(&export(&sink.url("/"), &[]), &mut context(), bytes("data"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "export failed with 307 HTTP status code in pipeline 'default-pipeline'"
    );
    assert_eq!(sink.count(), 11);
}

#[tokio::test]
async fn connections_are_used_again_whatever_the_answer() {
    for (status, parameters, requests) in [
        (400, &[] as Given, 1_000),
        (302, &[], 200),
        (200, &[RETURN_INPUT], 200),
        (200, &[], 200),
    ] {
        // given
        let sink = HttpSink::start().await.unwrap();
        // Too large to lie in a buffer already when the status is read.
        sink.behave(Answer::new(status).body(vec![b'x'; 100_000]).into());
        let relay = Relay::start(sink.port()).await;
        let function = export(&relay.url(), parameters);

        // when
        for _ in 0..requests {
            assert_eq!(
                call(&function, &mut context(), bytes("data")).await.is_ok(),
                status == 200
            );
        }

        // then
        assert_eq!(sink.count(), requests);
        // One, but for a request that overtakes the former connection on its way back to the pool.
        assert!(
            relay.opened() <= requests / 20,
            "{status}: {} connections for {requests} requests",
            relay.opened()
        );
    }
}

#[tokio::test]
async fn ten_thousand_refusals_with_bodies_leak_no_connection() {
    // given as many callers as there are connections to keep
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Answer::new(400).body(vec![b'x'; 2_000]).into());
    let relay = Relay::start(sink.port()).await;
    let function = export(&relay.url(), &[]);

    // when
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let function = function.clone();
        callers.spawn(async move {
            for _ in 0..625 {
                assert!(call(&function, &mut context(), bytes("data")).await.is_err());
            }
        });
    }
    callers.join_all().await;

    // then
    assert_eq!(sink.count(), 10_000);
    assert!(relay.open() <= 16, "{} connections are open", relay.open());
    assert!(
        relay.opened() <= 500,
        "{} connections were opened",
        relay.opened()
    );
}

#[tokio::test]
async fn a_connection_that_is_not_made_in_time_is_given_up() {
    // given a server that never takes part in the TLS handshake
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let function = export(&url, &[("ConnectTimeout", "200ms"), ("RequestTimeout", "1h")]);

    // when
    let called = timeout(wait::LONG, call(&function, &mut context(), bytes("data"))).await;

    // then
    let error = called.expect("the call must end").unwrap_err();
    assert_eq!(error.fault(), Fault::Destination);
    assert!(error.chain().contains("timed out"), "{}", error.chain());
}

#[tokio::test]
async fn functions_share_their_connections() {
    let sink = HttpSink::start().await.unwrap();
    let relay = Relay::start(sink.port()).await;
    let mut registry = FunctionRegistry::default();
    edgehold_export::register(&mut registry, Connections::new().0);
    let mut current = built(&registry, &relay.url(), &[]).unwrap();
    for _ in 0..100 {
        continued(call(&current, &mut context(), bytes("data")).await);
        // As a change of the configuration does it: the new function is there before the old one goes.
        current = built(&registry, &relay.url(), &[]).unwrap();
    }
    assert!(
        relay.opened() <= 50,
        "{} connections for 100 functions",
        relay.opened()
    );
}

#[tokio::test]
async fn a_call_that_is_dropped_sends_nothing_more() {
    // given
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Behaviour::Hang);
    let relay = Relay::start(sink.port()).await;
    let function = export(&relay.url(), &[]);

    // when one call is dropped before it begins, and another one in the middle
    drop(function.call(&mut context(), bytes("never")));
    let mut ctx = context();
    tokio::select! {
        result = function.call(&mut ctx, bytes("data")) => panic!("the sink hangs: {result:?}"),
        requests = sink.wait_for(1, wait::LONG) => assert_eq!(requests[0].body, "data"),
    }

    // then
    wait::until("the connection to be closed", wait::LONG, || {
        std::future::ready(relay.open() == 0)
    })
    .await;
    assert_eq!(sink.count(), 1);
}

/// Hands every connection on and counts them.
struct Relay {
    port: u16,
    opened: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Relay {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (opened, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut serving = JoinSet::new();
        serving.spawn(relay(listener, to, Arc::clone(&opened), Arc::clone(&open)));
        Self {
            port,
            opened,
            open,
            _serving: serving,
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// How many connections there ever were.
    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// How many there are.
    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

async fn relay(listener: TcpListener, to: u16, opened: Arc<AtomicUsize>, open: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        opened.fetch_add(1, Ordering::SeqCst);
        open.fetch_add(1, Ordering::SeqCst);
        let open = Arc::clone(&open);
        connections.spawn(async move {
            let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            // A connection that is cut is as good as one that is closed.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}
