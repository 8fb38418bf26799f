//! Whom Redis lets in, and how its connections end.

use edgehold_core::ConnectionState;
use tokio::time::timeout;

use super::*;
use crate::ended;

fn with_password(server: &Redis, username: &str, password: &str) -> redis::ConnectionSettings {
    let mut connection = redis_connection(server.port());
    connection.access = Arc::new(Fixed::new(redis_password(username, password)));
    connection
}

#[tokio::test]
async fn the_right_password_opens_and_a_wrong_one_or_none_is_told_at_once() {
    let server = Redis::builder()
        .password("hunter2")
        .arguments(["--user", "app", "on", ">secret", "allchannels", "+@all"])
        .start()
        .await
        .unwrap();
    for (username, password) in [("", "hunter2"), ("default", "hunter2"), ("app", "secret")] {
        let published = redis_publish_once(with_password(&server, username, password)).await;
        assert!(published.is_ok(), "{username}: {published:?}");
    }
    for refused in [
        redis_publish_once(with_password(&server, "", "wrong")).await,
        redis_publish_once(with_password(&server, "app", "hunter2")).await,
    ] {
        let error = refused.expect_err("a wrong password");
        assert!(error.to_string().contains("WRONGPASS"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let error = redis_publish_once(redis_connection(server.port()))
        .await
        .expect_err("no password");
    assert!(error.to_string().contains("NOAUTH"), "{error}");
}

#[tokio::test]
async fn when_every_publisher_is_gone_the_connection_ends_also_without_a_server() {
    let mut server = Redis::start().await.unwrap();
    for away in [false, true] {
        if away {
            server.stop().await.unwrap();
        }
        let mut connection = redis_connection(server.port());
        connection.connect_timeout = Duration::from_millis(300);
        let (publisher, publication) = redis::Publication::new(connection);
        let (_shutdown, signal) = Shutdown::new();
        let running = in_background(publication.run(signal));
        let published = publisher.publish("edgex/a", Bytes::new()).await;
        assert_eq!(published.is_err(), away, "{published:?}");
        assert!(!running.is_finished());
        drop(publisher);
        ended(running).await;
    }
}

#[tokio::test]
async fn a_subscriber_with_a_wrong_password_goes_on_trying() {
    let server = Redis::builder().password("hunter2").start().await.unwrap();
    let filters = subscribe_filters("edgex", "events/#").unwrap();
    let wrong = with_password(&server, "", "wrong");
    let (subscription, mut incoming) = redis::Subscription::new(wrong, &filters, ByteBudget::new(1_000));
    let state = subscription.state();
    let (shutdown, signal) = Shutdown::new();
    let running = in_background(subscription.run(signal));
    assert!(timeout(Duration::from_secs(1), incoming.recv()).await.is_err());
    assert!(!running.is_finished());
    assert_eq!(*state.borrow(), ConnectionState::Disconnected);
    shutdown.trigger();
    ended(running).await;
}
