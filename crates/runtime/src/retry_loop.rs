//! The retry loop: hands out what may run, lane by lane, and writes the verdicts.
//!
//! All lanes run at the same time, in one task: what hangs at one destination holds up nobody else. The loop sleeps
//! until something is due, a destination may be probed, or somebody tells: a success at a destination, an object that
//! was kept, changed settings or pipelines, a store that came. Whatever woke it, it does the same: it looks at each lane
//! and does what there is to do. Verdicts are written while attempts run, all there are in one go, so that a crash
//! repeats only what was in flight.
//!
//! ```text
//!   told, due ──▶ feed ──▶ under way: a look, a re-drive, a claim, an attempt, a write ──▶ enter ──▶ feed …
//! ```
//!
//! Owns the turns and what is under way. [`feed`] begins what can begin and breaks off what cannot go on, [`enter`] says
//! what follows from the end of each thing under way, [`store`] knows what the store is to be asked and whether it
//! answers, [`verdict`] writes the verdicts.
//!
//! When a lane has something to do is [`lane`](crate::lane)'s to say, who may be at a destination is
//! [`destinations`](crate::destinations)', what an attempt does is [`attempt`](crate::attempt)'s.

mod enter;
mod feed;
mod store;
mod verdict;

use std::{collections::HashMap, sync::Arc, time::Duration};

use edgehold_core::{BoxFuture, ExponentialBackoff, ShutdownSignal, StoredObject};
use edgehold_store::{LaneStatus, RetryQueue, StoreError};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

use self::{
    enter::Attempted,
    store::Store,
    verdict::{Settling, Verdicts},
};
use crate::{
    Dispatch, QueueHandle,
    clock::now,
    lane::{LaneKey, LaneState},
};

/// The pauses between tries of a failing store.
const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(5));

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

/// The loop while Store and Forward is on and this store is open.
struct Drive<'a> {
    dispatch: &'a Dispatch,
    shutdown: ShutdownSignal,
    hurry: ShutdownSignal,
    store: Store,
    verdicts: Verdicts,
    lanes: HashMap<LaneKey, LaneState>,
    /// Attempts under way, over all lanes.
    running: usize,
    under_way: FuturesUnordered<BoxFuture<'a, Done>>,
    /// Nobody holds the settings or the pipelines any more.
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
            shutdown,
            verdicts: Verdicts::new(queue.clone(), hurry.clone()),
            hurry,
            store: Store::new(queue),
            lanes: HashMap::new(),
            running: 0,
            under_way: FuturesUnordered::new(),
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
            self.under_way.extend(self.verdicts.write());
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
                    self.store.want_look();
                    self.over |= changed.is_err();
                }
                changed = pipelines.changed(), if goes_on => {
                    self.store.want_look();
                    self.store.want_redrive();
                    self.over |= changed.is_err();
                }
            }
        }
    }

    fn goes_on(&self) -> bool {
        !self.over
            && !self.store.is_closed()
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
        if self.dispatch.wake.take_look() {
            self.store.want_look();
        }
        let (succeeded, kept) = self.dispatch.wake.take();
        for destination in succeeded {
            self.lane(LaneKey::To(Some(destination))).wake();
        }
        for (destination, at) in kept {
            self.lane(LaneKey::To(destination)).note(at);
        }
    }

    /// Something has gone that may have held back others of its device, wherever they are to go.
    fn order_moved(&mut self) {
        self.lanes.values_mut().for_each(LaneState::refresh);
        if self.lanes.values().all(|lane| lane.passing().is_none()) {
            self.store.want_look();
        }
    }
}
