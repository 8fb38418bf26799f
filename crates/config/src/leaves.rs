//! The settings that hold, by path, each already read: what [`Configuration`](crate::Configuration) is built from.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{Section, duration::GoDuration, redact, scalar::Value};

/// Where a value comes from, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The default of the schema.
    Default,
    /// The common settings of all services.
    AllServices,
    /// The common settings of application services.
    AppServices,
    /// The settings of this service.
    Private,
    /// An environment variable.
    Environment,
    /// What `-d` or `-rsh` put in place.
    CommandLine,
    /// An earlier configuration, because the current value cannot be used.
    LastGood,
}

impl From<Section> for Origin {
    fn from(section: Section) -> Self {
        match section {
            Section::AllServices => Self::AllServices,
            Section::AppServices => Self::AppServices,
            Section::Private => Self::Private,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::AllServices => "all-services",
            Self::AppServices => "app-services",
            Self::Private => "private configuration",
            Self::Environment => "environment",
            Self::CommandLine => "command line",
            Self::LastGood => "last good value",
        })
    }
}

/// A setting that holds. `Debug` does not show its text, which may be a secret.
#[derive(Clone, PartialEq)]
pub struct Leaf {
    text: String,
    value: Value,
    origin: Origin,
}

impl Leaf {
    pub(crate) fn new(text: impl Into<String>, value: Value, origin: Origin) -> Self {
        Self {
            text: text.into(),
            value,
            origin,
        }
    }

    /// The text as it was configured. It may be a secret: show it through [`Leaves::shown`].
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    pub(crate) fn value(&self) -> Value {
        self.value
    }

    pub(crate) fn kept(&self) -> Self {
        Self {
            origin: Origin::LastGood,
            ..self.clone()
        }
    }
}

/// All settings that hold, by path. Every setting of the schema with a fixed path and a default is among them. `Debug`
/// shows no secret.
#[derive(Clone, Default, PartialEq)]
pub struct Leaves(BTreeMap<String, Leaf>);

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("value", &self.value)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self
            .0
            .iter()
            .map(|(path, leaf)| (path, (redact::shown(path, &leaf.text), leaf.origin)));
        f.debug_map().entries(shown).finish()
    }
}

impl Leaves {
    /// One setting.
    pub fn get(&self, path: &str) -> Option<&Leaf> {
        self.0.get(path)
    }

    /// All settings by ascending path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Leaf)> {
        self.0.iter().map(|(path, leaf)| (path.as_str(), leaf))
    }

    /// The text of a setting for a log line or an answer: secrets and passwords in URLs are replaced.
    pub fn shown(&self, path: &str) -> Option<String> {
        self.get(path).map(|leaf| redact::shown(path, leaf.text()))
    }

    /// A setting as JSON: numbers and booleans as such, all else as [`Leaves::shown`].
    pub fn json(&self, path: &str) -> Option<serde_json::Value> {
        self.get(path)
            .map(|leaf| crate::configuration::leaf_json(path, leaf))
    }

    pub(crate) fn insert(&mut self, path: String, leaf: Leaf) {
        self.0.insert(path, leaf);
    }

    /// Removes the settings below a folder, which is given with its slash.
    pub(crate) fn remove_below(&mut self, folder: &str) {
        self.0.retain(|path, _| !path.starts_with(folder));
    }

    /// The settings below a folder (given with its slash), by their path below it.
    pub(crate) fn below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a Leaf)> {
        self.0
            .range(folder.to_owned()..)
            .map_while(move |(path, leaf)| path.strip_prefix(folder).map(|rest| (rest, leaf)))
    }

    /// The names of the entries of a map that is given as a folder with its slash.
    pub(crate) fn names<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a str> {
        let mut last = None;
        self.below(folder).filter_map(move |(rest, _)| {
            let name = rest.split('/').next();
            (last != name).then(|| last = name).and(name)
        })
    }

    /// A flat map of texts.
    pub(crate) fn texts(&self, folder: &str) -> BTreeMap<String, String> {
        self.below(folder)
            .map(|(name, leaf)| (name.to_owned(), leaf.text.clone()))
            .collect()
    }

    fn required(&self, path: &str) -> &Leaf {
        self.get(path)
            .expect("a setting with a default always has a value")
    }

    pub(crate) fn text(&self, path: &str) -> String {
        self.required(path).text.clone()
    }

    /// The text, or another one when it is empty.
    pub(crate) fn text_or(&self, path: &str, otherwise: &str) -> String {
        match self.get(path).map(Leaf::text) {
            None | Some("") => otherwise.to_owned(),
            Some(text) => text.to_owned(),
        }
    }

    /// A comma list: trimmed, blanks dropped.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let items = self.required(path).text.split(',').map(str::trim);
        items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    pub(crate) fn bool(&self, path: &str) -> bool {
        match self.required(path).value {
            Value::Bool(value) => value,
            other => unreachable!("{path} is not a boolean but {other:?}"),
        }
    }

    pub(crate) fn int<T: TryFrom<i64>>(&self, path: &str) -> T {
        let Value::Int(value) = self.required(path).value else {
            unreachable!("{path} is not a whole number");
        };
        T::try_from(value)
            .unwrap_or_else(|_| unreachable!("{path}: the schema allows {value}, the type does not"))
    }

    pub(crate) fn number(&self, path: &str) -> f64 {
        match self.required(path).value {
            Value::Number(value) => value,
            other => unreachable!("{path} is not a number but {other:?}"),
        }
    }

    pub(crate) fn bytes<T: TryFrom<u64>>(&self, path: &str) -> T {
        let Value::Bytes(value) = self.required(path).value else {
            unreachable!("{path} is not a size");
        };
        T::try_from(value)
            .unwrap_or_else(|_| unreachable!("{path}: the schema allows {value}, the type does not"))
    }

    pub(crate) fn word(&self, path: &str) -> &'static str {
        match self.required(path).value {
            Value::Word(value) => value,
            other => unreachable!("{path} is not one of some words but {other:?}"),
        }
    }

    pub(crate) fn duration(&self, path: &str) -> Duration {
        let Value::Duration(value) = self.required(path).value else {
            unreachable!("{path} is not a duration");
        };
        GoDuration::to_std(value).expect("the schema refuses durations below zero")
    }

    /// A duration of which zero means that there is none.
    pub(crate) fn some_duration(&self, path: &str) -> Option<Duration> {
        Some(self.duration(path)).filter(|duration| !duration.is_zero())
    }
}
