//! Which objects are claimed, and which were at a crash. In memory: a crash ends every claim, so there is nothing to
//! expire. What a crash must not end (that an object was claimed, how many crashes it has seen) is in the file.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use edgehold_core::{StoredObject, StoredObjectId};
use edgehold_store::{Suspects, semantics};

use crate::reader::Place;

/// The claimed objects of a store, shared by the queue and its writer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    known: Arc<Mutex<Known>>,
}

/// What an object is kept in order by: its pipeline and device.
type Key = Arc<(String, String)>;

/// A claimed object that has been read.
#[derive(Debug)]
struct Held {
    id: StoredObjectId,
    key: Option<Key>,
}

/// All by the places of the objects.
#[derive(Debug, Default)]
struct Known {
    /// None until it has been read.
    claimed: HashMap<i64, Option<Held>>,
    /// The places of those that have been read.
    held: HashMap<StoredObjectId, i64>,
    /// How many objects of a key are claimed.
    busy: HashMap<Key, usize>,
    /// The objects that were in flight at a crash.
    suspects: HashMap<i64, StoredObjectId>,
}

impl Known {
    /// Whether nobody has it and it is of the kind that is wanted.
    fn may_join(&self, seq: i64, wanted: Option<Suspects>) -> bool {
        !self.claimed.contains_key(&seq)
            && wanted.is_none_or(|wanted| self.suspects.contains_key(&seq) == (wanted == Suspects::Only))
    }

    fn release(&mut self, seq: i64) {
        let Some(Some(held)) = self.claimed.remove(&seq) else {
            return;
        };
        self.held.remove(&held.id);
        if let Some(key) = held.key
            && let Some(count) = self.busy.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.busy.remove(&key);
            }
        }
    }
}

impl Leases {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn contains(&self, seq: i64) -> bool {
        self.known().claimed.contains_key(&seq)
    }

    pub(crate) fn release(&self, released: impl IntoIterator<Item = i64>) {
        let mut known = self.known();
        for seq in released {
            known.release(seq);
        }
    }

    /// The places of those of these objects that are claimed and have been read.
    pub(crate) fn held<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a StoredObjectId>,
    ) -> HashMap<StoredObjectId, i64> {
        let known = self.known();
        let place = |id: &StoredObjectId| Some((*id, *known.held.get(id)?));
        ids.into_iter().filter_map(place).collect()
    }

    /// Verdicts for these are on the disk: they are as good as any other.
    pub(crate) fn cleared<'a>(&self, cleared: impl IntoIterator<Item = &'a StoredObjectId>) {
        let mut known = self.known();
        if !known.suspects.is_empty() {
            let cleared: HashSet<_> = cleared.into_iter().collect();
            known.suspects.retain(|_, id| !cleared.contains(id));
        }
    }

    /// These were in flight at a crash.
    pub(crate) fn suspect(&self, found: impl IntoIterator<Item = (StoredObjectId, i64)>) {
        let found = found.into_iter().map(|(id, seq)| (seq, id));
        self.known().suspects.extend(found);
    }

    pub(crate) fn has_suspects(&self) -> bool {
        !self.known().suspects.is_empty()
    }

    /// The places of those that were in flight at a crash.
    pub(crate) fn suspects(&self) -> Vec<i64> {
        self.known().suspects.keys().copied().collect()
    }

    /// Begins a page that holds nothing; `suspects` says which objects it takes, none means all.
    pub(crate) fn page(&self, suspects: Option<Suspects>, limit: usize, max_bytes: usize) -> LeasedPage {
        LeasedPage {
            leases: self.clone(),
            suspects,
            taken: Vec::new(),
            bytes: 0,
            limit: limit.max(1),
            max_bytes,
        }
    }
}

/// Objects claimed for a page that is not handed out yet. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct LeasedPage {
    leases: Leases,
    suspects: Option<Suspects>,
    taken: Vec<Place>,
    bytes: usize,
    limit: usize,
    max_bytes: usize,
}

impl LeasedPage {
    /// Claims an object unless somebody else has it. False when the page ends before it.
    pub(crate) fn offer(&mut self, place: Place) -> bool {
        if self.room() == 0 {
            return false;
        }
        let mut known = self.leases.known();
        if !known.may_join(place.seq, self.suspects) {
            return true;
        }
        let bytes = self.bytes.saturating_add(place.bytes);
        if bytes > self.max_bytes && !self.taken.is_empty() {
            return false;
        }
        known.claimed.insert(place.seq, None);
        self.bytes = bytes;
        self.taken.push(place);
        true
    }

    /// How many more objects it takes.
    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.taken.len())
    }

    /// The places behind this one whose objects it does not take.
    pub(crate) fn leaves_out(&self, after: i64) -> Vec<i64> {
        let known = self.leases.known();
        let suspects = known.suspects.keys();
        let suspects = suspects.filter(|_| self.suspects == Some(Suspects::Exclude));
        let places = known.claimed.keys().chain(suspects);
        places.copied().filter(|seq| *seq > after).collect()
    }

    /// The places of the objects, in the order in which they were offered.
    pub(crate) fn places(&self) -> &[Place] {
        &self.taken
    }

    /// How many objects it holds, and the bytes of their payloads.
    pub(crate) fn weight(&self) -> (u64, u64) {
        let unsigned = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        (unsigned(self.taken.len()), unsigned(self.bytes))
    }

    /// Whether an object could join it as far as claims go.
    pub(crate) fn takes(&self, seq: i64) -> bool {
        self.leases.known().may_join(seq, self.suspects)
    }

    /// Whether an object of this pipeline and device is claimed.
    pub(crate) fn is_busy(&self, pipeline_id: String, device: String) -> bool {
        self.leases.known().busy.contains_key(&(pipeline_id, device))
    }

    /// Notes who the objects of the page are, and what they are kept in order by. In order, it leaves only those of whose
    /// key nothing else is claimed.
    pub(crate) fn hold(&self, objects: &mut Vec<StoredObject>, ordered: bool) {
        let mut known = self.leases.known();
        let known = &mut *known;
        objects.retain(|object| {
            let key = semantics::device(object)
                .map(|device| Key::new((object.pipeline_id.as_str().to_owned(), device.to_owned())));
            if let Some(key) = &key {
                let count = known.busy.entry(key.clone()).or_default();
                if ordered && *count > 0 {
                    return false;
                }
                *count += 1;
            }
            let id = object.id;
            known.held.insert(id, object.seq);
            known.claimed.insert(object.seq, Some(Held { id, key }));
            true
        });
    }

    /// The places of the page that none of these objects has.
    pub(crate) fn without(&self, objects: &[StoredObject]) -> Vec<i64> {
        let kept: HashSet<_> = objects.iter().map(|object| object.seq).collect();
        let places = self.taken.iter().map(|place| place.seq);
        places.filter(|seq| !kept.contains(seq)).collect()
    }

    /// Keeps the claims of these objects, which are handed out, and gives the others back.
    pub(crate) fn hand_out(mut self, objects: &[StoredObject]) {
        let kept: HashSet<_> = objects.iter().map(|object| object.seq).collect();
        self.taken.retain(|place| !kept.contains(&place.seq));
    }
}

impl Drop for LeasedPage {
    fn drop(&mut self) {
        self.leases.release(self.taken.iter().map(|place| place.seq));
    }
}
