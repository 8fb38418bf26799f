//! `POST /api/v3/trigger`: the HTTP trigger (`Trigger.Type` `http`).
//!
//! Owns the way from a request to a delivery and from its report to an answer (contract: messages-and-functions §4.1,
//! configuration §6.1). Does not decode and knows no pipeline.
//!
//! | answer | when |
//! | --- | --- |
//! | 200 and the response data | every run succeeded; the default pipeline's response, else the first that is set |
//! | 202 | a run failed and is kept: it will be tried again, so the request must not be |
//! | 400 | the body is not what the target type asks for |
//! | 413 | it is larger than `Service.MaxRequestSize` |
//! | 422 | a run failed and is not tried again |
//! | 500 | no pipeline runs |
//! | 503 with `Retry-After` | nothing was taken: the byte budget is used up, the runtime is busy, or the service is ending |
//! | 503 `Request timed out` | `Service.RequestTimeout` has passed; the runs go on |
//!
//! Deviations from EdgeX: all pipelines run that match the empty topic, not the default one alone (its documentation says
//! so too); kept failures answer 202, because 422 makes a client send again what is safe already.

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use edgehold_core::{
    Ack, CorrelationId, Delivery, DeliveryReport, InletClosed, PayloadForm, PipelineId, Received, RunEnd,
    RunReport,
};
use tokio::sync::oneshot;

use crate::{
    Api,
    body::{not_now, text},
    limits::{CORRELATION_HEADER, InHand},
    sniff::content_type_of,
};

/// Takes one request through the pipelines and answers it.
pub(crate) async fn trigger(
    State(api): State<Api>,
    Extension(in_hand): Extension<InHand>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(inlet) = &api.trigger else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let text_of = |name| header_text(&headers, name).unwrap_or_default();
    let (report, told) = oneshot::channel();
    let delivery = Delivery {
        topic: String::new(),
        received: Received::Message {
            payload: body,
            form: PayloadForm::Bytes,
            content_type: text_of(header::CONTENT_TYPE),
            correlation_id: CorrelationId::new(&text_of(CORRELATION_HEADER)),
        },
        ack: Ack::none().with_report(report),
        permit: in_hand.take_permit(),
    };
    in_hand.set_untouched(true);
    if let Err(closed) = inlet.deliver(delivery).await {
        return not_now(&closed.to_string());
    }
    in_hand.set_untouched(false);
    match told.await {
        Ok(DeliveryReport::Undecodable(reason)) => text(
            StatusCode::BAD_REQUEST,
            format!("unable to process payload {reason}"),
        ),
        Ok(DeliveryReport::Runs(runs)) => of_runs(runs),
        Err(_) => not_now(&InletClosed.to_string()),
    }
}

fn of_runs(runs: Vec<RunReport>) -> Response {
    if runs.is_empty() {
        // EdgeX's words, spelling included.
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "no transforms configured for pipleline. Please check log for earlier errors loading pipeline"
                .to_owned(),
        );
    }
    let mut kept = None;
    let mut responses = Vec::new();
    for run in runs {
        match run.end {
            RunEnd::Succeeded(None) => {}
            RunEnd::Succeeded(Some(response)) => responses.push((run.pipeline_id, response)),
            RunEnd::Kept { error } => kept = kept.or(Some(error)),
            RunEnd::Failed { error } => return text(StatusCode::UNPROCESSABLE_ENTITY, error),
            _ => {}
        }
    }
    if let Some(error) = kept {
        return text(
            StatusCode::ACCEPTED,
            format!("kept, and tried again later: {error}"),
        );
    }
    // A stable sort: the default pipeline first, the others in their order.
    responses.sort_by_key(|(pipeline_id, _)| pipeline_id.as_str() != PipelineId::DEFAULT);
    match responses.into_iter().next() {
        None => StatusCode::OK.into_response(),
        Some((_, response)) => with_content_type(response.data, response.content_type),
    }
}

fn with_content_type(data: Bytes, content_type: String) -> Response {
    let told = HeaderValue::from_str(&content_type)
        .ok()
        .filter(|told| !told.is_empty());
    let content_type = told.or_else(|| content_type_of(&data).map(HeaderValue::from_static));
    let mut response = data.into_response();
    // A body of bytes says octet-stream by itself.
    match content_type {
        Some(content_type) => response.headers_mut().insert(header::CONTENT_TYPE, content_type),
        None => response.headers_mut().remove(header::CONTENT_TYPE),
    };
    response
}

fn header_text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}
