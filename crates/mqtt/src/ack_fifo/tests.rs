use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NOTHING: [u16; 0] = [];

fn fifo() -> AckFifo {
    let mut fifo = AckFifo::default();
    fifo.connected(false);
    fifo
}

#[track_caller]
fn new(fifo: &mut AckFifo, packet_id: u16, dup: bool, fingerprint: u64) -> Outcome {
    match fifo.receive(Reply::PubAck(packet_id), dup, fingerprint) {
        Receipt::New(outcome) => outcome,
        Receipt::Joined => panic!("packet {packet_id} joined a delivery in hand"),
    }
}

#[track_caller]
fn joined(fifo: &mut AckFifo, packet_id: u16, fingerprint: u64) {
    let receipt = fifo.receive(Reply::PubAck(packet_id), true, fingerprint);
    assert!(
        matches!(receipt, Receipt::Joined),
        "packet {packet_id} joined nothing"
    );
}

fn released(fifo: &mut AckFifo) -> Vec<u16> {
    std::iter::from_fn(|| fifo.release())
        .map(Reply::packet_id)
        .collect()
}

fn done(outcome: &Outcome) {
    outcome.tell(Disposition::Done);
}

#[test]
fn every_order_of_finishing_is_acknowledged_in_the_order_of_receipt() {
    // Given four deliveries, for each of the 24 orders in which they may finish
    for order in permutations(vec![0, 1, 2, 3]) {
        let mut fifo = fifo();
        let outcomes: Vec<_> = (1..=4).map(|id| new(&mut fifo, id, false, id.into())).collect();
        let mut finished = [false; 4];
        let mut replies = Vec::new();

        // When they finish one by one
        for index in order {
            done(&outcomes[index]);
            finished[index] = true;
            replies.extend(released(&mut fifo));

            // Then exactly the finished prefix has been released
            let prefix = finished.iter().take_while(|finished| **finished).count();
            assert_eq!(replies, (1..=4).take(prefix).collect::<Vec<_>>());
        }
        assert!(fifo.is_settled());
    }
}

fn permutations(items: Vec<usize>) -> Vec<Vec<usize>> {
    if items.len() < 2 {
        return vec![items];
    }
    (0..items.len())
        .flat_map(|index| {
            let mut rest = items.clone();
            let first = rest.remove(index);
            permutations(rest).into_iter().map(move |mut tail| {
                tail.insert(0, first);
                tail
            })
        })
        .collect()
}

#[test]
fn a_finished_delivery_waits_for_the_one_before_it() {
    let mut fifo = fifo();
    let first = new(&mut fifo, 1, false, 1);
    let second = new(&mut fifo, 2, false, 2);
    done(&second);
    assert_eq!(released(&mut fifo), NOTHING);
    done(&first);
    assert_eq!(released(&mut fifo), [1, 2]);
}

#[test]
fn an_abandoned_delivery_is_never_acknowledged_and_holds_nobody_back() {
    let mut fifo = fifo();
    let first = new(&mut fifo, 1, false, 1);
    let second = new(&mut fifo, 2, false, 2);
    first.tell(Disposition::Abandoned);
    done(&second);
    assert_eq!(released(&mut fifo), [2]);

    // And its redelivery is a delivery of its own
    fifo.connected(true);
    let again = new(&mut fifo, 1, true, 1);
    done(&again);
    assert_eq!(released(&mut fifo), [1]);
}

#[test]
fn the_first_word_about_a_delivery_counts() {
    let mut fifo = fifo();
    let first = new(&mut fifo, 1, false, 1);
    done(&first);
    first.tell(Disposition::Abandoned);
    assert_eq!(released(&mut fifo), [1]);
    done(&first);
    assert_eq!(released(&mut fifo), NOTHING);
}

#[test]
fn an_acknowledgement_of_an_old_connection_is_dropped() {
    for session_present in [false, true] {
        let mut fifo = fifo();
        let old = new(&mut fifo, 1, false, 1);
        fifo.connected(session_present);
        done(&old);
        assert_eq!(released(&mut fifo), NOTHING, "session present: {session_present}");
        assert!(fifo.is_settled());
    }
}

#[test]
fn a_redelivery_joins_the_running_delivery_and_is_acknowledged_when_that_ends() {
    let mut fifo = fifo();
    let running = new(&mut fifo, 7, false, 70);
    fifo.connected(true);
    joined(&mut fifo, 7, 70);
    assert_eq!(released(&mut fifo), NOTHING);
    done(&running);
    assert_eq!(released(&mut fifo), [7]);
}

#[test]
fn a_redelivery_joins_through_several_connections() {
    let mut fifo = fifo();
    let running = new(&mut fifo, 7, false, 70);
    for _ in 0..3 {
        fifo.connected(true);
        joined(&mut fifo, 7, 70);
    }
    // Also when one connection ended before the redelivery came
    fifo.connected(true);
    fifo.connected(true);
    joined(&mut fifo, 7, 70);
    done(&running);
    assert_eq!(released(&mut fifo), [7]);
}

#[test]
fn a_delivery_that_finished_behind_a_running_one_is_acknowledged_on_redelivery_at_once() {
    let mut fifo = fifo();
    let first = new(&mut fifo, 1, false, 1);
    let second = new(&mut fifo, 2, false, 2);
    done(&second);
    assert_eq!(released(&mut fifo), NOTHING);

    // When the broker redelivers in another order than before
    fifo.connected(true);
    joined(&mut fifo, 2, 2);
    joined(&mut fifo, 1, 1);
    assert_eq!(released(&mut fifo), [2]);
    done(&first);
    assert_eq!(released(&mut fifo), [1]);
}

#[test]
fn a_second_copy_within_one_connection_joins_and_is_acknowledged_once() {
    let mut fifo = fifo();
    let running = new(&mut fifo, 3, false, 30);
    joined(&mut fifo, 3, 30);
    done(&running);
    assert_eq!(released(&mut fifo), [3]);
}

#[test]
fn what_only_looks_alike_does_not_join() {
    // Given a delivery in hand when the connection broke
    let carried = |session_present| {
        let mut fifo = fifo();
        let outcome = new(&mut fifo, 5, false, 50);
        fifo.connected(session_present);
        (fifo, outcome)
    };

    // Then these are others: no DUP flag, other content, a session that was lost
    for (session_present, dup, fingerprint) in [(true, false, 50), (true, true, 51), (false, true, 50)] {
        let (mut fifo, old) = carried(session_present);
        let other = new(&mut fifo, 5, dup, fingerprint);
        done(&old);
        assert_eq!(released(&mut fifo), NOTHING);
        done(&other);
        assert_eq!(released(&mut fifo), [5]);
    }
}

#[test]
fn after_its_acknowledgement_a_message_with_the_same_content_is_new() {
    let mut fifo = fifo();
    done(&new(&mut fifo, 5, false, 50));
    assert_eq!(released(&mut fifo), [5]);
    fifo.connected(true);
    new(&mut fifo, 5, true, 50);
}

#[test]
fn an_id_given_to_another_message_too_early_costs_neither_its_reply() {
    let mut fifo = fifo();
    let first = new(&mut fifo, 5, false, 50);
    let second = new(&mut fifo, 5, false, 51);
    done(&first);
    assert_eq!(released(&mut fifo), [5]);
    fifo.connected(true);
    joined(&mut fifo, 5, 51);
    done(&second);
    assert_eq!(released(&mut fifo), [5]);
}

#[derive(Clone, Debug)]
enum Step {
    /// The broker sends its next message.
    Send,
    /// The n-th delivery in hand ends.
    Finish { index: usize, done: bool },
    /// What may be acknowledged is sent, and reaches the broker or not.
    Reply { arrives: bool },
    /// The connection breaks; the broker keeps the session or not, and redelivers this many before it breaks again.
    Break {
        session_present: bool,
        redelivered: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Send),
        4 => (0..8_usize, prop::bool::weighted(0.9)).prop_map(|(index, done)| Step::Finish { index, done }),
        3 => prop::bool::weighted(0.8).prop_map(|arrives| Step::Reply { arrives }),
        1 => (prop::bool::weighted(0.8), 0..6_usize)
            .prop_map(|(session_present, redelivered)| Step::Break { session_present, redelivered }),
    ];
    prop::collection::vec(step, 1..120)
}

/// A broker with a session, and a service that processes what the fifo calls new.
struct World {
    fifo: AckFifo,
    /// Packet id → message, in the order of sending.
    unacknowledged: Vec<(u16, u64)>,
    next_message: u64,
    /// Message → its runs.
    runs: BTreeMap<u64, Vec<Outcome>>,
    /// Deliveries that have not ended.
    running: Vec<(u64, Outcome)>,
    /// Receipts of this connection.
    received: Vec<u16>,
    /// Acknowledgements of this connection.
    replied: Vec<u16>,
}

impl World {
    fn send(&mut self, packet_id: u16, message: u64, dup: bool) {
        let before = self.running.iter().any(|(running, _)| *running == message);
        self.received.push(packet_id);
        match self.fifo.receive(Reply::PubAck(packet_id), dup, message) {
            Receipt::New(outcome) => {
                assert!(!(before && dup), "message {message} runs twice at the same time");
                self.runs.entry(message).or_default().push(outcome.clone());
                self.running.push((message, outcome));
            }
            Receipt::Joined => assert!(dup && self.runs.contains_key(&message)),
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Send => {
                let free = (1..)
                    .find(|id| self.unacknowledged.iter().all(|(used, _)| used != id))
                    .unwrap();
                self.next_message += 1;
                self.unacknowledged.push((free, self.next_message));
                self.send(free, self.next_message, false);
            }
            Step::Finish { index, done } => {
                if !self.running.is_empty() {
                    let (_, outcome) = self.running.remove(index % self.running.len());
                    outcome.tell(if done {
                        Disposition::Done
                    } else {
                        Disposition::Abandoned
                    });
                }
            }
            Step::Reply { arrives } => self.reply(arrives),
            Step::Break {
                session_present,
                redelivered,
            } => {
                self.fifo.connected(session_present);
                self.received.clear();
                self.replied.clear();
                if session_present {
                    for (packet_id, message) in self.unacknowledged.clone().into_iter().take(redelivered) {
                        self.send(packet_id, message, true);
                    }
                    if redelivered < self.unacknowledged.len() {
                        self.apply(Step::Break {
                            session_present,
                            redelivered: usize::MAX,
                        });
                    }
                } else {
                    self.unacknowledged.clear();
                    // What is still running runs on, but nobody waits for it.
                    self.running.clear();
                }
            }
        }
    }

    fn reply(&mut self, arrives: bool) {
        for packet_id in released(&mut self.fifo) {
            self.replied.push(packet_id);
            let place = self.unacknowledged.iter().position(|(id, _)| *id == packet_id);
            let place = place.expect("an acknowledgement for something the broker does not wait for");
            let (_, message) = self.unacknowledged[place];
            let was_done = self.runs[&message].iter().any(|run| run.get() == DONE);
            assert!(was_done, "message {message} is acknowledged before it was done");
            if arrives {
                self.unacknowledged.remove(place);
            }
        }
        if !arrives {
            // A reply gets lost only with its connection.
            self.apply(Step::Break {
                session_present: true,
                redelivered: usize::MAX,
            });
        }
        let mut receipts = self.received.iter();
        let in_order = self
            .replied
            .iter()
            .all(|id| receipts.any(|received| received == id));
        assert!(
            in_order,
            "{:?} is not the order of {:?}",
            self.replied, self.received
        );
    }
}

proptest! {
    #[test]
    fn only_the_done_is_acknowledged_in_order_and_in_the_end_all_of_it(steps in steps()) {
        let mut world = World {
            fifo: fifo(),
            unacknowledged: Vec::new(),
            next_message: 0,
            runs: BTreeMap::new(),
            running: Vec::new(),
            received: Vec::new(),
            replied: Vec::new(),
        };
        for step in steps {
            world.apply(step);
        }

        // When the broker redelivers what it still waits for and everything ends well
        world.apply(Step::Break { session_present: true, redelivered: usize::MAX });
        while !world.running.is_empty() {
            world.apply(Step::Finish { index: 0, done: true });
        }
        world.apply(Step::Reply { arrives: true });

        // Then nothing is left
        prop_assert_eq!(world.unacknowledged, []);
        prop_assert!(world.fifo.is_settled());
        prop_assert!(world.fifo.in_hand.is_empty());
    }
}
