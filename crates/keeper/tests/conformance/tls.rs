//! Core Keeper behind TLS.

use anyhow::Result;
use edgehold_config::{ConfigurationProvider, ProviderError, Registry};
use edgehold_keeper::{KeeperProvider, KeeperRegistry, KeeperSettings};
use edgehold_test_support::{Authority, Keeper, TlsFront};

use crate::{PRIVATE, layer, provider_with, registry::registration, service_key};

#[tokio::test]
async fn configuration_and_registry_over_tls() -> Result<()> {
    // Losing the race to another test is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keeper = Keeper::start().await?;
    keeper
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    let authority = Authority::new()?;
    let front = TlsFront::start(keeper.port(), &authority.issue("localhost")?, None).await?;
    let trusting = |pem: Option<&str>| {
        let mut settings = KeeperSettings::new("https", "localhost", front.port())?;
        settings.authorities = pem.map(str::to_owned);
        anyhow::Ok(settings)
    };

    let (provider, _notices) = provider_with(trusting(Some(authority.pem()))?);
    provider.check_alive().await?;
    assert_eq!(provider.seed(&layer([("Writable/A", "1")]), false).await?, 1);
    assert_eq!(
        provider.load().await?.private,
        Some(layer([("Writable/A", "1"), ("Writable/LogLevel", "INFO")]))
    );
    let registry = KeeperRegistry::new(trusting(Some(authority.pem()))?)?;
    registry.register(&registration("app-x", 1111)).await?;
    assert!(registry.lookup(&service_key()).await?.is_some());

    // Nobody is trusted without being told to.
    for stranger in [None, Some(Authority::new()?.pem())] {
        let (provider, _notices) = provider_with(trusting(stranger)?);
        let error = provider.load().await.unwrap_err();
        assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    }
    let error = KeeperProvider::new(trusting(Some("nothing"))?, &service_key()).err();
    assert!(matches!(error, Some(ProviderError::Configuration(_))));
    Ok(())
}
