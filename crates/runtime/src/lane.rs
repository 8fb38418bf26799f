//! One lane of the retry loop: the objects that wait for one destination, and how far a walk through them has come.
//!
//! Owns when a lane has something to do and what it asks the store for. Does not own the store, the destination or the
//! attempts.
//!
//! ```text
//!             due, woken by a success, or a probe          nothing more, or broken off
//!   resting ────────────────────────────────────▶ passing ───────────────────────────▶ resting
//! ```
//!
//! A pass goes through the lane once, oldest first. One that was woken by a success takes what is not due as well; it
//! ends at the first failure, and the next one within the pause goes on behind what has failed.

use std::{collections::VecDeque, time::Duration};

use edgehold_core::{Destination, ExponentialBackoff, StoredObject, Timestamp, destination::Breaker};
use edgehold_store::{Lane, Selection};
use tokio::time::Instant;

use crate::destinations::Outlook;

/// The longest pause after a look into the lane that found nothing although something seemed due.
const LONGEST_REST: Duration = Duration::from_secs(5);
const REST: ExponentialBackoff = ExponentialBackoff::new(Duration::from_millis(100), LONGEST_REST);

/// Which objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LaneKey {
    /// Those that wait for this destination, or for nobody knows which.
    To(Option<Destination>),
    /// Those that an earlier process was busy with when it crashed, wherever they are to go: one at a time.
    Suspects,
}

/// Why a pass goes through the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Something is due.
    Due,
    /// The destination has accepted something.
    Woken,
    /// The destination does not answer: one object.
    Probe,
}

/// A walk through the lane.
#[derive(Debug)]
struct Pass {
    purpose: Purpose,
    /// Everything up to here has been handed out.
    after_seq: i64,
    /// There is nothing behind it.
    exhausted: bool,
    found: bool,
}

/// Where a lane stands.
#[derive(Debug)]
pub(crate) struct LaneState {
    key: LaneKey,
    pass: Option<Pass>,
    /// Claimed and not yet begun.
    page: VecDeque<StoredObject>,
    page_bytes: usize,
    /// A claim is under way.
    claiming: bool,
    /// Attempts under way, wherever they have got to, and their bytes.
    running: usize,
    running_bytes: usize,
    woken: bool,
    /// When something is due, as far as is known; none when nothing waits.
    due_at: Option<Timestamp>,
    /// The same of what came to wait while the store was asked.
    noted: Option<Timestamp>,
    rest: ExponentialBackoff,
    rest_until: Option<Instant>,
    /// What has been tried early and failed, until it may be tried early again.
    tried: Option<(i64, Instant)>,
    /// The last object that was a probe.
    probed_seq: i64,
}

/// What a lane asks the store for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) selection: Selection,
    pub(crate) after_seq: i64,
    pub(crate) limit: usize,
}

impl LaneState {
    pub(crate) fn new(key: LaneKey) -> Self {
        Self {
            key,
            pass: None,
            page: VecDeque::new(),
            page_bytes: 0,
            claiming: false,
            running: 0,
            running_bytes: 0,
            woken: false,
            due_at: None,
            noted: None,
            rest: REST,
            rest_until: None,
            tried: None,
            probed_seq: 0,
        }
    }

    /// Something came to wait here, or may be tried at `at`.
    pub(crate) fn note(&mut self, at: Timestamp) {
        self.due_at = Some(self.due_at.map_or(at, |known| known.min(at)));
        self.noted = Some(self.noted.map_or(at, |known| known.min(at)));
    }

    /// The store is being asked what is due: what it answers was so at this moment.
    pub(crate) fn ask(&mut self) {
        self.noted = None;
    }

    /// What the store answered.
    pub(crate) fn answer(&mut self, due_at: Option<Timestamp>) {
        self.due_at = match (due_at, self.noted) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    /// The destination has accepted something.
    pub(crate) fn wake(&mut self) {
        self.woken = true;
        self.rest_until = None;
    }

    /// An attempt of this lane has changed what waits: what seemed to hold the others back may not any more.
    pub(crate) fn refresh(&mut self) {
        self.rest.reset();
        self.rest_until = None;
    }

    /// Begins a pass if there is a reason. Answers whether it is one that was woken.
    pub(crate) fn begin(&mut self, outlook: &Outlook, now: Timestamp, moment: Instant) -> bool {
        let rests = self.rest_until.is_some_and(|until| moment < until);
        // What a broken off pass has claimed comes back first.
        if self.pass.is_some() || self.claiming || rests || outlook.room == 0 {
            return false;
        }
        let due = self.due_at.is_some_and(|at| at <= now);
        let (purpose, after_seq) = if outlook.probing {
            if self.due_at.is_none() {
                return false;
            }
            (Purpose::Probe, self.probed_seq)
        } else if std::mem::take(&mut self.woken) {
            let tried = self.tried.filter(|(_, until)| moment < *until);
            (Purpose::Woken, tried.map_or(0, |(seq, _)| seq))
        } else if due {
            (Purpose::Due, 0)
        } else {
            return false;
        };
        self.pass = Some(Pass {
            purpose,
            after_seq,
            exhausted: false,
            found: false,
        });
        purpose == Purpose::Woken
    }

    /// What to ask the store for now, if anything: so much that what runs next is there when it can.
    pub(crate) fn want(&mut self, outlook: &Outlook, interval: Duration, batch: usize) -> Option<Wanted> {
        let pass = self.pass.as_ref()?;
        if self.claiming || pass.exhausted || self.page.len() * 2 >= outlook.soon {
            return None;
        }
        let due = match pass.purpose {
            Purpose::Due => Some(interval),
            Purpose::Woken | Purpose::Probe => None,
        };
        let lane = match &self.key {
            LaneKey::To(destination) => Lane::of(destination.clone()),
            LaneKey::Suspects => Lane::Any,
        };
        self.claiming = true;
        Some(Wanted {
            selection: Selection { lane, due },
            after_seq: pass.after_seq,
            limit: outlook.soon.clamp(1, batch),
        })
    }

    /// What the store handed out. False when the lane does not want it any more: it is to be given back.
    pub(crate) fn got(&mut self, objects: Vec<StoredObject>) -> Result<(), Vec<StoredObject>> {
        self.claiming = false;
        let Some(pass) = &mut self.pass else {
            return Err(objects);
        };
        match objects.last() {
            None => pass.exhausted = true,
            Some(last) => {
                pass.after_seq = last.seq;
                pass.found = true;
                self.page_bytes += objects.iter().map(|object| object.payload.len()).sum::<usize>();
                self.page.extend(objects);
            }
        }
        if pass.purpose == Purpose::Probe {
            // The next probe is another object, from the beginning again behind the last one.
            self.probed_seq = if pass.found { pass.after_seq } else { 0 };
            pass.exhausted |= pass.found;
        }
        Ok(())
    }

    /// The next object to begin.
    pub(crate) fn next(&mut self) -> Option<(StoredObject, Purpose)> {
        let purpose = self.pass.as_ref()?.purpose;
        let object = self.page.pop_front()?;
        self.page_bytes -= object.payload.len();
        Some((object, purpose))
    }

    /// An attempt of this many bytes has begun.
    pub(crate) fn begun(&mut self, bytes: usize) {
        self.running += 1;
        self.running_bytes += bytes;
    }

    /// An attempt of this many bytes has ended.
    pub(crate) fn ended(&mut self, bytes: usize) {
        self.running -= 1;
        self.running_bytes -= bytes;
    }

    /// How many attempts are under way.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// The bytes that are claimed, whether begun or not.
    pub(crate) fn bytes_in_hand(&self) -> usize {
        self.page_bytes + self.running_bytes
    }

    /// Why a pass goes through it, if one does.
    pub(crate) fn passing(&self) -> Option<Purpose> {
        self.pass.as_ref().map(|pass| pass.purpose)
    }

    /// Ends the pass when it has come to the end. Answers whether the store has to be asked what is due next: it found
    /// nothing more.
    pub(crate) fn end_if_done(&mut self, moment: Instant) -> bool {
        let Some(pass) = self.pass.take_if(|pass| pass.exhausted && self.page.is_empty()) else {
            return false;
        };
        if pass.found {
            // There may be more by now: another pass finds out, or asks.
            self.refresh();
            return false;
        }
        // What was looked for is held back by something nobody tells of: looked for less and less often.
        self.rest_until = Some(moment + self.rest.next_pause());
        self.due_at = None;
        true
    }

    /// Breaks the pass off. Answers what was claimed and is to be given back.
    pub(crate) fn break_off(&mut self) -> Vec<StoredObject> {
        self.pass = None;
        self.page_bytes = 0;
        std::mem::take(&mut self.page).into()
    }

    /// An attempt of a woken pass failed: what waits behind it is not tried, and what was tried is left alone for a
    /// while. Answers until when.
    pub(crate) fn failed_early(&mut self, seq: i64, interval: Duration, moment: Instant) -> Instant {
        let until = moment + interval.min(Breaker::LONGEST_PAUSE);
        let before = self.tried.map_or(0, |(before, _)| before);
        self.tried = Some((seq.max(before), until));
        until
    }

    /// When there is something to do without anybody telling; none when there is not.
    pub(crate) fn wake_at(&self, outlook: &Outlook, now: Timestamp, moment: Instant) -> Option<Timestamp> {
        let after = |wait: Duration| now.saturating_add(wait);
        let rested = self
            .rest_until
            .map_or(now, |until| after(until.saturating_duration_since(moment)));
        let ready = after(outlook.ready_in);
        if self.pass.is_some() {
            // Without a moment it waits for its own claim or for attempts, which tell.
            return (outlook.room == 0 && !outlook.ready_in.is_zero()).then_some(ready);
        }
        let due = match self.due_at {
            _ if self.woken && !outlook.probing => now,
            Some(_) if outlook.probing => now,
            Some(due) => due,
            None => return None,
        };
        // Without room and without a moment it waits for those who are there.
        (outlook.room > 0 || !outlook.ready_in.is_zero()).then_some(due.max(rested).max(ready))
    }

    /// Whether nothing would be lost by forgetting it. That it found nothing is not to be forgotten before long.
    pub(crate) fn is_forgettable(&self, moment: Instant) -> bool {
        let busy = self.pass.is_some() || self.claiming || self.running > 0;
        let expected = self.woken || self.due_at.is_some();
        let rests = self.rest_until.is_some_and(|until| moment < until + LONGEST_REST);
        !busy && !expected && !rests
    }
}

#[cfg(test)]
mod tests;
