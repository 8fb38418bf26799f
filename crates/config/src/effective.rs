//! What the layers amount to: one configuration, and what of the layers could not be used.
//!
//! Units are each scalar leaf and each insecure secret. A unit that cannot be read keeps its last good value when there
//! was one; at start the next lower layer's good value is taken, down to the default. Each is named once for each
//! layer it is bad in. All good units of one call hold together, so that what was changed together acts together.
//! Each pipeline with its functions is a unit too, which is judged where pipelines are built (`kept`).
//!
//! ```text
//! leaf:    highest layer that has it ──good──▶ holds
//!                 │ bad: named
//!                 ├── a last good value ─────▶ holds
//!                 └── next lower layer … default
//! secret:  all its leaves, overlaid; without a SecretName the same way down
//! ```

mod diff;
mod kept;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

pub use diff::{Change, diff};
pub use kept::KeptPipelines;

use crate::{
    Configuration, Layer, Layers, Leaf, Leaves, Origin, redact,
    scalar::Value,
    schema::{self, INSECURE_SECRETS, Place, Setting},
};

/// What the layers amount to.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// What holds.
    pub configuration: Arc<Configuration>,
    /// What could not be used, by ascending key.
    pub rejected: Vec<Rejection>,
    /// What was taken for something else than what was written, by ascending key.
    pub adjusted: Vec<Adjustment>,
    /// Keys that mean nothing, by ascending key: a typing error, or a section of somebody else.
    pub unknown: Vec<UnknownKey>,
}

/// A value that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// The path of the setting, or of the entry of a secret.
    pub key: String,
    /// The layer it is in.
    pub section: Origin,
    /// The text as it may be shown.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} = '{}' ({}) cannot be used: {}",
            self.key, self.value, self.section, self.reason
        )
    }
}

/// A value that was taken for another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Adjustment {
    /// The path of the setting.
    pub key: String,
    /// The layer it is in.
    pub section: Origin,
    /// The text as it may be shown.
    pub value: String,
    /// What is done instead.
    pub reason: String,
}

impl fmt::Display for Adjustment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} = '{}' ({}): {}",
            self.key, self.value, self.section, self.reason
        )
    }
}

/// A key that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnknownKey {
    /// Its path.
    pub key: String,
    /// The layer it is in.
    pub section: Origin,
    /// The setting it may be meant for, if one looks like it.
    pub similar: Option<String>,
}

impl Rejection {
    /// As `GET /api/v3/config` shows it: `key`, `value` (secrets redacted), `reason`, and `section`, the layer it is in.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "key": self.key,
            "value": self.value,
            "reason": self.reason,
            "section": self.section.to_string(),
        })
    }
}

impl Effective {
    /// What is rejected now and was not rejected before: what has to be told.
    pub fn newly_rejected<'a>(&'a self, before: Option<&'a Self>) -> impl Iterator<Item = &'a Rejection> {
        self.rejected
            .iter()
            .filter(move |now| before.is_none_or(|before| !before.rejected.contains(now)))
    }

    /// What is adjusted now and was not adjusted before: what has to be told.
    pub fn newly_adjusted<'a>(&'a self, before: Option<&'a Self>) -> impl Iterator<Item = &'a Adjustment> {
        self.adjusted
            .iter()
            .filter(move |now| before.is_none_or(|before| !before.adjusted.contains(now)))
    }
}

/// Overlays all layers afresh, checks every setting and makes the configuration.
///
/// Whatever the layers hold, the outcome is a valid configuration: what is bad is named in it and replaced as the
/// module says. `last_good` is the outcome before; none at start.
pub fn resolve(layers: &Layers, last_good: Option<&Effective>) -> Effective {
    let mut resolver = Resolver {
        stack: layers.stack(),
        last_good: last_good.map(|effective| effective.configuration.leaves()),
        leaves: Leaves::default(),
        rejected: Vec::new(),
        adjusted: Vec::new(),
        unknown: Vec::new(),
    };
    let known = resolver.sort_out();
    for (path, setting) in schema::complete(known) {
        if !path.starts_with(INSECURE_SECRETS) {
            resolver.settle(path, setting);
        }
    }
    for entry in layers.names(INSECURE_SECRETS).collect::<BTreeSet<_>>() {
        resolver.settle_secret(&format!("{INSECURE_SECRETS}{entry}/"));
    }
    let functions: BTreeSet<_> = layers.paths().filter_map(schema::function_of).collect();
    let Resolver {
        leaves,
        mut rejected,
        mut adjusted,
        mut unknown,
        ..
    } = resolver;
    rejected.sort();
    adjusted.sort();
    unknown.sort();
    let configuration = Arc::new(Configuration::from_leaves(Arc::new(leaves), functions));
    Effective {
        configuration,
        rejected,
        adjusted,
        unknown,
    }
}

struct Resolver<'a> {
    /// Highest first.
    stack: [(Origin, &'a Layer); 5],
    last_good: Option<&'a Leaves>,
    leaves: Leaves,
    rejected: Vec<Rejection>,
    adjusted: Vec<Adjustment>,
    unknown: Vec<UnknownKey>,
}

impl<'a> Resolver<'a> {
    fn reject(&mut self, key: &str, section: Origin, value: &str, reason: impl AsRef<str>) {
        self.rejected.push(Rejection {
            key: key.to_owned(),
            section,
            value: redact::shown(key, value),
            // It may repeat the value.
            reason: redact::without_passwords(reason.as_ref()),
        });
    }

    /// Names what stands in the wrong place and answers the settings that are there.
    fn sort_out(&mut self) -> BTreeSet<&'a str> {
        let mut known = BTreeSet::new();
        for (section, layer) in self.stack {
            for (path, text) in layer.iter() {
                match schema::place(path) {
                    Place::Setting(_) => {
                        known.insert(path);
                    }
                    // Null in a file: a folder that is there and empty.
                    Place::Folder if text.is_empty() => {}
                    Place::Folder => self.reject(
                        path,
                        section,
                        text,
                        "settings are below it, it has no value of its own",
                    ),
                    Place::BelowSetting => self.reject(
                        path,
                        section,
                        text,
                        "it is below a setting, which is not a folder",
                    ),
                    Place::Unknown => {
                        self.unknown.push(UnknownKey {
                            key: path.to_owned(),
                            section,
                            similar: schema::similar_setting(path),
                        });
                    }
                }
            }
        }
        known
    }

    /// One scalar leaf.
    fn settle(&mut self, path: String, setting: &Setting) {
        for (section, layer) in self.stack {
            let Some(text) = layer.get(&path) else { continue };
            match setting.kind.read(text) {
                Ok(reading) => {
                    if let Some(reason) = reading.adjusted {
                        let value = redact::shown(&path, text);
                        self.adjusted.push(Adjustment {
                            key: path.clone(),
                            section,
                            value,
                            reason,
                        });
                    }
                    return self.leaves.insert(path, Leaf::new(text, reading.value, section));
                }
                Err(reason) => self.reject(&path, section, text, reason),
            }
            if let Some(leaf) = self.last_good.and_then(|leaves| leaves.get(&path)) {
                return self.leaves.insert(path, leaf.kept());
            }
        }
        if let Some(default) = setting.default {
            let value = setting
                .kind
                .read(default)
                .expect("the schema's defaults are tested")
                .value;
            self.leaves
                .insert(path, Leaf::new(default, value, Origin::Default));
        }
    }

    /// One entry of the insecure secrets: a secret without a name, or one half of a secret, must not hold.
    fn settle_secret(&mut self, folder: &str) {
        let entry = folder.trim_end_matches('/');
        let name = format!("{folder}SecretName");
        for top in 0..self.stack.len() {
            let (section, layer) = self.stack[top];
            let is_ours = |path: &str| path.starts_with(folder) && schema::find(path).is_some();
            if !layer.iter().any(|(path, _)| is_ours(path)) {
                continue;
            }
            // Lowest first, so that higher layers overwrite.
            let mut leaves = BTreeMap::new();
            for (section, layer) in self.stack[top..].iter().rev() {
                for (path, text) in layer.iter().filter(|(path, _)| is_ours(path)) {
                    leaves.insert(path, Leaf::new(text, Value::Text, *section));
                }
            }
            if leaves
                .get(name.as_str())
                .is_some_and(|leaf| !leaf.text().trim().is_empty())
            {
                return leaves
                    .into_iter()
                    .for_each(|(path, leaf)| self.leaves.insert(path.to_owned(), leaf));
            }
            self.reject(entry, section, "", "it has no SecretName");
            if let Some(good) = self.last_good.filter(|leaves| leaves.get(&name).is_some()) {
                for (rest, leaf) in good.below(folder) {
                    self.leaves.insert(format!("{folder}{rest}"), leaf.kept());
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
