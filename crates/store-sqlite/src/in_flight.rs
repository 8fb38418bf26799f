//! Which objects are handed out, as the file knows it: what a start finds there was in flight at a crash.
//!
//! Places that are neighbours share a row: a page of a claim is written in one or two of them, and they leave with its
//! last verdict, where a row for each object would cost as much as appending it. The writer has all of it in memory, so
//! that a row is only ever written.

use std::collections::{BTreeSet, HashMap};

use edgehold_core::ServiceKey;
use serde::Serialize;

use crate::writer::script::Script;

/// So many places share a row. The migrations know it.
const NEIGHBOURS: i64 = 256;

pub(crate) const NOTE: &str = "
    INSERT INTO in_flight (owner, neighbours, places)
    SELECT ?, value ->> 0, value -> 1 FROM json_each(?) WHERE TRUE
    ON CONFLICT DO UPDATE SET places = excluded.places";

pub(crate) const FORGET: &str = "
    DELETE FROM in_flight WHERE owner = ? AND neighbours IN (SELECT value FROM json_each(?))";

/// Rows, by what their places have in common.
pub(crate) type Rows = HashMap<i64, BTreeSet<i64>>;

/// The rows of this process as they are in the file.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    rows: Rows,
}

impl InFlight {
    /// Writes of places, in this order, whether they are handed out; answers the rows that are different then. Once that
    /// is committed, [`InFlight::is_now`].
    pub(crate) fn write(
        &self,
        script: &mut Script,
        service_key: &ServiceKey,
        places: impl IntoIterator<Item = (i64, bool)>,
    ) -> Rows {
        let mut rows = Rows::new();
        for (seq, handed_out) in places {
            let row = self.row_in(&mut rows, seq);
            if handed_out {
                row.insert(seq);
            } else {
                row.remove(&seq);
            }
        }
        rows.retain(|neighbours, places| match self.rows.get(neighbours) {
            Some(was) => was != places,
            None => !places.is_empty(),
        });
        let (noted, empty): (Vec<_>, Vec<_>) = rows.iter().partition(|(_, places)| !places.is_empty());
        let mut add = |statement, rows: String| {
            script.add(statement).with(service_key.as_str()).with(rows);
        };
        if !noted.is_empty() {
            add(NOTE, json(&noted));
        }
        if !empty.is_empty() {
            let empty: Vec<_> = empty.iter().map(|(neighbours, _)| neighbours).collect();
            add(FORGET, json(&empty));
        }
        rows
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

fn json(rows: &impl Serialize) -> String {
    serde_json::to_string(rows).expect("numbers are always JSON")
}
