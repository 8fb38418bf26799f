//! The error collection over REST, against a memory store.

use edgehold_core::{ErrorReason, ObjectState, StoredObject, Timestamp};
use edgehold_store::{ListRequest, Room, conformance};
use edgehold_test_support::wait;
use serde_json::{Value, json};

use super::*;

fn letter(number: u64, reason: ErrorReason) -> StoredObject {
    StoredObject {
        service_key: ServiceKey::try_new("app-rest").unwrap(),
        state: ObjectState::Error,
        reason: Some(reason),
        ended_at: Some(Timestamp::from_unix_millis(
            1_000 + i64::try_from(number).unwrap(),
        )),
        ..conformance::object(number)
    }
}

async fn with_letters(admin: Admin) -> Server {
    let build = Build {
        admin,
        ..Build::default()
    };
    let server = build.start().await;
    let reasons = [
        ErrorReason::RetriesExceeded,
        ErrorReason::TooOld,
        ErrorReason::RetriesExceeded,
        ErrorReason::Corrupt,
    ];
    let letters: Vec<_> = (1..)
        .zip(reasons)
        .map(|(number, reason)| letter(number, reason))
        .collect();
    for answer in server.store.append(&letters, Room::default()).await {
        answer.unwrap();
    }
    server
}

async fn get(server: &Server, target: &str) -> (u16, Value) {
    let response = server.ask("GET", target, &[]).await;
    let body = serde_json::from_str(&response.text()).unwrap_or_default();
    (response.status, body)
}

async fn post(server: &Server, target: &str, body: &Value) -> (u16, Value) {
    let headers = [("Content-Type", "application/json")];
    let body = body.to_string();
    let response = http::send(server.port, "POST", target, &headers, body.as_bytes())
        .await
        .unwrap();
    (
        response.status,
        serde_json::from_str(&response.text()).unwrap_or_default(),
    )
}

async fn in_error(server: &Server) -> usize {
    let request = ListRequest {
        states: vec![ObjectState::Error],
        filter: Default::default(),
        after_seq: 0,
        limit: 100,
    };
    server.store.list(request).await.unwrap().objects.len()
}

async fn ended(server: &Server, run: &Value) -> Value {
    let target = format!("/api/v3/store/runs/{}", run["id"].as_str().unwrap());
    wait::until("the end of the run", wait::LONG, async || {
        let (_, run) = get(server, &target).await;
        (run["state"] != "running").then_some(run)
    })
    .await
}

#[tokio::test]
async fn the_collection_is_shown_page_by_page_and_one_by_one() {
    let server = with_letters(Admin::Read).await;
    let (status, page) = get(&server, "/api/v3/store/errors?limit=2").await;
    assert_eq!(status, 200);
    let objects = page["objects"].as_array().unwrap();
    assert_eq!((objects.len(), page["next"].as_i64()), (2, Some(2)));
    assert_eq!(objects[0].get("payload"), None, "{page}");
    assert_eq!(objects[0]["payloadBytes"], 9);
    let (_, page) = get(&server, "/api/v3/store/errors?after=2&payload=true").await;
    let objects = page["objects"].as_array().unwrap();
    assert_eq!((objects.len(), page["next"].as_i64()), (2, None));
    assert_eq!(objects[0]["payload"], "cGF5bG9hZCAz");
    let query = "reason=too_old&reason=corrupt&device=pump-1&endedFrom=1003&endedBefore=2000";
    let (_, page) = get(&server, &format!("/api/v3/store/errors?{query}")).await;
    assert_eq!(page["objects"].as_array().unwrap().len(), 1, "{page}");

    let id = conformance::id(2);
    let (status, object) = get(&server, &format!("/api/v3/store/errors/{id}")).await;
    assert_eq!((status, object["payload"].as_str()), (200, Some("cGF5bG9hZCAy")));
    let nobody = conformance::id(9);
    assert_eq!(
        get(&server, &format!("/api/v3/store/errors/{nobody}")).await.0,
        404
    );
    for wrong in ["reason=bored", "limit=many", "id=x", "what=1"] {
        let (status, body) = get(&server, &format!("/api/v3/store/errors?{wrong}")).await;
        assert_eq!(status, 400, "{wrong}: {body}");
    }
    let (_, count) = get(&server, "/api/v3/store/errors/count?pipeline=default-pipeline").await;
    assert_eq!(
        (count["objects"].as_u64(), count["payloadBytes"].as_u64()),
        (Some(4), Some(36))
    );
    assert_eq!(count["groups"][0]["reason"], "retries_exceeded");
    assert_eq!(count["groups"][0]["objects"], 2);
}

#[tokio::test]
async fn a_page_of_large_objects_has_fewer_of_them() {
    let server = with_letters(Admin::Read).await;
    let large = letter(5, ErrorReason::TooOld);
    let large = [5, 6, 7].map(|number| StoredObject {
        id: conformance::id(number),
        payload: vec![b'x'; ListRequest::MAX_BYTES / 2].into(),
        ..large.clone()
    });
    for answer in server.store.append(&large, Room::default()).await {
        answer.unwrap();
    }
    let (_, page) = get(&server, "/api/v3/store/errors?payload=true&after=4").await;
    let objects = page["objects"].as_array().unwrap();
    assert_eq!((objects.len(), page["next"].as_i64()), (2, Some(6)));
    let (_, page) = get(&server, "/api/v3/store/errors?payload=true&after=6").await;
    assert_eq!(page["objects"][0]["payloadBytes"], ListRequest::MAX_BYTES / 2);
    assert_eq!(page["next"], Value::Null);
    let (_, page) = get(&server, "/api/v3/store/errors?after=7").await;
    assert_eq!(page, json!({ "objects": [], "next": null }));
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing_whoever_asks() {
    let server = with_letters(Admin::Read).await;
    for (action, wanted) in [("redrive", 3), ("purge", 4)] {
        let body = json!({ "all": true, "dryRun": true });
        let (status, count) = post(&server, &format!("/api/v3/store/errors/{action}"), &body).await;
        assert_eq!(
            (status, count["objects"].as_u64()),
            (200, Some(wanted)),
            "{count}"
        );
    }
    assert_eq!(in_error(&server).await, 4);
}

#[tokio::test]
async fn a_redrive_and_a_purge_are_followed_to_their_end() {
    let server = with_letters(Admin::Write).await;
    let body = json!({ "filter": { "reasons": ["retries_exceeded"] } });
    let (status, run) = post(&server, "/api/v3/store/errors/redrive", &body).await;
    assert_eq!((status, run["meant"].as_u64()), (202, Some(2)), "{run}");
    let run = ended(&server, &run).await;
    assert_eq!(
        (run["state"].as_str(), run["done"].as_u64()),
        (Some("done"), Some(2))
    );
    assert!(run["filter"]["endedBefore"].as_i64() > Some(1_000), "{run}");
    let (_, run) = post(&server, "/api/v3/store/errors/purge", &json!({ "all": true })).await;
    assert_eq!(ended(&server, &run).await["done"], 2);
    assert_eq!(in_error(&server).await, 0);
    let (_, stats) = get(&server, "/api/v3/store/stats").await;
    let books = &stats["books"];
    assert_eq!(
        (books["redriven"].as_u64(), books["droppedPurged"].as_u64()),
        (Some(2), Some(2))
    );
    let (_, runs) = get(&server, "/api/v3/store/runs").await;
    assert_eq!(runs["runs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_run_with_a_rate_is_cancelled() {
    let server = with_letters(Admin::Write).await;
    let body = json!({ "all": true, "rate": 1 });
    let (_, run) = post(&server, "/api/v3/store/errors/purge", &body).await;
    let target = format!("/api/v3/store/runs/{}", run["id"].as_str().unwrap());
    let response = server.ask("DELETE", &target, &[]).await;
    assert_eq!(response.status, 202);
    let run = ended(&server, &run).await;
    assert_eq!(run["state"], "cancelled");
    assert_eq!(in_error(&server).await as u64 + run["done"].as_u64().unwrap(), 4);
    let nobody = "/api/v3/store/runs/01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(server.ask("DELETE", nobody, &[]).await.status, 404);
    for method in ["GET", "DELETE"] {
        let refused = server.ask(method, "/api/v3/store/runs/7", &[]).await;
        assert_eq!(refused.status, 400);
        let told = refused.text();
        assert!(told.contains("this is no id of a run: '7'"), "{told}");
    }
}

#[tokio::test]
async fn what_is_not_said_clearly_is_not_done() {
    let server = with_letters(Admin::Write).await;
    for body in [
        json!({}),
        json!({ "filter": {} }),
        json!({ "filter": { "reason": ["too_old"] } }),
        json!({ "filter": { "ids": ["x"] } }),
        json!({ "all": true, "rate": 0 }),
        json!([]),
    ] {
        let (status, answer) = post(&server, "/api/v3/store/errors/purge", &body).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    assert_eq!(in_error(&server).await, 4);
}

#[tokio::test]
async fn the_setting_says_what_may_be_done() {
    let all = json!({ "all": true });
    let server = with_letters(Admin::Read).await;
    for action in ["redrive", "purge"] {
        let (status, answer) = post(&server, &format!("/api/v3/store/errors/{action}"), &all).await;
        assert_eq!(status, 403);
        assert!(
            answer["message"]
                .as_str()
                .unwrap()
                .contains("EDGEHOLD_ADMIN=write"),
            "{answer}"
        );
    }
    let run = "/api/v3/store/runs/01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(server.ask("DELETE", run, &[]).await.status, 403);
    assert_eq!(in_error(&server).await, 4);

    let server = with_letters(Admin::Off).await;
    for target in [
        "/api/v3/store/errors",
        "/api/v3/store/errors/count",
        "/api/v3/store/runs",
    ] {
        assert_eq!(get(&server, target).await.0, 404, "{target}");
    }
    assert_eq!(post(&server, "/api/v3/store/errors/purge", &all).await.0, 404);
    assert_eq!(get(&server, "/api/v3/store/stats").await.0, 200);
}
