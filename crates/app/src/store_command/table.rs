//! Stored objects as a table for people: a line each, columns aligned.
//!
//! Columns are as wide as what has been written so far, so that a table of any length is written page by page.

use std::io::{self, Write};

use edgehold::{StoredObject, Timestamp};

use super::text;
use crate::command::Collection;

/// Characters of a name, an error and a payload that are shown.
const NAME_WIDTH: usize = 40;
const ERROR_WIDTH: usize = 48;
const PAYLOAD_WIDTH: usize = 48;

/// A column: its title, whether it holds numbers (aligned to the right), and what it shows of an object at a moment.
struct Column {
    title: &'static str,
    number: bool,
    value: fn(&StoredObject, Timestamp) -> String,
}

const fn words(title: &'static str, value: fn(&StoredObject, Timestamp) -> String) -> Column {
    Column {
        title,
        number: false,
        value,
    }
}

const fn numbers(title: &'static str, value: fn(&StoredObject, Timestamp) -> String) -> Column {
    Column {
        title,
        number: true,
        value,
    }
}

const SEQ: Column = numbers("SEQ", |object, _| object.seq.to_string());
const ID: Column = words("ID", |object, _| object.id.to_string());
const PIPELINE: Column = words("PIPELINE", |object, _| {
    text::cell(object.pipeline_id.as_str(), NAME_WIDTH)
});
const STATE: Column = words("STATE", |object, _| object.state.as_str().to_owned());
const REASON: Column = words("REASON", |object, _| {
    object
        .reason
        .map_or("-", edgehold::ErrorReason::as_str)
        .to_owned()
});
const AGE: Column = numbers("AGE", |object, now| {
    text::age(now.saturating_since(object.created_at))
});
const TRIED: Column = numbers("TRIED", |object, now| {
    object
        .last_attempt_at
        .map_or_else(|| "-".to_owned(), |at| text::age(now.saturating_since(at)))
});
const ATTEMPTS: Column = numbers("ATTEMPTS", |object, _| object.attempts.to_string());
const SIZE: Column = numbers("SIZE", |object, _| text::size(object.payload.len()));
const LAST_ERROR: Column = words("LAST ERROR", |object, _| {
    text::cell_end(object.last_error.as_deref().unwrap_or("-"), ERROR_WIDTH)
});
const PAYLOAD: Column = words("PAYLOAD", |object, _| {
    text::preview(&object.payload, PAYLOAD_WIDTH)
});

const WAITING: &[Column] = &[
    SEQ, ID, PIPELINE, STATE, AGE, TRIED, ATTEMPTS, SIZE, LAST_ERROR, PAYLOAD,
];
const DEAD: &[Column] = &[
    SEQ, ID, PIPELINE, REASON, AGE, TRIED, ATTEMPTS, SIZE, LAST_ERROR, PAYLOAD,
];

/// A table that grows at its end.
pub(super) struct Table {
    columns: &'static [Column],
    widths: Vec<usize>,
    begun: bool,
}

impl Table {
    pub(super) fn new(collection: Collection) -> Self {
        let columns = match collection {
            Collection::Waiting => WAITING,
            Collection::Dead => DEAD,
        };
        Self {
            columns,
            widths: columns.iter().map(|column| column.title.len()).collect(),
            begun: false,
        }
    }

    /// Writes these objects, after the titles if there are any objects at all.
    pub(super) fn write(
        &mut self,
        objects: &[StoredObject],
        now: Timestamp,
        out: &mut impl Write,
    ) -> io::Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let lines: Vec<Vec<String>> = objects
            .iter()
            .map(|object| {
                self.columns
                    .iter()
                    .map(|column| (column.value)(object, now))
                    .collect()
            })
            .collect();
        for line in &lines {
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if !self.begun {
            self.begun = true;
            let titles: Vec<String> = self
                .columns
                .iter()
                .map(|column| column.title.to_owned())
                .collect();
            self.write_line(&titles, out)?;
        }
        lines.iter().try_for_each(|line| self.write_line(line, out))
    }

    fn write_line(&self, cells: &[String], out: &mut impl Write) -> io::Result<()> {
        let mut text = String::new();
        for ((column, cell), width) in self.columns.iter().zip(cells).zip(&self.widths) {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            if !text.is_empty() {
                text += "  ";
            }
            if column.number {
                text += &padding;
            }
            text += cell;
            if !column.number {
                text += &padding;
            }
        }
        writeln!(out, "{}", text.trim_end())
    }
}
