//! One more attempt of a stored object: whether it may run, its run from where it stopped, the verdict.

use std::sync::Arc;

use edgehold_core::{
    BatchItem, Context, Data, Destination, ErrorReason, PipelineSet, ShutdownSignal, StoredInput,
    StoredObject, Timestamp,
    destination::Answer,
    retry::{Action, Admission, Attempt, OnPipelineChange, RetryPolicy, Verdict, admit, settle},
};
use edgehold_store::semantics;

use crate::{
    Dispatch,
    batch::{Joining, Member},
    clock::now,
    decode::{decode, describe},
    destinations::Visitor,
    execute::{FailedStep, Outcome, Run},
    keeper::policy,
};

/// What the end of an attempt means for the books.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    Completed,
    Filtered,
    GivenUp,
    Discarded,
    Nothing,
}

/// How an attempt ended.
pub(crate) struct Ended {
    pub(crate) verdict: Verdict,
    pub(crate) entry: Entry,
    /// Where the object waits from now on and when it may be tried again, if it does.
    pub(crate) waits: Option<(Option<Destination>, Timestamp)>,
    /// Its destination did not take it, and is or may be to blame.
    pub(crate) failed: bool,
    /// What joins a batch once the verdict is in the store.
    pub(crate) joins: Option<Box<Joining>>,
}

/// Makes one attempt. After `hurry` it never happened.
pub(crate) async fn attempt(
    dispatch: &Dispatch,
    object: StoredObject,
    visitor: Arc<Visitor>,
    mut hurry: ShutdownSignal,
) -> Ended {
    let set = dispatch.pipelines.borrow().clone();
    let mut run = match admit(&object, &set, &current_policy(dispatch), now()) {
        Admission::Run(pipeline) => {
            let mut ctx = dispatch
                .identity
                .context(pipeline.id(), object.correlation_id.clone());
            match restore(&object, &set, &mut ctx) {
                Ok(input) => Run::new(pipeline, ctx, object.position as usize, input, visitor),
                Err(error) => return give_up(object, ErrorReason::Undecodable, &error),
            }
        }
        Admission::Postpone(until) => return release(dispatch, object, Some(until)),
        Admission::GiveUp(reason) => {
            if current_policy(dispatch).on_pipeline_change == OnPipelineChange::Discard {
                return discard(object, reason);
            }
            return give_up(object, reason, "its pipeline is not the one it was stored by");
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = run.advance(|destination| dispatch.wake.succeeded(destination)) => Some(outcome),
        () = hurry.recv() => None,
    };
    let (attempt, entry, failed) = match outcome {
        Some(Outcome::Batched(item)) => return batched(dispatch, object, run, item, hurry).await,
        None => (Attempt::Interrupted, Entry::Nothing, false),
        Some(Outcome::Completed) => (Attempt::Succeeded, Entry::Completed, false),
        Some(Outcome::Filtered) => (Attempt::Succeeded, Entry::Filtered, false),
        Some(Outcome::Failed(step)) => {
            if step.is_attempt() {
                dispatch.books.failed_attempt();
                dispatch.identity.observer.attempt_failed(run.pipeline.id());
            }
            let failed = step.is_attempt() && Answer::of(&step.error) != Answer::Declined;
            (failure(&object, &run, step), Entry::Nothing, failed)
        }
    };
    // The settings may have changed during the attempt: the current ones count.
    let policy = current_policy(dispatch);
    let verdict = settle(&object, attempt, &policy, now());
    let entry = match &verdict.action {
        Action::GiveUp { .. } => Entry::GivenUp,
        _ => entry,
    };
    tell(&object, &verdict.action);
    Ended {
        waits: waits(object, &verdict.action, &policy),
        verdict,
        entry,
        failed,
        joins: None,
    }
}

/// It waits in a batch from now on, as soon as there is room for it; when the service ends before, in the store alone.
async fn batched(
    dispatch: &Dispatch,
    object: StoredObject,
    run: Run,
    item: BatchItem,
    mut hurry: ShutdownSignal,
) -> Ended {
    let kept_as = run.as_retry_data(&item.data);
    let bytes = kept_as.payload.len();
    let progress = run.progress(kept_as);
    let room = tokio::select! {
        biased;
        room = dispatch.batches.room(bytes) => Some(room),
        () = hurry.recv() => None,
    };
    let attempt = Attempt::Batched { progress };
    let verdict = settle(&object, attempt, &current_policy(dispatch), now());
    let Run {
        pipeline,
        ctx,
        position,
        ..
    } = run;
    let joins = room.map(|room| {
        Box::new(Joining {
            pipeline,
            position,
            ctx,
            item,
            member: Member {
                row: Some(object.id),
                in_flight: None,
                room: Some(room),
                bytes,
                since: object.created_at,
            },
        })
    });
    Ended {
        verdict,
        entry: Entry::Nothing,
        waits: None,
        failed: false,
        joins,
    }
}

/// Gives an object back that was claimed but not attempted.
pub(crate) fn release(dispatch: &Dispatch, object: StoredObject, not_before: Option<Timestamp>) -> Ended {
    let action = Action::Release {
        not_before,
        last_error: None,
        destination: None,
        progress: None,
    };
    let id = object.id;
    Ended {
        waits: waits(object, &action, &current_policy(dispatch)),
        verdict: Verdict { id, action },
        entry: Entry::Nothing,
        failed: false,
        joins: None,
    }
}

fn current_policy(dispatch: &Dispatch) -> RetryPolicy {
    policy(&dispatch.settings.borrow().store_and_forward)
}

fn failure(object: &StoredObject, run: &Run, step: FailedStep) -> Attempt {
    let moved = run.position != object.position as usize || object.input.is_delivery();
    Attempt::Failed {
        class: step.error.class(),
        error: step.error.chain(),
        retry_after: step.error.retry_after(),
        destination: step.destination,
        progress: moved.then(|| run.progress(step.retry_data.unwrap_or_else(|| run.retry_input()))),
    }
}

/// Where the object waits after this action, and when it is due there.
fn waits(
    mut object: StoredObject,
    action: &Action,
    policy: &RetryPolicy,
) -> Option<(Option<Destination>, Timestamp)> {
    match action {
        Action::Release { .. } | Action::RetryLater(_) => {
            semantics::apply(&mut object, action);
            let due = semantics::due_at(object.last_attempt_at, object.not_before, policy.interval, now());
            Some((object.destination, due))
        }
        Action::Remove | Action::Succeed { .. } | Action::GiveUp { .. } | Action::Batch(_) => None,
    }
}

fn tell(object: &StoredObject, action: &Action) {
    let (pipeline_id, correlation_id) = (&object.pipeline_id, &object.correlation_id);
    match action {
        Action::Remove | Action::Succeed { .. } => {
            tracing::debug!(%pipeline_id, %correlation_id, stored_object_id = %object.id, "retry successful");
        }
        Action::GiveUp { reason, failure, .. } => {
            let error = failure.as_ref().map_or("", |failure| failure.error.as_str());
            let attempts = failure
                .as_ref()
                .map_or(object.attempts, |failure| failure.attempts);
            tracing::error!(
                %pipeline_id, %correlation_id, stored_object_id = %object.id, attempts, reason = reason.as_str(),
                "given up, set aside in the error collection: {error}"
            );
        }
        Action::RetryLater(failure) => {
            tracing::warn!(
                %pipeline_id, %correlation_id, stored_object_id = %object.id, attempts = failure.attempts,
                "retry failed, will try again: {}", failure.error
            );
        }
        Action::Release { .. } | Action::Batch(_) => {}
    }
}

fn give_up(object: StoredObject, reason: ErrorReason, why: &str) -> Ended {
    tracing::error!(
        pipeline_id = %object.pipeline_id, correlation_id = %object.correlation_id,
        stored_object_id = %object.id, reason = reason.as_str(),
        "set aside in the error collection: {why}"
    );
    let action = Action::GiveUp {
        reason,
        at: now(),
        failure: None,
    };
    ended(object, action, Entry::GivenUp)
}

fn discard(object: StoredObject, reason: ErrorReason) -> Ended {
    tracing::error!(
        pipeline_id = %object.pipeline_id, correlation_id = %object.correlation_id,
        stored_object_id = %object.id, reason = reason.as_str(),
        "discarded, as OnPipelineChange says"
    );
    ended(object, Action::Remove, Entry::Discarded)
}

fn ended(object: StoredObject, action: Action, entry: Entry) -> Ended {
    Ended {
        verdict: Verdict {
            id: object.id,
            action,
        },
        entry,
        waits: None,
        failed: false,
        joins: None,
    }
}

/// What the function at the saved position receives, and the context values it had.
fn restore(object: &StoredObject, set: &PipelineSet, ctx: &mut Context) -> Result<Data, String> {
    match &object.input {
        StoredInput::Bytes { kind } => {
            ctx.restore(object.context.clone());
            // What does not fit its kind is still what the function was to send: it gets the bytes.
            Ok(Data::restore(*kind, object.payload.clone())
                .unwrap_or_else(|_| Data::Bytes(object.payload.clone())))
        }
        StoredInput::Delivery {
            content_type,
            topic,
            form,
        } => {
            let generation = ctx.generation();
            let data = decode(set.target_type, generation, &object.payload, *form, content_type)?;
            describe(ctx, &data, topic, content_type);
            Ok(data)
        }
    }
}
