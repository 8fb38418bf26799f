//! New rows.

use std::sync::LazyLock;

use edgehold_core::ServiceKey;
use edgehold_store::StateCount;
use sqlx::{Sqlite, SqliteConnection, query::Query, sqlite::SqliteArguments};

use crate::row::{NewRow, id_column};

/// Rows of one statement. A statement costs about as much as ten rows, and each size is one cached statement.
const CHUNKS: [usize; 3] = [64, 8, 1];

static INSERT_OBJECTS: LazyLock<[String; 3]> = LazyLock::new(|| {
    CHUNKS.map(|rows| {
        let columns =
            "(seq, id, app_service_key, state, pipeline_id, pipeline_position, version, correlation_id,
            context_data, input_kind, input_content_type, input_topic, attempts, created_at, last_attempt_at,
            not_before, last_error, errors, reason, destination, ended_at, device, payload_bytes)";
        let row = ["?"; 23].join(", ");
        let rows = vec![format!("({row})"); rows].join(", ");
        format!("INSERT INTO object {columns} VALUES {rows}")
    })
});

static INSERT_PAYLOADS: LazyLock<[String; 3]> = LazyLock::new(|| {
    CHUNKS.map(|rows| {
        format!(
            "INSERT INTO payload (seq, bytes) VALUES {}",
            vec!["(?, ?)"; rows].join(", ")
        )
    })
});

pub(crate) const FIND: &str = "
    SELECT seq,
           app_service_key = ?2 AND pipeline_id = ?3 AND pipeline_position = ?4 AND version = ?5
               AND correlation_id = ?6 AND context_data = ?7 AND input_kind = ?8 AND input_content_type IS ?9
               AND input_topic IS ?10 AND created_at = ?11
               AND ?12 IS (SELECT bytes FROM payload WHERE payload.seq = object.seq)
    FROM object INDEXED BY object_id WHERE id = ?1";

/// Inserts rows with ascending `seq`.
pub(super) async fn all(
    connection: &mut SqliteConnection,
    first_seq: i64,
    rows: &[&NewRow],
) -> Result<(), sqlx::Error> {
    let mut numbered = (first_seq..).zip(rows.iter().copied()).collect::<Vec<_>>();
    for ((rows, objects), payloads) in CHUNKS.iter().zip(&*INSERT_OBJECTS).zip(&*INSERT_PAYLOADS) {
        while numbered.len() >= *rows {
            let rest = numbered.split_off(*rows);
            let query = numbered
                .iter()
                .fold(sqlx::query(objects.as_str()), |query, (seq, row)| {
                    bind(query, *seq, row)
                });
            query.execute(&mut *connection).await?;
            let query = numbered
                .iter()
                .fold(sqlx::query(payloads.as_str()), |query, (seq, row)| {
                    query.bind(*seq).bind(&row.payload[..])
                });
            query.execute(&mut *connection).await?;
            numbered = rest;
        }
    }
    Ok(())
}

fn bind<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    seq: i64,
    row: &NewRow,
) -> Query<'q, Sqlite, SqliteArguments> {
    query
        .bind(seq)
        .bind(id_column(row.id))
        .bind(row.service_key.as_str())
        .bind(row.state)
        .bind(row.pipeline_id.as_str())
        .bind(row.position)
        .bind(row.version.as_str())
        .bind(row.correlation_id.as_str())
        .bind(row.context_data.as_str())
        .bind(row.input_kind)
        .bind(row.input_content_type.as_deref())
        .bind(row.input_topic.as_deref())
        .bind(row.attempts)
        .bind(row.created_at)
        .bind(row.last_attempt_at)
        .bind(row.not_before)
        .bind(row.last_error.as_deref())
        .bind(row.errors.as_deref())
        .bind(row.reason)
        .bind(row.destination.as_ref().map(|destination| destination.as_str()))
        .bind(row.ended_at)
        .bind(row.device.as_deref())
        .bind(row.payload_bytes())
}

/// The `seq` of the row with this id, and whether it is the same object (`semantics::same_content`).
pub(super) async fn find(
    connection: &mut SqliteConnection,
    row: &NewRow,
) -> Result<Option<(i64, bool)>, sqlx::Error> {
    sqlx::query_as(FIND)
        .bind(id_column(row.id))
        .bind(row.service_key.as_str())
        .bind(row.pipeline_id.as_str())
        .bind(row.position)
        .bind(row.version.as_str())
        .bind(row.correlation_id.as_str())
        .bind(row.context_data.as_str())
        .bind(row.input_kind)
        .bind(row.input_content_type.as_deref())
        .bind(row.input_topic.as_deref())
        .bind(row.created_at)
        .bind(&row.payload[..])
        .fetch_optional(connection)
        .await
}

pub(crate) const WAITING: &str = "
    SELECT ifnull(sum(objects), 0), ifnull(sum(payload_bytes), 0) FROM counter
    WHERE owner = ?1 AND object_state IN (0, 2, 4)";

/// What waits, as the counters say.
pub(super) async fn waiting(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
) -> Result<StateCount, sqlx::Error> {
    let (objects, payload_bytes): (i64, i64) = sqlx::query_as(WAITING)
        .bind(service_key.as_str())
        .fetch_one(connection)
        .await?;
    Ok(StateCount {
        objects: u64::try_from(objects).unwrap_or(0),
        payload_bytes: u64::try_from(payload_bytes).unwrap_or(0),
    })
}
