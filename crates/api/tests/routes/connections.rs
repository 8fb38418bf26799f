//! Connections: what one may take, how they end, and TLS.

use std::{sync::Arc, time::Duration};

use edgehold_api::{CustomRoute, Https, HttpsError, Limits, RouteMethod, RouteResponse};
use edgehold_config::{
    Configuration, Layer, Layers,
    configuration::{HttpServer, Writable},
    resolve,
    secrets::InsecureSecretProvider,
};
use edgehold_core::SecretProvider;
use edgehold_test_support::{Authority, Certificate, http, wait::LONG};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, watch},
    time::timeout,
};

use crate::{Build, Server, generous};

/// All that comes until the other side closes.
async fn answer_to(port: u16, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    // Whether it is closed or reset is all the same.
    let _ = timeout(LONG, stream.read_to_end(&mut answer))
        .await
        .expect("it is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

fn short() -> Limits {
    Limits {
        request_timeout: Duration::from_millis(50),
        ..generous()
    }
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_the_connection() {
    let server = Server::with(short(), Vec::new()).await;
    for sent in ["", "GET /api/v3/ping HTTP/1.1\r\nHost: h\r\nX-Slow:"] {
        assert_eq!(answer_to(server.port, sent.as_bytes()).await, "");
    }
}

#[tokio::test]
async fn a_request_without_a_host_is_refused_as_edgex_refuses_it() {
    let server = Server::start().await;
    let answer = answer_to(server.port, b"GET /api/v3/ping HTTP/1.1\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request: missing required Host header\r\n"),
        "{answer}"
    );
    let old = answer_to(server.port, b"GET /api/v3/ping HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
}

/// Weakness 27: EdgeX does not wait for what its routes are doing.
#[tokio::test]
async fn weakness_27_a_request_in_hand_is_finished_and_a_silent_connection_is_not_waited_for() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (handler_begun, handler_goes_on) = (begun.clone(), go_on.clone());
    let slow = CustomRoute::try_new("/slow", &[RouteMethod::Get], move |_| {
        let (begun, go_on) = (handler_begun.clone(), handler_goes_on.clone());
        async move {
            begun.notify_one();
            go_on.notified().await;
            RouteResponse::text(200, "done")
        }
    });
    let mut server = Server::with(generous(), vec![slow.unwrap()]).await;
    let _silent = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let mut kept = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    kept.write_all(b"GET /api/v3/ping HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    assert!(kept.read(&mut [0; 64]).await.unwrap() > 0);
    let asked = http::get(server.port, "/slow");
    let ended = async {
        begun.notified().await;
        server.shutdown.trigger();
        go_on.notify_one();
        timeout(LONG, async {
            while server.running.join_next().await.is_some() {}
        })
        .await
    };
    let (answer, ended) = tokio::join!(asked, ended);
    assert_eq!(answer.unwrap().text(), "done");
    ended.expect("it has ended");
}

/// A secret `web` with `cert` and `key`, and whoever renews it.
fn secret(certificate: &Certificate) -> (watch::Sender<Arc<Writable>>, Arc<dyn SecretProvider>) {
    let (sender, receiver) = watch::channel(holding(&certificate.pem, &certificate.key));
    (sender, Arc::new(InsecureSecretProvider::new(receiver)))
}

fn holding(certificate: &str, key: &str) -> Arc<Writable> {
    let path = |leaf: &str| format!("Writable/InsecureSecrets/web/{leaf}");
    let private = Layer::from_iter([
        (path("SecretName"), "web"),
        (path("SecretData/cert"), certificate),
        (path("SecretData/key"), key),
    ]);
    let layers = Layers {
        private,
        ..Layers::default()
    };
    resolve(&layers, None).configuration.writable.clone()
}

fn settings() -> HttpServer {
    HttpServer {
        protocol: "https".to_owned(),
        secret_name: "web".to_owned(),
        https_cert_name: "cert".to_owned(),
        https_key_name: "key".to_owned(),
    }
}

async fn https(secrets: Arc<dyn SecretProvider>) -> Option<Https> {
    Https::from_settings(&settings(), secrets).await.unwrap()
}

#[tokio::test]
async fn https_takes_a_renewed_certificate_with_the_next_connection_and_keeps_the_last_good_one() {
    let (old, new) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (renew, secrets) = secret(&old.issue("127.0.0.1").unwrap());
    let build = Build {
        https: https(secrets).await,
        ..Build::default()
    };
    let server = build.start().await;
    let ask = |authority| http::send_tls(server.port, authority, "GET", "/api/v3/ping", b"");
    assert_eq!(ask(&old).await.unwrap().status, 200);

    let renewed = new.issue("127.0.0.1").unwrap();
    renew.send_replace(holding(&renewed.pem, &renewed.key));
    assert_eq!(ask(&new).await.unwrap().status, 200);
    assert!(ask(&old).await.is_err(), "the old one is no longer used");

    renew.send_replace(holding("not a certificate", &renewed.key));
    assert_eq!(ask(&new).await.unwrap().status, 200);
}

#[tokio::test]
async fn who_speaks_plain_http_to_https_is_told_so_and_who_says_nothing_is_not_waited_for() {
    let authority = Authority::new().unwrap();
    let (_renew, secrets) = secret(&authority.issue("127.0.0.1").unwrap());
    let build = Build {
        https: https(secrets).await,
        limits: short(),
        ..Build::default()
    };
    let server = build.start().await;
    let told = answer_to(server.port, b"GET /api/v3/ping HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(
        told,
        "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    );
    answer_to(server.port, b"").await;
    // The beginning of a handshake that goes no further.
    answer_to(server.port, &[22, 3, 1, 2]).await;
    answer_to(server.port, &[0, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_without_its_text() {
    let authority = Authority::new().unwrap();
    let (good, other) = (
        authority.issue("127.0.0.1").unwrap(),
        authority.issue("127.0.0.1").unwrap(),
    );
    for (certificate, key, expected) in [
        (
            "MARKED",
            &*good.key,
            "'cert' of secret 'web' is not a certificate in PEM",
        ),
        (
            &good.pem,
            "MARKED",
            "'key' of secret 'web' is not a private key in PEM",
        ),
        (&good.pem, &other.key, "is not the key of its certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nMARKED\n-----END CERTIFICATE-----\n",
            &good.key,
            "cannot be used",
        ),
    ] {
        let (_, receiver) = watch::channel(holding(certificate, key));
        let secrets = Arc::new(InsecureSecretProvider::new(receiver));
        let error = Https::from_settings(&settings(), secrets).await.unwrap_err();
        let told = format!("{error} {error:?}");
        assert!(told.contains(expected) && !told.contains("MARKED"), "{told}");
    }

    let (_, receiver) = watch::channel(Configuration::default().writable);
    let secrets: Arc<dyn SecretProvider> = Arc::new(InsecureSecretProvider::new(receiver));
    let absent = Https::from_settings(&settings(), secrets.clone()).await;
    assert!(matches!(absent, Err(HttpsError::Secret(_))), "{absent:?}");
    let unnamed = HttpServer {
        https_key_name: String::new(),
        ..settings()
    };
    let unnamed = Https::from_settings(&unnamed, secrets.clone()).await;
    assert!(matches!(
        unnamed,
        Err(HttpsError::NotSet("HttpServer.HTTPSKeyName"))
    ));
    let plain = HttpServer {
        protocol: "HTTPS".to_owned(),
        ..settings()
    };
    assert!(Https::from_settings(&plain, secrets).await.unwrap().is_none());
}
