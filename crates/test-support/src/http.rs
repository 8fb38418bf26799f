//! A small HTTP/1.1 client, and the message reading it shares with [`HttpSink`](crate::HttpSink).
//!
//! For Consul's API and for asking a service under test. One connection for each request, no redirects, no compression. Not for measuring: the connection is never reused.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls::{self, Authority};

/// Names and values of header fields in the order in which they came.
pub type Headers = Vec<(String, String)>;

/// Past this a request has failed. Longer than Consul's longest useful blocking query in a test.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header fields as they came.
    pub headers: Headers,
    /// The body, chunks joined.
    pub body: Bytes,
}

impl Response {
    /// The first header field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON of this shape; the message holds the body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).with_context(|| format!("reading the answer {:?}", self.text()))
    }

    /// The response itself when its status is 2xx.
    ///
    /// # Errors
    /// For any other status; the message holds it with the body.
    pub fn succeeded(self) -> Result<Self> {
        ensure!(
            (200..300).contains(&self.status),
            "the answer was {} {:?}",
            self.status,
            self.text()
        );
        Ok(self)
    }
}

/// Asks `GET target` of the server at 127.0.0.1:`port`.
///
/// # Errors
/// As [`send`].
pub async fn get(port: u16, target: &str) -> Result<Response> {
    send(port, "GET", target, &[], b"").await
}

/// Sends one request to the server at 127.0.0.1:`port` and reads the whole answer, whatever its status.
///
/// `target` is the path with its query, already percent-encoded. `Host`, `Content-Length` and `Connection: close` are
/// added.
///
/// # Errors
/// When the connection fails, the answer is not HTTP/1.x, or it is not there after 60 seconds.
pub async fn send(
    port: u16,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let what = || format!("{method} {target} on port {port}");
    timeout(REQUEST_TIMEOUT, exchange(port, method, target, headers, body))
        .await
        .with_context(|| format!("{} took longer than {REQUEST_TIMEOUT:?}", what()))?
        .with_context(what)
}

/// [`send`] over TLS to a server whose certificate for 127.0.0.1 this authority has issued.
///
/// # Errors
/// As [`send`], and when no TLS connection comes about.
pub async fn send_tls(
    port: u16,
    authority: &Authority,
    method: &str,
    target: &str,
    body: &[u8],
) -> Result<Response> {
    let talk = async {
        let stream = tls::connect(port, authority).await?;
        exchange_over(stream, port, method, target, &[], body).await
    };
    timeout(REQUEST_TIMEOUT, talk)
        .await
        .with_context(|| format!("{method} {target} on port {port} took too long"))?
}

/// The status line and the answer in these bytes, which hold nothing else. To `HEAD` there is no body.
///
/// # Errors
/// When they are not an answer of HTTP/1.x, or not a whole one.
pub async fn parse(mut bytes: &[u8], to_head: bool) -> Result<(String, Response)> {
    let head = read_head(&mut bytes).await?.context("there is no answer")?;
    let status = status_of(&head)?;
    let body = match to_head {
        true => Bytes::new(),
        false => read_body(&mut bytes, &head.headers, true).await?,
    };
    ensure!(bytes.is_empty(), "{} bytes follow the answer", bytes.len());
    let response = Response {
        status,
        headers: head.headers,
        body,
    };
    Ok((head.start_line, response))
}

/// The next answer of several.
pub(crate) async fn read_response(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Response> {
    let head = read_head(reader).await?.context("there is no further answer")?;
    let status = status_of(&head)?;
    let body = read_body(reader, &head.headers, false).await?;
    Ok(Response {
        status,
        headers: head.headers,
        body,
    })
}

fn status_of(head: &Head) -> Result<u16> {
    let status = head.start_line.split(' ').nth(1);
    status
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("not a status line: {:?}", head.start_line))
}

async fn exchange(
    port: u16,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .context("connecting")?;
    exchange_over(stream, port, method, target, headers, body).await
}

async fn exchange_over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    port: u16,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let length = body.len();
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\nConnection: close\r\n"
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = BufReader::new(stream);
    stream
        .write_all(&[head.as_bytes(), body].concat())
        .await
        .context("sending")?;

    loop {
        let head = read_head(&mut stream)
            .await?
            .context("the server closed without an answer")?;
        let status = status_of(&head)?;
        // Interim answers such as 100 come before the real one and have no body.
        if status >= 200 {
            let bodyless = method == "HEAD" || status == 204 || status == 304;
            let body = if bodyless {
                Bytes::new()
            } else {
                read_body(&mut stream, &head.headers, true).await?
            };
            return Ok(Response {
                status,
                headers: head.headers,
                body,
            });
        }
    }
}

/// The start line and header fields of a request or an answer.
pub(crate) struct Head {
    pub(crate) start_line: String,
    pub(crate) headers: Headers,
}

/// Reads up to the empty line; `None` when the other side closed before the first byte.
pub(crate) async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Head>> {
    let Some(start_line) = read_line(reader).await? else {
        return Ok(None);
    };
    let mut headers = Headers::new();
    loop {
        let line = read_line(reader).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Some(Head { start_line, headers }));
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| invalid("a header field without a colon"))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Reads the body that the header fields announce. Without an announcement it is empty, or, for answers, all that comes
/// until the other side closes.
pub(crate) async fn read_body(
    reader: &mut (impl AsyncBufRead + Unpin),
    headers: &Headers,
    until_close: bool,
) -> io::Result<Bytes> {
    let mut body = Vec::new();
    if header(headers, "Transfer-Encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(reader).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| invalid("a chunk without a size"))?;
            if size == 0 {
                break;
            }
            read_exactly(reader, size, &mut body).await?;
            read_line(reader).await?;
        }
        // Trailer fields, if any, up to the empty line.
        while read_line(reader).await?.is_some_and(|line| !line.is_empty()) {}
    } else if let Some(length) = header(headers, "Content-Length") {
        let length = length
            .parse()
            .map_err(|_| invalid("a content length that is no number"))?;
        read_exactly(reader, length, &mut body).await?;
    } else if until_close {
        reader.read_to_end(&mut body).await?;
    }
    Ok(body.into())
}

/// The first field of this name, in any case.
pub(crate) fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let field = headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
    field.map(|(_, value)| value.as_str())
}

async fn read_exactly(
    reader: &mut (impl AsyncBufRead + Unpin),
    length: u64,
    into: &mut Vec<u8>,
) -> io::Result<()> {
    let read = reader.take(length).read_to_end(into).await?;
    let whole = u64::try_from(read).is_ok_and(|read| read == length);
    if whole {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.pop_if(|last| *last == b'\r');
    String::from_utf8(line)
        .map(Some)
        .map_err(|_| invalid("a line that is not UTF-8"))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(message: &str) -> io::Result<(Head, Bytes)> {
        let mut reader = message.as_bytes();
        let head = read_head(&mut reader).await?.expect("there is a message");
        let body = read_body(&mut reader, &head.headers, false).await?;
        Ok((head, body))
    }

    #[tokio::test]
    async fn a_chunked_body_is_joined() {
        let (head, body) = read(
            "POST /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
        )
        .await
        .expect("it is well formed");

        assert_eq!(head.start_line, "POST /a HTTP/1.1");
        assert_eq!(body, "abc0123456789");
    }

    #[tokio::test]
    async fn a_body_ends_where_its_length_says() {
        let (_, body) = read("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcdef")
            .await
            .expect("it is well formed");

        assert_eq!(body, "abc");
    }

    #[tokio::test]
    async fn a_body_shorter_than_announced_is_an_error() {
        let error = read("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
            .await
            .err()
            .expect("it is cut short");

        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
