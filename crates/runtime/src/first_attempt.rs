//! The first run of one delivery in one pipeline: journaled when it takes long, and at its end exported, filtered,
//! dropped by name, stored or put into a batch. What its end comes to is [`ending`](crate::ending)'s.

use std::sync::Arc;

use edgehold_core::{Context, Data, Pipeline, PipelineId, RunEnd, ShutdownSignal};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Dispatch,
    books::InFlight,
    destinations::Visitor,
    ending::End,
    execute::Run,
    journal::{JournalEntry, Source},
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
        let observer = &dispatch.identity.observer;
        observer.run_started(&pipeline_id);
        let mut open = Open {
            in_flight: Some(dispatch.books.start()),
            safe: Some(safe),
            turn,
        };
        let is_ordered = open.turn.is_some();
        let has_to_wait = match &mut open.turn {
            Some(turn) => tokio::select! {
                biased;
                has_to_wait = turn.has_to_wait(&dispatch.keeper) => has_to_wait,
                () = hurry.recv() => true,
            },
            None => false,
        };
        let began = Instant::now();
        let visitor = Visitor::fresh(dispatch.destinations.clone());
        let mut entry = JournalEntry::new(&dispatch.keeper, source, pipeline.clone(), visitor.clone());
        let mut run = Run::new(pipeline, ctx, 0, input, visitor.clone());
        let mut parked_at = None;
        let mut too_late = false;
        if entry.comes_first() && !has_to_wait {
            tokio::select! {
                biased;
                written = entry.write_first() => if written { open.is_journaled(dispatch) },
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
                    // The store has it, so that it can wait there as well.
                    destination = visitor.has_no_room(source.payload.len()), if may_park => {
                        parked_at = Some(destination);
                        break None;
                    }
                }
            }
        };
        let (row, written) = entry.close().await;
        if written {
            // Also when the run ended while its row was being written: the end may have to wait for the store.
            open.is_journaled(dispatch);
        }
        let end = End {
            dispatch,
            turn: open.turn.as_ref(),
            run,
            row,
            written,
            others: Vec::new(),
            runs: 1,
            in_flight: open.in_flight.take(),
            room: Vec::new(),
            parked_at,
        };
        let end = end.enter(outcome, hurry).await;
        if is_ordered && written {
            // Behind a row others were let into the store.
            dispatch.wake.order_moved();
        }
        observer.run_ended(&pipeline_id, began.elapsed());
        let end = end?;
        open.is_safe();
        Some((pipeline_id, end))
    }
}

/// What a run that has not ended holds.
struct Open {
    /// Counts it as in flight; a run that the store has is counted there.
    in_flight: Option<InFlight>,
    safe: Option<oneshot::Sender<()>>,
    /// Held until the store has the run or it has ended, so that the next one finds what it must not overtake.
    turn: Option<Turn>,
}

impl Open {
    /// The store has its row. Says so once.
    fn is_journaled(&mut self, dispatch: &Dispatch) {
        if self.safe.is_none() {
            return;
        }
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
