//! Addresses of brokers, as EdgeX writes them: `<scheme>://[user[:password]@]host[:port]`.

use std::fmt;

use edgehold_core::SecretText;

use crate::Credentials;

/// The port of MQTT, and that of MQTT over TLS.
const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;

/// Where a broker is, whether it is spoken to over TLS, and the credentials that stand in the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Name or address; an IPv6 address without brackets. Never empty.
    pub host: String,
    /// Port; 1883, over TLS 8883, where the address has none.
    pub port: u16,
    /// Whether the scheme asks for TLS.
    pub encrypted: bool,
    /// What stands before the host.
    pub credentials: Option<Credentials>,
}

/// A text that is no address of a broker. Shows no more of the text than its scheme, because a password may be in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBrokerAddress {
    /// A scheme that is known, but not spoken here.
    #[error("'{scheme}' is not supported; use tcp, mqtt, ssl, tls, tcps, mqtts or mqtt+ssl")]
    Unsupported {
        /// `ws`, `wss` or `unix`.
        scheme: String,
    },
    /// A scheme nobody knows.
    #[error("'{scheme}' is no scheme of a broker; use tcp, mqtt, ssl, tls, tcps, mqtts or mqtt+ssl")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// Something else is wrong.
    #[error("the address of the broker {problem}")]
    Malformed {
        /// What.
        problem: &'static str,
    },
}

impl BrokerAddress {
    /// Reads an address. Without a scheme it is `tcp`; a path behind the port is ignored, as in EdgeX. (EdgeX:
    /// `Trigger.ExternalMqtt.Url`, MQTTExport's `BrokerAddress`.)
    ///
    /// ```
    /// # use edgehold_mqtt::BrokerAddress;
    /// let address = BrokerAddress::parse("ssl://broker.example:8884")?;
    /// assert_eq!((address.host.as_str(), address.port, address.encrypted), ("broker.example", 8884, true));
    /// # Ok::<(), edgehold_mqtt::InvalidBrokerAddress>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidBrokerAddress`].
    pub fn parse(text: &str) -> Result<Self, InvalidBrokerAddress> {
        let malformed = |problem| Err(InvalidBrokerAddress::Malformed { problem });
        let text = text.trim();
        if text.is_empty() {
            return malformed("is empty");
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        let encrypted = is_encrypted(scheme)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, place) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((user, place)) => (Some(credentials(user)?), place),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(bracketed) => {
                let Some((host, rest)) = bracketed.split_once(']') else {
                    return malformed("has a bracket that is not closed");
                };
                match rest.strip_prefix(':') {
                    None if !rest.is_empty() => return malformed("has text between the host and the port"),
                    port => (host, port),
                }
            }
            None => match place.split_once(':') {
                None => (place, None),
                Some((_, port)) if port.contains(':') => {
                    return malformed("has a host with colons, which belongs into brackets");
                }
                Some((host, port)) => (host, Some(port)),
            },
        };
        if host.is_empty() {
            return malformed("has no host");
        }
        let port = match port {
            None if encrypted => TLS_PORT,
            None => PORT,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return malformed("has a port that is none"),
                Ok(port) => port,
            },
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            encrypted,
            credentials,
        })
    }

    /// An address in parts; an empty scheme is `tcp`. (EdgeX: `MessageBus`, `Protocol`, `Host` and `Port`.)
    ///
    /// # Errors
    /// [`InvalidBrokerAddress`].
    pub fn from_parts(scheme: &str, host: &str, port: u16) -> Result<Self, InvalidBrokerAddress> {
        let scheme = match scheme.trim() {
            "" => "tcp",
            scheme => scheme,
        };
        let encrypted = is_encrypted(scheme)?;
        let host = host.trim();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() || port == 0 {
            let problem = "has no host or no port";
            return Err(InvalidBrokerAddress::Malformed { problem });
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            encrypted,
            credentials: None,
        })
    }
}

/// `scheme://host:port`, without credentials: for the log.
impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        let scheme = if self.encrypted { "ssl" } else { "tcp" };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

/// Whether a scheme asks for TLS: the schemes of EdgeX's MQTT library, whatever their case.
fn is_encrypted(scheme: &str) -> Result<bool, InvalidBrokerAddress> {
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "tcp" | "mqtt" => Ok(false),
        "ssl" | "tls" | "tcps" | "mqtts" | "mqtt+ssl" => Ok(true),
        "ws" | "wss" | "unix" => Err(InvalidBrokerAddress::Unsupported { scheme }),
        _ => Err(InvalidBrokerAddress::Scheme { scheme }),
    }
}

fn credentials(user: &str) -> Result<Credentials, InvalidBrokerAddress> {
    let (username, password) = user.split_once(':').unwrap_or((user, ""));
    let decoded = |text| {
        percent_decoded(text).ok_or(InvalidBrokerAddress::Malformed {
            problem: "has a user name or password with a percent sign that encodes nothing",
        })
    };
    Ok(Credentials {
        username: decoded(username)?,
        password: SecretText::new(decoded(password)?),
    })
}

/// Text in which some bytes stand as `%xx` (RFC 3986 §2.1).
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z]{0,4}(:/{0,3})?([a-z%0-9]{0,3}(:[a-z%]{0,3})?@)?\\PC{0,12}(:[0-9]{0,6})?") {
            if let Ok(address) = BrokerAddress::parse(&text) {
                assert!(!address.host.is_empty() && address.port > 0);
                let again = BrokerAddress::parse(&address.to_string());
                // What is shown has no credentials in it.
                assert!(again.is_ok_and(|again| again.credentials.is_none() && again.host == address.host));
            }
        }
    }

    #[track_caller]
    fn check(text: &str, host: &str, port: u16, encrypted: bool) {
        let expected = BrokerAddress {
            host: host.to_owned(),
            port,
            encrypted,
            credentials: None,
        };
        assert_eq!(BrokerAddress::parse(text), Ok(expected), "{text}");
    }

    #[test]
    fn every_scheme_of_edgex_is_understood() {
        for scheme in ["tcp", "mqtt", "MQTT"] {
            check(&format!("{scheme}://broker:18"), "broker", 18, false);
            check(&format!("{scheme}://broker"), "broker", 1883, false);
        }
        for scheme in ["ssl", "tls", "tcps", "mqtts", "mqtt+ssl", "SSL"] {
            check(&format!("{scheme}://broker:18"), "broker", 18, true);
            check(&format!("{scheme}://broker/"), "broker", 8883, true);
        }
        check(" broker:18 ", "broker", 18, false);
        check("tcp://[::1]:18", "::1", 18, false);
        check("tcp://[::1]", "::1", 1883, false);
        check("tcp://broker:18/path?query", "broker", 18, false);
        let parts = BrokerAddress::from_parts("", "[::1]", 7).unwrap();
        assert_eq!(parts.to_string(), "tcp://[::1]:7");
    }

    #[test]
    fn what_is_not_spoken_is_refused_by_name() {
        for scheme in ["ws", "wss", "unix"] {
            let error = BrokerAddress::parse(&format!("{scheme}://broker/mqtt")).unwrap_err();
            assert_eq!(
                error,
                InvalidBrokerAddress::Unsupported {
                    scheme: scheme.to_owned()
                }
            );
            assert!(BrokerAddress::from_parts(scheme, "broker", 1).is_err());
        }
        let error = BrokerAddress::parse("http://broker").unwrap_err().to_string();
        assert!(error.starts_with("'http' is no scheme"), "{error}");
    }

    #[test]
    fn a_malformed_address_is_refused_without_showing_its_password() {
        for text in [
            "",
            "tcp://",
            "tcp://:1883",
            "tcp://broker:",
            "tcp://broker:0",
            "tcp://broker:65536",
            "tcp://a:b:c",
            "tcp://[::1",
            "tcp://[::1]x",
            "tcp://me:hunter2%@broker",
            "tcp://me:hunter2@",
        ] {
            let error = BrokerAddress::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("the address of the broker has") || text.is_empty(),
                "{text}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(BrokerAddress::from_parts("tcp", "broker", 0).is_err());
        assert!(BrokerAddress::from_parts("tcp", " ", 1).is_err());
    }

    #[test]
    fn credentials_in_an_address_are_decoded_and_not_shown() {
        let address = BrokerAddress::parse("tcp://me%40home:p%3Ass:w@broker:18").unwrap();
        let credentials = address.credentials.clone().unwrap();
        assert_eq!(credentials.username, "me@home");
        assert_eq!(credentials.password.expose(), "p:ss:w");
        assert!(!format!("{address:?}{address}").contains("ss:w"));
    }
}
