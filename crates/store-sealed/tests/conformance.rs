//! The suite every store must pass, on stores whose objects are sealed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use edgehold_core::{BoxFuture, Secret, SecretError, SecretProvider, SecretText};
use edgehold_store::{
    MemoryQueue, RetryQueue,
    conformance::{self, TestStore},
};
use edgehold_store_sealed::{SealedQueue, Sealing};
use edgehold_store_sqlite::{Options, SqliteQueue};

/// Keys that a test may change.
#[derive(Clone, Default)]
struct Keys(Arc<Mutex<Secret>>);

impl Keys {
    fn new(entries: &[(&str, &str)]) -> Self {
        let keys = Self::default();
        keys.set(entries);
        keys
    }

    fn set(&self, entries: &[(&str, &str)]) {
        let entries = entries.iter();
        let secret: BTreeMap<_, _> = entries
            .map(|(name, value)| ((*name).to_owned(), SecretText::new(*value)))
            .collect();
        *self.0.lock().unwrap() = secret;
    }
}

impl SecretProvider for Keys {
    fn secret<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        let secret = self.0.lock().unwrap().clone();
        Box::pin(std::future::ready(Ok(secret)))
    }
}

const K1: &str = "1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a";
const K2: &str = "2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b";

fn sealing(encryption: bool, compression: bool) -> Sealing {
    Sealing {
        encryption,
        compression,
        secret_name: "store-encryption".to_owned(),
    }
}

async fn on_sqlite(encryption: bool, compression: bool) -> TestStore {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let keys = Keys::new(&[("k1", K1)]);
    TestStore::new(move || {
        let (folder, keys) = (folder.clone(), keys.clone());
        async move {
            let options = Options::new(folder.path().join("data/app.db"), conformance::service_key());
            let (queue, writer) = SqliteQueue::open(options).await.unwrap();
            #[expect(clippy::disallowed_methods, reason = "a test has no service to spawn through")]
            tokio::spawn(writer.run());
            SealedQueue::new(Arc::new(queue), Arc::new(keys), sealing(encryption, compression))
        }
    })
}

mod encrypted_and_compressed_on_sqlite {
    use super::*;

    async fn make_store() -> TestStore {
        on_sqlite(true, true).await
    }

    edgehold_store::queue_conformance!(make_store);
    edgehold_store::restart_conformance!(make_store);
    edgehold_store::crash_conformance!(make_store);
}

mod encrypted_on_postgres {
    use edgehold_store_postgres::{Options, PostgresQueue};
    use edgehold_test_support::Postgres;

    use super::*;

    async fn make_store() -> TestStore {
        let server = Postgres::shared().await.unwrap();
        let database: Arc<str> = server.database().unwrap().into();
        let keys = Keys::new(&[("k1", K1)]);
        TestStore::new(move || {
            let (server, database, keys) = (server.clone(), database.clone(), keys.clone());
            async move {
                let options = Options {
                    port: server.port(),
                    database: database.to_string(),
                    username: Postgres::USER.to_owned(),
                    password: SecretText::new(Postgres::PASSWORD),
                    ..Options::new("127.0.0.1", conformance::service_key())
                };
                let (queue, worker) = PostgresQueue::open(options).await.unwrap();
                #[expect(clippy::disallowed_methods, reason = "a test has no service to spawn through")]
                tokio::spawn(worker.run());
                SealedQueue::new(Arc::new(queue), Arc::new(keys), sealing(true, false))
            }
        })
    }

    edgehold_store::queue_conformance!(make_store);
    edgehold_store::restart_conformance!(make_store);
}

mod compressed_in_memory {
    use super::*;

    async fn make_store() -> TestStore {
        TestStore::new(|| async {
            let queue = Arc::new(MemoryQueue::new(conformance::service_key()));
            SealedQueue::new(queue, Arc::new(Keys::default()), sealing(false, true))
        })
    }

    edgehold_store::queue_conformance!(make_store);
}

#[path = "conformance/keys.rs"]
mod keys;
