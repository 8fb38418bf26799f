//! The publishing connection: against a real mosquitto, and against a broker that answers as the test says.

use std::time::Duration;

use bytes::Bytes;
use edgehold_core::{ErrorClass, Shutdown};
use edgehold_mqtt::{ConnectionSettings, Publication, PublishError, Publisher, Qos};
use edgehold_test_support::{
    Mosquitto, MqttSubscriber, Port, Qos as SubscribeQos, unique_name,
    wait::{LONG, until},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::broker::proxy::{DISCONNECT, Proxy};

const TOPIC: &str = "edgex/out";
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;

/// A publication that runs.
struct Running {
    publisher: Publisher,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Running {
    fn start(settings: &ConnectionSettings) -> Self {
        let (publisher, publication) = Publication::try_new(settings).unwrap();
        let (shutdown, signal) = Shutdown::new();
        #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
        let task = tokio::spawn(publication.run(signal));
        Self {
            publisher,
            shutdown,
            task,
        }
    }

    /// Begins to publish at QoS 1.
    fn publish(&self, payload: &str) -> JoinHandle<Result<(), PublishError>> {
        let (publisher, payload) = (self.publisher.clone(), Bytes::copy_from_slice(payload.as_bytes()));
        #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
        tokio::spawn(async move { publisher.publish(TOPIC, payload, Qos::AtLeastOnce, false).await })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Settings with all the time a loaded machine may need.
fn patient(port: u16) -> ConnectionSettings {
    let mut settings = ConnectionSettings::new("127.0.0.1", port, unique_name("service"));
    settings.connect_timeout = LONG;
    settings
}

async fn result(publishing: JoinHandle<Result<(), PublishError>>) -> Result<(), PublishError> {
    timeout(LONG * 2, publishing)
        .await
        .expect("an answer in time")
        .expect("no panic")
}

/// A broker that accepts a connection and then does what the test says.
pub(super) struct Scripted(TcpListener);

impl Scripted {
    pub(super) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(super) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Answers the next connection that it is not authorized.
    async fn refuse(&self) {
        let (mut stream, _) = timeout(LONG, self.0.accept()).await.expect("in time").unwrap();
        assert_eq!(packet(&mut stream).await.0, CONNECT);
        stream.write_all(&[0x20, 2, 0, 5]).await.unwrap();
    }

    /// The next connection, accepted, and what its CONNECT said.
    pub(super) async fn accept(&self) -> (TcpStream, Vec<u8>) {
        let (mut stream, _) = timeout(LONG, self.0.accept()).await.expect("in time").unwrap();
        let (kind, connect) = packet(&mut stream).await;
        assert_eq!(kind, CONNECT);
        stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        (stream, connect)
    }
}

/// The next packet of less than 128 bytes: its type and body.
pub(super) async fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let read = async {
        let first = stream.read_u8().await.unwrap();
        let length = stream.read_u8().await.unwrap();
        assert!(length < 128, "tests send small packets");
        let mut body = vec![0; usize::from(length)];
        stream.read_exact(&mut body).await.unwrap();
        (first >> 4, body)
    };
    timeout(LONG, read).await.expect("a packet in time")
}

/// The packet id and payload of the next PUBLISH at QoS 1.
async fn published(stream: &mut TcpStream) -> (u8, String) {
    let (kind, body) = packet(stream).await;
    assert_eq!(kind, PUBLISH);
    let behind_topic = 2 + TOPIC.len();
    let payload = String::from_utf8(body[behind_topic + 2..].to_vec()).unwrap();
    (body[behind_topic + 1], payload)
}

#[tokio::test]
async fn messages_arrive_at_each_quality_of_service_and_are_kept_when_asked() {
    let broker = Mosquitto::start().await.unwrap();
    let subscriber = MqttSubscriber::connect(broker.port(), "edgex/#", SubscribeQos::ExactlyOnce)
        .await
        .unwrap();
    let running = Running::start(&patient(broker.port()));
    let qualities = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
    for (qos, payload) in qualities.into_iter().zip(["0", "1", "2"]) {
        running
            .publisher
            .publish(TOPIC, Bytes::from(payload), qos, qos == Qos::AtLeastOnce)
            .await
            .unwrap();
    }
    let messages = subscriber.wait_for(3, LONG).await;
    let seen: Vec<_> = messages
        .iter()
        .map(|m| (m.topic.as_str(), &m.payload[..], m.qos))
        .collect();
    assert_eq!(
        seen,
        [
            (TOPIC, &b"0"[..], SubscribeQos::AtMostOnce),
            (TOPIC, b"1", SubscribeQos::AtLeastOnce),
            (TOPIC, b"2", SubscribeQos::ExactlyOnce),
        ]
    );
    let later = MqttSubscriber::connect(broker.port(), "edgex/#", SubscribeQos::AtLeastOnce)
        .await
        .unwrap();
    let kept = later.wait_for(1, LONG).await;
    assert!(kept[0].retained);
    assert_eq!(kept[0].payload, "1");
}

#[tokio::test]
async fn many_publishers_share_the_connection_and_every_message_is_confirmed() {
    // More than the window and the channel hold together, several times
    const COUNT: usize = 600;
    let broker = Mosquitto::start().await.unwrap();
    let subscriber = MqttSubscriber::connect(broker.port(), "edgex/#", SubscribeQos::AtLeastOnce)
        .await
        .unwrap();
    let running = Running::start(&patient(broker.port()));
    let publishing: Vec<_> = (0..COUNT).map(|n| running.publish(&n.to_string())).collect();
    for publishing in publishing {
        result(publishing).await.unwrap();
    }
    let messages = subscriber.wait_for(COUNT, LONG).await;
    let mut numbers: Vec<usize> = messages
        .iter()
        .map(|message| std::str::from_utf8(&message.payload).unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_confirmation_reaches_its_own_publisher_in_whatever_order_it_comes() {
    // Given two messages on their way
    let broker = Scripted::start().await;
    let running = Running::start(&patient(broker.port()));
    let (mut stream, _) = broker.accept().await;
    let first = running.publish("first");
    let (first_id, payload) = published(&mut stream).await;
    assert_eq!(payload, "first");
    let second = running.publish("second");
    let (second_id, _) = published(&mut stream).await;

    // When the second is confirmed alone, then only its publisher hears of it
    stream.write_all(&[0x40, 2, 0, second_id]).await.unwrap();
    result(second).await.unwrap();
    assert!(!first.is_finished());

    // And its id is free again, while the first one's is not
    let third = running.publish("third");
    assert_eq!(published(&mut stream).await, (second_id, "third".to_owned()));
    stream
        .write_all(&[0x40, 2, 0, first_id, 0x40, 2, 0, second_id])
        .await
        .unwrap();
    result(first).await.unwrap();
    result(third).await.unwrap();
}

#[tokio::test]
async fn a_lost_connection_fails_what_is_on_its_way_and_sends_nothing_twice() {
    // Given a message the broker has and has not confirmed
    let broker = Scripted::start().await;
    let running = Running::start(&patient(broker.port()));
    let (mut stream, _) = broker.accept().await;
    let lost = running.publish("lost");
    published(&mut stream).await;

    // When the connection breaks, then its publisher hears of that
    drop(stream);
    let error = result(lost).await.unwrap_err();
    assert!(matches!(error, PublishError::ConnectionLost), "{error}");
    assert_eq!(error.class(), ErrorClass::Transient);

    // And over the next connection only the next message goes
    let next = running.publish("next");
    let (mut stream, _) = broker.accept().await;
    let (id, payload) = published(&mut stream).await;
    assert_eq!(payload, "next");
    stream.write_all(&[0x40, 2, 0, id]).await.unwrap();
    result(next).await.unwrap();
}

#[tokio::test]
async fn who_waited_in_vain_is_told_and_the_message_is_not_sent_later() {
    // Given a broker that is away
    let port = Port::hold().unwrap();
    let mut settings = patient(port.number());
    settings.connect_timeout = Duration::from_secs(1);
    let running = Running::start(&settings);

    // When a message cannot get out, then its publisher is told in time
    let error = result(running.publish("late")).await.unwrap_err();
    assert!(matches!(error, PublishError::TimedOut { .. }), "{error}");

    // And when a broker comes, then it gets only what is still waited for
    let number = port.number();
    drop(port);
    let broker = Scripted(TcpListener::bind(("127.0.0.1", number)).await.unwrap());
    let (mut stream, _) = broker.accept().await;
    let next = running.publish("next");
    let (id, payload) = published(&mut stream).await;
    assert_eq!(payload, "next");
    stream.write_all(&[0x40, 2, 0, id]).await.unwrap();
    result(next).await.unwrap();
}

#[tokio::test]
async fn while_the_broker_refuses_the_connection_messages_fail_at_once() {
    // Given a message that waits for a connection, with all the time there is
    let broker = Scripted::start().await;
    let running = Running::start(&patient(broker.port()));
    let early = running.publish("early");
    let again = running.publish("again");

    // When the broker answers that this client may not connect
    broker.refuse().await;

    // Then who waited is told, and who comes later does not wait
    for publishing in [early, again] {
        let error = result(publishing).await.unwrap_err();
        assert!(matches!(error, PublishError::Refused { .. }), "{error}");
        assert!(
            error.to_string().ends_with("' (NotAuthorized)"),
            "{error}: the client and the answer are named"
        );
        assert_eq!(error.class(), ErrorClass::Transient);
    }
    let error = result(running.publish("later")).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused { .. }), "{error}");

    // And as soon as it may connect, messages go out, and none of those before
    let (mut stream, _) = broker.accept().await;
    until("messages to go out", LONG, async || {
        let next = running
            .publisher
            .publish(TOPIC, Bytes::from("next"), Qos::AtMostOnce, false);
        next.await
    })
    .await;
    let (kind, body) = packet(&mut stream).await;
    assert_eq!(kind, PUBLISH);
    assert_eq!(body[2 + TOPIC.len()..], b"next"[..]);
}

#[tokio::test]
async fn a_message_waits_for_a_broker_that_comes_in_time() {
    let mut broker = Mosquitto::start().await.unwrap();
    broker.stop().await.unwrap();
    let proxy = Proxy::start(broker.port()).await;
    let running = Running::start(&patient(proxy.port()));
    let early = running.publish("early");
    until("two attempts", LONG, async || proxy.connections() >= 2).await;
    broker.restart().await.unwrap();
    result(early).await.unwrap();
}

#[tokio::test]
async fn it_connects_beside_the_service_with_a_session_of_its_own() {
    let broker = Scripted::start().await;
    let mut settings = ConnectionSettings::new("127.0.0.1", broker.port(), "app-test");
    settings.clean_session = false;
    let _running = Running::start(&settings.beside("pub"));
    let (_stream, connect) = broker.accept().await;
    // Protocol name and level, flags, keep-alive, client id (3.1.2)
    assert_eq!(connect[7] & 0b10, 0b10, "a clean session");
    assert_eq!(&connect[12..], b"app-test-pub");
}

#[tokio::test]
async fn told_to_end_it_sends_what_it_was_given_and_says_goodbye() {
    // Given a message that waits for its confirmation
    let broker = Scripted::start().await;
    let running = Running::start(&patient(broker.port()));
    let (mut stream, _) = broker.accept().await;
    let last = running.publish("last");
    let (id, _) = published(&mut stream).await;

    // When it is told to end, then it takes nothing more, and waits
    running.shutdown.trigger();
    until("nothing more is taken", LONG, async || {
        let next = running
            .publisher
            .publish(TOPIC, Bytes::new(), Qos::AtMostOnce, false);
        matches!(next.await, Err(PublishError::Ended))
    })
    .await;
    assert!(!running.task.is_finished());

    // And when the confirmation comes, then it disconnects
    stream.write_all(&[0x40, 2, 0, id]).await.unwrap();
    result(last).await.unwrap();
    loop {
        let (kind, _) = packet(&mut stream).await;
        if kind == DISCONNECT {
            break;
        }
        assert_eq!(kind, PUBLISH, "what was published before the end");
    }
    drop(stream);
    until("the end", LONG, async || running.task.is_finished()).await;
}

#[tokio::test]
async fn when_every_publisher_is_gone_it_ends_also_without_a_broker() {
    // Given a broker that is there, and one that is not
    let mut broker = Mosquitto::start().await.unwrap();
    for away in [false, true] {
        if away {
            broker.stop().await.unwrap();
        }
        let (publisher, publication) = Publication::try_new(&patient(broker.port())).unwrap();
        let (_shutdown, signal) = Shutdown::new();
        #[expect(clippy::disallowed_methods, reason = "a test keeps the handle")]
        let running = tokio::spawn(publication.run(signal));
        let published = publisher
            .clone()
            .impatient()
            .publish(TOPIC, Bytes::new(), Qos::AtLeastOnce, false)
            .await;
        assert_eq!(published.is_err(), away, "{published:?}");
        assert!(!running.is_finished());

        // When nobody can publish any more, then it ends by itself
        drop(publisher);
        tokio::time::timeout(LONG, running)
            .await
            .expect("it ends")
            .unwrap();
    }
}

#[tokio::test]
async fn what_no_packet_can_carry_is_refused_and_the_connection_stands() {
    let broker = Mosquitto::start().await.unwrap();
    let running = Running::start(&patient(broker.port()));
    let long = "t".repeat(65_536);
    for topic in ["", "a/+", "a/#", "a\0", &long] {
        let result = running
            .publisher
            .publish(topic, Bytes::new(), Qos::AtLeastOnce, false)
            .await;
        let error = result.unwrap_err();
        assert!(matches!(error, PublishError::InvalidTopic { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
    }
    let huge = Bytes::from(vec![0; 268_435_456]);
    let result = running
        .publisher
        .publish(TOPIC, huge, Qos::AtLeastOnce, false)
        .await;
    assert!(matches!(result, Err(PublishError::TooLarge { .. })));
    self::result(running.publish("one more")).await.unwrap();
}

#[tokio::test]
async fn who_is_impatient_learns_at_once_that_the_broker_is_away_and_when_it_is_back() {
    // Given a broker that was there and is gone
    let mut broker = Mosquitto::start().await.unwrap();
    let running = Running::start(&patient(broker.port()));
    let publisher = running.publisher.clone().impatient();
    let publish = async || {
        publisher
            .publish(TOPIC, Bytes::from_static(b"1"), Qos::AtLeastOnce, false)
            .await
    };
    publish().await.unwrap();
    broker.stop().await.unwrap();

    // When something is to be published, then it fails as soon as the broker was not found again, long before its time
    until("the broker to be away", LONG, async || match publish().await {
        Err(PublishError::Away { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    // And it works again when the broker is back
    broker.restart().await.unwrap();
    until("the broker to be back", LONG, async || publish().await).await;
}
