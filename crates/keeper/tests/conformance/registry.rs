//! Registration, as Core Keeper itself tells of it.

use std::time::Duration;

use anyhow::Result;
use edgehold_config::{Endpoint, ProviderError, Registration, Registry};
use edgehold_core::ServiceKey;
use edgehold_keeper::KeeperRegistry;
use edgehold_test_support::{HttpSink, Keeper, fixtures, wait};
use serde_json::Value;

use crate::{LONG, settings};

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
    let keeper = Keeper::start().await?;
    let service = HttpSink::start().await?;
    let registry = KeeperRegistry::new(settings(keeper.port()))?;
    assert_eq!(
        registry.describe(),
        format!("keeper http://127.0.0.1:{}", keeper.port())
    );
    assert_eq!(registry.lookup(&key("app-x")).await?, None);
    registry.deregister(&key("app-x")).await?;

    registry.register(&registration("app-x", service.port())).await?;

    let found = Endpoint {
        host: "127.0.0.1".to_owned(),
        port: service.port(),
    };
    assert_eq!(registry.lookup(&key("app-x")).await?, Some(found.clone()));
    assert_eq!(keeper.services()[0]["status"], "UNKNOWN");
    wait::until("it is up", LONG, async || keeper.services()[0]["status"] == "UP").await;
    assert_eq!(service.requests()[0].target, "/api/v3/ping");

    registry.deregister(&key("app-x")).await?;

    assert_eq!(keeper.services()[0]["status"], "HALT");
    assert_eq!(registry.lookup(&key("app-x")).await?, None);
    registry.deregister(&key("app-x")).await?;

    // The entry is still there; the next start replaces it.
    registry.register(&registration("app-x", service.port())).await?;
    assert_eq!(registry.lookup(&key("app-x")).await?, Some(found));
    assert_eq!(keeper.services().len(), 1);

    // And somebody may have removed it.
    assert!(keeper.forget("app-x"));
    assert_eq!(registry.lookup(&key("app-x")).await?, None);
    registry.register(&registration("app-x", service.port())).await?;
    assert_eq!(keeper.services().len(), 1);
    Ok(())
}

#[tokio::test]
async fn what_is_sent_is_what_was_recorded() -> Result<()> {
    let recorded: Vec<(String, Value)> = fixtures::exchanges("conn-001")
        .await?
        .into_iter()
        .filter(|exchange| exchange.target.starts_with("/api/v3/registry"))
        .map(|exchange| {
            let what = format!("{} {}", exchange.method, exchange.target);
            (what, serde_json::from_slice(&exchange.body).unwrap_or_default())
        })
        .collect();
    let keeper = Keeper::start().await?;
    let registry = KeeperRegistry::new(settings(keeper.port()))?;
    let registration = Registration {
        host: "localhost".to_owned(),
        health_check_interval: Duration::from_secs(10),
        ..registration("app-wire", 29771)
    };
    registry.register(&registration).await?;
    registry.deregister(&key("app-wire")).await?;
    let before = keeper.requests().len();

    // From here on as in the recording: the entry of an earlier run is there.
    registry.register(&registration).await?;
    registry.deregister(&key("app-wire")).await?;

    let mut sent: Vec<(String, Value)> = keeper.requests()[before..]
        .iter()
        .map(|request| {
            let what = format!("{} {}", request.method, request.target);
            (what.replace("%2D", "-"), request.json())
        })
        .collect();
    // Who deregisters looks first; the original remembers.
    assert_eq!(sent.remove(2).0, "GET /api/v3/registry/serviceId/app-wire");
    assert_eq!(sent, recorded);
    assert_eq!(keeper.requests()[1].method, "POST", "the first time it is added");
    Ok(())
}

#[tokio::test]
async fn registering_again_replaces_the_entry() -> Result<()> {
    let keeper = Keeper::start().await?;
    let registry = KeeperRegistry::new(settings(keeper.port()))?;
    registry.register(&registration("app-x", 1111)).await?;
    let https = Registration {
        https: true,
        ..registration("app-x", 2222)
    };
    registry.register(&https).await?;
    let services = keeper.services();
    assert_eq!(services.len(), 1);
    assert_eq!(services[0]["port"], 2222);
    assert_eq!(services[0]["HealthCheck"]["type"], "https");
    Ok(())
}

#[tokio::test]
async fn odd_service_keys_can_be_registered_and_removed() -> Result<()> {
    let keeper = Keeper::start().await?;
    let registry = KeeperRegistry::new(settings(keeper.port()))?;
    for odd in ["app x", "app-ü", "app%41", "app?x#y"] {
        registry.register(&registration(odd, 1111)).await?;
        assert!(registry.lookup(&key(odd)).await?.is_some(), "{odd}");
        registry.deregister(&key(odd)).await?;
        assert_eq!(registry.lookup(&key(odd)).await?, None, "{odd}");
    }
    Ok(())
}

#[tokio::test]
async fn an_incomplete_registration_is_refused() -> Result<()> {
    let registry = KeeperRegistry::new(settings(1))?;
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
