//! What a connection hands to a trigger: one message as it was received, and how the connection stands.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::{Ack, BytePermit};

/// What a message costs beside its topic and payload: queue places, the acknowledgement, allocator overhead.
const FIXED_WEIGHT_BYTES: usize = 256;

/// Smaller contents are copied out of the read buffer, which they share with their neighbours: one message that stays
/// would keep all of it, and the byte budget would count a fraction of what is held.
const COPY_BELOW_BYTES: usize = 64 * 1024;

/// The content of a received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// It was larger than the largest message allowed (`MaxMessageBytes`) and has been dropped. It can be told of, and has
    /// to be acknowledged: otherwise it is delivered again for ever.
    SetAside {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl Body {
    /// The content of a message, set aside when it is larger than `limit` bytes. `content` may share a read buffer.
    pub fn new(content: Bytes, limit: usize) -> Self {
        match content.len() {
            bytes if bytes > limit => Self::SetAside { bytes, limit },
            bytes if bytes < COPY_BELOW_BYTES => Self::Whole(Bytes::copy_from_slice(&content)),
            _ => Self::Whole(content),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Whole(content) => content.len(),
            Self::SetAside { .. } => 0,
        }
    }
}

/// One received message.
#[derive(Debug)]
pub struct Incoming {
    /// The topic it was published to.
    pub topic: String,
    /// Its content.
    pub body: Body,
    /// To be used when the message is done with. Where the source wants no answer, it does nothing.
    pub ack: Ack,
    /// Its part of the byte budget.
    pub permit: BytePermit,
}

impl Incoming {
    /// What it takes of the byte budget.
    pub fn weight_bytes(&self) -> usize {
        self.body.held_bytes() + self.topic.len() + FIXED_WEIGHT_BYTES
    }
}

/// What a source that keeps nothing has lost before anybody took it in. Shared by the connection, which counts, and
/// whoever tells of it.
#[derive(Debug, Default)]
pub struct ReceptionLoss {
    messages: AtomicU64,
    gaps: AtomicU64,
}

impl ReceptionLoss {
    /// So many messages came and were dropped, because there was no room for them.
    pub fn dropped(&self, messages: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
    }

    /// For a time nothing was received, and nobody knows how much was published meanwhile.
    pub fn gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages that came and were dropped.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Times in which messages may have been lost without a count.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// There is no connection; it is being tried again.
    Disconnected,
    /// Connected, but not everything that is to be subscribed is, or more is than should be.
    Connected,
    /// Connected, with exactly the subscriptions it should have (refused ones are logged).
    Subscribed,
}
