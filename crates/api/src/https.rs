//! TLS of the REST interface: certificate and key from a secret (`HttpServer`).
//!
//! Owns the way from a secret to a handshake. The secret is asked for with every connection, so that a renewed
//! certificate counts from the next one on; one that cannot be used is named once, and the last good one stays.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use edgehold_config::configuration::HttpServer;
use edgehold_core::{SecretError, SecretProvider, SecretText};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
    server::TlsStream,
};

/// Why the REST interface cannot be served over TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpsError {
    /// Where certificate and key are is not said.
    #[error("HttpServer.Protocol is https, but {0} is not set")]
    NotSet(&'static str),
    /// The secret does not have them.
    #[error("HttpServer.Protocol is https, but its certificate cannot be had: {0}")]
    Secret(#[from] SecretError),
    /// They are not what they should be. The text in them is not told.
    #[error("HttpServer.Protocol is https, but '{key}' of secret '{secret}' {reason}")]
    Unusable {
        /// The secret.
        secret: String,
        /// Its key.
        key: String,
        /// What is wrong with the value.
        reason: &'static str,
    },
}

/// Certificate and key of the REST interface, always those that the secret holds.
pub struct Https {
    secrets: Arc<dyn SecretProvider>,
    settings: HttpServer,
    current: Mutex<Current>,
}

/// What the secret held last.
struct Current {
    pem: Pem,
    config: Arc<ServerConfig>,
    /// What is wrong with what it holds now, once that has been said.
    told: Option<HttpsError>,
}

#[derive(Clone, PartialEq, Eq)]
struct Pem {
    certificate: SecretText,
    key: SecretText,
}

/// What Go answers.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// How much is read of a request that is refused, so that its sender gets to see the refusal.
const MOST_DISCARDED_BYTES: u64 = 64 * 1024;

impl Https {
    /// Certificate and key as `settings` say; none unless its `Protocol` is exactly `https`, as in EdgeX.
    ///
    /// # Errors
    /// [`HttpsError`] when the secret does not hold both in PEM, or they do not belong together.
    pub async fn from_settings(
        settings: &HttpServer,
        secrets: Arc<dyn SecretProvider>,
    ) -> Result<Option<Self>, HttpsError> {
        if settings.protocol != "https" {
            return Ok(None);
        }
        for (name, value) in [
            ("HttpServer.SecretName", &settings.secret_name),
            ("HttpServer.HTTPSCertName", &settings.https_cert_name),
            ("HttpServer.HTTPSKeyName", &settings.https_key_name),
        ] {
            if value.is_empty() {
                return Err(HttpsError::NotSet(name));
            }
        }
        let pem = read(&*secrets, settings).await?;
        let config = server_config(settings, &pem)?;
        Ok(Some(Self {
            secrets,
            settings: settings.clone(),
            current: Mutex::new(Current {
                pem,
                config,
                told: None,
            }),
        }))
    }

    /// Makes a connection a TLS one; none when that fails. Whoever speaks plain HTTP is told so.
    pub(crate) async fn handshake(&self, mut stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let mut first = [0];
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        // A handshake begins with 22, a request with a capital letter.
        if first[0].is_ascii_uppercase() {
            stream.write_all(PLAIN_HTTP).await.ok()?;
            stream.shutdown().await.ok()?;
            let mut rest = stream.take(MOST_DISCARDED_BYTES);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.ok()?;
            return None;
        }
        let acceptor = TlsAcceptor::from(self.current().await);
        acceptor.accept(stream).await.ok()
    }

    /// What the next handshake is made with.
    async fn current(&self) -> Arc<ServerConfig> {
        let found = read(&*self.secrets, &self.settings).await;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let renewed = match found {
            Ok(pem) if pem == current.pem => {
                current.told = None;
                return current.config.clone();
            }
            Ok(pem) => server_config(&self.settings, &pem).map(|config| (pem, config)),
            Err(error) => Err(error.into()),
        };
        match renewed {
            Ok((pem, config)) => {
                tracing::info!("the certificate of the REST interface has been renewed");
                *current = Current {
                    pem,
                    config,
                    told: None,
                };
            }
            Err(error) => {
                if current.told.as_ref() != Some(&error) {
                    tracing::error!("the REST interface keeps its last good certificate: {error}");
                    current.told = Some(error);
                }
            }
        }
        current.config.clone()
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https")
            .field("secret_name", &self.settings.secret_name)
            .finish_non_exhaustive()
    }
}

async fn read(secrets: &dyn SecretProvider, settings: &HttpServer) -> Result<Pem, SecretError> {
    let name = &settings.secret_name;
    let secret = secrets.secret(name).await?;
    // Both may stand in one value.
    let take = |key: &String| {
        secret.get(key).cloned().ok_or_else(|| SecretError::MissingKeys {
            name: name.clone(),
            keys: key.clone(),
        })
    };
    Ok(Pem {
        certificate: take(&settings.https_cert_name)?,
        key: take(&settings.https_key_name)?,
    })
}

fn server_config(settings: &HttpServer, pem: &Pem) -> Result<Arc<ServerConfig>, HttpsError> {
    let unusable = |key: &str, reason| HttpsError::Unusable {
        secret: settings.secret_name.clone(),
        key: key.to_owned(),
        reason,
    };
    // Errors of the parser quote what they could not read, so they are not passed on.
    let certificate = pem.certificate.expose().as_bytes();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|chain: &Vec<_>| !chain.is_empty())
        .ok_or_else(|| unusable(&settings.https_cert_name, "is not a certificate in PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.expose().as_bytes())
        .map_err(|_| unusable(&settings.https_key_name, "is not a private key in PEM"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring can do TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|_| {
            unusable(
                &settings.https_key_name,
                "cannot be used, or is not the key of its certificate",
            )
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
