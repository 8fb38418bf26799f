//! Overrides from environment variables: `WRITABLE_STOREANDFORWARD_ENABLED=true`.
//!
//! The name of a variable is a path in upper case with `/` and `-` as `_`. Any setting of the schema may be overridden,
//! and below the maps of free names whatever is there: an existing leaf, the other settings of an existing entry, and
//! any parameter of an existing function (parameter names have no case). Reading the environment is the caller's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    Effective, Layer, Layers,
    redact::{shown, without_passwords},
    schema::{self, FUNCTIONS, Kind, Place},
};

/// What the environment overrides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The overrides as a layer.
    pub layer: Layer,
    /// Each override for a log line, by name of its variable.
    pub applied: Vec<Override>,
    /// Variables whose names begin like a setting's and mean none, by name: likely typing errors.
    pub without_effect: Vec<String>,
}

/// A variable that sets a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The variable.
    pub variable: String,
    /// The settings it sets. More than one when their paths differ only in case, `-` and `_`.
    pub paths: Vec<String>,
    /// The value as it may be shown.
    pub value: String,
}

/// Variables whose values cannot be used: each on a line of its own, with the variable, the setting and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct EnvironmentError(Vec<String>);

impl EnvironmentError {
    /// What is wrong, by variable.
    pub fn problems(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|problem| problem.split_once('=').unwrap_or((problem, "")))
    }
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "environment variables cannot be used: {}", self.0.join("; "))
    }
}

/// Variables that look like overrides of `Clients` and are read elsewhere.
const READ_ELSEWHERE: &str = "CLIENTS_SECURITY_SECRETSTORE_SETUP_";

/// Finds the overrides among `variables`.
///
/// `layers` are all layers that have been read so far; they tell which entries of maps there are. With a configuration
/// provider that includes the private file that is about to be seeded.
///
/// # Errors
/// [`EnvironmentError`] with every variable whose value does not fit its setting.
pub fn overrides(
    variables: &BTreeMap<String, String>,
    layers: &Layers,
) -> Result<Environment, EnvironmentError> {
    let targets = targets(layers);
    let mut environment = Environment::default();
    let mut problems = Vec::new();
    for (variable, text) in variables {
        let paths = match targets.get(variable) {
            Some(paths) => paths.clone(),
            None => Vec::from_iter(parameter(variable, layers)),
        };
        if paths.is_empty() {
            if looks_like_a_setting(variable) {
                environment.without_effect.push(variable.clone());
            }
            continue;
        }
        for path in &paths {
            if let Err(reason) = kind_of(path).read(text) {
                // It repeats the text.
                let reason = without_passwords(&reason);
                problems.push(format!("{variable}='{}' for {path}: {reason}", shown(path, text)));
            }
            environment.layer.insert(path, text);
        }
        let value = shown(&paths[0], text);
        environment.applied.push(Override {
            variable: variable.clone(),
            paths,
            value,
        });
    }
    if problems.is_empty() {
        Ok(environment)
    } else {
        Err(EnvironmentError(problems))
    }
}

/// What to seed into the provider's private section: the private file with the overrides over it, without the marks of
/// empty folders, which other readers of the provider would stumble over.
pub fn seed(private: &Layer, environment: &Layer) -> Layer {
    let leaves = private.iter().chain(environment.iter());
    leaves
        .filter(|(path, text)| !(text.is_empty() && schema::place(path) == Place::Folder))
        .collect()
}

/// An override that does not hold, because the provider has another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The setting.
    pub path: String,
    /// What the environment says, as it may be shown.
    pub environment: String,
    /// What holds, as it may be shown; none when the setting is not there.
    pub effective: Option<String>,
}

/// The overrides that differ from what holds, for a warning: with a provider the environment counts only while the
/// private section is seeded. Values are compared, not their spelling.
pub fn differing_overrides(environment: &Layer, effective: &Effective) -> Vec<Difference> {
    let leaves = effective.configuration.leaves();
    environment
        .iter()
        .filter(|(path, text)| match leaves.get(path) {
            None => true,
            Some(leaf) => {
                let same_value = kind_of(path).read(text).is_ok_and(|reading| {
                    !matches!(kind_of(path), Kind::Text | Kind::Secret) && reading.value == leaf.value()
                });
                !same_value && leaf.text() != *text
            }
        })
        .map(|(path, text)| Difference {
            path: path.to_owned(),
            environment: shown(path, text),
            effective: leaves.shown(path),
        })
        .collect()
}

fn kind_of(path: &str) -> Kind {
    schema::find(path).map_or(Kind::Text, |setting| setting.kind)
}

/// The variable that overrides a path.
pub fn variable_name(path: &str) -> String {
    path.replace(['/', '-'], "_").to_uppercase()
}

/// The variable that one without effect may be meant for.
pub fn similar_variable(variable: &str, layers: &Layers) -> Option<String> {
    let known = targets(layers);
    schema::similar_name(variable, known.keys().map(String::as_str)).map(str::to_owned)
}

/// Every path that may be overridden, by the name of its variable.
fn targets(layers: &Layers) -> BTreeMap<String, Vec<String>> {
    let settings = schema::complete(layers.paths()).into_keys();
    let others = layers
        .paths()
        .filter(|path| schema::place(path) == Place::Unknown)
        .map(str::to_owned);
    let mut targets = BTreeMap::<_, Vec<_>>::new();
    for path in settings.chain(others).collect::<BTreeSet<_>>() {
        targets.entry(variable_name(&path)).or_default().push(path);
    }
    targets
}

/// A parameter that an existing function does not have yet, in lower case. The longest function name wins.
fn parameter(variable: &str, layers: &Layers) -> Option<String> {
    let functions: BTreeSet<_> = layers.names(FUNCTIONS).collect();
    let folders = functions
        .into_iter()
        .map(|name| format!("{FUNCTIONS}{name}/Parameters/"));
    folders
        .filter_map(|folder| {
            let name = variable.strip_prefix(&variable_name(&folder))?;
            let plain =
                !name.is_empty() && name.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
            plain.then(|| format!("{folder}{}", name.to_lowercase()))
        })
        .max_by_key(String::len)
}

fn looks_like_a_setting(variable: &str) -> bool {
    let sections = schema::settings().filter_map(|setting| setting.path.split_once('/'));
    let mut prefixes = sections.map(|(section, _)| format!("{}_", variable_name(section)));
    !variable.starts_with(READ_ELSEWHERE) && prefixes.any(|prefix| variable.starts_with(&prefix))
}

#[cfg(test)]
mod tests;
