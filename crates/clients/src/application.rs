//! Another application service: its routes beyond EdgeX's own, asked by commands beside it.

use std::{collections::BTreeMap, fmt, time::Duration};

use edgehold_config::Client as Address;
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    http::CallError,
    service::{Content, Service},
};

/// An application service at its REST address. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApplicationClient(Service);

impl ApplicationClient {
    /// The service at this host and port. Connects to nothing yet. A call ends within `limit`.
    ///
    /// # Errors
    /// [`CallError::Address`].
    pub fn new(host: &str, port: u16, limit: Duration) -> Result<Self, CallError> {
        let address = Address {
            protocol: "http".to_owned(),
            host: host.to_owned(),
            port,
            use_message_bus: false,
            security_options: BTreeMap::default(),
        };
        Service::new("the service", &address, limit).map(Self)
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
        self.0.call(Method::GET, segments, query, None).await
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
        self.0.call(Method::POST, segments, &[], Some(content)).await
    }

    /// `DELETE /api/v3/<segments>`.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn delete<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<T, CallError> {
        self.0.call(Method::DELETE, segments, &[], None).await
    }
}

/// `http://localhost:59700`.
impl fmt::Display for ApplicationClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
