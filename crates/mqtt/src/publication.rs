//! A publishing connection: takes messages from any number of tasks, says when each has arrived, comes back.
//!
//! Owns one event loop and the packet ids of what is on its way. Subscribes to nothing: what is received comes by a
//! connection of its own, so that a full outgoing window can never hold back an acknowledgement.
//!
//! ```text
//!  publish ──► bounded channel ──► packet id ──► written ──► confirmed (PUBACK, PUBCOMP)
//!     └───────────── its time is up ──────────────┴── connection lost: failed
//! ```
//!
//! - The library neither tells which message an acknowledgement belongs to nor what a lost connection took along. So
//!   the packet ids are given here, each the lowest that is free: nothing waits in the library, none of its ids can
//!   collide, and the waiting publisher is found by the id alone.
//! - Whoever polls waits for no publisher. Publishers wait, for room and for the answer, no longer than their time.
//! - A broker that refuses this client is not one that is away: its answer is there, and waiting will not change it soon.
//!   So publishers fail at once as long as the last answer was a refusal; connecting is tried again all the same.
//!   Who is impatient is told so too while the broker is away, from the first attempt on that did not find it.
//! - Nothing is sent twice. After a lost connection the publisher decides: only it knows whether twice is better than
//!   not at all.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use edgehold_core::{ErrorClass, Outage, ShutdownSignal};
use rumqttc::{ConnectionError, Event, EventLoop, Packet, Publish, QoS, Request};
use tokio::{
    select,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    ConnectionSettings, InvalidConnectionSettings, Qos,
    connect::{Failure, connect},
    settings::{MAX_PACKET_BYTES, is_publishable},
    wire,
};

/// Messages on their way that the broker has not confirmed yet.
const WINDOW: u16 = 64;

/// Messages that wait for room in the window or for a connection; past it, publishers wait for their place.
const CHANNEL_CAPACITY: usize = 64;

/// How long to wait at the end for the broker to close the connection, which shows that it has read everything.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a message was not published, or may not have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// No message can be published to this topic: it is empty, too long or has a wildcard or NUL in it (MQTT 3.1.1
    /// §4.7).
    #[error("'{topic}' is not a topic to publish to")]
    InvalidTopic {
        /// The topic.
        topic: String,
    },
    /// No MQTT packet can carry it.
    #[error("a payload of {bytes} bytes is larger than MQTT can carry")]
    TooLarge {
        /// The size of the payload.
        bytes: usize,
    },
    /// The broker was away or did not answer in time. What was written already may still arrive.
    #[error("the MQTT broker has not confirmed the message within {after:?}")]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// One of the two sides did not accept the other when a connection was tried last: a wrong password, no right for this
    /// client id, a certificate that is not believed, a secret that is missing. Nothing was sent.
    #[error("the connection to the MQTT broker is refused for client '{client_id}' ({reason})")]
    Refused {
        /// The client that has no connection.
        client_id: Arc<str>,
        /// What is wrong; the broker's answer where it gave one.
        reason: Arc<str>,
    },
    /// There is no connection, and the last attempt to make one failed. Only for who does not wait
    /// ([`Publisher::impatient`]). Nothing was sent.
    #[error("there is no connection to the MQTT broker ({reason})")]
    Away {
        /// What the last attempt failed for.
        reason: Arc<str>,
    },
    /// The connection broke before the broker had confirmed the message, which may have arrived or not.
    #[error("the connection to the MQTT broker was lost before the message was confirmed")]
    ConnectionLost,
    /// The connection has ended for good.
    #[error("the connection to the MQTT broker has ended")]
    Ended,
}

impl PublishError {
    /// Whether another attempt with the same message can succeed.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidTopic { .. } | Self::TooLarge { .. } => ErrorClass::Permanent,
            Self::TimedOut { .. }
            | Self::Refused { .. }
            | Self::Away { .. }
            | Self::ConnectionLost
            | Self::Ended => ErrorClass::Transient,
        }
    }
}

/// One message on its way from a publisher to the connection.
struct Order {
    publish: Publish,
    /// Used when the message has arrived, dropped when the connection was lost.
    done: oneshot::Sender<()>,
}

/// Publishes over a [`Publication`]. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Publisher {
    orders: mpsc::Sender<Order>,
    timeout: Duration,
    client_id: Arc<str>,
    obstacle: watch::Receiver<Option<Obstacle>>,
    impatient: bool,
}

/// Why the last attempt to connect failed; none when it succeeded, and while the first one after a loss is under way.
#[derive(Clone, Debug)]
struct Obstacle {
    reason: Arc<str>,
    /// One of the two sides did not accept the other: it is no use to wait for that to change.
    refused: bool,
}

impl Publisher {
    /// The same, but it waits for a connection only until an attempt to make one has failed, and then not at all until
    /// one stands again.
    #[must_use]
    pub fn impatient(mut self) -> Self {
        self.impatient = true;
        self
    }

    /// Publishes one message, and returns when it has been written (QoS 0), or when the broker has confirmed it (QoS
    /// 1: PUBACK, QoS 2: PUBCOMP). Waits for a connection, for room and for that at most
    /// [`ConnectionSettings::connect_timeout`] in all (EdgeX: `MessageBus.Optional.ConnectTimeout`), and not at all while
    /// the connection is refused.
    ///
    /// Cancel-safe in that a message which is dropped before it was written is not sent.
    ///
    /// # Errors
    /// [`PublishError`]. Nothing is sent a second time.
    pub async fn publish(
        &self,
        topic: &str,
        payload: Bytes,
        qos: Qos,
        retain: bool,
    ) -> Result<(), PublishError> {
        if !is_publishable(topic) {
            return Err(PublishError::InvalidTopic {
                topic: topic.to_owned(),
            });
        }
        // Beside them a PUBLISH has the topic's length and the packet id, two bytes each.
        if payload.len() + topic.len() + 4 > MAX_PACKET_BYTES {
            return Err(PublishError::TooLarge { bytes: payload.len() });
        }
        let mut publish = Publish::from_bytes(topic, qos.into(), payload);
        publish.retain = retain;
        let (done, confirmed) = oneshot::channel();
        let arrived = async {
            let sent = self.orders.send(Order { publish, done }).await;
            sent.map_err(|_| PublishError::Ended)?;
            confirmed.await.map_err(|_| PublishError::ConnectionLost)
        };
        select! {
            biased;
            Obstacle { reason, refused } = self.obstacle() => Err(match refused {
                true => PublishError::Refused { client_id: self.client_id.clone(), reason },
                false => PublishError::Away { reason },
            }),
            result = timeout(self.timeout, arrived) => {
                result.unwrap_or(Err(PublishError::TimedOut { after: self.timeout }))
            }
        }
    }

    /// Waits until something stands in the way that is not worth waiting for, if it does not already.
    async fn obstacle(&self) -> Obstacle {
        let mut obstacle = self.obstacle.clone();
        let counts = |obstacle: &Option<Obstacle>| {
            obstacle
                .as_ref()
                .is_some_and(|obstacle| obstacle.refused || self.impatient)
        };
        if let Ok(obstacle) = obstacle.wait_for(counts).await
            && let Some(obstacle) = &*obstacle
        {
            return obstacle.clone();
        }
        // The connection has ended, which the publisher learns otherwise.
        std::future::pending().await
    }
}

/// A connection that publishes. Made by [`Publication::try_new`], lives in [`Publication::run`].
pub struct Publication {
    event_loop: EventLoop,
    settings: ConnectionSettings,
    orders: mpsc::Receiver<Order>,
    /// Who waits for the message with packet id (index + 1).
    on_the_way: Vec<Option<oneshot::Sender<()>>>,
    /// `host:port` and client id, for the log.
    broker: String,
    client_id: Arc<str>,
    write_timeout: Duration,
    outage: Outage,
    obstacle: watch::Sender<Option<Obstacle>>,
    connected: bool,
    /// When the connection came to stand, or the attempt to make one began.
    since: Instant,
}

impl Publication {
    /// Checks the settings; nothing is opened yet. The session is a clean one whatever they say: it has nothing for the
    /// broker to remember. For a connection beside another one see [`ConnectionSettings::beside`].
    ///
    /// # Errors
    /// [`InvalidConnectionSettings`] when another attempt with the same settings cannot help.
    pub fn try_new(connection: &ConnectionSettings) -> Result<(Publisher, Self), InvalidConnectionSettings> {
        let mut settings = connection.clone();
        settings.clean_session = true;
        let mut options = settings.mqtt_options()?;
        options.set_inflight(WINDOW);
        // Nothing is ever put into the request queue.
        let mut event_loop = EventLoop::new(options, 1);
        event_loop.set_network_options(settings.network_options());
        let timeout = Duration::from_secs(settings.connect_timeout_secs());
        let (sender, orders) = mpsc::channel(CHANNEL_CAPACITY);
        let (obstacle, obstacles) = watch::channel(None);
        let client_id: Arc<str> = settings.client_id.as_str().into();
        let publisher = Publisher {
            orders: sender,
            timeout,
            client_id: client_id.clone(),
            obstacle: obstacles,
            impatient: false,
        };
        let publication = Self {
            event_loop,
            orders,
            on_the_way: (0..WINDOW).map(|_| None).collect(),
            broker: format!("{}:{}", settings.host, settings.port),
            client_id,
            outage: Outage::new(settings.max_reconnect_interval),
            settings,
            write_timeout: timeout,
            obstacle,
            connected: false,
            since: Instant::now(),
        };
        Ok((publisher, publication))
    }

    /// Connects, and publishes until told to end or until every [`Publisher`] is gone, whether it is connected or not. A
    /// broker that is away, also at the start, is tried again for ever: at least each
    /// [`ConnectionSettings::max_reconnect_interval`], logged once for each reason.
    ///
    /// Told to end, it takes no more messages, sends those it has been given, waits until each is confirmed or no
    /// longer waited for, and disconnects; without a connection it ends at once. The caller bounds that time: dropping
    /// this future is safe at any moment and fails what was on its way.
    pub async fn run(mut self, mut shutdown: ShutdownSignal) {
        let mut retry_at = Instant::now();
        // Every publisher follows it.
        let publishers = self.obstacle.clone();
        while !shutdown.is_triggered() {
            let attempt = select! {
                attempt = self.connect(retry_at) => attempt,
                () = shutdown.recv() => break,
                () = publishers.closed() => break,
            };
            let ended = match attempt {
                Ok(()) => self.serve(&mut shutdown).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => break,
                Err(error) => retry_at = self.lost(&error),
            }
        }
    }

    /// One attempt, not before `retry_at`.
    async fn connect(&mut self, retry_at: Instant) -> Result<(), Failure> {
        sleep_until(retry_at).await;
        self.since = Instant::now();
        connect(&mut self.event_loop, &mut self.settings).await?;
        Ok(())
    }

    /// Everything between a connection that stands and its end.
    async fn serve(&mut self, shutdown: &mut ShutdownSignal) -> Result<(), Failure> {
        self.connected = true;
        self.obstacle.send_replace(None);
        self.since = Instant::now();
        if self.outage.ends() {
            info!(broker = %self.broker, client_id = %self.client_id, "connected to the MQTT broker to publish");
        }
        let mut batch = Vec::new();
        let mut ending = false;
        let mut no_more_orders = false;
        loop {
            while let Some(event) = self.event_loop.state.events.pop_front() {
                self.take(&event);
            }
            let waited_for =
                |slot: &Option<oneshot::Sender<()>>| slot.as_ref().is_some_and(|done| !done.is_closed());
            if no_more_orders && !self.on_the_way.iter().any(waited_for) {
                return Ok(self.disconnect().await?);
            }
            let room = self.on_the_way.iter().filter(|slot| slot.is_none()).count();
            // Each of these may be dropped for another: `poll` has no request to lose, since none is ever queued, and
            // what it has put into the write buffer goes out with the next flush; the others are cancel-safe by their
            // own word.
            select! {
                () = shutdown.recv(), if !ending => {
                    ending = true;
                    self.orders.close();
                }
                count = self.orders.recv_many(&mut batch, room), if room > 0 && !no_more_orders => {
                    no_more_orders = count == 0;
                    self.write(std::mem::take(&mut batch)).await?;
                }
                event = self.event_loop.poll() => {
                    let event = event?;
                    self.take(&event);
                }
            }
        }
    }

    /// Takes note of one event. Never waits.
    fn take(&mut self, event: &Event) {
        let packet_id = match event {
            Event::Incoming(Packet::PubAck(answer)) => answer.pkid,
            Event::Incoming(Packet::PubComp(answer)) => answer.pkid,
            _ => return,
        };
        let index = usize::from(packet_id).checked_sub(1);
        let slot = index.and_then(|index| self.on_the_way.get_mut(index));
        if let Some(done) = slot.and_then(Option::take) {
            // The publisher may have stopped waiting.
            let _ = done.send(());
        }
    }

    /// Writes messages, for which there must be room, with one flush.
    async fn write(&mut self, orders: Vec<Order>) -> Result<(), ConnectionError> {
        let mut packets = Vec::with_capacity(orders.len());
        let mut without_answer = Vec::new();
        let mut free = (1..).zip(&mut self.on_the_way).filter(|(_, slot)| slot.is_none());
        for Order { mut publish, done } in orders {
            if done.is_closed() {
                continue;
            }
            if publish.qos == QoS::AtMostOnce {
                without_answer.push(done);
            } else {
                let (packet_id, slot) = free.next().expect("no more was taken than there is room for");
                publish.pkid = packet_id;
                *slot = Some(done);
            }
            let request = Request::Publish(publish);
            packets.extend(self.event_loop.state.handle_outgoing_packet(request)?);
        }
        self.write_packets(packets).await?;
        for done in without_answer {
            // The publisher may have stopped waiting.
            let _ = done.send(());
        }
        Ok(())
    }

    async fn write_packets(
        &mut self,
        packets: impl IntoIterator<Item = Packet>,
    ) -> Result<(), ConnectionError> {
        wire::write(&mut self.event_loop, self.write_timeout, packets).await
    }

    /// Says goodbye, and waits a moment until the broker has closed the connection.
    async fn disconnect(&mut self) -> Result<(), ConnectionError> {
        self.write_packets([Packet::Disconnect]).await?;
        let closed = async { while self.event_loop.poll().await.is_ok() {} };
        let _ = timeout(GOODBYE, closed).await;
        info!(broker = %self.broker, client_id = %self.client_id, "disconnected from the MQTT broker");
        Ok(())
    }

    /// A connection, or an attempt to make one, has failed, and with it everything on its way. Answers when the next
    /// attempt may begin.
    fn lost(&mut self, error: &Failure) -> Instant {
        // What was confirmed before the connection broke is confirmed.
        while let Some(event) = self.event_loop.state.events.pop_front() {
            self.take(&event);
        }
        self.event_loop.clean();
        // The library would send these again, but nobody waits for them any more.
        self.event_loop.pending.clear();
        for slot in &mut self.on_the_way {
            *slot = None;
        }
        let stood = std::mem::take(&mut self.connected);
        let refusal = error.refusal();
        // After a loss nobody knows yet whether the broker is away.
        let obstacle = (refusal.is_some() || !stood).then(|| Obstacle {
            refused: refusal.is_some(),
            reason: refusal.unwrap_or_else(|| error.to_string()).into(),
        });
        self.obstacle.send_replace(obstacle);
        let life = if stood {
            self.since.elapsed()
        } else {
            Duration::ZERO
        };
        let news = self.outage.begins(&error.to_string(), life);
        let (broker, client_id) = (&self.broker, &self.client_id);
        match (news, stood) {
            (true, true) => warn!(%broker, %client_id, %error, "lost the connection to the MQTT broker"),
            (true, false) => warn!(%broker, %client_id, %error, "cannot connect to the MQTT broker yet"),
            (false, _) => debug!(%broker, %client_id, %error, "still no connection to the MQTT broker"),
        }
        // The time an attempt took counts: a host that swallows packets is asked as often as one that refuses them.
        let from = if stood { Instant::now() } else { self.since };
        from + self.outage.delay(RandomState::new().hash_one(()))
    }
}
