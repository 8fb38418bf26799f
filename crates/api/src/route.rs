//! The routes and their bodies.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use edgehold_contracts::{API_VERSION, ErrorResponse, PingResponse, VersionResponse};
use edgehold_core::Timestamp;
use edgehold_runtime::BooksSnapshot;
use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use crate::{Api, ConfigShown, custom, trigger::trigger};

pub(crate) const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// The layout of the Unix `date` command, day of month padded with a space.
const DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] UTC [year]"
);

/// Answer to `GET /api/v3/config`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    api_version: &'static str,
    config: serde_json::Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejected: Vec<serde_json::Value>,
    service_name: &'a str,
}

/// Answer to `GET /api/v3/store/stats`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats<'a> {
    api_version: &'static str,
    service_name: &'a str,
    books: BooksSnapshot,
    /// What the store holds; `null` while it is not open.
    store: Option<Store>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    /// Objects still to be delivered: new, failed and batched.
    waiting: u64,
    new: u64,
    failed: u64,
    /// Of these: waiting in a batch for others.
    batched: u64,
    /// Objects in the error collection.
    error: u64,
    /// Bytes of the payloads that wait.
    payload_bytes: u64,
    /// When the oldest waiting object was first kept, in milliseconds of the Unix epoch.
    oldest_waiting: Option<i64>,
    /// How long ago that was, in milliseconds.
    oldest_age: Option<u64>,
    /// How many milliseconds until nothing waits any more, if it goes on as in the last ten seconds; `null` while what
    /// waits does not become less.
    drain_estimate: Option<u64>,
}

/// Answer to `GET /readyz`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    problems: BTreeMap<&'static str, String>,
}

pub(crate) fn router(api: Api) -> Router {
    let router = Router::new()
        .route("/api/v3/ping", get(ping))
        .route("/api/v3/version", get(version))
        .route("/api/v3/config", get(config))
        .layer(middleware::from_fn(echo_correlation_id))
        .route("/api/v3/store/stats", get(store_stats))
        .route("/readyz", get(readyz));
    let router = match api.trigger {
        Some(_) => router.route("/api/v3/trigger", post(trigger)),
        None => router,
    };
    router
        .merge(custom::router(&api.routes))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        // Outside the routes: GET handlers would answer HEAD as well, which EdgeX refuses.
        .layer(middleware::from_fn_with_state(api.clone(), only_known_methods))
        .with_state(api)
}

async fn ping(State(api): State<Api>) -> Response {
    let timestamp = OffsetDateTime::now_utc().format(DATE).unwrap_or_default();
    json_body(PingResponse::new(timestamp, api.service_key.as_str()).to_json())
}

async fn version(State(api): State<Api>) -> Response {
    json_body(VersionResponse::new(api.version, api.service_key.as_str(), api.sdk_version).to_json())
}

async fn config(State(api): State<Api>) -> Response {
    let ConfigShown { config, rejected } = (api.config)();
    let config = Config {
        api_version: API_VERSION,
        config,
        rejected,
        service_name: api.service_key.as_str(),
    };
    Json(config).into_response()
}

async fn store_stats(State(api): State<Api>) -> Response {
    let queue = api.queue.borrow().queue().cloned();
    let store = match queue {
        None => None,
        Some(queue) => match queue.stats().await {
            Ok(stats) => Some(Store {
                waiting: stats.waiting(),
                new: stats.new.objects,
                failed: stats.failed.objects,
                error: stats.error.objects,
                batched: stats.batched.objects,
                payload_bytes: stats.waiting_bytes(),
                oldest_waiting: stats.oldest_waiting.map(Timestamp::as_unix_millis),
                oldest_age: stats
                    .oldest_waiting
                    .map(|oldest| millis(edgehold_runtime::now().saturating_since(oldest))),
                drain_estimate: api.drain.estimate(stats.waiting()).map(millis),
            }),
            Err(error) => return failure(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        },
    };
    let stats = Stats {
        api_version: API_VERSION,
        service_name: api.service_key.as_str(),
        books: api.books.snapshot(),
        store,
    };
    Json(stats).into_response()
}

/// Whether all is well, for whoever decides about restarts and alarms. An outage of a destination is no problem of this
/// service: what waits is kept.
async fn readyz(State(api): State<Api>) -> Response {
    let problems = api.health.all();
    let status = match problems.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let ready = problems.is_empty();
    (status, Json(Readiness { ready, problems })).into_response()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn json_body(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

pub(crate) fn failure(status: StatusCode, message: &str) -> Response {
    (
        status,
        json_body(ErrorResponse::new("", message, status.as_u16()).to_json()),
    )
        .into_response()
}

fn plain(status: StatusCode, message: &str) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json; charset=UTF-8")];
    // The newline is EdgeX's.
    (status, content_type, format!("{{\"message\":\"{message}\"}}\n")).into_response()
}

async fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "Not Found")
}

async fn method_not_allowed() -> Response {
    plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

/// HEAD is refused and OPTIONS answered with the list of methods, as EdgeX does, on routes that exist.
async fn only_known_methods(State(api): State<Api>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    match method {
        Method::HEAD if response.status() == StatusCode::OK => {
            response = method_not_allowed().await;
        }
        Method::OPTIONS if response.status() == StatusCode::METHOD_NOT_ALLOWED => {
            response = StatusCode::OK.into_response();
        }
        _ => {}
    }
    if response.status() == StatusCode::METHOD_NOT_ALLOWED || method == Method::OPTIONS {
        let methods = match path.as_ref().map(MatchedPath::as_str) {
            Some("/api/v3/trigger") => vec!["POST"],
            Some(path) => custom::methods(&api.routes, path),
            None => Vec::new(),
        };
        let methods = if methods.is_empty() { vec!["GET"] } else { methods };
        let list = format!("OPTIONS, {}", methods.join(", "));
        if let Ok(list) = HeaderValue::from_str(&list) {
            response.headers_mut().insert(header::ALLOW, list);
        }
    }
    response
}

/// Standard routes answer with the correlation id they were asked with, or an invented one.
async fn echo_correlation_id(request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(&CORRELATION_HEADER)
        .filter(|value| !value.is_empty())
        .cloned();
    let mut response = next.run(request).await;
    let id = given.or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok());
    if let Some(id) = id {
        response.headers_mut().insert(CORRELATION_HEADER, id);
    }
    response
}
