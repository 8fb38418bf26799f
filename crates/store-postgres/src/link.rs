//! A connection that is made when it is needed, and again when it was lost.

use std::{sync::Arc, time::Duration};

use edgehold_store::StoreError;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use crate::{
    error::{is_conflict, is_connection_lost, no_answer, store_error},
    options::connect,
};

/// How often a transaction is tried that two instances cannot both have at once.
const TRIES: usize = 5;

/// One connection of a task.
pub(crate) struct Link {
    server: Arc<str>,
    options: PgConnectOptions,
    limit: Duration,
    connection: Option<PgConnection>,
}

impl Link {
    pub(crate) fn new(server: Arc<str>, options: PgConnectOptions, limit: Duration) -> Self {
        Self {
            server,
            options,
            limit,
            connection: None,
        }
    }

    /// Begins with a connection that is there.
    pub(crate) fn with(mut self, connection: PgConnection) -> Self {
        self.connection = Some(connection);
        self
    }

    /// Tries work that may be repeated whatever became of it. None when it is to be tried again at once: the connection
    /// had been lost without anybody noticing, or another instance was in the way. See [`run!`].
    pub(crate) async fn attempt<T>(
        &mut self,
        tries: &mut usize,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Option<Result<T, StoreError>> {
        *tries += 1;
        let is_fresh = self.connection.is_none();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match connect(&self.server, &self.options, self.limit).await {
                Ok(connection) => connection,
                Err(error) => return Some(Err(error)),
            },
        };
        // A server that has stopped answering is not waited for; what was begun there ends by its own limits.
        let Ok(outcome) = timeout(self.limit, work(&mut connection)).await else {
            return Some(Err(no_answer(&self.server, self.limit)));
        };
        let error = match outcome {
            Ok(done) => {
                self.connection = Some(connection);
                return Some(Ok(done));
            }
            Err(error) => error,
        };
        let try_again = if is_connection_lost(&error) {
            !is_fresh && *tries == 1
        } else {
            self.connection = Some(connection);
            is_conflict(&error) && *tries < TRIES
        };
        (!try_again).then(|| Err(store_error(&self.server, error)))
    }

    /// Whether the outcome of what was tried last is not known: its connection was lost, or nobody answered.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.connection.is_none()
    }

    /// Closes it in order, if that does not take long.
    pub(crate) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Dropping it closes it, too.
            let _ = timeout(self.limit, connection.close()).await;
        }
    }
}

/// Runs work on a [`Link`], again where [`Link::attempt`] says so. The work is an async closure that is written here: it
/// is made anew for each attempt, so that it may be one which can be called only once. The third part is done whenever the
/// outcome of an attempt is not known.
macro_rules! run {
    ($link:expr, $work:expr) => {
        run!($link, $work, ())
    };
    ($link:expr, $work:expr, $in_doubt:expr) => {{
        let mut tries = 0;
        loop {
            let outcome = $link.attempt(&mut tries, $work).await;
            if $link.is_in_doubt() {
                $in_doubt;
            }
            if let Some(outcome) = outcome {
                break outcome;
            }
        }
    }};
}

pub(crate) use run;
