//! Edits at random: what operators do to a service's settings, the mistakes among it.
//!
//! Nothing here takes an event out of the default pipeline on purpose: it always ends with an export that succeeds, so that
//! an event that does not arrive was lost. Nor is there ever less room than the flow needs: what waits for its turn does so
//! in memory, and what has no room to do so is stored and rightly set aside when its pipeline is another one before it has
//! left.

use std::fmt;

use super::model::Model;
use crate::random::Random;

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    AllServices,
    AppServices,
    Private,
}

impl Layer {
    pub(super) const HIGHEST_FIRST: [Self; 3] = [Self::Private, Self::AppServices, Self::AllServices];

    /// As the service names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllServices => "all-services",
            Self::AppServices => "app-services",
            Self::Private => "private configuration",
        }
    }
}

/// One change of one key, or of all below a folder. Paths begin with `Writable/`.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Set(Layer, String, String),
    Delete(Layer, String),
    DeleteBelow(Layer, String),
}

impl Change {
    pub(super) fn layer(&self) -> Layer {
        match self {
            Self::Set(layer, ..) | Self::Delete(layer, _) | Self::DeleteBelow(layer, _) => *layer,
        }
    }

    fn set(layer: Layer, path: impl fmt::Display, text: impl Into<String>) -> Self {
        Self::Set(layer, format!("Writable/{path}"), text.into())
    }

    fn delete(layer: Layer, path: impl fmt::Display) -> Self {
        Self::Delete(layer, format!("Writable/{path}"))
    }

    fn delete_below(layer: Layer, folder: impl fmt::Display) -> Self {
        Self::DeleteBelow(layer, format!("Writable/{folder}"))
    }
}

/// What an operator does in one go.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    /// One transaction, or one write when it is one change.
    Together(Vec<Change>),
    /// One after the other, faster than they can be followed.
    Burst(Vec<Change>),
}

impl Edit {
    pub(super) fn changes(&self) -> &[Change] {
        match self {
            Self::Together(changes) | Self::Burst(changes) => changes,
        }
    }
}

type Leaf = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Settings by path below `Writable`, with good and bad texts.
const LEAVES: [Leaf; 11] = [
    (
        "LogLevel",
        &["INFO", "WARN", "ERROR", "DEBUG"],
        &["", "info", "LOUD"],
    ),
    ("StoreAndForward/Enabled", &["true", "false", "T"], &["yes", "2"]),
    (
        "StoreAndForward/RetryInterval",
        &["1s", "30s", "5m", "10ms"],
        &["", "30", "soon", "-"],
    ),
    (
        "StoreAndForward/MaxRetryCount",
        &["0", "3", "10", "-2"],
        &["many", "1.5"],
    ),
    ("StoreAndForward/MaxItems", &["0", "100000"], &["-1", "x"]),
    (
        "StoreAndForward/Journal",
        &["off", "auto", "always"],
        &["", "sometimes"],
    ),
    ("Pipeline/TargetType", &["", "event", " EVENT "], &["evnt", "xml"]),
    (
        "Pipeline/Concurrency",
        &["4", "8", "64", "256"],
        &["0", "-1", "all"],
    ),
    ("Telemetry/Interval", &["0s", "1s", "30s", ""], &["5", "often"]),
    (
        "Telemetry/Metrics/MessagesReceived",
        &["true", "false", ""],
        &["maybe"],
    ),
    ("Telemetry/Metrics/NeverHeardOf", &["true", "false"], &["maybe"]),
];

const ORDERS: [&str; 4] = [
    "HTTPExport",
    "AddTags, HTTPExport",
    "Transform,HTTPExport",
    "FilterByDeviceName, AddTags, HTTPExport",
];
const BROKEN_ORDERS: [&str; 3] = [
    "NoSuchFunction",
    "AddTags, NoSuchFunction, HTTPExport",
    "NoSuchFunction, Transform",
];
/// Parameters of functions, with good and bad texts.
const PARAMETERS: [Leaf; 7] = [
    ("HTTPExport/Parameters/Method", &["post", "put"], &["carry", ""]),
    (
        "HTTPExport/Parameters/PersistOnError",
        &["true", "false"],
        &["maybe", ""],
    ),
    (
        "HTTPExport/Parameters/MimeType",
        &["application/json", "text/plain"],
        &[],
    ),
    ("HTTPExport2/Parameters/Method", &["post", "put"], &["carry"]),
    ("AddTags/Parameters/Tags", &["", "a:b", "a:b,c:d"], &["nonsense"]),
    ("Transform/Parameters/Type", &["json"], &["yaml"]),
    ("FilterByDeviceName/Parameters/FilterOut", &["false"], &["maybe"]),
];
/// Functions that may vanish as a whole, with what brings them back.
const RESTORED: [(&str, &[(&str, &str)]); 2] = [
    ("AddTags", &[("Tags", "x:y")]),
    (
        "FilterByDeviceName",
        &[("DeviceNames", ""), ("FilterOut", "false")],
    ),
];

const ENTRIES: [&str; 4] = ["first", "second", "third", "fourth"];
const IDS: [&str; 3] = ["one", "two", "three"];
const BROKEN_IDS: [&str; 3] = ["", " ", "default-pipeline"];
const TOPICS: [&str; 3] = [
    "events/#",
    "events/device/+/+/Test-Device/#",
    "events/device/#, other/+/topic",
];
const BROKEN_TOPICS: [&str; 2] = ["", "events/#/x"];
const FURTHER_ORDERS: [&str; 3] = ["HTTPExport2", "Transform, HTTPExport2", "AddTags, HTTPExport2"];
const BROKEN_FURTHER_ORDERS: [&str; 2] = ["", "NoSuchFunction, HTTPExport2"];

/// Draws edits.
pub(super) struct Edits {
    pub(super) random: Random,
    /// What a `Url` begins with.
    pub(super) sink: String,
    pub(super) drawn: u64,
}

impl Edits {
    pub(super) fn next(&mut self, model: &Model) -> Edit {
        self.drawn += 1;
        match self.random.below(100) {
            0..34 => Edit::Together(vec![self.leaf()]),
            34..46 => {
                let count = 2 + self.random.below(4);
                Edit::Together((0..count).map(|_| self.any()).collect())
            }
            46..52 => Edit::Together(vec![self.secret()]),
            52..66 => Edit::Together(self.function()),
            66..86 => Edit::Together(self.pipeline(model)),
            86..91 => Edit::Together(vec![self.oddity()]),
            _ => self.burst(model),
        }
    }

    fn layer(&mut self) -> Layer {
        self.random.pick(&[
            Layer::Private,
            Layer::Private,
            Layer::AppServices,
            Layer::AllServices,
        ])
    }

    fn one_of(&mut self, good: &[&'static str], bad: &[&'static str]) -> &'static str {
        match self.random.below(4) {
            0 if !bad.is_empty() => self.random.pick(bad),
            _ => self.random.pick(good),
        }
    }

    fn any(&mut self) -> Change {
        match self.random.below(4) {
            0 => self.secret(),
            1 => self.order(),
            _ => self.leaf(),
        }
    }

    fn leaf(&mut self) -> Change {
        let layer = self.layer();
        match self.random.below(10) {
            0 => {
                let name = self.random.pick(&["Site", "Gateway"]);
                let text = self.random.pick(&["", "a", "ü / %"]);
                Change::set(layer, format_args!("Telemetry/Tags/{name}"), text)
            }
            1 => Change::delete(
                layer,
                format_args!("Telemetry/Tags/{}", self.random.pick(&["Site", "Gateway"])),
            ),
            kind => {
                let (path, good, bad) = self.random.pick(&LEAVES);
                match kind {
                    2..5 => Change::delete(layer, path),
                    _ => Change::set(layer, path, self.one_of(good, bad)),
                }
            }
        }
    }

    fn order(&mut self) -> Change {
        match self.random.below(8) {
            // Below is one that is always good.
            0 => Change::delete(Layer::Private, "Pipeline/ExecutionOrder"),
            _ => {
                let order = self.one_of(&ORDERS, &BROKEN_ORDERS);
                Change::set(Layer::Private, "Pipeline/ExecutionOrder", order)
            }
        }
    }

    /// `http` is in a header of every export, and so always has its value.
    fn secret(&mut self) -> Change {
        let value = format!("secret-{}", self.drawn);
        let layer = self.layer();
        match self.random.below(6) {
            0 => Change::set(
                Layer::Private,
                "InsecureSecrets/http/SecretData/headervalue",
                value,
            ),
            1 => {
                let name = self.one_of(&["http"], &["", " "]);
                Change::set(Layer::Private, "InsecureSecrets/http/SecretName", name)
            }
            2 => Change::set(
                layer,
                "InsecureSecrets/spare/SecretName",
                self.one_of(&["spare", "other"], &[""]),
            ),
            3 => Change::set(layer, "InsecureSecrets/spare/SecretData/password", value),
            4 => Change::delete(layer, "InsecureSecrets/spare/SecretName"),
            _ => Change::delete_below(layer, "InsecureSecrets/spare/"),
        }
    }

    fn function(&mut self) -> Vec<Change> {
        let functions = "Pipeline/Functions";
        let (name, parameters) = self.random.pick(&RESTORED);
        match self.random.below(8) {
            0 => vec![Change::delete_below(
                Layer::Private,
                format_args!("{functions}/{name}/"),
            )],
            1 | 2 => {
                let restored = parameters.iter();
                let path = |parameter: &str| format!("{functions}/{name}/Parameters/{parameter}");
                restored
                    .map(|(parameter, text)| Change::set(Layer::Private, path(parameter), *text))
                    .collect()
            }
            3 => vec![self.url()],
            4 => {
                let text = self.random.pick(&["AddTags, HTTPExport", "HTTPExport"]);
                let layer = self.random.pick(&[Layer::AppServices, Layer::Private]);
                let order = Change::set(layer, "Pipeline/ExecutionOrder", text);
                vec![order, self.url()]
            }
            _ => {
                let (path, good, bad) = self.random.pick(&PARAMETERS);
                let text = self.one_of(good, bad);
                vec![Change::set(
                    Layer::Private,
                    format_args!("{functions}/{path}"),
                    text,
                )]
            }
        }
    }

    fn url(&mut self) -> Change {
        let url = format!("{}/export/{}", self.sink, self.drawn);
        Change::set(
            Layer::Private,
            "Pipeline/Functions/HTTPExport/Parameters/Url",
            url,
        )
    }

    fn pipeline(&mut self, model: &Model) -> Vec<Change> {
        const FOLDER: &str = "Pipeline/PerTopicPipelines";
        let layer = self
            .random
            .pick(&[Layer::Private, Layer::Private, Layer::AppServices]);
        let name = self.random.pick(&ENTRIES);
        let path = |name: &str, leaf: &str| format!("{FOLDER}/{name}/{leaf}");
        match self.random.below(9) {
            0 => vec![self.order()],
            1..4 => {
                let id = self.one_of(&IDS, &BROKEN_IDS);
                let topics = self.one_of(&TOPICS, &BROKEN_TOPICS);
                let order = self.one_of(&FURTHER_ORDERS, &BROKEN_FURTHER_ORDERS);
                [("Id", id), ("Topics", topics), ("ExecutionOrder", order)]
                    .map(|(leaf, text)| Change::set(layer, path(name, leaf), text))
                    .into()
            }
            4 => vec![Change::delete_below(layer, format_args!("{FOLDER}/{name}/"))],
            5 => {
                // Renamed: what the entry holds is under another name in the same transaction, sometimes with a mistake.
                let to = self.random.pick(&ENTRIES);
                let from = format!("Writable/{FOLDER}/{name}/");
                let mut moved = vec![Change::delete_below(layer, format_args!("{FOLDER}/{name}/"))];
                for (leaf, text) in model.layer(layer) {
                    if let Some(leaf) = leaf.strip_prefix(&from) {
                        moved.push(Change::set(layer, path(to, leaf), text));
                    }
                }
                if self.random.below(3) == 0 {
                    moved.push(Change::set(layer, path(to, "ExecutionOrder"), "NoSuchFunction"));
                }
                moved
            }
            6 => vec![Change::set(
                layer,
                path(name, "Id"),
                self.one_of(&IDS, &BROKEN_IDS),
            )],
            7 => vec![Change::set(
                layer,
                path(name, "Topics"),
                self.one_of(&TOPICS, &BROKEN_TOPICS),
            )],
            _ => {
                let order = self.one_of(&FURTHER_ORDERS, &BROKEN_FURTHER_ORDERS);
                vec![Change::set(layer, path(name, "ExecutionOrder"), order)]
            }
        }
    }

    /// Folders made by hand, values where folders are, folders where values are, and keys of nobody.
    fn oddity(&mut self) -> Change {
        let layer = self.layer();
        match self.random.below(8) {
            0 => Change::set(layer, "Pipeline/Functions/", ""),
            1 => Change::set(layer, "Pipeline/PerTopicPipelines/", ""),
            2 => Change::set(layer, "Pipeline", self.random.pick(&["", "x"])),
            3 => Change::set(layer, "LogLevel/Sub", "INFO"),
            4 => Change::set(layer, "Nobodys/Key", "1"),
            5 => Change::set(layer, "", ""),
            _ => {
                let path =
                    self.random
                        .pick(&["Pipeline", "LogLevel/Sub", "Nobodys/Key", "Pipeline/Functions/"]);
                Change::delete(layer, path)
            }
        }
    }

    /// Good values alone, over good ones alone: what holds in the end does not depend on what was seen on the way.
    fn burst(&mut self, model: &Model) -> Edit {
        let count = 3 + self.random.below(10);
        let mut changes = Vec::new();
        for _ in 0..count {
            let (path, good, _) = self.random.pick(&LEAVES);
            let (layer, url) = (self.layer(), self.random.below(4) == 0);
            if url {
                self.drawn += 1;
                changes.push(self.url());
            } else if model.is_good_everywhere(&format!("Writable/{path}")) {
                changes.push(match self.random.below(4) {
                    0 => Change::delete(layer, path),
                    _ => Change::set(layer, path, self.random.pick(good)),
                });
            }
        }
        Edit::Burst(changes)
    }
}
