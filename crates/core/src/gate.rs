//! The seam through which a function asks before it sends.
//!
//! Owns the question. Who may pass, who waits and who is refused is the runtime's to say.

use crate::{BoxFuture, Destination, FunctionError};

/// What becomes of the data when it is not sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// It is kept for a later attempt: it may be refused now.
    Kept,
    /// Nobody would keep it: it is never refused.
    Lost,
}

/// Stands before all destinations of a run.
///
/// Cancel safety: a dropped `enter` has not entered.
pub trait Gate: Send + Sync {
    /// Returns when the function that calls it may send to this destination. Its visit there ends with its call.
    ///
    /// # Errors
    /// [`ErrorClass::NotAttempted`](crate::ErrorClass::NotAttempted) when nothing may be sent there now; only for what
    /// is kept. How long that will be so is the error's [`retry_after`](FunctionError::retry_after).
    fn enter<'a>(
        &'a self,
        destination: &'a Destination,
        unsent: Unsent,
    ) -> BoxFuture<'a, Result<(), FunctionError>>;
}
