//! consulrs's part: what the calls of registration and of plain keys look like. The only module that names it, so that
//! another library can take its place in an afternoon.
//!
//! Its requests say method, path and body; they are sent by [`client`](crate::client), which has what consulrs's own HTTP
//! client lacks: timeouts, renewed tokens, client certificates, keys that are encoded once, and one log line instead of
//! four for each expected failure.

use std::time::Duration;

use bytes::Bytes;
use consulrs::api::{
    check::requests::RegisterCheckRequest, kv::requests::ReadRawKeyRequest,
    service::requests::RegisterServiceRequest,
};
use edgehold_config::ProviderError;
use reqwest::Method;
use rustify::{endpoint::Endpoint, enums::RequestMethod};
use serde_json::{Map, Value};

use crate::client::Session;

/// An HTTP health check of a registered service.
pub(crate) struct HttpCheck<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: String,
    pub(crate) notes: &'a str,
    pub(crate) service_id: &'a str,
    pub(crate) url: String,
    pub(crate) interval: Duration,
    /// How long it may fail until Consul removes the service.
    pub(crate) deregister_after: Option<Duration>,
}

/// The value of a key, none when it does not exist.
pub(crate) async fn read_key(session: &Session<'_>, key: &str) -> Result<Option<Bytes>, ProviderError> {
    let request = ReadRawKeyRequest::builder().key(key).build();
    let (status, body) = Call::of(session, request)?.send(session).await?;
    match status {
        404 => Ok(None),
        _ => session.succeeded(status, body).map(Some),
    }
}

/// Registers a service, or replaces what was registered under this name, which is its id as well.
pub(crate) async fn register_service(
    session: &Session<'_>,
    name: &str,
    host: &str,
    port: u16,
) -> Result<(), ProviderError> {
    let request = RegisterServiceRequest::builder()
        .name(name)
        .address(host)
        .port(u64::from(port))
        .build();
    let (status, body) = Call::of(session, request)?.send(session).await?;
    session.succeeded(status, body).map(drop)
}

/// Registers a health check, or replaces the one with its id.
pub(crate) async fn register_check(
    session: &Session<'_>,
    check: &HttpCheck<'_>,
) -> Result<(), ProviderError> {
    let mut request = RegisterCheckRequest::builder();
    request
        .id(check.id)
        .name(check.name.as_str())
        .service_id(check.service_id)
        .notes(check.notes)
        .http(check.url.as_str())
        .interval(go_duration(check.interval));
    if let Some(after) = check.deregister_after {
        request.deregister_critical_service_after(go_duration(after));
    }
    let mut call = Call::of(session, request.build())?;
    if check.url.starts_with("https:") {
        // The agent asks whether the service lives, not who it is: it need not know the authority of its certificate.
        // consulrs takes this for a text, which Consul refuses.
        let mut body: Map<String, Value> = serde_json::from_slice(&call.body).expect("it was just written");
        body.insert("TLSSkipVerify".to_owned(), true.into());
        call.body = Value::from(body).to_string().into();
    }
    let (status, body) = call.send(session).await?;
    session.succeeded(status, body).map(drop)
}

/// A request as consulrs describes it.
struct Call {
    method: Method,
    path: String,
    query: String,
    body: Bytes,
}

impl Call {
    fn of<E: Endpoint>(
        session: &Session<'_>,
        request: Result<E, impl std::error::Error>,
    ) -> Result<Self, ProviderError> {
        let request = request.expect("every field has a default");
        let method = match request.method() {
            RequestMethod::PUT => Method::PUT,
            _ => Method::GET,
        };
        let unwritten = |error| session.unexpected(format!("a request cannot be written: {error}"));
        Ok(Self {
            method,
            path: format!("v1/{}", request.path()),
            query: request.query().map_err(unwritten)?.unwrap_or_default(),
            body: request.body().map_err(unwritten)?.unwrap_or_default().into(),
        })
    }

    /// Answers status and body.
    async fn send(self, session: &Session<'_>) -> Result<(u16, Bytes), ProviderError> {
        let path: Vec<&str> = self.path.split('/').collect();
        session.send(self.method, &path, &self.query, self.body).await
    }
}

/// As Consul and EdgeX write it: `10s`; with a fraction of a second `1500ms`.
fn go_duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_go_does() {
        assert_eq!(go_duration(Duration::from_secs(10)), "10s");
        assert_eq!(go_duration(Duration::from_millis(1500)), "1500ms");
    }
}
