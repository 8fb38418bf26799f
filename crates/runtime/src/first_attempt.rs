//! The first run of one delivery in one pipeline: journaled when it takes long, and at its end exported, filtered,
//! dropped by name or stored.
//!
//! The end is one decision ([`core::retry::settle`](edgehold_core::retry::settle)) for a row in state new, whether the
//! store has that row or not: a journaled row is settled, any other is appended as the verdict leaves it.

use std::sync::Arc;

use edgehold_core::{
    Context, Data, Destination, Pipeline, PipelineId, Response, RunEnd, ShutdownSignal, StoredObject,
    Timestamp,
    retry::{Action, Attempt, Verdict, settle},
};
use edgehold_store::semantics::{Applied, apply, due_at};
use tokio::sync::oneshot;

use crate::{
    Dispatch, DropReason,
    books::InFlight,
    clock::now,
    destinations::Visitor,
    execute::{FailedStep, Outcome, Run},
    journal::{JournalEntry, Source},
    keeper::{NotKept, StoreState, policy},
    order::Turn,
};

/// One first run.
pub(crate) struct FirstAttempt<'a> {
    pub(crate) dispatch: &'a Dispatch,
    pub(crate) source: &'a Source,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) ctx: Context,
    pub(crate) input: Data,
    /// Its place in the line, where order matters.
    pub(crate) turn: Option<Turn>,
}

impl FirstAttempt<'_> {
    /// Runs. `safe` is told once the delivery need not come again for this pipeline's sake, which may be long before
    /// the end, and dropped when nobody has it. Answers how it ended; none when neither the store nor anybody else has
    /// the data.
    pub(crate) async fn run(
        self,
        safe: oneshot::Sender<()>,
        mut hurry: ShutdownSignal,
    ) -> Option<(PipelineId, RunEnd)> {
        let pipeline_id = self.pipeline.id().clone();
        let Self {
            dispatch,
            source,
            pipeline,
            ctx,
            input,
            turn,
        } = self;
        let mut open = Open {
            in_flight: Some(dispatch.books.start()),
            safe: Some(safe),
            turn,
        };
        let has_to_wait = open.line_up(dispatch).await;
        let visitor = Visitor::fresh(dispatch.destinations.clone());
        let mut entry = JournalEntry::new(&dispatch.keeper, source, pipeline.clone(), visitor.clone());
        let mut run = Run::new(pipeline, ctx, 0, input, visitor.clone());
        let mut parked_at = None;
        let mut too_late = false;
        if entry.comes_first() && !has_to_wait {
            tokio::select! {
                biased;
                written = entry.write() => if written { open.is_journaled(dispatch) },
                () = hurry.recv() => too_late = true,
            }
        }
        let outcome = if has_to_wait || too_late {
            None
        } else {
            let advance = run.advance(|destination| dispatch.wake.succeeded(destination));
            tokio::pin!(advance);
            let mut may_journal = !entry.is_written();
            let mut may_park = entry.is_written();
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut advance => break Some(outcome),
                    // The run is dropped in the middle of a function; it still says which one and what it had.
                    () = hurry.recv() => break None,
                    written = entry.write(), if may_journal => {
                        may_journal = false;
                        may_park = written;
                        if written {
                            open.is_journaled(dispatch);
                        }
                    }
                    // The store has it, so that it can wait there as well as in memory.
                    destination = visitor.waits(), if may_park => {
                        parked_at = Some(destination);
                        break None;
                    }
                }
            }
        };
        let (row, written) = entry.close().await;
        let end = End {
            dispatch,
            turn: open.turn.as_ref(),
            run,
            row,
            written,
            parked_at,
            opens_at: None,
        };
        let end = end.enter(outcome, hurry).await?;
        open.is_safe();
        Some((pipeline_id, end))
    }
}

/// What a run that has not ended holds.
struct Open<'a> {
    /// Counts it as in flight; a run that the store has is counted there.
    in_flight: Option<InFlight<'a>>,
    safe: Option<oneshot::Sender<()>>,
    /// Held until the store has the run or it has ended, so that the next one finds what it must not overtake.
    turn: Option<Turn>,
}

impl Open<'_> {
    /// Waits for the turn. True when others that must go before wait in the store: then the run has to wait there too,
    /// behind them.
    async fn line_up(&mut self, dispatch: &Dispatch) -> bool {
        let Some(turn) = &mut self.turn else {
            return false;
        };
        turn.comes().await;
        let turn = &*turn;
        if turn.is_clean() {
            return false;
        }
        let StoreState::Open(queue) = dispatch.keeper.store() else {
            return false;
        };
        let key = turn.key();
        match queue.is_waiting(&key.pipeline_id, &key.device).await {
            Ok(false) => {
                turn.clean();
                false
            }
            // A store that cannot say so cannot be overtaken either: appending waits for it.
            Ok(true) | Err(_) => true,
        }
    }

    fn is_journaled(&mut self, dispatch: &Dispatch) {
        self.in_flight = None;
        if let Some(turn) = self.turn.take() {
            turn.kept();
        }
        dispatch.books.journaled();
        self.is_safe();
    }

    fn is_safe(&mut self) {
        if let Some(safe) = self.safe.take() {
            // Nobody waits any more when an earlier pipeline could not be finished.
            let _ = safe.send(());
        }
    }
}

/// A run that has ended, and its row.
struct End<'a> {
    dispatch: &'a Dispatch,
    turn: Option<&'a Turn>,
    run: Run,
    row: StoredObject,
    written: bool,
    /// Where it waited to be let in when it was broken off.
    parked_at: Option<Destination>,
    /// When the destination that refused it may let somebody in.
    opens_at: Option<Timestamp>,
}

impl End<'_> {
    /// Enters how it ended into the store and the books. None when neither the store nor anybody else has the data.
    async fn enter(mut self, outcome: Option<Outcome>, hurry: ShutdownSignal) -> Option<RunEnd> {
        let books = &self.dispatch.books;
        if self.run.retry_wanted {
            self.dispatch.wake.everything();
        }
        match outcome {
            Some(Outcome::Completed) => {
                respond(self.dispatch, &self.run.ctx, hurry).await;
                self.leave().await;
                books.completed();
                Some(RunEnd::Succeeded(response(&self.run.ctx)))
            }
            Some(Outcome::Filtered) => {
                respond(self.dispatch, &self.run.ctx, hurry).await;
                self.leave().await;
                books.filtered();
                Some(RunEnd::Succeeded(response(&self.run.ctx)))
            }
            Some(Outcome::Failed(failed)) => self.failed(failed).await,
            None => {
                let release = Action::Release {
                    not_before: None,
                    last_error: None,
                    destination: self.parked_at.take(),
                    progress: Some(self.run.progress(self.run.retry_input())),
                };
                self.keep(release, "it is to be finished later".to_owned()).await
            }
        }
    }

    /// Takes a row that is not needed any more out of the store, or keeps it as history.
    async fn leave(&self) {
        if !self.written {
            return;
        }
        let keeper = &self.dispatch.keeper;
        let policy = policy(&keeper.settings().store_and_forward);
        keeper
            .settle(settle(&self.row, Attempt::Succeeded, &policy, now()))
            .await;
    }

    async fn failed(mut self, failed: FailedStep) -> Option<RunEnd> {
        let books = &self.dispatch.books;
        let (pipeline_id, correlation_id) = (self.run.pipeline.id(), self.run.ctx.correlation_id());
        let error = failed.error.chain();
        if failed.is_attempt() {
            books.failed_attempt();
            tracing::error!(
                %pipeline_id, %correlation_id, function = self.run.function_name(), position = self.run.position,
                "Pipeline ({pipeline_id}) function #{} resulted in error: {error}", self.run.position
            );
        } else {
            // The destination has been told of when it stopped answering.
            tracing::debug!(%pipeline_id, %correlation_id, "kept without an attempt: {error}");
            self.opens_at = failed.error.retry_after().map(|wait| now().saturating_add(wait));
        }
        let Some(retry_data) = failed.retry_data else {
            if self.written {
                let (id, action) = (self.row.id, Action::Remove);
                self.dispatch.keeper.settle(Verdict { id, action }).await;
            }
            self.dispatch.books.dropped(DropReason::NotPersistent);
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
        self.keep(verdict.action, error).await
    }

    /// Brings the row into the state that this action leaves it in; `error` is what held the run up.
    async fn keep(&mut self, action: Action, error: String) -> Option<RunEnd> {
        let Self {
            dispatch, row, run, ..
        } = self;
        let (books, keeper) = (&dispatch.books, &dispatch.keeper);
        let (pipeline_id, correlation_id) = (run.pipeline.id(), run.ctx.correlation_id());
        if !matches!(apply(row, &action), Applied::Changed) {
            return Some(RunEnd::Kept { error });
        }
        let kept = if self.written {
            match keeper.settle(Verdict { id: row.id, action }).await {
                true => Ok(()),
                false => Err(NotKept::Closed),
            }
        } else {
            if let Some(turn) = self.turn {
                turn.kept();
            }
            keeper.append(row).await
        };
        match kept {
            Ok(()) => {
                if let Some(reason) = row.reason {
                    books.given_up();
                    tracing::error!(
                        %pipeline_id, %correlation_id, stored_object_id = %row.id, reason = reason.as_str(),
                        "set aside in the error collection: {}", row.last_error.as_deref().unwrap_or("")
                    );
                    Some(RunEnd::Failed { error })
                } else {
                    books.stored();
                    let interval = keeper.settings().store_and_forward.retry_interval;
                    let due = due_at(row.last_attempt_at, row.not_before, interval, now());
                    dispatch
                        .wake
                        .kept(row.destination.as_ref(), self.opens_at.unwrap_or(due));
                    tracing::debug!(
                        %pipeline_id, %correlation_id, stored_object_id = %row.id, "stored for a later retry"
                    );
                    Some(RunEnd::Kept { error })
                }
            }
            // Its journaled row is still there.
            Err(NotKept::Closed) => self.written.then_some(RunEnd::Kept { error }),
            Err(not_kept) => {
                if let Some(reason) = not_kept.drop_reason() {
                    books.dropped(reason);
                }
                match not_kept {
                    NotKept::Disabled => tracing::error!(
                        %pipeline_id, %correlation_id,
                        "StoreAndForward not enabled: the data of this failed export is dropped; set \
                         Writable/StoreAndForward/Enabled to true to keep it"
                    ),
                    NotKept::NoRoom(error) | NotKept::Refused(error) => tracing::error!(
                        %pipeline_id, %correlation_id, "the data of this failed export is dropped: {error}"
                    ),
                    NotKept::Closed => {}
                }
                Some(RunEnd::Failed { error })
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
