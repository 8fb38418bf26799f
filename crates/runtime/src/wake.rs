//! What wakes the retry loop before its time: a success at a destination, an object that came into an empty queue.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use edgehold_core::Destination;
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct State {
    /// Destinations that accepted something and may have a backlog; taken by the loop.
    succeeded: HashSet<Destination>,
    /// Whether a destination has objects waiting; one that is not in here may have some from an earlier start.
    backlog: HashMap<Destination, bool>,
    /// The loop has nothing to wait for, so the next object has to tell it.
    idle: bool,
}

/// Signals for the retry loop. Shared by everyone who sends or keeps something.
#[derive(Debug, Default)]
pub struct Wake {
    state: Mutex<State>,
    notify: Notify,
}

impl Wake {
    /// A destination accepted something: its backlog may go now. Costs a map look-up when it has none.
    pub(crate) fn succeeded(&self, destination: &Destination) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.backlog.get(destination).copied().unwrap_or(true) && !state.succeeded.contains(destination) {
            state.succeeded.insert(destination.clone());
            drop(state);
            self.notify.notify_one();
        }
    }

    /// An object for this destination was kept.
    pub(crate) fn kept(&self, destination: Option<&Destination>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(destination) = destination {
            state.backlog.insert(destination.clone(), true);
        }
        if std::mem::take(&mut state.idle) {
            drop(state);
            self.notify.notify_one();
        }
    }

    /// The destinations that have accepted something since the last call.
    pub(crate) fn take_succeeded(&self) -> Vec<Destination> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.succeeded.drain().collect()
    }

    /// A pass is about to look for this destination's objects: those kept from now on count as new.
    pub(crate) fn begin_pass(&self, destination: &Destination) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.backlog.insert(destination.clone(), false);
    }

    /// A pass left objects of this destination waiting.
    pub(crate) fn still_waiting(&self, destination: &Destination) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.backlog.insert(destination.clone(), true);
    }

    /// The loop has no moment to wait for: the next kept object wakes it.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).idle = idle;
    }

    /// Returns once something has happened since the last return. Cancel-safe.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_wakes_only_for_a_destination_that_may_have_a_backlog() {
        let wake = Wake::default();
        let (known, unknown) = (Destination::new("http://a:1"), Destination::new("http://b:2"));
        wake.begin_pass(&known);
        wake.succeeded(&known);
        assert!(wake.take_succeeded().is_empty());
        wake.succeeded(&unknown);
        assert_eq!(wake.take_succeeded(), [unknown]);
        wake.kept(Some(&known));
        wake.succeeded(&known);
        assert_eq!(wake.take_succeeded(), [known]);
    }
}
