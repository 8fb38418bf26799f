//! How to reach a broker, checked before anything is opened.

use std::time::Duration;

use bytes::Bytes;
use edgehold_core::SecretText;
use rumqttc::{MqttOptions, NetworkOptions, QoS, TlsConfiguration, Transport};

use crate::{Identity, IdentityError, Security, TlsSettings, tls};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The password; may be empty.
    pub password: SecretText,
}

/// What the broker publishes for us when the connection ends without a goodbye (MQTT 3.1.1 §3.1.2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWill {
    /// Where to; no wildcards.
    pub topic: String,
    /// What; may be empty. At most 65,535 bytes.
    pub payload: Bytes,
    /// With which quality of service.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
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
    /// Asked before each attempt to connect; what it says then takes the place of `tls` and `credentials`. None by
    /// default. See [`ConnectionSettings::with_identity`].
    pub identity: Option<Identity>,
    /// None by default.
    pub will: Option<LastWill>,
    /// How often the broker hears from us at least, in whole seconds, rounded up. Zero switches it off. Default 10 s.
    pub keep_alive: Duration,
    /// Whether the broker forgets the session when the connection ends. Default true, as in EdgeX. What is to be
    /// acknowledged only when it is durable needs `false`: otherwise the broker has nothing to deliver again.
    pub clean_session: bool,
    /// How long one attempt to connect, and one write, may take, in whole seconds, rounded up. Default 5 s.
    pub connect_timeout: Duration,
    /// The pause between two attempts until the first connection stands; none, as by default, for 100 ms that grow to 2 s,
    /// which is the pause after that in any case.
    pub start_interval: Option<Duration>,
    /// The longest pause between two attempts of a connection that publishes. Default 2 s, at least 100 ms.
    pub max_reconnect_interval: Duration,
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
    /// The library looks the name up as `host:port` and compares the certificate with the host, and an IPv6 address has
    /// brackets in one place only.
    #[error("an encrypted connection to the address '{host}' is not supported; use the broker's name")]
    EncryptedIpV6 {
        /// The address.
        host: String,
    },
    /// A last will that no packet can carry.
    #[error("the last will cannot be left at the broker: its {problem}")]
    Will {
        /// What is wrong.
        problem: &'static str,
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

impl LastWill {
    fn checked(&self) -> Result<rumqttc::LastWill, InvalidConnectionSettings> {
        let wrong = |problem| Err(InvalidConnectionSettings::Will { problem });
        if !is_publishable(&self.topic) {
            return wrong("topic is empty, too long or has a wildcard in it");
        }
        if u16::try_from(self.payload.len()).is_err() {
            return wrong("payload is longer than 65,535 bytes");
        }
        let (topic, payload) = (self.topic.as_str(), self.payload.clone());
        Ok(rumqttc::LastWill::new(
            topic,
            payload,
            self.qos.into(),
            self.retain,
        ))
    }
}

/// Whether messages can be published to a topic (MQTT 3.1.1 §4.7).
pub(crate) fn is_publishable(topic: &str) -> bool {
    !topic.is_empty() && u16::try_from(topic.len()).is_ok() && !topic.contains(['+', '#', '\0'])
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
            identity: None,
            will: None,
            keep_alive: Duration::from_secs(10),
            clean_session: true,
            connect_timeout: Duration::from_secs(5),
            start_interval: None,
            max_reconnect_interval: Duration::from_secs(2),
            max_message_bytes: 64 * 1024 * 1024,
        }
    }

    /// Settings with the credentials and the TLS that `identity` comes to now, and to be asked for again before each
    /// attempt to connect, so that what was renewed meanwhile counts.
    ///
    /// # Errors
    /// [`IdentityError`]: so far it comes to nothing.
    pub async fn with_identity(mut self, identity: Identity) -> Result<Self, IdentityError> {
        Security {
            credentials: self.credentials,
            tls: self.tls,
        } = identity.security().await?;
        self.identity = Some(identity);
        Ok(self)
    }

    /// The settings of a further connection beside one with these: its client id has `-<role>` behind it, because a broker
    /// knows a client id once; the session is clean, and it leaves no will.
    #[must_use]
    pub fn beside(&self, role: &str) -> Self {
        let mut settings = self.clone();
        if !settings.client_id.is_empty() {
            settings.client_id.push('-');
            settings.client_id.push_str(role);
        }
        settings.clean_session = true;
        settings.will = None;
        settings
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
            Some(_) if host.contains(':') => {
                let host = host.to_owned();
                return Err(InvalidConnectionSettings::EncryptedIpV6 { host });
            }
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
        if let Some(will) = &self.will {
            options.set_last_will(will.checked()?);
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
    fn an_encrypted_connection_to_an_address_with_colons_is_refused_by_name() {
        let mut settings = ConnectionSettings::new("::1", 8883, "id");
        settings.tls = Some(TlsSettings {
            trust: crate::Trust::Anyone,
            client_certificate: None,
        });
        let error = settings.mqtt_options().unwrap_err().to_string();
        assert!(error.contains("'::1' is not supported"), "{error}");
    }

    #[test]
    fn a_will_that_no_packet_can_carry_is_refused() {
        let mut settings = ConnectionSettings::new("broker", 1883, "id");
        let will = |topic: &str, bytes: usize| LastWill {
            topic: topic.to_owned(),
            payload: vec![b'x'; bytes].into(),
            qos: Qos::AtLeastOnce,
            retain: true,
        };
        settings.will = Some(will("gone", 65_535));
        let options = settings.mqtt_options().unwrap();
        assert!(
            options
                .last_will()
                .is_some_and(|will| will.retain && will.topic == "gone")
        );
        for wrong in [will("", 1), will("gone/#", 1), will("gone", 65_536)] {
            settings.will = Some(wrong);
            assert!(matches!(
                settings.mqtt_options(),
                Err(InvalidConnectionSettings::Will { .. })
            ));
        }
        assert_eq!(settings.beside("pub").will, None);
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
