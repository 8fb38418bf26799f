//! Fresh providers, and hands on what is behind them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use edgehold_config::{
    Edit, Layer, Section,
    conformance::{Behind, TestProvider, any_path},
    file::{FileProvider, FileSource},
    memory::MemoryProvider,
};
use edgehold_core::BoxFuture;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A provider in memory.
pub(crate) async fn memory() -> TestProvider {
    let provider = MemoryProvider::default();
    TestProvider {
        provider: Arc::new(provider.clone()),
        behind: Box::new(InMemory(provider)),
        is_legal: any_path,
    }
}

/// The hand on a provider in memory.
pub(crate) struct InMemory(pub(crate) MemoryProvider);

impl Behind for InMemory {
    fn edit<'a>(&'a self, edits: &'a [Edit]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.0.transaction(|sections| {
                for edit in edits {
                    match &edit.text {
                        Some(text) => sections.set(edit.section, &edit.path, text),
                        None => sections.delete(edit.section, &edit.path),
                    }
                }
            });
        })
    }

    fn set_away(&self, away: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.set_available(!away) })
    }

    fn set_ready(&self, ready: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.set_ready(ready) })
    }
}

/// A private and a common file, looked at so often that no test waits for long.
pub(crate) async fn files() -> TestProvider {
    let folder = tempfile::tempdir().expect("a folder");
    let [private, common] = ["configuration.yaml", "common.yaml"].map(|name| folder.path().join(name));
    let provider = FileProvider::new(
        FileSource::File(private.clone()),
        FileSource::File(common.clone()),
    );
    TestProvider {
        provider: Arc::new(provider.looking_every(Duration::from_millis(20))),
        behind: Box::new(Files {
            private,
            common,
            state: Mutex::default(),
            _folder: folder,
        }),
        is_legal: any_path,
    }
}

struct Files {
    private: PathBuf,
    common: PathBuf,
    state: Mutex<State>,
    _folder: TempDir,
}

#[derive(Default)]
struct State {
    sections: [Layer; 3],
    away: bool,
}

impl Files {
    fn write(&self, state: &State) {
        if state.away {
            return;
        }
        let [all, app, private] = state.sections.each_ref().map(tree);
        replace(&self.private, &private);
        replace(&self.common, &json!({"all-services": all, "app-services": app}));
    }
}

impl Behind for Files {
    fn edit<'a>(&'a self, edits: &'a [Edit]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut state = self.state.lock().expect("no test panics while it holds it");
            for edit in edits {
                let layer = match edit.section {
                    Section::AllServices => &mut state.sections[0],
                    Section::AppServices => &mut state.sections[1],
                    Section::Private => &mut state.sections[2],
                };
                match &edit.text {
                    Some(text) => layer.insert(&*edit.path, text),
                    None => drop(layer.remove(&edit.path)),
                }
            }
            self.write(&state);
        })
    }

    /// A file that has gone, and comes back.
    fn set_away(&self, away: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut state = self.state.lock().expect("no test panics while it holds it");
            state.away = away;
            if away {
                fs::remove_file(&self.private).expect("the file was there");
            }
            self.write(&state);
        })
    }

    fn set_ready(&self, _: bool) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

fn replace(path: &Path, content: &Value) {
    let new = path.with_extension("new");
    // YAML takes JSON as it is.
    fs::write(&new, content.to_string()).expect("the file can be written");
    fs::rename(new, path).expect("the file can be replaced");
}

/// Maps in maps; null for nothing at all.
fn tree(layer: &Layer) -> Value {
    fn insert(map: &mut Map<String, Value>, path: &str, text: &str) {
        match path.split_once('/') {
            None => {
                map.insert(path.to_owned(), text.into());
            }
            Some((name, rest)) => {
                let below = map.entry(name).or_insert_with(|| json!({}));
                insert(below.as_object_mut().expect("no leaf is a folder"), rest, text);
            }
        }
    }
    if layer.is_empty() {
        return Value::Null;
    }
    let mut map = Map::new();
    for (path, text) in layer.iter() {
        insert(&mut map, path, text);
    }
    map.into()
}
