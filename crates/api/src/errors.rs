//! The error collection over REST: look, re-drive, purge, follow a run, cancel it.
//!
//! Owns these routes and whether they may be used ([`Admin`]); bodies are in [`wire`]. Does not own the runs
//! (`runtime::ErrorCollection`).
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /api/v3/store/errors` | 200 `{"objects":[…],"next"}`: a page, oldest (`seq`) first, without payloads unless `payload=true` |
//! | `GET /api/v3/store/errors/{id}` | 200 one object, payload whole (base64); 404 |
//! | `GET /api/v3/store/errors/count` | 200 `{"objects","payloadBytes","groups":[…]}`: by pipeline and reason |
//! | `POST /api/v3/store/errors/redrive`, `…/purge` | 202 the run that has begun; with `"dryRun":true` 200 as `count` |
//! | `GET /api/v3/store/runs` | 200 `{"runs":[…]}`: those that go on and the last ones that have ended |
//! | `GET /api/v3/store/runs/{id}` | 200 the run; 404 |
//! | `DELETE /api/v3/store/runs/{id}` | 202 the run, which ends after the page it is at; 404 |
//!
//! A query names what is meant by `id`, `pipeline`, `device`, `reason` (each may be there more than once), `endedFrom` and
//! `endedBefore` (milliseconds since 1970); a page begins behind `after` and has at most `limit` objects, fewer when they are large. A body says the
//! same as `{"filter":{"ids","pipelines","devices","reasons","endedFrom","endedBefore"},"rate","dryRun"}`; to mean all of
//! them it has to say `"all":true`.
//!
//! `EDGEHOLD_ADMIN` (default `read`): with `off` none of these routes exists, with `read` what changes something is 403.
//! Other refusals: 400 what is not understood, 409 too many runs, 503 the store is not open or does not answer.

pub mod wire;

use std::net::SocketAddr;

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{ConnectInfo, Path, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use edgehold_config::Admin;
use edgehold_core::StoredObjectId;
use edgehold_runtime::{BeginError, ErrorAction, ErrorOrder, RunId, meant_by};
use edgehold_store::StoreError;
use serde::Serialize;

use self::wire::{Count, OrderBody, Query, RunBody};
use crate::{
    Api,
    route::{failure, json_body},
};

/// The longest page.
const MOST_LISTED: usize = 1_000;
/// The page nobody has said the length of.
const LISTED: usize = 100;

pub(crate) fn router(admin: Admin) -> Router<Api> {
    if admin == Admin::Off {
        return Router::new();
    }
    Router::new()
        .route("/api/v3/store/errors", get(list))
        .route("/api/v3/store/errors/count", get(count))
        .route("/api/v3/store/errors/redrive", post(redrive))
        .route("/api/v3/store/errors/purge", post(purge))
        .route("/api/v3/store/errors/{id}", get(show))
        .route("/api/v3/store/runs", get(runs))
        .route("/api/v3/store/runs/{id}", get(run).delete(cancel))
}

async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Response> {
    let query = Query::read(query.as_deref().unwrap_or_default()).map_err(not_understood)?;
    let limit = query.limit.unwrap_or(LISTED).clamp(1, MOST_LISTED);
    let page = api.errors.list(query.filter, query.after, limit).await;
    let page = page.map_err(|error| unavailable(&error))?;
    Ok(json_body(wire::page(page, query.payload)))
}

async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, Response> {
    let id: StoredObjectId = id.parse().map_err(not_understood)?;
    match api.errors.find(id).await.map_err(|error| unavailable(&error))? {
        Some(object) => Ok(Json(wire::object(&object, true)).into_response()),
        None => Err(failure(
            StatusCode::NOT_FOUND,
            &format!("there is no object {id} in the error collection"),
        )),
    }
}

async fn count(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Response> {
    let query = Query::read(query.as_deref().unwrap_or_default()).map_err(not_understood)?;
    let groups = api.errors.survey(query.filter.clone()).await;
    let groups = groups.map_err(|error| unavailable(&error))?;
    let all = meant_by(ErrorAction::Purge, &query.filter, &groups);
    Ok(Json(Count::of(all, &groups)).into_response())
}

type Peer = Option<Extension<ConnectInfo<SocketAddr>>>;

async fn redrive(State(api): State<Api>, peer: Peer, body: Bytes) -> Result<Response, Response> {
    begin(&api, peer, ErrorAction::Redrive, &body).await
}

async fn purge(State(api): State<Api>, peer: Peer, body: Bytes) -> Result<Response, Response> {
    begin(&api, peer, ErrorAction::Purge, &body).await
}

async fn begin(api: &Api, peer: Peer, action: ErrorAction, body: &[u8]) -> Result<Response, Response> {
    let body: OrderBody = serde_json::from_slice(body).map_err(not_understood)?;
    let (dry_run, rate) = (body.dry_run, body.rate);
    let filter = body.into_filter().map_err(not_understood)?;
    if dry_run {
        let groups = api.errors.survey(filter.clone()).await;
        let groups = groups.map_err(|error| unavailable(&error))?;
        let meant = meant_by(action, &filter, &groups);
        return Ok(Json(Count::of(meant, &groups)).into_response());
    }
    if let Some(refusal) = refusal(api) {
        return Err(refusal);
    }
    let order = ErrorOrder {
        action,
        filter,
        rate,
        by: name_of(peer),
    };
    match api.errors.begin(order).await {
        Ok(run) => Ok((StatusCode::ACCEPTED, Json(RunBody::of(&run))).into_response()),
        Err(BeginError::Store(error)) => Err(unavailable(&error)),
        Err(error @ BeginError::Busy) => Err(failure(StatusCode::CONFLICT, &error.to_string())),
        Err(error) => Err(failure(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())),
    }
}

#[derive(Serialize)]
struct Runs {
    runs: Vec<RunBody>,
}

async fn runs(State(api): State<Api>) -> Response {
    let runs = api.errors.runs().iter().map(RunBody::of).collect();
    Json(Runs { runs }).into_response()
}

async fn run(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, Response> {
    let id = run_id(&id).map_err(not_understood)?;
    let run = api.errors.run(id).ok_or_else(|| no_run(id))?;
    Ok(Json(RunBody::of(&run)).into_response())
}

async fn cancel(State(api): State<Api>, peer: Peer, Path(id): Path<String>) -> Result<Response, Response> {
    if let Some(refusal) = refusal(&api) {
        return Err(refusal);
    }
    let id = run_id(&id).map_err(not_understood)?;
    let run = api.errors.cancel(id, &name_of(peer)).ok_or_else(|| no_run(id))?;
    Ok((StatusCode::ACCEPTED, Json(RunBody::of(&run))).into_response())
}

fn run_id(text: &str) -> Result<RunId, String> {
    text.parse()
        .map_err(|_| format!("this is no id of a run: '{text}'"))
}

fn name_of(peer: Peer) -> String {
    peer.map_or_else(
        || "unknown".to_owned(),
        |Extension(ConnectInfo(address))| address.to_string(),
    )
}

/// The answer to whoever may not change anything.
fn refusal(api: &Api) -> Option<Response> {
    let problem = "this changes the store: start the service with EDGEHOLD_ADMIN=write to allow it";
    (api.admin != Admin::Write).then(|| failure(StatusCode::FORBIDDEN, problem))
}

fn not_understood(problem: impl std::fmt::Display) -> Response {
    failure(StatusCode::BAD_REQUEST, &problem.to_string())
}

fn unavailable(error: &StoreError) -> Response {
    failure(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}

fn no_run(id: RunId) -> Response {
    failure(
        StatusCode::NOT_FOUND,
        &format!(
            "there is no run {id}: it ended long ago, or with an earlier start of the service; a new one with the same filter \
             goes on with what that left"
        ),
    )
}
