//! Which objects are claimed. In memory: a crash ends every claim, so there is nothing to expire.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use edgehold_core::StoredObjectId;

/// The claimed objects of a store, shared by the queue and its writer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    ids: Arc<Mutex<HashSet<StoredObjectId>>>,
}

impl Leases {
    fn ids(&self) -> MutexGuard<'_, HashSet<StoredObjectId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn contains(&self, id: StoredObjectId) -> bool {
        self.ids().contains(&id)
    }

    pub(crate) fn release<'a>(&self, released: impl IntoIterator<Item = &'a StoredObjectId>) {
        let mut ids = self.ids();
        for id in released {
            ids.remove(id);
        }
    }

    /// Begins a page that holds nothing.
    pub(crate) fn page(&self, limit: usize, max_bytes: usize) -> LeasedPage {
        LeasedPage {
            leases: self.clone(),
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
    taken: Vec<(i64, StoredObjectId)>,
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
        let mut ids = self.leases.ids();
        if ids.contains(&id) {
            return true;
        }
        let bytes = self.bytes.saturating_add(payload_bytes);
        if bytes > self.max_bytes && !self.taken.is_empty() {
            return false;
        }
        ids.insert(id);
        self.bytes = bytes;
        self.taken.push((seq, id));
        true
    }

    /// The places of the objects, ascending.
    pub(crate) fn seqs(&self) -> Vec<i64> {
        self.taken.iter().map(|(seq, _)| *seq).collect()
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
