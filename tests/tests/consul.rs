//! Consul around the real binary: the rights of secure mode, TLS, a registry that forgets, and the registry as the place
//! where others are found.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgehold_test_support::wait::{self, LONG};
use edgehold_test_support::{Authority, Consul, HttpSink};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{COMMON, PRIVATE, SERVICE_KEY, Service, Stack, broker, seed_common, wait_accepted};

/// A check that comes often, so that what it leads to can be waited for.
const OFTEN: (&str, &str) = ("all-services/Service/HealthCheckInterval", "1s");

/// What EdgeX 3 grants to the role of a service in secure mode.
const EDGEX_RULES: &str = r#"
    key_prefix "edgex/v3/app-http-export" { policy = "write" }
    key_prefix "edgex/v3/core-common-config-bootstrapper" { policy = "read" }
    service "app-http-export" { policy = "write" }
    service_prefix "" { policy = "read" }
    node "" { policy = "read" }
    node_prefix "edgex" { policy = "write" }
"#;

/// Everything around a service, with a Consul of the test's own.
async fn stack_around(consul: Consul, common: &[(&str, &str)]) -> Result<Stack> {
    let broker = broker().await?;
    let sink = HttpSink::start().await?;
    seed_common(&consul, broker.port(), common).await?;
    let service = Service::http_export(&consul, &sink.url("/export"))?;
    Ok(Stack {
        service,
        sink,
        broker,
        consul,
    })
}

/// Waits until both checks of the service pass.
async fn wait_for_passing_checks(consul: &Consul) {
    wait::until("both checks to pass", LONG, async || {
        let checks = consul.checks().await?;
        for id in [SERVICE_KEY.to_owned(), format!("{SERVICE_KEY}:ready")] {
            ensure!(checks[&id]["Status"] == "passing", "the checks are {checks}");
            ensure!(checks[&id]["ServiceID"] == SERVICE_KEY, "the checks are {checks}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_service_goes_on_when_its_token_is_revoked_and_replaced() -> Result<()> {
    // Given a Consul that denies everything but what EdgeX grants a service, and a token in a file.
    let consul = Consul::builder().master_token("the-root-token").start().await?;
    let mut stack = stack_around(consul, &[OFTEN]).await?;
    stack.consul.set_policy("app", EDGEX_RULES).await?;
    let first = stack.consul.new_token("app").await?;
    let folder = TempDir::new()?;
    let path = folder.path().join("token");
    fs::write(&path, &first.secret)?;
    stack.service = stack
        .service
        .env("CONSUL_HTTP_TOKEN_FILE", &path.to_string_lossy());

    // Then it seeds, runs, and is registered.
    stack.start_service().await?;
    wait_for_passing_checks(&stack.consul).await;
    stack.set(&[("StoreAndForward/MaxRetryCount", "21")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxRetryCount", 21)
        .await;

    // When the token is revoked, and replaced a while later, then nothing is reset, and changes arrive again.
    let before = stack.service.process().line_count();
    stack.consul.revoke(&first).await?;
    stack.set(&[("StoreAndForward/MaxRetryCount", "22")]).await?;
    stack
        .service
        .process()
        .wait_for_line_after(before, "denies access", LONG)
        .await;
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;
    fs::write(&path, stack.consul.new_token("app").await?.secret)?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxRetryCount", 22)
        .await;
    let lines = stack.service.process().lines();
    let since = &lines[before..];
    for forbidden in ["have vanished", "successfully reloaded", first.secret.as_str()] {
        assert!(
            !since.iter().any(|line| line.contains(forbidden)),
            "{forbidden:?} in {since:#?}"
        );
    }

    // And at its end it may take itself out of the registry.
    stack.service.stop().await?;
    assert_eq!(stack.consul.services().await?.get(SERVICE_KEY), None);
    Ok(())
}

#[tokio::test]
async fn configuration_and_registry_may_be_behind_tls() -> Result<()> {
    let authority = Authority::new()?;
    let certificate = authority.issue("localhost")?;
    let consul = Consul::builder()
        .mutual_tls(&authority, &certificate)
        .start()
        .await?;
    let https = consul.https_port().to_string();
    let common = [
        OFTEN,
        ("all-services/Registry/Host", "localhost"),
        ("all-services/Registry/Port", &https),
    ];
    let mut stack = stack_around(consul, &common).await?;
    let folder = TempDir::new()?;
    let client = authority.issue("app-http-export")?;
    let mut service = stack
        .service
        .flag(&format!("-cp=consul.https://localhost:{https}"));
    for (variable, text) in [
        ("CONSUL_CACERT", authority.pem()),
        ("CONSUL_CLIENT_CERT", &client.pem),
        ("CONSUL_CLIENT_KEY", &client.key),
    ] {
        let path = folder.path().join(variable);
        fs::write(&path, text)?;
        service = service.env(variable, &path.to_string_lossy());
    }
    stack.service = service;

    stack.start_service().await?;

    wait_for_passing_checks(&stack.consul).await;
    stack.set(&[("StoreAndForward/MaxRetryCount", "21")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxRetryCount", 21)
        .await;
    stack.service.stop().await?;
    assert_eq!(stack.consul.services().await?.get(SERVICE_KEY), None);
    Ok(())
}

/// §12, 26, and a prefix that vanishes.
#[tokio::test]
async fn a_consul_that_comes_back_empty_is_told_again_and_changes_nothing() -> Result<()> {
    // Given a running service with a setting of its own.
    let mut stack = Stack::start(&[OFTEN]).await?;
    wait_for_passing_checks(&stack.consul).await;
    stack.set(&[("StoreAndForward/MaxRetryCount", "21")]).await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxRetryCount", 21)
        .await;

    // When Consul loses everything, then the service is registered again, says what has vanished, and keeps it.
    stack.consul.restart_empty().await?;
    stack.service.wait_error(0, "have vanished").await;
    wait_for_passing_checks(&stack.consul).await;
    stack.publish(1..=1).await?;
    wait_accepted(&stack.sink, 1..=1).await;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxRetryCount", 21)
        .await;

    // And when keys are there again, they have the say.
    let key = |path: &str| format!("{PRIVATE}Writable/{path}");
    stack
        .consul
        .txn(&[
            (key("StoreAndForward/MaxRetryCount"), "22".to_owned()),
            (key("Pipeline/ExecutionOrder"), "HTTPExport".to_owned()),
            (
                key("Pipeline/Functions/HTTPExport/Parameters/Url"),
                stack.sink.url("/again"),
            ),
        ])
        .await?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxRetryCount", 22)
        .await;
    stack.service.stop().await
}

/// §12, 26: EdgeX leaves the entry behind.
#[tokio::test]
async fn a_service_that_cannot_go_on_takes_itself_out_of_the_registry() -> Result<()> {
    // Given a trigger that gives up when its broker does not come.
    let consul = Consul::start().await?;
    let nobody = edgehold_test_support::Port::hold()?;
    let settings = json!({
        "Writable": {"Pipeline": {
            "TargetType": "raw",
            "ExecutionOrder": "SetResponseData",
            "Functions": {"SetResponseData": {"Parameters": {"ResponseContentType": ""}}},
        }},
        "Service": {"Host": "127.0.0.1"},
        "Registry": {"Host": "127.0.0.1", "Port": consul.port(), "Type": "consul"},
        "MessageBus": {"Disabled": true},
        "Trigger": {
            "Type": "external-mqtt",
            "SubscribeTopics": "in/#",
            "ExternalMqtt": {
                "Url": format!("tcp://127.0.0.1:{}", nobody.number()),
                "ClientId": "x", "AuthMode": "none", "RetryDuration": 5, "RetryInterval": 1,
            },
        },
    });
    let folder = TempDir::new()?;
    fs::write(folder.path().join("configuration.yaml"), settings.to_string())?;
    let mut service = Service::new()?
        .flag("--registry")
        .flag("-sk=app-lost")
        .flag(&format!("-cd={}", folder.path().display()));

    service.spawn()?;
    wait::until("the registration", LONG, async || {
        let services = consul.services().await?;
        services.get("app-lost").cloned().context("it is not there")
    })
    .await;
    let status = service.process().wait_exit(Duration::from_secs(30)).await;

    assert_eq!(status.code(), Some(255), "{}", service.process().tail());
    assert_eq!(consul.services().await?.get("app-lost"), None);
    assert_eq!(consul.checks().await?, json!({}));
    Ok(())
}

#[tokio::test]
async fn other_services_are_where_the_registry_says() -> Result<()> {
    // Given a core-metadata that is registered elsewhere than it is configured.
    let mut stack = Stack::new(&[("app-services/Clients/core-metadata/Port", "1")]).await?;
    let core_metadata = HttpSink::start().await?;
    core_metadata.script(|_| {
        let body = r#"{"apiVersion":"v3","version":"3.1.0","serviceName":"core-metadata"}"#;
        edgehold_test_support::Answer::new(200).body(body).into()
    });
    let entry = json!({"Name": "core-metadata", "Address": "127.0.0.1", "Port": core_metadata.port()});
    let registered = |entry: Value| entry.to_string();
    stack
        .consul
        .ask("PUT", "/v1/agent/service/register", registered(entry).as_bytes())
        .await?
        .succeeded()?;

    // When the service starts, then it asks there.
    stack.start_service().await?;
    let asked = core_metadata.wait_for(1, LONG).await;
    assert_eq!(asked[0].target, "/api/v3/version");

    // And without an entry, it asks where it is told, and says so.
    stack.service.stop().await?;
    stack
        .consul
        .ask("PUT", "/v1/agent/service/deregister/core-metadata", b"")
        .await?
        .succeeded()?;
    let port = core_metadata.port().to_string();
    stack
        .consul
        .put_all(&[
            (
                format!("{COMMON}app-services/Clients/core-metadata/Port"),
                port.as_str(),
            ),
            (
                format!("{COMMON}app-services/Clients/core-metadata/Host"),
                "127.0.0.1",
            ),
        ])
        .await?;
    let before = core_metadata.count();
    stack.start_service().await?;
    core_metadata.wait_for(before + 1, LONG).await;
    stack
        .service
        .process()
        .wait_for_line("core-metadata is not registered", LONG)
        .await;
    Ok(())
}
