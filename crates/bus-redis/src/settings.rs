//! How to reach a Redis server.

use std::{fmt, sync::Arc, time::Duration};

use edgehold_core::{Fixed, Renewable, SecretText};
use rustls::ClientConfig;

/// User and password.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The user (Redis 6 ACL). Empty, or `default`, is the user that older servers know as the only one.
    pub username: String,
    /// The password; may be empty.
    pub password: SecretText,
}

/// As whom to connect, and whom to believe.
#[derive(Clone, Default)]
pub struct Access {
    /// Encryption; none by default.
    pub tls: Option<Arc<ClientConfig>>,
    /// User and password; none by default.
    pub credentials: Option<Credentials>,
}

/// How to reach a server (EdgeX `MessageBus` and `MessageBus.Optional`).
#[derive(Clone)]
pub struct ConnectionSettings {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// As whom to connect: asked before each attempt. By default as nobody, without encryption.
    pub access: Arc<dyn Renewable<Access>>,
    /// What `CLIENT LIST` shows for the connection; may be empty.
    pub client_name: String,
    /// How long one attempt to connect, one write, or one publication with its answer may take. Default 5 s.
    pub connect_timeout: Duration,
    /// After so long a silence the server is asked for a sign of life, and given up after as long again. Default 10 s.
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

    /// `host:port`, for the log.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSettings")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}
