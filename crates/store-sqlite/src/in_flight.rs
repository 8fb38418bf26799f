//! Which objects are handed out, as the file knows it: what a start finds there was in flight at a crash.
//!
//! Places that are neighbours share a row: a page of a claim is written in one or two of them, and they leave with its
//! last verdict, where a row for each object would cost as much as appending it. The writer has all of it in memory, so
//! that a row is only ever written.

use std::collections::{BTreeSet, HashMap};

use edgehold_core::ServiceKey;
use serde::Serialize;
use sqlx::SqliteConnection;

/// So many places share a row. The migrations know it.
const NEIGHBOURS: i64 = 256;

pub(crate) const NOTE: &str = "
    INSERT INTO in_flight (owner, neighbours, places)
    SELECT ?1, value ->> 0, value -> 1 FROM json_each(?2) WHERE TRUE
    ON CONFLICT DO UPDATE SET places = excluded.places";

pub(crate) const FORGET: &str = "
    DELETE FROM in_flight WHERE owner = ?1 AND neighbours IN (SELECT value FROM json_each(?2))";

/// Rows, by what their places have in common.
pub(crate) type Rows = HashMap<i64, BTreeSet<i64>>;

/// The rows of this process as they are in the file.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    rows: Rows,
}

impl InFlight {
    /// Writes that these are handed out and those are not any more; answers the rows that are different then. Once that
    /// is committed, [`InFlight::is_now`].
    pub(crate) async fn write(
        &self,
        connection: &mut SqliteConnection,
        service_key: &ServiceKey,
        begun: &[i64],
        ended: &[i64],
    ) -> Result<Rows, sqlx::Error> {
        let mut rows = Rows::new();
        for seq in begun {
            self.row_in(&mut rows, *seq).insert(*seq);
        }
        for seq in ended {
            self.row_in(&mut rows, *seq).remove(seq);
        }
        rows.retain(|neighbours, places| match self.rows.get(neighbours) {
            Some(was) => was != places,
            None => !places.is_empty(),
        });
        let (noted, empty): (Vec<_>, Vec<_>) = rows.iter().partition(|(_, places)| !places.is_empty());
        if !noted.is_empty() {
            run(connection, NOTE, service_key, &noted).await?;
        }
        if !empty.is_empty() {
            let empty: Vec<_> = empty.iter().map(|(neighbours, _)| neighbours).collect();
            run(connection, FORGET, service_key, &empty).await?;
        }
        Ok(rows)
    }

    /// The row of a place among rows that are to be different, where it begins as it is.
    fn row_in<'r>(&self, rows: &'r mut Rows, seq: i64) -> &'r mut BTreeSet<i64> {
        let neighbours = seq.div_euclid(NEIGHBOURS);
        let as_it_is = || self.rows.get(&neighbours).cloned().unwrap_or_default();
        rows.entry(neighbours).or_insert_with(as_it_is)
    }

    /// These rows have been committed.
    pub(crate) fn is_now(&mut self, rows: Rows) {
        self.rows.extend(rows);
        self.rows.retain(|_, places| !places.is_empty());
    }
}

async fn run(
    connection: &mut SqliteConnection,
    statement: &'static str,
    service_key: &ServiceKey,
    rows: &impl Serialize,
) -> Result<(), sqlx::Error> {
    let rows = serde_json::to_string(rows).expect("numbers are always JSON");
    sqlx::query(statement)
        .bind(service_key.as_str())
        .bind(rows)
        .execute(connection)
        .await
        .map(drop)
}
