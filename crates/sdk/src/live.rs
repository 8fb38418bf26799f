//! Settings that change while the service runs: one snapshot of the provider becomes one new configuration.
//!
//! ```text
//! provider ─ snapshot ─▶ layers ─ resolve ─▶ effective ─▶ log level
//!                                                   ├───▶ pipelines  (watch)
//!                                                   └───▶ writable   (watch)
//! ```
//!
//! All good units of a snapshot apply together, in one turn without an await. A bad one keeps its last good value, is
//! named once and blocks nothing. A pipeline that cannot be built is such a unit: what is told of the configuration from
//! then on is what runs. What a change does is the business of whoever holds the receiver.

use std::sync::Arc;

use edgehold_config::{
    Change, Effective, Layers, Leaf, Origin, Rejection, Snapshot, Writable, diff, resolve, without_passwords,
};
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
        let rejections = pipelines
            .apply(&effective.configuration.writable.pipeline, now())
            .rejections;
        if !rejections.is_empty() {
            return Err(rejections);
        }
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
        let before = self.effective.clone();
        let asked_for = resolve(&self.layers, Some(&before));
        // Also when nothing changed: a rejected edit taken back must stop being named.
        let applied = self
            .pipelines
            .apply(&asked_for.configuration.writable.pipeline, now());
        let rejected = applied
            .rejections
            .iter()
            .map(|rejection| as_setting(rejection, &asked_for));
        let rejected: Vec<Rejection> = rejected.collect();
        let pipelines_are_good = rejected.is_empty();
        let mut next = asked_for.keeping(&before, &applied.kept);
        next.rejected.extend(rejected);
        next.rejected.sort();
        tell(&before, &next);
        self.effective = Arc::new(next);

        let writable = self.effective.configuration.writable.clone();
        let last = &before.configuration.writable;
        if writable.log_level != last.log_level {
            self.log.set_level(writable.log_level);
        }
        if writable.pipeline != last.pipeline && pipelines_are_good {
            tracing::info!("Configurable Pipeline successfully reloaded from new configuration");
        }
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
        self.writable_out.send_if_modified(|current| {
            let changed = **current != *writable;
            *current = writable;
            changed
        });
    }
}

/// Logs what differs between two configurations: changes, and what is rejected or adjusted and was not before.
fn tell(before: &Effective, now: &Effective) {
    let changes = diff(before, now);
    if !changes.is_empty() {
        tracing::info!(
            changes = changes.len(),
            "Writable configuration has been updated from the Configuration Provider"
        );
    }
    for change in &changes {
        tracing::info!(key = %change.key, "{}", told(change));
    }
    for adjustment in now.newly_adjusted(Some(before)) {
        tracing::warn!(key = %adjustment.key, "{adjustment}");
    }
    for rejection in now.newly_rejected(Some(before)) {
        tracing::error!(key = %rejection.key, "a setting is rejected: {rejection}");
    }
}

/// A pipeline that cannot be built, as one of the settings that cannot be used: under its key, with its functions.
fn as_setting(rejection: &PipelineRejection, asked_for: &Effective) -> Rejection {
    let PipelineRejection {
        key,
        pipeline_id,
        reason,
        goes_on,
    } = rejection;
    let leaves = asked_for.configuration.leaves();
    let order = [key.clone(), format!("{key}/ExecutionOrder")];
    let leaf = order.iter().find_map(|path| leaves.get(path));
    let outcome = match (pipeline_id.as_str(), goes_on) {
        (_, false) => "no such pipeline runs".to_owned(),
        ("", true) => "the pipelines go on as they were".to_owned(),
        (id, true) => format!("the pipeline '{id}' goes on as it was"),
    };
    Rejection {
        key: key.clone(),
        section: leaf.map_or(Origin::Default, Leaf::origin),
        value: leaf.map(Leaf::text).unwrap_or_default().to_owned(),
        // It may quote a parameter.
        reason: without_passwords(&format!("{reason}; {outcome}")),
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
mod tests;
