//! The core services as a stand-in answers for them, in the shapes of EdgeX's API v3.

use std::collections::BTreeMap;

use edgehold_clients::{Clients, Notification, ReadingQuery, Severity, SubscribedTo};
use edgehold_contracts::{AddEventRequest, ContentType, Event, ReadingValue};
use edgehold_core::{ErrorClass, Timestamp};
use serde_json::json;

use super::*;

async fn clients() -> (HttpSink, Clients) {
    let sink = HttpSink::start().await.unwrap();
    let names = [
        "core-data",
        "core-metadata",
        "core-command",
        "support-notifications",
    ];
    let addresses = names.map(|name| (name.to_owned(), client(sink.port())));
    let clients = Clients::new(&addresses.into(), Generation::V4, wait::LONG).unwrap();
    (sink, clients)
}

fn answers(sink: &HttpSink, status: u16, body: serde_json::Value) {
    sink.behave(Answer::new(status).body(body.to_string()).into());
}

const EVENT: &str = r#"{"apiVersion":"v3","id":"0f0e0d0c-0000-4000-8000-000000000001","deviceName":"pump 1/a","profileName":"Pump","sourceName":"Level","origin":1700000000000000001,"readings":[{"id":"0f0e0d0c-0000-4000-8000-000000000002","origin":1700000000000000001,"deviceName":"pump 1/a","resourceName":"Level","profileName":"Pump","valueType":"Int64","value":"7"}]}"#;

fn event() -> Event {
    Event::decode(EVENT.as_bytes(), ContentType::Json).unwrap()
}

fn request(event: Event) -> AddEventRequest {
    AddEventRequest::new("0f0e0d0c-0000-4000-8000-000000000003".parse().unwrap(), event)
}

#[tokio::test]
async fn an_event_is_added_with_its_names_as_segments_of_the_path() {
    let (sink, clients) = clients().await;
    answers(&sink, 201, json!({"apiVersion":"v3","statusCode":201,"id":"e-1"}));
    let events = clients.events().unwrap();
    assert_eq!(events.add("app-x", &request(event())).await.unwrap(), "e-1");
    let sent = sink.take().remove(0);
    assert_eq!(
        (sent.method.as_str(), sent.target.as_str()),
        ("POST", "/api/v3/event/app-x/Pump/pump%201%2Fa/Level")
    );
    assert_eq!(sent.header("content-type"), Some("application/json"));
    assert_eq!(
        sent.json()["event"],
        serde_json::from_str::<serde_json::Value>(EVENT).unwrap()
    );

    // And with a binary reading as CBOR
    let mut binary = event();
    binary.readings[0].value_type = "Binary".to_owned();
    binary.readings[0].value = ReadingValue::Binary {
        value: vec![1, 2].into(),
        media_type: "a/b".to_owned(),
    };
    events.add("app-x", &request(binary)).await.unwrap();
    assert_eq!(sink.take()[0].header("content-type"), Some("application/cbor"));
}

#[tokio::test]
async fn a_refusal_says_why_and_whether_to_try_again() {
    let (sink, clients) = clients().await;
    for (status, class) in [
        (409, ErrorClass::Permanent),
        (404, ErrorClass::Permanent),
        (429, ErrorClass::Transient),
        (503, ErrorClass::Transient),
    ] {
        answers(
            &sink,
            status,
            json!({"apiVersion":"v3","statusCode":status,"message":"not like this"}),
        );
        let error = clients
            .events()
            .unwrap()
            .add("app-x", &request(event()))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the answer is status {status}: not like this")
        );
        assert_eq!(error.class(), class, "{status}");
    }
    sink.behave(Behaviour::Reset);
    let error = clients.events().unwrap().by_id("x").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
}

#[tokio::test]
async fn a_silent_service_ends_a_call_in_time() {
    let sink = HttpSink::start().await.unwrap();
    sink.behave(Behaviour::Hang);
    let addresses = BTreeMap::from([("core-data".to_owned(), client(sink.port()))]);
    let clients = Clients::new(&addresses, Generation::V4, Duration::from_millis(50)).unwrap();
    let error = clients.events().unwrap().by_id("x").await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    assert!(clients.metadata().is_none(), "it has no address");
}

#[tokio::test]
async fn events_are_found_by_id_and_device_with_integers_exact() {
    let (sink, clients) = clients().await;
    let found: serde_json::Value = serde_json::from_str(EVENT).unwrap();
    answers(
        &sink,
        200,
        json!({"apiVersion":"v3","statusCode":200,"event":found}),
    );
    let events = clients.events().unwrap();
    assert_eq!(events.by_id("e-1").await.unwrap(), event());
    answers(
        &sink,
        200,
        json!({"apiVersion":"v3","statusCode":200,"totalCount":1,"events":[found]}),
    );
    assert_eq!(events.by_device("pump 1/a", 5, 10).await.unwrap(), [event()]);
    let targets: Vec<_> = sink.take().into_iter().map(|sent| sent.target).collect();
    assert_eq!(
        targets,
        [
            "/api/v3/event/id/e-1",
            "/api/v3/event/device/name/pump%201%2Fa?offset=5&limit=10"
        ]
    );
}

/// EdgeX: `GetDeviceResource`.
#[tokio::test]
async fn a_resource_is_asked_for_once_and_its_absence_each_time() {
    let (sink, clients) = clients().await;
    let metadata = clients.metadata().unwrap();
    answers(
        &sink,
        404,
        json!({"apiVersion":"v3","statusCode":404,"message":"no such resource"}),
    );
    metadata.resource("Pump", "Level").await.unwrap_err();
    let resource = json!({
        "name": "Level", "isHidden": false, "attributes": { "register": 7 },
        "properties": { "valueType": "Int64", "readWrite": "RW", "units": "mm", "maximum": 100 },
    });
    answers(
        &sink,
        200,
        json!({"apiVersion":"v3","statusCode":200,"resource":resource}),
    );
    let first = metadata.resource("Pump", "Level").await.unwrap();
    let again = clients
        .clone()
        .metadata()
        .unwrap()
        .resource("Pump", "Level")
        .await
        .unwrap();
    assert_eq!(first, again);
    assert_eq!(
        (
            first.properties.units.as_str(),
            &first.properties.others["maximum"]
        ),
        ("mm", &json!(100))
    );
    assert_eq!(first.attributes["register"], 7);
    let targets: Vec<_> = sink.take().into_iter().map(|sent| sent.target).collect();
    assert_eq!(targets, ["/api/v3/deviceresource/profile/Pump/resource/Level"; 2]);
}

#[tokio::test]
async fn commands_read_and_write() {
    let (sink, clients) = clients().await;
    let commands = clients.commands().unwrap();
    let found: serde_json::Value = serde_json::from_str(EVENT).unwrap();
    answers(
        &sink,
        200,
        json!({"apiVersion":"v3","statusCode":200,"event":found}),
    );
    assert_eq!(commands.get("pump 1/a", "Level", true).await.unwrap(), event());
    answers(&sink, 200, json!({"apiVersion":"v3","statusCode":200}));
    let settings = BTreeMap::from([("Level".to_owned(), json!(8))]);
    commands.set("pump 1/a", "Level", &settings).await.unwrap();
    let sent = sink.take();
    assert_eq!(
        sent[0].target,
        "/api/v3/device/name/pump%201%2Fa/Level?ds-pushevent=true&ds-returnevent=true"
    );
    assert_eq!(
        (sent[1].method.as_str(), &sent[1].json()["Level"]),
        ("PUT", &json!(8))
    );
}

#[tokio::test]
async fn a_notification_is_refused_by_its_own_status() {
    let (sink, clients) = clients().await;
    let notification = Notification {
        category: "alarm".to_owned(),
        labels: Vec::new(),
        content: "the pump is dry".to_owned(),
        content_type: "text/plain".to_owned(),
        sender: "app-x".to_owned(),
        severity: Severity::Critical,
    };
    answers(
        &sink,
        207,
        json!([{"apiVersion":"v3","statusCode":201,"id":"n-1"}]),
    );
    let notifications = clients.notifications().unwrap();
    assert_eq!(notifications.send(&notification).await.unwrap(), "n-1");
    assert_eq!(
        sink.take()[0].json(),
        json!([{"apiVersion":"v3","notification":{
            "category":"alarm","content":"the pump is dry","contentType":"text/plain","sender":"app-x","severity":"CRITICAL",
        }}])
    );
    answers(
        &sink,
        207,
        json!([{"apiVersion":"v3","statusCode":400,"message":"no category"}]),
    );
    let error = notifications.send(&notification).await.unwrap_err();
    assert_eq!(error.to_string(), "the answer is status 400: no category");
}

/// EdgeX: `ReadingClient`.
#[tokio::test]
async fn readings_are_found_by_device_resource_and_time_and_counted() {
    let (sink, clients) = clients().await;
    let readings = clients.readings().unwrap();
    let found: serde_json::Value = serde_json::from_str(EVENT).unwrap();
    answers(
        &sink,
        200,
        json!({"apiVersion":"v3","statusCode":200,"totalCount":7,"readings":found["readings"]}),
    );
    let (start, end) = (
        Timestamp::from_unix_millis(1_700_000_000_000),
        Timestamp::from_unix_millis(1_700_000_000_500),
    );
    let all = ReadingQuery::default();
    let page = readings.find(&all).await.unwrap();
    assert_eq!((page.total, &page.readings), (7, &event().readings));
    for query in [
        ReadingQuery {
            device: Some("pump 1/a"),
            limit: Some(5),
            ..all
        },
        ReadingQuery {
            resource: Some("Level"),
            offset: 3,
            ..all
        },
        ReadingQuery {
            between: Some((start, end)),
            ..all
        },
        ReadingQuery {
            device: Some("d"),
            resource: Some("r"),
            between: Some((start, end)),
            ..all
        },
    ] {
        readings.find(&query).await.unwrap();
    }
    let targets: Vec<_> = sink.take().into_iter().map(|sent| sent.target).collect();
    assert_eq!(
        targets,
        [
            "/api/v3/reading/all?offset=0",
            "/api/v3/reading/device/name/pump%201%2Fa?offset=0&limit=5",
            "/api/v3/reading/resourceName/Level?offset=3",
            "/api/v3/reading/start/1700000000000000000/end/1700000000500000000?offset=0",
            "/api/v3/reading/device/name/d/resourceName/r/start/1700000000000000000/end/1700000000500000000?offset=0",
        ]
    );
    for key in ["Count", "count"] {
        answers(&sink, 200, json!({"apiVersion":"v3","statusCode":200,key:12}));
        assert_eq!(readings.count(Some("d")).await.unwrap(), 12);
    }
    assert_eq!(sink.take()[0].target, "/api/v3/reading/count/device/name/d");
}

/// EdgeX: `SubscriptionClient`.
#[tokio::test]
async fn subscriptions_are_added_changed_found_and_removed() {
    let (sink, clients) = clients().await;
    let subscriptions = clients.subscriptions().unwrap();
    let subscription = json!({ "name": "night shift", "receiver": "ops", "categories": ["alarm"],
        "channels": [{ "type": "EMAIL", "recipients": ["ops@example.com"] }] });
    answers(
        &sink,
        207,
        json!([{"apiVersion":"v3","statusCode":201,"id":"s-1"}]),
    );
    assert_eq!(subscriptions.add(&subscription).await.unwrap(), "s-1");
    subscriptions
        .update(&json!({ "name": "night shift", "receiver": "all" }))
        .await
        .unwrap();
    let sent = sink.take();
    assert_eq!(
        (sent[0].method.as_str(), sent[0].target.as_str(), sent[0].json()),
        (
            "POST",
            "/api/v3/subscription",
            json!([{ "apiVersion": "v3", "subscription": subscription }])
        )
    );
    assert_eq!(sent[1].method, "PATCH");
    answers(
        &sink,
        207,
        json!([{"apiVersion":"v3","statusCode":409,"message":"it is there"}]),
    );
    let error = subscriptions.add(&subscription).await.unwrap_err();
    assert!(
        matches!(error, CallError::Declined { status: 409, .. }),
        "{error}"
    );
    sink.take();

    answers(
        &sink,
        200,
        json!({"apiVersion":"v3","statusCode":200,"subscription":subscription}),
    );
    assert_eq!(subscriptions.by_name("night shift").await.unwrap(), subscription);
    subscriptions.delete("night shift").await.unwrap();
    let error = subscriptions
        .find(SubscribedTo::Anything, 0, 5)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::NotUnderstood { .. }),
        "it is no list: {error}"
    );
    answers(
        &sink,
        200,
        json!({"apiVersion":"v3","statusCode":200,"totalCount":1,"subscriptions":[subscription]}),
    );
    for to in [
        SubscribedTo::Category("alarm"),
        SubscribedTo::Label("l"),
        SubscribedTo::Receiver("ops"),
    ] {
        assert_eq!(
            subscriptions.find(to, 1, 5).await.unwrap(),
            std::slice::from_ref(&subscription)
        );
    }
    let targets: Vec<_> = sink
        .take()
        .into_iter()
        .map(|sent| (sent.method, sent.target))
        .collect();
    let targets: Vec<_> = targets
        .iter()
        .map(|(method, target)| (method.as_str(), target.as_str()))
        .collect();
    assert_eq!(
        targets,
        [
            ("GET", "/api/v3/subscription/name/night%20shift"),
            ("DELETE", "/api/v3/subscription/name/night%20shift"),
            ("GET", "/api/v3/subscription/all?offset=0&limit=5"),
            ("GET", "/api/v3/subscription/category/alarm?offset=1&limit=5"),
            ("GET", "/api/v3/subscription/label/l?offset=1&limit=5"),
            ("GET", "/api/v3/subscription/receiver/ops?offset=1&limit=5"),
        ]
    );
}

/// EdgeX: `DeviceServiceClient`.
#[tokio::test]
async fn device_services_are_added_changed_found_and_removed() {
    let (sink, clients) = clients().await;
    let services = clients.device_services().unwrap();
    let service = json!({ "name": "device-x", "baseAddress": "http://x:59900", "adminState": "UNLOCKED" });
    answers(
        &sink,
        207,
        json!([{"apiVersion":"v3","statusCode":201,"id":"d-1"}]),
    );
    assert_eq!(services.add(&service).await.unwrap(), "d-1");
    services
        .update(&json!({ "name": "device-x", "adminState": "LOCKED" }))
        .await
        .unwrap();
    assert_eq!(
        sink.take()[0].json(),
        json!([{ "apiVersion": "v3", "service": service }])
    );
    answers(
        &sink,
        200,
        json!({"apiVersion":"v3","statusCode":200,"service":service,"services":[service]}),
    );
    assert_eq!(services.by_name("device-x").await.unwrap(), service);
    assert_eq!(services.all(0, 20).await.unwrap(), [service]);
    services.delete("device-x").await.unwrap();
    let targets: Vec<_> = sink.take().into_iter().map(|sent| sent.target).collect();
    assert_eq!(
        targets,
        [
            "/api/v3/deviceservice/name/device-x",
            "/api/v3/deviceservice/all?offset=0&limit=20",
            "/api/v3/deviceservice/name/device-x"
        ]
    );
}

/// In EdgeX such a client is nil, and whoever uses it crashes.
#[tokio::test]
async fn what_is_not_configured_has_no_client() {
    let mut unset = client(1);
    unset.port = 0;
    for addresses in [BTreeMap::new(), BTreeMap::from([("core-data".to_owned(), unset)])] {
        let clients = Clients::new(&addresses, Generation::V4, wait::LONG).unwrap();
        assert!(clients.events().is_none() && clients.readings().is_none());
        assert!(clients.metadata().is_none() && clients.device_services().is_none());
        assert!(clients.commands().is_none());
        assert!(clients.notifications().is_none() && clients.subscriptions().is_none());
    }
}
