//! A source of messages that is a broker to its one subscriber and nothing else: it sends at QoS 1, with as many
//! unacknowledged as it is told, and takes the time of each acknowledgement.
//!
//! A broker in between could neither be held to a window (mosquitto 2.0 sends on after each acknowledgement) nor say when
//! it was acknowledged; and it would need a share of the machine.

use std::{
    collections::HashMap,
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, timeout},
};

/// Packets that wait to be written.
const QUEUED_PACKETS: usize = 64;
/// A subscriber that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

// The first byte of each packet (MQTT 3.1.1, table 2.1).
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_AT_LEAST_ONCE: u8 = 0x32;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const UNSUBSCRIBE: u8 = 0xa2;
const UNSUBACK: u8 = 0xb0;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;

/// Listens for its subscriber.
#[derive(Debug)]
pub struct Source {
    port: u16,
    subscribers: mpsc::Receiver<Subscriber>,
    _serving: JoinSet<()>,
}

/// A connection that has subscribed.
#[derive(Debug)]
pub struct Subscriber {
    packets: mpsc::Sender<Vec<u8>>,
    window: Arc<Window>,
}

/// What is on its way to the subscriber.
#[derive(Debug)]
struct Window {
    last_id: AtomicU16,
    free: Semaphore,
    sent: Mutex<HashMap<u16, Instant>>,
    acknowledged: Mutex<Vec<Duration>>,
}

/// Messages that were sent and acknowledged.
#[derive(Debug)]
pub struct Fed {
    /// From the first one sent to the last acknowledgement.
    pub elapsed: Duration,
    /// From sending to acknowledgement, each.
    pub acknowledged_after: Vec<Duration>,
}

impl Window {
    /// A packet id; 0 is none.
    fn next_id(&self) -> u16 {
        match self.last_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1) {
            0 => self.last_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1),
            id => id,
        }
    }
}

impl Source {
    /// Listens on 127.0.0.1.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("opening the source")?;
        let port = listener.local_addr()?.port();
        let (subscribed, subscribers) = mpsc::channel(1);
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, subscribed));
        Ok(Self {
            port,
            subscribers,
            _serving: serving,
        })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next connection that subscribes to anything.
    ///
    /// # Errors
    /// When none does in a minute.
    pub async fn subscriber(&mut self) -> Result<Subscriber> {
        timeout(SILENCE, self.subscribers.recv())
            .await
            .context("nobody has subscribed")?
            .context("the source is closed")
    }
}

impl Subscriber {
    /// Sends all messages to a topic, at most `window` of them unacknowledged, and waits for the last acknowledgement.
    ///
    /// # Errors
    /// When the subscriber is gone, or acknowledges nothing for a minute.
    pub async fn feed(
        &self,
        topic: &str,
        messages: impl IntoIterator<Item = Vec<u8>>,
        window: usize,
    ) -> Result<Fed> {
        let started = Instant::now();
        self.window.free.add_permits(window);
        for message in messages {
            self.turn(1).await?;
            let id = self.window.next_id();
            lock(&self.window.sent).insert(id, Instant::now());
            let packet = publish(topic, id, &message);
            ensure!(self.packets.send(packet).await.is_ok(), "the subscriber is gone");
        }
        self.turn(window).await?;
        Ok(Fed {
            elapsed: started.elapsed(),
            acknowledged_after: std::mem::take(&mut *lock(&self.window.acknowledged)),
        })
    }

    /// Sends one message and waits for nothing; its acknowledgement is not timed.
    ///
    /// # Errors
    /// When the subscriber is gone.
    pub async fn send(&self, topic: &str, message: &[u8]) -> Result<()> {
        let id = self.window.next_id();
        let packet = publish(topic, id, message);
        ensure!(self.packets.send(packet).await.is_ok(), "the subscriber is gone");
        Ok(())
    }

    /// Waits until so many more may be sent, and takes these turns.
    async fn turn(&self, count: usize) -> Result<()> {
        let count = u32::try_from(count)?;
        timeout(SILENCE, self.window.free.acquire_many(count))
            .await
            .context("no acknowledgement comes")??
            .forget();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, subscribed: mpsc::Sender<Subscriber>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(converse(stream, subscribed.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, subscribed: mpsc::Sender<Subscriber>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (packets, queued) = mpsc::channel(QUEUED_PACKETS);
    let window = Arc::new(Window {
        last_id: AtomicU16::new(0),
        free: Semaphore::new(0),
        sent: Mutex::default(),
        acknowledged: Mutex::default(),
    });
    tokio::select! {
        ended = answer(BufReader::new(reader), packets, window, subscribed) => ended,
        ended = write(writer, queued) => ended,
    }
}

/// Writes what is queued, as much as there is at once.
async fn write(mut writer: OwnedWriteHalf, mut queued: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    let mut packets = Vec::new();
    while queued.recv_many(&mut packets, QUEUED_PACKETS).await > 0 {
        writer.write_all(&packets.concat()).await?;
        packets.clear();
    }
    Ok(())
}

/// Reads what the client says and answers it.
async fn answer(
    mut reader: BufReader<OwnedReadHalf>,
    packets: mpsc::Sender<Vec<u8>>,
    window: Arc<Window>,
    subscribed: mpsc::Sender<Subscriber>,
) -> io::Result<()> {
    loop {
        let kind = reader.read_u8().await?;
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            let byte = reader.read_u8().await?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await?;
        let id = body.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        let answered = match kind {
            CONNECT => vec![CONNACK, 2, 0, 0],
            PINGREQ => vec![PINGRESP, 0],
            UNSUBSCRIBE => [&[UNSUBACK, 2][..], &id.to_be_bytes()].concat(),
            SUBSCRIBE => {
                let granted = vec![1; filters(&body)];
                let length = u8::try_from(2 + granted.len()).map_err(io::Error::other)?;
                let subscriber = Subscriber {
                    packets: packets.clone(),
                    window: window.clone(),
                };
                subscribed.send(subscriber).await.map_err(io::Error::other)?;
                [&[SUBACK, length][..], &id.to_be_bytes(), &granted].concat()
            }
            PUBACK => {
                if let Some(sent) = lock(&window.sent).remove(&id) {
                    lock(&window.acknowledged).push(sent.elapsed());
                    window.free.add_permits(1);
                }
                continue;
            }
            _ => continue,
        };
        packets.send(answered).await.map_err(io::Error::other)?;
    }
}

/// How many topic filters a SUBSCRIBE has: behind the packet id each is a length, a text and a byte.
fn filters(body: &[u8]) -> usize {
    let (mut at, mut count) = (2, 0);
    while let Some(length) = body.get(at..at + 2) {
        at += 3 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        count += 1;
    }
    count
}

fn publish(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![PUBLISH_AT_LEAST_ONCE];
    let mut rest = 2 + topic.len() + 2 + payload.len();
    loop {
        // Seven bits at a time; the highest says that more follow.
        let byte = u8::try_from(rest & 0x7f).unwrap_or_default();
        rest >>= 7;
        packet.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    packet.extend(u16::try_from(topic.len()).unwrap_or_default().to_be_bytes());
    packet.extend(topic.as_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(payload);
    packet
}

#[cfg(test)]
mod tests {
    use edgehold_test_support::{MqttSubscriber, Qos, wait};

    use super::*;

    #[tokio::test]
    async fn a_subscriber_gets_and_acknowledges_everything_in_order() {
        let mut source = Source::start().await.unwrap();
        let connecting = MqttSubscriber::connect(source.port(), "edgex/events/#", Qos::AtLeastOnce);
        let (client, subscriber) = tokio::join!(connecting, source.subscriber());
        let (client, subscriber) = (client.unwrap(), subscriber.unwrap());

        let messages: Vec<Vec<u8>> = (0..300).map(|number: usize| vec![7; number]).collect();
        let fed = subscriber
            .feed("edgex/events/x", messages.clone(), 20)
            .await
            .unwrap();

        assert_eq!(fed.acknowledged_after.len(), 300);
        let received = client.wait_for(300, wait::LONG).await;
        let payloads: Vec<Vec<u8>> = received.iter().map(|message| message.payload.to_vec()).collect();
        assert!(payloads == messages);
    }
}
