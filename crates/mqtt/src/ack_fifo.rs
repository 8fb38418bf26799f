//! Which acknowledgements may go out, in which order, over which connection.
//!
//! Owns the deliveries that a broker still waits for: their order of receipt in the current connection, what became
//! of each, and whether a redelivery is one of them. Does not own the connection: nothing in here reads or writes.
//!
//! MQTT wants PUBACKs in the order in which the PUBLISH packets came (3.1.1 §4.6), while deliveries finish in any
//! order. So each receipt of the current connection has a place in `order`, and [`AckFifo::release`] gives out the
//! finished prefix:
//!
//! ```text
//!  receive ──► running ──done──────► released once all before it are out
//!                 │
//!                 └────abandoned───► leaves its place without an acknowledgement, holding nobody back
//! ```
//!
//! A connection that breaks ends an *epoch*. Packet ids belong to the epoch in which they came, so the places of an
//! old epoch are gone; what remains is the knowledge of the deliveries still in hand. When the broker kept the
//! session, it sends each of them again with the same packet id and the DUP flag. Such a redelivery *joins* the
//! delivery that is in hand, even a finished one that waited for a place in front of it: it gets a place in the new
//! epoch and the outcome of the old delivery, and nothing is processed twice.
//!
//! A redelivery is recognised by packet id, DUP flag and a fingerprint of topic and payload, and only while the
//! delivery it repeats has not been released. After that the broker may have given the id to another message with the
//! same content, which must not be mistaken for the old one: better processed twice than never.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use edgehold_core::Disposition;

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const ABANDONED: u8 = 2;

/// What became of one delivery, shared between the place that waits for it and the acknowledgement that tells it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome(Arc<AtomicU8>);

impl Outcome {
    /// Tells it. Never blocks; the first word counts.
    pub(crate) fn tell(&self, disposition: Disposition) {
        let told = match disposition {
            Disposition::Done => DONE,
            Disposition::Abandoned => ABANDONED,
        };
        // Release, so that whoever acknowledges has seen what was done before.
        let _ = self
            .0
            .compare_exchange(RUNNING, told, Ordering::Release, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

/// The packet that acknowledges a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// To a QoS 1 message with this packet id.
    PubAck(u16),
    /// To a QoS 2 message with this packet id. Never subscribed for, but an old session may still hold some.
    PubRec(u16),
}

impl Reply {
    fn packet_id(self) -> u16 {
        match self {
            Self::PubAck(packet_id) | Self::PubRec(packet_id) => packet_id,
        }
    }
}

/// What a received message is.
#[derive(Debug)]
pub(crate) enum Receipt {
    /// A delivery of its own; its outcome is awaited.
    New(Outcome),
    /// One more copy of a delivery that is in hand: nothing to process.
    Joined,
}

/// A delivery that is in hand, under the packet id the broker knows it by.
#[derive(Debug)]
struct InHand {
    epoch: u64,
    fingerprint: u64,
    outcome: Outcome,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct AckFifo {
    epoch: u64,
    order: VecDeque<(Reply, Outcome)>,
    in_hand: HashMap<u16, InHand>,
}

impl AckFifo {
    /// A new connection stands. Replies of the former one are dropped; without its session the broker will not
    /// redeliver either, so nothing can join.
    pub(crate) fn connected(&mut self, session_present: bool) {
        self.epoch += 1;
        self.order.clear();
        if !session_present {
            self.in_hand.clear();
        }
    }

    /// A message that wants a reply has come.
    pub(crate) fn receive(&mut self, reply: Reply, dup: bool, fingerprint: u64) -> Receipt {
        let packet_id = reply.packet_id();
        if dup
            && let Some(known) = self.in_hand.get_mut(&packet_id)
            && known.fingerprint == fingerprint
            && known.outcome.get() != ABANDONED
        {
            // A second copy within one connection already has its place.
            if known.epoch != self.epoch {
                known.epoch = self.epoch;
                self.order.push_back((reply, known.outcome.clone()));
            }
            return Receipt::Joined;
        }
        let outcome = Outcome::default();
        let in_hand = InHand {
            epoch: self.epoch,
            fingerprint,
            outcome: outcome.clone(),
        };
        self.in_hand.insert(packet_id, in_hand);
        self.order.push_back((reply, outcome.clone()));
        Receipt::New(outcome)
    }

    /// The next reply that may be sent now, if any. Given out once.
    pub(crate) fn release(&mut self) -> Option<Reply> {
        loop {
            let (reply, outcome) = self.order.front()?;
            let (reply, told) = (*reply, outcome.get());
            if told == RUNNING {
                return None;
            }
            let (_, outcome) = self.order.pop_front()?;
            // Only if the id has not been given to another message meanwhile.
            if self
                .in_hand
                .get(&reply.packet_id())
                .is_some_and(|known| Arc::ptr_eq(&known.outcome.0, &outcome.0))
            {
                self.in_hand.remove(&reply.packet_id());
            }
            if told == DONE {
                return Some(reply);
            }
        }
    }

    /// Whether no receipt of this connection waits for its outcome or its reply.
    pub(crate) fn is_settled(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests;
