//! Bodies of REST answers. `apiVersion` is `"v3"` in both generations.

use serde::{Deserialize, Serialize};

use crate::generation::API_VERSION;
use crate::json;

/// What every EdgeX answer holds: `{apiVersion, requestId?, message?, statusCode}`. Go: `common.BaseResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BaseResponse {
    /// `apiVersion`.
    pub api_version: String,
    /// `requestId` of the request, omitted when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// `message`, omitted when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `statusCode`: the HTTP status again.
    pub status_code: u16,
}

/// An answer that tells an error; the same shape with a message.
pub type ErrorResponse = BaseResponse;

/// Answer to `GET /api/v3/ping`. Go: `common.PingResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PingResponse {
    /// `apiVersion`.
    pub api_version: String,
    /// `timestamp`: the time of the answer as Go's `UnixDate` (`Sun Nov 22 15:34:09 UTC 2026`).
    pub timestamp: String,
    /// `serviceName`: the service key.
    pub service_name: String,
}

/// Answer to `GET /api/v3/version` of an app service. Go: `common.VersionSdkResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionResponse {
    /// `apiVersion`.
    pub api_version: String,
    /// `version` of the service.
    pub version: String,
    /// `serviceName`: the service key.
    pub service_name: String,
    /// `sdk_version`: the one key that is not in camel case.
    #[serde(rename = "sdk_version")]
    pub sdk_version: String,
}

impl BaseResponse {
    /// An answer; an empty `request_id` or `message` is left out.
    pub fn new(request_id: impl Into<String>, message: impl Into<String>, status_code: u16) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            request_id: request_id.into(),
            message: message.into(),
            status_code,
        }
    }

    /// The body.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_vec(self).expect(PLAIN)
    }
}

impl PingResponse {
    /// An answer; `timestamp` as Go's `UnixDate`.
    pub fn new(timestamp: impl Into<String>, service_name: impl Into<String>) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            timestamp: timestamp.into(),
            service_name: service_name.into(),
        }
    }

    /// The body.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_vec(self).expect(PLAIN)
    }
}

impl VersionResponse {
    /// An answer.
    pub fn new(
        version: impl Into<String>,
        service_name: impl Into<String>,
        sdk_version: impl Into<String>,
    ) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            version: version.into(),
            service_name: service_name.into(),
            sdk_version: sdk_version.into(),
        }
    }

    /// The body.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_vec(self).expect(PLAIN)
    }
}

const PLAIN: &str = "answers are text and integers, which all have a JSON form";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_those_of_the_original() {
        assert_eq!(
            BaseResponse::new("", "JSON decode failed", 400).to_json(),
            br#"{"apiVersion":"v3","message":"JSON decode failed","statusCode":400}"#
        );
        assert_eq!(
            BaseResponse::new("e6e8a2f4", "adding secret failed -> can't", 405).to_json(),
            br#"{"apiVersion":"v3","requestId":"e6e8a2f4","message":"adding secret failed -\u003e can't","statusCode":405}"#
        );
        assert_eq!(
            PingResponse::new("Sun Nov 22 15:34:09 UTC 2026", "app-rest").to_json(),
            br#"{"apiVersion":"v3","timestamp":"Sun Nov 22 15:34:09 UTC 2026","serviceName":"app-rest"}"#
        );
        assert_eq!(
            VersionResponse::new("3.1.1", "app-rest", "v3.1.1").to_json(),
            br#"{"apiVersion":"v3","version":"3.1.1","serviceName":"app-rest","sdk_version":"v3.1.1"}"#
        );
    }
}
