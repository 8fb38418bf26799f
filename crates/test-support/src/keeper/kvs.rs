//! Keys and values: the statements of Core Keeper's database, one after the other.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Query, Reply, now_millis};

/// Every key, in the order in which they came.
#[derive(Default)]
pub(super) struct Kvs(Vec<Row>);

struct Row {
    key: String,
    value: String,
    created: u64,
    modified: u64,
}

impl Row {
    fn item(&self, plaintext: bool) -> Item<'_> {
        Item {
            key: &self.key,
            created: self.created,
            modified: self.modified,
            value: match plaintext {
                true => self.value.clone(),
                false => base64_simd::STANDARD.encode_to_string(&self.value),
            },
        }
    }
}

/// An item of an answer. The names are Core Keeper's.
#[derive(Serialize)]
struct Item<'a> {
    key: &'a str,
    #[serde(rename = "Created")]
    created: u64,
    #[serde(rename = "Modified")]
    modified: u64,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found<T> {
    api_version: &'static str,
    status_code: u16,
    response: Vec<T>,
}

fn found<T: Serialize>(response: Vec<T>) -> Reply {
    let found = Found {
        api_version: "v3",
        status_code: 200,
        response,
    };
    Reply::json(200, &found)
}

impl Kvs {
    pub(super) fn list(&self, key: &str) -> Vec<(String, String)> {
        let rows = self.0.iter().filter(|row| is_at_or_below(&row.key, key));
        rows.map(|row| (row.key.clone(), row.value.clone())).collect()
    }

    pub(super) fn get(&self, key: &str, query: &Query<'_>) -> Reply {
        let (key_only, plaintext) = match (query.flag("keyOnly"), query.flag("plaintext")) {
            (Ok(key_only), Ok(plaintext)) => (key_only, plaintext),
            (Err(refusal), _) | (_, Err(refusal)) => return refusal,
        };
        if let Some(refusal) = refused(key) {
            return refusal;
        }
        let rows: Vec<&Row> = self
            .0
            .iter()
            .filter(|row| is_at_or_below(&row.key, key))
            .collect();
        if rows.is_empty() {
            return Reply::error(404, &format!("no key starting with '{key}' found"));
        }
        if key_only {
            return found(rows.iter().map(|row| row.key.as_str()).collect());
        }
        found(rows.into_iter().map(|row| row.item(plaintext)).collect())
    }

    pub(super) fn put(&mut self, key: &str, query: &Query<'_>, body: &Bytes) -> Reply {
        let flatten = match query.flag("flatten") {
            Ok(flatten) => flatten,
            Err(refusal) => return refusal,
        };
        let body: Value = match serde_json::from_slice(body) {
            Ok(body) => body,
            Err(error) => return Reply::error(400, &format!("json decoding failed: {error}")),
        };
        let value = match body.get("value") {
            None | Some(Value::Null) => return Reply::error(400, "the value field is missing or null"),
            Some(Value::Object(map)) if map.is_empty() => {
                return Reply::error(400, "the value field is an empty object");
            }
            Some(value) => value,
        };
        // Only the key of the request is checked; what is flattened below it is not.
        if let Some(refusal) = refused(key) {
            return refusal;
        }
        let mut written = Vec::new();
        match flatten {
            true => self.flatten(key, value, &mut written),
            false => self.set(key.to_owned(), plain(value), &mut written),
        }
        found(written)
    }

    fn flatten(&mut self, key: &str, value: &Value, written: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
                for (name, value) in map.iter().filter(|(_, value)| !is_empty(value)) {
                    self.flatten(&joined(key, name), value, written);
                }
            }
            Value::Null => {}
            // A list is one value, and one that it cannot make a text of.
            Value::Array(_) => self.set(key.to_owned(), String::new(), written),
            value => self.set(key.to_owned(), plain(value), written),
        }
    }

    fn set(&mut self, key: String, value: String, written: &mut Vec<String>) {
        let now = now_millis();
        match self.0.iter_mut().find(|row| row.key == key) {
            Some(row) => (row.value, row.modified) = (value, now),
            None => self.0.push(Row {
                key: key.clone(),
                value,
                created: now,
                modified: now,
            }),
        }
        written.push(key);
    }

    pub(super) fn delete(&mut self, key: &str, query: &Query<'_>) -> Reply {
        let prefix_match = match query.flag("prefixMatch") {
            Ok(prefix_match) => prefix_match,
            Err(refusal) => return refusal,
        };
        if let Some(refusal) = refused(key) {
            return refusal;
        }
        let is_below = |row: &Row| row.key != key && is_at_or_below(&row.key, key);
        let has_children = self.0.iter().any(is_below);
        let mut gone = Vec::new();
        self.0.retain(|row| {
            // The key itself goes even where the answer is a conflict.
            let goes = row.key == key || (prefix_match && is_below(row));
            if goes {
                gone.push(row.key.clone());
            }
            !goes
        });
        if has_children && !prefix_match {
            return Reply::error(
                409,
                &format!("keys having the same prefix {key} exist and cannot be deleted"),
            );
        }
        if gone.is_empty() {
            return Reply::error(404, &format!("key '{key}' not found"));
        }
        found(gone)
    }
}

fn is_at_or_below(key: &str, of: &str) -> bool {
    key.strip_prefix(of)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn refused(key: &str) -> Option<Reply> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_~;=./".contains(c);
    let legal = !key.is_empty() && key.chars().all(is_legal);
    (!legal).then(|| {
        Reply::error(
            400,
            "key only allows characters between a to z, A to Z, 0 to 9, or one of -_ ~;=./",
        )
    })
}

/// A scalar as its text, anything else as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// As Go joins paths: without empty levels, `.` and `..`.
fn joined(key: &str, name: &str) -> String {
    let mut levels: Vec<&str> = Vec::new();
    for level in key.split('/').chain(name.split('/')) {
        match level {
            "" | "." => {}
            ".." => _ = levels.pop(),
            level => levels.push(level),
        }
    }
    levels.join("/")
}
