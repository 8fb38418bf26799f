//! From deliveries to pipeline runs, and the one place that acknowledges.
//!
//! Each delivery is one task, at most `Writable.Pipeline.Concurrency` at a time; all its pipelines run side by side with
//! a context of their own. It is acknowledged when every run was exported, filtered, dropped by name or stored. A run
//! that ended well and has a response is answered before; a response that does not get through holds nothing up for
//! longer than its publisher tries, and is not tried again.

use std::sync::Arc;

use edgehold_config::Writable;
use edgehold_contracts::Generation;
use edgehold_core::{
    Context, CorrelationId, Data, Deliveries, Delivery, PayloadForm, Pipeline, PipelineSet, Received,
    ResponsePublisher, SecretProvider, ServiceKey, ShutdownSignal, StoredInput,
};
use futures_util::future::join_all;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};

use crate::{
    Books, Keeper, Wake,
    decode::{decode, describe},
    execute::{Outcome, Run},
    keeper::Kept,
};

/// Who a service is and what its functions may ask for: the same for every run.
#[derive(Clone)]
pub struct ServiceIdentity {
    /// The service.
    pub service_key: ServiceKey,
    /// Whose forms it writes.
    pub generation: Generation,
    /// Its secrets.
    pub secrets: Arc<dyn SecretProvider>,
}

impl ServiceIdentity {
    pub(crate) fn context(&self, pipeline: &Pipeline, correlation_id: CorrelationId) -> Context {
        Context::new(
            self.service_key.clone(),
            pipeline.id().clone(),
            correlation_id,
            self.generation,
            self.secrets.clone(),
        )
    }
}

/// Runs deliveries through the current pipelines.
#[derive(Clone)]
pub struct Dispatch {
    /// Who the service is.
    pub identity: ServiceIdentity,
    /// The pipelines; each delivery takes the current set.
    pub pipelines: watch::Receiver<Arc<PipelineSet>>,
    /// The live settings.
    pub settings: watch::Receiver<Arc<Writable>>,
    /// Keeps what fails.
    pub keeper: Arc<Keeper>,
    /// Accounts for every run.
    pub books: Arc<Books>,
    /// Told of each destination that accepted something.
    pub wake: Arc<Wake>,
    /// Sends responses back; none where there is nowhere to send them.
    pub response: Option<Arc<dyn ResponsePublisher>>,
}

impl Dispatch {
    /// Runs deliveries until their channel is closed and every delivery in hand is done.
    ///
    /// After `hurry` no run is waited for: what is still running is stored where it stands, to be resumed after the
    /// next start.
    pub async fn run(self, mut deliveries: Deliveries, hurry: ShutdownSignal) {
        let shared = Arc::new(self);
        let mut running = JoinSet::new();
        while let Some(delivery) = deliveries.recv().await {
            running.spawn(deliver(shared.clone(), delivery, hurry.clone()));
            while let Some(ended) = running.try_join_next() {
                report(ended);
            }
            // Read for each delivery: a new limit acts at once.
            while running.len() >= shared.settings.borrow().pipeline.concurrency.get() {
                if let Some(ended) = running.join_next().await {
                    report(ended);
                }
            }
        }
        while let Some(ended) = running.join_next().await {
            report(ended);
        }
    }
}

/// A delivery whose task broke down is not acknowledged: its source delivers it again. Panics of functions never come
/// here, they are failed attempts.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a delivery could not be finished and is not acknowledged: {error}");
    }
}

async fn deliver(dispatch: Arc<Dispatch>, delivery: Delivery, hurry: ShutdownSignal) {
    let Delivery {
        topic,
        received,
        ack,
        permit,
    } = delivery;
    let books = &dispatch.books;
    books.received();
    let set = dispatch.pipelines.borrow().clone();
    let (payload, form, content_type, correlation_id, decoded) = match received {
        Received::Message {
            payload,
            form,
            content_type,
            correlation_id,
        } => {
            let generation = dispatch.identity.generation;
            let decoded = decode(set.target_type, generation, &payload, form, &content_type);
            (payload, form, content_type, correlation_id, decoded)
        }
        Received::Undecodable { raw, reason } => (
            raw,
            PayloadForm::Bytes,
            String::new(),
            CorrelationId::new(""),
            Err(reason),
        ),
    };
    let finished = match decoded {
        Err(reason) => {
            books.undecodable();
            tracing::error!(%topic, %correlation_id, "unable to decode message: {reason}");
            let input = StoredInput::Delivery {
                content_type,
                topic,
                form,
            };
            dispatch
                .keeper
                .keep_undecodable(payload, input, correlation_id, &reason)
                .await
                != Kept::Abandoned
        }
        Ok(data) => {
            drop(payload);
            let runs = set.matching(&topic).map(|pipeline| {
                let mut ctx = dispatch.identity.context(pipeline, correlation_id.clone());
                describe(&mut ctx, &data, &topic, &content_type);
                run_pipeline(&dispatch, pipeline.clone(), ctx, data.clone(), hurry.clone())
            });
            let results = join_all(runs).await;
            if results.is_empty() {
                books.unmatched();
                tracing::debug!(%topic, %correlation_id, "no pipeline runs for this topic");
            }
            results.into_iter().all(|done| done)
        }
    };
    if finished {
        ack.done();
    }
    drop(permit);
}

/// One first attempt. Answers whether this pipeline is done with the delivery: exported, filtered, dropped by name or
/// stored it.
async fn run_pipeline(
    dispatch: &Dispatch,
    pipeline: Arc<Pipeline>,
    ctx: Context,
    input: Data,
    mut hurry: ShutdownSignal,
) -> bool {
    let _in_flight = dispatch.books.start();
    let mut run = Run {
        pipeline,
        ctx,
        position: 0,
        input,
    };
    let outcome = tokio::select! {
        biased;
        outcome = run.advance(|destination| dispatch.wake.succeeded(destination)) => Some(outcome),
        // The run is dropped in the middle of a function; `run` still says which one and what it had.
        () = hurry.recv() => None,
    };
    match outcome {
        Some(Outcome::Completed) => {
            respond(dispatch, &run.ctx, hurry).await;
            dispatch.books.completed();
            true
        }
        Some(Outcome::Filtered) => {
            respond(dispatch, &run.ctx, hurry).await;
            dispatch.books.filtered();
            true
        }
        Some(Outcome::Failed(failed)) => dispatch.keeper.keep_failed(&run, failed).await != Kept::Abandoned,
        None => dispatch.keeper.keep_interrupted(&run).await != Kept::Abandoned,
    }
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
    tokio::select! {
        biased;
        result = response.respond(ctx) => if let Err(error) = result {
            tracing::error!(%pipeline_id, %correlation_id, "the response is lost: {}", error.chain());
        },
        () = hurry.recv() => {
            tracing::error!(%pipeline_id, %correlation_id, "the response is lost: the service is ending");
        }
    }
}
