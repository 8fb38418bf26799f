//! Reading the three sections and writing the private one.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};
use edgehold_config::{ConfigurationProvider, Layer, ProviderError, Snapshot};
use edgehold_core::{ErrorClass, ServiceKey};
use edgehold_keeper::KeeperProvider;
use edgehold_test_support::{Answer, Behaviour, HttpSink, Keeper, fixtures};

use crate::{ALL_SERVICES, APP_SERVICES, PRIVATE, layer, provider, settings};

#[tokio::test]
async fn the_three_sections_are_loaded_and_nothing_else() -> Result<()> {
    let keeper = Keeper::start().await?;
    let (provider, _notices) = provider(keeper.port());
    assert_eq!(provider.load().await?, Snapshot::default());

    for (key, value) in [
        (format!("{ALL_SERVICES}/Writable/LogLevel"), "INFO"),
        (
            format!("{APP_SERVICES}/Writable/StoreAndForward/RetryInterval"),
            "5m",
        ),
        (format!("{PRIVATE}/Service/Port"), "59704"),
        (format!("{PRIVATE}/Writable/Pipeline/Functions/"), ""),
        (format!("{PRIVATE}/Writable/Empty"), ""),
        (format!("{PRIVATE}/Writable/Empty/Below"), "a leaf and a folder"),
        ("edgex/v4/app-x2/Service/Port".to_owned(), "1"),
        (
            "edgex/v4/core-common-config-bootstrapper/device-services/Max".to_owned(),
            "1",
        ),
    ] {
        keeper.put(&key, value).await?;
    }

    assert_eq!(
        provider.load().await?,
        Snapshot {
            all_services: Some(layer([("Writable/LogLevel", "INFO")])),
            app_services: Some(layer([("Writable/StoreAndForward/RetryInterval", "5m")])),
            private: Some(layer([
                ("Service/Port", "59704"),
                ("Writable/Empty", ""),
                ("Writable/Empty/Below", "a leaf and a folder"),
            ])),
        }
    );
    Ok(())
}

#[tokio::test]
async fn the_common_configuration_is_ready_when_its_key_says_so() -> Result<()> {
    let keeper = Keeper::start().await?;
    let (provider, _notices) = provider(keeper.port());
    let key = "edgex/v4/core-common-config-bootstrapper/IsCommonConfigReady";
    assert!(!provider.common_config_ready().await?, "absent");
    for (text, ready) in [
        ("false", false),
        ("", false),
        ("yes", false),
        ("true", true),
        ("1", true),
    ] {
        keeper.put(key, text).await?;
        assert_eq!(provider.common_config_ready().await?, ready, "{text:?}");
    }
    Ok(())
}

/// What the original sent, from its own file, to a Core Keeper that knew nothing of it.
#[tokio::test]
async fn a_private_configuration_is_seeded_as_it_was_recorded() -> Result<()> {
    let written: Vec<_> = fixtures::exchanges("conn-001").await?;
    let written = written
        .into_iter()
        .filter(|exchange| exchange.method == "PUT" && exchange.target.contains("/kvs/"));
    let mut recorded = BTreeSet::new();
    let mut leaves = Layer::default();
    for exchange in written {
        let body: serde_json::Value = serde_json::from_slice(&exchange.body)?;
        let value = body["value"].as_str().context("values are texts")?.to_owned();
        let written: serde_json::Value = exchange.response.json()?;
        let key = written["response"][0].as_str().context("the key is told")?;
        let path = key
            .strip_prefix("edgex/v4/app-wire/")
            .context("all are private")?;
        leaves.insert(path, value.clone());
        recorded.insert((exchange.target, value));
    }
    assert_eq!(leaves.len(), 32);
    let keeper = Keeper::start().await?;
    let app_wire = ServiceKey::try_new("app-wire")?;
    let (provider, _notices) = KeeperProvider::new(settings(keeper.port()), &app_wire)?;

    assert_eq!(provider.seed(&leaves, false).await?, leaves.len());

    let sent = keeper
        .requests()
        .into_iter()
        .filter(|request| request.method == "PUT");
    let mut asked = BTreeSet::new();
    for request in sent {
        assert_eq!(request.header("Content-Type"), Some("application/json"));
        assert_ne!(request.header("X-Correlation-ID"), None);
        let body = request.json();
        let value = body["value"].as_str().context("values are texts")?;
        asked.insert((request.target, value.to_owned()));
    }
    assert_eq!(asked, recorded);
    assert_eq!(provider.load().await?.private, Some(leaves.clone()));
    assert_eq!(provider.seed(&leaves, false).await?, 0);
    Ok(())
}

#[tokio::test]
async fn seeding_that_broke_off_is_completed_by_the_next() -> Result<()> {
    let keeper = Keeper::start().await?;
    let (provider, _notices) = provider(keeper.port());
    let leaves = layer([("Writable/A", "1"), ("Writable/B", "2"), ("Writable/C", "3")]);
    keeper.put(&format!("{PRIVATE}/Writable/B"), "mine").await?;

    assert_eq!(provider.seed(&leaves, false).await?, 2);

    let expected = layer([("Writable/A", "1"), ("Writable/B", "mine"), ("Writable/C", "3")]);
    assert_eq!(provider.load().await?.private, Some(expected));
    assert_eq!(provider.seed(&leaves, true).await?, 3);
    assert_eq!(provider.load().await?.private, Some(leaves));
    Ok(())
}

#[tokio::test]
async fn a_key_that_cannot_be_is_refused_for_good_and_by_its_reason() -> Result<()> {
    let keeper = Keeper::start().await?;
    let (provider, _notices) = provider(keeper.port());
    let error = provider
        .seed(&layer([("Writable/sp ace", "1")]), false)
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert!(
        error.to_string().contains("key only allows characters"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_not_core_keeper_is_never_an_empty_configuration() -> Result<()> {
    let other = HttpSink::start().await?;
    let (provider, _notices) = provider(other.port());
    for (behaviour, what) in [
        (
            Answer::new(404).body("<html>Not Found</html>").into(),
            "another server",
        ),
        (
            Answer::new(404).body(r#"{"message":"Not Found"}"#).into(),
            "another router",
        ),
        (Answer::new(200).body("<html>").into(), "a page"),
        (
            Answer::new(200).body(r#"{"apiVersion":"v3"}"#).into(),
            "another answer",
        ),
        (Answer::new(204).into(), "nothing"),
        (
            Answer::new(302).header("Location", "/login").into(),
            "a way elsewhere",
        ),
        (Behaviour::status(500), "an error"),
        (Behaviour::Reset, "a reset"),
        (Behaviour::HalfAnswer, "half an answer"),
        (
            Answer::new(200).body("x".repeat(17 * 1024 * 1024)).into(),
            "no end",
        ),
    ] {
        other.behave(behaviour);
        let loaded = provider.load().await;
        assert!(loaded.is_err(), "{what}: {loaded:?}");
        assert!(provider.common_config_ready().await.is_err(), "{what}");
        assert!(
            provider.seed(&layer([("A", "1")]), false).await.is_err(),
            "{what}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn it_is_alive_while_it_answers() -> Result<()> {
    let mut keeper = Keeper::start().await?;
    let (provider, _notices) = provider(keeper.port());
    provider.check_alive().await?;
    assert_eq!(
        provider.describe(),
        format!("keeper http://127.0.0.1:{} edgex/v4/app-x", keeper.port())
    );

    keeper.stop().await;

    let error = provider.check_alive().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_not_waited_for_forever() -> Result<()> {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (provider, _notices) = provider(silent.local_addr()?.port());

    let error = provider.load().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    let error = provider.common_config_ready().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    Ok(())
}
