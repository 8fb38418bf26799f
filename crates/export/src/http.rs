//! `HTTPExport`: sends what it is handed to a URL by POST or PUT (contract: messages-and-functions §6.4).
//!
//! | parameter | default | meaning |
//! | --- | --- | --- |
//! | `Method` | required | `post` or `put`, any case |
//! | `Url` | required | `{placeholders}` are replaced by context values for each message |
//! | `MimeType` | `application/json` | the `Content-Type` sent |
//! | `PersistOnError` | `false` | what cannot be sent is kept for a later attempt |
//! | `ContinueOnSendError` | `false` | after a failed send the next function gets the input; needs `ReturnInputData` |
//! | `ReturnInputData` | `false` | the next function gets the input, not the body of the answer |
//! | `HeaderName`, `SecretName`, `SecretValueKey` | empty | a header whose value is a secret: all three or none |
//! | `HttpRequestHeaders` | `{}` | more headers: a JSON object of texts |
//! | `ConnectTimeout`, `RequestTimeout` | `5s`, `30s` | ours: until connected; until the answer is read whole |
//! | `Compression` | `none` | ours: `gzip` compresses what is sent |
//! | `TlsSecretName` | empty | ours: a secret with `cacert` (the only authorities to believe), `clientcert` and `clientkey` in PEM, each optional, read for each message |
//! | `SkipVerify` | `false` | ours: any certificate of the server will do |
//! | `IdempotencyKey` | `true` | ours: a header `Idempotency-Key`, the same at every attempt ([`Context::idempotency_key`]) |
//! | `PermanentStatus` | empty | ours: statuses no retry can help, for example `400,413,5xx` |
//!
//! A status of 200 to 299 is success. `Content-Type` replaces a secret header of that name, and `HttpRequestHeaders`
//! replaces both, and `Idempotency-Key` too. Proxies are those of the environment, as in Go.
//!
//! Where this differs from EdgeX on purpose:
//!
//! - Every wait ends: EdgeX has no time limit for a request.
//! - With `PersistOnError` all failures keep the data, also those before sending (a placeholder without a value, a URL
//!   that is none, contradictory options, a missing secret), which EdgeX loses.
//! - A success whose body breaks off stays a success, because what was sent has arrived: EdgeX sends it again.
//! - Answers are read to their end whatever their status, so that connections are used again.
//! - A redirect 301 or 302 repeats the request as it is, like 307 and 308. EdgeX then sends a GET without the data and
//!   takes the answer to that for success. Secrets go along only to the same host.

mod answer;
mod client;
mod options;
mod proxy;
mod request;
mod retry_after;
mod status;

use std::{io::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use edgehold_core::{
    AppFunction, BoxFuture, BuiltFunction, Context, Data, Destination, ErrorClass, ExportTarget, Fault, Flow,
    FunctionError, FunctionFactory, InvalidFunction, Parameters, Unsent, redact::without_secret_queries,
};
use flate2::{Compression, write::GzEncoder};
use reqwest::{
    StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use tokio::time::Instant;

use crate::Formatter;

use self::{
    answer::{Body, read_body},
    client::{Certificates, ClientSettings, ClientSource, Clients},
    options::{HttpExportOptions, SecretHeader},
    request::Request,
    retry_after::retry_after,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Builds `HTTPExport` functions, which share one pool of connections for each set of connection settings.
///
/// The pool outlives a change of the configuration and ends with the last function that uses it.
#[derive(Default)]
pub struct HttpExportFactory {
    clients: Arc<Clients>,
    formatter: Option<Formatter>,
}

impl HttpExportFactory {
    /// A factory without any connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the URL of each message from `Url` with this, instead of replacing placeholders.
    /// (EdgeX: `HTTPSenderOptions.URLFormatter`.)
    #[must_use]
    pub fn with_url_formatter(mut self, formatter: Formatter) -> Self {
        self.formatter = Some(formatter);
        self
    }
}

impl FunctionFactory for HttpExportFactory {
    fn build(&self, parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
        let options = HttpExportOptions::from_parameters(parameters)?;
        let settings = ClientSettings {
            connect_timeout: options.connect_timeout,
            skip_verify: options.skip_verify,
            certificates: Certificates::default(),
        };
        let client = ClientSource::try_new(self.clients.clone(), settings, options.tls_secret_name.clone());
        let client = client.map_err(|e| parameters.invalid("Url", format!("out of reach: {}", chain(&e))))?;
        let variant = options.method.as_str().to_lowercase();
        Ok(BuiltFunction::with_variant(
            HttpExport {
                options,
                client,
                formatter: self.formatter.clone(),
            },
            variant,
        ))
    }
}

/// The function `HTTPExport`.
struct HttpExport {
    options: HttpExportOptions,
    client: ClientSource,
    formatter: Option<Formatter>,
}

/// Cancel safety: dropping the future closes its connection and does nothing else; the destination may or may not have
/// seen the request.
impl AppFunction for HttpExport {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(async move {
            let sent = match self.prepare(ctx, &data).await {
                Ok((request, shown_url)) => {
                    match self.approach_and_send(ctx, request, &shown_url).await {
                        Err(error) if self.options.continue_on_send_error => {
                            // Nothing got there: the success of this call is not one of the destination.
                            ctx.take_destination();
                            tracing::warn!(
                                pipeline_id = %ctx.pipeline_id(),
                                correlation_id = %ctx.correlation_id(),
                                "continuing after a failed send: {}",
                                error.chain()
                            );
                            return Ok(Flow::Continue(data));
                        }
                        sent => sent,
                    }
                }
                Err(error) => Err(error),
            };
            match sent {
                Ok(_) if self.options.return_input_data => Ok(Flow::Continue(data)),
                Ok(answer) => Ok(Flow::Continue(Data::Bytes(answer))),
                Err(error) => {
                    if self.options.persist_on_error {
                        ctx.set_retry_input(&data);
                    }
                    Err(error)
                }
            }
        })
    }
}

impl HttpExport {
    /// All that can go wrong before anything is sent. The URL comes also as it may be shown.
    async fn prepare(&self, ctx: &Context, data: &Data) -> Result<(Request, String), FunctionError> {
        if let Some(contradiction) = self.options.contradiction {
            let pipeline = ctx.pipeline_id();
            return Err(FunctionError::permanent(format!(
                "in pipeline '{pipeline}' {contradiction}"
            )));
        }
        let (url, shown_url) = self.url(ctx, data)?;
        let request = Request {
            method: self.options.method.clone(),
            url,
            headers: self.headers(ctx).await?,
            body: Some(self.body(ctx, data)),
        };
        Ok((request, shown_url))
    }

    fn body(&self, ctx: &Context, data: &Data) -> Bytes {
        let bytes = data.to_bytes(ctx.generation());
        if !self.options.gzip {
            return bytes;
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let compressed = encoder.write_all(&bytes).and_then(|()| encoder.finish());
        compressed.expect("writing to memory does not fail").into()
    }

    /// The URL for this message, and how it may be shown. Errors never show it: it may hold credentials.
    fn url(&self, ctx: &Context, data: &Data) -> Result<(Url, String), FunctionError> {
        let pipeline = ctx.pipeline_id();
        let text = match &self.formatter {
            Some(format) => format(&self.options.url, ctx, data)?,
            None => self.filled_in(ctx)?,
        };
        let invalid = || format!("in pipeline '{pipeline}' the URL to export to is not valid");
        let url = Url::parse(&text).map_err(|e| FunctionError::permanent(invalid()).with_source(e))?;
        match url.scheme() {
            "http" | "https" => {
                let shown = without_password(&url).unwrap_or(text);
                // EdgeX shows these.
                Ok((url, without_secret_queries(&shown, HIDDEN)))
            }
            scheme => Err(FunctionError::permanent(format!(
                "{}: unsupported protocol scheme '{scheme}'",
                invalid()
            ))),
        }
    }

    /// The configured URL with its placeholders replaced.
    fn filled_in(&self, ctx: &Context) -> Result<String, FunctionError> {
        ctx.apply_values(&self.options.url).map_err(|_| {
            let key = unresolved_placeholder(&self.options.url, ctx).unwrap_or_default();
            FunctionError::permanent(format!(
                "failed to replace all context placeholders of the URL in pipeline '{}': no value for '{{{key}}}'",
                ctx.pipeline_id()
            ))
        })
    }

    /// The configured headers, and the secret one unless they replace it. The secret is asked for each time, so that a
    /// rotated one is used at once.
    async fn headers(&self, ctx: &Context) -> Result<HeaderMap, FunctionError> {
        let mut headers = self.options.headers.clone();
        if let Some(secret) = &self.options.secret_header
            && !headers.contains_key(&secret.header)
        {
            headers.insert(&secret.header, self.secret_value(ctx, secret).await?);
        }
        if self.options.idempotency_key
            && !headers.contains_key(IDEMPOTENCY_KEY)
            && let Some(key) = ctx.idempotency_key().and_then(|key| key.parse().ok())
        {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        Ok(headers)
    }

    async fn secret_value(&self, ctx: &Context, secret: &SecretHeader) -> Result<HeaderValue, FunctionError> {
        let SecretHeader { name, key, .. } = secret;
        let pipeline = ctx.pipeline_id();
        let secret = ctx.secrets().value(name, key).await.map_err(|e| {
            FunctionError::transient(format!(
                "in pipeline '{pipeline}' the secret for the header is not there"
            ))
            .with_source(e)
        })?;
        // Transient, as a missing secret is: it can be put right without touching the pipeline.
        let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| {
            FunctionError::transient(format!(
                "in pipeline '{pipeline}' the value of key '{key}' of secret '{name}' cannot stand in a header"
            ))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn approach_and_send(
        &self,
        ctx: &mut Context,
        request: Request,
        shown_url: &str,
    ) -> Result<Bytes, FunctionError> {
        let unsent = match self.options.persist_on_error {
            true => Unsent::Kept,
            false => Unsent::Lost,
        };
        ctx.approach(destination(&request.url), unsent).await?;
        let bytes = request.body.as_ref().map_or(0, Bytes::len);
        let sent = self.send(ctx, request).await;
        let target = ExportTarget::Http { url: shown_url };
        match &sent {
            Ok(_) => ctx.observer().exported(target, bytes),
            Err(_) => ctx.observer().export_failed(target),
        }
        sent
    }

    /// Sends the request and gives the body of a successful answer, as far as it could be read and somebody wants it.
    async fn send(&self, ctx: &Context, request: Request) -> Result<Bytes, FunctionError> {
        let pipeline = ctx.pipeline_id();
        let deadline = Instant::now() + self.options.request_timeout;
        let client = self.client.client(ctx.secrets()).await.map_err(|e| {
            // Transient: certificates can be put right without touching the pipeline.
            FunctionError::transient(format!("in pipeline '{pipeline}' nothing can be sent")).with_source(e)
        })?;
        let response = request::send(&client, request, deadline).await.map_err(|e| {
            // What could not even be written as a request never got to the destination.
            let fault = if e.is_builder() {
                Fault::Request
            } else {
                Fault::Destination
            };
            FunctionError::transient(format!("export failed in pipeline '{pipeline}'"))
                .with_fault(fault)
                .with_source(e.without_url())
        })?;
        let status = response.status();
        if !status.is_success() {
            let delay = retry_after(status, response.headers());
            read_body(response, Body::Discard).await;
            return Err(self.refused(ctx, status, delay));
        }
        let wanted = if self.options.return_input_data {
            Body::Discard
        } else {
            Body::Keep
        };
        let answer = read_body(response, wanted).await;
        if let (Body::Keep, Some(cut)) = (wanted, answer.cut) {
            tracing::warn!(
                pipeline_id = %pipeline,
                correlation_id = %ctx.correlation_id(),
                "exported, but the answer is used only up to byte {}: {cut}",
                answer.bytes.len()
            );
        }
        Ok(answer.bytes)
    }

    fn refused(&self, ctx: &Context, status: StatusCode, delay: Option<Duration>) -> FunctionError {
        let class = if self.options.permanent_status.contains(status) {
            ErrorClass::Permanent
        } else {
            ErrorClass::Transient
        };
        let message = format!(
            "export failed with {} HTTP status code in pipeline '{}'",
            status.as_u16(),
            ctx.pipeline_id()
        );
        let error = FunctionError::new(class, message).with_fault(fault(class, status));
        match delay {
            Some(delay) => error.with_retry_after(delay),
            None => error,
        }
    }
}

/// 429 and 5xx say that the destination cannot serve anybody now, unless the configuration says that they mean this one
/// request. Any other answer shows that it is there.
fn fault(class: ErrorClass, status: StatusCode) -> Fault {
    let overwhelmed = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
    if overwhelmed && class == ErrorClass::Transient {
        Fault::Destination
    } else {
        Fault::Request
    }
}

/// `scheme://host:port`, the port always given: all that limits and probes need, and nothing secret.
fn destination(url: &Url) -> Destination {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    Destination::new(&format!("{}://{host}:{port}", url.scheme()))
}

/// What Go shows in place of a password.
const HIDDEN: &str = "xxxxx";

/// The URL with `xxxxx` for its password, as Go shows it; none when it has no password.
fn without_password(url: &Url) -> Option<String> {
    url.password()?;
    let mut shown = url.clone();
    // Whatever has a password can have another one.
    shown.set_password(Some(HIDDEN)).ok()?;
    Some(shown.into())
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The first `{key}` of `template` without a value. [`edgehold_core::UnresolvedPlaceholder`] knows it too, but prints the whole
/// template with it, credentials included.
fn unresolved_placeholder<'t>(template: &'t str, ctx: &Context) -> Option<&'t str> {
    template
        .split('{')
        .skip(1)
        .filter_map(|after| after.split_once('}'))
        .map(|(key, _)| key)
        .find(|key| ctx.value(key).is_none())
}
