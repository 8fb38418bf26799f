//! Counting what is done with secrets.

use std::{collections::BTreeMap, sync::Arc};

use edgehold_config::{Writable, configuration::InsecureSecret};
use edgehold_core::{BoxFuture, Secret, SecretError, SecretProvider};
use tokio::sync::watch;

use crate::Counter;

/// Secrets, and how often they were asked for.
pub struct MeteredSecrets {
    /// Where they come from.
    pub secrets: Arc<dyn SecretProvider>,
    /// How often one was asked for, whether it was there or not.
    pub requested: Counter,
}

impl SecretProvider for MeteredSecrets {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        self.requested.increment();
        self.secrets.secret(name)
    }
}

/// Counts the secrets of insecure mode that are added, changed or removed, until nobody changes the settings any more.
/// Cancel-safe.
pub(crate) async fn count_stored(mut settings: watch::Receiver<Arc<Writable>>, stored: Counter) {
    let mut before = settings.borrow_and_update().insecure_secrets.clone();
    while settings.changed().await.is_ok() {
        let now = settings.borrow_and_update().insecure_secrets.clone();
        stored.add(changed(&before, &now));
        before = now;
    }
}

/// One for each entry that differs, as EdgeX counts them: a renamed one once.
fn changed(before: &BTreeMap<String, InsecureSecret>, now: &BTreeMap<String, InsecureSecret>) -> i64 {
    let gone = before.keys().filter(|entry| !now.contains_key(*entry)).count();
    let new = now
        .iter()
        .filter(|(entry, secret)| before.get(*entry) != Some(secret))
        .count();
    i64::try_from(gone + new).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use edgehold_core::SecretText;

    use super::*;

    fn secrets(entries: &[(&str, &str, &str)]) -> BTreeMap<String, InsecureSecret> {
        let secret = |(entry, name, value): &(&str, &str, &str)| {
            let secret = InsecureSecret {
                secret_name: (*name).to_owned(),
                data: Secret::from([("key".to_owned(), SecretText::new(*value))]),
            };
            ((*entry).to_owned(), secret)
        };
        entries.iter().map(secret).collect()
    }

    #[test]
    fn each_entry_that_differs_counts_once() {
        let before = secrets(&[("A", "a", "1"), ("B", "b", "1"), ("C", "c", "1"), ("D", "d", "1")]);
        let now = secrets(&[
            ("A", "a", "1"),
            ("B", "renamed", "1"),
            ("C", "c", "2"),
            ("E", "e", "1"),
        ]);
        assert_eq!(changed(&before, &now), 4);
        assert_eq!(changed(&now, &now), 0);
    }
}
