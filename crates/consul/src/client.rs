//! Our thin client for Consul's HTTP API. Owns addresses, headers, tokens, timeouts and the meaning of a status code;
//! what is read and written belongs to the other modules.
//!
//! Calls are made in a [`Session`], which has one access token. [`Client::with_token`] opens one, and when it is denied
//! access, a second one with a fresh token, in which everything is done again: what was read with a token that had lost
//! its rights must not be mixed with what is read with the next, because Consul leaves out what a token may not read.
//!
//! A half-open connection cannot hold a call up: each has a timeout of its own, and the connections have keep-alive.

use std::{error::Error, future::Future, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use edgehold_config::{MayBeDenied, ProviderError, TokenSource, with_token};
use edgehold_core::SecretText;
use reqwest::{
    Certificate, ClientBuilder, Identity, Method, RequestBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, HOST, HeaderValue},
    redirect::Policy,
};
use rustls::crypto::{CryptoProvider, ring};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    ConsulSettings,
    settings::ConsulTls,
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

/// Speaks to one Consul.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    /// The host of the address, when the URL has the name of the certificate instead.
    host: Option<HeaderValue>,
    basic_auth: Option<(String, SecretText)>,
    namespace: Option<String>,
    tokens: Arc<dyn TokenSource>,
    name: String,
}

/// Calls with one token.
#[derive(Clone)]
pub(crate) struct Session<'a> {
    client: &'a Client,
    token: Option<HeaderValue>,
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
    /// [`ProviderError::Configuration`] for an impossible address or certificate, or for `https` without a TLS provider.
    pub(crate) fn new(settings: ConsulSettings) -> Result<Self, ProviderError> {
        let ConsulSettings {
            address,
            tokens,
            tls,
            basic_auth,
            namespace,
        } = settings;
        let mut base = address.url()?;
        let wrong =
            |why: String| ProviderError::Configuration(format!("no HTTP client for {address}: {why}"));
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(Policy::none());
        if is_loopback(&base) {
            // As Go does, and so the original: proxies of the environment are for others than this machine.
            http = http.no_proxy();
        }
        let mut host = None;
        if base.scheme() == "http" {
            http = http.tls_backend_preconfigured(unused_tls());
        } else {
            if CryptoProvider::get_default().is_none() {
                return Err(wrong("it needs TLS, and no TLS provider is installed".to_owned()));
            }
            if let Some(name) = &tls.server_name {
                let real = RealHost::of(&base);
                host = Some(HeaderValue::try_from(real.authority()).expect("it was part of a URL"));
                http = http.dns_resolver(Arc::new(real));
                base.set_host(Some(name))
                    .ok()
                    .filter(|()| base.domain() == Some(name.as_str()))
                    .ok_or_else(|| wrong(format!("CONSUL_TLS_SERVER_NAME '{name}' is not a host name")))?;
            }
            http = with_certificates(http, &tls).map_err(wrong)?;
        }
        let http = http.build().map_err(|error| {
            wrong(format!(
                "{error}: {}",
                error.source().map_or_else(String::new, ToString::to_string)
            ))
        })?;
        Ok(Self {
            http,
            base,
            host,
            basic_auth,
            namespace,
            tokens,
            name: format!("consul {address}"),
        })
    }

    /// `consul http://localhost:8500`: for messages and for [`ProviderError`].
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Calls that say who they are, and once more with a fresh token when access is denied.
    pub(crate) async fn with_token<'a, T, E, F>(&'a self, calls: impl Fn(Session<'a>) -> F) -> Result<T, E>
    where
        E: MayBeDenied,
        F: Future<Output = Result<T, E>>,
    {
        with_token(&*self.tokens, |token| Ok(calls(self.session(token)?))).await
    }

    /// Calls that need no token.
    pub(crate) fn anonymous(&self) -> Session<'_> {
        Session {
            client: self,
            token: None,
        }
    }

    fn session(&self, token: Option<&SecretText>) -> Result<Session<'_>, ProviderError> {
        let header = |token: &SecretText| {
            let mut header = HeaderValue::from_str(token.expose()).map_err(|_| {
                ProviderError::Configuration("Consul's token cannot stand in a header".to_owned())
            })?;
            header.set_sensitive(true);
            Ok(header)
        };
        Ok(Session {
            client: self,
            token: token.map(header).transpose()?,
        })
    }
}

impl Session<'_> {
    /// Whether there is a leader, without which nothing can be read or written.
    pub(crate) async fn check_leader(&self) -> Result<(), ProviderError> {
        let body = self.get(&["v1", "status", "leader"]).await?;
        let leader: String = self.json(&body)?;
        if leader.is_empty() {
            Err(self.unavailable("it has no leader", None))
        } else {
            Ok(())
        }
    }

    /// Reads or writes all of it or nothing (`PUT /v1/txn`). At most 64 operations, in a body of at most 512 KiB.
    ///
    /// Reads are confirmed by a majority of the servers: a leader that has just been elected, or does not know yet that it
    /// is none any more, would otherwise give values of a moment ago.
    pub(crate) async fn transaction<'a>(
        &self,
        operations: impl IntoIterator<Item = &'a Operation>,
    ) -> Result<Outcome, ProviderError> {
        let body = transaction::body(operations);
        let (status, body) = self
            .send(Method::PUT, &["v1", "txn"], "consistent", body.into())
            .await?;
        // 409 is the status of a transaction that was rolled back; the body tells why.
        let body = if status == 409 {
            body
        } else {
            self.succeeded(status, body)?
        };
        transaction::parse(&body).map_err(|reason| self.unexpected(reason))
    }

    /// Writes one key by itself, which may have up to 512 KiB; without `overwrite` only when it does not exist.
    /// Answers whether it was written.
    pub(crate) async fn put(&self, key: &str, value: &str, overwrite: bool) -> Result<bool, ProviderError> {
        let query = if overwrite { "" } else { "cas=0" };
        let (status, body) = self
            .send(Method::PUT, &key_path(key), query, value.to_owned().into())
            .await?;
        self.json(&self.succeeded(status, body)?)
    }

    /// Whether this token may read `key`, which need not exist.
    ///
    /// # Errors
    /// [`ProviderError::Denied`] when it may not.
    pub(crate) async fn check_readable(&self, key: String) -> Result<(), ProviderError> {
        let (status, body) = self.send(Method::GET, &key_path(&key), "", Bytes::new()).await?;
        if status == 404 {
            Ok(())
        } else {
            self.succeeded(status, body).map(drop)
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
        if answer.status != 404 {
            self.succeeded(answer.status, answer.body)?;
        }
        answer
            .index
            .ok_or_else(|| self.unexpected("it gave no X-Consul-Index"))
    }

    /// The services registered with this agent, by id.
    pub(crate) async fn agent_services(&self) -> Result<serde_json::Map<String, Value>, ProviderError> {
        let body = self.get(&["v1", "agent", "services"]).await?;
        self.json(&body)
    }

    /// Removes a service with its checks from this agent, whatever characters its id has.
    pub(crate) async fn deregister(&self, id: &str) -> Result<(), ProviderError> {
        let path = ["v1", "agent", "service", "deregister", id];
        let (status, body) = self.send(Method::PUT, &path, "", Bytes::new()).await?;
        self.succeeded(status, body).map(drop)
    }

    async fn get(&self, path: &[&str]) -> Result<Bytes, ProviderError> {
        let (status, body) = self.send(Method::GET, path, "", Bytes::new()).await?;
        self.succeeded(status, body)
    }

    /// Any ordinary call: its status and body.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), ProviderError> {
        let mut request = self.request(method, path, query)?;
        if !body.is_empty() {
            request = request
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(body);
        }
        let answer = self.answer(request, CALL_TIMEOUT).await?;
        Ok((answer.status, answer.body))
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
        let client = self.client;
        let mut url = client.base.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .extend(path);
        if !query.is_empty() {
            url.set_query(Some(query));
        }
        if let Some(namespace) = &client.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        let mut request = client.http.request(method, url);
        if let Some(host) = &client.host {
            request = request.header(HOST, host.clone());
        }
        if let Some((user, password)) = &client.basic_auth {
            request = request.basic_auth(user, Some(password.expose()));
        }
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

    /// The body of a success.
    pub(crate) fn succeeded(&self, status: u16, body: Bytes) -> Result<Bytes, ProviderError> {
        match status {
            200..=299 => Ok(body),
            status => Err(error_of_status(
                &self.client.name,
                status,
                &String::from_utf8_lossy(&body),
            )),
        }
    }

    fn json<'a, T: serde::Deserialize<'a>>(&self, body: &'a Bytes) -> Result<T, ProviderError> {
        serde_json::from_slice(body).map_err(|error| self.unexpected(error.to_string()))
    }

    pub(crate) fn unexpected(&self, reason: impl Into<String>) -> ProviderError {
        ProviderError::Unexpected {
            provider: self.client.name.clone(),
            reason: reason.into(),
        }
    }

    pub(crate) fn denied(&self, reason: impl Into<String>) -> ProviderError {
        ProviderError::Denied {
            provider: self.client.name.clone(),
            reason: reason.into(),
        }
    }

    fn unavailable(&self, reason: &str, source: Option<Box<dyn Error + Send + Sync>>) -> ProviderError {
        ProviderError::Unavailable {
            provider: self.client.name.clone(),
            reason: reason.to_owned(),
            source,
        }
    }
}

/// What connections are made to when URLs have the name in the certificate as their host.
struct RealHost {
    host: String,
    port: Option<u16>,
}

impl RealHost {
    fn of(url: &Url) -> Self {
        Self {
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port(),
        }
    }

    fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }
}

impl Resolve for RealHost {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.host.trim_matches(['[', ']']).to_owned();
        Box::pin(async move {
            // The port is that of the URL, whatever stands here.
            let found: Vec<_> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}

fn with_certificates(http: ClientBuilder, tls: &ConsulTls) -> Result<ClientBuilder, String> {
    let mut http = http.tls_danger_accept_invalid_certs(tls.skip_verify);
    if let Some(pem) = &tls.client {
        let identity = Identity::from_pem(pem.expose().as_bytes()).map_err(
            |_| "CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY are not a certificate and its key in PEM",
        )?;
        http = http.identity(identity);
    }
    if let Some(pem) = &tls.authorities {
        let authorities = Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
        if authorities.is_empty() {
            return Err("CONSUL_CACERT or CONSUL_CAPATH holds no certificate in PEM".to_owned());
        }
        http = http.tls_certs_only(authorities);
    }
    Ok(http)
}

/// The path of a key, by segments.
fn key_path(key: &str) -> Vec<&str> {
    ["v1", "kv"].into_iter().chain(key.split('/')).collect()
}

/// What a status other than success means. 403 is Consul's answer to an unknown token and to missing rights; 500 is
/// its answer while it has no leader, and to most of what goes wrong inside.
pub(crate) fn error_of_status(provider: &str, status: u16, body: &str) -> ProviderError {
    let body: String = body.trim().chars().take(REASON_CHARS).collect();
    ProviderError::of_status(provider, status, &body)
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
    use crate::ConsulAddress;

    fn client() -> Client {
        let address = ConsulAddress {
            protocol: "http".to_owned(),
            host: "localhost".to_owned(),
            port: 8500,
        };
        Client::new(ConsulSettings::new(address)).unwrap()
    }

    #[test]
    fn a_path_is_encoded_once() {
        let client = client();
        let url = |path: &[&str]| {
            client
                .anonymous()
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
        let client = client();
        for segment in [".", ".."] {
            assert!(matches!(
                client
                    .anonymous()
                    .request(Method::GET, &["v1", "kv", segment], ""),
                Err(ProviderError::Configuration(_))
            ));
        }
    }

    #[test]
    fn the_token_goes_along_unseen() {
        let client = client();
        let session = client.session(Some(&SecretText::new("s3cret"))).unwrap();
        let request = session
            .request(Method::GET, &["v1"], "")
            .unwrap()
            .build()
            .unwrap();
        assert_eq!(request.headers()["x-consul-token"], "s3cret");
        assert!(!format!("{request:?}").contains("s3cret"));
        assert!(matches!(
            client.session(Some(&SecretText::new("a\nb"))),
            Err(ProviderError::Configuration(_))
        ));
    }

    #[test]
    fn tls_needs_a_provider_and_a_name_that_is_one() {
        let settings = |server_name: &str| {
            let address = ConsulAddress {
                protocol: "https".to_owned(),
                host: "localhost".to_owned(),
                port: 8501,
            };
            let tls = ConsulTls {
                server_name: Some(server_name.to_owned()),
                ..ConsulTls::default()
            };
            ConsulSettings {
                tls,
                ..ConsulSettings::new(address)
            }
        };
        // Nothing else in this binary installs one.
        let none = Client::new(settings("consul")).err().unwrap().to_string();
        assert!(none.contains("no TLS provider"), "{none}");

        ring::default_provider().install_default().unwrap();

        assert!(Client::new(settings("server.dc1.consul")).is_ok());
        for wrong in ["127.0.0.1", "::1", "con sul", "consul/x", ""] {
            let error = Client::new(settings(wrong)).err().unwrap();
            assert!(
                matches!(error, ProviderError::Configuration(_)),
                "{wrong}: {error}"
            );
        }
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
