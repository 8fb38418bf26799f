//! Routes of a developer's own (EdgeX: `AddCustomRoute`).
//!
//! Owns what such a route may be called, what its handler is handed and what it may answer. The limits of a request apply
//! to it as to every other.

use std::{collections::BTreeMap, fmt, future::Future, sync::Arc};

use axum::{
    Router,
    body::to_bytes,
    extract::{RawPathParams, Request},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use bytes::Bytes;
use edgehold_core::BoxFuture;

use crate::{Api, body::text};

/// The paths that belong to the service itself.
const RESERVED: [&str; 7] = [
    "/api/v3/ping",
    "/api/v3/version",
    "/api/v3/config",
    "/api/v3/secret",
    "/api/v3/trigger",
    "/api/v3/store",
    "/readyz",
];

/// The methods a route can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RouteMethod {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl RouteMethod {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Patch => MethodFilter::PATCH,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// A request to a route.
#[derive(Clone, Debug)]
pub struct RouteRequest {
    /// `GET`, `POST`, ...
    pub method: String,
    /// The path as asked for, without the query.
    pub path: String,
    /// What stands after the `?`, percent-encoded; empty when there is none.
    pub query: String,
    /// What stands in the place of each `{name}` of the route, decoded.
    pub parameters: BTreeMap<String, String>,
    /// Names in lower case, and values; a value that is no text is left out.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Bytes,
}

impl RouteRequest {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }
}

/// What a route answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteResponse {
    /// The status, 200 to 599; anything else becomes 500.
    pub status: u16,
    /// Names and values. What cannot be a header is left out.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl RouteResponse {
    /// An answer with this status and no body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// 200 with a JSON value.
    pub fn json(value: &serde_json::Value) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            body: value.to_string().into(),
        }
    }

    /// A plain text with this status.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".to_owned(), "text/plain; charset=utf-8".to_owned())],
            body: text.into().into(),
        }
    }
}

/// Answers requests to one route. Called concurrently; a panic is answered with 500.
pub type RouteHandler = Arc<dyn Fn(RouteRequest) -> BoxFuture<'static, RouteResponse> + Send + Sync>;

/// A route of a developer's own.
#[derive(Clone)]
pub struct CustomRoute {
    path: String,
    methods: Vec<RouteMethod>,
    handler: RouteHandler,
}

/// A path that cannot be a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{path}' cannot be a route: {reason}")]
pub struct InvalidRoute {
    path: String,
    reason: &'static str,
}

impl CustomRoute {
    /// `path` begins with `/` and may have levels `{name}` (or `:name`), which match one level each.
    ///
    /// # Errors
    /// [`InvalidRoute`] when it does not, belongs to the service itself (ping, version, config, secret, trigger, store,
    /// readyz), or lists no method.
    pub fn try_new<F>(
        path: &str,
        methods: &[RouteMethod],
        handler: impl Fn(RouteRequest) -> F + Send + Sync + 'static,
    ) -> Result<Self, InvalidRoute>
    where
        F: Future<Output = RouteResponse> + Send + 'static,
    {
        let wrong = |reason| InvalidRoute {
            path: path.to_owned(),
            reason,
        };
        let levels = path
            .strip_prefix('/')
            .ok_or_else(|| wrong("it does not begin with '/'"))?;
        let owner = RESERVED.iter().find(|reserved| {
            let rest = path.strip_prefix(**reserved);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if owner.is_some() {
            return Err(wrong("it belongs to the service itself"));
        }
        if methods.is_empty() {
            return Err(wrong("it has no method"));
        }
        let levels: Option<Vec<String>> = levels.split('/').map(level).collect();
        let levels = levels.ok_or_else(|| wrong("a level is neither a text nor one '{name}'"))?;
        Ok(Self {
            path: format!("/{}", levels.join("/")),
            methods: methods.to_vec(),
            handler: Arc::new(move |request| Box::pin(handler(request))),
        })
    }

    /// The path as it is matched, parameters as `{name}`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Debug for CustomRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomRoute")
            .field("path", &self.path)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// One level as the router wants it.
fn level(text: &str) -> Option<String> {
    let name = match text.strip_prefix(':') {
        Some(name) => Some(name),
        None => text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')),
    };
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match name {
        Some(name) => is_name(name).then(|| format!("{{{name}}}")),
        None => (!text.contains(['{', '}', ':', '*'])).then(|| text.to_owned()),
    }
}

/// The routes, ready to be merged. Of two for the same path and method the later one counts.
pub(crate) fn router(routes: &[CustomRoute]) -> Router<Api> {
    let mut handlers = BTreeMap::new();
    for route in routes {
        for method in &route.methods {
            let handler = (method.filter(), route.handler.clone());
            handlers.insert((route.path.as_str(), method.name()), handler);
        }
    }
    handlers
        .into_iter()
        .fold(Router::new(), |router, ((path, _), (filter, handler))| {
            let answer = move |parameters, request| call(handler.clone(), parameters, request);
            router.route(path, on(filter, answer))
        })
}

async fn call(handler: RouteHandler, parameters: RawPathParams, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Without a limit here: it has been read already, within those of every request.
    let body = match to_bytes(body, usize::MAX).await {
        Ok(body) => body,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let headers = parts.headers.iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    });
    let request = RouteRequest {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        parameters: parameters
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        headers: headers.collect(),
        body,
    };
    response_of(handler(request).await)
}

fn response_of(answer: RouteResponse) -> Response {
    let status = match answer.status {
        200..600 => StatusCode::from_u16(answer.status).ok(),
        _ => None,
    };
    let mut response = answer.body.into_response();
    *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().remove(header::CONTENT_TYPE);
    for (name, value) in &answer.headers {
        let name = HeaderName::try_from(name.as_str());
        let value = HeaderValue::from_str(value);
        if let (Ok(name), Ok(value)) = (name, value) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &str) -> Option<String> {
        let answer = |_| std::future::ready(RouteResponse::status(204));
        let route = CustomRoute::try_new(path, &[RouteMethod::Get], answer);
        route.err().map(|error| error.to_string())
    }

    #[test]
    fn routes_of_the_service_itself_are_reserved() {
        for path in RESERVED {
            assert!(
                refusal(path).unwrap().contains("belongs to the service"),
                "{path}"
            );
            assert!(refusal(&format!("{path}/more")).is_some(), "{path}");
        }
        assert_eq!(refusal("/api/v3/pinger"), None);
    }

    #[test]
    fn parameters_are_whole_levels() {
        assert_eq!(refusal("/a/{b}/:c"), None);
        for path in ["a", "", "/a{b}", "/{}", "/{a-b}", "/*rest", "/a:b"] {
            assert!(refusal(path).is_some(), "{path}");
        }
    }
}
