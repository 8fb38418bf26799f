//! How a running service comes to its store: when Store and Forward is on, as soon as it can be opened.
//!
//! Owns what is said of the store at that moment: what an earlier run left in it, and what EdgeX did.

use std::sync::Arc;

use edgehold_config::Writable;
use edgehold_core::{ErrorClass, ShutdownSignal};
use edgehold_runtime::{Books, StoreState};
use edgehold_store::{StoreError, StoreStats};
use tokio::sync::watch;

use super::{
    BACKOFF, Opened, StoreOpener,
    backlog::{Backlog, Place},
    sqlite_path,
};
use crate::logging::with_causes;

impl StoreOpener {
    /// Opens the store as soon as Store and Forward is on, unless it is open already, and works for it until it is
    /// closed. Blocks nobody: until it is open, failing exports wait; when it cannot be opened, they are dropped by name.
    pub(crate) async fn run(
        self,
        opened: Option<Opened>,
        settings: watch::Receiver<Arc<Writable>>,
        state: watch::Sender<StoreState>,
        books: Arc<Books>,
        mut shutdown: ShutdownSignal,
    ) {
        let opened = match opened {
            Some(opened) => Some(opened),
            None => self.open_when_on(settings, &state, shutdown.clone()).await,
        };
        let Some(Opened {
            queue,
            driver,
            behind,
        }) = opened
        else {
            return;
        };
        carry_over(queue.stats().await, &books);
        state.send_replace(StoreState::Open(queue));
        let behind = async {
            if let Some(behind) = behind {
                self.open_behind(behind, &books, shutdown.clone()).await;
            }
        };
        let told = async {
            let mut shutdown = shutdown.clone();
            // Looking only: it may be given up at any point.
            tokio::select! {
                () = self.tell_of_backlog() => {}
                () = shutdown.recv() => {}
            }
        };
        tokio::join!(driver, behind, told);
        shutdown.recv().await;
    }

    /// Opens the store as soon as Store and Forward is on and it can be. None when the service ends before.
    async fn open_when_on(
        &self,
        mut settings: watch::Receiver<Arc<Writable>>,
        state: &watch::Sender<StoreState>,
        mut shutdown: ShutdownSignal,
    ) -> Option<Opened> {
        let mut backoff = BACKOFF;
        loop {
            let enabled = settings.borrow_and_update().store_and_forward.enabled;
            if enabled {
                // Whatever the last attempt said, what fails meanwhile waits for this one.
                state.send_replace(StoreState::Opening);
                match self.open().await {
                    Ok(ready) => return Some(ready),
                    Err(error) => {
                        tracing::error!(
                            "Store and Forward has no store, will try again: {}",
                            with_causes(&error)
                        );
                        let failed = error.class() == ErrorClass::Permanent;
                        state.send_replace(match failed {
                            true => StoreState::Failed(with_causes(&error)),
                            false => StoreState::Opening,
                        });
                    }
                }
            }
            tokio::select! {
                () = shutdown.recv() => return None,
                changed = settings.changed() => match changed {
                    Ok(()) => backoff.reset(),
                    Err(_) => return None,
                },
                () = tokio::time::sleep(backoff.pause()), if enabled => backoff.grow(),
            }
        }
    }

    /// Says what the original left where the settings say that it keeps its objects, and how it is taken over.
    async fn tell_of_backlog(&self) {
        let kind = self.kind();
        if !["redisdb", "postgres"].contains(&kind.as_str()) {
            return;
        }
        let place = Place {
            service_key: &self.service_key,
            database: &self.database,
            db_name: &self.db_name,
            secrets: &*self.secrets,
            environment: &Default::default(),
        };
        let look = async {
            let mut backlog = Backlog::open(place, None).await?;
            let count = backlog.count().await?;
            let place = backlog.place().to_owned();
            backlog.close().await;
            Ok::<_, StoreError>((count, place))
        };
        let looked = look.await;
        let is_some = matches!(looked, Ok((1.., _)));
        let left = match looked {
            Ok((0, place)) => format!("EdgeX left nothing in {place}"),
            Ok((count, place)) => format!(
                "EdgeX left {count} objects in {place}, which nobody delivers: 'edgehold store import' takes them over"
            ),
            Err(error) => format!(
                "whether EdgeX left something there is not known ({}); 'edgehold store import' takes it over",
                with_causes(&error)
            ),
        };
        if kind == "redisdb" {
            let path = sqlite_path(&self.database, &self.data_dir, &self.service_key);
            tracing::warn!(
                "Database/Type is 'redisdb', and nothing is kept in Redis: Store and Forward keeps its data in {}; {left}",
                path.display()
            );
        } else if is_some {
            tracing::warn!("{left}");
        }
    }
}

/// Enters what a store holds into the books, before anything new comes in.
pub(super) fn carry_over(stats: Result<StoreStats, StoreError>, books: &Books) {
    match stats {
        Ok(stats) => {
            books.carried_over(stats.waiting() + stats.error.objects);
            if stats.waiting() > 0 {
                tracing::info!(
                    waiting = stats.waiting(),
                    "resuming with what an earlier run left"
                );
            }
        }
        Err(error) => tracing::warn!("cannot count what an earlier run left: {}", with_causes(&error)),
    }
}
