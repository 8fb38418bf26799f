//! A run that the service carries out, followed from outside to its end.
//!
//! ```text
//!   begin ──▶ look ──▶ done, cancelled
//!             │  ▲
//!   the service knows nothing of it (it was started anew) ──▶ begin again with the same filter
//!             │
//!   the service is away for too long, or does not do it any more ──▶ interrupted, with what is known
//! ```
//!
//! A filter leaves out what was given up after the run began, so that beginning again goes on with it. How much a service
//! did after the last look, before it was killed, is not known, only what is left.

use std::{future::Future, time::Duration};

use edgehold_api::wire::{OrderBody, RunBody};
use edgehold_clients::{ApplicationClient, CallError};
use edgehold_core::ErrorClass;
use edgehold_runtime::{ErrorAction, RunState};
use tokio::time::{Instant, sleep};

/// Between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

pub(super) struct Followed<'a> {
    service: &'a ApplicationClient,
    action: ErrorAction,
    order: OrderBody,
    /// How it stood when it was looked at.
    run: RunBody,
    /// Objects that were meant at first.
    meant: u64,
    /// What the runs before this one were done to, when it had to be begun again.
    before: u64,
    before_bytes: u64,
}

impl<'a> Followed<'a> {
    /// Has the service begin.
    ///
    /// # Errors
    /// Every [`CallError`]: there is no run.
    pub(super) async fn begin(
        service: &'a ApplicationClient,
        action: ErrorAction,
        order: OrderBody,
    ) -> Result<Self, CallError> {
        let run: RunBody = service.post(&begin(action), &order).await?;
        Ok(Self {
            service,
            action,
            order,
            meant: run.meant,
            run,
            before: 0,
            before_bytes: 0,
        })
    }

    /// Follows it to its end and tells how far it is; a service that is away is waited for so long. When `cancelled` ends,
    /// it is asked to end after the page it is at.
    pub(super) async fn follow(
        mut self,
        patience: Duration,
        cancelled: impl Future<Output = ()>,
        mut tell: impl FnMut(&RunBody),
    ) -> RunBody {
        tokio::pin!(cancelled);
        let mut asked_to_end = false;
        let mut away_since = None;
        loop {
            let total = self.total();
            tell(&total);
            if !self.goes_on() {
                return total;
            }
            // Cancel-safe: nothing has been asked of the service.
            tokio::select! {
                () = &mut cancelled, if !asked_to_end => {
                    asked_to_end = true;
                    if let Err(problem) = self.cancel().await {
                        return self.interrupted(&problem);
                    }
                }
                () = sleep(BETWEEN_LOOKS) => {}
            }
            let problem = match self.look(asked_to_end).await {
                Ok(()) => {
                    away_since = None;
                    continue;
                }
                Err(problem) => problem,
            };
            let since = *away_since.get_or_insert_with(|| {
                tracing::warn!(
                    "the service at {} is waited for, up to {patience:?}: {problem}",
                    self.service
                );
                Instant::now()
            });
            if asked_to_end || problem.class() == ErrorClass::Permanent || since.elapsed() >= patience {
                return self.interrupted(&problem);
            }
        }
    }

    /// How far all of it is.
    fn total(&self) -> RunBody {
        RunBody {
            meant: self.meant,
            done: self.before + self.run.done,
            payload_bytes: self.before_bytes + self.run.payload_bytes,
            ..self.run.clone()
        }
    }

    fn interrupted(&self, problem: &CallError) -> RunBody {
        RunBody {
            state: RunState::Interrupted.as_str().to_owned(),
            problem: Some(problem.to_string()),
            ..self.total()
        }
    }

    /// Whether it goes on, here or with the next start of its service.
    fn goes_on(&self) -> bool {
        self.run.is_running() || self.run.state == RunState::Interrupted.as_str()
    }

    async fn cancel(&mut self) -> Result<(), CallError> {
        let path = ["store", "runs", self.run.id.as_str()];
        self.service.delete(&path).await.map(|run| self.run = run)
    }

    /// Looks how it stands. One that nobody knows of is begun again, unless it is to end.
    async fn look(&mut self, is_to_end: bool) -> Result<(), CallError> {
        if self.run.is_running() || is_to_end {
            let path = ["store", "runs", self.run.id.as_str()];
            match self.service.get(&path, &[]).await {
                Err(CallError::Declined { status: 404, .. }) if !is_to_end => {}
                looked => return looked.map(|run| self.run = run),
            }
        }
        self.order.filter = self.run.filter.clone();
        let again: RunBody = self.service.post(&begin(self.action), &self.order).await?;
        self.before = self.meant.saturating_sub(again.meant).max(self.before);
        self.before_bytes += self.run.payload_bytes;
        self.run = again;
        tracing::warn!(
            "the service at {} was started anew and goes on with what is left: {} of {} objects",
            self.service,
            self.run.meant,
            self.meant
        );
        Ok(())
    }
}

fn begin(action: ErrorAction) -> [&'static str; 3] {
    ["store", "errors", action.as_str()]
}
