//! A program as a value: started with its output captured, signalled by its pid, dead on drop.
//!
//! Owns the child and its output. Two threads, one for each stream, read lines into one list in the order in which they
//! came; they are threads rather than tasks so that output is read even while the test's runtime is busy or gone.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::panic::Location;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::collected::{Collected, Writer, collected};
use crate::wait;

/// How many of the last lines a failing test prints.
const TAIL_LINES: usize = 60;

/// A running (or ended) child process.
///
/// Dropping it kills the process with SIGKILL and waits for its end; when the thread is panicking, the last 60
/// lines of output are printed first.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Collected<String>,
}

impl Process {
    /// Starts `command` with no standard input and both output streams captured. `name` is for messages.
    ///
    /// ```
    /// # use edgehold_test_support::{Process, wait};
    /// # use std::process::Command;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
    /// let mut process = Process::start("greeter", Command::new("sh").args(["-c", "echo ready; sleep 600"]))?;
    /// process.wait_for_line("ready", wait::LONG).await;
    /// process.signal_term()?;
    /// assert!(!process.wait_exit(wait::LONG).await.success());
    /// # anyhow::Ok(())
    /// # })?;
    /// # anyhow::Ok(())
    /// ```
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().display()))?;
        let (writer, lines) = collected();
        capture(
            child.stdout.take().expect("stdout was just piped"),
            writer.clone(),
        );
        capture(child.stderr.take().expect("stderr was just piped"), writer);
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Every line written so far to standard output and standard error, without line ends. Bytes that are not UTF-8
    /// are replaced.
    pub fn lines(&self) -> Vec<String> {
        self.lines.all()
    }

    /// How many lines there are; take it before an action, and give it to [`Self::wait_for_line_after`].
    pub fn line_count(&self) -> usize {
        self.lines.with(<[_]>::len)
    }

    /// The last 60 lines, each on its own line.
    pub fn tail(&self) -> String {
        self.lines.with(tail)
    }

    /// Waits until a line, written before or after the call, contains `pattern`, and returns the line.
    ///
    /// # Panics
    /// At the deadline, or as soon as the process has closed its output; the message holds the end of the output.
    #[track_caller]
    pub fn wait_for_line(&self, pattern: &str, deadline: Duration) -> impl Future<Output = String> {
        self.wait_for_line_after(0, pattern, deadline)
    }

    /// As [`Self::wait_for_line`], passing over the first `skip` lines.
    ///
    /// # Panics
    /// As [`Self::wait_for_line`].
    #[track_caller]
    pub fn wait_for_line_after(
        &self,
        skip: usize,
        pattern: &str,
        deadline: Duration,
    ) -> impl Future<Output = String> {
        let caller = Location::caller();
        async move {
            let what = format!("{} to print a line with {pattern:?}", self.name);
            let pick = |lines: &[String]| {
                lines
                    .iter()
                    .skip(skip)
                    .find(|line| line.contains(pattern))
                    .cloned()
            };
            let tell =
                |lines: &[String]| format!("it printed {} lines, the last are\n{}", lines.len(), tail(lines));
            self.lines.wait_for(caller, &what, deadline, pick, tell).await
        }
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// When the operating system refuses to tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.exit_status()?.is_none())
    }

    /// How it ended, `None` while it runs.
    ///
    /// # Errors
    /// When the operating system refuses to tell.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("asking for the end of {}", self.name))
    }

    /// Sends a signal by name (`TERM`, `HUP`, `STOP`, `CONT`, …). Does nothing when the process has ended.
    ///
    /// # Errors
    /// When `sh` cannot be started or does not know the signal.
    pub fn signal(&mut self, signal: &str) -> Result<()> {
        // Once its end has been collected, its number may belong to another process.
        if !self.is_running()? {
            return Ok(());
        }
        let status = Command::new("sh")
            .args(["-c", r#"kill -s "$0" "$1""#, signal, &self.pid().to_string()])
            .status()
            .context("starting sh for its kill")?;
        ensure!(
            status.success(),
            "kill -s {signal} of {} ended with {status}",
            self.name
        );
        Ok(())
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub fn signal_term(&mut self) -> Result<()> {
        self.signal("TERM")
    }

    /// Kills it at once (SIGKILL) and collects its end. Nothing is run in the process any more.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill9(&mut self) -> Result<ExitStatus> {
        self.child
            .kill()
            .with_context(|| format!("killing {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("waiting for the end of {}", self.name))
    }

    /// Waits until it has ended by itself or by a signal.
    ///
    /// # Panics
    /// At the deadline; the message holds the end of the output.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> impl Future<Output = ExitStatus> {
        let caller = Location::caller();
        async move {
            let what = format!("{} to end", self.name);
            let look = async || match self.exit_status() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err(format!("it still runs; its last lines are\n{}", self.tail())),
                Err(error) => Err(format!("{error:#}")),
            };
            wait::until_at(caller, &what, deadline, look).await
        }
    }

    /// The largest resident memory it has had, in bytes (`VmHWM`), while it runs.
    ///
    /// # Errors
    /// When it has ended.
    pub fn peak_memory_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .with_context(|| format!("reading the memory of {}", self.name))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let kib: u64 = kib
            .context("the process has no memory any more")?
            .trim()
            .parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "the test harness shows it beside the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ended = match self.child.try_wait() {
                Ok(Some(status)) => ending(status),
                _ => "still running".to_owned(),
            };
            eprintln!(
                "--- {} (pid {}, {ended}), end of its output:\n{}",
                self.name,
                self.pid(),
                self.tail()
            );
        }
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ending(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("ended by signal {signal}"),
        None => format!("ended with {status}"),
    }
}

fn tail(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn capture(stream: impl Read + Send + 'static, writer: Writer<String>) {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // A read error is the end of the output, as far as a test can tell.
        while matches!(stream.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            writer.push(
                String::from_utf8_lossy(&line)
                    .trim_end_matches(['\n', '\r'])
                    .to_owned(),
            );
            line.clear();
        }
    });
}

/// The built `edgehold` binary: the file named by the environment variable `EDGEHOLD_BINARY`, else the one in the target
/// folder that the running test was built into.
///
/// # Errors
/// When there is none; the message says how to build it.
pub fn edgehold_binary() -> Result<PathBuf> {
    let path = match std::env::var_os("EDGEHOLD_BINARY") {
        Some(path) => PathBuf::from(path),
        None => {
            // …/debug/deps/suite-0123 → …/debug/edgehold
            let test = std::env::current_exe().context("asking for the path of the running test")?;
            test.ancestors()
                .nth(2)
                .context("the running test has no target folder")?
                .join("edgehold")
        }
    };
    if !path.is_file() {
        bail!(
            "{} is not there: run `cargo build -p edgehold-app`, or set EDGEHOLD_BINARY",
            path.display()
        );
    }
    Ok(path)
}

/// The path of a server program: looked for in `PATH`, then in the folders where Debian keeps servers, which are not in
/// the `PATH` of an ordinary user.
///
/// # Errors
/// When it is missing; the message names the Debian package and the script that installs it.
pub fn installed_program(program: &str, debian_package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "{program} is not installed: it comes with the Debian package `{debian_package}`; \
                 deploy/install-test-servers.sh installs every server that the tests need"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = installed_program("no-such-server", "no-such-package").expect_err("it does not exist");

        let message = error.to_string();
        assert!(message.contains("no-such-server"), "{message}");
        assert!(message.contains("`no-such-package`"), "{message}");
    }

    #[test]
    fn programs_in_the_path_are_found() {
        assert!(installed_program("sh", "dash").is_ok());
    }
}
