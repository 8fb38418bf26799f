//! An export destination that does as the test tells it. Owns the listening port and the record of requests; what a
//! request means belongs to the test.
//!
//! Every request is recorded when its body is complete, before it is answered, so that a request that is never answered
//! is there to be counted too. Connections are kept alive as HTTP/1.1 has it.

use std::collections::BTreeMap;
use std::io;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::collected::{Collected, Writer, collected};
use crate::http::{Headers, header, read_body, read_head};
use crate::port::Port;
use crate::wait;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// `POST`, `PUT`, …
    pub method: String,
    /// The path with its query, as sent.
    pub target: String,
    /// The header fields in order.
    pub headers: Headers,
    /// The whole body, chunks joined.
    pub body: Bytes,
    /// When the body was complete.
    pub at: Instant,
    /// The status that the sink decided to answer; `None` when it decided to reset, hang or break off.
    pub status: Option<u16>,
}

impl Received {
    /// The first header field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as JSON, `Null` when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Headers,
    body: Bytes,
    delay: Duration,
}

impl Answer {
    /// An answer with an empty body, at once.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Headers::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
        }
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With one more header field; `Content-Length` is added anyhow.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sent this long after the request was complete.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// What the sink does with a request.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Answers it.
    Answer(Answer),
    /// Cuts the connection with a TCP reset.
    Reset,
    /// Keeps the connection open and never answers.
    Hang,
    /// Announces a body with status 200, sends half of it and closes.
    HalfAnswer,
}

impl Behaviour {
    /// Answers this status with an empty body.
    pub fn status(status: u16) -> Self {
        Answer::new(status).into()
    }

    fn answered_status(&self) -> Option<u16> {
        match self {
            Self::Answer(answer) => Some(answer.status),
            Self::Reset | Self::Hang | Self::HalfAnswer => None,
        }
    }
}

impl From<Answer> for Behaviour {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

type Script = Box<dyn FnMut(&Received) -> Behaviour + Send>;

/// An HTTP server on a port of its own that records requests and, until told otherwise, answers 200 with an empty body.
///
/// ```
/// # use edgehold_test_support::{Behaviour, HttpSink, http, wait};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let sink = HttpSink::start().await?;
/// sink.behave(Behaviour::status(503));
///
/// let answer = http::send(sink.port(), "POST", "/export", &[], b"{}").await?;
///
/// assert_eq!(answer.status, 503);
/// assert_eq!(sink.wait_for(1, wait::LONG).await[0].target, "/export");
/// # anyhow::Ok(())
/// # })?;
/// # anyhow::Ok(())
/// ```
pub struct HttpSink {
    port: Port,
    shared: Arc<Shared>,
    requests: Collected<Received>,
    /// `None` while connections are refused.
    serving: Option<JoinHandle<()>>,
}

struct Shared {
    script: Mutex<Script>,
    record: Writer<Received>,
}

impl HttpSink {
    /// Starts to listen on 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self> {
        let (record, requests) = collected();
        let script = Mutex::new(always(Behaviour::status(200)));
        let shared = Arc::new(Shared { script, record });
        let mut sink = Self {
            port: Port::hold()?,
            shared,
            requests,
            serving: None,
        };
        sink.reopen().await?;
        Ok(sink)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// `http://127.0.0.1:<port><path>`; `path` begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port())
    }

    /// From the next request on, does this with each one.
    pub fn behave(&self, behaviour: Behaviour) {
        self.script(always(behaviour));
    }

    /// From the next request on, asks `script` what to do with each one, one at a time in the order of arrival.
    /// (Its `status` is not decided yet and reads `None`.)
    pub fn script(&self, script: impl FnMut(&Received) -> Behaviour + Send + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// Cuts every connection and refuses new ones, as a destination that is down. Keeps the port for
    /// [`Self::reopen`]; the record stays.
    pub async fn refuse(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // The port is closed only when the task is gone; that it was cancelled is no news.
            let _ = serving.await;
        }
    }

    /// Listens again on the same port. Does nothing when it does already.
    ///
    /// # Errors
    /// When somebody outside the tests took the port meanwhile.
    pub async fn reopen(&mut self) -> Result<()> {
        if self.serving.is_none() {
            let listener = listen(self.port()).await.context("opening the HTTP sink")?;
            #[expect(clippy::disallowed_methods, reason = "the handle is kept and aborted on drop")]
            let serving = tokio::spawn(serve(listener, Arc::clone(&self.shared)));
            self.serving = Some(serving);
        }
        Ok(())
    }

    /// Every request so far, in the order in which they were complete.
    pub fn requests(&self) -> Vec<Received> {
        self.requests.all()
    }

    /// How many requests there are, without copying them.
    pub fn count(&self) -> usize {
        self.requests.with(<[_]>::len)
    }

    /// Takes the requests out of the record, which then counts from none again.
    pub fn take(&self) -> Vec<Received> {
        self.shared.record.take()
    }

    /// How often each key came; requests for which `key` is `None` are left out. For ids of events, say, to see what is
    /// missing and what came twice.
    pub fn count_by(&self, key: impl Fn(&Received) -> Option<String>) -> BTreeMap<String, usize> {
        self.requests.with(|requests| {
            let mut counts = BTreeMap::new();
            for key in requests.iter().filter_map(key) {
                *counts.entry(key).or_default() += 1;
            }
            counts
        })
    }

    /// Waits until at least `count` requests are on record and returns all of them.
    ///
    /// # Panics
    /// At the deadline, with the number that came.
    #[track_caller]
    pub fn wait_for(&self, count: usize, deadline: Duration) -> impl Future<Output = Vec<Received>> {
        let caller = Location::caller();
        async move {
            let what = format!("{count} requests at the HTTP sink");
            let pick = |requests: &[Received]| (requests.len() >= count).then_some(());
            let tell = |requests: &[Received]| format!("there were {}", requests.len());
            self.requests.wait_for(caller, &what, deadline, pick, tell).await;
            self.requests()
        }
    }

    /// Waits until a request for which `wanted` is true is on record and returns the first such. `what` names it.
    ///
    /// # Panics
    /// At the deadline, with the number of requests that came.
    #[track_caller]
    pub fn wait_for_request(
        &self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Received) -> bool,
    ) -> impl Future<Output = Received> {
        let caller = Location::caller();
        async move {
            let pick = |requests: &[Received]| requests.iter().find(|request| wanted(request)).cloned();
            let tell = |requests: &[Received]| format!("none of the {} requests was it", requests.len());
            self.requests.wait_for(caller, what, deadline, pick, tell).await
        }
    }
}

impl Drop for HttpSink {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

fn always(behaviour: Behaviour) -> Script {
    Box::new(move |_| behaviour.clone())
}

/// Listens on a port that is held. A process that another test is just starting has, until it runs its own program, a
/// copy of every socket of this one, also of one that was closed a moment ago: the port may be taken for that long.
async fn listen(port: u16) -> io::Result<TcpListener> {
    let deadline = Instant::now() + wait::LONG;
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
}

/// Accepts until aborted; the connections end with it, because the set that holds them is dropped.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // One that went away before it was accepted is no concern of ours.
                if let Ok((stream, _)) = accepted {
                    connections.spawn(converse(stream, Arc::clone(&shared)));
                }
            }
            // Collects the ended ones. A client that breaks off in the middle is part of many tests.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(head) = read_head(&mut stream).await? {
        let mut words = head.start_line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body = read_body(&mut stream, &head.headers, false).await?;
        let request = Received {
            method,
            target,
            headers: head.headers,
            body,
            at: Instant::now(),
            status: None,
        };
        match shared.decide(request) {
            Behaviour::Answer(answer) => {
                sleep(answer.delay).await;
                stream.write_all(&encode(&answer, answer.body.len())).await?;
            }
            Behaviour::Reset => return stream.get_ref().set_zero_linger(),
            // Ends with the sink, or when the client gives up and closes.
            Behaviour::Hang => drop(read_head(&mut stream).await?),
            Behaviour::HalfAnswer => {
                let half = Answer::new(200).body("{\"half\":");
                return stream.write_all(&encode(&half, half.body.len() * 2)).await;
            }
        }
    }
    Ok(())
}

impl Shared {
    /// Asks the script and puts the request on record, under one lock so that both see the same order.
    fn decide(&self, mut request: Received) -> Behaviour {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let behaviour = script(&request);
        request.status = behaviour.answered_status();
        self.record.push(request);
        behaviour
    }
}

fn encode(answer: &Answer, announced_length: usize) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {} Told\r\nContent-Length: {announced_length}\r\n",
        answer.status
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    [head.as_bytes(), &answer.body].concat()
}
