//! How to reach a broker, checked before anything is opened.

use std::time::Duration;

use edgehold_core::SecretText;
use rumqttc::{MqttOptions, NetworkOptions, QoS, TlsConfiguration, Transport};

use crate::{TlsSettings, tls};

/// The largest packet MQTT knows, without its fixed header (3.1.1 §2.2.3).
pub(crate) const MAX_PACKET_BYTES: usize = 268_435_455;

/// What a PUBLISH carries beside its payload at most: topic with its length, packet id.
const MAX_PUBLISH_HEADER_BYTES: usize = 2 + 65_535 + 2;

/// Quality of service of a subscription or of a published message (EdgeX `Qos`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// 0: a message may be lost. EdgeX's default.
    #[default]
    AtMostOnce,
    /// 1: acknowledged when done with, delivered again until then; published: confirmed by the broker.
    AtLeastOnce,
    /// 2. Subscriptions lower it to 1.
    ExactlyOnce,
}

impl TryFrom<u8> for Qos {
    type Error = InvalidConnectionSettings;

    fn try_from(level: u8) -> Result<Self, Self::Error> {
        match level {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(InvalidConnectionSettings::Qos { level }),
        }
    }
}

impl From<Qos> for QoS {
    fn from(qos: Qos) -> Self {
        match qos {
            Qos::AtMostOnce => Self::AtMostOnce,
            Qos::AtLeastOnce => Self::AtLeastOnce,
            Qos::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

impl From<QoS> for Qos {
    fn from(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::AtMostOnce,
            QoS::AtLeastOnce => Self::AtLeastOnce,
            QoS::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

/// User name and password of a connection.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The password; may be empty.
    pub password: SecretText,
}

/// How to reach a broker (EdgeX `MessageBus` and `MessageBus.Optional`).
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// Name or address of the broker.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Encryption; none by default.
    pub tls: Option<TlsSettings>,
    /// The client id, by which the broker knows a session. May be empty only with a clean session.
    pub client_id: String,
    /// User name and password; none by default.
    pub credentials: Option<Credentials>,
    /// How often the broker hears from us at least, in whole seconds, rounded up. Zero switches it off. Default 10 s.
    pub keep_alive: Duration,
    /// Whether the broker forgets the session when the connection ends. Default true, as in EdgeX. What is to be
    /// acknowledged only when it is durable needs `false`: otherwise the broker has nothing to deliver again.
    pub clean_session: bool,
    /// How long one attempt to connect, and one write, may take, in whole seconds, rounded up. Default 5 s.
    pub connect_timeout: Duration,
    /// The largest payload to hand over whole, in bytes; larger messages are set aside. Default 64 MiB, at most what
    /// MQTT can carry (256 MiB).
    pub max_message_bytes: usize,
}

/// Why a connection cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConnectionSettings {
    /// The host is missing.
    #[error("the MQTT broker's host is empty")]
    NoHost,
    /// A session is to be kept for a client without a name.
    #[error("a session that is to be kept (CleanSession=false) needs a client id")]
    NoClientId,
    /// There is nothing to subscribe to.
    #[error("there is no topic to subscribe to")]
    NoFilter,
    /// Not a quality of service.
    #[error("{level} is not a quality of service (0, 1 or 2)")]
    Qos {
        /// The value given.
        level: u8,
    },
    /// Certificates or keys that cannot be used.
    #[error("the TLS settings cannot be used: {problem}")]
    Tls {
        /// Which of them.
        problem: &'static str,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ConnectionSettings {
    /// Settings for a broker, everything else as by default.
    pub fn new(host: impl Into<String>, port: u16, client_id: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            tls: None,
            client_id: client_id.into(),
            credentials: None,
            keep_alive: Duration::from_secs(10),
            clean_session: true,
            connect_timeout: Duration::from_secs(5),
            max_message_bytes: 64 * 1024 * 1024,
        }
    }

    /// The packet limit that lets every message of allowed size through.
    pub(crate) fn packet_limit(&self) -> usize {
        self.max_message_bytes
            .saturating_add(MAX_PUBLISH_HEADER_BYTES)
            .min(MAX_PACKET_BYTES)
    }

    pub(crate) fn connect_timeout_secs(&self) -> u64 {
        whole_seconds(self.connect_timeout).max(1)
    }

    pub(crate) fn network_options(&self) -> NetworkOptions {
        let mut options = NetworkOptions::new();
        options.set_tcp_nodelay(true);
        options.set_connection_timeout(self.connect_timeout_secs());
        options
    }

    /// The settings as the library wants them.
    ///
    /// # Errors
    /// Everything the library would otherwise panic or fail for later.
    pub(crate) fn mqtt_options(&self) -> Result<MqttOptions, InvalidConnectionSettings> {
        let host = self.host.trim();
        if host.is_empty() {
            return Err(InvalidConnectionSettings::NoHost);
        }
        if self.client_id.is_empty() && !self.clean_session {
            return Err(InvalidConnectionSettings::NoClientId);
        }
        let mut options = match &self.tls {
            Some(settings) => {
                let mut options = MqttOptions::new(self.client_id.as_str(), host, self.port);
                let config = tls::client_config(settings)?;
                options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
                options
            }
            // The library joins host and port by a colon before it looks the name up.
            None if host.contains(':') && !host.starts_with('[') => {
                MqttOptions::new(self.client_id.as_str(), format!("[{host}]"), self.port)
            }
            None => MqttOptions::new(self.client_id.as_str(), host, self.port),
        };
        // The packet carries 16 bits.
        let keep_alive = whole_seconds(self.keep_alive).min(u64::from(u16::MAX));
        options.set_keep_alive(Duration::from_secs(keep_alive));
        options.set_clean_session(self.clean_session);
        options.set_manual_acks(true);
        options.set_max_packet_size(self.packet_limit(), MAX_PACKET_BYTES);
        if let Some(Credentials { username, password }) = &self.credentials {
            options.set_credentials(username, password.expose());
        }
        Ok(options)
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_would_panic_for_is_refused_or_rounded() {
        let mut settings = ConnectionSettings::new("broker", 1883, "");
        settings.keep_alive = Duration::from_millis(1_500);
        settings.connect_timeout = Duration::ZERO;
        let options = settings.mqtt_options().unwrap();
        assert_eq!(options.keep_alive(), Duration::from_secs(2));
        assert_eq!(settings.connect_timeout_secs(), 1);

        settings.keep_alive = Duration::from_secs(100_000);
        assert_eq!(
            settings.mqtt_options().unwrap().keep_alive(),
            Duration::from_secs(65_535)
        );

        settings.clean_session = false;
        assert!(matches!(
            settings.mqtt_options(),
            Err(InvalidConnectionSettings::NoClientId)
        ));
        settings.host = " ".to_owned();
        assert!(matches!(
            settings.mqtt_options(),
            Err(InvalidConnectionSettings::NoHost)
        ));
    }

    #[test]
    fn an_address_with_colons_is_put_into_brackets() {
        let settings = ConnectionSettings::new("::1", 1883, "id");
        assert_eq!(
            settings.mqtt_options().unwrap().broker_address(),
            ("[::1]".to_owned(), 1883)
        );
    }

    #[test]
    fn a_password_does_not_show() {
        let mut settings = ConnectionSettings::new("broker", 1883, "id");
        let password = SecretText::new("hunter2");
        settings.credentials = Some(Credentials {
            username: "me".to_owned(),
            password,
        });
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn only_three_qualities_of_service_exist() {
        assert_eq!(Qos::try_from(1).unwrap(), Qos::AtLeastOnce);
        assert_eq!(
            Qos::try_from(3).unwrap_err().to_string(),
            "3 is not a quality of service (0, 1 or 2)"
        );
    }
}
