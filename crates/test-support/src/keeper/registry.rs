//! The registered services and the checks of their health.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Query, Reply, now_millis};
use crate::http;
use crate::http_sink::Received;

/// The registered services, in the order in which they came.
#[derive(Default)]
pub(super) struct Services {
    rows: Arc<Mutex<Vec<Registration>>>,
    checks: Mutex<BTreeMap<String, JoinHandle<()>>>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    #[serde(default)]
    created: u64,
    #[serde(default)]
    modified: u64,
    #[serde(default)]
    service_id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    port: u16,
    #[serde(rename = "HealthCheck", default)]
    health_check: HealthCheck,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HealthCheck {
    interval: String,
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Request {
    registration: Registration,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct One {
    api_version: &'static str,
    status_code: u16,
    registration: Registration,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct All {
    api_version: &'static str,
    status_code: u16,
    total_count: usize,
    registrations: Vec<Registration>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    api_version: &'static str,
    status_code: u16,
    service_name: String,
}

impl Services {
    fn rows(&self) -> MutexGuard<'_, Vec<Registration>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checks(&self) -> MutexGuard<'_, BTreeMap<String, JoinHandle<()>>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<Value> {
        let rows = self.rows();
        let value = |row| serde_json::to_value(row).expect("a row is made of texts and numbers");
        rows.iter().map(value).collect()
    }

    pub(super) fn remove(&self, service_id: &str) -> bool {
        self.end_check(service_id);
        let mut rows = self.rows();
        let before = rows.len();
        rows.retain(|row| row.service_id != service_id);
        rows.len() < before
    }

    pub(super) fn answer(&self, method: &str, path: &str, query: &Query<'_>, request: &Received) -> Reply {
        match (method, path) {
            ("POST", "") => self.register(request),
            ("PUT", "") => self.update(request),
            ("GET", "/all") => match query.flag("deregistered") {
                Ok(deregistered) => self.list(deregistered),
                Err(refusal) => refusal,
            },
            (method, path) => match (method, path.strip_prefix("/serviceId/")) {
                ("GET", Some(id)) => self.find(&super::decoded(id)),
                ("DELETE", Some(id)) if self.remove(&super::decoded(id)) => Reply::empty(204),
                ("DELETE", Some(id)) => {
                    Reply::error(404, &format!("service id '{id}' not found from registry table"))
                }
                _ => Reply::error(405, "Method Not Allowed"),
            },
        }
    }

    fn find(&self, id: &str) -> Reply {
        let rows = self.rows();
        match rows.iter().find(|row| row.service_id == id) {
            None => Reply::error(404, "registration not found by serviceId"),
            Some(row) => {
                let one = One {
                    api_version: "v3",
                    status_code: 200,
                    registration: row.clone(),
                };
                Reply::json(200, &one)
            }
        }
    }

    fn list(&self, deregistered: bool) -> Reply {
        let rows = self.rows();
        let shown = rows.iter().filter(|row| deregistered || row.status != "HALT");
        let registrations: Vec<Registration> = shown.cloned().collect();
        let all = All {
            api_version: "v3",
            status_code: 200,
            total_count: registrations.len(),
            registrations,
        };
        Reply::json(200, &all)
    }

    fn register(&self, request: &Received) -> Reply {
        let mut registration = match read(request) {
            Ok(registration) => registration,
            Err(refusal) => return refusal,
        };
        let mut rows = self.rows();
        let id = registration.service_id.clone();
        if rows.iter().any(|row| row.service_id == id) {
            return Reply::error(409, &format!("registry with service id '{id}' already exists"));
        }
        registration.created = now_millis();
        registration.modified = registration.created;
        self.check(&registration);
        rows.push(registration);
        let registered = Registered {
            api_version: "v3",
            status_code: 201,
            service_name: id,
        };
        Reply::json(201, &registered)
    }

    fn update(&self, request: &Received) -> Reply {
        let mut registration = match read(request) {
            Ok(registration) => registration,
            Err(refusal) => return refusal,
        };
        let mut rows = self.rows();
        let id = &registration.service_id;
        let Some(row) = rows.iter_mut().find(|row| row.service_id == *id) else {
            return Reply::error(404, &format!("service id '{id}' not found from registry table"));
        };
        registration.created = row.created;
        registration.modified = now_millis();
        self.end_check(id);
        if registration.status != "HALT" {
            self.check(&registration);
        }
        *row = registration;
        Reply::empty(204)
    }

    pub(super) fn begin_checks(&self) {
        for row in self.rows().iter().filter(|row| row.status != "HALT") {
            self.check(row);
        }
    }

    pub(super) fn end_checks(&self) {
        for (_, check) in std::mem::take(&mut *self.checks()) {
            check.abort();
        }
    }

    fn end_check(&self, id: &str) {
        if let Some(check) = self.checks().remove(id) {
            check.abort();
        }
    }

    /// Asks after half the interval until the service is up, then after the interval.
    fn check(&self, registration: &Registration) {
        let rows = Arc::clone(&self.rows);
        let registration = registration.clone();
        let id = registration.service_id.clone();
        #[expect(clippy::disallowed_methods, reason = "the handle is kept and aborted on drop")]
        let check = tokio::spawn(async move {
            let interval = seconds(&registration.health_check.interval);
            let mut is_up = false;
            loop {
                sleep(if is_up { interval } else { interval / 2 }).await;
                let asked = http::get(registration.port, &registration.health_check.path).await;
                let up = asked.is_ok_and(|answer| (200..300).contains(&answer.status));
                is_up |= up;
                let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(row) = rows
                    .iter_mut()
                    .find(|row| row.service_id == registration.service_id)
                {
                    row.status = if up { "UP" } else { "DOWN" }.to_owned();
                    row.modified = now_millis();
                }
            }
        });
        if let Some(former) = self.checks().insert(id, check) {
            former.abort();
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.end_checks();
    }
}

fn read(request: &Received) -> Result<Registration, Reply> {
    let read: Result<Request, _> = serde_json::from_slice(&request.body);
    let mut registration = match read {
        Ok(request) => request.registration,
        Err(error) => return Err(Reply::error(400, &format!("json decoding failed: {error}"))),
    };
    let HealthCheck { interval, path, kind } = &registration.health_check;
    let texts = [&registration.service_id, &registration.host, interval, path, kind];
    if texts.into_iter().any(String::is_empty) || registration.port == 0 {
        return Err(Reply::error(
            400,
            "a required field of the registration is missing",
        ));
    }
    match registration.status.as_str() {
        "" => "UNKNOWN".clone_into(&mut registration.status),
        "UP" | "DOWN" | "UNKNOWN" | "HALT" => {}
        _ => return Err(Reply::error(400, "the status of the registration is none")),
    }
    Ok(registration)
}

/// As tests write them: `10s`, `500ms`.
fn seconds(text: &str) -> Duration {
    let number = |text: &str| text.parse().unwrap_or(10);
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => Duration::from_millis(number(millis)),
        (None, Some(seconds)) => Duration::from_secs(number(seconds)),
        (None, None) => Duration::from_secs(10),
    }
}
