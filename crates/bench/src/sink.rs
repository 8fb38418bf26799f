//! A destination that costs next to nothing: it reads a request to its end, asks a function what to answer, and keeps
//! the connection. It records nothing by itself.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use crate::http_load::{content_length, head_length};

/// A request whose body is complete.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The path with its query.
    pub path: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// What is answered, and how long after the request was complete.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The status; the body is empty.
    pub status: u16,
    /// The delay.
    pub after: Duration,
}

impl From<u16> for Told {
    fn from(status: u16) -> Self {
        Self {
            status,
            after: Duration::ZERO,
        }
    }
}

/// A listening sink; dropping it cuts all connections.
#[derive(Debug)]
pub struct Sink {
    port: u16,
    /// Holds the accepting task, which holds the connections.
    _serving: JoinSet<()>,
}

impl Sink {
    /// Listens on 127.0.0.1. `answer` is given each request once its body is complete, on whichever thread, and says what
    /// to answer: a status, or [`Told`].
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start<T: Into<Told>>(
        answer: impl Fn(Asked<'_>) -> T + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("opening the sink")?;
        let port = listener.local_addr()?.port();
        let mut serving = JoinSet::new();
        let answer = move |asked: Asked<'_>| -> Told { answer(asked).into() };
        serving.spawn(serve(listener, Arc::new(answer)));
        Ok(Self {
            port,
            _serving: serving,
        })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:<port><path>`; `path` begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

async fn serve(listener: TcpListener, answer: Arc<impl Fn(Asked<'_>) -> Told + Send + Sync + 'static>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(converse(stream, answer.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(mut stream: TcpStream, answer: Arc<impl Fn(Asked<'_>) -> Told>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        let head = loop {
            if let Some(length) = head_length(&buffer) {
                break length;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let end = head + content_length(&buffer[..head]);
        while buffer.len() < end {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let Told { status, after } = answer(Asked {
            path: path(&buffer[..head]),
            body: &buffer[head..end],
        });
        buffer.drain(..end);
        if !after.is_zero() {
            sleep(after).await;
        }
        stream
            .write_all(format!("HTTP/1.1 {status} Sink\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .await?;
    }
}

/// The second word of the request line.
fn path(head: &[u8]) -> &str {
    let word = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    std::str::from_utf8(word).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::http_load;

    #[tokio::test]
    async fn every_request_of_a_load_is_asked_for_once() {
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        let sink = Sink::start(move |asked| {
            assert_eq!((asked.path, asked.body), ("/x", &b"body"[..]));
            count.fetch_add(1, Ordering::Relaxed);
            200
        })
        .await
        .unwrap();

        http_load::post_all(sink.port(), "/x", b"body", 100, 4)
            .await
            .unwrap();

        assert_eq!(asked.load(Ordering::Relaxed), 100);
    }

    #[tokio::test]
    async fn a_refused_request_fails_the_load() {
        let sink = Sink::start(|_| 503).await.unwrap();

        let error = http_load::post_all(sink.port(), "/", b"", 1, 1)
            .await
            .unwrap_err();

        assert!(format!("{error:#}").contains("503"), "{error:#}");
    }
}
