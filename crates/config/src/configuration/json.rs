//! The configuration as `GET /api/v3/config` shows it.

use serde_json::{Map, Value as Json};

use crate::{Configuration, Leaf, Origin, redact, scalar::Value, schema};

/// The maps of free names: `null` when there is nothing in them, as EdgeX shows them.
const MAPS: [&str; 8] = [
    "ApplicationSettings",
    "Clients",
    "MessageBus/Optional",
    "Writable/InsecureSecrets",
    "Writable/Pipeline/Functions",
    "Writable/Pipeline/PerTopicPipelines",
    "Writable/Telemetry/Metrics",
    "Writable/Telemetry/Tags",
];

impl Configuration {
    /// The whole tree with EdgeX's keys: texts and durations as configured, numbers and booleans as such, secrets and
    /// passwords in URLs as `<redacted>`.
    ///
    /// The keys are `Writable`, `Registry`, `Service`, `HttpServer`, `MessageBus`, `Trigger`, `ApplicationSettings`,
    /// `Clients`, `Database`. Settings EdgeX does not know appear where they have been set, and only then.
    pub fn to_json(&self) -> Json {
        let mut root = Map::new();
        for path in MAPS {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            folder(&mut root, parent).insert(name.to_owned(), Json::Null);
        }
        for function in self.writable.pipeline.functions.keys() {
            folder(
                &mut root,
                &format!("Writable/Pipeline/Functions/{function}/Parameters"),
            );
        }
        for (path, leaf) in self.leaves().iter() {
            let own = schema::find(path).is_some_and(|setting| !setting.of_edgex);
            if own && leaf.origin() == Origin::Default {
                continue;
            }
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            folder(&mut root, parent).insert(name.to_owned(), shown(path, leaf));
        }
        Json::Object(root)
    }
}

/// The object at a path, made where it is not yet there.
fn folder<'a>(root: &'a mut Map<String, Json>, path: &str) -> &'a mut Map<String, Json> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .fold(root, |parent, segment| {
            let child = parent.entry(segment).or_insert(Json::Null);
            if !child.is_object() {
                *child = Json::Object(Map::new());
            }
            child.as_object_mut().expect("it has just been made one")
        })
}

/// One setting as JSON, as it may be shown.
pub(crate) fn shown(path: &str, leaf: &Leaf) -> Json {
    // The options of the bus are a map of texts, also where their values are checked as numbers.
    if path.starts_with("MessageBus/Optional/") {
        return redact::shown(path, leaf.text()).into();
    }
    match leaf.value() {
        Value::Bool(value) => value.into(),
        Value::Int(value) => value.into(),
        Value::Number(value) => value.into(),
        Value::Duration(_) | Value::Bytes(_) | Value::Text | Value::Word(_) => {
            redact::shown(path, leaf.text()).into()
        }
    }
}
