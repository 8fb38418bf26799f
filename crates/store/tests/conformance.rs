//! The suite on this crate's own stores, and on stores that are wrong in one way each: it must notice every one.

use std::sync::Arc;

use edgehold_store::{
    MemoryClient, MemoryQueue, StoreClient, StoreClientQueue,
    conformance::{self, TestStore},
};

mod memory {
    use super::*;

    async fn make_store() -> TestStore {
        TestStore::new(|| async { MemoryQueue::new(conformance::service_key()) })
    }

    edgehold_store::queue_conformance!(make_store);
}

mod client_queue {
    use super::*;

    async fn make_store() -> TestStore {
        let client = Arc::new(MemoryClient::default());
        TestStore::new(move || {
            let client = client.clone();
            async {
                StoreClientQueue::open(client, conformance::service_key())
                    .await
                    .unwrap()
            }
        })
    }

    edgehold_store::queue_conformance!(make_store);
    edgehold_store::restart_conformance!(make_store);
}

mod client {
    use super::*;

    async fn make_client() -> Arc<dyn StoreClient> {
        Arc::new(MemoryClient::default())
    }

    edgehold_store::client_conformance!(make_client);
}

mod limited_client {
    use std::time::Duration;

    use edgehold_store::TimeLimited;

    use super::*;

    async fn make_client() -> Arc<dyn StoreClient> {
        let client = Arc::new(MemoryClient::default());
        Arc::new(TimeLimited::new(client, Duration::from_secs(60)))
    }

    edgehold_store::client_conformance!(make_client);
}

#[path = "conformance/faulty.rs"]
mod faulty;

#[path = "conformance/spool.rs"]
mod spool;
