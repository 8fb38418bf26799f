//! Batches in the making, and how they go on.
//!
//! Owns who waits with whom, for how long, and the run that a batch becomes. Does not own what an item or a batch is
//! ([`Batching`], which the function says), nor how a run ends ([`ending`](crate::ending)).
//!
//! ```text
//!   run ──reaches Batch──▶ room taken ──▶ row batched ──▶ waits ──full, due, or gone on with early──▶ one run goes on
//!   retry ────────────────────┘           (or in memory)    │
//!                                                           └─restart──▶ failed, claimed, waits again
//! ```
//!
//! With Store and Forward each item is in the store before it waits, so that its delivery is acknowledged; without it, it
//! waits in memory, acknowledged as in EdgeX. A batch goes on as one run behind the function, in the pipeline its items came
//! through: an edited pipeline lets what waits in the old one go on at once. It goes on early, too, when items take all
//! the room there is for them, when their rows fill the store, and, with items that only memory has, when the service
//! ends. Whatever the end of that run is, it is written for all rows at once.
//!
//! With `Ordering: device` the batches of one function go on one after the other, as if they were of one device: a batch is
//! of many, and none of these may be overtaken. What has to be stored holds those behind it back in the store.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use edgehold_config::configuration;
use edgehold_core::{
    BatchItem, Batching, ByteBudget, BytePermit, Context, Data, MessageId, ObjectState, Pipeline, PipelineId,
    PipelineSet, ShutdownSignal, StoredInput, StoredObject, StoredObjectId, Timestamp,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use uuid::Uuid;

use crate::{
    Books, Dispatch,
    books::{InBatch, InFlight},
    destinations::Visitor,
    dispatch::report,
    ending::End,
    execute::Run,
    order::{OrderKey, Turn, Turns},
};

/// What an item takes beside its bytes.
const OVERHEAD_BYTES: usize = 512;
/// While somebody waits for room, another batch goes on each time this has passed.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// The batches in the making of a service. Shared by everything that runs pipelines.
pub struct Batches {
    books: Arc<Books>,
    room: ByteBudget,
    state: Mutex<State>,
    /// There is a batch to look at.
    changed: Notify,
    told: AtomicBool,
}

#[derive(Default)]
struct State {
    open: Vec<Batch>,
    /// Those that need not wait any longer, in order.
    ready: Vec<Batch>,
}

/// A run, or an object of the store, on its way into a batch.
pub(crate) struct Joining {
    pub(crate) pipeline: Arc<Pipeline>,
    /// Of the function that batches.
    pub(crate) position: usize,
    pub(crate) ctx: Context,
    pub(crate) item: BatchItem,
    pub(crate) member: Member,
}

/// What waits in a batch for an item.
pub(crate) struct Member {
    /// Its row, in state batched; none when only memory has it.
    pub(crate) row: Option<StoredObjectId>,
    /// Counts a run that only memory has.
    pub(crate) in_flight: Option<InFlight>,
    /// The room its item takes.
    pub(crate) room: Option<BytePermit>,
    pub(crate) bytes: usize,
    /// When its run began.
    pub(crate) since: Timestamp,
}

struct Batch {
    pipeline: Arc<Pipeline>,
    position: usize,
    batching: Arc<dyn Batching>,
    /// The context it goes on with: that of the call which forwards it in EdgeX, the last one of a full batch, the first
    /// one of a batch whose time has come.
    ctx: Context,
    /// The member of that context.
    leader: usize,
    items: Vec<Data>,
    /// Which messages they are.
    messages: Vec<MessageId>,
    members: Vec<(Member, InBatch)>,
    bytes: usize,
    due: Option<Instant>,
}

/// The function a batch waits at.
type Place = (PipelineId, usize);

impl Batch {
    fn is_at(&self, pipeline: &Arc<Pipeline>, position: usize) -> bool {
        Arc::ptr_eq(&self.pipeline, pipeline) && self.position == position
    }

    fn place(&self) -> Place {
        (self.pipeline.id().clone(), self.position)
    }

    fn order_key(&self) -> OrderKey {
        OrderKey {
            pipeline_id: self.pipeline.id().clone(),
            device: format!("edgehold:batch:{}", self.position),
        }
    }

    fn is_in_memory_only(&self) -> bool {
        self.members.iter().any(|(member, _)| member.row.is_none())
    }
}

impl Batches {
    /// No batch yet. `max_bytes` bounds the items of all batches together.
    pub fn new(max_bytes: u32, books: Arc<Books>) -> Self {
        Self {
            books,
            room: ByteBudget::new(max_bytes),
            state: Mutex::default(),
            changed: Notify::new(),
            told: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for an item of so many bytes. What waits goes on for it, the largest batch first.
    /// Cancel-safe.
    pub(crate) async fn room(&self, bytes: usize) -> BytePermit {
        let bytes = bytes.saturating_add(OVERHEAD_BYTES);
        if let Some(permit) = self.room.try_take(bytes) {
            return permit;
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                max_bytes = self.room.total(),
                "items that wait in batches take all the room there is (MaxInFlightBytes): from now on the largest batch \
                 goes on before it is full or due whenever another item needs its room"
            );
        }
        let permit = self.room.take(bytes);
        tokio::pin!(permit);
        loop {
            self.go_on_largest();
            tokio::select! {
                biased;
                permit = &mut permit => return permit,
                () = tokio::time::sleep(ROOM_PAUSE) => {}
            }
        }
    }

    /// Lets an item wait with others. Answers the context of a run that has ended with it, if one has and wants to
    /// respond: every run but the one whose context the batch goes on with ends when its item joins.
    pub(crate) fn join(&self, joining: Joining) -> Option<Context> {
        let Joining {
            pipeline,
            position,
            mut ctx,
            item: BatchItem { data, batching },
            member,
        } = joining;
        // One that nothing tells from another of the same content is told by its row.
        let message = ctx.message_id().unwrap_or_else(|| {
            let id = member.row.map_or_else(Uuid::new_v4, StoredObjectId::as_uuid);
            MessageId::from_stored(&id.to_string())
        });
        let correlation_id = MessageId::from_stored(ctx.correlation_id().as_str());
        let message = MessageId::of_members([&message, &correlation_id]);
        let mut state = self.state();
        let known = state
            .open
            .iter()
            .position(|batch| batch.is_at(&pipeline, position));
        let is_first = known.is_none();
        let place = known.unwrap_or_else(|| {
            // A time beyond all clocks is never.
            let due = batching
                .window()
                .and_then(|window| Instant::now().checked_add(window));
            let ctx = ctx.clone();
            state.open.push(Batch {
                pipeline,
                position,
                batching,
                ctx,
                leader: 0,
                items: Vec::new(),
                messages: Vec::new(),
                members: Vec::new(),
                bytes: 0,
                due,
            });
            state.open.len() - 1
        });
        let batch = &mut state.open[place];
        batch.items.push(data);
        batch.messages.push(message);
        batch.bytes = batch.bytes.saturating_add(member.bytes);
        batch.members.push((member, self.books.enter_batch()));
        let (is_full, is_timed) = (batch.batching.is_full(batch.items.len()), batch.due.is_some());
        let ended = if is_full {
            batch.leader = batch.items.len() - 1;
            let first = std::mem::replace(&mut batch.ctx, ctx);
            (is_timed && !is_first).then_some(first)
        } else if is_timed {
            (!is_first).then_some(ctx)
        } else {
            batch.leader = batch.items.len() - 1;
            let ended = ctx.response_data().is_some().then(|| ctx.clone());
            ctx.clear_response_data();
            batch.ctx = ctx;
            ended
        };
        if is_full {
            let full = state.open.remove(place);
            state.ready.push(full);
        }
        drop(state);
        if is_full || is_first {
            self.changed.notify_one();
        }
        ended
    }

    /// What waits at this function goes on now.
    pub(crate) fn go_on(&self, pipeline: &Arc<Pipeline>, position: usize) {
        let is_there = self.state().release(|batch| batch.is_at(pipeline, position));
        if is_there {
            self.changed.notify_one();
        }
    }

    fn go_on_largest(&self) {
        let mut state = self.state();
        let largest = state.open.iter().map(|batch| batch.bytes).max();
        let mut found = false;
        let is_there = state.release(|batch| {
            let largest = Some(batch.bytes) == largest && !found;
            found |= largest;
            largest
        });
        drop(state);
        if is_there {
            self.changed.notify_one();
        }
    }

    /// Takes what is to go on. In order, nothing of a function that a batch is under way from.
    fn take(&self, set: &PipelineSet, ending: bool, mut in_order: Option<&mut HashSet<Place>>) -> Vec<Batch> {
        let moment = Instant::now();
        let mut state = self.state();
        state.release(|batch| {
            let is_current = set
                .get(batch.pipeline.id())
                .is_some_and(|current| Arc::ptr_eq(current, &batch.pipeline));
            !is_current || batch.due.is_some_and(|due| due <= moment) || (ending && batch.is_in_memory_only())
        });
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for batch in std::mem::take(&mut state.ready) {
            let has_to_wait = in_order.as_mut().is_some_and(|busy| !busy.insert(batch.place()));
            if has_to_wait { &mut left } else { &mut taken }.push(batch);
        }
        state.ready = left;
        taken
    }

    fn next_due(&self) -> Option<Instant> {
        self.state().open.iter().filter_map(|batch| batch.due).min()
    }
}

impl State {
    /// Moves open batches to those that need not wait; answers whether there was one.
    fn release(&mut self, which: impl FnMut(&mut Batch) -> bool) -> bool {
        let before = self.ready.len();
        let released = self.open.extract_if(.., which);
        self.ready.extend(released);
        self.ready.len() > before
    }
}

/// Lets batches go on when it is time, until nobody can join any more (`last`) and those under way have ended. What then
/// still waits is in the store and joins another batch after the next start.
pub(crate) async fn run(dispatch: Arc<Dispatch>, mut last: ShutdownSignal, hurry: ShutdownSignal) {
    let mut pipelines = dispatch.pipelines.clone();
    let mut under_way = JoinSet::new();
    let (mut busy, turns) = (HashSet::new(), Arc::new(Turns::default()));
    let (mut ending, mut changes) = (false, true);
    loop {
        let set = pipelines.borrow_and_update().clone();
        let in_order = {
            let settings = dispatch.settings.borrow();
            let saf = &settings.store_and_forward;
            saf.enabled && saf.ordering == configuration::Ordering::Device
        };
        if !in_order {
            turns.forget();
        }
        for batch in dispatch.batches.take(&set, ending, in_order.then_some(&mut busy)) {
            let turn = in_order.then(|| turns.line_up(batch.order_key()));
            under_way.spawn(go_on(dispatch.clone(), batch, turn, hurry.clone()));
        }
        if ending && under_way.is_empty() {
            return;
        }
        let due = dispatch.batches.next_due();
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        // Every arm is cancel-safe; the next turn looks at all batches, whatever the cause.
        tokio::select! {
            () = dispatch.batches.changed.notified() => {}
            () = due => {}
            Some(ended) = under_way.join_next() => match ended {
                Ok(place) => {
                    busy.remove(&place);
                }
                Err(error) => {
                    busy.clear();
                    report(Err(error));
                }
            },
            changed = pipelines.changed(), if changes => changes = changed.is_ok(),
            () = last.recv(), if !ending => ending = true,
        }
    }
}

/// Runs what is behind the function with the batch as its input.
async fn go_on(
    dispatch: Arc<Dispatch>,
    mut batch: Batch,
    mut turn: Option<Turn>,
    mut hurry: ShutdownSignal,
) -> Place {
    let place = batch.place();
    if turn.is_some() {
        let order = batch.order_key().device;
        batch.ctx.set_order(order);
    }
    let Batch {
        pipeline,
        position,
        batching,
        mut ctx,
        leader,
        items,
        messages,
        members,
        ..
    } = batch;
    let output = batching.combine(items);
    ctx.set_message_id(MessageId::of_members(&messages));
    let row_of = |(member, _): &(Member, InBatch)| member.row;
    let own = members.get(leader).and_then(row_of);
    let own = own.or_else(|| members.iter().find_map(row_of));
    let others = members.iter().filter_map(row_of);
    let others = others.filter(|id| Some(*id) != own).collect();
    let runs = u64::try_from(members.len()).unwrap_or(u64::MAX);
    let since = members.iter().map(|(member, _)| member.since).min();
    let bytes = members.iter().map(|(member, _)| member.bytes).sum();
    let id = own.unwrap_or_else(|| StoredObjectId::from_uuid(Uuid::now_v7()));
    let row = StoredObject {
        id,
        seq: 0,
        service_key: dispatch.keeper.service_key().clone(),
        pipeline_id: pipeline.id().clone(),
        position: u32::try_from(position).unwrap_or(u32::MAX),
        version: pipeline.version().clone(),
        correlation_id: ctx.correlation_id().clone(),
        context: ctx.values().clone(),
        input: StoredInput::Bytes { kind: output.kind() },
        // Whatever is kept of it, replaces this.
        payload: Default::default(),
        attempts: 0,
        crashes: 0,
        state: ObjectState::Batched,
        created_at: since.unwrap_or_default(),
        last_attempt_at: None,
        ended_at: None,
        not_before: None,
        last_error: None,
        errors: Default::default(),
        reason: None,
        destination: None,
    };
    let (mut room, mut in_flight) = (Vec::new(), None::<InFlight>);
    for (member, waits) in members {
        drop(waits);
        room.extend(member.room);
        match (&mut in_flight, member.in_flight) {
            (Some(all), Some(more)) => all.absorb(more),
            (None, more) => in_flight = more,
            (Some(_), None) => {}
        }
    }
    let written = own.is_some();
    let visitor = Visitor::of_batch(dispatch.destinations.clone(), id);
    let mut run = Run::new(pipeline, ctx, position + 1, output, visitor.clone());
    let mut parked_at = None;
    let has_to_wait = match &mut turn {
        Some(turn) => turn.has_to_wait(&dispatch.keeper).await,
        None => false,
    };
    let outcome = if has_to_wait {
        None
    } else {
        let advance = run.advance(|destination| dispatch.wake.succeeded(destination));
        tokio::pin!(advance);
        tokio::select! {
            biased;
            outcome = &mut advance => Some(outcome),
            () = hurry.recv() => None,
            // The store has its items, so that it can wait there as well.
            destination = visitor.has_no_room(bytes), if written => {
                parked_at = Some(destination);
                None
            }
        }
    };
    let end = End {
        dispatch: &dispatch,
        turn: turn.as_ref(),
        run,
        row,
        written,
        others,
        runs,
        in_flight,
        room,
        parked_at,
    };
    // When nobody has it, the store was closed, and has the items.
    end.enter(outcome, hurry).await;
    place
}
