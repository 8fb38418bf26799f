//! One GET request: limits, TLS, and the meaning of what comes back.

use std::{error::Error, io, net::IpAddr, time::Duration};

use edgehold_config::{Client as Address, without_passwords};
use edgehold_core::ErrorClass;
use reqwest::{
    Client, ClientBuilder, Response, Url,
    header::{HeaderName, HeaderValue},
    redirect::Policy,
};
use rustls::crypto::ring;
use tokio::time::timeout;

/// The longest answer that is read where nothing else is said. Configuration files are a few KiB.
pub(crate) const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// A request without a usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The address is none of an HTTP server.
    #[error("the address cannot be used: {reason}")]
    Address {
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answered, or the answer broke off.
    #[error("no answer: {reason}")]
    NoAnswer {
        /// The innermost cause, as the system says it.
        reason: String,
    },
    /// Whoever answered shows a certificate that is not trusted.
    #[error("its certificate is refused: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// What is to be trusted holds no certificate.
    #[error("the authorities that are to be trusted hold no certificate in PEM")]
    Authorities,
    /// The whole answer did not come in time.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// The time limit.
        after: Duration,
    },
    /// The answer is a refusal: status 300 or above.
    #[error("the answer is status {status}")]
    Refused {
        /// The status.
        status: u16,
    },
    /// The answer is a refusal that says why: status 300 or above.
    #[error("the answer is status {status}: {message}")]
    Declined {
        /// The status.
        status: u16,
        /// What the service says of it; may be empty.
        message: String,
    },
    /// The answer is longer than any that is expected.
    #[error("the answer is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is not what was asked for.
    #[error("the answer is not understood: {reason}")]
    NotUnderstood {
        /// What is wrong with it.
        reason: String,
    },
}

impl CallError {
    /// Whether the same call may succeed later.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoAnswer { .. } | Self::TimedOut { .. } => ErrorClass::Transient,
            Self::Refused { status } | Self::Declined { status, .. } if *status >= 500 || *status == 429 => {
                ErrorClass::Transient
            }
            _ => ErrorClass::Permanent,
        }
    }
}

/// The address of a service as `Clients/<name>` gives it; an empty protocol is `http`.
pub(crate) fn base(name: &str, address: &Address) -> Result<Url, CallError> {
    let protocol = match address.protocol.as_str() {
        "" => "http",
        protocol => protocol,
    };
    let text = format!("{protocol}://{}:{}", address.host, address.port);
    let wrong = |reason: String| CallError::Address {
        reason: format!("Clients/{name} gives '{}': {reason}", without_passwords(&text)),
    };
    let base = Url::parse(&text).map_err(|error| wrong(error.to_string()))?;
    match base.scheme() {
        "http" | "https" => Ok(base),
        _ => Err(wrong("the protocol is neither http nor https".to_owned())),
    }
}

/// The address for a message: without its path, and without a password.
pub(crate) fn shown(base: &Url) -> String {
    without_passwords(base.as_str().trim_end_matches('/'))
}

/// A client for the server of `url`.
pub(crate) fn client(url: &Url) -> ClientBuilder {
    // Without a TLS provider of the process no client can be built; one that is there already stays.
    let _ = ring::default_provider().install_default();
    let client = Client::builder();
    match is_loopback(url) {
        // As Go does, and so the original: proxies of the environment are for others than this machine.
        true => client.no_proxy(),
        false => client,
    }
}

/// Gets what is at `url`, following redirects, all of it within `limit`. The header is a secret of this host: with one, a
/// redirect to another host counts as a refusal.
///
/// A client is made for each call: calls are rare, and kept connections would only be found closed.
pub(crate) async fn get(
    url: &Url,
    header: Option<(HeaderName, HeaderValue)>,
    limit: Duration,
) -> Result<Vec<u8>, CallError> {
    let mut client = client(url);
    if header.is_some() {
        client = client.redirect(Policy::custom(|redirect| {
            let is_same = |before: &Url| before.host_str() == redirect.url().host_str();
            if redirect.previous().iter().all(is_same) {
                Policy::default().redirect(redirect)
            } else {
                redirect.stop()
            }
        }));
    }
    let mut request = client.build().map_err(no_answer)?.get(url.clone());
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    timeout(limit, exchange(request, limit))
        .await
        .unwrap_or(Err(CallError::TimedOut { after: limit }))
}

async fn exchange(request: reqwest::RequestBuilder, limit: Duration) -> Result<Vec<u8>, CallError> {
    let response = request.send().await.map_err(no_answer)?;
    let status = response.status().as_u16();
    if status >= 300 {
        return Err(CallError::Refused { status });
    }
    body(response, MAX_BODY_BYTES, limit).await
}

/// The body of an answer, of at most `limit` bytes. Nothing may come for as long as `silence`.
pub(crate) async fn body(
    mut response: Response,
    limit: usize,
    silence: Duration,
) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    loop {
        let chunk = timeout(silence, response.chunk())
            .await
            .map_err(|_| CallError::TimedOut { after: silence })?;
        let Some(chunk) = chunk.map_err(no_answer)? else {
            return Ok(body);
        };
        if body.len() + chunk.len() > limit {
            return Err(CallError::TooLong { limit });
        }
        body.extend_from_slice(&chunk);
    }
}

/// The layers above the innermost cause say only that the request failed, and may hold the address with its credentials.
pub(crate) fn no_answer(error: reqwest::Error) -> CallError {
    let error = error.without_url();
    let mut innermost: &(dyn Error + 'static) = &error;
    let mut untrusted = false;
    while let Some(cause) = innermost.source() {
        innermost = cause;
        untrusted |= refuses_certificate(cause);
    }
    let reason = innermost.to_string();
    match untrusted {
        true => CallError::Certificate { reason },
        false => CallError::NoAnswer { reason },
    }
}

/// Whether the handshake ended for the certificate of the other side. An I/O error is not the source of the one around it.
fn refuses_certificate(error: &(dyn Error + 'static)) -> bool {
    if let Some(within) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return refuses_certificate(within);
    }
    matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
