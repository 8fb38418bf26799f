//! One connection to a server, from the socket to the first command.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    Access, ConnectionSettings, Credentials,
    resp::{Decoder, NotResp, Value, write_command},
};

/// What one read asks for at least.
const READ_BYTES: usize = 16 * 1024;

/// Why there is no connection, or not any more.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The socket failed.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// As whom to connect is not known: the secret or a certificate is missing or of no use.
    #[error("as whom to connect is not known: {0}")]
    Access(Arc<str>),
    /// The server did not answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The server closed the connection.
    #[error("the server has closed the connection")]
    Closed,
    /// The host is no name that a certificate could be checked for.
    #[error("'{0}' is no name for a TLS server")]
    ServerName(String),
    /// The server refused a command: a wrong password, no password, or no right.
    #[error("the server refuses: {0}")]
    Refused(Arc<str>),
    /// It is no Redis server.
    #[error("the server does not speak the Redis protocol")]
    NotRedis,
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<NotResp> for ConnectionError {
    fn from(_: NotResp) -> Self {
        Self::NotRedis
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that has introduced itself.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    input: BytesMut,
    decoder: Decoder,
    write_timeout: Duration,
}

impl Connection {
    /// Connects, says who it is, and returns when the server has accepted that, within `connect_timeout`.
    pub(crate) async fn open(settings: &ConnectionSettings) -> Result<Self, ConnectionError> {
        let limit = settings.connect_timeout;
        let opened = timeout(limit, Self::open_without_limit(settings)).await;
        opened.unwrap_or(Err(ConnectionError::TimedOut(limit)))
    }

    async fn open_without_limit(settings: &ConnectionSettings) -> Result<Self, ConnectionError> {
        let access = settings.access.current().await;
        let Access { tls, credentials } =
            &*access.map_err(|error| ConnectionError::Access(chain(&*error)))?;
        let socket = TcpStream::connect((settings.host.as_str(), settings.port)).await?;
        socket.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(socket),
            Some(config) => {
                let name = ServerName::try_from(settings.host.clone())
                    .map_err(|_| ConnectionError::ServerName(settings.host.clone()))?;
                Box::new(TlsConnector::from(config.clone()).connect(name, socket).await?)
            }
        };
        let mut connection = Self {
            stream,
            input: BytesMut::new(),
            decoder: Decoder::new(settings.max_message_bytes),
            write_timeout: settings.connect_timeout,
        };
        connection
            .introduce(credentials.as_ref(), &settings.client_name)
            .await?;
        Ok(connection)
    }

    async fn introduce(
        &mut self,
        credentials: Option<&Credentials>,
        client_name: &str,
    ) -> Result<(), ConnectionError> {
        if let Some(Credentials { username, password }) = credentials {
            let password = password.expose().as_bytes();
            match username.as_str() {
                // Without its name servers before Redis 6 understand it too.
                "" | "default" => self.ask(&[b"AUTH", password]).await?,
                username => self.ask(&[b"AUTH", username.as_bytes(), password]).await?,
            }
        }
        let name: String = client_name
            .chars()
            .map(|character| {
                if character.is_ascii_graphic() {
                    character
                } else {
                    '-'
                }
            })
            .collect();
        if !name.is_empty() {
            self.ask(&[b"CLIENT", b"SETNAME", name.as_bytes()]).await?;
        }
        Ok(())
    }

    async fn ask(&mut self, command: &[&[u8]]) -> Result<(), ConnectionError> {
        let mut out = Vec::new();
        write_command(command, &mut out);
        self.write(&out).await?;
        match self.next().await? {
            Value::Error(text) => Err(ConnectionError::Refused(text.into())),
            _ => Ok(()),
        }
    }

    /// Writes commands, within `connect_timeout`. Not cancel-safe: what is left of a command breaks the connection.
    pub(crate) async fn write(&mut self, commands: &[u8]) -> Result<(), ConnectionError> {
        let limit = self.write_timeout;
        let write = async {
            self.stream.write_all(commands).await?;
            self.stream.flush().await
        };
        match timeout(limit, write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(ConnectionError::TimedOut(limit)),
        }
    }

    /// The next value the server says. Cancel-safe: what has arrived of it stays.
    pub(crate) async fn next(&mut self) -> Result<Value, ConnectionError> {
        loop {
            if let Some(value) = self.decoder.decode(&mut self.input)? {
                return Ok(value);
            }
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(ConnectionError::Closed);
            }
        }
    }
}

/// An error with its causes on one line.
fn chain(error: &dyn Error) -> Arc<str> {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.into()
}
