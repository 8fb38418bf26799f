//! What follows from the end of something that was under way in the retry loop.
//!
//! One function for each thing that ends: a look, a claim, an attempt, a verdict. An attempt that ends makes a verdict;
//! the books, a batch and the lanes learn of it when the verdict is in the store. Owns no state.

use std::collections::HashMap;

use edgehold_config::configuration::Ordering;
use edgehold_core::StoredObject;
use edgehold_store::{LaneStatus, StoreError};
use tokio::time::Instant;

use super::{Done, Drive, verdict::Settling};
use crate::{
    DropReason,
    attempt::{Ended, Entry},
    lane::{LaneKey, Purpose},
};

/// An attempt that has ended.
pub(super) struct Attempted {
    pub(super) lane: LaneKey,
    pub(super) purpose: Purpose,
    pub(super) seq: i64,
    pub(super) bytes: usize,
    pub(super) ended: Ended,
}

impl Drive<'_> {
    pub(super) fn enter(&mut self, done: Done) {
        match done {
            Done::Looked(result) => {
                if let Some(lanes) = self.store.looked(result) {
                    self.looked(lanes);
                }
            }
            Done::Redriven(result) => self.store.redriven(result),
            Done::Claimed(key, result) => self.claimed(&key, result),
            Done::Attempted(attempted) => self.attempted(*attempted),
            Done::Settled(settled, result) => {
                self.verdicts.written();
                if self.store.heard(result).is_some() {
                    settled.into_iter().for_each(|settled| self.settled(settled));
                }
            }
        }
    }

    /// The store has said when something is due, in each lane that has something.
    fn looked(&mut self, statuses: Vec<LaneStatus>) {
        let first = statuses.iter().map(|status| status.next_due).min();
        let mut due: HashMap<_, _> = statuses
            .into_iter()
            .map(|status| (LaneKey::To(status.destination), status.next_due))
            .collect();
        // Suspects may be in any lane.
        if let Some(first) = first {
            due.insert(LaneKey::Suspects, first);
        }
        for (key, lane) in &mut self.lanes {
            lane.answer(due.remove(key));
        }
        for (key, at) in due {
            self.lane(key).note(at);
        }
    }

    /// A claim has come back. What a lane does not want any more is given back; without an answer its pass is over, and
    /// the store is asked anew what is due.
    fn claimed(&mut self, key: &LaneKey, result: Result<Vec<StoredObject>, StoreError>) {
        let failed = result.is_err();
        let objects = self.store.heard(result).unwrap_or_default();
        if let Err(unwanted) = self.lane(key.clone()).got(objects) {
            self.give_back(unwanted);
        }
        if failed {
            self.break_off(key, Instant::now());
            self.store.want_look();
        }
    }

    /// An attempt has ended: its verdict is to be written. A failure ends the pass that a success had woken.
    fn attempted(&mut self, attempted: Attempted) {
        let Attempted {
            lane: key,
            purpose,
            seq,
            bytes,
            ended,
        } = attempted;
        self.running -= 1;
        let interval = self.dispatch.settings.borrow().store_and_forward.retry_interval;
        let moment = Instant::now();
        let failed_early = ended.failed && purpose == Purpose::Woken;
        self.verdicts.push(ended, key.clone());
        let lane = self.lane(key.clone());
        lane.ended(bytes);
        if failed_early {
            let until = lane.failed_early(seq, interval, moment);
            if lane.passing() == Some(Purpose::Woken) {
                self.break_off(&key, moment);
            }
            if let LaneKey::To(Some(destination)) = &key {
                self.dispatch.wake.still_waiting(destination, until);
            }
        }
    }

    /// A verdict is in the store.
    fn settled(&mut self, settled: Settling) {
        let books = &self.dispatch.books;
        match settled.entry {
            Entry::Completed => books.completed(),
            Entry::Filtered => books.filtered(),
            Entry::GivenUp => books.given_up(),
            Entry::Discarded => books.dropped(DropReason::PipelineChanged),
            Entry::Nothing => {}
        }
        if let Some(joining) = settled.joins {
            // A retry sends no response.
            let _ = self.dispatch.batches.join(*joining);
        }
        match settled.waits {
            Some((destination, at)) if settled.lane != LaneKey::To(destination.clone()) => {
                // For where it waits from now on it is a new one.
                self.dispatch.wake.kept(destination.as_ref(), at);
            }
            Some((_, at)) => self.lane(settled.lane).note(at),
            None => {}
        }
        if self.dispatch.settings.borrow().store_and_forward.ordering == Ordering::Device {
            self.order_moved();
        }
    }
}
