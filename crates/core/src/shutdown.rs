//! Telling tasks to end: one sender, any number of listeners, level instead of edge.

use tokio::sync::watch;

/// Held by whoever decides that it is time to end. Dropping it tells the listeners to end as well.
#[derive(Debug)]
pub struct Shutdown(watch::Sender<bool>);

impl Shutdown {
    /// A running state and the first listener for its end.
    pub fn new() -> (Self, ShutdownSignal) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), ShutdownSignal(receiver))
    }

    /// One more listener.
    pub fn signal(&self) -> ShutdownSignal {
        ShutdownSignal(self.0.subscribe())
    }

    /// Tells every listener, present and future, to end. Calling it again changes nothing.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }
}

/// Listens for the end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShutdownSignal(watch::Receiver<bool>);

impl ShutdownSignal {
    /// Whether the end has been announced.
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Returns once the end has been announced. Cancel-safe: it holds no state of its own.
    pub async fn recv(&mut self) {
        // An error means that the `Shutdown` is gone, which is the end as well.
        let _ = self.0.wait_for(|ended| *ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_made_after_the_end_still_hears_of_it() {
        let (shutdown, first) = Shutdown::new();
        assert!(!first.is_triggered());
        shutdown.trigger();
        assert!(first.is_triggered());
        assert!(shutdown.signal().is_triggered());
    }

    #[test]
    fn a_vanished_sender_is_the_end() {
        let (shutdown, signal) = Shutdown::new();
        drop(shutdown);
        assert!(signal.is_triggered());
    }
}
