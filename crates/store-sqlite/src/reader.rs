//! Looking: which objects a page has, when a lane has something to do, how many objects there are.
//!
//! Every statement goes through an index, named so that no plan depends on statistics; a test asks SQLite for its
//! plans. Owns what is read; what a claim chooses is in [`claim`], when lanes are due in [`lanes`].

pub(crate) mod claim;
pub(crate) mod lanes;

use std::{collections::BTreeMap, time::Duration};

use edgehold_core::{ErrorReason, ObjectState, PipelineId, ServiceKey, Timestamp};
use edgehold_store::{ErrorGroup, ListRequest, ObjectFilter, StateCount, StoreStats, semantics};
use futures_util::TryStreamExt;
use sqlx::{
    Row, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::{
    filter::{self, filtered},
    row::{self, ReadRow},
};

/// Objects are read together as long as their payloads have no more bytes than this.
const READ_BYTES: usize = 128 << 10;

/// What a [`Candidate`] is made of.
macro_rules! candidate {
    ($($rest:literal),*) => {
        concat!("SELECT seq, payload_bytes, last_attempt_at, not_before FROM object ", $($rest),*)
    };
}

use candidate;

pub(crate) const IS_WAITING: &str = "
    SELECT EXISTS (
        SELECT 1 FROM object INDEXED BY object_device
        WHERE app_service_key = ?1 AND pipeline_id = ?2 AND device = ?3 AND state IN (0, 2))";

pub(crate) const LIST: &str = concat!(
    "SELECT seq, payload_bytes",
    filtered!(queue),
    " ORDER BY seq LIMIT ?11"
);
pub(crate) const LIST_IDS: &str = concat!(
    "SELECT seq, payload_bytes",
    filtered!(ids),
    " ORDER BY seq LIMIT ?11"
);

/// Columns as bytes: what is damaged need not be a text, and is counted all the same.
pub(crate) const SURVEY: &str = concat!(
    "SELECT CAST(pipeline_id AS BLOB), CAST(reason AS BLOB), count(*),
            sum(min(max(payload_bytes, 0), 1000000000)),
            min(ifnull(ended_at, created_at)), max(ifnull(ended_at, created_at))",
    filtered!(queue),
    " GROUP BY pipeline_id, reason"
);
pub(crate) const SURVEY_IDS: &str = concat!(
    "SELECT CAST(pipeline_id AS BLOB), CAST(reason AS BLOB), count(*),
            sum(min(max(payload_bytes, 0), 1000000000)),
            min(ifnull(ended_at, created_at)), max(ifnull(ended_at, created_at))",
    filtered!(ids),
    " GROUP BY pipeline_id, reason"
);

pub(crate) const STATS: &str = "
    SELECT object_state AS state, objects, payload_bytes,
           (SELECT created_at FROM object INDEXED BY object_oldest
            WHERE app_service_key = ?1 AND state IN (0, 2) ORDER BY created_at LIMIT 1) AS oldest
    FROM counter WHERE owner = ?1";

/// What is known of an object before it is read.
struct Candidate {
    place: Place,
    last_attempt_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
}

impl Candidate {
    fn of(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let time = |column| {
            Ok::<_, sqlx::Error>(
                row.try_get::<Option<i64>, _>(column)?
                    .map(Timestamp::from_unix_millis),
            )
        };
        Ok(Self {
            place: Place::new(row.try_get("seq")?, row.try_get("payload_bytes")?),
            last_attempt_at: time("last_attempt_at")?,
            not_before: time("not_before")?,
        })
    }

    fn due_at(&self, interval: Duration, now: Timestamp) -> Timestamp {
        semantics::due_at(self.last_attempt_at, self.not_before, interval, now)
    }
}

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

fn places_json(places: &[i64]) -> String {
    serde_json::to_string(places).expect("numbers are always JSON")
}

pub(crate) async fn is_waiting(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    pipeline_id: &PipelineId,
    device: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(IS_WAITING)
        .bind(service_key.as_str())
        .bind(pipeline_id.as_str())
        .bind(device)
        .fetch_one(connection)
        .await
}

/// Where an object is, and how large its payload is said to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) seq: i64,
    pub(crate) bytes: usize,
}

impl Place {
    /// With the column `payload_bytes`, which may be damaged.
    fn new(seq: i64, payload_bytes: i64) -> Self {
        let bytes = usize::try_from(payload_bytes).unwrap_or(0);
        Self { seq, bytes }
    }
}

/// Reads objects by their places, in order. One that has left is left out.
pub(crate) async fn read(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    places: &[Place],
) -> Result<Vec<ReadRow>, sqlx::Error> {
    let mut objects = Vec::with_capacity(places.len());
    let mut rest = places;
    while !rest.is_empty() {
        let mut bytes = 0_usize;
        let fits = |place: &&Place| {
            bytes = bytes.saturating_add(place.bytes);
            bytes <= READ_BYTES
        };
        let (part, behind) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        let seqs = places_json(&part.iter().map(|place| place.seq).collect::<Vec<_>>());
        let query = |statement| {
            sqlx::query(statement)
                .bind(seqs.as_str())
                .bind(service_key.as_str())
        };
        let page = query(row::SELECT_PAGE).fetch_one(&mut *connection).await?;
        match row::read_page(&page, service_key)? {
            Some(read) => objects.extend(read),
            None => {
                let mut rows = query(row::SELECT).fetch(&mut *connection);
                while let Some(row) = rows.try_next().await? {
                    objects.push(row::read(&row, service_key)?);
                }
            }
        }
        rest = behind;
    }
    objects.sort_by_key(|read| read.object.seq);
    Ok(objects)
}

/// The places of a listed page, and where the next one begins.
pub(crate) async fn list(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    request: &ListRequest,
) -> Result<(Vec<Place>, Option<i64>), sqlx::Error> {
    let limit = request.limit.max(1);
    let mut found: Vec<(i64, i64)> = Vec::new();
    let mut states = request.states.clone();
    states.sort_unstable();
    states.dedup();
    for state in states {
        let statement = if request.filter.ids.is_empty() {
            LIST
        } else {
            LIST_IDS
        };
        let query = sqlx::query(statement)
            .bind(service_key.as_str())
            .bind(state.code())
            .bind(request.after_seq);
        let rows = filter::bind(query, &request.filter)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1)
            .fetch_all(&mut *connection)
            .await?;
        for row in rows {
            found.push((row.try_get(0)?, row.try_get(1)?));
        }
    }
    found.sort_unstable();
    let mut total = 0_usize;
    let mut page: Vec<Place> = Vec::new();
    for (seq, payload_bytes) in found {
        if page.len() >= limit || total >= ListRequest::MAX_BYTES {
            let next = page.last().map(|place| place.seq);
            return Ok((page, next));
        }
        let place = Place::new(seq, payload_bytes);
        total = total.saturating_add(place.bytes);
        page.push(place);
    }
    Ok((page, None))
}

/// The error collection by pipeline and reason.
pub(crate) async fn survey(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
    filter: &ObjectFilter,
) -> Result<Vec<ErrorGroup>, sqlx::Error> {
    let statement = if filter.ids.is_empty() { SURVEY } else { SURVEY_IDS };
    let query = sqlx::query(statement)
        .bind(service_key.as_str())
        .bind(ObjectState::Error.code())
        .bind(i64::MIN);
    let mut groups: BTreeMap<_, ErrorGroup> = BTreeMap::new();
    for row in filter::bind(query, filter).fetch_all(connection).await? {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let pipeline_id = PipelineId::try_new(&text(row.try_get(0)?));
        // As a damaged row is read.
        let pipeline_id = pipeline_id.unwrap_or_else(|_| PipelineId::default_pipeline());
        let reason = row
            .try_get::<Option<Vec<u8>>, _>(1)?
            .map(|name| ErrorReason::from_name(&text(name)).unwrap_or(ErrorReason::Corrupt));
        let time = |column| row.try_get(column).map(Timestamp::from_unix_millis);
        let found = ErrorGroup {
            pipeline_id: pipeline_id.clone(),
            reason,
            count: StateCount {
                objects: unsigned(row.try_get(2)?),
                payload_bytes: unsigned(row.try_get(3)?),
            },
            ended: (time(4)?, time(5)?),
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

/// By the code of each state: what its counter says, and how many there are. One statement, so both are of one moment.
pub(crate) const RECOUNT: &str = "
    SELECT state, sum(said), sum(found)
    FROM (SELECT object_state AS state, objects AS said, 0 AS found FROM counter WHERE owner = ?1
          UNION ALL
          SELECT state, 0, count(*) FROM object INDEXED BY object_queue WHERE app_service_key = ?1 GROUP BY state)
    GROUP BY state";

/// What the counters say, and what there is.
pub(crate) async fn recount(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
) -> Result<BTreeMap<i64, (u64, u64)>, sqlx::Error> {
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(RECOUNT)
        .bind(service_key.as_str())
        .fetch_all(connection)
        .await?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let counts = rows.into_iter();
    Ok(counts
        .map(|(state, said, found)| (state, (unsigned(said), unsigned(found))))
        .collect())
}

/// What the counters say.
pub(crate) async fn stats(
    connection: &mut SqliteConnection,
    service_key: &ServiceKey,
) -> Result<StoreStats, sqlx::Error> {
    let rows: Vec<(i64, i64, i64, Option<i64>)> = sqlx::query_as(STATS)
        .bind(service_key.as_str())
        .fetch_all(connection)
        .await?;
    let mut stats = StoreStats::default();
    for (state, objects, payload_bytes, oldest) in rows {
        stats.oldest_waiting = oldest.map(Timestamp::from_unix_millis);
        let count = match ObjectState::from_code(state) {
            Ok(ObjectState::New) => &mut stats.new,
            Ok(ObjectState::Success) => &mut stats.success,
            Ok(ObjectState::Failed) => &mut stats.failed,
            Ok(ObjectState::Error) => &mut stats.error,
            Ok(ObjectState::Batched) => &mut stats.batched,
            // Set aside when the store is next opened for writing.
            Err(_) => continue,
        };
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        *count = StateCount {
            objects: unsigned(objects),
            payload_bytes: unsigned(payload_bytes),
        };
    }
    Ok(stats)
}
