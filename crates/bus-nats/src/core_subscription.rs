//! Subscribing without JetStream: what comes is taken in at once, or dropped and counted.
//!
//! Constraints that shaped it: the library reads on whatever happens, and what it has no room for it drops. So everything
//! is taken from it at once, and the byte budget decides what stays. NATS sends a message once for each subscription that
//! matches it; it counts for the first of them alone.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use edgehold_core::{
    Ack, Body, ByteBudget, BytePermit, ConnectionState, Incoming, ReceptionLoss, ShutdownSignal, TopicFilter,
};
use futures_util::{StreamExt as _, stream::select_all};
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    ConnectionSettings, InvalidSubject, Message, headers,
    link::{Link, connect},
    subject,
};

/// How many messages wait to be taken. Their bytes are bounded by the budget, not by this.
const QUEUE_CAPACITY: usize = 256;

/// How long the drops of one time of need are counted before they are told of.
const NEED: Duration = Duration::from_secs(10);

/// A connection that subscribes. Made by [`Subscription::try_new`], lives in [`Subscription::run`].
pub struct Subscription {
    settings: ConnectionSettings,
    subjects: Vec<String>,
    queue_group: String,
    queue: mpsc::Sender<Message>,
    budget: ByteBudget,
    state: watch::Sender<ConnectionState>,
    loss: Arc<ReceptionLoss>,
}

impl Subscription {
    /// Opens nothing yet. Messages come out of the receiver in the order of receipt, each with its share of `budget`.
    /// Members of a `queue_group` share the messages; empty is none (EdgeX `QueueGroup`).
    ///
    /// # Errors
    /// [`InvalidSubject`] for a filter that cannot be subscribed to.
    pub fn try_new(
        settings: ConnectionSettings,
        filters: &[TopicFilter],
        queue_group: String,
        budget: ByteBudget,
    ) -> Result<(Self, mpsc::Receiver<Message>), InvalidSubject> {
        let (queue, messages) = mpsc::channel(QUEUE_CAPACITY);
        let subscription = Self {
            subjects: subject::of_filters(filters)?,
            settings,
            queue_group,
            queue,
            budget,
            state: watch::Sender::new(ConnectionState::Disconnected),
            loss: Arc::default(),
        };
        Ok((subscription, messages))
    }

    /// Follows how the connection stands.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// What was lost before it was taken in: messages that were dropped because the byte budget was used up, and times
    /// without a connection. (What the server drops is not known.)
    pub fn loss(&self) -> Arc<ReceptionLoss> {
        self.loss.clone()
    }

    /// Connects, and receives until told to end or until the receiver of messages is dropped. A server that is away, also
    /// at the start, is tried again for ever: at least every two seconds, logged once for each reason. What was taken in is
    /// handed over at the end.
    ///
    /// Dropping this future is safe at any moment.
    ///
    /// # Errors
    /// A text, when the settings can make no connection.
    pub async fn run(mut self, mut shutdown: ShutdownSignal) -> Result<(), String> {
        let backlog = &mut VecDeque::new();
        let mut next = None;
        loop {
            let link = match next.take() {
                Some(link) => link,
                // Cancel-safe.
                None => select! {
                    link = connect(&self.settings, "subscribe") => link?,
                    () = shutdown.recv() => break,
                    () = self.queue.closed() => break,
                },
            };
            // What was taken in by the old connection stays in the backlog.
            select! {
                received = self.receive(link.clone(), backlog) => {
                    received?;
                    break;
                }
                renewed = link.renewed() => next = Some(renewed),
                () = shutdown.recv() => break,
            }
            // What follows the old connection may not have come to see its end.
            if self.state.send_replace(ConnectionState::Disconnected) != ConnectionState::Disconnected {
                self.loss.gap();
            }
        }
        self.state.send_replace(ConnectionState::Disconnected);
        for message in backlog.drain(..) {
            if self.queue.send(message).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Until nobody takes messages. Cancel-safe: what was taken in stays in the backlog.
    async fn receive(&mut self, mut link: Link, backlog: &mut VecDeque<Message>) -> Result<(), String> {
        let mut subscribers = Vec::new();
        for (index, subject) in self.subjects.iter().enumerate() {
            let subscriber = match self.queue_group.as_str() {
                "" => link.client.subscribe(subject.clone()).await,
                group => {
                    link.client
                        .queue_subscribe(subject.clone(), group.to_owned())
                        .await
                }
            };
            let subscriber = subscriber.map_err(|error| error.to_string())?;
            subscribers.push(subscriber.map(move |message| (index, message)));
        }
        let mut messages = select_all(subscribers);
        let overrun = link.overrun.clone();
        let mut following = pin!(follow(&mut link, &self.state, &self.loss));
        let mut untold = 0;
        let mut need = pin!(sleep(Duration::ZERO));
        loop {
            // All cancel-safe.
            select! {
                next = messages.next() => {
                    let Some((index, message)) = next else {
                        return Ok(());
                    };
                    let first = self.subjects.iter().position(|pattern| subject::takes(pattern, &message.subject));
                    if first != Some(index) {
                        continue;
                    }
                    match self.take(message) {
                        Some(message) => backlog.push_back(message),
                        None => {
                            untold += 1;
                            self.loss.dropped(1);
                        }
                    }
                }
                place = self.queue.reserve(), if !backlog.is_empty() => {
                    let Ok(place) = place else { return Ok(()) };
                    if let Some(message) = backlog.pop_front() {
                        place.send(message);
                    }
                }
                () = self.queue.closed() => return Ok(()),
                () = &mut following => {}
                () = &mut need, if untold > 0 => {}
            }
            let overrun = overrun.swap(0, Ordering::Relaxed);
            if overrun > 0 {
                untold += overrun;
                self.loss.dropped(overrun);
            }
            if untold > 0 && need.is_elapsed() {
                warn!(
                    messages = untold,
                    "NATS messages were dropped: they came faster than they could be handled, and MaxInFlightBytes was used up"
                );
                untold = 0;
                need.as_mut().reset(tokio::time::Instant::now() + NEED);
            }
        }
    }

    /// The message with its part of the budget; none when there is none left.
    fn take(&self, message: async_nats::Message) -> Option<Message> {
        let headers = headers(message.headers.as_ref());
        let incoming = Incoming {
            topic: subject::topic(&message.subject),
            body: Body::new(message.payload, self.settings.max_message_bytes),
            ack: Ack::none(),
            permit: BytePermit::none(),
        };
        let permit = self.budget.try_take(incoming.weight_bytes())?;
        let incoming = Incoming { permit, ..incoming };
        Some(Message { headers, incoming })
    }
}

/// Tells how the connection stands; never ends. It counts as subscribed when the server has answered what was sent after
/// the subscriptions.
async fn follow(link: &mut Link, state: &watch::Sender<ConnectionState>, loss: &ReceptionLoss) {
    loop {
        let standing = link.connected().await;
        state.send_replace(ConnectionState::Connected);
        if timeout(Duration::from_secs(5), round_trip(&link.client))
            .await
            .is_err()
        {
            debug!("NATS does not bring back what is sent to ourselves");
        }
        if *link.standing.borrow() == standing {
            info!("subscribed at NATS");
            state.send_replace(ConnectionState::Subscribed);
        }
        link.lost(standing).await;
        loss.gap();
        state.send_replace(ConnectionState::Disconnected);
    }
}

/// Sends something to ourselves and waits for it: the server has read everything that was sent before.
async fn round_trip(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let Ok(mut subscriber) = client.subscribe(inbox.clone()).await else {
        return;
    };
    if client.publish(inbox, bytes::Bytes::new()).await.is_ok() {
        subscriber.next().await;
    }
}
