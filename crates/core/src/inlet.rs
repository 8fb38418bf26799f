//! Deliveries that are put in by hand: by the REST interface for the HTTP trigger, by whoever has messages of its own.
//!
//! Owns the way from such a hand into the channel of the runtime, for as long as the service takes deliveries. Makes no
//! connection and waits for no source.

use tokio::sync::watch;

use crate::{BoxFuture, Delivery, DeliverySender, ShutdownSignal, Trigger, TriggerError};

/// Takes deliveries while its [`InletTrigger`] runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inlet(watch::Receiver<Option<DeliverySender>>);

/// The trigger behind an [`Inlet`].
#[derive(Debug)]
pub struct InletTrigger(watch::Sender<Option<DeliverySender>>);

/// The service takes no deliveries: it has not begun to, or is ending.
#[derive(Debug, thiserror::Error)]
#[error("the service does not take deliveries now")]
pub struct InletClosed;

impl Inlet {
    /// An inlet and the trigger to run the service with.
    pub fn new() -> (Self, InletTrigger) {
        let (sender, receiver) = watch::channel(None);
        (Self(receiver), InletTrigger(sender))
    }

    /// Puts a delivery in; waits while the runtime is busy. Cancel-safe: a dropped wait has put nothing in.
    ///
    /// # Errors
    /// [`InletClosed`]; the delivery is abandoned then.
    pub async fn deliver(&self, delivery: Delivery) -> Result<(), InletClosed> {
        let sender = self.0.borrow().clone().ok_or(InletClosed)?;
        sender.send(delivery).await.map_err(|_| InletClosed)
    }
}

impl Trigger for InletTrigger {
    fn run(
        self: Box<Self>,
        deliveries: DeliverySender,
        mut shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        Box::pin(async move {
            self.0.send_replace(Some(deliveries));
            shutdown.recv().await;
            // The runtime ends when the last sender is gone.
            self.0.send_replace(None);
            Ok(())
        })
    }
}
