//! A relay between a service and its broker that notes which events went to the service and which it acknowledged: what
//! neither of the two ends can be asked for once the other has forgotten.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;

/// Event ids by what was seen of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Sent to the service; the last ones before a cut may not have reached it.
    pub(crate) received: BTreeSet<String>,
    /// Acknowledged by the service; the last ones before a cut may not have reached the broker.
    pub(crate) acknowledged: BTreeSet<String>,
}

/// See the module.
pub(crate) struct Tap {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Tap {
    pub(crate) async fn start(broker_port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("a port for the tap")?;
        let port = listener.local_addr()?.port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        #[expect(clippy::disallowed_methods, reason = "the handle is kept and aborted")]
        let task = tokio::spawn(async move {
            while let Ok((service, _)) = listener.accept().await {
                let Ok(broker) = TcpStream::connect(("127.0.0.1", broker_port)).await else {
                    continue;
                };
                let seen = shared.clone();
                #[expect(clippy::disallowed_methods, reason = "ends with its connection")]
                tokio::spawn(relay(service, broker, seen));
            }
        });
        Ok(Self { port, seen, task })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes everything on until one side has ended. Each packet is noted before it is passed on.
async fn relay(mut service: TcpStream, mut broker: TcpStream, seen: Arc<Mutex<Seen>>) {
    // What the packet ids of this connection stand for.
    let ids = Mutex::new(HashMap::new());
    let (mut from_service, mut to_service) = service.split();
    let (mut from_broker, mut to_broker) = broker.split();
    let downwards = pass(&mut from_broker, &mut to_service, |kind, body| {
        if let Some((packet_id, event_id)) = (kind == PUBLISH).then(|| published(body)).flatten() {
            lock(&seen).received.insert(event_id.clone());
            ids.lock().unwrap().insert(packet_id, event_id);
        }
    });
    let upwards = pass(&mut from_service, &mut to_broker, |kind, mut body| {
        if kind == PUBACK
            && let Some(event_id) = ids.lock().unwrap().remove(&body.get_u16())
        {
            lock(&seen).acknowledged.insert(event_id);
        }
    });
    tokio::select! {
        () = downwards => {}
        () = upwards => {}
    }
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut note: impl FnMut(u8, Bytes),
) {
    let mut unparsed = BytesMut::new();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        unparsed.extend_from_slice(&buffer[..count]);
        while let Some((kind, body)) = next_packet(&mut unparsed) {
            note(kind, body);
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Takes one whole packet off the front: its type and what is behind the fixed header (2.2).
fn next_packet(bytes: &mut BytesMut) -> Option<(u8, Bytes)> {
    let kind = bytes.first()? >> 4;
    let mut length = 0;
    for (place, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            let header = place + 2;
            if bytes.len() < header + length {
                return None;
            }
            bytes.advance(header);
            return Some((kind, bytes.split_to(length).freeze()));
        }
    }
    None
}

/// The packet id and the event id of a PUBLISH at QoS 1 (3.3).
fn published(mut body: Bytes) -> Option<(u16, String)> {
    let topic_length = body.get_u16();
    body.advance(topic_length.into());
    let packet_id = body.get_u16();
    let envelope: Value = serde_json::from_slice(&body).ok()?;
    Some((packet_id, envelope["correlationID"].as_str()?.to_owned()))
}
