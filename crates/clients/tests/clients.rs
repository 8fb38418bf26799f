//! The clients against a server that does as the test tells it.

use std::{error::Error as _, time::Duration};

use edgehold_clients::{
    ApplicationClient, CallError, CoreMetadata, FetchError, FileUri, RequestHeader, VersionCheck,
};
use edgehold_config::Client;
use edgehold_contracts::Generation;
use edgehold_core::{Secret, SecretText, Shutdown};
use edgehold_test_support::{Answer, Behaviour, HttpSink, wait};

const FILE: &str = "Writable:\n  LogLevel: INFO\n";

fn client(port: u16) -> Client {
    Client {
        protocol: "http".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        use_message_bus: false,
        security_options: Default::default(),
    }
}

fn check(sink: &HttpSink, generation: Generation) -> VersionCheck {
    VersionCheck::new(CoreMetadata::new(&client(sink.port())).unwrap(), generation)
}

fn header() -> RequestHeader {
    let secret: Secret = [
        ("type", "httpheader"),
        ("headername", "X-Key"),
        ("headercontents", "let-me-in"),
    ]
    .map(|(key, value)| (key.to_owned(), SecretText::new(value)))
    .into();
    RequestHeader::from_secret("files", &secret).unwrap()
}

fn version(version: &str) -> Behaviour {
    let body = format!(r#"{{"apiVersion":"v3","version":"{version}","serviceName":"core-metadata"}}"#);
    Answer::new(200).body(body).into()
}

#[track_caller]
fn cause(result: Result<String, FetchError>) -> CallError {
    match result {
        Err(FetchError::Call { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_is_fetched_with_header_password_and_query() {
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Answer::new(200).body(FILE).into());
    let uri = format!(
        "http://user:pass@127.0.0.1:{}/c.yaml?a=1&edgexSecretName=files",
        sink.port()
    );

    let text = FileUri::parse(&uri)
        .unwrap()
        .fetch(Some(header()), wait::LONG)
        .await;

    assert_eq!(text.unwrap(), FILE);
    let request = sink.requests().remove(0);
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("GET", "/c.yaml?a=1&edgexSecretName=files")
    );
    assert_eq!(request.header("x-key"), Some("let-me-in"));
    assert_eq!(request.header("authorization"), Some("Basic dXNlcjpwYXNz"));
}

#[tokio::test]
async fn a_secret_stays_with_its_host() {
    // Given a server that sends everyone on, to another path or to another host
    let sink = HttpSink::start().await.unwrap();
    let elsewhere = format!("http://localhost:{}/new", sink.port());
    sink.script(move |request| match request.target.as_str() {
        "/new" => Answer::new(200).body(FILE).into(),
        "/here" => Answer::new(302).header("Location", "/new").into(),
        _ => Answer::new(302).header("Location", &elsewhere).into(),
    });
    let fetch = async |path| {
        let uri = FileUri::parse(&sink.url(path)).unwrap();
        uri.fetch(Some(header()), wait::LONG).await
    };
    // Then a secret goes to the first, and never to the second
    assert_eq!(fetch("/here").await.unwrap(), FILE);
    assert_eq!(sink.take()[1].header("x-key"), Some("let-me-in"));
    assert!(matches!(
        cause(fetch("/elsewhere").await),
        CallError::Refused { status: 302 }
    ));
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn a_redirect_is_followed() {
    let sink = HttpSink::start().await.unwrap();
    sink.script(|request| match request.target.as_str() {
        "/new" => Answer::new(200).body(FILE).into(),
        _ => Answer::new(302).header("Location", "/new").into(),
    });

    let text = FileUri::parse(&sink.url("/old"))
        .unwrap()
        .fetch(None, wait::LONG)
        .await;

    assert_eq!(text.unwrap(), FILE);
}

#[tokio::test]
async fn a_file_that_does_not_come_is_named_without_credentials() {
    let mut sink = HttpSink::start().await.unwrap();
    let uri = format!("http://user:pass@127.0.0.1:{}/c.yaml?token=secret", sink.port());
    let uri = FileUri::parse(&uri).unwrap();
    let short = Duration::from_millis(50);

    sink.behave(Behaviour::status(304));
    assert!(matches!(
        cause(uri.fetch(None, wait::LONG).await),
        CallError::Refused { status: 304 }
    ));
    sink.behave(Behaviour::Hang);
    assert!(matches!(
        cause(uri.fetch(None, short).await),
        CallError::TimedOut { .. }
    ));
    sink.behave(Behaviour::HalfAnswer);
    assert!(matches!(
        cause(uri.fetch(None, wait::LONG).await),
        CallError::NoAnswer { .. }
    ));
    sink.behave(Answer::new(200).body(&b"\xff\xfe"[..]).into());
    assert!(matches!(
        cause(uri.fetch(None, wait::LONG).await),
        CallError::NotUnderstood { .. }
    ));
    sink.behave(Answer::new(200).body(vec![b'#'; 5 << 20]).into());
    assert!(matches!(
        cause(uri.fetch(None, wait::LONG).await),
        CallError::TooLong { .. }
    ));

    sink.refuse().await;
    let error = uri.fetch(None, wait::LONG).await.unwrap_err();
    let told = format!("{error}: {}", error.source().unwrap());
    assert!(
        told.contains(&format!(
            "http://127.0.0.1:{}/c.yaml cannot be fetched",
            sink.port()
        )),
        "{told}"
    );
    assert!(told.contains("refused"), "{told}");
    assert!(!told.contains("pass") && !told.contains("secret"), "{told}");
}

#[tokio::test]
async fn a_start_fails_only_when_core_metadata_is_of_another_generation() {
    let mut sink = HttpSink::start().await.unwrap();
    sink.behave(version("3.1.0"));
    check(&sink, Generation::V3).at_start().await.unwrap();
    let mismatch = check(&sink, Generation::V4).at_start().await.unwrap_err();
    let told = mismatch.to_string();
    assert!(
        told.contains(&format!("http://127.0.0.1:{} is EdgeX 3.1.0", sink.port()))
            && told.contains("speaks EdgeX 4"),
        "{told}"
    );
    assert_eq!(sink.requests()[0].target, "/api/v3/version");

    sink.behave(version("master"));
    check(&sink, Generation::V4).at_start().await.unwrap();
    sink.behave(Behaviour::status(401));
    check(&sink, Generation::V4).at_start().await.unwrap();
    sink.behave(Answer::new(200).body("{}").into());
    check(&sink, Generation::V4).at_start().await.unwrap();
    sink.refuse().await;
    check(&sink, Generation::V4).at_start().await.unwrap();
}

#[tokio::test]
async fn what_did_not_answer_at_start_is_asked_again() {
    // Given a start without an answer
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Behaviour::status(503));
    let mut check = check(&sink, Generation::V3);
    check.at_start().await.unwrap();
    // When the service runs, and only the fourth answer is one: of another generation
    sink.script(|_| Behaviour::status(503));
    let (shutdown, signal) = Shutdown::new();
    #[expect(clippy::disallowed_methods, reason = "a test owns its tasks")]
    let running = tokio::spawn(check.run(signal));
    let asked = async |times: usize| {
        // The clock runs, so that calls can end, and jumps, so that pauses do. The deadline jumps with it.
        wait::until("it asks again", wait::LONG * 20, async || {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::time::resume();
            sink.count() >= times
        })
        .await;
    };
    asked(3).await;
    sink.behave(version("4.0.0"));
    asked(4).await;
    // Then the service goes on, and ends when it is told
    assert!(!running.is_finished());
    shutdown.trigger();
    running.await.unwrap();
}

#[path = "clients/core.rs"]
mod core;

#[tokio::test]
async fn an_application_service_may_answer_at_length_but_not_be_silent() {
    let sink = HttpSink::start().await.unwrap();
    let client = |limit| ApplicationClient::new("127.0.0.1", sink.port(), None, limit).unwrap();
    let long = "x".repeat(20 << 20);
    sink.behave(Answer::new(200).body(format!("\"{long}\"")).into());
    let answer: String = client(wait::LONG).get(&["store"], &[]).await.unwrap();
    assert!(answer == long, "{} bytes", answer.len());

    let short = client(Duration::from_millis(50));
    sink.behave(Behaviour::Hang);
    let error = short.get::<String>(&["store"], &[]).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
}
