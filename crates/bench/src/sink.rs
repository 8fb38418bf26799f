//! A destination that costs next to nothing: it reads a request to its end, asks a function for the status, and keeps
//! the connection. It records nothing by itself.

use std::{io, net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::http_load::{content_length, head_length};

/// A listening sink; dropping it cuts all connections.
#[derive(Debug)]
pub struct Sink {
    port: u16,
    /// Holds the accepting task, which holds the connections.
    _serving: JoinSet<()>,
}

impl Sink {
    /// Listens on 127.0.0.1. `answer` is given the path of each request once its body is complete, on whichever thread,
    /// and says the status.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start(answer: impl Fn(&str) -> u16 + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("opening the sink")?;
        let port = listener.local_addr()?.port();
        let mut serving = JoinSet::new();
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

async fn serve(listener: TcpListener, answer: Arc<impl Fn(&str) -> u16 + Send + Sync + 'static>) {
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

async fn converse(mut stream: TcpStream, answer: Arc<impl Fn(&str) -> u16>) -> io::Result<()> {
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
        let status = answer(path(&buffer[..head]));
        buffer.drain(..end);
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
        let sink = Sink::start(move |path| {
            assert_eq!(path, "/x");
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
