use uuid::Uuid;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> DestinationPolicy {
    DestinationPolicy {
        breaker: true,
        interval: 300 * SECOND,
        max_interval: 3600 * SECOND,
        concurrency: 64,
        retry_concurrency: 64,
        retry_rate: None,
        fresh_share: 0.5,
    }
}

fn id(number: usize) -> StoredObjectId {
    StoredObjectId::from_uuid(Uuid::from_u128(number as u128))
}

const FAILED: Answer = Answer::Failed { leave_alone: None };

/// A destination, the policy and the time, with visits that end at once.
struct There {
    state: DestinationState,
    policy: DestinationPolicy,
    now: Duration,
}

impl There {
    fn new() -> Self {
        Self {
            state: DestinationState::default(),
            policy: policy(),
            now: 1000 * SECOND,
        }
    }

    /// A destination that has just stopped answering.
    fn open() -> Self {
        let mut there = Self::new();
        for number in 0..Breaker::OPENS_AFTER {
            there.fresh(number, FAILED);
        }
        assert!(there.state.is_open(&there.policy));
        there
    }

    fn enter(&mut self, unsent: Unsent) -> Entry {
        self.state.enter_fresh(unsent, &self.policy, self.now)
    }

    fn leave(&mut self, visit: Visit, number: usize, answer: Answer) -> Change {
        self.state
            .leave(visit, || id(number), answer, &self.policy, self.now)
    }

    /// A fresh visit of what is kept, refused or not.
    #[track_caller]
    fn fresh(&mut self, number: usize, answer: Answer) -> Change {
        match self.enter(Unsent::Kept) {
            Entry::Begun(visit) => self.leave(visit, number, answer),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn retried(&mut self, number: usize, answer: Answer) -> Change {
        let visit = self.state.enter_retried(&self.policy, self.now).unwrap();
        self.leave(visit, number, answer)
    }

    fn refused_until(&mut self) -> Option<Duration> {
        match self.enter(Unsent::Kept) {
            Entry::Begun(visit) => {
                let _ = self.leave(visit, 0, Answer::Unknown);
                None
            }
            Entry::Refused(until) => Some(until),
            Entry::Full => panic!("full"),
        }
    }

    fn room(&self) -> usize {
        self.state.room(&self.policy, self.now)
    }
}

#[test]
fn it_opens_after_sixteen_different_objects_in_a_row() {
    let mut there = There::new();
    for number in 0..15 {
        assert_eq!(there.fresh(number, FAILED), Change::None);
    }
    assert_eq!(there.refused_until(), None);
    assert_eq!(there.retried(15, FAILED), Change::Opened);
    assert_eq!(there.refused_until(), Some(there.now + 30 * SECOND));
    assert_eq!(there.room(), 0);
}

#[test]
fn an_object_that_is_alone_is_never_held_up() {
    let mut there = There::new();
    for attempt in 0..1000 {
        assert_eq!(there.retried(7, FAILED), Change::None, "{attempt}");
    }
}

#[test]
fn any_answer_begins_a_new_row_and_closes() {
    for answer in [Answer::Accepted, Answer::Declined] {
        let mut there = There::new();
        for number in 0..15 {
            there.fresh(number, FAILED);
        }
        there.fresh(15, answer);
        for number in 16..31 {
            assert_eq!(there.fresh(number, FAILED), Change::None, "{answer:?}");
        }
        assert_eq!(there.fresh(31, FAILED), Change::Opened);
        there.now += 30 * SECOND;
        assert_eq!(there.fresh(32, answer), Change::Closed);
        assert_eq!(there.refused_until(), None);
    }
}

#[test]
fn what_says_nothing_of_the_destination_changes_nothing() {
    let mut there = There::new();
    for number in 0..100 {
        assert_eq!(there.fresh(number, Answer::Unknown), Change::None);
    }
    let mut there = There::open();
    there.now += 30 * SECOND;
    assert_eq!(there.fresh(99, Answer::Unknown), Change::None);
    assert!(there.state.is_open(&there.policy));
}

#[test]
fn one_probe_at_a_time_fresh_or_retried_whichever_comes_first() {
    let mut there = There::open();
    for _ in 0..5 {
        there.now += 30 * SECOND;
        assert_eq!(there.room(), 1);
        let Entry::Begun(probe) = there.enter(Unsent::Kept) else {
            panic!("the probe must pass");
        };
        assert_eq!(there.room(), 0);
        assert!(there.refused_until().is_some());
        there.now += 10 * SECOND;
        assert!(there.refused_until().is_some());
        assert_eq!(there.leave(probe, 50, FAILED), Change::None);
        assert_eq!(
            there.refused_until(),
            Some(there.now + 20 * SECOND),
            "the pause counts from the beginning of the probe"
        );
        there.now += 20 * SECOND;
        there.retried(51, FAILED);
        assert_eq!(there.room(), 0);
    }
}

#[test]
fn a_probe_that_was_broken_off_is_followed_by_another() {
    let mut there = There::open();
    there.now += 30 * SECOND;
    there.fresh(50, Answer::Unknown);
    there.now += 30 * SECOND;
    assert_eq!(there.fresh(51, Answer::Accepted), Change::Closed);
}

#[test]
fn a_short_interval_probes_as_often_and_a_shorter_one_acts_at_once() {
    let mut there = There::open();
    there.now += 2 * SECOND;
    assert_eq!(there.refused_until(), Some(there.now + 28 * SECOND));
    there.policy.interval = SECOND;
    assert_eq!(there.refused_until(), None);
}

#[test]
fn what_nobody_keeps_is_never_refused_and_its_answer_counts() {
    let mut there = There::open();
    let Entry::Begun(visit) = there.enter(Unsent::Lost) else {
        panic!("refused");
    };
    assert_eq!(there.leave(visit, 77, Answer::Accepted), Change::Closed);
    there.retried(
        1,
        Answer::Failed {
            leave_alone: Some(60 * SECOND),
        },
    );
    assert!(matches!(there.enter(Unsent::Lost), Entry::Begun(_)));
}

#[test]
fn switched_off_it_never_opens_and_lets_all_through() {
    let mut there = There::open();
    there.policy.breaker = false;
    assert_eq!(there.refused_until(), None);
    for number in 0..100 {
        assert_eq!(there.fresh(number, FAILED), Change::None);
    }
    there.policy.breaker = true;
    assert_eq!(there.refused_until(), None);
}

#[test]
fn a_destination_that_asks_for_it_is_left_alone_for_so_long() {
    let mut there = There::new();
    for (asked, left_alone) in [(10, 10), (7200, 3600)] {
        let answer = Answer::Failed {
            leave_alone: Some(asked * SECOND),
        };
        there.fresh(1, answer);
        let until = there.now + left_alone * SECOND;
        assert_eq!(there.refused_until(), Some(until));
        assert_eq!(there.state.ready_at(&there.policy, there.now), until);
        assert_eq!(there.room(), 0);
        there.now = until;
        assert_eq!(there.refused_until(), None);
        assert!(there.room() > 0);
    }
}

#[test]
fn fresh_visits_are_bounded_and_wait() {
    let mut there = There::new();
    there.policy.concurrency = 2;
    let Entry::Begun(first) = there.enter(Unsent::Kept) else {
        panic!("full");
    };
    assert!(matches!(there.enter(Unsent::Lost), Entry::Begun(_)));
    for unsent in [Unsent::Kept, Unsent::Lost] {
        assert!(matches!(there.enter(unsent), Entry::Full));
    }
    let _ = there.leave(first, 1, Answer::Unknown);
    assert!(matches!(there.enter(Unsent::Kept), Entry::Begun(_)));
}

#[test]
fn retried_ones_begin_with_few_double_each_round_and_halve() {
    let mut there = There::new();
    let mut rounds = Vec::new();
    for _ in 0..6 {
        let round = there.room();
        let visits: Vec<_> = (0..round)
            .map(|_| there.state.enter_retried(&there.policy, there.now).unwrap())
            .collect();
        assert_eq!(there.room(), 0);
        assert!(there.state.enter_retried(&there.policy, there.now).is_err());
        for (number, visit) in visits.into_iter().enumerate() {
            let _ = there.leave(visit, number, Answer::Accepted);
        }
        rounds.push(round);
    }
    assert_eq!(rounds, [4, 8, 16, 32, 64, 64]);
    there.retried(1, FAILED);
    assert_eq!(there.room(), 32);
    there.retried(2, Answer::Declined);
    assert_eq!(there.room(), 32);
    for number in 0..10 {
        there.retried(number, FAILED);
    }
    assert_eq!(there.room(), 1);
}

#[test]
fn fresh_ones_keep_as_much_of_their_share_as_they_need() {
    let mut there = There::new();
    for number in 0..200 {
        there.retried(number, Answer::Accepted);
    }
    for (share, at_a_time, room) in [
        (0.0, 40, 64),
        (0.25, 3, 61),
        (0.25, 40, 48),
        (0.5, 3, 61),
        (0.5, 40, 32),
        (0.99, 40, 24),
        (0.99, 64, 1),
        (1.0, 64, 1),
    ] {
        there.policy.fresh_share = share;
        let visits: Vec<_> = (0..at_a_time)
            .map(|_| match there.enter(Unsent::Kept) {
                Entry::Begun(visit) => visit,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(there.room(), room, "{share}, {at_a_time} there");
        for visit in visits {
            let _ = there.leave(visit, 1, Answer::Accepted);
        }
        assert_eq!(there.room(), room, "{share}, {at_a_time} were there");
        there.now += SECOND / 2;
        assert_eq!(there.room(), room, "{share}, {at_a_time} were there lately");
        there.now += 2 * SECOND;
        assert_eq!(there.room(), 64, "nothing fresh for a while");
    }
}

#[test]
fn what_fresh_ones_need_is_remembered_while_they_flow() {
    let mut there = There::new();
    for number in 0..200 {
        there.retried(number, Answer::Accepted);
    }
    let Entry::Begun(first) = there.enter(Unsent::Kept) else {
        panic!("full");
    };
    there.fresh(2, Answer::Accepted);
    let _ = there.leave(first, 1, Answer::Accepted);
    // Two at a time once, then one at a time for ever.
    for (quarters, room) in [(0, 62), (1, 62), (4, 62), (8, 63), (100, 63)] {
        let until = 1000 * SECOND + quarters * SECOND / 4;
        while there.now < until {
            there.now += SECOND / 4;
            there.fresh(3, Answer::Accepted);
        }
        assert_eq!(there.room(), room, "after {quarters} quarters of a second");
    }
}

#[test]
fn at_most_so_many_a_second() {
    for rate in [0.5, 1.0, 7.0, 250.0] {
        let mut there = There::new();
        there.policy.retry_rate = Some(rate);
        there.state.limit = Limit::default();
        let begin = there.now;
        let mut sent = 0_u32;
        while there.now < begin + 20 * SECOND {
            let ready = there.state.ready_at(&there.policy, there.now);
            if ready > there.now {
                assert_eq!(there.room(), 0, "{rate}");
                there.now = ready;
            }
            assert!(there.room() >= 1, "{rate}");
            for _ in 0..there.room() {
                there.retried(1, Answer::Accepted);
                sent += 1;
            }
        }
        let (sent, wanted) = (f64::from(sent), rate * 20.0);
        let saved = (rate / 10.0).max(1.0);
        assert!(
            sent <= wanted + 2.0 * saved + 1.0 && sent >= wanted - 1.0,
            "{rate}: {sent}"
        );
    }
}

/// Random visits, ends and moments: what must hold at every step.
#[test]
fn whatever_happens_the_bounds_hold() {
    for seed in 1..200_u64 {
        let mut random = seed;
        let mut next = move |below: usize| {
            // Xorshift: enough to try many orders of things.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below as u64).unwrap()
        };
        let mut there = There::new();
        there.policy.concurrency = 1 + next(20);
        there.policy.retry_concurrency = 1 + next(20);
        there.policy.interval = SECOND * u32::try_from(1 + next(60)).unwrap();
        let mut inside: Vec<(Visit, usize)> = Vec::new();
        let mut probe_began: Option<Duration> = None;
        for number in 0..400 {
            there.now += Duration::from_millis(next(3000) as u64);
            let open = there.state.is_open(&there.policy);
            let entered = match next(4) {
                0 => match there.enter(Unsent::Kept) {
                    Entry::Begun(visit) => Some(visit),
                    Entry::Full => {
                        assert!(there.state.fresh >= there.policy.concurrency);
                        None
                    }
                    Entry::Refused(until) => {
                        assert!(until > there.now);
                        None
                    }
                },
                1 => {
                    let room = there.room();
                    let visit = there.state.enter_retried(&there.policy, there.now).ok();
                    assert_eq!(visit.is_some(), room > 0, "seed {seed}");
                    visit
                }
                _ => {
                    if !inside.is_empty() {
                        let (visit, number) = inside.swap_remove(next(inside.len()));
                        let answer = [FAILED, FAILED, FAILED, Answer::Accepted, Answer::Unknown][next(5)];
                        let _ = there.leave(visit, number, answer);
                    }
                    None
                }
            };
            if let Some(visit) = entered {
                assert_eq!(visit.probe, open, "seed {seed}");
                if open {
                    let pause = there.policy.interval.min(Breaker::LONGEST_PAUSE);
                    assert!(
                        inside.iter().all(|(other, _)| !other.probe) || !there.state.breaker.is_open(),
                        "seed {seed}: two probes"
                    );
                    if let Some(before) = probe_began.filter(|_| open) {
                        assert!(there.now >= before + pause, "seed {seed}: probed too soon");
                    }
                    probe_began = Some(there.now);
                }
                inside.push((visit, number));
            }
            if !there.state.is_open(&there.policy) {
                probe_began = None;
            }
            let retried = inside.iter().filter(|(visit, _)| visit.retried).count();
            assert_eq!(there.state.retried, retried);
            assert_eq!(there.state.fresh, inside.len() - retried);
            assert!(there.state.fresh <= there.policy.concurrency);
            assert!(retried <= there.policy.retry_concurrency.max(Limit::START));
        }
    }
}
