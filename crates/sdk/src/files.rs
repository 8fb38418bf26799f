//! The two configuration files, wherever they are: in a folder, or behind the address that `-cf` or `-cc` names.
//!
//! An address may name a secret to send along. At that moment there is no configuration yet, so the secret is looked up
//! in what is known already: the common configuration for the private file, and the other way round.

use std::{path::Path, sync::Arc};

use edgehold_clients::{FileUri, RequestHeader};
use edgehold_config::{
    ConfigurationProvider, Layer, Layers, environment,
    file::{self, CommonConfig, FileProvider, FileSource, as_uri},
    resolve,
    secrets::InsecureSecretProvider,
    yaml::Document,
};
use edgehold_core::SecretProvider as _;
use tokio::sync::watch;

use crate::{bootstrap::ConfigurationError, invocation::Invocation};

/// Reads the private file. `known` is what has been read before it.
pub(crate) async fn read_private(
    invocation: &Invocation,
    known: &Layers,
) -> Result<Document, ConfigurationError> {
    let path = invocation.flags.private_config_file();
    let Some(uri) = uri(&path)? else {
        tracing::info!("Loading configuration file from {}", path.display());
        return Ok(file::read_private(path)?);
    };
    let text = fetch(&uri, invocation, known).await?;
    Ok(file::parse_private(&text, &uri.to_string())?)
}

/// Reads the common file, when there is to be one. `known` is what has been read before it.
pub(crate) async fn read_common(
    invocation: &Invocation,
    known: &Layers,
) -> Result<Option<CommonConfig>, ConfigurationError> {
    let Some(path) = &invocation.flags.common_config else {
        return Ok(None);
    };
    let common = match uri(path)? {
        None => file::read_common(path)?,
        Some(uri) => {
            let text = fetch(&uri, invocation, known).await?;
            file::parse_common(&text, &uri.to_string())?
        }
    };
    tracing::info!("Common configuration loaded from file");
    Ok(Some(common))
}

/// Whether the private file has to be read before the common one, because that one's address names a secret.
pub(crate) fn private_comes_first(invocation: &Invocation) -> Result<bool, ConfigurationError> {
    let Some(path) = &invocation.flags.common_config else {
        return Ok(false);
    };
    Ok(uri(path)?.is_some_and(|uri| uri.secret_name().is_some()))
}

/// The files as a provider that follows them; none when both are behind addresses. `read` is what was read from them.
pub(crate) fn followed(
    invocation: &Invocation,
    read: &Layers,
) -> Result<Option<Arc<dyn ConfigurationProvider>>, ConfigurationError> {
    let path = invocation.flags.private_config_file();
    let private = match uri(&path)? {
        None => FileSource::File(path),
        Some(_) => FileSource::Fixed(read.private.clone()),
    };
    let common = match &invocation.flags.common_config {
        Some(path) if uri(path)?.is_none() => FileSource::File(path.clone()),
        _ => {
            let document = |layer: &Layer| Document {
                layer: layer.clone(),
                ..Document::default()
            };
            FileSource::Fixed(CommonConfig {
                all_services: document(&read.all_services),
                app_services: document(&read.app_services),
            })
        }
    };
    if let (FileSource::Fixed(_), FileSource::Fixed(_)) = (&private, &common) {
        return Ok(None);
    }
    Ok(Some(Arc::new(FileProvider::new(private, common))))
}

fn uri(path: &Path) -> Result<Option<FileUri>, ConfigurationError> {
    Ok(as_uri(path).map(FileUri::parse).transpose()?)
}

async fn fetch(uri: &FileUri, invocation: &Invocation, known: &Layers) -> Result<String, ConfigurationError> {
    tracing::info!("Loading configuration file from {uri}");
    let header = match uri.secret_name() {
        None => None,
        Some(name) => Some(header(uri, &name, invocation, known).await?),
    };
    Ok(uri.fetch(header, invocation.flags.file_uri_timeout).await?)
}

async fn header(
    uri: &FileUri,
    name: &str,
    invocation: &Invocation,
    known: &Layers,
) -> Result<RequestHeader, ConfigurationError> {
    let mut known = known.clone();
    known.environment = environment::overrides(&invocation.environment, &known)?.layer;
    let (_sender, writable) = watch::channel(resolve(&known, None).configuration.writable.clone());
    let secret = InsecureSecretProvider::new(writable).secret(name).await;
    let secret = secret.map_err(|source| ConfigurationError::FileSecret {
        uri: uri.to_string(),
        source,
    })?;
    Ok(RequestHeader::from_secret(name, &secret)?)
}
