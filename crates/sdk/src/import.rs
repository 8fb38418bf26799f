//! Moving in: what the original's Store and Forward left becomes ours. The library side of `store import`.
//!
//! Owns the order of the steps, which is what makes a killed import harmless: a page is read, appended to our store, on
//! its disk, and only then removed where the original had it. In between our store has a receipt for the page, appended in
//! the same transaction (a custom store may tear the two apart): so the next run knows what it is only to remove, even
//! if all of it has been delivered by then. What no pipeline fits is set aside in our error collection and stays in the
//! original's store as well; the next import takes it from there when a pipeline fits. What cannot be read stays where it
//! is and is named.
//!
//! Does not own what an object of the original is (`store::edgex`), nor where it lies (`store::backlog`).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use edgehold_config::{Configuration, secrets::InsecureSecretProvider};
use edgehold_core::{
    ErrorReason, ObjectState, PipelineId, PipelineSet, SecretProvider, ServiceKey, StoredObject,
    StoredObjectId,
    retry::{Action, Verdict},
};
use edgehold_runtime::{Wake, now};
use edgehold_store::{ErrorPage, ListRequest, ObjectFilter, RetryQueue, Room, StoreError, edgex};
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    bootstrap::{self, Access, ConfigurationError},
    invocation::Invocation,
    rehearse::offline_pipelines,
    rest_client::rest_client,
    service::AppService,
    store::{
        StoreOpener,
        address::StoreAddress,
        backlog::{Backlog, LeftBehind, Place},
    },
};

/// Receipts that are read at once.
const RECEIPTS: usize = 16;
/// What cannot be read is named up to so many times.
const NAMED: usize = 100;
/// How long a service that may be there is waited for.
const LONGEST_PING: Duration = Duration::from_secs(2);

/// What to take over, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportRequest {
    /// Where the original keeps it; none: where the settings say.
    pub from: Option<StoreAddress>,
    /// Only count.
    pub dry_run: bool,
    /// Leave everything where the original has it. What has been delivered since would come again with the next import.
    pub keep: bool,
}

/// How far an import is, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Where the original keeps it.
    pub source: String,
    /// How many there were at the beginning.
    pub meant: u64,
    /// How many have been looked at.
    pub read: u64,
    /// Taken over (with `dry_run`: to be taken over): they will be tried.
    pub adopted: u64,
    /// Of an earlier import: they were in our store already.
    pub already: u64,
    /// Set aside: no pipeline has the functions they want.
    pub set_aside: BTreeMap<(PipelineId, ErrorReason), u64>,
    /// What one of those wants, for each.
    pub wanted: BTreeMap<(PipelineId, ErrorReason), String>,
    /// Could not be read, and stay where they are.
    pub unreadable: u64,
    /// The first of them: the key and what is wrong.
    pub problems: Vec<(String, String)>,
    /// Removed where the original had them.
    pub removed: u64,
    /// Where a service with this key answers; it may be the original, still storing.
    pub answers_at: Option<String>,
}

impl ImportReport {
    /// How many are set aside, for whatever reason.
    pub fn set_aside_in_all(&self) -> u64 {
        self.set_aside.values().sum()
    }

    fn cannot_read(&mut self, key: &Bytes, problem: String) {
        self.unreadable += 1;
        if self.problems.len() < NAMED {
            let key = String::from_utf8_lossy(key).into_owned();
            self.problems.push((key, problem));
        }
    }

    fn sets_aside(&mut self, object: &StoredObject) {
        let group = (
            object.pipeline_id.clone(),
            object.reason.unwrap_or(ErrorReason::PipelineChanged),
        );
        self.wanted
            .entry(group.clone())
            .or_insert_with(|| object.last_error.clone().unwrap_or_default());
        *self.set_aside.entry(group).or_default() += 1;
    }
}

/// Why nothing, or not everything, was taken over. The next call goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The service key cannot be one.
    #[error(transparent)]
    ServiceKey(#[from] edgehold_core::InvalidId),
    /// There is no configuration.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// Pipelines that cannot be built: what belongs to them would be set aside.
    #[error("the pipelines cannot be built, and decide what can be taken over: {0}")]
    Pipelines(String),
    /// The store of the original.
    #[error("what the original left cannot be read")]
    Source(#[source] StoreError),
    /// What was taken over is in our store and could not be removed from the original's.
    #[error("what was taken over cannot be removed where the original has it")]
    Removal(#[source] StoreError),
    /// Our store.
    #[error("our store cannot take it")]
    Target(#[source] StoreError),
    /// Our store belongs to a running service.
    #[error("our store belongs to a running service: stop it first ({0})")]
    Running(StoreError),
}

impl AppService {
    /// Takes over what the original left of the service that `invocation` describes. `tell` hears how far it is after each
    /// page.
    ///
    /// # Errors
    /// [`ImportError`]: what was taken over before stays so.
    ///
    /// Cancel safety: dropped (or killed), it leaves at most a page in both stores, which the next call only removes from
    /// the original's.
    pub async fn import(
        self,
        invocation: &Invocation,
        request: &ImportRequest,
        tell: impl FnMut(&ImportReport),
    ) -> Result<ImportReport, ImportError> {
        // TLS clients take the process's provider; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let needed = self.into_requirements();
        let service_key = ServiceKey::try_new(&invocation.flags.service_key(&needed.service_key))?;
        let loaded = bootstrap::load(invocation, &service_key, Access::ReadOnly).await?;
        let configuration = loaded.effective.configuration;
        let pipelines = offline_pipelines(needed.functions, needed.pipelines, &configuration)
            .map_err(ImportError::Pipelines)?
            .set();
        let (_, writable) = watch::channel(configuration.writable.clone());
        let secrets: Arc<dyn SecretProvider> = Arc::new(InsecureSecretProvider::new(writable));
        let place = Place {
            service_key: &service_key,
            database: &configuration.database,
            db_name: &invocation.flags.db_name,
            secrets: &*secrets,
            environment: &invocation.environment,
        };
        let mut backlog = Backlog::open(place, request.from.as_ref())
            .await
            .map_err(ImportError::Source)?;
        let report = ImportReport {
            source: backlog.place().to_owned(),
            meant: backlog.count().await.map_err(ImportError::Source)?,
            answers_at: answering(&configuration, &invocation.environment, &service_key).await,
            ..ImportReport::default()
        };
        let mut import = Import {
            service_key: &service_key,
            pipelines: &pipelines,
            keep: request.keep,
            ours: HashSet::new(),
            report,
            tell,
        };
        if request.dry_run || import.report.meant == 0 {
            import.count(&mut backlog).await?;
        } else {
            let opener = StoreOpener {
                service_key: service_key.clone(),
                database: configuration.database.clone(),
                data_dir: invocation.flags.data_dir.clone(),
                spool_max_bytes: 0,
                factories: needed.stores,
                secrets,
                db_name: invocation.flags.db_name.clone(),
                wake: Arc::new(Wake::default()),
            };
            let opened = opener.open().await.map_err(|error| match error {
                StoreError::Locked { .. } => ImportError::Running(error),
                error => ImportError::Target(error),
            })?;
            opened
                .work(async |queue| import.run(&mut backlog, queue).await)
                .await?;
        }
        let report = import.report;
        backlog.close().await;
        Ok(report)
    }
}

/// Where a service with this key answers a ping, if one does.
async fn answering(
    configuration: &Configuration,
    environment: &BTreeMap<String, String>,
    service_key: &ServiceKey,
) -> Option<String> {
    let client = rest_client(configuration, environment, LONGEST_PING).ok()?;
    let answer: Value = client.get(&["ping"], &[]).await.ok()?;
    (answer["serviceName"] == service_key.as_str()).then(|| client.to_string())
}

struct Import<'a, T> {
    service_key: &'a ServiceKey,
    pipelines: &'a PipelineSet,
    keep: bool,
    /// What has been ours already, and stays in the original's store this time as well.
    ours: HashSet<StoredObjectId>,
    report: ImportReport,
    tell: T,
}

impl<T: FnMut(&ImportReport)> Import<'_, T> {
    /// What the page is, each with its key; what cannot be read is noted.
    fn read(&mut self, page: Vec<LeftBehind>) -> Vec<(Bytes, StoredObject)> {
        self.report.read += u64::try_from(page.len()).unwrap_or(0);
        let mut objects = Vec::with_capacity(page.len());
        for left in page {
            let Some(json) = &left.json else {
                self.report.cannot_read(
                    &left.key,
                    "there is no value of this key, or one of more than 64 MiB".to_owned(),
                );
                continue;
            };
            match edgex::adopt(json, self.service_key, self.pipelines, left.created, now()) {
                Ok(object) if object.id.to_string().as_bytes() == left.key => {
                    objects.push((left.key, object))
                }
                Ok(object) => {
                    let problem = format!("it says that it is object {}", object.id);
                    self.report.cannot_read(&left.key, problem);
                }
                Err(error) => self.report.cannot_read(&left.key, error.to_string()),
            }
        }
        objects
    }

    async fn count(&mut self, backlog: &mut Backlog) -> Result<(), ImportError> {
        loop {
            let page = backlog.next_page().await.map_err(ImportError::Source)?;
            if page.is_empty() {
                return Ok(());
            }
            for (_, object) in self.read(page) {
                match object.state {
                    ObjectState::Error => self.report.sets_aside(&object),
                    _ => self.report.adopted += 1,
                }
            }
            (self.tell)(&self.report);
        }
    }

    async fn run(&mut self, backlog: &mut Backlog, queue: &dyn RetryQueue) -> Result<(), ImportError> {
        self.finish_earlier(backlog, queue).await?;
        loop {
            let page = backlog.next_page().await.map_err(ImportError::Source)?;
            if page.is_empty() {
                return Ok(());
            }
            let page = self.read(page);
            let ours = page
                .iter()
                .filter(|(_, object)| object.state != ObjectState::Error);
            let (keys, ids): (Vec<Bytes>, Vec<_>) =
                ours.map(|(key, object)| (key.clone(), object.id)).unzip();
            let is_to_go = !self.keep && !ids.is_empty();
            let receipt = is_to_go.then(|| edgex::receipt(self.service_key, &ids, now()));
            self.keep_page(&page, receipt.as_ref(), queue)
                .await
                .map_err(ImportError::Target)?;
            if let Some(receipt) = receipt {
                backlog.remove(&keys).await.map_err(ImportError::Removal)?;
                self.report.removed += u64::try_from(keys.len()).unwrap_or(0);
                forget(queue, receipt.id).await?;
            }
            (self.tell)(&self.report);
        }
    }

    /// Removes what an earlier import has appended, and was killed before it removed it.
    async fn finish_earlier(
        &mut self,
        backlog: &mut Backlog,
        queue: &dyn RetryQueue,
    ) -> Result<(), ImportError> {
        let mut after_seq = 0;
        loop {
            let request = edgex::list_receipts(after_seq, RECEIPTS);
            let page = queue.list(request).await.map_err(ImportError::Target)?;
            for receipt in &page.objects {
                let ids = edgex::receipted(receipt);
                if self.keep {
                    self.ours.extend(ids);
                    continue;
                }
                let keys: Vec<Bytes> = ids.iter().map(|id| id.to_string().into()).collect();
                let before = backlog.count().await.map_err(ImportError::Source)?;
                backlog.remove(&keys).await.map_err(ImportError::Removal)?;
                let left = backlog.count().await.map_err(ImportError::Source)?;
                forget(queue, receipt.id).await?;
                let removed = before.saturating_sub(left);
                self.report.read += removed;
                self.report.already += removed;
                self.report.removed += removed;
            }
            match page.next_after_seq {
                Some(next) => after_seq = next,
                None => return Ok(()),
            }
        }
    }

    /// Appends what our store does not have, and with it the receipt.
    async fn keep_page(
        &mut self,
        page: &[(Bytes, StoredObject)],
        receipt: Option<&StoredObject>,
        queue: &dyn RetryQueue,
    ) -> Result<(), StoreError> {
        if page.is_empty() {
            return Ok(());
        }
        let there = there(queue, page.iter().map(|(_, object)| object.id)).await?;
        let mut fresh = Vec::new();
        let mut fitting_now = Vec::new();
        for (_, object) in page {
            let is_ours = object.state != ObjectState::Error;
            if !is_ours {
                self.report.sets_aside(object);
            }
            match there.get(&object.id) {
                _ if self.ours.contains(&object.id) => self.report.already += 1,
                None => fresh.push(object.clone()),
                // A pipeline fits now. Until it is appended below, the original's store has it.
                Some(true) if is_ours => {
                    fitting_now.push(object.id);
                    fresh.push(object.clone());
                }
                Some(_) if is_ours => self.report.already += 1,
                Some(_) => {}
            }
        }
        if !fitting_now.is_empty() {
            let limit = fitting_now.len();
            queue
                .purge(ErrorPage {
                    filter: ObjectFilter::ids(fitting_now),
                    after_seq: 0,
                    limit,
                })
                .await?;
        }
        fresh.extend(receipt.cloned());
        if fresh.is_empty() {
            return Ok(());
        }
        for (object, answer) in fresh.iter().zip(queue.append(&fresh, Room::default()).await) {
            match answer {
                // It came twice in one page.
                Ok(_) | Err(StoreError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
            if object.state == ObjectState::Failed {
                self.report.adopted += 1;
            }
        }
        Ok(())
    }
}

/// Removes a receipt: what it is for is gone where the original had it.
async fn forget(queue: &dyn RetryQueue, receipt: StoredObjectId) -> Result<(), ImportError> {
    let removal = Verdict {
        id: receipt,
        action: Action::Remove,
    };
    queue.settle(&[removal]).await.map_err(ImportError::Target)
}

/// Which of these our store has, and whether an import has set it aside and nobody has touched it since.
async fn there(
    queue: &dyn RetryQueue,
    ids: impl Iterator<Item = StoredObjectId>,
) -> Result<BTreeMap<StoredObjectId, bool>, StoreError> {
    let filter = ObjectFilter::ids(ids);
    let mut request = ListRequest {
        states: ObjectState::ALL.to_vec(),
        limit: filter.ids.len(),
        filter,
        after_seq: 0,
    };
    let mut there = BTreeMap::new();
    loop {
        let page = queue.list(request.clone()).await?;
        let objects = page.objects.iter();
        there.extend(objects.map(|object| (object.id, edgex::is_set_aside(object))));
        match page.next_after_seq {
            Some(next) => request.after_seq = next,
            None => return Ok(there),
        }
    }
}
