//! Settings that change while the service runs: one snapshot of the provider becomes one new configuration.
//!
//! ```text
//! provider ─ snapshot ─▶ layers ─ resolve ─▶ effective ─▶ log level
//!                                                   ├───▶ pipelines  (watch)
//!                                                   └───▶ writable   (watch)
//! ```
//!
//! All good units of a snapshot apply together, in one turn without an await. A bad one keeps its last good value, is
//! named once and blocks nothing. What a change does is the business of whoever holds the receiver.

use std::{collections::BTreeSet, sync::Arc};

use edgehold_config::{Change, Effective, Layers, Rejection, Snapshot, Writable, diff, resolve};
use edgehold_core::{PipelineSet, ShutdownSignal};
use edgehold_runtime::{PipelineRejection, Pipelines, now};
use tokio::sync::{mpsc, watch};

use crate::{
    logging::LogControl,
    setup::{LiveSection, Replacement, build_all},
};

/// Owns the layers and everything that follows from them.
pub(crate) struct LiveSettings {
    layers: Layers,
    effective: Arc<Effective>,
    pipelines: Pipelines,
    /// Rejections that have been named already.
    named: BTreeSet<String>,
    log: LogControl,
    effective_out: watch::Sender<Arc<Effective>>,
    writable_out: watch::Sender<Arc<Writable>>,
    pipelines_out: watch::Sender<Arc<PipelineSet>>,
    sections: Vec<LiveSection>,
    replacements: mpsc::Receiver<Replacement>,
}

/// What else follows the settings, and what else changes the pipelines.
pub(crate) struct LiveHooks {
    /// Holds `Writable` as loaded.
    pub(crate) writable: watch::Sender<Arc<Writable>>,
    pub(crate) sections: Vec<LiveSection>,
    /// Pipelines in the place of those made in code.
    pub(crate) replacements: mpsc::Receiver<Replacement>,
}

/// What others see of the live settings.
#[derive(Clone)]
pub(crate) struct LiveView {
    pub(crate) effective: watch::Receiver<Arc<Effective>>,
    pub(crate) writable: watch::Receiver<Arc<Writable>>,
    pub(crate) pipelines: watch::Receiver<Arc<PipelineSet>>,
}

impl LiveSettings {
    /// The settings as loaded, with the pipelines they ask for.
    ///
    /// # Errors
    /// The pipelines that cannot be built: at start there is no last good one, and running without it would acknowledge
    /// what it should have exported.
    pub(crate) fn new(
        layers: Layers,
        effective: Effective,
        mut pipelines: Pipelines,
        log: LogControl,
        hooks: LiveHooks,
    ) -> Result<(Self, LiveView), Vec<PipelineRejection>> {
        let rejections = pipelines.apply(&effective.configuration.writable.pipeline, now());
        if !rejections.is_empty() {
            return Err(rejections);
        }
        let named = effective.rejected.iter().map(ToString::to_string).collect();
        let effective = Arc::new(effective);
        let (effective_out, effective_in) = watch::channel(effective.clone());
        let LiveHooks {
            writable: writable_out,
            sections,
            replacements,
        } = hooks;
        let writable_in = writable_out.subscribe();
        let (pipelines_out, pipelines_in) = watch::channel(pipelines.set());
        let view = LiveView {
            effective: effective_in,
            writable: writable_in,
            pipelines: pipelines_in,
        };
        let settings = Self {
            layers,
            effective,
            pipelines,
            named,
            log,
            effective_out,
            writable_out,
            pipelines_out,
            sections,
            replacements,
        };
        Ok((settings, view))
    }

    /// Applies snapshots until told to end.
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Option<Snapshot>>,
        mut shutdown: ShutdownSignal,
    ) {
        loop {
            // Cancel-safe: what was sent stays in its channel until it has been seen.
            tokio::select! {
                () = shutdown.recv() => return,
                Some(replacement) = self.replacements.recv() => {
                    self.replace(replacement);
                    continue;
                }
                // Without a provider, or when its watcher has ended, the settings stay as they are.
                Ok(()) = snapshots.changed() => {}
            }
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                self.apply(snapshot);
            }
        }
    }

    fn replace(&mut self, replacement: Replacement) {
        let Replacement { drafts, answer } = replacement;
        let (registry, prefix) = (self.pipelines.registry(), self.pipelines.topic_prefix());
        let built = build_all(drafts, registry, prefix, |id| self.pipelines.is_configured(id));
        let result = built.map(|pipelines| {
            let settings = &self.effective.configuration.writable.pipeline;
            self.pipelines.replace_fixed(pipelines, settings, now());
            self.pipelines_out.send_replace(self.pipelines.set());
        });
        // Whoever asked may have gone away.
        let _ = answer.send(result);
    }

    fn apply(&mut self, snapshot: Snapshot) {
        for vanished in self.layers.apply_snapshot(snapshot) {
            tracing::error!("{vanished}");
        }
        let next = resolve(&self.layers, Some(&self.effective));
        let mut rejected: Vec<String> = next.rejected.iter().map(Rejection::to_string).collect();
        let changes = diff(&self.effective, &next);
        if !changes.is_empty() {
            tracing::info!(
                changes = changes.len(),
                "Writable configuration has been updated from the Configuration Provider"
            );
        }
        for change in &changes {
            tracing::info!(key = %change.key, "{}", told(change));
        }
        for adjustment in next.newly_adjusted(Some(&self.effective)) {
            tracing::warn!(key = %adjustment.key, "{adjustment}");
        }
        let writable = next.configuration.writable.clone();
        let before = self.effective.configuration.writable.clone();
        self.effective = Arc::new(next);
        if writable.log_level != before.log_level {
            self.log.set_level(writable.log_level);
        }
        // Also when nothing changed: a rejected edit taken back must stop being named.
        let rejections = self.pipelines.apply(&writable.pipeline, now());
        rejected.extend(rejections.iter().map(|rejection| {
            format!(
                "{}: {}; the pipeline '{}' stays as it was",
                rejection.key, rejection.reason, rejection.pipeline_id
            )
        }));
        for text in &rejected {
            if !self.named.contains(text) {
                tracing::error!("a setting is rejected: {text}");
            }
        }
        self.named = rejected.into_iter().collect();
        self.effective_out.send_replace(self.effective.clone());
        for section in &self.sections {
            let now = self.layers.section(&section.name);
            section.sender.send_if_modified(|current| {
                let changed = *current != now;
                *current = now;
                changed
            });
        }
        self.pipelines_out.send_if_modified(|current| {
            let set = self.pipelines.set();
            let changed = !Arc::ptr_eq(current, &set);
            *current = set;
            changed
        });
        if writable.pipeline != before.pipeline && rejections.is_empty() {
            tracing::info!("Configurable Pipeline successfully reloaded from new configuration");
        }
        self.writable_out.send_if_modified(|current| {
            let changed = **current != *writable;
            *current = writable;
            changed
        });
    }
}

/// A change as it is logged: of the settings of Store and Forward in EdgeX's words, which operators look for.
fn told(change: &Change) -> String {
    let setting = change.key.strip_prefix("Writable/StoreAndForward/");
    match (setting, &change.old, &change.new) {
        (Some(setting), Some(old), Some(new)) => {
            format!(
                "StoreAndForward {setting} changed to {new} (from {old}; {})",
                change.origin
            )
        }
        _ => format!("{change} ({})", change.origin),
    }
}

#[cfg(test)]
mod tests {
    use edgehold_config::{Layer, LogFormat, configuration::LogLevel};
    use edgehold_core::FunctionRegistry;
    use serde::Deserialize;

    use super::*;
    use crate::{logging::LogOutput, section::SectionWatch};

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "PascalCase")]
    struct Mine {
        limit: u8,
    }

    fn private<const N: usize>(leaves: [(&str, &str); N]) -> Layer {
        let pipeline = [
            ("Writable/Pipeline/ExecutionOrder", "SetResponseData"),
            (
                "Writable/Pipeline/Functions/SetResponseData/Parameters/ResponseContentType",
                "",
            ),
        ];
        leaves.into_iter().chain(pipeline).collect()
    }

    /// EdgeX: `ListenForCustomConfigChanges`.
    #[tokio::test]
    async fn a_section_of_ones_own_below_writable_follows_the_provider() {
        // Given a section that somebody follows
        let layers = Layers {
            private: private([("Writable/Mine/Limit", "7")]),
            ..Layers::default()
        };
        let effective = resolve(&layers, None);
        let (sender, receiver) = watch::channel(layers.section("Writable/Mine"));
        let mut mine: SectionWatch<Mine> = SectionWatch::new("Writable/Mine", receiver);
        let (writable, _) = watch::channel(effective.configuration.writable.clone());
        let hooks = LiveHooks {
            writable,
            sections: vec![LiveSection {
                name: "Writable/Mine".to_owned(),
                sender,
            }],
            replacements: mpsc::channel(1).1,
        };
        let mut registry = FunctionRegistry::default();
        edgehold_functions::register(&mut registry, crate::sources::of_this_system());
        let pipelines = Pipelines::new(registry, None);
        let log = LogControl::init(
            "app-test",
            LogLevel::Info,
            LogOutput::Stderr,
            LogFormat::default(),
        );
        let live = LiveSettings::new(layers, effective, pipelines, log, hooks);
        let (mut live, _view) = live.expect("the pipeline can be built");
        let mut holds = |private: Layer| {
            live.apply(Snapshot {
                private: Some(private),
                ..Snapshot::default()
            });
        };

        // When another setting changes, nobody is told
        holds(private([
            ("Writable/Mine/Limit", "7"),
            ("Writable/LogLevel", "ERROR"),
        ]));
        assert!(!mine.has_changed());

        // When it changes, whoever follows is, and a bad value is named and nothing worse
        holds(private([("Writable/Mine/Limit", "9")]));
        assert_eq!(mine.changed().await, Ok(Mine { limit: 9 }));
        holds(private([("Writable/Mine/Limit", "many")]));
        let error = mine.changed().await.unwrap_err().to_string();
        assert!(
            error.starts_with("Writable/Mine/Limit = 'many' is not"),
            "{error}"
        );
        assert_eq!(mine.current().unwrap_err().to_string(), error);
    }
}
