//! How Consul is reached beyond its address: what Consul's own tools take from the environment.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `CONSUL_HTTP_TOKEN_FILE`, `CONSUL_HTTP_TOKEN` | the access token; the file has the say, and is read again when its token is refused |
//! | `CONSUL_HTTP_SSL` | `true`: TLS although the address says `http` |
//! | `CONSUL_CACERT`, `CONSUL_CAPATH` | PEM file of trusted authorities, or a folder of such files; otherwise the system's |
//! | `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY` | PEM files of the certificate shown to Consul and of its key |
//! | `CONSUL_TLS_SERVER_NAME` | the name asked for in the handshake and expected in the certificate, instead of the host |
//! | `CONSUL_HTTP_SSL_VERIFY` | `false`: any certificate will do |
//! | `CONSUL_HTTP_AUTH` | `user:password` for HTTP basic authentication |
//! | `CONSUL_NAMESPACE` | the namespace of every call (Consul Enterprise; others refuse it) |
//!
//! EdgeX takes the same ones, because its client begins with the defaults of Consul's library; address and token it then
//! replaces. A variable that is empty counts as absent. Files of TLS are read once, at start.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use edgehold_config::{FixedToken, ProviderError, TokenSource};
use edgehold_core::{BoxFuture, SecretText, parse_go_bool};

use crate::ConsulAddress;

/// Where Consul is and what goes along with every call. Clones share their source of tokens.
#[derive(Clone)]
pub struct ConsulSettings {
    /// Where it listens. `https` is TLS.
    pub address: ConsulAddress,
    /// Where access tokens come from.
    pub tokens: Arc<dyn TokenSource>,
    /// What holds for `https`.
    pub tls: ConsulTls,
    /// User and password of HTTP basic authentication.
    pub basic_auth: Option<(String, SecretText)>,
    /// The namespace of every call.
    pub namespace: Option<String>,
}

/// How certificates are checked and which one is shown.
#[derive(Clone, Debug, Default)]
pub struct ConsulTls {
    /// PEM of the authorities that are trusted; the system's when absent.
    pub authorities: Option<String>,
    /// PEM of the certificate shown to Consul, and of its key.
    pub client: Option<SecretText>,
    /// The host name asked for and expected in the place of the address's host.
    pub server_name: Option<String>,
    /// Whether any certificate will do.
    pub skip_verify: bool,
}

impl ConsulSettings {
    /// Without a token or anything else.
    pub fn new(address: ConsulAddress) -> Self {
        Self {
            address,
            tokens: Arc::new(FixedToken::default()),
            tls: ConsulTls::default(),
            basic_auth: None,
            namespace: None,
        }
    }

    /// With what the environment says; see the table of this module.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] for a certificate or key that is missing or cannot be read.
    pub fn from_environment(
        mut address: ConsulAddress,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, ProviderError> {
        let variable = |name: &str| environment.get(name).filter(|text| !text.is_empty());
        if flag(environment, "CONSUL_HTTP_SSL") == Some(true) {
            "https".clone_into(&mut address.protocol);
        }
        let tokens: Arc<dyn TokenSource> = match variable("CONSUL_HTTP_TOKEN_FILE") {
            Some(path) => Arc::new(TokenFile::new(path.into())),
            None => Arc::new(FixedToken(variable("CONSUL_HTTP_TOKEN").map(SecretText::new))),
        };
        let tls = if address.protocol == "https" {
            tls(environment)?
        } else {
            ConsulTls::default()
        };
        let basic_auth = variable("CONSUL_HTTP_AUTH").map(|text| {
            let (user, password) = text.split_once(':').unwrap_or((text, ""));
            (user.to_owned(), SecretText::new(password))
        });
        Ok(Self {
            address,
            tokens,
            tls,
            basic_auth,
            namespace: variable("CONSUL_NAMESPACE").cloned(),
        })
    }
}

fn tls(environment: &BTreeMap<String, String>) -> Result<ConsulTls, ProviderError> {
    let path = |name: &'static str| {
        let text = environment.get(name).filter(|text| !text.is_empty());
        text.map(|path| (name, Path::new(path)))
    };
    let authorities = match (path("CONSUL_CACERT"), path("CONSUL_CAPATH")) {
        (Some((name, file)), _) => Some(read(name, file)?),
        (None, Some((name, folder))) => Some(read_folder(name, folder)?),
        (None, None) => None,
    };
    let client = match (path("CONSUL_CLIENT_CERT"), path("CONSUL_CLIENT_KEY")) {
        (None, None) => None,
        (Some((name, certificate)), Some((key_name, key))) => Some(SecretText::new(format!(
            "{}\n{}",
            read(name, certificate)?,
            read(key_name, key)?
        ))),
        _ => {
            let why = "CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY go together, only one of them is set";
            return Err(ProviderError::Configuration(why.to_owned()));
        }
    };
    let server_name = environment
        .get("CONSUL_TLS_SERVER_NAME")
        .filter(|name| !name.is_empty());
    Ok(ConsulTls {
        authorities,
        client,
        server_name: server_name.cloned(),
        skip_verify: flag(environment, "CONSUL_HTTP_SSL_VERIFY") == Some(false),
    })
}

/// As Consul's library does: a value that is no truth value counts as absent, loudly.
fn flag(environment: &BTreeMap<String, String>, name: &str) -> Option<bool> {
    let text = environment.get(name).filter(|text| !text.is_empty())?;
    let value = parse_go_bool(text);
    if value.is_none() {
        tracing::warn!("{name} is neither true nor false: it is ignored");
    }
    value
}

fn read(name: &str, path: &Path) -> Result<String, ProviderError> {
    fs::read_to_string(path).map_err(|error| unreadable(name, path, &error))
}

fn read_folder(name: &str, folder: &Path) -> Result<String, ProviderError> {
    let failed = |error: io::Error| unreadable(name, folder, &error);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let pems: Vec<String> = paths
        .iter()
        .map(|path| read(name, path))
        .collect::<Result<_, _>>()?;
    Ok(pems.join("\n"))
}

fn unreadable(name: &str, path: &Path, error: &io::Error) -> ProviderError {
    ProviderError::Configuration(format!("{name}: {} cannot be read: {error}", path.display()))
}

/// A token in a file that somebody else replaces (`vault agent`, a sidecar, an operator).
struct TokenFile {
    path: PathBuf,
    current: Mutex<Option<SecretText>>,
}

impl TokenFile {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            current: Mutex::new(None),
        }
    }

    /// An empty file is no token, as for Consul's library.
    fn read(&self) -> Result<Option<SecretText>, ProviderError> {
        let text = fs::read_to_string(&self.path).map_err(|error| ProviderError::Unavailable {
            provider: format!("the token file {}", self.path.display()),
            reason: "it cannot be read".to_owned(),
            source: Some(error.into()),
        })?;
        Ok(Some(text.trim())
            .filter(|text| !text.is_empty())
            .map(SecretText::new))
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<SecretText>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenSource for TokenFile {
    fn token(&self) -> BoxFuture<'_, Result<Option<SecretText>, ProviderError>> {
        Box::pin(async {
            let mut current = self.current();
            if current.is_none() {
                *current = self.read()?;
            }
            Ok(current.clone())
        })
    }

    fn renew<'a>(
        &'a self,
        refused: Option<&'a SecretText>,
    ) -> BoxFuture<'a, Result<Option<SecretText>, ProviderError>> {
        Box::pin(async move {
            let mut current = self.current();
            if current.as_ref() == refused {
                *current = self.read()?;
            }
            Ok(current.clone().filter(|token| Some(token) != refused))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings<const N: usize>(
        protocol: &str,
        environment: [(&str, &str); N],
    ) -> Result<ConsulSettings, ProviderError> {
        let address = ConsulAddress {
            protocol: protocol.to_owned(),
            host: "localhost".to_owned(),
            port: 8500,
        };
        let environment = environment.map(|(name, text)| (name.to_owned(), text.to_owned()));
        ConsulSettings::from_environment(address, &environment.into())
    }

    #[tokio::test]
    async fn the_environment_says_what_consuls_tools_take_from_it() {
        let settings = settings(
            "http",
            [
                ("CONSUL_HTTP_TOKEN", "t0ken"),
                ("CONSUL_HTTP_AUTH", "user:pass:word"),
                ("CONSUL_NAMESPACE", "plant"),
                ("CONSUL_HTTP_SSL", "1"),
                ("CONSUL_HTTP_SSL_VERIFY", "false"),
                ("CONSUL_TLS_SERVER_NAME", "consul.plant"),
            ],
        )
        .unwrap();

        assert_eq!(settings.address.protocol, "https");
        let token = settings.tokens.token().await.unwrap();
        assert_eq!(token, Some(SecretText::new("t0ken")));
        assert!(settings.tokens.renew(token.as_ref()).await.unwrap().is_none());
        let auth = ("user".to_owned(), SecretText::new("pass:word"));
        assert_eq!(settings.basic_auth, Some(auth));
        assert_eq!(settings.namespace.as_deref(), Some("plant"));
        assert!(settings.tls.skip_verify);
        assert_eq!(settings.tls.server_name.as_deref(), Some("consul.plant"));
    }

    #[tokio::test]
    async fn what_is_empty_or_no_truth_value_counts_as_absent() {
        let settings = settings(
            "https",
            [
                ("CONSUL_HTTP_TOKEN", ""),
                ("CONSUL_HTTP_TOKEN_FILE", ""),
                ("CONSUL_HTTP_AUTH", ""),
                ("CONSUL_CACERT", ""),
                ("CONSUL_HTTP_SSL", "false"),
                ("CONSUL_HTTP_SSL_VERIFY", "never"),
            ],
        )
        .unwrap();

        assert_eq!(settings.address.protocol, "https", "asked for is asked for");
        assert_eq!(settings.tokens.token().await.unwrap(), None);
        assert_eq!(settings.basic_auth, None);
        assert!(!settings.tls.skip_verify);
    }

    #[test]
    fn certificates_that_cannot_be_had_are_named_and_matter_only_with_tls() {
        let message = |environment: [(&str, &str); 1]| match settings("https", environment) {
            Err(ProviderError::Configuration(message)) => message,
            _ => panic!("{environment:?} was taken"),
        };
        let missing = message([("CONSUL_CACERT", "/no/such/ca.pem")]);
        assert!(
            missing.starts_with("CONSUL_CACERT: /no/such/ca.pem cannot be read: "),
            "{missing}"
        );
        let missing = message([("CONSUL_CAPATH", "/no/such/folder")]);
        assert!(missing.starts_with("CONSUL_CAPATH: "), "{missing}");
        let half = message([("CONSUL_CLIENT_KEY", "/no/such/key.pem")]);
        assert!(half.contains("go together"), "{half}");
        assert!(settings("http", [("CONSUL_CACERT", "/no/such/ca.pem")]).is_ok());
    }

    #[tokio::test]
    async fn a_token_file_is_read_again_only_when_its_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let tokens = TokenFile::new(path.clone());
        let error = tokens.token().await.unwrap_err();
        assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");

        fs::write(&path, "first\n").unwrap();
        let first = tokens.token().await.unwrap();
        assert_eq!(first, Some(SecretText::new("first")));
        assert_eq!(
            tokens.renew(first.as_ref()).await.unwrap(),
            None,
            "there is no other yet"
        );

        fs::write(&path, "second").unwrap();
        assert_eq!(tokens.token().await.unwrap(), first);
        let second = tokens.renew(first.as_ref()).await.unwrap();
        assert_eq!(second, Some(SecretText::new("second")));
        fs::write(&path, "third").unwrap();
        assert_eq!(
            tokens.renew(first.as_ref()).await.unwrap(),
            second,
            "somebody else has renewed it already"
        );
    }
}
