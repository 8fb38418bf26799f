//! The retry loop: claims what may run, runs it, writes the verdicts.
//!
//! It sleeps until the next object is due and is woken by a success at a destination, changed settings or pipelines, a
//! store that came, and an object kept while nothing waited. All of these lead to the same pass; what woke it decides
//! nothing but which objects it looks at. A pass goes through the queue once, oldest first, in pages; verdicts are
//! written while it runs, so that a crash repeats only what was in flight.

use std::{collections::VecDeque, time::Duration};

use edgehold_core::{
    Context, Data, ErrorReason, PipelineSet, ShutdownSignal, StoredInput, StoredObject, Timestamp,
    retry::{Action, Admission, Attempt, OnPipelineChange, Progress, RetryPolicy, Verdict, admit, settle},
};
use edgehold_store::{Claim, Lane, RetryQueue, Selection, StoreError, Suspects};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

use crate::{
    Dispatch, DropReason, QueueHandle,
    clock::now,
    decode::{decode, describe},
    execute::{Outcome, Run},
};

/// The pause after a pass that changed nothing although something seemed due, and between tries of a failing store.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Retries what is stored.
pub struct RetryLoop {
    /// What runs pipelines: identity, pipelines, settings, books, wake.
    pub dispatch: Dispatch,
    /// The store, once it is open.
    pub queue: QueueHandle,
}

/// What a settled verdict means for the books.
enum Entry {
    Completed,
    Filtered,
    Failed,
    GivenUp,
    Discarded,
    Nothing,
}

impl RetryLoop {
    /// Retries until `shutdown`; attempts in flight are then awaited until `hurry`, after which they never happened.
    ///
    /// Not cancel-safe in one respect: attempts of a dropped loop that had already been accepted by their destination are
    /// made again.
    pub async fn run(mut self, mut shutdown: ShutdownSignal, hurry: ShutdownSignal) {
        while !shutdown.is_triggered() {
            let mut settings = self.dispatch.settings.clone();
            let mut pipelines = self.dispatch.pipelines.clone();
            settings.mark_unchanged();
            pipelines.mark_unchanged();
            let queue = self.queue.borrow_and_update().queue().cloned();
            let enabled = settings.borrow().store_and_forward.enabled;
            let wake_at = match queue.filter(|_| enabled) {
                None => None,
                Some(queue) => match self.activate(&*queue, &shutdown, &hurry).await {
                    Ok(next_due) => next_due,
                    Err(StoreError::Closed) => None,
                    Err(error) => {
                        tracing::warn!("the retry loop cannot reach the store, will try again: {error}");
                        Some(now().saturating_add(LONGEST_PAUSE))
                    }
                },
            };
            if wake_at.is_some() {
                self.dispatch.wake.set_idle(false);
            }
            let sleep = async {
                match wake_at {
                    Some(at) => tokio::time::sleep(at.saturating_since(now())).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm is cancel-safe; the next turn reads current values, whatever the cause.
            tokio::select! {
                () = shutdown.recv() => break,
                () = sleep => {}
                () = self.dispatch.wake.notified() => {}
                changed = settings.changed() => if changed.is_err() { break },
                changed = pipelines.changed() => if changed.is_err() { break },
                changed = self.queue.changed() => if changed.is_err() { break },
            }
        }
    }

    /// Tries everything that may be tried now. Answers when something will be due next. Idempotent.
    async fn activate(
        &self,
        queue: &dyn RetryQueue,
        shutdown: &ShutdownSignal,
        hurry: &ShutdownSignal,
    ) -> Result<Option<Timestamp>, StoreError> {
        let policy = self.policy();
        let due = Selection {
            lane: Lane::Any,
            due: Some(policy.interval),
        };
        // What was in flight at a crash goes first and alone.
        let suspects = self
            .pass(queue, due.clone(), Suspects::Only, shutdown, hurry)
            .await?;
        let mut tried = self.pass(queue, due, Suspects::Exclude, shutdown, hurry).await?;
        tried.any |= suspects.any;
        for destination in self.dispatch.wake.take_succeeded() {
            self.dispatch.wake.begin_pass(&destination);
            let there = Selection {
                lane: Lane::To(destination.clone()),
                due: None,
            };
            let passed = self
                .pass(queue, there, Suspects::Exclude, shutdown, hurry)
                .await?;
            if !passed.all_settled {
                self.dispatch.wake.still_waiting(&destination);
            }
        }
        // Before looking: an object kept between the look and the sleep must wake the loop.
        self.dispatch.wake.set_idle(true);
        let interval = self.policy().interval;
        let lanes = queue.lanes(interval, now()).await?;
        let next_due = lanes.into_iter().map(|lane| lane.next_due).min();
        let earliest = if tried.any {
            now()
        } else {
            now().saturating_add(PAUSE)
        };
        // One interval at most: the clock may be set back, and only a claim is told the time.
        let latest = now().saturating_add(interval).max(earliest);
        Ok(next_due.map(|at| at.clamp(earliest, latest)))
    }

    /// One walk through the queue, oldest first. A pass woken by a destination ends with the first failure there.
    async fn pass(
        &self,
        queue: &dyn RetryQueue,
        selection: Selection,
        suspects: Suspects,
        shutdown: &ShutdownSignal,
        hurry: &ShutdownSignal,
    ) -> Result<Tried, StoreError> {
        let ends_at_failure = selection.due.is_none();
        let mut tried = Tried {
            any: false,
            all_settled: true,
        };
        let mut after_seq = 0;
        let mut exhausted = false;
        let mut page = VecDeque::new();
        let mut running = FuturesUnordered::new();
        loop {
            let (concurrency, limit, max_bytes, enabled) = {
                let settings = self.dispatch.settings.borrow();
                let saf = &settings.store_and_forward;
                let max_bytes = usize::try_from(saf.retry_batch_bytes).unwrap_or(usize::MAX);
                (
                    saf.retry_concurrency,
                    saf.retry_batch_size,
                    max_bytes,
                    saf.enabled,
                )
            };
            let go_on = enabled && !shutdown.is_triggered() && (tried.all_settled || !ends_at_failure);
            let concurrency = match suspects {
                Suspects::Only => 1,
                Suspects::Exclude => concurrency.get(),
            };
            while go_on && running.len() < concurrency {
                if page.is_empty() && !exhausted {
                    let claim = Claim {
                        selection: selection.clone(),
                        suspects,
                        ordered: false,
                        after_seq,
                        now: now(),
                        // A suspect is marked when it is handed out, so each is claimed by itself.
                        limit: if suspects == Suspects::Only {
                            1
                        } else {
                            limit.get()
                        },
                        max_bytes,
                    };
                    page = VecDeque::from(queue.claim(claim).await?);
                    exhausted = page.is_empty();
                }
                let Some(object) = page.pop_front() else { break };
                after_seq = object.seq;
                running.push(self.attempt(object, hurry.clone()));
            }
            let Some(first) = running.next().await else { break };
            let mut settled = vec![first];
            while let Some(Some(next)) = running.next().now_or_never() {
                settled.push(next);
            }
            tried.any = true;
            tried.all_settled &= settled.iter().all(|(_, entry)| {
                matches!(
                    entry,
                    Entry::Completed | Entry::Filtered | Entry::Discarded | Entry::GivenUp
                )
            });
            self.write(queue, settled, hurry).await?;
        }
        // Claimed but not attempted, because the pass ended early.
        let unused = page.into_iter().map(|object| {
            (
                Verdict {
                    id: object.id,
                    action: Action::RELEASE,
                },
                Entry::Nothing,
            )
        });
        self.write(queue, unused.collect(), hurry).await?;
        Ok(tried)
    }

    /// Writes verdicts until the store has them, and enters them into the books.
    async fn write(
        &self,
        queue: &dyn RetryQueue,
        settled: Vec<(Verdict, Entry)>,
        hurry: &ShutdownSignal,
    ) -> Result<(), StoreError> {
        if settled.is_empty() {
            return Ok(());
        }
        let (verdicts, entries): (Vec<_>, Vec<_>) = settled.into_iter().unzip();
        let mut pause = PAUSE;
        while let Err(error) = queue.settle(&verdicts).await {
            if hurry.is_triggered() || matches!(error, StoreError::Closed) {
                return Err(error);
            }
            tracing::warn!(
                verdicts = verdicts.len(),
                "cannot write the outcome of retries yet: {error}"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let books = &self.dispatch.books;
        for entry in entries {
            match entry {
                Entry::Completed => books.completed(),
                Entry::Filtered => books.filtered(),
                Entry::GivenUp => books.given_up(),
                Entry::Discarded => books.dropped(DropReason::PipelineChanged),
                Entry::Failed | Entry::Nothing => {}
            }
        }
        Ok(())
    }

    fn policy(&self) -> RetryPolicy {
        let settings = self.dispatch.settings.borrow();
        let saf = &settings.store_and_forward;
        RetryPolicy {
            interval: saf.retry_interval,
            max_retries: saf.max_retries,
            on_pipeline_change: saf.on_pipeline_change,
            keep_history: saf.history_retention.is_some(),
        }
    }

    /// One attempt of one object, from its position on.
    async fn attempt(&self, object: StoredObject, mut hurry: ShutdownSignal) -> (Verdict, Entry) {
        let set = self.dispatch.pipelines.borrow().clone();
        let policy = self.policy();
        let verdict = |action| Verdict {
            id: object.id,
            action,
        };
        let mut run = match admit(&object, &set, &policy, now()) {
            Admission::Run(pipeline) => {
                let mut ctx = self
                    .dispatch
                    .identity
                    .context(&pipeline, object.correlation_id.clone());
                match restore(&object, &set, &mut ctx) {
                    Ok(input) => Run {
                        pipeline,
                        ctx,
                        position: object.position as usize,
                        input,
                    },
                    Err(error) => return self.give_up(&object, ErrorReason::Undecodable, &error),
                }
            }
            Admission::Postpone(until) => {
                let action = Action::Release {
                    not_before: Some(until),
                    last_error: None,
                    destination: None,
                    progress: None,
                };
                return (verdict(action), Entry::Nothing);
            }
            Admission::GiveUp(reason) if policy.on_pipeline_change == OnPipelineChange::Discard => {
                tracing::error!(
                    pipeline_id = %object.pipeline_id, correlation_id = %object.correlation_id,
                    stored_object_id = %object.id, reason = reason.as_str(),
                    "discarded, as OnPipelineChange says"
                );
                return (verdict(Action::Remove), Entry::Discarded);
            }
            Admission::GiveUp(reason) => {
                return self.give_up(&object, reason, "its pipeline is not the one it was stored by");
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = run.advance(|destination| self.dispatch.wake.succeeded(destination)) => Some(outcome),
            () = hurry.recv() => None,
        };
        let (attempt, entry) = match outcome {
            None => (Attempt::Interrupted, Entry::Nothing),
            Some(Outcome::Completed) => (Attempt::Succeeded, Entry::Completed),
            Some(Outcome::Filtered) => (Attempt::Succeeded, Entry::Filtered),
            Some(Outcome::Failed(failed)) => {
                self.dispatch.books.failed_attempt();
                let moved = run.position != object.position as usize || object.input.is_delivery();
                let progress = moved.then(|| progress(&run, failed.retry_data.as_ref()));
                let attempt = Attempt::Failed {
                    class: failed.error.class(),
                    error: failed.error.chain(),
                    retry_after: failed.error.retry_after(),
                    destination: failed.destination,
                    progress,
                };
                (attempt, Entry::Failed)
            }
        };
        // The settings may have changed during the attempt: the current ones count.
        let verdict = settle(&object, attempt, &self.policy(), now());
        match &verdict.action {
            Action::Remove | Action::Succeed { .. } => {
                tracing::debug!(
                    pipeline_id = %object.pipeline_id, correlation_id = %object.correlation_id,
                    stored_object_id = %object.id, "retry successful"
                );
                (verdict, entry)
            }
            Action::GiveUp { reason, failure, .. } => {
                let error = failure.as_ref().map_or("", |failure| failure.error.as_str());
                let attempts = failure
                    .as_ref()
                    .map_or(object.attempts, |failure| failure.attempts);
                tracing::error!(
                    pipeline_id = %object.pipeline_id, correlation_id = %object.correlation_id,
                    stored_object_id = %object.id, attempts, reason = reason.as_str(),
                    "given up, set aside in the error collection: {error}"
                );
                (verdict, Entry::GivenUp)
            }
            Action::RetryLater(failure) => {
                tracing::warn!(
                    pipeline_id = %object.pipeline_id, correlation_id = %object.correlation_id,
                    stored_object_id = %object.id, attempts = failure.attempts,
                    "retry failed, will try again: {}", failure.error
                );
                (verdict, entry)
            }
            Action::Release { .. } => (verdict, entry),
        }
    }

    fn give_up(&self, object: &StoredObject, reason: ErrorReason, why: &str) -> (Verdict, Entry) {
        tracing::error!(
            pipeline_id = %object.pipeline_id, correlation_id = %object.correlation_id,
            stored_object_id = %object.id, reason = reason.as_str(),
            "set aside in the error collection: {why}"
        );
        (
            Verdict {
                id: object.id,
                action: Action::GiveUp {
                    reason,
                    at: now(),
                    failure: None,
                },
            },
            Entry::GivenUp,
        )
    }
}

/// What a pass did.
struct Tried {
    /// Something was attempted.
    any: bool,
    /// Everything attempted left the queue.
    all_settled: bool,
}

/// What the function at the saved position receives, and the context values it had.
fn restore(object: &StoredObject, set: &PipelineSet, ctx: &mut Context) -> Result<Data, String> {
    match &object.input {
        StoredInput::Bytes { kind } => {
            ctx.restore_values(object.context.clone());
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

/// Where the next attempt begins, because everything before the failing function has succeeded.
fn progress(run: &Run, retry_data: Option<&edgehold_core::RetryData>) -> Progress {
    let (kind, payload) = match retry_data {
        Some(retry_data) => (retry_data.kind, retry_data.payload.clone()),
        None => (run.input.kind(), run.input.to_bytes(run.ctx.generation())),
    };
    Progress {
        version: run.pipeline.version().clone(),
        position: u32::try_from(run.position).unwrap_or(u32::MAX),
        kind,
        payload,
        context: run.ctx.values().clone(),
    }
}
