//! Configuration files as a provider that is followed: what is edited under `Writable` takes effect without a restart.
//!
//! Constraints: files are replaced by renaming, by swapping a symbolic link somewhere above them (Kubernetes), or written
//! in place by an editor, a piece at a time; a piece of YAML is often YAML too. Clocks of file systems are coarse, and a
//! copy may keep the time and size of what it replaces.
//!
//! So both files are read again and again as a whole, and compared as text. What differs is looked at once more after a
//! while, and taken only when it is still the same; one that has gone, that cannot be understood or that has become
//! empty is named once, and the last good configuration stays.
//!
//! ```text
//! look ─► as before? ──yes──► wait 1 s ─► look
//!            │ no
//!            ▼
//!    wait 0.5 s, look again ─► still moving? ──yes──┐
//!            ▲                     │ no             │
//!            └─────────────────────┼────────────────┘
//!                                  ▼
//!                  good: publish │ bad: say so, keep the last one
//! ```

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use edgehold_core::{BoxFuture, ShutdownSignal};
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};

use super::{CommonConfig, parse_common, parse_private};
use crate::{ConfigurationProvider, Edit, EditError, FileError, Layer, ProviderError, Snapshot};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

const WRITABLE: &str = "Writable/";

/// How many settings a message names.
const NAMED: usize = 5;

/// A configuration file, or what stands for one that cannot be followed.
#[derive(Clone, Debug)]
pub enum FileSource<T> {
    /// This file, read again whenever it changes.
    File(PathBuf),
    /// What was read once: from an address, or nothing at all.
    Fixed(T),
}

/// The private and the common configuration file. Nothing can be written to them through it.
///
/// ```
/// use edgehold_config::file::{CommonConfig, FileProvider, FileSource};
///
/// let private = FileSource::File("res/http-export/configuration.yaml".into());
/// let provider = FileProvider::new(private, FileSource::Fixed(CommonConfig::default()));
/// ```
pub struct FileProvider {
    private: FileSource<Layer>,
    common: FileSource<CommonConfig>,
    interval: Duration,
}

/// The text of each file that is followed.
type Texts = [Option<String>; 2];

/// What one look at the files has found: their texts, or what is wrong.
type Look = Result<Texts, String>;

impl FileProvider {
    /// Reads nothing yet.
    pub fn new(private: FileSource<Layer>, common: FileSource<CommonConfig>) -> Self {
        Self {
            private,
            common,
            interval: LOOK_INTERVAL,
        }
    }

    /// Looks this often instead of once in a second. What has changed is looked at again after half of it.
    #[must_use]
    pub fn looking_every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    fn look(&self) -> Look {
        fn read<T>(source: &FileSource<T>) -> Result<Option<String>, String> {
            let FileSource::File(path) = source else {
                return Ok(None);
            };
            let text = fs::read_to_string(path);
            text.map(Some)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))
        }
        Ok([read(&self.private)?, read(&self.common)?])
    }

    /// Everything in the files.
    fn understand(&self, texts: &Texts) -> Result<Snapshot, String> {
        let [private, common] = texts;
        let private = match (&self.private, private) {
            (FileSource::File(path), Some(text)) => {
                let name = path.display().to_string();
                let layer = parse_private(text, &name)
                    .map_err(|error| with_cause(&error))?
                    .layer;
                if layer.is_empty() {
                    return Err(format!("{name} is empty"));
                }
                layer
            }
            (FileSource::Fixed(layer), _) => layer.clone(),
            (FileSource::File(_), None) => unreachable!("the text of a file has been read"),
        };
        let common = match (&self.common, common) {
            (FileSource::File(path), Some(text)) => {
                parse_common(text, &path.display().to_string()).map_err(|error| with_cause(&error))?
            }
            (FileSource::Fixed(common), _) => common.clone(),
            (FileSource::File(_), None) => unreachable!("the text of a file has been read"),
        };
        let section = |layer: Layer| (!layer.is_empty()).then_some(layer);
        Ok(Snapshot {
            all_services: section(common.all_services.layer),
            app_services: section(common.app_services.layer),
            private: section(private),
        })
    }

    fn read(&self) -> Result<Snapshot, ProviderError> {
        let texts = self.look().map_err(|reason| ProviderError::Unavailable {
            provider: self.describe(),
            reason,
            source: None,
        })?;
        self.understand(&texts)
            .map_err(|reason| ProviderError::Unexpected {
                provider: self.describe(),
                reason,
            })
    }

    async fn follow(&self, snapshots: &watch::Sender<Option<Snapshot>>) -> ! {
        let mut files = Followed::default();
        loop {
            let pause = match files.see(self.look()) {
                Step::Unchanged => self.interval,
                Step::Moving => self.interval / 2,
                Step::Settled(look) => {
                    let understood = look.and_then(|texts| self.understand(&texts));
                    match understood {
                        Ok(whole) => {
                            if files.problem.take().is_some() {
                                info!("{}: everything is in order again", self.describe());
                            }
                            files.take(&whole);
                            publish(snapshots, whole);
                        }
                        Err(problem) => {
                            error!("{problem}; the last good configuration stays");
                            files.problem = Some(problem);
                        }
                    }
                    self.interval
                }
            };
            sleep(pause).await;
        }
    }

    fn read_only(&self) -> ProviderError {
        ProviderError::ReadOnly {
            provider: self.describe(),
        }
    }
}

/// What is known of the files from the looks before.
#[derive(Default)]
struct Followed {
    /// What the last look that was settled has found, good or bad.
    settled: Option<Look>,
    /// What the last look has found, when that was something else.
    moving: Option<Look>,
    /// What has been said to be wrong.
    problem: Option<String>,
    /// The leaves outside `Writable` as they were taken last.
    fixed: Option<Snapshot>,
}

/// What a look leads to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing new.
    Unchanged,
    /// Something new that may not be finished.
    Moving,
    /// Something new that stays.
    Settled(Look),
}

impl Followed {
    fn see(&mut self, look: Look) -> Step {
        if self.settled.as_ref() == Some(&look) {
            self.moving = None;
            return Step::Unchanged;
        }
        // The first look of all is what the service has just been started with.
        let stays = self.moving.as_ref() == Some(&look) || self.settled.is_none();
        if stays {
            self.moving = None;
            self.settled = Some(look.clone());
            Step::Settled(look)
        } else {
            self.moving = Some(look);
            Step::Moving
        }
    }

    /// Remembers what does not change while the service runs, and says so when it has changed.
    fn take(&mut self, whole: &Snapshot) {
        let now = part_of(whole, |path| !path.starts_with(WRITABLE));
        if let Some(before) = self.fixed.replace(now.clone())
            && before != now
        {
            let names = differing(&before, &now);
            warn!("settings outside Writable have changed: {names}; they take effect at the next start");
        }
    }
}

/// Sends what is writable unless it is the same again.
fn publish(snapshots: &watch::Sender<Option<Snapshot>>, whole: Snapshot) {
    let now = Some(part_of(&whole, |path| path.starts_with(WRITABLE)));
    snapshots.send_if_modified(|current| {
        let changed = *current != now;
        *current = now;
        changed
    });
}

fn part_of(whole: &Snapshot, wanted: impl Fn(&str) -> bool) -> Snapshot {
    let part = |layer: &Option<Layer>| {
        let leaves = layer.iter().flat_map(Layer::iter);
        let layer: Layer = leaves.filter(|(path, _)| wanted(path)).collect();
        (!layer.is_empty()).then_some(layer)
    };
    Snapshot {
        all_services: part(&whole.all_services),
        app_services: part(&whole.app_services),
        private: part(&whole.private),
    }
}

/// The paths that are not the same in both, the first few by name.
fn differing(before: &Snapshot, now: &Snapshot) -> String {
    let mut paths: Vec<&str> = Vec::new();
    for (before, now) in [
        (&before.all_services, &now.all_services),
        (&before.app_services, &now.app_services),
        (&before.private, &now.private),
    ] {
        let text = |layer: &Option<Layer>, path| {
            layer
                .as_ref()
                .and_then(|layer| layer.get(path))
                .map(str::to_owned)
        };
        let all = before.iter().chain(now).flat_map(Layer::iter);
        paths.extend(all.filter_map(|(path, _)| (text(before, path) != text(now, path)).then_some(path)));
    }
    paths.sort_unstable();
    paths.dedup();
    let more = paths.len().saturating_sub(NAMED);
    let named = paths[..paths.len() - more].join(", ");
    if more == 0 {
        named
    } else {
        format!("{named} and {more} more")
    }
}

fn with_cause(error: &FileError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl ConfigurationProvider for FileProvider {
    fn describe(&self) -> String {
        let path = |source: &Option<&PathBuf>| source.map(|path| path.display().to_string());
        let private = match &self.private {
            FileSource::File(path) => Some(path),
            FileSource::Fixed(_) => None,
        };
        let common = match &self.common {
            FileSource::File(path) => Some(path),
            FileSource::Fixed(_) => None,
        };
        match (path(&private), path(&common)) {
            (Some(private), Some(common)) => format!("files {private} and {common}"),
            (Some(file), None) | (None, Some(file)) => format!("file {file}"),
            (None, None) => "no file".to_owned(),
        }
    }

    fn check_alive(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(async { self.read().map(drop) })
    }

    fn common_config_ready(&self) -> BoxFuture<'_, Result<bool, ProviderError>> {
        Box::pin(async { self.read().map(|_| true) })
    }

    fn load(&self) -> BoxFuture<'_, Result<Snapshot, ProviderError>> {
        Box::pin(async { self.read() })
    }

    fn seed<'a>(&'a self, _: &'a Layer, _: bool) -> BoxFuture<'a, Result<usize, ProviderError>> {
        Box::pin(async { Err(self.read_only()) })
    }

    fn edit<'a>(&'a self, _: &'a [Vec<Edit>]) -> BoxFuture<'a, Result<usize, EditError>> {
        Box::pin(async { Err(self.read_only().into()) })
    }

    fn watch(
        self: Arc<Self>,
        snapshots: watch::Sender<Option<Snapshot>>,
        mut shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, ()> {
        info!("following changes of {}", self.describe());
        Box::pin(async move {
            // Whichever ends first drops the others; a look leaves nothing behind.
            tokio::select! {
                never = self.follow(&snapshots) => never,
                () = snapshots.closed() => {}
                () = shutdown.recv() => {}
            }
        })
    }
}

#[cfg(test)]
mod tests;
