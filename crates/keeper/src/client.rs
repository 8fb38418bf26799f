//! The client for Core Keeper's REST API. Owns headers, tokens, timeouts, limits and the meaning of a status code; what is
//! read and written belongs to the other modules.
//!
//! Calls are made in a [`Session`], which has one access token. [`Client::with_token`] opens one, and when it is denied
//! access, a second one with a fresh token, in which everything is done again.
//!
//! A half-open connection cannot hold a call up: each has a timeout of its own.

use std::{error::Error, future::Future, net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use edgehold_config::{MayBeDenied, ProviderError, TokenSource, with_token};
use edgehold_core::SecretText;
use reqwest::{
    Certificate, Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
    redirect::Policy,
};
use rustls::crypto::{CryptoProvider, ring};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{KeeperSettings, key::encoded};

/// How long a call may take, from connecting to the last byte.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read. The configuration of a service is a few KiB.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// How much of a refusal's message an error holds.
const REASON_CHARS: usize = 300;

/// Speaks to one Core Keeper.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    tokens: Arc<dyn TokenSource>,
    name: String,
}

/// Calls with one token.
#[derive(Clone)]
pub(crate) struct Session<'a> {
    client: &'a Client,
    token: Option<HeaderValue>,
}

/// A key, its value, and when that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// The full key.
    pub(crate) key: String,
    /// Milliseconds since 1970, by Core Keeper's clock.
    pub(crate) modified: i64,
    /// None when it is neither text, number nor truth value.
    pub(crate) value: Option<String>,
}

/// An entry of the registry. The names are those of the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// The service key.
    pub(crate) service_id: String,
    /// `UP`, `DOWN`, `UNKNOWN`, or `HALT` for one that was deregistered. Empty is `UNKNOWN`.
    pub(crate) status: String,
    /// Where it is.
    pub(crate) host: String,
    /// Its REST port.
    pub(crate) port: u16,
    /// What Core Keeper asks.
    #[serde(rename = "HealthCheck")]
    pub(crate) health_check: HealthCheck,
}

/// What Core Keeper asks a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HealthCheck {
    /// As Go writes durations.
    pub(crate) interval: String,
    /// The path that is asked for.
    pub(crate) path: String,
    /// `http` or `https`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

impl Client {
    /// Prepares the calls; connects to nothing yet.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] for authorities that are none, or for `https` without a TLS provider.
    pub(crate) fn new(settings: KeeperSettings) -> Result<Self, ProviderError> {
        let name = settings.name();
        let KeeperSettings {
            base,
            tokens,
            authorities,
            ..
        } = settings;
        let wrong = |why: &str| ProviderError::Configuration(format!("no HTTP client for {name}: {why}"));
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
            return Err(wrong("it needs TLS, and no TLS provider is installed"));
        } else if let Some(pem) = authorities {
            let authorities = Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
            if authorities.is_empty() {
                return Err(wrong("among the trusted authorities is no certificate in PEM"));
            }
            http = http.tls_certs_only(authorities);
        }
        let http = http.build().map_err(|error| {
            let cause = error.source().map_or_else(String::new, ToString::to_string);
            wrong(&format!("{error}: {cause}"))
        })?;
        Ok(Self {
            http,
            base,
            tokens,
            name,
        })
    }

    /// `keeper http://localhost:59890`: for messages and for [`ProviderError`].
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
            let mut header = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
                ProviderError::Configuration("Core Keeper's token cannot stand in a header".to_owned())
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
    /// Whether it answers.
    pub(crate) async fn ping(&self) -> Result<(), ProviderError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Pong {
            #[serde(rename = "apiVersion")]
            _api_version: String,
        }
        let body = self.succeeded(self.get("ping").await?)?;
        let _: Pong = self.json(&body)?;
        Ok(())
    }

    /// A key with all below it, by ascending key. None when nothing is there.
    pub(crate) async fn items(&self, key: &str) -> Result<Vec<Item>, ProviderError> {
        let answer = self
            .get(&format!("kvs/key/{}?plaintext=true", encoded(key)))
            .await?;
        if answer.is_absent() {
            return Ok(Vec::new());
        }
        let body = self.succeeded(answer)?;
        items_of(&body).map_err(|error| self.unexpected(error))
    }

    /// Writes one key.
    pub(crate) async fn put(&self, key: &str, text: &str) -> Result<(), ProviderError> {
        let path = format!("kvs/key/{}?flatten=false", encoded(key));
        // Always a text, as EdgeX does: what it is belongs to whoever reads it.
        self.put_value(&path, &Value::from(text)).await
    }

    /// Writes a tree of texts below `key`, all of it or nothing.
    pub(crate) async fn put_tree(&self, key: &str, tree: &Value) -> Result<(), ProviderError> {
        let path = format!("kvs/key/{}?flatten=true", encoded(key));
        self.put_value(&path, tree).await
    }

    async fn put_value(&self, path: &str, value: &Value) -> Result<(), ProviderError> {
        let body = json!({"apiVersion": "v3", "requestId": "", "value": value});
        let answer = self.send(Method::PUT, path, Some(&body)).await?;
        self.succeeded(answer).map(drop)
    }

    /// Removes one key, if it is there; those below it stay.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), ProviderError> {
        let path = format!("kvs/key/{}", encoded(key));
        let answer = self.send(Method::DELETE, &path, None).await?;
        // A conflict is what it calls keys below this one, which is gone all the same.
        if answer.is_absent() || answer.status == 409 {
            return Ok(());
        }
        self.succeeded(answer).map(drop)
    }

    /// The entry of a service.
    pub(crate) async fn entry(&self, service_id: &str) -> Result<Option<Entry>, ProviderError> {
        #[derive(Deserialize)]
        struct Found {
            registration: Entry,
        }
        // URLs resolve these away, encoded or not.
        if matches!(service_id, "." | "..") {
            let why = format!("the service key '{service_id}' cannot be asked for");
            return Err(ProviderError::Configuration(why));
        }
        let path = format!("registry/serviceId/{}", encoded(service_id));
        let answer = self.get(&path).await?;
        if answer.is_absent() {
            return Ok(None);
        }
        let found: Found = self.json(&self.succeeded(answer)?)?;
        Ok(Some(found.registration))
    }

    /// Adds an entry. Answers false when there is one already.
    pub(crate) async fn add_entry(&self, entry: &Entry) -> Result<bool, ProviderError> {
        let answer = self.send_entry(Method::POST, entry).await?;
        if answer.status == 409 {
            return Ok(false);
        }
        self.succeeded(answer).map(|_| true)
    }

    /// Replaces an entry. Answers false when there is none.
    pub(crate) async fn replace_entry(&self, entry: &Entry) -> Result<bool, ProviderError> {
        let answer = self.send_entry(Method::PUT, entry).await?;
        if answer.is_absent() {
            return Ok(false);
        }
        self.succeeded(answer).map(|_| true)
    }

    async fn send_entry(&self, method: Method, entry: &Entry) -> Result<Answer, ProviderError> {
        let body = json!({"apiVersion": "v3", "requestId": "", "registration": entry});
        self.send(method, "registry", Some(&body)).await
    }

    async fn get(&self, path: &str) -> Result<Answer, ProviderError> {
        self.send(Method::GET, path, None).await
    }

    /// Any call: `path` is below `/api/v3/` and encoded.
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, ProviderError> {
        let client = self.client;
        let url = client.base.join(&format!("/api/v3/{path}"));
        let url = url.map_err(|error| self.unexpected(format!("'{path}' is no path: {error}")))?;
        let mut request = client
            .http
            .request(method, url)
            .header("X-Correlation-ID", Uuid::new_v4().to_string());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        if let Some(body) = body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        let exchange = async {
            let mut response = request.send().await.map_err(|error| self.failed(error))?;
            let status = response.status().as_u16();
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
                if body.len() + chunk.len() > MAX_BODY_BYTES {
                    return Err(self.unexpected(format!("it is longer than {MAX_BODY_BYTES} bytes")));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Answer {
                status,
                body: body.freeze(),
            })
        };
        let answer = timeout(CALL_TIMEOUT, exchange).await;
        answer.unwrap_or_else(|_| Err(self.unavailable(&format!("no answer within {CALL_TIMEOUT:?}"), None)))
    }

    /// The body of a success.
    fn succeeded(&self, answer: Answer) -> Result<Bytes, ProviderError> {
        match answer.status {
            200..=299 => Ok(answer.body),
            status => Err(error_of_status(&self.client.name, status, &answer.body)),
        }
    }

    fn json<'a, T: Deserialize<'a>>(&self, body: &'a Bytes) -> Result<T, ProviderError> {
        serde_json::from_slice(body).map_err(|error| self.unexpected(error.to_string()))
    }

    pub(crate) fn unexpected(&self, reason: impl Into<String>) -> ProviderError {
        ProviderError::Unexpected {
            provider: self.client.name.clone(),
            reason: reason.into(),
        }
    }

    fn failed(&self, error: reqwest::Error) -> ProviderError {
        self.unavailable("the request failed", Some(error.without_url().into()))
    }

    fn unavailable(&self, reason: &str, source: Option<Box<dyn Error + Send + Sync>>) -> ProviderError {
        ProviderError::Unavailable {
            provider: self.client.name.clone(),
            reason: reason.to_owned(),
            source,
        }
    }
}

struct Answer {
    status: u16,
    body: Bytes,
}

/// What it says of a failure.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refusal {
    api_version: Option<String>,
    #[serde(default)]
    message: String,
}

impl Answer {
    /// Whether Core Keeper itself says that there is no such thing. A proxy, or another server at this address, says 404 too.
    fn is_absent(&self) -> bool {
        let refusal = || serde_json::from_slice::<Refusal>(&self.body).ok()?.api_version;
        self.status == 404 && refusal().is_some()
    }
}

/// The items of an answer with values as text.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn items_of(body: &[u8]) -> Result<Vec<Item>, String> {
    #[derive(Deserialize)]
    struct Found {
        response: Vec<Row>,
    }
    #[derive(Deserialize)]
    struct Row {
        key: String,
        #[serde(rename = "Modified", default)]
        modified: i64,
        #[serde(default)]
        value: Value,
    }
    let found: Found =
        serde_json::from_slice(body).map_err(|error| format!("these are no keys with values: {error}"))?;
    let item = |row: Row| Item {
        key: row.key,
        modified: row.modified,
        value: match row.value {
            Value::String(text) => Some(text),
            value @ (Value::Bool(_) | Value::Number(_)) => Some(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        },
    };
    let mut items: Vec<Item> = found.response.into_iter().map(item).collect();
    // It promises no order, and two answers are to be compared.
    items.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(items)
}

/// What a status other than success means.
fn error_of_status(provider: &str, status: u16, body: &[u8]) -> ProviderError {
    let message = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let message: String = message.chars().take(REASON_CHARS).collect();
    match ProviderError::of_status(provider, status, &message) {
        // The same request will never do.
        ProviderError::Unexpected { provider, reason } if status == 400 => {
            ProviderError::Configuration(format!("{provider} refuses a request: {reason}"))
        }
        error => error,
    }
}

fn is_loopback(url: &Url) -> bool {
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

    #[test]
    fn values_are_texts_numbers_and_truth_values() {
        let body = br#"{"apiVersion":"v3","statusCode":200,"response":[
            {"key":"d","value":[1]},{"key":"c","value":true},{"key":"b","value":5,"Modified":7},{"key":"a","value":"x"},
            {"key":"e","value":null}]}"#;
        let item = |key: &str, modified, value: Option<&str>| Item {
            key: key.to_owned(),
            modified,
            value: value.map(str::to_owned),
        };
        assert_eq!(
            items_of(body).unwrap(),
            [
                item("a", 0, Some("x")),
                item("b", 7, Some("5")),
                item("c", 0, Some("true")),
                item("d", 0, None),
                item("e", 0, None),
            ]
        );
        for other in [&b"<html>"[..], b"{}", br#"{"response":["a"]}"#] {
            let error = items_of(other).unwrap_err();
            assert!(error.starts_with("these are no keys with values"), "{error}");
        }
    }

    #[test]
    fn nothing_is_absent_unless_core_keeper_says_so() {
        let answer = |status, body: &'static str| Answer {
            status,
            body: Bytes::from_static(body.as_bytes()),
        };
        let recorded = r#"{"apiVersion":"v3","message":"no key starting with 'x' found","statusCode":404}"#;
        assert!(answer(404, recorded).is_absent());
        assert!(!answer(404, r#"{"message":"Not Found"}"#).is_absent());
        assert!(!answer(404, "<html>").is_absent());
        assert!(!answer(500, recorded).is_absent());
    }

    #[test]
    fn a_status_says_what_the_caller_can_do() {
        let body = br#"{"apiVersion":"v3","message":"why","statusCode":403}"#;
        let error = |status| error_of_status("keeper", status, body);
        assert!(matches!(error(401), ProviderError::Denied { .. }));
        assert!(matches!(error(403), ProviderError::Denied { reason, .. } if reason == "status 403: why"));
        assert!(matches!(error(500), ProviderError::Unavailable { .. }));
        assert!(matches!(error(429), ProviderError::Unavailable { .. }));
        assert!(matches!(error(301), ProviderError::Unexpected { .. }));
        assert_eq!(error(413).class(), ErrorClass::Transient);
        assert_eq!(error(400).class(), ErrorClass::Permanent);
        let long = error_of_status("keeper", 500, "x".repeat(1000).as_bytes()).to_string();
        assert!(long.ends_with(&format!("status 500: {}", "x".repeat(REASON_CHARS))));
    }

    #[test]
    fn the_token_goes_along_unseen() {
        let client = Client::new(KeeperSettings::new("http", "localhost", 59890).unwrap()).unwrap();
        let session = client.session(Some(&SecretText::new("s3cret"))).unwrap();
        assert_eq!(session.token.as_ref().unwrap(), "Bearer s3cret");
        assert!(!format!("{:?}", session.token).contains("s3cret"));
        assert!(matches!(
            client.session(Some(&SecretText::new("a\nb"))),
            Err(ProviderError::Configuration(_))
        ));
    }
}
