//! What has to hold, by the rules of the contract and nothing of the service's code: three layers laid over each other
//! leaf by leaf, and of each unit that cannot be used the form it had before.
//!
//! It knows only the settings that `change` edits and those that were recorded. For each of them it is told what is
//! good, by a list where the service has a parser: so a parser that takes too much or too little is found.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::change::{Change, Layer};

const ORDER: &str = "Writable/Pipeline/ExecutionOrder";
const PER_TOPIC: &str = "Writable/Pipeline/PerTopicPipelines/";
const FUNCTIONS: &str = "Writable/Pipeline/Functions/";
const SECRETS: &str = "Writable/InsecureSecrets/";
const DEFAULT_PIPELINE: &str = "default-pipeline";
const REDACTED: &str = "<redacted>";

/// Values that are not shown in clear.
const LEVELS: [&str; 5] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
const TARGETS: [&str; 4] = ["", "event", "raw", "metric"];
const JOURNALS: [&str; 3] = ["off", "auto", "always"];

/// Key, layer and value of what does not hold.
pub(super) type Rejected = BTreeSet<(String, String, String)>;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Level,
    Bool,
    Time,
    OptionalTime,
    Retries,
    Number { least: i64, most: i64 },
    Target,
    Journal,
    Text,
    Secret,
}

/// What is known of a setting: what it holds, its default, and whether EdgeX knows it.
struct Setting {
    kind: Kind,
    default: Option<&'static str>,
    of_edgex: bool,
}

/// A setting that holds. Defaults of settings that EdgeX does not know are not shown.
#[derive(Clone, PartialEq)]
struct Held {
    text: String,
    hidden: bool,
}

/// A pipeline that runs.
#[derive(Clone)]
struct Running {
    id: String,
    functions: Vec<String>,
}

/// A pipeline's place in the settings: the name below `PerTopicPipelines`, or none for the default one.
type Entry = Option<String>;

/// The configuration as it has to be.
#[derive(Default)]
pub(super) struct Model {
    layers: BTreeMap<Layer, BTreeMap<String, String>>,
    held: BTreeMap<String, Held>,
    rejected: Rejected,
    running: BTreeMap<Entry, Running>,
}

impl Model {
    /// What Consul holds of a layer, below `Writable`.
    pub(super) fn layer(&self, layer: Layer) -> impl Iterator<Item = (&str, &str)> {
        let leaves = self.layers.get(&layer).into_iter().flatten();
        leaves.map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Whether each text that some layer has for this setting is good.
    pub(super) fn is_good_everywhere(&self, path: &str) -> bool {
        let Some(setting) = setting(path) else {
            return false;
        };
        self.layers
            .values()
            .filter_map(|leaves| leaves.get(path))
            .all(|text| is_good(setting.kind, text))
    }

    /// Consul has changed; nothing is judged yet.
    pub(super) fn take(&mut self, changes: &[Change]) {
        for change in changes {
            let leaves = self.layers.entry(change.layer()).or_default();
            match change {
                // What a folder made by hand looks like.
                Change::Set(_, path, _) if path.ends_with('/') => {}
                Change::Set(_, path, text) => _ = leaves.insert(path.clone(), text.clone()),
                Change::Delete(_, path) => _ = leaves.remove(path),
                Change::DeleteBelow(_, folder) => leaves.retain(|path, _| !path.starts_with(folder)),
            }
        }
    }

    /// The service has seen what was changed.
    pub(super) fn settle(&mut self) {
        let mut next = BTreeMap::new();
        self.rejected.clear();
        let paths: BTreeSet<String> = self.layers.values().flat_map(BTreeMap::keys).cloned().collect();
        let mut settings: BTreeSet<String> = FIXED.iter().map(|(path, ..)| (*path).to_owned()).collect();
        let mut secrets = BTreeSet::new();
        for path in &paths {
            match (path.strip_prefix(PER_TOPIC), path.strip_prefix(SECRETS)) {
                (Some(rest), _) => {
                    let name = rest.split('/').next().unwrap_or_default();
                    settings.extend(
                        ["Id", "Topics", "ExecutionOrder"].map(|leaf| format!("{PER_TOPIC}{name}/{leaf}")),
                    );
                }
                (_, Some(rest)) => _ = secrets.insert(rest.split('/').next().unwrap_or_default().to_owned()),
                _ if setting(path).is_some() => _ = settings.insert(path.clone()),
                _ => self.misplaced(path),
            }
        }
        for path in settings {
            self.leaf(path, &mut next);
        }
        for entry in secrets {
            self.secret(&format!("{SECRETS}{entry}/"), &mut next);
        }
        self.pipelines(&mut next);
        self.held = next;
    }

    fn reject(&mut self, key: &str, section: &str, value: &str) {
        let triple = (key.to_owned(), section.to_owned(), value.to_owned());
        self.rejected.insert(triple);
    }

    /// A value above or below a setting. What is nowhere near one means nothing.
    fn misplaced(&mut self, path: &str) {
        let above = FIXED
            .iter()
            .any(|(known, ..)| known.starts_with(&format!("{path}/")));
        let below = FIXED
            .iter()
            .any(|(known, ..)| path.starts_with(&format!("{known}/")));
        for layer in Layer::HIGHEST_FIRST {
            let text = self
                .layers
                .get(&layer)
                .and_then(|leaves| leaves.get(path))
                .cloned();
            if let Some(text) = text.filter(|text| below || above && !text.is_empty()) {
                self.reject(path, layer.name(), &text);
            }
        }
    }

    fn leaf(&mut self, path: String, next: &mut BTreeMap<String, Held>) {
        let setting = setting(&path).expect("only settings are asked for");
        for layer in Layer::HIGHEST_FIRST {
            let text = self
                .layers
                .get(&layer)
                .and_then(|leaves| leaves.get(&path))
                .cloned();
            let Some(text) = text else { continue };
            if is_good(setting.kind, &text) {
                next.insert(path, Held { text, hidden: false });
                return;
            }
            self.reject(&path, layer.name(), &text);
            if let Some(last) = self.held.get(&path) {
                let text = last.text.clone();
                next.insert(path, Held { text, hidden: false });
                return;
            }
        }
        if let Some(default) = setting.default {
            let held = Held {
                text: default.to_owned(),
                hidden: !setting.of_edgex,
            };
            next.insert(path, held);
        }
    }

    /// A secret is one unit, which has to have a name.
    fn secret(&mut self, folder: &str, next: &mut BTreeMap<String, Held>) {
        let name = format!("{folder}SecretName");
        let layers = Layer::HIGHEST_FIRST;
        for (index, top) in layers.iter().enumerate() {
            let has = |layer: &Layer| {
                let leaves = self.layers.get(layer);
                leaves.is_some_and(|leaves| leaves.keys().any(|path| path.starts_with(folder)))
            };
            if !has(top) {
                continue;
            }
            let mut whole = BTreeMap::new();
            for layer in layers[index..].iter().rev() {
                let leaves = self.layers.get(layer).into_iter().flatten();
                whole.extend(leaves.filter(|(path, _)| path.starts_with(folder)));
            }
            if whole.get(&name).is_some_and(|text| !text.trim().is_empty()) {
                next.extend(whole.into_iter().map(|(path, text)| {
                    let text = text.clone();
                    (path.clone(), Held { text, hidden: false })
                }));
                return;
            }
            self.reject(folder.trim_end_matches('/'), top.name(), REDACTED);
            if self.held.contains_key(&name) {
                let last = self.held.iter().filter(|(path, _)| path.starts_with(folder));
                next.extend(last.map(|(path, held)| (path.clone(), held.clone())));
                return;
            }
        }
    }

    /// Each pipeline is one unit with its functions.
    fn pipelines(&mut self, next: &mut BTreeMap<String, Held>) {
        let asked_for = next.clone();
        let text = |path: &str| {
            asked_for
                .get(path)
                .map(|held| held.text.clone())
                .unwrap_or_default()
        };
        let names: BTreeSet<&str> = asked_for
            .keys()
            .filter_map(|path| path.strip_prefix(PER_TOPIC)?.split('/').next())
            .collect();
        let mut wanted: Vec<(Entry, String, Vec<String>)> = Vec::new();
        let default = list(&text(ORDER));
        if !default.is_empty() {
            wanted.push((None, DEFAULT_PIPELINE.to_owned(), default));
        }
        for name in names {
            let of = |leaf: &str| text(&format!("{PER_TOPIC}{name}/{leaf}"));
            wanted.push((Some(name.to_owned()), of("Id"), list(&of("ExecutionOrder"))));
        }
        let entries: BTreeSet<Entry> = wanted.iter().map(|(entry, ..)| entry.clone()).collect();
        let can_run = |entry: &Entry, id: &str, functions: &[String]| {
            let topics = entry
                .as_ref()
                .is_none_or(|name| topics_are_good(&text(&format!("{PER_TOPIC}{name}/Topics"))));
            let functions_are_good = functions
                .iter()
                .all(|function| self.can_be_built(function, &asked_for));
            !id.trim().is_empty() && topics && !functions.is_empty() && functions_are_good
        };
        // Who has its id already comes first; but nobody gets that of one that goes on as it was.
        wanted.sort_by_key(|(entry, id, _)| self.running.get(entry).is_none_or(|running| running.id != *id));
        let mut refused: BTreeSet<Entry> = wanted
            .iter()
            .filter(|(entry, id, functions)| !can_run(entry, id, functions))
            .map(|(entry, ..)| entry.clone())
            .collect();
        let (kept, running) = loop {
            let kept = self.kept(&wanted, &refused, &entries);
            let mut running = BTreeMap::new();
            let mut ids: BTreeSet<String> = kept.values().map(|(_, last)| last.id.clone()).collect();
            let clash = wanted.iter().find(|(entry, id, functions)| {
                if refused.contains(entry) {
                    return false;
                }
                let (id, functions) = (id.clone(), functions.clone());
                running.insert(
                    entry.clone(),
                    Running {
                        id: id.clone(),
                        functions,
                    },
                );
                !ids.insert(id)
            });
            match clash {
                Some((entry, ..)) => _ = refused.insert(entry.clone()),
                None => break (kept, running),
            }
        };
        let mut running: BTreeMap<Entry, Running> = running;
        let in_new_form: BTreeSet<String> = running.values().flat_map(|one| one.functions.clone()).collect();
        for entry in refused {
            let key = entry
                .as_ref()
                .map_or(ORDER.to_owned(), |name| format!("{PER_TOPIC}{name}"));
            let order = match &entry {
                None => ORDER.to_owned(),
                Some(name) => format!("{PER_TOPIC}{name}/ExecutionOrder"),
            };
            let layer = Layer::HIGHEST_FIRST.into_iter().find(|layer| {
                self.layers
                    .get(layer)
                    .is_some_and(|leaves| leaves.contains_key(&order))
            });
            self.reject(&key, layer.map_or("default", Layer::name), &text(&order));
            let last = kept.get(&entry).cloned();
            match &entry {
                None => {
                    if let Some(held) = self.held.get(ORDER) {
                        next.insert(ORDER.to_owned(), held.clone());
                    }
                }
                Some(name) => {
                    let was = last.as_ref().and_then(|(was, _)| was.as_ref());
                    self.keep(
                        next,
                        &format!("{PER_TOPIC}{name}/"),
                        was.map(|was| format!("{PER_TOPIC}{was}/")),
                    );
                }
            }
            if let Some((_, last)) = last {
                for function in last
                    .functions
                    .iter()
                    .filter(|function| !in_new_form.contains(*function))
                {
                    let folder = format!("{FUNCTIONS}{function}/");
                    self.keep(next, &folder, Some(folder.clone()));
                }
                running.insert(entry, last);
            }
        }
        self.running = running;
    }

    /// Of those refused: what ran under their names, or under a name that is gone with their id.
    fn kept(
        &self,
        wanted: &[(Entry, String, Vec<String>)],
        refused: &BTreeSet<Entry>,
        entries: &BTreeSet<Entry>,
    ) -> BTreeMap<Entry, (Entry, Running)> {
        let mut kept = BTreeMap::<Entry, (Entry, Running)>::new();
        for (entry, id, _) in wanted.iter().filter(|(entry, ..)| refused.contains(entry)) {
            let gone =
                |(was, one): &(&Entry, &Running)| was.is_some() && !entries.contains(*was) && one.id == *id;
            let own = self.running.get_key_value(entry);
            let last = own.or_else(|| self.running.iter().find(gone));
            if let Some((was, last)) = last
                && kept.values().all(|(other, _)| other != was)
            {
                kept.insert(entry.clone(), (was.clone(), last.clone()));
            }
        }
        kept
    }

    /// What was below a folder is below this one again.
    fn keep(&self, next: &mut BTreeMap<String, Held>, folder: &str, was: Option<String>) {
        next.retain(|path, _| !path.starts_with(folder));
        let Some(was) = was else { return };
        for (path, held) in &self.held {
            if let Some(rest) = path.strip_prefix(&was) {
                next.insert(format!("{folder}{rest}"), held.clone());
            }
        }
    }

    /// Whether a function is there and its parameters fit.
    fn can_be_built(&self, function: &str, asked_for: &BTreeMap<String, Held>) -> bool {
        let folder = format!("{FUNCTIONS}{function}/");
        let is_there = self
            .layers
            .values()
            .any(|leaves| leaves.keys().any(|path| path.starts_with(&folder)));
        let parameter = |name: &str| {
            let held = asked_for.get(&format!("{folder}Parameters/{name}"));
            held.map(|held| held.text.as_str())
        };
        let optional_bool = |name: &str| parameter(name).is_none_or(|text| ["true", "false"].contains(&text));
        is_there
            && match function {
                "HTTPExport" | "HTTPExport2" => {
                    parameter("Url").is_some()
                        && parameter("Method").is_some_and(|text| ["post", "put"].contains(&text))
                        && optional_bool("PersistOnError")
                }
                "AddTags" => parameter("Tags").is_some_and(|text| text.is_empty() || text.contains(':')),
                "Transform" => parameter("Type").is_some_and(|text| text == "json"),
                "FilterByDeviceName" => parameter("DeviceNames").is_some() && optional_bool("FilterOut"),
                _ => false,
            }
    }

    /// What `/config` has to show below `Writable`, by path.
    pub(super) fn shown(&self) -> BTreeMap<String, Value> {
        let shown = self.held.iter().filter(|(_, held)| !held.hidden);
        shown
            .map(|(path, held)| (path.clone(), show(path, &held.text)))
            .collect()
    }

    /// What `/config` has to list as rejected.
    pub(super) fn rejected(&self) -> &Rejected {
        &self.rejected
    }

    /// The text that holds, secret or not.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.held.get(path).map(|held| held.text.as_str())
    }
}

/// The settings with fixed paths that are edited: path, kind, default, whether EdgeX knows it.
const FIXED: [(&str, Kind, &str, bool); 10] = [
    ("Writable/LogLevel", Kind::Level, "INFO", true),
    ("Writable/StoreAndForward/Enabled", Kind::Bool, "false", true),
    ("Writable/StoreAndForward/RetryInterval", Kind::Time, "5m", true),
    (
        "Writable/StoreAndForward/MaxRetryCount",
        Kind::Retries,
        "10",
        true,
    ),
    (
        "Writable/StoreAndForward/MaxItems",
        Kind::Number {
            least: 0,
            most: i64::MAX,
        },
        "0",
        false,
    ),
    ("Writable/StoreAndForward/Journal", Kind::Journal, "auto", false),
    ("Writable/Pipeline/TargetType", Kind::Target, "", true),
    (ORDER, Kind::Text, "", true),
    (
        "Writable/Pipeline/Concurrency",
        Kind::Number {
            least: 1,
            most: 65_536,
        },
        "64",
        false,
    ),
    ("Writable/Telemetry/Interval", Kind::OptionalTime, "30s", true),
];

fn setting(path: &str) -> Option<Setting> {
    if let Some((_, kind, default, of_edgex)) = FIXED.iter().find(|(known, ..)| *known == path) {
        return Some(Setting {
            kind: *kind,
            default: Some(default),
            of_edgex: *of_edgex,
        });
    }
    let (kind, default) = match path.split('/').collect::<Vec<_>>()[..] {
        [
            "Writable",
            "Pipeline",
            "PerTopicPipelines",
            _,
            "Id" | "Topics" | "ExecutionOrder",
        ] => (Kind::Text, Some("")),
        ["Writable", "Pipeline", "Functions", _, "Parameters", _] => (Kind::Text, None),
        ["Writable", "InsecureSecrets", _, "SecretName"] => (Kind::Text, None),
        ["Writable", "InsecureSecrets", _, "SecretData", _] => (Kind::Secret, None),
        ["Writable", "Telemetry", "Metrics", _] => (Kind::Bool, None),
        ["Writable", "Telemetry", "Tags", _] => (Kind::Text, None),
        _ => return None,
    };
    Some(Setting {
        kind,
        default,
        of_edgex: true,
    })
}

fn is_good(kind: Kind, text: &str) -> bool {
    let number = || text.parse::<i64>();
    match kind {
        Kind::Level => LEVELS.contains(&text),
        Kind::Bool => ["", "true", "false", "T", "0"].contains(&text),
        Kind::Time => is_time(text),
        Kind::OptionalTime => text.is_empty() || is_time(text),
        Kind::Retries => number().is_ok(),
        Kind::Number { least, most } => number().is_ok_and(|number| (least..=most).contains(&number)),
        Kind::Target => TARGETS.contains(&text.trim().to_lowercase().as_str()),
        Kind::Journal => JOURNALS.contains(&text.trim().to_lowercase().as_str()),
        Kind::Text | Kind::Secret => true,
    }
}

/// A whole number and a unit: all that is ever written here.
fn is_time(text: &str) -> bool {
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    unit.len() < text.len() && ["ms", "s", "m", "h"].contains(&unit)
}

fn topics_are_good(text: &str) -> bool {
    let topics = list(text);
    let good = |topic: &String| topic.find('#').is_none_or(|at| at + 1 == topic.len());
    !topics.is_empty() && topics.iter().all(good)
}

fn list(text: &str) -> Vec<String> {
    let items = text.split(',').map(str::trim);
    items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn show(path: &str, text: &str) -> Value {
    match setting(path).map(|setting| setting.kind) {
        Some(Kind::Bool) => ["true", "T"].contains(&text).into(),
        Some(Kind::Retries) => match text.parse::<i64>() {
            Ok(count) if count < 0 => 1.into(),
            count => count.unwrap_or_default().into(),
        },
        Some(Kind::Number { .. }) => text.parse::<i64>().unwrap_or_default().into(),
        Some(Kind::Secret) => REDACTED.into(),
        _ => text.into(),
    }
}
