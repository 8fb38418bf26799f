//! Waiting for a state, never for a time. Owns the polling; what is looked at belongs to the test.

use std::fmt::Display;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// The deadline to use unless a test has a reason: long enough for a busy two-core machine, so that it passes only when
/// something is broken.
pub const LONG: Duration = Duration::from_secs(60);

/// How long to wait between two looks. Short against anything a test measures, long against the cost of a look.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// What one look at a state answers: there, with a value, or not yet, with what was seen instead.
///
/// Implemented for `bool` (true is there), `Option` (`Some` is there) and `Result` (`Ok` is there, and the last error
/// is part of the failure).
pub trait Look {
    /// What the wait returns.
    type Value;

    /// The value, or what to tell when the deadline passes with this being the last look.
    fn settle(self) -> Result<Self::Value, String>;
}

impl Look for bool {
    type Value = ();

    fn settle(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("it was still false".to_owned())
        }
    }
}

impl<T> Look for Option<T> {
    type Value = T;

    fn settle(self) -> Result<T, String> {
        self.ok_or_else(|| "there was still none".to_owned())
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Value = T;

    fn settle(self) -> Result<T, String> {
        self.map_err(|error| format!("the last error was: {error:#}"))
    }
}

/// Looks again and again until the state is there, and returns its value.
///
/// `what` completes the sentence "waited for …". A look that has not answered at the deadline is given up too.
/// Use it with a running clock: under tokio's paused time the deadline comes at once.
///
/// # Panics
/// When `deadline` has gone by, naming the caller's line, `what`, and what the last look saw.
///
/// ```
/// # use edgehold_test_support::wait;
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut looks = 0;
/// let seen = wait::until("the third look", wait::LONG, async || {
///     looks += 1;
///     (looks == 3).then_some(looks)
/// })
/// .await;
/// assert_eq!(seen, 3);
/// # });
/// ```
#[track_caller]
pub fn until<F, L>(what: &str, deadline: Duration, look: F) -> impl Future<Output = L::Value>
where
    F: AsyncFnMut() -> L,
    L: Look,
{
    until_at(Location::caller(), what, deadline, look)
}

/// [`until`] for waits of this crate that are told who called them.
pub(crate) async fn until_at<F, L>(
    caller: &Location<'_>,
    what: &str,
    deadline: Duration,
    mut look: F,
) -> L::Value
where
    F: AsyncFnMut() -> L,
    L: Look,
{
    let end = Instant::now() + deadline;
    let mut seen = "the first look had not answered".to_owned();
    loop {
        match timeout_at(end, look()).await.map(Look::settle) {
            Ok(Ok(value)) => return value,
            Ok(Err(instead)) => seen = instead,
            Err(_) => give_up(caller, what, deadline, &seen),
        }
        if Instant::now() >= end {
            give_up(caller, what, deadline, &seen);
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Ends a wait that failed. The location is that of the test, because inside an async body `#[track_caller]` no
/// longer reaches it.
pub(crate) fn give_up(caller: &Location<'_>, what: &str, deadline: Duration, seen: &str) -> ! {
    panic!("{caller}: waited {deadline:?} for {what}: {seen}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "wait.rs")]
    async fn a_state_that_never_comes_panics_at_the_line_of_the_test() {
        until("nothing", Duration::from_millis(20), async || false).await;
    }

    #[tokio::test]
    #[should_panic(expected = "for a refusal: the last error was: no")]
    async fn the_last_error_is_told() {
        until("a refusal", Duration::from_millis(20), async || {
            Err::<(), _>("no")
        })
        .await;
    }

    #[tokio::test]
    #[should_panic(expected = "the first look had not answered")]
    async fn a_look_that_hangs_is_given_up() {
        until("a look", Duration::from_millis(20), async || {
            std::future::pending::<bool>().await
        })
        .await;
    }
}
