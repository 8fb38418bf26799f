//! The routes and their bodies.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, Method, StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use edgehold_contracts::{API_VERSION, ErrorResponse, Generation, PingResponse, VersionResponse};
use edgehold_core::Timestamp;
use edgehold_runtime::BooksSnapshot;
use hyper::ext::ReasonPhrase;
use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use crate::{
    Api, ConfigShown, body::text, cors::Crossing, custom, errors, limits, secret::add_secret,
    trigger::trigger,
};

/// The layout of the Unix `date` command, day of month padded with a space.
const DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] UTC [year]"
);

/// Where Prometheus looks by default.
const METRICS: &str = "/metrics";

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
    /// Objects that were delivered and are kept for `HistoryRetention`.
    success: u64,
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

/// All of it, ready to be served.
pub(crate) fn router(api: Api) -> Router {
    let limited = middleware::from_fn_with_state(api.clone(), limits::limited);
    let as_edgex = middleware::from_fn_with_state(api.clone(), as_edgex_answers);
    let served = routes(&api)
        .merge(custom::router(&api.routes))
        // What has no limit of its own in a route has one around it.
        .layer(DefaultBodyLimit::disable())
        .layer(limited)
        .layer(middleware::from_fn(limits::correlated))
        // Behind the layers, which are for requests that a route answers.
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(api);
    // Around all of it, so that it sees which methods a route has.
    Router::new().fallback_service(served).layer(as_edgex)
}

/// The service's own routes.
fn routes(api: &Api) -> Router<Api> {
    let router = Router::new()
        .route("/api/v3/ping", get(ping))
        .route("/api/v3/version", get(version))
        .route("/api/v3/config", get(config))
        .route("/api/v3/secret", post(add_secret))
        .route("/api/v3/store/stats", get(store_stats))
        .route("/readyz", get(readyz));
    let router = router.merge(errors::router(api.admin));
    let router = match api.trigger {
        Some(_) => router.route("/api/v3/trigger", post(trigger)),
        None => router,
    };
    // Not reserved: a service that comes from elsewhere may have its own.
    match api.routes.iter().any(|route| route.path() == METRICS) {
        false => router.route(METRICS, get(metrics)),
        true => router,
    }
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

async fn metrics(State(api): State<Api>) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    let text = (api.metrics)().await;
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
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
                success: stats.success.objects,
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

pub(crate) fn json_body(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

pub(crate) fn failure(status: StatusCode, message: &str) -> Response {
    (
        status,
        json_body(ErrorResponse::new("", message, status.as_u16()).to_json()),
    )
        .into_response()
}

/// What the router itself answers.
fn of_the_router(api: &Api, status: StatusCode, message: &str) -> Response {
    let content_type = match api.generation {
        Generation::V3 => "application/json; charset=UTF-8",
        Generation::V4 => "application/json",
    };
    let content_type = [(header::CONTENT_TYPE, content_type)];
    // The newline is EdgeX's.
    (status, content_type, format!("{{\"message\":\"{message}\"}}\n")).into_response()
}

async fn not_found(State(api): State<Api>) -> Response {
    of_the_router(&api, StatusCode::NOT_FOUND, "Not Found")
}

async fn method_not_allowed(State(api): State<Api>) -> Response {
    of_the_router(&api, StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

/// What EdgeX's server does to every request: HEAD is refused, OPTIONS lists the methods of a route, pages of other
/// origins are told what they may do, HTTP/1.1 has to name the host.
async fn as_edgex_answers(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    if request.version() == Version::HTTP_11 && !request.headers().contains_key(header::HOST) {
        return no_host();
    }
    let crossing = Crossing::of(&request);
    let method = request.method().clone();
    if matches!(method, Method::HEAD | Method::OPTIONS) {
        // A method that no route has, so that none is run; the router itself would give HEAD to GET.
        *request.method_mut() = Method::TRACE;
    }
    let mut response = next.run(request).await;
    if let Some(methods) = response.headers().get(header::ALLOW).map(listed) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    let has_route = response.status() == StatusCode::METHOD_NOT_ALLOWED;
    match method {
        Method::HEAD => {
            *response.body_mut() = Body::empty();
            response.headers_mut().remove(header::CONTENT_TYPE);
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        Method::OPTIONS if has_route => {
            let allow = response.headers_mut().remove(header::ALLOW);
            response = StatusCode::NO_CONTENT.into_response();
            response
                .headers_mut()
                .extend(allow.map(|allow| (header::ALLOW, allow)));
        }
        _ => {}
    }
    crossing.answer(&api.cors, response)
}

/// The methods of a route as EdgeX lists them: `OPTIONS` first, then by name, without HEAD.
fn listed(of_the_router: &HeaderValue) -> HeaderValue {
    let methods = of_the_router
        .to_str()
        .unwrap_or_default()
        .split(',')
        .map(str::trim);
    let mut methods: Vec<_> = methods
        .filter(|method| !method.is_empty() && *method != "HEAD")
        .collect();
    methods.sort_unstable();
    methods.insert(0, "OPTIONS");
    HeaderValue::from_str(&methods.join(", ")).unwrap_or_else(|_| of_the_router.clone())
}

fn no_host() -> Response {
    const TEXT: &str = "400 Bad Request: missing required Host header";
    let mut response = text(StatusCode::BAD_REQUEST, TEXT.to_owned());
    let reason = ReasonPhrase::from_static(b"Bad Request: missing required Host header");
    response.extensions_mut().insert(reason);
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
