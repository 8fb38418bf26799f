//! Copies a store of ours into another one: the library side of `store copy`.
//!
//! Owns the comparison at the end. Objects are copied as they lie there, sealed ones sealed, in the order in which they
//! were kept, which their new `seq` says. What no process holds any more when a service is stopped is copied as its next
//! start would make it: what was journaled or in a batch waits for an attempt, due at once, so that in no store anything
//! belongs to the process that copies. Marks of crashes are forgotten. Appending is idempotent, so a copy that was killed
//! is begun again by the same call.
//!
//! Neither store may belong to a running service: what that delivers meanwhile would be delivered again from the other one.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use edgehold_config::secrets::InsecureSecretProvider;
use edgehold_core::{ObjectState, ServiceKey, StoredObject};
use edgehold_store::{ListRequest, ObjectFilter, RetryQueue, Room, StoreError, record, semantics};
use edgehold_store_postgres::PostgresQueue;
use edgehold_store_sqlite::{Lock, Options, SqliteQueue};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{
    bootstrap::{self, Access, ConfigurationError},
    invocation::Invocation,
    store::{
        Opened,
        address::StoreAddress,
        backlog::{Place, postgres_at},
        spool_path,
    },
};

/// Objects of a page.
const PAGE: usize = 256;
/// What does not agree is named up to so many times.
const NAMED: usize = 20;
/// Between two looks whether a service still works with a store.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// From where to where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRequest {
    /// Where the objects are.
    pub from: StoreAddress,
    /// Where they are to be as well.
    pub to: StoreAddress,
}

/// How far a copy is, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// How many there are to copy.
    pub meant: u64,
    /// How many have been read and appended.
    pub copied: u64,
    /// How many of them were there already.
    pub already: u64,
    /// How many have been compared since.
    pub compared: u64,
    /// How many are missing there, or not the same.
    pub differing: u64,
    /// The ids of the first of them.
    pub named: Vec<String>,
    /// How many objects the target holds beyond them.
    pub others: u64,
    /// SHA-256 over all objects in their order, as `store::record` writes them (with `␀` for NUL, which PostgreSQL takes in
    /// no text): here and there.
    pub checksums: Option<(String, String)>,
    /// The spool in front of the store that is copied, a store of its own, when something waits there, and how much.
    pub spool: Option<(PathBuf, u64)>,
}

impl CopyReport {
    /// Whether the copy is one.
    pub fn agrees(&self) -> bool {
        let same = |(here, there): &(String, String)| here == there;
        self.differing == 0 && self.checksums.as_ref().is_some_and(same)
    }
}

/// Why there is no copy, or no whole one. The next call goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The service key cannot be one.
    #[error(transparent)]
    ServiceKey(#[from] edgehold_core::InvalidId),
    /// There is no configuration.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// An address that names no store of ours.
    #[error("{0}")]
    Address(String),
    /// The store that is copied.
    #[error("the store that is to be copied cannot be read")]
    Source(#[source] StoreError),
    /// A service has started on what was copied.
    #[error(
        "a service works with {0} since: what it has delivered meanwhile is in the copy, too; stop it and copy again into an \
         empty store"
    )]
    Started(String),
    /// The store that takes the copy.
    #[error("the other store cannot take the copy")]
    Target(#[source] StoreError),
}

/// Copies the store of the service that `invocation` describes. `tell` hears how far it is after each page.
///
/// # Errors
/// [`CopyError`]; that the two do not agree is none, but part of the report.
pub async fn copy_store(
    invocation: &Invocation,
    service_key: &str,
    request: &CopyRequest,
    tell: impl FnMut(&CopyReport),
) -> Result<CopyReport, CopyError> {
    if request.from == request.to {
        return Err(CopyError::Address("both addresses are the same".to_owned()));
    }
    let service_key = ServiceKey::try_new(&invocation.flags.service_key(service_key))?;
    let loaded = bootstrap::load(invocation, &service_key, Access::ReadOnly).await?;
    let configuration = loaded.effective.configuration;
    let (_, writable) = watch::channel(configuration.writable.clone());
    let place = Place {
        service_key: &service_key,
        database: &configuration.database,
        db_name: &invocation.flags.db_name,
        secrets: &InsecureSecretProvider::new(writable),
        environment: &invocation.environment,
    };
    let source = source(&place, &request.from).await?;
    let target = target(&place, &request.to).await?;
    let spool = spool_path(&invocation.flags.data_dir, &service_key);
    let spooled = match (&source, SqliteQueue::exists(&spool)) {
        (Source::Postgres(_), true) => held(&spool, &service_key).await.map_err(CopyError::Source)?,
        _ => 0,
    };
    let mut copy = Copy {
        report: CopyReport {
            spool: (spooled > 0).then_some((spool, spooled)),
            ..CopyReport::default()
        },
        tell,
    };
    let work = async |target: &dyn RetryQueue| {
        copy.run(source.queue(), target).await?;
        match source.in_use().await.map_err(CopyError::Source)? {
            true => Err(CopyError::Started(request.from.to_string())),
            false => Ok(()),
        }
    };
    let done = target.work(work).await;
    source.queue().close().await;
    done?;
    Ok(copy.report)
}

/// A store that is copied.
enum Source {
    File {
        queue: SqliteQueue,
        /// Keeps a service from starting there meanwhile.
        _lock: Option<Lock>,
    },
    Postgres(PostgresQueue),
}

impl Source {
    fn queue(&self) -> &dyn RetryQueue {
        match self {
            Self::File { queue, .. } => queue,
            Self::Postgres(queue) => queue,
        }
    }

    /// Whether a service works with it, which none did at the beginning.
    async fn in_use(&self) -> Result<bool, StoreError> {
        match self {
            Self::File { .. } => Ok(false),
            Self::Postgres(queue) => queue.in_use().await,
        }
    }
}

async fn source(place: &Place<'_>, from: &StoreAddress) -> Result<Source, CopyError> {
    match from {
        StoreAddress::File(path) => {
            // Beside a file that is not there nothing is made.
            let lock = match SqliteQueue::exists(path) {
                true => SqliteQueue::lock(path).map_err(CopyError::Source)?,
                false => None,
            };
            let queue = SqliteQueue::open_read_only(path, place.service_key.clone()).await;
            Ok(Source::File {
                queue: queue.map_err(CopyError::Source)?,
                _lock: lock,
            })
        }
        StoreAddress::Postgres(server) => {
            let options = postgres_at(server, place).await.map_err(CopyError::Source)?;
            match stopped_postgres(&options, from)
                .await
                .map_err(CopyError::Source)?
            {
                Some(queue) => Ok(Source::Postgres(queue)),
                None => Err(CopyError::Address(format!(
                    "{from} has no objects of the service '{}'",
                    place.service_key
                ))),
            }
        }
        StoreAddress::Redis(_) => Err(not_ours(from)),
    }
}

async fn target(place: &Place<'_>, to: &StoreAddress) -> Result<Opened, CopyError> {
    match to {
        StoreAddress::File(path) => {
            let options = Options::new(path.clone(), place.service_key.clone());
            let (queue, writer) = SqliteQueue::open(options).await.map_err(CopyError::Target)?;
            Ok(Opened::new(queue, Box::pin(writer.run())))
        }
        StoreAddress::Postgres(server) => {
            let options = postgres_at(server, place).await.map_err(CopyError::Target)?;
            if let Some(queue) = stopped_postgres(&options, to).await.map_err(CopyError::Target)? {
                queue.close().await;
            }
            let (queue, worker) = PostgresQueue::open(options).await.map_err(CopyError::Target)?;
            Ok(Opened::new(queue, Box::pin(worker.run())))
        }
        StoreAddress::Redis(_) => Err(not_ours(to)),
    }
}

/// The tables of a service on a server, if they are there, once no process works with them: one that was killed, a service or
/// an earlier copy, seems to for a while.
async fn stopped_postgres(
    options: &edgehold_store_postgres::Options,
    address: &StoreAddress,
) -> Result<Option<PostgresQueue>, StoreError> {
    let Some(queue) = PostgresQueue::open_read_only(options).await? else {
        return Ok(None);
    };
    let end = tokio::time::Instant::now() + PostgresQueue::SILENCE + BETWEEN_LOOKS;
    while queue.in_use().await? {
        if tokio::time::Instant::now() >= end {
            return Err(StoreError::Locked {
                what: address.to_string(),
            });
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(Some(queue))
}

fn not_ours(address: &StoreAddress) -> CopyError {
    CopyError::Address(format!(
        "nothing of ours is kept in {address}; what EdgeX left there is taken over with 'store import --from'"
    ))
}

/// A running digest of objects.
#[derive(Default)]
struct Checksum(Sha256);

impl Checksum {
    fn add(&mut self, line: &str) {
        self.0.update(line);
        self.0.update(b"\n");
    }

    fn hex(self) -> String {
        let bytes = self.0.finalize();
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing into a text cannot fail.
            let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
            text
        })
    }
}

/// An object as it is copied.
fn at_rest(mut object: StoredObject) -> StoredObject {
    semantics::recover(&mut object);
    StoredObject {
        seq: 0,
        crashes: 0,
        ..object
    }
}

/// What is compared of an object.
fn line(object: &StoredObject) -> String {
    record::without_nul(&String::from_utf8_lossy(&record::to_json(object)))
}

struct Copy<T> {
    report: CopyReport,
    tell: T,
}

impl<T: FnMut(&CopyReport)> Copy<T> {
    async fn run(&mut self, source: &dyn RetryQueue, target: &dyn RetryQueue) -> Result<(), CopyError> {
        self.report.meant = objects(source).await.map_err(CopyError::Source)?;
        let before = objects(target).await.map_err(CopyError::Target)?;
        let mut after_seq = Some(0);
        while let Some(after) = after_seq {
            let (objects, next) = page(source, after, ObjectFilter::default())
                .await
                .map_err(CopyError::Source)?;
            self.report.copied += u64::try_from(objects.len()).unwrap_or(0);
            let fresh = match before {
                0 => objects,
                // Appending again does no harm, but each object that is there is looked at by itself.
                _ => {
                    let there = found(target, &objects).await.map_err(CopyError::Target)?;
                    let there: HashSet<_> = there.iter().map(|object| object.id).collect();
                    let objects = objects.into_iter();
                    objects.filter(|object| !there.contains(&object.id)).collect()
                }
            };
            for answer in target.append(&fresh, Room::default()).await {
                match answer {
                    // Another one of this id is told by the comparison.
                    Ok(_) | Err(StoreError::Exists(_)) => {}
                    Err(error) => return Err(CopyError::Target(error)),
                }
            }
            (self.tell)(&self.report);
            after_seq = next;
        }
        let now = objects(target).await.map_err(CopyError::Target)?;
        let added = now.saturating_sub(before);
        self.report.already = self.report.copied.saturating_sub(added);
        self.report.others = now.saturating_sub(self.report.copied);
        self.compare(source, target).await
    }

    async fn compare(&mut self, source: &dyn RetryQueue, target: &dyn RetryQueue) -> Result<(), CopyError> {
        let (mut here, mut there) = (Checksum::default(), Checksum::default());
        let mut after_seq = Some(0);
        while let Some(after) = after_seq {
            let (objects, next) = page(source, after, ObjectFilter::default())
                .await
                .map_err(CopyError::Source)?;
            let copies = found(target, &objects).await.map_err(CopyError::Target)?;
            let lines = copies.iter().map(|copy| (copy.id, line(copy)));
            let copies: HashMap<_, _> = lines.inspect(|(_, line)| there.add(line)).collect();
            for object in &objects {
                let line = line(object);
                here.add(&line);
                if copies.get(&object.id) != Some(&line) {
                    self.report.differing += 1;
                    if self.report.named.len() < NAMED {
                        self.report.named.push(object.id.to_string());
                    }
                }
                self.report.compared += 1;
            }
            (self.tell)(&self.report);
            after_seq = next;
        }
        self.report.checksums = Some((here.hex(), there.hex()));
        Ok(())
    }
}

async fn objects(queue: &dyn RetryQueue) -> Result<u64, StoreError> {
    let stats = queue.stats().await?;
    Ok(stats.waiting() + stats.success.objects + stats.error.objects)
}

/// What waits in the spool of the service that `invocation` describes: its file, and how many objects. None when there is
/// nothing, or nothing that can be read. Needs neither the store nor a configuration.
pub async fn spooled_objects(invocation: &Invocation, service_key: &str) -> Option<(PathBuf, u64)> {
    let service_key = ServiceKey::try_new(&invocation.flags.service_key(service_key)).ok()?;
    let spool = spool_path(&invocation.flags.data_dir, &service_key);
    let objects = match SqliteQueue::exists(&spool) {
        true => held(&spool, &service_key).await.unwrap_or_default(),
        false => 0,
    };
    (objects > 0).then_some((spool, objects))
}

/// Those of these objects that a store has, as it has them.
async fn found(queue: &dyn RetryQueue, objects: &[StoredObject]) -> Result<Vec<StoredObject>, StoreError> {
    let mut found = Vec::with_capacity(objects.len());
    let mut after_seq = (!objects.is_empty()).then_some(0);
    while let Some(after) = after_seq {
        let filter = ObjectFilter::ids(objects.iter().map(|object| object.id));
        let (objects, next) = page(queue, after, filter).await?;
        found.extend(objects);
        after_seq = next;
    }
    Ok(found)
}

async fn page(
    queue: &dyn RetryQueue,
    after_seq: i64,
    filter: ObjectFilter,
) -> Result<(Vec<StoredObject>, Option<i64>), StoreError> {
    let page = queue
        .list(ListRequest {
            states: ObjectState::ALL.to_vec(),
            filter,
            after_seq,
            limit: PAGE,
        })
        .await?;
    Ok((
        page.objects.into_iter().map(at_rest).collect(),
        page.next_after_seq,
    ))
}

/// Writes a consistent copy of a store that is a file, beside the service that has it open.
///
/// # Errors
/// [`StoreError::Configuration`] when `to` is there already, [`StoreError::Unavailable`], [`StoreError::Full`].
pub(crate) async fn back_up(
    queue: &SqliteQueue,
    service_key: &ServiceKey,
    to: &Path,
) -> Result<u64, StoreError> {
    queue.back_up(to).await?;
    // What was written is read once: a copy that cannot be opened is none.
    let held = held(to, service_key).await;
    if held.is_err() {
        let _ = std::fs::remove_file(to);
    }
    held
}

/// How many objects a file holds.
async fn held(path: &Path, service_key: &ServiceKey) -> Result<u64, StoreError> {
    let queue = SqliteQueue::open_read_only(path, service_key.clone()).await?;
    let held = objects(&queue).await;
    queue.close().await;
    held
}
