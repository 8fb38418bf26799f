//! The embedded broker: rumqttd on threads of its own. Owns its port and its limits.
//!
//! It has no way to end but the end of the process, and keeps everything in memory: what it holds is gone then.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rumqttd::{
    Config, ConnectionSettings, RouterConfig, ServerSettings,
    local::{LinkRx, LinkTx},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

/// Below the range from which the system takes the near ends of connections; EdgeX's own port first, for recognition.
const PORTS: std::ops::Range<u16> = 21_883..22_883;
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts it and waits until it listens. Answers with its port on 127.0.0.1 and the devices' connection.
pub(super) async fn start() -> Result<(u16, Link)> {
    let address = free_address()?;
    let mut broker = rumqttd::Broker::new(configuration(address));
    let (sender, receiver) = broker
        .link("devices")
        .context("the broker does not let the devices in")?;
    let server = thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || broker.start().map_err(Box::new))
        .context("the broker has no thread")?;
    let end = Instant::now() + START_TIMEOUT;
    while TcpStream::connect(address).await.is_err() {
        if server.is_finished() || Instant::now() >= end {
            bail!("the broker does not listen on {address}");
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok((
        address.port(),
        Link {
            sender,
            _receiver: receiver,
        },
    ))
}

/// A connection without a socket. What is published through it is delivered with the quality of service of the
/// subscription.
pub(super) struct Link {
    sender: LinkTx,
    /// Nothing ever comes, but the broker would take its end for the end of the link.
    _receiver: LinkRx,
}

impl Link {
    /// Publishes one message.
    pub(super) fn publish(&mut self, topic: String, payload: Vec<u8>) -> Result<()> {
        self.sender
            .publish(topic, payload)
            .context("the broker takes nothing any more")?;
        Ok(())
    }
}

/// An address nobody listens on right now; the broker wants to open it by itself.
fn free_address() -> Result<SocketAddr> {
    PORTS
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .with_context(|| format!("every port from {} to {} is taken", PORTS.start, PORTS.end - 1))
}

fn configuration(address: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 1 << 20,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "demo".to_owned(),
        listen: address,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    Config {
        router: RouterConfig {
            max_connections: 16,
            max_outgoing_packet_count: 200,
            // The log of each topic: 10 MiB at most, then the oldest goes. Hours at the pace of the devices.
            max_segment_size: 1 << 20,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("1".to_owned(), server)])),
        ..Config::default()
    }
}
