//! The servers around the service, and the service as a child process of this one.

use std::{process::Command, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use edgehold_bench::{events, process};
use edgehold_test_support::{Consul, Mosquitto, MqttPublisher, Process, Qos, edgehold_binary};
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

/// A running `edgehold`.
pub(crate) struct Service {
    process: Process,
    /// Its key prefix in Consul.
    prefix: String,
    _folder: TempDir,
}

impl Service {
    /// Starts the built binary; it seeds Consul from a private file with this `Url` and quality of service.
    pub(crate) fn start(stack: &Stack, service_key: &str, qos: Qos, url: &str) -> Result<Self> {
        let folder = TempDir::with_prefix("edgehold-bench-").context("making a folder for the service")?;
        let qos = u8::from(qos == Qos::AtLeastOnce);
        let configuration = format!(
            r#"
Writable:
  LogLevel: WARN
  StoreAndForward: {{ Enabled: true, RetryInterval: 1h, MaxRetryCount: 0 }}
  Pipeline:
    ExecutionOrder: HTTPExport
    Functions:
      HTTPExport:
        Parameters: {{ Method: post, MimeType: application/json, Url: "{url}", PersistOnError: "true" }}
Service: {{ Host: 127.0.0.1, Port: 0 }}
MessageBus:
  Optional: {{ ClientId: {service_key}, Qos: "{qos}", KeepAlive: "10" }}
Database: {{ Type: sqlite }}
"#
        );
        std::fs::write(folder.path().join("configuration.yaml"), configuration)
            .context("writing the configuration of the service")?;
        let binary = edgehold_binary().context("build it with: cargo build --release -p edgehold-app")?;
        let mut command = Command::new(binary);
        command
            .env_clear()
            .env("EDGEX_SECURITY_SECRET_STORE", "false")
            .arg(format!("-cp=consul.http://127.0.0.1:{}", stack.consul.port()))
            .arg(format!("-cd={}", folder.path().display()))
            .arg(format!("-sk={service_key}"))
            .arg(format!("--data-dir={}", folder.path().join("data").display()));
        let process = Process::start("edgehold", &mut command)?;
        Ok(Self {
            process,
            prefix: format!("{STEM}/{service_key}"),
            _folder: folder,
        })
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
        format!("{}/{setting}", self.prefix)
    }

    /// CPU time so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.process.pid())
    }

    /// Bytes resident now and at most.
    pub(crate) fn memory_bytes(&self) -> Result<(u64, u64)> {
        process::memory_bytes(self.process.pid())
    }

    /// What it has printed last.
    pub(crate) fn output(&self) -> String {
        self.process.tail()
    }
}
