//! Secrets: where they come from, and a text that never shows itself.

use std::{collections::BTreeMap, fmt};

use crate::BoxFuture;

/// A secret value. `Debug` and `Display` print `***`; only [`SecretText::expose`] gives the text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// Keeps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: for the one call that needs it, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The keys of one secret, for example `username` and `password`.
pub type Secret = BTreeMap<String, SecretText>;

/// Why a secret could not be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// No secret has this name.
    #[error("no secret named '{name}'")]
    UnknownName {
        /// The name asked for.
        name: String,
    },
    /// The secret exists, but not all keys asked for.
    #[error("secret '{name}' has no key {keys}")]
    MissingKeys {
        /// The name asked for.
        name: String,
        /// The missing keys, separated by `, `.
        keys: String,
    },
    /// The store that holds the secrets did not answer.
    #[error("the secret store is not available: {reason}")]
    Unavailable {
        /// What it said, without anything secret.
        reason: String,
    },
}

/// Gives secrets by name. Implementations: `Writable.InsecureSecrets` (insecure mode), a secret store (secure mode).
///
/// Reads are cheap and always current: callers ask for every use and keep nothing.
pub trait SecretProvider: Send + Sync {
    /// All keys of the secret with this name.
    ///
    /// # Errors
    /// [`SecretError::UnknownName`] when there is none; [`SecretError::Unavailable`] when the store is away.
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>>;
}

/// Why a secret was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreSecretError {
    /// There is nothing to store secrets in.
    #[error("{0}")]
    NotPossible(&'static str),
    /// It cannot be stored under this name or with these keys.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// Where it should go to does not take it now.
    #[error("{reason}")]
    Unavailable {
        /// What it said, without anything secret.
        reason: String,
    },
}

/// Stores secrets for [`SecretProvider`] to give. Implementations: as that one's.
pub trait SecretStorer: Send + Sync {
    /// Stores these keys of the secret with this name. When it returns they are stored; the provider gives them a moment
    /// later. Repeating it changes nothing. Dropping the future may leave it stored or not.
    ///
    /// # Errors
    /// [`StoreSecretError`]; after [`StoreSecretError::Unavailable`] it may be stored all the same.
    fn store<'a>(&'a self, name: &'a str, data: &'a Secret) -> BoxFuture<'a, Result<(), StoreSecretError>>;
}

impl dyn SecretProvider + '_ {
    /// One value of one secret.
    ///
    /// # Errors
    /// As [`SecretProvider::secret`], and [`SecretError::MissingKeys`] when the secret lacks this key.
    pub async fn value(&self, name: &str, key: &str) -> Result<SecretText, SecretError> {
        self.secret(name)
            .await?
            .remove(key)
            .ok_or_else(|| SecretError::MissingKeys {
                name: name.to_owned(),
                keys: key.to_owned(),
            })
    }
}
