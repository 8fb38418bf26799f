//! What differs between two configurations, leaf by leaf.

use std::{collections::BTreeSet, fmt};

use crate::{Effective, Leaf, Origin};

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path.
    pub key: String,
    /// The text before, as it may be shown; none when it was not there.
    pub old: Option<String>,
    /// The text now, as it may be shown; none when it is no longer there.
    pub new: Option<String>,
    /// Where the setting comes from now, or came from when it is gone.
    pub origin: Origin,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.key)?;
        match (&self.old, &self.new) {
            (Some(old), Some(new)) if old == new => f.write_str("has changed"),
            (Some(old), Some(new)) => write!(f, "has changed from '{old}' to '{new}'"),
            (None, Some(new)) => write!(f, "is now '{new}'"),
            (Some(old), None) => write!(f, "was '{old}' and is gone"),
            (None, None) => f.write_str("is gone"),
        }
    }
}

/// The settings that differ between two outcomes, by ascending path. A secret that differs is named, its values are not
/// shown. A setting that only comes from elsewhere does not differ.
pub fn diff(old: &Effective, new: &Effective) -> Vec<Change> {
    let (old, new) = (old.configuration.leaves(), new.configuration.leaves());
    let paths: BTreeSet<&str> = old.iter().chain(new.iter()).map(|(path, _)| path).collect();
    let differs = |path: &&str| old.get(path).map(Leaf::text) != new.get(path).map(Leaf::text);
    let change = |path: &str| {
        let origin = new.get(path).or(old.get(path))?.origin();
        Some(Change {
            key: path.to_owned(),
            old: old.shown(path),
            new: new.shown(path),
            origin,
        })
    };
    paths.into_iter().filter(differs).filter_map(change).collect()
}
