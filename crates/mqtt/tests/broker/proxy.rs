//! A TCP proxy in front of a broker: cuts connections when told, and remembers what the client said.

use std::sync::{Arc, Mutex};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
    task::JoinHandle,
};

/// One packet from the client: its type (the upper four bits) and, where it has one, its packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) kind: u8,
    pub(crate) packet_id: u16,
    /// The number of the connection it came by, counted from 1.
    pub(crate) connection: usize,
}

pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const PUBCOMP: u8 = 7;
pub(crate) const SUBSCRIBE: u8 = 8;
pub(crate) const UNSUBSCRIBE: u8 = 10;
pub(crate) const PINGREQ: u8 = 12;
pub(crate) const DISCONNECT: u8 = 14;

#[derive(Default)]
struct Seen {
    connections: usize,
    said: Vec<Said>,
    bytes_to_client: u64,
    cut_after: Option<u8>,
    cut_instead_of: Option<u8>,
}

pub(crate) struct Proxy {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(broker_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let cuts = watch::Sender::new(0);
        let (shared, cut) = (seen.clone(), cuts.clone());
        #[expect(clippy::disallowed_methods, reason = "a test keeps the handle and aborts it")]
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let connection = {
                    let mut seen = shared.lock().unwrap();
                    seen.connections += 1;
                    seen.connections
                };
                let Ok(broker) = TcpStream::connect(("127.0.0.1", broker_port)).await else {
                    continue;
                };
                let (shared, cut, mut cuts) = (shared.clone(), cut.clone(), cut.subscribe());
                #[expect(clippy::disallowed_methods, reason = "ends with its connection")]
                tokio::spawn(async move {
                    select! {
                        () = relay(client, broker, connection, shared, cut) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            seen,
            cuts,
            task,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection that stands.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts the connection once, behind the next packet of this type from the client.
    pub(crate) fn cut_after(&self, kind: u8) {
        self.seen.lock().unwrap().cut_after = Some(kind);
    }

    /// Cuts the connection once, instead of passing on what the client says in the next packet of this type and behind it.
    pub(crate) fn cut_instead_of(&self, kind: u8) {
        self.seen.lock().unwrap().cut_instead_of = Some(kind);
    }

    /// How many connections have been made or tried.
    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub(crate) fn bytes_to_client(&self) -> u64 {
        self.seen.lock().unwrap().bytes_to_client
    }

    /// What the client said of this type, in order.
    pub(crate) fn said(&self, kind: u8) -> Vec<Said> {
        self.seen
            .lock()
            .unwrap()
            .said
            .iter()
            .copied()
            .filter(|said| said.kind == kind)
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn relay(
    mut client: TcpStream,
    mut broker: TcpStream,
    connection: usize,
    seen: Arc<Mutex<Seen>>,
    cuts: watch::Sender<u64>,
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_broker, mut to_broker) = broker.split();
    let upwards = async {
        let mut unparsed = BytesMut::new();
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            {
                // Packets begin where reads do: the client flushes whole ones and then waits for an answer.
                let mut seen = seen.lock().unwrap();
                if seen.cut_instead_of.is_some_and(|kind| buffer[0] >> 4 == kind) {
                    seen.cut_instead_of = None;
                    return;
                }
            }
            if to_broker.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            unparsed.extend_from_slice(&buffer[..count]);
            let mut seen = seen.lock().unwrap();
            while let Some((kind, packet_id)) = next_packet(&mut unparsed) {
                seen.said.push(Said {
                    kind,
                    packet_id,
                    connection,
                });
                if seen.cut_after == Some(kind) {
                    seen.cut_after = None;
                    cuts.send_modify(|cuts| *cuts += 1);
                }
            }
        }
    };
    let downwards = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_broker.read(&mut buffer).await {
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            seen.lock().unwrap().bytes_to_client += u64::try_from(count).unwrap();
        }
    };
    select! {
        () = upwards => {}
        () = downwards => {}
    }
}

/// Takes one whole packet off the front. Lengths of more than two bytes do not occur in what a subscriber says.
fn next_packet(bytes: &mut BytesMut) -> Option<(u8, u16)> {
    let (first, low) = (*bytes.first()?, usize::from(*bytes.get(1)?));
    let (header, length) = if low < 128 {
        (2, low)
    } else {
        (3, (low & 0x7F) | usize::from(*bytes.get(2)?) << 7)
    };
    if bytes.len() < header + length {
        return None;
    }
    bytes.advance(header);
    let body = bytes.split_to(length);
    let packet_id = body.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    Some((first >> 4, packet_id))
}
