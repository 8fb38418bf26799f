//! Writing: leaves that are missing, and changes of single ones.
//!
//! Core Keeper has no check-and-set. It has one thing that takes place together: a flattened write. So what is written
//! together goes as one of those, and what is expected is looked at right before. Somebody else who writes the same leaf
//! in the few milliseconds between is not noticed.

use std::collections::BTreeMap;

use edgehold_config::{Edit, EditError, Layer, ProviderError, Section};
use serde_json::{Map, Value};

use crate::{
    client::Session,
    key::can_be_flattened,
    section::{Reading, STEM, Sections},
};

/// Writes leaves into the private section, one by one as EdgeX does, and answers how many were written.
pub(crate) async fn seed(
    session: &Session<'_>,
    sections: &Sections,
    leaves: &Layer,
    overwrite: bool,
) -> Result<usize, ProviderError> {
    let there = match overwrite {
        true => None,
        false => Some(sections.read(session, "").await?),
    };
    let mut written = 0;
    for (path, text) in leaves.iter() {
        let key = sections.key(Section::Private, path);
        if there.as_ref().is_some_and(|there| has(there, path, &key)) {
            continue;
        }
        session.put(&key, text).await?;
        written += 1;
    }
    Ok(written)
}

fn has(reading: &Reading, path: &str, key: &str) -> bool {
    let private = reading.snapshot.private.as_ref();
    private.is_some_and(|private| private.get(path).is_some())
        || reading.unusable.iter().any(|unusable| unusable == key)
}

/// Makes the edits and answers how many leaves were written or removed: what is set in one write, as far as its keys
/// allow, and then what is removed, one by one.
pub(crate) async fn edit(
    session: &Session<'_>,
    sections: &Sections,
    groups: &[Vec<Edit>],
) -> Result<usize, EditError> {
    if groups.iter().all(Vec::is_empty) {
        return Ok(0);
    }
    let there = sections.read(session, "").await?;
    let mut changes: BTreeMap<String, Option<&str>> = BTreeMap::new();
    for edit in groups.iter().flatten() {
        let layer = match edit.section {
            Section::AllServices => &there.snapshot.all_services,
            Section::AppServices => &there.snapshot.app_services,
            Section::Private => &there.snapshot.private,
        };
        let current = layer.as_ref().and_then(|layer| layer.get(&edit.path));
        if !edit.expected.fits(current) {
            let path = edit.path.clone();
            return Err(EditError::Conflict { path });
        }
        let key = sections.key(edit.section, &edit.path);
        match (&edit.text, current) {
            (Some(text), _) => _ = changes.insert(key, Some(text)),
            (None, Some(_)) => _ = changes.insert(key, None),
            // Nothing to remove, unless an edit before this one has set it.
            (None, None) => _ = changes.remove(&key),
        }
    }
    let sets = changes
        .iter()
        .filter_map(|(key, text)| Some((key.as_str(), (*text)?)));
    let Plan { folder, tree, single } = Plan::of(sets.collect());
    if let Some(tree) = tree {
        session.put_tree(&folder, &tree).await?;
    }
    for (key, text) in single {
        session.put(key, text).await?;
    }
    for (key, _) in changes.iter().filter(|(_, text)| text.is_none()) {
        session.delete(key).await?;
    }
    Ok(changes.len())
}

/// Which leaves go together and which alone.
struct Plan<'a> {
    /// Below which key the tree is written.
    folder: String,
    /// None when at most one leaf could stand in it.
    tree: Option<Value>,
    single: Vec<(&'a str, &'a str)>,
}

impl<'a> Plan<'a> {
    fn of(leaves: Vec<(&'a str, &'a str)>) -> Self {
        let (mut together, mut single): (Vec<_>, Vec<_>) =
            leaves.into_iter().partition(|(key, _)| can_be_flattened(key));
        // A tree cannot have a leaf where it has a branch: of a key and those below it, the key goes alone. Those below
        // it follow it, if not at once: `a`, `a-b`, `a/c`.
        let keys: Vec<&str> = together.iter().map(|(key, _)| *key).collect();
        let is_branch = |key: &str| {
            let mut below = keys.iter().filter_map(|other| other.strip_prefix(key));
            below.any(|rest| rest.starts_with('/'))
        };
        together.retain(|leaf| {
            let branch = is_branch(leaf.0);
            if branch {
                single.push(*leaf);
            }
            !branch
        });
        if together.len() < 2 {
            single.append(&mut together);
            return Self {
                folder: String::new(),
                tree: None,
                single,
            };
        }
        let folder = common_folder(together.iter().map(|(key, _)| *key));
        let mut tree = Value::Object(Map::new());
        for (key, text) in together {
            let mut place = &mut tree;
            for level in key[folder.len() + 1..].split('/') {
                place = &mut place[level];
            }
            *place = Value::from(text);
        }
        Self {
            folder,
            tree: Some(tree),
            single,
        }
    }
}

/// The deepest key that all of these stand below.
fn common_folder<'a>(mut keys: impl Iterator<Item = &'a str>) -> String {
    let levels = |key: &'a str| key.rsplit_once('/').map_or("", |(folder, _)| folder);
    let first = keys.next().map_or(STEM, levels);
    let mut common: Vec<&str> = first.split('/').collect();
    for key in keys {
        let same = levels(key)
            .split('/')
            .zip(&common)
            .take_while(|(one, other)| one == *other);
        common.truncate(same.count());
    }
    common.join("/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_can_stand_in_one_tree_is_written_as_one() {
        let plan = Plan::of(vec![
            ("edgex/v4/app-x/Writable/A", "1"),
            ("edgex/v4/app-x/Writable/A-b", "2"),
            ("edgex/v4/app-x/Writable/A/c/d", "3"),
            ("edgex/v4/app-x/Writable/A/e", "4"),
            ("edgex/v4/app-x/Writable/odd//key", "5"),
        ]);
        assert_eq!(plan.folder, "edgex/v4/app-x/Writable");
        assert_eq!(
            plan.tree,
            Some(json!({"A-b": "2", "A": {"c": {"d": "3"}, "e": "4"}}))
        );
        assert_eq!(
            plan.single,
            [
                ("edgex/v4/app-x/Writable/odd//key", "5"),
                ("edgex/v4/app-x/Writable/A", "1"),
            ]
        );

        let plan = Plan::of(vec![("edgex/v4/app-x/a", "1"), ("edgex/v4/core-x/b/c", "2")]);
        assert_eq!(plan.folder, "edgex/v4");
        assert_eq!(
            plan.tree,
            Some(json!({"app-x": {"a": "1"}, "core-x": {"b": {"c": "2"}}}))
        );

        for few in [vec![], vec![("edgex/v4/app-x/a", "1")]] {
            let plan = Plan::of(few.clone());
            assert_eq!((plan.tree, plan.single), (None, few));
        }
    }
}
