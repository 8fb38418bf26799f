//! A store copied into another one, of the same kind and of another: what is in it afterwards.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use edgehold::{
    CopyError, CopyReport, CopyRequest, CorrelationId, DataKind, Destination, ErrorReason, Invocation,
    ListRequest, ObjectFilter, ObjectState, PayloadForm, PipelineId, PipelineVersion, RetryQueue, Room,
    ServiceKey, StoreError, StoredInput, StoredObject, StoredObjectId, Timestamp, copy_store,
};
use edgehold_core::{AttemptError, SecretText};
use edgehold_store_postgres::{PostgresQueue, Worker};
use edgehold_store_sqlite::{Options, SqliteQueue};
use edgehold_test_support::Postgres;
use tempfile::TempDir;
use uuid::Uuid;

const SERVICE_KEY: &str = "app-copied";

fn service_key() -> ServiceKey {
    ServiceKey::try_new(SERVICE_KEY).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_700_000_000_000 + seconds * 1_000)
}

/// Something in every field that an object of this state can have.
fn full(number: u64, state: ObjectState) -> StoredObject {
    let has_ended = [ObjectState::Success, ObjectState::Error].contains(&state);
    StoredObject {
        id: StoredObjectId::from_uuid(Uuid::from_u64_pair(0x0190_0000_0000_7000, number)),
        seq: 0,
        service_key: service_key(),
        pipeline_id: PipelineId::try_new("pipeline 'für' \"alles\"").unwrap(),
        position: 7,
        version: PipelineVersion::from_stored("0123456789abcdef"),
        correlation_id: CorrelationId::new("ключ \t\n 🦀 \\u0000"),
        context: BTreeMap::from([
            ("devicename".to_owned(), format!("Device {number}")),
            ("receivedtopic".to_owned(), "a/b\u{0}".to_owned()),
        ]),
        input: StoredInput::Delivery {
            content_type: "application/cbor; charset=\"ü\"".to_owned(),
            topic: "edgex/events/device/käse".to_owned(),
            form: PayloadForm::Base64,
        },
        payload: (0..=255).collect::<Vec<u8>>().into(),
        attempts: 3,
        state,
        created_at: at(1),
        last_attempt_at: Some(at(9)),
        not_before: Some(at(99)),
        last_error: Some("refused: \"\\\" \r\n ü".to_owned()),
        errors: [
            AttemptError::new(1, at(2), "first"),
            AttemptError::new(3, at(9), "refused: \"\\\" \r\n ü"),
        ]
        .into_iter()
        .collect(),
        reason: (state == ObjectState::Error).then_some(ErrorReason::RetriesExceeded),
        destination: Some(Destination::new("http://[::1]:8080/ü?x=%20")),
        ended_at: has_ended.then(|| at(10)),
        crashes: 0,
    }
}

/// As little as possible.
fn bare(number: u64, state: ObjectState) -> StoredObject {
    StoredObject {
        context: BTreeMap::new(),
        input: StoredInput::Bytes {
            kind: DataKind::Bytes,
        },
        payload: Default::default(),
        attempts: 0,
        last_attempt_at: None,
        not_before: None,
        last_error: None,
        errors: Default::default(),
        reason: None,
        destination: None,
        ended_at: None,
        ..full(number, state)
    }
}

/// Two objects in each state.
fn every_state() -> Vec<StoredObject> {
    let states = ObjectState::ALL.into_iter();
    let pairs = states
        .zip((1..).step_by(2))
        .map(|(state, number)| [full(number, state), bare(number + 1, state)]);
    pairs.flatten().collect()
}

/// Where a store of the service is.
#[derive(Clone)]
enum Place {
    File(PathBuf),
    Postgres(Arc<Postgres>, String),
}

type Closed = tokio::task::JoinHandle<()>;

#[expect(clippy::disallowed_methods, reason = "a test has no service to spawn through")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Closed {
    tokio::spawn(work)
}

impl Place {
    async fn postgres() -> Self {
        let server = Postgres::shared().await.unwrap();
        let database = server.database().unwrap();
        Self::Postgres(server, database)
    }

    /// As it is given to the command.
    fn address(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Postgres(server, database) => {
                let password = Postgres::PASSWORD.replace(' ', "%20").replace('"', "%22");
                let (user, port) = (Postgres::USER, server.port());
                format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}")
            }
        }
    }

    /// Opened as a service opens it, with what works for it.
    async fn open(&self) -> (Box<dyn RetryQueue>, Closed) {
        match self {
            Self::File(path) => {
                let options = Options::new(path, service_key());
                let (queue, writer) = SqliteQueue::open(options).await.unwrap();
                (Box::new(queue), spawn(writer.run()))
            }
            Self::Postgres(server, database) => {
                let options = edgehold_store_postgres::Options {
                    port: server.port(),
                    database: database.clone(),
                    username: Postgres::USER.to_owned(),
                    password: SecretText::new(Postgres::PASSWORD),
                    ..edgehold_store_postgres::Options::new("127.0.0.1", service_key())
                };
                let (queue, worker) = PostgresQueue::open(options).await.unwrap();
                (Box::new(queue), spawn(Worker::run(worker)))
            }
        }
    }

    /// Lets a service keep objects, and ends it in order.
    async fn fill(&self, objects: &[StoredObject]) {
        let (queue, closed) = self.open().await;
        for answer in queue.append(objects, Room::default()).await {
            answer.unwrap();
        }
        queue.close().await;
        closed.await.unwrap();
    }

    /// What a service finds when it starts, oldest first.
    async fn started(&self) -> Vec<StoredObject> {
        let (queue, closed) = self.open().await;
        let found = listed(&*queue).await;
        queue.close().await;
        closed.await.unwrap();
        found
    }
}

/// Everything in a store, without what belongs to a store and not to an object.
async fn listed(queue: &dyn RetryQueue) -> Vec<StoredObject> {
    let request = ListRequest {
        states: ObjectState::ALL.to_vec(),
        filter: ObjectFilter::default(),
        after_seq: 0,
        limit: 1_000,
    };
    let page = queue.list(request).await.unwrap();
    assert_eq!(page.next_after_seq, None);
    let objects = page.objects.into_iter();
    objects
        .map(|object| StoredObject {
            seq: 0,
            crashes: 0,
            ..object
        })
        .collect()
}

/// A folder with a configuration, and a copy made by what is in it.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("configuration.yaml"),
            "Writable:\n  LogLevel: INFO\n",
        )
        .unwrap();
        Self { folder }
    }

    fn file(&self, name: &str) -> Place {
        Place::File(self.folder.path().join(name))
    }

    async fn copy(&self, from: &Place, to: &Place) -> Result<CopyReport, CopyError> {
        self.copy_telling(from, to, |_| {}).await
    }

    async fn copy_telling(
        &self,
        from: &Place,
        to: &Place,
        tell: impl FnMut(&CopyReport),
    ) -> Result<CopyReport, CopyError> {
        let folder: &Path = self.folder.path();
        let args = ["-cd".into(), folder.into(), "--data-dir".into(), folder.into()];
        let environment = [("EDGEX_SECURITY_SECRET_STORE".into(), OsString::from("false"))];
        let invocation = Invocation::new(args, environment).unwrap();
        let request = CopyRequest {
            from: from.address().parse().unwrap(),
            to: to.address().parse().unwrap(),
        };
        copy_store(&invocation, SERVICE_KEY, &request, tell).await
    }
}

/// The two are the same, in order; else the first object that is not.
#[track_caller]
fn assert_same(found: &[StoredObject], wanted: &[StoredObject], what: &str) {
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found, wanted, "{what}");
    }
    assert_eq!(found.len(), wanted.len(), "{what}");
}

/// What a start makes of an object that only a running process could have in hand.
fn as_started(object: &StoredObject) -> StoredObject {
    match object.state {
        ObjectState::New | ObjectState::Batched => StoredObject {
            state: ObjectState::Failed,
            last_attempt_at: None,
            ..object.clone()
        },
        _ => object.clone(),
    }
}

#[tokio::test]
async fn an_object_of_any_state_is_in_the_copy_as_the_next_start_would_have_it() {
    let bench = Bench::new();
    let kept = every_state();
    let wanted: Vec<_> = kept.iter().map(as_started).collect();
    for from in [bench.file("from.db"), Place::postgres().await] {
        from.fill(&kept).await;
        for (number, to) in [bench.file("to.db"), Place::postgres().await].iter().enumerate() {
            // When the store of a stopped service is copied, and copied again.
            let report = bench.copy(&from, to).await.unwrap();
            assert!(report.agrees() && report.already == 0, "{report:?}");
            let again = bench.copy(&from, to).await.unwrap();
            assert!(again.agrees() && again.already == again.copied, "{again:?}");

            // Then a service that starts there finds every object, in order and equal field by field.
            let what = format!("{} to {number}", from.address());
            assert_same(&to.started().await, &wanted, &what);
            if let Place::File(path) = to {
                std::fs::remove_file(path).unwrap();
            }
        }
        // And so does one that starts where it was.
        assert_same(&from.started().await, &wanted, &from.address());
    }
}

#[tokio::test]
async fn a_text_that_postgres_takes_only_without_nul_is_no_difference() {
    let (bench, to) = (Bench::new(), Place::postgres().await);
    let from = bench.file("from.db");
    let nul = StoredObject {
        correlation_id: CorrelationId::new("a\0b"),
        last_error: Some("\0".to_owned()),
        errors: [AttemptError::new(1, at(2), "answered \0\0")]
            .into_iter()
            .collect(),
        ..full(1, ObjectState::Failed)
    };
    from.fill(&[nul]).await;
    let report = bench.copy(&from, &to).await.unwrap();
    assert!(report.agrees(), "{report:?}");
    assert_eq!(to.started().await[0].last_error.as_deref(), Some("\u{2400}"));
}

#[tokio::test]
async fn a_store_that_a_service_works_with_is_neither_copied_nor_copied_to() {
    let bench = Bench::new();
    let stores = [
        [bench.file("a.db"), bench.file("b.db")],
        [Place::postgres().await, Place::postgres().await],
    ];
    for [used, other] in stores {
        other.fill(&[full(1, ObjectState::Failed)]).await;
        let (queue, closed) = used.open().await;
        let from = bench.copy(&used, &other).await;
        assert!(
            matches!(from, Err(CopyError::Source(StoreError::Locked { .. }))),
            "{from:?}"
        );
        let to = bench.copy(&other, &used).await;
        assert!(
            matches!(to, Err(CopyError::Target(StoreError::Locked { .. }))),
            "{to:?}"
        );
        assert_eq!(listed(&*queue).await, []);
        queue.close().await;
        closed.await.unwrap();
        assert!(bench.copy(&other, &used).await.unwrap().agrees());
    }
}

#[tokio::test]
async fn a_store_whose_service_was_killed_is_copied_as_soon_as_that_is_certain() {
    let (bench, from) = (Bench::new(), Place::postgres().await);
    let (queue, killed) = from.open().await;
    queue.append(&[full(1, ObjectState::New)], Room::default()).await;
    killed.abort();
    assert!(killed.await.is_err(), "it was killed");
    let report = bench.copy(&from, &bench.file("to.db")).await.unwrap();
    assert!(report.agrees() && report.copied == 1, "{report:?}");
}

#[tokio::test]
async fn a_service_cannot_start_on_a_file_while_it_is_copied() {
    let (bench, to) = (Bench::new(), Place::postgres().await);
    let from = bench.file("from.db");
    from.fill(&[full(1, ObjectState::Failed)]).await;
    let Place::File(path) = &from else { unreachable!() };
    let mut refused = None;
    let report = bench
        .copy_telling(&from, &to, |_| refused = Some(SqliteQueue::lock(path).is_err()))
        .await;
    assert!(report.unwrap().agrees());
    assert_eq!(refused, Some(true));
}

#[tokio::test]
async fn a_service_that_starts_on_a_server_while_it_is_copied_is_told_of() {
    let (bench, from) = (Bench::new(), Place::postgres().await);
    from.fill(&[full(1, ObjectState::Failed)]).await;
    let Place::Postgres(server, database) = &from else {
        unreachable!()
    };
    let started = bench
        .copy_telling(&from, &bench.file("to.db"), |_| {
            let join = format!(
                "INSERT INTO \"{SERVICE_KEY}\".instance (name, heartbeat_at) VALUES ('other', clock_timestamp())"
            );
            server.psql(database, &join).unwrap();
        })
        .await;
    assert!(matches!(started, Err(CopyError::Started(_))), "{started:?}");
}

#[tokio::test]
async fn what_waits_in_the_spool_in_front_of_a_server_is_told_of_and_can_be_copied() {
    let (bench, from, to) = (Bench::new(), Place::postgres().await, Place::postgres().await);
    let spool = bench.file(&format!("{SERVICE_KEY}.spool.db"));
    from.fill(&[full(1, ObjectState::Failed)]).await;
    spool.fill(&[full(2, ObjectState::Failed)]).await;
    let report = bench.copy(&from, &to).await.unwrap();
    assert_eq!(report.spool.map(|(_, objects)| objects), Some(1));
    let report = bench.copy(&spool, &to).await.unwrap();
    assert!(report.agrees() && report.others == 1, "{report:?}");
    assert_eq!(report.spool, None);
    assert_eq!(to.started().await.len(), 2);
}
