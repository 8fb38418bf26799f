//! A connection that publishes: takes messages from any number of tasks, says when each has arrived, comes back.
//!
//! ```text
//!  publish ──► bounded channel ──► written ──► the server answers with the number of receivers
//!     └──────── its time is up ──────┴── connection lost: failed
//! ```
//!
//! Answers come in the order of the commands, so the first that waits is the one that is meant. Nothing is sent twice:
//! after a lost connection the publisher decides. A server that was restarted while nothing was published is noticed at
//! once, because the connection is always read.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use edgehold_core::{ErrorClass, Outage, ShutdownSignal};
use tokio::{
    select,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    ConnectionError, ConnectionSettings, channel,
    connection::Connection,
    resp::{Value, write_command},
};

/// Messages on their way that the server has not answered yet.
const WINDOW: usize = 64;

/// Messages that wait for room in the window or for a connection; past it, publishers wait for their place.
const CHANNEL_CAPACITY: usize = 64;

/// Why a message was not published, or may not have been.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// No message can be published to this topic: it is empty, or has a wildcard in it.
    #[error("'{topic}' is not a topic to publish to")]
    InvalidTopic {
        /// The topic.
        topic: String,
    },
    /// The server was away or did not answer in time. What was written already may still arrive.
    #[error("Redis has not taken the message within {after:?}")]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The server refused the connection when it was tried last, or this message.
    #[error("Redis refuses: {reason}")]
    Refused {
        /// The server's answer.
        reason: Arc<str>,
    },
    /// The connection broke before the server had answered. The message may have arrived or not.
    #[error("the connection to Redis was lost before the message was taken")]
    ConnectionLost,
    /// The connection has ended for good.
    #[error("the connection to Redis has ended")]
    Ended,
}

impl PublishError {
    /// Whether another attempt with the same message can succeed.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidTopic { .. } => ErrorClass::Permanent,
            _ => ErrorClass::Transient,
        }
    }
}

/// One message on its way from a publisher to the connection.
struct Order {
    channel: String,
    message: Bytes,
    done: Done,
}

/// Told when the server has answered; dropped when the connection was lost.
type Done = oneshot::Sender<Result<(), PublishError>>;

/// The server's answer when the last attempt to connect was refused; none when it succeeded or got no answer.
type Refusal = Option<Arc<str>>;

/// Publishes over a [`Publication`]. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Publisher {
    orders: mpsc::Sender<Order>,
    timeout: Duration,
    refusal: watch::Receiver<Refusal>,
}

impl Publisher {
    /// Publishes one message, and returns when the server has taken it: whether anybody received it is not known. Waits for
    /// a connection, for room and for the answer at most [`ConnectionSettings::connect_timeout`] in all, and not at all
    /// while the server refuses the connection.
    ///
    /// Cancel-safe in that a message which is dropped before it was written is not sent.
    ///
    /// # Errors
    /// [`PublishError`]. Nothing is sent a second time.
    pub async fn publish(&self, topic: &str, message: Bytes) -> Result<(), PublishError> {
        if topic.is_empty() || topic.contains(['+', '#', '\0']) {
            return Err(PublishError::InvalidTopic {
                topic: topic.to_owned(),
            });
        }
        let (done, answer) = oneshot::channel();
        let order = Order {
            channel: channel::channel(topic),
            message,
            done,
        };
        let arrived = async {
            let sent = self.orders.send(order).await;
            sent.map_err(|_| PublishError::Ended)?;
            answer.await.unwrap_or(Err(PublishError::ConnectionLost))
        };
        let mut refusal = self.refusal.clone();
        select! {
            biased;
            reason = refused(&mut refusal) => Err(PublishError::Refused { reason }),
            result = timeout(self.timeout, arrived) => {
                result.unwrap_or(Err(PublishError::TimedOut { after: self.timeout }))
            }
        }
    }
}

/// Waits until the server refuses the connection, if it does not already.
async fn refused(refusal: &mut watch::Receiver<Refusal>) -> Arc<str> {
    if let Ok(refusal) = refusal.wait_for(Option::is_some).await
        && let Some(reason) = &*refusal
    {
        return reason.clone();
    }
    // The connection has ended, which the publisher learns otherwise.
    std::future::pending().await
}

/// A connection that publishes. Made by [`Publication::new`], lives in [`Publication::run`].
pub struct Publication {
    settings: ConnectionSettings,
    orders: mpsc::Receiver<Order>,
    /// Who waits for an answer, in the order of the commands; none for a sign of life.
    on_the_way: VecDeque<Option<Done>>,
    outage: Outage,
    refusal: watch::Sender<Refusal>,
    /// When the connection came to stand; none while there is none.
    stands_since: Option<Instant>,
    /// When the last attempt to connect began.
    tried_at: Instant,
}

impl Publication {
    /// Opens nothing yet.
    pub fn new(settings: ConnectionSettings) -> (Publisher, Self) {
        let (sender, orders) = mpsc::channel(CHANNEL_CAPACITY);
        let (refusal, refusals) = watch::channel(None);
        let publisher = Publisher {
            orders: sender,
            timeout: settings.connect_timeout,
            refusal: refusals,
        };
        let publication = Self {
            settings,
            orders,
            on_the_way: VecDeque::new(),
            outage: Outage::default(),
            refusal,
            stands_since: None,
            tried_at: Instant::now(),
        };
        (publisher, publication)
    }

    /// Connects, and publishes until told to end or until every [`Publisher`] is gone, whether it is connected or not. A
    /// server that is away, also at the start, is tried again for ever: at least every two seconds, logged once for each reason.
    ///
    /// Told to end, it takes no more messages, sends those it has been given and waits until each is answered; without a
    /// connection it ends at once. The caller bounds that time: dropping this future is safe at any moment and fails what
    /// was on its way.
    pub async fn run(mut self, mut shutdown: ShutdownSignal) {
        let mut retry_at = Instant::now();
        // Every publisher follows it.
        let publishers = self.refusal.clone();
        while !shutdown.is_triggered() {
            let attempt = select! {
                attempt = self.open(retry_at) => attempt,
                () = shutdown.recv() => break,
                () = publishers.closed() => break,
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
    }

    /// One attempt, not before `retry_at`.
    async fn open(&mut self, retry_at: Instant) -> Result<Connection, ConnectionError> {
        sleep_until(retry_at).await;
        self.tried_at = Instant::now();
        Connection::open(&self.settings).await
    }

    /// Everything between a connection that stands and its end.
    async fn serve(
        &mut self,
        connection: &mut Connection,
        shutdown: &mut ShutdownSignal,
    ) -> Result<(), ConnectionError> {
        self.stands_since = Some(Instant::now());
        self.refusal.send_replace(None);
        if self.outage.ends() {
            info!(server = %self.settings.address(), "connected to Redis to publish");
        }
        let mut batch = Vec::new();
        let mut ending = false;
        let mut no_more_orders = false;
        let mut heard = Instant::now();
        loop {
            if no_more_orders && self.on_the_way.is_empty() {
                return Ok(());
            }
            let room = WINDOW.saturating_sub(self.on_the_way.len());
            let waits = !self.on_the_way.is_empty();
            let patience = match waits {
                true => self.settings.connect_timeout,
                false => self.settings.keep_alive,
            };
            // All cancel-safe: what has arrived of a value stays with the connection, and orders stay in their channel.
            select! {
                () = shutdown.recv(), if !ending => {
                    ending = true;
                    self.orders.close();
                }
                value = connection.next() => {
                    self.answered(value?);
                    heard = Instant::now();
                }
                count = self.orders.recv_many(&mut batch, room), if room > 0 && !no_more_orders => {
                    no_more_orders = count == 0;
                    if !waits {
                        heard = Instant::now();
                    }
                    let commands = self.commands(&mut batch);
                    connection.write(&commands).await?;
                }
                () = sleep_until(heard + patience), if !patience.is_zero() => {
                    if waits {
                        return Err(ConnectionError::TimedOut(patience));
                    }
                    let mut ping = Vec::new();
                    write_command(&[b"PING"], &mut ping);
                    self.on_the_way.push_back(None);
                    heard = Instant::now();
                    connection.write(&ping).await?;
                }
            }
        }
    }

    /// The commands for these orders, which from now on are on their way.
    fn commands(&mut self, batch: &mut Vec<Order>) -> Vec<u8> {
        let mut commands = Vec::new();
        for Order {
            channel,
            message,
            done,
        } in batch.drain(..)
        {
            // Nobody waits for it any more.
            if done.is_closed() {
                continue;
            }
            write_command(&[b"PUBLISH", channel.as_bytes(), &message], &mut commands);
            self.on_the_way.push_back(Some(done));
        }
        commands
    }

    fn answered(&mut self, value: Value) {
        let Some(Some(done)) = self.on_the_way.pop_front() else {
            return;
        };
        let answer = match value {
            Value::Error(text) => Err(PublishError::Refused { reason: text.into() }),
            _ => Ok(()),
        };
        // The publisher may have stopped waiting.
        let _ = done.send(answer);
    }

    /// A connection, or an attempt to make one, has failed, and with it everything on its way. Answers when the next
    /// attempt may begin.
    fn lost(&mut self, error: &ConnectionError) -> Instant {
        self.on_the_way.clear();
        self.refusal.send_replace(match error {
            ConnectionError::Refused(reason) | ConnectionError::Access(reason) => Some(reason.clone()),
            _ => None,
        });
        let stood = self.stands_since.take();
        let life = stood.map_or(Duration::ZERO, |since| since.elapsed());
        let news = self.outage.begins(&error.to_string(), life);
        let server = self.settings.address();
        match (news, stood) {
            (true, Some(_)) => warn!(%server, %error, "lost the connection to Redis"),
            (true, None) => warn!(%server, %error, "cannot connect to Redis yet"),
            (false, _) => debug!(%server, %error, "still no connection to Redis"),
        }
        // The time an attempt took counts: a host that swallows packets is asked as often as one that refuses them.
        let from = stood.map_or(self.tried_at, |_| Instant::now());
        from + self.outage.delay(RandomState::new().hash_one(()))
    }
}
