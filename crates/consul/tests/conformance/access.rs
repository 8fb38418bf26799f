//! Tokens with exactly the rights that EdgeX gives a service, and tokens that go and are replaced.

use std::{collections::BTreeMap, fs, sync::Arc};

use anyhow::Result;
use edgehold_config::{ConfigurationProvider, Edit, ProviderError, Registry, TokenSource};
use edgehold_consul::{ConsulProvider, ConsulRegistry, ConsulSettings};
use edgehold_core::{BoxFuture, SecretText};
use edgehold_test_support::{AclToken, Consul, wait};

use crate::{
    ALL_SERVICES, APP_SERVICES, LONG, PRIVATE, Watch, address, assert_denied, layer, private, proxy::Proxy,
    registry::registration, service_key,
};

/// What EdgeX 3 grants to the role of a service in secure mode.
const EDGEX_RULES: &str = r#"
    key_prefix "edgex/v3/app-x" { policy = "write" }
    key_prefix "edgex/v3/core-common-config-bootstrapper" { policy = "read" }
    service "app-x" { policy = "write" }
    service_prefix "" { policy = "read" }
    node "" { policy = "read" }
    node_prefix "edgex" { policy = "write" }
"#;

/// The name of that policy in the tests.
const POLICY: &str = "acl_policy_for_app-x";

/// A Consul in which everything is denied by default, with the common configuration and that policy.
async fn secured() -> Result<Consul> {
    let consul = Consul::builder().master_token("root-token").start().await?;
    consul.set_policy(POLICY, EDGEX_RULES).await?;
    consul
        .put_all(&[
            (
                "edgex/v3/core-common-config-bootstrapper/IsCommonConfigReady".to_owned(),
                "true",
            ),
            (format!("{ALL_SERVICES}/Writable/LogLevel"), "INFO"),
            (
                format!("{APP_SERVICES}/Writable/StoreAndForward/Enabled"),
                "false",
            ),
        ])
        .await?;
    Ok(consul)
}

/// As the secret store of secure mode: a new token for everybody who has been refused, counted.
struct Issuing {
    consul: Arc<Consul>,
    current: tokio::sync::Mutex<Vec<AclToken>>,
}

impl Issuing {
    fn new(consul: &Arc<Consul>) -> Arc<Self> {
        Arc::new(Self {
            consul: Arc::clone(consul),
            current: tokio::sync::Mutex::default(),
        })
    }

    async fn issued(&self) -> Vec<AclToken> {
        self.current.lock().await.clone()
    }

    async fn revoke_last(&self) -> Result<()> {
        let current = self.current.lock().await;
        self.consul.revoke(current.last().expect("one is in use")).await
    }
}

impl TokenSource for Issuing {
    fn token(&self) -> BoxFuture<'_, Result<Option<SecretText>, ProviderError>> {
        self.renew(None)
    }

    fn renew<'a>(
        &'a self,
        refused: Option<&'a SecretText>,
    ) -> BoxFuture<'a, Result<Option<SecretText>, ProviderError>> {
        Box::pin(async move {
            let mut issued = self.current.lock().await;
            let current = issued.last().map(|token| token.secret.as_str());
            if current.is_none() || current == refused.map(SecretText::expose) {
                let token = self
                    .consul
                    .new_token(POLICY)
                    .await
                    .expect("Consul issues a token");
                issued.push(token);
            }
            Ok(issued.last().map(|token| SecretText::new(&token.secret)))
        })
    }
}

fn settings_with(port: u16, tokens: &Arc<Issuing>) -> ConsulSettings {
    ConsulSettings {
        tokens: tokens.clone(),
        ..ConsulSettings::new(address(port))
    }
}

#[tokio::test]
async fn the_rights_that_edgex_grants_are_enough_for_everything() -> Result<()> {
    let consul = Arc::new(secured().await?);
    let tokens = Issuing::new(&consul);
    let provider = Arc::new(ConsulProvider::new(
        settings_with(consul.port(), &tokens),
        service_key(),
    )?);
    let registry = ConsulRegistry::new(settings_with(consul.port(), &tokens))?;

    provider.check_alive().await?;
    assert!(provider.common_config_ready().await?);
    assert_eq!(
        provider.load().await?.private,
        None,
        "nothing is there yet, and may be read"
    );
    let leaves = layer([("Writable/LogLevel", "DEBUG"), ("Service/Port", "59704")]);
    assert_eq!(provider.seed(&leaves, false).await?, 2);
    assert_eq!(provider.seed(&leaves, true).await?, 2);
    let loaded = provider.load().await?;
    assert_eq!(loaded.private, Some(leaves));
    assert!(loaded.all_services.is_some() && loaded.app_services.is_some());

    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/LogLevel", "DEBUG").await;
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "WARN")
        .await?;
    watch.wait_for_private("Writable/LogLevel", "WARN").await;

    registry.register(&registration("app-x", 1111)).await?;
    assert!(registry.lookup(&service_key()).await?.is_some());
    registry.deregister(&service_key()).await?;
    assert_eq!(registry.lookup(&service_key()).await?, None);

    assert_denied(registry.register(&registration("app-y", 1111)).await);
    assert_eq!(
        tokens.issued().await.len(),
        2,
        "one for all, and one more try for the last call"
    );
    Ok(())
}

/// Contract §3.4: on 403 a new token is fetched once and the call repeated.
#[tokio::test]
async fn a_revoked_token_is_replaced_in_the_middle_of_everything() -> Result<()> {
    let consul = Arc::new(secured().await?);
    let proxy = Proxy::start(consul.port()).await?;
    let tokens = Issuing::new(&consul);
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    let provider = Arc::new(ConsulProvider::new(
        settings_with(proxy.port(), &tokens),
        service_key(),
    )?);
    let registry = ConsulRegistry::new(settings_with(proxy.port(), &tokens))?;
    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/LogLevel", "INFO").await;
    assert_eq!(tokens.issued().await.len(), 1);

    // Each kind of call, the first one to meet a token that is gone.
    tokens.revoke_last().await?;
    assert!(provider.load().await?.private.is_some());
    tokens.revoke_last().await?;
    assert!(provider.common_config_ready().await?);
    tokens.revoke_last().await?;
    assert_eq!(provider.seed(&layer([("Service/Port", "1")]), false).await?, 1);
    tokens.revoke_last().await?;
    assert_eq!(provider.edit(&[vec![Edit::set("Service/Port", "2")]]).await?, 1);
    tokens.revoke_last().await?;
    registry.register(&registration("app-x", 1111)).await?;
    tokens.revoke_last().await?;
    assert!(registry.lookup(&service_key()).await?.is_some());
    tokens.revoke_last().await?;
    registry.deregister(&service_key()).await?;
    assert_eq!(tokens.issued().await.len(), 8, "each was replaced once");

    // The watch was never told anything else, and goes on.
    assert!(!watch.snapshots.has_changed()?, "{:?}", *watch.snapshots.borrow());
    tokens.revoke_last().await?;
    let before = proxy.transactions();
    let target = format!("/v1/kv/{PRIVATE}/Writable/LogLevel?flags=7");
    consul.ask("PUT", &target, b"INFO").await?.succeeded()?;
    wait::until("the watch to look", LONG, async || proxy.transactions() > before).await;
    consul.put(&format!("{PRIVATE}/Writable/New"), "1").await?;
    watch.snapshots.changed().await?;
    let snapshot = watch.snapshots.borrow_and_update().clone().expect("it was sent");
    assert_eq!(
        (
            private(&snapshot, "Writable/New"),
            private(&snapshot, "Writable/LogLevel")
        ),
        (Some("1"), Some("INFO")),
        "the only snapshot there was is the one with the change"
    );
    assert!(snapshot.all_services.is_some() && snapshot.app_services.is_some());
    Ok(())
}

/// Rights that are lost look like keys that are not there: a read must not be half of the one and half of the other.
#[tokio::test]
async fn a_token_that_has_lost_its_rights_is_no_empty_configuration() -> Result<()> {
    let consul = Arc::new(secured().await?);
    let tokens = Issuing::new(&consul);
    let provider = ConsulProvider::new(settings_with(consul.port(), &tokens), service_key())?;
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    let whole = provider.load().await?;

    // The first token may do nothing any more, and the next one everything it should.
    let first = tokens.issued().await.remove(0);
    consul.set_policy("nothing", "").await?;
    let body = br#"{"Policies":[{"Name":"nothing"}]}"#;
    let target = format!("/v1/acl/token/{}", first.accessor);
    consul.ask("PUT", &target, body).await?.succeeded()?;

    assert_eq!(provider.load().await?, whole);
    assert_eq!(tokens.issued().await.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_token_file_is_followed() -> Result<()> {
    let consul = secured().await?;
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("token");
    let environment = BTreeMap::from([(
        "CONSUL_HTTP_TOKEN_FILE".to_owned(),
        path.to_string_lossy().into_owned(),
    )]);
    let settings = ConsulSettings::from_environment(address(consul.port()), &environment)?;
    let provider = Arc::new(ConsulProvider::new(settings, service_key())?);
    let error = provider.load().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");

    let first = consul.new_token(POLICY).await?;
    fs::write(&path, &first.secret)?;
    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/LogLevel", "INFO").await;

    consul.revoke(&first).await?;
    assert_denied(provider.load().await);
    fs::write(&path, format!("{}\n", consul.new_token(POLICY).await?.secret))?;
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "DEBUG")
        .await?;
    watch.wait_for_private("Writable/LogLevel", "DEBUG").await;
    provider.load().await?;
    Ok(())
}
