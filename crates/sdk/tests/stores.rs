//! Stores from outside: copied, looked through, put away.

use std::{
    collections::BTreeMap,
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

/// A folder with a configuration, and what is done with stores by what is in it.
struct Bench {
    folder: TempDir,
    environment: BTreeMap<&'static str, String>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("configuration.yaml"),
            "Writable:\n  LogLevel: INFO\n",
        )
        .unwrap();
        Self {
            folder,
            environment: [("EDGEX_SECURITY_SECRET_STORE", "false".to_owned())].into(),
        }
    }

    /// One whose service keeps its objects on this server.
    fn on_server(server: &Postgres, database: &str) -> Self {
        let bench = Self::new();
        let configuration = format!(
            "Writable:
  InsecureSecrets:
    DB: {{SecretName: postgres, SecretData: {{username: {user}, password: {password:?}}}}}
Database: {{Type: postgres, Host: 127.0.0.1, Port: {port}}}
",
            user = Postgres::USER,
            password = Postgres::PASSWORD,
            port = server.port(),
        );
        std::fs::write(bench.folder.path().join("configuration.yaml"), configuration).unwrap();
        bench.env("EDGEX_DBNAME", database)
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.insert(name, value.to_owned());
        self
    }

    fn file(&self, name: &str) -> Place {
        Place::File(self.folder.path().join(name))
    }

    async fn copy(&self, from: &Place, to: &Place) -> Result<CopyReport, CopyError> {
        self.copy_telling(from, to, |_| {}).await
    }

    fn invocation(&self) -> Invocation {
        let folder: &Path = self.folder.path();
        let args = ["-cd".into(), folder.into(), "--data-dir".into(), folder.into()];
        let environment = self.environment.iter();
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        Invocation::new(args, environment).unwrap()
    }

    async fn copy_telling(
        &self,
        from: &Place,
        to: &Place,
        tell: impl FnMut(&CopyReport),
    ) -> Result<CopyReport, CopyError> {
        self.copy_at(&from.address(), &to.address(), tell).await
    }

    async fn copy_at(
        &self,
        from: &str,
        to: &str,
        tell: impl FnMut(&CopyReport),
    ) -> Result<CopyReport, CopyError> {
        let request = CopyRequest {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        };
        copy_store(&self.invocation(), SERVICE_KEY, &request, tell).await
    }
}

#[path = "stores/check.rs"]
mod check;
#[path = "stores/copy.rs"]
mod copy;
#[path = "stores/server.rs"]
mod server;
