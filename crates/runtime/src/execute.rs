//! One pipeline, from one position on.

use std::{panic::AssertUnwindSafe, sync::Arc};

use edgehold_core::{
    Context, Data, Destination, ErrorClass, Flow, FunctionError, Pipeline, RetryData, retry::Progress,
};
use futures_util::FutureExt;

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Every function succeeded.
    Completed,
    /// A function ended the pipeline without error.
    Filtered,
    /// The function at the run's position failed.
    Failed(FailedStep),
}

/// What a failing function left behind.
#[derive(Debug)]
pub(crate) struct FailedStep {
    pub(crate) error: FunctionError,
    /// What it wants to be called with next time; none when it is not to be called again.
    pub(crate) retry_data: Option<RetryData>,
    pub(crate) destination: Option<Destination>,
}

/// A run of a pipeline. It always knows the position of the function that is running or has failed, and what that
/// function received: when the future of [`Run::advance`] is dropped in the middle, both still say where to resume.
pub(crate) struct Run {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) ctx: Context,
    pub(crate) position: usize,
    pub(crate) input: Data,
}

impl Run {
    /// Calls the remaining functions. `sent` is told of each destination that accepted something.
    pub(crate) async fn advance(&mut self, sent: impl Fn(&Destination)) -> Outcome {
        while let Some(step) = self.pipeline.steps().get(self.position) {
            self.ctx.take_retry_data();
            self.ctx.take_destination();
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
                    if let Some(destination) = &destination {
                        sent(destination);
                    }
                    match flow {
                        Flow::Stop => return Outcome::Filtered,
                        Flow::Continue(data) => {
                            self.input = data;
                            self.position += 1;
                        }
                    }
                }
                Err(error) => {
                    let retry_data = self.ctx.take_retry_data();
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

    /// Where the next attempt begins, with what the failing function wants to be called with.
    pub(crate) fn progress(&self, retry_data: RetryData) -> Progress {
        Progress {
            position: u32::try_from(self.position).unwrap_or(u32::MAX),
            version: self.pipeline.version().clone(),
            kind: retry_data.kind,
            payload: retry_data.payload,
            context: self.ctx.values().clone(),
        }
    }

    /// The configured name of the function at the run's position, for log lines.
    pub(crate) fn function_name(&self) -> &str {
        self.pipeline
            .steps()
            .get(self.position)
            .map_or("", |step| &step.name)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
