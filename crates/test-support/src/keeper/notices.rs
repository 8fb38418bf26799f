//! The notices of changes, and the message bus they go to.

use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::collected::{Collected, Writer, collected};
use crate::mqtt::{MqttPublisher, Qos};

/// A change as it is told to the message bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperNotice {
    /// `edgex/configs/<key>`, where `edgex/configs` is Core Keeper's own base prefix.
    pub topic: String,
    /// The envelope.
    pub payload: String,
}

/// Where notices go.
pub(super) struct Bus {
    record: Writer<KeeperNotice>,
    published: Collected<KeeperNotice>,
    queue: Option<mpsc::Sender<KeeperNotice>>,
    forwarding: Option<JoinHandle<()>>,
}

impl Bus {
    pub(super) fn none() -> Self {
        Self::to(None, None)
    }

    pub(super) fn mqtt(port: u16) -> Self {
        let (queue, waiting) = mpsc::channel(4096);
        #[expect(clippy::disallowed_methods, reason = "the handle is kept and aborted on drop")]
        let forwarding = tokio::spawn(forward(port, waiting));
        Self::to(Some(queue), Some(forwarding))
    }

    fn to(queue: Option<mpsc::Sender<KeeperNotice>>, forwarding: Option<JoinHandle<()>>) -> Self {
        let (record, published) = collected();
        Self {
            record,
            published,
            queue,
            forwarding,
        }
    }

    pub(super) fn published(&self) -> Vec<KeeperNotice> {
        self.published.all()
    }

    pub(super) fn publish(&self, key: &str, value: Option<Value>, correlation_id: String) {
        let envelope = Envelope {
            api_version: "v3",
            received_topic: "",
            correlation_id,
            request_id: "",
            error_code: 0,
            payload: Payload {
                key,
                created: 0,
                modified: 0,
                value,
            },
            content_type: "application/json",
        };
        let notice = KeeperNotice {
            topic: format!("edgex/configs/{key}"),
            payload: super::json_of_go(&envelope),
        };
        self.record.push(notice.clone());
        if let Some(queue) = &self.queue {
            // A test that is behind by thousands has lost its broker, and with it these.
            let _ = queue.try_send(notice);
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        if let Some(forwarding) = &self.forwarding {
            forwarding.abort();
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    api_version: &'static str,
    received_topic: &'static str,
    #[serde(rename = "correlationID")]
    correlation_id: String,
    #[serde(rename = "requestID")]
    request_id: &'static str,
    error_code: u32,
    payload: Payload<'a>,
    content_type: &'static str,
}

#[derive(Serialize)]
struct Payload<'a> {
    key: &'a str,
    #[serde(rename = "Created")]
    created: u64,
    #[serde(rename = "Modified")]
    modified: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
}

/// Publishes with QoS 0. One that does not get through is gone, and the next one finds a new connection.
async fn forward(port: u16, mut waiting: mpsc::Receiver<KeeperNotice>) {
    let mut publisher: Option<MqttPublisher> = None;
    while let Some(notice) = waiting.recv().await {
        let mut connected = match publisher.take() {
            Some(connected) => connected,
            None => match MqttPublisher::connect(port).await {
                Ok(connected) => connected,
                Err(_) => continue,
            },
        };
        let sent = connected
            .publish(&notice.topic, &notice.payload, Qos::AtMostOnce)
            .await;
        publisher = sent.is_ok().then_some(connected);
    }
}
