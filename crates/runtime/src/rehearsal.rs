//! A pipeline on one message, step by step, without anything around it: what `pipeline test` shows.
//!
//! Functions are called as in a run, with a context like a run's, but nothing is stored, counted or tried again. What sends
//! is stopped before it does, unless it is wanted: functions ask the gate of the context before they send, and here it lets
//! nobody pass. What would follow depends on an answer that nobody has given, so the rehearsal ends there.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use edgehold_contracts::Generation;
use edgehold_core::{
    BatchItem, BoxFuture, Context, CorrelationId, Data, Destination, Flow, FunctionError, Gate, PayloadForm,
    Pipeline, SecretProvider, ServiceKey, TargetType, Unsent,
};
use futures_util::FutureExt;

use crate::decode::{decode, describe};

/// How long a function may take. What takes longer waits for something that does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What runs have in common.
pub struct Rehearsal {
    /// The service whose pipelines these are.
    pub service_key: ServiceKey,
    /// The generation whose forms it writes.
    pub generation: Generation,
    /// Its secrets.
    pub secrets: Arc<dyn SecretProvider>,
    /// Whether exports send.
    pub sends: bool,
}

/// A message as it would have come.
#[derive(Clone, Debug)]
pub struct RehearsedMessage {
    /// The payload, out of its envelope.
    pub payload: Bytes,
    /// What the payload is besides bytes.
    pub form: PayloadForm,
    /// How it is encoded.
    pub content_type: String,
    /// The topic it came from.
    pub topic: String,
    /// Its correlation id.
    pub correlation_id: CorrelationId,
}

/// What a pipeline made of a message.
#[derive(Debug)]
pub struct Rehearsed {
    /// Each function that was called, by its configured name, with its end. Only the last one may not have gone on.
    pub steps: Vec<(String, StepEnd)>,
    /// What the trigger would answer with, and its content type; none unless the pipeline ended well.
    pub response: Option<(Bytes, String)>,
}

/// How a function ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum StepEnd {
    /// It handed this on.
    Continued(Data),
    /// It handed on nothing: what follows gets what the pipeline began with.
    HandedOnNothing,
    /// It ended the pipeline without error: filtered.
    Stopped,
    /// It would have sent something there.
    NotSent(Destination),
    /// It did not end within ten seconds.
    StillWaiting,
    /// It failed.
    Failed(FunctionError),
}

impl Rehearsed {
    /// Whether nothing failed.
    pub fn is_success(&self) -> bool {
        !matches!(self.steps.last(), Some((_, StepEnd::Failed(_))))
    }
}

impl Rehearsal {
    /// What the first function of a pipeline with this target type receives.
    ///
    /// # Errors
    /// What is wrong with the payload.
    pub fn data(&self, target: TargetType, message: &RehearsedMessage) -> Result<Data, String> {
        decode(
            target,
            self.generation,
            &message.payload,
            message.form,
            &message.content_type,
        )
    }

    /// Calls the functions of `pipeline` one after the other, beginning with `data`.
    ///
    /// Cancel safety: dropped, it leaves nothing behind but what exports have sent.
    pub async fn run(&self, pipeline: &Pipeline, message: &RehearsedMessage, data: Data) -> Rehearsed {
        let mut ctx = Context::new(
            self.service_key.clone(),
            pipeline.id().clone(),
            message.correlation_id.clone(),
            self.generation,
            self.secrets.clone(),
        );
        describe(&mut ctx, &data, &message.topic, &message.content_type);
        ctx.begin_with(&data);
        let closed = Arc::new(Closed::default());
        if !self.sends {
            ctx.set_gate(closed.clone());
        }
        let (first, mut input) = (data.clone(), data);
        let mut steps = Vec::new();
        for (position, step) in pipeline.steps().iter().enumerate() {
            ctx.take_retry_data();
            ctx.take_destination();
            ctx.set_position(position);
            let call = AssertUnwindSafe(step.function.call(&mut ctx, input.clone())).catch_unwind();
            let end = match tokio::time::timeout(PATIENCE, call).await {
                Err(_) => StepEnd::StillWaiting,
                Ok(Err(_)) => StepEnd::Failed(FunctionError::permanent("it panicked")),
                Ok(Ok(result)) => match (closed.take(), result) {
                    (Some(destination), _) => StepEnd::NotSent(destination),
                    (None, Ok(Flow::Continue(data))) => StepEnd::Continued(data),
                    (None, Ok(Flow::ContinueWithPipelineInput)) => StepEnd::HandedOnNothing,
                    (None, Ok(Flow::Stop)) => StepEnd::Stopped,
                    // No other message comes: a batch of this one.
                    (None, Ok(Flow::Batch(BatchItem { data, batching }))) => {
                        StepEnd::Continued(batching.combine(vec![data]))
                    }
                    (None, Err(error)) => StepEnd::Failed(error),
                },
            };
            let next = match &end {
                StepEnd::Continued(data) => Some(data.clone()),
                StepEnd::HandedOnNothing => Some(first.clone()),
                _ => None,
            };
            let ended_well = next.is_some() || matches!(end, StepEnd::Stopped);
            steps.push((step.name.clone(), end));
            match next {
                Some(next) => input = next,
                None => {
                    let response = ended_well.then(|| response(&ctx)).flatten();
                    return Rehearsed { steps, response };
                }
            }
        }
        let response = response(&ctx);
        Rehearsed { steps, response }
    }
}

fn response(ctx: &Context) -> Option<(Bytes, String)> {
    let data = ctx.response_data()?.clone();
    Some((data, ctx.response_content_type().to_owned()))
}

/// Lets nobody pass and remembers who asked.
#[derive(Default)]
struct Closed(Mutex<Option<Destination>>);

impl Closed {
    fn take(&self) -> Option<Destination> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Gate for Closed {
    fn enter<'a>(
        &'a self,
        destination: &'a Destination,
        _: Unsent,
    ) -> BoxFuture<'a, Result<(), FunctionError>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(destination.clone());
        Box::pin(std::future::ready(Err(FunctionError::not_attempted(
            "nothing is sent here",
        ))))
    }
}
