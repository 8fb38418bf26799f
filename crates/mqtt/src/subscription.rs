//! A subscribing connection: receives, hands over, acknowledges, comes back.
//!
//! Owns one event loop and everything that is said over its connection. Publishes nothing: what is published goes
//! over a connection of its own, so that a full outgoing window can never hold back an acknowledgement.
//!
//! ```text
//!            ┌──────── connect ◄── wait (backoff) ◄── lost ─┐
//!            ▼                                              │
//!  subscribe, unsubscribe (until it is answered) ─► serve ──┤
//!                                                           └── told to end: last acknowledgements, DISCONNECT
//! ```
//!
//! While serving, one `select!` waits for whatever comes first: something to read, an [`Ack`] that was used, room for
//! what was read before, the end. Constraints that shaped it:
//!
//! - The library answers nothing from its request queue while its outgoing window is full, and sends queued requests
//!   one flush each. So nothing goes through that queue: replies are written to the connection between two polls, a
//!   batch with one flush, and a reply can never end up on another connection than its message.
//! - Not polling is the only backpressure there is, and would silence keep-alive too. So while stalled, pings are
//!   written from here. Their answers wait behind unread messages; the library, which takes a missing answer for a
//!   dead broker, is told not to.
//! - Everything read before a connection broke stays in the library's event list across the reconnect. It is taken
//!   out before, or it would be counted to the next connection.
//! - A session that the broker kept has the filters of an earlier start too, and nothing in MQTT tells which. So whoever
//!   remembers them says so ([`Subscription::with_former_filters`]), and those no longer wanted are unsubscribed.
//! - The library fails the connection for a packet over its limit, and the broker then sends the same packet again,
//!   for ever. The limit therefore is the largest message allowed, and when a larger one comes the limit is raised to
//!   let it through once more, without its payload: see [`Body::SetAside`].

use std::{
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use edgehold_core::{
    Ack, Body, ByteBudget, BytePermit, ConnectionState, ExponentialBackoff, Incoming, Outage, ShutdownSignal,
    TopicFilter,
};
use rumqttc::{
    ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, PubAck, PubComp, PubRec, Publish, QoS,
    Request, StateError, SubAck, Subscribe, SubscribeFilter, SubscribeReasonCode, Unsubscribe, mqttbytes,
};
use tokio::{
    select,
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    ConnectionSettings, InvalidConnectionSettings, Qos,
    ack_fifo::{AckFifo, Receipt, Reply},
    connect::{Failure, connect},
    hand_over::HandOver,
    settings::MAX_PACKET_BYTES,
    wire,
};

/// How long to wait at the end for the broker to close the connection, which shows that it has read everything.
const GOODBYE: Duration = Duration::from_secs(1);

/// The pause before a refused subscription is asked for again.
const ASK_AGAIN: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_secs(5), Duration::from_secs(320));

/// A connection that subscribes. Made by [`Subscription::try_new`], lives in [`Subscription::run`].
pub struct Subscription {
    event_loop: EventLoop,
    settings: ConnectionSettings,
    filters: Vec<TopicFilter>,
    /// What a kept session may still have subscribed beyond `filters`; empty once the broker has answered.
    former: Vec<TopicFilter>,
    qos: Qos,
    /// `host:port` and client id, for the log.
    broker: String,
    client_id: String,
    max_message_bytes: usize,
    write_timeout: Duration,
    replies: AckFifo,
    told: Arc<Notify>,
    hand_over: HandOver,
    fingerprint: RandomState,
    outage: Outage,
    /// What the current session has not been granted yet.
    lacking: Vec<TopicFilter>,
    /// Whether the broker has answered the last subscription.
    answered: bool,
    /// When to ask again for what it has refused, and how often it has done so in a row.
    ask_again: Option<Instant>,
    refusals: u32,
    /// Whether there was a connection yet.
    has_stood: bool,
    /// When the connection came to stand, or the attempt to make one began.
    since: Instant,
    next_ping: Instant,
    /// QoS 2 ids the broker wants to complete and the library does not know (see [`Subscription::lost`]).
    to_complete: Vec<u16>,
    state: watch::Sender<ConnectionState>,
    granted: watch::Sender<Option<Qos>>,
    published_lower: watch::Sender<Option<String>>,
}

impl Subscription {
    /// Checks the settings; nothing is opened yet. Messages that match one of `filters` come out of the receiver in
    /// the order of receipt, each with its share of `budget`. QoS 2 is lowered to 1.
    ///
    /// # Errors
    /// [`InvalidConnectionSettings`] when another attempt with the same settings cannot help.
    pub fn try_new(
        connection: &ConnectionSettings,
        filters: Vec<TopicFilter>,
        qos: Qos,
        budget: ByteBudget,
    ) -> Result<(Self, mpsc::Receiver<Incoming>), InvalidConnectionSettings> {
        if filters.is_empty() {
            return Err(InvalidConnectionSettings::NoFilter);
        }
        let options = connection.mqtt_options()?;
        // Nothing is ever put into the request queue.
        let mut event_loop = EventLoop::new(options, 1);
        event_loop.set_network_options(connection.network_options());
        let (hand_over, incoming) = HandOver::new(budget);
        let subscription = Self {
            event_loop,
            lacking: filters.clone(),
            filters,
            former: Vec::new(),
            qos: qos.min(Qos::AtLeastOnce),
            settings: connection.clone(),
            broker: format!("{}:{}", connection.host, connection.port),
            client_id: connection.client_id.clone(),
            max_message_bytes: connection.max_message_bytes,
            write_timeout: Duration::from_secs(connection.connect_timeout_secs()),
            replies: AckFifo::default(),
            told: Arc::new(Notify::new()),
            hand_over,
            fingerprint: RandomState::new(),
            outage: Outage::default(),
            answered: false,
            ask_again: None,
            refusals: 0,
            has_stood: false,
            since: Instant::now(),
            next_ping: Instant::now(),
            to_complete: Vec::new(),
            state: watch::Sender::new(ConnectionState::Disconnected),
            granted: watch::Sender::new(None),
            published_lower: watch::Sender::new(None),
        };
        Ok((subscription, incoming))
    }

    /// Says what earlier starts with this client id have subscribed to. Where the broker kept their session, those that
    /// are not among the filters any more are unsubscribed (MQTT 3.1.1 §3.10); [`ConnectionState::Subscribed`] comes after
    /// that. What the broker had queued for them before may still come.
    #[must_use]
    pub fn with_former_filters(mut self, former: Vec<TopicFilter>) -> Self {
        self.former = former;
        self.former.retain(|filter| !self.filters.contains(filter));
        self
    }

    /// Follows how the connection stands.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Follows the lowest quality of service the broker has granted to one of the filters; none before it has answered,
    /// and when it refused all of them. At most what was asked for.
    pub fn granted(&self) -> watch::Receiver<Option<Qos>> {
        self.granted.subscribe()
    }

    /// Follows whether something was published with QoS 0 although the broker has granted QoS 1: its topic, the first time
    /// it happens. A message comes with the lower quality of the two (MQTT 3.1.1 §3.8.4), and such a one is never
    /// delivered again.
    pub fn published_lower(&self) -> watch::Receiver<Option<String>> {
        self.published_lower.subscribe()
    }

    /// Connects, and receives until told to end or until the receiver of messages is dropped. A broker that is away,
    /// also at the start, is tried again for ever: at least every two seconds, logged once for each reason.
    ///
    /// Told to end, it receives nothing more, hands over what it has, waits until each message that wants an
    /// acknowledgement has had it or has been dropped, and disconnects. The caller bounds that time: dropping this
    /// future is safe at any moment, and what was not acknowledged will be delivered again.
    pub async fn run(mut self, mut shutdown: ShutdownSignal) {
        let nobody_takes = self.hand_over.nobody_takes();
        select! {
            () = self.stay_connected(&mut shutdown) => {}
            () = nobody_takes => {}
        }
    }

    async fn stay_connected(&mut self, shutdown: &mut ShutdownSignal) {
        let mut retry_at = Instant::now();
        while !shutdown.is_triggered() {
            let attempt = select! {
                attempt = self.connect(retry_at) => attempt,
                () = shutdown.recv() => break,
            };
            let ended = match attempt {
                Ok(session_present) => self.serve(session_present, shutdown).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => break,
                Err(error) => retry_at = self.lost(&error),
            }
        }
        self.state.send_replace(ConnectionState::Disconnected);
        // What was read is handed over, also when there was no connection any more to acknowledge it by.
        while self.hand_over.is_stalled() {
            self.hand_over.advance().await;
        }
    }

    /// One attempt, not before `retry_at`: whether the broker kept the session. Meanwhile what was read before goes on
    /// being handed over.
    async fn connect(&mut self, retry_at: Instant) -> Result<bool, Failure> {
        let Self {
            event_loop,
            settings,
            hand_over,
            since,
            ..
        } = self;
        let mut attempt = pin!(async {
            sleep_until(retry_at).await;
            *since = Instant::now();
            let answer = connect(event_loop, settings).await?;
            Ok(answer.session_present)
        });
        loop {
            select! {
                result = &mut attempt => return result,
                () = hand_over.advance() => {}
            }
        }
    }

    /// Everything between a connection that stands and its end.
    async fn serve(&mut self, session_present: bool, shutdown: &mut ShutdownSignal) -> Result<(), Failure> {
        self.replies.connected(session_present);
        self.since = Instant::now();
        self.next_ping = self.since + self.keep_alive();
        if self.outage.ends() {
            let Self {
                broker, client_id, ..
            } = &*self;
            info!(%broker, %client_id, session_present, "connected to the MQTT broker");
        }
        if !session_present {
            self.lacking = self.filters.clone();
            self.former.clear();
        }
        self.tell_state();
        self.subscribe().await?;
        for packet_id in std::mem::take(&mut self.to_complete) {
            self.write([Packet::PubComp(PubComp::new(packet_id))]).await?;
        }

        let mut ending = false;
        loop {
            while let Some(event) = self.event_loop.state.events.pop_front() {
                self.take(event, ending);
            }
            self.reply().await?;
            let stalled = self.hand_over.is_stalled();
            if ending && !stalled && self.replies.is_settled() {
                return Ok(self.disconnect().await?);
            }
            let pings = stalled && !self.keep_alive().is_zero();
            let ask_again = self.ask_again.filter(|_| !ending);
            // All of these may be dropped for another: `poll` has no request to lose, since none is ever queued, and
            // reads either a whole packet or none; the others are cancel-safe by their own word.
            select! {
                () = shutdown.recv(), if !ending => ending = true,
                () = self.told.notified() => {}
                () = self.hand_over.advance(), if stalled => {}
                () = sleep_until(self.next_ping), if pings => self.ping().await?,
                () = sleep_until(ask_again.unwrap_or(self.since)), if ask_again.is_some() => {
                    self.subscribe().await?;
                }
                event = self.event_loop.poll(), if !stalled => {
                    let event = event?;
                    self.take(event, ending);
                }
            }
            if stalled {
                // The answer to the library's last ping may be waiting unread.
                self.event_loop.state.await_pingresp = false;
            }
        }
    }

    /// Takes note of one event. Never waits.
    fn take(&mut self, event: Event, ending: bool) {
        match event {
            Event::Outgoing(Outgoing::PingReq) => self.next_ping = Instant::now() + self.keep_alive(),
            Event::Outgoing(_) => {}
            Event::Incoming(packet) => {
                // Whoever sends is alive, whether or not the answer to a ping is next.
                self.event_loop.state.await_pingresp = false;
                match packet {
                    // Unacknowledged, it will be delivered again to whoever comes next.
                    Packet::Publish(_) if ending => {}
                    Packet::Publish(publish) => self.receive(publish),
                    Packet::SubAck(answer) => self.subscribed(&answer),
                    Packet::UnsubAck(_) => self.unsubscribed(),
                    _ => {}
                }
            }
        }
    }

    fn receive(&mut self, publish: Publish) {
        let Publish {
            dup,
            qos,
            topic,
            pkid,
            payload,
            ..
        } = publish;
        let reply = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Reply::PubAck(pkid)),
            QoS::ExactlyOnce => Some(Reply::PubRec(pkid)),
        };
        let ack = match reply {
            None => {
                if self.published_lower.borrow().is_none() && *self.granted.borrow() == Some(Qos::AtLeastOnce)
                {
                    self.published_lower.send_replace(Some(topic.clone()));
                }
                Ack::none()
            }
            Some(reply) => {
                let fingerprint = self.fingerprint.hash_one((&topic, &payload));
                match self.replies.receive(reply, dup, fingerprint) {
                    Receipt::New(outcome) => {
                        let told = self.told.clone();
                        Ack::new(move |disposition| {
                            outcome.tell(disposition);
                            told.notify_one();
                        })
                    }
                    Receipt::Joined => {
                        debug!(%topic, packet_id = pkid, "delivered again while still in hand: joined");
                        return;
                    }
                }
            }
        };
        self.hand_over.push(Incoming {
            topic,
            body: Body::new(payload, self.max_message_bytes),
            ack,
            permit: BytePermit::none(),
        });
    }

    /// Asks for what this session lacks and gives back what it has too much: a connection may have broken before the
    /// answer, so what is not answered is asked again, also in a session that was kept.
    async fn subscribe(&mut self) -> Result<(), Failure> {
        self.ask_again = None;
        self.answered = self.lacking.is_empty();
        let subscribe = (!self.answered).then(|| {
            let filters = self.lacking.iter().map(|filter| SubscribeFilter {
                path: filter.as_str().to_owned(),
                qos: self.qos.into(),
            });
            Request::Subscribe(Subscribe::new_many(filters))
        });
        let unsubscribe = (!self.former.is_empty()).then(|| {
            let topics = self.former.iter().map(|filter| filter.as_str().to_owned());
            Request::Unsubscribe(Unsubscribe {
                pkid: 0,
                topics: topics.collect(),
            })
        });
        let mut packets = Vec::new();
        for request in [subscribe, unsubscribe].into_iter().flatten() {
            packets.extend(self.event_loop.state.handle_outgoing_packet(request)?);
        }
        Ok(self.write(packets).await?)
    }

    /// The broker's answer, one code for each filter in the order of asking. What it refused is asked for again: rights can
    /// change while a connection stands.
    fn subscribed(&mut self, answer: &SubAck) {
        let broker = &self.broker;
        let mut lowest = *self.granted.borrow();
        if self.lacking.len() == self.filters.len() {
            lowest = None;
        }
        let mut codes = answer.return_codes.iter();
        self.lacking.retain(|filter| match codes.next() {
            Some(SubscribeReasonCode::Success(granted)) => {
                if self.refusals > 0 {
                    info!(%broker, %filter, "the broker has accepted the subscription after all");
                }
                debug!(%broker, %filter, ?granted, "subscribed");
                let granted = Qos::from(*granted).min(self.qos);
                lowest = Some(lowest.map_or(granted, |lowest: Qos| lowest.min(granted)));
                false
            }
            Some(SubscribeReasonCode::Failure) | None => {
                if self.refusals == 0 {
                    warn!(
                        %broker, %filter,
                        "the broker refused the subscription: nothing comes by it; asking again"
                    );
                }
                true
            }
        });
        self.granted.send_replace(lowest);
        self.answered = true;
        if self.lacking.is_empty() {
            self.refusals = 0;
        } else {
            self.ask_again = Some(Instant::now() + ASK_AGAIN.after(self.refusals).pause());
            self.refusals += 1;
        }
        self.tell_state();
    }

    /// The broker's answer says nothing of single filters: there is no way in which it can refuse.
    fn unsubscribed(&mut self) {
        for filter in self.former.drain(..) {
            info!(broker = %self.broker, %filter, "unsubscribed from what is no longer in the settings");
        }
        self.tell_state();
    }

    fn tell_state(&self) {
        self.state
            .send_replace(match self.answered && self.former.is_empty() {
                true => ConnectionState::Subscribed,
                false => ConnectionState::Connected,
            });
    }

    /// Sends the acknowledgements that may go out now.
    async fn reply(&mut self) -> Result<(), ConnectionError> {
        let Some(first) = self.replies.release() else {
            return Ok(());
        };
        let rest = std::iter::from_fn(|| self.replies.release());
        let packets: Vec<_> = std::iter::once(first)
            .chain(rest)
            .map(|reply| match reply {
                Reply::PubAck(packet_id) => Packet::PubAck(PubAck::new(packet_id)),
                Reply::PubRec(packet_id) => Packet::PubRec(PubRec::new(packet_id)),
            })
            .collect();
        self.write(packets).await
    }

    async fn ping(&mut self) -> Result<(), ConnectionError> {
        self.next_ping = Instant::now() + self.keep_alive();
        self.write([Packet::PingReq]).await
    }

    /// Says goodbye, and waits a moment until the broker has closed the connection: closing it from here while unread
    /// messages are around would reset it, and could take the last acknowledgements along.
    async fn disconnect(&mut self) -> Result<(), ConnectionError> {
        self.write([Packet::Disconnect]).await?;
        let closed = async { while self.event_loop.poll().await.is_ok() {} };
        let _ = timeout(GOODBYE, closed).await;
        info!(broker = %self.broker, client_id = %self.client_id, "disconnected from the MQTT broker");
        Ok(())
    }

    /// Writes packets with one flush.
    async fn write(&mut self, packets: impl IntoIterator<Item = Packet>) -> Result<(), ConnectionError> {
        wire::write(&mut self.event_loop, self.write_timeout, packets).await
    }

    /// A connection, or an attempt to make one, has failed. Answers when the next attempt may begin.
    fn lost(&mut self, error: &Failure) -> Instant {
        // The packets that were read before the failing one.
        while let Some(event) = self.event_loop.state.events.pop_front() {
            self.take(event, false);
        }
        self.event_loop.clean();
        let stood = self.state.send_replace(ConnectionState::Disconnected) != ConnectionState::Disconnected;
        self.has_stood |= stood;
        let Self {
            event_loop,
            settings,
            broker,
            client_id,
            outage,
            since,
            to_complete,
            has_stood,
            ..
        } = self;

        if let Some(bytes) = over_the_limit(error, &event_loop.mqtt_options) {
            let limit = bytes.next_power_of_two().min(MAX_PACKET_BYTES);
            warn!(
                %broker, %client_id, bytes, limit = self.max_message_bytes,
                "a message is larger than MaxMessageBytes: connecting again to set it aside"
            );
            event_loop
                .mqtt_options
                .set_max_packet_size(limit, MAX_PACKET_BYTES);
            return Instant::now();
        }
        if let Failure::Connection(ConnectionError::MqttState(StateError::Unsolicited(packet_id))) = *error {
            // A QoS 2 message of an older session. The library does not remember it across connections and fails each
            // time the broker asks to complete it; completing it unasked ends that.
            to_complete.push(packet_id);
        }

        let life = if stood { since.elapsed() } else { Duration::ZERO };
        let news = outage.begins(&error.to_string(), life);
        match (news, stood) {
            (true, true) => warn!(%broker, %client_id, %error, "lost the connection to the MQTT broker"),
            (true, false) => warn!(%broker, %client_id, %error, "cannot connect to the MQTT broker yet"),
            (false, _) => debug!(%broker, %client_id, %error, "still no connection to the MQTT broker"),
        }
        // The time an attempt took counts: a host that swallows packets is asked as often as one that refuses them.
        let from = if stood { Instant::now() } else { *since };
        let delay = match settings.start_interval {
            Some(interval) if !*has_stood => interval,
            _ => outage.delay(RandomState::new().hash_one(())),
        };
        from + delay
    }

    fn keep_alive(&self) -> Duration {
        self.event_loop.mqtt_options.keep_alive()
    }
}

/// The size of the packet that broke the connection by being over the limit, if that is what happened and if the limit
/// can still be raised.
fn over_the_limit(error: &Failure, options: &MqttOptions) -> Option<usize> {
    match error {
        Failure::Connection(ConnectionError::MqttState(StateError::Deserialization(
            mqttbytes::Error::PayloadSizeLimitExceeded(bytes),
        ))) if *bytes > options.max_packet_size() && *bytes <= MAX_PACKET_BYTES => Some(*bytes),
        _ => None,
    }
}
