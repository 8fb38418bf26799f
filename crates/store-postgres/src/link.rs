//! A connection that is made when it is needed, and again when it was lost.
//!
//! *What was begun on a lost one may still happen*: a server that was frozen does, when it goes on, what it was sent before.
//! So the first thing on the next connection is to end the process behind the last one, and to wait until it has ended. It
//! is known by a name that each link has to itself, and not by its number: behind a proxy that may be somebody else's.

use std::{sync::Arc, time::Duration};

use edgehold_store::StoreError;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    error::{is_conflict, is_connection_lost, is_refused, no_answer, store_error},
    options::connect,
};

/// Ends the processes of connections with the name of this one; answers how many there were. Anybody may end those of
/// the user that he is.
const END: &str = "
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()";

/// How often it is asked whether they have ended.
const ENDING: Duration = Duration::from_millis(20);

/// How often a transaction is tried that two instances cannot both have at once.
const TRIES: usize = 5;

/// One connection of a task.
pub(crate) struct Link {
    server: Arc<str>,
    options: PgConnectOptions,
    limit: Duration,
    connection: Option<PgConnection>,
    /// Something that was begun on an earlier connection may still happen.
    is_owing: bool,
}

impl Link {
    pub(crate) fn new(server: Arc<str>, options: PgConnectOptions, limit: Duration) -> Self {
        // At the beginning, as the server cuts long names.
        let (own, _) = Uuid::new_v4().as_u64_pair();
        let name = options.get_application_name().unwrap_or_default();
        let name = format!("edgehold {own:016x} {name}");
        Self {
            server,
            options: options.application_name(&name),
            limit,
            connection: None,
            is_owing: false,
        }
    }

    /// Makes the connection unless it is there.
    async fn connect(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut connection = connect(&self.server, &self.options, self.limit).await?;
        if self.is_owing {
            match timeout(self.limit, end_earlier(&mut connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if is_refused(&error) => {
                    tracing::debug!("what was begun on a lost connection may still happen: {error}");
                }
                Ok(Err(error)) => return Err(store_error(&self.server, error)),
                Err(_) => return Err(no_answer(&self.server, self.limit)),
            }
            self.is_owing = false;
        }
        Ok(connection)
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
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return Some(Err(error)),
        };
        // Unless there is an answer.
        self.is_owing = true;
        // A server that has stopped answering is not waited for; what was begun there ends by its own limits.
        let Ok(outcome) = timeout(self.limit, work(&mut connection)).await else {
            return Some(Err(no_answer(&self.server, self.limit)));
        };
        let error = match outcome {
            Ok(done) => {
                self.keep(connection);
                return Some(Ok(done));
            }
            Err(error) => error,
        };
        let try_again = if is_connection_lost(&error) {
            !is_fresh && *tries == 1
        } else {
            self.keep(connection);
            is_conflict(&error) && *tries < TRIES
        };
        (!try_again).then(|| Err(store_error(&self.server, error)))
    }

    fn keep(&mut self, connection: PgConnection) {
        self.connection = Some(connection);
        self.is_owing = false;
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

/// Ends what has the name of this connection, and waits until nothing of it can happen any more.
async fn end_earlier(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    while sqlx::query_scalar::<_, i64>(END)
        .fetch_one(&mut *connection)
        .await?
        > 0
    {
        sleep(ENDING).await;
    }
    Ok(())
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
