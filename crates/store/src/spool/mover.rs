//! Empties the spool into the store, and looks when a store that is away is back.

use std::{collections::HashSet, sync::Arc, time::Duration};

use edgehold_core::{
    ExponentialBackoff, ObjectState, StoredObject, StoredObjectId,
    retry::{Action, Verdict},
};

use super::Shared;
use crate::{ListRequest, ObjectFilter, RetryQueue, Room, StoreError};

/// Objects that move together.
const PAGE: usize = 256;
/// The pauses while the store refuses or does not answer.
const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// The work behind a [`SpooledQueue`](super::SpooledQueue), for its caller to run.
pub struct Mover {
    pub(super) shared: Arc<Shared>,
}

impl Mover {
    /// Works until the queue is closed. Cancel-safe: what was moving is in doubt, in this process and after the next
    /// start, and moves again.
    pub async fn run(self) {
        let mut closed = self.shared.closed.subscribe();
        tokio::select! {
            // The sender is in what this borrows.
            _ = closed.wait_for(|closed| *closed) => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        let mut backoff = BACKOFF;
        loop {
            let store = self.wanted().await;
            match self.step(&*store).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::debug!("the spool cannot be emptied now: {error}");
                    tokio::time::sleep(backoff.next_pause()).await;
                }
            }
        }
    }

    /// The store, once there is one and something to do. Cancel-safe.
    async fn wanted(&self) -> Arc<dyn RetryQueue> {
        let mut store = self.shared.store.clone();
        loop {
            let current = store.borrow_and_update().clone();
            if let Some(store) = current.filter(|_| self.shared.ledger().has_work()) {
                return store;
            }
            tokio::select! {
                () = self.shared.work.notified() => {}
                Ok(()) = store.changed() => {}
                // Nobody will open a store any more, and none is open: until the queue is closed there is nothing to do.
                else => std::future::pending().await,
            }
        }
    }

    /// Does the next thing; a second call goes on where an error ended the first.
    async fn step(&self, store: &dyn RetryQueue) -> Result<(), StoreError> {
        let shared = &*self.shared;
        if shared.ledger().look {
            shared.look().await?;
        }
        let (early, owed, movable) = {
            let mut ledger = shared.ledger();
            (ledger.give_back(PAGE), ledger.owed(PAGE), ledger.has_movable())
        };
        if !early.is_empty() {
            self.give_back(store, &early).await?;
        } else if !owed.is_empty() {
            self.remove_from(store, &owed).await?;
            shared.ledger().paid(&owed);
        } else if movable {
            let page = self.page().await?;
            if page.is_empty() {
                self.forget_what_is_gone().await?;
            }
            self.move_page(store, page).await?;
        } else {
            let stats = shared.ask(store.stats()).await?;
            shared.ledger().store = stats;
        }
        shared.is_back();
        Ok(())
    }

    /// The oldest objects that may move.
    async fn page(&self) -> Result<Vec<StoredObject>, StoreError> {
        let mut after_seq = 0;
        loop {
            let request = ListRequest {
                states: vec![ObjectState::Success, ObjectState::Failed, ObjectState::Error],
                filter: ObjectFilter::default(),
                after_seq,
                limit: PAGE,
            };
            let mut page = self.shared.spool.list(request).await?;
            {
                let ledger = self.shared.ledger();
                page.objects.retain(|object| !ledger.stays(object.id));
            }
            match page.next_after_seq {
                Some(next) if page.objects.is_empty() => after_seq = next,
                _ => return Ok(page.objects),
            }
        }
    }

    /// What was noted while it left is not there to be found.
    async fn forget_what_is_gone(&self) -> Result<(), StoreError> {
        let expected = self.shared.ledger().movable();
        if self.page().await?.is_empty() {
            let mut ledger = self.shared.ledger();
            expected.into_iter().for_each(|id| ledger.forget(id));
        }
        Ok(())
    }

    /// First into the store, then out of the spool. In between both have them, and only the spool's count.
    async fn move_page(&self, store: &dyn RetryQueue, mut page: Vec<StoredObject>) -> Result<(), StoreError> {
        let shared = &*self.shared;
        let known: Vec<_> = {
            let mut ledger = shared.ledger();
            page.retain(|object| {
                let has = ledger.has(object.id);
                // One that came by an append which was dropped.
                ledger.look |= !has;
                has
            });
            let ids = page.iter().map(|object| object.id);
            let known = ids.filter(|id| ledger.is_in_doubt(*id)).collect();
            // Whoever removes one of them from now on owes the store a removal.
            page.iter().for_each(|object| ledger.doubt(object.id));
            known
        };
        if page.is_empty() {
            return Ok(());
        }
        // The store may have what an earlier call left there, in an earlier state.
        self.remove_from(store, &known).await?;
        let mut answers = shared.ask_append(store, &page, Room::default()).await;
        let overtaking = self.overtaking(store, &known).await?;
        for (object, answer) in page.iter().zip(&mut answers) {
            if answer.is_ok() && overtaking.contains(&object.id) {
                *answer = Err(StoreError::Exists(object.id));
            }
        }
        let mut moved: Vec<StoredObjectId> = Vec::with_capacity(page.len());
        let mut failed = None;
        let mut overtaken = None;
        // Lines of which one stays, so that those behind it go with it the next time.
        let mut waiting = HashSet::new();
        for (object, answer) in page.iter().zip(answers) {
            let line = shared.ledger().line_of(object.id);
            if answer.is_err() {
                waiting.extend(line);
            }
            match answer {
                Ok(_) if line.is_some_and(|line| waiting.contains(&line)) => {}
                Ok(_) => moved.push(object.id),
                // It has it as it was: nobody knew, or that came between. Next time it goes first.
                Err(error @ StoreError::Exists(id)) => {
                    if known.contains(&id) {
                        overtaken = Some(error);
                    }
                }
                Err(error @ (StoreError::Unavailable { .. } | StoreError::Full { .. })) => {
                    failed = Some(error);
                }
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(error) => {
                    tracing::error!(
                        stored_object_id = %object.id, pipeline_id = %object.pipeline_id,
                        correlation_id = %object.correlation_id,
                        "the store does not take this object, so it stays in the spool: {error}"
                    );
                    shared.ledger().stuck(object.id);
                }
            }
        }
        if !moved.is_empty() {
            shared.spool.settle(&removals(&moved)).await?;
        }
        let full = matches!(failed, Some(StoreError::Full { .. }));
        {
            let mut ledger = shared.ledger();
            moved.iter().for_each(|id| ledger.moved(*id));
            ledger.full = full;
        }
        if full || (failed.is_none() && overtaken.is_some()) {
            // It answers. Only what is claimed there makes room, and what overtook may do so again: not at once.
            shared.is_back();
        }
        failed.or(overtaken).map_or(Ok(()), Err)
    }

    /// Those of these objects, which were just removed and appended, that the store has as they were when their runs
    /// had not ended: it was asked for that by an earlier call, which nobody waited for any more, and did it in between.
    async fn overtaking(
        &self,
        store: &dyn RetryQueue,
        ids: &[StoredObjectId],
    ) -> Result<Vec<StoredObjectId>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let request = ListRequest {
            states: vec![ObjectState::New],
            filter: ObjectFilter {
                ids: ids.to_vec(),
                ..ObjectFilter::default()
            },
            after_seq: 0,
            limit: ids.len(),
        };
        let page = self.shared.ask(store.list(request)).await?;
        Ok(page.objects.into_iter().map(|object| object.id).collect())
    }

    /// Nobody took these, which the store has handed out.
    async fn give_back(&self, store: &dyn RetryQueue, ids: &[StoredObjectId]) -> Result<(), StoreError> {
        let outcome = self
            .shared
            .ask(store.settle(&verdicts(ids, &Action::RELEASE)))
            .await;
        self.shared.ledger().gave_back(outcome.is_ok());
        outcome
    }

    async fn remove_from(&self, store: &dyn RetryQueue, ids: &[StoredObjectId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.shared.ledger().removals += 1;
        self.shared.ask(store.settle(&removals(ids))).await
    }
}

pub(super) fn removals(ids: &[StoredObjectId]) -> Vec<Verdict> {
    verdicts(ids, &Action::Remove)
}

fn verdicts(ids: &[StoredObjectId], action: &Action) -> Vec<Verdict> {
    let verdict = |id: &StoredObjectId| Verdict {
        id: *id,
        action: action.clone(),
    };
    ids.iter().map(verdict).collect()
}
