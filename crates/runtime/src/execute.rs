//! One pipeline, from one position on.

use std::{panic::AssertUnwindSafe, sync::Arc};

use edgehold_core::{
    BatchItem, Context, Data, Destination, ErrorClass, Flow, FunctionError, Pipeline, RetryData,
    destination::Answer, retry::Progress,
};
use futures_util::FutureExt;

use crate::{decode::is_nothing, destinations::Visitor};

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Every function succeeded.
    Completed,
    /// A function ended the pipeline without error.
    Filtered,
    /// The function at the run's position keeps this for a batch.
    Batched(BatchItem),
    /// The function at the run's position failed.
    Failed(FailedStep),
}

/// What a failing function left behind.
#[derive(Debug)]
pub(crate) struct FailedStep {
    pub(crate) error: FunctionError,
    /// What it wants to be called with next time; none when it is not to be called again.
    pub(crate) retry_data: Option<RetryData>,
    /// Where it sends to: what it said, or a name of its own for each function that did not say.
    pub(crate) destination: Option<Destination>,
}

impl FailedStep {
    /// Whether anything was tried.
    pub(crate) fn is_attempt(&self) -> bool {
        self.error.class() != ErrorClass::NotAttempted
    }
}

/// A run of a pipeline. It always knows the position of the function that is running or has failed, and what that
/// function received: when the future of [`Run::advance`] is dropped in the middle, both still say where to resume.
pub(crate) struct Run {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) ctx: Context,
    pub(crate) position: usize,
    pub(crate) input: Data,
    pub(crate) visitor: Arc<Visitor>,
    /// A function that ended well wants what waits in the store to be tried.
    pub(crate) retry_wanted: bool,
}

impl Run {
    /// A run whose functions ask this visitor before they send.
    pub(crate) fn new(
        pipeline: Arc<Pipeline>,
        mut ctx: Context,
        position: usize,
        input: Data,
        visitor: Arc<Visitor>,
    ) -> Self {
        ctx.set_gate(visitor.clone());
        ctx.begin_with(&input);
        Self {
            pipeline,
            ctx,
            position,
            input,
            visitor,
            retry_wanted: false,
        }
    }

    /// Calls the remaining functions. `sent` is told of each destination that accepted something.
    pub(crate) async fn advance(&mut self, sent: impl Fn(&Destination)) -> Outcome {
        let _leaves = Leaves(self.visitor.clone());
        if self.position == 0 && is_nothing(&self.input) {
            return Outcome::Failed(self.without_data());
        }
        while let Some(step) = self.pipeline.steps().get(self.position) {
            self.ctx.take_retry_data();
            self.ctx.take_destination();
            self.ctx.set_position(self.position);
            self.ctx.take_retry_wanted();
            let call =
                AssertUnwindSafe(async { step.function.call(&mut self.ctx, self.input.clone()).await });
            let result = call.catch_unwind().await.unwrap_or_else(|panic| {
                Err(FunctionError::new(
                    ErrorClass::Transient,
                    format!("it panicked: {}", panic_text(&*panic)),
                ))
            });
            let destination = self.ctx.take_destination();
            match result {
                Ok(flow) => {
                    self.retry_wanted |= self.ctx.take_retry_wanted();
                    if let Some(destination) = self.visitor.succeed(destination) {
                        sent(&destination);
                    }
                    match flow {
                        Flow::Stop => return Outcome::Filtered,
                        Flow::Batch(item) => return Outcome::Batched(item),
                        Flow::Continue(data) => {
                            self.input = data;
                            self.position += 1;
                        }
                        Flow::ContinueWithPipelineInput => {
                            if let Some(input) = self.ctx.pipeline_input() {
                                self.input = input.clone();
                            }
                            self.position += 1;
                        }
                    }
                }
                Err(error) => {
                    self.visitor.leave(Answer::of(&error));
                    let retry_data = self.ctx.take_retry_data();
                    let destination = destination.or_else(|| Some(self.unnamed_destination()));
                    return Outcome::Failed(FailedStep {
                        error,
                        retry_data,
                        destination,
                    });
                }
            }
        }
        Outcome::Completed
    }

    /// The first function of a pipeline that has nothing to begin with fails, as in EdgeX. There is nothing to keep either.
    fn without_data(&self) -> FailedStep {
        let error = format!(
            "function {} in pipeline '{}': No Data Received",
            self.function_name(),
            self.pipeline.id()
        );
        FailedStep {
            error: FunctionError::permanent(error),
            retry_data: None,
            destination: None,
        }
    }

    /// Where the next attempt begins, with what the failing function wants to be called with.
    pub(crate) fn progress(&self, retry_data: RetryData) -> Progress {
        Progress {
            position: u32::try_from(self.position).unwrap_or(u32::MAX),
            version: self.pipeline.version().clone(),
            context: self.ctx.to_stored(self.needs_pipeline_input(&retry_data)),
            kind: retry_data.kind,
            payload: retry_data.payload,
        }
    }

    /// Whether a later attempt needs what the pipeline began with beside what the current function is called with.
    fn needs_pipeline_input(&self, retry_data: &RetryData) -> bool {
        let rest = self.pipeline.steps().get(self.position..).unwrap_or_default();
        let needed = rest
            .split_last()
            .is_some_and(|(_, before)| before.iter().any(|step| step.function.hands_on_nothing()));
        let begun_with = |input: &Data| {
            input.kind() == retry_data.kind && input.to_bytes(self.ctx.generation()) == retry_data.payload
        };
        needed && !self.ctx.pipeline_input().is_some_and(begun_with)
    }

    /// What the current function has received.
    pub(crate) fn retry_input(&self) -> RetryData {
        self.as_retry_data(&self.input)
    }

    /// Data as it is kept.
    pub(crate) fn as_retry_data(&self, data: &Data) -> RetryData {
        RetryData {
            payload: data.to_bytes(self.ctx.generation()),
            kind: data.kind(),
        }
    }

    /// Stands for the destination of the current function, when that does not name one.
    fn unnamed_destination(&self) -> Destination {
        let (pipeline_id, position) = (self.pipeline.id(), self.position);
        Destination::new(&format!("pipeline:{pipeline_id}/{position}"))
    }

    /// The configured name of the function at the run's position, for log lines.
    pub(crate) fn function_name(&self) -> &str {
        self.pipeline
            .steps()
            .get(self.position)
            .map_or("", |step| &step.name)
    }
}

/// A run that is dropped in the middle of a function is no longer where that was about to send to.
struct Leaves(Arc<Visitor>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.leave(Answer::Unknown);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
