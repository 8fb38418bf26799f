//! An `edgehold_store::ObjectFilter` as SQL.
//!
//! The lists go in as one JSON text each; an empty one says nothing. Who asks for ids finds the objects by them,
//! everybody else goes through the queue in its order.

use edgehold_core::{ErrorReason, PipelineId, PipelineVersion, Timestamp};
use edgehold_store::ObjectFilter;
use serde_json::json;
use sqlx::{Sqlite, query::Query, sqlite::SqliteArguments};

/// The part of a statement from its table on: `?1` is the service key, `?2` the state, `?3` the place behind which it
/// begins, and `?4` to `?10` are bound by [`bind`].
macro_rules! filtered {
    (ids) => {
        filtered!("object_id", "AND id IN (SELECT unhex(value) FROM json_each(?4))")
    };
    (queue) => {
        filtered!("object_queue", "AND ?4 = '[]'")
    };
    ($index:literal, $ids:literal) => {
        concat!(
            " FROM object INDEXED BY ",
            $index,
            " WHERE app_service_key = ?1 AND state = ?2 AND seq > ?3 ",
            $ids,
            " AND (?5 = '[]' OR pipeline_id IN (SELECT value FROM json_each(?5)))
              AND (?6 IS NULL OR version = ?6
                   OR input_kind IN ('delivery', 'delivery-base64', 'delivery-text', 'delivery-json'))
              AND (?7 = '[]' OR device IN (SELECT value FROM json_each(?7)))
              AND (?8 = '[]' OR reason IN (SELECT value FROM json_each(?8)))
              AND (?9 IS NULL OR ifnull(ended_at, created_at) >= ?9)
              AND (?10 IS NULL OR ifnull(ended_at, created_at) < ?10)"
        )
    };
}

pub(crate) use filtered;

/// Binds what [`filtered!`] leaves open.
pub(crate) fn bind<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    filter: &ObjectFilter,
) -> Query<'q, Sqlite, SqliteArguments> {
    let ids: Vec<_> = filter
        .ids
        .iter()
        .map(|id| id.as_uuid().simple().to_string())
        .collect();
    let pipelines: Vec<_> = filter.pipeline_ids.iter().map(PipelineId::as_str).collect();
    let reasons: Vec<_> = filter.reasons.iter().copied().map(ErrorReason::as_str).collect();
    let millis = |at: Option<Timestamp>| at.map(Timestamp::as_unix_millis);
    query
        .bind(json!(ids).to_string())
        .bind(json!(pipelines).to_string())
        .bind(
            filter
                .version
                .as_ref()
                .map(PipelineVersion::as_str)
                .map(str::to_owned),
        )
        .bind(json!(filter.devices).to_string())
        .bind(json!(reasons).to_string())
        .bind(millis(filter.ended_from))
        .bind(millis(filter.ended_before))
}
