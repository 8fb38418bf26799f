//! A small MQTT 3.1.1 client: publishing with confirmation, and collecting what a subscription brings.
//!
//! It writes only the packets a test needs and knows nothing of reconnecting: a test that cuts the broker connects
//! again when it wants to. References are to sections of the MQTT 3.1.1 standard.

use std::io;
use std::panic::Location;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::collected::{Collected, Writer, collected};
use crate::unique::unique_name;

/// Past this a broker that is alive would have answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How many confirmed publishes wait for their confirmation at a time. Above mosquitto's own window of 20, so that
/// publishing is never what holds a test back.
const WINDOW: usize = 100;

// Control packet types with the flags that the standard prescribes (2.2.1, 2.2.2).
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGREQ: u8 = 0xC0;
const PINGRESP: u8 = 0xD0;

/// Quality of service (4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// 0: not confirmed.
    AtMostOnce,
    /// 1: confirmed by PUBACK.
    AtLeastOnce,
    /// 2: confirmed by PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce,
}

impl Qos {
    fn bits(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }

    fn from_bits(bits: u8) -> io::Result<Self> {
        match bits {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(malformed("a QoS that does not exist")),
        }
    }
}

/// Publishes to a broker and waits for its confirmation.
#[derive(Debug)]
pub struct MqttPublisher {
    connection: Connection,
    last_packet_id: u16,
}

impl MqttPublisher {
    /// Connects to the broker at 127.0.0.1:`port` with a clean session, a random client id and no keep-alive.
    ///
    /// # Errors
    /// When the connection fails or the broker refuses it.
    pub async fn connect(port: u16) -> Result<Self> {
        let connection = handshake(port, &unique_name("publisher"), Session::Clean).await?;
        Ok(Self {
            connection,
            last_packet_id: 0,
        })
    }

    /// Publishes one message and returns when the broker has it.
    ///
    /// # Errors
    /// As [`Self::publish_all`].
    pub async fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: Qos) -> Result<()> {
        self.send([(topic, payload)], qos, false).await
    }

    /// As [`Self::publish`], and the broker keeps the message for later subscribers. An empty payload deletes it.
    ///
    /// # Errors
    /// As [`Self::publish_all`].
    pub async fn publish_retained(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: Qos) -> Result<()> {
        self.send([(topic, payload)], qos, true).await
    }

    /// Publishes (topic, payload) pairs in order, at most 100 unconfirmed at a time, and returns when the broker has all
    /// of them. For QoS 0 the proof is a PINGRESP: a broker answers packets in the order in which they came.
    ///
    /// # Errors
    /// When the connection is cut, an answer takes longer than 30 seconds, or the broker answers out of protocol. Which
    /// of the messages arrived is then unknown.
    pub async fn publish_all<T, P>(
        &mut self,
        messages: impl IntoIterator<Item = (T, P)>,
        qos: Qos,
    ) -> Result<()>
    where
        T: AsRef<str>,
        P: AsRef<[u8]>,
    {
        self.send(messages, qos, false).await
    }

    async fn send<T, P>(
        &mut self,
        messages: impl IntoIterator<Item = (T, P)>,
        qos: Qos,
        retain: bool,
    ) -> Result<()>
    where
        T: AsRef<str>,
        P: AsRef<[u8]>,
    {
        let mut unconfirmed = 0;
        for (topic, payload) in messages {
            if qos == Qos::AtMostOnce {
                self.connection
                    .write(&publish_packet(topic.as_ref(), payload.as_ref(), qos, 0, retain))
                    .await?;
                continue;
            }
            if unconfirmed == WINDOW {
                self.confirmation(qos).await?;
                unconfirmed -= 1;
            }
            // 0 is no packet id (2.3.1).
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let packet = publish_packet(topic.as_ref(), payload.as_ref(), qos, self.last_packet_id, retain);
            self.connection.write(&packet).await?;
            unconfirmed += 1;
        }
        for _ in 0..unconfirmed {
            self.confirmation(qos).await?;
        }
        if qos == Qos::AtMostOnce {
            self.connection.write(&[PINGREQ, 0]).await?;
            self.connection.expect(PINGRESP).await?;
        }
        Ok(())
    }

    /// Reads until one more publish is confirmed.
    async fn confirmation(&mut self, qos: Qos) -> Result<()> {
        if qos == Qos::AtLeastOnce {
            return self.connection.expect(PUBACK).await.map(drop);
        }
        loop {
            let packet = self.connection.answer().await?;
            match packet.kind {
                PUBREC => self.connection.write(&packet_about(PUBREL, packet.id()?)).await?,
                PUBCOMP => return Ok(()),
                other => bail!("the broker sent {other:#04x} instead of PUBREC or PUBCOMP"),
            }
        }
    }
}

/// One message from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic it was published to.
    pub topic: String,
    /// The whole payload.
    pub payload: Bytes,
    /// The lower of the publisher's and the subscription's.
    pub qos: Qos,
    /// Whether the broker had kept it from before the subscription.
    pub retained: bool,
    /// Whether the broker had sent it before.
    pub duplicate: bool,
    /// When it was here whole.
    pub at: Instant,
}

/// Collects what a subscription brings, and acknowledges it at once. Dropping it cuts the connection.
#[derive(Debug)]
pub struct MqttSubscriber {
    messages: Collected<Message>,
    task: JoinHandle<()>,
}

impl MqttSubscriber {
    /// Connects to the broker at 127.0.0.1:`port` with a clean session and a random client id, and returns when the
    /// subscription stands.
    ///
    /// # Errors
    /// When the connection fails, or the broker refuses it or the topic filter.
    pub async fn connect(port: u16, filter: &str, qos: Qos) -> Result<Self> {
        Self::subscribe(
            handshake(port, &unique_name("subscriber"), Session::Clean).await?,
            filter,
            qos,
        )
        .await
    }

    /// As [`Self::connect`], in the session that the broker keeps for `client_id`: what came since the last connection
    /// in it comes first.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn resume(port: u16, client_id: &str, filter: &str, qos: Qos) -> Result<Self> {
        Self::subscribe(handshake(port, client_id, Session::Kept).await?, filter, qos).await
    }

    async fn subscribe(mut connection: Connection, filter: &str, qos: Qos) -> Result<Self> {
        let (writer, messages) = collected();
        let mut body = 1_u16.to_be_bytes().to_vec();
        push_text(&mut body, filter);
        body.push(qos.bits());
        connection.write(&packet(SUBSCRIBE, &body)).await?;
        let answer = loop {
            let packet = connection.answer().await?;
            if packet.kind == SUBACK {
                break packet;
            }
            // What a kept session had queued.
            connection.receive(packet, &writer).await?;
        };
        ensure!(
            answer.body.last().is_some_and(|code| *code <= 2),
            "the broker refused the filter {filter}"
        );

        #[expect(clippy::disallowed_methods, reason = "the handle is kept and aborted on drop")]
        let task = tokio::spawn(async move {
            while let Ok(packet) = connection.read().await {
                if connection.receive(packet, &writer).await.is_err() {
                    break;
                }
            }
            // With the writer the list closes, which is what a waiting test is told.
        });
        Ok(Self { messages, task })
    }

    /// Whether the connection still stands.
    pub fn is_connected(&self) -> bool {
        !self.task.is_finished()
    }

    /// Every message so far, in the order in which they came.
    pub fn messages(&self) -> Vec<Message> {
        self.messages.all()
    }

    /// How many messages there are, without copying them.
    pub fn count(&self) -> usize {
        self.messages.with(<[_]>::len)
    }

    /// Waits until there are at least `count` messages and returns all of them.
    ///
    /// # Panics
    /// At the deadline, or as soon as the broker has closed the connection.
    #[track_caller]
    pub fn wait_for(&self, count: usize, deadline: Duration) -> impl Future<Output = Vec<Message>> {
        let caller = Location::caller();
        async move {
            let what = format!("{count} messages from the broker");
            let pick = |messages: &[Message]| (messages.len() >= count).then_some(());
            let tell = |messages: &[Message]| format!("there were {}", messages.len());
            self.messages.wait_for(caller, &what, deadline, pick, tell).await;
            self.messages()
        }
    }
}

impl Drop for MqttSubscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection on which the broker has accepted the client.
#[derive(Debug)]
pub(crate) struct Connection(BufReader<TcpStream>);

/// Whether the broker forgets a client when its connection ends (3.1.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    Clean,
    Kept,
}

/// Connects and completes CONNECT and CONNACK (3.1, 3.2).
pub(crate) async fn handshake(port: u16, client_id: &str, session: Session) -> Result<Connection> {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .context("connecting to the broker")?;
    stream.set_nodelay(true)?;
    let mut connection = Connection(BufReader::new(stream));
    let mut body = Vec::new();
    push_text(&mut body, "MQTT");
    // Protocol level 4 is 3.1.1; then the connect flags; keep-alive 0 is none.
    body.extend([4, u8::from(session == Session::Clean) << 1, 0, 0]);
    push_text(&mut body, client_id);
    connection.write(&packet(CONNECT, &body)).await?;
    let answer = connection.expect(CONNACK).await?;
    let code = answer.body.get(1).copied();
    ensure!(
        code == Some(0),
        "the broker refused the connection with code {code:?}"
    );
    Ok(connection)
}

impl Connection {
    async fn write(&mut self, packet: &[u8]) -> Result<()> {
        self.0.write_all(packet).await.context("sending to the broker")
    }

    async fn read(&mut self) -> io::Result<Packet> {
        let kind = self.0.read_u8().await?;
        // Seven bits a byte, the lowest first, at most four bytes (2.2.3).
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            let byte = self.0.read_u8().await?;
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                let mut body = vec![0; length];
                self.0.read_exact(&mut body).await?;
                return Ok(Packet {
                    kind,
                    body: body.into(),
                });
            }
        }
        Err(malformed("a length of more than four bytes"))
    }

    async fn answer(&mut self) -> Result<Packet> {
        let read = timeout(ANSWER_TIMEOUT, self.read()).await;
        read.context("the broker does not answer")?
            .context("reading from the broker")
    }

    async fn expect(&mut self, kind: u8) -> Result<Packet> {
        let packet = self.answer().await?;
        ensure!(
            packet.kind == kind,
            "the broker sent {:#04x} instead of {kind:#04x}",
            packet.kind
        );
        Ok(packet)
    }

    /// Puts a message on the list and acknowledges it, or answers the second half of QoS 2. Other packets need nothing.
    async fn receive(&mut self, packet: Packet, messages: &Writer<Message>) -> Result<()> {
        match packet.kind & 0xF0 {
            PUBLISH => {
                let (message, id) = packet.into_message()?;
                let acknowledgement = if message.qos == Qos::ExactlyOnce {
                    PUBREC
                } else {
                    PUBACK
                };
                messages.push(message);
                match id {
                    Some(id) => self.write(&packet_about(acknowledgement, id)).await,
                    None => Ok(()),
                }
            }
            kind if kind == PUBREL & 0xF0 => self.write(&packet_about(PUBCOMP, packet.id()?)).await,
            _ => Ok(()),
        }
    }
}

struct Packet {
    /// Type and flags.
    kind: u8,
    /// Variable header and payload.
    body: Bytes,
}

impl Packet {
    /// The packet id that acknowledgements begin with.
    fn id(&self) -> io::Result<u16> {
        let id = self
            .body
            .first_chunk()
            .ok_or_else(|| malformed("an acknowledgement without a packet id"))?;
        Ok(u16::from_be_bytes(*id))
    }

    /// The message of a PUBLISH (3.3), and its packet id when it is to be acknowledged.
    fn into_message(mut self) -> io::Result<(Message, Option<u16>)> {
        let qos = Qos::from_bits((self.kind >> 1) & 3)?;
        let topic = split_u16(&mut self.body).and_then(|length| split(&mut self.body, length.into()))?;
        let topic = String::from_utf8(topic.into()).map_err(|_| malformed("a topic that is not UTF-8"))?;
        let id = if qos == Qos::AtMostOnce {
            None
        } else {
            Some(split_u16(&mut self.body)?)
        };
        let (retained, duplicate) = (self.kind & 1 != 0, self.kind & 8 != 0);
        let message = Message {
            topic,
            payload: self.body,
            qos,
            retained,
            duplicate,
            at: Instant::now(),
        };
        Ok((message, id))
    }
}

fn split(body: &mut Bytes, length: usize) -> io::Result<Bytes> {
    if body.len() < length {
        return Err(malformed("a packet shorter than its fields"));
    }
    Ok(body.split_to(length))
}

fn split_u16(body: &mut Bytes) -> io::Result<u16> {
    let bytes = split(body, 2)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn publish_packet(topic: &str, payload: &[u8], qos: Qos, id: u16, retain: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
    push_text(&mut body, topic);
    if qos != Qos::AtMostOnce {
        body.extend(id.to_be_bytes());
    }
    body.extend(payload);
    packet(PUBLISH | qos.bits() << 1 | u8::from(retain), &body)
}

fn packet_about(kind: u8, id: u16) -> Vec<u8> {
    packet(kind, &id.to_be_bytes())
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut rest = body.len();
    loop {
        let byte = u8::try_from(rest & 0x7F).expect("seven bits fit into a byte");
        rest >>= 7;
        packet.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// A length and UTF-8 bytes (1.5.3).
fn push_text(body: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("tests use no topic longer than 65535 bytes");
    body.extend(length.to_be_bytes());
    body.extend(text.as_bytes());
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_packet_takes_as_many_bytes_as_it_needs() {
        // The borders of table 2.4.
        assert_eq!(packet(PUBLISH, &[0; 127])[1..2], [0x7F]);
        assert_eq!(packet(PUBLISH, &[0; 128])[1..3], [0x80, 0x01]);
        assert_eq!(packet(PUBLISH, &[0; 16_384])[1..4], [0x80, 0x80, 0x01]);
    }

    #[test]
    fn a_publish_is_read_as_it_was_written() {
        let written = publish_packet("a/b", b"payload", Qos::AtLeastOnce, 513, true);
        let read = Packet {
            kind: written[0],
            body: written[2..].to_vec().into(),
        };

        let (message, id) = read.into_message().expect("it is well formed");

        assert_eq!(
            (message.topic.as_str(), &message.payload[..], id),
            ("a/b", &b"payload"[..], Some(513))
        );
        assert_eq!(
            (message.qos, message.retained, message.duplicate),
            (Qos::AtLeastOnce, true, false)
        );
    }
}
