//! Custom stores by name: what `Database.Type` chooses from besides the built-in ones.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use edgehold_core::{BoxFuture, SecretText};

use crate::{StoreClient, StoreError};

/// The `Database` section, as a store needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// `Type`, as written; compared without regard to case.
    pub kind: String,
    /// `Host`.
    pub host: String,
    /// `Port`.
    pub port: u16,
    /// `Name`: the file of SQLite, the database of a server; may be empty.
    pub name: String,
    /// `Timeout`: for connecting and for each statement.
    pub timeout: Duration,
}

/// Who a store is opened as: the secret named like `Database.Type`. Empty when there is no such secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Key `username` of the secret.
    pub username: String,
    /// Key `password` of the secret.
    pub password: SecretText,
}

/// Opens a custom store. Called again after a failure, so it must not keep anything from a call that failed.
pub type CustomStoreFactory = Arc<
    dyn Fn(DatabaseSettings, Credentials) -> BoxFuture<'static, Result<Arc<dyn StoreClient>, StoreError>>
        + Send
        + Sync,
>;

/// A name no custom store can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a custom store cannot be named {name:?}: {problem}")]
pub struct InvalidStoreName {
    name: String,
    problem: &'static str,
}

/// The custom stores of a service. Names are compared without regard to case; registering a name again replaces its
/// factory. Only the names in [`StoreFactories::RESERVED`] are taken.
#[derive(Clone, Default)]
pub struct StoreFactories {
    factories: BTreeMap<String, CustomStoreFactory>,
}

impl StoreFactories {
    /// The names that always mean a built-in store.
    pub const RESERVED: [&'static str; 4] = ["sqlite", "memory", "postgres", "redisdb"];

    /// No custom stores.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a custom store.
    ///
    /// # Errors
    /// [`InvalidStoreName`] when the name is blank or one of [`StoreFactories::RESERVED`].
    pub fn register(&mut self, name: &str, factory: CustomStoreFactory) -> Result<(), InvalidStoreName> {
        let refuse = |problem| {
            Err(InvalidStoreName {
                name: name.to_owned(),
                problem,
            })
        };
        let folded = fold(name);
        if folded.is_empty() {
            return refuse("it is blank");
        }
        if Self::RESERVED.contains(&folded.as_str()) {
            return refuse("it means a built-in store");
        }
        self.factories.insert(folded, factory);
        Ok(())
    }

    /// The factory of this `Database.Type`.
    pub fn get(&self, kind: &str) -> Option<&CustomStoreFactory> {
        self.factories.get(&fold(kind))
    }

    /// The names, in lower case: what an error about an unknown type lists.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.factories.keys().map(String::as_str)
    }
}

impl fmt::Debug for StoreFactories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.factories.keys()).finish()
    }
}

fn fold(name: &str) -> String {
    name.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryClient;

    fn factory() -> CustomStoreFactory {
        Arc::new(|_, _| Box::pin(async { Ok(Arc::new(MemoryClient::default()) as Arc<dyn StoreClient>) }))
    }

    #[test]
    fn a_custom_store_is_found_whatever_the_case_of_its_name() {
        let mut factories = StoreFactories::new();
        factories.register("JetStream", factory()).unwrap();
        assert!(factories.get("jetstream").is_some());
        assert!(factories.get("JETSTREAM").is_some());
        assert!(factories.get("other").is_none());
        assert_eq!(factories.names().collect::<Vec<_>>(), ["jetstream"]);
    }

    #[test]
    fn a_built_in_store_cannot_be_replaced() {
        let mut factories = StoreFactories::new();
        for name in ["sqlite", "Memory", "POSTGRES", "RedisDB", "", " "] {
            assert!(factories.register(name, factory()).is_err(), "{name:?}");
        }
        let error = factories.register("Postgres", factory()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a custom store cannot be named \"Postgres\": it means a built-in store"
        );
    }

    #[test]
    fn credentials_never_show_the_password() {
        let credentials = Credentials {
            username: "u".to_owned(),
            password: SecretText::new("hunter2"),
        };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
