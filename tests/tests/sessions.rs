//! The session at the message bus: what is asked for when nobody says, what is said when it keeps less than Store and
//! Forward promises, and what becomes of topics that are taken out of the settings.
//!
//! From one file and the environment, without Consul.

use anyhow::{Context, Result, ensure};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{HttpSink, Mosquitto, MqttPublisher, Qos};

use crate::support::{
    Service, broker, each, envelope, event, publish, sent, start_subscribed, wait_accepted,
};

const QOS: &str = "MESSAGEBUS_OPTIONAL_QOS";
const CLEAN_SESSION: &str = "MESSAGEBUS_OPTIONAL_CLEANSESSION";
const PERSIST: &str = "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_PERSISTONERROR";
const ENABLED: &str = "WRITABLE_STOREANDFORWARD_ENABLED";
const TOPICS: &str = "TRIGGER_SUBSCRIBETOPICS";

/// What a service is started with beyond its file.
type Environment = &'static [(&'static str, &'static str)];

/// A service that exports everything by HTTP, with Store and Forward on and nothing said about the session.
fn service(broker: &Mosquitto, url: &str) -> Result<Service> {
    let service = Service::new()?;
    let folder = service.data_dir().join("res");
    std::fs::create_dir(&folder)?;
    let configuration = format!(
        "
Writable:
  StoreAndForward:
    Enabled: true
  Pipeline:
    ExecutionOrder: HTTPExport
    Functions:
      HTTPExport:
        Parameters:
          Method: post
          MimeType: application/json
          Url: {url}
          PersistOnError: true
Service:
  Host: 127.0.0.1
MessageBus:
  Type: mqtt
  Host: 127.0.0.1
  Port: {port}
  Optional:
    ClientId: app-session
Trigger:
  Type: edgex-messagebus
  SubscribeTopics: events/#
",
        port = broker.port()
    );
    std::fs::write(folder.join("configuration.yaml"), configuration)?;
    Ok(service
        .flag(&format!("-cd={}", folder.display()))
        .flag("-sk=app-session")
        .env("EDGEHOLD_GENERATION", "3"))
}

/// The warnings about the promise in a run from its start to its end, in which events published with this quality of
/// service have gone through.
async fn warnings(
    service: &mut Service,
    broker: &mut Mosquitto,
    sink: &HttpSink,
    qos: Qos,
) -> Result<Vec<String>> {
    start_subscribed(service, broker).await?;
    sink.take();
    let mut publisher = MqttPublisher::connect(broker.port()).await?;
    let messages = [1, 2].map(|number| (crate::support::TOPIC, envelope(&event(number))));
    publisher.publish_all(messages, qos).await?;
    wait_accepted(sink, 1..=2).await;
    service.stop().await?;
    let about = |line: &String| line.contains("level=WARN") && line.contains("Store and Forward is enabled");
    Ok(service.process().lines().into_iter().filter(about).collect())
}

#[tokio::test]
async fn one_warning_names_the_keys_by_which_store_and_forward_keeps_less_than_it_promises() -> Result<()> {
    const UNSURE: (&str, &str) = (QOS, "0");
    const CLEAN: (&str, &str) = (CLEAN_SESSION, "true");
    const DROPPED: (&str, &str) = (PERSIST, "false");
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let cases: &[(Environment, &[&str])] = &[
        (&[], &[]),
        (&[UNSURE], &["MessageBus/Optional/Qos"]),
        (&[CLEAN], &["MessageBus/Optional/CleanSession"]),
        (&[DROPPED], &["PersistOnError"]),
        (
            &[UNSURE, CLEAN, DROPPED],
            &[
                "MessageBus/Optional/Qos",
                "MessageBus/Optional/CleanSession",
                "PersistOnError",
            ],
        ),
        (&[(ENABLED, "false"), UNSURE, CLEAN, DROPPED], &[]),
    ];
    for (environment, keys) in cases {
        let mut service = service(&broker, &sink.url("/"))?;
        for (name, value) in *environment {
            service = service.env(name, value);
        }

        let warnings = warnings(&mut service, &mut broker, &sink, Qos::AtLeastOnce).await?;

        assert_eq!(
            warnings.len(),
            usize::from(!keys.is_empty()),
            "{environment:?}: {warnings:?}"
        );
        for (line, key) in warnings
            .iter()
            .flat_map(|line| keys.iter().map(move |key| (line, key)))
        {
            assert!(line.contains(key), "{environment:?}: {line}");
        }
        let others = [
            "MessageBus/Optional/Qos",
            "MessageBus/Optional/CleanSession",
            "PersistOnError",
        ];
        for other in others.iter().filter(|other| !keys.contains(other)) {
            assert!(
                !warnings.concat().contains(other),
                "{environment:?}: {warnings:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_that_grants_less_than_asked_is_warned_of_as_well() -> Result<()> {
    // Given a broker that carries QoS 0 only.
    let mut broker = Mosquitto::builder()
        .config("log_type subscribe")
        .config("max_qos 0")
        .start()
        .await?;
    let sink = HttpSink::start().await?;

    // Then that is said beside what the settings lack, and not at all without Store and Forward.
    let mut both = service(&broker, &sink.url("/"))?.env(PERSIST, "false");
    let both = warnings(&mut both, &mut broker, &sink, Qos::AtMostOnce).await?;
    assert_eq!(both.len(), 2, "{both:?}");
    let grants = |line: &&String| line.contains("grants QoS 0") && line.contains("MessageBus/Optional/Qos");
    assert_eq!(both.iter().filter(grants).count(), 1, "{both:?}");
    let mut off = service(&broker, &sink.url("/"))?
        .env(ENABLED, "false")
        .env(QOS, "1");
    let off = warnings(&mut off, &mut broker, &sink, Qos::AtMostOnce).await?;
    assert_eq!(off, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn events_published_with_less_than_is_subscribed_for_are_warned_of_once() -> Result<()> {
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let mut on = service(&broker, &sink.url("/"))?;
    let on = warnings(&mut on, &mut broker, &sink, Qos::AtMostOnce).await?;
    assert_eq!(on.len(), 1, "{on:?}");
    assert!(
        on[0].contains("QoS 0") && on[0].contains(crate::support::TOPIC),
        "{on:?}"
    );

    let mut off = service(&broker, &sink.url("/"))?
        .env(ENABLED, "false")
        .env(QOS, "1");
    let off = warnings(&mut off, &mut broker, &sink, Qos::AtMostOnce).await?;
    assert_eq!(off, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn the_session_is_kept_at_qos_1_while_store_and_forward_is_on_and_nothing_else_is_said() -> Result<()> {
    let sink = HttpSink::start().await?;
    let cases: [(Environment, char, char); 5] = [
        (&[], '1', '0'),
        (&[(ENABLED, "false")], '0', '1'),
        (&[(QOS, "0"), (CLEAN_SESSION, "true")], '0', '1'),
        (
            &[(ENABLED, "false"), (QOS, "1"), (CLEAN_SESSION, "false")],
            '1',
            '0',
        ),
        (&[(QOS, "2")], '1', '0'),
    ];
    for (environment, qos, clean) in cases {
        // Given a broker that says how it is connected to and subscribed to.
        let mut broker = broker().await?;
        let mut service = service(&broker, &sink.url("/"))?;
        for (name, value) in environment {
            service = service.env(name, value);
        }

        start_subscribed(&mut service, &mut broker).await?;

        let expected = format!(" app-session {qos} edgex/events/#");
        broker.process().wait_for_line(&expected, LONG).await;
        let expected = format!(" as app-session (p2, c{clean}, ");
        broker.process().wait_for_line(&expected, LONG).await;
        // And what cannot be had is said by its key.
        let lines = service.process().lines();
        let lowered =
            |line: &&String| line.contains("level=WARN") && line.contains("MessageBus/Optional/Qos is 2");
        assert_eq!(
            lines.iter().filter(lowered).count(),
            usize::from(environment.contains(&(QOS, "2"))),
            "{environment:?}"
        );
    }
    Ok(())
}

/// Publishes events to a topic that is subscribed to at first.
async fn publish_other(broker: &Mosquitto, number: u64) -> Result<()> {
    let mut publisher = MqttPublisher::connect(broker.port()).await?;
    let envelope = envelope(&event(number));
    publisher
        .publish("edgex/other/a/b/c/d", envelope, Qos::AtLeastOnce)
        .await
}

/// Waits until a service has given back what it no longer wants.
async fn unsubscribed(service: &mut Service) {
    service
        .process()
        .wait_for_line("unsubscribed from what is no longer", LONG)
        .await;
}

#[tokio::test]
async fn a_topic_taken_out_of_the_settings_fills_the_session_no_more() -> Result<()> {
    // Given a session that is subscribed to two topics, and an event of each that waits in it.
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let mut service = service(&broker, &sink.url("/"))?.env(TOPICS, "events/#,other/#");
    start_subscribed(&mut service, &mut broker).await?;
    service.stop().await?;
    publish_other(&broker, 1).await?;
    publish(broker.port(), 2..=2).await?;

    // When the next start wants one of them.
    let mut service = service.env(TOPICS, "events/#");
    start_subscribed(&mut service, &mut broker).await?;
    unsubscribed(&mut service).await;

    // Then what waited still comes, and of the other topic nothing more, neither while it runs nor while it is down.
    publish_other(&broker, 3).await?;
    publish(broker.port(), 4..=4).await?;
    wait_accepted(&sink, [1, 2, 4]).await;
    service.stop().await?;
    publish_other(&broker, 5).await?;
    publish(broker.port(), 6..=6).await?;
    start_subscribed(&mut service, &mut broker).await?;
    wait_accepted(&sink, [1, 2, 4, 6]).await;
    assert_eq!(sent(&sink), each([1, 2, 4, 6], 1));
    Ok(())
}

#[tokio::test]
async fn a_topic_taken_out_is_not_forgotten_by_a_crash_before_the_broker_has_answered() -> Result<()> {
    // Given a session that is subscribed to two topics.
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let mut service = service(&broker, &sink.url("/"))?.env(TOPICS, "events/#,other/#");
    start_subscribed(&mut service, &mut broker).await?;
    service.stop().await?;

    // When the next start, which wants one of them, finds no broker and is killed.
    broker.stop().await?;
    let mut service = service.env(TOPICS, "events/#");
    service.start().await?;
    let remembered = service.data_dir().join("app-session.subscriptions.json");
    let file = std::fs::read_to_string(&remembered).context("reading what is remembered")?;
    service.process().wait_for_line("cannot connect", LONG).await;
    service.kill9()?;

    // Then the start after that gives the other one back.
    assert!(file.contains("edgex/other/#"), "{file}");
    broker.restart().await?;
    start_subscribed(&mut service, &mut broker).await?;
    unsubscribed(&mut service).await;
    publish_other(&broker, 1).await?;
    publish(broker.port(), 2..=2).await?;
    wait_accepted(&sink, 2..=2).await;
    assert_eq!(sent(&sink), each(2..=2, 1));
    wait::until("the file to say so", LONG, async || {
        let file = std::fs::read_to_string(&remembered)?;
        ensure!(!file.contains("edgex/other/#"), "it is {file}");
        Ok(())
    })
    .await;
    Ok(())
}
