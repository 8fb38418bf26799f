//! What a custom store must offer, and the queue that is made of it.
//!
//! Owns the trait [`StoreClient`], the adapter [`StoreClientQueue`] and the limit of time [`TimeLimited`]. Does not own any implementation.

mod limit;
mod queue;

use edgehold_core::{BoxFuture, ServiceKey, StoredObject, StoredObjectId};

pub use limit::TimeLimited;
pub use queue::StoreClientQueue;

use crate::StoreError;

/// The five operations of a custom store, as in EdgeX but for whole pages.
///
/// Everything else (when an object is due, who attempts it, the error collection, counts) is made of them by
/// [`StoreClientQueue`]. The limits that follow: one instance of the service at a time, claims are kept in memory, a
/// summary of each object (about 400 bytes) is kept in memory, and the error collection is the objects in
/// state error.
///
/// Contract:
/// - **Durability.** When an operation has returned `Ok`, its effect survives a crash, as far as the store keeps
///   anything at all.
/// - **Atomicity.** Each object is stored, replaced and removed whole or not at all. A page need not be one transaction.
/// - **Every field counts.** An object comes back exactly as it was given, every field of [`StoredObject`] included:
///   `seq`, `state` and the times are what the queue finds its way by, an empty payload is a payload, texts may hold
///   any character.
/// - **Order.** [`retrieve_from_store`](StoreClient::retrieve_from_store) answers in ascending order of id. Ids made by
///   Edgehold are UUIDs of version 7, so that this is oldest first.
/// - **Damage.** An object that cannot be read back is given as one in state error with reason `corrupt` and what is
///   left of its payload; it never fails a page.
/// - **Concurrency.** All operations may run at the same time, but never two for the same object.
/// - **Cancel safety.** A dropped future may leave the operation done or not done; the queue looks again.
///
/// ```
/// use std::{collections::BTreeMap, sync::{Arc, Mutex}};
///
/// use edgehold_core::{BoxFuture, ServiceKey, StoredObject, StoredObjectId};
/// use edgehold_store::{Credentials, DatabaseSettings, StoreClient, StoreError, StoreFactories};
///
/// /// A store that forgets everything when the process ends.
/// #[derive(Default)]
/// struct Shelf(Mutex<BTreeMap<StoredObjectId, StoredObject>>);
///
/// impl StoreClient for Shelf {
///     fn store<'a>(
///         &'a self,
///         objects: &'a [StoredObject],
///     ) -> BoxFuture<'a, Vec<Result<StoredObjectId, StoreError>>> {
///         Box::pin(async move {
///             let mut shelf = self.0.lock().expect("no holder panics");
///             let mut store = |object: &StoredObject| {
///                 if shelf.contains_key(&object.id) {
///                     return Err(StoreError::Exists(object.id));
///                 }
///                 shelf.insert(object.id, object.clone());
///                 Ok(object.id)
///             };
///             objects.iter().map(&mut store).collect()
///         })
///     }
///
///     fn retrieve_from_store<'a>(
///         &'a self,
///         service_key: &'a ServiceKey,
///         after: Option<StoredObjectId>,
///         limit: usize,
///     ) -> BoxFuture<'a, Result<Vec<StoredObject>, StoreError>> {
///         Box::pin(async move {
///             let shelf = self.0.lock().expect("no holder panics");
///             let page = shelf.values().filter(|object| object.service_key == *service_key);
///             Ok(page.filter(|object| Some(object.id) > after).take(limit).cloned().collect())
///         })
///     }
///
///     fn update<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Result<(), StoreError>> {
///         Box::pin(async move {
///             let mut shelf = self.0.lock().expect("no holder panics");
///             for object in objects {
///                 shelf.entry(object.id).and_modify(|kept| kept.clone_from(object));
///             }
///             Ok(())
///         })
///     }
///
///     fn remove_from_store<'a>(&'a self, ids: &'a [StoredObjectId]) -> BoxFuture<'a, Result<(), StoreError>> {
///         Box::pin(async move {
///             self.0.lock().expect("no holder panics").retain(|id, _| !ids.contains(id));
///             Ok(())
///         })
///     }
///
///     fn disconnect(&self) -> BoxFuture<'_, ()> {
///         Box::pin(async {})
///     }
/// }
///
/// // `Database.Type: shelf` now chooses it.
/// let mut factories = StoreFactories::new();
/// factories.register("shelf", Arc::new(|_: DatabaseSettings, _: Credentials| {
///     Box::pin(async { Ok(Arc::new(Shelf::default()) as Arc<dyn StoreClient>) })
/// }))?;
/// assert!(factories.get("Shelf").is_some());
/// # Ok::<(), edgehold_store::InvalidStoreName>(())
/// ```
pub trait StoreClient: Send + Sync {
    /// Keeps new objects; one answer for each, in order: its id, or why it was not kept.
    ///
    /// # Errors
    /// For one object: [`StoreError::Exists`] when its id is there already, whatever the content (which is then left
    /// as it is), [`StoreError::Invalid`] when it can never be kept. For any: [`StoreError::Unavailable`],
    /// [`StoreError::Full`].
    fn store<'a>(
        &'a self,
        objects: &'a [StoredObject],
    ) -> BoxFuture<'a, Vec<Result<StoredObjectId, StoreError>>>;

    /// Gives the objects of a service in ascending order of id, from the first whose id is greater than `after` (which
    /// need not exist any more), at most `limit`. Fewer than `limit` means that there are no more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn retrieve_from_store<'a>(
        &'a self,
        service_key: &'a ServiceKey,
        after: Option<StoredObjectId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredObject>, StoreError>>;

    /// Replaces objects that are there. One that is gone stays gone and is no error.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`]: some of them may have been replaced.
    fn update<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Removes objects. One that is gone is no error.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: some of them may have been removed.
    fn remove_from_store<'a>(&'a self, ids: &'a [StoredObjectId]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Lets go of connections and files. Nothing is called after it.
    fn disconnect(&self) -> BoxFuture<'_, ()>;
}
