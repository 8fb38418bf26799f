//! A whole service built on the public builder alone: custom function, custom trigger, custom store.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use edgehold::{
    AppFunction, AppService, BoxFuture, Built, BuiltFunction, Context, CustomStoreFactory, Data,
    DeliverySender, Flow, FunctionError, Invocation, Parameters, Running, ServiceKey, ShutdownSignal,
    StartError, StoreClient, StoreError, StoredObject, StoredObjectId, Trigger, TriggerError,
};
use edgehold_test_support::{Answer, Behaviour, HttpSink, http, wait};
use tempfile::TempDir;

const CONFIGURATION: &str = "
Writable:
  LogLevel: INFO
  StoreAndForward:
    Enabled: true
    RetryInterval: 1s
    MaxRetryCount: 0
  Pipeline:
    ExecutionOrder: Deliver
    Functions:
      Deliver:
        Parameters:
          Greeting: hello
Service:
  Host: 127.0.0.1
  Port: 0
Trigger:
  Type: edgex-messagebus
  SubscribeTopics: events/#
Database:
  Type: Shelf
";

const EVENT: &str = r#"{"apiVersion":"v3","id":"0f0e0d0c-0000-4000-8000-000000000001","deviceName":"pump-1","profileName":"Pump","sourceName":"Level","origin":1700000000000000001,"readings":[{"origin":1700000000000000001,"deviceName":"pump-1","resourceName":"Level","profileName":"Pump","valueType":"Int64","value":"7"}]}"#;

/// Delivers once its switch is on.
struct Deliver {
    greeting: String,
    up: Arc<AtomicBool>,
    delivered: Arc<Mutex<Vec<String>>>,
}

impl AppFunction for Deliver {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(async move {
            if !self.up.load(Ordering::SeqCst) {
                ctx.set_retry_input(&data);
                return Err(FunctionError::transient("the destination is down"));
            }
            let device = ctx.value("devicename").unwrap_or_default();
            self.delivered
                .lock()
                .unwrap()
                .push(format!("{} {device}", self.greeting));
            Ok(Flow::Continue(data))
        })
    }
}

/// Delivers one event and waits for the end.
struct OneEvent;

impl Trigger for OneEvent {
    fn run(
        self: Box<Self>,
        deliveries: DeliverySender,
        mut shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        Box::pin(async move {
            let delivery = edgehold::Delivery {
                topic: "edgex/events/device/d/Pump/pump-1/Level".to_owned(),
                received: edgehold::Received::Message {
                    payload: EVENT.into(),
                    form: edgehold::PayloadForm::Bytes,
                    content_type: "application/json".to_owned(),
                    correlation_id: edgehold::CorrelationId::new("corr-1"),
                },
                ack: edgehold::Ack::none(),
                permit: edgehold::BytePermit::none(),
            };
            deliveries
                .send(delivery)
                .await
                .map_err(|_| TriggerError::Unavailable("nobody takes deliveries".to_owned()))?;
            shutdown.recv().await;
            Ok(())
        })
    }
}

/// A custom store in memory, shared by everyone who holds it: what it keeps outlives a service.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<BTreeMap<StoredObjectId, StoredObject>>>);

impl StoreClient for Shelf {
    fn store<'a>(
        &'a self,
        objects: &'a [StoredObject],
    ) -> BoxFuture<'a, Vec<Result<StoredObjectId, StoreError>>> {
        Box::pin(async move {
            let mut shelf = self.0.lock().unwrap();
            let keep = |object: &StoredObject| {
                shelf.insert(object.id, object.clone());
                Ok(object.id)
            };
            objects.iter().map(keep).collect()
        })
    }

    fn retrieve_from_store<'a>(
        &'a self,
        service_key: &'a ServiceKey,
        after: Option<StoredObjectId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(async move {
            let shelf = self.0.lock().unwrap();
            let wanted = shelf
                .values()
                .filter(|object| object.service_key == *service_key && after.is_none_or(|id| object.id > id));
            Ok(wanted.take(limit).cloned().collect())
        })
    }

    fn update<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut shelf = self.0.lock().unwrap();
            for object in objects {
                shelf.entry(object.id).and_modify(|kept| kept.clone_from(object));
            }
            Ok(())
        })
    }

    fn remove_from_store<'a>(&'a self, ids: &'a [StoredObjectId]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.0.lock().unwrap().retain(|id, _| !ids.contains(id));
            Ok(())
        })
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

struct Bench {
    folder: TempDir,
    shelf: Shelf,
    up: Arc<AtomicBool>,
    delivered: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("configuration.yaml"), CONFIGURATION).unwrap();
        Self {
            folder,
            shelf: Shelf::default(),
            up: Arc::default(),
            delivered: Arc::default(),
        }
    }

    fn invocation(&self) -> Invocation {
        self.invocation_with(&[], &[])
    }

    fn invocation_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Invocation {
        let folder = self.folder.path().display();
        let own = [format!("-cd={folder}"), format!("--data-dir={folder}/data")];
        let own = own.iter().map(String::as_str);
        let args = own.chain(args.iter().copied());
        let insecure = ("EDGEX_SECURITY_SECRET_STORE", "false");
        let environment = environment.iter().copied().chain([insecure]);
        Invocation::new(
            args.map(OsString::from),
            environment.map(|(name, value)| (name.into(), value.into())),
        )
        .unwrap()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    async fn build(&self, args: &[&str], environment: &[(&str, &str)]) -> Result<Built, StartError> {
        let invocation = self.invocation_with(args, environment);
        self.service().with_trigger(Idle).build(&invocation).await
    }

    fn service(&self) -> AppService {
        let (up, delivered) = (self.up.clone(), self.delivered.clone());
        let shelf = self.shelf.clone();
        let factory: CustomStoreFactory = Arc::new(move |_, _| {
            let client: Arc<dyn StoreClient> = Arc::new(shelf.clone());
            Box::pin(std::future::ready(Ok(client)))
        });
        AppService::new("app-sdk")
            .with_function("Deliver", move |parameters: &Parameters| {
                let greeting = parameters.required("greeting")?.to_owned();
                Ok(BuiltFunction::new(Deliver {
                    greeting,
                    up: up.clone(),
                    delivered: delivered.clone(),
                }))
            })
            .with_custom_store("shelf", factory)
            .unwrap()
    }
}

async fn waiting(running: &Running) -> u64 {
    running.status().await.store.map_or(0, |store| store.waiting())
}

#[tokio::test]
async fn a_custom_function_fails_into_a_custom_store_and_is_delivered_by_the_next_run() {
    // Given a service whose destination is down
    let bench = Bench::new();
    let built = bench
        .service()
        .with_trigger(OneEvent)
        .build(&bench.invocation())
        .await
        .unwrap();
    let port = built.rest_address().unwrap().port();
    let running = built.spawn();
    // When an event comes, it waits in the custom store
    wait::until("the event is stored", wait::LONG, async || {
        waiting(&running).await == 1
    })
    .await;
    let stats: serde_json::Value = http::get(port, "/api/v3/store/stats")
        .await
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(stats["books"]["stored"], 1, "{stats}");
    running.drain(Duration::from_secs(5)).await;
    assert_eq!(bench.shelf.0.lock().unwrap().len(), 1);
    // Then the next run delivers it as soon as the destination is up
    bench.up.store(true, Ordering::SeqCst);
    let running = bench
        .service()
        .with_trigger(Idle)
        .build(&bench.invocation())
        .await
        .unwrap()
        .spawn();
    wait::until("it is delivered", wait::LONG, async || {
        !bench.delivered.lock().unwrap().is_empty()
    })
    .await;
    wait::until("it has left the store", wait::LONG, async || {
        waiting(&running).await == 0
    })
    .await;
    running.drain(Duration::from_secs(5)).await;
    assert_eq!(*bench.delivered.lock().unwrap(), ["hello pump-1"]);
    assert!(bench.shelf.0.lock().unwrap().is_empty());
}

/// Waits for the end.
struct Idle;

impl Trigger for Idle {
    fn run(
        self: Box<Self>,
        deliveries: DeliverySender,
        mut shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        Box::pin(async move {
            shutdown.recv().await;
            drop(deliveries);
            Ok(())
        })
    }
}

#[tokio::test]
async fn a_pipeline_that_cannot_be_built_ends_the_start_and_is_named() {
    let bench = Bench::new();
    let broken = CONFIGURATION.replace("ExecutionOrder: Deliver", "ExecutionOrder: Deliver, Nonsense");
    fs::write(bench.folder.path().join("configuration.yaml"), broken).unwrap();
    let error = bench
        .service()
        .with_trigger(Idle)
        .build(&bench.invocation())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, StartError::Pipelines(_)), "{error}");
    assert_eq!(error.exit_code(), 255);
    assert!(
        error.to_string().contains("'Nonsense' is not configured"),
        "{error}"
    );
}

#[tokio::test]
async fn an_unknown_store_is_named_with_what_to_do() {
    let bench = Bench::new();
    fs::write(
        bench.folder.path().join("configuration.yaml"),
        CONFIGURATION.replace("Type: Shelf", "Type: mongodb"),
    )
    .unwrap();
    let error = bench
        .service()
        .with_trigger(Idle)
        .build(&bench.invocation())
        .await
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("Database/Type 'mongodb' is not built in; use 'sqlite'"),
        "{error}"
    );
}

const COMMON: &str = "
all-services:
  Service:
    StartupMsg: from afar
app-services:
  Writable:
    LogLevel: INFO
";

const FILES_SECRET: &str = "
  InsecureSecrets:
    Files:
      SecretName: files
      SecretData:
        type: httpheader
        headername: X-Key
        headercontents: let-me-in
";

/// Serves both files, to those who know the header when the address names the secret.
async fn file_server() -> HttpSink {
    let sink = HttpSink::start().await.unwrap();
    sink.script(|request| {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let text = match path {
            "/common.yaml" => COMMON,
            "/private.yaml" => CONFIGURATION,
            _ => return Behaviour::status(404),
        };
        match query.is_empty() || request.header("X-Key") == Some("let-me-in") {
            true => Answer::new(200).body(text).into(),
            false => Behaviour::status(401),
        }
    });
    sink
}

/// What a service shows of the two files.
async fn shown(built: Built) -> (String, String) {
    let port = built.rest_address().unwrap().port();
    let running = built.spawn();
    let answer: serde_json::Value = http::get(port, "/api/v3/config").await.unwrap().json().unwrap();
    running.drain(Duration::from_secs(5)).await;
    let config = &answer["config"];
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (
        text(&config["Service"]["StartupMsg"]),
        text(&config["Writable"]["Pipeline"]["Functions"]["Deliver"]["Parameters"]["Greeting"]),
    )
}

#[tokio::test]
async fn both_configuration_files_may_lie_behind_an_address() {
    let (bench, files) = (Bench::new(), file_server().await);
    let (common, private) = (files.url("/common.yaml"), files.url("/private.yaml"));

    let built = bench.build(&["-cc", &common, "-cf", &private], &[]).await;

    let expected = ("from afar".to_owned(), "hello".to_owned());
    assert_eq!(shown(built.unwrap()).await, expected);
}

#[tokio::test]
async fn an_address_may_name_a_secret_of_the_other_file() {
    // Given a secret in one file, and the other file behind an address that asks for it
    let (bench, files) = (Bench::new(), file_server().await);
    let uri = |path| files.url(&format!("{path}?edgexSecretName=files"));
    let private = CONFIGURATION.replacen("Writable:", &format!("Writable:{}", FILES_SECRET.trim_end()), 1);
    let private = bench.write("with-secret.yaml", &private);
    let common = COMMON.replace(
        "  Writable:",
        &format!("  Writable:{}", FILES_SECRET.replace('\n', "\n  ").trim_end()),
    );
    let common = bench.write("common.yaml", &common);
    let expected = ("from afar".to_owned(), "hello".to_owned());

    // Then it is sent along, whichever file is which
    let built = bench
        .build(&["-cc", &uri("/common.yaml"), "-cf", "with-secret.yaml"], &[])
        .await;
    assert_eq!(shown(built.unwrap()).await, expected, "{private}");
    let built = bench
        .build(&["-cc", &common, "-cf", &uri("/private.yaml")], &[])
        .await;
    assert_eq!(shown(built.unwrap()).await, expected);

    // And a secret that is nowhere else is named with where it should be
    let error = bench
        .build(&["-cf", &uri("/private.yaml")], &[])
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("of the other configuration file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_fetched_ends_the_start_and_is_named_without_its_password() {
    let (bench, files) = (Bench::new(), file_server().await);
    let uri = format!("http://user:pass@127.0.0.1:{}/absent.yaml?token=x", files.port());
    let error = bench.build(&["-cf", &uri], &[]).await.err().unwrap();
    assert_eq!(error.exit_code(), 1);
    let told = error.to_string();
    let expected = format!("http://127.0.0.1:{}/absent.yaml cannot be fetched", files.port());
    assert!(told.contains(&expected), "{told}");
    assert!(!told.contains("pass") && !told.contains("token"), "{told}");

    files.behave(Behaviour::Hang);
    let limit = [("EDGEX_FILE_URI_TIMEOUT", "50ms")];
    let error = bench.build(&["-cf", &files.url("/private.yaml")], &limit).await;
    assert!(matches!(error, Err(StartError::Configuration(_))));
}

#[tokio::test]
async fn a_stack_of_another_generation_ends_the_start_unless_the_check_is_skipped() {
    // Given an EdgeX 3.1 stack
    let bench = Bench::new();
    let core_metadata = HttpSink::start().await.unwrap();
    core_metadata.behave(
        Answer::new(200)
            .body(r#"{"apiVersion":"v3","version":"3.1.0"}"#)
            .into(),
    );
    let clients = format!(
        "Clients:\n  core-metadata:\n    Protocol: http\n    Host: 127.0.0.1\n    Port: {}\n",
        core_metadata.port()
    );
    bench.write("configuration.yaml", &format!("{CONFIGURATION}{clients}"));

    // When a service for EdgeX 4 is started, it does not start
    let error = bench.build(&[], &[]).await.err().unwrap();
    assert!(matches!(error, StartError::Version(_)), "{error}");
    assert_eq!(error.exit_code(), 255);
    assert!(error.to_string().contains("EdgeX 3.1.0"), "{error}");

    // Then one for EdgeX 3 does, and one that does not ask, and one that gets no answer
    bench.build(&[], &[("EDGEHOLD_GENERATION", "3")]).await.unwrap();
    assert_eq!(core_metadata.take().len(), 2);
    bench.build(&["-s"], &[]).await.unwrap();
    assert_eq!(core_metadata.count(), 0, "-s asks nothing");
    core_metadata.behave(Behaviour::status(503));
    bench.build(&[], &[]).await.unwrap();
}

#[path = "service/jetstream.rs"]
mod jetstream;
#[path = "service/retry_machine.rs"]
mod retry_machine;
#[path = "service/spool.rs"]
mod spool;
#[path = "service/surface.rs"]
mod surface;
