//! What EdgeX 4's own Store and Forward left in the schema of the service: its table `store`, beside ours.
//!
//! Owns reading it, in the order in which it was stored, and removing what somebody has taken over. Does not know what a
//! row means (`edgehold_store::edgex` does), and makes and changes nothing.
//!
//! The table has no index that is of use, so it is sorted once, on the server (a cursor that outlives its transaction),
//! and the rows are fetched by their ids from there: however many there are, one page of them is in memory.

use std::{sync::Arc, time::Duration};

use edgehold_core::{StoredObjectId, Timestamp};
use edgehold_store::StoreError;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    error::{no_answer, store_error},
    options::{Options, connect, quoted},
};

/// Rows of a page.
const PAGE: usize = 256;
/// Bytes at which a page ends.
const PAGE_BYTES: i64 = 4 << 20;

/// A row of the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// Its key.
    pub id: StoredObjectId,
    /// When it was stored; none when it does not say a moment.
    pub created: Option<Timestamp>,
    /// Its content; none when it went away meanwhile.
    pub json: Option<String>,
}

/// The table of the original.
pub struct Backlog {
    server: Arc<str>,
    table: String,
    connection: PgConnection,
    limit: Duration,
    /// Rows that the cursor has handed out and no page has had yet.
    ahead: Vec<(Uuid, Option<i64>, i64)>,
    is_sorted: bool,
}

impl Backlog {
    /// Opens what there is in the schema of this service; none when the original has no table there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], and [`StoreError::Configuration`] for a service key that can be no schema.
    pub async fn open(options: &Options) -> Result<Option<Self>, StoreError> {
        options.check()?;
        let server: Arc<str> = options.server().into();
        let limit = options.timeout;
        let mut connection = connect(&server, &options.connect_options(), limit).await?;
        let table = format!("{}.store", quoted(options.service_key.as_str()));
        let found = sqlx::query_scalar::<_, bool>("SELECT to_regclass($1) IS NOT NULL")
            .bind(&table)
            .fetch_one(&mut connection);
        let is_there = match timeout(limit, found).await {
            Ok(found) => found.map_err(|error| store_error(&server, error))?,
            Err(_) => return Err(no_answer(&server, limit)),
        };
        Ok(is_there.then_some(Self {
            server,
            table,
            connection,
            limit,
            ahead: Vec::new(),
            is_sorted: false,
        }))
    }

    async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection, &str) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        match timeout(self.limit, work(&mut self.connection, &self.table)).await {
            Ok(done) => done.map_err(|error| store_error(&self.server, error)),
            Err(_) => Err(no_answer(&self.server, self.limit)),
        }
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn count(&mut self) -> Result<u64, StoreError> {
        let count: i64 = self
            .within(async |connection, table| {
                sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
                    .fetch_one(connection)
                    .await
            })
            .await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Sorting takes as long as it takes.
    async fn sort(&mut self) -> Result<(), StoreError> {
        let declare = format!(
            "SET statement_timeout = 0;
             DECLARE backlog NO SCROLL CURSOR WITH HOLD FOR
                 SELECT id, CASE WHEN isfinite(created) THEN (extract(epoch FROM created) * 1000)::bigint END,
                        octet_length(content::text)::bigint
                 FROM {} ORDER BY created, id;
             SET statement_timeout = {}",
            self.table,
            self.limit.as_millis().max(1)
        );
        sqlx::raw_sql(AssertSqlSafe(declare))
            .execute(&mut self.connection)
            .await
            .map_err(|error| store_error(&self.server, error))?;
        self.is_sorted = true;
        Ok(())
    }

    /// The next rows, oldest first, as they were when the first ones were read; nothing when there are no more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn next_page(&mut self) -> Result<Vec<LeftBehind>, StoreError> {
        if !self.is_sorted {
            self.sort().await?;
        }
        if self.ahead.is_empty() {
            self.ahead = self
                .within(async |connection, _| {
                    sqlx::query_as(AssertSqlSafe(format!("FETCH {PAGE} FROM backlog")))
                        .fetch_all(connection)
                        .await
                })
                .await?;
        }
        let mut bytes = 0;
        let fits = self.ahead.iter().take_while(|(_, _, size)| {
            let is_inside = bytes < PAGE_BYTES;
            bytes += size;
            is_inside
        });
        let page: Vec<_> = {
            let count = fits.count();
            self.ahead.drain(..count).collect()
        };
        let ids: Vec<Uuid> = page.iter().map(|(id, _, _)| *id).collect();
        let mut contents: Vec<(Uuid, String)> = self
            .within(async |connection, table| {
                let select = format!("SELECT id, content::text FROM {table} WHERE id = ANY($1)");
                sqlx::query_as(AssertSqlSafe(select))
                    .bind(ids)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let mut content = |id| {
            let place = contents.iter().position(|(found, _)| *found == id)?;
            Some(contents.swap_remove(place).1)
        };
        let rows = page.into_iter().map(|(id, created, _)| LeftBehind {
            id: StoredObjectId::from_uuid(id),
            created: created.map(Timestamp::from_unix_millis),
            json: content(id),
        });
        Ok(rows.collect())
    }

    /// Removes rows, as the original does; one that is not there is none to remove.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: they may be there or not.
    pub async fn remove(&mut self, ids: &[StoredObjectId]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        self.within(async |connection, table| {
            sqlx::query(AssertSqlSafe(format!("DELETE FROM {table} WHERE id = ANY($1)")))
                .bind(ids)
                .execute(connection)
                .await
        })
        .await
        .map(drop)
    }

    /// Lets go of the connection.
    pub async fn close(self) {
        // Dropping it closes it, too.
        let _ = timeout(self.limit, self.connection.close()).await;
    }
}
