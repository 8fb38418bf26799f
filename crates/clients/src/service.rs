//! A core service behind its REST interface: one address, one pool of connections, one time limit.
//!
//! Owns how a call is made and what its answer means. Names become percent-encoded segments of the path, so that no name
//! can lead elsewhere.

use std::{fmt, time::Duration};

use edgehold_config::Client as Address;
use edgehold_contracts::{API_VERSION, BaseResponse, json};
use reqwest::{Client, ClientBuilder, Method, Response, Url, header};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
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
        let client = http::client(&base);
        Self::with(base, client, limit)
    }

    /// The service at this address, asked by a client that is made like this.
    ///
    /// # Errors
    /// [`CallError::NoAnswer`] when it cannot be made.
    pub(crate) fn with(base: Url, client: ClientBuilder, limit: Duration) -> Result<Self, CallError> {
        let client = client.pool_idle_timeout(LONGEST_IDLE);
        let client = client.build().map_err(http::no_answer)?;
        Ok(Self { base, client, limit })
    }

    /// Asks `/api/v3/<segments>`. An answer that is a success comes with its body still to be read, however long that takes.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub(crate) async fn ask(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&str, &str)],
        content: Option<Content>,
    ) -> Result<Response, CallError> {
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
            if status.is_success() {
                return Ok(response);
            }
            let body = http::body(response, http::MAX_BODY_BYTES, self.limit).await;
            Err(CallError::Declined {
                status: status.as_u16(),
                message: body.map(|body| message(&body)).unwrap_or_default(),
            })
        };
        self.in_time(exchange).await
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
        let exchange = async {
            let response = self.ask(method, segments, query, content).await?;
            http::body(response, http::MAX_BODY_BYTES, self.limit).await
        };
        understood(&self.in_time(exchange).await?)
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        timeout(self.limit, call)
            .await
            .unwrap_or(Err(CallError::TimedOut { after: self.limit }))
    }

    /// How long a call may take.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
}

impl Service {
    /// Calls with a list of this one `item`, beside the API's version, and reads what is said of it: the id it has.
    ///
    /// # Errors
    /// Every [`CallError`]; also [`CallError::Declined`] when the answer as a whole is a success, and that for the item is
    /// not.
    pub(crate) async fn call_for_one(
        &self,
        method: Method,
        segments: &[&str],
        mut item: Value,
    ) -> Result<String, CallError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            status_code: u16,
            #[serde(default)]
            message: String,
            #[serde(default)]
            id: String,
        }
        item["apiVersion"] = API_VERSION.into();
        let body = json::to_vec(&[item]).map_err(|error| CallError::NotUnderstood {
            reason: error.to_string(),
        })?;
        let content = Content {
            content_type: "application/json",
            body,
        };
        let answers: Vec<Answer> = self.call(method, segments, &[], Some(content)).await?;
        match answers.into_iter().next() {
            Some(answer) if answer.status_code < 300 => Ok(answer.id),
            Some(Answer {
                status_code, message, ..
            }) => Err(CallError::Declined {
                status: status_code,
                message,
            }),
            None => Err(CallError::NotUnderstood {
                reason: format!("nothing is said of the {}", segments.last().unwrap_or(&"request")),
            }),
        }
    }

    /// Gets a page of a list that stands under `key`.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub(crate) async fn call_for_page(
        &self,
        segments: &[&str],
        key: &str,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<Value>, CallError> {
        let (offset, limit) = (offset.to_string(), limit.to_string());
        let query = [("offset", offset.as_str()), ("limit", limit.as_str())];
        match named(self.call(Method::GET, segments, &query, None).await?, key)? {
            Value::Array(items) => Ok(items),
            _ => Err(CallError::NotUnderstood {
                reason: format!("'{key}' is no list"),
            }),
        }
    }
}

/// What an answer says.
///
/// # Errors
/// [`CallError::NotUnderstood`].
pub(crate) fn understood<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|error| CallError::NotUnderstood {
        reason: error.to_string(),
    })
}

/// What stands under `key` in an answer.
///
/// # Errors
/// [`CallError::NotUnderstood`] when nothing does.
pub(crate) fn named(mut answer: Value, key: &str) -> Result<Value, CallError> {
    match answer.get_mut(key).map(Value::take) {
        None | Some(Value::Null) => Err(CallError::NotUnderstood {
            reason: format!("there is no '{key}' in it"),
        }),
        Some(value) => Ok(value),
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
