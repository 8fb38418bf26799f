//! Tasks with names, spans and an owner: nothing else in the workspace spawns.

use std::{future::Future, time::Duration};

use tokio::task::{Id, JoinSet};
use tracing::Instrument;

/// A task that ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
#[error("task '{name}' {how}")]
pub struct EarlyEnd {
    name: &'static str,
    how: String,
}

/// The long-lived tasks of a service. Dropping it aborts them.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
}

impl Tasks {
    /// Starts a task that is meant to run until the service ends.
    pub fn spawn(&mut self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let handle = self
            .set
            .spawn(future.instrument(tracing::debug_span!("task", name)));
        self.names.push((handle.id(), name));
    }

    /// Returns when a task ends, and names it: while the service is meant to run this is a failure. Pends for ever when
    /// there are no tasks. Cancel-safe.
    pub async fn early_end(&mut self) -> EarlyEnd {
        match self.set.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, ()))) => EarlyEnd {
                name: self.take_name(id),
                how: "ended by itself".to_owned(),
            },
            Some(Err(error)) => {
                let name = self.take_name(error.id());
                EarlyEnd {
                    name,
                    how: if error.is_panic() {
                        "panicked"
                    } else {
                        "was aborted"
                    }
                    .to_owned(),
                }
            }
        }
    }

    /// Waits until all tasks have ended, at most `grace`; what is still running then is aborted. Answers the names of
    /// the aborted ones.
    pub async fn drain(mut self, grace: Duration) -> Vec<&'static str> {
        let ended = tokio::time::timeout(grace, async {
            while let Some(result) = self.set.join_next_with_id().await {
                let id = match &result {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                let name = self.take_name(id);
                if result.is_err() {
                    tracing::error!(task = name, "a task panicked while the service was ending");
                }
            }
        })
        .await;
        match ended {
            Ok(()) => Vec::new(),
            Err(_) => {
                self.set.abort_all();
                self.names.iter().map(|(_, name)| *name).collect()
            }
        }
    }

    fn take_name(&mut self, id: Id) -> &'static str {
        match self.names.iter().position(|(known, _)| *known == id) {
            Some(index) => self.names.swap_remove(index).1,
            None => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("watcher", async {});
        tasks.spawn("loop", std::future::pending());
        assert_eq!(
            tasks.early_end().await.to_string(),
            "task 'watcher' ended by itself"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_in_time_is_named_and_aborted() {
        let mut tasks = Tasks::default();
        tasks.spawn("quick", async {});
        tasks.spawn("stuck", std::future::pending());
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, ["stuck"]);
    }
}
