//! A spool in front of a store that may be away: Store and Forward is open with it at once, and the store is opened
//! behind it, now or later.

use std::sync::Arc;

use edgehold_core::{BoxFuture, ErrorClass, ShutdownSignal};
use edgehold_runtime::Books;
use edgehold_store::{Mover, RetryQueue, SpooledQueue, StoreError, StoreHandle};
use edgehold_store_sqlite::{Options, SqliteQueue};
use tokio::{sync::watch, time::timeout};

use super::{BACKOFF, Opened, StoreOpener, is_file, run::carry_over, spool_path};
use crate::logging::with_causes;

type Opening = BoxFuture<'static, Result<Opened, StoreError>>;

/// What a spool waits for.
pub(super) struct Behind {
    spooled: SpooledQueue,
    store: watch::Sender<Option<Arc<dyn RetryQueue>>>,
    /// An attempt that has not been answered yet.
    opening: Option<Opening>,
}

impl StoreOpener {
    /// Whether the store may be away and a spool is wanted.
    pub(super) fn has_spool(&self) -> bool {
        let kind = self.kind();
        let is_local = is_file(&kind) || kind == "memory";
        !is_local && self.spool_max_bytes > 0
    }

    /// Opens the spool, and the store behind it if that answers in time.
    pub(super) async fn open_spooled(&self) -> Result<Opened, StoreError> {
        let mut opening = self.opening();
        let first = match timeout(self.database.timeout, &mut opening).await {
            Ok(Err(error)) if error.class() == ErrorClass::Permanent => return Err(error),
            outcome => outcome.ok(),
        };
        let store = match &first {
            Some(Ok(opened)) => Some(opened.queue.clone()),
            _ => None,
        };
        let (sender, handle) = watch::channel(store);
        let (queue, driver) = match self.open_spool(handle).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(
                    "there is no local spool, so while the store is away deliveries are held back: {}",
                    with_causes(&error)
                );
                return match first {
                    Some(outcome) => outcome,
                    None => opening.await,
                };
            }
        };
        let opening = match first {
            Some(Ok(opened)) => {
                let both = async {
                    tokio::join!(driver, opened.driver);
                };
                return Ok(Opened::new(queue, Box::pin(both)));
            }
            Some(Err(error)) => {
                tracing::warn!(
                    "the store cannot be opened yet, what is new goes to the spool: {}",
                    with_causes(&error)
                );
                None
            }
            None => {
                let waited = self.database.timeout;
                tracing::warn!(
                    "the store does not answer within {waited:?}, what is new goes to the spool until it does"
                );
                Some(opening)
            }
        };
        let behind = Behind {
            spooled: queue.clone(),
            store: sender,
            opening,
        };
        Ok(Opened {
            behind: Some(behind),
            ..Opened::new(queue, driver)
        })
    }

    fn opening(&self) -> Opening {
        let opener = self.clone();
        Box::pin(async move { opener.open_store().await })
    }

    async fn open_spool(
        &self,
        store: StoreHandle,
    ) -> Result<(SpooledQueue, BoxFuture<'static, ()>), StoreError> {
        let path = spool_path(&self.data_dir, &self.service_key);
        let (spool, writer) = SqliteQueue::open(Options {
            max_bytes: Some(self.spool_max_bytes),
            ..Options::new(path, self.service_key.clone())
        })
        .await?;
        let mut writer = Box::pin(writer.run());
        let opening = SpooledQueue::open(Arc::new(spool), store, self.database.timeout);
        // A damaged row is set aside while the spool is read, and that takes the writer.
        let (queue, mover): (_, Mover) = tokio::select! {
            opened = opening => opened?,
            () = &mut writer => return Err(StoreError::Closed),
        };
        let driver = async {
            tokio::join!(writer, mover.run());
        };
        Ok((queue, Box::pin(driver)))
    }

    /// Opens the store behind a spool and works for it until `shutdown`. No error is final: what is in the spool has
    /// nowhere else to go.
    pub(super) async fn open_behind(&self, behind: Behind, books: &Books, mut shutdown: ShutdownSignal) {
        let Behind {
            spooled,
            store,
            mut opening,
        } = behind;
        let mut backoff = BACKOFF;
        let open = async {
            loop {
                if opening.is_none() {
                    tokio::time::sleep(backoff.next_pause()).await;
                }
                let attempt = opening.take().unwrap_or_else(|| self.opening());
                match attempt.await {
                    Ok(opened) => return opened,
                    Err(error) if error.class() == ErrorClass::Permanent => {
                        tracing::error!(
                            "the store cannot be opened, what is new stays in the spool: {}",
                            with_causes(&error)
                        );
                    }
                    Err(error) => tracing::warn!("the store cannot be opened yet: {}", with_causes(&error)),
                }
            }
        };
        let Opened { queue, driver, .. } = tokio::select! {
            opened = open => opened,
            () = shutdown.recv() => return,
        };
        carry_over(spooled.stats_beside(&*queue).await, books);
        store.send_replace(Some(queue.clone()));
        tokio::join!(driver, async {
            shutdown.recv().await;
            // The spool has closed it, unless it was opened later than that.
            if timeout(self.database.timeout, queue.close()).await.is_err() {
                tracing::warn!("the store does not answer, so it is not closed well");
            }
        });
    }
}
