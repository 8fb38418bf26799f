//! TLS.

use edgehold_mqtt::{TlsSettings, Trust};
use edgehold_test_support::{Authority, TlsFront};
use rustls::ClientConfig;

use super::*;

fn trusting(authority: &Authority) -> Arc<ClientConfig> {
    let settings = TlsSettings {
        trust: Trust::Authorities(authority.pem().to_owned()),
        client_certificate: None,
    };
    settings.client_config().unwrap()
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls_and_an_impostor_is_not() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let server = Redis::start().await.unwrap();
    let certificate = authority.issue("127.0.0.1").unwrap();
    let front = TlsFront::start(server.port(), &certificate, None).await.unwrap();
    let mut listener = server.client().await.unwrap();
    listener.subscribe("edgex.*").await.unwrap();
    let publish = async |trusted: &Authority| {
        let mut connection = redis_connection(front.port());
        connection.connect_timeout = Duration::from_secs(2);
        connection.access = Arc::new(Fixed::new(redis::Access {
            tls: Some(trusting(trusted)),
            credentials: None,
        }));
        redis_publish_once(connection).await
    };
    publish(&authority).await.unwrap();
    assert_eq!(listener.next_message().await.unwrap().0, "edgex.a");
    let error = publish(&stranger).await.expect_err("nobody knows this authority");
    assert!(matches!(error, redis::PublishError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn nats_is_spoken_to_over_tls_and_an_impostor_is_not() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let certificate = authority.issue("127.0.0.1").unwrap();
    let server = Nats::builder().tls(&certificate).start().await.unwrap();
    let mut listener = server.client().await.unwrap();
    listener.subscribe("edgex.*").await.unwrap();
    let publish = async |trusted: &Authority| {
        let access = nats::Access {
            tls: Some(trusting(trusted)),
            login: None,
        };
        nats_publish_once(&server, access).await
    };
    publish(&authority).await.unwrap();
    assert_eq!(listener.next_message().await.unwrap().subject, "edgex.a");
    let error = publish(&stranger).await.expect_err("nobody knows this authority");
    assert!(
        matches!(error, nats::PublishError::Unreachable { .. }),
        "{error:?}"
    );
}
