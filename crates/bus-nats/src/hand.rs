//! The messages of a stream that are in hand: what is said to the server about each of them.
//!
//! Owns the answers: done, not done, still at it. Says nothing by itself; whoever has the connection takes the answers
//! from here. Knows no clock.
//!
//! ```text
//!  received ──► in hand ──► done: +ACK ──► remembered for a while
//!                  │  └── abandoned: -NAK
//!                  └── every third of the server's patience: +WPI
//! ```
//!
//! A message that comes again while it is in hand joins: it is answered when the first is done, to where the second one
//! came from. One that comes again after that was acknowledged, but the answer was lost: it is answered once more and
//! not run again.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use edgehold_core::{Ack, Disposition};
use tokio::sync::Notify;

/// How many of the messages that were done with are remembered.
const REMEMBERED: usize = 4096;

/// A message of a stream. Another stream of the same name counts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sequence {
    /// Which stream, of those this name has stood for.
    pub(crate) generation: u64,
    /// Which of its messages.
    pub(crate) number: u64,
}

/// What is said to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Where.
    pub(crate) to: String,
    /// What: `+ACK`, `-NAK` or `+WPI`.
    pub(crate) text: &'static str,
}

/// What a message that came is.
#[derive(Debug)]
pub(crate) enum Receipt {
    /// One to be handed over, with how to say that it is done.
    New(Ack),
    /// One that is in hand, or was: nothing is left to do.
    Again,
}

/// Shared between the connection and the acknowledgements, which come from any thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hand {
    ledger: Arc<Mutex<Ledger>>,
    told: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Ledger {
    /// Where the answer for each goes.
    in_hand: HashMap<Sequence, String>,
    done: HashSet<Sequence>,
    /// The members of `done`, oldest first.
    done_order: VecDeque<Sequence>,
    answers: VecDeque<Answer>,
}

impl Hand {
    /// Takes note of a message whose answer goes to `reply`.
    pub(crate) fn receive(&self, sequence: Sequence, reply: &str) -> Receipt {
        let mut ledger = self.lock();
        if ledger.done.contains(&sequence) {
            ledger.answer(reply.to_owned(), "+ACK");
            drop(ledger);
            self.told.notify_one();
            return Receipt::Again;
        }
        if ledger.in_hand.insert(sequence, reply.to_owned()).is_some() {
            return Receipt::Again;
        }
        drop(ledger);
        let hand = self.clone();
        Receipt::New(Ack::new(move |disposition| hand.settle(sequence, disposition)))
    }

    fn settle(&self, sequence: Sequence, disposition: Disposition) {
        let mut ledger = self.lock();
        let Some(reply) = ledger.in_hand.remove(&sequence) else {
            return;
        };
        match disposition {
            Disposition::Done => {
                ledger.remember(sequence);
                ledger.answer(reply, "+ACK");
            }
            Disposition::Abandoned => ledger.answer(reply, "-NAK"),
        }
        drop(ledger);
        self.told.notify_one();
    }

    /// Says of everything in hand that it is still being worked on.
    pub(crate) fn still_at_it(&self) {
        let mut ledger = self.lock();
        let replies: Vec<String> = ledger.in_hand.values().cloned().collect();
        for reply in replies {
            ledger.answer(reply, "+WPI");
        }
    }

    /// Takes the oldest answer.
    pub(crate) fn next_answer(&self) -> Option<Answer> {
        self.lock().answers.pop_front()
    }

    /// Whether nothing is in hand and everything has been answered.
    pub(crate) fn is_empty(&self) -> bool {
        let ledger = self.lock();
        ledger.in_hand.is_empty() && ledger.answers.is_empty()
    }

    /// Returns when there may be something to answer. Cancel-safe.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // No change is left half made by what can panic in here.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn answer(&mut self, to: String, text: &'static str) {
        self.answers.push_back(Answer { to, text });
    }

    fn remember(&mut self, sequence: Sequence) {
        if self.done.insert(sequence) {
            self.done_order.push_back(sequence);
        }
        if self.done_order.len() > REMEMBERED
            && let Some(oldest) = self.done_order.pop_front()
        {
            self.done.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u64) -> Sequence {
        Sequence {
            generation: 0,
            number,
        }
    }

    fn answers(hand: &Hand) -> Vec<(String, &'static str)> {
        let next = || hand.next_answer().map(|answer| (answer.to, answer.text));
        std::iter::from_fn(next).collect()
    }

    fn received(hand: &Hand, sequence: Sequence, reply: &str) -> Ack {
        match hand.receive(sequence, reply) {
            Receipt::New(ack) => ack,
            Receipt::Again => panic!("{sequence:?} is new"),
        }
    }

    #[test]
    fn a_message_is_answered_when_it_is_done_and_not_before() {
        let hand = Hand::default();
        let (first, second) = (received(&hand, number(1), "r1"), received(&hand, number(2), "r2"));
        assert!(answers(&hand).is_empty());
        second.done();
        assert_eq!(answers(&hand), [("r2".to_owned(), "+ACK")]);
        assert!(!hand.is_empty());
        drop(first);
        assert!(!hand.is_empty(), "the answer is still to be sent");
        assert_eq!(answers(&hand), [("r1".to_owned(), "-NAK")]);
        assert!(hand.is_empty());
    }

    #[test]
    fn one_that_comes_again_joins_and_after_its_end_is_only_answered_again() {
        let hand = Hand::default();
        let ack = received(&hand, number(1), "first");
        assert!(matches!(hand.receive(number(1), "second"), Receipt::Again));
        ack.done();
        assert_eq!(answers(&hand), [("second".to_owned(), "+ACK")]);
        assert!(matches!(hand.receive(number(1), "third"), Receipt::Again));
        assert_eq!(answers(&hand), [("third".to_owned(), "+ACK")]);

        // What was abandoned is to be run again, and so is the same number of another stream
        drop(received(&hand, number(2), "r"));
        received(&hand, number(2), "r").done();
        let other = Sequence {
            generation: 1,
            number: 1,
        };
        received(&hand, other, "r").done();
    }

    #[test]
    fn everything_in_hand_is_still_worked_on() {
        let hand = Hand::default();
        let ack = received(&hand, number(1), "r1");
        hand.still_at_it();
        assert_eq!(answers(&hand), [("r1".to_owned(), "+WPI")]);
        ack.done();
        answers(&hand);
        hand.still_at_it();
        assert!(answers(&hand).is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let hand = Hand::default();
        for next in 0..=REMEMBERED as u64 {
            received(&hand, number(next), "r").done();
        }
        answers(&hand);
        assert!(matches!(hand.receive(number(1), "r"), Receipt::Again));
        assert!(matches!(hand.receive(number(0), "r"), Receipt::New(_)));
    }
}
