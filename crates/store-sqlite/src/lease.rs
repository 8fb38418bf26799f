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
type Key = (String, String);

#[derive(Debug, Default)]
struct Known {
    /// With their keys, once they have been read.
    claimed: HashMap<StoredObjectId, Option<Key>>,
    /// How many objects of a key are claimed.
    busy: HashMap<Key, usize>,
    /// The objects that were in flight at a crash, and their places.
    suspects: HashMap<StoredObjectId, i64>,
}

impl Known {
    /// Whether nobody has it and it is of the kind that is wanted.
    fn may_join(&self, id: StoredObjectId, wanted: Option<Suspects>) -> bool {
        let is_suspect = self.suspects.contains_key(&id);
        !self.claimed.contains_key(&id)
            && wanted.is_none_or(|wanted| is_suspect == (wanted == Suspects::Only))
    }

    fn release(&mut self, id: StoredObjectId) {
        if let Some(Some(key)) = self.claimed.remove(&id)
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

    pub(crate) fn contains(&self, id: StoredObjectId) -> bool {
        self.known().claimed.contains_key(&id)
    }

    pub(crate) fn release<'a>(&self, released: impl IntoIterator<Item = &'a StoredObjectId>) {
        let mut known = self.known();
        for id in released {
            known.release(*id);
        }
    }

    /// Those of these objects that are claimed.
    pub(crate) fn claimed<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a StoredObjectId>,
    ) -> Vec<StoredObjectId> {
        let known = self.known();
        let ids = ids.into_iter().copied();
        ids.filter(|id| known.claimed.contains_key(id)).collect()
    }

    /// Verdicts for these are on the disk: they are as good as any other.
    pub(crate) fn cleared<'a>(&self, cleared: impl IntoIterator<Item = &'a StoredObjectId>) {
        let mut known = self.known();
        for id in cleared {
            known.suspects.remove(id);
        }
    }

    /// These were in flight at a crash.
    pub(crate) fn suspect(&self, found: impl IntoIterator<Item = (StoredObjectId, i64)>) {
        self.known().suspects.extend(found);
    }

    /// The places of those that were in flight at a crash.
    pub(crate) fn suspects(&self) -> Vec<i64> {
        self.known().suspects.values().copied().collect()
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
    taken: Vec<(Place, StoredObjectId)>,
    bytes: usize,
    limit: usize,
    max_bytes: usize,
}

impl LeasedPage {
    /// Claims an object unless somebody else has it. False when the page ends before it.
    pub(crate) fn offer(&mut self, seq: i64, id: StoredObjectId, payload_bytes: usize) -> bool {
        if self.taken.len() >= self.limit {
            return false;
        }
        let mut known = self.leases.known();
        if !known.may_join(id, self.suspects) {
            return true;
        }
        let bytes = self.bytes.saturating_add(payload_bytes);
        if bytes > self.max_bytes && !self.taken.is_empty() {
            return false;
        }
        known.claimed.insert(id, None);
        self.bytes = bytes;
        self.taken.push((
            Place {
                seq,
                bytes: payload_bytes,
            },
            id,
        ));
        true
    }

    /// The places of the objects, in the order in which they were offered.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.taken.iter().map(|(place, _)| *place).collect()
    }

    /// How many objects it holds, and the bytes of their payloads.
    pub(crate) fn weight(&self) -> (u64, u64) {
        let unsigned = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        (unsigned(self.taken.len()), unsigned(self.bytes))
    }

    /// Whether an object could join it as far as claims go.
    pub(crate) fn takes(&self, id: StoredObjectId) -> bool {
        self.leases.known().may_join(id, self.suspects)
    }

    /// Whether an object of this pipeline and device is claimed.
    pub(crate) fn is_busy(&self, pipeline_id: String, device: String) -> bool {
        self.leases.known().busy.contains_key(&(pipeline_id, device))
    }

    /// Notes what these objects of the page are kept in order by. In order, it leaves only those of whose key nothing
    /// else is claimed.
    pub(crate) fn hold(&self, objects: &mut Vec<StoredObject>, ordered: bool) {
        let mut known = self.leases.known();
        let known = &mut *known;
        objects.retain(|object| {
            let Some(device) = semantics::device(object) else {
                return true;
            };
            let key = (object.pipeline_id.as_str().to_owned(), device.to_owned());
            let count = known.busy.entry(key.clone()).or_default();
            if ordered && *count > 0 {
                return false;
            }
            *count += 1;
            known.claimed.insert(object.id, Some(key));
            true
        });
    }

    /// Keeps the claims of these objects, which are handed out, and gives the others back.
    pub(crate) fn hand_out(mut self, kept: &HashSet<StoredObjectId>) {
        self.taken.retain(|(_, id)| !kept.contains(id));
    }
}

impl Drop for LeasedPage {
    fn drop(&mut self) {
        self.leases.release(self.taken.iter().map(|(_, id)| id));
    }
}
