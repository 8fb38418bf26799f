//! A store with a spool in front: the suite while the store is there, and what becomes of objects while it is not.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use edgehold_core::{
    BoxFuture, DataKind, Destination, ObjectState, PipelineId, PipelineVersion, StoredObject, StoredObjectId,
    Timestamp,
    retry::{Action, Progress, Verdict},
};
use edgehold_store::{
    Claim, ErrorGroup, ErrorPage, Evicted, Eviction, Lane, LaneStatus, ListRequest, MemoryQueue, Moved,
    Mover, ObjectFilter, Page, RetryQueue, Room, Selection, SpooledQueue, StoreError, StoreHandle,
    StoreStats, Suspects, Sweep,
    conformance::{self, TestStore, object},
};
use tokio::{sync::watch, time::sleep};

const TIMEOUT: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "a test has no service to spawn through")]
fn run(mover: Mover) {
    tokio::spawn(mover.run());
}

fn memory() -> Arc<MemoryQueue> {
    Arc::new(MemoryQueue::new(conformance::service_key()))
}

async fn make_store() -> TestStore {
    TestStore::new(|| async {
        let store: StoreHandle = watch::channel(Some(memory() as Arc<dyn RetryQueue>)).1;
        let (queue, mover) = SpooledQueue::open(memory(), store, TIMEOUT).await.unwrap();
        run(mover);
        queue
    })
}

edgehold_store::queue_conformance!(make_store);

/// How a store behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    There,
    /// Refuses.
    Away,
    /// Never answers, and does nothing.
    Hung,
    /// Does what it is asked for, and never answers.
    Mute,
    /// Keeps what is appended, never answers that, and answers anything else.
    MuteAppend,
    /// Never answers what is appended, and keeps it after the next verdicts.
    LateAppend,
    /// Does what verdicts say when it is switched to something else.
    HeldVerdicts,
    /// Has no room.
    Full,
    /// Takes nothing of more than 100 bytes.
    Picky,
}

/// A store in memory that can be switched away.
struct Switched {
    inner: MemoryQueue,
    mode: Mutex<Mode>,
    /// What it keeps later.
    late: Mutex<Vec<StoredObject>>,
}

impl Switched {
    fn new(mode: Mode) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryQueue::new(conformance::service_key()),
            mode: Mutex::new(mode),
            late: Mutex::default(),
        })
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    async fn guard<T>(&self, call: BoxFuture<'_, Result<T, StoreError>>) -> Result<T, StoreError> {
        match self.mode() {
            Mode::Away => Err(StoreError::unavailable("it is switched away", "test")),
            Mode::Hung => std::future::pending().await,
            Mode::Mute => {
                let _ = call.await;
                std::future::pending().await
            }
            Mode::There
            | Mode::MuteAppend
            | Mode::LateAppend
            | Mode::HeldVerdicts
            | Mode::Full
            | Mode::Picky => call.await,
        }
    }
}

impl RetryQueue for Switched {
    fn append<'a>(
        &'a self,
        objects: &'a [StoredObject],
        room: Room,
    ) -> BoxFuture<'a, Vec<Result<i64, StoreError>>> {
        Box::pin(async move {
            let full = |_: &StoredObject| {
                Err(StoreError::Full {
                    reason: "it is switched full".to_owned(),
                })
            };
            match self.mode() {
                Mode::Full => objects.iter().map(full).collect(),
                Mode::MuteAppend => {
                    self.inner.append(objects, room).await;
                    std::future::pending().await
                }
                Mode::LateAppend => {
                    self.late.lock().unwrap().extend_from_slice(objects);
                    std::future::pending().await
                }
                Mode::Picky => {
                    let mut answers = Vec::new();
                    for object in objects {
                        answers.push(match object.payload.len() > 100 {
                            true => Err(StoreError::Invalid {
                                id: object.id,
                                problem: "too large".to_owned(),
                            }),
                            false => self
                                .inner
                                .append(std::slice::from_ref(object), room)
                                .await
                                .remove(0),
                        });
                    }
                    answers
                }
                _ => {
                    let append = Box::pin(async { Ok(self.inner.append(objects, room).await) });
                    let outcome = self.guard(append).await;
                    outcome.unwrap_or_else(|error| error.for_each(objects.len()))
                }
            }
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(self.guard(self.inner.claim(claim)))
    }

    fn settle<'a>(&'a self, verdicts: &'a [Verdict]) -> BoxFuture<'a, Result<(), StoreError>> {
        let settle = self.inner.settle(verdicts);
        Box::pin(self.guard(Box::pin(async {
            while self.mode() == Mode::HeldVerdicts {
                sleep(Duration::from_millis(1)).await;
            }
            let outcome = settle.await;
            let late = std::mem::take(&mut *self.late.lock().unwrap());
            self.inner.append(&late, Room::default()).await;
            outcome
        })))
    }

    fn lanes(
        &self,
        interval: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<LaneStatus>, StoreError>> {
        Box::pin(self.guard(self.inner.lanes(interval, now)))
    }

    fn is_waiting<'a>(
        &'a self,
        pipeline_id: &'a PipelineId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.guard(self.inner.is_waiting(pipeline_id, device)))
    }

    fn evict(&self, eviction: Eviction) -> BoxFuture<'_, Result<Vec<Evicted>, StoreError>> {
        Box::pin(self.guard(self.inner.evict(eviction)))
    }

    fn sweep(&self, sweep: Sweep, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.guard(self.inner.sweep(sweep, limit)))
    }

    fn redrive(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(self.guard(self.inner.redrive(page)))
    }

    fn purge(&self, page: ErrorPage) -> BoxFuture<'_, Result<Moved, StoreError>> {
        Box::pin(self.guard(self.inner.purge(page)))
    }

    fn survey(&self, filter: ObjectFilter) -> BoxFuture<'_, Result<Vec<ErrorGroup>, StoreError>> {
        Box::pin(self.guard(self.inner.survey(filter)))
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(self.guard(self.inner.list(request)))
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        Box::pin(self.guard(self.inner.stats()))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

/// A queue with a running mover, and the two stores it is made of.
struct Bench {
    store: Arc<Switched>,
    spool: Arc<Switched>,
    queue: SpooledQueue,
    _handle: watch::Sender<Option<Arc<dyn RetryQueue>>>,
}

impl Bench {
    async fn new(mode: Mode) -> Self {
        Self::with(Switched::new(mode), Switched::new(Mode::There)).await
    }

    async fn with(store: Arc<Switched>, spool: Arc<Switched>) -> Self {
        let (handle, primary) = watch::channel(Some(store.clone() as Arc<dyn RetryQueue>));
        let (queue, mover) = SpooledQueue::open(spool.clone(), primary, TIMEOUT).await.unwrap();
        run(mover);
        Self {
            store,
            spool,
            queue,
            _handle: handle,
        }
    }

    async fn append(&self, number: u64) -> Result<i64, StoreError> {
        append(&self.queue, &failed(number)).await
    }

    async fn moved(&self) {
        until("the spool is empty", async || {
            held(&self.spool.inner).await.is_empty()
        })
        .await;
        until("the store is there", async || self.claim().await.is_ok()).await;
    }

    /// What is claimed; it is given back.
    async fn claim(&self) -> Result<Vec<StoredObject>, StoreError> {
        let page = self.queue.claim(everything()).await?;
        let verdict = |object: &StoredObject| verdict(object.id, Action::RELEASE);
        self.queue
            .settle(&page.iter().map(verdict).collect::<Vec<_>>())
            .await?;
        Ok(page)
    }
}

fn everything() -> Claim {
    Claim {
        selection: Selection {
            lane: Lane::Any,
            due: None,
        },
        suspects: Suspects::Exclude,
        ordered: false,
        after_seq: 0,
        now: Timestamp::from_unix_millis(i64::MAX / 4),
        limit: 1_000,
        max_bytes: usize::MAX,
    }
}

fn failed(number: u64) -> StoredObject {
    StoredObject {
        state: ObjectState::Failed,
        ..object(number)
    }
}

fn new(number: u64) -> StoredObject {
    StoredObject {
        state: ObjectState::New,
        ..object(number)
    }
}

fn verdict(id: StoredObjectId, action: Action) -> Verdict {
    Verdict { id, action }
}

/// A run has failed, because its destination was down.
fn fail(progress: Option<Progress>) -> Action {
    Action::Release {
        not_before: None,
        last_error: Some("down".to_owned()),
        destination: Some(Destination::new("http://a")),
        progress,
    }
}

async fn append(queue: &dyn RetryQueue, object: &StoredObject) -> Result<i64, StoreError> {
    let mut answers = queue.append(std::slice::from_ref(object), Room::default()).await;
    answers.remove(0)
}

/// What a store holds, oldest first.
async fn held(queue: &dyn RetryQueue) -> Vec<StoredObject> {
    let request = ListRequest {
        states: vec![
            ObjectState::New,
            ObjectState::Success,
            ObjectState::Failed,
            ObjectState::Error,
        ],
        filter: ObjectFilter::default(),
        after_seq: 0,
        limit: 10_000,
    };
    queue.list(request).await.unwrap().objects
}

fn ids(objects: &[StoredObject]) -> Vec<StoredObjectId> {
    objects.iter().map(|object| object.id).collect()
}

fn ids_of(numbers: impl IntoIterator<Item = u64>) -> Vec<StoredObjectId> {
    numbers.into_iter().map(|number| object(number).id).collect()
}

/// Waits in paused time.
async fn until(what: &str, reached: impl AsyncFn() -> bool) {
    for _ in 0..10_000 {
        if reached().await {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn is_unavailable<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Unavailable { .. }))
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_the_store_is_away_is_in_it_afterwards_in_order() {
    let bench = Bench::new(Mode::There).await;
    bench.append(0).await.unwrap();
    assert_eq!(bench.queue.stats().await.unwrap().failed.objects, 1);
    // When the store goes away, everything is kept all the same, more than moves at once
    bench.store.set(Mode::Away);
    for number in 1..600 {
        bench.append(number).await.unwrap();
    }
    assert!(is_unavailable(&bench.queue.claim(everything()).await));
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([0]));
    assert_eq!(bench.queue.stats().await.unwrap().failed.objects, 600);
    // Then it is in the store as soon as that is back, once and in order
    bench.store.set(Mode::There);
    bench.moved().await;
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of(0..600));
    assert_eq!(ids(&bench.claim().await.unwrap()), ids_of(0..600));
    assert_eq!(bench.queue.stats().await.unwrap().failed.objects, 600);
    // And what comes then goes there at once
    bench.append(600).await.unwrap();
    assert!(held(&bench.spool.inner).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_not_open_yet_counts_as_away() {
    // Given a queue whose store is not open
    let (handle, primary) = watch::channel(None);
    let (queue, mover) = SpooledQueue::open(memory(), primary, TIMEOUT).await.unwrap();
    run(mover);
    append(&queue, &failed(1)).await.unwrap();
    assert!(is_unavailable(&queue.lanes(INTERVAL, Timestamp::default()).await));
    // When it is opened and holds something from before
    let store = memory();
    append(&*store, &failed(0)).await.unwrap();
    handle.send_replace(Some(store.clone() as Arc<dyn RetryQueue>));
    // Then both are there
    until("it has moved", async || held(&*store).await.len() == 2).await;
    until("it is handed out", async || {
        queue.claim(everything()).await.is_ok_and(|page| page.len() == 2)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_counts_as_away_in_time() {
    let bench = Bench::new(Mode::Hung).await;
    let began = tokio::time::Instant::now();
    bench.append(0).await.unwrap();
    assert_eq!(began.elapsed(), TIMEOUT);
    // Once is enough
    bench.append(1).await.unwrap();
    assert!(is_unavailable(&bench.queue.claim(everything()).await));
    assert_eq!(began.elapsed(), TIMEOUT);
    bench.store.set(Mode::There);
    bench.moved().await;
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([0, 1]));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_took_without_an_answer_is_there_once() {
    // Given objects that the store and the spool have, as nobody knew that the store had them
    let bench = Bench::new(Mode::Mute).await;
    append(&bench.queue, &failed(0)).await.unwrap();
    let (ended, failing) = (new(1), new(2));
    bench.store.set(Mode::There);
    bench.moved().await;
    bench.store.set(Mode::Mute);
    let (one, other) = tokio::join!(append(&bench.queue, &ended), append(&bench.queue, &failing));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(held(&bench.store.inner).await.len(), 3);
    // When the run of one ends and that of the other fails
    let verdicts = [verdict(ended.id, Action::Remove), verdict(failing.id, fail(None))];
    bench.queue.settle(&verdicts).await.unwrap();
    bench.store.set(Mode::There);
    bench.moved().await;
    // Then the store forgets the one and learns about the other
    until("the one has left", async || {
        held(&bench.store.inner).await.len() == 2
    })
    .await;
    let kept = held(&bench.store.inner).await;
    assert_eq!(ids(&kept), ids_of([0, 2]));
    assert_eq!(kept[1].state, ObjectState::Failed);
    assert_eq!(kept[1].last_error.as_deref(), Some("down"));
    assert_eq!(bench.claim().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_takes_late_is_in_nobodys_way() {
    // Given objects that the spool has, because the store did not answer
    let bench = Bench::new(Mode::LateAppend).await;
    let objects = [new(1), new(2)];
    bench.queue.append(&objects, Room::default()).await;
    let moved = Progress {
        version: PipelineVersion::from_stored("v1"),
        position: 1,
        kind: DataKind::Bytes,
        payload: Bytes::from_static(b"what comes next"),
        context: Default::default(),
    };
    let verdicts = [
        verdict(objects[0].id, fail(None)),
        verdict(objects[1].id, fail(Some(moved))),
    ];
    bench.queue.settle(&verdicts).await.unwrap();
    // When the store takes them after all, as they were, between the removal and the append of the move
    bench.store.set(Mode::There);
    bench.moved().await;
    // Then it has each once, as it is
    let kept = held(&bench.store.inner).await;
    assert_eq!(ids(&kept), ids_of([1, 2]));
    for object in &kept {
        assert_eq!(object.last_error.as_deref(), Some("down"));
    }
    assert_eq!(kept[1].payload, "what comes next");
    assert_eq!(bench.claim().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_journaled_object_moves_when_its_run_has_ended() {
    let bench = Bench::new(Mode::Away).await;
    for object in [new(0), failed(1), new(2)] {
        append(&bench.queue, &object).await.unwrap();
    }
    bench.store.set(Mode::There);
    until("the failed one has moved", async || {
        held(&bench.store.inner).await.len() == 1
    })
    .await;
    // What is new meanwhile does not have to wait for those whose runs go on
    until("the store is there", async || bench.claim().await.is_ok()).await;
    bench.append(3).await.unwrap();
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([1, 3]));
    assert_eq!(ids(&held(&bench.spool.inner).await), ids_of([0, 2]));
    // Until they end
    let ended = Timestamp::from_unix_millis(7);
    let verdicts = [
        verdict(object(0).id, Action::Succeed { at: ended }),
        verdict(object(2).id, Action::Remove),
    ];
    bench.queue.settle(&verdicts).await.unwrap();
    bench.moved().await;
    let kept = held(&bench.store.inner).await;
    assert_eq!(ids(&kept), ids_of([1, 3, 0]));
    assert_eq!(
        (kept[2].state, kept[2].ended_at),
        (ObjectState::Success, Some(ended))
    );
}

/// An object of this device.
fn of(device: &str, object: StoredObject) -> StoredObject {
    StoredObject {
        context: [("devicename".to_owned(), device.to_owned())].into(),
        ..object
    }
}

#[tokio::test(start_paused = true)]
async fn in_order_nothing_overtakes_what_the_store_has_otherwise_and_takes_later() {
    let bench = Bench::new(Mode::Away).await;
    let _ = bench.queue.is_waiting(&object(0).pipeline_id, "pump").await;
    // Given an object that the store has as it was, which nobody knows, and another one behind it
    let earlier = StoredObject {
        payload: Bytes::from_static(b"as it was"),
        ..of("pump", failed(0))
    };
    append(&bench.store.inner, &earlier).await.unwrap();
    for number in 0..2 {
        append(&bench.queue, &of("pump", failed(number))).await.unwrap();
    }
    // When they move
    bench.store.set(Mode::There);
    bench.moved().await;
    // Then they are there in their order
    let kept = held(&bench.store.inner).await;
    assert_eq!(ids(&kept), ids_of([0, 1]));
    assert_eq!(kept[0].payload, failed(0).payload);
}

#[tokio::test(start_paused = true)]
async fn in_order_nothing_overtakes_what_is_under_way_with_its_row_in_the_spool() {
    let bench = Bench::new(Mode::Away).await;
    assert!(is_unavailable(
        &bench.queue.is_waiting(&object(0).pipeline_id, "pump").await
    ));
    let ordered = Claim {
        ordered: true,
        ..everything()
    };
    // Given a run whose row is in the spool, and a store that is back
    append(&bench.queue, &of("pump", new(0))).await.unwrap();
    bench.store.set(Mode::There);
    until("the store is there", async || {
        bench.queue.claim(ordered.clone()).await.is_ok()
    })
    .await;
    // When others come that have to wait
    append(&bench.queue, &of("pump", failed(1))).await.unwrap();
    append(&bench.queue, &of("fan", failed(2))).await.unwrap();
    sleep(TIMEOUT).await;
    // Then the one of its device stays behind it
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([2]));
    // Until its run has failed
    let verdicts = [verdict(object(0).id, fail(None))];
    bench.queue.settle(&verdicts).await.unwrap();
    bench.moved().await;
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([2, 0, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_verdict_waits_only_where_the_store_has_the_object() {
    let bench = Bench::new(Mode::There).await;
    append(&bench.queue, &new(0)).await.unwrap();
    bench.store.set(Mode::Away);
    append(&bench.queue, &new(1)).await.unwrap();
    let end = |number| [verdict(object(number).id, Action::Remove)];
    bench.queue.settle(&end(1)).await.unwrap();
    assert!(is_unavailable(&bench.queue.settle(&end(0)).await));
    bench.store.set(Mode::There);
    until("it is settled", async || {
        bench.queue.settle(&end(0)).await.is_ok()
    })
    .await;
    assert!(held(&bench.store.inner).await.is_empty());
}

/// What a batch that could not be exported leaves: its first object goes on with all that is in it, the others go.
fn end_of_batch(first: u64, others: impl IntoIterator<Item = u64>) -> Vec<Verdict> {
    let kept = verdict(object(first).id, fail(None));
    let removals = others
        .into_iter()
        .map(|number| verdict(object(number).id, Action::Remove));
    std::iter::once(kept).chain(removals).collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_while_what_goes_on_in_its_place_cannot_be_written() {
    // Given a batch whose first object is in the store, and the others in the spool
    let bench = Bench::new(Mode::There).await;
    append(&bench.queue, &new(1)).await.unwrap();
    bench.store.set(Mode::Away);
    append(&bench.queue, &new(2)).await.unwrap();
    // When its end is written while the store is away
    let end = end_of_batch(1, [2]);
    assert!(is_unavailable(&bench.queue.settle(&end).await));
    // Then all of it is there for whoever comes after a kill
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([1]));
    assert_eq!(ids(&held(&bench.spool.inner).await), ids_of([2]));
    // And what goes on is, once the store is back
    bench.store.set(Mode::There);
    until("it is written", async || bench.queue.settle(&end).await.is_ok()).await;
    bench.moved().await;
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([1]));
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_again_has_not_moved_meanwhile() {
    // Given a batch whose first object is in the spool, and another one in the store
    let bench = Bench::new(Mode::There).await;
    append(&bench.queue, &new(1)).await.unwrap();
    bench.store.set(Mode::Away);
    append(&bench.queue, &new(2)).await.unwrap();
    // When its end was written in the spool alone, and the store is back before it is asked for again
    let end = end_of_batch(2, [1]);
    assert!(is_unavailable(&bench.queue.settle(&end).await));
    bench.store.set(Mode::There);
    until("the store is there", async || {
        bench.queue.lanes(INTERVAL, Timestamp::default()).await.is_ok()
    })
    .await;
    for _ in 0..100 {
        assert_eq!(ids(&bench.queue.claim(everything()).await.unwrap()), []);
        sleep(Duration::from_millis(10)).await;
    }
    bench.queue.settle(&end).await.unwrap();
    // Then it is handed out once it was
    bench.moved().await;
    assert_eq!(ids(&bench.claim().await.unwrap()), ids_of([2]));
}

#[tokio::test(start_paused = true)]
async fn a_kill_between_the_steps_of_a_move_neither_loses_nor_doubles() {
    // Given what a kill leaves: an object in both, one only in the spool, and an older state of a third in the store
    let (store, spool) = (Switched::new(Mode::There), Switched::new(Mode::There));
    for object in [failed(0), failed(1)] {
        append(&spool.inner, &object).await.unwrap();
    }
    append(&store.inner, &failed(0)).await.unwrap();
    append(&store.inner, &new(2)).await.unwrap();
    let later = StoredObject {
        payload: b"later".as_slice().into(),
        ..failed(2)
    };
    append(&spool.inner, &later).await.unwrap();
    // When the next start has not come as far as moving
    let (_handle, primary) = watch::channel(Some(store.clone() as Arc<dyn RetryQueue>));
    let (queue, mover) = SpooledQueue::open(spool.clone(), primary, TIMEOUT).await.unwrap();
    // Then nothing is handed out
    assert_eq!(queue.claim(everything()).await.unwrap(), []);
    // And each counts once, as the spool knows it, also for whoever counts before the store is behind it
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting(), stats.new.objects), (3, 0), "{stats:?}");
    let beside = queue.stats_beside(&*store).await.unwrap();
    assert_eq!(
        beside,
        StoreStats {
            oldest_waiting: beside.oldest_waiting,
            ..StoreStats::default()
        }
    );
    // And when it moves, everything is there once, as the spool knew it
    run(mover);
    until("the spool is empty", async || held(&spool.inner).await.is_empty()).await;
    let kept = held(&store.inner).await;
    assert_eq!(ids(&kept), ids_of([0, 1, 2]));
    assert_eq!(kept[2].payload, later.payload);
    let page = queue.claim(everything()).await.unwrap();
    assert_eq!(ids(&page), ids_of([0, 1, 2]));
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_says_so_while_the_store_is_away() {
    let bench = Bench::new(Mode::Away).await;
    bench.append(0).await.unwrap();
    bench.spool.set(Mode::Full);
    assert!(matches!(bench.append(1).await, Err(StoreError::Full { .. })));
    // What makes room is in the spool
    let one = Eviction { objects: 1, bytes: 0 };
    let evicted = bench.queue.evict(one).await.unwrap();
    assert_eq!(evicted[0].id, object(0).id);
    bench.spool.set(Mode::There);
    bench.append(2).await.unwrap();
    // What was evicted never comes
    bench.store.set(Mode::There);
    bench.moved().await;
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([2]));
}

#[tokio::test(start_paused = true)]
async fn the_room_is_for_what_waits_in_both() {
    let bench = Bench::new(Mode::There).await;
    bench.append(0).await.unwrap();
    bench.queue.stats().await.unwrap();
    bench.store.set(Mode::Away);
    bench.append(1).await.unwrap();
    let room = Room {
        max_items: NonZeroU64::new(3),
        max_bytes: None,
    };
    let fits = async |object: StoredObject| bench.queue.append(&[object], room).await.remove(0);
    fits(new(2)).await.unwrap();
    assert!(matches!(fits(failed(3)).await, Err(StoreError::Full { .. })));
    // What is there already needs none, nor does what no longer waits
    fits(new(2)).await.unwrap();
    let given_up = StoredObject {
        state: ObjectState::Error,
        ..object(4)
    };
    fits(given_up).await.unwrap();
    // Also when the store is back while a run goes on
    bench.store.set(Mode::There);
    until("what can move has moved", async || {
        held(&bench.spool.inner).await.len() == 1
    })
    .await;
    until("the store is there", async || bench.claim().await.is_ok()).await;
    assert!(matches!(fits(failed(3)).await, Err(StoreError::Full { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_never_takes_holds_up_nobody() {
    let bench = Bench::new(Mode::Away).await;
    let large = StoredObject {
        payload: vec![7; 200].into(),
        ..failed(1)
    };
    for object in [failed(0), large, failed(2)] {
        append(&bench.queue, &object).await.unwrap();
    }
    bench.store.set(Mode::Picky);
    until("the others have moved", async || {
        held(&bench.store.inner).await.len() == 2
    })
    .await;
    assert_eq!(ids(&held(&bench.spool.inner).await), ids_of([1]));
    until("the store is there", async || bench.claim().await.is_ok()).await;
    bench.append(3).await.unwrap();
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([0, 2, 3]));
    // Nor does it keep what is new from going to the store at once
    bench.spool.set(Mode::Full);
    bench.append(4).await.unwrap();
    bench.spool.set(Mode::There);
    assert_eq!(bench.queue.stats().await.unwrap().failed.objects, 5);
}

#[tokio::test(start_paused = true)]
async fn a_store_without_room_is_there_and_what_is_new_queues_up_before_it() {
    let bench = Bench::new(Mode::Away).await;
    bench.append(0).await.unwrap();
    bench.store.set(Mode::Full);
    until("the store is there", async || bench.claim().await.is_ok()).await;
    bench.append(1).await.unwrap();
    assert_eq!(ids(&held(&bench.spool.inner).await), ids_of([0, 1]));
    bench.store.set(Mode::There);
    bench.moved().await;
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([0, 1]));
}

/// Three objects in the middle of their move: the store has them, and the spool has them still.
async fn moving() -> Bench {
    let bench = Bench::new(Mode::Away).await;
    for number in 0..3 {
        bench.append(number).await.unwrap();
    }
    bench.store.set(Mode::Full);
    until("the store is there", async || bench.claim().await.is_ok()).await;
    bench.spool.set(Mode::HeldVerdicts);
    bench.store.set(Mode::There);
    until("the store has them", async || {
        held(&bench.store.inner).await.len() == 3
    })
    .await;
    bench
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_while_it_moves_is_to_be_had_afterwards() {
    let bench = moving().await;
    // When they are asked for, then nobody gets them twice
    assert!(bench.queue.claim(everything()).await.unwrap().is_empty());
    // And somebody does when they have moved
    bench.spool.set(Mode::There);
    bench.moved().await;
    until("they can be had", async || {
        bench.claim().await.is_ok_and(|page| page.len() == 3)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_makes_room_while_it_moves_is_told_and_gone_for_good() {
    let bench = moving().await;
    // When room is made, by what the spool has too
    let eviction = Eviction { objects: 2, bytes: 0 };
    let (evicted, ()) = tokio::join!(bench.queue.evict(eviction), async {
        sleep(Duration::from_millis(10)).await;
        bench.spool.set(Mode::There);
    });
    // Then it is told of all that goes, and the rest comes
    let evicted: Vec<_> = evicted.unwrap().iter().map(|evicted| evicted.id).collect();
    assert_eq!(evicted, ids_of([0, 1]));
    bench.moved().await;
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([2]));
}

#[tokio::test(start_paused = true)]
async fn what_is_about_to_move_is_seen() {
    // Given one object in the store and one in the spool that cannot move yet
    let bench = Bench::new(Mode::There).await;
    bench.append(0).await.unwrap();
    bench.store.set(Mode::Away);
    let device = |number, device: &str| StoredObject {
        context: [("devicename".to_owned(), device.to_owned())].into(),
        destination: Some(Destination::new("http://a")),
        ..failed(number)
    };
    append(&bench.queue, &device(1, "pump")).await.unwrap();
    let pipeline_id = object(1).pipeline_id;
    assert!(bench.queue.is_waiting(&pipeline_id, "pump").await.unwrap());
    assert!(is_unavailable(&bench.queue.is_waiting(&pipeline_id, "fan").await));
    bench.store.set(Mode::Full);
    until("the store is there", async || bench.claim().await.is_ok()).await;
    // Then lists show both, page by page
    assert_eq!(ids(&held(&bench.queue).await), ids_of([0, 1]));
    let mut after_seq = 0;
    for number in 0..2 {
        let request = ListRequest {
            states: vec![ObjectState::Failed],
            filter: ObjectFilter::default(),
            after_seq,
            limit: 1,
        };
        let page = bench.queue.list(request).await.unwrap();
        assert_eq!(ids(&page.objects), ids_of([number]));
        after_seq = page.next_after_seq.unwrap_or_default();
    }
    assert_eq!(after_seq, 0);
    // And the retry loop is told to look again, but not at once
    let now = Timestamp::from_unix_millis(1 << 40);
    let lanes = bench.queue.lanes(INTERVAL, now).await.unwrap();
    let lane = lanes.iter().find(|lane| lane.destination.is_some()).unwrap();
    assert!(lane.next_due > now);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_append_leaves_nothing_behind_that_holds_up_others() {
    let bench = Bench::new(Mode::Away).await;
    bench.append(0).await.unwrap();
    bench.spool.set(Mode::MuteAppend);
    let dropped = tokio::time::timeout(TIMEOUT, bench.append(1)).await;
    assert!(dropped.is_err());
    bench.spool.set(Mode::There);
    bench.store.set(Mode::There);
    bench.moved().await;
    // It was kept, so that it is there
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([0, 1]));
    bench.spool.set(Mode::Hung);
    bench.append(2).await.unwrap();
    assert_eq!(held(&bench.store.inner).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_append_that_was_dropped_alone_is_found_all_the_same() {
    let bench = Bench::new(Mode::Away).await;
    bench.append(0).await.unwrap();
    bench.store.set(Mode::There);
    bench.moved().await;
    bench.store.set(Mode::Away);
    assert!(is_unavailable(&bench.queue.claim(everything()).await));
    bench.spool.set(Mode::MuteAppend);
    assert!(tokio::time::timeout(TIMEOUT, bench.append(1)).await.is_err());
    bench.spool.set(Mode::There);
    bench.store.set(Mode::There);
    bench.moved().await;
    assert_eq!(ids(&held(&bench.store.inner).await), ids_of([0, 1]));
}

#[tokio::test(start_paused = true)]
async fn every_call_that_is_not_answered_ends_in_time() {
    let pipeline_id = object(0).pipeline_id;
    let settled = [verdict(object(0).id, Action::Remove)];
    let page = ErrorPage {
        filter: ObjectFilter::default(),
        after_seq: 0,
        limit: 1,
    };
    for call in 0..8 {
        let bench = Bench::new(Mode::There).await;
        bench.append(0).await.unwrap();
        bench.store.set(Mode::Hung);
        let began = tokio::time::Instant::now();
        let queue = &bench.queue;
        let unavailable = match call {
            0 => is_unavailable(&queue.claim(everything()).await),
            1 => is_unavailable(&queue.settle(&settled).await),
            2 => is_unavailable(&queue.lanes(INTERVAL, Timestamp::default()).await),
            3 => is_unavailable(&queue.is_waiting(&pipeline_id, "pump").await),
            4 => is_unavailable(&queue.sweep(Sweep::DeadLettersOver { max: 0 }, 1).await),
            5 => is_unavailable(&queue.redrive(page.clone()).await),
            6 => is_unavailable(&queue.purge(page.clone()).await),
            _ => is_unavailable(&queue.survey(ObjectFilter::default()).await),
        };
        assert!(unavailable, "call {call}");
        assert_eq!(began.elapsed(), TIMEOUT, "call {call}");
    }
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_store_that_hangs() {
    let bench = Bench::new(Mode::Hung).await;
    bench.append(0).await.unwrap();
    bench.queue.close().await;
    assert!(matches!(bench.append(1).await, Err(StoreError::Closed)));
    assert!(matches!(bench.queue.stats().await, Err(StoreError::Closed)));
}
