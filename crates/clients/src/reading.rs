//! Readings that core-data keeps.

use edgehold_contracts::{ContentType, Event, Reading, json};
use edgehold_core::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::{http::CallError, service::Service};

/// Readings of core-data. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReadingClient {
    pub(crate) service: Service,
}

/// Which readings. Core-data answers the newest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadingQuery<'a> {
    /// Of this device; of all by default.
    pub device: Option<&'a str>,
    /// Of this resource; of all by default.
    pub resource: Option<&'a str>,
    /// Read between these two times, both included; at any time by default.
    pub between: Option<(Timestamp, Timestamp)>,
    /// How many to pass over.
    pub offset: u32,
    /// How many at most; core-data's own limit when none.
    pub limit: Option<u32>,
}

/// A page of readings.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadingPage {
    /// How many there are in all.
    pub total: u64,
    /// Those of this page.
    pub readings: Vec<Reading>,
}

impl ReadingClient {
    /// The readings that are asked for: `GET /api/v3/reading/...`. (EdgeX: `AllReadings`, `ReadingsByDeviceName`,
    /// `ReadingsByResourceName`, `ReadingsByTimeRange` and their combinations.)
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn find(&self, query: &ReadingQuery<'_>) -> Result<ReadingPage, CallError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            #[serde(default)]
            total_count: u64,
            #[serde(default)]
            readings: Vec<Value>,
        }
        let time = |time: Timestamp| (i128::from(time.as_unix_millis()) * 1_000_000).to_string();
        let between = query.between.map(|(start, end)| (time(start), time(end)));
        let mut segments = vec!["reading"];
        if let Some(device) = query.device {
            segments.extend(["device", "name", device]);
        }
        if let Some(resource) = query.resource {
            segments.extend(["resourceName", resource]);
        }
        if let Some((start, end)) = &between {
            segments.extend(["start", start, "end", end]);
        }
        if segments.len() == 1 {
            segments.push("all");
        }
        let (offset, limit) = (
            query.offset.to_string(),
            query.limit.map(|limit| limit.to_string()),
        );
        let mut parameters = vec![("offset", offset.as_str())];
        parameters.extend(limit.as_deref().map(|limit| ("limit", limit)));
        let answer: Answer = self
            .service
            .call(Method::GET, &segments, &parameters, None)
            .await?;
        Ok(ReadingPage {
            total: answer.total_count,
            readings: readings(answer.readings)?,
        })
    }

    /// How many readings there are, of this device or in all: `GET /api/v3/reading/count`. (EdgeX: `ReadingCount`,
    /// `ReadingCountByDeviceName`.)
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn count(&self, device: Option<&str>) -> Result<u64, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            // Core-data writes it so.
            #[serde(alias = "Count")]
            count: u64,
        }
        let mut segments = vec!["reading", "count"];
        segments.extend(device.into_iter().flat_map(|device| ["device", "name", device]));
        let answer: Answer = self.service.call(Method::GET, &segments, &[], None).await?;
        Ok(answer.count)
    }
}

/// As the readings of an event are read.
fn readings(values: Vec<Value>) -> Result<Vec<Reading>, CallError> {
    let wrong = |reason: String| CallError::NotUnderstood { reason };
    let event = Value::Object(
        [("readings".to_owned(), Value::Array(values))]
            .into_iter()
            .collect(),
    );
    let bytes = json::to_vec(&event).map_err(|error| wrong(error.to_string()))?;
    let event = Event::decode(&bytes, ContentType::Json).map_err(|error| wrong(error.to_string()))?;
    Ok(event.readings)
}
