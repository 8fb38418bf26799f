//! Which objects are handed out, as the file knows it: what a start finds there was in flight at a crash.
//!
//! Places that are neighbours share a row: a page of a claim is written in one or two of them, where a row for each object
//! would cost as much as appending it. An object that leaves takes its place out of what a start counts, so its row stays
//! as it is; the rows of which all have left are removed some at a time. The writer has all of it in memory, so that a row
//! is only ever written.

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

/// So many rows of nothing but objects that have left are removed together.
const FORGOTTEN_TOGETHER: usize = 16;

/// What becomes of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Its object is handed out.
    Begun,
    /// It is not any more.
    Ended,
    /// It leaves in this transaction. A start does not count what has left, so nothing needs to be written for it.
    Left,
}

/// What is handed out of the places of a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    places: BTreeSet<i64>,
    /// The file has a row.
    is_there: bool,
}

/// Rows, by what their places have in common.
pub(crate) type Rows = HashMap<i64, Row>;

/// The rows of this process as they are in the file, but for objects that have left.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    rows: Rows,
}

impl InFlight {
    /// Writes what becomes of places, in this order; answers the rows that are different then. Once that is committed,
    /// [`InFlight::is_now`].
    pub(crate) fn write(
        &self,
        script: &mut Script,
        service_key: &ServiceKey,
        places: impl IntoIterator<Item = (i64, Turn)>,
    ) -> Rows {
        let mut rows = Rows::new();
        // What the file would say wrongly.
        let mut wrong = BTreeSet::new();
        for (seq, turn) in places {
            let neighbours = seq.div_euclid(NEIGHBOURS);
            let as_it_is = || self.rows.get(&neighbours).cloned().unwrap_or_default();
            let row = rows.entry(neighbours).or_insert_with(as_it_is);
            let is_different = match turn {
                Turn::Begun => row.places.insert(seq),
                Turn::Ended | Turn::Left => row.places.remove(&seq),
            };
            if is_different && turn != Turn::Left {
                wrong.insert(neighbours);
            }
        }
        let mut add = |statement, rows: String| {
            script.add(statement).with(service_key.as_str()).with(rows);
        };
        let (empty, noted): (Vec<_>, Vec<_>) =
            (wrong.into_iter()).partition(|neighbours| rows[neighbours].places.is_empty());
        if !noted.is_empty() {
            let row = |neighbours| (neighbours, &rows[neighbours].places);
            add(NOTE, json(&noted.iter().map(row).collect::<Vec<_>>()));
        }
        // A row that says too much goes now, and with it those of which all have left.
        let must_forget = empty.iter().any(|neighbours| rows[neighbours].is_there);
        for neighbours in noted {
            rows.entry(neighbours).or_default().is_there = true;
        }
        let others = self
            .rows
            .iter()
            .filter(|(neighbours, _)| !rows.contains_key(neighbours));
        let empty = others
            .chain(&rows)
            .filter(|(_, row)| row.is_there && row.places.is_empty());
        let empty: Vec<_> = empty.map(|(neighbours, _)| *neighbours).collect();
        if must_forget || empty.len() >= FORGOTTEN_TOGETHER {
            add(FORGET, json(&empty));
            rows.extend(empty.into_iter().map(|neighbours| (neighbours, Row::default())));
        }
        rows
    }

    /// These rows have been committed.
    pub(crate) fn is_now(&mut self, rows: Rows) {
        self.rows.extend(rows);
        self.rows.retain(|_, row| row.is_there);
    }
}

fn json(rows: &impl Serialize) -> String {
    serde_json::to_string(rows).expect("numbers are always JSON")
}
