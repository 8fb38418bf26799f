//! What the retry loop is told while it sleeps: a destination accepted something, an object was kept.
//!
//! Owns when that is worth waking it. What it then does belongs to the loop.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use edgehold_core::{Destination, Timestamp};
use tokio::{sync::Notify, time::Instant};

/// Beyond so many destinations what is known of their backlogs is forgotten: each may have one again.
const REMEMBERED: usize = 1024;

/// Whether objects wait for a destination. One of which nothing is known may have some from an earlier start.
#[derive(Clone, Copy, Debug)]
enum Backlog {
    Nothing,
    /// Not worth another try before this moment.
    From(Instant),
}

#[derive(Debug, Default)]
struct State {
    /// Destinations that accepted something and may have a backlog; taken by the loop.
    succeeded: HashSet<Destination>,
    backlog: HashMap<Destination, Backlog>,
    /// When the first of the objects kept lately may be tried, for each destination; taken by the loop.
    kept: HashMap<Option<Destination>, Timestamp>,
    /// Everything that waits is to be tried; taken by the loop.
    everything: bool,
    /// The store is to be asked what is due; taken by the loop.
    look: bool,
    /// What others of its device waited behind has gone; taken by the loop.
    order_moved: bool,
    /// The loop sleeps until then; for ever when there is none.
    wake_at: Option<Timestamp>,
}

/// Signals for the retry loop. Shared by everyone who sends or keeps something.
#[derive(Debug, Default)]
pub struct Wake {
    state: Mutex<State>,
    notify: Notify,
}

impl Wake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A destination accepted something: its backlog may go now. Costs a map look-up when it has none.
    pub(crate) fn succeeded(&self, destination: &Destination) {
        let mut state = self.state();
        match state.backlog.get(destination) {
            Some(Backlog::Nothing) => return,
            Some(Backlog::From(at)) if Instant::now() < *at => return,
            Some(Backlog::From(_)) | None => {}
        }
        if state.succeeded.insert(destination.clone()) {
            drop(state);
            self.notify.notify_one();
        }
    }

    /// An object for this destination was kept, to be tried at `at`.
    pub(crate) fn kept(&self, destination: Option<&Destination>, at: Timestamp) {
        let destination = destination.cloned();
        let mut state = self.state();
        if let Some(destination) = &destination {
            state.backlog.remove(destination);
        }
        let earliest = state.kept.entry(destination).or_insert(at);
        *earliest = at.min(*earliest);
        if state.wake_at.is_none_or(|wake_at| at < wake_at) {
            state.wake_at = Some(at);
            drop(state);
            self.notify.notify_one();
        }
    }

    /// Everything that waits may go now.
    pub(crate) fn everything(&self) {
        self.state().everything = true;
        self.notify.notify_one();
    }

    /// The store may have something due that this process does not know of: another instance has ended or told of what it
    /// keeps, somebody has re-driven something.
    pub fn look(&self) {
        self.state().look = true;
        self.notify.notify_one();
    }

    /// What others of its device may have waited behind in the store has gone, or waits there itself now.
    pub(crate) fn order_moved(&self) {
        self.state().order_moved = true;
        self.notify.notify_one();
    }

    /// Takes whether something that held others back has gone.
    pub(crate) fn take_order_moved(&self) -> bool {
        std::mem::take(&mut self.state().order_moved)
    }

    /// Takes whether the store is to be asked what is due.
    pub(crate) fn take_look(&self) -> bool {
        std::mem::take(&mut self.state().look)
    }

    /// Takes whether everything that waits is to be tried.
    pub(crate) fn take_everything(&self) -> bool {
        std::mem::take(&mut self.state().everything)
    }

    /// A pass is about to look at all objects of this destination: those kept from now on count as new.
    pub(crate) fn begin_pass(&self, destination: &Destination) {
        let mut state = self.state();
        if state.backlog.len() >= REMEMBERED {
            state.backlog.clear();
        }
        state.backlog.insert(destination.clone(), Backlog::Nothing);
    }

    /// That pass left objects waiting, which another success may bring from this moment on.
    pub(crate) fn still_waiting(&self, destination: &Destination, from: Instant) {
        let backlog = Backlog::From(from);
        self.state().backlog.insert(destination.clone(), backlog);
    }

    /// Takes the destinations that have accepted something since the last call, and when what was kept since then may
    /// be tried.
    pub(crate) fn take(&self) -> (HashSet<Destination>, HashMap<Option<Destination>, Timestamp>) {
        let mut state = self.state();
        (
            std::mem::take(&mut state.succeeded),
            std::mem::take(&mut state.kept),
        )
    }

    /// The loop is about to sleep until this moment, for ever without one. False when there is something to take.
    pub(crate) fn may_sleep_until(&self, at: Option<Timestamp>) -> bool {
        let mut state = self.state();
        state.wake_at = at;
        state.succeeded.is_empty()
            && state.kept.is_empty()
            && !state.everything
            && !state.look
            && !state.order_moved
    }

    /// Returns once something has happened since the last return. Cancel-safe.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    fn succeeded(wake: &Wake) -> Vec<String> {
        wake.take().0.iter().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_wakes_only_for_a_destination_that_may_have_a_backlog() {
        let wake = Wake::default();
        let (known, unknown) = (Destination::new("http://a:1"), Destination::new("http://b:2"));
        wake.begin_pass(&known);
        wake.succeeded(&known);
        assert!(succeeded(&wake).is_empty());
        wake.succeeded(&unknown);
        assert_eq!(succeeded(&wake), ["http://b:2"]);
        wake.kept(Some(&known), at(1));
        wake.succeeded(&known);
        assert_eq!(succeeded(&wake), ["http://a:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_just_failed_is_not_brought_again_at_once() {
        let wake = Wake::default();
        let there = Destination::new("http://a:1");
        wake.begin_pass(&there);
        wake.still_waiting(&there, Instant::now() + Duration::from_secs(30));
        wake.succeeded(&there);
        assert!(succeeded(&wake).is_empty());
        tokio::time::advance(Duration::from_secs(30)).await;
        wake.succeeded(&there);
        assert_eq!(succeeded(&wake), ["http://a:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_changed_from_outside_is_looked_at_once() {
        let wake = Wake::default();
        assert!(!wake.take_look());
        wake.look();
        wake.notified().await;
        assert!(!wake.may_sleep_until(None), "it has not been taken");
        assert!(wake.take_look());
        assert!(wake.may_sleep_until(None) && !wake.take_look());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_wakes_only_a_loop_that_would_sleep_longer() {
        let wake = Wake::default();
        let there = Destination::new("http://a:1");
        let woken = async || {
            tokio::time::timeout(Duration::from_millis(1), wake.notified())
                .await
                .is_ok()
        };
        assert!(wake.may_sleep_until(Some(at(10))));
        wake.kept(Some(&there), at(10));
        assert!(!woken().await);
        assert!(!wake.may_sleep_until(Some(at(10))), "it has not been taken");
        wake.kept(Some(&there), at(9));
        assert!(woken().await);
        assert_eq!(wake.take().1[&Some(there)], at(9));
        assert!(wake.may_sleep_until(None));
        wake.kept(None, at(1000));
        assert!(woken().await);
    }
}
