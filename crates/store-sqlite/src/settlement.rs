//! Verdicts as SQL: `edgehold_store::semantics::apply`, for a page of objects at once.
//!
//! A page becomes a handful of statements however long it is: its lists go in as one JSON text each. Only payloads that are
//! replaced are written one by one.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use edgehold_core::{
    AttemptError, Destination, ObjectState, ServiceKey, StoredObjectId, Timestamp,
    retry::{Action, Verdict},
};
use edgehold_store::semantics;
use serde_json::{Value, json};

use crate::{
    row::{bytes_column, context_json, id_column},
    writer::script::Script,
};

pub(crate) const REPLACE_PAYLOAD: &str = "
    UPDATE payload SET bytes = ?
    WHERE seq = (SELECT seq FROM object INDEXED BY object_id
                 WHERE id = ? AND app_service_key = ? AND state IN (0, 2, 4))";

/// What was journaled or batched waits; the others among these do so already.
pub(crate) const RELEASE: &str = "
    UPDATE object INDEXED BY object_id SET state = 2
    WHERE id IN (SELECT unhex(value) FROM json_each(?)) AND app_service_key = ? AND state IN (0, 4)";

/// Any verdict ends a row of crashes.
pub(crate) const UNMARK: &str = "
    DELETE FROM crash_mark
    WHERE seq IN (SELECT seq FROM object INDEXED BY object_id
                  WHERE id IN (SELECT unhex(value) FROM json_each(?)) AND app_service_key = ?)";

/// A counted failure joins the first four and the last twelve errors, once (`AttemptErrors::push`).
///
/// A failure replaces times and wait, a release adds to them; a destination stays unless there is another or another
/// function comes next.
pub(crate) const CHANGE: &str = "
    UPDATE object INDEXED BY object_id SET
        state = ifnull(change.state, object.state),
        attempts = ifnull(change.attempts, object.attempts),
        last_attempt_at = ifnull(change.at, object.last_attempt_at),
        last_error = ifnull(change.error, object.last_error),
        errors = CASE WHEN change.attempt_error IS NULL
                        OR (ifnull(json_valid(object.errors), 0)
                            AND object.errors -> '$[#-1]' IS json(change.attempt_error)) THEN object.errors
            ELSE json_insert(CASE WHEN NOT ifnull(json_valid(object.errors), 0) THEN '[]'
                 WHEN json_array_length(object.errors) < 16 THEN object.errors
                 ELSE json_remove(object.errors, '$[4]') END,
            '$[#]', json(change.attempt_error)) END,
        not_before = CASE WHEN change.counted THEN change.not_before
                          ELSE ifnull(change.not_before, object.not_before) END,
        destination = CASE WHEN change.moved THEN change.destination
                           ELSE ifnull(change.destination, object.destination) END,
        reason = ifnull(change.reason, object.reason),
        ended_at = ifnull(change.ended_at, object.ended_at),
        version = ifnull(change.version, object.version),
        pipeline_position = ifnull(change.position, object.pipeline_position),
        context_data = ifnull(change.context_data, object.context_data),
        input_kind = ifnull(change.input_kind, object.input_kind),
        input_content_type = CASE WHEN change.moved THEN NULL ELSE object.input_content_type END,
        input_topic = CASE WHEN change.moved THEN NULL ELSE object.input_topic END,
        device = CASE WHEN change.moved THEN change.device ELSE object.device END,
        payload_bytes = ifnull(change.payload_bytes, object.payload_bytes)
    FROM (
        SELECT unhex(value ->> 'id') AS id, value ->> 'state' AS state, value ->> 'attempts' AS attempts,
               value ->> 'at' AS at, value ->> 'error' AS error, value ->> 'attempt_error' AS attempt_error, value ->> 'not_before' AS not_before,
               value ->> 'counted' AS counted, value ->> 'moved' AS moved,
               value ->> 'destination' AS destination, value ->> 'reason' AS reason,
               value ->> 'position' AS position, value ->> 'context_data' AS context_data,
               value ->> 'input_kind' AS input_kind, value ->> 'payload_bytes' AS payload_bytes,
               value ->> 'ended_at' AS ended_at, value ->> 'version' AS version, value ->> 'device' AS device
        FROM json_each(?)
    ) AS change
    WHERE object.id = change.id AND object.app_service_key = ? AND object.state IN (0, 2, 4)";

pub(crate) const REMOVE: &str = "
    DELETE FROM object INDEXED BY object_id
    WHERE id IN (SELECT unhex(value) FROM json_each(?)) AND app_service_key = ?";

/// What is claimed is known by its place.
pub(crate) const REMOVE_AT: &str = "
    DELETE FROM object NOT INDEXED
    WHERE seq IN (SELECT value FROM json_each(?)) AND app_service_key = ?";

/// Verdicts of which no two are for the same object, so that their order does not matter.
#[derive(Debug, Default)]
struct Step {
    ids: HashSet<StoredObjectId>,
    changes: Vec<Value>,
    payloads: Vec<(StoredObjectId, Bytes)>,
    releases: Vec<String>,
    removals: Vec<String>,
    /// Of those that are claimed, by their places.
    removals_at: Vec<i64>,
    /// Everything but the removals, whose marks leave with them.
    unmarked: Vec<String>,
}

/// Verdicts to write, in order.
#[derive(Debug)]
pub(crate) struct Settlement {
    /// The places of the claimed objects among them.
    held: HashMap<StoredObjectId, i64>,
    steps: Vec<Step>,
}

impl Settlement {
    pub(crate) fn new(held: HashMap<StoredObjectId, i64>) -> Self {
        let steps = Vec::new();
        Self { held, steps }
    }

    /// Adds verdicts behind those that are there.
    pub(crate) fn extend<'a>(&mut self, verdicts: impl IntoIterator<Item = &'a Verdict>) {
        for verdict in verdicts {
            if self
                .steps
                .last()
                .is_none_or(|step| step.ids.contains(&verdict.id))
            {
                self.steps.push(Step::default());
            }
            let step = self.steps.last_mut().expect("one was pushed if there was none");
            step.add(verdict, self.held.get(&verdict.id).copied());
        }
    }

    /// Writes it; answers how many objects leave if they are there. Without suspects no object has a row of crashes to
    /// end.
    pub(crate) fn write(&self, script: &mut Script, service_key: &ServiceKey, has_suspects: bool) -> usize {
        let mut removed = 0;
        for step in &self.steps {
            removed += step.write(script, service_key, has_suspects);
        }
        removed
    }
}

impl Step {
    fn add(&mut self, verdict: &Verdict, seq: Option<i64>) {
        self.ids.insert(verdict.id);
        if verdict.action == Action::Remove {
            match seq {
                Some(seq) => self.removals_at.push(seq),
                None => self.removals.push(hex(verdict.id)),
            }
            return;
        }
        let id = hex(verdict.id);
        self.unmarked.push(id.clone());
        let (mut change, failure, moved) = match &verdict.action {
            Action::Remove => return,
            release if *release == Action::RELEASE => {
                self.releases.push(id);
                return;
            }
            Action::Succeed { at } => {
                let change = json!({ "state": ObjectState::Success.code(), "ended_at": at.as_unix_millis() });
                (change, None, None)
            }
            Action::Release {
                not_before,
                last_error,
                destination,
                progress,
            } => {
                let change = json!({
                    "state": ObjectState::Failed.code(), "error": last_error, "not_before": millis(*not_before),
                    "destination": text(destination.as_ref()),
                });
                (change, None, progress.as_ref())
            }
            Action::Batch(progress) => {
                let change = json!({ "state": ObjectState::Batched.code(), "attempts": 0, "counted": true });
                (change, None, Some(progress))
            }
            Action::RetryLater(failure) => (
                json!({ "state": ObjectState::Failed.code() }),
                Some(failure),
                failure.progress.as_ref(),
            ),
            Action::GiveUp { reason, at, failure } => {
                let change = json!({
                    "state": ObjectState::Error.code(), "reason": reason.as_str(), "ended_at": at.as_unix_millis(),
                });
                (
                    change,
                    failure.as_ref(),
                    failure.as_ref().and_then(|failure| failure.progress.as_ref()),
                )
            }
        };
        change["id"] = id.into();
        if let Some(failure) = failure {
            change["attempts"] = failure.attempts.into();
            change["at"] = failure.at.as_unix_millis().into();
            change["error"] = failure.error.as_str().into();
            change["attempt_error"] =
                AttemptError::new(failure.attempts, failure.at, &failure.error).to_value();
            change["not_before"] = millis(failure.not_before).into();
            change["counted"] = true.into();
            change["destination"] = text(failure.destination.as_ref()).into();
        }
        if let Some(progress) = moved {
            change["moved"] = true.into();
            change["version"] = progress.version.as_str().into();
            change["position"] = progress.position.into();
            change["context_data"] = context_json(&progress.context).into();
            change["device"] = semantics::device_in(&progress.context).into();
            change["input_kind"] = progress.kind.as_str().into();
            change["payload_bytes"] =
                bytes_column(semantics::payload_bytes(&progress.context, &progress.payload)).into();
            self.payloads.push((verdict.id, progress.payload.clone()));
        }
        self.changes.push(change);
    }

    fn write(&self, script: &mut Script, service_key: &ServiceKey, has_suspects: bool) -> usize {
        for (id, payload) in &self.payloads {
            script
                .add_alone(REPLACE_PAYLOAD)
                .with(&payload[..])
                .with(id_column(*id))
                .with(service_key.as_str());
        }
        let mut add = |statement, list: String| {
            script.add(statement).with(list).with(service_key.as_str());
        };
        if !self.changes.is_empty() {
            add(CHANGE, json!(self.changes).to_string());
        }
        if !self.releases.is_empty() {
            add(RELEASE, json!(self.releases).to_string());
        }
        if has_suspects && !self.unmarked.is_empty() {
            add(UNMARK, json!(self.unmarked).to_string());
        }
        if !self.removals.is_empty() {
            add(REMOVE, json!(self.removals).to_string());
        }
        if !self.removals_at.is_empty() {
            add(REMOVE_AT, json!(self.removals_at).to_string());
        }
        self.removals.len() + self.removals_at.len()
    }
}

fn hex(id: StoredObjectId) -> String {
    id.as_uuid().simple().to_string()
}

fn text(destination: Option<&Destination>) -> Option<&str> {
    destination.map(Destination::as_str)
}

fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_unix_millis)
}
