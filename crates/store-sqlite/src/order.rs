//! Whether the index by pipeline and device is worth having.
//!
//! It makes claims in order cheap and every append dearer by a page for each device, so it is made when order is first
//! asked for and dropped when it has not been asked for in a while. Neither is more than a matter of speed and of a
//! moment's wait: the objects say all that it knows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use edgehold_core::Timestamp;

/// Claims without order for so long mean that the setting has changed, not that somebody does both.
const FORGOTTEN_AFTER_SECONDS: u64 = 60;

/// What is known of the index and of those who ask for order.
#[derive(Debug, Default)]
pub(crate) struct Order {
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// None until it has been made or dropped: an earlier process may have left it.
    indexed: Option<bool>,
    /// Somebody has asked for order since the last claim without.
    wanted: bool,
    last_wanted: Option<Timestamp>,
}

impl Order {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody needs the index; whether it has to be made first.
    pub(crate) fn is_missing(&self) -> bool {
        let mut known = self.known();
        known.wanted = true;
        known.indexed != Some(true)
    }

    /// Somebody claims without order; whether the index has to be dropped.
    pub(crate) fn is_forgotten(&self, now: Timestamp) -> bool {
        let mut known = self.known();
        if std::mem::take(&mut known.wanted) {
            known.last_wanted = Some(now);
        }
        let rested =
            |at: Timestamp| at > now || now.saturating_since(at).as_secs() >= FORGOTTEN_AFTER_SECONDS;
        known.indexed != Some(false) && known.last_wanted.is_none_or(rested)
    }

    /// It has been made, or dropped.
    pub(crate) fn is_now(&self, indexed: bool) {
        self.known().indexed = Some(indexed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_made_once_and_dropped_when_it_is_forgotten() {
        let at = |seconds: i64| Timestamp::from_unix_millis(seconds * 1_000);
        let order = Order::default();
        assert!(order.is_forgotten(at(0)), "an earlier process may have left it");
        order.is_now(false);
        assert!(!order.is_forgotten(at(1)), "it is gone");
        assert!(order.is_missing());
        order.is_now(true);
        assert!(!order.is_missing(), "it is there");
        // then somebody who does both does not lose it
        for seconds in [100, 130, 159] {
            assert!(!order.is_forgotten(at(seconds)), "{seconds}");
        }
        assert!(!order.is_missing());
        assert!(!order.is_forgotten(at(1_000)));
        assert!(!order.is_forgotten(at(1_059)));
        assert!(order.is_forgotten(at(1_060)), "nobody has asked for a minute");
    }
}
