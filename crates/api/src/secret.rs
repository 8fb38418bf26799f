//! `POST /api/v3/secret`: a secret to be stored (contract: configuration §6.2).
//!
//! | answer | when |
//! | --- | --- |
//! | 201 | it is stored |
//! | 400 | the body is no such request, or the secret cannot be stored under this name |
//! | 405 | there is nothing to store secrets in |
//! | 502 | where it should go to did not take it |

use axum::{
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use edgehold_contracts::{BaseResponse, SecretRequest};
use edgehold_core::{Secret, SecretText, StoreSecretError};

use crate::{
    Api,
    route::{failure, json_body},
};

pub(crate) async fn add_secret(State(api): State<Api>, body: Bytes) -> Response {
    let request = match SecretRequest::from_json(&body) {
        Ok(request) => request,
        Err(invalid) => return failure(StatusCode::BAD_REQUEST, &invalid.to_string()),
    };
    let data: Secret = request
        .secret_data
        .into_iter()
        .map(|(key, value)| (key, SecretText::new(value)))
        .collect();
    let (status, message) = match api.secrets.store(&request.secret_name, &data).await {
        Ok(()) => (StatusCode::CREATED, String::new()),
        Err(error) => (status_of(&error), format!("adding secret failed -> {error}")),
    };
    let answer = BaseResponse::new(request.request_id, message, status.as_u16());
    (status, json_body(answer.to_json())).into_response()
}

fn status_of(error: &StoreSecretError) -> StatusCode {
    match error {
        StoreSecretError::NotPossible(_) => StatusCode::METHOD_NOT_ALLOWED,
        StoreSecretError::Invalid { .. } => StatusCode::BAD_REQUEST,
        StoreSecretError::Unavailable { .. } => StatusCode::BAD_GATEWAY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
