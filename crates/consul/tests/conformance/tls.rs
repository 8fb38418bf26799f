//! Consul over TLS, and what else Consul's own environment variables ask for.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use anyhow::Result;
use edgehold_config::{ConfigurationProvider, ProviderError, Registry};
use edgehold_consul::{ConsulAddress, ConsulProvider, ConsulRegistry, ConsulSettings};
use edgehold_test_support::{Answer, Authority, Consul, HttpSink};

use crate::{PRIVATE, Watch, registry::registration, service_key};

/// The settings of an environment for a Consul at this protocol and port of `localhost`.
fn settings<const N: usize>(
    protocol: &str,
    port: u16,
    environment: [(&str, &str); N],
) -> Result<ConsulSettings> {
    // Losing the race to another test is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let address = ConsulAddress {
        protocol: protocol.to_owned(),
        host: "localhost".to_owned(),
        port,
    };
    let environment: BTreeMap<_, _> = environment
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into();
    Ok(ConsulSettings::from_environment(address, &environment)?)
}

fn provider(settings: ConsulSettings) -> Result<Arc<ConsulProvider>> {
    Ok(Arc::new(ConsulProvider::new(settings, service_key())?))
}

async fn unavailable(settings: ConsulSettings) -> Result<()> {
    let error = provider(settings)?.load().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    Ok(())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<String> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

#[tokio::test]
async fn configuration_and_registry_over_tls() -> Result<()> {
    let authority = Authority::new()?;
    let consul = Consul::builder()
        .tls(&authority, &authority.issue("localhost")?)
        .start()
        .await?;
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    let folder = tempfile::tempdir()?;
    let ca = write(folder.path(), "ca.pem", authority.pem())?;
    let port = consul.https_port();
    let trusting = || settings("https", port, [("CONSUL_CACERT", &ca)]);

    let over_tls = provider(trusting()?)?;
    over_tls.check_alive().await?;
    let mut watch = Watch::start(&over_tls);
    watch.wait_for_private("Writable/LogLevel", "INFO").await;
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "DEBUG")
        .await?;
    watch.wait_for_private("Writable/LogLevel", "DEBUG").await;
    let registry = ConsulRegistry::new(trusting()?)?;
    registry.register(&registration("app-x", 1111)).await?;
    assert!(registry.lookup(&service_key()).await?.is_some());
    registry.deregister(&service_key()).await?;

    // The other ways to say it.
    let path = folder.path().to_string_lossy().into_owned();
    provider(settings("https", port, [("CONSUL_CAPATH", &path)])?)?
        .load()
        .await?;
    let asked_for = [("CONSUL_HTTP_SSL", "true"), ("CONSUL_CACERT", &ca)];
    provider(settings("http", port, asked_for)?)?.load().await?;
    provider(settings("https", port, [("CONSUL_HTTP_SSL_VERIFY", "false")])?)?
        .load()
        .await?;

    // Nobody is trusted without being told to.
    unavailable(settings("https", port, [])?).await?;
    let other = write(folder.path(), "other.pem", Authority::new()?.pem())?;
    unavailable(settings("https", port, [("CONSUL_CACERT", &other)])?).await?;
    let empty = write(folder.path(), "empty.pem", "nothing")?;
    let error = ConsulProvider::new(
        settings("https", port, [("CONSUL_CACERT", &empty)])?,
        service_key(),
    );
    assert!(matches!(error, Err(ProviderError::Configuration(_))));
    Ok(())
}

#[tokio::test]
async fn a_certificate_for_another_name_is_taken_when_that_name_is_asked_for() -> Result<()> {
    let authority = Authority::new()?;
    let consul = Consul::builder()
        .tls(&authority, &authority.issue("server.dc1.consul")?)
        .start()
        .await?;
    let folder = tempfile::tempdir()?;
    let ca = write(folder.path(), "ca.pem", authority.pem())?;
    let port = consul.https_port();

    unavailable(settings("https", port, [("CONSUL_CACERT", &ca)])?).await?;

    let named = |name| {
        settings(
            "https",
            port,
            [("CONSUL_CACERT", &ca), ("CONSUL_TLS_SERVER_NAME", name)],
        )
    };
    let named_right = provider(named("server.dc1.consul")?)?;
    named_right.load().await?;
    assert!(
        named_right
            .describe()
            .starts_with(&format!("consul https://localhost:{port} "))
    );
    unavailable(named("server.dc2.consul")?).await?;
    let error = ConsulProvider::new(named("127.0.0.1")?, service_key());
    assert!(matches!(error, Err(ProviderError::Configuration(_))));
    Ok(())
}

#[tokio::test]
async fn a_consul_that_asks_for_a_certificate_is_shown_one() -> Result<()> {
    let authority = Authority::new()?;
    let consul = Consul::builder()
        .mutual_tls(&authority, &authority.issue("localhost")?)
        .start()
        .await?;
    let folder = tempfile::tempdir()?;
    let ca = write(folder.path(), "ca.pem", authority.pem())?;
    let port = consul.https_port();
    let with = |client: edgehold_test_support::Certificate| {
        let certificate = write(folder.path(), "client.pem", &client.pem)?;
        let key = write(folder.path(), "client.key", &client.key)?;
        let environment = [
            ("CONSUL_CACERT", ca.as_str()),
            ("CONSUL_CLIENT_CERT", &certificate),
            ("CONSUL_CLIENT_KEY", &key),
        ];
        settings("https", port, environment)
    };

    unavailable(settings("https", port, [("CONSUL_CACERT", &ca)])?).await?;
    unavailable(with(Authority::new()?.issue("app-x")?)?).await?;

    provider(with(authority.issue("app-x")?)?)?.load().await?;
    let registry = ConsulRegistry::new(with(authority.issue("app-x")?)?)?;
    registry.register(&registration("app-x", 1111)).await?;
    registry.deregister(&service_key()).await?;
    Ok(())
}

/// Consul's library for Go puts the namespace into the query of every call, and user and password into `Authorization`.
#[tokio::test]
async fn namespace_and_basic_authentication_go_along_with_every_call() -> Result<()> {
    let server = HttpSink::start().await?;
    server.script(|request| {
        let answer = match request.target.as_str() {
            target if target.starts_with("/v1/txn") => {
                Answer::new(200).body(r#"{"Results":[],"Errors":null}"#)
            }
            target if target.starts_with("/v1/status") => Answer::new(200).body(r#""127.0.0.1:8300""#),
            target if target.contains("access-check") || target.contains("IsCommonConfigReady") => {
                Answer::new(404)
            }
            _ => Answer::new(200).body("{}"),
        };
        answer.into()
    });
    let settings = || {
        settings(
            "http",
            server.port(),
            [
                ("CONSUL_NAMESPACE", "plant 1&x"),
                ("CONSUL_HTTP_AUTH", "operator:pa:ss"),
                ("CONSUL_HTTP_TOKEN", "t0ken"),
            ],
        )
    };
    let provider = provider(settings()?)?;
    let registry = ConsulRegistry::new(settings()?)?;

    provider.check_alive().await?;
    provider.common_config_ready().await?;
    provider.load().await?;
    registry.register(&registration("app-x", 1111)).await?;
    registry.lookup(&service_key()).await?;
    registry.deregister(&service_key()).await?;

    let requests = server.requests();
    // Three sections that seem to be absent are asked for by name, and there are two checks.
    assert_eq!(requests.len(), 3 + 3 + 3 + 2);
    for request in requests {
        let (path, query) = request.target.split_once('?').unwrap_or_default();
        assert!(
            query.split('&').any(|pair| pair == "ns=plant+1%26x"),
            "{path}: {query}"
        );
        assert_eq!(
            request.header("Authorization"),
            Some("Basic b3BlcmF0b3I6cGE6c3M="),
            "{path}"
        );
        let token = (!path.starts_with("/v1/status")).then_some("t0ken");
        assert_eq!(request.header("X-Consul-Token"), token, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn a_consul_without_namespaces_says_so() -> Result<()> {
    let consul = Consul::start().await?;
    let settings = settings("http", consul.port(), [("CONSUL_NAMESPACE", "plant")])?;

    let error = provider(settings)?.load().await.unwrap_err();

    assert!(error.to_string().contains("Enterprise"), "{error}");
    Ok(())
}
