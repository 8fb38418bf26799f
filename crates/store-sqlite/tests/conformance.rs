//! The suite every store must pass, on SQLite files.

use std::sync::Arc;

use edgehold_store::conformance::{self, TestStore};
use edgehold_store_sqlite::{Options, SqliteQueue};

/// A file in a folder of its own, which lives as long as the store.
async fn make_store() -> TestStore {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    TestStore::new(move || {
        let folder = folder.clone();
        async move {
            let options = Options::new(folder.path().join("data/app.db"), conformance::service_key());
            let (queue, writer) = SqliteQueue::open(options).await.unwrap();
            #[expect(clippy::disallowed_methods, reason = "a test has no service to spawn through")]
            tokio::spawn(writer.run());
            queue
        }
    })
}

edgehold_store::queue_conformance!(make_store);
edgehold_store::restart_conformance!(make_store);
edgehold_store::crash_conformance!(make_store);
