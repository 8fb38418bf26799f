//! The servers around the service, and the service as a child process of this one.

use std::{process::Command, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use edgehold_bench::{
    events,
    process::{self, Resident},
};
use edgehold_test_support::{
    Consul, Mosquitto, MqttPublisher, Port, Postgres, Process, Qos, edgehold_binary, http,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::throughput::Arrivals;

/// What a service needs at most until it exports its first event.
const START_TIMEOUT: Duration = Duration::from_secs(30);

const STEM: &str = "edgex/v3";

/// Broker and configuration provider.
pub(crate) struct Stack {
    pub(crate) broker: Mosquitto,
    pub(crate) consul: Consul,
}

impl Stack {
    /// Starts both and puts the common configuration into Consul, as EdgeX's bootstrapper does.
    pub(crate) async fn start() -> Result<Self> {
        let broker = Mosquitto::start().await?;
        let consul = Consul::start().await?;
        let common = format!("{STEM}/core-common-config-bootstrapper");
        let broker_port = broker.port().to_string();
        let keys = [
            ("all-services/MessageBus/Type", "mqtt"),
            ("all-services/MessageBus/Protocol", "tcp"),
            ("all-services/MessageBus/Host", "127.0.0.1"),
            ("all-services/MessageBus/Port", &broker_port),
            ("all-services/MessageBus/AuthMode", "none"),
            ("all-services/MessageBus/BaseTopicPrefix", "edgex"),
            ("app-services/Trigger/Type", "edgex-messagebus"),
            ("app-services/Trigger/SubscribeTopics", "events/#"),
            ("IsCommonConfigReady", "true"),
        ];
        consul
            .put_all(&keys.map(|(key, value)| (format!("{common}/{key}"), value)))
            .await?;
        Ok(Self { broker, consul })
    }
}

/// What a service is started with.
pub(crate) struct Settings {
    pub(crate) service_key: String,
    pub(crate) qos: Qos,
    pub(crate) retry_interval: &'static str,
    /// Where its events come from; none is the broker of the stack.
    pub(crate) source_port: Option<u16>,
    /// `Writable.Pipeline`.
    pub(crate) pipeline: String,
    /// `Database`, and the secret it needs.
    pub(crate) database: String,
    pub(crate) secrets: String,
    /// Its log goes nowhere: a line for each of a million failed exports is nothing to collect.
    pub(crate) quiet: bool,
}

impl Settings {
    /// Everything is exported to this `Url`, at QoS 1, and what fails waits for an hour.
    pub(crate) fn new(service_key: &str, url: &str) -> Self {
        Self {
            service_key: service_key.to_owned(),
            qos: Qos::AtLeastOnce,
            retry_interval: "1h",
            source_port: None,
            pipeline: format!(
                "
    ExecutionOrder: HTTPExport
    Functions:
      HTTPExport:
        Parameters: {{ Method: post, MimeType: application/json, Url: \"{url}\", PersistOnError: \"true\" }}"
            ),
            database: "{ Type: sqlite }".to_owned(),
            secrets: "{}".to_owned(),
            quiet: false,
        }
    }

    /// What is kept is kept there.
    pub(crate) fn in_postgres(&mut self, server: &Postgres) {
        self.database = format!("{{ Type: postgres, Host: 127.0.0.1, Port: {} }}", server.port());
        self.secrets = format!(
            "{{ DB: {{ SecretName: postgres, SecretData: {{ username: {}, password: {:?} }} }} }}",
            Postgres::USER,
            Postgres::PASSWORD
        );
    }
}

/// A running `edgehold`.
pub(crate) struct Service {
    // Before the folder, so that the process is gone when it goes.
    process: Process,
    rest_port: Port,
    consul_port: u16,
    service_key: String,
    quiet: bool,
    folder: TempDir,
}

impl Service {
    /// Starts the built binary; it seeds Consul from a private file with these settings.
    pub(crate) fn start(stack: &Stack, settings: &Settings) -> Result<Self> {
        let folder = TempDir::with_prefix("edgehold-bench-").context("making a folder for the service")?;
        let rest_port = Port::hold()?;
        let Settings {
            service_key,
            qos,
            retry_interval,
            source_port,
            pipeline,
            database,
            secrets,
            quiet,
        } = settings;
        let qos = u8::from(*qos == Qos::AtLeastOnce);
        let source_port = source_port.unwrap_or(stack.broker.port());
        let configuration = format!(
            r#"
Writable:
  LogLevel: ERROR
  InsecureSecrets: {secrets}
  StoreAndForward: {{ Enabled: true, RetryInterval: {retry_interval}, MaxRetryCount: 0 }}
  Pipeline: {pipeline}
Service: {{ Host: 127.0.0.1, Port: {rest_port} }}
MessageBus:
  Port: {source_port}
  Optional: {{ ClientId: {service_key}, Qos: "{qos}", CleanSession: "false", KeepAlive: "10" }}
Database: {database}
"#,
            rest_port = rest_port.number(),
        );
        std::fs::write(folder.path().join("configuration.yaml"), configuration)
            .context("writing the configuration of the service")?;
        let process = run(stack.consul.port(), service_key, &folder, *quiet)?;
        Ok(Self {
            process,
            rest_port,
            consul_port: stack.consul.port(),
            service_key: service_key.clone(),
            quiet: *quiet,
            folder,
        })
    }

    /// Ends it with SIGTERM and starts it again. Answers when it was started.
    pub(crate) async fn restart(&mut self) -> Result<Instant> {
        self.process.signal_term()?;
        self.process.wait_exit(START_TIMEOUT).await;
        let started = Instant::now();
        self.process = run(self.consul_port, &self.service_key, &self.folder, self.quiet)?;
        Ok(started)
    }

    /// What it answers at this path.
    pub(crate) async fn get(&self, path: &str) -> Result<serde_json::Value> {
        http::get(self.rest_port.number(), path)
            .await?
            .succeeded()?
            .json()
    }

    /// What it answers to this.
    pub(crate) async fn post(&self, path: &str, body: &serde_json::Value) -> Result<serde_json::Value> {
        let headers = [("Content-Type", "application/json")];
        let body = body.to_string();
        let answer = http::send(self.rest_port.number(), "POST", path, &headers, body.as_bytes()).await?;
        answer.succeeded()?.json()
    }

    /// What became of every run, and what its store holds; an error while it is not up.
    pub(crate) async fn stats(&self) -> Result<serde_json::Value> {
        self.get("/api/v3/store/stats").await
    }

    /// What waits in its store for another attempt; an error while it is not up.
    pub(crate) async fn waiting(&self) -> Result<u64> {
        let stats = self.stats().await?;
        stats["store"]["waiting"]
            .as_u64()
            .context("the store is not open")
    }

    /// Waits until it is up and its store open, and answers what waits.
    pub(crate) async fn wait_until_open(&self) -> Result<u64> {
        let end = Instant::now() + START_TIMEOUT;
        loop {
            match self.waiting().await {
                Ok(waiting) => return Ok(waiting),
                Err(error) => ensure!(Instant::now() < end, "{error:#}; its output:\n{}", self.output()),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Publishes events until one comes out at the far end, and waits until all of these have. Leaves the count at zero.
    pub(crate) async fn wait_until_it_exports(&mut self, stack: &Stack, arrivals: &Arrivals) -> Result<()> {
        let probes = events::messages(1)?;
        let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
        let end = Instant::now() + START_TIMEOUT;
        while arrivals.count.load(Ordering::Acquire) == 0 {
            ensure!(
                Instant::now() < end && self.process.is_running()?,
                "the service does not export; the end of its output:\n{}",
                self.process.tail()
            );
            publisher
                .publish(events::TOPIC, &probes[0], Qos::AtLeastOnce)
                .await?;
            sleep(Duration::from_millis(100)).await;
        }
        arrivals.wait_until_quiet(Duration::from_millis(500)).await;
        arrivals.count.store(0, Ordering::Release);
        Ok(())
    }

    /// The key of a setting in Consul.
    pub(crate) fn key(&self, setting: &str) -> String {
        format!("{STEM}/{}/{setting}", self.service_key)
    }

    /// CPU time so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.process.pid())
    }

    /// Its memory now.
    pub(crate) fn memory(&self) -> Result<Resident> {
        process::memory(self.process.pid())
    }

    /// What it has printed last.
    pub(crate) fn output(&self) -> String {
        self.process.tail()
    }
}

fn run(consul_port: u16, service_key: &str, folder: &TempDir, quiet: bool) -> Result<Process> {
    let binary = edgehold_binary().context("make bench builds it")?;
    let mut command = match quiet {
        false => Command::new(binary),
        true => {
            let mut shell = Command::new("sh");
            shell.args(["-c", r#"exec "$0" "$@" >/dev/null"#]).arg(binary);
            shell
        }
    };
    command
        .env_clear()
        .env("EDGEX_SECURITY_SECRET_STORE", "false")
        .env("EDGEHOLD_ADMIN", "write")
        .arg(format!("-cp=consul.http://127.0.0.1:{consul_port}"))
        .arg(format!("-cd={}", folder.path().display()))
        .arg(format!("-sk={service_key}"))
        .arg(format!("--data-dir={}", folder.path().join("data").display()));
    Process::start("edgehold", &mut command)
}
