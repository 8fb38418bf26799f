//! The shared HTTP clients. A client is a pool of connections, so there are as few of them as possible.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use reqwest::{Client, ClientBuilder, redirect};

const USER_AGENT: &str = concat!("edgehold/", env!("CARGO_PKG_VERSION"));

/// Shorter than the 60 seconds and more of most servers: a connection that the server closes at the moment of its next
/// use costs a failed attempt.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// As many messages as a pipeline handles at a time by default (`Writable.Pipeline.Concurrency`).
const POOL_MAX_IDLE_PER_HOST: usize = 64;

/// One client for each connect timeout, as long as somebody uses it.
#[derive(Default)]
pub(super) struct Clients(Mutex<BTreeMap<Duration, Weak<Client>>>);

impl Clients {
    /// The client with this connect timeout.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn get(&self, connect_timeout: Duration) -> Result<Arc<Client>, reqwest::Error> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|_, client| client.strong_count() > 0);
        if let Some(client) = clients.get(&connect_timeout).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let client = Arc::new(build(connect_timeout)?);
        clients.insert(connect_timeout, Arc::downgrade(&client));
        Ok(client)
    }
}

fn build(connect_timeout: Duration) -> Result<Client, reqwest::Error> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Without one the client would panic. Losing the race to another installer is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    settings(connect_timeout).build().or_else(|error| {
        // A slim container has no certificates of authorities. That must not stop an export to a plain http URL.
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "no trusted certificates were found: exports to https URLs will fail"
        );
        settings(connect_timeout).tls_certs_only([]).build()
    })
}

/// Proxies are taken from the environment, as the client does by itself. Redirects are followed by `request`.
fn settings(connect_timeout: Duration) -> ClientBuilder {
    Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(POOL_MAX_IDLE_PER_HOST)
        .redirect(redirect::Policy::none())
        // Go's form of header names: small servers are known to compare them byte by byte.
        .http1_title_case_headers()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_shared_while_it_is_used() {
        let clients = Clients::default();
        let first = clients.get(Duration::from_secs(5)).unwrap();
        let same = clients.get(Duration::from_secs(5)).unwrap();
        let other = clients.get(Duration::from_secs(6)).unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert!(!Arc::ptr_eq(&first, &other));

        drop((first, same));
        clients.get(Duration::from_secs(6)).unwrap();

        let known: Vec<_> = clients.0.lock().unwrap().keys().copied().collect();
        assert_eq!(known, [Duration::from_secs(6)], "a client nobody uses is let go");
    }
}
