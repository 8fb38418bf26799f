//! The seam every function of a pipeline stands behind.

use crate::{BatchItem, BoxFuture, Context, Data, FunctionError};

/// What a function wants to happen next.
#[derive(Debug)]
pub enum Flow {
    /// Hand this to the next function.
    Continue(Data),
    /// Hand on nothing: the next function gets what the pipeline began with (contract: messages-and-functions §5.4). A
    /// function that says this has to say so before, by [`AppFunction::hands_on_nothing`].
    ContinueWithPipelineInput,
    /// End the pipeline here without error: filtered.
    Stop,
    /// Wait here for others and go on with them as one: each counts as delivered only when its batch does, and is kept
    /// meanwhile when Store and Forward is on.
    Batch(BatchItem),
}

/// One function of a pipeline (EdgeX: `AppFunction`).
///
/// Called concurrently, for many messages at a time: state of its own needs its own lock. It must return within
/// bounded time (every wait has a timeout) and must not panic on any input; a panic is caught and counted as a failed
/// attempt.
///
/// On failure it may first call [`Context::set_retry_data`] to say which bytes to keep for a later attempt: with Store
/// and Forward enabled the object is stored and this very function is called again later with these bytes. Without
/// it, or with Store and Forward off, a failure drops the message by name.
///
/// Cancel safety: the future is dropped only when the service is aborted after its grace time; the stored object (or
/// the unacknowledged delivery) then makes up for it.
///
/// ```
/// use edgehold_core::{AppFunction, BoxFuture, Context, Data, Flow, FunctionError};
///
/// struct Greet;
///
/// impl AppFunction for Greet {
///     fn call<'a>(&'a self, ctx: &'a mut Context, _: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
///         Box::pin(async move {
///             let device = ctx.value("devicename").unwrap_or("nobody").to_owned();
///             Ok(Flow::Continue(Data::Text(format!("hello {device}"))))
///         })
///     }
/// }
/// ```
pub trait AppFunction: Send + Sync {
    /// Handles one piece of data.
    ///
    /// # Errors
    /// [`FunctionError`] ends the pipeline; its class says whether another attempt can help.
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>>;

    /// Whether it may answer [`Flow::ContinueWithPipelineInput`]: then what the pipeline began with is kept beside what
    /// this function is to be called with again. Otherwise a retry that needs it gets the latter in its place.
    fn hands_on_nothing(&self) -> bool {
        false
    }
}

/// An [`AppFunction`] that only computes: testable without a runtime.
pub trait Transform: Send + Sync {
    /// Handles one piece of data at once.
    ///
    /// # Errors
    /// As [`AppFunction::call`].
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError>;
}

impl<T: Transform> AppFunction for T {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        let result = self.apply(ctx, data);
        Box::pin(std::future::ready(result))
    }
}
