//! The message bus triggers against real servers. Owns what their tests share: a trigger that runs.

mod buses;
mod mqtt;

use std::time::Duration;

use bytes::Bytes;
use edgehold_core::{ConnectionState, Deliveries, Delivery, Received, Shutdown, Trigger, TriggerError};
use edgehold_test_support::wait::LONG;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

/// A trigger that runs. Its channel holds one delivery.
struct RunningTrigger {
    deliveries: Deliveries,
    state: watch::Receiver<ConnectionState>,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), TriggerError>>,
}

impl RunningTrigger {
    /// Runs it, and waits for nothing.
    fn begin(trigger: impl Trigger + 'static, state: watch::Receiver<ConnectionState>) -> Self {
        let (sender, deliveries) = mpsc::channel(1);
        let (shutdown, signal) = Shutdown::new();
        let task = in_background(Box::new(trigger).run(sender, signal));
        Self {
            deliveries,
            state,
            shutdown,
            task,
        }
    }

    /// Runs it, and waits until it is subscribed.
    async fn start(trigger: impl Trigger + 'static, state: watch::Receiver<ConnectionState>) -> Self {
        let mut running = Self::begin(trigger, state);
        running.subscribed().await;
        running
    }

    async fn subscribed(&mut self) {
        self.becomes(ConnectionState::Subscribed).await;
    }

    async fn becomes(&mut self, expected: ConnectionState) {
        timeout(LONG, self.state.wait_for(|state| *state == expected))
            .await
            .unwrap_or_else(|_| panic!("{expected:?} in time"))
            .expect("it runs");
    }

    /// For so long it is not let in, and goes on trying.
    async fn is_kept_out(&mut self, time: Duration) {
        let subscribed = self.state.wait_for(|state| *state == ConnectionState::Subscribed);
        assert!(
            timeout(time, subscribed).await.is_err(),
            "it is let in, or has ended"
        );
        assert!(!self.task.is_finished());
    }

    async fn next(&mut self) -> Delivery {
        timeout(LONG, self.deliveries.recv())
            .await
            .expect("a delivery in time")
            .expect("it runs")
    }

    /// The next message, its topic, correlation id and payload, done with.
    async fn next_message(&mut self) -> (String, String, Bytes) {
        let delivery = self.next().await;
        let Received::Message {
            payload,
            correlation_id,
            content_type,
            ..
        } = delivery.received
        else {
            panic!("{:?} is a message", delivery.received);
        };
        assert_eq!(content_type, "application/json");
        delivery.ack.done();
        (delivery.topic, correlation_id.as_str().to_owned(), payload)
    }

    async fn end(self) {
        self.shutdown.trigger();
        ended(self.task).await.unwrap();
    }
}

/// Runs beside the test, and ends with its runtime.
#[expect(clippy::disallowed_methods, reason = "a test has no tasks to name")]
fn in_background<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

/// What comes of it, which is over soon.
async fn ended<T>(task: JoinHandle<T>) -> T {
    timeout(LONG, task)
        .await
        .expect("it ends")
        .expect("without a panic")
}
