//! Secrets that change while the service runs.

use std::{collections::BTreeSet, sync::Arc};

use edgehold_config::{Writable, secrets::changed_names};
use tokio::sync::watch;

/// Tells which secrets have changed. Whoever asks for a secret at each use ([`Setup::secrets`](crate::Setup::secrets), and
/// every built-in function) has the current one anyway; this is for what was made from a secret and is kept.
/// (EdgeX: `RegisterSecretUpdatedCallback`.)
pub struct SecretWatch {
    writable: watch::Receiver<Arc<Writable>>,
    seen: Arc<Writable>,
}

impl SecretWatch {
    pub(crate) fn new(mut writable: watch::Receiver<Arc<Writable>>) -> Self {
        let seen = writable.borrow_and_update().clone();
        Self { writable, seen }
    }

    /// Waits until secrets were added, changed, renamed or removed since the last call, and answers their names, those
    /// from before a renaming too. Several changes between two calls are one. When the service has ended it never returns.
    /// Cancel-safe.
    pub async fn changed(&mut self) -> BTreeSet<String> {
        loop {
            if self.writable.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let now = self.writable.borrow_and_update().clone();
            let names = changed_names(&self.seen, &now);
            self.seen = now;
            if !names.is_empty() {
                return names;
            }
        }
    }
}
