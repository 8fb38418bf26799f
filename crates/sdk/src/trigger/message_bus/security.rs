//! As whom to connect to a bus that is not MQTT, and whom to believe: by the same rules, and always as secret and files
//! have it now.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use edgehold_config::configuration::MessageBus;
use edgehold_core::{BoxFuture, RenewError, Renewable, SecretProvider, SecretText, TriggerError};
use edgehold_mqtt::{AuthMode, BrokerAddress, Credentials, Identity, PemSetting, Rules, TlsSettings};
use rustls::ClientConfig;

use super::options;
use crate::logging::with_causes;

/// What a connection needs beside its address.
pub(super) struct Security {
    /// User name and password. With the user name missing, a password alone is one (Redis without users).
    pub(super) login: Option<(String, SecretText)>,
    /// Encryption.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// What stands in the further file.
    pub(super) file: Option<SecretText>,
}

/// What the settings say of it. What that comes to is asked for again before each attempt to connect, so that a secret or a
/// file that was renewed counts from then on.
pub(super) struct BusSecurity<T> {
    identity: Identity,
    /// Of the bus's options: counts without a user name too.
    password: SecretText,
    /// A file beside the secret, with the name of its setting.
    file: Option<(&'static str, String)>,
    make: fn(Security) -> T,
    last: Mutex<Option<(Parts, Arc<T>)>>,
}

/// What it is made of. As long as that is the same, so is the result.
#[derive(Clone, PartialEq, Eq)]
struct Parts {
    login: Option<(String, SecretText)>,
    tls: Option<TlsSettings>,
    file: Option<SecretText>,
}

impl<T: Send + Sync> BusSecurity<T> {
    /// Encrypted is what has a scheme that says so (`tls`, `ssl`, `tcps`, `rediss`), and what has the bus's own scheme and
    /// certificates beside it, as in EdgeX. `file` is read along with the secret.
    ///
    /// # Errors
    /// What is wrong with the settings, or with secret and files as they are at the start.
    pub(super) async fn try_new(
        bus: &MessageBus,
        secrets: &Arc<dyn SecretProvider>,
        file: Option<(&'static str, String)>,
        make: fn(Security) -> T,
    ) -> Result<Arc<Self>, TriggerError> {
        let wrong =
            |error: &dyn Error| TriggerError::Configuration(format!("MessageBus: {}", with_causes(error)));
        let auth_mode: AuthMode = bus.auth_mode.parse().map_err(|error| wrong(&error))?;
        let options = options(bus);
        let is_set = |pem: &PemSetting| !pem.block.expose().is_empty() || !pem.file.is_empty();
        let certificates = [&options.certificate, &options.key, &options.authorities]
            .into_iter()
            .any(is_set)
            || matches!(auth_mode, AuthMode::ClientCert | AuthMode::CaCert);
        let encrypted = match bus.protocol.as_str() {
            "tls" | "ssl" | "tcps" | "rediss" | "mqtts" => true,
            "redis" | "nats" => certificates,
            _ => false,
        };
        let password = options.password.clone();
        let identity = Identity {
            address: BrokerAddress {
                host: bus.host.clone(),
                port: bus.port,
                encrypted,
                credentials: None,
            },
            auth_mode,
            secret_name: bus.secret_name.clone(),
            skip_verify: bus.skip_cert_verify(),
            rules: Rules::MessageBus(Box::new(options)),
            secrets: secrets.clone(),
        };
        for remark in identity.remarks() {
            tracing::warn!("MessageBus: {remark}");
        }
        let security = Self {
            identity,
            password,
            file,
            make,
            last: Mutex::default(),
        };
        security.current().await.map_err(|error| wrong(&*error))?;
        Ok(Arc::new(security))
    }

    async fn parts(&self) -> Result<Parts, RenewError> {
        let security = self.identity.security().await?;
        let login = match security.credentials {
            Some(Credentials { username, password }) => Some((username, password)),
            None => {
                let of_secret = match self.identity.auth_mode {
                    AuthMode::UsernamePassword => {
                        let secret = self.identity.secrets.secret(&self.identity.secret_name);
                        secret.await?.remove("password")
                    }
                    _ => None,
                };
                [of_secret, Some(self.password.clone())]
                    .into_iter()
                    .flatten()
                    .find(|password| !password.expose().is_empty())
                    .map(|password| (String::new(), password))
            }
        };
        let file = match &self.file {
            None => None,
            Some((setting, path)) => {
                let text = tokio::fs::read_to_string(path).await;
                let text = text.map_err(|error| format!("{setting} '{path}' cannot be read: {error}"))?;
                Some(SecretText::new(text))
            }
        };
        Ok(Parts {
            login,
            tls: security.tls,
            file,
        })
    }
}

impl<T: Send + Sync> Renewable<T> for BusSecurity<T> {
    fn current(&self) -> BoxFuture<'_, Result<Arc<T>, RenewError>> {
        Box::pin(async move {
            let parts = self.parts().await?;
            // Nothing in here can panic with a change half made.
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((known, made)) = &*last
                && *known == parts
            {
                return Ok(made.clone());
            }
            let Parts { login, tls, file } = parts.clone();
            let tls = tls.as_ref().map(TlsSettings::client_config).transpose()?;
            let made = Arc::new((self.make)(Security { login, tls, file }));
            *last = Some((parts, made.clone()));
            Ok(made)
        })
    }
}
