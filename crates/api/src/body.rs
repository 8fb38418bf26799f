//! Request bodies: how much of one is read, out of which budget, and what a request hears that may not go on.
//!
//! A body never grows past `Service.MaxRequestSize`, chunked
//! or not, and never past what the byte budget has free.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use edgehold_core::BytePermit;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::{Limits, route::failure};

/// How long a request waits for its part of the budget.
const LONGEST_WAIT_FOR_ROOM: Duration = Duration::from_secs(1);
/// What a body without a length is first given; then as much again as it has.
const FIRST_PART_BYTES: usize = 64 * 1024;
/// How much is read of a body that is refused, so that its sender gets to see the refusal.
const MOST_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
/// How long that may take.
const LONGEST_DISCARD: Duration = Duration::from_secs(1);

/// A body, and its part of the budget.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    pub(crate) permit: BytePermit,
}

/// Reads a body as far as the limits allow; else the answer that says why not.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Received, Response> {
    let mut stream = body.into_data_stream();
    let result = match announced(headers) {
        Some(length) if over(limits, length) => Err(Refusal::TooLarge),
        announced => {
            let mut growing = Growing::new(limits);
            growing.fill(&mut stream, announced).await.map(|()| Received {
                bytes: growing.bytes.freeze(),
                permit: growing.permit,
            })
        }
    };
    match result {
        Ok(received) => Ok(received),
        Err(Refusal::TooLarge) => {
            // Who asks first (`Expect: 100-continue`) has not sent it yet.
            let is_sent = !headers.contains_key(header::EXPECT);
            if is_sent || announced(headers).is_none() {
                discard(stream).await;
            }
            let kib = limits.max_request_bytes / 1024;
            let message = format!("request size exceed {kib} KB");
            Err(failure(StatusCode::PAYLOAD_TOO_LARGE, &message))
        }
        Err(Refusal::NoRoom) => {
            discard(stream).await;
            Err(not_now("too much is in hand already; try again later"))
        }
        Err(Refusal::Broken(reason)) => Err(text(
            StatusCode::BAD_REQUEST,
            format!("the request body cannot be read: {reason}"),
        )),
    }
}

/// 503 for a request of which nothing was taken: it may be sent again.
pub(crate) fn not_now(message: &str) -> Response {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, message.to_owned());
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

/// A plain-text answer.
pub(crate) fn text(status: StatusCode, message: String) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        message,
    )
        .into_response()
}

enum Refusal {
    TooLarge,
    NoRoom,
    Broken(String),
}

/// A body as far as it has come.
struct Growing<'a> {
    limits: &'a Limits,
    bytes: BytesMut,
    permit: BytePermit,
    /// What the permit is good for.
    room: usize,
}

impl<'a> Growing<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            bytes: BytesMut::new(),
            permit: BytePermit::none(),
            room: 0,
        }
    }

    async fn fill(&mut self, stream: &mut BodyDataStream, announced: Option<u64>) -> Result<(), Refusal> {
        if let Some(length) = announced {
            self.make_room(usize::try_from(length).unwrap_or(usize::MAX))
                .await?;
        }
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| Refusal::Broken(error.to_string()))?;
            let length = self.bytes.len() + part.len();
            if over(self.limits, length as u64) {
                return Err(Refusal::TooLarge);
            }
            if length > self.room {
                let more = self.room.max(FIRST_PART_BYTES).max(length - self.room);
                self.make_room(more).await?;
            }
            self.bytes.extend_from_slice(&part);
        }
        Ok(())
    }

    /// Takes so much more of the budget; past the whole of it, as of any message larger than it, there is no more.
    async fn make_room(&mut self, more: usize) -> Result<(), Refusal> {
        let total = self.limits.budget.total() as usize;
        let wanted = more.min(total.saturating_sub(self.room));
        if wanted > 0 {
            let permit = timeout(LONGEST_WAIT_FOR_ROOM, self.limits.budget.take(wanted)).await;
            self.permit.merge(permit.map_err(|_| Refusal::NoRoom)?);
        }
        self.room = self.room.saturating_add(more);
        Ok(())
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn over(limits: &Limits, length: u64) -> bool {
    length > limits.max_request_bytes
}

/// Reads on without keeping anything: closing a connection with unread bytes resets it, and the answer is lost.
async fn discard(mut stream: BodyDataStream) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(part)) = stream.next().await {
            read += part.len();
            if read > MOST_DISCARDED_BYTES {
                return;
            }
        }
    };
    // What is still unread then is not worth waiting for.
    let _ = timeout(LONGEST_DISCARD, reading).await;
}
