//! Registration, as the agent itself tells of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use edgehold_config::{Endpoint, ProviderError, Registration, Registry};
use edgehold_consul::ConsulRegistry;
use edgehold_core::ServiceKey;
use edgehold_test_support::{Answer, Authority, Behaviour, Consul, HttpSink, TlsFront, wait};

use crate::{LONG, assert_denied, settings};

fn key(text: &str) -> ServiceKey {
    ServiceKey::try_new(text).unwrap()
}

pub(crate) fn registration(service_key: &str, port: u16) -> Registration {
    Registration {
        service_key: key(service_key),
        host: "127.0.0.1".to_owned(),
        port,
        https: false,
        health_check_interval: Duration::from_secs(1),
    }
}

#[tokio::test]
async fn a_registered_service_is_checked_found_and_gone_again() -> Result<()> {
    let consul = Consul::start().await?;
    let service = HttpSink::start().await?;
    let registry = ConsulRegistry::new(settings(consul.port(), None))?;
    assert_eq!(
        registry.describe(),
        format!("consul http://127.0.0.1:{}", consul.port())
    );
    assert_eq!(registry.lookup(&key("app-x")).await?, None);

    registry.register(&registration("app-x", service.port())).await?;

    let found = Endpoint {
        host: "127.0.0.1".to_owned(),
        port: service.port(),
    };
    assert_eq!(registry.lookup(&key("app-x")).await?, Some(found));
    let entry = &consul.services().await?["app-x"];
    assert_eq!(
        (&entry["ID"], &entry["Service"]),
        (&"app-x".into(), &"app-x".into())
    );
    let check = &consul.checks().await?["app-x"];
    assert_eq!(check["Name"], "Health Check: app-x");
    assert_eq!(check["ServiceID"], "app-x");
    assert_eq!(check["Type"], "http");
    assert_eq!(consul.checks().await?["app-x:ready"]["ServiceID"], "app-x");
    let status = async |check: &str, wanted: &str| {
        wait::until("the status of a check", LONG, async || {
            let checks = consul.checks().await?;
            let status = &checks[check]["Status"];
            ensure!(*status == wanted, "{check} is {status}, not {wanted}");
            Ok(())
        })
        .await;
    };
    status("app-x", "passing").await;
    status("app-x:ready", "passing").await;
    let mut asked: Vec<_> = service
        .requests()
        .into_iter()
        .map(|request| format!("{} {}", request.method, request.target))
        .collect();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked, ["GET /api/v3/ping", "GET /readyz"]);

    // One that lives and is not ready.
    service.script(|request| {
        let answer = if request.target == "/readyz" {
            Answer::new(503)
        } else {
            Answer::new(200)
        };
        answer.into()
    });
    status("app-x:ready", "critical").await;
    status("app-x", "passing").await;

    registry.deregister(&key("app-x")).await?;

    assert_eq!(registry.lookup(&key("app-x")).await?, None);
    assert!(
        consul
            .checks()
            .await?
            .as_object()
            .is_some_and(serde_json::Map::is_empty),
        "its checks go with it"
    );
    registry.deregister(&key("app-x")).await?;
    Ok(())
}

/// EdgeX registers its check with `http` all the same, and it never passes.
#[tokio::test]
async fn a_service_behind_tls_is_checked_there_whoever_has_signed_its_certificate() -> Result<()> {
    let consul = Consul::start().await?;
    let service = HttpSink::start().await?;
    let certificate = Authority::new()?.issue("127.0.0.1")?;
    let front = TlsFront::start(service.port(), &certificate, None).await?;
    let registry = ConsulRegistry::new(settings(consul.port(), None))?;
    let registration = Registration {
        https: true,
        ..registration("app-x", front.port())
    };

    registry.register(&registration).await?;

    wait::until("both checks to pass", LONG, async || {
        let checks = consul.checks().await?;
        for id in ["app-x", "app-x:ready"] {
            ensure!(checks[id]["Status"] == "passing", "they are {checks}");
        }
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn registering_again_replaces_the_entry() -> Result<()> {
    let consul = Consul::start().await?;
    let registry = ConsulRegistry::new(settings(consul.port(), None))?;

    registry.register(&registration("app-x", 1111)).await?;
    registry.register(&registration("app-x", 2222)).await?;

    assert_eq!(
        registry
            .lookup(&key("app-x"))
            .await?
            .map(|endpoint| endpoint.port),
        Some(2222)
    );
    assert_eq!(
        consul.services().await?.as_object().map(serde_json::Map::len),
        Some(1)
    );
    assert_eq!(
        consul.checks().await?.as_object().map(serde_json::Map::len),
        Some(2)
    );
    Ok(())
}

#[tokio::test]
async fn odd_service_keys_can_be_registered_and_removed() -> Result<()> {
    let consul = Consul::start().await?;
    let registry = ConsulRegistry::new(settings(consul.port(), None))?;
    for odd in ["app x", "app-ü", "app%41", "app?x#y"] {
        registry.register(&registration(odd, 1111)).await?;
        assert!(registry.lookup(&key(odd)).await?.is_some(), "{odd}");
        registry.deregister(&key(odd)).await?;
        assert_eq!(registry.lookup(&key(odd)).await?, None, "{odd}");
    }
    Ok(())
}

#[tokio::test]
async fn with_access_control_only_those_who_may_register() -> Result<()> {
    let consul = Consul::builder().master_token("root-token").start().await?;
    let registry = |token| ConsulRegistry::new(settings(consul.port(), Some(token)));

    let stranger = registry("unknown-token")?;
    assert_denied(stranger.register(&registration("app-x", 1111)).await);
    assert_denied(stranger.deregister(&key("app-x")).await);
    assert_denied(stranger.lookup(&key("app-x")).await);

    let owner = registry("root-token")?;
    owner.deregister(&key("app-x")).await?;
    owner.register(&registration("app-x", 1111)).await?;
    assert!(owner.lookup(&key("app-x")).await?.is_some());
    owner.deregister(&key("app-x")).await?;
    assert_eq!(owner.lookup(&key("app-x")).await?, None);
    Ok(())
}

#[tokio::test]
async fn an_incomplete_registration_is_refused() -> Result<()> {
    let registry = ConsulRegistry::new(settings(1, None))?;
    let complete = registration("app-x", 1111);
    for incomplete in [
        Registration {
            host: String::new(),
            ..complete.clone()
        },
        Registration {
            port: 0,
            ..complete.clone()
        },
        Registration {
            health_check_interval: Duration::ZERO,
            ..complete.clone()
        },
    ] {
        let error = registry.register(&incomplete).await.unwrap_err();
        assert!(matches!(error, ProviderError::Configuration(_)), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_sent_is_what_edgex_sends() -> Result<()> {
    let agent = HttpSink::start().await?;
    agent.behave(Behaviour::status(200));
    let registry = ConsulRegistry::new(settings(agent.port(), Some("t0ken")))?;
    let registration = Registration {
        health_check_interval: Duration::from_secs(10),
        ..registration("app-x", 59704)
    };

    registry.register(&registration).await?;
    registry.deregister(&key("app-x")).await?;

    let requests = agent.requests();
    let targets: Vec<_> = requests
        .iter()
        .map(|request| format!("{} {}", request.method, request.target.trim_end_matches('?')))
        .collect();
    assert_eq!(
        targets,
        [
            "PUT /v1/agent/service/register",
            "PUT /v1/agent/check/register",
            "PUT /v1/agent/check/register",
            "PUT /v1/agent/service/deregister/app-x"
        ]
    );
    assert!(
        requests
            .iter()
            .all(|request| request.header("X-Consul-Token") == Some("t0ken"))
    );
    let given = |body: serde_json::Value| -> serde_json::Value {
        let object = body.as_object().expect("a body is an object").clone();
        object.into_iter().filter(|(_, value)| !value.is_null()).collect()
    };
    assert_eq!(
        given(requests[0].json()),
        serde_json::json!({"Name": "app-x", "Address": "127.0.0.1", "Port": 59704})
    );
    assert_eq!(
        given(requests[1].json()),
        serde_json::json!({
            "ID": "app-x",
            "Name": "Health Check: app-x",
            "Notes": "Check the health of the API",
            "ServiceId": "app-x",
            "HTTP": "http://127.0.0.1:59704/api/v3/ping",
            "Interval": "10s",
            // What EdgeX lacks.
            "DeregisterCriticalServiceAfter": "604800s",
        })
    );
    assert_eq!(
        given(requests[2].json()),
        serde_json::json!({
            "ID": "app-x:ready",
            "Name": "Readiness Check: app-x",
            "Notes": "Check whether data is taken in and kept safely",
            "ServiceId": "app-x",
            "HTTP": "http://127.0.0.1:59704/readyz",
            "Interval": "10s",
        })
    );
    Ok(())
}

#[tokio::test]
async fn a_service_that_later_versions_call_unknown_is_deregistered() -> Result<()> {
    let agent = HttpSink::start().await?;
    agent.script(|request| {
        let answer = if request.method == "GET" {
            Answer::new(200).body("{}")
        } else {
            Answer::new(404)
        };
        answer.into()
    });

    ConsulRegistry::new(settings(agent.port(), None))?
        .deregister(&key("app-x"))
        .await?;

    assert_eq!(agent.count(), 2);
    Ok(())
}
