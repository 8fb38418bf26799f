//! Our thin client for Consul's HTTP API. Owns addresses, headers, timeouts and the meaning of a status code; what is
//! read and written belongs to the other modules.
//!
//! It exists because the client library in [`agent`](crate::agent) cannot block on a missing prefix (it drops the index
//! of a 404), encodes keys twice, and knows no transactions.
//!
//! A half-open connection cannot hold a call up: each has a timeout of its own, and the connections have keep-alive.

use std::{error::Error, net::IpAddr, time::Duration};

use bytes::Bytes;
use edgehold_config::ProviderError;
use edgehold_core::SecretText;
use reqwest::{
    Method, RequestBuilder, Url,
    header::{CONTENT_TYPE, HeaderValue},
    redirect::Policy,
};
use rustls::crypto::{CryptoProvider, ring};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    ConsulAddress,
    transaction::{self, Operation, Outcome},
};

/// How long an ordinary call may take, from connecting to the last byte.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long Consul holds a blocking query that has nothing to tell. It adds up to a sixteenth.
const WAIT_SECS: u64 = 55;
const WAIT_TIMEOUT: Duration = Duration::from_secs(WAIT_SECS * 17 / 16 + 10);

/// How much of a refusal's body a message holds.
const REASON_CHARS: usize = 300;

/// Speaks to one Consul with one token.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<HeaderValue>,
    name: String,
}

struct Answer {
    status: u16,
    index: Option<u64>,
    body: Bytes,
}

impl Client {
    /// Prepares the calls; connects to nothing yet.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] for an impossible address or token, or for `https` without a TLS provider.
    pub(crate) fn new(address: &ConsulAddress, token: Option<&SecretText>) -> Result<Self, ProviderError> {
        let base = address.url()?;
        let token = match token {
            None => None,
            Some(token) => {
                let wrong =
                    |_| ProviderError::Configuration("Consul's token cannot stand in a header".to_owned());
                let mut value = HeaderValue::from_str(token.expose()).map_err(wrong)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(Policy::none());
        if is_loopback(&base) {
            // As Go does, and so the original: proxies of the environment are for others than this machine.
            http = http.no_proxy();
        }
        if base.scheme() == "http" {
            http = http.tls_backend_preconfigured(unused_tls());
        } else if CryptoProvider::get_default().is_none() {
            return Err(ProviderError::Configuration(format!(
                "{base} needs TLS, and no TLS provider is installed"
            )));
        }
        let http = http
            .build()
            .map_err(|error| ProviderError::Configuration(format!("no HTTP client for {base}: {error}")))?;
        Ok(Self {
            http,
            base,
            token,
            name: format!("consul {address}"),
        })
    }

    /// `consul http://localhost:8500`: for messages and for [`ProviderError`].
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is a leader, without which nothing can be read or written.
    pub(crate) async fn check_leader(&self) -> Result<(), ProviderError> {
        let answer = self
            .call(Method::GET, &["v1", "status", "leader"], "", Bytes::new())
            .await?;
        let leader: String = self.json(&self.succeeded(answer)?)?;
        if leader.is_empty() {
            Err(self.unavailable("it has no leader", None))
        } else {
            Ok(())
        }
    }

    /// Does all of the operations or none (`PUT /v1/txn`). At most 64, in a body of at most 512 KiB.
    pub(crate) async fn transaction<'a>(
        &self,
        operations: impl IntoIterator<Item = &'a Operation>,
    ) -> Result<Outcome, ProviderError> {
        let body = transaction::body(operations);
        let answer = self.call(Method::PUT, &["v1", "txn"], "", body.into()).await?;
        // The status of a transaction that was rolled back; the body tells why.
        let answer = if answer.status == 409 {
            answer
        } else {
            self.succeeded(answer)?
        };
        transaction::parse(&answer.body).map_err(|reason| self.unexpected(reason))
    }

    /// Writes one key by itself, which may have up to 512 KiB; without `overwrite` only when it does not exist.
    /// Answers whether it was written.
    pub(crate) async fn put(&self, key: &str, value: &str, overwrite: bool) -> Result<bool, ProviderError> {
        let query = if overwrite { "" } else { "cas=0" };
        let answer = self
            .call(Method::PUT, &key_path(key), query, value.to_owned().into())
            .await?;
        self.json(&self.succeeded(answer)?)
    }

    /// Whether this token may read `key`, which need not exist.
    ///
    /// # Errors
    /// [`ProviderError::Denied`] when it may not.
    pub(crate) async fn check_readable(&self, key: String) -> Result<(), ProviderError> {
        let answer = self.call(Method::GET, &key_path(&key), "", Bytes::new()).await?;
        if answer.status == 404 {
            Ok(())
        } else {
            self.succeeded(answer).map(drop)
        }
    }

    /// Waits until something below `prefix` may have changed since `index` and answers the index to wait from next.
    /// Returns at once for index 0, otherwise after 59 seconds at the latest. A prefix without keys has an index too.
    ///
    /// Cancel-safe: dropping the future closes the connection, and Consul forgets the query.
    pub(crate) async fn wait_for_change(&self, prefix: &str, index: u64) -> Result<u64, ProviderError> {
        let query = format!("recurse&index={index}&wait={WAIT_SECS}s");
        let deadline = if index == 0 { CALL_TIMEOUT } else { WAIT_TIMEOUT };
        let request = self.request(Method::GET, &key_path(prefix), &query)?;
        let answer = self.answer(request, deadline).await?;
        let index = answer.index;
        if answer.status != 404 {
            self.succeeded(answer)?;
        }
        index.ok_or_else(|| self.unexpected("it gave no X-Consul-Index"))
    }

    /// The services registered with this agent, by id.
    pub(crate) async fn agent_services(&self) -> Result<serde_json::Map<String, Value>, ProviderError> {
        let answer = self
            .call(Method::GET, &["v1", "agent", "services"], "", Bytes::new())
            .await?;
        self.json(&self.succeeded(answer)?)
    }

    /// Removes a service from this agent, whatever characters its id has.
    pub(crate) async fn deregister(&self, id: &str) -> Result<(), ProviderError> {
        let segments = ["v1", "agent", "service", "deregister", id];
        let answer = self.call(Method::PUT, &segments, "", Bytes::new()).await?;
        self.succeeded(answer).map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &str,
        body: Bytes,
    ) -> Result<Answer, ProviderError> {
        let mut request = self.request(method, path, query)?;
        if !body.is_empty() {
            request = request
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(body);
        }
        self.answer(request, CALL_TIMEOUT).await
    }

    /// Each segment is percent-encoded exactly once.
    fn request(&self, method: Method, path: &[&str], query: &str) -> Result<RequestBuilder, ProviderError> {
        // URLs resolve these away, encoded or not.
        if path.iter().any(|segment| matches!(*segment, "." | "..")) {
            let path = path.join("/");
            return Err(ProviderError::Configuration(format!(
                "'{path}' cannot be part of Consul's address"
            )));
        }
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .extend(path);
        if !query.is_empty() {
            url.set_query(Some(query));
        }
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.header("X-Consul-Token", token.clone());
        }
        Ok(request)
    }

    async fn answer(&self, request: RequestBuilder, deadline: Duration) -> Result<Answer, ProviderError> {
        let exchange = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            let index = response
                .headers()
                .get("X-Consul-Index")
                .and_then(|index| index.to_str().ok()?.parse().ok());
            // Also when nobody wants it: the connection can be used again only after the last byte.
            let body = response.bytes().await?;
            Ok(Answer { status, index, body })
        };
        match timeout(deadline, exchange).await {
            Ok(result) => result.map_err(|error: reqwest::Error| {
                self.unavailable("the request failed", Some(error.without_url().into()))
            }),
            Err(_) => Err(self.unavailable(&format!("no answer within {deadline:?}"), None)),
        }
    }

    fn succeeded(&self, answer: Answer) -> Result<Answer, ProviderError> {
        match answer.status {
            200..=299 => Ok(answer),
            status => Err(error_of_status(
                &self.name,
                status,
                &String::from_utf8_lossy(&answer.body),
            )),
        }
    }

    fn json<'a, T: serde::Deserialize<'a>>(&self, answer: &'a Answer) -> Result<T, ProviderError> {
        serde_json::from_slice(&answer.body).map_err(|error| self.unexpected(error.to_string()))
    }

    pub(crate) fn unexpected(&self, reason: impl Into<String>) -> ProviderError {
        ProviderError::Unexpected {
            provider: self.name.clone(),
            reason: reason.into(),
        }
    }

    pub(crate) fn denied(&self, reason: impl Into<String>) -> ProviderError {
        ProviderError::Denied {
            provider: self.name.clone(),
            reason: reason.into(),
        }
    }

    fn unavailable(&self, reason: &str, source: Option<Box<dyn Error + Send + Sync>>) -> ProviderError {
        ProviderError::Unavailable {
            provider: self.name.clone(),
            reason: reason.to_owned(),
            source,
        }
    }
}

/// The path of a key, by segments.
fn key_path(key: &str) -> Vec<&str> {
    ["v1", "kv"].into_iter().chain(key.split('/')).collect()
}

/// What a status other than success means. 403 is Consul's answer to an unknown token and to missing rights; 500 is
/// its answer while it has no leader, and to most of what goes wrong inside.
pub(crate) fn error_of_status(provider: &str, status: u16, body: &str) -> ProviderError {
    let body: String = body.trim().chars().take(REASON_CHARS).collect();
    let provider = provider.to_owned();
    let reason = if body.is_empty() {
        format!("status {status}")
    } else {
        format!("status {status}: {body}")
    };
    match status {
        401 | 403 => ProviderError::Denied { provider, reason },
        429 | 500..=599 => ProviderError::Unavailable {
            provider,
            reason,
            source: None,
        },
        _ => ProviderError::Unexpected { provider, reason },
    }
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// For plain HTTP: reqwest wants a TLS configuration all the same, and otherwise takes the process's provider, which
/// need not be there, and reads the machine's certificates.
fn unused_tls() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring speaks every version that rustls does")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use edgehold_core::ErrorClass;

    use super::*;

    fn client(token: Option<&str>) -> Result<Client, ProviderError> {
        let address = ConsulAddress {
            protocol: "http".to_owned(),
            host: "localhost".to_owned(),
            port: 8500,
        };
        Client::new(&address, token.map(SecretText::new).as_ref())
    }

    #[test]
    fn a_path_is_encoded_once() {
        let client = client(None).unwrap();
        let url = |path: &[&str]| {
            client
                .request(Method::GET, path, "")
                .unwrap()
                .build()
                .unwrap()
                .url()
                .to_string()
        };
        assert_eq!(
            url(&["v1", "kv", "a-b_c.d~e"]),
            "http://localhost:8500/v1/kv/a-b_c.d~e"
        );
        assert_eq!(
            url(&["v1", "kv", "sp ace", "ü", ""]),
            "http://localhost:8500/v1/kv/sp%20ace/%C3%BC/"
        );
        assert_eq!(
            url(&["v1", "kv", "100%", "%41?#"]),
            "http://localhost:8500/v1/kv/100%25/%2541%3F%23"
        );
    }

    #[test]
    fn a_segment_that_urls_resolve_away_is_refused() {
        let client = client(None).unwrap();
        for segment in [".", ".."] {
            assert!(matches!(
                client.request(Method::GET, &["v1", "kv", segment], ""),
                Err(ProviderError::Configuration(_))
            ));
        }
    }

    #[test]
    fn the_token_goes_along_unseen() {
        let client = client(Some("s3cret")).unwrap();
        let request = client.request(Method::GET, &["v1"], "").unwrap().build().unwrap();
        assert_eq!(request.headers()["x-consul-token"], "s3cret");
        assert!(!format!("{request:?}").contains("s3cret"));
        assert!(matches!(
            self::client(Some("a\nb")),
            Err(ProviderError::Configuration(_))
        ));
    }

    #[test]
    fn a_status_says_what_the_caller_can_do() {
        let error = |status| error_of_status("consul", status, " why ");
        assert!(matches!(error(403), ProviderError::Denied { reason, .. } if reason == "status 403: why"));
        assert!(matches!(error(500), ProviderError::Unavailable { .. }));
        assert!(matches!(error(429), ProviderError::Unavailable { .. }));
        assert!(matches!(error(301), ProviderError::Unexpected { .. }));
        assert_eq!(error(413).class(), ErrorClass::Transient);
        let long = error_of_status("consul", 500, &"x".repeat(1000)).to_string();
        assert_eq!(
            long,
            format!(
                "consul is not available: status 500: {}",
                "x".repeat(REASON_CHARS)
            )
        );
    }
}
