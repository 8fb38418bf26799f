//! consulrs behind four calls: registration and plain keys. The only module that names it, so that another library, or
//! our own [`client`](crate::client), can take its place in an afternoon.
//!
//! What it cannot do, and who does it instead (the thin client, unless noted):
//! - lists of services do not parse, 404s lose their index, there are no transactions;
//! - keys and ids are percent-encoded twice, so that only plain ones arrive as they are;
//! - it sets up OpenSSL even for `http`, and takes proxies from the environment even for this machine: for `http` its
//!   HTTP client is made here;
//! - it has no timeouts: each call gets ours;
//! - every failure is logged four times as an error, expected ones such as an absent key too: its calls run without
//!   a subscriber, and what failed is in the error we return;
//! - its token is fixed: a new token needs a new value.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use consulrs::{
    api::{ApiResponse, check::requests::RegisterCheckRequest, service::requests::RegisterServiceRequest},
    check,
    client::{ConsulClient, ConsulClientSettings},
    error::ClientError,
    kv, service,
};
use edgehold_config::ProviderError;
use edgehold_core::SecretText;
use rustify::clients::reqwest::Client as HttpClient;
use tokio::time::timeout;
use tracing::{
    instrument::WithSubscriber,
    subscriber::{NoSubscriber, with_default},
};

use crate::{
    ConsulAddress,
    client::{CALL_TIMEOUT, error_of_status, is_loopback},
};

/// Speaks to one Consul agent through consulrs.
pub(crate) struct Agent {
    client: ConsulClient,
    name: String,
}

/// An HTTP health check of a registered service.
pub(crate) struct HttpCheck<'a> {
    pub(crate) service_id: &'a str,
    pub(crate) url: String,
    pub(crate) interval: Duration,
}

impl Agent {
    /// Prepares the calls. The address and the token are those [`Client`](crate::client::Client) has already taken:
    /// consulrs panics on a token that cannot stand in a header.
    pub(crate) fn new(address: &ConsulAddress, token: Option<&SecretText>) -> Result<Self, ProviderError> {
        // Every field is given, because consulrs fills absent ones from its own environment variables.
        let settings = ConsulClientSettings {
            address: address.to_string(),
            ca_certs: Vec::new(),
            client_cert: None,
            client_key: None,
            token: token.map(|token| token.expose().to_owned()),
            verify: true,
            version: 1,
        };
        let no_client = |error: &dyn std::fmt::Display| {
            ProviderError::Configuration(format!("no client for Consul at {address}: {error}"))
        };
        let client = if address.protocol == "https" {
            with_default(NoSubscriber::default(), || ConsulClient::new(settings))
                .map_err(|error| no_client(&error))?
        } else {
            // Left alone, consulrs sets up OpenSSL with all the authorities of the system, which costs 4 MiB for ever.
            let mut http = reqwest_of_consulrs::Client::builder()
                .use_rustls_tls()
                .tls_built_in_root_certs(false);
            if is_loopback(&address.url()?) {
                http = http.no_proxy();
            }
            let http = http.build().map_err(|error| no_client(&error))?;
            let http = HttpClient::new(&settings.address, http);
            ConsulClient { http, settings }
        };
        Ok(Self {
            client,
            name: format!("consul {address}"),
        })
    }

    /// The value of a plain key, none when it does not exist.
    pub(crate) async fn read_key(&self, key: &str) -> Result<Option<Bytes>, ProviderError> {
        self.call(kv::raw(&self.client, key, None))
            .await
            .map(|value| value.map(Bytes::from))
    }

    /// Registers a service, or replaces what was registered under this name, which is its id as well.
    pub(crate) async fn register_service(
        &self,
        name: &str,
        host: &str,
        port: u16,
    ) -> Result<(), ProviderError> {
        let mut request = RegisterServiceRequest::builder();
        request.address(host).port(u64::from(port));
        self.must_exist(
            self.call(service::register(&self.client, name, Some(&mut request)))
                .await,
        )
    }

    /// Registers the health check of a service under the service's id, or replaces it.
    pub(crate) async fn register_check(&self, http_check: &HttpCheck<'_>) -> Result<(), ProviderError> {
        let id = http_check.service_id;
        let mut request = RegisterCheckRequest::builder();
        request
            .id(id)
            .service_id(id)
            .notes("Check the health of the API")
            .http(http_check.url.as_str())
            .interval(go_duration(http_check.interval));
        let name = format!("Health Check: {id}");
        self.must_exist(
            self.call(check::register(&self.client, &name, Some(&mut request)))
                .await,
        )
    }

    /// Removes a service with its checks. The id must be plain, see [`is_plain`].
    pub(crate) async fn deregister_service(&self, id: &str) -> Result<(), ProviderError> {
        self.must_exist(self.call(service::deregister(&self.client, id, None)).await)
    }

    /// Within our timeout and without a log line. A 404 is none.
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<ApiResponse<T>, ClientError>>,
    ) -> Result<Option<T>, ProviderError> {
        match timeout(CALL_TIMEOUT, call.with_subscriber(NoSubscriber::default())).await {
            Ok(Ok(answer)) => Ok(Some(answer.response)),
            Ok(Err(ClientError::APIError { code: 404, .. })) => Ok(None),
            Ok(Err(ClientError::APIError { code, message })) => {
                Err(error_of_status(&self.name, code, &message.unwrap_or_default()))
            }
            Ok(Err(error)) => Err(ProviderError::Unavailable {
                provider: self.name.clone(),
                reason: "the request failed".to_owned(),
                source: Some(error.into()),
            }),
            Err(_) => Err(ProviderError::Unavailable {
                provider: self.name.clone(),
                reason: format!("no answer within {CALL_TIMEOUT:?}"),
                source: None,
            }),
        }
    }

    fn must_exist<T>(&self, answer: Result<Option<T>, ProviderError>) -> Result<T, ProviderError> {
        answer?.ok_or_else(|| error_of_status(&self.name, 404, ""))
    }
}

/// Whether consulrs sends this as it is when it is part of a path.
pub(crate) fn is_plain(segment: &str) -> bool {
    !matches!(segment, "." | "..")
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
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

    #[test]
    fn only_plain_ids_go_through_consulrs() {
        assert!(is_plain("app-http_export.2"));
        for odd in ["app x", "app/x", "app%41", "übung", "a+b", ".."] {
            assert!(!is_plain(odd), "{odd}");
        }
    }
}
