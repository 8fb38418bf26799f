//! An `edgehold_store::ObjectFilter` as SQL.
//!
//! The lists go in as one array each; an empty one says nothing. Who asks for ids finds the objects by them ([`meant!`]),
//! everybody else goes through the queue in its order.

use edgehold_core::{ErrorReason, Timestamp};
use edgehold_store::ObjectFilter;
use sqlx::{Postgres, postgres::PgArguments, query::QueryAs};

use crate::row::text;

/// The objects to look at: those with these ids, or all. `$1` to `$7` are bound by [`bind`].
macro_rules! meant {
    (ids) => {
        "(SELECT * FROM object WHERE id = ANY($1::uuid[]) OFFSET 0) AS object"
    };
    (queue) => {
        "(SELECT * FROM object WHERE cardinality($1::uuid[]) = 0) AS object"
    };
}

/// The condition on such an object.
macro_rules! filtered {
    () => {
        "(cardinality($2::text[]) = 0 OR pipeline_id = ANY($2))
              AND ($3::text IS NULL OR version = $3
                   OR input_kind IN ('delivery', 'delivery-base64', 'delivery-text', 'delivery-json'))
              AND (cardinality($4::text[]) = 0 OR device = ANY($4))
              AND (cardinality($5::text[]) = 0 OR reason = ANY($5))
              AND ($6::bigint IS NULL OR coalesce(ended_at, created_at) >= $6)
              AND ($7::bigint IS NULL OR coalesce(ended_at, created_at) < $7)"
    };
}

pub(crate) use {filtered, meant};

/// Binds what [`meant!`] and [`filtered!`] leave open.
pub(crate) fn bind<'q, T>(
    query: QueryAs<'q, Postgres, T, PgArguments>,
    filter: &ObjectFilter,
) -> QueryAs<'q, Postgres, T, PgArguments> {
    let millis = |at: Option<Timestamp>| at.map(Timestamp::as_unix_millis);
    let texts = |texts: &mut dyn Iterator<Item = &str>| -> Vec<String> {
        texts.map(|name| text(name).into_owned()).collect()
    };
    let ids: Vec<_> = filter.ids.iter().map(|id| id.as_uuid()).collect();
    query
        .bind(ids)
        .bind(texts(&mut filter.pipeline_ids.iter().map(|id| id.as_str())))
        .bind(
            filter
                .version
                .as_ref()
                .map(|version| text(version.as_str()).into_owned()),
        )
        .bind(texts(&mut filter.devices.iter().map(String::as_str)))
        .bind(texts(
            &mut filter.reasons.iter().copied().map(ErrorReason::as_str),
        ))
        .bind(millis(filter.ended_from))
        .bind(millis(filter.ended_before))
}
