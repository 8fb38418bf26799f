//! Rounds of load, kill -9 and restart, and what is left of the events afterwards.
//!
//! Each round draws from the seed: how the destination fails, which journal the service keeps, and after how many
//! requests for the round's own events it dies. A moment is a number of requests, not a time, so that a slow machine plays
//! the same rounds; and of the round's own events, so that each round gets further than the one before.
//!
//! The broker lives through all of it and keeps the session. So what it was not acknowledged it sends again, and an
//! event that is nowhere in the end was acknowledged too early. It also tells what was in flight: what it sends again.

use std::{
    collections::BTreeSet,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use edgehold_test_support::{
    Behaviour, Mosquitto,
    wait::{self, LONG},
};
use tokio::time::Instant;

use super::unsynced::UnsyncedWrites;
use crate::random::Random;
use crate::support::{DURABLE, Stack, accepted, event_id, exported_id, publish, wait_accepted};

/// So long a round lasts in which the breaker keeps the requests away by which its moment is counted.
const BREAKER_HOLDS: Duration = Duration::from_secs(2);
/// Of so many rounds, one begins with the breaker on; in the others everything is tried.
const ROUNDS_TO_A_BREAKER: u64 = 4;
const EVENTS_OF_A_ROUND: u64 = 100;
/// It is killed before so many of a round's events have been sent once, so that the rest is on its way.
const LATEST_KILL: u64 = 80;
/// `Writable.Pipeline.Concurrency` and `RetryConcurrency`, below: attempts that a process can have under way at a time.
const ATTEMPTS_UNDER_WAY: usize = 32 + 32;
/// Of a hundred requests, so many fail: from nothing stored to everything stored.
const FAILING: [u64; 10] = [30, 100, 0, 60, 95, 100, 10, 80, 100, 50];
/// Of so many rounds, in one some requests are never answered. They hold back the acknowledgement of all behind them, so
/// that other rounds have more to lose.
const ROUNDS_TO_A_HANGING_ONE: u64 = 3;
/// `Journal` and `JournalDelay`.
const JOURNALS: [(&str, &str); 4] = [("auto", "5ms"), ("auto", "0s"), ("auto", "1s"), ("always", "5ms")];
const SETTINGS: [(&str, &str); 6] = [
    ("StoreAndForward/Breaker", "off"),
    ("Pipeline/Concurrency", "32"),
    ("StoreAndForward/RetryConcurrency", "32"),
    ("StoreAndForward/RetryInterval", "1s"),
    ("StoreAndForward/MaxRetryCount", "0"),
    // What hangs is given up soon, and what is answered is not, however slow the machine: a request that is given up after
    // it was accepted comes again without a kill.
    ("Pipeline/Functions/HTTPExport/Parameters/RequestTimeout", "5s"),
];

/// A run that is about to be made.
pub(super) struct Rounds {
    seed: u64,
    kills: u64,
    faulty: Option<(PathBuf, &'static str)>,
    unsynced: Option<UnsyncedWrites>,
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    seed: u64,
    events: u64,
    /// Events that are nowhere.
    pub(super) missing: BTreeSet<String>,
    set_aside: usize,
    /// Reasons in the error collection beyond `crashed`, which a process that is killed all the time may find.
    pub(super) set_aside_for_other_reasons: Vec<String>,
    /// How often an event was accepted again.
    pub(super) arrived_again: usize,
    /// Deliveries that the broker had not been acknowledged at each kill; it sent them again.
    unacknowledged: Vec<usize>,
    /// What the failing power took, in all.
    pub(super) undone_writes: usize,
}

impl Outcome {
    /// How often an event may have been accepted again: each time, it was caught under way by a kill. Either it was not
    /// acknowledged, whether the disk had it already or not; or the disk had it and it was being attempted.
    pub(super) fn caught_under_way(&self) -> usize {
        self.unacknowledged
            .iter()
            .map(|unacknowledged| unacknowledged + ATTEMPTS_UNDER_WAY)
            .sum()
    }
}

impl Rounds {
    pub(super) fn of(seed: u64, kills: u64) -> Self {
        Self {
            seed,
            kills,
            faulty: None,
            unsynced: None,
        }
    }

    /// Another binary, with this fault in effect.
    pub(super) fn faulty(&mut self, binary: PathBuf, fault: &'static str) {
        self.faulty = Some((binary, fault));
    }

    /// With each kill the power fails too: what was not synced is gone.
    pub(super) fn power_fails(&mut self, unsynced: UnsyncedWrites) {
        self.unsynced = Some(unsynced);
    }

    /// Makes the run and says it in a line.
    pub(super) async fn drive(self) -> Result<Outcome> {
        // Given a session that the broker keeps, and storing switched on.
        let mut random = Random(self.seed);
        let mut stack = Stack::around(telling_broker().await?, DURABLE).await?;
        if let Some((binary, fault)) = self.faulty {
            stack.service.set_binary(binary);
            stack.service.set_env("EDGEHOLD_FAIL_POINT", fault);
        }
        if let Some(unsynced) = &self.unsynced {
            unsynced.watch(&mut stack.service);
        }
        stack.start_service().await?;
        stack.store_and_forward(&SETTINGS).await?;
        let destination = Destination::behind(&stack, random.next());

        // When it is killed in every round, somewhere in the middle of that round's load.
        let (mut restarts, mut undone_writes) = (Vec::new(), 0);
        for (round, failing_of_100) in (0..self.kills).zip(FAILING.into_iter().cycle()) {
            let moment = random.below(LATEST_KILL);
            let numbers = round * EVENTS_OF_A_ROUND..(round + 1) * EVENTS_OF_A_ROUND;
            destination.begin_round(Round {
                first_id: event_id(numbers.start),
                failing_of_100,
                hangs: random.below(ROUNDS_TO_A_HANGING_ONE) == 0,
                requests: 0,
            });
            let load = publish(stack.broker.port(), numbers);
            let began = Instant::now();
            let kill = async {
                wait::until("the moment of the kill", LONG, async || {
                    destination.requests() > moment || began.elapsed() > BREAKER_HOLDS
                })
                .await;
                stack.service.kill9()
            };
            let (published, killed) = tokio::join!(load, kill);
            published?;
            killed?;
            if let Some(unsynced) = &self.unsynced {
                undone_writes += unsynced.undo(stack.service.data_dir())?;
            }
            let (journal, delay) = JOURNALS[usize::try_from(random.below(JOURNALS.len() as u64))?];
            let breaker = match random.below(ROUNDS_TO_A_BREAKER) {
                0 => "on",
                _ => "off",
            };
            let next_round = [
                ("StoreAndForward/Journal", journal),
                ("StoreAndForward/JournalDelay", delay),
                ("StoreAndForward/Breaker", breaker),
            ];
            stack.set(&next_round).await?;
            restarts.push(stack.broker.process().line_count());
            stack.start_service().await?;
        }

        // Then, with the destination on and the broker's queue empty, nothing waits or is on its way any more.
        let events = self.kills * EVENTS_OF_A_ROUND;
        stack.sink.behave(Behaviour::status(200));
        stack.publish(events..=events).await?;
        wait_accepted(&stack.sink, events..=events).await;
        let stats = stack
            .service
            .wait_stats("nothing to be left", |stats| {
                stats.store("waiting") == 0 && stats.books("inFlight") == 0
            })
            .await;
        assert_eq!(stats.books("dropped"), 0, "{stats:?}");
        let accepted = accepted(&stack.sink);
        let collection = stack.service.error_collection()?;
        let text =
            |object: &serde_json::Value, name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let set_aside: BTreeSet<String> = collection
            .iter()
            .map(|object| text(object, "correlationId"))
            .collect();
        let reasons = collection.iter().map(|object| text(object, "reason"));
        let outcome = Outcome {
            seed: self.seed,
            events,
            missing: (0..events)
                .map(event_id)
                .filter(|id| !accepted.contains_key(id) && !set_aside.contains(id))
                .collect(),
            set_aside: set_aside.len(),
            arrived_again: accepted.values().map(|times| times - 1).sum(),
            unacknowledged: sent_again(&mut stack.broker, &restarts),
            set_aside_for_other_reasons: reasons.filter(|reason| reason != "crashed").collect(),
            undone_writes,
        };
        tell(&outcome);
        Ok(outcome)
    }
}

/// A broker that also says what it sends.
async fn telling_broker() -> Result<Mosquitto> {
    let log = ["error", "warning", "notice", "subscribe", "debug"];
    let builder = log.iter().fold(Mosquitto::builder(), |builder, kind| {
        builder.config(&format!("log_type {kind}"))
    });
    builder.start().await.context("starting the broker")
}

/// What the destination is like for the time of a round, and what has come of the round's events.
#[derive(Default)]
struct Round {
    /// Ids ascend: the round's are not below this one.
    first_id: String,
    failing_of_100: u64,
    hangs: bool,
    requests: u64,
}

/// A destination that fails at random: most of what fails is refused, some is cut off, some never answered.
struct Destination(Arc<Mutex<Round>>);

impl Destination {
    fn behind(stack: &Stack, seed: u64) -> Self {
        let (mut random, round) = (Random(seed), Arc::<Mutex<Round>>::default());
        let shared = round.clone();
        stack.sink.script(move |request| {
            let mut round = round.lock().unwrap_or_else(PoisonError::into_inner);
            if exported_id(request).is_some_and(|id| id >= round.first_id) {
                round.requests += 1;
            }
            match random.below(100) {
                drawn if drawn >= round.failing_of_100 => Behaviour::status(200),
                drawn if drawn % 10 == 0 && round.hangs => Behaviour::Hang,
                drawn if drawn % 10 == 1 => Behaviour::Reset,
                _ => Behaviour::status(500),
            }
        });
        Self(shared)
    }

    fn begin_round(&self, round: Round) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = round;
    }

    /// How often it was asked for one of the round's events.
    fn requests(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).requests
    }
}

/// How many messages the broker sent again after each restart, given what it had said before each.
/// Mosquitto writes `Sending PUBLISH to <client> (d1, q1, r0, m<id>, …`.
fn sent_again(broker: &mut Mosquitto, restarts: &[usize]) -> Vec<usize> {
    let lines = broker.process().lines();
    let ends = restarts.iter().skip(1).copied().chain([lines.len()]);
    let again = |line: &&String| line.contains("Sending PUBLISH") && line.contains("(d1, ");
    restarts
        .iter()
        .zip(ends)
        .map(|(begin, end)| lines[*begin..end].iter().filter(again).count())
        .collect()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}, {} kills of {} events: {} missing, {} set aside; {} times one arrived again, of {} that were under way \
             at the kills (at most {} not acknowledged)",
            self.seed,
            self.unacknowledged.len(),
            self.events,
            self.missing.len(),
            self.set_aside,
            self.arrived_again,
            self.caught_under_way(),
            self.unacknowledged.iter().max().unwrap_or(&0),
        )?;
        if self.undone_writes > 0 {
            write!(f, "; {} writes undone", self.undone_writes)?;
        }
        match self.missing.first() {
            Some(id) => write!(f, "; the first that is missing is {id}"),
            None => Ok(()),
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the numbers are the finding, whether the test passes or not"
)]
fn tell(outcome: &Outcome) {
    println!("kill -9, {outcome}");
}
