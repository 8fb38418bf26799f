//! How many retried objects may be at a destination at a time.

/// Starts small; each good answer adds one, so that it doubles with each round; each bad one halves it.
#[derive(Debug)]
pub struct Limit(usize);

impl Default for Limit {
    fn default() -> Self {
        Self(Self::START)
    }
}

impl Limit {
    /// What it starts with.
    pub const START: usize = 4;

    /// The limit now, at least 1.
    pub fn now(&self) -> usize {
        self.0
    }

    /// A good answer. It grows up to `most`.
    pub fn grow(&mut self, most: usize) {
        self.0 = (self.0 + 1).min(most.max(1));
    }

    /// A bad answer.
    pub fn shrink(&mut self) {
        self.0 = (self.0 / 2).max(1);
    }
}
