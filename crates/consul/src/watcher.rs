//! Following changes below the three `Writable` prefixes.
//!
//! Constraints: a change must be seen within a few milliseconds; several keys changed in one transaction must be seen
//! together, also when they are in different sections; whatever changed while Consul was away must be seen when it is
//! back; and an index that moves for no reason must not make a busy loop.
//!
//! So a blocking query on each prefix only says that *something* may have changed. The first of the three to return
//! leads to one transaction that reads all of them, and the value is compared with the one before:
//!
//! ```text
//! learn the index of each prefix ─► read all, publish ─► wait for any of the three ◄──┐
//!        ▲                                                     │ woken                │ ask on from the new index
//!        │ back off                                            ▼                      │
//!        └──────────────── any call fails ◄─────── read all, publish if different ────┘
//! ```
//!
//! A query goes on from the index its last answer had, and only after the read that this answer led to. A change between
//! the two has a higher index and makes the query return at once, so nothing is lost. After a failure the indexes are
//! learnt afresh: they belong to the server that gave them.

use std::{convert::Infallible, error::Error, hash::BuildHasher, time::Duration};

use edgehold_config::{ProviderError, Snapshot};
use edgehold_core::{BoxFuture, ExponentialBackoff};
use futures_util::{FutureExt, StreamExt, future::try_join_all, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use crate::{
    client::Client,
    section::{Reading, Sections, WRITABLE},
};

/// What a read costs: without end, one is done in this time. One that has found a change costs almost nothing, so that
/// somebody who writes again and again is followed closely.
const READ_COST: Duration = Duration::from_millis(50);
const CHANGE_COST: Duration = Duration::from_millis(5);

/// What may be spent at once after a pause.
const READ_CREDIT: Duration = Duration::from_millis(150);

const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(250), Duration::from_secs(5));

/// How often an outage is spoken of while it lasts.
const OUTAGE_LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Publishes a snapshot at once and after every change, forever.
///
/// Cancel-safe: dropping the future ends the queries; what it has published stays.
pub(crate) async fn follow(
    client: &Client,
    sections: &Sections,
    snapshots: &watch::Sender<Option<Snapshot>>,
) -> Infallible {
    let mut publisher = Publisher {
        snapshots,
        skipped: Vec::new(),
    };
    let mut outage = Outage::new(client.name());
    let jitter = std::hash::RandomState::new();
    loop {
        let Err(error) = follow_until_failure(client, sections, &mut publisher, &mut outage).await;
        outage.failed(&error, Instant::now());
        let backoff = BACKOFF.after(outage.failures.saturating_sub(1));
        sleep(backoff.jittered_pause(jitter.hash_one(outage.failures))).await;
    }
}

async fn follow_until_failure(
    client: &Client,
    sections: &Sections,
    publisher: &mut Publisher<'_>,
    outage: &mut Outage<'_>,
) -> Result<Infallible, ProviderError> {
    let prefixes: Vec<String> = sections.writable().collect();
    let indexes = try_join_all(prefixes.iter().map(|prefix| wait_for_change(client, prefix, 0))).await?;
    publisher.publish(sections.read(client, WRITABLE).await?);
    outage.ended();

    let mut pace = Pace::default();
    let ask = |(prefix, index)| ask(client, prefix, index);
    let mut queries: FuturesUnordered<_> = prefixes
        .iter()
        .map(String::as_str)
        .zip(indexes)
        .map(ask)
        .collect();
    loop {
        let mut woken = vec![
            queries
                .next()
                .await
                .expect("each query that ends is asked again")?,
        ];
        sleep_until(pace.admit(Instant::now())).await;
        // What one write woke, or what came while waiting for the turn, needs one read.
        while let Some(Some(answer)) = queries.next().now_or_never() {
            woken.push(answer?);
        }
        if publisher.publish(sections.read(client, WRITABLE).await?) {
            pace.found_a_change();
        }
        queries.extend(woken.into_iter().map(ask));
    }
}

/// A blocking query that ends with its prefix and the index to ask it on from.
fn ask<'a>(
    client: &'a Client,
    prefix: &'a str,
    index: u64,
) -> BoxFuture<'a, Result<(&'a str, u64), ProviderError>> {
    Box::pin(async move {
        let answered = wait_for_change(client, prefix, index).await?;
        Ok((prefix, next_index(index, answered)))
    })
}

/// A token that is refused at the end of a query is replaced without starting afresh: the index is still that of the
/// same data.
async fn wait_for_change(client: &Client, prefix: &str, index: u64) -> Result<u64, ProviderError> {
    client
        .with_token(|session| async move { session.wait_for_change(prefix, index).await })
        .await
}

/// An index is opaque. One that went backwards belongs to other data; then the next query must not wait.
fn next_index(asked_from: u64, answered: u64) -> u64 {
    if answered < asked_from { 0 } else { answered }
}

struct Publisher<'a> {
    snapshots: &'a watch::Sender<Option<Snapshot>>,
    skipped: Vec<String>,
}

impl Publisher<'_> {
    /// Sends what was read unless it is the same again. Answers whether it was sent.
    fn publish(&mut self, reading: Reading) -> bool {
        if self.skipped != reading.not_text {
            warn_of_skipped_keys(&reading.not_text);
            self.skipped = reading.not_text;
        }
        self.snapshots.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&reading.snapshot);
            if changed {
                *current = Some(reading.snapshot);
            }
            changed
        })
    }
}

/// Says which keys have no effect because their values are not UTF-8 text.
pub(crate) fn warn_of_skipped_keys(keys: &[String]) {
    for key in keys {
        warn!(key, "the value of this key is not text, it is ignored");
    }
}

/// When the next read may take place: a few at once, so that a change is seen at once, then one at a time.
#[derive(Debug)]
struct Pace {
    /// When everything admitted so far is paid for.
    paid: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self { paid: Instant::now() }
    }
}

impl Pace {
    /// Charges a read and answers when it may begin.
    fn admit(&mut self, now: Instant) -> Instant {
        let start = now.max(self.paid.checked_sub(READ_CREDIT).unwrap_or(now));
        self.paid = self.paid.max(now) + READ_COST;
        start
    }

    /// Gives back what the read just charged has cost too much.
    fn found_a_change(&mut self) {
        self.paid -= READ_COST - CHANGE_COST;
    }
}

/// Consul being away, spoken of when it begins, now and then, and when it ends.
struct Outage<'a> {
    provider: &'a str,
    failures: u32,
    unlogged: u32,
    quiet_until: Option<Instant>,
}

impl<'a> Outage<'a> {
    fn new(provider: &'a str) -> Self {
        Self {
            provider,
            failures: 0,
            unlogged: 0,
            quiet_until: None,
        }
    }

    fn failed(&mut self, error: &ProviderError, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.quiet_until.is_some_and(|until| now < until) {
            self.unlogged += 1;
            return;
        }
        warn!(
            error = error as &(dyn Error + 'static),
            failures = self.failures,
            unlogged = self.unlogged,
            "cannot follow configuration changes, the last known configuration stays; will try again"
        );
        self.unlogged = 0;
        self.quiet_until = Some(now + OUTAGE_LOG_INTERVAL);
    }

    fn ended(&mut self) {
        if self.failures > 0 {
            info!(
                provider = self.provider,
                failures = self.failures,
                "following configuration changes again"
            );
        }
        *self = Self {
            provider: self.provider,
            failures: 0,
            unlogged: 0,
            quiet_until: self.quiet_until,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_backwards_starts_afresh() {
        assert_eq!(next_index(7, 9), 9);
        assert_eq!(next_index(7, 7), 7);
        assert_eq!(next_index(7, 3), 0);
        assert_eq!(next_index(7, 0), 0);
        assert_eq!(next_index(0, 5), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn reads_that_never_stop_are_paced() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut reads = Vec::new();
        for _ in 0..25 {
            sleep_until(pace.admit(Instant::now())).await;
            reads.push(start.elapsed().as_millis());
        }
        assert_eq!(reads[..6], [0, 0, 0, 0, 50, 100]);
        assert_eq!(reads[24], 1050);

        tokio::time::advance(Duration::from_secs(1)).await;
        let now = Instant::now();
        assert_eq!(pace.admit(now), now, "after a pause the next one is not delayed");
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_never_stop_are_followed_closely() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..231 {
            sleep_until(pace.admit(Instant::now())).await;
            pace.found_a_change();
        }
        assert_eq!(start.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_spoken_of_now_and_then() {
        let error = ProviderError::Configuration("test".to_owned());
        let mut outage = Outage::new("consul");
        let mut spoken = Vec::new();
        for second in 0..65 {
            outage.failed(&error, Instant::now());
            if outage.unlogged == 0 {
                spoken.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(spoken, [0, 30, 60]);
        outage.ended();
        assert_eq!(outage.failures, 0);
    }
}
