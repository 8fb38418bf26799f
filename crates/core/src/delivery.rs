//! From a trigger to the runtime and back: one received message, what it weighs, how to say that it is done, and how
//! to answer it.

use std::{error::Error, fmt, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{BoxFuture, Context, CorrelationId, PipelineId, ShutdownSignal, UnresolvedPlaceholder};

/// What became of a delivery, as its trigger hears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Every pipeline exported, filtered, dropped by name or stored it: acknowledge.
    Done,
    /// Nobody finished it (the service is ending): do not acknowledge, the source will deliver it again.
    Abandoned,
}

/// The one chance to tell the trigger what became of a delivery. Dropped unused it says [`Disposition::Abandoned`].
pub struct Ack {
    tell: Option<Box<dyn FnOnce(Disposition) + Send>>,
    report: Option<ReportSender>,
}

/// Where the report of one delivery goes. Dropped unused it says that nobody finished it.
pub type ReportSender = oneshot::Sender<DeliveryReport>;

impl Ack {
    /// `tell` is called once, from any thread, and must not block.
    pub fn new(tell: impl FnOnce(Disposition) + Send + 'static) -> Self {
        Self {
            tell: Some(Box::new(tell)),
            report: None,
        }
    }

    /// For triggers whose source wants no answer.
    pub fn none() -> Self {
        Self {
            tell: None,
            report: None,
        }
    }

    /// For triggers whose source waits for an answer: the report comes when every run has ended, which may be after the
    /// delivery is done. A delivery that cannot be decoded is then not kept, as its source is told so.
    #[must_use]
    pub fn with_report(mut self, report: ReportSender) -> Self {
        self.report = Some(report);
        self
    }

    /// Takes where the report is to go, if anybody waits for it.
    pub fn take_report(&mut self) -> Option<ReportSender> {
        self.report.take()
    }

    /// The delivery is finished.
    pub fn done(mut self) {
        if let Some(tell) = self.tell.take() {
            tell(Disposition::Done);
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell(Disposition::Abandoned);
        }
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ack")
    }
}

/// What became of a delivery whose source waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryReport {
    /// No codec could read it: why, in the original's words.
    Undecodable(String),
    /// How its runs ended, in the order of the pipelines; empty when no pipeline runs for its topic.
    Runs(Vec<RunReport>),
}

/// How one run of a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReport {
    /// The pipeline that ran.
    pub pipeline_id: PipelineId,
    /// How it ended.
    pub end: RunEnd,
}

/// The end of a first run, as its source hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunEnd {
    /// Every function succeeded, or one ended the pipeline without error; with the response that was set.
    Succeeded(Option<Response>),
    /// It did not get to its end, and what is left of it is kept and tried again: it must not be sent a second time.
    Kept {
        /// What held it up.
        error: String,
    },
    /// It failed, and is not tried again.
    Failed {
        /// What the function said.
        error: String,
    },
}

/// What a pipeline answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The data ([`Context::set_response_data`]).
    pub data: Bytes,
    /// Its content type; empty when no function has set one.
    pub content_type: String,
}

/// The bytes of all deliveries in hand, bounded (`MaxInFlightBytes`). Cheap to clone; clones share the bound.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    total: u32,
}

/// Part of a [`ByteBudget`]; given back when dropped.
#[derive(Debug)]
pub struct BytePermit(Option<OwnedSemaphorePermit>);

impl ByteBudget {
    /// A budget of `total` bytes, at least one.
    pub fn new(total: u32) -> Self {
        let total = total.max(1);
        Self {
            semaphore: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// The whole of it, in bytes.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// How many bytes are free.
    pub fn available(&self) -> usize {
        self.semaphore.available_permits()
    }

    /// Takes `bytes` if they are free now. A message larger than the whole budget counts as the whole budget, so that
    /// it passes alone instead of never.
    pub fn try_take(&self, bytes: usize) -> Option<BytePermit> {
        let wanted = self.clamp(bytes);
        self.semaphore
            .clone()
            .try_acquire_many_owned(wanted)
            .ok()
            .map(|permit| BytePermit(Some(permit)))
    }

    /// Waits until `bytes` are free, in the order of asking. Cancel-safe: a dropped wait takes nothing, but loses its
    /// place.
    pub async fn take(&self, bytes: usize) -> BytePermit {
        let wanted = self.clamp(bytes);
        BytePermit(self.semaphore.clone().acquire_many_owned(wanted).await.ok())
    }

    fn clamp(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total)
    }
}

impl BytePermit {
    /// A permit outside any budget, for triggers that bound their input in another way, and for tests.
    pub fn none() -> Self {
        Self(None)
    }

    /// Takes `bytes` off this permit as one of their own; none when it holds fewer.
    pub fn split(&mut self, bytes: usize) -> Option<Self> {
        let permit = self.0.as_mut()?.split(bytes)?;
        Some(Self(Some(permit)))
    }

    /// Adds another part of the same budget to this one, for a message whose size shows only while it comes.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(own), Some(more)) => own.merge(more),
            (own @ None, more) => *own = more,
            (Some(_), None) => {}
        }
    }
}

/// How a payload stood in its message. Only the target type `raw` of generation 4 tells the forms apart: EdgeX 4 hands
/// the first function what the envelope holds, undecoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadForm {
    /// Bytes as they are: no envelope, or none that encodes them.
    #[default]
    Bytes,
    /// Bytes that stood as base64 in an envelope.
    Base64,
    /// Text that is not base64; no codec can read it.
    Text,
    /// A JSON value that stood as itself in an envelope.
    Json,
}

impl PayloadForm {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Bytes, "bytes"),
        (Self::Base64, "base64"),
        (Self::Text, "text"),
        (Self::Json, "json"),
    ];

    /// The name in a stored row.
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(form, _)| *form == self)
            .map_or("bytes", |(_, name)| name)
    }

    /// The form with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(form, _)| *form)
    }
}

/// What a trigger made of one message.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A message whose envelope was understood.
    Message {
        /// The bytes inside the envelope, not yet decoded.
        payload: Bytes,
        /// How they stood in it.
        form: PayloadForm,
        /// How they are encoded, as the sender says.
        content_type: String,
        /// Follows the message through the stack.
        correlation_id: CorrelationId,
    },
    /// A message whose envelope was not understood.
    Undecodable {
        /// The message as received.
        raw: Bytes,
        /// What is wrong with it.
        reason: String,
    },
}

/// One received message on its way to the pipelines.
#[derive(Debug)]
pub struct Delivery {
    /// The concrete topic it came from; empty where the trigger has none.
    pub topic: String,
    /// What was received.
    pub received: Received,
    /// To be told when every pipeline is done with it.
    pub ack: Ack,
    /// Its part of the byte budget, given back when the delivery is done.
    pub permit: BytePermit,
}

/// Where a trigger puts deliveries. Bounded: sending waits while the runtime is busy.
pub type DeliverySender = mpsc::Sender<Delivery>;

/// Where the runtime takes deliveries from.
pub type Deliveries = mpsc::Receiver<Delivery>;

/// Why a trigger cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TriggerError {
    /// Its settings are wrong; another start will not help.
    #[error("the trigger's settings are wrong: {0}")]
    Configuration(String),
    /// It could not reach its source within the start-up time.
    #[error("the trigger's source is not available: {0}")]
    Unavailable(String),
}

/// Where deliveries come from. Owns its connection, reconnects by itself and puts every message into the channel.
///
/// Contract: deliveries of one source arrive in the order of receipt. A message is acknowledged to the source only
/// after its [`Ack`] said [`Disposition::Done`], in the order the source asks for. `run` returns `Ok` soon after
/// `shutdown` (receiving stops at once; acknowledgements of deliveries in hand are still sent until every [`Ack`] has
/// been used or dropped), and an error only when it cannot go on.
pub trait Trigger: Send {
    /// Receives until told to end.
    ///
    /// # Errors
    /// [`TriggerError`] when it cannot start or go on.
    fn run(
        self: Box<Self>,
        deliveries: DeliverySender,
        shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>>;
}

/// Why a response did not go out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// Its topic has a placeholder without a value.
    #[error("the topic of the response cannot be made")]
    Topic(#[from] UnresolvedPlaceholder),
    /// It has no form in which it could be sent.
    #[error("the response cannot be encoded")]
    Encode(#[source] Box<dyn Error + Send + Sync>),
    /// It could not be sent, or nobody confirmed it in time.
    #[error("the response cannot be published")]
    Publish(#[source] Box<dyn Error + Send + Sync>),
}

impl ResponseError {
    /// This error and everything below it on one line, for a log line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

/// Sends back what a pipeline has set as its response ([`Context::set_response_data`]).
///
/// Contract: called once for each first run that ended well and has a response, before the delivery is acknowledged.
/// It answers within a bounded time of its own choosing, sends a response at most once, and may be dropped at any
/// moment. (EdgeX: `Trigger`, `PublishTopic`.)
pub trait ResponsePublisher: Send + Sync {
    /// Sends the response of this context.
    ///
    /// # Errors
    /// [`ResponseError`]; nothing was sent then, or nobody confirmed it.
    fn respond<'a>(&'a self, ctx: &'a Context) -> BoxFuture<'a, Result<(), ResponseError>>;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_ack_dropped_unused_abandons_the_delivery_once() {
        let told = Arc::new(AtomicUsize::new(0));
        let seen = told.clone();
        drop(Ack::new(move |disposition| {
            assert_eq!(disposition, Disposition::Abandoned);
            seen.fetch_add(1, Ordering::SeqCst);
        }));
        assert_eq!(told.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_permit_can_be_divided_and_each_part_comes_back_by_itself() {
        let budget = ByteBudget::new(100);
        let mut whole = budget.try_take(60).unwrap();
        let part = whole.split(20).unwrap();
        assert!(whole.split(41).is_none());
        drop(part);
        assert_eq!(budget.available(), 60);
        drop(whole);
        assert_eq!(budget.available(), 100);
        assert!(BytePermit::none().split(1).is_none());
    }

    #[test]
    fn a_message_larger_than_the_budget_passes_alone() {
        let budget = ByteBudget::new(100);
        let small = budget.try_take(1).unwrap();
        assert!(budget.try_take(1_000).is_none());
        drop(small);
        let large = budget.try_take(1_000).unwrap();
        assert_eq!(budget.available(), 0);
        drop(large);
        assert_eq!(budget.available(), 100);
    }
}
