//! The NATS server as a value, with JetStream. Owns its port, its folder and its process; and a small client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::nats_operator::NatsOperator;
use crate::port::Port;
use crate::process::{Process, installed_program};
use crate::tls::{Authority, Certificate};
use crate::unique::unique_name;
use crate::wait::LONG;

/// A NATS server of the test's own. JetStream is on, and what its streams keep survives a restart.
///
/// ```no_run
/// # use edgehold_test_support::Nats;
/// # async fn example() -> anyhow::Result<()> {
/// let mut server = Nats::start().await?;
/// server.client().await?.publish("edgex.events", &[], b"{}").await?;
/// server.restart().await?; // the same port, and the streams as they were
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Nats {
    // Before the folder, so that the process is gone when the folder goes.
    process: Process,
    program: PathBuf,
    port: Port,
    folder: TempDir,
    connect: Value,
    operated: bool,
}

/// What a server is to be like beyond the defaults.
#[derive(Debug)]
pub struct NatsBuilder {
    lines: String,
    tls: Option<Tls>,
    connect: Value,
    operated: bool,
}

#[derive(Debug)]
struct Tls {
    certificate: Certificate,
    /// In PEM, whose certificates the clients have to have.
    clients: Option<String>,
}

impl NatsBuilder {
    /// Answers TLS with this certificate. The test's own clients still get in without.
    #[must_use]
    pub fn tls(mut self, certificate: &Certificate) -> Self {
        self.tls = Some(Tls {
            certificate: certificate.clone(),
            clients: None,
        });
        self
    }

    /// As [`Self::tls`], and of those who speak TLS it takes only clients with a certificate of this authority.
    #[must_use]
    pub fn mutual_tls(mut self, authority: &Authority, certificate: &Certificate) -> Self {
        self.tls = Some(Tls {
            certificate: certificate.clone(),
            clients: Some(authority.pem().to_owned()),
        });
        self
    }

    /// Adds a line to the configuration file, for instance `max_payload: 8MB`.
    #[must_use]
    pub fn config(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }

    /// The test's own clients say that they are this user.
    #[must_use]
    pub fn connect_as(mut self, user: &str, password: &str) -> Self {
        self.connect["user"] = user.into();
        self.connect["pass"] = password.into();
        self
    }

    /// Lets in by JWT alone, so that no client of the test's own does; and has no JetStream, which would want an account
    /// for the system.
    ///
    /// # Errors
    /// As [`NatsOperator::server_config`].
    pub fn operated_by(mut self, operator: &NatsOperator) -> Result<Self> {
        self.operated = true;
        Ok(self.config(&operator.server_config()?))
    }

    /// Asks everybody for this user and password.
    #[must_use]
    pub fn user(self, user: &str, password: &str) -> Self {
        self.connect_as(user, password).config(&format!(
            "authorization {{ users: [ {{ user: \"{user}\", password: \"{password}\" }} ] }}"
        ))
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When the NATS server is not installed, refuses the configuration, or does not answer within a minute; with the end
    /// of its log.
    pub async fn start(self) -> Result<Nats> {
        let program = installed_program("nats-server", "nats-server")?;
        let folder = TempDir::with_prefix("edgehold-nats-").context("making the folder of a NATS server")?;
        let port = Port::hold()?;
        let jetstream = match self.operated {
            true => String::new(),
            false => format!(
                "jetstream {{ store_dir: \"{}\" }}",
                folder.path().join("data").display()
            ),
        };
        let tls = match &self.tls {
            Some(tls) => tls.config(folder.path())?,
            None => String::new(),
        };
        let config = format!(
            "listen: 127.0.0.1:{}\n{jetstream}\n{tls}\n{}",
            port.number(),
            self.lines
        );
        std::fs::write(folder.path().join("nats.conf"), config).context("writing nats.conf")?;
        let process = run(&program, folder.path())?;
        let mut server = Nats {
            process,
            program,
            port,
            folder,
            connect: self.connect,
            operated: self.operated,
        };
        server.wait_until_ready().await?;
        Ok(server)
    }
}

impl Tls {
    /// Writes its files into the folder. Answers the lines that name them.
    fn config(&self, folder: &Path) -> Result<String> {
        let mut files = vec![
            ("cert_file", "cert.pem", &self.certificate.pem),
            ("key_file", "key.pem", &self.certificate.key),
        ];
        files.extend(
            self.clients
                .as_ref()
                .map(|authority| ("ca_file", "ca.pem", authority)),
        );
        let mut lines = format!(
            "allow_non_tls: true\ntls {{\n verify: {}\n",
            self.clients.is_some()
        );
        for (setting, name, text) in files {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("writing {name}"))?;
            lines.push_str(&format!(" {setting}: \"{}\"\n", path.display()));
        }
        lines.push('}');
        Ok(lines)
    }
}

impl Nats {
    /// Starts a server with the defaults.
    ///
    /// # Errors
    /// As [`NatsBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// For a server with settings of its own.
    pub fn builder() -> NatsBuilder {
        NatsBuilder {
            lines: String::new(),
            tls: None,
            operated: false,
            connect: json!({ "verbose": false, "pedantic": false, "headers": true }),
        }
    }

    /// The port on 127.0.0.1, the same for the whole life of the value.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The process, for its signals. Since the last start only.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A client of the test's own.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn client(&self) -> Result<NatsClient> {
        NatsClient::connect(self.port(), &self.connect).await
    }

    /// Stops it in order (SIGTERM). Does nothing when it is down.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    ///
    /// # Panics
    /// When it has not ended after a minute.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.signal_term()?;
        self.process.wait_exit(LONG).await;
        Ok(())
    }

    /// Stops it unless it is down already, and starts it again on the same port with what its streams kept.
    ///
    /// # Errors
    /// As [`NatsBuilder::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.process = run(&self.program, self.folder.path())?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + LONG;
        while let Err(error) = self.jetstream_answers().await {
            if let Some(status) = self.process.exit_status()? {
                bail!("nats-server ended with {status}:\n{}", self.process.tail());
            }
            let log = self.process.tail();
            ensure!(
                Instant::now() < end,
                "nats-server was not ready after {LONG:?}: {error:#}\n{log}"
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn jetstream_answers(&self) -> Result<()> {
        if self.operated {
            // It listens.
            TcpStream::connect(("127.0.0.1", self.port())).await?;
            return Ok(());
        }
        let info = self.client().await?.jetstream("INFO", &Value::Null).await?;
        ensure!(info.get("error").is_none(), "JetStream answers {info}");
        Ok(())
    }
}

fn run(program: &PathBuf, folder: &Path) -> Result<Process> {
    Process::start(
        "nats-server",
        Command::new(program).arg("-c").arg(folder.join("nats.conf")),
    )
}

/// What came by a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsMessage {
    /// Where it was published to.
    pub subject: String,
    /// Its headers; of a repeated one the last.
    pub headers: BTreeMap<String, String>,
    /// The rest.
    pub payload: Bytes,
}

/// A plain connection to a NATS server.
#[derive(Debug)]
pub struct NatsClient {
    stream: TcpStream,
    input: BytesMut,
}

impl NatsClient {
    async fn connect(port: u16, connect: &Value) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut client = Self {
            stream,
            input: BytesMut::new(),
        };
        let info = timeout(LONG, client.read_line()).await.context("no INFO")??;
        ensure!(info.starts_with("INFO "), "{info:?} is no INFO");
        client.send(format!("CONNECT {connect}\r\n").as_bytes()).await?;
        client.round_trip().await?;
        Ok(client)
    }

    /// Publishes, and returns when the server has read it.
    ///
    /// # Errors
    /// When the server refuses or says nothing for a minute.
    pub async fn publish(&mut self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Result<()> {
        let mut block = String::new();
        if !headers.is_empty() {
            block.push_str("NATS/1.0\r\n");
            for (name, value) in headers {
                block.push_str(&format!("{name}: {value}\r\n"));
            }
            block.push_str("\r\n");
        }
        let whole = block.len() + payload.len();
        let line = match headers {
            [] => format!("PUB {subject} {whole}\r\n"),
            _ => format!("HPUB {subject} {} {whole}\r\n", block.len()),
        };
        let mut out = line.into_bytes();
        out.extend_from_slice(block.as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        self.send(&out).await?;
        self.round_trip().await
    }

    /// Subscribes, and returns when the server knows it. What is published to it from then on comes by
    /// [`Self::next_message`].
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn subscribe(&mut self, subject: &str) -> Result<()> {
        self.send(format!("SUB {subject} 1\r\n").as_bytes()).await?;
        self.round_trip().await
    }

    /// The next message.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes for a minute.
    pub async fn next_message(&mut self) -> Result<NatsMessage> {
        timeout(LONG, self.read_message()).await.context("no message")?
    }

    /// Asks JetStream (`$JS.API.<question>`) over this connection, which must have no subscription.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn jetstream(&mut self, question: &str, request: &Value) -> Result<Value> {
        let inbox = unique_name("_INBOX");
        self.subscribe(&inbox).await?;
        let body = match request {
            Value::Null => String::new(),
            request => request.to_string(),
        };
        let line = format!("PUB $JS.API.{question} {inbox} {}\r\n{body}\r\n", body.len());
        self.send(line.as_bytes()).await?;
        let answer = self.next_message().await?;
        self.send(b"UNSUB 1\r\n").await?;
        ensure!(
            !answer.payload.is_empty(),
            "JetStream does not answer: {:?}",
            answer.headers
        );
        Ok(serde_json::from_slice(&answer.payload)?)
    }

    /// Makes a stream that keeps what is published to these subjects.
    ///
    /// # Errors
    /// When JetStream refuses, or as [`Self::jetstream`].
    pub async fn make_stream(&mut self, name: &str, subjects: &[&str]) -> Result<()> {
        let stream = json!({ "name": name, "subjects": subjects });
        self.make(&format!("STREAM.CREATE.{name}"), &stream).await
    }

    /// Makes a durable consumer of a stream, which is called what its `durable_name` says.
    ///
    /// # Errors
    /// As [`Self::make_stream`].
    pub async fn make_consumer(&mut self, stream: &str, consumer: Value) -> Result<()> {
        let name = consumer["durable_name"].as_str().context("no durable_name")?;
        let question = format!("CONSUMER.DURABLE.CREATE.{stream}.{name}");
        let request = json!({ "stream_name": stream, "config": consumer });
        self.make(&question, &request).await
    }

    async fn make(&mut self, question: &str, request: &Value) -> Result<()> {
        let answer = self.jetstream(question, request).await?;
        ensure!(answer.get("error").is_none(), "JetStream refuses: {answer}");
        Ok(())
    }

    async fn round_trip(&mut self) -> Result<()> {
        self.send(b"PING\r\n").await?;
        let pong = async {
            loop {
                match self.read_line().await?.as_str() {
                    "PONG" => return Ok(()),
                    "PING" => self.send(b"PONG\r\n").await?,
                    line if line.starts_with("-ERR") => bail!("NATS refuses: {line}"),
                    line if line.starts_with("INFO ") => {}
                    line => bail!("{line:?} is out of place"),
                }
            }
        };
        timeout(LONG, pong).await.context("no PONG")?
    }

    async fn read_message(&mut self) -> Result<NatsMessage> {
        loop {
            let line = self.read_line().await?;
            let mut words = line.split(' ');
            let kind = words.next().unwrap_or_default();
            let words: Vec<&str> = words.collect();
            let (headers, whole) = match kind {
                "PING" => {
                    self.send(b"PONG\r\n").await?;
                    continue;
                }
                "INFO" => continue,
                "MSG" => (0, words.last().context("no length")?.parse()?),
                "HMSG" => {
                    let [.., headers, whole] = words.as_slice() else {
                        bail!("{line:?} has no lengths");
                    };
                    (headers.parse()?, whole.parse::<usize>()?)
                }
                _ => bail!("{line:?} is out of place"),
            };
            self.read_at_least(whole + 2).await?;
            let block = self.input.split_to(headers);
            let payload = self.input.split_to(whole - headers).freeze();
            self.input.advance(2);
            let block = String::from_utf8_lossy(&block);
            let headers = block.lines().skip(1).filter_map(|line| line.split_once(':'));
            return Ok(NatsMessage {
                subject: words.first().copied().unwrap_or_default().to_owned(),
                headers: headers
                    .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                    .collect(),
                payload,
            });
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    async fn read_line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.input.split_to(end);
                self.input.advance(2);
                return Ok(String::from_utf8(line.to_vec())?);
            }
            self.read_at_least(self.input.len() + 1).await?;
        }
    }

    async fn read_at_least(&mut self, bytes: usize) -> Result<()> {
        while self.input.len() < bytes {
            ensure!(
                self.stream.read_buf(&mut self.input).await? > 0,
                "NATS closed the connection"
            );
        }
        Ok(())
    }
}
