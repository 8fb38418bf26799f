//! An application service with a store of its own: stored objects in a key-value bucket of NATS JetStream.
//!
//! What a custom store needs is here and nowhere else: the five operations of [`StoreClient`], written against the public
//! trait alone, and the factory that opens it. Run it beside a broker on port 1883 and `nats-server -js`:
//!
//! ```text
//! EDGEX_SECURITY_SECRET_STORE=false cargo run -p edgehold --example jetstream_store -- -cd=crates/sdk/examples/jetstream_store
//! ```
//!
//! What it does with the bucket: a key for each object, its id, whose value is [`record::to_json`]. A change is written
//! against the revision it was made of. A removal deletes the message itself: a deleted or purged key would leave a marker
//! behind for every object there ever was. One instance of the service at a time, as with every custom store: it keeps
//! the ids and their revisions in memory.

use std::{
    collections::BTreeMap,
    error::Error,
    ops::Bound,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use async_nats::{
    ConnectOptions,
    jetstream::{
        self, Context, ErrorCode,
        kv::{CreateErrorKind, Store, UpdateErrorKind},
        response::Response,
        stream,
    },
};
use edgehold::{
    AppService, BoxFuture, Credentials, CustomStoreFactory, DatabaseSettings, ServiceKey, StoreClient,
    StoreError, StoredObject, StoredObjectId, record,
};
use futures_util::{StreamExt, TryStreamExt, future, stream as streams};
use serde::de::IgnoredAny;
use serde_json::json;

/// Requests that are on their way at once. Each answer says that its object is safe, so waiting for one after the
/// other would cost a round trip for each.
const AT_ONCE: usize = 64;
/// What the subject and the headers of a message may take of the largest one.
const HEADER_BYTES: usize = 1024;

/// What is known of an object. One whose last operation ended with an error, or was dropped, may be there or not.
#[derive(Default)]
struct Place {
    revision: Option<u64>,
    /// Alive as long as an operation is writing it.
    writing: Weak<()>,
}

/// The bucket of one service.
pub(crate) struct JetStreamStore {
    jetstream: Context,
    bucket: Store,
    /// The largest message the server takes.
    max_payload: usize,
    places: Mutex<BTreeMap<StoredObjectId, Place>>,
}

/// Opens the bucket of this name, and makes it when it is not there.
pub(crate) fn factory(bucket: &'static str) -> CustomStoreFactory {
    Arc::new(move |database, credentials| {
        Box::pin(async move {
            let store = JetStreamStore::open(bucket, &database, credentials).await?;
            Ok(Arc::new(store) as Arc<dyn StoreClient>)
        })
    })
}

impl JetStreamStore {
    async fn open(
        bucket: &str,
        database: &DatabaseSettings,
        credentials: Credentials,
    ) -> Result<Self, StoreError> {
        let server = format!("nats://{}:{}", database.host, database.port);
        let mut options = ConnectOptions::new()
            .connection_timeout(database.timeout)
            .request_timeout(Some(database.timeout));
        if !credentials.username.is_empty() {
            let password = credentials.password.expose().to_owned();
            options = options.user_and_password(credentials.username, password);
        }
        let client = options
            .connect(&server)
            .await
            .map_err(|error| StoreError::unavailable(format!("no connection to {server}"), error))?;
        let max_payload = client.server_info().max_payload;
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(database.timeout);
        // What `create_key_value` makes. It is not called because it asks for the account first, which servers before
        // 2.10 answer in a form that is not understood.
        let config = stream::Config {
            name: format!("KV_{bucket}"),
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 1,
            discard: stream::DiscardPolicy::New,
            allow_rollup: true,
            allow_direct: true,
            ..stream::Config::default()
        };
        jetstream.get_or_create_stream(config).await.map_err(failed)?;
        let bucket = jetstream.get_key_value(bucket).await.map_err(failed)?;
        let keys = bucket.keys().await.map_err(failed)?;
        let places = keys
            .try_filter_map(|key| future::ok(key.parse().ok().map(|id| (id, Place::default()))))
            .try_collect()
            .await
            .map_err(failed)?;
        Ok(Self {
            jetstream,
            bucket,
            max_payload,
            places: Mutex::new(places),
        })
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<StoredObjectId, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that this object is being written, until the answer is dropped. Nobody knows its revision meanwhile.
    fn writing(&self, id: StoredObjectId) -> Arc<()> {
        let writing = Arc::new(());
        let place = Place {
            revision: None,
            writing: Arc::downgrade(&writing),
        };
        self.places().insert(id, place);
        writing
    }

    fn written(&self, id: StoredObjectId, revision: u64) {
        if let Some(place) = self.places().get_mut(&id) {
            place.revision = Some(revision);
        }
    }

    /// The revision of an object: as known, else as the server says; none when there is no such object.
    async fn revision(&self, id: StoredObjectId) -> Result<Option<u64>, StoreError> {
        match self.places().get(&id) {
            None => return Ok(None),
            Some(place) if place.revision.is_some() => return Ok(place.revision),
            Some(_) => {}
        }
        let entry = self.bucket.entry(id.to_string()).await.map_err(failed)?;
        Ok(entry.map(|entry| entry.revision))
    }

    async fn create(&self, object: &StoredObject) -> Result<StoredObjectId, StoreError> {
        let value = record::to_json(object);
        if value.len() + HEADER_BYTES > self.max_payload {
            let (length, max) = (value.len(), self.max_payload);
            return Err(StoreError::Invalid {
                id: object.id,
                problem: format!("it takes {length} bytes, and the NATS server's max_payload is {max}"),
            });
        }
        let _writing = self.writing(object.id);
        match self.bucket.create(object.id.to_string(), value.into()).await {
            Ok(revision) => self.written(object.id, revision),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                return Err(StoreError::Exists(object.id));
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(object.id)
    }

    async fn replace(&self, object: &StoredObject) -> Result<(), StoreError> {
        while let Some(revision) = self.revision(object.id).await? {
            let _writing = self.writing(object.id);
            let value = record::to_json(object).into();
            match self.bucket.update(object.id.to_string(), value, revision).await {
                Ok(revision) => {
                    self.written(object.id, revision);
                    return Ok(());
                }
                // An update before this one was dropped, and was done all the same: once more, on what is there.
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    async fn delete(&self, id: StoredObjectId) -> Result<(), StoreError> {
        if let Some(revision) = self.revision(id).await? {
            let _writing = self.writing(id);
            let subject = format!("STREAM.MSG.DELETE.{}", self.bucket.stream_name);
            let message = json!({ "seq": revision, "no_erase": true });
            let answer: Response<IgnoredAny> =
                self.jetstream.request(subject, &message).await.map_err(failed)?;
            match answer {
                // Gone already: a removal before this one was dropped, and was done all the same.
                Response::Err { error } if error.error_code() != ErrorCode::NO_MESSAGE_FOUND => {
                    return Err(failed(error));
                }
                _ => {}
            }
        }
        self.places().remove(&id);
        Ok(())
    }

    /// The object of this id, unless it is gone or belongs to another service.
    async fn read(
        &self,
        id: StoredObjectId,
        service_key: &ServiceKey,
    ) -> Result<Option<StoredObject>, StoreError> {
        let Some(entry) = self.bucket.entry(id.to_string()).await.map_err(failed)? else {
            let mut places = self.places();
            if places
                .get(&id)
                .is_some_and(|place| place.writing.strong_count() == 0)
            {
                places.remove(&id);
            }
            return Ok(None);
        };
        let object = record::read(&entry.value, id, service_key);
        Ok((object.service_key == *service_key).then_some(object))
    }

    /// The ids behind `after`, in order.
    fn ids(&self, after: Option<StoredObjectId>, limit: usize) -> Vec<StoredObjectId> {
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let places = self.places();
        let ids = places.range((behind, Bound::Unbounded)).map(|(id, _)| *id);
        ids.take(limit).collect()
    }
}

impl StoreClient for JetStreamStore {
    fn store<'a>(
        &'a self,
        objects: &'a [StoredObject],
    ) -> BoxFuture<'a, Vec<Result<StoredObjectId, StoreError>>> {
        let answers = streams::iter(objects)
            .map(|object| self.create(object))
            .buffered(AT_ONCE);
        Box::pin(answers.collect())
    }

    fn retrieve_from_store<'a>(
        &'a self,
        service_key: &'a ServiceKey,
        after: Option<StoredObjectId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(async move {
            let (mut after, mut objects) = (after, Vec::new());
            // Some of them may be gone, which is no reason for a short page.
            loop {
                let ids = self.ids(after, limit - objects.len());
                let Some(last) = ids.last() else { break };
                after = Some(*last);
                let page: Vec<_> = streams::iter(ids)
                    .map(|id| self.read(id, service_key))
                    .buffered(AT_ONCE)
                    .try_collect()
                    .await?;
                objects.extend(page.into_iter().flatten());
            }
            Ok(objects)
        })
    }

    fn update<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Result<(), StoreError>> {
        let done = streams::iter(objects)
            .map(|object| self.replace(object))
            .buffer_unordered(AT_ONCE);
        Box::pin(done.try_for_each(|()| future::ok(())))
    }

    fn remove_from_store<'a>(&'a self, ids: &'a [StoredObjectId]) -> BoxFuture<'a, Result<(), StoreError>> {
        let done = streams::iter(ids)
            .map(|id| self.delete(*id))
            .buffer_unordered(AT_ONCE);
        Box::pin(done.try_for_each(|()| future::ok(())))
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        // Everything that was answered is safe; the connection ends with this value.
        Box::pin(future::ready(()))
    }
}

/// A request that failed, for whoever asked: nothing but a full server is told apart, as everything else may pass.
fn failed(error: impl Error + Send + Sync + 'static) -> StoreError {
    let error: Box<dyn Error + Send + Sync> = error.into();
    let first: &(dyn Error + 'static) = error.as_ref();
    let causes = std::iter::successors(Some(first), |error| Error::source(*error));
    let mut codes = causes.filter_map(|error| Some(error.downcast_ref::<jetstream::Error>()?.error_code()));
    if codes.any(|code| FULL.contains(&code)) {
        return StoreError::Full {
            reason: format!("JetStream takes no more: {error}"),
        };
    }
    StoreError::unavailable("JetStream does not do what it was asked", error)
}

/// What a server answers when a limit of the stream, of the account or of its own is reached.
const FULL: [ErrorCode; 4] = [
    ErrorCode::STREAM_STORE_FAILED,
    ErrorCode::STORAGE_RESOURCES_EXCEEDED,
    ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ErrorCode::INSUFFICIENT_RESOURCES,
];

const SERVICE_KEY: &str = "app-jetstream";

fn main() -> ExitCode {
    AppService::new(SERVICE_KEY)
        .with_custom_store("jetstream", factory(SERVICE_KEY))
        .expect("it may take the place of the built-in one")
        .main()
}
