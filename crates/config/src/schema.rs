//! Every setting there is, in one table: its path, what it holds, its default and whether a change acts at once.
//!
//! The table drives defaults, decoding, overrides from the environment, the check of a configuration and the table in
//! the README. What a setting means for a running service is not in here.

mod similar;
mod table;

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

pub use self::similar::{similar_name, similar_setting};
pub use crate::scalar::Kind;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Its path; a segment in angle brackets stands for any name: `Clients/<name>/Host`.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// The text that holds when no layer has the setting; none for a setting that may be absent.
    pub default: Option<&'static str>,
    /// Whether EdgeX knows it too.
    pub of_edgex: bool,
    /// What it means, in one line.
    pub meaning: &'static str,
}

impl Setting {
    /// Whether a change acts without a restart.
    pub fn is_hot(&self) -> bool {
        self.path.starts_with("Writable/")
    }

    /// Whether this text is accepted without being heeded: configurations of EdgeX have settings that change nothing here.
    pub fn ignores(&self, text: &str) -> bool {
        let mut unread = table::WITHOUT_EFFECT.iter();
        unread.any(|(path, done_anyway)| *path == self.path && *done_anyway != text)
    }

    pub(crate) fn is_pattern(&self) -> bool {
        self.path.contains('<')
    }

    /// Whether this row is the one of a concrete path.
    fn describes(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        self.path
            .split('/')
            .all(|wanted| segments.next().is_some_and(|segment| fits(wanted, segment)))
            && segments.next().is_none()
    }

    /// This path with the names of `path`, as far as both share one entry of a map: `Clients/<name>/Port` and
    /// `Clients/core-metadata/Host` make `Clients/core-metadata/Port`. None when the entry is another one, or when
    /// the last segment is itself a name, which cannot be known.
    pub(crate) fn sibling_of(&self, path: &str) -> Option<String> {
        let wanted: Vec<_> = self.path.split('/').collect();
        let last_name = wanted.iter().rposition(|segment| segment.starts_with('<'))?;
        let names: Vec<_> = path.split('/').take(last_name + 1).collect();
        let shared = last_name + 1 < wanted.len()
            && names.len() == last_name + 1
            && wanted.iter().zip(&names).all(|(wanted, name)| fits(wanted, name));
        shared.then(|| [&names[..], &wanted[last_name + 1..]].concat().join("/"))
    }
}

fn fits(wanted: &str, segment: &str) -> bool {
    if wanted.starts_with('<') {
        !segment.is_empty()
    } else {
        wanted == segment
    }
}

/// Where a path stands in the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// It is a setting.
    Setting(&'static Setting),
    /// Settings are below it.
    Folder,
    /// It is below something that is a setting itself.
    BelowSetting,
    /// Nothing is known of it.
    Unknown,
}

/// All settings: those of EdgeX, then those of Edgehold.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    table::EDGEX.iter().chain(table::OWN)
}

/// The rows that name their path.
static NAMED: LazyLock<HashMap<&'static str, &'static Setting>> = LazyLock::new(|| {
    let named = settings().filter(|setting| !setting.is_pattern());
    named.map(|setting| (setting.path, setting)).collect()
});

/// The rows that fit paths by pattern.
static PATTERNS: LazyLock<Vec<&'static Setting>> =
    LazyLock::new(|| settings().filter(|setting| setting.is_pattern()).collect());

/// The setting of a concrete path. A row that names the path wins over one that fits by pattern.
pub fn find(path: &str) -> Option<&'static Setting> {
    let by_pattern = || PATTERNS.iter().find(|setting| setting.describes(path));
    NAMED.get(path).or_else(by_pattern).copied()
}

/// Why a setting cannot have this text; none when it can.
pub fn refusal(path: &str, text: &str) -> Option<String> {
    match place(path) {
        Place::Setting(setting) => setting.kind.read(text).err(),
        Place::Folder => Some("settings are below it, it has no value of its own".to_owned()),
        Place::BelowSetting => Some("it is below a setting, which is not a folder".to_owned()),
        Place::Unknown => Some("it is no setting".to_owned()),
    }
}

/// Whether nothing is known of a path: neither a setting nor a folder of settings, nor below one.
pub fn is_unknown(path: &str) -> bool {
    place(path) == Place::Unknown
}

/// Where a path stands in the table.
pub(crate) fn place(path: &str) -> Place {
    if let Some(setting) = find(path) {
        return Place::Setting(setting);
    }
    let segments: Vec<_> = path.split('/').collect();
    let is_folder_of = |setting: &Setting| {
        let wanted: Vec<_> = setting.path.split('/').collect();
        segments.len() < wanted.len() && wanted.iter().zip(&segments).all(|(w, s)| fits(w, s))
    };
    if settings().any(is_folder_of) {
        return Place::Folder;
    }
    let above = |(end, _): (usize, &str)| find(&path[..end]).is_some();
    if path.match_indices('/').any(above) {
        Place::BelowSetting
    } else {
        Place::Unknown
    }
}

/// Every setting that has a value or a default when these paths are there: the settings with fixed paths, those of
/// `paths` that are settings, and the other settings of the map entries that appear among them.
pub(crate) fn complete<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, &'static Setting> {
    let mut all: BTreeMap<String, &'static Setting> = NAMED
        .iter()
        .map(|(path, setting)| ((*path).to_owned(), *setting))
        .collect();
    for path in paths {
        for setting in PATTERNS.iter().copied() {
            if let Some(sibling) = setting.sibling_of(path) {
                all.entry(sibling).or_insert(setting);
            } else if setting.describes(path) {
                all.entry(path.to_owned()).or_insert(setting);
            }
        }
    }
    all
}

/// The folder of the configurable functions.
pub(crate) const FUNCTIONS: &str = "Writable/Pipeline/Functions/";

/// The folder of the further pipelines.
pub(crate) const PER_TOPIC_PIPELINES: &str = "Writable/Pipeline/PerTopicPipelines/";

/// The folder of the secrets of insecure mode.
pub(crate) const INSECURE_SECRETS: &str = "Writable/InsecureSecrets/";

/// The configured function that a path belongs to.
pub(crate) fn function_of(path: &str) -> Option<&str> {
    path.strip_prefix(FUNCTIONS)?
        .split('/')
        .next()
        .filter(|name| !name.is_empty())
}

/// The table as Markdown, for the README: key, value, default, whether a change acts at once, meaning.
pub fn settings_table_markdown() -> String {
    let mut text =
        String::from("| Key | Value | Default | Hot | Meaning |\n| --- | --- | --- | --- | --- |\n");
    for setting in settings() {
        let default = match setting.default {
            None => "–".to_owned(),
            Some("") => "empty".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        let hot = if setting.is_hot() { "yes" } else { "no" };
        let key = setting.path.replace('/', ".");
        text += &format!(
            "| `{key}` | {} | {default} | {hot} | {} |\n",
            setting.kind.describe().replace('|', "\\|"),
            setting.meaning
        );
    }
    text
}

#[cfg(test)]
mod shown;

#[cfg(test)]
mod tests;
