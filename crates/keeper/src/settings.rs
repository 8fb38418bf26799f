//! Where Core Keeper is, and what goes along with every call.

use std::{net::Ipv6Addr, sync::Arc, time::Duration};

use edgehold_config::{FixedToken, ProviderError, TokenSource, without_passwords};
use reqwest::Url;

/// Where Core Keeper is and what goes along with every call. Clones share their source of tokens.
#[derive(Clone)]
pub struct KeeperSettings {
    pub(crate) base: Url,
    /// Where access tokens come from: JWTs, shown as `Authorization: Bearer`.
    pub tokens: Arc<dyn TokenSource>,
    /// PEM of the authorities that are trusted for `https`; the system's when absent (`SSL_CERT_FILE` and `SSL_CERT_DIR`
    /// say where those are).
    pub authorities: Option<String>,
    /// How often to look for changes that nobody has told of.
    pub poll: PollIntervals,
}

/// How often to look for changes that nobody has told of, give or take a quarter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollIntervals {
    /// While the message bus tells of changes. 30 s.
    pub listening: Duration,
    /// While it does not: it is disabled, or away. 5 s.
    pub deaf: Duration,
}

impl Default for PollIntervals {
    fn default() -> Self {
        Self {
            listening: Duration::from_secs(30),
            deaf: Duration::from_secs(5),
        }
    }
}

impl KeeperSettings {
    /// For the Core Keeper of `keeper.{protocol}://{host}:{port}`, without a token. An IPv6 address may stand with or
    /// without its brackets.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] when the parts do not make an HTTP URL of exactly these parts.
    pub fn new(protocol: &str, host: &str, port: u16) -> Result<Self, ProviderError> {
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_owned(),
        };
        let text = format!("{protocol}://{host}:{port}");
        let wrong = |why: &str| {
            let shown = without_passwords(&text);
            ProviderError::Configuration(format!("the address of Core Keeper, '{shown}', {why}"))
        };
        if !matches!(protocol, "http" | "https") {
            return Err(wrong("has a protocol other than http and https"));
        }
        if host.is_empty() || port == 0 {
            return Err(wrong("lacks its host or port"));
        }
        let base = Url::parse(&text).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
        // A host such as `user@keeper` or `keeper/x` parses, but to something else than it says.
        let parts_only = base.username().is_empty()
            && base.password().is_none()
            && base.path() == "/"
            && base.query().is_none()
            && base.fragment().is_none()
            && base.port_or_known_default() == Some(port);
        if !parts_only {
            return Err(wrong("has a host that is not one"));
        }
        Ok(Self {
            base,
            tokens: Arc::new(FixedToken::default()),
            authorities: None,
            poll: PollIntervals::default(),
        })
    }

    /// `keeper http://localhost:59890`: for messages.
    pub(crate) fn name(&self) -> String {
        format!("keeper {}", self.base.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_a_url() {
        for (host, name) in [
            ("edgex-core-keeper", "keeper http://edgex-core-keeper:59890"),
            ("127.0.0.1", "keeper http://127.0.0.1:59890"),
            ("::1", "keeper http://[::1]:59890"),
            ("[::1]", "keeper http://[::1]:59890"),
        ] {
            let settings = KeeperSettings::new("http", host, 59890).unwrap();
            assert_eq!(settings.name(), name);
        }
    }

    #[test]
    fn parts_that_are_not_parts_are_refused() {
        for (protocol, host, port) in [
            ("ftp", "keeper", 59890),
            ("http", "", 59890),
            ("http", "keeper", 0),
            ("http", "user@keeper", 59890),
            ("http", "keeper:1/x?", 59890),
            ("http", "kee per", 59890),
            ("http", "other:9/", 59890),
        ] {
            let error = KeeperSettings::new(protocol, host, port).err().unwrap();
            assert!(
                matches!(error, ProviderError::Configuration(_)),
                "{protocol} {host} {port}: {error}"
            );
        }
    }
}
