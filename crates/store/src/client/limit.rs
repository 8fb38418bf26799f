//! A custom store whose operations end in time.

use std::{future::Future, sync::Arc, time::Duration};

use edgehold_core::{BoxFuture, ServiceKey, StoredObject, StoredObjectId};
use tokio::time::timeout;

use crate::{StoreClient, StoreError};

/// A [`StoreClient`] that answers [`StoreError::Unavailable`] when the one below has not answered in time. Whether the
/// operation was done is then as open as with any other dropped call.
pub struct TimeLimited {
    client: Arc<dyn StoreClient>,
    limit: Duration,
}

impl TimeLimited {
    /// Each operation may take as long as `limit`.
    pub fn new(client: Arc<dyn StoreClient>, limit: Duration) -> Self {
        Self { client, limit }
    }

    async fn within<T>(&self, call: impl Future<Output = T>) -> Result<T, StoreError> {
        timeout(self.limit, call)
            .await
            .map_err(|_| StoreError::Unavailable {
                reason: format!("no answer within {:?}", self.limit),
                source: None,
            })
    }
}

impl StoreClient for TimeLimited {
    fn store<'a>(
        &'a self,
        objects: &'a [StoredObject],
    ) -> BoxFuture<'a, Vec<Result<StoredObjectId, StoreError>>> {
        Box::pin(async move {
            let answers = self.within(self.client.store(objects)).await;
            answers.unwrap_or_else(|error| error.for_each(objects.len()))
        })
    }

    fn retrieve_from_store<'a>(
        &'a self,
        service_key: &'a ServiceKey,
        after: Option<StoredObjectId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredObject>, StoreError>> {
        let page = self.client.retrieve_from_store(service_key, after, limit);
        Box::pin(async move { self.within(page).await? })
    }

    fn update<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.within(self.client.update(objects)).await? })
    }

    fn remove_from_store<'a>(&'a self, ids: &'a [StoredObjectId]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.within(self.client.remove_from_store(ids)).await? })
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // It is left to itself then.
            let _ = self.within(self.client.disconnect()).await;
        })
    }
}
