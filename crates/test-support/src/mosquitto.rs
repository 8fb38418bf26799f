//! The MQTT broker mosquitto as a value. Owns its port, its folder with configuration and persistence file, and its
//! process.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::mqtt::{self, Session};
use crate::port::Port;
use crate::process::{Process, installed_program};
use crate::tls::{Authority, Certificate};
use crate::unique::unique_name;
use crate::wait::LONG;

/// A broker of the test's own.
///
/// It differs from Debian's defaults as Edgehold's own advice does: `persistence true` and `max_queued_messages 0`
/// (unlimited; the default of 1,000 drops the rest although their publisher was answered). Everybody may connect to
/// [`Mosquitto::port`]; a second listener with TLS and passwords opens beside it on demand ([`Mosquitto::secured_port`]).
///
/// ```no_run
/// # use edgehold_test_support::{Mosquitto, MqttPublisher, Qos};
/// # async fn example() -> anyhow::Result<()> {
/// let mut broker = Mosquitto::start().await?;
/// let mut publisher = MqttPublisher::connect(broker.port()).await?;
/// publisher.publish("edgex/events/device/x", b"{}", Qos::AtLeastOnce).await?;
/// broker.restart().await?; // the same port, and what sessions had queued
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Mosquitto {
    // Before the folder, so that the process is gone when the folder goes.
    process: Process,
    program: PathBuf,
    port: Port,
    secured: Option<Port>,
    folder: TempDir,
}

/// What a broker is to be like beyond the defaults.
#[derive(Debug, Default)]
pub struct MosquittoBuilder {
    lines: String,
    tls: Option<(String, Certificate)>,
    users: Vec<(String, String)>,
    wants_certificate: bool,
}

impl MosquittoBuilder {
    /// Adds a line to `mosquitto.conf` (see `man mosquitto.conf`), after the lines for the broker's own listener; a line
    /// that begins with `listener` therefore opens another one, for instance for TLS on a [`Port`] of the test.
    #[must_use]
    pub fn config(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }

    /// A second listener speaks TLS and shows this certificate.
    #[must_use]
    pub fn tls(mut self, authority: &Authority, certificate: Certificate) -> Self {
        self.tls = Some((authority.pem().to_owned(), certificate));
        self
    }

    /// That listener lets nobody in without a certificate that the same authority has signed (`require_certificate`).
    #[must_use]
    pub fn require_certificate(mut self) -> Self {
        self.wants_certificate = true;
        self
    }

    /// A second listener lets nobody in but such users, by their password (`password_file`).
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Starts it and waits until it answers an MQTT CONNECT.
    ///
    /// # Errors
    /// When mosquitto is not installed, refuses the configuration, or does not answer within a minute; with the end of
    /// its log.
    pub async fn start(self) -> Result<Mosquitto> {
        let program = installed_program("mosquitto", "mosquitto")?;
        let folder = TempDir::with_prefix("edgehold-mosquitto-").context("making the folder of a broker")?;
        let port = Port::hold()?;
        let mut config = String::from("per_listener_settings true\n");
        let secured = match self.tls.is_some() || !self.users.is_empty() {
            false => None,
            true => {
                let port = Port::hold()?;
                config += &self.secured_listener(port.number(), folder.path())?;
                Some(port)
            }
        };
        writeln!(
            config,
            "listener {} 127.0.0.1\nallow_anonymous true",
            port.number()
        )?;
        // Started as root it would become the user mosquitto, who may not write into the folder.
        config.push_str("user root\npersistence true\nmax_queued_messages 0\n");
        writeln!(config, "persistence_location {}/", folder.path().display())?;
        config.push_str(&self.lines);
        std::fs::write(folder.path().join("mosquitto.conf"), config).context("writing mosquitto.conf")?;

        let process = run(&program, &folder)?;
        let mut broker = Mosquitto {
            process,
            program,
            port,
            secured,
            folder,
        };
        broker.wait_until_ready().await?;
        Ok(broker)
    }

    /// The lines of the second listener; writes the files it needs.
    fn secured_listener(&self, port: u16, folder: &Path) -> Result<String> {
        let file = |name: &str, content: &str| {
            let path = folder.join(name);
            std::fs::write(&path, content).with_context(|| format!("writing {name}"))?;
            anyhow::Ok(path)
        };
        let mut lines = format!("listener {port} 127.0.0.1\n");
        if let Some((authority, certificate)) = &self.tls {
            writeln!(lines, "cafile {}", file("ca.pem", authority)?.display())?;
            writeln!(
                lines,
                "certfile {}",
                file("server.pem", &certificate.pem)?.display()
            )?;
            writeln!(
                lines,
                "keyfile {}",
                file("server.key", &certificate.key)?.display()
            )?;
            writeln!(lines, "require_certificate {}", self.wants_certificate)?;
        }
        if self.users.is_empty() {
            lines.push_str("allow_anonymous true\n");
        } else {
            let passwords = file("passwords", "")?;
            for (user, password) in &self.users {
                let program = installed_program("mosquitto_passwd", "mosquitto")?;
                let output = Command::new(program)
                    .arg("-b")
                    .args([passwords.as_os_str(), user.as_ref(), password.as_ref()])
                    .output()
                    .context("running mosquitto_passwd")?;
                ensure!(output.status.success(), "mosquitto_passwd: {output:?}");
            }
            writeln!(
                lines,
                "allow_anonymous false\npassword_file {}",
                passwords.display()
            )?;
        }
        Ok(lines)
    }
}

impl Mosquitto {
    /// Starts a broker with the defaults.
    ///
    /// # Errors
    /// As [`MosquittoBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// For a broker with settings of its own.
    pub fn builder() -> MosquittoBuilder {
        MosquittoBuilder::default()
    }

    /// The port on 127.0.0.1, the same for the whole life of the value.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The port of the listener with TLS or passwords, the same for the whole life of the value.
    ///
    /// # Panics
    /// When the broker was built without either.
    #[track_caller]
    pub fn secured_port(&self) -> u16 {
        self.secured
            .as_ref()
            .expect("the broker was built with TLS or users")
            .number()
    }

    /// `tcp://127.0.0.1:<port>`, as EdgeX writes the addresses of brokers.
    pub fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port())
    }

    /// The process, for its log lines, its signals and its memory. Since the last start only.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops it in order (SIGTERM): sessions and retained messages are written to the persistence file, connections are
    /// closed. Does nothing when it is down.
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

    /// Kills it (SIGKILL). What it had not saved is lost, as when the power fails: it saves every half hour
    /// (`autosave_interval`, in seconds), on a stop, and on SIGUSR1.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill9().map(drop)
    }

    /// Stops it unless it is down already, and starts it again on the same port with what it had saved.
    ///
    /// # Errors
    /// As [`MosquittoBuilder::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.process = run(&self.program, &self.folder)?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + LONG;
        while let Err(error) = mqtt::handshake(self.port(), &unique_name("ready"), Session::Clean).await {
            if let Some(status) = self.process.exit_status()? {
                bail!("mosquitto ended with {status}:\n{}", self.process.tail());
            }
            let log = self.process.tail();
            ensure!(
                Instant::now() < end,
                "mosquitto was not ready after {LONG:?}: {error:#}\n{log}"
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

fn run(program: &PathBuf, folder: &TempDir) -> Result<Process> {
    Process::start(
        "mosquitto",
        Command::new(program)
            .arg("-c")
            .arg(folder.path().join("mosquitto.conf")),
    )
}
