//! The example with a store of its own: the suite of every custom store, and a whole service on a real server.

use std::collections::BTreeSet;

use edgehold::{Credentials, DatabaseSettings, StoreClient, client_conformance};
use edgehold_test_support::{Mosquitto, MqttPublisher, Nats, Qos, wait::LONG};
use serde_json::{Value, json};

use super::*;

#[path = "../../examples/jetstream_store/main.rs"]
#[expect(dead_code, reason = "its main is for a process of its own")]
mod jetstream_store;

const BUCKET: &str = "app-jetstream";

/// A store on a server of its own, which ends with it.
struct OnServer {
    store: Arc<dyn StoreClient>,
    _server: Nats,
}

impl StoreClient for OnServer {
    fn store<'a>(
        &'a self,
        objects: &'a [StoredObject],
    ) -> BoxFuture<'a, Vec<Result<StoredObjectId, StoreError>>> {
        self.store.store(objects)
    }

    fn retrieve_from_store<'a>(
        &'a self,
        service_key: &'a ServiceKey,
        after: Option<StoredObjectId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredObject>, StoreError>> {
        self.store.retrieve_from_store(service_key, after, limit)
    }

    fn update<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.update(objects)
    }

    fn remove_from_store<'a>(&'a self, ids: &'a [StoredObjectId]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.remove_from_store(ids)
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        self.store.disconnect()
    }
}

async fn open(server: &Nats) -> Result<Arc<dyn StoreClient>, StoreError> {
    let database = DatabaseSettings {
        kind: "jetstream".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        name: String::new(),
        timeout: LONG,
    };
    jetstream_store::factory(BUCKET)(database, Credentials::default()).await
}

async fn make_client() -> Arc<dyn StoreClient> {
    let server = Nats::start().await.unwrap();
    Arc::new(OnServer {
        store: open(&server).await.unwrap(),
        _server: server,
    })
}

client_conformance!(make_client);

/// The events of `numbers`, each with a device of its own.
async fn publish(broker: &Mosquitto, numbers: std::ops::Range<u64>) {
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    for number in numbers {
        let event: Value = serde_json::from_str(&EVENT.replace("pump-1", &format!("pump-{number}"))).unwrap();
        let correlation_id = format!("corr-{number}");
        let envelope =
            json!({ "correlationID": correlation_id, "contentType": "application/json", "payload": event });
        let topic = format!("edgex/events/device/d/Pump/pump-{number}/Level");
        publisher
            .publish(&topic, envelope.to_string(), Qos::AtLeastOnce)
            .await
            .unwrap();
    }
}

/// The devices whose events it has accepted.
fn devices(sink: &HttpSink) -> BTreeSet<String> {
    let accepted = sink
        .requests()
        .into_iter()
        .filter(|request| request.status == Some(200));
    accepted
        .map(|request| {
            request.json()["deviceName"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

#[tokio::test]
async fn what_cannot_be_exported_waits_in_the_bucket_and_leaves_with_the_next_run() {
    // Given the example with its own configuration, at servers of the test, its destination down
    let (broker, sink) = (
        Mosquitto::start().await.unwrap(),
        HttpSink::start().await.unwrap(),
    );
    let mut server = Nats::start().await.unwrap();
    sink.behave(Behaviour::status(503));
    let configuration = include_str!("../../examples/jetstream_store/configuration.yaml")
        .replace("Port: 1883", &format!("Port: {}", broker.port()))
        .replace("Port: 4222", &format!("Port: {}", server.port()))
        .replace("Port: 59791", "Port: 0")
        .replace("http://localhost:8080/events", &sink.url("/events"));
    let bench = Bench::new();
    bench.write("configuration.yaml", &configuration);
    let start = async || {
        let service =
            AppService::new(BUCKET).with_custom_store("JetStream", jetstream_store::factory(BUCKET));
        service.unwrap().build(&bench.invocation()).await.unwrap().spawn()
    };
    let running = start().await;

    // When events come, then they are in the bucket
    wait::until("events are stored", LONG, async || {
        publish(&broker, 1..2).await;
        waiting(&running).await > 0
    })
    .await;
    publish(&broker, 2..20).await;
    wait::until("all events are stored", LONG, async || {
        waiting(&running).await >= 19
    })
    .await;

    // When the server restarts under it, more of them still find their way
    server.restart().await.unwrap();
    publish(&broker, 20..40).await;
    let stored = async || {
        let page = open(&server).await.unwrap();
        let service_key = ServiceKey::try_new(BUCKET).unwrap();
        page.retrieve_from_store(&service_key, None, 1000)
            .await
            .unwrap()
            .len()
    };
    wait::until("all events are in the bucket", LONG, async || {
        stored().await >= 39
    })
    .await;

    // Then the next run delivers each of them, and leaves nothing behind
    running.drain(Duration::from_secs(5)).await;
    sink.behave(Behaviour::status(200));
    let running = start().await;
    let wanted: BTreeSet<_> = (1..40).map(|number| format!("pump-{number}")).collect();
    wait::until("everything is delivered", LONG, async || devices(&sink) == wanted).await;
    wait::until("nothing waits", LONG, async || waiting(&running).await == 0).await;
    running.drain(Duration::from_secs(5)).await;
    assert_eq!(stored().await, 0);
}

#[tokio::test]
async fn an_object_too_large_for_the_server_is_named() {
    let server = Nats::builder().config("max_payload: 4KB").start().await.unwrap();
    let store = open(&server).await.unwrap();
    let answers = store.store(&[object(1, 4096)]).await;
    let error = answers[0].as_ref().unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    assert!(error.to_string().contains("max_payload is 4096"), "{error}");
}

#[tokio::test]
async fn a_bucket_at_its_limit_is_full_until_something_leaves() {
    let server = Nats::start().await.unwrap();
    let store = open(&server).await.unwrap();
    let mut client = server.client().await.unwrap();
    let info = client
        .jetstream("STREAM.INFO.KV_app-jetstream", &Value::Null)
        .await
        .unwrap();
    let mut config = info["config"].clone();
    config["max_bytes"] = json!(10_000);
    let answer = client
        .jetstream("STREAM.UPDATE.KV_app-jetstream", &config)
        .await
        .unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
    let kept = store.store(&[object(1, 4096)]).await.remove(0).unwrap();
    let error = store.store(&[object(2, 4096)]).await.remove(0).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    store.remove_from_store(&[kept]).await.unwrap();
    store.store(&[object(2, 4096)]).await.remove(0).unwrap();
}

fn object(number: u64, bytes: usize) -> StoredObject {
    StoredObject {
        payload: vec![7; bytes].into(),
        ..edgehold::conformance::object(number)
    }
}
