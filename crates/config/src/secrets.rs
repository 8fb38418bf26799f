//! The secrets of insecure mode: `Writable.InsecureSecrets`, looked up by the name inside each entry, and stored there.

use std::{collections::BTreeSet, sync::Arc};

use edgehold_core::{BoxFuture, Secret, SecretError, SecretProvider, SecretStorer, StoreSecretError};
use tokio::sync::watch;

use crate::{
    ConfigurationProvider, Edit, EditError, ProviderError, configuration::Writable, schema::INSECURE_SECRETS,
};

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

/// Stores secrets in the private section of a configuration provider, from where the service's own watch brings them.
///
/// A secret that an entry carries already is changed in that entry, whatever the entry is called; EdgeX adds another one
/// and then finds either. A new one gets an entry of its own name, with what cannot stand in a key written as `~` and two
/// digits. A secret is written whole or not at all. Keys that are not given stay.
pub struct InsecureSecretStorer {
    provider: Option<Arc<dyn ConfigurationProvider>>,
    writable: watch::Receiver<Arc<Writable>>,
}

impl InsecureSecretStorer {
    /// Stores with this provider; without one nothing can be stored. `writable` tells which entries there are.
    pub fn new(
        provider: Option<Arc<dyn ConfigurationProvider>>,
        writable: watch::Receiver<Arc<Writable>>,
    ) -> Self {
        Self { provider, writable }
    }
}

/// EdgeX's words.
const NO_PROVIDER: &str =
    "can't store secrets. ConfigurationProvider is not in use or has not been properly initialized";

impl SecretStorer for InsecureSecretStorer {
    fn store<'a>(&'a self, name: &'a str, data: &'a Secret) -> BoxFuture<'a, Result<(), StoreSecretError>> {
        Box::pin(async move {
            let provider = self
                .provider
                .as_ref()
                .ok_or(StoreSecretError::NotPossible(NO_PROVIDER))?;
            if let Some(key) = data.keys().find(|key| key.contains('/')) {
                return Err(StoreSecretError::Invalid {
                    reason: format!(
                        "the key '{key}' contains '/', which separates the keys of a configuration"
                    ),
                });
            }
            let folder = format!("{INSECURE_SECRETS}{}", entry_for(&self.writable.borrow(), name));
            let mut secret = vec![Edit::set(format!("{folder}/SecretName"), name)];
            let keys = data
                .iter()
                .map(|(key, value)| Edit::set(format!("{folder}/SecretData/{key}"), value.expose()));
            secret.extend(keys);
            match provider.edit(&[secret]).await {
                Ok(_) => Ok(()),
                // Files are none that secrets could be written to.
                Err(EditError::Provider(ProviderError::ReadOnly { .. })) => {
                    Err(StoreSecretError::NotPossible(NO_PROVIDER))
                }
                Err(error @ EditError::TooLarge { .. }) => Err(StoreSecretError::Invalid {
                    reason: error.to_string(),
                }),
                Err(error) => Err(StoreSecretError::Unavailable {
                    reason: format!("error setting secretName value in the config provider -> {error}"),
                }),
            }
        })
    }
}

/// The names of secrets that are other ones now: added, changed, removed, and both names of one that was renamed.
pub fn changed_names(before: &Writable, now: &Writable) -> BTreeSet<String> {
    let secrets = before
        .insecure_secrets
        .values()
        .chain(now.insecure_secrets.values());
    let names: BTreeSet<&str> = secrets.map(|secret| secret.secret_name.as_str()).collect();
    let changed = names
        .into_iter()
        .filter(|name| find(before, name) != find(now, name));
    changed.map(str::to_owned).collect()
}

fn find<'a>(writable: &'a Writable, name: &str) -> Option<&'a Secret> {
    let entries = &writable.insecure_secrets;
    entry_of(writable, name)
        .and_then(|entry| entries.get(entry))
        .map(|secret| &secret.data)
}

/// The entry that carries this secret.
fn entry_of<'a>(writable: &'a Writable, name: &str) -> Option<&'a str> {
    let entries = &writable.insecure_secrets;
    let mut carriers = entries.iter().filter(|(_, secret)| secret.secret_name == name);
    let first = carriers.clone().next();
    carriers
        .find(|(entry, _)| *entry == name)
        .or(first)
        .map(|(entry, _)| entry.as_str())
}

/// The entry a secret is to be stored in: the one that carries it, else one that nobody has.
fn entry_for(writable: &Writable, name: &str) -> String {
    if let Some(entry) = entry_of(writable, name) {
        return entry.to_owned();
    }
    let plain = as_segment(name);
    let numbered = (2..).map(|number| format!("{plain}~{number}"));
    std::iter::once(plain.clone())
        .chain(numbered)
        .find(|entry| !writable.insecure_secrets.contains_key(entry))
        .expect("there are more numbers than entries")
}

/// A name as one segment of a key: only characters that every provider takes, no two names alike.
fn as_segment(name: &str) -> String {
    let mut segment = String::new();
    // `.` and `..` would be steps in a path.
    let only_dots = name.bytes().all(|byte| byte == b'.');
    for byte in name.bytes() {
        match byte {
            b'.' if !only_dots => segment.push('.'),
            b'-' | b'_' => segment.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => segment.push(char::from(byte)),
            byte => segment.push_str(&format!("~{byte:02X}")),
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use edgehold_core::SecretText;

    use super::*;
    use crate::{Layer, Layers, memory::MemoryProvider, resolve};

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

    fn secret<const N: usize>(data: [(&str, &str); N]) -> Secret {
        let values = data.map(|(key, value)| (key.to_owned(), SecretText::new(value)));
        values.into_iter().collect()
    }

    /// A storer over these entries, and the provider it writes to.
    fn storer(writable: Arc<Writable>) -> (InsecureSecretStorer, MemoryProvider) {
        let provider = MemoryProvider::default();
        let storer = InsecureSecretStorer::new(Some(Arc::new(provider.clone())), watch::channel(writable).1);
        (storer, provider)
    }

    async fn stored(provider: &MemoryProvider) -> Vec<(String, String)> {
        let private = provider.load().await.unwrap().private.unwrap_or_default();
        private
            .iter()
            .map(|(path, text)| (path.replace("Writable/InsecureSecrets/", ""), text.to_owned()))
            .collect()
    }

    #[tokio::test]
    async fn a_new_secret_gets_an_entry_of_its_name_and_is_found_there() {
        for (name, entry) in [
            ("mqtt", "mqtt"),
            ("a/b c", "a~2Fb~20c"),
            ("..", "~2E~2E"),
            ("a.b", "a.b"),
            ("a~2F", "a~7E2F"),
            ("ü", "~C3~BC"),
        ] {
            let (storer, provider) = storer(writable([]));
            storer.store(name, &secret([("k", "v")])).await.unwrap();
            let private = provider.load().await.unwrap().private.unwrap();
            assert_eq!(
                stored(&provider).await,
                [
                    (format!("{entry}/SecretData/k"), "v".to_owned()),
                    (format!("{entry}/SecretName"), name.to_owned()),
                ]
            );
            let layers = Layers {
                private,
                ..Layers::default()
            };
            let seen = resolve(&layers, None).configuration.writable.clone();
            assert_eq!(find(&seen, name), Some(&secret([("k", "v")])), "{name}");
        }
    }

    /// Weakness 20: EdgeX adds an entry beside the one that carries the name already, and then finds either.
    #[tokio::test]
    async fn weakness_20_a_secret_that_is_there_is_changed_in_its_entry() {
        let (storer, provider) = storer(writable([
            ("DB/SecretName", "redisdb"),
            ("DB/SecretData/password", "old"),
            ("mqtt/SecretName", "another"),
        ]));
        storer
            .store("redisdb", &secret([("password", "new")]))
            .await
            .unwrap();
        // And one whose entry is taken by another secret leaves that one alone.
        storer.store("mqtt", &secret([("k", "v")])).await.unwrap();
        let paths: Vec<String> = stored(&provider)
            .await
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        assert_eq!(
            paths,
            [
                "DB/SecretData/password",
                "DB/SecretName",
                "mqtt~2/SecretData/k",
                "mqtt~2/SecretName"
            ]
        );
    }

    #[tokio::test]
    async fn what_cannot_be_stored_says_why() {
        let data = secret([("k", "v")]);
        let without = InsecureSecretStorer::new(None, watch::channel(writable([])).1);
        assert_eq!(
            without.store("a", &data).await,
            Err(StoreSecretError::NotPossible(NO_PROVIDER))
        );
        let (storer, provider) = storer(writable([]));
        let slash = storer.store("a", &secret([("k/l", "v")])).await;
        assert!(
            matches!(slash, Err(StoreSecretError::Invalid { .. })),
            "{slash:?}"
        );
        provider.set_available(false);
        let away = storer.store("a", &data).await;
        assert!(
            matches!(away, Err(StoreSecretError::Unavailable { .. })),
            "{away:?}"
        );
    }

    #[test]
    fn added_changed_renamed_and_removed_secrets_are_named() {
        let before = writable([
            ("a/SecretName", "kept"),
            ("a/SecretData/k", "1"),
            ("b/SecretName", "changed"),
            ("b/SecretData/k", "1"),
            ("c/SecretName", "old-name"),
            ("d/SecretName", "removed"),
        ]);
        let now = writable([
            ("moved/SecretName", "kept"),
            ("moved/SecretData/k", "1"),
            ("b/SecretName", "changed"),
            ("b/SecretData/k", "2"),
            ("c/SecretName", "new-name"),
            ("e/SecretName", "added"),
        ]);
        let names = ["added", "changed", "new-name", "old-name", "removed"];
        assert_eq!(changed_names(&before, &now), names.map(str::to_owned).into());
        assert_eq!(changed_names(&now, &now), BTreeSet::new());
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
