//! The subscribing connection against a real mosquitto: order, acknowledgement, outages, stalls, sizes, the end. And the
//! publishing one, in its own module.

mod broker {
    pub(crate) mod proxy;
    mod publication;
    mod security;
}

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use edgehold_core::{ByteBudget, Shutdown, TopicFilter};
use edgehold_mqtt::{Body, ConnectionSettings, ConnectionState, Incoming, Qos, Subscription};
use edgehold_test_support::{
    Mosquitto, MqttPublisher, MqttSubscriber, Port, Qos as PublishQos, unique_name,
    wait::{LONG, until},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::broker::proxy::{DISCONNECT, PINGREQ, PUBACK, PUBCOMP, PUBREC, Proxy, SUBSCRIBE, UNSUBSCRIBE};

const TOPIC: &str = "edgex/events/device/x";

/// A subscription that runs.
struct Running {
    incoming: mpsc::Receiver<Incoming>,
    state: watch::Receiver<ConnectionState>,
    granted: watch::Receiver<Option<Qos>>,
    published_lower: watch::Receiver<Option<String>>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
    budget: ByteBudget,
}

struct Options {
    qos: Qos,
    keep_session: bool,
    keep_alive: Duration,
    max_message_bytes: usize,
    budget: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            qos: Qos::AtLeastOnce,
            keep_session: true,
            keep_alive: Duration::from_secs(10),
            max_message_bytes: 64 * 1024 * 1024,
            budget: 16 * 1024 * 1024,
        }
    }
}

impl Options {
    fn settings(&self, port: u16, client_id: &str) -> ConnectionSettings {
        let mut settings = ConnectionSettings::new("127.0.0.1", port, client_id);
        settings.clean_session = !self.keep_session;
        settings.keep_alive = self.keep_alive;
        settings.max_message_bytes = self.max_message_bytes;
        settings
    }

    /// Returns when the subscription stands.
    async fn start(self, port: u16) -> Running {
        let settings = self.settings(port, &unique_name("subscription"));
        let mut running = self.run(&settings);
        running.subscribed().await;
        running
    }

    fn run(&self, settings: &ConnectionSettings) -> Running {
        self.run_for(settings, &["edgex/#"], &[])
    }

    fn run_for(&self, settings: &ConnectionSettings, filters: &[&str], former: &[&str]) -> Running {
        let parsed = |filters: &[&str]| {
            let filters = filters.iter().map(|filter| TopicFilter::try_new(filter).unwrap());
            filters.collect::<Vec<_>>()
        };
        let budget = ByteBudget::new(self.budget);
        let (subscription, incoming) =
            Subscription::try_new(settings, parsed(filters), self.qos, budget.clone()).unwrap();
        let subscription = subscription.with_former_filters(parsed(former));
        let (state, granted) = (subscription.state(), subscription.granted());
        let published_lower = subscription.published_lower();
        let (shutdown, signal) = Shutdown::new();
        #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
        let task = tokio::spawn(subscription.run(signal));
        Running {
            incoming,
            state,
            granted,
            published_lower,
            shutdown,
            task,
            budget,
        }
    }
}

impl Running {
    async fn subscribed(&mut self) {
        let subscribed = self.state.wait_for(|state| *state == ConnectionState::Subscribed);
        timeout(LONG, subscribed)
            .await
            .expect("subscribed in time")
            .expect("it runs");
    }

    async fn next(&mut self) -> Incoming {
        timeout(LONG, self.incoming.recv())
            .await
            .expect("a message in time")
            .expect("it runs")
    }

    async fn expect(&mut self, payload: &str) -> Incoming {
        let incoming = self.next().await;
        assert_eq!(text(&incoming), payload);
        incoming
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn text(incoming: &Incoming) -> &str {
    match &incoming.body {
        Body::Whole(payload) => std::str::from_utf8(payload).expect("tests publish text"),
        Body::SetAside { bytes, .. } => panic!("a message of {bytes} bytes was set aside"),
    }
}

async fn publish(broker: &Mosquitto, payloads: impl IntoIterator<Item: AsRef<[u8]>>) {
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    let messages = payloads.into_iter().map(|payload| (TOPIC, payload));
    publisher
        .publish_all(messages, PublishQos::AtLeastOnce)
        .await
        .unwrap();
}

async fn acknowledged(proxy: &Proxy, connection: usize, count: usize) -> Vec<u16> {
    until("the acknowledgements", LONG, async || {
        let said = proxy.said(PUBACK);
        let ids: Vec<_> = said
            .iter()
            .filter(|said| said.connection == connection)
            .map(|said| said.packet_id)
            .collect();
        (ids.len() >= count).then_some(ids)
    })
    .await
}

#[tokio::test]
async fn messages_come_in_order_at_either_quality_of_service() {
    let broker = Mosquitto::start().await.unwrap();
    for (qos, published) in [
        (Qos::AtMostOnce, PublishQos::AtMostOnce),
        (Qos::ExactlyOnce, PublishQos::ExactlyOnce),
    ] {
        // Given a subscription, of which QoS 2 is lowered
        let mut running = Options {
            qos,
            ..Options::default()
        }
        .start(broker.port())
        .await;

        // When 2,000 messages are published
        let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
        for first in (0..2_000).step_by(20) {
            // Mosquitto cuts off whoever begins more QoS 2 messages than this at a time.
            let messages = (first..first + 20).map(|n| (TOPIC, n.to_string()));
            publisher.publish_all(messages, published).await.unwrap();
        }

        // Then they come in that order, and giving each back lets the next ones come
        for n in 0..2_000 {
            let incoming = running.expect(&n.to_string()).await;
            assert_eq!(incoming.topic, TOPIC);
            incoming.ack.done();
        }
    }
}

#[tokio::test]
async fn only_what_is_done_is_acknowledged_and_in_the_order_of_receipt() {
    // Given five messages in hand
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let mut running = Options::default().start(proxy.port()).await;
    publish(&broker, ["1", "2", "3", "4", "5"]).await;
    let first = running.expect("1").await;
    let second = running.expect("2").await;
    let third = running.expect("3").await;
    let fourth = running.expect("4").await;
    let fifth = running.expect("5").await;

    // When three are done in another order, and the fourth is dropped
    third.ack.done();
    second.ack.done();
    drop(fourth);
    first.ack.done();

    // Then the acknowledgements are in the order of receipt
    let ids = acknowledged(&proxy, 1, 3).await;
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert!(ids.is_sorted(), "{ids:?}");

    // And after a cut the dropped one comes again, the one still in hand does not, nor do the acknowledged ones
    proxy.cut();
    running.expect("4").await.ack.done();
    publish(&broker, ["6"]).await;
    running.expect("6").await.ack.done();
    fifth.ack.done();
    let again = acknowledged(&proxy, 2, 3).await;
    assert_eq!(
        again[..2],
        [ids[2] + 1, ids[2] + 2],
        "the fourth and the fifth, under their old ids"
    );

    // And nothing is left
    proxy.cut();
    publish(&broker, ["7"]).await;
    running.expect("7").await;
}

#[tokio::test]
async fn an_acknowledgement_of_an_old_connection_reaches_no_message_of_the_new_one() {
    // Given a message of a session that was lost, in hand
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let mut running = Options {
        keep_session: false,
        ..Options::default()
    }
    .start(proxy.port())
    .await;
    publish(&broker, ["old"]).await;
    let old = running.expect("old").await;
    proxy.cut();
    until("the new connection", LONG, async || proxy.connections() == 2).await;
    running.subscribed().await;

    // When one of the new session has the same packet id and the old one is done
    publish(&broker, ["new"]).await;
    let new = running.expect("new").await;
    old.ack.done();
    publish(&broker, ["probe"]).await;
    let probe = running.expect("probe").await;

    // Then that acknowledges nothing
    assert_eq!(proxy.said(PUBACK), []);
    new.ack.done();
    probe.ack.done();
    let ids = acknowledged(&proxy, 2, 2).await;
    assert_eq!(ids.len(), 2, "{ids:?}");
}

#[tokio::test]
async fn after_a_restart_of_the_broker_it_is_back_in_time_and_what_is_in_hand_is_not_processed_twice() {
    // Given a message in hand, and a broker that has been away for long enough to be asked seldom
    let mut broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let mut running = Options::default().start(proxy.port()).await;
    publish(&broker, ["acknowledged", "in hand"]).await;
    running.expect("acknowledged").await.ack.done();
    let in_hand = running.expect("in hand").await;
    acknowledged(&proxy, 1, 1).await;
    broker.stop().await.unwrap();
    until("seven attempts", LONG, async || proxy.connections() >= 8).await;

    // When it returns
    broker.restart().await.unwrap();
    let returned = Instant::now();
    running.subscribed().await;

    // Then the connection stands within three seconds
    assert!(
        returned.elapsed() < Duration::from_secs(3),
        "{:?}",
        returned.elapsed()
    );

    // And the message in hand is not handed over again, but acknowledged when it is done
    publish(&broker, ["after"]).await;
    let after = running.expect("after").await;
    in_hand.ack.done();
    after.ack.done();
    acknowledged(&proxy, proxy.connections(), 2).await;
}

#[tokio::test]
async fn a_stalled_consumer_starves_no_keep_alive_and_loses_nothing() {
    for qos in [PublishQos::AtMostOnce, PublishQos::AtLeastOnce] {
        // Given room for ten messages and a keep-alive of one second
        let broker = Mosquitto::start().await.unwrap();
        let proxy = Proxy::start(broker.port()).await;
        let keep_alive = Duration::from_secs(1);
        let options = Options {
            keep_alive,
            budget: 14_000,
            ..Options::default()
        };
        let mut running = options.start(proxy.port()).await;
        let body = |n: usize| format!("{n:01000}");
        let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
        publisher
            .publish_all((0..10_000).map(|n| (TOPIC, body(n))), qos)
            .await
            .unwrap();

        // When nobody takes any for more than two keep-alives, after which the broker would have given up
        let before = proxy.said(PINGREQ).len();
        until("four pings", LONG, async || {
            proxy.said(PINGREQ).len() >= before + 4
        })
        .await;

        // And a few are taken between one keep-alive and the next, so that answers to pings wait behind the rest
        let mut taken = 0;
        for _ in 0..4 {
            for _ in 0..20 {
                running.expect(&body(taken)).await.ack.done();
                taken += 1;
            }
            let before = proxy.said(PINGREQ).len();
            until("one more ping", LONG, async || proxy.said(PINGREQ).len() > before).await;
        }

        // Then the connection is still the first one, and everything comes in order
        for n in taken..10_000 {
            running.expect(&body(n)).await.ack.done();
        }
        assert_eq!(proxy.connections(), 1);

        // And pings go on as before
        let before = proxy.said(PINGREQ).len();
        until("two more pings", LONG, async || {
            proxy.said(PINGREQ).len() >= before + 2
        })
        .await;
        assert_eq!(proxy.connections(), 1);
    }
}

#[tokio::test]
async fn the_budget_bounds_what_is_in_hand_under_load() {
    // Given a budget of 1 MiB
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let budget = 1024 * 1024;
    let keep_alive = Duration::from_secs(1);
    let mut running = Options {
        budget,
        keep_alive,
        ..Options::default()
    }
    .start(proxy.port())
    .await;

    // When 50,000 messages of 1 KB come and all that is handed over is kept
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    let payload = Bytes::from(vec![b'x'; 1_000]);
    let messages = (0..50_000).map(|_| (TOPIC, &payload));
    publisher
        .publish_all(messages, PublishQos::AtMostOnce)
        .await
        .unwrap();
    let mut kept = Vec::new();
    while running.budget.available() > 2_000 || !running.incoming.is_empty() {
        kept.push(running.next().await);
    }
    let before = proxy.said(PINGREQ).len();
    until("two pings", LONG, async || {
        proxy.said(PINGREQ).len() >= before + 2
    })
    .await;

    // Then no more comes than fits, and what is not read stays with the broker
    assert!(running.incoming.is_empty());
    let bytes: usize = kept.iter().map(|incoming| text(incoming).len()).sum();
    assert!(bytes <= 1024 * 1024 && bytes > 700_000, "{bytes} bytes in hand");
    let read = proxy.bytes_to_client();
    assert!(
        read < 25_000_000,
        "{read} of 50,000,000 bytes were taken from the broker"
    );

    // And giving it back lets the rest come
    let already = kept.len();
    drop(kept);
    for _ in already..50_000 {
        running.next().await;
    }
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn large_messages_of_a_kept_session_get_through() {
    // Given a session with nobody connected, for which large messages wait
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let options = Options::default();
    let settings = options.settings(proxy.port(), &unique_name("subscription"));
    let mut running = options.run(&settings);
    running.subscribed().await;
    running.shutdown.trigger();
    until("the end", LONG, async || running.task.is_finished()).await;
    let payloads = ["a".repeat(12_000), "b".repeat(10_000_000), "c".to_owned()];
    publish(&broker, &payloads).await;

    // When it connects
    let mut running = options.run(&settings);

    // Then all come at the first try, although one is larger than half the budget
    for payload in &payloads {
        let incoming = running.next().await;
        assert!(
            text(&incoming) == payload,
            "another payload of {} bytes",
            text(&incoming).len()
        );
        incoming.ack.done();
    }
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn a_message_over_the_limit_is_set_aside_and_the_next_one_arrives() {
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let max_message_bytes = 1_000;
    let mut running = Options {
        max_message_bytes,
        ..Options::default()
    }
    .start(proxy.port())
    .await;

    // When messages come that are over the limit, and far over it, between others
    let payloads = [10, 1_001, 1_000, 300_000, 20, 200_000, 30].map(|length| "x".repeat(length));
    publish(&broker, &payloads).await;

    // Then all come in order, the large ones without their content
    for payload in &payloads {
        let incoming = running.next().await;
        let expected = match payload.len() {
            bytes if bytes > max_message_bytes => Body::SetAside {
                bytes,
                limit: max_message_bytes,
            },
            _ => Body::Whole(Bytes::from(payload.clone())),
        };
        assert_eq!(incoming.body, expected);
        incoming.ack.done();
    }

    // And one new connection was enough, after which nothing comes again
    assert_eq!(proxy.connections(), 2);
    // A redelivery keeps its packet id, so each message has one of its own, whichever connection it was answered on.
    until("every message to be acknowledged", LONG, async || {
        let said = proxy.said(PUBACK);
        let ids: BTreeSet<_> = said.iter().map(|said| said.packet_id).collect();
        ids.len() == payloads.len()
    })
    .await;
    proxy.cut();
    publish(&broker, ["last"]).await;
    running.expect("last").await;
}

#[tokio::test]
async fn told_to_end_it_waits_for_what_is_in_hand_and_acknowledges_it() {
    // Given two messages in hand
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let options = Options::default();
    let client_id = unique_name("subscription");
    let mut running = options.run(&options.settings(proxy.port(), &client_id));
    running.subscribed().await;
    publish(&broker, ["1", "2"]).await;
    let first = running.expect("1").await;
    let second = running.expect("2").await;

    // When it is told to end, another message is published, and the first is done
    running.shutdown.trigger();
    publish(&broker, ["3"]).await;
    first.ack.done();
    acknowledged(&proxy, 1, 1).await;

    // Then it still runs, until the other one is dropped
    assert!(!running.task.is_finished());
    drop(second);
    until("the end", LONG, async || running.task.is_finished()).await;
    assert_eq!(proxy.said(DISCONNECT).len(), 1);
    assert!(
        running.incoming.recv().await.is_none(),
        "something was received after the end"
    );

    // And the next one to come finds what was not done
    let next = MqttSubscriber::resume(broker.port(), &client_id, "edgex/#", PublishQos::AtLeastOnce)
        .await
        .unwrap();
    let messages = next.wait_for(2, LONG).await;
    let payloads: Vec<_> = messages.iter().map(|message| &message.payload[..]).collect();
    assert_eq!(payloads, [b"2", b"3"]);
}

async fn publish_to(broker: &Mosquitto, messages: &[(&str, &str)]) {
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    let messages = messages.iter().copied();
    publisher
        .publish_all(messages, PublishQos::AtLeastOnce)
        .await
        .unwrap();
}

#[tokio::test]
async fn filters_of_an_earlier_start_are_unsubscribed_from_a_kept_session() {
    // Given a session that was subscribed to two filters, and messages to both while nobody is connected
    let (wanted, dropped) = ("edgex/a", "edgex/b");
    let broker = Mosquitto::start().await.unwrap();
    let options = Options::default();
    let settings = options.settings(broker.port(), &unique_name("subscription"));
    let end = async |mut running: Running| {
        running.subscribed().await;
        running.shutdown.trigger();
        until("the end", LONG, async || running.task.is_finished()).await;
    };
    end(options.run_for(&settings, &[wanted, dropped], &[])).await;
    publish_to(&broker, &[(wanted, "1"), (dropped, "queued before")]).await;

    // When the next start wants one of them
    let mut running = options.run_for(&settings, &[wanted], &[wanted, dropped]);
    running.subscribed().await;

    // Then what had been queued for the other comes and is acknowledged, and nothing published to it from now on
    running.expect("1").await.ack.done();
    running.expect("queued before").await.ack.done();
    publish_to(&broker, &[(dropped, "while it runs"), (wanted, "2")]).await;
    running.expect("2").await.ack.done();
    end(running).await;
    publish_to(&broker, &[(dropped, "while it is down"), (wanted, "3")]).await;
    let mut running = options.run_for(&settings, &[wanted], &[]);
    running.expect("3").await.ack.done();
}

#[tokio::test]
async fn a_new_session_has_nothing_to_unsubscribe_from() {
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let options = Options::default();
    let settings = options.settings(proxy.port(), &unique_name("subscription"));

    let mut running = options.run_for(&settings, &["edgex/a"], &["edgex/b"]);

    running.subscribed().await;
    assert_eq!(proxy.said(UNSUBSCRIBE), []);
}

#[tokio::test]
async fn what_the_broker_has_not_answered_is_asked_again_also_in_a_session_that_was_kept() {
    // Given a kept session, and connections that break before the broker has heard the subscription
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let client_id = unique_name("subscription");
    let before = MqttSubscriber::resume(broker.port(), &client_id, "edgex/b", PublishQos::AtLeastOnce);
    drop(before.await.unwrap());
    proxy.cut_instead_of(SUBSCRIBE);

    // When it connects again, then it subscribes and unsubscribes over the second connection
    let options = Options::default();
    let mut running = options.run_for(
        &options.settings(proxy.port(), &client_id),
        &["edgex/a"],
        &["edgex/b"],
    );
    running.subscribed().await;
    let connections = |kind| -> Vec<_> { proxy.said(kind).iter().map(|said| said.connection).collect() };
    assert_eq!(connections(SUBSCRIBE), [2]);
    assert_eq!(connections(UNSUBSCRIBE), [2]);
    publish_to(&broker, &[("edgex/b", "unwanted"), ("edgex/a", "wanted")]).await;
    running.expect("wanted").await.ack.done();
    acknowledged(&proxy, 2, 1).await;

    // And what was answered once is not asked again in the same session
    proxy.cut();
    until("the next connection", LONG, async || proxy.connections() == 3).await;
    running.subscribed().await;
    publish_to(&broker, &[("edgex/a", "after")]).await;
    running.expect("after").await.ack.done();
    assert_eq!(connections(SUBSCRIBE), [2]);
}

#[tokio::test]
async fn a_quality_of_service_lower_than_asked_for_is_known() {
    let broker = Mosquitto::builder().config("max_qos 0").start().await.unwrap();
    let running = Options::default().start(broker.port()).await;
    assert_eq!(*running.granted.borrow(), Some(Qos::AtMostOnce));

    let broker = Mosquitto::start().await.unwrap();
    let running = Options::default().start(broker.port()).await;
    assert_eq!(*running.granted.borrow(), Some(Qos::AtLeastOnce));
}

#[tokio::test]
async fn what_is_published_with_a_lower_quality_than_subscribed_for_is_known_by_its_topic() {
    for (qos, expected) in [(Qos::AtLeastOnce, Some("edgex/second")), (Qos::AtMostOnce, None)] {
        let broker = Mosquitto::start().await.unwrap();
        let options = Options {
            qos,
            ..Options::default()
        };
        let mut running = options.start(broker.port()).await;
        let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
        let lower = PublishQos::AtMostOnce;
        for (topic, qos) in [
            ("edgex/first", PublishQos::AtLeastOnce),
            ("edgex/second", lower),
            ("edgex/third", lower),
        ] {
            publisher.publish(topic, "x", qos).await.unwrap();
            running.next().await.ack.done();
        }
        assert_eq!(running.published_lower.borrow().as_deref(), expected, "{qos:?}");
    }
}

#[tokio::test]
async fn told_to_end_without_a_broker_it_ends() {
    let port = Port::hold().unwrap();
    let options = Options::default();
    let settings = options.settings(port.number(), &unique_name("subscription"));
    let running = options.run(&settings);
    running.shutdown.trigger();
    until("the end", LONG, async || running.task.is_finished()).await;
    assert_eq!(*running.state.borrow(), ConnectionState::Disconnected);
}

#[tokio::test]
async fn a_broker_that_comes_after_the_service_is_found() {
    // Given a service that was started first
    let mut broker = Mosquitto::start().await.unwrap();
    broker.stop().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let options = Options::default();
    let mut running = options.run(&options.settings(proxy.port(), &unique_name("subscription")));
    until("two attempts", LONG, async || proxy.connections() >= 2).await;

    // When the broker comes, then it subscribes
    broker.restart().await.unwrap();
    running.subscribed().await;
}

#[tokio::test]
async fn messages_left_over_from_a_session_with_qos_2_are_completed_even_across_a_cut() {
    // Given a session in which QoS 2 messages wait
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let client_id = unique_name("subscription");
    let before = MqttSubscriber::resume(broker.port(), &client_id, "edgex/#", PublishQos::ExactlyOnce)
        .await
        .unwrap();
    drop(before);
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    let messages = ["1", "2"].map(|payload| (TOPIC, payload));
    publisher
        .publish_all(messages, PublishQos::ExactlyOnce)
        .await
        .unwrap();

    // When the connection breaks in the middle of completing the first
    let options = Options::default();
    let mut running = options.run(&options.settings(proxy.port(), &client_id));
    let first = running.expect("1").await;
    let second = running.expect("2").await;
    proxy.cut_after(PUBREC);
    first.ack.done();
    until("the cut", LONG, async || proxy.connections() >= 2).await;
    second.ack.done();

    // Then both are completed in the end, and messages go on coming
    until("both completed", LONG, async || {
        let mut ids: Vec<_> = proxy.said(PUBCOMP).iter().map(|said| said.packet_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.len() == 2
    })
    .await;
    publish(&broker, ["3"]).await;
    running.expect("3").await;
}

#[tokio::test]
async fn filters_that_overlap_bring_a_message_once() {
    for qos in [PublishQos::AtMostOnce, PublishQos::AtLeastOnce] {
        let broker = Mosquitto::start().await.unwrap();
        let options = Options::default();
        let settings = options.settings(broker.port(), &unique_name("subscription"));
        let filters = [
            "edgex/#",
            "edgex/events/#",
            "edgex/+/device/x",
            "edgex/events/+/x",
        ];
        let mut running = options.run_for(&settings, &filters, &[]);
        running.subscribed().await;
        let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
        for payload in ["1", "2"] {
            publisher.publish(TOPIC, payload, qos).await.unwrap();
        }
        running.expect("1").await.ack.done();
        running.expect("2").await.ack.done();
    }
}
