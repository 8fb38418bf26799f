//! Requests with a body: the trigger's route with a runtime that says what the test wants, the developer's own routes,
//! and the limits both are held to.

use std::{future::Future, time::Duration};

use edgehold_api::{CustomRoute, Limits, RouteMethod, RouteRequest, RouteResponse};
use edgehold_config::{ConfigurationProvider, memory::MemoryProvider};
use edgehold_core::{ByteBudget, Delivery, DeliveryReport, PipelineId, Received, RunEnd, RunReport};
use edgehold_test_support::http::{self, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Build, Server, generous};

const PATH: &str = "/api/v3/trigger";

fn post(server: &Server, headers: &[(&str, &str)], body: &[u8]) -> impl Future<Output = Response> + use<> {
    let port = server.port;
    let headers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let body = body.to_vec();
    async move {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        http::send(port, "POST", PATH, &headers, &body).await.unwrap()
    }
}

/// Posts, and has the runtime report this.
async fn answered(server: &mut Server, report: DeliveryReport) -> Response {
    let request = post(server, &[], b"x");
    let told = async {
        let mut delivery = server.deliveries.recv().await.unwrap();
        delivery.ack.take_report().unwrap().send(report).unwrap();
    };
    tokio::join!(request, told).0
}

fn run(pipeline_id: &str, end: RunEnd) -> RunReport {
    RunReport {
        pipeline_id: PipelineId::try_new(pipeline_id).unwrap(),
        end,
    }
}

fn responded(data: &str, content_type: &str) -> RunEnd {
    RunEnd::Succeeded(Some(edgehold_core::Response {
        data: data.to_owned().into(),
        content_type: content_type.to_owned(),
    }))
}

fn content(delivery: &Delivery) -> (&[u8], &str, &str) {
    match &delivery.received {
        Received::Message {
            payload,
            content_type,
            correlation_id,
            ..
        } => (payload, content_type, correlation_id.as_str()),
        Received::Undecodable { .. } => panic!("it is a message"),
    }
}

#[tokio::test]
async fn a_request_becomes_a_delivery_with_its_content_type_and_correlation_id() {
    let mut server = Server::start().await;
    let headers = [
        ("Content-Type", "application/cbor"),
        ("X-Correlation-ID", "corr-7"),
    ];
    let request = post(&server, &headers, b"\xa0");
    let told = async {
        let mut delivery = server.deliveries.recv().await.unwrap();
        assert_eq!(content(&delivery), (&b"\xa0"[..], "application/cbor", "corr-7"));
        assert_eq!(delivery.topic, "");
        let report = DeliveryReport::Runs(vec![run("p", RunEnd::Succeeded(None))]);
        delivery.ack.take_report().unwrap().send(report).unwrap();
    };
    let (response, ()) = tokio::join!(request, told);
    assert_eq!((response.status, response.text().as_str()), (200, ""));
    assert_eq!(response.header("content-type"), None);
    assert_eq!(response.header("x-correlation-id"), Some("corr-7"));
}

#[tokio::test]
async fn a_missing_correlation_id_is_invented_for_the_delivery_and_told() {
    let mut server = Server::start().await;
    let request = post(&server, &[], b"x");
    let invented = async {
        let mut delivery = server.deliveries.recv().await.unwrap();
        let id = content(&delivery).2.to_owned();
        let report = DeliveryReport::Undecodable(String::new());
        delivery.ack.take_report().unwrap().send(report).unwrap();
        id
    };
    let (response, id) = tokio::join!(request, invented);
    assert_eq!(id.len(), 36, "{id}");
    assert_eq!(response.header("x-correlation-id"), Some(id.as_str()));
}

#[tokio::test]
async fn each_end_has_its_status() {
    let mut server = Server::start().await;
    let failed = |error: &str| RunEnd::Failed {
        error: error.to_owned(),
    };
    let kept = |error: &str| RunEnd::Kept {
        error: error.to_owned(),
    };
    for (report, status, body) in [
        (
            DeliveryReport::Undecodable("unexpected EOF".to_owned()),
            400,
            "unable to process payload unexpected EOF",
        ),
        (
            DeliveryReport::Runs(vec![]),
            500,
            "no transforms configured for pipleline. Please check log for earlier errors loading pipeline",
        ),
        (
            DeliveryReport::Runs(vec![run("a", responded("{}", "")), run("b", failed("no"))]),
            422,
            "no",
        ),
        (
            DeliveryReport::Runs(vec![run("a", kept("down")), run("b", failed("no"))]),
            422,
            "no",
        ),
        (
            DeliveryReport::Runs(vec![run("a", kept("down")), run("b", responded("{}", ""))]),
            202,
            "kept, and tried again later: down",
        ),
        (
            DeliveryReport::Runs(vec![
                run("a", RunEnd::Succeeded(None)),
                run("b", responded("b", "")),
            ]),
            200,
            "b",
        ),
        (
            DeliveryReport::Runs(vec![
                run("a", responded("a", "")),
                run(PipelineId::DEFAULT, responded("d", "")),
            ]),
            200,
            "d",
        ),
    ] {
        let told = format!("{report:?}");
        let response = answered(&mut server, report).await;
        assert_eq!(
            (response.status, response.text().as_str()),
            (status, body),
            "{told}"
        );
        assert_eq!(
            response.header("content-type"),
            Some("text/plain; charset=utf-8"),
            "{told}"
        );
    }
}

/// Contract, messages §4.1: "Empty non-nil response data panics when no content type was set" in the original.
#[tokio::test]
async fn empty_response_data_without_content_type_is_an_empty_answer() {
    let mut server = Server::start().await;
    let report = DeliveryReport::Runs(vec![run("a", responded("", ""))]);
    let response = answered(&mut server, report).await;
    assert_eq!((response.status, response.text().as_str()), (200, ""));
    assert_eq!(response.header("content-type"), None);
}

#[tokio::test]
async fn a_response_keeps_the_content_type_the_pipeline_set() {
    let mut server = Server::start().await;
    let report = DeliveryReport::Runs(vec![run("a", responded("<a/>", "application/xml"))]);
    let response = answered(&mut server, report).await;
    assert_eq!(response.header("content-type"), Some("application/xml"));
}

#[tokio::test]
async fn weakness_28_a_body_past_the_limit_is_413_chunked_or_not() {
    let limits = Limits {
        max_request_bytes: 1024,
        ..generous()
    };
    let own = CustomRoute::try_new("/own", &[RouteMethod::Post], |_| async {
        RouteResponse::status(204)
    });
    let server = Server::with(limits, vec![own.unwrap()]).await;
    let body = vec![b'x'; 1025];
    let announced = post(&server, &[], &body).await;
    let refusal = r#"{"apiVersion":"v3","message":"request size exceed 1 KB","statusCode":413}"#;
    assert_eq!((announced.status, announced.text()), (413, refusal.to_owned()));
    assert_eq!(announced.header("content-type"), Some("application/json"));
    assert_eq!(announced.header("x-correlation-id").map(str::len), Some(36));
    // Weakness 28. On every route, with and without an announced length.
    for target in [PATH, "/api/v3/secret", "/own"] {
        let announced = http::send(server.port, "POST", target, &[], &body).await.unwrap();
        assert_eq!(
            (announced.status, announced.text()),
            (413, refusal.to_owned()),
            "{target}"
        );
        let mut chunked = format!(
            "POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        .into_bytes();
        for _ in 0..2 {
            chunked.extend(format!("{:x}\r\n{}\r\n", 1000, "x".repeat(1000)).into_bytes());
        }
        chunked.extend(b"0\r\n\r\n");
        let answer = raw(server.port, &chunked).await;
        assert!(
            answer.starts_with("HTTP/1.1 413 ") && answer.ends_with(refusal),
            "{target}: {answer}"
        );
    }
}

#[tokio::test]
async fn who_asks_before_sending_too_much_is_refused_before_sending() {
    let limits = Limits {
        max_request_bytes: 1024,
        ..generous()
    };
    let server = Server::with(limits, Vec::new()).await;
    let asks = |length| {
        format!(
            "POST /api/v3/secret HTTP/1.1\r\nHost: h\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let refused = raw(server.port, asks(1025).as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    stream.write_all(asks(2).as_bytes()).await.unwrap();
    let mut go_on = [0; 12];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100");
}

#[tokio::test]
async fn every_route_has_the_request_timeout() {
    let never = CustomRoute::try_new("/own", &[RouteMethod::Get], |_| std::future::pending()).unwrap();
    let limits = Limits {
        request_timeout: Duration::from_millis(50),
        ..generous()
    };
    let server = Server::with(limits, vec![never]).await;
    let answer = server.ask("GET", "/own", &[]).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (503, "Request timed out")
    );
    // What it has done nobody knows.
    assert_eq!(answer.header("retry-after"), None);
    // A body that does not come: nothing was taken.
    let waits = "POST /api/v3/secret HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{";
    let answer = raw(server.port, waits.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 1\r\n"),
        "{answer}"
    );
}

const SECRET: &str = r#"{"apiVersion":"v3","requestId":"e6e8a2f4-eb14-4649-9e2b-175247911369","secretName":"mqtt","secretData":[{"key":"username","value":"u"}]}"#;

async fn post_secret(server: &Server, body: &str) -> Response {
    http::send(server.port, "POST", "/api/v3/secret", &[], body.as_bytes())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_secret_is_created_only_when_it_is_written() {
    let provider = MemoryProvider::default();
    let build = Build {
        secrets: Some(provider.clone()),
        ..Build::default()
    };
    let server = build.start().await;
    let created = post_secret(&server, SECRET).await;
    assert_eq!(
        (created.status, created.text().as_str()),
        (
            201,
            r#"{"apiVersion":"v3","requestId":"e6e8a2f4-eb14-4649-9e2b-175247911369","statusCode":201}"#
        )
    );
    assert_eq!(created.header("content-type"), Some("application/json"));
    let private = provider.load().await.unwrap().private.unwrap();
    assert_eq!(
        private.iter().collect::<Vec<_>>(),
        [
            ("Writable/InsecureSecrets/mqtt/SecretData/username", "u"),
            ("Writable/InsecureSecrets/mqtt/SecretName", "mqtt"),
        ]
    );
    let slash = post_secret(&server, &SECRET.replace("username", "user/name")).await;
    assert_eq!(slash.status, 400, "{}", slash.text());
    provider.set_available(false);
    let failed = post_secret(&server, SECRET).await;
    assert_eq!(failed.status, 502);
    let told = failed.text();
    let beginning = r#"{"apiVersion":"v3","requestId":"e6e8a2f4-eb14-4649-9e2b-175247911369","message":"adding secret failed -\u003e error setting secretName value in the config provider -\u003e "#;
    assert!(
        told.starts_with(beginning) && told.ends_with(r#","statusCode":502}"#),
        "{told}"
    );
}

#[tokio::test]
async fn a_request_past_the_budget_is_told_to_come_later_and_leaves_nothing_behind() {
    let budget = ByteBudget::new(2048);
    let limits = Limits {
        budget: budget.clone(),
        ..generous()
    };
    let mut server = Server::with(limits, Vec::new()).await;
    let hold = budget.try_take(2000).unwrap();
    let response = post(&server, &[], &[b'x'; 100]).await;
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("1"))
    );
    drop(hold);
    assert_eq!(budget.available(), 2048);
    // Larger than the whole of it: alone, but not never.
    let request = post(&server, &[], &[b'x'; 5000]);
    let told = async {
        let mut delivery = server.deliveries.recv().await.unwrap();
        assert_eq!((content(&delivery).0.len(), budget.available()), (5000, 0));
        let report = DeliveryReport::Runs(vec![run("a", RunEnd::Succeeded(None))]);
        delivery.ack.take_report().unwrap().send(report).unwrap();
    };
    assert_eq!(tokio::join!(request, told).0.status, 200);
    assert_eq!(budget.available(), 2048);
}

#[tokio::test]
async fn after_the_request_timeout_the_answer_is_503_and_the_delivery_goes_on() {
    let limits = Limits {
        request_timeout: Duration::from_millis(50),
        ..generous()
    };
    let mut server = Server::with(limits, Vec::new()).await;
    let response = post(&server, &[], b"x").await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (503, "Request timed out")
    );
    // It was taken: sending it again would double it.
    assert_eq!(response.header("retry-after"), None);
    let delivery = server.deliveries.recv().await.unwrap();
    assert_eq!(content(&delivery).0, b"x");
    // The channel of the runtime is full: this one is not taken.
    let held = [post(&server, &[], b"1").await, post(&server, &[], b"2").await];
    assert_eq!(
        held.map(|response| response.header("retry-after").is_some()),
        [false, true]
    );
}

#[tokio::test]
async fn a_delivery_nobody_finishes_is_to_be_sent_again() {
    let mut server = Server::start().await;
    let request = post(&server, &[], b"x");
    let dropped = async { drop(server.deliveries.recv().await) };
    let (response, ()) = tokio::join!(request, dropped);
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("1"))
    );
}

#[tokio::test]
async fn the_trigger_is_asked_by_post_alone() {
    let server = Server::start().await;
    for method in ["GET", "PUT", "OPTIONS"] {
        let response = server.ask(method, PATH, &[]).await;
        let status = if method == "OPTIONS" { 204 } else { 405 };
        assert_eq!(
            (response.status, response.header("allow")),
            (status, Some("OPTIONS, POST")),
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_route_of_ones_own_is_handed_the_whole_request() {
    let echo = |request: RouteRequest| async move {
        let name = request.parameters["name"].clone();
        let mut response = RouteResponse::json(&serde_json::json!({
            "method": request.method, "path": request.path, "query": request.query, "name": name,
            "agent": request.header("X-Agent"), "body": String::from_utf8_lossy(&request.body),
        }));
        response.status = 201;
        response
    };
    let routes = vec![
        CustomRoute::try_new(
            "/api/v3/things/:name",
            &[RouteMethod::Get, RouteMethod::Put],
            echo,
        )
        .unwrap(),
        CustomRoute::try_new("/broken", &[RouteMethod::Get], |_| async {
            panic!("for the test")
        })
        .unwrap(),
    ];
    let server = Server::with(generous(), routes).await;
    let target = "/api/v3/things/a%20b?x=%31";
    let response = http::send(server.port, "PUT", target, &[("X-Agent", "me")], b"hello")
        .await
        .unwrap();
    assert_eq!(response.status, 201);
    assert_eq!(
        response.json::<serde_json::Value>().unwrap(),
        serde_json::json!({
            "method": "PUT", "path": "/api/v3/things/a%20b", "query": "x=%31", "name": "a b",
            "agent": "me", "body": "hello",
        })
    );
    assert_eq!(
        server.ask("DELETE", target, &[]).await.header("allow"),
        Some("OPTIONS, GET, PUT")
    );
    assert_eq!(server.ask("GET", "/broken", &[]).await.status, 500);
    assert_eq!(server.ask("GET", "/api/v3/ping", &[]).await.status, 200);
}

async fn raw(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
