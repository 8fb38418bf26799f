//! A connection that subscribes: receives, hands over, comes back.
//!
//! ```text
//!   ┌───── open ◄── wait (backoff) ◄── lost ─┐
//!   ▼                                        │
//!  subscribe ─► receive ─► room? ─► hand over
//! ```
//!
//! Constraints that shaped it:
//!
//! - Not reading is the only backpressure there is. While a message waits for room nothing else is read, and nobody is
//!   asked for a sign of life: an answer could not be seen.
//! - Redis sends a message once for each subscription that matches it. It counts for the first of them alone.
//! - What Redis drops for a reader that is too slow it drops with the connection, without a count.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use edgehold_core::{
    Ack, Body, ByteBudget, BytePermit, ConnectionState, Incoming, Outage, ReceptionLoss, ShutdownSignal,
    TopicFilter,
};
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    ConnectionError, ConnectionSettings,
    channel::{self, Interest},
    connection::Connection,
    resp::{Value, write_command},
};

/// How many messages wait to be taken. Their bytes are bounded by the budget, not by this.
const QUEUE_CAPACITY: usize = 256;

/// A reader who did not read for so long may have been too slow for the server.
const SLOW: Duration = Duration::from_secs(1);

/// A connection that subscribes. Made by [`Subscription::new`], lives in [`Subscription::run`].
pub struct Subscription {
    settings: ConnectionSettings,
    interests: Vec<Interest>,
    queue: mpsc::Sender<Incoming>,
    budget: ByteBudget,
    outage: Outage,
    state: watch::Sender<ConnectionState>,
    /// Whether this connection was ever left unread for long.
    was_slow: bool,
    /// When the connection came to stand, or the attempt to make one began.
    since: Instant,
    loss: Arc<ReceptionLoss>,
}

impl Subscription {
    /// Opens nothing yet. Messages come out of the receiver in the order of receipt, each with its share of `budget`;
    /// their topic is the channel with slashes for dots. As `*` takes more than one level, messages come that no filter
    /// matches: whoever takes them looks.
    pub fn new(
        settings: ConnectionSettings,
        filters: &[TopicFilter],
        budget: ByteBudget,
    ) -> (Self, mpsc::Receiver<Incoming>) {
        let (queue, incoming) = mpsc::channel(QUEUE_CAPACITY);
        let subscription = Self {
            interests: channel::interests(filters),
            settings,
            queue,
            budget,
            outage: Outage::default(),
            state: watch::Sender::new(ConnectionState::Disconnected),
            was_slow: false,
            since: Instant::now(),
            loss: Arc::default(),
        };
        (subscription, incoming)
    }

    /// Follows how the connection stands.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// What was lost because Redis keeps nothing: each loss of the connection is a gap.
    pub fn loss(&self) -> Arc<ReceptionLoss> {
        self.loss.clone()
    }

    /// Connects, and receives until told to end or until the receiver of messages is dropped. A server that is away, also
    /// at the start, or that refuses, is tried again for ever: at least every two seconds, logged once for each reason.
    ///
    /// Dropping this future is safe at any moment.
    pub async fn run(mut self, mut shutdown: ShutdownSignal) {
        let mut retry_at = Instant::now();
        while !shutdown.is_triggered() && !self.queue.is_closed() {
            let attempt = select! {
                attempt = self.open(retry_at) => attempt,
                () = shutdown.recv() => break,
            };
            let ended = match attempt {
                Ok(mut connection) => self.serve(&mut connection, &mut shutdown).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => break,
                Err(error) => retry_at = self.lost(&error),
            }
        }
        self.state.send_replace(ConnectionState::Disconnected);
    }

    /// One attempt, not before `retry_at`.
    async fn open(&mut self, retry_at: Instant) -> Result<Connection, ConnectionError> {
        sleep_until(retry_at).await;
        self.since = Instant::now();
        let mut connection = Connection::open(&self.settings).await?;
        let mut commands = Vec::new();
        for interest in &self.interests {
            let (command, text): (&[u8], _) = match interest {
                Interest::Channel(channel) => (b"SUBSCRIBE", channel),
                Interest::Pattern(pattern) => (b"PSUBSCRIBE", pattern),
            };
            write_command(&[command, text.as_bytes()], &mut commands);
        }
        connection.write(&commands).await?;
        self.since = Instant::now();
        self.was_slow = false;
        self.state.send_replace(ConnectionState::Connected);
        Ok(connection)
    }

    /// Everything between a connection that stands and its end.
    async fn serve(
        &mut self,
        connection: &mut Connection,
        shutdown: &mut ShutdownSignal,
    ) -> Result<(), ConnectionError> {
        let keep_alive = self.settings.keep_alive;
        let mut unanswered = self.interests.len();
        let mut heard = Instant::now();
        let mut asked = false;
        loop {
            let silence_ends = heard + keep_alive * if asked { 2 } else { 1 };
            // All cancel-safe: what has arrived of a value stays with the connection.
            let value = select! {
                value = connection.next() => value?,
                () = shutdown.recv() => return Ok(()),
                () = self.queue.closed() => return Ok(()),
                () = sleep_until(silence_ends), if !keep_alive.is_zero() => {
                    if asked {
                        return Err(ConnectionError::TimedOut(keep_alive));
                    }
                    let mut ping = Vec::new();
                    write_command(&[b"PING"], &mut ping);
                    connection.write(&ping).await?;
                    asked = true;
                    continue;
                }
            };
            match told(value, self.settings.max_message_bytes)? {
                Told::Message {
                    because_of,
                    channel,
                    body,
                } => {
                    let first = self.interests.iter().find(|interest| interest.takes(&channel));
                    if first == Some(&because_of) {
                        self.hand_over(&channel, body).await;
                    }
                }
                Told::Subscribed if unanswered == 1 => {
                    unanswered = 0;
                    self.subscribed();
                }
                Told::Subscribed => unanswered = unanswered.saturating_sub(1),
                Told::Nothing => {}
            }
            (heard, asked) = (Instant::now(), false);
        }
    }

    /// Waits for room. Not cancel-safe, and never cancelled but by the end of whoever takes messages.
    async fn hand_over(&mut self, channel: &str, body: Body) {
        let message = Incoming {
            topic: channel::topic(channel),
            body,
            ack: Ack::none(),
            permit: BytePermit::none(),
        };
        let asked_at = Instant::now();
        let weight_bytes = message.weight_bytes();
        let room = async {
            let permit = self.budget.take(weight_bytes).await;
            Some((self.queue.reserve().await.ok()?, permit))
        };
        let room = select! {
            room = room => room,
            () = self.queue.closed() => None,
        };
        if let Some((place, permit)) = room {
            place.send(Incoming { permit, ..message });
        }
        self.was_slow |= asked_at.elapsed() > SLOW;
    }

    fn subscribed(&mut self) {
        self.state.send_replace(ConnectionState::Subscribed);
        if self.outage.ends() {
            info!(server = %self.settings.address(), "subscribed at Redis");
        }
    }

    /// A connection, or an attempt to make one, has failed. Answers when the next attempt may begin.
    fn lost(&mut self, error: &ConnectionError) -> Instant {
        let stood = self.state.send_replace(ConnectionState::Disconnected) != ConnectionState::Disconnected;
        let server = self.settings.address();
        if stood {
            self.loss.gap();
        }
        if stood && self.was_slow {
            warn!(
                %server,
                "Redis may have closed the connection because messages were taken too slowly \
                 (client-output-buffer-limit pubsub): what it had for this service then is lost"
            );
        }
        let life = if stood {
            self.since.elapsed()
        } else {
            Duration::ZERO
        };
        let news = self.outage.begins(&error.to_string(), life);
        match (news, stood) {
            (true, true) => {
                warn!(%server, %error, "lost the connection to Redis: what is published until it is back is lost");
            }
            (true, false) => warn!(%server, %error, "cannot connect to Redis yet"),
            (false, _) => debug!(%server, %error, "still no connection to Redis"),
        }
        // The time an attempt took counts: a host that swallows packets is asked as often as one that refuses them.
        let from = if stood { Instant::now() } else { self.since };
        from + self.outage.delay(RandomState::new().hash_one(()))
    }
}

/// What a server says to a subscriber.
enum Told {
    /// Something was published.
    Message {
        /// The subscription it comes by.
        because_of: Interest,
        channel: String,
        body: Body,
    },
    /// A subscription stands.
    Subscribed,
    /// Anything else: the answer to a sign of life.
    Nothing,
}

/// `limit` is the largest message allowed.
fn told(value: Value, limit: usize) -> Result<Told, ConnectionError> {
    let values = match value {
        Value::Error(text) => return Err(ConnectionError::Refused(text.into())),
        Value::Array(Some(values)) => values,
        _ => return Ok(Told::Nothing),
    };
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let (because_of, channel, content) = match <[Value; 4]>::try_from(values) {
        Ok(
            [
                Value::Bulk(Some(kind)),
                Value::Bulk(Some(pattern)),
                Value::Bulk(Some(channel)),
                content,
            ],
        ) if kind == "pmessage" => (Interest::Pattern(text(&pattern)), text(&channel), content),
        Ok(_) => return Ok(Told::Nothing),
        Err(values) => match <[Value; 3]>::try_from(values) {
            Ok([Value::Bulk(Some(kind)), Value::Bulk(Some(channel)), content]) if kind == "message" => {
                (Interest::Channel(text(&channel)), text(&channel), content)
            }
            Ok([Value::Bulk(Some(kind)), ..]) if kind == "subscribe" || kind == "psubscribe" => {
                return Ok(Told::Subscribed);
            }
            _ => return Ok(Told::Nothing),
        },
    };
    let body = match content {
        Value::Bulk(Some(content)) => Body::new(content, limit),
        Value::TooLarge(bytes) => Body::SetAside { bytes, limit },
        _ => return Ok(Told::Nothing),
    };
    Ok(Told::Message {
        because_of,
        channel,
        body,
    })
}
