//! The PostgreSQL server as a value. Owns its port, its folder and its process.
//!
//! PostgreSQL refuses to run as root, so root runs it as the user `postgres` of the Debian package, or as `nobody`; any
//! other user runs it as itself. Nothing listens but 127.0.0.1.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::port::Port;
use crate::process::{Process, installed_program};
use crate::tls::{Authority, Certificate};
use crate::unique::unique_name;
use crate::wait::LONG;

/// A PostgreSQL server of the test's own. The user is [`Postgres::USER`] with [`Postgres::PASSWORD`], a superuser, and
/// there is a database `edgex_db`, as EdgeX makes it.
///
/// ```no_run
/// # use edgehold_test_support::Postgres;
/// # async fn example() -> anyhow::Result<()> {
/// let mut server = Postgres::start().await?;
/// let database = server.database()?; // empty, and nobody else's
/// assert_eq!(server.psql(&database, "SELECT 1")?, "1");
/// server.process().signal("STOP")?; // frozen
/// server.process().signal("CONT")?;
/// server.restart().await?; // the same port, the same data
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Postgres {
    // Before the folder, so that the process is gone when the folder goes.
    process: Process,
    program: PathBuf,
    arguments: Vec<String>,
    port: Port,
    folder: TempDir,
}

/// What a server is to be like beyond the defaults.
#[derive(Debug, Default)]
pub struct PostgresBuilder {
    arguments: Vec<String>,
    certificate: Option<(String, String)>,
    clients: Option<String>,
}

impl PostgresBuilder {
    /// Adds a setting, for instance `("max_connections", "10")`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.arguments
            .extend(["-c".to_owned(), format!("{name}={value}")]);
        self
    }

    /// Answers TLS with this certificate. Who asks for none still gets in without.
    #[must_use]
    pub fn certificate(mut self, certificate: &Certificate) -> Self {
        self.certificate = Some((certificate.pem.clone(), certificate.key.clone()));
        self.setting("ssl", "on")
            .setting("ssl_cert_file", "../server.pem")
            .setting("ssl_key_file", "../server.key")
    }

    /// Asks who speaks TLS for a certificate, and believes those that this authority has issued; who has none gets in by
    /// password alone.
    #[must_use]
    pub fn clients(mut self, authority: &Authority) -> Self {
        self.clients = Some(authority.pem().to_owned());
        self.setting("ssl_ca_file", "../clients.pem")
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, refuses the settings, or does not answer within a minute; with the end of its
    /// log.
    pub async fn start(self) -> Result<Postgres> {
        let program = server_program("postgres")?;
        let folder =
            TempDir::with_prefix("edgehold-postgres-").context("making the folder of a PostgreSQL server")?;
        let port = Port::hold()?;
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, Postgres::PASSWORD).context("writing the password of a server")?;
        if let Some((certificate, key)) = &self.certificate {
            std::fs::write(folder.path().join("server.pem"), certificate)?;
            let key_file = folder.path().join("server.key");
            std::fs::write(&key_file, key)?;
            restrict(&key_file)?;
        }
        if let Some(clients) = &self.clients {
            std::fs::write(folder.path().join("clients.pem"), clients)?;
        }
        give_away(folder.path())?;
        let output = unprivileged(&server_program("initdb")?)?
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--no-locale",
                "--auth=scram-sha-256",
            ])
            .args(["--username", Postgres::USER, "--pwfile"])
            .arg(&password_file)
            .arg("--pgdata")
            .arg(folder.path().join("data"))
            .current_dir(folder.path())
            .output()
            .context("starting initdb")?;
        ensure!(
            output.status.success(),
            "initdb ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let process = run(&program, &port, &folder, &self.arguments)?;
        let mut server = Postgres {
            process,
            program,
            arguments: self.arguments,
            port,
            folder,
        };
        server.wait_until_ready().await?;
        server.psql("postgres", "CREATE DATABASE edgex_db")?;
        Ok(server)
    }
}

/// The server that tests of this process share, while one of them holds it.
static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());

impl Postgres {
    /// The name of its superuser.
    pub const USER: &str = "postgres";
    /// The superuser's password.
    pub const PASSWORD: &str = "s3cret 'and' \"quoted\"";

    /// Starts a server with the defaults, which syncs nothing to the disk: what a test kills is the process.
    ///
    /// # Errors
    /// As [`PostgresBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// A server that other tests use at the same time, each in a [`database`](Self::database) of its own. It lives until
    /// the last one lets go of it.
    ///
    /// # Errors
    /// As [`PostgresBuilder::start`].
    pub async fn shared() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// For a server with settings of its own.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default().setting("fsync", "off")
    }

    /// The port on 127.0.0.1, the same for the whole life of the value.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The process, for its signals. Since the last start only.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Makes an empty database and answers its name.
    ///
    /// # Errors
    /// As [`Self::psql`].
    pub fn database(&self) -> Result<String> {
        let name = unique_name("db").replace('-', "_");
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\""))?;
        Ok(name)
    }

    /// Where a program of PostgreSQL's is, for instance `pg_dump`.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn program(name: &str) -> Result<PathBuf> {
        server_program(name)
    }

    /// Runs SQL as the superuser in a database; answers the rows as lines of fields between `|`.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses, with what it says.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let output = self
            .psql_command(database, sql)?
            .output()
            .context("starting psql")?;
        ensure!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// The command that [`Self::psql`] runs.
    ///
    /// # Errors
    /// When `psql` is not installed.
    pub fn psql_command(&self, database: &str, sql: &str) -> Result<Command> {
        let mut command = Command::new(server_program("psql")?);
        command
            .env("PGPASSWORD", Self::PASSWORD)
            .env("PGCONNECT_TIMEOUT", "10")
            .args([
                "--no-psqlrc",
                "--quiet",
                "--no-align",
                "--tuples-only",
                "-v",
                "ON_ERROR_STOP=1",
            ])
            .args(["-h", "127.0.0.1", "-p", &self.port().to_string()])
            .args(["-U", Self::USER, "-d", database, "-c", sql]);
        Ok(command)
    }

    /// Stops it at once and in order (SIGINT: connections are broken off). Does nothing when it is down.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    ///
    /// # Panics
    /// When it has not ended after a minute.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.signal("INT")?;
        self.process.wait_exit(LONG).await;
        Ok(())
    }

    /// Kills it and everything that it has started, as the loss of a machine's process table would.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        // Frozen first, so that it starts no more while they are counted: one that was overlooked lives on and holds
        // the memory that the next start wants.
        self.process.signal("STOP")?;
        for pid in self.children()? {
            // It may have ended by itself.
            let _ = Command::new("sh")
                .args(["-c", r#"kill -s KILL "$0""#, &pid])
                .output();
        }
        self.process.kill9()?;
        Ok(())
    }

    /// Freezes it and everything that it has started: connections stay, nobody answers.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn freeze(&mut self) -> Result<()> {
        // The one that starts others first.
        self.process.signal("STOP")?;
        self.signal_children("STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal_children("CONT")?;
        self.process.signal("CONT")
    }

    fn signal_children(&self, signal: &str) -> Result<()> {
        for pid in self.children()? {
            let _ = Command::new("sh")
                .args(["-c", r#"kill -s "$0" "$1""#, signal, &pid])
                .output()
                .context("starting sh for its kill")?;
        }
        Ok(())
    }

    /// The ids of its child processes.
    fn children(&self) -> Result<Vec<String>> {
        let parent = self.process.pid().to_string();
        let processes = std::fs::read_dir("/proc").context("looking for the processes of a server")?;
        let children = processes.flatten().filter_map(|entry| {
            let pid = entry.file_name().into_string().ok()?;
            // `pid (name) state parent ...`, and a name may hold anything.
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (_, rest) = stat.rsplit_once(')')?;
            (rest.split_whitespace().nth(1)? == parent).then_some(pid)
        });
        Ok(children.collect())
    }

    /// Stops it unless it is down already, and starts it again on the same port with the same data.
    ///
    /// # Errors
    /// As [`PostgresBuilder::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let end = Instant::now() + LONG;
        loop {
            self.process = run(&self.program, &self.port, &self.folder, &self.arguments)?;
            let ready = self.wait_until_ready().await;
            // What was killed takes a moment to be gone.
            let is_early = ready.is_err() && self.process.tail().contains("pre-existing shared memory block");
            if !is_early || Instant::now() >= end {
                return ready;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + LONG;
        while let Err(error) = self.psql("postgres", "SELECT 1") {
            if let Some(status) = self.process.exit_status()? {
                bail!("postgres ended with {status}:\n{}", self.process.tail());
            }
            let log = self.process.tail();
            ensure!(
                Instant::now() < end,
                "postgres was not ready after {LONG:?}: {error:#}\n{log}"
            );
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A killed server leaves its children to notice that by themselves, and a frozen one cannot.
        let _ = self.kill();
    }
}

fn run(program: &Path, port: &Port, folder: &TempDir, arguments: &[String]) -> Result<Process> {
    let mut command = unprivileged(program)?;
    command
        .current_dir(folder.path())
        .arg("-D")
        .arg(folder.path().join("data"))
        .args(["-h", "127.0.0.1", "-p", &port.number().to_string()])
        .args(["-c", "unix_socket_directories="])
        .args(arguments);
    Process::start("postgres", &mut command)
}

/// A program of PostgreSQL's. Debian keeps them in a folder for each version, which is in nobody's `PATH`.
fn server_program(name: &str) -> Result<PathBuf> {
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .collect();
    versions.sort_unstable();
    let newest = versions.into_iter().rev();
    let mut candidates =
        newest.map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/{name}")));
    match candidates.find(|candidate| candidate.is_file()) {
        Some(found) => Ok(found),
        None => installed_program(name, "postgresql"),
    }
}

/// Who runs a server when root tests: user and group.
fn servant() -> Result<Option<(u32, u32)>> {
    let own = std::fs::metadata("/proc/self")
        .context("asking who runs the tests")?
        .uid();
    if own != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").context("looking for an unprivileged user")?;
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    let found = ids("postgres").or_else(|| ids("nobody"));
    Ok(Some(
        found.context("there is neither a user `postgres` nor `nobody`")?,
    ))
}

/// A command that does not run as root.
fn unprivileged(program: &Path) -> Result<Command> {
    let Some((user, group)) = servant()? else {
        return Ok(Command::new(program));
    };
    // Not by `Command::uid`, which keeps the supplementary groups of root.
    let mut command = Command::new(installed_program("setpriv", "util-linux")?);
    command
        .args([
            "--reuid",
            &user.to_string(),
            "--regid",
            &group.to_string(),
            "--clear-groups",
        ])
        .arg(program);
    Ok(command)
}

/// Makes a folder and what is in it the property of whoever runs the server.
fn give_away(folder: &Path) -> Result<()> {
    let Some((user, group)) = servant()? else {
        return Ok(());
    };
    for entry in std::fs::read_dir(folder)? {
        std::os::unix::fs::chown(entry?.path(), Some(user), Some(group))?;
    }
    std::os::unix::fs::chown(folder, Some(user), Some(group)).context("giving a folder to the server's user")
}

fn restrict(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))
        .context("keeping a key to its owner")
}
