//! New rows.

use std::sync::LazyLock;

use edgehold_core::ServiceKey;
use edgehold_store::StateCount;
use sqlx::SqliteConnection;

use super::script::{Given, Script};
use crate::row::{NewRow, id_column};

/// Rows of one statement. A statement costs about as much as ten rows, and each size is one cached statement.
const CHUNKS: [usize; 3] = [64, 8, 1];

/// Of each size: objects, then their payloads.
static INSERTS: LazyLock<[String; 3]> = LazyLock::new(|| {
    CHUNKS.map(|rows| {
        let columns =
            "(seq, id, app_service_key, state, pipeline_id, pipeline_position, version, correlation_id,
            context_data, input_kind, input_content_type, input_topic, attempts, created_at, last_attempt_at,
            not_before, last_error, errors, reason, destination, ended_at, device, payload_bytes)";
        let list = |row: &str| vec![format!("({row})"); rows].join(", ");
        format!(
            "INSERT INTO object {columns} VALUES {}; INSERT INTO payload (seq, bytes) VALUES {}",
            list(&["?"; 23].join(", ")),
            list("?, ?"),
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
pub(super) fn all(script: &mut Script, first_seq: i64, rows: &[&NewRow]) {
    let numbered = (first_seq..).zip(rows.iter().copied()).collect::<Vec<_>>();
    let mut rest = numbered.as_slice();
    for (size, statements) in CHUNKS.iter().zip(&*INSERTS) {
        while let Some((chunk, behind)) = rest.split_at_checked(*size) {
            rest = behind;
            // A single row is what a service mostly has to write: with it a transaction is one call.
            let mut given = match rows {
                [_] => script.add(statements),
                _ => script.add_alone(statements),
            };
            for (seq, row) in chunk {
                given = give(given, *seq, row);
            }
            for (seq, row) in chunk {
                given = given.with(*seq).with(&row.payload[..]);
            }
        }
    }
}

fn give<'s>(given: Given<'s>, seq: i64, row: &NewRow) -> Given<'s> {
    given
        .with(seq)
        .with(id_column(row.id))
        .with(row.service_key.as_str())
        .with(row.state)
        .with(row.pipeline_id.as_str())
        .with(row.position)
        .with(row.version.as_str())
        .with(row.correlation_id.as_str())
        .with(row.context_data.as_str())
        .with(row.input_kind)
        .with(row.input_content_type.as_deref())
        .with(row.input_topic.as_deref())
        .with(row.attempts)
        .with(row.created_at)
        .with(row.last_attempt_at)
        .with(row.not_before)
        .with(row.last_error.as_deref())
        .with(row.errors.as_deref())
        .with(row.reason)
        .with(row.destination.as_ref().map(|destination| destination.as_str()))
        .with(row.ended_at)
        .with(row.device.as_deref())
        .with(row.payload_bytes())
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
