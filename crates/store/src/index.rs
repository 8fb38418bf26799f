//! What a store that is not a database remembers of each object: enough to choose, count and order them without
//! their payloads.
//!
//! Owns the rules of claiming and listing for [`MemoryQueue`](crate::MemoryQueue) and
//! [`StoreClientQueue`](crate::StoreClientQueue). Does not own the objects. Everything is a scan in order of `seq`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    time::Duration,
};

use edgehold_core::{
    Destination, ErrorReason, ObjectState, PipelineId, StoredObject, StoredObjectId, Timestamp,
};

use crate::{Claim, ListRequest, Selection, StoreStats, semantics};

/// What is remembered of one object.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) id: StoredObjectId,
    state: ObjectState,
    pipeline_id: PipelineId,
    reason: Option<ErrorReason>,
    destination: Option<Destination>,
    created_at: Timestamp,
    last_attempt_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    payload_bytes: usize,
}

impl Header {
    pub(crate) fn of(object: &StoredObject) -> Self {
        Self {
            id: object.id,
            state: object.state,
            pipeline_id: object.pipeline_id.clone(),
            reason: object.reason,
            destination: object.destination.clone(),
            created_at: object.created_at,
            last_attempt_at: object.last_attempt_at,
            not_before: object.not_before,
            payload_bytes: object.payload.len(),
        }
    }

    fn is_selected(&self, selection: &Selection, now: Timestamp) -> bool {
        self.state == ObjectState::Failed
            && match selection {
                Selection::Due(interval) => {
                    semantics::is_due(self.last_attempt_at, self.not_before, *interval, now)
                }
                Selection::At(destination) => {
                    self.destination.as_ref() == Some(destination)
                        && self.not_before.is_none_or(|at| at <= now)
                }
            }
    }

    fn is_listed(&self, request: &ListRequest) -> bool {
        request.states.contains(&self.state)
            && request
                .pipeline_id
                .as_ref()
                .is_none_or(|id| *id == self.pipeline_id)
            && request.reason.is_none_or(|reason| Some(reason) == self.reason)
    }
}

/// The headers of all objects by `seq`, and which of them are claimed.
#[derive(Debug, Default)]
pub(crate) struct Index {
    headers: BTreeMap<i64, Header>,
    seqs: HashMap<StoredObjectId, i64>,
    claimed: HashSet<StoredObjectId>,
    last_seq: i64,
}

impl Index {
    /// A `seq` that was never used.
    pub(crate) fn next_seq(&mut self) -> i64 {
        self.last_seq += 1;
        self.last_seq
    }

    pub(crate) fn seq_of(&self, id: StoredObjectId) -> Option<i64> {
        self.seqs.get(&id).copied()
    }

    /// Adds an object, or replaces what is remembered of it.
    pub(crate) fn put(&mut self, seq: i64, header: Header) {
        self.last_seq = self.last_seq.max(seq);
        self.seqs.insert(header.id, seq);
        self.headers.insert(seq, header);
    }

    pub(crate) fn remove(&mut self, id: StoredObjectId) {
        self.claimed.remove(&id);
        if let Some(seq) = self.seqs.remove(&id) {
            self.headers.remove(&seq);
        }
    }

    /// Ends the claim of an object.
    pub(crate) fn release(&mut self, id: StoredObjectId) {
        self.claimed.remove(&id);
    }

    /// Chooses a page and claims it.
    pub(crate) fn claim(&mut self, claim: &Claim) -> Vec<StoredObjectId> {
        let mut bytes = 0_usize;
        let page: Vec<_> = after(&self.headers, claim.after_seq)
            .map(|(_, header)| header)
            .filter(|header| {
                !self.claimed.contains(&header.id) && header.is_selected(&claim.selection, claim.now)
            })
            .take(claim.limit.max(1))
            .enumerate()
            .take_while(|(place, header)| {
                bytes = bytes.saturating_add(header.payload_bytes);
                *place == 0 || bytes <= claim.max_bytes
            })
            .map(|(_, header)| header.id)
            .collect();
        self.claimed.extend(&page);
        page
    }

    pub(crate) fn next_due(&self, interval: Duration) -> Option<Timestamp> {
        self.headers
            .values()
            .filter(|header| header.state == ObjectState::Failed && !self.claimed.contains(&header.id))
            .map(|header| semantics::due_at(header.last_attempt_at, header.not_before, interval))
            .min()
    }

    /// The ids of a page, and where the next one begins.
    pub(crate) fn list(&self, request: &ListRequest) -> (Vec<StoredObjectId>, Option<i64>) {
        let mut bytes = 0_usize;
        let mut last_seq = request.after_seq;
        let mut page = Vec::new();
        for (seq, header) in
            after(&self.headers, request.after_seq).filter(|(_, header)| header.is_listed(request))
        {
            if page.len() >= request.limit.max(1) || bytes >= ListRequest::MAX_BYTES {
                return (page, Some(last_seq));
            }
            bytes = bytes.saturating_add(header.payload_bytes);
            last_seq = *seq;
            page.push(header.id);
        }
        (page, None)
    }

    pub(crate) fn stats(&self) -> StoreStats {
        let mut stats = StoreStats::default();
        for header in self.headers.values() {
            let count = match header.state {
                ObjectState::New => &mut stats.new,
                ObjectState::Success => &mut stats.success,
                ObjectState::Failed => &mut stats.failed,
                ObjectState::Error => &mut stats.error,
            };
            count.objects += 1;
            count.payload_bytes += u64::try_from(header.payload_bytes).unwrap_or(u64::MAX);
            if matches!(header.state, ObjectState::New | ObjectState::Failed) {
                let oldest = stats.oldest_waiting.unwrap_or(header.created_at);
                stats.oldest_waiting = Some(oldest.min(header.created_at));
            }
        }
        stats
    }
}

fn after(headers: &BTreeMap<i64, Header>, seq: i64) -> impl Iterator<Item = (&i64, &Header)> {
    headers.range((Bound::Excluded(seq), Bound::Unbounded))
}
