//! From the task that polls to the one that takes: a bounded queue and the byte budget, without the polling task
//! ever waiting.
//!
//! Owns the backlog of what was read but found no room. Its size is what one read brings (at most ten packets, and no
//! more bytes than the socket's receive buffer plus one message), because nothing is read while it is not empty.

use std::collections::VecDeque;

use edgehold_core::{BoxFuture, ByteBudget, BytePermit, Incoming};
use tokio::sync::mpsc;

/// How many messages wait between the two tasks. Enough that a burst of small ones does not stop reading; their bytes
/// are bounded by the budget, not by this.
const QUEUE_CAPACITY: usize = 256;

type Turn = BoxFuture<'static, Option<(mpsc::OwnedPermit<Incoming>, BytePermit)>>;

/// See the module.
pub(crate) struct HandOver {
    queue: mpsc::Sender<Incoming>,
    budget: ByteBudget,
    backlog: VecDeque<Incoming>,
    /// Waits for room for the front of the backlog. Kept across turns, so that the place in the budget's line is not
    /// lost whenever something else happens first.
    turn: Option<Turn>,
}

impl HandOver {
    pub(crate) fn new(budget: ByteBudget) -> (Self, mpsc::Receiver<Incoming>) {
        let (queue, incoming) = mpsc::channel(QUEUE_CAPACITY);
        (
            Self {
                queue,
                budget,
                backlog: VecDeque::new(),
                turn: None,
            },
            incoming,
        )
    }

    /// Hands a message over now, or keeps it in the backlog.
    pub(crate) fn push(&mut self, message: Incoming) {
        self.backlog.push_back(message);
        self.hand_over_what_fits();
    }

    /// Whether something waits for room: then nothing more may be read.
    pub(crate) fn is_stalled(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Waits until nobody takes messages any more.
    pub(crate) fn nobody_takes(&self) -> impl Future<Output = ()> + Send + 'static {
        let queue = self.queue.clone();
        async move { queue.closed().await }
    }

    /// Waits until the oldest message of the backlog has been handed over, and whatever else fits then; waits for
    /// ever when there is none. Once nobody takes messages any more, drops the backlog. Cancel-safe.
    pub(crate) async fn advance(&mut self) {
        let Some(front) = self.backlog.front() else {
            return std::future::pending().await;
        };
        let turn = self.turn.get_or_insert_with(|| {
            let (queue, budget, weight) = (self.queue.clone(), self.budget.clone(), front.weight_bytes());
            Box::pin(async move {
                let permit = tokio::select! {
                    permit = budget.take(weight) => permit,
                    () = queue.closed() => return None,
                };
                Some((queue.reserve_owned().await.ok()?, permit))
            })
        });
        let room = turn.await;
        self.turn = None;
        match (room, self.backlog.pop_front()) {
            (Some((place, permit)), Some(message)) => {
                place.send(Incoming { permit, ..message });
                self.hand_over_what_fits();
            }
            _ => self.backlog.clear(),
        }
    }

    fn hand_over_what_fits(&mut self) {
        // Whoever waits in line must not be overtaken.
        if self.turn.is_some() {
            return;
        }
        while let Some(front) = self.backlog.front() {
            let Some(permit) = self.budget.try_take(front.weight_bytes()) else {
                return;
            };
            let Ok(place) = self.queue.try_reserve() else {
                return;
            };
            if let Some(message) = self.backlog.pop_front() {
                place.send(Incoming { permit, ..message });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use edgehold_core::{Ack, Body};
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn message(payload: &'static [u8]) -> Incoming {
        Incoming {
            topic: String::new(),
            body: Body::Whole(Bytes::from_static(payload)),
            ack: Ack::none(),
            permit: BytePermit::none(),
        }
    }

    fn payload(incoming: &Incoming) -> &[u8] {
        match &incoming.body {
            Body::Whole(payload) => payload,
            Body::SetAside { .. } => panic!("set aside"),
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_the_budget_waits_in_order_and_moves_on_when_bytes_come_back() {
        // Given room for one message
        let one = u32::try_from(message(b"1").weight_bytes()).unwrap();
        let (mut hand_over, mut incoming) = HandOver::new(ByteBudget::new(one));
        for payload in [b"1", b"2", b"3"] {
            hand_over.push(message(payload));
        }
        assert!(hand_over.is_stalled());

        // When a wait is dropped and taken up again while messages are taken one by one
        for expected in [b"1", b"2", b"3"] {
            let taken = incoming.recv().await.expect("a message");
            assert_eq!(payload(&taken), expected);
            assert!(
                incoming.try_recv().is_err(),
                "more in hand than the budget allows"
            );
            if hand_over.is_stalled() {
                assert!(timeout(Duration::ZERO, hand_over.advance()).await.is_err());
                drop(taken);
                timeout(LONG, hand_over.advance())
                    .await
                    .expect("the bytes came back");
            }
        }

        // Then nothing is left
        assert!(!hand_over.is_stalled());
    }

    #[tokio::test]
    async fn a_full_queue_stalls_and_keeps_everything() {
        let (mut hand_over, mut incoming) = HandOver::new(ByteBudget::new(u32::MAX / 16));
        for _ in 0..QUEUE_CAPACITY + 2 {
            hand_over.push(message(b"x"));
        }
        assert!(hand_over.is_stalled());
        for _ in 0..2 {
            incoming.recv().await.expect("a message");
        }
        timeout(LONG, hand_over.advance())
            .await
            .expect("the queue has room");
        assert!(!hand_over.is_stalled());
        drop(hand_over);
        let mut rest = 0;
        while incoming.recv().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, QUEUE_CAPACITY);
    }

    #[tokio::test]
    async fn when_nobody_takes_messages_the_backlog_is_abandoned_instead_of_stalling_for_ever() {
        let (mut hand_over, incoming) = HandOver::new(ByteBudget::new(1));
        let held = hand_over.budget.try_take(1);
        hand_over.push(message(b"x"));
        drop(incoming);
        timeout(LONG, hand_over.nobody_takes())
            .await
            .expect("the receiver is gone");
        timeout(LONG, hand_over.advance()).await.expect("the wait ends");
        assert!(!hand_over.is_stalled());
        drop(held);
    }
}
