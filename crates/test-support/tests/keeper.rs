//! Holds the stand-in for Core Keeper against what the real one was recorded to answer and to publish, and against what its
//! API description says beyond that.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures::{self, Generation};
use edgehold_test_support::http::Response;
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Behaviour, HttpSink, Keeper, Mosquitto, MqttSubscriber, Qos, http};
use serde_json::{Value, json};

/// Times are other ones at each run.
fn without_times(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, digits) = rest.split_at(at);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        shown.push_str(before);
        shown.push_str(if end == 13 { "0" } else { &digits[..end] });
        rest = &digits[end..];
    }
    shown.push_str(rest);
    match shown.split_once(r#""timestamp":""#) {
        None => shown,
        Some((before, after)) => {
            let (_, after) = after.split_once('"').unwrap_or_default();
            format!(r#"{before}"timestamp":"<date>"{after}"#)
        }
    }
}

/// As in a database, an answer has no order: the rows that were changed stand behind.
fn in_order(text: &str) -> Result<Value> {
    let mut value: Value = serde_json::from_str(text)?;
    if let Some(rows) = value["response"].as_array_mut() {
        rows.sort_by_key(Value::to_string);
    }
    Ok(value)
}

/// Items of an answer with values: each key and its text.
fn items(answer: &Response) -> Vec<(String, String)> {
    let body: Value = answer.json().unwrap_or_default();
    let rows = body["response"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    rows.iter()
        .filter_map(|row| Some((text(&row["key"])?, text(&row["value"])?)))
        .collect()
}

fn registration(id: &str, status: &str, port: u16) -> Vec<u8> {
    let body = json!({"apiVersion": "v3", "requestId": "", "registration": {
        "serviceId": id, "status": status, "host": "localhost", "port": port,
        "HealthCheck": {"interval": "10s", "path": "/api/v3/ping", "type": "http"},
    }});
    body.to_string().into_bytes()
}

#[tokio::test]
async fn a_recorded_start_to_stop_is_answered_as_recorded() -> Result<()> {
    // Given what was there before the service came, as far as it was asked for, and the entry of an earlier run.
    let exchanges = fixtures::exchanges("conn-001").await?;
    ensure!(exchanges.len() > 100, "there are {}", exchanges.len());
    let keeper = Keeper::start().await?;
    let first_write = exchanges.iter().position(|exchange| exchange.method == "PUT");
    for exchange in &exchanges[..first_write.context("something was written")?] {
        for (key, value) in items(&exchange.response) {
            keeper.put(&key, &value).await?;
        }
    }
    for (method, status) in [("POST", ""), ("PUT", "HALT")] {
        let body = registration("app-wire", status, 29771);
        keeper
            .send(method, "/api/v3/registry", &body)
            .await?
            .succeeded()?;
    }
    // And the changes that somebody else made, by the notices of the broker.
    let bus = fixtures::read(Generation::V4, "wire/mqtt/conn-001.s2c")?;
    let mut changes = VecDeque::new();
    for part in String::from_utf8_lossy(&bus)
        .split(r#""payload":{"key":""#)
        .skip(1)
    {
        let (key, rest) = part.split_once('"').context("a key ends")?;
        let (_, rest) = rest.split_once(r#""value":""#).context("a value begins")?;
        let (value, _) = rest.split_once('"').context("a value ends")?;
        changes.push_back((key.to_owned(), value.to_owned()));
    }
    assert_eq!(changes.len(), 3);

    for exchange in exchanges {
        // When a recorded answer knows a change, it was just made.
        for (key, value) in items(&exchange.response) {
            let known = keeper
                .list(&key)
                .into_iter()
                .any(|(at, text)| at == key && text == value);
            if !known {
                assert_eq!(changes.pop_front(), Some((key.clone(), value.clone())));
                keeper.put(&key, &value).await?;
            }
        }
        let headers: Vec<(&str, &str)> = exchange
            .headers
            .iter()
            .filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-corr"))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();

        let answer = http::send(
            keeper.port(),
            &exchange.method,
            &exchange.target,
            &headers,
            &exchange.body,
        )
        .await?;

        let what = format!("{} {}", exchange.method, exchange.target);
        let recorded = exchange.response;
        assert_eq!(answer.status, recorded.status, "{what}");
        for header in ["Content-Type", "X-Correlation-Id"] {
            assert_eq!(answer.header(header), recorded.header(header), "{what}");
        }
        let (answered, recorded) = (without_times(&answer.text()), without_times(&recorded.text()));
        assert_eq!(answered.ends_with('\n'), recorded.ends_with('\n'), "{what}");
        if recorded.contains("\"response\":[") {
            assert_eq!(in_order(&answered)?, in_order(&recorded)?, "{what}");
        } else {
            assert_eq!(answered, recorded, "{what}");
        }
    }
    assert_eq!(changes, [], "all were seen");
    Ok(())
}

#[tokio::test]
async fn recorded_questions_are_answered_as_recorded() -> Result<()> {
    let keeper = Keeper::start().await?;
    let read = |name: &str| {
        let body = fixtures::read(Generation::V4, &format!("keeper/{name}.body"))?;
        anyhow::Ok(String::from_utf8(body.to_vec())?)
    };
    let dump: Value = serde_json::from_str(&read("kvs-edgex-plaintext")?)?;
    for row in dump["response"].as_array().context("a list of keys")? {
        let text = |name: &str| row[name].as_str().context("a text");
        keeper.put(text("key")?, text("value")?).await?;
    }
    for (id, port) in [
        ("core-metadata", 49881),
        ("core-data", 49880),
        ("core-command", 49882),
        ("device-virtual", 49900),
        ("app-http-export", 49704),
    ] {
        for (method, status) in [("POST", ""), ("PUT", "UP")] {
            let body = registration(id, status, port);
            keeper
                .send(method, "/api/v3/registry", &body)
                .await?
                .succeeded()?;
        }
    }

    let interval =
        "edgex/v4/core-common-config-bootstrapper/app-services/Writable/StoreAndForward/RetryInterval";
    for (name, target) in [
        ("ping", "ping"),
        ("version", "version"),
        ("kvs-edgex", "kvs/key/edgex"),
        ("kvs-edgex-plaintext", "kvs/key/edgex?plaintext=true"),
        ("kvs-edgex-keyonly", "kvs/key/edgex?keyOnly=true"),
        (
            "kvs-app-http-export-plaintext",
            "kvs/key/edgex%2Fv4%2Fapp-http-export?plaintext=true",
        ),
        ("kvs-single-retryinterval", &format!("kvs/key/{interval}")),
        ("kvs-absent", "kvs/key/edgex/v4/app-none"),
        ("registry-all", "registry/all"),
        ("registry-all-deregistered", "registry/all?deregistered=true"),
        ("registry-app-http-export", "registry/serviceId/app-http-export"),
        ("registry-absent", "registry/serviceId/app-none"),
    ] {
        let answer = keeper.send("GET", &format!("/api/v3/{target}"), b"").await?;
        let headers = fixtures::read(Generation::V4, &format!("keeper/{name}.headers"))?;
        let headers = String::from_utf8_lossy(&headers).into_owned();
        let status = headers.split(' ').nth(1).context("a status")?;
        assert_eq!(answer.status.to_string(), status, "{name}");
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        assert_eq!(
            without_times(&answer.text()),
            without_times(&read(name)?),
            "{name}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_change_is_told_to_the_broker_as_recorded() -> Result<()> {
    let broker = Mosquitto::start().await?;
    let subscriber = MqttSubscriber::connect(broker.port(), "edgex/configs/#", Qos::AtLeastOnce).await?;
    let keeper = Keeper::with_mqtt(broker.port()).await?;
    let recorded: Vec<_> = fixtures::messages(Generation::V4)?
        .into_iter()
        .filter(|message| message.topic.starts_with("edgex/configs/"))
        .collect();
    ensure!(recorded.len() > 10, "there are {}", recorded.len());

    for message in &recorded {
        let envelope: Value = serde_json::from_slice(&message.payload)?;
        let text = |place: &str| envelope.pointer(place).and_then(Value::as_str).context("a text");
        let target = format!("/api/v3/kvs/key/{}", text("/payload/key")?);
        let body = json!({"value": text("/payload/value")?}).to_string();
        let correlation = [("X-Correlation-ID", text("/correlationID")?)];
        let put = http::send(keeper.port(), "PUT", &target, &correlation, body.as_bytes()).await?;
        put.succeeded()?;
    }

    let told = subscriber.wait_for(recorded.len(), LONG).await;
    for (told, recorded) in told.iter().zip(&recorded) {
        assert_eq!(told.topic, recorded.topic);
        assert_eq!(
            String::from_utf8_lossy(&told.payload),
            String::from_utf8_lossy(&recorded.payload)
        );
    }

    // What is deleted has no value, and what is flattened is told as one.
    keeper.put_all("a", &[("b/c", "1"), ("d", "2")]).await?;
    keeper.delete("a", true).await?;
    let payload = |index: usize| {
        let notice: Value = serde_json::from_str(&keeper.notices()[index].payload).unwrap_or_default();
        notice["payload"].clone()
    };
    let zero = |mut value: Value| {
        value["Created"] = 0.into();
        value["Modified"] = 0.into();
        value
    };
    assert_eq!(
        payload(recorded.len()),
        zero(json!({"key": "a", "value": {"b": {"c": "1"}, "d": "2"}}))
    );
    assert_eq!(payload(recorded.len() + 1), zero(json!({"key": "a"})));
    subscriber.wait_for(recorded.len() + 2, LONG).await;
    Ok(())
}

#[tokio::test]
async fn keys_are_written_found_and_deleted_as_described() -> Result<()> {
    let keeper = Keeper::start().await?;
    let status = async |method: &str, target: &str, body: Value| {
        let target = format!("/api/v3/kvs/key/{target}");
        let body = body.to_string();
        anyhow::Ok(keeper.send(method, &target, body.as_bytes()).await?.status)
    };
    for refused in [json!({"value": null}), json!({}), json!({"value": {}})] {
        assert_eq!(status("PUT", "a/b", refused).await?, 400);
    }
    for key in ["sp%20ace", "a%2Bb", "%C3%BC", "a%25"] {
        assert_eq!(status("PUT", key, json!({"value": "1"})).await?, 400, "{key}");
        assert_eq!(status("GET", key, json!({})).await?, 400, "{key}");
    }
    assert_eq!(
        status("PUT", "a?flatten=perhaps", json!({"value": "1"})).await?,
        400
    );
    assert_eq!(status("PUT", "a/number", json!({"value": 5})).await?, 200);
    assert_eq!(status("PUT", "a/truth", json!({"value": true})).await?, 200);
    assert_eq!(status("PUT", "a/whole", json!({"value": {"b": 1}})).await?, 200);
    let tree = json!({"value": {"x": {"y": "1", "empty": {}}, "//z/../w": "2", "sp ace": "3"}});
    assert_eq!(status("PUT", "a/tree?flatten=true", tree).await?, 200);
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let owned = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        owned.collect()
    };
    let mut listed = keeper.list("a");
    listed.sort();
    assert_eq!(
        listed,
        pairs(&[
            ("a/number", "5"),
            ("a/tree/sp ace", "3"),
            ("a/tree/w", "2"),
            ("a/tree/x/y", "1"),
            ("a/truth", "true"),
            ("a/whole", r#"{"b":1}"#),
        ])
    );

    // A prefix is one of whole levels.
    keeper.put("a/numbers", "no").await?;
    assert_eq!(keeper.list("a/number"), pairs(&[("a/number", "5")]));

    keeper.put("a/tree", "both").await?;
    assert_eq!(status("DELETE", "a/tree", json!({})).await?, 409);
    assert_eq!(
        keeper.list("a/tree").len(),
        3,
        "the key itself is gone all the same"
    );
    assert_eq!(status("DELETE", "a/tree?prefixMatch=true", json!({})).await?, 200);
    assert_eq!(status("DELETE", "a/tree", json!({})).await?, 404);
    Ok(())
}

#[tokio::test]
async fn a_service_is_up_once_it_answers_and_is_hidden_after_its_end() -> Result<()> {
    let mut keeper = Keeper::start().await?;
    let service = HttpSink::start().await?;
    let mut body: Value = serde_json::from_slice(&registration("app-x", "", service.port()))?;
    body["registration"]["HealthCheck"]["interval"] = "200ms".into();
    let text = body.to_string();
    let register = async |keeper: &Keeper, method: &str, text: &str| {
        anyhow::Ok(
            keeper
                .send(method, "/api/v3/registry", text.as_bytes())
                .await?
                .status,
        )
    };
    assert_eq!(register(&keeper, "PUT", &text).await?, 404);
    assert_eq!(register(&keeper, "POST", &text).await?, 201);
    assert_eq!(register(&keeper, "POST", &text).await?, 409);
    assert_eq!(keeper.services()[0]["status"], "UNKNOWN");
    wait::until("it is up", LONG, async || keeper.services()[0]["status"] == "UP").await;
    service.behave(Behaviour::status(500));
    wait::until("it is down", LONG, async || {
        keeper.services()[0]["status"] == "DOWN"
    })
    .await;

    // It is remembered across a restart, and asked again.
    keeper.stop().await;
    service.behave(Behaviour::status(200));
    keeper.restart().await?;
    wait::until("it is up", LONG, async || keeper.services()[0]["status"] == "UP").await;

    body["registration"]["status"] = "HALT".into();
    assert_eq!(register(&keeper, "PUT", &body.to_string()).await?, 204);
    let all = keeper.send("GET", "/api/v3/registry/all", b"").await?;
    assert_eq!(all.json::<Value>()?["totalCount"], 0);
    let found = keeper
        .send("GET", "/api/v3/registry/serviceId/app-x", b"")
        .await?;
    assert_eq!(found.json::<Value>()?["registration"]["status"], "HALT");
    assert!(keeper.forget("app-x"));
    Ok(())
}

#[tokio::test]
async fn it_can_be_away_slow_frozen_broken_and_closed_to_strangers() -> Result<()> {
    let mut keeper = Keeper::start().await?;
    let ping = async |keeper: &Keeper| keeper.send("GET", "/api/v3/ping", b"").await;
    keeper.put("a", "1").await?;

    keeper.require_token("t0ken");
    assert_eq!(ping(&keeper).await?.status, 200, "ping is open");
    assert_eq!(keeper.send("GET", "/api/v3/kvs/key/a", b"").await?.status, 401);
    let shown = [("Authorization", "Bearer t0ken")];
    let answer = http::send(keeper.port(), "GET", "/api/v3/kvs/key/a", &shown, b"").await?;
    assert_eq!(answer.status, 200);

    keeper.fault(Some(Behaviour::status(500)));
    assert_eq!(ping(&keeper).await?.status, 500);
    keeper.fault(Some(Behaviour::Reset));
    assert!(ping(&keeper).await.is_err());
    keeper.fault(Some(Behaviour::Hang));
    let frozen = tokio::time::timeout(Duration::from_millis(50), ping(&keeper)).await;
    assert!(frozen.is_err());
    keeper.fault(None);
    keeper.slow(Duration::from_millis(50));
    let begun = tokio::time::Instant::now();
    ping(&keeper).await?;
    assert!(begun.elapsed() >= Duration::from_millis(50));

    keeper.stop().await;
    assert!(ping(&keeper).await.is_err());
    keeper.restart().await?;
    ping(&keeper).await?;
    assert_eq!(keeper.list("a").len(), 1);
    Ok(())
}
