//! Reading a stream of JetStream: pulls what there is room for, and answers when it is done.
//!
//! ```text
//!   ┌── find stream and consumer ◄── wait ◄── lost, or gone
//!   ▼
//!  room for a window? ─► pull ─► hand over, one by one ─┐
//!   └───────────────────────────────────────────────────┘
//! ```
//!
//! Beside that the answers go out, also while nothing can be pulled: a message in hand is said to be worked on every third
//! of the server's patience, so that a long outage of a destination delivers nothing twice.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use async_nats::{Client, StatusCode, Subscriber, jetstream};
use bytes::Bytes;
use edgehold_core::{
    Ack, Body, ByteBudget, BytePermit, ConnectionState, Incoming, Outage, ShutdownSignal, TopicFilter,
};
use futures_util::StreamExt as _;
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    ConnectionSettings, InvalidSubject, Message, StreamSettings,
    hand::{Hand, Receipt, Sequence},
    headers,
    link::{Link, Standing, connect},
    stream::{self, Source},
    subject,
};

/// How many messages wait to be taken. Their bytes are bounded by the budget, not by this.
const QUEUE_CAPACITY: usize = 256;

/// The most messages of one pull.
const BATCH: usize = 256;

/// How long the server keeps a pull that it has nothing for.
const EXPIRES: Duration = Duration::from_secs(5);

/// After so much longer a pull that was not answered is lost.
const GRACE: Duration = Duration::from_secs(2);

/// What a message has beside its payload and its headers at most: subject, reply, length.
const MAX_OVERHEAD_BYTES: usize = 8 * 1024;

/// The least that a message in hand weighs: no more of them than that can be in hand.
const LEAST_WEIGHT_BYTES: u32 = 256;

/// How long the last answers may take to be written.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection that reads a stream. Made by [`StreamSubscription::try_new`], lives in [`StreamSubscription::run`].
pub struct StreamSubscription {
    settings: ConnectionSettings,
    stream: StreamSettings,
    subjects: Vec<String>,
    queue: mpsc::Sender<Message>,
    budget: ByteBudget,
    state: watch::Sender<ConnectionState>,
    hand: Hand,
    outage: Outage,
    /// Which stream it was last, and how often that has changed.
    mark: String,
    generation: u64,
    /// How long the server waits for an answer.
    patience: watch::Sender<Duration>,
}

/// How the reading of a stream ended.
enum End {
    /// The connection is lost.
    Lost,
    /// Something is wrong with the stream.
    Wrong(String),
}

impl StreamSubscription {
    /// Opens nothing yet. Messages come out of the receiver in the order of the stream, each with its share of `budget`;
    /// what no filter takes is answered here. Consumers with one name share the messages (EdgeX `QueueGroup`).
    ///
    /// # Errors
    /// [`InvalidSubject`] for a filter that cannot be subscribed to.
    pub fn try_new(
        settings: ConnectionSettings,
        stream: StreamSettings,
        filters: &[TopicFilter],
        budget: ByteBudget,
    ) -> Result<(Self, mpsc::Receiver<Message>), InvalidSubject> {
        let (queue, messages) = mpsc::channel(QUEUE_CAPACITY);
        let mut subjects = Vec::new();
        for filter in filters {
            let subject = subject::of_filter(filter.as_str())?;
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        let subscription = Self {
            settings,
            stream,
            subjects,
            queue,
            budget,
            state: watch::Sender::new(ConnectionState::Disconnected),
            hand: Hand::default(),
            outage: Outage::default(),
            mark: String::new(),
            generation: 0,
            patience: watch::Sender::new(Duration::from_secs(30)),
        };
        Ok((subscription, messages))
    }

    /// Follows how the connection stands; subscribed is when there is a consumer to read by.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Connects, and reads until told to end or until the receiver of messages is dropped. A server that is away, also at
    /// the start, and a stream that is missing are tried again for ever: at least every two seconds, logged once for each
    /// reason.
    ///
    /// Told to end, it pulls nothing more, waits until each message in hand has been done with or dropped, and sends the
    /// last answers. The caller bounds that time: dropping this future is safe at any moment, and what was not acknowledged
    /// will be delivered again.
    ///
    /// # Errors
    /// A text, when the settings can make no connection.
    pub async fn run(self, shutdown: ShutdownSignal) -> Result<(), String> {
        let queue = self.queue.clone();
        let mut told_to_end = shutdown.clone();
        let mut link = select! {
            link = connect(&self.settings, "read a stream") => link?,
            () = told_to_end.recv() => return Ok(()),
            () = queue.closed() => return Ok(()),
        };
        drop(queue);
        // None once it pulls no more.
        let mut puller = Some(self);
        loop {
            let Some(subscription) = &puller else {
                return Ok(());
            };
            let answering = answer(
                link.client.clone(),
                link.standing.clone(),
                subscription.hand.clone(),
                subscription.patience.subscribe(),
                subscription.state.clone(),
                shutdown.clone(),
            );
            // What is in hand stays so, and is answered by the next connection.
            let renewed = select! {
                ((), ()) = async { tokio::join!(Self::pull_until(&mut puller, link.clone(), told_to_end.clone()), answering) } => return Ok(()),
                renewed = link.renewed() => renewed,
            };
            link = renewed;
            if let Some(subscription) = &puller {
                subscription.state.send_replace(ConnectionState::Disconnected);
            }
        }
    }

    /// Pulls until told to end or nobody takes messages, who then see the end of the queue. Cancel-safe.
    async fn pull_until(puller: &mut Option<Self>, link: Link, mut told_to_end: ShutdownSignal) {
        if let Some(subscription) = puller {
            let queue = subscription.queue.clone();
            select! {
                () = subscription.pull(link) => {}
                () = told_to_end.recv() => {}
                () = queue.closed() => {}
            }
        }
        *puller = None;
    }

    /// For ever. Cancel-safe: a message that is dropped on its way is given back.
    async fn pull(&mut self, mut link: Link) {
        loop {
            let standing = link.connected().await;
            self.state.send_replace(ConnectionState::Connected);
            let end = self.read(&mut link, standing).await;
            self.state.send_replace(ConnectionState::Disconnected);
            if let End::Wrong(reason) = end {
                match self.outage.begins(&reason, Duration::ZERO) {
                    true => warn!(server = %self.settings.address(), reason, "cannot read the stream yet"),
                    false => debug!(reason, "still cannot read the stream"),
                }
                sleep(self.outage.delay(RandomState::new().hash_one(()))).await;
            }
        }
    }

    async fn read(&mut self, link: &mut Link, standing: Standing) -> End {
        let client = link.client.clone();
        let context = jetstream::new(client.clone());
        let max_in_hand = self.budget.total() / LEAST_WEIGHT_BYTES;
        let opened = stream::open(
            &context,
            &self.stream,
            &self.subjects,
            i64::from(max_in_hand.max(1_000)),
        );
        let source = select! {
            opened = opened => match opened {
                Ok(source) => source,
                Err(reason) => return End::Wrong(reason),
            },
            () = link.lost(standing) => return End::Lost,
        };
        if self.mark != source.mark {
            self.mark = source.mark.clone();
            self.generation += 1;
        }
        self.patience.send_replace(source.ack_wait);
        let inbox = client.new_inbox();
        let mut answers = match client.subscribe(inbox.clone()).await {
            Ok(answers) => answers,
            Err(error) => return End::Wrong(error.to_string()),
        };
        if self.outage.ends() {
            info!(
                stream = source.stream,
                consumer = source.consumer,
                "reading the stream"
            );
        }
        self.state.send_replace(ConnectionState::Subscribed);

        let mut one_by_one = false;
        loop {
            let largest = client.server_info().max_payload + MAX_OVERHEAD_BYTES;
            let (batch, bytes) = match one_by_one {
                true => (1, largest),
                false => (BATCH, largest.min(self.budget.total() as usize / 4).max(1)),
            };
            let reserved = select! {
                reserved = self.budget.take(bytes) => reserved,
                () = link.lost(standing) => return End::Lost,
            };
            let pull = Pull {
                batch,
                bytes,
                reserved,
            };
            if let Err(error) = request(&client, &source, &inbox, &pull).await {
                return End::Wrong(error);
            }
            let pulled = select! {
                pulled = self.take_all(pull, &mut answers, &context) => pulled,
                () = link.lost(standing) => return End::Lost,
            };
            match pulled {
                Pulled::All => one_by_one = false,
                Pulled::NextIsLarger => one_by_one = true,
                Pulled::Wrong(reason) => return End::Wrong(reason),
            }
        }
    }

    /// Takes what comes for one pull, until the server has no more for it.
    async fn take_all(
        &mut self,
        mut pull: Pull,
        answers: &mut Subscriber,
        context: &jetstream::Context,
    ) -> Pulled {
        let mut taken = 0;
        let lost_at = Instant::now() + EXPIRES + GRACE;
        while taken < pull.batch {
            let message = select! {
                message = answers.next() => message,
                () = sleep_until(lost_at) => return Pulled::All,
            };
            let Some(message) = message else {
                return Pulled::Wrong("the subscription has ended".to_owned());
            };
            let said = message.description.clone().unwrap_or_default();
            match message.status.unwrap_or(StatusCode::OK) {
                StatusCode::OK => {}
                StatusCode::TIMEOUT | StatusCode::NOT_FOUND => return Pulled::All,
                StatusCode::IDLE_HEARTBEAT => continue,
                StatusCode::REQUEST_TERMINATED if said.contains("MaxBytes") => {
                    return match taken {
                        0 => Pulled::NextIsLarger,
                        _ => Pulled::All,
                    };
                }
                StatusCode::NO_RESPONDERS => {
                    return Pulled::Wrong("the stream or its consumer is gone".to_owned());
                }
                status => return Pulled::Wrong(format!("the server ends the pull: {status} {said}")),
            }
            taken += 1;
            let message = jetstream::Message {
                message,
                context: context.clone(),
            };
            self.hand_over(message, &mut pull.reserved).await;
        }
        Pulled::All
    }

    /// Waits for room. Cancel-safe in that a message that is dropped here is given back to the server.
    async fn hand_over(&mut self, message: jetstream::Message, reserved: &mut BytePermit) {
        let Ok(info) = message.info() else {
            debug!(subject = %message.subject, "a message that is none of the stream's");
            return;
        };
        let sequence = Sequence {
            generation: self.generation,
            number: info.stream_sequence,
        };
        let Some(reply) = message.reply.as_ref() else {
            return;
        };
        let ack: Ack = match self.hand.receive(sequence, reply) {
            Receipt::New(ack) => ack,
            Receipt::Again => {
                debug!(subject = %message.subject, number = sequence.number, "delivered again: joined");
                return;
            }
        };
        if !self
            .subjects
            .iter()
            .any(|pattern| subject::takes(pattern, &message.subject))
        {
            ack.done();
            return;
        }
        let headers = headers(message.headers.as_ref());
        let incoming = Incoming {
            topic: subject::topic(&message.subject),
            body: Body::new(message.message.payload, self.settings.max_message_bytes),
            ack,
            permit: BytePermit::none(),
        };
        let weight = incoming.weight_bytes();
        let permit = match reserved.split(weight) {
            Some(permit) => permit,
            None => {
                // What is left of it may be what this message waits for.
                *reserved = BytePermit::none();
                self.budget.take(weight).await
            }
        };
        let incoming = Incoming { permit, ..incoming };
        // Nobody takes messages: dropped, it is given back.
        let _ = self.queue.send(Message { headers, incoming }).await;
    }
}

/// What is asked of the server at once.
struct Pull {
    batch: usize,
    bytes: usize,
    /// Room for it.
    reserved: BytePermit,
}

/// How a pull ended.
enum Pulled {
    /// It is used up.
    All,
    /// The next message is larger than it allowed.
    NextIsLarger,
    Wrong(String),
}

async fn request(client: &Client, source: &Source, inbox: &str, pull: &Pull) -> Result<(), String> {
    let Source { stream, consumer, .. } = source;
    let expires = u64::try_from(EXPIRES.as_nanos()).expect("some seconds fit");
    let question = serde_json::json!({ "batch": pull.batch, "max_bytes": pull.bytes, "expires": expires });
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
    let asked = client
        .publish_with_reply(subject, inbox.to_owned(), question.to_string().into())
        .await;
    asked.map_err(|error| error.to_string())
}

/// Sends the answers, until told to end and nothing is in hand any more.
async fn answer(
    client: Client,
    standing: watch::Receiver<Standing>,
    hand: Hand,
    mut patience: watch::Receiver<Duration>,
    state: watch::Sender<ConnectionState>,
    mut shutdown: ShutdownSignal,
) {
    let mut ending = false;
    let mut next_sign = Instant::now() + *patience.borrow() / 3;
    loop {
        while let Some(answer) = hand.next_answer() {
            // Fails only when the library has ended. An answer that is lost on the way is asked for again.
            if client
                .publish(answer.to, Bytes::from_static(answer.text.as_bytes()))
                .await
                .is_err()
            {
                return;
            }
        }
        // Without a connection the server delivers again what is in hand.
        if ending && (hand.is_empty() || !standing.borrow().connected) {
            let _ = timeout(GOODBYE, client.flush()).await;
            state.send_replace(ConnectionState::Disconnected);
            return;
        }
        // All cancel-safe.
        select! {
            () = hand.told() => {}
            () = shutdown.recv(), if !ending => ending = true,
            // Never fails while it is read: then there is no other server, and no other patience.
            Ok(()) = patience.changed() => next_sign = Instant::now() + *patience.borrow() / 3,
            () = sleep_until(next_sign) => {
                hand.still_at_it();
                next_sign = Instant::now() + *patience.borrow() / 3;
            }
        }
    }
}
