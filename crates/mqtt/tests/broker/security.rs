//! Who is let in and who is believed, against a mosquitto that asks for it; and what the broker says when we vanish.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use edgehold_core::{BoxFuture, Secret, SecretError, SecretProvider, SecretText, Shutdown};
use edgehold_mqtt::{
    AuthMode, BrokerAddress, BusOptions, ConnectionSettings, Identity, LastWill, Publication, PublishError,
    Qos, Rules,
};
use edgehold_test_support::{
    Authority, Certificate, Mosquitto, MosquittoBuilder, MqttSubscriber, Qos as PublishQos, unique_name,
    wait::{LONG, until},
};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    super::{Options, TOPIC, publish},
    publication::{Scripted, packet},
};

const SUBSCRIBE: u8 = 8;

/// Secrets that can be renewed.
#[derive(Clone, Default)]
struct Secrets(Arc<Mutex<Secret>>);

impl Secrets {
    fn set<const N: usize>(&self, values: [(&str, &str); N]) {
        let values = values.map(|(key, text)| (key.to_owned(), SecretText::new(text)));
        *self.0.lock().unwrap() = Secret::from(values);
    }
}

impl SecretProvider for Secrets {
    fn secret<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        Box::pin(async { Ok(self.0.lock().unwrap().clone()) })
    }
}

fn identity(url: &str, auth_mode: AuthMode, secrets: &Secrets) -> Identity {
    Identity {
        address: BrokerAddress::parse(url).unwrap(),
        auth_mode,
        secret_name: "broker".to_owned(),
        skip_verify: false,
        rules: Rules::External,
        secrets: Arc::new(secrets.clone()),
    }
}

async fn settings(identity: Identity) -> ConnectionSettings {
    let address = identity.address.clone();
    let mut settings = ConnectionSettings::new(address.host, address.port, unique_name("client"))
        .with_identity(identity)
        .await
        .unwrap();
    // All the time a loaded machine may need.
    settings.connect_timeout = LONG;
    settings
}

async fn broker(builder: MosquittoBuilder) -> (Mosquitto, String) {
    let broker = builder.start().await.unwrap();
    let place = format!("127.0.0.1:{}", broker.secured_port());
    (broker, place)
}

async fn receives(settings: ConnectionSettings, broker: &Mosquitto) {
    let mut running = Options::default().run(&settings);
    running.subscribed().await;
    publish(broker, ["secret"]).await;
    running.expect("secret").await.ack.done();
}

/// Why the connection is refused, as the log has it too.
async fn refusal(identity: Identity) -> String {
    let (publisher, publication) = Publication::try_new(&settings(identity).await).unwrap();
    let (_shutdown, signal) = Shutdown::new();
    let publishing = publisher.publish(TOPIC, Bytes::new(), Qos::AtLeastOnce, false);
    tokio::select! {
        () = publication.run(signal) => panic!("it tries again for ever"),
        published = publishing => match published {
            Err(PublishError::Refused { reason, .. }) => reason.to_string(),
            other => panic!("refused, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn each_mode_is_let_in_where_it_is_asked_for() {
    let authority = Authority::new().unwrap();
    let server = || authority.issue("127.0.0.1").unwrap();
    let Certificate { pem, key } = authority.issue("client").unwrap();
    let secrets = Secrets::default();
    secrets.set([
        ("username", "me"),
        ("password", "hunter2"),
        ("clientcert", &pem),
        ("clientkey", &key),
        ("cacert", authority.pem()),
    ]);

    let (encrypting, place) = broker(Mosquitto::builder().tls(&authority, server())).await;
    let mode = AuthMode::CaCert;
    receives(
        settings(identity(&format!("ssl://{place}"), mode, &secrets)).await,
        &encrypting,
    )
    .await;

    let builder = Mosquitto::builder().tls(&authority, server());
    let (certifying, place) = broker(builder.require_certificate()).await;
    let mode = AuthMode::ClientCert;
    receives(
        settings(identity(&format!("mqtts://{place}"), mode, &secrets)).await,
        &certifying,
    )
    .await;
    let mut any_broker = identity(&format!("tls://{place}"), mode, &secrets);
    any_broker.skip_verify = true;
    receives(settings(any_broker).await, &certifying).await;

    let builder = Mosquitto::builder().tls(&authority, server());
    let (asking, place) = broker(builder.user("me", "hunter2")).await;
    let mode = AuthMode::UsernamePassword;
    receives(
        settings(identity(&format!("tcps://{place}"), mode, &secrets)).await,
        &asking,
    )
    .await;
    let (asking, place) = broker(Mosquitto::builder().user("me", "hunter2")).await;
    receives(
        settings(identity(&format!("tcp://{place}"), mode, &secrets)).await,
        &asking,
    )
    .await;
}

#[tokio::test]
async fn the_options_of_the_bus_name_files_and_those_are_read_again() {
    let authority = Authority::new().unwrap();
    let builder = Mosquitto::builder().tls(&authority, authority.issue("127.0.0.1").unwrap());
    let (broker, place) = broker(builder).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, Authority::new().unwrap().pem()).unwrap();
    let mut options = BusOptions::default();
    options.authorities.file = path.to_str().unwrap().to_owned();
    let mut identity = identity(&format!("ssl://{place}"), AuthMode::None, &Secrets::default());
    identity.rules = Rules::MessageBus(Box::new(options));

    // Given a file with another authority, when it is replaced, then the next attempt believes the broker
    let mut running = Options::default().run(&settings(identity).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    std::fs::write(&path, authority.pem()).unwrap();
    running.subscribed().await;
    publish(&broker, ["secret"]).await;
    running.expect("secret").await.ack.done();
}

#[tokio::test]
async fn who_is_not_believed_or_not_let_in_is_named_and_tried_again() {
    let authority = Authority::new().unwrap();
    let stranger = Authority::new().unwrap();
    let secrets = Secrets::default();
    let trusting = |authority: &Authority| {
        secrets.set([("cacert", authority.pem())]);
    };
    #[track_caller]
    fn check(reason: &str, part: &str) {
        assert!(reason.contains(part), "{reason:?} has {part:?} in it");
    }

    trusting(&stranger);
    let of_authority = |certificate| Mosquitto::builder().tls(&authority, certificate);
    let (_broker, place) = broker(of_authority(authority.issue("127.0.0.1").unwrap())).await;
    let url = format!("ssl://{place}");
    check(
        &refusal(identity(&url, AuthMode::CaCert, &secrets)).await,
        "invalid peer certificate",
    );

    trusting(&authority);
    let (_broker, place) = broker(of_authority(authority.issue("elsewhere").unwrap())).await;
    let url = format!("ssl://{place}");
    check(
        &refusal(identity(&url, AuthMode::CaCert, &secrets)).await,
        "not valid for name",
    );

    let (_broker, place) = broker(of_authority(authority.issue_expired("127.0.0.1").unwrap())).await;
    let url = format!("ssl://{place}");
    check(
        &refusal(identity(&url, AuthMode::CaCert, &secrets)).await,
        "expired",
    );

    let builder = of_authority(authority.issue("127.0.0.1").unwrap()).require_certificate();
    let (_broker, place) = broker(builder).await;
    let url = format!("ssl://{place}");
    check(
        &refusal(identity(&url, AuthMode::CaCert, &secrets)).await,
        "CertificateRequired",
    );

    let (_broker, place) = broker(Mosquitto::builder().user("me", "hunter2")).await;
    let url = format!("tcp://{place}");
    secrets.set([("username", "me"), ("password", "wrong")]);
    check(
        &refusal(identity(&url, AuthMode::UsernamePassword, &secrets)).await,
        "NotAuthorized",
    );
    check(
        &refusal(identity(&url, AuthMode::None, &secrets)).await,
        "NotAuthorized",
    );
}

#[tokio::test]
async fn a_renewed_secret_counts_from_the_next_attempt_on() {
    // Given a service with a password that the broker does not take
    let (broker, place) = broker(Mosquitto::builder().user("me", "hunter2")).await;
    let secrets = Secrets::default();
    secrets.set([("username", "me"), ("password", "old")]);
    let identity = identity(&format!("tcp://{place}"), AuthMode::UsernamePassword, &secrets);
    let settings = settings(identity).await;
    let mut running = Options::default().run(&settings);
    let (publisher, publication) = Publication::try_new(&settings.beside("pub")).unwrap();
    let (_shutdown, signal) = Shutdown::new();
    #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
    let publishing = tokio::spawn(publication.run(signal));
    let attempt = || publisher.publish(TOPIC, Bytes::from("out"), Qos::AtLeastOnce, false);
    assert!(matches!(attempt().await, Err(PublishError::Refused { .. })));

    // When there is first no secret that could be used, and then the right one
    secrets.set([("username", "me")]);
    until("the missing key to be named", LONG, async || {
        match attempt().await {
            Err(error) if error.to_string().contains("needs 'password'") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    secrets.set([("username", "me"), ("password", "hunter2")]);

    // Then both connect by themselves
    running.subscribed().await;
    publish(&broker, ["in"]).await;
    running.expect("in").await.ack.done();
    until("a message to go out", LONG, async || attempt().await).await;
    publishing.abort();
}

#[tokio::test]
async fn the_last_will_is_told_when_a_service_vanishes_and_not_when_it_says_goodbye() {
    let broker = Mosquitto::start().await.unwrap();
    let wills = MqttSubscriber::connect(broker.port(), "wills/#", PublishQos::AtLeastOnce)
        .await
        .unwrap();
    let options = Options::default();
    let with_will = |topic: &str| {
        let mut settings = options.settings(broker.port(), &unique_name("client"));
        settings.will = Some(LastWill {
            topic: format!("wills/{topic}"),
            payload: Bytes::from("gone"),
            qos: Qos::AtLeastOnce,
            retain: true,
        });
        settings
    };

    let mut polite = options.run(&with_will("polite"));
    polite.subscribed().await;
    polite.shutdown.trigger();
    timeout(LONG, &mut polite.task).await.expect("it ends").unwrap();
    let mut vanishing = options.run(&with_will("vanished"));
    vanishing.subscribed().await;
    vanishing.task.abort();

    until("the will", LONG, async || {
        wills.messages().into_iter().next().ok_or("none yet")
    })
    .await;
    let told = wills.messages();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].topic.as_str(), &told[0].payload[..]),
        ("wills/vanished", &b"gone"[..])
    );
}

#[tokio::test]
async fn a_subscription_that_is_refused_is_asked_for_again_and_the_others_are_not() {
    // Given a broker that refuses one of two filters
    let broker = Scripted::start().await;
    let options = Options::default();
    let settings = options.settings(broker.port(), "client");
    let mut running = options.run_for(&settings, &["edgex/a", "edgex/b"], &[]);
    let (mut stream, _) = broker.accept().await;
    let (kind, first) = packet(&mut stream).await;
    assert_eq!(
        (kind, &first[2..]),
        (SUBSCRIBE, &b"\0\x07edgex/a\x01\0\x07edgex/b\x01"[..])
    );
    stream
        .write_all(&[0x90, 4, first[0], first[1], 1, 0x80])
        .await
        .unwrap();
    running.subscribed().await;

    // When it is asked again over the same connection, then for that one alone
    let (kind, again) = packet(&mut stream).await;
    assert_eq!((kind, &again[2..]), (SUBSCRIBE, &b"\0\x07edgex/b\x01"[..]));
    stream.write_all(&[0x90, 3, again[0], again[1], 0]).await.unwrap();

    // And what it grants now counts
    let granted = running
        .granted
        .wait_for(|granted| *granted == Some(Qos::AtMostOnce));
    timeout(LONG, granted).await.expect("in time").expect("it runs");
}
