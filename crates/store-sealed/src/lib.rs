//! Encryption and compression at rest: a wrapper around any [`RetryQueue`].
//!
//! Owns how an object is sealed (AES-256-GCM, zstd, an integrity check) and with which key. Does not own where keys come
//! from: it asks a [`SecretProvider`] for each call, so that a renewed secret counts at once.
//!
//! - What was kept before sealing was switched on, or with another key that is still in the secret, opens as before. What
//!   was kept sealed opens after sealing was switched off, as long as its key is there.
//! - A record that fails its integrity check, or whose key is missing, is set aside in the error collection (reason
//!   `corrupt`) as it is, with the reason in `last_error`, and reported once. Once the key is back, a re-drive of that
//!   reason brings it back whole.
//! - Hidden are payload, context values, topic and content type. What a store finds its way by stays readable: ids, pipeline,
//!   state, times, destination, a tag for each device; and the texts of errors, as they are for whoever looks after it.
//! - Bytes are counted as those of the open payload, so limits and pages mean the same with and without it.
//! - The same object is always sealed to the same bytes by the same key: appending it again is recognised.

mod frame;
mod key;
mod object;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use edgehold_core::{
    BoxFuture, ErrorReason, PipelineId, Secret, SecretProvider, StoredObject, Timestamp,
    retry::{Action, Failure, Progress, Verdict},
};
use edgehold_store::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, LaneStatus, ListRequest, Moved, ObjectFilter, Page,
    RetryQueue, Room, StoreError, StoreStats, Sweep,
};

pub use frame::Unopened;
pub use key::InvalidKeys;

use crate::{key::Keys, object::Seal};

/// How new objects are sealed. With neither, they are kept as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealing {
    /// Whether payloads and contexts are encrypted with AES-256-GCM.
    pub encryption: bool,
    /// Whether they are compressed with zstd.
    pub compression: bool,
    /// The secret that holds the keys; without encryption, to open what was encrypted before.
    pub secret_name: String,
}

impl Sealing {
    /// Whether objects can be sealed now: asked before a store is opened.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there are no keys.
    pub async fn check(&self, secrets: &dyn SecretProvider) -> Result<(), StoreError> {
        if self.encryption {
            self.keys(&self.secret(secrets).await?)?;
        }
        Ok(())
    }

    async fn secret(&self, secrets: &dyn SecretProvider) -> Result<Secret, StoreError> {
        let secret = secrets.secret(&self.secret_name).await;
        secret.map_err(|error| no_keys(format!("the secret with its keys cannot be had: {error}")))
    }

    fn keys(&self, secret: &Secret) -> Result<Keys, StoreError> {
        let keys = Keys::from_secret(secret);
        keys.map_err(|error| no_keys(format!("the secret '{}' is of no use: {error}", self.secret_name)))
    }
}

/// Without keys nothing can be kept, and nothing is refused for good: they may come while the service runs.
fn no_keys(problem: String) -> StoreError {
    StoreError::Unavailable {
        reason: format!("Database/Encryption is on, but {problem} (Database/EncryptionSecretName)"),
        source: None,
    }
}

/// A queue whose objects lie sealed in the one below.
pub struct SealedQueue {
    queue: Arc<dyn RetryQueue>,
    secrets: Arc<dyn SecretProvider>,
    sealing: Sealing,
    /// Whether there is anything to decrypt: known of without encryption when the first encrypted object is met.
    decrypts: AtomicBool,
    /// The keys, and the secret they were made of.
    keys: Mutex<Option<(Secret, Arc<Keys>)>>,
    /// Verdicts for claimed objects that cannot be opened. A claim that waited for them could be dropped with what it has
    /// already claimed, so they are settled before the next one.
    unopened: Mutex<Vec<Verdict>>,
}

impl SealedQueue {
    /// Seals what goes into `queue`, and opens what comes out of it.
    pub fn new(queue: Arc<dyn RetryQueue>, secrets: Arc<dyn SecretProvider>, sealing: Sealing) -> Self {
        Self {
            queue,
            secrets,
            decrypts: AtomicBool::new(sealing.encryption),
            sealing,
            keys: Mutex::default(),
            unopened: Mutex::default(),
        }
    }

    /// The keys of the secret as it is now; none when nothing asks for them.
    async fn keys(&self) -> Result<Option<Arc<Keys>>, StoreError> {
        if !self.decrypts.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let secret = match self.sealing.secret(&*self.secrets).await {
            Ok(secret) => secret,
            // What was encrypted before can be opened by nobody then, and is named when it is met.
            Err(_) if !self.sealing.encryption => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, keys)) = &*known
            && *of == secret
        {
            return Ok(Some(keys.clone()));
        }
        let keys = match self.sealing.keys(&secret) {
            Ok(keys) => Arc::new(keys),
            Err(_) if !self.sealing.encryption => return Ok(None),
            Err(error) => return Err(error),
        };
        *known = Some((secret, keys.clone()));
        Ok(Some(keys))
    }

    fn seal<'a>(&self, keys: Option<&'a Keys>) -> Seal<'a> {
        Seal {
            keys,
            encryption: self.sealing.encryption,
            compression: self.sealing.compression,
        }
    }

    /// What becomes of an object that cannot be opened: set aside, or, when there may be keys that nobody has asked for yet,
    /// given back for the next claim.
    fn cannot_open(&self, object: &StoredObject, problem: &Unopened, now: Timestamp) {
        let verdict = match problem {
            Unopened::NoKeys if !self.decrypts.swap(true, Ordering::Relaxed) => Verdict {
                id: object.id,
                action: Action::RELEASE,
            },
            _ => set_aside(object, problem, now),
        };
        self.unopened().push(verdict);
    }

    fn unopened(&self) -> MutexGuard<'_, Vec<Verdict>> {
        self.unopened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A filter as the store below knows devices: by their tags, and, of what was kept before, by their names.
    async fn filter(&self, mut filter: ObjectFilter) -> Result<ObjectFilter, StoreError> {
        if self.sealing.encryption && !filter.devices.is_empty() {
            let keys = self.keys().await?;
            let seal = self.seal(keys.as_deref());
            let tags: Vec<_> = filter.devices.iter().map(|name| seal.device(name)).collect();
            filter.devices.extend(tags);
        }
        Ok(filter)
    }

    async fn error_page(&self, page: ErrorPage) -> Result<ErrorPage, StoreError> {
        let filter = self.filter(page.filter).await?;
        Ok(ErrorPage { filter, ..page })
    }

    async fn settle_unopened(&self) -> Result<(), StoreError> {
        let verdicts = self.unopened().clone();
        if !verdicts.is_empty() {
            self.queue.settle(&verdicts).await?;
            self.unopened().retain(|verdict| !verdicts.contains(verdict));
        }
        Ok(())
    }
}

/// Moves an object that cannot be opened to the error collection, as it is.
fn set_aside(object: &StoredObject, problem: &Unopened, now: Timestamp) -> Verdict {
    tracing::error!(
        stored_object_id = %object.id,
        pipeline_id = %object.pipeline_id,
        correlation_id = %object.correlation_id,
        "a stored object cannot be opened and is set aside as corrupt, as it is: {problem}"
    );
    let failure = Failure {
        attempts: object.attempts,
        at: now,
        error: problem.to_string(),
        not_before: None,
        destination: None,
        progress: None,
    };
    Verdict {
        id: object.id,
        action: Action::GiveUp {
            reason: ErrorReason::Corrupt,
            at: now,
            failure: Some(failure),
        },
    }
}

/// An action with what it keeps sealed.
fn sealed_action(verdict: &Verdict, seal: Seal<'_>) -> Action {
    let mut action = verdict.action.clone();
    let progress: Option<&mut Progress> = match &mut action {
        Action::Remove | Action::Succeed { .. } => None,
        Action::Release { progress, .. } => progress.as_mut(),
        Action::Batch(progress) => Some(progress),
        Action::RetryLater(failure) => failure.progress.as_mut(),
        Action::GiveUp { failure, .. } => failure.as_mut().and_then(|failure| failure.progress.as_mut()),
    };
    if let Some(progress) = progress {
        *progress = seal.seal_progress(verdict.id, progress);
    }
    action
}

impl RetryQueue for SealedQueue {
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>> {
        Box::pin(async move {
            let keys = match self.keys().await {
                Ok(keys) => keys,
                Err(error) => return error.for_each(objects.len()),
            };
            let seal = self.seal(keys.as_deref());
            if seal.is_none() {
                return self.queue.append(objects, room).await;
            }
            let sealed: Vec<_> = objects.iter().map(|object| seal.seal(object)).collect();
            self.queue.append(&sealed, room).await
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(async move {
            let keys = self.keys().await?;
            self.settle_unopened().await?;
            let now = claim.now;
            let mut page = self.queue.claim(claim).await?;
            // No await from here on: what is claimed must reach the caller.
            let seal = self.seal(keys.as_deref());
            page.retain_mut(|object| match seal.open(object) {
                Ok(()) => true,
                Err(problem) => {
                    self.cannot_open(object, &problem, now);
                    false
                }
            });
            Ok(page)
        })
    }

    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let keys = self.keys().await?;
            let seal = self.seal(keys.as_deref());
            if seal.is_none() {
                return self.queue.settle(verdicts).await;
            }
            let sealed = verdicts.iter().map(|verdict| Verdict {
                id: verdict.id,
                action: sealed_action(verdict, seal),
            });
            let sealed: Vec<_> = sealed.collect();
            self.queue.settle(&sealed).await
        })
    }

    fn lanes(
        &self,
        interval: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>> {
        self.queue.lanes(interval, now)
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let keys = self.keys().await?;
            let tag = self.seal(keys.as_deref()).device(device);
            // One that was kept before objects were encrypted has its own name.
            Ok(self.queue.is_waiting(pipeline_id, &tag).await?
                || (tag != device && self.queue.is_waiting(pipeline_id, device).await?))
        })
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        self.queue.evict(eviction)
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.queue.sweep(sweep, limit)
    }

    fn redrive(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(async move { self.queue.redrive(self.error_page(page).await?).await })
    }

    fn purge(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(async move { self.queue.purge(self.error_page(page).await?).await })
    }

    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>> {
        Box::pin(async move { self.queue.survey(self.filter(filter).await?).await })
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            let filter = self.filter(request.filter).await?;
            let mut page = self.queue.list(ListRequest { filter, ..request }).await?;
            let mut keys = self.keys().await?;
            for object in &mut page.objects {
                let mut opened = self.seal(keys.as_deref()).open(object);
                if opened == Err(Unopened::NoKeys) && !self.decrypts.swap(true, Ordering::Relaxed) {
                    keys = self.keys().await?;
                    opened = self.seal(keys.as_deref()).open(object);
                }
                // What cannot be opened is shown as it lies there; a claim sets it aside and says why.
                if let Err(problem) = opened {
                    tracing::debug!(stored_object_id = %object.id, "shown as it is kept: {problem}");
                }
            }
            Ok(page)
        })
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        self.queue.stats()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // What cannot be settled now is found again by the next claim after a start.
            let _ = self.settle_unopened().await;
            self.queue.close().await;
        })
    }
}
