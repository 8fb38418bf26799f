//! A list that one side appends to while tests look at it and wait on it: received requests, messages, output lines.
//!
//! It is a `watch` of a vector: appending wakes every wait, and a wait whose writers are all gone ends at once
//! instead of running into its deadline.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::wait;

/// The writing side; the list is closed when all its clones are dropped.
#[derive(Debug, Clone)]
pub(crate) struct Writer<T>(Arc<watch::Sender<Vec<T>>>);

/// The reading side.
#[derive(Debug, Clone)]
pub(crate) struct Collected<T>(watch::Receiver<Vec<T>>);

/// An empty list.
pub(crate) fn collected<T>() -> (Writer<T>, Collected<T>) {
    let (sender, receiver) = watch::channel(Vec::new());
    (Writer(Arc::new(sender)), Collected(receiver))
}

impl<T> Writer<T> {
    pub(crate) fn push(&self, item: T) {
        self.0.send_modify(|items| items.push(item));
    }

    /// Takes everything out.
    pub(crate) fn take(&self) -> Vec<T> {
        let mut taken = Vec::new();
        self.0.send_modify(|items| std::mem::swap(items, &mut taken));
        taken
    }
}

impl<T: Clone> Collected<T> {
    /// A copy of what is there now.
    pub(crate) fn all(&self) -> Vec<T> {
        self.0.borrow().clone()
    }

    /// Looks at the list without copying it.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&[T]) -> R) -> R {
        look(&self.0.borrow())
    }

    /// Waits until `pick` finds what it wants in the list, and returns that. `tell` describes the list when it fails.
    ///
    /// # Panics
    /// At the deadline, or as soon as nobody can append any more.
    pub(crate) async fn wait_for<R>(
        &self,
        caller: &Location<'_>,
        what: &str,
        deadline: Duration,
        pick: impl Fn(&[T]) -> Option<R>,
        tell: impl Fn(&[T]) -> String,
    ) -> R {
        let mut receiver = self.0.clone();
        let seen = timeout(deadline, receiver.wait_for(|items| pick(items).is_some())).await;
        let closed = match seen {
            // Looked at once more, because the wait cannot hand the value out itself.
            Ok(Ok(items)) => return pick(&items).expect("the same list was just found to hold it"),
            Ok(Err(_)) => true,
            Err(_) => false,
        };
        let mut instead = self.with(tell);
        if closed {
            instead.push_str("; nothing more can come, the other side has ended");
        }
        wait::give_up(caller, what, deadline, &instead)
    }
}
