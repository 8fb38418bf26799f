//! A stand-in for Core Keeper of EdgeX 4.0, which is not to be had as a package. Owns its port, what it keeps, the checks of
//! the services registered with it, and the notices it publishes.
//!
//! It is made from recordings (`tests/fixtures/v4/keeper` and `wire`, against which `tests/keeper.rs` holds it, byte for byte
//! but for times and ids) and, where they say nothing, from Core Keeper's API description and database statements:
//!
//! - A read is one statement, and so is a write of one key; a flattened write of many keys is one transaction. Nothing
//!   else is: neither several requests, nor a write that depends on what is there.
//! - After a write that was answered a notice goes to the message bus, with QoS 0 and without waiting for it. A broker that
//!   is away misses it.
//! - What it keeps is in PostgreSQL: stopping and starting it changes nothing there. Checks begin afresh.

mod kvs;
mod notices;
mod registry;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::http::{self, Response};
use crate::http_sink::{Answer, Behaviour, HttpSink, Received};
use crate::unique::unique_name;

use self::kvs::Kvs;
use self::notices::Bus;
use self::registry::Services;

pub use self::notices::KeeperNotice;

/// A Core Keeper of the test's own. Without access control unless [`Keeper::require_token`] says otherwise.
///
/// ```
/// # use edgehold_test_support::Keeper;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let keeper = Keeper::start().await?;
/// keeper.put("edgex/v4/app-x/Writable/LogLevel", "DEBUG").await?;
/// keeper.put_all("edgex/v4/app-x", &[("Service/Port", "59700"), ("Service/Host", "localhost")]).await?;
///
/// assert_eq!(keeper.list("edgex/v4/app-x").len(), 3);
/// # anyhow::Ok(())
/// # })?;
/// # anyhow::Ok(())
/// ```
pub struct Keeper {
    sink: HttpSink,
    shared: Arc<Shared>,
}

/// What lives in the database and between requests.
struct Shared {
    kvs: Mutex<Kvs>,
    services: Services,
    bus: Bus,
    conditions: Mutex<Conditions>,
}

/// How it fares.
#[derive(Default)]
struct Conditions {
    token: Option<String>,
    fault: Option<Behaviour>,
    delay: Duration,
}

impl Keeper {
    /// Starts it, with nothing in it and without a message bus.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self> {
        Self::start_with(Bus::none()).await
    }

    /// Starts it with a broker for its notices at 127.0.0.1:`port`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn with_mqtt(port: u16) -> Result<Self> {
        Self::start_with(Bus::mqtt(port)).await
    }

    async fn start_with(bus: Bus) -> Result<Self> {
        let sink = HttpSink::start().await?;
        let shared = Arc::new(Shared {
            kvs: Mutex::default(),
            services: Services::default(),
            bus,
            conditions: Mutex::default(),
        });
        let answering = Arc::clone(&shared);
        sink.script(move |request| answering.behave(request));
        Ok(Self { sink, shared })
    }

    /// The port of its API.
    pub fn port(&self) -> u16 {
        self.sink.port()
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Received> {
        self.sink.requests()
    }

    /// Writes one key, as `PUT …/kvs/key/<key>` does.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        self.write(key, &Value::from(value), false).await
    }

    /// Writes leaves below `folder` with one flattened request: together, with one notice for the folder.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn put_all<K: AsRef<str>>(&self, folder: &str, leaves: &[(K, &str)]) -> Result<()> {
        let mut tree = Value::Object(serde_json::Map::new());
        for (path, value) in leaves {
            let mut place = &mut tree;
            for segment in path.as_ref().split('/') {
                place = &mut place[segment];
            }
            *place = Value::from(*value);
        }
        self.write(folder, &tree, true).await
    }

    async fn write(&self, key: &str, value: &Value, flatten: bool) -> Result<()> {
        let target = format!("/api/v3/kvs/key/{}?flatten={flatten}", encoded(key));
        let body = serde_json::json!({"apiVersion": "v3", "value": value});
        self.ask("PUT", &target, body.to_string().as_bytes()).await
    }

    /// Deletes a key; with `prefix_match` those below it too.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn delete(&self, key: &str, prefix_match: bool) -> Result<()> {
        let target = format!("/api/v3/kvs/key/{}?prefixMatch={prefix_match}", encoded(key));
        self.ask("DELETE", &target, b"").await
    }

    /// Changes that others make, whatever is wrong with it for the one under test.
    async fn ask(&self, method: &str, target: &str, body: &[u8]) -> Result<()> {
        let request = Received {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![("X-Correlation-ID".to_owned(), new_id())],
            body: body.to_vec().into(),
            at: tokio::time::Instant::now(),
            status: None,
        };
        let answer = self.shared.answer(&request);
        ensure!(answer.status < 300, "{method} {target}: {}", answer.status);
        // As over the wire: others get their turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Keys and values as they are, at or below `key`.
    pub fn list(&self, key: &str) -> Vec<(String, String)> {
        self.shared.kvs().list(key)
    }

    /// The registered services as they are, each as in an answer; those that were deregistered too.
    pub fn services(&self) -> Vec<Value> {
        self.shared.services.all()
    }

    /// Forgets a service, as somebody's `DELETE` does.
    pub fn forget(&self, service_id: &str) -> bool {
        self.shared.services.remove(service_id)
    }

    /// Every notice so far, whether the bus took it or not.
    pub fn notices(&self) -> Vec<KeeperNotice> {
        self.shared.bus.published()
    }

    /// From now on answers only those who show this token, and others with 401.
    pub fn require_token(&self, token: &str) {
        self.shared.conditions().token = Some(token.to_owned());
    }

    /// Does this with every request, and nothing of what it asks for; none: as it should.
    pub fn fault(&self, fault: Option<Behaviour>) {
        self.shared.conditions().fault = fault;
    }

    /// Answers this late.
    pub fn slow(&self, delay: Duration) {
        self.shared.conditions().delay = delay;
    }

    /// Ends as if killed. What it keeps stays.
    pub async fn stop(&mut self) {
        self.sink.refuse().await;
        self.shared.services.end_checks();
    }

    /// Is there again.
    ///
    /// # Errors
    /// When somebody took its port.
    pub async fn restart(&mut self) -> Result<()> {
        self.shared.services.begin_checks();
        self.sink.reopen().await
    }

    /// One request of its API, over the wire.
    ///
    /// # Errors
    /// As [`http::send`].
    pub async fn send(&self, method: &str, target: &str, body: &[u8]) -> Result<Response> {
        http::send(self.port(), method, target, &[], body)
            .await
            .context("asking Keeper")
    }
}

impl Shared {
    fn kvs(&self) -> MutexGuard<'_, Kvs> {
        self.kvs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it does with a request from outside.
    fn behave(&self, request: &Received) -> Behaviour {
        let delay = {
            let conditions = self.conditions();
            if let Some(fault) = &conditions.fault {
                return fault.clone();
            }
            let is_open = request.target.starts_with("/api/v3/ping");
            if let Some(token) = conditions.token.as_ref().filter(|_| !is_open)
                && request.header("Authorization") != Some(&format!("Bearer {token}"))
            {
                return Reply::error(401, "the token is missing or not valid")
                    .into_answer(request)
                    .into();
            }
            conditions.delay
        };
        self.answer(request).into_answer(request).after(delay).into()
    }

    fn answer(&self, request: &Received) -> Reply {
        let (path, query) = match request.target.split_once('?') {
            Some((path, query)) => (path, query),
            None => (request.target.as_str(), ""),
        };
        let method = request.method.as_str();
        if let Some(key) = path.strip_prefix("/api/v3/kvs/key/") {
            return self.about_keys(method, &decoded(key), &Query(query), request);
        }
        if let Some(path) = path.strip_prefix("/api/v3/registry") {
            return self.services.answer(method, path, &Query(query), request);
        }
        match (method, path) {
            // Unlike the rest, these end without a new line.
            ("GET", "/api/v3/ping") => Reply::raw(format!(
                r#"{{"apiVersion":"v3","timestamp":"{}","serviceName":"core-keeper"}}"#,
                "Sun Nov 22 15:21:35 UTC 2026"
            )),
            ("GET", "/api/v3/version") => {
                Reply::raw(r#"{"apiVersion":"v3","version":"4.0.1","serviceName":"core-keeper"}"#.to_owned())
            }
            // The router's own words.
            _ => Reply {
                status: 404,
                body: "{\"message\":\"Not Found\"}\n".to_owned(),
            },
        }
    }

    fn about_keys(&self, method: &str, key: &str, query: &Query<'_>, request: &Received) -> Reply {
        let mut kvs = self.kvs();
        let reply = match method {
            "GET" => return kvs.get(key, query),
            "PUT" => kvs.put(key, query, &request.body),
            "DELETE" => kvs.delete(key, query),
            _ => return Reply::error(405, "Method Not Allowed"),
        };
        if reply.status < 300 {
            let value: Option<Value> = match method {
                "PUT" => request.json().get("value").cloned(),
                _ => None,
            };
            // While the lock is held, so that notices come in the order of the writes.
            self.bus.publish(key, value, correlation_id(request));
        }
        reply
    }
}

/// A status and the body it comes with.
struct Reply {
    status: u16,
    body: String,
}

impl Reply {
    fn raw(body: String) -> Self {
        Self { status: 200, body }
    }

    /// As Go's encoder writes it, with a new line behind it.
    fn json(status: u16, body: &impl Serialize) -> Self {
        let mut body = json_of_go(body);
        body.push('\n');
        Self { status, body }
    }

    fn empty(status: u16) -> Self {
        Self {
            status,
            body: String::new(),
        }
    }

    fn error(status: u16, message: &str) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Refusal<'a> {
            api_version: &'a str,
            message: &'a str,
            status_code: u16,
        }
        let refusal = Refusal {
            api_version: "v3",
            message,
            status_code: status,
        };
        Self::json(status, &refusal)
    }

    fn into_answer(self, request: &Received) -> Answer {
        Answer::new(self.status)
            .header("Content-Type", "application/json")
            .header("X-Correlation-Id", &correlation_id(request))
            .body(self.body)
    }
}

/// Go writes these three, which only texts can hold, so that JSON may stand in a page.
fn json_of_go(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("what Keeper says is made of texts and numbers");
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// What stands behind the question mark.
struct Query<'a>(&'a str);

impl Query<'_> {
    /// Absent is false; anything that Go does not take for a truth value is an error.
    fn flag(&self, name: &str) -> Result<bool, Reply> {
        let mut pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        match pairs.find(|(key, _)| *key == name).map(|(_, value)| value) {
            None | Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
            Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
            Some(_) => Err(Reply::error(400, &format!("unable to parse querystring {name}"))),
        }
    }
}

/// The id a request states, or a new one.
fn correlation_id(request: &Received) -> String {
    let stated = request.header("X-Correlation-ID").filter(|id| !id.is_empty());
    stated.map_or_else(new_id, str::to_owned)
}

fn new_id() -> String {
    unique_name("correlation")
}

fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A key as one segment of a path, encoded as EdgeX's client does it.
fn encoded(key: &str) -> String {
    let mut text = String::new();
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn decoded(segment: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
