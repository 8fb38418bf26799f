//! Acknowledged means durable: kill -9 at seeded moments, under load, with a destination that fails part of the time.
//! Whatever the broker has taken arrives at least once, waits, or is in the error collection.
//!
//! `rounds` kills and counts; here stands what has to come out. A run repeats by its seed, which it prints:
//! `EDGEHOLD_TEST_SEED`. `make soak` makes a thousand kills (`EDGEHOLD_SOAK_KILLS`), in runs of as many as here.
//!
//! A test that cannot fail shows nothing. So the same rounds are driven against a build with faults (feature
//! `fail-points`, a binary of its own beside the shipped one), and have to find what it loses.

mod rounds;
mod unsynced;

use anyhow::Result;
use edgehold_test_support::edgehold_binary;

use self::{
    rounds::{Outcome, Rounds},
    unsynced::UnsyncedWrites,
};
use crate::random;

const SEED: u64 = 20_261_122;
/// Kills of one run.
const KILLS: u64 = 40;
/// Kills of a run in which something has to be found; each of them loses dozens of events of a faulty build.
const KILLS_OF_A_FAULTY_BUILD: u64 = 4;
/// A run with un-fsynced writes gone costs no more than one without, but there are two of them.
const SOAKED_CRASHES: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_event_is_lost_by_kill_9() -> Result<()> {
    let outcome = Rounds::of(seed()?, KILLS).drive().await?;
    assert_nothing_is_lost(&outcome);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_acknowledges_before_the_commit_is_found() -> Result<()> {
    let mut rounds = Rounds::of(seed()?, KILLS_OF_A_FAULTY_BUILD);
    rounds.faulty(fail_points_binary()?, "acknowledge-early");
    let outcome = rounds.drive().await?;
    assert_ne!(outcome.missing.len(), 0, "{outcome}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "some twenty minutes: make soak"]
async fn soak_no_acknowledged_event_is_lost_by_a_thousand_kills() -> Result<()> {
    let mut left = random::number("EDGEHOLD_SOAK_KILLS")?.unwrap_or(1_000);
    let mut seed = seed()?;
    while left > 0 {
        let kills = left.min(KILLS);
        let outcome = Rounds::of(seed, kills).drive().await?;
        assert_nothing_is_lost(&outcome);
        (left, seed) = (left - kills, seed + 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "some minutes, and needs a C compiler: make soak"]
async fn soak_no_acknowledged_event_is_lost_with_the_writes_that_were_not_synced() -> Result<()> {
    let mut left =
        random::number("EDGEHOLD_SOAK_KILLS")?.map_or(SOAKED_CRASHES, |kills| kills.min(SOAKED_CRASHES));
    let mut seed = seed()?;
    while left > 0 {
        let kills = left.min(KILLS);
        let mut rounds = Rounds::of(seed, kills);
        rounds.power_fails(UnsyncedWrites::new()?);
        let outcome = rounds.drive().await?;
        assert_nothing_is_lost(&outcome);
        assert!(outcome.undone_writes > 0, "nothing was ever unsynced: {outcome}");
        (left, seed) = (left - kills, seed + 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a C compiler: make soak"]
async fn soak_a_store_that_does_not_sync_is_found() -> Result<()> {
    let mut rounds = Rounds::of(seed()?, KILLS_OF_A_FAULTY_BUILD);
    rounds.faulty(fail_points_binary()?, "unsynced");
    rounds.power_fails(UnsyncedWrites::new()?);
    let outcome = rounds.drive().await?;
    assert_ne!(outcome.missing.len(), 0, "{outcome}");
    Ok(())
}

/// Nothing is missing, and what arrived again was under way at a kill.
#[track_caller]
fn assert_nothing_is_lost(outcome: &Outcome) {
    assert!(outcome.missing.is_empty(), "{outcome}");
    assert_eq!(
        outcome.set_aside_for_other_reasons,
        Vec::<String>::new(),
        "{outcome}"
    );
    assert!(outcome.arrived_again <= outcome.caught_under_way(), "{outcome}");
}

/// The build with faults.
fn fail_points_binary() -> Result<std::path::PathBuf> {
    let binary = edgehold_binary()?.with_file_name("edgehold-fail-points");
    anyhow::ensure!(
        binary.is_file(),
        "{} is not there: run `cargo build -p edgehold-app --features fail-points --bin edgehold-fail-points`",
        binary.display()
    );
    Ok(binary)
}

fn seed() -> Result<u64> {
    random::seed(SEED)
}
