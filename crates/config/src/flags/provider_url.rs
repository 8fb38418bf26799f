//! The URL of a configuration provider: `consul.http://localhost:8500`.

use std::{fmt, str::FromStr};

/// What a configuration provider is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// Consul, with EdgeX 3.
    Consul,
    /// Core Keeper, with EdgeX 4.
    Keeper,
}

impl ProviderKind {
    /// The name in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consul => "consul",
            Self::Keeper => "keeper",
        }
    }

    /// The major version of EdgeX that comes with it.
    pub fn generation(self) -> u8 {
        match self {
            Self::Consul => 3,
            Self::Keeper => 4,
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a configuration provider is. Written `{type}.{protocol}://{host}:{port}`; the port has to be there, the
/// protocol is `http` unless given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderUrl {
    /// What it is.
    pub kind: ProviderKind,
    /// `http` or `https`.
    pub protocol: String,
    /// Host name or address, an IPv6 address in its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A text that is not the URL of a configuration provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; write it as consul.http://localhost:8500 or keeper.http://localhost:59890")]
pub struct InvalidProviderUrl {
    problem: &'static str,
}

impl ProviderUrl {
    /// Reads the URL.
    ///
    /// # Errors
    /// [`InvalidProviderUrl`] says which part is wrong.
    pub fn parse(url: &str) -> Result<Self, InvalidProviderUrl> {
        let wrong = |problem| InvalidProviderUrl { problem };
        let (scheme, authority) = url
            .trim()
            .split_once("://")
            .ok_or_else(|| wrong("the scheme is missing"))?;
        let (kind, protocol) = scheme.split_once('.').unwrap_or((scheme, "http"));
        let kind = match kind {
            "consul" => ProviderKind::Consul,
            "keeper" => ProviderKind::Keeper,
            _ => return Err(wrong("the type is neither consul nor keeper")),
        };
        if !matches!(protocol, "http" | "https") {
            return Err(wrong("the protocol is neither http nor https"));
        }
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = authority
            .rsplit_once(':')
            .ok_or_else(|| wrong("the port is missing"))?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| wrong("the port is not a port number"))?;
        if host.is_empty() || host.contains(['/', '@', '?', '#']) || host.chars().any(char::is_whitespace) {
            return Err(wrong("the host is not a host name"));
        }
        Ok(Self {
            kind,
            protocol: protocol.to_owned(),
            host: host.to_owned(),
            port,
        })
    }

    /// Where the provider of a generation is when nothing else is said; Consul when the generation is not said either.
    pub fn default_of(generation: Option<u8>) -> Self {
        let (kind, port) = match generation {
            Some(4) => (ProviderKind::Keeper, 59_890),
            _ => (ProviderKind::Consul, 8_500),
        };
        Self {
            kind,
            protocol: "http".to_owned(),
            host: "localhost".to_owned(),
            port,
        }
    }

    /// The address without the type, as an HTTP client takes it: `http://localhost:8500`.
    pub fn base_url(&self) -> String {
        format!("{}://{}:{}", self.protocol, self.host, self.port)
    }
}

impl FromStr for ProviderUrl {
    type Err = InvalidProviderUrl;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Self::parse(url)
    }
}

impl fmt::Display for ProviderUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.base_url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_printed() {
        for (url, printed) in [
            (
                "consul.http://edgex-core-consul:8500",
                "consul.http://edgex-core-consul:8500",
            ),
            ("keeper://localhost:59890", "keeper.http://localhost:59890"),
            ("keeper.https://[::1]:59890/", "keeper.https://[::1]:59890"),
        ] {
            assert_eq!(ProviderUrl::parse(url).unwrap().to_string(), printed);
        }
        assert_eq!(
            ProviderUrl::parse("consul://h:1").unwrap().base_url(),
            "http://h:1"
        );
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for url in [
            "localhost:8500",
            "http://localhost:8500",
            "consul.http.x://localhost:8500",
            "consul.ftp://localhost:8500",
            "consul.http://localhost",
            "consul.http://:8500",
            "consul.http://localhost:0",
            "consul.http://localhost:99999",
            "consul.http://a:b@localhost:8500",
            "consul.http://localhost:8500/base",
            "default",
            "",
        ] {
            assert!(ProviderUrl::parse(url).is_err(), "{url:?} was taken");
        }
    }
}
