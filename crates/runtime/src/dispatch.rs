//! From deliveries to pipeline runs, and the one place that acknowledges.
//!
//! Each delivery is one task; all its pipelines run side by side with a context of their own. It is acknowledged when
//! every run was exported, filtered, dropped by name or stored, or is in the journal. At most
//! `Writable.Pipeline.Concurrency` deliveries are in hand without being safe; journaled ones go on beside them.
//!
//! Deliveries are decoded, and where order matters lined up, one after the other as they come; everything else happens
//! in their tasks.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use edgehold_config::{Writable, configuration};
use edgehold_contracts::Generation;
use edgehold_core::{
    Ack, BytePermit, Context, CorrelationId, Data, Deliveries, Delivery, DeliveryReport, MessagePublisher,
    Observer, PayloadForm, PipelineId, PipelineSet, Received, ResponsePublisher, RunReport, SecretProvider,
    ServiceKey, Shutdown, ShutdownSignal,
};
use futures_util::future::join_all;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::{JoinError, JoinSet},
};

use crate::{
    Batches, Books, Destinations, Keeper, Wake, batch,
    decode::{decode, describe},
    first_attempt::FirstAttempt,
    journal::Source,
    order::{OrderKey, Turn, Turns},
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
    /// How its functions publish; none where there is no message bus.
    pub publisher: Option<Arc<dyn MessagePublisher>>,
    /// Told of every run and every export.
    pub observer: Arc<dyn Observer>,
}

impl ServiceIdentity {
    /// A fresh context for a run of this pipeline.
    pub fn context(&self, pipeline_id: &PipelineId, correlation_id: CorrelationId) -> Context {
        let mut ctx = Context::new(
            self.service_key.clone(),
            pipeline_id.clone(),
            correlation_id,
            self.generation,
            self.secrets.clone(),
        );
        if let Some(publisher) = &self.publisher {
            ctx.set_publisher(publisher.clone());
        }
        ctx.set_observer(self.observer.clone());
        ctx
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
    /// Who may send where, and when.
    pub destinations: Arc<Destinations>,
    /// What waits for others to go on with.
    pub batches: Arc<Batches>,
    /// Sends responses back; none where there is nowhere to send them.
    pub response: Option<Arc<dyn ResponsePublisher>>,
}

impl Dispatch {
    /// Runs deliveries until their channel is closed, every delivery in hand is done, and what waits in batches has gone
    /// on or is in the store.
    ///
    /// After `hurry` no run is waited for: what is still running is stored where it stands, to be resumed after the
    /// next start.
    pub async fn run(self, deliveries: Deliveries, hurry: ShutdownSignal) {
        let shared = Arc::new(self);
        let (no_more, last) = Shutdown::new();
        let take_in = async {
            shared.clone().take_in(deliveries, hurry.clone()).await;
            no_more.trigger();
        };
        tokio::join!(take_in, batch::run(shared.clone(), last, hurry.clone()));
    }

    async fn take_in(self: Arc<Self>, mut deliveries: Deliveries, hurry: ShutdownSignal) {
        let shared = self;
        let (places, turns) = (Arc::new(Places::default()), Arc::new(Turns::default()));
        let mut running = JoinSet::new();
        while let Some(delivery) = deliveries.recv().await {
            #[cfg(feature = "fail-points")]
            let delivery = crate::fail_point::acknowledge_early(delivery);
            let prepared = Prepared::new(&shared, &turns, delivery);
            let place = places.clone().take();
            running.spawn(deliver(shared.clone(), prepared, place, hurry.clone()));
            while let Some(ended) = running.try_join_next() {
                report(ended);
            }
            // Read for each delivery: a new limit acts at once.
            let limit = || shared.settings.borrow().pipeline.concurrency.get();
            while places.taken() >= limit() || running.len() >= limit() + MAX_JOURNALED {
                tokio::select! {
                    Some(ended) = running.join_next() => report(ended),
                    () = places.left.notified() => {}
                }
            }
        }
        while let Some(ended) = running.join_next().await {
            report(ended);
        }
    }
}

/// Deliveries beside `Writable.Pipeline.Concurrency` that may still be running because their rows are journaled.
const MAX_JOURNALED: usize = 1024;

/// How many deliveries are in hand and not yet safe.
#[derive(Default)]
struct Places {
    taken: AtomicUsize,
    left: Notify,
}

/// One of them; left when dropped.
struct Place(Arc<Places>);

impl Places {
    fn take(self: Arc<Self>) -> Place {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Place(self)
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_one();
    }
}

/// A delivery whose task broke down is not acknowledged: its source delivers it again. Panics of functions never come
/// here, they are failed attempts.
pub(crate) fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a delivery could not be finished and is not acknowledged: {error}");
    }
}

/// A delivery that is decoded and, where order matters, has lined up.
struct Prepared {
    set: Arc<PipelineSet>,
    source: Source,
    ack: Ack,
    permit: BytePermit,
    decoded: Result<Data, String>,
    /// For each pipeline that runs, in their order; empty where nothing is kept in order.
    turns: VecDeque<Turn>,
}

impl Prepared {
    fn new(dispatch: &Dispatch, turns: &Arc<Turns>, delivery: Delivery) -> Self {
        dispatch.books.received();
        let set = dispatch.pipelines.borrow().clone();
        let (payload, form, content_type, correlation_id, decoded) = match delivery.received {
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
        let device = match &decoded {
            Ok(Data::Event(event)) => Some(event.device_name.as_str().to_owned()),
            _ => None,
        };
        let source = Source {
            topic: delivery.topic,
            content_type,
            form,
            payload,
            correlation_id,
            device,
        };
        let ordered = {
            let settings = dispatch.settings.borrow();
            let saf = &settings.store_and_forward;
            saf.enabled && saf.ordering == configuration::Ordering::Device
        };
        if !ordered {
            turns.forget();
        }
        let turns = match &source.device {
            Some(device) if ordered => set
                .matching(&source.topic)
                .map(|pipeline| {
                    turns.line_up(OrderKey {
                        pipeline_id: pipeline.id().clone(),
                        device: device.clone(),
                    })
                })
                .collect(),
            _ => VecDeque::new(),
        };
        Self {
            set,
            source,
            ack: delivery.ack,
            permit: delivery.permit,
            decoded,
            turns,
        }
    }
}

async fn deliver(dispatch: Arc<Dispatch>, prepared: Prepared, place: Place, hurry: ShutdownSignal) {
    let Prepared {
        set,
        source,
        mut ack,
        permit,
        decoded,
        mut turns,
    } = prepared;
    let report = ack.take_report();
    let books = &dispatch.books;
    match decoded {
        Err(problem) => {
            books.undecodable();
            let (topic, correlation_id) = (&source.topic, &source.correlation_id);
            tracing::error!(%topic, %correlation_id, "unable to decode message: {problem}");
            match report {
                // Whoever sent it is told, and has it.
                Some(report) => {
                    ack.done();
                    // Its source may have gone away.
                    let _ = report.send(DeliveryReport::Undecodable(problem));
                }
                None if dispatch.keeper.keep_undecodable(&source, &problem).await => ack.done(),
                None => {}
            }
        }
        Ok(data) => {
            let mut safe = Vec::new();
            let runs: Vec<_> = set
                .matching(&source.topic)
                .map(|pipeline| {
                    let mut ctx = dispatch
                        .identity
                        .context(pipeline.id(), source.correlation_id.clone());
                    describe(&mut ctx, &data, &source.topic, &source.content_type);
                    let (told, is_safe) = oneshot::channel();
                    safe.push(is_safe);
                    let attempt = FirstAttempt {
                        dispatch: &dispatch,
                        source: &source,
                        pipeline: pipeline.clone(),
                        ctx,
                        input: data.clone(),
                        turn: turns.pop_front(),
                    };
                    attempt.run(told, hurry.clone())
                })
                .collect();
            drop(data);
            if runs.is_empty() {
                books.unmatched();
                let (topic, correlation_id) = (&source.topic, &source.correlation_id);
                tracing::debug!(%topic, %correlation_id, "no pipeline runs for this topic");
            }
            let acknowledge = async {
                if join_all(safe).await.iter().all(Result::is_ok) {
                    ack.done();
                }
                // What is journaled goes on, but makes room for the next delivery.
                drop(place);
            };
            let (ends, ()) = tokio::join!(join_all(runs), acknowledge);
            if let Some(report) = report {
                let of = |(pipeline_id, end)| RunReport { pipeline_id, end };
                // A run that nobody could finish or keep has no end.
                if let Some(runs) = ends.into_iter().map(|end| end.map(of)).collect() {
                    let _ = report.send(DeliveryReport::Runs(runs));
                }
            }
        }
    }
    drop(permit);
}
