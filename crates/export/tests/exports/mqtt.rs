//! `MQTTExport` against a real mosquitto.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, Mutex},
};

use edgehold_contracts::Generation;
use edgehold_core::{
    AppFunction, BoxFuture, Context, CorrelationId, Data, ErrorClass, Fault, Flow, FunctionError,
    FunctionRegistry, InvalidFunction, Parameters, PipelineId, Secret, SecretError, SecretProvider,
    SecretText, ServiceKey, Shutdown,
};
use edgehold_export::mqtt::{ConnectionRunner, Connections};
use edgehold_test_support::{
    Authority, Message, Mosquitto, MosquittoBuilder, MqttSubscriber, Qos, unique_name,
    wait::{LONG, until},
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{Given, PERSIST, bytes};

/// All secrets there are, to be exchanged while an export runs.
#[derive(Clone, Default)]
struct Secrets(Arc<Mutex<BTreeMap<String, Secret>>>);

impl Secrets {
    fn set(&self, keys: &[(&str, &str)]) {
        let secret = keys
            .iter()
            .map(|(key, value)| ((*key).to_owned(), SecretText::new(*value)));
        self.0.lock().unwrap().insert("mqtt".to_owned(), secret.collect());
    }
}

impl SecretProvider for Secrets {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        let secret = self.0.lock().unwrap().get(name).cloned();
        let unknown = || SecretError::UnknownName {
            name: name.to_owned(),
        };
        Box::pin(std::future::ready(secret.ok_or_else(unknown)))
    }
}

/// What a service has of the exports: their names, their connections, its secrets.
pub(super) struct Exports {
    registry: FunctionRegistry,
    secrets: Secrets,
    client_id: String,
    shutdown: Shutdown,
    runner: Option<ConnectionRunner>,
    task: Option<JoinHandle<()>>,
}

impl Exports {
    /// With connections that begin later.
    fn unstarted() -> Self {
        let (connections, runner) = Connections::new();
        let mut registry = FunctionRegistry::default();
        edgehold_export::register(&mut registry, connections);
        Self {
            registry,
            secrets: Secrets::default(),
            client_id: unique_name("export"),
            shutdown: Shutdown::new().0,
            runner: Some(runner),
            task: None,
        }
    }

    pub(super) fn start() -> Self {
        let mut exports = Self::unstarted();
        exports.run();
        exports
    }

    fn run(&mut self) {
        let runner = self.runner.take().expect("it runs once");
        let future = runner.run(Arc::new(self.secrets.clone()), self.shutdown.signal());
        #[expect(clippy::disallowed_methods, reason = "the handle is kept and aborted on drop")]
        let task = tokio::spawn(future);
        self.task = Some(task);
    }

    /// Later parameters replace earlier ones.
    pub(super) fn try_build(
        &self,
        address: &str,
        parameters: Given,
    ) -> Result<Arc<dyn AppFunction>, InvalidFunction> {
        let first = [
            ("BrokerAddress", address),
            ("Topic", "out"),
            ("ClientId", &self.client_id),
            ("Qos", "1"),
        ];
        let all = first.into_iter().chain(parameters.iter().copied());
        let (_, factory) = self.registry.resolve("MQTTExport")?;
        Ok(factory.build(&Parameters::new("MQTTExport", all))?.function)
    }

    fn build(&self, broker: &Mosquitto, parameters: Given) -> Arc<dyn AppFunction> {
        self.try_build(&broker.url(), parameters).unwrap()
    }

    /// Ends the connections as a service does.
    async fn end(&mut self) {
        self.shutdown.trigger();
        timeout(LONG, self.task.take().expect("it runs"))
            .await
            .unwrap()
            .unwrap();
    }
}

impl Drop for Exports {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn context() -> Context {
    Context::new(
        ServiceKey::try_new("app-test").unwrap(),
        PipelineId::default_pipeline(),
        CorrelationId::new("corr-1"),
        Generation::V4,
        Arc::new(Secrets::default()),
    )
}

async fn send(function: &Arc<dyn AppFunction>, data: &str) -> Result<Flow, FunctionError> {
    let mut ctx = context();
    let sent = function.call(&mut ctx, bytes(data));
    timeout(LONG, sent).await.expect("every wait ends")
}

#[track_caller]
fn sent(result: Result<Flow, FunctionError>) {
    match result {
        Ok(Flow::ContinueWithPipelineInput) => {}
        Ok(flow) => panic!("it hands on nothing, but answered {flow:?}"),
        Err(error) => panic!("the export failed: {}", error.chain()),
    }
}

async fn subscribed(broker: &Mosquitto, topic: &str) -> MqttSubscriber {
    MqttSubscriber::connect(broker.port(), topic, Qos::ExactlyOnce)
        .await
        .unwrap()
}

fn texts(messages: &[Message]) -> Vec<&[u8]> {
    messages.iter().map(|message| &*message.payload).collect()
}

fn telling() -> MosquittoBuilder {
    ["error", "warning", "notice"]
        .iter()
        .fold(Mosquitto::builder(), |builder, kind| {
            builder.config(&format!("log_type {kind}"))
        })
}

/// How often the broker has taken a connection of this client. It writes its lines in order: once that of a client that
/// connects now is there, so are all before it.
async fn connections(broker: &mut Mosquitto, client_id: &str) -> usize {
    let port = broker.port();
    let marker = format!("marker-{}", broker.process().line_count());
    MqttSubscriber::resume(port, &marker, "marker", Qos::AtMostOnce)
        .await
        .unwrap();
    broker.process().wait_for_line(&marker, LONG).await;
    let lines = broker.process().lines();
    let connected = |line: &&String| line.contains("New client connected") && line.contains(client_id);
    lines.iter().filter(connected).count()
}

#[tokio::test]
async fn a_message_goes_to_its_topic_with_its_qos_and_its_retained_flag() {
    let broker = Mosquitto::start().await.unwrap();
    let exports = Exports::start();
    let subscriber = subscribed(&broker, "out/#").await;
    let mut ctx = context();
    ctx.add_value("devicename", "pump-1");
    for (qos, retain) in [("0", "true"), ("1", "false"), ("2", "true")] {
        let parameters = [("Topic", "out/{DeviceName}"), ("Qos", qos), ("Retain", retain)];
        let function = exports.build(&broker, &parameters);
        sent(function.call(&mut ctx, bytes(qos)).await);
        assert!(function.hands_on_nothing());
    }
    let messages = subscriber.wait_for(3, LONG).await;
    let of = |qos: u8| {
        messages
            .iter()
            .find(|message| message.payload == qos.to_string())
            .unwrap()
    };
    for (level, qos) in [(0, Qos::AtMostOnce), (1, Qos::AtLeastOnce), (2, Qos::ExactlyOnce)] {
        assert_eq!((of(level).topic.as_str(), of(level).qos), ("out/pump-1", qos));
    }
    let later = subscribed(&broker, "out/#").await.wait_for(1, LONG).await;
    assert!(later[0].retained);
    assert_eq!(texts(&later), [b"2"], "the last retained one");
}

#[tokio::test]
async fn functions_with_one_client_id_share_one_connection_also_across_an_edit() {
    let mut broker = telling().start().await.unwrap();
    let exports = Exports::start();
    let subscriber = subscribed(&broker, "#").await;
    let other = exports.build(&broker, &[("Topic", "other")]);
    let mut current = exports.build(&broker, &[]);
    for _ in 0..20 {
        sent(send(&current, "1").await);
        sent(send(&other, "1").await);
        // As a change of the configuration does it: the new function is there before the old one goes.
        current = exports.build(&broker, &[("Retain", "false")]);
    }
    subscriber.wait_for(40, LONG).await;
    assert_eq!(connections(&mut broker, &exports.client_id).await, 1);
}

#[tokio::test]
async fn a_changed_setting_of_the_connection_takes_effect_without_a_fight() {
    let mut broker = telling().start().await.unwrap();
    let exports = Exports::start();
    let old = exports.build(&broker, &[]);
    sent(send(&old, "1").await);

    // A refused edit has built its function, but never calls it.
    drop(exports.build(&broker, &[("KeepAlive", "7s")]));
    sent(send(&old, "2").await);
    assert_eq!(connections(&mut broker, &exports.client_id).await, 1);

    let new = exports.build(&broker, &[("KeepAlive", "9s")]);
    for _ in 0..10 {
        sent(send(&new, "3").await);
        sent(send(&old, "4").await);
    }
    assert_eq!(connections(&mut broker, &exports.client_id).await, 2);
}

/// The rows "AutoReconnect=false", S3 and S4 of the weaknesses.
#[tokio::test]
async fn while_the_broker_is_away_messages_fail_at_once_and_go_out_when_it_is_back() {
    let mut broker = Mosquitto::start().await.unwrap();
    let exports = Exports::start();
    let parameters = [
        ("AutoReconnect", "false"),
        ("PreConnect", "true"),
        ("ConnectTimeout", "1h"),
        PERSIST,
    ];
    let function = exports.build(&broker, &parameters);
    sent(send(&function, "1").await);
    broker.stop().await.unwrap();
    let mut kept = 0;
    for _ in 0..100 {
        let mut ctx = context();
        let called = function.call(&mut ctx, Data::Text("2".to_owned()));
        let error = timeout(LONG, called)
            .await
            .expect("it must not wait")
            .unwrap_err();
        assert_eq!(
            (error.class(), error.fault()),
            (ErrorClass::Transient, Fault::Destination)
        );
        let destination = format!("tcp://{}@127.0.0.1:{}", exports.client_id, broker.port());
        assert_eq!(ctx.take_destination().unwrap().as_str(), destination);
        kept += usize::from(ctx.take_retry_data().is_some_and(|data| data.payload == "2"));
    }
    assert_eq!(kept, 100);

    broker.restart().await.unwrap();
    let subscriber = subscribed(&broker, "out").await;
    until("a message to get out", LONG, async || {
        send(&function, "3").await.map_err(|e| e.chain())
    })
    .await;
    let messages = subscriber.wait_for(1, LONG).await;
    assert_eq!(
        texts(&messages),
        [b"3"],
        "nothing that was reported as failed is sent later"
    );
}

#[tokio::test]
async fn a_broker_that_does_not_confirm_in_time_has_failed() {
    let broker = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let exports = Exports::start();
    let address = format!("tcp://{}", broker.local_addr().unwrap());
    let function = exports.try_build(&address, &[("ConnectTimeout", "1s")]).unwrap();
    let error = send(&function, "1").await.unwrap_err();
    assert_eq!(
        (error.class(), error.fault()),
        (ErrorClass::Transient, Fault::Destination)
    );
}

/// The row "connect under a lock: every waiting message serialises behind it". One after the other would take longer than
/// the longest wait of a test.
#[tokio::test]
async fn nobody_waits_for_the_wait_of_another() {
    let broker = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let exports = Exports::start();
    let address = format!("tcp://{}", broker.local_addr().unwrap());
    let function = exports.try_build(&address, &[("ConnectTimeout", "2s")]).unwrap();
    let mut callers = JoinSet::new();
    for _ in 0..40 {
        let function = function.clone();
        callers.spawn(async move { send(&function, "1").await.is_err() });
    }
    let failed = timeout(LONG, callers.join_all())
        .await
        .expect("all at the same time");
    assert_eq!(failed, [true; 40]);
}

#[tokio::test]
async fn the_will_has_its_own_qos_and_comes_when_the_connection_breaks() {
    let broker = Mosquitto::start().await.unwrap();
    let exports = Exports::start();
    let (out, gone) = (
        subscribed(&broker, "out").await,
        subscribed(&broker, "gone").await,
    );
    let will = [
        ("WillEnabled", "true"),
        ("WillTopic", "gone"),
        ("WillPayload", "bye"),
        ("WillQos", "2"),
        ("WillRetained", "true"),
    ];
    let function = exports.build(&broker, &will);
    sent(send(&function, "1").await);
    assert_eq!(
        out.wait_for(1, LONG).await[0].qos,
        Qos::AtLeastOnce,
        "not that of the will"
    );

    // When the process is gone without a goodbye
    drop(exports);

    let will = &gone.wait_for(1, LONG).await[0];
    assert_eq!((&*will.payload, will.qos), (&b"bye"[..], Qos::ExactlyOnce));
    assert!(subscribed(&broker, "gone").await.wait_for(1, LONG).await[0].retained);
}

#[tokio::test]
async fn a_service_that_ends_says_goodbye_and_loses_nothing() {
    let broker = Mosquitto::start().await.unwrap();
    let mut exports = Exports::start();
    let gone = subscribed(&broker, "gone").await;
    let will = [
        ("WillEnabled", "true"),
        ("WillTopic", "gone"),
        ("WillPayload", "bye"),
        PERSIST,
    ];
    let function = exports.build(&broker, &will);
    sent(send(&function, "1").await);
    exports.end().await;
    // What comes too late fails, and is kept.
    let mut ctx = context();
    let error = function.call(&mut ctx, bytes("2")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(ctx.take_retry_data().is_some());
    // Behind this nothing of the will can be on its way.
    let other = Exports::start();
    sent(send(&other.build(&broker, &[("Topic", "gone")]), "the end").await);
    assert_eq!(texts(&gone.wait_for(1, LONG).await), [b"the end"]);
}

#[tokio::test]
async fn a_corrected_password_counts_without_a_restart() {
    // Given a broker with passwords
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwords");
    std::fs::write(&file, "edge:right\n").unwrap();
    let hashed = Command::new("mosquitto_passwd")
        .arg("-U")
        .arg(&file)
        .status()
        .unwrap();
    assert!(hashed.success());
    let broker = Mosquitto::builder().config(&format!("password_file {}", file.display()));
    let broker = broker.start().await.unwrap();
    let exports = Exports::start();
    let mode = [
        ("AuthMode", "UsernamePassword"),
        ("SecretName", "mqtt"),
        ("ConnectTimeout", "1h"),
        PERSIST,
    ];
    let function = exports.build(&broker, &mode);

    // When the secret is missing, and then wrong
    for secret in [None, Some("wrong")] {
        if let Some(password) = secret {
            exports
                .secrets
                .set(&[("username", "edge"), ("password", password)]);
        }
        let expected = secret.map_or("no secret named", |_| "BadUserNamePassword");
        until("it to be told", LONG, async || match send(&function, "1").await {
            Err(error) if error.fault() == Fault::Destination => {
                let told = error.chain();
                let fits = told.contains(expected) || (secret.is_some() && told.contains("NotAuthorized"));
                if fits { Ok(()) } else { Err(told) }
            }
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    // Then the right one is taken up by the next attempt to connect
    exports
        .secrets
        .set(&[("username", "edge"), ("password", "right")]);
    until("it to go out", LONG, async || {
        send(&function, "1").await.map_err(|e| e.chain())
    })
    .await;
}

#[tokio::test]
async fn a_changed_secret_makes_the_connection_anew_with_the_next_message() {
    let mut broker = telling().start().await.unwrap();
    let exports = Exports::start();
    let mode = [("AuthMode", "usernamepassword"), ("SecretName", "mqtt")];
    let function = exports.build(&broker, &mode);
    for (user, connected) in [("first", 1), ("first", 1), ("second", 2), ("second", 2)] {
        exports.secrets.set(&[("username", user), ("password", "any")]);
        sent(send(&function, "1").await);
        assert_eq!(
            connections(&mut broker, &exports.client_id).await,
            connected,
            "{user}"
        );
    }
    let lines = broker.process().lines();
    assert!(lines.iter().any(|line| line.contains("u'second'")), "{lines:?}");
}

#[tokio::test]
async fn a_private_authority_and_a_client_certificate_open_a_tls_connection() {
    let authority = Authority::new().unwrap();
    let server = authority.issue("127.0.0.1").unwrap();
    let broker = Mosquitto::builder().tls(&authority, server).require_certificate();
    let broker = broker.start().await.unwrap();
    let client = authority.issue("edge").unwrap();
    let exports = Exports::start();
    let subscriber = subscribed(&broker, "out").await;
    let address = format!("ssl://127.0.0.1:{}", broker.secured_port());
    let mode = [
        ("AuthMode", "clientcert"),
        ("SecretName", "mqtt"),
        ("ConnectTimeout", "1h"),
    ];
    let function = exports.try_build(&address, &mode).unwrap();
    let with = |authority: &Authority| {
        exports.secrets.set(&[
            ("cacert", authority.pem()),
            ("clientcert", &client.pem),
            ("clientkey", &client.key),
        ]);
    };

    // Given the wrong authority
    with(&Authority::new().unwrap());
    let error = send(&function, "1").await.unwrap_err();
    assert_eq!(
        (error.class(), error.fault()),
        (ErrorClass::Transient, Fault::Destination),
        "{}",
        error.chain()
    );

    with(&authority);
    until("it to go out", LONG, async || {
        send(&function, "2").await.map_err(|e| e.chain())
    })
    .await;
    assert_eq!(texts(&subscriber.wait_for(1, LONG).await), [b"2"]);
}

/// The row "PreConnect blocks pipeline loading".
#[tokio::test]
async fn nobody_waits_for_pre_connect() {
    let mut broker = telling().start().await.unwrap();
    let mut exports = Exports::unstarted();
    // Nothing runs yet, and the pipeline is built all the same.
    let _function = exports.build(&broker, &[("PreConnect", "true")]);
    exports.run();
    let client_id = exports.client_id.clone();
    until(
        "it to connect without a message",
        LONG,
        async || match connections(&mut broker, &client_id).await {
            1 => Ok(()),
            other => Err(other.to_string()),
        },
    )
    .await;
}

#[tokio::test]
async fn what_can_never_be_published_is_kept_as_such() {
    let broker = Mosquitto::start().await.unwrap();
    let exports = Exports::start();
    for topic in ["out/{nope}", "out/{wild}"] {
        let function = exports.build(&broker, &[("Topic", topic), PERSIST]);
        let mut ctx = context();
        ctx.add_value("wild", "a/#");
        let error = function.call(&mut ctx, bytes("1")).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent, "{}", error.chain());
        assert!(ctx.take_retry_data().is_some());
    }
}
