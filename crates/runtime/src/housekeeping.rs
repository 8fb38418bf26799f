//! What leaves the store because of its age or number: `MaxAge`, `DeadLetterRetention`, `DeadLetterMaxItems`,
//! `HistoryRetention`.
//!
//! One task, beside the retry loop. It looks at changed settings at once and otherwise as often as the shortest age
//! asks for, at most each second and at least each minute. Each second it notes how many objects wait.

use std::{sync::Arc, time::Duration};

use edgehold_config::{Writable, configuration::StoreAndForward};
use edgehold_core::{ShutdownSignal, Timestamp};
use edgehold_store::{RetryQueue, StoreError, Sweep};
use tokio::{sync::watch, time::Instant};

use crate::{Books, Drain, DropReason, QueueHandle, clock::now};

/// Between two looks at how many wait, and the shortest pause between two sweeps.
const TICK: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Objects in one transaction: small enough that appends hardly wait behind it.
const PAGE: usize = 500;

/// Applies the limits of age and number.
pub struct Housekeeping {
    /// The live settings.
    pub settings: watch::Receiver<Arc<Writable>>,
    /// The store, once it is open.
    pub queue: QueueHandle,
    /// Accounts for what leaves.
    pub books: Arc<Books>,
    /// Told how many wait.
    pub drain: Arc<Drain>,
}

impl Housekeeping {
    /// Works until `shutdown`. Cancel-safe.
    pub async fn run(mut self, mut shutdown: ShutdownSignal) {
        let mut swept_at: Option<Instant> = None;
        loop {
            let settings = self.settings.borrow().clone();
            let saf = &settings.store_and_forward;
            let queue = self.queue.borrow().queue().cloned();
            if let Some(queue) = queue {
                if let Ok(stats) = queue.stats().await {
                    self.drain.sample(Instant::now(), stats.waiting());
                }
                if saf.enabled && swept_at.is_none_or(|at| at.elapsed() >= pause(saf)) {
                    swept_at = Some(Instant::now());
                    if let Err(error) = self.sweep(&*queue, saf, &shutdown).await
                        && !matches!(error, StoreError::Closed)
                    {
                        tracing::warn!("cannot remove what is too old yet, will try again: {error}");
                    }
                }
            }
            tokio::select! {
                () = shutdown.recv() => return,
                () = tokio::time::sleep(TICK) => {}
                changed = self.settings.changed() => match changed {
                    Ok(()) => swept_at = None,
                    Err(_) => return,
                },
                changed = self.queue.changed() => match changed {
                    Ok(()) => swept_at = None,
                    Err(_) => return,
                },
            }
        }
    }

    async fn sweep(
        &self,
        queue: &dyn RetryQueue,
        saf: &StoreAndForward,
        shutdown: &ShutdownSignal,
    ) -> Result<(), StoreError> {
        let at = now();
        let before = |age: Duration| at.saturating_sub(age);
        let too_old = saf.max_age.map(|age| Sweep::TooOld {
            before: before(age),
            at,
        });
        let history = Sweep::History {
            // Without retention whatever is there was kept under an earlier setting.
            before: saf
                .history_retention
                .map_or(Timestamp::from_unix_millis(i64::MAX), before),
        };
        let expired = saf
            .dead_letter_retention
            .map(|age| Sweep::DeadLetters { before: before(age) });
        let over = saf
            .dead_letter_max_items
            .map(|max| Sweep::DeadLettersOver { max: max.get() });
        for sweep in [too_old, Some(history), expired, over].into_iter().flatten() {
            while !shutdown.is_triggered() {
                let swept = queue.sweep(sweep, PAGE).await?;
                self.enter(&sweep, swept);
                if swept < PAGE as u64 {
                    break;
                }
            }
        }
        Ok(())
    }

    fn enter(&self, sweep: &Sweep, objects: u64) {
        if objects == 0 {
            return;
        }
        match sweep {
            Sweep::TooOld { .. } => {
                self.books.set_aside(objects);
                tracing::error!(objects, "older than MaxAge: set aside in the error collection");
            }
            Sweep::DeadLetters { .. } | Sweep::DeadLettersOver { .. } => {
                self.books.dropped_many(DropReason::DeadLetterRetention, objects);
                tracing::warn!(
                    objects,
                    "removed from the error collection, as DeadLetterRetention or DeadLetterMaxItems says"
                );
            }
            Sweep::History { .. } => tracing::debug!(objects, "removed from the history"),
        }
    }
}

/// How long until the next sweep: a tenth of the shortest age, within bounds.
fn pause(saf: &StoreAndForward) -> Duration {
    [saf.max_age, saf.dead_letter_retention, saf.history_retention]
        .into_iter()
        .flatten()
        .min()
        .map_or(LONGEST_PAUSE, |age| (age / 10).clamp(TICK, LONGEST_PAUSE))
}
