//! Reading the body of an answer, to its end so that the connection can be used again.

use bytes::{Bytes, BytesMut};
use reqwest::Response;

/// How much of an answer is read. Closing the connection is cheaper than reading on.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// What a body is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// The next function gets it.
    Keep,
    /// Only the connection is wanted.
    Discard,
}

/// What could be read.
pub(super) struct Answer {
    /// Empty when discarded.
    pub(super) bytes: Bytes,
    /// Why it is not the whole body, if it is not.
    pub(super) cut: Option<String>,
}

/// Reads the body. It never fails: the status has already said how the export went. Ends at the request's time limit.
pub(super) async fn read_body(mut response: Response, wanted: Body) -> Answer {
    let mut bytes = BytesMut::new();
    let mut length = 0;
    let cut = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                length += chunk.len();
                if length > MAX_BODY_BYTES {
                    break Some(format!("it is longer than {MAX_BODY_BYTES} bytes"));
                }
                if wanted == Body::Keep {
                    bytes.extend_from_slice(&chunk);
                }
            }
            Ok(None) => break None,
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                break Some(source.unwrap_or_else(|| error.without_url().to_string()));
            }
        }
    };
    Answer {
        bytes: bytes.freeze(),
        cut,
    }
}
