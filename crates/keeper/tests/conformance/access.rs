//! Tokens: denied access is an error, and a fresh token is asked for once.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use edgehold_config::{ConfigurationProvider, Edit, EditError, ProviderError, Registry, TokenSource};
use edgehold_core::{BoxFuture, SecretText};
use edgehold_keeper::{KeeperRegistry, KeeperSettings};
use edgehold_test_support::{Behaviour, Keeper};

use crate::{PRIVATE, assert_denied, layer, provider_with, registry::registration, service_key, settings};

/// Hands out one token after the other.
struct Tokens(Mutex<Vec<&'static str>>);

impl TokenSource for Tokens {
    fn token(&self) -> BoxFuture<'_, Result<Option<SecretText>, ProviderError>> {
        Box::pin(async { Ok(self.0.lock().unwrap().first().copied().map(SecretText::new)) })
    }

    fn renew<'a>(
        &'a self,
        refused: Option<&'a SecretText>,
    ) -> BoxFuture<'a, Result<Option<SecretText>, ProviderError>> {
        Box::pin(async move {
            let mut tokens = self.0.lock().unwrap();
            if tokens.first().copied() == refused.map(SecretText::expose) && tokens.len() > 1 {
                tokens.remove(0);
            }
            let current = tokens.first().copied().map(SecretText::new);
            Ok(current.filter(|current| Some(current) != refused))
        })
    }
}

fn with_tokens(port: u16, tokens: &[&'static str]) -> KeeperSettings {
    let mut settings = settings(port);
    settings.tokens = Arc::new(Tokens(Mutex::new(tokens.to_vec())));
    settings
}

#[tokio::test]
async fn without_the_right_token_everything_is_denied_and_nothing_is_empty() -> Result<()> {
    let keeper = Keeper::start().await?;
    keeper
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    keeper.require_token("right");
    for tokens in [&[][..], &["wrong"]] {
        let (stranger, _notices) = provider_with(with_tokens(keeper.port(), tokens));
        stranger.check_alive().await?;
        assert_denied(stranger.load().await);
        assert_denied(stranger.common_config_ready().await);
        assert_denied(stranger.seed(&layer([("A", "1")]), false).await);
        assert_denied(stranger.seed(&layer([("A", "1")]), true).await);
        let edited = stranger.edit(&[vec![Edit::set("A", "1")]]).await;
        assert!(matches!(
            edited,
            Err(EditError::Provider(ProviderError::Denied { .. }))
        ));
        let registry = KeeperRegistry::new(with_tokens(keeper.port(), tokens))?;
        assert_denied(registry.register(&registration("app-x", 1111)).await);
        assert_denied(registry.lookup(&service_key()).await);
        assert_denied(registry.deregister(&service_key()).await);
    }
    // Whatever it says instead.
    keeper.fault(Some(Behaviour::status(403)));
    let (owner, _notices) = provider_with(with_tokens(keeper.port(), &["right"]));
    assert_denied(owner.load().await);
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_and_everything_done_again() -> Result<()> {
    let keeper = Keeper::start().await?;
    keeper.require_token("second");
    let (provider, _notices) = provider_with(with_tokens(keeper.port(), &["first", "second"]));

    assert_eq!(provider.seed(&layer([("Writable/A", "1")]), false).await?, 1);

    assert_eq!(provider.load().await?.private, Some(layer([("Writable/A", "1")])));
    let shown: Vec<_> = keeper.requests();
    let refused = shown
        .iter()
        .filter(|request| request.header("Authorization") == Some("Bearer first"));
    assert_eq!(refused.count(), 1, "once, and never again");
    Ok(())
}
