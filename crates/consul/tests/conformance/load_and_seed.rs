//! Reading the three sections and writing the private one.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Result;
use edgehold_config::{ConfigurationProvider, Layer, ProviderError, Snapshot};
use edgehold_test_support::Consul;

use crate::{ALL_SERVICES, APP_SERVICES, PRIVATE, assert_denied, layer, provider, provider_with};

#[tokio::test]
async fn the_three_sections_are_loaded_and_nothing_else() -> Result<()> {
    let consul = Consul::start().await?;
    let provider = provider(consul.port());
    assert_eq!(
        provider.load().await?,
        Snapshot::default(),
        "an empty Consul has no section"
    );

    consul
        .put_all(&[
            (format!("{ALL_SERVICES}/Writable/LogLevel"), "INFO"),
            (
                format!("{APP_SERVICES}/Writable/StoreAndForward/RetryInterval"),
                "5m",
            ),
            (format!("{PRIVATE}/Service/Port"), "59704"),
            (format!("{PRIVATE}/Writable/Pipeline/Functions/"), ""),
            (format!("{PRIVATE}/Writable/Empty"), ""),
            ("edgex/v3/app-x2/Service/Port".to_owned(), "1"),
            (
                "edgex/v3/core-common-config-bootstrapper/device-services/Max".to_owned(),
                "1",
            ),
        ])
        .await?;

    assert_eq!(
        provider.load().await?,
        Snapshot {
            all_services: Some(layer([("Writable/LogLevel", "INFO")])),
            app_services: Some(layer([("Writable/StoreAndForward/RetryInterval", "5m")])),
            private: Some(layer([("Service/Port", "59704"), ("Writable/Empty", "")])),
        }
    );
    Ok(())
}

#[tokio::test]
async fn the_common_configuration_is_ready_when_its_key_says_so() -> Result<()> {
    let consul = Consul::start().await?;
    let provider = provider(consul.port());
    let key = "edgex/v3/core-common-config-bootstrapper/IsCommonConfigReady";

    assert!(!provider.common_config_ready().await?, "absent");
    for (text, ready) in [
        ("false", false),
        ("", false),
        ("yes", false),
        ("true", true),
        ("1", true),
    ] {
        consul.put(key, text).await?;
        assert_eq!(provider.common_config_ready().await?, ready, "{text:?}");
    }
    Ok(())
}

#[tokio::test]
async fn seeding_writes_what_is_missing_and_with_overwrite_all() -> Result<()> {
    let consul = Consul::start().await?;
    let provider = provider(consul.port());
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "DEBUG")
        .await?;
    // Not text, so it is not loaded; but it is there.
    consul.put(&format!("{PRIVATE}/Writable/Broken"), [0xff]).await?;
    consul.put(&format!("{PRIVATE}/Extra"), "kept").await?;
    let leaves = layer([
        ("Service/Port", "59704"),
        ("Writable/Broken", "b"),
        ("Writable/LogLevel", "INFO"),
    ]);

    assert_eq!(provider.seed(&leaves, false).await?, 1);
    let expected = layer([
        ("Extra", "kept"),
        ("Service/Port", "59704"),
        ("Writable/LogLevel", "DEBUG"),
    ]);
    assert_eq!(provider.load().await?.private, Some(expected));
    assert_eq!(provider.seed(&leaves, false).await?, 0, "now everything is there");

    assert_eq!(provider.seed(&leaves, true).await?, 3);
    let expected = layer([
        ("Extra", "kept"),
        ("Service/Port", "59704"),
        ("Writable/Broken", "b"),
        ("Writable/LogLevel", "INFO"),
    ]);
    assert_eq!(provider.load().await?.private, Some(expected));
    Ok(())
}

#[tokio::test]
async fn any_key_and_any_text_comes_back_as_it_was() -> Result<()> {
    let consul = Consul::start().await?;
    let provider = provider(consul.port());
    let leaves = layer([
        ("Writable/sp ace", "a b"),
        ("Writable/ümläut/日本", "ü"),
        ("Writable/100%/%41+%2F", "%"),
        ("Writable//double//slash", "//"),
        ("Writable/a/../b/./c", ".."),
        ("Writable/query?x=1#y&z", "?"),
        ("Writable/\"quoted\"\\", "\"\\\n\t\u{1}"),
        ("Writable/control\u{1}", ""),
    ]);

    assert_eq!(provider.seed(&leaves, false).await?, leaves.len());

    assert_eq!(provider.load().await?.private, Some(leaves));
    Ok(())
}

#[tokio::test]
async fn many_and_large_leaves_are_written_completely() -> Result<()> {
    let consul = Consul::start().await?;
    let provider = provider(consul.port());
    let mut leaves: Layer = (0..150)
        .map(|i| (format!("Writable/Many/{i}"), i.to_string()))
        .collect();
    for i in 0..4 {
        leaves.insert(format!("Writable/Large/{i}"), "x".repeat(200_000));
    }
    // Too large for a transaction, in which it is base64, but not for Consul.
    leaves.insert("Writable/Largest", "y".repeat(512 * 1024));
    consul.put(&format!("{PRIVATE}/Writable/Many/7"), "seven").await?;

    assert_eq!(provider.seed(&leaves, false).await?, leaves.len() - 1);
    assert_eq!(provider.seed(&leaves, false).await?, 0);

    leaves.insert("Writable/Many/7", "seven");
    assert_eq!(provider.load().await?.private, Some(leaves));
    Ok(())
}

#[tokio::test]
async fn two_that_seed_at_once_never_overwrite_each_other() -> Result<()> {
    let consul = Consul::start().await?;
    let (first, second) = (provider(consul.port()), provider(consul.port()));
    let leaves = |value: &str| -> Layer { (0..240).map(|i| (format!("Writable/{i:03}"), value)).collect() };
    let (ones, twos) = (leaves("one"), leaves("two"));

    let (first, second) = tokio::try_join!(first.seed(&ones, false), second.seed(&twos, false))?;

    let private = provider(consul.port())
        .load()
        .await?
        .private
        .expect("it was seeded");
    let with = |value| private.iter().filter(|(_, text)| *text == value).count();
    assert_eq!(
        (with("one"), with("two")),
        (first, second),
        "each counts what is there of it"
    );
    assert_eq!(first + second, 240);
    Ok(())
}

#[tokio::test]
async fn access_denied_is_an_error_and_never_an_empty_section() -> Result<()> {
    let consul = Consul::builder().master_token("root-token").start().await?;
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    consul
        .put(
            "edgex/v3/core-common-config-bootstrapper/IsCommonConfigReady",
            "true",
        )
        .await?;
    let leaves = layer([("Writable/New", "1")]);

    for token in [None, Some("unknown-token")] {
        let stranger = provider_with(consul.port(), token);
        assert_denied(stranger.load().await);
        assert_denied(stranger.common_config_ready().await);
        assert_denied(stranger.seed(&leaves, false).await);
        assert_denied(stranger.seed(&leaves, true).await);
    }

    let reader = provider_with(
        consul.port(),
        Some(&token_with(&consul, r#"key_prefix "edgex" { policy = "read" }"#).await?),
    );
    assert!(reader.load().await?.private.is_some());
    assert!(reader.common_config_ready().await?);
    assert_denied(reader.seed(&leaves, false).await);
    assert_denied(reader.seed(&leaves, true).await);

    let owner = provider_with(consul.port(), Some("root-token"));
    assert_eq!(owner.seed(&leaves, false).await?, 1);
    assert_eq!(
        owner.load().await?.private,
        Some(layer([("Writable/LogLevel", "INFO"), ("Writable/New", "1")]))
    );
    Ok(())
}

/// A token with one policy of these rules. The policy is named `rules`.
pub(crate) async fn token_with(consul: &Consul, rules: &str) -> Result<String> {
    consul.set_policy("rules", rules).await?;
    Ok(consul.new_token("rules").await?.secret)
}

#[tokio::test]
async fn it_is_alive_while_it_leads() -> Result<()> {
    let mut consul = Consul::start().await?;
    let provider = provider(consul.port());
    provider.check_alive().await?;
    assert_eq!(
        provider.describe(),
        format!("consul http://127.0.0.1:{} edgex/v3/app-x", consul.port())
    );

    consul.kill()?;

    let error = provider.check_alive().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    let error = provider.common_config_ready().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_not_waited_for_forever() -> Result<()> {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let provider = provider(silent.local_addr()?.port());

    let error = provider.load().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    let error = provider.common_config_ready().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    Ok(())
}
