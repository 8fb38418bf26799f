//! Sending one request and following where it is redirected to.
//!
//! The client's own way of following is not used: it turns a redirected POST into a GET, whose success would pass for
//! the delivery of data that was never sent, and it hands a secret in a header of any name on to other hosts.

use bytes::Bytes;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, PROXY_AUTHORIZATION},
};
use tokio::time::Instant;

use super::answer::{Body, read_body};

/// As many as Go's client follows.
const MAX_REDIRECTS: usize = 10;

/// One request. Headers marked as sensitive are secrets.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

/// Sends the request and those it is redirected to; the answer to the last one. A redirect too many, or one that leads
/// nowhere, is itself that answer.
///
/// # Errors
/// When there is no answer before the deadline: not connected, reset, timed out.
pub(super) async fn send(
    client: &Client,
    mut request: Request,
    deadline: Instant,
) -> Result<Response, reqwest::Error> {
    let mut redirects = 0;
    loop {
        let mut builder = client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone())
            // Also bounds reading the body.
            .timeout(deadline.saturating_duration_since(Instant::now()));
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let response = builder.send().await?;
        match redirect_target(&request.url, &response) {
            Some(url) if redirects < MAX_REDIRECTS => {
                redirects += 1;
                request = request.redirected(response.status(), url);
                read_body(response, Body::Discard).await;
            }
            _ => return Ok(response),
        }
    }
}

fn redirect_target(from: &Url, response: &Response) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let url = from.join(location).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

impl Request {
    /// The request to make instead. 303 says that this one is done with and its result is elsewhere.
    fn redirected(mut self, status: StatusCode, url: Url) -> Self {
        if status == StatusCode::SEE_OTHER {
            self.method = Method::GET;
            self.body = None;
            self.headers.remove(CONTENT_TYPE);
        }
        let same_host = url.host() == self.url.host();
        let less_safe = self.url.scheme() == "https" && url.scheme() == "http";
        if !same_host || less_safe {
            self.headers = std::mem::take(&mut self.headers)
                .into_iter()
                .filter_map(|(name, value)| Some((name?, value)))
                .filter(|(name, value)| {
                    !value.is_sensitive() && ![AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name)
                })
                .collect();
        }
        self.url = url;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn request(url: &str) -> Request {
        let mut secret = HeaderValue::from_static("sesame");
        secret.set_sensitive(true);
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("text/plain")),
            (AUTHORIZATION, HeaderValue::from_static("Bearer sesame")),
            ("x-key".parse().unwrap(), secret),
            ("x-extra".parse().unwrap(), HeaderValue::from_static("e1")),
        ];
        Request {
            method: Method::PUT,
            url: url.parse().unwrap(),
            headers: headers.into_iter().collect(),
            body: Some(Bytes::from_static(b"data")),
        }
    }

    #[test]
    fn a_redirect_repeats_the_request_as_it_is() {
        for status in [301, 302, 307, 308] {
            let status = StatusCode::from_u16(status).unwrap();
            let repeated = request("http://a/x").redirected(status, "https://a/y".parse().unwrap());
            assert_eq!(repeated.method, Method::PUT);
            assert_eq!(repeated.body.as_deref(), Some(b"data".as_slice()));
            assert_eq!(repeated.headers, request("http://a/x").headers);
            assert_eq!(repeated.url.as_str(), "https://a/y");
        }
    }

    #[test]
    fn see_other_fetches_the_result() {
        let fetch = request("http://a/x").redirected(StatusCode::SEE_OTHER, "http://a/y".parse().unwrap());
        assert_eq!(fetch.method, Method::GET);
        assert_eq!(fetch.body, None);
        assert!(!fetch.headers.contains_key(CONTENT_TYPE));
    }

    #[test]
    fn secrets_do_not_follow_to_another_host_nor_out_of_tls() {
        for (from, to) in [("http://a/", "http://b/"), ("https://a/", "http://a/")] {
            let moved = request(from).redirected(StatusCode::TEMPORARY_REDIRECT, to.parse().unwrap());
            let mut names: Vec<_> = moved.headers.keys().map(|name| name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["content-type", "x-extra"], "{from} {to}");
        }
    }
}
