//! Another application service: its routes beyond EdgeX's own, asked by commands beside it.

use std::{collections::BTreeMap, fmt, time::Duration};

use edgehold_config::Client as Address;
use reqwest::Method;
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
pub struct ApplicationClient(Service);

impl ApplicationClient {
    /// The service at this host and port. Connects to nothing yet. A call ends when nothing has come for `limit`: an answer
    /// may be long.
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
        let response = self.0.ask(method, segments, query, content).await?;
        understood(&http::body(response, MAX_ANSWER_BYTES, self.0.limit()).await?)
    }
}

/// `http://localhost:59700`.
impl fmt::Display for ApplicationClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
