//! The routes and their bodies.

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use crate::Api;

const API_VERSION: &str = "v3";
const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// The layout of the Unix `date` command, day of month padded with a space.
const DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] UTC [year]"
);

pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v3/ping", get(ping))
        .route("/api/v3/version", get(version))
        .route("/api/v3/config", get(config))
        .layer(middleware::from_fn(echo_correlation_id))
        .route("/api/v3/store/stats", get(store_stats))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        // Outside the routes: GET handlers would answer HEAD as well, which EdgeX refuses.
        .layer(middleware::from_fn(only_known_methods))
        .with_state(api)
}

async fn ping(State(api): State<Api>) -> Json<Value> {
    let timestamp = OffsetDateTime::now_utc().format(DATE).unwrap_or_default();
    Json(
        json!({ "apiVersion": API_VERSION, "timestamp": timestamp, "serviceName": api.service_key.as_str() }),
    )
}

async fn version(State(api): State<Api>) -> Json<Value> {
    Json(json!({
        "apiVersion": API_VERSION,
        "version": api.version,
        "serviceName": api.service_key.as_str(),
        "sdk_version": api.sdk_version,
    }))
}

async fn config(State(api): State<Api>) -> Json<Value> {
    Json(json!({
        "apiVersion": API_VERSION,
        "config": (api.config)(),
        "serviceName": api.service_key.as_str(),
    }))
}

async fn store_stats(State(api): State<Api>) -> Response {
    let queue = api.queue.borrow().queue().cloned();
    let store = match queue {
        None => Value::Null,
        Some(queue) => match queue.stats().await {
            Ok(stats) => json!({
                "waiting": stats.waiting(),
                "new": stats.new.objects,
                "failed": stats.failed.objects,
                "error": stats.error.objects,
                "payloadBytes": stats.new.payload_bytes + stats.failed.payload_bytes,
                "oldestWaiting": stats.oldest_waiting.map(|at| at.as_unix_millis()),
            }),
            Err(error) => {
                return failure(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
            }
        },
    };
    Json(json!({
        "apiVersion": API_VERSION,
        "serviceName": api.service_key.as_str(),
        "books": api.books.snapshot(),
        "store": store,
    }))
    .into_response()
}

fn failure(status: StatusCode, message: &str) -> Response {
    let body = json!({ "apiVersion": API_VERSION, "message": message, "statusCode": status.as_u16() });
    (status, Json(body)).into_response()
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
async fn only_known_methods(request: Request, next: Next) -> Response {
    let method = request.method().clone();
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
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("OPTIONS, GET"));
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
