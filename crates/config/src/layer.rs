//! One layer of configuration: leaves by path, as text.

use std::{collections::BTreeMap, fmt};

use crate::redact;

/// Leaves by path: `Writable/StoreAndForward/RetryInterval` → `30s`.
///
/// Every source is brought to this form: a configuration provider has it already, a YAML file is flattened as EdgeX
/// seeds it (map → path segment, list element i → segment `i`, integers decimal, booleans `true`/`false`, null → empty
/// text, empty maps nothing). Paths are case-sensitive and have neither a leading nor a trailing slash. `Debug` shows no
/// secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Layer {
    leaves: BTreeMap<String, String>,
}

impl Layer {
    /// The text of a leaf.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.leaves.get(path).map(String::as_str)
    }

    /// Sets a leaf.
    pub fn insert(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.leaves.insert(path.into(), text.into());
    }

    /// Removes a leaf.
    pub fn remove(&mut self, path: &str) -> Option<String> {
        self.leaves.remove(path)
    }

    /// All leaves by ascending path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.leaves
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// How many leaves there are.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|(path, text)| (path, redact::shown(path, text)));
        f.debug_map().entries(shown).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Layer {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(iter: T) -> Self {
        Self {
            leaves: iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        }
    }
}
