//! As whom to connect to a bus that is not MQTT, and whom to believe: by the same rules.

use std::sync::Arc;

use edgehold_config::configuration::MessageBus;
use edgehold_core::{SecretProvider, SecretText, TriggerError};
use edgehold_mqtt::{AuthMode, BrokerAddress, Identity, Rules, TlsSettings};
use rustls::ClientConfig;

use super::options;
use crate::logging::with_causes;

/// What a connection needs beside its address.
pub(super) struct Security {
    /// User name and password. With the user name missing, a password alone is one (Redis without users).
    pub(super) login: Option<(String, SecretText)>,
    /// Encryption.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// Reads secret and certificates. Encrypted is what has a scheme that says so (`tls`, `ssl`, `tcps`, `rediss`), and what
/// has the bus's own scheme and certificates beside it, as in EdgeX.
pub(super) async fn security(
    bus: &MessageBus,
    secrets: &Arc<dyn SecretProvider>,
) -> Result<Security, TriggerError> {
    let wrong = |error: &dyn std::error::Error| TriggerError::Configuration(with_causes(error));
    let auth_mode: AuthMode = bus.auth_mode.parse().map_err(|error| wrong(&error))?;
    let options = options(bus);
    let certificates = [&options.certificate, &options.key, &options.authorities]
        .iter()
        .any(|pem| !pem.block.expose().is_empty() || !pem.file.is_empty())
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
    let security = identity.security().await.map_err(|error| wrong(&error))?;
    let login = match security.credentials {
        Some(credentials) => Some((credentials.username, credentials.password)),
        None => {
            let of_secret = match auth_mode {
                AuthMode::UsernamePassword => {
                    let secret = secrets.secret(&bus.secret_name).await;
                    secret.map_err(|error| wrong(&error))?.remove("password")
                }
                _ => None,
            };
            [of_secret, Some(password)]
                .into_iter()
                .flatten()
                .find(|password| !password.expose().is_empty())
                .map(|password| (String::new(), password))
        }
    };
    let tls = security.tls.as_ref().map(TlsSettings::client_config).transpose();
    Ok(Security {
        login,
        tls: tls.map_err(|error| wrong(&error))?,
    })
}
