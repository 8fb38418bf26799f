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
    CorrelationId, Destination, ErrorReason, ObjectState, PipelineId, PipelineVersion, StoredObject,
    StoredObjectId, Timestamp,
};

use crate::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, Filtered, LaneStatus, ListRequest, Moved, ObjectFilter,
    Selection, StateCount, StoreStats, Suspects, Sweep, semantics,
};

/// What is remembered of one object.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) id: StoredObjectId,
    state: ObjectState,
    pipeline_id: PipelineId,
    version: PipelineVersion,
    is_delivery: bool,
    correlation_id: CorrelationId,
    device: Option<String>,
    reason: Option<ErrorReason>,
    destination: Option<Destination>,
    created_at: Timestamp,
    last_attempt_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    ended_at: Timestamp,
    crashes: u32,
    payload_bytes: usize,
}

impl Header {
    pub(crate) fn of(object: &StoredObject) -> Self {
        Self {
            id: object.id,
            state: object.state,
            pipeline_id: object.pipeline_id.clone(),
            version: object.version.clone(),
            is_delivery: object.input.is_delivery(),
            correlation_id: object.correlation_id.clone(),
            device: semantics::device(object).map(str::to_owned),
            reason: object.reason,
            destination: object.destination.clone(),
            created_at: object.created_at,
            last_attempt_at: object.last_attempt_at,
            not_before: object.not_before,
            ended_at: semantics::ended_at(object),
            crashes: object.crashes,
            payload_bytes: semantics::payload_bytes(&object.context, &object.payload),
        }
    }

    fn waits(&self) -> bool {
        self.state.waits()
    }

    /// Whether it waits for an attempt of its own, before which those behind it may not go.
    fn holds_back(&self) -> bool {
        matches!(self.state, ObjectState::New | ObjectState::Failed)
    }

    fn is_selected(&self, selection: &Selection, now: Timestamp) -> bool {
        let may_run = || {
            selection.due.is_none_or(|interval| {
                semantics::is_due(self.last_attempt_at, self.not_before, interval, now)
            })
        };
        self.state == ObjectState::Failed && selection.lane.has(self.destination.as_ref()) && may_run()
    }

    fn is_listed(&self, request: &ListRequest) -> bool {
        request.states.contains(&self.state) && request.filter.selects(self)
    }

    /// What its order is kept by; none for an object without a device.
    fn key(&self) -> Option<(&PipelineId, &str)> {
        Some((&self.pipeline_id, self.device.as_deref()?))
    }

    fn bytes(&self) -> u64 {
        u64::try_from(self.payload_bytes).unwrap_or(u64::MAX)
    }
}

impl<'a> From<&'a Header> for Filtered<'a> {
    fn from(header: &'a Header) -> Self {
        Self {
            id: header.id,
            pipeline_id: &header.pipeline_id,
            version: &header.version,
            is_delivery: header.is_delivery,
            device: header.device.as_deref(),
            reason: header.reason,
            ended_at: header.ended_at,
        }
    }
}

/// The headers of all objects by `seq`, and which of them are claimed.
#[derive(Debug, Default)]
pub(crate) struct Index {
    headers: BTreeMap<i64, Header>,
    seqs: HashMap<StoredObjectId, i64>,
    claimed: HashSet<StoredObjectId>,
    waiting: StateCount,
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

    /// How often an object was in flight at a crash.
    pub(crate) fn crashes_of(&self, id: StoredObjectId) -> u32 {
        let header = self.seq_of(id).and_then(|seq| self.headers.get(&seq));
        header.map_or(0, |header| header.crashes)
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> StateCount {
        self.waiting
    }

    /// Adds an object, or replaces what is remembered of it.
    pub(crate) fn put(&mut self, seq: i64, header: Header) {
        self.last_seq = self.last_seq.max(seq);
        self.seqs.insert(header.id, seq);
        if header.waits() {
            self.waiting.objects += 1;
            self.waiting.payload_bytes += header.bytes();
        }
        let before = self.headers.insert(seq, header);
        self.forget(before);
    }

    pub(crate) fn remove(&mut self, id: StoredObjectId) {
        self.claimed.remove(&id);
        if let Some(seq) = self.seqs.remove(&id) {
            let before = self.headers.remove(&seq);
            self.forget(before);
        }
    }

    fn forget(&mut self, before: Option<Header>) {
        if let Some(before) = before.filter(Header::waits) {
            self.waiting.objects -= 1;
            self.waiting.payload_bytes -= before.bytes();
        }
    }

    /// Claims objects, wherever they are.
    pub(crate) fn hold(&mut self, ids: impl IntoIterator<Item = StoredObjectId>) {
        self.claimed.extend(ids);
    }

    /// Ends the claim of an object.
    pub(crate) fn release(&mut self, id: StoredObjectId) {
        self.claimed.remove(&id);
    }

    /// Chooses a page and claims it.
    pub(crate) fn claim(&mut self, claim: &Claim) -> Vec<StoredObjectId> {
        let mut bytes = 0_usize;
        let held_back = if claim.ordered {
            self.held_back()
        } else {
            HashSet::new()
        };
        let page: Vec<_> = after(&self.headers, claim.after_seq)
            .filter(|(seq, header)| {
                !self.claimed.contains(&header.id)
                    && (header.crashes > 0) == (claim.suspects == Suspects::Only)
                    && header.is_selected(&claim.selection, claim.now)
                    && !held_back.contains(seq)
            })
            .map(|(_, header)| header)
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

    /// The objects that are not the oldest of their pipeline and device, or of whose key one is claimed.
    fn held_back(&self) -> HashSet<i64> {
        let waiting = || self.headers.iter().filter(|(_, header)| header.holds_back());
        let mut busy: HashSet<_> = waiting()
            .filter(|(_, header)| self.claimed.contains(&header.id))
            .filter_map(|(_, header)| header.key())
            .collect();
        waiting()
            .filter(|(_, header)| header.key().is_some_and(|key| !busy.insert(key)))
            .map(|(seq, _)| *seq)
            .collect()
    }

    pub(crate) fn lanes(&self, interval: Duration, now: Timestamp) -> Vec<LaneStatus> {
        let mut lanes: BTreeMap<Option<&str>, LaneStatus> = BTreeMap::new();
        for header in self.headers.values() {
            if header.state == ObjectState::Failed && !self.claimed.contains(&header.id) {
                let due = semantics::due_at(header.last_attempt_at, header.not_before, interval, now);
                let lane = lanes
                    .entry(header.destination.as_ref().map(Destination::as_str))
                    .or_insert_with(|| LaneStatus {
                        destination: header.destination.clone(),
                        next_due: due,
                    });
                lane.next_due = lane.next_due.min(due);
            }
        }
        lanes.into_values().collect()
    }

    pub(crate) fn is_waiting(&self, pipeline_id: &PipelineId, device: &str) -> bool {
        let wanted = Some((pipeline_id, device));
        self.headers
            .values()
            .any(|header| header.holds_back() && header.key() == wanted)
    }

    /// Chooses what is to be removed and claims it.
    pub(crate) fn evict(&mut self, eviction: &Eviction) -> Vec<Evicted> {
        let (mut objects, mut bytes) = (0, 0_u64);
        let evicted: Vec<_> = self
            .headers
            .values()
            .filter(|header| header.state == ObjectState::Failed && !self.claimed.contains(&header.id))
            .take(Eviction::MAX_OBJECTS)
            .take_while(|header| {
                let wanted = objects < eviction.objects || bytes < eviction.bytes;
                objects += 1;
                bytes = bytes.saturating_add(header.bytes());
                wanted
            })
            .map(|header| Evicted {
                id: header.id,
                pipeline_id: header.pipeline_id.clone(),
                correlation_id: header.correlation_id.clone(),
                payload_bytes: header.bytes(),
            })
            .collect();
        self.claimed.extend(evicted.iter().map(|evicted| evicted.id));
        evicted
    }

    /// What is to be swept; what is to be moved is claimed.
    pub(crate) fn sweep(&mut self, sweep: &Sweep, limit: usize) -> Vec<StoredObjectId> {
        let (state, before) = match sweep {
            Sweep::TooOld { before, .. } => (ObjectState::Failed, Some(*before)),
            Sweep::History { before } => (ObjectState::Success, Some(*before)),
            Sweep::DeadLetters { before } => (ObjectState::Error, Some(*before)),
            Sweep::DeadLettersOver { .. } => (ObjectState::Error, None),
        };
        let moment = |header: &Header| match state {
            ObjectState::Failed => header.created_at,
            _ => header.ended_at,
        };
        let mut found: Vec<_> = self
            .headers
            .iter()
            .filter(|(_, header)| header.state == state && !self.claimed.contains(&header.id))
            .map(|(seq, header)| (moment(header), *seq, header.id))
            .filter(|(moment, ..)| before.is_none_or(|before| *moment < before))
            .collect();
        found.sort_unstable();
        if let Sweep::DeadLettersOver { max } = sweep {
            let max = usize::try_from(*max).unwrap_or(usize::MAX);
            found.truncate(found.len().saturating_sub(max));
        }
        found.truncate(limit.max(1));
        let ids: Vec<_> = found.into_iter().map(|(_, _, id)| id).collect();
        self.claimed.extend(&ids);
        ids
    }

    /// Chooses a page of the error collection and claims it; `readable` leaves out what cannot be read, unless it is
    /// named.
    pub(crate) fn error_page(&mut self, page: &ErrorPage, readable: bool) -> Vec<StoredObjectId> {
        let any = !readable || !page.filter.reasons.is_empty();
        let ids: Vec<_> = after(&self.headers, page.after_seq)
            .map(|(_, header)| header)
            .filter(|header| header.state == ObjectState::Error && !self.claimed.contains(&header.id))
            .filter(|header| any || header.reason != Some(ErrorReason::Corrupt))
            .filter(|header| page.filter.selects(*header))
            .take(page.limit.max(1))
            .map(|header| header.id)
            .collect();
        self.claimed.extend(&ids);
        ids
    }

    /// What these objects are together.
    pub(crate) fn moved(&self, ids: &[StoredObjectId]) -> Moved {
        let mut moved = Moved::default();
        for seq in ids.iter().filter_map(|id| self.seq_of(*id)) {
            moved.objects += 1;
            moved.payload_bytes += self.headers.get(&seq).map_or(0, Header::bytes);
            moved.last_seq = moved.last_seq.max(Some(seq));
        }
        moved
    }

    pub(crate) fn survey(&self, filter: &ObjectFilter) -> Vec<ErrorGroup> {
        let mut groups: BTreeMap<(&PipelineId, Option<ErrorReason>), ErrorGroup> = BTreeMap::new();
        let given_up = |header: &&Header| header.state == ObjectState::Error && filter.selects(*header);
        for header in self.headers.values().filter(given_up) {
            let group = groups
                .entry((&header.pipeline_id, header.reason))
                .or_insert_with(|| ErrorGroup {
                    pipeline_id: header.pipeline_id.clone(),
                    reason: header.reason,
                    count: StateCount::default(),
                    ended: (header.ended_at, header.ended_at),
                });
            group.count.objects += 1;
            group.count.payload_bytes += header.bytes();
            group.ended.0 = group.ended.0.min(header.ended_at);
            group.ended.1 = group.ended.1.max(header.ended_at);
        }
        groups.into_values().collect()
    }

    /// The same ids in pages whose payloads are not too much to be read at once.
    pub(crate) fn pages(&self, ids: Vec<StoredObjectId>) -> Vec<Vec<StoredObjectId>> {
        let mut pages: Vec<Vec<_>> = Vec::new();
        let mut bytes = usize::MAX;
        for id in ids {
            let header = self.seq_of(id).and_then(|seq| self.headers.get(&seq));
            let more = header.map_or(0, |header| header.payload_bytes);
            bytes = bytes.saturating_add(more);
            match pages.last_mut() {
                Some(page) if bytes <= ListRequest::MAX_BYTES => page.push(id),
                _ => {
                    pages.push(vec![id]);
                    bytes = more;
                }
            }
        }
        pages
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
                ObjectState::Batched => &mut stats.batched,
            };
            count.objects += 1;
            count.payload_bytes += header.bytes();
            if header.holds_back() {
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
