//! The HTTP clients. A client is a pool of connections, so there are as few of them as possible: one for each set of
//! settings, certificates included, shared by all exports that have the same.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use edgehold_core::{SecretError, SecretProvider, SecretText};
use reqwest::{Certificate, Client, ClientBuilder, Identity, redirect};

use super::proxy::{InvalidProxy, proxies};

const USER_AGENT: &str = concat!("edgehold/", env!("CARGO_PKG_VERSION"));

/// Shorter than the 60 seconds and more of most servers: a connection that the server closes at the moment of its next
/// use costs a failed attempt.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// As many messages as a pipeline handles at a time by default (`Writable.Pipeline.Concurrency`).
const POOL_MAX_IDLE_PER_HOST: usize = 64;

/// What tells one client from another.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ClientSettings {
    pub(super) connect_timeout: Duration,
    /// Whether any certificate of a server will do.
    pub(super) skip_verify: bool,
    pub(super) certificates: Certificates,
}

/// The texts in PEM that a secret holds; the empty ones are not there.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    /// `cacert`: the only authorities to believe.
    authorities: SecretText,
    /// `clientcert`
    client: SecretText,
    /// `clientkey`
    key: SecretText,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The secret with the certificates cannot be had.
    #[error("the secret with the certificates is not there")]
    Secret(#[from] SecretError),
    /// It holds something else.
    #[error("{key} of the secret with the certificates {problem}")]
    Certificates {
        key: &'static str,
        problem: &'static str,
    },
    /// A proxy that cannot be used.
    #[error(transparent)]
    Proxy(#[from] InvalidProxy),
    /// The settings make no client.
    #[error("no HTTP client can be made")]
    Client(#[source] reqwest::Error),
}

/// Where an export gets its client.
pub(super) struct ClientSource {
    clients: Arc<Clients>,
    /// Its certificates are those of the last call.
    last: Mutex<(ClientSettings, Option<Arc<Client>>)>,
    /// The secret to ask for certificates at each call.
    secret_name: Option<String>,
}

impl ClientSource {
    /// Makes the client at once if no secret is needed for it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(super) fn try_new(
        clients: Arc<Clients>,
        settings: ClientSettings,
        secret_name: Option<String>,
    ) -> Result<Self, ClientError> {
        let client = match &secret_name {
            None => Some(clients.get(&settings)?),
            Some(_) => None,
        };
        Ok(Self {
            clients,
            last: Mutex::new((settings, client)),
            secret_name,
        })
    }

    /// The client for the certificates as the secret holds them now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(super) async fn client(&self, secrets: &dyn SecretProvider) -> Result<Arc<Client>, ClientError> {
        let certificates = match &self.secret_name {
            None => Certificates::default(),
            Some(name) => {
                let mut secret = secrets.secret(name).await?;
                let mut text = |key| secret.remove(key).unwrap_or_default();
                Certificates {
                    authorities: text("cacert"),
                    client: text("clientcert"),
                    key: text("clientkey"),
                }
            }
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (settings, client) = &mut *last;
        if let (true, Some(client)) = (settings.certificates == certificates, &*client) {
            return Ok(client.clone());
        }
        settings.certificates = certificates;
        *client = None;
        Ok(client.insert(self.clients.get(settings)?).clone())
    }
}

/// One client for each set of settings, as long as somebody uses it.
#[derive(Default)]
pub(super) struct Clients(Mutex<Vec<(ClientSettings, Weak<Client>)>>);

impl Clients {
    /// The client with these settings.
    ///
    /// # Errors
    /// When TLS or a proxy cannot be set up.
    pub(super) fn get(&self, settings: &ClientSettings) -> Result<Arc<Client>, ClientError> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|(_, client)| client.strong_count() > 0);
        let known = clients.iter().find(|(known, _)| known == settings);
        if let Some(client) = known.and_then(|(_, client)| client.upgrade()) {
            return Ok(client);
        }
        let client = Arc::new(build(settings)?);
        clients.push((settings.clone(), Arc::downgrade(&client)));
        Ok(client)
    }
}

fn build(settings: &ClientSettings) -> Result<Client, ClientError> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Without one the client would panic. Losing the race to another installer is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let Certificates {
        authorities,
        client,
        key,
    } = &settings.certificates;
    let mut builder = builder(settings)?;
    if let Some(pem) = given(client).or(given(key)) {
        let pem = match (given(client), given(key)) {
            (Some(client), Some(key)) => format!("{client}\n{key}"),
            _ => pem.to_owned(),
        };
        let identity = Identity::from_pem(pem.as_bytes()).map_err(|_| ClientError::Certificates {
            key: "clientcert or clientkey",
            problem: "is missing or not in PEM",
        })?;
        builder = builder.identity(identity);
    }
    if let Some(pem) = given(authorities) {
        let certificates = Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
        if certificates.is_empty() {
            return Err(ClientError::Certificates {
                key: "cacert",
                problem: "holds no certificate in PEM",
            });
        }
        return builder
            .tls_certs_only(certificates)
            .build()
            .map_err(ClientError::Client);
    }
    match builder.build() {
        Ok(client) => Ok(client),
        Err(error) if settings.certificates == Certificates::default() => {
            // A slim container has no certificates of authorities. That must not stop an export to a plain http URL.
            tracing::warn!(
                error = &error as &dyn Error,
                "no trusted certificates were found: exports to https URLs will fail"
            );
            let builder = self::builder(settings)?.tls_certs_only([]);
            builder.build().map_err(ClientError::Client)
        }
        Err(error) => Err(ClientError::Client(error)),
    }
}

fn given(pem: &SecretText) -> Option<&str> {
    Some(pem.expose().trim()).filter(|pem| !pem.is_empty())
}

/// Redirects are followed by `request`.
fn builder(settings: &ClientSettings) -> Result<ClientBuilder, InvalidProxy> {
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(POOL_MAX_IDLE_PER_HOST)
        .redirect(redirect::Policy::none())
        .tls_danger_accept_invalid_certs(settings.skip_verify)
        // Go's form of header names: small servers are known to compare them byte by byte.
        .http1_title_case_headers()
        .no_proxy();
    let proxies = proxies(|name| std::env::var(name).ok())?;
    Ok(proxies
        .into_iter()
        .fold(builder, |builder, proxy| builder.proxy(proxy)))
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSettings")
            .field("connect_timeout", &self.connect_timeout)
            .field("skip_verify", &self.skip_verify)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(seconds: u64) -> ClientSettings {
        ClientSettings {
            connect_timeout: Duration::from_secs(seconds),
            skip_verify: false,
            certificates: Certificates::default(),
        }
    }

    #[test]
    fn a_client_is_shared_while_it_is_used() {
        let clients = Clients::default();
        let first = clients.get(&settings(5)).unwrap();
        let same = clients.get(&settings(5)).unwrap();
        let other = clients.get(&settings(6)).unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert!(!Arc::ptr_eq(&first, &other));

        drop((first, same));
        clients.get(&settings(6)).unwrap();

        let known: Vec<_> = clients
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|(known, _)| known.clone())
            .collect();
        assert_eq!(known, [settings(6)], "a client nobody uses is let go");
    }

    #[test]
    fn what_is_no_certificate_is_refused_by_the_name_of_its_key() {
        let text = SecretText::new;
        for (authorities, client, key, named) in [
            ("sesame", "", "", "cacert"),
            ("", "sesame", "", "clientcert"),
            ("", "", "sesame", "clientkey"),
            ("", "sesame", "sesame", "clientkey"),
        ] {
            let certificates = Certificates {
                authorities: text(authorities),
                client: text(client),
                key: text(key),
            };
            let error = build(&ClientSettings {
                certificates,
                ..settings(5)
            })
            .unwrap_err()
            .to_string();
            assert!(error.contains(named) && !error.contains("sesame"), "{error}");
        }
    }
}
