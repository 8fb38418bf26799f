//! What this service has subscribed to, remembered across starts.
//!
//! A broker keeps the subscriptions of a persistent session, and MQTT has no way to ask for them. A filter that is taken
//! out of `Trigger.SubscribeTopics` would go on filling the session for ever. So the filters are kept in a small file in
//! the data folder, by broker and client id, and those no longer wanted are unsubscribed.
//!
//! ```text
//! start ─▶ read ─▶ write what was ∪ what is wanted ─▶ connect ─▶ SUBACK, UNSUBACK ─▶ write what is wanted
//! ```
//!
//! A crash at any moment leaves a file that names at least what the session may have. A file that is missing or damaged
//! counts as empty; a folder that cannot be written is told of once, and nothing is unsubscribed then.

use std::{
    fs::{DirBuilder, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use edgehold_core::{
    BoxFuture, DeliverySender, ServiceKey, ShutdownSignal, TopicFilter, Trigger, TriggerError,
};
use edgehold_mqtt::ConnectionState;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Sessions that are remembered. The oldest goes: a client id that differs with every start must not fill the disk.
const MOST_SESSIONS: usize = 16;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sessions {
    /// The one used last comes last.
    sessions: Vec<Session>,
}

/// One session that a broker may keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    /// `host:port`
    broker: String,
    client_id: String,
    filters: Vec<String>,
}

/// The memory of one session.
pub(crate) struct SubscriptionMemory {
    path: PathBuf,
    broker: String,
    client_id: String,
    /// As it is on the disk.
    sessions: Sessions,
    warned: bool,
}

impl SubscriptionMemory {
    /// Reads `<service key>.subscriptions.json`.
    pub(crate) fn read(data_dir: &Path, service_key: &ServiceKey, broker: String, client_id: &str) -> Self {
        let path = data_dir.join(format!("{service_key}.subscriptions.json"));
        let read = std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
        let sessions = read.unwrap_or_else(|error| {
            tracing::debug!(
                "no earlier subscriptions are known from {}: {error}",
                path.display()
            );
            Sessions::default()
        });
        Self {
            path,
            broker,
            client_id: client_id.to_owned(),
            sessions,
            warned: false,
        }
    }

    /// What earlier starts have subscribed to and may not have given back.
    pub(crate) fn filters(&self) -> Vec<TopicFilter> {
        let of_ours = self.sessions.sessions.iter().filter(|session| self.owns(session));
        let filters = of_ours.flat_map(|session| &session.filters);
        filters
            .filter_map(|text| TopicFilter::try_new(text).ok())
            .collect()
    }

    /// Puts these filters in the place of what is remembered, durably. What cannot be written is warned of once.
    async fn remember(&mut self, filters: &[TopicFilter]) {
        let mut next = self.sessions.clone();
        next.sessions.retain(|session| !self.owns(session));
        next.sessions.push(Session {
            broker: self.broker.clone(),
            client_id: self.client_id.clone(),
            filters: filters.iter().map(|filter| filter.as_str().to_owned()).collect(),
        });
        let too_many = next.sessions.len().saturating_sub(MOST_SESSIONS);
        next.sessions.drain(..too_many);
        if next == self.sessions {
            return;
        }
        let (path, content) = (self.path.clone(), next.clone());
        let written = tokio::task::spawn_blocking(move || write(&path, &content)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => self.sessions = next,
            Err(error) if !self.warned => {
                self.warned = true;
                tracing::warn!(
                    "cannot remember in {} what is subscribed to ({error}): topics that are taken out of \
                     Trigger/SubscribeTopics will stay subscribed at the broker",
                    self.path.display()
                );
            }
            Err(_) => {}
        }
    }

    fn owns(&self, session: &Session) -> bool {
        session.broker == self.broker && session.client_id == self.client_id
    }
}

/// Replaces the file whole: at every moment it is the old one or the new one, also when the power fails.
fn write(path: &Path, sessions: &Sessions) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o750);
    builder.create(folder)?;
    let next = path.with_extension("json.next");
    let mut file = File::create(&next)?;
    file.write_all(&serde_json::to_vec_pretty(sessions)?)?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    File::open(folder)?.sync_all()
}

/// A trigger whose subscriptions to `filters` are remembered, where there is a memory: a broker forgets what a clean
/// session has subscribed to. `state` is that of its connection.
pub(crate) fn remembering(
    trigger: Box<dyn Trigger>,
    state: watch::Receiver<ConnectionState>,
    memory: Option<SubscriptionMemory>,
    filters: Vec<TopicFilter>,
) -> Box<dyn Trigger> {
    match memory {
        None => trigger,
        Some(memory) => Box::new(RememberingTrigger {
            trigger,
            state,
            memory,
            filters,
        }),
    }
}

/// See [`remembering`].
struct RememberingTrigger {
    trigger: Box<dyn Trigger>,
    state: watch::Receiver<ConnectionState>,
    memory: SubscriptionMemory,
    /// What it subscribes to.
    filters: Vec<TopicFilter>,
}

impl Trigger for RememberingTrigger {
    fn run(
        self: Box<Self>,
        deliveries: DeliverySender,
        shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        let Self {
            trigger,
            mut state,
            mut memory,
            filters,
        } = *self;
        Box::pin(async move {
            let mut union = memory.filters();
            union.extend(filters.iter().cloned());
            union.sort();
            union.dedup();
            memory.remember(&union).await;
            let settled = async {
                let settled = state.wait_for(|state| *state == ConnectionState::Subscribed);
                // Without it the trigger has ended, and what may be subscribed stays remembered.
                if settled.await.is_ok() {
                    let mut filters = filters;
                    filters.sort();
                    memory.remember(&filters).await;
                }
            };
            let (result, ()) = tokio::join!(trigger.run(deliveries, shutdown), settled);
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(folder: &Path, broker: &str) -> SubscriptionMemory {
        let key = ServiceKey::try_new("app-test").unwrap();
        SubscriptionMemory::read(folder, &key, broker.to_owned(), "client")
    }

    fn filters(texts: &[&str]) -> Vec<TopicFilter> {
        texts
            .iter()
            .map(|text| TopicFilter::try_new(text).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn each_broker_and_client_has_a_memory_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("not yet there");
        memory(&folder, "one:1").remember(&filters(&["a", "b/#"])).await;
        memory(&folder, "two:2").remember(&filters(&["c"])).await;
        memory(&folder, "one:1").remember(&filters(&["a"])).await;

        assert_eq!(memory(&folder, "one:1").filters(), filters(&["a"]));
        assert_eq!(memory(&folder, "two:2").filters(), filters(&["c"]));
        assert_eq!(memory(&folder, "three:3").filters(), []);
    }

    #[tokio::test]
    async fn a_missing_or_damaged_file_counts_as_empty_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app-test.subscriptions.json");
        for damaged in ["", "{", "{\"sessions\": 7}", "[\"a\"]"] {
            std::fs::write(&path, damaged).unwrap();
            let mut memory = memory(folder.path(), "one:1");
            assert_eq!(memory.filters(), [], "{damaged}");
            memory.remember(&filters(&["a"])).await;
            assert_eq!(self::memory(folder.path(), "one:1").filters(), filters(&["a"]));
        }
    }

    #[tokio::test]
    async fn sessions_that_are_never_used_again_do_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        for port in 0..2 * MOST_SESSIONS {
            memory(folder.path(), &format!("broker:{port}"))
                .remember(&filters(&["a"]))
                .await;
        }
        let last = memory(folder.path(), &format!("broker:{}", 2 * MOST_SESSIONS - 1));
        assert_eq!(last.sessions.sessions.len(), MOST_SESSIONS);
        assert_eq!(last.filters(), filters(&["a"]));
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_no_reason_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file");
        std::fs::write(&file, "").unwrap();
        let mut memory = memory(&file, "one:1");
        memory.remember(&filters(&["a"])).await;
        assert!(memory.warned);
        assert_eq!(memory.filters(), []);
    }
}
