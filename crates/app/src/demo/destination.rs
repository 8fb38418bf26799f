//! A destination that fails part of the time: an HTTP server of the fewest lines that an exporter can talk to.
//!
//! It is up and down by the clock. Down, it answers 503 or resets the connection; up, a few requests fail all the same.

use std::{
    collections::hash_map::RandomState,
    convert::Infallible,
    fmt,
    hash::BuildHasher as _,
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

/// How long it is up, then down.
pub(super) const UP: Duration = Duration::from_secs(10);
pub(super) const DOWN: Duration = Duration::from_secs(5);
/// How many requests in a hundred fail while it is up.
pub(super) const UNLUCKY_PERCENT: u64 = 5;

/// The server and what it has counted.
pub(super) struct Destination {
    started: Instant,
    arrived: AtomicU64,
}

/// Whether it is taking requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Up,
    Down,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "DOWN",
        })
    }
}

enum Answer {
    Accept,
    Fail(u16),
    Reset,
}

impl Destination {
    /// Up from now on.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            arrived: AtomicU64::new(0),
        }
    }

    /// The URL to send to, and the future that serves it.
    pub(super) async fn listen(self: Arc<Self>) -> Result<(String, impl Future<Output = Infallible>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("the destination finds no port")?;
        let url = format!("http://{}/events", listener.local_addr()?);
        Ok((url, self.serve(listener)))
    }

    /// How many requests it has accepted.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// What it is doing now.
    pub(super) fn phase(&self) -> Phase {
        phase_after(self.started.elapsed())
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(self.clone().converse(stream));
                    }
                }
                // Collects the ended ones; how they ended is the client's affair.
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        while read_request(&mut stream).await? {
            let status = match self.decide() {
                Answer::Accept => 200,
                Answer::Fail(status) => status,
                Answer::Reset => return stream.get_ref().set_zero_linger(),
            };
            let answer = format!("HTTP/1.1 {status} Demo\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
            if status == 200 {
                self.arrived.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn decide(&self) -> Answer {
        // A new state hashes the same value differently each time: all the randomness a demo needs.
        let dice = RandomState::new().hash_one(()) % 100;
        match self.phase() {
            Phase::Up if dice < UNLUCKY_PERCENT => Answer::Fail(500),
            Phase::Up => Answer::Accept,
            Phase::Down if dice < 50 => Answer::Fail(503),
            Phase::Down => Answer::Reset,
        }
    }
}

fn phase_after(elapsed: Duration) -> Phase {
    let within = elapsed.as_millis() % (UP + DOWN).as_millis();
    if within < UP.as_millis() {
        Phase::Up
    } else {
        Phase::Down
    }
}

/// Reads a request with its body to the end; false when the client has closed.
async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<bool> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_up_first_then_down_and_up_again() {
        assert_eq!(phase_after(Duration::ZERO), Phase::Up);
        assert_eq!(phase_after(UP - Duration::from_millis(1)), Phase::Up);
        assert_eq!(phase_after(UP), Phase::Down);
        assert_eq!(phase_after(UP + DOWN), Phase::Up);
    }
}
