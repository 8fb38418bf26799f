//! Whom NATS lets in, and who of a group gets what.

use edgehold_test_support::{
    NatsOperator,
    wait::{LONG, until},
};

use super::*;

const KIND: Kind = Kind::NatsCore(NatsFormat::Nats);

#[tokio::test]
async fn members_of_a_queue_group_share_the_messages_and_others_get_all() {
    const MESSAGES: usize = 60;
    let server = Nats::start().await.unwrap();
    let mut of_group = Vec::new();
    for _ in 0..2 {
        let settings = NatsBusSettings {
            source: NatsSource::Core {
                queue_group: "group".to_owned(),
            },
            ..nats_settings(KIND, nats_connection(&server))
        };
        let trigger = NatsBusTrigger::try_new(settings).unwrap();
        let state = trigger.connection_state();
        of_group.push(RunningTrigger::start(trigger, state).await);
    }
    let settings = nats_settings(KIND, nats_connection(&server));
    let mut alone = Bus::on_nats(KIND, settings, server).await;
    for number in 0..MESSAGES {
        alone.publish("edgex/events/a", &number.to_string(), b"{}").await;
    }
    for number in 0..MESSAGES {
        assert_eq!(alone.next_message().await.1, number.to_string());
    }
    let mut shares = [0, 0];
    until("every message to come to one of the group", LONG, async || {
        for (share, member) in shares.iter_mut().zip(&mut of_group) {
            while let Ok(delivery) = member.deliveries.try_recv() {
                delivery.ack.done();
                *share += 1;
            }
        }
        shares[0] + shares[1] >= MESSAGES
    })
    .await;
    alone.end().await;
    assert_eq!(shares[0] + shares[1], MESSAGES);
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}

/// `CredentialsFile`, with a server in operator mode.
#[tokio::test]
async fn a_credentials_file_opens_and_that_of_another_operator_does_not() {
    let (operator, stranger) = (NatsOperator::new(), NatsOperator::new());
    let server = Nats::builder()
        .operated_by(&operator)
        .unwrap()
        .start()
        .await
        .unwrap();
    let access = |operator: &NatsOperator| {
        let text = operator.credentials().unwrap();
        by_login(nats::Login::Credentials(SecretText::new(text)))
    };
    let error = nats_publish_once(&server, access(&stranger))
        .await
        .expect_err("a stranger");
    assert!(error.to_string().contains("authorization"), "{error}");

    let mut connection = nats_connection(&server);
    connection.access = Arc::new(Fixed::new(access(&operator)));
    let mut bus = Bus::on_nats(KIND, nats_settings(KIND, connection.clone()), server).await;
    let publisher = nats::Publisher::to_subscribers(connection);
    let headers = [("X-Correlation-ID", "1"), ("Content-Type", "application/json")];
    publisher
        .publish("edgex/events/a", &headers, Bytes::from_static(b"{}"))
        .await
        .unwrap();
    assert_eq!(bus.next_message().await.1, "1");
    bus.end().await;
}

#[tokio::test]
async fn the_right_password_opens_and_a_wrong_one_or_none_does_not() {
    let server = Nats::builder().user("app", "hunter2").start().await.unwrap();
    let published = nats_publish_once(&server, nats_password("app", "hunter2")).await;
    assert!(published.is_ok(), "{published:?}");
    for access in [nats_password("app", "wrong"), nats::Access::default()] {
        let error = nats_publish_once(&server, access)
            .await
            .expect_err("a wrong password");
        assert!(error.to_string().contains("authorization"), "{error}");
    }
}

#[tokio::test]
async fn an_nkey_opens() {
    // A key pair made for this test alone.
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let key = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let users =
        format!("authorization {{ users: [ {{ nkey: {key} }}, {{ user: app, password: hunter2 }} ] }}");
    let server = Nats::builder()
        .connect_as("app", "hunter2")
        .config(&users)
        .start()
        .await
        .unwrap();
    let published = nats_publish_once(&server, by_login(nats::Login::NKeySeed(SecretText::new(seed)))).await;
    assert!(published.is_ok(), "{published:?}");
}
