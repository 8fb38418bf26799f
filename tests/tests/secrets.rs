//! No secret leaves the service by any door but the one it is for. Secrets are put wherever one can stand in a
//! configuration, each with a mark of its own; after exports that succeed and exports that fail, everything the service has
//! written and answered is searched for the marks: its log at TRACE, its data folder, REST, the error collection, its metrics
//! on the bus, what the commands print.
//!
//! A payload that a function itself put a secret into is not meant.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use base64_simd::STANDARD;
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Answer, Behaviour, MqttSubscriber, Port, Qos, http};
use serde_json::Value;

use crate::support::{PRIVATE, Service, Stack, refusing, wait_accepted};

/// Says where a secret stands: `m4rk-url-m4rk`.
fn mark(place: &str) -> String {
    format!("{BEGINNING}{place}-m4rk")
}

const BEGINNING: &str = "m4rk-";

/// Everything seen, each piece with the door it came out of.
#[derive(Default)]
struct Seen(Vec<(String, Vec<u8>)>);

impl Seen {
    fn add(&mut self, door: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((door.into(), bytes.into()));
    }

    fn add_output(&mut self, door: &str, output: Output) {
        self.add(format!("{door}: standard output"), output.stdout);
        self.add(format!("{door}: standard error"), output.stderr);
    }

    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            // What the test itself has put there is not the service's.
            if path.is_file() {
                self.add(path.display().to_string(), std::fs::read(&path)?);
            }
        }
        Ok(())
    }

    /// The marks in it, with the lines they are on; also as they stand in an `Authorization` of their own.
    fn marks(&self) -> Vec<String> {
        let credentials = STANDARD.encode_to_string(format!("user:{BEGINNING}"));
        // The last group of base64 depends on what follows.
        let needles = [BEGINNING, &credentials[..credentials.len() - 4]];
        let mut found = Vec::new();
        for (door, bytes) in &self.0 {
            let text = String::from_utf8_lossy(bytes);
            let lines = text
                .lines()
                .filter(|line| needles.iter().any(|needle| line.contains(needle)));
            found.extend(lines.map(|line| format!("{door}: {line}")));
        }
        found
    }
}

/// Weakness 19: the original answers `/config` with secrets in clear and logs overrides of them.
#[tokio::test]
async fn weakness_19_no_secret_is_written_or_answered_anywhere() -> Result<()> {
    // Given a secret in every place where one can stand.
    let mut stack = Stack::new(&[
        ("all-services/MessageBus/Optional/Password", &mark("common-bus")),
        (
            "app-services/Clients/core-command/Host",
            &format!("user:{}@localhost", mark("client")),
        ),
        ("app-services/Clients/core-command/Port", "59882"),
        (
            "all-services/Writable/InsecureSecrets/common/SecretName",
            "common",
        ),
        (
            "all-services/Writable/InsecureSecrets/common/SecretData/password",
            &mark("common-secret"),
        ),
    ])
    .await?;
    let dead_broker = Port::hold()?;
    let good_headers = format!(r#"{{"X-Own":"{}"}}"#, mark("header"));
    let seeded = [
        ("Writable/InsecureSecrets/mine/SecretName", "mine".to_owned()),
        (
            "Writable/InsecureSecrets/mine/SecretData/headervalue",
            mark("header-secret"),
        ),
        (
            "Writable/InsecureSecrets/mine/SecretDatum/password",
            mark("misplaced"),
        ),
        ("Writable/InsecureSecrets/top", mark("misplaced-entry")),
        (
            "Writable/Pipeline/Functions/HTTPExport/Parameters/HeaderName",
            "X-Auth".to_owned(),
        ),
        (
            "Writable/Pipeline/Functions/HTTPExport/Parameters/SecretName",
            "mine".to_owned(),
        ),
        (
            "Writable/Pipeline/Functions/HTTPExport/Parameters/SecretValueKey",
            "headervalue".to_owned(),
        ),
        (
            "Writable/Pipeline/Functions/HTTPExport/Parameters/HttpRequestHeaders",
            good_headers.clone(),
        ),
        (
            "Writable/Pipeline/Functions/MQTTExport/Parameters/BrokerAddress",
            format!(
                "tcp://user:{}@127.0.0.1:{}",
                mark("broker-address"),
                dead_broker.number()
            ),
        ),
        (
            "Writable/Pipeline/Functions/MQTTExport/Parameters/Topic",
            "exported".to_owned(),
        ),
        (
            "Writable/Pipeline/Functions/MQTTExport/Parameters/ClientId",
            "exporter".to_owned(),
        ),
        (
            "Writable/Pipeline/Functions/MQTTExport/Parameters/PersistOnError",
            "true".to_owned(),
        ),
        ("Writable/Pipeline/PerTopicPipelines/mqtt/Id", "mqtt".to_owned()),
        ("Writable/Pipeline/PerTopicPipelines/mqtt/Topics", "#".to_owned()),
        (
            "Writable/Pipeline/PerTopicPipelines/mqtt/ExecutionOrder",
            "MQTTExport".to_owned(),
        ),
        ("MessageBus/Optional/Password", mark("bus")),
        ("ApplicationSettings/ApiToken", mark("application-setting")),
    ];
    let seeded: Vec<_> = seeded
        .iter()
        .map(|(path, value)| (format!("{PRIVATE}{path}"), value.clone()))
        .collect();
    stack.consul.put_all(&seeded).await?;
    let url = |place: &str, port: u16| {
        let (password, key) = (mark(place), mark(&format!("{place}-query")));
        format!("http://user:{password}@127.0.0.1:{port}/export?api_key={key}")
    };
    let good_url = url("url", stack.sink.port());
    stack.service.set_env("WRITABLE_LOGLEVEL", "TRACE");
    stack
        .service
        .set_env("MESSAGEBUS_OPTIONAL_PASSWORD", &mark("environment"));
    stack.service.set_env("CONSUL_HTTP_TOKEN", &mark("consul-token"));
    stack
        .service
        .set_env("WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL", &good_url);

    // When it exports well, with all of them, and reports that on the bus,
    stack.start_service().await?;
    let bus = MqttSubscriber::connect(stack.broker.port(), "edgex/telemetry/#", Qos::AtMostOnce).await?;
    stack
        .set(&[
            ("Telemetry/Interval", "200ms"),
            ("Telemetry/Metrics/HttpExportSize", "true"),
            ("Telemetry/Metrics/HttpExportErrors", "true"),
            ("Telemetry/Metrics/MqttExportErrors", "true"),
        ])
        .await?;
    stack.publish(1..=3).await?;
    wait_accepted(&stack.sink, 1..=3).await;
    let exported = stack.sink.requests().pop().context("it has been exported")?;
    assert_eq!(exported.header("X-Auth"), Some(&*mark("header-secret")));
    assert_eq!(exported.header("X-Own"), Some(&*mark("header")));
    let secret = format!(
        r#"{{"apiVersion":"v3","secretName":"posted","secretData":[{{"key":"password","value":"{}"}}]}}"#,
        mark("posted")
    );
    let mut seen = Seen::default();
    let posted = http::send(
        stack.service.port(),
        "POST",
        "/api/v3/secret",
        &[],
        secret.as_bytes(),
    )
    .await?;
    assert_eq!(posted.status, 201, "{}", posted.text());
    seen.add("POST /api/v3/secret", posted.body);
    let wrong = secret.replace("secretName", "wrongName");
    let refused = http::send(
        stack.service.port(),
        "POST",
        "/api/v3/secret",
        &[],
        wrong.as_bytes(),
    )
    .await?;
    assert_eq!(refused.status, 400);
    seen.add("POST /api/v3/secret", refused.body);

    // and is told wrong things, and its destinations fail until it gives up,
    let line = stack.service.process().line_count();
    stack
        .set(&[
            (
                "Pipeline/Functions/HTTPExport/Parameters/Url",
                &format!("http://user:{}@:no/", mark("bad-url")),
            ),
            ("Pipeline/Functions/HTTPExport/Parameters/Method", "none"),
            (
                "Pipeline/Functions/HTTPExport/Parameters/HttpRequestHeaders",
                &format!(r#""{}""#, mark("bad-header")),
            ),
            (
                "StoreAndForward/RetryInterval",
                &format!("http://user:{}@host", mark("bad-interval")),
            ),
            ("InsecureSecrets/late/SecretData/password", &mark("late-secret")),
        ])
        .await?;
    stack
        .service
        .wait_error(line, "StoreAndForward/RetryInterval")
        .await;
    seen.add(
        "GET /api/v3/config, rejected",
        stack.service.get("/api/v3/config").await?.body,
    );
    stack.sink.script(|_| refusing());
    stack
        .store_and_forward(&[
            ("Pipeline/Functions/HTTPExport/Parameters/Url", &good_url),
            ("Pipeline/Functions/HTTPExport/Parameters/Method", "post"),
            (
                "Pipeline/Functions/HTTPExport/Parameters/HttpRequestHeaders",
                &good_headers,
            ),
            ("StoreAndForward/RetryInterval", "1s"),
            ("StoreAndForward/MaxRetryCount", "1"),
            ("StoreAndForward/Breaker", "off"),
        ])
        .await?;
    stack.publish(4..=6).await?;
    let given_up = "both pipelines to have given up";
    stack
        .service
        .wait_stats(given_up, |stats| stats.store("error") >= 6)
        .await;

    // and one destination breaks off, and another is not there at all,
    stack.sink.script(|_| Behaviour::from(Answer::new(401)));
    stack.publish(7..=7).await?;
    stack
        .service
        .wait_stats("one more", |stats| stats.store("error") >= 8)
        .await;
    let nowhere = url("nowhere", dead_broker.number());
    stack
        .set(&[("Pipeline/Functions/HTTPExport/Parameters/Url", &nowhere)])
        .await?;
    stack
        .service
        .wait_config(
            "/Writable/Pipeline/Functions/HTTPExport/Parameters/Url",
            nowhere
                .replace(&mark("nowhere-query"), "<redacted>")
                .replace(&mark("nowhere"), "<redacted>"),
        )
        .await;
    stack.publish(8..=8).await?;
    stack
        .service
        .wait_stats("the last", |stats| stats.store("error") >= 10)
        .await;

    // then no door shows any of it.
    for target in [
        "/api/v3/config",
        "/api/v3/version",
        "/api/v3/ping",
        "/api/v3/store/stats",
        "/readyz",
        "/none",
    ] {
        seen.add(format!("GET {target}"), stack.service.get(target).await?.body);
    }
    let commands: [&[&str]; 12] = [
        &["config", "check"],
        &["config", "show"],
        &["config", "show", "--origin"],
        &["config", "diff"],
        &[
            "config",
            "get",
            "Writable/InsecureSecrets/mine/SecretData/headervalue",
        ],
        &["settings"],
        &["store", "ls", "--json"],
        &["dead", "ls"],
        &["dead", "ls", "--json", "--limit", "0"],
        &["dead", "show", "1"],
        &["dead", "show", "1", "--json"],
        &["pipeline", "test", "--help"],
    ];
    for words in commands {
        seen.add_output(&words.join(" "), stack.service.run(words)?);
    }
    let metric = "edgex/telemetry/app-http-export/HttpExportSize";
    wait::until("a metric with an address", LONG, async || {
        let heard = bus.messages();
        let found = heard.iter().any(|message| message.topic == metric);
        ensure!(found, "{} metrics have come", heard.len());
        Ok(())
    })
    .await;
    for message in bus.messages() {
        let envelope: Value = serde_json::from_slice(&message.payload)?;
        let payload = envelope["payload"].as_str().context("it is in base64")?;
        seen.add(message.topic, STANDARD.decode_to_vec(payload)?);
    }
    stack.service.stop().await?;
    seen.add("the log", stack.service.process().lines().join("\n"));
    seen.add_folder(stack.service.data_dir())?;

    // Nor does a start that fails for one of them.
    let key = |path: &str| format!("{PRIVATE}{path}");
    let https = [
        (key("HttpServer/Protocol"), "https".to_owned()),
        (key("HttpServer/SecretName"), "mine".to_owned()),
        (key("HttpServer/HTTPSCertName"), "headervalue".to_owned()),
        (key("HttpServer/HTTPSKeyName"), "headervalue".to_owned()),
    ];
    stack.consul.put_all(&https).await?;
    stack.service.spawn()?;
    let status = stack.service.process().wait_exit(LONG).await;
    assert_eq!(status.code(), Some(255), "{}", stack.service.process().tail());
    let lines = stack.service.process().lines().join("\n");
    assert!(
        lines.contains("'headervalue' of secret 'mine' is not a certificate in PEM"),
        "{lines}"
    );
    seen.add("the log of a failed start", lines);
    assert_eq!(seen.marks(), Vec::<String>::new());
    Ok(())
}

/// From files alone, where the environment always counts.
#[tokio::test]
async fn overrides_of_a_start_from_files_show_no_secret() -> Result<()> {
    let service = Service::new()?;
    let folder = service.data_dir().join("res");
    std::fs::create_dir(&folder)?;
    let configuration = format!(
        r#"
Trigger: {{ Type: http }}
MessageBus: {{ Disabled: true }}
Clients: {{ core-metadata: {{ Protocol: http, Host: "user:{}@localhost", Port: 1 }} }}
Writable:
  LogLevel: TRACE
  InsecureSecrets: {{ mine: {{ SecretName: mine, SecretData: {{ password: "{}" }} }} }}
  Pipeline:
    ExecutionOrder: HTTPExport
    Functions: {{ HTTPExport: {{ Parameters: {{ Method: post, MimeType: text/plain, Url: "http://h" }} }} }}
"#,
        mark("client"),
        mark("file"),
    );
    std::fs::write(folder.join("configuration.yaml"), configuration)?;
    let mut service = service
        .flag(&format!("-cd={}", folder.display()))
        .flag("-sk=app-files")
        .env(
            "WRITABLE_INSECURESECRETS_MINE_SECRETDATA_PASSWORD",
            &mark("secret"),
        )
        .env(
            "WRITABLE_INSECURESECRETS_OTHER_SECRETDATA_PASSWORD",
            &mark("no-setting"),
        )
        .env("MESSAGEBUS_OPTIONAL_PASSWORD", &mark("bus"))
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_HTTPREQUESTHEADERS",
            &format!(r#"{{"X-Own":"{}"}}"#, mark("header")),
        )
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL",
            &format!("http://user:{}@127.0.0.1:1/", mark("url")),
        );
    service.start().await?;
    let mut seen = Seen::default();
    let answer = http::send(service.port(), "POST", "/api/v3/trigger", &[], b"{}").await?;
    seen.add("POST /api/v3/trigger", answer.body);
    seen.add("GET /api/v3/config", service.get("/api/v3/config").await?.body);
    service.stop().await?;
    // An override that its setting cannot take ends the start.
    service.set_env(
        "WRITABLE_STOREANDFORWARD_RETRYINTERVAL",
        &format!("http://user:{}@h", mark("bad")),
    );
    seen.add("the log", service.process().lines().join("\n"));
    seen.add_output("a bad override", service.run(&[])?);
    seen.add_folder(service.data_dir())?;
    assert_eq!(seen.marks(), Vec::<String>::new());
    Ok(())
}
