//! What the retry loop begins: passes, attempts, claims and questions to the store; and what it breaks off.
//!
//! Owns the bounds over all lanes. Whether a lane begins a pass and what it wants from the store is the lane's to say,
//! how many a destination lets in is the destination's.

use std::time::Duration;

use edgehold_config::configuration::{Ordering, StoreAndForward};
use edgehold_core::{StoredObject, Timestamp};
use edgehold_store::{Claim, Suspects};
use tokio::time::Instant;

use super::{Done, Drive, enter::Attempted};
use crate::{
    attempt::{attempt, release},
    clock::now,
    destinations::{Outlook, Visitor},
    lane::{LaneKey, LaneState, Purpose},
};

/// Most attempts at a time, over all lanes.
const MAX_RUNNING: usize = 1024;

impl Drive<'_> {
    /// Begins what can begin. Answers when there is something to do that nobody will tell of.
    pub(super) fn feed(&mut self) -> Option<Timestamp> {
        let moment = Instant::now();
        if let Some(until) = self.store.rests_until(moment) {
            return Some(now().saturating_add(until.saturating_duration_since(moment)));
        }
        let settings = self.dispatch.settings.borrow().clone();
        let saf = &settings.store_and_forward;
        let keys: Vec<_> = self.lanes.keys().cloned().collect();
        for key in &keys {
            self.feed_lane(key, saf, moment);
        }
        self.ask(saf);
        let now = now();
        let wake_at = keys
            .iter()
            .filter_map(|key| {
                let outlook = self.outlook(key);
                self.lanes[key].wake_at(&outlook, now, moment)
            })
            .min();
        self.lanes.retain(|_, lane| !lane.is_forgettable(moment));
        // One interval at most: the clock may be set back, and only a claim is told the time.
        wake_at.map(|at| at.min(now.saturating_add(saf.retry_interval)))
    }

    /// Asks the store what is due, and brings back what may come back.
    fn ask(&mut self, saf: &StoreAndForward) {
        let redrive = self.store.redrive(&self.dispatch.pipelines.borrow());
        self.under_way.extend(redrive);
        if let Some(look) = self.store.look(saf.rest()) {
            self.lanes.values_mut().for_each(LaneState::ask);
            self.under_way.push(look);
        }
    }

    fn feed_lane(&mut self, key: &LaneKey, saf: &StoreAndForward, moment: Instant) {
        let mut outlook = self.outlook(key);
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if outlook.closed && lane.passing().is_some() {
            if lane.end_if_done(moment) {
                self.store.want_look();
            }
            self.break_off(key, moment);
            return;
        }
        let woken = lane.begin(&outlook, now(), moment);
        if let (true, LaneKey::To(Some(destination))) = (woken, key) {
            self.dispatch.wake.begin_pass(destination);
        }
        while outlook.room > 0 && self.running < MAX_RUNNING && !self.verdicts.are_many() {
            let Some(lane) = self
                .lanes
                .get_mut(key)
                .filter(|lane| lane.running() < outlook.most)
            else {
                break;
            };
            let Some((object, purpose)) = lane.next() else {
                break;
            };
            lane.begun(object.payload.len());
            self.start(key, object, purpose);
            outlook = self.outlook(key);
        }
        self.claim(key, &outlook, saf);
        if let Some(lane) = self.lanes.get_mut(key)
            && lane.end_if_done(moment)
        {
            self.store.want_look();
        }
    }

    fn outlook(&self, key: &LaneKey) -> Outlook {
        match key {
            LaneKey::To(destination) => self.dispatch.destinations.outlook(destination.as_ref()),
            LaneKey::Suspects => {
                let running = self.lanes.get(key).map_or(0, LaneState::running);
                let room = 1_usize.saturating_sub(running);
                Outlook {
                    room,
                    most: 1,
                    soon: room,
                    closed: false,
                    probing: false,
                    ready_in: Duration::ZERO,
                }
            }
        }
    }

    /// Begins an attempt, if its destination lets it in.
    fn start(&mut self, key: &LaneKey, object: StoredObject, purpose: Purpose) {
        self.running += 1;
        let (lane, seq, bytes) = (key.clone(), object.seq, object.payload.len());
        let destinations = &self.dispatch.destinations;
        let visitor = Visitor::retried(destinations, object.id, object.destination.as_ref());
        let (dispatch, hurry) = (self.dispatch, self.hurry.clone());
        self.under_way.push(Box::pin(async move {
            let ended = match visitor {
                Ok(visitor) => attempt(dispatch, object, visitor, hurry).await,
                Err(_) => release(dispatch, object, None),
            };
            Done::Attempted(Box::new(Attempted {
                lane,
                purpose,
                seq,
                bytes,
                ended,
            }))
        }));
    }

    /// Claims what the lane wants, as long as it holds less than its share of the bytes.
    fn claim(&mut self, key: &LaneKey, outlook: &Outlook, saf: &StoreAndForward) {
        let is_passing = |lane: &LaneState| lane.passing().is_some();
        // Most lanes rest: the others are counted only for one that does not.
        if !self.lanes.get(key).is_some_and(is_passing) {
            return;
        }
        let passing = self.lanes.values().filter(|lane| is_passing(lane)).count();
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let share = usize::try_from(saf.retry_batch_bytes).unwrap_or(usize::MAX) / passing;
        let in_hand = lane.bytes_in_hand();
        if in_hand > 0 && in_hand >= share {
            return;
        }
        let batch = saf.retry_batch_size.get();
        let Some(wanted) = lane.want(outlook, saf.rest(), batch) else {
            return;
        };
        let claim = Claim {
            selection: wanted.selection,
            suspects: match key {
                LaneKey::Suspects => Suspects::Only,
                LaneKey::To(_) => Suspects::Exclude,
            },
            ordered: saf.ordering == Ordering::Device,
            after_seq: wanted.after_seq,
            now: now(),
            limit: wanted.limit,
            max_bytes: (share - in_hand).max(1),
        };
        self.under_way.push(self.store.claim(key.clone(), claim));
    }

    pub(super) fn break_off_all(&mut self) {
        let keys: Vec<_> = self.lanes.keys().cloned().collect();
        for key in keys {
            self.break_off(&key, Instant::now());
        }
    }

    /// Ends the pass of a lane before its end, and gives back what it has claimed and not begun.
    pub(super) fn break_off(&mut self, key: &LaneKey, moment: Instant) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if let (Some(Purpose::Woken), LaneKey::To(Some(destination))) = (lane.passing(), key) {
            self.dispatch.wake.still_waiting(destination, moment);
        }
        let unused = lane.break_off();
        self.give_back(unused);
    }

    pub(super) fn give_back(&mut self, unused: Vec<StoredObject>) {
        for object in unused {
            let lane = LaneKey::To(object.destination.clone());
            self.verdicts.push(release(self.dispatch, object, None), lane);
        }
    }
}
