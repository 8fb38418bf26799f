//! One attempt to connect, the same for both kinds of connection.
//!
//! Owns what is renewed before an attempt, and what it failed for. When to try, and what to say, is the caller's.

use std::{error::Error, fmt, time::Duration};

use rumqttc::{ConnAck, ConnectionError, Event, EventLoop, Packet, StateError, TlsError, mqttbytes};
use tokio::time::timeout;
use tracing::debug;

use crate::{
    ConnectionSettings, IdentityError, InvalidConnectionSettings, Security, settings::MAX_PACKET_BYTES,
};

/// Why a connection failed, or an attempt to make one. `Display` prints the whole chain, because it is the reason in a
/// log line.
#[derive(Debug)]
pub(crate) enum Failure {
    Connection(ConnectionError),
    Identity(IdentityError),
    Settings(InvalidConnectionSettings),
    /// The secret did not come in time.
    NoSecret(Duration),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next: Option<&dyn Error> = match self {
            // The library writes causes into its texts.
            Self::Connection(error) => return error.fmt(f),
            Self::NoSecret(limit) => return write!(f, "the secret store has not answered within {limit:?}"),
            Self::Identity(error) => Some(error),
            Self::Settings(error) => Some(error),
        };
        let mut separator = "";
        while let Some(error) = next {
            write!(f, "{separator}{error}")?;
            separator = ": ";
            next = error.source();
        }
        Ok(())
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::Connection(error.into())
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}

impl From<InvalidConnectionSettings> for Failure {
    fn from(error: InvalidConnectionSettings) -> Self {
        Self::Settings(error)
    }
}

impl Failure {
    /// What one of the two sides has against the other, when it is more than not being there: another attempt fails the
    /// same way until somebody changes something.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self {
            Self::Connection(ConnectionError::ConnectionRefused(answer)) => Some(format!("{answer:?}")),
            Self::Connection(error) if !is_certificate_trouble(error) => None,
            Self::NoSecret(_) => None,
            failure => Some(failure.to_string()),
        }
    }
}

/// Whether the TLS library says so, be it about the broker's certificate or for the broker about ours.
fn is_certificate_trouble(error: &ConnectionError) -> bool {
    let io = match error {
        ConnectionError::Tls(TlsError::Io(error))
        | ConnectionError::Io(error)
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
        ) => error,
        ConnectionError::Tls(_) => return true,
        _ => return false,
    };
    let source = io.get_ref().and_then(|source| source.downcast_ref());
    matches!(
        source,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
    )
}

/// Reads the identity again, and connects: the broker's answer.
///
/// Not cancel-safe in that a dropped attempt begins again from the start.
pub(crate) async fn connect(
    event_loop: &mut EventLoop,
    settings: &mut ConnectionSettings,
) -> Result<ConnAck, Failure> {
    renew(event_loop, settings).await?;
    loop {
        match event_loop.poll().await? {
            Event::Incoming(Packet::ConnAck(answer)) => return Ok(answer),
            event => debug!(?event, "out of place before the connection stands"),
        }
    }
}

/// Puts in place what the identity comes to now.
async fn renew(event_loop: &mut EventLoop, settings: &mut ConnectionSettings) -> Result<(), Failure> {
    let Some(identity) = &settings.identity else {
        return Ok(());
    };
    let limit = settings.connect_timeout;
    let security = timeout(limit, identity.security()).await;
    let Security { credentials, tls } = security.map_err(|_| Failure::NoSecret(limit))??;
    if settings.credentials == credentials && settings.tls == tls {
        return Ok(());
    }
    let next = ConnectionSettings {
        credentials,
        tls,
        ..settings.clone()
    };
    let mut options = next.mqtt_options()?;
    // What has been set since the event loop was made.
    options.set_max_packet_size(event_loop.mqtt_options.max_packet_size(), MAX_PACKET_BYTES);
    options.set_inflight(event_loop.mqtt_options.inflight());
    event_loop.mqtt_options = options;
    *settings = next;
    Ok(())
}
