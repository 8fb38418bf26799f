//! Where Consul listens: the parts of a provider URL, and the URL they make.

use std::{fmt, net::Ipv6Addr};

use edgehold_config::{ProviderError, without_passwords};
use reqwest::Url;

/// Where Consul's HTTP API listens, as in `consul.http://localhost:8500` or in the settings below `Registry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulAddress {
    /// `http` or `https`.
    pub protocol: String,
    /// Host name or IP address; an IPv6 address with or without its brackets.
    pub host: String,
    /// Port of the HTTP API, 8500 unless configured otherwise.
    pub port: u16,
}

impl ConsulAddress {
    /// The root of the API.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] when the parts do not make an HTTP URL of exactly these parts.
    pub(crate) fn url(&self) -> Result<Url, ProviderError> {
        let shown = without_passwords(&self.to_string());
        let wrong =
            |why: &str| ProviderError::Configuration(format!("the address of Consul, '{shown}', {why}"));
        if !matches!(self.protocol.as_str(), "http" | "https") {
            return Err(wrong("has a protocol other than http and https"));
        }
        if self.host.is_empty() || self.port == 0 {
            return Err(wrong("lacks its host or port"));
        }
        let url = Url::parse(&self.to_string()).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
        // A host such as `user@consul` or `consul/x` parses, but to something else than it says.
        let parts_only = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.port_or_known_default() == Some(self.port);
        if parts_only {
            Ok(url)
        } else {
            Err(wrong("has a host that is not one"))
        }
    }
}

impl fmt::Display for ConsulAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.protocol, host_in_url(&self.host), self.port)
    }
}

/// The host as it stands in a URL: an IPv6 address gets its brackets.
pub(crate) fn host_in_url(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(protocol: &str, host: &str, port: u16) -> ConsulAddress {
        ConsulAddress {
            protocol: protocol.to_owned(),
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn parts_make_a_url() {
        for (host, text) in [
            ("edgex-core-consul", "http://edgex-core-consul:8500"),
            ("127.0.0.1", "http://127.0.0.1:8500"),
            ("::1", "http://[::1]:8500"),
            ("[::1]", "http://[::1]:8500"),
        ] {
            let address = address("http", host, 8500);
            assert_eq!(address.to_string(), text);
            assert_eq!(address.url().unwrap().as_str(), format!("{text}/"));
        }
    }

    #[test]
    fn parts_that_are_not_parts_are_refused() {
        for (protocol, host, port) in [
            ("ftp", "consul", 8500),
            ("http", "", 8500),
            ("http", "consul", 0),
            ("http", "user@consul", 8500),
            ("http", "consul:1/x?", 8500),
            ("http", "con sul", 8500),
            ("http", "other:9/", 8500),
        ] {
            let error = address(protocol, host, port).url().unwrap_err();
            assert!(
                matches!(error, ProviderError::Configuration(_)),
                "{protocol} {host} {port}: {error}"
            );
        }
    }
}
