//! A core service behind its REST interface: one address, one pool of connections, one time limit.
//!
//! Owns how a call is made and what its answer means. Names become percent-encoded segments of the path, so that no name
//! can lead elsewhere.

use std::{fmt, time::Duration};

use edgehold_config::Client as Address;
use edgehold_contracts::BaseResponse;
use reqwest::{Client, Method, Url, header};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::http::{self, CallError};

/// Where a core service is, and how long a call may take. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    base: Url,
    client: Client,
    limit: Duration,
}

/// Servers close idle connections; before they do, we do.
const LONGEST_IDLE: Duration = Duration::from_secs(10);

/// What a call sends.
pub(crate) struct Content {
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
}

impl Service {
    /// The service `name` at its configured address. Connects to nothing yet.
    ///
    /// # Errors
    /// [`CallError::Address`], and [`CallError::NoAnswer`] when no HTTP client can be made.
    pub(crate) fn new(name: &str, address: &Address, limit: Duration) -> Result<Self, CallError> {
        let base = http::base(name, address)?;
        let client = http::client(&base).pool_idle_timeout(LONGEST_IDLE);
        let client = client.build().map_err(http::no_answer)?;
        Ok(Self { base, client, limit })
    }

    /// Calls `/api/v3/<segments>` and reads the answer.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&str, &str)],
        content: Option<Content>,
    ) -> Result<T, CallError> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(["api", "v3"]).extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url);
        if let Some(Content { content_type, body }) = content {
            request = request.header(header::CONTENT_TYPE, content_type).body(body);
        }
        let exchange = async {
            let response = request.send().await.map_err(http::no_answer)?;
            let status = response.status();
            let body = http::body(response).await;
            match status.is_success() {
                true => body,
                false => Err(CallError::Declined {
                    status: status.as_u16(),
                    message: body.map(|body| message(&body)).unwrap_or_default(),
                }),
            }
        };
        let body = timeout(self.limit, exchange)
            .await
            .unwrap_or(Err(CallError::TimedOut { after: self.limit }))?;
        serde_json::from_slice(&body).map_err(|error| CallError::NotUnderstood {
            reason: error.to_string(),
        })
    }
}

/// `http://localhost:59880`.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&http::shown(&self.base))
    }
}

/// What a refusal says of itself, at most as much as fits a log line.
fn message(body: &[u8]) -> String {
    const LONGEST: usize = 500;
    let told = serde_json::from_slice::<BaseResponse>(body).map(|answer| answer.message);
    let told = told.unwrap_or_else(|_| String::from_utf8_lossy(body).trim().to_owned());
    told.chars().take(LONGEST).collect()
}
