//! Core Keeper around the real binary, started as EdgeX 4 starts it: the first start, changes while it runs, whatever they
//! come by, Keeper or the message bus being away, and the registry. (Core Keeper is the stand-in that is held against
//! recordings, `edgehold_test_support::Keeper`.)

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures::{self, Generation};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Authority, Behaviour, HttpSink, Keeper, Mosquitto, Nats, Redis, TlsFront, http};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{Service, broker, publish, start_subscribed_to, wait_accepted};

const COMMON: &str = "edgex/v4/core-common-config-bootstrapper";
const PRIVATE: &str = "edgex/v4/app-http-export";
const SERVICE_KEY: &str = "app-http-export";

/// Less than the time after which changes are looked for although notices of them would come.
const SOONER_THAN_A_LOOK: Duration = Duration::from_secs(20);

/// Broker, Core Keeper, destination and service, as EdgeX 4 stands around app-http-export.
struct Stack {
    service: Service,
    sink: HttpSink,
    broker: Mosquitto,
    keeper: Keeper,
}

impl Stack {
    /// Everything around the service. `common` are keys of the common configuration beyond the recorded ones, or instead.
    async fn new(common: &[(&str, &str)]) -> Result<Self> {
        let broker = broker().await?;
        let keeper = Keeper::with_mqtt(broker.port()).await?;
        let sink = HttpSink::start().await?;
        seed_common(&keeper, broker.port(), common).await?;
        let service = service(&keeper, "http-export")?.env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL",
            &sink.url("/export"),
        );
        Ok(Self {
            service,
            sink,
            broker,
            keeper,
        })
    }

    /// [`Self::new`] with the service running, and listening for notices.
    async fn start(common: &[(&str, &str)]) -> Result<Self> {
        let mut stack = Self::new(common).await?;
        stack.start_service().await?;
        Ok(stack)
    }

    async fn start_service(&mut self) -> Result<()> {
        let before = self.broker.process().line_count();
        // Not to be taken for that of the notices.
        start_subscribed_to(&mut self.service, &mut self.broker, "edgex/events/#").await?;
        let listening = format!(" edgex/configs/{PRIVATE}/#");
        self.broker
            .process()
            .wait_for_line_after(before, &listening, LONG)
            .await;
        Ok(())
    }

    /// Sets one private key below `Writable`.
    async fn set(&self, path: &str, value: &str) -> Result<()> {
        self.keeper
            .put(&format!("{PRIVATE}/Writable/{path}"), value)
            .await
    }

    /// Waits for a value, for less time than a look that nobody asked for would take.
    async fn notified_of(&self, pointer: &str, value: impl Into<Value>) -> Result<()> {
        let seen = timeout(SOONER_THAN_A_LOOK, self.service.wait_config(pointer, value));
        seen.await.with_context(|| format!("no notice of {pointer}"))
    }
}

/// A profile with the flags of EdgeX 4's compose file.
fn service(keeper: &Keeper, profile: &str) -> Result<Service> {
    let config = fixtures::path(Generation::V4, "config");
    Ok(Service::new()?
        .flag("--registry")
        .flag(&format!("-cp=keeper.http://127.0.0.1:{}", keeper.port()))
        .flag(&format!("-cd={}", config.display()))
        .env("EDGEX_PROFILE", profile)
        .env("SERVICE_HOST", "127.0.0.1"))
}

/// The recorded keys of a stack of EdgeX 4.
pub(crate) fn recorded_keys() -> Result<BTreeMap<String, String>> {
    let body = fixtures::read(Generation::V4, "keeper/kvs-edgex-plaintext.body")?;
    let body: Value = serde_json::from_slice(&body)?;
    let rows = body["response"].as_array().context("there are keys")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
    rows.iter()
        .map(|row| Ok((text(&row["key"])?, text(&row["value"])?)))
        .collect()
}

/// Writes the common configuration as core-common-config-bootstrapper does: the recorded keys, pointing at the servers of
/// this test, and the mark of completion last.
async fn seed_common(keeper: &Keeper, bus_port: u16, others: &[(&str, &str)]) -> Result<()> {
    let mut keys = BTreeMap::new();
    for (key, value) in recorded_keys()? {
        if let Some(path) = key.strip_prefix(&format!("{COMMON}/")) {
            keys.insert(path.to_owned(), value);
        }
    }
    keys.remove("IsCommonConfigReady")
        .context("the recording is complete")?;
    let (bus_port, keeper_port) = (bus_port.to_string(), keeper.port().to_string());
    let ours = [
        ("all-services/MessageBus/Host", "127.0.0.1"),
        ("all-services/MessageBus/Port", &bus_port),
        ("all-services/Registry/Host", "127.0.0.1"),
        ("all-services/Registry/Port", &keeper_port),
        ("all-services/Database/Type", "sqlite"),
    ];
    for (path, value) in ours.iter().chain(others) {
        keys.insert((*path).to_owned(), (*value).to_owned());
    }
    for (path, value) in keys {
        keeper.put(&format!("{COMMON}/{path}"), &value).await?;
    }
    keeper.put(&format!("{COMMON}/IsCommonConfigReady"), "true").await
}

fn private_keys(keeper: &Keeper) -> BTreeMap<String, String> {
    keeper.list(PRIVATE).into_iter().collect()
}

fn status(keeper: &Keeper, service_id: &str) -> String {
    let services = keeper.services();
    let entry = services.iter().find(|entry| entry["serviceId"] == service_id);
    entry.map_or_else(String::new, |entry| {
        entry["status"].as_str().unwrap_or_default().to_owned()
    })
}

#[tokio::test]
async fn a_first_start_seeds_what_was_recorded_works_and_ends() -> Result<()> {
    // Given a stack that has never seen the service.
    let mut stack = Stack::start(&[("all-services/Service/HealthCheckInterval", "1s")]).await?;

    // Then its private configuration is there, key by key what the original was recorded to write from the same file; the
    // places of this test are its own.
    let seeded = private_keys(&stack.keeper);
    let mut recorded = recorded_keys()?;
    recorded.retain(|key, _| key.starts_with(&format!("{PRIVATE}/")));
    let mut compared = 0;
    for (key, value) in &recorded {
        let own = [
            "Service/Host",
            "Service/Port",
            "Parameters/Url",
            "MessageBus/",
            "Registry/",
            "Database/",
        ];
        if own.iter().any(|own| key.contains(own)) {
            continue;
        }
        assert_eq!(seeded.get(key), Some(value), "{key}");
        compared += 1;
    }
    ensure!(compared > 10, "only {compared} keys were compared");
    let port = stack.service.port().to_string();
    assert_eq!(seeded.get(&format!("{PRIVATE}/Service/Port")), Some(&port));

    // And it is EdgeX 4 to everybody, takes events in, and is known to be up.
    let version: Value = stack.service.get("/api/v3/version").await?.json()?;
    assert_eq!(version["version"], "4.0.1");
    publish(stack.broker.port(), 1..=3).await?;
    wait_accepted(&stack.sink, 1..=3).await;
    let is_up = async || status(&stack.keeper, SERVICE_KEY) == "UP";
    wait::until("the service to be up", LONG, is_up).await;

    // At its end it is deregistered, and nothing it has seeded changes by another start.
    stack.service.stop().await?;
    assert_eq!(status(&stack.keeper, SERVICE_KEY), "HALT");
    stack.start_service().await?;
    assert_eq!(private_keys(&stack.keeper), seeded);
    wait::until("the service to be up", LONG, async || {
        status(&stack.keeper, SERVICE_KEY) == "UP"
    })
    .await;
    stack.service.stop().await
}

#[tokio::test]
async fn each_kind_of_change_acts_as_soon_as_it_is_told_of() -> Result<()> {
    let stack = Stack::start(&[]).await?;
    let interval = "/Writable/StoreAndForward/RetryInterval";

    // A private key, and one of each common section, where nothing private stands above it.
    stack.set("LogLevel", "DEBUG").await?;
    stack.notified_of("/Writable/LogLevel", "DEBUG").await?;
    let common = |path: &str| format!("{COMMON}/{path}");
    stack
        .keeper
        .put(
            &common("app-services/Writable/StoreAndForward/RetryInterval"),
            "7m",
        )
        .await?;
    stack.notified_of(interval, "7m").await?;
    stack
        .keeper
        .put(&common("all-services/Writable/Telemetry/Tags/Site"), "everywhere")
        .await?;
    stack
        .notified_of("/Writable/Telemetry/Tags/Site", "everywhere")
        .await?;

    // A private one above a common one, which is common again when it is deleted.
    stack.set("StoreAndForward/RetryInterval", "3m").await?;
    stack.notified_of(interval, "3m").await?;
    stack
        .keeper
        .delete(
            &format!("{PRIVATE}/Writable/StoreAndForward/RetryInterval"),
            false,
        )
        .await?;
    stack.notified_of(interval, "7m").await?;

    // A pipeline with its function, written as one.
    let url = stack.sink.url("/second");
    stack
        .keeper
        .put_all(
            &format!("{PRIVATE}/Writable/Pipeline"),
            &[
                ("ExecutionOrder", "Transform, HTTPExport2"),
                ("Functions/HTTPExport2/Parameters/Url", &url),
                ("Functions/HTTPExport2/Parameters/Method", "post"),
                ("Functions/HTTPExport2/Parameters/MimeType", "application/json"),
                ("Functions/Transform/Parameters/Type", "json"),
            ],
        )
        .await?;
    stack
        .notified_of("/Writable/Pipeline/ExecutionOrder", "Transform, HTTPExport2")
        .await?;
    publish(stack.broker.port(), 1..=1).await?;
    stack
        .sink
        .wait_for_request("an export by the new pipeline", LONG, |request| {
            request.target == "/second"
        })
        .await;

    // A folder above Writable, whose notice the original does not hear.
    stack
        .keeper
        .put_all(
            PRIVATE,
            &[("Writable/LogLevel", "WARN"), ("Service/StartupMsg", "later")],
        )
        .await?;
    stack.notified_of("/Writable/LogLevel", "WARN").await?;
    assert_ne!(stack.service.config("/Service/StartupMsg").await?, "later");

    // A value that cannot be keeps nobody else from acting.
    stack
        .keeper
        .put_all(
            &format!("{PRIVATE}/Writable"),
            &[
                ("StoreAndForward/RetryInterval", "soon"),
                ("StoreAndForward/MaxRetryCount", "21"),
            ],
        )
        .await?;
    stack
        .notified_of("/Writable/StoreAndForward/MaxRetryCount", 21)
        .await?;
    assert_eq!(stack.service.config(interval).await?, "7m");
    Ok(())
}

/// Contract, configuration §12, 16: the original misses all of it.
#[tokio::test]
async fn what_changes_while_keeper_or_the_bus_is_away_takes_effect() -> Result<()> {
    let mut stack = Stack::start(&[]).await?;

    // Keeper killed: events go on by the last known settings; what changes there meanwhile acts when it is back.
    stack.keeper.stop().await;
    publish(stack.broker.port(), 1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;
    stack.set("LogLevel", "DEBUG").await?;
    stack
        .service
        .process()
        .wait_for_line("cannot follow configuration changes", LONG)
        .await;
    assert_eq!(stack.service.config("/Writable/LogLevel").await?, "INFO");
    stack.keeper.restart().await?;
    stack.service.wait_config("/Writable/LogLevel", "DEBUG").await;

    // Keeper half there: it refuses, or answers nothing that could be understood.
    for (fault, level) in [
        (Behaviour::status(500), "INFO"),
        (Behaviour::status(401), "DEBUG"),
        (Behaviour::HalfAnswer, "WARN"),
        (Behaviour::Reset, "ERROR"),
    ] {
        let before = stack.service.config("/Writable/LogLevel").await?;
        stack.keeper.fault(Some(fault));
        stack.set("LogLevel", level).await?;
        publish(stack.broker.port(), 2..=2).await?;
        wait_accepted(&stack.sink, 2..=2).await;
        assert_eq!(stack.service.config("/Writable/LogLevel").await?, before);
        stack.keeper.fault(None);
        stack.service.wait_config("/Writable/LogLevel", level).await;
    }

    // All keys gone, as after a fresh database: the last known settings stay, and that is said.
    stack.keeper.delete(PRIVATE, true).await?;
    stack
        .service
        .wait_error(0, "have vanished from the configuration provider")
        .await;
    assert_eq!(stack.service.config("/Writable/LogLevel").await?, "ERROR");
    stack.set("LogLevel", "INFO").await?;
    stack.service.wait_config("/Writable/LogLevel", "INFO").await;

    // The bus away: changes are looked for. And when it is back they are told of again.
    stack.broker.stop().await?;
    stack.set("LogLevel", "WARN").await?;
    stack.service.wait_config("/Writable/LogLevel", "WARN").await;
    stack.broker.restart().await?;
    let listening = format!(" edgex/configs/{PRIVATE}/#");
    stack.broker.process().wait_for_line(&listening, LONG).await;
    stack.set("LogLevel", "TRACE").await?;
    stack.service.wait_config("/Writable/LogLevel", "TRACE").await;
    Ok(())
}

#[tokio::test]
async fn without_a_message_bus_changes_are_seen_all_the_same() -> Result<()> {
    // Given the stock profile that does without.
    let stack = Stack::new(&[]).await?;
    let mut service = service(&stack.keeper, "functional-tests")?;
    service.start().await?;
    assert_eq!(service.config("/MessageBus/Disabled").await?, true);

    let key = "edgex/v4/app-functional-tests/Writable/LogLevel";
    stack.keeper.put(key, "WARN").await?;
    service.wait_config("/Writable/LogLevel", "WARN").await;
    service.stop().await
}

#[tokio::test]
async fn on_other_buses_notices_are_heard_too() -> Result<()> {
    let keeper = Keeper::start().await?;
    let redis = Redis::start().await?;
    let nats = Nats::start().await?;
    // How many of its connections say that they have subscribed: that of the trigger may read a stream instead.
    for (kind, protocol, port, subscribed) in [
        ("redis", "redis", redis.port(), 2),
        ("nats-core", "nats", nats.port(), 2),
        ("nats-jetstream", "nats", nats.port(), 1),
    ] {
        let others = [
            ("all-services/MessageBus/Type", kind),
            ("all-services/MessageBus/Protocol", protocol),
        ];
        seed_common(&keeper, port, &others).await?;
        let mut service = service(&keeper, "http-export")?;
        service.start().await?;
        wait::until("the subscriptions", LONG, async || {
            let lines = service.process().lines();
            lines
                .iter()
                .filter(|line| line.contains("subscribed at "))
                .count()
                >= subscribed
        })
        .await;

        // A key, and a folder above Writable.
        for (key, leaves, level) in [
            (format!("{PRIVATE}/Writable"), ("LogLevel", "DEBUG"), "DEBUG"),
            (PRIVATE.to_owned(), ("Writable/LogLevel", "WARN"), "WARN"),
        ] {
            keeper.put_all(&key, &[leaves]).await?;
            let notice = keeper.notices().pop().context("it was told")?;
            let (subject, payload) = (notice.topic.replace('/', "."), notice.payload.as_bytes());
            match kind {
                "redis" => redis.publish_to_somebody(&subject, payload).await?,
                _ => nats.client().await?.publish(&subject, &[], payload).await?,
            }
            let seen = timeout(
                SOONER_THAN_A_LOOK,
                service.wait_config("/Writable/LogLevel", level),
            );
            seen.await.with_context(|| format!("no notice on {kind}"))?;
        }
        service.stop().await?;
        keeper.delete(PRIVATE, true).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_registry_finds_others_and_is_told_again_when_it_has_forgotten() -> Result<()> {
    // Given core-metadata where only the registry knows.
    let mut stack = Stack::new(&[("all-services/Service/HealthCheckInterval", "1s")]).await?;
    let core_metadata = HttpSink::start().await?;
    core_metadata.behave(
        edgehold_test_support::Answer::new(200)
            .body(r#"{"apiVersion":"v3","version":"4.0.1","serviceName":"core-metadata"}"#)
            .into(),
    );
    let entry = json!({"apiVersion": "v3", "registration": {
        "serviceId": "core-metadata", "status": "", "host": "127.0.0.1", "port": core_metadata.port(),
        "HealthCheck": {"interval": "1s", "path": "/api/v3/ping", "type": "http"},
    }});
    let body = entry.to_string();
    let added = stack.keeper.send("POST", "/api/v3/registry", body.as_bytes());
    added.await?.succeeded()?;

    stack.start_service().await?;

    core_metadata
        .wait_for_request("its version", LONG, |request| request.target == "/api/v3/version")
        .await;
    let is_up = async |stack: &Stack| {
        wait::until("the service to be up", LONG, async || {
            status(&stack.keeper, SERVICE_KEY) == "UP"
        })
        .await;
    };
    is_up(&stack).await;
    let entry = stack.keeper.services().pop().context("it is registered")?;
    assert_eq!(entry["host"], "127.0.0.1");
    assert_eq!(entry["port"], stack.service.port());
    assert_eq!(
        entry["HealthCheck"],
        json!({"interval": "1s", "path": "/api/v3/ping", "type": "http"})
    );

    // Somebody removes the entry, or says that the service has ended.
    assert!(stack.keeper.forget(SERVICE_KEY));
    is_up(&stack).await;
    let halted = json!({"apiVersion": "v3", "registration": {
        "serviceId": SERVICE_KEY, "status": "HALT", "host": "127.0.0.1", "port": stack.service.port(),
        "HealthCheck": {"interval": "1s", "path": "/api/v3/ping", "type": "http"},
    }});
    let body = halted.to_string();
    let put = stack.keeper.send("PUT", "/api/v3/registry", body.as_bytes());
    put.await?.succeeded()?;
    is_up(&stack).await;
    stack.service.stop().await
}

/// The authorities of the system are those that `SSL_CERT_FILE` names, as for programs in Go.
#[tokio::test]
async fn keeper_behind_tls_is_trusted_by_the_authorities_of_the_system() -> Result<()> {
    let mut stack = Stack::new(&[]).await?;
    let authority = Authority::new()?;
    let front = TlsFront::start(stack.keeper.port(), &authority.issue("localhost")?, None).await?;
    let all_services = |path: &str| format!("{COMMON}/all-services/Registry/{path}");
    stack.keeper.put(&all_services("Host"), "localhost").await?;
    let port = front.port().to_string();
    stack.keeper.put(&all_services("Port"), &port).await?;
    let pem = stack.service.data_dir().join("authority.pem");
    std::fs::write(&pem, authority.pem())?;
    // The environment has the say over the flag.
    stack.service.set_env(
        "EDGEX_CONFIG_PROVIDER",
        &format!("keeper.https://localhost:{port}"),
    );

    stack.service.set_env("EDGEX_STARTUP_DURATION", "2");
    stack.service.spawn()?;
    let ended = stack.service.process().wait_exit(LONG).await;
    assert_eq!(ended.code(), Some(1), "a stranger is not trusted");

    stack.service.set_env("SSL_CERT_FILE", &pem.to_string_lossy());
    stack.start_service().await?;
    stack.set("LogLevel", "DEBUG").await?;
    stack.notified_of("/Writable/LogLevel", "DEBUG").await?;
    wait::until("the registration", LONG, async || {
        !status(&stack.keeper, SERVICE_KEY).is_empty()
    })
    .await;
    stack.service.stop().await?;
    assert_eq!(status(&stack.keeper, SERVICE_KEY), "HALT");
    Ok(())
}

#[tokio::test]
async fn a_registry_that_is_not_configured_ends_the_start() -> Result<()> {
    for (key, value, told) in [
        (
            "all-services/Registry/Host",
            "",
            "Registry/Host or Registry/Port is not set",
        ),
        (
            "all-services/Registry/Type",
            "eureka",
            "neither 'consul' nor 'keeper'",
        ),
    ] {
        let mut stack = Stack::new(&[(key, value)]).await?;
        stack.service.spawn()?;
        let ended = stack.service.process().wait_exit(LONG).await;
        assert_eq!(ended.code(), Some(1), "{key}");
        stack.service.wait_error(0, told).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_common_configuration_that_is_not_ready_is_waited_for() -> Result<()> {
    let mut stack = Stack::new(&[]).await?;
    let ready = format!("{COMMON}/IsCommonConfigReady");
    stack.keeper.put(&ready, "false").await?;
    stack.service.spawn()?;
    stack
        .service
        .process()
        .wait_for_line("IsCommonConfigReady is not true", LONG)
        .await;
    stack.keeper.put(&ready, "true").await?;
    stack.service.wait_ready().await
}

/// Commands are waited for, and Keeper answers them meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_rest_write_where_the_service_reads() -> Result<()> {
    let stack = Stack::start(&[]).await?;
    let said = |words: &[&str]| {
        let output = stack.service.run(words)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success(),
            "{words:?} ended with {}: {text}{told}",
            output.status
        );
        anyhow::Ok(text)
    };
    said(&[
        "config",
        "set",
        "Writable/LogLevel=DEBUG",
        "Writable/StoreAndForward/MaxRetryCount=4",
    ])?;
    let told = stack.keeper.notices().pop().context("it was told")?;
    assert_eq!(
        told.topic,
        format!("edgex/configs/{PRIVATE}/Writable"),
        "both in one"
    );
    stack
        .notified_of("/Writable/StoreAndForward/MaxRetryCount", 4)
        .await?;
    assert_eq!(stack.service.config("/Writable/LogLevel").await?, "DEBUG");
    assert_eq!(said(&["config", "get", "Writable/LogLevel"])?.trim(), "DEBUG");
    said(&["config", "unset", "Writable/StoreAndForward/MaxRetryCount"])?;
    stack
        .notified_of("/Writable/StoreAndForward/MaxRetryCount", 10)
        .await?;
    let shown = said(&["config", "show", "--origin", "Writable/LogLevel"])?;
    ensure!(shown.contains("DEBUG"), "{shown}");
    said(&["config", "push", "--overwrite"])?;
    stack.notified_of("/Writable/LogLevel", "INFO").await?;
    let diff = stack.service.run(&["config", "diff"])?;
    let diff = String::from_utf8_lossy(&diff.stdout).into_owned();
    ensure!(!diff.contains("LogLevel"), "{diff}");

    let secret = json!({"apiVersion": "v3", "secretName": "mqtt", "secretData": [{"key": "password", "value": "s3cret"}]});
    let port = stack.service.port();
    let body = secret.to_string();
    let answer = http::send(port, "POST", "/api/v3/secret", &[], body.as_bytes()).await?;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let stored = private_keys(&stack.keeper);
    let key = format!("{PRIVATE}/Writable/InsecureSecrets/mqtt/SecretData/password");
    assert_eq!(stored.get(&key).map(String::as_str), Some("s3cret"));
    stack
        .notified_of("/Writable/InsecureSecrets/mqtt/SecretName", "mqtt")
        .await
}
