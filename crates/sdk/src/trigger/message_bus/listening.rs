//! Listening for the notices by which Core Keeper tells of changes: by a connection of its own, whatever the trigger is.
//!
//! A notice only wakes the configuration provider; nothing in it is read. So what is lost, or comes twice, does no harm.

use edgehold_core::ConnectionState;
use edgehold_keeper::NoticeSender;
use tokio::sync::{mpsc, watch};

use crate::trigger::Companion;

/// Runs the connection and tells of what arrives by it, and of how it stands.
pub(super) fn telling<T: Send + 'static>(
    notices: NoticeSender,
    mut state: watch::Receiver<ConnectionState>,
    mut arrivals: mpsc::Receiver<T>,
    done: impl Fn(T) + Send + 'static,
    run: Companion,
) -> Companion {
    Box::new(|shutdown| {
        Box::pin(async move {
            let tell = async move {
                loop {
                    notices.set_listening(*state.borrow_and_update() == ConnectionState::Subscribed);
                    // Both are cancel-safe.
                    tokio::select! {
                        arrival = arrivals.recv() => match arrival {
                            Some(notice) => {
                                done(notice);
                                notices.tell();
                            }
                            None => return,
                        },
                        Ok(()) = state.changed() => {}
                    }
                }
            };
            tokio::join!(run(shutdown), tell);
        })
    })
}
