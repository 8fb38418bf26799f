//! Which PostgreSQL server the settings mean, and as whom.
//!
//! User, password and certificates are in the secret that is named as `Database/Type` is written: `username`, `password`,
//! and where they are needed `cacert` (an authority of one's own), `clientcert` and `clientkey`.

use std::path::Path;

use edgehold_config::configuration::Database;
use edgehold_core::{SecretError, SecretProvider, SecretText, ServiceKey};
use edgehold_store::StoreError;
use edgehold_store_postgres::{Options, SslMode, Tls};

/// PostgreSQL's own port.
const PORT: u16 = 5432;

/// Reads the secret. `name` is the name of the database (`EDGEX_DBNAME`).
pub(crate) async fn options(
    database: &Database,
    name: &str,
    service_key: &ServiceKey,
    secrets: &dyn SecretProvider,
) -> Result<Options, StoreError> {
    let mut secret = secrets
        .secret(&database.kind)
        .await
        .map_err(|error| match error {
            SecretError::Unavailable { reason } => StoreError::Unavailable {
                reason: format!("no credentials: {reason}"),
                source: None,
            },
            _ => StoreError::Configuration(format!(
                "there is no secret '{}' with the keys username and password",
                database.kind
            )),
        })?;
    let mut take = |key: &str| secret.remove(key).filter(|value| !value.expose().is_empty());
    let username = take("username").map(|name| name.expose().to_owned());
    let password = take("password").unwrap_or_else(|| SecretText::new(""));
    let authority = take("cacert");
    let identity = match (take("clientcert"), take("clientkey")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(StoreError::Configuration(format!(
                "the secret '{}' has one of clientcert and clientkey, and needs both or neither",
                database.kind
            )));
        }
    };
    let given = |text: &str, default: &str| match text {
        "" => default.to_owned(),
        text => text.to_owned(),
    };
    Ok(Options {
        port: if database.port == 0 { PORT } else { database.port },
        database: name.to_owned(),
        username: username.unwrap_or_default(),
        password,
        tls: Tls {
            mode: SslMode::from_name(&database.ssl_mode),
            authority,
            identity,
        },
        timeout: database.timeout,
        ..Options::new(given(&database.host, "localhost"), service_key.clone())
    })
}

/// The file that tells an instance from others and makes it the same one after a restart.
pub(crate) fn identity_file(data_dir: &Path, service_key: &ServiceKey) -> std::path::PathBuf {
    data_dir.join(format!("{service_key}.instance"))
}
