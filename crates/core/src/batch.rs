//! Batches: what a function says of items that go on together.
//!
//! The function decides by value ([`Batching`]); who waits, for how long, and what becomes of the items meanwhile belongs
//! to the runtime.

use std::{fmt, sync::Arc, time::Duration};

use crate::Data;

/// How the items of one function become one piece of data.
///
/// Contract: all items of one function instance are batched alike, so that whichever of them says so is right.
pub trait Batching: fmt::Debug + Send + Sync {
    /// Whether so many items need not wait any longer. `items` is at least 1.
    fn is_full(&self, items: usize) -> bool;

    /// How long after its first item a batch goes on that is not full; none when it waits until it is.
    fn window(&self) -> Option<Duration>;

    /// What goes on to the next function instead of these items, of which there is at least one, in the order they came.
    fn combine(&self, items: Vec<Data>) -> Data;
}

/// One item, and how it is batched.
#[derive(Clone, Debug)]
pub struct BatchItem {
    /// The item. The same function makes the same item of it again: that is how it comes back after a restart.
    pub data: Data,
    /// What becomes of it and the others.
    pub batching: Arc<dyn Batching>,
}
