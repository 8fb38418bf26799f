//! What every route is held to, whoever wrote it: one layer around all of them.
//!
//! Owns the limits of a request (contract: configuration §6.3): its body is read whole before the route sees it, within
//! `Service.MaxRequestSize` and the byte budget ([`crate::body`]); it is answered within `Service.RequestTimeout`; a panic
//! is an answer as well; it has a correlation id.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode},
    middleware::Next,
    response::Response,
};
use edgehold_core::{ByteBudget, BytePermit};
use futures_util::FutureExt;
use tokio::time::timeout;

use crate::{
    Api,
    body::{self, not_now, text},
};

pub(crate) const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// EdgeX's words.
const TIMED_OUT: &str = "Request timed out";

/// What every request is held to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest body: `Service.MaxRequestSize` in bytes, or what else a message may have.
    pub max_request_bytes: u64,
    /// `Service.RequestTimeout`: after it a request is answered with 503.
    pub request_timeout: Duration,
    /// The bytes of everything in hand (`MaxInFlightBytes`).
    pub budget: ByteBudget,
}

/// A request in hand, for routes that hand its body on.
#[derive(Clone, Debug)]
pub(crate) struct InHand(Arc<Held>);

#[derive(Debug)]
struct Held {
    permit: Mutex<BytePermit>,
    untouched: AtomicBool,
}

impl InHand {
    fn new() -> Self {
        Self(Arc::new(Held {
            permit: Mutex::new(BytePermit::none()),
            untouched: AtomicBool::new(true),
        }))
    }

    fn hold(&self, permit: BytePermit) {
        *self.0.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }

    /// The body's part of the budget, for whoever keeps the body longer than the request.
    pub(crate) fn take_permit(&self) -> BytePermit {
        let mut permit = self.0.permit.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut permit, BytePermit::none())
    }

    /// Whether the request may be sent again because it has had no effect; then a late answer says so.
    pub(crate) fn set_untouched(&self, untouched: bool) {
        self.0.untouched.store(untouched, Ordering::Relaxed);
    }
}

/// Reads the body, runs the route, and answers in time whatever happens.
pub(crate) async fn limited(State(api): State<Api>, request: Request, next: Next) -> Response {
    let in_hand = InHand::new();
    let path = request.uri().path().to_owned();
    let answer = async {
        let (mut parts, body) = request.into_parts();
        let received = match body::read(&parts.headers, body, &api.limits).await {
            Ok(received) => received,
            Err(refused) => return refused,
        };
        in_hand.hold(received.permit);
        // From here on nobody but the route knows.
        in_hand.set_untouched(false);
        parts.extensions.insert(in_hand.clone());
        next.run(Request::from_parts(parts, Body::from(received.bytes)))
            .await
    };
    let answer = AssertUnwindSafe(timeout(api.limits.request_timeout, answer)).catch_unwind();
    match answer.await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) if in_hand.0.untouched.load(Ordering::Relaxed) => not_now(TIMED_OUT),
        Ok(Err(_)) => text(StatusCode::SERVICE_UNAVAILABLE, TIMED_OUT.to_owned()),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the handler of {path} panicked"),
        ),
    }
}

/// Gives the request a correlation id when it has none, and the answer the same one.
pub(crate) async fn correlated(mut request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(&CORRELATION_HEADER)
        .filter(|value| !value.is_empty())
        .cloned();
    let id = given.unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("a UUID is visible ASCII")
    });
    request.headers_mut().insert(CORRELATION_HEADER, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(CORRELATION_HEADER, id);
    response
}
