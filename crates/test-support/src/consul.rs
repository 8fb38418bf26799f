//! Consul as a value: one server that is its own leader, or one of a [`ConsulCluster`]. Owns its ports, its data folder
//! and its process, and offers the few calls of Consul's HTTP API that tests arrange and look with.
//!
//! A server with a data folder rather than `agent -dev`, whose data would not outlive a restart.

mod acl;
mod cluster;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::http::{self, Response};
use crate::port::Port;
use crate::process::{Process, installed_program};
use crate::tls::{Authority, Certificate};
use crate::wait::LONG;

pub use acl::AclToken;
pub use cluster::ConsulCluster;

/// Consul refuses transactions of more operations.
pub(crate) const TRANSACTION_OPERATIONS: usize = 64;

/// A Consul server of the test's own, without access control unless the builder says otherwise.
///
/// ```no_run
/// # use edgehold_test_support::Consul;
/// # async fn example() -> anyhow::Result<()> {
/// let consul = Consul::start().await?;
/// consul.put("edgex/v3/app-x/Writable/LogLevel", "DEBUG").await?;
/// consul.txn(&[("a/one", "1"), ("a/two", "2")]).await?;
/// assert_eq!(consul.list("a/").await?.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consul {
    // Before the folder, so that the process is gone when the folder goes.
    process: Process,
    program: PathBuf,
    ports: Ports,
    folder: TempDir,
    token: Option<String>,
}

#[derive(Debug)]
struct Ports {
    http: Port,
    https: Port,
    server: Port,
    serf_lan: Port,
}

impl Ports {
    fn hold() -> Result<Self> {
        Ok(Self {
            http: Port::hold()?,
            https: Port::hold()?,
            server: Port::hold()?,
            serf_lan: Port::hold()?,
        })
    }
}

/// What a Consul server is to be like beyond the defaults.
#[derive(Debug, Default)]
pub struct ConsulBuilder {
    token: Option<String>,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    authority: String,
    certificate: Certificate,
    asks_clients: bool,
}

impl ConsulBuilder {
    /// With access control on, everything denied by default, and this token allowed everything. The helpers of
    /// [`Consul`] use it.
    #[must_use]
    pub fn master_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Listens for TLS too, at [`Consul::https_port`], with this certificate.
    #[must_use]
    pub fn tls(mut self, authority: &Authority, certificate: &Certificate) -> Self {
        self.tls = Some(Tls {
            authority: authority.pem().to_owned(),
            certificate: certificate.clone(),
            asks_clients: false,
        });
        self
    }

    /// As [`Self::tls`], and takes only clients with a certificate of this authority.
    #[must_use]
    pub fn mutual_tls(mut self, authority: &Authority, certificate: &Certificate) -> Self {
        self = self.tls(authority, certificate);
        self.tls.iter_mut().for_each(|tls| tls.asks_clients = true);
        self
    }

    /// Starts it and waits until it leads and has taken a write.
    ///
    /// # Errors
    /// When Consul is not installed, ends, or does not lead within a minute; with the end of its log.
    pub async fn start(self) -> Result<Consul> {
        let ports = Ports::hold()?;
        let config = configuration(&ports);
        let mut consul = self.spawn(ports, config)?;
        consul.wait_until_ready().await?;
        Ok(consul)
    }

    /// Starts it and returns at once.
    fn spawn(self, ports: Ports, mut config: Value) -> Result<Consul> {
        let program = installed_program("consul", "consul")?;
        let folder = TempDir::with_prefix("edgehold-consul-").context("making the folder of Consul")?;
        config["data_dir"] = folder.path().join("data").to_string_lossy().into();
        if let Some(token) = &self.token {
            let tokens = json!({"master": token, "agent": token});
            config["acl"] = json!({"enabled": true, "default_policy": "deny", "tokens": tokens});
        }
        if let Some(tls) = &self.tls {
            config["ports"]["https"] = ports.https.number().into();
            config["verify_incoming_https"] = tls.asks_clients.into();
            for (setting, name, text) in [
                ("ca_file", "ca.pem", &tls.authority),
                ("cert_file", "cert.pem", &tls.certificate.pem),
                ("key_file", "key.pem", &tls.certificate.key),
            ] {
                let path = folder.path().join(name);
                std::fs::write(&path, text).with_context(|| format!("writing {name}"))?;
                config[setting] = path.to_string_lossy().into();
            }
        }
        std::fs::write(folder.path().join("consul.json"), config.to_string())
            .context("writing consul.json")?;
        let process = run(&program, &folder)?;
        Ok(Consul {
            process,
            program,
            ports,
            folder,
            token: self.token,
        })
    }
}

impl Consul {
    /// Starts a server with the defaults.
    ///
    /// # Errors
    /// As [`ConsulBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// For a server with access control.
    pub fn builder() -> ConsulBuilder {
        ConsulBuilder::default()
    }

    /// The port of the HTTP API on 127.0.0.1, the same for the whole life of the value.
    pub fn port(&self) -> u16 {
        self.ports.http.number()
    }

    /// The port of the HTTP API over TLS, where a server with TLS listens.
    pub fn https_port(&self) -> u16 {
        self.ports.https.number()
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The process, for its log lines and signals. Since the last start only.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
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

    /// Kills it (SIGKILL). What it had answered is on disk.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill9().map(drop)
    }

    /// Stops it unless it is down already, and starts it again on the same ports with its data. `X-Consul-Index` goes on
    /// from where it was.
    ///
    /// # Errors
    /// As [`ConsulBuilder::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.process = run(&self.program, &self.folder)?;
        self.wait_until_ready().await
    }

    /// As [`Self::restart`], and everything it knew is gone: keys, services and checks.
    ///
    /// # Errors
    /// As [`Self::restart`], and when the data folder cannot be removed.
    pub async fn restart_empty(&mut self) -> Result<()> {
        self.kill()?;
        std::fs::remove_dir_all(self.folder.path().join("data")).context("removing the data of Consul")?;
        self.restart().await
    }

    /// Sets a key.
    ///
    /// # Errors
    /// When Consul cannot be asked or refuses, as in all calls below.
    pub async fn put(&self, key: &str, value: impl AsRef<[u8]>) -> Result<()> {
        let response = self.ask("PUT", &kv(key, ""), value.as_ref()).await?.succeeded()?;
        ensure!(response.text().trim() == "true", "Consul did not set {key}");
        Ok(())
    }

    /// The value of a key, `None` when it does not exist.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let response = self.ask("GET", &kv(key, "?raw"), b"").await?;
        if response.status == 404 {
            return Ok(None);
        }
        Ok(Some(response.succeeded()?.body))
    }

    /// Deletes one key, if it exists.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.ask("DELETE", &kv(key, ""), b"").await?.succeeded().map(drop)
    }

    /// Deletes every key that begins with `prefix`.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete_recurse(&self, prefix: &str) -> Result<()> {
        self.ask("DELETE", &kv(prefix, "?recurse"), b"")
            .await?
            .succeeded()
            .map(drop)
    }

    /// Keys and values of everything that begins with `prefix`, in the order of the keys.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entry {
            key: String,
            /// Base64; null stands for an empty value.
            value: Option<String>,
        }
        let response = self.ask("GET", &kv(prefix, "?recurse"), b"").await?;
        if response.status == 404 {
            return Ok(Vec::new());
        }
        let entries: Vec<Entry> = response.succeeded()?.json()?;
        let decode = |entry: Entry| {
            let value = base64_simd::STANDARD.decode_to_vec(entry.value.unwrap_or_default());
            Ok((entry.key, value.context("decoding a value")?.into()))
        };
        entries.into_iter().map(decode).collect()
    }

    /// Sets several keys in one transaction (`PUT /v1/txn`): readers see all of them or none. At most 64.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn txn<K: AsRef<str>, V: AsRef<[u8]>>(&self, entries: &[(K, V)]) -> Result<()> {
        let set = |(key, value): &(K, V)| {
            let value = base64_simd::STANDARD.encode_to_string(value.as_ref());
            json!({"KV": {"Verb": "set", "Key": key.as_ref(), "Value": value}})
        };
        let operations: Vec<Value> = entries.iter().map(set).collect();
        let body = Value::from(operations).to_string();
        self.ask("PUT", "/v1/txn", body.as_bytes())
            .await?
            .succeeded()
            .map(drop)
    }

    /// Sets any number of keys, in as few transactions as Consul allows.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_all<K: AsRef<str>, V: AsRef<[u8]>>(&self, entries: &[(K, V)]) -> Result<()> {
        for entries in entries.chunks(TRANSACTION_OPERATIONS) {
            self.txn(entries).await?;
        }
        Ok(())
    }

    /// The services registered with this agent, by id (`GET /v1/agent/services`).
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn services(&self) -> Result<Value> {
        self.ask("GET", "/v1/agent/services", b"")
            .await?
            .succeeded()?
            .json()
    }

    /// The checks registered with this agent, by id (`GET /v1/agent/checks`).
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn checks(&self) -> Result<Value> {
        self.ask("GET", "/v1/agent/checks", b"")
            .await?
            .succeeded()?
            .json()
    }

    /// Any request to the API, with the token if there is one. The answer is returned whatever its status.
    ///
    /// # Errors
    /// As [`http::send`].
    pub async fn ask(&self, method: &str, target: &str, body: &[u8]) -> Result<Response> {
        let token = self.token.as_deref().map(|token| ("X-Consul-Token", token));
        http::send(self.port(), method, target, token.as_slice(), body).await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + LONG;
        // A write proves that there is a leader and that it takes orders.
        while let Err(error) = self.put("edgehold-test-support/ready", "").await {
            if let Some(status) = self.process.exit_status()? {
                bail!("consul ended with {status}:\n{}", self.process.tail());
            }
            let log = self.process.tail();
            ensure!(
                Instant::now() < end,
                "consul was not ready after {LONG:?}: {error:#}\n{log}"
            );
            sleep(Duration::from_millis(20)).await;
        }
        self.delete("edgehold-test-support/ready").await
    }
}

fn run(program: &PathBuf, folder: &TempDir) -> Result<Process> {
    let mut command = Command::new(program);
    Process::start(
        "consul",
        command
            .args(["agent", "-config-file"])
            .arg(folder.path().join("consul.json")),
    )
}

/// Of a server that is alone.
fn configuration(ports: &Ports) -> Value {
    json!({
        "server": true,
        "bootstrap_expect": 1,
        "node_name": format!("edgehold-test-{}", ports.http.number()),
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        // -1 switches a listener off.
        "ports": {
            "http": ports.http.number(),
            "server": ports.server.number(),
            "serf_lan": ports.serf_lan.number(),
            "serf_wan": -1, "dns": -1, "grpc": -1, "https": -1,
        },
        // The shortest election timeouts: a single server need not wait for anybody.
        "performance": {"raft_multiplier": 1},
        // It would ask a host on the internet.
        "disable_update_check": true,
        "leave_on_terminate": false,
    })
}

/// The target for a key, whose slashes separate path segments and whose other characters are percent-encoded.
fn kv(key: &str, query: &str) -> String {
    let mut target = "/v1/kv/".to_owned();
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            target.push(byte.into());
        } else {
            write!(target, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    target + query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_key_is_encoded_once() {
        assert_eq!(kv("a/sp ace/100%", "?raw"), "/v1/kv/a/sp%20ace/100%25?raw");
    }
}
