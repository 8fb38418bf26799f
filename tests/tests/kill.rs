//! Acknowledged means durable: kill -9 at seeded moments, under load, with a destination that fails part of the time.
//! Whatever the broker has taken arrives at least once.
//!
//! A moment is a number of requests seen since the last start, so that a run can be repeated by its seed
//! (`EDGEHOLD_TEST_SEED`). Duplicates are allowed, because what was in flight is sent again; they are counted and printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use edgehold_test_support::Behaviour;
use edgehold_test_support::wait::{self, LONG};

use crate::support::{Stack, accepted, publish, refusing, wait_accepted};

const SEED: u64 = 20_261_122;
const EVENTS_OF_A_ROUND: u64 = 250;
/// It is killed before so many of a round's events have been sent once, so that the rest is on its way.
const LATEST_KILL: u64 = 200;
/// Of a hundred sends of a round, so many are refused: from nothing stored to everything stored.
const REFUSED: [u64; 10] = [30, 100, 0, 60, 95, 100, 10, 80, 100, 50];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_event_is_lost_by_kill_9() -> Result<()> {
    // Given a session that the broker keeps, and storing switched on.
    let seed = match std::env::var("EDGEHOLD_TEST_SEED") {
        Ok(seed) => seed.parse().context("EDGEHOLD_TEST_SEED is no number")?,
        Err(_) => SEED,
    };
    let mut random = Random(seed);
    let settings = [
        ("StoreAndForward/RetryInterval", "1s"),
        ("StoreAndForward/MaxRetryCount", "0"),
    ];
    let mut stack = Stack::start_storing(&settings).await?;
    let refused = Arc::new(AtomicU64::new(0));
    flaky(&stack, random.next(), &refused);

    // When it is killed in every round, somewhere in the middle of that round's load.
    let rounds = (0_u64..).zip(REFUSED);
    for (round, percentage) in rounds {
        refused.store(percentage, Ordering::SeqCst);
        let moment = usize::try_from(random.below(LATEST_KILL))?;
        let before = stack.sink.count();
        let numbers = round * EVENTS_OF_A_ROUND..(round + 1) * EVENTS_OF_A_ROUND;
        let load = publish(stack.broker.port(), numbers);
        let kill = async {
            wait::until("the moment of the kill", LONG, async || {
                stack.sink.count() > before + moment
            })
            .await;
            stack.service.kill9()
        };
        let (published, killed) = tokio::join!(load, kill);
        published?;
        killed?;
        stack.start_service().await?;
    }

    // Then, with the destination on, every event has arrived, and nothing is left.
    let all = 0..EVENTS_OF_A_ROUND * u64::try_from(REFUSED.len())?;
    stack.sink.behave(Behaviour::status(200));
    wait_accepted(&stack.sink, all.clone()).await;
    let stats = stack
        .service
        .wait_stats("nothing to be left", |stats| {
            stats.store("waiting") == 0 && stats.books("inFlight") == 0
        })
        .await;
    assert_eq!(stats.store("error"), 0, "{stats:?}");
    assert_eq!(stats.books("dropped"), 0, "{stats:?}");
    report(seed, &stack);
    Ok(())
}

/// A destination that refuses so many of a hundred requests, at random.
fn flaky(stack: &Stack, seed: u64, refused: &Arc<AtomicU64>) {
    let (mut random, refused) = (Random(seed), refused.clone());
    stack.sink.script(move |_| {
        if random.below(100) < refused.load(Ordering::SeqCst) {
            refusing()
        } else {
            Behaviour::status(200)
        }
    });
}

#[expect(
    clippy::print_stdout,
    reason = "the number is the finding, whether the test passes or not"
)]
fn report(seed: u64, stack: &Stack) {
    let accepted = accepted(&stack.sink);
    let sends: usize = accepted.values().sum();
    let duplicates = sends - accepted.len();
    println!(
        "kill -9, seed {seed}: {} events, {duplicates} arrived again",
        accepted.len()
    );
}

/// SplitMix64: enough to pick moments.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
