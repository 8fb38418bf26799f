//! URLs and headers, and what must not be seen of them.

use std::sync::Arc;

use edgehold_core::{AppFunction, Data, ErrorClass, FunctionError, FunctionRegistry};
use edgehold_export::{Formatter, http::HttpExportFactory};
use edgehold_test_support::{Behaviour, HttpSink};

use super::{PERSIST, built, bytes, call, context, continued, export};

#[tokio::test]
async fn a_url_that_is_none_fails_each_message_for_good_and_keeps_it() {
    for (url, reason) in [
        ("<put your URL here>", "not valid: relative URL without a base"),
        ("", "not valid: relative URL without a base"),
        ("http://", "not valid: empty host"),
        ("ftp://host/", "unsupported protocol scheme 'ftp'"),
        ("host:80/path", "unsupported protocol scheme 'host'"),
    ] {
        let mut ctx = context();
        let error = call(&export(url, &[PERSIST]), &mut ctx, bytes("data"))
            .await
            .unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent, "{url}");
        assert!(error.chain().contains(reason), "{url}: {}", error.chain());
        assert!(ctx.take_retry_data().is_some(), "{url}");
    }
}

/// EdgeX: `HTTPSenderOptions.URLFormatter`.
#[tokio::test]
async fn a_url_may_be_made_by_code_for_each_message() {
    let sink = HttpSink::start().await.unwrap();
    let formatter: Formatter = Arc::new(|format, ctx, data| match data {
        Data::Bytes(bytes) if bytes.is_empty() => Err(FunctionError::permanent("nothing to send")),
        data => Ok(format!("{format}/{}/{}", ctx.pipeline_id(), data.kind().as_str())),
    });
    let mut registry = FunctionRegistry::default();
    registry.register(
        "HTTPExport",
        HttpExportFactory::new().with_url_formatter(formatter),
    );
    let function = built(&registry, &sink.url("/made"), &[PERSIST]).unwrap();

    continued(call(&function, &mut context(), bytes("data")).await);
    assert_eq!(sink.requests()[0].target, "/made/default-pipeline/bytes");

    let mut ctx = context();
    let error = call(&function, &mut ctx, bytes("")).await.unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.class()),
        ("nothing to send", ErrorClass::Permanent)
    );
    assert!(ctx.take_retry_data().is_some());
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn credentials_in_the_url_are_sent_and_never_told() {
    let mut sink = HttpSink::start().await.unwrap();
    let url = format!("http://user:sesame@127.0.0.1:{}/?key=sesame", sink.port());
    let function = export(&url, &[]);

    continued(call(&function, &mut context(), bytes("data")).await);
    assert_eq!(
        sink.requests()[0].header("Authorization"),
        Some("Basic dXNlcjpzZXNhbWU=")
    );
    assert_eq!(sink.requests()[0].target, "/?key=sesame");

    let mut failures = Vec::new();
    sink.behave(Behaviour::status(500));
    failures.push(failure(&function).await);
    sink.behave(Behaviour::Reset);
    failures.push(failure(&function).await);
    sink.refuse().await;
    failures.push(failure(&function).await);
    failures.push(failure(&export(&format!("{url}&d={{nosuch}}"), &[])).await);
    failures.push(failure(&export("http://user:sesame@:80/", &[])).await);
    for (text, destination) in failures {
        assert!(
            !text.contains("sesame") && !destination.contains("sesame"),
            "{text} {destination}"
        );
    }
}

/// Everything a failed call says, and where it went.
async fn failure(function: &Arc<dyn AppFunction>) -> (String, String) {
    let mut ctx = context();
    let error = call(function, &mut ctx, bytes("data")).await.unwrap_err();
    (
        format!("{} {error:?}", error.chain()),
        format!("{:?}", ctx.take_destination()),
    )
}

#[tokio::test]
async fn a_later_header_replaces_an_earlier_one() {
    let sink = HttpSink::start().await.unwrap();
    for (header, more, content_type, extra) in [
        ("Content-Type", "{}", "text/csv", None),
        ("X-Extra", "{}", "text/csv", Some("Bearer example-token")),
        (
            "X-Extra",
            r#"{"x-extra":"e1","content-type":"text/xml"}"#,
            "text/xml",
            Some("e1"),
        ),
    ] {
        let parameters = [
            ("MimeType", "text/csv"),
            ("HeaderName", header),
            ("SecretName", "http"),
            ("SecretValueKey", "headervalue"),
            ("HttpRequestHeaders", more),
        ];
        continued(
            call(
                &export(&sink.url("/"), &parameters),
                &mut context(),
                bytes("data"),
            )
            .await,
        );
        let [request] = &sink.take()[..] else {
            panic!("one request")
        };
        assert_eq!(request.header("Content-Type"), Some(content_type));
        assert_eq!(request.header("X-Extra"), extra);
        let agent = format!("edgehold/{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(request.header("User-Agent"), Some(agent.as_str()));
    }
}

#[tokio::test]
async fn without_its_secret_nothing_is_sent_and_a_later_attempt_may_succeed() {
    let sink = HttpSink::start().await.unwrap();
    for (secret, key, reason) in [
        ("nosuch", "headervalue", "no secret named 'nosuch'"),
        ("http", "nosuch", "secret 'http' has no key nosuch"),
        ("http", "twolines", "cannot stand in a header"),
    ] {
        let parameters = [
            ("HeaderName", "X-Key"),
            ("SecretName", secret),
            ("SecretValueKey", key),
            PERSIST,
        ];
        let mut ctx = context();
        let error = call(&export(&sink.url("/"), &parameters), &mut ctx, bytes("data"))
            .await
            .unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient, "{key}");
        assert!(error.chain().contains(reason), "{}", error.chain());
        assert!(!error.chain().contains("sesame"), "{}", error.chain());
        assert!(ctx.take_retry_data().is_some());
    }
    assert_eq!(sink.count(), 0);
}
