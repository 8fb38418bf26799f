//! What the end-to-end suites stand on: the real binary as a child process, a broker, Consul and a destination of the
//! test's own, and events by number.
//!
//! Owns the arranging and the looking; what has to hold is said by the suites. Nothing here waits for a time to pass:
//! a service is ready when it answers a ping, subscribed when the broker says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use edgehold_test_support::fixtures::{self, Generation};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{
    Behaviour, Certificate, Consul, HttpSink, Mosquitto, MqttPublisher, Port, Process, Qos, Received,
    edgehold_binary, http,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where core-common-config-bootstrapper of EdgeX 3 writes.
pub(crate) const COMMON: &str = "edgex/v3/core-common-config-bootstrapper/";
/// The private configuration of the profile all Consul suites run.
pub(crate) const PRIVATE: &str = "edgex/v3/app-http-export/";
/// Its service key.
pub(crate) const SERVICE_KEY: &str = "app-http-export";

/// Common keys with which the broker keeps what arrives while the service is away.
pub(crate) const DURABLE: &[(&str, &str)] = &[
    ("all-services/MessageBus/Optional/Qos", "1"),
    ("all-services/MessageBus/Optional/CleanSession", "false"),
];

/// What an end of a service may take: containers are given ten seconds.
pub(crate) const END: Duration = Duration::from_secs(10);

/// A broker that says who subscribes to what.
pub(crate) async fn broker() -> Result<Mosquitto> {
    let log = ["error", "warning", "notice", "subscribe"];
    let builder = log.iter().fold(Mosquitto::builder(), |builder, kind| {
        builder.config(&format!("log_type {kind}"))
    });
    builder.start().await
}

/// Compiles what is to be preloaded into a process. `source` lies beside the suites.
pub(crate) fn compile_preload(source: &str, library: &Path) -> Result<()> {
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(source))
        .args(["-ldl", "-lpthread"])
        .output()
        .context("starting cc")?;
    ensure!(
        output.status.success(),
        "cc ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The `edgehold` binary with everything it is started with; started, stopped and killed as often as the test likes,
/// always with the same flags, environment, port and data folder.
pub(crate) struct Service {
    // Before the folders, so that the process is gone when they go.
    process: Option<Process>,
    /// Another build than the one under test.
    binary: Option<PathBuf>,
    flags: Vec<String>,
    environment: BTreeMap<String, String>,
    port: Port,
    data: TempDir,
}

impl Service {
    /// With no flags but the data folder, in insecure mode, its REST port by environment.
    pub(crate) fn new() -> Result<Self> {
        let port = Port::hold()?;
        let data = TempDir::with_prefix("edgehold-data-").context("making a data folder")?;
        let service = Self {
            process: None,
            binary: None,
            flags: vec![format!("--data-dir={}", data.path().display())],
            environment: BTreeMap::new(),
            port,
            data,
        };
        let port = service.port().to_string();
        Ok(service
            .env("SERVICE_PORT", &port)
            .env("EDGEX_SECURITY_SECRET_STORE", "false")
            .env("RUST_BACKTRACE", "1"))
    }

    /// The original's `http-export` profile of EdgeX 3, unmodified, through Consul, with the registry.
    pub(crate) fn http_export(consul: &Consul, url: &str) -> Result<Self> {
        let config = fixtures::path(Generation::V3, "config");
        Ok(Self::new()?
            .flag(&format!("-cp=consul.http://127.0.0.1:{}", consul.port()))
            .flag("--registry")
            .flag(&format!("-cd={}", config.display()))
            .flag("-p=http-export")
            .env("WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL", url))
    }

    #[must_use]
    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    #[must_use]
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// From the next start on it is this binary.
    pub(crate) fn set_binary(&mut self, binary: PathBuf) {
        self.binary = Some(binary);
    }

    /// From the next start on it has this in its environment.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// The process of the last start.
    ///
    /// # Panics
    /// Before the first start.
    #[track_caller]
    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the test has started the service")
    }

    /// Waits until it has logged an error that holds this text, passing over the first `skip` lines.
    #[track_caller]
    pub(crate) fn wait_error(&mut self, skip: usize, text: &str) -> impl Future<Output = String> {
        wait_until_owned(format!("an error with {text:?}"), async move || {
            let lines = self.process().lines();
            let error = lines
                .iter()
                .skip(skip)
                .find(|line| line.contains("level=ERROR") && line.contains(text));
            error
                .cloned()
                .with_context(|| format!("the lines are\n{}", self.process().tail()))
        })
    }

    /// Starts it and returns at once.
    pub(crate) fn spawn(&mut self) -> Result<()> {
        let mut command = match &self.binary {
            Some(binary) => self.command(binary, &[]),
            None => self.command(&edgehold_binary()?, &[]),
        };
        self.process = Some(Process::start("edgehold", &mut command)?);
        Ok(())
    }

    /// Starts it and waits until it answers a ping.
    pub(crate) async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// Waits until it answers a ping; an error as soon as it has ended instead.
    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
        wait::until("the service to answer a ping", LONG, async || {
            if let Ok(Some(status)) = self.process().exit_status() {
                let tail = self.process().tail();
                return Ok(Err(format!("the service ended with {status}:\n{tail}")));
            }
            http::get(self.port(), "/api/v3/ping")
                .await?
                .succeeded()
                .map(|_| Ok(()))
        })
        .await
        .or_else(|ended| bail!(ended))
    }

    /// Ends it with SIGTERM and waits for that.
    ///
    /// # Panics
    /// When it takes longer than ten seconds.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> impl Future<Output = Result<ExitStatus>> {
        let process = self.process();
        let sent = process.signal_term();
        let ended = process.wait_exit(END);
        async move {
            sent?;
            Ok(ended.await)
        }
    }

    /// [`Self::terminate`], which has to be a success.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let status = self.terminate().await?;
        ensure!(
            status.success(),
            "after SIGTERM it ended with {status}:\n{}",
            self.process().tail()
        );
        Ok(())
    }

    /// Kills it as the power would.
    pub(crate) fn kill9(&mut self) -> Result<()> {
        self.process().kill9().map(drop)
    }

    /// Runs a command of the binary with the same flags and environment, beside the service or without it.
    pub(crate) fn run(&self, words: &[&str]) -> Result<Output> {
        self.command(&edgehold_binary()?, words)
            .output()
            .context("running a command of the binary")
    }

    /// Has a shell run a line, with the same environment.
    pub(crate) fn shell(&self, line: &str) -> Result<Output> {
        let mut command = Command::new("/bin/sh");
        command.env_clear().envs(&self.environment).args(["-c", line]);
        command
            .current_dir(self.data_dir())
            .output()
            .context("running a line in a shell")
    }

    /// Begins such a command; what it prints is for whoever waits for it.
    pub(crate) fn begin(&self, words: &[&str]) -> Result<Child> {
        let mut command = self.command(&edgehold_binary()?, words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("beginning a command of the binary")
    }

    /// `edgehold <flags> store count`: the number waiting, which has to be all that it prints.
    pub(crate) fn store_count(&self) -> Result<u64> {
        let output = self.run(&["store", "count"])?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success(),
            "store count ended with {}: {told}",
            output.status
        );
        let number = printed.strip_suffix('\n').context("store count ends its line")?;
        number
            .parse()
            .with_context(|| format!("store count printed {printed:?}, not a number alone"))
    }

    /// `edgehold <flags> dead ls`: the whole error collection, oldest first.
    pub(crate) fn error_collection(&self) -> Result<Vec<Value>> {
        let output = self.run(&["dead", "ls", "--json", "--limit", "0"])?;
        ensure!(
            output.status.success(),
            "dead ls ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = output.stdout.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).context("reading what dead ls printed"))
            .collect()
    }

    pub(crate) async fn get(&self, target: &str) -> Result<http::Response> {
        http::get(self.port(), target).await
    }

    /// The effective configuration as REST shows it, or one value of it (`/Writable/LogLevel`).
    pub(crate) async fn config(&self, pointer: &str) -> Result<Value> {
        let body: Value = self.get("/api/v3/config").await?.succeeded()?.json()?;
        Ok(body["config"].pointer(pointer).cloned().unwrap_or_default())
    }

    /// Waits until the effective configuration holds this value.
    #[track_caller]
    pub(crate) fn wait_config(&self, pointer: &str, value: impl Into<Value>) -> impl Future<Output = ()> {
        let value = value.into();
        let what = format!("{pointer} to be {value}");
        wait_until_owned(what, async move || {
            let seen = self.config(pointer).await?;
            ensure!(seen == value, "it is {seen}");
            Ok(())
        })
    }

    /// What became of every run, and what the store holds.
    pub(crate) async fn stats(&self) -> Result<Stats> {
        self.get("/api/v3/store/stats")
            .await?
            .succeeded()?
            .json()
            .map(Stats)
    }

    /// Waits until the numbers are as wanted.
    #[track_caller]
    pub(crate) fn wait_stats(
        &self,
        what: &str,
        wanted: impl Fn(&Stats) -> bool,
    ) -> impl Future<Output = Stats> {
        wait_until_owned(what.to_owned(), async move || {
            let stats = self.stats().await?;
            ensure!(wanted(&stats), "they are {}", stats.0);
            Ok(stats)
        })
    }

    /// Waits until nothing waits or is in flight any more. Nothing may have been set aside or dropped.
    ///
    /// # Panics
    /// When something was.
    pub(crate) async fn wait_nothing_left(&self) {
        let nothing_left = |stats: &Stats| stats.store("waiting") == 0 && stats.books("inFlight") == 0;
        let stats = self.wait_stats("nothing to be left", nothing_left).await;
        assert_eq!(
            (stats.store("error"), stats.books("dropped")),
            (0, 0),
            "{stats:?}"
        );
    }

    /// How many rows the `object` table of the SQLite store has for each service key and state.
    pub(crate) async fn object_rows(&self) -> Result<BTreeMap<(String, i64), i64>> {
        use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

        let options = SqliteConnectOptions::new()
            .filename(self.database()?)
            .read_only(true);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let query = "SELECT app_service_key, state, COUNT(*) FROM object GROUP BY app_service_key, state";
        let rows = sqlx::query(query).fetch_all(&mut connection).await?;
        connection.close().await?;
        rows.iter()
            .map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?)))
            .collect()
    }

    /// What SQLite says of the soundness of the store's file: `ok`, or what is wrong.
    pub(crate) async fn integrity(&self) -> Result<String> {
        use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

        let options = SqliteConnectOptions::new().filename(self.database()?);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let answer = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(answer)
    }

    /// Moves the time of each object's last attempt by so many milliseconds, in the file and behind the service's back;
    /// answers how many objects there are.
    pub(crate) async fn move_last_attempts(&self, millis: i64) -> Result<u64> {
        use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

        let options = SqliteConnectOptions::new()
            .filename(self.database()?)
            .busy_timeout(LONG);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let moved = sqlx::query("UPDATE object SET last_attempt_at = last_attempt_at + ?1")
            .bind(millis)
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        Ok(moved.rows_affected())
    }

    fn database(&self) -> Result<PathBuf> {
        let entries = std::fs::read_dir(self.data_dir()).context("listing the data folder")?;
        let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        let database = paths
            .iter()
            .find(|path| path.extension().is_some_and(|extension| extension == "db"));
        database
            .cloned()
            .with_context(|| format!("no database among {paths:?}"))
    }

    /// A command of the binary, to be started by the test.
    pub(crate) fn command_of(&self, words: &[&str]) -> Result<Command> {
        Ok(self.command(&edgehold_binary()?, words))
    }

    fn command(&self, binary: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(binary);
        // Its environment is what the test says and nothing else.
        command
            .env_clear()
            .envs(&self.environment)
            .args(&self.flags)
            .args(words);
        command.current_dir(self.data_dir());
        command
    }
}

/// [`wait::until`] for a description that is made on the way.
#[track_caller]
fn wait_until_owned<T>(what: String, mut look: impl AsyncFnMut() -> Result<T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let mut what = what;
        what.push_str(&format!(" (asked for at {caller})"));
        wait::until(&what, LONG, async || look().await).await
    }
}

/// The answer of `/api/v3/store/stats`.
#[derive(Debug, Clone)]
pub(crate) struct Stats(pub(crate) Value);

impl Stats {
    /// A number of the books, by name.
    pub(crate) fn books(&self, name: &str) -> u64 {
        self.number("books", name)
    }

    /// A number of the store, by name; 0 while it is not open.
    pub(crate) fn store(&self, name: &str) -> u64 {
        if self.0["store"].is_null() {
            0
        } else {
            self.number("store", name)
        }
    }

    fn number(&self, part: &str, name: &str) -> u64 {
        let number = self.0[part][name].as_u64();
        number.unwrap_or_else(|| panic!("{part} has no {name}: {}", self.0))
    }

    /// Deliveries that never became a run, and runs.
    pub(crate) fn begun(&self) -> u64 {
        ["undecodable", "unmatched", "started"]
            .iter()
            .map(|name| self.books(name))
            .sum()
    }

    /// Whether so many deliveries have come, and every run that began has come to its end, whatever that is, or waits for
    /// others in a batch.
    pub(crate) fn all_ended(&self, deliveries: u64) -> bool {
        let ends = [
            "completed",
            "filtered",
            "batched",
            "dropped",
            "stored",
            "givenUp",
            "inBatch",
        ];
        let ended: u64 = ends.iter().map(|end| self.books(end)).sum();
        self.books("received") == deliveries
            && self.begun() >= deliveries
            && self.books("inFlight") <= self.books("inBatch")
            && ended >= self.books("started")
    }
}

/// Broker, Consul, destination and service, as EdgeX 3 stands around app-http-export.
pub(crate) struct Stack {
    pub(crate) service: Service,
    pub(crate) sink: HttpSink,
    pub(crate) broker: Mosquitto,
    pub(crate) consul: Consul,
}

impl Stack {
    /// Everything around the service, which is not started yet. `common` are keys of the common configuration beyond
    /// the recorded ones, or instead of them.
    pub(crate) async fn new(common: &[(&str, &str)]) -> Result<Self> {
        Self::around(broker().await?, common).await
    }

    /// [`Self::new`] with a broker of the test's own.
    pub(crate) async fn around(broker: Mosquitto, common: &[(&str, &str)]) -> Result<Self> {
        let (consul, sink) = tokio::join!(Consul::start(), HttpSink::start());
        let (consul, sink) = (consul?, sink?);
        seed_common(&consul, broker.port(), common).await?;
        let service = Service::http_export(&consul, &sink.url("/export"))?;
        Ok(Self {
            service,
            sink,
            broker,
            consul,
        })
    }

    /// [`Self::new`] with the service running and subscribed.
    pub(crate) async fn start(common: &[(&str, &str)]) -> Result<Self> {
        let mut stack = Self::new(common).await?;
        stack.start_service().await?;
        Ok(stack)
    }

    /// [`Self::start`] with a session that the broker keeps, Store and Forward and PersistOnError switched on while the
    /// service runs, and these settings below `Writable` with it.
    pub(crate) async fn start_storing(settings: &[(&str, &str)]) -> Result<Self> {
        let stack = Self::start(DURABLE).await?;
        stack.store_and_forward(settings).await?;
        Ok(stack)
    }

    /// Switches Store and Forward and PersistOnError on.
    pub(crate) async fn store_and_forward(&self, settings: &[(&str, &str)]) -> Result<()> {
        let on = [
            ("StoreAndForward/Enabled", "true"),
            ("Pipeline/Functions/HTTPExport/Parameters/PersistOnError", "true"),
        ];
        self.set(&[&on, settings].concat()).await?;
        self.service
            .wait_config("/Writable/StoreAndForward/Enabled", true)
            .await;
        Ok(())
    }

    /// Starts the service and waits until the broker has its subscription.
    pub(crate) async fn start_service(&mut self) -> Result<()> {
        start_subscribed(&mut self.service, &mut self.broker).await
    }

    /// Sets private keys below `Writable`, in one transaction.
    pub(crate) async fn set(&self, settings: &[(&str, &str)]) -> Result<()> {
        let key = |(path, value): &(&str, &str)| (format!("{PRIVATE}Writable/{path}"), (*value).to_owned());
        let keys: Vec<(String, String)> = settings.iter().map(key).collect();
        self.consul.txn(&keys).await
    }

    /// Publishes events by their numbers.
    pub(crate) async fn publish(&self, numbers: impl IntoIterator<Item = u64>) -> Result<()> {
        publish(self.broker.port(), numbers).await
    }
}

/// Starts a service and waits until it answers and the broker has its subscription.
pub(crate) async fn start_subscribed(service: &mut Service, broker: &mut Mosquitto) -> Result<()> {
    start_subscribed_to(service, broker, "edgex/").await
}

/// As [`start_subscribed`], with a subscription that begins like this.
pub(crate) async fn start_subscribed_to(
    service: &mut Service,
    broker: &mut Mosquitto,
    filter: &str,
) -> Result<()> {
    let before = broker.process().line_count();
    service.start().await?;
    // Mosquitto writes `<time>: <client id> <qos> <filter>`.
    broker
        .process()
        .wait_for_line_after(before, &format!(" {filter}"), LONG)
        .await;
    Ok(())
}

/// Writes the common configuration as core-common-config-bootstrapper does: the recorded keys, pointing at the servers
/// of this test, and the mark of completion last.
pub(crate) async fn seed_common(consul: &Consul, broker_port: u16, others: &[(&str, &str)]) -> Result<()> {
    let recorded = fixtures::consul_export()?;
    let mut keys = BTreeMap::new();
    for (key, value) in recorded {
        if let Some(path) = key.strip_prefix(COMMON) {
            keys.insert(path.to_owned(), String::from_utf8(value.to_vec())?);
        }
    }
    ensure!(
        keys.remove("IsCommonConfigReady").is_some(),
        "the recording is complete"
    );
    let (broker_port, consul_port) = (broker_port.to_string(), consul.port().to_string());
    let ours = [
        ("all-services/MessageBus/Type", "mqtt"),
        ("all-services/MessageBus/Protocol", "tcp"),
        ("all-services/MessageBus/Host", "127.0.0.1"),
        ("all-services/MessageBus/Port", &broker_port),
        ("all-services/Registry/Host", "127.0.0.1"),
        ("all-services/Registry/Port", &consul_port),
        ("all-services/Database/Type", "sqlite"),
    ];
    for (path, value) in ours.iter().chain(others) {
        keys.insert((*path).to_owned(), (*value).to_owned());
    }
    let keys: Vec<_> = keys
        .into_iter()
        .map(|(path, value)| (format!("{COMMON}{path}"), value))
        .collect();
    consul.put_all(&keys).await?;
    consul.put(&format!("{COMMON}IsCommonConfigReady"), "true").await
}

/// Private keys with which REST is served over TLS with this certificate.
pub(crate) fn https_settings(certificate: &Certificate) -> Vec<(String, String)> {
    let settings = [
        ("HttpServer/Protocol", "https"),
        ("HttpServer/SecretName", "web"),
        ("HttpServer/HTTPSCertName", "cert"),
        ("HttpServer/HTTPSKeyName", "key"),
        ("Writable/InsecureSecrets/web/SecretName", "web"),
        ("Writable/InsecureSecrets/web/SecretData/cert", &certificate.pem),
        ("Writable/InsecureSecrets/web/SecretData/key", &certificate.key),
    ];
    let key = |(path, value): (&str, &str)| (format!("{PRIVATE}{path}"), value.to_owned());
    settings.map(key).into()
}

/// The topic of events by number.
pub(crate) const TOPIC: &str = "edgex/events/device/device-test/Test-Profile/Test-Device/Value";

/// The id of the event with this number.
pub(crate) fn event_id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// The event with this number: one reading whose value is the number, an origin beyond what a double holds.
pub(crate) fn event(number: u64) -> Value {
    event_of(
        &event_id(number),
        1_700_000_000_000_000_001 + number,
        &number.to_string(),
    )
}

/// An event with one reading of type String.
pub(crate) fn event_of(id: &str, origin: u64, value: &str) -> Value {
    let reading = json!({
        "id": id,
        "origin": origin,
        "deviceName": "Test-Device",
        "resourceName": "Value",
        "profileName": "Test-Profile",
        "valueType": "String",
        "value": value,
    });
    json!({
        "apiVersion": "v3",
        "id": id,
        "deviceName": "Test-Device",
        "profileName": "Test-Profile",
        "sourceName": "Value",
        "origin": origin,
        "readings": [reading],
    })
}

/// The envelope around an event, as EdgeX 3 writes it: an AddEventRequest in base64.
pub(crate) fn envelope(event: &Value) -> Vec<u8> {
    let request = json!({"apiVersion": "v3", "requestId": event["id"], "event": event}).to_string();
    let envelope = json!({
        "apiVersion": "v3",
        "receivedTopic": "",
        "correlationID": event["id"],
        "requestID": "",
        "errorCode": 0,
        "payload": base64_simd::STANDARD.encode_to_string(request),
        "contentType": "application/json",
    });
    envelope.to_string().into_bytes()
}

/// Publishes events by their numbers at QoS 1; the broker has them when it returns.
pub(crate) async fn publish(port: u16, numbers: impl IntoIterator<Item = u64>) -> Result<()> {
    let mut publisher = MqttPublisher::connect(port).await?;
    let messages = numbers
        .into_iter()
        .map(|number| (TOPIC, envelope(&event(number))));
    publisher.publish_all(messages, Qos::AtLeastOnce).await
}

/// The id of the event in a request.
pub(crate) fn exported_id(request: &Received) -> Option<String> {
    request.json()["id"].as_str().map(str::to_owned)
}

/// How often each event was accepted, by id.
pub(crate) fn accepted(sink: &HttpSink) -> BTreeMap<String, usize> {
    sink.count_by(|request| {
        (request.status == Some(200))
            .then(|| exported_id(request))
            .flatten()
    })
}

/// How often each event was sent, accepted or not, by id.
pub(crate) fn sent(sink: &HttpSink) -> BTreeMap<String, usize> {
    sink.count_by(exported_id)
}

/// Each of the numbered events this often.
pub(crate) fn each(numbers: impl IntoIterator<Item = u64>, times: usize) -> BTreeMap<String, usize> {
    numbers
        .into_iter()
        .map(|number| (event_id(number), times))
        .collect()
}

/// Waits until each of the numbered events has been accepted at least once.
#[track_caller]
pub(crate) fn wait_accepted(
    sink: &HttpSink,
    numbers: impl IntoIterator<Item = u64>,
) -> impl Future<Output = ()> {
    let wanted = each(numbers, 1);
    wait_until_owned("the events to be accepted".to_owned(), async move || {
        let accepted = accepted(sink);
        let missing: Vec<&String> = wanted.keys().filter(|id| !accepted.contains_key(*id)).collect();
        ensure!(
            missing.is_empty(),
            "{} are missing: {:?}",
            missing.len(),
            missing.iter().take(5)
        );
        Ok(())
    })
}

/// A destination that is there and refuses.
pub(crate) fn refusing() -> Behaviour {
    Behaviour::status(503)
}
