//! How a first run ends: exported, filtered, dropped by name, stored, or waiting in a batch.
//!
//! The end is one decision ([`core::retry::settle`](edgehold_core::retry::settle)) for a row in state new, whether the
//! store has that row or not: a written row is settled, any other is appended as the verdict leaves it.
//!
//! A run that is a batch of others ends with them: one of their rows becomes its own, and the others leave in the same
//! write. So there is no moment at which a crash would find neither the items nor the batch, or both.

use edgehold_core::{
    BatchItem, BytePermit, Context, Destination, Response, RunEnd, ShutdownSignal, StoredObject,
    StoredObjectId, Timestamp,
    retry::{Action, Attempt, Verdict, settle},
};
use edgehold_store::semantics::{Applied, apply, due_at};

use crate::{
    Dispatch, DropReason,
    batch::{Joining, Member},
    books::InFlight,
    clock::now,
    execute::{FailedStep, Outcome, Run},
    keeper::{NotKept, policy},
    order::Turn,
};

/// A first run that has ended, and its row.
pub(crate) struct End<'a> {
    pub(crate) dispatch: &'a Dispatch,
    pub(crate) turn: Option<&'a Turn>,
    pub(crate) run: Run,
    pub(crate) row: StoredObject,
    /// The store has the row.
    pub(crate) written: bool,
    /// The rows of the runs that go on in this one, beside its own. Only with a written row.
    pub(crate) others: Vec<StoredObjectId>,
    /// The runs that end here: one, or those of a batch.
    pub(crate) runs: u64,
    /// Those of them that the store does not have.
    pub(crate) in_flight: Option<InFlight>,
    /// The room that the items of a batch take.
    pub(crate) room: Vec<BytePermit>,
    /// Where it waited to be let in when it was broken off.
    pub(crate) parked_at: Option<Destination>,
}

/// Why a run that was not failed is kept.
const LATER: &str = "it is to be finished later";

/// Where something is that was to wait in a batch.
enum Kept {
    InStore,
    InMemory,
    /// Not in a batch, but as in [`End::enter`].
    Elsewhere(Option<RunEnd>),
}

impl End<'_> {
    /// Enters how it ended into the store and the books. None when neither the store nor anybody else has the data.
    pub(crate) async fn enter(mut self, outcome: Option<Outcome>, hurry: ShutdownSignal) -> Option<RunEnd> {
        let books = &self.dispatch.books;
        if self.run.retry_wanted {
            self.dispatch.wake.everything();
        }
        match outcome {
            Some(Outcome::Completed) => {
                respond(self.dispatch, &self.run.ctx, hurry).await;
                self.leave().await;
                books.completed();
                books.batched(self.runs - 1);
                Some(RunEnd::Succeeded(response(&self.run.ctx)))
            }
            Some(Outcome::Filtered) => {
                respond(self.dispatch, &self.run.ctx, hurry).await;
                self.leave().await;
                books.filtered();
                books.batched(self.runs - 1);
                Some(RunEnd::Succeeded(response(&self.run.ctx)))
            }
            Some(Outcome::Batched(item)) => self.join(item, hurry).await,
            Some(Outcome::Failed(failed)) => self.failed(failed).await,
            None => {
                let release = Action::Release {
                    not_before: None,
                    last_error: None,
                    destination: self.parked_at.take(),
                    progress: Some(self.run.progress(self.run.retry_input())),
                };
                self.keep(release, LATER.to_owned(), None).await
            }
        }
    }

    /// Takes rows that are not needed any more out of the store, or keeps them as history.
    async fn leave(&self) {
        if !self.written {
            return;
        }
        let keeper = &self.dispatch.keeper;
        let policy = policy(&keeper.settings().store_and_forward);
        let own = settle(&self.row, Attempt::Succeeded, &policy, now());
        let others = own.action.clone();
        keeper.settle(&self.verdicts(own.action, &others)).await;
    }

    /// One verdict for its own row, another for all others.
    fn verdicts(&self, own: Action, others: &Action) -> Vec<Verdict> {
        let own = Verdict {
            id: self.row.id,
            action: own,
        };
        let others = self.others.iter().map(|id| Verdict {
            id: *id,
            action: others.clone(),
        });
        std::iter::once(own).chain(others).collect()
    }

    async fn failed(mut self, failed: FailedStep) -> Option<RunEnd> {
        let books = &self.dispatch.books;
        let (pipeline_id, correlation_id) = (self.run.pipeline.id(), self.run.ctx.correlation_id());
        let error = failed.error.chain();
        let mut opens_at = None;
        if failed.is_attempt() {
            books.failed_attempt();
            self.dispatch.identity.observer.attempt_failed(pipeline_id);
            tracing::error!(
                %pipeline_id, %correlation_id, function = self.run.function_name(), position = self.run.position,
                "Pipeline ({pipeline_id}) function #{} resulted in error: {error}", self.run.position
            );
        } else {
            // The destination has been told of when it stopped answering.
            tracing::debug!(%pipeline_id, %correlation_id, "kept without an attempt: {error}");
            opens_at = failed.error.retry_after().map(|wait| now().saturating_add(wait));
        }
        let Some(retry_data) = failed.retry_data else {
            if self.written {
                let verdicts = self.verdicts(Action::Remove, &Action::Remove);
                self.dispatch.keeper.settle(&verdicts).await;
            }
            books.dropped_many(DropReason::NotPersistent, self.runs);
            return Some(RunEnd::Failed { error });
        };
        let saf = &self.dispatch.keeper.settings().store_and_forward;
        let attempt = Attempt::Failed {
            class: failed.error.class(),
            error: error.clone(),
            retry_after: failed.error.retry_after(),
            destination: failed.destination,
            progress: Some(self.run.progress(retry_data)),
        };
        let verdict = settle(&self.row, attempt, &policy(saf), now());
        self.keep(verdict.action, error, opens_at).await
    }

    /// Brings the row into the state that this action leaves it in. `error` is what held the run up, `opens_at` when the
    /// destination that refused it may let somebody in.
    async fn keep(&mut self, action: Action, error: String, opens_at: Option<Timestamp>) -> Option<RunEnd> {
        if !matches!(apply(&mut self.row, &action), Applied::Changed) {
            return Some(RunEnd::Kept { error });
        }
        if let Some(turn) = self.turn {
            turn.kept();
        }
        let kept = self.write(action, || {}).await;
        let (dispatch, row) = (self.dispatch, &self.row);
        match kept {
            Ok(()) if row.reason.is_none() => {
                let (pipeline_id, correlation_id) = (self.run.pipeline.id(), self.run.ctx.correlation_id());
                dispatch.books.stored();
                dispatch.books.batched(self.runs - 1);
                let interval = dispatch.keeper.settings().store_and_forward.rest();
                let due = due_at(row.last_attempt_at, row.not_before, interval, now());
                dispatch
                    .wake
                    .kept(row.destination.as_ref(), opens_at.unwrap_or(due));
                tracing::debug!(
                    %pipeline_id, %correlation_id, stored_object_id = %row.id, "stored for a later retry"
                );
                Some(RunEnd::Kept { error })
            }
            Ok(()) => self.given_up(error),
            Err(not_kept) => self.not_kept(&not_kept, error),
        }
    }

    /// Writes the row as it has become: with this action, if the store has it. `no_room` is called whenever there is no
    /// room and that is waited for.
    async fn write(&mut self, action: Action, no_room: impl Fn()) -> Result<(), NotKept> {
        let keeper = &self.dispatch.keeper;
        if !self.written {
            return keeper.append_telling(&mut self.row, no_room).await;
        }
        // They go on in this one.
        let verdicts = self.verdicts(action, &Action::Remove);
        match keeper.settle(&verdicts).await {
            true => Ok(()),
            false => Err(NotKept::Closed),
        }
    }

    fn given_up(&self, error: String) -> Option<RunEnd> {
        let (row, books) = (&self.row, &self.dispatch.books);
        let (pipeline_id, correlation_id) = (self.run.pipeline.id(), self.run.ctx.correlation_id());
        books.given_up();
        books.batched(self.runs - 1);
        tracing::error!(
            %pipeline_id, %correlation_id, stored_object_id = %row.id,
            reason = row.reason.map_or("", |reason| reason.as_str()),
            "set aside in the error collection: {}", row.last_error.as_deref().unwrap_or("")
        );
        Some(RunEnd::Failed { error })
    }

    fn not_kept(&self, not_kept: &NotKept, error: String) -> Option<RunEnd> {
        let (pipeline_id, correlation_id) = (self.run.pipeline.id(), self.run.ctx.correlation_id());
        if let Some(reason) = not_kept.drop_reason() {
            self.dispatch.books.dropped_many(reason, self.runs);
        }
        match not_kept {
            NotKept::Disabled => tracing::error!(
                %pipeline_id, %correlation_id,
                "StoreAndForward not enabled: the data of this failed export is dropped; set \
                 Writable/StoreAndForward/Enabled to true to keep it"
            ),
            NotKept::NoRoom(refusal) | NotKept::Refused(refusal) => tracing::error!(
                %pipeline_id, %correlation_id, "the data of this failed export is dropped: {refusal}"
            ),
            // Its written row is still there.
            NotKept::Closed => return self.written.then_some(RunEnd::Kept { error }),
        }
        Some(RunEnd::Failed { error })
    }

    /// Waits in a batch from now on: in the store when Store and Forward is on, else in memory. Until there is room for
    /// it, the delivery is held back.
    async fn join(mut self, item: BatchItem, mut hurry: ShutdownSignal) -> Option<RunEnd> {
        let batches = &self.dispatch.batches;
        // What was a batch itself need not hold up its own next one.
        self.room.clear();
        let kept_as = self.run.as_retry_data(&item.data);
        let bytes = kept_as.payload.len();
        let progress = self.run.progress(kept_as);
        let room = tokio::select! {
            biased;
            room = batches.room(bytes) => room,
            () = hurry.recv() => {
                let release = Action::Release {
                    not_before: None,
                    last_error: None,
                    destination: None,
                    progress: Some(progress),
                };
                return self.keep(release, LATER.to_owned(), None).await;
            }
        };
        let policy = policy(&self.dispatch.keeper.settings().store_and_forward);
        let verdict = settle(&self.row, Attempt::Batched { progress }, &policy, now());
        let in_store = match self.keep_for_batch(verdict.action).await {
            Kept::InStore => true,
            Kept::InMemory => false,
            Kept::Elsewhere(end) => return end,
        };
        self.dispatch.books.batched(self.runs - 1);
        let in_flight = self.in_flight.take().filter(|_| !in_store);
        let member = Member {
            row: in_store.then_some(self.row.id),
            in_flight: in_flight.map(|mut in_flight| {
                in_flight.merge();
                in_flight
            }),
            room: Some(room),
            bytes,
            since: self.row.created_at,
        };
        let Run {
            pipeline,
            ctx,
            position,
            ..
        } = self.run;
        let joining = Joining {
            pipeline,
            position,
            ctx,
            item,
            member,
        };
        // What waits is answered at once, by the response that is set before the batch; only what goes on answers later.
        let sent = response(&joining.ctx);
        if let Some(ended) = batches.join(joining) {
            respond(self.dispatch, &ended, hurry).await;
        }
        Some(RunEnd::Succeeded(sent))
    }

    async fn keep_for_batch(&mut self, action: Action) -> Kept {
        if !matches!(apply(&mut self.row, &action), Applied::Changed) {
            return Kept::Elsewhere(Some(RunEnd::Succeeded(None)));
        }
        let (batches, pipeline, position) = (
            &self.dispatch.batches,
            self.run.pipeline.clone(),
            self.run.position,
        );
        // What keeps the room may be this very batch.
        let no_room = || batches.go_on(&pipeline, position);
        let was_written = self.written;
        match self.write(action, no_room).await {
            Ok(()) if self.row.reason.is_some() => {
                let error = "there is no room for it".to_owned();
                Kept::Elsewhere(self.given_up(error))
            }
            Ok(()) => {
                if !was_written {
                    self.dispatch.books.journaled();
                }
                Kept::InStore
            }
            // As in EdgeX, the delivery is acknowledged all the same: held back, it would hold back those it waits for.
            Err(NotKept::Disabled) => Kept::InMemory,
            Err(not_kept) => {
                let error = "there is no room for it".to_owned();
                Kept::Elsewhere(self.not_kept(&not_kept, error))
            }
        }
    }
}

/// What the pipeline has set as response.
fn response(ctx: &Context) -> Option<Response> {
    ctx.response_data().map(|data| Response {
        data: data.clone(),
        content_type: ctx.response_content_type().to_owned(),
    })
}

/// Sends back what the pipeline has set as response. The pipeline has succeeded, whatever becomes of it.
async fn respond(dispatch: &Dispatch, ctx: &Context, mut hurry: ShutdownSignal) {
    let Some(response) = &dispatch.response else {
        return;
    };
    if ctx.response_data().is_none() {
        return;
    }
    let (pipeline_id, correlation_id) = (ctx.pipeline_id(), ctx.correlation_id());
    let lost = tokio::select! {
        biased;
        result = response.respond(ctx) => match result {
            Ok(()) => return,
            Err(error) => error.chain(),
        },
        () = hurry.recv() => "the service is ending".to_owned(),
    };
    dispatch.books.response_lost();
    tracing::error!(%pipeline_id, %correlation_id, "the response is lost: {lost}");
}
