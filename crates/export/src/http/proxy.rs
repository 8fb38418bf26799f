//! Proxies by the environment, as Go's client reads it: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in capitals or not, and
//! never for `localhost` and loopback addresses.

use reqwest::{NoProxy, Proxy};

/// What is never asked for by a proxy.
const DIRECT: &str = "localhost,127.0.0.0/8,::1";

/// A variable that names no proxy we can use. Its value is not shown: it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("the environment variable {variable} does not name a proxy that can be used (http or https)")]
pub(super) struct InvalidProxy {
    variable: &'static str,
}

/// The proxies that these variables name, at most one for each of http and https.
///
/// # Errors
/// [`InvalidProxy`]: sending past a proxy that was asked for would be worse.
pub(super) fn proxies(variable: impl Fn(&str) -> Option<String>) -> Result<Vec<Proxy>, InvalidProxy> {
    let value = |name: &str| {
        let values = [variable(name), variable(&name.to_lowercase())];
        values.into_iter().flatten().find(|value| !value.is_empty())
    };
    let direct = match value("NO_PROXY") {
        Some(list) => format!("{list},{DIRECT}"),
        None => DIRECT.to_owned(),
    };
    type Make = fn(String) -> reqwest::Result<Proxy>;
    let kinds: [(&str, Make); 2] = [("HTTP_PROXY", Proxy::http), ("HTTPS_PROXY", Proxy::https)];
    let mut proxies = Vec::new();
    for (name, make) in kinds {
        let Some(address) = value(name) else { continue };
        let scheme = address.split_once("://").map_or("http", |(scheme, _)| scheme);
        let spoken = ["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known));
        let proxy = make(address.clone()).ok().filter(|_| spoken);
        let proxy = proxy.ok_or(InvalidProxy { variable: name })?;
        proxies.push(proxy.no_proxy(NoProxy::from_string(&direct)));
    }
    Ok(proxies)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<usize, String> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        proxies(find)
            .map(|proxies| proxies.len())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn proxies_are_named_in_capitals_or_not() {
        assert_eq!(of(&[]), Ok(0));
        assert_eq!(of(&[("HTTP_PROXY", "http://proxy:3128")]), Ok(1));
        assert_eq!(
            of(&[("http_proxy", "proxy:3128"), ("HTTPS_PROXY", "proxy:3128")]),
            Ok(2)
        );
        assert_eq!(of(&[("HTTP_PROXY", ""), ("ALL_PROXY", "proxy:3128")]), Ok(0));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_its_value() {
        let error = of(&[("HTTPS_PROXY", "socks5://me:sesame@proxy:1080")]).unwrap_err();
        assert!(
            error.contains("HTTPS_PROXY") && !error.contains("sesame"),
            "{error}"
        );
    }
}
