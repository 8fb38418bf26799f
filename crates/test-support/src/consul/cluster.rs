//! Three Consul servers that elect one of them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use std::time::Duration;

use super::{Consul, ConsulBuilder, Ports, configuration};
use crate::wait::LONG;

const SERVERS: usize = 3;

/// Three servers on this machine. Two of them are enough to go on; one alone has no leader and takes no orders.
#[derive(Debug)]
pub struct ConsulCluster {
    servers: Vec<Consul>,
}

impl ConsulCluster {
    /// Starts them and waits until each takes a write.
    ///
    /// # Errors
    /// As [`ConsulBuilder::start`].
    pub async fn start() -> Result<Self> {
        let ports: Vec<Ports> = (0..SERVERS).map(|_| Ports::hold()).collect::<Result<_>>()?;
        let peers: Vec<Value> = ports
            .iter()
            .map(|ports| format!("127.0.0.1:{}", ports.serf_lan.number()).into())
            .collect();
        let spawn = |ports: Ports| {
            let mut config = configuration(&ports);
            config["bootstrap_expect"] = SERVERS.into();
            config["retry_join"] = peers.clone().into();
            config["retry_interval"] = "1s".into();
            ConsulBuilder::default().spawn(ports, config)
        };
        let mut cluster = Self {
            servers: ports.into_iter().map(spawn).collect::<Result<_>>()?,
        };
        for server in &mut cluster.servers {
            server.wait_until_ready().await?;
        }
        Ok(cluster)
    }

    /// The servers; their places never change.
    pub fn servers(&mut self) -> &mut [Consul] {
        &mut self.servers
    }

    /// The server at a place.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn server(&self, place: usize) -> &Consul {
        &self.servers[place]
    }

    /// Waits until the server at `seen_by` knows a leader other than the one at `not`, and answers its place.
    ///
    /// # Errors
    /// When there is none after a minute.
    pub async fn wait_for_leader(&self, seen_by: usize, not: Option<usize>) -> Result<usize> {
        let end = Instant::now() + LONG;
        loop {
            if let Ok(answer) = self.servers[seen_by].ask("GET", "/v1/status/leader", b"").await
                && let Ok(address) = answer.json::<String>()
                && let Some(place) = self.place_of(&address)
                && Some(place) != not
            {
                return Ok(place);
            }
            ensure!(Instant::now() < end, "no leader after {LONG:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Two servers that are not at `place`.
    pub fn others(&self, place: usize) -> [usize; 2] {
        [(place + 1) % SERVERS, (place + 2) % SERVERS]
    }

    /// Waits until the server at a place takes a write.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn wait_until_ready(&mut self, place: usize) -> Result<()> {
        let server = self.servers.get_mut(place).context("no such server")?;
        server.wait_until_ready().await
    }

    fn place_of(&self, address: &str) -> Option<usize> {
        let is_it = |server: &Consul| address == format!("127.0.0.1:{}", server.ports.server.number());
        self.servers.iter().position(is_it)
    }
}
