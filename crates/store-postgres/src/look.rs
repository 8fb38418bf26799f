//! Looking: what is in the store, how much of it, and whether something waits.

use std::collections::BTreeMap;

use edgehold_core::{ErrorReason, ObjectState, PipelineId, ServiceKey, Timestamp};
use edgehold_store::{ErrorGroup, ListRequest, ObjectFilter, StateCount, StoreStats};
use sqlx::PgConnection;

use crate::{
    filter::{self, filtered, meant},
    row::{self, Columns, ReadRow, column_of_states, text},
};

pub(crate) const IS_WAITING: &str = "
    SELECT EXISTS (
        SELECT 1 FROM object
        WHERE state IN (0, 2) AND (pipeline_id, device) >= ($1, $2) AND (pipeline_id, device) <= ($1, $2)
        ORDER BY pipeline_id, device LIMIT 1)";

/// With `$8` the states, `$9` the place behind which it begins.
macro_rules! list {
    ($by:tt) => {
        concat!(
            "SELECT found.seq, found.payload_bytes
             FROM unnest($8::smallint[]) AS wanted (state) CROSS JOIN LATERAL (
                SELECT seq, payload_bytes FROM ",
            meant!($by),
            " WHERE (state, seq) > (wanted.state, $9) AND state <= wanted.state AND ",
            filtered!(),
            " ORDER BY state, seq LIMIT $10) AS found
             ORDER BY seq LIMIT $10"
        )
    };
}
pub(crate) const LIST: &str = list!(queue);
pub(crate) const LIST_IDS: &str = list!(ids);

macro_rules! survey {
    ($by:tt) => {
        concat!(
            "SELECT pipeline_id, reason, count(*), sum(payload_bytes)::bigint,
                    min(coalesce(ended_at, created_at)), max(coalesce(ended_at, created_at))
             FROM ",
            meant!($by),
            " WHERE state = 3 AND ",
            filtered!(),
            " GROUP BY pipeline_id, reason"
        )
    };
}
pub(crate) const SURVEY: &str = survey!(queue);
pub(crate) const SURVEY_IDS: &str = survey!(ids);

pub(crate) const STATS: &str = "
    SELECT state, objects, payload_bytes,
           (SELECT created_at FROM object WHERE state IN (0, 2) ORDER BY created_at LIMIT 1) AS oldest
    FROM counter";

pub(crate) async fn is_waiting(
    connection: &mut PgConnection,
    pipeline_id: &PipelineId,
    device: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(IS_WAITING)
        .bind(text(pipeline_id.as_str()))
        .bind(text(device))
        .fetch_one(connection)
        .await
}

/// Reads objects by their places, in order. One that has left is left out.
pub(crate) async fn read(
    connection: &mut PgConnection,
    service_key: &ServiceKey,
    places: &[i64],
) -> Result<Vec<ReadRow>, sqlx::Error> {
    let rows = sqlx::query(row::SELECT)
        .bind(places)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|found| row::read(Columns::of(found), service_key))
        .collect()
}

/// The places of a listed page, and where the next one begins.
pub(crate) async fn list(
    connection: &mut PgConnection,
    request: &ListRequest,
) -> Result<(Vec<i64>, Option<i64>), sqlx::Error> {
    let limit = request.limit.max(1);
    let statement = match request.filter.ids.is_empty() {
        true => LIST,
        false => LIST_IDS,
    };
    let found: Vec<(i64, i64)> = filter::bind(sqlx::query_as(statement), &request.filter)
        .bind(column_of_states(&request.states))
        .bind(request.after_seq)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1)
        .fetch_all(connection)
        .await?;
    let mut bytes = 0_usize;
    let mut page = Vec::new();
    for (seq, payload_bytes) in found {
        if page.len() >= limit || bytes >= ListRequest::MAX_BYTES {
            let next = page.last().copied();
            return Ok((page, next));
        }
        bytes = bytes.saturating_add(usize::try_from(payload_bytes).unwrap_or(0));
        page.push(seq);
    }
    Ok((page, None))
}

/// One group as the statement answers it.
type SurveyRow = (String, Option<String>, i64, i64, i64, i64);

/// The error collection by pipeline and reason.
pub(crate) async fn survey(
    connection: &mut PgConnection,
    filter: &ObjectFilter,
) -> Result<Vec<ErrorGroup>, sqlx::Error> {
    let statement = match filter.ids.is_empty() {
        true => SURVEY,
        false => SURVEY_IDS,
    };
    let rows: Vec<SurveyRow> = filter::bind(sqlx::query_as(statement), filter)
        .fetch_all(connection)
        .await?;
    let mut groups: BTreeMap<_, ErrorGroup> = BTreeMap::new();
    for (pipeline_id, reason, objects, payload_bytes, first, last) in rows {
        // As a damaged row is read.
        let pipeline_id =
            PipelineId::try_new(&pipeline_id).unwrap_or_else(|_| PipelineId::default_pipeline());
        let reason = reason.map(|name| ErrorReason::from_name(&name).unwrap_or(ErrorReason::Corrupt));
        let found = ErrorGroup {
            pipeline_id: pipeline_id.clone(),
            reason,
            count: count(objects, payload_bytes),
            ended: (
                Timestamp::from_unix_millis(first),
                Timestamp::from_unix_millis(last),
            ),
        };
        groups
            .entry((pipeline_id, reason))
            .and_modify(|group| {
                group.count.objects += found.count.objects;
                group.count.payload_bytes += found.count.payload_bytes;
                group.ended = (group.ended.0.min(found.ended.0), group.ended.1.max(found.ended.1));
            })
            .or_insert(found);
    }
    Ok(groups.into_values().collect())
}

fn count(objects: i64, payload_bytes: i64) -> StateCount {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    StateCount {
        objects: unsigned(objects),
        payload_bytes: unsigned(payload_bytes),
    }
}

/// By the code of each state: what its counter says, and how many there are. One statement, so both are of one moment.
pub(crate) const RECOUNT: &str = "
    SELECT state::bigint, sum(said)::bigint, sum(found)::bigint
    FROM (SELECT state, objects AS said, 0 AS found FROM counter
          UNION ALL
          SELECT state, 0, count(*) FROM object GROUP BY state) AS count
    GROUP BY state";

/// What the counters say, and what there is.
pub(crate) async fn recount(connection: &mut PgConnection) -> Result<BTreeMap<i64, (u64, u64)>, sqlx::Error> {
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(RECOUNT).fetch_all(connection).await?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let counts = rows.into_iter();
    Ok(counts
        .map(|(state, said, found)| (state, (unsigned(said), unsigned(found))))
        .collect())
}

/// What the counters say.
pub(crate) async fn stats(connection: &mut PgConnection) -> Result<StoreStats, sqlx::Error> {
    let rows: Vec<(i16, i64, i64, Option<i64>)> = sqlx::query_as(STATS).fetch_all(connection).await?;
    let mut stats = StoreStats::default();
    for (state, objects, payload_bytes, oldest) in rows {
        stats.oldest_waiting = oldest.map(Timestamp::from_unix_millis);
        let of_state = match ObjectState::from_code(state.into()) {
            Ok(ObjectState::New) => &mut stats.new,
            Ok(ObjectState::Success) => &mut stats.success,
            Ok(ObjectState::Failed) => &mut stats.failed,
            Ok(ObjectState::Error) => &mut stats.error,
            Ok(ObjectState::Batched) => &mut stats.batched,
            // The table takes no other.
            Err(_) => continue,
        };
        *of_state = count(objects, payload_bytes);
    }
    Ok(stats)
}
