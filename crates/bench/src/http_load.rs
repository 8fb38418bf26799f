//! A trivial HTTP client: what loopback HTTP gives when nothing else is done.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

/// Posts `body` `count` times over `connections` kept connections, one request at a time on each, and answers how long
/// that took.
///
/// # Errors
/// When a connection fails or an answer is not 200.
pub async fn post_all(
    port: u16,
    path: &str,
    body: &[u8],
    count: usize,
    connections: usize,
) -> Result<Duration> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request: Arc<[u8]> = [head.as_bytes(), body].concat().into();
    let taken = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (request, taken) = (request.clone(), taken.clone());
        tasks.spawn(async move {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            stream.set_nodelay(true)?;
            let mut answer = Vec::with_capacity(1024);
            while taken.fetch_add(1, Ordering::Relaxed) < count {
                stream.write_all(&request).await?;
                answer.clear();
                while head_length(&answer).is_none() {
                    ensure!(
                        stream.read_buf(&mut answer).await? > 0,
                        "the sink closed the connection"
                    );
                }
                let status = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default());
                ensure!(status == "200", "the sink answered {status}");
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a connection's task was lost")??;
    }
    Ok(started.elapsed())
}

/// The length of a message's head, its empty line included, once all of it is there.
pub(crate) fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// What the head says of the body's length; nothing said is 0.
pub(crate) fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head);
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}
