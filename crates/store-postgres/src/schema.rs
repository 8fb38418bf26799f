//! The schema and its versions.
//!
//! All instances of a service may start at once: one of them brings the tables up to date while the others wait at a
//! lock of the server. Only ever forward, and never anything but our own tables.

use std::{borrow::Cow, time::Duration};

use edgehold_store::StoreError;
use sqlx::{
    AssertSqlSafe, PgConnection,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use crate::{error::store_error, options::quoted};

/// Every migration, oldest first. A released file is never edited: a change is a new one.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "stored objects",
        include_str!("../../../migrations/postgres/0001_stored_objects.sql"),
    ),
    (
        2,
        "claims",
        include_str!("../../../migrations/postgres/0002_claims.sql"),
    ),
];

/// The newest version this build knows.
pub(crate) const KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// The version of the tables in this schema; none when there are none.
pub(crate) async fn version(connection: &mut PgConnection, schema: &str) -> Result<Option<i64>, sqlx::Error> {
    let tables = format!("{}._sqlx_migrations", quoted(schema));
    let migrated: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(tables)
        .fetch_one(&mut *connection)
        .await?;
    if !migrated {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await
}

/// Refuses tables of a newer version.
pub(crate) fn check(found: Option<i64>) -> Result<(), StoreError> {
    match found {
        Some(found) if found > KNOWN => Err(StoreError::NewerSchema { found, known: KNOWN }),
        _ => Ok(()),
    }
}

/// Makes the schema and brings its tables up to date. The connection is not good for anything else afterwards: a change
/// of many rows has no limit of time, and what it holds is let go when it is closed.
pub(crate) async fn migrate(
    server: &str,
    connection: &mut PgConnection,
    schema: &str,
    limit: Duration,
) -> Result<(), StoreError> {
    let failed = |error| store_error(server, error);
    // Whoever is before us may take as long as a lock may be waited for.
    sqlx::query("SELECT pg_advisory_lock(hashtextextended('edgehold migrates ' || $1, 0))")
        .bind(schema)
        .execute(&mut *connection)
        .await
        .map_err(|error| {
            StoreError::unavailable(
                format!("another instance has been changing the tables on {server} for {limit:?}"),
                error,
            )
        })?;
    sqlx::query("SET statement_timeout = 0")
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    // Asking for one that is there needs the right to make one.
    let is_there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if !is_there {
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {}", quoted(schema))))
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    check(version(connection, schema).await.map_err(failed)?)?;
    let migration = |(version, description, sql): &(i64, &'static str, &'static str)| {
        let sql = sqlx::SqlSafeStr::into_sql_str(*sql);
        let description = Cow::Borrowed(*description);
        Migration::new(*version, description, MigrationType::Simple, sql, false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect());
    migrator.set_locking(false);
    let outcome = migrator.run_direct(None, connection, false).await;
    outcome.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => failed(error),
        MigrateError::VersionMismatch(version) => StoreError::Configuration(format!(
            "the tables in schema {} on {server} were made by another text of migration {version} than this \
             build has: they were changed by hand, or by a build that was never released",
            quoted(schema)
        )),
        MigrateError::Dirty(version) => StoreError::Configuration(format!(
            "migration {version} of schema {} on {server} was begun and not finished",
            quoted(schema)
        )),
        error => StoreError::Configuration(format!(
            "the tables in schema {} on {server} cannot be brought up to date: {error}",
            quoted(schema)
        )),
    })
}
