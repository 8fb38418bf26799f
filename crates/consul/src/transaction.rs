//! The operations of `PUT /v1/txn` and its answer.
//!
//! Keys travel in JSON here, so that any key Consul can hold works: in a URL path `//`, `..` and unprintable characters
//! do not. Source: <https://developer.hashicorp.com/consul/api-docs/txn>.

use serde::Deserialize;
use serde_json::json;

/// One operation, already as the JSON text that is sent, so that a batch knows its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation(String);

impl Operation {
    /// Reads every key that begins with `prefix`. Keys this token may not read are left out without a word.
    pub(crate) fn get_tree(prefix: &str) -> Self {
        Self(json!({"KV": {"Verb": "get-tree", "Key": prefix}}).to_string())
    }

    /// Writes `key`.
    pub(crate) fn set(key: &str, value: &str) -> Self {
        Self(json!({"KV": {"Verb": "set", "Key": key, "Value": base64(value)}}).to_string())
    }

    /// Writes `key`, which must not exist yet: check-and-set against index 0.
    pub(crate) fn create(key: &str, value: &str) -> Self {
        Self(json!({"KV": {"Verb": "cas", "Key": key, "Value": base64(value), "Index": 0}}).to_string())
    }

    /// Writes `key`, which must not have changed since `index`.
    pub(crate) fn replace(key: &str, value: &str, index: u64) -> Self {
        Self(json!({"KV": {"Verb": "cas", "Key": key, "Value": base64(value), "Index": index}}).to_string())
    }

    /// Removes `key`, if it is there.
    pub(crate) fn delete(key: &str) -> Self {
        Self(json!({"KV": {"Verb": "delete", "Key": key}}).to_string())
    }

    /// Removes `key`, which must not have changed since `index`.
    pub(crate) fn delete_unchanged(key: &str, index: u64) -> Self {
        Self(json!({"KV": {"Verb": "delete-cas", "Key": key, "Index": index}}).to_string())
    }

    /// How many bytes it takes in the request.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The body of a request with these operations.
pub(crate) fn body<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> String {
    let operations: Vec<&str> = operations
        .into_iter()
        .map(|operation| operation.0.as_str())
        .collect();
    format!("[{}]", operations.join(","))
}

/// What became of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All operations took place. The keys read, in order; for writes without their values.
    Done(Vec<KeyValue>),
    /// None took place, because of at least one of them. The reasons, for a message.
    Refused(String),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyValue {
    /// The full key.
    pub(crate) key: String,
    /// The value; Consul gives `null` for an empty one.
    pub(crate) value: Vec<u8>,
    /// When it was last changed, for check-and-set.
    pub(crate) modify_index: u64,
}

/// Understands the answer to a transaction: status 200 or 409 and this body.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(body: &[u8]) -> Result<Outcome, String> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|error| format!("not a transaction's answer: {error}"))?;
    let errors = answer.errors.unwrap_or_default();
    if !errors.is_empty() {
        let mut reasons: Vec<String> = errors.into_iter().map(|error| error.what).collect();
        reasons.dedup();
        return Ok(Outcome::Refused(reasons.join("; ")));
    }
    let results = answer.results.unwrap_or_default();
    results
        .into_iter()
        .filter_map(|result| result.kv)
        .map(Entry::decode)
        .collect::<Result<_, _>>()
        .map(Outcome::Done)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    results: Option<Vec<OperationResult>>,
    errors: Option<Vec<OperationError>>,
}

#[derive(Deserialize)]
struct OperationResult {
    #[serde(rename = "KV")]
    kv: Option<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OperationError {
    what: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    value: Option<String>,
    #[serde(default)]
    modify_index: u64,
}

impl Entry {
    fn decode(self) -> Result<KeyValue, String> {
        let text = self.value.unwrap_or_default();
        let value = base64_simd::STANDARD
            .decode_to_vec(text)
            .map_err(|_| format!("the value of {} is not base64", self.key))?;
        Ok(KeyValue {
            key: self.key,
            value,
            modify_index: self.modify_index,
        })
    }
}

fn base64(text: &str) -> String {
    base64_simd::STANDARD.encode_to_string(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_sent_as_consul_reads_them() {
        let operations = [
            Operation::get_tree("a/"),
            Operation::create("a/ü \"%\"", "x"),
            Operation::set("b", ""),
        ];
        let body = body(&operations);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap(),
            json!([
                {"KV": {"Verb": "get-tree", "Key": "a/"}},
                {"KV": {"Verb": "cas", "Key": "a/ü \"%\"", "Value": "eA==", "Index": 0}},
                {"KV": {"Verb": "set", "Key": "b", "Value": ""}},
            ])
        );
        let commas_and_brackets = operations.len() + 1;
        assert_eq!(
            body.len(),
            operations.iter().map(Operation::len).sum::<usize>() + commas_and_brackets
        );
    }

    #[test]
    fn a_null_value_is_an_empty_one() {
        let body = br#"{"Results":[{"KV":{"LockIndex":0,"Key":"a","Flags":0,"Value":null,"CreateIndex":1,"ModifyIndex":1}},
            {"KV":{"Key":"b","Value":"eA=="}}],"Errors":null}"#;
        let entry = |key: &str, value: &[u8], modify_index| KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
            modify_index,
        };
        assert_eq!(
            parse(body).unwrap(),
            Outcome::Done(vec![entry("a", b"", 1), entry("b", b"x", 0)])
        );
    }

    #[test]
    fn errors_are_a_refusal_with_their_reasons() {
        let body = br#"{"Results":null,"Errors":[{"OpIndex":0,"What":"Permission denied"},
            {"OpIndex":1,"What":"Permission denied"},{"OpIndex":2,"What":"index is stale"}],"Index":0}"#;
        assert_eq!(
            parse(body).unwrap(),
            Outcome::Refused("Permission denied; index is stale".to_owned())
        );
    }

    #[test]
    fn other_bodies_are_refused_by_name() {
        assert!(
            parse(b"<html>")
                .unwrap_err()
                .starts_with("not a transaction's answer: ")
        );
        let broken = br#"{"Results":[{"KV":{"Key":"a/b","Value":"*"}}]}"#;
        assert_eq!(parse(broken).unwrap_err(), "the value of a/b is not base64");
    }
}
