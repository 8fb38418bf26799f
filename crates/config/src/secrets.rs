//! The secrets of insecure mode: `Writable.InsecureSecrets`, looked up by the name inside each entry.

use std::sync::Arc;

use edgehold_core::{BoxFuture, Secret, SecretError, SecretProvider};
use tokio::sync::watch;

use crate::configuration::Writable;

/// Gives the secrets of the configuration that holds at the moment of asking.
///
/// When several entries carry the same `SecretName`, the one whose entry has that name too is taken (that is where
/// `POST /secret` writes), else the first by entry. EdgeX picks one at random.
#[derive(Clone, Debug)]
pub struct InsecureSecretProvider {
    writable: watch::Receiver<Arc<Writable>>,
}

impl InsecureSecretProvider {
    /// Looks secrets up in the current value of `writable`.
    pub fn new(writable: watch::Receiver<Arc<Writable>>) -> Self {
        Self { writable }
    }
}

impl SecretProvider for InsecureSecretProvider {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        Box::pin(async move {
            let writable = self.writable.borrow();
            find(&writable, name)
                .cloned()
                .ok_or_else(|| SecretError::UnknownName {
                    name: name.to_owned(),
                })
        })
    }
}

fn find<'a>(writable: &'a Writable, name: &str) -> Option<&'a Secret> {
    let entries = &writable.insecure_secrets;
    entries
        .get(name)
        .filter(|secret| secret.secret_name == name)
        .or_else(|| entries.values().find(|secret| secret.secret_name == name))
        .map(|secret| &secret.data)
}

#[cfg(test)]
mod tests {
    use edgehold_core::SecretText;

    use super::*;
    use crate::{Layer, Layers, resolve};

    fn writable<const N: usize>(leaves: [(&str, &str); N]) -> Arc<Writable> {
        let private: Layer = leaves
            .into_iter()
            .map(|(path, text)| (format!("Writable/InsecureSecrets/{path}"), text))
            .collect();
        resolve(
            &Layers {
                private,
                ..Layers::default()
            },
            None,
        )
        .configuration
        .writable
        .clone()
    }

    #[tokio::test]
    async fn a_secret_is_found_by_the_name_inside_the_entry() {
        let (sender, receiver) = watch::channel(writable([
            ("DB/SecretName", "redisdb"),
            ("DB/SecretData/password", "one"),
        ]));
        let provider: Arc<dyn SecretProvider> = Arc::new(InsecureSecretProvider::new(receiver));
        assert_eq!(
            provider.value("redisdb", "password").await.unwrap(),
            SecretText::new("one")
        );
        assert!(matches!(
            provider.secret("DB").await,
            Err(SecretError::UnknownName { .. })
        ));
        assert!(matches!(
            provider.value("redisdb", "username").await,
            Err(SecretError::MissingKeys { .. })
        ));
        sender.send_replace(writable([
            ("DB/SecretName", "redisdb"),
            ("DB/SecretData/password", "two"),
        ]));
        assert_eq!(
            provider.value("redisdb", "password").await.unwrap(),
            SecretText::new("two")
        );
    }

    #[test]
    fn of_two_entries_the_one_of_that_name_is_taken_else_the_first() {
        let of = |writable: &Writable| find(writable, "redisdb").unwrap()["k"].expose().to_owned();
        let named = writable([
            ("DB/SecretName", "redisdb"),
            ("DB/SecretData/k", "a"),
            ("redisdb/SecretName", "redisdb"),
            ("redisdb/SecretData/k", "b"),
        ]);
        assert_eq!(of(&named), "b");
        let unnamed = writable([
            ("DB/SecretName", "redisdb"),
            ("DB/SecretData/k", "a"),
            ("Z/SecretName", "redisdb"),
            ("Z/SecretData/k", "b"),
        ]);
        assert_eq!(of(&unnamed), "a");
    }
}
