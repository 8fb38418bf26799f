//! Following changes below the three `Writable` prefixes.
//!
//! Constraints: a change must be seen soon; what was written together must be seen together; a notice may be lost, come
//! twice, or be of a folder above; the message bus may be away, or disabled; and whatever changed while Core Keeper was
//! away must be seen when it is back.
//!
//! So nothing but a read decides. A notice, the bus being there again, and time lead to one:
//!
//! ```text
//! read all, publish ─► wait for a notice, the bus, or the time ◄──────────────┐
//!        ▲                     │ woken                                        │
//!        │ back off            ▼                                              │ the same as before
//!        └── any call fails ── read all ─► different: read again until two agree, publish if different
//! ```
//!
//! A read is of one moment ([`Sections::read`]), and one request's write is seen whole. Several requests are several
//! writes; that two reads a moment apart have to agree makes one change of those that follow each other closely.

use std::{convert::Infallible, error::Error, hash::BuildHasher, time::Duration};

use edgehold_config::{ProviderError, Snapshot};
use edgehold_core::Outage;
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{
    PollIntervals,
    client::Client,
    notices::Notices,
    section::{Reading, Sections},
};

/// Below each section: what may change while the service runs.
const WRITABLE: &str = "Writable/";

/// For how long nothing may change until it is taken for a whole.
const QUIET: Duration = Duration::from_millis(50);

/// How long that may take: somebody who never stops is followed all the same.
const LONGEST_WAIT_FOR_QUIET: Duration = Duration::from_secs(1);

/// Publishes a snapshot at once and after every change, forever.
///
/// Cancel-safe: dropping the future ends the calls; what it has published stays.
pub(crate) async fn follow(
    client: &Client,
    sections: &Sections,
    poll: PollIntervals,
    mut notices: Notices,
    snapshots: &watch::Sender<Option<Snapshot>>,
) -> Infallible {
    let mut follower = Follower {
        client,
        sections,
        poll,
        snapshots,
        unusable: Vec::new(),
        jitter: std::hash::RandomState::new(),
        turns: 0,
        is_away: false,
    };
    let mut outage = Outage::default();
    loop {
        let begun = Instant::now();
        let Err(error) = follower.follow_until_failure(&mut notices).await;
        follower.is_away = true;
        if outage.begins(&told(&error), begun.elapsed()) {
            warn!(
                error = &error as &(dyn Error + 'static),
                "cannot follow configuration changes, the last known configuration stays; will try again"
            );
        }
        let random = follower.random();
        sleep(outage.delay(random)).await;
    }
}

/// An error with its causes: one reason is told of once.
fn told(error: &ProviderError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

struct Follower<'a> {
    client: &'a Client,
    sections: &'a Sections,
    poll: PollIntervals,
    snapshots: &'a watch::Sender<Option<Snapshot>>,
    unusable: Vec<String>,
    jitter: std::hash::RandomState,
    turns: u64,
    is_away: bool,
}

impl Follower<'_> {
    async fn follow_until_failure(&mut self, notices: &mut Notices) -> Result<Infallible, ProviderError> {
        loop {
            // What is told from here on may not be in the read that follows.
            notices.forget();
            let reading = self.read().await?;
            if std::mem::take(&mut self.is_away) {
                let provider = self.client.name();
                info!(provider, "following configuration changes again");
            }
            let reading = self.settled(reading).await?;
            self.publish(reading);

            let interval = match notices.are_listened_to() {
                true => self.poll.listening,
                false => self.poll.deaf,
            };
            let permille = 750 + u32::try_from(self.random() % 501).expect("a remainder of 501 fits");
            select! {
                // One of several that come together stands for all.
                () = notices.next() => sleep(QUIET).await,
                () = sleep(interval * permille / 1000) => {}
            }
        }
    }

    /// What is to be published: what was read, if it is the first, or the same again. Otherwise what it has become when
    /// two reads agree.
    async fn settled(&self, mut reading: Reading) -> Result<Reading, ProviderError> {
        let until = Instant::now() + LONGEST_WAIT_FOR_QUIET;
        while self.is_change(&reading) && Instant::now() < until {
            sleep(QUIET).await;
            let again = self.read().await?;
            if again == reading {
                break;
            }
            reading = again;
        }
        Ok(reading)
    }

    fn is_change(&self, reading: &Reading) -> bool {
        let published = self.snapshots.borrow();
        published
            .as_ref()
            .is_some_and(|published| *published != reading.snapshot)
    }

    async fn read(&self) -> Result<Reading, ProviderError> {
        let sections = self.sections;
        let read = |session| async move { sections.read(&session, WRITABLE).await };
        self.client.with_token(read).await
    }

    /// Sends what was read unless it is the same again.
    fn publish(&mut self, reading: Reading) {
        if self.unusable != reading.unusable {
            warn_of_unusable_values(&reading.unusable);
            self.unusable = reading.unusable;
        }
        self.snapshots.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&reading.snapshot);
            if changed {
                *current = Some(reading.snapshot);
            }
            changed
        });
    }

    fn random(&mut self) -> u64 {
        self.turns = self.turns.wrapping_add(1);
        self.jitter.hash_one(self.turns)
    }
}

/// Says which keys have no effect because of what their values are.
pub(crate) fn warn_of_unusable_values(keys: &[String]) {
    for key in keys {
        warn!(
            key,
            "the value of this key is neither text, number nor truth value, it is ignored"
        );
    }
}
