//! The shapes of the error collection on the wire, for the routes and for whoever asks them.

use std::{convert::Infallible, iter, num::NonZeroU32};

use axum::body::Body;
use edgehold_core::{ErrorReason, PipelineId, StoredObject, StoredObjectId, Timestamp};
use edgehold_runtime::ErrorRun;
use edgehold_store::{ErrorGroup, ObjectFilter, Page, StateCount, record::Record};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Which objects are meant. What is empty or missing says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FilterBody {
    /// UUIDs.
    pub ids: Vec<String>,
    /// Pipeline ids.
    pub pipelines: Vec<String>,
    /// Device names.
    pub devices: Vec<String>,
    /// Reasons, by name (`retries_exceeded`, …).
    pub reasons: Vec<String>,
    /// Given up at this moment or later, in milliseconds since 1970.
    pub ended_from: Option<i64>,
    /// Given up before this moment.
    pub ended_before: Option<i64>,
}

impl FilterBody {
    /// As it is written.
    pub fn of(filter: &ObjectFilter) -> Self {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::as_unix_millis);
        Self {
            ids: filter.ids.iter().map(ToString::to_string).collect(),
            pipelines: filter.pipeline_ids.iter().map(ToString::to_string).collect(),
            devices: filter.devices.clone(),
            reasons: filter
                .reasons
                .iter()
                .map(|reason| reason.as_str().to_owned())
                .collect(),
            ended_from: millis(filter.ended_from),
            ended_before: millis(filter.ended_before),
        }
    }

    /// As it is meant.
    ///
    /// # Errors
    /// What cannot be an id, a pipeline or a reason.
    pub fn to_filter(&self) -> Result<ObjectFilter, String> {
        let ids: Result<Vec<StoredObjectId>, _> = self.ids.iter().map(|id| id.parse()).collect();
        let pipelines: Result<_, _> = self.pipelines.iter().map(|id| PipelineId::try_new(id)).collect();
        let reasons: Result<_, _> = self
            .reasons
            .iter()
            .map(|name| ErrorReason::from_name(name))
            .collect();
        Ok(ObjectFilter {
            ids: ids.map_err(|error| error.to_string())?,
            pipeline_ids: pipelines.map_err(|error| error.to_string())?,
            version: None,
            devices: self.devices.clone(),
            reasons: reasons.map_err(|error| error.to_string())?,
            ended_from: self.ended_from.map(Timestamp::from_unix_millis),
            ended_before: self.ended_before.map(Timestamp::from_unix_millis),
        })
    }
}

/// Asks for a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OrderBody {
    /// Which objects.
    pub filter: FilterBody,
    /// Has to be said to mean all of them.
    pub all: bool,
    /// At most so many objects a second; none = as fast as the store does it.
    pub rate: Option<NonZeroU32>,
    /// Only count.
    pub dry_run: bool,
}

impl OrderBody {
    /// The filter, if it says anything or all are meant.
    ///
    /// # Errors
    /// As [`FilterBody::to_filter`], and for a body that does not say what is meant.
    pub fn into_filter(self) -> Result<ObjectFilter, String> {
        if self.filter == FilterBody::default() && !self.all {
            return Err("say which objects: a filter, or \"all\":true".to_owned());
        }
        self.filter.to_filter()
    }
}

/// A run.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunBody {
    /// Its id.
    pub id: String,
    /// `redrive` or `purge`.
    pub action: String,
    /// `running`, `done`, `cancelled` or `interrupted`.
    pub state: String,
    /// Objects that were meant when it began.
    pub meant: u64,
    /// Objects it has been done to.
    pub done: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// A run with this filter goes on where this one ended.
    pub filter: FilterBody,
    /// At most so many a second.
    pub rate: Option<NonZeroU32>,
    /// In milliseconds since 1970.
    pub began_at: i64,
    /// In milliseconds since 1970.
    pub ended_at: Option<i64>,
    /// Why it does not get on.
    pub problem: Option<String>,
}

impl RunBody {
    /// How a run stands.
    pub fn of(run: &ErrorRun) -> Self {
        Self {
            id: run.id.to_string(),
            action: run.action.as_str().to_owned(),
            state: run.state.as_str().to_owned(),
            meant: run.meant.objects,
            done: run.done.objects,
            payload_bytes: run.done.payload_bytes,
            filter: FilterBody::of(&run.filter),
            rate: run.rate,
            began_at: run.began_at.as_unix_millis(),
            ended_at: run.ended_at.map(Timestamp::as_unix_millis),
            problem: run.problem.clone(),
        }
    }

    /// Whether it goes on.
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// How many objects are meant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Objects.
    pub objects: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// The same by pipeline and reason, with what cannot be read, which a re-drive leaves out.
    pub groups: Vec<Group>,
}

/// Objects of one pipeline and reason.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The pipeline.
    pub pipeline: String,
    /// The reason.
    pub reason: Option<String>,
    /// Objects.
    pub objects: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// When the first of them was given up, in milliseconds since 1970.
    pub first: i64,
    /// When the last of them was.
    pub last: i64,
}

impl Count {
    /// What is meant, and the survey it comes from.
    pub fn of(meant: StateCount, groups: &[ErrorGroup]) -> Self {
        let group = |group: &ErrorGroup| Group {
            pipeline: group.pipeline_id.to_string(),
            reason: group.reason.map(|reason| reason.as_str().to_owned()),
            objects: group.count.objects,
            payload_bytes: group.count.payload_bytes,
            first: group.ended.0.as_unix_millis(),
            last: group.ended.1.as_unix_millis(),
        };
        Self {
            objects: meant.objects,
            payload_bytes: meant.payload_bytes,
            groups: groups.iter().map(group).collect(),
        }
    }
}

/// What a query asks for.
pub(crate) struct Query {
    pub(crate) filter: ObjectFilter,
    pub(crate) after: i64,
    pub(crate) limit: Option<usize>,
    pub(crate) payload: bool,
}

impl Query {
    pub(crate) fn read(query: &str) -> Result<Self, String> {
        let mut filter = FilterBody::default();
        let (mut after, mut limit, mut payload) = (0, None, false);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = || {
                let number = value.parse::<i64>();
                number.map_err(|_| format!("{name} needs a number, not '{value}'"))
            };
            match &*name {
                "id" => filter.ids.push(value.into_owned()),
                "pipeline" => filter.pipelines.push(value.into_owned()),
                "device" => filter.devices.push(value.into_owned()),
                "reason" => filter.reasons.push(value.into_owned()),
                "endedFrom" => filter.ended_from = Some(number()?),
                "endedBefore" => filter.ended_before = Some(number()?),
                "after" => after = number()?,
                "limit" => limit = Some(usize::try_from(number()?).unwrap_or(1)),
                "payload" => payload = value == "true",
                _ => return Err(format!("unknown parameter '{name}'")),
            }
        }
        Ok(Self {
            filter: filter.to_filter()?,
            after,
            limit,
            payload,
        })
    }
}

/// An object: the keys of `edgehold_store::record`, and `payloadBytes`.
pub(crate) fn object(object: &StoredObject, payload: bool) -> Value {
    let mut value = serde_json::to_value(Record::from(object)).unwrap_or_default();
    if let Some(keys) = value.as_object_mut() {
        if !payload {
            keys.remove("payload");
        }
        keys.insert("payloadBytes".to_owned(), object.payload.len().into());
    }
    value
}

/// `{"objects":[…],"next"}`, written object by object, so that each is let go of when it is.
pub(crate) fn page(page: Page, payload: bool) -> Body {
    let end = format!("],\"next\":{}}}", json!(page.next_after_seq));
    let objects = page.objects.into_iter().enumerate().map(move |(place, one)| {
        let separator = if place == 0 { "" } else { "," };
        format!("{separator}{}", object(&one, payload))
    });
    let parts = iter::once("{\"objects\":[".to_owned())
        .chain(objects)
        .chain(iter::once(end));
    Body::from_stream(stream::iter(parts.map(Ok::<_, Infallible>)))
}
