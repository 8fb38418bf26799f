//! `Ordering: device`: the first runs of one pipeline and device, one after the other, in the order of receipt.
//!
//! Batches of one function are a line of their own.
//!
//! Who lines up gets a [`Turn`]; it comes when the turn before it has been dropped. A turn is dropped when its run has
//! ended or is in the journal, so that whatever comes behind it finds in the store what must go before.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use edgehold_core::PipelineId;
use tokio::sync::oneshot;

use crate::Keeper;

/// What is kept in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OrderKey {
    pub(crate) pipeline_id: PipelineId,
    /// Or what stands for one: [`Context::set_order`](edgehold_core::Context::set_order).
    pub(crate) device: String,
}

/// The lines of all keys. Shared by everything that begins a first run.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Those who wait, for each key that has a turn.
    lines: Mutex<HashMap<OrderKey, VecDeque<oneshot::Sender<()>>>>,
    /// Keys of which nothing waits in the store: it said so, and nothing has been kept since.
    clean: Mutex<HashSet<OrderKey>>,
}

/// A place in the line of its key.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    key: OrderKey,
    wait: Option<oneshot::Receiver<()>>,
}

impl Turns {
    pub(crate) fn line_up(self: &Arc<Self>, key: OrderKey) -> Turn {
        let wait = match lock(&self.lines).entry(key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(VecDeque::new());
                None
            }
            Entry::Occupied(mut entry) => {
                let (call, wait) = oneshot::channel();
                entry.get_mut().push_back(call);
                Some(wait)
            }
        };
        Turn {
            turns: self.clone(),
            key,
            wait,
        }
    }

    /// Nothing is in order any more: what was known is out of date.
    pub(crate) fn forget(&self) {
        lock(&self.clean).clear();
    }

    /// The next one who still waits has the turn.
    fn pass_on(&self, key: &OrderKey) {
        let mut lines = lock(&self.lines);
        let Some(line) = lines.get_mut(key) else {
            return;
        };
        while let Some(next) = line.pop_front() {
            if next.send(()).is_ok() {
                return;
            }
        }
        lines.remove(key);
    }
}

/// What only who has the turn may ask and say.
impl Turn {
    /// Whether nothing of this key waits in the store for sure.
    fn is_clean(&self) -> bool {
        lock(&self.turns.clean).contains(&self.key)
    }

    /// The store has nothing of this key.
    fn clean(&self) {
        lock(&self.turns.clean).insert(self.key.clone());
    }

    /// Something of this key is about to be kept, or has just been.
    pub(crate) fn kept(&self) {
        lock(&self.turns.clean).remove(&self.key);
    }

    /// Waits for the turn, and for a store that is not open yet, because it may hold others. True when there are others
    /// that must go before: then this has to wait there too, behind them. Cancel-safe.
    pub(crate) async fn has_to_wait(&mut self, keeper: &Keeper) -> bool {
        self.comes().await;
        if self.is_clean() {
            return false;
        }
        let Some(queue) = keeper.opened().await else {
            return false;
        };
        match queue.is_waiting(&self.key.pipeline_id, &self.key.device).await {
            Ok(false) => {
                self.clean();
                false
            }
            // A store that cannot say so cannot be overtaken either: appending waits for it.
            Ok(true) | Err(_) => true,
        }
    }

    /// Returns when the turn has come. Cancel-safe.
    async fn comes(&mut self) {
        if let Some(wait) = &mut self.wait {
            // The other end is dropped only after it has called.
            let _ = wait.await;
            self.wait = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let has_come = match &mut self.wait {
            None => true,
            Some(wait) => {
                wait.close();
                wait.try_recv().is_ok()
            }
        };
        if has_come {
            self.turns.pass_on(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn key(device: &str) -> OrderKey {
        OrderKey {
            pipeline_id: PipelineId::default_pipeline(),
            device: device.to_owned(),
        }
    }

    #[test]
    fn turns_of_a_key_come_in_the_order_of_lining_up_and_other_keys_do_not_wait() {
        let turns = Arc::new(Turns::default());
        let mut first = turns.line_up(key("a"));
        let mut second = turns.line_up(key("a"));
        let mut third = turns.line_up(key("a"));
        let mut other = turns.line_up(key("b"));
        assert!(first.comes().now_or_never().is_some());
        assert!(other.comes().now_or_never().is_some());
        assert!(second.comes().now_or_never().is_none());
        drop(first);
        assert!(third.comes().now_or_never().is_none());
        assert!(second.comes().now_or_never().is_some());
        drop(second);
        assert!(third.comes().now_or_never().is_some());
        drop(third);
        assert!(
            lock(&turns.lines).keys().eq([&key("b")]),
            "an empty line leaves nothing"
        );
    }

    #[test]
    fn who_gives_up_waiting_holds_nobody_up() {
        let turns = Arc::new(Turns::default());
        let first = turns.line_up(key("a"));
        let second = turns.line_up(key("a"));
        let third = turns.line_up(key("a"));
        let mut fourth = turns.line_up(key("a"));
        // One that leaves the line, and one that leaves after it was called and before it knew.
        drop(second);
        drop(first);
        drop(third);
        assert!(fourth.comes().now_or_never().is_some());
    }
}
