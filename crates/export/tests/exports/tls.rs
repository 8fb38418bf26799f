//! Private authorities, client certificates and what is sent beside the data, against a real TLS server.

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{Arc, Mutex},
};

use edgehold_contracts::Generation;
use edgehold_core::{
    BoxFuture, Context, CorrelationId, ErrorClass, PipelineId, Secret, SecretError, SecretProvider,
    SecretText, ServiceKey,
};
use edgehold_test_support::{Authority, Behaviour, HttpSink, TlsFront};

use super::{Given, PERSIST, bytes, call, context, continued, export};

const TLS: (&str, &str) = ("TlsSecretName", "tls");

/// A secret named `tls` that can be exchanged.
#[derive(Clone, Default)]
struct TlsSecret(Arc<Mutex<Option<Secret>>>);

impl TlsSecret {
    fn set(&self, keys: &[(&str, &str)]) {
        let secret = keys
            .iter()
            .map(|(key, value)| ((*key).to_owned(), SecretText::new(*value)));
        *self.0.lock().unwrap() = Some(BTreeMap::from_iter(secret));
    }

    fn context(&self) -> Context {
        Context::new(
            ServiceKey::try_new("app-test").unwrap(),
            PipelineId::default_pipeline(),
            CorrelationId::new("corr-1"),
            Generation::V4,
            Arc::new(self.clone()),
        )
    }
}

impl SecretProvider for TlsSecret {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        let secret = self.0.lock().unwrap().clone().filter(|_| name == "tls");
        Box::pin(std::future::ready(secret.ok_or_else(|| {
            SecretError::UnknownName {
                name: name.to_owned(),
            }
        })))
    }
}

fn url(front: &TlsFront) -> String {
    format!("https://127.0.0.1:{}/", front.port())
}

#[tokio::test]
async fn a_private_authority_is_believed_when_its_secret_says_so_and_from_then_on() {
    let authority = Authority::new().unwrap();
    let sink = HttpSink::start().await.unwrap();
    let front = TlsFront::start(sink.port(), &authority.issue("127.0.0.1").unwrap(), None)
        .await
        .unwrap();
    let secret = TlsSecret::default();
    let function = export(&url(&front), &[TLS, PERSIST]);

    // Given no secret yet, then one of another authority: nothing is sent, and all is kept
    for other in [None, Some(Authority::new().unwrap())] {
        if let Some(other) = &other {
            secret.set(&[("cacert", other.pem())]);
        }
        let mut ctx = secret.context();
        let error = call(&function, &mut ctx, bytes("data")).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient, "{}", error.chain());
        assert!(ctx.take_retry_data().is_some());
    }
    // When the right one is there
    secret.set(&[("cacert", authority.pem()), ("clientcert", ""), ("clientkey", "")]);
    continued(call(&function, &mut secret.context(), bytes("data")).await);
    assert_eq!(sink.requests()[0].body, "data");
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_that_asks_for_one() {
    let authority = Authority::new().unwrap();
    let sink = HttpSink::start().await.unwrap();
    let server = authority.issue("127.0.0.1").unwrap();
    let front = TlsFront::start(sink.port(), &server, Some(&authority))
        .await
        .unwrap();
    let secret = TlsSecret::default();
    let function = export(&url(&front), &[TLS]);

    secret.set(&[("cacert", authority.pem())]);
    assert!(
        call(&function, &mut secret.context(), bytes("data"))
            .await
            .is_err()
    );

    let client = authority.issue("edge").unwrap();
    secret.set(&[
        ("cacert", authority.pem()),
        ("clientcert", &client.pem),
        ("clientkey", &client.key),
    ]);
    continued(call(&function, &mut secret.context(), bytes("data")).await);
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn a_server_nobody_knows_is_believed_only_with_skip_verify() {
    let authority = Authority::new().unwrap();
    let sink = HttpSink::start().await.unwrap();
    // Its name is wrong too.
    let front = TlsFront::start(sink.port(), &authority.issue("other").unwrap(), None)
        .await
        .unwrap();
    assert!(
        call(&export(&url(&front), &[]), &mut context(), bytes("data"))
            .await
            .is_err()
    );
    let function = export(&url(&front), &[("SkipVerify", "true")]);
    continued(call(&function, &mut context(), bytes("data")).await);
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn a_compressed_body_says_so_and_is_the_data() {
    let sink = HttpSink::start().await.unwrap();
    let function = export(&sink.url("/"), &[("Compression", "gzip"), PERSIST]);
    let data = "0123456789".repeat(100);
    continued(call(&function, &mut context(), bytes(&data)).await);
    let request = &sink.requests()[0];
    assert_eq!(request.header("content-encoding"), Some("gzip"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert!(request.body.len() < 100);
    let mut content = String::new();
    flate2::read::GzDecoder::new(&*request.body)
        .read_to_string(&mut content)
        .unwrap();
    assert_eq!(content, data);

    // What is kept after a failure is the data itself, so that Compression can be changed meanwhile.
    sink.behave(Behaviour::status(503));
    let mut ctx = context();
    call(&function, &mut ctx, bytes(&data)).await.unwrap_err();
    assert_eq!(ctx.take_retry_data().unwrap().payload, data);
}

#[tokio::test]
async fn every_attempt_says_by_which_key_it_is_known_unless_told_otherwise() {
    const OFF: (&str, &str) = ("IdempotencyKey", "false");
    const OWN: (&str, &str) = ("HttpRequestHeaders", r#"{"Idempotency-Key":"mine"}"#);
    let sink = HttpSink::start().await.unwrap();
    let mut ctx = context();
    ctx.begin_with(&bytes("began"));
    let key = ctx.idempotency_key().unwrap();
    let cases: [(Given, Option<&str>); 3] = [(&[], Some(&key)), (&[OFF], None), (&[OWN], Some("mine"))];
    for (parameters, expected) in cases {
        let function = export(&sink.url("/"), parameters);
        continued(call(&function, &mut ctx, bytes("data")).await);
        let request = sink.take().remove(0);
        assert_eq!(request.header("idempotency-key"), expected, "{parameters:?}");
    }
}
