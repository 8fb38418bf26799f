//! The Redis server as a value. Owns its port, its folder and its process.
//!
//! Nothing is saved: as a message bus Redis keeps nothing, and a restart is a server that has forgotten everything.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::port::Port;
use crate::process::{Process, installed_program};
use crate::wait::LONG;

/// A Redis server of the test's own.
///
/// ```no_run
/// # use edgehold_test_support::Redis;
/// # async fn example() -> anyhow::Result<()> {
/// let mut server = Redis::start().await?;
/// let receivers = server.publish("edgex.events", b"{}").await?;
/// server.restart().await?; // the same port
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Redis {
    // Before the folder, so that the process is gone when the folder goes.
    process: Process,
    program: PathBuf,
    arguments: Vec<String>,
    port: Port,
    folder: TempDir,
    password: Option<String>,
}

/// What a server is to be like beyond the defaults.
#[derive(Debug, Default)]
pub struct RedisBuilder {
    arguments: Vec<String>,
    password: Option<String>,
}

impl RedisBuilder {
    /// Adds a setting as on the command line, for instance `["--maxclients", "10"]`.
    #[must_use]
    pub fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(ToOwned::to_owned));
        self
    }

    /// Asks everybody for this password (`requirepass`).
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.arguments(["--requirepass", password])
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When Redis is not installed, refuses the settings, or does not answer within a minute; with the end of its log.
    pub async fn start(self) -> Result<Redis> {
        let program = installed_program("redis-server", "redis-server")?;
        let folder =
            TempDir::with_prefix("edgehold-redis-").context("making the folder of a Redis server")?;
        let port = Port::hold()?;
        let process = run(&program, &port, &folder, &self.arguments)?;
        let mut server = Redis {
            process,
            program,
            arguments: self.arguments,
            port,
            folder,
            password: self.password,
        };
        server.wait_until_ready().await?;
        Ok(server)
    }
}

impl Redis {
    /// Starts a server with the defaults.
    ///
    /// # Errors
    /// As [`RedisBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// For a server with settings of its own.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// The port on 127.0.0.1, the same for the whole life of the value.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The process, for its signals. Since the last start only.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Publishes as EdgeX does, over a connection of its own: how many clients received it.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn publish(&self, channel: &str, message: &[u8]) -> Result<i64> {
        let mut client = RedisClient::connect(self.port(), self.password.as_deref()).await?;
        match client.ask(&[b"PUBLISH", channel.as_bytes(), message]).await? {
            Answer::Integer(receivers) => Ok(receivers),
            answer => bail!("{answer:?} is no answer to PUBLISH"),
        }
    }

    /// Publishes until somebody has received it: whoever subscribes may not be there yet.
    ///
    /// # Errors
    /// As [`Self::publish`]; when nobody has received it within a minute.
    pub async fn publish_to_somebody(&self, channel: &str, message: &[u8]) -> Result<()> {
        let end = Instant::now() + LONG;
        while self.publish(channel, message).await? == 0 {
            ensure!(Instant::now() < end, "nobody subscribes to {channel}");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// A client of the test's own.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn client(&self) -> Result<RedisClient> {
        RedisClient::connect(self.port(), self.password.as_deref()).await
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

    /// Stops it unless it is down already, and starts it again on the same port.
    ///
    /// # Errors
    /// As [`RedisBuilder::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.process = run(&self.program, &self.port, &self.folder, &self.arguments)?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + LONG;
        while let Err(error) = RedisClient::connect(self.port(), self.password.as_deref()).await {
            if let Some(status) = self.process.exit_status()? {
                bail!("redis-server ended with {status}:\n{}", self.process.tail());
            }
            let log = self.process.tail();
            ensure!(
                Instant::now() < end,
                "redis-server was not ready after {LONG:?}: {error:#}\n{log}"
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

fn run(program: &PathBuf, port: &Port, folder: &TempDir, arguments: &[String]) -> Result<Process> {
    Process::start(
        "redis-server",
        Command::new(program)
            .current_dir(folder.path())
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &port.number().to_string()])
            .args(arguments),
    )
}

/// What a server says, as far as tests ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A line or a string.
    Text(Bytes),
    /// A number.
    Integer(i64),
    /// Several.
    List(Vec<Answer>),
    /// Nothing.
    Null,
}

/// A plain connection to a Redis server, protected by no more than the test needs.
#[derive(Debug)]
pub struct RedisClient {
    stream: TcpStream,
    input: BytesMut,
}

impl RedisClient {
    async fn connect(port: u16, password: Option<&str>) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut client = Self {
            stream,
            input: BytesMut::new(),
        };
        if let Some(password) = password {
            client.ask(&[b"AUTH", password.as_bytes()]).await?;
        }
        client.ask(&[b"PING"]).await?;
        Ok(client)
    }

    /// Sends one command and waits for the answer.
    ///
    /// # Errors
    /// When the server refuses or says nothing for a minute.
    pub async fn ask(&mut self, command: &[&[u8]]) -> Result<Answer> {
        let mut out = format!("*{}\r\n", command.len()).into_bytes();
        for argument in command {
            out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            out.extend_from_slice(argument);
            out.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&out).await?;
        self.next().await
    }

    /// Subscribes to a pattern. What is published to it from then on comes by [`Self::next_message`].
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn subscribe(&mut self, pattern: &str) -> Result<()> {
        self.ask(&[b"PSUBSCRIBE", pattern.as_bytes()]).await.map(drop)
    }

    /// The next message: its channel and its content.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes for a minute.
    pub async fn next_message(&mut self) -> Result<(String, Bytes)> {
        loop {
            let Answer::List(values) = self.next().await? else {
                continue;
            };
            if let [_, _, Answer::Text(channel), Answer::Text(content)] = values.as_slice() {
                return Ok((String::from_utf8_lossy(channel).into_owned(), content.clone()));
            }
        }
    }

    async fn next(&mut self) -> Result<Answer> {
        timeout(LONG, self.read_value())
            .await
            .context("Redis says nothing")?
    }

    async fn read_value(&mut self) -> Result<Answer> {
        let line = self.read_line().await?;
        let (kind, rest) = line.split_at_checked(1).context("an empty line")?;
        Ok(match kind {
            "+" => Answer::Text(Bytes::copy_from_slice(rest.as_bytes())),
            "-" => bail!("Redis refuses: {rest}"),
            ":" => Answer::Integer(rest.parse()?),
            "$" if rest == "-1" => Answer::Null,
            "$" => {
                let length: usize = rest.parse()?;
                self.read_at_least(length + 2).await?;
                let content = self.input.split_to(length).freeze();
                self.input.advance(2);
                Answer::Text(content)
            }
            "*" => {
                let mut values = Vec::new();
                for _ in 0..rest.parse::<usize>()? {
                    values.push(Box::pin(self.read_value()).await?);
                }
                Answer::List(values)
            }
            _ => bail!("{line:?} is not Redis' protocol"),
        })
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
                "Redis closed the connection"
            );
        }
        Ok(())
    }
}
