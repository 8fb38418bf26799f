//! Another application service: its routes beyond EdgeX's own, asked by commands beside it.

use std::{borrow::Cow, fmt, net::Ipv6Addr, sync::Arc, time::Duration};

use reqwest::{
    Certificate, ClientBuilder, Method, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    http::{self, CallError},
    service::{Content, Service, understood},
};

/// The longest answer: a page of stored objects ends with the one that brings it to 8 MiB of payload, and no store keeps
/// one of more than 1 GiB; in base64.
const MAX_ANSWER_BYTES: usize = 1_500_000_000;

/// An application service at its REST address. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApplicationClient {
    service: Service,
    /// Without the name that is expected in its certificate.
    shown: Arc<str>,
}

/// How a service that speaks TLS is told from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTls {
    /// The name that is asked for in the handshake and expected in its certificate; none = its host. A name of a host is
    /// not looked up; an address is where it is connected to.
    pub server_name: Option<String>,
    /// The authorities that are trusted, in PEM; none = those of the system.
    pub authorities: Option<String>,
    /// Whether any certificate will do.
    pub any_certificate: bool,
}

impl ApplicationClient {
    /// The service at this host and port, which speaks TLS or not. Connects to nothing yet. A call ends when nothing has
    /// come for `limit`: an answer may be long.
    ///
    /// # Errors
    /// [`CallError::Address`], and [`CallError::NoAnswer`] when no HTTP client can be made.
    pub fn new(host: &str, port: u16, tls: Option<&ServiceTls>, limit: Duration) -> Result<Self, CallError> {
        let protocol = if tls.is_some() { "https" } else { "http" };
        let text = format!("{protocol}://{}:{port}", in_url(host));
        let wrong = |reason: String| CallError::Address { reason };
        let mut base = Url::parse(&text).map_err(|error| wrong(format!("'{text}': {error}")))?;
        let mut client = http::client(&base).redirect(Policy::none());
        match tls {
            None => client = client.tls_backend_preconfigured(unused_tls()),
            Some(tls) => {
                client = trusting(client, tls)?;
                if let Some(name) = &tls.server_name {
                    client =
                        client.dns_resolver(Arc::new(RealHost(host.trim_matches(['[', ']']).to_owned())));
                    base.set_host(Some(&in_url(name)))
                        .map_err(|error| wrong(format!("'{name}' is no name of a host: {error}")))?;
                }
            }
        }
        Ok(Self {
            service: Service::with(base, client, limit)?,
            shown: text.into(),
        })
    }

    /// `GET /api/v3/<segments>`.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, CallError> {
        self.call(Method::GET, segments, query, None).await
    }

    /// `POST /api/v3/<segments>` with a JSON body.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &(impl Serialize + Sync),
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).map_err(|error| CallError::NotUnderstood {
            reason: error.to_string(),
        })?;
        let content = Content {
            content_type: "application/json",
            body,
        };
        self.call(Method::POST, segments, &[], Some(content)).await
    }

    /// `DELETE /api/v3/<segments>`.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn delete<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<T, CallError> {
        self.call(Method::DELETE, segments, &[], None).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&str, &str)],
        content: Option<Content>,
    ) -> Result<T, CallError> {
        let response = self.service.ask(method, segments, query, content).await?;
        understood(&http::body(response, MAX_ANSWER_BYTES, self.service.limit()).await?)
    }
}

/// `https://localhost:59700`.
impl fmt::Display for ApplicationClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A host as it stands in an address.
fn in_url(host: &str) -> Cow<'_, str> {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]").into(),
        Err(_) => host.into(),
    }
}

fn trusting(client: ClientBuilder, tls: &ServiceTls) -> Result<ClientBuilder, CallError> {
    let client = client.tls_danger_accept_invalid_certs(tls.any_certificate);
    let Some(pem) = &tls.authorities else {
        return Ok(client);
    };
    let authorities = Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
    if authorities.is_empty() {
        return Err(CallError::Authorities);
    }
    Ok(client.tls_certs_only(authorities))
}

/// Without it a client that speaks none asks the system for authorities, and there are systems without.
fn unused_tls() -> ClientConfig {
    ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring speaks every version that rustls does")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// Finds this host, whatever name is asked for.
struct RealHost(String);

impl Resolve for RealHost {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            // The port is that of the address, whatever stands here.
            let found: Vec<_> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}
