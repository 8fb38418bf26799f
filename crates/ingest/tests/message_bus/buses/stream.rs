//! A JetStream stream and its consumer.

use edgehold_test_support::{
    NatsClient,
    wait::{LONG, until},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;

const KIND: Kind = Kind::JetStream(NatsFormat::Nats);

/// A service called `app`.
fn named() -> nats::StreamSettings {
    nats::StreamSettings {
        durable: Some("app".to_owned()),
        ..stream()
    }
}

fn settings(server: &Nats, topics: &str, stream: nats::StreamSettings) -> NatsBusSettings {
    NatsBusSettings {
        filters: subscribe_filters("edgex", topics).unwrap(),
        source: NatsSource::JetStream(stream),
        ..nats_settings(KIND, nats_connection(server))
    }
}

async fn service(server: Nats, topics: &str, stream: nats::StreamSettings) -> Bus {
    let settings = settings(&server, topics, stream);
    Bus::on_nats(KIND, settings, server).await
}

impl Bus {
    /// Ends the service, as when it is killed, and leaves the server.
    fn killed(self) -> Nats {
        self.trigger.task.abort();
        match self.server {
            Server::Nats(server) => server,
            Server::Redis(_) => unreachable!("Redis has no streams"),
        }
    }

    async fn client(&self) -> NatsClient {
        match &self.server {
            Server::Nats(server) => server.client().await.unwrap(),
            Server::Redis(_) => unreachable!("Redis has no streams"),
        }
    }

    /// What the server says of a consumer.
    async fn consumer(&self, name: &str) -> Value {
        let question = format!("CONSUMER.INFO.edgex.{name}");
        self.client()
            .await
            .jetstream(&question, &Value::Null)
            .await
            .unwrap()
    }

    async fn wait_acknowledged(&self, name: &str, number: u64) {
        until("the acknowledgement", LONG, async || {
            self.consumer(name).await["ack_floor"]["stream_seq"] == number
        })
        .await;
    }
}

/// A stream that has this consumer.
async fn make(server: &Nats, consumer: Value) {
    let mut client = server.client().await.unwrap();
    client.make_stream("edgex", &["edgex.>"]).await.unwrap();
    client.make_consumer("edgex", consumer).await.unwrap();
}

#[tokio::test]
async fn what_was_not_done_with_when_the_service_was_killed_comes_again_and_nothing_else() {
    // Given a server that waits two seconds for an answer, and three messages of which one is done with
    let server = Nats::start().await.unwrap();
    let consumer = json!({ "durable_name": "app", "ack_policy": "explicit", "ack_wait": 2_000_000_000,
        "filter_subject": "edgex.events.>", "deliver_policy": "new", "max_deliver": -1 });
    make(&server, consumer).await;
    let mut bus = service(server, "events/#", named()).await;
    for number in ["1", "2", "3"] {
        bus.publish("edgex/events/a", number, b"{}").await;
    }
    bus.next_message().await;
    let held = bus.next().await;
    bus.wait_acknowledged("app", 1).await;

    // When the service is killed, and something is published while it is away
    let server = bus.killed();
    drop(held);
    let mut client = server.client().await.unwrap();
    let headers = [("X-Correlation-ID", "4"), ("Content-Type", "application/json")];
    client.publish("edgex.events.a", &headers, b"{}").await.unwrap();

    // Then the next one gets the rest
    let mut bus = service(server, "events/#", named()).await;
    let mut came = Vec::new();
    for _ in 0..3 {
        came.push(bus.next_message().await.1);
    }
    came.sort_unstable();
    assert_eq!(came, ["2", "3", "4"]);
    bus.wait_acknowledged("app", 4).await;
    bus.end().await;
}

#[tokio::test]
async fn what_takes_long_is_not_delivered_again_meanwhile() {
    // Given a server with little patience
    let server = Nats::start().await.unwrap();
    let consumer = json!({ "durable_name": "app", "ack_policy": "explicit", "ack_wait": 900_000_000,
        "filter_subject": "edgex.events.>", "deliver_policy": "all", "max_deliver": -1 });
    make(&server, consumer).await;
    let mut bus = service(server, "events/#", named()).await;

    // When a message takes three times as long
    bus.publish("edgex/events/a", "slow", b"{}").await;
    let slow = bus.next().await;
    assert!(
        timeout(Duration::from_secs(3), bus.trigger.deliveries.recv())
            .await
            .is_err()
    );
    let consumer = bus.consumer("app").await;
    assert_eq!(consumer["num_ack_pending"], 1, "{consumer}");
    assert_eq!(consumer["num_redelivered"], 0, "{consumer}");

    // Then it is acknowledged when it is done
    slow.ack.done();
    bus.wait_acknowledged("app", 1).await;
    bus.end().await;
}

#[tokio::test]
async fn a_consumer_of_edgex_is_left_alone_and_read_beside() {
    let server = Nats::start().await.unwrap();
    let consumer = json!({ "durable_name": "app", "ack_policy": "none", "deliver_subject": "somewhere",
        "filter_subject": "edgex.events.>", "deliver_policy": "new" });
    make(&server, consumer).await;
    let mut server = server;
    for number in ["1", "2"] {
        let mut bus = service(server, "events/#", named()).await;
        bus.publish("edgex/events/a", number, b"{}").await;
        assert_eq!(bus.next_message().await.1, number);
        assert_eq!(
            bus.consumer("app").await["config"]["deliver_subject"],
            "somewhere"
        );
        let done = if number == "1" { 1 } else { 2 };
        bus.wait_acknowledged("app-edgehold", done).await;
        server = bus.killed();
    }
}

#[tokio::test]
async fn other_topics_in_the_settings_change_the_consumer() {
    let mut bus = service(Nats::start().await.unwrap(), "events/#", named()).await;
    bus.publish("edgex/events/a", "1", b"{}").await;
    assert_eq!(bus.next_message().await.1, "1");
    bus.wait_acknowledged("app", 1).await;
    let mut bus = service(bus.killed(), "events/#, telemetry/#", named()).await;
    bus.publish("edgex/elsewhere", "not for us", b"{}").await;
    bus.publish("edgex/telemetry/a", "2", b"{}").await;
    assert_eq!(bus.next_message().await.1, "2");
    bus.wait_acknowledged("app", 3).await;
    let mut bus = service(bus.killed(), "telemetry/#", named()).await;
    bus.publish("edgex/telemetry/a", "3", b"{}").await;
    assert_eq!(bus.next_message().await.1, "3");
    bus.end().await;
}

#[tokio::test]
async fn a_new_consumer_begins_where_the_settings_say() {
    for (word, topics, expected) in [
        ("new", "events/#", &["4"][..]),
        ("all", "events/#", &["1", "2", "3", "4"]),
        ("Last", "events/#", &["3", "4"]),
        ("lastpersubject", "events/#", &["2", "3", "4"]),
        ("lastpersubject", "events/a, events/b", &["2", "3", "4"]),
        ("", "events/#", &["4"]),
    ] {
        // Given a stream with three messages on two subjects
        let server = Nats::start().await.unwrap();
        let mut client = server.client().await.unwrap();
        client.make_stream("edgex", &["edgex.>"]).await.unwrap();
        for (subject, number) in [("a", "1"), ("b", "2"), ("a", "3")] {
            let headers = [("X-Correlation-ID", number), ("Content-Type", "application/json")];
            let subject = format!("edgex.events.{subject}");
            client.publish(&subject, &headers, b"{}").await.unwrap();
        }

        // When a consumer is made, then it gets of them what the settings say, and all that comes later
        let stream = nats::StreamSettings {
            deliver: nats::Deliver::from_setting(word),
            ..stream()
        };
        let mut bus = service(server, topics, stream).await;
        bus.publish("edgex/events/a", "4", b"{}").await;
        for number in expected {
            assert_eq!(bus.next_message().await.1, *number, "{word} {topics}");
        }
        bus.end().await;
    }
}

#[tokio::test]
async fn what_was_in_hand_at_a_kill_comes_again_within_seconds() {
    // Given a consumer that the service has made, and a message in hand
    let mut bus = service(Nats::start().await.unwrap(), "events/#", named()).await;
    let patience = bus.consumer("app").await["config"]["ack_wait"].as_u64().unwrap();
    assert!(patience <= 6_000_000_000, "{patience}");
    bus.publish("edgex/events/a", "1", b"{}").await;
    let held = bus.next().await;

    // When the service is killed, then the next one gets it, although nobody has answered
    let server = bus.killed();
    std::mem::forget(held);
    let mut bus = service(server, "events/#", named()).await;
    assert_eq!(bus.next_message().await.1, "1");
    bus.wait_acknowledged("app", 1).await;
    bus.end().await;
}

#[tokio::test]
async fn a_stream_that_is_missing_is_waited_for() {
    // Given no stream, and no right to make one
    let server = Nats::start().await.unwrap();
    let stream = nats::StreamSettings {
        auto_provision: false,
        ..named()
    };
    let trigger = NatsBusTrigger::try_new(settings(&server, "events/#", stream)).unwrap();
    let state = trigger.connection_state();
    let mut trigger = RunningTrigger::begin(trigger, state);
    trigger.is_kept_out(Duration::from_secs(1)).await;

    // When somebody makes it
    let mut client = server.client().await.unwrap();
    client.make_stream("other", &["edgex.events.>"]).await.unwrap();

    // Then it is read
    trigger.subscribed().await;
}

#[tokio::test]
async fn a_message_larger_than_a_pull_takes_comes_alone() {
    let server = Nats::start().await.unwrap();
    let settings = NatsBusSettings {
        budget: ByteBudget::new(100_000),
        ..settings(&server, "events/#", named())
    };
    let mut bus = Bus::on_nats(KIND, settings, server).await;
    for number in ["1", "2", "3"] {
        bus.publish("edgex/events/a", number, &vec![b'x'; 200_000]).await;
    }
    for number in ["1", "2", "3"] {
        assert_eq!(bus.next_message().await.1, number);
    }
    bus.end().await;
}
