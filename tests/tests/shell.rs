//! The shell around the main job: command line, REST, registration, start and end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Answer, Authority, Behaviour, http};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    END, PRIVATE, SERVICE_KEY, Service, Stack, accepted, each, https_settings, publish, refusing,
    wait_accepted,
};

/// What the service allows itself for its end.
const GRACE: Duration = Duration::from_secs(8);

#[test]
fn weakness_25_a_wrong_call_fails_and_says_where_the_usage_is() -> Result<()> {
    let service = Service::new()?;
    let calls: [&[&str]; 4] = [
        &["--no-such-flag"],
        &["no-such-command"],
        &["store", "fly"],
        &["-cd"],
    ];
    for words in calls {
        let output = service.run(words)?;

        let (printed, told) = (
            String::from_utf8(output.stdout)?,
            String::from_utf8(output.stderr)?,
        );
        assert!(!output.status.success(), "{words:?} ended with {}", output.status);
        assert!(
            told.contains(words[words.len() - 1].trim_start_matches('-')),
            "{words:?}: {told}"
        );
        assert!(
            told.contains("-h lists all flags") || told.contains("--help' lists"),
            "{words:?} names no usage: {told}"
        );
        assert_eq!(printed, "", "{words:?}");
    }
    Ok(())
}

#[test]
fn help_is_a_success() -> Result<()> {
    for flag in ["--help", "-h"] {
        let output = Service::new()?.run(&[flag])?;

        assert!(output.status.success(), "{flag} ended with {}", output.status);
        let printed = String::from_utf8(output.stdout)?;
        assert!(
            printed.contains("--configProvider") && printed.contains("--data-dir"),
            "{printed}"
        );
    }
    Ok(())
}

#[test]
fn a_broken_file_is_named_and_ends_the_start() -> Result<()> {
    let service = Service::new()?;
    let folder = service.data_dir().join("res");
    std::fs::create_dir(&folder)?;
    let service = service.flag(&format!("-cd={}", folder.display()));
    let contents = [
        ("absent", None),
        ("broken", Some("Writable:\n  LogLevel: [unclosed\n")),
    ];
    for (name, content) in contents {
        if let Some(content) = content {
            std::fs::write(folder.join("configuration.yaml"), content)?;
        }

        let output = service.run(&[])?;

        let told = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        assert!(
            told.contains("configuration.yaml") && told.contains("level=ERROR"),
            "{name}: {told}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_operators_look_for_in_the_log_is_in_the_originals_words() -> Result<()> {
    // Given a service that starts with Store and Forward switched on.
    let mut stack = Stack::new(&[]).await?;
    stack
        .set(&[
            ("StoreAndForward/Enabled", "true"),
            ("StoreAndForward/RetryInterval", "3s"),
        ])
        .await?;
    stack.start_service().await?;

    // When it is set anew, gets another pipeline, and ends.
    let url = stack.sink.url("/moved");
    stack
        .set(&[
            ("StoreAndForward/RetryInterval", "2s"),
            ("Pipeline/Functions/HTTPExport/Parameters/Url", &url),
        ])
        .await?;
    let reloaded = "Configurable Pipeline successfully reloaded from new configuration";
    stack.service.process().wait_for_line(reloaded, LONG).await;
    stack.service.stop().await?;

    // Then each of these has been logged, in this order.
    let texts = [
        "Starting app-http-export 3.1.1",
        "Common configuration loaded from the Configuration Provider",
        "Private configuration has been pushed to into Configuration Provider with overrides applied",
        "Subscribing to topic: edgex/events/#",
        "Starting HTTP Web Server on address ",
        "Service started in: ",
        "Starting StoreAndForward Retry Loop with 3s RetryInterval and 10 max retries",
        "listening for private config changes",
        "listening for all services common config changes",
        "listening for application service common config changes",
        "Writable configuration has been updated from the Configuration Provider",
        "StoreAndForward RetryInterval changed to 2s",
        reloaded,
        "Terminating signal received: terminated",
        "Un-Registering service from the Registry",
    ];
    let lines = stack.service.process().lines();
    let mut rest = lines.iter();
    for text in texts {
        assert!(
            rest.any(|line| line.contains(text)),
            "no {text:?} where it belongs in\n{}",
            lines.join("\n")
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_standard_routes_answer_as_edgex_does() -> Result<()> {
    let stack = Stack::start(&[]).await?;

    let ping = stack.service.get("/api/v3/ping").await?.succeeded()?;
    assert_eq!(ping.header("Content-Type"), Some("application/json"));
    let ping: Value = ping.json()?;
    assert_eq!(
        (&ping["apiVersion"], &ping["serviceName"]),
        (&"v3".into(), &SERVICE_KEY.into())
    );
    assert!(ping["timestamp"].is_string(), "{ping}");

    let version: Value = stack.service.get("/api/v3/version").await?.succeeded()?.json()?;
    assert_eq!(version["serviceName"], SERVICE_KEY);
    for key in ["version", "sdk_version"] {
        ensure!(
            version[key]
                .as_str()
                .is_some_and(|text| text.trim_start_matches('v').starts_with("3.1")),
            "{version}"
        );
    }

    let config: Value = stack.service.get("/api/v3/config").await?.succeeded()?.json()?;
    assert_eq!(config["serviceName"], SERVICE_KEY);
    assert_eq!(config["config"]["Service"]["Port"], stack.service.port());
    assert_eq!(
        config["config"]["Writable"]["Pipeline"]["ExecutionOrder"],
        "HTTPExport"
    );

    let unknown = stack.service.get("/api/v3/nothing").await?;
    assert_eq!(
        (unknown.status, unknown.text().trim_end()),
        (404, r#"{"message":"Not Found"}"#)
    );
    Ok(())
}

#[tokio::test]
async fn weakness_19_secrets_appear_neither_in_the_configuration_shown_nor_in_the_log() -> Result<()> {
    // Given secrets from the file, from the environment at seeding, and from Consul while running, at every log level.
    let mut stack = Stack::new(&[]).await?;
    let at_start = "secret-of-the-environment";
    stack.service = stack
        .service
        .env("WRITABLE_INSECURESECRETS_HTTP_SECRETDATA_HEADERVALUE", at_start);
    stack.start_service().await?;
    stack.store_and_forward(&[("LogLevel", "TRACE")]).await?;
    let (changed, of_the_bus) = ("secret-that-was-changed", "secret-that-was-added");
    stack
        .set(&[
            ("InsecureSecrets/http/SecretData/headervalue", changed),
            ("InsecureSecrets/added/SecretName", "added"),
            ("InsecureSecrets/added/SecretData/password", of_the_bus),
            ("Pipeline/Functions/HTTPExport/Parameters/HeaderName", "X-Secret"),
            ("Pipeline/Functions/HTTPExport/Parameters/SecretName", "http"),
            (
                "Pipeline/Functions/HTTPExport/Parameters/SecretValueKey",
                "headervalue",
            ),
        ])
        .await?;
    stack
        .service
        .wait_config("/Writable/InsecureSecrets/added/SecretName", "added")
        .await;

    // When one is used, and an export with it fails.
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;
    assert_eq!(stack.sink.requests()[0].header("X-Secret"), Some(changed));
    stack.sink.behave(Behaviour::Reset);
    stack.publish(2..=2).await?;
    stack
        .service
        .wait_stats("the second to be stored", |stats| stats.store("failed") == 1)
        .await;
    let shown = stack.service.get("/api/v3/config").await?.succeeded()?.text();
    stack.service.stop().await?;

    // Then none of them is seen, nor the key of the profile's file.
    let log = stack.service.process().lines().join("\n");
    assert!(
        log.contains("level=TRACE") || log.contains("level=DEBUG"),
        "the level was not raised"
    );
    let of_the_file = "217A24432646294A404E635266556A586E3272357538782F413F442A472D4B61";
    for secret in [at_start, changed, of_the_bus, of_the_file] {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
        assert!(!log.contains(secret), "{secret} is logged");
    }
    Ok(())
}

#[tokio::test]
async fn it_is_registered_while_it_runs_and_passes_its_check() -> Result<()> {
    // Given a check that comes often, so that a passing one can be waited for.
    let mut stack = Stack::start(&[("all-services/Service/HealthCheckInterval", "1s")]).await?;

    // When it runs, then Consul knows it with its port, and its check passes.
    let service = wait::until("the registration", LONG, async || {
        let services = stack.consul.services().await?;
        let service = services.get(SERVICE_KEY).cloned();
        service.with_context(|| format!("there are {services}"))
    })
    .await;
    assert_eq!(service["Service"], SERVICE_KEY);
    assert_eq!(service["Port"], stack.service.port());
    wait::until("a passing check", LONG, async || {
        let checks = stack.consul.checks().await?;
        let mut checks_of_ours = checks
            .as_object()
            .into_iter()
            .flat_map(|checks| checks.values())
            .filter(|check| check["ServiceID"] == SERVICE_KEY);
        ensure!(
            checks_of_ours.any(|check| check["Status"] == "passing"),
            "they are {checks}"
        );
        Ok(())
    })
    .await;

    // And after SIGTERM it is gone.
    stack.service.stop().await?;
    assert_eq!(stack.consul.services().await?.get(SERVICE_KEY), None);
    Ok(())
}

#[tokio::test]
async fn an_export_in_flight_at_the_end_is_stored_and_leaves_after_the_next_start() -> Result<()> {
    // Given an export that hangs.
    let mut stack = Stack::start_storing(&[]).await?;
    stack.sink.behave(Behaviour::Hang);
    stack.publish(1..=3).await?;
    stack.sink.wait_for(3, LONG).await;

    // When the service is asked to end, then it does so in time and in good order, with the events in the store.
    stack.service.stop().await?;
    assert_eq!(stack.service.store_count()?, 3);

    // And they leave after the next start, without coming again from the broker.
    stack.sink.take();
    stack.sink.behave(Behaviour::status(200));
    stack.start_service().await?;
    wait_accepted(&stack.sink, 1..=3).await;
    stack
        .service
        .wait_stats("the store to be empty", |stats| stats.store("waiting") == 0)
        .await;
    assert_eq!(accepted(&stack.sink), each(1..=3, 1));
    assert_eq!(stack.service.stats().await?.books("received"), 0);
    Ok(())
}

#[tokio::test]
async fn at_the_end_what_hangs_or_fails_under_load_is_stored_in_time_and_nothing_is_missing_afterwards()
-> Result<()> {
    // Given load, and a destination that hangs, fails and answers in turn, with several exports in flight.
    let mut stack = Stack::start_storing(&[("StoreAndForward/RetryInterval", "1s")]).await?;
    let mut count = 0;
    stack.sink.script(move |_| {
        count += 1;
        match count % 3 {
            0 => Behaviour::Hang,
            1 => refusing(),
            _ => Behaviour::status(200),
        }
    });
    stack.publish(1..=100).await?;
    stack.sink.wait_for(60, LONG).await;

    // When the service is asked to end while more comes, then it does so within its grace time and in good order.
    let told = Instant::now();
    let (stopped, published) = tokio::join!(stack.service.stop(), publish(stack.broker.port(), 101..=200));
    let took = told.elapsed();
    stopped?;
    published?;
    assert!(took < GRACE, "it took {took:?}");

    // And whatever it had acknowledged by then leaves after the next start, like everything else.
    stack.sink.behave(Behaviour::status(200));
    stack.start_service().await?;
    wait_accepted(&stack.sink, 1..=200).await;
    stack.service.wait_nothing_left().await;
    Ok(())
}

#[tokio::test]
async fn an_export_in_flight_at_the_end_is_finished_when_its_destination_answers() -> Result<()> {
    // Given an export whose answer takes a while.
    let mut stack = Stack::start_storing(&[]).await?;
    let slow = Answer::new(200).after(Duration::from_secs(1));
    stack.sink.behave(slow.into());
    stack.publish(1..=3).await?;
    stack.sink.wait_for(3, LONG).await;

    // When the service is asked to end meanwhile, then it waits for the answer and stores nothing.
    stack.service.stop().await?;
    assert_eq!(accepted(&stack.sink), each(1..=3, 1));
    assert_eq!(stack.service.store_count()?, 0);
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_it_while_it_waits_for_its_configuration() -> Result<()> {
    let mut stack = Stack::new(&[]).await?;
    stack.consul.stop().await?;
    stack.service.spawn()?;
    stack
        .service
        .process()
        .wait_for_line("waiting for the configuration provider", LONG)
        .await;

    stack.service.process().signal_term()?;

    stack.service.process().wait_exit(END).await;
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_named_and_ends_the_start() -> Result<()> {
    // Given two services with one port.
    let mut first = Stack::start(&[]).await?;
    let port = first.service.port().to_string();
    let mut second = Service::http_export(&first.consul, &first.sink.url("/"))?.env("SERVICE_PORT", &port);
    second = second.flag("-sk=app-second");

    // When the second starts, then it ends, naming the address, and the first goes on.
    second.spawn()?;
    let status = second.process().wait_exit(LONG).await;
    assert!(!status.success());
    second.process().wait_for_line(&format!(":{port}"), LONG).await;
    assert!(first.service.process().is_running()?);
    first.publish(1..=1).await?;
    wait_accepted(&first.sink, 1..=1).await;
    Ok(())
}

#[tokio::test]
async fn the_log_has_the_time_its_generation_shows() -> Result<()> {
    // Given a zone east of Greenwich.
    for (generation, offset) in [("3", "Z"), ("4", "+05:30")] {
        let mut service = Service::new()?
            .env("EDGEHOLD_GENERATION", generation)
            .env("TZ", "XST-5:30");

        // When it starts, then EdgeX 3 shows UTC and EdgeX 4 local time.
        service.spawn()?;
        let line = service.process().wait_for_line("msg=\"Starting ", LONG).await;
        assert!(line.contains(&format!("{offset} app=")), "{line}");
    }
    Ok(())
}

/// Weakness 20: the original adds an entry beside the one that carries the name, and then finds either.
#[tokio::test]
async fn weakness_20_a_posted_secret_is_used_by_the_running_service_and_stands_once() -> Result<()> {
    // Given an export with a secret in its header, in an entry of another name.
    let mut stack = Stack::new(&[]).await?;
    stack
        .set(&[
            ("InsecureSecrets/OTHER/SecretName", "mine"),
            ("InsecureSecrets/OTHER/SecretData/headervalue", "old"),
            ("Pipeline/Functions/HTTPExport/Parameters/HeaderName", "X-Auth"),
            ("Pipeline/Functions/HTTPExport/Parameters/SecretName", "mine"),
            (
                "Pipeline/Functions/HTTPExport/Parameters/SecretValueKey",
                "headervalue",
            ),
        ])
        .await?;
    stack.start_service().await?;
    stack.publish([1]).await?;
    wait_accepted(&stack.sink, [1]).await;

    // When it is posted.
    let body =
        br#"{"apiVersion":"v3","secretName":"mine","secretData":[{"key":"headervalue","value":"new"}]}"#;
    let answer = http::send(stack.service.port(), "POST", "/api/v3/secret", &[], body).await?;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (201, r#"{"apiVersion":"v3","statusCode":201}"#)
    );

    // Then exports have it without a restart, and it stands where it stood.
    let mut number = 1;
    wait::until("an export with the new secret", LONG, async || {
        number += 1;
        stack.publish([number]).await?;
        wait_accepted(&stack.sink, [number]).await;
        let last = stack.sink.requests().pop().context("there is one")?;
        ensure!(last.header("X-Auth") == Some("new"), "{last:?}");
        Ok(())
    })
    .await;
    let folder = format!("{PRIVATE}Writable/InsecureSecrets/");
    let mut keys = stack.consul.list(&folder).await?;
    keys.retain(|(_, value)| matches!(&**value, b"mine" | b"new" | b"old"));
    let keys: Vec<_> = keys
        .iter()
        .map(|(key, value)| (key.trim_start_matches(&folder), &**value))
        .collect();
    assert_eq!(
        keys,
        [
            ("OTHER/SecretData/headervalue", &b"new"[..]),
            ("OTHER/SecretName", b"mine")
        ]
    );
    stack.service.stop().await
}

#[tokio::test]
async fn https_is_served_from_a_secret_and_a_renewed_one_counts_at_once() -> Result<()> {
    // Given a service whose certificate is in a secret of Consul.
    let (old, new) = (Authority::new()?, Authority::new()?);
    let mut stack = Stack::new(&[]).await?;
    let certificate = old.issue("127.0.0.1")?;
    stack.consul.put_all(&https_settings(&certificate)).await?;
    stack.service.spawn()?;
    let port = stack.service.port();
    let answers = async |authority: &Authority| {
        let answer = http::send_tls(port, authority, "GET", "/api/v3/ping", b"").await?;
        answer.succeeded().map(drop)
    };
    wait::until("an answer over TLS", LONG, async || answers(&old).await).await;

    // When it is renewed, through the service itself, over TLS.
    let renewed = new.issue("127.0.0.1")?;
    let secret = json!({
        "apiVersion": "v3", "secretName": "web",
        "secretData": [{ "key": "cert", "value": renewed.pem }, { "key": "key", "value": renewed.key }],
    });
    let posted = http::send_tls(
        port,
        &old,
        "POST",
        "/api/v3/secret",
        secret.to_string().as_bytes(),
    )
    .await?;
    assert_eq!(posted.status, 201, "{}", posted.text());

    // Then the next connections have it.
    wait::until("an answer with the new certificate", LONG, async || {
        answers(&new).await
    })
    .await;
    assert!(answers(&old).await.is_err());
    stack.service.stop().await
}
