//! Bodies of REST requests.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

use crate::{event::is_uuid, json};

/// Body of `POST /api/v3/secret`: `{"apiVersion","requestId"?,"secretName","secretData":[{"key","value"}]}`.
/// Go: `common.SecretRequest`. `Debug` shows no value.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretRequest {
    /// `requestId`: a UUID, or empty.
    pub request_id: String,
    /// `secretName`, trimmed, never empty.
    pub secret_name: String,
    /// `secretData`: at least one entry, keys and values never empty. Of two with the same key the later one counts.
    pub secret_data: BTreeMap<String, String>,
}

/// A body that is no request of the kind it should be. The original says no more than this either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("JSON decode failed")]
pub struct InvalidRequest;

impl SecretRequest {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// [`InvalidRequest`] when it is not JSON of this shape, `apiVersion`, the name, a key or a value is missing or empty,
    /// there is no entry, or `requestId` is neither empty nor a UUID.
    pub fn from_json(body: &[u8]) -> Result<Self, InvalidRequest> {
        let raw: Raw = json::from_slice(body).map_err(|_| InvalidRequest)?;
        let secret_name = raw.secret_name.trim().to_owned();
        let entries_are_whole = raw
            .secret_data
            .iter()
            .all(|entry| !entry.key.is_empty() && !entry.value.is_empty());
        let is_valid = !raw.api_version.is_empty()
            && (raw.request_id.is_empty() || is_uuid(&raw.request_id))
            && !secret_name.is_empty()
            && !raw.secret_data.is_empty()
            && entries_are_whole;
        if !is_valid {
            return Err(InvalidRequest);
        }
        Ok(Self {
            request_id: raw.request_id,
            secret_name,
            secret_data: raw
                .secret_data
                .into_iter()
                .map(|entry| (entry.key, entry.value))
                .collect(),
        })
    }
}

impl fmt::Debug for SecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretRequest")
            .field("request_id", &self.request_id)
            .field("secret_name", &self.secret_name)
            .field("keys", &self.secret_data.keys())
            .finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    api_version: String,
    request_id: String,
    secret_name: String,
    secret_data: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    key: String,
    value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_and_does_not_show_itself() {
        let body = br#"{"apiVersion":"v3","secretName":" mqtt ","secretData":[{"key":"a","value":"hidden"},{"key":"b","value":"2"}]}"#;
        let request = SecretRequest::from_json(body).unwrap();
        assert_eq!(
            (request.request_id.as_str(), request.secret_name.as_str()),
            ("", "mqtt")
        );
        assert_eq!(request.secret_data["a"], "hidden");
        let shown = format!("{request:?}");
        assert!(shown.contains("mqtt") && !shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn what_is_incomplete_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"apiVersion":"","secretName":"a","secretData":[{"key":"a","value":"1"}]}"#,
            r#"{"apiVersion":"v3","secretName":" ","secretData":[{"key":"a","value":"1"}]}"#,
            r#"{"apiVersion":"v3","secretName":"a","secretData":[]}"#,
            r#"{"apiVersion":"v3","secretName":"a","secretData":null}"#,
            r#"{"apiVersion":"v3","secretName":"a","secretData":[{"key":"","value":"1"}]}"#,
            r#"{"apiVersion":"v3","secretName":"a","secretData":[{"key":"a","value":""}]}"#,
            r#"{"apiVersion":"v3","secretName":"a","secretData":[{"key":"a","value":1}]}"#,
            r#"{"apiVersion":"v3","requestId":"1","secretName":"a","secretData":[{"key":"a","value":"1"}]}"#,
            r#"{"apiVersion":"v3","secretName":"a","secretData":[{"key":"a","value":"1"}]} x"#,
        ] {
            assert_eq!(
                SecretRequest::from_json(body.as_bytes()),
                Err(InvalidRequest),
                "{body}"
            );
        }
    }
}
