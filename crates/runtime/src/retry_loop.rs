//! The retry loop: hands out what may run, lane by lane, and writes the verdicts.
//!
//! All lanes run at the same time, in one task: what hangs at one destination holds up nobody else. The loop sleeps
//! until something is due, a destination may be probed, or somebody tells: a success at a destination, an object that
//! was kept, changed settings or pipelines, a store that came. Whatever woke it, it does the same: it looks at each lane
//! and does what there is to do. Verdicts are written while attempts run, all there are in one go, so that a crash
//! repeats only what was in flight.
//!
//! When a lane has something to do is [`lane`](crate::lane)'s to say, who may be at a destination is
//! [`destinations`](crate::destinations)', what an attempt does is [`attempt`](crate::attempt)'s.

use std::{collections::HashMap, sync::Arc, time::Duration};

use edgehold_config::configuration::{Ordering, StoreAndForward};
use edgehold_core::{
    BoxFuture, Destination, ErrorReason, ExponentialBackoff, ShutdownSignal, StoredObject, Timestamp,
    retry::Verdict,
};
use edgehold_store::{Claim, ErrorPage, LaneStatus, ObjectFilter, RetryQueue, StoreError, Suspects};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use crate::{
    Dispatch, DropReason, QueueHandle,
    attempt::{Ended, Entry, attempt, release},
    batch::Joining,
    clock::now,
    destinations::{Outlook, Visitor},
    lane::{LaneKey, LaneState, Purpose},
};

/// The pauses between tries of a failing store.
const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Most attempts at a time, over all lanes.
const MAX_RUNNING: usize = 1024;

/// Most verdicts written at once. Nothing is begun while more than that wait to be written.
const MAX_VERDICTS: usize = 1024;

/// Most objects brought back from the error collection at once.
const REDRIVE_PAGE: usize = 256;

/// Retries what is stored.
pub struct RetryLoop {
    /// What runs pipelines: identity, pipelines, settings, books, destinations, wake.
    pub dispatch: Dispatch,
    /// The store, once it is open.
    pub queue: QueueHandle,
}

impl RetryLoop {
    /// Retries until `shutdown`; attempts in flight are then awaited until `hurry`, after which they never happened.
    ///
    /// Not cancel-safe in one respect: attempts of a dropped loop that had already been accepted by their destination are
    /// made again.
    pub async fn run(self, mut shutdown: ShutdownSignal, hurry: ShutdownSignal) {
        let mut queue_handle = self.queue.clone();
        let mut settings = self.dispatch.settings.clone();
        while !shutdown.is_triggered() {
            let queue = queue_handle.borrow_and_update().queue().cloned();
            let enabled = settings.borrow_and_update().store_and_forward.enabled;
            if let Some(queue) = queue.filter(|_| enabled) {
                Drive::new(&self, queue, shutdown.clone(), hurry.clone())
                    .run()
                    .await;
                if shutdown.is_triggered() {
                    break;
                }
            }
            // It ended because something changed, or is off until something does.
            tokio::select! {
                () = shutdown.recv() => break,
                changed = settings.changed() => if changed.is_err() { break },
                changed = queue_handle.changed() => if changed.is_err() { break },
            }
        }
    }
}

/// One thing that was under way and has ended.
enum Done {
    Looked(Result<Vec<LaneStatus>, StoreError>),
    Redriven(Result<(), StoreError>),
    Claimed(LaneKey, Result<Vec<StoredObject>, StoreError>),
    Attempted(Box<Attempted>),
    Settled(Vec<Settling>, Result<(), StoreError>),
}

struct Attempted {
    lane: LaneKey,
    purpose: Purpose,
    seq: i64,
    bytes: usize,
    ended: Ended,
}

/// A verdict on its way into the store, and what it means once it is there.
struct Settling {
    verdict: Verdict,
    entry: Entry,
    waits: Option<(Option<Destination>, Timestamp)>,
    joins: Option<Box<Joining>>,
    /// It was handed out by this lane.
    lane: LaneKey,
}

/// The loop while Store and Forward is on and this store is open.
struct Drive<'a> {
    dispatch: &'a Dispatch,
    queue: Arc<dyn RetryQueue>,
    shutdown: ShutdownSignal,
    hurry: ShutdownSignal,
    lanes: HashMap<LaneKey, LaneState>,
    under_way: FuturesUnordered<BoxFuture<'a, Done>>,
    running: usize,
    running_bytes: HashMap<LaneKey, usize>,
    verdicts: Vec<Settling>,
    settling: bool,
    /// The store is to be asked what is due; it is being asked.
    look: bool,
    looking: bool,
    /// What left with its pipeline may be brought back; it is being brought.
    redrive: bool,
    redriving: bool,
    /// The store fails: it is left alone until then.
    store_rests: Option<Instant>,
    store_backoff: ExponentialBackoff,
    /// The store is closed, or its settings are gone.
    over: bool,
}

impl<'a> Drive<'a> {
    fn new(
        owner: &'a RetryLoop,
        queue: Arc<dyn RetryQueue>,
        shutdown: ShutdownSignal,
        hurry: ShutdownSignal,
    ) -> Self {
        Self {
            dispatch: &owner.dispatch,
            queue,
            shutdown,
            hurry,
            lanes: HashMap::new(),
            under_way: FuturesUnordered::new(),
            running: 0,
            running_bytes: HashMap::new(),
            verdicts: Vec::new(),
            settling: false,
            look: true,
            looking: false,
            redrive: true,
            redriving: false,
            store_rests: None,
            store_backoff: BACKOFF,
            over: false,
        }
    }

    /// Runs until shutdown, until Store and Forward is switched off or until the store is closed, and then until
    /// everything under way has ended and is written down.
    async fn run(mut self) {
        let mut settings = self.dispatch.settings.clone();
        let mut pipelines = self.dispatch.pipelines.clone();
        let mut shutdown = self.shutdown.clone();
        loop {
            settings.mark_unchanged();
            pipelines.mark_unchanged();
            let goes_on = self.goes_on();
            self.take_notes();
            // A store and functions that never wait would leave nobody else a turn.
            tokio::task::consume_budget().await;
            let wake_at = match goes_on {
                true => self.feed(),
                false => {
                    self.break_off_all();
                    None
                }
            };
            self.settle();
            if !goes_on && self.under_way.is_empty() {
                return;
            }
            if goes_on && !self.dispatch.wake.may_sleep_until(wake_at) {
                continue;
            }
            let sleep = async {
                match wake_at {
                    Some(at) => tokio::time::sleep(at.saturating_since(now())).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm is cancel-safe; the next turn reads current values, whatever the cause.
            tokio::select! {
                Some(done) = self.under_way.next() => {
                    self.enter(done);
                    while let Some(Some(done)) = self.under_way.next().now_or_never() {
                        self.enter(done);
                    }
                }
                () = sleep => {}
                () = self.dispatch.wake.notified() => {}
                () = shutdown.recv(), if goes_on => {}
                changed = settings.changed(), if goes_on => {
                    self.look = true;
                    self.over |= changed.is_err();
                }
                changed = pipelines.changed(), if goes_on => {
                    self.look = true;
                    self.redrive = true;
                    self.over |= changed.is_err();
                }
            }
        }
    }

    fn goes_on(&self) -> bool {
        !self.over
            && !self.shutdown.is_triggered()
            && self.dispatch.settings.borrow().store_and_forward.enabled
    }

    fn lane(&mut self, key: LaneKey) -> &mut LaneState {
        self.lanes
            .entry(key)
            .or_insert_with_key(|key| LaneState::new(key.clone()))
    }

    /// What the rest of the service has told.
    fn take_notes(&mut self) {
        if self.dispatch.wake.take_everything() {
            self.lanes.values_mut().for_each(LaneState::wake);
        }
        if self.dispatch.wake.take_order_moved() {
            self.order_moved();
        }
        self.look |= self.dispatch.wake.take_look();
        let (succeeded, kept) = self.dispatch.wake.take();
        for destination in succeeded {
            self.lane(LaneKey::To(Some(destination))).wake();
        }
        for (destination, at) in kept {
            self.lane(LaneKey::To(destination)).note(at);
        }
    }

    /// Begins what can begin. Answers when there is something to do that nobody will tell of.
    fn feed(&mut self) -> Option<Timestamp> {
        let moment = Instant::now();
        if let Some(until) = self.store_rests {
            if moment < until {
                return Some(now().saturating_add(until.saturating_duration_since(moment)));
            }
            self.store_rests = None;
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
        if self.redrive && !self.redriving {
            (self.redrive, self.redriving) = (false, true);
            let (queue, set) = (self.queue.clone(), self.dispatch.pipelines.borrow().clone());
            self.under_way.push(Box::pin(async move {
                for pipeline in &set.pipelines {
                    let mut page = ErrorPage {
                        filter: ObjectFilter {
                            pipeline_ids: vec![pipeline.id().clone()],
                            version: Some(pipeline.version().clone()),
                            reasons: vec![ErrorReason::PipelineChanged, ErrorReason::PipelineRemoved],
                            ..ObjectFilter::default()
                        },
                        after_seq: 0,
                        limit: REDRIVE_PAGE,
                    };
                    loop {
                        match queue.redrive(page.clone()).await {
                            Ok(moved) => match moved.last_seq {
                                Some(last) => page.after_seq = last,
                                None => break,
                            },
                            Err(error) => return Done::Redriven(Err(error)),
                        }
                    }
                }
                Done::Redriven(Ok(()))
            }));
        }
        if self.look && !self.looking {
            (self.look, self.looking) = (false, true);
            self.lanes.values_mut().for_each(LaneState::ask);
            let (queue, interval) = (self.queue.clone(), saf.rest());
            self.under_way.push(Box::pin(async move {
                Done::Looked(queue.lanes(interval, now()).await)
            }));
        }
    }

    fn feed_lane(&mut self, key: &LaneKey, saf: &StoreAndForward, moment: Instant) {
        let mut outlook = self.outlook(key);
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if outlook.closed && lane.passing().is_some() {
            if lane.end_if_done(moment) {
                self.look = true;
            }
            self.break_off(key, moment);
            return;
        }
        let woken = lane.begin(&outlook, now(), moment);
        if let (true, LaneKey::To(Some(destination))) = (woken, key) {
            self.dispatch.wake.begin_pass(destination);
        }
        while outlook.room > 0 && self.running < MAX_RUNNING && self.verdicts.len() < MAX_VERDICTS {
            let Some(lane) = self.lanes.get_mut(key).filter(|lane| lane.running < outlook.most) else {
                break;
            };
            let Some((object, purpose)) = lane.next() else {
                break;
            };
            lane.running += 1;
            self.start(key, object, purpose);
            outlook = self.outlook(key);
        }
        self.claim(key, &outlook, saf);
        if let Some(lane) = self.lanes.get_mut(key)
            && lane.end_if_done(moment)
        {
            self.look = true;
        }
    }

    fn outlook(&self, key: &LaneKey) -> Outlook {
        match key {
            LaneKey::To(destination) => self.dispatch.destinations.outlook(destination.as_ref()),
            LaneKey::Suspects => {
                let running = self.lanes.get(key).map_or(0, |lane| lane.running);
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
        *self.running_bytes.entry(key.clone()).or_default() += bytes;
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

    fn claim(&mut self, key: &LaneKey, outlook: &Outlook, saf: &StoreAndForward) {
        let passing = self
            .lanes
            .values()
            .filter(|lane| lane.passing().is_some())
            .count();
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let share = usize::try_from(saf.retry_batch_bytes).unwrap_or(usize::MAX) / passing.max(1);
        let in_hand = lane.page_bytes() + self.running_bytes.get(key).copied().unwrap_or(0);
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
        let (queue, key) = (self.queue.clone(), key.clone());
        self.under_way.push(Box::pin(
            async move { Done::Claimed(key, queue.claim(claim).await) },
        ));
    }

    fn break_off(&mut self, key: &LaneKey, moment: Instant) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if let (Some(Purpose::Woken), LaneKey::To(Some(destination))) = (lane.passing(), key) {
            self.dispatch.wake.still_waiting(destination, moment);
        }
        let unused = lane.break_off();
        self.give_back(unused);
    }

    fn break_off_all(&mut self) {
        let keys: Vec<_> = self.lanes.keys().cloned().collect();
        for key in keys {
            self.break_off(&key, Instant::now());
        }
    }

    fn give_back(&mut self, unused: Vec<StoredObject>) {
        for object in unused {
            let lane = LaneKey::To(object.destination.clone());
            self.verdicts
                .push(Settling::of(release(self.dispatch, object, None), lane));
        }
    }

    /// Writes the verdicts there are, unless some are being written. They are tried again until the store has them.
    fn settle(&mut self) {
        if self.settling || self.verdicts.is_empty() {
            return;
        }
        self.settling = true;
        let rest = self.verdicts.split_off(self.verdicts.len().min(MAX_VERDICTS));
        let settling = std::mem::replace(&mut self.verdicts, rest);
        let (queue, mut hurry) = (self.queue.clone(), self.hurry.clone());
        self.under_way.push(Box::pin(async move {
            let verdicts: Vec<_> = settling.iter().map(|settling| settling.verdict.clone()).collect();
            let mut backoff = BACKOFF;
            let mut told = false;
            let result = loop {
                let error = match queue.settle(&verdicts).await {
                    Ok(()) => break Ok(()),
                    Err(error) => error,
                };
                if hurry.is_triggered() || matches!(error, StoreError::Closed) {
                    break Err(error);
                }
                if !std::mem::replace(&mut told, true) {
                    let verdicts = verdicts.len();
                    tracing::warn!(verdicts, "cannot write the outcome of retries yet: {error}");
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.pause()) => backoff.grow(),
                    () = hurry.recv() => {}
                }
            };
            Done::Settled(settling, result)
        }));
    }

    /// What follows from the end of something.
    fn enter(&mut self, done: Done) {
        match done {
            Done::Looked(result) => {
                self.looking = false;
                if let Some(lanes) = self.heard(result) {
                    self.looked(lanes);
                } else {
                    self.look = true;
                }
            }
            Done::Redriven(result) => {
                self.redriving = false;
                self.redrive |= self.heard(result).is_none();
                self.look = true;
            }
            Done::Claimed(key, result) => {
                let failed = result.is_err();
                let objects = self.heard(result).unwrap_or_default();
                if let Err(unwanted) = self.lane(key.clone()).got(objects) {
                    self.give_back(unwanted);
                }
                if failed {
                    self.break_off(&key, Instant::now());
                    self.look = true;
                }
            }
            Done::Attempted(attempted) => self.attempted(*attempted),
            Done::Settled(settled, result) => {
                self.settling = false;
                if self.heard(result).is_some() {
                    settled.into_iter().for_each(|settled| self.settled(settled));
                }
            }
        }
    }

    /// The answer of the store; none when it has failed, which is told once, and not asked about again at once.
    fn heard<T>(&mut self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(answer) => {
                self.store_backoff.reset();
                Some(answer)
            }
            Err(StoreError::Closed) => {
                self.over = true;
                None
            }
            Err(error) => {
                if self.store_rests.is_none() && !self.store_backoff.has_grown() {
                    tracing::warn!("the retry loop cannot reach the store, will try again: {error}");
                }
                self.store_rests = Some(Instant::now() + self.store_backoff.next_pause());
                None
            }
        }
    }

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

    fn attempted(&mut self, attempted: Attempted) {
        let Attempted {
            lane: key,
            purpose,
            seq,
            bytes,
            ended,
        } = attempted;
        self.running -= 1;
        if let Some(running) = self.running_bytes.get_mut(&key) {
            *running -= bytes;
            if *running == 0 {
                self.running_bytes.remove(&key);
            }
        }
        let interval = self.dispatch.settings.borrow().store_and_forward.retry_interval;
        let moment = Instant::now();
        let failed_early = ended.failed && purpose == Purpose::Woken;
        self.verdicts.push(Settling::of(ended, key.clone()));
        let lane = self.lane(key.clone());
        lane.running -= 1;
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

    /// Something has gone that may have held back others of its device, wherever they are to go.
    fn order_moved(&mut self) {
        self.lanes.values_mut().for_each(LaneState::refresh);
        self.look |= self.lanes.values().all(|lane| lane.passing().is_none());
    }
}

impl Settling {
    fn of(ended: Ended, lane: LaneKey) -> Self {
        Self {
            verdict: ended.verdict,
            entry: ended.entry,
            waits: ended.waits,
            joins: ended.joins,
            lane,
        }
    }
}
