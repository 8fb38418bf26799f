//! What is known of the objects in the spool and of the store behind it, in memory.
//!
//! Owns the counts and the answer to "who has it?". Does not own the objects, and waits for nothing.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
};

use edgehold_core::{
    ObjectState, StoredObject, StoredObjectId,
    retry::{Action, Failure, Progress, Verdict},
};

use crate::{Room, StateCount, StoreError, StoreStats, semantics};

/// An object in the spool, or about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    state: ObjectState,
    payload_bytes: u64,
    /// Its append has not been answered yet.
    pending: bool,
    /// The store will never take it: it stays, and holds up nobody.
    stuck: bool,
    /// It was changed by a call of which another part failed: it stays until that is asked for again.
    held: bool,
    /// What its order is kept by, as a hash: two that share one by chance wait for each other, no more.
    line: Option<u64>,
    /// It stays behind an object of its line that is under way.
    behind: bool,
}

impl Kept {
    fn waits(self) -> bool {
        self.state.waits()
    }

    fn stays(self) -> bool {
        self.stuck || self.held || self.behind
    }

    fn is_movable(self) -> bool {
        let has_ended = !self.is_new() && self.state != ObjectState::Batched;
        has_ended && !self.pending && !self.stays()
    }

    fn is_new(self) -> bool {
        self.state == ObjectState::New
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    kept: HashMap<StoredObjectId, Kept>,
    /// Objects are kept in order: nothing may come to the store before what is under way.
    pub(super) ordered: bool,
    /// Makes the lines of pipelines and devices.
    hasher: RandomState,
    /// How many objects of each line are under way.
    under_way: HashMap<u64, u64>,
    /// What stays behind them.
    behind: HashMap<u64, Vec<StoredObjectId>>,
    waiting: StateCount,
    movable: u64,
    /// Objects the store may have although nobody has said so: a call that appends them has not answered for certain.
    in_doubt: HashSet<StoredObjectId>,
    /// Those of them that have ended since: to be removed from the store.
    owed: HashSet<StoredObjectId>,
    /// Objects that the store has handed out while the spool's copy counted: nobody took them, and they are to be given
    /// back. Until they are, nobody else can have them either.
    early: HashSet<StoredObjectId>,
    /// Those of them that are being given back.
    giving_back: HashSet<StoredObjectId>,
    /// Objects have been removed from the store so often: what it handed out before may be nobody's by now.
    pub(super) removals: u64,
    /// The store does not answer; the mover looks when it does.
    pub(super) away: bool,
    /// The store answers, but had no room for what was moved last.
    pub(super) full: bool,
    /// What is in the spool has to be looked at: an append there was dropped.
    pub(super) look: bool,
    /// What the store held when it was last asked, and what has moved there since.
    pub(super) store: StoreStats,
}

impl Ledger {
    /// Of an empty spool.
    pub(super) fn new(away: bool) -> Self {
        Self {
            away,
            ..Self::default()
        }
    }

    pub(super) fn has(&self, id: StoredObjectId) -> bool {
        self.kept.contains_key(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether the store's copy of this object, if there is one, must not be seen: the spool's counts, or none.
    pub(super) fn is_hidden(&self, id: StoredObjectId) -> bool {
        self.has(id) || self.owed.contains(&id)
    }

    /// Whether somebody may have an object that the store was asked for when so many removals had been made. One that
    /// nobody may have is to be given back.
    pub(super) fn may_be_had(&mut self, id: StoredObjectId, removals: u64) -> bool {
        let is_early = self.is_hidden(id)
            || self.removals != removals
            || self.early.contains(&id)
            || self.giving_back.contains(&id);
        if is_early {
            self.early.insert(id);
        }
        !is_early
    }

    /// The objects to be given back now, at most so many; [`Self::gave_back`] says what came of it.
    pub(super) fn give_back(&mut self, limit: usize) -> Vec<StoredObjectId> {
        let ids: Vec<_> = self.early.iter().take(limit).copied().collect();
        ids.iter().for_each(|id| {
            self.early.remove(id);
        });
        self.giving_back.extend(&ids);
        ids
    }

    /// They have been given back, or are to be once more.
    pub(super) fn gave_back(&mut self, has_been: bool) {
        let ids = std::mem::take(&mut self.giving_back);
        if !has_been {
            self.early.extend(ids);
        }
    }

    /// Whether an object that is new here goes to the spool: the store is away, or others must go before.
    pub(super) fn goes_to_spool(&self) -> bool {
        self.away || self.movable > 0
    }

    pub(super) fn has_movable(&self) -> bool {
        self.movable > 0
    }

    /// What should be found in the spool as something to be moved.
    pub(super) fn movable(&self) -> Vec<StoredObjectId> {
        let movable = self.kept.iter().filter(|(_, kept)| kept.is_movable());
        movable.map(|(id, _)| *id).collect()
    }

    /// Whether it does not move now.
    pub(super) fn stays(&self, id: StoredObjectId) -> bool {
        self.kept.get(&id).is_some_and(|kept| kept.stays())
    }

    /// Whether the mover has something to do.
    pub(super) fn has_work(&self) -> bool {
        self.away || self.look || self.movable > 0 || !self.owed.is_empty() || !self.early.is_empty()
    }

    /// What waits in the spool.
    pub(super) fn waiting(&self) -> StateCount {
        self.waiting
    }

    /// Whether an object has to stay behind others of its line, which are under way and have their rows in the spool.
    pub(super) fn must_follow(&self, object: &StoredObject) -> bool {
        let may_follow = self.ordered && object.state != ObjectState::New;
        may_follow
            && self
                .line(object)
                .is_some_and(|line| self.under_way.contains_key(&line))
    }

    /// The line of an object of the spool, while objects are kept in order.
    pub(super) fn line_of(&self, id: StoredObjectId) -> Option<u64> {
        self.kept.get(&id)?.line.filter(|_| self.ordered)
    }

    fn line(&self, object: &StoredObject) -> Option<u64> {
        let device = semantics::device(object)?;
        Some(self.hasher.hash_one((&object.pipeline_id, device)))
    }

    /// Takes an object in, before it is appended to the spool; the room counts what waits in both.
    pub(super) fn admit(&mut self, object: &StoredObject, room: Room) -> Result<(), StoreError> {
        let kept = Kept {
            behind: self.must_follow(object),
            ..self.kept(object)
        };
        if kept.waits() {
            let store = &self.store;
            let waiting = StateCount {
                objects: self.waiting.objects.saturating_add(store.waiting()),
                payload_bytes: self.waiting.payload_bytes.saturating_add(store.waiting_bytes()),
            };
            room.admit(waiting, kept.payload_bytes)?;
        }
        if let Some(line) = kept.line.filter(|_| kept.behind) {
            self.behind.entry(line).or_default().push(object.id);
        }
        self.set(
            object.id,
            Some(Kept {
                pending: true,
                ..kept
            }),
        );
        Ok(())
    }

    /// The spool has an object that was admitted.
    pub(super) fn written(&mut self, id: StoredObjectId) {
        if let Some(kept) = self.kept.get(&id).copied() {
            self.set(
                id,
                Some(Kept {
                    pending: false,
                    ..kept
                }),
            );
        }
    }

    /// Notes an object that was found in the spool. Nobody knows whether the store has it as well.
    pub(super) fn found(&mut self, object: &StoredObject) {
        if !self.has(object.id) {
            self.set(object.id, Some(self.kept(object)));
            self.doubt(object.id);
        }
    }

    pub(super) fn forget(&mut self, id: StoredObjectId) {
        self.set(id, None);
    }

    pub(super) fn stuck(&mut self, id: StoredObjectId) {
        if let Some(kept) = self.kept.get(&id).copied() {
            self.set(id, Some(Kept { stuck: true, ..kept }));
        }
    }

    pub(super) fn hold(&mut self, ids: &[StoredObjectId], held: bool) {
        for id in ids {
            if let Some(kept) = self.kept.get(id).copied() {
                self.set(*id, Some(Kept { held, ..kept }));
            }
        }
    }

    /// Notes what a verdict that the spool has written made of an object.
    pub(super) fn settled(&mut self, verdict: &Verdict) {
        let id = verdict.id;
        let Some(mut kept) = self.kept.get(&id).copied() else {
            return;
        };
        let mut progress: Option<&Progress> = None;
        match &verdict.action {
            Action::Remove => return self.ended(id),
            _ if !kept.waits() => return,
            Action::Succeed { .. } => kept.state = ObjectState::Success,
            Action::Release { progress: moved, .. } => {
                kept.state = ObjectState::Failed;
                progress = moved.as_ref();
            }
            Action::Batch(moved) => {
                kept.state = ObjectState::Batched;
                progress = Some(moved);
            }
            Action::RetryLater(Failure { progress: moved, .. }) => {
                kept.state = ObjectState::Failed;
                progress = moved.as_ref();
            }
            Action::GiveUp { failure, .. } => {
                kept.state = ObjectState::Error;
                progress = failure.as_ref().and_then(|failure| failure.progress.as_ref());
            }
        }
        if let Some(progress) = progress {
            kept.payload_bytes = bytes(semantics::payload_bytes(&progress.context, &progress.payload));
        }
        self.set(id, Some(kept));
    }

    /// An object has left the spool for good, not for the store.
    pub(super) fn ended(&mut self, id: StoredObjectId) {
        self.forget(id);
        if self.in_doubt.remove(&id) {
            self.owed.insert(id);
        }
    }

    /// An object has left the spool for the store.
    pub(super) fn moved(&mut self, id: StoredObjectId) {
        let Some(kept) = self.kept.get(&id).copied() else {
            // It ended in the meantime.
            return;
        };
        self.forget(id);
        self.in_doubt.remove(&id);
        let count = match kept.state {
            ObjectState::New | ObjectState::Failed | ObjectState::Batched => &mut self.store.failed,
            ObjectState::Success => &mut self.store.success,
            ObjectState::Error => &mut self.store.error,
        };
        count.objects += 1;
        count.payload_bytes = count.payload_bytes.saturating_add(kept.payload_bytes);
    }

    /// The store may have this object from now on.
    pub(super) fn doubt(&mut self, id: StoredObjectId) {
        self.in_doubt.insert(id);
    }

    /// It is certain whether the store has this object.
    pub(super) fn is_certain(&mut self, id: StoredObjectId) {
        self.in_doubt.remove(&id);
    }

    /// Objects of the spool of which the store may have a copy.
    pub(super) fn in_both(&self) -> Vec<StoredObjectId> {
        let in_both = self.in_doubt.iter().filter(|id| self.has(**id));
        in_both.copied().collect()
    }

    pub(super) fn is_in_doubt(&self, id: StoredObjectId) -> bool {
        self.in_doubt.contains(&id)
    }

    /// Objects to be removed from the store, at most so many.
    pub(super) fn owed(&self, limit: usize) -> Vec<StoredObjectId> {
        self.owed.iter().take(limit).copied().collect()
    }

    pub(super) fn paid(&mut self, ids: &[StoredObjectId]) {
        for id in ids {
            self.owed.remove(id);
        }
    }

    fn kept(&self, object: &StoredObject) -> Kept {
        Kept {
            state: object.state,
            payload_bytes: bytes(semantics::payload_bytes(&object.context, &object.payload)),
            pending: false,
            stuck: false,
            held: false,
            line: self.line(object),
            behind: false,
        }
    }

    fn set(&mut self, id: StoredObjectId, kept: Option<Kept>) {
        let before = match kept {
            Some(kept) => self.kept.insert(id, kept),
            None => self.kept.remove(&id),
        };
        if let Some(kept) = kept {
            if let Some(line) = kept.line.filter(|_| kept.is_new()) {
                *self.under_way.entry(line).or_default() += 1;
            }
            self.movable += u64::from(kept.is_movable());
            if kept.waits() {
                self.waiting.objects += 1;
                self.waiting.payload_bytes += kept.payload_bytes;
            }
        }
        if let Some(before) = before {
            self.movable -= u64::from(before.is_movable());
            if before.waits() {
                self.waiting.objects -= 1;
                self.waiting.payload_bytes -= before.payload_bytes;
            }
            if let Some(line) = before.line.filter(|_| before.is_new()) {
                self.goes_on(line);
            }
        }
    }

    /// One object less of a line is under way: after the last one, what was behind it may move.
    fn goes_on(&mut self, line: u64) {
        if let Some(count) = self.under_way.get_mut(&line) {
            *count -= 1;
            if *count > 0 {
                return;
            }
        }
        self.under_way.remove(&line);
        for id in self.behind.remove(&line).unwrap_or_default() {
            if let Some(kept) = self.kept.get(&id).copied() {
                self.set(
                    id,
                    Some(Kept {
                        behind: false,
                        ..kept
                    }),
                );
            }
        }
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
