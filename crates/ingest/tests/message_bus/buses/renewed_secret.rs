//! A renewed secret counts without a restart.

use edgehold_core::{BoxFuture, RenewError, Renewable};
use edgehold_test_support::wait::{LONG, until};
use tokio::sync::watch;

use super::*;

/// A secret that a test renews.
struct Renewed<T>(watch::Sender<Arc<T>>);

impl<T> Renewed<T> {
    fn new(value: T) -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(Arc::new(value))))
    }

    fn renew(&self, value: T) {
        self.0.send_replace(Arc::new(value));
    }
}

impl<T: Send + Sync> Renewable<T> for Renewed<T> {
    fn current(&self) -> BoxFuture<'_, Result<Arc<T>, RenewError>> {
        Box::pin(std::future::ready(Ok(self.0.borrow().clone())))
    }
}

/// Waits until the trigger has been refused, renews the secret, and waits for a message.
async fn is_let_in(mut trigger: RunningTrigger, renew: impl FnOnce(), publish: impl AsyncFn()) {
    trigger.is_kept_out(Duration::from_millis(700)).await;
    renew();
    trigger.subscribed().await;
    publish().await;
    trigger.next().await.ack.done();
    trigger.end().await;
}

#[tokio::test]
async fn on_redis() {
    let server = Redis::builder().password("new").start().await.unwrap();
    let secret = Renewed::new(redis_password("", "old"));
    let mut connection = redis_connection(server.port());
    connection.access = secret.clone();
    let trigger = RedisBusTrigger::new(redis_settings(connection.clone()));
    let state = trigger.connection_state();
    let (publisher, _running) = redis_publisher(connection);
    assert!(publisher.publish("edgex/events/a", Bytes::new()).await.is_err());
    let publish = async || {
        until("the publisher to be let in", LONG, async || {
            publisher
                .publish("edgex/events/a", Bytes::from_static(b"{}"))
                .await
                .is_ok()
        })
        .await;
    };
    let trigger = RunningTrigger::begin(trigger, state);
    is_let_in(trigger, || secret.renew(redis_password("", "new")), publish).await;
}

#[tokio::test]
async fn on_nats_core() {
    on_nats(Kind::NatsCore(NatsFormat::Nats)).await;
}

#[tokio::test]
async fn on_jetstream() {
    on_nats(Kind::JetStream(NatsFormat::Nats)).await;
}

async fn on_nats(kind: Kind) {
    let server = Nats::builder().user("app", "new").start().await.unwrap();
    let secret = Renewed::new(nats_password("app", "old"));
    let mut connection = nats_connection(&server);
    connection.access = secret.clone();
    connection.connect_timeout = Duration::from_millis(500);
    let publisher = match kind {
        Kind::JetStream(_) => nats::Publisher::to_stream(connection.clone(), stream(), 2),
        _ => nats::Publisher::to_subscribers(connection.clone()),
    };
    assert!(
        publisher
            .publish("edgex/events/a", &[], Bytes::new())
            .await
            .is_err()
    );
    let trigger = NatsBusTrigger::try_new(nats_settings(kind, connection)).unwrap();
    let state = trigger.connection_state();
    let publish = async || {
        until("the publisher to be let in", LONG, async || {
            publisher
                .publish("edgex/events/a", &[], Bytes::from_static(b"{}"))
                .await
                .is_ok()
        })
        .await;
    };
    let trigger = RunningTrigger::begin(trigger, state);
    is_let_in(trigger, || secret.renew(nats_password("app", "new")), publish).await;
}
