//! Deliveries that are put in by hand: by the REST interface for the HTTP trigger, by whoever has messages of its own.
//!
//! Owns the way from such a hand into the channel of the runtime, for as long as the service takes deliveries. Makes no
//! connection and waits for no source.

use tokio::sync::watch;

use crate::{BoxFuture, Delivery, DeliverySender, ShutdownSignal, Trigger, TriggerError};

/// Takes deliveries while its [`InletTrigger`] runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inlet(watch::Receiver<State>);

/// The trigger behind an [`Inlet`].
#[derive(Debug)]
pub struct InletTrigger(watch::Sender<State>);

#[derive(Debug)]
enum State {
    NotYet,
    Open(DeliverySender),
    Closed,
}

/// The service is ending and takes no deliveries any more.
#[derive(Debug, thiserror::Error)]
#[error("the service is ending")]
pub struct InletClosed;

impl Inlet {
    /// An inlet and the trigger to run the service with.
    pub fn new() -> (Self, InletTrigger) {
        let (sender, receiver) = watch::channel(State::NotYet);
        (Self(receiver), InletTrigger(sender))
    }

    /// Puts a delivery in; waits until the service takes deliveries, and while the runtime is busy. Cancel-safe: a dropped
    /// wait has put nothing in.
    ///
    /// # Errors
    /// [`InletClosed`]; the delivery is abandoned then.
    pub async fn deliver(&self, delivery: Delivery) -> Result<(), InletClosed> {
        let mut state = self.0.clone();
        let sender = match state
            .wait_for(|state| !matches!(state, State::NotYet))
            .await
            .as_deref()
        {
            Ok(State::Open(sender)) => Some(sender.clone()),
            _ => None,
        };
        let sender = sender.ok_or(InletClosed)?;
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
            self.0.send_replace(State::Open(deliveries));
            shutdown.recv().await;
            // The runtime ends when the last sender is gone.
            self.0.send_replace(State::Closed);
            Ok(())
        })
    }
}
