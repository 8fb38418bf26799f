//! A configuration provider in memory: the reference for what the others do, and the one tests use.

use std::sync::Arc;

use edgehold_core::{BoxFuture, ShutdownSignal};
use tokio::sync::watch;

use crate::{ConfigurationProvider, Edit, EditError, Layer, ProviderError, Section, Snapshot};

/// Holds the three sections in memory. Clones are the same provider.
///
/// ```
/// use edgehold_config::{ConfigurationProvider, Section, memory::MemoryProvider};
///
/// # futures_executor(async {
/// let provider = MemoryProvider::default();
/// provider.set(Section::Private, "Writable/LogLevel", "DEBUG");
/// let private = provider.load().await?.private.expect("it has a setting");
/// assert_eq!(private.get("Writable/LogLevel"), Some("DEBUG"));
/// # Ok::<(), edgehold_config::ProviderError>(())
/// # });
/// # fn futures_executor<T>(future: impl Future<Output = Result<T, edgehold_config::ProviderError>>) {
/// #     let mut future = std::pin::pin!(future);
/// #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
/// #     assert!(matches!(future.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(_))));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MemoryProvider {
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    sections: Sections,
    ready: bool,
    available: bool,
}

/// The three sections while a transaction changes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    all_services: Layer,
    app_services: Layer,
    private: Layer,
}

impl Sections {
    /// Sets a leaf.
    pub fn set(&mut self, section: Section, path: &str, text: &str) {
        self.layer(section).insert(path, text);
    }

    /// Removes a leaf; one that is not there stays absent.
    pub fn delete(&mut self, section: Section, path: &str) {
        self.layer(section).remove(path);
    }

    /// Removes all leaves of a section.
    pub fn clear(&mut self, section: Section) {
        *self.layer(section) = Layer::default();
    }

    fn layer(&mut self, section: Section) -> &mut Layer {
        match section {
            Section::AllServices => &mut self.all_services,
            Section::AppServices => &mut self.app_services,
            Section::Private => &mut self.private,
        }
    }

    fn snapshot(&self, of: impl Fn(&str) -> bool) -> Snapshot {
        let section = |layer: &Layer| {
            // As elsewhere, a key that ends in a slash is a folder.
            let is_leaf = |path: &str| !path.ends_with('/') && of(path);
            let layer: Layer = layer.iter().filter(|(path, _)| is_leaf(path)).collect();
            (!layer.is_empty()).then_some(layer)
        };
        Snapshot {
            all_services: section(&self.all_services),
            app_services: section(&self.app_services),
            private: section(&self.private),
        }
    }
}

impl Default for MemoryProvider {
    /// Empty, available and with complete common configuration.
    fn default() -> Self {
        let state = State {
            sections: Sections::default(),
            ready: true,
            available: true,
        };
        Self {
            state: watch::Sender::new(state),
        }
    }
}

impl MemoryProvider {
    /// Sets one leaf.
    pub fn set(&self, section: Section, path: &str, text: &str) {
        self.transaction(|sections| sections.set(section, path, text));
    }

    /// Removes one leaf.
    pub fn delete(&self, section: Section, path: &str) {
        self.transaction(|sections| sections.delete(section, path));
    }

    /// Makes several changes at once: no reader sees only some of them.
    pub fn transaction(&self, change: impl FnOnce(&mut Sections)) {
        self.state.send_modify(|state| change(&mut state.sections));
    }

    /// Whether the common configuration is complete.
    pub fn set_ready(&self, ready: bool) {
        self.state.send_modify(|state| state.ready = ready);
    }

    /// Whether calls are answered and changes are told.
    pub fn set_available(&self, available: bool) {
        self.state.send_modify(|state| state.available = available);
    }

    fn answer<T>(&self, of: impl FnOnce(&State) -> T) -> Result<T, ProviderError> {
        let state = self.state.borrow();
        if state.available {
            Ok(of(&state))
        } else {
            Err(unavailable())
        }
    }
}

fn unavailable() -> ProviderError {
    ProviderError::Unavailable {
        provider: "memory".to_owned(),
        reason: "it has been switched off".to_owned(),
        source: None,
    }
}

impl ConfigurationProvider for MemoryProvider {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn check_alive(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(async { self.answer(|_| ()) })
    }

    fn common_config_ready(&self) -> BoxFuture<'_, Result<bool, ProviderError>> {
        Box::pin(async { self.answer(|state| state.ready) })
    }

    fn load(&self) -> BoxFuture<'_, Result<Snapshot, ProviderError>> {
        Box::pin(async { self.answer(|state| state.sections.snapshot(|_| true)) })
    }

    fn seed<'a>(&'a self, leaves: &'a Layer, overwrite: bool) -> BoxFuture<'a, Result<usize, ProviderError>> {
        Box::pin(async move {
            self.answer(|_| ())?;
            let mut written = 0;
            self.transaction(|sections| {
                for (path, text) in leaves.iter() {
                    if overwrite || sections.private.get(path).is_none() {
                        sections.private.insert(path, text);
                        written += 1;
                    }
                }
            });
            Ok(written)
        })
    }

    fn edit<'a>(&'a self, groups: &'a [Vec<Edit>]) -> BoxFuture<'a, Result<usize, EditError>> {
        Box::pin(async move {
            self.answer(|_| ())?;
            let mut written = 0;
            for group in groups {
                let mut conflict = None;
                self.state.send_if_modified(|state| {
                    let sections = &mut state.sections;
                    conflict = group.iter().find(|edit| {
                        let current = sections.layer(edit.section).get(&edit.path);
                        !edit.expected.fits(current)
                    });
                    if conflict.is_some() {
                        return false;
                    }
                    for edit in group {
                        let layer = sections.layer(edit.section);
                        match &edit.text {
                            Some(text) => layer.insert(&*edit.path, text),
                            None if layer.remove(&edit.path).is_none() => continue,
                            None => {}
                        }
                        written += 1;
                    }
                    true
                });
                if let Some(Edit { path, .. }) = conflict.cloned() {
                    return Err(EditError::Conflict { path });
                }
            }
            Ok(written)
        })
    }

    fn watch(
        self: Arc<Self>,
        snapshots: watch::Sender<Option<Snapshot>>,
        mut shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut changes = self.state.subscribe();
            loop {
                let now = {
                    let state = changes.borrow_and_update();
                    state
                        .available
                        .then(|| state.sections.snapshot(|path| path.starts_with("Writable/")))
                };
                if let Some(now) = now {
                    snapshots.send_if_modified(|last| {
                        let differs = last.as_ref() != Some(&now);
                        if differs {
                            *last = Some(now);
                        }
                        differs
                    });
                }
                // All are cancel-safe: they hold nothing of their own.
                tokio::select! {
                    () = shutdown.recv() => return,
                    () = snapshots.closed() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn while_away_it_neither_answers_nor_tells() {
        let provider = MemoryProvider::default();
        provider.set_available(false);
        assert!(provider.check_alive().await.is_err());
        assert!(provider.load().await.is_err());
        assert!(provider.seed(&Layer::default(), false).await.is_err());
        provider.set_available(true);
        provider.set_ready(false);
        assert!(!provider.common_config_ready().await.unwrap());
    }
}
