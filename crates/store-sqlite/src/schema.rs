//! The schema and its versions.

use std::borrow::Cow;

use edgehold_store::StoreError;
use sqlx::{
    Connection, SqliteConnection,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::SqliteConnectOptions,
};

use crate::error::store_error;

/// Every migration, oldest first. A released file is never edited: a change is a new one.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "stored objects",
        include_str!("../../../migrations/sqlite/0001_stored_objects.sql"),
    ),
    (
        2,
        "attempt errors",
        include_str!("../../../migrations/sqlite/0002_attempt_errors.sql"),
    ),
    (
        3,
        "in flight",
        include_str!("../../../migrations/sqlite/0003_in_flight.sql"),
    ),
];

/// The newest version this build knows.
const KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Refuses a file of a newer version. The connection only reads, so the file is not touched.
pub(crate) async fn check(file: &str, reading: SqliteConnectOptions) -> Result<(), StoreError> {
    let found = async {
        let mut connection = SqliteConnection::connect_with(&reading).await?;
        let found = version(&mut connection).await;
        connection.close().await?;
        found
    };
    match found.await.map_err(|error| store_error(file, error))? {
        found if found > KNOWN => Err(StoreError::NewerSchema { found, known: KNOWN }),
        _ => Ok(()),
    }
}

/// The version of a file; 0 when it is empty.
async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let migrated: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'")
            .fetch_one(&mut *connection)
            .await?;
    if migrated == 0 {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT ifnull(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await
}

/// Brings a file up to date.
pub(crate) async fn migrate(file: &str, connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let migration = |(version, description, sql): &(i64, &'static str, &'static str)| {
        let sql = sqlx::SqlSafeStr::into_sql_str(*sql);
        Migration::new(
            *version,
            Cow::Borrowed(*description),
            MigrationType::Simple,
            sql,
            false,
        )
    };
    let migrator = Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect());
    migrator
        .run_direct(None, connection, false)
        .await
        .map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                store_error(file, error)
            }
            error => StoreError::Configuration(format!(
                "the schema of {file} cannot be brought up to date: {error}"
            )),
        })
}
