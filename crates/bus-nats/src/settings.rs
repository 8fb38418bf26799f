//! How to reach a NATS server, and which stream.

use std::{fmt, sync::Arc, time::Duration};

use edgehold_core::{Fixed, Renewable, SecretText};
use rustls::ClientConfig;

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub enum Login {
    /// User name and password (`Username`, `Password`, or the secret).
    Password {
        /// The user name.
        username: String,
        /// The password; may be empty.
        password: SecretText,
    },
    /// The seed of an NKey: the text of `NKeySeedFile`.
    NKeySeed(SecretText),
    /// A JWT and its seed: the text of `CredentialsFile`.
    Credentials(SecretText),
}

/// As whom to connect, and whom to believe.
#[derive(Clone, Default)]
pub struct Access {
    /// Encryption; none by default.
    pub tls: Option<Arc<ClientConfig>>,
    /// As whom to appear; nobody by default.
    pub login: Option<Login>,
}

/// How to reach a server (EdgeX `MessageBus` and `MessageBus.Optional`).
#[derive(Clone)]
pub struct ConnectionSettings {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// As whom to connect: asked again whenever an attempt fails. By default as nobody, without encryption.
    pub access: Arc<dyn Renewable<Access>>,
    /// What the server calls the connection (`ClientId`); may be empty.
    pub client_name: String,
    /// How long one attempt to connect, or one publication with its answer, may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How often the server is asked for a sign of life; given up after two that were not answered. Default 10 s.
    pub keep_alive: Duration,
    /// The largest message to hand over whole, in bytes; larger ones are set aside. Default 64 MiB.
    pub max_message_bytes: usize,
}

impl ConnectionSettings {
    /// Settings for a server, everything else as by default.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            access: Arc::new(Fixed::new(Access::default())),
            client_name: String::new(),
            connect_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(10),
            max_message_bytes: 64 * 1024 * 1024,
        }
    }

    /// `host:port`, with brackets where the host has colons.
    pub(crate) fn address(&self) -> String {
        match self.host.as_str() {
            host if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{}", self.port),
            host => format!("{host}:{}", self.port),
        }
    }
}

impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSettings")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// Where a new consumer begins (EdgeX `Deliver`). One that exists goes on where it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deliver {
    /// `new`: with what is published from now on.
    #[default]
    New,
    /// `all`: with the first that the stream has.
    All,
    /// `last`: with the last that the stream has.
    Last,
    /// `lastpersubject`: with the last of each subject.
    LastPerSubject,
}

impl Deliver {
    /// By EdgeX's word, whatever its case; anything else is `new`, as there.
    pub fn from_setting(text: &str) -> Self {
        match text.trim().to_ascii_lowercase().as_str() {
            "all" => Self::All,
            "last" => Self::Last,
            "lastpersubject" => Self::LastPerSubject,
            _ => Self::New,
        }
    }
}

/// Which stream, and how it is read (EdgeX `MessageBus.Optional`).
#[derive(Clone, Debug, Default)]
pub struct StreamSettings {
    /// The name of the consumer, under which the server remembers what was acknowledged (`Durable`). Without one it
    /// forgets that a few minutes after the service has gone.
    pub durable: Option<String>,
    /// The name of the stream where one is made; empty: made of `subject`, as EdgeX does.
    pub stream_name: String,
    /// The topics of the stream, where one is made (`Subject`).
    pub subject: String,
    /// Whether a stream that is missing is made (`AutoProvision`).
    pub auto_provision: bool,
    /// Where a new consumer begins.
    pub deliver: Deliver,
}
